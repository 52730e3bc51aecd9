package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ss/api/identity"
	"ss/fault"
	"ss/orchestrator"
	"ss/orchestrator/remote"
	"ss/report"
	"ss/store"
)

// app is what every command shares: the global flags and what they open.
type app struct {
	dir      string
	identity string
	output   string
	timeout  time.Duration
	quiet    bool
	noColor  bool

	// stdout and stderr are what a person reads: whatever a terminal would act on is quoted on the way (fault.Printer). JSON
	// is exact, and goes to documents.
	stdout, stderr io.Writer
	documents      io.Writer
	errorDocuments io.Writer
	screen         *screen
}

func newApp() *app {
	return &app{stdout: fault.Printer(os.Stdout), stderr: fault.Printer(os.Stderr), documents: os.Stdout, errorDocuments: os.Stderr}
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "ssctl",
		Short: "Distributed snapshots of UNIX processes",
		Long: "ssctl records a consistent global state of a job that runs on several hosts, while it runs,\n" +
			"and puts the whole job back, a lost host's part on another, with its connections alive.",
		SilenceUsage:  true,
		SilenceErrors: true,
		// Without these, cobra answers an unknown command with an error that is not one of usage.
		Args: func(_ *cobra.Command, got []string) error {
			if len(got) > 0 {
				return usage("there is no command %q", got[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, argv []string) error {
			if a.output != "table" && a.output != "json" {
				return usage("-o takes table or json, not %q", a.output)
			}
			if os.Getenv("NO_COLOR") != "" {
				a.noColor = true
			}
			a.screen = newScreen(os.Stderr, a.stderr, a.quiet, a.noColor)
			return checkText(cmd, argv)
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage("%v", err) })
	f := root.PersistentFlags()
	f.StringVar(&a.dir, "dir", defaultDir(), "the cluster's folder (SSCTL_DIR)")
	f.StringVar(&a.identity, "identity", os.Getenv("SSCTL_IDENTITY"), "file with an age identity that opens the jobs' keys, in place of the folder's images.key (SSCTL_IDENTITY)")
	f.StringVarP(&a.output, "output", "o", "table", "table or json")
	f.DurationVar(&a.timeout, "timeout", 0, "give up after this long (0: the command's own limit)")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "no progress")
	f.BoolVar(&a.noColor, "no-color", false, "no colours (NO_COLOR)")
	root.AddCommand(a.initCommand(), a.hostCommand(), a.runCommand(), a.attachCommand(), a.psCommand(), a.logsCommand(), a.checkCommand(), a.snapshotCommand(),
		a.listCommand(), a.showCommand(), a.verifyCommand(), a.restoreCommand(), a.killCommand(), a.rmCommand(),
		a.jobCommand(), a.pinCommand("pin", "Protect a cut from retention", true), a.pinCommand("unpin", "Let retention remove a cut again", false),
		a.repairCommand(), a.gcCommand(), a.dfCommand(), a.catalogCommand(), a.exportCommand(), a.importCommand(), a.versionCommand())
	return root
}

// args checks the number of arguments, with the usage line where it is wrong.
func args(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, got []string) error {
		if len(got) < least || most >= 0 && len(got) > most {
			return usage("usage: ssctl %s", strings.TrimPrefix(cmd.UseLine(), "ssctl "))
		}
		return nil
	}
}

func defaultDir() string {
	if d := os.Getenv("SSCTL_DIR"); d != "" {
		return d
	}
	if os.Geteuid() == 0 {
		return "/var/lib/ssctl"
	}
	if d := os.Getenv("XDG_DATA_HOME"); d != "" {
		return filepath.Join(d, "ssctl")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "ssctl"
	}
	return filepath.Join(home, ".local", "share", "ssctl")
}

