"""Clients of server software, and a few servers. Each checks every answer it gets against what it knows it must be, so a request that was lost,
or executed twice, is found. It prints "progress N" as it goes, and FAIL with the reason."""

import base64
import http.client
import http.server
import json
import os
import socket
import sqlite3
import sys
import threading
import time

PAUSE = 0.002  # between two rounds


def fail(*reason):
    print("FAIL", *reason, flush=True)
    sys.exit(1)


def expect(what, got, want):
    if got != want:
        fail(what, "is", repr(got), "and must be", repr(want))


def rounds(every=20):
    """Counts from 1, and tells of progress."""
    n = 0
    while True:
        n += 1
        yield n
        if n % every == 0:
            print("progress", n, flush=True)
        time.sleep(PAUSE)


def split(address):
    host, port = address.rsplit(":", 1)
    return host.strip("[]"), int(port)


class Lines:
    """A connection of lines."""

    def __init__(self, address):
        self.sock = socket.create_connection(split(address))
        self.file = self.sock.makefile("rwb")

    def send(self, data):
        self.file.write(data)
        self.file.flush()

    def line(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            fail("the server has closed the connection", line)
        return line[:-2]


class Redis(Lines):
    def __call__(self, *args):
        args = [str(a).encode() for a in args]
        self.send(b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(a), a) for a in args))
        return self.reply()

    def reply(self):
        line = self.line()
        kind, rest = line[:1], line[1:]
        if kind == b":":
            return int(rest)
        if kind == b"$":
            if rest == b"-1":
                return None
            data = self.file.read(int(rest) + 2)
            return data[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        if kind == b"-":
            return "error " + rest.decode()
        return rest.decode()


def redis(primary, replica):
    """Counts on the primary, and reads the count from the replica. Every now and then the primary saves in the background."""
    p, r = Redis(primary), Redis(replica)
    me = "count-%d" % os.getpid()
    for n in rounds():
        expect("the count", p("INCR", me), n)
        expect("the length of the list", p("RPUSH", me + "-list", n), n)
        if n % 20 == 0:
            expect("the number of replicas that have it", p("WAIT", 1, 0), 1)
            expect("the replica's count", r("GET", me), str(n).encode())
            expect("the replica's list", r("LRANGE", me + "-list", -1, -1), [str(n).encode()])
        if n % 100 == 0:
            p("BGSAVE")


def writes(address, name):
    """Writes to a Redis as fast as it answers, and reads back what it wrote before."""
    lines, last = Lines(address), {}
    state = 1
    for n in range(1, 1 << 60):
        asked, want = [], []
        for i in range(200):
            state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
            key = b"%s:%d" % (name.encode(), (state >> 33) % 40000)
            if i % 10 == 0 and key in last:
                asked.append(b"GET %s\r\n" % key)
                want.append(last[key])
            else:
                last[key] = b"%d:%d:" % (n, i) + b"x" * (500 + state % 300)
                asked.append(b"SET %s %s\r\n" % (key, last[key]))
                want.append(None)
        lines.send(b"".join(asked))
        for value in want:
            if value is None:
                expect("the answer to SET", lines.line(), b"+OK")
            else:
                expect("the size of a value", lines.line(), b"$%d" % len(value))
                expect("a value", lines.line(), value)
        if n % 20 == 0:
            print("progress", n, flush=True)


def memcached(address):
    m = Lines(address)

    def ask(text):
        m.send(text.encode() + b"\r\n")
        return m.line().decode()

    expect("the answer to set", ask("set n 0 0 1\r\n0"), "STORED")
    expect("the answer to set", ask("set text 0 0 1\r\n0"), "STORED")
    for n in rounds():
        expect("the count", ask("incr n 1"), str(n))
        first = ask("gets text").split()
        expect("the value of text", m.line().decode(), str(n - 1))
        expect("the end of gets", m.line(), b"END")
        new = str(n)
        expect("the answer to cas", ask("cas text 0 0 %d %s\r\n%s" % (len(new), first[4], new)), "STORED")
        expect("the answer to an old cas", ask("cas text 0 0 %d %s\r\n%s" % (len(new), first[4], new)), "EXISTS")


def counted(address, clients):
    """An HTTP server that counts: each request is answered with how many it is of its path. The first ones wait until there are as many at once
    as there are clients, so a proxy in between has connections for all of them from the start, and opens none later."""
    counts, lock, all_there = {}, threading.Lock(), threading.Barrier(int(clients))

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with lock:
                counts[self.path] = counts.get(self.path, 0) + 1
                body = b"%d\n" % counts[self.path]
            if body == b"1\n":
                all_there.wait()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    http.server.ThreadingHTTPServer(split(address), Handler).serve_forever()


def counts(address, path):
    """A client of such a server, which keeps its connection."""
    c = http.client.HTTPConnection(*split(address))
    c.connect()
    sock = c.sock
    for n in rounds():
        c.request("POST", path, body=b"x" * (n % 3000))
        r = c.getresponse()
        body = r.read()
        expect("the status", r.status, 200)
        expect("the count", body, b"%d\n" % n)
        if c.sock is not sock:
            fail("the connection was not kept")


def again(address, path):
    """A client of such a server, which makes a connection for each request."""
    for n in rounds(5):
        c = http.client.HTTPConnection(*split(address))
        try:
            c.request("POST", path, body=b"x")
            r = c.getresponse()
            body = r.read()
        except OSError as e:
            fail("request", n, "to", address, "ends with", e)
        expect("the status", r.status, 200)
        expect("the count", body, b"%d\n" % n)
        c.close()
        time.sleep(0.05)


def fetches(address):
    """Makes a connection for each request, to a server that answers a GET."""
    for n in rounds(5):
        c = http.client.HTTPConnection(*split(address))
        try:
            c.request("GET", "/")
            r = c.getresponse()
            r.read()
        except OSError as e:
            fail("request", n, "to", address, "ends with", e)
        expect("the status", r.status, 200)
        c.close()
        time.sleep(0.05)


def cluster(name, *addresses):
    """Counts in a Redis Cluster, over a connection for each command. It asks one of the addresses that it was given, and goes where that says."""
    counts = {}
    for n in rounds(5):
        key = "%s-%d" % (name, n * 7 % 50)
        counts[key] = counts.get(key, 0) + 1
        address = addresses[n % len(addresses)]
        for _ in range(3):
            try:
                r = Redis(address)
                answer = r("INCR", key)
                r.file.close()
                r.sock.close()
            except OSError as e:
                fail("command", n, "to", address, "ends with", e)
            if not str(answer).startswith("error MOVED"):
                break
            address = answer.split()[-1]
        expect("the count of " + key + " at " + address, answer, counts[key])
        time.sleep(0.03)


def etcd(address, key):
    """Counts by compare-and-swap: each transaction must find the revision that the one before it made."""
    c = http.client.HTTPConnection(*split(address))

    def b64(s):
        return base64.b64encode(s.encode()).decode()

    def post(path, body):
        c.request("POST", "/v3/kv/" + path, body=json.dumps(body))
        r = c.getresponse()
        data = r.read()
        if r.status != 200:
            fail("status", r.status, data)
        return json.loads(data)

    revision = "0"
    for n in rounds(10):
        answer = post("txn", {
            "compare": [{"key": b64(key), "target": "MOD", "result": "EQUAL", "modRevision": revision}],
            "success": [{"requestPut": {"key": b64(key), "value": b64(str(n))}}],
        })
        if not answer.get("succeeded"):
            fail("swap", n, "found another revision than", revision, answer)
        revision = answer["header"]["revision"]
        if n % 10 == 0:
            got = post("range", {"key": b64(key)})["kvs"][0]
            expect("the value", got["value"], b64(str(n)))


def etcd_term(address):
    """Prints who leads, and since which election."""
    c = http.client.HTTPConnection(*split(address))
    while True:
        c.request("POST", "/v3/maintenance/status", body="{}")
        status = json.loads(c.getresponse().read())
        if status.get("leader", "0") != "0":
            print(status["leader"], status["raftTerm"])
            return
        time.sleep(PAUSE)


def family(address):
    return socket.AF_INET6 if ":" in split(address)[0] else socket.AF_INET


UDP_CLIENTS = 1000  # the ports of UDP clients are those of their servers, and this more: hosts that are put together have no port in common


def echoes(*addresses):
    """Servers that send back what comes: tcp:ADDRESS, udp:ADDRESS, unix:PATH (SOCK_STREAM), seqpacket:PATH, dgram:PATH; tcp%DEVICE:ADDRESS for a listener that is
    bound to a device; both:ADDRESS for a UDP socket that is connected to its one client; fifo:PATH for two FIFOs; pipes:PATH for two pipes, which the client gets over a
    UNIX socket of that name; shares:ADDRESS for a TCP server whose client gets the listener as well, over the UNIX socket @ADDRESS."""

    def lines(conn):
        for line in conn.makefile("rb"):
            conn.sendall(line)

    def packets(conn):
        while True:
            data = conn.recv(2048)
            if not data:
                return
            conn.send(data)

    def datagrams(sock, kind, address):
        if kind == "both":
            host, port = split(address)
            sock.connect((host, port + UDP_CLIENTS))
        while True:
            try:
                data, sender = sock.recvfrom(2048)
                sock.send(data) if kind == "both" else sock.sendto(data, sender)
            except ConnectionRefusedError:  # its client is not there yet
                continue

    def pipes(conn):
        there, back = os.pipe(), os.pipe()
        socket.send_fds(conn, [b"x"], [there[1], back[0]])
        for fd in there[1], back[0]:
            os.close(fd)
        conn.close()
        relay(there[0], back[1])

    def relay(there, back):
        for line in open(there, "rb"):
            os.write(back, line)

    def shares(address):
        listener = socket.create_server(split(address))
        names = socket.socket(socket.AF_UNIX)
        names.bind("\0" + address)
        names.listen()
        with names.accept()[0] as conn:
            socket.send_fds(conn, [b"x"], [listener.fileno()])
        while True:
            threading.Thread(target=lines, args=(listener.accept()[0],), daemon=True).start()

    def fifos(path):
        for name in path + ".back", path:
            if not os.path.exists(name):
                os.mkfifo(name)
        relay(*pair_of_fifos(path))

    def serve(kind, address):
        if kind in ("fifo", "shares"):
            return fifos(address) if kind == "fifo" else shares(address)
        kind, _, device = kind.partition("%")
        types = {"seqpacket": socket.SOCK_SEQPACKET, "dgram": socket.SOCK_DGRAM, "udp": socket.SOCK_DGRAM, "both": socket.SOCK_DGRAM}
        local = kind in ("unix", "seqpacket", "dgram", "pipes")
        listener = socket.socket(socket.AF_UNIX if local else family(address), types.get(kind, socket.SOCK_STREAM))
        if device:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        listener.bind(named(address) if local else split(address))
        if kind in ("udp", "both", "dgram"):
            datagrams(listener, kind, address)
        listener.listen()
        talk = {"seqpacket": packets, "pipes": pipes}.get(kind, lines)
        while True:
            threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()

    for text in addresses:
        threading.Thread(target=serve, args=text.split(":", 1)).start()


def named(path):
    """A name of a UNIX socket; @NAME is an abstract one."""
    return "\0" + path[1:] if path.startswith("@") else path


def pair_of_fifos(path):
    """Descriptors of a FIFO and of the one back, open for both: nothing waits for the other end."""
    return os.open(path, os.O_RDWR), os.open(path + ".back", os.O_RDWR)


def asks(*addresses):
    """Clients of them, one for each address: tcp:ADDRESS, flood:ADDRESS (TCP, many lines under way), udp:ADDRESS and both:ADDRESS (connected), sendto:ADDRESS (not connected), sends:ADDRESS (not connected, and an answer may come
    from any address), unix:PATH, seqpacket:PATH, dgram:PATH, fifo:PATH, pipes:PATH, shares:ADDRESS. It tells of progress when all have gone on."""
    counts = dict.fromkeys(addresses, 0)

    def stream(kind, address):
        if kind == "shares":
            with socket.socket(socket.AF_UNIX) as names:
                names.connect("\0" + address)
                listener = socket.recv_fds(names, 10, 1)[1][0]  # it stays open
        sock = socket.socket(socket.AF_UNIX if kind == "unix" else family(address))
        sock.connect(named(address) if kind == "unix" else split(address))
        answers = sock.makefile("rb")
        n = 0
        while True:
            n += 1
            sock.sendall(b"%d\n" % n)
            yield answers.readline(), b"%d\n" % n

    def flood(_, address):
        sock = socket.create_connection(split(address))
        answers, allowed = sock.makefile("rb"), threading.Semaphore(2000)

        def send():
            for n in range(1 << 60):
                allowed.acquire()
                sock.sendall(b"%d\n" % n)

        threading.Thread(target=send, daemon=True).start()
        for n in range(1 << 60):
            yield answers.readline(), b"%d\n" % n
            allowed.release()

    def pipe(kind, path):
        if kind == "fifo":
            out, back = pair_of_fifos(path)
        else:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(named(path))
                out, back = socket.recv_fds(sock, 10, 2)[1]
        answers = open(back, "rb")
        n = 0
        while True:
            n += 1
            os.write(out, b"%d\n" % n)
            yield answers.readline(), b"%d\n" % n

    def packets(kind, address):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET if kind == "seqpacket" else socket.SOCK_DGRAM)
        if kind == "dgram":
            sock.bind(named(address) + ".client")
        sock.connect(named(address))
        n = 0
        while True:
            n += 1
            sock.send(b"%d" % n)
            yield sock.recv(2048), b"%d" % n

    def datagrams(kind, address):
        host, port = split(address)
        sock = socket.socket(family(address), socket.SOCK_DGRAM)
        if kind == "both":
            sock.bind((host, port + UDP_CLIENTS))
        elif kind == "udp":
            sock.bind(("", port + UDP_CLIENTS))
        if not kind.startswith("send"):
            sock.connect((host, port))
        sock.settimeout(0.5)
        n = 0
        while True:
            n += 1
            while True:  # one that is lost is sent again
                try:
                    sock.sendto(b"%d" % n, (host, port)) if kind.startswith("send") else sock.send(b"%d" % n)
                    data, sender = sock.recvfrom(2048)
                except (TimeoutError, ConnectionRefusedError):
                    continue
                if kind == "sendto":
                    expect("the sender", sender[:2], (host, port))
                if int(data) >= n:
                    break
            yield data, b"%d" % n

    def ask(text):
        kind, address = text.split(":", 1)
        kinds = {"tcp": stream, "unix": stream, "shares": stream, "flood": flood, "seqpacket": packets, "dgram": packets, "fifo": pipe, "pipes": pipe}
        try:
            for got, want in kinds.get(kind, datagrams)(kind, address):
                expect("the answer of " + text, got, want)
                counts[text] += 1
                if kind != "flood" or counts[text] % 100 == 0:
                    time.sleep(0.01)
        except OSError as e:
            fail(text, "ends with", e)

    for text in addresses:
        threading.Thread(target=ask, args=(text,), daemon=True).start()
    seen = dict(counts)
    while True:
        time.sleep(0.05)
        if all(counts[t] >= seen[t] + 3 for t in addresses):
            seen = dict(counts)
            print("progress", sum(seen.values()), flush=True)


