// Ring is one of several processes that pass money around in a circle, each to the next, over TCP.
//
//	ring -id I -of N -listen ADDR -next ADDR [-balance B] [-rounds K] [-until FILE]
//
// Money is neither made nor lost: while they run, process 0 counts all of it again and again, on the way as well as at
// rest, and at the end everything is counted once more at rest. Transfers are numbered on every link. Process 0 ends the game after
// -rounds transfers or when the file -until appears.
//
//go:debug multipathtcp=0
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"

	"ss/integration/progs/internal/meet"
)

func main() {
	summary, err := run(os.Args[1:], os.Stdout)
	line, status := meet.Verdict("ring", summary, err)
	fmt.Println(line)
	os.Exit(status)
}

func run(args []string, out io.Writer) (summary string, err error) {
	var listen, next string
	p := &player{out: out, countEvery: 1000, window: 32}
	flags := flag.NewFlagSet("ring", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.IntVar(&p.id, "id", 0, "this process's `number`, from 0")
	flags.IntVar(&p.of, "of", 0, "`number` of processes")
	flags.StringVar(&listen, "listen", "", "`address` at which the one before connects")
	flags.StringVar(&next, "next", "", "`address` of the next one")
	flags.Int64Var(&p.balance, "balance", 1_000_000, "money at the beginning, the same for all")
	p.stop.Flags(flags, "rounds")
	if err := flags.Parse(args); err != nil {
		return "", err
	}
	if p.of < 2 || p.id < 0 || p.id >= p.of {
		return "", fmt.Errorf("process %d of %d: need at least 2, numbered from 0", p.id, p.of)
	}
	p.total = p.balance * int64(p.of)

	dialed := make(chan error, 1)
	go func() {
		conn, err := meet.Dial(next)
		if err == nil {
			p.next = conn
		}
		dialed <- err
	}()
	conn, closeListener, err := meet.Accept(listen)
	if err != nil {
		return "", err
	}
	defer closeListener()
	defer conn.Close()
	if err := <-dialed; err != nil {
		return "", err
	}
	fmt.Fprintf(out, "ring: process %d of %d is in the circle\n", p.id, p.of)
	p.previous = bufio.NewReader(conn)
	err = p.play()
	return fmt.Sprintf("id=%d balance=%d total=%d sent=%d received=%d counts=%d",
		p.id, p.balance, p.found, p.sent, p.received, p.counts), err
}
