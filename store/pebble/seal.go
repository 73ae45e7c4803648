package pebble

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// seal guards the library's manifest, the list of its tables. The library takes
// a damaged place in it for its end, and would go on without the tables that
// were listed behind. The file "seal" says how long the manifest was at some
// moment and what its checksum was up to there; the manifest only grows, or is
// replaced by one of a higher number.
type seal struct {
	fs    vfs.FS
	dir   string
	log   *slog.Logger
	grown chan struct{} // tells run that the manifest has grown since
	quit  chan struct{}
	done  chan struct{}
}

func newSeal(fs vfs.FS, dir string, log *slog.Logger) *seal {
	return &seal{fs: fs, dir: dir, log: log, grown: make(chan struct{}, 1),
		quit: make(chan struct{}), done: make(chan struct{})}
}

// run keeps the seal fresh until stop.
func (s *seal) run() {
	defer close(s.done)
	for {
		select {
		case <-s.grown:
			s.refresh()
		case <-s.quit:
			return
		}
	}
}

// stop ends run and seals a last time. The manifest must not grow any more.
func (s *seal) stop() {
	close(s.quit)
	<-s.done
	s.refresh()
}

// touch asks for a new seal.
func (s *seal) touch() {
	select {
	case s.grown <- struct{}{}:
	default:
	}
}

const sealName = "seal"

// manifest returns the name of the manifest in use and what is in it; "" if
// there is none yet.
func (s *seal) manifest() (name string, data []byte, err error) {
	files, err := s.fs.List(s.dir)
	if err != nil {
		return "", nil, err
	}
	newest := ""
	for _, f := range files {
		// marker.manifest.ITERATION.MANIFEST-NUMBER
		if parts := strings.Split(f, "."); len(parts) == 4 && parts[0] == "marker" && parts[1] == "manifest" && f > newest {
			newest, name = f, parts[3]
		}
	}
	if name == "" {
		return "", nil, nil
	}
	f, err := s.fs.Open(s.fs.PathJoin(s.dir, name))
	if err != nil {
		return name, nil, err
	}
	defer f.Close()
	data, err = io.ReadAll(f)
	if err == nil {
		err = f.Sync() // what is sealed must not be lost in a power cut
	}
	return name, data, err
}

// check compares the manifest with the seal.
func (s *seal) check() error {
	f, err := s.fs.Open(s.fs.PathJoin(s.dir, sealName))
	if err != nil {
		return nil // a new directory
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	var sealed string
	var length int
	var sum uint32
	if _, err := fmt.Sscanf(string(text), "%s %d %d\n", &sealed, &length, &sum); err != nil || string(text) != sealText(sealed, length, sum) {
		return fmt.Errorf("file %s is damaged", sealName)
	}
	name, data, err := s.manifest()
	switch {
	case err != nil:
		return err
	case name == sealed && (len(data) < length || crc32.Checksum(data[:length], castagnoli) != sum), name < sealed:
		return fmt.Errorf("file %s is damaged", sealed)
	}
	return nil
}

// sealText ends with a checksum of its own.
func sealText(name string, length int, sum uint32) string {
	line := fmt.Sprintf("%s %d %d", name, length, sum)
	return fmt.Sprintf("%s\n%08x\n", line, crc32.Checksum([]byte(line), castagnoli))
}

// refresh seals the manifest as it is. Failing is no harm: the older seal holds.
func (s *seal) refresh() {
	name, data, err := s.manifest()
	if err == nil && name != "" {
		err = s.write(sealText(name, len(data), crc32.Checksum(data, castagnoli)))
	}
	if err != nil {
		s.log.Warn("cannot seal the datastore's manifest", "error", err)
	}
}

func (s *seal) write(text string) error { return replaceFile(s.fs, s.dir, sealName, []byte(text)) }

// replaceFile puts a file into the directory, whole or not at all.
func replaceFile(fs vfs.FS, dir, name string, text []byte) error {
	path := fs.PathJoin(dir, name)
	f, err := fs.Create(path+".new", vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fs.Rename(path+".new", path)
	}
	if err != nil {
		return errors.Join(err, fs.Remove(path+".new"))
	}
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
