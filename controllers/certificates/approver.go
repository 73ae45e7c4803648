package certificates

import (
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/auth"
	"proa/client"
	"proa/reconcile"
)

// Approver approves the client certificates that kubelets ask for, if who asks is
// allowed such certificates. may answers as the API's authoriser does.
func Approver(may func(auth.Attributes) bool) reconcile.Controller {
	return reconcile.Controller{
		Name: "certificatesigningrequest-approving-controller",
		Watches: []reconcile.Watch{
			{Resource: client.Row[certificatesv1.CertificateSigningRequest]()},
			{Resource: client.Row[rbacv1.ClusterRole](), Keys: undecided},
			{Resource: client.Row[rbacv1.ClusterRoleBinding](), Keys: undecided},
		},
		Decide: func(v client.View, now time.Time, key client.Key) reconcile.Plan {
			return decideApproval(v, now, key, may)
		},
	}
}

// undecided wakes the requests that a new permission may let through.
func undecided(v client.View, _ client.Event) (keys []client.Key) {
	for csr := range client.List[certificatesv1.CertificateSigningRequest](v, "") {
		if len(csr.Status.Conditions) == 0 && csr.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName {
			keys = append(keys, client.KeyOf(csr))
		}
	}
	return keys
}

func decideApproval(v client.View, now time.Time, key client.Key, may func(auth.Attributes) bool) reconcile.Plan {
	csr := client.Get[certificatesv1.CertificateSigningRequest](v, "", key.Name)
	if csr == nil || csr.DeletionTimestamp != nil || len(csr.Status.Certificate) > 0 || csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName ||
		has(csr, certificatesv1.CertificateApproved, certificatesv1.CertificateDenied) {
		return reconcile.Plan{}
	}
	req, err := parse(csr)
	if err != nil || kubeletClient(req, csr.Spec.Usages) != nil {
		return reconcile.Plan{} // a person's to look at
	}
	ask := func(subresource string) bool { return may(permission(csr, subresource)) }
	switch {
	case csr.Spec.Username == req.Subject.CommonName && ask("selfnodeclient"):
		return approve(csr, now, "self kubelet client certificate")
	case ask("nodeclient"):
		return approve(csr, now, "kubelet client certificate")
	}
	return reconcile.Plan{}
}

func permission(csr *certificatesv1.CertificateSigningRequest, subresource string) auth.Attributes {
	u := auth.User{Name: csr.Spec.Username, UID: csr.Spec.UID, Groups: csr.Spec.Groups, Extra: map[string][]string{}}
	for k, v := range csr.Spec.Extra {
		u.Extra[k] = v
	}
	return auth.Attributes{User: u, Verb: "create", Group: certificatesv1.GroupName, Version: "*",
		Resource: "certificatesigningrequests", Subresource: subresource, ResourceRequest: true}
}

func approve(csr *certificatesv1.CertificateSigningRequest, now time.Time, what string) reconcile.Plan {
	next := csr.DeepCopy()
	next.Status.Conditions = append(next.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved",
		Message:        fmt.Sprintf("Auto approving %s after SubjectAccessReview.", what),
		LastUpdateTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
	})
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next, Subresource: "approval"}}}
}
