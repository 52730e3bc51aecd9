// Package names has the rules for the names of clusters, hosts, jobs, members and cuts, and for the addresses of hosts. The catalogue, the agents, their cells and
// the certificates share them, so that a name which one of them takes is good for all.
//
// It imports the standard library, and every package may import it.
package names
