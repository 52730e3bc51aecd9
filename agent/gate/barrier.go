package gate

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// An nft transaction is in force for every packet that meets a chain after it. But a packet that is
// inside a chain on another CPU while the transaction is committed goes on with the old rules; the kernel
// waits for those before it frees the old rules, and not before it answers. The functions here wait
// for them too: each has the kernel wait for a grace period of RCU, under which netfilter's hooks run.

// expeditedGrace waits for an expedited grace period, some ten microseconds. The kernel does that before
// it frees a mount (namespace_unlock in fs/namespace.c), here one that was never attached anywhere.
func expeditedGrace() error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	return unix.Close(fd)
}

// grace waits for an ordinary grace period, some ten milliseconds: what the kernel does
// when a packet socket goes (synchronize_net in packet_release, af_packet.c), so that no packet still in
// the network stack can meet it.
func grace() error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	return unix.Close(fd)
}

// waitForOldRules returns when no packet is subject any more to rules replaced before the call.
func waitForOldRules() error {
	if expeditedGrace() == nil {
		return nil
	}
	if err := grace(); err != nil {
		return fmt.Errorf("wait for packets under the old rules: %w", err)
	}
	return nil
}
