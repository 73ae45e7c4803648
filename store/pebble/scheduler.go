package pebble

import (
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// oneByOne lets one compaction run at a time. The library's own scheduler looks
// for work ten times a second for as long as the process lives; this one looks
// when a compaction ends, which with a fixed limit of one is the only moment at
// which permission can become free.
type oneByOne struct {
	mu      sync.Mutex
	db      pebble.DBForCompaction
	running bool
	refused bool // somebody asked while running was set
	granter sync.WaitGroup
	closed  bool
}

var (
	_ pebble.CompactionScheduler   = (*oneByOne)(nil)
	_ pebble.CompactionGrantHandle = (*oneByOne)(nil)
)

func (o *oneByOne) Register(_ int, db pebble.DBForCompaction) { o.db = db }

func (o *oneByOne) Unregister() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.granter.Wait()
}

func (o *oneByOne) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.running {
		o.refused = true
		return false, nil
	}
	o.running = true
	return true, o
}

// Done hands the permission on to what waits for it.
func (o *oneByOne) Done() {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return
	}
	o.granter.Add(1)
	defer o.granter.Done()
	o.mu.Unlock()
	for !o.pass() {
	}
}

// pass offers the permission once; false asks for another try, because somebody
// was refused while nobody seemed to be waiting.
func (o *oneByOne) pass() bool {
	o.mu.Lock()
	o.refused = false
	o.mu.Unlock()
	if waiting, _ := o.db.GetWaitingCompaction(); waiting && o.db.Schedule(o) {
		return true
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.refused && !o.closed {
		return false
	}
	o.running = false
	return true
}

func (o *oneByOne) Started()                                          {}
func (o *oneByOne) MeasureCPU(pebble.CompactionGoroutineKind)         {}
func (o *oneByOne) CumulativeStats(pebble.CompactionGrantHandleStats) {}
func (o *oneByOne) UpdateGetAllowedWithoutPermission()                {}
