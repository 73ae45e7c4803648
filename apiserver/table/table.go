// Package table shows objects as the rows that kubectl prints, as the kinds'
// rows in the registry say.
package table

import (
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"proa/api"
	"proa/apiserver/codec"
)

// Make builds a Table of meta.k8s.io at the version. include is what the client
// asked for in includeObject: "" or Metadata, Object, or None.
func Make(served api.Served, objs []api.Object, m metav1.ListMeta, include, version string, now time.Time) (*metav1.Table, error) {
	t := &metav1.Table{ListMeta: m, ColumnDefinitions: served.Columns, Rows: make([]metav1.TableRow, 0, len(objs))}
	t.Kind, t.APIVersion = "Table", "meta.k8s.io/"+version
	for _, obj := range objs {
		raw, err := included(served, obj, include, version)
		if err != nil {
			return nil, err
		}
		t.Rows = append(t.Rows, metav1.TableRow{Cells: served.Cells(obj, now), Object: raw})
	}
	return t, nil
}

func included(served api.Served, obj api.Object, include, version string) (out runtime.RawExtension, err error) {
	switch metav1.IncludeObjectPolicy(include) {
	case metav1.IncludeNone:
		return out, nil
	case "", metav1.IncludeMetadata:
		shown, err := codec.Shape{Served: served, Meta: true}.Convert(obj)
		if err == nil {
			shown.GetObjectKind().SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("PartialObjectMetadata"))
			shown.(*metav1.PartialObjectMetadata).APIVersion = "meta.k8s.io/" + version
		}
		return runtime.RawExtension{Object: shown}, err
	case metav1.IncludeObject:
		shown, err := codec.FromStorage(served, obj) // custom resources come as they are shown
		return runtime.RawExtension{Object: shown}, err
	}
	return out, apierrors.NewBadRequest(fmt.Sprintf("unrecognized includeObject value: %q", include))
}
