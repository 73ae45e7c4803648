package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"proa/api"
	"proa/api/openapi"
	"proa/apiserver"
	"proa/apiserver/audit"
	"proa/auth"
	"proa/auth/pki"
	"proa/auth/rbac"
	"proa/controllers"
	"proa/internal/h2"
	"proa/reconcile"
	"proa/scheduler"
	"proa/store"
	"proa/store/pebble"
)

func (c *Cluster) openAuthority(context.Context) (err error) {
	dir := filepath.Join(c.cfg.DataDir, "pki")
	if c.authority, err = pki.Open(dir); err != nil {
		return err
	}
	c.frontProxy, err = pki.OpenFrontProxy(dir)
	return err
}

func (c *Cluster) openStore(context.Context) error {
	sealer, err := c.openSecrets()
	if err != nil {
		return err
	}
	config := store.Config{Codec: apiserver.NewCodec(api.Builtin()), Sealer: sealer, Registry: api.Builtin(), Log: c.cfg.Log}
	if c.shared() {
		config.Remote, err = c.openEtcd()
	} else {
		config.Engine, err = pebble.Open(pebble.Config{Dir: filepath.Join(c.cfg.DataDir, "store"), Log: c.cfg.Log})
	}
	if err != nil {
		return err
	}
	if c.store, err = store.New(config); err != nil { // which has closed what it was given
		return err
	}
	c.parts.Closer("datastore", c.store.Close)
	c.cfg.Progress("datastore open")
	return nil
}

// startAPI listens before it serves, so that a taken port is found at once.
func (c *Cluster) startAPI(context.Context) error {
	if err := c.openWho(); err != nil {
		return err
	}
	proxies, proxyCAs, err := c.frontProxies()
	if err != nil {
		return err
	}
	recorder, err := audit.Open(c.cfg.Audit, time.Now, c.cfg.Log)
	if err != nil {
		return err
	}
	c.parts.Closer("audit log", recorder.Close)
	c.api, err = apiserver.New(apiserver.Config{
		Peer:  c.peer(),
		Store: c.store, Registry: api.Builtin(), Tokens: c.tokens, MaxInFlight: c.cfg.MaxInFlight, EventTTL: c.cfg.EventTTL, Audit: recorder.Auditor,
		Authenticator: c.authenticator(proxies), Reviewer: c.reviewer, Anonymous: c.anonymous, Authorizer: c.authorizer,
		IncompleteRules: c.cfg.Who.Authorization != "",
		ServiceCIDR:     c.cfg.ServiceCIDR, NodePorts: [2]int{30000, 32767}, ClusterDomain: c.cfg.ClusterDomain, TaintNodes: true,
		EnablePlugins: c.cfg.EnablePlugins, DisablePlugins: c.cfg.DisablePlugins, AdmissionConfig: c.cfg.AdmissionConfig,
		ExternalHost: net.JoinHostPort(c.advertised().String(), strconv.Itoa(c.cfg.APIPort)),
		OpenAPI:      openapi.New(api.Builtin()), Node: c.nodeHandler, Bootstrap: slices.Concat(rbac.Bootstrap(), c.dnsService(), tracking()), Log: c.cfg.Log,
		Flags:      c.cfg.Flags,
		Checks:     c.secretsHealthy,
		FrontProxy: c.frontProxy.Identity(pki.FrontProxyName).Certificate, ExtensionAuthentication: c.extensionAuthentication(proxies, proxyCAs),
	})
	if err != nil {
		return err
	}
	c.trackTokens()
	l, err := net.Listen("tcp", net.JoinHostPort(c.cfg.BindAddress, strconv.Itoa(c.cfg.APIPort)))
	if err != nil {
		return fmt.Errorf("%w: choose another port with --api-port", err)
	}
	c.parts.Go("audit", recorder.Run)
	c.parts.Go("API objects", c.api.Run)
	c.parts.Go("API", func(ctx context.Context) error { return c.serveAPI(ctx, l, c.clientAuthorities(proxyCAs)) })
	if _, err := c.authority.Kubeconfig(c.cfg.Kubeconfig, c.url(), "kubernetes-admin", auth.GroupMasters); err != nil {
		return fmt.Errorf("writing the kubeconfig: %w", err)
	}
	c.cfg.Progress("API at " + c.url())
	return nil
}

