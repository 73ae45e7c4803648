package manager

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/go-logr/logr"
)

// api is a client that reads from the server, not from the manager's cache.
var api client.Client

func TestMain(m *testing.M) {
	log.SetLogger(logr.Discard())
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// run is the usual suite: an environment, a manager with its controller and
// webhooks, the tests. USE_EXISTING_CLUSTER and KUBECONFIG say which cluster.
func run(m *testing.M) (code int, err error) {
	env := &envtest.Environment{
		CRDDirectoryPaths:     []string{"testdata/crd.yaml"},
		ErrorIfCRDPathMissing: true,
		WebhookInstallOptions: envtest.WebhookInstallOptions{Paths: []string{"testdata/webhooks.yaml"}},
	}
	config, err := env.Start()
	if err != nil {
		return 0, fmt.Errorf("starting the environment: %w", err)
	}
	defer func() { err = firstOf(err, env.Stop()) }()
	scheme := runtime.NewScheme()
	if err := firstOf(clientscheme.AddToScheme(scheme), addToScheme(scheme)); err != nil {
		return 0, err
	}
	if api, err = client.New(config, client.Options{Scheme: scheme}); err != nil {
		return 0, err
	}
	hooks := env.WebhookInstallOptions
	manager, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:           scheme,
		Metrics:          server.Options{BindAddress: "0"},
		LeaderElection:   true,
		LeaderElectionID: "widgets.shop.example.org", LeaderElectionNamespace: "default", LeaderElectionReleaseOnCancel: true,
		WebhookServer: webhook.NewServer(webhook.Options{Host: hooks.LocalServingHost, Port: hooks.LocalServingPort, CertDir: hooks.LocalServingCertDir}),
	})
	if err != nil {
		return 0, err
	}
	if err := (&reconciler{manager.GetClient()}).setup(manager); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- manager.Start(ctx) }()
	defer func() { cancel(); err = firstOf(err, <-done) }()
	select {
	case <-manager.Elected():
	case err := <-done:
		return 0, err
	case <-time.After(30 * time.Second):
		return 0, fmt.Errorf("not elected after 30 s")
	}
	return m.Run(), nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func widget(name string, size int, color string) *Widget {
	w := &Widget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	w.Spec.Size, w.Spec.Color = size, color
	return w
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("waited 20 s for %s", what)
}

// create waits for the webhooks to serve, as suites do.
func create(t *testing.T, w *Widget) {
	t.Helper()
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = api.Create(t.Context(), w); err == nil || !apierrors.IsInternalError(err) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestReconciles(t *testing.T) {
	w := widget("first", 3, "")
	create(t, w)
	if w.Spec.Color != "blue" {
		t.Errorf("the mutating webhook left color %q", w.Spec.Color)
	}
	eventually(t, "three parts in the status", func() bool {
		return api.Get(t.Context(), client.ObjectKeyFromObject(w), w) == nil && w.Status.Parts == 3
	})
	var part corev1.ConfigMap
	if err := api.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "first-2"}, &part); err != nil || part.Data["color"] != "blue" {
		t.Fatalf("part: %v %v", part.Data, err)
	}
	if err := api.Delete(t.Context(), &part); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the part to come back", func() bool {
		return api.Get(t.Context(), client.ObjectKeyFromObject(&part), &part) == nil && part.DeletionTimestamp.IsZero()
	})
	if err := api.Delete(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the widget to go, by its finalizer", func() bool {
		return apierrors.IsNotFound(api.Get(t.Context(), client.ObjectKeyFromObject(w), w))
	})
}

func TestRefusals(t *testing.T) {
	kept := widget("kept", 1, "green")
	kept.Annotations = map[string]string{"keep": "yes"}
	create(t, kept)
	err := api.Create(t.Context(), widget("red", 1, "red"))
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `admission webhook "judge.shop.example.org" denied the request: red is sold out`) {
		t.Errorf("red: %v", err)
	}
	if err := api.Delete(t.Context(), kept); !apierrors.IsForbidden(err) {
		t.Errorf("deleting what is kept: %v", err)
	}
	if err := api.Create(t.Context(), widget("large", 10, "")); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.size") {
		t.Errorf("too large for the schema: %v", err)
	}
	if err := api.Patch(t.Context(), kept, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":null}}`))); err != nil {
		t.Fatal(err)
	}
	if err := api.Delete(t.Context(), kept); err != nil {
		t.Error(err)
	}
}

func TestLeads(t *testing.T) {
	var lease coordinationv1.Lease
	err := api.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "widgets.shop.example.org"}, &lease)
	if err != nil || lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
		t.Errorf("lease: %+v %v", lease.Spec, err)
	}
}
