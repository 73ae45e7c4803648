package callout

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"proa/api"
	"proa/apiserver/codec"
	"proa/store"
	"proa/store/pebble"
)

// world is a store with objects that were never validated, so that endpoints may
// be on the loopback.
func world(t *testing.T, objs ...api.Object) *store.Store {
	t.Helper()
	engine, err := pebble.Open(pebble.Config{Dir: "/data", FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	reg := api.Builtin()
	st, err := store.New(store.Config{Engine: engine, Codec: codec.Storage{Registry: reg}, Registry: reg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, o := range objs {
		put(t, st, o)
	}
	return st
}

func put(t *testing.T, st *store.Store, o api.Object) {
	t.Helper()
	row := api.Builtin().ByType(o)
	o.GetObjectKind().SetGroupVersionKind(row.GVK())
	key := store.Key{Resource: row.Key(), Namespace: o.GetNamespace(), Name: o.GetName()}
	if _, err := st.Commit(context.Background(), store.Write{Key: key, Object: o, Expect: store.AnyRevision}); err != nil {
		t.Fatal(err)
	}
}

func service(name string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec: corev1.ServiceSpec{ClusterIP: "10.0.0.9", Selector: map[string]string{"app": name}, Ports: ports}}
}

type end struct {
	address        string
	ready, serving *bool
}

func slice(service, port string, number int32, ends ...end) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: service + "-" + port + strconv.Itoa(len(ends)), Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("other"), Port: ptr.To[int32](1)}, {Name: ptr.To(port), Port: ptr.To(number)}},
	}
	for _, e := range ends {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{e.address}, Conditions: discoveryv1.EndpointConditions{Ready: e.ready, Serving: e.serving}})
	}
	return s
}

func TestResolve(t *testing.T) {
	yes, no := ptr.To(true), ptr.To(false)
	https := corev1.ServicePort{Name: "https", Port: 443}
	external := service("external")
	external.Spec.Type, external.Spec.ExternalName = corev1.ServiceTypeExternalName, "api.example.org"
	bare := service("bare", https)
	bare.Spec.Selector = nil
	st := world(t, external, bare,
		service("empty", https), service("some", https, corev1.ServicePort{Name: "alt", Port: 8443}), service("udp", corev1.ServicePort{Port: 443, Protocol: corev1.ProtocolUDP}),
		slice("some", "https", 9443, end{address: "10.1.0.1"}, end{"10.1.0.2", no, yes}, end{"10.1.0.3", no, no}, end{"10.1.0.4", yes, nil}),
		slice("some", "https", 9444, end{"10.1.0.5", yes, yes}), slice("some", "alt", 7, end{"10.1.0.6", yes, yes}, end{"10.1.0.7", no, no}))
	cases := []struct {
		name  string
		port  int32
		want  []string // any order up to the first "|", this order after it
		fails string
	}{
		{name: "external", port: 8443, want: []string{"api.example.org:8443"}},
		{name: "bare", want: []string{"10.0.0.9:443"}},
		{name: "some", want: []string{"10.1.0.1:9443", "10.1.0.4:9443", "10.1.0.5:9444", "10.1.0.2:9443"}},
		{name: "some", port: 8443, want: []string{"10.1.0.6:7"}},
		{name: "some", port: 80, fails: `no service port 80 found for service "some"`},
		{name: "udp", fails: `no service port 443 found for service "udp"`},
		{name: "empty", fails: `no endpoints available for service "empty"`},
		{name: "none", fails: `service "none" not found`},
	}
	for _, c := range cases {
		t.Run(fmt.Sprint(c.name, c.port), func(t *testing.T) {
			got, err := Resolve(st.Snapshot(), Service{Namespace: "ns", Name: c.name, Port: c.port})
			if c.fails != "" {
				if err == nil || err.Error() != c.fails {
					t.Fatalf("error %v, want %s", err, c.fails)
				}
				return
			}
			if err != nil || len(got) != len(c.want) || got[len(got)-1] != c.want[len(c.want)-1] && len(got) > 2 {
				t.Fatalf("got %v, %v", got, err)
			}
			for _, a := range c.want {
				if !slices.Contains(got, a) {
					t.Errorf("%s is missing in %v", a, got)
				}
			}
		})
	}
}

// serve starts a TLS server whose certificate names the services; its address and
// its CA.
func serve(t *testing.T, h http.Handler, names ...string) (string, []byte) {
	t.Helper()
	ca := newAuthority(t)
	srv := httptest.NewUnstartedServer(h)
	srv.TLS, srv.EnableHTTP2 = ca.serving(t, names...), true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String(), ca.pem
}

