package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Watcher tells when somebody changes the rules of a network namespace.
type Watcher struct{ f *os.File }

// Watch subscribes to changes in the thread's network namespace other than
// through own: the kernel wakes nobody for those.
func Watch(own *Conn) (*Watcher, error) {
	f, err := subscribe(own.port)
	if err != nil {
		return nil, fmt.Errorf("nftables: follow changes: %w", err)
	}
	return &Watcher{f}, nil
}

// Run calls changed for what happened since Watch, until ctx ends. removed
// tells whether a table of family inet may have been removed.
func (w *Watcher) Run(ctx context.Context, changed func(removed func(table string) bool)) error {
	defer w.f.Close()
	stop := context.AfterFunc(ctx, func() { w.f.Close() })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		n, err := w.f.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // some changes were too many to be told
			changed(func(string) bool { return true })
		case err != nil:
			return fmt.Errorf("nftables: follow changes: %w", err)
		default:
			gone := deleted(buf[:n])
			changed(func(table string) bool { return gone[table] })
		}
	}
}

func subscribe(own uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "nftables")
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		f.Close()
		return nil, err
	}
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, notFrom(own)),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES))
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// notFrom is a socket filter that drops what carries the port in its header.
func notFrom(port uint32) *unix.SockFprog {
	// The filter loads words as big-endian numbers.
	k := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, port))
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 12}, // nlmsg_pid
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: k},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	}
	return &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
}

// deleted names the tables of family inet whose removal is told.
func deleted(b []byte) map[string]bool {
	out := map[string]bool{}
	for m := range messages(b) {
		if m.kind != nfnl(unix.NFT_MSG_DELTABLE) || len(m.body) < 4 || m.body[0] != unix.NFPROTO_INET {
			continue
		}
		for t, v := range attributes(m.body[4:]) {
			if t == unix.NFTA_TABLE_NAME {
				out[cstring(v)] = true
			}
		}
	}
	return out
}
