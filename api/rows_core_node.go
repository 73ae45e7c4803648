package api

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

func nodeRow() *Resource {
	info := corev1.NodeSystemInfo{}.SwaggerDoc()
	return kind[*corev1.Node]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "nodes", Short: []string{"no"},
		List:     &corev1.NodeList{},
		Warnings: warnNode,
		Status:   true, StatusOnCreate: true,
		Default:        func(n *corev1.Node) { defaultNode(n) },
		PrepareCreate:  dropUnservedNode,
		PrepareUpdate:  func(n, _ *corev1.Node) { dropUnservedNode(n) },
		PrepareStatus:  func(n, _ *corev1.Node) { dropUnservedNode(n) },
		Validate:       validateNode,
		ValidateUpdate: validateNodeUpdate,
		ValidateStatus: validateNodeStatus,
		Subresources:   []Subresource{{Name: "proxy", Kind: coreKind("NodeProxyOptions"), Verbs: proxyVerbs}},
		Columns: columns(nameColumn,
			column("Status", "string", "Whether the node is ready, and whether it takes pods."),
			column("Roles", "string", "The roles that its labels give the node."),
			ageColumn,
			column("Version", "string", info["kubeletVersion"]),
			wideColumn("Internal-IP", "string", corev1.NodeStatus{}.SwaggerDoc()["addresses"]),
			wideColumn("External-IP", "string", corev1.NodeStatus{}.SwaggerDoc()["addresses"]),
			wideColumn("OS-Image", "string", info["osImage"]),
			wideColumn("Kernel-Version", "string", info["kernelVersion"]),
			wideColumn("Container-Runtime", "string", info["containerRuntimeVersion"])),
		Cells: nodeCells,
		Fields: func(n *corev1.Node) fields.Set {
			return fields.Set{"spec.unschedulable": strconv.FormatBool(n.Spec.Unschedulable)}
		},
	}.row()
}

// defaultNode: what a node has and names no reserve for can be given out.
func defaultNode(n *corev1.Node) {
	if n.Status.Allocatable == nil && len(n.Status.Capacity) > 0 {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	roundUp(n.Status.Capacity)
	roundUp(n.Status.Allocatable)
	if c := n.Spec.PodCIDR; c != "" && !slices.Contains(n.Spec.PodCIDRs[:min(1, len(n.Spec.PodCIDRs))], c) {
		n.Spec.PodCIDRs = []string{c} // the older field says what the newer begins with
	}
	if n.Spec.PodCIDR == "" && len(n.Spec.PodCIDRs) > 0 {
		n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	}
}

func nodeCells(n *corev1.Node, now time.Time) []any {
	i := n.Status.NodeInfo
	return []any{n.Name, nodeState(n), joinOr(nodeRoles(n), none), age(n, now), i.KubeletVersion,
		nodeAddress(n, corev1.NodeInternalIP), nodeAddress(n, corev1.NodeExternalIP),
		or(i.OSImage, unknown), kernelCell(&i), or(i.ContainerRuntimeVersion, unknown)}
}

// kernelCell is the kernel's version, and the architecture where it is known.
func kernelCell(i *corev1.NodeSystemInfo) string {
	if i.Architecture == "" {
		return or(i.KernelVersion, unknown)
	}
	return or(i.KernelVersion, unknown) + " (" + i.Architecture + ")"
}

func nodeState(n *corev1.Node) string {
	state := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			state = "NotReady"
			if c.Status == corev1.ConditionTrue {
				state = "Ready"
			}
		}
	}
	if n.Spec.Unschedulable {
		state += ",SchedulingDisabled"
	}
	return state
}

func nodeRoles(n *corev1.Node) []string {
	roles := sets.New[string]()
	for key, value := range n.Labels {
		if role, ok := strings.CutPrefix(key, "node-role.kubernetes.io/"); ok && role != "" {
			roles.Insert(role)
		}
		if key == "kubernetes.io/role" && value != "" {
			roles.Insert(value)
		}
	}
	return sets.List(roles)
}

func nodeAddress(n *corev1.Node, t corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == t {
			return a.Address
		}
	}
	return none
}

func validateNode(n *corev1.Node) field.ErrorList {
	return slices.Concat(
		validateTaints(n.Spec.Taints, metaPath.Child("taints")), // where upstream finds them
		validatePodCIDRs(n.Spec.PodCIDRs, specPath.Child("podCIDRs")),
		validateNodeAmounts(n),
		validateFeatures(n.Status.DeclaredFeatures, statusPath.Child("declaredFeatures")),
	)
}

