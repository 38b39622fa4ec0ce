/* SPDX-License-Identifier: Apache-2.0 */
/* base.c - errors, log lines, counted memory, checked sizes, UTF-8 and SHA-256. */
#define _DEFAULT_SOURCE
#include "base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- errors and log ---- */

const char *ft_status_text(ft_status status) {
    switch (status) {
#define STATUS_CASE(name, text)                                                                    \
    case name:                                                                                     \
        return text;
        FT_STATUS_LIST(STATUS_CASE)
#undef STATUS_CASE
    }
    return "unknown status";
}

#define VERSION_TEXT_(a, b, c) #a "." #b "." #c
#define VERSION_TEXT(a, b, c) VERSION_TEXT_(a, b, c)

const char *ft_version(void) {
    return VERSION_TEXT(FT_VERSION_MAJOR, FT_VERSION_MINOR, FT_VERSION_PATCH);
}

/* Messages quote names out of files: whatever is in there, the result is one line of valid

 * UTF-8. */
static void line_clean(char *text, bool is_cut) {
    size_t n = strlen(text);
    if (is_cut) {
        n -= ft_utf8_tail(text, n);
        text[n] = '\0';
    }
    for (size_t at = ft_utf8_check(text, n); at < n;
         at += 1 + ft_utf8_check(text + at + 1, n - at - 1)) {
        text[at] = '?';
    }
    for (char *p = text; *p != '\0'; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f) {
            *p = '?';
        }
    }
}

static void size_text(uint64_t n_byte, char *out, size_t cap) {
    static const char *const unit[] = { "KiB", "MiB", "GiB" };
    double value = (double)n_byte / 1024;
    size_t u = 0;
    for (; u + 1 < FT_COUNT(unit) && value >= 1024; u++) {
        value /= 1024;
    }
    if (n_byte < 1024) {
        snprintf(out, cap, "%u bytes", (unsigned)n_byte);
    } else {
        snprintf(out, cap, "%.1f %s", value, unit[u]);
    }
}

ft_status ft_fail_memory(struct ft_error *err, uint64_t n_byte, const char *format, ...) {
    char what[160], need[32], left[32] = "an unknown amount";
    uint64_t available = ft_memory_available();
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    size_text(n_byte, need, sizeof(need));
    if (available != UINT64_MAX) {
        size_text(available, left, sizeof(left));
    }
    return ft_fail(err, FT_NOMEM, 0, "no memory for %s: %s needed, %s available", what, need, left);
}

ft_status ft_fail(struct ft_error *err, ft_status code, uint64_t where, const char *format, ...) {
    if (err != NULL) {
        char text[sizeof(err->text)]; /* arguments may point into err itself */
        va_list args;
        va_start(args, format);
        int n = vsnprintf(text, sizeof(text), format, args);
        va_end(args);
        line_clean(text, n >= (int)sizeof(text));
        memcpy(err->text, text, sizeof(text));
        err->code = code;
        err->where = where;
    }
    return code;
}

void ft_assert_failed(const char *what, const char *file, int line) {
    char text[256];
    int n = snprintf(text, sizeof(text), "%s:%d: broken invariant: %s\n", file, line, what);
    ssize_t ignored = write(STDERR_FILENO, text, (size_t)FT_MIN(n, (int)sizeof(text) - 1));
    (void)ignored;
    abort();
}

static struct {
    ft_log_fn fn;
    void *user;
} log_target;

void ft_log_set(ft_log_fn fn, void *user) {
    log_target.user = user;
    log_target.fn = fn;
}

