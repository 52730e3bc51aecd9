// Redial serves answers and asks for them, and never gives up: when its connection is lost it makes another one. It writes down from where it
// was asked, so a test can tell who has reached it.
//
//	redial -listen ADDR -to ADDR [-patience 3s] [-host FILE] [-probe ADDR -while FILE]
//
// It prints, each on a line: "trying REMOTE" before a connection, "accepted REMOTE of HOST" for a connection that has brought a question, "connected LOCAL REMOTE" and "lost ERROR" for its
// own, "probed REMOTE of HOST" when an extra connection to -probe was answered, which it tries while FILE exists, and "progress asked=N answered=N". HOST is
// what the file -host says on the host that the other end is on at that time: an address may be an old one, of a host that the other end has left.
//
//go:debug multipathtcp=0
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"ss/integration/progs/internal/meet"
)

const (
	pace  = 20 * time.Millisecond  // between two questions
	again = 100 * time.Millisecond // between two tries of a connection
)

func main() {
	_, err := run(os.Args[1:], os.Stdout)
	line, status := meet.Verdict("redial", "", err)
	fmt.Println(line)
	os.Exit(status)
}

type redial struct {
	patience        time.Duration
	asked, answered atomic.Uint64
	out             io.Writer
	hostFile        string
}

// host is the name of the host that the program is on now.
func (r *redial) host() string {
	name, err := os.ReadFile(r.hostFile)
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(name))
}

func run(args []string, out io.Writer) (summary string, err error) {
	r := &redial{out: out}
	var listen, to, probe, while string
	flags := flag.NewFlagSet("redial", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&listen, "listen", "", "`address` to answer at")
	flags.StringVar(&to, "to", "", "`address` to ask")
	flags.DurationVar(&r.patience, "patience", 3*time.Second, "how long an answer may take")
	flags.StringVar(&r.hostFile, "host", "/etc/hostname", "`file` with the name of the host")
	flags.StringVar(&probe, "probe", "", "`address` to try as well")
	flags.StringVar(&while, "while", "", "`file` that must exist for that")
	if err := flags.Parse(args); err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return "", err
	}
	go r.progress()
	if probe != "" {
		go r.probe(probe, while)
	}
	if to != "" {
		go r.ask(to)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return "", err
		}
		go r.answer(conn)
	}
}

func (r *redial) answer(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for first := true; ; first = false {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		if first {
			_, host, _ := strings.Cut(strings.TrimSpace(line), " ")
			fmt.Fprintf(r.out, "accepted %s of %s\n", conn.RemoteAddr(), host)
		}
		r.answered.Add(1)
		number, _, _ := strings.Cut(line, " ")
		if _, err := fmt.Fprintf(conn, "%s %s\n", number, r.host()); err != nil {
			return
		}
	}
}

func (r *redial) ask(to string) {
	for {
		fmt.Fprintf(r.out, "trying %s\n", to)
		conn, err := net.DialTimeout("tcp", to, r.patience)
		if err == nil {
			fmt.Fprintf(r.out, "connected %s %s\n", conn.LocalAddr(), conn.RemoteAddr())
			for err == nil {
				_, err = r.question(conn)
				time.Sleep(pace)
			}
			_ = conn.Close()
			fmt.Fprintf(r.out, "lost %v\n", err)
		}
		time.Sleep(again)
	}
}

// question asks once and waits for the answer, which says of which host it is.
func (r *redial) question(conn net.Conn) (host string, err error) {
	if err := conn.SetDeadline(time.Now().Add(r.patience)); err != nil {
		return "", err
	}
	n := r.asked.Add(1)
	if _, err := fmt.Fprintf(conn, "%d %s\n", n, r.host()); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n') // one answer to one question: nothing is left in the buffer
	if err != nil {
		return "", err
	}
	number, host, _ := strings.Cut(strings.TrimSpace(answer), " ")
	if number != strconv.FormatUint(n, 10) {
		return "", fmt.Errorf("asked %d, answered %q", n, answer)
	}
	return host, nil
}

func (r *redial) probe(to, while string) {
	for ; ; time.Sleep(again) {
		if _, err := os.Stat(while); err != nil {
			continue
		}
		conn, err := net.DialTimeout("tcp", to, 5*again)
		if err != nil {
			continue
		}
		if host, err := r.question(conn); err == nil {
			fmt.Fprintf(r.out, "probed %s of %s\n", conn.RemoteAddr(), host)
		}
		_ = conn.Close()
	}
}

func (r *redial) progress() {
	for range time.Tick(200 * time.Millisecond) {
		fmt.Fprintf(r.out, "progress asked=%d answered=%d\n", r.asked.Load(), r.answered.Load())
	}
}
