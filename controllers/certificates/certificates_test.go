package certificates

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"regexp"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"proa/auth"
	"proa/auth/pki"
	"proa/client"
	"proa/controllers/simulation"
)

func request(t *testing.T, name, signer string, template x509.CertificateRequest, usages ...certificatesv1.KeyUsage) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{
		SignerName: signer, Usages: usages, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}}
}

var (
	nodeName   = pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}}
	clientUses = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	serverUses = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageServerAuth}
)

// decide writes conditions as an approver does.
func decide(t *testing.T, ctx context.Context, w *simulation.Cluster, name string, types ...certificatesv1.RequestConditionType) {
	t.Helper()
	next := client.Get[certificatesv1.CertificateSigningRequest](w.View(), "", name).DeepCopy()
	for _, typ := range types {
		next.Status.Conditions = append(next.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: typ, Status: corev1.ConditionTrue, LastUpdateTime: metav1.Now()})
	}
	if _, err := w.Update(ctx, next, "approval"); err != nil {
		t.Fatal(err)
	}
}

func authority(t *testing.T) *pki.Authority {
	t.Helper()
	ca, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// TestSignersRules asks each signer for what it gives and for what it must not.
func TestSignersRules(t *testing.T) {
	const apiserver, kubelet, serving = certificatesv1.KubeAPIServerClientSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName
	ca := authority(t)
	ann := x509.CertificateRequest{Subject: pkix.Name{CommonName: "ann", Organization: []string{"dev"}}}
	node, named := x509.CertificateRequest{Subject: nodeName}, x509.CertificateRequest{Subject: nodeName, DNSNames: []string{"n1"}}
	for _, c := range []struct {
		name, signer string
		req          x509.CertificateRequest
		usages       []certificatesv1.KeyUsage
		failed       string
	}{
		{"a person", apiserver, ann, clientUses, ""},
		{"a person's server", apiserver, ann, serverUses, "invalid usage for client certificate: server auth"},
		{"of no use", apiserver, ann, serverUses[:1], "missing required usage for client certificate: client auth"},
		{"a kubelet", kubelet, node, clientUses, ""},
		{"a person as a kubelet", kubelet, ann, clientUses, "subject organization is not system:nodes"},
		{"a kubelet with a name", kubelet, named, clientUses, "DNS subjectAltNames are not allowed"},
		{"a kubelet that serves", kubelet, node, serverUses, "usages did not match [client auth digital signature]"},
		{"a serving kubelet", serving, named, serverUses, ""},
		{"a serving kubelet without a name", serving, node, serverUses, "DNS or IP subjectAltName is required"},
		{"anything", legacyUnknown, ann, serverUses, ""},
		{"a stranger's signer", "example.com/own", ann, clientUses, "-"},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulation.Run(t, nil, func(ctx context.Context, w *simulation.Cluster) {
				if _, err := w.Create(ctx, request(t, "r", c.signer, c.req, c.usages...)); err != nil {
					t.Fatal(err)
				}
				decide(t, ctx, w, "r", certificatesv1.CertificateApproved)
				time.Sleep(time.Second)
				got := client.Get[certificatesv1.CertificateSigningRequest](w.View(), "", "r")
				switch {
				case c.failed == "-":
					if len(got.Status.Certificate) > 0 || len(got.Status.Conditions) != 1 {
						t.Errorf("was answered: %+v", got.Status)
					}
				case c.failed != "":
					if n := len(got.Status.Conditions); n != 2 || got.Status.Conditions[1].Type != certificatesv1.CertificateFailed || got.Status.Conditions[1].Message != c.failed {
						t.Errorf("conditions %+v", got.Status.Conditions)
					}
				default:
					checkSigned(t, ca, got, c.req)
				}
			}, Signer(ca))
		})
	}
}

