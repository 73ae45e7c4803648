package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"proa/auth"
	"proa/auth/pki"
	"proa/control"
	"proa/doctor"
)

func certsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "certs", Short: "When certificates expire, and new ones before they do",
		Long: `What servers and clients inside the cluster show is made in memory and anew in
the last third of its life, while running: nobody has to look after it. Kept in
files, and listed by "check", are the authorities, which last ten years, and the
administrator's kubeconfig, which every start renews in its last third.`,
		Example: `  sudo proa certs check                   every certificate: what for, until when, what renews it
  sudo proa certs rotate kubeconfig       a new certificate for the administrator, now
  sudo proa certs rotate ca               a new authority beside the old one, from the next start
  sudo proa certs rotate ca --finish      and the old one no longer`,
	}
	cmd.AddCommand(certsCheck(), certsRotate())
	return cmd
}

// certs says where a cluster's certificates are, and how to reach it if it runs.
type certs struct {
	dir, kubeconfig, server string
	node                    bool // it has a kubelet, too
}

func (w where) certs() (c certs, err error) {
	i, err := w.find()
	if err == control.ErrNone {
		dataDir, _ := w.or()
		return certs{filepath.Join(dataDir, "pki"), filepath.Join(dataDir, "kubeconfig"), "", false}, nil
	}
	return certs{filepath.Join(i.DataDir, "pki"), i.Kubeconfig, i.Server, i.Node != ""}, err
}

// certLine is a line of check.
type certLine struct {
	pki.Certificate
	// Left is the time until it expires, in seconds; negative if it has.
	Left   float64 `json:"secondsLeft"`
	Status string  `json:"status"`
}

