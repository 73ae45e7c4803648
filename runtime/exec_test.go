package runtime

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	utilexec "k8s.io/utils/exec"
)

func TestExecSync(t *testing.T) {
	w := newWorld(t)
	pod, _ := w.pod("a")
	id := w.start(pod, containerConfig("c", "sleep"))
	out, errOut, err := w.ExecSync(ctx, id, []string{"box", "count", "2"}, 0)
	if err != nil || string(out) != "out 0\nout 1\n" || string(errOut) != "err 0\nerr 1\n" {
		t.Errorf("%q %q %v", out, errOut, err)
	}
	_, _, err = w.ExecSync(ctx, id, []string{"box", "exit", "7"}, 0)
	var exit utilexec.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 7 {
		t.Errorf("exit code: %v", err)
	}
	begin := time.Now()
	_, _, err = w.ExecSync(ctx, id, []string{"box", "sleep"}, 300*time.Millisecond)
	if status.Code(err) != codes.DeadlineExceeded || time.Since(begin) > 5*time.Second {
		t.Errorf("timeout after %v: %v", time.Since(begin), err)
	}
	for deadline := time.Now().Add(5 * time.Second); strings.Count(w.output(id, "ps"), "box sleep") > 1; {
		if time.Now().After(deadline) {
			t.Fatalf("the process that timed out lives: %s", w.output(id, "ps"))
		}
	}
	if _, _, err = w.ExecSync(ctx, id, []string{"/nope"}, 0); err == nil || !strings.Contains(err.Error(), "/nope") {
		t.Errorf("missing program: %v", err)
	}
	out, _, err = w.ExecSync(ctx, id, []string{"box", "flood", "200000"}, 0)
	if err != nil || len(out) != maxExecOutput {
		t.Errorf("flood: %d bytes, %v", len(out), err)
	}
	if got := w.output(id, "env"); !strings.Contains(got, "FROM_IMAGE=1") || !strings.Contains(got, "HOSTNAME=a") {
		t.Errorf("environment: %s", got)
	}
}
