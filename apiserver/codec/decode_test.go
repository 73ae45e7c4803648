package codec

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"proa/api"
)

// TestLongNumbers: no number takes long to read, and no answer repeats what was
// sent.
func TestLongNumbers(t *testing.T) {
	row := api.Builtin().ByKey("limitranges")
	text := func(digits int) []byte {
		return []byte(`{"spec":{"limits":[{"type":"Pod","max":{"cpu":"` + strings.Repeat("9", digits) + `"}}]}}`)
	}
	for digits, ok := range map[int]bool{10: true, maxDigits / 2: true, maxDigits + 1: false, maxDigits + maxDigits/2: false, 3 << 20: false} {
		if _, err := Decode(JSON, text(digits), row.New(), row.GVK(), false); (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "digits") {
			t.Errorf("%d digits: %.200v", digits, err)
		}
	}
	data := api.Builtin().ByKey("configmaps")
	if _, err := Decode(JSON, []byte(`{"data":{"pi":"`+strings.Repeat("3", 1<<20)+`"}}`), data.New(), data.GVK(), false); err != nil {
		t.Errorf("data of digits: %.200v", err)
	}
	if _, err := Decode(JSON, []byte(`{"metadata":{"generation":`+strings.Repeat("3", 1<<20)+`}}`), data.New(), data.GVK(), false); err == nil || len(err.Error()) > maxText+3 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}

// TestManyParts: what is two bytes and becomes a kilobyte.
func TestManyParts(t *testing.T) {
	row := api.Builtin().ByKey("pods")
	decode := func(f Format, body []byte) error {
		_, err := Decode(f, body, row.New(), row.GVK(), false)
		return err
	}
	for name, err := range map[string]error{
		"JSON":                      decode(JSON, []byte(`{"spec":{"containers":[`+strings.Repeat("{},", 1_000_000)+`{}]}}`)),
		"YAML":                      decode(YAML, []byte(`{"spec":{"containers":[`+strings.Repeat("{},", 200_000)+`{}]}}`)),
		"protobuf":                  decode(Protobuf, enveloped(row, 2, bytes.Repeat([]byte{0x12, 0}, 1<<20))),
		"protobuf with a name each": decode(Protobuf, enveloped(row, 2, bytes.Repeat([]byte{0x12, 3, 0x0a, 1, 'a'}, 1<<19))),
	} {
		if err == nil || !strings.Contains(err.Error(), "parts") {
			t.Errorf("%s: %.200v", name, err)
		}
	}
	if err := decode(Protobuf, enveloped(row, 2, bytes.Repeat([]byte{0x12, 3, 0x0a, 1, 'a'}, 50_000))); err != nil {
		t.Errorf("50,000 containers: %v", err)
	}
}

// enveloped is the protobuf form of an object with one field.
func enveloped(row *api.Resource, number uint64, content []byte) []byte {
	message := append(binary.AppendUvarint(binary.AppendUvarint(nil, number<<3|2), uint64(len(content))), content...)
	return append(binary.AppendUvarint(appendHead(nil, row.GVK()), uint64(len(message))), message...)
}
