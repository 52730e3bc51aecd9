package gate

import (
	"errors"
	"fmt"
)

// pool hands out NFQUEUE numbers. The caller serialises.
type pool struct {
	first, last uint16
	next        uint16
	used        map[uint16]bool
}

func newPool(first, last uint16) *pool {
	return &pool{first: first, last: last, next: first, used: map[uint16]bool{}}
}

// take tries the free numbers in turn, beginning after the one handed out last, until bind accepts one.
func (p *pool) take(bind func(num uint16) error) (uint16, error) {
	var errs error
	for range int(p.last) - int(p.first) + 1 {
		num := p.next
		if p.next++; num == p.last {
			p.next = p.first
		}
		if p.used[num] {
			continue
		}
		err := bind(num)
		if err == nil {
			p.used[num] = true
			return num, nil
		}
		if !errors.Is(err, errQueueTaken) {
			return 0, err
		}
		errs = err
	}
	if errs == nil {
		return 0, fmt.Errorf("all %d queue numbers from %d to %d are in use: raise the range, or open gates", len(p.used), p.first, p.last)
	}
	return 0, fmt.Errorf("no queue number from %d to %d is free: %w", p.first, p.last, errs)
}

func (p *pool) give(num uint16) { delete(p.used, num) }
