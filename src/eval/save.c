/* SPDX-License-Identifier: Apache-2.0 */
/* save.c - a file that appears whole or not at all: written as PATH.foretoken-part, then renamed.  Or
 * standard output, which does not.
 *
 * That file is locked while it is written.  An interrupted run leaves it behind, and the next one
 * writes over it.  A link is followed, not replaced, and a file that is replaced keeps its mode.
 */
#define _DEFAULT_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "eval/eval.h"

enum { PATH_BYTES = 4096 };

static const char suffix[] = ".foretoken-part";

struct ft_save {
    FILE *file;
    bool is_good, is_standard;
    int code; /* errno of the first failure */
    char path[PATH_BYTES], part[PATH_BYTES + sizeof suffix];
};

static ft_status cannot(struct ft_error *error, const char *path, int code) {
    return ft_fail(error, FT_IO, 0, "%.160s: cannot be written: %s", path, strerror(code));
}

/* Whoever got the lock late may hold a file that was renamed meanwhile. */
static bool is_still_there(int fd, const char *part) {
    struct stat a, b;
    return fstat(fd, &a) == 0 && stat(part, &b) == 0 && a.st_ino == b.st_ino &&
           a.st_dev == b.st_dev;
}

static ft_status open_standard(struct ft_save **out, struct ft_error *error) {
    struct ft_save *save = ft_alloc(1, sizeof *save);
    int fd = dup(STDOUT_FILENO), code = errno;
    FILE *file = fd >= 0 ? fdopen(fd, "wb") : NULL;
    if (!save || !file) {
        code = fd >= 0 ? errno : code;
        if (fd >= 0 && !file) {
            close(fd);
        }
        if (file) {
            fclose(file);
        }
        code = save ? code : ENOMEM;
        ft_free(save);
        return cannot(error, "standard output", code);
    }
    save->file = file;
    save->is_good = save->is_standard = true;
    *out = save;
    return FT_OK;
}

/* The file that a path leads to.  mode: its own where there is one, else -1. */
static ft_status resolve(const char *path, char *out, int *mode, struct ft_error *error) {
    struct stat found, standard;
    bool is_there = stat(path, &found) == 0;
    *mode = -1;
    if (strlen(path) >= PATH_BYTES) {
        return cannot(error, path, ENAMETOOLONG);
    }
    if (is_there && fstat(STDOUT_FILENO, &standard) == 0 && found.st_dev == standard.st_dev &&
        found.st_ino == standard.st_ino) {
        return ft_fail(error, FT_IO, 0, "%.160s is standard output", path);
    }
    if (is_there && !S_ISREG(found.st_mode)) {
        return ft_fail(error, FT_IO, 0, "%.160s is not a regular file", path);
    }
    snprintf(out, PATH_BYTES, "%s", path);
    if (lstat(path, &standard) == 0 && S_ISLNK(standard.st_mode)) {
        char *real = realpath(path, NULL);
        if (!real || strlen(real) >= PATH_BYTES) {
            int code = real ? ENAMETOOLONG : errno;
            free(real);
            return cannot(error, path, code);
        }
        snprintf(out, PATH_BYTES, "%s", real);
        free(real);
    }
    if (is_there) {
        *mode = (int)(found.st_mode & 07777);
    }
    return FT_OK;
}