// with opens the cluster for one command.
func (a *app) with(ctx context.Context, do func(context.Context, *orchestrator.Cluster) error) error {
	cat, err := store.Open(ctx, a.dir)
	if err != nil {
		return a.noCatalogue(err)
	}
	defer cat.Close()
	cat.Where = a.where()
	creds, err := a.credentials()
	if err != nil {
		return err
	}
	dialer := remote.NewDialer(creds)
	defer dialer.Close()
	ctx, cancel := a.limited(ctx)
	defer cancel()
	defer a.screen.finish()
	err = do(ctx, &orchestrator.Cluster{Catalogue: cat, Dial: dialer.Dial, Identities: a.identities, Signer: creds, Verifier: creds, Statements: remote.Statements{Credentials: creds},
		Progress: a.screen.progress, Notice: a.screen.notice})
	if ctx.Err() != nil && fault.Is(err, fault.Unreachable) {
		// It was not the host that did not answer, but we who did not wait.
		return &fault.Error{Kind: fault.Interrupted, Err: context.Cause(ctx), Next: "hosts had not all answered"}
	}
	if cause := context.Cause(ctx); cause != nil && fault.KindOf(err) == fault.Failed && (errors.Is(err, cause) || errors.Is(err, ctx.Err())) {
		return &fault.Error{Kind: fault.Interrupted, Err: err} // wherever the command was when its time was over
	}
	if errors.Is(err, store.ErrCorrupt) && cat.Check(ctx) != nil { // the catalogue, and not what hosts or vaults hold
		return a.noCatalogue(err)
	}
	return err
}

// where names this machine and the folder, for people who have copies of it.
func (a *app) where() string {
	host, err := os.Hostname()
	if err != nil {
		host = "an unnamed machine"
	}
	dir, err := filepath.Abs(a.dir)
	if err != nil {
		dir = a.dir
	}
	return strings.ToValidUTF8(host+":"+dir, "?") // hosts are told
}

// noCatalogue says what to do where the identity is there and the catalogue is not, or is damaged.
func (a *app) noCatalogue(err error) error {
	if _, serr := os.Stat(filepath.Join(a.dir, "admin.key")); serr != nil {
		return err
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return &fault.Error{Kind: fault.NotFound, Err: fmt.Errorf("%s holds an admin's identity, and no catalogue: %w", a.dir, store.ErrNotFound),
			Next: "if the catalogue is lost, this rebuilds it from what the hosts hold: ssctl --dir " + shellWord(a.dir) + " catalog rebuild --host NAME=IP:PORT"}
	case errors.Is(err, store.ErrCorrupt):
		command := "ssctl --dir " + shellWord(a.dir) + " catalog rebuild --replace"
		if hosts := store.SalvageHosts(a.dir); len(hosts) == 0 {
			command += " --host NAME=IP:PORT"
		}
		return &fault.Error{Kind: fault.Integrity, Err: err, Next: "the catalogue is damaged; this puts it aside and makes another of what the hosts and vaults hold: " + command}
	}
	return err
}

// shellWord quotes a path for a shell, where that is needed.
func shellWord(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+,:@%="
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func (a *app) credentials() (*identity.Credentials, error) {
	return identity.LoadBundle(filepath.Join(a.dir, "admin.crt"), filepath.Join(a.dir, "admin.key"), filepath.Join(a.dir, "ca.crt"))
}

// limited applies --timeout.
func (a *app) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if a.timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, a.timeout, fmt.Errorf("--timeout %s is over", a.timeout))
}

// complain says why the command failed, and ends what the screen shows.
func (a *app) complain(err error, exit int) {
	if a.screen != nil {
		a.screen.finish()
	}
	if a.json() {
		// On standard error, as the table's words: a reader of standard output gets a document of the command, or nothing.
		enc := json.NewEncoder(a.errorDocuments)
		enc.SetIndent("", "  ")
		_ = enc.Encode(report.FailureOf(err, kindOf(err), exit)) // there is nobody left to tell
		return
	}
	fmt.Fprintln(a.stderr, "ssctl:", fault.Printable(err.Error()))
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version", Args: args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if a.json() {
				return a.print(report.Version{Schema: "ss/version/1", Version: version})
			}
			_, err := fmt.Fprintln(a.stdout, "ssctl", version)
			return err
		},
	}
}
