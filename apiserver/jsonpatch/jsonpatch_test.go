package jsonpatch

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func apply(t testing.TB, doc, patch string) (string, error) {
	t.Helper()
	p, err := Decode([]byte(patch))
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Apply([]byte(doc))
	return string(out), err
}

func TestApply(t *testing.T) {
	for _, c := range []struct{ doc, patch, want, err string }{
		{`{"a":[1,2]}`, `[{"op":"add","path":"/a/1","value":3},{"op":"copy","from":"/a","path":"/b"}]`, `{"a":[1,3,2],"b":[1,3,2]}`, ""},
		{`{"a":1}`, `[{"op":"test","path":"/a","value":2}]`, "", "testing value /a failed"},
		{`{"a":1}`, `[{"op":"remove","path":"/b"}]`, "", "Unable to remove nonexistent key"},
		{`{"a":[]}`, `[{"op":"add","path":"/a/99999999999","value":1}]`, "", "index"},
		{`{"a":1}`, `[{"op":"dance","path":"/a"}]`, "", "Unexpected kind"},
	} {
		got, err := apply(t, c.doc, c.patch)
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || errors.Is(err, ErrTooLarge)) || c.err == "" && (err != nil || got != c.want) {
			t.Errorf("%s on %s: %s, %v", c.patch, c.doc, got, err)
		}
	}
}

// TestBombs: small patches that ask for gigabytes or hours.
func TestBombs(t *testing.T) {
	doubled := `[{"op":"add","path":"/l0","value":["` + strings.Repeat("x", 1000) + `"]}`
	for i := range 40 {
		doubled += fmt.Sprintf(`,{"op":"add","path":"/l%d","value":[]},{"op":"copy","from":"/l%d","path":"/l%d/-"},{"op":"copy","from":"/l%d","path":"/l%d/-"}`, i+1, i, i+1, i, i+1)
	}
	for name, c := range map[string]struct{ doc, patch string }{
		"copies of copies":             {"{}", doubled + "]"},
		"insertions into a long list":  {"[" + strings.Repeat("1,", 500_000) + "1]", "[" + strings.Repeat(`{"op":"add","path":"/0","value":1},`, 9000) + `{"op":"remove","path":"/0"}]`},
		"insertions into its own list": {"{}", `[{"op":"add","path":"/a","value":[` + strings.Repeat("1,", 500_000) + "1]}" + strings.Repeat(`,{"op":"add","path":"/a/0","value":1}`, 9000) + "]"},
		"very many operations":         {"{}", "[" + strings.Repeat(`{"op":"test","path":"","value":{}},`, MaxOperations) + `{"op":"test","path":"","value":{}}]`},
	} {
		if out, err := apply(t, c.doc, c.patch); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %.50s, %v", name, out, err)
		}
	}
	if _, err := apply(t, `{"a":"`+strings.Repeat("x", 400_000)+`"}`, "["+strings.Repeat(`{"op":"test","path":"/b","value":null},`, MaxOperations-1)+`{"op":"add","path":"/b","value":1}]`); err != nil {
		t.Errorf("the largest patch of an ordinary object: %v", err)
	}
}

// TestMerge is the examples of RFC 7386, appendix A, as far as they are about
// objects.
func TestMerge(t *testing.T) {
	for _, c := range []struct{ doc, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		{`{"n":12345678901234567890.10}`, `{"m":1e2}`, `{"m":1e2,"n":12345678901234567890.10}`},
	} {
		if got, err := Merge([]byte(c.doc), []byte(c.patch)); err != nil || string(got) != c.want {
			t.Errorf("%s with %s: %s, %v", c.doc, c.patch, got, err)
		}
	}
	for _, patch := range []string{"", "null", "[]", `"x"`, "{}{}", "{", strings.Repeat(`{"a":`, 100_000)} {
		if got, err := Merge([]byte(`{}`), []byte(patch)); err == nil {
			t.Errorf("%.20q: %s", patch, got)
		}
	}
	deep := strings.Repeat(`{"a":`, 9000) + `"` + strings.Repeat("x", 2<<20) + `"` + strings.Repeat("}", 9000)
	if got, err := Merge([]byte(`{}`), []byte(deep)); err != nil || string(got) != deep {
		t.Errorf("9000 levels: %d bytes, %v", len(got), err)
	}
}

// FuzzMerge: what a patch leaves is not changed by it again.
func FuzzMerge(f *testing.F) {
	f.Add([]byte(`{"a":{"b":1,"c":null},"d":[]}`), []byte(`{"a":{"b":null,"x":{"y":null}},"d":{"e":1}}`))
	f.Fuzz(func(t *testing.T, doc, patch []byte) {
		once, err := Merge(doc, patch)
		if err != nil {
			return
		}
		twice, err := Merge(once, patch)
		if err != nil || string(twice) != string(once) {
			t.Errorf("%q with %q: %q, then %q (%v)", doc, patch, once, twice, err)
		}
	})
}
