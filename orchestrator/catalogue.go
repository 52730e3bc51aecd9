package orchestrator

import (
	"context"
	"iter"

	"ss/store"
	"ss/store/kv"
)

// Catalogue is what ssctl must not forget of a cluster. store.Catalogue is it, over a database: a bbolt file, or memory in tests.
type Catalogue interface {
	// Cluster returns what the catalogue belongs to.
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
	// Hosts lists the registered hosts by name.
	Hosts(ctx context.Context) ([]store.Host, error)
	// Host finds one registered host; without one the error wraps store.ErrNotFound.
	Host(ctx context.Context, name string) (store.Host, error)
	// AddHost registers a host. A zero Added means now. One of that name, or of that endpoint, makes the error wrap store.ErrConflict.
	AddHost(ctx context.Context, h store.Host) error
	// RemoveHost forgets a host and its members, which the caller knows to have ended. While an attempt that it takes part in runs, the
	// error wraps store.ErrConflict.
	RemoveHost(ctx context.Context, name string) error
	// LoseHost forgets a host that is gone for good, with its members, and takes it off the copies of every cut. It returns the cuts that it held
	// images of, by time. While an attempt that it takes part in runs, the error wraps store.ErrConflict.
	LoseHost(ctx context.Context, name string) (cuts []string, err error)
	// SetSilent notes of hosts by name that they have fallen silent now (true), or answer again. It leaves out hosts that are not registered.
	SetSilent(ctx context.Context, silent map[string]bool) error
}

// CertificateCatalogue says whose certificates count no more.
type CertificateCatalogue interface {
	// CertifyHost notes the certificate of a host that is added. If the host was removed before, only that certificate counts from now on.
	CertifyHost(ctx context.Context, name, serial string) error
	// RemovedHosts returns the list of removed hosts as it is now.
	RemovedHosts(ctx context.Context) (store.RemovedHosts, error)
	// MergeRemovedHosts takes in a newer list that an agent has. For a registered host the catalogue's own entry counts.
	MergeRemovedHosts(ctx context.Context, seen store.RemovedHosts) error
}

// JobCatalogue is the jobs: their settings, their keys, and their restores.
type JobCatalogue interface {
	// Jobs lists the jobs by name.
	Jobs(ctx context.Context) ([]store.Job, error)
	// Job finds one job; without one the error wraps store.ErrNotFound.
	Job(ctx context.Context, name string) (store.Job, error)
	// RemoveJob forgets a job, but not its epoch. A job with cuts or attempts makes the error wrap store.ErrConflict.
	RemoveJob(ctx context.Context, name string) error
	// SetPolicy changes a job's policy in one transaction and returns it. If change fails, or makes an invalid policy (store.ErrInvalid), nothing
	// changes. change must not use the catalogue.
	SetPolicy(ctx context.Context, job string, change func(*store.Policy) error) (store.Policy, error)
	// EnsureKey returns the job with its wrapped key. If it has none, draw makes one, which is durable before EnsureKey returns. Of several at once
	// one wins. draw may use the catalogue.
	EnsureKey(ctx context.Context, job string, draw func() (wrapped, id string, err error)) (store.Job, error)
	// SetRestored notes, in one transaction, that a job was restored: where its members are, their epoch, and which hosts may have older copies. A
	// restore that is not newer than the last one changes nothing.
	SetRestored(ctx context.Context, job string, placement map[string][]store.Placed, epoch uint64, statement []byte, unsettled []store.Unsettled) error
	// SetSettled notes that a host has no older copies of a job's members any more, as of the restore of that epoch.
	SetSettled(ctx context.Context, job, host string, epoch uint64) error
}

// MemberCatalogue is where the members of jobs are.
type MemberCatalogue interface {
	// DrawMember draws the name of a member that is about to start on a registered host and stores it as starting. No later call gives that name
	// again while the job lives. taken are further names that the host has. A new job is made. While a restore has the job, the error wraps
	// store.ErrConflict.
	DrawMember(ctx context.Context, job, host string, taken []string) (name string, err error)
	// AddMember notes that a member runs on a host, and makes a new job. A member that is on another host makes the error wrap store.ErrConflict.
	AddMember(ctx context.Context, job, host, member string) error
	// ConfirmMember notes that a member whose name was drawn runs. False: a restore or a kill has taken it off the catalogue meanwhile, and it stays off.
	ConfirmMember(ctx context.Context, job, host, member string) (there bool, err error)
	// RemoveMember notes that a member is gone. Its host stays among those that had members. A missing member is not an error.
	RemoveMember(ctx context.Context, job, host, member string) error
	// WithdrawMember takes back a member whose start has failed. A job that was made for it, and has had no other member, goes as well.
	WithdrawMember(ctx context.Context, job, host, member string) error
	// SeeMembers notes what hosts say of members that are placed there, by host and name. It leaves out what is not placed there, and unknown jobs.
	SeeMembers(ctx context.Context, job string, seen map[string]map[string]store.Placed) error
	// ClearHosts notes that hosts have no member of a job any more, as of the restore of that epoch. They stay among those that had members. It changes
	// nothing if the job was restored since.
	ClearHosts(ctx context.Context, job string, epoch uint64, hosts ...string) error
	// SetPlacement replaces where the members of a job are, and makes a new job. Hosts that had members stay listed, without any.
	SetPlacement(ctx context.Context, job string, placement map[string][]store.Placed) error
}

