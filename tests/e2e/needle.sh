#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# needle.sh - eval needle on the shipped pair: the grid, its record and its reports, refusals.
. "$(dirname "$0")/lib.inc"

rm -f ./*.jsonl

# ---- results ----
# One thread: the models are tiny, and answers are many.
ask="eval needle -m $target -d $draft -t 1 --ctx 512,768 --depths 0,50,100 --samples 2 --seed 3"
works $ask --json --out grid.jsonl
json '[(r["ctx"], r["depth"]) for r in j["rows"]] == [(c, d) for c in (512, 768) for d in (0, 50, 100)]'
json 'all(r["task"] == "needle@%d" % r["depth"] and r["samples"] == 2 for r in j["rows"])'
json 'all(0 <= r["low"] <= r["score"] <= r["high"] <= 100 for r in j["rows"])'
json 'all(r["prompt_tokens"] + 128 <= r["ctx"] and r["prompt_tokens"] > r["ctx"] - 160 for r in j["rows"])'
json 'j["manifest"]["needle"] == "niah_single_2" and j["manifest"]["haystack"] == "synthetic haystack"'
json '[m["tasks"] for m in j["means"]] == [3, 3] and "squad" not in j["manifest"]'
json 'sum(r["score"] for r in j["rows"]) >= 300' # the pair was trained on such needles
check "a row says its depth" python3 -c '
import json
rows = [json.loads(line) for line in open("grid.jsonl")][1:]
assert len(rows) == 12, len(rows)
assert all(r["task"] == "needle@%d" % r["depth"] and len(r["references"]) == 1 for r in rows), rows
assert all((r["references"][0] in r["prediction"]) == (r["score"] == 100) for r in rows), rows
one = {(r["ctx"], r["index"]): r["references"] for r in rows}
assert all(one[r["ctx"], r["index"]] == r["references"] for r in rows), rows' # at every depth the same
works $ask
check "the table has a row for a depth" [ "$(grep -c '^needle@100 ' out)" -eq 2 ]

# ---- going on, methods, reports ----
head -c $(($(wc -c <grid.jsonl) / 2)) grid.jsonl >cut.jsonl
works $ask --json --out cut.jsonl
for file in grid cut; do
    bytes $file.jsonl >$file.bytes
done
check "a torn record becomes the whole one" cmp -s grid.bytes cut.bytes
works $ask --kv random:keep=16 --out grid.jsonl
works report grid.jsonl -o page.html
check "a grid a method" [ "$(grep -c '^| 50 % |' out)" -eq 2 ]
check "columns are lengths" grep -q '^| depth | 512 | 768 |' out
check "the page has a heat map" grep -q '<title>50 %, 768 tokens: ' page.html
works report grid.jsonl --csv
check "the last column is the depth" [ "$(grep -c 'needle@50.*,50$' out)" -eq 4 ]
works report grid.jsonl --json
json 'sorted({r["depth"] for r in j["rows"]}) == [0, 50, 100]'
works eval compare cut.jsonl grid.jsonl --json
json 'all(len(c["rows"]) == 6 for c in j)'
for task in niah_single_1 niah_single_3; do
    works eval needle -m "$target" -t 1 --tasks $task --ctx 512 --depths 40 --samples 1 --out $task.jsonl --json
    json "j['manifest']['needle'] == '$task'"
done
works eval needle -m "$target" -t 1 --ctx 512 --samples 1 --json
json '[r["depth"] for r in j["rows"]] == list(range(0, 101, 10))'

# ---- refusals ----
refuses 1 "has another needle than the first record" report niah_single_1.jsonl niah_single_3.jsonl
refuses 1 'other settings: needle is "niah_single_1" there and "niah_single_2" here' eval needle -m "$target" \
    --ctx 512 --depths 40 --samples 1 --out niah_single_1.jsonl
refuses 2 '--tasks is "vt", expected one of niah_single_1' eval needle -m "$target" --tasks vt
refuses 2 "expected one of niah_single_1" eval needle -m "$target" --tasks niah_single_1,niah_single_2
refuses 2 'no task "needle"' eval needle -m "$target" --tasks needle
refuses 2 "--depths is \"101\", expected up to 16 whole numbers from 0 to 100" eval needle -m "$target" --depths 101
refuses 2 "--depths holds 50 twice" eval needle -m "$target" --depths 50,10,50
refuses 2 "eval needle has no use for --hotpot" eval needle -m "$target" --hotpot x.json
refuses 2 "eval ruler has no use for --depths" eval ruler -m "$target" --depths 50
refuses 2 'unexpected argument "x"' eval needle x -m "$target"
refuses 1 "--ctx 100000 is beyond the" eval needle -m "$target" --ctx 100000
finish
