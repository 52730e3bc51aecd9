package integration

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ss/integration/lab"
)

// objectStore is an S3 server on the host "admin": a real one, with its objects in a folder.
type objectStore struct {
	t      *testing.T
	folder string
	addr   string
	cmd    *lab.Cmd
}

const (
	objectPort   = 7480
	objectKey    = "lab-access-key"
	objectSecret = "lab-secret-key"
	objectBucket = "lab-cuts"
)

func newObjectStore(t *testing.T) *objectStore {
	t.Helper()
	s := &objectStore{t: t, folder: t.TempDir()}
	must(t, os.Mkdir(filepath.Join(s.folder, objectBucket), 0o755))
	return s
}

// serve starts the server and returns when it accepts connections.
func (s *objectStore) serve(c *cluster) {
	s.t.Helper()
	server, err := lab.Binary("versitygw")
	must(s.t, err)
	admin := c.Host(lab.AdminName)
	s.addr = fmt.Sprintf("%s:%d", admin.Addr(), objectPort)
	s.cmd = admin.Command(context.Background(), server, "--port", s.addr, "posix", s.folder).LogTo("/srv/objectstore.log")
	s.cmd.Env = append(s.environment(), "ROOT_ACCESS_KEY="+objectKey, "ROOT_SECRET_KEY="+objectSecret)
	must(s.t, s.cmd.Start())
	await(s.t, "object store", func() string {
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Second)
		defer cancel()
		out, err := admin.Command(ctx, "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%d", admin.Addr(), objectPort)).CombinedOutput()
		if err != nil {
			return fmt.Sprintf("%v: %s", err, out)
		}
		return ""
	})
}

// stop ends the server.
func (s *objectStore) stop() { s.cmd.Kill() }

// environment is what agents need to use it.
func (s *objectStore) environment() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + objectKey, "AWS_SECRET_ACCESS_KEY=" + objectSecret}
}

// url is a vault in it.
func (s *objectStore) url(place string) string {
	q := url.Values{"endpoint": {"http://" + net.JoinHostPort("10.77.0.254", fmt.Sprint(objectPort))}, "region": {"us-east-1"}}
	return "s3://" + place + "?" + q.Encode()
}
