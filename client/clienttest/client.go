// Package clienttest is an API server small enough for tests: a client.Client
// over a map, with revisions, watches, conflicts, generated names, finalizers,
// graceful deletion and the rows' own defaults, strategies and validation. It
// keeps nothing on disk and asks nobody for permission.
package clienttest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"

	"proa/api"
	"proa/client"
)

// Client implements client.Client.
type Client struct {
	// Fault, when set, is asked before each write; an error it returns is the
	// answer. verb is create, update, patch, delete or post. It must be set
	// before the client is used from several goroutines.
	Fault func(verb string, obj client.Object, subresource string) error

	reg     *api.Registry
	mu      sync.Mutex
	now     *view
	log     []logged
	changed chan struct{} // made by who waits for a write, closed by the next
}

type logged struct {
	event client.Event
	view  *view
}

var _ client.Client = (*Client)(nil)

// New returns a client of a world that holds the given objects, created in
// order as Create would.
func New(objs ...client.Object) *Client {
	reg, err := api.NewRegistry(api.Builtin().All()...) // one of its own, to which a test may add
	if err != nil {
		panic(err)
	}
	c := &Client{reg: reg, now: &view{revision: 1}}
	for _, obj := range objs {
		if _, err := c.Create(context.Background(), obj); err != nil {
			panic(err)
		}
	}
	return c
}

func (c *Client) Registry() *api.Registry { return c.reg }

func (c *Client) View() client.View {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *Client) Get(_ context.Context, r *api.Resource, key client.Key) (client.Object, error) {
	if obj := c.View().Get(r, key.Namespace, key.Name); obj != nil {
		return obj, nil
	}
	return nil, apierrors.NewNotFound(r.GR(), key.Name)
}

