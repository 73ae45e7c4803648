package apiserver

import (
	"bytes"
	"encoding/json"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"sigs.k8s.io/yaml"

	"proa/apiserver/codec"
	"proa/apiserver/endpoint"
	"proa/store"
)

// annotator is how admission leaves notes in the audit event; nil where none
// is recorded.
func (x *exchange) annotator() func(key, value string) {
	if x.entry == nil {
		return nil
	}
	return x.entry.Annotate
}

// started notes that a request that lasts has begun to be answered.
func (x *exchange) started() {
	if x.entry != nil && x.t.long(x.query()) {
		x.entry.Status(x.status, nil)
		_ = x.entry.Stage(auditv1.StageResponseStarted) // too late to refuse
	}
}

// noteSent records the object of a request.
func (x *exchange) noteSent(obj runtime.Object) {
	if x.entry.WantsRequest() {
		if data, err := json.Marshal(obj); err == nil {
			x.entry.Request(data)
		}
	}
}

// notePatch records a patch, which is a document of its own kind.
func (x *exchange) notePatch(kind types.PatchType, body []byte) {
	if !x.entry.WantsRequest() {
		return
	}
	if kind == types.ApplyYAMLPatchType {
		if data, err := yaml.YAMLToJSON(body); err == nil {
			body = data
		}
	}
	x.entry.Request(body)
}

// noteAnswer records an object that is no stored record.
func (x *exchange) noteAnswer(obj runtime.Object) {
	if x.entry.WantsResponse() {
		if data, err := json.Marshal(obj); err == nil {
			x.entry.Response(data)
		}
	}
}

// noteRecord records a stored object that is answered.
func (c *call) noteRecord(rec *store.Record) {
	if !c.entry.WantsResponse() {
		return
	}
	if part, err := (codec.Shape{Served: c.served, Format: codec.JSON}).Record(rec); err == nil {
		c.entry.Response(part.AppendTo(nil))
	}
}

// noteList records a list that is answered.
func (c *call) noteList(l endpoint.List) {
	if !c.entry.WantsResponse() {
		return
	}
	var b bytes.Buffer
	if (codec.Shape{Served: c.served, Format: codec.JSON}).WriteList(&b, l.Meta(), l.Records) == nil {
		c.entry.Response(b.Bytes())
	}
}
