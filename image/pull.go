package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Auth are credentials for a registry: a name and password, or one of the tokens.
type Auth struct {
	Username, Password string
	// Auth is base64 of "username:password".
	Auth          string
	IdentityToken string // for the registry's token service
	RegistryToken string // for the registry itself
}

// Pull brings an image from its registry, or the newest state of it. Errors
// wrap ErrNotFound, ErrUnauthorized, ErrNoSpace or ErrName where that is what
// happened. What was downloaded when it failed is used by the next attempt.
func (s *Store) Pull(ctx context.Context, ref string, auth *Auth, progress func(Progress)) (Image, error) {
	t, err := parseTarget(ref)
	if err != nil {
		return Image{}, err
	}
	img, err := s.pull(ctx, t, auth, named(progress, t.name))
	if err != nil {
		return Image{}, fmt.Errorf("cannot pull %s: %w", t.name, err)
	}
	return img, nil
}

func (s *Store) pull(ctx context.Context, t target, auth *Auth, progress func(Progress)) (Image, error) {
	ctx, end := s.begin(ctx)
	defer end()
	unlock, err := s.keyed.lock(ctx, "pull "+t.name)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	ends, err := s.endpoints(t.registry)
	if err != nil {
		return Image{}, err
	}
	r := &repository{store: s, target: t, auth: auth, progress: progress, ends: ends, transports: map[*endpoint]http.RoundTripper{}}
	defer r.close()
	if progress != nil {
		progress(Progress{Stage: "resolve"})
	}
	root, err := r.resolve(ctx)
	if err != nil {
		return Image{}, err
	}
	e, err := s.ingest(ctx, r, root, progress)
	if err != nil {
		return Image{}, err
	}
	e.Names, e.Digests = t.names(root.Digest)
	images, err := s.register(e)
	if err != nil {
		return Image{}, err
	}
	if progress != nil {
		progress(Progress{Stage: "done"})
	}
	return images[0], nil
}

// repository is a registry's repository as a source of one pull.
type repository struct {
	store    *Store
	target   target
	auth     *Auth
	progress func(Progress)
	ends     []*endpoint
	root     []byte // the manifest that resolve fetched

	mu         sync.Mutex
	transports map[*endpoint]http.RoundTripper // authenticated
	fetching   sync.WaitGroup
}

func (r *repository) close() {
	r.fetching.Wait()
	for _, e := range r.ends {
		e.client.CloseIdleConnections()
	}
}

// resolve finds what the name stands for now.
func (r *repository) resolve(ctx context.Context) (v1.Descriptor, error) {
	what := r.target.tag
	if r.target.digest != "" {
		what = r.target.digest.String()
	}
	raw, err := r.fetchManifest(ctx, what, r.target.digest == "")
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if r.target.digest != "" && d.Digest != r.target.digest {
		return d, fmt.Errorf("the registry sent a manifest with digest %s, not %s", d.Digest, r.target.digest)
	}
	r.root = raw
	return d, nil
}

func (r *repository) manifest(ctx context.Context, desc v1.Descriptor) ([]byte, error) {
	if digest.FromBytes(r.root) == desc.Digest {
		return r.root, nil
	}
	raw, err := r.fetchManifest(ctx, desc.Digest.String(), false)
	if err != nil {
		return nil, err
	}
	if got := digest.FromBytes(raw); got != desc.Digest {
		return nil, fmt.Errorf("the registry sent a manifest with digest %s, not %s", got, desc.Digest)
	}
	return raw, nil
}

func (r *repository) fetchManifest(ctx context.Context, what string, byTag bool) (raw []byte, err error) {
	err = r.try(ctx, byTag, func(ctx context.Context, e *endpoint) error {
		resp, err := r.get(ctx, e, "manifests/"+what, http.Header{"Accept": manifestTypes})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		raw, err = io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
		if len(raw) > maxManifest {
			return fmt.Errorf("the manifest has more than %d bytes", maxManifest)
		}
		return err
	})
	return raw, err
}

