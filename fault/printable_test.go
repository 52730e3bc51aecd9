package fault

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestField(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "",
		"plain ünïcode → 日本 \\x1b": "plain ünïcode → 日本 \\x1b",
		"\x1b[2J\x1b]0;title\x07":  `\x1b[2J\x1b]0;title\x07`,
		"a\nssctl: note: all well": `a\nssctl: note: all well`,
		"a\tb\rc\x00d\x7f":         `a\tb\rc\x00d\x7f`,
		"\u009b31m":                `\u009b31m`,               // CSI as one character
		"\xc2":                     `\xc2`,                    // half of it
		"\xff\xfe":                 `\xff\xfe`,                // no UTF-8
		"user\u202etxt.exe":        `user\u202etxt.exe`,       // right to left
		"a\u2028b\u200bc\ufeff":    `a\u2028b\u200bc\ufeff`,   // a line's end, two that nobody sees
		"\U000e0041":               `\U000e0041`,              // a tag
		"\ufffd stays":             "\ufffd stays",            // the replacement character itself
		strings.Repeat("\x1b", 3):  strings.Repeat(`\x1b`, 3), // each of them
		"\xed\xa0\x80":             `\xed\xa0\x80`,            // a surrogate, which is not UTF-8
		"\x1b\\\x9b":               `\x1b\` + `\x9b`,          // C1 as a byte
	} {
		if got := Field(in); got != want {
			t.Errorf("Field(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	got := Printable("one\nssctl: two\n  three\x1b\n\n")
	if want := "one\n  ssctl: two\n  three\\x1b\n  "; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// FuzzPrinter: whatever is written, in whatever pieces, nothing comes out that a terminal acts on but line breaks.
func FuzzPrinter(f *testing.F) {
	f.Add([]byte("a\x1b[0m\u009b\n"), 3)
	f.Fuzz(func(t *testing.T, in []byte, at int) {
		var out bytes.Buffer
		p := Printer(&out)
		if at < 0 || at > len(in) {
			at = 0
		}
		for _, part := range [][]byte{in[:at], in[at:]} {
			if n, err := p.Write(part); n != len(part) || err != nil {
				t.Fatal(n, err)
			}
		}
		if !utf8.Valid(out.Bytes()) {
			t.Errorf("no UTF-8: %q", out.Bytes())
		}
		for _, r := range out.String() {
			if unfit(r) && r != '\n' {
				t.Errorf("%q let %q through", in, r)
			}
		}
		if one := fmt.Sprint(Field(string(in))); strings.ContainsAny(one, "\n\x1b") {
			t.Errorf("Field let through: %q", one)
		}
	})
}
