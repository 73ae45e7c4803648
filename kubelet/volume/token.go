package volume

import (
	"context"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"proa/client"
)

type tokenKey struct {
	pod          types.UID
	volume, path string
}

type token struct {
	value string
	renew time.Time
}

// A token is renewed when 80 % of its life, or a day, has passed (KEP-1205).
const longestUse = 24 * time.Hour

// token returns the token of one projection, a new one when it is due.
func (m *Manager) token(ctx context.Context, pod *corev1.Pod, volume string, s *corev1.ServiceAccountTokenProjection) (*token, error) {
	key := tokenKey{pod.UID, volume, s.Path}
	m.mu.Lock()
	t := m.tokens[key]
	m.mu.Unlock()
	if t != nil && time.Now().Before(t.renew) {
		return t, nil
	}
	fresh, err := m.request(ctx, pod, s)
	if err != nil {
		return nil, fmt.Errorf("failed to fetch token: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tokens == nil {
		m.tokens = map[tokenKey]*token{}
	}
	m.tokens[key] = fresh
	return fresh, nil
}

func (m *Manager) request(ctx context.Context, pod *corev1.Pod, s *corev1.ServiceAccountTokenProjection) (*token, error) {
	req := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: s.ExpirationSeconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if s.Audience != "" {
		req.Spec.Audiences = []string{s.Audience}
	}
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	now := time.Now()
	got, err := m.Client.Post(ctx, client.Row[corev1.ServiceAccount](), client.Key{Namespace: pod.Namespace, Name: account}, "token", req)
	if err != nil {
		return nil, err
	}
	answer, ok := got.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, fmt.Errorf("the token endpoint answered with a %T", got)
	}
	life := answer.Status.ExpirationTimestamp.Sub(now)
	return &token{answer.Status.Token, now.Add(min(life*4/5, longestUse))}, nil
}

func (m *Manager) forget(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range m.tokens {
		if k.pod == uid {
			delete(m.tokens, k)
		}
	}
}
