package cli

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"proa/control"
	"proa/image"
)

func imageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "image", Short: "Bring, list and remove images",
		Example: `  docker save app:v1 | proa image import -
  proa image import app.tar layout.tar.zst
  proa image ls
  proa image rm app:v1
  proa image prune`,
	}
	cmd.AddCommand(imageImport(), imageList(), imageRemove(), imagePrune())
	return cmd
}

// withImages runs do on the running instance's images, or, where none runs, on
// the store itself.
func withImages(w where, do func(control.Images) error) error {
	i, err := w.find()
	if err == nil {
		return do(i.Images())
	}
	if !errors.Is(err, control.ErrNone) {
		return err
	}
	dataDir, _ := w.or()
	release, err := control.Lock(dataDir)
	if err != nil {
		return err
	}
	defer release()
	store, err := image.Open(filepath.Join(dataDir, "images"), nil)
	if err != nil {
		return err
	}
	return errors.Join(do(control.Local{Store: store}), store.Close())
}

func imageImport() *cobra.Command {
	var w where
	var name, out string
	cmd := &cobra.Command{
		Use: "import FILE…", Short: "Import OCI layouts (directories or archives) and docker archives, plain or compressed; - is standard input",
		Example: `  docker save app:1.0 | sudo proa image import -
  sudo proa image import app.tar
  sudo proa image import app.tar -o json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			return withImages(w, func(images control.Images) error {
				var all []image.Image
				for _, file := range files {
					got, err := importFile(cmd, images, file, name)
					if err != nil {
						return fmt.Errorf("%s: %w", file, err)
					}
					all = append(all, got...)
				}
				if out == "json" {
					return printJSON(cmd.OutOrStdout(), all)
				}
				for _, i := range all {
					fmt.Fprintf(cmd.OutOrStdout(), "%s  %s\n", nameOf(i), size(i.Size))
				}
				return nil
			})
		},
	}
	w.flags(cmd)
	cmd.Flags().StringVar(&name, "name", "", "the image's name, for an archive that has none")
	outputFlag(cmd, &out)
	return cmd
}

func importFile(cmd *cobra.Command, images control.Images, file, name string) ([]image.Image, error) {
	if file == "-" {
		return images.Import(cmd.InOrStdin(), name, func(image.Progress) {})
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return images.Import(f, name, func(image.Progress) {})
	}
	r := packed(file)
	defer r.Close()
	return images.Import(r, name, func(image.Progress) {})
}

// packed is a directory, which must be an OCI layout, as the archive of it.
func packed(dir string) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		t := tar.NewWriter(w)
		w.CloseWithError(errors.Join(t.AddFS(os.DirFS(dir)), t.Close()))
	}()
	return r
}

func imageList() *cobra.Command {
	var w where
	var out string
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the images on this node", Args: cobra.NoArgs,
		Example: `  sudo proa image ls
  sudo proa image ls -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withImages(w, func(images control.Images) error {
				list, err := images.List()
				if err != nil {
					return err
				}
				if out == "json" {
					return printJSON(cmd.OutOrStdout(), list)
				}
				t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
				fmt.Fprintln(t, "IMAGE\tID\tSIZE\tCREATED")
				for _, i := range list {
					fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", nameOf(i), shortID(i.ID), size(i.Size), age(i.Created))
				}
				return t.Flush()
			})
		},
	}
	w.flags(cmd)
	outputFlag(cmd, &out)
	return cmd
}

func imageRemove() *cobra.Command {
	var w where
	cmd := &cobra.Command{
		Use: "rm IMAGE…", Aliases: []string{"remove"}, Short: "Remove images by name or ID", Args: cobra.MinimumNArgs(1),
		Example: `  sudo proa image rm app:1.0`,
		RunE: func(cmd *cobra.Command, refs []string) error {
			return withImages(w, func(images control.Images) error {
				for _, ref := range refs {
					if err := images.Remove(ref); err != nil {
						return err
					}
					fmt.Fprintln(cmd.OutOrStdout(), "removed", ref)
				}
				return nil
			})
		},
	}
	w.flags(cmd)
	return cmd
}

func imagePrune() *cobra.Command {
	var w where
	var out string
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove the images that no container uses", Args: cobra.NoArgs,
		Example: `  sudo proa image prune`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withImages(w, func(images control.Images) error {
				done, err := images.Prune()
				if err != nil {
					return err
				}
				if out == "json" {
					return printJSON(cmd.OutOrStdout(), done)
				}
				for _, i := range done.Images {
					fmt.Fprintln(cmd.OutOrStdout(), "removed", nameOf(i))
				}
				fmt.Fprintln(cmd.OutOrStdout(), "freed", size(done.Freed))
				return nil
			})
		},
	}
	w.flags(cmd)
	outputFlag(cmd, &out)
	return cmd
}

func nameOf(i image.Image) string {
	if len(i.Names) > 0 {
		return i.Names[0]
	}
	return shortID(i.ID)
}

func shortID(id string) string {
	const algorithm, digits = len("sha256:"), 12
	if len(id) < algorithm+digits {
		return id
	}
	return id[algorithm : algorithm+digits]
}

func age(created time.Time) string {
	if created.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(created)) + " ago"
}

func size(bytes int64) string {
	const mib = 1 << 20
	if bytes < mib {
		return fmt.Sprintf("%.1f KiB", float64(bytes)/1024)
	}
	return fmt.Sprintf("%.1f MiB", float64(bytes)/mib)
}
