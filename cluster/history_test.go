package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const crashKeys = 3

type world [crashKeys]string

// act is what a client did: read all, put a value, or put it where it last saw
// another one.
type act struct {
	list      bool
	key       int
	was, next string // was is "" for any
}

type saw struct {
	world    world
	conflict bool
	unknown  bool
}

var oneWorld = (&porcupine.NondeterministicModel{
	Init:  func() []any { return []any{world{"0", "0", "0"}} },
	Equal: func(a, b any) bool { return a == b },
	Step: func(state, in, out any) []any {
		s, a, o := state.(world), in.(act), out.(saw)
		if a.list {
			if s == o.world {
				return []any{s}
			}
			return nil
		}
		applies := a.was == "" || s[a.key] == a.was
		after := s
		after[a.key] = a.next
		switch {
		case o.unknown && applies:
			return []any{s, after}
		case o.unknown, o.conflict && !applies:
			return []any{s}
		case !o.conflict && applies:
			return []any{after}
		}
		return nil
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v → %+v", in, out) },
}).ToModel()

// judge runs clients while fault is called, and then judges what they saw.
func judge(t *testing.T, servers []*victim, fault func(round int)) {
	h := newHistory(t, servers)
	stop := h.run(t, servers)
	for round := range crashRounds() {
		time.Sleep(time.Duration(300+rand.IntN(700)) * time.Millisecond)
		fault(round)
	}
	h.more(t, 10)
	stop()
	h.judge(t, servers[0])
	if len(h.acked) < 5*crashRounds() {
		t.Error("too little was written to judge")
	}
}

func newHistory(t *testing.T, servers []*victim) *history {
	h := &history{began: time.Now(), acked: map[uint64]string{}}
	for k := range crashKeys {
		if _, err := servers[0].client.CoreV1().ConfigMaps("default").Create(t.Context(), h.object(k, "0"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// run has clients work with all servers until stop.
func (h *history) run(t *testing.T, servers []*victim) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for id := range 4 {
		wg.Go(func() { h.work(ctx, servers[id%len(servers)].client, id) })
	}
	for i, v := range servers {
		wg.Go(func() { h.watch(ctx, t, i, v.client) })
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// more waits until some more writes were acknowledged.
func (h *history) more(t *testing.T, n int) {
	t.Helper()
	count := func() int {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.acked)
	}
	before := count()
	eventually(t, "some more writes", func() bool { return count() >= before+n })
}

// judge reads once more and then looks at all that was seen.
func (h *history) judge(t *testing.T, v *victim) {
	t.Helper()
	call := time.Since(h.began)
	list, err := v.client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{LabelSelector: "crash"})
	if err != nil {
		t.Fatalf("%v; the server said: %s", err, v.said.String())
	}
	h.add(99, act{list: true}, call, saw{world: seen(list)}, time.Since(h.began))
	got, info := porcupine.CheckOperationsVerbose(oneWorld, h.ops, 5*time.Minute)
	t.Logf("%d operations, %d writes acknowledged, %d watches", len(h.ops), len(h.acked), len(h.spans))
	if got != porcupine.Ok {
		t.Errorf("the history of %d operations is %s; see %s", len(h.ops), got, picture(info))
	}
	h.judgeWatches(t)
}

// picture is where the history can be looked at.
func picture(info porcupine.LinearizationInfo) string {
	f, err := os.CreateTemp("", "history-*.html")
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if err := porcupine.Visualize(oneWorld, info, f); err != nil {
		return err.Error()
	}
	return f.Name()
}

// history is what the clients saw.
type history struct {
	began time.Time
	mu    sync.Mutex
	ops   []porcupine.Operation
	acked map[uint64]string // what was written at a revision
	spans []span
}

// span is what one watch said, from the revision of its list on.
type span struct {
	server   int
	from, to uint64
	events   map[uint64]string
}

func (h *history) object(key int, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("k", key), Labels: map[string]string{"crash": ""}}, Data: map[string]string{"v": value}}
}

func (h *history) add(client int, in act, call time.Duration, out saw, end time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if out.unknown {
		end = 24 * time.Hour // it may take effect whenever
	}
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Call: int64(call), Output: out, Return: int64(end)})
}

