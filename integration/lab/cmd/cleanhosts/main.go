// Cleanhosts removes what labs have left whose process is dead: processes, cgroups, folders. It is what
// `make clean-hosts` runs. Labs in use are not touched.
package main

import (
	"fmt"
	"os"

	"ss/integration/lab"
)

func main() {
	if err := lab.Clean(); err != nil {
		fmt.Fprintln(os.Stderr, "cleanhosts:", err)
		os.Exit(1)
	}
}
