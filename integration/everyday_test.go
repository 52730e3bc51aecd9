package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// everyday are programs as people write them, of the shell, coreutils, make, perl and Python. Each says "progress" again and again as long as
// everything that it holds works, and ends if something does not.
var everyday = []struct{ name, program, text string }{
	{"read", "bash", `while ! read -t 0.2 x < <(sleep 1000); do echo progress; done`},
	{"coprocess", "bash", `coproc cat; for ((n = 0; ; n++)); do echo $n >&"${COPROC[1]}"; read -u "${COPROC[0]}" x; [ "$x" = $n ] || exit 1; echo progress; sleep 0.1; done`},
	{"trap", "bash", `trap 'n=$((n+1))' USR1; for ((i = 1; ; i++)); do kill -USR1 $$; [ $n = $i ] || exit 1; echo progress; sleep 0.1; done`},
	{"timeout", "bash", `timeout 1000 bash -c 'while sleep 0.1; do echo progress; done'`},
	{"parallel", "bash", `yes 0.05 | xargs -P 3 -n 1 sh -c 'sleep $0; echo progress'`},
	{"make", "bash", `cd $(mktemp -d); printf 'all: $(shell seq 1 9999)\n%%:\n\t@sleep 0.1; echo progress\n' > Makefile; exec make -j2`},
	{"locks", "bash", `flock /srv/everyday.lock bash -c 'while sleep 0.1; do flock -n /srv/everyday.lock true && exit 1; echo progress; done'`},
	{"fifo", "bash", `rm -f /srv/everyday.fifo; mkfifo /srv/everyday.fifo; (while sleep 0.1; do echo progress; done >/srv/everyday.fifo) & exec cat </srv/everyday.fifo`},
	{"packers", "bash", `renice -n 19 $$ >/dev/null; yes | gzip -1 | gzip -dc | awk '$0 != "y" {exit} ++n % 100000 == 0 {print "progress"; fflush()}'`},
	{"sums", "bash", `head -c 64K /dev/urandom > /srv/everyday.sums; exec 3< /srv/everyday.sums
		sum() { od -An -tx8 -v < /dev/fd/3 | sort | md5sum; }; s=$(sum); while sleep 0.1; do [ "$(sum)" = "$s" ] || exit 1; echo progress; done`},
	{"rotated", "bash", `while sleep 0.05; do date >> /srv/everyday.log; [ $(stat -c %s /srv/everyday.log) -gt 300 ] && mv /srv/everyday.log /srv/everyday.log.1; echo progress; done`},
	{"daemon", "bash", `(setsid bash -c 'while sleep 0.1; do echo progress; done' &) ; sleep 0.1`},
	{"polite", "bash", `ulimit -n 10000; exec nice -n 5 ionice -c 3 chrt -b 0 bash -c 'while sleep 0.1; do [ $(nice) = 5 ] && [ $(ulimit -n) = 10000 ] || exit 1; echo progress; done'`},
	{"select", "perl", `$| = 1; while (1) { select undef, undef, undef, 0.1; print "progress\n" }`},
	{"alarm", "perl", `use Time::HiRes qw(ualarm); $| = 1; $SIG{ALRM} = sub { print "progress\n" }; ualarm 100000, 100000; sleep 1000 while 1`},
	{"asyncio", "python3", `
import asyncio
async def main():
    p = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    n = 0
    while True:
        n += 1
        p.stdin.write(b"%d\n" % n); await p.stdin.drain()
        assert int(await p.stdout.readline()) == n
        print("progress"); await asyncio.sleep(0.1)
asyncio.run(main())`},
	{"threads", "python3", `
import threading, queue, time
q = queue.Queue()
def work(i):
    while True: q.put(i); time.sleep(0.1)
for i in range(10): threading.Thread(target=work, args=(i,), daemon=True).start()
while True:
    q.get(timeout=60); print("progress")`},
	{"manager", "python3", `
import multiprocessing, time
if __name__ == "__main__":
    with multiprocessing.Manager() as g:
        d, n = g.dict(), 0
        while True:
            n += 1; d[1] = n; assert d[1] == n; print("progress"); time.sleep(0.1)`},
	{"pool", "python3", `
import concurrent.futures, os, time
def square(x): time.sleep(0.02); return x * x
if __name__ == "__main__":
    with concurrent.futures.ProcessPoolExecutor(2) as p:
        while True: assert list(p.map(square, range(4))) == [0, 1, 4, 9]; print("progress")`},
	{"shared", "python3", `
import time
from multiprocessing import shared_memory
a, n = shared_memory.SharedMemory(create=True, size=4096), 0
while True:
    n += 1; a.buf[0:8] = n.to_bytes(8, "little")
    b = shared_memory.SharedMemory(a.name); assert int.from_bytes(b.buf[0:8], "little") == n; b.close()
    print("progress"); time.sleep(0.1)`},
	{"packets", "python3", `
import socket, threading, time
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
def echo():
    while True: b.send(b.recv(100))
threading.Thread(target=echo, daemon=True).start()
while True: a.send(b"x" * 10); assert a.recv(100) == b"x" * 10; print("progress"); time.sleep(0.1)`},
	{"http", "python3", `
import http.server, threading, time, urllib.request
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(self.path.encode())
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler); threading.Thread(target=s.serve_forever, daemon=True).start()
n = 0
while True:
    n += 1
    assert urllib.request.urlopen("http://127.0.0.1:%d/%d" % (s.server_port, n), timeout=60).read() == b"/%d" % n
    print("progress"); time.sleep(0.1)`},
	{"mapped", "python3", `
import mmap, os, time
f = os.open("/srv/everyday.mapped", os.O_RDWR | os.O_CREAT); os.ftruncate(f, 1 << 20); m = mmap.mmap(f, 1 << 20); os.close(f)
n = 0
while True:
    assert int.from_bytes(m[0:8], "little") == n
    n += 1; m[0:8] = n.to_bytes(8, "little"); m.flush(); print("progress"); time.sleep(0.1)`},
	{"temporary", "python3", `
import tempfile, time
f, n = tempfile.TemporaryFile(), 0
while True:
    n += 1; f.write(b"x" * 1000); f.flush(); f.seek(0); assert len(f.read()) == n * 1000; print("progress"); time.sleep(0.1)`},
	{"terminal", "python3", `
import os, pty, time
pid, fd = pty.fork()
if pid == 0: os.execvp("cat", ["cat"])
while True: os.write(fd, b"hello\n"); assert os.read(fd, 1000); print("progress"); time.sleep(0.1)`},
	{"epoll", "python3", `
import os, select, time
r, w = os.pipe(); e = select.epoll(); e.register(r, select.EPOLLIN | select.EPOLLET)
while True: os.write(w, b"1"); assert e.poll(60) == [(r, select.EPOLLIN)]; os.read(r, 10); print("progress"); time.sleep(0.1)`},
	{"wakeup", "python3", `
import os, signal
r, w = os.pipe(); os.set_blocking(w, False); signal.set_wakeup_fd(w); signal.signal(signal.SIGALRM, lambda *a: None); signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
while True: assert signal.SIGALRM in os.read(r, 10); print("progress")`},
	{"database", "python3", `
import os, sqlite3, time
for f in ("/srv/everyday.db", "/srv/everyday.db-wal", "/srv/everyday.db-shm"):
    if os.path.exists(f): os.remove(f)
c = sqlite3.connect("/srv/everyday.db"); c.execute("pragma journal_mode=wal"); c.execute("create table t (a)")
n = 0
while True:
    n += 1; c.execute("insert into t values (?)", (n,)); c.commit(); assert c.execute("select count(*), max(a) from t").fetchone() == (n, n); print("progress"); time.sleep(0.1)`},
}

