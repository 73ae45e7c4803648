package structured

import (
	"testing"

	"proa/auth"
)

// FuzzFiles reads made-up configuration files: they are taken or refused, and one
// that is taken has what it takes to be asked.
func FuzzFiles(f *testing.F) {
	f.Add([]byte(`{"apiVersion":"apiserver.config.k8s.io/v1","kind":"AuthenticationConfiguration","jwt":[{"issuer":{"url":"https://a.example","audiences":["b"]},
		"claimMappings":{"username":{"expression":"'x' + claims.sub"},"groups":{"claim":"groups","prefix":""}},"claimValidationRules":[{"expression":"claims.hd == 'a'"}]}]}`))
	f.Add([]byte("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous: {enabled: true, conditions: [{path: /livez}]}\n"))
	f.Add([]byte(`{"apiVersion":"apiserver.config.k8s.io/v1","kind":"AuthorizationConfiguration","authorizers":[{"type":"Node","name":"n"},{"type":"RBAC","name":"r"},
		{"type":"Webhook","name":"w","webhook":{"timeout":"3s","subjectAccessReviewVersion":"v1","matchConditionSubjectAccessReviewVersion":"v1","failurePolicy":"Deny",
		"connectionInfo":{"type":"KubeConfigFile","kubeConfigFile":"/nonexistent"},"matchConditions":[{"expression":"request.user == 'x'"}]}}]}`))
	f.Add([]byte("kind: Secret\n"))
	builtin := map[string]auth.Authorizer{"Node": auth.Masters{}, "RBAC": auth.Masters{}}
	f.Fuzz(func(t *testing.T, data []byte) {
		if a, err := buildAuthentication("f", data, []string{"https://kubernetes.default.svc"}); err == nil {
			for _, i := range a.issuers {
				if i == nil {
					t.Errorf("%q makes an issuer that is none", data)
				}
			}
		}
		if a, err := buildAuthorization("f", data, builtin, nil); err == nil && (a == nil || len(*a) == 0) {
			t.Errorf("%q makes no authorizer", data)
		}
	})
}
