package apiserver

import (
	"fmt"
	"mime"
	"net/http"
	"sort"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/apiserver/codec"
)

// wants is the answer that a client asks for.
type wants struct {
	Format codec.Format
	// As is "", "Table", "PartialObjectMetadata" or another kind's name that
	// discovery knows; Group and Version are that kind's.
	As, Group, Version string
	Pretty             bool
}

type mediaRange struct {
	typ    string
	params map[string]string
	q      float64
}

// accepted parses an Accept header into its ranges, best first.
func accepted(header string) []mediaRange {
	var out []mediaRange
	for _, part := range strings.Split(header, ",") {
		typ, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil {
			continue
		}
		q := 1.0
		if s, ok := params["q"]; ok {
			if v, err := strconv.ParseFloat(s, 64); err == nil {
				q = v
			}
		}
		out = append(out, mediaRange{typ, params, q})
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].q > out[j].q })
	return out
}

// negotiate picks the first range of Accept that can be served. shows says which
// kinds the resource can be shown as.
func negotiate(r *http.Request, shows func(w wants) bool) (wants, error) {
	header := r.Header.Get("Accept")
	pretty := prettyAsked(r)
	if header == "" {
		header = "*/*"
	}
	for _, m := range accepted(header) {
		w := wants{As: m.params["as"], Group: m.params["g"], Version: m.params["v"], Pretty: pretty}
		switch f, ok := codec.ByMediaType(m.typ); {
		case ok:
			w.Format = f
		case m.typ == "*/*" || m.typ == "application/*":
			w.Format = codec.JSON
		default:
			continue
		}
		if shows(w) {
			return w, nil
		}
	}
	return wants{Format: codec.JSON, Pretty: pretty}, notAcceptable()
}

func notAcceptable() error {
	err := apierrors.NewGenericServerResponse(http.StatusNotAcceptable, "", noResource, "",
		"only the following media types are accepted: "+strings.Join(codec.MediaTypes(), ", "), 0, false)
	err.ErrStatus.Reason = metav1.StatusReasonNotAcceptable
	return err
}

func unsupportedMedia(accepted ...string) error {
	if accepted == nil {
		accepted = codec.MediaTypes()
	}
	err := apierrors.NewGenericServerResponse(http.StatusUnsupportedMediaType, "", noResource, "",
		fmt.Sprintf("the body of the request was in an unknown format - accepted media types include: %s", strings.Join(accepted, ", ")), 0, false)
	err.ErrStatus.Reason = metav1.StatusReasonUnsupportedMediaType
	return err
}

// plain accepts no transformation.
func plain(w wants) bool { return w.As == "" }

// prettyAsked tells people at a terminal from programs, as upstream does.
func prettyAsked(r *http.Request) bool {
	if v, ok := r.URL.Query()["pretty"]; ok {
		return v[0] == "" || isTrue(v[0])
	}
	agent := r.UserAgent()
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}
