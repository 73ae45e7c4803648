// Package webhook asks the admission webhooks that MutatingWebhookConfigurations
// and ValidatingWebhookConfigurations name (see
// https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/).
//
// Mutating webhooks are asked one after the other, by the name of their
// configuration and their place in it; validating ones all at once. A webhook
// that hangs, lies or answers too much costs a request no more than the webhook's
// timeout, and what happens then is the webhook's failurePolicy.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	admissionregv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	k8sadmission "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"proa/api"
	"proa/apiserver/admission"
	"proa/apiserver/admission/extension"
	"proa/apiserver/callout"
	"proa/auth"
)

const (
	mutatingConfigurations   = "admissionregistration.k8s.io/mutatingwebhookconfigurations"
	validatingConfigurations = "admissionregistration.k8s.io/validatingwebhookconfigurations"
)

// Config is what the plugins need.
type Config struct {
	Pool       *callout.Pool
	Authorizer auth.Authorizer
	// Metrics is where they are registered; nil registers none.
	Metrics prometheus.Registerer
	Log     *slog.Logger
}

// Webhooks are the two admission plugins.
type Webhooks struct {
	pool       *callout.Pool
	authorizer authorizer.UnconditionalAuthorizer
	log        *slog.Logger
	metrics    *metrics
	mutating   extension.Kept[[]*hook]
	validating extension.Kept[[]*hook]
}

// New makes them.
func New(c Config) *Webhooks {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Webhooks{
		pool: c.Pool, authorizer: extension.Authorizer(c.Authorizer), log: c.Log, metrics: newMetrics(c.Metrics),
		mutating:   extension.Kept[[]*hook]{Compile: mutatingHooks},
		validating: extension.Kept[[]*hook]{Compile: validatingHooks},
	}
}

// Mutating is MutatingAdmissionWebhook.
func (w *Webhooks) Mutating() admission.Plugin {
	return admission.Plugin{Name: "MutatingAdmissionWebhook", Mutate: w.mutate}
}

// Validating is ValidatingAdmissionWebhook.
func (w *Webhooks) Validating() admission.Plugin {
	return admission.Plugin{Name: "ValidatingAdmissionWebhook", Validate: w.validate}
}

// hook is one webhook of a configuration.
type hook struct {
	configuration, name string
	index               int
	scope               extension.Scope
	matcher             *extension.Matcher
	target              callout.Target
	timeout             int32 // seconds
	ignore, sideEffects bool
	version             string // of the AdmissionReview; "" is one that it does not know
	reinvoke            bool
	mutating            bool
}

func mutatingHooks(obj api.Object) (out []*hook) {
	c, ok := obj.(*admissionregv1.MutatingWebhookConfiguration)
	if !ok {
		return nil
	}
	for i := range c.Webhooks {
		m := &c.Webhooks[i]
		v := admissionregv1.ValidatingWebhook{
			Name: m.Name, ClientConfig: m.ClientConfig, Rules: m.Rules, FailurePolicy: m.FailurePolicy, MatchPolicy: m.MatchPolicy,
			NamespaceSelector: m.NamespaceSelector, ObjectSelector: m.ObjectSelector, SideEffects: m.SideEffects,
			TimeoutSeconds: m.TimeoutSeconds, AdmissionReviewVersions: m.AdmissionReviewVersions, MatchConditions: m.MatchConditions,
		}
		h := newHook(c.Name, i, &v)
		h.mutating = true
		h.reinvoke = m.ReinvocationPolicy != nil && *m.ReinvocationPolicy == admissionregv1.IfNeededReinvocationPolicy
		out = append(out, h)
	}
	return out
}

func validatingHooks(obj api.Object) (out []*hook) {
	c, ok := obj.(*admissionregv1.ValidatingWebhookConfiguration)
	if !ok {
		return nil
	}
	for i := range c.Webhooks {
		out = append(out, newHook(c.Name, i, &c.Webhooks[i]))
	}
	return out
}

