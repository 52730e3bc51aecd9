package restoration

import "fmt"

// TransitionError says that an event cannot have happened in the state that Step was asked to apply it to. The caller has
// a defect; the state is unchanged.
type TransitionError struct {
	Role  string // "target NAME" or "coordinator"
	Event Event
	State string
}

func (e *TransitionError) Error() string {
	return fmt.Sprintf("%s: event %T is impossible while %s", e.Role, e.Event, e.State)
}

// ConfigError says that a coordinator or a target was given a configuration that makes no sense.
type ConfigError struct{ Text string }

func (e *ConfigError) Error() string { return e.Text }
