package nft

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Batch is a transaction being written, all of it in one table.
type Batch struct {
	table  string
	family uint8
	buf    []byte
	starts []int // offset of each message in buf
	err    error // the first expression that could not be encoded
}

// NewBatch begins a transaction on a table of family inet.
func NewBatch(table string) *Batch { return NewBatchIn(unix.NFPROTO_INET, table) }

// NewBatchIn begins a transaction on a table of a family (unix.NFPROTO_*).
func NewBatchIn(family uint8, table string) *Batch {
	b := &Batch{table: table, family: family}
	b.buf = header(b.buf, unix.NFNL_MSG_BATCH_BEGIN, unix.NLM_F_REQUEST, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	binary.NativeEndian.PutUint32(b.buf, uint32(len(b.buf)))
	return b
}

// Hook says where a base chain sits.
type Hook struct {
	Type     string // nat, filter
	Num      uint32 // unix.NF_INET_*
	Priority int32
	Drops    bool // what no rule takes is dropped, not accepted
}

// AddTable makes the table if it is not there.
func (b *Batch) AddTable() {
	b.message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, func(a *attrs) {
		a.str(unix.NFTA_TABLE_NAME, b.table)
		a.u32(unix.NFTA_TABLE_FLAGS, 0)
	})
}

// DelTable removes the table with all that is in it, whether or not it is
// there.
func (b *Batch) DelTable() {
	b.AddTable() // deleting what is not there would fail the transaction
	b.message(unix.NFT_MSG_DELTABLE, 0, func(a *attrs) { a.str(unix.NFTA_TABLE_NAME, b.table) })
}

// AddChain makes a chain; with a hook, a base chain.
func (b *Batch) AddChain(name string, hook *Hook) {
	b.message(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, func(a *attrs) {
		a.str(unix.NFTA_CHAIN_TABLE, b.table)
		a.str(unix.NFTA_CHAIN_NAME, name)
		if hook == nil {
			return
		}
		a.nest(unix.NFTA_CHAIN_HOOK, func(a *attrs) {
			a.u32(unix.NFTA_HOOK_HOOKNUM, hook.Num)
			a.u32(unix.NFTA_HOOK_PRIORITY, uint32(hook.Priority))
		})
		policy := uint32(1) // NF_ACCEPT
		if hook.Drops {
			policy = 0
		}
		a.u32(unix.NFTA_CHAIN_POLICY, policy)
		a.str(unix.NFTA_CHAIN_TYPE, hook.Type)
	})
}

// FlushChain removes the chain's rules.
func (b *Batch) FlushChain(name string) {
	b.message(unix.NFT_MSG_DELRULE, 0, func(a *attrs) {
		a.str(unix.NFTA_RULE_TABLE, b.table)
		a.str(unix.NFTA_RULE_CHAIN, name)
	})
}

// DelChain removes an empty chain that nothing refers to.
func (b *Batch) DelChain(name string) {
	b.message(unix.NFT_MSG_DELCHAIN, 0, func(a *attrs) {
		a.str(unix.NFTA_CHAIN_TABLE, b.table)
		a.str(unix.NFTA_CHAIN_NAME, name)
	})
}

// AddRule appends a rule to a chain.
func (b *Batch) AddRule(chain string, r Rule) {
	b.rule(unix.NLM_F_CREATE|unix.NLM_F_APPEND, chain, r, func(*attrs) {})
}

func (b *Batch) rule(flags uint16, chain string, r Rule, more func(*attrs)) {
	b.message(unix.NFT_MSG_NEWRULE, flags, func(a *attrs) {
		a.str(unix.NFTA_RULE_TABLE, b.table)
		a.str(unix.NFTA_RULE_CHAIN, chain)
		a.nest(unix.NFTA_RULE_EXPRESSIONS, func(a *attrs) {
			for _, s := range r {
				for _, e := range s.Exprs {
					b.expression(a, e)
				}
			}
		})
		more(a)
	})
}

func (b *Batch) expression(a *attrs, e expr.Any) {
	data, err := expr.Marshal(b.family, e)
	if err != nil && b.err == nil {
		b.err = fmt.Errorf("nftables: encode %T: %w", e, err)
	}
	a.bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, data)
}

// AddSet makes a set or map.
func (b *Batch) AddSet(s Set) {
	b.message(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, func(a *attrs) {
		a.str(unix.NFTA_SET_TABLE, b.table)
		a.str(unix.NFTA_SET_NAME, s.Name)
		a.u32(unix.NFTA_SET_FLAGS, s.flags())
		a.u32(unix.NFTA_SET_KEY_TYPE, s.Key.id)
		a.u32(unix.NFTA_SET_KEY_LEN, s.Key.size)
		if s.Data.id != 0 {
			a.u32(unix.NFTA_SET_DATA_TYPE, s.Data.id)
			a.u32(unix.NFTA_SET_DATA_LEN, s.Data.size)
		}
		if s.Size != 0 {
			a.nest(unix.NFTA_SET_DESC, func(a *attrs) { a.u32(unix.NFTA_SET_DESC_SIZE, s.Size) })
		}
		a.u32(unix.NFTA_SET_ID, uint32(len(b.starts)))
	})
}

