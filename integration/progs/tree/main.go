// Tree is a process tree that passes numbered messages through everything a tree is made of, and across to another tree.
//
//	tree serve   -listen ADDR
//	tree connect -to ADDR [-messages N] [-until FILE]
//
// In each tree a message goes from the parent through a pipe to the first child, there through two threads, over a UNIX socket
// pair to the second child, through a pipe back to the parent, and over TCP to the other tree. The connecting tree
// sends new messages into its own first pipe as old ones return by TCP. Every station checks the number of every message. The connecting tree
// ends the game after -messages messages or when the file -until appears.
//
//go:debug multipathtcp=0
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"ss/integration/progs/internal/meet"
)

// window is how many messages are on their way at a time.
const window = 64

// progressEvery is how often a line says how far things are.
const progressEvery = time.Second

func main() {
	name := "tree"
	if len(os.Args) > 1 && os.Args[1] == childRole {
		name = "tree child"
	}
	summary, err := run(os.Args[1:], os.Stdout)
	line, status := meet.Verdict(name, summary, err)
	fmt.Println(line)
	os.Exit(status)
}

func run(args []string, out io.Writer) (summary string, err error) {
	if len(args) > 0 && args[0] == childRole {
		return runChild(args[1:])
	}
	if len(args) == 0 || args[0] != "serve" && args[0] != "connect" {
		return "", errors.New("usage: tree serve|connect [flags]")
	}
	var listen, to string
	var stop meet.Stopper
	flags := flag.NewFlagSet("tree", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&listen, "listen", "", "`address` to wait at (serve)")
	flags.StringVar(&to, "to", "", "`address` of the other tree (connect)")
	stop.Flags(flags, "messages")
	if err := flags.Parse(args[1:]); err != nil {
		return "", err
	}

	var conn *net.TCPConn
	if args[0] == "serve" {
		var closeListener func() error
		if conn, closeListener, err = meet.Accept(listen); err != nil {
			return "", err
		}
		defer closeListener()
	} else if conn, err = meet.Dial(to); err != nil {
		return "", err
	}
	defer conn.Close()

	family, err := plant(out)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(out, "tree: connected %s %s, children %v\n", conn.LocalAddr(), conn.RemoteAddr(), family.pids())
	p := &parent{conn: conn, family: family, out: out}
	if args[0] == "connect" {
		p.stop = &stop
	}
	err = errors.Join(p.run(), family.wait())
	return fmt.Sprintf("messages=%d", p.fromPeer.next), err
}
