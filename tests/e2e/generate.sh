#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# generate.sh - the main command on the shipped pair: text, JSON, progress, closed pipes, Ctrl-C.
. "$(dirname "$0")/lib.inc"

# A document of about a thousand tokens with a needle in it.
{
    i=0
    while [ $i -lt 60 ]; do
        echo "The wind blew from the north, and the men sat by the fire and told old tales."
        [ $i -ne 20 ] || echo "One of the special magic numbers for grey-river is: 48213."
        i=$((i + 1))
    done
} >doc.txt
question="What is the special magic number for grey-river mentioned in the text? The special magic number for grey-river mentioned in the text is"

generate() { works generate -m "$target" -d "$draft" -n 12 "$@"; }

# ---- text ----
generate -f doc.txt -p "$question"
cp out dense.txt
check "a summary is on stderr" grep -q "^tokens " err
check "the summary has KV bytes" grep -q "^KV .* full, .* peak" err
check "the summary has times" grep -q "^time .*first token" err
# The join of -f and -p is one blank line.
{ cat doc.txt; printf '\n%s' "$question"; } >joined.txt
generate -f joined.txt
check "-f and -p are document, blank line, question" cmp -s out dense.txt
n_check=$((n_check + 1))
"$program" generate -m "$target" -n 12 <joined.txt >out 2>err || bad "text from standard input"
check "standard input is read when -f and -p are missing" cmp -s out dense.txt
for mode in auto plain json none; do
    generate -f doc.txt -p "$question" --progress=$mode
    check "progress=$mode changes no token" cmp -s out dense.txt
