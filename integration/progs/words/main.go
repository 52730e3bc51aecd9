// Words sends a stream of numbered words to its partner at full speed, receives one, and checks every word of it.
//
//	words serve   -listen ADDR [flags]
//	words connect -to ADDR [flags]
//
// Both directions run until one side has sent -words words, or the file -until appears; the other side then ends its own
// stream too. SIGUSR1 prints what has passed so far and the longest gap between two arrivals since the last time. With -gap, every
// longer gap between two arrivals is a line "gap …", and every longer standstill of the process itself a line "still …". With -file, it writes
// all over a file meanwhile, and checks it.
//
//go:debug multipathtcp=0
package main

import (
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
	"ss/integration/progs/internal/scribe"
	"ss/integration/progs/internal/standstill"
)

// progressEvery is how often a line says how far things are.
const progressEvery = time.Second

func main() {
	summary, err := run(os.Args[1:], os.Stdout)
	line, status := meet.Verdict("words", summary, err)
	fmt.Println(line)
	os.Exit(status)
}

// options are the command line.
type options struct {
	role, listen, to string
	stop             meet.Stopper
	ballast, write   int
	gap              time.Duration
	file             string
	fileSize         int
	fileRate         int
}

func parse(args []string, out io.Writer) (options, error) {
	var o options
	if len(args) == 0 || args[0] != "serve" && args[0] != "connect" {
		return o, fmt.Errorf("usage: words serve|connect [flags]")
	}
	o.role = args[0]
	flags := flag.NewFlagSet("words", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&o.listen, "listen", "", "`address` to wait at (serve)")
	flags.StringVar(&o.to, "to", "", "`address` of the partner (connect)")
	o.stop.Flags(flags, "words")
	flags.IntVar(&o.ballast, "ballast", 0, "`MiB` of memory to hold and to check at the end")
	flags.IntVar(&o.write, "write", 0, "`MiB` of that memory to write in each second")
	flags.DurationVar(&o.gap, "gap", 0, "print every gap between two arrivals, and every standstill of this process, that is at least so long")
	flags.StringVar(&o.file, "file", "", "a `file` to make, to write to and to check all the time")
	flags.IntVar(&o.fileSize, "file-size", 1024, "its size in `MiB`")
	flags.IntVar(&o.fileRate, "file-rate", 200, "`blocks` of 4 KiB to write to it in each second")
	return o, flags.Parse(args[1:])
}

func run(args []string, out io.Writer) (summary string, err error) {
	o, err := parse(args, out)
	if err != nil {
		return "", err
	}
	load := ballast.New(o.ballast)
	var conn *net.TCPConn
	if o.role == "serve" {
		var closeListener func() error
		conn, closeListener, err = meet.Accept(o.listen)
		if err != nil {
			return "", err
		}
		defer closeListener()
	} else if conn, err = meet.Dial(o.to); err != nil {
		return "", err
	}
	defer conn.Close()
	fmt.Fprintf(out, "words: connected %s %s\n", conn.LocalAddr(), conn.RemoteAddr())

	e := &exchange{conn: conn, stop: o.stop, arrivals: standstill.New(out, "gap", o.gap), peerDone: make(chan struct{})}
	stopReports, quit := e.reportTo(out), make(chan struct{})
	if o.gap > 0 {
		go standstill.New(out, "still", o.gap).Run(quit)
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		load.Rewrite(o.write, quit)
	}()
	scribbled := make(chan struct{})
	go func() {
		defer close(scribbled)
		o.scribble(quit)
	}()
	err = e.run(o.role)
	close(quit)
	<-written
	<-scribbled
	stopReports()
	if err == nil {
		err = load.Check()
	}
	return fmt.Sprintf("sent=%d received=%d ballast=%dMiB longest gap %v",
		e.sent.Load(), e.received.Load(), o.ballast, e.longest()), err
}

// scribble writes to the file, if there is to be one, until quit is closed. A file that is not what it is to be ends the program at once.
func (o options) scribble(quit <-chan struct{}) {
	if o.file == "" {
		return
	}
	s, err := scribe.Open(o.file, int64(o.fileSize)<<20)
	if err == nil {
		err = s.Run(quit, o.fileRate)
	}
	if err != nil {
		line, status := meet.Verdict("words", "", err)
		fmt.Println(line)
		os.Exit(status)
	}
}

// reportTo prints progress now and then, and statistics on SIGUSR1, until the returned function is called.
func (e *exchange) reportTo(out io.Writer) (stop func()) {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	tick := time.NewTicker(progressEvery)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-tick.C:
				fmt.Fprintf(out, "progress sent=%d received=%d\n", e.sent.Load(), e.received.Load())
			case <-asked:
				fmt.Fprintf(out, "stats sent=%d received=%d %v\n", e.sent.Load(), e.received.Load(), e.arrivals.Reset())
			case <-quit:
				return
			}
		}
	}()
	return func() {
		signal.Stop(asked)
		tick.Stop()
		close(quit)
		<-done
	}
}

func (e *exchange) longest() standstill.Gap { return e.arrivals.Longest() }