// commit shows one write to everybody. The caller holds mu.
func (c *Client) commit(row *api.Resource, old, obj client.Object) {
	key := client.KeyOf(cmpObject(obj, old))
	c.now = c.now.with(row, key, obj)
	if obj != nil {
		obj.SetResourceVersion(strconv.FormatUint(c.now.revision, 10))
	}
	c.log = append(c.log, logged{client.Event{Resource: row, Old: old, New: obj, Revision: c.now.revision}, c.now})
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

func cmpObject(a, b client.Object) client.Object {
	if a != nil {
		return a
	}
	return b
}

func (c *Client) fault(verb string, obj client.Object, subresource string) error {
	if c.Fault == nil {
		return nil
	}
	return c.Fault(verb, obj, subresource)
}

func (c *Client) Create(_ context.Context, obj client.Object) (client.Object, error) {
	row := mustRow(c.reg, obj)
	if err := c.fault("create", obj, ""); err != nil {
		return nil, err
	}
	obj = obj.DeepCopyObject().(client.Object)
	if row.Default != nil {
		row.Default(obj)
	}
	obj.SetUID(types.UID(fmt.Sprintf("%08x-0000-4000-8000-%012x", rand.Int63nRange(0, 1<<32), rand.Int63nRange(0, 1<<48))))
	if row.PrepareCreate != nil {
		row.PrepareCreate(obj)
	}
	if obj.GetName() == "" && obj.GetGenerateName() != "" {
		obj.SetName(obj.GetGenerateName() + rand.String(5))
	}
	if obj.GetCreationTimestamp().Time.IsZero() {
		obj.SetCreationTimestamp(metav1.NewTime(time.Now().Truncate(time.Second)))
	}
	if row.Validate != nil {
		if errs := row.Validate(obj); len(errs) > 0 {
			return nil, apierrors.NewInvalid(row.GVK().GroupKind(), obj.GetName(), errs)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now.Get(row, obj.GetNamespace(), obj.GetName()) != nil {
		return nil, apierrors.NewAlreadyExists(row.GR(), obj.GetName())
	}
	c.commit(row, nil, obj)
	return obj, nil
}

func (c *Client) Update(_ context.Context, obj client.Object, subresource string) (client.Object, error) {
	row := mustRow(c.reg, obj)
	if err := c.fault("update", obj, subresource); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.now.Get(row, obj.GetNamespace(), obj.GetName())
	if old == nil {
		return nil, apierrors.NewNotFound(row.GR(), obj.GetName())
	}
	if rv := obj.GetResourceVersion(); rv != "" && rv != old.GetResourceVersion() {
		return nil, apierrors.NewConflict(row.GR(), obj.GetName(), fmt.Errorf("the object has been modified; please apply your changes to the latest version and try again"))
	}
	return c.replace(row, old, obj.DeepCopyObject().(client.Object), subresource)
}

// replace makes obj the successor of old. The caller holds mu and gives obj away.
func (c *Client) replace(row *api.Resource, old, obj client.Object, subresource string) (client.Object, error) {
	prepare, validate := row.PrepareUpdate, row.ValidateUpdate
	if subresource != "" {
		sub := row.Subresource(subresource)
		if sub == nil {
			return nil, apierrors.NewNotFound(row.GR(), obj.GetName()+"/"+subresource)
		}
		prepare, validate = sub.PrepareUpdate, sub.ValidateUpdate
	} else if row.Default != nil {
		row.Default(obj)
	}
	obj.SetUID(old.GetUID())
	obj.SetCreationTimestamp(old.GetCreationTimestamp())
	obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	obj.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	obj.SetResourceVersion(old.GetResourceVersion())
	if prepare != nil {
		prepare(obj, old)
	}
	if validate != nil {
		if errs := validate(obj, old); len(errs) > 0 {
			return nil, apierrors.NewInvalid(row.GVK().GroupKind(), obj.GetName(), errs)
		}
	}
	if equality.Semantic.DeepEqual(obj, old) {
		return old, nil
	}
	if gone(obj) {
		c.commit(row, old, nil)
		return obj, nil
	}
	c.commit(row, old, obj)
	return obj, nil
}

// gone says that nothing keeps a deleted object any more.
func gone(obj client.Object) bool {
	grace := obj.GetDeletionGracePeriodSeconds()
	return obj.GetDeletionTimestamp() != nil && !held(obj) && (grace == nil || *grace == 0)
}

// held says that finalizers keep an object, those of a namespace's spec too.
func held(obj client.Object) bool {
	if ns, ok := obj.(*corev1.Namespace); ok && len(ns.Spec.Finalizers) > 0 {
		return true
	}
	return len(obj.GetFinalizers()) > 0
}

func (c *Client) Delete(_ context.Context, row *api.Resource, key client.Key, opts metav1.DeleteOptions) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.now.Get(row, key.Namespace, key.Name)
	if old == nil {
		return apierrors.NewNotFound(row.GR(), key.Name)
	}
	if err := c.fault("delete", old, ""); err != nil {
		return err
	}
	if err := checkPreconditions(row, old, opts.Preconditions); err != nil {
		return err
	}
	obj := old.DeepCopyObject().(client.Object)
	if old.GetDeletionTimestamp() == nil {
		setPropagation(obj, opts.PropagationPolicy)
	}
	seconds, stays := int64(0), held(obj)
	if row.Graceful != nil {
		var graceful bool
		seconds, graceful = row.Graceful(obj, opts.GracePeriodSeconds)
		stays = stays || graceful
	}
	if !stays {
		c.commit(row, old, nil)
		return nil
	}
	if at := old.GetDeletionTimestamp(); at == nil || seconds < *old.GetDeletionGracePeriodSeconds() {
		deadline := metav1.NewTime(time.Now().Add(time.Duration(seconds) * time.Second))
		obj.SetDeletionTimestamp(&deadline)
		obj.SetDeletionGracePeriodSeconds(&seconds)
		if row.Deleting != nil {
			row.Deleting(obj)
		}
	}
	if !equality.Semantic.DeepEqual(obj, old) {
		c.commit(row, old, obj)
	}
	return nil
}

func checkPreconditions(row *api.Resource, obj client.Object, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	if p.UID != nil && *p.UID != obj.GetUID() {
		return apierrors.NewConflict(row.GR(), obj.GetName(), fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s)", *p.UID, obj.GetUID()))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != obj.GetResourceVersion() {
		return apierrors.NewConflict(row.GR(), obj.GetName(), fmt.Errorf("the resourceVersion in the precondition does not match"))
	}
	return nil
}

// setPropagation leaves the finalizer that tells the garbage collector what to
// do with dependents.
func setPropagation(obj client.Object, policy *metav1.DeletionPropagation) {
	if policy == nil {
		return
	}
	kept := slices.DeleteFunc(slices.Clone(obj.GetFinalizers()), func(f string) bool {
		return f == metav1.FinalizerDeleteDependents || f == metav1.FinalizerOrphanDependents
	})
	switch *policy {
	case metav1.DeletePropagationForeground:
		kept = append(kept, metav1.FinalizerDeleteDependents)
	case metav1.DeletePropagationOrphan:
		kept = append(kept, metav1.FinalizerOrphanDependents)
	}
	obj.SetFinalizers(kept)
}

// Inject puts an object in as it is, past all rules: what a kubelet or the past
// may have left. An object of that name is replaced.
func (c *Client) Inject(obj client.Object) {
	row := mustRow(c.reg, obj)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.commit(row, c.now.Get(row, obj.GetNamespace(), obj.GetName()), obj)
}
