package api

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func eventRow() *Resource {
	doc := corev1.Event{}.SwaggerDoc()
	return kind[*corev1.Event]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "events", Short: []string{"ev"}, Namespaced: true,
		// The older API takes what a path can hold; the newer one judges for itself.
		Name: pathSegment, FreeFinalizers: true,
		List:                &corev1.EventList{},
		AllowCreateOnUpdate: true,
		Validate:            validateEvent,
		Versions: []Version{{
			Group: "events.k8s.io", Version: "v1", Kind: "Event",
			New:         func() Object { return &eventsv1.Event{} },
			NewList:     func() runtime.Object { return &eventsv1.EventList{} },
			Strict:      validateStrictEvent,
			ToStorage:   eventToCore,
			FromStorage: eventFromCore,
			FieldNames: map[string]string{
				"regarding.kind": "involvedObject.kind", "regarding.namespace": "involvedObject.namespace",
				"regarding.name": "involvedObject.name", "regarding.uid": "involvedObject.uid",
				"regarding.apiVersion": "involvedObject.apiVersion", "regarding.resourceVersion": "involvedObject.resourceVersion",
				"regarding.fieldPath": "involvedObject.fieldPath", "reportingController": "reportingComponent",
			},
		}},
		Columns: columns(
			column("Last Seen", "string", doc["lastTimestamp"]),
			column("Type", "string", doc["type"]),
			column("Reason", "string", doc["reason"]),
			column("Object", "string", doc["involvedObject"]),
			wideColumn("Subobject", "string", corev1.ObjectReference{}.SwaggerDoc()["fieldPath"]),
			wideColumn("Source", "string", doc["source"]),
			column("Message", "string", doc["message"]),
			wideColumn("First Seen", "string", doc["firstTimestamp"]),
			wideColumn("Count", "string", doc["count"]),
			metav1.TableColumnDefinition{Name: "Name", Type: "string", Format: "name", Priority: 1, Description: metaDoc["name"]}),
		Cells:  eventCells,
		Fields: eventFields,
	}.row()
}

func eventFields(e *corev1.Event) fields.Set {
	o := e.InvolvedObject
	return fields.Set{
		"involvedObject.kind": o.Kind, "involvedObject.namespace": o.Namespace, "involvedObject.name": o.Name,
		"involvedObject.uid": string(o.UID), "involvedObject.apiVersion": o.APIVersion,
		"involvedObject.resourceVersion": o.ResourceVersion, "involvedObject.fieldPath": o.FieldPath,
		"reason": e.Reason, "type": e.Type, "reportingComponent": e.ReportingController,
		"source": or(e.Source.Component, e.ReportingController),
	}
}

func eventCells(e *corev1.Event, now time.Time) []any {
	first, count := e.FirstTimestamp.Time, e.Count
	if first.IsZero() {
		first = e.EventTime.Time
	}
	last := e.LastTimestamp.Time
	if last.IsZero() {
		last = first
	}
	if e.Series != nil {
		count, last = e.Series.Count, e.Series.LastObservedTime.Time
	}
	if count == 0 {
		count = 1 // a single one, as the newer API writes it
	}
	object := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		object += "/" + e.InvolvedObject.Name
	}
	return []any{ageOf(last, now), e.Type, e.Reason, object, e.InvolvedObject.FieldPath, eventSource(e),
		strings.TrimSpace(e.Message), ageOf(first, now), int64(count), e.Name}
}

func eventSource(e *corev1.Event) string {
	who := []string{or(e.Source.Component, e.ReportingController)}
	if where := or(e.Source.Host, e.ReportingInstance); where != "" {
		who = append(who, where)
	}
	return strings.Join(who, ", ")
}

const maxEventWord, maxEventNote = 128, 1024

func validateEvent(e *corev1.Event) field.ErrorList {
	errs := validateEventPlace(e)
	if e.EventTime.IsZero() { // written by the older API, which asks for nothing more
		return errs
	}
	errs = append(errs, requiredQualified(e.ReportingController, field.NewPath("reportingComponent"))...)
	errs = append(errs, requiredWithin(e.ReportingInstance, field.NewPath("reportingInstance"))...)
	errs = append(errs, requiredWithin(e.Action, field.NewPath("action"))...)
	errs = append(errs, requiredWithin(e.Reason, field.NewPath("reason"))...)
	if len(e.Message) > maxEventNote {
		errs = append(errs, field.Invalid(field.NewPath("message"), "", fmt.Sprintf("can have at most %d characters", maxEventNote)))
	}
	return errs
}

// requiredQualified says both of a name that is not there.
func requiredQualified(name string, at *field.Path) field.ErrorList {
	return append(required(name, at), invalidEach(name, at, validation.IsQualifiedName(name))...)
}

func requiredWithin(s string, at *field.Path) field.ErrorList {
	if len(s) > maxEventWord {
		return field.ErrorList{field.Invalid(at, "", fmt.Sprintf("can have at most %d characters", maxEventWord))}
	}
	return required(s, at)
}

