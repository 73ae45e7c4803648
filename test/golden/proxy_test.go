package golden

import (
	"bufio"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// TestProxy runs `kubectl proxy`, embedded and by itself, and asks through it.
func TestProxy(t *testing.T) {
	k := newSession(t, start(t), "proxy")
	for _, which := range []string{"proa", "apart"} {
		cmd := k.program(which, "proxy", "--port=0", "--reject-paths=^/api/v1/secrets", "--api-prefix=/k8s/")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // it was killed, and says so
		})
		line, err := bufio.NewReader(out).ReadString('\n')
		at := regexp.MustCompile(`^Starting to serve on (127\.0\.0\.1:\d+)\n$`).FindStringSubmatch(line)
		if at == nil {
			t.Fatalf("%s: %q %v", which, line, err)
		}
		for path, want := range map[string]string{
			"/k8s/api/v1/namespaces/golden-proxy": `"name":"golden-proxy"`, "/k8s/version": `"minor": "37"`,
			"/k8s/api/v1/secrets": "Forbidden", "/elsewhere": "404 page not found",
		} {
			if got := fetch(t, "http://"+at[1]+path); !strings.Contains(got, want) {
				t.Errorf("%s: %s: %s", which, path, got)
			}
		}
	}
}

func fetch(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
