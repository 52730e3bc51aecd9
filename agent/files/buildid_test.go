package files

import (
	"bytes"
	"compress/zlib"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBuildIDIsTheLinkers compares with what the linker says: a program that gcc has linked with a given build id, and one without.
func TestBuildIDIsTheLinkers(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "a.c")
	// The Go linker puts the GNU build id into a section and into no segment of notes.
	self, err := elf.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	if s := self.Section(".note.gnu.build-id"); s != nil {
		b, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := BuildID("/proc/self/exe"), hex.EncodeToString(b[16:]); got != want {
			t.Errorf("this test: %q, want %q", got, want)
		}
	}
	if err := os.WriteFile(src, []byte("int main(void){return 0;}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const id = "00112233445566778899aabbccddeeff01020304"
	for flag, want := range map[string]string{
		"-Wl,--build-id=0x" + id: id, "-Wl,--build-id=none": "", "-Wl,--build-id=0x0102030405": "0102030405",
	} {
		out := filepath.Join(dir, "a.out")
		if b, err := exec.CommandContext(t.Context(), "gcc", flag, "-o", out, src).CombinedOutput(); err != nil {
			t.Fatalf("gcc: %v\n%s", err, b)
		}
		if got := BuildID(out); got != want {
			t.Errorf("%s: %q, want %q", flag, got, want)
		}
	}
}

// TestBuildIDIsBounded reads files that lie: a section that claims gigabytes when it is decompressed, headers and notes that
// point anywhere, and a FIFO that nobody writes to.
func TestBuildIDIsBounded(t *testing.T) {
	dir := t.TempDir()
	bomb := filepath.Join(dir, "bomb")
	if err := os.WriteFile(bomb, compressedNote(t), 0o600); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if id := BuildID(bomb); id != "" {
		t.Errorf("a build id in what is compressed: %s", id)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
		t.Errorf("%d bytes were allocated for it", grown)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if id := BuildID(fifo); id != "" {
		t.Errorf("a FIFO has the build id %s", id)
	}
}

// compressedNote is an ELF file without program headers whose section .note.gnu.build-id decompresses to 256 MiB.
func compressedNote(t *testing.T) []byte {
	t.Helper()
	const claimed = 256 << 20
	var body bytes.Buffer
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(binary.Write(&body, binary.LittleEndian, elf.Chdr64{Type: uint32(elf.COMPRESS_ZLIB), Size: claimed, Addralign: 1}))
	z := zlib.NewWriter(&body)
	zeros := make([]byte, 1<<20)
	for range claimed >> 20 {
		_, err := z.Write(zeros)
		must(err)
	}
	must(z.Close())
	names := "\x00.note.gnu.build-id\x00.shstrtab\x00"
	h := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64, Phentsize: 56, Shentsize: 64, Shnum: 3, Shstrndx: 2,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	h.Shoff = 64 + uint64(body.Len()) + uint64(len(names))
	var out bytes.Buffer
	must(binary.Write(&out, binary.LittleEndian, h))
	out.Write(body.Bytes())
	out.WriteString(names)
	must(binary.Write(&out, binary.LittleEndian, [3]elf.Section64{{},
		{Name: 1, Type: uint32(elf.SHT_NOTE), Flags: uint64(elf.SHF_COMPRESSED), Off: 64, Size: uint64(body.Len())},
		{Name: uint32(strings.Index(names, ".shstrtab")), Type: uint32(elf.SHT_STRTAB), Off: 64 + uint64(body.Len()), Size: uint64(len(names))}}))
	f, err := elf.NewFile(bytes.NewReader(out.Bytes()))
	must(err)
	if s := f.Section(".note.gnu.build-id"); s == nil || s.Size != claimed {
		t.Fatalf("the file is not what it should be: %+v", s)
	}
	return out.Bytes()
}

// counted counts what is read of a file.
type counted struct {
	io.ReaderAt
	reads, bytes int64
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	c.reads++
	c.bytes += int64(len(p))
	return c.ReaderAt.ReadAt(p, off)
}

// TestBuildIDOfManyHeaders reads files whose headers all name one note, or say that there are more of them than anybody writes. The members whose
// programs they are stand still meanwhile.
func TestBuildIDOfManyHeaders(t *testing.T) {
	for name, count := range map[string]int{"many notes": maxELFHeaders, "more headers than are read": maxELFHeaders + 1, "all that the header can say": 0xffff} {
		h := elf.Header64{Type: uint16(elf.ET_EXEC), Version: 1, Ehsize: 64, Phentsize: 56, Shentsize: 64, Shnum: uint16(count), Phnum: uint16(count)}
		copy(h.Ident[:], elf.ELFMAG)
		h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
		const notes = 512 << 10
		h.Phoff = 64 + notes
		h.Shoff = h.Phoff + uint64(count)*56
		var file bytes.Buffer
		for _, part := range []any{h, make([]byte, notes),
			slices.Repeat([]elf.Prog64{{Type: uint32(elf.PT_NOTE), Off: 64, Filesz: notes}}, count),
			slices.Repeat([]elf.Section64{{Type: uint32(elf.SHT_NOTE), Off: 64, Size: notes}}, count)} {
			if err := binary.Write(&file, binary.LittleEndian, part); err != nil {
				t.Fatal(err)
			}
		}
		r := &counted{ReaderAt: bytes.NewReader(file.Bytes())}
		if id := ReadBuildID(r); id != "" {
			t.Errorf("%s: build id %s", name, id)
		}
		if r.bytes > 2<<20 || r.reads > 3*maxELFHeaders {
			t.Errorf("%s: %d bytes read in %d pieces", name, r.bytes, r.reads)
		}
	}
}

// FuzzBuildID feeds what is not an ELF file, or a damaged one.
func FuzzBuildID(f *testing.F) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(self[:4096])
	f.Add([]byte(elf.ELFMAG))
	f.Fuzz(func(t *testing.T, b []byte) {
		id := ReadBuildID(bytes.NewReader(b))
		if raw, err := hex.DecodeString(id); err != nil || len(raw) > maxBuildID {
			t.Errorf("build id %q", id)
		}
	})
}
