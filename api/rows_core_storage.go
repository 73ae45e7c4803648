package api

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func persistentVolumeRow() *Resource {
	doc := corev1.PersistentVolumeSpec{}.SwaggerDoc()
	return kind[*corev1.PersistentVolume]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "persistentvolumes", Short: []string{"pv"},
		List:     &corev1.PersistentVolumeList{},
		Warnings: warnVolume,
		Status:   true,

		Default: defaultPersistentVolume,
		PrepareCreate: func(v *corev1.PersistentVolume) {
			v.Status.Phase = corev1.VolumePending
			v.Status.LastPhaseTransitionTime = ptr.To(metav1.Now())
		},
		PrepareStatus:  stampPhase,
		Validate:       validatePersistentVolume,
		ValidateUpdate: validatePersistentVolumeUpdate,
		Columns: columns(nameColumn,
			column("Capacity", "string", doc["capacity"]),
			column("Access Modes", "string", doc["accessModes"]),
			column("Reclaim Policy", "string", doc["persistentVolumeReclaimPolicy"]),
			column("Status", "string", corev1.PersistentVolumeStatus{}.SwaggerDoc()["phase"]),
			column("Claim", "string", doc["claimRef"]),
			column("StorageClass", "string", doc["storageClassName"]),
			column("VolumeAttributesClass", "string", doc["volumeAttributesClassName"]),
			column("Reason", "string", corev1.PersistentVolumeStatus{}.SwaggerDoc()["reason"]),
			ageColumn,
			wideColumn("VolumeMode", "string", doc["volumeMode"])),
		Cells: persistentVolumeCells,
		Indexes: map[string]func(*corev1.PersistentVolume) []string{"claim": func(v *corev1.PersistentVolume) []string {
			if r := v.Spec.ClaimRef; r != nil {
				return []string{r.Namespace + "/" + r.Name}
			}
			return nil
		}},
	}.row()
}

// stampPhase notes when the phase changed, unless the writer says so itself
// (KEP-3762).
func stampPhase(v, old *corev1.PersistentVolume) {
	at, was := v.Status.LastPhaseTransitionTime, old.Status.LastPhaseTransitionTime
	if v.Status.Phase != old.Status.Phase && (at == nil || at.Equal(was)) {
		v.Status.LastPhaseTransitionTime = ptr.To(metav1.Now())
	}
}