done
generate -f doc.txt -p "$question" -t 1
check "one thread gives the same text" cmp -s out dense.txt
generate -f doc.txt -p "$question" --progress=json
check "progress lines are JSON" sh -c 'grep "^{" err | python3 -c "
import json, sys
rows = [json.loads(line) for line in sys.stdin]
sys.exit(0 if rows and rows[-1][\"event\"] == \"progress\" and rows[-1][\"done\"] <= rows[-1][\"total\"] else 1)"'
generate -f doc.txt -p "$question" --kv speckv:keep=100000
check "a prompt within keep is dense" cmp -s out dense.txt
check "and the summary says so" grep -qi "dense" err
refuses 1 "" generate -m "$target" -d "$draft" -f doc.txt -p x --kv speckv:keep=100000 --strict

# ---- JSON ----
"$1/mkmodel" chat.gguf --chat >/dev/null || bad "mkmodel"
fields='["text", "prompt_tokens", "kept_tokens", "generated_tokens", "kv_bytes_full", "kv_bytes", "kv_bytes_peak", "kv_bytes_now", "kv_state_bytes", "evicted_rows", "draft_kv_bytes_peak", "activation_bytes_peak", "load_ms", "draft_ms", "score_ms", "prefill_ms", "pack_ms", "ttft_ms", "decode_tok_s", "fallbacks", "method", "models", "kernels", "kv_packing", "version"]'
for method in "--prompt dense" "--prompt specpc:keep=256" "--kv speckv:keep=128" "--prompt specpc:keep=512 --kv speckv:keep=128,lookahead=8"; do
    # shellcheck disable=SC2086 # two words each
    generate -f doc.txt -p "$question" --json $method
    json "list(j) == $fields"
    json 'j["prompt_tokens"] > 500 and 0 < j["generated_tokens"] <= 12 and j["kept_tokens"] <= j["prompt_tokens"]'
    json 'j["kv_bytes"] <= j["kv_bytes_full"] and j["kv_bytes"] <= j["kv_bytes_peak"] and j["load_ms"] > 0'
    json 'len(j["models"]["target"]["fingerprint"]) == 64 and j["models"]["target"]["file_bytes"] > 0'
    check "--json leaves stderr empty" [ ! -s err ]
done
json 'j["method"]["prompt"]["name"] == "specpc" and j["method"]["prompt"]["keep"] == 512'
json 'j["method"]["kv"]["name"] == "speckv" and j["method"]["kv"]["lookahead"] == 8 and j["kept_tokens"] == 512'
json 'j["draft_ms"] > 0 and j["models"]["draft"]["n_layer"] > 0'
works generate -m "$target" -n 4 -f doc.txt -p "$question" --json --strict --kv snapkv:keep=128,budget=ada,alpha=30
json "list(j) == $fields"
json 'j["method"]["kv"] == {"name": "snapkv", "keep": 128, "window": 32, "kernel": 7, "pool": "max", "group": "mean", "budget": "ada", "alpha": 30, "rule": "exact", "rank": "score", "keep_rows": j["method"]["kv"]["keep_rows"]}'
json 'j["kv_bytes"] * j["prompt_tokens"] == j["kv_bytes_full"] * 128 and j["method"]["kv"]["keep_rows"] > 128'
json 'j["draft_ms"] == 0 and j["draft_kv_bytes_peak"] == 0 and j["models"]["draft"] is None'
works generate -m "$target" -n 4 -f doc.txt -p "$question" --json --strict --kv laq:keep=64,rank=critical,rho=40
json 'j["method"]["kv"] == {"name": "laq", "keep": 64, "window": 8, "trial_window": 32, "kernel": 7, "lookahead": 8, "budget": "uniform", "rank": "critical", "rho": 40, "keep_rows": 64}'
json 'j["draft_ms"] > 0 and j["draft_kv_bytes_peak"] == 0 and j["models"]["draft"] is None'
json 'j["kv_bytes_peak"] > j["kv_bytes_full"] + j["kv_bytes"] and j["kv_bytes"] * j["prompt_tokens"] == j["kv_bytes_full"] * 64'
refuses 2 "random: rank=critical makes no sense" generate -m "$target" -p x --kv random:rank=critical
refuses 2 "rho belongs to rank=critical, the rank is score" generate -m "$target" -p x --kv laq:rho=10
refuses 2 "tova: budget=ada makes no sense" generate -m "$target" -p x --kv tova:budget=ada

# ---- rows that leave while the answer grows: never more than keep of a head, however long ----
for method in h2o:keep=64,window=8 tova:keep=64 streamingllm:keep=64 h2o:keep=64,budget=ada h2o:keep=64,budget=pyramid; do
    for file in "-f doc.txt" ""; do # a prompt beyond keep, and one within it
        # shellcheck disable=SC2086 # two words or none
        generate $file -p "$question" --json --grammar 'root ::= [a-z ] root' -n 90 -t 1 --kv "$method"
        json 'j["generated_tokens"] == 90 and j["evicted_rows"] > 0 and j["fallbacks"] == []'
        json 'j["method"]["kv"]["decode"] == "on"'
        # 128 bytes each for K and V of a row in 8 heads, 4 for its score, and one row while it is evaluated
        json 'j["kv_bytes_now"] <= 64 * 8 * 260 + 8192 * 2 and j["kv_bytes_peak"] <= j["kv_bytes_now"] + max(j["prompt_tokens"] * 2 * 260, 8 * 260)'
    done
done
for method in keyformer:keep=64 keyformer:keep=64,window=8,seed=2,budget=ada corm:keep=64,window=16,recent=8; do
    generate -f doc.txt -p "$question" --json --grammar 'root ::= [a-z ] root' -n 90 -t 1 --kv "$method"
    json 'j["generated_tokens"] == 90 and j["evicted_rows"] > 0 and j["fallbacks"] == []'
    json 'j["kv_state_bytes"] * 65 == j["kv_bytes"] and j["kv_bytes_now"] <= 64 * 8 * 260'
done
generate -p "$question" --json --kv corm
json 'any("corm: dense, none of the first 256 rows leaves" in f for f in j["fallbacks"])'
refuses 2 "corm with exact" generate -m "$target" -p x --exact --kv corm
refuses 2 "corm: budget=pyramid makes no sense" generate -m "$target" -p x --kv corm:budget=pyramid
refuses 2 "recent is 256, expected less than keep, which is 64" generate -m "$target" -p x --kv corm:keep=64
refuses 2 'noise is "some", expected gumbel|none' generate -m "$target" -p x --kv keyformer:noise=some
generate -f doc.txt -p "$question" --json --kv h2o:keep=64,decode=off
json 'j["evicted_rows"] == 0 and j["kv_state_bytes"] == 0'
json 'j["kv_bytes_now"] - j["kv_bytes"] == (j["generated_tokens"] - 1) * 2048'
generate -f doc.txt -p "$question" --kv h2o:keep=64
check "the summary counts what left" grep -q "^evicted   .* rows of KV heads" err
refuses 2 'decode is "yes", expected on|off' generate -m "$target" -p x --kv h2o:decode=yes
refuses 2 "snapkv has no parameter" generate -m "$target" -p x --kv snapkv:decode=on
refuses 2 'positions is "new", expected compact|original' generate -m "$target" -p x --kv streamingllm:positions=new
generate -f doc.txt -p "$question" --json --kv h2o:keep=100000
json 'any("within keep=100000" in f for f in j["fallbacks"])'
generate -f doc.txt -p "$question" --json --exact --kv tova:keep=64
json 'j["evicted_rows"] > 0'

# ---- rows in blocks: 34 bytes for 32 numbers, where f16 takes 64 ----
for type in f16 q8_0; do
    : >"kv.$type" # an earlier run may have left its rows
    for method in "--kv dense" "--kv speckv:keep=128"; do
        # shellcheck disable=SC2086 # two words
        generate -f doc.txt -p "$question" --json --kv-type $type $method
        json "j['method']['kv_type'] == '$type'"
        python3 -c 'import json; j = json.load(open("out")); print(j["kv_bytes"], j["kv_bytes_full"])' >>kv.$type
    done
done
check "q8_0 rows take 34 bytes where f16 takes 64" sh -c 'paste kv.f16 kv.q8_0 |
    awk "{ if (\$1 * 34 != \$3 * 64 || \$2 * 34 != \$4 * 64 || \$1 == 0) exit 1 } END { exit NR != 2 }"'
refuses 2 "leave --kv-type out" generate -m "$target" -p x --exact --kv-type q8_0
generate -f doc.txt -p "$question" --json
json 'j["text"].strip() == open("dense.txt").read().strip() and j["models"]["draft"] is None'
generate -f doc.txt -p "$question" --json -d self:layers=2 --prompt specpc:keep=256
json 'j["models"]["draft"] == {"self_layers": 2} and j["kept_tokens"] == 256'

generate -f doc.txt -p "$question" --json --kv speckv:keep=25%,lookahead=4 --prompt specpc:keep=50% -t 1 -c 2000 \
    -e --stop 'a\nb' -l 5-inf -l 6+1.5 --grammar 'root ::= "yes"'
json 'j["method"]["prompt"]["keep"] == "50%" and j["method"]["prompt"]["keep_tokens"] == j["prompt_tokens"] // 2'
json 'j["method"]["kv"]["keep"] == "25%" and j["method"]["kv"]["keep_rows"] == j["kept_tokens"] // 4'
json 'j["method"]["stop"] == ["a\nb"] and j["method"]["grammar"] == "root ::= \"yes\""'
json 'j["method"]["n_ctx"] == 2000 and j["method"]["threads"] == 1 and j["method"]["chat"] is False'
json 'j["method"]["sampling"]["logit_bias"] == [{"token": 5, "bias": "-inf"}, {"token": 6, "bias": 1.5}]'
works generate -m chat.gguf -p hello --chat --system 'be\tbrief' -e -n 1 --json
json 'j["method"]["chat"] is True and j["method"]["system"] == "be\tbrief" and j["method"]["n_ctx"] > 0'

# ---- limits ----
run generate -m "$target" -p hello -n 0
check "-n 0 is no failure" [ "$code" -eq 0 ]
check "-n 0 writes nothing" [ ! -s out ]
check "-n 0 has a summary" grep -q "^answer    0 tokens" err
works generate -m "$target" -p hello -n -1 -c 12 --json --strict
json 'j["generated_tokens"] == 12 - j["prompt_tokens"] == j["method"]["n_predict"]'
refuses 1 "leaves nothing of a context" generate -m "$target" -f doc.txt -n -1 -c 12

# ---- kernels that this machine does not have ----
FT_KERN=bogus
export FT_KERN
works generate -m "$target" -p hello -n 2 --json
json 'len(j["fallbacks"]) == 1 and j["fallbacks"][0].startswith("FT_KERN=bogus is no kernel variant of this machine (ref")'
refuses 1 "strict: FT_KERN=bogus is no kernel variant" generate -m "$target" -p hello -n 2 --strict
FT_KERN=ref
works generate -m "$target" -p hello -n 2 --strict --json
json 'j["fallbacks"] == [] and j["kernels"]["attend"] == "ref"'
unset FT_KERN

# ---- a prompt that fills the context ----
"$1/mkmodel" small.gguf --ctx 64 --layers 2 >/dev/null || bad "mkmodel"
run tokens -m small.gguf -p "the wind"
works generate -m small.gguf -d small.gguf -p "the wind" -c "$(wc -w <out)" -n 1 --kv speckv:keep=2,window=1 --json
json 'j["generated_tokens"] == 1 and j["method"]["kv"] == {"name": "dense"}'
json 'j["fallbacks"][0].startswith("speckv: dense,") and "no position for look-ahead text" in j["fallbacks"][0]'

# ---- stop, seed, bias ----
first=$(tr -d ' \n' <dense.txt | cut -c1-2)
generate -f doc.txt -p "$question" --json --stop "$first"
json "'$first' not in j['text']"
generate -f doc.txt -p "$question" --json --temp 1 --seed 7
cp out seed7.json
generate -f doc.txt -p "$question" --json --temp 1 --seed 7
json 'j["text"] == json.load(open("seed7.json"))["text"] and j["method"]["sampling"]["seed"] == 7'
generate -f doc.txt -p "$question" --grammar 'root ::= "yes" | "no"' --json
json 'j["text"] in ("yes", "no")'
refuses 1 "" generate -m "$target" -p x --grammar 'root ::= ('
refuses 1 "" generate -m "$target" -p x --chat

# ---- exact ----
"$1/mkmodel" repacked.gguf --type q4_0 >/dev/null || bad "mkmodel"
works generate -m repacked.gguf -p hello -n 2 --exact --json # weights with a faster layout are read plain
json 'j["kernels"]["attend"] == "stock" and j["method"]["exact"] is True'

# ---- the reader goes away, the disk is full ----
n_check=$((n_check + 1))
rm -f gone && mkfifo gone
: <gone & # the only reader, gone before a word is written
exec 4>gone
wait $!
"$program" generate -m "$target" -f doc.txt -p "$question" -n 200 2>err >&4
code=$?
exec 4>&-
[ "$code" -eq 0 ] || bad "closed pipe: exit code $code"
check "closed pipe: nothing on stderr" [ ! -s err ]
if [ -w /dev/full ]; then
    n_check=$((n_check + 1))
    "$program" generate -m "$target" -p "$question" -n 4 >/dev/full 2>err && bad "full disk: exit code 0"
    check "full disk: it is said" grep -q "^foretoken: cannot write to standard output" err
fi

# ---- Ctrl-C ----
interrupt() { python3 "$source_dir/tests/e2e/interrupt.py" "$@" >interrupted 2>&1 || { cat interrupted; false; }; }
check "Ctrl-C while waiting for input" interrupt 0.3 200 "$program" generate -m "$target"
check "Ctrl-C in a run" interrupt 1.5 200 "$program" bench -m "$target" --ctx 1024 --repeat 1000
check "Ctrl-C in a draft's run" interrupt 1.5 200 "$program" bench -m "$target" -d "$draft" --ctx 1024 \
    --repeat 1000 --kv speckv:keep=128
finish
