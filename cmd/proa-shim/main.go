//go:build cgo

// Command proa-shim is the process that a pod's containers belong to. The proa
// binary carries it and starts it; nobody else should.
package main

import (
	"fmt"
	"os"

	"proa/runtime/shim"
)

func main() {
	if len(os.Args) == 2 {
		switch os.Args[1] {
		case "init":
			shim.Init()
		case "pod":
			exit(shim.Main())
		case "seccomp":
			exit(shim.CacheFilter(os.Stdin))
		}
	}
	fmt.Fprintln(os.Stderr, "proa-shim is started by proa, one a pod")
	os.Exit(2)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "proa-shim:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