// AttemptCatalogue is what is under way. An attempt holds the lease on its job.
type AttemptCatalogue interface {
	// BeginAttempt takes the lease on the job, draws the attempt's epoch and id, and returns when that is durable. The caller gives Kind, Job, Hosts
	// and Phase, and an ID only to an imported cut. If that is taken, or another attempt has the lease, the error wraps store.ErrConflict.
	BeginAttempt(ctx context.Context, a store.Attempt) (store.Attempt, error)
	// Lost returns a channel that is closed when this handle loses the lease on a job. Its attempt can commit nothing then.
	Lost(job string) <-chan struct{}
	// Guard returns nil while an attempt of this handle holds the lease on its job. Else the error wraps store.ErrConflict.
	Guard(ctx context.Context, a store.Attempt) error
	// EndAttempt forgets an attempt that did not commit, once its hosts run again. One that has ended already is not an error. One of another living
	// ssctl makes the error wrap store.ErrConflict.
	EndAttempt(ctx context.Context, id string) error
	// Attempts lists what has begun and not ended, oldest first.
	Attempts(ctx context.Context) ([]store.Attempt, error)
	// EndedWithoutCut says whether this catalogue itself began a snapshot of that id and epoch that ended without a cut.
	EndedWithoutCut(ctx context.Context, id string, epoch uint64) (bool, error)
}

// CutCatalogue is the cuts.
type CutCatalogue interface {
	// CommitCut makes the cut exist and ends the attempt of the same id, in one durable transaction (M9). If the attempt is gone or has lost the
	// lease, there is no cut and the error wraps store.ErrConflict. After any other error ask Cut whether it exists.
	CommitCut(ctx context.Context, cut store.Cut) error
	// Cuts lists the cuts of a job by epoch, or of all jobs by time if job is empty; oldest first.
	Cuts(ctx context.Context, job string) ([]store.Cut, error)
	// Cut finds the cut that ref means: a whole id, the beginning of only one, or "latest". An empty job means all jobs. The error wraps
	// store.ErrNotFound or store.ErrAmbiguous.
	Cut(ctx context.Context, job, ref string) (store.Cut, error)
	// Pin keeps a cut from retention, or no longer. The id must be whole.
	Pin(ctx context.Context, id string, pinned bool) (store.Cut, error)
	// SetHolders stores who holds the images of one host's part of a cut now: hosts by name, vaults by URL. The id must be whole.
	SetHolders(ctx context.Context, id, host string, copies, vaults []string) error
	// DeleteCut forgets a cut and keeps its tombstone, in one durable transaction. The id must be whole. The hosts remove its images afterwards.
	DeleteCut(ctx context.Context, id string, r store.Removed) error
}

// TombstoneCatalogue is the cuts that were removed, and who has to hear of it yet.
type TombstoneCatalogue interface {
	// AddTombstone keeps the tombstone of a cut that the catalogue does not know, or no more. One that is there already stays as it is.
	AddTombstone(ctx context.Context, r store.Removed) error
	// Tombstones lists the tombstones, by cut.
	Tombstones(ctx context.Context) ([]store.Removed, error)
	// Told notes which places know of a tombstone. One that everybody has forgotten is removed. A missing one is not an error.
	Told(ctx context.Context, r store.Removed, who []string) error
}

// GenerationCatalogue tells the newest copy of the catalogue from others.
type GenerationCatalogue interface {
	// Advance makes the next generation, if this handle has not yet made one.
	Advance(ctx context.Context) error
	// Mark returns the catalogue's newest generation; zero if it has none yet.
	Mark(ctx context.Context) (store.Mark, error)
	// Marks lists the newest generations of the catalogue, at most n, newest first.
	Marks(ctx context.Context, n int) ([]store.Mark, error)
	// HadMark says whether this catalogue has had a generation itself, or one so old that it does not remember.
	HadMark(ctx context.Context, m store.Mark) (bool, error)
}

// ChangeCatalogue tells of what others change.
type ChangeCatalogue interface {
	// Revision counts the changes that were made to the catalogue.
	Revision(ctx context.Context) (kv.Revision, error)
	// Watch yields what others and this handle change after a revision, until ctx ends.
	Watch(ctx context.Context, after kv.Revision) iter.Seq2[kv.Change, error]
}

var _ Catalogue = (*store.Catalogue)(nil)
