// Package clustertest has clusters for tests: agents that keep image sets in memory, beside a catalogue.
//
// It may import whatever orchestrator may. Only tests import it.
package clustertest
