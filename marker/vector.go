package marker

// vector is a persistent array: set returns a vector that differs in one element and shares the rest, so a state may be
// kept and another made of it at O(log n). The zero value is empty.
type vector[T any] struct {
	length int
	levels int // above the leaves
	root   *vectorNode[T]
}

const (
	vectorBits  = 4
	vectorWidth = 1 << vectorBits
)

// vectorNode is never changed once it is part of a vector. A leaf has values, every other node has kids.
type vectorNode[T any] struct {
	kids   []*vectorNode[T]
	values []T
}

// newVector returns a vector of values, which it shares: they must not change.
func newVector[T any](values []T) vector[T] {
	v := vector[T]{length: len(values)}
	var nodes []*vectorNode[T]
	for at := 0; at < len(values); at += vectorWidth {
		nodes = append(nodes, &vectorNode[T]{values: values[at:min(at+vectorWidth, len(values))]})
	}
	for len(nodes) > 1 {
		var above []*vectorNode[T]
		for at := 0; at < len(nodes); at += vectorWidth {
			above = append(above, &vectorNode[T]{kids: nodes[at:min(at+vectorWidth, len(nodes))]})
		}
		nodes = above
		v.levels++
	}
	if len(nodes) == 1 {
		v.root = nodes[0]
	}
	return v
}

func (v vector[T]) get(i int) T {
	n := v.root
	for level := v.levels; level > 0; level-- {
		n = n.kids[i>>(level*vectorBits)%vectorWidth]
	}
	return n.values[i%vectorWidth]
}

func (v vector[T]) set(i int, value T) vector[T] {
	v.root = v.root.set(i, v.levels, value)
	return v
}

func (n *vectorNode[T]) set(i, level int, value T) *vectorNode[T] {
	if level == 0 {
		values := make([]T, len(n.values))
		copy(values, n.values)
		values[i%vectorWidth] = value
		return &vectorNode[T]{values: values}
	}
	kids := make([]*vectorNode[T], len(n.kids))
	copy(kids, n.kids)
	at := i >> (level * vectorBits) % vectorWidth
	kids[at] = kids[at].set(i, level-1, value)
	return &vectorNode[T]{kids: kids}
}

// all yields the elements in order.
func (v vector[T]) all(yield func(int, T) bool) {
	at := 0
	var walk func(n *vectorNode[T]) bool
	walk = func(n *vectorNode[T]) bool {
		for _, value := range n.values {
			if !yield(at, value) {
				return false
			}
			at++
		}
		for _, kid := range n.kids {
			if !walk(kid) {
				return false
			}
		}
		return true
	}
	if v.root != nil {
		walk(v.root)
	}
}
