package marker

import (
	"errors"
	"testing"
)

// TestM4bNotAccepted: a connection that waits at a listener is not a channel, and is right as long as it carries nothing; its other end connects once more.
func TestM4bNotAccepted(t *testing.T) {
	client := End{Host: "A", Member: "a", Local: "a:1", Remote: "b:80", SndUna: 7, WriteSeq: 7, RcvNxt: 3}
	waits := End{Host: "B", Member: "b", Local: "b:80", Remote: "a:1", Pending: true}
	sent, came := client, waits
	sent.WriteSeq, came.Unread = 9, 2
	for _, tt := range []struct {
		name    string
		ends    []End
		cause   Cause
		unheard int
	}{
		{"nothing sent", []End{client, waits}, CauseNone, 1},
		{"its client is in SYN-SENT", []End{waits}, CauseNone, 0},
		{"bytes that are not acknowledged", []End{sent, waits}, CauseUnread, 1},
		{"bytes that are", []End{client, came}, CauseUnread, 1},
		{"bytes of a client that is gone", []End{came}, CauseUnread, 0},
		{"an outside connection beside it", []End{client, came, {Host: "A", Member: "a", Local: "a:2", Remote: "x:1"}}, CauseUnread, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			channels, err := Check(tt.ends, OutsideRefuse)
			got := CauseNone
			if err != nil {
				got = cause(err)
			}
			if got != tt.cause || len(channels) != 0 {
				t.Errorf("%v (%v), %d channels", got, err, len(channels))
			}
			if n := len(Unheard(tt.ends)); n != tt.unheard {
				t.Errorf("%d ends connect once more", n)
			}
			if len(Outside(tt.ends)) > 1 {
				t.Errorf("outside: %v", Outside(tt.ends))
			}
		})
	}
	var f *Problem
	if _, err := Check([]End{client, came}, OutsideRefuse); !errors.As(err, &f) || f.Unread != 2 || f.Error() == "" {
		t.Errorf("%v", f)
	}
}
