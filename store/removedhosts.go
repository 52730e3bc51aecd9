package store

import (
	"context"
	"fmt"
	"maps"

	"ss/store/kv"
)

// keyRemovedHosts is where the list of removed hosts is, in the bucket meta.
const keyRemovedHosts = "removed hosts"

// RemovedHosts is the list of hosts that were removed, and may not come back under their old certificates.
type RemovedHosts struct {
	Version uint64 `json:"version"` // grows with every change; 0: nobody was ever removed
	// Hosts maps a removed host to the serial number of the certificate that it got when it was added again; "" if it was not.
	Hosts map[string]string `json:"hosts"`
}

// RemovedHosts is the list as it is now.
func (c *Catalogue) RemovedHosts(ctx context.Context) (list RemovedHosts, err error) {
	err = c.view(ctx, func(tx kv.Tx) error {
		list, _, err = get[RemovedHosts](tx, bucketMeta, keyRemovedHosts)
		return err
	})
	return list, err
}

func changeRemovedHosts(tx kv.Tx, change func(*RemovedHosts)) error {
	list, _, err := get[RemovedHosts](tx, bucketMeta, keyRemovedHosts)
	if err != nil {
		return err
	}
	if list.Hosts == nil {
		list.Hosts = map[string]string{}
	}
	change(&list)
	list.Version++
	return put(tx, bucketMeta, keyRemovedHosts, list)
}

// noteRemovedHost puts a host on the list.
func noteRemovedHost(tx kv.Tx, name string) error {
	return changeRemovedHosts(tx, func(l *RemovedHosts) { l.Hosts[name] = "" })
}

// CertifyHost notes the certificate of a host that is added: of one that was removed before, it is the only one that counts from now on.
func (c *Catalogue) CertifyHost(ctx context.Context, name, serial string) error {
	return c.update(ctx, func(tx kv.Tx) error {
		if _, err := need[Host](tx, bucketHosts, name); err != nil {
			return err
		}
		list, _, err := get[RemovedHosts](tx, bucketMeta, keyRemovedHosts)
		if _, listed := list.Hosts[name]; err != nil || !listed {
			return err
		}
		return changeRemovedHosts(tx, func(l *RemovedHosts) { l.Hosts[name] = serial })
	})
}

// MergeRemovedHosts takes in a list that an agent has and that is newer than the catalogue's: the catalogue was made again, or is an older copy. What the
// catalogue says of a host that is in both counts if the host is registered here.
func (c *Catalogue) MergeRemovedHosts(ctx context.Context, seen RemovedHosts) error {
	if seen.Version > maxEpoch {
		return fmt.Errorf("list of removed hosts of version %d: %w", seen.Version, ErrInvalid)
	}
	return c.update(ctx, func(tx kv.Tx) error {
		own, _, err := get[RemovedHosts](tx, bucketMeta, keyRemovedHosts)
		if err != nil || own.Version >= seen.Version {
			return err
		}
		merged := RemovedHosts{Version: seen.Version, Hosts: map[string]string{}}
		maps.Copy(merged.Hosts, own.Hosts)
		maps.Copy(merged.Hosts, seen.Hosts)
		if len(own.Hosts) > 0 && !maps.Equal(merged.Hosts, seen.Hosts) {
			merged.Version++
		}
		return put(tx, bucketMeta, keyRemovedHosts, merged)
	})
}
