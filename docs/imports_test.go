package docs

import (
	"fmt"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// importRule is one of the rules named depguard in .golangci.yml.
type importRule struct {
	Mode  string   `yaml:"list-mode"` // strict: what is not allowed is denied; lax: what is not denied is allowed
	Files []string `yaml:"files"`
	Allow []string `yaml:"allow"`
	Deny  []struct {
		Pkg  string `yaml:"pkg"`
		Desc string `yaml:"desc"`
	} `yaml:"deny"`
}

// importRules reads the rules. They are written once, for the linter, and kept here as well: the linter takes minutes to build on a
// fresh machine, and these tests run everywhere.
func importRules(t *testing.T) map[string]importRule {
	t.Helper()
	var config struct {
		Linters struct {
			Settings struct {
				Depguard struct{ Rules map[string]importRule }
			}
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, "../.golangci.yml")), &config); err != nil {
		t.Fatal(err)
	}
	rules := config.Linters.Settings.Depguard.Rules
	if len(rules) < 15 {
		t.Fatalf("read %d rules from .golangci.yml: has its form changed?", len(rules))
	}
	return rules
}

// applies says whether a rule is about a file. Paths count from the module's folder and begin with a slash.
func (r importRule) applies(file string) bool {
	included := false
	for _, pattern := range r.Files {
		name, exclude := strings.CutPrefix(pattern, "!")
		if !globMatches(name, file) {
			continue
		}
		if exclude {
			return false
		}
		included = true
	}
	return included
}

// globMatches knows the patterns of depguard that the rules use.
func globMatches(pattern, file string) bool {
	switch pattern {
	case "$test":
		return strings.HasSuffix(file, "_test.go")
	case "$all":
		return true
	}
	expr := regexp.QuoteMeta(pattern)
	expr = strings.NewReplacer(`\*\*/`, `(?:.*/)?`, `\*\*`, `.*`, `\*`, `[^/]*`).Replace(expr)
	return regexp.MustCompile("^/?" + expr + "$").MatchString(file)
}

// verdict is why a rule forbids an import, or "". The longer of an allowed and a denied prefix decides.
func (r importRule) verdict(pkg string) string {
	allowed := -1
	for _, a := range r.Allow {
		if standard := !strings.Contains(strings.SplitN(pkg, "/", 2)[0], ".") && pkg != "ss" && !strings.HasPrefix(pkg, "ss/"); a == "$gostd" && standard {
			allowed = max(allowed, 0)
		} else if prefixMatches(a, pkg) {
			allowed = max(allowed, len(a))
		}
	}
	denied, why := -1, "it is not among what the rule allows"
	for _, d := range r.Deny {
		if prefixMatches(d.Pkg, pkg) && len(d.Pkg) > denied {
			denied, why = len(d.Pkg), d.Desc
		}
	}
	if r.Mode == "strict" && denied < 0 && allowed < 0 || denied >= 0 && denied >= allowed {
		return why
	}
	return ""
}

func prefixMatches(prefix, pkg string) bool {
	if exact, ok := strings.CutSuffix(prefix, "$"); ok {
		return pkg == exact
	}
	return strings.HasPrefix(pkg, prefix)
}

// TestImportRules holds every file of the project against the import rules, and checks that each rule is about some file.
func TestImportRules(t *testing.T) {
	rules := importRules(t)
	used := map[string]int{}
	files := 0
	folders(t, func(dir string) {
		found, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			files++
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			name := strings.TrimPrefix(filepath.ToSlash(path), root)
			for rule, r := range rules {
				if !r.applies(name) {
					continue
				}
				used[rule]++
				for _, i := range f.Imports {
					pkg, err := strconv.Unquote(i.Path.Value)
					if err != nil {
						t.Fatal(err)
					}
					if why := r.verdict(pkg); why != "" {
						t.Errorf("%s imports %s: %s (rule %s of .golangci.yml)", name, pkg, why, rule)
					}
				}
			}
		}
	})
	for rule := range rules {
		if used[rule] == 0 {
			t.Errorf("the rule %s of .golangci.yml is about no file", rule)
		}
	}
	if files < 300 {
		t.Errorf("looked at %d files: is %s still the module's root?", files, root)
	}
}

// TestImportRulesFind: what the rules are there to find, they do find.
func TestImportRulesFind(t *testing.T) {
	rules := importRules(t)
	for _, c := range []struct {
		file, pkg string
		forbidden bool
	}{
		{"/marker/types.go", "time", true},
		{"/marker/types.go", "ss/store", true},
		{"/marker/types.go", "slices", false},
		{"/marker/sim_test.go", "time", false},
		{"/store/pack/pack.go", "ss/marker", true},
		{"/store/kv/kv.go", "ss/store/kv/bolt", true},
		{"/store/kv/bolt/db.go", "ss/store", true},
		{"/store/kv/bolt/db.go", "ss/internal/disk", false},
		{"/store/cuts.go", "go.etcd.io/bbolt", true},
		{"/store/blob/dir.go", "ss/agent/cell", true},
		{"/store/blob/dir.go", "github.com/minio/minio-go/v7", true},
		{"/store/blob/s3.go", "github.com/minio/minio-go/v7", false},
		{"/agent/agent.go", "ss/agent/criu", true},
		{"/agent/agent.go", "ss/orchestrator", true},
		{"/agent/criu/dump.go", "google.golang.org/grpc", true},
		{"/agent/rpc/server.go", "google.golang.org/grpc", false},
		{"/agent/cell/cell.go", "github.com/checkpoint-restore/go-criu/v7", true},
		{"/orchestrator/upkeep/gc.go", "ss/agent", true},
		{"/orchestrator/upkeep/gc.go", "ss/api/wire", true},
		{"/orchestrator/upkeep/gc.go", "ss/orchestrator", false},
		{"/orchestrator/restore.go", "ss/orchestrator/upkeep", true},
		{"/orchestrator/remote/remote.go", "ss/api/wire", false},
		{"/integration/progs/words/main.go", "ss/agent", true},
		{"/integration/progs/words/main.go", "golang.org/x/sys/unix", true},
		{"/integration/progs/words/main.go", "net", false},
		{"/integration/rig_test.go", "ss/store", true},
		{"/fault/fault.go", "ss/cmd/ssctl", true},
	} {
		var why []string
		for name, r := range rules {
			if !r.applies(c.file) {
				continue
			}
			if v := r.verdict(c.pkg); v != "" {
				why = append(why, fmt.Sprintf("%s: %s", name, v))
			}
		}
		if (len(why) > 0) != c.forbidden {
			t.Errorf("%s imports %s: %v", c.file, c.pkg, why)
		}
	}
}
