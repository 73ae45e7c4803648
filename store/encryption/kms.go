package encryption

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	kmsv2 "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"
	kms "k8s.io/kms/apis/v2"

	"proa/store"
)

const (
	// kmsTimeout is how long a plugin may take for an answer, if nothing else is
	// configured.
	kmsTimeout = 3 * time.Second
	// kmsAsk is the age from which on the plugin is asked again whether its key
	// is the same, when something is sealed; kmsExpire that from which on nothing
	// is sealed before it has answered.
	kmsAsk    = time.Minute
	kmsExpire = 3 * time.Minute
	// kmsAtMostOften is the time within which those who ask share an answer.
	kmsAtMostOften = time.Second
	// The bounds that the format sets.
	maxKeyID       = 1 << 10
	maxSource      = 1 << 10
	maxAnnotations = 32 << 10
	seedSize       = 32
	// maxSeeds bounds the seeds that are kept opened.
	maxSeeds = 1000
)

func parseKMS(c *apiserverv1.KMSConfiguration, at *field.Path) ([]*key, field.ErrorList) {
	var errs field.ErrorList
	bad := func(e *field.Error) { errs = append(errs, e) }
	if c.APIVersion != "v2" {
		bad(field.NotSupported(at.Child("apiVersion"), c.APIVersion, []string{"v2"}))
	}
	if c.Name == "" || strings.Contains(c.Name, ":") {
		bad(field.Invalid(at.Child("name"), c.Name, "a name without colons is needed"))
	}
	if c.CacheSize != nil {
		bad(field.Invalid(at.Child("cachesize"), *c.CacheSize, "version v2 has none"))
	}
	timeout := kmsTimeout
	if c.Timeout != nil {
		if timeout = c.Timeout.Duration; timeout <= 0 {
			bad(field.Invalid(at.Child("timeout"), c.Timeout, "it must be greater than zero"))
		}
	}
	address, err := socketOf(c.Endpoint)
	if err != nil {
		bad(field.Invalid(at.Child("endpoint"), c.Endpoint, err.Error()))
	}
	if len(errs) > 0 {
		return nil, errs
	}
	p, err := newPlugin(c.Name, address, timeout)
	if err != nil {
		return nil, field.ErrorList{field.InternalError(at, err)}
	}
	return []*key{{name: c.Name, provider: "kms", prefix: mark + "kms:v2:" + c.Name + ":", box: p}}, nil
}

// socketOf is the address of a unix socket: unix:///path, or unix:///@name for
// one that is no file.
func socketOf(endpoint string) (string, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "unix" || u.Host != "" || len(u.Path) < 2 {
		return "", errors.New("it must be a unix socket, like unix:///run/kms.sock")
	}
	if name, abstract := strings.CutPrefix(u.Path, "/@"); abstract {
		return "@" + name, nil
	}
	return u.Path, nil
}

// plugin is a key management service's plugin, version 2 of its protocol. It
// keeps the key that encrypts seeds; a seed gives a key of its own for every
// value. A server makes one seed, and a new one when the plugin's key changes.
type plugin struct {
	name    string
	timeout time.Duration
	service kms.KeyManagementServiceClient
	now     func() time.Time

	state atomic.Pointer[envelope] // what seals; nil until the plugin has answered

	asking sync.Mutex // one question at a time
	asked  time.Time
	answer error

	mu    sync.Mutex
	seeds map[[sha256.Size]byte][]byte // by what they look like encrypted
}

// envelope is a seed and what is written beside each value that it seals.
type envelope struct {
	seed []byte
	wrap *kmsv2.EncryptedObject // without data
	id   store.Seal
	good time.Time // when the plugin said last that its key is this
}

func newPlugin(name, address string, timeout time.Duration) (*plugin, error) {
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", address)
	}
	// Without calls the connection closes by itself; nothing is left of a plugin
	// that a new configuration does not name any more.
	conn, err := grpc.NewClient("passthrough:///kms", grpc.WithContextDialer(dial), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"), grpc.WithIdleTimeout(2*kmsAsk), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second,
			Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}}))
	if err != nil {
		return nil, err
	}
	return &plugin{name: name, timeout: timeout, service: kms.NewKeyManagementServiceClient(conn), now: time.Now,
		seeds: map[[sha256.Size]byte][]byte{}}, nil
}

