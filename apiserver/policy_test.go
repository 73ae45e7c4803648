package apiserver_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	admissionregv1 "k8s.io/api/admissionregistration/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

func constraints(ops, groups, versions, resources string) *admissionregv1.MatchResources {
	return &admissionregv1.MatchResources{ResourceRules: []admissionregv1.NamedRuleWithOperations{{RuleWithOperations: rule(ops, groups, versions, resources)[0]}}}
}

// bound creates a policy and a binding of the same name.
func bound(t *testing.T, cs *kubernetes.Clientset, name string, spec admissionregv1.ValidatingAdmissionPolicySpec, b admissionregv1.ValidatingAdmissionPolicyBindingSpec) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: name}
	if spec.MatchConstraints == nil {
		spec.MatchConstraints = constraints("CREATE,UPDATE", "", "v1", "configmaps")
	}
	_, err := cs.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(t.Context(), &admissionregv1.ValidatingAdmissionPolicy{ObjectMeta: meta, Spec: spec}, metav1.CreateOptions{})
	must(t, err)
	b.PolicyName = name
	if b.ValidationActions == nil {
		b.ValidationActions = []admissionregv1.ValidationAction{admissionregv1.Deny}
	}
	_, err = cs.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(t.Context(), &admissionregv1.ValidatingAdmissionPolicyBinding{ObjectMeta: meta, Spec: b}, metav1.CreateOptions{})
	must(t, err)
}

func unbind(t *testing.T, cs *kubernetes.Clientset) {
	t.Helper()
	must(t, cs.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	must(t, cs.AdmissionregistrationV1().ValidatingAdmissionPolicies().DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
}

func checks(list ...admissionregv1.Validation) admissionregv1.ValidatingAdmissionPolicySpec {
	return admissionregv1.ValidatingAdmissionPolicySpec{Validations: list}
}

// TestValidatingPolicies: what a policy refuses, and in what words.
func TestValidatingPolicies(t *testing.T) {
	h := start(t)
	cs := h.clients(t, runtime.ContentTypeProtobuf)
	cases := []policyCase{
		{"message", func(*admissionregv1.ValidatingAdmissionPolicySpec) {}, "too much data", 422},
		{"forbidden", func(s *admissionregv1.ValidatingAdmissionPolicySpec) {
			s.Validations[0].Reason, s.Validations[0].Message = ptr.To(metav1.StatusReasonForbidden), ""
		}, "failed expression: size(object.data) < 2", 403},
		{"made", func(s *admissionregv1.ValidatingAdmissionPolicySpec) {
			s.Validations[0].MessageExpression = `"there are " + string(variables.n) + " in " + namespaceObject.metadata.name`
		}, "there are 2 in default", 422},
		{"variables", func(s *admissionregv1.ValidatingAdmissionPolicySpec) {
			s.Validations[0].Expression = "variables.n < 2 && variables.twice == 4"
		}, "too much data", 422},
		{"authorizer", func(s *admissionregv1.ValidatingAdmissionPolicySpec) {
			s.Validations[0].Expression = `!authorizer.group("").resource("secrets").namespace("default").check("get").allowed()`
		}, "too much data", 422},
		{"error", func(s *admissionregv1.ValidatingAdmissionPolicySpec) {
			s.Validations[0].Expression = "object.nothing == 1"
		}, "expression 'object.nothing == 1' resulted in error: no such key: nothing", 422},
		{"request", func(s *admissionregv1.ValidatingAdmissionPolicySpec) {
			s.Validations[0].Expression = `request.operation != "CREATE" || request.name != "m" || oldObject != null`
		}, "too much data", 422},
		{"matching", func(s *admissionregv1.ValidatingAdmissionPolicySpec) {
			s.MatchConditions = []admissionregv1.MatchCondition{{Name: "n", Expression: `object.metadata.name == "m"`}}
		}, "too much data", 422},
		{"not-matching", func(s *admissionregv1.ValidatingAdmissionPolicySpec) {
			s.MatchConditions = []admissionregv1.MatchCondition{{Name: "n", Expression: `object.metadata.name == "other"`}}
		}, "", 0},
		{"passed-over", func(s *admissionregv1.ValidatingAdmissionPolicySpec) {
			s.FailurePolicy, s.Validations[0].Expression = ptr.To(admissionregv1.Ignore), "object.nothing == 1"
		}, "", 0},
		{"elsewhere", func(s *admissionregv1.ValidatingAdmissionPolicySpec) {
			s.MatchConstraints = constraints("*", "", "v1", "secrets")
		}, "", 0},
		{"excluded", func(s *admissionregv1.ValidatingAdmissionPolicySpec) {
			s.MatchConstraints = constraints("CREATE", "*", "*", "*")
			s.MatchConstraints.ExcludeResourceRules = constraints("CREATE", "", "v1", "configmaps").ResourceRules
		}, "", 0},
		{"other-name", func(s *admissionregv1.ValidatingAdmissionPolicySpec) {
			s.MatchConstraints = constraints("*", "", "v1", "configmaps")
			s.MatchConstraints.ResourceRules[0].ResourceNames = []string{"x"}
		}, "", 0},
		{"runaway", func(s *admissionregv1.ValidatingAdmissionPolicySpec) {
			s.Variables = append(s.Variables, admissionregv1.Variable{Name: "l", Expression: "[" + strings.Repeat("1,", 500) + "1]"})
			s.Validations[0].Expression = "variables.l.all(a, variables.l.all(b, variables.l.all(c, a + b + c > 0)))"
		}, "cost", 422},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(t, cs) })
	}
}

