package etcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
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
			compares = append(compares, clientv3.Compare(clientv3.ModRevision(key), "=", int64(w.Expect)))
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
			e.relieve()
		}
		return 0, nil, err
	}
	if !resp.Succeeded {
		return 0, nil, conflict(writes, resp.Responses)
	}
	changed := make([]bool, len(writes))
	for i, r := range resp.Responses {
		changed[i] = writes[i].Object != nil || r.GetResponseDeleteRange().GetDeleted() > 0
	}
	return uint64(resp.Header.Revision), changed, nil
}

// conflict finds the first write whose key was not as expected.
func conflict(writes []store.Write, found []*etcdserverpb.ResponseOp) error {
	for i := range writes {
		var actual uint64
		if kvs := found[i].GetResponseRange().GetKvs(); len(kvs) > 0 {
			actual = uint64(kvs[0].ModRevision)
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
