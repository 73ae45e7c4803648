package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumehelper "k8s.io/component-helpers/storage/volume"

	"proa/client"
)

// claimTimeout is how long a chosen node is held for volumes to be made.
const claimTimeout = 10 * time.Minute

// assign counts the pod on its node from now on and binds it beside the loop.
func (l *loop) assign(ctx context.Context, e *entry, d decision) {
	l.queue.drop(e.info.key)
	l.unnominate(e.info, &l.changed)
	p := e.info
	p.node, p.assumed = d.node.name, true
	l.cluster.place(p)
	var claims []claimPlan
	if v := d.cycle.volumes; v != nil && len(v.waiting) > 0 {
		claims, _ = v.plan(d.node.obj)
	}
	changed := l.volumes
	binding := &corev1.Binding{ // made here, because the loop goes on changing p
		ObjectMeta: metav1.ObjectMeta{Namespace: p.key.Namespace, Name: p.key.Name, UID: p.pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: p.node},
	}
	l.write(func() func(time.Time) {
		err := l.bind(ctx, binding, claims, changed)
		return func(now time.Time) { l.bound(ctx, e, p, err, now) }
	})
	l.changed.pods = true
}

// bind settles the pod's claims and then the pod.
func (l *loop) bind(ctx context.Context, binding *corev1.Binding, claims []claimPlan, changed chan struct{}) error {
	if len(claims) > 0 {
		if err := l.bindClaims(ctx, binding.Target.Name, claims, changed); err != nil {
			return err
		}
	}
	_, err := l.cfg.Client.Post(ctx, l.pods, client.KeyOf(binding), "binding", binding)
	return err
}

// bound takes in how a binding ended.
func (l *loop) bound(ctx context.Context, e *entry, p *podInfo, err error, now time.Time) {
	if err == nil {
		l.events.Eventf(p.pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s to %s", p.key, p.node)
		return
	}
	if l.cluster.pods[p.key] != p {
		return // the pod is gone, or on a node after all
	}
	l.changed.node(l.cluster.nodes[p.node])
	l.changed.pods = true
	l.cluster.take(p)
	if apierrors.IsNotFound(err) || ctx.Err() != nil {
		return
	}
	p.node, p.assumed = "", false
	why := &Explanation{Before: "binding rejected: " + err.Error()}
	l.events.Event(p.pod, corev1.EventTypeWarning, "FailedScheduling", why.Before)
	l.setCondition(ctx, p, "SchedulerError", why.Before, "")
	e.info, e.state = p, waiting
	l.queue.entries[p.key] = e
	l.queue.failed(e, nil, now)
	l.queue.ready(e, now) // nothing needs to change for another attempt
}

// bindClaims gives each claim its volume, or says for which node to make one,
// and waits until all are bound.
func (l *loop) bindClaims(ctx context.Context, node string, claims []claimPlan, changed chan struct{}) error {
	for _, c := range claims {
		if err := l.settleClaim(ctx, node, c); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, claimTimeout, errors.New("timed out waiting for the condition"))
	defer cancel()
	for {
		ok, err := l.claimsBound(ctx, claims)
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("binding volumes: %w", context.Cause(ctx))
		case <-changed:
		}
		if changed, err = l.nextVolumes(ctx); err != nil {
			return err
		}
	}
}

// nextVolumes asks the loop for the channel that tells the next change.
func (l *loop) nextVolumes(ctx context.Context) (chan struct{}, error) {
	reply := make(chan chan struct{}, 1)
	select {
	case l.asks <- reply:
		return <-reply, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *loop) claimsBound(ctx context.Context, claims []claimPlan) (bool, error) {
	for _, c := range claims {
		obj, err := l.cfg.Client.Get(ctx, client.Row[corev1.PersistentVolumeClaim](), client.KeyOf(c.claim))
		if err != nil {
			return false, fmt.Errorf("binding volumes: %w", err)
		}
		claim := obj.(*corev1.PersistentVolumeClaim)
		if !isBound(claim) {
			if c.volume == nil && claim.Annotations[volumehelper.AnnSelectedNode] == "" {
				// The provisioner gave up on this node.
				return false, fmt.Errorf("binding volumes: provisioning failed for PVC %q", claim.Name)
			}
			return false, nil
		}
	}
	return true, nil
}

// settleClaim reserves a volume for a claim, or selects the node for its
// provisioner.
func (l *loop) settleClaim(ctx context.Context, node string, c claimPlan) error {
	if c.volume != nil {
		pv, dirty, err := volumehelper.GetBindVolumeToClaim(c.volume, c.claim)
		if err == nil && dirty {
			_, err = l.cfg.Client.Update(ctx, pv, "")
		}
		return err
	}
	claim := c.claim.DeepCopy()
	if claim.Annotations[volumehelper.AnnSelectedNode] == node {
		return nil
	}
	if claim.Annotations == nil {
		claim.Annotations = map[string]string{}
	}
	claim.Annotations[volumehelper.AnnSelectedNode] = node
	_, err := l.cfg.Client.Update(ctx, claim, "")
	return err
}
