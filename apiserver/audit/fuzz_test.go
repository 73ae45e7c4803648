package audit

import (
	"testing"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"proa/auth"
)

// FuzzPolicy reads made-up policies: one that is taken has a level for every
// request.
func FuzzPolicy(f *testing.F) {
	f.Add("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: Metadata\n  resources: [{group: '', resources: ['pods/*', '*']}]\n", "pods", "/x")
	f.Add("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: None\n  nonResourceURLs: ['/x*', '*']\n  users: [a]\n  userGroups: [b]\n", "", "/xy")
	f.Add("rules: [{level: 1}]", "", "")
	f.Fuzz(func(t *testing.T, text, resource, path string) {
		p, err := ParsePolicy([]byte(text))
		if err != nil {
			return
		}
		for _, a := range []auth.Attributes{{ResourceRequest: true, Resource: resource, Verb: "get", Namespace: "n"}, {Path: path, Verb: "get"}} {
			r := p.find(&a)
			if r == nil {
				continue // what no rule names is not recorded
			}
			switch r.Level {
			case auditv1.LevelNone, auditv1.LevelMetadata, auditv1.LevelRequest, auditv1.LevelRequestResponse:
			default:
				t.Errorf("%q: level %q for %+v", text, r.Level, a)
			}
		}
	})
}
