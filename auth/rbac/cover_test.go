package rbac

import (
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"proa/auth"
)

func rulesOfText(t *testing.T, text string) []rbacv1.PolicyRule {
	t.Helper()
	objs, err := parseRoles("ClusterRole x y z\n" + text)
	if err != nil {
		t.Fatal(err)
	}
	return objs[0].(*rbacv1.ClusterRole).Rules
}

func TestUncovered(t *testing.T) {
	for _, c := range []struct{ name, held, asked, missing string }{
		{"the same", "\tget core pods", "\tget core pods", ""},
		{"more verbs", "\tget core pods", "\tget,list,watch core pods", `{APIGroups:[""], Resources:["pods"], Verbs:["list" "watch"]}`},
		{"all verbs are more than some", "\tread core pods", "\t* core pods", `{APIGroups:[""], Resources:["pods"], Verbs:["*"]}`},
		{"from several rules", "\tget core pods\n\tget apps deployments", "\tget core,apps pods,deployments",
			`{APIGroups:[""], Resources:["deployments"], Verbs:["get"]} {APIGroups:["apps"], Resources:["pods"], Verbs:["get"]}`},
		{"any resource", "\tget * *", "\tget core,apps pods,pods/log", ""},
		{"a subresource is no resource", "\tget core pods", "\tget core pods/log", `{APIGroups:[""], Resources:["pods/log"], Verbs:["get"]}`},
		{"a subresource of anything", "\tget core */log", "\tget core pods/log", ""},
		{"named", "\tget core secrets named a,b", "\tget core secrets named a", ""},
		{"not named", "\tget core secrets named a", "\tget core secrets", `{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}`},
		{"otherwise named", "\tget core secrets named a", "\tget core secrets named c", `{APIGroups:[""], Resources:["secrets"], ResourceNames:["c"], Verbs:["get"]}`},
		{"paths", "\tget /healthz/*", "\tget /healthz/etcd,/metrics", `{NonResourceURLs:["/metrics"], Verbs:["get"]}`},
		{"a path is no resource", "\tget *", "\tget core pods", `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`},
		{"nothing asked", "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, m := range Uncovered(rulesOfText(t, c.held), rulesOfText(t, c.asked)) {
				got = append(got, Describe(m))
			}
			if s := strings.Join(got, " "); s != c.missing {
				t.Errorf("missing %s\n   want %s", s, c.missing)
			}
		})
	}
}

func TestEscalationSaysWhatIsMissing(t *testing.T) {
	err := Escalation(auth.User{Name: "ann", Groups: []string{"dev"}}, rulesOfText(t, "\tget core pods"), rulesOfText(t, "\tget core pods,secrets\n\tget /x"))
	want := "user \"ann\" (groups=[\"dev\"]) is attempting to grant RBAC permissions not currently held:\n" +
		"{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}\n{NonResourceURLs:[\"/x\"], Verbs:[\"get\"]}"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}
