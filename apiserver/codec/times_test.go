package codec

import (
	"math"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/api"
)

// TestTimesWithoutText: a time that has no text is refused wherever it is, whatever
// the body's encoding.
func TestTimesWithoutText(t *testing.T) {
	late := metav1.NewTime(time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC))
	early := metav1.NewTime(time.Unix(math.MinInt32*1000, 0))
	for name, c := range map[string]struct {
		key string
		obj api.Object
	}{
		"status":   {"pods", &corev1.Pod{Status: corev1.PodStatus{StartTime: &late}}},
		"in lists": {"pods", &corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: early}}}}}}},
		"micro":    {"events", &corev1.Event{EventTime: metav1.MicroTime(late)}},
		"metadata": {"configmaps", &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: late}}},
		"spec":     {"nodes", &corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "a", Effect: corev1.TaintEffectNoExecute, TimeAdded: &late}}}}},
	} {
		row := api.Builtin().ByKey(c.key)
		c.obj.GetObjectKind().SetGroupVersionKind(row.GVK())
		body, err := Marshal(Protobuf, c.obj)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(Protobuf, body, row.New(), row.GVK(), true); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	row := api.Builtin().ByKey("pods")
	for text, bad := range map[string]bool{"9999-12-31T23:59:59Z": false, "9999-12-31T23:59:59-23:59": true, "0000-01-01T00:00:00+01:00": true} {
		body := `{"apiVersion":"v1","kind":"Pod","status":{"startTime":"` + text + `"}}`
		if _, err := Decode(JSON, []byte(body), row.New(), row.GVK(), true); (err != nil) != bad {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// FuzzFrame writes watch frames of made-up parts; a reader of the format finds each
// whole, and nothing else.
func FuzzFrame(f *testing.F) {
	f.Add("ADDED", []byte(`{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"}}`), []byte("k8s\x00"))
	f.Add("ERROR", []byte("\n\x00"), []byte{})
	f.Fuzz(func(t *testing.T, kind string, one, two []byte) {
		for _, format := range []Format{Protobuf, CBOR} {
			framed, err := AppendFrame(nil, format, kind, Part{Body: one})
			if err != nil {
				continue
			}
			first := len(framed)
			framed, err = AppendFrame(framed, format, kind, Part{Head: two, Body: one, Tail: two})
			if err != nil {
				continue
			}
			if format != Protobuf {
				continue
			}
			size := int(framed[0])<<24 | int(framed[1])<<16 | int(framed[2])<<8 | int(framed[3])
			if size+4 != first {
				t.Fatalf("the first frame has %d bytes and says %d", first, size)
			}
			var ev metav1.WatchEvent
			if err := ev.Unmarshal(framed[4:first]); err != nil || ev.Type != kind || string(ev.Object.Raw) != string(one) {
				t.Errorf("%q %q became %q %q, %v", kind, one, ev.Type, ev.Object.Raw, err)
			}
		}
	})
}
