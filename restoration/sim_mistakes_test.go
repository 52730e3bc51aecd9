package restoration

import "testing"

// TestPlantedMistakes makes one mistake at a time and shows that the simulation notices.
func TestPlantedMistakes(t *testing.T) {
	const within = 3000 // schedules
	for _, tt := range []struct {
		name     string
		mistakes mistakes
	}{
		{"R5 silence of the deciding host is taken for failure", mistakes{unknownIsFailed: true}},
		{"R5 a lost answer to the resume is taken for failure", mistakes{abortOnLostAnswer: true}},
		{"R5 a lost part is kept secret", mistakes{lostSilently: true}},
		{"R5 an answer does not bind", mistakes{noBind: true}},
		{"R3 the fence is not decided by one host", mistakes{fenceAll: true}},
		{"R5 resume before all stand", mistakes{resumeEarly: true}},
		{"R5 finish before all run", mistakes{finishEarly: true}},
		{"R5 an interrupt aborts a resume", mistakes{interruptResume: true}},
		{"R5 what was not written down is said", mistakes{unbound: true}},
		{"R3 a host without a line leaves without asking", mistakes{leaveArmed: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= within; seed++ {
				if r := simulate(seed, tt.mistakes, false); r.failure != "" {
					t.Logf("found by schedule %d: %s", seed, r.failure)
					return
				}
			}
			t.Errorf("not found within %d schedules", within)
		})
	}
}