func certsCheck() *cobra.Command {
	var w where
	var out string
	var within time.Duration
	cmd := &cobra.Command{
		Use: "check", Short: "List certificates with their expiry; fail if one has expired or soon will", Args: cobra.NoArgs,
		Example: `  sudo proa certs check
  sudo proa certs check --within 2160h    fail 90 days before one expires
  sudo proa certs check -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := w.certs()
			if err != nil {
				return err
			}
			found, err := c.list(cmd.Context())
			if err != nil {
				return err
			}
			lines, bad := judge(found, time.Now(), within)
			if out == "json" {
				err = printJSON(cmd.OutOrStdout(), lines)
			} else {
				err = printCerts(cmd, lines)
			}
			if err == nil && bad > 0 {
				err = fmt.Errorf("%d of %d certificates have expired or will within %v", bad, len(lines), within)
			}
			return err
		},
	}
	cmd.Flags().DurationVar(&within, "within", 30*24*time.Hour, "how soon is too soon")
	w.flags(cmd)
	outputFlag(cmd, &out)
	return cmd
}

// list is what the files hold, and what the server shows if it runs.
func (c certs) list(ctx context.Context) ([]pki.Certificate, error) {
	found, err := pki.Inspect(c.dir, c.kubeconfig)
	if os.IsNotExist(err) {
		return nil, fmt.Errorf("there is no cluster in %s: %w", filepath.Dir(c.dir), err)
	}
	if err != nil {
		return nil, err
	}
	if c.server != "" {
		shown, err := c.shown(ctx)
		if err != nil {
			return nil, err
		}
		found = append(found, shown...)
	}
	slices.SortFunc(found, func(a, b pki.Certificate) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), b.Begins.Compare(a.Begins))
	})
	return found, nil
}

// shown are the certificates that clients of the running instance see.
func (c certs) shown(ctx context.Context) (out []pki.Certificate, err error) {
	u, err := url.Parse(c.server)
	if err != nil {
		return nil, err
	}
	places := []struct{ name, use, address string }{{"api", "what clients of the API see", u.Host}}
	if c.node {
		places = append(places, struct{ name, use, address string }{"kubelet", "what those see who ask the node itself",
			net.JoinHostPort(u.Hostname(), strconv.Itoa(doctor.KubeletPort))})
	}
	for _, p := range places {
		d, err := shownAt(ctx, p.address)
		if err != nil {
			return nil, fmt.Errorf("the certificate of the %s: %w", p.name, err)
		}
		d.Name, d.Use, d.Renewal = p.name, p.use, "by itself in its last third, while running"
		out = append(out, d)
	}
	return out, nil
}

func shownAt(ctx context.Context, address string) (d pki.Certificate, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	// It is looked at, not relied on: whether it is trusted is for its clients.
	conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", address)
	if err != nil {
		return d, err
	}
	defer conn.Close()
	return pki.Describe(conn.(*tls.Conn).ConnectionState().PeerCertificates[0]), nil
}

// judge says how each certificate is, and how many are not well. One that is only
// trusted, or renews itself, is well as long as it has not expired.
func judge(found []pki.Certificate, now time.Time, within time.Duration) (lines []certLine, bad int) {
	for _, c := range found {
		l := certLine{Certificate: c, Left: c.Expires.Sub(now).Seconds(), Status: "ok"}
		switch left := c.Expires.Sub(now); {
		case c.Replaced:
			l.Status = "replaced"
		case left <= 0:
			l.Status, bad = "expired", bad+1
		case left < within:
			l.Status, bad = "expires soon", bad+1
		}
		lines = append(lines, l)
	}
	return lines, bad
}

func printCerts(cmd *cobra.Command, lines []certLine) error {
	t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "NAME\tSTATUS\tEXPIRES\tDAYS LEFT\tFOR\tRENEWED")
	for _, l := range lines {
		fmt.Fprintf(t, "%s\t%s\t%s\t%.0f\t%s\t%s\n", l.Name, l.Status, l.Expires.Format(time.DateOnly), l.Left/86400, l.Use, l.Renewal)
	}
	return t.Flush()
}

func certsRotate() *cobra.Command {
	var w where
	var finish bool
	var out string
	what := []string{"kubeconfig", pki.ClusterAuthority, pki.FrontProxyAuthority, pki.TokenKeys}
	cmd := &cobra.Command{
		Use: "rotate {" + strings.Join(what, "|") + "}", Short: "Replace a certificate or key, at first beside the old one",
		Args: cobra.ExactArgs(1), ValidArgs: what,
		Long: `kubeconfig: the administrator's certificate; the new one is good at once.

ca, front-proxy-ca, service-account: a new authority, or key of service account
tokens. From the next start of proa on it signs, and what the old one has signed
stays good; clients that know only the old authority trust the new one by it.
When all clients have the new authority (pods get it by themselves; kubeconfigs
that were copied elsewhere do not), --finish drops the old one, again from the
next start on. Pods run on while proa restarts.`,
		Example: `  sudo proa certs rotate kubeconfig
  sudo proa certs rotate ca && sudo systemctl restart proa
  sudo proa certs rotate ca --finish && sudo systemctl restart proa`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := w.certs()
			if err != nil {
				return err
			}
			done, err := c.rotate(args[0], finish)
			if err != nil {
				return err
			}
			if out == "json" {
				return printJSON(cmd.OutOrStdout(), done)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), done.say())
			return err
		},
	}
	cmd.Flags().BoolVar(&finish, "finish", false, "drop what the last rotation has replaced")
	w.flags(cmd)
	outputFlag(cmd, &out)
	return cmd
}

// rotated is what a rotation has done.
type rotated struct {
	Rotated  string `json:"rotated"`
	Finished bool   `json:"finished"`
	// Restart says that it takes effect with the next start.
	Restart bool `json:"restart"`
}

func (r rotated) say() string {
	switch {
	case r.Finished:
		return "the old " + r.Rotated + " is dropped; restart proa (pods run on), then only the new one is good"
	case r.Restart:
		return "a new " + r.Rotated + " is beside the old one; restart proa (pods run on), then it signs; when all clients have it, run this again with --finish"
	}
	return "the " + r.Rotated + " has a new certificate, good at once"
}

func (c certs) rotate(what string, finish bool) (done rotated, err error) {
	if _, err := os.Stat(filepath.Join(c.dir, "ca.key")); err != nil {
		return done, fmt.Errorf("there is no cluster in %s: %w", filepath.Dir(c.dir), err)
	}
	done = rotated{Rotated: what, Finished: finish, Restart: what != "kubeconfig"}
	switch {
	case what == "kubeconfig" && finish:
		return done, fmt.Errorf("a rotated kubeconfig needs no --finish")
	case what == "kubeconfig":
		return done, pki.RenewKubeconfig(c.dir, c.kubeconfig, "kubernetes-admin", auth.GroupMasters)
	case finish:
		return done, pki.Finish(c.dir, what)
	}
	return done, pki.Rotate(c.dir, what)
}
