package aggregate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"proa/apiserver/callout"
	"proa/store"
)

const (
	// askTimeout is the time that a remote server has to answer a question of
	// this server's own.
	askTimeout = 5 * time.Second
	// attempts is how many endpoints may fail before the server counts as failing.
	attempts = 5
	// maxDocument bounds what is read of a remote server's documents, in bytes.
	maxDocument = 16 << 20
	// self is who asks; as a member of system:masters it may always.
	self = "system:kube-aggregator"
)

// acceptAggregated asks for the aggregated form of discovery, as any version of
// the server has it.
const acceptAggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList," +
	"application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList;q=0.9,application/json;q=0.1"

func target(s *apiregistrationv1.APIService, upgrade bool) callout.Target {
	ref := s.Spec.Service
	return callout.Target{
		Service:  &callout.Service{Namespace: ref.Namespace, Name: ref.Name, Port: portNumber(ref)},
		CABundle: s.Spec.CABundle, InsecureSkipTLSVerify: s.Spec.InsecureSkipTLSVerify,
		ShowClientCert: true, OnlyHTTP1: upgrade,
	}
}

// answer is a remote server's answer to a question of this server's own.
type answer struct {
	status    int
	mediaType string
	params    map[string]string
	etag      string
	body      []byte
}

// ask gets a path of the APIService's server.
func (a *Aggregator) ask(ctx context.Context, s *apiregistrationv1.APIService, path string, header http.Header) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c, u, err := a.cfg.Pool.Client(target(s, false))
	if err != nil {
		return answer{}, err
	}
	u = &url.URL{Scheme: u.Scheme, Host: u.Host, Path: path}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return answer{}, err
	}
	req.Header = header.Clone()
	transport.SetAuthProxyHeaders(req, self, "", []string{"system:masters"}, nil)
	resp, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err == nil && len(body) > maxDocument {
		err = fmt.Errorf("%s answers with more than %d bytes", u, maxDocument)
	}
	out := answer{status: resp.StatusCode, etag: resp.Header.Get("ETag"), body: body}
	out.mediaType, out.params, _ = mime.ParseMediaType(resp.Header.Get("Content-Type")) // none is as good as an unknown one
	return out, err
}

// probe asks the server for what every server of a group version must serve. An
// endpoint that fails does not decide while another answers.
func (a *Aggregator) probe(ctx context.Context, s *apiregistrationv1.APIService) error {
	err := a.probeOnce(ctx, s)
	if err == nil {
		return nil
	}
	results := make(chan error, attempts-1)
	for range attempts - 1 {
		go func() { results <- a.probeOnce(ctx, s) }()
	}
	for range attempts - 1 {
		if e := <-results; e == nil {
			err = nil // the others end by their own time limit
		}
	}
	return err
}

func (a *Aggregator) probeOnce(ctx context.Context, s *apiregistrationv1.APIService) error {
	path := pathOf(gvOf(s))
	where := fmt.Sprintf("https://%s.%s.svc:%d%s", s.Spec.Service.Name, s.Spec.Service.Namespace, portNumber(s.Spec.Service), path)
	got, err := a.ask(ctx, s, path, http.Header{"Accept": {"application/json"}})
	if err != nil {
		return fmt.Errorf("failing or missing response from %s: %w", where, err)
	}
	if got.status < http.StatusOK || got.status >= http.StatusMultipleChoices {
		return fmt.Errorf("failing or missing response from %s: bad status from %s: %d", where, where, got.status)
	}
	return nil
}

// told is what a remote server said of one of its group versions.
type told struct {
	doc  apidiscoveryv2.APIVersionDiscovery
	etag string
}

func (a *Aggregator) tells(gv schema.GroupVersion) apidiscoveryv2.APIVersionDiscovery {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.told[gv].doc
}

// learn asks the server what its group version holds.
func (a *Aggregator) learn(ctx context.Context, s *apiregistrationv1.APIService) {
	gv := gvOf(s)
	a.mu.Lock()
	known := a.told[gv]
	a.mu.Unlock()
	next, err := a.resources(ctx, s, known)
	if err != nil {
		a.cfg.Log.Debug("a remote server does not tell what it serves", "name", s.Name, "err", err)
		a.doubt(gv)
		return
	}
	next.doc.Freshness = apidiscoveryv2.DiscoveryFreshnessCurrent
	if !a.current(s) {
		return
	}
	a.mu.Lock()
	a.told[gv] = next
	a.mu.Unlock()
}

// current tells whether the APIService still names the server that was asked.
func (a *Aggregator) current(s *apiregistrationv1.APIService) bool {
	now := serviceOf(a.cfg.Store.Snapshot().Get(store.Key{Resource: resource, Name: s.Name}))
	return now != nil && now.UID == s.UID && reflect.DeepEqual(now.Spec.Service, s.Spec.Service)
}

