/* SPDX-License-Identifier: Apache-2.0 */
/* record.c - what a run has found so far, as JSON lines: {"manifest":{...}}, then one row a sample,
 * and {"run":{...}} in front of the rows of another run than the manifest tells of.
 *
 * A line is written by one call behind the last one, so that a run that is killed loses at most
 * the sample it was at.  What that leaves, a last line without its end, is cut off by the next run.
 * The file is locked while a run has it.
 */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "eval/run.h"

enum { KEY_BYTES = 1024, RECORD_MAX = 1 << 30 };

struct ft_record {
    const char *path;       /* borrowed; NULL: memory only */
    const json_t *manifest; /* borrowed */
    json_t *rows;           /* key -> row */
    int fd;                 /* -1: none */
    bool is_run_told;       /* the manifest's "run" is in the file */
};

static ft_status cannot(struct ft_error *error, const char *path, const char *what, int code) {
    return ft_fail(error, FT_IO, 0, "%.160s: cannot be %s: %s", path, what, strerror(code));
}

/* ---- rows by sample ---- */

static bool write_key(const struct ft_record_key *key, char out[KEY_BYTES]) {
    int n = snprintf(out, KEY_BYTES, "%s %" PRIu32 " %" PRIu32 " %s", key->task, key->ctx,
                     key->index, key->method);
    return n > 0 && n < KEY_BYTES;
}

const json_t *ft_record_find(const struct ft_record *record, const struct ft_record_key *key) {
    char text[KEY_BYTES];
    return write_key(key, text) ? json_object_get(record->rows, text) : NULL;
}

/* remember - takes row over; false when it is no row. */
static bool remember(struct ft_record *record, json_t *row) {
    const json_t *ctx = json_object_get(row, "ctx"), *index = json_object_get(row, "index");
    char text[KEY_BYTES];
    const struct ft_record_key key = { .task = json_string_value(json_object_get(row, "task")),
                                       .method = json_string_value(json_object_get(row, "method")),
                                       .ctx = (uint32_t)json_integer_value(ctx),
                                       .index = (uint32_t)json_integer_value(index) };
    bool is_row = key.task && key.method && json_is_integer(ctx) && json_is_integer(index) &&
                  json_is_number(json_object_get(row, "score")) && write_key(&key, text);
    if (is_row) {
        return json_object_set_new(record->rows, text, row) == 0;
    }
    json_decref(row);
    return false;
}

/* ---- lines ---- */

char *ft_record_line(const json_t *value, size_t *n) {
    size_t n_byte = json_dumpb(value, NULL, 0, JSON_COMPACT | JSON_REAL_PRECISION(9));
    char *line = n_byte > 0 ? ft_alloc(n_byte + 2, 1) : NULL;
    if (line) {
        json_dumpb(value, line, n_byte, JSON_COMPACT | JSON_REAL_PRECISION(9));
        memcpy(line + n_byte, "\n", 2);
        *n = n_byte + 1;
    }
    return line;
}

static ft_status write_line(struct ft_record *record, const json_t *value, struct ft_error *error) {
    size_t n = 0, done = 0;
    char *line = ft_record_line(value, &n);
    if (!line) {
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for a line of %.160s", record->path);
    }
    off_t start = lseek(record->fd, 0, SEEK_END);
    while (done < n) {
        ssize_t n_put = write(record->fd, line + done, n - done);
        if (n_put < 0 && errno != EINTR) {
            break;
        }
        done += n_put > 0 ? (size_t)n_put : 0;
    }
    int code = errno;
    ft_free(line);
    if (done == n) {
        return FT_OK;
    }
    if (start >= 0 && ftruncate(record->fd, start) != 0) {
        code = errno; /* the next run cuts the torn line off */
    }
    return cannot(error, record->path, "written", code);
}

static json_t *wrap(const char *key, const json_t *value) {
    json_t *line = json_object();
    json_object_set(line, key, (json_t *)(uintptr_t)value);
    return line;
}

bool ft_record_is_run(const json_t *line) {
    return json_is_object(json_object_get(line, "run")) && !json_object_get(line, "task");
}

