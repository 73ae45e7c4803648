package codec

import (
	"mime"
	"strings"
)

// Format is an encoding that clients may ask for.
type Format uint8

const (
	JSON Format = iota + 1
	YAML
	Protobuf
	CBOR
)

var mediaTypes = map[string]Format{
	"application/json":                    JSON,
	"application/yaml":                    YAML,
	"application/vnd.kubernetes.protobuf": Protobuf,
	"application/cbor":                    CBOR,
}

// MediaType is what Content-Type says of one object or list in the format.
func (f Format) MediaType() string {
	switch f {
	case YAML:
		return "application/yaml"
	case Protobuf:
		return "application/vnd.kubernetes.protobuf"
	case CBOR:
		return "application/cbor"
	}
	return "application/json"
}

// StreamType is what Content-Type says of a watch in the format. YAML cannot be
// streamed.
func (f Format) StreamType() string {
	switch f {
	case Protobuf:
		return "application/vnd.kubernetes.protobuf;stream=watch"
	case CBOR:
		return "application/cbor-seq"
	}
	return "application/json"
}

// MediaTypes lists what Accept and Content-Type may name.
func MediaTypes() []string {
	return []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor"}
}

// ByMediaType finds the format of a Content-Type header; an empty one is JSON.
func ByMediaType(contentType string) (Format, bool) {
	if contentType == "" {
		return JSON, true
	}
	mt, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return 0, false
	}
	f, ok := mediaTypes[strings.ToLower(mt)]
	return f, ok
}
