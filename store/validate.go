package store

import (
	"encoding/hex"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"ss/names"
)

const (
	// maxCopies bounds Policy.Copies.
	maxCopies = 16
	// maxKeep bounds each value of a Keep: eleven years of hourly cuts.
	maxKeep = 100_000
	// maxEpoch bounds an epoch that was not drawn here, so that adding to it cannot wrap around.
	maxEpoch = math.MaxInt64
)

// validName refuses what could not be a file's name as well.
func validName(noun, name string) error {
	if err := names.Check(noun, name); err != nil {
		return fmt.Errorf("%w: %w", err, ErrInvalid)
	}
	return nil
}

// validTexts refuses empty texts, control characters and doubles. Whether a URL is one, or a recipient, is for the caller to say.
func validTexts(noun string, texts []string) error {
	seen := map[string]bool{}
	for _, text := range texts {
		if text == "" {
			return fmt.Errorf("a %s is empty: %w", noun, ErrInvalid)
		}
		for _, r := range text {
			if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\uFFFD' {
				return fmt.Errorf("%s %q has a character that cannot stand in one: %w", noun, text, ErrInvalid)
			}
		}
		if seen[text] {
			return fmt.Errorf("%s %q is named twice: %w", noun, text, ErrInvalid)
		}
		seen[text] = true
	}
	return nil
}

func (c Cluster) validate() error {
	if err := validName("cluster", c.ID); err != nil {
		return err
	}
	if err := validTexts("recipient", c.Recipients); err != nil {
		return err
	}
	return validTexts("vault", c.Vaults)
}

func (h Host) validate() error {
	if err := validName("host", h.Name); err != nil {
		return err
	}
	if h.Addr == "" {
		return fmt.Errorf("host %q has no address: %w", h.Name, ErrInvalid)
	}
	return nil
}

func (p Policy) validate() error {
	if p.Copies < 0 || p.Copies > maxCopies {
		return fmt.Errorf("%d copies: choose 1 to %d, or 0 for the default, %d: %w", p.Copies, maxCopies, DefaultCopies, ErrInvalid)
	}
	for _, n := range []int{p.Keep.Last, p.Keep.Hourly, p.Keep.Daily, p.Keep.Weekly} {
		if n < 0 || n > maxKeep {
			return fmt.Errorf("keep %d: choose 0 to %d: %w", n, maxKeep, ErrInvalid)
		}
	}
	for _, r := range p.Outside {
		if err := r.validate(); err != nil {
			return err
		}
	}
	return validTexts("vault", p.Vaults)
}

func (r OutsideRule) validate() error {
	if r.As != OutsideRefuse && r.As != OutsideClose && r.As != OutsideKeep {
		return fmt.Errorf("outside connections: %q is not refuse, close or keep: %w", r.As, ErrInvalid)
	}
	port, isPort := strings.CutPrefix(r.Match, ":")
	var err error
	switch {
	case r.Match == "":
	case isPort:
		_, err = strconv.ParseUint(port, 10, 16)
	case strings.Contains(r.Match, "/"):
		_, err = netip.ParsePrefix(r.Match)
	default:
		_, err = netip.ParseAddr(r.Match)
	}
	if err != nil {
		return fmt.Errorf("outside connections: %q is not an address, a prefix or :PORT: %w", r.Match, ErrInvalid)
	}
	return nil
}

func (j Job) validate() error {
	if err := validName("job", j.Name); err != nil {
		return err
	}
	at := map[string]string{}
	for host, members := range j.Placement {
		if err := validName("host", host); err != nil {
			return err
		}
		for _, m := range members {
			if err := validName("member", m.Name); err != nil {
				return err
			}
			if other, ok := at[m.Name]; ok {
				return fmt.Errorf("member %q of job %q is on host %q and on %q: %w", m.Name, j.Name, other, host, ErrInvalid)
			}
			at[m.Name] = host
		}
	}
	for prefix, n := range j.Drawn {
		if err := validName("prefix", prefix); err != nil {
			return err
		}
		if n > names.MaxNumber {
			return fmt.Errorf("job %q is at member %s: %w", j.Name, names.Member(prefix, n), ErrInvalid)
		}
	}
	if (j.Key == "") != (j.KeyID == "") {
		return fmt.Errorf("job %q has half a key: %w", j.Name, ErrInvalid)
	}
	for _, u := range j.Unsettled {
		if err := u.validate(); err != nil {
			return fmt.Errorf("job %q: %w", j.Name, err)
		}
	}
	if j.Epoch > 0 && j.Restored > j.Epoch {
		return fmt.Errorf("job %q was restored with epoch %d, and is at epoch %d: %w", j.Name, j.Restored, j.Epoch, ErrInvalid)
	}
	if j.Epoch > maxEpoch {
		return fmt.Errorf("job %q is at epoch %d: %w", j.Name, j.Epoch, ErrInvalid)
	}
	return j.Policy.validate()
}

func (c Cut) validate() error {
	if err := validName("cut", c.ID); err != nil {
		return err
	}
	if err := validName("job", c.Job); err != nil {
		return err
	}
	if c.Epoch > maxEpoch {
		return fmt.Errorf("cut %s is of epoch %d: %w", c.ID, c.Epoch, ErrInvalid)
	}
	if len(c.Hosts) == 0 {
		return fmt.Errorf("cut %s has no host: %w", c.ID, ErrInvalid)
	}
	if c.Imported != nil {
		if err := validName("cluster", c.Imported.From); err != nil {
			return err
		}
	}
	seen, members := map[string]bool{}, map[string]string{}
	for _, h := range c.Hosts {
		for _, m := range h.Members {
			if other, ok := members[m.Name]; ok {
				return fmt.Errorf("cut %s has member %q on host %q and on %q: %w", c.ID, m.Name, other, h.Host, ErrInvalid)
			}
			members[m.Name] = h.Host
		}
		if seen[h.Host] {
			return fmt.Errorf("cut %s has host %q twice: %w", c.ID, h.Host, ErrInvalid)
		}
		seen[h.Host] = true
		if err := h.validate(); err != nil {
			return fmt.Errorf("cut %s: %w", c.ID, err)
		}
	}
	return nil
}

func (h CutHost) validate() error {
	for _, name := range slices.Concat([]string{h.Host}, h.Copies) {
		if err := validName("host", name); err != nil {
			return err
		}
	}
	for _, m := range h.Members {
		if err := validName("member", m.Name); err != nil {
			return err
		}
	}
	if sum, err := hex.DecodeString(h.Manifest); err != nil || len(sum) != 32 || hex.EncodeToString(sum) != h.Manifest {
		return fmt.Errorf("part of host %q: manifest %q is not a SHA-256 in hex: %w", h.Host, h.Manifest, ErrInvalid)
	}
	if err := validTexts("copy", h.Copies); err != nil {
		return err
	}
	return validTexts("vault", h.Vaults)
}
