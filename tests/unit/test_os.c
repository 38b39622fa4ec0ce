/* SPDX-License-Identifier: Apache-2.0 */
/* test_os.c - mapped files, limits of control groups (on a made-up hierarchy), CPU features. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <sys/wait.h>

#include "base/os.c"

#ifndef FT_TEST_SCRATCH_DIR
#define FT_TEST_SCRATCH_DIR "."
#endif

static const char *at(const char *name) {
    static char path[4][512];
    static unsigned turn;
    char *out = path[turn++ % 4];
    snprintf(out, 512, "%s/%s", FT_TEST_SCRATCH_DIR, name);
    return out;
}

static void put(const char *name, const char *text) {
    char folder[512];
    snprintf(folder, sizeof(folder), "%s", at(name));
    for (char *p = folder + strlen(FT_TEST_SCRATCH_DIR) + 1; (p = strchr(p, '/')) != NULL; p++) {
        *p = '\0';
        mkdir(folder, 0777);
        *p = '/';
    }
    FILE *file = fopen(folder, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* ---- files ---- */

static void test_map(void **state) {
    (void)state;
    struct ft_file_map map = { .data = NULL };
    struct ft_error err;
    put("file", "hello");
    assert_int_equal(ft_file_map_open(at("file"), &map, &err), FT_OK);
    assert_int_equal(map.size, 5);
    assert_memory_equal(map.data, "hello", 5);
    ft_file_map_release(&map, 0, 5);
    ft_file_map_release(&map, 3, 50); /* out of range: nothing */
    ft_file_map_release(&map, 6, SIZE_MAX);
    assert_memory_equal(map.data, "hello", 5);
    ft_file_map_close(&map);
    assert_null(map.data);
    ft_file_map_close(&map);
    ft_file_map_close(NULL);
}

static void test_map_errors(void **state) {
    (void)state;
    struct ft_file_map map = { .data = NULL };
    struct ft_error err;
    assert_int_equal(ft_file_map_open(at("missing"), &map, &err), FT_IO);
    assert_non_null(strstr(err.text, "missing: cannot be opened: No such file"));
    put("empty", "");
    assert_int_equal(ft_file_map_open(at("empty"), &map, &err), FT_FORMAT);
    assert_non_null(strstr(err.text, "empty is empty"));
    assert_int_equal(ft_file_map_open(FT_TEST_SCRATCH_DIR, &map, &err), FT_IO);
    assert_non_null(strstr(err.text, "is a directory"));
    unlink(at("pipe"));
    assert_int_equal(mkfifo(at("pipe"), 0600), 0); /* must not wait for a writer */
    assert_int_equal(ft_file_map_open(at("pipe"), &map, &err), FT_IO);
    assert_non_null(strstr(err.text, "not a regular file"));
    assert_int_equal(ft_file_map_open("/dev/null", &map, NULL), FT_IO);
    assert_null(map.data);
}

static void test_release_drops_pages(void **state) {
    (void)state;
    size_t n = 32 << 20;
    FILE *file = fopen(at("big"), "wb");
    char *block = calloc(1, 1 << 20);
    assert_non_null(block);
    for (size_t i = 0; i < n >> 20; i++) {
        assert_int_equal(fwrite(block, 1, 1 << 20, file), 1 << 20);
    }
    fclose(file);
    free(block);
    struct ft_file_map map;
    assert_int_equal(ft_file_map_open(at("big"), &map, NULL), FT_OK);
    uint64_t before = ft_memory_resident(), sum = 0;
    for (size_t i = 0; i < n; i += 512) {
        sum += map.data[i];
    }
    assert_int_equal(sum, 0);
    uint64_t full = ft_memory_resident();
    assert_true(full >= before + n / 2);
    ft_file_map_release(&map, 4096, n - 8192);
    assert_true(ft_memory_resident() < full - n / 2);
    /* the kernel counts pages per CPU and sums up late: 64 pages on each */
    assert_true(ft_memory_resident_peak() + (4 << 20) >= full);
    ft_file_map_close(&map);
    unlink(at("big"));
}

/* ---- control groups ---- */

static uint64_t memory_limit(const char *self) {
    put("self", self);
    char mount[512];
    snprintf(mount, sizeof(mount), "%s", at("cg"));
    return group_limit(mount, at("self"), "memory", memory_v1, memory_v2);
}

static uint64_t cpu_limit(const char *self) {
    put("self", self);
    char mount[512];
    snprintf(mount, sizeof(mount), "%s", at("cg"));
    return group_limit(mount, at("self"), "cpu", cpu_v1, cpu_v2);
}

