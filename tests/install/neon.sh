#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# neon.sh ROOT SCRATCH - the kernels' unit tests, cross-compiled for AArch64 and run under qemu.
#
# cmocka for AArch64 is not packaged for other machines: tests/install/cmocka stands in for it.
set -eu
root=$1
scratch=$2
cc=aarch64-linux-gnu-gcc
skip() { echo "skip: NEON kernels: $*"; exit 77; }
type="type: apt-get install -y gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"
[ "$(uname -m)" != aarch64 ] || skip "this machine has them; test_kern has run them as they are"
command -v $cc >/dev/null 2>&1 || skip "no $cc; $type"
command -v qemu-aarch64 >/dev/null 2>&1 || skip "no qemu-aarch64; $type"
sysroot=/usr/aarch64-linux-gnu
[ -e $sysroot/include/stdio.h ] || skip "no C library for AArch64; $type"

cd "$root"
mkdir -p "$scratch"
warnings="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wmissing-prototypes -Wstrict-prototypes -Wvla -Werror"
common="-std=c11 -O2 -g -Iinclude -Isrc"
objects=
for file in src/base/base.c src/base/os.c src/kern/kern.c src/kern/ref.c src/kern/pack.c src/kern/neon.c \
    src/kern/packneon.c; do
    object=$scratch/$(basename "$file" .c).o
    flags=
    case $file in src/kern/*) flags="-fno-math-errno -ffp-contract=fast" ;; esac
    # shellcheck disable=SC2086 # the flags are words
    $cc $common $warnings $flags -c "$file" -o "$object"
    objects="$objects $object"
done
unset FT_KERN
for test in test_formats test_few test_pack test_kern; do
    # shellcheck disable=SC2086
    $cc $common -isystem tests/install/cmocka -Itests tests/unit/$test.c $objects -lm -o "$scratch/$test"
    qemu-aarch64 -L $sysroot "$scratch/$test" >"$scratch/log" 2>&1 ||
        { cat "$scratch/log"; echo "neon: $test failed"; exit 1; }
    grep -v "^SKIP: this machine runs" "$scratch/log" || true # two variants are all there are
done
grep -q '^neon: errors' "$scratch/log" || { echo "neon: the variant was not tested"; exit 1; }
