package lifecycle

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestBackoffDoublesAndResets(t *testing.T) {
	c := &cri.ContainerStatus{Annotations: map[string]string{}}
	var waits []string
	for range 8 {
		until, next := backoff(c)
		waits = append(waits, until.Sub(time.Unix(0, c.FinishedAt)).String())
		c.Annotations[AnnotationBackoff] = next.String()
	}
	if got := strings.Join(waits, " "); got != "0s 10s 20s 40s 1m20s 2m40s 5m0s 5m0s" {
		t.Error(got)
	}
	c.StartedAt, c.FinishedAt = 1, int64(11*time.Minute)
	if until, next := backoff(c); !until.Equal(time.Unix(0, c.FinishedAt)) || next != firstBackoff {
		t.Error("a long calm run does not clear the back-off")
	}
}

func TestRestartRules(t *testing.T) {
	never, in, notIn := corev1.ContainerRestartPolicyNever, corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn
	rule := func(op corev1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) corev1.ContainerRestartRule {
		return corev1.ContainerRestartRule{Action: corev1.ContainerRestartRuleActionRestart, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: op, Values: codes}}
	}
	for _, tc := range []struct {
		pod  corev1.RestartPolicy
		c    corev1.Container
		exit int32
		want bool
	}{
		{corev1.RestartPolicyAlways, corev1.Container{}, 0, true},
		{corev1.RestartPolicyOnFailure, corev1.Container{}, 0, false},
		{corev1.RestartPolicyOnFailure, corev1.Container{}, 1, true},
		{corev1.RestartPolicyNever, corev1.Container{}, 1, false},
		{corev1.RestartPolicyAlways, corev1.Container{RestartPolicy: &never}, 1, false},
		{corev1.RestartPolicyNever, corev1.Container{RestartPolicy: &never, RestartPolicyRules: []corev1.ContainerRestartRule{rule(in, 42)}}, 42, true},
		{corev1.RestartPolicyNever, corev1.Container{RestartPolicy: &never, RestartPolicyRules: []corev1.ContainerRestartRule{rule(in, 42)}}, 1, false},
		{corev1.RestartPolicyNever, corev1.Container{RestartPolicy: &never, RestartPolicyRules: []corev1.ContainerRestartRule{rule(notIn, 0)}}, 7, true},
	} {
		d := &decider{State: State{Pod: &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: tc.pod}}}}
		s := &slot{spec: &tc.c, kind: mainContainer, runs: []*cri.ContainerStatus{{ExitCode: tc.exit}}}
		if got := d.restarts(s); got != tc.want {
			t.Errorf("pod %s, container %+v, exit %d: restarts %v", tc.pod, tc.c, tc.exit, got)
		}
	}
}

// a pod with one container that runs.
func running1() State {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}}
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	pod.Spec.Containers = []corev1.Container{{Name: "app", Image: "i"}}
	return State{
		Pod: pod, Now: time.Unix(1000, 0), Runtime: "r", Volumes: Step{Done: true},
		Sandboxes: []*cri.PodSandboxStatus{{Id: "sb", Metadata: &cri.PodSandboxMetadata{}, Network: &cri.PodSandboxNetworkStatus{Ip: "10.0.0.1"}}},
		Containers: []*cri.ContainerStatus{{Id: "c", Metadata: &cri.ContainerMetadata{Name: "app"}, State: cri.ContainerState_CONTAINER_RUNNING,
			StartedAt: 1, Labels: map[string]string{LabelSandbox: "sb"}, Annotations: map[string]string{AnnotationHash: Hash(&pod.Spec.Containers[0])}}},
	}
}

func conditionOf(d Decision, t corev1.PodConditionType) corev1.PodCondition {
	return d.Status.Conditions[findCondition(d.Status.Conditions, t)]
}

func TestReadiness(t *testing.T) {
	s := running1()
	s.Pod.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "lb"}}
	c := conditionOf(Decide(s), corev1.PodReady)
	if c.Status != corev1.ConditionFalse || c.Message != `corresponding condition of pod readiness gate "lb" does not exist.` {
		t.Errorf("%+v", c)
	}
	s.Pod.Status.Conditions = []corev1.PodCondition{{Type: "lb", Status: corev1.ConditionTrue}}
	if c := conditionOf(Decide(s), corev1.PodReady); c.Status != corev1.ConditionTrue {
		t.Errorf("%+v", c)
	}
	s.Pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{}
	c = conditionOf(Decide(s), corev1.ContainersReady)
	if c.Status != corev1.ConditionFalse || c.Message != "containers with unready status: [app]" || c.Reason != "ContainersNotReady" {
		t.Errorf("%+v", c)
	}
	s.Probes = map[string]Probes{"c": {Readiness: Success}}
	if c := conditionOf(Decide(s), corev1.PodReady); c.Status != corev1.ConditionTrue {
		t.Errorf("%+v", c)
	}
}

func TestActiveDeadline(t *testing.T) {
	s := running1()
	start, limit := metav1.NewTime(s.Now.Add(-time.Minute)), int64(90)
	s.Pod.Status.StartTime, s.Pod.Spec.ActiveDeadlineSeconds = &start, &limit
	d := Decide(s)
	if !d.Wake.Equal(s.Now.Add(30*time.Second)) || d.Terminating {
		t.Fatalf("wakes at %v", d.Wake)
	}
	s.Now = d.Wake
	d = Decide(s)
	if !d.Terminating || d.Status.Reason != "DeadlineExceeded" || d.Status.Phase != "Running" && d.Status.Phase != "Pending" {
		t.Errorf("%+v", d.Status)
	}
	s.Drain.Done = true
	s.Containers[0].State = cri.ContainerState_CONTAINER_EXITED
	s.Deadline = d.Deadline
	if d = Decide(s); d.Status.Phase != corev1.PodFailed {
		t.Errorf("phase %s", d.Status.Phase)
	}
}

func TestProbeKills(t *testing.T) {
	s := running1()
	grace := int64(7)
	s.Pod.Spec.Containers[0].LivenessProbe = &corev1.Probe{TerminationGracePeriodSeconds: &grace}
	s.Probes = map[string]Probes{"c": {Liveness: Failure}}
	d := Decide(s)
	if len(d.Actions) != 1 || d.Actions[0].Do != KillContainer || d.Actions[0].Message != "Container app failed liveness probe, will be restarted" ||
		!d.Actions[0].Deadline.Equal(s.Now.Add(7*time.Second)) {
		t.Errorf("%+v", d.Actions)
	}
	s.Kills = map[string]Kill{"c": {Step: Step{Busy: true}, Deadline: d.Actions[0].Deadline}}
	if d := Decide(s); len(d.Actions) != 0 {
		t.Errorf("killed twice: %+v", d.Actions)
	}
}

func TestChangedImageRestarts(t *testing.T) {
	s := running1()
	s.Pod.Spec.Containers[0].Image = "i:2"
	d := Decide(s)
	if len(d.Actions) != 1 || d.Actions[0].Message != "Container app definition changed, will be restarted" {
		t.Errorf("%+v", d.Actions)
	}
}

func BenchmarkDecide(b *testing.B) {
	s := running1()
	for b.Loop() {
		Decide(s)
	}
}
