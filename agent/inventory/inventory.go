package inventory

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// version is that of the form in which an inventory is stored.
const version = 1

// Inventory is what the processes of one member held at one instant. Processes and threads are named as their own PID namespace names them.
type Inventory struct {
	Version int       `json:"version"`
	Threads []Thread  `json:"threads"`
	Sockets []Socket  `json:"sockets,omitempty"`
	Unread  []Unread  `json:"unread,omitempty"`
	Options []Options `json:"options,omitempty"` // sockets share them: most of a server's connections have the same
}

// Thread is what one thread has that a scheduler or the kernel's memory management goes by.
type Thread struct {
	Process int `json:"process"`
	Thread  int `json:"thread"`

	Processors []int  `json:"processors,omitempty"` // absent: all that there were
	Slack      string `json:"timer_slack,omitempty"`
	IOPriority int    `json:"io_priority,omitempty"` // as ioprio_get(2) has it

	// Of the process; only its first thread has them.
	CoreFilter  string `json:"coredump_filter,omitempty"`
	Personality string `json:"personality,omitempty"`
	OOMScore    string `json:"oom_score_adj,omitempty"`
	MergesPages bool   `json:"merges_pages,omitempty"` // prctl(PR_SET_MEMORY_MERGE)
	ExitSignal  int    `json:"exit_signal,omitempty"`  // that its parent gets when it ends; absent: SIGCHLD, -1: none
}

// Options are values of socket options by their names, as the kernel gave them, in hexadecimal digits.
type Options map[string]string

// Socket is one socket, named by a descriptor of one of the processes that hold it.
type Socket struct {
	Process    int `json:"process"`
	Descriptor int `json:"descriptor"`
	Family     int `json:"family"`
	Protocol   int `json:"protocol"`
	Options    int `json:"options"` // index into Inventory.Options

	SegmentSize uint32            `json:"mss,omitempty"`          // of a connection: bytes that it sends in one segment at most
	WindowClamp int               `json:"window_clamp,omitempty"` // of a TCP socket
	Groups      []string          `json:"groups,omitempty"`       // multicast groups that it has joined, each "GROUP%INTERFACE"
	Sources     map[string]string `json:"sources,omitempty"`      // of those groups from which it takes what some sources send: "include ADDRESS…" or "exclude ADDRESS…"
	Failed      bool              `json:"failed,omitempty"`       // it has an error that has not been read (SO_ERROR)
	Unread      int               `json:"unread,omitempty"`       // of a UDP socket: bytes of the next datagram
	Interfaces  Options           `json:"interfaces,omitempty"`   // options whose values are network interfaces: their names
}

// Difference is something that the restored processes do not have as it was.
type Difference struct {
	Process int    `json:"process"` // in its own PID namespace
	Object  string `json:"object"`  // "thread 1001", "descriptor 5"
	What    string `json:"what"`    // "TCP_CONGESTION"
	Was     string `json:"was"`
	Is      string `json:"is"`
	Why     string `json:"why,omitempty"` // why it could not be set
}

// String is what a person reads.
func (d Difference) String() string {
	text := fmt.Sprintf("process %d, %s: %s was %s and is %s", d.Process, d.Object, d.What, d.Was, d.Is)
	if d.Why != "" {
		text += " (" + d.Why + ")"
	}
	return text
}

// Take lists what the processes hold; pids are this host's.
func Take(ctx context.Context, pids []int) (Inventory, error) { return takeAnd(ctx, pids, nil) }

// TakeFrozen is Take for processes that stand still. It looks at all that waits in their UNIX sockets, which would disturb processes that run, and returns a Refusal
// if CRIU would lose some of it.
func TakeFrozen(ctx context.Context, pids []int) (Inventory, error) {
	return takeAnd(ctx, pids, emptyBehind)
}

// Refusal is an error that says why what processes hold cannot be recorded.
type Refusal struct{ text string }

func (r *Refusal) Error() string { return r.text }

// takeAnd is Take. look, if it is not nil, is called with a duplicate of each UNIX socket, and says what must not be so.
func takeAnd(ctx context.Context, pids []int, look func(fd int) string) (Inventory, error) {
	inv := Inventory{Version: version}
	pool := optionPool{index: map[string]int{}, kinds: map[[2]int][]option{}}
	seen := map[uint64]bool{}
	groups := joinable{}
	all, err := online()
	if err != nil {
		return Inventory{}, err
	}
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return Inventory{}, err
		}
		inner, err := innerPid(pid)
		if ended(err) {
			continue
		}
		if err != nil {
			return Inventory{}, err
		}
		threads, err := takeThreads(pid, inner, all)
		if err != nil && !ended(err) {
			return Inventory{}, fmt.Errorf("process %d: %w", inner, err)
		}
		inv.Threads = append(inv.Threads, threads...)
		sockets, err := takeSockets(pid, inner, seen, &pool, groups, look)
		if err != nil && !ended(err) {
			return Inventory{}, fmt.Errorf("process %d: %w", inner, err)
		}
		inv.Sockets = append(inv.Sockets, sockets...)
		unread, err := takeUnread(pid, inner)
		if err != nil && !ended(err) {
			return Inventory{}, fmt.Errorf("process %d: %w", inner, err)
		}
		inv.Unread = append(inv.Unread, unread...)
	}
	inv.Options = pool.list
	return inv, nil
}

// Apply sets what the restored processes have otherwise than the inventory says, as far as the kernel sets it from outside, and returns the rest.
// They stand still; pids are this host's.
func (inv Inventory) Apply(ctx context.Context, pids []int) ([]Difference, error) {
	if inv.Version > version {
		return nil, fmt.Errorf("the inventory has version %d, and this agent reads %d: upgrade it", inv.Version, version)
	}
	there := restored{outer: map[int]int{}, threads: map[int]map[int]int{}}
	var err error
	if there.online, err = online(); err != nil {
		return nil, err
	}
	for _, pid := range pids {
		inner, err := innerPid(pid)
		if ended(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		there.outer[inner] = pid
	}
	var left []Difference
	for _, t := range inv.Threads {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		left = append(left, there.applyThread(t)...)
	}
	for _, s := range inv.Sockets {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if s.Options < 0 || s.Options >= len(inv.Options) {
			return nil, errors.New("the inventory is damaged: a socket has options that are not in it")
		}
		left = append(left, applySocket(s, inv.Options[s.Options], there.outer)...)
	}
	for _, u := range inv.Unread {
		left = append(left, u.lost())
	}
	return left, nil
}

// ended says whether an error means that a process or a descriptor was gone when it was looked at.
func ended(err error) bool { return errors.Is(err, os.ErrNotExist) || isGone(err) }
