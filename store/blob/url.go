package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"ss/internal/disk"
)

// Options are what a vault needs beside its URL.
type Options struct {
	// CredentialsFile holds access_key, secret_key, session_token (optional) as YAML; "" takes the environment
	// (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN). 0600, or it is refused.
	CredentialsFile string
	// PartSize is the length of the parts that a large object is uploaded in, in bytes; 0: 16 MiB. S3 takes no less than 5 MiB.
	PartSize int64
}

// awsEndpoint is where buckets are that say nothing else.
const awsEndpoint = "s3.amazonaws.com"

// location is a vault's URL, taken apart.
type location struct {
	path string // of a file vault; "" is one of S3

	bucket   string
	prefix   string // of keys; "" or ends with a slash
	endpoint string // host, or host:port
	secure   bool
	region   string // "": the server is asked
}

// String is for people: no vault's URL holds a secret.
func (l location) String() string {
	if l.path != "" {
		return l.path
	}
	return "s3://" + l.bucket + "/" + strings.TrimSuffix(l.prefix, "/") + " at " + l.endpoint
}

// CheckURL says what is wrong with a vault's URL; nil if nothing is. It reaches for nothing.
func CheckURL(url string) error {
	_, err := parseURL(url)
	return err
}

// OpenURL opens a vault: file:///mnt/shared or s3://bucket/prefix?endpoint=http(s)://host:port&region=… (endpoint missing: AWS; region
// missing: the server is asked). A vault that is not there, or does not let us in, makes an error that says what to do.
func OpenURL(ctx context.Context, url string, opt Options) (Store, error) {
	return openURL(ctx, url, opt, usualTiming)
}

func openURL(ctx context.Context, url string, opt Options, tm timing) (Store, error) {
	loc, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	var s Store
	if loc.path != "" {
		s, err = openFolder(loc.path)
	} else {
		var cred credential
		cred, err = loadCredential(opt.CredentialsFile)
		if err == nil {
			s, err = openS3(ctx, loc, cred, opt, tm)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open vault %s: %w", loc, err)
	}
	return s, nil
}

// openFolder opens a file vault, which must be there: where a mount is missing, a folder in its place would fill the
// disk of this host, and die with it.
func openFolder(path string) (*Dir, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w; mount the file system that it is on; if it is to be a new vault, make it: mkdir -m 700 %s", err, path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: %w; look at the folder's owner and mode", ErrDenied, err)
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, fmt.Errorf("it is not a folder but %s; correct the vault's URL", info.Mode().Type())
	}
	return &Dir{root: path}, nil
}

