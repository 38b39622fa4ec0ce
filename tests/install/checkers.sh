#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# checkers.sh ROOT - src/ keeps to its layers, and layers.awk and style find what they are meant to find.
set -eu
root=$1
cd "$root"
awk -f scripts/layers.awk $(find src -name '*.[ch]' -o -name '*.def')
echo "checkers: layers are kept"

# A tree with one of each offence; every line below must be found, word for word.
tree=$PWD/tree
[ -z "${FT_TEST_SCRATCH_DIR-}" ] || tree=$FT_TEST_SCRATCH_DIR/tree
rm -rf "$tree"
mkdir -p "$tree/src/score" "$tree/include"
cat >"$tree/src/score/bad.c" <<'END'
/* SPDX-License-Identifier: Apache-2.0 */
/* bad.c - everything that is forbidden. */
#include "kv/store.h"
#include <ggml.h>
#include "score.h"
static int nine(int a, int b, int c, int d, int e, int f, int g, int h, int i) {
    while (a) { while (b) { while (c) { while (d) { if (e) { f = g + h + i; } } } } }
    return atoi("1") + (getenv("X") != NULL) + printf("strcpy(a, b)"); /* strcat(a, b) */
}
END
{
    echo "static int long_one(int a) {"
    i=0
    while [ $i -lt 101 ]; do echo "    a++;"; i=$((i + 1)); done
    echo "    return a;"
    echo "}"
    while [ $i -lt 900 ]; do echo; i=$((i + 1)); done
} >>"$tree/src/score/bad.c"
cat >"$tree/include/foretoken.h" <<'END'
/* SPDX-License-Identifier: Apache-2.0 */
/* foretoken.h - one function without a word. */

FT_API int ft_bare(void);
END

n=0
expect() { # FILE LINE...
    file=$1
    shift
    for line; do
        grep -qxF -- "$line" "$file" || { echo "checkers: not found: $line"; cat "$file"; exit 1; }
        n=$((n + 1))
    done
}
if (cd "$tree" && awk -f "$root/scripts/layers.awk" src/score/bad.c) >"$tree/layers.txt"; then
    echo "checkers: layers.awk passed a bad file"
    exit 1
fi
expect "$tree/layers.txt" \
    "src/score/bad.c:3: score may not include kv/store.h" \
    "src/score/bad.c:4: score may not include ggml.h" \
    'src/score/bad.c:5: write "folder/file.h", not "score.h"'
if scripts/style --root "$tree" >"$tree/style.txt"; then
    echo "checkers: style passed a bad file"
    exit 1
fi
expect "$tree/style.txt" \
    "src/score/bad.c:1: 913 lines, at most 900" \
    "src/score/bad.c:6: nine has 9 parameters, at most 8" \
    "src/score/bad.c:7: nine nests 5 deep, at most 4" \
    "src/score/bad.c:8: atoi is banned" \
    "src/score/bad.c:8: getenv outside conf" \
    "src/score/bad.c:8: printf outside cli and eval" \
    "src/score/bad.c:10: long_one has 104 lines, at most 100" \
    "include/foretoken.h:4: ft_bare is not documented"
if grep -E 'strcpy|strcat' "$tree/style.txt"; then
    echo "checkers: style looked into a comment or a string"
    exit 1
fi
rm -rf "$tree"
echo "checkers: $n planted offences found"
