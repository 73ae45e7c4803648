package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	admissionregv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	k8sadmission "k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"proa/api"
	"proa/apiserver/admission"
	"proa/apiserver/admission/extension"
	"proa/apiserver/codec"
)

// mutator is a compiled MutatingAdmissionPolicy.
type mutator struct {
	policy   *admissionregv1.MutatingAdmissionPolicy
	ignore   bool
	scope    extension.Scope
	err      error
	matcher  *extension.Matcher
	compiler *plugincel.CompositedCompiler
	patches  []patch.Patcher
}

func compileMutating(obj api.Object) *mutator {
	p, ok := obj.(*admissionregv1.MutatingAdmissionPolicy)
	if !ok {
		return nil
	}
	m := &mutator{
		policy: p, scope: extension.ScopeOf(p.Spec.MatchConstraints),
		ignore: p.Spec.FailurePolicy != nil && *p.Spec.FailurePolicy == admissionregv1.Ignore,
	}
	params := p.Spec.ParamKind != nil
	if m.compiler, m.err = compiler(p.Spec.Variables, params); m.err != nil {
		return m
	}
	m.matcher = extension.NewMatcher(m.compiler, p.Spec.MatchConditions, p.Spec.FailurePolicy, params)
	decls := plugincel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true, HasPatchTypes: true}
	for _, one := range p.Spec.Mutations {
		switch {
		case one.JSONPatch != nil:
			e := &patch.JSONPatchCondition{Expression: one.JSONPatch.Expression}
			m.patches = append(m.patches, patch.NewJSONPatcher(m.compiler.CompileMutatingEvaluator(e, decls, environment.StoredExpressions)))
		case one.ApplyConfiguration != nil:
			e := &patch.ApplyConfigurationCondition{Expression: one.ApplyConfiguration.Expression}
			m.patches = append(m.patches, patch.NewApplyConfigurationPatcher(m.compiler.CompileMutatingEvaluator(e, decls, environment.StoredExpressions)))
		}
	}
	return m
}

const memory = "MutatingAdmissionPolicy"

func (p *Policies) mutate(ctx context.Context, r *admission.Request) error {
	if extension.Exempt(r) {
		return nil
	}
	policies := extension.Every(r.World, mutatingPolicies, &p.mutating)
	if len(policies) == 0 || r.Object == nil {
		return nil
	}
	c := &change{p: p, view: extension.NewView(r), rounds: extension.RoundsOf(r, memory)}
	for _, m := range policies {
		if err := c.policy(ctx, m); err != nil {
			return err
		}
	}
	c.rounds.Ended(r)
	return c.conclude()
}

// change is one round of all mutating policies over a request.
type change struct {
	p        *Policies
	view     *extension.View
	rounds   *extension.Rounds
	failures []error
}

// failed counts what went wrong, unless the policy says to pass over that.
func (c *change) failed(m *mutator, b *binding, err error) {
	switch {
	case m.ignore:
	case b == nil:
		c.failures = append(c.failures, fmt.Errorf("policy %q denied request: %w", m.policy.Name, err))
	default:
		c.failures = append(c.failures, fmt.Errorf("policy '%s' with binding '%s' denied request: %w", m.policy.Name, b.name, err))
	}
}

func (c *change) policy(ctx context.Context, m *mutator) error {
	bindings := bindingsOf(c.view.World, mutatingBindings, m.policy.Name, &c.p.mutatingBinding)
	if len(bindings) == 0 {
		return nil
	}
	match, ok, err := c.view.Matches(&m.scope)
	if err != nil || ok && m.err != nil {
		c.failed(m, nil, errors.Join(err, m.err))
		return nil
	}
	if !ok {
		return nil
	}
	refuse := func(b *binding, err error) { c.failed(m, b, err) }
	return c.p.forBindings(ctx, c.view, bindings, m.policy.Spec.ParamKind, refuse, func(b *binding, obj api.Object) error {
		return c.use(ctx, m, b, match, obj)
	})
}

