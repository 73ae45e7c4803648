// Package giveback returns memory to the system when work has ended. Go's
// runtime keeps what a load has needed for minutes, and twice what lives for
// good; a machine that idles has better uses for it.
//
// It looks after each garbage collection, so that it never wakes an idle
// process, and promises that nothing is done while collections go on: only
// after Quiet without one, and only if there is more than Worth to return. Once,
// Quiet after its own start, it lets go of what of the program only the start
// needed.
package giveback

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// Quiet is how long there must be no collection.
	Quiet = 10 * time.Second
	// Worth is how much there must be to return, in bytes.
	Worth = 16 << 20
)

// Run returns memory until ctx ends.
func Run(ctx context.Context) error {
	collected := make(chan struct{}, 1)
	watch(ctx, collected)
	return run(ctx, collected, spare, debug.FreeOSMemory, program)
}

// sentinel is garbage from the start; with a pointer in it, it is an allocation
// of its own.
type sentinel struct{ _ *int }

// watch sends after each collection until ctx ends. What nobody waits for is
// dropped.
func watch(ctx context.Context, collected chan<- struct{}) {
	runtime.AddCleanup(&sentinel{new(int)}, func(collected chan<- struct{}) {
		if ctx.Err() == nil {
			watch(ctx, collected) // first, so that the next is not missed by who hears of this one
		}
		select {
		case collected <- struct{}{}:
		default:
		}
	}, collected)
}

func run(ctx context.Context, collected <-chan struct{}, spare func() uint64, free func(), program func() error) error {
	quiet, started := time.NewTimer(Quiet), time.NewTimer(Quiet)
	defer started.Stop()
	quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-collected:
			if spare() > Worth {
				quiet.Reset(Quiet)
			}
		case <-started.C:
			_ = program() // without it there is more in memory, and nothing else
		case <-quiet.C:
			free() // which is a collection, after which there is little to spare
		}
	}
}

// spare is what the heap holds of the system's memory without need: garbage, and
// pages without objects. It may be negative for a moment, which is none.
func spare() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	held, live := s[0].Value.Uint64()+s[1].Value.Uint64(), s[2].Value.Uint64()
	return held - min(held, live)
}
