// Echo is a server that answers every request, and a small client that shows how long it stood still itself.
//
//	echo serve -listen ADDR [-ballast MiB] [-gap D]
//	echo loop  -to ADDR [-ballast MiB] [-gap D] [-requests N] [-until FILE]
//
// The client asks one question at a time and checks each answer; beside that, a loop in both programs does nothing but look at the
// clock, so that the longest time between two looks is the time in which the process itself did not run, whatever
// its partner did. SIGUSR1 makes the client print that time and begin again. With -gap, every longer standstill is a line "still …", and
// every longer wait for an answer a line "gap …".
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
	"os/signal"
	"syscall"
	"time"

	"ss/integration/progs/internal/ballast"
	"ss/integration/progs/internal/meet"
	"ss/integration/progs/internal/standstill"
)

func main() {
	summary, err := run(os.Args[1:], os.Stdout)
	line, status := meet.Verdict("echo", summary, err)
	fmt.Println(line)
	os.Exit(status)
}

func run(args []string, out io.Writer) (summary string, err error) {
	if len(args) == 0 || args[0] != "serve" && args[0] != "loop" {
		return "", errors.New("usage: echo serve|loop [flags]")
	}
	var listen, to string
	var size int
	var gap time.Duration
	var stop meet.Stopper
	flags := flag.NewFlagSet("echo", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&listen, "listen", "", "`address` to wait at (serve)")
	flags.StringVar(&to, "to", "", "`address` of the server (loop)")
	flags.IntVar(&size, "ballast", 0, "`MiB` of memory to hold and to check at the end")
	flags.DurationVar(&gap, "gap", 0, "print every standstill, and (loop) every wait for an answer, that is at least so long")
	stop.Flags(flags, "requests")
	if err := flags.Parse(args[1:]); err != nil {
		return "", err
	}
	load := ballast.New(size)
	still, quit := standstill.New(out, "still", gap), make(chan struct{})
	go still.Run(quit)
	if args[0] == "serve" {
		summary, err = serve(listen, out)
	} else {
		summary, err = loop(to, &stop, still, standstill.New(out, "gap", gap), out)
	}
	close(quit)
	if err == nil {
		err = load.Check()
	}
	return fmt.Sprintf("%s ballast=%dMiB", summary, size), err
}

func serve(listen string, out io.Writer) (summary string, err error) {
	conn, closeListener, err := meet.Accept(listen)
	if err != nil {
		return "", err
	}
	defer closeListener()
	defer conn.Close()
	fmt.Fprintf(out, "echo: connected %s %s\n", conn.LocalAddr(), conn.RemoteAddr())
	n, err := answer(conn)
	return fmt.Sprintf("answers=%d", n), err
}

func loop(to string, stop *meet.Stopper, still, answers *standstill.Recorder, out io.Writer) (summary string, err error) {
	conn, err := meet.Dial(to)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	fmt.Fprintf(out, "echo: connected %s %s\n", conn.LocalAddr(), conn.RemoteAddr())
	type result struct {
		requests uint64
		err      error
	}
	asked := make(chan result, 1)
	go func() {
		n, err := ask(conn, stop, answers)
		asked <- result{n, err}
	}()
	stats := make(chan os.Signal, 1)
	signal.Notify(stats, syscall.SIGUSR1)
	defer signal.Stop(stats)
	for {
		select {
		case r := <-asked:
			return fmt.Sprintf("requests=%d longest standstill %v", r.requests, still.Longest()), r.err
		case <-stats:
			fmt.Fprintf(out, "stats %v\n", still.Reset())
		}
	}
}

// ask sends numbered requests, one at a time, and checks the answers.
func ask(conn *net.TCPConn, stop *meet.Stopper, answers *standstill.Recorder) (n uint64, err error) {
	for !stop.Enough(n) {
		if err := send(conn, n); err != nil {
			return n, err
		}
		got, err := receive(conn)
		if err != nil {
			return n, fmt.Errorf("answer %d: %w", n, err)
		}
		answers.Mark()
		if got != ^n {
			return n, fmt.Errorf("answer %d is %#x, want %#x", n, got, ^n)
		}
		n++
	}
	return n, conn.CloseWrite()
}

// answer answers requests and checks their order, up to the end of the stream.
func answer(conn io.ReadWriter) (n uint64, err error) {
	for {
		got, err := receive(conn)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, fmt.Errorf("request %d: %w", n, err)
		}
		if got != n {
			return n, fmt.Errorf("request %d came, want %d", got, n)
		}
		if err := send(conn, ^n); err != nil {
			return n, err
		}
		n++
	}
}