// seal is by the current envelope, behind which is the plugin's key.
func (p *plugin) seal(dst, value, place []byte) ([]byte, error) {
	e, err := p.fresh()
	if err != nil {
		return nil, err
	}
	info := make([]byte, seedSize, seedSize+len(value)+overhead)
	if _, err := rand.Read(info); err != nil {
		return nil, err
	}
	b, err := derived(e.seed, info)
	if err != nil {
		return nil, err
	}
	data, err := b.seal(info, value, place)
	if err != nil {
		return nil, err
	}
	object := &kmsv2.EncryptedObject{EncryptedData: data, KeyID: e.wrap.KeyID, EncryptedDEKSource: e.wrap.EncryptedDEKSource,
		Annotations: e.wrap.Annotations, EncryptedDEKSourceType: kmsv2.EncryptedDEKSourceType_HKDF_SHA256_XNONCE_AES_GCM_SEED}
	return proto.MarshalOptions{}.MarshalAppend(dst, object)
}

// derived is the key for one value.
func derived(seed, info []byte) (box, error) {
	secret, err := hkdf.Expand(sha256.New, seed, string(info), 32)
	if err != nil {
		return nil, err
	}
	return newGCM(secret)
}

func (p *plugin) open(sealed, place []byte) ([]byte, error) {
	var object kmsv2.EncryptedObject
	if err := proto.Unmarshal(sealed, &object); err != nil || len(object.EncryptedDEKSource) == 0 || object.KeyID == "" {
		return nil, errDamaged
	}
	seed, err := p.opened(&object)
	if err != nil {
		return nil, err
	}
	data := object.EncryptedData
	if object.EncryptedDEKSourceType == kmsv2.EncryptedDEKSourceType_AES_GCM_KEY {
		b, err := newGCM(seed)
		if err != nil {
			return nil, errDamaged
		}
		return b.open(data, place)
	}
	if len(data) < seedSize || len(seed) < seedSize {
		return nil, errDamaged
	}
	b, err := derived(seed, data[:seedSize])
	if err != nil {
		return nil, err
	}
	return b.open(data[seedSize:], place)
}

// opened has the plugin decrypt a seed, once.
func (p *plugin) opened(object *kmsv2.EncryptedObject) ([]byte, error) {
	at := sha256.Sum256(append([]byte(object.KeyID+"\x00"), object.EncryptedDEKSource...))
	p.mu.Lock()
	seed := p.seeds[at]
	p.mu.Unlock()
	if seed != nil {
		return seed, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.timeout)
	defer cancel()
	resp, err := p.service.Decrypt(ctx, &kms.DecryptRequest{Uid: string(uuid.NewUUID()), Ciphertext: object.EncryptedDEKSource,
		KeyId: object.KeyID, Annotations: object.Annotations})
	if err != nil {
		return nil, fmt.Errorf("the kms plugin %q: %w", p.name, err)
	}
	p.keepSeed(at, resp.Plaintext)
	return resp.Plaintext, nil
}

func (p *plugin) keepSeed(at [sha256.Size]byte, seed []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.seeds) >= maxSeeds {
		clear(p.seeds)
	}
	p.seeds[at] = seed
}

// current is what a value would be sealed by now. It waits for nobody.
func (p *plugin) current() store.Seal {
	if e := p.state.Load(); e != nil {
		return e.id
	}
	return 0
}

func (p *plugin) sealedBy(sealed []byte) store.Seal {
	var object kmsv2.EncryptedObject
	if proto.Unmarshal(sealed, &object) != nil {
		return 0
	}
	return p.idOf(object.KeyID)
}

// fresh is the envelope to seal with. Its age has the plugin asked for its key
// again, beside, or before anything is sealed.
func (p *plugin) fresh() (*envelope, error) {
	e := p.state.Load()
	age := kmsExpire
	if e != nil {
		age = p.now().Sub(e.good)
	}
	switch {
	case age < kmsAsk:
		return e, nil
	case age < kmsExpire:
		go func() { _ = p.ask(context.Background()) }() // ends within two timeouts; its error is kept, and told once the envelope expires
		return e, nil
	}
	if err := p.ask(context.Background()); err != nil {
		return nil, err
	}
	return p.state.Load(), nil
}

