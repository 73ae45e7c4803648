package audit

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"proa/auth"
)

const head = "apiVersion: audit.k8s.io/v1\nkind: Policy\n"

func policy(t testing.TB, body string) *Policy {
	t.Helper()
	p, err := ParsePolicy([]byte(head + body))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPolicy(t *testing.T) {
	p := policy(t, `
rules:
- {level: None, users: [quiet]}
- {level: None, userGroups: ["system:nodes"], verbs: [get]}
- {level: RequestResponse, resources: [{group: "", resources: [configmaps], resourceNames: [special]}]}
- {level: Request, resources: [{group: "", resources: ["pods/*", "*/scale"]}]}
- {level: Metadata, namespaces: [a], resources: [{group: ""}]}
- {level: Metadata, resources: [{group: apps, resources: [deployments]}]}
- {level: Metadata, nonResourceURLs: [/version, "/healthz*"]}
- {level: None, nonResourceURLs: ["*"]}
- {level: Metadata, verbs: [delete]}
`)
	get := func(resource, sub, ns, name string) auth.Attributes {
		return auth.Attributes{Verb: "get", Resource: resource, Subresource: sub, Namespace: ns, Name: name, ResourceRequest: true}
	}
	deployment := get("deployments", "", "b", "d")
	deployment.Group = "apps"
	deletion := get("services", "", "b", "s")
	deletion.Verb = "delete"
	quiet := get("configmaps", "", "a", "special")
	quiet.User.Name = "quiet"
	node := get("configmaps", "", "a", "special")
	node.User.Groups = []string{"system:nodes"}
	for _, c := range []struct {
		a    auth.Attributes
		want auditv1.Level
	}{
		{quiet, "None"}, {node, "None"},
		{get("configmaps", "", "b", "special"), "RequestResponse"}, {get("configmaps", "", "b", "other"), ""},
		{get("configmaps", "", "a", "other"), "Metadata"},
		{get("pods", "log", "b", "p"), "Request"}, {get("pods", "", "b", "p"), ""}, {get("replicationcontrollers", "scale", "b", "r"), "Request"},
		{deployment, "Metadata"}, {deletion, "Metadata"},
		{auth.Attributes{Verb: "get", Path: "/version"}, "Metadata"}, {auth.Attributes{Verb: "get", Path: "/healthz/etcd"}, "Metadata"},
		{auth.Attributes{Verb: "get", Path: "/metrics"}, "None"},
	} {
		got := auditv1.Level("")
		if r := p.find(&c.a); r != nil {
			got = r.Level
		}
		if got != c.want {
			t.Errorf("%+v: %q, want %q", c.a, got, c.want)
		}
	}
}

func TestBadPolicies(t *testing.T) {
	for body, want := range map[string]string{
		"kind: Pod":                     "not a Policy",
		head:                            "rules",
		head + "rules: [{level: Loud}]": "rules[0].level",
		head + "rules: [{level: None, surprise: 1}]":                                  "surprise",
		head + "omitStages: [Never]\nrules: [{level: None}]":                          "omitStages[0]",
		head + "rules: [{level: None, nonResourceURLs: [version]}]":                   "nonResourceURLs[0]",
		head + "rules: [{level: None, nonResourceURLs: ['/a*b']}]":                    "nonResourceURLs[0]",
		head + "rules: [{level: None, nonResourceURLs: [/a], namespaces: [x]}]":       "nonResourceURLs",
		head + "rules: [{level: None, resources: [{group: '', resourceNames: [x]}]}]": "resourceNames",
	} {
		if _, err := ParsePolicy([]byte(body)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", body, err, want)
		}
	}
}

func event(id string) *auditv1.Event {
	ev := &auditv1.Event{Level: auditv1.LevelMetadata, UserAgent: strings.Repeat("x", 1000)}
	ev.AuditID = types.UID("id-" + id)
	return ev
}

// TestRotation fills files from many goroutines: no line is lost or torn, full
// files are compressed, and those beyond the limit go.
func TestRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.log")
	f, err := OpenFile(FileConfig{Path: path, MaxSize: 1, MaxBackups: 3, Compress: true}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1500 {
				if err := f.Put(event("a")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(files) != 4 {
		t.Fatalf("files: %v", files)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 || info.Size() > 1<<20 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
		if n := lines(t, file); file != path && n < 800 {
			t.Errorf("%s has %d lines", file, n)
		}
	}
}

func lines(t *testing.T, path string) (n int) {
	t.Helper()
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	s := bufio.NewScanner(in)
	if strings.HasSuffix(path, ".gz") {
		gz, err := gzip.NewReader(in)
		if err != nil {
			t.Fatal(err)
		}
		s = bufio.NewScanner(gz)
	}
	for s.Scan() {
		var ev auditv1.Event
		if err := json.Unmarshal(s.Bytes(), &ev); err != nil || ev.AuditID != "id-a" {
			t.Fatalf("%s, line %d: %v", path, n+1, err)
		}
		n++
	}
	return n
}

// TestBatch sees full batches, late ones and the last ones go, and more than
// the buffer be dropped while the sender hangs.
func TestBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []int
		gate := make(chan struct{})
		b := NewBatch(BatchConfig{Buffer: 50, Size: 10, Wait: time.Second}, slog.New(slog.DiscardHandler), func(_ context.Context, evs []*auditv1.Event) error {
			<-gate
			sizes = append(sizes, len(evs))
			if len(sizes) == 2 {
				return errors.New("lost")
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		for range 10 {
			_ = b.Put(event("a"))
		}
		synctest.Wait()
		for range 60 {
			if err := b.Put(event("a")); err != nil {
				t.Fatal(err)
			}
		}
		if b.Dropped() != 10 {
			t.Errorf("%d dropped, want 10", b.Dropped())
		}
		close(gate)
		_ = b.Put(event("a"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		for range 3 {
			_ = b.Put(event("a"))
		}
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		sum := 0
		for _, n := range sizes {
			sum += n
		}
		if sum+int(b.Dropped()) < 73 || sizes[0] != 10 {
			t.Errorf("sent in groups of %v, %d dropped", sizes, b.Dropped())
		}
	})
}

// TestWebhook has the server fail, refuse and take.
func TestWebhook(t *testing.T) {
	var calls atomic.Int32
	var list auditv1.EventList
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if r.Header.Get("Authorization") != "Bearer abc" || json.NewDecoder(r.Body).Decode(&list) != nil {
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	defer srv.Close()
	file := filepath.Join(t.TempDir(), "config")
	text := "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: '" + srv.URL + "/sink', insecure-skip-tls-verify: true}}]\n" +
		"users: [{name: u, user: {token: abc}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := OpenWebhook(file, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Send(t.Context(), []*auditv1.Event{event("a"), event("b")}); err != nil {
		t.Fatal(err)
	}
	if calls.Load() != 3 || len(list.Items) != 2 || list.Kind != "EventList" || list.Items[1].AuditID != "id-b" {
		t.Errorf("%d calls, %+v", calls.Load(), list)
	}
}

func BenchmarkOff(b *testing.B) {
	var a *Auditor
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	at := &auth.Attributes{}
	for b.Loop() {
		e := a.Begin(r, at)
		e.Annotate("a", "b")
		_ = e.Stage(auditv1.StageResponseComplete)
	}
}