ft_status ft_save_open(const char *path, struct ft_save **out, struct ft_error *error) {
    char real[PATH_BYTES];
    int mode;
    if (!path) {
        return open_standard(out, error);
    }
    ft_status status = resolve(path, real, &mode, error);
    if (status != FT_OK) {
        return status;
    }
    struct ft_save *save = ft_alloc(1, sizeof *save);
    if (!save) {
        return ft_fail(error, FT_NOMEM, 0, "no memory to write %.160s", path);
    }
    char part[sizeof save->part];
    snprintf(save->path, sizeof save->path, "%s", real);
    snprintf(part, sizeof part, "%s%s", real, suffix);
    int fd = open(part, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    bool is_locked = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0;
    if (is_locked && is_still_there(fd, part) && ftruncate(fd, 0) == 0 &&
        (mode < 0 || fchmod(fd, (mode_t)mode) == 0)) {
        save->file = fdopen(fd, "wb");
    }
    if (save->file) {
        memcpy(save->part, part, sizeof part);
        save->is_good = true;
        *out = save;
        return FT_OK;
    }
    int code = errno;
    if (fd >= 0) {
        close(fd);
    }
    ft_free(save);
    return fd >= 0 && !is_locked
               ? ft_fail(error, FT_IO, 0, "%.160s is being written by another process", path)
               : cannot(error, path, code);
}

void ft_save_write(struct ft_save *save, const void *data, size_t n) {
    if (n > 0 && save->is_good && fwrite(data, 1, n, save->file) != n) {
        save->is_good = false;
        save->code = errno;
    }
}

void ft_save_print(struct ft_save *save, const char *format, ...) {
    va_list args;
    va_start(args, format);
    if (save->is_good && vfprintf(save->file, format, args) < 0) {
        save->is_good = false;
        save->code = errno;
    }
    va_end(args);
}

/* What a byte becomes in XML and HTML; NULL: itself. */
static const char *replaced(unsigned char c, bool is_sound) {
    switch (c) {
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '&':
        return "&amp;";
    case '\r': /* of CR LF; XML would read it as a line end of its own */
        return "";
    case '\n':
    case '\t':
        return NULL;
    default:
        return c < 32 || c == 127 || (c > 127 && !is_sound) ? "?" : NULL;
    }
}

void ft_save_text(struct ft_save *save, const char *text, size_t n) {
    bool is_sound = ft_utf8_check(text, n) == n;
    size_t start = 0; /* of the bytes that go out as they are */
    for (size_t i = 0; i < n; i++) {
        const char *other = replaced((unsigned char)text[i], is_sound);
        if (other) {
            ft_save_write(save, text + start, i - start);
            ft_save_write(save, other, strlen(other));
            start = i + 1;
        }
    }
    ft_save_write(save, text + start, n - start);
}

/* ---- pages ---- */

static const char page_head[] =
    "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width\">\n"
    "<style>\n"
    ":root{color-scheme:light dark}\n"
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;padding:0 1rem;max-width:60rem}\n";

void ft_page_begin(struct ft_save *save) {
    ft_save_write(save, page_head, strlen(page_head));
}

void ft_page_title(struct ft_save *save, const char *title) {
    ft_save_print(save, "</style>\n<title>");
    ft_save_text(save, title, strlen(title));
    ft_save_print(save, "</title>\n<h1>");
    ft_save_text(save, title, strlen(title));
    ft_save_print(save, "</h1>\n");
}

void ft_page_end(struct ft_save *save) {
    ft_save_print(save, "<p>foretoken %s</p>\n</html>\n", ft_version());
}

/* A reader that went away is no failure. */
static ft_status done_standard(struct ft_save *save, struct ft_error *error) {
    ft_status status = FT_OK;
    if (save->is_good && fflush(save->file) != 0) {
        save->is_good = false;
        save->code = errno;
    }
    if (!save->is_good && save->code != EPIPE) {
        status = cannot(error, "standard output", save->code);
    }
    fclose(save->file);
    ft_free(save);
    return status;
}

ft_status ft_save_done(struct ft_save *save, bool is_wanted, struct ft_error *error) {
    ft_status status = FT_OK;
    if (save->is_standard) {
        return done_standard(save, error);
    }
    /* renamed while open: the lock holds until the file has its final name */
    bool is_whole = save->is_good && fflush(save->file) == 0 && is_wanted &&
                    rename(save->part, save->path) == 0;
    if (!is_whole && is_wanted) {
        status = cannot(error, save->path, save->is_good ? errno : save->code);
    }
    if (!is_whole) {
        unlink(save->part);
    }
    fclose(save->file);
    ft_free(save);
    return status;
}

/* ---- sizes ---- */

const char *ft_size_text(uint64_t n_byte, char *text) {
    if (n_byte == UINT64_MAX) {
        snprintf(text, 24, "unknown");
    } else if (n_byte < 1u << 20) {
        snprintf(text, 24, "%.1f KiB", (double)n_byte / 1024.0);
    } else if (n_byte < 1ull << 30) {
        snprintf(text, 24, "%.1f MiB", (double)n_byte / (1024.0 * 1024.0));
    } else {
        snprintf(text, 24, "%.2f GiB", (double)n_byte / (1024.0 * 1024.0 * 1024.0));
    }
    return text;
}
