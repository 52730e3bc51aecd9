package image

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	sk_inet "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-inet"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/stats"

	"ss/agent"
)

// DumpResult says what a dump has written to dir, and how long its members stood still for it. Ends are not filled in.
func DumpResult(dir string) (agent.DumpResult, error) {
	var result agent.DumpResult
	entries, err := os.ReadDir(dir)
	if err != nil {
		return result, fmt.Errorf("read the images: %w", err)
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".img" {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return result, fmt.Errorf("read the images: %w", err)
		}
		result.Bytes += info.Size()
	}
	st, err := ReadOne(filepath.Join(dir, "stats-dump"), &stats.StatsEntry{})
	if err != nil {
		return result, err
	}
	result.Frozen = time.Duration(st.GetDump().GetFrozenTime()) * time.Microsecond
	return result, nil
}

// HoldsIPC says whether the images hold an IPC namespace.
func HoldsIPC(dir string) bool {
	found, err := filepath.Glob(filepath.Join(dir, "ipcns-var-*.img"))
	return err == nil && len(found) > 0
}

// Unlisted counts the connections among the sockets of images that are not among the inodes.
func Unlisted(sockets []*sk_inet.InetSkEntry, inodes []uint64) int {
	listed := make(map[uint64]bool, len(inodes))
	for _, ino := range inodes {
		listed[ino] = true
	}
	n := 0
	for _, sk := range sockets {
		if connected(sk) && !listed[uint64(sk.GetIno())] {
			n++
		}
	}
	return n
}
