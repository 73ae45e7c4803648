package endpoint

import (
	certificatesv1 "k8s.io/api/certificates/v1"

	"proa/api"
	"proa/auth"
)

// stampRequester writes into a request for a certificate who makes it: approval
// rests on that, so what the client says of itself does not count.
func stampRequester(u auth.User, obj api.Object) {
	csr, ok := obj.(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return
	}
	csr.Spec.Username, csr.Spec.UID, csr.Spec.Groups, csr.Spec.Extra = u.Name, u.UID, u.Groups, nil
	for key, values := range u.Extra {
		if csr.Spec.Extra == nil {
			csr.Spec.Extra = map[string]certificatesv1.ExtraValue{}
		}
		csr.Spec.Extra[key] = values
	}
}
