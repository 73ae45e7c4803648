package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	admissionregv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/apiserver/admission"
	"proa/apiserver/admission/extension"
)

const (
	// maxNote bounds an audit annotation in bytes, maxFailures the failures that
	// are listed in one.
	maxNote, maxFailures = 10 << 10, 50
	failureKey           = "validation.policy.admission.k8s.io/validation_failure"
)

// refusal is why a request is refused.
type refusal struct {
	policy, binding string
	message         string
	reason          metav1.StatusReason
}

// failure is a failed validation in the audit annotation's form.
type failure struct {
	Message           string                            `json:"message"`
	Policy            string                            `json:"policy"`
	Binding           string                            `json:"binding"`
	ExpressionIndex   int                               `json:"expressionIndex"`
	ValidationActions []admissionregv1.ValidationAction `json:"validationActions"`
}

// decision gathers what all policies say of a request.
type decision struct {
	p        *Policies
	view     *extension.View
	refused  *refusal // the first
	failures []failure
	notes    map[string][]string
}

func (p *Policies) validate(ctx context.Context, r *admission.Request) error {
	if extension.Exempt(r) {
		return nil
	}
	policies := extension.Every(r.World, validatingPolicies, &p.validating)
	if len(policies) == 0 {
		return nil
	}
	d := &decision{p: p, view: extension.NewView(r)}
	for _, v := range policies {
		if err := d.policy(ctx, v); err != nil {
			return err
		}
	}
	return d.conclude()
}

// policy evaluates one policy with all its bindings.
func (d *decision) policy(ctx context.Context, v *validator) error {
	bindings := bindingsOf(d.view.World, validatingBindings, v.policy.Name, &d.p.validatingBinding)
	if len(bindings) == 0 {
		return nil
	}
	m, ok, err := d.view.Matches(&v.scope)
	if err != nil {
		d.misconfigured(v, nil, err)
		return nil
	}
	if !ok {
		return nil
	}
	in := &input{view: d.view, match: m, authz: d.p.authorizer}
	d.notes = map[string][]string{}
	defer func() { d.publish(v.policy.Name) }()
	refuse := func(b *binding, err error) { d.misconfigured(v, b, err) }
	return d.p.forBindings(ctx, d.view, bindings, v.policy.Spec.ParamKind, refuse, func(b *binding, obj api.Object) error {
		if in.at == nil {
			if err := d.see(in); err != nil {
				d.misconfigured(v, b, err)
				return nil
			}
		}
		start := time.Now()
		verdicts, notes := v.evaluate(ctx, in, obj)
		d.take(v, b, verdicts, notes, time.Since(start))
		return nil
	})
}

// see makes ready what the expressions are about.
func (d *decision) see(in *input) (err error) {
	if in.ns, err = d.view.NamespaceObject(); err != nil {
		return err
	}
	in.at, err = d.view.At(in.match)
	return err
}

// misconfigured counts a configuration that cannot be evaluated; b is nil where
// it is the policy's.
func (d *decision) misconfigured(v *validator, b *binding, err error) {
	if v.ignore {
		return
	}
	if b == nil {
		d.refuse(refusal{policy: v.policy.Name, message: "failed to configure policy: " + err.Error()})
		return
	}
	d.refuse(refusal{policy: v.policy.Name, binding: b.name, message: "failed to configure binding: " + err.Error()})
}

func (d *decision) refuse(r refusal) {
	if d.refused == nil {
		d.refused = &r
	}
}

func (d *decision) take(v *validator, b *binding, verdicts []verdict, notes []note, took time.Duration) {
	for _, one := range verdicts {
		if !one.denied {
			if one.failed {
				d.p.metrics.checked(v.policy.Name, b.name, "allow", one, took)
			}
			continue
		}
		for _, action := range b.actions {
			d.act(v, b, action, one)
			d.p.metrics.checked(v.policy.Name, b.name, enforcement[action], one, took)
		}
	}
	for _, n := range notes {
		switch value := n.value[:min(len(n.value), maxNote)]; {
		case n.err != nil:
			d.refuse(refusal{policy: v.policy.Name, binding: b.name, message: n.err.Error()})
		case !slices.Contains(d.notes[n.key], value):
			d.notes[n.key] = append(d.notes[n.key], value)
		}
	}
}

var enforcement = map[admissionregv1.ValidationAction]string{
	admissionregv1.Deny: "deny", admissionregv1.Warn: "warn", admissionregv1.Audit: "audit",
}

func (d *decision) act(v *validator, b *binding, action admissionregv1.ValidationAction, one verdict) {
	switch action {
	case admissionregv1.Deny:
		d.refuse(refusal{v.policy.Name, b.name, one.message, one.reason})
	case admissionregv1.Warn:
		d.view.Warn(fmt.Sprintf("Validation failed for ValidatingAdmissionPolicy '%s' with binding '%s': %s", v.policy.Name, b.name, one.message))
	case admissionregv1.Audit:
		if len(d.failures) < maxFailures {
			d.failures = append(d.failures, failure{one.message, v.policy.Name, b.name, one.index, b.actions})
		}
	}
}

// publish writes the audit annotations of one policy; those of several bindings
// that differ are joined.
func (d *decision) publish(policy string) {
	if d.view.Annotate == nil {
		return
	}
	for key, values := range d.notes {
		d.view.Annotate(policy+"/"+key, strings.Join(values, ", "))
	}
}

func (d *decision) conclude() error {
	if len(d.failures) > 0 && d.view.Annotate != nil {
		if text, err := json.Marshal(d.failures); err == nil {
			d.view.Annotate(failureKey, string(text))
		}
	}
	r := d.refused
	if r == nil {
		return nil
	}
	message := fmt.Sprintf("ValidatingAdmissionPolicy '%s' denied request: %s", r.policy, r.message)
	if r.binding != "" {
		message = fmt.Sprintf("ValidatingAdmissionPolicy '%s' with binding '%s' denied request: %s", r.policy, r.binding, r.message)
	}
	err := apierrors.NewForbidden(d.view.Resource.GR(), nameOf(d.view), errors.New(message))
	err.ErrStatus.Reason = r.reason
	if r.reason == "" {
		err.ErrStatus.Reason = metav1.StatusReasonInvalid
	}
	err.ErrStatus.Code = codeOf(err.ErrStatus.Reason)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Message: message})
	return err
}

// nameOf is the object's name or, where the server is to choose it, its beginning.
func nameOf(v *extension.View) string {
	if v.Generated && v.Object != nil {
		return v.Object.GetGenerateName()
	}
	return v.Name
}

func codeOf(reason metav1.StatusReason) int32 {
	switch reason {
	case metav1.StatusReasonForbidden:
		return http.StatusForbidden
	case metav1.StatusReasonUnauthorized:
		return http.StatusUnauthorized
	case metav1.StatusReasonRequestEntityTooLarge:
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusUnprocessableEntity
}
