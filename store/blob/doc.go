// Package blob keeps immutable objects under names: in a folder (Dir), in an object store (S3), and, by way of agent/rpc,
// on another host. It knows nothing of what is in them. Suite in blobtest is the contract that all of them keep.
//
// It may import the standard library, minio-go (s3*.go only), yaml for credentials, and nothing of ours but
// internal/disk.
package blob
