package custom

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/warning"

	"proa/api"
)

var metaPath = field.NewPath("metadata")

// validate judges a new object.
func (v *version) validate(obj api.Object) field.ErrorList {
	u, r, errs := v.readable(obj)
	if len(errs) > 0 {
		return errs
	}
	errs = apivalidation.ValidateObjectMetaAccessor(u, v.def.namespaced, apivalidation.NameIsDNSSubdomain, metaPath)
	errs = append(errs, validation.ValidateCustomResource(nil, u.Object, r.validator)...)
	errs = append(errs, v.scale.validate(u, true)...)
	errs = append(errs, objectmeta.Validate(context.Background(), nil, u.Object, r.structural, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, r.structural, u.Object)...)
	return r.evaluate(context.Background(), errs, u, nil)
}

// judge is Custom.Judge.
func (v *version) judge(obj, old api.Object, status bool, warn func(...string)) field.ErrorList {
	ctx := warning.WithWarningRecorder(context.Background(), teller(warn))
	if status {
		return v.validateStatus(ctx, obj, old)
	}
	return v.validateUpdate(ctx, obj, old)
}

// teller passes on what the rules' package warns of.
type teller func(...string)

func (t teller) AddWarning(_, text string) { t(text) }

// validateUpdate judges a changed object; what was wrong before and did not
// change is let pass (KEP-4008), with a warning if it breaks a CEL rule.
func (v *version) validateUpdate(ctx context.Context, obj, old api.Object) field.ErrorList {
	u, r, errs := v.readable(obj)
	if len(errs) > 0 {
		return errs
	}
	was := old.(*unstructured.Unstructured)
	both := common.NewCorrelatedObject(u.Object, was.Object, &model.Structural{Structural: r.structural})
	errs = apivalidation.ValidateObjectMetaAccessorUpdate(u, was, metaPath)
	errs = append(errs, validation.ValidateCustomResourceUpdate(nil, u.Object, was.Object, r.validator, validation.WithRatcheting(both))...)
	errs = append(errs, v.scale.validate(u, true)...)
	errs = append(errs, objectmeta.Validate(context.Background(), nil, u.Object, r.structural, false)...)
	errs = append(errs, r.changedLists(u, was)...)
	return r.evaluate(ctx, errs, u, was, cel.WithRatcheting(both))
}

// validateStatus judges a change through the endpoint "status".
func (v *version) validateStatus(ctx context.Context, obj, old api.Object) field.ErrorList {
	u, r, errs := v.readable(obj)
	if len(errs) > 0 {
		return errs
	}
	was := old.(*unstructured.Unstructured)
	both := common.NewCorrelatedObject(u.Object, was.Object, &model.Structural{Structural: r.structural})
	var options []validation.ValidationOption
	if r.structural != nil {
		options = append(options, validation.WithRatcheting(both.Key("status")))
	}
	errs = apivalidation.ValidateObjectMetaAccessorUpdate(u, was, metaPath)
	if status, ok := u.Object["status"]; ok {
		errs = append(errs, validation.ValidateCustomResourceUpdate(field.NewPath("status"), status, was.Object["status"], r.status, options...)...)
	}
	errs = append(errs, v.scale.validate(u, false)...)
	errs = append(errs, r.changedLists(u, was)...)
	return r.evaluate(ctx, errs, u, was, cel.WithRatcheting(both))
}

// readable checks that the object is one of the version and that there are
// rules for it.
func (v *version) readable(obj api.Object) (*unstructured.Unstructured, *rules, field.ErrorList) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return nil, nil, field.ErrorList{field.Invalid(field.NewPath(""), obj, fmt.Sprintf("has type %T. Must be a pointer to an Unstructured type", obj))}
	}
	r, err := v.rules()
	if err != nil {
		return nil, nil, field.ErrorList{field.InternalError(nil, err)}
	}
	var errs field.ErrorList
	if u.GetKind() != v.def.kind {
		errs = append(errs, field.Invalid(field.NewPath("kind"), u.GetKind(), "must be "+v.def.kind))
	}
	if u.GetAPIVersion() != v.gv().String() {
		errs = append(errs, field.Invalid(field.NewPath("apiVersion"), u.GetAPIVersion(), "must be "+v.gv().String()))
	}
	return u, r, errs
}

// changedLists finds lists that break their type, unless the old object's did
// so already.
func (r *rules) changedLists(u, was *unstructured.Unstructured) field.ErrorList {
	errs := listtype.ValidateListSetsAndMaps(nil, r.structural, u.Object)
	if len(errs) > 0 && len(listtype.ValidateListSetsAndMaps(nil, r.structural, was.Object)) > 0 {
		return nil
	}
	return errs
}

// evaluate adds what the CEL rules say, within the cost that one request may
// take. An object whose types are wrong cannot be evaluated.
func (r *rules) evaluate(ctx context.Context, errs field.ErrorList, u, was *unstructured.Unstructured, options ...cel.Option) field.ErrorList {
	programs := r.programs()
	if programs == nil {
		return errs
	}
	if slices.ContainsFunc(errs, blocks) {
		return append(errs, field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"))
	}
	var old any
	if was != nil {
		old = was.Object
	}
	more, _ := programs.Validate(ctx, nil, r.structural, u.Object, old, celconfig.RuntimeCELCostBudget, options...)
	return append(errs, more...)
}

func blocks(e *field.Error) bool {
	switch e.Type {
	case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
		return true
	}
	return false
}

// finalizerWarnings tells of new finalizers that are named badly; old may be nil.
func finalizerWarnings(obj, old api.Object) []string {
	var had, out []string
	if old != nil {
		had = old.GetFinalizers()
	}
	for _, f := range slices.Compact(slices.Sorted(slices.Values(obj.GetFinalizers()))) {
		if !slices.Contains(had, f) {
			out = append(out, finalizerWarning(f)...)
		}
	}
	return out
}

var ownFinalizers = []string{metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents, string(corev1.FinalizerKubernetes)}

func finalizerWarning(f string) []string {
	at := metaPath.Child("finalizers").String()
	var out []string
	for _, msg := range utilvalidation.IsQualifiedName(f) {
		out = append(out, fmt.Sprintf("%s: %q: %s", at, f, msg))
	}
	if strings.Contains(f, "/") || slices.Contains(ownFinalizers, f) {
		return out
	}
	advice := "prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers"
	if strings.Contains(f, ".") {
		advice = "prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers"
	}
	return append(out, fmt.Sprintf("%s: %q: %s", at, f, advice))
}
