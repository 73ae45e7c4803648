package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Kubernetes' protobuf form of an object is the magic, then a runtime.Unknown
// message: field 1 the type (apiVersion, kind), field 2 the object's own message.
// See https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding-idl.
var magic = []byte("k8s\x00")

const (
	tagUnknownType = 1<<3 | 2
	tagUnknownRaw  = 2<<3 | 2
	// tagMetadata is ObjectMeta in every object and ListMeta in every list;
	// tagItems is the items of every list.
	tagMetadata        = 1<<3 | 2
	tagItems           = 2<<3 | 2
	tagResourceVersion = 6<<3 | 2
	tagString1         = 1<<3 | 2
	tagString2         = 2<<3 | 2
)

// message is what the generated protobuf code of a wire type offers.
type message interface {
	Size() int
	MarshalToSizedBuffer(data []byte) (int, error)
}

type unmarshaler interface{ Unmarshal(data []byte) error }

var errNotProtobuf = errors.New("the object has no protobuf encoding")

// appendHead begins an envelope up to, not including, the length of the raw field.
func appendHead(dst []byte, gvk schema.GroupVersionKind) []byte {
	dst = append(dst, magic...)
	apiVersion := gvk.GroupVersion().String()
	dst = append(dst, tagUnknownType)
	dst = binary.AppendUvarint(dst, uint64(sizeString(apiVersion)+sizeString(gvk.Kind)))
	dst = appendString(dst, tagString1, apiVersion)
	dst = appendString(dst, tagString2, gvk.Kind)
	return append(dst, tagUnknownRaw)
}

func appendString(dst []byte, tag byte, s string) []byte {
	dst = append(dst, tag)
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func sizeString(s string) int { return 1 + sizeUvarint(uint64(len(s))) + len(s) }

func sizeUvarint(v uint64) (n int) {
	for n = 1; v >= 0x80; n++ {
		v >>= 7
	}
	return n
}

// appendEnvelope appends the whole protobuf form of a message.
func appendEnvelope(dst []byte, gvk schema.GroupVersionKind, m message) ([]byte, error) {
	size := m.Size()
	dst = appendHead(dst, gvk)
	dst = binary.AppendUvarint(dst, uint64(size))
	return appendMessage(dst, m, size)
}

func appendMessage(dst []byte, m message, size int) ([]byte, error) {
	start := len(dst)
	dst = append(dst, make([]byte, size)...)
	n, err := m.MarshalToSizedBuffer(dst[start:])
	if err == nil && n != size {
		err = fmt.Errorf("protobuf: encoded %d bytes of %d", n, size)
	}
	return dst, err
}

// splitEnvelope finds the object's own message in an envelope.
func splitEnvelope(data []byte) (gvk schema.GroupVersionKind, raw []byte, err error) {
	if len(data) < len(magic) || string(data[:len(magic)]) != string(magic) {
		return gvk, nil, errors.New("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
	}
	var u runtime.Unknown
	if err := u.Unmarshal(data[len(magic):]); err != nil {
		return gvk, nil, err
	}
	return u.GroupVersionKind(), u.Raw, nil
}

// maxNesting is how many levels of messages a body may have, about as many as a
// JSON body may: the generated decoders call themselves for each, and a stack that
// grows without end ends the process.
const maxNesting = 10_000

// maxFields bounds the fields of all messages in a body.
const maxFields = 4 * maxParts

var errTooDeep = fmt.Errorf("its messages nest more than %d levels deep", maxNesting)

// checkMessage refuses a message that nests beyond maxNesting or has more than so
// many fields. Without the message's type, text that happens to read as a
// message counts as one; plain text nests no deeper than some tens that way.
func checkMessage(message []byte, most int) error {
	if len(message) < 2*maxNesting {
		return nil // a level takes two bytes
	}
	ends := make([]int, 1, 64) // of the messages around
	ends[0] = len(message)
	fields := 0
	for at := 0; len(ends) > 0; {
		end := ends[len(ends)-1]
		if at == end {
			ends = ends[:len(ends)-1]
			continue
		}
		body, next := field(message[:end], at)
		fields++
		switch {
		case next < 0: // no message after all
			at = end
		case body == next:
			at = next
		default:
			at, ends = body, append(ends, next)
		}
		if len(ends) > maxNesting {
			return errTooDeep
		}
		if fields > most {
			return errTooManyParts
		}
	}
	return nil
}

// field finds the end of the field at a place and the beginning of what may be a
// message in it, which is its end if there is none; -1 is no field.
func field(data []byte, at int) (body, next int) {
	tag, n := binary.Uvarint(data[at:])
	at += n
	if n <= 0 || tag < 8 {
		return -1, -1
	}
	switch tag & 7 {
	case 0:
		_, n = binary.Uvarint(data[at:])
		if at += n; n <= 0 {
			return -1, -1
		}
	case 1:
		at += 8
	case 2:
		size, n := binary.Uvarint(data[at:])
		if n <= 0 || size > uint64(len(data)-at-n) {
			return -1, -1
		}
		return at + n, at + n + int(size)
	case 5:
		at += 4
	}
	if at > len(data) {
		return -1, -1
	}
	return at, at
}

// rawOf is splitEnvelope for an envelope that this package wrote: it allocates
// nothing and keeps to the layout of appendHead.
func rawOf(data []byte) ([]byte, error) {
	if len(data) < len(magic) || string(data[:len(magic)]) != string(magic) {
		return nil, errNotProtobuf
	}
	rest := data[len(magic):]
	for len(rest) > 1 {
		tag := rest[0]
		n, k := binary.Uvarint(rest[1:])
		if k <= 0 || n > uint64(len(rest)-1-k) {
			break
		}
		body := rest[1+k : 1+k+int(n)]
		if tag == tagUnknownRaw {
			return body, nil
		}
		rest = rest[1+k+int(n):]
	}
	return nil, errors.New("protobuf: the stored envelope is damaged")
}

// appendVersionField appends metadata.resourceVersion as one more occurrence of
// the metadata field. Protobuf readers merge it into what they have read (see
// "Last One Wins" in the protobuf encoding guide).
func appendVersionField(dst []byte, revision uint64) []byte {
	var digits [20]byte
	s := strconv.AppendUint(digits[:0], revision, 10)
	dst = append(dst, tagMetadata, byte(len(s)+2), tagResourceVersion, byte(len(s)))
	return append(dst, s...)
}
