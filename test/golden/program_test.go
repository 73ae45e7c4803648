package golden

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"proa/cli"
)

// programEnv makes the test binary be `proa kubectl`, as a program.
const programEnv = "PROA_GOLDEN_PROGRAM"

// TestProgram compares `proa kubectl` with kubectl built by itself: what they
// print, where to, and how they end.
func TestProgram(t *testing.T) {
	k := newSession(t, startProa(t), "program")
	apart := filepath.Join(t.TempDir(), "kubectl")
	if out, err := exec.Command("go", "build", "-o", apart, "proa/test/kubectl").CombinedOutput(); err != nil {
		t.Fatalf("building kubectl: %v\n%s", err, out)
	}
	for _, args := range [][]string{
		{}, {"nope"}, {"get"}, {"get", "pods", "--foo"}, {"get", "pods", "none"}, {"get", "nothing"}, {"get", "namespaces", "-o", "name"},
		{"create", "configmap", "a", "--from-literal=b=c"}, {"create", "configmap", "a"}, {"get", "configmap", "a", "-o", "jsonpath={.data}"},
		{"apply", "-f", "nowhere.yaml"}, {"delete", "configmap", "a"}, {"delete", "configmap", "a"}, {"rollout", "status", "deployment", "none"},
		{"auth", "can-i", "get", "pods", "--as", "nobody"}, {"config", "current-context"}, {"config", "use-context", "none"},
		{"completion", "bash"}, {"options"}, {"explain", "pods.spec.nodeName"}, {"plugin", "list"}, {"get", "--help"},
	} {
		theirs, ours := exec.Command(apart, args...), exec.Command("/proc/self/exe", args...)
		theirs.Env, ours.Env = k.env, append(k.env, programEnv+"=1")
		want := end(theirs)
		if got := end(ours); got != want && !changes(args) {
			t.Errorf("kubectl %q\n---- proa kubectl\n%s\n---- kubectl\n%s", args, got, want)
		}
	}
}

// changes tells whether a command finds another world when it is run again; it
// is in the list for what comes after it.
func changes(args []string) bool {
	return len(args) > 1 && (args[0] == "create" || args[0] == "delete") && args[1] == "configmap"
}

func end(cmd *exec.Cmd) string {
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	state := "exit status 0"
	var exit *exec.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		state = exit.Error()
	} else if err != nil {
		state = err.Error()
	}
	return out.String() + "---- errors\n" + errOut.String() + "---- " + state
}

func asProgram() int { return cli.Main(append([]string{"kubectl"}, os.Args[1:]...)) }
