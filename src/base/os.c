/* SPDX-License-Identifier: Apache-2.0 */
/* os.c - what the operating system knows: time, mapped files, memory and CPUs this process may
 * use. */
#define _GNU_SOURCE /* sched_getaffinity, madvise */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <pthread.h>
#endif

int64_t ft_time_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* ---- files ---- */

static ft_status file_size(int fd, const char *path, size_t *size, struct ft_error *err) {
    struct stat st;
    if (fstat(fd, &st) != 0) {
        return ft_fail(err, FT_IO, 0, "%s: cannot be read: %s", path, strerror(errno));
    }
    if (!S_ISREG(st.st_mode)) {
        return ft_fail(err, FT_IO, 0, "%s is %s, expected a regular file", path,
                       S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
    }
    if (st.st_size == 0) {
        return ft_fail(err, FT_FORMAT, 0, "%s is empty", path);
    }
    if ((uint64_t)st.st_size > PTRDIFF_MAX) {
        return ft_fail(err, FT_LIMIT, 0, "%s has %" PRId64 " bytes, more than this machine can map",
                       path, (int64_t)st.st_size);
    }
    *size = (size_t)st.st_size;
    return FT_OK;
}

ft_status ft_file_map_open(const char *path, struct ft_file_map *out, struct ft_error *err) {
    /* without O_NONBLOCK a named pipe would wait here for a writer */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return ft_fail(err, FT_IO, 0, "%s: cannot be opened: %s", path, strerror(errno));
    }
    size_t size = 0;
    ft_status status = file_size(fd, path, &size, err);
    if (status == FT_OK) {
        void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            status = ft_fail(err, errno == ENOMEM ? FT_NOMEM : FT_IO, 0,
                             "%s: %zu bytes cannot be mapped: %s", path, size, strerror(errno));
        } else {
            *out = (struct ft_file_map){ .data = data, .size = size };
        }
    }
    close(fd);
    return status;
}

void ft_file_map_close(struct ft_file_map *map) {
    if (map != NULL && map->data != NULL) {
        munmap((void *)(uintptr_t)map->data, map->size);
        *map = (struct ft_file_map){ .data = NULL };
    }
}

void ft_file_map_release(const struct ft_file_map *map, size_t offset, size_t n) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (offset > map->size || n > map->size - offset) {
        return;
    }
    size_t first = (offset + page - 1) / page * page; /* the map itself starts on a page */
    size_t end = (offset + n) / page * page;
    if (end > first) {
        madvise((void *)((uintptr_t)map->data + first), end - first, MADV_DONTNEED);
    }
}

/* ---- small text files of /proc and /sys ---- */

/* Reads a file whole, cut at cap-1 bytes; false when there is none. */
static bool text_read(const char *path, char *text, size_t cap) {
    int fd = open(path, O_RDONLY | O_CLOEXEC); /* a FILE would want memory, which may be used up */
    size_t used = 0;
    ssize_t n = 0;
    if (fd < 0) {
        return false;
    }
    while (used + 1 < cap && (n = read(fd, text + used, cap - 1 - used)) > 0) {
        used += (size_t)n;
    }
    text[used] = '\0';
    close(fd);
    return used > 0;
}

/* The number after `key` at the start of a line; key "" takes the first line. */
static bool text_number(const char *text, const char *key, uint64_t *out) {
    size_t n = strlen(key);
    for (const char *line = text; line != NULL && *line != '\0';) {
        if (strncmp(line, key, n) == 0) {
            const char *at = line + n + strspn(line + n, " \t");
            char *end;
            errno = 0;
            uint64_t value = strtoull(at, &end, 10);
            if (end == at || errno != 0 || *at == '-') {
                return false; /* "max": no limit */
            }
            *out = value;
            return true;
        }
        line = strchr(line, '\n');
        line = line == NULL ? NULL : line + 1;
    }
    return false;
}

/* ---- control groups ---- */

/* One directory of a hierarchy: takes the stricter of *best and what the group allows. */
typedef void (*group_fn)(const char *dir, uint64_t *best);

static bool group_number(const char *dir, const char *name, const char *key, uint64_t *out) {
    char path[1200], text[8192];
    int n = snprintf(path, sizeof(path), "%s/%s", dir, name);
    return n > 0 && (size_t)n < sizeof(path) && text_read(path, text, sizeof(text)) &&
           text_number(text, key, out);
}

/* What is left below a limit.  File pages nobody has used lately are given back before the limit
 * bites, so they count as free, as in the kernel's own MemAvailable. */
