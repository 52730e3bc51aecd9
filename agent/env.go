package agent

import "os"

// HelperEnv is the environment of a program that an agent starts for its own use: the given variables and nothing
// of the agent's that could change what the program does. Only what is set for the race detector (GORACE) goes
// on, since helpers are the same executable.
func HelperEnv(vars ...string) []string {
	if race, ok := os.LookupEnv("GORACE"); ok {
		vars = append(vars, "GORACE="+race)
	}
	return vars
}
