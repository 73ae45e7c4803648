package apiserver

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"proa/api"
	"proa/apiserver/codec"
	"proa/apiserver/endpoint"
	"proa/apiserver/table"
	"proa/store"
)

const (
	// minWatch is the shortest time that a watch without timeoutSeconds lasts;
	// it may be twice that, so that clients do not come back all at once.
	minWatch = 30 * time.Minute
	// bookmarkEvery is how often a client that allows bookmarks hears how far
	// the stream is, if it went on at all.
	bookmarkEvery = time.Minute
	// stallTimeout is the time that a client has to take what is written to it.
	stallTimeout = 30 * time.Second
	// frameBatch is the number of bytes from which frames are handed on.
	frameBatch = 32 << 10
)

// stream is a watch's answer under way.
type stream struct {
	c       *call
	w       *endpoint.Watch
	ctl     *http.ResponseController
	shape   codec.Shape
	buf     []byte
	columns bool // the table's columns were sent
	noted   sent
	sent    uint64
	// stall cuts the client off that takes nothing for stallTimeout. It is a
	// timer of the stream's own: a deadline of the connection costs HTTP/2's one
	// goroutine two messages an event.
	stall *time.Timer
}

func (c *call) watch() error {
	opts, err := c.listOptions()
	if err != nil {
		return err
	}
	c.q.Name = ""
	w, err := c.s.endpoint.Watch(c.r.Context(), c.q, opts)
	if err != nil {
		return err
	}
	defer w.Close()
	if f, ok := c.Unwrap().(http.Flusher); !ok || f == nil {
		return errors.New("the connection cannot stream")
	}
	defer c.endWithKind()()
	defer c.s.limits.watched(c.served.Key())()
	c.Header().Set("Content-Type", c.w.Format.StreamType())
	c.Header().Set("Cache-Control", "no-cache, private")
	c.WriteHeader(http.StatusOK)
	st := &stream{c: c, w: w, ctl: http.NewResponseController(c.ResponseWriter), shape: c.shape(), noted: c.s.metrics.sizes.watch(c.t)}
	st.stall = time.AfterFunc(stallTimeout, func() {
		_ = st.ctl.SetWriteDeadline(time.Unix(1, 0)) // not every connection has deadlines
	})
	defer st.stall.Stop()
	_ = st.flush() // the header; a client that went away shows at the next write
	st.run(deadlineOf(c.r.Context(), opts), opts.AllowWatchBookmarks)
	return nil
}

// endWithKind lets the request end when its custom resource is redefined: what
// it shows from then on is of another shape. It returns what releases that.
func (c *call) endWithKind() func() {
	if c.served.Custom == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancelCause(c.r.Context())
	c.r = c.r.WithContext(ctx)
	stop := context.AfterFunc(c.served.Custom.Life, func() { cancel(errRedefined) })
	return func() { stop(); cancel(nil) }
}

// errRedefined ends watches of a custom resource that changed.
var errRedefined = errors.New("the resource was redefined")

func deadlineOf(ctx context.Context, opts endpoint.ListOptions) time.Time {
	d := minWatch + rand.N(minWatch)
	if opts.TimeoutSeconds != nil && *opts.TimeoutSeconds > 0 {
		d = time.Duration(*opts.TimeoutSeconds) * time.Second
	}
	end := time.Now().Add(d)
	if limit, ok := ctx.Deadline(); ok && limit.Before(end) {
		return limit
	}
	return end
}

func (st *stream) run(end time.Time, bookmarks bool) {
	if err := st.begin(); err != nil {
		if st.c.r.Context().Err() == nil {
			st.fail(err)
		}
		return
	}
	st.c.settled()
	ctx, cancel := st.until(end, bookmarks)
	defer func() { cancel() }()
	for {
		changes, rev, err := st.w.Next(ctx)
		switch {
		case err == nil:
			if err := st.send(changes); err != nil {
				st.fail(err)
				return
			}
		case st.c.r.Context().Err() != nil:
			return
		case errors.Is(err, context.DeadlineExceeded):
			if bookmarks && rev > st.sent && st.bookmark(rev, nil) != nil {
				return
			}
			if !time.Now().Before(end) {
				return
			}
			cancel()
			ctx, cancel = st.until(end, bookmarks)
		default:
			st.fail(err)
			return
		}
	}
}

// until is a context that ends when a bookmark is due, or the watch.
func (st *stream) until(end time.Time, bookmarks bool) (context.Context, context.CancelFunc) {
	if next := time.Now().Add(bookmarkEvery); bookmarks && next.Before(end) {
		end = next
	}
	return context.WithDeadline(st.c.r.Context(), end)
}