static void memory_left(const char *dir, const char *const names[2], const char *stat_key,
                        uint64_t *best) {
    uint64_t limit, used, idle = 0;
    if (!group_number(dir, names[0], "", &limit) || !group_number(dir, names[1], "", &used)) {
        return;
    }
    group_number(dir, "memory.stat", stat_key, &idle);
    used -= FT_MIN(idle, used);
    *best = FT_MIN(*best, limit > used ? limit - used : 0);
}

static void memory_v2(const char *dir, uint64_t *best) {
    memory_left(dir, (const char *const[]){ "memory.max", "memory.current" }, "inactive_file ",
                best);
}

static void memory_v1(const char *dir, uint64_t *best) {
    memory_left(dir, (const char *const[]){ "memory.limit_in_bytes", "memory.usage_in_bytes" },
                "total_inactive_file ", best);
}

static void cpu_quota(uint64_t quota, uint64_t period, uint64_t *best) {
    if (quota > 0 && period > 0) {
        *best = FT_MIN(*best, quota / period + (quota % period != 0));
    }
}

static void cpu_v2(const char *dir, uint64_t *best) {
    char path[1200], text[128], *end;
    int n = snprintf(path, sizeof(path), "%s/cpu.max", dir); /* "quota period" or "max period" */
    if (n <= 0 || (size_t)n >= sizeof(path) || !text_read(path, text, sizeof(text))) {
        return;
    }
    uint64_t quota = strtoull(text, &end, 10);
    if (end != text) {
        cpu_quota(quota, strtoull(end, NULL, 10), best);
    }
}

static void cpu_v1(const char *dir, uint64_t *best) {
    uint64_t quota, period;
    if (group_number(dir, "cpu.cfs_quota_us", "", &quota) &&
        group_number(dir, "cpu.cfs_period_us", "", &period)) {
        cpu_quota(quota, period, best);
    }
}

/* Visits root + path and every directory above it down to root: a group is bound by its ancestors,
 * and inside a container the path of the host may not exist while the root does. */
static void group_walk(const char *root, const char *path, group_fn visit, uint64_t *best) {
    char dir[1100];
    size_t n_root = strlen(root);
    int n = snprintf(dir, sizeof(dir), "%s%s", root, path);
    if (n < 0 || (size_t)n >= sizeof(dir)) {
        visit(root, best);
        return;
    }
    for (;;) {
        visit(dir, best);
        char *slash = strrchr(dir, '/');
        if (slash == NULL || (size_t)(slash - dir) < n_root) {
            return;
        }
        *slash = '\0';
    }
}

/* Whether the comma-separated list holds the controller. */
static bool group_listed(const char *list, size_t n, const char *name) {
    size_t n_name = strlen(name);
    for (size_t at = 0; at + n_name <= n; at++) {
        bool starts = at == 0 || list[at - 1] == ',';
        bool ends = at + n_name == n || list[at + n_name] == ',';
        if (starts && ends && memcmp(list + at, name, n_name) == 0) {
            return true;
        }
    }
    return false;
}

/* The stricter of all limits on this process.  Lines of /proc/self/cgroup are
 * "id:controllers:path"; v2 has no controllers and hangs at the mount itself, v1 has a mount
 * per controller. */
static uint64_t group_limit(const char *mount, const char *self, const char *controller,
                            group_fn v1, group_fn v2) {
    uint64_t best = UINT64_MAX;
    char text[4096];
    if (!text_read(self, text, sizeof(text))) {
        return best;
    }
    for (char *line = text, *next; line != NULL && *line != '\0'; line = next) {
        next = strchr(line, '\n');
        if (next != NULL) {
            *next++ = '\0';
        }
        char *list = strchr(line, ':');
        char *path = list == NULL ? NULL : strchr(list + 1, ':');
        if (path == NULL) {
            continue;
        }
        size_t n_list = (size_t)(path - list) - 1;
        const char *below = strcmp(path + 1, "/") == 0 ? "" : path + 1;
        char root[256];
        if (n_list == 0) {
            group_walk(mount, below, v2, &best);
            snprintf(root, sizeof(root), "%s/unified", mount); /* v2 beside v1 */
            group_walk(root, below, v2, &best);
        } else if (group_listed(list + 1, n_list, controller)) {
            snprintf(root, sizeof(root), "%s/%s", mount, controller);
            group_walk(root, below, v1, &best);
        }
    }
    return best;
}

