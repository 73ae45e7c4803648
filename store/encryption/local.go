package encryption

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"

	"proa/internal/atomicfile"
)

// Local is the configuration of an instance that was given none: Secrets, by
// AES-GCM, with a key of its own in a file of the data directory. The file is
// an EncryptionConfiguration like any other. More than one key in it says that
// a rotation was begun and not finished.
type Local struct {
	path  string
	mu    sync.Mutex   // one rotation at a time
	still sync.RWMutex // held by those who need file and values to go together
	keys  *Keys
}

// OpenLocal reads the file, or makes it with a new key.
func OpenLocal(path string) (*Local, error) {
	l := &Local{path: path}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		fresh, err := newKey(nil)
		if err == nil {
			err = l.write([]apiserverv1.Key{fresh})
		}
		if err != nil {
			return nil, fmt.Errorf("making the key for Secrets: %w", err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("the key for Secrets: %w", err)
	}
	c, err := Load(path)
	if err != nil {
		return nil, fmt.Errorf("%w: restore it from a backup", err)
	}
	l.keys = New(c)
	return l, nil
}

// Keys is the Sealer.
func (l *Local) Keys() *Keys { return l.keys }

// Fingerprint tells configurations of the same keys apart from others, and
// nothing of the keys.
func (l *Local) Fingerprint() (string, error) {
	keys, err := l.read()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, k := range keys {
		fmt.Fprintf(h, "%s\x00%s\x00", k.Name, k.Secret)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// Unfinished tells that a rotation was begun and not finished.
func (l *Local) Unfinished() bool {
	keys, err := l.read()
	return err == nil && len(keys) > 1
}

// Rotated is what a rotation did.
type Rotated struct {
	// Key is the name of the key that seals now, Dropped of those that are gone.
	Key     string   `json:"key"`
	Dropped []string `json:"dropped"`
	// Rewritten counts the records that were sealed anew.
	Rewritten int `json:"rewritten"`
	// Resumed tells that an earlier rotation was finished.
	Resumed bool `json:"resumed,omitempty"`
}

// ErrRotating: another rotation is under way.
var ErrRotating = errors.New("a rotation is under way already")

// ErrStill: somebody is copying the file and what it opens.
var ErrStill = errors.New("a snapshot is being taken: rotate the key when it is done")

// Still keeps the key as it is until release is called: what is sealed meanwhile
// is opened by the file that is there meanwhile. It waits for a rotation.
func (l *Local) Still() (release func()) {
	l.still.RLock()
	return l.still.RUnlock
}

// Rotate makes a new key, has everything rewritten under it and then drops the
// old. The file is written, and synced, before what it says is relied on: a
// crash at any point leaves a file that opens everything there is, and the next
// Rotate finishes the one that was begun.
func (l *Local) Rotate(ctx context.Context, rewrite func(context.Context) (int, error)) (done Rotated, err error) {
	if !l.mu.TryLock() {
		return done, ErrRotating
	}
	defer l.mu.Unlock()
	if !l.still.TryLock() {
		return done, ErrStill
	}
	defer l.still.Unlock()
	keys, err := l.read()
	if err != nil {
		return done, err
	}
	if done.Resumed = len(keys) > 1; !done.Resumed {
		fresh, err := newKey(keys)
		if err != nil {
			return done, err
		}
		keys = append([]apiserverv1.Key{fresh}, keys...)
		if err := l.replace(keys); err != nil {
			return done, err
		}
	}
	done.Key = keys[0].Name
	if done.Rewritten, err = rewrite(ctx); err != nil {
		return done, fmt.Errorf("the new key %q is in use, but the old one is needed still; run it again to finish: %w", done.Key, err)
	}
	for _, k := range keys[1:] {
		done.Dropped = append(done.Dropped, k.Name)
	}
	return done, l.replace(keys[:1])
}

// replace writes the file and then follows it.
func (l *Local) replace(keys []apiserverv1.Key) error {
	if err := l.write(keys); err != nil {
		return err
	}
	c, err := Load(l.path)
	if err == nil {
		l.keys.Use(c)
	}
	return err
}

func (l *Local) read() ([]apiserverv1.Key, error) {
	data, err := os.ReadFile(l.path)
	if err != nil {
		return nil, err
	}
	var doc apiserverv1.EncryptionConfiguration
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", l.path, err)
	}
	for _, r := range doc.Resources {
		for _, p := range r.Providers {
			if p.AESGCM != nil && len(p.AESGCM.Keys) > 0 {
				return p.AESGCM.Keys, nil
			}
		}
	}
	return nil, fmt.Errorf("%s has no aesgcm key: restore it from a backup", l.path)
}

func (l *Local) write(keys []apiserverv1.Key) error {
	doc := apiserverv1.EncryptionConfiguration{
		TypeMeta: metav1.TypeMeta{APIVersion: apiVersion, Kind: "EncryptionConfiguration"},
		Resources: []apiserverv1.ResourceConfiguration{{
			Resources: []string{"secrets"},
			Providers: []apiserverv1.ProviderConfiguration{{AESGCM: &apiserverv1.AESConfiguration{Keys: keys}}, {Identity: &apiserverv1.IdentityConfiguration{}}},
		}},
	}
	data, err := yaml.Marshal(doc)
	if err != nil {
		return err
	}
	head := "# Keys of the Secrets in this directory's datastore. Without this file they are lost.\n" +
		"# `proa secrets rotate-key` replaces the key; do not edit.\n"
	return atomicfile.Write(l.path, append([]byte(head), data...), 0o600)
}

// newKey makes a key with a name that none of the others has, nor one that was
// made in the same second and lost: which key is missing must be told by its name.
func newKey(others []apiserverv1.Key) (apiserverv1.Key, error) {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return apiserverv1.Key{}, err
	}
	name := "key-" + time.Now().UTC().Format("20060102-150405") + "-" + strings.ToLower(rand.Text()[:4])
	for slices.ContainsFunc(others, func(k apiserverv1.Key) bool { return k.Name == name }) {
		name += "x"
	}
	return apiserverv1.Key{Name: name, Secret: base64.StdEncoding.EncodeToString(secret)}, nil
}
