// Package image reads and changes the images of CRIU, which lie in folders of plain files. Editor implements agent.ImageEditor.
//
// It starts nothing and looks at no process: what it says is in the images. codec.go reads and writes a file of entries within bounds, whatever
// is in it. contents.go, sockets.go and needs.go say what images hold. The other files change them, each in one respect: addresses (rewrite.go),
// ends of connections (turn.go), bytes in transit (unsent.go), waits (interrupt.go), pages (pages.go), files that CRIU gets as
// descriptors (hand.go).
//
// It may import agent, files, marker and target (for the types in its signatures), internal/disk, the standard library, go-criu, protobuf for go-criu's messages,
// and golang.org/x/sys/unix.
package image

// Editor reads and changes images. It has no state.
type Editor struct{}
