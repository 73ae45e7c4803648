package openapi_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
	explain "k8s.io/kubectl/pkg/explain/v2"
	kubectlopenapi "k8s.io/kubectl/pkg/util/openapi"
	"k8s.io/utils/ptr"

	"proa/api"
	"proa/api/openapi"
)

var docs = openapi.New(api.Builtin())

func inflate(t *testing.T, data []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// decoded keeps what v3 read: the documents are large.
var decoded = map[schema.GroupVersion]*spec3.OpenAPI{}

func v3(t *testing.T, gv schema.GroupVersion) (*spec3.OpenAPI, string) {
	t.Helper()
	doc, ok, err := docs.V3(gv)
	if err != nil || !ok {
		t.Fatal(gv, ok, err)
	}
	text := inflate(t, doc.Gzip)
	if decoded[gv] == nil {
		out := &spec3.OpenAPI{}
		if err := json.Unmarshal(text, out); err != nil {
			t.Fatal(err)
		}
		decoded[gv] = out
	}
	return decoded[gv], string(text)
}

// Every document is OpenAPI, refers to nothing that is not in it, and describes
// each served Go type field by field.
func TestV3Whole(t *testing.T) {
	for gv, served := range api.Builtin().Groups() {
		t.Run(gv.String(), func(t *testing.T) {
			doc, text := v3(t, gv)
			for _, after := range strings.Split(text, `"$ref":"#/components/schemas/`)[1:] {
				name, _, _ := strings.Cut(after, `"`)
				if doc.Components.Schemas[name] == nil {
					t.Errorf("reference to missing %s", name)
				}
			}
			for _, s := range served {
				obj := s.New()
				if s.As != nil {
					obj = s.As.New()
				}
				name := openapi.ModelName(obj)
				schema := doc.Components.Schemas[name]
				if schema == nil {
					t.Errorf("no schema for %s", s.GVK())
					continue
				}
				for _, f := range jsonFields(reflect.TypeOf(obj).Elem()) {
					if _, ok := schema.Properties[f]; !ok {
						t.Errorf("%s has no property %s", name, f)
					}
				}
				if schema.Extensions["x-kubernetes-group-version-kind"] == nil {
					t.Errorf("%s does not say its kind", name)
				}
			}
		})
	}
}

func jsonFields(t reflect.Type) []string {
	var out []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		switch {
		case t.Field(i).Anonymous && name == "":
			out = append(out, jsonFields(t.Field(i).Type)...)
		case name != "-" && name != "":
			out = append(out, name)
		}
	}
	return out
}

// The embedded definitions know every field of every type that they describe:
// they were not forgotten when the modules changed.
func TestDefinitionsCurrent(t *testing.T) {
	all := map[string]map[string]json.RawMessage{}
	for gv := range api.Builtin().Groups() {
		doc, _ := v3(t, gv)
		for name, s := range doc.Components.Schemas {
			data, _ := json.Marshal(s.Properties)
			props := map[string]json.RawMessage{}
			json.Unmarshal(data, &props)
			all[name] = props
		}
	}
	seen := map[reflect.Type]bool{}
	for _, typ := range openapi.Types(api.Builtin()) {
		checkType(t, typ, all, seen)
	}
	if len(seen) < 500 {
		t.Errorf("only %d types were compared", len(seen))
	}
}

func checkType(t *testing.T, typ reflect.Type, all map[string]map[string]json.RawMessage, seen map[reflect.Type]bool) {
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		checkType(t, typ.Elem(), all, seen)
		return
	case reflect.Struct:
	default:
		return
	}
	if seen[typ] {
		return
	}
	seen[typ] = true
	props, ok := all[openapi.ModelName(reflect.New(typ).Interface())]
	_, opaque := reflect.New(typ).Interface().(json.Marshaler)
	if ok && !opaque {
		for _, f := range jsonFields(typ) {
			if _, ok := props[f]; !ok {
				t.Errorf("%s has no field %q: run go generate ./api/openapi", typ, f)
			}
		}
	}
	for i := range typ.NumField() {
		checkType(t, typ.Field(i).Type, all, seen)
	}
}

