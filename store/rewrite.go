package store

import (
	"context"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
)

// Rewrite writes every stale record again, so that nothing on disk is sealed by
// what has been replaced, and returns how many it wrote. Each gets a new
// revision; watchers see a change without a difference. It can be called again
// after it failed half-way, and while others write.
func (s *Store) Rewrite(ctx context.Context) (int, error) {
	if s.shared.sealer == nil {
		return 0, nil
	}
	// What the committer had in hand may be sealed by the old; once it has done
	// this, all that comes is sealed by the new.
	if s.remote == nil {
		if err := s.submit(ctx, &job{done: make(chan struct{})}); err != nil {
			return 0, err
		}
	}
	total := 0
	for {
		stale := s.stale()
		if len(stale) == 0 {
			return total, s.forgetOld(ctx, total)
		}
		n, err := s.rewrite(ctx, stale)
		total += n
		if err != nil {
			return total, err
		}
	}
}

// forgetOld has an engine that keeps what was overwritten for a while let go of
// it now.
func (s *Store) forgetOld(ctx context.Context, rewritten int) error {
	c, keeps := s.engine.(interface{ Compact(context.Context) error })
	if !keeps || rewritten == 0 {
		return nil
	}
	return c.Compact(ctx)
}

func (s *Store) stale() (out []*Record) {
	s.world.Load().trees.Scan(func(_ string, t *tree) bool {
		t.records.Scan(func(r *Record) bool {
			if r.Stale() {
				out = append(out, r)
			}
			return true
		})
		return true
	})
	return out
}

// rewriteAtOnce bounds what is in memory twice.
const rewriteAtOnce = 64

// rewrite commits records in groups. One that somebody else wrote meanwhile is
// not stale any more, and makes its group be tried one by one.
func (s *Store) rewrite(ctx context.Context, stale []*Record) (n int, err error) {
	for len(stale) > 0 {
		group := stale[:min(rewriteAtOnce, len(stale))]
		stale = stale[len(group):]
		err := s.again(ctx, group...)
		if errors.Is(err, ErrConflict) {
			for _, r := range group {
				if err = s.again(ctx, r); err != nil && !errors.Is(err, ErrConflict) {
					break
				}
				err = nil
			}
		}
		if err != nil {
			return n, err
		}
		n += len(group)
	}
	return n, nil
}

// copyOf is the object of a record that is to be written again. What is no kind
// (any more, or records that the API keeps for itself) is bytes alone.
func (s *Store) copyOf(r *Record) (api.Object, error) {
	if s.registry.ByKey(r.key.Resource) == nil {
		return &metav1.PartialObjectMetadata{}, nil
	}
	obj, err := r.Object()
	if err != nil {
		return nil, err
	}
	own, ok := obj.DeepCopyObject().(api.Object)
	if !ok {
		return nil, fmt.Errorf("store: the copy of %s is no object", r.key)
	}
	return own, nil
}

func (s *Store) again(ctx context.Context, records ...*Record) error {
	writes := make([]Write, len(records))
	for i, r := range records {
		own, err := s.copyOf(r)
		if err != nil {
			return err
		}
		writes[i] = Write{Key: r.key, Object: own, Expect: r.revision, Data: r.data}
	}
	_, err := s.Commit(ctx, writes...)
	return err
}
