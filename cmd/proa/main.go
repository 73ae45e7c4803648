// Command proa is a whole Kubernetes in one binary.
package main

import (
	"os"

	"proa/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
