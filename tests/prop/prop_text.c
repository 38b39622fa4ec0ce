/* SPDX-License-Identifier: Apache-2.0 */
/* prop_text.c - text of every kind: tokens as in one call of libllama, streams cut anyhow.
 *
 *     prop_text [-s SEED] [-i CASE] [-n CASES]     -i replays one case
 *
 * tokens     ft_tokenize of long text equals llama_tokenize of the whole, for several
 *            pre-tokenizers and SentencePiece; the pieces of the ids give the text back
 * stream     random bytes in random pieces show what a naive decoder and search show
 */
#include "text_fixture.h"

#include <llama.h>

#include "base/rng.h"

static uint64_t seed = 1, draw;
static uint32_t case_now;

static _Noreturn void broken(const char *format, ...) __attribute__((format(printf, 1, 2)));
static _Noreturn void broken(const char *format, ...) {
    va_list args;
    va_start(args, format);
    (void)fprintf(stderr, "prop_text: ");
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fprintf(stderr, "\nreplay: prop_text -s %llu -i %u\n", (unsigned long long)seed,
                  case_now);
    exit(1);
}

static uint32_t below(uint32_t n) {
    return (uint32_t)(ft_rng_value(seed, case_now, 0, draw++) % n);
}

/* ---- text ---- */

struct text {
    char *data;
    size_t n, cap;
};

static void add(struct text *t, const char *data, size_t n) {
    if (t->n + n >= t->cap) {
        t->cap = 2 * (t->n + n) + 64;
        t->data = realloc(t->data, t->cap);
        if (t->data == NULL) {
            broken("no memory");
        }
    }
    memcpy(t->data + t->n, data, n);
    t->n += n;
}

static void add_char(struct text *t, uint32_t c) {
    char u[4];
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    u[0] = (char)(n == 1 ? c : n == 2 ? 0xc0 | c >> 6 : n == 3 ? 0xe0 | c >> 12 : 0xf0 | c >> 18);
    for (size_t i = 1; i < n; i++) {
        u[i] = (char)(0x80 | (c >> 6 * (n - 1 - i) & 0x3f));
    }
    add(t, u, n);
}

static void add_word(struct text *t) {
    static const uint32_t alphabets[][2] = {
        { 'a', 26 }, { 'A', 26 }, { 0x430, 32 }, { 0x3b1, 25 }, { 0xe0, 23 }
    };
    const uint32_t *alphabet = alphabets[below(8) < 5 ? 0 : below(5)];
    uint32_t n = 1 + below(9);
    for (uint32_t i = 0; i < n; i++) {
        add_char(t, alphabet[0] + below(alphabet[1]));
    }
}

static void add_cjk(struct text *t) {
    uint32_t n = 1 + below(12);
    for (uint32_t i = 0; i < n; i++) {
        add_char(t, below(4) == 0 ? 0x3041 + below(80) : 0x4e00 + below(2000));
    }
    add_char(t, below(3) == 0 ? 0x3002 : 0xff0c);
}

/* What documents hold: words, numbers, punctuation, all kinds of blanks, other scripts, markup. */
static void add_thing(struct text *t) {
    static const char *const marks[] = { ". ",
                                         ", ",
                                         "! ",
                                         "; ",
                                         " - ",
                                         " \xE2\x80\x94 ",
                                         "'s ",
                                         "'LL ",
                                         "...",
                                         "\xE2\x80\x9D ",
                                         "(",
                                         ") ",
                                         "$",
                                         "\n",
                                         "\n\n",
                                         "\r\n",
                                         "  ",
                                         "    ",
                                         "\t",
                                         " \n ",
                                         "\xC2\xA0",
                                         "\xE3\x80\x80",
                                         "<|im_start|>",
                                         "<|reserved_4|>",
                                         "<|reserved_5|>\n",
                                         "\xCC\x81",
                                         "\xE2\x80\x8D",
                                         "a1b2",
                                         "_",
                                         "==",
                                         " == " };
    uint32_t kind = below(20);
    if (kind < 12) {
        add_word(t);
        add(t, " ", below(5) != 0);
    } else if (kind < 14) {
        for (uint32_t i = 0, n = 1 + below(7); i < n; i++) {
            add_char(t, '0' + below(10));
        }
    } else if (kind < 15) {
        add_cjk(t);
    } else if (kind < 16) {
        add_char(t, 0x1f600 + below(60));
    } else {
        const char *mark = marks[below((uint32_t)FT_COUNT(marks))];
        add(t, mark, strlen(mark));
    }
}

/* ---- tokens ---- */

