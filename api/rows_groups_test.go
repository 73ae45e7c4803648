package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

// read decodes an object and brings it to where validation sees it.
func read(t *testing.T, text string) (*Resource, Object) {
	t.Helper()
	var id metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(text), &id); err != nil {
		t.Fatal(err)
	}
	s, ok := Builtin().ByGVK(schema.FromAPIVersionAndKind(id.APIVersion, id.Kind))
	if !ok {
		t.Fatalf("no row for %v", id)
	}
	obj := s.New()
	if err := yaml.UnmarshalStrict([]byte(text), obj); err != nil {
		t.Fatal(err)
	}
	if s.Default != nil {
		s.Default(obj)
	}
	obj.SetUID("1234")
	if s.PrepareCreate != nil {
		s.PrepareCreate(obj)
	}
	return s.Resource, obj
}

// told renders errors as "path: reason", in order.
func told(errs field.ErrorList) []string {
	var out []string
	for _, e := range errs {
		out = append(out, fmt.Sprintf("%s: %s", e.Field, strings.TrimPrefix(string(e.Type), "FieldValue")))
	}
	slices.Sort(out)
	return out
}

const podTemplate = `{metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}`

func workload(kind, spec string) string {
	return "apiVersion: apps/v1\nkind: " + kind + "\nmetadata: {name: x, namespace: n}\nspec:\n  template: " + podTemplate + "\n  " + spec
}

// judged is an object and what validation finds in it.
type judged struct {
	text string
	want []string
}

func checkJudged(t *testing.T, cases []judged) {
	t.Helper()
	for _, c := range cases {
		r, obj := read(t, c.text)
		errs := r.Validate(obj)
		if r.ValidateNew != nil {
			errs = append(errs, r.ValidateNew(obj)...)
		}
		if got := told(errs); !slices.Equal(got, c.want) {
			t.Errorf("%s\ngot  %q\nwant %q\n%v", c.text, got, c.want, errs.ToAggregate())
		}
	}
}

// inNamespace and ofCluster begin an object.
func inNamespace(api, kind, rest string) string {
	return "apiVersion: " + api + "\nkind: " + kind + "\nmetadata: {name: x, namespace: n}\n" + rest
}

func ofCluster(api, kind, rest string) string {
	return "apiVersion: " + api + "\nkind: " + kind + "\nmetadata: {name: x}\n" + rest
}

