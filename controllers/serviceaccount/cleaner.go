package serviceaccount

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/auth/node"
	"proa/auth/token"
	"proa/client"
	"proa/reconcile"
)

const (
	// unusedFor is how long a token may go unused before it is marked, and marked
	// before it is deleted (upstream's legacy-service-account-token-clean-up-period).
	unusedFor = 365 * 24 * time.Hour
	// lookAgain is when a token that a pod mounts is looked at again.
	lookAgain = 24 * time.Hour
)

// TrackingName is the ConfigMap of kube-system that says since when the use of
// tokens is noted, and TrackingKey where.
const (
	TrackingName = "kube-apiserver-legacy-service-account-token-tracking"
	TrackingKey  = "since"
)

// Cleaner marks tokens in Secrets that were made by themselves, as Kubernetes did
// before 1.24, when nobody has used them for a year, and deletes them after another
// (KEP-2799). What somebody made, or a pod mounts, stays.
func Cleaner() reconcile.Controller {
	return reconcile.Controller{
		Name:    "legacy-serviceaccount-token-cleaner-controller",
		Watches: tokenWatches(),
		Decide:  decideUnused,
	}
}

func decideUnused(v client.View, now time.Time, key client.Key) reconcile.Plan {
	secret := client.Get[corev1.Secret](v, key.Namespace, key.Name)
	if secret == nil || secret.DeletionTimestamp != nil || secret.Type != corev1.SecretTypeServiceAccountToken || !generated(v, secret) {
		return reconcile.Plan{}
	}
	due, ok := dueUnused(v, secret)
	switch {
	case !ok:
		return reconcile.Plan{}
	case now.Before(due):
		return reconcile.Plan{After: due.Sub(now)}
	case mounted(v, secret):
		return reconcile.Plan{After: lookAgain}
	}
	since, err := time.Parse(token.Day, secret.Labels[token.LabelInvalidSince])
	if err != nil {
		next := secret.DeepCopy()
		metav1.SetMetaDataLabel(&next.ObjectMeta, token.LabelInvalidSince, now.UTC().Format(token.Day))
		return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next}}}
	}
	if end := afterDay(since); now.Before(end) {
		return reconcile.Plan{After: end.Sub(now)}
	}
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Delete, Object: secret}}}
}

// afterDay is when something of a day is unused for long.
func afterDay(day time.Time) time.Time { return day.AddDate(0, 0, 1).Add(unusedFor) }

// dueUnused is when a token counts as unused: long after its use was first noted at
// all, after it was made, and after it was used. It is never where that cannot be
// told.
func dueUnused(v client.View, secret *corev1.Secret) (due time.Time, ok bool) {
	tracking := client.Get[corev1.ConfigMap](v, metav1.NamespaceSystem, TrackingName)
	if tracking == nil {
		return due, false
	}
	since, err := time.Parse(token.Day, tracking.Data[TrackingKey])
	if err != nil {
		return due, false
	}
	due = afterDay(since)
	if made := secret.CreationTimestamp.Add(unusedFor); made.After(due) {
		due = made
	}
	if text, noted := secret.Labels[token.LabelLastUsed]; noted {
		used, err := time.Parse(token.Day, text)
		if err != nil {
			return due, false
		}
		if end := afterDay(used); end.After(due) {
			due = end
		}
	}
	return due, true
}

// generated tells Secrets that their account lists: nobody made them.
func generated(v client.View, secret *corev1.Secret) bool {
	sa := client.Get[corev1.ServiceAccount](v, secret.Namespace, secret.Annotations[corev1.ServiceAccountNameKey])
	if uid := secret.Annotations[corev1.ServiceAccountUIDKey]; sa == nil || uid != "" && uid != string(sa.UID) {
		return false
	}
	return slices.ContainsFunc(sa.Secrets, func(r corev1.ObjectReference) bool { return r.Name == secret.Name })
}

func mounted(v client.View, secret *corev1.Secret) bool {
	for pod := range client.List[corev1.Pod](v, secret.Namespace) {
		for name := range node.Secrets(pod) {
			if name == secret.Name {
				return true
			}
		}
	}
	return false
}
