package scheduler

import (
	"context"
	"log/slog"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"

	"golang.org/x/sync/errgroup"

	"proa/api"
	"proa/client"
	"proa/client/events"
)

// Config is what a scheduler needs.
type Config struct {
	Client client.Client
	// Name is the schedulerName of the pods it is for; "" is
	// "default-scheduler".
	Name string
	Log  *slog.Logger
}

// Scheduler gives pods nodes.
type Scheduler struct {
	cfg    Config
	events *events.Recorder
}

// New returns a scheduler that does nothing before Run.
func New(cfg Config) *Scheduler {
	if cfg.Name == "" {
		cfg.Name = corev1.DefaultSchedulerName
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Scheduler{cfg: cfg, events: events.New(cfg.Client, cfg.Name, "", cfg.Log)}
}

// Run schedules until ctx ends or the client's stream fails.
func (s *Scheduler) Run(ctx context.Context) error {
	view, stream, err := s.cfg.Client.Watch(ctx, scopes()...)
	if err != nil {
		return err
	}
	defer stream.Close()
	group, ctx := errgroup.WithContext(ctx)
	l := newLoop(s, view)
	group.Go(func() error { return s.events.Run(ctx) })
	group.Go(func() error { return l.read(ctx, stream) })
	group.Go(func() error { return l.run(ctx) })
	return group.Wait()
}

func scopes() []client.Scope {
	return []client.Scope{
		client.All[corev1.Pod](), client.All[corev1.Node](), client.All[corev1.Namespace](),
		client.All[corev1.PersistentVolumeClaim](), client.All[corev1.PersistentVolume](), client.All[storagev1.StorageClass](),
		client.All[corev1.Service](), client.All[corev1.ReplicationController](),
		client.All[appsv1.ReplicaSet](), client.All[appsv1.StatefulSet](),
		client.All[policyv1.PodDisruptionBudget](),
	}
}

// maxWrites is how many pods' writes may be on the way at once. Beyond it no
// more pods are decided until some are through.
const maxWrites = 256

// loop owns the state. Everything that changes it happens on its goroutine:
// batches of events come in, results of writes come in as functions, pods are
// decided one at a time.
type loop struct {
	*Scheduler
	name        string
	cluster     *cluster
	queue       *queue
	nominations map[client.Key]*node // where victims were removed for a pod
	pods        *api.Resource
	// changed gathers what may help waiting pods until they are looked at.
	changed change

	batches chan batch
	results chan func(now time.Time)
	writing int
	// volumes is closed and replaced whenever a claim or volume changes; who
	// waits for claims to be bound looks again then.
	volumes chan struct{}
	asks    chan chan chan struct{} // for volumes, from beside the loop
}

type batch struct {
	events []client.Event
	view   client.View
}

func newLoop(s *Scheduler, v client.View) *loop {
	l := &loop{
		Scheduler: s, name: s.cfg.Name, cluster: newCluster(v), queue: newQueue(),
		nominations: map[client.Key]*node{}, pods: client.Row[corev1.Pod](),
		batches: make(chan batch), results: make(chan func(time.Time), maxWrites), volumes: make(chan struct{}),
		asks: make(chan chan chan struct{}),
	}
	now := time.Now()
	for n := range client.List[corev1.Namespace](v, "") {
		l.cluster.setNamespace(n.Name, namespaceLabels(n))
	}
	for n := range client.List[corev1.Node](v, "") {
		l.cluster.setNode(n)
	}
	for p := range client.List[corev1.Pod](v, "") {
		l.foldPod(p, false, &l.changed, now)
	}
	return l
}

// read hands batches of events to the loop.
func (l *loop) read(ctx context.Context, stream client.Stream) error {
	for {
		list, view, err := stream.Next(ctx)
		if err != nil {
			return err
		}
		select {
		case l.batches <- batch{list, view}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// run decides pods whenever there are some, taking in what has happened before
// each; else it sleeps until something happens or a back-off ends.
func (l *loop) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	busy := make(chan struct{})
	close(busy)
	for {
		now := time.Now()
		if l.queue.active.Len() == 0 {
			l.wake(now)
		}
		next := l.queue.due(now)
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(next.Sub(now))
		}
		var decide chan struct{} // ready at once if there is something to do
		if l.queue.active.Len() > 0 && l.writing < maxWrites {
			decide = busy
		}
		select { // what has happened comes first
		case b := <-l.batches:
			l.fold(b.events, b.view, now)
			continue
		case f := <-l.results:
			l.finish(f)
			continue
		default:
		}
		select {
		case <-ctx.Done():
			l.drain()
			return ctx.Err()
		case b := <-l.batches:
			l.fold(b.events, b.view, time.Now())
		case f := <-l.results:
			l.finish(f)
		case reply := <-l.asks:
			reply <- l.volumes
		case <-timer.C:
		case <-decide:
			l.schedule(ctx, l.queue.pop())
		}
	}
}

func (l *loop) finish(f func(time.Time)) {
	l.writing--
	f(time.Now())
}

// drain waits for the writes that are on the way.
func (l *loop) drain() {
	for ; l.writing > 0; l.writing-- {
		<-l.results
	}
}

// write runs f beside the loop and then, on the loop, what f returns.
func (l *loop) write(f func() func(now time.Time)) {
	l.writing++
	go func() { l.results <- f() }()
}

// schedule decides one pod and sets about what was decided.
func (l *loop) schedule(ctx context.Context, e *entry) {
	d := l.cluster.decide(e.info)
	if d.node != nil {
		l.assign(ctx, e, d)
		return
	}
	room, ok := candidate{}, false
	if len(l.cluster.order) > 0 {
		room, ok = l.cluster.preempt(d)
	}
	if ok {
		l.makeRoom(ctx, e.info, room, &l.changed)
	} else if n := l.nominations[e.info.key]; n != nil && d.why.Preemption != "" && !l.stillTerminating(e.info, n) {
		l.unnominate(e.info, &l.changed)
	}
	l.report(ctx, e, d.why, room.node)
	l.queue.failed(e, d.why, time.Now())
}

// stillTerminating tells that what a pod waits for on its node is on its way.
func (l *loop) stillTerminating(p *podInfo, n *node) bool {
	for _, v := range n.pods {
		if v.priority < p.priority && v.pod.DeletionTimestamp != nil {
			return true
		}
	}
	return false
}

func (l *loop) volumesChanged() {
	close(l.volumes)
	l.volumes = make(chan struct{})
}

// Explain says where a pod would go as the world is, or why nowhere.
func Explain(v client.View, p *corev1.Pod) (node string, why *Explanation) {
	c := newCluster(v)
	for n := range client.List[corev1.Namespace](v, "") {
		c.setNamespace(n.Name, namespaceLabels(n))
	}
	for n := range client.List[corev1.Node](v, "") {
		c.setNode(n)
	}
	for o := range client.List[corev1.Pod](v, "") {
		if o.Spec.NodeName != "" && !done(o) && o.UID != p.UID {
			c.place(newPodInfo(o))
		}
	}
	d := c.decide(newPodInfo(p))
	if d.node != nil {
		return d.node.name, nil
	}
	if len(c.order) > 0 {
		c.preempt(d)
	}
	return "", d.why
}
