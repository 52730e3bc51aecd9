// Package identity says who is who in a cluster: its certificate authority, the certificates it
// issues, the roles they carry, and what a role may call.
//
// Every certificate names its holder in one URI SAN, ss://CLUSTER/ROLE/NAME, and nowhere else: DNS
// names and addresses say nothing about who may do what, and hosts change theirs. All traffic is TLS
// 1.3 with both sides verified against the cluster's own authority; there is no other mode.
//
// It may import the standard library and grpc, and of ours names and internal/disk.
package identity
