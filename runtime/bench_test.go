package runtime

import (
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkContainer is the create and start of a container in a ready sandbox.
func BenchmarkContainer(b *testing.B) {
	w := newWorld(b)
	pod, _ := w.pod("bench")
	var times []time.Duration
	for i := 0; b.Loop(); i++ {
		begin := time.Now()
		id := w.start(pod, containerConfig(fmt.Sprint("c", i), "sleep"))
		times = append(times, time.Since(begin))
		b.StopTimer()
		must(b, w.RemoveContainer(ctx, id))
		b.StartTimer()
	}
	report(b, times)
}

// BenchmarkPod is a sandbox and its one container, both from nothing.
func BenchmarkPod(b *testing.B) {
	w := newWorld(b)
	var times []time.Duration
	for i := 0; b.Loop(); i++ {
		begin := time.Now()
		pod, _ := w.pod(fmt.Sprint("bench", i))
		w.start(pod, containerConfig("c", "sleep"))
		times = append(times, time.Since(begin))
		b.StopTimer()
		must(b, w.RemovePodSandbox(ctx, pod))
		b.StartTimer()
	}
	report(b, times)
}

// BenchmarkPodCPU is the CPU time of all processes for a pod's whole life, which
// a busy machine does not change much.
func BenchmarkPodCPU(b *testing.B) {
	w := newWorld(b)
	before := cpuTime()
	n := 0
	for ; b.Loop(); n++ {
		pod, _ := w.pod(fmt.Sprint("bench", n))
		w.start(pod, containerConfig("c", "sleep"))
		must(b, w.RemovePodSandbox(ctx, pod))
	}
	b.ReportMetric(float64((cpuTime()-before).Microseconds())/1000/float64(n), "cpu-ms/pod")
	b.ReportMetric(0, "ns/op")
}

func cpuTime() (sum time.Duration) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		_ = unix.Getrusage(who, &u)
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}

// BenchmarkStop is the end of a pod: its container killed, all taken down.
func BenchmarkStop(b *testing.B) {
	w := newWorld(b)
	var times []time.Duration
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		pod, _ := w.pod(fmt.Sprint("bench", i))
		w.start(pod, containerConfig("c", "sleep"))
		b.StartTimer()
		begin := time.Now()
		must(b, w.RemovePodSandbox(ctx, pod))
		times = append(times, time.Since(begin))
	}
	report(b, times)
}

// BenchmarkExec is an exec probe.
func BenchmarkExec(b *testing.B) {
	w := newWorld(b)
	pod, _ := w.pod("bench")
	id := w.start(pod, containerConfig("c", "sleep"))
	var times []time.Duration
	for b.Loop() {
		begin := time.Now()
		w.output(id, "print", "x")
		times = append(times, time.Since(begin))
	}
	report(b, times)
}

// BenchmarkShimMemory runs pods and reports what each shim holds once idle.
func BenchmarkShimMemory(b *testing.B) {
	w := newWorld(b)
	const pods = 10
	for i := range pods {
		pod, _ := w.pod(fmt.Sprint("bench", i))
		w.start(pod, containerConfig("c", "sleep"))
	}
	time.Sleep(2 * time.Second) // shims give memory back a second after work
	sums := map[string]int{}
	for _, s := range w.snapshotSandboxes() {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", s.rec.Shim))
		must(b, err)
		for line := range strings.Lines(string(data)) {
			var key string
			var kb int
			if n, _ := fmt.Sscanf(line, "%s %d kB", &key, &kb); n == 2 {
				sums[strings.TrimSuffix(key, ":")] += kb
			}
		}
		if entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", s.rec.Shim)); err == nil {
			sums["threads"] += len(entries)
		}
	}
	for b.Loop() {
	}
	for _, key := range []string{"Pss", "Pss_Anon", "Pss_File", "Pss_Shmem", "Rss", "threads"} {
		b.ReportMetric(float64(sums[key])/pods, key+"/pod")
	}
}

func report(b *testing.B, times []time.Duration) {
	sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
	at := func(p int) float64 { return float64(times[min(len(times)*p/100, len(times)-1)].Microseconds()) / 1000 }
	b.ReportMetric(at(0), "min-ms")
	b.ReportMetric(at(50), "p50-ms")
	b.ReportMetric(at(90), "p90-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkPodsAtOnce makes 40 pods of one container, 20 at a time.
func BenchmarkPodsAtOnce(b *testing.B) {
	w := newWorld(b)
	const pods, width = 40, 20
	n := 0
	var took time.Duration
	for ; b.Loop(); n++ {
		begin := time.Now()
		var wg sync.WaitGroup
		slots := make(chan bool, width)
		for i := range pods {
			slots <- true
			wg.Go(func() {
				defer func() { <-slots }()
				pod, err := w.RunPodSandbox(ctx, w.podConfig(fmt.Sprintf("n%d-%d", n, i)), "")
				if err != nil {
					b.Error(err)
					return
				}
				id, err := w.CreateContainer(ctx, pod, containerConfig("c", "sleep"), nil)
				if err == nil {
					err = w.StartContainer(ctx, id)
				}
				if err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
		took += time.Since(begin)
		b.StopTimer()
		for _, s := range w.snapshotSandboxes() {
			must(b, w.RemovePodSandbox(ctx, s.id))
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(n*pods)/took.Seconds(), "pods/s")
	b.ReportMetric(0, "ns/op")
}
