package apiserver

import (
	"testing"

	"proa/auth"
)

// TestShares: whoever takes all the places that they get leaves some to others.
func TestShares(t *testing.T) {
	var l limits
	fill := func(u auth.User) (n int) {
		for l.open(u) != nil {
			n++
		}
		return n
	}
	greedy := fill(auth.User{Name: "greedy"})
	if greedy < maxLong/3 || greedy > maxLong*2/3 {
		t.Errorf("one user has %d places of %d", greedy, maxLong)
	}
	if second := fill(auth.User{Name: "second"}); second < maxLong/5 {
		t.Errorf("the second has %d", second)
	}
	if l.open(auth.User{Name: "admin", Groups: []string{auth.GroupMasters}}) == nil {
		t.Error("an administrator finds no place")
	}
	done := l.open(auth.User{Name: "third"})
	if done == nil {
		t.Fatal("a third finds no place")
	}
	done()
	if l.long.each["third"] != 0 || len(l.long.each) != 3 {
		t.Errorf("%v", l.long.each)
	}
}
