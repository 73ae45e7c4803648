package doctor

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// needControllers hold a pod's limits; without one of the wanted, a kind of
// limit is missing but pods run.
var (
	needControllers = []string{"cpu", "memory", "pids"}
	wantControllers = []string{"cpuset"}
)

func cgroups(Config) Result {
	version, have, err := controllers()
	if err != nil {
		return bad(Fail, "cgroups", err.Error(), "mount cgroups: mount -t cgroup2 none "+cgroupRoot)
	}
	found := fmt.Sprintf("v%d with %s", version, strings.Join(have, ", "))
	if missing := without(needControllers, have); len(missing) > 0 {
		return bad(Fail, "cgroups", found, "enable "+strings.Join(missing, ", ")+": take cgroup_disable off the kernel's command line (memory on a Raspberry Pi: cgroup_enable=memory)")
	}
	if missing := without(wantControllers, have); len(missing) > 0 {
		return bad(Warn, "cgroups", found, "enable "+strings.Join(missing, ", ")+" for exclusive CPUs")
	}
	return ok("cgroups", "%s", found)
}

func controllers() (version int, names []string, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &fs); err != nil {
		return 0, nil, fmt.Errorf("%s: %w", cgroupRoot, err)
	}
	if fs.Type == unix.CGROUP2_SUPER_MAGIC {
		data, err := os.ReadFile(cgroupRoot + "/cgroup.controllers")
		return 2, strings.Fields(string(data)), err
	}
	for _, c := range slices.Concat(needControllers, wantControllers) {
		if unix.Statfs(cgroupRoot+"/"+c, &fs) == nil && fs.Type == unix.CGROUP_SUPER_MAGIC {
			names = append(names, c)
		}
	}
	if len(names) == 0 {
		return 0, nil, fmt.Errorf("no controllers below %s", cgroupRoot)
	}
	return 1, names, nil
}

func without(want, have []string) (missing []string) {
	for _, w := range want {
		if !slices.Contains(have, w) {
			missing = append(missing, w)
		}
	}
	return missing
}
