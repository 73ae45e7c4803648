// Package published gathers the merge schemas of the built-in kinds from the modules
// that publish them, for the generator and for the test that what it made is
// current. proa itself does not link it.
package published

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	definitions "k8s.io/apiextensions-apiserver/pkg/client/applyconfiguration"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	builtin "k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	services "k8s.io/kube-aggregator/pkg/client/applyconfiguration"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
)

// Types are the types of all kinds, each once. Any typed value leads to the
// schema of its whole converter.
func Types() (all []schema.TypeDef, err error) {
	extensions, aggregated := runtime.NewScheme(), runtime.NewScheme()
	if err := errors.Join(apiextensionsv1.AddToScheme(extensions), apiregistrationv1.AddToScheme(aggregated)); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, from := range []struct {
		types managedfields.TypeConverter
		any   runtime.Object
	}{
		{builtin.NewTypeConverter(scheme.Scheme), &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}}},
		{definitions.NewTypeConverter(extensions), &apiextensionsv1.CustomResourceDefinition{
			TypeMeta: metav1.TypeMeta{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition"}}},
		{services.NewTypeConverter(aggregated), &apiregistrationv1.APIService{TypeMeta: metav1.TypeMeta{APIVersion: "apiregistration.k8s.io/v1", Kind: "APIService"}}},
	} {
		v, err := from.types.ObjectToTyped(from.any)
		if err != nil {
			return nil, err
		}
		for _, t := range v.Schema().Types {
			if !seen[t.Name] {
				seen[t.Name], all = true, append(all, t)
			}
		}
	}
	return all, nil
}
