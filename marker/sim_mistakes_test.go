package marker

import "testing"

// TestPlantedMistakes breaks one rule at a time and shows that the simulation notices.
func TestPlantedMistakes(t *testing.T) {
	const within = 1000 // schedules
	for _, tt := range []struct {
		name     string
		mistakes mistakes
		truth    bool // look at what comes of it only: the cut, and how everyone ends
	}{
		{name: "M9 a host is complete that has not written it down", mistakes: mistakes{unbound: true}},
		{name: "M3 marker before the gates are closed", mistakes: mistakes{announceEarly: true}},
		{name: "M3 marker before the gates are closed, by its harm", mistakes: mistakes{announceEarly: true}, truth: true},
		{name: "M5a settle after the seal", mistakes: mistakes{settleAfterSeal: true}},
		{name: "M6 gate opened too early", mistakes: mistakes{openEarly: true}},
		{name: "M6 gate toward a host without a channel opened too early", mistakes: mistakes{openUnconnected: true}},
		{name: "M6 gates opened before the connections are captured", mistakes: mistakes{captureEarly: true}},
		{name: "M9 commit before all are complete", mistakes: mistakes{commitEarly: true}},
		{name: "M9 complete with a gate still needed", mistakes: mistakes{completeEarly: true}},
		{name: "M9 complete with a gate still needed, by its harm", mistakes: mistakes{completeEarly: true}, truth: true},
		{name: "M10 abort without opening", mistakes: mistakes{abortWithoutOpening: true}},
		{name: "M11 no lease", mistakes: mistakes{noLease: true}},
		{name: "M12 no fencing", mistakes: mistakes{noFence: true}},
		{name: "M12 a newcomer steals the host", mistakes: mistakes{steal: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= within; seed++ {
				if r := simulate(seed, variant{tt.mistakes, tt.truth}, false); r.failure != "" {
					t.Logf("caught by schedule %d: %s", seed, r.failure)
					return
				}
			}
			t.Errorf("not caught within %d schedules", within)
		})
	}
}
