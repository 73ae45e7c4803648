// Package policy decides by the expressions of ValidatingAdmissionPolicies and
// MutatingAdmissionPolicies, and of their bindings (see
// https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/
// and .../mutating-admission-policy/).
//
// A policy is compiled once for each of its revisions, at the first request after
// it came. Params are read from the world that the request is decided on, so that
// nothing has to be synced first. Expressions have upstream's cost budgets.
package policy

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/google/cel-go/cel"
	"github.com/prometheus/client_golang/prometheus"
	admissionregv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/managedfields"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/environment"

	"proa/api"
	"proa/apiserver/admission"
	"proa/apiserver/admission/extension"
	"proa/auth"
	"proa/store"
)

const (
	group              = "admissionregistration.k8s.io/"
	validatingPolicies = group + "validatingadmissionpolicies"
	validatingBindings = group + "validatingadmissionpolicybindings"
	mutatingPolicies   = group + "mutatingadmissionpolicies"
	mutatingBindings   = group + "mutatingadmissionpolicybindings"
)

// Config is what the plugins need.
type Config struct {
	Registry   *api.Registry
	Authorizer auth.Authorizer
	// Types merges apply configurations into objects of a kind.
	Types func(api.Served) (managedfields.TypeConverter, error)
	// Metrics is where they are registered; nil registers none.
	Metrics prometheus.Registerer
	Log     *slog.Logger
}

// Policies are the two admission plugins.
type Policies struct {
	cfg        Config
	authorizer authorizer.UnconditionalAuthorizer
	metrics    *metrics

	validating        extension.Kept[*validator]
	mutating          extension.Kept[*mutator]
	validatingBinding extension.Kept[*binding]
	mutatingBinding   extension.Kept[*binding]
}

// New makes them.
func New(c Config) *Policies {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Policies{
		cfg: c, authorizer: extension.Authorizer(c.Authorizer), metrics: newMetrics(c.Metrics),
		validating:        extension.Kept[*validator]{Compile: compileValidating},
		mutating:          extension.Kept[*mutator]{Compile: compileMutating},
		validatingBinding: extension.Kept[*binding]{Compile: compileBinding},
		mutatingBinding:   extension.Kept[*binding]{Compile: compileBinding},
	}
}

// Mutating is MutatingAdmissionPolicy.
func (p *Policies) Mutating() admission.Plugin {
	return admission.Plugin{Name: "MutatingAdmissionPolicy", Mutate: p.mutate}
}

// Validating is ValidatingAdmissionPolicy.
func (p *Policies) Validating() admission.Plugin {
	return admission.Plugin{Name: "ValidatingAdmissionPolicy", Validate: p.validate}
}

// binding puts a policy to use.
type binding struct {
	name    string
	params  *admissionregv1.ParamRef
	scope   extension.Scope
	actions []admissionregv1.ValidationAction
}

func compileBinding(obj api.Object) *binding {
	switch b := obj.(type) {
	case *admissionregv1.ValidatingAdmissionPolicyBinding:
		return &binding{b.Name, b.Spec.ParamRef, extension.ScopeOf(b.Spec.MatchResources), b.Spec.ValidationActions}
	case *admissionregv1.MutatingAdmissionPolicyBinding:
		return &binding{b.Name, b.Spec.ParamRef, extension.ScopeOf(b.Spec.MatchResources), nil}
	}
	return nil
}

// bindingsOf are the bindings of a policy, by name.
func bindingsOf(world store.Snapshot, resource, policy string, kept *extension.Kept[*binding]) (out []*binding) {
	for rec := range world.Index(resource, "policy", policy) {
		if b, ok := kept.Of(rec); ok {
			out = append(out, b)
		}
	}
	return out
}

// variable is one of a policy's variables as an expression.
type variable admissionregv1.Variable

func (v *variable) GetName() string          { return v.Name }
func (v *variable) GetExpression() string    { return v.Expression }
func (v *variable) ReturnTypes() []*cel.Type { return []*cel.Type{cel.AnyType, cel.DynType} }

// compiler is one for the expressions of one policy, which share its variables.
func compiler(variables []admissionregv1.Variable, params bool) (*plugincel.CompositedCompiler, error) {
	c, err := plugincel.NewCompositedCompiler(extension.Environment())
	if err != nil {
		return nil, fmt.Errorf("failed to initialize CEL compiler: %w", err)
	}
	decls := plugincel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true}
	for i := range variables {
		c.CompileAndStoreVariable((*variable)(&variables[i]), decls, environment.StoredExpressions)
	}
	return c, nil
}

// forBindings calls use for each of a policy's bindings that concern the request,
// with each param. What is wrong with a configuration goes to refuse; binding is
// nil where it is the policy's.
func (p *Policies) forBindings(ctx context.Context, v *extension.View, bindings []*binding, kind *admissionregv1.ParamKind,
	refuse func(b *binding, err error), use func(b *binding, param api.Object) error) error {
	for _, b := range bindings {
		_, ok, err := v.Matches(&b.scope)
		if err != nil {
			refuse(b, err)
			continue
		}
		if !ok {
			continue
		}
		params, err := p.params(v, kind, b.params)
		if err != nil {
			refuse(b, err)
			continue
		}
		for _, param := range params {
			if err := use(b, param); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}