/* Who ran it stands before the first row of that run, not before. */
static ft_status tell_run(struct ft_record *record, struct ft_error *error) {
    const json_t *run = json_object_get(record->manifest, "run");
    if (!run || record->is_run_told) {
        return FT_OK;
    }
    json_t *line = wrap("run", run);
    ft_status status = write_line(record, line, error);
    json_decref(line);
    record->is_run_told = status == FT_OK;
    return status;
}

ft_status ft_record_add(struct ft_record *record, json_t *row, struct ft_error *error) {
    ft_status status = row ? FT_OK : ft_fail(error, FT_NOMEM, 0, "not enough memory for a row");
    if (status == FT_OK && record->fd >= 0) {
        status = tell_run(record, error);
    }
    if (status == FT_OK && record->fd >= 0) {
        status = write_line(record, row, error);
    }
    if (status != FT_OK) {
        json_decref(row);
        return status;
    }
    return remember(record, row) ? FT_OK
                                 : ft_fail(error, FT_NOMEM, 0, "not enough memory for a row");
}

/* ---- going on ---- */

/* What a manifest tells without deciding about the samples. */
static bool is_told_only(const char *key) {
    return strcmp(key, "files") == 0 || strcmp(key, "run") == 0;
}

ft_status ft_record_same(const char *path, const json_t *manifest, const json_t *there,
                         struct ft_error *error) {
    json_t *both = json_object(), *value;
    const char *key;
    json_object_update(both, (json_t *)(uintptr_t)there);
    json_object_update(both, (json_t *)(uintptr_t)manifest);
    ft_status status = FT_OK;
    json_object_foreach(both, key, value) {
        const json_t *own = json_object_get(manifest, key);
        const json_t *found = json_object_get(there, key);
        if (is_told_only(key) || (own && found && json_equal(own, found))) {
            continue;
        }
        char *a = found ? json_dumps(found, JSON_ENCODE_ANY) : NULL;
        char *b = own ? json_dumps(own, JSON_ENCODE_ANY) : NULL;
        /* cut to what the message has room for */
        status = ft_fail(error, FT_MISMATCH, 0,
                         "%.80s was made with other settings: %.32s is %.47s there and %.47s here",
                         path, key, a ? a : "nothing", b ? b : "nothing");
        free(a);
        free(b);
        break;
    }
    json_decref(both);
    return status;
}

static void take_run(struct ft_record *record, const json_t *run) {
    const json_t *own = json_object_get(record->manifest, "run");
    record->is_run_told = record->is_run_told || (own && run && json_equal(own, run));
}

static ft_status take_line(struct ft_record *record, const char *line, size_t n, uint32_t number,
                           struct ft_error *error) {
    json_t *value = json_loadb(line, n, JSON_REJECT_DUPLICATES, NULL);
    json_t *manifest = json_object_get(value, "manifest");
    ft_status status = FT_OK;
    if (number == 1 && json_is_object(manifest)) {
        status = ft_record_same(record->path, record->manifest, manifest, error);
        take_run(record, json_object_get(manifest, "run"));
    } else if (number == 1) {
        status = ft_fail(error, FT_FORMAT, number,
                         "%.160s is no record of this program: its first line is no manifest",
                         record->path);
    } else if (ft_record_is_run(value)) {
        take_run(record, json_object_get(value, "run"));
    } else if (!value || !remember(record, json_incref(value))) {
        status = ft_fail(error, FT_FORMAT, number,
                         "%.160s: line %" PRIu32 " is no row of a record; move the file away",
                         record->path, number);
    }
    json_decref(value);
    return status;
}

/* A first line that was torn is the beginning of ours, or the file is none of ours.  What is only
 * told stands last in a manifest and may have been another run's. */
