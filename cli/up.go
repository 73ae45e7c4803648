package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"proa/apiserver/fairness"
	"proa/cluster"
)

type upFlags struct {
	cfg                  cluster.Config
	podCIDR, serviceCIDR string
	output, logLevel     string
}

func upCommand() *cobra.Command {
	var f upFlags
	cmd := &cobra.Command{
		Use: "up", Short: "Start the cluster here and stay in the foreground", Args: cobra.NoArgs,
		Long: `Start a cluster on this machine: the control plane and, unless --no-node, a
node that runs pods. It stays in the foreground; Ctrl-C (or SIGTERM, or "proa
down") stops it. Pods run on and are found again by the next "up".`,
		Example: `  sudo proa up
  proa up --no-node --data-dir ./data --run-dir ./run --api-port 7443
  sudo proa up -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	d := cluster.Config{}
	fl := cmd.Flags()
	fl.StringVar(&f.cfg.DataDir, "data-dir", "/var/lib/proa", "what must survive a reboot")
	fl.StringVar(&f.cfg.RunDir, "run-dir", "/run/proa", "sockets and state that a reboot clears")
	fl.StringVar(&f.cfg.Kubeconfig, "kubeconfig", "", "where to write the administrator's kubeconfig (default <data-dir>/kubeconfig)")
	fl.StringVar(&f.cfg.BindAddress, "bind-address", "0.0.0.0", "the address that the API listens on")
	fl.IntVar(&f.cfg.APIPort, "api-port", cluster.DefaultAPIPort, "the port that the API listens on")
	fl.StringVar(&f.cfg.NodeName, "node-name", "", "the node's name (default: the host name)")
	fl.BoolVar(&f.cfg.NoNode, "no-node", d.NoNode, "run the control plane alone; needs no root")
	fl.StringVar(&f.podCIDR, "pod-cidr", cluster.DefaultPodCIDR.String(), "the range of pod addresses")
	fl.StringVar(&f.serviceCIDR, "service-cidr", cluster.DefaultServiceCIDR.String(), "the range of Service addresses")
	fl.StringVar(&f.cfg.ClusterDomain, "cluster-domain", cluster.DefaultClusterDomain, "the DNS suffix of Services and pods")
	auditFlags(fl, &f.cfg.Audit)
	fl.IntVar(&f.cfg.MaxInFlight, "max-requests-inflight", fairness.DefaultSeats, "how many requests of ordinary size the API works on at once; priority and fairness shares them out")
	fl.DurationVar(&f.cfg.EventTTL, "event-ttl", time.Hour, "how long Events are kept")
	fl.StringSliceVar(&f.cfg.EnablePlugins, "enable-admission-plugins", nil, "admission plugins to turn on besides those that are on by default")
	fl.StringSliceVar(&f.cfg.DisablePlugins, "disable-admission-plugins", nil, "admission plugins to turn off")
	fl.StringVar(&f.cfg.AdmissionConfig, "admission-control-config-file", "", "an AdmissionConfiguration file, for admission plugins that take one")
	fl.StringVar(&f.cfg.EncryptionConfig, "encryption-provider-config", "", "an EncryptionConfiguration file, followed while running (default: Secrets are encrypted by a key in the data directory)")
	requestHeaderFlags(fl, &f.cfg.RequestHeader)
	datastoreFlags(fl, &f.cfg.Datastore)
	whoFlags(fl, &f.cfg.Who)
	fl.StringVar(&f.logLevel, "log-level", "warn", "debug, info, warn or error")
	outputFlag(cmd, &f.output)
	return cmd
}

func datastoreFlags(fl *pflag.FlagSet, d *cluster.Datastore) {
	fl.StringSliceVar(&d.Endpoints, "datastore-endpoints", nil, "client URLs of an etcd that holds the cluster's state, for several servers (default: the data directory)")
	fl.StringVar(&d.CA, "datastore-ca", "", "authorities (PEM) that etcd's certificate is checked with")
	fl.StringVar(&d.Cert, "datastore-cert", "", "the certificate (PEM) that etcd is shown")
	fl.StringVar(&d.Key, "datastore-key", "", "the certificate's key (PEM)")
	fl.StringVar(&d.Prefix, "datastore-prefix", "", "what this cluster's keys in etcd begin with (default /proa)")
}

// requestHeaderFlags are those of kube-apiserver.
func requestHeaderFlags(fl *pflag.FlagSet, h *cluster.RequestHeader) {
	fl.StringVar(&h.ClientCAFile, "requestheader-client-ca-file", "", "authorities (PEM) of proxies that may say in headers whom they speak for")
	fl.StringSliceVar(&h.AllowedNames, "requestheader-allowed-names", nil, "common names of such proxies (default: all that the authorities certify)")
	fl.StringSliceVar(&h.UserHeaders, "requestheader-username-headers", nil, "headers that name the user (default X-Remote-User)")
	fl.StringSliceVar(&h.UIDHeaders, "requestheader-uid-headers", nil, "headers that name the user's UID (default X-Remote-Uid)")
	fl.StringSliceVar(&h.GroupHeaders, "requestheader-group-headers", nil, "headers that name the user's groups (default X-Remote-Group)")
	fl.StringSliceVar(&h.ExtraPrefixes, "requestheader-extra-headers-prefix", nil, "prefixes of headers with the user's extra values (default X-Remote-Extra-)")
}

func whoFlags(fl *pflag.FlagSet, w *cluster.WhoConfig) {
	fl.StringVar(&w.Authentication, "authentication-config", "", "an AuthenticationConfiguration: OpenID Connect issuers, anonymous access")
	fl.StringVar(&w.Authorization, "authorization-config", "", "an AuthorizationConfiguration: authorizers in order, webhooks among them")
	fl.StringVar(&w.TokenWebhook, "authentication-token-webhook-config-file", "", "a kubeconfig that leads to a webhook that knows tokens")
	fl.StringVar(&w.Tokens, "token-auth-file", "", "a CSV file of tokens: token,user,uid,\"group1,group2\"")
}

func (f *upFlags) config(cmd *cobra.Command) (cfg cluster.Config, err error) {
	cfg = f.cfg
	cfg.DataDir, cfg.RunDir, cfg.Kubeconfig = abs(cfg.DataDir), abs(cfg.RunDir), abs(cfg.Kubeconfig)
	for _, file := range []*string{&cfg.Who.Authentication, &cfg.Who.Authorization, &cfg.Who.TokenWebhook, &cfg.Who.Tokens} {
		*file = abs(*file)
	}
	cfg.EncryptionConfig = abs(cfg.EncryptionConfig)
	cfg.Audit.PolicyFile, cfg.Audit.WebhookConfig = abs(cfg.Audit.PolicyFile), abs(cfg.Audit.WebhookConfig)
	if cfg.Audit.Log.Path != "-" {
		cfg.Audit.Log.Path = abs(cfg.Audit.Log.Path)
	}
	for _, file := range []*string{&cfg.Datastore.CA, &cfg.Datastore.Cert, &cfg.Datastore.Key} {
		*file = abs(*file)
	}
	if cfg.PodCIDR, err = netip.ParsePrefix(f.podCIDR); err != nil {
		return cfg, fmt.Errorf("--pod-cidr must be a range like 10.42.0.0/16, not %q", f.podCIDR)
	}
	if cfg.ServiceCIDR, err = netip.ParsePrefix(f.serviceCIDR); err != nil {
		return cfg, fmt.Errorf("--service-cidr must be a range like 10.43.0.0/16, not %q", f.serviceCIDR)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return cfg, fmt.Errorf("--log-level must be debug, info, warn or error, not %q", f.logLevel)
	}
	cfg.Flags = map[string]string{}
	cmd.Flags().VisitAll(func(f *pflag.Flag) { cfg.Flags[f.Name] = f.Value.String() })
	cfg.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
	return cfg, nil
}

func (f *upFlags) run(cmd *cobra.Command) error {
	cfg, err := f.config(cmd)
	if err != nil {
		return err
	}
	say := printer{out: cmd.OutOrStdout(), quiet: f.output == "json"}
	start := time.Now()
	cfg.Progress = func(step string) { say.step(step, time.Since(start)) }
	c, err := cluster.New(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	select {
	case err := <-done:
		return stopped(err)
	case <-c.Ready():
	}
	f.announce(say, c)
	err = <-done
	say.line("stopped; pods run on: `proa up` finds them again, `proa down --pods` stops them")
	return stopped(err)
}

// stopped makes a stop that the user asked for no error.
func stopped(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// readyLine is what -o json prints.
type readyLine struct {
	Ready      bool    `json:"ready"`
	Seconds    float64 `json:"seconds"`
	Server     string  `json:"server"`
	Kubeconfig string  `json:"kubeconfig"`
	Node       string  `json:"node,omitempty"`
	DataDir    string  `json:"dataDir"`
	RunDir     string  `json:"runDir"`
	PID        int     `json:"pid"`
}

func (f *upFlags) announce(say printer, c *cluster.Cluster) {
	i := c.Instance()
	linked := linkKubeconfig(i.Kubeconfig)
	if f.output == "json" {
		_ = printJSONLine(say.out, readyLine{true, c.ReadyIn().Seconds(), i.Server, i.Kubeconfig, i.Node, i.DataDir, i.RunDir, i.PID})
		return
	}
	say.line(fmt.Sprintf("ready in %.2f s", c.ReadyIn().Seconds()))
	if linked {
		say.line("  kubectl get nodes        ~/.kube/config points at this cluster")
	} else {
		say.line("  export KUBECONFIG=" + i.Kubeconfig)
	}
	say.line("  proa kubectl get nodes   needs nothing else installed")
	say.line("  Ctrl-C stops it")
}

// linkKubeconfig points ~/.kube/config at the file where the user has none, and
// tells whether it points there. The user of sudo is meant, not root.
func linkKubeconfig(file string) bool {
	home, uid, gid := homeOf()
	if home == "" {
		return false
	}
	link := filepath.Join(home, ".kube", "config")
	if to, err := os.Readlink(link); err == nil && to == file {
		return true
	}
	if _, err := os.Lstat(link); !errors.Is(err, os.ErrNotExist) {
		return false
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o750); err != nil {
		return false
	}
	if os.Symlink(file, link) != nil {
		return false
	}
	if uid >= 0 {
		_ = os.Lchown(filepath.Dir(link), uid, gid)
		_ = os.Lchown(link, uid, gid)
		_ = os.Chown(file, uid, gid)
	}
	return true
}

func homeOf() (home string, uid, gid int) {
	if name := os.Getenv("SUDO_USER"); name != "" {
		if u, err := user.Lookup(name); err == nil {
			uid, _ = strconv.Atoi(u.Uid)
			gid, _ = strconv.Atoi(u.Gid)
			return u.HomeDir, uid, gid
		}
	}
	home, _ = os.UserHomeDir()
	return home, -1, -1
}

// unlinkKubeconfig takes the link away again.
func unlinkKubeconfig(file string) {
	home, _, _ := homeOf()
	link := filepath.Join(home, ".kube", "config")
	if to, err := os.Readlink(link); err == nil && to == file {
		_ = os.Remove(link)
	}
}

// printer shows progress to a person, and nothing to a program.
type printer struct {
	out   io.Writer
	quiet bool
}

func (p printer) line(text string) {
	if !p.quiet {
		fmt.Fprintln(p.out, text)
	}
}

func (p printer) step(text string, after time.Duration) {
	p.line(fmt.Sprintf("  %-44s %5.2f s", text, after.Seconds()))
}
