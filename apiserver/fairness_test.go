package apiserver_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"proa/apiserver"
	"proa/auth"
)

// slow allows everybody everything; the crowd's requests take until its gate
// opens.
type slow struct{ gate chan struct{} }

func (s slow) Authorize(ctx context.Context, a auth.Attributes) (auth.Decision, string, error) {
	if a.User.Name == "crowd" {
		select {
		case <-s.gate:
		case <-ctx.Done():
			return auth.Deny, "", errors.New("gone")
		}
	}
	return auth.Allow, "", nil
}

// TestOverload has one client send more than is let in: some of it is refused
// with the time to come back, an operator gets through, and so does an ordinary
// user of the same priority level as soon as a seat is free.
func TestOverload(t *testing.T) {
	gate := make(chan struct{})
	h := start(t, func(c *apiserver.Config) { c.Authorizer = slow{gate}; c.MaxInFlight = 40 })
	const crowd = 1000
	codes := make(chan int, crowd)
	var wg sync.WaitGroup
	send := func(user string) *sink {
		r, _ := http.NewRequest(http.MethodDelete, "/api/v1/namespaces/default/configmaps/none", nil)
		r.Header.Set("Authorization", "Bearer "+user)
		w := &sink{header: http.Header{}}
		h.Handler().ServeHTTP(w, r)
		return w
	}
	for range crowd {
		wg.Go(func() {
			w := send("crowd")
			if w.code == http.StatusTooManyRequests && w.header.Get("Retry-After") == "" {
				t.Error("a refusal does not say when to come back")
			}
			codes <- w.code
		})
	}
	eventually(t, "refusals", func() bool { return len(codes) > 0 })
	if w := h.call(http.MethodGet, "/api/v1/namespaces/default", "application/json", nil); w.Code != http.StatusOK {
		t.Errorf("the operator: %d", w.Code)
	}
	dump := h.call(http.MethodGet, "/debug/api_priority_and_fairness/dump_requests", "", nil).Body.String()
	if !strings.Contains(dump, "crowd") || !strings.Contains(dump, "global-default") {
		t.Errorf("the dump does not show who waits:\n%.500s", dump)
	}
	metrics := h.call(http.MethodGet, "/metrics", "", nil).Body.String()
	if !strings.Contains(metrics, `apiserver_flowcontrol_rejected_requests_total{flow_schema="global-default",priority_level="global-default",reason="queue-full"}`) {
		t.Error("no metric of the refusals")
	}
	if !strings.Contains(metrics, `apiserver_request_terminations_total{code="429",component="apiserver",group="",resource="configmaps"`) {
		t.Error("refusals are not counted as what the server did to protect itself")
	}
	other := make(chan int, 1)
	go func() { other <- send("other").code }()
	eventually(t, "the other user's request in its queue", func() bool {
		return strings.Contains(h.call(http.MethodGet, "/debug/api_priority_and_fairness/dump_requests", "", nil).Body.String(), "other")
	})
	gate <- struct{}{} // one of the crowd is done
	select {
	case code := <-other:
		if code != http.StatusNotFound {
			t.Errorf("the other user: %d", code)
		}
	case <-time.After(10 * time.Second):
		t.Error("the other user waits behind the crowd")
	}
	close(gate)
	wg.Wait()
	close(codes)
	count := map[int]int{}
	for c := range codes {
		count[c]++
	}
	if count[http.StatusTooManyRequests] == 0 || count[http.StatusNotFound] == 0 || len(count) != 2 {
		t.Errorf("answers by code: %v", count)
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s", what)
		}
	}
}

// TestFlowObjects changes the server's own objects over HTTP and sees them kept
// by upstream's rules, and a schema of one's own at work.
func TestFlowObjects(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeProtobuf).FlowcontrolV1()
	schemas, levels := cs.FlowSchemas(), cs.PriorityLevelConfigurations()
	condition := func(name string) string {
		s, err := schemas.Get(ctx, name, metav1.GetOptions{})
		if err != nil || len(s.Status.Conditions) == 0 {
			return ""
		}
		return string(s.Status.Conditions[0].Type) + " " + string(s.Status.Conditions[0].Status) + " " + s.Status.Conditions[0].Reason
	}
	eventually(t, "status of the suggested schemas", func() bool { return condition("service-accounts") == "Dangling False Found" })

	// A mandatory object is put back, a suggested one too unless it is given away.
	patch := func(name, body string) {
		t.Helper()
		_, err := schemas.Patch(ctx, name, types.MergePatchType, []byte(body), metav1.PatchOptions{})
		must(t, err)
	}
	precedence := func(name string) int32 {
		s, err := schemas.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return -1
		}
		must(t, err)
		return s.Spec.MatchingPrecedence
	}
	patch("catch-all", `{"spec":{"matchingPrecedence":5000}}`)
	patch("service-accounts", `{"spec":{"matchingPrecedence":77}}`)
	patch("global-default", `{"metadata":{"annotations":{"apf.kubernetes.io/autoupdate-spec":"false"}},"spec":{"matchingPrecedence":88}}`)
	must(t, schemas.Delete(ctx, "probes", metav1.DeleteOptions{}))
	eventually(t, "catch-all as it must be", func() bool { return precedence("catch-all") == 10000 })
	eventually(t, "service-accounts as suggested", func() bool { return precedence("service-accounts") == 9000 })
	eventually(t, "probes again", func() bool { return precedence("probes") == 2 })
	if p := precedence("global-default"); p != 88 {
		t.Errorf("an object that was given away has precedence %d", p)
	}

	mine := &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "a-mine"}, Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "a-mine"}, MatchingPrecedence: 2,
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
			Subjects:         []flowcontrolv1.Subject{{Kind: "User", User: &flowcontrolv1.UserSubject{Name: "someone"}}},
			NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"get"}, NonResourceURLs: []string{"/version"}}},
		}},
	}}
	made, err := schemas.Create(ctx, mine, metav1.CreateOptions{})
	must(t, err)
	eventually(t, "a dangling schema", func() bool { return condition("a-mine") == "Dangling True NotFound" })
	level := &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "a-mine"}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
			NominalConcurrencyShares: ptr.To[int32](5), LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}}}}
	madeLevel, err := levels.Create(ctx, level, metav1.CreateOptions{})
	must(t, err)
	eventually(t, "a schema whose level exists", func() bool { return condition("a-mine") == "Dangling False Found" })
	eventually(t, "headers that name the schema and the level", func() bool {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/version", nil)
		r.Header.Set("Authorization", "Bearer someone")
		h.Handler().ServeHTTP(w, r) // who may not ask has a schema all the same
		header := w.Header()
		return header.Get("X-Kubernetes-PF-FlowSchema-UID") == string(made.UID) && header.Get("X-Kubernetes-PF-PriorityLevel-UID") == string(madeLevel.UID)
	})
}
