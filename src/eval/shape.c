/* SPDX-License-Identifier: Apache-2.0 */
/* shape.c - GGUF files with synthetic weights in the shape of real models, to measure speed on.
 *
 * Layers, sizes, block formats and rotations are those of the published models; which tensors a
 * q4_k_m file stores in more bits is llama.cpp's rule.  Weights are drawn, in the block formats
 * themselves, with mean 0 and deviation 1/sqrt(inputs), so that hidden states keep a normal size;
 * norms are 1.  The tokenizer has the 256 bytes and invented words up to the vocabulary's size.
 * The trained context is larger than the originals', so that depth is not limited by it.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "eval/blocks.h"
#include "eval/eval.h"

enum {
    VERSION = 1, /* of the generator: another one, and files are written anew */
    N_CTX = 131072,
    BYTES = 256,
    SPECIALS = 4,
    ALIGN = 32,
    NAME_CAP = 48,
    CHUNK = 1 << 20, /* bytes drawn at once */
    SEED = 1,
};

/* ---- tables ---- */

static const struct shape {
    const char *name, *arch;
    uint32_t n_layer, n_embd, n_head, n_head_kv, head_dim, n_ff, n_vocab;
    bool is_tied, has_bias;
    float rms_eps, rope_base;
    float rope_factor; /* of llama3's frequency factors; 0: none */
} shapes[] = {
    { "llama-3.2-1b", "llama", 16, 2048, 32, 8, 64, 8192, 128256, true, false, 1e-5f, 5e5f, 32 },
    { "llama-3.1-8b", "llama", 32, 4096, 32, 8, 128, 14336, 128256, false, false, 1e-5f, 5e5f, 8 },
    { "qwen2.5-0.5b", "qwen2", 24, 896, 14, 2, 64, 4864, 151936, true, true, 1e-6f, 1e6f, 0 },
    { "tiny", "llama", 3, 256, 4, 2, 64, 512, 512, true, false, 1e-5f, 1e4f, 0 },
};

static const struct {
    const char *name;
    uint32_t file_type; /* as llama.cpp numbers it */
    enum ft_block most, head, more;
} types[] = {
    { "q4_k_m", 15, FT_BLOCK_Q4_K, FT_BLOCK_Q6_K, FT_BLOCK_Q6_K },
    { "q8_0", 7, FT_BLOCK_Q8_0, FT_BLOCK_Q8_0, FT_BLOCK_Q8_0 },
    { "f16", 1, FT_BLOCK_F16, FT_BLOCK_F16, FT_BLOCK_F16 },
    { "q4_0", 2, FT_BLOCK_Q4_0, FT_BLOCK_Q6_K, FT_BLOCK_Q4_0 },
};

void ft_shape_list(char *out, size_t cap) {
    size_t used = 0;
    snprintf(out, cap, "%s", "");
    for (size_t i = 0; i < FT_COUNT(shapes); i++) {
        snprintf(out + used, cap - used, "%s%s", i > 0 ? " " : "", shapes[i].name);
        used = strlen(out);
    }
    for (size_t i = 0; i < FT_COUNT(types); i++) {
        snprintf(out + used, cap - used, "%s%s", i > 0 ? " " : ", each with :", types[i].name);
        used = strlen(out);
    }
}

ft_status ft_shape_parse(const char *text, struct ft_shape_choice *out, struct ft_error *error) {
    size_t n = strcspn(text, ":");
    for (uint32_t s = 0; s < FT_COUNT(shapes) && text[n] == ':'; s++) {
        if (strlen(shapes[s].name) != n || memcmp(shapes[s].name, text, n) != 0) {
            continue;
        }
        for (uint32_t t = 0; t < FT_COUNT(types); t++) {
            if (strcmp(types[t].name, text + n + 1) == 0) {
                *out = (struct ft_shape_choice){ s, t, shapes[s].n_vocab };
                return FT_OK;
            }
        }
    }
    char list[160];
    ft_shape_list(list, sizeof list);
    return ft_fail(error, FT_ARG, 0, "shape is \"%.40s\", expected one of %s", text, list);
}

/* ---- bytes ---- */

struct buffer {
    uint8_t *data;
    size_t n, cap;
    bool is_short; /* of memory */
};

static void put(struct buffer *b, const void *data, size_t n) {
    if (b->n + n > b->cap) {
        size_t cap = FT_MAX(2 * b->cap, b->n + n);
        uint8_t *grown = b->is_short ? NULL : ft_grow(b->data, cap, 1);
        if (!grown) {
            b->is_short = true;
            return;
        }
        b->data = grown;
        b->cap = cap;
    }
    memcpy(b->data + b->n, data, n);
    b->n += n;
}

