package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Webhook sends events to a server. It implements Sink in blocking mode; its
// Send is for a Batch.
type Webhook struct {
	client *http.Client
	url    string
	// backoff is the first wait after a failure; each further one is half as
	// long again, up to attempts.
	backoff time.Duration
}

const (
	attempts       = 5
	firstBackoff   = 10 * time.Second
	webhookTimeout = 30 * time.Second
)

// OpenWebhook reads where to send to, and with which credentials, from a file
// in kubeconfig's format.
func OpenWebhook(path string, backoff time.Duration) (*Webhook, error) {
	raw, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return nil, fmt.Errorf("the audit webhook's configuration: %w", err)
	}
	cfg, err := clientcmd.NewDefaultClientConfig(*raw, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("the audit webhook's configuration %s: %w", path, err)
	}
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("the audit webhook's configuration %s: %w", path, err)
	}
	client.Timeout = webhookTimeout
	if backoff <= 0 {
		backoff = firstBackoff
	}
	return &Webhook{client: client, url: cfg.Host + cfg.APIPath, backoff: backoff}, nil
}

// Put sends one event.
func (w *Webhook) Put(ev *auditv1.Event) error {
	return w.Send(context.Background(), []*auditv1.Event{ev})
}

// Send sends events in one request, again after failures that may pass.
func (w *Webhook) Send(ctx context.Context, events []*auditv1.Event) error {
	list := auditv1.EventList{TypeMeta: metav1.TypeMeta{Kind: "EventList", APIVersion: auditv1.SchemeGroupVersion.String()}}
	for _, ev := range events {
		list.Items = append(list.Items, *ev)
	}
	body, err := json.Marshal(list)
	if err != nil {
		return err
	}
	wait := w.backoff
	for try := 1; ; try++ {
		again, err := w.post(ctx, body)
		if err == nil || !again || try == attempts {
			return err
		}
		select {
		case <-time.After(wait + rand.N(wait/5+1)):
			wait += wait / 2
		case <-ctx.Done():
			return err
		}
	}
}

// post tells whether it is worth trying again.
func (w *Webhook) post(ctx context.Context, body []byte) (again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := w.client.Do(req)
	if err != nil {
		return true, err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	if resp.StatusCode >= 300 {
		return resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests, fmt.Errorf("the audit webhook answered %s", resp.Status)
	}
	return false, nil
}
