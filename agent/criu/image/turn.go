package image

import (
	"fmt"
	"path/filepath"
	"slices"

	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	sk_opts "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-opts"
	tcp_stream "github.com/checkpoint-restore/go-criu/v7/crit/images/tcp-stream"
	"google.golang.org/protobuf/proto"

	"ss/agent"
)

// StreamPrefix begins the name of the image of one TCP connection, which CRIU writes when it has read the socket for the last time.
const StreamPrefix = "tcp-stream-"

// tcpClose is the state of a socket without a connection, include/net/tcp_states.h of Linux.
const tcpClose = 7

// changeOf is what becomes of a connection; "" if it is put back as it was.
func changeOf(sk *sk_inet.InetSkEntry, ends []agent.EndChange) (agent.EndState, error) {
	if len(ends) == 0 || !connected(sk) {
		return "", nil
	}
	local, remote, err := SockAddrs(sk)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(ends, func(e agent.EndChange) bool { return e.Conn == agent.Conn{Local: local, Remote: remote} })
	if i < 0 {
		return "", nil
	}
	return ends[i].As, nil
}

// turnSocket puts a connection into the state that ends give it, and says whether they give it one.
func turnSocket(sk *sk_inet.InetSkEntry, ends []agent.EndChange) (bool, error) {
	as, err := changeOf(sk, ends)
	if err != nil {
		return false, err
	}
	switch as {
	case agent.EndConnecting:
		sk.State = proto.Uint32(TCPSynSent)
	case agent.EndClosed:
		// CRIU makes such a socket and calls shutdown(2) on it: reads end, writes fail, and poll(2) says so. It has no port any more, as
		// a listener of the job may have the same.
		sk.State, sk.SrcPort, sk.DstPort = proto.Uint32(tcpClose), proto.Uint32(0), proto.Uint32(0)
		sk.Shutdown = sk_opts.SkShutdown_BOTH.Enum()
	default:
		return false, nil
	}
	return true, nil
}

// connectingAgain names the images of the connections that are to connect once more.
func connectingAgain(dir string, ends []agent.EndChange) (map[string]bool, error) {
	if len(ends) == 0 {
		return nil, nil
	}
	sockets, err := InetSockets(dir)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, sk := range sockets {
		as, err := changeOf(sk, ends)
		if err != nil {
			return nil, err
		}
		if as == agent.EndConnecting {
			names[fmt.Sprintf("%s%x.img", StreamPrefix, sk.GetIno())] = true
		}
	}
	return names, nil
}

// rewriteStream takes from the image of a connection what its other end has said, which will say it again. Queues have to be empty: of a socket
// in SYN-SENT CRIU restores none.
func rewriteStream(from, to string) error {
	img, err := decode(from, "tcp-stream", &tcp_stream.TcpStreamEntry{})
	if err != nil {
		return err
	}
	for _, e := range img.Entries {
		stream, ok := e.Message.(*tcp_stream.TcpStreamEntry)
		if !ok {
			return fmt.Errorf("image %s: an entry of type %T", filepath.Base(from), e.Message)
		}
		if stream.GetInqLen() > 0 || stream.GetOutqLen() > 0 {
			return fmt.Errorf("image %s: a connection with %d bytes to read and %d to send cannot connect once more", filepath.Base(from), stream.GetInqLen(), stream.GetOutqLen())
		}
		e.Extra = "" // the queues
		stream.InqSeq = proto.Uint32(0)
		stream.SndWl1, stream.SndWnd, stream.MaxWindow, stream.RcvWnd, stream.RcvWup = nil, nil, nil, nil, nil
	}
	return encode(to, img)
}
