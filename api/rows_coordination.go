package api

import (
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func coordinationRows() []*Resource {
	return []*Resource{leaseRow()}
}

func leaseRow() *Resource {
	return kind[*coordinationv1.Lease]{
		GroupVersion: coordinationv1.SchemeGroupVersion, Plural: "leases", Namespaced: true,
		List:                &coordinationv1.LeaseList{},
		FreeFinalizers:      true,
		AllowCreateOnUpdate: true,
		// CoordinatedLeaderElection is off.
		Default:  func(l *coordinationv1.Lease) { l.Spec.Strategy, l.Spec.PreferredHolder = nil, nil },
		Validate: validateLease,
		Columns: columns(nameColumn,
			column("Holder", "string", coordinationv1.LeaseSpec{}.SwaggerDoc()["holderIdentity"]),
			ageColumn),
		Cells: func(l *coordinationv1.Lease, now time.Time) []any {
			return []any{l.Name, deref(l.Spec.HolderIdentity, ""), age(l, now)}
		},
	}.row()
}

func validateLease(l *coordinationv1.Lease) field.ErrorList {
	var errs field.ErrorList
	if d := l.Spec.LeaseDurationSeconds; d != nil && *d <= 0 {
		errs = append(errs, field.Invalid(specPath.Child("leaseDurationSeconds"), *d, "must be greater than 0"))
	}
	if n := l.Spec.LeaseTransitions; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(specPath.Child("leaseTransitions"), *n, "must be greater than or equal to 0"))
	}
	return errs
}
