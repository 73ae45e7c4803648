// Package dns is the cluster's resolver: Services and pods by name, as
// Kubernetes' DNS specification 1.1 says, and everything else by way of the
// machine's own resolvers.
//
// What it promises:
//   - An answer about the cluster is what the newest View shows.
//   - A name outside is remembered for as long as its answer allows; a resolver
//     that fails is passed over for those that work, one that sends our
//     questions back to us is left out.
//   - Memory and questions under way are bounded; a change of the machine's
//     resolvers is followed at once.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"proa/client"
	"proa/internal/filewatch"
)

// Config is what the resolver needs to know.
type Config struct {
	Client client.Client
	// Listen are the addresses to answer at, over UDP and TCP.
	Listen []netip.AddrPort
	// Domain is the cluster's: "cluster.local".
	Domain string
	// ResolvConf is the file that names the machine's resolvers.
	ResolvConf string
	Log        *slog.Logger
	// Metrics, if set, is where the resolver's metrics are registered.
	Metrics prometheus.Registerer
}

// Server is the resolver.
type Server struct {
	cfg     Config
	zone    zone
	reverse reverse
	forward *forwarder
	metrics *metrics
	servers []*dns.Server

	ctx context.Context // ends with Run; questions under way end with it
}

// New listens, so that nothing asked from now on is lost, but answers only in
// Run.
func New(cfg Config) (*Server, error) {
	if _, ok := dns.IsDomainName(cfg.Domain); !ok || cfg.Domain == "" {
		return nil, fmt.Errorf("dns: %q is no domain name", cfg.Domain)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, zone: zone{domain: strings.ToLower(dns.Fqdn(cfg.Domain))}}
	s.metrics = newMetrics(cfg.Metrics)
	for _, at := range cfg.Listen {
		s.zone.servers = append(s.zone.servers, at.Addr())
		if err := s.listen(at); err != nil {
			s.close()
			return nil, err
		}
	}
	s.forward = newForwarder(s.addresses(), cfg.Log)
	return s, nil
}

func (s *Server) listen(at netip.AddrPort) error {
	tcp, err := net.Listen("tcp", at.String())
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	// With port 0, UDP takes the port that TCP was given.
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	if err != nil {
		tcp.Close()
		return fmt.Errorf("dns: %w", err)
	}
	s.servers = append(s.servers, &dns.Server{Listener: tcp, Handler: s}, &dns.Server{PacketConn: udp, Handler: s, UDPSize: dns.DefaultMsgSize})
	return nil
}

// addresses are those that the server listens at.
func (s *Server) addresses() []netip.AddrPort {
	var out []netip.AddrPort
	for _, server := range s.servers {
		if server.Listener != nil {
			out = append(out, server.Listener.Addr().(*net.TCPAddr).AddrPort())
		}
	}
	return out
}

// close ends all servers, those too that do not serve yet.
func (s *Server) close() {
	for _, server := range s.servers {
		switch err := server.Shutdown(); {
		case err == nil:
		case server.Listener != nil:
			server.Listener.Close()
		default:
			server.PacketConn.Close()
		}
	}
}

// Run answers until ctx ends or something failed.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.ctx = ctx
	defer s.close()
	view, stream, err := s.cfg.Client.Watch(ctx, client.All[corev1.Service](), client.All[discoveryv1.EndpointSlice](), client.All[corev1.Namespace]())
	if err != nil {
		return err
	}
	defer stream.Close()
	s.reverse.fill(view)
	if _, err := s.configure(); err != nil {
		s.cfg.Log.Warn("names outside the cluster will not be found", "error", err)
	}
	failed := make(chan error)
	var parts sync.WaitGroup
	start := func(f func() error) {
		parts.Go(func() {
			if err := f(); err != nil {
				select {
				case failed <- err:
				case <-ctx.Done():
				}
			}
		})
	}
	start(func() error { return s.reverse.follow(ctx, stream) })
	start(func() error { return s.followResolvConf(ctx) })
	for _, server := range s.servers {
		start(server.ActivateAndServe)
	}
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	cancel()
	s.close()
	parts.Wait()
	return err
}

func (s *Server) configure() ([]*resolver, error) { return s.forward.configure(s.cfg.ResolvConf) }

// followResolvConf takes new resolvers as the file names them, and finds out
// whether they lead back here.
func (s *Server) followResolvConf(ctx context.Context) error {
	s.forward.probe(ctx, *s.forward.resolvers.Load())
	if s.cfg.ResolvConf == "" {
		return nil
	}
	return filewatch.Watch(ctx, s.cfg.ResolvConf, func() {
		fresh, err := s.configure()
		if err != nil {
			s.cfg.Log.Warn("the machine's resolvers stay as they were", "error", err)
		}
		s.forward.probe(ctx, fresh)
	})
}