func seen(list *corev1.ConfigMapList) (w world) {
	for _, cm := range list.Items {
		if k, err := strconv.Atoi(strings.TrimPrefix(cm.Name, "k")); err == nil {
			w[k] = cm.Data["v"]
		}
	}
	return w
}

// work is one client after the other: an operation whose outcome is not known
// ends a client, for the checker.
func (h *history) work(ctx context.Context, c *kubernetes.Clientset, id int) {
	maps := c.CoreV1().ConfigMaps("default")
	for n := 0; ctx.Err() == nil; n++ {
		call := time.Since(h.began)
		list, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "crash"})
		if err != nil {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		h.add(id, act{list: true}, call, saw{world: seen(list)}, time.Since(h.began))
		a := act{key: rand.IntN(crashKeys), next: fmt.Sprintf("%d-%d", id, n)}
		obj := h.object(a.key, a.next)
		if rand.IntN(2) == 0 {
			obj.ResourceVersion, a.was = list.Items[a.key].ResourceVersion, list.Items[a.key].Data["v"]
		}
		call = time.Since(h.began)
		done, err := maps.Update(context.WithoutCancel(ctx), obj, metav1.UpdateOptions{})
		switch {
		case err == nil:
			h.add(id, a, call, saw{}, time.Since(h.began))
			h.mu.Lock()
			h.acked[number(done.ResourceVersion)] = a.next
			h.mu.Unlock()
		case apierrors.IsConflict(err):
			h.add(id, a, call, saw{conflict: true}, time.Since(h.began))
		default:
			h.add(id, a, call, saw{unknown: true}, 0)
			id += 100
		}
	}
}

func number(rv string) uint64 {
	n, _ := strconv.ParseUint(rv, 10, 64) // what a server of ours says
	return n
}

// watch follows with list and watch, again after each break.
func (h *history) watch(ctx context.Context, t *testing.T, server int, c *kubernetes.Clientset) {
	maps := c.CoreV1().ConfigMaps("default")
	for ctx.Err() == nil {
		list, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "crash"})
		if err != nil {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		w, err := maps.Watch(ctx, metav1.ListOptions{LabelSelector: "crash", ResourceVersion: list.ResourceVersion})
		if err != nil {
			continue
		}
		s := span{server: server, from: number(list.ResourceVersion), events: map[uint64]string{}}
		s.to = s.from
		for ev := range w.ResultChan() {
			cm, ok := ev.Object.(*corev1.ConfigMap)
			if !ok {
				break
			}
			rev := number(cm.ResourceVersion)
			if rev <= s.to {
				t.Errorf("a watch went from %d to %d", s.to, rev)
			}
			s.to = rev
			s.events[rev] = cm.Data["v"]
		}
		w.Stop()
		h.mu.Lock()
		h.spans = append(h.spans, s)
		h.mu.Unlock()
	}
}

// watches tells how many a server's clients needed.
func (h *history) watches(server int) (n int) {
	for _, s := range h.spans {
		if s.server == server {
			n++
		}
	}
	return n
}

// judgeWatches: what was acknowledged within a watch's span, it told.
func (h *history) judgeWatches(t *testing.T) {
	told := 0
	for _, s := range h.spans {
		told += len(s.events)
		for rev, value := range h.acked {
			if rev > s.from && rev <= s.to && s.events[rev] != value {
				t.Errorf("%q was written at %d, and a watch from %d to %d told %q", value, rev, s.from, s.to, s.events[rev])
			}
		}
	}
	if told < len(h.acked)/5 {
		t.Errorf("of %d writes watches told %d", len(h.acked), told)
	}
}
