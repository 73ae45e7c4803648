package api

import (
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/duration"
)

var metaDoc = metav1.ObjectMeta{}.SwaggerDoc()

// The columns that nearly every table begins and ends with.
var (
	nameColumn = metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Description: metaDoc["name"]}
	ageColumn  = metav1.TableColumnDefinition{Name: "Age", Type: "string", Description: metaDoc["creationTimestamp"]}
)

// column is one that always shows; typ is "string", "integer", "number",
// "boolean" or "date".
func column(name, typ, doc string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: typ, Description: doc}
}

// wideColumn shows with -o wide.
func wideColumn(name, typ, doc string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: typ, Description: doc, Priority: 1}
}

// columns makes a table of columns.
func columns(c ...metav1.TableColumnDefinition) []metav1.TableColumnDefinition { return c }

const unknown, none = "<unknown>", "<none>"

// age is an object's age for a table.
func age(obj metav1.Object, now time.Time) string {
	return ageOf(obj.GetCreationTimestamp().Time, now)
}

// ageOf renders the time since t as kubectl does ("5m", "3d2h").
func ageOf(t, now time.Time) string {
	if t.IsZero() {
		return unknown
	}
	return duration.HumanDuration(now.Sub(t))
}

// selectorCell renders a selector; an unset one is "<none>".
func selectorCell(s *metav1.LabelSelector) string { return metav1.FormatLabelSelector(s) }

// labelsCell renders a set of labels, "<none>" when empty.
func labelsCell(set map[string]string) string {
	if len(set) == 0 {
		return none
	}
	return labels.FormatLabels(set)
}

// joinOr renders a list, or what stands for an empty one.
func joinOr(list []string, empty string) string {
	if len(list) == 0 {
		return empty
	}
	return strings.Join(list, ",")
}
