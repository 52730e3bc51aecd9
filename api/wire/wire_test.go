package wire

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	ssv1 "ss/api/proto/ss/v1"
	"ss/fault"
	"ss/marker"
)

// TestUnreachableIsSaidPlainly: gRPC's wrapping goes, the reason stays.
func TestUnreachableIsSaidPlainly(t *testing.T) {
	for text, want := range map[string]string{
		`connection error: desc = "transport: Error while dialing: dial tcp 10.0.0.2:7070: connect: connection refused"`: "dial tcp 10.0.0.2:7070: connect: connection refused",
		`last connection error: connection error: desc = "transport: authentication handshake failed: EOF"`:              "authentication handshake failed: EOF",
		"error reading from server: read tcp 10.0.0.1:1->10.0.0.2:7070: connection reset by peer":                        "read tcp 10.0.0.1:1->10.0.0.2:7070: connection reset by peer",
		"the agent is stopping": "the agent is stopping",
	} {
		err := Error("hostB", status.Error(codes.Unavailable, text))
		if !fault.Is(err, fault.Unreachable) || !strings.HasPrefix(err.Error(), "host hostB cannot be reached: "+want+";") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestFailuresTravelWhole: every kind comes back as it was sent, in a status and in a message, with its text and the parts of it.
func TestFailuresTravelWhole(t *testing.T) {
	for kind := range toKind {
		sent := &fault.Error{Kind: kind, Op: "snapshot", Job: "sim", Err: &fault.Error{Host: "hostA", Snapshot: "s1", Phase: "dumping", Err: errors.New("criu: no room"), Next: "free some disk"}}
		for i, got := range []error{Error("hostB", Status(sent)), FromFailure(ToFailure(sent))} {
			if got.Error() != sent.Error() {
				t.Errorf("%v, way %d: %q became %q", kind, i, sent, got)
			}
			if a, b := fault.Describe(got), fault.Describe(sent); a != b {
				t.Errorf("%v, way %d: %+v became %+v", kind, i, b, a)
			}
		}
	}
	if Status(nil) != nil || Error("hostB", nil) != nil || ToFailure(nil) != nil || FromFailure(nil) != nil {
		t.Error("nothing became something")
	}
}

// TestEveryConstantHasANumber: no message, cause, phase or kind is lost on the wire, and no two are one.
func TestEveryConstantHasANumber(t *testing.T) {
	for m := marker.MsgPrepare; m <= marker.MsgCalm; m++ {
		if got := FromMessage(ToMessage(marker.Message{Type: m})).Type; got != m {
			t.Errorf("message %v became %v", m, got)
		}
	}
	for c := marker.CauseNone; c <= marker.CauseJobLost; c++ {
		if got := FromMessage(ToMessage(marker.Message{Cause: c})).Cause; got != c {
			t.Errorf("cause %v became %v", c, got)
		}
	}
	if last := (marker.CauseJobLost + 1).String(); !strings.HasPrefix(last, "Cause(") {
		t.Errorf("a cause after the last one, %s: add it here and to the .proto", last)
	}
	if last := (marker.MsgCalm + 1).String(); !strings.HasPrefix(last, "Message(") {
		t.Errorf("a message after the last one, %s: add it here and to the .proto", last)
	}
	if last := (fault.Outdated + 1).String(); !strings.HasPrefix(last, "kind_") || len(toKind) != int(fault.Outdated)+1 {
		t.Errorf("a kind after the last one, %s, or one that is not in the table", last)
	}
	for name, n := range map[string][2]int{
		"types":          {len(fromMarkerType), len(ssv1.MarkerMessageType_name) - 1},
		"causes":         {len(fromMarkerCause), len(ssv1.MarkerCause_name)},
		"kinds":          {len(fromKind), len(ssv1.FailureKind_name) - 1},
		"restore types":  {len(fromRestoreType), len(ssv1.RestoreMessageType_name) - 1},
		"restore phases": {len(fromRestorePhase), len(ssv1.RestorePhase_name)},
	} {
		if n[0] != n[1] {
			t.Errorf("%s: %d here, %d in the .proto", name, n[0], n[1])
		}
	}
}

// TestCallersOfBefore: an ssctl of 94ec08b reads the code and the text of a status and nothing else. They are as it knew them.
func TestCallersOfBefore(t *testing.T) {
	s, _ := status.FromError(Status(mismatch("the agent of hostA", Protocol, "this ssctl", 1)))
	if s.Code() != codes.FailedPrecondition || s.Message() != "the agent of hostA speaks version 5 of the protocol and this ssctl speaks version 1; upgrade this ssctl" {
		t.Errorf("%v: %s", s.Code(), s.Message())
	}
}
