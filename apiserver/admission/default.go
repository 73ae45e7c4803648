package admission

import (
	"net/netip"

	"proa/auth"
)

// Config is what the plugins need to know besides the world.
type Config struct {
	ServiceCIDR netip.Prefix
	NodePorts   [2]int
	Authorizer  auth.Authorizer
}

// Default is the plugins that are on, in order.
func Default(c Config) Chain {
	return Chain{
		namespaceLifecycle(),
	}
}
