package nft

import (
	"bytes"
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

func align(n int) int { return (n + 3) &^ 3 }

func nfnl(kind uint16) uint16 { return unix.NFNL_SUBSYS_NFTABLES<<8 | kind }

// header appends a netlink header, whose length is still to be set, and the
// netfilter header behind it.
func header(b []byte, kind, flags uint16, seq uint32, family uint8, resource uint16) []byte {
	b = append(b, 0, 0, 0, 0)
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = append(b, 0, 0, 0, 0, family, unix.NFNETLINK_V0)
	return binary.BigEndian.AppendUint16(b, resource)
}

// attrs is a list of netlink attributes being written.
type attrs []byte

func (a *attrs) bytes(t uint16, v []byte) {
	*a = binary.NativeEndian.AppendUint16(*a, uint16(4+len(v)))
	*a = binary.NativeEndian.AppendUint16(*a, t)
	*a = append(*a, v...)
	a.pad()
}

func (a *attrs) pad() {
	for len(*a)%4 != 0 {
		*a = append(*a, 0)
	}
}

func (a *attrs) str(t uint16, s string) {
	*a = binary.NativeEndian.AppendUint16(*a, uint16(5+len(s)))
	*a = binary.NativeEndian.AppendUint16(*a, t)
	*a = append(*a, s...)
	*a = append(*a, 0)
	a.pad()
}

func (a *attrs) u32(t uint16, v uint32) {
	*a = binary.NativeEndian.AppendUint16(*a, 8)
	*a = binary.NativeEndian.AppendUint16(*a, t)
	*a = binary.BigEndian.AppendUint32(*a, v)
}

func (a *attrs) u64(t uint16, v uint64) {
	*a = binary.NativeEndian.AppendUint16(*a, 12)
	*a = binary.NativeEndian.AppendUint16(*a, t)
	*a = binary.BigEndian.AppendUint64(*a, v)
}

func (a *attrs) nest(t uint16, body func(*attrs)) {
	start := len(*a)
	*a = append(*a, 0, 0, 0, 0)
	body(a)
	binary.NativeEndian.PutUint16((*a)[start:], uint16(len(*a)-start))
	binary.NativeEndian.PutUint16((*a)[start+2:], t|unix.NLA_F_NESTED)
}

// attributes yields the type and value of each attribute.
func attributes(b []byte) func(yield func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			size := int(binary.NativeEndian.Uint16(b))
			if size < 4 || size > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&0x3fff, b[4:size]) {
				return
			}
			b = b[min(align(size), len(b)):]
		}
	}
}

func cstring(b []byte) string {
	s, _, _ := bytes.Cut(b, []byte{0})
	return string(s)
}

func parseElement(b []byte) Element {
	var e Element
	for t, v := range attributes(b) {
		switch t {
		case unix.NFTA_SET_ELEM_KEY:
			e.Key = value(v)
		case unix.NFTA_SET_ELEM_DATA:
			e.Data, e.Goto = value(v), target(v)
		case unix.NFTA_SET_ELEM_TIMEOUT:
			e.Timeout = time.Duration(binary.BigEndian.Uint64(v)) * time.Millisecond
		case unix.NFTA_SET_ELEM_EXPIRATION:
			e.Expires = time.Duration(binary.BigEndian.Uint64(v)) * time.Millisecond
		}
	}
	return e
}

func value(b []byte) string {
	for t, v := range attributes(b) {
		if t == unix.NFTA_DATA_VALUE {
			return string(v)
		}
	}
	return ""
}

func target(b []byte) string {
	for t, v := range attributes(b) {
		if t != unix.NFTA_DATA_VERDICT {
			continue
		}
		for t, v := range attributes(v) {
			if t == unix.NFTA_VERDICT_CHAIN {
				return cstring(v)
			}
		}
	}
	return ""
}
