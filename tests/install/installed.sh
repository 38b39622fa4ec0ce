#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# installed.sh ROOT BUILD SCRATCH - install, move the tree elsewhere, and build the example against it.
set -eu
root=$1
build=$2
scratch=$3/work # the working folder itself must stay
rm -rf "$scratch"
mkdir -p "$scratch"
cmake --install "$build" --prefix "$scratch/first" >"$scratch/install.log"
mv "$scratch/first" "$scratch/prefix" # nothing may remember where it was installed
prefix=$scratch/prefix
unset LD_LIBRARY_PATH LD_PRELOAD

libdir=$(dirname "$(find "$prefix" -name 'libforetoken.so')")
for file in "$prefix/include/foretoken.h" "$libdir/libforetoken.so.0" "$libdir/libforetoken.a" \
    "$libdir/pkgconfig/foretoken.pc" "$libdir/cmake/foretoken/foretokenConfig.cmake"; do
    [ -f "$file" ] || { echo "installed: $file is missing"; exit 1; }
done
for pair in man/foretoken.1:share/man/man1/foretoken.1 \
    completions/foretoken.bash:share/bash-completion/completions/foretoken; do
    [ ! -f "$root/${pair%%:*}" ] || [ -f "$prefix/${pair##*:}" ] ||
        { echo "installed: ${pair##*:} is missing"; exit 1; }
done

echo "-- the library exports what the header declares, and nothing else"
readelf -d "$libdir/libforetoken.so" | grep -q 'SONAME.*\[libforetoken.so.0\]'
nm -D --defined-only "$libdir/libforetoken.so" | awk '$2 ~ /[A-Z]/ && $2 != "A" { sub(/@.*/, "", $3); print $3 }' |
    sort -u >"$scratch/exported"
grep -o 'FT_API [^;(]*[ *]ft_[a-z0-9_]*(' "$prefix/include/foretoken.h" | grep -o 'ft_[a-z0-9_]*(' | tr -d '(' |
    sort -u >"$scratch/declared"
diff "$scratch/declared" "$scratch/exported"

echo "-- pkg-config, shared"
PKG_CONFIG_PATH=$libdir/pkgconfig
export PKG_CONFIG_PATH
warnings="-std=c11 -Wall -Wextra -Wpedantic -Werror"
gcc $warnings $(pkg-config --cflags foretoken) "$root/examples/generate.c" -o "$scratch/by-pc" \
    $(pkg-config --libs foretoken) -Wl,-rpath,"$libdir"

echo "-- pkg-config, static"
gcc $warnings $(pkg-config --cflags foretoken) "$root/examples/generate.c" -o "$scratch/by-pc-static" \
    "$libdir/libforetoken.a" $(pkg-config --static --libs foretoken | sed 's/-lforetoken//')
if readelf -d "$scratch/by-pc-static" | grep libforetoken; then
    echo "installed: by-pc-static is not static"
    exit 1
fi

echo "-- find_package"
cmake -G Ninja -S "$root/examples" -B "$scratch/example" -DCMAKE_PREFIX_PATH="$prefix" >"$scratch/cmake.log" 2>&1 ||
    { cat "$scratch/cmake.log"; exit 1; }
cmake --build "$scratch/example" >"$scratch/cmake.log" 2>&1 || { cat "$scratch/cmake.log"; exit 1; }

model=$root/models/foretoken-target-f16.gguf
[ -e "$model" ] || { echo "installed: no target in models/"; exit 1; }
for program in by-pc by-pc-static example/generate example/generate-static; do
    status=0
    "$scratch/$program" 2>"$scratch/usage" || status=$?
    [ "$status" -eq 2 ] && grep -q '^foretoken 0\.' "$scratch/usage" ||
        { echo "installed: $program does not start"; cat "$scratch/usage"; exit 1; }
    "$scratch/$program" "$model" "The whale" >"$scratch/out"
    [ "$(wc -c <"$scratch/out")" -gt 1 ] || { echo "installed: $program wrote nothing"; exit 1; }
    echo "ok $program"
done

echo "-- the installed program"
"$prefix/bin/foretoken" --version
rm -rf "$scratch/example"