func TestServiceOverTLS(t *testing.T) {
	var conns sync.Map
	addr, ca := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conns.Store(r.RemoteAddr, true)
		_, _ = fmt.Fprintf(w, "%s %s %s", r.Proto, r.URL.RequestURI(), r.TLS.ServerName)
	}), "hook.ns.svc")
	_, port, _ := net.SplitHostPort(addr)
	number, _ := strconv.Atoi(port)
	// The first endpoint refuses: nobody listens there.
	st := world(t, service("hook", corev1.ServicePort{Name: "https", Port: 443}), service("wrong", corev1.ServicePort{Name: "https", Port: 443}),
		slice("hook", "https", int32(number), end{address: "127.0.0.1"}), slice("hook", "https", 1, end{"127.0.0.1", nil, nil}, end{"127.0.0.1", nil, nil}),
		slice("wrong", "https", int32(number), end{address: "127.0.0.1"}))
	pool := New(Config{World: func() store.Snapshot { return st.Snapshot() }})
	defer pool.Close()
	for range 10 {
		body := get(t, pool, Target{Service: &Service{Namespace: "ns", Name: "hook", Path: "/a?b=c"}, CABundle: ca})
		if body != "HTTP/2.0 /a?b=c hook.ns.svc" {
			t.Fatalf("the answer is %q", body)
		}
	}
	n := 0
	conns.Range(func(_, _ any) bool { n++; return true })
	if n != 1 {
		t.Errorf("ten calls took %d connections", n)
	}
	if body := get(t, pool, Target{Service: &Service{Namespace: "ns", Name: "hook"}, CABundle: ca, OnlyHTTP1: true}); !strings.HasPrefix(body, "HTTP/1.1 / ") {
		t.Errorf("without HTTP/2 the answer is %q", body)
	}
	for want, bad := range map[string]Target{
		"not wrong.ns.svc":                     {Service: &Service{Namespace: "ns", Name: "wrong"}, CABundle: ca},
		"signed by unknown authority":          {Service: &Service{Namespace: "ns", Name: "hook"}, CABundle: newAuthority(t).pem},
		"unable to load root certificates":     {Service: &Service{Namespace: "ns", Name: "hook"}, CABundle: []byte("rubbish")},
		`service "gone" not found`:             {Service: &Service{Namespace: "ns", Name: "gone"}, CABundle: ca},
		"must have either service or URL":      {},
		"the path of service ns/hook":          {Service: &Service{Namespace: "ns", Name: "hook", Path: "no/slash"}},
		"unparsable webhook URL":               {URL: "https://[::1"},
		"dial tcp 127.0.0.1:1: connect: conne": {URL: "https://127.0.0.1:1/"},
	} {
		if err := try(pool, bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	err := try(pool, Target{Service: &Service{Namespace: "ns", Name: "gone"}})
	if !apierrors.IsNotFound(errors.Unwrap(err)) {
		t.Errorf("a missing service is %T", errors.Unwrap(err))
	}
}

func get(t *testing.T, p *Pool, target Target) string {
	t.Helper()
	client, u, err := p.Client(target)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Get(u.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func try(p *Pool, target Target) error {
	client, u, err := p.Client(target)
	if err != nil {
		return err
	}
	res, err := client.Get(u.String())
	if err == nil {
		err = errors.Join(errors.New("it answered"), res.Body.Close())
	}
	return err
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	addr, ca := serve(t, http.RedirectHandler("https://192.0.2.1/", http.StatusFound), "127.0.0.1")
	pool := New(Config{})
	defer pool.Close()
	client, u, err := pool.Client(Target{URL: "https://" + addr, CABundle: ca})
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Get(u.String())
	if err != nil || res.StatusCode != http.StatusFound {
		t.Fatalf("got %v, %v", res, err)
	}
	_ = res.Body.Close()
}

func TestTheClientCertificateIsShownOnRequest(t *testing.T) {
	addr, ca := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, len(r.TLS.PeerCertificates))
	}), "127.0.0.1")
	mine := newAuthority(t).leaf(t, "front-proxy")
	pool := New(Config{ClientCert: mine.get})
	defer pool.Close()
	for want, show := range map[string]bool{"0": false, "1": true} {
		if got := get(t, pool, Target{URL: "https://" + addr, CABundle: ca, ShowClientCert: show}); got != want {
			t.Errorf("with ShowClientCert %v the server saw %s certificates", show, got)
		}
	}
}

func TestUnusedTransportsGo(t *testing.T) {
	pool, now := New(Config{}), time.Now()
	pool.now = func() time.Time { return now }
	use := func(n int) {
		if _, _, err := pool.Client(Target{URL: fmt.Sprintf("https://host-%d.example/", n)}); err != nil {
			t.Fatal(err)
		}
	}
	for n := range maxTargets + 50 {
		use(n)
	}
	if n := pool.recent.Len(); n != maxTargets || len(pool.byKey) != n {
		t.Errorf("%d and %d targets are kept, at most %d are wanted", n, len(pool.byKey), maxTargets)
	}
	now = now.Add(keepUnused)
	use(0)
	if n := pool.recent.Len(); n != 1 || len(pool.byKey) != 1 {
		t.Errorf("%d and %d are kept, of which one was used", n, len(pool.byKey))
	}
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestPathsAreJoined(t *testing.T) {
	for given, want := range map[string]string{
		"https://a:1//validate": "https://a:1/validate", "https://a:1/v/": "https://a:1/v", "https://a:1": "https://a:1/",
		"https://a:1/v?x=1//": "https://a:1/v?x=1//",
	} {
		if u, err := (Target{URL: given}).url(); err != nil || u.String() != want {
			t.Errorf("%s: %v %v, want %s", given, u, err, want)
		}
	}
}
