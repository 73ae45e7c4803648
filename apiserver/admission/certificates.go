package admission

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"proa/auth"
)

const signingRequests = "certificates.k8s.io/certificatesigningrequests"

// certificateApproval lets only those approve or deny a request who may "approve"
// for its signer.
func certificateApproval(z auth.Authorizer) Plugin {
	return Plugin{Name: "CertificateApproval", Validate: func(ctx context.Context, r *Request) error {
		csr, ok := r.Old.(*certificatesv1.CertificateSigningRequest)
		if !ok || r.Op != Update || !r.Is(signingRequests, "approval") || maySigner(ctx, z, r.User, "approve", csr.Spec.SignerName) {
			return nil
		}
		return r.Forbidden(fmt.Errorf("user not permitted to approve requests with signerName %q", csr.Spec.SignerName))
	}}
}

// certificateSigning lets only those write a certificate or a condition who may
// "sign" for the request's signer.
func certificateSigning(z auth.Authorizer) Plugin {
	return Plugin{Name: "CertificateSigning", Validate: func(ctx context.Context, r *Request) error {
		if r.Op != Update || !r.Is(signingRequests, "status") {
			return nil
		}
		was, is := r.Old.(*certificatesv1.CertificateSigningRequest), r.Object.(*certificatesv1.CertificateSigningRequest)
		same := bytes.Equal(was.Status.Certificate, is.Status.Certificate) && equality.Semantic.DeepEqual(was.Status.Conditions, is.Status.Conditions)
		if same || maySigner(ctx, z, r.User, "sign", was.Spec.SignerName) {
			return nil
		}
		return r.Forbidden(fmt.Errorf("user not permitted to sign requests with signerName %q", was.Spec.SignerName))
	}}
}

// maySigner asks for the signer itself and for all of its domain.
func maySigner(ctx context.Context, z auth.Authorizer, u auth.User, verb, signer string) bool {
	if z == nil {
		return true
	}
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		d, _, _ := z.Authorize(ctx, auth.Attributes{
			User: u, Verb: verb, Group: certificatesv1.GroupName, Version: "*", Resource: "signers", Name: name, ResourceRequest: true,
		})
		if d == auth.Allow {
			return true
		}
	}
	return false
}

// certificateSubject keeps the signer of API clients from making masters.
func certificateSubject() Plugin {
	return Plugin{Name: "CertificateSubjectRestriction", Validate: func(_ context.Context, r *Request) error {
		csr, ok := r.Object.(*certificatesv1.CertificateSigningRequest)
		if !ok || r.Op != Create || r.Subresource != "" || csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
			return nil
		}
		block, _ := pem.Decode(csr.Spec.Request)
		if block == nil {
			return r.Forbidden(fmt.Errorf("failed to parse CSR: PEM block type must be CERTIFICATE REQUEST"))
		}
		req, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			return r.Forbidden(fmt.Errorf("failed to parse CSR: %w", err))
		}
		if slices.Contains(req.Subject.Organization, auth.GroupMasters) {
			return r.Forbidden(fmt.Errorf("use of %s signer with %s group is not allowed", csr.Spec.SignerName, auth.GroupMasters))
		}
		return nil
	}}
}

// trustBundleAttest lets only those write a signer's trust bundle who may
// "attest" for the signer.
func trustBundleAttest(z auth.Authorizer) Plugin {
	return Plugin{Name: "ClusterTrustBundleAttest", Validate: func(ctx context.Context, r *Request) error {
		is, ok := r.Object.(*certificatesv1.ClusterTrustBundle)
		if !ok || r.Op != Create && r.Op != Update || r.Subresource != "" {
			return nil
		}
		if was, ok := r.Old.(*certificatesv1.ClusterTrustBundle); ok && equality.Semantic.DeepEqual(was.Spec, is.Spec) {
			return nil
		}
		if is.Spec.SignerName == "" || maySigner(ctx, z, r.User, "attest", is.Spec.SignerName) {
			return nil
		}
		return r.Forbidden(fmt.Errorf("user not permitted to attest for signerName %q", is.Spec.SignerName))
	}}
}
