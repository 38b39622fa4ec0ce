/* SPDX-License-Identifier: Apache-2.0 */
/* ui.c - standard output and error, Ctrl-C and the progress display.
 *
 * Ctrl-C: a guarded session is cancelled and the command winds down by itself; a timer ends the
 * program if that takes longer than GRACE_MS, and so does a second Ctrl-C.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <termios.h>
#include <unistd.h>

#include "cli/cli.h"

enum { GRACE_MS = 80, OUT_CAP = 1 << 16, LINE_CAP = 4096 };

static struct {
    char bytes[OUT_CAP];
    size_t n;
    int error; /* errno of the first failed write; 0: none */
} out;

static struct {
    _Atomic(ft_session *) session;
    atomic_bool is_interrupted;
    atomic_bool is_bar_drawn; /* the bar is wiped before the program ends */
} guard;

/* ---- signals ---- */

static const char wipe[] = "\r\033[K";

_Noreturn static void leave(void) {
    if (atomic_load(&guard.is_bar_drawn)) {
        ssize_t n = write(STDERR_FILENO, wipe, sizeof wipe - 1);
        (void)n;
    }
    _exit(FT_EXIT_INTERRUPT);
}

static void on_alarm(int signal_number) {
    (void)signal_number;
    leave();
}

static void on_interrupt(int signal_number) {
    ft_session *session = atomic_load(&guard.session);
    if (atomic_exchange(&guard.is_interrupted, true) || !session) {
        leave();
    }
    ft_session_cancel(session);
    struct itimerval timer = { .it_value = { .tv_usec = GRACE_MS * 1000 } };
    int saved = errno;
    (void)signal_number;
    setitimer(ITIMER_REAL, &timer, NULL);
    errno = saved;
}

void ft_ui_guard(ft_session *session) {
    atomic_store(&guard.session, session);
}

bool ft_ui_is_interrupted(void) {
    return atomic_load(&guard.is_interrupted);
}

void ft_ui_start(void) {
    struct sigaction action = { .sa_handler = SIG_IGN };
    /* A model opened as descriptor 1 would be written to: fill the gaps first. */
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) == -1 && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd) {
            _exit(FT_EXIT_FAILED);
        }
    }
    sigemptyset(&action.sa_mask);
    sigaction(SIGPIPE, &action, NULL);
    action.sa_flags = SA_RESTART;
    action.sa_handler = on_interrupt;
    sigaction(SIGINT, &action, NULL);
    action.sa_handler = on_alarm;
    sigaction(SIGALRM, &action, NULL);
}

/* ---- standard output ---- */

bool ft_out_flush(void) {
    size_t done = 0;
    while (done < out.n && out.error == 0) {
        ssize_t n = write(STDOUT_FILENO, out.bytes + done, out.n - done);
        if (n >= 0) {
            done += (size_t)n;
        } else if (errno != EINTR) {
            out.error = errno;
        }
    }
    out.n = 0;
    return out.error == 0;
}

void ft_out_bytes(const char *bytes, size_t n) {
    while (n > 0) {
        size_t part = FT_MIN(n, OUT_CAP - out.n);
        memcpy(out.bytes + out.n, bytes, part);
        out.n += part;
        bytes += part;
        n -= part;
        if (out.n == OUT_CAP && !ft_out_flush()) {
            return;
        }
    }
}

void ft_out(const char *format, ...) {
    char line[LINE_CAP];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n > 0) {
        ft_out_bytes(line, FT_MIN((size_t)n, sizeof line - 1));
    }
}

static void make_safe(char *text) {
    for (; *text != '\0'; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7f) {
            *text = '?';
        }
    }
}

void ft_out_safe(const char *text) {
    char part[256];
    size_t n = strlen(text);
    for (size_t at = 0; at < n; at += sizeof part - 1) {
        size_t n_part = FT_MIN(n - at, sizeof part - 1);
        memcpy(part, text + at, n_part);
        part[n_part] = '\0';
        make_safe(part);
        ft_out_bytes(part, n_part);
    }
}

