package apiserver

import (
	"context"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
)

// serviceRange makes the object that tells the range of cluster IPs (KEP-1880).
func (s *Server) serviceRange(ctx context.Context, c client.Client) error {
	cidr := s.cfg.ServiceCIDR
	if !cidr.IsValid() {
		return nil
	}
	want := &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: apiServiceName}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{cidr.Masked().String()}}}
	if err := ensure(ctx, c, want); err != nil {
		return err
	}
	have := client.Get[networkingv1.ServiceCIDR](c.View(), "", apiServiceName)
	if have == nil {
		return nil // deleted right away; the next start makes it again
	}
	if !slices.Equal(have.Spec.CIDRs, want.Spec.CIDRs) {
		s.cfg.Log.Warn("ServiceCIDR kubernetes tells another range than the one that cluster IPs come from",
			"object", have.Spec.CIDRs, "range", want.Spec.CIDRs)
	}
	next := have.DeepCopy()
	ready := metav1.Condition{Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue,
		Message: "Kubernetes default Service CIDR is ready"}
	if !meta.SetStatusCondition(&next.Status.Conditions, ready) {
		return nil
	}
	_, err := c.Update(ctx, next, "status")
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) || err != nil && s.cfg.Store.Room() != nil {
		return nil // the next start says it
	}
	return err
}
