package nft

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// BaseChain is a chain that somebody hung into the packets' path.
type BaseChain struct {
	Table, Name string
	Hook        uint32 // unix.NF_INET_*
	Drops       bool   // what no rule takes is dropped
}

// BaseChains lists those of a family (unix.NFPROTO_*).
func (c *Conn) BaseChains(family uint8) ([]BaseChain, error) {
	var out []BaseChain
	err := c.dump(unix.NFT_MSG_GETCHAIN, family, nil, func(body []byte) {
		var chain BaseChain
		based := false
		for t, v := range attributes(body[4:]) {
			switch t {
			case unix.NFTA_CHAIN_TABLE:
				chain.Table = cstring(v)
			case unix.NFTA_CHAIN_NAME:
				chain.Name = cstring(v)
			case unix.NFTA_CHAIN_POLICY:
				chain.Drops = binary.BigEndian.Uint32(v) == 0 // NF_DROP
			case unix.NFTA_CHAIN_HOOK:
				based = true
				chain.Hook = hookNumber(v)
			}
		}
		if based {
			out = append(out, chain)
		}
	})
	return out, err
}

func hookNumber(b []byte) uint32 {
	for t, v := range attributes(b) {
		if t == unix.NFTA_HOOK_HOOKNUM {
			return binary.BigEndian.Uint32(v)
		}
	}
	return 0
}

// Handles lists the rules of a chain that carry the comment.
func (c *Conn) Handles(family uint8, table, chain, comment string) ([]uint64, error) {
	var out []uint64
	var a attrs
	a.str(unix.NFTA_RULE_TABLE, table)
	a.str(unix.NFTA_RULE_CHAIN, chain)
	err := c.dump(unix.NFT_MSG_GETRULE, family, a, func(body []byte) {
		var handle uint64
		ours := false
		for t, v := range attributes(body[4:]) {
			switch t {
			case unix.NFTA_RULE_HANDLE:
				handle = binary.BigEndian.Uint64(v)
			case unix.NFTA_RULE_USERDATA:
				ours = string(v) == string(userdata(comment))
			}
		}
		if ours {
			out = append(out, handle)
		}
	})
	return out, err
}

// userdata is a comment as the nft tool stores it: type, length, text.
func userdata(comment string) []byte {
	return append([]byte{0, byte(len(comment) + 1)}, comment+"\x00"...)
}

// InsertRule puts a rule with a comment before all others of a chain.
func (b *Batch) InsertRule(chain, comment string, r Rule) {
	b.rule(unix.NLM_F_CREATE, chain, r, func(a *attrs) { a.bytes(unix.NFTA_RULE_USERDATA, userdata(comment)) })
}

// DelRule removes one rule.
func (b *Batch) DelRule(chain string, handle uint64) {
	b.message(unix.NFT_MSG_DELRULE, 0, func(a *attrs) {
		a.str(unix.NFTA_RULE_TABLE, b.table)
		a.str(unix.NFTA_RULE_CHAIN, chain)
		a.u64(unix.NFTA_RULE_HANDLE, handle)
	})
}
