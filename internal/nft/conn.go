// Package nft speaks nftables' netlink: whole transactions out, set elements
// in. A transaction is one message burst that the kernel applies entirely or
// not at all.
//
// It exists beside github.com/google/nftables, whose expressions it uses,
// because that library asks for an echo of every rule and an answer to every
// message, which overflows the socket at thousands of rules, and hangs when a
// transaction fails half way.
package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Conn is a socket into one network namespace: that of the thread which called
// Dial. It may be used by several goroutines, one transaction at a time.
type Conn struct {
	mu   sync.Mutex
	fd   int
	port uint32 // the kernel's name for the socket
	seq  uint32
	buf  []byte
}

// Dial opens a socket.
func Dial() (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("nftables: open netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("nftables: bind netlink socket: %w", err)
	}
	// Errors carry only the header of the message that caused them.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	name, err := unix.Getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("nftables: name of the netlink socket: %w", err)
	}
	c := &Conn{fd: fd, port: name.(*unix.SockaddrNetlink).Pid, buf: make([]byte, 64<<10)}
	runtime.SetFinalizer(c, func(c *Conn) { c.Close() })
	return c, nil
}

// Close gives the socket back. It may be called more than once.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return nil
	}
	fd := c.fd
	c.fd = -1
	return unix.Close(fd)
}

// Apply commits the batch. The kernel works through all of it inside the call
// that sends it, so every answer is there when that returns.
func (c *Conn) Apply(b *Batch) error {
	if b.err != nil {
		return b.err
	}
	if len(b.starts) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return errors.New("nftables: the socket is closed")
	}
	c.seq++
	data := b.finish(c.seq)
	if err := c.send(data); err != nil {
		return fmt.Errorf("nftables: send %d bytes: %w", len(data), err)
	}
	return c.acknowledge(b, c.seq)
}

func (c *Conn) send(data []byte) error {
	to := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	err := unix.Sendto(c.fd, data, 0, to)
	if !errors.Is(err, unix.EMSGSIZE) {
		return err
	}
	// A transaction must be one message; the send buffer has to hold it.
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2*len(data)); err != nil {
		return err
	}
	return unix.Sendto(c.fd, data, 0, to)
}

// acknowledge reads the answers to the transaction. Only its last message asks
// for one, so anything else that comes is an error.
func (c *Conn) acknowledge(b *Batch, seq uint32) error {
	var failed error
	acked := false
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buf, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN) && failed == nil && !acked:
			return errors.New("nftables: the kernel did not answer")
		case errors.Is(err, unix.EAGAIN):
			return failed
		case err != nil:
			return fmt.Errorf("nftables: receive: %w", err)
		}
		for m := range messages(c.buf[:n]) {
			if m.kind != unix.NLMSG_ERROR || len(m.body) < 20 {
				continue
			}
			errno := -int32(binary.NativeEndian.Uint32(m.body))
			index := int(binary.NativeEndian.Uint32(m.body[12:]))
			switch {
			case errno == 0:
				acked = true
			case failed == nil:
				failed = fmt.Errorf("nftables: %s: %w", b.describe(index), unix.Errno(errno))
			}
		}
	}
}

// message is one netlink message without its header.
type message struct {
	kind uint16
	body []byte
}

// messages splits a datagram.
func messages(b []byte) func(yield func(message) bool) {
	return func(yield func(message) bool) {
		for len(b) >= unix.SizeofNlMsghdr {
			size := int(binary.NativeEndian.Uint32(b))
			if size < unix.SizeofNlMsghdr || size > len(b) {
				return
			}
			m := message{kind: binary.NativeEndian.Uint16(b[4:]), body: b[unix.SizeofNlMsghdr:size]}
			if !yield(m) {
				return
			}
			b = b[min(align(size), len(b)):]
		}
	}
}

// Elements reads all elements of a set or map. A set that does not exist has
// none.
func (c *Conn) Elements(table, set string) ([]Element, error) {
	var out []Element
	var a attrs
	a.str(unix.NFTA_SET_ELEM_LIST_TABLE, table)
	a.str(unix.NFTA_SET_ELEM_LIST_SET, set)
	err := c.dump(unix.NFT_MSG_GETSETELEM, unix.NFPROTO_INET, a, func(body []byte) {
		for t, list := range attributes(body[4:]) {
			if t != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			for _, elem := range attributes(list) {
				out = append(out, parseElement(elem))
			}
		}
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	return out, err
}

// Chains names the chains of a table of family inet.
func (c *Conn) Chains(table string) ([]string, error) {
	var out []string
	err := c.dump(unix.NFT_MSG_GETCHAIN, unix.NFPROTO_INET, nil, func(body []byte) {
		var in, name string
		for t, v := range attributes(body[4:]) {
			switch t {
			case unix.NFTA_CHAIN_TABLE:
				in = cstring(v)
			case unix.NFTA_CHAIN_NAME:
				name = cstring(v)
			}
		}
		if in == table {
			out = append(out, name)
		}
	})
	return out, err
}

// Tables lists the tables of family inet.
func (c *Conn) Tables() ([]string, error) {
	var out []string
	err := c.dump(unix.NFT_MSG_GETTABLE, unix.NFPROTO_INET, nil, func(body []byte) {
		for t, v := range attributes(body[4:]) {
			if t == unix.NFTA_TABLE_NAME {
				out = append(out, cstring(v))
			}
		}
	})
	return out, err
}

// dump sends one request and hands over the body of every answer.
func (c *Conn) dump(kind uint16, family uint8, a attrs, each func(body []byte)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	req := header(nil, nfnl(kind), unix.NLM_F_REQUEST|unix.NLM_F_DUMP, c.seq, family, 0)
	req = append(req, a...)
	binary.NativeEndian.PutUint32(req, uint32(len(req)))
	if err := unix.Sendto(c.fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("nftables: send: %w", err)
	}
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("nftables: receive: %w", err)
		}
		for m := range messages(c.buf[:n]) {
			switch {
			case m.kind == unix.NLMSG_DONE:
				return nil
			case m.kind == unix.NLMSG_ERROR:
				return unix.Errno(-int32(binary.NativeEndian.Uint32(m.body)))
			case m.kind>>8 == unix.NFNL_SUBSYS_NFTABLES:
				each(m.body)
			}
		}
	}
}