int ft_out_end(int code) {
    if (!ft_out_flush()) {
        if (out.error != EPIPE) {
            return ft_complain(FT_EXIT_FAILED, "cannot write to standard output: %s",
                               strerror(out.error));
        }
    }
    return code;
}

/* ---- standard error ---- */

static void say(const char *head, const char *format, va_list args) {
    char line[LINE_CAP];
    vsnprintf(line, sizeof line, format, args);
    make_safe(line);
    fprintf(stderr, "%s%s\n", head, line);
}

int ft_complain(int code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    say("foretoken: ", format, args);
    va_end(args);
    return code;
}

void ft_note(const char *format, ...) {
    va_list args;
    va_start(args, format);
    say("", format, args);
    va_end(args);
}

int ft_exit_of(ft_status status) {
    switch (status) {
    case FT_OK:
        return FT_EXIT_OK;
    case FT_ARG:
        return FT_EXIT_USAGE;
    case FT_CANCELLED:
        return FT_EXIT_INTERRUPT;
    default:
        return FT_EXIT_FAILED;
    }
}

int ft_complain_error(const char *what, const struct ft_error *error) {
    int code = ft_exit_of(error->code == FT_OK ? FT_INTERNAL : error->code);
    if (code == FT_EXIT_INTERRUPT) {
        return code;
    }
    const char *text = error->text[0] ? error->text : ft_status_text(error->code);
    return what ? ft_complain(code, "%s: %s", what, text) : ft_complain(code, "%s", text);
}

/* ---- progress ---- */

void ft_progress_init(struct ft_progress *progress, const struct ft_conf *conf) {
    *progress = (struct ft_progress){ .mode = (enum ft_progress_choice)conf->progress };
    progress->is_bar = progress->mode == FT_PROGRESS_AUTO && isatty(STDERR_FILENO);
}

void ft_progress_start(struct ft_progress *progress) {
    progress->has_phase = false;
    progress->start_us = ft_time_us();
}

void ft_progress_clear(struct ft_progress *progress) {
    if (progress->is_drawn) {
        fputs(wipe, stderr);
        fflush(stderr);
        progress->is_drawn = false;
        atomic_store(&guard.is_bar_drawn, false);
    }
}

void ft_progress_stage(struct ft_progress *progress, const char *text) {
    if (progress->is_bar) {
        char line[64];
        snprintf(line, sizeof line, "%s", text);
        make_safe(line);
        fprintf(stderr, "\r%s\033[K", line);
        progress->is_drawn = true;
        atomic_store(&guard.is_bar_drawn, true);
    }
}

/* How far a phase is; rates count tokens through all layers of the model at work. */
struct state {
    const char *name;
    double share, n_token, n_total, rate, eta;
};

enum { BAR_CAP = 64 };

/* A bar beside `n_text` columns of text; -> columns of the terminal. */
static int fill_bar(char bar[BAR_CAP], double share, int n_text) {
    struct winsize size = { 0 };
    int columns =
        ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
    int n_bar = columns - n_text;
    n_bar = n_bar > 40 ? 40 : n_bar < 0 ? 0 : n_bar;
    int n_full = (int)(share * n_bar);
    memset(bar, '#', (size_t)n_full);
    memset(bar + n_full, '.', (size_t)(n_bar - n_full));
    bar[n_bar] = '\0';
    return columns;
}

static void draw_line(char *line, int columns) {
    if (strlen(line) >= (size_t)columns) {
        line[columns - 1] = '\0';
    }
    make_safe(line);
    fprintf(stderr, "\r%s\033[K", line);
    fflush(stderr);
}

static void draw_bar(const struct state *state) {
    char bar[BAR_CAP], line[256];
    int columns = fill_bar(bar, state->share, 56);
    snprintf(line, sizeof line, "%-8s%s %3.0f %%  %.0f/%.0f tok  %.0f tok/s  ETA %.0f s",
             state->name, bar, 100.0 * state->share, state->n_token, state->n_total, state->rate,
             state->eta);
    draw_line(line, columns);
}

