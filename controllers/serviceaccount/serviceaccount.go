// Package serviceaccount gives every namespace what its pods need to speak to
// the API: the ServiceAccount "default", and the ConfigMap kube-root-ca.crt
// with the authority that signed the API's certificate.
package serviceaccount

import (
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/reconcile"
)

const (
	accountName = "default"
	caName      = "kube-root-ca.crt"
	caKey       = "ca.crt"
	// caNote explains the ConfigMap to who finds it.
	caNoteKey = "kubernetes.io/description"
	caNote    = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)

// Controller makes the default ServiceAccounts.
func Controller() reconcile.Controller {
	return reconcile.Controller{
		Name: "service-account-controller",
		Watches: []reconcile.Watch{
			{Resource: client.Row[corev1.Namespace]()},
			{Resource: client.Row[corev1.ServiceAccount](), Keys: namespaceOf(accountName)},
		},
		Decide: decideAccount,
	}
}

// RootCA publishes the certificate authority, in PEM.
func RootCA(pem []byte) reconcile.Controller {
	return reconcile.Controller{
		Name: "root-ca-certificate-publisher-controller",
		Watches: []reconcile.Watch{
			{Resource: client.Row[corev1.Namespace]()},
			{Resource: client.Row[corev1.ConfigMap](), Keys: namespaceOf(caName)},
		},
		Decide: func(v client.View, _ time.Time, key client.Key) reconcile.Plan {
			return decideCA(v, key.Name, string(pem))
		},
	}
}

// namespaceOf wakes the namespace of the objects of one name.
func namespaceOf(name string) func(client.View, client.Event) []client.Key {
	return func(_ client.View, e client.Event) []client.Key {
		if e.Object().GetName() != name {
			return nil
		}
		return []client.Key{{Name: e.Object().GetNamespace()}}
	}
}

func active(v client.View, name string) bool {
	ns := client.Get[corev1.Namespace](v, "", name)
	return ns != nil && ns.DeletionTimestamp == nil && ns.Status.Phase != corev1.NamespaceTerminating
}

func decideAccount(v client.View, _ time.Time, key client.Key) reconcile.Plan {
	if !active(v, key.Name) || client.Get[corev1.ServiceAccount](v, key.Name, accountName) != nil {
		return reconcile.Plan{}
	}
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Create, Object: &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Name, Name: accountName},
	}}}}
}

func decideCA(v client.View, namespace, pem string) reconcile.Plan {
	if !active(v, namespace) || pem == "" {
		return reconcile.Plan{}
	}
	data := map[string]string{caKey: pem}
	have := client.Get[corev1.ConfigMap](v, namespace, caName)
	switch {
	case have == nil:
		return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Create, Object: &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: caName, Annotations: map[string]string{caNoteKey: caNote}},
			Data:       data,
		}}}}
	case maps.Equal(have.Data, data) && have.Annotations[caNoteKey] == caNote:
		return reconcile.Plan{}
	}
	next := have.DeepCopy()
	next.Data = data
	if next.Annotations == nil {
		next.Annotations = map[string]string{}
	}
	next.Annotations[caNoteKey] = caNote
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next}}}
}
