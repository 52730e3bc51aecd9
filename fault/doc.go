// Package fault is the error that a person reads: what was being done, where, in which phase, why
// it failed and what to do next. Its Kind decides ssctl's exit code; nothing else about an error does. It travels over
// gRPC in the details of a status (api/wire).
//
// It imports the standard library and is imported by every package above marker and store.
package fault
