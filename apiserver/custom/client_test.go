package custom_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// TestApply has two managers share a list whose key the schema names.
func TestApply(t *testing.T) {
	h := start(t)
	h.define(widgets)
	client := h.dynamic.Resource(gvr("example.com", "v1", "widgets")).Namespace("default")
	item := func(name, value string) *unstructured.Unstructured {
		return object(t, fmt.Sprintf("{apiVersion: example.com/v1, kind: Widget, metadata: {name: w}, spec: {colour: blue, items: [{name: %s, value: '%s'}]}}", name, value))
	}
	_, err := client.Apply(t.Context(), "w", item("a", "1"), metav1.ApplyOptions{FieldManager: "one"})
	must(t, err)
	got, err := client.Apply(t.Context(), "w", item("b", "2"), metav1.ApplyOptions{FieldManager: "two"})
	must(t, err)
	items, _, _ := unstructured.NestedSlice(got.Object, "spec", "items")
	if len(items) != 2 {
		t.Errorf("the list was not merged by its key: %v", items)
	}
	_, err = client.Apply(t.Context(), "w", item("a", "3"), metav1.ApplyOptions{FieldManager: "two"})
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "one": .spec.items[name="a"].value`) {
		t.Errorf("taking another's field: %v", err)
	}
	_, err = client.Apply(t.Context(), "w", item("a", "3"), metav1.ApplyOptions{FieldManager: "two", Force: true})
	must(t, err)
	bad := object(t, "{apiVersion: example.com/v1, kind: Widget, metadata: {name: w}, spec: {colour: blue, nonsense: 1}}")
	if _, err = client.Apply(t.Context(), "w", bad, metav1.ApplyOptions{FieldManager: "one"}); err == nil || !strings.Contains(err.Error(), ".spec.nonsense: field not declared in schema") {
		t.Errorf("an undeclared field: %v", err)
	}
	again, err := client.Apply(t.Context(), "w", item("a", "3"), metav1.ApplyOptions{FieldManager: "two"})
	must(t, err)
	once, err := client.Apply(t.Context(), "w", item("a", "3"), metav1.ApplyOptions{FieldManager: "two"})
	must(t, err)
	if again.GetResourceVersion() != once.GetResourceVersion() {
		t.Error("an apply that changes nothing was written")
	}
}

const validated = `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"w","extra":1},"spec":{"colour":"red","colour":"blue","unknown":1}}`

// TestFieldValidation sends duplicate and unknown fields.
func TestFieldValidation(t *testing.T) {
	h := start(t)
	h.define(widgets)
	const path = "/apis/example.com/v1/namespaces/default/widgets?dryRun=All&fieldValidation="
	strict := h.do("POST", path+"Strict", validated)
	want := `Widget in version "v1" cannot be handled as a Widget: strict decoding error: duplicate field "spec.colour", unknown field "metadata.extra", unknown field "spec.unknown"`
	if strict.code != 400 || strict.status(t).Message != want {
		t.Errorf("strict: %d %s", strict.code, strict.body)
	}
	warn := h.do("POST", path+"Warn", validated)
	if warn.code != 201 || len(warn.warnings) != 3 || !strings.Contains(warn.warnings[0], `duplicate field \"spec.colour\"`) {
		t.Errorf("warn: %d %q", warn.code, warn.warnings)
	}
	if ignore := h.do("POST", path+"Ignore", validated); ignore.code != 201 || len(ignore.warnings) != 0 {
		t.Errorf("ignore: %d %q", ignore.code, ignore.warnings)
	}
	yaml := h.do("POST", path+"Strict", "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\nspec:\n  colour: red\n  more: 1\n", "Content-Type", "application/yaml")
	if yaml.code != 400 || !strings.Contains(yaml.status(t).Message, `unknown field "spec.more"`) {
		t.Errorf("yaml: %d %s", yaml.code, yaml.body)
	}
	if a := h.do("POST", path+"Strict", `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"w","labels":{"a":1}},"spec":{"colour":"red"}}`); a.code != 400 {
		t.Errorf("labels that are no strings: %d %s", a.code, a.body)
	}
}

