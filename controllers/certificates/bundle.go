package certificates

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/reconcile"
)

// servingSigner is whose certificates the API shows.
const servingSigner = "kubernetes.io/kube-apiserver-serving"

// Publisher keeps one ClusterTrustBundle with the authority, in PEM, that signs
// the API's certificate. Its name has a digest of its content; older ones go.
func Publisher(pem []byte) reconcile.Controller {
	prefix := strings.ReplaceAll(servingSigner, "/", ":") + ":"
	sum := sha256.Sum256(pem)
	own := client.Key{Name: fmt.Sprintf("%s%x", prefix, sum[:12])}
	wake := func(client.View, client.Event) []client.Key { return []client.Key{own} }
	return reconcile.Controller{
		Name: "kube-apiserver-serving-clustertrustbundle-publisher-controller",
		Watches: []reconcile.Watch{
			{Resource: client.Row[certificatesv1.ClusterTrustBundle](), Keys: func(v client.View, e client.Event) []client.Key {
				if e.Object().(*certificatesv1.ClusterTrustBundle).Spec.SignerName != servingSigner {
					return nil
				}
				return wake(v, e)
			}},
			// The namespace that every cluster has begins it.
			{Resource: client.Row[corev1.Namespace](), Keys: func(v client.View, e client.Event) []client.Key {
				if e.Object().GetName() != metav1.NamespaceSystem {
					return nil
				}
				return wake(v, e)
			}},
		},
		Decide: func(v client.View, _ time.Time, key client.Key) reconcile.Plan {
			return decideBundle(v, key.Name, string(pem))
		},
	}
}

func decideBundle(v client.View, name, pem string) reconcile.Plan {
	var plan reconcile.Plan
	found := false
	for b := range client.List[certificatesv1.ClusterTrustBundle](v, "") {
		switch {
		case b.Spec.SignerName != servingSigner || b.DeletionTimestamp != nil:
		case b.Name != name:
			plan.Writes = append(plan.Writes, reconcile.Write{Op: reconcile.Delete, Object: b})
		default:
			found = true
			if b.Spec.TrustBundle != pem {
				next := b.DeepCopy()
				next.Spec.TrustBundle = pem
				plan.Writes = append(plan.Writes, reconcile.Write{Op: reconcile.Update, Object: next})
			}
		}
	}
	if !found {
		plan.Writes = append(plan.Writes, reconcile.Write{Op: reconcile.Create, Object: &certificatesv1.ClusterTrustBundle{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: servingSigner, TrustBundle: pem},
		}})
	}
	return plan
}
