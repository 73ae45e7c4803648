package apiserver

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"proa/apiserver/aggregate"
	"proa/apiserver/codec"
	"proa/apiserver/discovery"
)

// The version that the API claims: upstream's, marked as ours.
const (
	versionMajor, versionMinor = "1", "37"
	compatibleMinor            = "36" // the oldest that it can work beside
	gitVersion                 = "v1.37.2+proa"
)

// Version is what /version says.
func Version() version.Info {
	return version.Info{
		Major: versionMajor, Minor: versionMinor, GitVersion: gitVersion, GitTreeState: "clean",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
		EmulationMajor: versionMajor, EmulationMinor: versionMinor,
		MinCompatibilityMajor: versionMajor, MinCompatibilityMinor: compatibleMinor,
	}
}

// servePath answers requests that are not about API objects.
func (s *Server) servePath(x *exchange) {
	path := strings.TrimSuffix(x.t.Path, "/")
	if x.r.Method != http.MethodGet && onlyRead(path) {
		x.fail(noMethod())
		return
	}
	switch {
	case path == "" && x.t.Path == "/":
		x.json(http.StatusOK, metav1.RootPaths{Paths: s.rootPaths()})
	case path == "/version":
		x.json(http.StatusOK, Version())
	case strings.HasPrefix(path, debugPaths):
		s.serveDebug(x, path)
	case path == "/metrics":
		s.metrics.handler.ServeHTTP(x, x.r)
	case path == "/metrics/slis":
		s.metrics.slis.ServeHTTP(x, x.r)
	case path == "/statusz":
		s.serveStatusz(x)
	case path == "/flagz":
		s.serveFlagz(x)
	case path == "/healthz", path == "/livez", path == "/readyz", strings.HasPrefix(path, "/healthz/"),
		strings.HasPrefix(path, "/livez/"), strings.HasPrefix(path, "/readyz/"):
		s.serveHealth(x, path)
	case path == "/openapi" || strings.HasPrefix(path, "/openapi/"):
		s.serveOpenAPI(x)
	case path == "/.well-known/openid-configuration", path == "/openid/v1/jwks":
		s.serveOpenID(x, path)
	case path == "/api" || path == "/apis" || strings.HasPrefix(path, "/api/") || strings.HasPrefix(path, "/apis/"):
		s.serveDiscovery(x, path)
	default:
		x.fail(noPath())
	}
}

// onlyRead tells the documents that upstream answers to GET and nothing else, not
// even HEAD.
func onlyRead(path string) bool {
	switch path {
	case "/version", "/api", "/.well-known/openid-configuration", "/openid/v1/jwks":
		return true
	}
	return strings.HasPrefix(path, "/api/") || strings.HasPrefix(path, "/apis/") && strings.Count(path, "/") == 3
}

// noPath is the error of a path that nothing serves. On the wire it has no
// Status, as upstream's has none: clients say then what they asked for.
func noPath() error {
	return unserved{notServed()}
}

type unserved struct{ *apierrors.StatusError }

func (e unserved) Unwrap() error { return e.StatusError }

func notServed() *apierrors.StatusError {
	return apierrors.NewGenericServerResponse(http.StatusNotFound, "", noResource, "", "the server could not find the requested resource", 0, false)
}

func (s *Server) serveOpenAPI(x *exchange) {
	if s.cfg.OpenAPI == nil {
		x.fail(noPath())
		return
	}
	s.custom.Settle(x.r.Context())
	if local, ok := s.cfg.OpenAPI.(aggregate.Local); ok {
		s.aggregate.ServeOpenAPI(x, x.r, local)
		return
	}
	s.cfg.OpenAPI.ServeHTTP(x, x.r)
}

func (s *Server) serveDiscovery(x *exchange, path string) {
	if x.r.Method != http.MethodGet && x.r.Method != http.MethodHead {
		x.fail(apierrors.NewMethodNotSupported(noResource, x.t.Verb))
		return
	}
	w, err := negotiate(x.r, func(w wants) bool {
		return w.As == "" || w.As == "APIGroupDiscoveryList" && w.Group == "apidiscovery.k8s.io" && w.Version == "v2" && (path == "/api" || path == "/apis")
	})
	if err != nil {
		x.fail(err)
		return
	}
	x.Header().Add("Vary", "Accept")
	s.custom.Settle(x.r.Context())
	doc := s.discoveryDocument(path, w)
	if doc == nil {
		x.fail(noPath())
		return
	}
	s.withETag(x, w, doc)
}

// discoveryDocument returns nil for what is not served.
func (s *Server) discoveryDocument(path string, w wants) kruntime.Object {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	r := s.cfg.Registry
	switch {
	case len(parts) == 1 && w.As != "":
		return s.aggregate.Discovery().Aggregated(parts[0] == "api")
	case path == "/api":
		return s.aggregate.Discovery().Versions(s.cfg.ExternalHost)
	case path == "/apis":
		return s.aggregate.Discovery().GroupList()
	case parts[0] == "api" && len(parts) == 2:
		return orNil(discovery.ResourceList(r, schema.GroupVersion{Version: parts[1]}))
	case parts[0] == "apis" && len(parts) == 2:
		return orNil(s.aggregate.Discovery().Group(parts[1]))
	case parts[0] == "apis" && len(parts) == 3:
		return orNil(discovery.ResourceList(r, schema.GroupVersion{Group: parts[1], Version: parts[2]}))
	}
	return nil
}

// orNil keeps a nil pointer from becoming an interface that is not nil.
func orNil[T any, P interface {
	*T
	kruntime.Object
}](p P) kruntime.Object {
	if p == nil {
		return nil
	}
	return p
}

// withETag lets a client that has the document already keep it.
func (s *Server) withETag(x *exchange, w wants, doc kruntime.Object) {
	if !codec.CanEncode(w.Format, doc) {
		w.Format = codec.JSON
	}
	data, err := codec.Marshal(w.Format, doc)
	if err != nil {
		x.fail(apierrors.NewInternalError(err))
		return
	}
	tag := etag(data)
	x.Header().Set("ETag", tag)
	if x.r.Header.Get("If-None-Match") == tag {
		x.WriteHeader(http.StatusNotModified)
		return
	}
	contentType := w.Format.MediaType()
	if w.As != "" {
		contentType += fmt.Sprintf(";g=%s;v=%s;as=%s", w.Group, w.Version, w.As)
	}
	x.bodyAs(http.StatusOK, w, contentType, data)
}

func (s *Server) rootPaths() []string {
	out := []string{"/.well-known/openid-configuration", "/api", "/api/v1", "/apis"}
	for _, g := range s.aggregate.Discovery().GroupList().Groups {
		out = append(out, "/apis/"+g.Name)
		for _, v := range g.Versions {
			out = append(out, "/apis/"+v.GroupVersion)
		}
	}
	return append(out, "/flagz", "/healthz", "/livez", "/metrics", "/metrics/slis", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/statusz", "/version")
}
