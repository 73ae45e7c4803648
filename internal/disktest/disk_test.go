package disktest

import (
	"bufio"
	"io"
	"os/exec"
	"testing"
)

// What was synced is there after a power cut, and the rest is not.
func TestCut(t *testing.T) {
	d := New(t, 16<<20)
	cmd := exec.Command("/bin/sh", "-c", `cd "$0" && echo 1 >synced && sync -f synced && echo 2 >lost && echo ready && exec sleep 1000`, d.Dir)
	d.Use(t, cmd)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	d.Cut(t, cmd.Process)
	_ = cmd.Process.Kill()
	_, _ = io.Copy(io.Discard, out)
	_ = cmd.Wait() // "signal: killed"
	if err != nil || line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	cmd = exec.Command("/bin/sh", "-c", `cd "$0" && cat synced && ls lost 2>/dev/null || true`, d.Dir)
	d.Use(t, cmd)
	if text, err := cmd.CombinedOutput(); err != nil || string(text) != "1\n" {
		t.Errorf("there is %q (%v)", text, err)
	}
}
