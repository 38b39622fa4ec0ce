/* SPDX-License-Identifier: Apache-2.0 */
/* prop_damage.c - a damaged GGUF header is refused with a reason, or loads; it never crashes
 * anyone.
 *
 *     prop_damage                 a seeded sample of all cases, and how much was left out
 *     prop_damage --full          every case
 *     prop_damage -s SEED         another sample
 *     prop_damage --case KIND I   one case, in this process (for a debugger)
 *
 * Kinds: cut = the first I bytes; byte = every header byte x {8 flips, 00, FF}; number = every
 * count, length, type, dimension and offset x boundary values.  What our check accepts also goes
 * through gguf.h, libllama (vocabulary, tokenising) and our loader.  Cases run in child processes,
 * so that a crash becomes a report.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <gguf.h>
#include <inttypes.h>
#include <llama.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/rng.h"
#include "gguf_edit.h"
#include "model/ggufcheck.h"

#ifndef FT_TEST_SCRATCH_DIR
#define FT_TEST_SCRATCH_DIR "."
#endif

enum kind { CUT, BYTE, NUMBER, N_KIND };
static const char *const kind_names[N_KIND] = { "cut", "byte", "number" };

enum { BATCH = 500, SECONDS_MAX = 20, FIELD_MAX = 4096, SAMPLE_CHECKS = 12000, SAMPLE_LOADS = 500 };

struct field {
    size_t at, n;
};

static struct {
    struct ge_bytes good;
    size_t header; /* bytes in front of the tensors */
    struct field field[FIELD_MAX];
    size_t n_field;
    char path[512]; /* the damaged file */
} subject;

struct progress { /* shared with the children */
    enum kind kind;
    uint64_t index;
    uint64_t n_case, n_accepted, n_loaded, n_bad;
};
static struct progress *progress;

/* ---- what can be damaged ---- */

static void field_add(size_t at, size_t n) {
    GE_CHECK(subject.n_field < FIELD_MAX);
    subject.field[subject.n_field++] = (struct field){ .at = at, .n = n };
}

static size_t string_fields(size_t at) {
    field_add(at, 8);
    return at + 8 + (size_t)ge_get(subject.good.data + at, 8);
}

static size_t value_fields(size_t at, uint64_t type) {
    if (type == 8) {
        return string_fields(at);
    }
    if (type != 9) {
        field_add(at, ge_type_bytes(type));
        return at + ge_type_bytes(type);
    }
    uint64_t item = ge_get(subject.good.data + at, 4), n = ge_get(subject.good.data + at + 4, 8);
    field_add(at, 4);
    field_add(at + 4, 8);
    at += 12;
    for (uint64_t i = 0; i < n; i++) {
        at = value_fields(at, item);
    }
    return at;
}

static void all_fields(void) {
    const uint8_t *p = subject.good.data;
    uint64_t n_tensor = ge_get(p + 8, 8), n_key = ge_get(p + 16, 8);
    field_add(4, 4);
    field_add(8, 8);
    field_add(16, 8);
    size_t at = 24;
    for (uint64_t i = 0; i < n_key; i++) {
        at = string_fields(at);
        field_add(at, 4);
        at = value_fields(at + 4, ge_get(p + at, 4));
    }
    for (uint64_t i = 0; i < n_tensor; i++) {
        at = string_fields(at);
        field_add(at, 4);
        uint64_t n_dim = ge_get(p + at, 4);
        at += 4;
        for (uint64_t d = 0; d < n_dim; d++, at += 8) {
            field_add(at, 8);
        }
        field_add(at, 4);
        field_add(at + 4, 8);
        at += 12;
    }
    subject.header = (at + 31) / 32 * 32;
}

static const uint64_t boundary[] = {
    0,
    1,
    2,
    0x7fffffff,
    0x80000000,
    0xfffffffe,
    0xffffffff,
    UINT64_C(1) << 32,
    (UINT64_C(1) << 42) + 1,
    UINT64_C(1) << 60,
    UINT64_C(1) << 62,
    INT64_MAX,
    UINT64_C(1) << 63,
    UINT64_MAX - 1,
    UINT64_MAX,
};
enum { N_BOUNDARY = sizeof(boundary) / sizeof(boundary[0]), N_NEAR = 2, BYTE_VARIANTS = 10 };

