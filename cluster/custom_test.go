package cluster

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"

	"proa/client"
)

func cogDefinition() *apiextensionsv1.CustomResourceDefinition {
	version := func(name string, stored bool) apiextensionsv1.CustomResourceDefinitionVersion {
		return apiextensionsv1.CustomResourceDefinitionVersion{Name: name, Served: true, Storage: stored, Schema: &apiextensionsv1.CustomResourceValidation{
			OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: ptr.To(true)}}}
	}
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "cogs.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
			Names:    apiextensionsv1.CustomResourceDefinitionNames{Plural: "cogs", Kind: "Cog"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{version("v1alpha1", true), version("v1", false)},
		},
	}
}

func cog(namespace, name string, owners ...metav1.OwnerReference) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1alpha1", "kind": "Cog", "teeth": int64(3)}}
	u.SetNamespace(namespace)
	u.SetName(name)
	u.SetOwnerReferences(owners)
	return u
}

func ownedBy(apiVersion, kind string, obj client.Object) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: obj.GetName(), UID: obj.GetUID()}
}

func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for too long: %s", what)
		}
	}
}

// TestControllersKnowCustomResources has garbage collection, quota and namespace
// deletion work on a kind that came while they ran.
func TestControllersKnowCustomResources(t *testing.T) {
	p := up(t, dirs(t))
	c := p.Client("test")
	create := func(obj client.Object) client.Object {
		t.Helper()
		out, err := c.Create(t.Context(), obj)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	defer removeCogs(t, c)
	create(cogDefinition())
	soon(t, "the definition is served", func() bool { return c.Registry().ByKey("example.com/cogs") != nil })
	row := c.Registry().ByKey("example.com/cogs")
	cogs := func(name string) client.Object { return c.View().Get(row, "default", name) }

	owner := create(cog("default", "owner"))
	create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "owned", OwnerReferences: []metav1.OwnerReference{ownedBy("example.com/v1", "Cog", owner)}}})
	lord := create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "lord"}})
	create(cog("default", "owned", ownedBy("v1", "ConfigMap", lord)))
	create(cog("default", "shared", ownedBy("v1", "ConfigMap", lord), ownedBy("example.com/v1", "Cog", owner)))
	if err := c.Delete(t.Context(), c.Registry().ByKey("configmaps"), client.KeyOf(lord), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	soon(t, "a custom resource goes with its owner", func() bool { return cogs("owned") == nil })
	soon(t, "a lost owner is forgotten", func() bool { return len(cogs("shared").GetOwnerReferences()) == 1 })
	if u := cogs("shared").(*unstructured.Unstructured); u.Object["teeth"] != int64(3) || u.GetAPIVersion() != "example.com/v1alpha1" {
		t.Errorf("the collector spoiled the object: %v", u.Object)
	}
	if err := c.Delete(t.Context(), row, client.KeyOf(owner), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	soon(t, "what a custom resource owns goes with it", func() bool {
		return client.Get[corev1.ConfigMap](c.View(), "default", "owned") == nil && cogs("shared") == nil
	})

	create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "room"}})
	create(&corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "room", Name: "q"},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/cogs.example.com": resource.MustParse("1")}}})
	soon(t, "the quota is counted", func() bool {
		q := client.Get[corev1.ResourceQuota](c.View(), "room", "q")
		return q != nil && len(q.Status.Hard) == 1
	})
	create(cog("room", "one"))
	if _, err := c.Create(t.Context(), cog("room", "two")); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: q, requested: count/cogs.example.com=1, used: count/cogs.example.com=1, limited: count/cogs.example.com=1") {
		t.Errorf("beyond the quota: %v", err)
	}
	if err := c.Delete(t.Context(), c.Registry().ByKey("namespaces"), client.Key{Name: "room"}, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	soon(t, "the namespace goes with what is in it", func() bool { return client.Get[corev1.Namespace](c.View(), "", "room") == nil })
	if c.View().Get(row, "room", "one") != nil {
		t.Error("a custom resource outlived its namespace")
	}
}

// removeCogs leaves the table of kinds, which all clusters of a process share,
// as it was.
func removeCogs(t *testing.T, c client.Client) {
	crds := c.Registry().ByKey("apiextensions.k8s.io/customresourcedefinitions")
	if err := c.Delete(t.Context(), crds, client.Key{Name: "cogs.example.com"}, metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	soon(t, "the definition goes", func() bool { return c.Registry().ByKey("example.com/cogs") == nil })
}
