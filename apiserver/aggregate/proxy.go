package aggregate

import (
	"net/http"
	"net/url"
	"strings"

	utilproxy "k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/streaming/pkg/httpstream"

	"proa/auth"
)

// Proxy passes a request on to the APIService's server, upgrades included.
func (a *Aggregator) Proxy(w http.ResponseWriter, r *http.Request, s *apiregistrationv1.APIService, user auth.User) {
	if !isAvailable(s) {
		http.Error(w, "service unavailable", http.StatusServiceUnavailable)
		return
	}
	upgrade := httpstream.IsUpgradeRequest(r)
	rt, u, err := a.cfg.Pool.Transport(target(s, upgrade))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	out := r.Clone(r.Context())
	speakFor(out, user)
	location := &url.URL{Scheme: u.Scheme, Host: u.Host, Path: r.URL.Path, RawQuery: r.URL.RawQuery}
	utilproxy.NewUpgradeAwareHandler(location, rt, true, upgrade, failed{}).ServeHTTP(w, out)
}

// speakFor puts the user into the headers by which the server behind knows him,
// and takes his credentials out.
func speakFor(r *http.Request, user auth.User) {
	for name := range r.Header {
		if name == "Authorization" || strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-") {
			r.Header.Del(name)
		}
	}
	transport.SetAuthProxyHeaders(r, user.Name, user.UID, user.Groups, user.Extra)
}

// failed answers for a server that cannot be reached.
type failed struct{}

func (failed) Error(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, err.Error(), http.StatusServiceUnavailable)
}
