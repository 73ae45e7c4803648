package apiserver

import (
	"bufio"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/yaml"

	"proa/api"
	"proa/apiserver/codec"
	"proa/apiserver/endpoint"
	"proa/apiserver/table"
	"proa/store"
)

func mediaTypeOf(header string) string {
	mt, _, err := mime.ParseMediaType(header)
	if err != nil {
		return header
	}
	return mt
}

// result answers a write.
func (c *call) result(res endpoint.Result, err error) error {
	if err != nil {
		return err
	}
	code := http.StatusOK
	if res.Created {
		code = http.StatusCreated
	}
	if res.Record != nil {
		return c.record(code, res.Record)
	}
	obj, err := res.Object()
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	return c.unstored(code, obj)
}

// unstored answers with an object that is not in the store: of the resource's
// kind, or of a subresource's own.
func (c *call) unstored(code int, obj api.Object) error {
	if obj.GetObjectKind().GroupVersionKind() != c.served.Resource.GVK() {
		c.object(code, c.w, obj)
		return nil
	}
	if c.w.As == "Table" {
		return c.table(code, []api.Object{obj}, endpoint.List{})
	}
	shown, err := c.shape().Convert(obj)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	c.object(code, c.w, shown)
	return nil
}

// record answers with a stored object by copying its encoded form.
func (c *call) record(code int, rec *store.Record) error {
	c.noteRecord(rec)
	if err := c.shape().Prepare(c.r.Context(), rec); err != nil {
		return broken(err)
	}
	if c.w.As == "Table" {
		obj, err := codec.Shown(c.r.Context(), c.served, rec)
		if err != nil {
			return broken(err)
		}
		return c.table(code, []api.Object{obj}, endpoint.List{Revision: rec.Revision()})
	}
	part, err := c.shape().Record(rec)
	if err != nil {
		return broken(err)
	}
	if c.w.Format == codec.YAML {
		data, err := yaml.JSONToYAML(part.Body)
		if err == nil {
			c.body(code, c.w, data)
		}
		return err
	}
	if c.w.Pretty || part.Len() >= gzipFrom {
		c.body(code, c.w, part.AppendTo(nil))
		return nil
	}
	if c.w.Format == codec.JSON {
		part.Tail = newline
	}
	c.pieces(code, part)
	return nil
}

// broken is the answer to a stored object that cannot be shown. An error that is
// an answer already (of a conversion webhook) stays as it is.
func broken(err error) error {
	var known apierrors.APIStatus
	if errors.As(err, &known) {
		return err
	}
	return apierrors.NewInternalError(err)
}

var newline = []byte("\n")

func (c *call) pieces(code int, p codec.Part) {
	h := c.Header()
	h.Set("Content-Type", c.w.Format.MediaType())
	h.Set("Cache-Control", "no-cache, private")
	h.Set("Content-Length", strconv.Itoa(p.Len()))
	c.WriteHeader(code)
	if c.r.Method == http.MethodHead {
		return
	}
	for _, piece := range [][]byte{p.Head, p.Body, p.Tail} {
		if len(piece) == 0 {
			continue
		}
		if _, err := c.Write(piece); err != nil {
			return // the client went away
		}
	}
}

var listBuffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, 64<<10) }}

// writeList answers with a list, written piece by piece.
func (c *call) writeList(l endpoint.List) error {
	c.noteList(l)
	if err := c.shape().Prepare(c.r.Context(), l.Records...); err != nil {
		return broken(err)
	}
	if c.w.As == "Table" {
		objs := make([]api.Object, 0, len(l.Records))
		for _, rec := range l.Records {
			if err := c.r.Context().Err(); err != nil {
				return endpoint.TimedOut(err)
			}
			obj, err := codec.Shown(c.r.Context(), c.served, rec)
			if err != nil {
				return broken(err)
			}
			objs = append(objs, obj)
		}
		return c.table(http.StatusOK, objs, l)
	}
	c.Header().Set("Content-Type", c.w.Format.MediaType())
	c.Header().Set("Cache-Control", "no-cache, private")
	write := func(out io.Writer) error {
		if c.w.Pretty && c.w.Format == codec.JSON {
			return writePretty(out, c.shape(), l)
		}
		return c.shape().WriteList(out, l.Meta(), l.Records)
	}
	large := size(l.Records) >= gzipFrom
	if large && c.acceptsGzip() {
		c.zipped(http.StatusOK, write)
		return nil
	}
	buf := listBuffers.Get().(*bufio.Writer)
	defer listBuffers.Put(buf)
	buf.Reset(c)
	if err := write(buf); err != nil {
		if c.status != 0 {
			panic(http.ErrAbortHandler) // half a list must not look whole
		}
		return broken(err)
	}
	_ = buf.Flush() // a client that went away cannot be told
	return nil
}

func writePretty(out io.Writer, s codec.Shape, l endpoint.List) error {
	var b appendWriter
	if err := s.WriteList(&b, l.Meta(), l.Records); err != nil {
		return err
	}
	_, err := out.Write(indent(b))
	return err
}

type appendWriter []byte

func (w *appendWriter) Write(p []byte) (int, error) { *w = append(*w, p...); return len(p), nil }

func size(records []*store.Record) (n int) {
	for _, r := range records {
		n += len(r.Data())
	}
	return n
}

func (c *call) table(code int, objs []api.Object, l endpoint.List) error {
	include := c.r.URL.Query().Get("includeObject")
	t, err := table.Make(c.served, objs, l.Meta(), include, c.w.Version, c.s.cfg.Now())
	if err != nil {
		return err
	}
	c.object(code, c.w, t)
	return nil
}
