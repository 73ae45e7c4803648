package kubelet

import (
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Images that no container uses are removed when the disk fills beyond the high
// mark, until it is below the low one (imageGCHighThresholdPercent and Low of
// upstream). Only images that the kubelet itself has pulled go, because those can be
// pulled again; what a person has imported is theirs to remove. A young image is
// kept: its pod may be about to start.
const (
	imageHigh   = 85 // percent of the disk
	imageLow    = 80
	imageMinAge = 2 * time.Minute
)

// usedImage is an image with the time when it was last in use, or first seen.
type usedImage struct {
	id   string
	size int64
	used time.Time
}

// disposable picks the images to remove to free so many bytes, the longest unused
// first.
func disposable(images []usedImage, now time.Time, bytes int64) []usedImage {
	slices.SortFunc(images, func(a, b usedImage) int { return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.id, b.id)) })
	var out []usedImage
	for _, i := range images {
		if bytes <= 0 {
			break
		}
		if now.Sub(i.used) < imageMinAge {
			continue
		}
		out = append(out, i)
		bytes -= i.size
	}
	return out
}

// excess is how many bytes to free so that a disk of this size is at the low mark;
// 0 while it is below the high one.
func excess(size, free int64) int64 {
	if used := size - free; used*100 >= size*imageHigh {
		return used - size*imageLow/100
	}
	return 0
}

// collectImages runs when the node's status is renewed and when an image came.
func (k *Kubelet) collectImages(ctx context.Context) error {
	list, err := k.cfg.Images.ListImages(ctx, nil)
	if err != nil {
		return err
	}
	now := time.Now()
	unused := k.unused(list, now)
	var fs unix.Statfs_t
	if err := unix.Statfs(k.cfg.Root, &fs); err != nil {
		return err
	}
	want := excess(int64(fs.Blocks)*fs.Bsize, int64(fs.Bavail)*fs.Bsize)
	freed := int64(0)
	for _, i := range disposable(unused, now, want) {
		if err := k.cfg.Images.RemoveImage(ctx, &cri.ImageSpec{Image: i.id}); err != nil {
			k.log.Warn("an unused image could not be removed", "image", i.id, "err", err)
			continue
		}
		freed += i.size
		os.Remove(k.pullRecord(i.id))
	}
	if node := k.own.Load(); freed < want && node != nil {
		k.events.Eventf(node, corev1.EventTypeWarning, "FreeDiskSpaceFailed",
			"Failed to garbage collect required amount of images. Attempted to free %d bytes, but only found %d bytes eligible to free.", want, freed)
	}
	return nil
}

// unused notes which images are in use now, and returns the others.
func (k *Kubelet) unused(list []*cri.Image, now time.Time) []usedImage {
	busy := map[string]bool{}
	for _, w := range k.all() {
		for _, c := range w.seen.Load().containers {
			busy[c.ImageId], busy[c.ImageRef], busy[c.GetImage().GetImage()] = true, true, true
		}
	}
	last := map[string]time.Time{}
	var out []usedImage
	for _, i := range list {
		used, known := k.imageUse[i.Id]
		inUse := busy[i.Id] || slices.ContainsFunc(i.RepoDigests, func(d string) bool { return busy[d] })
		if !known || inUse {
			used = now
		}
		last[i.Id] = used
		if !inUse && !i.Pinned && k.didPull(i.Id) {
			out = append(out, usedImage{i.Id, int64(i.Size), used})
		}
	}
	k.imageUse = last
	return out
}

// pullRecord is the file that says that the kubelet has pulled an image.
func (k *Kubelet) pullRecord(id string) string {
	return filepath.Join(k.cfg.Root, "pulled", strings.ReplaceAll(id, "/", "_"))
}

func (k *Kubelet) didPull(id string) bool {
	_, err := os.Stat(k.pullRecord(id))
	return err == nil
}

func (k *Kubelet) recordPull(id string) {
	path := k.pullRecord(id)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, nil, 0o644)
	}
	if err != nil {
		k.log.Warn("that an image was pulled could not be noted; it will not be removed when the disk fills", "image", id, "err", err)
	}
}
