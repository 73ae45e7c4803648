package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"proa/client"
	"proa/reconcile"
)

// How long requests are kept: once they are decided and answered, and while they
// wait for that. Pods' requests are answered within seconds or never.
const (
	keepDone    = time.Hour
	keepPending = 24 * time.Hour
	keepPods    = 15 * time.Minute
)

// Cleaner deletes requests that are done with, or that nobody answered.
func Cleaner() reconcile.Controller {
	return reconcile.Controller{
		Name:    "certificatesigningrequest-cleaner-controller",
		Watches: []reconcile.Watch{{Resource: client.Row[certificatesv1.CertificateSigningRequest]()}},
		Decide: func(v client.View, now time.Time, key client.Key) reconcile.Plan {
			csr := client.Get[certificatesv1.CertificateSigningRequest](v, "", key.Name)
			if csr == nil || csr.DeletionTimestamp != nil {
				return reconcile.Plan{}
			}
			return deleteAt(csr, outlived(csr), now)
		},
	}
}

// PodCleaner deletes the requests of pods.
func PodCleaner() reconcile.Controller {
	return reconcile.Controller{
		Name:    "podcertificaterequest-cleaner-controller",
		Watches: []reconcile.Watch{{Resource: client.Row[certificatesv1.PodCertificateRequest]()}},
		Decide: func(v client.View, now time.Time, key client.Key) reconcile.Plan {
			r := client.Get[certificatesv1.PodCertificateRequest](v, key.Namespace, key.Name)
			if r == nil || r.DeletionTimestamp != nil {
				return reconcile.Plan{}
			}
			return deleteAt(r, r.CreationTimestamp.Add(keepPods), now)
		},
	}
}

func deleteAt(obj client.Object, at, now time.Time) reconcile.Plan {
	if now.Before(at) {
		return reconcile.Plan{After: at.Sub(now)}
	}
	return reconcile.Plan{Writes: []reconcile.Write{{Op: reconcile.Delete, Object: obj}}}
}

// outlived is when a request is of no use any more.
func outlived(csr *certificatesv1.CertificateSigningRequest) time.Time {
	end, issued := csr.CreationTimestamp.Add(keepPending), len(csr.Status.Certificate) > 0
	for _, c := range csr.Status.Conditions {
		since := c.LastUpdateTime.Time
		if since.IsZero() {
			since = csr.CreationTimestamp.Time
		}
		switch {
		case c.Type == certificatesv1.CertificateDenied, c.Type == certificatesv1.CertificateFailed, c.Type == certificatesv1.CertificateApproved && issued:
			end = since.Add(keepDone)
		case c.Type == certificatesv1.CertificateApproved:
			end = since.Add(keepPending)
		}
	}
	if expiry, ok := expires(csr.Status.Certificate); ok && expiry.Before(end) {
		return expiry
	}
	return end
}

func expires(data []byte) (time.Time, bool) {
	block, _ := pem.Decode(data)
	if block == nil {
		return time.Time{}, false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, false
	}
	return cert.NotAfter, true
}
