package api

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func storageRows() []*Resource {
	return []*Resource{csiDriverRow(), csiNodeRow(), csiStorageCapacityRow(), storageClassRow(), volumeAttachmentRow(), volumeAttributesClassRow()}
}

// The annotations that make a class the default one.
const (
	defaultStorageClassAnnotation    = "storageclass.kubernetes.io/is-default-class"
	oldDefaultStorageClassAnnotation = "storageclass.beta.kubernetes.io/is-default-class"
	defaultAttributesClassAnnotation = "volumeattributesclass.kubernetes.io/is-default-class"
)

// IsDefaultStorageClass tells the class of claims that name none.
func IsDefaultStorageClass(m *metav1.ObjectMeta) bool {
	return m.Annotations[defaultStorageClassAnnotation] == "true" || m.Annotations[oldDefaultStorageClassAnnotation] == "true"
}

func storageClassRow() *Resource {
	doc := storagev1.StorageClass{}.SwaggerDoc()
	return kind[*storagev1.StorageClass]{
		GroupVersion: storagev1.SchemeGroupVersion, Plural: "storageclasses", Short: []string{"sc"},
		List:     &storagev1.StorageClassList{},
		Warnings: warnStorageClass,
		Default: func(c *storagev1.StorageClass) {
			unset(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
			unset(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
		},
		Validate:       validateStorageClass,
		ValidateUpdate: validateStorageClassUpdate,
		Columns: columns(nameColumn,
			column("Provisioner", "string", doc["provisioner"]),
			column("ReclaimPolicy", "string", doc["reclaimPolicy"]),
			column("VolumeBindingMode", "string", doc["volumeBindingMode"]),
			column("AllowVolumeExpansion", "string", doc["allowVolumeExpansion"]),
			ageColumn),
		Cells: func(c *storagev1.StorageClass, now time.Time) []any {
			name := c.Name
			if IsDefaultStorageClass(&c.ObjectMeta) {
				name += " (default)"
			}
			return []any{name, c.Provisioner, string(deref(c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)),
				string(deref(c.VolumeBindingMode, "<unset>")), deref(c.AllowVolumeExpansion, false), age(c, now)}
		},
	}.row()
}

func validateStorageClass(c *storagev1.StorageClass) field.ErrorList {
	errs := validateDriver(c.Provisioner, field.NewPath("provisioner"))
	for k := range c.Parameters {
		if k == "" {
			errs = append(errs, field.Invalid(field.NewPath("parameters"), k, "field can not be empty."))
		}
	}
	if p := c.ReclaimPolicy; p != nil {
		errs = append(errs, oneOf(*p, field.NewPath("reclaimPolicy"), corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	}
	errs = append(errs, validateTopologies(c.AllowedTopologies, field.NewPath("allowedTopologies"))...)
	at := field.NewPath("volumeBindingMode")
	if c.VolumeBindingMode == nil {
		return append(errs, field.Required(at, ""))
	}
	return append(errs, oneOf(*c.VolumeBindingMode, at, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
}

// validateTopologies: no two terms may say the same, and a term names a key once.
func validateTopologies(terms []corev1.TopologySelectorTerm, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	var before []map[string]sets.Set[string]
	for i := range terms {
		at := at.Index(i).Child("matchLabelExpressions")
		term := map[string]sets.Set[string]{}
		errs = append(errs, each(terms[i].MatchLabelExpressions, at, func(e *corev1.TopologySelectorLabelRequirement, at *field.Path) field.ErrorList {
			errs := metavalidation.ValidateLabelName(e.Key, at.Child("key"))
			if len(e.Values) == 0 {
				errs = append(errs, field.Required(at.Child("values"), ""))
			}
			values := sets.New[string]()
			for i, v := range e.Values {
				errs = append(errs, unique(values, v, at.Child("values").Index(i))...)
			}
			if _, twice := term[e.Key]; twice {
				errs = append(errs, field.Duplicate(at.Child("key"), e.Key))
			}
			term[e.Key] = values
			return errs
		})...)
		if slices.ContainsFunc(before, func(other map[string]sets.Set[string]) bool {
			return maps.EqualFunc(term, other, sets.Set[string].Equal)
		}) {
			errs = append(errs, field.Duplicate(at, ""))
		}
		before = append(before, term)
	}
	return errs
}

// validateDriver judges the name of a provisioner or driver.
func validateDriver(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, name)}
	}
	return invalidEach(name, at, validation.IsQualifiedName(strings.ToLower(name)))
}

func validateStorageClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	var errs field.ErrorList
	errs = append(errs, immutable(c.Parameters, old.Parameters, field.NewPath("parameters"))...)
	errs = append(errs, immutable(c.Provisioner, old.Provisioner, field.NewPath("provisioner"))...)
	errs = append(errs, immutable(c.ReclaimPolicy, old.ReclaimPolicy, field.NewPath("reclaimPolicy"))...)
	return append(errs, immutable(c.VolumeBindingMode, old.VolumeBindingMode, field.NewPath("volumeBindingMode"))...)
}

func volumeAttributesClassRow() *Resource {
	doc := storagev1.VolumeAttributesClass{}.SwaggerDoc()
	return kind[*storagev1.VolumeAttributesClass]{
		GroupVersion: storagev1.SchemeGroupVersion, Plural: "volumeattributesclasses", Short: []string{"vac"},
		List: &storagev1.VolumeAttributesClassList{},
		Validate: func(c *storagev1.VolumeAttributesClass) field.ErrorList {
			errs := validateDriver(c.DriverName, field.NewPath("driverName"))
			if len(c.Parameters) == 0 {
				errs = append(errs, field.Required(field.NewPath("parameters"), "must contain at least one key/value pair"))
			}
			if _, nameless := c.Parameters[""]; nameless {
				errs = append(errs, field.Invalid(field.NewPath("parameters"), "", "field can not be empty."))
			}
			return errs
		},
		ValidateUpdate: func(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
			var errs field.ErrorList
			if c.DriverName != old.DriverName {
				errs = append(errs, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
			}
			if !equality.Semantic.DeepEqual(c.Parameters, old.Parameters) {
				errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
			}
			return errs
		},
		Columns: columns(nameColumn, column("DriverName", "string", doc["driverName"]), ageColumn),
		Cells: func(c *storagev1.VolumeAttributesClass, now time.Time) []any {
			name := c.Name
			if c.Annotations[defaultAttributesClassAnnotation] == "true" {
				name += " (default)"
			}
			return []any{name, c.DriverName, age(c, now)}
		},
	}.row()
}

func volumeAttachmentRow() *Resource {
	spec := storagev1.VolumeAttachmentSpec{}.SwaggerDoc()
	return kind[*storagev1.VolumeAttachment]{
		GroupVersion: storagev1.SchemeGroupVersion, Plural: "volumeattachments",
		List:          &storagev1.VolumeAttachmentList{},
		Status:        true,
		Validate:      validateVolumeAttachment,
		PrepareStatus: func(a, old *storagev1.VolumeAttachment) { keepMeta(a, old) },
		ValidateUpdate: func(a, old *storagev1.VolumeAttachment) field.ErrorList {
			return immutable(a.Spec, old.Spec, specPath)
		},
		Columns: columns(nameColumn,
			metav1.TableColumnDefinition{Name: "Attacher", Type: "string", Format: "name", Description: spec["attacher"]},
			column("PV", "string", storagev1.VolumeAttachmentSource{}.SwaggerDoc()["persistentVolumeName"]),
			column("Node", "string", spec["nodeName"]),
			column("Attached", "boolean", storagev1.VolumeAttachmentStatus{}.SwaggerDoc()["attached"]),
			ageColumn),
		Cells: func(a *storagev1.VolumeAttachment, now time.Time) []any {
			return []any{a.Name, a.Spec.Attacher, deref(a.Spec.Source.PersistentVolumeName, ""), a.Spec.NodeName, a.Status.Attached, age(a, now)}
		},
	}.row()
}

func validateVolumeAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	errs := validateDriverName(a.Spec.Attacher, specPath.Child("attacher"))
	at := specPath.Child("source")
	s := a.Spec.Source
	switch {
	case s.PersistentVolumeName == nil && s.InlineVolumeSpec == nil:
		errs = append(errs, field.Required(at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
	case s.PersistentVolumeName != nil && s.InlineVolumeSpec != nil:
		errs = append(errs, field.Forbidden(at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
	case s.PersistentVolumeName != nil:
		errs = append(errs, invalidEach(*s.PersistentVolumeName, at.Child("persistentVolumeName"), dnsName(*s.PersistentVolumeName))...)
	}
	return append(errs, invalidEach(a.Spec.NodeName, specPath.Child("nodeName"), dnsName(a.Spec.NodeName))...)
}

func csiDriverRow() *Resource {
	spec := storagev1.CSIDriverSpec{}.SwaggerDoc()
	return kind[*storagev1.CSIDriver]{
		GroupVersion: storagev1.SchemeGroupVersion, Plural: "csidrivers",
		List:       &storagev1.CSIDriverList{},
		Warnings:   warnDriver,
		Generation: true,
		// Of this kind upstream counts changes, from 0.
		PrepareCreate: func(d *storagev1.CSIDriver) { d.Generation = 0 },
		Default:       defaultCSIDriver,
		Validate:      validateCSIDriver,
		ValidateUpdate: func(d, old *storagev1.CSIDriver) field.ErrorList {
			errs := immutable(d.Spec.AttachRequired, old.Spec.AttachRequired, specPath.Child("attachedRequired"))
			return append(errs, immutable(d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, specPath.Child("volumeLifecycleModes"))...)
		},
		Columns: columns(nameColumn,
			column("AttachRequired", "boolean", spec["attachRequired"]),
			column("PodInfoOnMount", "boolean", spec["podInfoOnMount"]),
			column("StorageCapacity", "boolean", spec["storageCapacity"]),
			column("TokenRequests", "string", spec["tokenRequests"]),
			column("RequiresRepublish", "boolean", spec["requiresRepublish"]),
			column("Modes", "string", spec["volumeLifecycleModes"]),
			ageColumn),
		Cells: func(d *storagev1.CSIDriver, now time.Time) []any {
			var audiences, modes []string
			for _, t := range d.Spec.TokenRequests {
				audiences = append(audiences, t.Audience)
			}
			tokens := "<unset>"
			if d.Spec.TokenRequests != nil {
				tokens = strings.Join(audiences, ",")
			}
			for _, m := range d.Spec.VolumeLifecycleModes {
				modes = append(modes, string(m))
			}
			return []any{d.Name, deref(d.Spec.AttachRequired, true), deref(d.Spec.PodInfoOnMount, false), deref(d.Spec.StorageCapacity, false),
				tokens, deref(d.Spec.RequiresRepublish, false), or(strings.Join(modes, ","), none), age(d, now)}
		},
	}.row()
}

func defaultCSIDriver(d *storagev1.CSIDriver) {
	s := &d.Spec
	unset(&s.AttachRequired, true)
	unset(&s.PodInfoOnMount, false)
	unset(&s.StorageCapacity, false)
	unset(&s.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	if len(s.VolumeLifecycleModes) == 0 {
		s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
	unset(&s.RequiresRepublish, false)
	unset(&s.SELinuxMount, false)
	unset(&s.PreventPodSchedulingIfMissing, false)
}

func validateCSIDriver(d *storagev1.CSIDriver) field.ErrorList {
	var errs field.ErrorList
	if p := d.Spec.FSGroupPolicy; p != nil {
		errs = append(errs, oneOf(*p, specPath.Child("fsGroupPolicy"),
			storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)...)
	}
	if s := d.Spec.NodeAllocatableUpdatePeriodSeconds; s != nil && *s < 10 {
		errs = append(errs, field.Invalid(specPath.Child("nodeAllocatableUpdatePeriodSeconds"), *s, "must be greater than or equal to 10 seconds"))
	}
	for _, m := range d.Spec.VolumeLifecycleModes {
		errs = append(errs, oneOf(m, specPath.Child("volumeLifecycleModes"), storagev1.VolumeLifecycleEphemeral, storagev1.VolumeLifecyclePersistent)...)
	}
	seen := map[string]bool{}
	for i, t := range d.Spec.TokenRequests {
		at := specPath.Child("tokenRequests").Index(i)
		if seen[t.Audience] {
			errs = append(errs, field.Duplicate(at.Child("audience"), t.Audience))
			continue
		}
		seen[t.Audience] = true
		if s := t.ExpirationSeconds; s != nil && *s < 600 {
			errs = append(errs, field.Invalid(at.Child("expirationSeconds"), *s, "may not specify a duration less than 10 minutes"))
		}
	}
	return errs
}

func csiNodeRow() *Resource {
	return kind[*storagev1.CSINode]{
		GroupVersion: storagev1.SchemeGroupVersion, Plural: "csinodes",
		List:   &storagev1.CSINodeList{},
		Status: true,
		// The only field of the status so far is alpha (CSIVolumeHealth), and
		// what is alpha is dropped.
		PrepareStatus: func(n, old *storagev1.CSINode) {
			metav1.ResetObjectMetaForStatus(n, old)
			n.Status.StorageHealth = old.Status.StorageHealth
		},
		Validate:       validateCSINode,
		ValidateUpdate: validateCSINodeUpdate,
		Columns: columns(nameColumn,
			column("Drivers", "integer", storagev1.CSINodeSpec{}.SwaggerDoc()["drivers"]),
			ageColumn),
		Cells: func(n *storagev1.CSINode, now time.Time) []any {
			return []any{n.Name, int64(len(n.Spec.Drivers)), age(n, now)}
		},
	}.row()
}

const maxNodeID = 192

// validateCSINodeUpdate: of a driver only what it can attach changes.
func validateCSINodeUpdate(n, old *storagev1.CSINode) field.ErrorList {
	var errs field.ErrorList
	for _, was := range old.Spec.Drivers {
		for _, now := range n.Spec.Drivers {
			if was.Name == now.Name {
				was.Allocatable, now.Allocatable = nil, nil
				errs = append(errs, immutable(now, was, specPath.Child("drivers"))...)
			}
		}
	}
	return errs
}

func validateCSINode(n *storagev1.CSINode) field.ErrorList {
	seen := map[string]bool{}
	return each(n.Spec.Drivers, specPath.Child("drivers"), func(d *storagev1.CSINodeDriver, at *field.Path) field.ErrorList {
		errs := validateDriverName(d.Name, at.Child("name"))
		if seen[d.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), d.Name))
		}
		seen[d.Name] = true
		errs = append(errs, required(d.NodeID, at.Child("nodeID"))...)
		if len(d.NodeID) > maxNodeID {
			errs = append(errs, field.Invalid(at.Child("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", maxNodeID)))
		}
		if a := d.Allocatable; a != nil && a.Count != nil && *a.Count < 0 {
			errs = append(errs, field.Invalid(at.Child("allocatable", "count"), *a.Count, "must be greater than or equal to 0"))
		}
		keys := map[string]bool{}
		for _, k := range d.TopologyKeys { // published as the driver's own
			errs = append(errs, required(k, at)...)
			if keys[k] {
				errs = append(errs, field.Duplicate(at, k))
			}
			keys[k] = true
			errs = append(errs, invalidEach(k, at, validation.IsQualifiedName(k))...)
		}
		return errs
	})
}

func csiStorageCapacityRow() *Resource {
	return kind[*storagev1.CSIStorageCapacity]{
		GroupVersion: storagev1.SchemeGroupVersion, Plural: "csistoragecapacities", Namespaced: true,
		List:     &storagev1.CSIStorageCapacityList{},
		Warnings: warnStorageCapacity,
		Validate: func(c *storagev1.CSIStorageCapacity) field.ErrorList {
			errs := invalidEach(c.StorageClassName, field.NewPath("storageClassName"), dnsName(c.StorageClassName))
			if c.NodeTopology != nil {
				errs = append(errs, checkSelector(c.NodeTopology, field.NewPath("nodeTopology"))...)
			}
			if q := c.Capacity; q != nil && q.Sign() < 0 {
				errs = append(errs, field.Invalid(field.NewPath("capacity"), q.String(), "must be greater than or equal to 0"))
			}
			return errs
		},
		ValidateUpdate: func(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
			errs := immutable(c.NodeTopology, old.NodeTopology, field.NewPath("nodeTopology"))
			return append(errs, immutable(c.StorageClassName, old.StorageClassName, field.NewPath("storageClassName"))...)
		},
		// Kubernetes has columns for this kind and does not show them.
		Columns: columns(nameColumn, createdAtColumn),
		Cells:   func(c *storagev1.CSIStorageCapacity, _ time.Time) []any { return createdAtCells(c) },
	}.row()
}
