package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestChangedBesideACut: files that a cut does not hold, beside those that it does, and that changed after it, are named by a dry run and by the restore in place, with
// what helps. PostgreSQL vacuums after the cut, which makes new files in the place of old ones. With the folder declared, none is named so, and its table is what it was at
// the cut. Needs root, CRIU, gcc and PostgreSQL.
func TestChangedBesideACut(t *testing.T) {
	withoutRace(t)
	c := newCluster(t, "hostA")
	for _, step := range []struct {
		name string
		do   func(s *site)
	}{
		{"own", changedByAnother}, {"postgres", vacuumed}, {"declared", vacuumedDeclared},
	} {
		t.Run(step.name, func(t *testing.T) {
			c := &cluster{Lab: c.Lab, t: t}
			step.do(&site{job: c.newJob("beside-" + step.name), notes: map[string]string{}})
		})
	}
	c.checkLeaks()
}

// dry takes a dry run, which must succeed, and returns what it says.
func (s *site) dry(cut string) string {
	s.t.Helper()
	_, stderr, exit := s.Ctl("restore", cut, "--dry-run")
	if exit != 0 {
		s.t.Fatalf("dry run: exit code %d: %s", exit, stderr)
	}
	return stderr
}

// names checks that what was said names all of that, or that nothing was said of files that changed.
func (s *site) names(said string, words ...string) {
	s.t.Helper()
	if missing := slices.DeleteFunc(slices.Clone(words), func(w string) bool { return strings.Contains(said, w) }); len(missing) > 0 {
		s.t.Errorf("%q is not in: %s", missing, said)
	}
	if len(words) == 0 && strings.Contains(said, "since the cut") {
		s.t.Errorf("nothing has changed: %s", said)
	}
}

// changedByAnother has files made, written and removed beside that of a member.
func changedByAnother(s *site) {
	dir := s.Host("hostA").Path(s.private("hostA", "/srv/"+s.name))
	must(s.t, errors.Join(os.MkdirAll(dir+"/sub/gone", 0o755), os.WriteFile(dir+"/old", nil, 0o644), os.WriteFile(dir+"/sub/gone/f", nil, 0o644)))
	s.serve("lines", "hostA", s.compile("lines"), "/srv/"+s.name+"/file", "place")
	s.MustCtl("job", "set", s.name, "--copies", "1")
	s.awaitProgress()
	cut := s.snapshot().Cut
	s.awaitProgress()
	s.names(s.dry(cut))
	must(s.t, errors.Join(os.WriteFile(dir+"/old", []byte("changed"), 0o644), os.WriteFile(dir+"/sub/new", nil, 0o644), os.Remove(dir+"/sub/gone/f")))
	at := "/srv/" + s.name
	words := []string{
		"hostA: ", fmt.Sprintf("2 files in %s and below have changed since the cut", at), at + "/old", at + "/sub/new",
		"names were made or removed", at + "/sub/gone", "ssctl run --files " + at,
	}
	s.names(s.dry(cut), words...)
	_, stderr, exit := s.Ctl("restore", cut)
	if exit != 0 {
		s.t.Fatalf("restore: exit code %d: %s", exit, stderr)
	}
	s.names(stderr, words...)
	s.awaitProgress()
	if b, err := os.ReadFile(dir + "/old"); string(b) != "changed" {
		s.t.Errorf("what is not in the cut became %q, %v", b, err)
	}
	s.end()
}

// database starts PostgreSQL on hostA, with a table of which half is dead, and takes a cut. Then it vacuums. It returns the cut, and the table's new file.
func (s *site) database(folder string) (cut, vacuumed string) {
	s.t.Helper()
	dir := s.private("hostA", "/srv/"+s.name)
	own(s.t, s.Host("hostA").Path(dir), "postgres")
	data := filepath.Join(dir, "data")
	s.on("hostA", s.postgres("initdb", "-D", data, "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8")...)
	hba := s.Host("hostA").Path(data + "/pg_hba.conf")
	b, err := os.ReadFile(hba)
	must(s.t, errors.Join(err, os.WriteFile(hba, append(b, "host all all 10.77.0.0/24 trust\n"...), 0o600)))
	s.serveWith(folder, "postgres", "hostA", s.postgres("postgres", "-D", data, "-c", "listen_addresses=*", "-c", "unix_socket_directories=", "-c", "fsync=off",
		"-c", "checkpoint_timeout=1h", "-c", "autovacuum=off")...)
	s.MustCtl("job", "set", s.name, "--copies", "1")
	await(s.t, "PostgreSQL", func() string {
		out, err := s.Host("hostA").Command(s.t.Context(), s.postgres("pg_isready", "-h", s.Host("hostA").Addr().String())...).CombinedOutput()
		if err != nil {
			return string(out) + s.lastLog()
		}
		return ""
	})
	s.query("hostA", "CREATE TABLE numbers AS SELECT g FROM generate_series(1, 20000) g; DELETE FROM numbers WHERE g % 2 = 0; CHECKPOINT")
	cut = s.snapshot().Cut
	before := s.query("hostA", "SELECT pg_relation_filepath('numbers')")
	s.query("hostA", "VACUUM FULL numbers")
	s.query("hostA", "CHECKPOINT") // which removes the old file
	after := s.query("hostA", "SELECT pg_relation_filepath('numbers')")
	if _, err := os.Stat(s.Host("hostA").Path(filepath.Join(data, before))); before == after || !errors.Is(err, os.ErrNotExist) {
		s.t.Fatalf("%s became %s, and the old one: %v", before, after, err)
	}
	return cut, filepath.Join(data, after)
}

func vacuumed(s *site) {
	cut, file := s.database("")
	dir := "/srv/" + s.name + "/data"
	said := s.dry(cut)
	s.names(said, "hostA: ", "files in "+dir+" and below have changed since the cut", file, "ssctl run --files "+dir)
	s.end()
}

func vacuumedDeclared(s *site) {
	cut, file := s.database("/srv/" + s.name)
	said := s.dry(cut)
	s.names(said)
	s.names(said, "are not in the cut, and are removed when its members run")
	s.restore(cut)
	if sum := s.query("hostA", "SELECT sum(g) FROM numbers"); sum != "100000000" {
		s.t.Errorf("the sum is %s", sum)
	}
	if _, err := os.Stat(s.Host("hostA").Path(file)); !errors.Is(err, os.ErrNotExist) {
		s.t.Errorf("what came after the cut is there: %v", err)
	}
	s.end()
}