func TestValidateWorkloads(t *testing.T) {
	const selector = "selector: {matchLabels: {a: b}}\n  "
	job := func(spec, restart string) string {
		return "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x, namespace: n}\nspec: {template: {spec: {restartPolicy: " + restart + ", containers: [{name: c, image: i}]}}, " + spec + "}"
	}
	hpa := func(spec string) string {
		return "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: x, namespace: n}\nspec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}, " + spec + "}"
	}
	checkJudged(t, []judged{
		{workload("Deployment", selector), nil},
		{workload("Deployment", "replicas: -1"), []string{"spec.replicas: Invalid", "spec.selector: Required", "spec.template.metadata.labels: Invalid"}},
		{workload("Deployment", "selector: {}"), []string{"spec.selector: Invalid"}},
		{workload("Deployment", "selector: {matchLabels: {a: c}}"), []string{"spec.template.metadata.labels: Invalid"}},
		{workload("Deployment", selector+"strategy: {type: Recreate, rollingUpdate: {}}"), []string{"spec.strategy.rollingUpdate: Forbidden"}},
		{workload("Deployment", selector+"strategy: {type: Other}"), []string{"spec.strategy: NotSupported"}},
		{workload("Deployment", selector+"strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 0%}}"), []string{"spec.strategy.rollingUpdate.maxUnavailable: Invalid"}},
		{workload("Deployment", selector+"strategy: {rollingUpdate: {maxUnavailable: 101%}}"), []string{"spec.strategy.rollingUpdate.maxUnavailable: Invalid"}},
		{workload("Deployment", selector+"minReadySeconds: 600"), []string{"spec.progressDeadlineSeconds: Invalid"}},
		{workload("ReplicaSet", selector), nil},
		{workload("DaemonSet", selector+"updateStrategy: {rollingUpdate: {maxSurge: 1}}"), []string{"spec.updateStrategy.rollingUpdate.maxSurge: Invalid"}},
		{workload("DaemonSet", selector+"updateStrategy: {rollingUpdate: {maxUnavailable: 0}}"), []string{"spec.updateStrategy.rollingUpdate.maxUnavailable: Required"}},
		{workload("StatefulSet", selector+"podManagementPolicy: Other"), []string{"spec.podManagementPolicy: Invalid"}},
		{workload("StatefulSet", selector+"updateStrategy: {type: OnDelete, rollingUpdate: {}}"), []string{"spec.updateStrategy.rollingUpdate: Invalid"}},
		{"apiVersion: apps/v1\nkind: ControllerRevision\nmetadata: {name: x, namespace: n}\nrevision: -1", []string{"data: Required", "revision: Invalid"}},

		{job("backoffLimit: 3", "Never"), nil},
		{job("backoffLimit: 3", "Always"), []string{"spec.template.spec.restartPolicy: Required"}},
		{job("completionMode: Indexed", "Never"), nil}, // completions default to 1
		{job("parallelism: 2, completionMode: Indexed", "Never"), []string{"spec.completions: Required"}},
		{job("maxFailedIndexes: 1", "Never"), []string{"spec.backoffLimitPerIndex: Required", "spec.maxFailedIndexes: Invalid"}},
		{job("podFailurePolicy: {rules: [{action: Ignore}]}", "OnFailure"), []string{"spec.podFailurePolicy.rules[0]: Invalid", "spec.template.spec.restartPolicy: Invalid"}},
		{job("podFailurePolicy: {rules: [{action: FailIndex, onExitCodes: {operator: In, values: [0, 1]}}]}", "Never"),
			[]string{"spec.podFailurePolicy.rules[0].action: Invalid", "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid"}},
		{job("completionMode: Indexed, completions: 5, successPolicy: {rules: [{succeededIndexes: '0-2,4', succeededCount: 5}]}", "Never"),
			[]string{"spec.successPolicy.rules[0].succeededCount: Invalid"}},
		{inNamespace("batch/v1", "CronJob", "spec: {schedule: '* * * *', timeZone: Nowhere/Land, jobTemplate: {spec: {template: "+strings.Replace(podTemplate, "spec: {", "spec: {restartPolicy: Never, ", 1)+"}}}"),
			[]string{"spec.schedule: Invalid", "spec.timeZone: Invalid"}},

		{hpa("maxReplicas: 3"), nil},
		{hpa("maxReplicas: 0"), []string{"spec.maxReplicas: Invalid", "spec.maxReplicas: Required"}},
		{hpa("maxReplicas: 3, metrics: [{type: Resource}]"), []string{"spec.metrics[0].resource: Required"}},
		{hpa("maxReplicas: 3, metrics: [{type: Pods, pods: {metric: {name: m}, target: {type: AverageValue}}}]"),
			[]string{"spec.metrics[0].pods.target.averageValue: Required"}},
		{hpa("maxReplicas: 3, behavior: {scaleDown: {stabilizationWindowSeconds: 3601, policies: [{type: Pods, value: 0, periodSeconds: 1}]}}"),
			[]string{"spec.behavior.scaleDown.policies[0].value: Invalid", "spec.behavior.scaleDown.stabilizationWindowSeconds: Invalid"}},
	})
}

