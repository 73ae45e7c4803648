package differential

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/registry/apps/replicaset"
	"k8s.io/kubernetes/pkg/registry/batch/job"
	"k8s.io/kubernetes/pkg/registry/certificates/certificates"
	"k8s.io/kubernetes/pkg/registry/core/event"
	"k8s.io/kubernetes/pkg/registry/core/namespace"
	"k8s.io/kubernetes/pkg/registry/core/node"
	"k8s.io/kubernetes/pkg/registry/core/pod"
	"k8s.io/kubernetes/pkg/registry/core/replicationcontroller"
	"k8s.io/kubernetes/pkg/registry/core/secret"
	"k8s.io/kubernetes/pkg/registry/core/service"
	"k8s.io/kubernetes/pkg/registry/resource/resourceslice"

	"proa/api"
)

type attrs func(runtime.Object) (labels.Set, fields.Set, error)

// selectable are the kinds whose objects can be selected by more than names.
var selectable = map[string]attrs{
	"apps/replicasets": replicaset.GetAttrs,
	"batch/jobs":       job.GetAttrs,
	"certificates.k8s.io/certificatesigningrequests": certificates.GetAttrs,
	"events":                         event.GetAttrs,
	"namespaces":                     namespace.GetAttrs,
	"nodes":                          node.GetAttrs,
	"pods":                           pod.GetAttrs,
	"replicationcontrollers":         replicationcontroller.GetAttrs,
	"secrets":                        secret.GetAttrs,
	"services":                       service.GetAttrs,
	"resource.k8s.io/resourceslices": resourceslice.GetAttrs,
}

// TestFieldNames asks both which fields a selector may name, of all that any
// kind has.
func TestFieldNames(t *testing.T) {
	names := map[string]bool{}
	for _, r := range api.Builtin().All() {
		for _, n := range r.FieldNames {
			names[n] = true
		}
		obj := r.New()
		for _, top := range []string{"Spec", "Status"} { // and what looks like one
			if v := reflect.ValueOf(obj).Elem().FieldByName(top); v.IsValid() {
				for i := range v.NumField() {
					tag := strings.Split(v.Type().Field(i).Tag.Get("json"), ",")[0]
					names[strings.ToLower(top)+"."+tag] = true
				}
			}
		}
	}
	for _, n := range []string{"type", "reason", "reportingComponent", "source", "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
		"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "status.successful", "spec.signerName", "spec.serviceAccountName"} {
		names[n] = true
	}
	for _, r := range chosen() {
		gvk := schema.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
		if !legacyscheme.Scheme.Recognizes(gvk) || len(r.Verbs) > 0 && !slices.Contains(r.Verbs, "list") {
			continue
		}
		for _, n := range slices.Sorted(maps.Keys(names)) {
			_, _, err := legacyscheme.Scheme.ConvertFieldLabel(gvk, n, "x")
			if ours := slices.Contains(r.FieldNames, n); ours != (err == nil) {
				t.Errorf("%s: field %s: served here %v, by Kubernetes %v", r.Key(), n, ours, err == nil)
			}
		}
	}
}

// TestFieldValues reads the selectable fields off every variant.
func TestFieldValues(t *testing.T) {
	list, all := loadAccepted(t), corpus(t)
	for _, r := range chosen() {
		theirs, ok := selectable[r.Key()]
		if !ok || r.Fields == nil { // what Kubernetes has and lets nobody name
			if r.Fields != nil && strategies[r.Key()].main != nil {
				t.Logf("%s has selectable fields %v that are not compared", r.Key(), r.FieldNames)
			}
			continue
		}
		rep := newReport("fields", r.Key(), list)
		for _, base := range all[r.Key()] {
			for v := range everyVariant(all[r.Key()], base) {
				in, err := internal(fresh(v.obj), r)
				if err != nil {
					continue
				}
				_, want, err := theirs(in)
				if err != nil {
					t.Fatal(err)
				}
				obj := fresh(v.obj)
				legacyscheme.Scheme.Default(obj)
				have := r.Fields(obj)
				for _, n := range r.FieldNames {
					if have[n] != want[n] {
						rep.add(v.what, fmt.Sprintf("field %s: %q here, %q there", n, have[n], want[n]))
					}
				}
			}
		}
		rep.show(t)
	}
}
