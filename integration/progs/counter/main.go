// Counter makes a Redis server count, one step at a time, and checks every answer: a step that is lost or done twice shows in the next
// one.
//
//	counter -to ADDR [-key KEY] [-steps N] [-until FILE]
//
//go:debug multipathtcp=0
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"ss/integration/progs/internal/meet"
)

// progressEvery is how often a line says how far things are.
const progressEvery = time.Second

func main() {
	summary, err := run(os.Args[1:], os.Stdout)
	line, status := meet.Verdict("counter", summary, err)
	fmt.Println(line)
	os.Exit(status)
}

func run(args []string, out io.Writer) (summary string, err error) {
	var to, key string
	var stop meet.Stopper
	flags := flag.NewFlagSet("counter", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&to, "to", "", "`address` of the server")
	flags.StringVar(&key, "key", "counter", "`name` of the value; it must not exist")
	stop.Flags(flags, "steps")
	if err := flags.Parse(args); err != nil {
		return "", err
	}
	conn, err := meet.Dial(to)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	fmt.Fprintf(out, "counter: connected %s %s\n", conn.LocalAddr(), conn.RemoteAddr())
	n, err := count(conn, key, &stop, out)
	return fmt.Sprintf("steps=%d", n), err
}

// count sends INCR (Redis serialization protocol, RESP2) until it is enough.
func count(conn io.ReadWriter, key string, stop *meet.Stopper, out io.Writer) (n uint64, err error) {
	command := []byte(fmt.Sprintf("*2\r\n$4\r\nINCR\r\n$%d\r\n%s\r\n", len(key), key))
	answers := bufio.NewReader(conn)
	said := time.Now()
	for !stop.Enough(n) {
		if _, err := conn.Write(command); err != nil {
			return n, fmt.Errorf("step %d: %w", n+1, err)
		}
		line, err := answers.ReadString('\n')
		if err != nil {
			return n, fmt.Errorf("answer to step %d: %w", n+1, err)
		}
		if want := ":" + strconv.FormatUint(n+1, 10) + "\r\n"; line != want {
			return n, fmt.Errorf("answer to step %d is %q, want %q", n+1, strings.TrimSpace(line), strings.TrimSpace(want))
		}
		n++
		if time.Since(said) >= progressEvery {
			said = time.Now()
			fmt.Fprintf(out, "progress steps=%d\n", n)
		}
	}
	return n, nil
}
