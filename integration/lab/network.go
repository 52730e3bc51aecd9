package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	bridgeName = "sslab0"
	nicName    = "eth0" // a host's own end of its cable
)

// network is the switch that hosts are plugged into: a bridge in a network namespace that no process lives in.
// It goes when this process does, since only a descriptor holds it.
type network struct {
	ns     netns.NsHandle
	handle *netlink.Handle
}

func newNetwork() (*network, error) {
	ns, err := newNetworkNamespace()
	if err != nil {
		return nil, err
	}
	handle, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink in the switch: %w", err), ns.Close())
	}
	n := &network{ns: ns, handle: handle}
	if err := n.addBridge(); err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

// newNetworkNamespace makes one without entering it.
func newNetworkNamespace() (netns.NsHandle, error) {
	type result struct {
		ns  netns.NsHandle
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{err: fmt.Errorf("make a network namespace: %w", err)}
			return
		}
		ns, err := netns.Get()
		done <- result{ns, err}
	}()
	r := <-done
	return r.ns, r.err
}

func (n *network) addBridge() error {
	// Without snooping, neighbour discovery floods like any switch's broadcast, from the first packet on.
	snooping := false
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := n.handle.LinkAdd(bridge); err != nil {
		return fmt.Errorf("add bridge: %w", err)
	}
	if err := n.handle.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("start bridge: %w", err)
	}
	return nil
}

// plug lays a cable from the switch to a host's network namespace and gives the host its addresses.
func (n *network) plug(h *Host) error {
	hostNS, err := netns.GetFromPid(h.Pid())
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer hostNS.Close()
	bridge, err := n.handle.LinkByName(bridgeName)
	if err != nil {
		return fmt.Errorf("find bridge: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = h.cable()
	attrs.MasterIndex = bridge.Attrs().Index
	cable := &netlink.Veth{
		LinkAttrs: attrs, PeerName: nicName, PeerNamespace: netlink.NsFd(hostNS),
		// The same address whenever the host comes back, so that nobody's neighbour table is wrong then.
		PeerHardwareAddr: net.HardwareAddr{0x02, 's', 's', 0, 0, byte(h.number)},
	}
	if err := n.handle.LinkAdd(cable); err != nil {
		return fmt.Errorf("add cable: %w", err)
	}
	if err := n.handle.LinkSetUp(cable); err != nil {
		return fmt.Errorf("start cable: %w", err)
	}
	handle, err := netlink.NewHandleAt(hostNS)
	if err != nil {
		return fmt.Errorf("open netlink on the host: %w", err)
	}
	defer handle.Close()
	return configure(handle, h.addr, h.addr6)
}

// configure starts a host's interfaces and gives the outer one its addresses.
func configure(handle *netlink.Handle, addr, addr6 netip.Prefix) error {
	for _, name := range []string{"lo", nicName} {
		link, err := handle.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find %s: %w", name, err)
		}
		if name == nicName {
			for _, prefix := range []netip.Prefix{addr, addr6} {
				ipnet := &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
				a := &netlink.Addr{IPNet: ipnet}
				if prefix.Addr().Is6() {
					a.Flags = unix.IFA_F_NODAD // usable at once
				}
				if err := handle.AddrAdd(link, a); err != nil {
					return fmt.Errorf("add %s: %w", prefix, err)
				}
			}
		}
		if err := handle.LinkSetUp(link); err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
	}
	return nil
}

// setCable takes the switch's end of a host's cable up or down.
func (n *network) setCable(h *Host, up bool) error {
	link, err := n.handle.LinkByName(h.cable())
	if err != nil {
		return fmt.Errorf("find cable of %s: %w", h.Name, err)
	}
	set := n.handle.LinkSetDown
	if up {
		set = n.handle.LinkSetUp
	}
	if err := set(link); err != nil {
		return fmt.Errorf("switch cable of %s: %w", h.Name, err)
	}
	return nil
}

// unplug removes a host's cable. A cable that is gone already is not an error.
func (n *network) unplug(h *Host) error {
	link, err := n.handle.LinkByName(h.cable())
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find cable of %s: %w", h.Name, err)
	}
	if err := n.handle.LinkDel(link); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove cable of %s: %w", h.Name, err)
	}
	return nil
}

func (n *network) close() error {
	n.handle.Close()
	return n.ns.Close()
}