// policyCase changes a policy that allows one entry of data, and says what a
// config map with two is refused for.
type policyCase struct {
	name string
	spec func(*admissionregv1.ValidatingAdmissionPolicySpec)
	want string
	code int32
}

func (c policyCase) run(t *testing.T, cs *kubernetes.Clientset) {
	spec := checks(admissionregv1.Validation{Expression: "size(object.data) < 2", Message: "too much data"})
	spec.Variables = []admissionregv1.Variable{{Name: "n", Expression: "size(object.data)"}, {Name: "twice", Expression: "variables.n * 2"}}
	c.spec(&spec)
	bound(t, cs, "p", spec, admissionregv1.ValidatingAdmissionPolicyBindingSpec{})
	defer unbind(t, cs)
	_, err := cs.CoreV1().ConfigMaps("default").Create(t.Context(), configMap("m", map[string]string{"a": "1", "b": "2"}), metav1.CreateOptions{})
	if c.want == "" {
		must(t, err)
		must(t, cs.CoreV1().ConfigMaps("default").Delete(t.Context(), "m", metav1.DeleteOptions{}))
		return
	}
	begin := `configmaps "m" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p' denied request: `
	if status := apierrors.APIStatus(nil); !asStatus(err, &status) || status.Status().Code != c.code ||
		!strings.HasPrefix(err.Error(), begin) || !strings.Contains(err.Error(), c.want) {
		t.Errorf("error %v, want %s…%s", err, begin, c.want)
	}
}

// TestPolicyParams: params come by name and by selector, and may be missing.
func TestPolicyParams(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	put := func(ns, name, most string) {
		t.Helper()
		cm := configMap(name, map[string]string{"most": most})
		cm.Labels = map[string]string{"limit": "yes"}
		_, err := cs.CoreV1().ConfigMaps(ns).Create(ctx, cm, metav1.CreateOptions{})
		must(t, err)
	}
	put("default", "limit", "3")
	put("kube-system", "limit", "5")
	spec := checks(admissionregv1.Validation{Expression: "params == null || object.spec.replicas <= int(params.data.most)", MessageExpression: `"at most " + params.data.most + " by " + params.kind`})
	spec.ParamKind = &admissionregv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}
	spec.MatchConstraints = constraints("CREATE", "apps", "v1", "deployments")
	allow, deny := ptr.To(admissionregv1.AllowAction), ptr.To(admissionregv1.DenyAction)
	for _, c := range []struct {
		name string
		ref  *admissionregv1.ParamRef
		kind string
		want string
	}{
		{"own namespace", &admissionregv1.ParamRef{Name: "limit", ParameterNotFoundAction: deny}, "", "at most 3 by ConfigMap"},
		{"other namespace", &admissionregv1.ParamRef{Name: "limit", Namespace: "kube-system", ParameterNotFoundAction: deny}, "", ""},
		{"selector", &admissionregv1.ParamRef{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"limit": "yes"}}, ParameterNotFoundAction: deny}, "", "at most 3"},
		{"missing", &admissionregv1.ParamRef{Name: "none", ParameterNotFoundAction: deny}, "", "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"},
		{"missing is fine", &admissionregv1.ParamRef{Name: "none", ParameterNotFoundAction: allow}, "", ""},
		{"none", nil, "", ""},
		{"unknown kind", &admissionregv1.ParamRef{Name: "limit", ParameterNotFoundAction: deny}, "Widget", "failed to configure binding: paramKind kind"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := *spec.DeepCopy()
			if c.kind != "" {
				s.ParamKind.Kind = c.kind
			}
			bound(t, cs, "p", s, admissionregv1.ValidatingAdmissionPolicyBindingSpec{ParamRef: c.ref})
			defer unbind(t, cs)
			d := deployment("d")
			d.Spec.Replicas = ptr.To[int32](4)
			_, err := cs.AppsV1().Deployments("default").Create(ctx, d, metav1.CreateOptions{DryRun: []string{"All"}})
			if c.want == "" {
				must(t, err)
			} else if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %s", err, c.want)
			}
		})
	}
}

