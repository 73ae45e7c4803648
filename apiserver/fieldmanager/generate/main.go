// Command generate writes the merge schemas of the built-in kinds, which client-go
// publishes as 17,000 lines of YAML, in a form that is read in milliseconds.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/gob"
	"log"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
)

func main() {
	// Any typed value leads to the schema of them all.
	v, err := applyconfigurations.NewTypeConverter(scheme.Scheme).ObjectToTyped(
		&corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}})
	if err != nil {
		log.Fatal(err)
	}
	data, err := encode(v.Schema())
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("schema.gob.gz", data, 0o644); err != nil {
		log.Fatal(err)
	}
}

func encode(s *schema.Schema) ([]byte, error) {
	gob.Register(map[any]any{}) // defaults of fields, as YAML has them
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if err := gob.NewEncoder(z).Encode(s.Types); err != nil {
		return nil, err
	}
	err = z.Close()
	return b.Bytes(), err
}
