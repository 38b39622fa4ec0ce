/* SPDX-License-Identifier: Apache-2.0 */
/* shard.c - which part of the samples is this process's: --shard, or what a cluster has set. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conf/conf.h"

enum { SHARD_MOST = 10000 };

bool ft_shard_text(const char *text, struct ft_shard *out) {
    const char *slash = strchr(text, '/');
    char first[16];
    uint64_t i, n;
    if (!slash || (size_t)(slash - text) >= sizeof first) {
        return false;
    }
    snprintf(first, sizeof first, "%.*s", (int)(slash - text), text);
    if (!ft_text_uint(first, SHARD_MOST, &i) || !ft_text_uint(slash + 1, SHARD_MOST, &n) || i < 1 ||
        i > n) {
        return false;
    }
    *out = (struct ft_shard){ (uint32_t)i, (uint32_t)n };
    return true;
}

/* A whole number of the environment; an absent one is `initial`. */
static ft_status read_number(const char *name, uint64_t initial, uint64_t *out,
                             struct ft_error *error) {
    const char *text = getenv(name);
    *out = initial;
    if (text && !ft_text_uint(text, INT32_MAX, out)) {
        return ft_fail(error, FT_ARG, 0,
                       "%s is \"%.40s\", expected a whole number; --shard I/N overrides it", name,
                       text);
    }
    return FT_OK;
}

/* Ids of an array go from MIN on in steps; a list with other gaps has no order of its own. */
static ft_status slurm(struct ft_shard *out, struct ft_error *error) {
    uint64_t id, count, min, step;
    FT_TRY(read_number("SLURM_ARRAY_TASK_ID", 0, &id, error));
    FT_TRY(read_number("SLURM_ARRAY_TASK_COUNT", 0, &count, error));
    FT_TRY(read_number("SLURM_ARRAY_TASK_MIN", 0, &min, error));
    FT_TRY(read_number("SLURM_ARRAY_TASK_STEP", 1, &step, error));
    if (count < 1 || count > SHARD_MOST || step < 1 || id < min || (id - min) % step != 0 ||
        (id - min) / step >= count) {
        return ft_fail(error, FT_ARG, 0,
                       "SLURM_ARRAY_TASK_ID is %llu, expected one of %llu (SLURM_ARRAY_TASK_COUNT) "
                       "from %llu on in steps of %llu; --shard I/N overrides it",
                       (unsigned long long)id, (unsigned long long)count, (unsigned long long)min,
                       (unsigned long long)step);
    }
    *out = (struct ft_shard){ (uint32_t)((id - min) / step) + 1, (uint32_t)count };
    return FT_OK;
}

static ft_status open_mpi(struct ft_shard *out, struct ft_error *error) {
    uint64_t rank, size;
    FT_TRY(read_number("OMPI_COMM_WORLD_RANK", 0, &rank, error));
    FT_TRY(read_number("OMPI_COMM_WORLD_SIZE", 0, &size, error));
    if (size < 1 || size > SHARD_MOST || rank >= size) {
        return ft_fail(error, FT_ARG, 0,
                       "OMPI_COMM_WORLD_RANK is %llu, expected less than OMPI_COMM_WORLD_SIZE, "
                       "which is %llu; --shard I/N overrides it",
                       (unsigned long long)rank, (unsigned long long)size);
    }
    *out = (struct ft_shard){ (uint32_t)rank + 1, (uint32_t)size };
    return FT_OK;
}

ft_status ft_shard_environment(struct ft_shard *out, char *source, size_t cap,
                               struct ft_error *error) {
    bool is_slurm = getenv("SLURM_ARRAY_TASK_ID"), is_mpi = getenv("OMPI_COMM_WORLD_RANK");
    *out = (struct ft_shard){ 0 };
    if (is_slurm && is_mpi) {
        return ft_fail(
            error, FT_ARG, 0,
            "SLURM_ARRAY_TASK_ID and OMPI_COMM_WORLD_RANK are both set; --shard I/N says "
            "which part is meant");
    }
    snprintf(source, cap, "%s",
             is_slurm ? "SLURM_ARRAY_TASK_ID"
             : is_mpi ? "OMPI_COMM_WORLD_RANK"
                      : "");
    return is_slurm ? slurm(out, error) : is_mpi ? open_mpi(out, error) : FT_OK;
}
