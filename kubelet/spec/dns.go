package spec

import (
	"fmt"
	"net"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// DNS is a resolver configuration, as in resolv.conf(5).
type DNS struct{ Servers, Searches, Options []string }

// The limits of what resolvers take (resolv.conf(5), KEP-2595).
const (
	maxServers     = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

// ParseResolv reads resolv.conf text; the last search line counts.
func ParseResolv(text string) DNS {
	var d DNS
	for line := range strings.Lines(text) {
		f := strings.Fields(strings.SplitN(strings.SplitN(line, "#", 2)[0], ";", 2)[0])
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			d.Servers = append(d.Servers, f[1])
		case "search":
			d.Searches = slices.DeleteFunc(f[1:], func(s string) bool { return s == "." })
		case "options":
			d.Options = f[1:]
		}
	}
	return d
}

// PodDNS is a pod's resolver configuration by its dnsPolicy and dnsConfig.
func PodDNS(pod *corev1.Pod, n *Node) DNS {
	var d DNS
	policy := pod.Spec.DNSPolicy
	cluster := policy == corev1.DNSClusterFirstWithHostNet || policy == corev1.DNSClusterFirst && !pod.Spec.HostNetwork
	switch {
	case policy == corev1.DNSNone:
	case cluster && len(n.ClusterDNS) > 0:
		d.Servers = n.ClusterDNS
		d.Searches = slices.Concat(clusterSearches(pod.Namespace, n.ClusterDomain), n.Resolv.Searches)
		d.Options = []string{"ndots:5"}
	default:
		d = DNS{slices.Clone(n.Resolv.Servers), slices.Clone(n.Resolv.Searches), slices.Clone(n.Resolv.Options)}
	}
	return limit(merge(d, pod.Spec.DNSConfig))
}

func clusterSearches(namespace, domain string) []string {
	if domain == "" {
		return nil
	}
	return []string{namespace + ".svc." + domain, "svc." + domain, domain}
}

func merge(d DNS, c *corev1.PodDNSConfig) DNS {
	if c == nil {
		return d
	}
	d.Servers = unique(slices.Concat(d.Servers, c.Nameservers))
	d.Searches = unique(slices.Concat(d.Searches, c.Searches))
	for _, o := range c.Options {
		d.Options = slices.DeleteFunc(slices.Clone(d.Options), func(s string) bool {
			name, _, _ := strings.Cut(s, ":")
			return name == o.Name
		})
		if o.Value != nil && *o.Value != "" {
			d.Options = append(d.Options, o.Name+":"+*o.Value)
		} else {
			d.Options = append(d.Options, o.Name)
		}
	}
	return d
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func limit(d DNS) DNS {
	d.Servers = d.Servers[:min(len(d.Servers), maxServers)]
	d.Searches = unique(d.Searches)
	d.Searches = d.Searches[:min(len(d.Searches), maxSearches)]
	for len(strings.Join(d.Searches, " ")) > maxSearchChars {
		d.Searches = d.Searches[:len(d.Searches)-1]
	}
	return d
}

func (d DNS) cri() *cri.DNSConfig {
	return &cri.DNSConfig{Servers: d.Servers, Searches: d.Searches, Options: d.Options}
}

// Hostname is what the pod's processes see, and the domain behind it if it has
// a fully qualified name.
func Hostname(pod *corev1.Pod, n *Node) (host, domain string) {
	if o := pod.Spec.HostnameOverride; o != nil && *o != "" {
		return *o, ""
	}
	host = pod.Name
	if pod.Spec.HostNetwork {
		host = n.Name
	} else if pod.Spec.Hostname != "" {
		host = pod.Spec.Hostname
	}
	host = strings.TrimRight(host[:min(len(host), 63)], "-.")
	if pod.Spec.Subdomain != "" {
		domain = fmt.Sprintf("%s.%s.svc.%s", pod.Spec.Subdomain, pod.Namespace, n.ClusterDomain)
	}
	return host, domain
}

// kernelHostname is Hostname as the sandbox is told, where the pod asks for the
// full name (at most 64 characters, the kernel's limit).
func kernelHostname(pod *corev1.Pod, n *Node) (string, error) {
	host, domain := Hostname(pod, n)
	if !isTrue(pod.Spec.SetHostnameAsFQDN) || domain == "" {
		return host, nil
	}
	full := host + "." + domain
	if len(full) > 64 {
		return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (64 characters is the max, %d characters requested)", full, len(full))
	}
	return full, nil
}

const hostsHead = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"

// Hosts is the pod's /etc/hosts. machine is the node's own file, for pods on the
// host network.
func Hosts(pod *corev1.Pod, podIPs []string, n *Node, machine string) string {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n" + machine)
	} else {
		b.WriteString(hostsHead)
		host, domain := Hostname(pod, n)
		for _, ip := range podIPs {
			if net.ParseIP(ip) == nil {
				continue
			}
			if domain != "" {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, host, domain, host)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, host)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
	}
	for _, a := range pod.Spec.HostAliases {
		fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
	}
	return b.String()
}
