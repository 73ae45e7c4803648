package runtime

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// nanoCores keeps the sample before, to tell use over time.
type nanoCores struct {
	mu   sync.Mutex
	last map[string]cpuSample
}

type cpuSample struct {
	at    time.Time
	usage uint64 // ns of CPU
	rate  uint64 // ns of CPU a second
}

// rate is the use between the last two questions, at least a second apart.
func (n *nanoCores) rate(id string, now time.Time, usage uint64) *runtimeapi.UInt64Value {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.last == nil {
		n.last = map[string]cpuSample{}
	}
	prev, ok := n.last[id]
	if !ok || usage < prev.usage {
		n.last[id] = cpuSample{at: now, usage: usage}
		return nil
	}
	if elapsed := now.Sub(prev.at); elapsed >= time.Second {
		prev = cpuSample{at: now, usage: usage, rate: uint64(float64(usage-prev.usage) / elapsed.Seconds())}
		n.last[id] = prev
	}
	return value(prev.rate)
}

func (n *nanoCores) forget(id string) {
	n.mu.Lock()
	delete(n.last, id)
	n.mu.Unlock()
}

func value(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }

// ContainerStats implements CRI.
func (r *Runtime) ContainerStats(_ context.Context, id string) (*runtimeapi.ContainerStats, error) {
	c, err := r.findContainer(id)
	if err != nil {
		return nil, err
	}
	rec := r.record(c)
	return r.containerStats(rec), nil
}

// ListContainerStats implements CRI: of those that run.
func (r *Runtime) ListContainerStats(_ context.Context, f *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	stats := []*runtimeapi.ContainerStats{}
	for _, rec := range r.runningRecords() {
		if strings.HasPrefix(rec.ID, f.GetId()) && strings.HasPrefix(rec.Sandbox, f.GetPodSandboxId()) &&
			matches(f.GetLabelSelector(), rec.Config.M.Labels) {
			stats = append(stats, r.containerStats(rec))
		}
	}
	return stats, nil
}

func (r *Runtime) runningRecords() (recs []containerRecord) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, c := range r.containers {
		if c.rec.Phase == phaseRunning {
			recs = append(recs, c.rec)
		}
	}
	return recs
}

func (r *Runtime) containerStats(rec containerRecord) *runtimeapi.ContainerStats {
	now := time.Now()
	config := rec.Config.M
	s := &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{Id: rec.ID, Metadata: config.Metadata, Labels: config.Labels, Annotations: config.Annotations},
		WritableLayer: &runtimeapi.FilesystemUsage{Timestamp: now.UnixNano(),
			FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: rec.Rootfs.Upper}},
	}
	if bytes, inodes, err := r.cfg.Images.Usage(rec.ID); err == nil {
		s.WritableLayer.UsedBytes, s.WritableLayer.InodesUsed = value(uint64(bytes)), value(uint64(inodes))
	}
	if rec.Phase == phaseRunning {
		s.Cpu, s.Memory, s.Swap = r.usage(rec.ID, rec.Cgroup, now)
	}
	return s
}

// usage reads a cgroup's use. The working set is what cAdvisor defines: usage
// less the file cache that has not been used lately.
func (r *Runtime) usage(id, cgroup string, now time.Time) (*runtimeapi.CpuUsage, *runtimeapi.MemoryUsage, *runtimeapi.SwapUsage) {
	at := now.UnixNano()
	cpu := &runtimeapi.CpuUsage{Timestamp: at}
	if ns, err := r.version.cpuUsage(cgroup); err == nil {
		cpu.UsageCoreNanoSeconds = value(ns)
		cpu.UsageNanoCores = r.nano.rate(id, now, ns)
	}
	memory, swap := r.version.memoryUsage(cgroup)
	memory.Timestamp, swap.Timestamp = at, at
	return cpu, memory, swap
}

func (v cgroupVersion) cpuUsage(cgroup string) (uint64, error) {
	if v == 2 {
		stat, err := keyed(v.dir("", cgroup) + "/cpu.stat")
		return stat["usage_usec"] * 1000, err
	}
	return number(v.dir("cpuacct", cgroup) + "/cpuacct.usage")
}

// memoryFiles name the same things on both versions.
var memoryFiles = map[cgroupVersion]struct{ usage, limit, swap, inactive, rss, faults, majorFaults string }{
	1: {"memory.usage_in_bytes", "memory.limit_in_bytes", "memory.memsw.usage_in_bytes",
		"total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault"},
	2: {"memory.current", "memory.max", "memory.swap.current", "inactive_file", "anon", "pgfault", "pgmajfault"},
}

