package fault

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Field makes a text that comes from outside fit for one line of a terminal: a program's arguments, a label, what an archive
// says of itself. Whatever a terminal would act on is written as Go writes it in a string: control characters, among them line
// breaks, tabs and ESC; characters that change the direction of a text or are invisible; bytes that are not UTF-8.
func Field(text string) string { return quote(text, "") }

// Printable is Field for a text of several lines. Each line but the first is indented, so that no line of it looks as if a
// program of ours had begun it.
func Printable(text string) string {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, line := range lines {
		lines[i] = Field(line)
		if i > 0 && !strings.HasPrefix(line, "  ") {
			lines[i] = "  " + lines[i]
		}
	}
	return strings.Join(lines, "\n")
}

// Printer returns a writer that passes to w what Field would make of it, but leaves line breaks as they are. It is the last
// resort behind Field and Printable: what a terminal acts on does not get through, whoever wrote it.
func Printer(w io.Writer) io.Writer { return printer{w} }

type printer struct{ w io.Writer }

// Write takes whole characters: one that is split between two calls comes out as bytes that are not UTF-8.
func (p printer) Write(b []byte) (int, error) {
	if _, err := io.WriteString(p.w, quote(string(b), "\n")); err != nil {
		return 0, err
	}
	return len(b), nil
}

// quote escapes what is not fit for a terminal and not in except.
func quote(text, except string) string {
	if strings.IndexFunc(text, unfit) < 0 && utf8.ValidString(text) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case !unfit(r) || strings.ContainsRune(except, r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += n
	}
	return b.String()
}

// unfit says whether a terminal may act on a character, or a reader not see it: those of Unicode's class Other, and its separators
// of lines and paragraphs. Private characters are glyphs of some fonts and do no harm.
func unfit(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Cs, unicode.Zl, unicode.Zp)
}
