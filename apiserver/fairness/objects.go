package fairness

import (
	"context"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"proa/client"
)

// Objects are what every cluster has from the start: the mandatory and the
// suggested ones, marked as kept by the server.
func Objects() (out []client.Object) {
	for _, o := range append(mandatory(), suggested()...) {
		o = o.DeepCopyObject().(client.Object)
		annotate(o, true)
		out = append(out, o)
	}
	return out
}

func mandatory() (out []client.Object) {
	for _, l := range bootstrap.MandatoryPriorityLevelConfigurations {
		out = append(out, l)
	}
	for _, s := range bootstrap.MandatoryFlowSchemas {
		out = append(out, s)
	}
	return out
}

func suggested() (out []client.Object) {
	for _, l := range bootstrap.SuggestedPriorityLevelConfigurations {
		out = append(out, l)
	}
	for _, s := range bootstrap.SuggestedFlowSchemas {
		out = append(out, s)
	}
	return out
}

func annotate(o client.Object, auto bool) {
	a := map[string]string{}
	for k, v := range o.GetAnnotations() {
		a[k] = v
	}
	a[flowcontrolv1.AutoUpdateAnnotationKey] = map[bool]string{true: "true", false: "false"}[auto]
	o.SetAnnotations(a)
}

// Run follows the stored objects, keeps the server's own, and writes the
// schemas' status, until ctx ends.
func (f *Fairness) Run(ctx context.Context, c client.Client) error {
	schemas, levels := client.Row[flowcontrolv1.FlowSchema](), client.Row[flowcontrolv1.PriorityLevelConfiguration]()
	v, stream, err := c.Watch(ctx, client.Scope{Resource: schemas}, client.Scope{Resource: levels})
	if err != nil {
		return err
	}
	defer stream.Close()
	for {
		f.follow(v)
		f.keep(ctx, c, v)
		if _, v, err = stream.Next(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

func (f *Fairness) follow(v client.View) {
	var schemas []*flowcontrolv1.FlowSchema
	for s := range client.List[flowcontrolv1.FlowSchema](v, "") {
		schemas = append(schemas, s)
	}
	var levels []*flowcontrolv1.PriorityLevelConfiguration
	for l := range client.List[flowcontrolv1.PriorityLevelConfiguration](v, "") {
		levels = append(levels, l)
	}
	f.compile(schemas, levels, f.now())
}

// change is one write that the stored objects need.
type change struct {
	create, update, delete client.Object
	status                 bool
}

// keep brings the stored objects to what they should be. A write that fails is
// tried again with the next change; a conflict means that there is one.
func (f *Fairness) keep(ctx context.Context, c client.Client, v client.View) {
	for _, ch := range changes(v, metav1.NewTime(f.now())) {
		if err := ch.apply(ctx, c); err != nil && ctx.Err() == nil && !passing(err) {
			f.log.Warn("an object of priority and fairness could not be written", "err", err)
		}
	}
}

func passing(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
}

func (ch change) apply(ctx context.Context, c client.Client) (err error) {
	switch {
	case ch.create != nil:
		_, err = c.Create(ctx, ch.create)
	case ch.delete != nil:
		rv := ch.delete.GetResourceVersion()
		err = c.Delete(ctx, c.Registry().Of(ch.delete), client.KeyOf(ch.delete), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &rv}})
	case ch.status:
		_, err = c.Update(ctx, ch.update, "status")
	default:
		_, err = c.Update(ctx, ch.update, "")
	}
	return err
}

// changes decides what to write, by the rules of the API's documentation: the
// mandatory objects always say what they must; the suggested ones are there,
// and say what is suggested unless their annotation gives them to the
// administrator; those that are suggested no more go.
func changes(v client.View, now metav1.Time) (out []change) {
	known := map[string]bool{}
	for i, list := range [][]client.Object{mandatory(), suggested()} {
		for _, want := range list {
			known[keyOf(want)] = true
			if ch, need := maintain(have(v, want), want, i == 0); need {
				out = append(out, ch)
			}
		}
	}
	for s := range client.List[flowcontrolv1.FlowSchema](v, "") {
		if !known[keyOf(s)] && auto(s) {
			out = append(out, change{delete: s})
		} else if next := dangling(v, s, now); next != nil {
			out = append(out, change{update: next, status: true})
		}
	}
	for l := range client.List[flowcontrolv1.PriorityLevelConfiguration](v, "") {
		if !known[keyOf(l)] && auto(l) {
			out = append(out, change{delete: l})
		}
	}
	return out
}

func keyOf(o client.Object) string {
	if _, is := o.(*flowcontrolv1.FlowSchema); is {
		return "schema " + o.GetName()
	}
	return "level " + o.GetName()
}

func have(v client.View, like client.Object) client.Object {
	if _, is := like.(*flowcontrolv1.FlowSchema); is {
		if s := client.Get[flowcontrolv1.FlowSchema](v, "", like.GetName()); s != nil {
			return s
		}
		return nil
	}
	if l := client.Get[flowcontrolv1.PriorityLevelConfiguration](v, "", like.GetName()); l != nil {
		return l
	}
	return nil
}

// auto tells an object that the server keeps.
func auto(o client.Object) bool {
	return o.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey] == "true"
}

