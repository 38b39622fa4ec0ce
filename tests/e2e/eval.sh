#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# eval.sh - eval ruler on the shipped pair: results, a record that is gone on with, refusals.
. "$(dirname "$0")/lib.inc"

rm -f ./*.jsonl pipe # a record that an earlier run left would be gone on with

rows='["task", "ctx", "method", "score", "low", "high", "samples"]'
# same FILE FILE - the same lines, apart from that.
same() {
    bytes "$1" >same.a
    bytes "$2" >same.b
    cmp -s same.a same.b
}

# ---- results ----
works eval ruler -m "$target" --tasks niah_single_2,vt,chain --ctx 768,1024 --samples 3 --seed 7 --json \
    --out whole.jsonl
json "all(set($rows) <= set(row) for row in j['rows']) and len(j['rows']) == 6"
json '[row["task"] for row in j["rows"]] == ["niah_single_2", "vt", "chain"] * 2'
json '[row["ctx"] for row in j["rows"]] == [768] * 3 + [1024] * 3'
json 'all(0 <= row["low"] <= row["score"] <= row["high"] <= 100 for row in j["rows"])'
json 'all(row["kv_bytes"] > 0 and row["kept_tokens"] == row["prompt_tokens"] for row in j["rows"])'
json 'all(row["prompt_tokens"] <= row["ctx"] for row in j["rows"]) and j["rows"][0]["prompt_tokens"] > 620'
json 'j["rows"][0]["data"] == "synthetic haystack, generated words" and j["rows"][1]["data"] == "none needed"'
json 'j["manifest"]["seed"] == 7 and j["manifest"]["draft"] is None and len(j["manifest"]["target"]) == 64'
json 'j["manifest"]["haystack"] == "synthetic haystack" and j["manifest"]["answer_prefix"]'
json 'j["means"][1]["ctx"] == 1024 and j["means"][1]["tasks"] == 3'
json 'j["rows"][0]["fallback_samples"] == 0 and j["rows"][0]["score"] >= 60' # the pair was trained on such needles
cp out whole.json
check "a record has a manifest and 18 rows" [ "$(wc -l <whole.jsonl)" -eq 19 ]
check "a row has what the sample was" python3 -c '
import json
row = json.loads(open("whole.jsonl").readlines()[1])
assert (row["task"], row["ctx"], row["index"], row["method"]) == ("niah_single_2", 768, 0, "dense"), row
assert len(row["references"]) == 1 and len(row["references"][0]) == 7, row
assert (row["references"][0] in row["prediction"]) == (row["score"] == 100), row
assert row["kept_rows"] == row["prompt_tokens"] and row["times"]["ttft_ms"] > 0, row
'

# ---- going on ----
run_again() {
    works eval ruler -m "$target" --tasks niah_single_2,vt,chain --ctx 768,1024 --samples 3 --seed 7 --json --out "$1"
}
head -c $(($(wc -c <whole.jsonl) * 3 / 5)) whole.jsonl >cut.jsonl
check "the cut is inside a line" [ "$(tail -c 1 cut.jsonl | wc -l)" -eq 0 ]
n_cut=$(wc -l <cut.jsonl)
run_again cut.jsonl
bytes cut.jsonl >a
bytes whole.jsonl >b
check "a torn record becomes the whole one" cmp -s a b
head -n "$n_cut" cut.jsonl >a
head -n "$n_cut" whole.jsonl >b
check "what was done is not run again" cmp -s a b
check "another command is told before its rows" grep -n '^{"run":{"command":"[^"]*--out cut.jsonl"' cut.jsonl >at
check "and only there" [ "$(cut -d: -f1 at)" -eq "$((n_cut + 1))" ]
json 'all(dict(a, ttft_ms=0) == dict(b, ttft_ms=0) for a, b in zip(j["rows"], json.load(open("whole.json"))["rows"]))'
cp whole.jsonl done.jsonl
run_again done.jsonl
check "a whole record stays as it is" cmp -s done.jsonl whole.jsonl
head -c 40 whole.jsonl >cut.jsonl
run_again cut.jsonl
check "a torn manifest is begun again" same cut.jsonl whole.jsonl
works eval ruler -m "$target" --tasks chain --ctx 1024 --samples 4 --seed 7 --out done.jsonl
check "more samples are added" [ "$(bytes done.jsonl | wc -l)" -eq 20 ]
check "the table says the seed" grep -q "^4 samples each, seed 7" out
works eval ruler -m "$target" --tasks chain --ctx 1024 --samples 4 --seed 7 --out alone.jsonl
grep '^{"task":"chain","ctx":1024' done.jsonl >a
grep -v '^{"manifest"' alone.jsonl >b
check "a sample does not depend on what was run before" same a b

# ---- methods and tasks ----
works eval ruler -m "$target" -d "$draft" --tasks niah_single_1,shared --ctx 768 --samples 2 --json --out both.jsonl
works eval ruler -m "$target" -d "$draft" --tasks niah_single_1,shared --ctx 768 --samples 2 --json --out both.jsonl \
    --kv speckv:keep=96
json 'all(row["method"] == "speckv:keep=96" and row["kept_rows"] <= 96 for row in j["rows"])'
check "two methods share a record" [ "$(bytes both.jsonl | wc -l)" -eq 9 ]
check "three questions, three answers" python3 -c '
import json
rows = [json.loads(line) for line in open("both.jsonl")][1:]
rows = [row for row in rows if "run" not in row]
for row in rows:
    if row["task"] == "shared":
        assert len(row["prediction"]) == len(row["turn_scores"]) == len(row["references"]) == 3, row
        assert abs(row["score"] - sum(row["turn_scores"]) / 3) < 1e-6, row
dense = [row for row in rows if row["method"] == "dense" and row["task"] == "shared"]
assert max(row["turn_scores"][2] for row in dense) == 100, dense
pairs = {}
for row in rows:
    pairs.setdefault((row["task"], row["index"]), []).append(row["references"])
assert all(len(p) == 2 and p[0] == p[1] for p in pairs.values()), pairs'
works eval ruler -m "$target" --samples 1 --ctx 1024 --seed 3
check "all 13 tasks" [ "$(grep -c " 1024 " out)" -eq 14 ]
works eval ruler -m "$target" --samples 1 --ctx 512 --tasks fwe --answer-prefix off --json --out bare.jsonl
check "64 tokens where the answer is not begun" python3 -c '
import json
row = json.loads(open("bare.jsonl").readlines()[1])
assert 50 < row["generated_tokens"] <= 64, row'
loose="eval ruler -m $target -d $draft --samples 2 --ctx 512 --tasks niah_single_1 --kv speckv:keep=4096"
works $loose --json
json 'j["rows"][0]["fallback_samples"] == 2 and "are within keep=4096" in j["rows"][0]["fallback"]'
works $loose
check "the table says what did not run as asked" grep -q "^niah_single_1 at 512, 2 of the samples: speckv: dense" out
refuses 1 "are within keep=4096" $loose --strict
sed 's/$/ Next./' "$source_dir/LICENSE" >hay.txt
works eval ruler -m "$target" --samples 1 --ctx 512 --tasks niah_single_2 --haystack hay.txt --json --progress plain
json 'j["rows"][0]["data"] == "given haystack, generated words" and j["manifest"]["haystack"].startswith("sha256:")'
json 'j["manifest"]["files"]["haystack"] == "hay.txt"'
check "progress says where it is" grep -q "^1/1  niah_single_2, 512 tokens" err

# ---- refusals ----
refuses 2 "which suite? there are: ruler" eval
refuses 2 'no suite "rulr"; there are: ruler' eval rulr
refuses 2 "-m FILE is needed" eval ruler
refuses 2 'no task "vx"; there are: niah_single_1' eval ruler -m "$target" --tasks vt,vx
refuses 2 "--ctx is \"12\", expected up to 16 whole numbers from 256" eval ruler -m "$target" --ctx 12
refuses 2 "--samples is \"0\", expected a whole number from 1" eval ruler -m "$target" --samples 0
refuses 2 "--answer-prefix is \"no\", expected one of on|off" eval ruler -m "$target" --answer-prefix no
refuses 2 '--out is "-", expected a file name: a later run goes on' eval ruler -m "$target" --out -
check "no file is called -" [ ! -e ./- ]
refuses 2 "leave --chat out" eval ruler -m "$target" --tasks shared --chat
refuses 2 "needs a draft model" eval ruler -m "$target" --kv speckv
refuses 1 "--ctx 100000 is beyond the" eval ruler -m "$target" --ctx 100000
refuses 1 "vt: sample 19 takes at least" eval ruler -m "$target" --ctx 256 --tasks vt
refuses 1 "qa_1 has 4096 questions" eval ruler -m "$target" --ctx 512 --tasks qa_1 --samples 4097
refuses 1 "missing.txt: No such file" eval ruler -m "$target" --haystack missing.txt
echo '{}' >squad.json
refuses 1 "--squad: not SQuAD 2" eval ruler -m "$target" --squad squad.json
chat_or_not() {
    refuses 1 "template" eval ruler -m "$target" --chat --samples 1 --ctx 512 --tasks vt
}
chat_or_not # the pair has no chat template

echo "notes of mine" >notes.txt
printf 'no end of a line' >torn.txt
cp whole.jsonl damaged.jsonl
sed -i '3s/"task"/"tusk"/' damaged.jsonl
for file in notes.txt torn.txt damaged.jsonl whole.jsonl; do
    cp "$file" "$file.before"
done
again="eval ruler -m $target --tasks chain --ctx 768 --samples 1"
refuses 1 "notes.txt is no record of this program" $again --seed 7 --out notes.txt
refuses 1 "torn.txt is no record of this program" $again --seed 7 --out torn.txt
refuses 1 "damaged.jsonl: line 3 is no row" $again --seed 7 --out damaged.jsonl
refuses 1 "was made with other settings: seed is 7 there and 8 here" $again --seed 8 --out whole.jsonl
refuses 1 "other settings: answer_prefix is true there and false here" $again --seed 7 --answer-prefix off \
    --out whole.jsonl
refuses 1 "other settings: target is \"" eval ruler -m "$draft" --tasks chain --ctx 768 --samples 1 --seed 7 \
    --out whole.jsonl
refuses 1 "other settings: haystack is" $again --seed 7 --haystack hay.txt --out whole.jsonl
for file in notes.txt torn.txt damaged.jsonl whole.jsonl; do
    check "$file is as it was" cmp -s "$file" "$file.before"
done
refuses 1 ".: cannot be opened: Is a directory" $again --out .
refuses 1 "cannot be opened" $again --out missing/folder.jsonl
mkfifo pipe 2>/dev/null && refuses 1 "not a regular file" $again --out pipe
finish
