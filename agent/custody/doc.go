// Package custody keeps image sets on one host: it stores, copies, verifies, fetches, exports, imports and removes them, and knows which belong
// to a cut. It makes no cut and restores none: package agent does, with what a Holder hands it.
//
// It may import marker (for the connections that verification reads), what is below store, names, fault and the standard library. It declares
// what it needs of the agent (Jobs, Ends) and of other hosts (Peers).
package custody
