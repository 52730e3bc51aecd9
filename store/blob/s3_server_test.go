package blob_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"ss/store/blob"
)

// server is a real S3 server (github.com/versity/versitygw, over a folder), alone on a port of this host.
type server struct {
	address  string
	access   string
	secret   string
	root     string // a folder each bucket
	client   *minio.Client
	credFile string
	buckets  int
}

// theServer is one for all tests of this program: each has a bucket of its own. TestMain ends it.
var theServer struct {
	once sync.Once
	s    *server
	stop func()
	err  error
}

func startServer(t *testing.T) *server {
	t.Helper()
	theServer.once.Do(func() { theServer.s, theServer.stop, theServer.err = runServer() })
	if theServer.err != nil {
		t.Fatal(theServer.err)
	}
	return theServer.s
}

func stopServer() {
	if theServer.stop != nil {
		theServer.stop()
	}
}

func serverProgram() (string, error) {
	path := os.Getenv("SS_VERSITYGW")
	if path == "" {
		path = filepath.Join("..", "..", ".build", "tools", "versitygw")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(abs); err != nil {
		return "", fmt.Errorf("the S3 server that vaults are tested against is not there: %w; run `make vault-server`, or set SS_VERSITYGW to the program", err)
	}
	return abs, nil
}

// runServer starts the server, and returns when it answers. Another program may take the port first, so it tries a few.
func runServer() (*server, func(), error) {
	program, err := serverProgram()
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "ss-s3-")
	if err != nil {
		return nil, nil, err
	}
	s := &server{access: "access" + rand.Text()[:8], secret: rand.Text(), root: filepath.Join(dir, "data"), credFile: filepath.Join(dir, "credentials.yaml")}
	err = errors.Join(os.Mkdir(s.root, 0o700), os.Mkdir(filepath.Join(dir, "meta"), 0o700),
		os.WriteFile(s.credFile, fmt.Appendf(nil, "access_key: %s\nsecret_key: %s\n", s.access, s.secret), 0o600))
	for range 5 {
		if err != nil {
			break
		}
		var stop func()
		if stop, err = s.run(program, dir); err == nil {
			s.client, err = minio.New(s.address, &minio.Options{Creds: credentials.NewStaticV4(s.access, s.secret, "")})
			return s, func() { stop(); _ = os.RemoveAll(dir) }, err
		}
	}
	return nil, nil, errors.Join(err, os.RemoveAll(dir))
}

func (s *server) run(program, dir string) (stop func(), err error) {
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.address = port.Addr().String()
	_ = port.Close()
	var out bytes.Buffer
	cmd := exec.Command(program, "--quiet", "--keep-alive", "--port", s.address, "posix", "--sidecar", filepath.Join(dir, "meta"), s.root)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "ROOT_ACCESS_KEY=" + s.access, "ROOT_SECRET_KEY=" + s.secret}
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // it must not outlive a test program that panics
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop = func() {
		_ = cmd.Process.Kill()
		<-ended
	}
	retry := time.NewTicker(20 * time.Millisecond)
	defer retry.Stop()
	for range 1500 {
		c, err := net.Dial("tcp", s.address)
		if err == nil {
			_ = c.Close()
			return stop, nil
		}
		select {
		case err := <-ended:
			return nil, fmt.Errorf("%s ended: %w: %s", program, errors.Join(errors.New("too early"), err), out.String())
		case <-retry.C:
		}
	}
	stop()
	return nil, fmt.Errorf("%s does not listen at %s: %s", program, s.address, out.String())
}

// bucket makes one for a test.
func (s *server) bucket(t *testing.T) string {
	t.Helper()
	s.buckets++
	name := fmt.Sprintf("bucket-%d", s.buckets)
	if err := s.client.MakeBucket(t.Context(), name, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	return name
}

// vault opens bucket/prefix at address, which is the server's or a proxy's.
func (s *server) vault(t *testing.T, bucket, address string) *blob.S3 {
	t.Helper()
	url := fmt.Sprintf("s3://%s/some/prefix?endpoint=http://%s&region=us-east-1", bucket, address)
	st, err := blob.OpenURLTimed(t.Context(), url, blob.Options{CredentialsFile: s.credFile, PartSize: 5 << 20}, time.Millisecond, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return st.(*blob.S3)
}

// uploads lists the uploads in parts that have not ended, in a bucket, as the server keeps them.
func (s *server) uploads(t *testing.T, bucket string) []string {
	t.Helper()
	var left []string
	for up := range s.client.ListIncompleteUploads(context.Background(), bucket, "", true) {
		if up.Err != nil {
			t.Fatal(up.Err)
		}
		left = append(left, up.Key)
	}
	// What is on its disk says the same: parts lie in folders of their own.
	err := filepath.WalkDir(filepath.Join(s.root, bucket), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && strings.Contains(path, "multipart") {
			left = append(left, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return left
}
