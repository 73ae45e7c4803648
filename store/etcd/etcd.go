// Package etcd keeps the store's data in an etcd v3 cluster, which several
// servers may share: it implements store.Remote.
//
// What it promises beyond that: a write is one etcd transaction that compares
// the revisions it relies on; an object's resourceVersion is etcd's revision of
// it; what etcd can get over by itself (an election, a restart, a network that
// comes back) is waited out; old revisions are compacted by whichever server
// comes first; a full etcd is emptied of them and taken into use again.
package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"proa/store"
)

// DefaultPrefix is where an instance keeps its keys.
const DefaultPrefix = "/proa"

// Config of an Engine.
type Config struct {
	// Endpoints are the client URLs of the etcd members.
	Endpoints []string
	// CA, Cert and Key are files in PEM: what etcd's certificate is checked
	// with, and what we show it. They are read anew for each connection.
	CA, Cert, Key string
	// Prefix is what all keys begin with; DefaultPrefix if empty.
	Prefix string
	Log    *slog.Logger
	// CompactEvery is the time between two compactions; what changed in that
	// time is always kept, and at most twice as much. 5 minutes if 0.
	CompactEvery time.Duration
}

// Engine implements store.Remote.
type Engine struct {
	cfg     Config
	client  *clientv3.Client
	watcher clientv3.Watcher
	tls     *tls.Config
	base    uint64 // what our revisions are ahead of etcd's, since a restore
	objects string // prefix of all objects' keys

	stop   context.CancelFunc
	keeper sync.WaitGroup
	full   chan struct{} // tells the keeper that etcd has no space
	size   atomic.Int64  // bytes of the database when it was last asked for
	room   atomic.Pointer[error]
}

var _ store.Remote = (*Engine)(nil)

// openWait is how long Open waits for etcd to answer.
var openWait = 20 * time.Second

// Open connects to etcd and waits until it answers.
func Open(c Config) (*Engine, error) {
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	c.Prefix = path.Clean("/" + c.Prefix)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.CompactEvery == 0 {
		c.CompactEvery = 5 * time.Minute
	}
	config, err := c.client()
	if err != nil {
		return nil, err
	}
	client, err := clientv3.New(config)
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	e := &Engine{cfg: c, tls: config.TLS, client: client, watcher: clientv3.NewWatcher(client), objects: c.Prefix + "/objects/",
		stop: stop, full: make(chan struct{}, 1)}
	if err := e.reach(); err != nil {
		stop()
		return nil, errors.Join(err, e.close())
	}
	e.keeper.Go(func() { e.keep(ctx) })
	return e, nil
}

func (c *Config) client() (clientv3.Config, error) {
	out := clientv3.Config{
		Endpoints: c.Endpoints, Logger: zap.NewNop(),
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
		MaxCallSendMsgSize: maxRequest, BackoffWaitBetween: 50 * time.Millisecond,
		// The library's own waits between connections grow to minutes.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 3 * time.Second,
			Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second}})},
	}
	secure := 0
	for _, u := range c.Endpoints {
		switch {
		case strings.HasPrefix(u, "https://"):
			secure++
		case !strings.HasPrefix(u, "http://"):
			return out, fmt.Errorf("etcd: %q is no client URL: it must begin with https:// or http://", u)
		}
	}
	switch {
	case len(c.Endpoints) == 0:
		return out, errors.New("etcd: no endpoint is given")
	case secure == 0 && c.CA+c.Cert+c.Key != "":
		return out, errors.New("etcd: certificates are given, but the endpoints are http://: nothing would be encrypted")
	case secure == 0:
		return out, nil
	case secure < len(c.Endpoints):
		return out, errors.New("etcd: some endpoints are https:// and some http://: use one for all")
	}
	var err error
	out.TLS, err = c.tls()
	return out, err
}

// tls reads the certificates once now, to tell what is wrong with them.
func (c *Config) tls() (*tls.Config, error) {
	out := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("etcd: reading the authority: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("etcd: %s holds no certificate in PEM", c.CA)
		}
	}
	if (c.Cert == "") != (c.Key == "") {
		return nil, errors.New("etcd: a client certificate and its key belong together: one of them is missing")
	}
	if c.Cert == "" {
		return out, nil
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("etcd: the client certificate: %w", err)
		}
		return &pair, nil
	}
	out.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	_, err := load()
	return out, err
}

// reach waits for a first answer of any member.
func (e *Engine) reach() error {
	ctx, cancel := context.WithTimeout(context.Background(), openWait)
	defer cancel()
	if _, err := e.client.Get(ctx, e.objects, clientv3.WithCountOnly()); err != nil {
		return fmt.Errorf("etcd: %w", errors.Join(explain(err, store.ErrUnavailable), e.diagnose()))
	}
	e.measure(ctx)
	return e.readBase(ctx)
}

// readBase finds how far our revisions are ahead of etcd's: not at all, unless
// the data comes from a snapshot.
func (e *Engine) readBase(ctx context.Context) error {
	resp, err := e.client.Get(ctx, e.cfg.Prefix+"/base")
	if err != nil || len(resp.Kvs) == 0 {
		return explain(err, store.ErrUnavailable)
	}
	if e.base, err = strconv.ParseUint(string(resp.Kvs[0].Value), 10, 63); err != nil {
		return fmt.Errorf("etcd: %s/base is damaged: %w", e.cfg.Prefix, err)
	}
	return nil
}

