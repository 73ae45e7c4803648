// Package certificates answers CertificateSigningRequests for the signers that
// Kubernetes reserves: it approves what kubelets ask for themselves, signs what
// is approved and fits its signer's rules, publishes the authority of the API's
// own certificate, and clears away what is done with
// (https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/).
package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/auth"
	"proa/auth/pki"
	"proa/client"
	"proa/reconcile"
)

// maxLife is the longest that a signed certificate is good for, and what it is
// when the request does not say.
const (
	maxLife = 365 * 24 * time.Hour
	minLife = 10 * time.Minute
)

// legacyUnknown is a signer that promises nothing of what it signs.
const legacyUnknown = "kubernetes.io/legacy-unknown"

// Authority signs certificates.
type Authority interface {
	Sign(r pki.Requested, now time.Time) ([]byte, error)
}

// Signer signs approved requests.
func Signer(ca Authority) reconcile.Controller {
	return reconcile.Controller{
		Name:    "certificatesigningrequest-signing-controller",
		Watches: []reconcile.Watch{{Resource: client.Row[certificatesv1.CertificateSigningRequest]()}},
		Decide: func(v client.View, now time.Time, key client.Key) reconcile.Plan {
			return decideSigning(v, now, key, ca)
		},
	}
}

// rules say what a signer's requests must look like.
var rules = map[string]func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error{
	certificatesv1.KubeAPIServerClientSignerName:        apiClient,
	certificatesv1.KubeAPIServerClientKubeletSignerName: kubeletClient,
	certificatesv1.KubeletServingSignerName:             kubeletServing,
	legacyUnknown:                                       func(*x509.CertificateRequest, []certificatesv1.KeyUsage) error { return nil },
}

func has(csr *certificatesv1.CertificateSigningRequest, types ...certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(csr.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
		return slices.Contains(types, c.Type)
	})
}

func decideSigning(v client.View, now time.Time, key client.Key, ca Authority) reconcile.Plan {
	csr := client.Get[certificatesv1.CertificateSigningRequest](v, "", key.Name)
	if csr == nil || csr.DeletionTimestamp != nil || len(csr.Status.Certificate) > 0 || !has(csr, certificatesv1.CertificateApproved) ||
		has(csr, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed) {
		return reconcile.Plan{}
	}
	rule := rules[csr.Spec.SignerName]
	if rule == nil {
		return reconcile.Plan{} // another signer's
	}
	req, err := parse(csr)
	if err != nil {
		return reconcile.Plan{Err: err}
	}
	next := csr.DeepCopy()
	if err := rule(req, csr.Spec.Usages); err != nil {
		next.Status.Conditions = append(next.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: err.Error(),
			LastUpdateTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
		})
	} else if next.Status.Certificate, err = ca.Sign(requested(req, csr), now); err != nil {
		return reconcile.Plan{Err: err}
	}
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Update, Object: next, Subresource: "status"}}}
}

func parse(csr *certificatesv1.CertificateSigningRequest) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

func requested(req *x509.CertificateRequest, csr *certificatesv1.CertificateSigningRequest) pki.Requested {
	out := pki.Requested{Request: req, Life: maxLife}
	if s := csr.Spec.ExpirationSeconds; s != nil {
		out.Life = min(max(time.Duration(*s)*time.Second, minLife), maxLife)
	}
	for _, u := range csr.Spec.Usages {
		out.Usage |= keyUsages[u]
		if e, ok := extUsages[u]; ok {
			out.Ext = append(out.Ext, e)
		}
	}
	return out
}

var keyUsages = map[certificatesv1.KeyUsage]x509.KeyUsage{
	certificatesv1.UsageSigning: x509.KeyUsageDigitalSignature, certificatesv1.UsageDigitalSignature: x509.KeyUsageDigitalSignature,
	certificatesv1.UsageContentCommitment: x509.KeyUsageContentCommitment, certificatesv1.UsageKeyEncipherment: x509.KeyUsageKeyEncipherment,
	certificatesv1.UsageKeyAgreement: x509.KeyUsageKeyAgreement, certificatesv1.UsageDataEncipherment: x509.KeyUsageDataEncipherment,
	certificatesv1.UsageCertSign: x509.KeyUsageCertSign, certificatesv1.UsageCRLSign: x509.KeyUsageCRLSign,
	certificatesv1.UsageEncipherOnly: x509.KeyUsageEncipherOnly, certificatesv1.UsageDecipherOnly: x509.KeyUsageDecipherOnly,
}

