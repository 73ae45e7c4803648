package kubelet

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"proa/auth"
)

// grants allows "user verb subresource" of node n1.
type grants map[string]bool

func (g grants) Authorize(_ context.Context, a auth.Attributes) (auth.Decision, string, error) {
	if a.Resource == "nodes" && a.Name == "n1" && a.Version == "v1" && a.ResourceRequest && g[a.User.Name+" "+a.Verb+" "+a.Subresource] {
		return auth.Allow, "", nil
	}
	return auth.NoOpinion, "", nil
}

// Review knows the tokens that are users' names, but no "forged" one.
type names struct{}

func (names) Review(_ context.Context, token string, _ []string) (auth.User, []string, error) {
	if token == "forged" {
		return auth.User{}, nil, auth.ErrNotOurs
	}
	return auth.User{Name: token}, nil, nil
}

// TestWhoMayUseTheNode asks for each kind of path with permissions that are and
// are not enough.
func TestWhoMayUseTheNode(t *testing.T) {
	inner := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the credentials went on")
		}
		fmt.Fprint(w, "inside")
	})
	may := grants{"full get proxy": true, "full create proxy": true, "pods get pods": true, "probe get healthz": true, "metrics get metrics": true, "logs get log": true, "stats get stats": true}
	s := httptest.NewTLSServer(Guard(inner, "n1", auth.Authenticators{auth.BearerTokens{Tokens: names{}}}, may))
	defer s.Close()
	for _, c := range []struct {
		user, method, path string
		code               int
		says               string
	}{
		{"", "GET", "/pods", 401, "Unauthorized"},
		{"forged", "GET", "/pods", 401, "Unauthorized"},
		{"full", "GET", "/pods", 200, "inside"},
		{"full", "POST", "/exec/default/a/b", 200, "inside"},
		{"full", "GET", "/containerLogs/default/a/b", 200, "inside"},
		{"full", "GET", "/metrics/resource", 403, "subresource(s)=[metrics]"},
		{"full", "DELETE", "/pods", 403, "verb=delete, resource=nodes, subresource(s)=[pods proxy]"},
		{"pods", "GET", "/pods", 200, "inside"},
		{"pods", "GET", "/runningpods/", 200, "inside"},
		{"pods", "GET", "/exec/default/a/b", 403, "Forbidden (user=pods, verb=get, resource=nodes, subresource(s)=[proxy])"},
		{"probe", "GET", "/healthz", 200, "inside"},
		{"probe", "GET", "/configz", 403, "[configz proxy]"},
		{"metrics", "GET", "/metrics", 200, "inside"},
		{"stats", "GET", "/stats/summary", 200, "inside"},
		{"logs", "GET", "/logs/x", 200, "inside"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, s.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.user != "" {
			req.Header.Set("Authorization", "Bearer "+c.user)
		}
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != c.code || !strings.Contains(string(body), c.says) {
			t.Errorf("%s %s as %q: %d %s", c.method, c.path, c.user, resp.StatusCode, body)
		}
	}
}
