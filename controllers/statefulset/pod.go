package statefulset

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/controllers/history"
	"proa/controllers/own"
	"proa/controllers/pods"
	"proa/reconcile"
)

// create makes the pod of an ordinal, and its claims first. It waits for a claim
// that is still being deleted.
func (s *set) create(n int) {
	template, revision := s.templateFor(n)
	p := s.newPod(n, template, revision)
	for _, claim := range s.claims(n) {
		have := client.Get[corev1.PersistentVolumeClaim](s.view, claim.Namespace, claim.Name)
		switch {
		case have == nil:
			s.writes = append(s.writes, s.told(reconcile.Create, claim, fmt.Sprintf("Claim %s Pod %s in StatefulSet %s success", claim.Name, p.Name, s.Name)))
		case have.DeletionTimestamp != nil:
			return
		}
	}
	s.writes = append(s.writes, s.told(reconcile.Create, p, fmt.Sprintf("Pod %s in StatefulSet %s successful", p.Name, s.Name)))
}

func (s *set) delete(p *corev1.Pod) {
	s.writes = append(s.writes, s.told(reconcile.Delete, p, fmt.Sprintf("Pod %s in StatefulSet %s successful", p.Name, s.Name)))
}

// told is a write with the Events that it deserves; done says what it has done.
func (s *set) told(op reconcile.Op, obj client.Object, done string) reconcile.Write {
	verb := "Create"
	if op == reconcile.Delete {
		verb = "Delete"
	}
	what := strings.TrimSuffix(strings.TrimSuffix(done, "ful"), " success")
	return reconcile.Write{
		Op: op, Object: obj,
		OnDone: func(client.Object) []reconcile.Event {
			return []reconcile.Event{reconcile.Normal(s.StatefulSet, "Successful"+verb, verb+" "+done)}
		},
		OnError: func(err error) reconcile.Plan {
			return reconcile.Plan{Events: []reconcile.Event{reconcile.Warning(s.StatefulSet, "Failed"+verb, verb+" "+what+" failed error: "+err.Error())}}
		},
	}
}

// templateFor is what a new pod of an ordinal is made of: below the partition
// it is the revision that the set comes from.
func (s *set) templateFor(n int) (*corev1.PodTemplateSpec, string) {
	ru := s.Spec.UpdateStrategy.RollingUpdate
	if ru != nil && ru.Partition != nil && n < s.start+int(*ru.Partition) && s.current != s.update {
		if t, err := history.Template(s.current); err == nil {
			return t, s.current.Name
		}
	}
	return &s.Spec.Template, s.update.Name
}

func (s *set) newPod(n int, t *corev1.PodTemplateSpec, revision string) *corev1.Pod {
	p := pods.FromTemplate(client.Row[appsv1.StatefulSet](), s.StatefulSet, t)
	p.GenerateName, p.Name = "", s.Name+"-"+strconv.Itoa(n)
	p.Labels = s.identity(p.Labels, p.Name, n)
	p.Labels[appsv1.StatefulSetRevisionLabel] = revision
	p.Spec.Hostname, p.Spec.Subdomain = p.Name, s.Spec.ServiceName
	for i, claim := range s.claims(n) {
		name := s.Spec.VolumeClaimTemplates[i].Name
		p.Spec.Volumes = slices.DeleteFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == name })
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name}}})
	}
	return p
}

// identity are the labels with those by which a pod is told from its siblings.
func (s *set) identity(l map[string]string, name string, n int) map[string]string {
	out := maps.Clone(l)
	if out == nil {
		out = map[string]string{}
	}
	out[appsv1.StatefulSetPodNameLabel], out[appsv1.PodIndexLabel] = name, strconv.Itoa(n)
	return out
}

// keepIdentity puts back labels that somebody has taken from a pod.
func (s *set) keepIdentity(p *corev1.Pod, n int) {
	if want := s.identity(p.Labels, p.Name, n); !maps.Equal(want, p.Labels) {
		next := p.DeepCopy()
		next.Labels = want
		s.writes = append(s.writes, reconcile.Write{Op: reconcile.Update, Object: next})
	}
}

// claims are the volume claims that the pod of an ordinal needs.
func (s *set) claims(n int) []*corev1.PersistentVolumeClaim {
	var out []*corev1.PersistentVolumeClaim
	for _, t := range s.Spec.VolumeClaimTemplates {
		claim := t.DeepCopy()
		claim.Namespace, claim.Name = s.Namespace, fmt.Sprintf("%s-%s-%d", t.Name, s.Name, n)
		claim.Labels = maps.Clone(claim.Labels)
		if claim.Labels == nil {
			claim.Labels = map[string]string{}
		}
		maps.Copy(claim.Labels, s.Spec.Selector.MatchLabels)
		claim.OwnerReferences = s.owners(nil, nil, false)
		out = append(out, claim)
	}
	return out
}

// keepClaims makes the claims of a pod that is there, and their owners what the
// set's retention policy asks for: the set itself where claims go with it, the
// pod where they go when it is scaled away.
func (s *set) keepClaims(p *corev1.Pod, condemned bool) {
	for _, claim := range s.claims(ordinal(s.Name, p.Name)) {
		have := client.Get[corev1.PersistentVolumeClaim](s.view, claim.Namespace, claim.Name)
		if have == nil {
			if !condemned {
				s.writes = append(s.writes, s.told(reconcile.Create, claim, fmt.Sprintf("Claim %s Pod %s in StatefulSet %s success", claim.Name, p.Name, s.Name)))
			}
			continue
		}
		want := s.owners(have.OwnerReferences, p, condemned)
		if have.DeletionTimestamp == nil && !equality.Semantic.DeepEqual(want, have.OwnerReferences) {
			next := have.DeepCopy()
			next.OwnerReferences = want
			s.writes = append(s.writes, reconcile.Write{Op: reconcile.Update, Object: next})
		}
	}
}

// owners are a claim's owners: others' as they are, and those that the policy
// asks for.
func (s *set) owners(have []metav1.OwnerReference, p *corev1.Pod, condemned bool) []metav1.OwnerReference {
	var out []metav1.OwnerReference
	for _, r := range have {
		if r.UID != s.UID && (p == nil || r.UID != p.UID) {
			out = append(out, r)
		}
	}
	policy := s.Spec.PersistentVolumeClaimRetentionPolicy
	if policy == nil {
		return out
	}
	scaledAway := condemned && policy.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	if scaledAway {
		out = append(out, *plain(own.Ref(client.Row[corev1.Pod](), p)))
	} else if policy.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
		out = append(out, *own.Ref(client.Row[appsv1.StatefulSet](), s.StatefulSet))
	}
	return out
}

// plain makes a reference one of an owner that controls nothing.
func plain(r *metav1.OwnerReference) *metav1.OwnerReference {
	r.Controller, r.BlockOwnerDeletion = nil, nil
	return r
}
