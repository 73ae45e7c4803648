package pki

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"proa/internal/atomicfile"
)

// ContextName names the cluster, user and context in the kubeconfigs made here.
const ContextName = "proa"

// Kubeconfig writes a kubeconfig for the user to file, unless the one that is
// there points at the same server with a certificate that is still good. It
// returns whether it wrote.
func (a *Authority) Kubeconfig(file, server, user string, groups ...string) (bool, error) {
	if have, err := clientcmd.LoadFromFile(file); err == nil && a.current(have, server) {
		return false, nil
	}
	return true, a.writeKubeconfig(file, server, user, groups)
}

// RenewKubeconfig gives the kubeconfig in file a new certificate by the authority
// in dir; the server that it points at stays.
func RenewKubeconfig(dir, file, user string, groups ...string) error {
	have, err := clientcmd.LoadFromFile(file)
	if err != nil {
		return err
	}
	if have.Clusters[ContextName] == nil {
		return fmt.Errorf("%s has no cluster %q", file, ContextName)
	}
	a, err := openNamed(dir, ClusterAuthority)
	if err != nil {
		return err
	}
	return a.writeKubeconfig(file, have.Clusters[ContextName].Server, user, groups)
}

func (a *Authority) writeKubeconfig(file, server, user string, groups []string) error {
	cert, key, err := a.Client(user, groups...)
	if err != nil {
		return err
	}
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters[ContextName] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: a.pem}
	cfg.AuthInfos[ContextName] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	cfg.Contexts[ContextName] = &clientcmdapi.Context{Cluster: ContextName, AuthInfo: ContextName}
	cfg.CurrentContext = ContextName
	data, err := clientcmd.Write(*cfg)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(file, data, 0o600)
}

func (a *Authority) current(cfg *clientcmdapi.Config, server string) bool {
	cluster, user := cfg.Clusters[ContextName], cfg.AuthInfos[ContextName]
	return cluster != nil && user != nil && cluster.Server == server &&
		string(cluster.CertificateAuthorityData) == string(a.pem) &&
		!a.NeedsRenewal(user.ClientCertificateData, time.Now())
}
