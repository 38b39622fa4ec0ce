/* SPDX-License-Identifier: Apache-2.0 */
/* replay.c - runs a fuzz target over files and folders of inputs, without a fuzzer.
 *
 *     fuzz_gguf FILE_OR_FOLDER...      every input once; the name of the input that crashed is the last line
 *
 * An empty corpus is a failure: a test that runs nothing must not pass.
 */
#define _DEFAULT_SOURCE
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned n_input, n_failed;

static int replay_file(const char *path, size_t size) {
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(size ? size : 1); /* no byte more, so that a sanitizer sees the end */
    int ok = file && data && fread(data, 1, size, file) == size;
    if (ok) {
        printf("%s\n", path);
        fflush(stdout); /* so that a crash leaves the name behind */
        LLVMFuzzerTestOneInput(data, size);
        n_input++;
    }
    free(data);
    if (file) {
        fclose(file);
    }
    return ok;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void replay(const char *path) {
    struct stat st;
    struct dirent **entry = NULL;
    if (stat(path, &st) != 0) {
        fprintf(stderr, "replay: %s cannot be read\n", path);
        n_failed++;
    } else if (!S_ISDIR(st.st_mode)) {
        n_failed += !replay_file(path, (size_t)st.st_size);
    } else {
        int n = scandir(path, &entry, NULL, by_name);
        for (int i = 0; i < n; i++) {
            char child[4096];
            int length = snprintf(child, sizeof child, "%s/%s", path, entry[i]->d_name);
            if (entry[i]->d_name[0] != '.' && length > 0 && (size_t)length < sizeof child) {
                replay(child);
            }
            free(entry[i]);
        }
        free(entry);
    }
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        replay(argv[i]);
    }
    printf("replay: %u inputs, %u unreadable\n", n_input, n_failed);
    return n_input == 0 || n_failed != 0;
}