// TestShapes asks for the answers that kubectl and others ask for.
func TestShapes(t *testing.T) {
	h := start(t)
	h.define(widgets)
	client := h.dynamic.Resource(gvr("example.com", "v1", "widgets")).Namespace("default")
	_, err := client.Create(t.Context(), object(t, redWidget), metav1.CreateOptions{})
	must(t, err)
	const path = "/apis/example.com/v1/namespaces/default/widgets"
	var table metav1.Table
	must(t, json.Unmarshal(h.get(path, "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").body, &table))
	if len(table.ColumnDefinitions) != 4 || fmt.Sprint(table.Rows[0].Cells[:3]) != "[w green 1]" {
		t.Errorf("table: %v %v", table.ColumnDefinitions, table.Rows[0].Cells)
	}
	meta := h.get(path, "Accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").object(t)
	if meta["kind"] != "PartialObjectMetadataList" {
		t.Errorf("metadata: %v", meta)
	}
	if a := h.get(path, "Accept", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"); a.code != 200 {
		t.Errorf("metadata in protobuf: %d %s", a.code, a.body)
	}
	for _, f := range []string{"application/yaml", "application/cbor"} {
		if a := h.get(path+"/w", "Accept", f); a.code != 200 || a.header.Get("Content-Type") != f {
			t.Errorf("%s: %d %s", f, a.code, a.header)
		}
		if a := h.get(path, "Accept", f); a.code != 200 {
			t.Errorf("list as %s: %d %s", f, a.code, a.body)
		}
	}
	if a := h.get(path+"/w", "Accept", "application/vnd.kubernetes.protobuf"); a.code != 406 {
		t.Errorf("protobuf: %d", a.code)
	}
	if list := h.get(path).object(t); list["kind"] != "WidgetList" || list["apiVersion"] != "example.com/v1" {
		t.Errorf("list: %v", list)
	}
	if a := h.do("PATCH", path+"/w", "{}", "Content-Type", "application/strategic-merge-patch+json"); a.code != 415 ||
		!strings.Contains(a.status(t).Message, "accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml, application/apply-patch+cbor") {
		t.Errorf("strategic merge patch: %s", a.body)
	}
}

