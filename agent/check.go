package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ss/agent/files"
	"ss/fault"
)

// Check is R1 on this host: everything that would make the restore fail here, at once. Nothing is touched. Images of which no copy is
// whole are an error, of kind fault.Integrity: that is for nobody to put right here.
func (r *Restoration) Check(ctx context.Context) ([]string, error) {
	var faults []string
	var damaged []error
	if _, err := r.a.cfg.CRIU.Check(ctx); err != nil {
		faults = append(faults, err.Error())
	}
	networks, err := interfacePrefixes()
	if err != nil {
		return nil, err
	}
	local := addrsOf(networks)
	held, err := r.heldPorts(ctx)
	if err != nil {
		return nil, r.wrap("checking", err)
	}
	var room roomFor
	for _, part := range r.plan.Parts {
		man, index, err := r.index(ctx, part)
		if imageKind(err) == fault.Integrity {
			damaged = append(damaged, fmt.Errorf("images of %s: %w", part.Host, err))
			continue
		}
		if err != nil {
			faults = append(faults, fmt.Sprintf("images of %s: %v", part.Host, err))
			continue
		}
		if err := r.count(ctx, &room, man); err != nil {
			return nil, r.wrap("checking", err)
		}
		meta, err := metaOf(man.Key(), index)
		if err != nil {
			faults = append(faults, err.Error())
			continue
		}
		for _, m := range part.Members {
			mm, ok := meta.Members[m.Name]
			if !ok {
				faults = append(faults, fmt.Sprintf("the images of %s hold no member %s", part.Host, m.Name))
				continue
			}
			m.Job = r.job()
			if err := r.a.cfg.Cells.Vacant(ctx, m); err != nil {
				faults = append(faults, fmt.Sprintf("%s: %v", m.Name, err))
			}
			faults = append(faults, r.checkMember(m, mm, local, held)...)
			for _, f := range r.checkPlaces(part, mm) {
				faults = append(faults, m.Name+": "+f)
			}
		}
	}
	lacks, err := r.lacking(room)
	if err != nil {
		return nil, r.wrap("checking", err)
	}
	if err := errors.Join(damaged...); err != nil {
		return nil, r.wrap("checking", &fault.Error{Kind: fault.Integrity, Err: err, Next: verifyNext})
	}
	return append(faults, lacks...), nil
}

// heldPorts are the ports that live members of the job hold here: they end before the restore.
func (r *Restoration) heldPorts(ctx context.Context) (map[uint16]bool, error) {
	members, err := r.a.running(ctx, r.job())
	if err != nil {
		return nil, err
	}
	held := map[uint16]bool{}
	for _, m := range members {
		socks, err := r.a.cfg.Cells.Sockets(ctx, m)
		if err != nil {
			return nil, err
		}
		for _, s := range socks {
			held[s.Local.Port()] = true
		}
	}
	return held, nil
}

func (r *Restoration) checkMember(m Member, mm MemberMeta, local []netip.Addr, held map[uint16]bool) []string {
	var faults []string
	add := func(format string, args ...any) {
		faults = append(faults, m.Name+": "+fmt.Sprintf(format, args...))
	}
	stored := map[string]bool{}
	for _, f := range mm.Files {
		for _, name := range f.Names() {
			stored[name] = true
		}
	}
	for _, f := range mm.Needs.Files {
		if !stored[f.Path] && !grown(f.Path, mm.Seen) {
			if err := checkFile(f); err != nil {
				add("%v", err)
			}
		}
	}
	for _, d := range mm.Needs.Dirs {
		if fi, err := os.Stat(d); err != nil || !fi.IsDir() {
			add("there is no folder %s; make it", d)
		}
	}
	for _, l := range mm.Needs.Listen {
		l = r.moved(l)
		if held[l.Port()] {
			continue
		}
		if err := canListen(l); err != nil {
			add("port %s: %v; end what uses it", l, err)
		}
	}
	for _, c := range mm.Needs.Conns {
		addr := r.moved(c.Local).Addr()
		if !addr.IsLoopback() && !slices.Contains(local, addr) {
			add("its connection with %s uses the address %s, which is not of this host: give --remap-addr %s=ADDRESS, or this host that address", c.Remote, addr, c.Local.Addr())
		}
	}
	return faults
}

func (r *Restoration) moved(ap netip.AddrPort) netip.AddrPort {
	if to, ok := r.plan.Moved[ap.Addr()]; ok {
		return netip.AddrPortFrom(to, ap.Port())
	}
	return ap
}

// checkFile compares a file that the images refer to with what this host has.
func checkFile(f NeededFile) error {
	if strings.HasPrefix(f.Path, "/dev/") && !strings.HasPrefix(f.Path, "/dev/shm/") || strings.HasPrefix(f.Path, "/proc/") || strings.HasSuffix(f.Path, " (deleted)") {
		return nil
	}
	st, err := files.Stat(f.Path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no %s; install it", f.Path)
	}
	if err != nil {
		return err
	}
	if f.BuildID != "" {
		if id := BuildID(f.Path); id != f.BuildID {
			return fmt.Errorf("%s is another build (build id %s, the images need %s); install the same package", f.Path, orNone(id), f.BuildID)
		}
	} else if f.Size > 0 && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size != f.Size {
		return fmt.Errorf("%s has %d bytes, the images need %d; copy the same file here", f.Path, st.Size, f.Size)
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// canListen tries the port.
func canListen(ap netip.AddrPort) error {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", ap.String())
	if err != nil {
		return err
	}
	return l.Close()
}
