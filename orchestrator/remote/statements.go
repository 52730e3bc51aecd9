package remote

import (
	"ss/api/identity"
	"ss/store"
)

// Statements are an admin's, in the orchestrator's terms.
type Statements struct{ *identity.Credentials }

// SignRemovedHosts signs the list of removed hosts.
func (s Statements) SignRemovedHosts(l store.RemovedHosts) ([]byte, error) {
	return s.SignRemoved(identity.Removed{Version: l.Version, Hosts: l.Hosts})
}

// OpenRemovedHosts reads a list that an admin signed.
func (s Statements) OpenRemovedHosts(statement []byte) (store.RemovedHosts, error) {
	r, err := s.OpenRemoved(statement)
	return store.RemovedHosts{Version: r.Version, Hosts: r.Hosts}, err
}