// What an older Kubernetes documented is still there under the same names.
func TestSameOperationsAsUpstream(t *testing.T) {
	for file, gv := range map[string]schema.GroupVersion{
		"api__v1_openapi.json":        {Version: "v1"},
		"apis__apps__v1_openapi.json": {Group: "apps", Version: "v1"},
	} {
		theirs := &spec3.OpenAPI{}
		data, err := os.ReadFile(filepath.Join(moduleDir(t, "k8s.io/client-go"), "openapi/openapitest/testdata", file))
		if err != nil {
			t.Skip("client-go's test data is not here: ", err)
		}
		if err := json.Unmarshal(data, theirs); err != nil {
			t.Fatal(err)
		}
		ours, _ := v3(t, gv)
		have := operationIDs(ours)
		for id, path := range operationIDs(theirs) {
			if have[id] != path {
				t.Errorf("%s is at %q, not at %s", id, have[id], path)
			}
		}
	}
}

func operationIDs(doc *spec3.OpenAPI) map[string]string {
	out := map[string]string{}
	for path, p := range doc.Paths.Paths {
		for _, op := range []*spec3.Operation{p.Get, p.Put, p.Post, p.Delete, p.Patch} {
			if op != nil {
				out[op.OperationId] = path
			}
		}
	}
	return out
}

func moduleDir(t *testing.T, module string) string {
	t.Helper()
	data, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(data), module+" ")
	version, _, _ := strings.Cut(after, "\n")
	cache := os.Getenv("GOMODCACHE")
	if cache == "" {
		home, _ := os.UserHomeDir()
		cache = filepath.Join(home, "go/pkg/mod")
	}
	return filepath.Join(cache, module+"@"+version)
}

func server(t *testing.T) (*httptest.Server, *discovery.DiscoveryClient) {
	t.Helper()
	srv := httptest.NewServer(docs)
	t.Cleanup(srv.Close)
	client, err := discovery.NewDiscoveryClientForConfig(&rest.Config{Host: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	return srv, client
}

// kubectl's own code explains a field out of the document.
func TestKubectlExplains(t *testing.T) {
	_, client := server(t)
	for _, c := range []struct {
		gvr    schema.GroupVersionResource
		fields []string
		want   []string
	}{
		{schema.GroupVersionResource{Version: "v1", Resource: "pods"}, []string{"spec", "restartPolicy"}, []string{"KIND:       Pod", "FIELD: restartPolicy <string>", "Always", "Never"}},
		{schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, []string{"spec"}, []string{"GROUP:      apps", "selector\t<LabelSelector> -required-", "strategy\t<DeploymentStrategy>"}},
		{schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}, nil, []string{"CustomResourceDefinition", "spec\t<CustomResourceDefinitionSpec>"}},
	} {
		var out bytes.Buffer
		if err := explain.PrintModelDescription(c.fields, &out, client.OpenAPIV3(), c.gvr, false, 0, "plaintext"); err != nil {
			t.Errorf("%v: %v", c.gvr, err)
		}
		for _, want := range c.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%v: no %q in\n%s", c.gvr, want, out.String())
			}
		}
	}
}

// kubectl leaves validation to the server when it finds the parameter.
func TestKubectlFindsFieldValidation(t *testing.T) {
	_, client := server(t)
	for _, param := range []resource.VerifiableQueryParam{resource.QueryParamFieldValidation, "dryRun"} {
		v := resource.NewQueryParamVerifierV3(nil, client.OpenAPIV3(), param)
		for gv, served := range api.Builtin().Groups() {
			for _, s := range served {
				if s.Verbs != nil && !slices.Contains(s.Verbs, "patch") {
					continue
				}
				if err := v.HasSupport(gv.WithKind(s.GVK().Kind)); err != nil {
					t.Errorf("%s of %s: %v", param, s.GVK(), err)
				}
			}
		}
	}
}

