package spec

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type fixed struct {
	maps     map[string]*corev1.ConfigMap
	secrets  map[string]*corev1.Secret
	services map[string][]*corev1.Service
}

func (f fixed) ConfigMap(_, name string) *corev1.ConfigMap  { return f.maps[name] }
func (f fixed) Secret(_, name string) *corev1.Secret        { return f.secrets[name] }
func (f fixed) Services(namespace string) []*corev1.Service { return f.services[namespace] }

var node = &Node{Name: "n1", HostIPs: []string{"192.0.2.1"}, CgroupRoot: "proa", ClusterDNS: []string{"10.96.0.10"}, ClusterDomain: "cluster.local",
	Resolv:      DNS{Servers: []string{"9.9.9.9"}, Searches: []string{"corp.example"}},
	Allocatable: corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("8Gi")},
	Capacity:    corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("8Gi")}}

func pod() *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u1", Labels: map[string]string{"a": "1", "b": "2"}},
		Spec: corev1.PodSpec{NodeName: "n1", DNSPolicy: corev1.DNSClusterFirst, Containers: []corev1.Container{{Name: "app", Image: "i"}}}}
}

func TestExpand(t *testing.T) {
	vars := map[string]string{"A": "x", "B": "$(A)"}
	for in, want := range map[string]string{
		"plain": "plain", "$(A)": "x", "a$(A)b": "axb", "$$(A)": "$(A)", "$$$(A)": "$x", "$(NO)": "$(NO)", "$": "$", "$A": "$A", "$(A": "$(A",
		"$(B)": "$(A)", "$(A)$(A)": "xx", "$$": "$", "100$": "100$", "$(": "$(",
	} {
		if got := Expand(in, vars); got != want {
			t.Errorf("Expand(%q) = %q, want %q", in, got, want)
		}
	}
}

func envOf(t *testing.T, p *corev1.Pod, src Sources) string {
	t.Helper()
	kv, _, err := Env(p, &p.Spec.Containers[0], []string{"10.0.0.5"}, node, src)
	if err != nil {
		return "error: " + err.Error()
	}
	var out []string
	for _, e := range kv {
		out = append(out, e.Key+"="+string(e.Value))
	}
	return strings.Join(out, "\n")
}

func TestEnv(t *testing.T) {
	src := fixed{
		maps:    map[string]*corev1.ConfigMap{"cm": {Data: map[string]string{"K": "v", "L": "w"}}},
		secrets: map[string]*corev1.Secret{"s": {Data: map[string][]byte{"P": []byte("hush")}}},
		services: map[string][]*corev1.Service{
			"default": {{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Name: "https", Port: 443, Protocol: "TCP"}}}},
				{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.9", Ports: []corev1.ServicePort{{Port: 1}}}}},
			"ns": {{ObjectMeta: metav1.ObjectMeta{Name: "headless"}, Spec: corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Port: 1}}}}},
		},
	}
	p := pod()
	ref := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{Prefix: "CM_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref("cm")}}}
	p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"cpu": resource.MustParse("1500m")}
	p.Spec.Containers[0].Env = []corev1.EnvVar{
		{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
		{Name: "LABEL", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['b']"}}},
		{Name: "PASS", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref("s"), Key: "P"}}},
		{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}},
		{Name: "MEM", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}},
		{Name: "ALL", Value: "$(CM_K)/$(IP)/$(KUBERNETES_SERVICE_HOST)/$(LATER)"},
		{Name: "LATER", Value: "1"},
		{Name: "CM_K", Value: "over"},
	}
	want := `KUBERNETES_SERVICE_HOST=10.96.0.1
KUBERNETES_SERVICE_PORT=443
KUBERNETES_SERVICE_PORT_HTTPS=443
KUBERNETES_PORT=tcp://10.96.0.1:443
KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443
KUBERNETES_PORT_443_TCP_PROTO=tcp
KUBERNETES_PORT_443_TCP_PORT=443
KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1
CM_K=over
CM_L=w
IP=10.0.0.5
LABEL=2
PASS=hush
CPU=2
MEM=8192
ALL=v/10.0.0.5/10.96.0.1/$(LATER)
LATER=1`
	if got := envOf(t, p, src); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestMissingReferences(t *testing.T) {
	yes := true
	ref := corev1.LocalObjectReference{Name: "gone"}
	src := fixed{maps: map[string]*corev1.ConfigMap{"cm": {}}, services: nil}
	for want, v := range map[string]*corev1.EnvVarSource{
		`error: configmap "gone" not found`:             {ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref, Key: "k"}},
		`error: secret "gone" not found`:                {SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref, Key: "k"}},
		`error: couldn't find key k in ConfigMap ns/cm`: {ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Key: "k"}},
		`error: unsupported fieldPath: spec.nonsense`:   {FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.nonsense"}},
		``: {ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref, Key: "k", Optional: &yes}},
	} {
		p := pod()
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "X", ValueFrom: v}}
		if got := envOf(t, p, src); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestDNS(t *testing.T) {
	show := func(p *corev1.Pod) string {
		d := PodDNS(p, node)
		return strings.Join(d.Servers, ",") + " " + strings.Join(d.Searches, ",") + " " + strings.Join(d.Options, ",")
	}
	p := pod()
	if got := show(p); got != "10.96.0.10 ns.svc.cluster.local,svc.cluster.local,cluster.local,corp.example ndots:5" {
		t.Error(got)
	}
	two := "2"
	p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &two}, {Name: "edns0"}}}
	if got := show(p); got != "10.96.0.10,1.1.1.1 ns.svc.cluster.local,svc.cluster.local,cluster.local,corp.example ndots:2,edns0" {
		t.Error(got)
	}
	p.Spec.DNSPolicy = corev1.DNSNone
	if got := show(p); got != "1.1.1.1  ndots:2,edns0" {
		t.Error(got)
	}
	p.Spec.DNSConfig, p.Spec.DNSPolicy, p.Spec.HostNetwork = nil, corev1.DNSClusterFirst, true
	if got := show(p); got != "9.9.9.9 corp.example " {
		t.Error(got)
	}
	if got := ParseResolv("# c\nnameserver 1.2.3.4 # x\nsearch a b .\noptions ndots:1\nnameserver\n"); strings.Join(got.Searches, ",") != "a,b" || len(got.Servers) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestHostnames(t *testing.T) {
	yes := true
	p := pod()
	p.Spec.Hostname, p.Spec.Subdomain, p.Spec.SetHostnameAsFQDN = "web", "sub", &yes
	s, err := Sandbox(p, 0, node)
	if err != nil || s.Hostname != "web.sub.ns.svc.cluster.local" {
		t.Errorf("%v %v", s, err)
	}
	p.Spec.HostAliases = []corev1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"x", "y"}}}
	hosts := Hosts(p, []string{"10.0.0.5"}, node, "")
	if !strings.Contains(hosts, "10.0.0.5\tweb.sub.ns.svc.cluster.local\tweb\n") || !strings.Contains(hosts, "1.2.3.4\tx\ty\n") {
		t.Error(hosts)
	}
	p.Spec.Subdomain = strings.Repeat("s", 50)
	if _, err := Sandbox(p, 0, node); err == nil || !strings.Contains(err.Error(), "is too long (64 characters is the max") {
		t.Error(err)
	}
	p = pod()
	p.Name = strings.Repeat("n", 62) + "-.x"
	if host, _ := Hostname(p, node); host != strings.Repeat("n", 62) {
		t.Error(host)
	}
}

