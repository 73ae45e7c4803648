package api

import (
	"encoding/json"
	"strconv"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/randfill"
)

// fillFuncs keep random objects encodable.
var fillFuncs = []any{
	func(q *resource.Quantity, c randfill.Continue) {
		*q = *resource.NewMilliQuantity(c.Int63n(5000)-500, resource.DecimalSI)
	},
	func(t *metav1.Time, c randfill.Continue) { *t = metav1.Unix(c.Int63n(1<<31), 0) },
	func(t *metav1.MicroTime, c randfill.Continue) {
		*t = metav1.NewMicroTime(metav1.Unix(c.Int63n(1<<31), 0).Time)
	},
	func(p *intstr.IntOrString, c randfill.Continue) {
		*p = intstr.FromInt32(c.Int31n(200) - 10)
		if c.Bool() {
			*p = intstr.FromString(strconv.Itoa(c.Intn(120)) + "%")
		}
	},
	func(f *metav1.FieldsV1, _ randfill.Continue) { f.Raw = []byte("{}") },
	func(e *runtime.RawExtension, _ randfill.Continue) {
		e.Raw, _ = json.Marshal(map[string]string{"kind": "X"})
	},
}
