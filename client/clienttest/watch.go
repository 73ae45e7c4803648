package clienttest

import (
	"context"
	"errors"
	"strings"

	"k8s.io/apimachinery/pkg/fields"

	"proa/client"
)

var (
	errBound  = errors.New("the pod is bound, being deleted or another one")
	errClosed = errors.New("the stream is closed")
)

// Watch follows the scopes; one without a Resource follows everything.
func (c *Client) Watch(_ context.Context, scopes ...client.Scope) (client.View, client.Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now, &stream{client: c, scopes: scopes, at: len(c.log), view: c.now, closed: make(chan struct{})}, nil
}

type stream struct {
	client *Client
	scopes []client.Scope
	at     int // next entry of the log
	view   *view
	closed chan struct{}
}

func (s *stream) Close() { close(s.closed) }

func (s *stream) Next(ctx context.Context) ([]client.Event, client.View, error) {
	for {
		events, changed := s.take()
		if len(events) > 0 {
			return events, s.view, nil
		}
		select {
		case <-changed:
		case <-s.closed:
			return nil, nil, errClosed
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

func (s *stream) take() ([]client.Event, chan struct{}) {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	var out []client.Event
	for _, l := range s.client.log[s.at:] {
		if e, ok := s.follows(l.event); ok {
			out = append(out, e)
		}
		s.view = l.view
	}
	s.at = len(s.client.log)
	if s.client.changed == nil {
		s.client.changed = make(chan struct{})
	}
	return out, s.client.changed
}

// follows makes of an object's move into or out of a scope an addition or a
// deletion, as a watch does.
func (s *stream) follows(e client.Event) (client.Event, bool) {
	was, is := s.covers(e, e.Old), s.covers(e, e.New)
	if !was {
		e.Old = nil
	}
	if !is {
		e.New = nil
	}
	return e, was || is
}

func (s *stream) covers(e client.Event, obj client.Object) bool {
	if obj == nil {
		return false
	}
	for _, scope := range s.scopes {
		if covers(scope, e, obj) {
			return true
		}
	}
	return false
}

func covers(scope client.Scope, e client.Event, obj client.Object) bool {
	switch {
	case scope.Resource != nil && scope.Resource.Key() != e.Resource.Key():
		return false
	case scope.Namespace != "" && scope.Namespace != obj.GetNamespace():
		return false
	case scope.Name != "" && scope.Name != obj.GetName():
		return false
	case scope.FieldSelector == "":
		return true
	}
	name, want, _ := strings.Cut(scope.FieldSelector, "=")
	set := fields.Set{"metadata.name": obj.GetName(), "metadata.namespace": obj.GetNamespace()}
	if e.Resource.Fields != nil {
		for k, v := range e.Resource.Fields(obj) {
			set[k] = v
		}
	}
	return set[name] == want
}
