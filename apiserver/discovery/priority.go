package discovery

import (
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Priority orders group versions: groups by the greatest Group among their
// versions, versions within theirs by Version, the greater first.
type Priority struct{ Group, Version int32 }

// first is above every priority that an APIService can ask for: the group that
// APIServices themselves are in.
var first = Priority{20001, 18}

// custom is what group versions of custom resources get.
var custom = Priority{1000, 100}

// groupPriority and versionPriority are what Kubernetes gives its own groups, which
// decides what a bare resource name means to kubectl.
var groupPriority = map[string]int32{
	"": 18000, "apps": 17800, "events.k8s.io": 17750, "authentication.k8s.io": 17700, "authorization.k8s.io": 17600,
	"autoscaling": 17500, "batch": 17400, "certificates.k8s.io": 17300, "networking.k8s.io": 17200, "policy": 17100,
	"rbac.authorization.k8s.io": 17000, "storage.k8s.io": 16800, "apiextensions.k8s.io": 16700,
	"admissionregistration.k8s.io": 16700, "scheduling.k8s.io": 16600, "coordination.k8s.io": 16500,
	"node.k8s.io": 16300, "discovery.k8s.io": 16200, "resource.k8s.io": 16200, "flowcontrol.apiserver.k8s.io": 16100,
	"internal.apiserver.k8s.io": 16000, "storagemigration.k8s.io": 15800, "lifecycle.k8s.io": 15700,
}

var versionPriority = map[schema.GroupVersion]int32{
	{Version: "v1"}:                                              1,
	{Group: "autoscaling", Version: "v2"}:                        30,
	{Group: "resource.k8s.io", Version: "v1"}:                    21,
	{Group: "resource.k8s.io", Version: "v1beta2"}:               15,
	{Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}:       21,
	{Group: "admissionregistration.k8s.io", Version: "v1beta1"}:  12,
	{Group: "admissionregistration.k8s.io", Version: "v1alpha1"}: 9,
	{Group: "coordination.k8s.io", Version: "v1beta1"}:           13,
	{Group: "coordination.k8s.io", Version: "v1alpha2"}:          12,
	{Group: "internal.apiserver.k8s.io", Version: "v1alpha1"}:    9,
	{Group: "scheduling.k8s.io", Version: "v1alpha3"}:            3,
}

// DefaultPriority is the priority of a group version that this server serves
// itself, and whether the group is one of Kubernetes' own.
func DefaultPriority(gv schema.GroupVersion) (p Priority, builtin bool) {
	if gv.Group == RegistrationGroup {
		return first, true
	}
	group, builtin := groupPriority[gv.Group]
	if !builtin {
		return custom, false
	}
	if v, ok := versionPriority[gv]; ok {
		return Priority{group, v}, true
	}
	return Priority{group, stage(gv.Version)}, true
}

// stage is the customary priority of a version by how stable it says it is.
func stage(version string) int32 {
	switch {
	case strings.Contains(version, "beta"):
		return 9
	case strings.Contains(version, "alpha"):
		return 1
	}
	return 15
}

// RegistrationGroup is the group of APIServices; it has none itself.
const RegistrationGroup = "apiregistration.k8s.io"
