package extension

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/google/cel-go/cel"
	admissionregv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"proa/api"
	"proa/apiserver/admission"
)

// Expressions refuses webhook configurations and policies whose expressions do
// not compile. It is no rule of the kinds' own because it takes the CEL
// environments, which most servers never need. An expression that was there
// before may use what expressions may no longer begin to use.
func Expressions() admission.Plugin {
	return admission.Plugin{Name: "AdmissionExpressions", Validate: func(_ context.Context, r *admission.Request) error {
		if r.Resource.Group != "admissionregistration.k8s.io" || r.Subresource != "" || r.Op != admission.Create && r.Op != admission.Update {
			return nil
		}
		old := &checker{}
		if r.Old != nil {
			old.object(r.Old)
		}
		c := &checker{before: sets.New(old.seen...), compiling: true}
		c.object(r.Object)
		if len(c.errs) == 0 {
			return nil
		}
		return apierrors.NewInvalid(r.Resource.GVK().GroupKind(), r.Object.GetName(), c.errs)
	}}
}

// checker walks through a configuration. It collects the expressions and, where
// it is to, compiles them.
type checker struct {
	compiling bool
	before    sets.Set[string]
	seen      []string
	errs      field.ErrorList

	compiler plugincel.Compiler // of the policy, if that has variables
	params   bool
}

var (
	boolean     = []*cel.Type{cel.BoolType}
	text        = []*cel.Type{cel.StringType}
	textOrNull  = []*cel.Type{cel.StringType, cel.NullType}
	whatever    = []*cel.Type{cel.AnyType, cel.DynType}
	applyObject = []*cel.Type{cel.ObjectType("Object")}
	patchList   = []*cel.Type{cel.ListType(cel.ObjectType("JSONPatch"))}
)

func (c *checker) object(obj api.Object) {
	at := field.NewPath("webhooks")
	switch o := obj.(type) {
	case *admissionregv1.MutatingWebhookConfiguration:
		for i := range o.Webhooks {
			c.conditions(o.Webhooks[i].MatchConditions, at.Index(i))
		}
	case *admissionregv1.ValidatingWebhookConfiguration:
		for i := range o.Webhooks {
			c.conditions(o.Webhooks[i].MatchConditions, at.Index(i))
		}
	case *admissionregv1.ValidatingAdmissionPolicy:
		c.validating(o)
	case *admissionregv1.MutatingAdmissionPolicy:
		c.mutating(o)
	}
}

// conditions are compiled without the policy's variables.
func (c *checker) conditions(list []admissionregv1.MatchCondition, at *field.Path) {
	for i, m := range list {
		c.expression(strings.TrimSpace(m.Expression), boolean, plugincel.OptionalVariableDeclarations{HasParams: c.params, HasAuthorizer: true},
			at.Child("matchConditions").Index(i).Child("expression"), plain)
	}
}

func (c *checker) own() plugincel.Compiler {
	if c.compiler == nil {
		return plain()
	}
	return c.compiler
}

func (c *checker) validating(p *admissionregv1.ValidatingAdmissionPolicy) {
	at := field.NewPath("spec")
	c.params = p.Spec.ParamKind != nil
	c.conditions(p.Spec.MatchConditions, at)
	c.variables(p.Spec.Variables, at.Child("variables"))
	all := plugincel.OptionalVariableDeclarations{HasParams: c.params, HasAuthorizer: true}
	for i, v := range p.Spec.Validations {
		at := at.Child("validations").Index(i)
		c.expression(v.Expression, boolean, all, at.Child("expression"), c.own)
		switch {
		case v.MessageExpression != "" && strings.TrimSpace(v.MessageExpression) == "":
			c.refuse(field.Invalid(at.Child("messageExpression"), v.MessageExpression, "must be non-empty if specified"))
		case v.MessageExpression != "":
			c.expression(v.MessageExpression, text, plugincel.OptionalVariableDeclarations{HasParams: c.params}, at.Child("messageExpression"), c.own)
		}
	}
	for i, a := range p.Spec.AuditAnnotations {
		at := at.Child("auditAnnotations").Index(i)
		for _, msg := range validation.IsQualifiedName(p.Name + "/" + a.Key) {
			c.refuse(field.Invalid(at.Child("key"), p.Name+"/"+a.Key, msg))
		}
		c.expression(strings.TrimSpace(a.ValueExpression), textOrNull, all, at.Child("valueExpression"), c.own)
	}
}

