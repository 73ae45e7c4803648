package encryption

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2"

	"proa/store"
	"proa/store/encryption/kmstest"
)

func kmsConfig(t *testing.T, socket string) *Config {
	t.Helper()
	c, err := Parse([]byte(fmt.Sprintf(`{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [{resources: [secrets],
  providers: [{kms: {apiVersion: v2, name: vault, endpoint: "unix://%s", timeout: 2s}}, {identity: {}}]}]}`, socket)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pluginOf gives the configuration's plugin a clock that the test moves.
func pluginOf(c *Config) (p *plugin, pass func(time.Duration)) {
	p = c.plugins()[0]
	var mu sync.Mutex
	now := time.Now()
	p.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	return p, func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
}

var at = store.Key{Resource: "secrets", Namespace: "ns", Name: "s"}

func mustSeal(t *testing.T, k *Keys, plain string) ([]byte, store.Seal) {
	t.Helper()
	kept, by, err := k.Seal(at, []byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	if by == 0 { // the first of all makes the envelope
		by = k.Current("secrets")
	}
	return kept, by
}

func mustOpen(t *testing.T, k *Keys, kept []byte, plain string) store.Seal {
	t.Helper()
	back, by, err := k.Open(at, kept)
	if err != nil || string(back) != plain {
		t.Fatalf("opened %q: %v", back, err)
	}
	return by
}

// What is sealed opens with the plugin's key and at its place only; the plugin
// decrypts one seed for all of it.
func TestKMS(t *testing.T) {
	s, path := kmstest.New("one"), kmstest.Socket(t)
	s.Serve(t, path)
	k := New(kmsConfig(t, path))
	var all [][]byte
	for i := range 50 {
		kept, _ := mustSeal(t, k, fmt.Sprint("value ", i))
		if !bytes.HasPrefix(kept, []byte("k8s:enc:kms:v2:vault:")) || bytes.Contains(kept, []byte("value")) {
			t.Fatalf("kept %q", kept)
		}
		all = append(all, kept)
	}
	k = New(kmsConfig(t, path)) // the next start
	for i, kept := range all {
		mustOpen(t, k, kept, fmt.Sprint("value ", i))
	}
	if n := s.Decrypts(); n != 1 {
		t.Errorf("%d calls to decrypt", n)
	}
	if _, _, err := k.Open(store.Key{Resource: "secrets", Namespace: "other", Name: "s"}, all[0]); err == nil {
		t.Error("it opens at another place")
	}
	for i := len("k8s:enc:kms:v2:vault:"); i < len(all[0]); i++ {
		bad := bytes.Clone(all[0])
		bad[i] ^= 1
		if back, _, err := k.Open(at, bad); err == nil && string(back) != "value 0" {
			t.Fatalf("byte %d changed: %q", i, back)
		}
	}
}

// A new key of the plugin makes what the old one sealed stale, and readable.
func TestKMSRotation(t *testing.T) {
	s, path := kmstest.New("one"), kmstest.Socket(t)
	s.Serve(t, path)
	c := kmsConfig(t, path)
	_, pass := pluginOf(c)
	k := New(c)
	old, by := mustSeal(t, k, "x")
	if got := mustOpen(t, k, old, "x"); got != by || by != k.Current("secrets") {
		t.Errorf("sealed by %d, opened as of %d, current is %d", by, got, k.Current("secrets"))
	}
	s.Set("two", "ok")
	pass(kmsAsk / 2)
	if mustSeal(t, k, "x"); k.Current("secrets") != by {
		t.Error("the plugin was asked again at once")
	}
	pass(kmsExpire)
	kept, _ := mustSeal(t, k, "x")
	if now := k.Current("secrets"); now == by || mustOpen(t, k, kept, "x") != now || mustOpen(t, k, old, "x") != by {
		t.Errorf("after the rotation: current %d, was %d", now, by)
	}
	if !bytes.Contains(kept, []byte("two")) {
		t.Error("the new key's id is not beside the value")
	}
}

// While the plugin is away what is known goes on for a while; then writing
// fails with its name, until it is back.
func TestKMSAway(t *testing.T) {
	s, path := kmstest.New("one"), kmstest.Socket(t)
	stop := s.Serve(t, path)
	c := kmsConfig(t, path)
	p, pass := pluginOf(c)
	p.timeout = 300 * time.Millisecond
	k := New(c)
	kept, _ := mustSeal(t, k, "x")
	stop()
	pass(2 * time.Minute)
	mustSeal(t, k, "x")
	mustOpen(t, k, kept, "x")
	pass(2 * time.Minute)
	if _, _, err := k.Seal(at, []byte("x")); err == nil || !strings.Contains(err.Error(), `kms plugin "vault"`) {
		t.Errorf("sealed without the plugin: %v", err)
	}
	if err := k.Healthy(t.Context()); err == nil {
		t.Error("it says that all is well")
	}
	if _, _, err := New(kmsConfig(t, path)).Open(at, kept); err == nil || !strings.Contains(err.Error(), "vault") {
		t.Errorf("opened without the plugin: %v", err)
	}
	s.Serve(t, path)
	p.timeout = 10 * time.Second
	pass(time.Minute)
	mustSeal(t, k, "x")
	if err := k.Healthy(t.Context()); err != nil {
		t.Error(err)
	}
	s.Set("one", "the vault is sealed")
	pass(time.Minute)
	if err := k.Healthy(t.Context()); err == nil || !strings.Contains(err.Error(), "the vault is sealed") {
		t.Errorf("of an ill plugin it says %v", err)
	}
}

// The bytes are those of kube-apiserver, both ways.
func TestKMSFormat(t *testing.T) {
	s, path := kmstest.New("one"), kmstest.Socket(t)
	s.Serve(t, path)
	k := New(kmsConfig(t, path))
	client, err := kmsv2.NewGRPCService(t.Context(), "unix://"+path, "vault", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	transformer, object, cacheKey, err := kmsv2.GenerateTransformer(t.Context(), "uid", client, true)
	if err != nil {
		t.Fatal(err)
	}
	theirs := kmsv2.NewEnvelopeTransformer(client, "vault", func() (kmsv2.State, error) {
		return kmsv2.State{Transformer: transformer, EncryptedObjectKeyID: object.KeyID, EncryptedObjectEncryptedDEKSource: object.EncryptedDEKSource,
			EncryptedObjectAnnotations: object.Annotations, EncryptedObjectEncryptedDEKSourceType: object.EncryptedDEKSourceType,
			UID: "uid", CacheKey: cacheKey, ExpirationTimestamp: time.Now().Add(time.Hour)}, nil
	}, "server")
	here := value.DefaultContext("/registry/secrets/ns/s")
	kept, _ := mustSeal(t, k, "ours")
	back, _, err := theirs.TransformFromStorage(t.Context(), bytes.TrimPrefix(kept, []byte("k8s:enc:kms:v2:vault:")), here)
	if err != nil || string(back) != "ours" {
		t.Errorf("kube-apiserver reads %q: %v", back, err)
	}
	kept, err = theirs.TransformToStorage(t.Context(), []byte("theirs"), here)
	if err != nil {
		t.Fatal(err)
	}
	mustOpen(t, k, append([]byte("k8s:enc:kms:v2:vault:"), kept...), "theirs")
}

func TestKMSConfiguration(t *testing.T) {
	for config, want := range map[string]string{
		`{name: a, endpoint: "unix:///s"}`:                                "apiVersion",
		`{apiVersion: v1, name: a, endpoint: "unix:///s"}`:                `supported values: "v2"`,
		`{apiVersion: v2, endpoint: "unix:///s"}`:                         "name",
		`{apiVersion: v2, name: "a:b", endpoint: "unix:///s"}`:            "name",
		`{apiVersion: v2, name: a, endpoint: "http://s"}`:                 "endpoint",
		`{apiVersion: v2, name: a}`:                                       "endpoint",
		`{apiVersion: v2, name: a, endpoint: "unix:///s", cachesize: 5}`:  "cachesize",
		`{apiVersion: v2, name: a, endpoint: "unix:///s", timeout: "0s"}`: "timeout",
	} {
		_, err := Parse([]byte("{apiVersion: apiserver.config.k8s.io/v1, kind: EncryptionConfiguration, resources: [{resources: [secrets], providers: [{kms: " + config + "}]}]}"))
		if err == nil || !strings.Contains(err.Error(), "resources[0].providers[0].kms."+strings.Fields(want)[0]) && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", config, err)
		}
	}
}
