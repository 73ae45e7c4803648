package api

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func certificatesRows() []*Resource {
	return []*Resource{certificateSigningRequestRow(), clusterTrustBundleRow(), podCertificateRequestRow()}
}

func certificateSigningRequestRow() *Resource {
	spec := certificatesv1.CertificateSigningRequestSpec{}.SwaggerDoc()
	return kind[*certificatesv1.CertificateSigningRequest]{
		GroupVersion: certificatesv1.SchemeGroupVersion, Plural: "certificatesigningrequests", Short: []string{"csr"},
		List:   &certificatesv1.CertificateSigningRequestList{},
		Name:   pathSegment,
		Status: true,
		// A request never changes.
		PrepareUpdate: func(c, old *certificatesv1.CertificateSigningRequest) { c.Spec = old.Spec },
		PrepareStatus: prepareSigningStatus,
		Validate:      validateSigningRequest,
		ValidateStatus: func(c, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
			return append(validateSigningConditions(c, old), validateIssued(c, old)...)
		},
		Subresources: []Subresource{endpoint("approval", []string{"get", "patch", "update"}, prepareApproval, validateSigningConditions)},
		Fields: func(c *certificatesv1.CertificateSigningRequest) fields.Set {
			return fields.Set{"spec.signerName": c.Spec.SignerName}
		},
		Columns: columns(nameColumn, ageColumn,
			column("SignerName", "string", spec["signerName"]),
			column("Requestor", "string", spec["request"]),
			column("RequestedDuration", "string", spec["expirationSeconds"]),
			column("Condition", "string", certificatesv1.CertificateSigningRequestStatus{}.SwaggerDoc()["conditions"])),
		Cells: func(c *certificatesv1.CertificateSigningRequest, now time.Time) []any {
			asked := none
			if s := c.Spec.ExpirationSeconds; s != nil {
				asked = duration.HumanDuration(time.Duration(*s) * time.Second)
			}
			return []any{c.Name, age(c, now), orElse(c.Spec.SignerName, none), c.Spec.Username, asked, signingCell(&c.Status)}
		},
	}.row()
}

func signingCell(s *certificatesv1.CertificateSigningRequestStatus) string {
	var list []string
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		for _, c := range s.Conditions {
			if c.Type == t {
				list = append(list, string(t))
				break
			}
		}
	}
	if len(list) == 0 {
		list = append(list, "Pending")
	}
	if len(s.Certificate) > 0 {
		list = append(list, "Issued")
	}
	return strings.Join(list, ",")
}

// prepareSigningStatus: who writes the status neither approves nor denies.
func prepareSigningStatus(c, old *certificatesv1.CertificateSigningRequest) {
	keep := func(from []certificatesv1.CertificateSigningRequestCondition, decided bool) []certificatesv1.CertificateSigningRequestCondition {
		return slices.DeleteFunc(slices.Clone(from), func(x certificatesv1.CertificateSigningRequestCondition) bool { return isDecision(x.Type) != decided })
	}
	c.Status.Conditions = append(keep(old.Status.Conditions, true), keep(c.Status.Conditions, false)...)
}

func isDecision(t certificatesv1.RequestConditionType) bool {
	return t == certificatesv1.CertificateApproved || t == certificatesv1.CertificateDenied
}

// prepareApproval: the endpoint writes conditions only.
func prepareApproval(c, old *certificatesv1.CertificateSigningRequest) {
	conditions := c.Status.Conditions
	c.Spec, c.Status, c.Generation = old.Spec, old.Status, old.Generation
	c.Status.Conditions = conditions
}

