package openapi

import (
	"bytes"
	"compress/gzip"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
)

// The media types of both documents in protobuf; older clients write them with
// an @.
const (
	protoV2 = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	protoV3 = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
)

// ServeHTTP serves /openapi/v2, /openapi/v3 and what is below it.
func (d *Documents) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	switch path := strings.TrimSuffix(r.URL.Path, "/"); {
	case path == "/openapi/v2":
		d.serveV2(w, r)
	case path == "/openapi/v3":
		d.serveIndex(w)
	case strings.HasPrefix(path, "/openapi/v3/"):
		d.serveV3(w, r, strings.TrimPrefix(path, "/openapi/v3/"))
	default:
		http.NotFound(w, r)
	}
}

func (d *Documents) serveIndex(w http.ResponseWriter) {
	data, err := d.Index()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(data)
}

func (d *Documents) serveV2(w http.ResponseWriter, r *http.Request) {
	doc, err := d.V2()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	ServeV2(w, r, doc)
}

// ServeV2 answers with a v2 document in the form that the client takes.
func ServeV2(w http.ResponseWriter, r *http.Request, doc Document) {
	serve(w, r, doc, protoV2, handler.ToProtoBinary)
}

// serveV3 answers under the name that holds the hash with a document that may
// be kept for ever; a name with an old hash leads to the new one.
func (d *Documents) serveV3(w http.ResponseWriter, r *http.Request, path string) {
	gv, ok := groupVersion(path)
	doc, found, err := Document{}, false, error(nil)
	if ok {
		doc, found, err = d.V3(gv)
	}
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	case !found:
		http.NotFound(w, r)
		return
	}
	if hash := r.URL.Query().Get("hash"); hash != "" {
		if hash != doc.Hash {
			http.Redirect(w, r, address(gv, doc.Hash), http.StatusMovedPermanently)
			return
		}
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	}
	serve(w, r, doc, protoV3, handler3.ToV3ProtoBinary)
}

// groupVersion reads "api/v1" and "apis/apps/v1".
func groupVersion(path string) (schema.GroupVersion, bool) {
	switch parts := strings.Split(path, "/"); {
	case len(parts) == 2 && parts[0] == "api":
		return schema.GroupVersion{Version: parts[1]}, true
	case len(parts) == 3 && parts[0] == "apis":
		return schema.GroupVersion{Group: parts[1], Version: parts[2]}, true
	}
	return schema.GroupVersion{}, false
}

// serve writes a document as the client takes it: JSON unless it asks for
// protobuf, compressed if it can read that.
func serve(w http.ResponseWriter, r *http.Request, doc Document, proto string, convert func([]byte) ([]byte, error)) {
	h := w.Header()
	h.Add("Vary", "Accept")
	h.Add("Vary", "Accept-Encoding")
	asProto, ok := wantsProto(r.Header.Get("Accept"), proto)
	if !ok {
		http.Error(w, "only application/json and "+proto+" are served", http.StatusNotAcceptable)
		return
	}
	etag := `"` + doc.Hash + `"`
	if asProto {
		etag = `"` + doc.Hash + `-pb"`
	}
	h.Set("Etag", etag)
	if strings.Contains(r.Header.Get("If-None-Match"), etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", "application/json")
	if !asProto {
		writeGzip(w, r, doc.Gzip)
		return
	}
	data, err := inflate(doc.Gzip)
	if err == nil {
		data, err = convert(data)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h.Set("Content-Type", proto)
	h.Set("Content-Length", strconv.Itoa(len(data)))
	w.Write(data)
}

// wantsProto reads an Accept header; ok is false where nothing served is in it.
func wantsProto(accept, proto string) (asProto, ok bool) {
	if accept == "" {
		return false, true
	}
	for part := range strings.SplitSeq(accept, ",") {
		// Old clients put an @ into the type, which mime refuses.
		typ, _, err := mime.ParseMediaType(strings.ReplaceAll(part, "@", "."))
		if err != nil {
			continue
		}
		switch typ {
		case "application/json", "application/*", "*/*":
			return false, true
		case proto:
			return true, true
		}
	}
	return false, false
}

func writeGzip(w http.ResponseWriter, r *http.Request, data []byte) {
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		w.Write(data)
		return
	}
	if z, err := gzip.NewReader(bytes.NewReader(data)); err == nil { // it is our own work
		io.Copy(w, z)
	}
}

func inflate(data []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}
