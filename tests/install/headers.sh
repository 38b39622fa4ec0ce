#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# headers.sh ROOT LLAMA_INCLUDE - every header compiles alone; the public one as C11 and as C++17.
set -eu
root=$1
llama=$2
n=0
failed=0

# try NAME COMMAND... - a compiler call that must succeed without a word.
try() {
    name=$1
    shift
    n=$((n + 1))
    if ! message=$("$@" 2>&1) || [ -n "$message" ]; then
        echo "headers: $name: $*"
        echo "$message"
        failed=$((failed + 1))
    fi
}

warnings="-fsyntax-only -Wall -Wextra -Wpedantic -Wconversion -Werror"
public=$root/include/foretoken.h
for c in gcc clang; do
    command -v $c >/dev/null 2>&1 || { echo "skip: $c is not installed: foretoken.h not tried with it"; continue; }
    try "$c C11" $c -std=c11 $warnings -Wshadow -Wstrict-prototypes -x c "$public"
done
for cxx in g++ clang++; do
    command -v $cxx >/dev/null 2>&1 || { echo "skip: $cxx is not installed: foretoken.h not tried with it"; continue; }
    try "$cxx C++17" $cxx -std=c++17 $warnings -x c++ "$public"
done
for header in "$root"/src/*/*.h; do
    # Templates: vector variants include them after defining their registers.
    case ${header#"$root"/} in
    src/kern/tile.h | src/kern/tile_words.h | src/kern/blocks.h | src/kern/packside.h) continue ;;
    esac
    # What the 256- and 512-bit files share: only they include it, with these instructions
    # (unoptimised, the intrinsics are macros that convert signs).
    isa=
    case ${header#"$root"/} in
    src/kern/zmm.h | src/kern/few512.h | src/kern/rows.h | src/kern/unpack.h)
        [ "$(uname -m)" = x86_64 ] || { echo "skip: ${header#"$root"/} is for x86-64"; continue; }
        isa="-O1 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mf16c -mfma" ;;
    src/kern/ymm.h | src/kern/loads.h)
        [ "$(uname -m)" = x86_64 ] || { echo "skip: ${header#"$root"/} is for x86-64"; continue; }
        isa="-O1 -mavx2 -mf16c -mfma" ;;
    esac
    # shellcheck disable=SC2086 # the flags are words
    try "${header#"$root"/}" gcc $isa -std=c11 $warnings -Wshadow -Wno-unused-function -I"$root/include" -I"$root/src" -isystem "$llama" \
        -x c "$header"
done
echo "headers: $n compiled alone, $failed failed"
[ "$failed" -eq 0 ]
