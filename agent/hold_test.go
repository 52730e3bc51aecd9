package agent

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// A hold that began before the host was told to lapses, unless something comes of the attempt.
func TestEarlyHold(t *testing.T) {
	listeners := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:80")}
	for name, c := range map[string]struct {
		do       func(*earlyHold)
		promises bool
		released int
		kept     []netip.AddrPort
	}{
		"nothing comes":           {func(h *earlyHold) { h.calm(); time.Sleep(holdsAhead + 1) }, false, 1, nil},
		"not calm":                {func(*earlyHold) {}, false, 0, listeners},
		"calm":                    {func(h *earlyHold) { h.calm(); time.Sleep(holdsAhead / 2) }, true, 0, listeners},
		"calm when it has lapsed": {func(h *earlyHold) { time.Sleep(holdsAhead + 1); h.calm() }, false, 1, nil},
		"kept":                    {func(h *earlyHold) { h.calm(); h.keep(); time.Sleep(3 * holdsAhead) }, false, 0, listeners},
		"promised again": {func(h *earlyHold) {
			h.calm()
			time.Sleep(holdsAhead / 2)
			h.promise()
			time.Sleep(holdsAhead - 1)
		}, true, 0, listeners},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var h earlyHold
				released := 0
				h.begin(listeners, func() { released++ })
				c.do(&h)
				synctest.Wait()
				if got := h.promise(); got != c.promises {
					t.Errorf("it promises: %v", got)
				}
				if got := h.keep(); !slices.Equal(got, c.kept) || released != c.released {
					t.Errorf("it holds %v and has let go %d times", got, released)
				}
				time.Sleep(3 * holdsAhead)
				synctest.Wait()
				if released != c.released {
					t.Errorf("it lets go once it is kept, %d times", released)
				}
			})
		})
	}
	if (&earlyHold{}).promise() || (&earlyHold{}).keep() != nil {
		t.Error("what has not begun holds something")
	}
}