void ft_log(enum ft_log_level level, const char *format, ...) {
    if (log_target.fn == NULL) {
        return;
    }
    char text[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    line_clean(text, n >= (int)sizeof(text));
    log_target.fn(level, text, log_target.user);
}

/* ---- checked sizes ---- */

bool ft_size_add(size_t a, size_t b, size_t *out) {
    if (a > SIZE_MAX - b) {
        return false;
    }
    *out = a + b;
    return true;
}

bool ft_size_mul(size_t a, size_t b, size_t *out) {
    if (b != 0 && a > SIZE_MAX / b) {
        return false;
    }
    *out = a * b;
    return true;
}

/* ---- memory ---- */

static atomic_uint_fast64_t alloc_calls;
static atomic_int_fast64_t alloc_left; /* calls until one fails; 0: injection is off */
static atomic_bool alloc_sticky;

uint64_t ft_alloc_count(void) {
    return atomic_load(&alloc_calls);
}

void ft_alloc_fail_after(uint64_t n, bool sticky) {
    atomic_store(&alloc_sticky, sticky);
    atomic_store(&alloc_left, (int_fast64_t)FT_MIN(n, (uint64_t)INT64_MAX));
}

/* Counts a call and tells whether it may go on. */
static bool alloc_admit(void) {
    atomic_fetch_add(&alloc_calls, 1);
    int_fast64_t left = atomic_load(&alloc_left);
    while (left > 0) {
        int_fast64_t next = left > 1 ? left - 1 : (atomic_load(&alloc_sticky) ? 1 : 0);
        if (atomic_compare_exchange_weak(&alloc_left, &left, next)) {
            return left > 1;
        }
    }
    return true;
}

/* No object may be larger than half the address space: pointer differences must fit ptrdiff_t. */
static bool alloc_size(size_t n, size_t size, size_t *out) {
    if (!ft_size_mul(n, size, out) || *out > PTRDIFF_MAX) {
        return false;
    }
    *out = FT_MAX(*out, (size_t)1); /* so that NULL always means failure */
    return true;
}

void *ft_alloc(size_t n, size_t size) {
    size_t n_byte;
    if (!alloc_admit() || !alloc_size(n, size, &n_byte)) {
        return NULL;
    }
    return calloc(1, n_byte);
}

void *ft_grow(void *p, size_t n, size_t size) {
    size_t n_byte;
    if (!alloc_admit() || !alloc_size(n, size, &n_byte)) {
        return NULL;
    }
    return realloc(p, n_byte);
}

char *ft_strdup(const char *s) {
    size_t n = strlen(s) + 1;
    char *copy = ft_alloc(n, 1);
    if (copy != NULL) {
        memcpy(copy, s, n);
    }
    return copy;
}

void ft_free(void *p) {
    free(p);
}

void *ft_pages_map(size_t n_byte) {
    if (!alloc_admit() || n_byte == 0 || n_byte > PTRDIFF_MAX) {
        return NULL;
    }
    void *p = mmap(NULL, n_byte, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void ft_pages_unmap(void *p, size_t n_byte) {
    if (p != NULL) {
        int rc = munmap(p, n_byte);
        ft_assert(rc == 0);
    }
}

void ft_pages_drop(void *p, size_t n_byte) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = ((uintptr_t)p + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)p + n_byte) / page * page;
    if (p != NULL && end > first) {
        /* a private anonymous page reads as zero after MADV_DONTNEED */
        madvise((unsigned char *)p + (first - (uintptr_t)p), end - first, MADV_DONTNEED);
    }
}

void ft_pages_large(void *p, size_t n_byte) {
    if (p != NULL) {
        madvise(p, n_byte, MADV_HUGEPAGE); /* a wish: systems without them refuse it */
    }
}

void ft_gauge_add(struct ft_gauge *gauge, int64_t delta) {
    if (gauge == NULL) {
        return;
    }
    if (delta < 0) {
        uint64_t drop = (uint64_t)0 - (uint64_t)delta;
        ft_assert(drop <= gauge->now);
        gauge->now -= drop;
    } else {
        gauge->now += (uint64_t)delta;
        gauge->peak = FT_MAX(gauge->peak, gauge->now);
    }
}

/* ---- text ---- */

/* Length of the character that starts with byte c, 0 when none does; *lo..*hi bound its second
 * byte. The bounds exclude overlong forms, surrogates and values beyond U+10FFFF (Unicode 15,
 * table 3-7). */
static unsigned utf8_lead(unsigned char c, unsigned char *lo, unsigned char *hi) {
    *lo = 0x80;
    *hi = 0xbf;
    if (c < 0x80) {
        return 1;
    }
    if (c < 0xc2 || c > 0xf4) {
        return 0;
    }
    if (c < 0xe0) {
        return 2;
    }
    if (c < 0xf0) {
        *lo = c == 0xe0 ? 0xa0 : 0x80;
        *hi = c == 0xed ? 0x9f : 0xbf;
        return 3;
    }
    *lo = c == 0xf0 ? 0x90 : 0x80;
    *hi = c == 0xf4 ? 0x8f : 0xbf;
    return 4;
}

/* Valid bytes of the character at the start of p[n]: its whole length when *is_whole. */
static unsigned utf8_char(const unsigned char *p, size_t n, bool *is_whole) {
    unsigned char lo, hi;
    unsigned length = utf8_lead(p[0], &lo, &hi);
    *is_whole = false;
    if (length == 0) {
        return 0;
    }
    for (unsigned i = 1; i < length; i++, lo = 0x80, hi = 0xbf) {
        if (i == n) {
            return i;
        }
        if (p[i] < lo || p[i] > hi) {
            return 0;
        }
    }
    *is_whole = true;
    return length;
}

size_t ft_utf8_check(const char *text, size_t n) {
    const unsigned char *p = (const unsigned char *)text;
    size_t at = 0;
    while (at < n) {
        uint64_t word;
        if (n - at >= sizeof(word)) {
            memcpy(&word, p + at, sizeof(word));
            if ((word & UINT64_C(0x8080808080808080)) == 0) {
                at += sizeof(word);
                continue;
            }
        }
        bool is_whole;
        unsigned length = utf8_char(p + at, n - at, &is_whole);
        if (!is_whole) {
            return at;
        }
        at += length;
    }
    return n;
}

size_t ft_utf8_tail(const char *text, size_t n) {
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        const unsigned char *p = (const unsigned char *)text + n - back;
        if ((*p & 0xc0) == 0x80) {
            continue; /* a continuation byte: the character starts earlier */
        }
        bool is_whole;
        unsigned length = utf8_char(p, back, &is_whole);
        return !is_whole && length == back ? back : 0;
    }
    return 0;
}

