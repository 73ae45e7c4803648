package api

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func configMapRow() *Resource {
	return kind[*corev1.ConfigMap]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "configmaps", Short: []string{"cm"}, Namespaced: true,
		List:           &corev1.ConfigMapList{},
		Validate:       validateConfigMap,
		ValidateUpdate: validateConfigMapUpdate,
		Columns: columns(nameColumn,
			column("Data", "string", corev1.ConfigMap{}.SwaggerDoc()["data"]),
			ageColumn),
		Cells: func(c *corev1.ConfigMap, now time.Time) []any {
			return []any{c.Name, int64(len(c.Data) + len(c.BinaryData)), age(c, now)}
		},
	}.row()
}

func validateConfigMap(c *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	total := 0
	for key, value := range inOrder(c.Data) {
		at := field.NewPath("data").Key(key)
		errs = append(errs, invalidEach(key, at, validation.IsConfigMapKey(key))...)
		if _, twice := c.BinaryData[key]; twice {
			errs = append(errs, field.Invalid(at, key, "duplicate of key present in binaryData"))
		}
		total += len(value)
	}
	for key, value := range inOrder(c.BinaryData) {
		errs = append(errs, invalidEach(key, field.NewPath("binaryData").Key(key), validation.IsConfigMapKey(key))...)
		total += len(value)
	}
	if total > corev1.MaxSecretSize { // one bound for both kinds
		errs = append(errs, field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
	}
	return errs
}

func validateConfigMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	if !ptr.Deref(old.Immutable, false) {
		return nil
	}
	errs := sealed(ptr.Deref(c.Immutable, false))
	errs = append(errs, sealedField(c.Data, old.Data, "data")...)
	return append(errs, sealedField(c.BinaryData, old.BinaryData, "binaryData")...)
}

const sealedDetail = "field is immutable when `immutable` is set"

// sealed judges the flag of an object that has been made immutable: it stays.
func sealed(still bool) field.ErrorList {
	if still {
		return nil
	}
	return field.ErrorList{field.Forbidden(field.NewPath("immutable"), sealedDetail)}
}

func sealedField(now, was any, name string) field.ErrorList {
	if len(immutable(now, was, nil)) == 0 {
		return nil
	}
	return field.ErrorList{field.Forbidden(field.NewPath(name), sealedDetail)}
}
