package alias

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"ss/agent"
)

// Offsets of struct bpf_sock_addr (linux/bpf.h), and the name of the way out of a program.
const (
	userIP4 = 4
	userIP6 = 8
	out     = "out"
)

// hooks are the places where the kernel lets a program exchange an address. At those that tell a program an address, the exchange is the reverse.
var hooks = []struct {
	name   string
	attach ebpf.AttachType
	v6     bool
	tells  bool
}{
	{"connect4", ebpf.AttachCGroupInet4Connect, false, false},
	{"connect6", ebpf.AttachCGroupInet6Connect, true, false},
	{"bind4", ebpf.AttachCGroupInet4Bind, false, false},
	{"bind6", ebpf.AttachCGroupInet6Bind, true, false},
	{"sendmsg4", ebpf.AttachCGroupUDP4Sendmsg, false, false},
	{"sendmsg6", ebpf.AttachCGroupUDP6Sendmsg, true, false},
	{"recvmsg4", ebpf.AttachCGroupUDP4Recvmsg, false, true},
	{"recvmsg6", ebpf.AttachCGroupUDP6Recvmsg, true, true},
	{"getpeername4", ebpf.AttachCgroupInet4GetPeername, false, true},
	{"getpeername6", ebpf.AttachCgroupInet6GetPeername, true, true},
	{"getsockname4", ebpf.AttachCgroupInet4GetSockname, false, true},
	{"getsockname6", ebpf.AttachCgroupInet6GetSockname, true, true},
}

// Set makes aliases and names those of a cgroup, a folder of the v2 hierarchy, in place of the ones that it had. Aliases hold for what connect(2),
// bind(2) and, on an unconnected UDP socket, sendto(2) are called with from now on; names for what getpeername(2), getsockname(2), accept(2) and recvfrom(2) tell. Cgroups below are concerned as well. An
// error says what the kernel said; some of them may hold then.
func Set(cgroup string, aliases, names []agent.Alias) error {
	dir, err := os.Open(cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	fi, err := dir.Stat()
	if err != nil {
		return err
	}
	id := fi.Sys().(*syscall.Stat_t).Ino // cgroups(7): a cgroup's identifier is the inode number of its folder
	for _, h := range hooks {
		code := program(h.v6, aliases)
		if h.tells {
			code = append(onlyIn(id), program(h.v6, names)...)
		}
		if err := set(dir, h.attach, code); err != nil {
			return fmt.Errorf("redirect old addresses: %s of %s: %w", h.name, cgroup, err)
		}
	}
	return nil
}

func set(dir *os.File, attach ebpf.AttachType, code asm.Instructions) error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "ss_alias", Type: ebpf.CGroupSockAddr, AttachType: attach, License: "Apache-2.0", Instructions: code,
	})
	if err != nil {
		return err
	}
	defer prog.Close() // the cgroup keeps it
	// With this flag a program takes the place of the one before, and a member may still have programs on cgroups of its own.
	const allowOverride = 1 // BPF_F_ALLOW_OVERRIDE
	return link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: prog, Attach: attach, Flags: allowOverride})
}

// depthMax bounds how deep below the root a cgroup may be whose processes are told names.
const depthMax = 24

// onlyIn lets a call go on unchanged whose caller is neither in the cgroup nor in one below it. The kernel runs the program for the sockets of the
// cgroup, whoever asks them: CRIU and the agent need the addresses in use.
func onlyIn(id uint64) asm.Instructions {
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1), // calls change R1 to R5
		asm.LoadImm(asm.R7, int64(id), asm.DWord),
	}
	for level := range int32(depthMax) {
		code = append(code,
			asm.Mov.Imm(asm.R1, level),
			asm.FnGetCurrentAncestorCgroupId.Call(),
			asm.JEq.Reg(asm.R0, asm.R7, "inside"))
	}
	return append(code, asm.Ja.Label(out), asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("inside"))
}

// program compares the address with each alias, one after the other, and exchanges it at the first that matches. It lets every call go on.
func program(v6 bool, aliases []agent.Alias) asm.Instructions {
	var code asm.Instructions
	for i, a := range aliases {
		from, to := words(a.From, v6), words(a.To, v6)
		if len(from) != len(to) || len(from) == 0 {
			continue
		}
		at := int16(userIP4)
		if v6 {
			at = userIP6
		}
		next := fmt.Sprintf("after%d", i)
		for w, word := range from {
			code = append(code,
				asm.LoadMem(asm.R2, asm.R1, at+int16(4*w), asm.Word),
				asm.JNE.Imm32(asm.R2, word, next))
		}
		for w, word := range to {
			code = append(code,
				asm.Mov.Imm32(asm.R2, word),
				asm.StoreMem(asm.R1, at+int16(4*w), asm.R2, asm.Word))
		}
		code = append(code, asm.Ja.Label(out), asm.Mov.Imm(asm.R0, 1).WithSymbol(next))
	}
	return append(code, asm.Mov.Imm(asm.R0, 1).WithSymbol(out), asm.Return())
}

// words is an address as the program's context has it: in words of the machine, whose bytes are the network's. An IPv4 address is one of IPv6
// sockets as well, in its mapped form. It is nil where a hook's sockets cannot have the address.
func words(a netip.Addr, v6 bool) []int32 {
	a = a.Unmap().WithZone("")
	var b []byte
	switch {
	case v6:
		as16 := a.As16()
		b = as16[:]
	case a.Is4():
		as4 := a.As4()
		b = as4[:]
	}
	var out []int32
	for ; len(b) > 0; b = b[4:] {
		out = append(out, int32(binary.NativeEndian.Uint32(b)))
	}
	return out
}