func (v cgroupVersion) memoryUsage(cgroup string) (*runtimeapi.MemoryUsage, *runtimeapi.SwapUsage) {
	m, s := &runtimeapi.MemoryUsage{}, &runtimeapi.SwapUsage{}
	names, dir := memoryFiles[v], v.dir("memory", cgroup)
	stat, err := keyed(dir + "/memory.stat")
	if err != nil {
		return m, s
	}
	usage, err := number(dir + "/" + names.usage)
	if err != nil {
		return m, s
	}
	working := usage - min(usage, stat[names.inactive])
	m.UsageBytes, m.WorkingSetBytes, m.RssBytes = value(usage), value(working), value(stat[names.rss])
	m.PageFaults, m.MajorPageFaults = value(stat[names.faults]), value(stat[names.majorFaults])
	// A limit near 2^63 is how version 1 says that there is none.
	if limit, err := number(dir + "/" + names.limit); err == nil && limit > 0 && limit < 1<<62 {
		m.AvailableBytes = value(limit - min(limit, working))
	}
	if swapped, err := number(dir + "/" + names.swap); err == nil {
		if v == 1 {
			swapped -= min(swapped, usage) // memory and swap together
		}
		s.SwapUsageBytes = value(swapped)
	}
	return m, s
}

// PodSandboxStats implements CRI.
func (r *Runtime) PodSandboxStats(_ context.Context, id string) (*runtimeapi.PodSandboxStats, error) {
	s, err := r.findSandbox(id)
	if err != nil {
		return nil, err
	}
	rec := r.sandboxRecord(s)
	if rec.Phase != phaseRunning {
		return nil, status.Errorf(codes.FailedPrecondition, "sandbox %s is not ready", rec.ID)
	}
	return r.sandboxStats(rec), nil
}

// ListPodSandboxStats implements CRI: of those that are ready.
func (r *Runtime) ListPodSandboxStats(_ context.Context, f *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	var recs []sandboxRecord
	r.mu.RLock()
	for _, s := range r.sandboxes {
		if s.rec.Phase == phaseRunning && strings.HasPrefix(s.id, f.GetId()) && matches(f.GetLabelSelector(), s.rec.Config.M.Labels) {
			recs = append(recs, s.rec)
		}
	}
	r.mu.RUnlock()
	stats := []*runtimeapi.PodSandboxStats{}
	for _, rec := range recs {
		stats = append(stats, r.sandboxStats(rec))
	}
	return stats, nil
}

func (r *Runtime) sandboxStats(rec sandboxRecord) *runtimeapi.PodSandboxStats {
	now := time.Now()
	config := rec.Config.M
	linux := &runtimeapi.LinuxPodSandboxStats{}
	for _, c := range r.runningRecords() {
		if c.Sandbox == rec.ID {
			linux.Containers = append(linux.Containers, r.containerStats(c))
		}
	}
	if parent := config.GetLinux().GetCgroupParent(); parent != "" {
		linux.Cpu, linux.Memory, _ = r.usage(rec.ID, parent, now)
		linux.Process = &runtimeapi.ProcessUsage{Timestamp: now.UnixNano(),
			ProcessCount: value(uint64(len(pidsBelow(r.version.dir("pids", parent)))))}
	}
	if !hostNetwork(config) {
		linux.Network = networkUsage(rec.Shim, now)
	}
	return &runtimeapi.PodSandboxStats{Linux: linux,
		Attributes: &runtimeapi.PodSandboxAttributes{Id: rec.ID, Metadata: config.Metadata, Labels: config.Labels, Annotations: config.Annotations}}
}

// networkUsage reads the counters of the network namespace a process is in.
func networkUsage(pid int, now time.Time) *runtimeapi.NetworkUsage {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return nil
	}
	usage := &runtimeapi.NetworkUsage{Timestamp: now.UnixNano()}
	for line := range strings.Lines(string(data)) {
		name, counters, ok := strings.Cut(line, ":")
		f := strings.Fields(counters)
		if name = strings.TrimSpace(name); !ok || len(f) < 16 || name == "lo" {
			continue
		}
		i := &runtimeapi.NetworkInterfaceUsage{Name: name, RxBytes: counter(f[0]), RxErrors: counter(f[2]), TxBytes: counter(f[8]), TxErrors: counter(f[10])}
		if usage.DefaultInterface == nil {
			usage.DefaultInterface = i
			continue
		}
		usage.Interfaces = append(usage.Interfaces, i)
	}
	return usage
}

func counter(text string) *runtimeapi.UInt64Value {
	n, _ := strconv.ParseUint(text, 10, 64)
	return value(n)
}

// ListMetricDescriptors implements CRI: the kubelet's own metrics come from the
// stats.
func (r *Runtime) ListMetricDescriptors(context.Context) ([]*runtimeapi.MetricDescriptor, error) {
	return nil, status.Error(codes.Unimplemented, "pod metrics come from the stats")
}

// ListPodSandboxMetrics implements CRI.
func (r *Runtime) ListPodSandboxMetrics(context.Context) ([]*runtimeapi.PodSandboxMetrics, error) {
	return nil, status.Error(codes.Unimplemented, "pod metrics come from the stats")
}
