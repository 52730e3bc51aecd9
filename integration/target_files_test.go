package integration

import "fmt"

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
