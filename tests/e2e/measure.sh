#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# measure.sh - eval ppl and eval importance on the shipped pair: results, records, reports, refusals.
. "$(dirname "$0")/lib.inc"

rm -f ./*.jsonl page.html
text=$source_dir/LICENSE

# ---- ppl ----
ppl="eval ppl -m $target -d $draft -f $text --ctx 256,384 --samples 2"
works $ppl --json --out ppl.jsonl
json '[row["ctx"] for row in j["rows"]] == [256, 384] and all(row["samples"] == 2 for row in j["rows"])'
json 'all(row["kl"] == 0 and row["kl_p99"] == 0 and row["agreement"] == 100 for row in j["rows"])'
json 'all(row["nll"] == row["nll_dense"] and row["score"] == 100 for row in j["rows"])'
json 'j["manifest"]["suite"] == "ppl" and j["manifest"]["text"].startswith("sha256:")'
cp out dense.json
works perplexity -m "$target" -f "$text" -c 256 --chunks 2 --json
json 'abs(j["nll"] - json.load(open("dense.json"))["rows"][0]["nll"]) < 1e-6'
works $ppl --kv snapkv:keep=24,window=8 --json --out ppl.jsonl
json 'all(row["kl"] > 0 and row["kl_p99"] >= row["kl"] and row["agreement"] < 100 for row in j["rows"])'
json 'all(abs(row["nll"] - row["nll_dense"] - row["nll_difference"]) < 1e-7 for row in j["rows"])'
json 'all(a["nll_dense"] == b["nll"] for a, b in zip(j["rows"], json.load(open("dense.json"))["rows"]))'
json 'all(row["kept_rows"] == 24 for row in j["rows"])'
works $ppl --prompt specpc:keep=64,window=16 --out ppl.jsonl
check "the table has the numbers" grep -q "^    256  .*  *64 *64  [0-9.]* KiB$" out
check "three methods share a record" [ "$(grep -c '^{"task":"ppl"' ppl.jsonl)" -eq 12 ]
cp ppl.jsonl before.jsonl
works $ppl --prompt specpc:keep=64,window=16 --out ppl.jsonl
check "a whole record stays as it is" cmp -s ppl.jsonl before.jsonl
works report ppl.jsonl --json
json 'sum(row["method"] == "dense" and row["score"] == 100 for row in j["rows"]) == 2'
works $ppl --out alone.jsonl
works eval compare alone.jsonl ppl.jsonl
check "the loss of a method shows" grep -q "^b  snapkv" out

works $ppl --kv-type q8_0 --kv-type q2,residual=0 --json
json '[r["kv_type"] for r in j["rows"]] == ["q8_0"] * 2 + ["q2,residual=0"] * 2 and j["rows"][2]["method"] == "dense q2,residual=0"'
json 'all(0 < a["kl"] < b["kl"] and a["kv_bytes"] > b["kv_bytes"] for a, b in zip(j["rows"], j["rows"][2:]))'
json 'all(a["nll_dense"] == b["nll"] for a, b in zip(j["rows"], json.load(open("dense.json"))["rows"]))' # dense is f16

refuses 2 "on which text? -f FILE is needed" eval ppl -m "$target"
refuses 1 "missing.txt: No such file" eval ppl -m "$target" -f missing.txt
refuses 1 "samples of 4096 need 81920 (--samples " eval ppl -m "$target" -f "$text" --ctx 4096
refuses 2 "has no use for --tasks" eval ppl -m "$target" -f "$text" --tasks vt
refuses 2 "has no use for --answer-prefix" eval ppl -m "$target" -f "$text" --answer-prefix off
refuses 2 "eval ppl has no use for --budgets" eval ppl -m "$target" -f "$text" --budgets 32
refuses 2 "--ctx has 256 twice" eval ppl -m "$target" -f "$text" --ctx 256,512,256
refuses 2 "needs a draft model" eval ppl -m "$target" -f "$text" --kv speckv
refuses 2 'unexpected argument "x"' eval ppl x -m "$target" -f "$text"
refuses 2 "eval ruler has no use for --file" eval ruler -m "$target" -f "$text"
refuses 1 "LICENSE has 4469 tokens, a sample of --ctx 100000 takes more" eval ppl -m "$target" -f "$text" --ctx 100000
for i in 1 2 3 4 5 6 7 8; do cat "$text"; done >long.txt
refuses 1 "--ctx 8192 is beyond the" eval ppl -m "$target" -f long.txt --ctx 8192 --samples 1
printf 'text \377' >bad.txt
refuses 1 "is not UTF-8" eval ppl -m "$target" -f bad.txt
cat "$text" "$text" >other.txt
refuses 1 "other settings: text is" eval ppl -m "$target" -d "$draft" -f other.txt --samples 2 --ctx 256 --out ppl.jsonl

# ---- importance ----
prompts="--tasks niah_single_1,chain --ctx 512 --samples 2"
works eval importance -m "$target" -d "$draft" $prompts --json --out importance.jsonl
json '[row["method"] for row in j["rows"]] == ["specpc", "speckv", "snapkv"] * 2'
json 'all(row["budget"] == 64 and row["samples"] == 2 for row in j["rows"])'
json '[b["budget"] for b in j["rows"][0]["budgets"]] == [32, 64, 128, 256]'
json 'all(0 <= row["r2"] <= 1 and -1 <= row["spearman"] <= 1 for row in j["rows"])'
json 'all(0 <= b["low"] <= b["overlap"] <= b["high"] <= 100 for row in j["rows"] for b in row["budgets"])'
json 'all(abs(row["score"] - row["budgets"][1]["overlap"]) < 1e-6 for row in j["rows"])'
json 'j["rows"][4]["score"] > j["rows"][5]["score"]' # chain: looking ahead against the window alone
check "rows have budgets, layers and points" python3 -c '
import json
rows = [json.loads(line) for line in open("importance.jsonl")][1:]
assert len(rows) == 12
for row in rows:
    assert row["score"] == row["overlap"][str(row["budget"])], row
    for c, share in row["random"].items():
        assert abs(share - 100 * int(c) / row["scored_tokens"]) < 1e-6, row
    assert ("points" in row) == (row["method"] == "specpc" and row["index"] == 0), row
    assert "points" not in row or 0 < len(row["points"]) <= 512, row
    if row["method"] != "specpc":
        assert len(row["r2_layers"]) == len(row["overlap_layers"]) == 4, row
        assert abs(sum(row["overlap_layers"]) / 4 - row["score"]) < 1e-5, row'
works eval importance -m "$target" -d "$target" $prompts --json
json 'all(row["r2"] == 1 and row["spearman"] == 1 for row in j["rows"] if row["method"] != "snapkv")'
json 'all(b["overlap"] == 100 for row in j["rows"] if row["method"] != "snapkv" for b in row["budgets"])'
works eval importance -m "$target" --kv random --kv oracle --tasks chain --ctx 512 --samples 4 --json
json 'j["rows"][1]["r2"] == 1 and j["rows"][1]["score"] == 100'
json 'all(abs(b["overlap"] - b["random"]) < 6 for b in j["rows"][0]["budgets"][1:]) and j["rows"][0]["r2"] < 0.05'
works eval importance -m "$target" -d self:layers=2 --prompt specpc --prompt specpc:pool=none \
    --tasks chain --ctx 512 --samples 1 --budgets 64,16
check "the table names estimator and budgets" grep -q "^ *16: [0-9.]* ([0-9.]*) 64: " out

works report importance.jsonl -o page.html
check "a row an estimator and task" [ "$(grep -c '^| \(specpc\|speckv\|snapkv\) | \(chain\|niah_single_1\) | 2 |' out)" -eq 6 ]
check "overlap and points are drawn" [ "$(grep -c '<svg ' page.html)" -eq 2 ]
check "chance is drawn too" grep -q '>by chance<' page.html
works report importance.jsonl --csv
check "csv: a line a budget" [ "$(wc -l <out)" -eq 25 ]
works report importance.jsonl --json
json 'len(j["importance"]) == 6 and len(j["importance"][0]["budgets"]) == 4'
sed '3s/"overlap":/"overlop":/' importance.jsonl >damaged.jsonl
refuses 1 'no row of eval importance: "overlap" is missing' report damaged.jsonl
refuses 1 'no row of eval importance: "overlap" is missing' report damaged.jsonl --json
refuses 1 'no row of eval importance: "overlap" is missing' report damaged.jsonl -o damaged.html
check "no page is left behind" [ ! -e damaged.html ]

on="eval importance -m $target $prompts"
refuses 2 "-d FILE is needed" $on
refuses 2 "writes no text for speckv" $on -d self:layers=2
refuses 2 "specpc needs a draft model" $on --prompt specpc
refuses 2 "dense ranks nothing" $on -d "$draft" --kv dense
refuses 2 "--prompt tail asks no draft" $on -d "$draft" --prompt tail
refuses 2 "sets keep, which decides nothing here" $on --kv snapkv:keep=64
refuses 2 "snapkv is given twice" $on --kv snapkv --kv snapkv
refuses 2 "--budgets: none is below --ctx 512" $on --kv snapkv --budgets 512
refuses 2 "--budgets has 32 twice" $on --kv snapkv --budgets 32,64,32
refuses 2 '--budgets is "0"' $on --kv snapkv --budgets 0
refuses 1 "500 is not below the 341 tokens of this prompt that have a score" $on --kv snapkv --budgets 500
refuses 2 "importance has no use for --file" $on -d "$draft" -f "$text"
refuses 2 'no task "vx"' eval importance -m "$target" -d "$draft" --tasks vx
refuses 1 "other settings: budgets is" $on -d "$draft" --budgets 32 --out importance.jsonl
refuses 2 "eval ruler has no use for --budgets" eval ruler -m "$target" --budgets 32
finish
