package main

import (
	"fmt"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// localFiles are the flags and the commands' arguments that name files on this machine. They are sent to nobody, so they may be any bytes.
var localFiles = map[string]bool{"--dir": true, "--identity": true, "--bundle": true, "export 1": true, "import 0": true}

// checkText refuses arguments and flags that are not UTF-8: hosts are sent text, and so is what a catalogue or a document says.
func checkText(cmd *cobra.Command, argv []string) error {
	for i, arg := range argv {
		if utf8.ValidString(arg) || localFiles[fmt.Sprint(cmd.Name(), " ", i)] {
			continue
		}
		if cmd.Name() == "run" && i > 0 {
			return usage("%q of the command that is to run is not UTF-8, and hosts are sent text: write the command into a script on the host, and run that", arg)
		}
		return usage("the argument %q is not UTF-8: nothing has such a name", arg)
	}
	var err error
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if localFiles["--"+f.Name] || err != nil {
			return
		}
		for _, v := range flagTexts(f) {
			if !utf8.ValidString(v) {
				err = usage("--%s: %q is not UTF-8%s", f.Name, v, textRemedy(f.Name))
				return
			}
		}
	})
	return err
}

// flagTexts are the values of a flag.
func flagTexts(f *pflag.Flag) []string {
	if s, ok := f.Value.(pflag.SliceValue); ok {
		return s.GetSlice()
	}
	return []string{f.Value.String()}
}

// textRemedy says what else does what a flag with such a value was to do.
func textRemedy(flag string) string {
	switch flag {
	case "env":
		return ", and hosts are sent text: set it in a script on the host that starts the command, and run that"
	case "cwd":
		return ", and hosts are sent text: let a script on the host go to that folder and start the command, and run that"
	case "log":
		return ", and hosts are sent text: let a script on the host write there and run that, or give no --log and see ssctl logs"
	case "files":
		return ", and hosts are sent text: rename that folder on the host"
	}
	return ": give text"
}
