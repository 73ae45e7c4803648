// Command images assembles container images from Debian packages, without a
// registry and without a build tool: the example's image with the real Python
// and Flask, and a busybox for the tests.
//
//	go run ./test/images [-o DIR] NAME...
//
// writes DIR/NAME.tar, an OCI archive. The same packages give the same bytes.
// It needs apt and dpkg-deb, and a mirror that apt can reach; packages are kept
// in the user's cache directory.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// recipe is one archive.
type recipe struct {
	// packages are what is wanted; their dependencies come along, apart from
	// the packages in without.
	packages, without []string
	// keep decides about each file of the packages, by its path in the image.
	keep func(path string) bool
	// finish completes the tree: links, precompiled code, accounts.
	finish func(root string) error
	// extra files form a layer of their own: path in the image to path here.
	extra map[string]string
	// variants are the images of the archive, which share their layers.
	variants []variant
}

// variant is one image: a name and what its configuration says.
type variant struct {
	name    string
	env     []string
	command []string
	dir     string
	port    string
}

var recipes = map[string]recipe{"flask-app": flask, "busybox": busybox, "health": health, "training-operator": operator}

func main() {
	out := flag.String("o", ".", "directory to write archives to")
	flag.Usage = func() {
		fmt.Fprintf(os.Stderr, "usage: images [-o DIR] NAME...\nimages: %s\n", strings.Join(known(), ", "))
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	for _, name := range flag.Args() {
		if err := build(name, *out); err != nil {
			fmt.Fprintf(os.Stderr, "images: %s: %v\n", name, err)
			os.Exit(1)
		}
	}
}

func known() (names []string) {
	for name := range recipes {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func build(name, out string) error {
	r, ok := recipes[name]
	if !ok {
		return fmt.Errorf("no such image; there are %s", strings.Join(known(), ", "))
	}
	root, err := os.MkdirTemp("", "proa-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	if err := unpack(r, root); err != nil {
		return err
	}
	if err := r.finish(root); err != nil {
		return err
	}
	base, err := treeLayer(root)
	if err != nil {
		return err
	}
	layers := []layer{base}
	if len(r.extra) > 0 {
		l, err := filesLayer(r.extra)
		if err != nil {
			return err
		}
		layers = append(layers, l)
	}
	path := filepath.Join(out, name+".tar")
	if err := writeArchive(path, layers, r.variants); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	fmt.Printf("%s: %.1f MB, %d images\n", path, float64(info.Size())/1e6, len(r.variants))
	return nil
}
