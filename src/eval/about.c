/* SPDX-License-Identifier: Apache-2.0 */
/* about.c - what results say of the program and the machine that made them. */
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "eval/about.h"

#include "eval/commit.h" /* made at build time: FT_COMMIT */

#ifdef __clang__
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

const char *ft_about_commit(void) {
    return FT_COMMIT;
}

json_t *ft_about_libraries(void) {
    json_t *value = json_object();
    json_object_set_new(value, "llama.cpp", json_string(FT_LLAMA_VERSION));
    json_object_set_new(value, "ggml", json_string(FT_GGML_VERSION));
    json_object_set_new(value, "jansson", json_string(jansson_version_str()));
    json_object_set_new(value, "compiler", json_string(COMPILER));
    return value;
}

/* The first "model name" of /proc/cpuinfo; null where there is none, as on some ARM machines. */
static json_t *cpu_name(void) {
    char line[256];
    json_t *name = NULL;
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && !name && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (colon && strncmp(line, "model name", 10) == 0) {
            line[strcspn(line, "\n")] = '\0';
            name = json_string(colon + 1 + strspn(colon + 1, " \t"));
        }
    }
    if (file) {
        fclose(file);
    }
    return name ? name : json_null();
}

json_t *ft_about_machine(void) {
    json_t *value = json_object();
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    json_object_set_new(value, "cpu", cpu_name());
    json_object_set_new(value, "cores", json_integer(ft_cpu_count()));
    json_object_set_new(value, "memory_bytes",
                        pages > 0 && page > 0 ? json_integer((json_int_t)pages * page)
                                              : json_null());
    json_object_set_new(value, "kernels", json_string(ft_kernel_table()));
    return value;
}
