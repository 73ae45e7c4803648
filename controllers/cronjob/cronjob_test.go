package cronjob

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"proa/client"
	"proa/controllers/job"
	"proa/controllers/simulation"
)

func every(schedule string, change ...func(c *batchv1.CronJob)) *batchv1.CronJob {
	c := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "tick"}, Spec: batchv1.CronJobSpec{Schedule: schedule,
		JobTemplate: batchv1.JobTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: batchv1.JobSpec{
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}}}}
	for _, f := range change {
		f(c)
	}
	return c
}

func policy(p batchv1.ConcurrencyPolicy) func(c *batchv1.CronJob) {
	return func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = p }
}

func lasting(d time.Duration) func(c *simulation.Cluster) {
	return func(c *simulation.Cluster) {
		c.Fate = func(*corev1.Pod) (corev1.PodPhase, time.Duration) { return corev1.PodSucceeded, d }
	}
}

func create(t *testing.T, c *simulation.Cluster, cj *batchv1.CronJob) {
	t.Helper()
	if _, err := c.Create(t.Context(), cj); err != nil {
		t.Fatal(err)
	}
}

func jobs(c *simulation.Cluster) []*batchv1.Job {
	return slices.Collect(client.List[batchv1.Job](c.View(), "ns"))
}

func reasons(c *simulation.Cluster) map[string]int32 {
	out := map[string]int32{}
	for e := range client.List[corev1.Event](c.View(), "ns") {
		if e.InvolvedObject.Kind == "CronJob" {
			out[e.Reason] += e.Count
		}
	}
	return out
}

func TestRunsOnTimeAndKeepsHistory(t *testing.T) {
	simulation.Run(t, lasting(10*time.Second), func(_ context.Context, c *simulation.Cluster) {
		create(t, c, every("*/10 * * * *"))
		time.Sleep(65 * time.Minute)
		cj := client.Get[batchv1.CronJob](c.View(), "ns", "tick")
		if n := reasons(c)["SuccessfulCreate"]; n != 6 {
			t.Errorf("%d runs in 65 minutes, want 6", n)
		}
		if n := len(jobs(c)); n != 3 {
			t.Errorf("%d Jobs are kept, want 3", n)
		}
		j := jobs(c)[0]
		if j.Labels["a"] != "b" || !metav1.IsControlledBy(j, cj) || !strings.HasPrefix(j.Name, "tick-") {
			t.Errorf("job %+v", j.ObjectMeta)
		}
		s := cj.Status
		if len(s.Active) != 0 || s.LastScheduleTime == nil || s.LastScheduleTime.Minute()%10 != 0 || s.LastSuccessfulTime == nil {
			t.Errorf("status %+v", s)
		}
	}, Controller(), job.Controller())
}

func TestConcurrency(t *testing.T) {
	for _, tc := range []struct {
		policy  batchv1.ConcurrencyPolicy
		active  int
		created int32
		reason  string
	}{{batchv1.AllowConcurrent, 5, 5, ""}, {batchv1.ForbidConcurrent, 1, 1, "JobAlreadyActive"}, {batchv1.ReplaceConcurrent, 1, 5, "SuccessfulDelete"}} {
		simulation.Run(t, lasting(24*time.Hour), func(_ context.Context, c *simulation.Cluster) {
			create(t, c, every("* * * * *", policy(tc.policy)))
			time.Sleep(5*time.Minute + 30*time.Second)
			r := reasons(c)
			n := 0
			for _, j := range jobs(c) {
				if j.DeletionTimestamp == nil {
					n++
				}
			}
			if cj := client.Get[batchv1.CronJob](c.View(), "ns", "tick"); n != tc.active || len(cj.Status.Active) != tc.active || r["SuccessfulCreate"] != tc.created {
				t.Errorf("%s: %d active, status %d, %d created", tc.policy, n, len(cj.Status.Active), r["SuccessfulCreate"])
			}
			if tc.reason != "" && r[tc.reason] == 0 {
				t.Errorf("%s: no event %s: %v", tc.policy, tc.reason, r)
			}
		}, Controller(), job.Controller())
	}
}

func TestSuspendedThenResumedRunsTheNewestMissed(t *testing.T) {
	yes, no, late := true, false, int64(30)
	for _, tc := range []struct {
		deadline *int64
		want     int32
	}{{nil, 1}, {&late, 0}} {
		simulation.Run(t, lasting(time.Second), func(ctx context.Context, c *simulation.Cluster) {
			create(t, c, every("0 * * * *", func(cj *batchv1.CronJob) { cj.Spec.Suspend, cj.Spec.StartingDeadlineSeconds = &yes, tc.deadline }))
			time.Sleep(10*time.Hour + 30*time.Minute)
			cj := client.Get[batchv1.CronJob](c.View(), "ns", "tick").DeepCopy()
			cj.Spec.Suspend = &no
			if _, err := c.Update(ctx, cj, ""); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if r := reasons(c); r["SuccessfulCreate"] != tc.want || (tc.want == 0) != (r["MissSchedule"] > 0) {
				t.Errorf("deadline %v: %v", tc.deadline, r)
			}
		}, Controller(), job.Controller())
	}
}

func TestTimeZone(t *testing.T) {
	zone := "Asia/Tokyo"
	simulation.Run(t, lasting(time.Second), func(_ context.Context, c *simulation.Cluster) {
		create(t, c, every("30 9 * * *", func(cj *batchv1.CronJob) { cj.Spec.TimeZone = &zone }))
		time.Sleep(24 * time.Hour)
		list := jobs(c)
		if len(list) != 1 || dueTime(list[0]).UTC().Format("15:04") != "00:30" {
			t.Errorf("jobs %v", list)
		}
	}, Controller(), job.Controller())
}

func TestMostRecent(t *testing.T) {
	now := time.Date(2026, 3, 5, 12, 34, 56, 0, time.UTC)
	for _, tc := range []struct {
		schedule string
		since    time.Time
		want     string
	}{
		{"* * * * *", now.AddDate(-20, 0, 0), "2026-03-05T12:34:00Z"},
		{"0 0 1 1 *", now.AddDate(-3, 0, 0), "2026-01-01T00:00:00Z"},
		{"0 * * * *", now.Add(-30 * time.Minute), ""},
		{"0 0 30 2 *", now.AddDate(-3, 0, 0), ""},
	} {
		s, err := cron.ParseStandard(tc.schedule)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if at := mostRecent(s, tc.since, now); !at.IsZero() {
			got = at.Format(time.RFC3339)
		}
		if got != tc.want {
			t.Errorf("%s since %v: %s, want %s", tc.schedule, tc.since, got, tc.want)
		}
	}
}