// AddElements puts elements into a set. It fails the transaction if one is
// there already with other data.
func (b *Batch) AddElements(set string, elems ...Element) {
	b.elements(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, set, elems)
}

// DelElements takes elements, named by their keys, out of a set.
func (b *Batch) DelElements(set string, elems ...Element) {
	b.elements(unix.NFT_MSG_DELSETELEM, 0, set, elems)
}

// perMessage keeps a list of elements within the 64 kB of an attribute, even
// with the longest chain names in it.
const perMessage = 128

func (b *Batch) elements(kind uint16, flags uint16, set string, elems []Element) {
	for len(elems) > 0 {
		n := min(len(elems), perMessage)
		part := elems[:n]
		elems = elems[n:]
		b.message(kind, flags, func(a *attrs) {
			a.str(unix.NFTA_SET_ELEM_LIST_TABLE, b.table)
			a.str(unix.NFTA_SET_ELEM_LIST_SET, set)
			a.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(a *attrs) {
				for _, e := range part {
					a.nest(unix.NFTA_LIST_ELEM, func(a *attrs) { e.put(a, kind == unix.NFT_MSG_NEWSETELEM) })
				}
			})
		})
	}
}

func (e Element) put(a *attrs, whole bool) {
	a.nest(unix.NFTA_SET_ELEM_KEY, func(a *attrs) { a.bytes(unix.NFTA_DATA_VALUE, []byte(e.Key)) })
	if !whole {
		return
	}
	switch {
	case e.Goto != "":
		a.nest(unix.NFTA_SET_ELEM_DATA, func(a *attrs) {
			a.nest(unix.NFTA_DATA_VERDICT, func(a *attrs) {
				a.u32(unix.NFTA_VERDICT_CODE, verdictGoto)
				a.str(unix.NFTA_VERDICT_CHAIN, e.Goto)
			})
		})
	case e.Data != "":
		a.nest(unix.NFTA_SET_ELEM_DATA, func(a *attrs) { a.bytes(unix.NFTA_DATA_VALUE, []byte(e.Data)) })
	}
	if e.Timeout > 0 {
		a.u64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(e.Timeout/time.Millisecond))
	}
	if e.Expires > 0 {
		a.u64(unix.NFTA_SET_ELEM_EXPIRATION, uint64(e.Expires/time.Millisecond))
	}
}

const verdictGoto = ^uint32(3) // NFT_GOTO is -4

func (b *Batch) message(kind, flags uint16, body func(*attrs)) {
	start := len(b.buf)
	b.starts = append(b.starts, start)
	// The sequence number is the message's index, by which an error names it.
	b.buf = header(b.buf, nfnl(kind), unix.NLM_F_REQUEST|flags, uint32(len(b.starts)), b.family, 0)
	body((*attrs)(&b.buf))
	binary.NativeEndian.PutUint32(b.buf[start:], uint32(len(b.buf)-start))
}

// finish asks the last message for an answer and closes the transaction.
func (b *Batch) finish(seq uint32) []byte {
	last := b.starts[len(b.starts)-1]
	flags := binary.NativeEndian.Uint16(b.buf[last+6:])
	binary.NativeEndian.PutUint16(b.buf[last+6:], flags|unix.NLM_F_ACK)
	start := len(b.buf)
	out := header(b.buf, unix.NFNL_MSG_BATCH_END, unix.NLM_F_REQUEST, seq, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	binary.NativeEndian.PutUint32(out[start:], uint32(len(out)-start))
	return out
}

var kinds = map[uint16]string{
	unix.NFT_MSG_NEWTABLE: "add table", unix.NFT_MSG_DELTABLE: "delete table",
	unix.NFT_MSG_NEWCHAIN: "add chain", unix.NFT_MSG_DELCHAIN: "delete chain",
	unix.NFT_MSG_NEWRULE: "add rule", unix.NFT_MSG_DELRULE: "flush chain",
	unix.NFT_MSG_NEWSET: "add set", unix.NFT_MSG_NEWSETELEM: "add element", unix.NFT_MSG_DELSETELEM: "delete element",
}

// describe names the message that the kernel refused, for the error.
func (b *Batch) describe(index int) string {
	if index < 1 || index > len(b.starts) {
		return "commit"
	}
	msg := b.buf[b.starts[index-1]:]
	msg = msg[:binary.NativeEndian.Uint32(msg)]
	parts := []string{kinds[uint16(msg[4])]}
	for t, v := range attributes(msg[unix.SizeofNlMsghdr+4:]) {
		if t == 1 || t == 2 || (t == 3 && uint16(msg[4]) <= unix.NFT_MSG_DELCHAIN) {
			parts = append(parts, cstring(v))
		}
	}
	return strings.Join(parts, " ")
}
