package integration

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// object is one of what a member of a random job holds. testdata/objects makes, uses and checks it.
type object struct {
	id, kind string
	args     []string
}

func (o object) String() string { return strings.Join(append([]string{o.id, o.kind}, o.args...), " ") }

// randomMember is one member of a random job.
type randomMember struct {
	name    string
	host    string
	uid     int    // 0: root
	root    string // its root folder on the host; "": the host's
	log     string
	objects []object
}

// path is a file of the member as the member sees it, and hostPath as the host does.
func (m *randomMember) hostPath(path string) string { return m.root + path }

// spec is what testdata/objects reads.
func (m *randomMember) spec() string {
	var b strings.Builder
	if m.root != "" {
		fmt.Fprintf(&b, "- root %s\n", m.root)
	}
	if m.uid != 0 {
		fmt.Fprintf(&b, "- uid %d\n", m.uid)
	}
	for _, o := range m.objects {
		fmt.Fprintln(&b, o)
	}
	return b.String()
}

// randomJob is a job as it was drawn. It is a function of its number and the hosts' addresses.
type randomJob struct {
	seed    uint64
	name    string
	members []*randomMember
	addr    map[string]string // of each host
	remap   map[string]string // from each host with members to the one that gets them
	taken   string            // HOST PORT that a program beside the job listens on when the job is moved; "" for none
	kinds   map[string]bool
}

func (j *randomJob) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "job %s, seed %d, remap %v, taken %q\n", j.name, j.seed, j.remap, j.taken)
	for _, m := range j.members {
		fmt.Fprintf(&b, "member %s on %s, log %s\n%s", m.name, m.host, m.log, m.spec())
	}
	return b.String()
}

// hosts are those with members, each once.
func (j *randomJob) hosts() []string {
	var hosts []string
	for _, m := range j.members {
		if !slices.Contains(hosts, m.host) {
			hosts = append(hosts, m.host)
		}
	}
	slices.Sort(hosts)
	return hosts
}

// waits are the calls that testdata/objects waits in.
var waits = []string{"nanosleep", "clock_nanosleep", "poll", "ppoll", "select", "epoll_wait", "futex", "sigtimedwait"}

// kind is how one kind of object is drawn for a member.
type kind struct {
	name   string
	weight int
	inRoot bool // whether a member that has changed its root can hold it
	asUser bool // whether a member of another user can
	args   func(d *drawer, m *randomMember, id string) []string
}

// path1 and its like are arguments that many kinds share.
func path1(d *drawer, m *randomMember, id string) []string { return []string{d.path(m, id)} }
func path2(d *drawer, m *randomMember, id string) []string {
	return []string{d.path(m, id), d.path(m, id) + ".other"}
}
func none(*drawer, *randomMember, string) []string { return nil }

var drawn = []kind{
	{"append", 6, true, true, path1},
	{"inplace", 4, true, true, path1},
	{"both", 4, true, true, path1},
	{"deleted", 4, true, true, path1},
	{"linked", 4, true, true, path2},
	{"hard", 4, true, true, path2},
	{"mode", 4, true, true, func(d *drawer, m *randomMember, id string) []string {
		return []string{d.path(m, id), d.one("02664", "04755", "06755", "0600", "02755", "01666")}
	}},
	{"sparse", 3, true, true, func(d *drawer, m *randomMember, id string) []string {
		return []string{d.path(m, id), d.one("64", "700", "3000")}
	}},
	{"mapped", 5, true, true, path1},
	{"locked", 2, true, true, path1},
	{"shm", 4, false, true, func(d *drawer, m *randomMember, id string) []string { return []string{d.shmName(id), "0", "1"} }},
	{"sem", 4, false, true, func(d *drawer, m *randomMember, id string) []string { return []string{d.shmName(id)} }},
	{"fifo", 4, true, true, path1},
	{"unix", 4, true, true, path1},
	{"inotify", 3, true, true, func(d *drawer, m *randomMember, id string) []string { return []string{d.folder(m)} }},
	{"pty", 2, false, false, none},
	{"timerfd", 4, true, true, func(d *drawer, m *randomMember, id string) []string {
		return []string{d.one("1", "10", "50", "200"), d.one("read", "unread")}
	}},
	{"itimer", 3, true, true, func(d *drawer, m *randomMember, id string) []string { return []string{d.one("5", "50")} }},
	{"wait", 8, true, true, func(d *drawer, m *randomMember, id string) []string {
		return []string{d.one(waits...), d.one("30", "200", "700")}
	}},
	{"listen", 5, true, true, func(d *drawer, m *randomMember, id string) []string {
		return []string{d.listenAddr(m), d.port(m.host), d.one("reuse", "plain"), d.one("client", "server")}
	}},
	{"udp", 2, true, true, func(d *drawer, m *randomMember, id string) []string { return []string{d.port(m.host)} }},
	{"mem", 4, true, true, func(d *drawer, m *randomMember, id string) []string {
		return []string{d.one("1", "2", "8"), fmt.Sprint(d.rnd.IntN(1000))}
	}},
	{"child", 4, true, true, func(d *drawer, m *randomMember, id string) []string { return []string{d.one("plain", "session")} }},
	{"zombie", 2, true, true, none},
	{"threads", 3, true, true, func(d *drawer, m *randomMember, id string) []string { return []string{d.one("2", "5", "12")} }},
	{"pair", 2, true, true, none},
	{"pipe", 2, true, true, none},
	{"eventfd", 2, true, true, none},
	{"memfd", 2, true, true, none},
	{"deathsig", 2, true, true, none},
	{"uring", 1, true, true, none},
	{"mptcp", 1, true, true, func(d *drawer, m *randomMember, id string) []string { return []string{d.port(m.host)} }},
	{"sealed", 1, true, true, none},
}

