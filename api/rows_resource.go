package api

import (
	"fmt"
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func resourceRows() []*Resource {
	return []*Resource{deviceClassRow(), deviceTaintRuleRow(), resourceClaimRow(), resourceClaimTemplateRow(), resourceSliceRow()}
}

func deviceClassRow() *Resource {
	return kind[*resourcev1.DeviceClass]{
		GroupVersion: resourcev1.SchemeGroupVersion, Plural: "deviceclasses",
		List:       &resourcev1.DeviceClassList{},
		Generation: true,
		Validate: func(c *resourcev1.DeviceClass) field.ErrorList {
			errs := each(c.Spec.Selectors, specPath.Child("selectors"), validateDeviceSelector)
			return append(errs, each(c.Spec.Config, specPath.Child("config"), func(c *resourcev1.DeviceClassConfiguration, at *field.Path) field.ErrorList {
				return validateDeviceConfig(&c.DeviceConfiguration, at)
			})...)
		},
	}.row()
}

func deviceTaintRuleRow() *Resource {
	taint := resourcev1.DeviceTaint{}.SwaggerDoc()
	return kind[*resourcev1.DeviceTaintRule]{
		GroupVersion: resourcev1.SchemeGroupVersion, Plural: "devicetaintrules",
		List:   &resourcev1.DeviceTaintRuleList{},
		Status: true, Generation: true,
		Validate: func(r *resourcev1.DeviceTaintRule) field.ErrorList {
			t, at := r.Spec.Taint, specPath.Child("taint")
			errs := invalidEach(t.Key, at.Child("key"), validation.IsQualifiedName(t.Key))
			errs = append(errs, optionally(t.Value, validation.IsValidLabelValue, at.Child("value"))...)
			return append(errs, requiredOneOf(t.Effect, at.Child("effect"),
				resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone)...)
		},
		Columns: columns(nameColumn,
			column("Key", "string", taint["key"]),
			column("Value", "string", taint["value"]),
			column("Effect", "string", taint["effect"]),
			column("TimeAdded", "string", taint["timeAdded"]),
			ageColumn),
		Cells: func(r *resourcev1.DeviceTaintRule, now time.Time) []any {
			t, added := r.Spec.Taint, ""
			if t.TimeAdded != nil {
				added = ageOf(t.TimeAdded.Time, now)
			}
			return []any{r.Name, t.Key, t.Value, string(t.Effect), added, age(r, now)}
		},
	}.row()
}

func resourceClaimRow() *Resource {
	return kind[*resourcev1.ResourceClaim]{
		GroupVersion: resourcev1.SchemeGroupVersion, Plural: "resourceclaims", Namespaced: true,
		List:    &resourcev1.ResourceClaimList{},
		Status:  true,
		Default: func(c *resourcev1.ResourceClaim) { defaultDeviceClaim(&c.Spec.Devices) },
		Validate: func(c *resourcev1.ResourceClaim) field.ErrorList {
			return validateDeviceClaim(&c.Spec.Devices, specPath)
		},
		ValidateUpdate: func(c, old *resourcev1.ResourceClaim) field.ErrorList {
			return immutable(c.Spec, old.Spec, specPath)
		},
		ValidateStatus: validateClaimStatus,
		Columns:        columns(nameColumn, column("State", "string", "A summary of the current state (allocated, pending, reserved, etc.)."), ageColumn),
		Cells: func(c *resourcev1.ResourceClaim, now time.Time) []any {
			return []any{c.Name, claimStateCell(c), age(c, now)}
		},
	}.row()
}

func claimStateCell(c *resourcev1.ResourceClaim) string {
	var states []string
	if c.DeletionTimestamp != nil {
		states = append(states, "deleted")
	}
	if c.Status.Allocation == nil {
		if c.DeletionTimestamp == nil {
			states = append(states, "pending")
		}
		return strings.Join(states, ",")
	}
	states = append(states, "allocated")
	if len(c.Status.ReservedFor) > 0 {
		states = append(states, "reserved")
	}
	return strings.Join(states, ",")
}

func resourceClaimTemplateRow() *Resource {
	return kind[*resourcev1.ResourceClaimTemplate]{
		GroupVersion: resourcev1.SchemeGroupVersion, Plural: "resourceclaimtemplates", Namespaced: true,
		List:    &resourcev1.ResourceClaimTemplateList{},
		Default: func(t *resourcev1.ResourceClaimTemplate) { defaultDeviceClaim(&t.Spec.Spec.Devices) },
		Validate: func(t *resourcev1.ResourceClaimTemplate) field.ErrorList {
			errs := validateTemplateMeta(&t.Spec.ObjectMeta, specPath.Child("metadata"))
			return append(errs, validateDeviceClaim(&t.Spec.Spec.Devices, specPath.Child("spec"))...)
		},
		ValidateUpdate: func(t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
			return immutable(t.Spec, old.Spec, specPath)
		},
	}.row()
}

func defaultDeviceClaim(c *resourcev1.DeviceClaim) {
	one := func(mode *resourcev1.DeviceAllocationMode, count *int64) {
		empty(mode, resourcev1.DeviceAllocationModeExactCount)
		if *mode == resourcev1.DeviceAllocationModeExactCount {
			empty(count, 1)
		}
	}
	tolerate := func(list []resourcev1.DeviceToleration) {
		for i := range list {
			empty(&list[i].Operator, resourcev1.DeviceTolerationOpEqual)
		}
	}
	for i := range c.Requests {
		if e := c.Requests[i].Exactly; e != nil {
			one(&e.AllocationMode, &e.Count)
			tolerate(e.Tolerations)
		}
		for k := range c.Requests[i].FirstAvailable {
			s := &c.Requests[i].FirstAvailable[k]
			one(&s.AllocationMode, &s.Count)
			tolerate(s.Tolerations)
		}
	}
}

// Claims' sizes, as the API documents them.
const (
	maxDeviceRequests = 32
	maxSelectors      = 32
)

func validateDeviceClaim(c *resourcev1.DeviceClaim, at *field.Path) field.ErrorList {
	at = at.Child("devices")
	requests := at.Child("requests")
	if len(c.Requests) > maxDeviceRequests {
		return field.ErrorList{field.TooMany(requests, len(c.Requests), maxDeviceRequests)}
	}
	names := sets.New[string]()
	errs := each(c.Requests, requests, func(r *resourcev1.DeviceRequest, at *field.Path) field.ErrorList {
		return append(named(r.Name, dnsLabel, at.Child("name")), append(unique(names, r.Name, at.Child("name")), validateDeviceRequest(r, at)...)...)
	})
	for i, k := range c.Constraints {
		at := at.Child("constraints").Index(i)
		errs = append(errs, validateRequestNames(k.Requests, names, at.Child("requests"))...)
		if k.MatchAttribute == nil && k.DistinctAttribute == nil {
			errs = append(errs, field.Required(at.Child("matchAttribute"), ""))
		}
	}
	for i := range c.Config {
		at := at.Child("config").Index(i)
		errs = append(errs, validateRequestNames(c.Config[i].Requests, names, at.Child("requests"))...)
		errs = append(errs, validateDeviceConfig(&c.Config[i].DeviceConfiguration, at)...)
	}
	return errs
}

func validateRequestNames(list []string, known sets.Set[string], at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, name := range list {
		if main, _, _ := strings.Cut(name, "/"); !known.Has(main) {
			errs = append(errs, field.Invalid(at.Index(i), name, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"))
		}
	}
	return errs
}

func validateDeviceRequest(r *resourcev1.DeviceRequest, at *field.Path) field.ErrorList {
	switch {
	case r.Exactly != nil && len(r.FirstAvailable) > 0:
		return field.ErrorList{field.Invalid(at, nil, "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set")}
	case r.Exactly == nil && len(r.FirstAvailable) == 0:
		return field.ErrorList{field.Required(at, "exactly one of `exactly` or `firstAvailable` is required")}
	case r.Exactly != nil:
		e := r.Exactly
		return validateDeviceNeed(e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, at.Child("exactly"))
	}
	if len(r.FirstAvailable) > resourcev1.FirstAvailableDeviceRequestMaxSize {
		return field.ErrorList{field.TooMany(at.Child("firstAvailable"), len(r.FirstAvailable), resourcev1.FirstAvailableDeviceRequestMaxSize)}
	}
	names := sets.New[string]()
	return each(r.FirstAvailable, at.Child("firstAvailable"), func(s *resourcev1.DeviceSubRequest, at *field.Path) field.ErrorList {
		errs := append(named(s.Name, dnsLabel, at.Child("name")), unique(names, s.Name, at.Child("name"))...)
		return append(errs, validateDeviceNeed(s.DeviceClassName, s.Selectors, s.AllocationMode, s.Count, at)...)
	})
}

func validateDeviceNeed(class string, selectors []resourcev1.DeviceSelector, mode resourcev1.DeviceAllocationMode, count int64, at *field.Path) field.ErrorList {
	errs := named(class, subdomain, at.Child("deviceClassName"))
	if len(selectors) > maxSelectors {
		errs = append(errs, field.TooMany(at.Child("selectors"), len(selectors), maxSelectors))
	}
	errs = append(errs, each(selectors, at.Child("selectors"), validateDeviceSelector)...)
	switch mode {
	case resourcev1.DeviceAllocationModeAll:
		if count != 0 {
			errs = append(errs, field.Invalid(at.Child("count"), count, "must not be specified when allocationMode is 'All'"))
		}
	case resourcev1.DeviceAllocationModeExactCount:
		if count <= 0 {
			errs = append(errs, field.Invalid(at.Child("count"), count, "must be greater than zero"))
		}
	default:
		errs = append(errs, oneOf(mode, at.Child("allocationMode"), resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount)...)
	}
	return errs
}

func validateDeviceSelector(s *resourcev1.DeviceSelector, at *field.Path) field.ErrorList {
	at = at.Child("cel")
	switch {
	case s.CEL == nil:
		return field.ErrorList{field.Required(at, "")}
	case len(s.CEL.Expression) > resourcev1.CELSelectorExpressionMaxLength:
		return field.ErrorList{field.TooLong(at.Child("expression"), "", resourcev1.CELSelectorExpressionMaxLength)}
	}
	return required(s.CEL.Expression, at.Child("expression"))
}

func validateDeviceConfig(c *resourcev1.DeviceConfiguration, at *field.Path) field.ErrorList {
	at = at.Child("opaque")
	switch {
	case c.Opaque == nil:
		return field.ErrorList{field.Required(at, "")}
	case len(c.Opaque.Parameters.Raw) > resourcev1.OpaqueParametersMaxLength:
		return field.ErrorList{field.TooLong(at.Child("parameters"), "", resourcev1.OpaqueParametersMaxLength)}
	}
	errs := validateResourceDriver(c.Opaque.Driver, at.Child("driver"))
	if len(c.Opaque.Parameters.Raw) == 0 && c.Opaque.Parameters.Object == nil {
		errs = append(errs, field.Required(at.Child("parameters"), ""))
	}
	return errs
}

func validateResourceDriver(name string, at *field.Path) field.ErrorList {
	if len(name) > resourcev1.DriverNameMaxLength {
		return field.ErrorList{field.TooLong(at, "", resourcev1.DriverNameMaxLength)}
	}
	return named(strings.ToLower(name), subdomain, at)
}

func validateClaimStatus(c, old *resourcev1.ResourceClaim) field.ErrorList {
	s := &c.Status
	var errs field.ErrorList
	if n := len(s.ReservedFor); n > resourcev1.ResourceClaimReservedForMaxSize {
		errs = append(errs, field.TooMany(statusPath.Child("reservedFor"), n, resourcev1.ResourceClaimReservedForMaxSize))
	}
	seen := sets.New[string]()
	errs = append(errs, each(s.ReservedFor, statusPath.Child("reservedFor"), func(r *resourcev1.ResourceClaimConsumerReference, at *field.Path) field.ErrorList {
		errs := append(required(r.Resource, at.Child("resource")), required(r.Name, at.Child("name"))...)
		errs = append(errs, required(r.UID, at.Child("uid"))...)
		return append(errs, unique(seen, string(r.UID), at.Child("uid"))...)
	})...)
	if len(s.ReservedFor) > 0 && s.Allocation == nil {
		errs = append(errs, field.Forbidden(statusPath.Child("reservedFor"), "may not be specified when `allocated` is not set"))
	}
	if old.Status.Allocation != nil && s.Allocation != nil {
		errs = append(errs, immutable(s.Allocation, old.Status.Allocation, statusPath.Child("allocation"))...)
	}
	if len(s.ReservedFor) > len(old.Status.ReservedFor) && c.DeletionTimestamp != nil {
		errs = append(errs, field.Forbidden(statusPath.Child("reservedFor"), "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"))
	}
	return errs
}

func resourceSliceRow() *Resource {
	spec := resourcev1.ResourceSliceSpec{}.SwaggerDoc()
	return kind[*resourcev1.ResourceSlice]{
		GroupVersion: resourcev1.SchemeGroupVersion, Plural: "resourceslices",
		List:       &resourcev1.ResourceSliceList{},
		Warnings:   warnResourceSlice,
		Generation: true,
		Validate:   validateResourceSlice,
		ValidateUpdate: func(s, old *resourcev1.ResourceSlice) field.ErrorList {
			errs := immutable(s.Spec.NodeName, old.Spec.NodeName, specPath.Child("nodeName"))
			errs = append(errs, immutable(s.Spec.Driver, old.Spec.Driver, specPath.Child("driver"))...)
			return append(errs, immutable(s.Spec.Pool.Name, old.Spec.Pool.Name, specPath.Child("pool", "name"))...)
		},
		Fields: func(s *resourcev1.ResourceSlice) fields.Set {
			return fields.Set{resourcev1.ResourceSliceSelectorNodeName: deref(s.Spec.NodeName, ""), resourcev1.ResourceSliceSelectorDriver: s.Spec.Driver}
		},
		Columns: columns(nameColumn,
			column("Node", "string", spec["nodeName"]),
			column("Driver", "string", spec["driver"]),
			column("Pool", "string", resourcev1.ResourcePool{}.SwaggerDoc()["name"]),
			ageColumn),
		Cells: func(s *resourcev1.ResourceSlice, now time.Time) []any {
			return []any{s.Name, deref(s.Spec.NodeName, ""), s.Spec.Driver, s.Spec.Pool.Name, age(s, now)}
		},
	}.row()
}

// maxSliceDevices is ResourceSliceMaxDevices.
const maxSliceDevices = 128

func validateResourceSlice(s *resourcev1.ResourceSlice) field.ErrorList {
	errs := validateResourceDriver(s.Spec.Driver, specPath.Child("driver"))
	pool := specPath.Child("pool")
	errs = append(errs, required(s.Spec.Pool.Name, pool.Child("name"))...)
	if n := s.Spec.Pool.ResourceSliceCount; n <= 0 {
		errs = append(errs, field.Invalid(pool.Child("resourceSliceCount"), n, "must be greater than zero"))
	}
	if n := s.Spec.Pool.Generation; n < 0 {
		errs = append(errs, field.Invalid(pool.Child("generation"), n, "must be greater than or equal to zero"))
	}
	where := 0
	for _, set := range []bool{s.Spec.NodeName != nil, s.Spec.NodeSelector != nil, deref(s.Spec.AllNodes, false), deref(s.Spec.PerDeviceNodeSelection, false)} {
		if set {
			where++
		}
	}
	switch {
	case where == 0:
		errs = append(errs, field.Required(specPath, "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"))
	case where > 1:
		errs = append(errs, field.Invalid(specPath, nil, fmt.Sprintf("exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but %d are set", where)))
	}
	if n := len(s.Spec.Devices); n > maxSliceDevices {
		return append(errs, field.TooMany(specPath.Child("devices"), n, maxSliceDevices))
	}
	names := sets.New[string]()
	return append(errs, each(s.Spec.Devices, specPath.Child("devices"), func(d *resourcev1.Device, at *field.Path) field.ErrorList {
		return append(named(d.Name, dnsLabel, at.Child("name")), unique(names, d.Name, at.Child("name"))...)
	})...)
}

func storagemigrationRows() []*Resource {
	return []*Resource{storageVersionMigrationRow()}
}

func storageVersionMigrationRow() *Resource {
	return kind[*storagemigrationv1.StorageVersionMigration]{
		GroupVersion: storagemigrationv1.SchemeGroupVersion, Plural: "storageversionmigrations",
		List:          &storagemigrationv1.StorageVersionMigrationList{},
		Status:        true,
		PrepareStatus: func(m, old *storagemigrationv1.StorageVersionMigration) { metav1.ResetObjectMetaForStatus(m, old) },
		ValidateStatus: func(m, _ *storagemigrationv1.StorageVersionMigration) field.ErrorList {
			errs := metavalidation.ValidateConditions(m.Status.Conditions, statusPath.Child("conditions"))
			if v := m.Status.ResourceVersion; v != "" {
				if _, err := resourceversion.CompareResourceVersion(v, v); err != nil {
					errs = append(errs, field.Invalid(statusPath.Child("resourceVersion"), v, err.Error()))
				}
			}
			return errs
		},
		Validate: func(m *storagemigrationv1.StorageVersionMigration) field.ErrorList {
			at := specPath.Child("resource")
			return append(optionally(m.Spec.Resource.Group, validation.IsDNS1123Subdomain, at.Child("group")),
				named(m.Spec.Resource.Resource, dns1035Label, at.Child("resource"))...)
		},
		ValidateUpdate: func(m, old *storagemigrationv1.StorageVersionMigration) field.ErrorList {
			return immutable(m.Spec, old.Spec, specPath)
		},
		Columns: columns(column("Name", "string", metaDoc["name"]), // without the format, as published
			column("Resource", "string", storagemigrationv1.StorageVersionMigrationSpec{}.SwaggerDoc()["resource"]),
			column("Status", "string", "Whether the migration is running, or how it ended.")),
		Cells: func(m *storagemigrationv1.StorageVersionMigration, _ time.Time) []any {
			gr := metav1.GroupResource(m.Spec.Resource)
			return []any{m.Name, gr.String(), migrationCell(m)}
		},
	}.row()
}

func migrationCell(m *storagemigrationv1.StorageVersionMigration) string {
	state := "Unknown"
	for _, c := range m.Status.Conditions {
		switch storagemigrationv1.MigrationConditionType(c.Type) {
		case storagemigrationv1.MigrationRunning, storagemigrationv1.MigrationFailed, storagemigrationv1.MigrationSucceeded:
			if c.Status == metav1.ConditionTrue {
				state = c.Type
			}
		}
	}
	return state
}
