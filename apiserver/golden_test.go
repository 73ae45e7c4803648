package apiserver_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"proa/apiserver"
)

var rewrite = flag.Bool("rewrite", false, "write what the server answers into testdata")

// TestExchanges plays the HTTP exchanges of testdata/http, each file against a
// server of its own. A file is a sequence of
//
//	METHOD path [as USER]
//	Header: value
//
//	body
//	----
//	status, headers and body of the answer
//	====
func TestExchanges(t *testing.T) {
	files, err := filepath.Glob("testdata/http/*.txt")
	must(t, err)
	if len(files) == 0 {
		t.Fatal("no exchanges")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { playFile(t, file) })
	}
}

func playFile(t *testing.T, file string) {
	data, err := os.ReadFile(file)
	must(t, err)
	now := time.Unix(1790000000, 0) // ages are part of tables
	h := start(t, func(c *apiserver.Config) { c.Now = func() time.Time { return now } })
	var out strings.Builder
	for _, part := range strings.Split(strings.TrimSuffix(string(data), "====\n"), "====\n") {
		request, want, _ := strings.Cut(part, "----\n")
		got := h.play(t, request)
		if got != want && !*rewrite {
			t.Errorf("%s\ngot:\n%s\nwant:\n%s", request, got, want)
		}
		fmt.Fprintf(&out, "%s----\n%s====\n", request, got)
	}
	if *rewrite {
		must(t, os.WriteFile(file, []byte(out.String()), 0o644))
	}
}

func (h *harness) play(t *testing.T, request string) string {
	for strings.HasPrefix(request, "#") {
		_, request, _ = strings.Cut(request, "\n")
	}
	head, body, _ := strings.Cut(request, "\n\n")
	lines := strings.Split(strings.TrimSuffix(head, "\n"), "\n")
	words := strings.Fields(lines[0])
	r := httptest.NewRequest(words[0], words[1], strings.NewReader(strings.TrimSuffix(body, "\n")))
	user := "root"
	if len(words) == 4 {
		user = words[3]
	}
	if user != "nobody" {
		r.Header.Set("Authorization", "Bearer "+user)
	}
	r.Header.Set("User-Agent", "test/1")
	if body != "" && words[0] != http.MethodPatch {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, l := range lines[1:] {
		k, v, ok := strings.Cut(l, ": ")
		if !ok {
			t.Fatalf("not a header: %q", l)
		}
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	h.Handler().ServeHTTP(w, r)
	return show(w)
}

var shownHeaders = []string{"Content-Type", "Retry-After", "Warning"}

func show(w *httptest.ResponseRecorder) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d\n", w.Code)
	for _, k := range shownHeaders {
		for _, v := range w.Header().Values(k) {
			fmt.Fprintf(&b, "%s: %s\n", k, v)
		}
	}
	body := w.Body.Bytes()
	var pretty bytes.Buffer
	if json.Indent(&pretty, bytes.TrimSpace(body), "", " ") == nil {
		body = append(pretty.Bytes(), '\n')
	}
	b.WriteByte('\n')
	b.WriteString(scrub(string(body)))
	if !strings.HasSuffix(b.String(), "\n") {
		b.WriteByte('\n')
	}
	return b.String()
}

var varying = []struct {
	find *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`), `UID`},
	{regexp.MustCompile(`"(creationTimestamp|time|deletionTimestamp)": ?"[^"]*"`), `"$1": "TIME"`},
	{regexp.MustCompile(`"resourceVersion": ?"[0-9]+"`), `"resourceVersion": "RV"`},
	{regexp.MustCompile(`resourceVersion: "[0-9]+"`), `resourceVersion: "RV"`},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`), `TIME`},
}

func scrub(s string) string {
	for _, v := range varying {
		s = v.find.ReplaceAllString(s, v.with)
	}
	return s
}