// pairs are what two members hold together; drawn apart from the others.
var pairs = []string{"connection", "grown", "shared append", "region", "shared memory", "shared log", "left"}

// off are kinds that are not drawn, each with the reason. None may stay.
var off = map[string]string{}

// drawer draws one job.
type drawer struct {
	rnd   *rand.Rand
	job   *randomJob
	ids   int
	base  int                        // of this job's ports
	ports map[string]map[string]bool // by host
	once  map[string]bool            // kinds of which a member can hold one
}

// draw draws the job of a number, on hosts with the given addresses.
func draw(seed uint64, hosts []string, addr map[string]string) *randomJob {
	d := &drawer{rnd: rand.New(rand.NewPCG(seed, 1)), ports: map[string]map[string]bool{}, once: map[string]bool{}}
	d.job = &randomJob{seed: seed, name: fmt.Sprintf("r%d", seed), addr: addr, remap: map[string]string{}, kinds: map[string]bool{}}
	d.base = 10000 + int(seed%640)*32
	homes := slices.Clone(hosts)
	d.rnd.Shuffle(len(homes), func(i, k int) { homes[i], homes[k] = homes[k], homes[i] })
	homes = homes[:1+d.rnd.IntN(3)]
	for i := range 1 + d.rnd.IntN(4) {
		d.member(fmt.Sprintf("m%d", i), homes[d.rnd.IntN(len(homes))])
	}
	for range d.rnd.IntN(4) {
		d.pair()
	}
	for _, h := range d.job.hosts() {
		d.job.remap[h] = h
		if d.chance(80) {
			d.job.remap[h] = hosts[d.rnd.IntN(len(hosts))]
		}
	}
	if d.chance(15) {
		d.take()
	}
	return d.job
}

func (d *drawer) chance(percent int) bool { return d.rnd.IntN(100) < percent }

func (d *drawer) one(of ...string) string { return of[d.rnd.IntN(len(of))] }

func (d *drawer) id() string { d.ids++; return fmt.Sprintf("o%d", d.ids) }

func (d *drawer) add(m *randomMember, id, kind string, args ...string) {
	m.objects = append(m.objects, object{id, kind, args})
	d.job.kinds[kind] = true
}

func (d *drawer) member(name, host string) {
	m := &randomMember{name: name, host: host, log: fmt.Sprintf("/srv/%s/%s.log", d.job.name, name)}
	d.job.members = append(d.job.members, m)
	if _, not := off["root"]; d.chance(12) && !not {
		m.root = fmt.Sprintf("/srv/%s/%s/root", d.job.name, name)
		d.job.kinds["root"] = true
	}
	if _, not := off["uid"]; d.chance(15) && !not {
		m.uid = 1000 + d.rnd.IntN(3)
		d.job.kinds["uid"] = true
	}
	var fit []kind
	total := 0
	for _, k := range drawn {
		if _, not := off[k.name]; !not && (k.inRoot || m.root == "") && (k.asUser || m.uid == 0) {
			fit = append(fit, k)
			total += k.weight
		}
	}
	for range 1 + d.rnd.IntN(6) {
		at := d.rnd.IntN(total)
		for _, k := range fit {
			if at -= k.weight; at >= 0 {
				continue
			}
			if k.name == "itimer" && slices.ContainsFunc(m.objects, func(o object) bool { return o.kind == "itimer" }) {
				break
			}
			id := d.id()
			d.add(m, id, k.name, k.args(d, m, id)...)
			break
		}
	}
}

