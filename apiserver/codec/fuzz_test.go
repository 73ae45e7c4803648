package codec

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"proa/api"
)

// fuzzed are the kinds whose decoders differ most: plain, wide, recursive.
var fuzzed = []string{"configmaps", "pods", "apiextensions.k8s.io/customresourcedefinitions"}

// FuzzRecord reads made-up records of the store: what can be read is written the
// same again.
func FuzzRecord(f *testing.F) {
	s := Storage{api.Builtin()}
	for i, key := range fuzzed {
		data, err := s.Encode(key, sample(api.Builtin().ByKey(key)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), data)
		f.Add(byte(i), data[:len(data)/2])
	}
	f.Add(byte(0), []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}`))
	f.Fuzz(func(t *testing.T, kind byte, data []byte) {
		key := fuzzed[int(kind)%len(fuzzed)]
		obj, err := s.Decode(key, data)
		if err != nil || obj.GetObjectKind().GroupVersionKind() != api.Builtin().ByKey(key).GVK() {
			return // damaged, or of another kind than the key says
		}
		once, err := s.Encode(key, obj)
		if err != nil {
			t.Fatal(err)
		}
		again, err := s.Decode(key, once)
		if err != nil {
			t.Fatalf("%s: what was written cannot be read: %v\n%q", key, err, data)
		}
		twice, err := s.Encode(key, again)
		if err != nil || !bytes.Equal(once, twice) {
			t.Errorf("%s: %q became %q (%v)", key, once, twice, err)
		}
	})
}

// FuzzFormats reads made-up bodies in every format, and what was read is the same
// after a round in each.
func FuzzFormats(f *testing.F) {
	for i, format := range []Format{JSON, YAML, Protobuf, CBOR} {
		obj := sample(api.Builtin().ByKey("configmaps"))
		data, err := Marshal(format, obj)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), data)
	}
	f.Add(byte(1), []byte("a: &a [*a]\n"))
	f.Add(byte(3), []byte("\xd9\xd9\xf7\xbf\x44kind\x49ConfigMap\xff"))
	f.Add(byte(2), []byte("k8s\x00\x12+\n!2\x0102\x002\x002\x002\x002\x002\x00B\b\b\x80\xe2\xcf\xaa\xcd\xcd02\x060000002\x06000000")) // the year 6776156
	f.Fuzz(func(t *testing.T, format byte, data []byte) {
		row := api.Builtin().ByKey("configmaps")
		obj := row.New()
		if _, err := Decode(Format(format%4)+1, data, obj, row.GVK(), true); err != nil {
			return
		}
		first, err := Marshal(Protobuf, obj)
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range []Format{JSON, YAML, Protobuf, CBOR} {
			text, err := Marshal(to, obj)
			if err != nil {
				continue // CBOR refuses text that is not UTF-8
			}
			back := row.New()
			if _, err := Decode(to, text, back, row.GVK(), false); err != nil {
				t.Fatalf("%s of %q cannot be read: %v", to.MediaType(), data, err)
			}
			if to != Protobuf {
				continue // text formats tell nothing from empty, and replace what is not UTF-8
			}
			if got, _ := Marshal(Protobuf, back); !bytes.Equal(got, first) {
				t.Errorf("%q became %q", first, got)
			}
		}
	})
}

// TestNesting: messages that nest deeper than any object are refused before they
// take the stack, which a process cannot survive.
func TestNesting(t *testing.T) {
	row := api.Builtin().ByKey("apiextensions.k8s.io/customresourcedefinitions")
	schema := apiextensionsv1.JSONSchemaProps{Type: "string"}
	for range 200 {
		schema = apiextensionsv1.JSONSchemaProps{Not: schema.DeepCopy()}
	}
	crd := &apiextensionsv1.CustomResourceDefinition{}
	crd.SetGroupVersionKind(row.GVK())
	crd.Spec.Versions = []apiextensionsv1.CustomResourceDefinitionVersion{{Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &schema}}}
	data, err := Marshal(Protobuf, crd)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(Protobuf, data, row.New(), row.GVK(), false); err != nil {
		t.Errorf("200 levels: %v", err)
	}
	const not = 28<<3 | 2 // JSONSchemaProps.not
	var reversed []byte
	for len(reversed) < 1<<20 {
		head := binary.AppendUvarint(binary.AppendUvarint(nil, not), uint64(len(reversed)))
		slices.Reverse(head)
		reversed = append(reversed, head...)
	}
	slices.Reverse(reversed)
	deep := reversed
	for _, n := range []uint64{1, 4, 7, 2} { // openAPIV3Schema, schema, versions, spec
		deep = append(binary.AppendUvarint(binary.AppendUvarint(nil, n<<3|2), uint64(len(deep))), deep...)
	}
	envelope := append(appendHead(nil, row.GVK()), binary.AppendUvarint(nil, uint64(len(deep)))...)
	if _, err := Decode(Protobuf, append(envelope, deep...), row.New(), row.GVK(), false); err == nil || !strings.Contains(err.Error(), "levels deep") {
		t.Errorf("200,000 levels: %v", err)
	}
	for _, text := range []string{strings.Repeat("a line\n", 100_000), strings.Repeat("\n", 1<<20), strings.Repeat("\n\t", 1<<19), strings.Repeat("\x12\x7f", 1<<19)} {
		cm := &corev1.ConfigMap{Data: map[string]string{"k": text}}
		row := api.Builtin().ByKey("configmaps")
		cm.SetGroupVersionKind(row.GVK())
		data, err := Marshal(Protobuf, cm)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(Protobuf, data, row.New(), row.GVK(), false); err != nil {
			t.Errorf("%.10q…: %v", text, err)
		}
	}
}