// maintain decides about one of the server's own objects.
func maintain(have, want client.Object, mandatory bool) (change, bool) {
	if have == nil {
		o := want.DeepCopyObject().(client.Object)
		annotate(o, true)
		return change{create: o}, true
	}
	mine := mandatory || auto(have)
	if a := have.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey]; !mine && a != "false" {
		mine = have.GetGeneration() == 1 // nobody has changed it since it was made
	}
	next := have.DeepCopyObject().(client.Object)
	annotate(next, mine)
	if mine {
		specify(next, want)
	}
	return change{update: next}, !equality.Semantic.DeepEqual(next, have)
}

// specify makes an object say what is wanted. What the exempt level may use
// and lend is the administrator's.
func specify(next, want client.Object) {
	switch n := next.(type) {
	case *flowcontrolv1.FlowSchema:
		n.Spec = *want.(*flowcontrolv1.FlowSchema).Spec.DeepCopy()
	case *flowcontrolv1.PriorityLevelConfiguration:
		exempt := n.Spec.Exempt
		n.Spec = *want.(*flowcontrolv1.PriorityLevelConfiguration).Spec.DeepCopy()
		if n.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt && exempt != nil {
			n.Spec.Exempt = exempt
		}
	}
}

// dangling is the schema with the condition that says whether its level exists,
// or nil where it says so already.
func dangling(v client.View, s *flowcontrolv1.FlowSchema, now metav1.Time) client.Object {
	name := s.Spec.PriorityLevelConfiguration.Name
	want := flowcontrolv1.FlowSchemaCondition{Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionFalse, Reason: "Found",
		Message: `This FlowSchema references the PriorityLevelConfiguration object named "` + name + `" and it exists`}
	if client.Get[flowcontrolv1.PriorityLevelConfiguration](v, "", name) == nil {
		want.Status, want.Reason = flowcontrolv1.ConditionTrue, "NotFound"
		want.Message = `This FlowSchema references the PriorityLevelConfiguration object named "` + name + `" but there is no such object`
	}
	next := s.DeepCopy()
	for i := range next.Status.Conditions {
		c := &next.Status.Conditions[i]
		if c.Type != want.Type {
			continue
		}
		if c.Status == want.Status && c.Reason == want.Reason && c.Message == want.Message {
			return nil
		}
		want.LastTransitionTime = c.LastTransitionTime
		if c.Status != want.Status {
			want.LastTransitionTime = now
		}
		*c = want
		return next
	}
	want.LastTransitionTime = now
	next.Status.Conditions = append(next.Status.Conditions, want)
	return next
}