static bool is_torn_manifest(const struct ft_record *record, const char *text, size_t n) {
    json_t *own = wrap("manifest", record->manifest);
    size_t n_line = 0;
    char *line = ft_record_line(own, &n_line);
    const char *told = line ? strstr(line, "\"files\":") : NULL;
    size_t n_same = FT_MIN(n, told ? (size_t)(told - line) : n_line);
    bool is_torn = line && (told || n < n_line) && memcmp(line, text, n_same) == 0;
    ft_free(line);
    json_decref(own);
    return is_torn;
}

/* Read what is there; *n_whole bytes of it are lines with their end. */
static ft_status take_lines(struct ft_record *record, const char *text, size_t n, size_t *n_whole,
                            struct ft_error *error) {
    uint32_t number = 0;
    *n_whole = 0;
    for (const char *end = memchr(text, '\n', n); end;
         end = memchr(text + *n_whole, '\n', n - *n_whole)) {
        const char *line = text + *n_whole;
        FT_TRY(take_line(record, line, (size_t)(end - line), ++number, error));
        *n_whole += (size_t)(end - line) + 1;
    }
    if (number == 0 && n > 0 && !is_torn_manifest(record, text, n)) {
        return ft_fail(error, FT_FORMAT, 0,
                       "%.160s is no record of this program: its first line is no manifest",
                       record->path);
    }
    return FT_OK;
}

static ft_status go_on(struct ft_record *record, size_t n, struct ft_error *error) {
    size_t done = 0, n_whole = 0;
    char *text = ft_alloc(n + 1, 1);
    if (!text) {
        return ft_fail_memory(error, n, "the rows of %.80s", record->path);
    }
    while (done < n) {
        ssize_t n_got = pread(record->fd, text + done, n - done, (off_t)done);
        if (n_got == 0 || (n_got < 0 && errno != EINTR)) {
            break;
        }
        done += n_got > 0 ? (size_t)n_got : 0;
    }
    ft_status status = done == n ? take_lines(record, text, n, &n_whole, error)
                                 : cannot(error, record->path, "read", errno);
    ft_free(text);
    if (status == FT_OK && n_whole < n && ftruncate(record->fd, (off_t)n_whole) != 0) {
        status = cannot(error, record->path, "cut", errno);
    }
    if (status == FT_OK && n_whole == 0) {
        json_t *line = wrap("manifest", record->manifest);
        status = write_line(record, line, error);
        json_decref(line);
        record->is_run_told = true;
    }
    return status;
}

static ft_status open_file(struct ft_record *record, struct ft_error *error) {
    struct stat found;
    record->fd = open(record->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
    if (record->fd < 0) {
        return cannot(error, record->path, "opened", errno);
    }
    if (fstat(record->fd, &found) != 0 || !S_ISREG(found.st_mode)) {
        return ft_fail(error, FT_IO, 0, "%.160s is not a regular file", record->path);
    }
    if (flock(record->fd, LOCK_EX | LOCK_NB) != 0) {
        return ft_fail(error, FT_IO, 0, "%.160s is being written by another process", record->path);
    }
    if (fstat(record->fd, &found) != 0 || found.st_size > RECORD_MAX) {
        return ft_fail(error, FT_LIMIT, 0, "%.160s is larger than a record may be (%d bytes)",
                       record->path, RECORD_MAX);
    }
    return go_on(record, (size_t)found.st_size, error);
}

ft_status ft_record_open(const char *path, json_t *manifest, struct ft_record **out,
                         struct ft_error *error) {
    struct ft_record *record = ft_alloc(1, sizeof *record);
    json_t *rows = json_object();
    if (!record || !rows) {
        ft_free(record);
        json_decref(rows);
        return ft_fail(error, FT_NOMEM, 0, "not enough memory for a record");
    }
    *record = (struct ft_record){ .path = path, .manifest = manifest, .rows = rows, .fd = -1 };
    ft_status status = path ? open_file(record, error) : FT_OK;
    if (status != FT_OK) {
        ft_record_close(record);
        return status;
    }
    *out = record;
    return FT_OK;
}

void ft_record_close(struct ft_record *record) {
    if (record) {
        if (record->fd >= 0) {
            close(record->fd);
        }
        json_decref(record->rows);
        ft_free(record);
    }
}
