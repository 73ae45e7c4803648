package scheduler

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// matcher finds pods by namespace and labels.
type matcher struct {
	namespaces        []string
	namespaceSelector labels.Selector // nil: only the names above
	selector          labels.Selector
	// alive leaves out pods that are being deleted.
	alive bool
	key   string // two matchers of one key find the same
}

func newMatcher(namespaces []string, ns, selector *metav1.LabelSelector, alive bool) matcher {
	m := matcher{namespaces: slices.Sorted(slices.Values(namespaces)), selector: selectorOf(selector), alive: alive}
	if ns != nil {
		m.namespaceSelector = selectorOf(ns)
	}
	m.key = strings.Join(m.namespaces, ",") + "|" + m.selector.String() + "|" + strconv.FormatBool(alive)
	if ns != nil {
		m.key += "|" + m.namespaceSelector.String()
	}
	return m
}

// selectorOf reads a selector; unset or malformed, it finds nothing.
func selectorOf(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}

// finds tells whether a pod is meant; namespaces gives namespaces' labels.
func (m *matcher) finds(p *podInfo, namespaces map[string]labels.Set) bool {
	if m.alive && p.pod.DeletionTimestamp != nil {
		return false
	}
	if !slices.Contains(m.namespaces, p.key.Namespace) &&
		(m.namespaceSelector == nil || !m.namespaceSelector.Matches(namespaces[p.key.Namespace])) {
		return false
	}
	return m.selector.Matches(p.labels)
}

// affinityTerm is one rule about other pods.
type affinityTerm struct {
	matcher
	topology string
	weight   int64 // of a preferred one; below zero to keep apart
}

// podAffinity is what a pod asks about other pods.
type podAffinity struct {
	required, requiredAnti []affinityTerm
	preferred              []affinityTerm
}

// affinityOf returns nil for a pod that asks nothing.
func affinityOf(p *corev1.Pod) *podAffinity {
	a := p.Spec.Affinity
	if a == nil || a.PodAffinity == nil && a.PodAntiAffinity == nil {
		return nil
	}
	out := &podAffinity{}
	if t := a.PodAffinity; t != nil {
		out.required = terms(p, t.RequiredDuringSchedulingIgnoredDuringExecution)
		out.preferred = append(out.preferred, weighted(p, t.PreferredDuringSchedulingIgnoredDuringExecution, 1)...)
	}
	if t := a.PodAntiAffinity; t != nil {
		out.requiredAnti = terms(p, t.RequiredDuringSchedulingIgnoredDuringExecution)
		out.preferred = append(out.preferred, weighted(p, t.PreferredDuringSchedulingIgnoredDuringExecution, -1)...)
	}
	return out
}

func terms(p *corev1.Pod, list []corev1.PodAffinityTerm) []affinityTerm {
	var out []affinityTerm
	for i := range list {
		out = append(out, term(p, &list[i], 0))
	}
	return out
}

func weighted(p *corev1.Pod, list []corev1.WeightedPodAffinityTerm, sign int64) []affinityTerm {
	var out []affinityTerm
	for i := range list {
		out = append(out, term(p, &list[i].PodAffinityTerm, sign*int64(list[i].Weight)))
	}
	return out
}

func term(p *corev1.Pod, t *corev1.PodAffinityTerm, weight int64) affinityTerm {
	namespaces := t.Namespaces
	if len(namespaces) == 0 && t.NamespaceSelector == nil {
		namespaces = []string{p.Namespace}
	}
	return affinityTerm{matcher: newMatcher(namespaces, t.NamespaceSelector, t.LabelSelector, false), topology: t.TopologyKey, weight: weight}
}

// termGroup is a rule that pods on nodes have, with how many of them are
// where: the pods of one workload share their rules, so that a new pod is held
// against each rule once and not against each pod.
type termGroup struct {
	affinityTerm
	nodes map[*node]int
}

type termKind byte

const (
	requiredAntiTerms termKind = iota // must not share a topology with what it finds
	scoredTerms                       // preferred ones, and required affinity, which attracts
)

// hardAffinityWeight is how strongly a pod's required affinity attracts those
// it finds.
const hardAffinityWeight = 1

// rules lists a pod's terms that others must heed.
func (a *podAffinity) rules(yield func(kind termKind, t *affinityTerm)) {
	if a == nil {
		return
	}
	for i := range a.requiredAnti {
		yield(requiredAntiTerms, &a.requiredAnti[i])
	}
	for i := range a.required {
		t := a.required[i]
		t.weight = hardAffinityWeight
		yield(scoredTerms, &t)
	}
	for i := range a.preferred {
		yield(scoredTerms, &a.preferred[i])
	}
}

func (t *affinityTerm) id() string {
	return t.matcher.key + "|" + t.topology + "|" + strconv.FormatInt(t.weight, 10)
}
