package differential

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"slices"
	"sort"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/capabilities"

	"proa/api"
	"proa/apiserver/admission"
	"proa/apiserver/admission/extension"
)

func TestMain(m *testing.M) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	capabilities.Setup(true, 0) // privileged containers, as any cluster with pods of its own has them
	os.Exit(m.Run())
}

// verdict is what became of a request: the object to store, or errors.
type verdict struct {
	obj      runtime.Object
	errs     []string
	warnings []string
	// alone says that the errors are of the step that allocates, which is
	// Kubernetes' first and proa's last: neither tells others beside them.
	alone bool
}

// AddWarning collects what upstream's strategies warn of.
func (v *verdict) AddWarning(_, text string) { v.warnings = append(v.warnings, text) }

// TestRules gives every variant of every object to create, update and each
// subresource of both.
func TestRules(t *testing.T) {
	list, all := loadAccepted(t), corpus(t)
	allocations["services"] = newAllocation(t)
	for _, r := range chosen() {
		s, ok := strategies[r.Key()]
		if !ok {
			continue
		}
		t.Run(strings.ReplaceAll(r.Key(), "/", "_"), func(t *testing.T) {
			if len(all[r.Key()]) == 0 {
				t.Fatal("no object in the corpus")
			}
			rep := newReport("rules", r.Key(), list)
			defer rep.show(t)
			for _, base := range all[r.Key()] {
				for v := range everyVariant(all[r.Key()], base) {
					judge(rep, r, s, base, v)
				}
			}
		})
	}
}

// chosen are the rows to look at: ONLY names some.
func chosen() []*api.Resource {
	only := os.Getenv("ONLY")
	return slices.DeleteFunc(slices.Clone(api.Builtin().All()), func(r *api.Resource) bool {
		return only != "" && !slices.Contains(strings.Split(only, ","), r.Key())
	})
}

// everyVariant is an object as it is, and all its variants. What is in pod
// templates is the same code everywhere: outside of pods and podtemplates, where
// all of it is looked at, a sample is enough.
func everyVariant(all []api.Object, base api.Object) func(yield func(variant) bool) {
	m := newMutator(all)
	return func(yield func(variant) bool) {
		if !yield(variant{base, "as it is"}) {
			return
		}
		for v := range m.variants(base, "", depth()) {
			if sampled(v.what) && !yield(v) {
				return
			}
		}
	}
}

func depth() int {
	d := 1
	fmt.Sscan(os.Getenv("DEPTH"), &d)
	return d
}

// sampled chooses one in so many of the variants that differ least from others;
// FULL=1 takes all.
func sampled(what string) bool {
	n, deep := uint32(1), strings.Contains(what, "; ")
	switch {
	case strings.Contains(what, "Spec.Template.Spec."):
		n = 40
	case deep && (strings.Contains(what, "ontainers") || strings.Contains(what, "Volumes")):
		n = 12
	case deep:
		n = 2
	}
	if os.Getenv("FULL") != "" || n == 1 {
		return true
	}
	h := fnv.New32a()
	io.WriteString(h, what)
	return h.Sum32()%n == 0
}

func judge(rep *report, r *api.Resource, s strategy, base api.Object, v variant) {
	rep.verdicts("create", v.what, hide(v.obj, nil, oursCreate(r, fresh(v.obj))), hide(v.obj, nil, theirsCreate(r, s.main, fresh(v.obj))))
	old := base.DeepCopyObject().(api.Object)
	if made := oursCreate(r, old); len(made.errs) > 0 {
		return // said already
	}
	old.SetResourceVersion("5")
	next := func() api.Object {
		o := v.obj.DeepCopyObject().(api.Object)
		o.SetResourceVersion("5")
		o.SetName(old.GetName())
		o.SetGeneration(old.GetGeneration())
		return o
	}
	was := func() api.Object { return old.DeepCopyObject().(api.Object) }
	rep.verdicts("update", v.what, hide(v.obj, old, oursUpdate(r, "", next(), was())), hide(v.obj, old, theirsUpdate(r, s.main, "", next(), was())))
	for sub, ss := range s.subs {
		rep.verdicts(sub, v.what, oursUpdate(r, sub, next(), was()), theirsUpdate(r, ss, sub, next(), was()))
	}
}

func fresh(obj api.Object) api.Object { return obj.DeepCopyObject().(api.Object) }

// verdicts compares errors, or where there are none warnings and the objects.
func (r *report) verdicts(verb, what string, ours, theirs verdict) {
	if theirs.alone && !ours.alone && len(ours.errs) > 0 {
		return
	}
	if !r.lists(verb, what, ours.errs, theirs.errs) || len(ours.errs) > 0 {
		return
	}
	r.lists(verb+" warning", what, sorted(ours.warnings), sorted(theirs.warnings))
	if ours.obj == nil || theirs.obj == nil {
		return
	}
	r.same(verb+" object", what, ours.obj, theirs.obj)
}

func sorted(s []string) []string {
	sort.Strings(s)
	return slices.Compact(s)
}

func ctxOf(r *api.Resource, sub, verb string, obj api.Object, v *verdict) context.Context {
	ctx := request.WithNamespace(context.Background(), obj.GetNamespace())
	ctx = warning.WithWarningRecorder(ctx, v)
	return request.WithRequestInfo(ctx, &request.RequestInfo{IsResourceRequest: true, Verb: verb,
		APIGroup: r.Group, APIVersion: r.Version, Resource: r.Plural, Subresource: sub, Namespace: obj.GetNamespace(), Name: obj.GetName()})
}

