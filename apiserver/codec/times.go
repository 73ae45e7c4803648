package codec

import (
	"bytes"
	"errors"
	"reflect"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

var errNoText = errors.New("a time in it is outside of the years 0 to 9999")

// checkTimes refuses times that have no text (RFC 3339 ends with the year 9999): no
// client could read the object in JSON, nor a list with it.
func checkTimes(into runtime.Object) error {
	if u, ok := into.(*unstructured.Unstructured); ok {
		created := u.GetCreationTimestamp()
		if !hasText(created.Time) || u.GetDeletionTimestamp() != nil && !hasText(u.GetDeletionTimestamp().Time) {
			return errNoText
		}
		return nil
	}
	v := reflect.ValueOf(into)
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if !written(v) {
		return errNoText
	}
	return nil
}

// nearEnds tells a text with a time so near the ends that its time zone may lead
// beyond them.
func nearEnds(body []byte) bool {
	return bytes.Contains(body, []byte("9999-12-31T")) || bytes.Contains(body, []byte("0000-01-01T"))
}

func hasText(t time.Time) bool { y := t.UTC().Year(); return y >= 0 && y <= 9999 }

var timeTypes = map[reflect.Type]bool{
	reflect.TypeFor[metav1.Time](): true, reflect.TypeFor[metav1.MicroTime](): true,
}

// written tells whether all times in a value have a text. It looks only where the
// type can have one.
func written(v reflect.Value) bool {
	t := v.Type()
	if timeTypes[t] {
		return hasText(v.Field(0).Interface().(time.Time))
	}
	if !holdsTimes(t) {
		return true
	}
	switch t.Kind() {
	case reflect.Pointer:
		return v.IsNil() || written(v.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if t.Field(i).IsExported() && !written(v.Field(i)) {
				return false
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			if !written(v.Index(i)) {
				return false
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if !written(it.Value()) {
				return false
			}
		}
	}
	return true
}

// timely remembers which types hold times; there are as many as the API has.
var timely sync.Map // reflect.Type → bool

func holdsTimes(t reflect.Type) bool {
	if known, ok := timely.Load(t); ok {
		return known.(bool)
	}
	holds := leadsToTime(t, map[reflect.Type]bool{})
	timely.Store(t, holds)
	return holds
}

// leadsToTime searches what a type is made of; types that contain themselves are
// looked at once.
func leadsToTime(t reflect.Type, seen map[reflect.Type]bool) bool {
	if timeTypes[t] {
		return true
	}
	if seen[t] {
		return false
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return leadsToTime(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			if f := t.Field(i); f.IsExported() && leadsToTime(f.Type, seen) {
				return true
			}
		}
	}
	return false
}
