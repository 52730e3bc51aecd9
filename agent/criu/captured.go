package criu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ss/agent/criu/image"
)

const (
	// pagesPrefix begins the name of an image of memory. When there is one, CRIU has collected what sockets there are,
	// which it does before the first task, and would not take a connection that is made now for a half-open one.
	pagesPrefix = "pages-"
)

// streamWatch counts the connections whose images are complete, by inotify(7).
type streamWatch struct {
	file *os.File
	done chan struct{} // closed when nothing is counted any more
}

// watchStreams calls full when the images of the connections with these inodes have been written to dir and the first image of
// memory has been begun, unless it is closed before. A socket that is closed, and that a program still holds, has an image too: it is not a connection.
func watchStreams(dir string, inodes []uint64, full func()) (*streamWatch, error) {
	missing := map[string]bool{}
	for _, ino := range inodes {
		missing[fmt.Sprintf("%s%x.img", image.StreamPrefix, ino)] = true
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch the images: %w", err)
	}
	w := &streamWatch{file: os.NewFile(uintptr(fd), "inotify"), done: make(chan struct{})}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CLOSE_WRITE|unix.IN_CREATE); err != nil {
		return nil, errors.Join(fmt.Errorf("watch the images in %s: %w", dir, err), w.file.Close())
	}
	go func() {
		defer close(w.done)
		memory := false
		buf := make([]byte, 64<<10)
		for len(missing) > 0 || !memory {
			m, err := w.file.Read(buf)
			if err != nil {
				return
			}
			for _, e := range fileEvents(buf[:m]) {
				if e.closed {
					delete(missing, e.name)
				}
				memory = memory || strings.HasPrefix(e.name, pagesPrefix)
			}
		}
		full()
	}()
	return w, nil
}

// close ends the watch, and returns when full has returned or will not be called. The member stands still for it, and the kernel takes ten
// milliseconds and more to close an inotify instance, as it waits until no processor looks at it any more (SRCU): nobody waits for that.
func (w *streamWatch) close() {
	_ = w.file.SetReadDeadline(time.Unix(1, 0))
	<-w.done
	go func() { _ = w.file.Close() }()
}

// fileEvent is what happened to a file: it was made, or it was closed after it had been open for writing.
type fileEvent struct {
	name   string
	closed bool
}

// fileEvents reads a buffer of struct inotify_event: wd, mask, cookie, len (32 bits each), name.
func fileEvents(b []byte) []fileEvent {
	var events []fileEvent
	for len(b) >= unix.SizeofInotifyEvent {
		mask, length := binary.NativeEndian.Uint32(b[4:]), int(binary.NativeEndian.Uint32(b[12:]))
		b = b[unix.SizeofInotifyEvent:]
		if length > len(b) {
			break
		}
		name, _, _ := bytes.Cut(b[:length], []byte{0})
		events = append(events, fileEvent{name: string(name), closed: mask&unix.IN_CLOSE_WRITE != 0})
		b = b[length:]
	}
	return events
}