// kubectl of old reads the one document of v2, in protobuf.
func TestV2ForOldClients(t *testing.T) {
	_, client := server(t)
	doc, err := client.OpenAPISchema()
	if err != nil {
		t.Fatal(err)
	}
	schemas, err := kubectlopenapi.NewOpenAPIData(doc)
	if err != nil {
		t.Fatal(err)
	}
	for gv, served := range api.Builtin().Groups() {
		for _, s := range served {
			if schemas.LookupResource(gv.WithKind(s.GVK().Kind)) == nil {
				t.Errorf("v2 has no schema of %s", s.GVK())
			}
		}
	}
	pod := schemas.LookupResource(schema.GroupVersionKind{Version: "v1", Kind: "Pod"})
	if pod == nil || !strings.Contains(pod.GetDescription(), "Pod is a collection of containers") {
		t.Errorf("pod: %v", pod)
	}
}

// Parameters that many paths have are told once, and every reference leads to
// one.
func TestV2Parameters(t *testing.T) {
	doc, err := openapi.New(api.Builtin()).V2()
	if err != nil {
		t.Fatal(err)
	}
	data := inflate(t, doc.Gzip)
	if len(data) > 2_500_000 {
		t.Errorf("the document has %d bytes, more than upstream's", len(data))
	}
	var v2 struct {
		Parameters map[string]json.RawMessage
		Paths      map[string]map[string]any
	}
	if err := json.Unmarshal(data, &v2); err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for name := range v2.Parameters {
		if strings.Count(text, `"#/parameters/`+name+`"`) == 0 {
			t.Errorf("nothing refers to %s", name)
		}
	}
	for _, piece := range strings.Split(text, `"#/parameters/`)[1:] {
		if name, _, _ := strings.Cut(piece, `"`); v2.Parameters[name] == nil {
			t.Errorf("%s is not there", name)
		}
	}
	list := v2.Paths["/api/v1/pods"]
	if len(list["parameters"].([]any)) < 12 || list["get"].(map[string]any)["parameters"] != nil {
		t.Errorf("the parameters of a path with one operation belong to the path: %v", list)
	}
}

