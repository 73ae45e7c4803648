package kubelet

import (
	"bufio"
	"bytes"
	"cmp"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// machine is what the kubelet reads of the hardware and operating system, once.
type machine struct {
	cpus         int
	memory, disk int64 // bytes
	info         corev1.NodeSystemInfo
	hugepages    map[string]int64 // bytes reserved, by resource name
}

// Held back from pods: what eviction must never reach (memory.available < 100 MiB,
// nodefs.available < 10 %).
const reservedMemory = 100 << 20

func readMachine(root string) (machine, error) {
	m := machine{cpus: runtime.NumCPU(), hugepages: hugepages("/sys/kernel/mm/hugepages")}
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return m, err
	}
	m.memory = int64(si.Totalram) * int64(si.Unit)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return m, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil {
		return m, err
	}
	m.disk = int64(fs.Blocks) * fs.Bsize
	m.info = systemInfo()
	return m, nil
}

func systemInfo() corev1.NodeSystemInfo {
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	return corev1.NodeSystemInfo{
		MachineID:       line("/etc/machine-id"),
		SystemUUID:      cmp.Or(line("/sys/class/dmi/id/product_uuid"), line("/etc/machine-id")),
		BootID:          line("/proc/sys/kernel/random/boot_id"),
		KernelVersion:   string(bytes.TrimRight(uts.Release[:], "\x00")),
		OSImage:         osImage(),
		OperatingSystem: runtime.GOOS,
		Architecture:    runtime.GOARCH,
		KubeletVersion:  Version,
		Swap:            swap(),
	}
}

func line(path string) string {
	b, _ := os.ReadFile(path)
	return strings.TrimSpace(string(b))
}

func osImage() string {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if v, ok := strings.CutPrefix(s.Text(), "PRETTY_NAME="); ok {
			return strings.Trim(v, `"`)
		}
	}
	return "Linux"
}

func swap() *corev1.NodeSwapStatus {
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) != nil || si.Totalswap == 0 {
		return nil
	}
	total := int64(si.Totalswap) * int64(si.Unit)
	return &corev1.NodeSwapStatus{Capacity: &total}
}

// hugepages reads "hugepages-2048kB/nr_hugepages" and its like.
func hugepages(dir string) map[string]int64 {
	out := map[string]int64{}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		n, _ := strconv.ParseInt(line(filepath.Join(dir, e.Name(), "nr_hugepages")), 10, 64)
		size := resource.NewQuantity(kb<<10, resource.BinarySI)
		out[corev1.ResourceHugePagesPrefix+size.String()] = n * kb << 10
	}
	return out
}

func (m machine) capacity(maxPods int) corev1.ResourceList {
	out := corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(int64(m.cpus), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(m.memory, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(m.disk, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(int64(maxPods), resource.DecimalSI),
	}
	for name, bytes := range m.hugepages {
		out[corev1.ResourceName(name)] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	return out
}

func (m machine) allocatable(maxPods int) corev1.ResourceList {
	out := m.capacity(maxPods)
	left := m.memory - reservedMemory
	for _, bytes := range m.hugepages {
		left -= bytes
	}
	out[corev1.ResourceMemory] = *resource.NewQuantity(max(left, 0), resource.BinarySI)
	out[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(m.disk/10*9, resource.BinarySI)
	return out
}

// The thresholds of node-pressure eviction that hold by default on Linux, but
// for large disks: a tenth of one is no emergency, least of all on a machine that
// does other work.

func lowMemory() bool { return meminfo("/proc/meminfo")["MemAvailable"] < reservedMemory }

const (
	enoughDisk   = 2 << 30 // bytes
	enoughInodes = 100_000
)

func lowDisk(root string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(root, &fs) == nil && scarce(&fs)
}

func scarce(fs *unix.Statfs_t) bool {
	bytes := fs.Bavail*10 < fs.Blocks && fs.Bavail*uint64(fs.Bsize) < enoughDisk
	return bytes || fs.Files > 0 && fs.Ffree*20 < fs.Files && fs.Ffree < enoughInodes
}

// lowPIDs: upstream has no default threshold; the last percent is low anywhere.
func lowPIDs() bool {
	limit, err1 := strconv.ParseInt(line("/proc/sys/kernel/pid_max"), 10, 64)
	f := strings.Fields(line("/proc/loadavg"))
	if err1 != nil || len(f) < 4 {
		return false
	}
	_, total, _ := strings.Cut(f[3], "/")
	n, err := strconv.ParseInt(total, 10, 64)
	return err == nil && n*100 > limit*99
}
