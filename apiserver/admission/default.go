package admission

import (
	"net/netip"

	"proa/store"
)

// Config is what the plugins need to know besides the world.
type Config struct {
	// ServiceCIDR is where cluster IPs come from, NodePorts the inclusive range
	// of node ports.
	ServiceCIDR netip.Prefix
	NodePorts   [2]int
	// Newest is the newest world.
	Newest func() store.Snapshot
	// TaintNodes has new nodes tainted until a node controller finds them ready.
	TaintNodes bool
}

// Default is the plugins that are on, in order.
func Default(c Config) Chain {
	return Chain{
		namespaceLifecycle(),
		limitRanger(),
		serviceAccount(),
		nodeRestriction(),
		taintNodes(c.TaintNodes),
		podSecurity(),
		priority(),
		defaultTolerationSeconds(),
		defaultStorageClass(),
		storageInUse(),
		runtimeClass(),
		defaultIngressClass(),
		serviceAllocation(c),
		resourceQuota(),
	}
}
