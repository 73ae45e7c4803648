package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// DecodeError says that a body is not an object of the expected kind; its text is
// what the client is told.
type DecodeError struct{ msg string }

func (e *DecodeError) Error() string { return e.msg }

// Decode reads a body into an empty object of the expected kind. strict holds the
// duplicate and unknown fields, which the caller's field validation judges.
func Decode(f Format, body []byte, into runtime.Object, expect schema.GroupVersionKind, wantStrict bool) (strict []error, err error) {
	if f == Protobuf {
		return nil, decodeProtobuf(body, into, expect)
	}
	switch f {
	case YAML:
		body, strict, err = yamlToJSON(body, wantStrict)
	case CBOR:
		body, err = cborToJSON(body)
	}
	if err != nil {
		return nil, cannotBe(expect, expect, err)
	}
	if err := checkBody(into, body); err != nil {
		return nil, cannotBe(expect, expect, err)
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, &DecodeError{"couldn't get version/kind; json parse error: unexpected end of JSON input"}
	}
	more, err := unmarshal(body, into, wantStrict)
	got := into.GetObjectKind().GroupVersionKind()
	if err != nil {
		return nil, cannotBe(peekKind(body, expect), expect, err)
	}
	if err := checkKind(withDefaults(got, expect), expect); err != nil {
		return nil, err
	}
	if nearEnds(body) {
		if err := checkTimes(into); err != nil {
			return nil, cannotBe(expect, expect, err)
		}
	}
	into.GetObjectKind().SetGroupVersionKind(expect)
	return append(strict, more...), nil
}

func unmarshal(body []byte, into runtime.Object, wantStrict bool) (strict []error, err error) {
	target := any(into)
	u, custom := into.(*unstructured.Unstructured)
	var content map[string]any
	if custom {
		target = &content
	}
	switch {
	case wantStrict && custom:
		strict, err = kjson.UnmarshalStrict(body, target, kjson.DisallowDuplicateFields)
	case wantStrict:
		strict, err = kjson.UnmarshalStrict(body, target)
	default:
		err = kjson.UnmarshalCaseSensitivePreserveInts(body, target)
	}
	if custom && err == nil {
		if content == nil {
			return nil, errors.New("the body is not an object")
		}
		u.Object = content
	}
	return strict, err
}

func yamlToJSON(body []byte, wantStrict bool) (out []byte, strict []error, err error) {
	if out, err = yaml.YAMLToJSON(body); err != nil || !wantStrict {
		return out, nil, err
	}
	if _, serr := yaml.YAMLToJSONStrict(body); serr != nil {
		strict = append(strict, serr)
	}
	return out, strict, nil
}

func decodeProtobuf(body []byte, into runtime.Object, expect schema.GroupVersionKind) error {
	gvk, raw, err := splitEnvelope(body)
	if err != nil {
		return &DecodeError{err.Error()}
	}
	if err := checkKind(withDefaults(gvk, expect), expect); err != nil {
		return err
	}
	u, ok := into.(unmarshaler)
	if !ok {
		return cannotBe(expect, expect, errNotProtobuf)
	}
	most := maxFields
	if !hasQuantities(into) {
		most = len(raw) // text may look like anything
	}
	if err := errors.Join(checkMessage(raw, most), CheckNumbers(into, raw)); err != nil {
		return cannotBe(expect, expect, err)
	}
	if err := errors.Join(u.Unmarshal(raw), checkTimes(into)); err != nil {
		return cannotBe(expect, expect, err)
	}
	into.GetObjectKind().SetGroupVersionKind(expect)
	return nil
}

// cborToJSON decodes by way of JSON, so that all text formats have the same rules
// for duplicate and unknown fields.
func cborToJSON(body []byte) ([]byte, error) {
	var content map[string]any
	if err := direct.Unmarshal(body, &content); err != nil {
		return nil, err
	}
	return json.Marshal(content)
}

// maxParts bounds the objects in an object. Two bytes, "{}", become a kilobyte of
// memory where they stand for a container.
const maxParts = 100_000

func checkBody(into runtime.Object, body []byte) error {
	if len(body) > maxParts && hasQuantities(into) && bytes.Count(body, []byte("{")) > maxParts {
		return errTooManyParts
	}
	return CheckNumbers(into, body)
}

var errTooManyParts = fmt.Errorf("it has more than %d parts", maxParts)

