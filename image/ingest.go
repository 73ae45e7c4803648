package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// source is where an image comes from: an archive or a registry.
type source interface {
	// manifest returns a manifest or index, checked against the digest.
	manifest(ctx context.Context, desc v1.Descriptor) ([]byte, error)
	// blob opens other content, which the reader checks.
	blob(ctx context.Context, desc v1.Descriptor) (io.ReadCloser, error)
}

// Limits of what is read into memory; both are far above what registries take.
const (
	maxManifest = 8 << 20
	maxConfig   = 8 << 20
)

const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
)

var manifestTypes = []string{v1.MediaTypeImageManifest, v1.MediaTypeImageIndex, dockerManifest, dockerIndex}

// ingest brings one image in: chooses this machine's platform, checks all, and
// unpacks what is missing. The result is not in the list yet (see register).
func (s *Store) ingest(ctx context.Context, src source, root v1.Descriptor, progress func(Progress)) (*entry, error) {
	raw, err := resolve(ctx, src, root, 0)
	if err != nil {
		return nil, err
	}
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("the manifest is damaged: %w", err)
	}
	if err := checkDescriptors(append(slices.Clone(m.Layers), m.Config)...); err != nil {
		return nil, err
	}
	config, err := readBlob(ctx, src, m.Config, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("the configuration: %w", err)
	}
	e := &entry{}
	if err := json.Unmarshal(config, &e.config); err != nil {
		return nil, fmt.Errorf("the configuration is damaged: %w", err)
	}
	if n := len(e.config.RootFS.DiffIDs); n != len(m.Layers) {
		return nil, fmt.Errorf("the configuration names %d layers, the manifest %d: this is not a container image, or it is damaged", n, len(m.Layers))
	}
	for _, d := range e.config.RootFS.DiffIDs {
		if err := checkDigest(d); err != nil {
			return nil, err
		}
	}
	if err := s.unpackAll(ctx, src, m, e, progress); err != nil {
		return nil, err
	}
	if e.ID, err = s.putBlob(config); err != nil {
		return nil, err
	}
	manifest, err := s.putBlob(raw)
	e.Manifests = []digest.Digest{manifest}
	return e, err
}

func (s *Store) unpackAll(ctx context.Context, src source, m v1.Manifest, e *entry, progress func(Progress)) error {
	diffs := e.config.RootFS.DiffIDs
	e.Chain = chainIDs(diffs)
	if p, ok := src.(prefetcher); ok {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		p.prefetch(ctx, s.missing(m.Layers, e.Chain))
	}
	for i, l := range m.Layers {
		err := s.unpack(ctx, layerJob{desc: l, diff: diffs[i], chain: e.Chain[i], parents: e.Chain[:i], progress: progress,
			open: func(ctx context.Context) (io.ReadCloser, error) { return src.blob(ctx, l) }})
		if err != nil {
			return err
		}
	}
	return nil
}

// prefetcher is a source that profits from knowing what will be asked for.
type prefetcher interface {
	// prefetch begins to fetch; it must not block, and ends with ctx.
	prefetch(ctx context.Context, layers []v1.Descriptor)
}

// missing returns the layers that are not unpacked yet.
func (s *Store) missing(layers []v1.Descriptor, chain []digest.Digest) (out []v1.Descriptor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, l := range layers {
		if _, have := s.layers[chain[i]]; !have {
			out = append(out, l)
		}
	}
	return out
}

// resolve follows indexes to the manifest for this machine.
func resolve(ctx context.Context, src source, desc v1.Descriptor, depth int) ([]byte, error) {
	if err := checkDescriptors(desc); err != nil {
		return nil, err
	}
	raw, err := src.manifest(ctx, desc)
	if err != nil {
		return nil, err
	}
	var probe struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Config        *v1.Descriptor    `json:"config"`
		Manifests     []v1.Descriptor   `json:"manifests"`
		FSLayers      []json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(raw, &probe); err != nil {
		return nil, fmt.Errorf("the manifest is damaged: %w", err)
	}
	switch {
	case probe.Config != nil:
		return raw, nil
	case probe.Manifests != nil && depth < 4:
		next, err := choose(probe.Manifests)
		if err != nil {
			return nil, err
		}
		return resolve(ctx, src, next, depth+1)
	case probe.FSLayers != nil:
		return nil, errors.New("the image has a manifest of Docker schema 1, which is obsolete: build or push it again with a newer tool")
	}
	return nil, errors.New("the manifest describes no container image")
}

