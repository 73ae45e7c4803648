package kubelet

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// serveSummary is what the machine, the pods and their containers use now.
func (k *Kubelet) serveSummary(rw http.ResponseWriter, r *http.Request) error {
	s, err := k.summary(r.Context())
	if err != nil {
		return err
	}
	answer(rw, s)
	return nil
}

func (k *Kubelet) summary(ctx context.Context) (*stats.Summary, error) {
	pods, err := k.cfg.Runtime.ListPodSandboxStats(ctx, nil)
	if err != nil {
		return nil, err
	}
	out := &stats.Summary{Node: k.nodeStats(), Pods: []stats.PodStats{}}
	for _, p := range pods {
		out.Pods = append(out.Pods, podStats(p))
	}
	return out, nil
}

func podStats(p *cri.PodSandboxStats) stats.PodStats {
	m, l := p.GetAttributes().GetMetadata(), p.GetLinux()
	out := stats.PodStats{
		PodRef:    stats.PodReference{Name: m.GetName(), Namespace: m.GetNamespace(), UID: m.GetUid()},
		StartTime: metav1.Time{}, CPU: cpuStats(l.GetCpu()), Memory: memoryStats(l.GetMemory()), Containers: []stats.ContainerStats{},
	}
	if n := l.GetProcess(); n != nil {
		out.ProcessStats = &stats.ProcessStats{ProcessCount: amount(n.ProcessCount)}
	}
	if n := l.GetNetwork(); n != nil {
		out.Network = &stats.NetworkStats{Time: stampOf(n.Timestamp), InterfaceStats: interfaceStats(n.DefaultInterface)}
		for _, i := range n.Interfaces {
			out.Network.Interfaces = append(out.Network.Interfaces, interfaceStats(i))
		}
	}
	for _, c := range l.GetContainers() {
		out.Containers = append(out.Containers, stats.ContainerStats{
			Name: c.GetAttributes().GetMetadata().GetName(), CPU: cpuStats(c.Cpu), Memory: memoryStats(c.Memory), Rootfs: fsStats(c.WritableLayer),
		})
	}
	return out
}

func stampOf(nano int64) metav1.Time { return metav1.NewTime(time.Unix(0, nano)) }

func amount(v *cri.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	return &v.Value
}

func cpuStats(c *cri.CpuUsage) *stats.CPUStats {
	if c == nil {
		return nil
	}
	return &stats.CPUStats{Time: stampOf(c.Timestamp), UsageNanoCores: amount(c.UsageNanoCores), UsageCoreNanoSeconds: amount(c.UsageCoreNanoSeconds)}
}

func memoryStats(m *cri.MemoryUsage) *stats.MemoryStats {
	if m == nil {
		return nil
	}
	return &stats.MemoryStats{
		Time: stampOf(m.Timestamp), AvailableBytes: amount(m.AvailableBytes), UsageBytes: amount(m.UsageBytes), WorkingSetBytes: amount(m.WorkingSetBytes),
		RSSBytes: amount(m.RssBytes), PageFaults: amount(m.PageFaults), MajorPageFaults: amount(m.MajorPageFaults),
	}
}

func fsStats(f *cri.FilesystemUsage) *stats.FsStats {
	if f == nil {
		return nil
	}
	return &stats.FsStats{Time: stampOf(f.Timestamp), UsedBytes: amount(f.UsedBytes), InodesUsed: amount(f.InodesUsed)}
}

func interfaceStats(i *cri.NetworkInterfaceUsage) stats.InterfaceStats {
	return stats.InterfaceStats{Name: i.GetName(), RxBytes: amount(i.GetRxBytes()), RxErrors: amount(i.GetRxErrors()),
		TxBytes: amount(i.GetTxBytes()), TxErrors: amount(i.GetTxErrors())}
}

