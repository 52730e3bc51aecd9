package integration

import (
	"fmt"
	"strings"
)

// python starts a job whose one member is a Python program: what it runs first, and then it counts.
func (c *targets) python(host, first string) *job {
	c.t.Helper()
	const program = "import os, mmap, socket, time, ctypes\n%s\nn = 0\nwhile True:\n    n += 1\n    print('progress', n, flush=True)\n    time.sleep(0.05)\n"
	c.made++
	j := c.newJob(fmt.Sprintf("target%d", c.made))
	j.serve("python", host, "/usr/bin/python3", "-u", "-c", fmt.Sprintf(program, first))
	j.awaitProgress()
	return j
}

// room has members whose files come to a file system that is too small for them. Holes take no room, and what the living members hold is free when they have ended.
func (c *targets) room() {
	mount := func(host, dir, options string) {
		c.on(host, "sh", "-c", fmt.Sprintf("mkdir -p %s && mount -t tmpfs -o %s none %s && chmod 755 %s", dir, options, dir, dir))
	}
	for _, tt := range []struct{ dir, first string }{
		{"/srv/small", "f = open('/srv/small/x', 'wb', 0); f.write(b'x' * (20 << 20))"},
		{"/srv/small", "f = open('/srv/small/x', 'wb', 0); f.write(b'x' * (20 << 20)); os.unlink('/srv/small/x')"},
		{"/dev/shm", "f = open('/dev/shm/x', 'w+b', 0); f.write(b'x' * (20 << 20)); m = mmap.mmap(f.fileno(), 0); f.close()"},
		{"/dev/shm", "f = open('/dev/shm/x', 'w+b', 0); f.write(b'x' * (20 << 20)); m = mmap.mmap(f.fileno(), 0); f.close(); os.unlink('/dev/shm/x')"},
	} {
		mount("hostA", tt.dir, "size=24m")
		j := c.python("hostA", tt.first)
		cut := j.snapshot().Cut
		j.comesBack(cut)
		mount("hostC", tt.dir, "size=8m")
		j.refuses(cut, []string{"--remap", "hostA=hostC"}, "hostC", "the content of "+tt.dir+"/x needs about 21 MiB in "+tt.dir, "8 MiB are free there", "make room there")
		c.on("hostC", "mount", "-o", "remount,size=24m", tt.dir)
		j.comesBack(cut, "hostA=hostC")
		j.end()
		c.on("hostA", "umount", tt.dir)
		c.on("hostC", "umount", tt.dir)
	}
	mount("hostC", "/srv/small", "size=8m")
	j := c.python("hostA", "os.makedirs('/srv/small', exist_ok=True); f = open('/srv/small/x', 'wb', 0); f.write(b'x' * (1 << 20)); f.truncate(1 << 30)")
	j.comesBack(j.snapshot().Cut, "hostA=hostC")
	j.end()
	c.on("hostA", "rm", "-r", "/srv/small")
	c.on("hostC", "umount", "/srv/small")
	c.on("hostC", "rmdir", "/srv/small")
}

// deletedFiles has members with files and folders that were removed. CRIU makes them again beside where they were.
func (c *targets) deletedFiles() {
	long := strings.Repeat("d", 238)
	to := []string{"--remap", "hostA=hostC"}
	j := c.python("hostA", "os.makedirs('/srv/gone'); f = open('/srv/gone/x', 'wb', 0); f.write(b'x'); os.unlink('/srv/gone/x')")
	cut := j.snapshot().Cut
	c.on("hostC", "sh", "-c", "mkdir -p /srv/gone && mount -t tmpfs -o ro none /srv/gone")
	j.refuses(cut, to, "hostC", "the file /srv/gone/x, which had been removed", "mounted read-only")
	c.on("hostC", "umount", "/srv/gone")
	c.on("hostC", "sh", "-c", "rmdir /srv/gone && touch /srv/gone")
	j.refuses(cut, to, "hostC", "/srv/gone is a regular file, and was a folder")
	c.on("hostC", "sh", "-c", "rm /srv/gone && ln -s /no/such /srv/gone")
	j.refuses(cut, to, "hostC", "/srv/gone is a symbolic link that leads nowhere")
	c.on("hostC", "rm", "/srv/gone")
	j.comesBack(cut, "hostA=hostC") // CRIU makes the folder for a moment
	j.end()
	c.on("hostA", "rm", "-r", "/srv/gone")
	for _, first := range []string{
		"f = open('/srv/" + long + "', 'wb', 0); f.write(b'x'); os.unlink('/srv/" + long + "')",
		"f = open('/dev/shm/" + long + "', 'w+b', 0); f.write(b'x' * 4096); m = mmap.mmap(f.fileno(), 0); f.close(); os.unlink('/dev/shm/" + long + "')",
		"os.makedirs('/srv/removed'); os.chdir('/srv/removed'); os.rmdir('/srv/removed'); os.mknod('/srv/removed')",
	} {
		words := []string{long + ", which had been removed", "a shorter name"}
		if !strings.Contains(first, long) {
			words = []string{"the folder /srv/removed, which had been removed", "a regular file has that name now"}
		}
		j := c.python("hostA", first)
		f := badInput{job: j}
		if strings.Contains(first, long) {
			f.refuseUntouched(4, words[:1], append([]string{"check", j.name}, to...)...)
		}
		f.refuseUntouched(4, words, "snapshot", j.name)
		j.awaitProgress()
		j.end()
	}
	c.on("hostA", "rm", "/srv/removed")
	j = c.python("hostA", "os.makedirs('/srv/removed'); os.chdir('/srv/removed'); os.rmdir('/srv/removed')")
	j.comesBack(j.snapshot().Cut)
	j.end()
}