static struct model {
    const char *pre; /* NULL: SentencePiece */
    size_t n_byte;   /* libllama survives that in one call */
    ft_model *model;
} models[] = {
    { "llama-bpe", 300000, NULL }, { "qwen2", 300000, NULL },  { "smollm", 300000, NULL },
    { "gpt-2", 300000, NULL },     { "default", 40000, NULL }, { "deepseek-v3", 40000, NULL },
    { "tekken", 40000, NULL },     { "gpt-4o", 40000, NULL },  { "falcon", 40000, NULL },
    { NULL, 40000, NULL },
};

static ft_model *model_open(struct model *m) {
    char command[128];
    if (m->model == NULL) {
        snprintf(command, sizeof(command), "str tokenizer.ggml.pre %s",
                 m->pre == NULL ? "" : m->pre);
        m->model = m->pre == NULL ? text_model_spm() : text_model_edited("prop", command);
    }
    return m->model;
}

static void check_tokens(struct model *m) {
    const char *name = m->pre == NULL ? "SentencePiece" : m->pre;
    struct text t = { NULL, 0, 0 };
    struct ft_tokens got = { .n = 0 };
    struct ft_error err;
    bool parse = below(2) == 0;
    size_t n_byte = below(3) == 0 ? m->n_byte : 1 + below((uint32_t)m->n_byte);
    ft_model *model = model_open(m);
    while (t.n < n_byte) {
        add_thing(&t);
    }
    if (ft_tokenize(model, t.data, t.n, parse ? FT_TOKENIZE_SPECIAL : 0, &got, &err) != FT_OK) {
        broken("%s: %s", name, err.text);
    }
    ft_token *want = malloc((4 * t.n + 8) * sizeof(*want));
    int32_t n_want = llama_tokenize(llama_model_get_vocab(ft_model_vocab_llama(model)), t.data,
                                    (int32_t)t.n, want, (int32_t)(4 * t.n + 8), false, parse);
    for (uint32_t i = 0; i < got.n || (int32_t)i < n_want; i++) {
        if (i >= got.n || (int32_t)i >= n_want || got.id[i] != want[i]) {
            broken("%s, %zu bytes: token %u of %u is not token %u of %d", name, t.n, i, got.n, i,
                   n_want);
        }
    }
    size_t n_back;
    char *back = text_pieces(model, got.id, got.n, true, &n_back);
    size_t skip = m->pre == NULL && n_back > 0 && back[0] == ' '; /* SentencePiece's own */
    if (!(m->pre == NULL && parse) &&
        (n_back != t.n + skip || memcmp(back + skip, t.data, t.n) != 0)) {
        broken("%s: %zu bytes come back as %zu", name, t.n, n_back);
    }
    free(back);
    free(want);
    free(t.data);
    ft_tokens_free(&got);
}

/* ---- streams ---- */

/* Whether the n bytes at p begin a character: n of them may go on, or are all of it. */
static bool begins_char(const unsigned char *p, size_t n, bool *is_whole) {
    static const struct {
        unsigned char lead_low, lead_high, low, high;
        size_t n;
    } forms[] = {
        /* table 3-7 of the Unicode standard */
        { 0x00, 0x7f, 0, 0, 1 },       { 0xc2, 0xdf, 0x80, 0xbf, 2 }, { 0xe0, 0xe0, 0xa0, 0xbf, 3 },
        { 0xe1, 0xec, 0x80, 0xbf, 3 }, { 0xed, 0xed, 0x80, 0x9f, 3 }, { 0xee, 0xef, 0x80, 0xbf, 3 },
        { 0xf0, 0xf0, 0x90, 0xbf, 4 }, { 0xf1, 0xf3, 0x80, 0xbf, 4 }, { 0xf4, 0xf4, 0x80, 0x8f, 4 },
    };
    for (size_t f = 0; f < FT_COUNT(forms); f++) {
        if (p[0] < forms[f].lead_low || p[0] > forms[f].lead_high || n > forms[f].n) {
            continue;
        }
        bool fits = true;
        for (size_t i = 1; i < n; i++) {
            fits = fits && p[i] >= (i == 1 ? forms[f].low : 0x80) &&
                   p[i] <= (i == 1 ? forms[f].high : 0xbf);
        }
        if (fits) {
            *is_whole = n == forms[f].n;
            return true;
        }
    }
    return false;
}

static void naive_decode(const unsigned char *p, size_t n, struct text *out) {
    for (size_t at = 0; at < n;) {
        bool is_whole = false;
        size_t len = 0;
        while (!is_whole && at + len < n && begins_char(p + at, len + 1, &is_whole)) {
            len++;
        }
        if (is_whole) {
            add(out, (const char *)p + at, len);
        } else {
            add(out, "\xEF\xBF\xBD", 3);
        }
        at += len > 0 ? len : 1;
    }
}

