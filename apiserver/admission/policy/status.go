package policy

import (
	"context"
	"errors"

	admissionregv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"proa/client"
)

// Run checks the types in the policies that come and writes what it found into
// their status, until ctx ends.
func (p *Policies) Run(ctx context.Context, c client.Client) error {
	row := p.cfg.Registry.ByKey(validatingPolicies)
	if row == nil {
		<-ctx.Done()
		return nil
	}
	world, changes, err := c.Watch(ctx, client.Scope{Resource: row})
	if err != nil {
		return err
	}
	defer changes.Close()
	for obj := range world.List(row, "") {
		p.report(ctx, c, obj)
	}
	for {
		events, _, err := changes.Next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.New != nil {
				p.report(ctx, c, e.New)
			}
		}
	}
}

// report writes the status of one policy, if that is behind. A write that loses
// to another is made good by the other's event.
func (p *Policies) report(ctx context.Context, c client.Client, obj client.Object) {
	was, ok := obj.(*admissionregv1.ValidatingAdmissionPolicy)
	if !ok || was.Status.ObservedGeneration >= was.Generation && was.Status.TypeChecking != nil {
		return
	}
	warnings, err := Check(p.cfg.Registry, was)
	if err != nil {
		p.cfg.Log.Error("a policy's types could not be checked", "policy", was.Name, "err", err)
		return
	}
	next := was.DeepCopy()
	next.Status.ObservedGeneration = was.Generation
	next.Status.TypeChecking = &admissionregv1.TypeChecking{ExpressionWarnings: warnings}
	_, err = c.Update(ctx, next, "status")
	if err != nil && ctx.Err() == nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && !errors.Is(err, context.Canceled) {
		p.cfg.Log.Warn("a policy's status could not be written", "policy", was.Name, "err", err)
	}
}
