package image

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"google.golang.org/protobuf/proto"
)

// rewriteTree gives processes whose session has lost its leader, and which the tree's root has adopted, a session of their own: see ownSessions.
func rewriteTree(from, to string) error {
	img, err := decode(from, "pstree", &pstree.PstreeEntry{})
	if err != nil {
		return err
	}
	tree := make([]*pstree.PstreeEntry, 0, len(img.Entries))
	for _, e := range img.Entries {
		p, ok := e.Message.(*pstree.PstreeEntry)
		if !ok {
			return fmt.Errorf("image %s: an entry of type %T", filepath.Base(from), e.Message)
		}
		tree = append(tree, p)
	}
	dead, err := zombies(filepath.Dir(from), tree)
	if err != nil {
		return err
	}
	if !ownSessions(tree, dead) {
		return linkFile(from, to)
	}
	return encode(to, img)
}

// zombies are the processes that had ended and that nobody had waited for.
func zombies(dir string, tree []*pstree.PstreeEntry) (map[uint32]bool, error) {
	const taskDead = 2 // criu/include/pid.h
	dead := map[uint32]bool{}
	for _, p := range tree {
		leader, err := readThread(dir, p.GetPid())
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		dead[p.GetPid()] = err == nil && leader.image.GetTc().GetTaskState() == taskDead
	}
	return dead, nil
}

// ownSessions makes each child of the root whose session's leader has ended the leader of a session and group of its own, with those of its descendants that are in the
// same session and group. CRIU would restore such a child below a helper with the leader's number, which then ends; the root does not adopt orphans yet at that time, so the
// child would come to be one of the cell's PID 1 and no part of the tree that is dumped next.
func ownSessions(tree []*pstree.PstreeEntry, dead map[uint32]bool) (changed bool) {
	alive, children := map[uint32]bool{}, map[uint32][]*pstree.PstreeEntry{}
	var root *pstree.PstreeEntry
	for _, p := range tree {
		alive[p.GetPid()] = !dead[p.GetPid()]
		children[p.GetPpid()] = append(children[p.GetPpid()], p)
		if p.GetPpid() == 0 {
			root = p
		}
	}
	if root == nil {
		return false
	}
	for _, p := range children[root.GetPid()] {
		session, group := p.GetSid(), p.GetPgid()
		if session == root.GetSid() || session == p.GetPid() || alive[session] {
			continue
		}
		changed = true
		family := []*pstree.PstreeEntry{p}
		for i := 0; i < len(family); i++ {
			member := family[i]
			family = append(family, children[member.GetPid()]...)
			if member.GetSid() == session {
				member.Sid = proto.Uint32(p.GetPid())
			}
			if member.GetPgid() == group {
				member.Pgid = proto.Uint32(p.GetPid())
			}
		}
	}
	return changed
}
