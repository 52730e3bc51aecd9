package rpc

import (
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ss/api/identity"
	ssv1 "ss/api/proto/ss/v1"
	"ss/api/wire"
)

// opening sends an open and, if the agent lacks the list of participants, what is to come then. It hangs up, and returns how the line ended.
func opening(t *testing.T, client ssv1.AgentClient, open *ssv1.SnapshotOpen, then ...*ssv1.SnapshotRequest) (lacked bool, err error) {
	t.Helper()
	s, err := client.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// What the server refuses at once is said by Recv; Send may fail with io.EOF then.
	if open != nil {
		_ = s.Send(&ssv1.SnapshotRequest{Kind: &ssv1.SnapshotRequest_Open{Open: open}})
	}
	for _, r := range then {
		_ = s.Send(r)
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return lacked, nil
		}
		if err != nil {
			return lacked, err
		}
		lacked = lacked || r.GetLacks() != nil
	}
}

func listOf(list ...*ssv1.Participant) *ssv1.SnapshotRequest {
	return &ssv1.SnapshotRequest{Kind: &ssv1.SnapshotRequest_Participants{Participants: &ssv1.ParticipantList{Participants: list}}}
}

func digestOf(list ...*ssv1.Participant) []byte {
	d := wire.ParticipantsDigest(list)
	return d[:]
}

// TestListOfParticipantsIsAskedForOnce: an agent asks for a list that it lacks, keeps it with the job, and asks again for one in which anything differs.
func TestListOfParticipantsIsAskedForOnce(t *testing.T) {
	h := serveAgent(t)
	client := ssv1.NewAgentClient(h.as(t, identity.RoleAdmin, "admin"))
	list := func(endpoint, addr string) []*ssv1.Participant {
		return []*ssv1.Participant{{Host: "hostA", Endpoint: h.addr}, {Host: "hostB", Endpoint: endpoint, Addrs: []string{addr}}}
	}
	first := list("10.0.0.2:1", "10.0.0.2")
	early := &ssv1.SnapshotRequest{Kind: &ssv1.SnapshotRequest_Message{Message: &ssv1.MarkerMessage{}}}
	for _, step := range []struct {
		name   string
		job    string
		list   []*ssv1.Participant
		lacked bool
	}{
		{"the first attempt", "job", first, true},
		{"the second attempt", "job", first, false},
		{"another job", "other", first, true},
		{"another endpoint", "job", list("10.0.0.2:2", "10.0.0.2"), true},
		{"another address", "job", list("10.0.0.2:2", "10.0.0.3"), true},
		{"the same again", "job", list("10.0.0.2:2", "10.0.0.3"), false},
		{"the last but two", "job", first, true},
	} {
		open := &ssv1.SnapshotOpen{Key: &ssv1.Key{Job: step.job, Snapshot: "s", Epoch: 1}, ParticipantsDigest: digestOf(step.list...), JobKey: make([]byte, 32)}
		then := []*ssv1.SnapshotRequest{early, listOf(step.list...)}
		if !step.lacked {
			then = nil // it must do without
		}
		if lacked, err := opening(t, client, open, then...); err != nil || lacked != step.lacked {
			t.Errorf("%s: lacked %v, want %v; %v", step.name, lacked, step.lacked, err)
		}
	}
}

// TestABadOpen sends what no ssctl would: the agent must refuse it and live.
func TestABadOpen(t *testing.T) {
	h := serveAgent(t)
	client := ssv1.NewAgentClient(h.as(t, identity.RoleAdmin, "admin"))
	here, there := &ssv1.Participant{Host: "hostA", Endpoint: h.addr}, &ssv1.Participant{Host: "hostB"}
	key := &ssv1.Key{Job: "job", Snapshot: "snapshot", Epoch: 1}
	var flood []*ssv1.SnapshotRequest
	for range 100 {
		flood = append(flood, &ssv1.SnapshotRequest{Kind: &ssv1.SnapshotRequest_Message{Message: &ssv1.MarkerMessage{}}})
	}
	open := func(k *ssv1.Key, digest []byte) *ssv1.SnapshotOpen {
		return &ssv1.SnapshotOpen{Key: k, ParticipantsDigest: digest, JobKey: make([]byte, 32)}
	}
	for name, bad := range map[string]struct {
		open *ssv1.SnapshotOpen
		then []*ssv1.SnapshotRequest
	}{
		"no open":                  {nil, []*ssv1.SnapshotRequest{listOf(here)}},
		"a job that's a path":      {open(&ssv1.Key{Job: "../x", Snapshot: "s", Epoch: 1}, digestOf(here)), []*ssv1.SnapshotRequest{listOf(here)}},
		"no job":                   {open(nil, digestOf(here)), []*ssv1.SnapshotRequest{listOf(here)}},
		"a snapshot that's a path": {open(&ssv1.Key{Job: "job", Snapshot: "../s", Epoch: 1}, digestOf(here)), []*ssv1.SnapshotRequest{listOf(here)}},
		"another list":             {open(key, digestOf(here)), []*ssv1.SnapshotRequest{listOf(here, there)}},
		"a list without this host": {open(key, digestOf(there)), []*ssv1.SnapshotRequest{listOf(there)}},
		"no digest":                {open(key, nil), []*ssv1.SnapshotRequest{listOf(here)}},
		"a short digest":           {open(key, digestOf(here)[:8]), []*ssv1.SnapshotRequest{listOf(here)}},
		"an empty list":            {open(key, digestOf()), []*ssv1.SnapshotRequest{listOf()}},
		"messages without end":     {open(key, digestOf(here)), flood},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := opening(t, client, bad.open, bad.then...); status.Code(err) != codes.InvalidArgument {
				t.Errorf("got %v", err)
			}
		})
	}
}