// TestEverydayPrograms: one job of them all goes on after a snapshot, after a restore in place, and on another host, from a cut of restored
// programs. Needs root, perl and python3.
func TestEverydayPrograms(t *testing.T) {
	withoutRace(t)
	c := newCluster(t, "hostA", "hostB")
	j := c.newJob("everyday")
	for _, p := range everyday {
		switch p.program {
		case "bash":
			j.serve(p.name, "hostA", "bash", "-c", p.text)
		case "perl":
			j.serve(p.name, "hostA", "perl", "-e", p.text)
		case "python3":
			j.serve(p.name, "hostA", "python3", "-u", "-c", p.text)
		}
	}
	j.allProgress("at first")
	cut := j.snapshot().Cut
	j.allProgress("after a snapshot")
	j.restore(cut)
	j.allProgress("restored in place")
	for _, file := range []string{"/srv/everyday.sums", "/srv/everyday.lock"} { // only read: not in the cut
		data, err := c.Host("hostA").ReadFile(file)
		must(t, err)
		must(t, c.Host("hostB").WriteFile(file, data))
		must(t, os.Chmod(c.Host("hostB").Path(file), 0o644))
	}
	j.restore(j.snapshot().Cut, "hostA=hostB")
	j.allProgress("moved")
	j.end()
	c.checkLeaks()
}

// allProgress returns when every single member has told of progress twice more.
func (j *job) allProgress(when string) {
	j.t.Helper()
	before := map[*member]int{}
	for _, m := range j.members {
		before[m] = strings.Count(j.log(m), "progress\n")
	}
	await(j.t, "progress "+when, func() string {
		var behind []string
		for _, m := range j.members {
			log := j.log(m)
			if strings.Count(log, "progress\n") < before[m]+2 {
				behind = append(behind, fmt.Sprintf("%s on %s: %.300s", m.name, m.host, log[max(0, len(log)-300):]))
			}
		}
		return strings.Join(behind, "\n")
	})
}
