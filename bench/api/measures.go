package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// The namespaces that lists are of. Each is listed whole: upstream takes no
// notice of a limit where it answers from its cache.
const (
	crowd, crowdSize = "bench-crowd", 5000
	group, groupSize = "bench-group", 500
)

// measure is a kind of work, the same amount of it for each side, so that what
// the servers hold afterwards can be compared.
type measure struct {
	name string
	// times is how many operations a round has, clients how many at once.
	times, clients int
	op             func(ctx context.Context, s *side, round, n int) error
	// special measures what is not one operation after another.
	special func(ctx context.Context, s *side, round int) (result, error)
}

func measures() []measure {
	return []measure{
		{name: "create", times: sized(1500), op: create},
		{name: "get", times: sized(4000), op: get},
		{name: "list 500, protobuf", times: sized(200), clients: 4, op: list(runtime.ContentTypeProtobuf, group, groupSize)},
		{name: "list 500, JSON", times: sized(200), clients: 4, op: list(runtime.ContentTypeJSON, group, groupSize)},
		{name: "list 5000, protobuf", times: sized(12), clients: 4, op: list(runtime.ContentTypeProtobuf, crowd, crowdSize)},
		{name: "list 5000, JSON", times: sized(12), clients: 4, op: list(runtime.ContentTypeJSON, crowd, crowdSize)},
		{name: "merge patch", times: sized(1500), op: patch},
		{name: "update", times: sized(1500), op: update},
		{name: "events to 100 watchers, 8 writers", special: fanOut(8, sized(500), 0)},
		{name: "events to 100 watchers, 50 writes a second", special: fanOut(1, sized(100), 20*time.Millisecond)},
	}
}

// sized is as much of n as is asked for, at least one.
func sized(n int) int { return max(1, int(float64(n)**size)) }

// result is what came of one round.
type result struct {
	done      int
	wall, cpu time.Duration
	latencies []time.Duration // sorted
}

func (r result) perSecond() float64 { return float64(r.done) / r.wall.Seconds() }
func (r result) perCPU() float64    { return float64(r.done) / max(r.cpu, time.Millisecond).Seconds() }
func (r result) quantile(q float64) time.Duration {
	return r.latencies[min(len(r.latencies)-1, int(q*float64(len(r.latencies))))]
}

// prepare makes what lists are of.
func (s *side) prepare(ctx context.Context) error {
	for ns, size := range map[string]int{crowd: crowdSize, group: groupSize} {
		if err := s.namespace(ctx, ns); err != nil {
			return err
		}
		if _, err := s.work(size, 16, func(n int) error {
			_, err := s.client.CoreV1().ConfigMaps(ns).Create(ctx, object(fmt.Sprintf("m-%d", n)), metav1.CreateOptions{})
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

func (s *side) namespace(ctx context.Context, name string) error {
	_, err := s.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	return err
}

func (s *side) take(ctx context.Context, m measure, round int) (r result, err error) {
	if m.name == "create" {
		if err := s.namespace(ctx, roundName(round)); err != nil {
			return r, err
		}
	}
	before, err := s.cpu()
	if err != nil {
		return r, err
	}
	if m.special != nil {
		r, err = m.special(ctx, s, round)
	} else {
		r, err = s.work(m.times, m.atOnce(), func(n int) error { return m.op(ctx, s, round, n) })
	}
	if err != nil {
		return r, err
	}
	after, err := s.cpu()
	r.cpu = after - before
	return r, err
}

func (m measure) atOnce() int {
	if m.clients != 0 {
		return m.clients
	}
	return *clients
}

func roundName(round int) string { return fmt.Sprintf("bench-%d", round) }

// work runs op the given number of times from several goroutines.
func (s *side) work(times, clients int, op func(n int) error) (result, error) {
	var wg sync.WaitGroup
	var next atomic.Int64
	took, errs := make([][]time.Duration, clients), make([]error, clients)
	start := time.Now()
	for i := range clients {
		wg.Go(func() {
			for n := next.Add(1) - 1; n < int64(times) && errs[i] == nil; n = next.Add(1) - 1 {
				begin := time.Now()
				errs[i] = op(int(n))
				took[i] = append(took[i], time.Since(begin))
			}
		})
	}
	wg.Wait()
	all := slices.Concat(took...)
	slices.Sort(all)
	for _, err := range errs {
		if err != nil {
			return result{}, err
		}
	}
	return result{done: times, wall: time.Since(start), latencies: all}, nil
}

// object is a config map of about 1 kB with its managed fields.
func object(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "bench"}},
		Data:       map[string]string{"key": strings.Repeat("v", 512)},
	}
}

func create(ctx context.Context, s *side, round, n int) error {
	_, err := s.client.CoreV1().ConfigMaps(roundName(round)).Create(ctx, object(fmt.Sprintf("m-%d", n)), metav1.CreateOptions{})
	return err
}

func get(ctx context.Context, s *side, _, n int) error {
	_, err := s.client.CoreV1().ConfigMaps(crowd).Get(ctx, fmt.Sprintf("m-%d", n%crowdSize), metav1.GetOptions{})
	return err
}

// list reads a list and throws it away: decoding it would be the client's work.
func list(contentType, ns string, n int) func(context.Context, *side, int, int) error {
	return func(ctx context.Context, s *side, _, _ int) error {
		body, err := s.client.CoreV1().RESTClient().Get().Namespace(ns).Resource("configmaps").
			SetHeader("Accept", contentType).Stream(ctx)
		if err != nil {
			return err
		}
		defer body.Close()
		size, err := io.Copy(io.Discard, body)
		if err == nil && size < int64(n)*600 {
			return fmt.Errorf("a list of %d objects has %d bytes only", n, size)
		}
		return err
	}
}

func patch(ctx context.Context, s *side, round, n int) error {
	body := fmt.Sprintf(`{"data":{"n":"%d-%d"}}`, round, n)
	_, err := s.client.CoreV1().ConfigMaps(crowd).Patch(ctx, fmt.Sprintf("m-%d", n%500), types.MergePatchType, []byte(body), metav1.PatchOptions{})
	return err
}

func update(ctx context.Context, s *side, round, n int) error {
	m := object(fmt.Sprintf("m-%d", 500+n%500))
	m.Data["n"] = fmt.Sprintf("%d-%d", round, n)
	_, err := s.client.CoreV1().ConfigMaps(crowd).Update(ctx, m, metav1.UpdateOptions{})
	return err
}