func defaultPersistentVolume(v *corev1.PersistentVolume) {
	empty(&v.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	unset(&v.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	empty(&v.Status.Phase, corev1.VolumePending)
	roundUp(v.Spec.Capacity)
	s := &v.Spec.PersistentVolumeSource
	if s.HostPath != nil {
		unset(&s.HostPath.Type, corev1.HostPathUnset)
	}
	if s.ISCSI != nil {
		s.ISCSI.ISCSIInterface = cmp.Or(s.ISCSI.ISCSIInterface, "default")
	}
	if s.RBD != nil {
		s.RBD.RBDPool = cmp.Or(s.RBD.RBDPool, "rbd")
		s.RBD.RadosUser = cmp.Or(s.RBD.RadosUser, "admin")
		s.RBD.Keyring = cmp.Or(s.RBD.Keyring, "/etc/ceph/keyring")
	}
	if s.AzureDisk != nil {
		defaultAzureDisk(s.AzureDisk)
	}
	if s.ScaleIO != nil {
		s.ScaleIO.StorageMode = cmp.Or(s.ScaleIO.StorageMode, "ThinProvisioned")
		s.ScaleIO.FSType = cmp.Or(s.ScaleIO.FSType, "xfs")
	}
}

const unsetClass = "<unset>"

func persistentVolumeCells(v *corev1.PersistentVolume, now time.Time) []any {
	claim := ""
	if r := v.Spec.ClaimRef; r != nil {
		claim = r.Namespace + "/" + r.Name
	}
	phase := string(v.Status.Phase)
	if v.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	size := v.Spec.Capacity[corev1.ResourceStorage]
	class := or(v.Annotations[corev1.BetaStorageClassAnnotation], v.Spec.StorageClassName)
	return []any{v.Name, size.String(), accessModesCell(v.Spec.AccessModes), string(v.Spec.PersistentVolumeReclaimPolicy), phase, claim,
		class, deref(v.Spec.VolumeAttributesClassName, unsetClass), v.Status.Reason, age(v, now),
		string(deref(v.Spec.VolumeMode, unsetClass))}
}

// accessModesCell abbreviates modes, each once, in this order.
func accessModesCell(modes []corev1.PersistentVolumeAccessMode) string {
	var out []string
	for _, m := range []struct {
		mode corev1.PersistentVolumeAccessMode
		word string
	}{{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"}} {
		if slices.Contains(modes, m.mode) {
			out = append(out, m.word)
		}
	}
	return strings.Join(out, ",")
}

func validatePersistentVolume(v *corev1.PersistentVolume) field.ErrorList {
	s, at := &v.Spec, specPath
	errs := slices.Concat(
		validateAccessModes(s.AccessModes, at.Child("accessModes")),
		validateCapacity(s.Capacity, at.Child("capacity")),
		validatePersistentSource(v, at),
		oneOf(s.PersistentVolumeReclaimPolicy, at.Child("persistentVolumeReclaimPolicy"),
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain),
		optionally(s.StorageClassName, dnsName, at.Child("storageClassName")),
	)
	if m := s.VolumeMode; m != nil {
		errs = append(errs, oneOf(*m, at.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	if n := s.VolumeAttributesClassName; n != nil {
		errs = append(errs, validateVolumeClass(*n, s.CSI != nil, at)...)
	}
	if s.HostPath != nil && s.HostPath.Path == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		errs = append(errs, field.Forbidden(at.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))
	}
	if a := s.NodeAffinity; a != nil {
		if a.Required == nil {
			return append(errs, field.Required(at.Child("nodeAffinity", "required"), "must specify required node constraints"))
		}
		return append(errs, validateNodeSelector(a.Required, at.Child("nodeAffinity", "required"))...)
	}
	if s.Local != nil && sources(s.PersistentVolumeSource, persistentOrder)[0] == "local" {
		errs = append(errs, field.Required(at.Child("nodeAffinity"), "Local volume requires node affinity"))
	}
	return errs
}

// validateVolumeClass: only CSI drivers know classes of attributes.
func validateVolumeClass(name string, csi bool, at *field.Path) field.ErrorList {
	errs := named(name, subdomain, at.Child("volumeAttributesClassName"))
	if !csi {
		errs = append(errs, field.Required(at.Child("csi"), "has to be specified when using volumeAttributesClassName"))
	}
	return errs
}

func validatePersistentSource(v *corev1.PersistentVolume, at *field.Path) field.ErrorList {
	s := v.Spec.PersistentVolumeSource
	errs := exactlyOne(&s, persistentOrder, "volume type", at)
	errs = slices.Concat(errs, validateCommonSource(&s, at), validateVolumeOnly(&s, at), validateVolumeSecrets(&s, at))
	if i := s.ISCSI; i != nil && i.InitiatorName != nil && len(v.Name)+1+len(i.TargetPortal) > maxTargetName {
		errs = append(errs, field.Invalid(at.Child("iscsi", "targetportal"), i.TargetPortal,
			"Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified."))
	}
	return errs
}

// validateVolumeSecrets: the references to secrets of any namespace.
func validateVolumeSecrets(s *corev1.PersistentVolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c := s.CSI; c != nil {
		for name, ref := range inOrder(map[string]*corev1.SecretReference{"controllerPublishSecretRef": c.ControllerPublishSecretRef,
			"controllerExpandSecretRef": c.ControllerExpandSecretRef, "nodePublishSecretRef": c.NodePublishSecretRef, "nodeExpandSecretRef": c.NodeExpandSecretRef}) {
			if ref != nil {
				at := at.Child("csi", name)
				errs = slices.Concat(errs, named(ref.Name, subdomain, at.Child("name")), named(ref.Namespace, dnsLabel, at.Child("namespace")))
			}
		}
	}
	if c := s.Cinder; c != nil && c.SecretRef != nil {
		errs = append(errs, need(at.Child("cinder", "secretRef"), "name", c.SecretRef.Name, "namespace", c.SecretRef.Namespace)...)
	}
	if c := s.StorageOS; c != nil && c.SecretRef != nil {
		errs = append(errs, need(at.Child("storageos", "secretRef"), "name", c.SecretRef.Name, "namespace", c.SecretRef.Namespace)...)
	}
	if c := s.ISCSI; c != nil && c.SecretRef != nil {
		errs = append(errs, need(at.Child("iscsi", "secretRef"), "name", c.SecretRef.Name)...)
	}
	return errs
}

func validateCapacity(list corev1.ResourceList, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(list) == 0 {
		errs = append(errs, field.Required(at, ""))
	}
	if _, ok := list[corev1.ResourceStorage]; !ok || len(list) > 1 {
		errs = append(errs, field.NotSupported(at, list, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for _, name := range sortedNames(list) {
		if size := list[name]; size.Sign() <= 0 {
			errs = append(errs, field.Invalid(at.Key(string(name)), size.String(), "must be greater than zero"))
		}
	}
	return errs
}

// validateVolumeOnly: the sources whose type is a persistent volume's alone.
func validateVolumeOnly(s *corev1.PersistentVolumeSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.HostPath != nil {
		errs = append(errs, validateHostPath(s.HostPath, at.Child("hostPath"))...)
	}
	if s.Local != nil {
		errs = append(errs, need(at.Child("local"), "path", s.Local.Path)...)
		errs = append(errs, noBacksteps(s.Local.Path, at.Child("local", "path"))...)
	}
	if s.Glusterfs != nil {
		errs = append(errs, need(at.Child("glusterfs"), "endpoints", s.Glusterfs.EndpointsName, "path", s.Glusterfs.Path)...)
		if ns := s.Glusterfs.EndpointsNamespace; ns != nil {
			errs = append(errs, invalidEach(*ns, at.Child("glusterfs", "endpointsNamespace"), dnsLabel(*ns, false))...)
		}
	}
	if s.RBD != nil {
		errs = append(errs, validateRBD(s.RBD.CephMonitors, s.RBD.RBDImage, at.Child("rbd"))...)
	}
	if s.ISCSI != nil {
		errs = append(errs, validateISCSI(&corev1.ISCSIVolumeSource{TargetPortal: s.ISCSI.TargetPortal, IQN: s.ISCSI.IQN, Lun: s.ISCSI.Lun,
			DiscoveryCHAPAuth: s.ISCSI.DiscoveryCHAPAuth, SessionCHAPAuth: s.ISCSI.SessionCHAPAuth, InitiatorName: s.ISCSI.InitiatorName,
			SecretRef: referenceTo(s.ISCSI.SecretRef)}, at.Child("iscsi"))...)
	}
	if s.Cinder != nil {
		errs = append(errs, need(at.Child("cinder"), "volumeID", s.Cinder.VolumeID)...)
	}
	if s.CephFS != nil && len(s.CephFS.Monitors) == 0 {
		errs = append(errs, field.Required(at.Child("cephfs", "monitors"), ""))
	}
	if s.FlexVolume != nil {
		errs = append(errs, validateFlex(s.FlexVolume.Driver, s.FlexVolume.Options, at.Child("flexVolume"))...)
	}
	if s.AzureFile != nil {
		errs = append(errs, need(at.Child("azureFile"), "secretName", s.AzureFile.SecretName, "shareName", s.AzureFile.ShareName)...)
		if ns := s.AzureFile.SecretNamespace; ns != nil {
			errs = append(errs, need(at.Child("azureFile"), "secretNamespace", *ns)...)
		}
	}
	if s.ScaleIO != nil {
		errs = append(errs, need(at.Child("scaleIO"), "gateway", s.ScaleIO.Gateway, "system", s.ScaleIO.System, "volumeName", s.ScaleIO.VolumeName)...)
	}
	if s.StorageOS != nil {
		errs = append(errs, validateStorageOS(s.StorageOS.VolumeName, s.StorageOS.VolumeNamespace, at.Child("storageos"))...)
	}
	if s.CSI != nil {
		errs = append(errs, validateDriverName(s.CSI.Driver, at.Child("csi", "driver"))...)
		errs = append(errs, need(at.Child("csi"), "volumeHandle", s.CSI.VolumeHandle)...)
	}
	return errs
}

// referenceTo is a reference without its namespace.
func referenceTo(r *corev1.SecretReference) *corev1.LocalObjectReference {
	if r == nil {
		return nil
	}
	return &corev1.LocalObjectReference{Name: r.Name}
}

func validatePersistentVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	var errs field.ErrorList
	if !equality.Semantic.DeepEqual(withoutSecrets(v), withoutSecrets(old)) {
		errs = append(errs, field.Forbidden(specPath.Child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation"))
	}
	if old.Spec.VolumeAttributesClassName != nil && v.Spec.VolumeAttributesClassName == nil {
		errs = append(errs, field.Forbidden(specPath.Child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	// These two are published without "spec".
	errs = append(errs, immutable(v.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if old.Spec.NodeAffinity != nil {
		errs = append(errs, immutable(v.Spec.NodeAffinity, old.Spec.NodeAffinity, field.NewPath("nodeAffinity"))...)
	}
	return errs
}

// withoutSecrets is a volume's source less what may be added to it later.
func withoutSecrets(v *corev1.PersistentVolume) *corev1.PersistentVolumeSource {
	s := v.Spec.PersistentVolumeSource.DeepCopy()
	if s.CSI != nil {
		s.CSI.ControllerExpandSecretRef = nil
	}
	return s
}

func claimRow() *Resource {
	doc := corev1.PersistentVolumeClaimSpec{}.SwaggerDoc()
	return kind[*corev1.PersistentVolumeClaim]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "persistentvolumeclaims", Short: []string{"pvc"}, Namespaced: true,
		List:     &corev1.PersistentVolumeClaimList{},
		Warnings: warnClaim,
		Status:   true,

		Default:        defaultClaim,
		PrepareCreate:  prepareClaim,
		Validate:       func(c *corev1.PersistentVolumeClaim) field.ErrorList { return validateClaimSpec(&c.Spec, specPath) },
		ValidateUpdate: validateClaimUpdate,
		PrepareUpdate:  prepareClaimUpdate,
		PrepareStatus:  func(c, _ *corev1.PersistentVolumeClaim) { c.Status.HealthStatus = nil }, // CSIVolumeHealth
		ValidateStatus: validateVolumeClaimStatus,
		Columns: columns(nameColumn,
			column("Status", "string", corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()["phase"]),
			column("Volume", "string", doc["volumeName"]),
			column("Capacity", "string", corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()["capacity"]),
			column("Access Modes", "string", corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()["accessModes"]),
			column("StorageClass", "string", doc["storageClassName"]),
			column("VolumeAttributesClass", "string", doc["volumeAttributesClassName"]),
			ageColumn,
			wideColumn("VolumeMode", "string", doc["volumeMode"])),
		Cells: claimCells,
		Indexes: map[string]func(*corev1.PersistentVolumeClaim) []string{
			"volume": func(c *corev1.PersistentVolumeClaim) []string { return []string{c.Spec.VolumeName} }},
	}.row()
}

// defaultClaim also keeps the two ways of naming a data source in step
// (KEP 1495), save for a source in another namespace.
// prepareClaim drops what a claim cannot be made from: a source in another
// namespace (CrossNamespaceVolumeDataSource is off), and in the older of the two
// fields whatever is neither a claim nor a snapshot.
func prepareClaim(c *corev1.PersistentVolumeClaim) {
	c.Status.Phase = corev1.ClaimPending
	dropSources(c)
	mirrorSources(c)
}

// dropSources: a source in another namespace is off in Kubernetes, and of a source
// that the older field cannot name nothing is kept.
func dropSources(c *corev1.PersistentVolumeClaim) {
	s := &c.Spec
	if r := s.DataSourceRef; r != nil && deref(r.Namespace, "") != "" {
		s.DataSourceRef = nil
	}
	if d := s.DataSource; d != nil && s.DataSourceRef == nil && !isKnownSource(d) {
		s.DataSource = nil
	}
}

// mirrorSources lets the two fields for a source say the same.
func mirrorSources(c *corev1.PersistentVolumeClaim) {
	switch d, r := c.Spec.DataSource, c.Spec.DataSourceRef; {
	case d != nil && r == nil:
		c.Spec.DataSourceRef = &corev1.TypedObjectReference{APIGroup: d.APIGroup, Kind: d.Kind, Name: d.Name}
	case r != nil && d == nil && deref(r.Namespace, "") == "":
		c.Spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: r.APIGroup, Kind: r.Kind, Name: r.Name}
	}
}

// isKnownSource tells what the older of the two fields can name.
func isKnownSource(d *corev1.TypedLocalObjectReference) bool {
	switch deref(d.APIGroup, "") {
	case "":
		return d.Kind == "PersistentVolumeClaim"
	case "snapshot.storage.k8s.io":
		return d.Kind == "VolumeSnapshot"
	}
	return false
}

// prepareClaimUpdate: what a new claim cannot have is not added later either.
func prepareClaimUpdate(c, old *corev1.PersistentVolumeClaim) {
	if old.Spec.DataSource == nil && old.Spec.DataSourceRef == nil {
		dropSources(c)
	}
	mirrorSources(c)
}

var resizeStates = []corev1.ClaimResourceStatus{corev1.PersistentVolumeClaimControllerResizeInfeasible, corev1.PersistentVolumeClaimControllerResizeInProgress,
	corev1.PersistentVolumeClaimNodeResizeInfeasible, corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizePending}

// validateVolumeClaimStatus judges how far a claim has grown (KEP 1790).
func validateVolumeClaimStatus(c, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := validateQuantities(c.Status.Capacity, statusPath.Child("capacity"))
	at := statusPath.Child("allocatedResourceStatuses")
	for name, state := range maps.All(c.Status.AllocatedResourceStatuses) {
		errs = append(errs, validateClaimResource(name, at)...)
		if !slices.Contains(resizeStates, state) {
			errs = append(errs, field.NotSupported(at, corev1.ResourceName(name), resizeStates))
		}
	}
	at = statusPath.Child("allocatedResources")
	for _, name := range sortedNames(c.Status.AllocatedResources) {
		if bad := validateClaimResource(name, at); len(bad) > 0 {
			errs = append(errs, bad...)
			continue
		}
		one := corev1.ResourceList{name: c.Status.AllocatedResources[name]}
		if bad := validateQuantities(one, at); len(bad) > 0 {
			errs = append(errs, bad...)
		} else {
			errs = append(errs, validateAmount(corev1.ResourceStorage, one[name], at.Key(string(name)))...)
		}
	}
	return errs
}

func validateQuantities(list corev1.ResourceList, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range sortedNames(list) {
		if q := list[name]; q.Value() < 0 {
			errs = append(errs, field.Invalid(at.Key(string(name)), q.Value(), "must be a valid resource quantity"))
		}
	}
	return errs
}

// validateClaimResource: of Kubernetes' own resources a claim has storage.
func validateClaimResource(name corev1.ResourceName, at *field.Path) field.ErrorList {
	if errs := invalidEach(string(name), at, validation.IsQualifiedName(string(name))); len(errs) > 0 {
		return errs
	}
	own := !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
	if own && name != corev1.ResourceStorage {
		return field.ErrorList{field.NotSupported(at, name, []corev1.ResourceName{corev1.ResourceStorage})}
	}
	return nil
}

func defaultClaim(c *corev1.PersistentVolumeClaim) {
	empty(&c.Status.Phase, corev1.ClaimPending)
	unset(&c.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	roundUp(c.Spec.Resources.Requests)
	roundUp(c.Spec.Resources.Limits)
}

func claimCells(c *corev1.PersistentVolumeClaim, now time.Time) []any {
	phase := string(c.Status.Phase)
	if c.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	size, modes := "", ""
	if c.Spec.VolumeName != "" {
		q := c.Status.Capacity[corev1.ResourceStorage]
		size, modes = q.String(), accessModesCell(c.Status.AccessModes)
	}
	class := or(c.Annotations[corev1.BetaStorageClassAnnotation], deref(c.Spec.StorageClassName, ""))
	return []any{c.Name, phase, c.Spec.VolumeName, size, modes, class,
		deref(c.Spec.VolumeAttributesClassName, unsetClass), age(c, now), string(deref(c.Spec.VolumeMode, unsetClass))}
}

// validateClaimUpdate: a bound claim can grow; an unbound one can be bound and
// given a class; all else stays.
func validateClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	allowed := old.Spec.DeepCopy()
	if old.Spec.VolumeName == "" {
		allowed.VolumeName = c.Spec.VolumeName
	}
	if old.Spec.StorageClassName == nil {
		allowed.StorageClassName = c.Spec.StorageClassName
	}
	var errs field.ErrorList
	if old.Status.Phase == corev1.ClaimBound {
		allowed.Resources.Requests, allowed.VolumeAttributesClassName = c.Spec.Resources.Requests, c.Spec.VolumeAttributesClassName
	}
	now, was := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	granted := old.Status.Capacity[corev1.ResourceStorage]
	// A request that was raised beyond what there is may be lowered again, but
	// not to it.
	if now.Cmp(was) < 0 && now.Cmp(granted) <= 0 {
		errs = append(errs, field.Forbidden(specPath.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	errs = append(errs, immutable(c.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	errs = append(errs, keepsAttributesClass(c, old)...)
	if !equality.Semantic.DeepEqual(&c.Spec, allowed) {
		errs = append(errs, field.Forbidden(specPath, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n"+diff.Diff(allowed, &c.Spec)))
	}
	return errs
}

// keepsAttributesClass: a class that was applied can be replaced, not taken away.
func keepsAttributesClass(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	if old.Status.CurrentVolumeAttributesClassName == nil || equality.Semantic.DeepEqual(c.Spec.VolumeAttributesClassName, old.Spec.VolumeAttributesClassName) {
		return nil
	}
	at := specPath.Child("volumeAttributesClassName")
	switch name := c.Spec.VolumeAttributesClassName; {
	case name == nil:
		return field.ErrorList{field.Forbidden(at, "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil")}
	case *name == "":
		return field.ErrorList{field.Forbidden(at, "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil")}
	}
	return nil
}

var accessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod}

func validateAccessModes(modes []corev1.PersistentVolumeAccessMode, at *field.Path) field.ErrorList {
	if len(modes) == 0 {
		return field.ErrorList{field.Required(at, "at least 1 access mode is required")}
	}
	var errs field.ErrorList
	for _, m := range modes {
		errs = append(errs, oneOf(m, at, accessModes...)...)
	}
	if len(sets.New(modes...)) > 1 && slices.Contains(modes, corev1.ReadWriteOncePod) {
		errs = append(errs, field.Forbidden(at, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

// validateClaimSpec judges the spec of a claim, also of a claim template.
func validateClaimSpec(s *corev1.PersistentVolumeClaimSpec, at *field.Path) field.ErrorList {
	errs := slices.Concat(
		validateAccessModes(s.AccessModes, at.Child("accessModes")),
		checkSelector(s.Selector, at.Child("selector")),
	)
	storage, asked := s.Resources.Requests[corev1.ResourceStorage]
	request := at.Child("resources").Key(string(corev1.ResourceStorage))
	if !asked {
		errs = append(errs, field.Required(request, ""))
	} else if storage.Sign() <= 0 {
		errs = append(errs, field.Invalid(request, storage.String(), "must be greater than zero"))
	}
	if n := s.StorageClassName; n != nil && *n != "" {
		errs = append(errs, invalidEach(*n, at.Child("storageClassName"), dnsName(*n))...)
	}
	if n := s.VolumeAttributesClassName; n != nil && *n != "" {
		errs = append(errs, invalidEach(*n, at.Child("volumeAttributesClassName"), dnsName(*n))...)
	}
	if m := s.VolumeMode; m != nil {
		errs = append(errs, oneOf(*m, at.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	return append(errs, validateDataSources(s, at)...)
}

func validateDataSources(s *corev1.PersistentVolumeClaimSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if d := s.DataSource; d != nil {
		errs = append(errs, validateDataSource(d.APIGroup, d.Kind, d.Name, at.Child("dataSource"))...)
	}
	r := s.DataSourceRef
	if r == nil {
		return errs
	}
	errs = append(errs, validateDataSource(r.APIGroup, r.Kind, r.Name, at.Child("dataSourceRef"))...)
	errs = append(errs, optionally(deref(r.Namespace, ""), validation.IsDNS1123Label, at.Child("dataSourceRef", "namespace"))...)
	switch d := s.DataSource; {
	case d == nil:
	case deref(r.Namespace, "") != "":
		errs = append(errs, field.Invalid(at, at.Child("dataSource").String(), "may not be specified when dataSourceRef.namespace is specified"))
	case (d.Kind != r.Kind || d.Name != r.Name || deref(d.APIGroup, "") != deref(r.APIGroup, "")):
		errs = append(errs, field.Invalid(at, at.Child("dataSource").String(), "must match dataSourceRef"))
	}
	return errs
}

func validateDataSource(group *string, kind, name string, at *field.Path) field.ErrorList {
	errs := need(at, "name", name, "kind", kind)
	if deref(group, "") == "" && kind != "PersistentVolumeClaim" {
		errs = append(errs, field.Invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
	}
	return append(errs, optionally(deref(group, ""), validation.IsDNS1123Subdomain, at.Child("apiGroup"))...)
}
