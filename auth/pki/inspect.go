package pki

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// Certificate is what there is to know of a certificate that a cluster keeps.
type Certificate struct {
	Name string `json:"name"`
	// Use says what it is for, Renewal what happens before it expires.
	Use     string    `json:"use"`
	Renewal string    `json:"renewal"`
	File    string    `json:"file,omitempty"`
	Subject string    `json:"subject"`
	Issuer  string    `json:"issuer"`
	Begins  time.Time `json:"begins"`
	Expires time.Time `json:"expires"`
	// Replaced says that another signs in its place, and it is only trusted.
	Replaced bool `json:"replaced,omitempty"`
}

// Describe is what a certificate says of itself.
func Describe(c *x509.Certificate) Certificate {
	return Certificate{Subject: c.Subject.CommonName, Issuer: c.Issuer.CommonName, Begins: c.NotBefore, Expires: c.NotAfter}
}

// Inspect lists the certificates in dir and that of the user in kubeconfig, which
// may be missing. Nothing is made or changed.
func Inspect(dir, kubeconfig string) (out []Certificate, err error) {
	for name, use := range map[string]string{
		ClusterAuthority: "signs what servers and clients show", FrontProxyAuthority: "vouches for this server to extension API servers",
	} {
		found, err := inspectAuthority(dir, name, use)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	cfg, err := clientcmd.LoadFromFile(kubeconfig)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	if user := cfg.AuthInfos[ContextName]; user != nil && len(user.ClientCertificateData) > 0 {
		c, err := parse(user.ClientCertificateData)
		if err != nil {
			return nil, err
		}
		d := Describe(c)
		d.Name, d.Use, d.File = "kubeconfig", "the administrator's kubectl", kubeconfig
		d.Renewal = "at a start of proa in its last third, or by `proa certs rotate kubeconfig`"
		out = append(out, d)
	}
	return out, nil
}

func inspectAuthority(dir, name, use string) (out []Certificate, err error) {
	a := &Authority{name: name, roots: x509.NewCertPool()}
	k, err := readKeys(filepath.Join(dir, name+".key"))
	if err != nil {
		return nil, err
	}
	a.key = k[0]
	if err := a.read(dir); err != nil {
		return nil, err
	}
	for _, c := range a.trusted {
		d := Describe(c)
		d.Name, d.Use, d.File = name, use, filepath.Join(dir, name+".crt")
		d.Renewal = "by `proa certs rotate " + name + "`"
		if d.Replaced = !c.Equal(a.cert); d.Replaced {
			d.Use, d.Renewal = "trusted until the rotation is finished", "none: `proa certs rotate "+name+" --finish` drops it"
		}
		out = append(out, d)
	}
	return out, nil
}
