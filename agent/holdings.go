package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ss/agent/inventory"
	"ss/fault"
)

// inventoryIndex is the file in a member's part of an image set that holds its inventory.
const inventoryIndex = "inventory.json"

// takeInventory writes down what the members hold that CRIU does not put back. They stand still, and no CRIU is at their sockets yet.
func (w *work) takeInventory(ctx context.Context) error {
	w.holdings = make([]inventory.Inventory, len(w.members))
	return w.each(func(i int, m Member) error {
		pids, err := w.a.pids(ctx, m)
		if err == nil {
			w.holdings[i], err = inventory.TakeFrozen(ctx, pids)
		}
		if refusal := (*inventory.Refusal)(nil); errors.As(err, &refusal) {
			return fault.New(fault.Refused, refusal.Error(), "have the program read what waits there, and take the snapshot again")
		}
		if err != nil {
			return fmt.Errorf("take the inventory: %w", err)
		}
		return nil
	})
}

// indexInventory puts what a member held into its part of the image set.
func (w *work) indexInventory(i int, images string) error {
	text, err := json.Marshal(w.holdings[i])
	if err != nil {
		return fmt.Errorf("encode the inventory: %w", err)
	}
	return os.WriteFile(filepath.Join(filepath.Dir(images), inventoryIndex), text, 0o600)
}

// applyInventory gives the restored processes of a member, none of which runs yet, what they held at the cut and CRIU does not put back. What it
// cannot give them is named. Cuts of earlier versions have no inventory.
func (r *Restoration) applyInventory(ctx context.Context, rm *restoring) error {
	text, err := os.ReadFile(filepath.Join(r.unpacked(rm.part.Host), rm.member.Name, inventoryIndex))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var held inventory.Inventory
	if err := json.Unmarshal(text, &held); err != nil {
		return fmt.Errorf("read the inventory: %w", err)
	}
	pids, err := r.a.pids(ctx, rm.member)
	if err != nil {
		return err
	}
	left, err := held.Apply(ctx, pids)
	if err != nil {
		return fmt.Errorf("compare with the inventory: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range left {
		r.notices = append(r.notices, fmt.Sprintf("%s: %s", rm.member.Name, d))
	}
	return nil
}

// pids lists the processes of a member, as this host numbers them.
func (a *Agent) pids(ctx context.Context, m Member) ([]int, error) {
	processes, err := a.cfg.Cells.Processes(ctx, m)
	var pids []int
	for _, p := range processes {
		pids = append(pids, p.Pid)
	}
	return pids, err
}
