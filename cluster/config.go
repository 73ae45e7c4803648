// Package cluster is the daemon: a control plane and a node in one process, put
// together by hand. It sees every room; nothing but the command line and tests
// sees it. A Cluster is a struct, so a test can run several in one process.
package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"proa/apiserver/audit"
	"proa/control"
)

// Config is what `proa up` is told. The zero value of a field stands for its
// default.
type Config struct {
	// DataDir holds what must survive a reboot, RunDir what must not.
	DataDir, RunDir string
	// Kubeconfig is where the administrator's kubeconfig is written;
	// <DataDir>/kubeconfig by default.
	Kubeconfig string
	// BindAddress and APIPort are where the API listens.
	BindAddress string
	APIPort     int
	// NodeName is this machine's node; NoNode runs a control plane alone.
	NodeName string
	NoNode   bool
	// PodCIDR and ServiceCIDR are the cluster's address ranges.
	PodCIDR, ServiceCIDR netip.Prefix
	// ClusterDomain is the DNS suffix of Services and pods.
	ClusterDomain string
	// Audit says what is recorded of requests, and where.
	Audit audit.Config
	// MaxInFlight is how many requests of ordinary size the API works on at
	// once; zero is upstream's default.
	MaxInFlight int
	// EnablePlugins and DisablePlugins name admission plugins that are to be on or
	// off other than by default.
	EnablePlugins, DisablePlugins []string
	// AdmissionConfig is a file of kind AdmissionConfiguration; empty has none.
	AdmissionConfig string
	// Who names further files that say who may.
	Who WhoConfig
	// EncryptionConfig is a file of kind EncryptionConfiguration; empty has
	// Secrets encrypted by a key in DataDir.
	EncryptionConfig string
	// Flags are what the process was started with, for those who ask the API.
	Flags map[string]string
	// RequestHeader names proxies in front of the API.
	RequestHeader RequestHeader

	// Datastore is an etcd that holds the state instead of the data directory,
	// if it has endpoints.
	Datastore Datastore
	// EventTTL is how long Events are kept; an hour if zero.
	EventTTL time.Duration
	// leaseDuration is how long other servers wait for the one that runs the
	// controllers; zero is the usual.
	leaseDuration time.Duration

	Log *slog.Logger
	// Progress is told of each step as it is done; nil for nobody.
	Progress func(step string)
}

// Datastore is how an external etcd is reached; see etcd.Config.
type Datastore struct {
	Endpoints     []string
	CA, Cert, Key string
	Prefix        string
}

// DataEntries are the names that an instance makes in its data directory.
var DataEntries = []string{secretsFile, "images", "kubeconfig", "kubelet", "lock", "pki", "restoring", "runtime", "store"}

// Defaults of Config.
const (
	DefaultAPIPort       = 6443
	DefaultClusterDomain = "cluster.local"
)

var (
	DefaultPodCIDR     = netip.MustParsePrefix("10.42.0.0/16")
	DefaultServiceCIDR = netip.MustParsePrefix("10.43.0.0/16")
)

// Complete fills in defaults and says what is wrong with the rest, naming the
// flag.
func (c Config) Complete() (Config, error) {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&c.DataDir, control.DefaultDataDir)
	set(&c.RunDir, control.DefaultRunDir)
	set(&c.Kubeconfig, filepath.Join(c.DataDir, "kubeconfig"))
	set(&c.BindAddress, "0.0.0.0")
	set(&c.ClusterDomain, DefaultClusterDomain)
	if c.APIPort == 0 {
		c.APIPort = DefaultAPIPort
	}
	if !c.PodCIDR.IsValid() {
		c.PodCIDR = DefaultPodCIDR
	}
	if !c.ServiceCIDR.IsValid() {
		c.ServiceCIDR = DefaultServiceCIDR
	}
	if c.NodeName == "" {
		host, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("the machine has no host name (%w): give the node one with --node-name", err)
		}
		c.NodeName = strings.ToLower(host)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	return c, c.validate()
}

func (c Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for flag, dir := range map[string]string{"--data-dir": c.DataDir, "--run-dir": c.RunDir, "--kubeconfig": c.Kubeconfig} {
		if !filepath.IsAbs(dir) {
			bad("%s must be an absolute path, not %q", flag, dir)
		}
	}
	if c.DataDir == c.RunDir {
		bad("--data-dir and --run-dir must differ: the one is kept over a reboot, the other is not")
	}
	// A unix socket's path holds 107 bytes; the longest below the run directory
	// is a pod's.
	if len(c.RunDir) > 60 {
		bad("--run-dir must be at most 60 characters long, because sockets are made in it; %q has %d", c.RunDir, len(c.RunDir))
	}
	if _, err := netip.ParseAddr(c.BindAddress); err != nil {
		bad("--bind-address must be an IP address, not %q", c.BindAddress)
	}
	if c.APIPort < 1 || c.APIPort > 65535 {
		bad("--api-port must be between 1 and 65535, not %d", c.APIPort)
	}
	for _, problem := range validation.IsDNS1123Subdomain(c.NodeName) {
		bad("--node-name %q: %s", c.NodeName, problem)
	}
	for _, problem := range validation.IsDNS1123Subdomain(c.ClusterDomain) {
		bad("--cluster-domain %q: %s", c.ClusterDomain, problem)
	}
	if c.EventTTL < 0 {
		bad("--event-ttl must be positive, not %v", c.EventTTL)
	}
	errs = append(errs, ranges(c.PodCIDR, c.ServiceCIDR))
	return errors.Join(errs...)
}

func ranges(pods, services netip.Prefix) error {
	switch {
	case pods != pods.Masked():
		return fmt.Errorf("--pod-cidr %s is not a network address: use %s", pods, pods.Masked())
	case services != services.Masked():
		return fmt.Errorf("--service-cidr %s is not a network address: use %s", services, services.Masked())
	case !pods.Addr().Is4() || !services.Addr().Is4():
		return errors.New("--pod-cidr and --service-cidr must be IPv4 ranges")
	case pods.Bits() > 24:
		return fmt.Errorf("--pod-cidr %s is too small: a node takes a /24 of it", pods)
	case services.Bits() < 12 || services.Bits() > 27:
		return fmt.Errorf("--service-cidr %s must be between a /12 and a /27", services)
	case pods.Overlaps(services):
		return fmt.Errorf("--pod-cidr %s and --service-cidr %s overlap", pods, services)
	}
	return nil
}

// serviceAddress is the nth address of the Service range: 1 is the API's, 10
// is DNS's.
func (c Config) serviceAddress(n int) netip.Addr {
	a := c.ServiceCIDR.Addr()
	for range n {
		a = a.Next()
	}
	return a
}

// nodePodCIDR is this node's part of the pod range: the first /24, until there
// are more nodes to share with.
func (c Config) nodePodCIDR() netip.Prefix { return netip.PrefixFrom(c.PodCIDR.Addr(), 24) }
