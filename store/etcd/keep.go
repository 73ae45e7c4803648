package etcd

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// compacted is the key that says how far etcd was compacted last. Servers use
// its version to agree on who does it next.
func (e *Engine) compacted() string { return e.cfg.Prefix + "/compacted" }

const (
	// keepWait bounds one round of housekeeping.
	keepWait = 30 * time.Second
	// relieveAgain is the shortest time between two attempts to help a full etcd.
	relieveAgain = time.Minute
)

// keep compacts, and helps etcd when it is full.
func (e *Engine) keep(ctx context.Context) {
	t := time.NewTicker(e.cfg.CompactEvery)
	defer t.Stop()
	c := compactor{Engine: e}
	var helped time.Time
	for {
		var err error
		round, cancel := context.WithTimeout(ctx, keepWait)
		select {
		case <-ctx.Done():
			cancel()
			return
		case <-t.C:
			err = c.compact(round)
			e.measure(round)
		case <-e.full:
			if time.Since(helped) > relieveAgain {
				helped = time.Now()
				err = e.makeRoom(round)
			}
		}
		cancel()
		if err != nil && ctx.Err() == nil {
			e.cfg.Log.Warn("etcd's housekeeping failed; it is tried again", "error", err)
		}
	}
}

// compactor compacts at the revision of one round ago, if no other server did
// since: all write the same key on the condition that nobody has meanwhile.
type compactor struct {
	*Engine
	version  int64 // of the key, when it was last seen
	revision int64 // of etcd, one round ago
}

func (c *compactor) compact(ctx context.Context) error {
	key := c.compacted()
	resp, err := c.client.Txn(ctx).If(clientv3.Compare(clientv3.Version(key), "=", c.version)).
		Then(clientv3.OpPut(key, strconv.FormatInt(c.revision, 10))).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return err
	}
	before := c.revision
	c.revision = resp.Header.Revision
	if !resp.Succeeded { // somebody else's turn
		c.version = 0
		if kvs := resp.Responses[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
			c.version = kvs[0].Version
		}
		return nil
	}
	c.version++
	if before == 0 {
		return nil
	}
	return c.compactAt(ctx, before)
}

func (e *Engine) compactAt(ctx context.Context, revision int64) error {
	_, err := e.client.Compact(ctx, revision, clientv3.WithCompactPhysical())
	if is(err, rpctypes.ErrCompacted) {
		return nil
	}
	return err
}

// relieve asks the keeper to help.
func (e *Engine) relieve() {
	select {
	case e.full <- struct{}{}:
	default:
	}
}

// makeRoom gives up all history, has every member give back what that frees,
// and takes etcd out of its read-only state. Where that was not enough, etcd
// goes back to it with the next write.
func (e *Engine) makeRoom(ctx context.Context) error {
	alarms, err := e.client.AlarmList(ctx)
	if err != nil {
		return err
	}
	raised := false
	for _, a := range alarms.Alarms {
		raised = raised || a.Alarm == etcdserverpb.AlarmType_NOSPACE
	}
	if !raised {
		return nil
	}
	now, err := e.client.Get(ctx, e.compacted())
	if err != nil {
		return err
	}
	if err := e.compactAt(ctx, now.Header.Revision); err != nil {
		return err
	}
	members, err := e.client.MemberList(ctx)
	if err != nil {
		return err
	}
	for _, m := range members.Members {
		if len(m.ClientURLs) == 0 {
			continue
		}
		if _, err := e.client.Defragment(ctx, m.ClientURLs[0]); err != nil {
			return fmt.Errorf("defragmenting %s: %w", m.Name, err)
		}
	}
	for _, a := range alarms.Alarms {
		if a.Alarm == etcdserverpb.AlarmType_NOSPACE {
			if _, err := e.client.AlarmDisarm(ctx, (*clientv3.AlarmMember)(a)); err != nil {
				return err
			}
		}
	}
	e.measure(ctx)
	e.cfg.Log.Warn("etcd was full: its history was compacted, its space given back and its alarm taken off", "bytes", e.size.Load())
	return nil
}
