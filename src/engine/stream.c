/* SPDX-License-Identifier: Apache-2.0 */
/* stream.c - turns the bytes of tokens into text to show: whole characters, no stop strings.
 *
 *   bytes -> raw (at most 3 bytes wait for the rest of their character)
 *         -> text, valid UTF-8: what cannot become a character is U+FFFD, one per maximal subpart
 *         -> shown, except a suffix that may still grow into a stop string
 *
 * The stop string that is complete first wins (of several that end together the longest), so what
 * is shown does not depend on how the text was cut into tokens.
 */
#include "base/base.h"

#include <string.h>

enum {
    STOP_COUNT_MAX = 64, /* bounds the work per byte */
    STOP_BYTES_MAX = 1024,
    PUSH_BYTES = 1024, /* longest push that needs no new memory; longer ones grow the buffers */
    PUSH_BYTES_MAX = 1 << 20,
    CHAR_PART = 3, /* longest incomplete character */
};

static const char replacement[] = "\xEF\xBF\xBD"; /* U+FFFD */

struct stop {
    char *text; /* [n] owned */
    size_t n;
};

struct ft_stream {
    struct stop *stop; /* [n_stop] */
    uint32_t n_stop;
    size_t n_stop_byte; /* the longest */
    char *raw;          /* [CHAR_PART + n_push] bytes not yet looked at */
    char *text;         /* [n_stop_byte + 3 * (CHAR_PART + n_push) + 1] shown, then held back */
    size_t n_raw, n_shown, n_text;
    size_t n_push; /* longest push the buffers hold */
    bool is_stopped;
};

static ft_status reserve(struct ft_stream *s, size_t n_push) {
    if (n_push <= s->n_push) {
        return FT_OK;
    }
    if (n_push > PUSH_BYTES_MAX) {
        return FT_LIMIT;
    }
    char *raw = ft_grow(s->raw, CHAR_PART + n_push, 1);
    if (raw == NULL) {
        return FT_NOMEM;
    }
    s->raw = raw;
    /* every byte may become a replacement character of three */
    char *text = ft_grow(s->text, s->n_stop_byte + 3 * (CHAR_PART + n_push) + 1, 1);
    if (text == NULL) {
        return FT_NOMEM;
    }
    s->text = text;
    s->n_push = n_push;
    return FT_OK;
}

static ft_status add_stop(struct ft_stream *s, uint32_t i, const char *text, struct ft_error *err) {
    size_t n = text == NULL ? 0 : strlen(text);
    if (n == 0 || n > STOP_BYTES_MAX) {
        return ft_fail(err, FT_ARG, i, "stop string %u has %zu bytes, expected 1..%d", i + 1, n,
                       STOP_BYTES_MAX);
    }
    size_t bad = ft_utf8_check(text, n);
    if (bad < n) {
        return ft_fail(err, FT_FORMAT, i, "stop string %u is not UTF-8 at byte %zu", i + 1, bad);
    }
    s->stop[i].text = ft_strdup(text);
    if (s->stop[i].text == NULL) {
        return ft_fail(err, FT_NOMEM, i, "stop string %u: no memory for %zu bytes", i + 1, n);
    }
    s->stop[i].n = n;
    s->n_stop_byte = FT_MAX(s->n_stop_byte, n);
    return FT_OK;
}

ft_status ft_stream_new(const char *const *stop, uint32_t n_stop, ft_stream **out,
                        struct ft_error *err) {
    if (n_stop > STOP_COUNT_MAX) {
        return ft_fail(err, FT_ARG, 0, "%u stop strings, expected at most %d", n_stop,
                       STOP_COUNT_MAX);
    }
    ft_status status = FT_OK;
    struct ft_stream *s = ft_alloc(1, sizeof(*s));
    if (s != NULL) {
        s->stop = ft_alloc((size_t)n_stop + 1, sizeof(*s->stop));
    }
    if (s == NULL || s->stop == NULL) {
        status = ft_fail(err, FT_NOMEM, 0, "text stream: no memory for %u stop strings", n_stop);
        goto out;
    }
    s->n_stop = n_stop;
    for (uint32_t i = 0; i < n_stop && status == FT_OK; i++) {
        status = add_stop(s, i, stop[i], err);
    }
    if (status == FT_OK && reserve(s, PUSH_BYTES) != FT_OK) {
        status = ft_fail(err, FT_NOMEM, 0, "text stream: no memory for its buffers");
    }
out:
    if (status != FT_OK) {
        ft_stream_free(s);
        return status;
    }
    *out = s;
    return FT_OK;
}