func (c *Cluster) serveAPI(ctx context.Context, l net.Listener, clients *x509.CertPool) error {
	cert := c.authority.Serving("kube-apiserver", c.names)
	srv := &http.Server{
		Handler: c.api.Handler(),
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, GetCertificate: cert.GetCertificate,
			ClientAuth: tls.RequestClientCert, ClientCAs: clients, NextProtos: []string{"h2", "http/1.1"},
		},
		ErrorLog:          slog.NewLogLogger(c.cfg.Log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 1 << 20,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 250},
	}
	// Requests under way may end by themselves; only what lasts is cut off.
	base, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	srv.BaseContext = func(net.Listener) context.Context { return base }
	defer context.AfterFunc(ctx, c.api.Drain)()
	h2.Configure(srv)
	return serveUntil(ctx, srv, func() error { return srv.ServeTLS(h2.Gather(l), "", "") })
}

// drain is how long requests may take to end once the server stops; watches
// are cut off at once by their context.
const drain = 2 * time.Second

func serveUntil(ctx context.Context, srv *http.Server, serve func() error) error {
	if srv.BaseContext == nil {
		srv.BaseContext = func(net.Listener) context.Context { return ctx }
	}
	stopped := make(chan error, 1)
	go func() { stopped <- serve() }()
	select {
	case err := <-stopped:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	err := srv.Shutdown(end)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	<-stopped
	return err
}

// startControllers runs what must run once in a cluster.
func (c *Cluster) startControllers(context.Context) error {
	manager := c.Client("system:kube-controller-manager")
	c.api.Metrics().MustRegister(reconcile.Metrics()...)
	c.once("controllers", "kube-controller-manager", manager, func(ctx context.Context) error {
		all := controllers.All(controllers.Config{RootCA: c.authority.PEM(), ClusterCIDR: c.cfg.PodCIDR,
			SignToken: c.tokens.Legacy, Authority: c.authority, May: c.may})
		return reconcile.Run(ctx, manager, c.cfg.Log, all...)
	})
	binder := c.Client("system:kube-scheduler")
	c.once("scheduler", "kube-scheduler", binder, func(ctx context.Context) error {
		return scheduler.New(scheduler.Config{Client: binder, Name: "default-scheduler", Log: c.cfg.Log}).Run(ctx)
	})
	return nil
}

// dnsAddress is the cluster's resolver, on every node.
func (c *Cluster) dnsAddress() netip.Addr { return c.cfg.serviceAddress(10) }

// dnsService is the name that the resolver goes by. Each node answers on the
// Service's own address, so its one endpoint is that address.
func (c *Cluster) dnsService() []api.Object {
	const name, port = "kube-dns", 53
	labels := map[string]string{"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}
	meta := metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: name, Labels: labels}
	svc := &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{ClusterIP: c.dnsAddress().String()}}
	slice := &discoveryv1.EndpointSlice{ObjectMeta: *meta.DeepCopy(), AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{c.dnsAddress().String()},
			Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}}}}
	slice.Labels[discoveryv1.LabelServiceName] = name
	slice.Labels[discoveryv1.LabelManagedBy] = "proa"
	for _, p := range []struct {
		name  string
		proto corev1.Protocol
	}{{"dns", corev1.ProtocolUDP}, {"dns-tcp", corev1.ProtocolTCP}} {
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Name: p.name, Protocol: p.proto, Port: port})
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: ptr.To(p.name), Protocol: ptr.To(p.proto), Port: ptr.To[int32](port)})
	}
	return []api.Object{svc, slice}
}
