package network

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// record is what a pod was given, as kept on disk.
type record struct {
	ID        string
	Boot      string // the kernel's boot ID: links do not outlive it
	Namespace string
	Name      string
	Link      string
	IPs       []netip.Addr
	Ports     []Port `json:",omitempty"`
	Ingress   int64  `json:",omitempty"`
	Egress    int64  `json:",omitempty"`
}

func newRecord(p Pod) *record {
	return &record{
		ID: p.ID, Boot: bootID(), Namespace: p.Namespace, Name: p.Name, Link: linkName(p.ID),
		Ports: p.Ports, Ingress: p.Ingress, Egress: p.Egress,
	}
}

// bootID is the same for as long as the kernel runs.
var bootID = sync.OnceValue(func() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
})

// stateDir keeps one file a pod. Files are replaced by renaming, which a
// crashed process cannot leave half done. They are not synced: a power cut that
// loses them has ended the pods as well.
type stateDir string

func (d stateDir) file(id string) string {
	sum := sha256.Sum256([]byte(id))
	return filepath.Join(string(d), "pod-"+hex.EncodeToString(sum[:12])+".json")
}

func (d stateDir) save(r *record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return d.write(d.file(r.ID), data)
}

func (d stateDir) write(path string, data []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return fmt.Errorf("keep the allocation: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("keep the allocation: %w", err)
	}
	return nil
}

func (d stateDir) remove(id string) error {
	if err := os.Remove(d.file(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("drop the allocation: %w", err)
	}
	return nil
}

// load reads the records of this boot and removes all else: older ones, and
// those that a power cut tore.
func (d stateDir) load() ([]*record, error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return nil, fmt.Errorf("network: make the state directory: %w", err)
	}
	paths, err := filepath.Glob(filepath.Join(string(d), "pod-*"))
	if err != nil {
		return nil, err
	}
	var out []*record
	for _, path := range paths {
		r := &record{}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("network: read the state: %w", err)
		}
		if json.Unmarshal(data, r) == nil && r.Boot == bootID() && path == d.file(r.ID) {
			out = append(out, r)
			continue
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("network: drop an old allocation: %w", err)
		}
	}
	return out, nil
}

func (d stateDir) cursorFile(pool int) string {
	return filepath.Join(string(d), "next-"+strconv.Itoa(pool))
}

// saveCursor overwrites in place, with a fixed width: replacing or truncating a
// file makes ext4 write it out at once, which costs milliseconds.
func (d stateDir) saveCursor(pool int, a netip.Addr) error {
	f, err := os.OpenFile(d.cursorFile(pool), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("keep the next address: %w", err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "%-39s\n", a); err != nil {
		return fmt.Errorf("keep the next address: %w", err)
	}
	return nil
}

// cursor is the address that would have been next; the zero Addr if unknown.
func (d stateDir) cursor(pool int) netip.Addr {
	data, err := os.ReadFile(d.cursorFile(pool))
	if err != nil {
		return netip.Addr{}
	}
	a, _ := netip.ParseAddr(strings.TrimSpace(string(data)))
	return a
}
