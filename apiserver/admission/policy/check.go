package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	admissionregv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/version"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
	celopenapi "k8s.io/apiserver/pkg/cel/openapi"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"

	"proa/api"
	"proa/api/openapi"
	"proa/apiserver/admission/extension"
)

// maxChecked bounds the kinds that a policy is checked against.
const maxChecked = 10

// Check compiles a policy's validations against the schemas of the kinds that it
// matches by name, and says what does not fit. It is advice: requests are decided
// without types.
func Check(reg *api.Registry, p *admissionregv1.ValidatingAdmissionPolicy) ([]admissionregv1.ExpressionWarning, error) {
	kinds := checkedKinds(reg, p)
	if len(kinds) == 0 {
		return nil, nil
	}
	schemas, err := openapi.ReadSchemas(reg)
	if err != nil {
		return nil, err
	}
	var params *apiservercel.DeclType
	if k := p.Spec.ParamKind; k != nil {
		params = declType(schemas, schema.FromAPIVersionAndKind(k.APIVersion, k.Kind))
	}
	found := findings{}
	for _, gvk := range kinds {
		if object := declType(schemas, gvk); object != nil {
			if err := found.check(p, gvk, object, params); err != nil {
				return nil, err
			}
		}
	}
	return found.warnings(p), nil
}

// checkedKinds are the kinds that the rules name without wildcards.
func checkedKinds(reg *api.Registry, p *admissionregv1.ValidatingAdmissionPolicy) (out []schema.GroupVersionKind) {
	if p.Spec.MatchConstraints == nil {
		return nil
	}
	for _, r := range p.Spec.MatchConstraints.ResourceRules {
		if slices.Contains(r.APIGroups, "*") || slices.Contains(r.APIVersions, "*") {
			continue
		}
		for _, g := range r.APIGroups {
			for _, v := range r.APIVersions {
				for _, plural := range r.Resources {
					served, ok := reg.ByGVR(schema.GroupVersionResource{Group: g, Version: v, Resource: plural})
					if ok && !slices.Contains(out, served.GVK()) {
						out = append(out, served.GVK())
					}
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b schema.GroupVersionKind) int { return strings.Compare(a.String(), b.String()) })
	return out[:min(len(out), maxChecked)]
}

// declType is a kind's type in CEL, or nil where nothing is known of it.
func declType(schemas *openapi.Schemas, gvk schema.GroupVersionKind) *apiservercel.DeclType {
	ref, ok := schemas.Ref(gvk)
	if !ok {
		return nil
	}
	s, err := resolver.PopulateRefs(schemas.Of, ref)
	if err != nil {
		return nil
	}
	t := common.SchemaDeclType(&celopenapi.Schema{Schema: s}, true)
	if t == nil {
		return nil
	}
	return t.MaybeAssignTypeName(fmt.Sprintf("%s%d", gvk.Kind, len(gvk.String())))
}

// findings are what is wrong, by the path of the expression.
type findings map[string][]string

func (f findings) check(p *admissionregv1.ValidatingAdmissionPolicy, gvk schema.GroupVersionKind, object, params *apiservercel.DeclType) error {
	env, err := typedEnvironment(p.Spec.ParamKind != nil, object, params)
	if err != nil {
		return err
	}
	c, err := plugincel.NewCompositedCompilerForTypeChecking(env)
	if err != nil {
		return err
	}
	c.Compiler = typeCompiler{c}
	decls := plugincel.OptionalVariableDeclarations{HasParams: p.Spec.ParamKind != nil, HasAuthorizer: true}
	for i := range p.Spec.Variables {
		c.CompileAndStoreVariable((*variable)(&p.Spec.Variables[i]), decls, environment.StoredExpressions)
	}
	forExpressions(p, func(path, text string) {
		res := c.CompileCELExpression(&expression{text, whateverType}, decls, environment.StoredExpressions)
		if res.Error != nil {
			f[path] = append(f[path], fmt.Sprintf("%v: %s\n", gvk, res.Error.Detail))
		}
	})
	return nil
}

func forExpressions(p *admissionregv1.ValidatingAdmissionPolicy, each func(path, text string)) {
	at := field.NewPath("spec", "validations")
	for i, v := range p.Spec.Validations {
		each(at.Index(i).Child("expression").String(), v.Expression)
		if v.MessageExpression != "" {
			each(at.Index(i).Child("messageExpression").String(), v.MessageExpression)
		}
	}
}

func (f findings) warnings(p *admissionregv1.ValidatingAdmissionPolicy) (out []admissionregv1.ExpressionWarning) {
	forExpressions(p, func(path, _ string) {
		if list := f[path]; len(list) > 0 {
			out = append(out, admissionregv1.ExpressionWarning{FieldRef: path, Warning: strings.Join(list, "\n")})
		}
	})
	return out
}

// typedEnvironment declares the variables of a policy with the types of a kind.
func typedEnvironment(hasParams bool, object, params *apiservercel.DeclType) (*environment.EnvSet, error) {
	request, namespace := plugincel.BuildRequestType(), plugincel.BuildNamespaceType()
	types := []*apiservercel.DeclType{request, namespace, object}
	vars := []cel.EnvOption{
		cel.Variable(plugincel.RequestVarName, request.CelType()), cel.Variable(plugincel.NamespaceVarName, namespace.CelType()),
		cel.Variable(plugincel.ObjectVarName, object.CelType()), cel.Variable(plugincel.OldObjectVarName, object.CelType()),
		cel.Variable(plugincel.AuthorizerVarName, library.AuthorizerType),
		cel.Variable(plugincel.RequestResourceAuthorizerVarName, library.ResourceCheckType),
	}
	switch {
	case hasParams && params != nil:
		types, vars = append(types, params), append(vars, cel.Variable(plugincel.ParamsVarName, params.CelType()))
	case hasParams:
		vars = append(vars, cel.Variable(plugincel.ParamsVarName, cel.DynType))
	}
	return extension.Environment().Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0), EnvOptions: vars, DeclTypes: types,
	})
}

// typeCompiler compiles for the types alone.
type typeCompiler struct{ c *plugincel.CompositedCompiler }

func (t typeCompiler) CompileCELExpression(e plugincel.ExpressionAccessor, _ plugincel.OptionalVariableDeclarations, mode environment.Type) plugincel.CompilationResult {
	env, err := t.c.Env(mode)
	if err != nil {
		return plugincel.CompilationResult{Error: &apiservercel.Error{Type: apiservercel.ErrorTypeInternal, Detail: "fail to build env: " + err.Error()}, ExpressionAccessor: e}
	}
	ast, issues := env.Compile(e.GetExpression())
	if issues != nil {
		return plugincel.CompilationResult{Error: &apiservercel.Error{Type: apiservercel.ErrorTypeInvalid, Detail: issues.String()}, ExpressionAccessor: e}
	}
	return plugincel.CompilationResult{OutputType: ast.OutputType(), ExpressionAccessor: e}
}
