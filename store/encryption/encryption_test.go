package encryption_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/storage/value"
	upstream "k8s.io/apiserver/pkg/storage/value/encrypt/aes"
	upstreambox "k8s.io/apiserver/pkg/storage/value/encrypt/secretbox"

	"proa/store"
	"proa/store/encryption"
)

var secret = []byte("0123456789abcdef0123456789abcdef")

func config(t testing.TB, providers string, resources ...string) *encryption.Config {
	t.Helper()
	if len(resources) == 0 {
		resources = []string{"secrets"}
	}
	c, err := encryption.Parse([]byte(fmt.Sprintf("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: ['%s']\n  providers:\n%s",
		strings.Join(resources, "','"), providers)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// provider is one entry of a configuration.
func provider(kind, name string, secret []byte) string {
	return fmt.Sprintf("  - %s: {keys: [{name: %s, secret: %s}]}\n", kind, name, base64.StdEncoding.EncodeToString(secret))
}

const identity = "  - identity: {}\n"

var here = store.Key{Resource: "secrets", Namespace: "ns", Name: "s"}

func TestProviders(t *testing.T) {
	for _, kind := range []string{"aesgcm", "aescbc", "secretbox"} {
		keys := encryption.New(config(t, provider(kind, "k1", secret)))
		for _, plain := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("sixteen bytes ok"), 3), []byte("k8s\x00 something")} {
			kept, by, err := keys.Seal(here, plain)
			if err != nil || by == 0 || by != keys.Current("secrets") {
				t.Fatalf("%s: seal %d, %v", kind, by, err)
			}
			if !bytes.HasPrefix(kept, []byte("k8s:enc:"+kind+":v1:k1:")) || len(plain) > 1 && bytes.Contains(kept, plain) {
				t.Fatalf("%s: kept %q", kind, kept)
			}
			back, opened, err := keys.Open(here, kept)
			if err != nil || !bytes.Equal(back, plain) || opened != by {
				t.Fatalf("%s: %q, %d, %v", kind, back, opened, err)
			}
			again, _, _ := keys.Seal(here, plain)
			if bytes.Equal(again, kept) {
				t.Errorf("%s: two seals of one value are the same", kind)
			}
			for i := len("k8s:enc:" + kind + ":v1:k1:"); i < len(kept) && kind != "aescbc"; i++ {
				bad := bytes.Clone(kept)
				bad[i] ^= 1
				if _, _, err := keys.Open(here, bad); err == nil || !strings.Contains(err.Error(), `"k1"`) {
					t.Fatalf("%s: byte %d changed: %v", kind, i, err)
				}
			}
			if _, _, err := keys.Open(here, kept[:len("k8s:enc:"+kind+":v1:k1:")+3]); err == nil {
				t.Errorf("%s: a stump opens", kind)
			}
		}
	}
}

func TestValuesAreBoundToTheirPlace(t *testing.T) {
	keys := encryption.New(config(t, provider("aesgcm", "k1", secret)))
	kept, _, err := keys.Seal(here, []byte("mine"))
	if err != nil {
		t.Fatal(err)
	}
	there := here
	there.Name = "other"
	if v, _, err := keys.Open(there, kept); err == nil {
		t.Errorf("a value that was moved opens: %q", v)
	}
}

// TestFormats checks that what is kept is what Kubernetes keeps, both ways.
func TestFormats(t *testing.T) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := upstream.NewGCMTransformer(block)
	if err != nil {
		t.Fatal(err)
	}
	for kind, theirs := range map[string]value.Transformer{
		"aesgcm": gcm, "aescbc": upstream.NewCBCTransformer(block), "secretbox": upstreambox.NewSecretboxTransformer([32]byte(secret)),
	} {
		keys := encryption.New(config(t, provider(kind, "k1", secret)))
		prefix := "k8s:enc:" + kind + ":v1:k1:"
		place := value.DefaultContext("/registry/secrets/ns/s")
		kept, _, err := keys.Seal(here, []byte("plain"))
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := theirs.TransformFromStorage(context.Background(), kept[len(prefix):], place)
		if err != nil || string(got) != "plain" {
			t.Errorf("%s: theirs reads ours: %q, %v", kind, got, err)
		}
		made, err := theirs.TransformToStorage(context.Background(), []byte("plain"), place)
		if err != nil {
			t.Fatal(err)
		}
		if got, _, err = keys.Open(here, append([]byte(prefix), made...)); err != nil || string(got) != "plain" {
			t.Errorf("%s: ours reads theirs: %q, %v", kind, got, err)
		}
	}
}