static uint64_t case_count(enum kind kind) {
    switch (kind) {
    case CUT: /* every byte of the header, then every 4 KiB */
        return subject.header + (subject.good.n - subject.header) / 4096;
    case BYTE:
        return (uint64_t)subject.header * BYTE_VARIANTS;
    default:
        return (uint64_t)subject.n_field * (N_BOUNDARY + N_NEAR);
    }
}

/* Makes case index of this kind out of a copy of the good file; returns its size. */
static size_t damage(enum kind kind, uint64_t index, uint8_t *data) {
    if (kind == CUT) {
        return index < subject.header ? (size_t)index
                                      : subject.header + (size_t)(index - subject.header) * 4096;
    }
    if (kind == BYTE) {
        uint8_t *byte = data + index / BYTE_VARIANTS;
        unsigned how = (unsigned)(index % BYTE_VARIANTS);
        *byte = (uint8_t)(how < 8 ? *byte ^ 1u << how : how == 8 ? 0x00 : 0xff);
        return subject.good.n;
    }
    const struct field *f = &subject.field[index / (N_BOUNDARY + N_NEAR)];
    uint64_t how = index % (N_BOUNDARY + N_NEAR), old = ge_get(data + f->at, f->n);
    uint64_t value = how < N_BOUNDARY ? boundary[how] : how == N_BOUNDARY ? old - 1 : old + 1;
    for (size_t i = 0; i < f->n; i++) {
        data[f->at + i] = (uint8_t)(value >> (8 * i));
    }
    return subject.good.n;
}

/* ---- what must hold ---- */

static void bad(enum kind kind, uint64_t index, const char *what) {
    fprintf(stderr, "prop_damage: %s; replay: prop_damage --case %s %" PRIu64 "\n", what,
            kind_names[kind], index);
    progress->n_bad++;
}

/* libllama may refuse what we accept (an unknown pre-tokenizer); it must not die of it. */
static void libraries_load(void) {
    struct ggml_context *meta = NULL;
    struct gguf_context *gguf =
        gguf_init_from_file(subject.path, (struct gguf_init_params){ true, &meta });
    if (gguf != NULL) {
        gguf_free(gguf);
        ggml_free(meta);
    }
    struct llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    struct llama_model *model = llama_model_load_from_file(subject.path, params);
    if (model != NULL) {
        llama_token token[256];
        const char text[] = "The 7th caf\xc3\xa9, <0x41> <|eos|> \xf0\x9f\x98\x80\r\n\t  x";
        llama_tokenize(llama_model_get_vocab(model), text, (int32_t)sizeof(text), token, 256, true,
                       true);
        llama_model_free(model);
    }
    ft_model *ours = NULL;
    if (ft_model_open(subject.path, FT_LOAD_FULL, &ours, NULL) == FT_OK) {
        ft_model_close(ours);
    }
}

static void run_case(enum kind kind, uint64_t index, bool may_load) {
    uint8_t *data = malloc(subject.good.n);
    memcpy(data, subject.good.data, subject.good.n);
    size_t n = damage(kind, index, data);
    uint8_t *exact = malloc(n + (n == 0)); /* a sanitizer sees a read behind the end */
    memcpy(exact, data, n);
    struct ft_file_map map = { .data = exact, .size = n };
    struct ft_gguf_facts facts;
    struct ft_error err = { .code = FT_OK };
    ft_status status = ft_gguf_check(&map, subject.path, &facts, &err);
    progress->n_case++;
    if (status == FT_OK) {
        progress->n_accepted++;
        ft_gguf_facts_done(&facts);
        if (may_load) {
            ge_write(subject.path, exact, n);
            libraries_load();
            progress->n_loaded++;
        }
    } else if ((status != FT_FORMAT && status != FT_UNSUP) || err.code != status || err.where > n ||
               strstr(err.text, "damaged.gguf: ") == NULL ||
               strlen(err.text) < strlen("damaged.gguf: ") + 10) {
        bad(kind, index, "the error does not say what is wrong and where");
    }
    if (kind == CUT && status == FT_OK && n < subject.header) {
        bad(kind, index, "half a header was accepted");
    }
    free(exact);
    free(data);
}

/* ---- running them apart ---- */

struct plan {
    uint64_t seed, take[N_KIND], load_every;
    bool is_full;
};

/* The i-th case of the sample. */
static uint64_t case_at(const struct plan *plan, enum kind kind, uint64_t i) {
    return plan->is_full ? i : ft_rng_value(plan->seed, kind, 0, i) % case_count(kind);
}

