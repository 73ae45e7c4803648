// Package history keeps the past templates of a DaemonSet or StatefulSet as
// ControllerRevisions, in the form that kubectl rollout history and undo read.
package history

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"

	"proa/api"
	"proa/client"
	"proa/controllers/own"
	"proa/reconcile"
)

// HashLabel is the label of pods and revisions that names the template.
const HashLabel = appsv1.ControllerRevisionHashLabelKey

// Owner is what a kind tells of itself.
type Owner struct {
	client.Object
	Row        *api.Resource
	Selector   labels.Selector
	Template   *corev1.PodTemplateSpec
	Collisions *int32
	// Collide is a copy of the owner with this count of collisions in its status.
	Collide func(n *int32) client.Object
}

// State is an owner's history.
type State struct {
	// Current is the revision of the present template; it may be yet to be
	// made. Old are the others, the oldest first.
	Current *appsv1.ControllerRevision
	Old     []*appsv1.ControllerRevision
	// Writes bring the history up to date; while there are any, the decision
	// makes only them.
	Writes []reconcile.Write
}

// Hash is the part of a revision's name that stands for its template.
func Hash(r *appsv1.ControllerRevision) string { return r.Labels[HashLabel] }

// Of reads an owner's history and says what is missing in it.
func Of(v client.View, o Owner) State {
	row := client.Row[appsv1.ControllerRevision]()
	list, claims := own.Claim[*appsv1.ControllerRevision](v, row, o.Row, o.Object, o.Selector)
	slices.SortFunc(list, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	s := State{Writes: claims}
	data := patchOf(o.Template)
	next := int64(1)
	for _, r := range list {
		if sameData(r.Data.Raw, data) {
			if s.Current != nil {
				s.Old = append(s.Old, s.Current)
			}
			s.Current = r
			continue
		}
		s.Old = append(s.Old, r)
		next = max(next, r.Revision+1)
	}
	s.advance(v, o, data, next)
	return s
}

// advance makes the current revision, or moves it to the end of the history
// when an older template has been taken up again.
func (s *State) advance(v client.View, o Owner, data []byte, next int64) {
	switch {
	case s.Current == nil:
		s.Current = newRevision(o, data, next)
		if taken := client.Get[appsv1.ControllerRevision](v, s.Current.Namespace, s.Current.Name); taken != nil {
			s.Writes = []reconcile.Write{o.collision()}
			return
		}
		s.Writes = append(s.Writes, reconcile.Write{Op: reconcile.Create, Object: s.Current})
	case s.Current.Revision < next:
		moved := s.Current.DeepCopy()
		moved.Revision = next
		s.Writes = append(s.Writes, reconcile.Write{Op: reconcile.Update, Object: moved})
	}
}

// collision counts that a new revision's name is taken, which gives it another.
func (o Owner) collision() reconcile.Write {
	n := int32(1)
	if o.Collisions != nil {
		n += *o.Collisions
	}
	return reconcile.Write{Op: reconcile.Update, Object: o.Collide(&n), Subresource: "status"}
}

func newRevision(o Owner, data []byte, number int64) *appsv1.ControllerRevision {
	h := fnv.New32a()
	_, _ = h.Write(data)
	if o.Collisions != nil {
		_, _ = fmt.Fprint(h, *o.Collisions)
	}
	hash := rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
	l := maps.Clone(o.Template.Labels)
	if l == nil {
		l = map[string]string{}
	}
	l[HashLabel] = hash
	name := o.GetName()
	return &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       o.GetNamespace(),
			Name:            name[:min(len(name), 223)] + "-" + hash,
			Labels:          l,
			Annotations:     maps.Clone(o.GetAnnotations()),
			OwnerReferences: []metav1.OwnerReference{*own.Ref(o.Row, o.Object)},
		},
		Data:     runtime.RawExtension{Raw: data},
		Revision: number,
	}
}

// patchOf is a strategic merge patch that puts the template in place: what undo
// applies.
func patchOf(t *corev1.PodTemplateSpec) []byte {
	raw, _ := json.Marshal(t) // API types do not fail
	template := map[string]any{}
	_ = json.Unmarshal(raw, &template)
	template["$patch"] = "replace"
	out, _ := json.Marshal(map[string]any{"spec": map[string]any{"template": template}})
	return out
}

// Template reads the template of a revision.
func Template(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var data struct {
		Spec struct{ Template corev1.PodTemplateSpec }
	}
	if err := json.Unmarshal(r.Data.Raw, &data); err != nil {
		return nil, fmt.Errorf("the ControllerRevision %s holds no template: %w", r.Name, err)
	}
	return &data.Spec.Template, nil
}

// sameData compares by meaning: the order of keys may differ.
func sameData(a, b []byte) bool {
	if string(a) == string(b) {
		return true
	}
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	left, _ := json.Marshal(x)
	right, _ := json.Marshal(y)
	return string(left) == string(right)
}

// Trim deletes the oldest revisions beyond limit, but none that is in use.
func (s *State) Trim(limit *int32, inUse func(r *appsv1.ControllerRevision) bool) []reconcile.Write {
	if limit == nil {
		return nil
	}
	idle := slices.DeleteFunc(slices.Clone(s.Old), inUse)
	var writes []reconcile.Write
	for _, r := range idle[:max(len(idle)-int(*limit), 0)] {
		writes = append(writes, reconcile.Write{Op: reconcile.Delete, Object: r})
	}
	return writes
}