// begin sends the state that the watch starts from.
func (st *stream) begin() error {
	for rec, err := range st.w.Initial() {
		if err == nil {
			err = st.frame(endpoint.Change{Type: watch.Added, Record: rec})
		}
		if err != nil {
			return err
		}
	}
	if st.w.Bookmark {
		return st.bookmark(st.w.Revision, endpoint.InitialEventsEnd)
	}
	st.sent = st.w.Revision
	return st.flush()
}

func (st *stream) send(changes []endpoint.Change) error {
	for _, ch := range changes {
		if err := st.frame(ch); err != nil {
			return err
		}
		st.sent = ch.Record.Revision()
	}
	return st.flush()
}

// frame appends one event; full batches are written.
func (st *stream) frame(ch endpoint.Change) error {
	part, err := st.part(ch)
	if err != nil {
		return err
	}
	before := len(st.buf)
	if st.buf, err = codec.AppendFrame(st.buf, st.shape.Format, string(ch.Type), part); err != nil {
		return err
	}
	st.noted.event(len(st.buf) - before)
	if len(st.buf) >= frameBatch {
		return st.write()
	}
	return nil
}

func (st *stream) part(ch endpoint.Change) (codec.Part, error) {
	if st.c.w.As == "Table" {
		return st.tablePart(ch)
	}
	rec := ch.Record
	if ch.Prev != nil {
		rec = ch.Prev
	}
	if err := st.shape.Prepare(st.c.r.Context(), rec); err != nil {
		return codec.Part{}, err
	}
	if ch.Prev != nil {
		return st.shape.Left(ch.Prev, ch.Record)
	}
	return st.shape.Record(ch.Record)
}

func (st *stream) tablePart(ch endpoint.Change) (codec.Part, error) {
	rec := ch.Record
	if ch.Prev != nil {
		rec = ch.Prev
	}
	obj, err := codec.Shown(st.c.r.Context(), st.c.served, rec)
	if err != nil {
		return codec.Part{}, err
	}
	m := metav1.ListMeta{ResourceVersion: strconv.FormatUint(ch.Record.Revision(), 10)}
	t, err := table.Make(st.c.served, []api.Object{obj}, m, st.c.r.URL.Query().Get("includeObject"), st.c.w.Version, st.c.s.cfg.Now())
	if err != nil {
		return codec.Part{}, err
	}
	if st.columns {
		t.ColumnDefinitions = nil
	}
	st.columns = true
	data, err := codec.Marshal(st.shape.Format, t)
	return codec.Part{Body: data}, err
}

// bookmark tells how far the stream is.
func (st *stream) bookmark(rev uint64, annotations map[string]string) error {
	obj := st.c.served.New()
	obj.GetObjectKind().SetGroupVersionKind(st.c.served.Resource.GVK())
	obj.SetResourceVersion(strconv.FormatUint(rev, 10))
	obj.SetAnnotations(annotations)
	var part codec.Part
	var err error
	if st.c.w.As == "Table" {
		part, err = st.tableBookmark(obj)
	} else {
		part, err = st.shape.Object(obj)
	}
	if err != nil {
		return err
	}
	if st.buf, err = codec.AppendFrame(st.buf, st.shape.Format, string(watch.Bookmark), part); err != nil {
		return err
	}
	st.sent = rev
	return st.flush()
}

func (st *stream) tableBookmark(obj api.Object) (codec.Part, error) {
	m := metav1.ListMeta{ResourceVersion: obj.GetResourceVersion()}
	t, err := table.Make(st.c.served, []api.Object{obj}, m, "", st.c.w.Version, st.c.s.cfg.Now())
	if err != nil {
		return codec.Part{}, err
	}
	t.ColumnDefinitions = nil
	data, err := codec.Marshal(st.shape.Format, t)
	return codec.Part{Body: data}, err
}

// fail ends the stream with a Status as an ERROR event.
func (st *stream) fail(err error) {
	if errors.Is(err, store.ErrClosed) {
		return
	}
	data, merr := codec.Marshal(st.shape.Format, statusOf(err))
	if merr != nil {
		return
	}
	if st.buf, merr = codec.AppendFrame(st.buf, st.shape.Format, string(watch.Error), codec.Part{Body: data}); merr == nil {
		_ = st.flush() // the stream ends either way
	}
}

func (st *stream) write() error {
	if len(st.buf) == 0 {
		return nil
	}
	st.stall.Reset(stallTimeout)
	_, err := st.c.Write(st.buf)
	st.buf = st.buf[:0]
	if cap(st.buf) > 8*frameBatch {
		st.buf = nil // one large object must not stay for the watch's whole life
	}
	return err
}

func (st *stream) flush() error {
	if err := st.write(); err != nil {
		return err
	}
	st.stall.Reset(stallTimeout)
	err := st.ctl.Flush()
	st.stall.Stop()
	return err
}
