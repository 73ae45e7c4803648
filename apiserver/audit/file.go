package audit

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// FileConfig is where lines go and how the file is rotated.
type FileConfig struct {
	// Path is a file, or - for standard output.
	Path string
	// MaxSize is the size in MiB from which a new file is begun, 100 if zero;
	// MaxAge is how many days, and MaxBackups how many files, are kept beside
	// it; zero is without limit.
	MaxSize, MaxAge, MaxBackups int
	Compress                    bool
}

const defaultMaxSize = 100

// File writes events as lines of JSON. It implements Sink, in blocking mode.
type File struct {
	cfg  FileConfig
	now  func() time.Time
	mu   sync.Mutex // around out and size: one line at a time
	out  io.Writer
	file *os.File // nil for standard output
	size int64
	tidy sync.WaitGroup
	turn sync.Mutex // one round of tidying at a time
}

// OpenFile opens or makes the file.
func OpenFile(c FileConfig, now func() time.Time) (*File, error) {
	if c.MaxSize <= 0 {
		c.MaxSize = defaultMaxSize
	}
	f := &File{cfg: c, now: now}
	if c.Path == "-" {
		f.out = os.Stdout
		return f, nil
	}
	if err := os.MkdirAll(filepath.Dir(c.Path), 0o700); err != nil {
		return nil, err
	}
	return f, f.open()
}

func (f *File) open() error {
	file, err := os.OpenFile(f.cfg.Path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return err
	}
	f.file, f.out, f.size = file, file, info.Size()
	return nil
}

// Put writes a line.
func (f *File) Put(ev *auditv1.Event) error {
	line, err := json.Marshal(ev)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file != nil && f.size > 0 && f.size+int64(len(line)) > int64(f.cfg.MaxSize)<<20 {
		if err := f.rotate(); err != nil {
			return err
		}
	}
	n, err := f.out.Write(line)
	f.size += int64(n)
	return err
}

// PutAll writes several lines.
func (f *File) PutAll(_ context.Context, events []*auditv1.Event) error {
	for _, ev := range events {
		if err := f.Put(ev); err != nil {
			return err
		}
	}
	return nil
}

// stamp is the time in the name of a file that is full.
const stamp = "2006-01-02T15-04-05.000"

// rotate puts the full file aside and begins a new one.
func (f *File) rotate() error {
	if err := f.file.Close(); err != nil {
		return err
	}
	base, ext := f.names()
	for at := f.now().UTC(); ; at = at.Add(time.Millisecond) {
		aside := base + "-" + at.Format(stamp) + ext
		if exists(aside) || exists(aside+".gz") {
			continue
		}
		if err := os.Rename(f.cfg.Path, aside); err != nil {
			return err
		}
		break
	}
	f.tidy.Go(f.clean)
	return f.open()
}

func exists(path string) bool { _, err := os.Lstat(path); return err == nil }

func (f *File) names() (base, ext string) {
	ext = filepath.Ext(f.cfg.Path)
	return strings.TrimSuffix(f.cfg.Path, ext), ext
}

// aside lists the full files, the newest first.
func (f *File) aside() (out []string) {
	base, ext := f.names()
	found, err := filepath.Glob(escape(base) + "-*" + escape(ext) + "*")
	if err != nil {
		return nil
	}
	for _, path := range found {
		if _, ok := f.stampOf(path); ok {
			out = append(out, path)
		}
	}
	slices.Sort(out)
	slices.Reverse(out)
	return out
}

func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

func (f *File) stampOf(path string) (time.Time, bool) {
	base, ext := f.names()
	text := strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(path, base+"-"), ".gz"), ext)
	at, err := time.Parse(stamp, text)
	return at, err == nil
}

// clean removes what is too old or too many, and compresses the rest. What
// fails is tried again with the next rotation.
func (f *File) clean() {
	f.turn.Lock()
	defer f.turn.Unlock()
	for i, path := range f.aside() {
		at, _ := f.stampOf(path)
		old := f.cfg.MaxAge > 0 && f.now().Sub(at) > time.Duration(f.cfg.MaxAge)*24*time.Hour
		if old || f.cfg.MaxBackups > 0 && i >= f.cfg.MaxBackups {
			os.Remove(path)
		} else if f.cfg.Compress && !strings.HasSuffix(path, ".gz") {
			_ = compress(path) // see above
		}
	}
}

func compress(path string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(path+".gz.part", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	gz := gzip.NewWriter(out)
	_, err = io.Copy(gz, in)
	if err = errors.Join(err, gz.Close(), out.Close()); err != nil {
		os.Remove(path + ".gz.part")
		return err
	}
	if err := os.Rename(path+".gz.part", path+".gz"); err != nil {
		return err
	}
	return os.Remove(path)
}

// Close waits for what is being compressed and closes the file.
func (f *File) Close() error {
	f.tidy.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return nil
	}
	if err := f.file.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		return err
	}
	return nil
}
