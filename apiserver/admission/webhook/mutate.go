package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/api"
	"proa/apiserver/admission"
	"proa/apiserver/admission/extension"
	"proa/apiserver/codec"
	"proa/apiserver/jsonpatch"
)

const memory = "MutatingAdmissionWebhook"

func (w *Webhooks) mutate(ctx context.Context, r *admission.Request) error {
	if extension.Exempt(r) {
		return nil
	}
	hooks := all(extension.Every(r.World, mutatingConfigurations, &w.mutating))
	if len(hooks) == 0 {
		return nil
	}
	v, s := extension.NewView(r), extension.RoundsOf(r, memory)
	for i, h := range hooks {
		if err := w.mutateOne(ctx, v, s, h, i); err != nil {
			return err
		}
	}
	s.Ended(r)
	return nil
}

func (w *Webhooks) mutateOne(ctx context.Context, v *extension.View, s *extension.Rounds, h *hook, index int) error {
	if !s.Due(v.Request, h.id()) {
		return nil
	}
	c, err := w.concerns(ctx, v, h, index)
	if err != nil || c == nil {
		return err
	}
	start := time.Now()
	changed, err := w.patch(ctx, v, c)
	w.metrics.asked(h, v.Op, time.Since(start), err)
	s.Asked(h.id(), changed, h.reinvoke)
	c.note(v, "mutation", changed, nil)
	return w.outcome(ctx, v, c, err)
}

// patch asks the webhook and applies its patch.
func (w *Webhooks) patch(ctx context.Context, v *extension.View, c *call) (bool, error) {
	res, err := w.ask(ctx, v, c)
	c.tell(v, res)
	if err != nil || len(res.Patch) == 0 {
		return false, err
	}
	ops, err := jsonpatch.Decode(res.Patch)
	if err != nil {
		return false, c.failed(503, "received undecodable patch in webhook response: %w", err)
	}
	switch {
	case len(ops) == 0:
		return false, nil
	case v.Object == nil:
		return false, apierrors.NewInternalError(fmt.Errorf("admission webhook %q attempted to modify the object, which is not supported for this operation", c.name))
	case *res.PatchType != admissionv1.PatchTypeJSONPatch:
		return false, c.failed(400, "unsupported patch type %q", *res.PatchType)
	}
	next, err := apply(v, c, ops)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	if equality.Semantic.DeepEqual(c.at.VersionedObject.Object(), next) {
		return false, nil
	}
	c.note(v, "patch", true, ops)
	if err := v.Put(c.match, next); err != nil {
		return false, apierrors.NewInternalError(err)
	}
	return true, nil
}

func apply(v *extension.View, c *call, patch jsonpatch.Patch) (api.Object, error) {
	before, err := json.Marshal(c.at.VersionedObject.Object())
	if err != nil {
		return nil, err
	}
	after, err := patch.Apply(before)
	if err != nil {
		return nil, err
	}
	next := v.Empty(c.match)
	if _, err := codec.Decode(codec.JSON, after, next, c.match.Kind, false); err != nil {
		return nil, err
	}
	return next, nil
}

// note writes the audit annotations that mutating webhooks leave (see
// https://kubernetes.io/docs/reference/labels-annotations-taints/audit-annotations/).
func (c *call) note(v *extension.View, what string, changed bool, patch jsonpatch.Patch) {
	if v.Annotate == nil {
		return
	}
	value := map[string]any{"configuration": c.configuration, "webhook": c.name}
	if what == "patch" {
		value["patch"], value["patchType"] = patch, admissionv1.PatchTypeJSONPatch
	} else {
		value["mutated"] = changed
	}
	if text, err := json.Marshal(value); err == nil {
		v.Annotate(fmt.Sprintf("%s.webhook.admission.k8s.io/round_%d_index_%d", what, v.Round, c.index), string(text))
	}
}
