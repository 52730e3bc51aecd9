package rpc

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ss/api/identity"
	ssv1 "ss/api/proto/ss/v1"
)

func fileFrame(path string, size int) *ssv1.FileFrame {
	return &ssv1.FileFrame{Kind: &ssv1.FileFrame_File{File: &ssv1.PlainFile{Path: path, Size: int64(size), Mode: 0o600}}}
}

func dataFrame(b []byte) *ssv1.FileFrame {
	return &ssv1.FileFrame{Kind: &ssv1.FileFrame_Data{Data: b}}
}

// importFrames sends frames after the one that opens.
func importFrames(t *testing.T, c ssv1.AgentClient, open *ssv1.ImportOpen, frames ...*ssv1.FileFrame) (*ssv1.ImportImagesResponse, error) {
	t.Helper()
	stream, err := c.ImportImages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append([]*ssv1.FileFrame{{Kind: &ssv1.FileFrame_Open{Open: open}}}, frames...) {
		if err := stream.Send(f); err != nil && !errors.Is(err, io.EOF) { // then the reason comes at the end
			t.Fatal(err)
		}
	}
	return stream.CloseAndRecv()
}

// exportFiles gathers a stream's files; that of the meta is called "".
func exportFiles(t *testing.T, c ssv1.AgentClient, req *ssv1.ExportImagesRequest) map[string][]byte {
	t.Helper()
	stream, err := c.ExportImages(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	path := "none yet"
	for {
		f, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if head := f.GetFile(); head != nil {
			path = head.GetPath()
			files[path] = nil
			continue
		}
		files[path] = append(files[path], f.GetData()...)
	}
}

func TestImportAndExportOverTheWire(t *testing.T) {
	h := serveAgent(t)
	c := ssv1.NewAgentClient(h.as(t, identity.RoleAdmin, "admin"))
	key := &ssv1.ImageKey{Job: "job", Snapshot: "cut", Host: "hostA"}
	jobKey := bytes.Repeat([]byte{7}, 32)
	want := map[string][]byte{
		"":               []byte(`{"members":{"m":{}}}`),
		"m/images/a.img": bytes.Repeat([]byte("a"), 2*frameSize+1),
		"m/images/b.img": nil,
		"m/images/c.img": []byte("c"),
	}
	var frames []*ssv1.FileFrame
	for _, path := range slices.Sorted(maps.Keys(want))[1:] {
		frames = append(frames, fileFrame(path, len(want[path])))
		for piece := range slices.Chunk(want[path], 100_000) {
			frames = append(frames, dataFrame(piece))
		}
	}
	open := &ssv1.ImportOpen{Key: key, Epoch: 1, Meta: want[""], JobKey: jobKey}
	done, err := importFrames(t, c, open, frames...)
	if err != nil || !slices.Equal(done.GetCopies(), []string{"hostA"}) {
		t.Fatalf("%v, %v", done, err)
	}
	got := exportFiles(t, c, &ssv1.ExportImagesRequest{Key: key, Digest: done.GetDigest(), JobKey: jobKey})
	if !maps.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("exported %v", slices.Sorted(maps.Keys(got)))
	}
	if _, err := c.PutCut(t.Context(), &ssv1.PutCutRequest{Job: "job", Snapshot: "cut", Manifest: []byte("signed")}); err != nil {
		t.Fatal(err)
	}
	inv, err := c.Inventory(t.Context(), &ssv1.InventoryRequest{Job: "job"})
	if err != nil {
		t.Fatal(err)
	}
	if len(inv.GetSets()) != 1 || !inv.GetSets()[0].GetCommitted() || inv.GetSets()[0].GetDigest() != done.GetDigest() || inv.GetSets()[0].GetObjectBytes() == 0 {
		t.Errorf("sets: %v", inv.GetSets())
	}
	if len(inv.GetCuts()) != 1 || string(inv.GetCuts()[0].GetManifest()) != "signed" || len(inv.GetUsage()) != 1 {
		t.Errorf("inventory: %v", inv)
	}
}

// TestABadImport: what is not an export is refused, and nothing is left of it.
func TestABadImport(t *testing.T) {
	h := serveAgent(t)
	c := ssv1.NewAgentClient(h.as(t, identity.RoleAdmin, "admin"))
	open := &ssv1.ImportOpen{
		Key: &ssv1.ImageKey{Job: "job", Snapshot: "cut", Host: "hostA"}, Meta: []byte(`{"members":{"m":{}}}`), JobKey: make([]byte, 32),
	}
	short := &ssv1.ImportOpen{Key: open.GetKey(), Meta: open.GetMeta(), JobKey: make([]byte, 31)}
	again := &ssv1.FileFrame{Kind: &ssv1.FileFrame_Open{Open: open}}
	for name, c2 := range map[string]struct {
		open   *ssv1.ImportOpen
		frames []*ssv1.FileFrame
	}{
		"nothing to open it":    {nil, nil},
		"half a key":            {short, nil},
		"no files":              {open, nil},
		"data before a file":    {open, []*ssv1.FileFrame{dataFrame([]byte("x"))}},
		"opened twice":          {open, []*ssv1.FileFrame{fileFrame("m/a", 1), dataFrame([]byte("x")), again}},
		"a file that is short":  {open, []*ssv1.FileFrame{fileFrame("m/a", 2), dataFrame([]byte("x")), fileFrame("m/b", 0)}},
		"an end that is early":  {open, []*ssv1.FileFrame{fileFrame("m/a", 2), dataFrame([]byte("x"))}},
		"more than announced":   {open, []*ssv1.FileFrame{fileFrame("m/a", 1), dataFrame([]byte("x")), dataFrame([]byte("y"))}},
		"a path that leads out": {open, []*ssv1.FileFrame{fileFrame("m/../../a", 1), dataFrame([]byte("x"))}},
		"an empty frame":        {open, []*ssv1.FileFrame{{}}},
	} {
		if _, err := importFrames(t, c, c2.open, c2.frames...); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if sets, err := h.images.Sets(); err != nil || len(sets) != 0 {
		t.Errorf("image sets: %v, %v", sets, err)
	}
}

// TestWhatAnObserverSees: what there is, and how large. Not whole records of cuts, and nothing through this host's eyes.
func TestWhatAnObserverSees(t *testing.T) {
	h := serveAgent(t)
	if err := h.images.PutCut(t.Context(), "job", "cut", []byte("a whole record")); err != nil {
		t.Fatal(err)
	}
	c := ssv1.NewAgentClient(h.as(t, identity.RoleObserver, "eye"))
	inv, err := c.Inventory(t.Context(), &ssv1.InventoryRequest{})
	if err != nil || len(inv.GetCuts()) != 1 || inv.GetCuts()[0].GetSnapshot() != "cut" || len(inv.GetCuts()[0].GetManifest()) > 0 {
		t.Errorf("%v, %v", inv, err)
	}
	vault := filepath.Join(t.TempDir(), "vault")
	if _, err := c.Inventory(t.Context(), &ssv1.InventoryRequest{Vault: "file://" + vault}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a vault: %v", err)
	}
	if _, err := os.Stat(vault); !os.IsNotExist(err) {
		t.Errorf("the vault's folder: %v", err)
	}
}
