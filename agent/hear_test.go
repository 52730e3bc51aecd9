package agent

import "testing"

// TestHear: an agent believes a peer that has the generation that it knows, and no other; so does one that was started again.
func TestHear(t *testing.T) {
	a := newAgent(t)
	one, two, fork := Mark{Generation: 1, Nonce: "a"}, Mark{Generation: 2, Nonce: "b", Where: "there"}, Mark{Generation: 9, Nonce: "x"}
	for i, step := range []struct {
		word Word
		want Mark
	}{
		{Word{}, Mark{}},
		{Word{Mark: one}, one},
		{Word{Mark: two}, one}, // of another copy, for all that it says
		{Word{Mark: two, History: []Mark{{2, "b", "", one.Time}}}, one}, // likewise
		{Word{Mark: two, History: []Mark{one}}, two},
		{Word{Mark: one}, two},
		{Word{Mark: fork, History: []Mark{one}}, two},
		{Word{Mark: Mark{Generation: 2, Nonce: "c"}, History: []Mark{one}}, two},
	} {
		if got := a.Hear(step.word); got != step.want {
			t.Fatalf("step %d: %+v, want %+v", i, got, step.want)
		}
	}
	a.heard.mark = Mark{}
	if a.recall(); a.Heard() != two {
		t.Errorf("remembered %+v", a.Heard())
	}
}
