package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/cockroachdb/pebble/v2/vfs"

	"proa/store"
	"proa/store/enginetest"
	"proa/store/pebble"
)

// The model is what a client may believe: a counter of revisions and, for each
// key, the revision of its last write, 0 when it does not exist.
const modelKeys = 3

type modelState struct {
	revision uint64
	keys     [modelKeys]uint64
}

type modelInput struct {
	op     string // "get", "list", "put", "delete"
	key    int
	expect uint64
}

type modelOutput struct {
	failed   string // "", "conflict", "full"
	revision uint64 // of the write or list; for a conflict what was there
	keys     [modelKeys]uint64
}

func model(start uint64) porcupine.Model {
	return porcupine.Model{
		Init:  func() any { return modelState{revision: start} },
		Equal: func(a, b any) bool { return a == b },
		Step: func(state, in, out any) (bool, any) {
			return step(state.(modelState), in.(modelInput), out.(modelOutput))
		},
		DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v → %+v", in, out) },
	}
}

func step(s modelState, in modelInput, out modelOutput) (bool, any) {
	switch in.op {
	case "get":
		return out.keys[in.key] == s.keys[in.key], s
	case "list":
		return out.revision == s.revision && out.keys == s.keys, s
	}
	if out.failed == "full" {
		return true, s
	}
	if s.keys[in.key] != in.expect {
		return out.failed == "conflict" && out.revision == s.keys[in.key], s
	}
	if in.op == "delete" && in.expect == 0 {
		return out.failed == "" && out.revision == 0, s
	}
	s.revision++
	s.keys[in.key] = s.revision
	if in.op == "delete" {
		s.keys[in.key] = 0
	}
	return out.failed == "" && out.revision == s.revision, s
}

// flaky refuses some commits for want of space.
type flaky struct {
	store.Engine
	refused int
}

func (f *flaky) Commit(ctx context.Context, entries []store.Entry, freeing bool) error {
	if !freeing && rand.IntN(10) == 0 {
		f.refused++
		return fmt.Errorf("%w: pretended", store.ErrNoSpace)
	}
	return f.Engine.Commit(ctx, entries, freeing)
}

func TestLinearizable(t *testing.T) {
	engine, err := pebble.Open(pebble.Config{Dir: "data", FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	faulty := &flaky{Engine: engine}
	s, err := store.New(store.Config{Engine: faulty, Codec: enginetest.Codec{}, Registry: enginetest.Registry()})
	if err != nil {
		t.Fatal(err)
	}
	start := s.Snapshot().Revision()
	began := time.Now()
	var mu sync.Mutex
	var history []porcupine.Operation
	var wg sync.WaitGroup
	for client := range 8 {
		wg.Go(func() {
			for range 300 {
				in := choose(s)
				call := time.Since(began)
				out := run(t, s, in)
				done := time.Since(began)
				mu.Lock()
				history = append(history, porcupine.Operation{ClientId: client, Input: in, Call: int64(call), Output: out, Return: int64(done)})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	s.Close()
	if result := porcupine.CheckOperationsTimeout(model(start), history, 30*time.Second); result != porcupine.Ok {
		t.Errorf("the history is %s", result)
	}
	if faulty.refused == 0 {
		t.Error("no fault was injected")
	}
	// The checker itself must be able to say no.
	for i := range history {
		if out := history[i].Output.(modelOutput); history[i].Input.(modelInput).op == "list" {
			out.revision += 1000
			history[i].Output = out
			break
		}
	}
	if porcupine.CheckOperationsTimeout(model(start), history, 30*time.Second) == porcupine.Ok {
		t.Error("a false history passed")
	}
}

func choose(s *store.Store) modelInput {
	in := modelInput{op: []string{"get", "list", "put", "put", "put", "delete"}[rand.IntN(6)], key: rand.IntN(modelKeys)}
	if r := s.Snapshot().Get(cmKey("ns", fmt.Sprint(in.key))); r != nil && rand.IntN(8) > 0 {
		in.expect = r.Revision()
	}
	return in
}

func run(t *testing.T, s *store.Store, in modelInput) (out modelOutput) {
	name := fmt.Sprint(in.key)
	w := cm(name, "v", in.expect)
	switch in.op {
	case "get":
		if r := s.Snapshot().Get(cmKey("ns", name)); r != nil {
			out.keys[in.key] = r.Revision()
		}
		return out
	case "list":
		snap := s.Snapshot()
		out.revision = snap.Revision()
		for r := range snap.List(store.Scope{Resource: "configmaps", Namespace: "ns"}, store.Key{}) {
			var i int
			fmt.Sscan(r.Key().Name, &i)
			out.keys[i] = r.Revision()
		}
		return out
	case "delete":
		w.Object = nil
	}
	records, err := s.Commit(context.Background(), w)
	var conflict *store.ConflictError
	switch {
	case errors.As(err, &conflict):
		return modelOutput{failed: "conflict", revision: conflict.Actual}
	case errors.Is(err, store.ErrNoSpace):
		return modelOutput{failed: "full"}
	case err != nil:
		t.Error(err)
	case records[0] != nil:
		out.revision = records[0].Revision()
	}
	return out
}
