package endpoint

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"proa/api"
	"proa/apiserver/admission"
	"proa/apiserver/fieldmanager"
	"proa/store"
)

const (
	// A name may have 63 characters, of which generateName leaves five to chance.
	generatedSuffix = 5
	maxNameBase     = 63 - generatedSuffix
	// generateAttempts bounds the tries for a generated name that is free
	// (KEP-4420).
	generateAttempts = 8
)

// Create stores a new object. The object is given away.
func (e *Endpoint) Create(ctx context.Context, q Request, obj api.Object) (Result, error) {
	if err := checkNamespace(&q, obj); err != nil {
		return Result{}, err
	}
	if q.Name != "" && obj.GetName() == "" {
		obj.SetName(q.Name)
	}
	generated := obj.GetName() == "" && obj.GetGenerateName() != ""
	for attempt := 1; ; attempt++ {
		try := obj
		if generated {
			try = obj.DeepCopyObject().(api.Object)
			try.SetName(generateName(obj.GetGenerateName()))
		}
		q.Name = try.GetName()
		res, err := e.createOnce(ctx, q, try, generated)
		if generated && apierrors.IsAlreadyExists(err) {
			if attempt < generateAttempts {
				continue
			}
			return res, apierrors.NewGenerateNameConflict(q.Served.GR(), q.Name, 1)
		}
		return res, err
	}
}

func generateName(base string) string {
	if len(base) > maxNameBase {
		base = base[:maxNameBase]
	}
	return base + utilrand.String(generatedSuffix)
}

// checkNamespace makes the object's namespace and the URL's agree.
func checkNamespace(q *Request, obj api.Object) error {
	if !q.Served.Namespaced {
		q.Namespace = ""
		if ns := obj.GetNamespace(); ns != "" {
			return apierrors.NewBadRequest("namespace may not be set on a cluster-scoped object")
		}
		return nil
	}
	if ns := obj.GetNamespace(); ns != "" && ns != q.Namespace && q.Namespace != "" {
		return apierrors.NewBadRequest(fmt.Sprintf("the namespace of the provided object does not match the namespace sent on the request (%s, %s)", ns, q.Namespace))
	}
	if q.Namespace == "" {
		q.Namespace = obj.GetNamespace()
	}
	obj.SetNamespace(q.Namespace)
	return nil
}

func (e *Endpoint) createOnce(ctx context.Context, q Request, obj api.Object, generated bool) (Result, error) {
	if err := e.prepareCreate(q, obj); err != nil {
		return Result{}, err
	}
	if c := q.Served.Custom; c != nil && c.Closing.Load() {
		return Result{}, apierrors.NewForbidden(q.Served.GR(), q.Name, errors.New("create not allowed while custom resource definition is terminating"))
	}
	world, err := e.latest(ctx)
	if err != nil {
		return Result{}, err
	}
	if len(q.Name) > 0 && world.Get(q.key()) != nil {
		return Result{}, e.alreadyExists(ctx, q, world)
	}
	if !q.applied {
		var err error
		if obj, err = e.Fields.Update(q.Served, q.Subresource, emptyLike(q.Served), obj, q.Manager); err != nil {
			return Result{}, apierrors.NewInternalError(err)
		}
	}
	stampRequester(q.User, obj)
	ar := e.admissionRequest(q, admission.Create, obj, nil, world)
	ar.Generated = generated
	if err := e.mutateNew(ctx, &q, ar); err != nil {
		return Result{}, err
	}
	obj = ar.Object
	if q.Served.Settle != nil {
		q.Served.Settle(obj)
	}
	if err := validateCreate(q, obj); err != nil {
		return Result{}, err
	}
	if err := e.Admission.Validate(ctx, ar); err != nil {
		return Result{}, err
	}
	return e.commitNew(ctx, q, ar)
}