// validateEventPlace: an event lives beside what it is about; one about a
// cluster-scoped object lives in "default" or, by old components, elsewhere.
func validateEventPlace(e *corev1.Event) field.ErrorList {
	about := e.InvolvedObject.Namespace
	at := field.NewPath("involvedObject", "namespace")
	var ok bool
	switch old := e.EventTime.IsZero(); {
	case about == "" && old:
		ok = e.Namespace == "" || e.Namespace == metav1.NamespaceDefault
	case about == "":
		ok = e.Namespace == metav1.NamespaceDefault || e.Namespace == metav1.NamespaceSystem
	case old:
		ok = e.Namespace == about
	default:
		ok = true
	}
	if !ok {
		return field.ErrorList{field.Invalid(at, about, "does not match event.namespace")}
	}
	return nil
}

// validateStrictEvent is what the newer API asks for on top: no field of the
// older one, and of an event that is there only the series goes on.
func validateStrictEvent(obj, before Object) field.ErrorList {
	e := obj.(*corev1.Event)
	if before == nil {
		return append(validateNewEvent(e), validateEventSeries(e)...)
	}
	old := before.(*corev1.Event)
	var errs field.ErrorList
	if !equality.Semantic.DeepEqual(e.Series, old.Series) {
		errs = validateEventSeries(e)
	}
	for _, f := range []struct {
		name     string
		now, was any
	}{
		{"involvedObject", e.InvolvedObject, old.InvolvedObject}, {"reason", e.Reason, old.Reason}, {"message", e.Message, old.Message},
		{"source", e.Source, old.Source}, {"firstTimestamp", e.FirstTimestamp, old.FirstTimestamp},
		{"lastTimestamp", e.LastTimestamp, old.LastTimestamp}, {"count", e.Count, old.Count}, {"type", e.Type, old.Type},
		{"action", e.Action, old.Action}, {"related", e.Related, old.Related},
		{"reportingController", e.ReportingController, old.ReportingController},
		{"reportingInstance", e.ReportingInstance, old.ReportingInstance},
	} {
		errs = append(errs, immutable(f.now, f.was, field.NewPath(f.name))...)
	}
	if now, was := e.EventTime.Truncate(time.Microsecond), old.EventTime.Truncate(time.Microsecond); !now.Equal(was) {
		errs = append(errs, immutable(e.EventTime, old.EventTime, field.NewPath("eventTime"))...)
	}
	return errs
}

func validateNewEvent(e *corev1.Event) field.ErrorList {
	errs := invalidEach(e.Name, metaPath.Child("name"), subdomain(e.Name, false))
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", "has invalid value: "+e.Type))
	}
	for name, set := range inOrder(map[string]bool{"firstTimestamp": !e.FirstTimestamp.IsZero(), "lastTimestamp": !e.LastTimestamp.IsZero(),
		"count": e.Count != 0, "source": e.Source != (corev1.EventSource{})}) {
		if set {
			errs = append(errs, field.Invalid(field.NewPath(name), "", "needs to be unset"))
		}
	}
	return errs
}

func validateEventSeries(e *corev1.Event) field.ErrorList {
	if e.Series == nil {
		return nil
	}
	var errs field.ErrorList
	if e.Series.Count < 2 {
		errs = append(errs, field.Invalid(field.NewPath("series.count"), "", "should be at least 2"))
	}
	if e.Series.LastObservedTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("series.lastObservedTime"), ""))
	}
	return errs
}

// eventToCore and eventFromCore: the two APIs have the same fields under
// different names.
func eventToCore(obj Object) (Object, error) {
	e, ok := obj.(*eventsv1.Event)
	if !ok {
		return nil, fmt.Errorf("api: a %T is no events.k8s.io/v1 Event", obj)
	}
	out := &corev1.Event{
		ObjectMeta: e.ObjectMeta, InvolvedObject: e.Regarding, Reason: e.Reason, Message: e.Note,
		Source: e.DeprecatedSource, FirstTimestamp: e.DeprecatedFirstTimestamp, LastTimestamp: e.DeprecatedLastTimestamp,
		Count: e.DeprecatedCount, Type: e.Type, EventTime: e.EventTime, Action: e.Action, Related: e.Related,
		ReportingController: e.ReportingController, ReportingInstance: e.ReportingInstance,
	}
	if e.Series != nil {
		out.Series = &corev1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	return out, nil
}

func eventFromCore(obj Object) (Object, error) {
	e, ok := obj.(*corev1.Event)
	if !ok {
		return nil, fmt.Errorf("api: a %T is no v1 Event", obj)
	}
	out := &eventsv1.Event{
		ObjectMeta: e.ObjectMeta, Regarding: e.InvolvedObject, Reason: e.Reason, Note: e.Message,
		DeprecatedSource: e.Source, DeprecatedFirstTimestamp: e.FirstTimestamp, DeprecatedLastTimestamp: e.LastTimestamp,
		DeprecatedCount: e.Count, Type: e.Type, EventTime: e.EventTime, Action: e.Action, Related: e.Related,
		ReportingController: e.ReportingController, ReportingInstance: e.ReportingInstance,
	}
	if e.Series != nil {
		out.Series = &eventsv1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	return out, nil
}
