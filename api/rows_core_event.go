package api

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func eventRow() *Resource {
	doc := corev1.Event{}.SwaggerDoc()
	return kind[*corev1.Event]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "events", Short: []string{"ev"}, Namespaced: true,
		List:                &corev1.EventList{},
		AllowCreateOnUpdate: true,
		Validate:            validateEvent,
		ValidateUpdate:      validateEventUpdate,
		Versions: []Version{{
			Group: "events.k8s.io", Version: "v1", Kind: "Event",
			New:         func() Object { return &eventsv1.Event{} },
			NewList:     func() runtime.Object { return &eventsv1.EventList{} },
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
			wideColumn("Name", nameColumn.Type, nameColumn.Description)),
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
	errs = append(errs, named(e.ReportingController, func(s string, _ bool) []string { return validation.IsQualifiedName(s) }, field.NewPath("reportingController"))...)
	errs = append(errs, requiredWithin(e.ReportingInstance, field.NewPath("reportingInstance"))...)
	errs = append(errs, requiredWithin(e.Action, field.NewPath("action"))...)
	errs = append(errs, requiredWithin(e.Reason, field.NewPath("reason"))...)
	if len(e.Message) > maxEventNote {
		errs = append(errs, field.Invalid(field.NewPath("message"), "", fmt.Sprintf("can have at most %d characters", maxEventNote)))
	}
	return errs
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
	if about == "" {
		if !e.EventTime.IsZero() && !slices.Contains([]string{"default", "kube-system"}, e.Namespace) {
			return field.ErrorList{field.Invalid(at, about, "does not match event.namespace")}
		}
		return nil
	}
	if about != e.Namespace && e.InvolvedObject.Kind != "Node" && e.InvolvedObject.Kind != "Namespace" {
		return field.ErrorList{field.Invalid(at, about, "does not match event.namespace")}
	}
	return nil
}

// validateEventUpdate: of an event of the newer API only the series goes on.
func validateEventUpdate(e, old *corev1.Event) field.ErrorList {
	if old.EventTime.IsZero() {
		return nil
	}
	var errs field.ErrorList
	for _, f := range []struct {
		name     string
		now, was any
	}{
		{"involvedObject", e.InvolvedObject, old.InvolvedObject},
		{"reason", e.Reason, old.Reason}, {"type", e.Type, old.Type}, {"action", e.Action, old.Action},
		{"reportingController", e.ReportingController, old.ReportingController},
		{"reportingInstance", e.ReportingInstance, old.ReportingInstance},
	} {
		errs = append(errs, immutable(f.now, f.was, field.NewPath(f.name))...)
	}
	if !e.EventTime.Equal(&old.EventTime) {
		errs = append(errs, immutable(e.EventTime.String(), old.EventTime.String(), field.NewPath("eventTime"))...)
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
