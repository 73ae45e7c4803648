package apiserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"proa/apiserver/audit"
	"proa/apiserver/codec"
	"proa/apiserver/fairness"
)

var noResource = schema.GroupResource{}

// gzipFrom is the size in bytes from which an answer is compressed for clients
// that accept that; below, it costs more than it saves.
const gzipFrom = 128 << 10

// maxWarnings bounds the Warning headers of one answer. Beyond maxWarningText
// bytes in all, a warning is cut to cutWarning.
const maxWarnings, maxWarningText, cutWarning = 32, 4 << 10, 256

// exchange is one request and its answer.
type exchange struct {
	http.ResponseWriter
	r        *http.Request
	t        target
	ticket   *fairness.Ticket
	turn     turn
	long     bool   // a watch or stream
	hangup   func() // ends the context of one
	written  int    // bytes of the answer
	taking   *taking
	entry    *audit.Entry
	failure  *metav1.Status // what fail answered
	asked    url.Values     // the query, once it was parsed
	status   int
	warned   sync.Mutex // around warnings: a collection's deletes run beside each other
	warnings []string
	// warningText is the length of what was warned of, in bytes.
	warningText int
}

func (x *exchange) WriteHeader(code int) {
	if x.status != 0 {
		return
	}
	if code >= 100 && code < 200 && code != http.StatusSwitchingProtocols {
		x.ResponseWriter.WriteHeader(code) // the answer itself is still to come
		return
	}
	x.status = code
	x.started()
	for _, text := range x.warnings {
		if h, err := utilnet.NewWarningHeader(299, "-", text); err == nil {
			x.Header().Add("Warning", h)
		}
	}
	x.ResponseWriter.WriteHeader(code)
}

func (x *exchange) Write(p []byte) (int, error) {
	if x.status == 0 {
		x.WriteHeader(http.StatusOK)
	}
	x.answering(len(p))
	return x.ResponseWriter.Write(p)
}

// Flush sends what is written so far.
func (x *exchange) Flush() {
	_ = http.NewResponseController(x.ResponseWriter).Flush() // a client that went away shows at the next write
}

// query is the URL's.
func (x *exchange) query() url.Values {
	if x.asked == nil {
		x.asked = x.r.URL.Query()
	}
	return x.asked
}

// Unwrap lets http.ResponseController reach the connection.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

func (x *exchange) warn(text string) {
	x.warned.Lock()
	defer x.warned.Unlock()
	if len(x.warnings) == maxWarnings {
		return
	}
	if x.warningText += len(text); x.warningText > maxWarningText {
		text = clip(text, cutWarning)
	}
	x.warnings = append(x.warnings, text)
}

// object answers with an object that is not a stored record.
func (x *exchange) object(code int, w wants, obj runtime.Object) {
	x.noteAnswer(obj)
	if !codec.CanEncode(w.Format, obj) {
		w.Format = codec.JSON
	}
	data, err := codec.Marshal(w.Format, obj)
	if err != nil {
		x.fail(apierrors.NewInternalError(err))
		return
	}
	x.body(code, w, data)
}

// body answers with bytes in the wanted format.
func (x *exchange) body(code int, w wants, data []byte) {
	x.bodyAs(code, w, w.Format.MediaType(), data)
}

func (x *exchange) bodyAs(code int, w wants, contentType string, data []byte) {
	if w.Pretty && w.Format == codec.JSON {
		data = indent(data)
	}
	x.Header().Set("Content-Type", contentType)
	x.Header().Set("Cache-Control", "no-cache, private")
	if len(data) >= gzipFrom && x.acceptsGzip() {
		x.zipped(code, func(out io.Writer) error { _, err := out.Write(data); return err })
		return
	}
	x.Header().Set("Content-Length", strconv.Itoa(len(data)))
	x.WriteHeader(code)
	if x.r.Method != http.MethodHead {
		_, _ = x.Write(data) // a client that went away cannot be told
	}
}

func indent(data []byte) []byte {
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(data), "", "  "); err != nil {
		return data
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// acceptsGzip tells whether compressing serves the client: one on this machine
// would only spend the CPU time of both ends.
func (x *exchange) acceptsGzip() bool {
	return !x.sameMachine() && strings.Contains(x.r.Header.Get("Accept-Encoding"), "gzip")
}

// sameMachine tells clients that reach the server from the address that they
// reach it at.
func (x *exchange) sameMachine() bool {
	local, ok := x.r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if !ok {
		return false
	}
	remote, err := netip.ParseAddrPort(x.r.RemoteAddr)
	return err == nil && remote.Addr().Unmap() == local.AddrPort().Addr().Unmap()
}

var gzipWriters = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // a constant, valid level
	return w
}}

func (x *exchange) zipped(code int, write func(io.Writer) error) {
	x.Header().Set("Content-Encoding", "gzip")
	x.Header().Add("Vary", "Accept-Encoding")
	x.WriteHeader(code)
	gz := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(gz)
	gz.Reset(x)
	if err := write(gz); err == nil {
		_ = gz.Close() // as above
	}
}

// fail answers with a Status.
func (x *exchange) fail(err error) {
	w, nerr := negotiate(x.r, plain)
	if nerr != nil || w.Format == codec.YAML {
		w.Format = codec.JSON
	}
	status := statusOf(err)
	x.failure = status
	if errors.As(err, new(unserved)) {
		http.NotFound(x, x.r)
		return
	}
	if d := status.Details; d != nil && d.RetryAfterSeconds > 0 {
		x.Header().Set("Retry-After", strconv.Itoa(int(d.RetryAfterSeconds)))
	}
	x.object(int(status.Code), w, status)
}

// statusOf is the Status that an error is on the wire. An error that is none is
// an internal one.
func statusOf(err error) *metav1.Status {
	status := metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: err.Error()}
	var s apierrors.APIStatus
	if errors.As(err, &s) {
		status = s.Status()
	}
	if status.Code == 0 {
		status.Code = http.StatusInternalServerError
	}
	if status.Status == "" {
		status.Status = metav1.StatusFailure
	}
	status.Kind, status.APIVersion = "Status", "v1"
	status.Message = clip(status.Message, maxMessage)
	if d := status.Details; d != nil && len(d.Causes) > 0 {
		d = d.DeepCopy()
		for i := range d.Causes {
			d.Causes[i].Message = clip(d.Causes[i].Message, maxCause)
		}
		status.Details = d
	}
	return &status
}

// maxMessage and maxCause bound what a client is told in an error, in bytes: most
// of a long one is what the client itself has sent.
const maxMessage, maxCause = 64 << 10, 4 << 10

func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}
