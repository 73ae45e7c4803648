package nft

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Stmt is one step of a rule: as a person reads it, and as the kernel does.
type Stmt struct {
	Text  string
	Exprs []expr.Any
}

// Rule is a rule; a step that does not match ends it.
type Rule []Stmt

func (r Rule) String() string {
	parts := make([]string, len(r))
	for i, s := range r {
		parts[i] = s.Text
	}
	return strings.Join(parts, " ")
}

// Family is IPv4 or IPv6.
type Family uint8

const (
	V4 Family = unix.NFPROTO_IPV4
	V6 Family = unix.NFPROTO_IPV6
)

// FamilyOf is the address's.
func FamilyOf(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return V4
	}
	return V6
}

func (f Family) String() string {
	if f == V4 {
		return "ip"
	}
	return "ip6"
}

// AddrType is the set type of the family's addresses.
func (f Family) AddrType() Type {
	if f == V4 {
		return IPv4Addr
	}
	return IPv6Addr
}

// words is how many 32-bit registers an address takes.
func (f Family) words() int {
	if f == V4 {
		return 1
	}
	return 4
}

// Is matches packets of the family.
func (f Family) Is() Stmt {
	return Stmt{"meta nfproto " + map[Family]string{V4: "ipv4", V6: "ipv6"}[f], []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg(0)}, eq(0, []byte{byte(f)}),
	}}
}

// reg names the n-th 32-bit register.
func reg(n int) uint32 { return unix.NFT_REG32_00 + uint32(n) }

func eq(r int, v []byte) expr.Any  { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg(r), Data: v} }
func neq(r int, v []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpNeq, Register: reg(r), Data: v} }

// Field is something that can be loaded into registers, to be looked up.
type Field struct {
	text  string
	words int
	load  func(r int) expr.Any
}

func payload(text string, base expr.PayloadBase, offset, size uint32) Field {
	return Field{text, int(size+3) / 4, func(r int) expr.Any {
		return &expr.Payload{DestRegister: reg(r), Base: base, Offset: offset, Len: size}
	}}
}

// Saddr and Daddr are the packet's addresses.
func (f Family) Saddr() Field {
	if f == V4 {
		return payload("ip saddr", expr.PayloadBaseNetworkHeader, 12, 4)
	}
	return payload("ip6 saddr", expr.PayloadBaseNetworkHeader, 8, 16)
}

func (f Family) Daddr() Field {
	if f == V4 {
		return payload("ip daddr", expr.PayloadBaseNetworkHeader, 16, 4)
	}
	return payload("ip6 daddr", expr.PayloadBaseNetworkHeader, 24, 16)
}

// Dport is the destination port of TCP, UDP or SCTP.
var Dport = payload("th dport", expr.PayloadBaseTransportHeader, 2, 2)

// L4Proto is the transport protocol.
var L4Proto = Field{"meta l4proto", 1, func(r int) expr.Any {
	return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg(r)}
}}

// key loads fields into registers from r on.
func key(r int, fields ...Field) (string, []expr.Any) {
	var texts []string
	var out []expr.Any
	for _, f := range fields {
		texts = append(texts, f.text)
		out = append(out, f.load(r))
		r += f.words
	}
	return strings.Join(texts, " . "), out
}

// In matches when the fields are a key of the set.
func In(set string, fields ...Field) Stmt {
	text, load := key(0, fields...)
	return Stmt{text + " @" + set, append(load, &expr.Lookup{SourceRegister: reg(0), SetName: set})}
}

// Vmap does what the verdict map says for the fields, if they are a key of it.
func Vmap(set string, fields ...Field) Stmt {
	text, load := key(0, fields...)
	return Stmt{text + " vmap @" + set, append(load, &expr.Lookup{
		SourceRegister: reg(0), SetName: set, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true,
	})}
}

// DNAT sends the connection to the address and port that the map has for the
// fields, if they are a key of it.
func DNAT(f Family, set string, fields ...Field) Stmt {
	text, load := key(0, fields...)
	return Stmt{fmt.Sprintf("dnat %s to %s map @%s", f, text, set), append(load, get(set, 0, regTarget), f.dnat())}
}

// regTarget is the first register of an address and port to send to.
const regTarget = 8

func (f Family) dnat() expr.Any {
	return &expr.NAT{
		Type: expr.NATTypeDestNAT, Family: uint32(f), Specified: true,
		RegAddrMin: reg(regTarget), RegProtoMin: reg(regTarget + f.words()),
	}
}

// get looks the key in registers from src on up in a map, to registers from
// dst on.
func get(set string, src, dst int) expr.Any {
	return &expr.Lookup{SourceRegister: reg(src), SetName: set, DestRegister: reg(dst), IsDestRegSet: true}
}

// From, NotFrom and NotTo match on an address prefix.
func From(p netip.Prefix) Stmt { return prefix(FamilyOf(p.Addr()).Saddr(), p, false) }

func NotFrom(p netip.Prefix) Stmt { return prefix(FamilyOf(p.Addr()).Saddr(), p, true) }

func To(p netip.Prefix) Stmt { return prefix(FamilyOf(p.Addr()).Daddr(), p, false) }

func NotTo(p netip.Prefix) Stmt { return prefix(FamilyOf(p.Addr()).Daddr(), p, true) }

