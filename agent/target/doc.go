// Package target says what would keep members from being restored on a host: names, process numbers, paths, files, locks and sockets that are
// taken or missing there. It compares what images need (Needs) with what lives on the host (HostObjects), and changes nothing.
//
// It may import files, proc, golang.org/x/sys and the standard library. It declares what it asks of the host (Lives).
package target
