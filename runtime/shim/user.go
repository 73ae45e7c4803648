//go:build cgo

package shim

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"proa/runtime/wire"
)

// resolveUser reads who u is from the image's own /etc/passwd and /etc/group.
func resolveUser(rootfs string, u wire.User) (specs.User, error) {
	passwd, err := readInRoot(rootfs, "etc/passwd")
	if err != nil {
		return specs.User{}, err
	}
	groups, err := readInRoot(rootfs, "etc/group")
	if err != nil {
		return specs.User{}, err
	}
	return lookUp(passwd, groups, u)
}

func lookUp(passwd, groups string, u wire.User) (specs.User, error) {
	name, err := userName(u)
	if err != nil {
		return specs.User{}, err
	}
	found, err := user.GetExecUser(name, nil, strings.NewReader(passwd), strings.NewReader(groups))
	if err != nil {
		return specs.User{}, fmt.Errorf("user %q: %w", name, err)
	}
	// The primary group is listed too: a process could else drop it to escape
	// a file's "deny this group" permissions.
	all := []uint32{uint32(found.Gid)}
	if !u.Strict {
		alone, _, _ := strings.Cut(name, ":")
		if member, err := user.GetExecUser(alone, nil, strings.NewReader(passwd), strings.NewReader(groups)); err == nil {
			for _, g := range member.Sgids {
				all = append(all, uint32(g))
			}
		}
	}
	for _, g := range u.Groups {
		all = append(all, uint32(g))
	}
	slices.Sort(all)
	return specs.User{UID: uint32(found.Uid), GID: uint32(found.Gid), AdditionalGids: slices.Compact(all)}, nil
}

// userName is the name to look up, with the pod's choice over the image's.
func userName(u wire.User) (string, error) {
	name := u.Name
	if u.UID != nil {
		name = strconv.FormatInt(*u.UID, 10)
	}
	if u.GID != nil {
		who, _, _ := strings.Cut(name, ":")
		if who == "" {
			return "", fmt.Errorf("a group (%d) without a user", *u.GID)
		}
		name = who + ":" + strconv.FormatInt(*u.GID, 10)
	}
	return name, nil
}

// maxAccounts bounds what is read of an image's /etc/passwd and /etc/group.
const maxAccounts = 4 << 20

// readInRoot reads a file below root, following no link out of it. A file that
// is not there is empty.
func readInRoot(root, path string) (string, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("root file system %s: %w", root, err)
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("the image's /%s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", fmt.Errorf("the image's /%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxAccounts))
	return string(data), err
}
