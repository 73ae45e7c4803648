package fieldmanager

import (
	"bytes"
	_ "embed"
	"encoding/gob"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/gzip"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

//go:generate go run ./generate

//go:embed schema.gob.gz
var packed []byte

// builtinSchema is the published schemas of the built-in kinds: which lists are
// maps or sets, what is atomic. They are unpacked at the first write.
var builtinSchema = sync.OnceValues(func() ([]schema.TypeDef, error) {
	types, err := unpack(packed)
	if err != nil {
		return nil, fmt.Errorf("fieldmanager: the built-in schemas: %w", err)
	}
	return types, nil
})

var builtinTypes = sync.OnceValues(func() (managedfields.TypeConverter, error) {
	types, err := builtinSchema()
	if err != nil {
		return nil, err
	}
	parser := &typed.Parser{Schema: schema.Schema{Types: types}}
	extending := runtime.NewScheme()
	if err := errors.Join(apiextensionsv1.AddToScheme(extending), apiregistrationv1.AddToScheme(extending)); err != nil {
		return nil, err
	}
	return builtinConverter{
		{scheme.Scheme, managedfields.NewSchemeTypeConverter(scheme.Scheme, parser)},
		{extending, managedfields.NewSchemeTypeConverter(extending, parser)},
		{nil, managedfields.NewDeducedTypeConverter()},
	}, nil
})

func unpack(data []byte) ([]schema.TypeDef, error) {
	gob.Register(map[any]any{}) // defaults of fields, as YAML has them
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	var types []schema.TypeDef
	err = gob.NewDecoder(z).Decode(&types)
	return types, err
}
