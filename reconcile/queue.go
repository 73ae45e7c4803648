package reconcile

import (
	"context"
	"sync"
	"time"

	"proa/client"
)

const (
	firstRetry   = 5 * time.Millisecond
	longestRetry = 1000 * time.Second
)

// queue holds the keys of one controller. A key is in it once, one worker has
// it at a time, and there are workers only while there are keys.
type queue struct {
	ctx     context.Context
	workers int
	pace    time.Duration // between the starts of two attempts at one key
	work    func(ctx context.Context, key client.Key) outcome
	meters  meters

	mu     sync.Mutex
	items  map[client.Key]*item
	ready  []client.Key
	busy   int
	closed bool
	idle   sync.WaitGroup // workers
}

// item is a key that is waiting, being worked on, or to be woken later.
type item struct {
	queued   bool // in ready
	active   bool // a worker has it
	dirty    bool // woken while a worker had it
	failures int  // in a row
	timer    *time.Timer
	since    time.Time // of being queued, or else of being active
	began    time.Time // the last attempt
	resting  bool      // kept for began only, until the timer fires
}

// outcome is how an attempt ended: well, with a wish to be called again after
// some time; because the world moved on; or with an error.
type outcome struct {
	after time.Duration
	moved bool
	err   error
}

func newQueue(ctx context.Context, name string, workers int, work func(context.Context, client.Key) outcome) *queue {
	return &queue{ctx: ctx, workers: max(workers, 1), work: work, meters: metersOf(name), items: map[client.Key]*item{}}
}

// add wakes a key now, whatever it was waiting for.
func (q *queue) add(key client.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	it := q.items[key]
	if it == nil {
		it = &item{}
		q.items[key] = it
	}
	if it.active {
		it.dirty = true
		return
	}
	q.wake(key, it)
}

// wake pushes a key, or has it pushed when its pace allows. The caller holds mu.
func (q *queue) wake(key client.Key, it *item) {
	it.stop()
	if left := q.left(it); left > 0 && !q.closed {
		it.resting = false
		it.timer = time.AfterFunc(left, func() { q.add(key) })
		return
	}
	q.push(key, it)
}

// left is how long a key's pace keeps it from the next attempt.
func (q *queue) left(it *item) time.Duration {
	if q.pace == 0 || it.began.IsZero() {
		return 0
	}
	return q.pace - time.Since(it.began)
}

// forget drops a key that was kept for its pace.
func (q *queue) forget(key client.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if it := q.items[key]; it != nil && it.resting {
		delete(q.items, key)
	}
}

// push makes a key ready and sees that somebody works. The caller holds mu.
func (q *queue) push(key client.Key, it *item) {
	if q.closed || it.queued {
		return
	}
	it.queued, it.resting, it.since = true, false, time.Now()
	q.ready = append(q.ready, key)
	q.meters.adds.Inc()
	q.meters.depth.Inc()
	if q.busy < q.workers {
		q.busy++
		q.idle.Go(q.drain)
	}
}

// drain is a worker: it takes keys until there are none.
func (q *queue) drain() {
	for {
		key, ok := q.take()
		if !ok {
			return
		}
		q.done(key, q.work(q.ctx, key))
	}
}

func (q *queue) take() (client.Key, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.ready) == 0 { // close has counted what is left
		q.busy--
		q.ready = nil // lets go of what a burst needed
		return client.Key{}, false
	}
	key := q.ready[0]
	q.ready = q.ready[1:]
	it := q.items[key]
	now := time.Now()
	q.meters.depth.Dec()
	q.meters.waited.Observe(now.Sub(it.since).Seconds())
	it.queued, it.active, it.since, it.began = false, true, now, now
	return key, true
}

// done files a key after an attempt: at once if it was woken meanwhile, later
// if it asked for that or failed, or not at all.
func (q *queue) done(key client.Key, o outcome) {
	q.mu.Lock()
	defer q.mu.Unlock()
	it := q.items[key]
	it.active = false
	q.meters.worked.Observe(time.Since(it.since).Seconds())
	wait := it.next(o)
	if it.failures > 0 {
		q.meters.retries.Inc()
	}
	switch left := q.left(it); {
	case it.dirty || wait < 0:
		it.dirty = false
		q.wake(key, it)
	case wait > 0 && !q.closed:
		it.timer = time.AfterFunc(wait, func() { q.add(key) })
	case it.failures > 0:
	case left > 0 && !q.closed:
		it.resting = true
		it.timer = time.AfterFunc(left, func() { q.forget(key) })
	default:
		delete(q.items, key)
	}
}

// next is how long to wait: 0 for ever, negative not at all. The first time
// that the world moved on is no failure.
func (it *item) next(o outcome) time.Duration {
	if o.err == nil && !o.moved {
		it.failures = 0
		return max(o.after, 0)
	}
	it.failures++
	if o.moved && it.failures == 1 {
		return -1
	}
	return backoff(it.failures)
}

// backoff doubles from 5 ms to 1000 s.
func backoff(failures int) time.Duration {
	if failures > 18 {
		return longestRetry
	}
	return min(firstRetry<<(failures-1), longestRetry)
}

func (it *item) stop() {
	if it.timer != nil {
		it.timer.Stop()
		it.timer = nil
	}
}

// wakeAll makes every waiting key ready: the clock was set, or the machine
// slept, so timers are not when they should be.
func (q *queue) wakeAll() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for key, it := range q.items {
		if it.timer != nil {
			it.stop()
			q.push(key, it)
		}
	}
}

// close stops timers and waits for the workers.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	for _, it := range q.items {
		it.stop()
	}
	q.meters.depth.Sub(float64(len(q.ready)))
	q.mu.Unlock()
	q.idle.Wait()
}
