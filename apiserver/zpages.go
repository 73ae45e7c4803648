package apiserver

import (
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"
)

// notForMachines is what upstream says above these pages, and true here.
const notForMachines = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n\n"

// serveStatusz tells since when which version runs.
func (s *Server) serveStatusz(x *exchange) {
	up := s.cfg.Now().Sub(s.started).Truncate(time.Second)
	var b strings.Builder
	fmt.Fprintf(&b, "\nkube-apiserver statusz\n%s", notForMachines)
	fmt.Fprintf(&b, "Started: %s\nUp: %s\nGo version: %s\nBinary version: %s\nEmulation version: %s.%s\n",
		s.started.UTC().Format(time.UnixDate), up, runtime.Version(), gitVersion, versionMajor, versionMinor)
	fmt.Fprintf(&b, "Paths: %s\n", strings.Join([]string{"/healthz", "/livez", "/metrics", "/readyz", "/statusz", "/version"}, " "))
	x.text(http.StatusOK, b.String())
}

// serveFlagz tells what the process was started with.
func (s *Server) serveFlagz(x *exchange) {
	var b strings.Builder
	fmt.Fprintf(&b, "\nkube-apiserver flagz\n%s", notForMachines)
	for _, name := range slices.Sorted(maps.Keys(s.cfg.Flags)) {
		fmt.Fprintf(&b, "%s=%s\n", name, s.cfg.Flags[name])
	}
	x.text(http.StatusOK, b.String())
}