func validateSigningRequest(c *certificatesv1.CertificateSigningRequest) field.ErrorList {
	s := &c.Spec
	var errs field.ErrorList
	if err := checkRequestPEM(s.Request); err != nil {
		errs = append(errs, field.Invalid(specPath.Child("request"), s.Request, err.Error()))
	}
	at := specPath.Child("usages")
	if len(s.Usages) == 0 {
		errs = append(errs, field.Required(at, "usages must be provided"))
	}
	seen := sets.New[certificatesv1.KeyUsage]()
	for i, u := range s.Usages {
		errs = append(errs, oneOf(u, at.Index(i), keyUsages...)...)
		errs = append(errs, unique(seen, u, at.Index(i))...)
	}
	errs = append(errs, validateSignerName(s.SignerName, specPath.Child("signerName"))...)
	if e := s.ExpirationSeconds; e != nil && *e < 600 {
		errs = append(errs, field.Invalid(specPath.Child("expirationSeconds"), *e, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return errs
}

var keyUsages = []certificatesv1.KeyUsage{
	certificatesv1.UsageAny, certificatesv1.UsageCRLSign, certificatesv1.UsageCertSign, certificatesv1.UsageClientAuth,
	certificatesv1.UsageCodeSigning, certificatesv1.UsageContentCommitment, certificatesv1.UsageDataEncipherment,
	certificatesv1.UsageDecipherOnly, certificatesv1.UsageDigitalSignature, certificatesv1.UsageEmailProtection,
	certificatesv1.UsageEncipherOnly, certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel,
	certificatesv1.UsageIPsecUser, certificatesv1.UsageKeyAgreement, certificatesv1.UsageKeyEncipherment,
	certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC, certificatesv1.UsageOCSPSigning,
	certificatesv1.UsageSMIME, certificatesv1.UsageServerAuth, certificatesv1.UsageSigning, certificatesv1.UsageTimestamping,
}

func checkRequestPEM(data []byte) error {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return fmt.Errorf("PEM block type must be CERTIFICATE REQUEST")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	return req.CheckSignature()
}

// validateSignerName takes "domain/path", the domain with a dot in it.
func validateSignerName(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	domain, path, ok := strings.Cut(name, "/")
	if !ok || strings.Contains(path, "/") || path == "" {
		return field.ErrorList{field.Invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	errs := invalidEach(domain, at, validation.IsDNS1123Subdomain(domain))
	if !strings.Contains(domain, ".") {
		errs = append(errs, field.Invalid(at, domain, "should be a domain with at least two segments separated by dots"))
	}
	for _, segment := range strings.Split(path, ".") {
		if bad := validation.IsDNS1123Label(strings.ToLower(segment)); len(bad) > 0 {
			errs = append(errs, invalidEach(path, at, bad)...)
			break
		}
	}
	return errs
}

func validateSigningConditions(c, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	at := statusPath.Child("conditions")
	var errs field.ErrorList
	seen := map[certificatesv1.RequestConditionType]bool{}
	for i, x := range c.Status.Conditions {
		at := at.Index(i)
		if x.Type == "" {
			errs = append(errs, field.Required(at.Child("type"), ""))
		}
		if seen[x.Type] {
			errs = append(errs, field.Duplicate(at.Child("type"), x.Type))
		}
		seen[x.Type] = true
		if isDecision(x.Type) || x.Type == certificatesv1.CertificateFailed {
			errs = append(errs, requiredOneOf(x.Status, at.Child("status"), corev1.ConditionTrue)...)
		} else {
			errs = append(errs, requiredOneOf(x.Status, at.Child("status"), corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)...)
		}
	}
	if seen[certificatesv1.CertificateApproved] && seen[certificatesv1.CertificateDenied] {
		errs = append(errs, field.Invalid(at, certificatesv1.CertificateDenied, "Approved and Denied conditions are mutually exclusive"))
	}
	for _, x := range old.Status.Conditions {
		if (isDecision(x.Type) || x.Type == certificatesv1.CertificateFailed) && !seen[x.Type] {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("updates may not remove a condition of type %q", x.Type)))
		}
	}
	return errs
}

func validateIssued(c, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	at := statusPath.Child("certificate")
	if len(old.Status.Certificate) > 0 && !slices.Equal(c.Status.Certificate, old.Status.Certificate) {
		return field.ErrorList{field.Forbidden(at, "updates may not set certificate content if existing certificate content is present")}
	}
	if len(c.Status.Certificate) == 0 {
		return nil
	}
	if _, err := parseCertificates(c.Status.Certificate); err != nil {
		return field.ErrorList{field.Invalid(at, "<certificate data>", err.Error())}
	}
	return nil
}

// parseCertificates reads PEM blocks, all of which must be certificates.
func parseCertificates(data []byte) (list []*x509.Certificate, err error) {
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) > 0 {
			return nil, fmt.Errorf("no PEM block headers are permitted")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		list, data = append(list, cert), rest
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("must contain at least one CERTIFICATE PEM block")
	}
	return list, nil
}

func clusterTrustBundleRow() *Resource {
	return kind[*certificatesv1.ClusterTrustBundle]{
		GroupVersion: certificatesv1.SchemeGroupVersion, Plural: "clustertrustbundles",
		List:     &certificatesv1.ClusterTrustBundleList{},
		Name:     trustBundleName,
		Validate: validateClusterTrustBundle,
		ValidateUpdate: func(b, old *certificatesv1.ClusterTrustBundle) field.ErrorList {
			return immutable(b.Spec.SignerName, old.Spec.SignerName, specPath.Child("signerName"))
		},
		Fields: func(b *certificatesv1.ClusterTrustBundle) fields.Set {
			return fields.Set{"spec.signerName": b.Spec.SignerName}
		},
		Columns: columns(nameColumn,
			column("SignerName", "string", certificatesv1.ClusterTrustBundleSpec{}.SwaggerDoc()["signerName"])),
		Cells: func(b *certificatesv1.ClusterTrustBundle, _ time.Time) []any {
			return []any{b.Name, orElse(b.Spec.SignerName, none)}
		},
	}.row()
}

// trustBundleName: the signer's name, colons in the place of slashes, may come
// before the rest.
func trustBundleName(name string, prefix bool) []string {
	parts := strings.Split(name, ":")
	return subdomain(parts[len(parts)-1], prefix)
}

func validateClusterTrustBundle(b *certificatesv1.ClusterTrustBundle) field.ErrorList {
	var errs field.ErrorList
	if signer := b.Spec.SignerName; signer == "" {
		if strings.Contains(b.Name, ":") {
			errs = append(errs, field.Invalid(metaPath.Child("name"), b.Name, "ClusterTrustBundle without signer name must not have \":\" in its name"))
		}
	} else {
		errs = append(errs, validateSignerName(signer, specPath.Child("signerName"))...)
		if want := strings.ReplaceAll(signer, "/", ":") + ":"; !strings.HasPrefix(b.Name, want) {
			errs = append(errs, field.Invalid(metaPath.Child("name"), b.Name, fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s", signer, want)))
		}
	}
	if _, err := parseCertificates([]byte(b.Spec.TrustBundle)); err != nil {
		errs = append(errs, field.Invalid(specPath.Child("trustBundle"), "<value omitted>", err.Error()))
	}
	return errs
}

func podCertificateRequestRow() *Resource {
	spec := certificatesv1.PodCertificateRequestSpec{}.SwaggerDoc()
	return kind[*certificatesv1.PodCertificateRequest]{
		GroupVersion: certificatesv1.SchemeGroupVersion, Plural: "podcertificaterequests", Namespaced: true,
		List:     &certificatesv1.PodCertificateRequestList{},
		Status:   true,
		Validate: validatePodCertificateRequest,
		ValidateUpdate: func(r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
			return immutable(r.Spec, old.Spec, specPath)
		},
		Fields: func(r *certificatesv1.PodCertificateRequest) fields.Set {
			return fields.Set{"spec.signerName": r.Spec.SignerName, "spec.podName": r.Spec.PodName, "spec.nodeName": string(r.Spec.NodeName)}
		},
		Columns: columns(nameColumn,
			column("PodName", "string", spec["podName"]),
			column("ServiceAccountName", "string", spec["serviceAccountName"]),
			column("NodeName", "string", spec["nodeName"]),
			column("SignerName", "string", spec["signerName"]),
			column("State", "string", "Is the request Pending, Issued, Denied or Failed?"),
			column("UnverifiedUserAnnotations", "string", spec["unverifiedUserAnnotations"])),
		Cells: func(r *certificatesv1.PodCertificateRequest, _ time.Time) []any {
			state := "Pending"
			for _, c := range r.Status.Conditions {
				switch c.Type {
				case certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied,
					certificatesv1.PodCertificateRequestConditionTypeFailed:
					state = c.Type
				}
			}
			return []any{r.Name, r.Spec.PodName, r.Spec.ServiceAccountName, string(r.Spec.NodeName), r.Spec.SignerName, state, labelsCell(r.Spec.UnverifiedUserAnnotations)}
		},
	}.row()
}

func validatePodCertificateRequest(r *certificatesv1.PodCertificateRequest) field.ErrorList {
	s := &r.Spec
	errs := validateSignerName(s.SignerName, specPath.Child("signerName"))
	errs = append(errs, named(s.PodName, subdomain, specPath.Child("podName"))...)
	errs = append(errs, required(s.PodUID, specPath.Child("podUID"))...)
	errs = append(errs, named(s.ServiceAccountName, subdomain, specPath.Child("serviceAccountName"))...)
	errs = append(errs, required(s.ServiceAccountUID, specPath.Child("serviceAccountUID"))...)
	errs = append(errs, named(string(s.NodeName), subdomain, specPath.Child("nodeName"))...)
	errs = append(errs, required(s.NodeUID, specPath.Child("nodeUID"))...)
	at := specPath.Child("maxExpirationSeconds")
	switch m := s.MaxExpirationSeconds; {
	case m == nil:
		errs = append(errs, field.Required(at, "must be set"))
	case *m < 3600:
		errs = append(errs, field.Invalid(at, *m, "must be in the range [3600, 7862400]"))
	case *m > 91*24*3600:
		errs = append(errs, field.Invalid(at, *m, "must be in the range [3600, 7862400]"))
	}
	if len(s.StubPKCS10Request) == 0 {
		errs = append(errs, field.Required(specPath.Child("stubPKCS10Request"), ""))
	}
	return errs
}
