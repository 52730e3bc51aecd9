package orchestrator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"ss/fault"
	"ss/store"
)

// Cluster is what ssctl works on: the catalogue and a way to reach each host's agent.
type Cluster struct {
	Catalogue Catalogue
	Dial      func(Host) (Agent, error)
	// Identities reads the age identities that open the jobs' keys. It is called when the first key is needed.
	Identities func() ([]string, error)
	// Signer and Verifier are for what is kept of a cut beside its images.
	Signer   store.Signer
	Verifier store.Verifier
	// Statements signs and opens what is not a cut's manifest: tombstones, the list of removed hosts, where members stand after a restore.
	Statements Statements
	// Progress is told how far each host is. It may be nil; it must not block.
	Progress func(Progress)
	// Notice is told what a person should know and no command can fail for. It may be nil.
	Notice func(text string)

	aheadTold sync.Once
}

// askTimeout bounds a question to an agent that does no work for it.
const askTimeout = 10 * time.Second

// Doing tells Progress what a host is at.
func (c *Cluster) Doing(host, phase string) {
	if c.Progress != nil {
		c.Progress(Progress{Host: host, Phase: phase})
	}
}

// Noticef tells a person what no command can fail for.
func (c *Cluster) Noticef(format string, args ...any) {
	if c.Notice != nil {
		c.Notice(fmt.Sprintf(format, args...))
	}
}

// noted is the context for writing down what has happened: an interrupted command still has that to say. How long it may take is the
// catalogue's to bound.
func noted(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

// HostStatus is a registered host and what its agent says.
type HostStatus struct {
	store.Host
	Info HostInfo
	Err  error // why it did not answer
	// Ahead is a generation that its agent has seen and this catalogue never had; nil where there is none.
	Ahead *store.Mark
}

func (h HostStatus) participant() Participant {
	return Participant{Host: Host{Name: h.Name, Endpoint: h.Addr}, Addrs: h.Info.Addrs}
}

// Ask asks a host what it is, and tells its agent what it should know of the catalogue.
func (c *Cluster) Ask(ctx context.Context, h store.Host, word Word) (HostInfo, error) {
	a, err := c.AgentOf(h)
	if err != nil {
		return HostInfo{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	info, err := a.Info(ctx, word)
	if err == nil && info.Host != h.Name {
		err = fmt.Errorf("the agent at %s says that it is %s", h.Addr, info.Host)
	}
	return info, err
}

// AgentOf reaches the agent of a registered host.
func (c *Cluster) AgentOf(h store.Host) (Agent, error) {
	return c.Dial(Host{Name: h.Name, Endpoint: h.Addr})
}

// host finds a registered host and its agent.
func (c *Cluster) host(ctx context.Context, name string) (store.Host, Agent, error) {
	hosts, err := c.Catalogue.Hosts(ctx)
	if err != nil {
		return store.Host{}, nil, err
	}
	i := slices.IndexFunc(hosts, func(h store.Host) bool { return h.Name == name })
	if i < 0 {
		var known []string
		for _, h := range hosts {
			known = append(known, h.Name)
		}
		return store.Host{}, nil, fault.New(fault.NotFound, fmt.Sprintf("there is no host %q", name), "the hosts are: "+orNone(strings.Join(known, ", ")))
	}
	a, err := c.AgentOf(hosts[i])
	return hosts[i], a, err
}

func orNone(s string) string {
	if s == "" {
		return "none yet (ssctl host add)"
	}
	return s
}

// MembersOf lists the members of a job ("": of all) on a host.
func (c *Cluster) MembersOf(ctx context.Context, h store.Host, job string) ([]Member, error) {
	a, err := c.AgentOf(h)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return a.Members(ctx, job)
}
