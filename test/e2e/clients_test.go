package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var clients = mustAbs("../../bin/clients")

// built is a file that `make clients` makes.
func built(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(clients, name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("run `make clients` first: %v", err)
	}
	return path
}

// tool is a program that was made for Kubernetes, pointed at this cluster.
func (m *machine) tool(name string, args ...string) *exec.Cmd {
	m.t.Helper()
	cmd := exec.Command(built(m.t, name), args...)
	cmd.Env = append(m.env(), "KUBECONFIG="+filepath.Join(m.data, "kubeconfig"))
	return cmd
}

// TestClientManager runs a suite that was written for envtest: a manager of
// controller-runtime with a custom resource, webhooks and leader election, on a
// control plane without a node.
func TestClientManager(t *testing.T) {
	m := newMachine(t)
	m.start("--no-node")
	cmd := m.tool("manager.test", "-test.v")
	cmd.Dir = "../clients/manager"
	cmd.Env = append(cmd.Env, "USE_EXISTING_CLUSTER=true")
	m.output(cmd)
}

// TestClientHelm installs, upgrades, rolls back, tests and uninstalls a chart with
// hooks and a custom resource.
func TestClientHelm(t *testing.T) {
	m := newMachine(t)
	m.start()
	m.importImages()
	helm := func(args ...string) string {
		t.Helper()
		return m.output(m.tool("helm", args...))
	}
	greets := func(want string) {
		t.Helper()
		m.wants(want, 10*time.Second, "{.spec.text}", "sign/corner")
		if got := helm("test", "corner", "--timeout=90s"); !strings.Contains(got, "Succeeded") {
			t.Errorf("helm test says %s", got)
		}
	}
	chart := mustAbs("testdata/chart")
	helm("install", "corner", chart, "--wait", "--timeout=90s")
	if lit := m.get("{.spec.lit}", "sign/corner"); lit != "true" {
		t.Errorf("the schema's default is not in the resource: lit is %q", lit)
	}
	m.wants("1", 10*time.Second, "{.status.succeeded}", "job/corner-prepare")
	greets("hello")
	helm("upgrade", "corner", chart, "--set", "greeting=welcome,replicas=2", "--wait", "--timeout=90s")
	m.wants("2", 30*time.Second, "{.status.readyReplicas}", "deployment/corner")
	greets("welcome")
	helm("rollback", "corner", "1", "--wait", "--timeout=90s")
	greets("hello")
	if got := helm("history", "corner"); !strings.Contains(got, "Rollback to 1") {
		t.Errorf("history shows %s", got)
	}
	if out, err := m.tool("helm", "upgrade", "corner", chart, "--set", "greeting="+strings.Repeat("x", 50)).CombinedOutput(); err == nil || !strings.Contains(string(out), "spec.text") {
		t.Errorf("a sign that is too long: %v %s", err, out)
	}
	helm("uninstall", "corner", "--wait", "--timeout=90s")
	if got := m.k("get", "deployments,services,configmaps,signs", "-l", "app.kubernetes.io/managed-by=Helm", "-o", "name"); got != "" {
		t.Errorf("left after uninstall: %s", got)
	}
}

// job's master stays until the workers have found it by name.
const job = `
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: lesson, namespace: default}
spec:
  runPolicy: {cleanPodPolicy: None}
  pytorchReplicaSpecs:
    Master:
      replicas: 1
      restartPolicy: Never
      template:
        spec:
          terminationGracePeriodSeconds: 1
          containers:
          - {name: pytorch, image: busybox, imagePullPolicy: IfNotPresent, command: [sh, -c, 'echo rank $RANK of $WORLD_SIZE; sleep 15']}
    Worker:
      replicas: 2
      restartPolicy: Never
      template:
        spec:
          terminationGracePeriodSeconds: 1
          containers:
          - {name: pytorch, image: busybox, imagePullPolicy: IfNotPresent, command: [sh, -c, 'echo rank $RANK of $WORLD_SIZE; sleep 1']}
`

// waits is the workers' init container, as the operator lets one choose it: the
// nslookup of Debian's busybox fails unless every domain of the search list
// knows the name.
const waits = `
apiVersion: v1
kind: ConfigMap
metadata: {name: workers, namespace: kubeflow}
data:
  initContainer.yaml: |
    - name: init-pytorch
      image: {{.InitContainerImage}}
      imagePullPolicy: IfNotPresent
      command: [sh, -c, 'for i in $(seq {{.MaxTries}}); do ping -c 1 {{.MasterAddr}} && exit 0; sleep 1; done; exit 1']
`

// TestClientOperator runs an operator as its authors ship it, in a pod: custom
// resources, a webhook whose certificate it makes itself, leader election, and
// jobs of several pods.
func TestClientOperator(t *testing.T) {
	m := newMachine(t)
	m.start()
	m.importImages()
	m.proa("image", "import", "--data-dir", m.data, built(t, "training-operator.tar"))
	m.k("apply", "--server-side", "-f", built(t, "training-operator.yaml"))
	// As shipped it elects nobody, and its role is without leases.
	m.k("-n", "kubeflow", "create", "role", "leads", "--verb=get,create,update", "--resource=leases.coordination.k8s.io")
	m.k("-n", "kubeflow", "create", "rolebinding", "leads", "--role=leads", "--serviceaccount=kubeflow:training-operator")
	m.apply(waits)
	m.k("-n", "kubeflow", "patch", "deployment/training-operator", "--type=json", "-p",
		`[{"op":"replace","path":"/spec/template/spec/containers/0/command","value":["/manager","--leader-elect","--pytorch-init-container-image=busybox"]},
		{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"kubeflow/training-operator"},
		{"op":"add","path":"/spec/template/spec/containers/0/imagePullPolicy","value":"IfNotPresent"},
		{"op":"add","path":"/spec/template/spec/volumes/-","value":{"name":"workers","configMap":{"name":"workers"}}},
		{"op":"add","path":"/spec/template/spec/containers/0/volumeMounts/-","value":{"name":"workers","mountPath":"/etc/config"}}]`)
	m.k("-n", "kubeflow", "rollout", "status", "deployment/training-operator", "--timeout=120s")
	m.sees("training-operator", 30*time.Second, "-n", "kubeflow", "get", "lease", "-o", "jsonpath={.items[*].spec.holderIdentity}")

	if said := m.refuses(strings.Replace(job, "name: pytorch,", "name: other,", 2)); !strings.Contains(said, `admission webhook "validator.pytorchjob.training-operator.kubeflow.org" denied the request`) {
		t.Errorf("a job without its container: %s", said)
	}
	m.apply(job)
	m.k("wait", "--for=condition=Succeeded", "pytorchjob/lesson", "--timeout=120s")
	m.wants("Succeeded", 60*time.Second, "{.status.phase}", "pod/lesson-worker-1") // the master alone decides
	if got := m.k("logs", "lesson-worker-1", "-c", "pytorch"); got != "rank 2 of 3\n" {
		t.Errorf("the second worker says %q", got)
	}
	m.k("delete", "pytorchjob", "lesson", "--cascade=foreground", "--timeout=60s")
	if got := m.k("get", "pods", "-o", "name"); got != "" {
		t.Errorf("left: %s", got)
	}
}
