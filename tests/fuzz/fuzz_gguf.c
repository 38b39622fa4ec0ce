/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_gguf.c - any bytes as a GGUF file: an answer, the same twice, and facts that hold inside
 * the file. */
#include <stdlib.h>
#include <string.h>

#include "model/ggufcheck.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct ft_file_map map = { .data = data, .size = size };
    struct ft_gguf_facts facts, again;
    struct ft_error err = { .code = FT_OK };
    ft_status status = ft_gguf_check(&map, "fuzz.gguf", &facts, &err);
    if (status != ft_gguf_check(&map, "fuzz.gguf", &again, NULL) ||
        (status != FT_OK && err.where > size)) {
        abort();
    }
    for (uint32_t i = 0; status == FT_OK && i < facts.n_tensor; i++) {
        const struct ft_gguf_tensor *t = &facts.tensor[i];
        if (t->offset > size || t->n_byte > size - t->offset ||
            strlen(t->name) >= sizeof(t->name)) {
            abort();
        }
    }
    if (status == FT_OK) {
        ft_gguf_facts_done(&facts);
        ft_gguf_facts_done(&again);
    }
    return 0;
}
