package custom_test

import (
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
)

const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}
    selectableFields: [{jsonPath: .spec.colour}]
    additionalPrinterColumns:
    - {name: Colour, type: string, jsonPath: .spec.colour}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            required: [colour]
            x-kubernetes-validations:
            - {rule: "self.replicas <= 10", message: "too many"}
            - {rule: "oldSelf.colour == self.colour || self.colour != 'red'", messageExpression: "'may not turn red from ' + oldSelf.colour"}
            properties:
              colour: {type: string, enum: [red, green, blue]}
              replicas: {type: integer, default: 1, minimum: 0}
              port: {x-kubernetes-int-or-string: true}
              note: {type: string, nullable: true}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
              items:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties: {name: {type: string}, value: {type: string}}
          status:
            type: object
            properties: {replicas: {type: integer}, selector: {type: string}, phase: {type: string}}
`

const redWidget = `
apiVersion: example.com/v1
kind: Widget
metadata: {name: w, labels: {a: b}}
spec: {colour: green, port: 80, unknown: 1, free: {x: {deep: 1}}}
status: {phase: lost}
`

// TestLife goes through what is done to a custom resource, from its definition
// to its end.
func TestLife(t *testing.T) {
	h := start(t)
	h.define(widgets)
	client := h.dynamic.Resource(gvr("example.com", "v1", "widgets")).Namespace("default")
	made, err := client.Create(t.Context(), object(t, redWidget), metav1.CreateOptions{})
	must(t, err)
	if n, _, _ := unstructured.NestedInt64(made.Object, "spec", "replicas"); n != 1 {
		t.Errorf("the default is missing: %v", made.Object)
	}
	if _, found, _ := unstructured.NestedFieldNoCopy(made.Object, "spec", "unknown"); found {
		t.Errorf("an unknown field was kept: %v", made.Object)
	}
	if _, found, _ := unstructured.NestedFieldNoCopy(made.Object, "spec", "free", "x", "deep"); !found {
		t.Errorf("a free field was lost: %v", made.Object)
	}
	if _, found := made.Object["status"]; found || made.GetGeneration() != 1 {
		t.Errorf("status and generation: %v", made.Object)
	}

	patched, err := client.Patch(t.Context(), "w", types.MergePatchType, []byte(`{"spec":{"replicas":3}}`), metav1.PatchOptions{})
	must(t, err)
	if patched.GetGeneration() != 2 {
		t.Errorf("generation is %d after a change of the spec", patched.GetGeneration())
	}
	_, err = client.Patch(t.Context(), "w", types.MergePatchType, []byte(`{"spec":{"replicas":30}}`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) || err.Error() != `Widget.example.com "w" is invalid: spec: Invalid value: too many` {
		t.Errorf("breaking a rule: %v", err)
	}
	_, err = client.Patch(t.Context(), "w", types.MergePatchType, []byte(`{"spec":{"colour":"red"}}`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) || err.Error() != `Widget.example.com "w" is invalid: spec: Invalid value: may not turn red from green` {
		t.Errorf("breaking a transition rule: %v", err)
	}
	_, err = client.Patch(t.Context(), "w", types.StrategicMergePatchType, []byte(`{}`), metav1.PatchOptions{})
	if !apierrors.IsUnsupportedMediaType(err) {
		t.Errorf("a strategic merge patch: %v", err)
	}

	withStatus, err := client.Patch(t.Context(), "w", types.MergePatchType, []byte(`{"spec":{"replicas":9},"status":{"replicas":2,"selector":"a=b"}}`), metav1.PatchOptions{}, "status")
	must(t, err)
	if n, _, _ := unstructured.NestedInt64(withStatus.Object, "spec", "replicas"); n != 3 || withStatus.GetGeneration() != 2 {
		t.Errorf("the status endpoint wrote the spec: %v", withStatus.Object)
	}
	scale, err := client.Patch(t.Context(), "w", types.MergePatchType, []byte(`{"spec":{"replicas":5}}`), metav1.PatchOptions{}, "scale")
	must(t, err)
	if n, _, _ := unstructured.NestedInt64(scale.Object, "status", "replicas"); n != 2 || scale.GetKind() != "Scale" {
		t.Errorf("scale: %v", scale.Object)
	}
	got, err := client.Get(t.Context(), "w", metav1.GetOptions{})
	must(t, err)
	if n, _, _ := unstructured.NestedInt64(got.Object, "spec", "replicas"); n != 5 {
		t.Errorf("scale did not write the replicas: %v", got.Object)
	}
	selectAndRemove(h, client, got)
}

// selectAndRemove is the second half of TestLife.
func selectAndRemove(h *harness, client dynamic.ResourceInterface, got *unstructured.Unstructured) {
	t := h.T
	list, err := client.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.colour=green"})
	must(t, err)
	none, err := client.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.colour=blue"})
	must(t, err)
	if len(list.Items) != 1 || len(none.Items) != 0 {
		t.Errorf("selecting by field: %d and %d", len(list.Items), len(none.Items))
	}
	got.SetResourceVersion("")
	if _, err := client.Update(t.Context(), got, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("an update without resourceVersion: %v", err)
	}
	h.remove("widgets.example.com")
	if _, err := client.Get(t.Context(), "w", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after its definition went: %v", err)
	}
	if h.registry.ByKey("example.com/widgets") != nil {
		t.Error("the row is still there")
	}
}

// remove deletes a definition and waits until it is gone.
func (h *harness) remove(name string) {
	h.Helper()
	crds := h.crds.ApiextensionsV1().CustomResourceDefinitions()
	must(h, crds.Delete(h.Context(), name, metav1.DeleteOptions{}))
	h.eventually(name+" is gone", func() bool {
		_, err := crds.Get(h.Context(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	h.eventually(name+" is served no more", func() bool {
		return h.get("/apis/example.com/v1/widgets").code == 404
	})
}

// TestNames has two definitions of a group want the same names.
func TestNames(t *testing.T) {
	h := start(t)
	h.define(widgets)
	second := definition(t, widgets)
	second.Name, second.Spec.Names.Plural, second.Spec.Names.ShortNames = "gadgets.example.com", "gadgets", []string{"wd"}
	crds := h.crds.ApiextensionsV1().CustomResourceDefinitions()
	_, err := crds.Create(t.Context(), second, metav1.CreateOptions{})
	must(t, err)
	h.eventually("the conflict shows", func() bool {
		crd, err := crds.Get(t.Context(), second.Name, metav1.GetOptions{})
		must(t, err)
		return conditionOf(crd, apiextensionsv1.NamesAccepted) == "False ListKindConflict" && conditionOf(crd, apiextensionsv1.Established) == "False NotAccepted"
	})
	if code := h.get("/apis/example.com/v1/gadgets").code; code != 404 {
		t.Errorf("a definition without names is served: %d", code)
	}
	h.remove("widgets.example.com")
	h.established(second.Name)
	if code := h.get("/apis/example.com/v1/gadgets").code; code != 200 {
		t.Errorf("the freed names are not taken: %d", code)
	}
}
