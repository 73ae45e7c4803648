// Package kmstest is a key management service's plugin for tests, in process, at
// a unix socket, by version 2 of the protocol. Its keys are names, and it keeps
// no secret.
package kmstest

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"google.golang.org/grpc"
	kms "k8s.io/kms/apis/v2"
)

// Service encrypts by writing the key's id in front and turning the bits over.
type Service struct {
	kms.UnimplementedKeyManagementServiceServer

	mu       sync.Mutex
	key      string
	health   string
	decrypts int
}

// Status implements the protocol.
func (s *Service) Status(context.Context, *kms.StatusRequest) (*kms.StatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &kms.StatusResponse{Version: "v2", Healthz: s.health, KeyId: s.key}, nil
}

// Encrypt implements the protocol.
func (s *Service) Encrypt(_ context.Context, r *kms.EncryptRequest) (*kms.EncryptResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &kms.EncryptResponse{Ciphertext: turned(s.key, r.Plaintext), KeyId: s.key, Annotations: map[string][]byte{"key.example.com": []byte(s.key)}}, nil
}

// Decrypt implements the protocol.
func (s *Service) Decrypt(_ context.Context, r *kms.DecryptRequest) (*kms.DecryptResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decrypts++
	rest, ok := bytes.CutPrefix(r.Ciphertext, []byte(r.KeyId))
	if !ok || string(r.Annotations["key.example.com"]) != r.KeyId {
		return nil, errors.New("another key's")
	}
	return &kms.DecryptResponse{Plaintext: turned("", rest)}, nil
}

// Decrypts is how often it was asked to decrypt.
func (s *Service) Decrypts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.decrypts
}

// Set changes the key, and what it says of its health: "ok" is well.
func (s *Service) Set(key, health string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key, s.health = key, health
}

// New is a well plugin with this key.
func New(key string) *Service { return &Service{key: key, health: "ok"} }

func turned(prefix string, data []byte) []byte {
	out := []byte(prefix)
	for _, b := range data {
		out = append(out, ^b)
	}
	return out
}

// Serve runs the plugin at a socket until stop.
func (s *Service) Serve(t *testing.T, socket string) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	kms.RegisterKeyManagementServiceServer(server, s)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	var once sync.Once
	stop = func() { once.Do(func() { server.Stop(); <-ended }) }
	t.Cleanup(stop)
	return stop
}

// Socket is a path for Serve.
func Socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kms") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}
