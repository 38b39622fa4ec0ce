/* SPDX-License-Identifier: Apache-2.0 */
/* base.h - what every folder needs and nothing about language models: errors, memory, files, time.
 *
 * Every allocation of the library goes through ft_alloc (small things) or ft_pages_map (rows,
 * hidden states): both are counted and can be made to fail, which is how tests prove that the
 * decode loop allocates nothing and that running out of memory is an answer, not a crash.
 */
#ifndef FT_BASE_BASE_H
#define FT_BASE_BASE_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "foretoken.h"

/* where a head stores a token now; see ft_pos for where it stands in the text */
typedef uint32_t ft_row;

#define FT_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define FT_MIN(a, b) ((a) < (b) ? (a) : (b))
#define FT_MAX(a, b) ((a) > (b) ? (a) : (b))

/* ---- errors ---- */

/* ft_fail - fill err (may be NULL) with one formatted line and return the code. */
ft_status ft_fail(struct ft_error *err, ft_status code, uint64_t where, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* ft_fail_memory - FT_NOMEM: "no memory for WHAT: 12.5 MiB needed, 3.0 MiB available"; format is
 * WHAT.  Give back what is of no use any more before: the line says what there is then. */
ft_status ft_fail_memory(struct ft_error *err, uint64_t n_byte, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* FT_TRY - pass a failure on to the caller. */
#define FT_TRY(call)                                                                               \
    do {                                                                                           \
        ft_status try_status_ = (call);                                                            \
        if (try_status_ != FT_OK) {                                                                \
            return try_status_;                                                                    \
        }                                                                                          \
    } while (0)

/* ft_assert - a broken invariant of ours; never for input. */
#define ft_assert(cond) ((cond) ? (void)0 : ft_assert_failed(#cond, __FILE__, __LINE__))
_Noreturn void ft_assert_failed(const char *what, const char *file, int line);

/* ft_log - one line to the callback of ft_log_set. */
void ft_log(enum ft_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- checked sizes: false on overflow, *out untouched ---- */
bool ft_size_add(size_t a, size_t b, size_t *out);
bool ft_size_mul(size_t a, size_t b, size_t *out);

/* ---- memory ---- */

/* zeroed; NULL on overflow, exhaustion or injection */
void *ft_alloc(size_t n, size_t size);
void *ft_grow(void *p, size_t n, size_t size); /* realloc; new bytes are not zeroed */
char *ft_strdup(const char *s);
void ft_free(void *p);

/* Whole pages from the kernel: zero until touched, given back at once when unmapped. */
void *ft_pages_map(size_t n_byte);           /* NULL when refused; n_byte >= 1 */
void ft_pages_unmap(void *p, size_t n_byte); /* NULL is a no-op */
/* ft_pages_drop - give the content of whole pages inside [p, p+n) back; they read as zero
 * afterwards. */
void ft_pages_drop(void *p, size_t n_byte);
/* ft_pages_large - most of these pages will be written: the system may use large ones, which are
 * filled and read faster; each that is touched takes memory as a whole. */
void ft_pages_large(void *p, size_t n_byte);

/* calls of ft_alloc, ft_grow, ft_strdup, ft_pages_map */
uint64_t ft_alloc_count(void);
/* ft_alloc_fail_after - the n-th call from now fails (1 = the next); sticky: so do all later ones;
 * 0: off. */
void ft_alloc_fail_after(uint64_t n, bool sticky);

/* A running total with its maximum; shared by the buffers it measures. */
struct ft_gauge {
    uint64_t now, peak;
};
void ft_gauge_add(struct ft_gauge *gauge, int64_t delta); /* gauge may be NULL */

/* ---- text ---- */

/* ft_utf8_check - byte offset of the first byte that is not UTF-8, or n when all is well. */
size_t ft_utf8_check(const char *text, size_t n);
/* ft_utf8_tail - how many bytes at the end of text form an incomplete but so far valid character
 * (0..3). */
size_t ft_utf8_tail(const char *text, size_t n);

/* ---- digest: SHA-256 (FIPS 180-4), for fingerprints ---- */
struct ft_sha256 {
    uint32_t state[8];
    uint64_t n_byte;
    uint8_t block[64];
};
void ft_sha256_init(struct ft_sha256 *sha);
void ft_sha256_add(struct ft_sha256 *sha, const void *data, size_t n);
void ft_sha256_done(struct ft_sha256 *sha, char hex[65]);

/* ---- the operating system (os.c) ---- */

int64_t ft_time_us(void); /* monotonic */

struct ft_file_map {
    const uint8_t *data; /* [size] read-only, private */
    size_t size;
};
/* ft_file_map_open - map a regular file.  Errors FT_IO (with strerror), FT_FORMAT when it is
 * empty. */
ft_status ft_file_map_open(const char *path, struct ft_file_map *out, struct ft_error *err);
void ft_file_map_close(struct ft_file_map *map);
/* ft_file_map_release - pages wholly inside the range need not stay resident any more. */
void ft_file_map_release(const struct ft_file_map *map, size_t offset, size_t n);

uint32_t ft_cpu_count(void); /* cores this process may use */
/* smallest of MemAvailable, cgroup limit minus use, what RLIMIT_AS leaves; UINT64_MAX unknown */
uint64_t ft_memory_available(void);
uint64_t ft_memory_resident(void); /* RSS of this process now; 0 unknown */
uint64_t ft_memory_resident_peak(void);
/* from here on the peak counts anew; false: this system cannot */
bool ft_memory_resident_peak_reset(void);

struct ft_cpu {
    /* avx2: +fma+f16c; avx512: f,bw,vl,dq and the OS saves the state */
    bool has_avx2, has_avx512, has_neon;
    bool has_bf16, has_vnni; /* the 512-bit dot products of bf16 pairs and of bytes */
};
struct ft_cpu ft_cpu_features(void);

#endif
