package orchestrator

import (
	"context"
	"iter"

	"ss/store"
	"ss/store/kv"
)

// Catalogue is what ssctl must not forget of a cluster. store.Catalogue is it, over a database: a bbolt file, or memory in tests.
type Catalogue interface {
	Cluster(ctx context.Context) (store.Cluster, error)
	HostCatalogue
	CertificateCatalogue
	JobCatalogue
	MemberCatalogue
	AttemptCatalogue
	CutCatalogue
	TombstoneCatalogue
	GenerationCatalogue
	ChangeCatalogue
}

// HostCatalogue is the registered hosts.
type HostCatalogue interface {
	Hosts(ctx context.Context) ([]store.Host, error)
	Host(ctx context.Context, name string) (store.Host, error)
	AddHost(ctx context.Context, h store.Host) error
	RemoveHost(ctx context.Context, name string) error
	LoseHost(ctx context.Context, name string) (cuts []string, err error)
	SetSilent(ctx context.Context, silent map[string]bool) error
}

// CertificateCatalogue says whose certificates count no more.
type CertificateCatalogue interface {
	CertifyHost(ctx context.Context, name, serial string) error
	RemovedHosts(ctx context.Context) (store.RemovedHosts, error)
	MergeRemovedHosts(ctx context.Context, seen store.RemovedHosts) error
}

// JobCatalogue is the jobs: their settings, their keys, and their restores.
type JobCatalogue interface {
	Jobs(ctx context.Context) ([]store.Job, error)
	Job(ctx context.Context, name string) (store.Job, error)
	RemoveJob(ctx context.Context, name string) error
	SetPolicy(ctx context.Context, job string, change func(*store.Policy) error) (store.Policy, error)
	EnsureKey(ctx context.Context, job string, draw func() (wrapped, id string, err error)) (store.Job, error)
	SetRestored(ctx context.Context, job string, placement map[string][]store.Placed, epoch uint64, statement []byte, unsettled []store.Unsettled) error
	SetSettled(ctx context.Context, job, host string, epoch uint64) error
}

// MemberCatalogue is where the members of jobs are.
type MemberCatalogue interface {
	DrawMember(ctx context.Context, job, host string, taken []string) (name string, err error)
	AddMember(ctx context.Context, job, host, member string) error
	RemoveMember(ctx context.Context, job, host, member string) error
	WithdrawMember(ctx context.Context, job, host, member string) error
	SeeMembers(ctx context.Context, job string, seen map[string]map[string]store.Placed) error
	ClearHosts(ctx context.Context, job string, hosts ...string) error
	SetPlacement(ctx context.Context, job string, placement map[string][]store.Placed) error
}

// AttemptCatalogue is what is under way. An attempt holds the lease on its job.
type AttemptCatalogue interface {
	BeginAttempt(ctx context.Context, a store.Attempt) (store.Attempt, error)
	Lost(job string) <-chan struct{}
	Guard(ctx context.Context, a store.Attempt) error
	EndAttempt(ctx context.Context, id string) error
	Attempts(ctx context.Context) ([]store.Attempt, error)
	EndedWithoutCut(ctx context.Context, id string, epoch uint64) (bool, error)
}

// CutCatalogue is the cuts.
type CutCatalogue interface {
	CommitCut(ctx context.Context, cut store.Cut) error
	Cuts(ctx context.Context, job string) ([]store.Cut, error)
	Cut(ctx context.Context, job, ref string) (store.Cut, error)
	Pin(ctx context.Context, id string, pinned bool) (store.Cut, error)
	SetHolders(ctx context.Context, id, host string, copies, vaults []string) error
	DeleteCut(ctx context.Context, id string, r store.Removed) error
}

// TombstoneCatalogue is the cuts that were removed, and who has to hear of it yet.
type TombstoneCatalogue interface {
	AddTombstone(ctx context.Context, r store.Removed) error
	Tombstones(ctx context.Context) ([]store.Removed, error)
	Told(ctx context.Context, r store.Removed, who []string) error
}

// GenerationCatalogue tells the newest copy of the catalogue from others.
type GenerationCatalogue interface {
	Advance(ctx context.Context) error
	Mark(ctx context.Context) (store.Mark, error)
	Marks(ctx context.Context, n int) ([]store.Mark, error)
	HadMark(ctx context.Context, m store.Mark) (bool, error)
}

// ChangeCatalogue tells of what others change.
type ChangeCatalogue interface {
	Revision(ctx context.Context) (kv.Revision, error)
	Watch(ctx context.Context, after kv.Revision) iter.Seq2[kv.Change, error]
}

var _ Catalogue = (*store.Catalogue)(nil)
