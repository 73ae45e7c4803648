package encryption

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"sync"

	"golang.org/x/crypto/nacl/secretbox"

	"proa/store"
)

// mark begins every sealed value; no storage encoding begins so.
const mark = "k8s:enc:"

// key is one key of one provider. The identity has neither box nor prefix.
type key struct {
	name, provider string
	// prefix stands before all that the key seals: it says which key opens it.
	prefix string
	box    box
	id     store.Seal
}

// box encrypts and decrypts. Place is what a value is bound to, as far as the
// format has room for that.
type box interface {
	seal(dst, value, place []byte) ([]byte, error)
	open(sealed, place []byte) ([]byte, error)
}

var errDamaged = errors.New("the bytes are not what was written, or the key is not the one that it was")

var seals struct {
	sync.Mutex
	byKey map[[sha256.Size]byte]store.Seal
}

// sealOf numbers keys by what they are, so that a configuration that is read
// again with the same keys makes nothing stale.
func sealOf(provider, name string, secret []byte) store.Seal {
	sum := sha256.Sum256(append([]byte(provider+"\x00"+name+"\x00"), secret...))
	seals.Lock()
	defer seals.Unlock()
	if seals.byKey == nil {
		seals.byKey = map[[sha256.Size]byte]store.Seal{}
	}
	if _, ok := seals.byKey[sum]; !ok {
		seals.byKey[sum] = store.Seal(len(seals.byKey) + 1)
	}
	return seals.byKey[sum]
}

// gcm is AES-GCM: a random nonce of 12 bytes, then the sealed value with its
// tag. A random nonce is good for 2^32 values a key (NIST SP 800-38D, 8.3).
type gcm struct{ aead cipher.AEAD }

func newGCM(secret []byte) (box, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return gcm{aead}, err
}

func (g gcm) seal(dst, value, place []byte) ([]byte, error) {
	return g.aead.Seal(dst, nil, value, place), nil
}

func (g gcm) open(sealed, place []byte) ([]byte, error) {
	out, err := g.aead.Open(nil, nil, sealed, place)
	if err != nil {
		return nil, errDamaged
	}
	return out, nil
}

// cbc is AES-CBC with PKCS #7 padding behind a random vector of 16 bytes. It
// neither binds a value to its place nor tells damage for certain.
type cbc struct{ block cipher.Block }

func newCBC(secret []byte) (box, error) {
	block, err := aes.NewCipher(secret)
	return cbc{block}, err
}

func (c cbc) seal(dst, value, _ []byte) ([]byte, error) {
	pad := aes.BlockSize - len(value)%aes.BlockSize
	vector := make([]byte, aes.BlockSize)
	if _, err := rand.Read(vector); err != nil {
		return nil, err
	}
	padded := append(bytes.Clone(value), bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(c.block, vector).CryptBlocks(padded, padded)
	return append(append(dst, vector...), padded...), nil
}

func (c cbc) open(sealed, _ []byte) ([]byte, error) {
	if len(sealed) < 2*aes.BlockSize || len(sealed)%aes.BlockSize != 0 {
		return nil, errDamaged
	}
	out := bytes.Clone(sealed[aes.BlockSize:])
	cipher.NewCBCDecrypter(c.block, sealed[:aes.BlockSize]).CryptBlocks(out, out)
	pad := int(out[len(out)-1])
	if pad == 0 || pad > aes.BlockSize || !bytes.Equal(out[len(out)-pad:], bytes.Repeat([]byte{byte(pad)}, pad)) {
		return nil, errDamaged
	}
	return out[:len(out)-pad], nil
}

// naclBox is XSalsa20 with Poly1305 behind a random nonce of 24 bytes, which
// never run out.
type naclBox struct{ secret [32]byte }

func newSecretbox(secret []byte) (box, error) { return &naclBox{[32]byte(secret)}, nil }

const nonceSize = 24

func (n *naclBox) seal(dst, value, _ []byte) ([]byte, error) {
	var nonce [nonceSize]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return nil, err
	}
	return secretbox.Seal(append(dst, nonce[:]...), value, &nonce, &n.secret), nil
}

func (n *naclBox) open(sealed, _ []byte) ([]byte, error) {
	if len(sealed) < nonceSize {
		return nil, errDamaged
	}
	out, ok := secretbox.Open(nil, sealed[nonceSize:], (*[nonceSize]byte)(sealed), &n.secret)
	if !ok {
		return nil, errDamaged
	}
	return out, nil
}