void ft_stream_free(ft_stream *stream) {
    if (stream == NULL) {
        return;
    }
    for (uint32_t i = 0; stream->stop != NULL && i < stream->n_stop; i++) {
        ft_free(stream->stop[i].text);
    }
    ft_free(stream->stop);
    ft_free(stream->raw);
    ft_free(stream->text);
    ft_free(stream);
}

/* Length of the longest beginning of a character at p: 1..3 bytes that are replaced together. */
static size_t broken_part(const char *p, size_t n) {
    for (size_t k = FT_MIN((size_t)CHAR_PART, n); k > 1; k--) {
        if (ft_utf8_tail(p, k) == k) {
            return k;
        }
    }
    return 1;
}

/* Move whole characters from raw to text.  is_end: nothing can complete the last one any more. */
static void decode(struct ft_stream *s, bool is_end) {
    size_t at = 0;
    for (;;) {
        size_t n = s->n_raw - at;
        size_t good = ft_utf8_check(s->raw + at, n);
        memcpy(s->text + s->n_text, s->raw + at, good);
        s->n_text += good;
        at += good;
        n -= good;
        if (n == 0 || (!is_end && ft_utf8_tail(s->raw + at, n) == n)) {
            break;
        }
        at += broken_part(s->raw + at, n);
        memcpy(s->text + s->n_text, replacement, sizeof(replacement) - 1);
        s->n_text += sizeof(replacement) - 1;
    }
    memmove(s->raw, s->raw + at, s->n_raw - at);
    s->n_raw -= at;
}

/* Whether a stop string ends at byte `end` of the text; *first: where the longest such begins. */
static bool ends_stop(const struct ft_stream *s, size_t end, size_t *first) {
    size_t longest = 0;
    for (uint32_t i = 0; i < s->n_stop; i++) {
        size_t n = s->stop[i].n;
        if (n > longest && n <= end && memcmp(s->text + end - n, s->stop[i].text, n) == 0) {
            longest = n;
        }
    }
    *first = end - longest;
    return longest > 0;
}

/* Bytes at the end of the text that may be the beginning of a stop string. */
static size_t undecided(const struct ft_stream *s) {
    size_t longest = 0;
    for (uint32_t i = 0; i < s->n_stop; i++) {
        size_t n = FT_MIN(s->stop[i].n - 1, s->n_text);
        while (n > longest && memcmp(s->text + s->n_text - n, s->stop[i].text, n) != 0) {
            n--;
        }
        longest = FT_MAX(longest, n);
    }
    return longest;
}

/* Decide how much of the text is shown.  Bytes before `old` were searched by an earlier push. */
static void show(struct ft_stream *s, size_t old, bool is_end) {
    size_t first = 0;
    for (size_t end = old + 1; end <= s->n_text; end++) {
        if (ends_stop(s, end, &first)) {
            s->is_stopped = true;
            s->n_shown = first;
            s->n_text = first;
            s->n_raw = 0;
            return;
        }
    }
    s->n_shown = is_end ? s->n_text : s->n_text - undecided(s);
}

ft_status ft_stream_push(ft_stream *stream, const char *bytes, size_t n_byte, const char **text,
                         size_t *n, bool *stopped) {
    struct ft_stream *s = stream;
    n_byte = bytes == NULL ? 0 : n_byte;
    FT_TRY(reserve(s, n_byte));
    size_t held = s->n_text - s->n_shown;
    memmove(s->text, s->text + s->n_shown, held);
    s->n_text = held;
    s->n_shown = 0;
    if (!s->is_stopped) {
        if (n_byte > 0) {
            memcpy(s->raw + s->n_raw, bytes, n_byte);
            s->n_raw += n_byte;
        }
        decode(s, bytes == NULL);
        show(s, held, bytes == NULL);
    }
    *text = s->text;
    *n = s->n_shown;
    *stopped = s->is_stopped;
    return FT_OK;
}
