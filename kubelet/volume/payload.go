package volume

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/kubelet/spec"
)

// file is one file of a volume whose content the kubelet writes.
type file struct {
	data []byte
	mode fs.FileMode
	uid  int // -1: root, and the pod's fsGroup
}

// payload makes the files of a volume, by path.
func (m *Manager) payload(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (map[string]file, time.Time, error) {
	p := &payload{m: m, pod: pod, files: map[string]file{}}
	var err error
	switch {
	case v.ConfigMap != nil:
		p.mode = modeOf(v.ConfigMap.DefaultMode)
		err = p.configMap(v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.Optional)
	case v.Secret != nil:
		p.mode = modeOf(v.Secret.DefaultMode)
		err = p.secret(v.Secret.SecretName, v.Secret.Items, v.Secret.Optional)
	case v.DownwardAPI != nil:
		p.mode = modeOf(v.DownwardAPI.DefaultMode)
		err = p.downward(v.DownwardAPI.Items)
	case v.Projected != nil:
		p.mode = modeOf(v.Projected.DefaultMode)
		err = p.projected(ctx, v)
	default:
		err = fmt.Errorf("no volume plugin matched")
	}
	return p.files, p.renew, err
}

type payload struct {
	m     *Manager
	pod   *corev1.Pod
	mode  fs.FileMode
	files map[string]file
	renew time.Time
}

func modeOf(m *int32) fs.FileMode {
	if m == nil {
		return 0o644
	}
	return fs.FileMode(*m) & fs.ModePerm
}

func (p *payload) put(path string, data []byte, mode *int32) {
	f := file{data: data, mode: p.mode, uid: -1}
	if mode != nil {
		f.mode = modeOf(mode)
	}
	p.files[path] = f
}

func (p *payload) configMap(name string, items []corev1.KeyToPath, optional *bool) error {
	cm := p.m.Sources.ConfigMap(p.pod.Namespace, name)
	if cm == nil {
		return missing(optional, "configmap %q not found", name)
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	maps.Copy(data, cm.BinaryData)
	return p.keys(data, items, optional)
}

func (p *payload) secret(name string, items []corev1.KeyToPath, optional *bool) error {
	s := p.m.Sources.Secret(p.pod.Namespace, name)
	if s == nil {
		return missing(optional, "secret %q not found", name)
	}
	return p.keys(s.Data, items, optional)
}

func missing(optional *bool, format string, args ...any) error {
	if optional != nil && *optional {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// keys are all of them, or those that items name.
func (p *payload) keys(data map[string][]byte, items []corev1.KeyToPath, optional *bool) error {
	if len(items) == 0 {
		for k, v := range data {
			p.put(k, v, nil)
		}
		return nil
	}
	for _, it := range items {
		v, ok := data[it.Key]
		if !ok {
			if err := missing(optional, "references non-existent config key: %s", it.Key); err != nil {
				return err
			}
			continue
		}
		p.put(it.Path, v, it.Mode)
	}
	return nil
}

func (p *payload) downward(items []corev1.DownwardAPIVolumeFile) error {
	for _, it := range items {
		var s string
		var err error
		if it.FieldRef != nil {
			s, err = spec.Field(p.pod, it.FieldRef.FieldPath, podIPs(p.pod), p.m.Node)
		} else if it.ResourceFieldRef != nil {
			s, err = spec.Resource(p.pod, nil, it.ResourceFieldRef, p.m.Node)
		}
		if err != nil {
			return err
		}
		p.put(it.Path, []byte(s), it.Mode)
	}
	return nil
}

func podIPs(pod *corev1.Pod) []string {
	var out []string
	for _, ip := range pod.Status.PodIPs {
		out = append(out, ip.IP)
	}
	return out
}

func (p *payload) projected(ctx context.Context, v *corev1.Volume) error {
	for i := range v.Projected.Sources {
		if err := p.source(ctx, v.Name, &v.Projected.Sources[i]); err != nil {
			return err
		}
	}
	return nil
}

func (p *payload) source(ctx context.Context, volume string, s *corev1.VolumeProjection) error {
	switch {
	case s.ConfigMap != nil:
		return p.configMap(s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional)
	case s.Secret != nil:
		return p.secret(s.Secret.Name, s.Secret.Items, s.Secret.Optional)
	case s.DownwardAPI != nil:
		return p.downward(s.DownwardAPI.Items)
	case s.ServiceAccountToken != nil:
		return p.token(ctx, volume, s.ServiceAccountToken)
	}
	return fmt.Errorf("a source of projected volume %q is of a kind that this node does not support", volume)
}

// token writes a token that only its user can read, where the pod has one user
// or an fsGroup; else everybody in the container can, as nobody knows who asks.
func (p *payload) token(ctx context.Context, volume string, s *corev1.ServiceAccountTokenProjection) error {
	t, err := p.m.token(ctx, p.pod, volume, s)
	if err != nil {
		return err
	}
	f := file{data: []byte(t.value), mode: p.mode, uid: -1}
	if user := soleUser(p.pod); user != nil {
		f.mode, f.uid = 0o600, int(*user)
	} else if fsGroup(p.pod) != nil {
		f.mode = 0o600
	}
	p.files[s.Path] = f
	if p.renew.IsZero() || t.renew.Before(p.renew) {
		p.renew = t.renew
	}
	return nil
}

// soleUser is the user that all containers of the pod run as, if the pod says so.
func soleUser(pod *corev1.Pod) *int64 {
	var users []int64
	known := true
	spec.EachContainer(pod, func(c *corev1.Container) {
		var u *int64
		if sc := pod.Spec.SecurityContext; sc != nil {
			u = sc.RunAsUser
		}
		if c.SecurityContext != nil && c.SecurityContext.RunAsUser != nil {
			u = c.SecurityContext.RunAsUser
		}
		if u == nil {
			known = false
		} else if !slices.Contains(users, *u) {
			users = append(users, *u)
		}
	})
	if !known || len(users) != 1 {
		return nil
	}
	return &users[0]
}
