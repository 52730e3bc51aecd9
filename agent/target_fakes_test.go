package agent

import "context"

func (noCells) Objects(context.Context, string) (HostObjects, error) { return HostObjects{}, nil }

func (noCells) Holders(context.Context, []uint64) (map[uint64]string, error) { return nil, nil }

func (c *cluster) Reach(context.Context, Participant) error { return nil }
