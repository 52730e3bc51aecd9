// Package wire translates what both ends of a connection share: marker messages, members'
// descriptions, and errors. Only agent/rpc and orchestrator/remote import it; nobody else sees a
// protobuf type.
package wire
