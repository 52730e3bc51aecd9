package image

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/siginfo"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"ss/agent"
)

// Interrupt makes the images of dir such that a signal with a handler, which they hold for a thread that waits in a system call, interrupts that call when
// they are restored, as it would have if the thread had run on: CRIU takes the thread back onto its call, and then nothing remembers
// that the signal came first. A signal for a whole process goes to one of its threads, as it would have, the leader if that takes it.
func (Editor) Interrupt(dir string, waits []agent.Wait) error {
	if len(waits) == 0 {
		return nil
	}
	by := map[int]agent.Wait{}
	for _, w := range waits {
		by[w.Thread] = w
	}
	processes, err := ReadAll(filepath.Join(dir, "pstree.img"), "pstree", &pstree.PstreeEntry{})
	if err != nil {
		return err
	}
	for _, p := range processes {
		if err := interruptProcess(dir, p, by); err != nil {
			return fmt.Errorf("signals of process %d: %w", p.GetPid(), err)
		}
	}
	return nil
}

// thread is a thread's image.
type thread struct {
	path    string
	image   *core.CoreEntry
	changed bool
}

func readThread(dir string, tid uint32) (*thread, error) {
	t := &thread{path: filepath.Join(dir, fmt.Sprintf("core-%d.img", tid))}
	all, err := ReadAll(t.path, "core", &core.CoreEntry{})
	if err != nil {
		return nil, err
	}
	if len(all) != 1 {
		return nil, fmt.Errorf("image %s has %d entries", filepath.Base(t.path), len(all))
	}
	t.image = all[0]
	return t, nil
}

// blocked says whether the thread takes no such signal now.
func (t *thread) blocked(sig int) bool {
	mask := t.image.GetTc().GetBlkSigset()
	if tc := t.image.GetThreadCore(); tc != nil && tc.BlkSigset != nil {
		mask = tc.GetBlkSigset()
	}
	return mask>>(sig-1)&1 != 0
}

// handler is what a process does with a signal that it handles.
type handler struct{ restarts bool }

// handlers reads the handlers of a process from its leader's image, by signal. CRIU leaves out SIGKILL and SIGSTOP.
func handlers(leader *core.CoreEntry) map[int]handler {
	out := map[int]handler{}
	sig := 0
	for _, a := range leader.GetTc().GetSigactions() {
		for sig++; sig == int(unix.SIGKILL) || sig == int(unix.SIGSTOP); sig++ {
		}
		if h := a.GetSigaction(); h > 1 { // SIG_DFL is 0, SIG_IGN is 1
			const saRestart = 0x10000000
			out[sig] = handler{restarts: a.GetFlags()&saRestart != 0}
		}
	}
	return out
}

func interruptProcess(dir string, p *pstree.PstreeEntry, waits map[int]agent.Wait) error {
	pid := p.GetPid()
	leader, err := readThread(dir, pid)
	if os.IsNotExist(err) {
		return nil // a zombie
	}
	if err != nil {
		return err
	}
	handled := handlers(leader.image)
	if len(handled) == 0 {
		return nil
	}
	threads := []*thread{leader}
	for _, tid := range p.GetThreads() {
		if tid == pid {
			continue
		}
		t, err := readThread(dir, tid)
		if err != nil {
			return err
		}
		threads = append(threads, t)
	}
	direct(threads, handled)
	for _, t := range threads {
		var tid int
		if _, err := fmt.Sscanf(filepath.Base(t.path), "core-%d.img", &tid); err != nil {
			return err
		}
		if w, ok := waits[tid]; ok {
			t.interrupt(w, handled)
		}
		if err := t.write(); err != nil {
			return err
		}
	}
	return nil
}

// direct gives each handled signal of the process to the thread that is to take it.
func direct(threads []*thread, handled map[int]handler) {
	shared := threads[0].image.GetTc().GetSignalsS()
	if shared == nil {
		return
	}
	kept := shared.Signals[:0:0]
	for _, s := range shared.Signals {
		to := -1
		if _, ok := handled[number(s)]; ok {
			for i, t := range threads {
				if !t.blocked(number(s)) {
					to = i
					break
				}
			}
		}
		if to < 0 || threads[to].image.ThreadCore == nil {
			kept = append(kept, s)
			continue
		}
		tc := threads[to].image.ThreadCore
		if tc.SignalsP == nil {
			tc.SignalsP = &siginfo.SignalQueueEntry{}
		}
		tc.SignalsP.Signals = append(tc.SignalsP.Signals, s)
		threads[to].changed, threads[0].changed = true, true
	}
	shared.Signals = kept
}

// number is the signal's, the first field of siginfo_t.
func number(s *siginfo.SiginfoEntry) int {
	if len(s.GetSiginfo()) < 4 {
		return 0
	}
	return int(int32(binary.NativeEndian.Uint32(s.GetSiginfo())))
}

// interrupt makes the thread return EINTR if it has a signal to handle.
func (t *thread) interrupt(w agent.Wait, handled map[int]handler) {
	regs := t.image.GetThreadInfo().GetGpregs()
	if regs == nil || regs.GetIp() != w.Again || regs.GetAx() != uint64(w.Call) {
		return // CRIU has not taken it back onto that call
	}
	for _, s := range t.image.GetThreadCore().GetSignalsP().GetSignals() {
		h, ok := handled[number(s)]
		if !ok || t.blocked(number(s)) || w.Restarts && h.restarts {
			continue
		}
		eintr := -int64(unix.EINTR)
		regs.Ip, regs.Ax = proto.Uint64(w.Return), proto.Uint64(uint64(eintr))
		t.changed = true
		return
	}
}

// write writes the image if it has changed.
func (t *thread) write() error {
	if !t.changed {
		return nil
	}
	img, err := decode(t.path, "core", &core.CoreEntry{})
	if err != nil {
		return err
	}
	img.Entries[0].Message = t.image
	return encode(t.path, img)
}
