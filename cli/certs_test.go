package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"proa/auth/pki"
)

func TestJudgeCerts(t *testing.T) {
	now := time.Now()
	in := func(d time.Duration) pki.Certificate { return pki.Certificate{Expires: now.Add(d)} }
	replaced := in(-time.Hour)
	replaced.Replaced = true
	lines, bad := judge([]pki.Certificate{in(-time.Second), in(time.Hour), in(48 * time.Hour), replaced}, now, 24*time.Hour)
	var got []string
	for _, l := range lines {
		got = append(got, l.Status)
	}
	if want := "expired,expires soon,ok,replaced"; strings.Join(got, ",") != want || bad != 2 {
		t.Errorf("%v, %d bad; want %s", got, bad, want)
	}
}

// TestCerts checks and rotates what is in a data directory, as a user does.
func TestCerts(t *testing.T) {
	data := t.TempDir()
	run := func(args ...string) (string, error) {
		cmd := rootCommand()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetArgs(append(args, "--data-dir", data, "--run-dir", filepath.Join(data, "run")))
		err := cmd.Execute()
		return out.String(), err
	}
	if _, err := run("certs", "check"); err == nil || !strings.Contains(err.Error(), "no cluster in") {
		t.Errorf("an empty directory: %v", err)
	}
	a, err := pki.Open(filepath.Join(data, "pki"))
	if err == nil {
		_, err = pki.OpenFrontProxy(filepath.Join(data, "pki"))
	}
	if err == nil {
		_, err = a.Kubeconfig(filepath.Join(data, "kubeconfig"), "https://127.0.0.1:1", "kubernetes-admin")
	}
	if err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(filepath.Join(data, "kubeconfig"))
	for _, args := range [][]string{{"certs", "rotate", "ca"}, {"certs", "rotate", "service-account"}, {"certs", "rotate", "kubeconfig"}} {
		if _, err := run(args...); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
	if after, _ := os.ReadFile(filepath.Join(data, "kubeconfig")); bytes.Equal(before, after) {
		t.Error("the kubeconfig was not rotated")
	}
	var lines []certLine
	text, err := run("certs", "check", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(text), &lines); err != nil || len(lines) != 4 {
		t.Errorf("%v: %s", err, text)
	}
	if _, err := run("certs", "check", "--within", "900000h"); err == nil {
		t.Error("certificates that expire within the time asked for are well")
	}
	if _, err := run("certs", "rotate", "nothing"); err == nil {
		t.Error("nothing was rotated")
	}
}

// TestHelp: every command says what it does, and shows how.
func TestHelp(t *testing.T) {
	var look func(cmd *cobra.Command)
	look = func(cmd *cobra.Command) {
		if cmd.Short == "" || cmd.Example == "" {
			t.Errorf("%s has no summary or no example", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			look(sub)
		}
	}
	look(rootCommand())
}