def hears(group, address):
    """Tells of datagrams that come to a multicast group. It has joined on the interface of an address."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(split(group))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(split(group)[0]) + socket.inet_aton(address))
    n = 0
    while True:
        sock.recv(100)
        n += 1
        print("progress", n, flush=True)


def calls(group, address):
    """Sends datagrams to a multicast group, out of the interface of an address."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    while True:
        sock.sendto(b"x", split(group))
        time.sleep(0.05)


def numbers():
    """Prints numbers, one a line."""
    for n in rounds(1 << 60):
        try:
            print(n, flush=True)
        except BrokenPipeError:
            sys.exit("nobody reads")


def in_order():
    """Reads numbers, one a line, and checks that none is missing, twice, or out of order."""
    want = 0
    for line in sys.stdin:
        want += 1
        expect("the number", line.strip(), str(want))
        if want % 20 == 0:
            print("progress", want, flush=True)
    fail("nothing comes any more after", want)


def sqlite(path, mode):
    """Moves money between accounts in transactions, while other connections read. The sum of all accounts never changes."""
    db = sqlite3.connect(path, isolation_level=None, timeout=60)
    expect("the journal mode", db.execute("PRAGMA journal_mode=" + mode).fetchone()[0], mode)
    db.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, money INTEGER NOT NULL, note BLOB)")
    db.execute("CREATE TABLE moved (n INTEGER PRIMARY KEY)")
    db.executemany("INSERT INTO account VALUES (?, 1000, randomblob(500))", [(i,) for i in range(100)])

    def read():
        other = sqlite3.connect(path, isolation_level=None, timeout=60)
        while True:
            expect("the sum that another connection reads", other.execute("SELECT sum(money) FROM account").fetchone()[0], 100000)
            time.sleep(5 * PAUSE)

    threading.Thread(target=read, daemon=True).start()
    for n in rounds(10):
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE account SET money = money - ?, note = randomblob(500) WHERE id = ?", (n % 7, n % 100))
        db.execute("UPDATE account SET money = money + ? WHERE id = ?", (n % 7, n * 31 % 100))
        db.execute("INSERT INTO moved VALUES (?)", (n,))
        db.execute("COMMIT")
        expect("the number of transactions", db.execute("SELECT count(*), max(n) FROM moved").fetchone(), (n, n))
        if n % 50 == 0:
            expect("the result of the integrity check", db.execute("PRAGMA integrity_check").fetchone()[0], "ok")