// Names with a hash are good for ever, old ones lead to the new one, and a
// client that has the document is told so.
func TestCaching(t *testing.T) {
	srv, _ := server(t)
	get := func(url string, header ...string) *http.Response {
		req, _ := http.NewRequest("GET", srv.URL+url, nil)
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	var index struct {
		Paths map[string]struct {
			ServerRelativeURL string `json:"serverRelativeURL"`
		}
	}
	if err := json.NewDecoder(get("/openapi/v3").Body).Decode(&index); err != nil {
		t.Fatal(err)
	}
	url := index.Paths["apis/apps/v1"].ServerRelativeURL
	good := get(url)
	if good.StatusCode != 200 || good.Header.Get("Cache-Control") != "public, immutable" {
		t.Errorf("%s: %s %v", url, good.Status, good.Header)
	}
	if r := get(url, "If-None-Match", good.Header.Get("Etag")); r.StatusCode != 304 {
		t.Errorf("known: %s", r.Status)
	}
	if r := get("/openapi/v3/apis/apps/v1?hash=old"); r.StatusCode != 301 || r.Header.Get("Location") != url {
		t.Errorf("old hash: %s %s", r.Status, r.Header.Get("Location"))
	}
	if r := get("/openapi/v3/apis/none/v1"); r.StatusCode != 404 {
		t.Errorf("unserved: %s", r.Status)
	}
	if r := get("/openapi/v2", "Accept", "text/html"); r.StatusCode != 406 {
		t.Errorf("html: %s", r.Status)
	}
}

// A custom resource appears with its row, under a new hash, and goes with it.
func TestCustomResource(t *testing.T) {
	reg, err := api.NewRegistry(api.Rows()...)
	if err != nil {
		t.Fatal(err)
	}
	d := openapi.New(reg)
	gv := schema.GroupVersion{Group: "stable.example.com", Version: "v1"}
	if _, ok, _ := d.V3(gv); ok {
		t.Fatal("described before it was there")
	}
	row := customRow(t, gv)
	if err := reg.Replace(nil, []*api.Resource{row}); err != nil {
		t.Fatal(err)
	}
	doc, ok, err := d.V3(gv)
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	out := &spec3.OpenAPI{}
	if err := json.Unmarshal(inflate(t, doc.Gzip), out); err != nil {
		t.Fatal(err)
	}
	s := out.Components.Schemas["com.example.stable.v1.CronTab"]
	if s == nil || s.Properties["spec"].Properties["cron"].Type[0] != "string" || s.Properties["metadata"].AllOf == nil {
		t.Fatalf("schema: %+v", s)
	}
	if pod := s.Properties["spec"].Properties["pod"]; pod.Properties["metadata"].AllOf == nil || len(pod.Required) != 2 {
		t.Errorf("embedded object: %+v", pod)
	}
	checkCustomV2(t, d)
	if err := reg.Replace([]*api.Resource{row}, nil); err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := d.V3(gv); ok {
		t.Error("described after it went")
	}
}

// In v2 what is open or may be null has no type, and nothing has alternatives.
func checkCustomV2(t *testing.T, d *openapi.Documents) {
	t.Helper()
	doc, err := d.V2()
	if err != nil {
		t.Fatal(err)
	}
	var v2 struct {
		Definitions map[string]spec.Schema
		Paths       map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(inflate(t, doc.Gzip), &v2); err != nil {
		t.Fatal(err)
	}
	if _, ok := v2.Definitions["com.example.stable.v1.CronTabList"]; !ok {
		t.Error("no list")
	}
	for _, name := range []string{"com.example.stable.v1.CronTab", "com.example.stable.v1.CronTabList"} {
		if v2.Definitions[name].Extensions["x-kubernetes-selectable-fields"] == nil {
			t.Errorf("%s does not say what can be selected by", name)
		}
	}
	var get struct{ Produces []string }
	if err := json.Unmarshal(v2.Paths["/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}"]["get"], &get); err != nil || slices.Contains(get.Produces, "application/vnd.kubernetes.protobuf") || !slices.Contains(get.Produces, "application/yaml") {
		t.Errorf("a custom resource is read as %v", get)
	}
	s := v2.Definitions["com.example.stable.v1.CronTab"].Properties["spec"]
	if !slices.Equal(s.Required, []string{"cron"}) || s.Properties["cron"].Type[0] != "string" {
		t.Errorf("spec: %+v", s)
	}
	for _, name := range []string{"maybe", "open", "count"} {
		if p := s.Properties[name]; p.Type != nil || p.Properties != nil || p.AnyOf != nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

func customRow(t *testing.T, gv schema.GroupVersion) *api.Resource {
	t.Helper()
	own, err := json.Marshal(apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
		"spec": {Type: "object", Required: []string{"cron", "maybe"}, Properties: map[string]apiextensionsv1.JSONSchemaProps{
			"cron":  {Type: "string"},
			"maybe": {Type: "string", Nullable: true},
			"open":  {Type: "object", XPreserveUnknownFields: ptr.To(true), Properties: map[string]apiextensionsv1.JSONSchemaProps{"x": {Type: "string"}}},
			"pod":   {Type: "object", XEmbeddedResource: true},
			"count": {AnyOf: []apiextensionsv1.JSONSchemaProps{{Type: "integer"}, {Type: "string"}}, XIntOrString: true},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	own = append(own[:len(own)-1], `,"x-kubernetes-selectable-fields":[{"fieldPath":"spec.cron"}]}`...)
	return &api.Resource{
		Group: gv.Group, Version: gv.Version, Kind: "CronTab", Plural: "crontabs", Namespaced: true, Custom: &api.Custom{Edition: "1"},
		New:     func() api.Object { return &unstructured.Unstructured{} },
		NewList: func() runtime.Object { return &unstructured.UnstructuredList{} },
		Schema:  func(string) []byte { return own },
	}
}

func BenchmarkV3Core(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		doc, _, err := openapi.New(api.Builtin()).V3(schema.GroupVersion{Version: "v1"})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(doc.Gzip)), "bytes")
	}
}

func BenchmarkV2(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		doc, err := openapi.New(api.Builtin()).V2()
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(doc.Gzip)), "bytes")
	}
}

func BenchmarkIndex(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := docs.Index(); err != nil {
			b.Fatal(err)
		}
	}
}
