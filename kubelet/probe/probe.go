// Package probe asks containers how they are, as their probes say: by a command,
// HTTP, TCP or the gRPC health protocol.
package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Target is the container that is asked.
type Target struct {
	Container *corev1.Container
	PodIP     string
	// Exec runs a command in it and returns what it printed. A command that
	// exits with another code than 0 gives an error with ExitStatus() int.
	Exec func(ctx context.Context, cmd []string, timeout time.Duration) ([]byte, error)
}

// Failed is an answer that says "not well"; every other error means that there
// was no answer to go by (the probe "errored").
type Failed string

func (f Failed) Error() string { return string(f) }

const (
	maxBody   = 10 << 10
	userAgent = "kube-probe/1.37"
)

// Run asks once. It returns nil if all is well, Failed if not.
func Run(ctx context.Context, h *corev1.ProbeHandler, timeout time.Duration, t Target) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case h.Exec != nil:
		return runExec(ctx, h.Exec.Command, timeout, t)
	case h.HTTPGet != nil:
		return Get(ctx, h.HTTPGet, t)
	case h.TCPSocket != nil:
		return dial(ctx, h.TCPSocket, t)
	case h.GRPC != nil:
		return check(ctx, h.GRPC, t)
	}
	return fmt.Errorf("missing probe handler for %s", t.Container.Name)
}

func runExec(ctx context.Context, cmd []string, timeout time.Duration, t Target) error {
	out, err := t.Exec(ctx, cmd, timeout)
	var exit interface{ ExitStatus() int }
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		return Failed(out)
	case errors.Is(err, context.DeadlineExceeded), status.Code(err) == codes.DeadlineExceeded:
		return Failed(fmt.Sprintf("command timed out: %q timed out after %s", cmd, timeout))
	}
	return err
}

// Port resolves a probe's or hook's port, by number or by name.
func Port(p intstr.IntOrString, c *corev1.Container) (int, error) {
	n := p.IntValue()
	if p.Type == intstr.String {
		for _, cp := range c.Ports {
			if cp.Name == p.StrVal {
				n = int(cp.ContainerPort)
			}
		}
	}
	if n <= 0 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", p.String())
	}
	return n, nil
}

// transport trusts any certificate, as the API promises, and keeps no connection:
// each probe is a new one.
var transport = &http.Transport{
	TLSClientConfig:    &tls.Config{InsecureSkipVerify: true},
	DisableKeepAlives:  true,
	DisableCompression: true,
	Proxy:              nil,
}

// Get asks by HTTP. Redirects within the host are followed, others count as
// success.
func Get(ctx context.Context, g *corev1.HTTPGetAction, t Target) error {
	req, err := request(ctx, g, t)
	if err != nil {
		return err
	}
	c := &http.Client{Transport: transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if next.URL.Hostname() != via[0].URL.Hostname() {
			return http.ErrUseLastResponse
		}
		if len(via) >= 10 {
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}}
	resp, err := c.Do(req)
	if err != nil {
		return Failed(err.Error())
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody)); err != nil && ctx.Err() != nil {
		return Failed(err.Error())
	}
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return Failed(fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode))
	}
	return nil
}

func request(ctx context.Context, g *corev1.HTTPGetAction, t Target) (*http.Request, error) {
	port, err := Port(g.Port, t.Container)
	if err != nil {
		return nil, err
	}
	host := g.Host
	if host == "" {
		host = t.PodIP
	}
	u, err := url.Parse(g.Path)
	if err != nil {
		u = &url.URL{Path: g.Path}
	}
	u.Scheme, u.Host = "http", net.JoinHostPort(host, strconv.Itoa(port))
	if g.Scheme == corev1.URISchemeHTTPS {
		u.Scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept", "*/*")
	for _, h := range g.HTTPHeaders {
		if http.CanonicalHeaderKey(h.Name) == "Host" {
			req.Host = h.Value
		}
		req.Header.Add(h.Name, h.Value)
	}
	return req, nil
}

func dial(ctx context.Context, a *corev1.TCPSocketAction, t Target) error {
	port, err := Port(a.Port, t.Container)
	if err != nil {
		return err
	}
	host := a.Host
	if host == "" {
		host = t.PodIP
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return Failed(err.Error())
	}
	return conn.Close()
}

func check(ctx context.Context, a *corev1.GRPCAction, t Target) error {
	target := net.JoinHostPort(t.PodIP, strconv.Itoa(int(a.Port)))
	conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUserAgent(userAgent), grpc.WithNoProxy())
	if err != nil {
		return err
	}
	defer conn.Close()
	req := &grpc_health_v1.HealthCheckRequest{}
	if a.Service != nil {
		req.Service = *a.Service
	}
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, req)
	switch {
	case err == nil && resp.Status == grpc_health_v1.HealthCheckResponse_SERVING:
		return nil
	case err == nil:
		return Failed(fmt.Sprintf("service unhealthy (responded with %q)", resp.Status))
	case status.Code(err) == codes.Unimplemented:
		return Failed("this server does not implement the grpc health protocol (grpc.health.v1.Health): " + err.Error())
	case ctx.Err() != nil:
		return Failed(fmt.Sprintf("timeout: failed to connect service %q within its time: %v", target, ctx.Err()))
	}
	return Failed("error: health rpc probe failed: " + err.Error())
}
