package admission

import (
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"proa/api"
	"proa/auth"
)

// ownerReferences keeps those who may not delete an object from having it
// collected, and those who may not write an owner's finalizers from holding its
// deletion up. It is off unless asked for.
func ownerReferences(z auth.Authorizer, reg *api.Registry) Plugin {
	may := func(ctx context.Context, a auth.Attributes) (bool, string) {
		a.ResourceRequest = true
		d, reason, _ := z.Authorize(ctx, a)
		return d == auth.Allow, reason
	}
	return Plugin{Name: "OwnerReferencesPermissionEnforcement", Validate: func(ctx context.Context, r *Request) error {
		if z == nil || r.Op != Create && r.Op != Update || r.Object == nil || r.Resource.NewList == nil {
			return nil
		}
		var before []metav1.OwnerReference
		if r.Old != nil {
			before = r.Old.GetOwnerReferences()
		}
		if sameOwners(before, r.Object.GetOwnerReferences()) {
			return nil
		}
		own := auth.Attributes{User: r.User, Verb: "delete", Group: r.Resource.Group, Version: r.Resource.Version,
			Resource: r.Resource.Plural, Subresource: r.Subresource, Namespace: r.Namespace, Name: r.Name}
		if ok, reason := may(ctx, own); !ok {
			return r.Forbidden(fmt.Errorf("cannot set an ownerRef on a resource you can't delete: %s", reason))
		}
		for _, ref := range blocking(before, r.Object.GetOwnerReferences()) {
			served, ok := reg.ByGVK(schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind))
			if !ok {
				return r.Forbidden(fmt.Errorf("cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion %s Kind %s", ref.APIVersion, ref.Kind))
			}
			a := auth.Attributes{User: r.User, Verb: "update", Group: served.Group, Version: served.GVK().Version, Resource: served.Plural, Subresource: "finalizers", Name: ref.Name}
			if served.Namespaced {
				a.Namespace = r.Namespace
			}
			if ok, reason := may(ctx, a); !ok {
				return r.Forbidden(fmt.Errorf("cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: %s", reason))
			}
		}
		return nil
	}}
}

func sameOwners(a, b []metav1.OwnerReference) bool {
	return slices.EqualFunc(a, b, func(x, y metav1.OwnerReference) bool {
		return x.UID == y.UID && ptr.Deref(x.BlockOwnerDeletion, false) == ptr.Deref(y.BlockOwnerDeletion, false)
	})
}

// blocking are the references that begin to hold their owner's deletion up.
func blocking(before, after []metav1.OwnerReference) (out []metav1.OwnerReference) {
	for _, ref := range after {
		was := slices.ContainsFunc(before, func(o metav1.OwnerReference) bool {
			return o.UID == ref.UID && ptr.Deref(o.BlockOwnerDeletion, false)
		})
		if ptr.Deref(ref.BlockOwnerDeletion, false) && !was {
			out = append(out, ref)
		}
	}
	return out
}
