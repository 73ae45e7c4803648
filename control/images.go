package control

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"

	"proa/image"
)

// The image calls of the socket:
//
//	GET    /images              the images
//	POST   /images?name=N       import the archive in the body; lines of ImportLine
//	DELETE /images?ref=R        remove one name, or an image with all its names
//	POST   /images/prune        remove what no container uses

// ImportLine is one line of an import's answer: progress, or the end of it.
type ImportLine struct {
	Progress *image.Progress `json:"progress,omitempty"`
	Images   []image.Image   `json:"images,omitempty"`
	Error    string          `json:"error,omitempty"`
}

// Pruned is what a prune did.
type Pruned struct {
	Freed  int64         `json:"freed"`
	Images []image.Image `json:"images"`
}

// Images does the image calls, on a running instance or, where none runs, on
// its image store: it is the server's and the command's view of one contract.
type Images interface {
	List() ([]image.Image, error)
	Import(r io.Reader, name string, progress func(image.Progress)) ([]image.Image, error)
	Remove(ref string) error
	Prune() (Pruned, error)
}

// Images returns the instance's images.
func (i Instance) Images() Images { return remote{i.Client()} }

type remote struct{ http *http.Client }

func (r remote) do(method, path string, query url.Values, body io.Reader) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "proa", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequest(method, u.String(), body)
	if err != nil {
		return nil, err
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return nil, errors.New(string(text))
	}
	return resp, nil
}

func (r remote) into(out any, method, path string, query url.Values) error {
	resp, err := r.do(method, path, query, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(out)
}

func (r remote) List() (out []image.Image, err error) {
	return out, r.into(&out, http.MethodGet, "/images", nil)
}

func (r remote) Remove(ref string) error {
	var done struct{}
	return r.into(&done, http.MethodDelete, "/images", url.Values{"ref": {ref}})
}

func (r remote) Prune() (out Pruned, err error) {
	return out, r.into(&out, http.MethodPost, "/images/prune", nil)
}

func (r remote) Import(archive io.Reader, name string, progress func(image.Progress)) ([]image.Image, error) {
	resp, err := r.do(http.MethodPost, "/images", url.Values{"name": {name}}, archive)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	lines := json.NewDecoder(resp.Body)
	for {
		var line ImportLine
		if err := lines.Decode(&line); err != nil {
			return nil, errors.New("the cluster stopped before the import was done: run it again")
		}
		switch {
		case line.Error != "":
			return nil, errors.New(line.Error)
		case line.Progress != nil:
			progress(*line.Progress)
		default:
			return line.Images, nil
		}
	}
}
