// Package bolt is a catalogue's database in one bbolt file, in a folder of its own: the default. It opens the file for each transaction and closes
// it afterwards, so several processes work with it at once: readers together, a writer alone.
//
// A lease is a lock on a file (flock(2)): the kernel gives it up when its process ends, however it ends. So it is never lost to a clock. A
// watch waits for the file to change (inotify(7)).
//
// It may import store/kv, internal/disk, bbolt, fsnotify and the standard library, and nothing else in the project imports bbolt.
package bolt
