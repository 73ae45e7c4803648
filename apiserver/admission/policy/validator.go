package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/cel-go/cel"
	celtypes "github.com/google/cel-go/common/types"
	admissionregv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sadmission "k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"proa/api"
	"proa/apiserver/admission/extension"
)

// validator is a compiled ValidatingAdmissionPolicy.
type validator struct {
	policy  *admissionregv1.ValidatingAdmissionPolicy
	ignore  bool
	scope   extension.Scope
	err     error // why it could not be compiled at all
	matcher *extension.Matcher

	checks, messages, notes plugincel.ConditionEvaluator
}

// expression is any of a policy's with the types that it may have.
type expression struct {
	text  string
	types []*cel.Type
}

func (e *expression) GetExpression() string    { return e.text }
func (e *expression) ReturnTypes() []*cel.Type { return e.types }

var (
	boolean      = []*cel.Type{cel.BoolType}
	text         = []*cel.Type{cel.StringType}
	textOrNull   = []*cel.Type{cel.StringType, cel.NullType}
	whateverType = []*cel.Type{cel.AnyType, cel.DynType}
)

func compileValidating(obj api.Object) *validator {
	p, ok := obj.(*admissionregv1.ValidatingAdmissionPolicy)
	if !ok {
		return nil
	}
	v := &validator{
		policy: p, scope: extension.ScopeOf(p.Spec.MatchConstraints),
		ignore: p.Spec.FailurePolicy != nil && *p.Spec.FailurePolicy == admissionregv1.Ignore,
	}
	params := p.Spec.ParamKind != nil
	c, err := compiler(p.Spec.Variables, params)
	if err != nil {
		v.err = err
		return v
	}
	v.matcher = extension.NewMatcher(c, p.Spec.MatchConditions, p.Spec.FailurePolicy, params)
	var checks, messages, notes []plugincel.ExpressionAccessor
	for _, one := range p.Spec.Validations {
		checks = append(checks, &expression{one.Expression, boolean})
		if one.MessageExpression == "" {
			messages = append(messages, nil)
		} else {
			messages = append(messages, &expression{one.MessageExpression, text})
		}
	}
	for _, one := range p.Spec.AuditAnnotations {
		notes = append(notes, &expression{one.ValueExpression, textOrNull})
	}
	all := plugincel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true}
	v.checks = c.CompileCondition(checks, all, environment.StoredExpressions)
	v.notes = c.CompileCondition(notes, all, environment.StoredExpressions)
	v.messages = c.CompileCondition(messages, plugincel.OptionalVariableDeclarations{HasParams: params}, environment.StoredExpressions)
	return v
}

// verdict is what one validation says of a request. reason is empty where it is
// an error's.
type verdict struct {
	denied  bool
	failed  bool // by an error
	message string
	reason  metav1.StatusReason
	index   int
}

// note is an audit annotation, or why there is none.
type note struct {
	key, value string
	err        error
}

// input is what the expressions of a policy are about.
type input struct {
	view  *extension.View
	match extension.Match
	at    *k8sadmission.VersionedAttributes
	ns    *corev1.Namespace
	authz authorizer.UnconditionalAuthorizer
}

// failure is the one verdict of a policy that could not be evaluated.
func (v *validator) failure(err error) []verdict {
	return []verdict{{denied: !v.ignore, failed: true, message: err.Error()}}
}

// evaluate runs the policy with one param.
func (v *validator) evaluate(ctx context.Context, in *input, obj api.Object) ([]verdict, []note) {
	if v.err != nil {
		return v.failure(v.err), nil
	}
	matches, err := v.matcher.Matches(ctx, in.view, in.at, in.match, param(obj), in.authz)
	if err != nil {
		return v.failure(err), nil
	}
	if !matches {
		return nil, nil
	}
	request := in.view.Review(in.at, in.match)
	ns := plugincel.CreateNamespaceObject(in.ns)
	vars := plugincel.OptionalVariableBindings{VersionedParams: param(obj), Authorizer: in.authz}
	results, left, err := v.checks.ForInput(ctx, in.at, request, vars, ns, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return v.failure(err), nil
	}
	messages, _, merr := v.messages.ForInput(ctx, in.at, request, plugincel.OptionalVariableBindings{VersionedParams: param(obj)}, ns, left)
	out := make([]verdict, len(results))
	for i, r := range results {
		var m *plugincel.EvaluationResult
		if i < len(messages) {
			m = &messages[i]
		}
		out[i] = v.verdict(i, r, m, merr)
	}
	notes, err := v.annotations(ctx, in, vars, ns)
	if err != nil {
		return v.failure(err), nil
	}
	return out, notes
}

func (v *validator) verdict(i int, r plugincel.EvaluationResult, message *plugincel.EvaluationResult, merr error) verdict {
	switch {
	case r.Error != nil:
		return verdict{denied: !v.ignore, failed: true, message: r.Error.Error(), index: i}
	case errors.Is(merr, apiservercel.ErrInternal), errors.Is(merr, apiservercel.ErrOutOfBudget):
		return verdict{denied: !v.ignore, failed: true, message: fmt.Sprintf("failed messageExpression: %s", merr), index: i}
	case r.EvalResult == celtypes.True:
		return verdict{index: i}
	}
	check := &v.policy.Spec.Validations[i]
	out := verdict{denied: true, message: messageOf(check, message), reason: metav1.StatusReasonInvalid, index: i}
	if check.Reason != nil {
		out.reason = *check.Reason
	}
	return out
}

// messageOf is what the message expression made, if that is one line of bearable
// length, else the message, else the expression itself.
func messageOf(check *admissionregv1.Validation, made *plugincel.EvaluationResult) string {
	if made != nil && made.Error == nil && made.EvalResult != nil {
		s, ok := made.EvalResult.Value().(string)
		s = strings.TrimSpace(s)
		if ok && s != "" && len(s) <= celconfig.MaxEvaluatedMessageExpressionSizeBytes && !strings.Contains(s, "\n") {
			return s
		}
	}
	if s := strings.TrimSpace(check.Message); s != "" {
		return s
	}
	return "failed expression: " + strings.TrimSpace(check.Expression)
}

func (v *validator) annotations(ctx context.Context, in *input, vars plugincel.OptionalVariableBindings, ns *corev1.Namespace) ([]note, error) {
	results, _, err := v.notes.ForInput(ctx, in.at, in.view.Review(in.at, in.match), vars, ns, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return nil, err
	}
	var out []note
	for i, r := range results {
		n := note{key: v.policy.Spec.AuditAnnotations[i].Key, err: r.Error}
		if r.Error == nil {
			if s, ok := r.EvalResult.Value().(string); ok {
				n.value = strings.TrimSpace(s)
			}
		}
		if n.value != "" || n.err != nil && !v.ignore {
			out = append(out, n)
		}
	}
	return out, nil
}
