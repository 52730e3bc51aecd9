package blob_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ss/store/blob"
)

func TestCheckURL(t *testing.T) {
	for _, url := range []string{
		"file:///mnt/shared", "file:///mnt/shared/", "file:///a%20b", "s3://bucket", "s3://bucket/", "s3://bucket/a/b", "s3://my.bucket-1/a?region=eu-central-1",
		"s3://bucket/a?endpoint=http://127.0.0.1:9000", "s3://bucket?endpoint=https://host/&region=auto", "s3://bucket?endpoint=http://[::1]:9000",
	} {
		if err := blob.CheckURL(url); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	for _, url := range []string{
		"", "/mnt/shared", "mnt", "file:", "file://", "file:///", "file:///..", "file:///mnt/../etc", "file:///mnt//a", "file://mnt/shared", "file:relative",
		"file:///mnt?x=1", "file:///mnt#x", "file:///a%00b", "http://bucket", "S3:bucket", "s3://", "s3:///bucket", "s3://B", "s3://ab", "s3://a..b", "s3://bucket/a//b",
		"s3://bucket/../b", "s3://bucket/.a", "s3://bucket?endpoint=host:9000", "s3://bucket?endpoint=http://", "s3://bucket?endpoint=http://h/path",
		"s3://bucket?endpoint=http://h&endpoint=http://i", "s3://bucket?acl=public", "s3://bucket?region=a%0ab", "s3://bucket?endpoint=http://u:hunter2@h",
		"s3://key:hunter2@bucket/a", "file://key:hunter2@/mnt", "s3://key:hunter2@bucket/%zz", "s3://bucket:9000", "s3://bucket?hunter2%zz", strings.Repeat("s3://bucket/", 1<<16), "s3://bucket/\x7f",
	} {
		err := blob.CheckURL(url)
		if err == nil {
			t.Errorf("%.80q is a vault's URL", url)
		} else if text := err.Error(); strings.Contains(text, "hunter2") || len(text) > 4096 {
			t.Errorf("%.80q: the error says too much: %.200s", url, text)
		}
	}
}

func TestMissingFileVault(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mount")
	_, err := blob.OpenURL(t.Context(), "file://"+path, blob.Options{})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "mount the file system") {
		t.Errorf("missing: %v", err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("a folder has taken the place of the mount")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := blob.OpenURL(t.Context(), "file://"+path, blob.Options{}); err == nil {
		t.Error("a file is a vault")
	}
}

// TestCredentials needs no server: it is not asked without credentials.
func TestCredentials(t *testing.T) {
	for _, v := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"} {
		t.Setenv(v, "")
	}
	open := func(file string) error {
		_, err := blob.OpenURL(t.Context(), "s3://bucket?endpoint=http://127.0.0.1:1", blob.Options{CredentialsFile: file})
		return err
	}
	if err := open(""); !errors.Is(err, blob.ErrDenied) || !strings.Contains(err.Error(), "AWS_SECRET_ACCESS_KEY") {
		t.Errorf("none: %v", err)
	}
	path := filepath.Join(t.TempDir(), "credentials.yaml")
	if err := open(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	for name, content := range map[string]string{
		"empty":   "",
		"lacking": "access_key: hunter2\n",
		"strange": "access_key: a\nsecret_key: b\nhunter2: c\n",
		"list":    "- hunter2\n",
		"type":    "access_key: a\nsecret_key: [hunter2]\n",
		"broken":  "access_key: \"hunter2\n",
		"long":    strings.Repeat("# hunter2\n", 1<<14),
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := open(path); !errors.Is(err, blob.ErrDenied) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := errors.Join(os.WriteFile(path, []byte("access_key: a\nsecret_key: b\n"), 0o600), os.Chmod(path, 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := open(path); !errors.Is(err, blob.ErrDenied) || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("open to others: %v", err)
	}
}
