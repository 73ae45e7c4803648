package custom

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/util/jsonpath"

	"proa/api"
)

// defaultColumns are shown where a version names none.
var defaultColumns = []apiextensionsv1.CustomResourceColumnDefinition{{
	Name: "Age", Type: "date", JSONPath: ".metadata.creationTimestamp",
	Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
}}

// addColumns gives a row the version's table. A column that cannot be read ends
// the table, as upstream has it.
func (v *version) addColumns(row *api.Resource) {
	row.Columns = []metav1.TableColumnDefinition{{
		Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"],
	}}
	wanted := v.spec.AdditionalPrinterColumns
	if len(wanted) == 0 {
		wanted = defaultColumns
	}
	var paths []*jsonpath.JSONPath
	for _, col := range wanted {
		path := jsonpath.New(col.Name).AllowMissingKeys(true)
		if path.Parse("{"+col.JSONPath+"}") != nil {
			break
		}
		text := col.Description
		if text == "" {
			text = "Custom resource definition column (in JSONPath format): " + col.JSONPath
		}
		paths = append(paths, path)
		row.Columns = append(row.Columns, metav1.TableColumnDefinition{
			Name: col.Name, Type: col.Type, Format: col.Format, Description: text, Priority: col.Priority,
		})
	}
	columns := row.Columns[1:]
	row.Cells = func(obj api.Object, now time.Time) []any {
		cells := []any{obj.GetName()}
		u, _ := obj.(*unstructured.Unstructured)
		for i, path := range paths {
			cells = append(cells, cell(columns[i].Type, path, u, now))
		}
		return cells
	}
}

func cell(typ string, path *jsonpath.JSONPath, u *unstructured.Unstructured, now time.Time) any {
	if u == nil {
		return nil
	}
	results, err := path.FindResults(u.Object)
	if err != nil || len(results) == 0 || len(results[0]) == 0 {
		return nil
	}
	value := results[0][0].Interface()
	if typ != "string" {
		return typedCell(typ, value, now)
	}
	var text bytes.Buffer
	if path.PrintResults(&text, []reflect.Value{reflect.ValueOf(value)}) != nil {
		return nil
	}
	return text.String()
}

// typedCell is a value as the column's type shows it; nil where it does not fit.
func typedCell(typ string, value any, now time.Time) any {
	switch typ {
	case "integer":
		switch n := value.(type) {
		case int64:
			return n
		case float64:
			return int64(n)
		case json.Number:
			if i, err := n.Int64(); err == nil {
				return i
			}
		}
	case "number":
		switch n := value.(type) {
		case int64:
			return float64(n)
		case float64:
			return n
		case json.Number:
			if f, err := n.Float64(); err == nil {
				return f
			}
		}
	case "boolean":
		if b, ok := value.(bool); ok {
			return b
		}
	case "date":
		if s, ok := value.(string); ok {
			return ageOf(s, now)
		}
	}
	return nil
}

func ageOf(text string, now time.Time) string {
	var at metav1.Time
	if err := at.UnmarshalQueryParameter(text); err != nil {
		return "<invalid>"
	}
	if at.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(at.Time))
}

// addFields gives a row the version's selectable fields.
func (v *version) addFields(row *api.Resource) {
	if len(v.spec.SelectableFields) == 0 {
		return
	}
	paths := map[string]*jsonpath.JSONPath{}
	for _, f := range v.spec.SelectableFields {
		name := strings.TrimPrefix(f.JSONPath, ".")
		path := jsonpath.New("selectableField").AllowMissingKeys(true)
		if path.Parse("{"+f.JSONPath+"}") != nil {
			continue // the definition's validation lets none of these pass
		}
		row.FieldNames = append(row.FieldNames, name)
		paths[name] = path
	}
	row.Fields = func(obj api.Object) fields.Set {
		out := fields.Set{}
		for name, path := range paths {
			out[name] = fieldText(path, obj)
		}
		return out
	}
}

func fieldText(path *jsonpath.JSONPath, obj api.Object) string {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return ""
	}
	results, err := path.FindResults(u.Object)
	if err != nil || len(results) != 1 || len(results[0]) != 1 {
		return ""
	}
	if value := results[0][0].Interface(); value != nil {
		return fmt.Sprint(value)
	}
	return ""
}
