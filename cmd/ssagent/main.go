// ssagent is one host's agent. It runs as root, from systemd or by hand.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"ss/agent"
	"ss/agent/cell"
	"ss/agent/criu"
	"ss/agent/custody"
	"ss/agent/gate"
	"ss/agent/memory"
	"ss/agent/rpc"
	"ss/api/identity"
	"ss/fault"
	"ss/store/images"
)

// version is set by the build.
var version = "dev"

// Subcommands that the agent starts itself with, in processes of their own.
const (
	cellInit  = "cell-init"
	cellWatch = "cell-watch"
	criuExec  = "criu-exec"
	memHelper = "memory-helper"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case cellInit:
			os.Exit(cell.InitMain(os.Args[2:]))
		case cellWatch:
			os.Exit(cell.WatchMain(os.Args[2:]))
		case criuExec:
			os.Exit(criu.ExecMain(os.Args[2:]))
		case memHelper:
			os.Exit(memory.HelperMain(os.Args[2:]))
		}
	}
	if err := command().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "ssagent:", fault.Printable(err.Error()))
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var configFile, stateDir string
	cmd := &cobra.Command{
		Use:           "ssagent --config FILE",
		Short:         "The agent of one host: records, holds and restores the members of jobs",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := loadConfig(configFile)
			if err != nil {
				return err
			}
			if stateDir != "" {
				cfg.StateDir = stateDir
			}
			if cfg.Staging == "" {
				cfg.Staging = filepath.Join(cfg.StateDir, "staging")
			}
			return run(cfg)
		},
	}
	cmd.Flags().StringVar(&configFile, "config", "/etc/ss/agent.yaml", "configuration that ssctl host add wrote")
	cmd.Flags().StringVar(&stateDir, "state-dir", "", "where images and the journal live (default: state_dir of the configuration, or /var/lib/ss)")
	return cmd
}

// run wires the agent, serves until it is told to stop, and undoes what is unfinished.
func run(cfg config) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if os.Geteuid() != 0 {
		return errors.New("it must run as root: CRIU, namespaces and gates need it")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	creds, err := credentials(cfg)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return err
	}
	lock, err := lockState(cfg.StateDir) // before anything of another agent's could be taken for what an earlier one has left
	if err != nil {
		return err
	}
	defer lock.Close()
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	gates, err := gate.New(gate.Options{Host: cfg.Host, Log: log})
	if err != nil {
		return fmt.Errorf("gates: %w", err)
	}
	defer func() {
		if err := gates.Shutdown(); err != nil {
			log.Error("gates", "error", err)
		}
	}()
	cells, err := cell.New(cell.Config{StateDir: cfg.StateDir, CgroupParent: cfg.Cgroup, Exe: []string{exe}})
	if err != nil {
		return fmt.Errorf("cells: %w", err)
	}
	runner, err := criu.New(criu.Config{Path: cfg.CRIU, Exe: []string{exe, criuExec}, WorkDir: filepath.Join(cfg.StateDir, "criu")})
	if err != nil {
		return fmt.Errorf("criu: %w", err)
	}
	// What can wait does, while members stand still: the store and the agent get the same gate.
	quiet := &agent.Quiet{}
	tracker := memory.New(memory.Config{Exe: []string{exe, memHelper}, Off: cfg.Memory == memoryFrozen, NoTwins: !cfg.Twins, TwinsFrom: int64(cfg.TwinsFrom), From: int64(cfg.TrackedFrom), Pause: quiet.Wait})
	peers := rpc.NewPeers(creds)
	defer peers.Close()
	held, err := openImages(cfg, quiet, peers, runner, creds, log)
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	a, err := agent.New(ctx, agent.Config{
		Host: cfg.Host, StateDir: cfg.StateDir, Cells: cells, Gates: gates, CRIU: runner, Memory: tracker, Peers: peers, Images: held, Quiet: quiet,
		Log: log, Verifier: creds, Members: creds, FilesLimit: int64(cfg.FilesLimit),
	})
	if err != nil {
		return err
	}
	peers.Take = a.TakeRemoved
	return serve(ctx, cfg, a, held, creds, log)
}

// openImages makes the host a holder of images, with what is in its state folder.
func openImages(cfg config, quiet *agent.Quiet, peers *rpc.Peers, runner *criu.Runner, creds *identity.Credentials, log *slog.Logger) (*custody.Holder, error) {
	dir := filepath.Join(cfg.StateDir, "images")
	store, err := images.Open(dir, images.Options{
		Staging: cfg.Staging, StagingLimit: int64(cfg.StagingLimit), RateLimit: int64(cfg.RateLimit), KeepDumps: cfg.KeepDumps, Pause: quiet.Wait,
	})
	if err != nil {
		return nil, err
	}
	return custody.New(custody.Config{
		Host: cfg.Host, Store: store, Dir: dir, Staging: cfg.Staging, Scratch: filepath.Join(cfg.StateDir, "scratch"),
		VaultCredentials: cfg.VaultCredentials, Peers: peers, Ends: runner, Verifier: creds, Log: log,
		ScrubRate: int64(cfg.ScrubRate), ScrubPause: cfg.ScrubPause,
	})
}

// credentials reads the agent's own.
func credentials(cfg config) (*identity.Credentials, error) {
	creds, err := identity.LoadBundle(cfg.Cert, cfg.Key, cfg.CA)
	if err != nil {
		return nil, err
	}
	if id := creds.Identity(); id.Role != identity.RoleAgent || id.Name != cfg.Host {
		return nil, fmt.Errorf("the certificate %s is %s's, not that of the agent of %s: use the bundle that ssctl host add wrote for this host", cfg.Cert, id, cfg.Host)
	}
	return creds, nil
}

func serve(ctx context.Context, cfg config, a *agent.Agent, held *custody.Holder, creds *identity.Credentials, log *slog.Logger) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return err
	}
	door := rpc.NewDoor(l)
	s := rpc.NewServer(a, held, creds, version)
	served := make(chan error, 1)
	go func() { served <- s.Serve(door) }() // ended by Stop, below
	log.Info("serving", "host", cfg.Host, "addr", l.Addr().String(), "version", version)
	// Without a NOTIFY_SOCKET this does nothing: an agent started by hand has nobody to tell.
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Warn("sd_notify", "error", err)
	}
	select {
	case err = <-served:
		return err
	case <-ctx.Done():
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyStopping); err != nil {
		log.Warn("sd_notify", "error", err)
	}
	log.Info("stopping")
	return stop(door, a, s, log)
}

// closeMax bounds how long an agent that was told to stop undoes what is unfinished. What is left then, its next start undoes.
const closeMax = 15 * time.Second

// stop undoes what is unfinished and ends the server. Nothing that another host does or omits makes it take long.
func stop(door *rpc.Door, a *agent.Agent, s *grpc.Server, log *slog.Logger) error {
	end, cancel := context.WithTimeout(context.Background(), closeMax)
	defer cancel()
	err := a.Close(end) // while peers may still ask what became of a restore
	if derr := door.Close(); derr != nil {
		log.Warn("close the listener", "error", derr)
	}
	calls, cancel := context.WithTimeout(context.Background(), rpc.StopMax)
	defer cancel()
	if serr := rpc.Stop(calls, s); serr != nil {
		log.Warn("calls are still under way; the next start settles them", "error", serr)
	}
	return err
}
