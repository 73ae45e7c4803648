package webhook

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/apiserver/admission"
	"proa/apiserver/admission/extension"
)

// validate asks all validating webhooks at once. Of several refusals the first in
// their order is the answer.
func (w *Webhooks) validate(ctx context.Context, r *admission.Request) error {
	if extension.Exempt(r) {
		return nil
	}
	hooks := all(extension.Every(r.World, validatingConfigurations, &w.validating))
	if len(hooks) == 0 {
		return nil
	}
	v := extension.NewView(r)
	var calls []*call
	for i, h := range hooks {
		c, err := w.concerns(ctx, v, h, i)
		if err != nil {
			return err
		}
		if c != nil {
			calls = append(calls, c)
		}
	}
	switch {
	case len(calls) == 0:
		return nil
	case ctx.Err() != nil:
		return apierrors.NewTimeoutError("request did not complete within requested timeout", 0)
	}
	answers := make([]answer, len(calls))
	var wg sync.WaitGroup
	for i, c := range calls[1:] {
		wg.Go(func() { answers[i+1] = w.judge(ctx, v, c) })
	}
	answers[0] = w.judge(ctx, v, calls[0])
	wg.Wait()
	var first error
	for i, a := range answers {
		calls[i].tell(v, a.res)
		if err := w.outcome(ctx, v, calls[i], a.err); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// answer is what came of asking one webhook.
type answer struct {
	res *admissionv1.AdmissionResponse
	err error
}

// judge asks one validating webhook. A panic on the way is a failure of this
// webhook.
func (w *Webhooks) judge(ctx context.Context, v *extension.View, c *call) (a answer) {
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			w.log.Error("asking a webhook panicked", "webhook", c.name, "panic", p, "stack", string(debug.Stack()))
			a.err = c.failed(http.StatusInternalServerError, "asking it panicked: %v", p)
		}
		w.metrics.asked(c.hook, v.Op, time.Since(start), a.err)
	}()
	a.res, a.err = w.ask(ctx, v, c)
	return a
}

func (c *call) failedOpenKey(round int) string {
	kind := "validating"
	if c.mutating {
		kind = "mutation"
	}
	return fmt.Sprintf("failed-open.%s.webhook.admission.k8s.io/round_%d_index_%d", kind, round, c.index)
}