func prefix(f Field, p netip.Prefix, not bool) Stmt {
	p = p.Masked()
	size := len(AddrBytes(p.Addr()))
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	compare, op := eq(0, AddrBytes(p.Addr())), " "
	if not {
		compare, op = neq(0, AddrBytes(p.Addr())), " != "
	}
	return Stmt{f.text + op + p.String(), []expr.Any{f.load(0),
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: uint32(size), Mask: mask, Xor: make([]byte, size)}, compare}}
}

// ToLocal, NotToLocal and FromLocal match addresses of this machine.
func ToLocal() Stmt {
	return Stmt{"fib daddr type local", []expr.Any{
		&expr.Fib{Register: reg(0), ResultADDRTYPE: true, FlagDADDR: true}, eq(0, NumberBytes(unix.RTN_LOCAL))}}
}

func NotToLocal() Stmt {
	return Stmt{"fib daddr type != local", []expr.Any{
		&expr.Fib{Register: reg(0), ResultADDRTYPE: true, FlagDADDR: true}, neq(0, NumberBytes(unix.RTN_LOCAL))}}
}

func FromLocal() Stmt {
	return Stmt{"fib saddr type local", []expr.Any{
		&expr.Fib{Register: reg(0), ResultADDRTYPE: true, FlagSADDR: true}, eq(0, NumberBytes(unix.RTN_LOCAL))}}
}

// FromIface, ToIface and NotToIface match links by name; a trailing * stands
// for anything.
func FromIface(name string) Stmt { return iface("iifname", expr.MetaKeyIIFNAME, name, eq) }

func ToIface(name string) Stmt { return iface("oifname", expr.MetaKeyOIFNAME, name, eq) }

func NotToIface(name string) Stmt { return iface("oifname !=", expr.MetaKeyOIFNAME, name, neq) }

func iface(text string, k expr.MetaKey, name string, compare func(int, []byte) expr.Any) Stmt {
	want := make([]byte, unix.IFNAMSIZ)
	copy(want, name)
	if rest, ok := strings.CutSuffix(name, "*"); ok {
		want = []byte(rest)
	}
	return Stmt{text + " " + name, []expr.Any{&expr.Meta{Key: k, Register: unix.NFT_REG_1},
		compare(0, want)}}
}

// NewConnection matches the first packet of a connection.
func NewConnection() Stmt {
	return ct("ct state new", expr.CtKeySTATE, expr.CtStateBitNEW)
}

// Translated matches connections whose destination was changed.
func Translated() Stmt {
	return ct("ct status dnat", expr.CtKeySTATUS, 1<<5) // IPS_DST_NAT
}

func ct(text string, k expr.CtKey, bit uint32) Stmt {
	return Stmt{text, append([]expr.Any{&expr.Ct{Register: reg(0), Key: k}}, bitSet(bit)...)}
}

// bitSet matches when register 0 has the bit.
func bitSet(bit uint32) []expr.Any {
	return []expr.Any{
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 4, Mask: NumberBytes(bit), Xor: NumberBytes(0)},
		neq(0, NumberBytes(0)),
	}
}

// Marked matches packets with the bit in their mark; SetMark sets it, and
// ClearMark clears it.
func Marked(bit uint32) Stmt {
	return Stmt{fmt.Sprintf("meta mark & %#x != 0", bit), append([]expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: reg(0)}}, bitSet(bit)...)}
}

func SetMark(bit uint32) Stmt {
	return mark(fmt.Sprintf("meta mark set meta mark | %#x", bit), ^bit, bit)
}

func ClearMark(bit uint32) Stmt {
	return mark(fmt.Sprintf("meta mark set meta mark & ~%#x", bit), ^bit, 0)
}

func mark(text string, mask, xor uint32) Stmt {
	return Stmt{text, []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg(0)},
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 4, Mask: NumberBytes(mask), Xor: NumberBytes(xor)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg(0), SourceRegister: true},
	}}
}

// Proto matches a transport protocol.
func Proto(p uint8) Stmt {
	return Stmt{fmt.Sprintf("meta l4proto %d", p), []expr.Any{L4Proto.load(0), eq(0, []byte{p})}}
}

// Jump, Goto, Return, Drop, Accept end or divert a rule.
func Jump(chain string) Stmt { return verdict("jump "+chain, expr.VerdictJump, chain) }

func Goto(chain string) Stmt { return verdict("goto "+chain, expr.VerdictGoto, chain) }

func Return() Stmt { return verdict("return", expr.VerdictReturn, "") }

func Drop() Stmt { return verdict("drop", expr.VerdictDrop, "") }

func Accept() Stmt { return verdict("accept", expr.VerdictAccept, "") }

func verdict(text string, k expr.VerdictKind, chain string) Stmt {
	return Stmt{text, []expr.Any{&expr.Verdict{Kind: k, Chain: chain}}}
}

// Masquerade gives the packet the outgoing link's address.
func Masquerade() Stmt {
	return Stmt{"masquerade fully-random", []expr.Any{&expr.Masq{FullyRandom: true}}}
}

// RejectTCP answers with a reset, RejectPort with "port unreachable".
func RejectTCP() Stmt {
	return Stmt{"reject with tcp reset", []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}}
}

func RejectPort() Stmt {
	return Stmt{"reject with icmpx port-unreachable", []expr.Any{
		&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}}}
}
