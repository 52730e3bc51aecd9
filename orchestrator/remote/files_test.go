package remote

import (
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc"

	ssv1 "ss/api/proto/ss/v1"
	"ss/fault"
)

// frames is an export that an agent sends.
type frames struct {
	grpc.ClientStream
	left []*ssv1.FileFrame
}

func (f *frames) Recv() (*ssv1.FileFrame, error) {
	if len(f.left) == 0 {
		return nil, io.EOF
	}
	next := f.left[0]
	f.left = f.left[1:]
	return next, nil
}

func head(path string, size int64) *ssv1.FileFrame {
	return &ssv1.FileFrame{Kind: &ssv1.FileFrame_File{File: &ssv1.PlainFile{Path: path, Size: size, Mode: 0o600}}}
}

func data(s string) *ssv1.FileFrame {
	return &ssv1.FileFrame{Kind: &ssv1.FileFrame_Data{Data: []byte(s)}}
}

// readFiles reads all that comes, as path → content.
func readFiles(r *fileReader) (map[string]string, error) {
	files := map[string]string{}
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		files[f.Path] = string(b)
	}
}

// TestFileReader: frames become files, however they are cut, and what does not follow the form is an error, never a short file.
func TestFileReader(t *testing.T) {
	whole := []*ssv1.FileFrame{head("", 2), data("{}"), head("m/a", 5), data("he"), data("llo"), head("m/empty", 0), head("m/b", 1), data("x")}
	got, err := readFiles(&fileReader{stream: &frames{left: whole}, cancel: func() {}})
	if err != nil || len(got) != 4 || got[""] != "{}" || got["m/a"] != "hello" || got["m/b"] != "x" {
		t.Errorf("%q, %v", got, err)
	}
	for name, bad := range map[string][]*ssv1.FileFrame{
		"data where a head must be":  {data("x")},
		"a head where data must be":  {head("m/a", 2), head("m/b", 0)},
		"it ends within a file":      {head("m/a", 2), data("x")},
		"more data than announced":   {head("m/a", 2), data("xyz")},
		"no data in a frame of data": {head("m/a", 2), data("")},
		"a negative size":            {head("m/a", -1)},
		"an empty frame":             {{}},
	} {
		if got, err := readFiles(&fileReader{stream: &frames{left: bad}, cancel: func() {}}); !fault.Is(err, fault.Integrity) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
