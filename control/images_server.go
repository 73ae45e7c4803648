package control

import (
	"context"
	"encoding/json"
	"io"
	"net/http"

	"proa/image"
)

// Local is Images on a store of this process.
type Local struct{ Store *image.Store }

func (l Local) List() ([]image.Image, error) { return l.Store.List(), nil }
func (l Local) Remove(ref string) error      { return l.Store.Remove(ref) }

func (l Local) Import(r io.Reader, name string, progress func(image.Progress)) ([]image.Image, error) {
	return l.Store.Import(context.Background(), r, name, progress)
}

func (l Local) Prune() (Pruned, error) {
	freed, images, err := l.Store.Prune(context.Background())
	return Pruned{Freed: freed, Images: images}, err
}

// ServeImages answers the image calls.
func ServeImages(mux *http.ServeMux, store *image.Store) {
	l := Local{store}
	mux.HandleFunc("GET /images", func(w http.ResponseWriter, _ *http.Request) {
		list, err := l.List()
		reply(w, list, err)
	})
	mux.HandleFunc("DELETE /images", func(w http.ResponseWriter, r *http.Request) {
		reply(w, struct{}{}, l.Remove(r.URL.Query().Get("ref")))
	})
	mux.HandleFunc("POST /images/prune", func(w http.ResponseWriter, r *http.Request) {
		done, err := l.Prune()
		reply(w, done, err)
	})
	mux.HandleFunc("POST /images", func(w http.ResponseWriter, r *http.Request) { serveImport(w, r, store) })
}

// serveImport streams progress while the body is read.
func serveImport(w http.ResponseWriter, r *http.Request, store *image.Store) {
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex() // a unix socket's HTTP/1 always can
	lines := json.NewEncoder(w)
	send := func(line ImportLine) {
		_ = lines.Encode(line) // it fails when the client is gone, and so will the read
		_ = rc.Flush()
	}
	images, err := store.Import(r.Context(), r.Body, r.URL.Query().Get("name"), func(p image.Progress) { send(ImportLine{Progress: &p}) })
	_, _ = io.Copy(io.Discard, r.Body) // the sender reads the answer once it has sent all
	if err != nil {
		send(ImportLine{Error: err.Error()})
		return
	}
	send(ImportLine{Images: images})
}

func reply(w http.ResponseWriter, v any, err error) {
	if err != nil {
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // it fails when the client is gone
}
