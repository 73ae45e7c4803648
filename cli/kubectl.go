package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/component-base/cli"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"proa/control"
)

func kubectlHelp() *cobra.Command {
	return &cobra.Command{
		Use: "kubectl", Short: "kubectl, pointed at this cluster", DisableFlagParsing: true,
		Example: `  proa kubectl get pods -A
  proa kubectl apply -f app.yaml`,
		RunE: func(_ *cobra.Command, args []string) error { return exitCode(kubectl(args)) },
	}
}

// kubectl runs the embedded kubectl. Without a KUBECONFIG it is pointed at the
// cluster that runs here; with several, KUBECONFIG or --kubeconfig chooses.
func kubectl(args []string) int {
	if os.Getenv("KUBECONFIG") == "" {
		i, err := control.Find("", "")
		if err == nil {
			os.Setenv("KUBECONFIG", i.Kubeconfig)
		} else if err != control.ErrNone {
			fmt.Fprintln(os.Stderr, "proa:", err)
			return 1
		}
	}
	os.Args = append([]string{"kubectl"}, args...)
	cmd := kubectlcmd.NewDefaultKubectlCommandWithArgs(kubectlcmd.KubectlOptions{
		PluginHandler: kubectlcmd.NewDefaultPluginHandler([]string{"kubectl"}),
		Arguments:     os.Args,
		IOStreams:     genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
	})
	if err := cli.RunNoErrOutput(cmd); err != nil {
		cmdutil.CheckErr(err) // says what is wrong as kubectl does, and exits
	}
	return 0
}
