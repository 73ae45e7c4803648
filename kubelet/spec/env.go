package spec

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Env is a container's environment, in order: Services, envFrom, env. Values may
// refer to variables before them as $(NAME); $$ is a plain $. Optional references
// that lead nowhere are left out; others are errors.
func Env(pod *corev1.Pod, c *corev1.Container, podIPs []string, n *Node, src Sources) ([]*cri.KeyValue, map[string]string, error) {
	e := &environment{values: map[string]string{}}
	e.services(pod, src)
	declared := map[string]string{}
	if err := e.from(pod, c, src, declared); err != nil {
		return nil, nil, err
	}
	for i := range c.Env {
		v := &c.Env[i]
		value, ok, err := value(pod, c, v, podIPs, n, src)
		if err != nil {
			return nil, nil, err
		}
		if v.ValueFrom == nil {
			value = Expand(v.Value, declared, e.values)
		}
		if ok {
			declared[v.Name] = value
			e.set(v.Name, value)
		}
	}
	out := make([]*cri.KeyValue, 0, len(e.order))
	for _, name := range e.order {
		out = append(out, &cri.KeyValue{Key: name, Value: []byte(e.values[name])})
	}
	return out, e.values, nil
}

// environment keeps the order in which names first came.
type environment struct {
	order  []string
	values map[string]string
}

func (e *environment) set(name, value string) {
	if _, ok := e.values[name]; !ok {
		e.order = append(e.order, name)
	}
	e.values[name] = value
}

func (e *environment) from(pod *corev1.Pod, c *corev1.Container, src Sources, declared map[string]string) error {
	for _, f := range c.EnvFrom {
		data, err := envSource(pod.Namespace, f, src)
		if err != nil {
			return err
		}
		for _, k := range slices.Sorted(maps.Keys(data)) {
			name := f.Prefix + k
			if len(validation.IsRelaxedEnvVarName(name)) > 0 {
				continue
			}
			declared[name] = data[k]
			e.set(name, data[k])
		}
	}
	return nil
}

func envSource(namespace string, f corev1.EnvFromSource, src Sources) (map[string]string, error) {
	switch {
	case f.ConfigMapRef != nil:
		cm := src.ConfigMap(namespace, f.ConfigMapRef.Name)
		if cm == nil && !isTrue(f.ConfigMapRef.Optional) {
			return nil, notFound("configmap", f.ConfigMapRef.Name)
		} else if cm != nil {
			return cm.Data, nil
		}
	case f.SecretRef != nil:
		s := src.Secret(namespace, f.SecretRef.Name)
		if s == nil && !isTrue(f.SecretRef.Optional) {
			return nil, notFound("secret", f.SecretRef.Name)
		} else if s != nil {
			return stringsOf(s.Data), nil
		}
	}
	return nil, nil
}

func stringsOf(data map[string][]byte) map[string]string {
	out := make(map[string]string, len(data))
	for k, v := range data {
		out[k] = string(v)
	}
	return out
}

func isTrue(b *bool) bool { return b != nil && *b }

// value is one variable's; ok is false for an optional reference to nothing.
func value(pod *corev1.Pod, c *corev1.Container, v *corev1.EnvVar, podIPs []string, n *Node, src Sources) (string, bool, error) {
	from := v.ValueFrom
	switch {
	case from == nil:
		return v.Value, true, nil
	case from.FieldRef != nil:
		s, err := Field(pod, from.FieldRef.FieldPath, podIPs, n)
		return s, true, err
	case from.ResourceFieldRef != nil:
		s, err := Resource(pod, c, from.ResourceFieldRef, n)
		return s, true, err
	case from.ConfigMapKeyRef != nil:
		return configMapKey(pod.Namespace, from.ConfigMapKeyRef, src)
	case from.SecretKeyRef != nil:
		return secretKey(pod.Namespace, from.SecretKeyRef, src)
	}
	return "", false, fmt.Errorf("environment variable %q has a source that this node does not support", v.Name)
}

func configMapKey(namespace string, r *corev1.ConfigMapKeySelector, src Sources) (string, bool, error) {
	cm := src.ConfigMap(namespace, r.Name)
	if cm == nil {
		return "", false, unless(r.Optional, notFound("configmap", r.Name))
	}
	if s, ok := cm.Data[r.Key]; ok {
		return s, true, nil
	}
	return "", false, unless(r.Optional, fmt.Errorf("couldn't find key %s in ConfigMap %s/%s", r.Key, namespace, r.Name))
}

func secretKey(namespace string, r *corev1.SecretKeySelector, src Sources) (string, bool, error) {
	s := src.Secret(namespace, r.Name)
	if s == nil {
		return "", false, unless(r.Optional, notFound("secret", r.Name))
	}
	if b, ok := s.Data[r.Key]; ok {
		return string(b), true, nil
	}
	return "", false, unless(r.Optional, fmt.Errorf("couldn't find key %s in Secret %s/%s", r.Key, namespace, r.Name))
}

func unless(optional *bool, err error) error {
	if isTrue(optional) {
		return nil
	}
	return err
}

// services adds the Docker-link style variables of the pod's namespace; those of
// default/kubernetes are always there.
func (e *environment) services(pod *corev1.Pod, src Sources) {
	all := map[string]*corev1.Service{}
	for _, s := range src.Services(metaDefault) {
		if s.Name == "kubernetes" {
			all[s.Name] = s
		}
	}
	if pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks {
		for _, s := range src.Services(pod.Namespace) {
			all[s.Name] = s
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		e.service(all[name])
	}
}

const metaDefault = corev1.NamespaceDefault

func (e *environment) service(s *corev1.Service) {
	ip := s.Spec.ClusterIP
	if ip == "" || ip == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
		return
	}
	base := envName(s.Name)
	e.set(base+"_SERVICE_HOST", ip)
	e.set(base+"_SERVICE_PORT", strconv.Itoa(int(s.Spec.Ports[0].Port)))
	for _, p := range s.Spec.Ports {
		if p.Name != "" {
			e.set(base+"_SERVICE_PORT_"+envName(p.Name), strconv.Itoa(int(p.Port)))
		}
	}
	for i, p := range s.Spec.Ports {
		proto := cmpOr(string(p.Protocol), "TCP")
		port := strconv.Itoa(int(p.Port))
		url := strings.ToLower(proto) + "://" + net.JoinHostPort(ip, port)
		if i == 0 {
			e.set(base+"_PORT", url)
		}
		prefix := base + "_PORT_" + port + "_" + strings.ToUpper(proto)
		e.set(prefix, url)
		e.set(prefix+"_PROTO", strings.ToLower(proto))
		e.set(prefix+"_PORT", port)
		e.set(prefix+"_ADDR", ip)
	}
}

func cmpOr(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func envName(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }

// Expand replaces $(NAME) by the first scope's value that knows the name, and $$
// by $; a name that nobody knows stays as it is written.
func Expand(s string, scopes ...map[string]string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || i+1 == len(s) {
			return b.String() + s
		}
		b.WriteString(s[:i])
		s = s[i+1:]
		end := strings.IndexByte(s, ')')
		switch {
		case s[0] == '$':
			b.WriteByte('$')
			s = s[1:]
		case s[0] == '(' && end > 0:
			b.WriteString(lookup(s[1:end], scopes))
			s = s[end+1:]
		default:
			b.WriteByte('$')
		}
	}
}

func lookup(name string, scopes []map[string]string) string {
	for _, m := range scopes {
		if v, ok := m[name]; ok {
			return v
		}
	}
	return "$(" + name + ")"
}

func expandAll(list []string, scope map[string]string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = Expand(s, scope)
	}
	return out
}
