package codec

import (
	"bytes"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "sigs.k8s.io/json"

	"proa/api"
)

// Storage is the store's codec: protobuf for kinds that have it, JSON for custom
// resources. The bytes name apiVersion and kind and leave the resourceVersion out.
type Storage struct{ Registry *api.Registry }

// Encode must be called while nobody else reads the object: it takes the
// resourceVersion out and puts it back.
func (s Storage) Encode(resource string, obj api.Object) ([]byte, error) {
	row := s.Registry.ByKey(resource)
	if row == nil {
		return nil, fmt.Errorf("codec: no resource %q", resource)
	}
	if rv := obj.GetResourceVersion(); rv != "" {
		obj.SetResourceVersion("")
		defer obj.SetResourceVersion(rv)
	}
	if m, ok := obj.(message); ok {
		return appendEnvelope(make([]byte, 0, m.Size()+64), row.GVK(), m)
	}
	return json.Marshal(obj)
}

// Decode returns the object in the row's storage version with its type set.
// Objects that were written under a version that is served still are converted.
func (s Storage) Decode(resource string, data []byte) (api.Object, error) {
	row := s.Registry.ByKey(resource)
	if !bytes.HasPrefix(data, magic) && (row == nil || row.Custom != nil) {
		obj := &unstructured.Unstructured{} // also where the definition has gone since
		return obj, kjson.UnmarshalCaseSensitivePreserveInts(data, obj)
	}
	if row == nil {
		return nil, fmt.Errorf("codec: no resource %q", resource)
	}
	if !bytes.HasPrefix(data, magic) {
		obj := row.New()
		if err := kjson.UnmarshalCaseSensitivePreserveInts(data, obj); err != nil {
			return nil, err
		}
		return obj, nil
	}
	gvk, raw, err := splitEnvelope(data)
	if err != nil {
		return nil, err
	}
	served, ok := s.Registry.ByGVK(gvk)
	if !ok {
		return nil, fmt.Errorf("codec: no kind %s", gvk)
	}
	return decodeRaw(served, raw)
}

func decodeRaw(served api.Served, raw []byte) (api.Object, error) {
	obj := newOf(served)
	u, ok := obj.(unmarshaler)
	if !ok {
		return nil, errNotProtobuf
	}
	if err := u.Unmarshal(raw); err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(served.GVK())
	if served.As == nil {
		return obj, nil
	}
	return ToStorage(served, obj)
}

func newOf(served api.Served) api.Object {
	if served.As != nil {
		return served.As.New()
	}
	return served.New()
}

// ToStorage converts an object of the served version to the storage version,
// with the version's defaults filled in first.
func ToStorage(served api.Served, obj api.Object) (api.Object, error) {
	if served.As == nil {
		return obj, nil
	}
	if served.As.Default != nil {
		served.As.Default(obj)
	}
	out, err := served.As.ToStorage(obj)
	if err == nil {
		out.GetObjectKind().SetGroupVersionKind(served.Resource.GVK())
	}
	return out, err
}

// FromStorage converts a stored object to the served version. The result may
// share memory with obj and must not be changed.
func FromStorage(served api.Served, obj api.Object) (api.Object, error) {
	if served.As == nil {
		return obj, nil
	}
	out, err := served.As.FromStorage(obj)
	if err == nil {
		out.GetObjectKind().SetGroupVersionKind(served.GVK())
	}
	return out, err
}
