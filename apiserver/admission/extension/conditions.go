package extension

import (
	"context"
	"sync"

	"github.com/google/cel-go/cel"
	celtypes "github.com/google/cel-go/common/types"
	admissionregv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	k8sadmission "k8s.io/apiserver/pkg/admission"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/environment"
)

// Environment is the base of all expressions over requests.
var Environment = sync.OnceValue(func() *environment.EnvSet {
	return environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
})

// plain compiles expressions that use no variables of a policy.
var plain = sync.OnceValue(func() plugincel.Compiler { return plugincel.NewCompiler(Environment()) })

// Conditions compiles conditions that use no variables.
func Conditions() plugincel.ConditionCompiler { return plainConditions{} }

type plainConditions struct{}

func (plainConditions) CompileCondition(list []plugincel.ExpressionAccessor, decls plugincel.OptionalVariableDeclarations, env environment.Type) plugincel.ConditionEvaluator {
	results := make([]plugincel.CompilationResult, len(list))
	for i, e := range list {
		results[i] = plain().CompileCELExpression(e, decls, env)
	}
	return plugincel.NewCondition(results)
}

// Condition is one match condition as an expression.
type Condition admissionregv1.MatchCondition

func (c *Condition) GetExpression() string    { return c.Expression }
func (c *Condition) ReturnTypes() []*cel.Type { return []*cel.Type{cel.BoolType} }

// Matcher decides by match conditions; nil matches everything.
type Matcher struct {
	conditions plugincel.ConditionEvaluator
	ignore     bool // an error means: does not match
}

// NewMatcher compiles the conditions of a webhook or a policy. An expression that
// does not compile is an error when the conditions are evaluated.
func NewMatcher(c plugincel.ConditionCompiler, list []admissionregv1.MatchCondition, fail *admissionregv1.FailurePolicyType, params bool) *Matcher {
	if len(list) == 0 {
		return nil
	}
	exprs := make([]plugincel.ExpressionAccessor, len(list))
	for i := range list {
		exprs[i] = (*Condition)(&list[i])
	}
	decls := plugincel.OptionalVariableDeclarations{HasParams: params, HasAuthorizer: true}
	return &Matcher{
		conditions: c.CompileCondition(exprs, decls, environment.StoredExpressions),
		ignore:     fail != nil && *fail == admissionregv1.Ignore,
	}
}

// Matches evaluates the conditions: one that is false decides, an error otherwise
// is one unless the failure policy is Ignore, which takes it for no match.
func (m *Matcher) Matches(ctx context.Context, v *View, at *k8sadmission.VersionedAttributes, asked Match, params runtime.Object, authz authorizer.UnconditionalAuthorizer) (bool, error) {
	if m == nil {
		return true, nil
	}
	vars := plugincel.OptionalVariableBindings{VersionedParams: params, Authorizer: authz}
	results, _, err := m.conditions.ForInput(ctx, at, v.Review(at, asked), vars, nil, celconfig.RuntimeCELCostBudgetMatchConditions)
	var errs []error
	if err != nil {
		errs = append(errs, err)
	}
	for _, r := range results {
		if r.Error != nil {
			errs = append(errs, r.Error)
		}
		if r.EvalResult == celtypes.False {
			return false, nil
		}
	}
	if len(errs) == 0 {
		return true, nil
	}
	if m.ignore {
		return false, nil
	}
	return false, utilerrors.NewAggregate(errs)
}
