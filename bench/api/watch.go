package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// watchers are as many as watch, over so many connections.
const watchers, connections = 100, 10

// fanOut measures how fast events reach many watchers of one namespace. The
// latency of an event is from before its write to when a watcher has it; every
// is the time between a writer's writes.
func fanOut(writers, writes int, every time.Duration) func(context.Context, *side, int) (result, error) {
	return func(ctx context.Context, s *side, round int) (result, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		ns := fmt.Sprintf("bench-watch-%d-%d", writers, round)
		if err := s.namespace(ctx, ns); err != nil {
			return result{}, err
		}
		streams, err := s.watchAll(ctx, ns)
		if err != nil {
			return result{}, err
		}
		var wg sync.WaitGroup
		took, errs := make([][]time.Duration, watchers), make([]error, watchers+1)
		start := time.Now()
		for i, stream := range streams {
			wg.Go(func() {
				defer stream.Stop()
				took[i], errs[i] = follow(stream, writes)
			})
		}
		_, errs[watchers] = s.work(writes, writers, func(n int) error {
			time.Sleep(time.Until(start.Add(time.Duration(n) * every)))
			m := object(fmt.Sprintf("m-%d", n))
			m.Labels["sent"] = strconv.FormatInt(time.Now().UnixNano(), 10)
			_, err := s.client.CoreV1().ConfigMaps(ns).Create(ctx, m, metav1.CreateOptions{})
			return err
		})
		wg.Wait()
		all := slices.Concat(took...)
		slices.Sort(all)
		return result{done: len(all), wall: time.Since(start), latencies: all}, errors.Join(errs...)
	}
}

func (s *side) watchAll(ctx context.Context, ns string) (streams []watch.Interface, err error) {
	clients := make([]*kubernetes.Clientset, connections)
	for i := range clients {
		if clients[i], err = s.connect(); err != nil {
			return nil, err
		}
	}
	l, err := s.client.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range watchers {
		w, err := clients[i%connections].CoreV1().ConfigMaps(ns).Watch(ctx, metav1.ListOptions{ResourceVersion: l.ResourceVersion, LabelSelector: "sent"})
		if err != nil {
			return nil, err
		}
		streams = append(streams, w)
	}
	return streams, nil
}

// follow reads so many events.
func follow(stream watch.Interface, n int) (took []time.Duration, err error) {
	deadline := time.After(2 * time.Minute)
	for len(took) < n {
		select {
		case e, open := <-stream.ResultChan():
			m, ok := e.Object.(*corev1.ConfigMap)
			if !open || !ok || e.Type != watch.Added {
				return took, fmt.Errorf("a watch showed %v %v after %d of %d events", e.Type, e.Object, len(took), n)
			}
			sent, err := strconv.ParseInt(m.Labels["sent"], 10, 64)
			if err != nil {
				return took, err
			}
			took = append(took, time.Since(time.Unix(0, sent)))
		case <-deadline:
			return took, fmt.Errorf("a watch had %d of %d events after two minutes", len(took), n)
		}
	}
	return took, nil
}
