/* SPDX-License-Identifier: Apache-2.0 */
/* toml_none.c - in place of toml.cpp where toml++ was not there at build time. */
#include "conf/toml.h"

#include "base/base.h"

ft_status ft_toml_parse(const char *name, const char *text, size_t n, json_t **value, json_t **line,
                        struct ft_error *error) {
    (void)text;
    (void)n;
    (void)value;
    (void)line;
    return ft_fail(error, FT_UNSUP, 0,
                   "%.100s cannot be read: this foretoken was built without toml++ "
                   "(libtomlplusplus-dev)",
                   name);
}
