/* SPDX-License-Identifier: Apache-2.0 */
/* specprefill.c - SpecPrefill: the draft's last queries choose chunks of the prompt to read.
 *
 * Paper    arXiv:2502.02789
 * Score    s[j] = mean over steps of (max over layers and heads of pool_13 of
 *          softmax(q.k/sqrt d)[j]), softmax over the prompt's keys alone; steps: the last prompt
 *          token, then the tokens that the draft writes; then the mean of each chunk of 32 tokens
 * Keep     protected tokens, then chunks, best first, until keep is full
 * Departs  keep counts tokens, and the last chunk that enters is cut to fit (the authors keep
 *          ceil(chunks * p) whole chunks); a shorter last chunk is averaged over its own tokens;
 *          protected tokens (protect=on) come before everything; protect=off is the authors' way;
 *          ties go to the earlier chunk
 * Golden   vectors worked out by hand from the formula above, in tests/unit/test_specprefill.c
 */
#include "score/score.h"

struct specprefill {
    struct ft_amount keep;
    uint32_t lookahead, kernel, chunk, positions, protect;
};

enum { POSITIONS_ORIGINAL, POSITIONS_COMPACT }; /* order of the choices below */
enum { PROTECT_ON, PROTECT_OFF };

#define AT(field) offsetof(struct specprefill, field)

static const struct ft_param table[] = {
    { .name = "keep", .type = FT_KEEP, .offset = AT(keep), .initial = "1024",
      .help = "prompt tokens that the target reads" },
    { .name = "lookahead", .type = FT_UINT, .offset = AT(lookahead), .initial = "8", .low = 1,
      .high = 65536, .help = "draft steps that vote; the first is the last prompt token" },
    { .name = "kernel", .type = FT_UINT, .offset = AT(kernel), .initial = "13", .low = 1,
      .high = 4095, .step = 2, .help = "pooling width" },
    { .name = "chunk", .type = FT_UINT, .offset = AT(chunk), .initial = "32", .low = 1,
      .high = 65536, .help = "tokens that stay or go together" },
    { .name = "positions", .type = FT_CHOICE, .offset = AT(positions), .initial = "original",
      .choices = "original|compact", .help = "positions of kept tokens: their own or 0, 1, ..." },
    { .name = "protect", .type = FT_CHOICE, .offset = AT(protect), .initial = "on",
      .choices = "on|off", .help = "keep BOS and the system header" },
    { .name = NULL },
};

static void look(const void *params, const struct ft_facts *facts, struct ft_look *out) {
    const struct specprefill *p = params;
    (void)facts;
    *out = (struct ft_look){
        .source = FT_SOURCE_DRAFT,
        .column = FT_COLUMN_MASS,
        .window = 1, /* it votes; nothing makes it stay */
        .lookahead = p->lookahead,
        .fold = FT_FOLD_MAX,
        .head_pool = p->kernel,
        .is_step_mean = true,
        .is_prompt_only = true,
        .is_compact = p->positions == POSITIONS_COMPACT,
        .is_protecting = p->protect == PROTECT_ON,
    };
}

static void score(const struct ft_evidence *ev, const void *params, float *out) {
    const struct specprefill *p = params;
    for (uint32_t first = 0; first < ev->n_row; first += p->chunk) {
        uint32_t n = FT_MIN(p->chunk, ev->n_row - first);
        double sum = 0;
        for (uint32_t j = 0; j < n; j++) {
            sum += (double)ev->mass[first + j];
        }
        for (uint32_t j = 0; j < n; j++) {
            out[first + j] = (float)(sum / n);
        }
    }
}

static uint32_t keep(const float *scores, const void *params, const struct ft_budget *budget,
                     uint32_t *work, uint32_t *out) {
    (void)params;
    return ft_keep_tokens(scores, 0, budget, work, out);
}

const struct ft_method ft_method_specprefill = {
    .name = "specprefill",
    .title = "the draft's next steps choose chunks of the prompt that are read",
    .paper = "arXiv:2502.02789",
    .file = "src/score/specprefill.c",
    .act = FT_PROMPT,
    .needs_draft = true,
    .params = table,
    .params_size = sizeof(struct specprefill),
    .look = look,
    .score = score,
    .keep = keep,
};