// ServeDNS answers one message.
func (s *Server) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	done := s.metrics.begin()
	reply, source := s.answer(req)
	if err := w.WriteMsg(fit(reply, req, w)); err != nil && !errors.Is(err, net.ErrClosed) {
		s.cfg.Log.Debug("answer was not sent", "to", w.RemoteAddr(), "error", err)
	}
	done(req, reply, source)
}

// Where an answer came from, for metrics.
const (
	fromCluster = "cluster"
	fromCache   = "cache"
	fromForward = "forward"
	fromNowhere = "none"
)

func (s *Server) answer(req *dns.Msg) (reply *dns.Msg, source string) {
	reply = new(dns.Msg)
	reply.SetReply(req)
	reply.RecursionAvailable = true
	switch {
	case req.Opcode != dns.OpcodeQuery:
		reply.Rcode = dns.RcodeNotImplemented
		return reply, fromNowhere
	case len(req.Question) != 1:
		reply.Rcode = dns.RcodeFormatError
		return reply, fromNowhere
	}
	q := req.Question[0]
	switch {
	case q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR || q.Qclass != dns.ClassINET:
		reply.Rcode = dns.RcodeRefused
		return reply, fromNowhere
	case s.inCluster(reply, q):
		return reply, fromCluster
	}
	return reply, s.outside(reply, req)
}

// inCluster fills the reply if the question is about the cluster.
func (s *Server) inCluster(reply *dns.Msg, q dns.Question) bool {
	name := strings.ToLower(q.Name)
	view := s.cfg.Client.View()
	var a answer
	switch {
	case s.zone.contains(name):
		a = s.zone.resolve(view, name, q.Name, q.Qtype)
	case strings.HasSuffix(name, ".arpa."):
		// Other addresses are for others to name.
		if a = s.reverse.resolve(view, s.zone, name, q.Name, q.Qtype); !a.exists {
			return false
		}
	default:
		return false
	}
	reply.Authoritative = true
	reply.Answer, reply.Extra = a.records, a.extra
	switch {
	case !a.exists:
		reply.Rcode = dns.RcodeNameError
		reply.Ns = []dns.RR{s.zone.soa(s.zone.domain)}
	case len(a.records) == 0:
		reply.Ns = []dns.RR{s.zone.soa(s.zone.domain)}
	case a.target != "" && q.Qtype != dns.TypeCNAME:
		s.chase(reply, a.target, q.Qtype)
	}
	return true
}

// chase adds what an external name leads to: stub resolvers do not ask again.
func (s *Server) chase(reply *dns.Msg, target string, qtype uint16) {
	for range 8 { // Services may name each other in a circle
		name := strings.ToLower(target)
		if !s.zone.contains(name) {
			m, _, err := s.forward.resolve(s.ctx, question{name: name, qtype: qtype, qclass: dns.ClassINET})
			if err == nil {
				reply.Answer = append(reply.Answer, m.Answer...)
			}
			return
		}
		a := s.zone.resolve(s.cfg.Client.View(), name, target, qtype)
		reply.Answer = append(reply.Answer, a.records...)
		if a.target == "" {
			return
		}
		target = a.target
	}
}

// outside fills the reply from the cache or another resolver.
func (s *Server) outside(reply, req *dns.Msg) (source string) {
	q := req.Question[0]
	name := strings.ToLower(q.Name)
	if s.forward.cameBack(name) {
		reply.Rcode = dns.RcodeNameError
		return fromNowhere
	}
	key := question{name: name, qtype: q.Qtype, qclass: q.Qclass, cd: req.CheckingDisabled}
	if opt := req.IsEdns0(); opt != nil {
		key.do = opt.Do()
	}
	m, cached, err := s.forward.resolve(s.ctx, key)
	if err != nil {
		reply.Rcode = dns.RcodeServerFailure
		s.cfg.Log.Debug("name was not resolved", "name", name, "error", err)
		return fromForward
	}
	reply.Rcode, reply.Answer, reply.Ns, reply.Extra = m.Rcode, m.Answer, m.Ns, m.Extra
	reply.AuthenticatedData = m.AuthenticatedData
	restoreCase(reply.Answer, name, q.Name)
	if cached {
		return fromCache
	}
	return fromForward
}

// restoreCase gives the owner of records back the case that the client asked
// with, which it may check.
func restoreCase(records []dns.RR, name, asked string) {
	for _, r := range records {
		if h := r.Header(); strings.EqualFold(h.Name, name) {
			h.Name = asked
		}
	}
}

// fit makes the reply as long as the client takes.
func fit(reply, req *dns.Msg, w dns.ResponseWriter) *dns.Msg {
	size := dns.MinMsgSize
	if opt := req.IsEdns0(); opt != nil {
		size = min(max(int(opt.UDPSize()), dns.MinMsgSize), udpSize)
		reply.SetEdns0(udpSize, opt.Do())
	}
	if _, tcp := w.RemoteAddr().(*net.TCPAddr); tcp {
		size = dns.MaxMsgSize
	}
	reply.Compress = true
	reply.Truncate(size)
	return reply
}