static void test_groups_v2(void **state) {
    (void)state;
    put("cg/a/memory.max", "1000000\n");
    put("cg/a/memory.current", "400000\n");
    put("cg/a/memory.stat", "anon 1\ninactive_file 100000\nactive_file 5\n");
    put("cg/a/b/memory.max", "max\n");
    put("cg/a/b/memory.current", "5\n");
    put("cg/a/b/cpu.max", "150000 100000\n");
    put("cg/a/cpu.max", "max 100000\n");
    assert_int_equal(memory_limit("0::/a/b\n"),
                     700000); /* the parent's limit; idle file pages count as free */
    assert_true(memory_limit("0::/elsewhere\n") == UINT64_MAX);
    assert_true(memory_limit("0::/\n") == UINT64_MAX);
    assert_int_equal(cpu_limit("0::/a/b\n"), 2); /* one and a half cores */
    assert_true(cpu_limit("0::/a\n") == UINT64_MAX);
    put("cg/full/memory.max", "1000\n");
    put("cg/full/memory.current", "4000\n");
    assert_int_equal(memory_limit("0::/full\n"), 0);
}

static void test_groups_v1(void **state) {
    (void)state;
    put("cg/memory/x/memory.limit_in_bytes", "5000\n");
    put("cg/memory/x/memory.usage_in_bytes", "3000\n");
    put("cg/memory/x/memory.stat", "cache 9\ntotal_inactive_file 500\n");
    put("cg/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("cg/memory/memory.usage_in_bytes", "9000\n");
    put("cg/cpu/y/cpu.cfs_quota_us", "-1\n");
    put("cg/cpu/y/cpu.cfs_period_us", "100000\n");
    put("cg/cpu/z/cpu.cfs_quota_us", "300000\n");
    put("cg/cpu/z/cpu.cfs_period_us", "100000\n");
    assert_int_equal(memory_limit("5:cpu,cpuacct:/\n4:memory:/x\n"), 2500);
    /* inside a container the host's path does not exist: the root of the mount counts */
    assert_true(memory_limit("4:memory:/docker/123\n") == UINT64_C(9223372036854771712) - 9000);
    assert_true(memory_limit("4:memoryx:/x\n") == UINT64_MAX);
    assert_int_equal(cpu_limit("3:cpuacct,cpu:/z\n"), 3);
    assert_true(cpu_limit("3:cpu,cpuacct:/y\n") == UINT64_MAX);
    assert_true(cpu_limit("nonsense\n\n::\n") == UINT64_MAX);
}

static void test_numbers(void **state) {
    (void)state;
    uint64_t value = 1;
    assert_true(text_number("a 1\nb   22 kB\n", "b ", &value) && value == 22);
    assert_false(text_number("a 1\n", "c", &value));
    assert_false(text_number("max\n", "", &value));
    assert_false(text_number("-1\n", "", &value));
    assert_false(text_number("99999999999999999999999\n", "", &value));
    assert_int_equal(value, 22);
}

static void test_machine(void **state) {
    (void)state;
    assert_true(ft_cpu_count() >= 1 && ft_cpu_count() <= 4096);
    assert_true(ft_memory_available() > 1 << 20);
    assert_true(ft_memory_resident() > 1 << 16);
    int64_t t = ft_time_us();
    usleep(2000);
    assert_true(ft_time_us() - t >= 2000);
}

/* What is left below a limit of the address space counts as what is available: in a child, as the
 * limit stays. */
static void test_address_limit(void **state) {
    (void)state;
    enum { ROOM = 64 << 20 };
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rlimit limit;
        uint64_t used = proc_kib("/proc/self/status", "VmSize:", 0);
        getrlimit(RLIMIT_AS, &limit);
        limit.rlim_cur = used + ROOM;
        bool is_set = setrlimit(RLIMIT_AS, &limit) == 0;
        uint64_t left = ft_memory_available();
        limit.rlim_cur = 1 << 20; /* below what is used already */
        is_set = is_set && setrlimit(RLIMIT_AS, &limit) == 0;
        _exit(is_set && left <= ROOM && left > ROOM / 2 && ft_memory_available() == 0 ? 0 : 1);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* The features must be those that the kernel reports: it lists a set only if it saves its
 * registers. */
static void test_cpu(void **state) {
    (void)state;
    struct ft_cpu cpu = ft_cpu_features();
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[8192] = "";
    while (file != NULL && fgets(line, sizeof(line), file) != NULL &&
           strncmp(line, "flags", 5) != 0) {
    }
    if (file == NULL || strncmp(line, "flags", 5) != 0) {
        skip();
    }
    fclose(file);
    bool avx2 = strstr(line, " avx2 ") && strstr(line, " fma ") && strstr(line, " f16c ");
    bool avx512 = avx2 && strstr(line, " avx512f ") && strstr(line, " avx512bw ") &&
                  strstr(line, " avx512vl ") && strstr(line, " avx512dq ");
    assert_int_equal(cpu.has_avx2, avx2);
    assert_int_equal(cpu.has_avx512, avx512);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map),
        cmocka_unit_test(test_map_errors),
        cmocka_unit_test(test_release_drops_pages),
        cmocka_unit_test(test_groups_v2),
        cmocka_unit_test(test_groups_v1),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_machine),
        cmocka_unit_test(test_address_limit),
        cmocka_unit_test(test_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