var extUsages = map[certificatesv1.KeyUsage]x509.ExtKeyUsage{
	certificatesv1.UsageAny: x509.ExtKeyUsageAny, certificatesv1.UsageServerAuth: x509.ExtKeyUsageServerAuth,
	certificatesv1.UsageClientAuth: x509.ExtKeyUsageClientAuth, certificatesv1.UsageCodeSigning: x509.ExtKeyUsageCodeSigning,
	certificatesv1.UsageEmailProtection: x509.ExtKeyUsageEmailProtection, certificatesv1.UsageSMIME: x509.ExtKeyUsageEmailProtection,
	certificatesv1.UsageIPsecEndSystem: x509.ExtKeyUsageIPSECEndSystem, certificatesv1.UsageIPsecTunnel: x509.ExtKeyUsageIPSECTunnel,
	certificatesv1.UsageIPsecUser: x509.ExtKeyUsageIPSECUser, certificatesv1.UsageTimestamping: x509.ExtKeyUsageTimeStamping,
	certificatesv1.UsageOCSPSigning: x509.ExtKeyUsageOCSPSigning, certificatesv1.UsageMicrosoftSGC: x509.ExtKeyUsageMicrosoftServerGatedCrypto,
	certificatesv1.UsageNetscapeSGC: x509.ExtKeyUsageNetscapeServerGatedCrypto,
}

// uses wants the usages to be the needed ones, key encipherment being free.
func uses(usages []certificatesv1.KeyUsage, need ...certificatesv1.KeyUsage) error {
	rest := slices.DeleteFunc(slices.Clone(usages), func(u certificatesv1.KeyUsage) bool { return u == certificatesv1.UsageKeyEncipherment })
	slices.Sort(rest)
	slices.Sort(need)
	if !slices.Equal(slices.Compact(rest), need) {
		return fmt.Errorf("usages did not match %v", need)
	}
	return nil
}

func apiClient(_ *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	client := false
	for _, u := range usages {
		switch u {
		case certificatesv1.UsageClientAuth:
			client = true
		case certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment:
		default:
			return fmt.Errorf("invalid usage for client certificate: %s", u)
		}
	}
	if !client {
		return fmt.Errorf("missing required usage for client certificate: %s", certificatesv1.UsageClientAuth)
	}
	return nil
}

func nodeSubject(req *x509.CertificateRequest) error {
	if !slices.Equal(req.Subject.Organization, []string{auth.GroupNodes}) {
		return errors.New("subject organization is not system:nodes")
	}
	if !strings.HasPrefix(req.Subject.CommonName, auth.NodeUserPrefix) {
		return errors.New("subject common name does not begin with system:node:")
	}
	return nil
}

func kubeletClient(req *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if err := nodeSubject(req); err != nil {
		return err
	}
	switch {
	case len(req.DNSNames) > 0:
		return errors.New("DNS subjectAltNames are not allowed")
	case len(req.EmailAddresses) > 0:
		return errors.New("Email subjectAltNames are not allowed")
	case len(req.IPAddresses) > 0:
		return errors.New("IP subjectAltNames are not allowed")
	case len(req.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	}
	return uses(usages, certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature)
}

func kubeletServing(req *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if err := nodeSubject(req); err != nil {
		return err
	}
	switch {
	case len(req.DNSNames) == 0 && len(req.IPAddresses) == 0:
		return errors.New("DNS or IP subjectAltName is required")
	case len(req.EmailAddresses) > 0:
		return errors.New("Email subjectAltNames are not allowed")
	case len(req.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	}
	return uses(usages, certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth)
}
