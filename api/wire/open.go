package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"

	ssv1 "ss/api/proto/ss/v1"
	"ss/fault"
	"ss/marker"
)

// maxEarly bounds the messages that a host keeps while it waits for the list of participants. A coordinator sends one before it has an answer.
const maxEarly = 64

// ParticipantsDigest names a list of participants: their names, endpoints and addresses, in the list's order.
func ParticipantsDigest(list []*ssv1.Participant) marker.Digest {
	sum := sha256.New()
	number := func(n int) { sum.Write(binary.AppendUvarint(nil, uint64(n))) }
	number(len(list))
	for _, p := range list {
		write(sum, p.GetHost())
		write(sum, p.GetEndpoint())
		number(len(p.GetAddrs()))
		for _, a := range p.GetAddrs() {
			write(sum, a)
		}
	}
	var d marker.Digest
	sum.Sum(d[:0])
	return d
}

func write(sum hash.Hash, s string) {
	sum.Write(binary.AppendUvarint(nil, uint64(len(s))))
	sum.Write([]byte(s))
}

// SnapshotStream is a host's end of the line to a coordinator.
type SnapshotStream interface {
	Recv() (*ssv1.SnapshotRequest, error)
	Send(*ssv1.SnapshotResponse) error
}

// Opened is how a coordinator has opened an attempt.
type Opened struct {
	Open         *ssv1.SnapshotOpen
	Participants []*ssv1.Participant   // nil if the host knew the list
	Early        []*ssv1.MarkerMessage // that came before the list
}

// ReceiveOpen reads how a coordinator opens an attempt on a host. If the host does not know the list of participants it asks for it, so a list goes
// once to each host, and its bytes do not come with each attempt.
func ReceiveOpen(s SnapshotStream, known func(*ssv1.SnapshotOpen) bool) (Opened, error) {
	first, err := s.Recv()
	if err != nil {
		return Opened{}, err
	}
	o := Opened{Open: first.GetOpen()}
	if o.Open == nil {
		return Opened{}, Status(fault.New(fault.Usage, "the first message of a snapshot must open it", ""))
	}
	if known(o.Open) {
		return o, nil
	}
	if err := s.Send(&ssv1.SnapshotResponse{Kind: &ssv1.SnapshotResponse_Lacks{Lacks: &ssv1.LacksParticipants{}}}); err != nil {
		return Opened{}, err
	}
	for {
		req, err := s.Recv()
		if err != nil {
			return Opened{}, err
		}
		if m := req.GetMessage(); m != nil {
			o.Early = append(o.Early, m)
		}
		if len(o.Early) > maxEarly {
			return Opened{}, Status(fault.New(fault.Usage, fmt.Sprintf("%d messages of an attempt and no list of participants", len(o.Early)), "use an ssctl of the agent's version"))
		}
		if req.GetParticipants() == nil {
			continue
		}
		o.Participants = req.GetParticipants().GetParticipants()
		return o, checkList(o.Participants, o.Open.GetParticipantsDigest())
	}
}

// checkList refuses a list that is not the one that digest names.
func checkList(list []*ssv1.Participant, digest []byte) error {
	if d := ParticipantsDigest(list); !bytes.Equal(d[:], digest) {
		return Status(fault.New(fault.Usage, "the list of participants is not the one that its digest names", "use an ssctl of the agent's version"))
	}
	return nil
}

// RestoreStream is a target's end of the line to a coordinator.
type RestoreStream interface {
	Recv() (*ssv1.RestoreRequest, error)
	Send(*ssv1.RestoreResponse) error
}

// ReceivePlan reads a target's plan of a restore, and the list of participants if the host does not know it. The coordinator sends nothing else
// before it has an answer.
func ReceivePlan(s RestoreStream, known func(*ssv1.RestorePlan) bool) (plan *ssv1.RestorePlan, list []*ssv1.Participant, err error) {
	first, err := s.Recv()
	if err != nil {
		return nil, nil, err
	}
	plan = first.GetPlan()
	if plan == nil {
		return nil, nil, Status(fault.New(fault.Usage, "the first message of a restore must be its plan", ""))
	}
	if known(plan) {
		return plan, nil, nil
	}
	if err := s.Send(&ssv1.RestoreResponse{Lacks: &ssv1.LacksParticipants{}}); err != nil {
		return nil, nil, err
	}
	second, err := s.Recv()
	if err != nil {
		return nil, nil, err
	}
	list = second.GetParticipants().GetParticipants()
	return plan, list, checkList(list, plan.GetParticipantsDigest())
}

// QuestionLacks says whether a host that does not know the list of participants has to ask for it before it can answer, and refuses a list that is not
// the one that the question names.
func QuestionLacks(req *ssv1.CheckRequest, known bool) (bool, error) {
	if req.GetOpen() == nil || known {
		return false, nil
	}
	if len(req.GetParticipants()) == 0 {
		return true, nil
	}
	return false, checkList(req.GetParticipants(), req.GetOpen().GetParticipantsDigest())
}
