// Package node decides what a node's credentials may do: the kubelet reads what
// its own pods refer to and writes what is its own, and nothing of its
// neighbours (https://kubernetes.io/docs/reference/access-authn-authz/node/).
//
// The decision is pure. It walks from the node's pods, which the world has an
// index of, to the object that is asked for; there is no second copy of the world
// to keep up to date.
package node

import (
	"context"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/selection"

	"proa/auth"
	"proa/auth/rbac"
	"proa/client"
)

// Authorizer decides on the newest view.
type Authorizer struct {
	View  func() client.View
	rules []rbacv1.PolicyRule
}

// New returns the authoriser. What it does not subdivide by node is allowed as
// the role system:node says.
func New(view func() client.View) *Authorizer {
	z := &Authorizer{View: view}
	for _, o := range rbac.Bootstrap() {
		if r, ok := o.(*rbacv1.ClusterRole); ok && r.Name == "system:node" {
			z.rules = r.Rules
		}
	}
	return z
}

// Authorize allows, or has no opinion and says why.
func (z *Authorizer) Authorize(_ context.Context, a auth.Attributes) (auth.Decision, string, error) {
	if !a.User.In(auth.GroupNodes) {
		return auth.NoOpinion, "", nil
	}
	name, ok := a.User.Node()
	if !ok {
		return auth.NoOpinion, fmt.Sprintf("unknown node for user %q", a.User.Name), nil
	}
	if judge := judges[a.Group+"/"+a.Resource]; a.ResourceRequest && judge != nil {
		if why := judge(request{a, z.View(), name}); why != allowed {
			return auth.NoOpinion, why, nil
		}
		return auth.Allow, "", nil
	}
	if slices.ContainsFunc(z.rules, func(r rbacv1.PolicyRule) bool { return rbac.Allows(r, a) }) {
		return auth.Allow, "", nil
	}
	return auth.NoOpinion, "", nil
}

// request is one question of a node.
type request struct {
	auth.Attributes
	view client.View
	node string
}

// allowed is a judge's word for yes; everything else is the reason for no.
const allowed = "\x00"

// judges say whether a node may do what it asks with a resource.
var judges = map[string]func(request) string{
	"/secrets":                                   func(q request) string { return q.reads(q.secret) },
	"/configmaps":                                func(q request) string { return q.reads(q.configMap) },
	"/persistentvolumeclaims":                    request.claims,
	"/persistentvolumes":                         func(q request) string { return q.gets(q.volume) },
	"resource.k8s.io/resourceclaims":             func(q request) string { return q.gets(q.resourceClaim) },
	"storage.k8s.io/volumeattachments":           func(q request) string { return q.gets(q.attachment) },
	"/serviceaccounts":                           request.serviceAccounts,
	"coordination.k8s.io/leases":                 request.leases,
	"storage.k8s.io/csinodes":                    request.csiNodes,
	"resource.k8s.io/resourceslices":             request.slices,
	"/nodes":                                     request.nodes,
	"/pods":                                      request.pods,
	"certificates.k8s.io/podcertificaterequests": request.podCertificates,
}

func (q request) verb(list ...string) bool { return slices.Contains(list, q.Verb) }

// related asks whether the object that is named belongs to the node's pods.
func (q request) related(reaches func() bool) string {
	switch {
	case q.Name == "":
		return "No Object name found"
	case !reaches():
		return fmt.Sprintf("no relationship found between node '%s' and this object", q.node)
	}
	return allowed
}

func (q request) gets(reaches func() bool) string {
	switch {
	case q.Verb != "get":
		return "can only get individual resources of this type"
	case q.Subresource != "":
		return "cannot get subresource"
	}
	return q.related(reaches)
}

func (q request) reads(reaches func() bool) string {
	switch {
	case !q.verb("get", "list", "watch"):
		return "can only read resources of this type"
	case q.Subresource != "":
		return "cannot read subresource"
	case q.Namespace == "":
		return "can only read namespaced object of this type"
	}
	return q.related(reaches)
}

func (q request) claims() string {
	if q.Subresource != "status" {
		return q.gets(q.claim)
	}
	if !q.verb("update", "patch") {
		return "can only get/update/patch this type"
	}
	return q.related(q.claim)
}

