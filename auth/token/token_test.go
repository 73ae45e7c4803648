package token

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"proa/auth"
	"proa/client"
	"proa/client/clienttest"
)

const url = "https://kubernetes.default.svc.cluster.local"

type fixture struct {
	*Issuer
	c   client.Client
	sa  *corev1.ServiceAccount
	pod *corev1.Pod
	at  time.Time
}

func setup(t testing.TB) *fixture {
	t.Helper()
	c := clienttest.New()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i, err := New(url, []*ecdsa.PrivateKey{key}, c.View)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{Issuer: i, c: c, at: time.Now()}
	i.now = func() time.Time { return f.at }
	f.sa = create(t, c, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "till"}})
	f.pod = create(t, c, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "till-1"},
		Spec: corev1.PodSpec{ServiceAccountName: "till", Containers: []corev1.Container{{Name: "a", Image: "a"}}}})
	return f
}

func create[P client.Object](t testing.TB, c client.Client, obj P) P {
	t.Helper()
	got, err := c.Create(context.Background(), obj)
	if err != nil {
		t.Fatal(err)
	}
	return got.(P)
}

func (f *fixture) issue(t testing.TB, spec authenticationv1.TokenRequestSpec) string {
	t.Helper()
	r, err := f.Issue(context.Background(), f.sa, &authenticationv1.TokenRequest{Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.Token
}

func (f *fixture) forPod() authenticationv1.TokenRequestSpec {
	return authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{
		Kind: "Pod", APIVersion: "v1", Name: f.pod.Name, UID: f.pod.UID}}
}

func TestRoundTrip(t *testing.T) {
	f := setup(t)
	u, audiences, err := f.Review(context.Background(), f.issue(t, f.forPod()), nil)
	if err != nil {
		t.Fatal(err)
	}
	if u.Name != "system:serviceaccount:shop:till" || u.UID != string(f.sa.UID) || !u.In("system:serviceaccounts:shop") {
		t.Errorf("user %+v", u)
	}
	if len(audiences) != 1 || audiences[0] != url {
		t.Errorf("audiences %q", audiences)
	}
	if got := u.Extra["authentication.kubernetes.io/pod-name"]; len(got) != 1 || got[0] != "till-1" {
		t.Errorf("extra %v", u.Extra)
	}
}

func TestRefused(t *testing.T) {
	f := setup(t)
	plain, bound := f.issue(t, authenticationv1.TokenRequestSpec{}), f.issue(t, f.forPod())
	other := setup(t)
	ctx := context.Background()

	if _, _, err := f.Review(ctx, other.issue(t, authenticationv1.TokenRequestSpec{}), nil); !errors.Is(err, auth.ErrNotOurs) {
		t.Errorf("another cluster's token: %v", err)
	}
	if _, _, err := f.Review(ctx, "nonsense", nil); !errors.Is(err, auth.ErrNotOurs) {
		t.Errorf("nonsense: %v", err)
	}
	if _, _, err := f.Review(ctx, plain, []string{"vault"}); err == nil || !strings.Contains(err.Error(), "audiences") {
		t.Errorf("another audience: %v", err)
	}
	f.at = f.at.Add(61 * time.Minute)
	if _, _, err := f.Review(ctx, plain, nil); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired: %v", err)
	}
	f.at = f.at.Add(-61 * time.Minute)
	if err := f.c.Delete(ctx, client.Row[corev1.Pod](), client.KeyOf(f.pod), metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.Review(ctx, bound, nil); err == nil || !strings.Contains(err.Error(), "no longer exists") {
		t.Errorf("its pod is gone: %v", err)
	}
	if _, _, err := f.Review(ctx, plain, nil); err != nil {
		t.Errorf("not bound to a pod: %v", err)
	}
}

func TestBindsOnlyToWhatIsThere(t *testing.T) {
	f := setup(t)
	spec := f.forPod()
	spec.BoundObjectRef.UID = "another"
	if _, err := f.Issue(context.Background(), f.sa, &authenticationv1.TokenRequest{Spec: spec}); !apierrors.IsConflict(err) {
		t.Errorf("another pod of the name: %v", err)
	}
	spec.BoundObjectRef.Name = "absent"
	if _, err := f.Issue(context.Background(), f.sa, &authenticationv1.TokenRequest{Spec: spec}); !apierrors.IsNotFound(err) {
		t.Errorf("absent pod: %v", err)
	}
}

func TestKubeletTokenOutlivesItsHour(t *testing.T) {
	f := setup(t)
	spec := f.forPod()
	spec.ExpirationSeconds = ptr.To[int64](3607)
	token := f.issue(t, spec)
	f.at = f.at.Add(48 * time.Hour)
	if _, _, err := f.Review(context.Background(), token, nil); err != nil {
		t.Error(err)
	}
}
