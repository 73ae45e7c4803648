package codec

import (
	"bytes"
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"sigs.k8s.io/yaml"
)

// CanEncode tells whether the kind of the object has the format.
func CanEncode(f Format, obj runtime.Object) bool {
	_, pb := obj.(message)
	return f != Protobuf || pb
}

// Marshal encodes an object that is not a stored one (a Status, a Table, a
// review). Its apiVersion and kind must be set.
func Marshal(f Format, obj runtime.Object) ([]byte, error) {
	switch f {
	case Protobuf:
		m, ok := obj.(message)
		if !ok {
			return nil, errNotProtobuf
		}
		return appendEnvelope(nil, obj.GetObjectKind().GroupVersionKind(), m)
	case CBOR:
		var b bytes.Buffer
		err := cbor.NewSerializer(nil, nil).Encode(obj, &b)
		return b.Bytes(), err
	case YAML:
		return yaml.Marshal(obj)
	}
	data, err := json.Marshal(obj)
	if n := len(data); n > 0 && data[n-1] != '\n' {
		data = append(data, '\n')
	}
	return data, err
}

// AppendFrame appends one watch event, as the format's stream has them, around
// the encoded object.
func AppendFrame(dst []byte, f Format, event string, obj Part) ([]byte, error) {
	switch f {
	case Protobuf:
		return appendProtobufFrame(dst, event, obj), nil
	case CBOR:
		return appendCBORFrame(dst, event, obj)
	}
	dst = append(dst, `{"type":"`...)
	dst = append(dst, event...)
	dst = append(dst, `","object":`...)
	dst = obj.AppendTo(dst)
	return append(dst, "}\n"...), nil
}

// appendProtobufFrame writes a length-prefixed metav1.WatchEvent, whose object is
// a RawExtension that holds a whole envelope.
func appendProtobufFrame(dst []byte, event string, obj Part) []byte {
	ext := 1 + sizeUvarint(uint64(obj.Len())) + obj.Len()
	size := sizeString(event) + 1 + sizeUvarint(uint64(ext)) + ext
	dst = append(dst, byte(size>>24), byte(size>>16), byte(size>>8), byte(size))
	dst = appendString(dst, tagString1, event)
	dst = appendLength(dst, tagString2, ext)
	dst = appendLength(dst, tagString1, obj.Len())
	return obj.AppendTo(dst)
}

func appendCBORFrame(dst []byte, event string, obj Part) ([]byte, error) {
	data, err := direct.Marshal(&metav1.WatchEvent{Type: event, Object: runtime.RawExtension{Raw: obj.AppendTo(nil)}})
	return append(dst, data...), err
}
