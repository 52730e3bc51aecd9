package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// BinVariable names the environment variable that says where the programs under test are. When it is not set, the lab
// builds them from the source tree that the running test belongs to.
const BinVariable = "SS_BIN"

// source is a package that is built, and the folder of the module that it is built in.
type source struct{ module, pkg string }

// sources are the packages by the name of the program each becomes.
var sources = map[string]source{
	"ssagent": {".", "./cmd/ssagent"},
	"ssctl":   {".", "./cmd/ssctl"},
	"words":   {".", "./integration/progs/words"},
	"ring":    {".", "./integration/progs/ring"},
	"tree":    {".", "./integration/progs/tree"},
	"echo":    {".", "./integration/progs/echo"},
	"counter": {".", "./integration/progs/counter"},
	"redial":  {".", "./integration/progs/redial"},

	"versitygw":     {"tools", "github.com/versity/versitygw/cmd/versitygw"},
	"checkpointctl": {"tools", "github.com/checkpoint-restore/checkpointctl"},
	"crit":          {"tools", "github.com/checkpoint-restore/go-criu/v8/crit/cmd"},
}

var (
	binMutex sync.Mutex
	binDir   string
	built    = map[string]string{}
)

// Binary returns the path of one of the project's programs, or of one that its tests need: ssagent, ssctl, a test program, an S3 server, what reads
// images of CRIU.
func Binary(name string) (string, error) {
	if dir := os.Getenv(BinVariable); dir != "" {
		path, err := filepath.Abs(filepath.Join(dir, name))
		if err == nil {
			_, err = os.Stat(path)
		}
		if err != nil {
			return "", fmt.Errorf("find %s: %w; build it with: make build", name, err)
		}
		return path, nil
	}
	binMutex.Lock()
	defer binMutex.Unlock()
	if path := built[name]; path != "" {
		return path, nil
	}
	path, err := build(name)
	if err == nil {
		built[name] = path
	}
	return path, err
}

// binaryIn returns the path of a program in a folder, or what Binary returns if the folder is empty.
func binaryIn(folder, name string) (string, error) {
	if folder == "" {
		return Binary(name)
	}
	path := filepath.Join(folder, name)
	_, err := os.Stat(path)
	return path, err
}

// build compiles a program into a folder of this process, which the next lab's Clean removes when this process is dead.
func build(name string) (string, error) {
	source, ok := sources[name]
	if !ok {
		return "", fmt.Errorf("no program %q", name)
	}
	if binDir == "" {
		dir, err := makeDir("bin-")
		if err != nil {
			return "", err
		}
		if err := writeState(dir, nil); err != nil {
			return "", err
		}
		binDir = dir
	}
	gomod, err := exec.CommandContext(context.Background(), "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the source tree: %w", err)
	}
	path := filepath.Join(binDir, name)
	cmd := exec.CommandContext(context.Background(), "go", "build", "-o", path, source.pkg)
	cmd.Dir = filepath.Join(filepath.Dir(strings.TrimSpace(string(gomod))), source.module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return path, nil
}