var (
	bucketPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`) // docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
	regionPattern = regexp.MustCompile(`^[a-z0-9-]{1,63}$`)
)

// Forms that are shown to whoever has another.
const (
	fileForm = "file:///mnt/vault"
	s3Form   = "s3://bucket/prefix?endpoint=https://host:port&region=us-east-1"
)

func parseURL(raw string) (location, error) {
	if len(raw) > 2048 {
		return location{}, fmt.Errorf("a vault's URL is longer than 2048 bytes: write %s or %s", fileForm, s3Form)
	}
	u, err := url.Parse(raw)
	if err != nil {
		// The parser's error holds all of it, and so a password, if there is one.
		return location{}, fmt.Errorf("this is not a vault's URL: write %s or %s", fileForm, s3Form)
	}
	var loc location
	switch {
	case u.User != nil:
		err = errors.New("it holds a user or a password, which do not belong there: use a credentials file, or the environment")
	case u.Fragment != "":
		err = errors.New("nothing may come after a #")
	case u.Scheme == "file":
		loc, err = parseFile(u)
	case u.Scheme == "s3":
		loc, err = parseS3(u)
	default:
		err = errors.New("it begins with neither file:// nor s3://")
	}
	if err != nil {
		// Without the rest of it: a password may be anywhere in what is not well-formed.
		return location{}, fmt.Errorf("vault %s://%s%s: %w (write %s or %s)", u.Scheme, u.Host, u.EscapedPath(), err, fileForm, s3Form)
	}
	return loc, nil
}

func parseFile(u *url.URL) (location, error) {
	switch {
	case u.Host != "":
		return location{}, fmt.Errorf("it names a host, %s: a path comes after three slashes", u.Host)
	case u.RawQuery != "" || u.ForceQuery:
		return location{}, errors.New("nothing may come after a ?")
	case !filepath.IsAbs(u.Path) || filepath.Clean(u.Path) == "/":
		return location{}, errors.New("its path is not that of a folder of its own")
	case filepath.Clean(u.Path) != strings.TrimSuffix(u.Path, "/") || strings.ContainsRune(u.Path, 0):
		return location{}, errors.New("its path is not plain: no //, . or .. belongs there")
	}
	return location{path: filepath.Clean(u.Path)}, nil
}

func parseS3(u *url.URL) (location, error) {
	if !bucketPattern.MatchString(u.Host) || strings.Contains(u.Host, "..") {
		return location{}, fmt.Errorf("%q is not a bucket's name: 3 to 63 of a–z 0–9 . and -", u.Host)
	}
	loc := location{bucket: u.Host, endpoint: awsEndpoint, secure: true}
	if prefix := strings.Trim(u.Path, "/"); prefix != "" {
		if err := CheckName(prefix); err != nil {
			return location{}, fmt.Errorf("its prefix: %w", err)
		}
		loc.prefix = prefix + "/"
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return location{}, errors.New("what comes after the ? is not key=value&key=value")
	}
	for key, values := range query {
		if len(values) != 1 {
			return location{}, fmt.Errorf("it says %s %d times", key, len(values))
		}
		switch key {
		case "endpoint":
			err = loc.setEndpoint(values[0])
		case "region":
			loc.region = values[0]
			if !regionPattern.MatchString(loc.region) {
				err = fmt.Errorf("%q is not a region's name", loc.region)
			}
		default:
			err = fmt.Errorf("it says %q, which means nothing: endpoint and region do", key)
		}
		if err != nil {
			return location{}, err
		}
	}
	return loc, nil
}

func (l *location) setEndpoint(raw string) error {
	e, err := url.Parse(raw)
	if err != nil || e.User != nil || e.Host == "" || e.Hostname() == "" || e.Path != "" && e.Path != "/" || e.RawQuery != "" || e.Fragment != "" ||
		e.Scheme != "http" && e.Scheme != "https" {
		return errors.New("its endpoint is not http://host:port or https://host:port")
	}
	l.endpoint = e.Host
	l.secure = e.Scheme == "https"
	return nil
}

// credential is what an S3 server knows us by.
type credential struct {
	AccessKey    string `yaml:"access_key"`
	SecretKey    string `yaml:"secret_key"`
	SessionToken string `yaml:"session_token"`
}

// String keeps the secret out of logs.
func (c credential) String() string { return "credential " + c.AccessKey }

// loadCredential reads a file, or the environment if path is "".
func loadCredential(path string) (credential, error) {
	if path == "" {
		c := credential{AccessKey: os.Getenv("AWS_ACCESS_KEY_ID"), SecretKey: os.Getenv("AWS_SECRET_ACCESS_KEY"), SessionToken: os.Getenv("AWS_SESSION_TOKEN")}
		if c.AccessKey == "" || c.SecretKey == "" {
			return credential{}, fmt.Errorf("there are no credentials: %w; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a credentials file", ErrDenied)
		}
		return c, nil
	}
	c, err := readCredential(path)
	if err != nil {
		return credential{}, fmt.Errorf("credentials: %w: %w", ErrDenied, err)
	}
	return c, nil
}

func readCredential(path string) (credential, error) {
	const limit = 64 << 10
	if err := disk.CheckPrivate(path); err != nil {
		return credential{}, err
	}
	data, err := disk.ReadSmall(path, limit)
	if err != nil {
		return credential{}, err
	}
	var c credential
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		// The parser's error may quote a line, and so the secret.
		return credential{}, fmt.Errorf("%s is not YAML with access_key, secret_key and perhaps session_token, each a text", path)
	}
	if c.AccessKey == "" || c.SecretKey == "" {
		return credential{}, fmt.Errorf("%s lacks access_key or secret_key: write both", path)
	}
	return c, nil
}