static void run_batch(const struct plan *plan, enum kind kind, uint64_t first, uint64_t end) {
    for (uint64_t i = first; i < end; i++) {
        progress->kind = kind;
        progress->index = case_at(plan, kind, i);
        alarm(SECONDS_MAX);
        run_case(kind, progress->index, i % plan->load_every == 0);
    }
}

static void spawn_batch(const struct plan *plan, enum kind kind, uint64_t first, uint64_t end) {
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        run_batch(plan, kind, first, end);
        exit(0); /* not _exit: the leak checker runs at exit */
    }
    while (child < 0 || waitpid(child, &status, 0) < 0) {
        if (child < 0 || errno != EINTR) {
            perror("prop_damage");
            exit(1);
        }
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        char what[80];
        snprintf(what, sizeof(what), WIFSIGNALED(status) ? "died of signal %d" : "exited with %d",
                 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
        bad(progress->kind, progress->index, what);
    }
}

static void silent(enum ggml_log_level level, const char *text, void *user) {
    (void)level, (void)text, (void)user;
}

static void prepare(void) {
    char command[1600];
    snprintf(subject.path, sizeof(subject.path), "%s/good.gguf", FT_TEST_SCRATCH_DIR);
    snprintf(command, sizeof(command),
             "%s/mkmodel %s --layers 1 --embd 32 --heads 2 --kv-heads 1 --ff 32 --vocab 290 --ctx "
             "512 --chat",
             FT_TEST_BIN_DIR, subject.path);
    GE_CHECK(system(command) == 0);
    subject.good = ge_read(subject.path);
    snprintf(subject.path, sizeof(subject.path), "%s/damaged.gguf", FT_TEST_SCRATCH_DIR);
    all_fields();
    progress =
        mmap(NULL, sizeof(*progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    GE_CHECK(progress != MAP_FAILED);
    setenv("GGML_NO_BACKTRACE", "1", 1); /* an abort must not start a debugger */
    llama_log_set(silent, NULL);
}

static int run_one(const char *kind_name, const char *index) {
    for (int kind = 0; kind < N_KIND; kind++) {
        if (strcmp(kind_names[kind], kind_name) == 0) {
            run_case((enum kind)kind, strtoull(index, NULL, 10), true);
            printf("case %s %s: %s\n", kind_name, index,
                   progress->n_accepted ? "accepted" : "refused");
            return progress->n_bad != 0;
        }
    }
    return 2;
}

int main(int argc, char **argv) {
    struct plan plan = { .seed = 1, .load_every = 1 };
    prepare();
    if (argc == 4 && strcmp(argv[1], "--case") == 0) {
        return run_one(argv[2], argv[3]);
    }
    plan.is_full = argc == 2 && strcmp(argv[1], "--full") == 0;
    if (argc == 3 && strcmp(argv[1], "-s") == 0) {
        plan.seed = strtoull(argv[2], NULL, 10);
    } else if (argc > 1 && !plan.is_full) {
        fprintf(stderr, "usage: prop_damage [--full | -s SEED | --case cut|byte|number INDEX]\n");
        return 2;
    }
    uint64_t all = 0, taken = 0;
    for (int kind = 0; kind < N_KIND; kind++) {
        uint64_t n = case_count((enum kind)kind);
        all += n;
        plan.take[kind] = plan.is_full ? n : FT_MIN(n, (uint64_t)SAMPLE_CHECKS / N_KIND);
        taken += plan.take[kind];
    }
    plan.load_every =
        plan.is_full ? 1
                     : FT_MAX(taken / SAMPLE_LOADS / 7, (uint64_t)1); /* one in seven is accepted */
    for (int kind = 0; kind < N_KIND; kind++) {
        for (uint64_t first = 0; first < plan.take[kind]; first += BATCH) {
            spawn_batch(&plan, (enum kind)kind, first, FT_MIN(first + BATCH, plan.take[kind]));
        }
    }
    printf("prop_damage: seed %" PRIu64 ", header of %zu bytes, %" PRIu64 " of %" PRIu64
           " cases (%" PRIu64 " left out): %" PRIu64 " refused, %" PRIu64 " accepted, %" PRIu64
           " of these loaded, %" PRIu64 " bad\n",
           plan.seed, subject.header, progress->n_case, all, all - taken,
           progress->n_case - progress->n_accepted, progress->n_accepted, progress->n_loaded,
           progress->n_bad);
    return progress->n_bad != 0 || progress->n_case != taken || progress->n_loaded == 0;
}