func validateNodeAmounts(n *corev1.Node) field.ErrorList {
	return append(
		validateAmounts(n.Status.Capacity, statusPath.Child("capacity")),
		validateAmounts(n.Status.Allocatable, statusPath.Child("allocatable"))...)
}

// validateAmounts lets a node have resources of any name.
func validateAmounts(list corev1.ResourceList, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range sortedNames(list) {
		errs = append(errs, validateAmount(name, list[name], at.Child(string(name)))...)
	}
	return errs
}

// dropUnservedNode clears what the agent's dynamic configuration was, which is
// gone, and NodePodPreemptionPolicy, which is off.
func dropUnservedNode(n *corev1.Node) {
	n.Spec.ConfigSource, n.Status.Config = nil, nil
	n.Spec.PodPreemptionPolicy = nil
}

// validateFeatures judges what the agent says it can do (KEP 5328).
func validateFeatures(list []string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, f := range list {
		switch {
		case len(f) > validation.DNS1123SubdomainMaxLength:
			errs = append(errs, field.Invalid(at.Index(i), f, fmt.Sprintf("invalid feature name %q: must be no more than %d characters", f, validation.DNS1123SubdomainMaxLength)))
		case !isFeature(f):
			errs = append(errs, field.Invalid(at.Index(i), f, fmt.Sprintf("invalid feature name %q: must start with an UpperCamelCase segment, with subsequent segments "+
				"separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes", f)))
		}
		if i > 0 && list[i-1] == f {
			errs = append(errs, field.Duplicate(at.Index(i), f))
		} else if i > 0 && list[i-1] > f {
			errs = append(errs, field.Invalid(at.Index(i), f, "list must be sorted alphabetically"))
		}
	}
	return errs
}

// isFeature tells words of letters and digits, joined by slashes, that begin with
// a letter and the first with a capital.
func isFeature(name string) bool {
	if name == "" || name[0] < 'A' || name[0] > 'Z' {
		return false
	}
	for word := range strings.SplitSeq(name, "/") {
		for i, c := range word {
			letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
			if !letter && (i == 0 || c < '0' || c > '9') {
				return false
			}
		}
		if word == "" {
			return false
		}
	}
	return true
}

func validateTaints(taints []corev1.Taint, at *field.Path) field.ErrorList {
	seen := sets.New[string]()
	return each(taints, at, func(t *corev1.Taint, at *field.Path) field.ErrorList {
		errs := metavalidation.ValidateLabelName(t.Key, at.Child("key"))
		errs = append(errs, invalidEach(t.Value, at.Child("value"), validation.IsValidLabelValue(t.Value))...)
		errs = append(errs, validateEffect(t.Effect, at.Child("effect"))...)
		if id := t.Key + ":" + string(t.Effect); t.Effect != "" && seen.Has(id) {
			d := field.Duplicate(at, *t)
			d.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, d)
		} else {
			seen.Insert(id)
		}
		return errs
	})
}

// validatePodCIDRs: at most one prefix of each family.
func validatePodCIDRs(cidrs []string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, c := range cidrs {
		errs = append(errs, validation.IsValidCIDR(at.Index(i), c)...)
	}
	if len(cidrs) < 2 {
		return errs
	}
	dual, err := netutils.IsDualStackCIDRStrings(cidrs)
	if err != nil {
		errs = append(errs, field.InternalError(at, fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:%w", err)))
	}
	if !dual || len(cidrs) > 2 {
		errs = append(errs, field.Invalid(at, cidrs, "may specify no more than one CIDR for each IP family"))
	}
	return errs
}

func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(specPath.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	}
	switch was, is := old.Spec.ProviderID, n.Spec.ProviderID; {
	case was == "" || was == is:
	case is == "":
		errs = append(errs, field.Invalid(specPath.Child("providerID"), nil, "field cannot be cleared once set"))
	default:
		errs = append(errs, field.Invalid(specPath.Child("providerID"), nil, "field cannot be modified once set"))
	}
	if n.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		errs = append(errs, field.Forbidden(specPath.Child("externalID"), "may not be updated"))
	}
	return errs
}

func validateNodeStatus(n, _ *corev1.Node) field.ErrorList {
	seen := sets.New[corev1.NodeAddress]()
	errs := each(n.Status.Addresses, statusPath.Child("addresses"), func(a *corev1.NodeAddress, at *field.Path) field.ErrorList {
		return unique(seen, *a, at)
	})
	errs = append(errs, validateFeatures(n.Status.DeclaredFeatures, statusPath.Child("declaredFeatures"))...)
	return append(errs, validateNodeAmounts(n)...)
}
