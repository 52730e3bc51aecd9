package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/crit"
	pipe_data "github.com/checkpoint-restore/go-criu/v7/crit/images/pipe-data"
)

// ShareFIFOs takes care of FIFOs that several members of one host had open: what was in one is in the images of each of them, and each CRIU would put it
// there. The first of dirs keeps it. The images in dirs are changed.
func (Editor) ShareFIFOs(dirs []string) error {
	kept := map[uint32]bool{} // by the FIFO's number, which is its inode's
	for _, dir := range dirs {
		if err := dropData(filepath.Join(dir, "fifo-data.img"), kept); err != nil {
			return fmt.Errorf("FIFOs that members share: %w", err)
		}
	}
	return nil
}

// dropData removes from an image what FIFOs hold that are kept elsewhere, and adds those that it has to kept.
func dropData(path string, kept map[uint32]bool) error {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	img, err := decode(path, "fifo-data", &pipe_data.PipeDataEntry{})
	if err != nil {
		return err
	}
	var entries []*crit.CriuEntry
	for _, e := range img.Entries {
		data, ok := e.Message.(*pipe_data.PipeDataEntry)
		if !ok {
			return fmt.Errorf("image %s: an entry of type %T", filepath.Base(path), e.Message)
		}
		if !kept[data.GetPipeId()] {
			kept[data.GetPipeId()] = true
			entries = append(entries, e)
		}
	}
	if len(entries) == len(img.Entries) {
		return nil
	}
	img.Entries = entries
	return encode(path, img)
}
