package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"proa/control"
	"proa/store"
	"proa/store/etcd"
	"proa/store/pebble"
	"proa/store/snapshot"
)

// identityFiles are what makes a cluster itself, below the data directory:
// authorities, the token key, the key of its Secrets.
var identityFiles = []string{"pki/*", secretsFile}

// restoreBump is how far revisions jump over a restore, so that none is given
// again that a client of the lost cluster has seen.
const restoreBump = 1_000_000_000

// SnapshotHeader says what a snapshot is of.
type SnapshotHeader = snapshot.Header

// handleSnapshot streams a snapshot of the running cluster. A failure after the
// first byte cuts it off, which its reader notices.
func (c *Cluster) handleSnapshot(w http.ResponseWriter, r *http.Request) {
	if _, err := c.store.Latest(r.Context()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := c.saveTo(w, r.URL.Query().Get("version")); err != nil {
		c.cfg.Log.Error("a snapshot could not be written to its end", "error", err)
		panic(http.ErrAbortHandler)
	}
}

func (c *Cluster) saveTo(w io.Writer, version string) error {
	defer c.secrets.local.Still()() // the key in the snapshot opens what is in it
	var out *snapshot.Writer
	err := c.store.Export(func(revision uint64) (err error) {
		out, err = begin(w, c.cfg.DataDir, snapshot.Header{Created: time.Now(), Revision: revision, Version: version, Server: c.url()})
		return err
	}, func(e store.Entry) error { return out.Object(e) })
	if err != nil {
		return err
	}
	return out.Close()
}

// SaveStopped writes a snapshot of a data directory that no instance uses.
func SaveStopped(ctx context.Context, w io.Writer, dataDir, version string) error {
	if _, err := os.Stat(filepath.Join(dataDir, "store")); err != nil {
		return fmt.Errorf("no cluster runs here, and %s holds none (%w)", dataDir, err)
	}
	release, err := control.Lock(dataDir)
	if err != nil {
		return err
	}
	defer release()
	engine, err := pebble.Open(pebble.Config{Dir: filepath.Join(dataDir, "store")})
	if err != nil {
		return err
	}
	defer engine.Close()
	revision, err := engine.Load(ctx, func(store.Entry) error { return nil })
	if err != nil {
		return err
	}
	out, err := begin(w, dataDir, snapshot.Header{Created: time.Now(), Revision: revision, Version: version})
	if err != nil {
		return err
	}
	if _, err := engine.Load(ctx, out.Object); err != nil {
		return err
	}
	return out.Close()
}

// begin writes the header and the identity's files.
func begin(w io.Writer, dataDir string, h snapshot.Header) (*snapshot.Writer, error) {
	out, err := snapshot.NewWriter(w, h)
	if err != nil {
		return nil, err
	}
	for _, pattern := range identityFiles {
		names, err := filepath.Glob(filepath.Join(dataDir, pattern))
		if err != nil {
			return nil, err
		}
		for _, path := range names {
			data, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			info, err := os.Stat(path)
			if err != nil {
				return nil, err
			}
			name, err := filepath.Rel(dataDir, path)
			if err != nil {
				return nil, err
			}
			if err := out.File(snapshot.File{Name: name, Mode: info.Mode().Perm(), Data: data}); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// SnapshotContents is what `proa snapshot ls` tells.
type SnapshotContents struct {
	SnapshotHeader
	Files   []string       `json:"files"`
	Objects map[string]int `json:"objects"` // number by resource
}

// ListSnapshot reads a snapshot to its end, and so checks it.
func ListSnapshot(r io.Reader) (out SnapshotContents, err error) {
	out.Objects = map[string]int{}
	err = snapshot.Read(r, snapshot.Handler{
		Header: func(h snapshot.Header) error { out.SnapshotHeader = h; return nil },
		File:   func(f snapshot.File) error { out.Files = append(out.Files, f.Name); return nil },
		Object: func(e store.Entry) error { out.Objects[e.Key.Resource]++; return nil },
	})
	return out, err
}

// Restore makes a data directory, and where d has endpoints an etcd, of the
// snapshot. Both must be empty. What it began and could not end, it takes away.
func Restore(ctx context.Context, file, dataDir string, d Datastore) (SnapshotContents, error) {
	in, err := os.Open(file)
	if err != nil {
		return SnapshotContents{}, err
	}
	defer in.Close()
	contents, err := ListSnapshot(in) // nothing is touched for a bad file
	if err != nil {
		return contents, fmt.Errorf("%s: %w", file, err)
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return contents, err
	}
	for _, name := range []string{"store", "pki", secretsFile} {
		if _, err := os.Lstat(filepath.Join(dataDir, name)); !errors.Is(err, fs.ErrNotExist) {
			return contents, fmt.Errorf("%s holds a cluster already (%s): choose another --data-dir, or remove that one with `proa reset`", dataDir, name)
		}
	}
	release, err := control.Lock(dataDir)
	if err != nil {
		return contents, err
	}
	defer release()
	staging := filepath.Join(dataDir, "restoring")
	if err := os.RemoveAll(staging); err != nil {
		return contents, err
	}
	defer os.RemoveAll(staging)
	r := restorer{dir: staging, bumped: contents.Revision + restoreBump}
	if len(d.Endpoints) > 0 {
		err = r.intoEtcd(ctx, in, d)
	} else {
		err = r.intoPebble(ctx, in)
	}
	if err != nil {
		return contents, err
	}
	return contents, inPlace(staging, dataDir)
}

// inPlace moves what was restored where it belongs, the datastore last.
func inPlace(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) }) // encryption, pki, store
	for _, e := range entries {
		if err := os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	d, err := os.Open(to)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// restorer writes what a snapshot holds.
type restorer struct {
	dir    string
	bumped uint64
	batch  []store.Entry
	size   int
	commit func([]store.Entry) error
}

const restoreBatch = 1 << 20

func (r *restorer) read(in io.Reader) error {
	err := snapshot.Read(in, snapshot.Handler{File: r.file, Object: r.object})
	if err != nil || len(r.batch) == 0 {
		return err
	}
	return r.commit(r.batch)
}

func (r *restorer) object(e store.Entry) error {
	r.batch = append(r.batch, e)
	if r.size += len(e.Value) + 100; r.size < restoreBatch {
		return nil
	}
	err := r.commit(r.batch)
	r.batch, r.size = nil, 0
	return err
}

// file writes one of the identity's files, which nobody but root may read.
func (r *restorer) file(f snapshot.File) error {
	if !filepath.IsLocal(f.Name) {
		return fmt.Errorf("the snapshot names a file outside of the data directory: %q", f.Name)
	}
	path := filepath.Join(r.dir, f.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = out.Write(f.Data)
	return errors.Join(err, out.Sync(), out.Close())
}

// restoredKey is a record that says where the datastore comes from; its revision
// is the first of the new cluster.
var restoredKey = store.Key{Resource: "restored", Name: "from"}

func (r *restorer) intoPebble(ctx context.Context, in io.Reader) error {
	engine, err := pebble.Open(pebble.Config{Dir: filepath.Join(r.dir, "store")})
	if err != nil {
		return err
	}
	r.commit = func(entries []store.Entry) error { return engine.Commit(ctx, entries, false) }
	err = r.read(in)
	if err == nil {
		note, _ := json.Marshal(map[string]time.Time{"at": time.Now()}) // a time cannot fail
		err = engine.Commit(ctx, []store.Entry{{Key: restoredKey, Revision: r.bumped, Value: note}}, false)
	}
	return errors.Join(err, engine.Close())
}

func (r *restorer) intoEtcd(ctx context.Context, in io.Reader, d Datastore) error {
	engine, err := etcd.Open(etcd.Config{Endpoints: d.Endpoints, CA: d.CA, Cert: d.Cert, Key: d.Key, Prefix: d.Prefix})
	if err != nil {
		return err
	}
	defer engine.Close()
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	if err := engine.Begin(ctx, r.bumped); err != nil {
		return err
	}
	r.commit = func(entries []store.Entry) error { return engine.Fill(ctx, entries) }
	return r.read(in)
}
