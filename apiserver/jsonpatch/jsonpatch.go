// Package jsonpatch applies JSON patches (RFC 6902) and merge patches (RFC 7386)
// that strangers wrote. A patch of a few kilobytes can ask for any amount of
// memory (a copy of a copy of a copy) and time (ten thousand insertions in front
// of a long list); here it gets a bounded amount of either.
package jsonpatch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

const (
	// MaxOperations bounds a patch, as upstream does.
	MaxOperations = 10_000
	// maxCopied is how many bytes all copy operations of one patch may add: as
	// many as the largest request could send.
	maxCopied = 3 << 20
	// maxWork bounds operations times bytes of the document, since an operation may
	// touch all of it: some seconds.
	maxWork = 4 << 30
)

func init() { jsonpatch.AccumulatedCopySizeLimit = maxCopied } // the library has it as a global only

// ErrTooLarge says that applying the patch would take too much.
var ErrTooLarge = errors.New("the patch is too large")

// Patch is a sequence of operations.
type Patch jsonpatch.Patch

// Decode reads a patch. The error says that it is none.
func Decode(data []byte) (Patch, error) {
	p, err := jsonpatch.DecodePatch(data)
	return Patch(p), err
}

// Apply returns the document as the patch leaves it. Errors are ErrTooLarge and,
// for a patch that does not fit the document, the operation's.
func (p Patch) Apply(doc []byte) ([]byte, error) {
	switch {
	case len(p) > MaxOperations:
		return nil, fmt.Errorf("%w: The allowed maximum operations in a JSON patch is %d, got %d", ErrTooLarge, MaxOperations, len(p))
	case len(p)*(len(doc)+p.size()) > maxWork:
		return nil, fmt.Errorf("%w: %d operations on %d bytes", ErrTooLarge, len(p), len(doc)+p.size())
	}
	after, err := jsonpatch.Patch(p).Apply(doc)
	var copied *jsonpatch.AccumulatedCopySizeError
	if errors.As(err, &copied) {
		return nil, fmt.Errorf("%w: %v", ErrTooLarge, err)
	}
	return after, err
}

// size is that of the values that the patch brings.
func (p Patch) size() (n int) {
	for _, op := range p {
		if v := op["value"]; v != nil {
			n += len(*v)
		}
	}
	return n
}

// ErrBadMerge says that a merge patch is no JSON object.
var ErrBadMerge = errors.New("Invalid JSON Patch") //nolint:staticcheck // upstream's words

// Merge returns the document as a merge patch leaves it. It reads each of the two
// once: the library reads every level of either anew.
func Merge(doc, patch []byte) ([]byte, error) {
	changes, err := object(patch)
	if err != nil {
		return nil, ErrBadMerge
	}
	target, err := object(doc)
	if err != nil {
		return nil, err
	}
	return json.Marshal(merge(target, changes))
}

// object reads one JSON object, numbers as they are written.
func object(data []byte) (out map[string]any, err error) {
	if !json.Valid(data) {
		return nil, errors.New("Invalid JSON Document") //nolint:staticcheck // upstream's words
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err = d.Decode(&out); err == nil && out == nil {
		err = ErrBadMerge
	}
	return out, err
}

// merge is RFC 7386: null takes a member away, objects are merged, anything else
// takes the place of what was.
func merge(target, changes map[string]any) map[string]any {
	if target == nil {
		target = map[string]any{}
	}
	for k, v := range changes {
		switch v := v.(type) {
		case nil:
			delete(target, k)
		case map[string]any:
			was, _ := target[k].(map[string]any)
			target[k] = merge(was, v)
		default:
			target[k] = v
		}
	}
	return target
}
