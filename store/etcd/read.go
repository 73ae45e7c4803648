package etcd

import (
	"context"
	"errors"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"proa/store"
)

const (
	// pageKeys is how many objects one reading of Load asks for.
	pageKeys = 1000
	// replay is how many revisions of the past a store begins with at most, so
	// that clients can go on with their watches after a restart.
	replay = 20_000
	// reportEntries is how many changes are reported together at most.
	reportEntries = 1000
	// again is the time between attempts to watch.
	again = time.Second
)

// Load implements store.Remote. It begins in the past, at the last compaction
// or some thousand revisions ago, so that Follow brings the history since.
func (e *Engine) Load(ctx context.Context, emit func(store.Entry) error) (uint64, error) {
	revision, err := e.oldest(ctx)
	if err != nil {
		return 0, err
	}
	err = e.loadAt(ctx, revision, emit)
	if !errors.Is(err, store.ErrExpired) {
		return e.out(revision), err
	}
	// Somebody else compacts, too: there is no past to begin in.
	now, err := e.Newest(ctx)
	if err != nil {
		return 0, err
	}
	return now, e.loadAt(ctx, e.in(now), emit)
}

// oldest is the revision to begin at.
func (e *Engine) oldest(ctx context.Context) (int64, error) {
	resp, err := e.client.Get(ctx, e.compacted())
	if err != nil {
		return 0, explain(err, store.ErrUnavailable)
	}
	oldest := max(resp.Header.Revision-replay, 1)
	if len(resp.Kvs) == 1 {
		if last, err := strconv.ParseInt(string(resp.Kvs[0].Value), 10, 64); err == nil {
			oldest = max(oldest, last)
		}
	}
	// The revision may be from before a compaction that nobody noted.
	_, err = e.client.Get(ctx, e.objects, clientv3.WithPrefix(), clientv3.WithRev(oldest), clientv3.WithCountOnly())
	err = explain(err, store.ErrUnavailable)
	if errors.Is(err, store.ErrExpired) {
		return resp.Header.Revision, nil
	}
	return oldest, err
}

func (e *Engine) loadAt(ctx context.Context, revision int64, emit func(store.Entry) error) error {
	end := clientv3.GetPrefixRangeEnd(e.objects)
	for from := e.objects; ; {
		resp, err := e.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithRev(revision), clientv3.WithLimit(pageKeys))
		if err != nil {
			return explain(err, store.ErrUnavailable)
		}
		for _, kv := range resp.Kvs {
			entry, err := e.entry(kv)
			if err != nil {
				return err
			}
			if err := emit(entry); err != nil {
				return err
			}
		}
		if !resp.More {
			return nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

func (e *Engine) entry(kv *mvccpb.KeyValue) (store.Entry, error) {
	k, err := e.parse(string(kv.Key))
	if err != nil {
		return store.Entry{}, err
	}
	value := kv.Value
	if value == nil {
		value = []byte{} // nil is a deletion
	}
	return store.Entry{Key: k, Revision: e.out(kv.ModRevision), Value: value}, nil
}

// Follow implements store.Remote. Connections that break are the client
// library's business; a watch that etcd ends, for want of a leader say, is begun
// again here.
func (e *Engine) Follow(ctx context.Context, after uint64, report func([]store.Entry, uint64)) error {
	said := false
	for {
		err := e.watch(ctx, &after, report)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, store.ErrExpired):
			return err
		case !said:
			e.cfg.Log.Warn("the watch on etcd ended and is begun again", "error", err)
		}
		said = true
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *Engine) watch(ctx context.Context, after *uint64, report func([]store.Entry, uint64)) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	events := e.watcher.Watch(ctx, e.objects, clientv3.WithPrefix(), clientv3.WithRev(e.in(*after)+1), clientv3.WithProgressNotify())
	for resp := range events {
		b := batch{engine: e, revision: *after}
		err := b.add(&resp)
		for more := true; more && err == nil && len(b.entries) < reportEntries; {
			select {
			case next, ok := <-events:
				if more = ok; ok {
					err = b.add(&next)
				}
			default:
				more = false
			}
		}
		if b.revision > *after {
			report(b.entries, b.revision)
			*after = b.revision
		}
		if err != nil {
			return err
		}
	}
	return errors.New("closed")
}

// batch is what several answers of a watch say together.
type batch struct {
	engine   *Engine
	entries  []store.Entry
	revision uint64
}

func (b *batch) add(resp *clientv3.WatchResponse) error {
	if err := resp.Err(); err != nil {
		return explain(err, store.ErrUnavailable)
	}
	for _, ev := range resp.Events {
		entry, err := b.engine.entry(ev.Kv)
		if err != nil {
			b.engine.cfg.Log.Warn("passed over", "error", err)
			continue
		}
		if ev.Type == clientv3.EventTypeDelete {
			entry.Value = nil
		}
		b.entries = append(b.entries, entry)
	}
	switch {
	case len(resp.Events) > 0:
		b.revision = b.engine.out(resp.Events[len(resp.Events)-1].Kv.ModRevision)
	case resp.IsProgressNotify():
		b.revision = max(b.revision, b.engine.out(resp.Header.Revision))
	}
	return nil
}

// Nudge implements store.Remote. An error means that the connection is gone;
// when it is back, etcd tells by itself.
func (e *Engine) Nudge(ctx context.Context) {
	_ = e.watcher.RequestProgress(clientv3.WithRequireLeader(ctx))
}
