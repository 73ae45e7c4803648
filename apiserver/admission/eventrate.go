package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/lru"
)

// eventLimit is how many events may come of one server, namespace, user, or source
// and object: burst at once, then qps a second.
type eventLimit struct {
	Type      string `json:"type"`
	QPS       int32  `json:"qps"`
	Burst     int32  `json:"burst"`
	CacheSize int32  `json:"cacheSize"`
}

// eventKeys tell what a limit counts apart.
var eventKeys = map[string]func(*Request, *corev1.Event) string{
	"Server":    func(*Request, *corev1.Event) string { return "" },
	"Namespace": func(r *Request, _ *corev1.Event) string { return r.Namespace },
	"User":      func(r *Request, _ *corev1.Event) string { return r.User.Name },
	"SourceAndObject": func(_ *Request, e *corev1.Event) string {
		o := e.InvolvedObject
		return strings.Join([]string{e.Source.Component, e.Source.Host, o.Kind, o.Namespace, o.Name, string(o.UID), o.APIVersion}, "")
	},
}

// defaultBuckets is how many keys a limit remembers unless it says.
const defaultBuckets = 4096

func (s *settings) readEventLimits(data []byte) error {
	var conf struct {
		APIVersion string       `json:"apiVersion"`
		Kind       string       `json:"kind"`
		Limits     []eventLimit `json:"limits"`
	}
	if err := typed(data, "eventratelimit.admission.k8s.io/v1alpha1", &conf); err != nil {
		return err
	}
	for i, l := range conf.Limits {
		switch {
		case eventKeys[l.Type] == nil:
			return fmt.Errorf("limits[%d].type: Unsupported value: %q", i, l.Type)
		case l.Burst <= 0:
			return fmt.Errorf("limits[%d].burst: Invalid value: %d: must be positive", i, l.Burst)
		case l.QPS <= 0:
			return fmt.Errorf("limits[%d].qps: Invalid value: %d: must be positive", i, l.QPS)
		case l.CacheSize < 0:
			return fmt.Errorf("limits[%d].cacheSize: Invalid value: %d: must not be negative", i, l.CacheSize)
		}
	}
	s.eventLimits = conf.Limits
	return nil
}

// eventRateLimit refuses events beyond what the limits let through. It is off
// unless asked for.
func eventRateLimit(limits []eventLimit, now func() time.Time) Plugin {
	p := Plugin{Name: "EventRateLimit"}
	if len(limits) == 0 {
		p.broken = errors.New("limits: Invalid value: must not be empty")
		return p
	}
	var buckets []*eventBuckets
	for _, l := range limits {
		if l.CacheSize == 0 {
			l.CacheSize = defaultBuckets
		}
		buckets = append(buckets, &eventBuckets{limit: l, all: lru.New(int(l.CacheSize))})
	}
	p.Validate = func(_ context.Context, r *Request) error {
		event, ok := r.Object.(*corev1.Event)
		if !ok || r.Op != Create && r.Op != Update || r.DryRun {
			return nil
		}
		var errs []string
		for _, b := range buckets {
			if key := eventKeys[b.limit.Type](r, event); !b.take(key, now()) {
				errs = append(errs, fmt.Sprintf("limit reached on type %v for key %v", b.limit.Type, key))
			}
		}
		switch len(errs) {
		case 0:
			return nil
		case 1:
			return apierrors.NewTooManyRequestsError(errs[0])
		}
		return apierrors.NewTooManyRequestsError("[" + strings.Join(errs, ", ") + "]")
	}
	return p
}

// eventBuckets are the token buckets of one limit, by key; those that were used
// last are kept.
type eventBuckets struct {
	limit eventLimit
	mu    sync.Mutex
	all   *lru.Cache
}

type eventBucket struct {
	tokens float64
	at     time.Time
}

func (b *eventBuckets) take(key string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	got, ok := b.all.Get(key)
	if !ok {
		got = &eventBucket{float64(b.limit.Burst), now}
		b.all.Add(key, got)
	}
	one := got.(*eventBucket)
	one.tokens = min(float64(b.limit.Burst), one.tokens+max(0, now.Sub(one.at).Seconds())*float64(b.limit.QPS))
	one.at = now
	if one.tokens < 1 {
		return false
	}
	one.tokens--
	return true
}
