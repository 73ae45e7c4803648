package spec

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// FuzzResolv reads made-up resolv.conf files: what a pod gets of one is within
// what resolvers take, and reads the same again.
func FuzzResolv(f *testing.F) {
	f.Add("nameserver 10.0.0.1\nnameserver 10.0.0.2 # no\nsearch a.b c.d .\noptions ndots:2 edns0\n")
	f.Add("search " + strings.Repeat("abcdefgh.example ", 200))
	f.Add("nameserver\n;options\nnameserver ::1\r\n\x00")
	f.Fuzz(func(t *testing.T, text string) {
		n := &Node{Resolv: ParseResolv(text), ClusterDNS: []string{"10.96.0.10"}, ClusterDomain: "cluster.local"}
		for _, policy := range []corev1.DNSPolicy{corev1.DNSDefault, corev1.DNSClusterFirst, corev1.DNSNone} {
			pod := &corev1.Pod{Spec: corev1.PodSpec{DNSPolicy: policy}}
			pod.Namespace = "default"
			d := PodDNS(pod, n)
			if len(d.Servers) > maxServers || len(d.Searches) > maxSearches || len(strings.Join(d.Searches, " ")) > maxSearchChars {
				t.Errorf("%s of %q: %d servers, %d searches", policy, text, len(d.Servers), len(d.Searches))
			}
			for _, word := range append(append(d.Servers[:len(d.Servers):len(d.Servers)], d.Searches...), d.Options...) {
				if word == "" || strings.ContainsAny(word, " \t\n#;") {
					t.Errorf("%s of %q: %q", policy, text, word)
				}
			}
		}
		var b strings.Builder
		for _, s := range n.Resolv.Servers {
			b.WriteString("nameserver " + s + "\n")
		}
		if again := ParseResolv(b.String()); len(again.Servers) != len(n.Resolv.Servers) {
			t.Errorf("%q: %q became %q", text, n.Resolv.Servers, again.Servers)
		}
	})
}
