package differential

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"proa/api"
)

// TestConversions takes every variant of the kinds that have several versions
// there and back, as both do.
func TestConversions(t *testing.T) {
	list, all := loadAccepted(t), corpus(t)
	for _, r := range chosen() {
		for i := range r.Versions {
			as := &r.Versions[i]
			t.Run(strings.ReplaceAll(r.Key(), "/", "_")+"_"+as.Version, func(t *testing.T) {
				rep := newReport("conversions", r.Key(), list)
				defer rep.show(t)
				bases := all[r.Key()]
				if f := filled(t, r); f != nil {
					bases = append(bases, f)
				}
				for _, base := range bases {
					for v := range everyVariant(bases, base) {
						there(rep, r, as, v)
					}
				}
				back(t, rep, r, as, bases)
			})
		}
	}
}

func there(rep *report, r *api.Resource, as *api.Version, v variant) {
	stored := fresh(v.obj)
	legacyscheme.Scheme.Default(stored)
	ours, err := as.FromStorage(fresh(stored))
	if err != nil {
		rep.add(v.what, "from storage: "+err.Error())
		return
	}
	rep.same("from storage", v.what, ours, convert(stored, r.Group, as.Group, as.Version))
	again, err := as.ToStorage(ours)
	if err != nil {
		rep.add(v.what, "there and back: "+err.Error())
		return
	}
	rep.same("there and back", v.what, again, convert(convert(stored, r.Group, as.Group, as.Version), as.Group, r.Group, r.Version))
}

// back starts from objects of the other version, with its defaults.
func back(t *testing.T, rep *report, r *api.Resource, as *api.Version, bases []api.Object) {
	row := &api.Resource{Group: as.Group, Version: as.Version, Kind: as.Kind, New: as.New}
	var objs []api.Object
	for _, base := range bases {
		if o, ok := convert(base, r.Group, as.Group, as.Version).(api.Object); ok {
			objs = append(objs, o)
		}
	}
	if f := filled(t, row); f != nil {
		objs = append(objs, f)
	}
	for _, base := range objs {
		for v := range everyVariant(objs, base) {
			given, want := fresh(v.obj), fresh(v.obj)
			if as.Default != nil {
				as.Default(given)
			}
			ours, err := as.ToStorage(given)
			if err != nil {
				rep.add(v.what, "to storage: "+err.Error())
				continue
			}
			r.Default(ours)
			legacyscheme.Scheme.Default(want)
			theirs := convert(want, as.Group, r.Group, r.Version)
			if theirs != nil {
				legacyscheme.Scheme.Default(theirs)
			}
			rep.same("to storage", v.what, ours, theirs)
		}
	}
}

// convert is upstream's way from a version to another, by the version within.
func convert(obj runtime.Object, from, group, version string) runtime.Object {
	if obj == nil {
		return nil
	}
	in, err := legacyscheme.Scheme.ConvertToVersion(obj.DeepCopyObject(), schema.GroupVersion{Group: from, Version: runtime.APIVersionInternal})
	if err != nil {
		return nil
	}
	out, err := legacyscheme.Scheme.ConvertToVersion(in, schema.GroupVersion{Group: group, Version: version})
	if err != nil {
		return nil
	}
	return out
}
