package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
)

// signatureDomain stands before what is signed, so that a signature is never one of something else: the same key signs TLS handshakes.
const signatureDomain = "ss signature 1\x00"

// signedDigest is the SHA-256 of the domain and the data.
func signedDigest(data []byte) []byte {
	h := sha256.New()
	_, _ = h.Write([]byte(signatureDomain))
	_, _ = h.Write(data)
	return h.Sum(nil)
}

// Sign signs data with the holder's key: ECDSA on P-256 over the SHA-256 of a prefix and the data, in ASN.1 (RFC 3279, 2.2.3). It returns the
// holder's certificate, PEM, with it. Only an admin's signature counts, so only an admin can make one.
func (c *Credentials) Sign(data []byte) (signature, certificate []byte, err error) {
	if c.id.Role != RoleAdmin {
		return nil, nil, fmt.Errorf("sign: %s %q is not an admin, whose signature would count: %w", c.id.Role, c.id.Name, ErrIdentity)
	}
	key, ok := c.cert.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, nil, fmt.Errorf("sign: the key of %q is not ECDSA on P-256: issue a new certificate: %w", c.id.Name, ErrIdentity)
	}
	if signature, err = ecdsa.SignASN1(rand.Reader, key, signedDigest(data)); err != nil {
		return nil, nil, fmt.Errorf("sign: %w", err)
	}
	return signature, encodeCert(c.cert.Leaf.Raw), nil
}

// VerifySigned says why a signature that Sign made is not one of an admin of this cluster; nil if it is. That the certificate has expired is no
// reason: it was valid when it signed. The certificate is taken in the form in which Sign gives it, and in no other.
func (c *Credentials) VerifySigned(data, signature, certificate []byte) error {
	cert, err := parseCert(certificate)
	if err != nil {
		return fmt.Errorf("signer's certificate: %w: %w", err, ErrIdentity)
	}
	if !bytes.Equal(encodeCert(cert.Raw), certificate) {
		return fmt.Errorf("signer's certificate is in another form than it was made in: %w", ErrIdentity)
	}
	id, err := c.verifyAt(cert, x509.ExtKeyUsageClientAuth, cert.NotBefore)
	if err != nil {
		return fmt.Errorf("signer's %w", err)
	}
	if id.Role != RoleAdmin {
		return fmt.Errorf("signed by %s %q, who is not an admin: %w", id.Role, id.Name, ErrIdentity)
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return fmt.Errorf("key of signer %q is not ECDSA on P-256: %w", id.Name, ErrIdentity)
	}
	if !ecdsa.VerifyASN1(key, signedDigest(data), signature) {
		return fmt.Errorf("%q did not sign this: signature and data do not belong together: %w", id.Name, ErrIdentity)
	}
	return nil
}