static void show(struct ft_progress *progress, const struct state *state) {
    if (progress->is_bar) {
        draw_bar(state);
        progress->is_drawn = true;
        atomic_store(&guard.is_bar_drawn, true);
    } else if (progress->mode == FT_PROGRESS_JSON) {
        fprintf(stderr, "{\"event\":\"progress\",\"phase\":\"%s\",\"done\":%.0f,\"total\":%.0f,",
                state->name, state->n_token, state->n_total);
        fprintf(stderr, "\"tok_s\":%.1f,\"eta_s\":%.1f}\n", state->rate, state->eta);
    } else {
        fprintf(stderr, "%s %.0f %%, %.0f of %.0f tokens, %.0f tok/s, %.0f s left\n", state->name,
                100.0 * state->share, state->n_token, state->n_total, state->rate, state->eta);
    }
}

void ft_progress_step(enum ft_phase phase, uint64_t done, uint64_t total, void *user) {
    static const char *const name[] = {
        [FT_PHASE_DRAFT] = "draft", [FT_PHASE_PREFILL] = "prefill"
    };
    struct ft_progress *progress = user;
    int64_t now = ft_time_us();
    if (progress->mode == FT_PROGRESS_NONE ||
        (progress->mode == FT_PROGRESS_AUTO && !progress->is_bar) || total == 0) {
        return;
    }
    if (!progress->has_phase || progress->phase != phase) {
        progress->start_us = progress->has_phase ? now : progress->start_us;
        progress->shown_us = 0;
        progress->phase = phase;
        progress->has_phase = true;
    }
    int64_t pause_us = progress->is_bar                     ? 100000
                       : progress->mode == FT_PROGRESS_JSON ? 500000
                                                            : 5000000;
    if (done < total && progress->shown_us != 0 && now - progress->shown_us < pause_us) {
        return;
    }
    if (done == 0 && !progress->is_bar) {
        return;
    }
    progress->shown_us = now;
    double layers = progress->n_layer[phase] > 0 ? progress->n_layer[phase] : 1;
    double seconds = (double)(now - progress->start_us) / 1e6;
    struct state state = { .name = name[phase],
                           .share = (double)FT_MIN(done, total) / (double)total,
                           .n_token = (double)done / layers,
                           .n_total = (double)total / layers };
    state.rate = seconds > 0 ? state.n_token / seconds : 0;
    state.eta = state.rate > 0 ? (state.n_total - state.n_token) / state.rate : 0;
    show(progress, &state);
}

void ft_progress_count(struct ft_progress *progress, const char *phase, uint64_t done,
                       uint64_t total, double left_s, const char *text) {
    char bar[BAR_CAP], line[512], left[32] = "";
    unsigned long long n_done = done, n_total = total;
    if (left_s >= 0) {
        snprintf(left, sizeof left, "%.0f s", left_s);
    }
    if (progress->is_bar) {
        int columns = fill_bar(bar, total > 0 ? (double)done / (double)total : 1, 64);
        snprintf(line, sizeof line, "%-8s%s %llu/%llu  ETA %s  %s", phase, bar, n_done, n_total,
                 left[0] ? left : "?", text);
        draw_line(line, columns);
        progress->is_drawn = true;
        atomic_store(&guard.is_bar_drawn, true);
    } else if (progress->mode == FT_PROGRESS_JSON) {
        snprintf(line, sizeof line, left_s >= 0 ? "%.1f" : "null", left_s);
        fprintf(stderr,
                "{\"event\":\"progress\",\"phase\":\"%s\",\"done\":%llu,\"total\":%llu,"
                "\"eta_s\":%s}\n",
                phase, n_done, n_total, line);
    } else if (progress->mode == FT_PROGRESS_PLAIN && done < total) {
        ft_note("%llu/%llu  %s%s%s%s", n_done + 1, n_total, text, left[0] ? ", " : "", left,
                left[0] ? " left" : "");
    }
}
