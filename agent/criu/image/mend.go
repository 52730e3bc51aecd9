package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timerfd"
)

// mendTimer mends a periodic timer that had expired and was not read at the dump. The kernel starts such a timer again when it is read, and until
// then says that nothing is left of its time: CRIU takes that for a timer that was stopped, and it would never fire again. Mended, it is
// readable at once, as it was, and fires for the next time one interval later.
func mendTimer(t *timerfd.TimerfdEntry) bool {
	if t == nil || t.GetTicks() == 0 || t.GetVsec() != 0 || t.GetVnsec() != 0 || t.GetIsec() == 0 && t.GetInsec() == 0 {
		return false
	}
	sec, nsec := t.GetIsec(), t.GetInsec()
	t.Vsec, t.Vnsec = &sec, &nsec
	return true
}

// rootCore is the name of the image with the registers and signals of the tree's root.
func rootCore(dir string) (string, error) {
	tree, err := readTree(dir)
	if err != nil {
		return "", err
	}
	for _, p := range tree {
		if p.GetPpid() == 0 {
			return fmt.Sprintf("core-%d.img", p.GetPid()), nil
		}
	}
	return "", errors.New("image pstree.img has no root")
}

// rewriteRoot takes the parent death signal (PR_SET_PDEATHSIG) from the tree's root. Its parent in a cell is PID 1, with which all of the cell is killed
// anyway; during a restore it is CRIU, and the signal would come when CRIU is done.
func rewriteRoot(from, to string) error {
	if _, err := os.Stat(from); err != nil {
		return err
	}
	img, err := decode(from, "core", &criu_core.CoreEntry{})
	if err != nil {
		return err
	}
	changed := false
	for _, e := range img.Entries {
		core, ok := e.Message.(*criu_core.CoreEntry)
		if !ok {
			return fmt.Errorf("image %s: an entry of type %T", filepath.Base(from), e.Message)
		}
		if thread := core.GetThreadCore(); thread.GetPdeathSig() != 0 {
			thread.PdeathSig, changed = nil, true
		}
	}
	if !changed {
		return linkFile(from, to)
	}
	return encode(to, img)
}
