package cluster

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A server that is killed while it writes what every cluster has writes the rest
// at the next start.
func TestCrashesAtFirstStart(t *testing.T) {
	want := basics(t, newVictim(t, "", "", nil))
	if len(want) < 100 {
		t.Fatalf("a cluster has only %d objects from the start: %v", len(want), want)
	}
	for range crashRounds() {
		dir, err := os.MkdirTemp("", "proa")
		if err != nil {
			t.Fatal(err)
		}
		v := &victim{dir: dir, data: filepath.Join(dir, "data"), port: freePort(t)}
		v.launch(t)
		t.Cleanup(func() { v.kill(); os.RemoveAll(dir) })
		eventually(t, "its datastore", func() bool {
			_, err := os.Stat(filepath.Join(v.data, "store", "seal"))
			return err == nil
		})
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		v.kill()
		v.start(t)
		if have := basics(t, v); !slices.Equal(have, want) {
			t.Errorf("after a crash there are %v, want %v", have, want)
		}
		v.kill()
	}
}

// basics names what a server makes before it says that it is ready.
func basics(t *testing.T, v *victim) (names []string) {
	t.Helper()
	for _, path := range []string{
		"/api/v1/namespaces", "/api/v1/namespaces/kube-system/services", "/api/v1/namespaces/default/services",
		"/apis/rbac.authorization.k8s.io/v1/clusterroles", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
		"/apis/rbac.authorization.k8s.io/v1/roles", "/apis/rbac.authorization.k8s.io/v1/rolebindings",
		"/apis/scheduling.k8s.io/v1/priorityclasses", "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
		"/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations", "/apis/networking.k8s.io/v1/servicecidrs",
		"/apis/apiregistration.k8s.io/v1/apiservices", "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices",
	} {
		text, err := v.client.RESTClient().Get().AbsPath(path).DoRaw(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		var list metav1.PartialObjectMetadataList
		if err := json.Unmarshal(text, &list); err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Items {
			names = append(names, path+" "+o.Namespace+"/"+o.Name)
		}
	}
	return names
}
