package aggregate

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"proa/store"
)

const (
	// recheck is how often a remote server that answered is asked again, since
	// the network may fail without any object changing; a server that did not is
	// asked after retryFrom, then half as often each time, down to recheck.
	recheck   = 30 * time.Second
	retryFrom = time.Second
)

// keeper looks after one remote APIService.
type keeper struct {
	name  string
	wake  chan struct{}
	stop  context.CancelFunc
	scope store.Scope // of its Service
}

func (k *keeper) nudge() {
	select {
	case k.wake <- struct{}{}:
	default: // it is going to look anyway
	}
}

// watch starts and stops the keepers, and wakes them at changes.
func (a *Aggregator) watch(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	keepers := map[string]*keeper{}
	for {
		world := a.cfg.Store.Snapshot()
		a.staff(ctx, &running, keepers, world)
		now, w := a.cfg.Store.SnapshotAndWatch(scopes(keepers)...)
		for _, k := range keepers {
			if now.Revision() != world.Revision() {
				k.nudge() // what changed in between was not watched
			}
		}
		err := a.follow(ctx, keepers, w)
		w.Close()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, store.ErrExpired) {
			return err
		}
	}
}

// scopes are all APIServices, and the Services of remote ones with the slices of
// their namespaces.
func scopes(keepers map[string]*keeper) []store.Scope {
	set := map[store.Scope]bool{{Resource: resource}: true}
	for _, k := range keepers {
		set[k.scope] = true
		set[store.Scope{Resource: endpointSlices, Namespace: k.scope.Namespace}] = true
	}
	return slices.Collect(maps.Keys(set))
}

// staff makes the keepers those of the world's remote APIServices.
func (a *Aggregator) staff(ctx context.Context, running *sync.WaitGroup, keepers map[string]*keeper, world store.Snapshot) {
	remote := map[string]store.Scope{}
	for _, s := range services(world) {
		if ref := s.Spec.Service; ref != nil {
			remote[s.Name] = store.Scope{Resource: coreServices, Namespace: ref.Namespace, Name: ref.Name}
		} else if withVerdict(s, isLocal, metav1.Time{}) != nil {
			a.settle(ctx, s.Name, isLocal)
		}
	}
	for name, k := range keepers {
		if scope, ok := remote[name]; !ok || scope != k.scope {
			k.stop()
			delete(keepers, name)
		}
	}
	a.forget(remote)
	for name, scope := range remote {
		if keepers[name] != nil {
			continue
		}
		own, stop := context.WithCancel(ctx)
		k := &keeper{name: name, wake: make(chan struct{}, 1), stop: stop, scope: scope}
		keepers[name] = k
		running.Go(func() { a.keep(own, k) })
	}
}

// follow wakes keepers until the set of remote APIServices is another one.
func (a *Aggregator) follow(ctx context.Context, keepers map[string]*keeper, w store.Watcher) error {
	for {
		events, _, err := w.Next(ctx)
		if err != nil {
			return err
		}
		restaff := false
		for _, e := range events {
			key := e.Record.Key()
			if key.Resource != resource {
				wakeFor(keepers, key)
				continue
			}
			if k := keepers[key.Name]; k != nil {
				k.nudge()
			}
			restaff = restaff || changesStaff(e)
		}
		if restaff {
			return nil
		}
	}
}

// changesStaff tells whether an APIService began or ceased to be remote, names
// another Service, or is a local one whose condition is not as it is to be.
func changesStaff(e store.Event) bool {
	now := serviceOf(e.Record)
	if now == nil || e.Type != store.Modified {
		return true
	}
	was := serviceOf(e.Prev)
	if was == nil || !reflect.DeepEqual(was.Spec.Service, now.Spec.Service) {
		return true
	}
	return now.Spec.Service == nil && withVerdict(now, isLocal, metav1.Time{}) != nil
}

func wakeFor(keepers map[string]*keeper, key store.Key) {
	for _, k := range keepers {
		if k.scope.Namespace == key.Namespace && (key.Resource != coreServices || key.Name == k.scope.Name) {
			k.nudge()
		}
	}
}

// keep looks after one APIService until ctx ends.
func (a *Aggregator) keep(ctx context.Context, k *keeper) {
	var failures int
	for ctx.Err() == nil {
		s := serviceOf(a.cfg.Store.Snapshot().Get(store.Key{Resource: resource, Name: k.name}))
		var again <-chan time.Time
		if s != nil && s.Spec.Service != nil {
			ok, asked := a.check(ctx, s)
			if ok {
				failures = 0
			} else {
				failures++
			}
			if asked {
				again = time.After(pause(failures))
			}
		}
		select {
		case <-ctx.Done():
		case <-k.wake:
		case <-again:
		}
	}
}

// pause is the time until a server is asked again.
func pause(failures int) time.Duration {
	if failures == 0 || failures > 5 {
		return recheck
	}
	return min(retryFrom<<(failures-1), recheck)
}

// check brings an APIService's condition and what is known of its server up to
// date, and tells whether it is available and whether the server was asked.
func (a *Aggregator) check(ctx context.Context, s *apiregistrationv1.APIService) (ok, asked bool) {
	v, ask := judge(a.cfg.Store.Snapshot(), s)
	if ask {
		if err := a.probe(ctx, s); err != nil {
			v = unavailable("FailedDiscoveryCheck", "%v", err)
		}
	}
	if ctx.Err() != nil {
		return false, ask
	}
	ok = v.status == apiregistrationv1.ConditionTrue
	a.settle(ctx, s.Name, v)
	if ok {
		a.learn(ctx, s)
	} else {
		a.doubt(gvOf(s))
	}
	return ok, ask
}

// settle writes the verdict, again if somebody else wrote meanwhile.
func (a *Aggregator) settle(ctx context.Context, name string, v verdict) {
	for ctx.Err() == nil {
		s := serviceOf(a.cfg.Store.Snapshot().Get(store.Key{Resource: resource, Name: name}))
		if s == nil || (s.Spec.Service == nil) != (v == isLocal) {
			return // another verdict is on its way
		}
		next := withVerdict(s, v, metav1.NewTime(a.cfg.Now()))
		if next == nil {
			return
		}
		_, err := a.cfg.Client.Update(ctx, next, "status")
		if apierrors.IsConflict(err) {
			continue
		}
		if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			a.cfg.Log.Warn("the availability of an APIService could not be written", "name", name, "err", err)
		}
		return
	}
}
