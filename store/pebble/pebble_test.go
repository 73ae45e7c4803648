package pebble

import (
	"testing"

	"proa/store"
	"proa/store/enginetest"
)

func openDir(t *testing.T, dir string) store.Engine {
	t.Helper()
	e, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEngine(t *testing.T) { enginetest.Run(t, openDir) }