// folder is a folder of the member's own, as it sees it.
func (d *drawer) folder(m *randomMember) string {
	if m.root != "" {
		return "/data"
	}
	return fmt.Sprintf("/srv/%s/%s", d.job.name, m.name)
}

// path is a file's name; a few are the same on every host.
func (d *drawer) path(m *randomMember, id string) string {
	if m.root == "" && m.uid == 0 && d.chance(5) && !d.once[m.host] {
		d.once[m.host] = true
		return fmt.Sprintf("/srv/%s/common", d.job.name)
	}
	return d.folder(m) + "/" + id
}

func (d *drawer) shmName(id string) string { return fmt.Sprintf("/%s-%s", d.job.name, id) }

// port is one that nobody on the host has yet in this job. Few are drawn from, so that hosts often have the same.
func (d *drawer) port(host string) string {
	if d.ports[host] == nil {
		d.ports[host] = map[string]bool{}
	}
	for {
		p := fmt.Sprint(d.base + d.rnd.IntN(32))
		if !d.ports[host][p] {
			d.ports[host][p] = true
			return p
		}
	}
}

func (d *drawer) listenAddr(m *randomMember) string {
	return d.one("0.0.0.0", "127.0.0.1", d.job.addr[m.host], d.job.addr[m.host])
}

// pair draws something that two members hold, if there are two that can.
func (d *drawer) pair() {
	a := d.job.members[d.rnd.IntN(len(d.job.members))]
	b := d.job.members[d.rnd.IntN(len(d.job.members))]
	what := pairs[d.rnd.IntN(len(pairs))]
	if d.chance(50) {
		what = "connection"
	}
	if _, not := off[what]; not {
		return
	}
	switch what {
	case "connection":
		d.connection(a, b)
		return
	case "left":
		port := d.port(a.host)
		d.add(a, d.id(), "left", "0.0.0.0", port)
		d.add(b, d.id(), "leave", d.job.addr[a.host], port)
		return
	}
	if a == b || a.host != b.host || a.root != "" || b.root != "" || a.uid != b.uid {
		return
	}
	d.job.kinds[what] = true
	id, other := d.id(), d.id()
	path := fmt.Sprintf("/srv/%s/%s", d.job.name, id)
	switch what {
	case "grown":
		d.add(a, id, "append", path)
		d.add(b, other, "tail", path, id)
	case "shared append":
		d.add(a, id, "append", path)
		d.add(b, other, "append", path)
	case "region":
		d.add(a, id, "region", path, "0")
		d.add(b, other, "region", path, "1")
	case "shared memory":
		d.add(a, id, "shm", d.shmName(id), "0", "2")
		d.add(b, other, "shm", d.shmName(id), "1", "2")
	case "shared log":
		b.log = a.log
	}
}

// connection draws a server and its clients. The server is always earlier in its list than a client of its own.
func (d *drawer) connection(server, client *randomMember) {
	d.job.kinds["connection"] = true
	n, port := 1+d.rnd.IntN(3), d.port(server.host)
	bind := d.one("0.0.0.0", d.job.addr[server.host])
	d.add(server, d.id(), "serve", bind, port, d.one("reuse", "plain"), fmt.Sprint(n), d.one("keep", "close"), d.one("slow", "fast"))
	for range n {
		d.add(client, d.id(), "connect", d.job.addr[server.host], port, d.one("slow", "fast"))
	}
}

// take has a program beside the job listen on a port that a part of it needs after its move.
func (d *drawer) take() {
	for _, m := range d.job.members {
		to := d.job.remap[m.host]
		if to == m.host || slices.Contains(d.job.hosts(), to) {
			continue
		}
		for _, o := range m.objects {
			if o.kind == "listen" && o.args[0] != "127.0.0.1" {
				d.job.taken = to + " " + o.args[1]
			}
		}
	}
}