// choose picks the manifest for this machine's platform.
func choose(manifests []v1.Descriptor) (v1.Descriptor, error) {
	var offered []string
	var best *v1.Descriptor
	for i, d := range manifests {
		if d.MediaType != "" && !slices.Contains(manifestTypes, d.MediaType) {
			continue
		}
		p := d.Platform
		if p == nil {
			p = &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
		} else {
			offered = append(offered, p.OS+"/"+p.Architecture)
		}
		if p.OS != "linux" || p.Architecture != runtime.GOARCH || d.Annotations["vnd.docker.reference.type"] != "" {
			continue
		}
		if best == nil || variant(p) < variant(best.Platform) {
			best = &manifests[i]
		}
	}
	if best == nil {
		return v1.Descriptor{}, fmt.Errorf("%w: the image has no variant for linux/%s, only for %v", ErrNotFound, runtime.GOARCH, offered)
	}
	return *best, nil
}

// variant ranks: the variants that every machine of the architecture runs come
// first.
func variant(p *v1.Platform) int {
	if p == nil {
		return 0
	}
	return slices.Index([]string{"", "v8", "v1", "v7", "v6", "v5"}, p.Variant) & 0xff
}

func checkDescriptors(all ...v1.Descriptor) error {
	for _, d := range all {
		if err := checkDigest(d.Digest); err != nil {
			return err
		}
		if d.Size < 0 {
			return fmt.Errorf("the manifest gives %s a negative size", d.Digest)
		}
	}
	return nil
}

func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("the manifest has %q where a digest should be: %w", d, err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("the digest %s is not sha256, the only algorithm that is supported", d)
	}
	return nil
}

// readBlob reads and checks a small blob.
func readBlob(ctx context.Context, src source, desc v1.Descriptor, limit int64) ([]byte, error) {
	if desc.Size > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than the %d that are allowed", desc.Digest, desc.Size, limit)
	}
	r, err := src.blob(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	v := newVerifier(r, desc.Digest, desc.Size)
	data, err := io.ReadAll(v)
	if err != nil {
		return nil, err
	}
	return data, v.finish()
}

// register adds images to the list, durably, or merges them with what is there:
// a name moves to its newest image. One sync for all files of all layers comes
// first, so that the list never names what a power cut can take.
func (s *Store) register(entries ...*entry) ([]Image, error) {
	if err := syncTree(s.path("l")); err != nil {
		return nil, diskError(err)
	}
	s.mu.Lock()
	var ids []string
	for _, e := range entries {
		s.merge(e)
		ids = append(ids, e.ID.String())
	}
	s.mu.Unlock()
	if err := s.save(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Image
	for _, id := range ids {
		if e := s.images[id]; e != nil {
			out = append(out, s.image(e))
		}
	}
	return out, nil
}

// merge is register for holders of mu.
func (s *Store) merge(e *entry) {
	for _, other := range s.images {
		if other.ID != e.ID {
			other.Names = slices.DeleteFunc(other.Names, func(n string) bool { return slices.Contains(e.Names, n) })
		}
	}
	have := s.images[e.ID.String()]
	if have == nil {
		s.images[e.ID.String()] = e
		return
	}
	have.Names = union(have.Names, e.Names)
	have.Digests = union(have.Digests, e.Digests)
	for _, m := range e.Manifests {
		if !slices.Contains(have.Manifests, m) {
			have.Manifests = append(have.Manifests, m)
		}
	}
}

func union(a, b []string) []string {
	out := append(slices.Clone(a), b...)
	slices.Sort(out)
	return slices.Compact(out)
}