// nodeStats reads the machine's own use from /proc.
func (k *Kubelet) nodeStats() stats.NodeStats {
	now := metav1.Now()
	out := stats.NodeStats{NodeName: k.cfg.NodeName}
	if busy, ok := cpuTime("/proc/stat"); ok {
		out.CPU = &stats.CPUStats{Time: now, UsageCoreNanoSeconds: &busy}
	}
	mem := meminfo("/proc/meminfo")
	used, available := mem["MemTotal"]-mem["MemFree"], mem["MemAvailable"]
	working := mem["MemTotal"] - available
	out.Memory = &stats.MemoryStats{Time: now, UsageBytes: &used, AvailableBytes: &available, WorkingSetBytes: &working}
	var fs unix.Statfs_t
	if unix.Statfs(k.cfg.Root, &fs) == nil {
		size := uint64(fs.Bsize)
		capacity, free, taken := fs.Blocks*size, fs.Bavail*size, (fs.Blocks-fs.Bfree)*size
		inodes, inodesFree := fs.Files, fs.Ffree
		out.Fs = &stats.FsStats{Time: now, CapacityBytes: &capacity, AvailableBytes: &free, UsedBytes: &taken, Inodes: &inodes, InodesFree: &inodesFree}
	}
	return out
}

// cpuTime is the time that all processors have worked, in ns.
func cpuTime(path string) (uint64, bool) {
	head, _, _ := strings.Cut(line(path), "\n")
	f := strings.Fields(head)
	if len(f) < 9 {
		return 0, false
	}
	total := uint64(0)
	for _, i := range []int{1, 2, 3, 6, 7, 8} { // all but idle and iowait
		n, _ := strconv.ParseUint(f[i], 10, 64)
		total += n
	}
	return total * uint64(time.Second) / 100, true
}

func meminfo(path string) map[string]uint64 {
	out := map[string]uint64{}
	data, _ := os.ReadFile(path)
	for l := range strings.Lines(string(data)) {
		name, rest, ok := strings.Cut(l, ":")
		if f := strings.Fields(rest); ok && len(f) > 0 {
			n, _ := strconv.ParseUint(f[0], 10, 64)
			out[name] = n << 10
		}
	}
	return out
}

// serveResourceMetrics is what metrics-server scrapes.
func (k *Kubelet) serveResourceMetrics(rw http.ResponseWriter, r *http.Request) error {
	s, err := k.summary(r.Context())
	if err != nil {
		return err
	}
	rw.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	m := metricWriter{w: rw, typed: map[string]bool{}}
	if s.Node.CPU != nil {
		m.cpu("node_cpu_usage_seconds_total", "", s.Node.CPU)
	}
	m.memory("node_memory_working_set_bytes", "", s.Node.Memory)
	for _, p := range s.Pods {
		for _, c := range p.Containers {
			labels := fmt.Sprintf("{container=%q,namespace=%q,pod=%q}", c.Name, p.PodRef.Namespace, p.PodRef.Name)
			m.cpu("container_cpu_usage_seconds_total", labels, c.CPU)
			m.memory("container_memory_working_set_bytes", labels, c.Memory)
		}
	}
	for _, p := range s.Pods {
		labels := fmt.Sprintf("{namespace=%q,pod=%q}", p.PodRef.Namespace, p.PodRef.Name)
		m.cpu("pod_cpu_usage_seconds_total", labels, p.CPU)
		m.memory("pod_memory_working_set_bytes", labels, p.Memory)
	}
	m.put("resource_scrape_error", "gauge", "", 0, 0)
	return nil
}

type metricWriter struct {
	w     io.Writer
	typed map[string]bool
}

func (m *metricWriter) cpu(name, labels string, c *stats.CPUStats) {
	if c != nil && c.UsageCoreNanoSeconds != nil {
		m.put(name, "counter", labels, float64(*c.UsageCoreNanoSeconds)/float64(time.Second), c.Time.UnixMilli())
	}
}

func (m *metricWriter) memory(name, labels string, s *stats.MemoryStats) {
	if s != nil && s.WorkingSetBytes != nil {
		m.put(name, "gauge", labels, float64(*s.WorkingSetBytes), s.Time.UnixMilli())
	}
}

func (m *metricWriter) put(name, kind, labels string, value float64, at int64) {
	if !m.typed[name] {
		m.typed[name] = true
		fmt.Fprintf(m.w, "# TYPE %s %s\n", name, kind)
	}
	fmt.Fprintf(m.w, "%s%s %s", name, labels, strconv.FormatFloat(value, 'g', -1, 64))
	if at > 0 {
		fmt.Fprintf(m.w, " %d", at)
	}
	fmt.Fprintln(m.w)
}