func checkSigned(t *testing.T, ca *pki.Authority, csr *certificatesv1.CertificateSigningRequest, req x509.CertificateRequest) {
	t.Helper()
	block, _ := pem.Decode(csr.Status.Certificate)
	if block == nil {
		t.Fatalf("no certificate: %+v", csr.Status)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	block, _ = pem.Decode(ca.PEM())
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := cert.CheckSignatureFrom(root); err != nil {
		t.Error(err)
	}
	if cert.Subject.String() != req.Subject.String() || len(cert.DNSNames) != len(req.DNSNames) || cert.IsCA {
		t.Errorf("certificate %s %v", cert.Subject, cert.DNSNames)
	}
}

func TestLifeIsWhatWasAskedFor(t *testing.T) {
	ca := authority(t)
	for asked, want := range map[int32]time.Duration{0: maxLife, 3600: time.Hour, 600: minLife, 1 << 30: maxLife} {
		csr := request(t, "r", legacyUnknown, x509.CertificateRequest{Subject: nodeName}, clientUses...)
		if asked != 0 {
			csr.Spec.ExpirationSeconds = ptr.To(asked)
		}
		req, err := parse(csr)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		data, err := ca.Sign(requested(req, csr), now)
		if err != nil {
			t.Fatal(err)
		}
		if end, _ := expires(data); end.Sub(now) > want || end.Sub(now) < want-6*time.Minute {
			t.Errorf("asked for %d s: good for %v, want %v", asked, end.Sub(now), want)
		}
	}
}

// TestKubeletsAreApproved: who may have a node's certificate gets it, also when
// the permission comes later.
func TestKubeletsAreApproved(t *testing.T) {
	var allowed sync.Map
	may := func(a auth.Attributes) bool {
		_, ok := allowed.Load(a.User.Name + " " + a.Subresource)
		return ok && a.Resource == "certificatesigningrequests" && a.Verb == "create"
	}
	ca := authority(t)
	simulation.Run(t, nil, func(ctx context.Context, w *simulation.Cluster) {
		state := func(name string) string {
			time.Sleep(time.Second)
			csr := client.Get[certificatesv1.CertificateSigningRequest](w.View(), "", name)
			if !has(csr, certificatesv1.CertificateApproved) {
				return "waits"
			}
			if len(csr.Status.Certificate) == 0 {
				return "approved"
			}
			return csr.Status.Conditions[0].Message
		}
		ask := func(name, user string, req x509.CertificateRequest, usages []certificatesv1.KeyUsage) string {
			csr := request(t, name, certificatesv1.KubeAPIServerClientKubeletSignerName, req, usages...)
			csr.Spec.Username = user
			if _, err := w.Create(ctx, csr); err != nil {
				t.Fatal(err)
			}
			return state(name)
		}
		node := x509.CertificateRequest{Subject: nodeName}
		if s := ask("early", "system:bootstrap:abcdef", node, clientUses); s != "waits" {
			t.Error("without permission:", s)
		}
		allowed.Store("system:bootstrap:abcdef nodeclient", true)
		allowed.Store("system:node:n1 selfnodeclient", true)
		if s := ask("own", "system:node:n1", node, clientUses); s != "Auto approving self kubelet client certificate after SubjectAccessReview." {
			t.Error("its own:", s)
		}
		if s := ask("first", "system:bootstrap:abcdef", node, clientUses); s != "Auto approving kubelet client certificate after SubjectAccessReview." {
			t.Error("the first:", s)
		}
		if s := ask("other", "system:node:n2", node, clientUses); s != "waits" {
			t.Error("another node's:", s)
		}
		if s := ask("wide", "system:node:n1", node, serverUses); s != "waits" {
			t.Error("with a server's usages:", s)
		}
		if s := state("early"); s != "waits" {
			t.Error("before anything changed:", s)
		}
		if _, err := w.Create(ctx, bindingOf("b")); err != nil {
			t.Fatal(err)
		}
		if s := state("early"); s == "waits" {
			t.Error("the late permission:", s)
		}
	}, Approver(may), Signer(ca))
}

// TestRequestsAreClearedAway follows requests to their ends.
func TestRequestsAreClearedAway(t *testing.T) {
	ca := authority(t)
	simulation.Run(t, nil, func(ctx context.Context, w *simulation.Cluster) {
		there := func(name string) bool {
			return client.Get[certificatesv1.CertificateSigningRequest](w.View(), "", name) != nil
		}
		req := x509.CertificateRequest{Subject: nodeName}
		for name, signer := range map[string]string{"pending": legacyUnknown, "denied": legacyUnknown, "issued": legacyUnknown, "unissued": "example.com/x"} {
			if _, err := w.Create(ctx, request(t, name, signer, req, clientUses...)); err != nil {
				t.Fatal(err)
			}
		}
		decide(t, ctx, w, "denied", certificatesv1.CertificateDenied)
		decide(t, ctx, w, "issued", certificatesv1.CertificateApproved)
		decide(t, ctx, w, "unissued", certificatesv1.CertificateApproved)
		for _, step := range []struct {
			after time.Duration
			want  map[string]bool
		}{
			{59 * time.Minute, map[string]bool{"pending": true, "denied": true, "issued": true, "unissued": true}},
			{2 * time.Minute, map[string]bool{"pending": true, "unissued": true}},
			{24 * time.Hour, nil},
		} {
			time.Sleep(step.after)
			for _, name := range []string{"pending", "denied", "issued", "unissued"} {
				if there(name) != step.want[name] {
					t.Errorf("after %v more, %s is there: %v", step.after, name, there(name))
				}
			}
		}
	}, Cleaner(), Signer(ca))
}

var digested = regexp.MustCompile(`^kubernetes\.io:kube-apiserver-serving:[0-9a-f]{24}$`)

func bindingOf(name string) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "x"}}
}

func TestTheAuthorityIsPublished(t *testing.T) {
	was, is := string(authority(t).PEM()), string(authority(t).PEM())
	old := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes.io:kube-apiserver-serving:old"},
		Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: servingSigner, TrustBundle: was}}
	other := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: certificatesv1.ClusterTrustBundleSpec{TrustBundle: was}}
	simulation.Run(t, nil, func(ctx context.Context, w *simulation.Cluster) {
		for _, o := range []client.Object{old, other, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceSystem}}} {
			if _, err := w.Create(ctx, o); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		var names []string
		for b := range client.List[certificatesv1.ClusterTrustBundle](w.View(), "") {
			names = append(names, b.Name)
			if (b.Name == "mine") != (b.Spec.TrustBundle == was) || (b.Name != "mine") != (b.Spec.TrustBundle == is) {
				t.Errorf("%s holds the wrong authority", b.Name)
			}
		}
		if len(names) != 2 || !digested.MatchString(names[0]) || names[1] != "mine" {
			t.Errorf("bundles %q", names)
		}
		before := w.View().Revision()
		time.Sleep(time.Hour)
		if w.View().Revision() != before {
			t.Error("writes although nothing happened")
		}
	}, Publisher([]byte(is)))
}
