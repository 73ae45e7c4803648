package image

import (
	"fmt"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// normalize returns the full form of a name: with registry, and with a tag or,
// if the name has one, a digest (and then no tag).
func normalize(ref string) (string, error) {
	n, err := reference.ParseDockerRef(ref)
	if err != nil {
		return "", fmt.Errorf("%w %q: %w", ErrName, ref, err)
	}
	return n.String(), nil
}

// target is a name taken apart for a registry.
type target struct {
	name     string // as normalised
	registry string // "docker.io"
	path     string // "library/busybox"
	tag      string // empty when digest is set
	digest   digest.Digest
}

func parseTarget(ref string) (target, error) {
	n, err := reference.ParseDockerRef(ref)
	if err != nil {
		return target{}, fmt.Errorf("%w %q: %w", ErrName, ref, err)
	}
	t := target{name: n.String(), registry: reference.Domain(n), path: reference.Path(n)}
	if c, ok := n.(reference.Canonical); ok {
		t.digest = c.Digest()
	} else if tagged, ok := n.(reference.Tagged); ok {
		t.tag = tagged.Tag()
	}
	return t, nil
}

// repository is the name without tag and digest.
func (t target) repository() string { return t.registry + "/" + t.path }

// names returns what an image that was asked for as t goes by: its tag, if it
// was asked for by tag, and its digest.
func (t target) names(manifest digest.Digest) (names, digests []string) {
	if t.tag != "" {
		names = []string{t.name}
	}
	return names, []string{t.repository() + "@" + manifest.String()}
}
