package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Type is the type of a set's key or data. Its number only matters to who
// lists the set; the size is what the kernel works with.
type Type struct{ id, size uint32 }

// The types we use, by nft's names.
var (
	Integer     = Type{4, 4}
	IPv4Addr    = Type{7, 4}
	IPv6Addr    = Type{8, 16}
	InetProto   = Type{12, 1}
	InetService = Type{13, 2}
	Mark        = Type{19, 4}
	Verdict     = Type{0xffffff00, 16}
)

// Size is the type's length in bytes.
func (t Type) Size() int { return int(t.size) }

// Concat joins types to one; every part takes whole 32-bit words.
func Concat(parts ...Type) Type {
	var t Type
	for _, p := range parts {
		t.id = t.id<<6 | p.id
		t.size += (p.size + 3) &^ 3
	}
	return t
}

// Format renders a key or data of the type as nft would.
func (t Type) Format(b string) string {
	var ids []uint32
	for id := t.id; id != 0; id >>= 6 {
		ids = append([]uint32{id & 63}, ids...)
	}
	var out []string
	for _, id := range ids {
		size := min(sizes[id], len(b))
		out = append(out, format(id, b[:size]))
		b = b[min((size+3)&^3, len(b)):]
	}
	return strings.Join(out, " . ")
}

var sizes = map[uint32]int{4: 4, 7: 4, 8: 16, 12: 1, 13: 2, 19: 4}

var protocols = map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_SCTP: "sctp"}

func format(id uint32, b string) string {
	switch raw := []byte(b); id {
	case IPv4Addr.id, IPv6Addr.id:
		a, _ := netip.AddrFromSlice(raw)
		return a.String()
	case InetProto.id:
		return protocols[raw[0]]
	case InetService.id:
		return fmt.Sprint(binary.BigEndian.Uint16(raw))
	case Mark.id:
		return fmt.Sprintf("%#08x", binary.NativeEndian.Uint32(raw))
	default:
		return fmt.Sprint(binary.NativeEndian.Uint32(raw))
	}
}

// Set is a set or, with a Data type, a map.
type Set struct {
	Name      string
	Key, Data Type
	// Timeout lets elements expire; Dynamic lets rules add them.
	Timeout, Dynamic bool
	// Size limits the number of elements; needed for Dynamic.
	Size uint32
}

func (s Set) flags() uint32 {
	var f uint32
	if s.Data.id != 0 {
		f |= unix.NFT_SET_MAP
	}
	if s.Timeout {
		f |= unix.NFT_SET_TIMEOUT
	}
	if s.Dynamic {
		f |= unix.NFT_SET_EVAL
	}
	return f
}

// Element is an element of a set. Key and Data are in the kernel's form; it is
// comparable, so that the elements a rule set wants can be compared with those
// it has.
type Element struct {
	Key, Data        string
	Goto             string // the chain of a verdict map's element
	Timeout, Expires time.Duration
}

// KeyBytes joins the parts of a key or of data, each padded to 32 bits.
func KeyBytes(parts ...[]byte) string {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
		for len(out)%4 != 0 {
			out = append(out, 0)
		}
	}
	return string(out)
}

// PortBytes, NumberBytes and AddrBytes are parts of keys.
func PortBytes(p uint16) []byte     { return binary.BigEndian.AppendUint16(nil, p) }
func NumberBytes(n uint32) []byte   { return binary.NativeEndian.AppendUint32(nil, n) }
func AddrBytes(a netip.Addr) []byte { return a.Unmap().AsSlice() }
