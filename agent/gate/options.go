package gate

import (
	"fmt"
	"log/slog"
)

// The modes of holding, as Mode reports and Options.Mode forces them.
const (
	// ModeNative holds with nft's own queue statement (CONFIG_NFT_QUEUE).
	ModeNative = "nft-queue"
	// ModeCompat holds with the xtables target NFQUEUE through nft's compatibility layer
	// (CONFIG_NFT_COMPAT and CONFIG_NETFILTER_XT_TARGET_NFQUEUE).
	ModeCompat = "xt-queue"
	// ModeDrop does not hold but drops, and leaves the rest to TCP's retransmission.
	ModeDrop = "drop"
)

// tableName is the nft table's name; Options.Suffix comes after it.
const tableName = "ssgate"

// Options say how a Manager works. The zero value is good for an agent.
type Options struct {
	// Host is this host's name. A gate whose Peer it is holds connections between members of this host.
	Host string
	// Suffix is added to the table's name, for a second Manager in the same network namespace.
	Suffix string
	// NetNS is a descriptor of the network namespace to work in; 0 means that of the calling thread.
	// It is used until Shutdown and must stay open as long.
	NetNS int
	// FirstQueue and LastQueue bound the NFQUEUE numbers that gates may take; both zero means 4096 and 8191.
	// Numbers that someone else listens to are passed over.
	FirstQueue, LastQueue uint16
	// Mode forces a mode. "" means the best one that the kernel has.
	Mode string
	// Log gets what a person should know and no caller hears. nil: nobody does.
	Log *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.FirstQueue == 0 && o.LastQueue == 0 {
		o.FirstQueue, o.LastQueue = 4096, 8191
	}
	if o.FirstQueue > o.LastQueue {
		return o, fmt.Errorf("gate: queue numbers %d to %d are not a range", o.FirstQueue, o.LastQueue)
	}
	switch o.Mode {
	case "", ModeNative, ModeCompat, ModeDrop:
		return o, nil
	}
	return o, fmt.Errorf("gate: no mode is called %q; there are %s, %s and %s", o.Mode, ModeNative, ModeCompat, ModeDrop)
}
