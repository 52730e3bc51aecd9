package custody

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"ss/agent/custody/custodytest"
	"ss/store/images"
)

// TestScrubHealsFromWhoHoldsACopy: the manifest of the cut says who that is.
func TestScrubHealsFromWhoHoldsACopy(t *testing.T) {
	url := "file://" + t.TempDir()
	for name, c := range map[string]struct{ copies, vaults string }{
		"a host":  {`"hostA","hostB"`, ""},
		"a vault": {`"hostA"`, fmt.Sprintf("%q", url)},
		"nobody":  {`"hostA"`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHolder(t, "hostB")
			man := custodytest.Seal(t, h.cfg.Store, aKey, custodytest.NewKey(t))
			cp := &Copies{h: h.Holder, key: aKey, hosts: peersOf("hostB"), wanted: 1}
			if c.vaults != "" {
				cp.vaults = []string{url}
			}
			if err := cp.run(t.Context(), sealed()); err != nil {
				t.Fatal(err)
			}
			cut := fmt.Sprintf(`{"cut":{"schema":1,"hosts":[{"name":"hostA","addr":"hostA:7070"},{"name":"hostB","addr":"hostB:7070"}],
				"cut":{"hosts":[{"host":"hostA","copies":[%s],"vaults":[%s]}]}},"signature":"c2lnbmVk","certificate":"PEM"}`, c.copies, c.vaults)
			if err := h.PutCut(t.Context(), "", aKey.Job, aKey.Snapshot, []byte(cut)); err != nil {
				t.Fatal(err)
			}
			custodytest.Corrupt(t, h.cfg.Dir, "job", man.Packs[0].Digest)
			var found []images.Damage
			err := h.cfg.Store.Scrub(t.Context(), 0, h.holdersOf, func(d images.Damage) { h.reportDamage(d); found = append(found, d) })
			if err != nil {
				t.Fatal(err)
			}
			want := name != "nobody"
			if len(found) != 1 || found[0].Digest != man.Packs[0].Digest || found[0].Healed != want {
				t.Fatalf("found %+v", found)
			}
			state, err := h.State()
			if err != nil || len(state.Damage) != 1 || state.Damage[0].Healed != want {
				t.Errorf("state: %+v, %v", state.Damage, err)
			}
			if _, err := h.cfg.Store.Verify(t.Context(), aKey, man.Digest); (err == nil) != want {
				t.Errorf("verify: %v", err)
			}
		})
	}
}

func TestDecodeHolders(t *testing.T) {
	hosts, vaults, err := decodeHolders([]byte(`{"cut":{"hosts":[{"name":"hostB","addr":"b:1","added":"x"},{"name":"hostC","addr":"c:1"},{"name":"../d","addr":"d:1"}],
		"cut":{"id":"cut","hosts":[{"host":"hostB","copies":["hostC"]},{"host":"hostA","copies":["hostA","hostB","../d"],"vaults":["file:///v"]}]}}}`), "hostA")
	if err != nil || len(hosts) != 1 || hosts[0].Host != "hostB" || hosts[0].Endpoint != "b:1" || !slices.Equal(vaults, []string{"file:///v"}) {
		t.Errorf("%v, %v, %v", hosts, vaults, err)
	}
	for _, text := range []string{"", "[]", "null", `{"cut":[]}`, `{"cut":{"cut":{"hosts":{}}}}`, strings.Repeat("[", 100)} {
		if hosts, vaults, _ := decodeHolders([]byte(text), "hostA"); len(hosts)+len(vaults) != 0 {
			t.Errorf("%q: %v, %v", text, hosts, vaults)
		}
	}
}

// TestScrubEndsWithItsContext, whether it waits for its turn or is at it.
func TestScrubEndsWithItsContext(t *testing.T) {
	for name, delay := range map[string]time.Duration{"waiting": time.Hour, "at it": 0} {
		t.Run(name, func(t *testing.T) {
			h := newHolder(t)
			custodytest.Seal(t, h.cfg.Store, aKey, custodytest.NewKey(t))
			h.cfg.ScrubRate = 1 // it would take a month
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				h.scrubRounds(ctx, delay, time.Hour)
			}()
			cancel()
			<-done
		})
	}
}
