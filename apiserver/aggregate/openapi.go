package aggregate

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"proa/api/openapi"
	"proa/auth"
)

// documentLife is how long a remote server's document is used without asking
// whether there is a newer one; they are fetched when somebody wants one.
const documentLife = time.Minute

// Local are the documents of what this server serves itself.
type Local interface {
	http.Handler
	Index() ([]byte, error)
	V2() (openapi.Document, error)
}

// documents keeps what was fetched, and the last merged document.
type documents struct {
	mu      sync.Mutex
	fetched map[string]fetched
	merged  openapi.Document
	of      string // what merged is made of
}

type fetched struct {
	etag string
	body []byte
	at   time.Time
}

// ServeOpenAPI serves /openapi/ of all servers as one.
func (a *Aggregator) ServeOpenAPI(w http.ResponseWriter, r *http.Request, local Local) {
	remote := a.remote()
	path := strings.TrimSuffix(r.URL.Path, "/")
	switch {
	case len(remote) == 0 || r.Method != http.MethodGet && r.Method != http.MethodHead:
	case path == "/openapi/v3":
		a.serveIndex(w, r, local, remote)
		return
	case path == "/openapi/v2":
		a.serveV2(w, r, local, remote)
		return
	default:
		if s := a.describes(path); s != nil {
			a.Proxy(w, r, s, auth.User{Name: self, Groups: []string{auth.GroupMasters}})
			return
		}
	}
	local.ServeHTTP(w, r)
}

// remote lists the APIServices whose servers can be asked.
func (a *Aggregator) remote() (out []*apiregistrationv1.APIService) {
	for _, s := range services(a.cfg.Store.Snapshot()) {
		if s.Spec.Service != nil && isAvailable(s) {
			out = append(out, s)
		}
	}
	return out
}

// describes is the remote APIService that a path is the v3 document of, or nil.
func (a *Aggregator) describes(path string) *apiregistrationv1.APIService {
	of, ok := strings.CutPrefix(path, "/openapi/v3")
	if gv, is := groupVersion(of); !ok || !is || pathOf(gv) != of {
		return nil
	}
	return a.Find(of)
}

type index struct {
	Paths map[string]json.RawMessage `json:"paths"`
}

func (a *Aggregator) serveIndex(w http.ResponseWriter, r *http.Request, local Local, remote []*apiregistrationv1.APIService) {
	var all index
	data, err := local.Index()
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	for _, s := range remote {
		var theirs index
		doc := a.document(r.Context(), s, "/openapi/v3")
		name := strings.TrimPrefix(pathOf(gvOf(s)), "/")
		delete(all.Paths, name)
		if json.Unmarshal(doc.body, &theirs) == nil && theirs.Paths[name] != nil { // a server may have none
			all.Paths[name] = theirs.Paths[name]
		}
	}
	if err == nil {
		data, err = json.Marshal(all)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data) // a client that went away cannot be told
}

// document is a document of the APIService's server: the kept one while it is
// young or the server does not answer.
func (a *Aggregator) document(ctx context.Context, s *apiregistrationv1.APIService, path string) fetched {
	d, key := &a.documents, s.Spec.Service.Namespace+"/"+s.Spec.Service.Name+path
	d.mu.Lock()
	kept := d.fetched[key]
	d.mu.Unlock()
	if now := a.cfg.Now(); now.Sub(kept.at) < documentLife {
		return kept
	}
	header := http.Header{"Accept": {"application/json"}}
	if kept.etag != "" {
		header.Set("If-None-Match", kept.etag)
	}
	got, err := a.ask(ctx, s, path, header)
	kept.at = a.cfg.Now()
	if err == nil && got.status == http.StatusOK {
		kept.etag, kept.body = got.etag, got.body
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fetched == nil {
		d.fetched = map[string]fetched{}
	}
	d.fetched[key] = kept
	return kept
}

func (a *Aggregator) serveV2(w http.ResponseWriter, r *http.Request, local Local, remote []*apiregistrationv1.APIService) {
	own, err := local.V2()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	hash := sha256.New()
	io.WriteString(hash, own.Hash)
	parts := make([]part, 0, len(remote))
	for _, s := range remote {
		p := part{pathOf(gvOf(s)), a.document(r.Context(), s, "/openapi/v2").body}
		io.WriteString(hash, p.prefix)
		hash.Write(p.body)
		parts = append(parts, p)
	}
	doc, err := a.documents.merge(own, parts, strings.ToUpper(hex.EncodeToString(hash.Sum(nil))))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	openapi.ServeV2(w, r, doc)
}

// merge returns the kept document if it is made of the same, or makes it.
func (d *documents) merge(own openapi.Document, parts []part, of string) (openapi.Document, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.of == of {
		return d.merged, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(own.Gzip))
	if err != nil {
		return openapi.Document{}, err
	}
	text, err := io.ReadAll(z)
	if err == nil {
		text, err = merged(text, parts)
	}
	if err != nil {
		return openapi.Document{}, err
	}
	var buf bytes.Buffer
	out := gzip.NewWriter(&buf)
	_, _ = out.Write(text) // to memory
	if err := out.Close(); err != nil {
		return openapi.Document{}, err
	}
	d.merged, d.of = openapi.Document{Gzip: bytes.Clone(buf.Bytes()), Hash: of}, of
	return d.merged, nil
}