def amqp(address):
    """A connection to RabbitMQ that nothing ends but the broker."""
    import pika

    host, port = split(address)
    return pika.BlockingConnection(pika.ConnectionParameters(host, port, heartbeat=0, blocked_connection_timeout=None))


def publishes(address, queue):
    """Puts numbers into a queue of RabbitMQ that lasts, each of them confirmed."""
    import pika

    channel = amqp(address).channel()
    channel.confirm_delivery()
    channel.queue_declare(queue, durable=True)
    for n in rounds():
        channel.basic_publish("", queue, str(n).encode(), pika.BasicProperties(delivery_mode=2), mandatory=True)


def consumes(address, queue):
    """Takes them out again, and acknowledges each. Each comes once, and in order."""
    channel = amqp(address).channel()
    channel.queue_declare(queue, durable=True)
    channel.basic_qos(prefetch_count=50)
    want = 0
    for method, _, body in channel.consume(queue):
        want += 1
        expect("the message", body, str(want).encode())
        expect("whether it comes a second time", method.redelivered, False)
        channel.basic_ack(method.delivery_tag)
        if want % 20 == 0:
            print("progress", want, flush=True)


def terminal(*command):
    """Works in a shell that a command has given it on a terminal. The shell counts, and knows its terminal and its size."""
    import fcntl
    import pty
    import struct
    import termios
    import tty

    pid, fd = pty.fork()
    if pid == 0:
        os.execvp(command[0], command)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    seen = b""

    def answer(start):
        nonlocal seen
        while True:
            line, newline, rest = seen.partition(b"\n")
            if newline:
                seen = rest
                if line.strip().startswith(start):
                    return line.strip()[len(start):].decode()
                continue
            data = os.read(fd, 4096)
            if not data:
                fail("the terminal is closed")
            seen += data

    os.write(fd, b"stty -echo; PS1=; n=0; echo read''y $(tty)\n")
    name = answer(b"ready ")
    for n in rounds(10):
        os.write(fd, b"n=$((n+1)); echo at $n $(tty) $(stty size)\n")
        expect("the answer", answer(b"at "), "%d %s 33 77" % (n, name))
        time.sleep(0.01)


