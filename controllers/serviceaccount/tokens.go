package serviceaccount

import (
	"bytes"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"

	"proa/client"
	"proa/reconcile"
)

// Tokens fills Secrets of the type kubernetes.io/service-account-token with a
// token of the account that they name, and deletes them when that account is
// not, or not any more, there. sign makes the token; rootCA is in PEM.
func Tokens(sign func(*corev1.ServiceAccount, *corev1.Secret) (string, error), rootCA []byte) reconcile.Controller {
	return reconcile.Controller{
		Name:    "serviceaccount-token-controller",
		Watches: tokenWatches(),
		Decide: func(v client.View, _ time.Time, key client.Key) reconcile.Plan {
			return decideToken(v, key, sign, rootCA)
		},
	}
}

// tokenWatches wake tokens in Secrets, when they change or their account does.
func tokenWatches() []reconcile.Watch {
	return []reconcile.Watch{
		{Resource: client.Row[corev1.Secret](), Keys: func(_ client.View, e client.Event) []client.Key {
			if s := e.Object().(*corev1.Secret); s.Type != corev1.SecretTypeServiceAccountToken {
				return nil
			}
			return []client.Key{client.KeyOf(e.Object())}
		}},
		{Resource: client.Row[corev1.ServiceAccount](), Keys: secretsOf},
	}
}

func secretsOf(v client.View, e client.Event) (keys []client.Key) {
	sa := e.Object()
	for s := range client.List[corev1.Secret](v, sa.GetNamespace()) {
		if s.Type == corev1.SecretTypeServiceAccountToken && s.Annotations[corev1.ServiceAccountNameKey] == sa.GetName() {
			keys = append(keys, client.KeyOf(s))
		}
	}
	return keys
}

func decideToken(v client.View, key client.Key, sign func(*corev1.ServiceAccount, *corev1.Secret) (string, error), rootCA []byte) reconcile.Plan {
	secret := client.Get[corev1.Secret](v, key.Namespace, key.Name)
	if secret == nil || secret.DeletionTimestamp != nil || secret.Type != corev1.SecretTypeServiceAccountToken {
		return reconcile.Plan{}
	}
	sa := client.Get[corev1.ServiceAccount](v, key.Namespace, secret.Annotations[corev1.ServiceAccountNameKey])
	if uid := secret.Annotations[corev1.ServiceAccountUIDKey]; sa == nil || uid != "" && uid != string(sa.UID) {
		return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Delete, Object: secret}}}
	}
	data := maps.Clone(secret.Data)
	if data == nil {
		data = map[string][]byte{}
	}
	data[corev1.ServiceAccountRootCAKey], data[corev1.ServiceAccountNamespaceKey] = rootCA, []byte(secret.Namespace)
	if len(data[corev1.ServiceAccountTokenKey]) == 0 {
		token, err := sign(sa, secret)
		if err != nil {
			return reconcile.Plan{Err: err}
		}
		data[corev1.ServiceAccountTokenKey] = []byte(token)
	}
	if maps.EqualFunc(data, secret.Data, bytes.Equal) && secret.Annotations[corev1.ServiceAccountUIDKey] == string(sa.UID) {
		return reconcile.Plan{}
	}
	next := secret.DeepCopy()
	next.Data = data
	next.Annotations[corev1.ServiceAccountUIDKey] = string(sa.UID)
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next}}}
}
