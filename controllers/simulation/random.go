package simulation

import (
	"math/rand/v2"
	"sync"
)

// Rand gives the same numbers for the same seed, to any number of goroutines.
type Rand struct {
	mu sync.Mutex
	r  *rand.Rand
}

// Random is a source of numbers for one test.
func Random(seed uint64) *Rand { return &Rand{r: rand.New(rand.NewPCG(seed, seed))} }

// IntN is a number from 0 up to n, n excluded.
func (r *Rand) IntN(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.r.IntN(n)
}
