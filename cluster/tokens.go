package cluster

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
	"proa/auth/token"
	"proa/controllers/serviceaccount"
)

// trackTokens has the use of tokens in Secrets noted on the Secrets, once a day. What
// changes there meanwhile goes before: the next use is noted, too.
func (c *Cluster) trackTokens() {
	api := c.Client("system:apiserver")
	c.tokens.Track(func(ctx context.Context, secret *corev1.Secret, day string) {
		next := secret.DeepCopy()
		metav1.SetMetaDataLabel(&next.ObjectMeta, token.LabelLastUsed, day)
		if _, err := api.Update(ctx, next, ""); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			c.cfg.Log.Warn("the use of a service account's token could not be noted", "secret", secret.Namespace+"/"+secret.Name, "err", err)
		}
	})
}

// tracking says since when the use of such tokens is noted; the first server's word
// stays.
func tracking() []api.Object {
	return []api.Object{&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: serviceaccount.TrackingName},
		Data:       map[string]string{serviceaccount.TrackingKey: time.Now().UTC().Format(token.Day)},
	}}
}
