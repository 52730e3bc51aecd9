package store

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"

	"ss/internal/disk"
	"ss/store/kv/bolt"
)

// SalvageHosts finds the hosts that a damaged catalogue's file still names, by name: those whose records are whole, wherever they lie in the file. They
// are for asking, and for nothing else: one that was removed may be among them, and the latest address of one may not.
func SalvageHosts(dir string) []Host {
	data, err := disk.ReadSmall(filepath.Join(dir, FileName), bolt.MaxFile)
	if err != nil {
		return nil
	}
	begin := []byte(`{"schema":1,"crc32c":"`)
	found := map[string]Host{}
	for at := 0; ; at++ {
		n := bytes.Index(data[at:], begin)
		if n < 0 {
			break
		}
		at += n
		var e envelope
		var h Host
		d := json.NewDecoder(bytes.NewReader(data[at:]))
		if d.Decode(&e) != nil || json.Unmarshal(e.Record, &h) != nil || h.Name == "" || h.Addr == "" || h.validate() != nil {
			continue
		}
		if record := data[at : at+int(d.InputOffset())]; bytes.Equal(record, wrap(h.Name, e.Record)) {
			found[h.Name] = h
		}
	}
	var out []Host
	for _, h := range found {
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b Host) int { return strings.Compare(a.Name, b.Name) })
	return out
}