func TestValidateOthers(t *testing.T) {
	checkJudged(t, []judged{
		{inNamespace("coordination.k8s.io/v1", "Lease", "spec: {leaseDurationSeconds: 0, leaseTransitions: -1}"),
			[]string{"spec.leaseDurationSeconds: Invalid", "spec.leaseTransitions: Invalid"}},
		{inNamespace("discovery.k8s.io/v1", "EndpointSlice", "addressType: IPv4\nendpoints: [{addresses: [127.0.0.1]}, {addresses: []}]\nports: [{port: 0}, {port: 1}]"),
			[]string{"endpoints[0].addresses[0]: Invalid", "endpoints[1].addresses: Required", "ports[0].port: Invalid", "ports[1].name: Duplicate"}},
		{inNamespace("policy/v1", "PodDisruptionBudget", "spec: {minAvailable: 1, maxUnavailable: 200%}"), []string{"spec.maxUnavailable: Invalid", "spec: Invalid"}},
		{inNamespace("rbac.authorization.k8s.io/v1", "Role", "rules: [{verbs: [get], nonResourceURLs: [/x]}, {resources: [pods]}]"),
			[]string{"rules[0].nonResourceURLs: Invalid", "rules[1].apiGroups: Required", "rules[1].verbs: Required"}},
		{inNamespace("rbac.authorization.k8s.io/v1", "RoleBinding", "roleRef: {kind: Role}\nsubjects: [{kind: Robot, name: r}, {kind: User, name: u}, {kind: ServiceAccount, name: S}]"),
			[]string{"roleRef.name: Required", "subjects[0].kind: NotSupported", "subjects[2].name: Invalid"}},
		{ofCluster("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "roleRef: {kind: Role, name: r}\nsubjects: [{kind: ServiceAccount, name: s}]"),
			[]string{"roleRef.kind: NotSupported", "subjects[0].namespace: Required"}},

		{inNamespace("networking.k8s.io/v1", "NetworkPolicy", "spec: {podSelector: {}, ingress: [{from: [{}, {ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/24]}}], ports: [{endPort: 3}]}]}"),
			[]string{"spec.ingress[0].from[0]: Required", "spec.ingress[0].from[1].ipBlock.except[0]: Invalid", "spec.ingress[0].ports[0].endPort: Invalid"}},
		{inNamespace("networking.k8s.io/v1", "Ingress", "spec: {rules: [{host: 1.2.3.4, http: {paths: [{path: x, pathType: Prefix, backend: {service: {name: s}}}]}}]}"),
			[]string{"spec.rules[0].host: Invalid", "spec.rules[0].http.paths[0].backend: Required", "spec.rules[0].http.paths[0].path: Invalid"}},
		{ofCluster("scheduling.k8s.io/v1", "PriorityClass", "value: 1000000001"), []string{"value: Forbidden"}},
		{ofCluster("node.k8s.io/v1", "RuntimeClass", "handler: A_"), []string{"handler: Invalid"}},
		{ofCluster("storage.k8s.io/v1", "StorageClass", "reclaimPolicy: Recycle"), []string{"provisioner: Required", "reclaimPolicy: NotSupported"}},
		{ofCluster("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "webhooks: [{name: x, clientConfig: {url: 'http://h'}, rules: [{operations: [CREATE], apiGroups: ['*'], apiVersions: ['*'], resources: [pods]}]}]"),
			[]string{"webhooks[0].admissionReviewVersions: Required", "webhooks[0].clientConfig.url: Invalid", "webhooks[0].name: Invalid", "webhooks[0].sideEffects: Required"}},
		{ofCluster("apiregistration.k8s.io/v1", "APIService", "spec: {group: g.io, version: v1, groupPriorityMinimum: 1, versionPriority: 0}"),
			[]string{"metadata.name: Invalid", "spec.versionPriority: Invalid"}},
		{ofCluster("apiextensions.k8s.io/v1", "CustomResourceDefinition", "spec: {group: g.io, scope: Cluster, names: {plural: xs, kind: X}, versions: [{name: v1, served: true, storage: true}]}"),
			[]string{"metadata.name: Invalid", "spec.versions[0].schema.openAPIV3Schema: Required"}},
		{ofCluster("certificates.k8s.io/v1", "CertificateSigningRequest", "spec: {request: aGk=, signerName: kubernetes.io/kubelet-serving, usages: []}"),
			[]string{"spec.request: Invalid", "spec.usages: Required"}},
		{ofCluster("flowcontrol.apiserver.k8s.io/v1", "PriorityLevelConfiguration", "spec: {type: Limited, limited: {limitResponse: {type: Queue}}}"),
			[]string{"spec.limited.limitResponse.queuing: Required"}},
		{"apiVersion: authorization.k8s.io/v1\nkind: SubjectAccessReview\nspec: {}", []string{"spec.resourceAttributes: Invalid", "spec.user: Invalid"}},
		{"apiVersion: authorization.k8s.io/v1\nkind: LocalSubjectAccessReview\nmetadata: {namespace: a}\nspec: {user: u, resourceAttributes: {namespace: b}}",
			[]string{"spec.resourceAttributes.namespace: Invalid"}},
	})
}

func TestValidateUpdate(t *testing.T) {
	const apps = "apiVersion: apps/v1\nkind: %s\nmetadata: {name: x, namespace: n, resourceVersion: '1'}\nspec: {template: {metadata: {labels: {a: b, c: d}}, spec: {containers: [{name: c, image: i}]}}, %s}"
	for _, c := range []struct {
		before, after string
		want          []string
	}{
		{fmt.Sprintf(apps, "Deployment", "selector: {matchLabels: {a: b}}"), fmt.Sprintf(apps, "Deployment", "selector: {matchLabels: {c: d}}"), []string{"spec.selector: Invalid"}},
		{fmt.Sprintf(apps, "StatefulSet", "selector: {matchLabels: {a: b}}"), fmt.Sprintf(apps, "StatefulSet", "serviceName: s, selector: {matchLabels: {a: b}}"), []string{"spec.serviceName: Invalid"}},
		{fmt.Sprintf(apps, "StatefulSet", "selector: {matchLabels: {a: b}}"), fmt.Sprintf(apps, "StatefulSet", "replicas: 7, selector: {matchLabels: {a: b}}"), nil},
	} {
		r, old := read(t, c.before)
		_, obj := read(t, c.after)
		r.PrepareUpdate(obj, old)
		if got := told(r.ValidateUpdate(obj, old)); !slices.Equal(got, c.want) {
			t.Errorf("%s\ngot  %q\nwant %q", c.after, got, c.want)
		}
		if obj.GetGeneration() != old.GetGeneration()+1 {
			t.Errorf("%s\ngeneration %d after %d", c.after, obj.GetGeneration(), old.GetGeneration())
		}
	}
}

// What kubectl shows, column by column; those of -o wide have a star.
func TestTables(t *testing.T) {
	now := metav1.Now()
	for _, c := range []struct{ text, want string }{
		{workload("Deployment", "selector: {matchLabels: {a: b}}"),
			"Name=x Ready=0/1 Up-to-date=0 Available=0 Age=5m Containers*=c Images*=i Selector*=a=b"},
		{workload("ReplicaSet", "replicas: 4\n  selector: {matchLabels: {a: b}}"),
			"Name=x Desired=4 Current=0 Ready=0 Age=5m Containers*=c Images*=i Selector*=a=b"},
		{workload("DaemonSet", "selector: {matchLabels: {a: b}}"),
			"Name=x Desired=0 Current=0 Ready=0 Up-to-date=0 Available=0 Node Selector=<none> Age=5m Containers*=c Images*=i Selector*=a=b"},
		{workload("StatefulSet", "selector: {matchLabels: {a: b}}"), "Name=x Ready=0/1 Age=5m Containers*=c Images*=i"},
		{"apiVersion: batch/v1\nkind: Job\nmetadata: {name: x, namespace: n}\nspec: {parallelism: 3, template: " + podTemplate + "}",
			"Name=x Status=Running Completions=0/1 of 3 Duration= Age=5m Containers*=c Images*=i Selector*=batch.kubernetes.io/controller-uid=1234"},
		{"apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: x, namespace: n}\nspec: {schedule: '@daily', jobTemplate: {spec: {template: " + podTemplate + "}}}",
			"Name=x Schedule=@daily Timezone=<none> Suspend=False Active=0 Last Schedule=<none> Age=5m Containers*=c Images*=i Selector*=<none>"},
		{"apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: x, namespace: n}\nspec: {maxReplicas: 3, scaleTargetRef: {kind: Deployment, name: d}}",
			"Name=x Reference=Deployment/d Targets=cpu: <unknown>/80% MinPods=1 MaxPods=3 Replicas=0 Age=5m"},
		{"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: x, namespace: n}\naddressType: IPv4\nports: [{port: 80}]\nendpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}, {addresses: [10.0.0.3]}, {addresses: [10.0.0.4]}]",
			"Name=x AddressType=IPv4 Ports=80 Endpoints=10.0.0.1,10.0.0.2,10.0.0.3 + 1 more... Age=5m"},
		{"apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: x, namespace: n}\nspec: {maxUnavailable: 25%}",
			"Name=x Min Available=N/A Max Unavailable=25% Allowed Disruptions=0 Age=5m"},
		{"apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: x, namespace: n}\nroleRef: {kind: Role, name: r}\nsubjects: [{kind: ServiceAccount, namespace: z, name: s}, {kind: User, name: u}]",
			"Name=x Role=Role/r Age=5m Users*=u Groups*= ServiceAccounts*=z/s"},
		{"apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: x, namespace: n}\nspec: {tls: [{}], rules: [{host: a.b}]}",
			"Name=x Class=<none> Hosts=a.b Address= Ports=80, 443 Age=5m"},
		{"apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: x, annotations: {storageclass.kubernetes.io/is-default-class: 'true'}}\nprovisioner: p",
			"Name=x (default) Provisioner=p ReclaimPolicy=Delete VolumeBindingMode=Immediate AllowVolumeExpansion=false Age=5m"},
		{"apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: x}\nvalue: 7",
			"Name=x Value=7 Global-Default=false Age=5m PreemptionPolicy=PreemptLowerPriority"},
		{"apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {name: v1.g}\nspec: {service: {namespace: z, name: s}}",
			"Name=v1.g Service=z/s Available=Unknown Age=5m"},
		{"apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {name: x}\nspec: {signerName: a.b/c, username: u, expirationSeconds: 3600}",
			"Name=x Age=5m SignerName=a.b/c Requestor=u RequestedDuration=60m Condition=Pending"},
		{"apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {name: x, namespace: n}\nspec: {holderIdentity: h}", "Name=x Holder=h Age=5m"},
	} {
		r, obj := read(t, c.text)
		obj.SetCreationTimestamp(now)
		if got := shown(r, obj, now.Add(5*time.Minute)); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func shown(r *Resource, obj Object, now time.Time) string {
	var out []string
	cells := r.Cells(obj, now)
	for i, c := range r.Columns {
		star := ""
		if c.Priority > 0 {
			star = "*"
		}
		out = append(out, fmt.Sprintf("%s%s=%v", c.Name, star, cells[i]))
	}
	return strings.Join(out, " ")
}

// A client of autoscaling/v1 sees the use of CPU as a field and finds the rest
// in the annotations that upstream uses.
func TestAutoscalerAsV1(t *testing.T) {
	_, obj := read(t, `apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: x, namespace: n}
spec:
  maxReplicas: 3
  scaleTargetRef: {kind: Deployment, name: d}
  behavior: {scaleDown: {selectPolicy: Disabled}}
  metrics:
  - {type: Pods, pods: {metric: {name: hits}, target: {type: AverageValue, averageValue: "10"}}}
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 60}}}`)
	out, err := autoscalerFromStorage(obj)
	if err != nil {
		t.Fatal(err)
	}
	v1 := out.(*autoscalingv1.HorizontalPodAutoscaler)
	if u := v1.Spec.TargetCPUUtilizationPercentage; u == nil || *u != 60 {
		t.Errorf("targetCPUUtilizationPercentage %v", u)
	}
	want := `[{"type":"Pods","pods":{"metricName":"hits","targetAverageValue":"10"}}]`
	if got := v1.Annotations[hpaMetricsAnnotation]; got != want {
		t.Errorf("metrics annotation %s", got)
	}
	// Upstream has always written this one with its own fields' names.
	v1.Annotations[hpaBehaviorAnnotation] = `{"ScaleUp":null,"ScaleDown":{"StabilizationWindowSeconds":7,"SelectPolicy":"Min","Policies":null}}`
	back, err := autoscalerToStorage(v1)
	if err != nil {
		t.Fatal(err)
	}
	b := back.(*autoscalingv2.HorizontalPodAutoscaler)
	if d := b.Spec.Behavior.ScaleDown; *d.StabilizationWindowSeconds != 7 || *d.SelectPolicy != autoscalingv2.MinChangePolicySelect {
		t.Errorf("behavior %+v", d)
	}
	if len(b.Spec.Metrics) != 2 || len(b.Annotations) != 0 {
		t.Errorf("metrics %v, annotations %v", b.Spec.Metrics, b.Annotations)
	}
}
