package migration

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"proa/api"
	"proa/client"
	"proa/controllers/simulation"
)

func migrationOf(group, resource string) *storagemigrationv1.StorageVersionMigration {
	return &storagemigrationv1.StorageVersionMigration{ObjectMeta: metav1.ObjectMeta{Name: "m"},
		Spec: storagemigrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Group: group, Resource: resource}}}
}

// play migrates ten ConfigMaps while fault may refuse writes, and returns what
// was written how often, and the end.
func play(t *testing.T, m *storagemigrationv1.StorageVersionMigration, fault func(obj client.Object, n int) error) (written map[string]int, state string) {
	written = map[string]int{}
	simulation.Run(t, func(c *simulation.Cluster) {
		c.Fault = func(verb string, obj client.Object, _ string) error {
			if _, ok := obj.(*corev1.ConfigMap); !ok || verb != "update" {
				return nil
			}
			written[obj.GetName()]++
			if fault == nil {
				return nil
			}
			return fault(obj, written[obj.GetName()])
		}
	}, func(ctx context.Context, c *simulation.Cluster) {
		for i := range 10 {
			if _, err := c.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("c", i)}}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Create(ctx, m); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, c := range client.Get[storagemigrationv1.StorageVersionMigration](c.View(), "", "m").Status.Conditions {
			state += c.Type + "=" + string(c.Status) + " "
		}
	}, Controller(api.Builtin()))
	return written, state
}

func TestEveryObjectIsWritten(t *testing.T) {
	written, state := play(t, migrationOf("", "configmaps"), nil)
	if len(written) != 10 || state != "Running=False Succeeded=True " {
		t.Errorf("%v %s", written, state)
	}
}

func TestGoesOnAfterErrors(t *testing.T) {
	written, state := play(t, migrationOf("", "configmaps"), func(obj client.Object, n int) error {
		if obj.GetName() == "c5" && n == 1 {
			return errors.New("the disk is full")
		}
		return nil
	})
	if len(written) != 10 || written["c5"] < 2 || state != "Running=False Succeeded=True " {
		t.Errorf("%v %s", written, state)
	}
}

func TestFailures(t *testing.T) {
	if _, state := play(t, migrationOf("example.com", "nothings"), nil); state != "Running=False Failed=True " {
		t.Errorf("of what does not exist: %s", state)
	}
	_, state := play(t, migrationOf("", "configmaps"), func(obj client.Object, _ int) error {
		return apierrors.NewInvalid(schema.GroupKind{Kind: "ConfigMap"}, obj.GetName(), nil)
	})
	if state != "Running=False Failed=True " {
		t.Errorf("of what is not valid: %s", state)
	}
}
