package apiserver

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What an Event says of a time that has not come counts for nothing: a clock that
// was ahead when it was made, or a client that claims so, does not keep it.
func TestEventsOfTheFuture(t *testing.T) {
	now := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	at := func(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(d)) }
	series := &corev1.EventSeries{LastObservedTime: metav1.NewMicroTime(now.Add(9 * time.Hour))}
	for _, c := range []struct {
		what                    string
		created, last, eventual time.Duration
		series                  *corev1.EventSeries
		want                    time.Duration // since now; 99 h: never
	}{
		{"an hour ago", -time.Hour, -time.Hour, -time.Hour, nil, -time.Hour},
		{"seen again since", -time.Hour, -time.Minute, -time.Hour, nil, -time.Minute},
		{"clocks differ a little", 0, time.Minute, 0, nil, time.Minute},
		{"made when the clock was a year ahead", 8760 * time.Hour, 8760 * time.Hour, 8760 * time.Hour, nil, 99 * time.Hour},
		{"claims to be of tomorrow", -2 * time.Hour, 24 * time.Hour, 24 * time.Hour, series, -2 * time.Hour},
	} {
		ev := &corev1.Event{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: at(c.created)}, LastTimestamp: at(c.last),
			EventTime: metav1.NewMicroTime(now.Add(c.eventual)), Series: c.series}
		want := now.Add(c.want)
		if c.want == 99*time.Hour {
			want = time.Time{}
		}
		if got := lastSeen(ev, now.Add(time.Hour)); !got.Equal(want) {
			t.Errorf("%s: %s, want %s", c.what, got, want)
		}
	}
}
