package api

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// gone are the sources of volumes that do nothing any more, by the name that
// warnings have for them.
var gone = map[string]string{
	"photonPersistentDisk": "deprecated in v1.11, non-functional in v1.16+",
	"gitRepo":              "deprecated in v1.11, and disabled by default in v1.33+",
	"scaleIO":              "deprecated in v1.16, non-functional in v1.22+",
	"flocker":              "deprecated in v1.22, non-functional in v1.25+",
	"storageos":            "deprecated in v1.22, non-functional in v1.25+",
	"quobyte":              "deprecated in v1.22, non-functional in v1.25+",
	"glusterfs":            "deprecated in v1.25, non-functional in v1.26+",
	"cephfs":               "deprecated in v1.28, non-functional in v1.31+",
	"rbd":                  "deprecated in v1.28, non-functional in v1.31+",
}

// goneSources warns of members of a struct of alternatives.
func (w *warned) goneSources(union any, at *field.Path) {
	for _, name := range sources(union, nil) {
		message, ok := gone[name]
		if name == "storageos" {
			name = "storageOS"
		}
		if ok {
			w.add("%s: %s", at.Child(name), message)
		}
	}
}

func (w *warned) volume(v *corev1.Volume, at *field.Path) {
	w.goneSources(v.VolumeSource, at)
	if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
		w.claim(&v.Ephemeral.VolumeClaimTemplate.Spec, at.Child("ephemeral", "volumeClaimTemplate", "spec"))
	}
	if s := v.ConfigMap; s != nil {
		w.overlaps(v.Name, fmt.Sprintf("ConfigMap %q", s.Name), keyPaths(s.Items, ""))
	}
	if s := v.Secret; s != nil {
		w.overlaps(v.Name, fmt.Sprintf("Secret %q", s.SecretName), keyPaths(s.Items, ""))
	}
	if s := v.DownwardAPI; s != nil {
		w.overlaps(v.Name, "DownwardAPI", downwardPaths(s.Items, ""))
	}
	if v.Projected == nil {
		return
	}
	var all []volumeFile
	for i := range v.Projected.Sources {
		s := &v.Projected.Sources[i]
		if *s == (corev1.VolumeProjection{}) {
			w.add("volume %q (Projected) has no sources provided", v.Name)
		}
		all = append(all, projectedFiles(s)...)
	}
	w.overlaps(v.Name, "Projected", all)
}

// claim: there is no part of a byte.
func (w *warned) claim(s *corev1.PersistentVolumeClaimSpec, at *field.Path) {
	for name, list := range inOrder(map[string]corev1.ResourceList{"requests": s.Resources.Requests, "limits": s.Resources.Limits}) {
		if q, ok := list[corev1.ResourceStorage]; ok && q.MilliValue()%1000 != 0 {
			w.add("%s: fractional byte value %q is invalid, must be an integer", at.Child("resources", name).Key(string(corev1.ResourceStorage)), q.String())
		}
	}
}

// volumeFile is a file in a volume, and what it comes from.
type volumeFile struct{ path, source string }

func (f volumeFile) String() string {
	if f.source == "" {
		return fmt.Sprintf("%q", f.path)
	}
	return fmt.Sprintf("%q (%s)", f.path, f.source)
}

func keyPaths(items []corev1.KeyToPath, source string) []volumeFile {
	var out []volumeFile
	for _, i := range items {
		out = append(out, volumeFile{i.Path, source})
	}
	return out
}

func downwardPaths(items []corev1.DownwardAPIVolumeFile, source string) []volumeFile {
	var out []volumeFile
	for _, i := range items {
		out = append(out, volumeFile{i.Path, source})
	}
	return out
}

func projectedFiles(s *corev1.VolumeProjection) []volumeFile {
	switch {
	case s.ConfigMap != nil && s.ConfigMap.Items != nil:
		return keyPaths(s.ConfigMap.Items, fmt.Sprintf("ConfigMap %q", s.ConfigMap.Name))
	case s.Secret != nil && s.Secret.Items != nil:
		return keyPaths(s.Secret.Items, fmt.Sprintf("Secret %q", s.Secret.Name))
	case s.DownwardAPI != nil && s.DownwardAPI.Items != nil:
		return downwardPaths(s.DownwardAPI.Items, "DownwardAPI")
	case s.ServiceAccountToken != nil:
		return []volumeFile{{s.ServiceAccountToken.Path, "ServiceAccountToken"}}
	case s.ClusterTrustBundle != nil:
		b := s.ClusterTrustBundle
		return []volumeFile{{b.Path, fmt.Sprintf("ClusterTrustBundle %q", deref(b.Name, deref(b.SignerName, "")))}}
	case s.PodCertificate != nil:
		c := s.PodCertificate
		return []volumeFile{{c.CertificateChainPath, "PodCertificate chain"}, {c.KeyPath, "PodCertificate key"}, {c.CredentialBundlePath, "PodCertificate credential bundle"}}
	}
	return nil
}

// overlaps: a file at or below the place of another.
func (w *warned) overlaps(volume, what string, files []volumeFile) {
	var before []volumeFile
	for _, f := range files {
		if f.path = strings.TrimRight(f.path, "/"); f.path == "" {
			continue
		}
		for _, b := range before {
			if strings.HasPrefix(b.path+"/", f.path+"/") || strings.HasPrefix(f.path+"/", b.path+"/") {
				w.add("volume %q (%s): overlapping paths: %s with %s", volume, what, f, b)
			}
		}
		before = append(before, f)
	}
}

// ports: the same port or name twice in a pod.
func (w *warned) ports(s *corev1.PodSpec, at *field.Path) {
	type key struct {
		port     int32
		protocol corev1.Protocol
	}
	type seen struct {
		at   *field.Path
		port corev1.ContainerPort
	}
	ports, names := map[key][]seen{}, map[string]*field.Path{}
	for place, c := range allContainers(s) {
		for i, p := range c.Ports {
			at := place.below(at).Child("ports").Index(i)
			if p.HostIP != "" && p.HostPort == 0 {
				w.add("%s: hostIP set without hostPort: %+v", at, p)
			}
			k := key{p.ContainerPort, p.Protocol}
			for _, o := range ports[k] {
				switch {
				case p.HostIP == o.port.HostIP && p.HostPort == o.port.HostPort:
					w.add("%s: duplicate port definition with %s", at, o.at)
				case p.HostPort == 0 || o.port.HostPort == 0:
					w.add("%s: overlapping port definition with %s", at, o.at)
				case p.HostPort == o.port.HostPort && (p.HostIP == "") != (o.port.HostIP == ""):
					w.add("%s: dangerously ambiguous port definition with %s", at, o.at)
				}
			}
			ports[k] = append(ports[k], seen{at, p})
			if other, ok := names[p.Name]; ok && p.Name != "" {
				w.add("%s: duplicate port name %q with %s, services and probes that select ports by name will use %s", at, p.Name, other, other)
			} else {
				names[p.Name] = at
			}
		}
	}
}
