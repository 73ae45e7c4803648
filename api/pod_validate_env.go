package api

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The fields that the downward API can show, in the environment and in files.
var (
	envFields = []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
	fileFields = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
	// downwardResources, a "hugepages-" suffix aside, are those of both.
	downwardResources = []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory",
		"requests.cpu", "requests.ephemeral-storage", "requests.memory"}
)

func (c *podCheck) env(list []corev1.EnvVar, at *field.Path) field.ErrorList {
	return each(list, at, func(e *corev1.EnvVar, at *field.Path) field.ErrorList {
		errs := required(e.Name, at.Child("name"))
		errs = append(errs, optionally(e.Name, validation.IsRelaxedEnvVarName, at.Child("name"))...)
		if e.ValueFrom == nil {
			return errs
		}
		return append(errs, c.envSource(e, at.Child("valueFrom"))...)
	})
}

func (c *podCheck) envSource(e *corev1.EnvVar, at *field.Path) field.ErrorList {
	from, n := e.ValueFrom, 0
	var errs field.ErrorList
	if f := from.FieldRef; f != nil {
		n++
		errs = append(errs, validateFieldRef(f, envFields, at.Child("fieldRef"))...)
	}
	if f := from.ResourceFieldRef; f != nil {
		n++
		errs = append(errs, validateResourceFieldRef(f, false, at.Child("resourceFieldRef"))...)
	}
	if f := from.ConfigMapKeyRef; f != nil {
		n++
		errs = append(errs, validateKeyRef(f.Name, f.Key, at.Child("configMapKeyRef"))...)
	}
	if f := from.SecretKeyRef; f != nil {
		n++
		errs = append(errs, validateKeyRef(f.Name, f.Key, at.Child("secretKeyRef"))...)
	}
	if f := from.FileKeyRef; f != nil {
		n++
		errs = append(errs, c.fileKeyRef(f, at.Child("fileKeyRef"))...)
	}
	switch {
	case n == 0:
		return append(errs, field.Invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case e.Value != "":
		return append(errs, field.Invalid(at, "", "may not be specified when `value` is not empty"))
	case n > 1:
		return append(errs, field.Invalid(at, "", "may not have more than one field specified at a time"))
	}
	return errs
}

// subscripted splits "metadata.labels['app']".
func subscripted(path string) (field, key string, ok bool) {
	head, rest, found := strings.Cut(path, "['")
	key, closed := strings.CutSuffix(rest, "']")
	return head, key, found && closed
}

func validateFieldRef(f *corev1.ObjectFieldSelector, known []string, at *field.Path) field.ErrorList {
	if f.APIVersion == "" {
		return field.ErrorList{field.Required(at.Child("apiVersion"), "")}
	}
	p := at.Child("fieldPath")
	if f.FieldPath == "" {
		return field.ErrorList{field.Required(p, "")}
	}
	if f.APIVersion != "v1" {
		return field.ErrorList{field.Invalid(p, f.FieldPath, "error converting fieldPath: no downward API fields in version "+f.APIVersion)}
	}
	if head, key, ok := subscripted(f.FieldPath); ok {
		return validateSubscript(head, key, f.FieldPath, p)
	}
	if slices.Contains(known, f.FieldPath) {
		return nil
	}
	if !slices.Contains(envFields, f.FieldPath) && !slices.Contains(fileFields, f.FieldPath) && !strings.HasPrefix(f.FieldPath, "status.") {
		return field.ErrorList{field.Invalid(p, f.FieldPath, "error converting fieldPath: field label not supported: "+f.FieldPath)}
	}
	return field.ErrorList{field.NotSupported(p, f.FieldPath, known)}
}

func validateSubscript(head, key, path string, at *field.Path) field.ErrorList {
	switch head {
	case "metadata.annotations":
		return invalidEach(key, at, validation.IsQualifiedName(strings.ToLower(key)))
	case "metadata.labels":
		return invalidEach(key, at, validation.IsQualifiedName(key))
	}
	return field.ErrorList{field.Invalid(at, path, "does not support subscript")}
}

func validateResourceFieldRef(f *corev1.ResourceFieldSelector, inVolume bool, at *field.Path) field.ErrorList {
	if inVolume && f.ContainerName == "" {
		return field.ErrorList{field.Required(at.Child("containerName"), "")}
	}
	if f.Resource == "" {
		return field.ErrorList{field.Required(at.Child("resource"), "")}
	}
	_, name, _ := strings.Cut(f.Resource, ".")
	if !slices.Contains(downwardResources, f.Resource) && !strings.HasPrefix(name, corev1.ResourceHugePagesPrefix) {
		return field.ErrorList{field.NotSupported(at.Child("resource"), f.Resource, downwardResources)}
	}
	return validateDivisor(name, f.Divisor, at.Child("divisor"))
}

var (
	cpuDivisors    = sets.New("1m", "1")
	memoryDivisors = sets.New("1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")
)

func validateDivisor(name string, q resource.Quantity, at *field.Path) field.ErrorList {
	if q.IsZero() { // stands for 1
		return nil
	}
	if name == "cpu" && !cpuDivisors.Has(q.String()) {
		return field.ErrorList{field.Invalid(at, q.String(), "only divisor's values 1m and 1 are supported with the cpu resource")}
	}
	if name != "cpu" && !memoryDivisors.Has(q.String()) {
		return field.ErrorList{field.Invalid(at, q.String(), "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the "+name+" resource")}
	}
	return nil
}

func validateKeyRef(name, key string, at *field.Path) field.ErrorList {
	errs := invalidEach(name, at.Child("name"), subdomain(name, false))
	if key == "" {
		return append(errs, field.Required(at.Child("key"), ""))
	}
	return append(errs, invalidEach(key, at.Child("key"), validation.IsConfigMapKey(key))...)
}

func (c *podCheck) fileKeyRef(f *corev1.FileKeySelector, at *field.Path) field.ErrorList {
	errs := slices.Concat(required(f.VolumeName, at.Child("volumeName")), required(f.Path, at.Child("path")), inside(f.Path, at.Child("path")))
	if f.Key == "" {
		errs = append(errs, field.Required(at.Child("key"), ""))
	} else {
		errs = append(errs, invalidEach(f.Key, at.Child("key"), validation.IsRelaxedEnvVarName(f.Key))...)
	}
	errs = append(errs, optionally(f.VolumeName, validation.IsDNS1123Label, at.Child("volumeName"))...)
	switch v, ok := c.volumes[f.VolumeName]; {
	case !ok:
		errs = append(errs, field.NotFound(at.Child("volumeName"), f.VolumeName))
	case v.EmptyDir == nil:
		errs = append(errs, field.Invalid(at.Child("volumeName"), f.VolumeName, "referenced volume must be of type emptyDir"))
	}
	return errs
}

// validateEnvFrom: that a source is missing or double is published without the
// item's index.
func validateEnvFrom(list []corev1.EnvFromSource, all *field.Path) field.ErrorList {
	return each(list, all, func(e *corev1.EnvFromSource, at *field.Path) field.ErrorList {
		errs := optionally(e.Prefix, validation.IsRelaxedEnvVarName, at.Child("prefix"))
		if e.ConfigMapRef != nil {
			errs = append(errs, named(e.ConfigMapRef.Name, subdomain, at.Child("configMapRef", "name"))...)
		}
		if e.SecretRef != nil {
			errs = append(errs, named(e.SecretRef.Name, subdomain, at.Child("secretRef", "name"))...)
		}
		switch {
		case e.ConfigMapRef != nil && e.SecretRef != nil:
			errs = append(errs, field.Invalid(all, "", "may not have more than one field specified at a time"))
		case e.ConfigMapRef == nil && e.SecretRef == nil:
			errs = append(errs, field.Invalid(all, "", "must specify one of: `configMapRef` or `secretRef`"))
		}
		return errs
	})
}