// TestDiscovery finds the resource in all documents, and not when it is gone.
func TestDiscovery(t *testing.T) {
	h := start(t)
	h.define(widgets)
	var list metav1.APIResourceList
	must(t, json.Unmarshal(h.get("/apis/example.com/v1").body, &list))
	var names []string
	for _, r := range list.APIResources {
		names = append(names, r.Name+" "+r.Kind)
	}
	if fmt.Sprint(names) != "[widgets Widget widgets/status Widget widgets/scale Scale]" {
		t.Errorf("resources %q", names)
	}
	if r := list.APIResources[0]; r.SingularName != "widget" || fmt.Sprint(r.ShortNames, r.Categories) != "[wd] [all]" {
		t.Errorf("names %v", r)
	}
	aggregated := h.get("/apis", "Accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
	if !strings.Contains(string(aggregated.body), `"widgets"`) {
		t.Errorf("the aggregated document has no widgets")
	}
	if !strings.Contains(string(aggregated.body), `{"resource":"widgets","responseKind":{"group":"example.com","version":"v1","kind":"Widget"}`) {
		t.Errorf("the aggregated document does not say what widgets are")
	}
	if schema := string(h.registry.ByKey("example.com/widgets").Schema("v1")); !strings.Contains(schema, `"x-kubernetes-selectable-fields":[{"fieldPath":"spec.colour"}]`) {
		t.Errorf("the schema does not say what can be selected by: %s", schema)
	}
	h.remove("widgets.example.com")
	if code := h.get("/apis/example.com").code; code != 404 {
		t.Errorf("the group answers %d after its definition went", code)
	}
}

// TestRatcheting changes a schema under an object.
func TestRatcheting(t *testing.T) {
	h := start(t)
	h.define(widgets)
	client := h.dynamic.Resource(gvr("example.com", "v1", "widgets")).Namespace("default")
	_, err := client.Create(t.Context(), object(t, "{apiVersion: example.com/v1, kind: Widget, metadata: {name: w}, spec: {colour: green}}"), metav1.CreateOptions{})
	must(t, err)
	h.redefine("widgets.example.com", func(crd *apiextensionsv1.CustomResourceDefinition) {
		spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
		colour := spec.Properties["colour"]
		colour.Enum = []apiextensionsv1.JSON{{Raw: []byte(`"red"`)}}
		spec.Properties["colour"] = colour
		spec.Properties["late"] = apiextensionsv1.JSONSchemaProps{Type: "string", Default: &apiextensionsv1.JSON{Raw: []byte(`"x"`)}}
		spec.XValidations = append(spec.XValidations, apiextensionsv1.ValidationRule{Rule: "self.colour != 'green'", Message: "no green"})
		crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"] = spec
	})
	got, err := client.Get(t.Context(), "w", metav1.GetOptions{})
	must(t, err)
	if late, _, _ := unstructured.NestedString(got.Object, "spec", "late"); late != "x" {
		t.Errorf("what was stored before has no new default: %v", got.Object)
	}
	for _, sub := range []string{"", "/status"} {
		a := h.do("PATCH", widgetPath+"/w"+sub, `{"metadata":{"labels":{"x":"y`+strings.Trim(sub, "/")+`"}}}`, "Content-Type", "application/merge-patch+json")
		if a.code != 200 || len(a.warnings) != 1 || !strings.Contains(a.warnings[0], "spec: Invalid value: no green") {
			t.Errorf("what was wrong before%s: %d %q", sub, a.code, a.warnings)
		}
	}
	_, err = client.Patch(t.Context(), "w", types.MergePatchType, []byte(`{"spec":{"colour":"blue"}}`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `spec.colour: Unsupported value: "blue": supported values: "red"`) {
		t.Errorf("a new wrong value: %v", err)
	}
}

// TestRestart finds definitions and objects again, with the first request: who
// has seen /readyz may count on them.
func TestRestart(t *testing.T) {
	h := start(t)
	h.define(widgets)
	_, err := h.dynamic.Resource(gvr("example.com", "v1", "widgets")).Namespace("default").Create(t.Context(), object(t, redWidget), metav1.CreateOptions{})
	must(t, err)
	h.stop()
	h = openOn(t, h.fs, nil)
	if a := h.get("/apis/example.com/v1/namespaces/default/widgets/w"); a.code != 200 {
		t.Errorf("the first request: %d %s", a.code, a.body)
	}
	if a := h.get("/apis/example.com/v1"); a.code != 200 || !strings.Contains(string(a.body), `"widgets/scale"`) {
		t.Errorf("discovery at first: %d %s", a.code, a.body)
	}
	h.eventually("the server is ready", func() bool { return h.get("/readyz").code == 200 })
	got, err := h.dynamic.Resource(gvr("example.com", "v1", "widgets")).Namespace("default").Get(t.Context(), "w", metav1.GetOptions{})
	must(t, err)
	if c, _, _ := unstructured.NestedString(got.Object, "spec", "colour"); c != "green" {
		t.Errorf("after a restart: %v", got.Object)
	}
	h.remove("widgets.example.com")
}

// TestBadDefinitions sends definitions that must be refused, each in its words.
func TestBadDefinitions(t *testing.T) {
	h := start(t)
	for name, c := range map[string]struct {
		spoil func(*apiextensionsv1.CustomResourceDefinition)
		want  string
	}{
		"name":    {func(c *apiextensionsv1.CustomResourceDefinition) { c.Name = "x.example.com" }, `metadata.name: Invalid value: "x.example.com": must be spec.names.plural+"."+spec.group`},
		"storage": {func(c *apiextensionsv1.CustomResourceDefinition) { c.Spec.Versions[0].Storage = false }, "must have exactly one version marked as storage version"},
		"unknown": {func(c *apiextensionsv1.CustomResourceDefinition) { c.Spec.PreserveUnknownFields = true }, "spec.preserveUnknownFields: Invalid value: true: must be false"},
		"schema":  {func(c *apiextensionsv1.CustomResourceDefinition) { c.Spec.Versions[0].Schema = nil }, "spec.versions[0].schema.openAPIV3Schema: Required value"},
		"compile": {addRule("self.nonsense == 1"), "undefined field 'nonsense'"},
		"column": {func(c *apiextensionsv1.CustomResourceDefinition) {
			c.Spec.Versions[0].AdditionalPrinterColumns[0].JSONPath = "x"
		}, "must be a simple json path starting with ."},
		"approval": {func(c *apiextensionsv1.CustomResourceDefinition) {
			c.Name, c.Spec.Group = "widgets.x.k8s.io", "x.k8s.io"
		}, "protected groups must have approval annotation"},
		"webhook": {func(c *apiextensionsv1.CustomResourceDefinition) {
			c.Spec.Conversion = &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter}
		}, "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook"},
		"cost": {func(c *apiextensionsv1.CustomResourceDefinition) {
			spec := c.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
			spec.Properties["list"] = apiextensionsv1.JSONSchemaProps{Type: "array", XListType: ptr.To("atomic"), Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &apiextensionsv1.JSONSchemaProps{Type: "string"}}}
			addRule("self.list.all(a, self.list.all(b, self.list.all(c, a + b != c)))")(c)
		}, "estimated rule cost exceeds budget"},
	} {
		t.Run(name, func(t *testing.T) {
			crd := definition(t, widgets)
			c.spoil(crd)
			_, err := h.crds.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), crd, metav1.CreateOptions{})
			if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if err != nil && strings.Count(err.Error(), c.want) > 1 {
				t.Errorf("said twice: %v", err)
			}
		})
	}
}

func addRule(rule string) func(*apiextensionsv1.CustomResourceDefinition) {
	return func(c *apiextensionsv1.CustomResourceDefinition) {
		spec := c.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
		spec.XValidations = append(spec.XValidations, apiextensionsv1.ValidationRule{Rule: rule, Message: "no"})
		c.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"] = spec
	}
}
