package apiserver_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// TestMutatedIdentity: a webhook makes no other object of one that exists.
func TestMutatedIdentity(t *testing.T) {
	h, hook := start(t), serveHooks(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	maps := cs.CoreV1().ConfigMaps("default")
	made, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Data: map[string]string{"k": "v"}}, metav1.CreateOptions{})
	must(t, err)
	for at, c := range map[string]struct {
		code int32
		want string
	}{
		"name":            {http.StatusUnprocessableEntity, `metadata.name: Invalid value: "other": field is immutable`},
		"namespace":       {http.StatusBadRequest, "the namespace of the provided object does not match the namespace sent on the request"},
		"uid":             {http.StatusConflict, "Precondition failed: UID in precondition: other, UID in object meta: " + string(made.UID)},
		"resourceVersion": {http.StatusConflict, "the object has been modified"},
	} {
		path := "/" + at
		say := patch(fmt.Sprintf(`[{"op":"replace","path":"/metadata/%s","value":"other"}]`, at))
		if at == "resourceVersion" {
			say = patch(`[{"op":"replace","path":"/metadata/resourceVersion","value":"1"}]`)
		}
		name := strings.ToLower(at)
		addMutating(t, cs, name, mutating(name, hook.on(path, say), rule("UPDATE", "", "v1", "configmaps")))
		next := made.DeepCopy()
		next.Data["k"] = at
		_, err := maps.Update(ctx, next, metav1.UpdateOptions{})
		status, ok := err.(apierrors.APIStatus)
		if !ok || status.Status().Code != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", at, err)
		}
		must(t, cs.AdmissionregistrationV1().MutatingWebhookConfigurations().Delete(ctx, name, metav1.DeleteOptions{}))
	}
	if got, err := maps.Get(ctx, "x", metav1.GetOptions{}); err != nil || got.ResourceVersion != made.ResourceVersion {
		t.Errorf("%v, %v", got, err)
	}
}
