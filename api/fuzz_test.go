package api

import (
	"encoding/json"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

// Whatever object a client sends, the rules answer; and what they let in may be
// written again unchanged.
func FuzzCreate(f *testing.F) {
	for _, doc := range []string{
		`{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}}`,
		`{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer, ports: [{port: 80}]}}`,
		`{apiVersion: v1, kind: PersistentVolume, metadata: {name: a}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /x}}}`,
		`{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: x}]}}}}`,
		`{apiVersion: batch/v1, kind: Job, metadata: {name: a}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: x}]}}}}`,
		`{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: a}, spec: {defaultBackend: {service: {name: a, port: {number: 80}}}}}`,
		`{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: "a:b"}, rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]}`,
		`{apiVersion: v1, kind: ResourceQuota, metadata: {name: a}, spec: {hard: {pods: 1}}}`,
	} {
		data, err := yaml.YAMLToJSON([]byte(doc))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var tm metav1.TypeMeta
		if json.Unmarshal(data, &tm) != nil {
			return
		}
		served, ok := Builtin().ByGVK(schema.FromAPIVersionAndKind(tm.APIVersion, tm.Kind))
		if !ok || served.As != nil || served.Validate == nil {
			return
		}
		obj := served.New()
		if json.Unmarshal(data, obj) != nil {
			return
		}
		if served.Namespaced {
			obj.SetNamespace("default")
		}
		again(t, served.Resource, obj)
	})
}

func again(t *testing.T, row *Resource, obj Object) {
	obj.SetResourceVersion("1")
	if errs := created(row, obj); len(errs) > 0 || obj.GetDeletionTimestamp() != nil {
		return
	}
	row.Cells(obj, now)
	next := obj.DeepCopyObject().(Object)
	row.Default(next)
	row.PrepareUpdate(next, obj)
	if errs := append(row.Validate(next), row.ValidateUpdate(next, obj)...); len(errs) > 0 {
		t.Errorf("%s is taken once and not again: %v", row.Key(), errs)
	}
	if next.GetGeneration() != obj.GetGeneration() {
		t.Errorf("%s: writing the same makes generation %d of %d", row.Key(), next.GetGeneration(), obj.GetGeneration())
	}
}
