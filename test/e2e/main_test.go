// Package e2e runs the whole cluster as a user would: bin/proa, kubectl, real
// containers. It lives in a network and mount namespace of its own, so that it
// leaves the machine alone, and ends with a check that nothing is left behind.
package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	inside   = "PROA_E2E_INSIDE"
	hostAddr = "192.168.77.10"
	// instances is where a machine's instances find each other.
	instances = "/run/proa-instances"
	// outsideName is a name that only the machine's resolver knows.
	outsideName, outsideAddr = "outside.example.org.", "203.0.113.7"
)

var (
	binary = mustAbs("../../bin/proa")
	images = mustAbs("../../bin/images")
)

func TestMain(m *testing.M) {
	if os.Getenv(inside) == "" {
		os.Exit(enter())
	}
	stop, err := furnish()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e: preparing the namespace:", err)
		os.Exit(1)
	}
	code := m.Run()
	stop()
	os.Exit(code)
}

// enter runs this test again in new namespaces.
func enter() int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "e2e: needs root: run it with sudo")
		return 1
	}
	for _, path := range []string{binary, images} {
		if _, err := os.Stat(path); err != nil {
			fmt.Fprintf(os.Stderr, "e2e: %s is missing: run `make build images` first\n", path)
			return 1
		}
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return 0
}

// furnish makes the namespace look like a machine: loopback, a link with an
// address and a default route, and a resolver that knows one outside name.
func furnish() (stop func(), err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, err
	}
	unregister, err := ownRegister()
	if err != nil {
		return nil, err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	host := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "host0"}}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(hostAddr).To4(), Mask: net.CIDRMask(24, 32)}}
	route := &netlink.Route{Gw: net.ParseIP("192.168.77.1")}
	for _, step := range []func() error{
		func() error { return netlink.LinkSetUp(lo) },
		func() error { return netlink.LinkAdd(host) },
		func() error { return netlink.AddrAdd(host, addr) },
		func() error { return netlink.LinkSetUp(host) },
		func() error { return netlink.RouteAdd(route) },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	unresolve, err := resolver()
	if err != nil {
		return nil, err
	}
	return func() { unresolve(); unregister() }, nil
}

// ownRegister hides the machine's own instances. What it is mounted on is kept
// from being removed, which would take the mount away, by a locked entry.
func ownRegister() (stop func(), err error) {
	if err := os.MkdirAll(instances, 0o755); err != nil {
		return nil, err
	}
	here, err := os.OpenFile(filepath.Join(instances, fmt.Sprintf("e2e-%d", os.Getpid())), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(unix.Flock(int(here.Fd()), unix.LOCK_EX), unix.Mount("none", instances, "tmpfs", 0, "")); err != nil {
		here.Close()
		return nil, err
	}
	return func() {
		_ = unix.Unmount(instances, unix.MNT_DETACH)
		_ = os.Remove(here.Name())
		_ = here.Close()
	}, nil
}

// resolver serves the outside name and points /etc/resolv.conf, in this mount
// namespace only, at itself.
func resolver() (stop func(), err error) {
	conn, err := net.ListenPacket("udp", hostAddr+":53")
	if err != nil {
		return nil, err
	}
	srv := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetReply(q)
		if q.Question[0].Name != outsideName {
			r.Rcode = dns.RcodeNameError
		} else if q.Question[0].Qtype == dns.TypeA {
			r.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: outsideName, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(outsideAddr)}}
		}
		_ = w.WriteMsg(r)
	})}
	go func() { _ = srv.ActivateAndServe() }()
	file := filepath.Join(os.TempDir(), fmt.Sprintf("proa-e2e-resolv-%d", os.Getpid()))
	if err := os.WriteFile(file, []byte("nameserver "+hostAddr+"\n"), 0o644); err != nil {
		return nil, err
	}
	if err := unix.Mount(file, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		return nil, err
	}
	return func() {
		_ = srv.Shutdown()
		_ = unix.Unmount("/etc/resolv.conf", unix.MNT_DETACH)
		_ = os.Remove(file)
	}, nil
}

func mustAbs(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		panic(err)
	}
	return abs
}
