package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"proa/control"
)

// TestResetLeavesNothing runs pods of several kinds, resets while they run, and
// looks for what is left.
func TestResetLeavesNothing(t *testing.T) {
	links, routes := linksNow(t), routesNow(t)
	m := newMachine(t)
	m.start()
	m.importImages()
	m.apply(rich)
	m.apply(box("open", "httpd -p 8080 -h /tmp; sleep 3600", "    ports: [{containerPort: 8080, hostPort: 18080}]\n"))
	m.k("expose", "pod", "open", "--port=80", "--target-port=8080", "--type=LoadBalancer")
	m.k("wait", "--for=condition=Ready", "pod/rich", "pod/open", "--timeout=60s")
	config := filepath.Join(m.home, ".kube", "config")
	if _, err := os.Stat(config); err != nil {
		t.Errorf("~/.kube/config does not point at the cluster: %v", err)
	}
	m.proa("reset", "--yes", "--data-dir", m.data, "--run-dir", m.run)
	m.ended("its reset")

	if left := m.processes(); len(left) > 0 {
		t.Errorf("processes: %v", left)
	}
	if left := m.mounts(); len(left) > 0 {
		t.Errorf("mounts: %v", left)
	}
	if left := linksNow(t); !slices.Equal(left, links) {
		t.Errorf("links: %v, were %v", left, links)
	}
	if left := routesNow(t); !slices.Equal(left, routes) {
		t.Errorf("routes: %v, were %v", left, routes)
	}
	if tables := tablesNow(t); len(tables) > 0 {
		t.Errorf("nftables tables: %v", tables)
	}
	if left := cgroupsOf("/sys/fs/cgroup", control.CgroupRoot(m.data)); len(left) > 0 {
		t.Errorf("cgroups: %v", left)
	}
	for _, path := range []string{m.data, m.run, config} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
}

// processes are the daemon's descendants: those whose executable, arguments or
// cgroup name this instance.
func (m *machine) processes() (pids []int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		cmd, _ := os.ReadFile(dir + "/cmdline")
		groups, _ := os.ReadFile(dir + "/cgroup")
		if pid != os.Getpid() && (strings.Contains(string(cmd), m.run) || strings.Contains(string(cmd), m.data) ||
			strings.Contains(string(groups), "/"+control.CgroupRoot(m.data)+"/")) && alive(dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func alive(dir string) bool {
	stat, err := os.ReadFile(dir + "/stat")
	_, after, found := strings.Cut(string(stat), ") ")
	return err == nil && found && after[0] != 'Z' && after[0] != 'X'
}

func (m *machine) mounts() (points []string) {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && (strings.HasPrefix(f[4], m.data) || strings.HasPrefix(f[4], m.run)) {
			points = append(points, f[4])
		}
	}
	slices.Reverse(points)
	return points
}

func linksNow(t *testing.T) (names []string) {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	slices.Sort(names)
	return names
}

func routesNow(t *testing.T) (out []string) {
	t.Helper()
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		out = append(out, r.String())
	}
	slices.Sort(out)
	return out
}

func tablesNow(t *testing.T) (names []string) {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		if strings.HasPrefix(table.Name, "proa") {
			names = append(names, table.Name)
		}
	}
	return names
}

// cgroupsOf finds the cgroups whose path has a part with this text.
func cgroupsOf(root, part string) (dirs []string) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(strings.TrimPrefix(path, root), part) {
			dirs = append(dirs, path)
		}
		return nil // what vanishes while walking is of no interest
	})
	return dirs
}
