// Package files opens what other users can influence: the files that members hold, the places where a restore puts files back,
// members' logs, executables that are looked at. Nothing else in the agent opens such a path, and a test over the source says so.
//
// An agent is root, and the owner of a folder can exchange what is in it for a link, a FIFO or another file at any time. So at a
// snapshot the files are read through descriptors that the members hold, whatever has become of their names (Take). At a restore
// each folder is reached step by step without links that another user could have made, and what is there is looked at through a
// descriptor before a byte is read or written (PutBack). Regular files only are opened, and never with a wait.
//
// It may import agent/proc, internal/disk, golang.org/x/sys and the standard library.
package files
