package apiserver_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	mapsPath       = "/api/v1/namespaces/default/configmaps"
	podsPath       = "/api/v1/namespaces/default/pods"
	limitsPath     = "/api/v1/namespaces/default/limitranges"
	crdsPath       = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	asJSON         = "application/json"
	asYAML         = "application/yaml"
	asCBOR         = "application/cbor"
	mergePatch     = "application/merge-patch+json"
	strategicPatch = "application/strategic-merge-patch+json"
	jsonPatch      = "application/json-patch+json"
	applyYAML      = "application/apply-patch+yaml"
	applyCBOR      = "application/apply-patch+cbor"
	cborMagic      = "\xd9\xd9\xf7"
)

// hostileBody is a body and how it is to be answered. Creates go to path, patches
// to an object below it.
type hostileBody struct {
	name, path, typ, body string
	code                  int
}

// send is a request with a body of any type, answered by the handler.
func (h *harness) send(method, path, contentType, body string) (int, metav1.Status, int) {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer root")
	r.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	h.Handler().ServeHTTP(w, r)
	var s metav1.Status
	_ = json.Unmarshal(w.Body.Bytes(), &s) // an object is no Status
	return w.Code, s, w.Body.Len()
}

// reasonOf is the reason that goes with a code.
var reasonOf = map[int][]metav1.StatusReason{
	400: {metav1.StatusReasonBadRequest}, 413: {metav1.StatusReasonRequestEntityTooLarge}, 415: {metav1.StatusReasonUnsupportedMediaType},
	422: {metav1.StatusReasonInvalid, ""}, // a JSON patch that does not apply has none, as upstream
}

// What one hostile body may cost: CPU time, so that other work on the machine does
// not count, and everything that is allocated on the way, not at once.
const (
	mostCPU       = time.Minute
	mostAllocated = 800 << 20
	mostAnswered  = 1 << 20
)

// raced tells that the race detector is at work.
var raced bool

// TestHostileBodies sends what is huge, deep, wide, ambiguous or cut off in every
// encoding: each is answered with an error of the right kind, at a bounded price.
func TestHostileBodies(t *testing.T) {
	if raced {
		t.Skip("the race detector multiplies the price; make unit runs this without it")
	}
	h := start(t)
	for path, body := range map[string]string{"/api/v1/namespaces/default/serviceaccounts": `{"metadata":{"name":"default"}}`, mapsPath: `{"metadata":{"name":"x","labels":{"a":"b"}},"data":{"k":"v"}}`} {
		if code, s, _ := h.send("POST", path, asJSON, body); code != 201 {
			t.Fatal(s)
		}
	}
	if code, s, _ := h.send("POST", podsPath, asJSON, `{"metadata":{"name":"x"},"spec":{"containers":[{"name":"a","image":"b"}]}}`); code != 201 {
		t.Fatal(s)
	}
	for _, list := range []func() []hostileBody{jsonBodies, yamlBodies, cborBodies, protobufBodies, jsonPatches, strategicPatches, applies, definitions} {
		for _, b := range list() {
			t.Run(b.name, func(t *testing.T) { h.bear(t, b) })
		}
	}
	h.well(t)
}