func TestKeysByOrder(t *testing.T) {
	other := bytes.Repeat([]byte("k"), 32)
	keys := encryption.New(config(t, provider("aesgcm", "old", secret)+identity))
	kept, old, _ := keys.Seal(here, []byte("v"))
	keys.Use(config(t, provider("secretbox", "new", other)+provider("aesgcm", "old", secret)+identity))
	if _, by, err := keys.Open(here, kept); err != nil || by != old || by == keys.Current("secrets") {
		t.Errorf("what the second provider sealed: %d, %v", by, err)
	}
	if _, by, err := keys.Open(here, []byte("k8s\x00plain")); err != nil || by != 0 {
		t.Errorf("plain with identity: %d, %v", by, err)
	}
	keys.Use(config(t, provider("secretbox", "new", other)))
	if _, _, err := keys.Open(here, kept); err == nil || !strings.Contains(err.Error(), `aesgcm key "old"`) {
		t.Errorf("a key that is gone: %v", err)
	}
	if _, _, err := keys.Open(here, []byte("plain")); err == nil || !strings.Contains(err.Error(), "not encrypted") {
		t.Errorf("plain without identity: %v", err)
	}
	if v, by, err := keys.Seal(store.Key{Resource: "pods", Name: "p"}, []byte("v")); err != nil || by != 0 || string(v) != "v" {
		t.Errorf("what is not configured: %q, %d, %v", v, by, err)
	}
	same := encryption.New(config(t, provider("aesgcm", "old", secret)))
	if same.Current("secrets") != old {
		t.Error("the same key, read again, is another seal")
	}
}

func TestResources(t *testing.T) {
	for _, c := range []struct {
		entry string
		in    []string
		out   []string
	}{
		{"secrets", []string{"secrets"}, []string{"example.com/secrets", "configmaps"}},
		{"deployments.apps", []string{"apps/deployments"}, []string{"deployments"}},
		{"*.", []string{"secrets", "pods"}, []string{"apps/deployments"}},
		{"*.apps", []string{"apps/deployments"}, []string{"pods"}},
		{"*.*", []string{"pods", "apps/deployments", "a.b/c"}, nil},
	} {
		keys := encryption.New(config(t, provider("aesgcm", "k", secret), c.entry))
		for _, r := range c.in {
			if keys.Current(r) == 0 {
				t.Errorf("%s does not cover %s", c.entry, r)
			}
		}
		for _, r := range c.out {
			if keys.Current(r) != 0 {
				t.Errorf("%s covers %s", c.entry, r)
			}
		}
	}
}