// maxDigits bounds numbers in texts. Quantities are read to their last digit, in
// time that grows by the square: a million digits take a second.
const maxDigits = 64 << 10

// CheckNumbers refuses a body with a number that is longer than any is for good
// reason, for a kind that reads numbers.
func CheckNumbers(kind runtime.Object, body []byte) error {
	if len(body) < maxDigits || !hasQuantities(kind) {
		return nil
	}
	for at := maxDigits; at < len(body); at += maxDigits {
		first, last := at, at // of the digits around
		for first >= 0 && isDigit(body[first]) && last-first <= maxDigits {
			first--
		}
		for last < len(body) && isDigit(body[last]) && last-first <= maxDigits {
			last++
		}
		if last-first > maxDigits {
			return fmt.Errorf("it has a number of more than %d digits", maxDigits)
		}
	}
	return nil
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' || c == '.' }

// hasQuantities tells kinds that may have them. What others have of digits is
// data.
func hasQuantities(obj runtime.Object) bool {
	switch obj.(type) {
	case *corev1.ConfigMap, *corev1.Secret, *unstructured.Unstructured:
		return false
	}
	return true
}

// peekKind reads only apiVersion and kind, for an error's text.
func peekKind(body []byte, expect schema.GroupVersionKind) schema.GroupVersionKind {
	var tm metav1.TypeMeta
	if err := kjson.UnmarshalCaseSensitivePreserveInts(body, &tm); err != nil {
		return expect
	}
	return withDefaults(tm.GroupVersionKind(), expect)
}

func withDefaults(gvk, expect schema.GroupVersionKind) schema.GroupVersionKind {
	if gvk.Kind == "" {
		gvk.Kind = expect.Kind
	}
	if gvk.Version == "" {
		gvk.Group, gvk.Version = expect.Group, expect.Version
	}
	return gvk
}

func checkKind(got, expect schema.GroupVersionKind) error {
	if got.GroupVersion() != expect.GroupVersion() {
		return &DecodeError{fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", got.GroupVersion(), expect.GroupVersion())}
	}
	if got.Kind != expect.Kind {
		return cannotBe(got, expect, fmt.Errorf("the kind in the data (%s) does not match the expected kind (%s)", got.Kind, expect.Kind))
	}
	return nil
}

func cannotBe(got, expect schema.GroupVersionKind, err error) error {
	if got.Kind == "" {
		return &DecodeError{short(err.Error())}
	}
	return &DecodeError{short(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", got.Kind, got.Version, expect.Kind, err))}
}

// maxText is how much of what a client sent wrong it is told, in bytes.
const maxText = 16 << 10

func short(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "..."
}

// NotOfKind says that a body which could be read is still no object of the kind.
func NotOfKind(expect schema.GroupVersionKind, err error) error { return cannotBe(expect, expect, err) }

// StrictError is the answer to a body with duplicate or unknown fields under
// field validation Strict.
func StrictError(gvk schema.GroupVersionKind, strict []error) error {
	texts := make([]string, len(strict))
	for i, e := range strict {
		texts[i] = e.Error()
	}
	return cannotBe(gvk, gvk, errors.New("strict decoding error: "+strings.Join(texts, ", ")))
}

// DecodeOptions reads request options, which clients send under any apiVersion.
func DecodeOptions(f Format, body []byte, kind string, into runtime.Object) error {
	if f == Protobuf {
		gvk, raw, err := splitEnvelope(body)
		if err != nil {
			return err
		}
		if gvk.Kind != "" && gvk.Kind != kind {
			return cannotBe(gvk, schema.GroupVersionKind{Kind: kind}, errors.New("it is of another kind"))
		}
		return into.(unmarshaler).Unmarshal(raw)
	}
	var err error
	switch f {
	case YAML:
		body, err = yaml.YAMLToJSON(body)
	case CBOR:
		body, err = cborToJSON(body)
	}
	if err != nil {
		return err
	}
	if _, err := unmarshal(body, into, false); err != nil {
		return cannotBe(schema.GroupVersionKind{Kind: kind, Version: "v1"}, schema.GroupVersionKind{Kind: kind}, err)
	}
	if got := into.GetObjectKind().GroupVersionKind(); got.Kind != "" && got.Kind != kind {
		return cannotBe(got, schema.GroupVersionKind{Kind: kind}, errors.New("it is of another kind"))
	}
	return nil
}
