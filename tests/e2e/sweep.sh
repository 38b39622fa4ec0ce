#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# sweep.sh - eval with several methods, from a TOML file, and in parts; kills.sh has runs that are killed.
. "$(dirname "$0")/lib.inc"

rm -rf ./*.jsonl ./*.toml records typed stored

# told FILE - the file without times and without who ran it, how and where.
told() {
    sed '/^{"run":/d; s/,"run":{.*$/}}/; s/"times":{[^}]*}//' "$1"
}
same() {
    told "$1" >same.a
    told "$2" >same.b
    cmp same.a same.b
}

# ---- several methods ----
grid="--tasks niah_single_1,chain --ctx 320,384 --samples 2 --seed 5 -t 1 --kv streamingllm --kv speckv:lookahead=4,keep=96 --kv dense"
works eval ruler -m "$target" -d "$draft" $grid --keep 64,96,64 --json --out whole.jsonl --progress json
json 'len(j["rows"]) == 16 and len(j["means"]) == 8'
json '[r["method"] for r in j["rows"]][::4] == ["streamingllm:keep=64", "streamingllm:keep=96", "speckv:lookahead=4,keep=96", "dense"]'
json 'all(r["samples"] == 2 for r in j["rows"])'
json 'all(r["kept_rows"] == (r["prompt_tokens"] if r["method"] == "dense" else int(r["method"].split("keep=")[1][:2])) for r in j["rows"])'
check "a line for every sample of every method" [ "$(wc -l <whole.jsonl)" -eq 33 ]
check "progress counts samples and says when it ends" python3 -c '
import json
events = [json.loads(line) for line in open("err")]
assert [e["done"] for e in events] == list(range(33)), events
assert all(e["event"] == "progress" and e["phase"] == "eval" and e["total"] == 32 for e in events)
assert events[0]["eta_s"] is None and events[1]["eta_s"] > 0 and events[32]["eta_s"] == 0, events
'
check "the manifest tells the run" python3 -c '
import json
run = json.loads(open("whole.jsonl").readline())["manifest"]["run"]
assert run["methods"]["speckv:lookahead=4,keep=96"]["kv"]["lookahead"] == 4, run
assert run["methods"]["speckv:lookahead=4,keep=96"]["kv"]["pool"] == "max", run
assert run["methods"]["dense"]["kv"] == {"name": "dense"}, run
assert run["command"].startswith("foretoken eval ruler -m ") and "--keep 64,96,64" in run["command"], run
assert run["machine"]["cores"] > 0 and run["machine"]["kernels"] and run["machine"]["memory_bytes"] > 0, run
assert run["libraries"]["jansson"] and run["libraries"]["ggml"] and run["commit"], run
assert run["cells"][1] == {"task": "chain", "ctx": 320, "samples": 2}, run
'
rows_of() { # FILE - what it has of streamingllm:keep=96, but times
    sed -n '/"method":"streamingllm:keep=96"/{s/"times":{[^}]*}//; p}' "$1"
}
check "two budgets are read together" [ "$(grep -c '"shared":2}' whole.jsonl)" -eq 16 ]
works eval ruler -m "$target" -d "$draft" --tasks niah_single_1,chain --ctx 320,384 --samples 2 --seed 5 -t 1 \
    --kv streamingllm:keep=96 --out alone.jsonl
check "and have the rows of one alone" [ "$(rows_of whole.jsonl)" = "$(rows_of alone.jsonl)" ]
check "which are there" [ "$(rows_of alone.jsonl | wc -l)" -eq 8 ]
cp whole.jsonl before.jsonl
works eval ruler -m "$target" -d "$draft" $grid --keep 64,96,64 --json --out whole.jsonl --progress json
check "a finished record is not added to" cmp -s whole.jsonl before.jsonl
check "and nothing is run" [ ! -s err ]
# Loading weights is what says that a draft has no use.
loads="eval ruler -m $target -d $draft --tasks chain --ctx 320 --samples 1 --seed 5 -t 1 --out loaded.jsonl"
works $loads
check "weights are loaded for what is missing" grep -q "the draft is not used" err
cp out loaded
works $loads
check "and not for a finished record" [ ! -s err ]
check "whose table is the same" cmp -s out loaded
works eval ruler -m "$target" -d "$draft" --tasks chain --ctx 320 --samples 1 --seed 5 -t 1 --prompt specpc:keep=128 \
    --prompt dense --kv snapkv --kv dense --keep 64 --out cascade.jsonl
check "prompt methods go with KV methods" [ "$(grep -c '^method  ' out)" -eq 4 ]
check "and have their names" grep -q '^method  specpc:keep=128+snapkv:keep=64$' out

# ---- formats of KV rows ----
formats="eval ruler -m $target --tasks niah_single_1 --ctx 384 --samples 2 --seed 5 -t 1 --kv dense --kv snapkv:keep=96"
works $formats --kv-type f16 --out f16.jsonl
check "the usual format has no name" [ "$(grep -c '"method":"\(dense\|snapkv:keep=96\)","kv_type":"f16"' f16.jsonl)" -eq 4 ]
cp f16.jsonl formats.jsonl
works $formats --kv-type f16 --kv-type q4,residual=0 --kv-type k=q8_0 --kv-type f16 --json --out formats.jsonl --progress json
json '[r["kv_type"] for r in j["rows"]] == ["f16"] * 2 + ["q4,residual=0"] * 2 + ["k=q8_0"] * 2'
json '[r["method"] for r in j["rows"]] == [m + f for f in ["", " q4,residual=0", " k=q8_0"] for m in ["dense", "snapkv:keep=96"]]'
json 'all(j["rows"][m + 2]["kv_bytes"] < j["rows"][m + 4]["kv_bytes"] < j["rows"][m]["kv_bytes"] for m in (0, 1))'
json 'j["means"][3]["kv_type"] == "q4,residual=0"'
json 'j["manifest"]["kv_type"] == "f16"'
json 'j["manifest"]["run"]["methods"]["dense q4,residual=0"]["kv_type"] == {"name": "q4,residual=0", "k": "q4", "k_by": "channel",
    "k_group": 64, "v": "q4", "v_by": "token", "v_group": 64, "residual": 0, "rows": "f16", "mean": "none", "rotate": "none"}'
json 'j["manifest"]["run"]["methods"]["dense"]["kv_type"] == {"name": "f16", "k": "f16", "v": "f16", "rotate": "none"}'
check "what f16 has answered is not asked again" [ "$(wc -l <err)" -eq 9 ]
check "a record of three formats" [ "$(told formats.jsonl | wc -l)" -eq 13 ]
works report formats.jsonl
check "its table has formats" grep -q '^| snapkv:keep=96 | q4,residual=0 | ' out
works report formats.jsonl -o formats.html
check "its page has a picture over bytes" grep -q 'bytes of KV after the prompt' formats.html
check "and a line for every method and format" grep -q '<title>snapkv q4,residual=0, [0-9.]* KiB: ' formats.html
refuses 1 "holds 6 methods" eval compare formats.jsonl f16.jsonl
grep '"method":"dense","\|manifest' f16.jsonl >one.jsonl
works eval compare one.jsonl formats.jsonl --json
json '[c["b"] for c in j][2] == "dense q4,residual=0" and all(c["mean"]["samples"] == 2 for c in j)'
works eval join joined-formats.jsonl formats.jsonl f16.jsonl
check "12 samples of the three" grep -q '^12 samples$' out
# Records of programs that did not tell formats: their manifest has the one of all rows.
sed '/^{"task"/s/"kv_type":"f16",//; s/,"kv_type":{[^}]*}//g' f16.jsonl >old.jsonl
works $formats --out old.jsonl --progress json
check "an older record is gone on with" [ ! -s err ]
works $formats --kv-type q2 --out old.jsonl
check "in other formats too" [ "$(grep -c ' q2","kv_type":"q2"' old.jsonl)" -eq 4 ]
sed '/^{"task"/s/"kv_type":"f16",//; s/"kv_type":"f16"/"kv_type":"q8_0"/' f16.jsonl >old.jsonl
refuses 1 'other settings: kv_type is "q8_0" there and "f16" here' $formats --out old.jsonl
works report old.jsonl f16.jsonl --json
json '[(r["method"], r["kv_type"]) for r in j["means"]] == [("dense q8_0", "q8_0"), ("snapkv:keep=96 q8_0", "q8_0"), ("dense", "f16"), ("snapkv:keep=96", "f16")]'
refuses 2 "--kv-type q3: kv type: 'q3' is unknown" $formats --kv-type q4 --kv-type q3
refuses 2 "h2o:keep=64 q4: h2o with kv type 'q4': rows leave at every step (decode=on)" eval ruler -m missing.gguf \
    --kv h2o:keep=64 --kv snapkv:keep=64 --kv-type f16 --kv-type q4
refuses 2 "--exact stores KV rows as f32" $formats --exact --kv-type f32 --kv-type q4
refuses 2 "eval importance: --kv-type is given 2 times, expected one" eval importance -m "$target" --kv snapkv --kv-type q8_0 --kv-type f16
works $formats --exact --kv-type f32 --json
json '[(r["method"], r["kv_type"]) for r in j["rows"]] == [("dense", "f32"), ("snapkv:keep=96", "f32")]'

# ---- refusals ----
refuses 2 "speckv:keep=4,window=8: speckv: window is 8, expected less than keep, which is 4" \
    eval ruler -m "$target" -d "$draft" --kv speckv:window=8 --kv dense --keep 4,64
refuses 2 '--keep is "64,,96", expected amounts with commas between' eval ruler -m "$target" --kv snapkv --keep 64,,96
refuses 2 "no method given (--prompt, --kv) has a keep" eval ruler -m "$target" --kv snapkv:keep=64 --keep 32
refuses 2 "no method given (--prompt, --kv) has a keep" eval ruler -m "$target" --keep 32
run eval ruler -m "$target" -d "$draft" --kv speckv --kv snapkv --keep 4,nine,64
check "every combination that is refused is named" [ "$(grep -c '^foretoken: \(speckv\|snapkv\):keep=\(4\|nine\): ' err)" -eq "$(wc -l <err)" ]
check "with exit code 2" [ "$code" -eq 2 ]
refuses 2 '--shard is "3/2", expected i/n' eval ruler -m "$target" --shard 3/2
refuses 2 "--seed -1 draws other samples" eval ruler -m "$target" --shard 1/2 --seed -1

# ---- parts ----
for i in 1 2; do
    works eval ruler -m "$target" -d "$draft" $grid --keep 64,96 --shard $i/2 --out part.jsonl
    check "the table says the part" grep -q "^part $i/2 of 2 samples each" out
done
check "each part has half" [ "$(told part.shard-1-of-2.jsonl | wc -l)" -eq 17 ]
works eval join joined.jsonl part.shard-2-of-2.jsonl part.shard-1-of-2.jsonl
check "all are there" grep -q '^32 samples$' out
check "two parts joined are the whole" same joined.jsonl whole.jsonl
works eval ruler -m "$target" -d "$draft" $grid --keep 64,96 --out joined.jsonl --progress json
check "and nothing of it is missing" [ ! -s err ]
works eval join again.jsonl whole.jsonl part.shard-1-of-2.jsonl joined.jsonl
check "samples that are there twice are one" same again.jsonl whole.jsonl
works eval join half.jsonl part.shard-1-of-2.jsonl
check "half of them" grep -q '^16 samples of 32 that were asked for$' out
works report part.shard-1-of-2.jsonl part.shard-2-of-2.jsonl
cp out report.parts
works report whole.jsonl
check "a report of the parts is that of the whole" python3 -c '
import re
def table(path):
    return [line.rsplit("|", 3)[0] for line in open(path) if line.startswith("|")]
assert len(table("out")) > 5 and table("out") == table("report.parts")'
grep '"method":"dense"\|manifest' part.shard-1-of-2.jsonl >dense-1.jsonl
grep '"method":"dense"\|manifest' part.shard-2-of-2.jsonl >dense-2.jsonl
works eval compare dense-1.jsonl dense-2.jsonl vs part.shard-1-of-2.jsonl part.shard-2-of-2.jsonl --json
json '[c["b"] for c in j][0] == "streamingllm:keep=64" and all(c["mean"]["samples"] == 8 for c in j)'
refuses 2 "several of a side: A... vs B..." eval compare dense-1.jsonl dense-2.jsonl vs
refuses 1 "is there already; move it away" eval join joined.jsonl whole.jsonl
refuses 2 "expected a new record and those" eval join joined.jsonl
sed 's/"seed":5/"seed":6/' part.shard-2-of-2.jsonl >other.jsonl
refuses 1 "seed is 6 there and 5 here" eval join new.jsonl part.shard-1-of-2.jsonl other.jsonl
sed 's/"prediction":"/&x/' part.shard-1-of-2.jsonl >other.jsonl
refuses 1 "other.jsonl:2: this sample has another result" eval join new.jsonl part.shard-1-of-2.jsonl other.jsonl
check "no record of a failure" [ ! -e new.jsonl ]
SLURM_ARRAY_TASK_ID=11 SLURM_ARRAY_TASK_COUNT=2 SLURM_ARRAY_TASK_MIN=10
export SLURM_ARRAY_TASK_ID SLURM_ARRAY_TASK_COUNT SLURM_ARRAY_TASK_MIN
works eval ruler -m "$target" -d "$draft" $grid --keep 64,96 --out part.jsonl
check "a cluster's variables say which part, and that is said" grep -q '^--shard 2/2, as SLURM_ARRAY_TASK_ID says$' err
check "nothing new was run" [ "$(wc -l <err)" -eq 1 ]
SLURM_ARRAY_TASK_ID=9
refuses 2 "SLURM_ARRAY_TASK_ID is 9, expected one of 2" eval ruler -m "$target" --out part.jsonl
unset SLURM_ARRAY_TASK_ID SLURM_ARRAY_TASK_COUNT SLURM_ARRAY_TASK_MIN

# ---- a file of settings ----
cat >sweep.toml <<END
suite = "ruler"
tasks = ["niah_single_1", "chain"]
ctx = [320, 384]
samples = 2
seed = 5
threads = 1
out = "records"

[[models]]
model = "$target"
draft = "$draft"

[[methods]]
kv = ["streamingllm", "speckv:lookahead=4,keep=96"]
keep = [64, "96"]

[[methods]]
kv = "dense"
END
run eval sweep sweep.toml
if grep -q "built without toml++" err; then
    echo "skipped: sweeps need toml++ (libtomlplusplus-dev)"
    finish
fi
record=records/$(basename "$target" .gguf).jsonl
check "a sweep is what its options are" same "$record" whole.jsonl
works eval sweep sweep.toml --samples 1 --ctx 320 -t 1 --kv snapkv --keep 64 --out typed --json
json '[r["method"] for r in j["rows"]] == ["snapkv:keep=64"] * 2 and {r["ctx"] for r in j["rows"]} == {320}'
cat >>sweep.toml <<END

[[models]]
model = "$target"
draft = "self:layers=1"
END
works eval sweep sweep.toml --samples 1 --ctx 320 -t 1 --kv snapkv --keep 64 --out typed
check "pairs with the same target have records of their own" [ -s "typed/$(basename "$target" .gguf)+self:layers=1.jsonl" ]
check "and tables" [ "$(grep -c '^model ' out)" -eq 2 ]

cat >formats.toml <<END
suite = "ruler"
tasks = ["niah_single_1"]
ctx = 384
samples = 1
threads = 1
out = "stored"
model = "$target"
kv-type = ["f16", "q4"]

[[methods]]
kv = ["dense", "snapkv:keep=96"]

[[methods]]
kv = "h2o:keep=96"
kv-type = "q8_0"
END
works eval sweep formats.toml --json
json '[r["method"] for r in j["rows"]] == ["dense", "snapkv:keep=96", "dense q4", "snapkv:keep=96 q4", "h2o:keep=96 q8_0"]'
works eval sweep formats.toml --kv-type f16 --kv-type bf16 --json
json '[r["method"] for r in j["rows"]] == ["dense", "snapkv:keep=96", "dense bf16", "snapkv:keep=96 bf16", "h2o:keep=96", "h2o:keep=96 bf16"]'
sed -i '/q8_0/d' formats.toml
refuses 2 "h2o:keep=96 q4: h2o with kv type 'q4'" eval sweep formats.toml

# toml WORDS LINE... - a file of these lines is refused with these words.
toml() {
    words=$1
    shift
    printf '%s\n' "$@" >bad.toml
    refuses 2 "$words" eval sweep bad.toml
}
toml "bad.toml:2: no TOML: " 'suite = "ruler"' 'samples = = 3'
toml 'bad.toml:3: no key "sample"; there are: suite, models, methods, model, ' 'suite = "ruler"' '' 'sample = 3'
toml 'bad.toml:2: samples is text, expected a whole number' 'suite = "ruler"' 'samples = "3"'
toml 'bad.toml:1: --samples is "0", expected a whole number from 1' 'samples = 0' 'suite = "ruler"'
toml 'bad.toml:2: ctx is a list, expected a whole number, or a list of them' 'suite = "ruler"' 'ctx = [512, 0.5]'
toml 'bad.toml:2: chat is text, expected true or false' 'suite = "ruler"' 'chat = "yes"'
toml 'bad.toml:3: --kv: unknown kv method "snap"; there are: ' 'suite = "ruler"' '[[methods]]' 'kv = ["snap"]'
toml 'bad.toml:2: kv-type is a whole number, expected a format, or a list of them' 'suite = "ruler"' 'kv-type = ["f16", 4]'
toml "bad.toml:3: --kv-type q3: kv type: 'q3' is unknown" 'suite = "ruler"' '' 'kv-type = ["f16", "q3"]'
toml 'bad.toml:4: no key "kvv"; there are: prompt, kv, keep, kv-type' 'suite = "ruler"' '[[methods]]' 'kv = "dense"' 'kvv = "dense"'
toml 'bad.toml:2: methods is text, expected a list of tables' 'suite = "ruler"' 'methods = "dense"'
toml 'bad.toml:2: model is missing' 'suite = "ruler"' '[[models]]' 'draft = "a.gguf"'
toml 'bad.toml: suite is missing' 'samples = 3'
toml 'bad.toml: no models' 'suite = "ruler"' 'out = "x"'
toml 'bad.toml: out is missing' 'suite = "ruler"' "model = \"$target\""
toml 'bad.toml:2: seed is a date' 'suite = "ruler"' 'seed = 2026-01-01'
toml 'exclude each other' 'suite = "ruler"' 'keep = 3' '[[methods]]' 'kv = "dense"'
toml 'no suite "rular"' 'suite = "rular"' "model = \"$target\"" 'out = "x"'
refuses 1 "missing.toml: No such file" eval sweep missing.toml
refuses 2 "expected one file of settings" eval sweep
refuses 1 "sweep.toml is no folder" eval sweep sweep.toml --out sweep.toml

finish
