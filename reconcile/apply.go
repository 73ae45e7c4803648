package reconcile

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
)

// parallelism is how many writes of one plan are under way at once.
const parallelism = 64

var (
	// errMoved: the write was decided on a world that is no more.
	errMoved = errors.New("the world moved on")
	// errTerminating: the namespace is being deleted, nothing is to be made in it.
	errTerminating = errors.New("the namespace is being terminated")
)

// apply does what a plan says.
func (r *runner) apply(ctx context.Context, plan Plan) outcome {
	var later error
	for rest := plan.Writes; len(rest) > 0; {
		n := 1
		if plan.Parallel {
			n = run(rest)
		}
		if err := r.applyRun(ctx, rest[:n]); err != nil {
			if !rest[0].Optional {
				return failed(err)
			}
			later = errors.Join(later, err)
		}
		rest = rest[n:]
	}
	r.record(plan.Events)
	if later != nil {
		return failed(later)
	}
	return outcome{after: plan.After}
}

func failed(err error) outcome {
	switch {
	case errors.Is(err, errTerminating):
		return outcome{}
	case errors.Is(err, errMoved):
		return outcome{moved: true}
	default:
		return outcome{err: err}
	}
}

// run is the length of the first run of creates, deletes or updates of one kind.
func run(writes []Write) int {
	first := writes[0]
	if first.Op == Post || first.Subresource != "" {
		return 1
	}
	n := 1
	for n < len(writes) && writes[n].Op == first.Op && writes[n].Optional == first.Optional && writes[n].Subresource == "" && sameKind(writes[n].Object, first.Object) {
		n++
	}
	return n
}

func sameKind(a, b client.Object) bool {
	return fmt.Sprintf("%T", a) == fmt.Sprintf("%T", b) && a.GetObjectKind().GroupVersionKind() == b.GetObjectKind().GroupVersionKind()
}

// applyRun does writes that may go together. Creates start slowly: a batch is
// begun only when all of the one before, half its size, succeeded.
func (r *runner) applyRun(ctx context.Context, writes []Write) error {
	size := 1
	if writes[0].Op != Create {
		size = parallelism
	}
	var later error
	for len(writes) > 0 {
		batch := writes[:min(size, len(writes))]
		err := r.report(ctx, batch, r.together(ctx, batch))
		if err != nil && !batch[0].Optional {
			return err
		}
		later = errors.Join(later, err)
		writes = writes[len(batch):]
		size = min(2*size, parallelism)
	}
	return later
}

// together does the writes of a batch at once and returns an error for each.
func (r *runner) together(ctx context.Context, batch []Write) []error {
	errs := make([]error, len(batch))
	if len(batch) == 1 {
		errs[0] = r.write(ctx, batch[0])
		return errs
	}
	var wg sync.WaitGroup
	for i, w := range batch {
		wg.Go(func() { errs[i] = r.write(ctx, w) })
	}
	wg.Wait()
	return errs
}

// report lets failed writes tell the user, and returns the error that ends the
// attempt: a real one before "the world moved on".
func (r *runner) report(ctx context.Context, batch []Write, errs []error) error {
	var real, moved error
	for i, err := range errs {
		switch {
		case err == nil:
		case errors.Is(err, errMoved) || errors.Is(err, errTerminating):
			moved = err
		default:
			r.tell(ctx, batch[i], err, real == nil)
			real = errors.Join(real, err)
		}
	}
	if real != nil {
		return real
	}
	return moved
}

func (r *runner) tell(ctx context.Context, w Write, err error, first bool) {
	if w.OnError == nil || ctx.Err() != nil {
		return
	}
	plan := w.OnError(err)
	if first {
		for _, write := range plan.Writes {
			if err := r.write(ctx, write); err != nil {
				break // the next attempt reports it again
			}
		}
	}
	r.record(plan.Events)
}

// write does one write and reports its success.
func (r *runner) write(ctx context.Context, w Write) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("panic in a write", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	result, err := r.send(ctx, w)
	if err != nil {
		return classify(w, err)
	}
	if w.OnDone != nil {
		r.record(w.OnDone(result))
	}
	return nil
}

func (r *runner) send(ctx context.Context, w Write) (client.Object, error) {
	switch w.Op {
	case Create:
		return r.client.Create(ctx, w.Object)
	case Update:
		return r.client.Update(ctx, w.Object, w.Subresource)
	case Delete:
		return w.Object, r.delete(ctx, w)
	case Post:
		row := r.client.Registry().Of(w.Object)
		return r.client.Post(ctx, row, client.KeyOf(w.Object), w.Subresource, w.Body)
	default:
		return nil, fmt.Errorf("reconcile: unknown write %d", w.Op)
	}
}

func (r *runner) delete(ctx context.Context, w Write) error {
	row := r.client.Registry().Of(w.Object)
	if row == nil {
		return fmt.Errorf("reconcile: %s is not served", w.Object.GetObjectKind().GroupVersionKind())
	}
	opts := *w.Delete.DeepCopy()
	if opts.Preconditions == nil {
		uid := w.Object.GetUID()
		opts.Preconditions = &metav1.Preconditions{UID: &uid}
	}
	return r.client.Delete(ctx, row, client.KeyOf(w.Object), opts)
}

// classify tells what is no error from what is.
func classify(w Write, err error) error {
	switch {
	case w.Op == Delete && apierrors.IsNotFound(err):
		return nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return errTerminating
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
		return fmt.Errorf("%w: %w", errMoved, err)
	default:
		return err
	}
}

func (r *runner) record(list []Event) {
	for _, e := range list {
		r.recorder.Event(e.Regarding, e.Type, e.Reason, e.Message)
	}
}