// use applies a policy's mutations in their order with one param.
func (c *change) use(ctx context.Context, m *mutator, b *binding, match extension.Match, obj api.Object) error {
	at, err := c.view.At(match)
	if err != nil {
		c.failed(m, b, err)
		return nil
	}
	ns, err := c.view.NamespaceObject()
	if err != nil {
		return err
	}
	ok, err := m.matcher.Matches(ctx, c.view, at, match, param(obj), c.p.authorizer)
	if err != nil {
		c.failed(m, b, err)
	}
	id := useID(m, b, obj)
	if err != nil || !ok || !c.rounds.Due(c.view.Request, id) {
		return nil
	}
	before := c.view.Object
	for _, patcher := range m.patches {
		req := patch.Request{
			MatchedResource: match.Resource, VersionedAttributes: at, ObjectInterfaces: interfaces{c.view, match}, Namespace: ns,
			OptionalVariables: plugincel.OptionalVariableBindings{VersionedParams: param(obj), Authorizer: c.p.authorizer},
		}
		if err := c.apply(m.compiler.CreateContext(ctx), patcher, req, match); err != nil {
			var status *apierrors.StatusError
			if errors.As(err, &status) {
				return err
			}
			c.failed(m, b, err)
			continue
		}
		if at, err = c.view.At(match); err != nil {
			return apierrors.NewInternalError(err)
		}
	}
	c.rounds.Asked(id, c.view.Object != before, m.policy.Spec.ReinvocationPolicy == admissionregv1.IfNeededReinvocationPolicy)
	return nil
}

func useID(m *mutator, b *binding, obj api.Object) string {
	if obj == nil {
		return m.policy.Name + "/" + b.name
	}
	return m.policy.Name + "/" + b.name + "/" + obj.GetNamespace() + "/" + obj.GetName()
}

// apply makes one mutation the request's object, if it changes anything.
func (c *change) apply(ctx context.Context, patcher patch.Patcher, req patch.Request, match extension.Match) (err error) {
	if req.TypeConverter, err = c.p.cfg.Types(match.Served()); err != nil {
		return apierrors.NewInternalError(err)
	}
	out, err := patcher.Patch(ctx, req, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return err
	}
	next, err := typed(c.view, match, out)
	if err != nil || equality.Semantic.DeepEqual(req.VersionedAttributes.VersionedObject.Object(), next) {
		return err
	}
	return c.view.Put(match, next)
}

// typed turns what a patch made, which may be without a Go type, into an object of
// the matched version.
func typed(v *extension.View, match extension.Match, out runtime.Object) (api.Object, error) {
	next := v.Empty(match)
	data, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	_, err = codec.Decode(codec.JSON, data, next, match.Kind, false)
	return next, err
}

// conclude answers with all failures, the first of them in front.
func (c *change) conclude() error {
	if len(c.failures) == 0 {
		return nil
	}
	err := apierrors.NewForbidden(c.view.Resource.GR(), nameOf(c.view), errors.New("admission request denied by policy"))
	err.ErrStatus.Message, err.ErrStatus.Reason = c.failures[0].Error(), metav1.StatusReasonInvalid
	for _, f := range c.failures {
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Message: f.Error()})
	}
	return err
}

// interfaces is what the library's JSON patch needs to make objects.
type interfaces struct {
	view  *extension.View
	match extension.Match
}

func (i interfaces) GetObjectCreater() runtime.ObjectCreater     { return i }
func (i interfaces) GetObjectTyper() runtime.ObjectTyper         { return i }
func (i interfaces) GetObjectDefaulter() runtime.ObjectDefaulter { return i }
func (i interfaces) GetObjectConvertor() runtime.ObjectConvertor { return nil }
func (i interfaces) GetEquivalentResourceMapper() runtime.EquivalentResourceMapper {
	return nil
}

// New makes an object of the matched kind, the only one that is asked for.
func (i interfaces) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	if gvk != i.match.Kind {
		return nil, runtime.NewNotRegisteredErrForKind("registry", gvk)
	}
	return i.view.Empty(i.match), nil
}

// Default leaves that to the request path, which fills in what it stores.
func (i interfaces) Default(runtime.Object) {}

func (i interfaces) ObjectKinds(obj runtime.Object) ([]schema.GroupVersionKind, bool, error) {
	if gvk := obj.GetObjectKind().GroupVersionKind(); !gvk.Empty() {
		return []schema.GroupVersionKind{gvk}, false, nil
	}
	return []schema.GroupVersionKind{i.match.Kind}, false, nil
}

func (i interfaces) Recognizes(gvk schema.GroupVersionKind) bool { return gvk == i.match.Kind }

var _ k8sadmission.ObjectInterfaces = interfaces{}