/* ---- SHA-256, FIPS 180-4 sections 5 and 6.2 ---- */

static const uint32_t sha_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotr(uint32_t x, unsigned n) {
    return (x >> n) | (x << (32 - n));
}

/* One round with its letters; the callers rotate the letters instead of the values. */
#define SHA_ROUND(a, b, c, d, e, f, g, h, kw)                                                      \
    do {                                                                                           \
        uint32_t t1_ = h + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + (g ^ (e & (f ^ g))) + (kw);  \
        d += t1_;                                                                                  \
        h = t1_ + (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) | (c & (a | b)));            \
    } while (0)

static void sha_block(uint32_t state[8], const uint8_t *block) {
    uint32_t w[64];
    for (unsigned t = 0; t < 16; t++) {
        const uint8_t *p = block + 4 * t;
        w[t] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    }
    for (unsigned t = 16; t < 64; t++) {
        uint32_t s0 = rotr(w[t - 15], 7) ^ rotr(w[t - 15], 18) ^ (w[t - 15] >> 3);
        uint32_t s1 = rotr(w[t - 2], 17) ^ rotr(w[t - 2], 19) ^ (w[t - 2] >> 10);
        w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (unsigned t = 0; t < 64; t += 8) {
        SHA_ROUND(a, b, c, d, e, f, g, h, sha_k[t] + w[t]);
        SHA_ROUND(h, a, b, c, d, e, f, g, sha_k[t + 1] + w[t + 1]);
        SHA_ROUND(g, h, a, b, c, d, e, f, sha_k[t + 2] + w[t + 2]);
        SHA_ROUND(f, g, h, a, b, c, d, e, sha_k[t + 3] + w[t + 3]);
        SHA_ROUND(e, f, g, h, a, b, c, d, sha_k[t + 4] + w[t + 4]);
        SHA_ROUND(d, e, f, g, h, a, b, c, sha_k[t + 5] + w[t + 5]);
        SHA_ROUND(c, d, e, f, g, h, a, b, sha_k[t + 6] + w[t + 6]);
        SHA_ROUND(b, c, d, e, f, g, h, a, sha_k[t + 7] + w[t + 7]);
    }
    const uint32_t add[8] = { a, b, c, d, e, f, g, h };
    for (unsigned i = 0; i < 8; i++) {
        state[i] += add[i];
    }
}

void ft_sha256_init(struct ft_sha256 *sha) {
    *sha = (struct ft_sha256){ .state = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                          0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 } };
}

void ft_sha256_add(struct ft_sha256 *sha, const void *data, size_t n) {
    const uint8_t *p = data;
    size_t used = (size_t)(sha->n_byte % sizeof(sha->block));
    sha->n_byte += n;
    while (n > 0) {
        if (used == 0 && n >= sizeof(sha->block)) {
            sha_block(sha->state, p);
            p += sizeof(sha->block);
            n -= sizeof(sha->block);
            continue;
        }
        size_t take = FT_MIN(n, sizeof(sha->block) - used);
        memcpy(sha->block + used, p, take);
        p += take;
        n -= take;
        used += take;
        if (used == sizeof(sha->block)) {
            sha_block(sha->state, sha->block);
            used = 0;
        }
    }
}

void ft_sha256_done(struct ft_sha256 *sha, char hex[65]) {
    static const char digits[] = "0123456789abcdef";
    static const uint8_t pad[64] = { 0x80 };
    uint64_t n_bit = sha->n_byte * 8;
    uint8_t length[8];
    for (unsigned i = 0; i < 8; i++) {
        length[i] = (uint8_t)(n_bit >> (56 - 8 * i));
    }
    size_t used = (size_t)(sha->n_byte % 64);
    ft_sha256_add(sha, pad, used < 56 ? 56 - used : 120 - used);
    ft_sha256_add(sha, length, sizeof(length));
    for (unsigned i = 0; i < 64; i++) {
        hex[i] = digits[sha->state[i / 8] >> (28 - 4 * (i % 8)) & 15];
    }
    hex[64] = '\0';
}
