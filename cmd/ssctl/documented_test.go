package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// parses checks that ssctl would take a command line: its command is there, and so are its flags.
func parses(words []string) error {
	cmd, rest, err := (&app{}).command().Find(words)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

var quoted = regexp.MustCompile(`'[^']*'|"[^"]*"`)

// TestDocumentedCommands: each command in a block of the pages is one that ssctl takes, with all its flags and as many arguments.
func TestDocumentedCommands(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		block := false
		for _, line := range strings.Split(string(text), "\n") {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "```") {
				block = !block
			}
			line = strings.TrimPrefix(strings.TrimPrefix(line, "$ "), "sudo ")
			if words, ok := strings.CutPrefix(line, "ssctl "); block && ok && !strings.HasPrefix(words, " ") { // that is a drawing
				found++
				words, _, _ = strings.Cut(words, " #")
				words, _, _ = strings.Cut(words, " | ")
				if err := parses(strings.Fields(quoted.ReplaceAllString(words, "TEXT"))); err != nil {
					t.Errorf("%s: %s: %v", page, line, err)
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("the pages show %d commands", found)
	}
}

// remedy is a command that a message tells its reader to use, as far as its words are known.
var remedy = regexp.MustCompile(`\bssctl( --?[a-z][a-z-]*| [a-z][a-z-]*\b| [A-Z|]+\b| %[a-z])+`)

// prose is what follows ssctl in a sentence about it.
var prose = []string{"knows", "is", "of", "or", "records", "%s", "--dir", "--help", "made", "ended", "that", "has"}

// TestCommandsInMessages: each command that an error, a hint or a help text names is there, and has the flags.
func TestCommandsInMessages(t *testing.T) {
	found := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == ".build" || d.Name() == "testdata" || d.Name() == "integration") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Errorf("%s: %v", path, err)
			}
			for _, command := range remedy.FindAllString(text, -1) {
				words := strings.Fields(command)[1:]
				if cmd, _, err := (&app{}).command().Find(words); err != nil || cmd.Name() == "ssctl" {
					if !slices.Contains(prose, words[0]) {
						t.Errorf("%s: %q: there is no ssctl %s", path, text, words[0])
					}
					continue
				}
				found++
				for _, w := range words {
					if flag, ok := strings.CutPrefix(w, "--"); ok && !hasFlag(words, flag) {
						t.Errorf("%s: %q: ssctl %s has no --%s", path, text, words[0], flag)
					}
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found < 30 {
		t.Errorf("%d commands in messages", found)
	}
}

func hasFlag(words []string, flag string) bool {
	cmd, _, err := (&app{}).command().Find(words)
	if err != nil {
		return false
	}
	return lookUp(cmd, flag) || flag == "help"
}

func lookUp(cmd *cobra.Command, flag string) bool {
	return cmd.Flags().Lookup(flag) != nil || cmd.InheritedFlags().Lookup(flag) != nil
}
