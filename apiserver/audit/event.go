package audit

import (
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/uuid"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"proa/auth"
)

// HeaderID is how a client names its request in the audit log, and is told.
const HeaderID = auditv1.HeaderAuditID

// maxID bounds what a client may call its request.
const maxID = 64

// Auditor records requests by a policy. A nil Auditor records nothing.
type Auditor struct {
	policy *Policy
	sinks  []Sink
	strict bool
	now    func() time.Time
	log    *slog.Logger
}

// Sink takes events. They are shared and must not be changed.
type Sink interface {
	// Put takes an event. An error means that it is not recorded.
	Put(ev *auditv1.Event) error
}

// Entry is one request's event on its way. A nil Entry takes everything and
// records nothing.
type Entry struct {
	a    *Auditor
	rule *rule
	mu   sync.Mutex
	ev   auditv1.Event
	done bool
}

// Begin starts the record of a request whose sender is known, or returns nil
// where the policy records nothing of it.
func (a *Auditor) Begin(r *http.Request, at *auth.Attributes) *Entry {
	if a == nil {
		return nil
	}
	rule := a.policy.find(at)
	if rule == nil || rule.Level == auditv1.LevelNone {
		return nil
	}
	e := &Entry{a: a, rule: rule}
	e.ev = auditv1.Event{
		TypeMeta: metav1.TypeMeta{Kind: "Event", APIVersion: auditv1.SchemeGroupVersion.String()},
		Level:    rule.Level, AuditID: idOf(r), RequestURI: r.URL.RequestURI(), Verb: at.Verb, User: infoOf(at.User),
		UserAgent: agentOf(r), RequestReceivedTimestamp: metav1.NewMicroTime(a.now()),
	}
	for _, ip := range utilnet.SourceIPs(r) {
		e.ev.SourceIPs = append(e.ev.SourceIPs, ip.String())
	}
	if at.ResourceRequest {
		e.ev.ObjectRef = &auditv1.ObjectReference{Resource: at.Resource, Namespace: at.Namespace, Name: at.Name,
			APIGroup: at.Group, APIVersion: at.Version, Subresource: at.Subresource}
	}
	return e
}

func idOf(r *http.Request) types.UID {
	if id := r.Header.Get(HeaderID); id != "" && len(id) <= maxID {
		return types.UID(id)
	}
	return uuid.NewUUID()
}

// maxAgent bounds what is kept of a client's name for itself.
const maxAgent = 1024

func agentOf(r *http.Request) string {
	if agent := r.UserAgent(); len(agent) > maxAgent {
		return agent[:maxAgent] + "...TRUNCATED"
	}
	return r.UserAgent()
}

func infoOf(u auth.User) authenticationv1.UserInfo {
	out := authenticationv1.UserInfo{Username: u.Name, UID: u.UID, Groups: u.Groups}
	for k, v := range u.Extra {
		if out.Extra == nil {
			out.Extra = map[string]authenticationv1.ExtraValue{}
		}
		out.Extra[k] = v
	}
	return out
}

// ID is what the answer tells the client; empty where nothing is recorded.
func (e *Entry) ID() string {
	if e == nil {
		return ""
	}
	return string(e.ev.AuditID)
}

// Impersonated notes for whom the sender acts.
func (e *Entry) Impersonated(u auth.User) {
	if e != nil {
		info := infoOf(u)
		e.ev.ImpersonatedUser = &info
	}
}

// Annotate adds a note. The first with a key stays.
func (e *Entry) Annotate(key, value string) {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ev.Annotations == nil {
		e.ev.Annotations = map[string]string{}
	}
	if _, taken := e.ev.Annotations[key]; !taken {
		e.ev.Annotations[key] = value
	}
}

// WantsRequest and WantsResponse tell whether the objects are recorded.
func (e *Entry) WantsRequest() bool {
	return e != nil && (e.rule.Level == auditv1.LevelRequest || e.rule.Level == auditv1.LevelRequestResponse)
}

func (e *Entry) WantsResponse() bool { return e != nil && e.rule.Level == auditv1.LevelRequestResponse }

// Request records the object that was sent, as JSON.
func (e *Entry) Request(data []byte) {
	if e.WantsRequest() && len(data) > 0 && e.ev.RequestObject == nil {
		e.ev.RequestObject = e.object(data)
	}
}

// Response records the object that is answered, as JSON.
func (e *Entry) Response(data []byte) {
	if e.WantsResponse() && len(data) > 0 {
		e.ev.ResponseObject = e.object(data)
	}
}

// object keeps a document, without managedFields where the policy says so.
func (e *Entry) object(data []byte) *runtime.Unknown {
	if e.rule.omitManaged {
		var doc any
		if json.Unmarshal(data, &doc) == nil {
			if short, err := json.Marshal(withoutManaged(doc)); err == nil {
				data = short
			}
		}
	}
	if !json.Valid(data) { // what is no JSON is kept as a text
		data, _ = json.Marshal(string(data)) // a string cannot fail
	}
	return &runtime.Unknown{Raw: data, ContentType: runtime.ContentTypeJSON}
}

func withoutManaged(doc any) any {
	m, ok := doc.(map[string]any)
	if !ok {
		return doc
	}
	if meta, ok := m["metadata"].(map[string]any); ok {
		delete(meta, "managedFields")
	}
	if items, ok := m["items"].([]any); ok {
		for i := range items {
			items[i] = withoutManaged(items[i])
		}
	}
	return m
}

// Status records what was answered.
func (e *Entry) Status(code int, s *metav1.Status) {
	if e == nil {
		return
	}
	if s == nil {
		e.ev.ResponseStatus = &metav1.Status{Code: int32(code)}
		return
	}
	short := *s
	short.TypeMeta, short.Code = metav1.TypeMeta{}, int32(code)
	e.ev.ResponseStatus = &short
}

// Stage records that the request has come so far; nothing comes after the last
// stage. In strict mode a request that cannot be recorded when it arrives is not
// to be served: that is the error.
func (e *Entry) Stage(stage auditv1.Stage) error {
	if e == nil || e.done {
		return nil
	}
	e.done = stage == auditv1.StageResponseComplete || stage == auditv1.StagePanic
	if e.rule.omit[stage] {
		return nil
	}
	e.mu.Lock()
	ev := e.ev
	ev.Annotations = maps.Clone(e.ev.Annotations)
	e.mu.Unlock()
	ev.Stage, ev.StageTimestamp = stage, metav1.NewMicroTime(e.a.now())
	if stage == auditv1.StageRequestReceived {
		ev.StageTimestamp = ev.RequestReceivedTimestamp
	}
	var failed error
	for _, sink := range e.a.sinks {
		if err := sink.Put(&ev); err != nil {
			e.a.log.Error("an audit event was not recorded", "id", ev.AuditID, "err", err)
			failed = err
		}
	}
	if !e.a.strict || stage != auditv1.StageRequestReceived {
		return nil
	}
	return failed
}
