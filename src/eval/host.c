/* SPDX-License-Identifier: Apache-2.0 */
/* host.c - what the machine gives meanwhile: CPU time taken by others, bytes memory delivers. */
#define _DEFAULT_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "eval/eval.h"

/* ---- other processes ---- */

bool ft_host_use_read(struct ft_host_use *out) {
    unsigned long long user, nice, system, idle, wait, irq, soft, steal;
    struct rusage usage;
    FILE *file = fopen("/proc/stat", "r");
    if (!file) {
        return false;
    }
    int n = fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system,
                   &idle, &wait, &irq, &soft, &steal);
    fclose(file);
    long hertz = sysconf(_SC_CLK_TCK);
    if (n != 8 || hertz <= 0 || getrusage(RUSAGE_SELF, &usage) != 0) {
        return false;
    }
    out->busy_s = (double)(user + nice + system + irq + soft + steal) / (double)hertz;
    out->own_s = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                 (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    out->at_s = (double)ft_time_us() / 1e6;
    return true;
}

double ft_host_foreign(const struct ft_host_use *start) {
    struct ft_host_use now;
    if (start->at_s == 0 || !ft_host_use_read(&now) || now.at_s <= start->at_s) {
        return -1;
    }
    double foreign = (now.busy_s - start->busy_s) - (now.own_s - start->own_s);
    return FT_MAX(foreign, 0.0) / (now.at_s - start->at_s);
}

/* ---- memory ---- */

enum { LINE = 8, PASSES = 4 }; /* words summed at once: a cache line */

static const size_t cache_guess = (size_t)32 << 20; /* where the system does not say */
static const size_t buffer_min = (size_t)256 << 20, buffer_max = (size_t)1 << 30;

struct ft_dram {
    uint64_t *word; /* [n_word] */
    size_t n_word;
    uint32_t n_thread;
};

/* Several times the last cache, so that hardly a line of it survives until the next pass. */
static size_t buffer_bytes(void) {
    size_t cache = cache_guess;
#ifdef _SC_LEVEL3_CACHE_SIZE
    long found = sysconf(_SC_LEVEL3_CACHE_SIZE);
    cache = found > 0 ? (size_t)found : cache;
#endif
    size_t n = FT_MIN(FT_MAX(8 * cache, buffer_min), buffer_max);
    uint64_t room = ft_memory_available() / 8;
    return (size_t)FT_MIN((uint64_t)n, room) / 4096 * 4096;
}

struct ft_dram *ft_dram_new(uint32_t n_thread) {
    struct ft_dram *dram = ft_alloc(1, sizeof *dram);
    size_t n_byte = buffer_bytes();
    if (!dram || n_byte == 0) {
        ft_free(dram);
        return NULL;
    }
    *dram = (struct ft_dram){ .n_thread = FT_MAX(n_thread, 1u),
                              .n_word = n_byte / sizeof *dram->word,
                              .word = ft_pages_map(n_byte) };
    if (!dram->word) {
        ft_free(dram);
        return NULL;
    }
    memset(dram->word, 1, n_byte); /* untouched pages are all one page of zeros */
    return dram;
}

void ft_dram_free(struct ft_dram *dram) {
    if (dram) {
        ft_pages_unmap(dram->word, dram->n_word * sizeof *dram->word);
        ft_free(dram);
    }
}

struct part {
    pthread_t thread;
    const uint64_t *word;
    size_t n_word;
    uint64_t sum; /* kept, so that the loop is not left out */
};

static void *part_sum(void *user) {
    struct part *part = user;
    uint64_t sum[LINE] = { 0 };
    for (size_t i = 0; i + LINE <= part->n_word; i += LINE) {
        for (size_t j = 0; j < LINE; j++) {
            sum[j] += part->word[i + j];
        }
    }
    for (size_t j = 0; j < LINE; j++) {
        part->sum += sum[j];
    }
    return NULL;
}

/* One pass of all threads; its time, or < 0 when a thread could not be started. */
static int64_t pass_us(const struct ft_dram *dram, struct part *part) {
    size_t per_thread = dram->n_word / dram->n_thread / LINE * LINE;
    uint32_t n_started = 0;
    int64_t start = ft_time_us();
    for (; n_started < dram->n_thread; n_started++) {
        struct part *p = &part[n_started];
        p->word = dram->word + (size_t)n_started * per_thread;
        p->n_word = per_thread;
        if (pthread_create(&p->thread, NULL, part_sum, p) != 0) {
            break;
        }
    }
    for (uint32_t i = 0; i < n_started; i++) {
        pthread_join(part[i].thread, NULL);
    }
    return n_started == dram->n_thread ? ft_time_us() - start : -1;
}

double ft_dram_rate(const struct ft_dram *dram) {
    struct part *part = dram ? ft_alloc(dram->n_thread, sizeof *part) : NULL;
    int64_t best = INT64_MAX;
    if (!part) {
        return -1;
    }
    for (int pass = 0; pass < PASSES && best > 0; pass++) {
        int64_t us = pass_us(dram, part);
        best = FT_MIN(best, us);
    }
    ft_free(part);
    size_t n = dram->n_word / dram->n_thread / LINE * LINE * dram->n_thread;
    return best > 0 ? (double)(n * sizeof *dram->word) / (double)best / 1e3 : -1;
}
