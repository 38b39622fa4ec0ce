/* SPDX-License-Identifier: Apache-2.0 */
/* toml.h - TOML 1.0 files as JSON values; with toml++ (toml.cpp), or without (toml_none.c). */
#ifndef FT_CONF_TOML_H
#define FT_CONF_TOML_H

#include <jansson.h>

#include "foretoken.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ft_toml_parse - a whole file.
 *
 *   name     of the file, for messages
 *   text     [n] UTF-8
 *   value    its tables as objects; the caller's
 *   line     path -> line, "methods[0].kv" -> 12, tables included; the caller's
 * Errors     FT_FORMAT with file and line: no TOML, or a date or time, which no setting takes;
 *            FT_NOMEM; FT_UNSUP: built without toml++ */
ft_status ft_toml_parse(const char *name, const char *text, size_t n, json_t **value, json_t **line,
                        struct ft_error *error);

#ifdef __cplusplus
}
#endif

#endif