func withResources(requests, limits corev1.ResourceList) *corev1.Pod {
	p := pod()
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: requests, Limits: limits}
	return p
}

func TestResources(t *testing.T) {
	q := func(cpu, mem string) corev1.ResourceList {
		return corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(mem)}
	}
	for _, tc := range []struct {
		p      *corev1.Pod
		qos    corev1.PodQOSClass
		parent string
		oom    int64
		shares int64
		quota  int64
	}{
		{withResources(nil, nil), corev1.PodQOSBestEffort, "/proa/besteffort/podu1", 1000, 2, 0},
		{withResources(q("500m", "1Gi"), nil), corev1.PodQOSBurstable, "/proa/burstable/podu1", 875, 512, 0},
		{withResources(q("1", "1Gi"), q("1", "1Gi")), corev1.PodQOSGuaranteed, "/proa/podu1", -997, 1024, 100000},
		{withResources(q("1m", "1"), q("5m", "8Gi")), corev1.PodQOSBurstable, "/proa/burstable/podu1", 999, 2, 1000},
	} {
		r := ContainerResources(tc.p, &tc.p.Spec.Containers[0], node)
		if QOS(tc.p) != tc.qos || CgroupParent(tc.p, node) != tc.parent || r.OomScoreAdj != tc.oom || r.CpuShares != tc.shares || r.CpuQuota != tc.quota {
			t.Errorf("%s %s %+v", QOS(tc.p), CgroupParent(tc.p, node), r)
		}
	}
	if r := PodResources(withResources(q("500m", "1Gi"), nil)); r.MemoryLimitInBytes != 0 || r.CpuQuota != 0 || r.CpuShares != 512 {
		t.Errorf("%+v", r)
	}
	if r := PodResources(withResources(nil, q("2", "1Gi"))); r.MemoryLimitInBytes != 1<<30 || r.CpuQuota != 200000 {
		t.Errorf("%+v", r)
	}
}

func TestSecurity(t *testing.T) {
	yes, no, zero, user := true, false, int64(0), int64(1000)
	image := &cri.Image{Id: "i", Uid: &cri.Int64Value{Value: 0}}
	get := func(pod *corev1.PodSecurityContext, c *corev1.SecurityContext) (*cri.LinuxContainerSecurityContext, error) {
		p := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: pod, Containers: []corev1.Container{{Name: "app", SecurityContext: c}}}}
		return containerSecurity(p, &p.Spec.Containers[0], image)
	}
	s, err := get(&corev1.PodSecurityContext{RunAsUser: &zero, FSGroup: &user}, &corev1.SecurityContext{RunAsUser: &user, AllowPrivilegeEscalation: &no})
	if err != nil || s.RunAsUser.Value != 1000 || !s.NoNewPrivs || s.Seccomp.ProfileType != cri.SecurityProfile_RuntimeDefault || len(s.SupplementalGroups) != 1 || len(s.MaskedPaths) == 0 {
		t.Errorf("%+v %v", s, err)
	}
	if s, _ = get(nil, &corev1.SecurityContext{Privileged: &yes}); s.Seccomp.ProfileType != cri.SecurityProfile_Unconfined || len(s.MaskedPaths) != 0 {
		t.Errorf("%+v", s)
	}
	if _, err = get(&corev1.PodSecurityContext{RunAsNonRoot: &yes}, nil); err == nil || !strings.Contains(err.Error(), "container has runAsNonRoot and image will run as root") {
		t.Error(err)
	}
	if _, err = get(&corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &zero}, nil); err == nil || !strings.Contains(err.Error(), "container's runAsUser breaks non-root policy") {
		t.Error(err)
	}
	image = &cri.Image{Id: "i", Username: "web"}
	if _, err = get(&corev1.PodSecurityContext{RunAsNonRoot: &yes}, nil); err == nil || !strings.Contains(err.Error(), "non-numeric user (web)") {
		t.Error(err)
	}
}
