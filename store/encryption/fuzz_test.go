package encryption_test

import (
	"bytes"
	"testing"

	"proa/store/encryption"
)

// FuzzConfig reads made-up configuration files: what one that is taken seals, it
// opens.
func FuzzConfig(f *testing.F) {
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [configmaps, '*.apps']\n  providers:\n"
	f.Add([]byte(head + provider("aesgcm", "a", secret) + identity))
	f.Add([]byte(head + provider("secretbox", "a", secret)))
	f.Add([]byte(head + "  - identity: {}\n"))
	f.Add([]byte("kind: EncryptionConfiguration\nresources: [{}]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := encryption.Parse(data)
		if err != nil {
			return
		}
		keys := encryption.New(c)
		kept, _, err := keys.Seal(here, []byte("value"))
		if err != nil {
			t.Fatalf("%q cannot seal: %v", data, err)
		}
		if v, _, err := keys.Open(here, bytes.Clone(kept)); err != nil || string(v) != "value" {
			t.Errorf("%q opens what it sealed as %q, %v", data, v, err)
		}
	})
}