func (c *checker) mutating(p *admissionregv1.MutatingAdmissionPolicy) {
	at := field.NewPath("spec")
	c.params = p.Spec.ParamKind != nil
	c.conditions(p.Spec.MatchConditions, at)
	c.variables(p.Spec.Variables, at.Child("variables"))
	decls := plugincel.OptionalVariableDeclarations{HasParams: c.params, HasAuthorizer: true, HasPatchTypes: true}
	for i, m := range p.Spec.Mutations {
		at := at.Child("mutations").Index(i)
		if m.ApplyConfiguration != nil {
			c.expression(strings.TrimSpace(m.ApplyConfiguration.Expression), applyObject, decls, at.Child("applyConfiguration", "expression"), c.own)
		}
		if m.JSONPatch != nil {
			c.expression(strings.TrimSpace(m.JSONPatch.Expression), patchList, decls, at.Child("jsonPatch", "expression"), c.own)
		}
	}
}

// identifier is how CEL names a variable; reserved are words that it keeps.
var identifier = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9]*$`)

var reserved = sets.New("true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if",
	"import", "let", "loop", "package", "namespace", "return", "var", "void", "while")

// variables are compiled in their order: each may use those before it.
func (c *checker) variables(list []admissionregv1.Variable, at *field.Path) {
	if len(list) == 0 {
		return
	}
	var composed *plugincel.CompositedCompiler
	if c.compiling {
		var err error
		if composed, err = plugincel.NewCompositedCompiler(Environment()); err != nil {
			c.refuse(field.InternalError(at, err))
			return
		}
		c.compiler = composed
	}
	for i := range list {
		v, at := &list[i], at.Index(i)
		c.seen = append(c.seen, v.Expression)
		if !c.compiling {
			continue
		}
		if !identifier.MatchString(v.Name) || reserved.Has(v.Name) {
			c.refuse(field.Invalid(at.Child("name"), v.Name, "must be a valid CEL identifier"))
		}
		decls := plugincel.OptionalVariableDeclarations{HasParams: c.params, HasAuthorizer: true}
		e := &named{expression{v.Expression, whatever}, v.Name}
		if res := composed.CompileAndStoreVariable(e, decls, c.env(v.Expression)); res.Error != nil {
			c.refuse(compileError(at.Child("expression"), v.Expression, res.Error))
		}
	}
}

func (c *checker) env(text string) environment.Type {
	if c.before.Has(text) {
		return environment.StoredExpressions
	}
	return environment.NewExpressions
}

func (c *checker) refuse(err *field.Error) {
	if c.compiling {
		c.errs = append(c.errs, err)
	}
}

// expression notes and compiles one; that one is there is the kind's own rule.
func (c *checker) expression(text string, types []*cel.Type, decls plugincel.OptionalVariableDeclarations, at *field.Path, with func() plugincel.Compiler) {
	c.seen = append(c.seen, text)
	if !c.compiling || strings.TrimSpace(text) == "" {
		return
	}
	if res := with().CompileCELExpression(&expression{text, types}, decls, c.env(text)); res.Error != nil {
		c.errs = append(c.errs, compileError(at, text, res.Error))
	}
}

type expression struct {
	text  string
	types []*cel.Type
}

func (e *expression) GetExpression() string    { return e.text }
func (e *expression) ReturnTypes() []*cel.Type { return e.types }

type named struct {
	expression
	name string
}

func (n *named) GetName() string { return n.name }

func compileError(at *field.Path, text string, err *apiservercel.Error) *field.Error {
	switch err.Type {
	case apiservercel.ErrorTypeRequired:
		return field.Required(at, err.Detail)
	case apiservercel.ErrorTypeInvalid:
		return field.Invalid(at, text, err.Detail)
	case apiservercel.ErrorTypeInternal:
		return field.InternalError(at, err)
	}
	return field.InternalError(at, fmt.Errorf("unsupported error type: %w", err))
}
