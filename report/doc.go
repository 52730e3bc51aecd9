// Package report is what ssctl's commands say, as data: one document for each command, with the JSON that -o json prints (docs/json.md), and the
// columns of the tables that people read. It makes documents of what package orchestrator returns, and prints nothing.
//
// It may import orchestrator, orchestrator/upkeep, store, fault and the standard library. cmd/ssctl imports it, and so may other programs that read the documents.
package report
