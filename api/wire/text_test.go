package wire

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	ssv1 "ss/api/proto/ss/v1"
)

// TestSpeakable: whatever bytes names of files and arguments of programs have, a message with them can be sent.
func TestSpeakable(t *testing.T) {
	const odd = "/srv/\xffodd\xc3 \x1b ü � name"
	m := &ssv1.RestoreResponse{Problems: []string{"fine", odd}, Notices: []string{odd}, Failure: &ssv1.Failure{Text: odd, Next: "fine"}}
	if _, err := proto.Marshal(m); err == nil {
		t.Fatal("such a message can be sent: the test shows nothing")
	}
	Speakable(m)
	if _, err := proto.Marshal(m); err != nil {
		t.Error(err)
	}
	const want = "/srv/\\xffodd\\xc3 \x1b ü � name"
	if m.GetProblems()[0] != "fine" || m.GetProblems()[1] != want || m.GetNotices()[0] != want || m.GetFailure().GetText() != want {
		t.Errorf("%q", m)
	}
	if _, err := proto.Marshal(ToFailure(errors.New(odd))); err != nil {
		t.Errorf("a failure: %v", err)
	}
	Speakable(nil)
}
