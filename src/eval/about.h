/* SPDX-License-Identifier: Apache-2.0 */
/* about.h - what results say of the program and the machine that made them. */
#ifndef FT_EVAL_ABOUT_H
#define FT_EVAL_ABOUT_H

#include <jansson.h>

#include "eval/eval.h"

const char *ft_about_commit(void); /* git describe at build time; "unknown" without git */
json_t *ft_about_libraries(void);  /* {"llama.cpp":"0.5.0",...}; the caller's */
json_t *ft_about_machine(void);    /* cpu, cores, memory_bytes, kernels; the caller's */

#endif
