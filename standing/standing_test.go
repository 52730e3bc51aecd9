package standing

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

// key signs like an admin, or like somebody else.
type key string

func (k key) SignStatement(kind string, body []byte) ([]byte, error) {
	return []byte(string(k) + "\n" + kind + "\n" + string(body)), nil
}

func (k key) OpenStatement(kind string, s []byte) ([]byte, error) {
	body, ok := bytes.CutPrefix(s, []byte(string(k)+"\n"+kind+"\n"))
	if !ok {
		return nil, errors.New("not the admin's")
	}
	return body, nil
}

func addr(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}) }

func host(n int, members ...string) Host {
	return Host{Name: fmt.Sprintf("host%c", 'A'+n-1), Endpoint: fmt.Sprintf("10.0.0.%d:7070", n), Addrs: []netip.Addr{addr(n)}, Members: members}
}

// moved says that hostA-1 stands on hostC now, and hostB-1 on hostB.
func moved(epoch uint64) Statement {
	return Statement{Cluster: "c", Job: "job", Epoch: epoch, Hosts: []Host{host(3, "hostA-1"), host(2, "hostB-1")}, Superseded: []Host{host(1, "hostA-1")}}
}

func encoded(t *testing.T, s Statement, k key) []byte {
	t.Helper()
	b, err := s.Encode(k)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestStatement(t *testing.T) {
	b := encoded(t, moved(7), "admin")
	got, err := Decode(b, key("admin"))
	if err != nil || got.Epoch != 7 || !got.Stands("hostC") || got.Stands("hostA") || !got.Names("hostA") || got.Names("hostD") {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := Decode(b, key("agent")); !errors.Is(err, ErrForged) {
		t.Errorf("a forged statement is taken: %v", err)
	}
	again := append(slices.Clone(b), ' ')
	if _, err := Decode(again, key("admin")); !errors.Is(err, ErrInvalid) {
		t.Errorf("another form is taken: %v", err)
	}
	for name, change := range map[string]func(*Statement){
		"no epoch":            func(s *Statement) { s.Epoch = 0 },
		"no host":             func(s *Statement) { s.Hosts = nil },
		"a member twice":      func(s *Statement) { s.Hosts[1].Members = []string{"hostA-1"} },
		"a host twice":        func(s *Statement) { s.Superseded = append(s.Superseded, host(2)) },
		"a path for a job":    func(s *Statement) { s.Job = "../job" },
		"a path for a host":   func(s *Statement) { s.Hosts[0].Name = "a/b" },
		"a path for a member": func(s *Statement) { s.Hosts[0].Members = []string{"a/b"} },
		"no cluster":          func(s *Statement) { s.Cluster = "" },
		"ended, and stands":   func(s *Statement) { s.Ended = []string{"hostA-1"} },
		"ended twice":         func(s *Statement) { s.Ended = []string{"x", "x"} },
		"a path that ended":   func(s *Statement) { s.Ended = []string{"../x"} },
	} {
		s := moved(7)
		change(&s)
		if _, err := s.Encode(key("admin")); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOldHost is F3: the host that comes back cuts its old copy off and freezes it, and ends it only when it is sure of the restore.
func TestOldHost(t *testing.T) {
	members := []Member{{Name: "hostA-1"}}
	r := Record{Job: "job"}
	if w := r.Duties("hostA", members); !reflect.DeepEqual(w, Duties{Settled: true}) {
		t.Fatalf("a host that knows nothing: %+v", w)
	}
	s := moved(7)
	r, changed := r.Shown(s, []byte("7"), "hostB", false)
	w := r.Duties("hostA", members)
	if !changed || !w.Block.Everyone || !slices.Equal(w.Freeze, []string{"hostA-1"}) || len(w.End) > 0 || w.Settled || len(w.Contact) != 2 {
		t.Fatalf("shown: %+v", w)
	}
	members[0].Frozen = true
	if w := r.Duties("hostA", members); len(w.Freeze) > 0 || !w.Block.Everyone {
		t.Fatalf("frozen: %+v", w)
	}
	for _, stranger := range []string{"hostD", "hostA"} {
		if next, _ := r.Shown(s, []byte("7"), stranger, true); next.Confirmed {
			t.Fatalf("%s, on which no member stands, confirms", stranger)
		}
	}
	for _, by := range []string{"hostC", "hostB", ""} {
		next, changed := r.Shown(s, []byte("7"), by, true)
		if w := next.Duties("hostA", members); !changed || !slices.Equal(w.End, []string{"hostA-1"}) || w.Settled || len(w.Contact) > 0 {
			t.Fatalf("confirmed by %q: %+v", by, w)
		}
		if w := next.Duties("hostA", nil); !w.Settled || !w.Block.Empty() {
			t.Fatalf("ended: %+v", w)
		}
	}
}

// TestDamagedMember: of a member whose epoch is not known nothing is said, and its host does not count as settled.
func TestDamagedMember(t *testing.T) {
	r, _ := Record{Job: "job"}.Shown(moved(7), []byte("7"), "", true)
	w := r.Duties("hostA", []Member{{Name: "hostA-1", Unknown: true}})
	if w.Settled || len(w.Freeze)+len(w.End) > 0 || !w.Block.Empty() {
		t.Errorf("%+v", w)
	}
	if w := r.Duties("hostA", []Member{{Name: "hostA-1", Unknown: true}, {Name: "hostA-2"}}); len(w.End) != 1 {
		t.Errorf("%+v", w)
	}
}

// TestReplay: a statement of an older epoch changes nothing, whoever shows it.
func TestReplay(t *testing.T) {
	r, _ := Record{Job: "job"}.Shown(moved(7), []byte("7"), "", true)
	for _, by := range []string{"", "hostC"} {
		if next, changed := r.Shown(moved(6), []byte("6"), by, true); changed || !reflect.DeepEqual(next, r) {
			t.Errorf("shown an older one by %q: %+v", by, next)
		}
	}
	other := moved(9)
	other.Job = "other"
	if _, changed := r.Shown(other, []byte("9"), "", true); changed {
		t.Error("shown one of another job")
	}
	if _, err := r.Decided(moved(6), []byte("6"), nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("a restore of an older epoch: %v", err)
	}
	if w := r.Duties("hostC", []Member{{Name: "hostA-1", Epoch: 7}}); !w.Settled {
		t.Errorf("a member of the epoch itself is old: %+v", w)
	}
}

// TestNewHost is F1 and F4: what comes from the superseded host is dropped until it has settled.
func TestNewHost(t *testing.T) {
	r, err := Record{Job: "job"}.Decided(moved(7), []byte("7"), []netip.AddrPort{netip.AddrPortFrom(addr(3), 80)})
	if err != nil {
		t.Fatal(err)
	}
	members := []Member{{Name: "hostA-1", Epoch: 7}}
	w := r.Duties("hostC", members)
	if !slices.Equal(w.Block.From, []netip.Addr{addr(1)}) || len(w.Contact) != 1 || w.Contact[0].Name != "hostA" || !w.Settled {
		t.Fatalf("%+v", w)
	}
	if w := r.Duties("hostC", nil); !w.Block.Empty() || len(w.Contact) != 1 {
		t.Errorf("the job was killed, and the old host is still to be told: %+v", w)
	}
	if next, changed := r.Settled("hostB"); changed || len(next.Pending) != 1 {
		t.Errorf("another host settles: %+v", next)
	}
	next, changed := r.Settled("hostA")
	if w := next.Duties("hostC", members); !changed || !w.Block.Empty() || len(w.Contact) > 0 {
		t.Errorf("settled: %+v", w)
	}
	// A newer restore begins with its own list.
	again, err := next.Decided(moved(9), []byte("9"), nil)
	if err != nil || len(again.Pending) != 1 || len(again.Listen) != 0 {
		t.Errorf("%+v, %v", again, err)
	}
	if same, err := again.Decided(moved(9), []byte("9"), nil); err != nil || !reflect.DeepEqual(same, again) {
		t.Errorf("decided twice: %+v, %v", same, err)
	}
}

// TestAddressTakenOver: an address that a host of the job has now is not dropped, whoever had it before.
func TestAddressTakenOver(t *testing.T) {
	s := moved(7)
	s.Hosts[0].Addrs = append(s.Hosts[0].Addrs, addr(1))
	if got := Foreign(s, s.Superseded); len(got) > 0 {
		t.Errorf("dropped: %v", got)
	}
	s.Superseded[0].Addrs = append(s.Superseded[0].Addrs, netip.MustParseAddr("127.0.0.1"), addr(9), addr(9))
	if got := Foreign(s, s.Superseded); !slices.Equal(got, []netip.Addr{addr(9)}) {
		t.Errorf("dropped: %v", got)
	}
}

// TestLostRecord: a host that has lost its record protects its members again when it is shown the statement.
func TestLostRecord(t *testing.T) {
	members := []Member{{Name: "hostA-1", Epoch: 7}}
	r := Record{Job: "job"}
	if w := r.Duties("hostC", members); !w.Settled || len(w.Freeze) > 0 {
		t.Fatalf("a member that is newer than the record: %+v", w)
	}
	r, _ = r.Shown(moved(7), []byte("7"), "", true)
	r, changed := r.Stood(members)
	if w := r.Duties("hostC", members); !changed || !r.InForce || len(w.Block.From) != 1 {
		t.Errorf("%+v: %+v", r, w)
	}
	if old, changed := r.Stood([]Member{{Name: "hostA-1", Epoch: 6}}); changed {
		t.Errorf("an older member stands: %+v", old)
	}
}

// TestWhomToAsk: an agent that starts asks the hosts of the statement and its peers, each once, and not itself.
func TestWhomToAsk(t *testing.T) {
	r, _ := Record{Job: "job"}.Shown(moved(7), []byte("7"), "", false)
	r, changed := r.Met([]Host{host(2), host(4), host(1)})
	if _, again := r.Met([]Host{host(2), host(4), host(1)}); !changed || again {
		t.Error("the same peers change the record")
	}
	var names []string
	for _, h := range r.Ask("hostA") {
		names = append(names, h.Name)
	}
	if want := []string{"hostC", "hostB", "hostD"}; !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
}

// FuzzDecode: whatever comes is refused, or is in the canonical form.
func FuzzDecode(f *testing.F) {
	s, err := moved(7).Encode(key("admin"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s)
	f.Add([]byte("admin\njob standing\n{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Decode(b, key("admin"))
		if err != nil {
			return
		}
		again, err := s.Encode(key("admin"))
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q became %q, %v", b, again, err)
		}
	})
}
