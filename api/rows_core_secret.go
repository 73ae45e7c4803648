package api

import (
	"cmp"
	"encoding/json"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func secretRow() *Resource {
	return kind[*corev1.Secret]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "secrets", Namespaced: true,
		List:           &corev1.SecretList{},
		Warnings:       warnSecret,
		Default:        defaultSecret,
		Validate:       validateSecret,
		ValidateUpdate: validateSecretUpdate,
		Columns: columns(nameColumn,
			column("Type", "string", corev1.Secret{}.SwaggerDoc()["type"]),
			column("Data", "string", corev1.Secret{}.SwaggerDoc()["data"]),
			ageColumn),
		Cells: func(s *corev1.Secret, now time.Time) []any {
			return []any{s.Name, string(s.Type), int64(len(s.Data)), age(s, now)}
		},
		Fields: func(s *corev1.Secret) fields.Set { return fields.Set{"type": string(s.Type)} },
	}.row()
}

// defaultSecret also moves stringData, which is never stored, into data.
func defaultSecret(s *corev1.Secret) {
	s.Type = cmp.Or(s.Type, corev1.SecretTypeOpaque)
	if s.Data == nil && len(s.StringData) > 0 {
		s.Data = map[string][]byte{}
	}
	for key, value := range s.StringData {
		s.Data[key] = []byte(value)
	}
	s.StringData = nil
}

func validateSecret(s *corev1.Secret) field.ErrorList {
	data := field.NewPath("data")
	var errs field.ErrorList
	total := 0
	for key, value := range inOrder(s.Data) {
		errs = append(errs, invalidEach(key, data.Key(key), validation.IsConfigMapKey(key))...)
		total += len(value)
	}
	if total > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(data, "", corev1.MaxSecretSize))
	}
	return append(errs, validateSecretType(s, data)...)
}

// validateSecretType asks for what the well-known types promise their readers.
func validateSecretType(s *corev1.Secret, data *field.Path) field.ErrorList {
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			return field.ErrorList{field.Required(metaPath.Child("annotations").Key(corev1.ServiceAccountNameKey), "")}
		}
	case corev1.SecretTypeDockercfg:
		return needJSON(s, corev1.DockerConfigKey, data)
	case corev1.SecretTypeDockerConfigJson:
		return needJSON(s, corev1.DockerConfigJsonKey, data)
	case corev1.SecretTypeBasicAuth:
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		_, password := s.Data[corev1.BasicAuthPasswordKey]
		if !user && !password {
			return field.ErrorList{field.Required(data.Key(corev1.BasicAuthUsernameKey), ""), field.Required(data.Key(corev1.BasicAuthPasswordKey), "")}
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			return field.ErrorList{field.Required(data.Key(corev1.SSHAuthPrivateKey), "")}
		}
	case corev1.SecretTypeTLS:
		return append(needKey(s, corev1.TLSCertKey, data), needKey(s, corev1.TLSPrivateKeyKey, data)...)
	}
	return nil
}

func needKey(s *corev1.Secret, key string, data *field.Path) field.ErrorList {
	if _, ok := s.Data[key]; !ok {
		return field.ErrorList{field.Required(data.Key(key), "")}
	}
	return nil
}

// needJSON does not show the value in its error: it is a secret.
func needJSON(s *corev1.Secret, key string, data *field.Path) field.ErrorList {
	if errs := needKey(s, key, data); len(errs) > 0 {
		return errs
	}
	if err := json.Unmarshal(s.Data[key], &map[string]any{}); err != nil {
		return field.ErrorList{field.Invalid(data.Key(key), "<secret contents redacted>", err.Error())}
	}
	return nil
}

func validateSecretUpdate(s, old *corev1.Secret) field.ErrorList {
	errs := immutable(s.Type, old.Type, field.NewPath("type"))
	if !deref(old.Immutable, false) {
		return errs
	}
	errs = append(errs, sealed(deref(s.Immutable, false))...)
	return append(errs, sealedField(s.Data, old.Data, "data")...)
}

func serviceAccountRow() *Resource {
	return kind[*corev1.ServiceAccount]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "serviceaccounts", Short: []string{"sa"}, Namespaced: true,
		List:     &corev1.ServiceAccountList{},
		Warnings: warnServiceAccount,
		// Of the references to secrets only the names mean something.
		PrepareCreate: func(s *corev1.ServiceAccount) { onlyNames(s.Secrets) },
		PrepareUpdate: func(s, _ *corev1.ServiceAccount) { onlyNames(s.Secrets) },
		Subresources: []Subresource{{
			Name: "token", Verbs: []string{"create"},
			Kind: schema.GroupVersionKind{Group: "authentication.k8s.io", Version: "v1", Kind: "TokenRequest"},
		}},
	}.row()
}

func onlyNames(refs []corev1.ObjectReference) {
	for i := range refs {
		refs[i] = corev1.ObjectReference{Name: refs[i].Name}
	}
}
