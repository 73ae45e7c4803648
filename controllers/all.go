// Package controllers lists the controllers that a control plane runs. Each is
// a package below this one: a pure decision on the contract of proa/reconcile.
package controllers

import (
	"net/netip"

	"proa/api"
	"proa/controllers/clusterrole"
	"proa/controllers/cronjob"
	"proa/controllers/daemonset"
	"proa/controllers/deployment"
	"proa/controllers/disruption"
	"proa/controllers/endpoints"
	"proa/controllers/garbage"
	"proa/controllers/job"
	"proa/controllers/loadbalancer"
	"proa/controllers/namespace"
	"proa/controllers/node"
	"proa/controllers/protection"
	"proa/controllers/quota"
	"proa/controllers/replicaset"
	"proa/controllers/serviceaccount"
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
	// ClusterCIDR is the range that nodes get their pod ranges from.
	ClusterCIDR netip.Prefix
}

// All are the controllers, for reconcile.Run.
func All(c Config) []reconcile.Controller {
	registry := c.Registry
	if registry == nil {
		registry = api.Builtin()
	}
	return []reconcile.Controller{
		deployment.Controller(),
		replicaset.Controller(),
		replicaset.ReplicationController(),
		daemonset.Controller(),
		statefulset.Controller(),
		job.Controller(),
		job.TTL(),
		cronjob.Controller(),
		disruption.Controller(registry),
		clusterrole.Controller(),
		quota.Controller(registry),
		protection.Claims(),
		protection.Volumes(),
		volume.Claims(),
		volume.Volumes(),
		volume.Ephemeral(),
		endpoints.Slices(),
		endpoints.Legacy(),
		endpoints.Mirror(),
		garbage.Controller(registry),
		namespace.Controller(registry),
		serviceaccount.Controller(),
		serviceaccount.RootCA(c.RootCA),
		loadbalancer.Controller(),
		node.Lifecycle(),
		node.Evictor(),
		node.PodGC(),
		node.Ranges(c.ClusterCIDR),
	}
}
