// Package keys has the secrets that images are encrypted with: one random key a job, wrapped to the cluster's
// recipients with age (https://age-encryption.org/v1) where it is stored, and bare in memory only.
//
// It may import the standard library and filippo.io/age, and nothing of ours.
package keys
