package e2e

import (
	"os"
	"strings"
	"testing"
)

// TestOtherKubectls does with kubectls that were built apart from proa, of this
// version and three minor versions older, what the other tests do with the
// embedded one.
func TestOtherKubectls(t *testing.T) {
	for name, path := range map[string]string{"current": "../../bin/kubectl", "older": "../../bin/kubectl-older"} {
		t.Run(name, func(t *testing.T) {
			path = mustAbs(path)
			if _, err := os.Stat(path); err != nil {
				t.Fatalf("run `make kubectls` first: %v", err)
			}
			m := newMachine(t)
			m.kubectl = path
			m.start()
			if said := m.k("version"); !strings.Contains(said, "Server Version: v1.37") {
				t.Errorf("kubectl version says %s", said)
			}
			t.Run("pods", func(t *testing.T) { m.in(t).pods() })
			t.Run("example", func(t *testing.T) { m.in(t).example() })
		})
	}
}
