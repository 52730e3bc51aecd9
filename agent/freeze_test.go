package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"ss/marker"
)

// still is a host whose one member can be frozen.
type still struct {
	noCells
	err error // of Freeze
}

func (s still) Freeze(context.Context, Member) error            { return s.err }
func (still) Thaw(context.Context, Member) error                { return nil }
func (still) Heal(context.Context, Member) error                { return nil }
func (still) Sockets(context.Context, Member) ([]Socket, error) { return nil, nil }

type openGates struct{ noGates }

func (openGates) Close(context.Context, []Gate) error   { return nil }
func (openGates) OpenAll(context.Context, string) error { return nil }

func frozen(q *Quiet) bool {
	ctx, cancel := context.WithCancel(context.Background())
	over := waiting(ctx, q)
	done, _ := over()
	cancel()
	over()
	return !done
}

// TestQuietFromTheFreezeToTheThaw: however a freeze ends, what has waited for it goes on.
func TestQuietFromTheFreezeToTheThaw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quiet := &Quiet{}
		begin := func(err error) *work {
			held, _ := newHolder(t, t.TempDir(), nil)
			a := &Agent{cfg: Config{Host: "hostA", Cells: still{err: err}, Gates: openGates{}, Quiet: quiet, Images: held}, log: discard()}
			held.Serve(jobs{a})
			a.standings = newStandings(a)
			w := a.newRunner("job").newWork(marker.Key{Job: "job", Snapshot: "cut", Epoch: 1})
			w.held, w.members = true, []Member{{Job: "job", Name: "hostA-1"}}
			if frozen(quiet) {
				t.Fatal("it is held before the freeze")
			}
			if _, rerr := w.record(t.Context()); !errors.Is(rerr, err) {
				t.Fatal(rerr)
			}
			if !frozen(quiet) {
				t.Fatal("members stand still, and nobody holds it")
			}
			return w
		}
		for name, end := range map[string]func(w *work) error{
			"thaw":    func(w *work) error { return w.thaw(t.Context()) },
			"release": func(w *work) error { return w.release(t.Context()) },
			"rollback": func(w *work) error {
				if done, ok := w.rollback(t.Context(), "a test").(marker.RollbackDone); !ok || done.Err != "" {
					return errors.New(done.Err)
				}
				return nil
			},
		} {
			w := begin(nil)
			if err := end(w); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if frozen(quiet) {
				t.Errorf("it is held after %s", name)
			}
			w.over()
		}
		w := begin(errors.New("no such cgroup"))
		w.rollback(t.Context(), "a test")
		if frozen(quiet) {
			t.Error("it is held after a freeze that failed")
		}
	})
}
