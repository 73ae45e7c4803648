package enginetest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/store"
)

// Embedded shows a store.Engine to the suite: it gives the revisions.
func Embedded(e store.Engine) Engine { return &embedded{Engine: e} }

type embedded struct {
	store.Engine
	revision uint64
}

func (e *embedded) Write(ctx context.Context, entries ...store.Entry) ([]store.Entry, error) {
	if e.revision == 0 {
		var err error
		if e.revision, err = e.Load(ctx, func(store.Entry) error { return nil }); err != nil {
			return nil, err
		}
	}
	entries = slices.Clone(entries)
	for i := range entries {
		e.revision++
		entries[i].Revision = e.revision
	}
	return entries, e.Commit(ctx, entries, false)
}

// Shared shows a store.Remote to the suite: what it holds is what it loads and
// what it reports after that.
func Shared(r store.Remote) Engine { return &shared{r} }

type shared struct{ store.Remote }

func (s *shared) Write(ctx context.Context, entries ...store.Entry) ([]store.Entry, error) {
	writes := make([]store.Write, len(entries))
	for i, e := range entries {
		writes[i] = store.Write{Key: e.Key, Expect: store.AnyRevision, Data: e.Value}
		if e.Value != nil {
			writes[i].Object = &corev1.ConfigMap{}
		}
	}
	revision, _, err := s.Submit(ctx, writes)
	entries = slices.Clone(entries)
	for i := range entries {
		entries[i].Revision = revision
	}
	return entries, err
}

func (s *shared) Load(ctx context.Context, emit func(store.Entry) error) (uint64, error) {
	all := map[store.Key]store.Entry{}
	revision, err := s.Remote.Load(ctx, func(e store.Entry) error {
		all[e.Key] = e
		return nil
	})
	if err != nil {
		return 0, err
	}
	newest, err := s.Newest(ctx)
	if err != nil {
		return 0, err
	}
	if revision, err = s.follow(ctx, all, revision, newest); err != nil {
		return 0, err
	}
	for _, e := range slices.SortedFunc(maps.Values(all), func(a, b store.Entry) int { return a.Key.Compare(b.Key) }) {
		if err := emit(e); err != nil {
			return 0, err
		}
	}
	return revision, nil
}

// follow brings a loaded state up to a revision.
func (s *shared) follow(ctx context.Context, all map[store.Key]store.Entry, revision, newest uint64) (uint64, error) {
	if revision >= newest {
		return revision, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var nudging sync.WaitGroup
	defer nudging.Wait()
	defer cancel()
	nudging.Go(func() {
		for ctx.Err() == nil {
			s.Nudge(ctx)
			time.Sleep(20 * time.Millisecond)
		}
	})
	err := s.Follow(ctx, revision, func(entries []store.Entry, reached uint64) {
		for _, e := range entries {
			if all[e.Key] = e; e.Value == nil {
				delete(all, e.Key)
			}
		}
		if revision = reached; reached >= newest {
			cancel()
		}
	})
	if errors.Is(err, context.Canceled) && revision >= newest {
		err = nil
	}
	return revision, err
}