// placesMade has a UNIX socket and a FIFO whose folder cannot be written in.
func (c *targets) placesMade() {
	to := []string{"--remap", "hostA=hostC"}
	for kind, name := range map[string]string{"unix": "the UNIX socket", "fifo": "the FIFO"} {
		c.on("hostA", "mkdir", "-p", "/srv/places")
		j := c.hold("hostA", kind, "/srv/places/x")
		cut := j.snapshot().Cut
		c.on("hostC", "sh", "-c", "mkdir -p /srv/places && mount -t tmpfs -o ro none /srv/places")
		j.refuses(cut, to, "hostC", name+" /srv/places/x cannot be made: the folder /srv/places", "mounted read-only")
		c.on("hostC", "umount", "/srv/places")
		j.comesBack(cut, "hostA=hostC")
		j.end()
		for _, h := range []string{"hostA", "hostC"} {
			c.on(h, "rm", "-r", "/srv/places")
		}
	}
}

// mayNotRun has a program, and a library, that the other host does not let run.
func (c *targets) mayNotRun() {
	to := []string{"--remap", "hostA=hostC"}
	copyTo := func(host string) {
		c.on(host, "sh", "-c", "mkdir -p /srv/bin && chmod 755 /srv/bin && cp "+c.object+" /srv/bin/program && chmod 755 /srv/bin/program && cp $(ldd /usr/bin/python3 | grep -o '/[^ ]*/libm[.]so[.]6') /srv/bin/library")
	}
	noexec := func(host string) {
		c.on(host, "sh", "-c", "mount --bind /srv/bin /srv/bin && mount -o remount,bind,noexec /srv/bin")
	}
	copyTo("hostA")
	copyTo("hostC")
	c.made++
	j := c.newJob(fmt.Sprintf("target%d", c.made))
	j.serve("program", "hostA", "/srv/bin/program", "idle", "")
	j.awaitProgress()
	cut := j.snapshot().Cut
	noexec("hostC")
	j.refuses(cut, to, "hostC", "/srv/bin/program is on a file system that is mounted noexec", "mount it without noexec")
	c.on("hostC", "umount", "/srv/bin")
	c.on("hostA", "chmod", "644", "/srv/bin/program")
	f := badInput{job: j}
	f.refuse(9, []string{"the program /srv/bin/program may not be executed", "chmod +x /srv/bin/program", "the job runs on"}, "snapshot", j.name)
	c.on("hostA", "chmod", "755", "/srv/bin/program")
	j.comesBack(cut, "hostA=hostC")
	j.end()
	j = c.python("hostA", "lib = ctypes.CDLL('/srv/bin/library')")
	cut = j.snapshot().Cut
	noexec("hostC")
	j.refuses(cut, to, "hostC", "/srv/bin/library is on a file system that is mounted noexec")
	c.on("hostC", "umount", "/srv/bin")
	j.comesBack(cut, "hostA=hostC")
	j.end()
	for _, h := range []string{"hostA", "hostC"} {
		c.on(h, "rm", "-r", "/srv/bin")
	}
}

// kernelsFiles has a sysctl of a network device open, which the other host does not have; and a process that works in a process's folder.
func (c *targets) kernelsFiles() {
	const path = "/proc/sys/net/ipv4/conf/sstest0/forwarding"
	c.on("hostA", "ip", "link", "add", "sstest0", "type", "bridge")
	j := c.python("hostA", "f = open('"+path+"')")
	cut := j.snapshot().Cut
	f := badInput{job: j}
	f.refuseUntouched(4, []string{"hostC", path}, "check", j.name, "--remap", "hostA=hostC")
	j.refuses(cut, []string{"--remap", "hostA=hostC"}, "hostC", path+", which it has open", "a device that it lacks")
	c.on("hostC", "ip", "link", "add", "sstest0", "type", "bridge")
	j.comesBack(cut, "hostA=hostC")
	j.end()
	c.on("hostA", "ip", "link", "del", "sstest0")
	c.on("hostC", "ip", "link", "del", "sstest0")
	j = c.python("hostA", "os.chdir('/proc/self/fd')")
	f = badInput{job: j}
	f.refuseUntouched(4, []string{"works in /proc/", "change to another folder", "the job runs on"}, "snapshot", j.name)
	j.end()
}