func internal(obj runtime.Object, r *api.Resource) (runtime.Object, error) {
	legacyscheme.Scheme.Default(obj)
	return legacyscheme.Scheme.UnsafeConvertToVersion(obj, schema.GroupVersion{Group: r.Group, Version: runtime.APIVersionInternal})
}

func external(obj runtime.Object, r *api.Resource) runtime.Object {
	out, err := legacyscheme.Scheme.ConvertToVersion(obj.DeepCopyObject(), schema.GroupVersion{Group: r.Group, Version: r.Version})
	if err != nil {
		return nil
	}
	return out
}

func (v *verdict) recovered() {
	if p := recover(); p != nil {
		v.errs = []string{fmt.Sprint("PANIC: ", p)}
	}
}

func theirsCreate(r *api.Resource, s both, obj api.Object) (v verdict) {
	defer v.recovered()
	ctx := ctxOf(r, "", "create", obj, &v)
	in, err := internal(obj, r)
	if err != nil {
		return verdict{errs: []string{"convert " + err.Error()}}
	}
	if a := allocations[r.Key()]; a != nil {
		if err := a.begin(ctx, in, nil); err != nil {
			return verdict{errs: causes(err), alone: true}
		}
	}
	v.errs = causes(rest.BeforeCreate(s, ctx, in))
	v.obj = external(in, r)
	return v
}

func theirsUpdate(r *api.Resource, s rest.RESTUpdateStrategy, sub string, obj, old api.Object) (v verdict) {
	defer v.recovered()
	ctx := ctxOf(r, sub, "update", obj, &v)
	in, err := internal(obj, r)
	if err != nil {
		return verdict{errs: []string{"convert " + err.Error()}}
	}
	was, err := internal(old, r)
	if err != nil {
		return verdict{errs: []string{"convert " + err.Error()}}
	}
	if a := allocations[r.Key()]; a != nil && sub == "" {
		if err := a.begin(ctx, in, was); err != nil {
			return verdict{errs: causes(err), alone: true}
		}
	}
	v.errs = causes(rest.BeforeUpdate(s, ctx, in, was))
	v.obj = external(in, r)
	return v
}

func oursCreate(r *api.Resource, obj api.Object) (v verdict) {
	defer v.recovered()
	if r.PrepareCreate != nil {
		r.PrepareCreate(obj)
	}
	if r.Default != nil {
		r.Default(obj)
	}
	if r.Settle != nil {
		r.Settle(obj)
	}
	v.obj = obj
	if r.Validate != nil {
		v.errs = lines(r.Validate(obj))
	}
	if r.ValidateNew != nil {
		v.errs = sorted(append(v.errs, lines(r.ValidateNew(obj))...))
	}
	v.errs = sorted(append(v.errs, expressions(r, admission.Create, obj, nil)...))
	if r.Warnings != nil {
		v.warnings = r.Warnings(obj, nil)
	}
	v.allocate(r, admission.Create, obj, nil)
	return v
}

// allocate is proa's last step, where nothing was wrong before.
func (v *verdict) allocate(r *api.Resource, op admission.Operation, obj, old api.Object) {
	if a := allocations[r.Key()]; a != nil && len(v.errs) == 0 {
		v.errs = causes(a.finish(r, op, obj, old))
		v.alone = len(v.errs) > 0
	}
}

// expressions are what admission says of a policy's CEL, which upstream's
// validation does.
func expressions(r *api.Resource, op admission.Operation, obj, old api.Object) []string {
	err := extension.Expressions().Validate(context.Background(), &admission.Request{Resource: r, Op: op, Object: obj, Old: old})
	return causes(err)
}

func oursUpdate(r *api.Resource, sub string, obj, old api.Object) (v verdict) {
	defer v.recovered()
	if r.Default != nil {
		r.Default(obj)
	}
	prepare, check := r.PrepareUpdate, r.ValidateUpdate
	var errs field.ErrorList
	if sub != "" {
		s := r.Subresource(sub)
		prepare, check = s.PrepareUpdate, s.ValidateUpdate
	}
	if prepare != nil {
		prepare(obj, old)
	}
	if sub == "" && r.Validate != nil && !r.Ratchets {
		errs = r.Validate(obj)
	}
	if check != nil {
		errs = append(errs, check(obj, old)...)
	}
	v.obj, v.errs = obj, lines(errs)
	if sub == "" {
		v.errs = sorted(append(v.errs, expressions(r, admission.Update, obj, old)...))
	}
	if r.Warnings != nil && sub == "" {
		v.warnings = r.Warnings(obj, old)
	}
	if sub == "" {
		v.allocate(r, admission.Update, obj, old)
	}
	return v
}

// causes are the errors of a Status, a line each.
func causes(err error) []string {
	if err == nil {
		return nil
	}
	st, ok := err.(apierrors.APIStatus)
	if !ok {
		return []string{"? " + err.Error()}
	}
	var out []string
	if d := st.Status().Details; d != nil {
		for _, c := range d.Causes {
			out = append(out, line(c.Field, string(c.Type), c.Message))
		}
	}
	if len(out) == 0 {
		out = append(out, "! "+err.Error())
	}
	return sorted(out)
}

func lines(errs field.ErrorList) []string {
	var out []string
	for _, e := range errs {
		out = append(out, line(e.Field, string(e.Type), e.ErrorBody()))
	}
	return sorted(out)
}

// line is one error: where and what; MESSAGES=1 adds its words.
func line(path, typ, message string) string {
	typ = strings.TrimPrefix(typ, "FieldValue")
	if os.Getenv("MESSAGES") != "" {
		return path + ": " + typ + ": " + message
	}
	return path + ": " + typ
}
