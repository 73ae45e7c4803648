// Package bootstrap looks after the tokens by which nodes introduce themselves:
// those whose time is over are deleted, and the ConfigMap kube-public/cluster-info
// carries a signature by each, so that who knows a token can tell that what the
// ConfigMap says of the cluster is true.
package bootstrap

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/auth/bootstraptoken"
	"proa/client"
	"proa/reconcile"
)

// The ConfigMap, its content and the names of its signatures.
const (
	infoName        = "cluster-info"
	infoKey         = "kubeconfig"
	signaturePrefix = "jws-kubeconfig-"
)

// TokenCleaner deletes tokens that have expired.
func TokenCleaner() reconcile.Controller {
	return reconcile.Controller{
		Name:    "token-cleaner-controller",
		Watches: []reconcile.Watch{{Resource: client.Row[corev1.Secret](), Keys: tokenSecrets}},
		Decide:  decideToken,
	}
}

func isToken(o client.Object) bool {
	s, ok := o.(*corev1.Secret)
	return ok && s.Namespace == bootstraptoken.Namespace && s.Type == corev1.SecretTypeBootstrapToken
}

func tokenSecrets(_ client.View, e client.Event) []client.Key {
	if !isToken(e.Object()) {
		return nil
	}
	return []client.Key{client.KeyOf(e.Object())}
}

func decideToken(v client.View, now time.Time, key client.Key) reconcile.Plan {
	secret := client.Get[corev1.Secret](v, key.Namespace, key.Name)
	if secret == nil || secret.DeletionTimestamp != nil || !isToken(secret) {
		return reconcile.Plan{}
	}
	token, _ := bootstraptoken.Read(secret) // a bad one is its owner's to mend
	switch {
	case token.Expires.IsZero():
		return reconcile.Plan{}
	case token.Expired(now):
		return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Delete, Object: secret}}}
	}
	return reconcile.Plan{After: token.Expires.Sub(now)}
}

// Signer keeps the signatures of cluster-info.
func Signer() reconcile.Controller {
	info := client.Key{Namespace: metav1.NamespacePublic, Name: infoName}
	return reconcile.Controller{
		Name: "bootstrap-signer-controller",
		Watches: []reconcile.Watch{
			{Resource: client.Row[corev1.ConfigMap](), Keys: func(_ client.View, e client.Event) []client.Key {
				if client.KeyOf(e.Object()) != info {
					return nil
				}
				return []client.Key{info}
			}},
			{Resource: client.Row[corev1.Secret](), Keys: func(_ client.View, e client.Event) []client.Key {
				if !isToken(e.Object()) && (e.Old == nil || !isToken(e.Old)) {
					return nil
				}
				return []client.Key{info}
			}},
		},
		Decide: decideInfo,
	}
}

func decideInfo(v client.View, now time.Time, key client.Key) reconcile.Plan {
	have := client.Get[corev1.ConfigMap](v, key.Namespace, key.Name)
	if have == nil || have.DeletionTimestamp != nil || have.Data[infoKey] == "" {
		return reconcile.Plan{}
	}
	data := maps.Clone(have.Data)
	maps.DeleteFunc(data, func(k, _ string) bool { return strings.HasPrefix(k, signaturePrefix) })
	var plan reconcile.Plan
	for secret := range client.List[corev1.Secret](v, bootstraptoken.Namespace) {
		token, err := bootstraptoken.Read(secret)
		if err != nil || secret.DeletionTimestamp != nil || token.Expired(now) || !token.For(bootstraptoken.UsageSigning) {
			continue
		}
		data[signaturePrefix+token.ID] = sign(have.Data[infoKey], token)
		if left := token.Expires.Sub(now); !token.Expires.IsZero() && (plan.After == 0 || left < plan.After) {
			plan.After = left
		}
	}
	if maps.Equal(data, have.Data) {
		return plan
	}
	next := have.DeepCopy()
	next.Data = data
	plan.Writes = []reconcile.Write{{Op: reconcile.Update, Object: next}}
	return plan
}

// sign makes a detached JSON web signature (RFC 7515, appendix F) with the token's
// secret as the key and its ID in the header.
func sign(content string, t bootstraptoken.Token) string {
	enc := base64.RawURLEncoding.EncodeToString
	header := enc([]byte(`{"alg":"HS256","kid":"` + t.ID + `"}`)) // an ID has letters and digits only
	mac := hmac.New(sha256.New, []byte(t.Secret))
	mac.Write([]byte(header + "." + enc([]byte(content))))
	return header + ".." + enc(mac.Sum(nil))
}
