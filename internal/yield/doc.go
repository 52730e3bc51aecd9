// Package yield is how work that can wait makes way for the job.
//
// It may import the standard library.
package yield
