#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# auto.sh - --auto on the shipped pair, and the break-even table.  Nothing here goes by the clock.
. "$(dirname "$0")/lib.inc"

i=0
while [ $i -lt 60 ]; do
    echo "The wind blew from the north, and the men sat by the fire and told old tales."
    [ $i -ne 20 ] || echo "One of the special magic numbers for grey-river is: 48213."
    i=$((i + 1))
done >doc.txt
question="What is the special magic number for grey-river mentioned in the text? The special magic number for grey-river mentioned in the text is"
generate() { works generate -m "$target" -n 12 -f doc.txt -p "$question" "$@"; }

# ---- --auto ----
generate
cp out dense.txt
check "nothing is said without --auto" sh -c '! grep -q "^auto" err'
generate -d "$draft" --auto --prompt specpc:keep=4000 # within keep
check "a short prompt is dense" cmp -s out dense.txt
check "and the summary says so" grep -q "^auto .*nothing to drop.*: dense" err
check "which is no fallback" sh -c '! grep -q "^fallback" err'
generate -d "$draft" --auto --prompt specpc:keep=4000 --strict --json
json 'j["auto"]["chosen"] == "dense" and j["auto"]["measured"] is False and j["auto"]["rates"] is None'
json 'j["auto"]["expected_ms"]["dense"] is None and j["auto"]["measure_ms"] == 0 and j["fallbacks"] == []'
for method in "--prompt specpc:keep=256" "--kv speckv:keep=128" ""; do
    # shellcheck disable=SC2086 # two words each
    generate -d "$draft" --auto --strict --json $method
    json 'list(j["auto"]) == ["chosen", "text", "measured", "expected_ms", "expected_answer_ms", "happened_ms", "measure_ms", "rates"]'
    json 'j["auto"]["chosen"] in ("dense", "plan") and j["auto"]["text"] and j["fallbacks"] == []'
    json 'j["auto"]["expected_ms"]["dense"] > 0 and 0 < j["auto"]["happened_ms"] <= j["ttft_ms"]'
    json 'abs(j["auto"]["happened_ms"] + j["auto"]["measure_ms"] - j["ttft_ms"]) < 0.01'
    json '(j["auto"]["rates"] is not None) == j["auto"]["measured"] == (j["auto"]["expected_ms"]["plan"] is not None)'
    json '(j["auto"]["chosen"] == "dense") == (j["draft_ms"] == 0)'
done
generate -d "$draft" --auto --prompt specpc:keep=1% --json # a hundredth is less than the window
json 'j["auto"]["chosen"] == "dense" and "window" in j["auto"]["text"]'
generate -d self:layers=2 --auto --json # specpc, which such a draft can serve
json 'j["auto"]["text"].find("specpc") >= 0'
generate -d "$draft" --json
json '"auto" not in j'
refuses 2 "nothing to choose from" generate -m "$target" -p x --auto
refuses 2 "nothing to choose from" generate -m "$target" -d "$draft" -p x --auto --kv dense
refuses 2 "needs a draft model" generate -m "$target" -p x --auto --kv speckv
generate --json --auto --kv snapkv:keep=128
json 'j["auto"]["chosen"] in ("dense", "plan") and "snapkv" in j["auto"]["text"]'
refuses 2 "no option --auto" bench -m "$target" --auto

# the format goes with the plan that is chosen, also behind a dense plan that cannot be run
joint() { generate -d "$draft" -c 1100 --json --prompt specpc:keep=1024 --kv snapkv:keep=12.5% --kv-type joint "$@"; }
joint
cp out plain.json
joint --auto
json 'j["auto"]["chosen"] == "plan" and j["kv_bytes"] == json.load(open("plain.json"))["kv_bytes"]'
refuses 2 "both choose the method" generate -m "$target" -p x --auto --kv auto:bytes=1MiB

# ---- breakeven ----
works breakeven -m "$target" --ctx 1024,65536
check "three methods with a line of lengths that pay" [ "$(grep -c '^pays from' out)" -eq 3 ]
check "columns of sizes" grep -q "1/32 .*1/16 .*1/8 .*1/4 .*1/2" out
check "assumptions" grep -q "^columns: layer weights" out
works breakeven -m "$target" -d "$draft" --ctx 2000,60000 --prompt specpc:keep=500 --csv
check "a header and a row for every length and column" [ "$(wc -l <out)" -eq 13 ]
check "the given draft has a column" [ "$(grep -c '^"specpc:keep=500",[0-9.]*,1,' out)" -eq 2 ]
works breakeven -m "$target" -d "$draft" --ctx 100,60000 --prompt specpc:keep=500 --kv speckv:keep=100 --kv dense --json
json 'len(j["rows"]) == 2 * 2 * 6 and j["attention_exponent_from"] == "draft" and j["n_predict"] == 256'
json 'j["rates"]["target"]["layer_weights"] > j["rates"]["draft"]["layer_weights"] > 0'
json 'all(r["drops"] == (r["draft_ms"] > 0) for r in j["rows"]) and any(r["drops"] for r in j["rows"])'
json 'all(abs(r["speedup"] - r["dense_ttft_ms"] / r["ttft_ms"]) < 0.01 * r["speedup"] for r in j["rows"])'
json 'all(r["drops"] or r["ttft_ms"] >= r["dense_ttft_ms"] * 0.5 for r in j["rows"])'
refuses 2 "which model?" breakeven
refuses 2 "exclude each other" breakeven -m "$target" --json --csv
refuses 2 "give another one" breakeven -m "$target" --kv dense
refuses 2 "give a model with -d FILE" breakeven -m "$target" -d self:layers=2
refuses 2 "there are: dense, speckv" breakeven -m "$target" --kv unknown
refuses 2 "expected up to 16 whole numbers" breakeven -m "$target" --ctx 0
refuses 1 "missing.gguf" breakeven -m missing.gguf
finish
