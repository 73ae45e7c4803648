package golden

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/component-base/cli"
	"k8s.io/klog/v2"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
)

const (
	twinEnv = "PROA_GOLDEN_TWIN"
	// twinAnswers is how many commands one process runs: kubectl's packages keep
	// something of each for as long as the process lives.
	twinAnswers = 100
)

func TestMain(m *testing.M) {
	if os.Getenv(twinEnv) != "" {
		if err := answerAll(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "the embedded kubectl:", err)
			os.Exit(1)
		}
		return
	}
	switch os.Getenv(programEnv) {
	case "proa":
		os.Exit(asProgram())
	case "apart":
		apart()
	}
	os.Exit(m.Run())
}

// twins are embedded kubectls, each in a process that runs one command after
// another: starting a process for each would cost more than the command.
type twins struct{ idle chan *twin }

// newTwins makes as many as tests run beside each other. They end with the test.
func newTwins(t *testing.T) *twins {
	all := &twins{idle: make(chan *twin, runtime.GOMAXPROCS(0))}
	for range cap(all.idle) {
		all.idle <- &twin{}
	}
	t.Cleanup(func() {
		for range cap(all.idle) {
			(<-all.idle).end()
		}
	})
	return all
}

func (all *twins) ask(q question) (answer, error) {
	t := <-all.idle
	defer func() { all.idle <- t }()
	return t.ask(q)
}

type twin struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
	done int
}

// question is a command, and the environment to run it in.
type question struct{ Args, Env []string }

type answer struct {
	Out, Err string
	Code     int
}

func (t *twin) ask(q question) (a answer, err error) {
	if t.done == twinAnswers {
		t.end()
	}
	if t.cmd == nil {
		if err := t.start(); err != nil {
			return a, err
		}
	}
	t.done++
	if err := json.NewEncoder(t.in).Encode(q); err != nil {
		return a, err
	}
	if err := t.out.Decode(&a); err != nil {
		t.end()
		return a, fmt.Errorf("the embedded kubectl ended while it ran %q: %w", q.Args, err)
	}
	return a, nil
}

func (t *twin) start() error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), twinEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	*t = twin{cmd: cmd, in: in, out: json.NewDecoder(out)}
	return cmd.Start()
}

// end closes its input, which is what it ends by.
func (t *twin) end() {
	if t.cmd == nil {
		return
	}
	t.in.Close()
	_ = t.cmd.Wait() // what it had to say, it has said
	*t = twin{}
}

func answerAll(in io.Reader, out io.Writer) error {
	from, to := json.NewDecoder(in), json.NewEncoder(out)
	// What kubectl prints past its own streams must not get among the answers.
	os.Stdout = os.Stderr
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard) // transcripts leave it out
	for {
		var q question
		if err := from.Decode(&q); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		for _, e := range q.Env {
			name, value, _ := strings.Cut(e, "=")
			os.Setenv(name, value)
		}
		if err := to.Encode(run(q.Args)); err != nil {
			return err
		}
	}
}

// fatal is how the embedded kubectl ends where the program would exit.
type fatal struct {
	message string
	code    int
}

// run runs kubectl as `proa kubectl` does, but for ending the process.
func run(args []string) (a answer) {
	var o, e bytes.Buffer
	defer func() {
		if p := recover(); p != nil {
			f, ok := p.(fatal)
			if !ok {
				panic(p)
			}
			if f.message != "" && !strings.HasSuffix(f.message, "\n") {
				f.message += "\n"
			}
			e.WriteString(f.message)
			a.Code = f.code
		}
		a.Out, a.Err = o.String(), e.String()
	}()
	cmdutil.BehaviorOnFatal(func(message string, code int) { panic(fatal{message, code}) })
	cmd := kubectlcmd.NewDefaultKubectlCommandWithArgs(kubectlcmd.KubectlOptions{
		PluginHandler: kubectlcmd.NewDefaultPluginHandler(nil),
		Arguments:     append([]string{"kubectl"}, args...),
		IOStreams:     genericiooptions.IOStreams{In: strings.NewReader(""), Out: &o, ErrOut: &e},
	})
	cmd.SetArgs(args)
	cmd.SetOut(&o)
	cmd.SetErr(&e)
	cmdutil.CheckErr(cli.RunNoErrOutput(cmd))
	return a
}
