// Package integration tests the programs as a person uses them: ssctl and one ssagent a host, on hosts made of
// namespaces (package lab), with real CRIU and real jobs (the programs in progs, and Redis). It knows them by their command line and
// their documented JSON alone, and imports nothing of ours but the lab.
package integration
