//go:build cgo

package shim

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"proa/runtime/wire"
)

// TestLines: however a stream is cut into reads, its records are the same, and
// together they are the stream.
func TestLines(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	for range 200 {
		var stream []byte
		for range rand.IntN(8) {
			n := rand.IntN(40)
			if rand.IntN(3) == 0 {
				n = maxLine - 2 + rand.IntN(5) + maxLine*rand.IntN(2)
			}
			stream = append(stream, bytes.Repeat([]byte{'a' + byte(rand.IntN(26))}, n)...)
			if rand.IntN(6) != 0 {
				stream = append(stream, '\n')
			}
		}
		whole := &lines{stream: "stdout"}
		want := whole.end(whole.add(nil, stream, now), now)
		cut := &lines{stream: "stdout"}
		var got []byte
		for rest := stream; len(rest) > 0; {
			n := 1 + rand.IntN(len(rest))
			if n > 100 && rand.IntN(2) == 0 {
				n = 100
			}
			got = cut.add(got, rest[:n], now)
			rest = rest[n:]
		}
		if got = cut.end(got, now); !bytes.Equal(got, want) {
			t.Fatalf("records differ for %d bytes", len(stream))
		}
		var back []byte
		for line := range bytes.Lines(got) {
			text, ok := bytes.CutPrefix(line, []byte("2026-01-02T03:04:05.000000600Z stdout "))
			if !ok || len(text) > maxLine+3 {
				t.Fatalf("record %q", line[:min(len(line), 60)])
			}
			back = append(back, text[2:]...)
			if text[0] == 'P' {
				back = back[:len(back)-1]
			}
		}
		if !bytes.Equal(back, stream) {
			t.Fatal("the records are not the stream")
		}
	}
}

func TestLookUp(t *testing.T) {
	const passwd = "root:x:0:0::/root:/bin/sh\nweb:x:101:102::/:\n:::\nbad line\n1000:x:7:8::/:\n"
	const groups = "root:x:0:\nweb:x:102:\nextra:x:200:web,root\nmore:x:201:\n"
	n := func(v int64) *int64 { return &v }
	for _, c := range []struct {
		user wire.User
		want specs.User
		err  string
	}{
		{user: wire.User{}, want: specs.User{AdditionalGids: []uint32{0, 200}}},
		{user: wire.User{Name: "web"}, want: specs.User{UID: 101, GID: 102, AdditionalGids: []uint32{102, 200}}},
		{user: wire.User{Name: "web:more"}, want: specs.User{UID: 101, GID: 201, AdditionalGids: []uint32{200, 201}}},
		{user: wire.User{Name: "4000"}, want: specs.User{UID: 4000, AdditionalGids: []uint32{0}}},
		{user: wire.User{Name: "web", UID: n(4000), GID: n(5000), Groups: []int64{9, 5000, 9}}, want: specs.User{UID: 4000, GID: 5000, AdditionalGids: []uint32{9, 5000}}},
		{user: wire.User{Name: "web", Groups: []int64{9}, Strict: true}, want: specs.User{UID: 101, GID: 102, AdditionalGids: []uint32{9, 102}}},
		{user: wire.User{GID: n(5)}, err: "without a user"},
		{user: wire.User{Name: "ghost"}, err: "ghost"},
		{user: wire.User{Name: "web:ghosts"}, err: "ghosts"},
		{user: wire.User{Name: "-5"}, err: "-5"},
		{user: wire.User{Name: "99999999999999"}, err: "99999999999999"},
	} {
		got, err := lookUp(passwd, groups, c.user)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%+v: %v", c.user, err)
			}
			continue
		}
		if err != nil || got.UID != c.want.UID || got.GID != c.want.GID || !slices.Equal(got.AdditionalGids, c.want.AdditionalGids) {
			t.Errorf("%+v: %+v %v", c.user, got, err)
		}
	}
}

func FuzzLookUp(f *testing.F) {
	f.Add("root:x:0:0::/:\n", "root:x:0:\n", "root")
	f.Fuzz(func(t *testing.T, passwd, groups, name string) {
		_, _ = lookUp(passwd, groups, wire.User{Name: name})
	})
}