def rsyncs(source, folder):
    """Fetches a file again and again, compares its sum with the one beside it, and removes it. It tells of progress as long as the file grows."""
    import glob
    import hashlib
    import subprocess

    def grows():
        last = None
        while True:
            try:
                now = [(f, os.stat(f).st_size) for f in glob.glob(folder + "/.large.*")]
            except FileNotFoundError:  # it was whole, and has its name now
                continue
            if now and now != last:
                print("progress", *now[0], flush=True)
                last = now
            time.sleep(0.2)

    def fetch(name, *options):
        run = subprocess.run(["rsync", *options, source + "/" + name, folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        expect("the status of rsync, with " + run.stdout.decode(), run.returncode, 0)
        with open(folder + "/" + name, "rb") as f:
            return f.read()

    want = fetch("sum").decode().strip()
    threading.Thread(target=grows, daemon=True).start()
    n = 0
    while True:
        n += 1
        expect("the sum", hashlib.sha256(fetch("large", "--whole-file", "--bwlimit=8m")).hexdigest(), want)
        os.remove(folder + "/large")
        print("complete", n, flush=True)


if __name__ == "__main__":
    what = {f.__name__: f for f in (redis, writes, memcached, counted, counts, again, fetches, cluster, etcd, etcd_term, numbers, in_order, sqlite,
                                      echoes, asks, hears, calls, publishes, consumes, terminal, rsyncs)}[sys.argv[1]]
    try:
        what(*sys.argv[2:])
    except Exception as e:
        fail(type(e).__name__, e)
