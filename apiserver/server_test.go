package apiserver_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"proa/api"
	"proa/apiserver"
	"proa/auth"
	"proa/internal/h2"
	"proa/store"
	"proa/store/pebble"
)

// named authenticates a request as the user that its bearer token names; the user
// "root" is of system:masters.
type named struct{}

func (named) Authenticate(r *http.Request) (auth.User, bool, error) {
	name, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return auth.User{}, false, nil
	}
	u := auth.User{Name: name, Groups: []string{auth.GroupAuthenticated}}
	if name == "root" {
		u.Groups = append(u.Groups, auth.GroupMasters)
	}
	if strings.HasPrefix(name, auth.NodeUserPrefix) {
		u.Groups = append(u.Groups, auth.GroupNodes)
	}
	return u, true, nil
}

type harness struct {
	*apiserver.Server
	store *store.Store
	http  *httptest.Server
}

// start runs a server over TLS and HTTP/2 on an engine in memory.
func start(t testing.TB, change ...func(*apiserver.Config)) *harness {
	t.Helper()
	return startStore(t, store.Config{}, change...)
}

func startStore(t testing.TB, sc store.Config, change ...func(*apiserver.Config)) *harness {
	t.Helper()
	engine, err := pebble.Open(pebble.Config{Dir: "/data", FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	reg := api.Builtin()
	sc.Engine, sc.Codec, sc.Registry = engine, apiserver.NewCodec(reg), reg
	st, err := store.New(sc)
	if err != nil {
		t.Fatal(err)
	}
	cfg := apiserver.Config{
		Store: st, Registry: reg, Authenticator: named{}, Authorizer: auth.Authorizers{auth.Masters{}},
		ServiceCIDR: netip.MustParsePrefix("10.96.0.0/24"), ExternalHost: "192.0.2.1:6443",
	}
	for _, f := range change {
		f(&cfg)
	}
	srv, err := apiserver.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	h := &harness{Server: srv, store: st, http: httptest.NewUnstartedServer(srv.Handler())}
	h.http.EnableHTTP2, h.http.Listener = true, h2.Gather(h.http.Listener)
	h2.Configure(h.http.Config)
	h.http.StartTLS()
	t.Cleanup(func() {
		h.http.CloseClientConnections()
		h.http.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := st.Close(); err != nil {
			t.Errorf("closing the store: %v", err)
		}
	})
	h.awaitReady(t)
	return h
}

func (h *harness) awaitReady(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		rec := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/readyz?verbose", nil)
		r.Header.Set("Authorization", "Bearer root")
		h.Handler().ServeHTTP(rec, r)
		if rec.Code == http.StatusOK {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the server is not ready: %s", rec.Body)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// config is how client-go reaches the server as a user.
func (h *harness) config(user string) *rest.Config {
	return &rest.Config{
		Host: h.http.URL, BearerToken: user, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true},
	}
}

func (h *harness) clients(t testing.TB, contentType string) *kubernetes.Clientset {
	t.Helper()
	c := h.config("root")
	c.ContentType, c.AcceptContentTypes = contentType, contentType
	cs, err := kubernetes.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return cs
}

func (h *harness) row(key string) *api.Resource { return api.Builtin().ByKey(key) }

// TestCompression: a large answer is compressed for a client on another machine,
// not for one on this.
func TestCompression(t *testing.T) {
	h := start(t)
	big := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "big", Namespace: "default"}, Data: map[string]string{"a": strings.Repeat("b", 200<<10)}}
	_, err := h.Client(auth.System("test")).Create(t.Context(), big)
	must(t, err)
	for remote, want := range map[string]string{"192.0.2.1:1234": "gzip", "198.51.100.7:1234": "", "[::ffff:198.51.100.7]:1234": ""} {
		r := httptest.NewRequest(http.MethodGet, "/api/v1/namespaces/default/configmaps", nil)
		r.RemoteAddr = remote
		r.Header.Set("Authorization", "Bearer root")
		r.Header.Set("Accept-Encoding", "gzip")
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.IPv4(198, 51, 100, 7), Port: 6443}))
		w := httptest.NewRecorder()
		h.Handler().ServeHTTP(w, r)
		if got := w.Header().Get("Content-Encoding"); w.Code != http.StatusOK || got != want {
			t.Errorf("from %s: %d, encoding %q, want %q", remote, w.Code, got, want)
		}
	}
}