// try asks each endpoint until one succeeds. Passing faults are tried again.
// Of several errors the registry's own, which is the last, is reported.
func (r *repository) try(ctx context.Context, byTag bool, f func(context.Context, *endpoint) error) (err error) {
	for _, e := range r.ends {
		if byTag && !e.resolve {
			continue
		}
		for attempt := 0; ; attempt++ {
			if err = classify(f(ctx, e)); err == nil {
				return nil
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			var p *progressed
			if errors.As(err, &p) {
				attempt = 0
			}
			if !passing(err) || attempt == maxAttempts-1 || !e.own && attempt > 0 {
				break
			}
			if err := sleep(ctx, backoff<<attempt); err != nil {
				return err
			}
		}
	}
	return err
}

const maxAttempts = 5

var backoff = 300 * time.Millisecond // the first; doubled with each attempt

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// get asks an endpoint for something below the repository. The caller closes
// the body.
func (r *repository) get(ctx context.Context, e *endpoint, what string, header http.Header) (*http.Response, error) {
	rt, err := r.transport(ctx, e)
	if err != nil {
		return nil, err
	}
	u := *e.base
	u.Path += "/" + r.target.path + "/" + what
	if !e.own {
		u.RawQuery = "ns=" + r.target.registry // tells a mirror of several registries which one
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header = header.Clone()
	resp, err := (&http.Client{Transport: rt}).Do(req)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// transport authenticates at an endpoint, once a pull.
func (r *repository) transport(ctx context.Context, e *endpoint) (http.RoundTripper, error) {
	r.mu.Lock()
	rt := r.transports[e]
	r.mu.Unlock()
	if rt != nil {
		return rt, nil
	}
	var opts []name.Option
	if e.plain() {
		opts = append(opts, name.Insecure)
	}
	reg, err := name.NewRegistry(e.base.Host, opts...)
	if err != nil {
		return nil, err
	}
	creds := authn.Anonymous
	if e.own && r.auth != nil {
		creds = authn.FromConfig(authn.AuthConfig{Username: r.auth.Username, Password: r.auth.Password, Auth: r.auth.Auth,
			IdentityToken: r.auth.IdentityToken, RegistryToken: r.auth.RegistryToken})
	}
	rt, err = transport.NewWithContext(ctx, reg, creds, e, []string{"repository:" + r.target.path + ":pull"})
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.transports[e] = rt
	return rt, nil
}

// prefetch downloads layers, a few at a time, in the order of their use.
func (r *repository) prefetch(ctx context.Context, layers []v1.Descriptor) {
	todo := make(chan v1.Descriptor, len(layers))
	for _, l := range layers {
		todo <- l
	}
	close(todo)
	for range min(3, len(layers)) {
		r.fetching.Go(func() {
			for l := range todo {
				f, err := r.download(ctx, l)
				if err != nil {
					return // whoever needs the layer meets the error itself
				}
				f.Close()
			}
		})
	}
}

// blob downloads and opens; closing removes the file.
func (r *repository) blob(ctx context.Context, desc v1.Descriptor) (io.ReadCloser, error) {
	f, err := r.download(ctx, desc)
	if err != nil {
		return nil, err
	}
	return removing{f}, nil
}

type removing struct{ *os.File }

func (r removing) Close() error { return errors.Join(r.File.Close(), os.Remove(r.Name())) }

// download makes sure that a blob's file is there whole, going on where an
// earlier attempt ended, and opens it. The content is checked by whoever reads.
func (r *repository) download(ctx context.Context, desc v1.Descriptor) (*os.File, error) {
	unlock, err := r.store.keyed.lock(ctx, "download "+desc.Digest.String())
	if err != nil {
		return nil, err
	}
	defer unlock()
	path := r.store.path("ingest", desc.Digest.Encoded())
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, diskError(err)
	}
	err = r.try(ctx, false, func(ctx context.Context, e *endpoint) error { return r.more(ctx, e, desc, f) })
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// more fetches what the file still lacks.
func (r *repository) more(ctx context.Context, e *endpoint, desc v1.Descriptor, f *os.File) error {
	at, err := f.Seek(0, io.SeekEnd)
	if err != nil || at == desc.Size {
		return err
	}
	if err := checkFree(r.store.dir, desc.Size-at); err != nil {
		return err
	}
	header := http.Header{}
	if at > 0 && at < desc.Size {
		header.Set("Range", "bytes="+strconv.FormatInt(at, 10)+"-")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stalled := time.AfterFunc(stallAfter, cancel)
	defer stalled.Stop()
	resp, err := r.get(ctx, e, "blobs/"+desc.Digest.String(), header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent || !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", at)) {
		if at, err = 0, f.Truncate(0); err != nil {
			return err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	report := &reporter{r: resp.Body, f: r.progress, p: Progress{Layer: desc.Digest, Stage: "download", Done: at, Total: desc.Size}}
	n, err := io.Copy(f, io.LimitReader(&lively{report, stalled}, desc.Size-at+1))
	switch {
	case at+n == desc.Size:
		return nil
	case at+n > desc.Size:
		_ = f.Truncate(0)
		return fmt.Errorf("blob %s is longer than the %d bytes that its manifest says", short(desc.Digest), desc.Size)
	case err == nil || ctx.Err() != nil && errors.Is(err, context.Canceled):
		err = io.ErrUnexpectedEOF
	}
	if n > 0 {
		return &progressed{diskError(err)}
	}
	return diskError(err)
}

// stallAfter is how long a download may bring nothing before it is begun again.
const stallAfter = 60 * time.Second

// lively puts a watchdog off with each read.
type lively struct {
	r     io.Reader
	timer *time.Timer
}

func (l *lively) Read(p []byte) (int, error) {
	l.timer.Reset(stallAfter)
	return l.r.Read(p)
}

// progressed is an error after which trying again goes on from further ahead.
type progressed struct{ error }

func (p *progressed) Unwrap() error { return p.error }

// classify puts the registry's answer into this package's terms.
func classify(err error) error {
	var t *transport.Error
	if !errors.As(err, &t) {
		return err
	}
	switch t.StatusCode {
	case http.StatusNotFound:
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: the image does not exist or needs (other) credentials: %w", ErrUnauthorized, err)
	}
	return err
}

// passing tells faults that another attempt may not meet.
func passing(err error) bool {
	var t *transport.Error
	if errors.As(err, &t) {
		return t.StatusCode >= 500 || t.StatusCode == http.StatusTooManyRequests
	}
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return false
	}
	var n interface{ Timeout() bool }
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.As(err, &n) || strings.Contains(err.Error(), "connection reset")
}