func (q request) serviceAccounts() string {
	switch {
	case q.Verb == "get" && q.Subresource == "":
		return q.reads(q.account)
	case q.Verb != "create" || q.Name == "":
		return "can only create tokens for individual service accounts"
	case q.Subresource != "token":
		return "can only create token subresource of serviceaccount"
	}
	return q.related(q.account)
}

// own judges objects that have the node's name. Admission sees to it that one
// which is created has it, since the name is not known here.
func (q request) own(what string) string {
	if q.Verb != "create" && q.Name != q.node {
		return "can only access " + what + " with the same name as the requesting node"
	}
	return allowed
}

func (q request) leases() string {
	switch {
	case !q.verb("get", "create", "update", "patch", "delete"):
		return "can only get, create, update, patch, or delete a node lease"
	case q.Namespace != corev1.NamespaceNodeLease:
		return fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	}
	return q.own("node lease")
}

func (q request) csiNodes() string {
	switch {
	case q.Subresource != "":
		return "cannot authorize CSINode subresources"
	case !q.verb("get", "create", "update", "patch", "delete"):
		return "can only get, create, update, patch, or delete a CSINode"
	}
	return q.own("CSINode")
}

// selects tells whether the request asks only for what has the field equal to the
// node's name.
func (q request) selects(field string) bool {
	s, err := fields.ParseSelector(q.FieldSelector)
	if err != nil || q.FieldSelector == "" {
		return false
	}
	return slices.ContainsFunc(s.Requirements(), func(r fields.Requirement) bool {
		return r.Field == field && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals) && r.Value == q.node
	})
}

func (q request) slices() string {
	switch {
	case q.Subresource != "":
		return "cannot authorize ResourceSlice subresources"
	case q.Verb == "create":
		return allowed // admission looks at the node's name in it
	case q.verb("get", "update", "patch", "delete"):
		return q.related(q.slice)
	case !q.verb("watch", "list", "deletecollection"):
		return "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection"
	case !q.selects(resourcev1.ResourceSliceSelectorNodeName):
		return "can only list/watch/deletecollection resourceslices with nodeName field selector"
	}
	return allowed
}

func (q request) podCertificates() string {
	switch {
	case q.Subresource != "":
		return "nodes may not access the status subresource of PodCertificateRequests"
	case q.Verb == "create":
		return allowed // admission looks at what it asks for
	case q.Verb == "get":
		return q.related(func() bool {
			r := client.Get[certificatesv1.PodCertificateRequest](q.view, q.Namespace, q.Name)
			return r != nil && string(r.Spec.NodeName) == q.node
		})
	case q.verb("list", "watch") && q.selects("spec.nodeName"):
		return allowed
	case q.verb("list", "watch"):
		return "can only list/watch podcertificaterequests with nodeName field selector"
	}
	return ""
}

func (q request) nodes() string {
	switch {
	case q.Subresource == "status" && q.verb("update", "patch"), q.Subresource == "" && q.verb("create", "update", "patch"):
		return allowed // admission keeps it to the node's own
	case q.Subresource != "" || !q.verb("get", "list", "watch"):
		return ""
	case q.Name == "":
		return fmt.Sprintf("node '%s' cannot read all nodes, only its own Node object", q.node)
	case q.Name != q.node:
		return fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", q.node, q.Name)
	}
	return allowed
}

func (q request) pods() string {
	switch q.Subresource + "/" + q.Verb {
	case "/create", "/delete", "status/update", "status/patch", "eviction/create":
		return allowed // admission keeps these to the node's own pods
	case "/get":
		return q.related(q.pod)
	case "/list", "/watch":
		if q.selects("spec.nodeName") {
			return allowed
		}
		if q.Name != "" {
			return q.related(q.pod)
		}
		return "can only list/watch pods with spec.nodeName field selector"
	}
	return ""
}

func (q request) pod() bool {
	p := client.Get[corev1.Pod](q.view, q.Namespace, q.Name)
	return p != nil && p.Spec.NodeName == q.node
}

func (q request) slice() bool {
	s := client.Get[resourcev1.ResourceSlice](q.view, "", q.Name)
	return s != nil && s.Spec.NodeName != nil && *s.Spec.NodeName == q.node
}

func (q request) attachment() bool {
	v := client.Get[storagev1.VolumeAttachment](q.view, "", q.Name)
	return v != nil && v.Spec.NodeName == q.node
}
