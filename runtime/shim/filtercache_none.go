//go:build cgo && !seccomp

package shim

import "io"

// CacheFilter does nothing without libseccomp.
func CacheFilter(io.Reader) error { return nil }
