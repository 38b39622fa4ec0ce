#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# longbench.sh - eval longbench on files made here, in words of our own: scores of known answers, the
# cut, templates, the record, damaged files, refusals.
. "$(dirname "$0")/lib.inc"
target=$source_dir/models/foretoken-weak-f16.gguf # of the shipped models the one that answers these in words

rm -rf ./*.jsonl data bad long
mkdir -p data bad long
cat >make.py <<'PY'
import json
def write(name, items):
    with open("data/%s.jsonl" % name, "w") as file:
        for item in items:
            file.write(json.dumps(item) + "\n")
def item(context, question, answers, classes=None):
    return {"context": context, "input": question, "answers": answers, "all_classes": classes, "length": len(context.split()),
            "dataset": "made here", "language": "en", "_id": "x"}
filler = "The ferry left the island at noon and nobody waved. "
write("qasper", [item(filler * n + "The lamp was green.", "What colour was the lamp?", ["green", "a green one"]) for n in (3, 8)])
write("trec", [item("Question: Who made it?\nType: Person\n", "Question: Where is it?\nType:", ["Place"], ["Person", "Place"])] * 2)
write("lcc", [item("int add(int a, int b) {\n", "", ["    return a + b;"])])
write("hotpotqa", [item("Passage 1:\n" + filler * 200 + "Ada lives in Bern.", "Where does Ada live?", ["Bern"])])
write("../long/qmsum", [item(filler, "What left?", ["The ferry left."])])
PY
python3 make.py
printf '\n\n' >>data/qasper.jsonl # blank lines are no samples

# ---- results ----
# One thread: the models are tiny, and answers are many.
ask="eval longbench data/ -m $target -t 1"
works $ask --ctx 1024 --json --out whole.jsonl
json '[r["task"] for r in j["rows"]] == ["qasper", "hotpotqa", "trec", "lcc"]'
json '[r["samples"] for r in j["rows"]] == [2, 1, 2, 1] and all(r["ctx"] == 1024 for r in j["rows"])'
json 'all(0 <= r["low"] <= r["score"] <= r["high"] <= 100 for r in j["rows"])'
json '[r["cut_samples"] for r in j["rows"]] == [0, 1, 0, 0]'
json '[m["group"] for m in j["means"]] == ["all", "single-doc QA", "multi-doc QA", "few-shot", "code"]'
json '[m["tasks"] for m in j["means"]] == [4, 1, 1, 1, 1]'
json 'abs(j["means"][0]["score"] - sum(r["score"] for r in j["rows"]) / 4) < 1e-6' # datasets alike, not samples
json 'j["missing"] == ["narrativeqa", "multifieldqa_en", "2wikimqa", "musique", "gov_report", "qmsum", "multi_news", "triviaqa", "samsum", "repobench-p"]'
json 'j["manifest"]["files"]["data"] == "data"'
json 'j["first_samples"] is None and j["manifest"]["chat"] is False'
cp out whole.json
check "the manifest names the data" python3 -c '
import hashlib, json
data = json.load(open("whole.json"))["manifest"]["data"]
assert set(data) == {"qasper", "hotpotqa", "trec", "lcc"}, data
for name, digest in data.items():
    assert digest == "sha256:" + hashlib.sha256(open("data/%s.jsonl" % name, "rb").read()).hexdigest(), name'
check "rows are of the files" python3 -c '
import json
rows = [json.loads(line) for line in open("whole.jsonl")][1:]
assert len(rows) == 6, len(rows)
for row in rows:
    data = [json.loads(line) for line in open("data/%s.jsonl" % row["task"]) if line.strip()]
    assert row["references"] == data[row["index"]]["answers"], row
    limit = {"qasper": 128, "hotpotqa": 32, "trec": 64, "lcc": 64}[row["task"]]
    assert row["generated_tokens"] <= limit and row["prompt_tokens"] + limit <= row["ctx"], row
cut = [row for row in rows if "cut_tokens" in row]
assert [row["task"] for row in cut] == ["hotpotqa"] and cut[0]["prompt_tokens"] > 1024 - 32 - 8, cut
assert cut[0]["cut_tokens"] > 1000, cut'
works $ask --ctx 1024,768 --samples 1 --tasks trec,qasper,trec
check "what was asked" grep -q '^the first 1 samples of each file (--samples)$' out
check "what was not" grep -q '^not asked (--tasks): narrativeqa, multifieldqa_en, ' out
check "no seed" [ "$(grep -c seed out)" -eq 0 ]
check "no template" grep -q '^the model has no chat template: every prompt is plain text$' out
check "means of both lengths" [ "$(grep -c '^few-shot .* of 1 dataset$' out)" -eq 2 ]
works eval longbench long -m "$target" -t 1 --ctx 1024
check "what is not there" grep -q '^not there: narrativeqa, .*, gov_report, multi_news, trec, ' out
works $ask --tasks hotpotqa --ctx 1024
check "a cut is said" grep -q '^hotpotqa at 1024: 1 of 1 prompts were cut in the middle to fit$' out
works $ask --tasks trec --samples 1 --json
json 'j["rows"][0]["ctx"] >= 2048 and j["rows"][0]["samples"] == 1' # all that the model was trained for

# ---- the record ----
head -c $(($(wc -c <whole.jsonl) * 2 / 3)) whole.jsonl >cut.jsonl
works $ask --ctx 1024 --json --out cut.jsonl
for file in whole cut; do
    bytes $file.jsonl >$file.bytes
done
check "a torn record becomes the whole one" cmp -s whole.bytes cut.bytes
works $ask --ctx 1024 --json --out whole.jsonl --kv streamingllm:keep=64
json 'all(r["kept_rows"] <= 64 for r in j["rows"])'
works report whole.jsonl -o page.html
check "a row a method" [ "$(grep -c '^| \(dense\|streamingllm:keep=64\) ' out)" -eq 2 ]
check "no grid" [ "$(grep -c 'depth' out)" -eq 0 ]
works $ask --ctx 1024 --tasks trec --out trec.jsonl
refuses 1 "sample 0 of trec at 1024 tokens with dense is there twice" report cut.jsonl trec.jsonl
works $ask --ctx 1024 --tasks lcc --out lcc.jsonl
works report lcc.jsonl trec.jsonl --json
json 'len(j["rows"]) == 2 and len(j["manifests"]) == 2' # records of different files of the same data
works eval compare cut.jsonl whole.jsonl --json
json '[len(c["rows"]) for c in j] == [4, 4] and all(r["difference"] == 0 for r in j[0]["rows"])'

# ---- known answers ----
# A record whose predictions are the references has to score 100: run.c scores what the model wrote, so
# the references are what it wrote.
check "the answers of a run are references that score 100" python3 -c '
import json
rows = [row for row in map(json.loads, open("cut.jsonl")) if "task" in row]
by = {}
for row in rows:
    by.setdefault(row["task"], []).append(row)
for task, rows in by.items():
    lines = [json.loads(line) for line in open("data/%s.jsonl" % task) if line.strip()]
    with open("bad/%s.jsonl" % task, "w") as out:
        for row in sorted(rows, key=lambda row: row["index"]):
            line = lines[row["index"]]
            answer = row["prediction"].strip() if task != "lcc" else next(
                (l for l in row["prediction"].strip().split("\n") if "`" not in l and "#" not in l and "//" not in l), "")
            line["answers"] = ["nothing like it", answer]
            if task == "trec":
                line["answers"] = [answer.split("\n")[0].strip()]
                line["all_classes"] = ["Nothing", line["answers"][0]]
            out.write(json.dumps(line) + "\n")'
works eval longbench bad -m "$target" -t 1 --ctx 1024 --json --out known.jsonl
check "they score 100 where there is a word to score" python3 -c '
import json
rows = [json.loads(line) for line in open("known.jsonl")][1:]
assert len(rows) == 6
right = [row for row in rows if row["score"] > 99.9]
import re
assert len(right) == len([r for r in rows if re.sub("[^a-z0-9]", "", r["prediction"].lower())]) >= 3, [(r["task"], r["score"], r["prediction"][:40]) for r in rows]'
refuses 1 "has another file for qasper than the first record" eval compare cut.jsonl known.jsonl
refuses 1 "cut.jsonl was made with other settings: data is" eval longbench bad -m "$target" --ctx 1024 --out cut.jsonl

# ---- templates ----
"$1/mkmodel" chat.gguf --chat --vocab 300 --ctx 4096 >/dev/null || bad "mkmodel"
"$1/mkmodel" qwen3.gguf --arch qwen3 --chat --vocab 300 --ctx 4096 >/dev/null || bad "mkmodel"
"$1/mkmodel" bare.gguf --arch qwen3 --vocab 300 --ctx 4096 >/dev/null || bad "mkmodel"
for model in chat qwen3; do
    works eval longbench data -m $model.gguf --tasks qasper,trec --samples 1 --json --out $model.jsonl
    json 'j["manifest"]["chat"] is True'
done
check "the template is around questions, and around all with Qwen3" python3 -c '
import json
n = {m: {r["task"]: r["prompt_tokens"] for r in map(json.loads, list(open(m + ".jsonl"))[1:])} for m in ("chat", "qwen3")}
thought = n["qwen3"]["qasper"] - n["chat"]["qasper"]
assert 0 < thought <= len("<think>\n\n</think>\n\n"), n
template = n["qwen3"]["trec"] - n["chat"]["trec"] - thought
assert template > 5, n'
works eval longbench data -m qwen3.gguf --tasks trec --samples 1
check "and is said" grep -q '^in the chat template, behind an empty thought$' out
refuses 1 "bare.gguf: LongBench asks Qwen3 in its chat template, and the file has none" eval longbench data -m bare.gguf

# ---- damaged files, refusals ----
rm -f bad/*
damaged() { # damaged LINE WORDS - the second line of a file
    { head -n 1 data/trec.jsonl; echo "$1"; } >bad/trec.jsonl
    refuses 1 "bad/trec.jsonl:2: $2" eval longbench bad -m "$target" --out never.jsonl
    refuses 1 "bad/trec.jsonl:2: $2" eval longbench bad -m "$target" --samples 1
}
damaged '{"context": "c", "input": "i"' "not JSON at byte"
damaged '{"context": "c", "input": "i", "all_classes": ["a"]}' "answers is missing, expected a list of strings"
damaged '{"context": "c", "input": "i", "answers": ["a"], "all_classes": null}' "all_classes is null"
damaged '{"context": 3, "input": "i", "answers": ["a"]}' "context is a number, expected a string"
damaged '[]' "the line is an empty list, expected an object"
check "no record is begun" [ ! -e never.jsonl ]
printf '\n \n' >bad/trec.jsonl
refuses 1 "bad/trec.jsonl holds no sample" eval longbench bad -m "$target"
: >bad/trec.jsonl
refuses 1 "bad/trec.jsonl" eval longbench bad -m "$target"
rm bad/trec.jsonl
refuses 1 "bad holds none of LongBench's files" eval longbench bad -m "$target"
refuses 1 "missing: No such file" eval longbench missing -m "$target"
refuses 1 "data/lcc.jsonl is a file, expected the folder" eval longbench data/lcc.jsonl -m "$target"
refuses 1 "data/samsum.jsonl: cannot be opened: No such file" eval longbench data -m "$target" --tasks trec,samsum
refuses 1 "qmsum: an answer of 512 tokens and what is around the prompt leave nothing of --ctx 512" \
    eval longbench long -m "$target" --ctx 512
refuses 1 "--ctx 100000 is beyond the" $ask --ctx 100000
refuses 2 "in which folder are its files?" eval longbench -m "$target"
refuses 2 'unexpected argument "more"' eval longbench data more -m "$target"
refuses 2 'no dataset "vt"; there are: narrativeqa' $ask --tasks vt
refuses 2 "eval longbench has no use for --chat" $ask --chat
refuses 2 "eval longbench has no use for --seed" $ask --seed 3
refuses 2 "eval longbench has no use for --haystack" $ask --haystack x
refuses 2 'no suite "longbnch"; there are: ruler, needle, longbench, ' eval longbnch data
finish
