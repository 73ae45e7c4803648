//go:build cgo

package shim

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"time"
)

// maxLine is how much of a line goes into one log record; longer ones are
// continued in further records, tagged P but for the last.
const maxLine = 16 << 10

// logFile writes container output in the CRI log format:
//
//	2016-10-06T00:17:09.669794202Z stdout F the line
//
// (https://git.k8s.io/design-proposals-archive/node/kubelet-cri-logging.md).
type logFile struct {
	path string

	mu   sync.Mutex
	file *os.File // nil: nothing is kept
}

func openLog(path string) (*logFile, error) {
	l := &logFile{path: path}
	if path == "" {
		return l, nil
	}
	return l, l.reopen()
}

// reopen goes on in a new file after the old one was renamed.
func (l *logFile) reopen() error {
	if l.path == "" {
		return nil
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	l.mu.Lock()
	old := l.file
	l.file = f
	l.mu.Unlock()
	if old != nil {
		old.Close()
	}
	return nil
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}

// write drops what the disk does not take: the container must go on.
func (l *logFile) write(records []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_, _ = l.file.Write(records)
	}
}

// lines turns a stream's bytes into log records. It keeps the begun line.
type lines struct {
	stream string
	begun  []byte
}

// add appends to out the records that data completes.
func (l *lines) add(out, data []byte, now time.Time) []byte {
	for len(data) > 0 {
		room := maxLine - len(l.begun)
		i := bytes.IndexByte(data[:min(len(data), room+1)], '\n')
		switch {
		case i >= 0:
			out = record(out, now, l.stream, 'F', l.begun, data[:i])
			l.begun, data = l.begun[:0], data[i+1:]
		case len(data) > room:
			out = record(out, now, l.stream, 'P', l.begun, data[:room])
			l.begun, data = l.begun[:0], data[room:]
		default:
			l.begun = append(l.begun, data...)
			return out
		}
	}
	l.begun = nil // most lines end with the write that begins them
	return out
}

// end appends the line that was never ended.
func (l *lines) end(out []byte, now time.Time) []byte {
	if len(l.begun) == 0 {
		return out
	}
	out = record(out, now, l.stream, 'P', l.begun, nil)
	l.begun = nil
	return out
}

func record(out []byte, now time.Time, stream string, tag byte, a, b []byte) []byte {
	out = now.UTC().AppendFormat(out, "2006-01-02T15:04:05.000000000Z07:00")
	out = append(out, ' ')
	out = append(out, stream...)
	out = append(out, ' ', tag, ' ')
	out = append(out, a...)
	out = append(out, b...)
	return append(out, '\n')
}
