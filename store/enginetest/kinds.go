package enginetest

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"proa/api"
)

// Registry has rows for pods, indexed by "nodeName", and configmaps.
func Registry() *api.Registry {
	r, err := api.NewRegistry(
		&api.Resource{Version: "v1", Kind: "Pod", Plural: "pods", Namespaced: true,
			New: func() api.Object { return &corev1.Pod{} }, NewList: func() runtime.Object { return &corev1.PodList{} },
			Indexes: map[string]func(api.Object) []string{"nodeName": nodeName}},
		&api.Resource{Version: "v1", Kind: "ConfigMap", Plural: "configmaps", Namespaced: true,
			New: func() api.Object { return &corev1.ConfigMap{} }, NewList: func() runtime.Object { return &corev1.ConfigMapList{} }},
	)
	if err != nil {
		panic(err) // the rows above are wrong
	}
	return r
}

func nodeName(obj api.Object) []string {
	if n := obj.(*corev1.Pod).Spec.NodeName; n != "" {
		return []string{n}
	}
	return nil
}

// Codec keeps pods and configmaps as protobuf; other resources are unknown to it.
type Codec struct{}

type message interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

func (Codec) Encode(_ string, obj api.Object) ([]byte, error) {
	m, ok := obj.(message)
	if !ok {
		return nil, fmt.Errorf("no encoding for %T", obj)
	}
	obj.SetResourceVersion("")
	return m.Marshal()
}

func (Codec) Decode(resource string, data []byte) (api.Object, error) {
	var obj api.Object
	switch resource {
	case "pods":
		obj = &corev1.Pod{}
	case "configmaps":
		obj = &corev1.ConfigMap{}
	default:
		return nil, fmt.Errorf("resource %s is not known", resource)
	}
	return obj, obj.(message).Unmarshal(data)
}

// ConfigMap makes a small object.
func ConfigMap(namespace, name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: map[string]string{"value": value}}
}

// Pod makes a pod on a node.
func Pod(namespace, name, node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "busybox"}}}}
}
