package endpoint

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"proa/api"
	"proa/apiserver/codec"
	"proa/store"
)

// Selection is what a list or watch keeps of a scope.
type Selection struct {
	row    *api.Resource
	labels labels.Selector
	fields fields.Selector
	ctx    context.Context // of the request, for conversion
}

const (
	fieldName      = "metadata.name"
	fieldNamespace = "metadata.namespace"
)

// maxTerms bounds what every object, and every event of a watch, is compared with.
// The values of one term ("in") are a set, and make it no slower.
const maxTerms = 10_000

// newSelection parses selectors, in which fields have the names that the served
// version gives them, and narrows the scope by those fields that are part of the
// key.
func newSelection(ctx context.Context, served api.Served, labelText, fieldText string, scope *store.Scope) (Selection, error) {
	if strings.Count(labelText, ",") >= maxTerms || strings.Count(fieldText, ",") >= maxTerms {
		return Selection{}, apierrors.NewBadRequest(fmt.Sprintf("a selector has %d terms at most", maxTerms))
	}
	ls, err := labels.Parse(labelText)
	if err != nil {
		return Selection{}, apierrors.NewBadRequest(err.Error())
	}
	fs, err := fields.ParseSelector(fieldText)
	if err != nil {
		return Selection{}, apierrors.NewBadRequest(err.Error())
	}
	fs, err = fs.Transform(func(name, value string) (string, string, error) {
		name, err := rowField(served, name)
		return name, value, err
	})
	if err != nil {
		return Selection{}, err
	}
	return Selection{served.Resource, ls, narrow(fs, scope), ctx}, nil
}

// rowField is what the row calls a field that the served version calls name.
func rowField(served api.Served, name string) (string, error) {
	if served.As == nil || len(served.As.FieldNames) == 0 {
		return name, knownField(served.Resource, name)
	}
	for theirs, ours := range served.As.FieldNames {
		switch name {
		case theirs:
			return ours, nil
		case ours: // a name that this version has another for
			return "", apierrors.NewBadRequest("field label not supported: " + name)
		}
	}
	return name, knownField(served.Resource, name)
}

func knownField(row *api.Resource, name string) error {
	switch {
	case name == fieldName, name == fieldNamespace, slices.Contains(row.FieldNames, name):
		return nil
	case len(row.FieldNames) > 0:
		return apierrors.NewBadRequest("field label not supported: " + name)
	}
	return apierrors.NewBadRequest(fmt.Sprintf("%q is not a known field selector: only %q, %q", name, fieldName, fieldNamespace))
}

// narrow moves exact matches on the key into the scope where it is still open
// there; the selector keeps everything else.
func narrow(fs fields.Selector, scope *store.Scope) fields.Selector {
	var rest []fields.Selector
	for _, r := range fs.Requirements() {
		exact := r.Operator == selection.Equals || r.Operator == selection.DoubleEquals
		switch {
		case exact && r.Value != "" && r.Field == fieldName && (scope.Name == "" || scope.Name == r.Value):
			scope.Name = r.Value
		case exact && r.Value != "" && r.Field == fieldNamespace && (scope.Namespace == "" || scope.Namespace == r.Value):
			scope.Namespace = r.Value
		case exact:
			rest = append(rest, fields.OneTermEqualSelector(r.Field, r.Value))
		default:
			rest = append(rest, fields.OneTermNotEqualSelector(r.Field, r.Value))
		}
	}
	return fields.AndSelectors(rest...)
}

// all tells whether everything matches, so that no object need be looked at.
func (s Selection) all() bool { return s.labels.Empty() && s.fields.Empty() }

// matches looks at the record's object.
func (s Selection) matches(rec *store.Record) (bool, error) {
	if rec == nil {
		return false, nil
	}
	if s.all() {
		return true, nil
	}
	if s.ctx.Err() != nil { // a look may be long, and there may be many
		return false, storeError(Request{}, s.ctx.Err())
	}
	obj, err := s.look(rec)
	if err != nil {
		return false, err
	}
	return s.matchesObject(obj), nil
}

// prepare has a webhook convert together what the selectors will look at.
func (s Selection) prepare(records iter.Seq[*store.Record]) error {
	if c := s.row.Custom; c == nil || !c.Relabels || s.all() {
		return nil
	}
	return codec.Shape{Served: api.Served{Resource: s.row}}.Prepare(s.ctx, slices.Collect(records)...)
}

// look is the object as far as the selectors need it: labels are those that are
// stored, unless conversion changes them.
func (s Selection) look(rec *store.Record) (api.Object, error) {
	if c := s.row.Custom; c != nil && s.fields.Empty() && !c.Relabels {
		return rec.Object()
	}
	return codec.Shown(s.ctx, api.Served{Resource: s.row}, rec)
}

func (s Selection) matchesObject(obj api.Object) bool {
	return s.labels.Matches(labels.Set(obj.GetLabels())) && s.fieldsMatch(obj)
}

func (s Selection) fieldsMatch(obj api.Object) bool {
	if s.fields.Empty() {
		return true
	}
	set := fields.Set{}
	if s.row.Fields != nil {
		set = s.row.Fields(obj)
	}
	return s.fields.Matches(keyed{set, obj})
}

// keyed adds the fields that every kind has to a row's own.
type keyed struct {
	fields.Set
	obj api.Object
}

func (k keyed) Get(name string) string {
	switch name {
	case fieldName:
		return k.obj.GetName()
	case fieldNamespace:
		return k.obj.GetNamespace()
	}
	return k.Set.Get(name)
}

func (k keyed) Has(name string) bool {
	return name == fieldName || name == fieldNamespace || k.Set.Has(name)
}

// FieldEquals tells whether an object has the value that "field=value" names; an
// empty selector matches everything.
func FieldEquals(row *api.Resource, selector string, obj api.Object) bool {
	if selector == "" {
		return true
	}
	fs, err := fields.ParseSelector(selector)
	if err != nil {
		return false
	}
	return Selection{row: row, labels: labels.Everything(), fields: fs}.fieldsMatch(obj)
}
