// Package controllers lists the controllers that a control plane runs. Each is
// a package below this one: a pure decision on the contract of proa/reconcile.
package controllers

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"proa/api"
	"proa/auth"
	"proa/controllers/bootstrap"
	"proa/controllers/certificates"
	"proa/controllers/clusterrole"
	"proa/controllers/cronjob"
	"proa/controllers/daemonset"
	"proa/controllers/deployment"
	"proa/controllers/disruption"
	"proa/controllers/endpoints"
	"proa/controllers/garbage"
	"proa/controllers/job"
	"proa/controllers/loadbalancer"
	"proa/controllers/migration"
	"proa/controllers/namespace"
	"proa/controllers/node"
	"proa/controllers/protection"
	"proa/controllers/quota"
	"proa/controllers/replicaset"
	"proa/controllers/resourceclaim"
	"proa/controllers/serviceaccount"
	"proa/controllers/servicecidr"
	"proa/controllers/statefulset"
	"proa/controllers/volume"
	"proa/reconcile"
)

// Config is what controllers need to know that the API does not tell them.
type Config struct {
	// Registry is the table of kinds that are served; nil is the built-in one.
	Registry *api.Registry
	// RootCA is the cluster's certificate authority, in PEM, which every
	// namespace gets as the ConfigMap kube-root-ca.crt.
	RootCA []byte
	// SignToken makes the token of a Secret of the type
	// kubernetes.io/service-account-token; nil leaves such Secrets alone.
	SignToken func(*corev1.ServiceAccount, *corev1.Secret) (string, error)
	// Authority signs certificates; nil leaves requests for them alone.
	Authority certificates.Authority
	// May answers as the API's authoriser does; nil approves no certificates.
	May func(auth.Attributes) bool
	// ClusterCIDR is the range that nodes get their pod ranges from.
	ClusterCIDR netip.Prefix
}

// All are the controllers, for reconcile.Run.
func All(c Config) []reconcile.Controller {
	registry := c.Registry
	if registry == nil {
		registry = api.Builtin()
	}
	all := []reconcile.Controller{
		deployment.Controller(),
		replicaset.Controller(),
		replicaset.ReplicationController(),
		daemonset.Controller(),
		statefulset.Controller(),
		job.Controller(),
		job.Orphans(),
		job.TTL(),
		cronjob.Controller(),
		disruption.Controller(registry),
		disruption.Stale(),
		clusterrole.Controller(),
		quota.Controller(registry),
		protection.Claims(),
		protection.Volumes(),
		protection.Classes(),
		migration.Controller(registry),
		volume.Claims(),
		volume.Volumes(),
		volume.Ephemeral(),
		volume.Expander(),
		resourceclaim.Pods(),
		resourceclaim.Claims(),
		endpoints.Slices(),
		endpoints.Legacy(),
		endpoints.Mirror(),
		servicecidr.Controller(),
		servicecidr.Repair(),
		garbage.Controller(registry),
		namespace.Controller(registry),
		serviceaccount.Controller(),
		serviceaccount.RootCA(c.RootCA),
		bootstrap.TokenCleaner(),
		bootstrap.Signer(),
		certificates.Cleaner(),
		certificates.PodCleaner(),
		loadbalancer.Controller(),
		node.Lifecycle(),
		node.Evictor(),
		node.PodGC(),
		node.TTL(),
		node.Ranges(c.ClusterCIDR),
	}
	return append(all, c.credentials()...)
}

// credentials are the controllers that need a key or an authority.
func (c Config) credentials() (list []reconcile.Controller) {
	if c.SignToken != nil {
		list = append(list, serviceaccount.Tokens(c.SignToken, c.RootCA), serviceaccount.Cleaner())
	}
	if c.May != nil {
		list = append(list, certificates.Approver(c.May))
	}
	if c.Authority != nil {
		list = append(list, certificates.Signer(c.Authority), certificates.Publisher(c.RootCA))
	}
	return list
}