// out makes a revision of ours of one of etcd's, in the other way round; what is
// older than anything in etcd becomes one that no key has.
func (e *Engine) out(revision int64) uint64 { return uint64(revision) + e.base }

func (e *Engine) in(revision uint64) int64 {
	if revision == 0 {
		return 0
	}
	if revision <= e.base {
		return math.MaxInt64
	}
	return int64(revision - e.base)
}

// diagnose says what is wrong with the connections, which the client library
// keeps to itself while it tries on.
func (e *Engine) diagnose() error {
	var errs []error
	for _, endpoint := range e.cfg.Endpoints {
		u, err := url.Parse(endpoint)
		if err == nil {
			err = e.dial(u)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", endpoint, err))
		}
	}
	return errors.Join(errs...)
}

func (e *Engine) dial(u *url.URL) error {
	d := net.Dialer{Timeout: 3 * time.Second}
	if u.Scheme == "http" {
		c, err := d.Dial("tcp", u.Host)
		if err == nil {
			c.Close()
		}
		return err
	}
	c, err := tls.DialWithDialer(&d, "tcp", u.Host, e.tls.Clone())
	if err != nil {
		return err
	}
	defer c.Close()
	// A server that wants a certificate says so after the handshake.
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	if _, err = c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Claim records what cluster the data belongs to and which keys its Secrets are
// sealed by, or compares both with what was recorded: servers of two clusters
// must not share one prefix, and those of one must read each other's Secrets.
// Keys are not compared if they are "".
func (e *Engine) Claim(ctx context.Context, identity, keys string) error {
	first, err := e.record(ctx, "identity", identity)
	if err == nil && first != identity {
		err = fmt.Errorf("etcd holds another cluster's data under %s: for a further server of that cluster, copy pki and encryption.yaml from the data directory of one of its servers first; for a new cluster, choose another --datastore-prefix", e.cfg.Prefix)
	}
	if err != nil || keys == "" {
		return err
	}
	first, err = e.record(ctx, "encryption", keys)
	if err == nil && first != keys {
		err = fmt.Errorf("the other servers on %s seal Secrets by another key than this one, so neither could read what the other wrote: copy encryption.yaml from the data directory of one of them", e.cfg.Prefix)
	}
	return err
}

// record writes a value unless there is one, and returns what there is then.
func (e *Engine) record(ctx context.Context, name, value string) (string, error) {
	key := e.cfg.Prefix + "/" + name
	resp, err := e.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return "", explain(err, store.ErrUnconfirmed)
	}
	if resp.Succeeded {
		return value, nil
	}
	if kvs := resp.Responses[0].GetResponseRange().GetKvs(); len(kvs) == 1 {
		return string(kvs[0].Value), nil
	}
	return value, nil
}

// key is where etcd keeps an object: PREFIX/objects/pods/NAMESPACE/NAME or
// PREFIX/objects/deployments.apps/NAMESPACE/NAME. What is in no namespace has an
// empty one.
func (e *Engine) key(k store.Key) string {
	resource := k.Resource
	if group, plural, ok := strings.Cut(resource, "/"); ok {
		resource = plural + "." + group
	}
	return e.objects + resource + "/" + k.Namespace + "/" + k.Name
}

func (e *Engine) parse(key string) (store.Key, error) {
	rest, ours := strings.CutPrefix(key, e.objects)
	parts := strings.SplitN(rest, "/", 3)
	if !ours || len(parts) != 3 || parts[0] == "" || parts[2] == "" {
		return store.Key{}, fmt.Errorf("etcd: %q is no key of ours: something else writes under this prefix, choose another --datastore-prefix", key)
	}
	resource := parts[0]
	if plural, group, ok := strings.Cut(resource, "."); ok {
		resource = group + "/" + plural
	}
	return store.Key{Resource: resource, Namespace: parts[1], Name: parts[2]}, nil
}

// Newest implements store.Remote by a linearizable read of nothing.
func (e *Engine) Newest(ctx context.Context) (uint64, error) {
	resp, err := e.client.Get(ctx, e.cfg.Prefix+"/nothing", clientv3.WithCountOnly())
	if err != nil {
		return 0, explain(err, store.ErrUnavailable)
	}
	return e.out(resp.Header.Revision), nil
}

// Stat is of the database as it was at the last look, minutes ago.
func (e *Engine) Stat() store.Stat {
	return store.Stat{DiskBytes: e.size.Load(), FreeBytes: -1}
}

// Close ends what Follow and others are waiting for.
func (e *Engine) Close() error {
	e.stop()
	e.keeper.Wait()
	return e.close()
}

func (e *Engine) close() error {
	err := errors.Join(e.watcher.Close(), e.client.Close())
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// measure asks the members how large their databases are.
func (e *Engine) measure(ctx context.Context) {
	var sizes []int64
	for _, endpoint := range e.client.Endpoints() {
		if s, err := e.client.Status(ctx, endpoint); err == nil {
			sizes = append(sizes, s.DbSize)
		}
	}
	if len(sizes) > 0 {
		e.size.Store(slices.Max(sizes))
	}
}
