// Package upstream starts Kubernetes' own control plane, to be measured beside
// proa and to record what kubectl shows of it: etcd, kube-apiserver and, where
// asked for, kube-controller-manager, on loopback, with the flags that kubeadm's
// clusters have. `make upstream` builds the programs.
package upstream

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"proa/auth/pki"
)

// Config is what a Plane is made of.
type Config struct {
	// Bin is where the programs are: etcd, kube-apiserver and
	// kube-controller-manager.
	Bin string
	// Dir is an empty directory for state, keys and logs.
	Dir string
	// Controllers starts kube-controller-manager, too.
	Controllers bool
}

// Plane is a running control plane.
type Plane struct {
	Kubeconfig string
	cfg        Config
	cmds       []*exec.Cmd
}

// Start returns once the API is ready. After an error nothing runs.
func Start(ctx context.Context, cfg Config) (*Plane, error) {
	p := &Plane{cfg: cfg, Kubeconfig: filepath.Join(cfg.Dir, "admin.kubeconfig")}
	if err := p.start(ctx); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// PIDs are the processes that serve the API: etcd and kube-apiserver.
func (p *Plane) PIDs() []int { return []int{p.cmds[0].Process.Pid, p.cmds[1].Process.Pid} }

// Stop ends all processes and waits for them.
func (p *Plane) Stop() error {
	var errs []error
	for i := len(p.cmds) - 1; i >= 0; i-- {
		cmd := p.cmds[i]
		_ = cmd.Process.Signal(syscall.SIGTERM) // may have ended
		done := make(chan struct{})
		go func() { _ = cmd.Wait(); close(done) }() // how it ends says nothing here
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			errs = append(errs, fmt.Errorf("%s did not end within 10 s: %w", filepath.Base(cmd.Path), cmd.Process.Kill()))
			<-done
		}
	}
	p.cmds = nil
	return errors.Join(errs...)
}

func (p *Plane) start(ctx context.Context) error {
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	etcd, peer, api := "http://127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1], "https://127.0.0.1:"+ports[2]
	if err := p.keys(api); err != nil {
		return err
	}
	if err := p.run("etcd", "--data-dir="+p.file("etcd"), "--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer, "--log-level=error"); err != nil {
		return err
	}
	if err := p.run("kube-apiserver", p.apiFlags(etcd, ports[2])...); err != nil {
		return err
	}
	if err := p.ready(ctx); err != nil || !p.cfg.Controllers {
		return err
	}
	return p.run("kube-controller-manager", "--kubeconfig="+p.Kubeconfig, "--bind-address=127.0.0.1", "--secure-port=0", "--leader-elect=false",
		"--use-service-account-credentials", "--controllers=*", "--service-account-private-key-file="+p.file("service-account.key"),
		"--root-ca-file="+p.file("ca.crt"), "--cluster-signing-cert-file="+p.file("ca.crt"), "--cluster-signing-key-file="+p.file("ca.key"))
}

func (p *Plane) apiFlags(etcd, port string) []string {
	return []string{"--etcd-servers=" + etcd, "--secure-port=" + port, "--bind-address=127.0.0.1", "--service-cluster-ip-range=10.43.0.0/16",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--enable-bootstrap-token-auth", "--allow-privileged",
		"--client-ca-file=" + p.file("ca.crt"), "--tls-cert-file=" + p.file("server.crt"), "--tls-private-key-file=" + p.file("server.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + p.file("service-account.key"), "--service-account-signing-key-file=" + p.file("service-account.key"),
		"--requestheader-client-ca-file=" + p.file("front-proxy-ca.crt"), "--requestheader-allowed-names=" + pki.FrontProxyName,
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + p.file("front-proxy.crt"), "--proxy-client-key-file=" + p.file("front-proxy.key"),
	}
}

func (p *Plane) file(name string) string { return filepath.Join(p.cfg.Dir, name) }

// keys makes the certificates and the administrator's kubeconfig.
func (p *Plane) keys(server string) error {
	a, err := pki.Open(p.cfg.Dir)
	if err != nil {
		return err
	}
	front, err := pki.OpenFrontProxy(p.cfg.Dir)
	if err != nil {
		return err
	}
	serving, err := a.Serving("kube-apiserver", func() []string { return []string{"localhost", "127.0.0.1", "kubernetes.default.svc"} }).GetCertificate(nil)
	if err != nil {
		return err
	}
	key, err := x509.MarshalECPrivateKey(serving.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		return err
	}
	frontCert, frontKey, err := front.Client(pki.FrontProxyName)
	if err != nil {
		return err
	}
	_, err = a.Kubeconfig(p.Kubeconfig, server, "kubernetes-admin", "system:masters")
	return errors.Join(err,
		p.write("server.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: serving.Certificate[0]})),
		p.write("server.key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key})),
		p.write("front-proxy.crt", frontCert), p.write("front-proxy.key", frontKey))
}

func (p *Plane) write(name string, data []byte) error { return os.WriteFile(p.file(name), data, 0o600) }

// run starts one program; what it says is in a file named after it.
func (p *Plane) run(program string, args ...string) error {
	log, err := os.Create(p.file(program + ".log"))
	if err != nil {
		return err
	}
	defer log.Close() // the program has its own descriptor of it
	cmd := exec.Command(filepath.Join(p.cfg.Bin, program), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w: `make upstream` builds it", err)
	}
	p.cmds = append(p.cmds, cmd)
	return nil
}

// ready waits for /readyz.
func (p *Plane) ready(ctx context.Context) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", p.Kubeconfig)
	if err != nil {
		return err
	}
	c, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return err
	}
	deadline := time.After(2 * time.Minute)
	for {
		resp, err := c.Get(cfg.Host + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return fmt.Errorf("kube-apiserver was not ready within two minutes: %w; its log ends with\n%s", err, tail(p.file("kube-apiserver.log")))
		case <-time.After(100 * time.Millisecond): // upstream tells nobody when it is ready
		}
	}
}

func tail(file string) string {
	data, _ := os.ReadFile(file) // nothing to say then
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}

func freePorts(n int) (ports []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all at once, so that no port comes twice
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	return ports, nil
}
