package identity

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
)

// A statement is what an admin says, signed, for everyone of the cluster to keep and to show to others: that a cut was removed, say.
// Its kind is signed with it, so that no statement of one kind can be taken for one of another, nor for the signature of a cut's manifest.

// statementDomain stands before the kind and the body of a statement that is signed.
const statementDomain = "statement\x00"

// MaxStatement bounds a statement, in bytes.
const MaxStatement = 16 << 20

var kindPattern = regexp.MustCompile(`^[a-z][a-z ]{0,62}$`)

// signedStatement is the form of a statement, one line of JSON. The signature covers the kind and the bytes of Body as they stand there.
type signedStatement struct {
	Kind        string          `json:"kind"`
	Body        json.RawMessage `json:"body"`
	Signature   []byte          `json:"signature"`
	Certificate string          `json:"certificate"`
}

func (s signedStatement) encode() ([]byte, error) {
	var parts [3][]byte
	for i, v := range []any{s.Kind, s.Signature, s.Certificate} {
		var err error
		if parts[i], err = json.Marshal(v); err != nil {
			return nil, err
		}
	}
	return fmt.Appendf(nil, `{"kind":%s,"body":%s,"signature":%s,"certificate":%s}`+"\n", parts[0], []byte(s.Body), parts[1], parts[2]), nil
}

func statementData(kind string, body []byte) []byte {
	return append([]byte(statementDomain+kind+"\x00"), body...)
}

// SignStatement makes a statement of a kind (lower-case letters and spaces) with a body, which must be JSON on one line. Only an admin can.
func (c *Credentials) SignStatement(kind string, body []byte) ([]byte, error) {
	if !kindPattern.MatchString(kind) {
		return nil, fmt.Errorf("sign statement: kind %q", kind)
	}
	if !json.Valid(body) || bytes.ContainsAny(body, "\r\n") {
		return nil, fmt.Errorf("sign statement of kind %q: its body is not JSON on one line", kind)
	}
	signature, certificate, err := c.Sign(statementData(kind, body))
	if err != nil {
		return nil, err
	}
	data, err := signedStatement{kind, body, signature, string(certificate)}.encode()
	if err == nil && len(data) > MaxStatement {
		err = fmt.Errorf("%d bytes, more than %d", len(data), MaxStatement)
	}
	if err != nil {
		return nil, fmt.Errorf("sign statement of kind %q: %w", kind, err)
	}
	return data, nil
}

// OpenStatement returns the body of a statement of that kind, if an admin of this cluster signed it. A statement of another kind, one that
// nobody signed, and any other form of it make the error wrap ErrIdentity.
func (c *Credentials) OpenStatement(kind string, statement []byte) (body []byte, err error) {
	bad := func(format string, args ...any) ([]byte, error) {
		return nil, fmt.Errorf("statement of kind %q: %s: %w", kind, fmt.Sprintf(format, args...), ErrIdentity)
	}
	if len(statement) > MaxStatement {
		return bad("%d bytes, more than %d", len(statement), MaxStatement)
	}
	var s signedStatement
	if err := json.Unmarshal(statement, &s); err != nil {
		return bad("%v", err)
	}
	if again, err := s.encode(); err != nil || !bytes.Equal(again, statement) {
		return bad("another form than it was signed in")
	}
	if s.Kind != kind {
		return bad("it is of kind %q", s.Kind)
	}
	if err := c.VerifySigned(statementData(s.Kind, s.Body), s.Signature, []byte(s.Certificate)); err != nil {
		return nil, fmt.Errorf("statement of kind %q: %w", kind, err)
	}
	return s.Body, nil
}