// bear sends the body and judges the answer and the price.
func (h *harness) bear(t *testing.T, b hostileBody) {
	method, path := "POST", b.path+"?dryRun=All&fieldValidation=Strict"
	if strings.Contains(b.typ, "patch") {
		method, path = "PATCH", b.path+"/x?fieldManager=f&dryRun=All"
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := cpuTime()
	code, s, answered := h.send(method, path, b.typ, b.body)
	took := cpuTime() - began
	runtime.ReadMemStats(&after)
	allocated := after.TotalAlloc - before.TotalAlloc
	t.Logf("%d %s, %v, %d MB, answer %d kB: %.150s", code, s.Reason, took, allocated>>20, answered>>10, s.Message)
	if code != b.code || code >= 400 && (s.Code != int32(code) || s.Status != metav1.StatusFailure || !slices.Contains(reasonOf[code], s.Reason)) {
		t.Errorf("%d %s, want %d: %.300s", code, s.Reason, b.code, s.Message)
	}
	if took > mostCPU || allocated > mostAllocated || answered > mostAnswered {
		t.Errorf("it took %v of CPU time and %d MB, and was answered with %d kB", took, allocated>>20, answered>>10)
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail for one's own process
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

var (
	nines = strings.Repeat("9", 3_000_000)
	big   = strings.Repeat("x", 4<<20)
)

// nest is n levels of open around what is innermost.
func nest(n int, open, inner, end string) string {
	return strings.Repeat(open, n) + inner + strings.Repeat(end, n)
}

// many is n times the format with its number.
func many(n int, format string) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

func jsonBodies() []hostileBody {
	meta := func(rest string) string { return `{"metadata":{"name":"m",` + rest + `}}` }
	containers := func(list string) string { return `{"metadata":{"name":"m"},"spec":{"containers":[` + list + `]}}` }
	limit := func(cpu string) string {
		return `{"metadata":{"name":"m"},"spec":{"limits":[{"type":"Pod","max":{"cpu":"` + cpu + `"}}]}}`
	}
	return []hostileBody{
		{"JSON huge", mapsPath, asJSON, `{"data":{"a":"` + big + `"}}`, 413},
		{"JSON brackets", mapsPath, asJSON, strings.Repeat("[", 3<<20), 400},
		{"JSON deep", mapsPath, asJSON, strings.Repeat(`{"a":`, 600_000), 400},
		{"JSON deep where text is", mapsPath, asJSON, `{"data":` + nest(9000, `{"a":`, "1", "}") + "}", 400},
		{"JSON long integer", mapsPath, asJSON, `{"metadata":{"generation":` + nines + "}}", 400},
		{"JSON long exponent", mapsPath, asJSON, `{"metadata":{"generation":1e` + nines + "}}", 400},
		{"JSON two values", mapsPath, asJSON, "{}{}", 400},
		{"JSON not UTF-8", mapsPath, asJSON, "{\"metadata\":{\"name\":\"\xff\"}}", 422},
		{"JSON in UTF-16", mapsPath, asJSON, "\xff\xfe{\x00}\x00", 400},
		{"JSON many unknown fields", mapsPath, asJSON, `{"metadata":{"name":"m"},` + many(50_000, `"f%d":1`) + `}`, 400},
		{"JSON one field again and again", mapsPath, asJSON, `{` + strings.Repeat(`"f":1,`, 100_000) + `"f":1}`, 400},
		{"JSON many labels", mapsPath, asJSON, meta(`"labels":{` + many(50_000, `"-%d":"-"`) + `}`), 422},
		{"JSON many finalizers", mapsPath, asJSON, meta(`"finalizers":[` + many(50_000, `"-%d"`) + `]`), 422},
		{"JSON many owners", mapsPath, asJSON, meta(`"ownerReferences":[` + strings.Repeat(`{},`, 200_000) + `{}]`), 422},
		{"JSON many managers", mapsPath, asJSON, meta(`"managedFields":[` + strings.Repeat(`{},`, 200_000) + `{}]`), 201},
		{"JSON deep managed fields", mapsPath, asJSON, meta(`"managedFields":[{"manager":"a","operation":"Apply","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":` + nest(9000, `{"f:a":`, "{}", "}") + `}]`), 201},
		{"JSON empty containers", podsPath, asJSON, containers(strings.Repeat("{},", 1_000_000) + "{}"), 400},
		{"JSON bad containers", podsPath, asJSON, containers(strings.Repeat("{},", 9_000) + "{}"), 422},
		{"JSON many bad containers", podsPath, asJSON, containers(strings.Repeat("{},", 90_000) + "{}"), 413},
		{"JSON long quantity", limitsPath, asJSON, limit(nines), 400},
		{"JSON long fraction", limitsPath, asJSON, limit("0." + nines), 400},
		{"JSON large quantity", limitsPath, asJSON, limit("1e999999999"), 201},
		{"HTML", mapsPath, "text/html", "{}", 415},
		{"no type", mapsPath, ";;;", "{}", 415},
	}
}

// aliases unfold to billions of values, inherited keys to as many lookups.
func aliases() string {
	var b strings.Builder
	b.WriteString("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\na0: &a0 [x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 9), ","))
	}
	return b.String()
}

func inherited() string {
	var b strings.Builder
	b.WriteString("a0: &a0 {" + many(1000, "k%d: v") + "}\n")
	for i := 1; i < 1000; i++ {
		fmt.Fprintf(&b, "a%d: &a%d {<<: *a%d, z%d: 1}\n", i, i, i-1, i)
	}
	return b.String()
}

func yamlBodies() []hostileBody {
	var blocks strings.Builder
	for i := range 2400 {
		blocks.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return []hostileBody{
		{"YAML huge", mapsPath, asYAML, `data: {a: "` + big + `"}`, 413},
		{"YAML brackets", mapsPath, asYAML, strings.Repeat("[", 3<<20), 400},
		{"YAML braces", mapsPath, asYAML, strings.Repeat("{a: ", 700_000), 400},
		{"YAML dashes", mapsPath, asYAML, strings.Repeat("- ", 1_500_000), 400},
		{"YAML question marks", mapsPath, asYAML, strings.Repeat("? ", 1_500_000), 400},
		{"YAML deep blocks", mapsPath, asYAML, blocks.String(), 400},
		{"YAML aliases", mapsPath, asYAML, aliases(), 400},
		{"YAML inherited keys", mapsPath, asYAML, inherited(), 400},
		{"YAML an alias in itself", mapsPath, asYAML, "a: &a [*a]", 400},
		{"YAML many keys", mapsPath, asYAML, "data: {" + many(60_000, "k%d: v") + "}", 422},
		{"YAML keys of keys", mapsPath, asYAML, strings.Repeat("a:", 1_500_000), 400},
		{"YAML anchors", mapsPath, asYAML, "data: [" + many(50_000, "&a%d a") + "]", 400},
		{"YAML comments", mapsPath, asYAML, strings.Repeat("#\n", 1_500_000), 422},
		{"YAML tags", mapsPath, asYAML, strings.Repeat("!a ", 1_000_000), 400},
		{"YAML an open text", mapsPath, asYAML, `"` + strings.Repeat(`\x41`, 700_000), 400},
		{"YAML long integer", mapsPath, asYAML, "metadata: {generation: " + nines + "}", 400},
		{"YAML not UTF-8", mapsPath, asYAML, "metadata: {name: \xff}", 400},
	}
}

func cborBodies() []hostileBody {
	return []hostileBody{
		{"CBOR huge", mapsPath, asCBOR, cborMagic + big, 413},
		{"CBOR deep", mapsPath, asCBOR, cborMagic + strings.Repeat("\x81", 3_000_000), 400},
		{"CBOR deep without lengths", mapsPath, asCBOR, cborMagic + strings.Repeat("\x9f", 3_000_000), 400},
		{"CBOR a map without end", mapsPath, asCBOR, cborMagic + "\xbf" + strings.Repeat("\x41a\x00", 700_000), 400},
		{"CBOR a map of any length", mapsPath, asCBOR, cborMagic + "\xbb\x7f\xff\xff\xff\xff\xff\xff\xff", 400},
		{"CBOR text of any length", mapsPath, asCBOR, cborMagic + "\xa1\x5b\x7f\xff\xff\xff\xff\xff\xff\xff", 400},
		{"CBOR a list of any length", mapsPath, asCBOR, cborMagic + "\xa1\x41a\x9a\x7f\xff\xff\xff", 400},
		{"CBOR a large number", mapsPath, asCBOR, cborMagic + "\xa1\x41a\xc2\x5a\x00\x2d\xc6\xc0" + strings.Repeat("\xff", 3_000_000), 400},
		{"CBOR tags", mapsPath, asCBOR, cborMagic + "\xa1\x41a" + strings.Repeat("\xc1", 3_000_000), 400},
		{"CBOR a key twice", mapsPath, asCBOR, cborMagic + "\xa2\x41a\x01\x41a\x02", 400},
		{"CBOR not UTF-8", mapsPath, asCBOR, cborMagic + "\xa1\x41\xff\x01", 400},
		{"CBOR cut off", mapsPath, asCBOR, cborMagic + "\xa3\x4aapiVersion\x42v1\x44ki", 400},
	}
}

// wire is a field of a protobuf message.
func wire(number uint64, content string) string {
	return string(binary.AppendUvarint(binary.AppendUvarint(nil, number<<3|2), uint64(len(content)))) + content
}

// enveloped is a protobuf message of a kind.
func enveloped(apiVersion, kind, message string) string {
	return "k8s\x00" + wire(1, wire(1, apiVersion)+wire(2, kind)) + wire(2, message)
}

// deepSchema nests JSONSchemaProps.not as deeply as a body can.
func deepSchema() string {
	var backwards []byte
	for len(backwards) < 2<<20 {
		head := binary.AppendUvarint(binary.AppendUvarint(nil, 28<<3|2), uint64(len(backwards)))
		slices.Reverse(head)
		backwards = append(backwards, head...)
	}
	slices.Reverse(backwards)
	return string(backwards)
}

func protobufBodies() []hostileBody {
	version := wire(1, "v1") + wire(4, wire(1, deepSchema()))
	return []hostileBody{
		{"protobuf huge", mapsPath, protobuf, big, 413},
		{"protobuf no envelope", mapsPath, protobuf, "hello", 400},
		{"protobuf cut off", mapsPath, protobuf, enveloped("v1", "ConfigMap", "\x0a\xff\xff\x7f"), 400},
		{"protobuf groups", mapsPath, protobuf, enveloped("v1", "ConfigMap", strings.Repeat("\x7b", 2<<20)), 400},
		{"protobuf empty entries", mapsPath, protobuf, enveloped("v1", "ConfigMap", strings.Repeat("\x12\x00", 1<<20)), 422},
		{"protobuf empty containers", podsPath, protobuf, enveloped("v1", "Pod", wire(2, strings.Repeat("\x12\x00", 1<<20))), 400},
		{"protobuf deep", crdsPath, protobuf, enveloped("apiextensions.k8s.io/v1", "CustomResourceDefinition", wire(1, wire(1, "x.y.z"))+wire(2, wire(7, version))), 400},
		{"protobuf another kind", mapsPath, protobuf, enveloped("v1", "Secret", ""), 400},
		{"protobuf in JSON", mapsPath, asJSON, enveloped("v1", "ConfigMap", ""), 400},
	}
}

func jsonPatches() []hostileBody {
	copies := `[{"op":"add","path":"/data/k","value":"` + strings.Repeat("x", 10_000) + `"}`
	for i := range 9000 {
		copies += fmt.Sprintf(`,{"op":"copy","from":"/data/k","path":"/data/k%d"}`, i)
	}
	doubled := `[{"op":"add","path":"/l0","value":["x"]}`
	for i := range 40 {
		doubled += fmt.Sprintf(`,{"op":"add","path":"/l%d","value":[]},{"op":"copy","from":"/l%d","path":"/l%d/-"},{"op":"copy","from":"/l%d","path":"/l%d/-"}`, i+1, i, i+1, i, i+1)
	}
	inserts := `[{"op":"add","path":"/l","value":[` + strings.Repeat("1,", 500_000) + `1]}` + strings.Repeat(`,{"op":"add","path":"/l/0","value":1}`, 9000)
	place := func(at string) string {
		return `[{"op":"add","path":"/metadata/finalizers","value":[]},{"op":"add","path":"/metadata/finalizers/` + at + `","value":"a/b"}]`
	}
	return []hostileBody{
		{"JSON patch copies", mapsPath, jsonPatch, copies + "]", 413},
		{"JSON patch doubles", mapsPath, jsonPatch, doubled + "]", 413},
		{"JSON patch inserts", mapsPath, jsonPatch, inserts + "]", 413},
		{"JSON patch operations", mapsPath, jsonPatch, "[" + strings.Repeat(`{"op":"test","path":"/kind","value":"ConfigMap"},`, 60_000) + `{}]`, 413},
		{"JSON patch long path", mapsPath, jsonPatch, `[{"op":"add","path":"` + strings.Repeat("/a", 1_000_000) + `","value":1}]`, 422},
		{"JSON patch deep", mapsPath, jsonPatch, strings.Repeat("[", 3_000_000), 400},
		{"JSON patch beyond the end", mapsPath, jsonPatch, place("99999999999"), 422},
		{"JSON patch before the start", mapsPath, jsonPatch, place("-5"), 422},
		{"merge patch deep", mapsPath, mergePatch, strings.Repeat(`{"a":`, 600_000), 400},
		{"merge patch as deep as may be", mapsPath, mergePatch, nest(9000, `{"a":`, "1", "}"), 200},
		{"merge patch huge", mapsPath, mergePatch, `{"data":{"a":"` + big + `"}}`, 413},
		{"merge patch nothing", mapsPath, mergePatch, "", 400},
		{"merge patch a list", mapsPath, mergePatch, "[]", 400},
	}
}

func strategicPatches() []hostileBody {
	spec := func(rest string) string { return `{"spec":{` + rest + `}}` }
	meta := func(rest string) string { return `{"metadata":{` + rest + `}}` }
	return []hostileBody{
		{"strategic patch deep", mapsPath, strategicPatch, strings.Repeat(`{"a":`, 600_000), 400},
		{"strategic patch as deep as may be", mapsPath, strategicPatch, nest(9000, `{"metadata":`, "1", "}"), 200},
		{"strategic patch long list", podsPath, strategicPatch, spec(`"containers":[` + many(100_000, `{"name":"c%d"}`) + `]`), 413},
		{"strategic patch long order", podsPath, strategicPatch, spec(`"$setElementOrder/containers":[` + many(100_000, `{"name":"c%d"}`) + `]`), 413},
		{"strategic patch many deletions", podsPath, strategicPatch, spec(`"containers":[` + many(60_000, `{"$patch":"delete","name":"c%d"}`) + `]`), 413},
		{"strategic patch many words", mapsPath, strategicPatch, meta(`"finalizers":[` + many(150_000, `"a/b%d"`) + `]`), 413},
		{"strategic patch many words to delete", mapsPath, strategicPatch, meta(`"$deleteFromPrimitiveList/finalizers":[` + many(150_000, `"a/b%d"`) + `]`), 413},
		{"strategic patch many owners", mapsPath, strategicPatch, meta(`"ownerReferences":[` + many(40_000, `{"uid":"%d","name":"a","kind":"b","apiVersion":"v1"}`) + `]`), 413},
	}
}

func applies() []hostileBody {
	cm := func(data string) string { return `{"apiVersion":"v1","kind":"ConfigMap","data":{` + data + `}}` }
	pod := func(list string) string {
		return `{"apiVersion":"v1","kind":"Pod","spec":{"containers":[` + list + `]}}`
	}
	return []hostileBody{
		{"apply brackets", mapsPath, applyYAML, strings.Repeat("[", 3_000_000), 400},
		{"apply aliases", mapsPath, applyYAML, aliases(), 400},
		{"apply inherited keys", mapsPath, applyYAML, inherited(), 400},
		{"apply huge", mapsPath, applyYAML, `{"data":{"a":"` + big + `"}}`, 413},
		{"apply many keys", mapsPath, applyYAML, cm(many(40_000, `"k%d":"v"`)), 413},
		{"apply one key again and again", mapsPath, applyYAML, cm(strings.Repeat(`"k":"v",`, 30_000) + `"k":"v"`), 200},
		{"apply many containers", podsPath, applyYAML, pod(many(40_000, `{"name":"c%d","image":"x"}`)), 413},
		{"apply one container again and again", podsPath, applyYAML, pod(strings.Repeat(`{"name":"c","image":"x"},`, 40_000) + `{"name":"d"}`), 413},
		{"apply CBOR deep", mapsPath, applyCBOR, cborMagic + strings.Repeat("\x81", 3_000_000), 400},
		{"apply CBOR cut off", mapsPath, applyCBOR, cborMagic + "\xa3\x4aapiVersion\x42v1\x44kind\x49ConfigMap\x48meta", 400},
	}
}

func definitions() []hostileBody {
	crd := func(schema string) string {
		return `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"bigs.example.com"},"spec":{"group":"example.com","scope":"Cluster",` +
			`"names":{"plural":"bigs","kind":"Big"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":` + schema + `}}]}}`
	}
	props := func(list string) string { return crd(`{"type":"object","properties":{` + list + `}}`) }
	rule := func(text string) string { return crd(`{"type":"object","x-kubernetes-validations":[` + text + `]}`) }
	return []hostileBody{
		{"definition deep", crdsPath, asJSON, crd(nest(3300, `{"type":"object","properties":{"a":`, `{"type":"string"}`, "}}")), 201},
		{"definition of nots", crdsPath, asJSON, crd(nest(9000, `{"not":`, "{}", "}")), 422},
		{"definition with bad properties", crdsPath, asJSON, props(many(9_000, `"f%d":{"type":"x"}`)), 422},
		{"definition with patterns", crdsPath, asJSON, props(many(500, `"f%d":{"type":"string","pattern":"((((a{1,10}){1,10}){1,10}){1,1}b{1,9})*"}`) + `,"g":{"type":"x"}`), 422},
		{"definition with a deep pattern", crdsPath, asJSON, props(`"f":{"type":"string","pattern":"` + nest(100_000, "(", "", ")") + `"}`), 422},
		{"definition with a repeating pattern", crdsPath, asJSON, props(`"f":{"type":"string","pattern":"((a{1,1000}){1,1000}){1,1000}"}`), 422},
		{"definition with a long rule", crdsPath, asJSON, rule(`{"rule":"` + strings.Repeat("1+", 200_000) + `1 > 1"}`), 422},
		{"definition with a deep rule", crdsPath, asJSON, rule(`{"rule":"` + strings.Repeat("(", 500_000) + `"}`), 422},
		{"definition with a runaway rule", crdsPath, asJSON, crd(`{"type":"object","properties":{"a":{"type":"array","items":{"type":"array","items":{"type":"string"}}}},` +
			`"x-kubernetes-validations":[{"rule":"self.a.all(x, self.a.all(y, self.a.all(z, x.all(s, y.all(u, z.all(v, s + u == v))))))"}]}`), 422},
		{"definition of many names", crdsPath, asJSON, `{"metadata":{"name":"bigs.example.com"},"spec":{"group":"example.com","scope":"Cluster","names":{"plural":"bigs","kind":"Big","shortNames":[` +
			many(100_000, `"s%d"`) + `]},"versions":[` + strings.Repeat(`{"name":"v1"},`, 50_000) + `{}]}}`, 413},
	}
}
