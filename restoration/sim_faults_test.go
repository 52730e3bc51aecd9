package restoration

import "testing"

// TestPlantedFaults makes one mistake at a time and shows that the simulation notices.
func TestPlantedFaults(t *testing.T) {
	const within = 3000 // schedules
	for _, tt := range []struct {
		name   string
		faults faults
	}{
		{"R5 silence of the deciding host is taken for failure", faults{unknownIsFailed: true}},
		{"R5 a lost answer to the resume is taken for failure", faults{abortOnLostAnswer: true}},
		{"R5 a lost part is kept secret", faults{lostSilently: true}},
		{"R5 an answer does not bind", faults{noBind: true}},
		{"R3 the fence is not decided by one host", faults{fenceAll: true}},
		{"R5 resume before all stand", faults{resumeEarly: true}},
		{"R5 finish before all run", faults{finishEarly: true}},
		{"R5 an interrupt aborts a resume", faults{interruptResume: true}},
		{"R3 a host without a line leaves without asking", faults{leaveArmed: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= within; seed++ {
				if r := simulate(seed, tt.faults, false); r.failure != "" {
					t.Logf("found by schedule %d: %s", seed, r.failure)
					return
				}
			}
			t.Errorf("not found within %d schedules", within)
		})
	}
}
