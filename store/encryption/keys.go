package encryption

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"proa/store"
)

// Keys is the Sealer. Its configuration can be replaced at any time.
type Keys struct{ config atomic.Pointer[Config] }

var _ store.Sealer = (*Keys)(nil)

// New returns a Sealer by this configuration.
func New(c *Config) *Keys {
	k := &Keys{}
	k.Use(c)
	return k
}

// Use replaces the configuration.
func (k *Keys) Use(c *Config) {
	k.config.Store(c)
	for _, p := range c.plugins() {
		go func() { _ = p.ask(context.Background()) }() // ends within two timeouts; whoever seals asks again
	}
}

// place is what a value is bound to.
func place(k store.Key) []byte {
	b := append(make([]byte, 0, 96), "/registry/"...)
	b = append(append(b, k.Resource...), '/')
	if k.Namespace != "" {
		b = append(append(b, k.Namespace...), '/')
	}
	return append(b, k.Name...)
}

// Current is the first key of the resource's providers.
func (k *Keys) Current(resource string) store.Seal {
	if r := k.config.Load().rule(resource); r != nil {
		return r.keys[0].seal()
	}
	return 0
}

func (k *key) seal() store.Seal {
	if m, ok := k.box.(interface{ current() store.Seal }); ok {
		return m.current()
	}
	return k.id
}

// Seal encrypts a value with the first key.
func (k *Keys) Seal(at store.Key, value []byte) ([]byte, store.Seal, error) {
	r := k.config.Load().rule(at.Resource)
	if r == nil || r.keys[0].box == nil {
		return value, 0, nil
	}
	first := r.keys[0]
	by := first.seal()
	dst := append(make([]byte, 0, len(first.prefix)+len(value)+overhead), first.prefix...)
	kept, err := first.box.seal(dst, value, place(at))
	if err != nil {
		return nil, 0, fmt.Errorf("%s key %q cannot encrypt: %w", first.provider, first.name, err)
	}
	return kept, by, nil
}

// overhead is room for the nonce and the tag of any provider.
const overhead = 64

// Open decrypts a value with the key that it names.
func (k *Keys) Open(at store.Key, kept []byte) ([]byte, store.Seal, error) {
	c := k.config.Load()
	r := c.rule(at.Resource)
	sealed := bytes.HasPrefix(kept, []byte(mark))
	if !sealed {
		if r == nil || r.identity() {
			return kept, 0, nil
		}
		return nil, 0, fmt.Errorf("it is not encrypted, and %s has no identity provider for it: add \"- identity: {}\" as the last provider", c.name())
	}
	for _, key := range c.openers(r) {
		if key.box == nil || !bytes.HasPrefix(kept, []byte(key.prefix)) {
			continue
		}
		value, err := key.box.open(kept[len(key.prefix):], place(at))
		if err != nil {
			return nil, 0, fmt.Errorf("%s key %q does not decrypt it: %w", key.provider, key.name, err)
		}
		return value, key.openedBy(kept), nil
	}
	return nil, 0, fmt.Errorf("it is encrypted by %s, which %s does not have: put that key back", namedBy(kept), c.name())
}

func (k *key) openedBy(kept []byte) store.Seal {
	if m, ok := k.box.(interface{ sealedBy([]byte) store.Seal }); ok {
		return m.sealedBy(kept[len(k.prefix):])
	}
	return k.id
}

func (r *rule) identity() bool {
	for _, k := range r.keys {
		if k.box == nil {
			return true
		}
	}
	return false
}

// openers are the resource's own keys and then all others: a resource that was
// taken out of the configuration, or moved within it, stays readable.
func (c *Config) openers(r *rule) (out []*key) {
	if r != nil {
		out = append(out, r.keys...)
	}
	for _, other := range append(slices.Clip(c.rules), c.spare...) {
		out = append(out, other.keys...)
	}
	return out
}

func (c *Config) name() string {
	if path := c.path; path != "" {
		return path
	}
	return "the encryption configuration"
}

// namedBy says which key sealed a value, by what stands before it.
func namedBy(kept []byte) string {
	parts := strings.SplitN(string(kept[:min(len(kept), 512)]), ":", 6)
	if len(parts) < 6 {
		return "an unknown provider"
	}
	if parts[2] == "kms" {
		return fmt.Sprintf("the kms plugin %q", parts[4])
	}
	return fmt.Sprintf("%s key %q", parts[2], parts[4])
}

// Config is what is followed now.
func (k *Keys) Config() *Config { return k.config.Load() }