// ask has the plugin say whether it is well and what its key is, and makes a new
// envelope for a new key. Those who ask at the same time share the answer.
func (p *plugin) ask(ctx context.Context) error {
	p.asking.Lock()
	defer p.asking.Unlock()
	if age := p.now().Sub(p.asked); age >= 0 && age < kmsAtMostOften {
		return p.answer
	}
	if p.answer = p.renew(ctx); p.answer != nil {
		p.answer = fmt.Errorf("the kms plugin %q: %w", p.name, p.answer)
	}
	p.asked = p.now()
	return p.answer
}

func (p *plugin) renew(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	status, err := p.service.Status(asking, &kms.StatusRequest{})
	if err != nil {
		return err
	}
	if err := checkStatus(status); err != nil {
		return err
	}
	e := p.state.Load()
	if e != nil && e.wrap.KeyID == status.KeyId {
		p.state.Store(&envelope{seed: e.seed, wrap: e.wrap, id: e.id, good: p.now()})
		return nil
	}
	return p.newEnvelope(ctx)
}

func checkStatus(s *kms.StatusResponse) error {
	switch {
	case s.Version != "v2" && s.Version != "v2beta1":
		return fmt.Errorf("it speaks version %q, not v2", s.Version)
	case s.Healthz != "ok":
		return fmt.Errorf("it says that it is not well: %q", s.Healthz)
	}
	return checkKeyID(s.KeyId)
}

func checkKeyID(id string) error {
	if id == "" || len(id) > maxKeyID {
		return fmt.Errorf("its key id has %d bytes, but must have 1 to %d", len(id), maxKeyID)
	}
	return nil
}

// newEnvelope makes a seed and has the plugin encrypt it.
func (p *plugin) newEnvelope(ctx context.Context) error {
	seed := make([]byte, seedSize)
	if _, err := rand.Read(seed); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	resp, err := p.service.Encrypt(ctx, &kms.EncryptRequest{Plaintext: seed, Uid: string(uuid.NewUUID())})
	if err != nil {
		return err
	}
	if err := errors.Join(checkKeyID(resp.KeyId), checkWrap(resp)); err != nil {
		return err
	}
	e := &envelope{seed: seed, id: p.idOf(resp.KeyId), good: p.now(),
		wrap: &kmsv2.EncryptedObject{KeyID: resp.KeyId, EncryptedDEKSource: resp.Ciphertext, Annotations: resp.Annotations}}
	p.keepSeed(sha256.Sum256(append([]byte(resp.KeyId+"\x00"), resp.Ciphertext...)), seed)
	p.state.Store(e)
	return nil
}

func checkWrap(r *kms.EncryptResponse) error {
	if len(r.Ciphertext) == 0 || len(r.Ciphertext) > maxSource {
		return fmt.Errorf("its ciphertext has %d bytes, but must have 1 to %d", len(r.Ciphertext), maxSource)
	}
	size := 0
	for name, value := range r.Annotations {
		if errs := validation.IsFullyQualifiedDomainName(field.NewPath("annotations"), name); len(errs) > 0 {
			return errs.ToAggregate()
		}
		size += len(name) + len(value)
	}
	if size > maxAnnotations {
		return fmt.Errorf("its annotations have %d bytes, but must have at most %d", size, maxAnnotations)
	}
	return nil
}

// idOf numbers the plugin's keys: what another key of it sealed is stale.
func (p *plugin) idOf(keyID string) store.Seal { return sealOf("kms", p.name, []byte(keyID)) }

// plugins are those of a configuration.
func (c *Config) plugins() (out []*plugin) {
	for _, r := range append(append([]rule{}, c.rules...), c.spare...) {
		for _, k := range r.keys {
			if p, ok := k.box.(*plugin); ok {
				out = append(out, p)
			}
		}
	}
	return out
}

// Plugins tells whether the configuration relies on any.
func (k *Keys) Plugins() bool { return len(k.config.Load().plugins()) > 0 }

// Healthy asks all plugins; it is what /readyz/kms-providers tells.
func (k *Keys) Healthy(ctx context.Context) error {
	var errs []error
	for _, p := range k.config.Load().plugins() {
		errs = append(errs, p.ask(ctx))
	}
	return errors.Join(errs...)
}
