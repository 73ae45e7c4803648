package node

import (
	"math"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/client"
	"proa/reconcile"
)

// spells are how long a node may keep what it has read of Secrets and ConfigMaps,
// in seconds, by the size of the cluster. They overlap, so that a cluster at an
// edge does not change all its nodes with each that comes and goes.
var spells = []struct{ least, most, seconds int }{
	{0, 100, 0}, {90, 500, 15}, {450, 1000, 30}, {900, 2000, 60}, {1800, math.MaxInt, 300},
}

// TTL notes in every node how long it may keep what it has read.
func TTL() reconcile.Controller {
	return reconcile.Controller{
		Name:    "ttl-controller",
		Watches: []reconcile.Watch{{Resource: client.Row[corev1.Node](), Keys: onSize}},
		Decide: func(v client.View, _ time.Time, key client.Key) reconcile.Plan {
			n := client.Get[corev1.Node](v, "", key.Name)
			if n == nil || n.DeletionTimestamp != nil {
				return reconcile.Plan{}
			}
			return decideTTL(n, count(v))
		},
	}
}

// onSize wakes a node that comes or whose note was changed, and all when the
// cluster has outgrown a spell, or shrunk below one.
func onSize(v client.View, e client.Event) (keys []client.Key) {
	if e.Old != nil && e.New != nil {
		if e.Old.GetAnnotations()[corev1.ObjectTTLAnnotationKey] == e.New.GetAnnotations()[corev1.ObjectTTLAnnotationKey] {
			return nil
		}
		return []client.Key{client.KeyOf(e.New)}
	}
	n := count(v)
	for _, s := range spells {
		if e.New != nil && n == s.most+1 || e.New == nil && n == s.least-1 {
			for node := range client.List[corev1.Node](v, "") {
				keys = append(keys, client.KeyOf(node))
			}
			return keys
		}
	}
	return []client.Key{client.KeyOf(e.Object())}
}

func count(v client.View) (n int) {
	for range client.List[corev1.Node](v, "") {
		n++
	}
	return n
}

// decideTTL keeps the spell that a node is in while the size lets it.
func decideTTL(n *corev1.Node, size int) reconcile.Plan {
	have, err := strconv.Atoi(n.Annotations[corev1.ObjectTTLAnnotationKey])
	at := 0
	for i, s := range spells {
		if err == nil && s.seconds == have {
			at = i
		}
	}
	for size > spells[at].most {
		at++
	}
	for size < spells[at].least {
		at--
	}
	if want := spells[at].seconds; err != nil || want != have {
		next := n.DeepCopy()
		if next.Annotations == nil {
			next.Annotations = map[string]string{}
		}
		next.Annotations[corev1.ObjectTTLAnnotationKey] = strconv.Itoa(want)
		return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next}}}
	}
	return reconcile.Plan{}
}
