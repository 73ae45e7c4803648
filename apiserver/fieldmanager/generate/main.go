// Command generate writes the merge schemas of the built-in kinds, which client-go,
// apiextensions-apiserver and kube-aggregator publish as 20,000 lines of YAML, in a
// form that is read in milliseconds.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/gob"
	"log"
	"os"

	"sigs.k8s.io/structured-merge-diff/v6/schema"

	"proa/apiserver/fieldmanager/published"
)

func main() {
	all, err := published.Types()
	if err != nil {
		log.Fatal(err)
	}
	data, err := encode(all)
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("schema.gob.gz", data, 0o644); err != nil {
		log.Fatal(err)
	}
}

func encode(types []schema.TypeDef) ([]byte, error) {
	gob.Register(map[any]any{}) // defaults of fields, as YAML has them
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if err := gob.NewEncoder(z).Encode(types); err != nil {
		return nil, err
	}
	err = z.Close()
	return b.Bytes(), err
}
