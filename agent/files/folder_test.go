package files

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFoldersOfAMember needs root. All regular files in a folder that a member names are in the cut, open or not, and nothing that a link in it leads to. A restore
// puts them back, with folders that are missing, and puts aside what has come since; undone, all is as before it.
func TestFoldersOfAMember(t *testing.T) {
	root, home := playground(t)
	write(t, root+"/secret", "secret", 0)
	must(t, os.Mkdir(root+"/private", 0o700))
	write(t, root+"/private/key", "key", 0)
	must(t, os.MkdirAll(home+"/db/sub/empty", 0o750))
	for _, dir := range []string{"/db", "/db/sub", "/db/sub/empty"} {
		must(t, os.Chown(home+dir, user, user))
	}
	write(t, home+"/db/a", "a at the cut", user)
	write(t, home+"/db/sub/b", "b at the cut", user)
	must(t, os.Symlink(root+"/secret", home+"/db/link"))
	must(t, os.Symlink(root+"/private", home+"/db/way"))
	must(t, unix.Mkfifo(home+"/db/fifo", 0o600))

	trees := []Tree{{Member: "m", Pids: []int{os.Getpid()}, Root: "/", Folders: []string{home + "/db", home + "/none"}}}
	c, err := Take(t.Context(), trees, nil, nil)
	must(t, err)
	dir := t.TempDir()
	for _, after := range []bool{false, true} {
		must(t, c.Copy(t.Context(), after, func(string) string { return dir }))
	}
	var sources []Source
	var names []string
	for _, f := range c.Stored("m") {
		if strings.HasPrefix(f.Path, root) {
			sources = append(sources, Source{Stored: f, Content: filepath.Join(dir, f.Name), InPlace: true})
			names = append(names, f.Path)
		}
	}
	places := c.Dirs("m")
	must(t, c.Close())
	slices.Sort(names)
	if want := []string{home + "/db/a", home + "/db/sub/b"}; !slices.Equal(names, want) {
		t.Fatalf("in the cut: %q, want %q", names, want)
	}
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			return "-"
		}
		return string(b)
	}
	state := func() string {
		return strings.Join([]string{read(home + "/db/a"), read(home + "/db/sub/b"), read(home + "/db/new"), read(home + "/db/later/new"), read(root + "/secret"), read(root + "/private/key")}, "|")
	}
	must(t, os.WriteFile(home+"/db/a", []byte("a, longer, of later"), 0o600))
	must(t, os.RemoveAll(home+"/db/sub"))
	write(t, home+"/db/new", "new", user)
	must(t, os.Mkdir(home+"/db/later", 0o755))
	must(t, os.Chown(home+"/db/later", user, user))
	write(t, home+"/db/later/new", "new too", user)
	later := state()
	for _, final := range []bool{false, true} {
		u, err := PutBack(filepath.Join(t.TempDir(), "undo"), places, []string{home + "/db"}, sources)
		must(t, err)
		if got, want := state(), "a at the cut|b at the cut|-|-|secret|key"; got != want {
			t.Errorf("put back: %s, want %s", got, want)
		}
		var st unix.Stat_t
		must(t, unix.Stat(home+"/db/sub/empty", &st))
		if st.Mode&0o7777 != 0o750 || st.Uid != user {
			t.Errorf("a folder that was made has the mode %o and is user %d's", st.Mode&0o7777, st.Uid)
		}
		if final {
			must(t, u.Done())
			if got, want := state(), "a at the cut|b at the cut|-|-|secret|key"; got != want {
				t.Errorf("in the end: %s, want %s", got, want)
			}
			left, err := filepath.Glob(home + "/db/" + temporary + "*")
			must(t, err)
			if len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			continue
		}
		must(t, u.Back())
		if got := state(); got != later {
			t.Errorf("undone: %s, want %s", got, later)
		}
		if !Missing(home + "/db/sub") {
			t.Error("a folder that was made is still there")
		}
	}
}

// TestMadeFolderIsExchanged needs root. A folder that a restore makes where another user can write gets its owner and mode through a descriptor: a link or a folder
// of somebody else's in its place keeps its own.
func TestMadeFolderIsExchanged(t *testing.T) {
	root, home := playground(t)
	must(t, os.Mkdir(root+"/private", 0o700))
	must(t, os.Mkdir(home+"/made", 0o700))
	var made, private unix.Stat_t
	must(t, unix.Lstat(home+"/made", &made))
	for what, plant := range map[string]func() error{
		"link":   func() error { return os.Symlink(root+"/private", home+"/made") },
		"folder": func() error { return os.Mkdir(home+"/made", 0o700) },
	} {
		must(t, os.Rename(home+"/made", home+"/aside-"+what))
		must(t, plant())
		p, err := locate("/", home+"/made", nil)
		must(t, err)
		err = p.finish(Seen{Path: home + "/made", Mode: unix.S_IFDIR | 0o777}, &made)
		p.close()
		if err == nil || !strings.Contains(err.Error(), "was exchanged") {
			t.Errorf("%s: %v", what, err)
		}
		must(t, unix.Lstat(root+"/private", &private))
		if private.Mode&0o7777 != 0o700 {
			t.Errorf("%s: the folder that it leads to has the mode %o", what, private.Mode&0o7777)
		}
		must(t, os.Remove(home+"/made"))
		must(t, os.Rename(home+"/aside-"+what, home+"/made"))
	}
	p, err := locate("/", home+"/made", nil)
	must(t, err)
	defer p.close()
	must(t, p.finish(Seen{Path: home + "/made", Mode: unix.S_IFDIR | 0o751}, &made))
	must(t, unix.Lstat(home+"/made", &made))
	if made.Mode&0o7777 != 0o751 {
		t.Errorf("the mode is %o", made.Mode&0o7777)
	}
}
