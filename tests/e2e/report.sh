#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# report.sh - records of eval as tables, a page, and compared.
. "$(dirname "$0")/lib.inc"

rm -f dense.jsonl kv.jsonl
eval_run() {
    works eval ruler -m "$target" -d "$draft" --tasks niah_single_1,niah_multikey_1 --ctx 512 --samples 2 --seed 3 "$@"
}
eval_run --out dense.jsonl
eval_run --kv speckv:keep=16,window=8,lookahead=4 --out kv.jsonl
eval_run --kv speckv:keep=64,window=8,lookahead=4 --out kv.jsonl

works report dense.jsonl kv.jsonl -o page.html
check "a row a method" [ "$(grep -c '^| \(dense\|speckv:\)' out)" -eq 3 ]
check "the page has plots" grep -q '<svg ' page.html
check "the page says where it comes from" grep -q '"seed": 3' page.html
works report dense.jsonl kv.jsonl -o -
check "-o - is the page instead of the table" cmp -s out page.html
check "and no file of that name" [ ! -e ./- ]
works report dense.jsonl kv.jsonl -o ./-
check "./- is a file" cmp -s ./- page.html
rm -f ./-
works report dense.jsonl kv.jsonl --csv
check "csv: formats stand beside methods" grep -q '^512,"mean","dense","f16",4,' out
check "csv: a line a cell, and means" [ "$(wc -l <out)" -eq 10 ]
works report dense.jsonl kv.jsonl --json
json 'len(j["rows"]) == 6 and len(j["means"]) == 3 and len(j["manifests"]) == 2'
json '{(r["task"], r["method"]): r["kept_rows"] for r in j["rows"]}["niah_single_1", "speckv:keep=64,window=8,lookahead=4"] == 64'

works eval compare dense.jsonl kv.jsonl --json
json '[c["b"][:14] for c in j] == ["speckv:keep=16", "speckv:keep=64"] and all(c["a"] == "dense" and not c["exceeded"] for c in j)'
json 'all(abs(sum(r["difference"] for r in c["rows"]) / 2 - c["mean"]["difference"]) < 1e-9 for c in j)'
works eval compare dense.jsonl dense.jsonl --tolerance 0
check "nothing is lost against itself" grep -q '^within: a loss of 0.00' out
sed 's/"score": *[0-9.]*/"score":0/' dense.jsonl >zero.jsonl
run eval compare dense.jsonl zero.jsonl --tolerance 2
check "a loss beyond the tolerance is an exit code" [ "$code" -eq 1 ]
check "and is said" grep -q '^exceeded: a loss of' out

refuses 2 "of which results" report
refuses 2 "--out - puts the page on standard output, where --csv goes too" report dense.jsonl --csv -o -
refuses 2 "--out - puts the page on standard output, where --json goes too" report dense.jsonl --json --out -
refuses 1 "No such file" report missing.jsonl
refuses 1 "is no record" report "$source_dir/models/accuracy.json"
refuses 1 "is there twice" report dense.jsonl dense.jsonl
refuses 1 "cannot be written" report dense.jsonl -o missing/page.html
refuses 2 "expected two records" eval compare dense.jsonl
refuses 1 "holds 2 methods" eval compare kv.jsonl dense.jsonl
refuses 2 "unexpected argument" eval ruler dense.jsonl
refuses 2 "none of the files that are read" report dense.jsonl -o ./dense.jsonl
refuses 2 "expected a file name" eval join - dense.jsonl zero.jsonl
refuses 2 "eval compare has no use for --kv" eval compare dense.jsonl zero.jsonl --kv snapkv
refuses 2 "eval ruler has no use for --tolerance" eval ruler -m "$target" --tolerance 3
refuses 2 "--ctx has 512 twice" eval ruler -m "$target" --ctx 512,512
cat >run.jsonl <<'EOS'
{"manifest":{"suite":"ruler","target":"x","seed":42}}
{"task":"vt","method":"dense","ctx":512,"index":0,"score":50}
{"run":{"a":1},"depth":5}
EOS
works report run.jsonl
finish
