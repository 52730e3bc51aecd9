package orchestrator

import (
	"context"
	"fmt"

	"ss/fault"
	"ss/store/images"
)

// inTheWay refuses to import a cut of which somebody holds images that this catalogue did not begin: they may be of a cut that was committed, with another copy of the
// catalogue, and what an import that fails takes back would be theirs. What a dead import of this very cut has left may go.
func (im *importing) inTheWay(ctx context.Context) error {
	check := func(where string, key images.Key, epoch uint64) error {
		if key.Job != im.cut.Job || key.Snapshot != im.cut.ID {
			return nil
		}
		ended, err := im.c.Catalogue.EndedWithoutCut(ctx, key.Snapshot, epoch)
		if ended || err != nil {
			return err
		}
		return &fault.Error{Kind: fault.Conflict, Err: fmt.Errorf("%s holds images of %s that another copy of this catalogue began, and this one does not know whether they are a cut", where, im.cut.ID),
			Next: "use that other copy of the folder; or, if nobody needs those images, ssctl rm " + im.cut.ID + " --force"}
	}
	for _, h := range im.statuses {
		if h.Err != nil {
			continue
		}
		for _, k := range h.Info.InDoubt {
			if err := check(h.Name, k.Key, k.Epoch); err != nil {
				return err
			}
		}
	}
	for _, v := range im.vaults {
		err := im.c.OnVault(ctx, im.statuses, nil, func(a Agent) error {
			inv, err := a.Inventory(ctx, v, im.cut.Job)
			if err != nil || inv.hasCut(im.cut.ID) { // of another cluster, which has the vault, too: it stays
				return err
			}
			for _, s := range inv.Sets {
				if err := check(v, s.Key, s.Epoch); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