// TestPolicyActions: Warn and Audit let the request pass; bindings narrow.
func TestPolicyActions(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	no := checks(admissionregv1.Validation{Expression: "false", Message: "never"})
	bound(t, cs, "w", no, admissionregv1.ValidatingAdmissionPolicyBindingSpec{ValidationActions: []admissionregv1.ValidationAction{admissionregv1.Warn, admissionregv1.Audit}})
	bound(t, cs, "x", no, admissionregv1.ValidatingAdmissionPolicyBindingSpec{
		MatchResources: &admissionregv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "kube-system"}}}})
	seen := &warnings{}
	cfg := h.config("root")
	cfg.WarningHandler = seen
	warned, err := kubernetes.NewForConfig(cfg)
	must(t, err)
	_, err = warned.CoreV1().ConfigMaps("default").Create(ctx, configMap("m", nil), metav1.CreateOptions{})
	must(t, err)
	if len(seen.texts) != 1 || seen.texts[0] != "Validation failed for ValidatingAdmissionPolicy 'w' with binding 'w': never" {
		t.Errorf("warnings: %q", seen.texts)
	}
	if _, err = cs.CoreV1().ConfigMaps("kube-system").Create(ctx, configMap("m", nil), metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("in the selected namespace: %v", err)
	}
}

// TestPolicySeesScale: a policy on a subresource sees what the client sent there.
func TestPolicySeesScale(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	_, err := cs.AppsV1().Deployments("default").Create(ctx, deployment("d"), metav1.CreateOptions{})
	must(t, err)
	spec := checks(admissionregv1.Validation{Expression: `object.kind == "Scale" && object.spec.replicas - oldObject.spec.replicas < 3`, Message: "too fast"})
	spec.MatchConstraints = constraints("UPDATE", "apps", "v1", "deployments/scale")
	bound(t, cs, "p", spec, admissionregv1.ValidatingAdmissionPolicyBindingSpec{})
	scale := func(n int32) error {
		_, err := cs.AppsV1().Deployments("default").UpdateScale(ctx, "d", &autoscalingv1.Scale{
			ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "default"}, Spec: autoscalingv1.ScaleSpec{Replicas: n}}, metav1.UpdateOptions{})
		return err
	}
	must(t, scale(3))
	if err := scale(9); err == nil || !strings.Contains(err.Error(), "too fast") {
		t.Errorf("scaling by six: %v", err)
	}
}

// mutate creates a mutating policy and its binding.
func mutate(t *testing.T, cs *kubernetes.Clientset, name string, spec admissionregv1.MutatingAdmissionPolicySpec) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: name}
	if spec.ReinvocationPolicy == "" {
		spec.ReinvocationPolicy = admissionregv1.NeverReinvocationPolicy
	}
	_, err := cs.AdmissionregistrationV1().MutatingAdmissionPolicies().Create(t.Context(), &admissionregv1.MutatingAdmissionPolicy{ObjectMeta: meta, Spec: spec}, metav1.CreateOptions{})
	must(t, err)
	_, err = cs.AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Create(t.Context(), &admissionregv1.MutatingAdmissionPolicyBinding{
		ObjectMeta: meta, Spec: admissionregv1.MutatingAdmissionPolicyBindingSpec{PolicyName: name}}, metav1.CreateOptions{})
	must(t, err)
}

