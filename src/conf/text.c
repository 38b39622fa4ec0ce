/* SPDX-License-Identifier: Apache-2.0 */
/* text.c - what users type, as numbers: whole strings or nothing. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "conf/conf.h"

bool ft_text_uint(const char *text, uint64_t high, uint64_t *out) {
    uint64_t value = 0;
    if (*text == '\0') {
        return false;
    }
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9') {
            return false;
        }
        uint64_t digit = (uint64_t)(*text - '0');
        if (value > (UINT64_MAX - digit) / 10) {
            return false;
        }
        value = value * 10 + digit;
    }
    if (value > high) {
        return false;
    }
    *out = value;
    return true;
}

bool ft_text_real(const char *text, double *out) {
    char *end = NULL;
    if (*text == '\0' || isspace((unsigned char)*text)) {
        return false;
    }
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || isnan(value)) {
        return false;
    }
    *out = value;
    return true;
}

bool ft_text_bias(const char *text, struct ft_logit_bias *out) {
    char id_text[16];
    uint64_t id;
    double bias;
    size_t n = strspn(text, "0123456789");
    if (n == 0 || n >= sizeof id_text) {
        return false;
    }
    memcpy(id_text, text, n);
    id_text[n] = '\0';
    const char *rest = text + n;
    if (*rest == '=') {
        rest++;
    } else if (*rest != '+' && *rest != '-') {
        return false;
    }
    if (!ft_text_uint(id_text, INT32_MAX, &id) || !ft_text_real(rest, &bias) || bias == INFINITY) {
        return false;
    }
    *out = (struct ft_logit_bias){ .id = (ft_token)id, .bias = (float)bias };
    return true;
}

bool ft_text_bytes(const char *text, uint64_t *out) {
    static const struct {
        const char *name;
        double bytes;
    } units[] = { { "KiB", 1024 }, { "MiB", 1048576 }, { "GiB", 1073741824 }, { "KB", 1e3 },
                  { "MB", 1e6 },   { "GB", 1e9 },      { "B", 1 } };
    char number[32];
    double value;
    size_t n = strspn(text, "0123456789.");
    if (n == 0 || n >= sizeof number) {
        return false;
    }
    memcpy(number, text, n);
    number[n] = '\0';
    for (size_t i = 0; i < FT_COUNT(units); i++) {
        if (strcmp(text + n, units[i].name) == 0) {
            if (!ft_text_real(number, &value) || !(value * units[i].bytes >= 1) ||
                !(value * units[i].bytes < 1e18)) {
                return false;
            }
            *out = (uint64_t)(value * units[i].bytes);
            return true;
        }
    }
    return false;
}

bool ft_text_self(const char *text, uint32_t *n_layer) {
    static const char head[] = "self:layers=";
    uint64_t value;
    if (strncmp(text, head, sizeof head - 1) != 0 ||
        !ft_text_uint(text + sizeof head - 1, 65535, &value) || value == 0) {
        return false;
    }
    *n_layer = (uint32_t)value;
    return true;
}

bool ft_text_is_calibrated(const char *text) {
    return text && strcmp(text, "calibrated") == 0;
}

void ft_text_escape(const char *text, char *out) {
    static const char letter[] = "nrt\\\"'", meaning[] = "\n\r\t\\\"'";
    while (*text != '\0') {
        const char *hit = text[0] == '\\' && text[1] != '\0' ? strchr(letter, text[1]) : NULL;
        if (hit) {
            *out++ = meaning[hit - letter];
            text += 2;
        } else {
            *out++ = *text++;
        }
    }
    *out = '\0';
}

/* Optimal string alignment: three rows of the usual table. */
uint32_t ft_text_distance(const char *a, const char *b) {
    enum { CAP = 32 };
    uint32_t row[3][CAP + 1] = { { 0 } };
    size_t n_a = strlen(a), n_b = strlen(b);
    if (n_a > CAP || n_b > CAP) {
        return 99;
    }
    for (uint32_t j = 0; j <= n_b; j++) {
        row[0][j] = j;
    }
    for (uint32_t i = 1; i <= n_a; i++) {
        uint32_t *now = row[i % 3], *last = row[(i + 2) % 3], *older = row[(i + 1) % 3];
        now[0] = i;
        for (uint32_t j = 1; j <= n_b; j++) {
            uint32_t best = last[j - 1] + (a[i - 1] != b[j - 1]);
            best = FT_MIN(best, FT_MIN(last[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                best = FT_MIN(best, older[j - 2] + 1);
            }
            now[j] = best;
        }
    }
    return row[n_a % 3][n_b];
}
