package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// when is the time of all that is made here: the same input gives the same bytes.
var when = time.Unix(1_700_000_000, 0).UTC()

// layer is a gzipped tar with both its digests.
type layer struct {
	diff digest.Digest
	data []byte
}

func makeLayer(fill func(*tar.Writer) error) (layer, error) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	h := digest.SHA256.Digester()
	w := tar.NewWriter(io.MultiWriter(z, h.Hash()))
	err := errors.Join(fill(w), w.Close(), z.Close())
	return layer{diff: h.Digest(), data: packed.Bytes()}, err
}

// treeLayer packs a directory, everything owned by root.
func treeLayer(root string) (layer, error) {
	return makeLayer(func(w *tar.Writer) error {
		return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || path == root {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			link := ""
			if info.Mode()&fs.ModeSymlink != 0 {
				if link, err = os.Readlink(path); err != nil {
					return err
				}
			}
			return pack(w, name, link, path, info)
		})
	})
}

// filesLayer packs single files.
func filesLayer(files map[string]string) (layer, error) {
	return makeLayer(func(w *tar.Writer) error {
		names := make([]string, 0, len(files))
		for n := range files {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, name := range names {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: filepath.Dir(name) + "/", Mode: 0o755, ModTime: when}); err != nil {
				return err
			}
			info, err := os.Stat(files[name])
			if err != nil {
				return err
			}
			if err := pack(w, name, "", files[name], info); err != nil {
				return err
			}
		}
		return nil
	})
}

func pack(w *tar.Writer, name, link, path string, info fs.FileInfo) error {
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	if h.Name = name; info.IsDir() {
		h.Name += "/"
	}
	h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", ""
	h.ModTime, h.AccessTime, h.ChangeTime = when, time.Time{}, time.Time{}
	if err := w.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// archive is an OCI layout being written as a tar.
type archive struct {
	w    *tar.Writer
	have map[digest.Digest]bool
}

// writeArchive writes one image a variant, on the same layers.
func writeArchive(path string, layers []layer, variants []variant) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".image-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	a := &archive{w: tar.NewWriter(f), have: map[digest.Digest]bool{}}
	err = a.fill(layers, variants)
	if err = errors.Join(err, a.w.Close(), f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func (a *archive) fill(layers []layer, variants []variant) error {
	if err := a.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	for _, v := range variants {
		d, err := a.image(layers, v)
		if err != nil {
			return err
		}
		index.Manifests = append(index.Manifests, d)
	}
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return a.file("index.json", data)
}

func (a *archive) image(layers []layer, v variant) (v1.Descriptor, error) {
	config := v1.Image{Created: &when, Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config: v1.ImageConfig{Cmd: v.command, WorkingDir: v.dir,
			Env: append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, v.env...)}}
	if v.port != "" {
		config.Config.ExposedPorts = map[string]struct{}{v.port: {}}
	}
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	config.RootFS.Type = "layers"
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.diff)
		d, err := a.blob(v1.MediaTypeImageLayerGzip, l.data)
		if err != nil {
			return d, err
		}
		manifest.Layers = append(manifest.Layers, d)
	}
	var err error
	if manifest.Config, err = a.json(v1.MediaTypeImageConfig, config); err != nil {
		return v1.Descriptor{}, err
	}
	d, err := a.json(v1.MediaTypeImageManifest, manifest)
	d.Annotations = map[string]string{"io.containerd.image.name": v.name, v1.AnnotationRefName: v.name}
	d.Platform = &config.Platform
	return d, err
}

func (a *archive) json(mediaType string, v any) (v1.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return v1.Descriptor{}, err
	}
	return a.blob(mediaType, data)
}

func (a *archive) blob(mediaType string, data []byte) (v1.Descriptor, error) {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if a.have[d.Digest] {
		return d, nil
	}
	a.have[d.Digest] = true
	return d, a.file("blobs/sha256/"+d.Digest.Encoded(), data)
}

func (a *archive) file(name string, data []byte) error {
	if err := a.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o644, ModTime: when}); err != nil {
		return err
	}
	_, err := a.w.Write(data)
	return err
}