func applied(expression string) []admissionregv1.Mutation {
	return []admissionregv1.Mutation{{PatchType: admissionregv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionregv1.ApplyConfiguration{Expression: expression}}}
}

func patched(expression string) []admissionregv1.Mutation {
	return []admissionregv1.Mutation{{PatchType: admissionregv1.PatchTypeJSONPatch, JSONPatch: &admissionregv1.JSONPatch{Expression: expression}}}
}

// TestMutatingPolicies: apply configurations merge by the kind's schema, JSON
// patches apply in order, and what they make is filled in.
func TestMutatingPolicies(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeProtobuf)
	account(t, cs, "default")
	mutate(t, cs, "a-sidecar", admissionregv1.MutatingAdmissionPolicySpec{
		MatchConstraints: constraints("CREATE", "", "v1", "pods"),
		Variables:        []admissionregv1.Variable{{Name: "image", Expression: `"mesh:" + object.metadata.name`}},
		Mutations: append(applied(`Object{spec: Object.spec{initContainers: [
			Object.spec.initContainers{name: "mesh", image: variables.image, restartPolicy: "Always"}]}}`),
			patched(`[JSONPatch{op: "add", path: "/metadata/labels", value: {"patched": "yes"}}]`)...),
	})
	p, err := cs.CoreV1().Pods("default").Create(ctx, podNamed("p"), metav1.CreateOptions{})
	must(t, err)
	if len(p.Spec.InitContainers) != 1 || p.Spec.InitContainers[0].Image != "mesh:p" || p.Spec.InitContainers[0].TerminationMessagePath == "" || len(p.Spec.InitContainers[0].VolumeMounts) != 1 {
		t.Errorf("the sidecar: %+v", p.Spec.InitContainers)
	}
	if p.Labels["patched"] != "yes" || len(p.Spec.Containers) != 1 {
		t.Errorf("labels %v, containers %v", p.Labels, p.Spec.Containers)
	}
	mutate(t, cs, "b-atomic", admissionregv1.MutatingAdmissionPolicySpec{
		MatchConstraints: constraints("CREATE", "", "v1", "services"),
		Mutations:        applied(`Object{spec: Object.spec{externalIPs: ["192.0.2.9"]}}`),
	})
	_, err = cs.CoreV1().Services("default").Create(ctx, service("s", corev1.ServiceTypeClusterIP), metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "policy 'b-atomic' with binding 'b-atomic' denied request: ") || !strings.Contains(err.Error(), "may not mutate atomic arrays, maps or structs") {
		t.Errorf("an atomic list: %v", err)
	}
}

// TestMutatingPolicyRounds: a policy that wants it sees what another one changed.
func TestMutatingPolicyRounds(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	count := func(key string) []admissionregv1.Mutation {
		return patched(fmt.Sprintf(`[JSONPatch{op: "add", path: "/data/%s", value: (has(object.data) && "%s" in object.data ? object.data["%s"] : "") + "+"}]`, key, key, key))
	}
	maps := constraints("CREATE", "", "v1", "configmaps")
	mutate(t, cs, "a", admissionregv1.MutatingAdmissionPolicySpec{MatchConstraints: maps, Mutations: count("a"), ReinvocationPolicy: admissionregv1.IfNeededReinvocationPolicy})
	mutate(t, cs, "b", admissionregv1.MutatingAdmissionPolicySpec{MatchConstraints: maps, Mutations: count("b")})
	made, err := cs.CoreV1().ConfigMaps("default").Create(ctx, configMap("m", map[string]string{"x": "y"}), metav1.CreateOptions{})
	must(t, err)
	if made.Data["a"] != "++" || made.Data["b"] != "+" {
		t.Errorf("%v, want a twice and b once", made.Data)
	}
}

