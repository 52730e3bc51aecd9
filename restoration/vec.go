package restoration

import (
	"cmp"
	"slices"
)

const (
	vecBits = 4
	vecSize = 1 << vecBits
)

// vec is an array whose versions share what they have in common: set costs O(log n) and leaves the old version as it
// was. Elements are the zero value until they are set.
type vec[T any] struct {
	depth int
	root  *vecNode[T]
}

type vecNode[T any] struct {
	kids   [vecSize]*vecNode[T]
	leaves []T // at the lowest level, instead of kids
}

func newVec[T any](n int) vec[T] {
	depth := 1
	for size := vecSize; size < n; size <<= vecBits {
		depth++
	}
	return vec[T]{depth: depth}
}

func (v vec[T]) get(i int) (zero T) {
	node := v.root
	for level := v.depth - 1; node != nil; level-- {
		at := i >> (level * vecBits) & (vecSize - 1)
		if level == 0 {
			return node.leaves[at]
		}
		node = node.kids[at]
	}
	return zero
}

func (v vec[T]) set(i int, x T) vec[T] {
	return vec[T]{v.depth, v.root.set(v.depth-1, i, x)}
}

func (n *vecNode[T]) set(level, i int, x T) *vecNode[T] {
	next := &vecNode[T]{}
	if n != nil {
		*next = *n
	}
	at := i >> (level * vecBits) & (vecSize - 1)
	if level == 0 {
		next.leaves = make([]T, vecSize)
		if n != nil {
			copy(next.leaves, n.leaves)
		}
		next.leaves[at] = x
		return next
	}
	next.kids[at] = next.kids[at].set(level-1, i, x)
	return next
}

// roster finds hosts by name. It never changes.
type roster struct {
	ids    []HostID
	byName []int // indexes of ids, by name
}

func newRoster(ids []HostID) *roster {
	r := &roster{ids: slices.Clone(ids), byName: make([]int, len(ids))}
	for i := range r.byName {
		r.byName[i] = i
	}
	slices.SortFunc(r.byName, func(a, b int) int { return cmp.Compare(r.ids[a], r.ids[b]) })
	return r
}

// index is where a host stands in ids, -1 if it does not.
func (r *roster) index(id HostID) int {
	at, ok := slices.BinarySearchFunc(r.byName, id, func(i int, id HostID) int { return cmp.Compare(r.ids[i], id) })
	if !ok {
		return -1
	}
	return r.byName[at]
}
