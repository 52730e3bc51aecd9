package agent

import (
	"context"

	"ss/agent/custody"
	"ss/agent/target"
)

func (noCells) Objects(context.Context, string) (target.HostObjects, error) {
	return target.HostObjects{}, nil
}

func (noCells) Holders(context.Context, []uint64) (map[uint64]string, error) { return nil, nil }

func (noCells) Locks(context.Context, string, []target.FileID) ([]target.HostLock, error) {
	return nil, nil
}

func (noCells) Freed(context.Context, string) (map[uint64]int64, error) { return nil, nil }
func (noCells) Opens(context.Context, string, map[target.FileID]bool) ([]target.HostOpen, error) {
	return nil, nil
}

func (peers) Reach(context.Context, custody.Peer) error { return nil }