func newHook(configuration string, index int, w *admissionregv1.ValidatingWebhook) *hook {
	h := &hook{
		configuration: configuration, name: w.Name, index: index, target: targetOf(&w.ClientConfig), timeout: 10,
		scope:       extension.WebhookScope(w.Rules, w.MatchPolicy, w.NamespaceSelector, w.ObjectSelector),
		ignore:      w.FailurePolicy != nil && *w.FailurePolicy == admissionregv1.Ignore,
		sideEffects: w.SideEffects == nil || *w.SideEffects != admissionregv1.SideEffectClassNone && *w.SideEffects != admissionregv1.SideEffectClassNoneOnDryRun,
	}
	if w.TimeoutSeconds != nil {
		h.timeout = *w.TimeoutSeconds
	}
	for _, v := range w.AdmissionReviewVersions {
		if v == "v1" || v == "v1beta1" {
			h.version = v
			break
		}
	}
	if len(w.MatchConditions) > 0 {
		h.matcher = extension.NewMatcher(extension.Conditions(), w.MatchConditions, w.FailurePolicy, false)
	}
	return h
}

// id names the webhook among all.
func (h *hook) id() string { return fmt.Sprintf("%s/%s/%d", h.configuration, h.name, h.index) }

func targetOf(c *admissionregv1.WebhookClientConfig) callout.Target {
	t := callout.Target{CABundle: c.CABundle}
	if c.URL != nil {
		t.URL = *c.URL
	}
	if s := c.Service; s != nil {
		t.Service = &callout.Service{Namespace: s.Namespace, Name: s.Name}
		if s.Path != nil {
			t.Service.Path = *s.Path
		}
		if s.Port != nil {
			t.Service.Port = *s.Port
		}
	}
	return t
}

// all are the webhooks of all configurations, in order.
func all(lists [][]*hook) (out []*hook) {
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// call is a webhook that a request concerns.
type call struct {
	*hook
	match extension.Match
	at    *k8sadmission.VersionedAttributes
	index int // among all webhooks, for audit annotations
}

// concerns decides whether a webhook is to be asked; nil is no.
func (w *Webhooks) concerns(ctx context.Context, v *extension.View, h *hook, index int) (*call, error) {
	m, ok, err := v.Matches(&h.scope)
	if err != nil {
		return nil, configError(v, err)
	}
	if !ok {
		return nil, nil
	}
	at, err := v.At(m)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	ok, err = h.matcher.Matches(ctx, v, at, m, nil, w.authorizer)
	if err != nil {
		return nil, v.Forbidden(err)
	}
	if !ok {
		w.metrics.excluded(h, v.Op)
		return nil, nil
	}
	return &call{h, m, at, index}, nil
}

// configError is the answer where a selector cannot be used or the namespace is
// not there.
func configError(v *extension.View, err error) error {
	var s apierrors.APIStatus
	if errors.As(err, &s) {
		return err
	}
	return apierrors.NewInternalError(err)
}

// outcome is what a webhook's call means for the request.
func (w *Webhooks) outcome(ctx context.Context, v *extension.View, c *call, err error) error {
	var failed *callError
	if no, ok := err.(*denied); ok {
		return no.StatusError
	}
	if !errors.As(err, &failed) {
		return err
	}
	if !c.ignore {
		w.log.Debug("a webhook failed, and with it the request", "webhook", c.name, "err", err)
		return apierrors.NewInternalError(err)
	}
	if !errors.Is(err, context.Canceled) {
		w.log.Warn("a webhook failed and is passed over", "webhook", c.name, "err", err)
		w.metrics.failedOpen(c.hook)
		annotate(v, c.failedOpenKey(v.Round), c.name)
	}
	if ctx.Err() != nil {
		return apierrors.NewTimeoutError("request did not complete within requested timeout", 0)
	}
	return nil
}

func annotate(v *extension.View, key, value string) {
	if v.Annotate != nil {
		v.Annotate(key, value)
	}
}
