package auth

import (
	"context"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// AccessReview asks what the attributes ask, in the API's own words.
func AccessReview(a Attributes) *authorizationv1.SubjectAccessReview {
	s := authorizationv1.SubjectAccessReviewSpec{User: a.User.Name, UID: a.User.UID, Groups: a.User.Groups}
	for k, v := range a.User.Extra {
		if s.Extra == nil {
			s.Extra = map[string]authorizationv1.ExtraValue{}
		}
		s.Extra[k] = v
	}
	if !a.ResourceRequest {
		s.NonResourceAttributes = &authorizationv1.NonResourceAttributes{Path: a.Path, Verb: a.Verb}
		return &authorizationv1.SubjectAccessReview{Spec: s}
	}
	s.ResourceAttributes = &authorizationv1.ResourceAttributes{
		Namespace: a.Namespace, Verb: a.Verb, Group: a.Group, Version: a.Version, Resource: a.Resource, Subresource: a.Subresource, Name: a.Name,
		FieldSelector: fieldRequirements(a.FieldSelector), LabelSelector: labelRequirements(a.LabelSelector),
	}
	return &authorizationv1.SubjectAccessReview{Spec: s}
}

// fieldRequirements is nil for what is no selector: the request is then judged as
// one without, and fails later.
func fieldRequirements(text string) *authorizationv1.FieldSelectorAttributes {
	sel, err := fields.ParseSelector(text)
	if err != nil || text == "" {
		return nil
	}
	ops := map[selection.Operator]metav1.FieldSelectorOperator{
		selection.Equals: metav1.FieldSelectorOpIn, selection.DoubleEquals: metav1.FieldSelectorOpIn, selection.NotEquals: metav1.FieldSelectorOpNotIn}
	out := &authorizationv1.FieldSelectorAttributes{}
	for _, r := range sel.Requirements() {
		if op, ok := ops[r.Operator]; ok {
			out.Requirements = append(out.Requirements, metav1.FieldSelectorRequirement{Key: r.Field, Operator: op, Values: []string{r.Value}})
		}
	}
	if len(out.Requirements) == 0 {
		return nil
	}
	return out
}

func labelRequirements(text string) *authorizationv1.LabelSelectorAttributes {
	sel, err := labels.Parse(text)
	if err != nil || text == "" {
		return nil
	}
	ops := map[selection.Operator]metav1.LabelSelectorOperator{
		selection.Equals: metav1.LabelSelectorOpIn, selection.DoubleEquals: metav1.LabelSelectorOpIn, selection.In: metav1.LabelSelectorOpIn,
		selection.NotEquals: metav1.LabelSelectorOpNotIn, selection.NotIn: metav1.LabelSelectorOpNotIn,
		selection.Exists: metav1.LabelSelectorOpExists, selection.DoesNotExist: metav1.LabelSelectorOpDoesNotExist}
	out := &authorizationv1.LabelSelectorAttributes{}
	requirements, _ := sel.Requirements()
	for _, r := range requirements {
		if op, ok := ops[r.Operator()]; ok {
			out.Requirements = append(out.Requirements, metav1.LabelSelectorRequirement{Key: r.Key(), Operator: op, Values: r.Values().List()})
		}
	}
	if len(out.Requirements) == 0 {
		return nil
	}
	return out
}

// SelectorTexts writes the selectors of an access review as a request has them.
// What cannot be written so is left out, which asks for more, and is safe.
func SelectorTexts(a *authorizationv1.ResourceAttributes) (field, label string) {
	if s := a.FieldSelector; s != nil {
		field = s.RawSelector
		var parts []string
		for _, r := range s.Requirements {
			op := map[metav1.FieldSelectorOperator]string{metav1.FieldSelectorOpIn: "=", metav1.FieldSelectorOpNotIn: "!="}[r.Operator]
			if len(r.Values) == 1 && op != "" {
				parts = append(parts, r.Key+op+fields.EscapeValue(r.Values[0]))
			}
		}
		field += strings.Join(parts, ",")
	}
	if s := a.LabelSelector; s != nil {
		label = s.RawSelector
		ops := map[metav1.LabelSelectorOperator]selection.Operator{metav1.LabelSelectorOpIn: selection.In, metav1.LabelSelectorOpNotIn: selection.NotIn,
			metav1.LabelSelectorOpExists: selection.Exists, metav1.LabelSelectorOpDoesNotExist: selection.DoesNotExist}
		sel := labels.NewSelector()
		for _, q := range s.Requirements {
			if r, err := labels.NewRequirement(q.Key, ops[q.Operator], q.Values); err == nil {
				sel = sel.Add(*r)
			}
		}
		label += sel.String()
	}
	return field, label
}

// Always gives every request the same answer.
type Always Decision

func (d Always) Authorize(context.Context, Attributes) (Decision, string, error) {
	if Decision(d) == Allow {
		return Allow, "", nil
	}
	return Decision(d), "Everything is forbidden.", nil
}