func TestBadConfigurations(t *testing.T) {
	head := "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n"
	good := base64.StdEncoding.EncodeToString(secret)
	for body, want := range map[string]string{
		"apiVersion: v1\nkind: Secret":         "not an EncryptionConfiguration",
		head:                                   "resources",
		head + "- providers: [{identity: {}}]": "resources[0].resources",
		head + "- resources: [secrets]":        "resources[0].providers",
		head + "- resources: [secrets]\n  providers: [{}]":                                                                    "resources[0].providers[0]",
		head + "- resources: [secrets]\n  surprise: 1\n  providers: [{identity: {}}]":                                         "surprise",
		head + "- resources: [secrets]\n  providers: [{aescbc: {keys: []}}]":                                                  "aescbc.keys",
		head + "- resources: [secrets]\n  providers: [{aescbc: {keys: [{name: a, secret: QUJD}]}}]":                           "it has 3 bytes",
		head + "- resources: [secrets]\n  providers: [{aescbc: {keys: [{name: a, secret: '%'}]}}]":                            "base64",
		head + "- resources: [secrets]\n  providers: [{aesgcm: {keys: [{name: 'a:b', secret: " + good + "}]}}]":               "keys[0].name",
		head + "- resources: [secrets]\n  providers: [{identity: {}, aesgcm: {keys: []}}]":                                    "more than one provider",
		head + "- resources: [secrets]\n  providers: [{identity: {}}]\n- resources: [secrets]\n  providers: [{identity: {}}]": "Duplicate",
	} {
		if _, err := encryption.Parse([]byte(body)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "QUJD") {
			t.Errorf("%q: %v, want %q", body, err, want)
		}
	}
}

// TestLocal makes a key, rotates it, and crashes in the middle of a rotation.
func TestLocal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.yaml")
	l := local(t, path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	first, _, err := l.Keys().Seal(here, []byte("v"))
	if err != nil || !bytes.HasPrefix(first, []byte("k8s:enc:aesgcm:v1:key-")) {
		t.Fatalf("%q, %v", first, err)
	}
	var second []byte
	done, err := l.Rotate(t.Context(), func(context.Context) (int, error) {
		v, _, err := l.Keys().Open(here, first)
		if err != nil || string(v) != "v" {
			t.Errorf("the old key during the rotation: %q, %v", v, err)
		}
		second, _, err = l.Keys().Seal(here, v)
		return 1, err
	})
	if err != nil || done.Rewritten != 1 || len(done.Dropped) != 1 || done.Resumed {
		t.Fatalf("%+v, %v", done, err)
	}
	if _, _, err := l.Keys().Open(here, first); err == nil || !strings.Contains(err.Error(), done.Dropped[0]) {
		t.Errorf("what the dropped key sealed: %v", err)
	}
	if v, _, err := local(t, path).Keys().Open(here, second); err != nil || string(v) != "v" {
		t.Errorf("after a restart: %q, %v", v, err)
	}

	crash := errors.New("crash")
	if _, err := l.Rotate(t.Context(), func(context.Context) (int, error) { return 0, crash }); !errors.Is(err, crash) {
		t.Fatal(err)
	}
	again := local(t, path)
	if v, by, err := again.Keys().Open(here, second); err != nil || string(v) != "v" || by == again.Keys().Current("secrets") || !again.Unfinished() {
		t.Errorf("in the middle, after a crash: %q, %v, unfinished %v", v, err, again.Unfinished())
	}
	done, err = again.Rotate(t.Context(), func(context.Context) (int, error) { return 7, nil })
	if err != nil || !done.Resumed || done.Rewritten != 7 || again.Unfinished() {
		t.Errorf("resumed: %+v, %v", done, err)
	}
}

func local(t *testing.T, path string) *encryption.Local {
	t.Helper()
	l, err := encryption.OpenLocal(path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func BenchmarkSeal(b *testing.B) {
	keys := encryption.New(config(b, provider("aesgcm", "k1", secret)))
	value := make([]byte, 1024)
	for b.Loop() {
		if _, _, err := keys.Seal(here, value); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	keys := encryption.New(config(f, provider("aesgcm", "a", secret)+provider("aescbc", "b", secret)+provider("secretbox", "c", secret)+identity))
	for _, kind := range []string{"aesgcm:v1:a", "aescbc:v1:b", "secretbox:v1:c", "kms:v2:x", "", ":::"} {
		f.Add([]byte("k8s:enc:" + kind + ":" + strings.Repeat("x", 48)))
	}
	f.Fuzz(func(t *testing.T, kept []byte) {
		if v, by, err := keys.Open(here, kept); err == nil && by == 0 && !bytes.Equal(v, kept) {
			t.Errorf("%q was opened by nothing as %q", kept, v)
		}
	})
}
