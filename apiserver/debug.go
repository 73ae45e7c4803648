package apiserver

import (
	"net/http"
	"net/http/pprof"
	"strings"

	"proa/apiserver/fairness"
)

const (
	debugPaths    = "/debug/"
	debugFairness = "/debug/api_priority_and_fairness/"
	debugPprof    = "/debug/pprof"
)

// serveDebug shows what the server is at, to those who may see it.
func (s *Server) serveDebug(x *exchange, path string) {
	switch name, profile := strings.CutPrefix(path, debugPprof); {
	case strings.HasPrefix(path, debugFairness):
		s.serveFairness(x, strings.TrimPrefix(path, debugFairness))
	case profile:
		serveProfile(x, strings.TrimPrefix(name, "/"))
	default:
		x.fail(noPath())
	}
}

// serveFairness shows who runs and who waits.
func (s *Server) serveFairness(x *exchange, name string) {
	dump, ok := fairness.Dumps[name]
	if !ok || x.r.Method != http.MethodGet && x.r.Method != http.MethodHead {
		x.fail(noPath())
		return
	}
	x.text(http.StatusOK, dump(s.limits.fair))
}

// serveProfile is Go's own profiling; profiles are taken for ?seconds=.
func serveProfile(x *exchange, name string) {
	switch name {
	case "":
		x.r.URL.Path = debugPprof + "/" // what the page's links are relative to
		pprof.Index(x, x.r)
	case "cmdline":
		pprof.Cmdline(x, x.r)
	case "profile":
		pprof.Profile(x, x.r)
	case "symbol":
		pprof.Symbol(x, x.r)
	case "trace":
		pprof.Trace(x, x.r)
	default:
		pprof.Handler(name).ServeHTTP(x, x.r)
	}
}
