#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# kills.sh - a sweep that is killed at random moments and goes on ends as one that was left alone.
. "$(dirname "$0")/lib.inc"

rm -f ./*.jsonl

# told FILE - the file without times and without who ran it, how and where.
told() {
    sed '/^{"run":/d; s/,"run":{.*$/}}/; s/"times":{[^}]*}//' "$1"
}
same() {
    told "$1" >same.a
    told "$2" >same.b
    cmp same.a same.b
}

grid="--tasks niah_single_1,chain --ctx 320,384 --samples 4 --seed 5 -t 1 --kv streamingllm --kv speckv:lookahead=4"
grid="$grid --kv dense --kv speckv:lookahead=4,budget=ada --keep 64" # both speckv behind one prefill
works eval ruler -m "$target" -d "$draft" $grid --out whole.jsonl

# Every run but the last is ended by SIGKILL after a random part of a start and a few samples; the record it
# leaves is the beginning of the next one.  FT_KILL_SEED=N replays or draws other moments.
check "20 kills, and the record is that of an undisturbed run" python3 "$source_dir/tests/e2e/kills.py" \
    --kills 20 --seed "${FT_KILL_SEED:-1}" killed.jsonl -- "$program" eval ruler -m "$target" -d "$draft" $grid \
    --out killed.jsonl
check "byte for byte" same killed.jsonl whole.jsonl
for i in 1 2; do
    check "the same of part $i of 2" python3 "$source_dir/tests/e2e/kills.py" --kills 4 \
        --seed "$i" killed.shard-$i-of-2.jsonl -- "$program" eval ruler -m "$target" -d "$draft" $grid \
        --out killed.jsonl --shard $i/2
done
works eval join killed-joined.jsonl killed.shard-1-of-2.jsonl killed.shard-2-of-2.jsonl
check "and both joined" same killed-joined.jsonl whole.jsonl
finish
