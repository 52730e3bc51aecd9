package criu

import (
	"fmt"

	"golang.org/x/sys/unix"

	"ss/agent/criu/image"
	"ss/agent/files"
)

// hold opens what is handed, in the cell's mount namespace, in which CRIU restores, and keeps it open for CRIU.
func hold(list []image.Handed) error {
	for _, h := range list {
		fd, err := files.Hold(h.Path, h.Dev, h.Ino)
		if err != nil {
			return err
		}
		err = unix.Dup3(fd, h.Fd, 0)
		_ = unix.Close(fd)
		if err != nil {
			return fmt.Errorf("hand %s to criu: %w", h.Path, err)
		}
	}
	return nil
}
