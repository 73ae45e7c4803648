package apiserver

import (
	"net/http"

	"proa/apiserver/fairness"
)

const debugFairness = "/debug/api_priority_and_fairness/"

// serveFairness shows who runs and who waits.
func (s *Server) serveFairness(x *exchange, name string) {
	dump, ok := fairness.Dumps[name]
	if !ok || x.r.Method != http.MethodGet && x.r.Method != http.MethodHead {
		x.fail(noPath())
		return
	}
	x.text(http.StatusOK, dump(s.limits.fair))
}
