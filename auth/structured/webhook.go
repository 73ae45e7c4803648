package structured

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Webhook is reached by what a kubeconfig file says.
type Webhook struct {
	url     string
	client  *http.Client
	timeout time.Duration
}

func NewWebhook(kubeconfig string, timeout time.Duration) (*Webhook, error) {
	conf, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("webhook kubeconfig %s: %w", kubeconfig, err)
	}
	client, err := rest.HTTPClientFor(conf)
	if err != nil {
		return nil, fmt.Errorf("webhook kubeconfig %s: %w", kubeconfig, err)
	}
	return &Webhook{url: conf.Host, client: client, timeout: timeout}, nil
}

// Tries of a call whose failure may pass, and the rest between them.
const (
	webhookTries = 3
	webhookRest  = 200 * time.Millisecond
)

// Ask posts a review and decodes the answer into into.
func (r *Webhook) Ask(ctx context.Context, review, into any) error {
	body, err := json.Marshal(review)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	for try := 1; ; try++ {
		again, err := r.once(ctx, body, into)
		if err == nil || !again || try == webhookTries {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(webhookRest * time.Duration(try)):
		}
	}
}

func (r *Webhook) once(ctx context.Context, body []byte, into any) (again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return true, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument))
	switch {
	case err != nil:
		return true, err
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated:
		return resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests, fmt.Errorf("webhook %s answered %s", r.url, resp.Status)
	}
	return false, json.Unmarshal(data, into)
}

// answers remembers what a webhook said, each as long as it is good for. It holds
// digests of questions, not the questions.
type answers[T any] struct {
	now func() time.Time
	mu  sync.Mutex
	all map[[sha256.Size]byte]answer[T]
}

type answer[T any] struct {
	value T
	until time.Time
}

// maxAnswers bounds the memory; beyond it all are asked for anew.
const maxAnswers = 8192

func newAnswers[T any](now func() time.Time) *answers[T] {
	return &answers[T]{now: now, all: map[[sha256.Size]byte]answer[T]{}}
}

func (a *answers[T]) get(key [sha256.Size]byte) (T, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	got, ok := a.all[key]
	return got.value, ok && a.now().Before(got.until)
}

func (a *answers[T]) put(key [sha256.Size]byte, value T, life time.Duration) {
	if life <= 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.all) >= maxAnswers {
		clear(a.all)
	}
	a.all[key] = answer[T]{value, a.now().Add(life)}
}
