package apiserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"proa/auth"
	"proa/client"
	"proa/store"
)

// With several servers on one datastore each says by a Lease that it lives, as
// upstream's do, and where. The Service default/kubernetes leads to all of them:
// each adds itself, and the first in order of those that live takes out the dead.

const (
	peerLabel  = "apiserver.kubernetes.io/identity"
	peerValue  = "kube-apiserver"
	peerPrefix = "apiserver-"
	// peerLife is how long a server is taken to live after it was last seen to
	// renew; it does so every third of that.
	peerLife = 30 * time.Second
)

// peers is what this server knows of the others. It belongs to keep.
type peers struct {
	identity string
	// seen is the version of each Lease, and since when.
	seen map[string]sighting
}

type sighting struct {
	version string
	at      time.Time
}

// listed are the addresses that the Service leads to now.
func listed(view client.View) (out []netip.AddrPort) {
	ep := client.Get[corev1.Endpoints](view, metav1.NamespaceDefault, apiServiceName) //nolint:staticcheck // old clients read it
	if ep == nil {
		return nil
	}
	for _, subset := range ep.Subsets {
		for _, a := range subset.Addresses {
			for _, p := range subset.Ports {
				if ip, err := netip.ParseAddr(a.IP); err == nil {
					out = append(out, netip.AddrPortFrom(ip, uint16(p.Port)))
				}
			}
		}
	}
	return out
}

func (p *peers) lease() string {
	sum := sha256.Sum256([]byte(p.identity))
	return peerPrefix + hex.EncodeToString(sum[:8])
}

var peerScope = store.Scope{Resource: "coordination.k8s.io/leases", Namespace: metav1.NamespaceSystem}

// alive returns where the living servers are, whether this one is the first of
// them, and when that may change without a sign.
func (p *peers) alive(view client.View, now time.Time) (at []netip.AddrPort, first bool, until time.Time) {
	first, until = true, now.Add(peerLife)
	seen := map[string]sighting{}
	for l := range client.List[coordinationv1.Lease](view, metav1.NamespaceSystem) {
		if l.Labels[peerLabel] != peerValue {
			continue
		}
		s := p.seen[l.Name]
		if s.version != l.ResourceVersion {
			s = sighting{l.ResourceVersion, now}
		}
		seen[l.Name] = s
		end := s.at.Add(peerLife)
		if l.Name != p.lease() && !end.After(now) {
			continue
		}
		if l.Name != p.lease() && end.Before(until) {
			until = end
		}
		first = first && l.Name >= p.lease()
		if _, where, ok := strings.Cut(ptr.Deref(l.Spec.HolderIdentity, ""), "_"); ok {
			if a, err := netip.ParseAddrPort(where); err == nil {
				at = append(at, a)
			}
		}
	}
	p.seen = seen
	return at, first, until
}

// renew keeps this server's Lease until ctx ends, and then takes it away.
func (s *Server) renew(ctx context.Context) error {
	addr, err := s.external()
	if err != nil {
		return err
	}
	c := s.Client(auth.System("system:apiserver"))
	p := peers{identity: s.cfg.Peer}
	t := time.NewTicker(peerLife / 3)
	defer t.Stop()
	for {
		if err := renewLease(ctx, c, p.lease(), fmt.Sprintf("%s_%s", p.identity, addr)); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("this server's Lease could not be renewed", "error", err)
		}
		select {
		case <-t.C:
			continue
		case <-ctx.Done():
		}
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = c.Delete(end, client.Row[coordinationv1.Lease](), client.Key{Namespace: metav1.NamespaceSystem, Name: p.lease()}, metav1.DeleteOptions{}) // else it runs out
		return nil
	}
}

func renewLease(ctx context.Context, c client.Client, name, holder string) error {
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: name}}
	have := client.Get[coordinationv1.Lease](c.View(), metav1.NamespaceSystem, name)
	if have != nil {
		lease = have.DeepCopy()
	}
	lease.Labels = map[string]string{peerLabel: peerValue}
	lease.Spec.HolderIdentity = &holder
	lease.Spec.LeaseDurationSeconds = ptr.To(int32(peerLife / time.Second))
	lease.Spec.RenewTime = ptr.To(metav1.NewMicroTime(time.Now()))
	var err error
	if have == nil {
		_, err = c.Create(ctx, lease)
	} else {
		_, err = c.Update(ctx, lease, "")
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		return nil // the next round sees what is there
	}
	return err
}

// addresses are where the Service default/kubernetes leads to: this server, and
// those that are listed already, without the dead ones where it is on this
// server to say so.
func (s *Server) addresses(view client.View, self netip.AddrPort) (all []netip.AddrPort, until time.Time) {
	if s.cfg.Peer == "" {
		return []netip.AddrPort{self}, time.Time{}
	}
	all, first, until := s.peers.alive(view, s.cfg.Now())
	if !first {
		all = listed(view)
	}
	all = append(all, self)
	slices.SortFunc(all, netip.AddrPort.Compare)
	return slices.Compact(all), until
}
