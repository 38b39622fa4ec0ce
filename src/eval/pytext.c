/* SPDX-License-Identifier: Apache-2.0 */
/* pytext.c - white space, words and lower case as Python has them, on UTF-8. */
#include "eval/pytext.h"

#include <string.h>

enum { BROKEN = 0x110000 }; /* + byte: not part of a character */

struct range {
    uint32_t first, last;
};

static bool is_in(const struct range *range, size_t n, uint32_t c) {
    for (size_t i = 0; i < n; i++) {
        if (c >= range[i].first && c <= range[i].last) {
            return true;
        }
    }
    return false;
}

uint32_t ft_pytext_next(const char **at, const char *end) {
    const unsigned char *p = (const unsigned char *)*at;
    size_t n = p[0] < 0x80 ? 1 : p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
    size_t n_look = FT_MIN(n, (size_t)(end - *at));
    if (n == 1) {
        *at += 1;
        return p[0];
    }
    if (n_look < n || ft_utf8_check(*at, n) < n) {
        *at += 1;
        return BROKEN + p[0];
    }
    uint32_t c = p[0] & (0x7Fu >> n);
    for (size_t i = 1; i < n; i++) {
        c = c << 6 | (p[i] & 0x3F);
    }
    *at += n;
    return c;
}

bool ft_pytext_is_space(uint32_t c) {
    static const struct range space[] = {
        { 0x09, 0x0D },     { 0x1C, 0x20 },     { 0x85, 0x85 },     { 0xA0, 0xA0 },
        { 0x1680, 0x1680 }, { 0x2000, 0x200A }, { 0x2028, 0x2029 }, { 0x202F, 0x202F },
        { 0x205F, 0x205F }, { 0x3000, 0x3000 },
    };
    return is_in(space, FT_COUNT(space), c);
}

bool ft_pytext_is_word(uint32_t c) {
    static const struct range ascii[] = { { '0', '9' }, { 'A', 'Z' }, { '_', '_' }, { 'a', 'z' } };
    /* what is no word: Latin-1 signs, accents that combine, general punctuation, currency, arrows,
     * mathematics, boxes, dingbats, CJK brackets, emoji */
    static const struct range other[] = {
        { 0x80, 0xA9 },     { 0xAB, 0xB1 },     { 0xB4, 0xB4 },       { 0xB6, 0xB8 },
        { 0xBB, 0xBB },     { 0xBF, 0xBF },     { 0xD7, 0xD7 },       { 0xF7, 0xF7 },
        { 0x300, 0x36F },   { 0x1680, 0x1680 }, { 0x2000, 0x206F },   { 0x20A0, 0x20FF },
        { 0x2190, 0x245F }, { 0x2500, 0x2775 }, { 0x2794, 0x2BFF },   { 0x3000, 0x3004 },
        { 0x3008, 0x3020 }, { 0xFE00, 0xFE0F }, { 0x1F300, 0x1FAFF },
    };
    return c < 0x80 ? is_in(ascii, FT_COUNT(ascii), c) : !is_in(other, FT_COUNT(other), c);
}

bool ft_pytext_split(const char **at, const char *end, struct ft_piece *out) {
    const char *first = *at, *behind = first;
    while (behind < end && ft_pytext_is_space(ft_pytext_next(&behind, end))) {
        first = behind;
    }
    *out = (struct ft_piece){ .at = first };
    for (behind = first; behind < end; out->n = (size_t)(behind - first)) {
        if (ft_pytext_is_space(ft_pytext_next(&behind, end))) {
            break;
        }
    }
    *at = first + out->n;
    return out->n > 0;
}

/* Both letters take the same number of bytes. */
static uint32_t lower_of(uint32_t c) {
    static const struct {
        uint32_t first, last, step;
        int32_t add;
    } capital[] = {
        { 'A', 'Z', 1, 32 },       { 0xC0, 0xD6, 1, 32 },      { 0xD8, 0xDE, 1, 32 },
        { 0x100, 0x12E, 2, 1 },    { 0x132, 0x136, 2, 1 },     { 0x139, 0x147, 2, 1 },
        { 0x14A, 0x176, 2, 1 },    { 0x178, 0x178, 1, -0x79 }, { 0x179, 0x17D, 2, 1 },
        { 0x218, 0x21A, 2, 1 },    { 0x386, 0x386, 1, 0x26 },  { 0x388, 0x38A, 1, 0x25 },
        { 0x38C, 0x38C, 1, 0x40 }, { 0x38E, 0x38F, 1, 0x3F },  { 0x391, 0x3A1, 1, 32 },
        { 0x3A3, 0x3AB, 1, 32 },   { 0x400, 0x40F, 1, 80 },    { 0x410, 0x42F, 1, 32 },
        { 0x1E00, 0x1E94, 2, 1 },  { 0x1EA0, 0x1EFE, 2, 1 },
    };
    for (size_t i = 0; i < FT_COUNT(capital); i++) {
        if (c >= capital[i].first && c <= capital[i].last &&
            (c - capital[i].first) % capital[i].step == 0) {
            return (uint32_t)((int32_t)c + capital[i].add);
        }
    }
    return c;
}

void ft_pytext_lower(char *text) {
    const char *end = text + strlen(text), *behind = text;
    while (text < end) {
        uint32_t c = ft_pytext_next(&behind, end), low = lower_of(c);
        size_t n = (size_t)(behind - text);
        if (low != c) {
            static const unsigned char lead[] = { 0, 0, 0xC0, 0xE0 };
            for (size_t i = n; i-- > 1; low >>= 6) {
                text[i] = (char)(0x80 | (low & 0x3F));
            }
            text[0] = (char)(lead[n] | low);
        }
        text += n;
    }
}

void ft_pytext_strip(char *text) {
    const char *end = text + strlen(text), *at = text;
    struct ft_piece word, first;
    if (!ft_pytext_split(&at, end, &first)) {
        text[0] = '\0';
        return;
    }
    const char *last = at;
    while (ft_pytext_split(&at, end, &word)) {
        last = at;
    }
    memmove(text, first.at, (size_t)(last - first.at));
    text[last - first.at] = '\0';
}