// TestExpressionsAreChecked: what does not compile is refused where it stands.
func TestExpressionsAreChecked(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	refused := func(err error, want ...string) {
		t.Helper()
		if !apierrors.IsInvalid(err) {
			t.Fatalf("not refused as invalid: %v", err)
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%v, want %s", err, w)
			}
		}
	}
	spec := checks(
		admissionregv1.Validation{Expression: "object.x +", Message: "m"},
		admissionregv1.Validation{Expression: "1", Message: "m"},
		admissionregv1.Validation{Expression: "variables.good && params != null", MessageExpression: "2"})
	spec.MatchConstraints = constraints("CREATE", "", "v1", "pods")
	spec.Variables = []admissionregv1.Variable{{Name: "good", Expression: "true"}, {Name: "in", Expression: "nothing"}}
	spec.MatchConditions = []admissionregv1.MatchCondition{{Name: "c", Expression: "variables.good"}}
	spec.AuditAnnotations = []admissionregv1.AuditAnnotation{{Key: "ab", ValueExpression: "1"}}
	_, err := cs.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(ctx, &admissionregv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: spec}, metav1.CreateOptions{})
	refused(err, `spec.validations[0].expression: Invalid value: "object.x +": compilation failed: ERROR: <input>:1:11: Syntax error`,
		`spec.validations[1].expression: Invalid value: "1": must evaluate to bool but got int`, `undeclared reference to 'params'`,
		`spec.validations[2].messageExpression: Invalid value: "2": must evaluate to string`, `spec.variables[1].name: Invalid value: "in": must be a valid CEL identifier`,
		`spec.variables[1].expression: Invalid value: "nothing"`, `spec.matchConditions[0].expression`, `spec.auditAnnotations[0].valueExpression`)
	named := *spec.DeepCopy() // what is no expression is looked at first
	named.AuditAnnotations[0].Key = "a b"
	_, err = cs.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(ctx, &admissionregv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: named}, metav1.CreateOptions{})
	refused(err, `spec.auditAnnotations[0].key: Invalid value: "p/a b"`)
	_, err = cs.AdmissionregistrationV1().MutatingAdmissionPolicies().Create(ctx, &admissionregv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: admissionregv1.MutatingAdmissionPolicySpec{
			MatchConstraints: constraints("CREATE", "", "v1", "pods"), ReinvocationPolicy: admissionregv1.NeverReinvocationPolicy,
			Mutations: append(applied(`Object{spec: 1`), patched(`{"a": 1}`)...),
		}}, metav1.CreateOptions{})
	refused(err, "spec.mutations[0].applyConfiguration.expression", "spec.mutations[1].jsonPatch.expression")
	w := validating("v", admissionregv1.WebhookClientConfig{URL: ptr.To("https://127.0.0.1:1/")}, configMaps)
	w.MatchConditions = []admissionregv1.MatchCondition{{Name: "c", Expression: "object.x == "}}
	_, err = cs.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx,
		&admissionregv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Webhooks: []admissionregv1.ValidatingWebhook{w}}, metav1.CreateOptions{})
	refused(err, `webhooks[0].matchConditions[0].expression: Invalid value: "object.x ==": compilation failed`)
}

// TestPolicyStatus: the types of a policy's expressions are checked against the
// kinds that it names.
func TestPolicyStatus(t *testing.T) {
	h := start(t)
	ctx, cs := t.Context(), h.clients(t, runtime.ContentTypeJSON)
	spec := checks(
		admissionregv1.Validation{Expression: "object.spec.replicas > 1", Message: "m"},
		admissionregv1.Validation{Expression: `object.spec.replicas > "1"`, Message: "m"},
		admissionregv1.Validation{Expression: "object.spec.template.spec.containers.all(c, c.imagine)", Message: "m"})
	spec.MatchConstraints = constraints("CREATE", "apps", "v1", "deployments")
	bound(t, cs, "p", spec, admissionregv1.ValidatingAdmissionPolicyBindingSpec{})
	var status admissionregv1.ValidatingAdmissionPolicyStatus
	for end := time.Now().Add(20 * time.Second); status.TypeChecking == nil && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		p, err := cs.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(ctx, "p", metav1.GetOptions{})
		must(t, err)
		status = p.Status
	}
	if status.TypeChecking == nil || status.ObservedGeneration != 1 || len(status.TypeChecking.ExpressionWarnings) != 2 {
		t.Fatalf("status: %+v", status)
	}
	for i, want := range []string{"found no matching overload for '_>_' applied to '(int, string)'", "undefined field 'imagine'"} {
		w := status.TypeChecking.ExpressionWarnings[i]
		if w.FieldRef != fmt.Sprintf("spec.validations[%d].expression", i+1) || !strings.Contains(w.Warning, want) || !strings.Contains(w.Warning, "apps/v1, Kind=Deployment: ") {
			t.Errorf("%+v, want %s", w, want)
		}
	}
}
