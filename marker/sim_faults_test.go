package marker

import "testing"

// TestPlantedFaults breaks one rule at a time and shows that the simulation notices.
func TestPlantedFaults(t *testing.T) {
	const within = 1000 // schedules
	for _, tt := range []struct {
		name   string
		faults faults
		truth  bool // look at what comes of it only: the cut, and how everyone ends
	}{
		{name: "M3 marker before the gates are closed", faults: faults{announceEarly: true}},
		{name: "M3 marker before the gates are closed, by its harm", faults: faults{announceEarly: true}, truth: true},
		{name: "M5a settle after the seal", faults: faults{settleAfterSeal: true}},
		{name: "M6 gate opened too early", faults: faults{openEarly: true}},
		{name: "M6 gate toward a host without a channel opened too early", faults: faults{openUnconnected: true}},
		{name: "M6 gates opened before the connections are captured", faults: faults{captureEarly: true}},
		{name: "M9 commit before all are complete", faults: faults{commitEarly: true}},
		{name: "M9 complete with a gate still needed", faults: faults{completeEarly: true}},
		{name: "M9 complete with a gate still needed, by its harm", faults: faults{completeEarly: true}, truth: true},
		{name: "M10 abort without opening", faults: faults{abortWithoutOpening: true}},
		{name: "M11 no lease", faults: faults{noLease: true}},
		{name: "M12 no fencing", faults: faults{noFence: true}},
		{name: "M12 a newcomer steals the host", faults: faults{steal: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= within; seed++ {
				if r := simulate(seed, variant{tt.faults, tt.truth}, false); r.failure != "" {
					t.Logf("caught by schedule %d: %s", seed, r.failure)
					return
				}
			}
			t.Errorf("not caught within %d schedules", within)
		})
	}
}
