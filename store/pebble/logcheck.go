package pebble

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The library's log is read in blocks of 32 KiB, each a row of chunks:
//
//	checksum(4) length(2) type(1) log number(4) [synced(8)] data
//
// with "synced", how much of the log was on disk when the chunk was written, in
// types from 9 on. A chunk that is not valid is either the torn end of the log
// or damage; if a later one says that the log was synced beyond it, it is
// damage. The library looks for such a later chunk only in the blocks after;
// this looks in the same block, too, so that a flipped bit among the last
// acknowledged writes is not taken for their absence.
const (
	logBlock     = 32 << 10
	chunkHeader  = 11
	syncedHeader = 19
	firstSynced  = 9
	lastSynced   = 12
)

// checkLogs reads the logs that the library will replay.
func checkLogs(fs vfs.FS, dir string) error {
	files, err := fs.List(dir)
	if err != nil {
		return err
	}
	for _, name := range files {
		number, err := strconv.ParseUint(strings.TrimSuffix(name, ".log"), 10, 64)
		if err != nil || !strings.HasSuffix(name, ".log") {
			continue
		}
		f, err := fs.Open(fs.PathJoin(dir, name))
		if err != nil {
			return err
		}
		err = checkLog(f, uint32(number))
		f.Close()
		if err != nil {
			return fmt.Errorf("file %s is damaged: %w", name, err)
		}
	}
	return nil
}

func checkLog(r io.Reader, number uint32) error {
	c := logChecker{number: number, broken: -1}
	block := make([]byte, logBlock)
	for at := int64(0); ; at += logBlock {
		n, err := io.ReadFull(r, block)
		if n == 0 || err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		}
		if ended, err := c.block(block[:n], at); ended || err != nil {
			return err
		}
	}
}

// logChecker remembers where the first chunk was that is not valid.
type logChecker struct {
	number uint32
	broken int64
}

// block walks the chunks of a block that begins at a place in the file. A chunk
// whose data is damaged is stepped over by its length.
func (c *logChecker) block(b []byte, base int64) (ended bool, err error) {
	for at := 0; at+chunkHeader <= len(b); {
		h := b[at:]
		end := at + chunkHeader + int(binary.LittleEndian.Uint16(h[4:]))
		typ, number := h[6], binary.LittleEndian.Uint32(h[7:])
		synced := typ >= firstSynced && typ <= lastSynced
		if synced {
			end += syncedHeader - chunkHeader
		}
		switch {
		case number == c.number+1 && end == at+chunkHeader:
			return true, nil // the mark of a log that was ended properly
		case typ == 0 || typ > lastSynced || number != c.number || end > len(b):
			if len(b)-at >= syncedHeader {
				c.mark(base + int64(at))
			}
			return false, nil
		case binary.LittleEndian.Uint32(h) != cooked(checksum(nil, b[at+6:end])):
			c.mark(base + int64(at))
		case synced && c.broken >= 0 && binary.LittleEndian.Uint64(h[chunkHeader:]) > uint64(c.broken):
			return false, fmt.Errorf("its content at byte %d is not what was written", c.broken)
		}
		at = end
	}
	return false, nil
}

func (c *logChecker) mark(at int64) {
	if c.broken < 0 {
		c.broken = at
	}
}

// cooked is the form in which the log keeps a checksum.
func cooked(sum uint32) uint32 { return (sum>>15 | sum<<17) + 0xa282ead8 }
