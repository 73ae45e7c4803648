package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"
)

// How many pods are measured one at a time, and together.
const single, together, atATime = 20, 40, 20

type client struct{ *kubernetes.Clientset }

func (m *machine) client() (client, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", m.ready.Kubeconfig)
	if err != nil {
		return client{}, err
	}
	cfg.QPS = -1
	c, err := kubernetes.NewForConfig(cfg)
	return client{c}, err
}

// run creates a pod and returns how long it took to be Running and Ready.
func (c client) run(ctx context.Context, name string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	pods := c.CoreV1().Pods("default")
	w, err := pods.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return 0, err
	}
	defer w.Stop()
	began := time.Now()
	if err := c.create(ctx, name); err != nil {
		return 0, err
	}
	var last any
	for e := range w.ResultChan() {
		if pod, ok := e.Object.(*corev1.Pod); ok && ready(pod) {
			return time.Since(began), nil
		}
		last = e
	}
	return 0, c.explain(name, last, ctx.Err())
}

// explain tells what is known of a pod that was not seen to become ready: the
// last event of its watch, why the watch ended, and the pod and its events now.
func (c client) explain(name string, last any, ended error) error {
	pod, err := c.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("pod %s was not seen to become ready (its watch ended: %v): %w", name, ended, err)
	}
	pod.ManagedFields = nil
	said, _ := c.CoreV1().Events("default").List(context.Background(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
	text, err := json.MarshalIndent(map[string]any{"watched": last, "now": pod, "events": said}, "", "  ")
	return errors.Join(fmt.Errorf("pod %s was not seen to become ready (its watch ended: %v)\n%s", name, ended, text), err)
}

// create waits for the namespace's service account, which a cluster that has
// just started may not have yet.
func (c client) create(ctx context.Context, name string) error {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: ptr.To[int64](0),
		Containers: []corev1.Container{{Name: "main", Image: "busybox", ImagePullPolicy: corev1.PullIfNotPresent,
			Command: []string{"sleep", "3600"}}}}}
	for {
		_, err := c.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

func ready(pod *corev1.Pod) bool {
	for _, cond := range pod.Status.Conditions {
		if cond.Type == corev1.PodReady {
			return cond.Status == corev1.ConditionTrue
		}
	}
	return false
}

// gone deletes the pods and waits until they are.
func (c client) gone(ctx context.Context) error {
	pods := c.CoreV1().Pods("default")
	if err := pods.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return err
	}
	for {
		list, err := pods.List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) == 0 {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// pods measures create → Running, one at a time and twenty at a time.
func pods() (err error) {
	m, _, err := newMachine()
	if m != nil {
		defer func() { err = errors.Join(err, m.remove()) }()
	}
	if err != nil {
		return err
	}
	c, err := m.client()
	if err != nil {
		return err
	}
	ctx := context.Background()
	var took []time.Duration
	for i := range single {
		d, err := c.run(ctx, fmt.Sprintf("single-%d", i))
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	row("pod create → Running, one at a time, %d pods", single, "p50 %d ms, p99 %d ms", median(took).Milliseconds(), quantile(took, 0.99).Milliseconds())
	var rates []float64
	for range *runs {
		if err := c.gone(ctx); err != nil {
			return err
		}
		rate, err := c.burst(ctx)
		if err != nil {
			return err
		}
		rates = append(rates, rate)
	}
	row("%d pods, 20 at a time, median", together, "%.1f pods/s (of %.1f)", medianOf(rates), rates)
	return nil
}

func (c client) burst(ctx context.Context) (perSecond float64, err error) {
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atATime)
	for i := range together {
		g.Go(func() error {
			_, err := c.run(ctx, fmt.Sprintf("burst-%d", i))
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	return together / time.Since(began).Seconds(), nil
}
