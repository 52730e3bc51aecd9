package marker

import "fmt"

// TransitionError says that an event cannot happen in the state that got it: the caller reported the
// end of an action that was not asked for, or gave a role an event of the other one. The state is unchanged.
type TransitionError struct {
	Role  string // "participant hostA" or "coordinator"
	Event Event
	State string // phase or stage, and the attempt it belongs to
}

// Error names the event, the role and its state.
func (e *TransitionError) Error() string {
	return fmt.Sprintf("marker: %s: %T does not fit state %s", e.Role, e.Event, e.State)
}

// ConfigError says why a coordinator cannot begin.
type ConfigError struct{ Problem string }

// Error names the problem.
func (e *ConfigError) Error() string { return "marker: coordinator cannot begin: " + e.Problem }
