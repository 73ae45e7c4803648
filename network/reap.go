package network

import (
	"errors"
	"fmt"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// reaper removes links. The kernel takes 20 ms for that, waiting for readers
// while it holds its one lock on links, but it takes no longer for many links
// than for one. So those that come while it is busy are removed together.
type reaper struct {
	links *netlink.Handle
	turn  sync.Mutex // held while the kernel works

	mu   sync.Mutex
	next *reaping
}

// reaping is links to be removed together.
type reaping struct {
	indexes []int
	done    chan struct{}
	err     error
}

// remove removes a link, and its other end with it. It is no error if the link
// is gone.
func (r *reaper) remove(index int) error {
	r.mu.Lock()
	batch, leads := r.next, r.next == nil
	if leads {
		batch = &reaping{done: make(chan struct{})}
		r.next = batch
	}
	batch.indexes = append(batch.indexes, index)
	r.mu.Unlock()
	if leads {
		r.reap(batch)
	}
	<-batch.done
	return batch.err
}

func (r *reaper) reap(batch *reaping) {
	r.turn.Lock()
	defer r.turn.Unlock()
	r.mu.Lock()
	r.next = nil // who comes from now on is in the next one
	r.mu.Unlock()
	batch.err = r.removeAll(batch.indexes)
	close(batch.done)
}

// reapGroup is a group of links that nobody else will use.
const reapGroup = 0x50524f41

func (r *reaper) removeAll(indexes []int) error {
	if len(indexes) > 1 && r.removeGroup(indexes) == nil {
		return nil
	}
	var errs []error
	for _, i := range indexes {
		errs = append(errs, gone(r.links.LinkDel(device(i))))
	}
	return errors.Join(errs...)
}

// gone: the pod's namespace may be going down and take the link along.
func gone(err error) error {
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// removeGroup puts the links into a group and removes that.
func (r *reaper) removeGroup(indexes []int) error {
	for _, i := range indexes {
		if err := gone(r.links.LinkSetGroup(device(i), reapGroup)); err != nil {
			return err
		}
	}
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(reapGroup)))
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove %d links: %w", len(indexes), err)
	}
	return nil
}

func device(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}
