//go:build cgo && seccomp

package shim

/*
#cgo LDFLAGS: -lseccomp -Wl,-wrap=seccomp_init -Wl,-wrap=seccomp_arch_add
#cgo LDFLAGS: -Wl,-wrap=seccomp_attr_set -Wl,-wrap=seccomp_rule_add_array
#cgo LDFLAGS: -Wl,-wrap=seccomp_export_bpf
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

// Translating the default profile costs libseccomp 20 ms of CPU, in every
// container and every exec. What a translation follows from is the sequence of
// calls that ask for it, so those are written down as they are made; when the
// filter is wanted and the cache holds one for exactly this sequence, that is
// it. Otherwise the rules are handed to libseccomp then.

typedef struct { unsigned char *data; size_t len, cap; } bytes;

static bytes calls;     // of the filter being made
static bytes cache;     // entries: two lengths, the calls, the filter
static size_t rules_at; // where in calls the rules begin
static int store = -1;  // where new entries go

enum { max_cache = 1 << 20 };

// add fails by never matching: calls then stay incomplete.
static int add(bytes *b, const void *data, size_t len)
{
	if (b->len + len > b->cap) {
		size_t cap = (b->len + len) * 2;
		unsigned char *grown = realloc(b->data, cap);
		if (!grown)
			return -ENOMEM;
		b->data = grown;
		b->cap = cap;
	}
	memcpy(b->data + b->len, data, len);
	b->len += len;
	return 0;
}

struct rule { uint32_t action; int32_t call; uint32_t count; };

// Before everything else: an exec'd process is in the container's file system
// by the time Go starts.
__attribute__((constructor(101))) static void load_cache(int argc, char **argv)
{
	char path[PATH_MAX];
	const char *slash;
	struct stat st;
	int fd;

	if (argc != 2 || strcmp(argv[1], "init") != 0 || !(slash = strrchr(argv[0], '/')))
		return;
	if (snprintf(path, sizeof path, "%.*s/seccomp.cache", (int)(slash - argv[0]), argv[0]) >= (int)sizeof path)
		return;
	if ((fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)) < 0)
		return;
	if (fstat(fd, &st) == 0 && st.st_uid == 0 && !(st.st_mode & 022) && st.st_size <= max_cache &&
	    (cache.data = malloc(st.st_size))) {
		ssize_t n = read(fd, cache.data, st.st_size);
		cache.len = n > 0 ? (size_t)n : 0;
	}
	close(fd);
}

scmp_filter_ctx __real_seccomp_init(uint32_t action);
int __real_seccomp_arch_add(scmp_filter_ctx ctx, uint32_t arch);
int __real_seccomp_attr_set(scmp_filter_ctx ctx, enum scmp_filter_attr attr, uint32_t value);
int __real_seccomp_rule_add_array(scmp_filter_ctx ctx, uint32_t action, int call, unsigned int count, const struct scmp_arg_cmp *args);
int __real_seccomp_export_bpf(const scmp_filter_ctx ctx, int fd);

scmp_filter_ctx __wrap_seccomp_init(uint32_t action)
{
	calls.len = rules_at = 0;
	add(&calls, &action, sizeof action);
	return __real_seccomp_init(action);
}

int __wrap_seccomp_arch_add(scmp_filter_ctx ctx, uint32_t arch)
{
	uint32_t note[2] = { 'a', arch };

	if (rules_at)
		return -EINVAL; // libcontainer does it before the rules
	add(&calls, note, sizeof note);
	return __real_seccomp_arch_add(ctx, arch);
}

int __wrap_seccomp_attr_set(scmp_filter_ctx ctx, enum scmp_filter_attr attr, uint32_t value)
{
	uint32_t note[3] = { 't', attr, value };

	if (rules_at)
		return -EINVAL;
	add(&calls, note, sizeof note);
	return __real_seccomp_attr_set(ctx, attr, value);
}

int __wrap_seccomp_rule_add_array(scmp_filter_ctx ctx, uint32_t action, int call, unsigned int count, const struct scmp_arg_cmp *args)
{
	struct rule r = { action, call, count };

	if (!rules_at)
		rules_at = calls.len;
	if (add(&calls, &r, sizeof r) || add(&calls, args, count * sizeof *args))
		return -ENOMEM;
	return 0;
}

static int write_all(int fd, const unsigned char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, data, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		len -= n;
	}
	return 0;
}

// find returns the cached filter of the calls, or NULL.
static const unsigned char *find(uint32_t *len)
{
	const unsigned char *at = cache.data, *end = cache.data + cache.len;
	uint32_t lens[2];

	while ((size_t)(end - at) >= sizeof lens) {
		memcpy(lens, at, sizeof lens);
		at += sizeof lens;
		if (lens[0] > max_cache || lens[1] > max_cache || (size_t)(end - at) < (size_t)lens[0] + lens[1])
			return NULL;
		if (lens[0] == calls.len && memcmp(at, calls.data, calls.len) == 0) {
			*len = lens[1];
			return at + lens[0];
		}
		at += lens[0] + lens[1];
	}
	return NULL;
}

static int replay(scmp_filter_ctx ctx)
{
	size_t at = rules_at ? rules_at : calls.len;

	while (at < calls.len) {
		struct rule r;
		struct scmp_arg_cmp args[6];
		int err;

		memcpy(&r, calls.data + at, sizeof r);
		at += sizeof r;
		if (r.count > 6)
			return -EINVAL;
		memcpy(args, calls.data + at, r.count * sizeof *args);
		at += r.count * sizeof *args;
		if ((err = __real_seccomp_rule_add_array(ctx, r.action, r.call, r.count, args)))
			return err;
	}
	return 0;
}

// export_and_store writes the filter to fd and, as one write, to the store.
static int export_and_store(scmp_filter_ctx ctx, int fd)
{
	int err, mem = memfd_create("filter", MFD_CLOEXEC);
	unsigned char buf[4096];
	bytes entry = { 0 };
	uint32_t lens[2] = { calls.len, 0 };
	off_t at = 0;
	ssize_t n;

	if (mem < 0)
		return -errno;
	if ((err = __real_seccomp_export_bpf(ctx, mem)))
		goto out;
	lens[1] = lseek(mem, 0, SEEK_END);
	if ((err = add(&entry, lens, sizeof lens)) || (err = add(&entry, calls.data, calls.len)))
		goto out;
	for (; (n = pread(mem, buf, sizeof buf, at)) > 0; at += n)
		if ((err = add(&entry, buf, n)))
			goto out;
	if (entry.len == sizeof lens + lens[0] + lens[1] && lseek(store, 0, SEEK_END) + entry.len <= max_cache)
		write_all(store, entry.data, entry.len);
	err = write_all(fd, entry.data + sizeof lens + lens[0], entry.len - sizeof lens - lens[0]);
out:
	free(entry.data);
	close(mem);
	return err;
}

int __wrap_seccomp_export_bpf(const scmp_filter_ctx ctx, int fd)
{
	uint32_t len;
	const unsigned char *filter = find(&len);
	int err;

	if (filter)
		return write_all(fd, filter, len);
	if ((err = replay((scmp_filter_ctx)ctx)))
		return err;
	if (store >= 0)
		return export_and_store((scmp_filter_ctx)ctx, fd);
	return __real_seccomp_export_bpf(ctx, fd);
}

// use_cache has a process that makes filters ahead of time read and extend a
// cache.
static void use_cache(int fd)
{
	struct stat st;

	store = fd;
	if (fstat(fd, &st) == 0 && st.st_size <= max_cache && (cache.data = malloc(st.st_size + 1))) {
		ssize_t n = pread(fd, cache.data, st.st_size, 0);
		cache.len = n > 0 ? (size_t)n : 0;
	}
}
*/
import "C"

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// CacheFilter reads an OCI seccomp profile and adds its translation to the file
// beside the shim's binary, unless it is there. The process confines itself by
// it as a side effect and is of no further use.
func CacheFilter(profile io.Reader) error {
	runtime.LockOSThread()
	var spec specs.LinuxSeccomp
	if err := json.NewDecoder(profile).Decode(&spec); err != nil {
		return err
	}
	config, err := specconv.SetupSeccomp(&spec)
	if err != nil {
		return err
	}
	path := filepath.Join(filepath.Dir(os.Args[0]), "seccomp.cache")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("seccomp cache: %w", err)
	}
	C.use_cache(C.int(f.Fd()))
	_, err = seccomp.InitSeccomp(config)
	return err
}
