package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"proa/store"
)

// maxRequest is what we send at most; etcd's own limit (--max-request-bytes,
// 1.5 MiB by default) is usually lower.
const maxRequest = 16 << 20

// Submit implements store.Remote.
func (e *Engine) Submit(ctx context.Context, writes []store.Write) (uint64, []bool, error) {
	var compares []clientv3.Cmp
	var does, reads []clientv3.Op
	for i := range writes {
		w := &writes[i]
		key := e.key(w.Key)
		if w.Expect != store.AnyRevision {
			compares = append(compares, clientv3.Compare(clientv3.ModRevision(key), "=", e.in(w.Expect)))
		}
		if w.Object == nil {
			does = append(does, clientv3.OpDelete(key))
		} else {
			does = append(does, clientv3.OpPut(key, string(w.Kept())))
		}
		reads = append(reads, clientv3.OpGet(key, clientv3.WithKeysOnly()))
	}
	resp, err := e.client.Txn(ctx).If(compares...).Then(does...).Else(reads...).Commit()
	if err != nil {
		err = explain(err, store.ErrUnconfirmed)
		if errors.Is(err, store.ErrNoSpace) {
			e.room.Store(&err)
			e.relieve()
		}
		return 0, nil, err
	}
	if !resp.Succeeded {
		return 0, nil, e.conflict(writes, resp.Responses)
	}
	changed := make([]bool, len(writes))
	for i, r := range resp.Responses {
		if writes[i].Object != nil && e.room.Load() != nil {
			e.room.Store(nil)
		}
		changed[i] = writes[i].Object != nil || r.GetResponseDeleteRange().GetDeleted() > 0
	}
	return e.out(resp.Header.Revision), changed, nil
}

// Room implements store.Remote.
func (e *Engine) Room() error {
	if err := e.room.Load(); err != nil {
		return *err
	}
	return nil
}

// conflict finds the first write whose key was not as expected.
func (e *Engine) conflict(writes []store.Write, found []*etcdserverpb.ResponseOp) error {
	for i := range writes {
		var actual uint64
		if kvs := found[i].GetResponseRange().GetKvs(); len(kvs) > 0 {
			actual = e.out(kvs[0].ModRevision)
		}
		if w := &writes[i]; w.Expect != store.AnyRevision && w.Expect != actual {
			return &store.ConflictError{Key: w.Key, Expected: w.Expect, Actual: actual}
		}
	}
	return fmt.Errorf("%w: etcd refused a transaction whose conditions hold", store.ErrUnavailable)
}

// explain turns an error of etcd's client into one of the store's. uncertain is
// what an error means that says nothing about the outcome.
func explain(err, uncertain error) error {
	var known rpctypes.EtcdError
	if !errors.As(err, &known) && errors.As(rpctypes.Error(err), &known) {
		err = known
	}
	switch {
	case err == nil:
		return nil
	case is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("%w: etcd has reached its quota (--quota-backend-bytes)", store.ErrNoSpace)
	case is(err, rpctypes.ErrRequestTooLarge, rpctypes.ErrTooManyOps):
		return fmt.Errorf("%w: %w", store.ErrTooLarge, err)
	case is(err, rpctypes.ErrCompacted):
		return fmt.Errorf("%w: %w", store.ErrExpired, err)
	case is(err, rpctypes.ErrTooManyRequests, rpctypes.ErrPermissionDenied, rpctypes.ErrAuthFailed, rpctypes.ErrUserEmpty):
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	case status.Code(err) == codes.ResourceExhausted:
		return fmt.Errorf("%w: %w", store.ErrTooLarge, err)
	}
	return fmt.Errorf("%w (%w)", uncertain, err)
}

func is(err error, any ...error) bool {
	for _, target := range any {
		if errors.Is(err, target) || rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(target) {
			return true
		}
	}
	return false
}

// Begin prepares an empty prefix for what a snapshot holds: the next revision is
// given to be greater than any before. It fails where there is something.
func (e *Engine) Begin(ctx context.Context, revision uint64) error {
	resp, err := e.client.Get(ctx, e.cfg.Prefix+"/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return explain(err, store.ErrUnavailable)
	}
	if resp.Count > 0 {
		return fmt.Errorf("etcd holds %d keys under %s already: choose another --datastore-prefix, or delete them", resp.Count, e.cfg.Prefix)
	}
	_, err = e.client.Put(ctx, e.cfg.Prefix+"/base", strconv.FormatUint(revision, 10))
	e.base = revision
	return explain(err, store.ErrUnconfirmed)
}

// fillers is how many entries Fill puts at once; etcd syncs them together.
const fillers = 64

// Fill puts entries as they are, under revisions of etcd's choice.
func (e *Engine) Fill(ctx context.Context, entries []store.Entry) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fillers)
	for _, en := range entries {
		group.Go(func() error {
			if _, err := e.client.Put(ctx, e.key(en.Key), string(en.Value)); err != nil {
				return fmt.Errorf("%s: %w", en.Key, explain(err, store.ErrUnconfirmed))
			}
			return nil
		})
	}
	return group.Wait()
}