// doubt marks what was learned as possibly not true any more.
func (a *Aggregator) doubt(gv schema.GroupVersion) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t, ok := a.told[gv]; ok {
		t.doc.Freshness, t.etag = apidiscoveryv2.DiscoveryFreshnessStale, ""
		a.told[gv] = t
	}
}

// forget drops what was learned of APIServices that are not remote any more.
func (a *Aggregator) forget(remote map[string]store.Scope) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for gv := range a.told {
		if _, ok := remote[nameOf(gv)]; !ok {
			delete(a.told, gv)
		}
	}
}

func (a *Aggregator) resources(ctx context.Context, s *apiregistrationv1.APIService, known told) (told, error) {
	gv, header := gvOf(s), http.Header{"Accept": {acceptAggregated}}
	if known.etag != "" {
		header.Set("If-None-Match", known.etag)
	}
	got, err := a.ask(ctx, s, "/apis", header)
	switch {
	case err != nil:
		return told{}, err
	case got.status == http.StatusNotModified && known.etag != "":
		return known, nil
	case got.status == http.StatusServiceUnavailable:
		return told{}, errors.New("/apis is not available there")
	case got.status == http.StatusOK && got.params["as"] == "APIGroupDiscoveryList":
		doc, err := pick(got.body, gv)
		return told{doc, got.etag}, err
	}
	return a.classic(ctx, s)
}

// pick finds the group version in an aggregated document.
func pick(body []byte, gv schema.GroupVersion) (apidiscoveryv2.APIVersionDiscovery, error) {
	var list apidiscoveryv2.APIGroupDiscoveryList
	if err := json.Unmarshal(body, &list); err != nil {
		return apidiscoveryv2.APIVersionDiscovery{}, err
	}
	for _, g := range list.Items {
		for _, v := range g.Versions {
			if g.Name == gv.Group && v.Version == gv.Version {
				complete(v.Resources)
				return v, nil
			}
		}
	}
	return apidiscoveryv2.APIVersionDiscovery{Version: gv.Version}, nil
}

// complete gives every resource a response kind: older clients cannot do without.
func complete(resources []apidiscoveryv2.APIResourceDiscovery) {
	for i := range resources {
		r := &resources[i]
		if r.ResponseKind == nil {
			r.ResponseKind = &metav1.GroupVersionKind{}
		}
		for k := range r.Subresources {
			if r.Subresources[k].ResponseKind == nil {
				r.Subresources[k].ResponseKind = &metav1.GroupVersionKind{}
			}
		}
	}
}

// classic reads the group version's own document, of servers that know no other.
func (a *Aggregator) classic(ctx context.Context, s *apiregistrationv1.APIService) (told, error) {
	gv := gvOf(s)
	got, err := a.ask(ctx, s, pathOf(gv), http.Header{"Accept": {"application/json"}})
	if err != nil {
		return told{}, err
	}
	if got.status != http.StatusOK {
		return told{}, fmt.Errorf("%s answers with status %d", pathOf(gv), got.status)
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(got.body, &list); err != nil {
		return told{}, err
	}
	return told{doc: apidiscoveryv2.APIVersionDiscovery{Version: gv.Version, Resources: aggregated(list.APIResources)}}, nil
}

// aggregated turns a classic list into the aggregated form. A subresource may come
// before its parent, or have none.
func aggregated(list []metav1.APIResource) []apidiscoveryv2.APIResourceDiscovery {
	var out []apidiscoveryv2.APIResourceDiscovery
	at := map[string]int{}
	parent := func(name string, r metav1.APIResource) *apidiscoveryv2.APIResourceDiscovery {
		i, ok := at[name]
		if !ok {
			i = len(out)
			at[name] = i
			out = append(out, apidiscoveryv2.APIResourceDiscovery{Resource: name, Scope: scopeOf(r), ResponseKind: &metav1.GroupVersionKind{}})
		}
		return &out[i]
	}
	for _, r := range list {
		kind := &metav1.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
		name, sub, isSub := strings.Cut(r.Name, "/")
		p := parent(name, r)
		if isSub {
			p.Subresources = append(p.Subresources, apidiscoveryv2.APISubresourceDiscovery{Subresource: sub, ResponseKind: kind, Verbs: r.Verbs})
			continue
		}
		p.ResponseKind, p.Scope, p.Verbs, p.SingularResource = kind, scopeOf(r), r.Verbs, r.SingularName
		p.ShortNames, p.Categories = r.ShortNames, r.Categories
	}
	return out
}

func scopeOf(r metav1.APIResource) apidiscoveryv2.ResourceScope {
	if r.Namespaced {
		return apidiscoveryv2.ScopeNamespace
	}
	return apidiscoveryv2.ScopeCluster
}
