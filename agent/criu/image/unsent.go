package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	tcp_stream "github.com/checkpoint-restore/go-criu/v7/crit/images/tcp-stream"
	"google.golang.org/protobuf/proto"

	"ss/agent"
)

// Unsend makes the images of dir hold the bytes in transit as bytes that were never sent, so that the restored kernel sends them at once.
//
// CRIU puts what is unacknowledged into the send queue as sent. The kernel then believes it to be on its way, and sends it again when its first
// retransmission timeout is over: a second after the restore (RFC 6298, 2.1), and doubled each time that it passes behind a closed gate. But the other
// end of the connection is restored from the same cut: it has received what its record says, and nothing of the rest was ever under way to it.
// A connection that has sent its FIN is left as it is: CRIU counts the FIN apart from the queue.
func (Editor) Unsend(dir string, transit []agent.Transit) error {
	if len(transit) == 0 {
		return nil
	}
	bytes := map[agent.Conn]uint32{}
	for _, t := range transit {
		bytes[t.Conn] = t.Bytes
	}
	sockets, err := InetSockets(dir)
	if err != nil {
		return err
	}
	for _, sk := range sockets {
		if !connected(sk) || sk.GetState() != TCPEstablished && sk.GetState() != TCPCloseWait {
			continue
		}
		local, remote, err := SockAddrs(sk)
		if err != nil {
			return err
		}
		unsent := bytes[agent.Conn{Local: local, Remote: remote}]
		if unsent == 0 {
			continue
		}
		if err := unsend(dir, sk.GetIno(), unsent); err != nil {
			return fmt.Errorf("connection %s>%s: %w", local, remote, err)
		}
	}
	return nil
}

// unsend sets how many bytes at the end of a send queue were never sent.
func unsend(dir string, ino, unsent uint32) error {
	entry, err := ReadStream(dir, ino)
	if err != nil {
		return err
	}
	if unsent > entry.GetOutqLen() {
		return fmt.Errorf("%d bytes were in transit, and the send queue holds %d", unsent, entry.GetOutqLen())
	}
	if unsent <= entry.GetUnsqLen() {
		return nil
	}
	entry.UnsqLen = &unsent
	return replaceEntry(filepath.Join(dir, fmt.Sprintf("tcp-stream-%x.img", ino)), entry)
}

// replaceEntry writes a stream's image with another entry and the same queues. The file may be a link to the cut's: it is replaced, not changed.
func replaceEntry(path string, entry *tcp_stream.TcpStreamEntry) (err error) {
	body, err := proto.Marshal(entry)
	if err != nil {
		return fmt.Errorf("image %s: %w", filepath.Base(path), err)
	}
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	var head [12]byte // two magic numbers, and the entry's length
	if _, err := io.ReadFull(from, head[:]); err != nil {
		return err
	}
	if _, err := from.Seek(int64(binary.LittleEndian.Uint32(head[8:])), io.SeekCurrent); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(head[8:], uint32(len(body)))
	to, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, to.Close()); err == nil {
			err = os.Rename(to.Name(), path)
		}
		if err != nil {
			_ = os.Remove(to.Name())
		}
	}()
	if _, err := to.Write(append(head[:], body...)); err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return err
}