static void put_number(struct buffer *b, uint64_t value, size_t n_byte) {
    uint8_t bytes[8];
    for (size_t i = 0; i < 8; i++) {
        bytes[i] = (uint8_t)(value >> (8 * i));
    }
    put(b, bytes, n_byte);
}

static void put_string(struct buffer *b, const char *text) {
    put_number(b, strlen(text), 8);
    put(b, text, strlen(text));
}

/* ---- keys ---- */

enum { GGUF_U32 = 4, GGUF_I32 = 5, GGUF_F32 = 6, GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9 };

struct keys {
    struct buffer bytes;
    uint64_t n;
    const char *arch;
};

/* key: a leading star stands for the architecture */
static void put_key(struct keys *k, const char *key, uint32_t type) {
    char name[96];
    snprintf(name, sizeof name, "%s%s", key[0] == '*' ? k->arch : "", key + (key[0] == '*'));
    put_string(&k->bytes, name);
    put_number(&k->bytes, type, 4);
    k->n++;
}

static void key_string(struct keys *k, const char *key, const char *value) {
    put_key(k, key, GGUF_STRING);
    put_string(&k->bytes, value);
}

static void key_u32(struct keys *k, const char *key, uint32_t value) {
    put_key(k, key, GGUF_U32);
    put_number(&k->bytes, value, 4);
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static void key_f32(struct keys *k, const char *key, float value) {
    put_key(k, key, GGUF_F32);
    put_number(&k->bytes, bits_of(value), 4);
}

static void put_array(struct keys *k, const char *key, uint32_t item, uint32_t n) {
    put_key(k, key, GGUF_ARRAY);
    put_number(&k->bytes, item, 4);
    put_number(&k->bytes, n, 8);
}

/* ---- tokenizer ---- */

/* GPT-2's byte alphabet: printable bytes stand for themselves, others for U+0100 and up. */
static void byte_text(unsigned byte, char text[NAME_CAP]) {
    unsigned cp = byte, shift = 0;
    bool is_plain = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    for (unsigned b = 0; !is_plain && b < byte; b++) {
        shift += !((b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad));
    }
    cp = is_plain ? byte : 0x100 + shift;
    text[0] = (char)(cp < 0x80 ? cp : (0xc0 | cp >> 6));
    text[1] = (char)(cp < 0x80 ? 0 : (0x80 | (cp & 0x3f)));
    text[2] = '\0';
}

static void token_text(uint32_t id, uint32_t n_vocab, char text[NAME_CAP]) {
    static const char *const special[SPECIALS] = { "<|bos|>", "<|eos|>", "<|im_start|>",
                                                   "<|im_end|>" };
    if (id < BYTES) {
        byte_text(id, text);
    } else if (id == BYTES) {
        snprintf(text, NAME_CAP, "\304\240t"); /* what the one merge makes */
    } else if (id < n_vocab - SPECIALS) {
        snprintf(text, NAME_CAP, "t%" PRIu32, id);
    } else {
        snprintf(text, NAME_CAP, "%s", special[id - (n_vocab - SPECIALS)]);
    }
}

static void put_tokenizer(struct keys *k, uint32_t n_vocab) {
    char text[NAME_CAP];
    key_string(k, "tokenizer.ggml.model", "gpt2");
    key_string(k, "tokenizer.ggml.pre", "llama-bpe");
    put_array(k, "tokenizer.ggml.tokens", GGUF_STRING, n_vocab);
    for (uint32_t id = 0; id < n_vocab; id++) {
        token_text(id, n_vocab, text);
        put_string(&k->bytes, text);
    }
    put_array(k, "tokenizer.ggml.token_type", GGUF_I32, n_vocab);
    for (uint32_t id = 0; id < n_vocab; id++) {
        put_number(&k->bytes, id < n_vocab - SPECIALS ? 1 : 3, 4); /* normal, control */
    }
    put_array(k, "tokenizer.ggml.merges", GGUF_STRING, 1);
    put_string(&k->bytes, "\304\240 t");
    key_u32(k, "tokenizer.ggml.bos_token_id", n_vocab - 4);
    key_u32(k, "tokenizer.ggml.eos_token_id", n_vocab - 3);
    put_key(k, "tokenizer.ggml.add_bos_token", GGUF_BOOL);
    put_number(&k->bytes, 0, 1);
}

static void put_keys(struct keys *k, const struct ft_shape_choice *choice) {
    const struct shape *s = &shapes[choice->shape];
    char text[96];
    k->arch = s->arch;
    key_string(k, "general.architecture", s->arch);
    key_string(k, "general.type", "model");
    snprintf(text, sizeof text, "synthetic %s", s->name);
    key_string(k, "general.name", text);
    snprintf(text, sizeof text, "drawn weights, generator %d: for measuring speed only", VERSION);
    key_string(k, "general.description", text);
    key_u32(k, "general.file_type", types[choice->type].file_type);
    key_u32(k, "general.quantization_version", 2);
    key_u32(k, "*.vocab_size", choice->n_vocab);
    key_u32(k, "*.context_length", N_CTX);
    key_u32(k, "*.embedding_length", s->n_embd);
    key_u32(k, "*.block_count", s->n_layer);
    key_u32(k, "*.feed_forward_length", s->n_ff);
    key_u32(k, "*.attention.head_count", s->n_head);
    key_u32(k, "*.attention.head_count_kv", s->n_head_kv);
    key_u32(k, "*.attention.key_length", s->head_dim);
    key_u32(k, "*.attention.value_length", s->head_dim);
    key_f32(k, "*.attention.layer_norm_rms_epsilon", s->rms_eps);
    key_f32(k, "*.rope.freq_base", s->rope_base);
    key_u32(k, "*.rope.dimension_count", s->head_dim);
    put_tokenizer(k, choice->n_vocab);
}

/* ---- tensors ---- */

enum content { WEIGHTS, ONES, SMALL, FREQUENCIES };

struct tensor {
    char name[NAME_CAP];
    enum ft_block block;
    enum content content;
    uint32_t ne[2]; /* ne[1] is 0: a vector */
    uint64_t n_byte;
    float deviation;
};

struct file {
    const struct shape *shape;
    const struct ft_shape_choice *choice;
    struct tensor *tensor; /* [n_tensor] owned */
    uint32_t n_tensor, cap;
    struct buffer header; /* all before the weights */
};

static void add(struct file *f, const char *name, enum ft_block block, uint32_t ne0, uint32_t ne1) {
    ft_assert(f->n_tensor < f->cap);
    struct tensor *t = &f->tensor[f->n_tensor++];
    *t = (struct tensor){ .block = block, .ne = { ne0, ne1 } };
    snprintf(t->name, sizeof t->name, "%s", name);
    t->n_byte = (uint64_t)ne0 / ft_blocks[block].n * ft_blocks[block].n_byte * FT_MAX(ne1, 1u);
    t->deviation = 1 / sqrtf((float)ne0);
}

/* Rows of whole blocks only; what llama.cpp takes instead of a K type. */
static enum ft_block fitting(enum ft_block block, uint32_t ne0) {
    if (ne0 % ft_blocks[block].n == 0) {
        return block;
    }
    return block == FT_BLOCK_Q4_K ? FT_BLOCK_Q5_0 : FT_BLOCK_Q8_0;
}

static void add_matrix(struct file *f, const char *name, enum ft_block block, uint32_t ne0,
                       uint32_t ne1) {
    add(f, name, fitting(block, ne0), ne0, ne1);
}

static void add_vector(struct file *f, const char *name, enum content content, uint32_t n) {
    add(f, name, FT_BLOCK_F32, n, 0);
    f->tensor[f->n_tensor - 1].content = content;
}

/* The layers of a q4_k_m file whose attn_v and ffn_down get more bits: the first and the last
 * eighth, and every third one between. */
static bool is_fine(uint32_t l, uint32_t n) {
    return l < n / 8 || l >= 7 * n / 8 || (l - n / 8) % 3 == 2;
}

static const char *part(char out[NAME_CAP], uint32_t l, const char *name) {
    snprintf(out, NAME_CAP, "blk.%" PRIu32 ".%s", l, name);
    return out;
}

static void add_layer(struct file *f, uint32_t l) {
    const struct shape *s = f->shape;
    uint32_t n_q = s->n_head * s->head_dim, n_kv = s->n_head_kv * s->head_dim;
    enum ft_block most = types[f->choice->type].most;
    enum ft_block more = is_fine(l, s->n_layer) ? types[f->choice->type].more : most;
    char name[NAME_CAP];
    add_vector(f, part(name, l, "attn_norm.weight"), ONES, s->n_embd);
    add_matrix(f, part(name, l, "attn_q.weight"), most, s->n_embd, n_q);
    add_matrix(f, part(name, l, "attn_k.weight"), most, s->n_embd, n_kv);
    add_matrix(f, part(name, l, "attn_v.weight"), more, s->n_embd, n_kv);
    if (s->has_bias) {
        add_vector(f, part(name, l, "attn_q.bias"), SMALL, n_q);
        add_vector(f, part(name, l, "attn_k.bias"), SMALL, n_kv);
        add_vector(f, part(name, l, "attn_v.bias"), SMALL, n_kv);
    }
    add_matrix(f, part(name, l, "attn_output.weight"), most, n_q, s->n_embd);
    add_vector(f, part(name, l, "ffn_norm.weight"), ONES, s->n_embd);
    add_matrix(f, part(name, l, "ffn_gate.weight"), most, s->n_embd, s->n_ff);
    add_matrix(f, part(name, l, "ffn_up.weight"), most, s->n_embd, s->n_ff);
    add_matrix(f, part(name, l, "ffn_down.weight"), more, s->n_ff, s->n_embd);
}

static bool add_tensors(struct file *f) {
    const struct shape *s = f->shape;
    enum ft_block head = types[f->choice->type].head;
    f->cap = 4 + 12 * s->n_layer;
    f->tensor = ft_alloc(f->cap, sizeof *f->tensor);
    if (!f->tensor) {
        return false;
    }
    add_matrix(f, "token_embd.weight", s->is_tied ? head : types[f->choice->type].most, s->n_embd,
               f->choice->n_vocab);
    if (s->rope_factor > 0) {
        add_vector(f, "rope_freqs.weight", FREQUENCIES, s->head_dim / 2);
    }
    for (uint32_t l = 0; l < s->n_layer; l++) {
        add_layer(f, l);
    }
    add_vector(f, "output_norm.weight", ONES, s->n_embd);
    if (!s->is_tied) {
        add_matrix(f, "output.weight", head, s->n_embd, f->choice->n_vocab);
    }
    return true;
}

static uint64_t padded(uint64_t n) {
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

static ft_status make_header(struct file *f, struct ft_error *error) {
    struct keys keys = { .n = 0 };
    struct buffer *b = &f->header;
    uint64_t offset = 0;
    if (!add_tensors(f)) {
        return ft_fail(error, FT_NOMEM, 0, "no memory for the tensors of a shape");
    }
    put_keys(&keys, f->choice);
    put(b, "GGUF", 4);
    put_number(b, 3, 4);
    put_number(b, f->n_tensor, 8);
    put_number(b, keys.n, 8);
    put(b, keys.bytes.data, keys.bytes.n);
    for (uint32_t i = 0; i < f->n_tensor; i++) {
        const struct tensor *t = &f->tensor[i];
        put_string(b, t->name);
        put_number(b, t->ne[1] > 0 ? 2 : 1, 4);
        put_number(b, t->ne[0], 8);
        if (t->ne[1] > 0) {
            put_number(b, t->ne[1], 8);
        }
        put_number(b, ft_blocks[t->block].id, 4);
        put_number(b, offset, 8);
        offset += padded(t->n_byte);
    }
    static const uint8_t zeros[ALIGN];
    put(b, zeros, padded(b->n) - b->n);
    bool is_short = b->is_short || keys.bytes.is_short;
    ft_free(keys.bytes.data);
    return is_short ? ft_fail(error, FT_NOMEM, 0, "no memory for the header of a shape") : FT_OK;
}

/* ---- weights ---- */

/* llama3's factors: long wavelengths are stretched, short ones stay, with a ramp between. */
static float frequency_factor(const struct shape *s, uint32_t i) {
    const double low = 1, high = 4, n_orig = 8192, pi = 3.14159265358979323846;
    double wavelength = 2 * pi * pow(s->rope_base, 2.0 * i / s->head_dim);
    if (wavelength < n_orig / high) {
        return 1;
    }
    if (wavelength > n_orig / low) {
        return s->rope_factor;
    }
    double ramp = (n_orig / wavelength - low) / (high - low);
    return (float)(1 / ((1 - ramp) / (double)s->rope_factor + ramp));
}

static void write_vector(struct ft_draw *d, const struct file *f, const struct tensor *t,
                         struct ft_save *save) {
    for (uint32_t i = 0; i < t->ne[0]; i++) {
        float value = 1;
        if (t->content == SMALL) {
            value = (float)((double)(ft_draw_next(d) >> 11) * 0x1p-53 - .5) * .2f;
        } else if (t->content == FREQUENCIES) {
            value = frequency_factor(f->shape, i);
        }
        uint32_t bits = bits_of(value);
        uint8_t bytes[4] = { (uint8_t)bits, (uint8_t)(bits >> 8), (uint8_t)(bits >> 16),
                             (uint8_t)(bits >> 24) };
        ft_save_write(save, bytes, sizeof bytes);
    }
}

static void write_tensor(const struct file *f, uint32_t i, uint8_t *chunk, struct ft_save *save) {
    static const uint8_t zeros[ALIGN];
    const struct tensor *t = &f->tensor[i];
    struct ft_draw d = ft_draw_new(SEED, i);
    if (t->content != WEIGHTS) {
        write_vector(&d, f, t, save);
    } else {
        size_t n_byte = ft_blocks[t->block].n_byte, n_left = (size_t)(t->n_byte / n_byte);
        while (n_left > 0) {
            size_t n = FT_MIN(n_left, CHUNK / n_byte);
            ft_blocks_draw(&d, t->block, t->deviation, chunk, n);
            ft_save_write(save, chunk, n * n_byte);
            n_left -= n;
        }
    }
    ft_save_write(save, zeros, (size_t)(padded(t->n_byte) - t->n_byte));
}

/* ---- files ---- */

static ft_status write_file(const struct file *f, const char *path, struct ft_error *error) {
    struct ft_save *save = NULL;
    uint8_t *chunk = ft_alloc(CHUNK, 1);
    if (!chunk) {
        return ft_fail(error, FT_NOMEM, 0, "no memory to draw weights");
    }
    ft_status status = ft_save_open(path, &save, error);
    if (status == FT_OK) {
        ft_save_write(save, f->header.data, f->header.n);
        for (uint32_t i = 0; i < f->n_tensor; i++) {
            write_tensor(f, i, chunk, save);
        }
        status = ft_save_done(save, true, error);
    }
    ft_free(chunk);
    return status;
}

/* Is this very model there?  The header says what it is, its version included; files appear whole,
 * so the size says the rest. */
static bool is_there(const struct file *f, const char *path) {
    struct ft_file_map map = { .data = NULL };
    uint64_t size = f->header.n;
    for (uint32_t i = 0; i < f->n_tensor; i++) {
        size += padded(f->tensor[i].n_byte);
    }
    if (ft_file_map_open(path, &map, NULL) != FT_OK) {
        return false;
    }
    bool is_same = map.size == size && memcmp(map.data, f->header.data, f->header.n) == 0;
    ft_file_map_close(&map);
    return is_same;
}

/* Make a folder and those it lies in. */
static ft_status make_folders(const char *folder, struct ft_error *error) {
    char path[4096];
    size_t n = strlen(folder);
    if (n == 0 || n >= sizeof path) {
        return ft_fail(error, FT_IO, 0, "%.160s is no name of a folder", folder);
    }
    memcpy(path, folder, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != '\0') {
            continue;
        }
        char end = path[i];
        path[i] = '\0';
        if (mkdir(path, 0777) != 0 && errno != EEXIST) {
            return ft_fail(error, FT_IO, 0, "%.160s: cannot be made: %s", path, strerror(errno));
        }
        path[i] = end;
    }
    return FT_OK;
}

ft_status ft_shape_make(const struct ft_shape_choice *choice, const char *folder, char *path,
                        size_t cap, bool *is_new, struct ft_error *error) {
    struct file f = { .shape = &shapes[choice->shape], .choice = choice };
    char vocab[24] = "";
    if (choice->n_vocab <= BYTES + SPECIALS) {
        return ft_fail(error, FT_ARG, 0, "a vocabulary of %" PRIu32 ", expected more than %d",
                       choice->n_vocab, BYTES + SPECIALS);
    }
    if (choice->n_vocab != f.shape->n_vocab) {
        snprintf(vocab, sizeof vocab, "-vocab%" PRIu32, choice->n_vocab);
    }
    int n = snprintf(path, cap, "%s/%s-%s%s.gguf", folder, f.shape->name, types[choice->type].name,
                     vocab);
    if (n < 0 || (size_t)n >= cap) {
        return ft_fail(error, FT_IO, 0, "%.160s: the name is too long", folder);
    }
    ft_status status = make_header(&f, error);
    if (status == FT_OK) {
        *is_new = !is_there(&f, path);
        status = *is_new ? make_folders(folder, error) : FT_OK;
    }
    if (status == FT_OK && *is_new) {
        status = write_file(&f, path, error);
    }
    ft_free(f.header.data);
    ft_free(f.tensor);
    return status;
}
