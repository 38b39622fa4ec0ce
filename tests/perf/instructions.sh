#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# instructions.sh - how many instructions the kernels need, against the table beside this script.
#
# Usage    instructions.sh KERNCOUNT            compare; more than 3 % above the table is a failure
#          instructions.sh --update KERNCOUNT   make the table anew, from a build of preset dev
#
# Counted by callgrind inside ft_count_here() of KERNCOUNT (build/dev/tests/kerncount), given per
# visible (query, row) pair, per number for encode and decode.  A count does not depend on the
# machine or on what else runs there, but it does on the compiler, its flags and the C library:
# with others than the table's there is nothing to compare (exit code 77, counted as skipped).
set -eu
me=instructions
here=$(cd "$(dirname "$0")" && pwd)
table=$here/instructions.txt

say() { echo "$me: $*"; }
skip() { echo "skip: $*"; exit 77; }

update=
if [ "${1-}" = --update ]; then
    update=yes
    shift
fi
[ $# -eq 1 ] || { sed -n '4,14s/^# \{0,1\}//p' "$0" >&2; exit 2; }
program=$1
build=$("$program" --build)
if [ -z "$update" ]; then
    made=$(sed -n 's/^# build: //p' "$table")
    [ "$build" = "$made" ] ||
        skip "instruction counts: this build is \"$build\", the table was made with \"$made\""
fi
command -v valgrind >/dev/null 2>&1 ||
    skip "instruction counts: no valgrind; type: apt-get install -y valgrind"

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# What valgrind's processor can run: no AVX-512.
unset FT_KERN
valgrind --tool=none -q "$program" --list >"$tmp/list"
while read -r name units; do
    valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect=ft_count_here \
        "$program" "$name" 2>"$tmp/log" </dev/null || { cat "$tmp/log"; say "$name did not run"; exit 1; }
    count=$(sed -n 's/^==[0-9]*== Collected : \([0-9]*\)$/\1/p' "$tmp/log")
    [ "${count:-0}" -gt 0 ] || { cat "$tmp/log"; say "$name: nothing was counted"; exit 1; }
    echo "$name $count $units"
done <"$tmp/list" >"$tmp/counts"

if [ -n "$update" ]; then
    {
        echo "# Instructions of the kernels per visible (query, row) pair; per number: encode, decode."
        echo "# Made by tests/perf/instructions.sh --update build/dev/tests/kerncount"
        echo "# build: $build"
        awk '{ printf "%-24s %10.4f\n", $1, $2 / $3 }' "$tmp/counts"
    } >"$tmp/table"
    cp "$tmp/table" "$table"
    say "$(wc -l <"$tmp/counts") cases written to $table"
    exit 0
fi

awk -v me="$me" -v most=3 '
    FNR == NR { if ($0 !~ /^#/) table[$1] = $2; next }
    {
        split($1, part, "/")
        runs[part[1]] = 1
        seen[$1] = 1
        now = $2 / $3
        if (!($1 in table)) {
            printf "%s: FAILED %s needs %.4f instructions and is not in the table\n", me, $1, now
            n_failed++
            next
        }
        change = (now / table[$1] - 1) * 100
        verdict = ""
        if (change > most) { verdict = sprintf("  FAILED: at most %d %% more", most); n_failed++ }
        if (change < -most) { verdict = "  better: update the table"; n_better++ }
        printf "%s: %-24s %10.4f   table %10.4f   %+6.2f %%%s\n", me, $1, now, table[$1], change, verdict
        n++
    }
    END {
        for (name in table) {
            split(name, part, "/")
            if (part[1] in runs) {
                if (!(name in seen)) {
                    printf "%s: FAILED %s is in the table, but kerncount has no such case\n", me, name
                    n_failed++
                }
            } else if (!(part[1] in missed)) {
                missed[part[1]] = 1
                printf "skip: this machine cannot run the %s kernels: not counted\n", part[1]
            }
        }
        printf "%s: %d cases compared, %d failed, %d better\n", me, n, n_failed, n_better
        if (n_failed || n_better) {
            printf "%s: where the change is wanted: tests/perf/instructions.sh --update build/dev/tests/kerncount\n", me
        }
        exit n_failed > 0 || n == 0
    }' "$table" "$tmp/counts"