#define GROUP_MOUNT "/sys/fs/cgroup"
#define GROUP_SELF "/proc/self/cgroup"

/* ---- memory and CPUs ---- */

static uint64_t proc_kib(const char *path, const char *key, uint64_t unknown) {
    char text[8192];
    uint64_t kib;
    return text_read(path, text, sizeof(text)) && text_number(text, key, &kib) ? kib * 1024
                                                                               : unknown;
}

/* What `ulimit -v` leaves of the address space. */
static uint64_t address_left(void) {
    struct rlimit limit;
    uint64_t used = proc_kib("/proc/self/status", "VmSize:", 0);
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
        return UINT64_MAX;
    }
    return limit.rlim_cur > used ? limit.rlim_cur - used : 0;
}

uint64_t ft_memory_available(void) {
    uint64_t machine = proc_kib("/proc/meminfo", "MemAvailable:", UINT64_MAX);
    machine = FT_MIN(machine, address_left());
    return FT_MIN(machine, group_limit(GROUP_MOUNT, GROUP_SELF, "memory", memory_v1, memory_v2));
}

uint64_t ft_memory_resident(void) {
    return proc_kib("/proc/self/status", "VmRSS:", 0);
}

uint64_t ft_memory_resident_peak(void) {
    uint64_t peak = proc_kib("/proc/self/status", "VmHWM:", 0);
    struct rusage usage;
    if (peak == 0 && getrusage(RUSAGE_SELF, &usage) == 0) {
        peak = (uint64_t)usage.ru_maxrss * 1024;
    }
    return peak;
}

bool ft_memory_resident_peak_reset(void) {
    FILE *file = fopen("/proc/self/clear_refs", "we");
    bool is_written = file != NULL && fputs("5", file) >= 0;
    return file != NULL && fclose(file) == 0 && is_written;
}

uint32_t ft_cpu_count(void) {
    cpu_set_t set;
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    if (sched_getaffinity(0, sizeof(set), &set) == 0) {
        n = CPU_COUNT(&set);
    }
    uint64_t count =
        FT_MIN((uint64_t)FT_MAX(n, 1), group_limit(GROUP_MOUNT, GROUP_SELF, "cpu", cpu_v1, cpu_v2));
    return (uint32_t)FT_MAX(count, (uint64_t)1);
}

#if defined(__x86_64__)
/* XCR0: which registers the operating system saves on a task switch (Intel SDM vol. 1, 13.3). */
static uint64_t saved_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static struct ft_cpu features_read(void) {
    enum { FMA = 1 << 12, OSXSAVE = 1 << 27, AVX = 1 << 28, F16C = 1 << 29 }; /* leaf 1, ecx */
    enum { AVX2 = 1 << 5, F = 1 << 16, DQ = 1 << 17, BW = 1 << 30 };          /* leaf 7, ebx */
    enum { VNNI = 1 << 11, BF16 = 1 << 5 }; /* leaf 7, ecx; leaf 7.1, eax */
    const uint32_t vl = UINT32_C(1) << 31;
    const uint64_t ymm = 0x6, zmm = 0xe6; /* XCR0: xmm, ymm; and opmask, upper zmm, zmm16-31 */
    struct ft_cpu cpu = { .has_avx2 = false };
    uint32_t eax, ebx, ecx, edx, need = FMA | OSXSAVE | AVX | F16C;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & need) != need) {
        return cpu;
    }
    uint64_t saved = saved_state();
    if ((saved & ymm) != ymm || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) {
        return cpu;
    }
    need = F | DQ | BW | vl;
    cpu.has_avx2 = (ebx & AVX2) != 0;
    cpu.has_avx512 = cpu.has_avx2 && (ebx & need) == need && (saved & zmm) == zmm;
    cpu.has_vnni = cpu.has_avx512 && (ecx & VNNI) != 0;
    cpu.has_bf16 =
        cpu.has_avx512 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & BF16) != 0;
    return cpu;
}

static struct ft_cpu kept;

static void features_keep(void) {
    kept = features_read();
}

/* Read once: a virtual machine may take tens of microseconds for each question. */
struct ft_cpu ft_cpu_features(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, features_keep);
    return kept;
}
#else
struct ft_cpu ft_cpu_features(void) {
    struct ft_cpu cpu = { .has_avx2 = false };
#if defined(__aarch64__)
    cpu.has_neon = true; /* part of the base architecture */
#endif
    return cpu;
}
#endif