/* The stop string that is complete first, of several the longest: *n is cut in front of it. */
static bool naive_stop(const char *text, size_t *n, const char *const *stop, uint32_t n_stop) {
    for (size_t end = 1; end <= *n; end++) {
        size_t best = 0;
        for (uint32_t i = 0; i < n_stop; i++) {
            size_t len = strlen(stop[i]);
            if (len <= end && len > best && memcmp(text + end - len, stop[i], len) == 0) {
                best = len;
            }
        }
        if (best > 0) {
            *n = end - best;
            return true;
        }
    }
    return false;
}

static void add_bytes(struct text *t) {
    static const char *const parts[] = { "a",
                                         "b",
                                         "ab",
                                         "abab",
                                         "\n",
                                         "User:",
                                         "\xF0\x9F\x98\x80",
                                         "\xF0\x9F\x98",
                                         "\xE4\xB8\xAD",
                                         "\xE4",
                                         "\xC3\xA9",
                                         "\xC3",
                                         "\x80",
                                         "\xED\xA0\x80",
                                         "\xF4\x90\x80\x80",
                                         "\xC0\x80",
                                         "\xFF",
                                         "\xE0\x80" };
    if (below(10) == 0) {
        char c = (char)below(256);
        add(t, &c, 1);
    } else {
        const char *part = parts[below((uint32_t)FT_COUNT(parts))];
        add(t, part, strlen(part));
    }
}

static void check_stream(void) {
    static const char *const all[] = { "ab",
                                       "abab",
                                       "bab",
                                       "User:",
                                       "\n\n",
                                       "\xE4\xB8\xAD"
                                       "a",
                                       "\xEF\xBF\xBD"
                                       "b",
                                       "aaaaab" };
    const char *stop[3];
    struct text in = { NULL, 0, 0 }, want = { NULL, 0, 0 }, got = { NULL, 0, 0 };
    uint32_t n_stop = below(4), n_part = 1 + below(60);
    ft_stream *stream = NULL;
    bool is_stopped = false;
    for (uint32_t i = 0; i < n_stop; i++) {
        stop[i] = all[below((uint32_t)FT_COUNT(all))];
    }
    for (uint32_t i = 0; i < n_part; i++) {
        add_bytes(&in);
    }
    add(&want, "", 0);
    naive_decode((const unsigned char *)in.data, in.n, &want);
    bool is_stop_wanted = naive_stop(want.data, &want.n, stop, n_stop);
    if (ft_stream_new(stop, n_stop, &stream, NULL) != FT_OK) {
        broken("no stream");
    }
    for (size_t at = 0; at <= in.n;) {
        const char *text;
        size_t n, n_in = 1 + below(6);
        n_in = FT_MIN(n_in, in.n - at);
        bool is_end = at == in.n;
        if (ft_stream_push(stream, is_end ? NULL : in.data + at, n_in, &text, &n, &is_stopped) !=
            FT_OK) {
            broken("push fails");
        }
        if (ft_utf8_check(text, n) != n) {
            broken("shows what is not UTF-8");
        }
        add(&got, text, n);
        at += is_end ? 1 : n_in;
    }
    if (got.n != want.n || memcmp(got.data, want.data, got.n) != 0 ||
        is_stopped != is_stop_wanted) {
        broken("stream shows %zu bytes, want %zu; stopped %d, want %d", got.n, want.n, is_stopped,
               is_stop_wanted);
    }
    ft_stream_free(stream);
    free(in.data);
    free(want.data);
    free(got.data);
}

static void run(uint32_t number) {
    case_now = number;
    draw = 0;
    check_tokens(&models[number % FT_COUNT(models)]);
    for (int i = 0; i < 50; i++) {
        check_stream();
    }
}

int main(int argc, char **argv) {
    unsigned long first = 0, count = 40;
    for (int i = 1; i + 1 < argc; i += 2) {
        unsigned long value = strtoul(argv[i + 1], NULL, 10);
        if (strcmp(argv[i], "-s") == 0) {
            seed = value;
        } else if (strcmp(argv[i], "-i") == 0) {
            first = value;
            count = 1;
        } else if (strcmp(argv[i], "-n") == 0) {
            count = value;
        }
    }
    (void)printf("prop_text: seed %llu, cases %lu..%lu\n", (unsigned long long)seed, first,
                 first + count - 1);
    for (unsigned long i = first; i < first + count; i++) {
        run((uint32_t)i);
    }
    for (size_t i = 0; i < FT_COUNT(models); i++) {
        ft_model_close(models[i].model);
    }
    return 0;
}
