package admission

import (
	"context"
	"iter"
	"net/netip"
	"slices"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	"proa/api"
	"proa/auth"
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
	// Follow is the newest world and what changes after it in the scopes; nil where
	// nobody waits for anything.
	Follow func(scopes ...store.Scope) (store.Snapshot, store.Watcher)
	// TaintNodes has new nodes tainted until a node controller finds them ready.
	TaintNodes bool
	// Extensions are the plugins that ask policies and webhooks. They come after
	// all others but those that count and allocate.
	Extensions []Plugin
	// Enable and Disable name plugins that are to be on or off other than by
	// default.
	Enable, Disable []string
	// SettingsFile configures plugins: an AdmissionConfiguration; empty is none.
	SettingsFile string
	// Provision makes a namespace.
	Provision func(ctx context.Context, name string) error
	// Now is the clock.
	Now func() time.Time
	// Registry finds the kinds of owners.
	Registry *api.Registry
	// Authorizer and Rules say what a user may do; without them nobody is kept
	// from handing out roles.
	Authorizer auth.Authorizer
	Rules      func(u auth.User, namespace string) iter.Seq2[rbacv1.PolicyRule, string]
}

// Default is the plugins that are on, in order: those that upstream has on, with
// c.Enable and without c.Disable. A name that is none is an error.
func Default(c Config) (Chain, error) {
	var set settings
	if c.SettingsFile != "" {
		var err error
		if set, err = readSettings(c.SettingsFile); err != nil {
			return nil, err
		}
	}
	own := Chain{
		namespaceAutoProvision(c.Provision, c.Newest),
		namespaceLifecycle(),
		namespaceExists(),
		hardAntiAffinity(),
		limitRanger(),
		serviceAccount(c.Follow),
		nodeRestriction(c.Authorizer),
		taintNodes(c.TaintNodes),
		alwaysPull(),
		imagePolicyWebhook(set.images),
		podSecurity(set.security),
		podNodeSelector(set.selectors),
		priority(),
		defaultTolerationSeconds(),
		podTolerations(set.tolerations),
		eventRateLimit(set.eventLimits, c.Now),
		extendedResourceToleration(),
		defaultStorageClass(),
		storageInUse(),
		ownerReferences(c.Authorizer, c.Registry),
		claimResize(),
		runtimeClass(),
		certificateApproval(c.Authorizer),
		certificateSigning(c.Authorizer),
		trustBundleAttest(c.Authorizer),
		certificateSubject(),
		defaultIngressClass(),
		denyExternalIPs(),
		topologyLabels(),
		declaredFeatures(),
		podResize(),
		roleEscalation(c),
	}
	all := slices.Concat(own, c.Extensions, Chain{serviceAllocation(c), resourceQuota()})
	return choose(all, offByDefault, c.Enable, c.Disable)
}

// offByDefault are the plugins that must be asked for.
var offByDefault = map[string]bool{
	"AlwaysPullImages": true, "OwnerReferencesPermissionEnforcement": true, "DenyServiceExternalIPs": true,
	"NamespaceExists": true, "LimitPodHardAntiAffinityTopology": true,
	"PodNodeSelector": true, "ExtendedResourceToleration": true, "PodTolerationRestriction": true,
	"NamespaceAutoProvision": true, "ImagePolicyWebhook": true, "EventRateLimit": true,
}
