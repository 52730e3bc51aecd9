package cell

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/proc"
)

// terminalsFolder is where Linux shows the pseudoterminals that are open (pts(4)).
const terminalsFolder = "/dev/pts"

// ownTerminals gives the cell pseudoterminals of its own, so that the number of a member's is free wherever it is restored: on the host, an
// administrator's session is likely to have it. Where programs would not find them, the cell goes on with the host's.
func ownTerminals() error {
	if _, err := os.Stat(terminalsFolder); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := unix.Mount("devpts", terminalsFolder, "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, terminalOptions()); err != nil {
		return fmt.Errorf("make the cell's terminals its own: %w", err)
	}
	if terminalsWork() {
		return nil
	}
	if err := unix.Unmount(terminalsFolder, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("take the cell's terminals away again: %w", err)
	}
	return nil
}

// terminalOptions are those of the host's terminals: who may open them, and whose group they get.
func terminalOptions() string {
	options := []string{"newinstance", "ptmxmode=0666"}
	mounts, err := proc.Mounts("devpts")
	if err != nil {
		return strings.Join(options, ",")
	}
	for _, m := range mounts {
		if m.Mountpoint != terminalsFolder {
			continue
		}
		for o := range strings.SplitSeq(m.VFSOptions, ",") {
			if strings.HasPrefix(o, "gid=") || strings.HasPrefix(o, "mode=") {
				options = append(options, o)
			}
		}
		break
	}
	return strings.Join(options, ",")
}

// terminalsWork says whether a terminal that /dev/ptmx makes is one of the cell's. It is not where /dev/ptmx leads to another folder of terminals.
func terminalsWork() bool {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer master.Close()
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return false
	}
	_, err = os.Stat(filepath.Join(terminalsFolder, strconv.Itoa(n)))
	return err == nil
}
