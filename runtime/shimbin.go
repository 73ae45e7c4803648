package runtime

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"proa/internal/atomicfile"
)

// shimFiles holds shimbin/proa-shim once `make build` has put it there.
//
//go:embed all:shimbin
var shimFiles embed.FS

// ErrNoShim says that this binary was built without its shim.
var ErrNoShim = errors.New("this binary carries no pod shim: build it with `make build`")

// shimBinary returns the path of the shim to run. The embedded one is unpacked
// once, under a name made of its content, so that an upgrade does not touch what
// running pods execute.
func shimBinary(cfg Config) (string, error) {
	if cfg.Shim != "" {
		_, err := os.Stat(cfg.Shim)
		return cfg.Shim, err
	}
	data, err := shimFiles.ReadFile("shimbin/proa-shim")
	if errors.Is(err, fs.ErrNotExist) {
		return "", ErrNoShim
	}
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	// A directory of its own: libcontainer overlays it to protect the binary.
	dir := filepath.Join(cfg.Root, "bin", hex.EncodeToString(sum[:8]))
	path := filepath.Join(dir, "proa-shim")
	if info, err := os.Stat(path); err == nil && info.Size() == int64(len(data)) {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := atomicfile.Write(path, data, 0o755); err != nil {
		return "", fmt.Errorf("unpack the pod shim: %w", err)
	}
	return path, nil
}
