package golden

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"slices"
	"testing"

	componentcli "k8s.io/component-base/cli"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"proa/cli"
)

// programEnv makes the test binary be `proa kubectl`, as a program ("proa"), or
// kubectl as its authors' main is ("apart").
const programEnv = "PROA_GOLDEN_PROGRAM"

// TestProgram compares `proa kubectl` with kubectl by itself: what they print,
// where to, and how they end.
func TestProgram(t *testing.T) {
	k := newSession(t, start(t), "program")
	for _, args := range [][]string{
		{}, {"nope"}, {"get", "pods", "--foo"}, {"get", "pods", "none"}, {"get", "namespaces", "-o", "name"}, {"apply", "-f", "nowhere.yaml"},
		{"auth", "can-i", "get", "pods", "--as", "nobody"}, {"config", "use-context", "none"}, {"plugin", "list"}, {"get", "--help"},
	} {
		want := end(k.program("apart", args...))
		if got := end(k.program("proa", args...)); got != want {
			t.Errorf("kubectl %q\n---- proa kubectl\n%s\n---- kubectl\n%s", args, got, want)
		}
	}
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

// program is the test binary as a program.
func (k *session) program(which string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "kubectl"
	cmd.Env = slices.Concat(os.Environ(), k.env, []string{programEnv + "=" + which})
	return cmd
}

func asProgram() int { return cli.Main(append([]string{"kubectl"}, os.Args[1:]...)) }

func apart() {
	cmdutil.CheckErr(componentcli.RunNoErrOutput(kubectlcmd.NewDefaultKubectlCommand()))
	os.Exit(0)
}