// prepareCreate fills in the metadata that the system gives an object.
func (e *Endpoint) prepareCreate(q Request, obj api.Object) error {
	if obj.GetResourceVersion() != "" {
		return apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
	obj.SetUID(uuid.NewUUID())
	obj.SetCreationTimestamp(metav1.NewTime(e.Now()).Rfc3339Copy())
	prepareNew(q, obj)
	return nil
}

// prepareNew has the kind put a new object into its first state. The object has
// its UID by then.
func prepareNew(q Request, obj api.Object) {
	if q.Served.PrepareCreate != nil {
		q.Served.PrepareCreate(obj)
	}
	if q.Served.Default != nil {
		q.Served.Default(obj)
	}
}

// mutateNew lets admission fill in a new object. Where a webhook or a policy made
// another one of it, what the system fills in is filled in again.
func (e *Endpoint) mutateNew(ctx context.Context, q *Request, ar *admission.Request) error {
	was := ar.Object
	uid, born, owners := was.GetUID(), was.GetCreationTimestamp(), was.GetManagedFields()
	if err := e.Admission.Mutate(ctx, ar); err != nil || !ar.Changed() {
		return err
	}
	obj := ar.Object
	obj.SetResourceVersion("")
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
	obj.SetUID(uid)
	obj.SetCreationTimestamp(born)
	obj.SetManagedFields(owners)
	prepareNew(*q, obj)
	stampRequester(q.User, obj)
	if err := checkNamespace(q, obj); err != nil {
		return err
	}
	q.Name, ar.Name = obj.GetName(), obj.GetName()
	return nil
}

// maxErrors bounds the errors that one answer lists.
const maxErrors = 500

func invalid(q Request, obj api.Object, errs field.ErrorList) error {
	return apierrors.NewInvalid(q.Served.Resource.GVK().GroupKind(), obj.GetName(), errs[:min(len(errs), maxErrors)])
}

// maxReferences bounds an object's owners and finalizers: each is judged by itself,
// at a cost.
const maxReferences = 10_000

// tooMany refuses lists that every kind has before anything is done about each of
// their entries.
func tooMany(q Request, obj api.Object) error {
	if !holdsData(obj) && fieldmanager.Wide(obj) {
		return apierrors.NewRequestEntityTooLargeError("its maps and lists may have some 10000 entries")
	}
	var errs field.ErrorList
	meta := field.NewPath("metadata")
	if n := len(obj.GetOwnerReferences()); n > maxReferences {
		errs = append(errs, field.TooMany(meta.Child("ownerReferences"), n, maxReferences))
	}
	if n := len(obj.GetFinalizers()); n > maxReferences {
		errs = append(errs, field.TooMany(meta.Child("finalizers"), n, maxReferences))
	}
	if len(errs) > 0 {
		return invalid(q, obj, errs)
	}
	return nil
}

// holdsData tells kinds whose entries are judged one by one at most.
func holdsData(obj api.Object) bool {
	switch obj.(type) {
	case *corev1.ConfigMap, *corev1.Secret, *unstructured.Unstructured:
		return true
	}
	return false
}

func validateCreate(q Request, obj api.Object) error {
	if err := tooMany(q, obj); err != nil {
		return err
	}
	var errs field.ErrorList
	if q.Served.Validate != nil {
		errs = q.Served.Validate(obj)
	}
	if q.Served.ValidateNew != nil {
		errs = append(errs, q.Served.ValidateNew(obj)...)
	}
	if as := q.Served.As; as != nil && as.Strict != nil {
		errs = append(errs, as.Strict(obj, nil)...)
	}
	if len(errs) > 0 {
		return invalid(q, obj, errs)
	}
	if q.Served.Warnings != nil {
		q.warn(q.Served.Warnings(obj, nil)...)
	}
	return nil
}

// commitNew runs the last admission steps and the commit, again when a guard of
// theirs found the world changed.
func (e *Endpoint) commitNew(ctx context.Context, q Request, ar *admission.Request) (Result, error) {
	late := e.Admission.Finishes(ar)
	for base := ar.Object; ; {
		try := *ar
		if late {
			world, err := e.latest(ctx)
			if err != nil {
				return Result{}, err
			}
			try.Object, try.World = base.DeepCopyObject().(api.Object), world
			if err := e.Admission.Finish(ctx, &try); err != nil {
				try.Done()
				return Result{}, err
			}
		}
		res, err := e.insert(ctx, q, &try)
		try.Done()
		if !foreign(q, err) {
			return res, e.createError(ctx, q, err)
		}
	}
}

func (e *Endpoint) insert(ctx context.Context, q Request, ar *admission.Request) (Result, error) {
	if q.DryRun {
		if e.Store.Snapshot().Get(q.key()) != nil {
			return Result{}, &store.ConflictError{Key: q.key()}
		}
		return Result{object: ar.Object, Created: true}, nil
	}
	obj, err := stored(ctx, q, ar.Object)
	if err != nil {
		return Result{}, internal(err)
	}
	writes := append([]store.Write{{Key: q.key(), Object: obj}}, ar.Writes()...)
	records, err := e.Store.Commit(ctx, writes...)
	if err != nil {
		return Result{}, err
	}
	res := q.result(records[0], ar.Object)
	res.Created = true
	return res, nil
}

func (e *Endpoint) createError(ctx context.Context, q Request, err error) error {
	if errors.Is(err, store.ErrConflict) {
		return e.alreadyExists(ctx, q, e.Store.Snapshot())
	}
	return storeError(q, err)
}

// alreadyExists says so; what is still being deleted is named as that.
func (e *Endpoint) alreadyExists(ctx context.Context, q Request, world store.Snapshot) error {
	err := apierrors.NewAlreadyExists(q.Served.GR(), q.Name)
	if _, obj, lerr := live(ctx, world, q); lerr == nil && obj.GetDeletionTimestamp() != nil {
		err.ErrStatus.Message = fmt.Sprintf("object is being deleted: %s", err.ErrStatus.Message)
	}
	return err
}

func emptyLike(served api.Served) api.Object {
	obj := served.Resource.New()
	obj.GetObjectKind().SetGroupVersionKind(served.Resource.GVK())
	return obj
}
