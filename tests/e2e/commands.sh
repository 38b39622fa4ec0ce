#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# commands.sh - info, methods, tokens, perplexity, bench and score on the shipped pair.
. "$(dirname "$0")/lib.inc"

# ---- info ----
works info "$target" "$draft"
check "info shows the pair" grep -q "^pair  fits" out
check "info shows what there is" grep -q "available now" out
works info "$target" "$draft" --json -c 1024 --kv speckv:keep=128
json 'j["pair"]["fits"] and len(j["memory"]) == 1 and j["memory"][0]["n_ctx"] == 1024'
json '0 < j["memory"][0]["kv_bytes"] < j["memory"][0]["kv_bytes_peak"] < j["memory"][0]["total_bytes"]'
json 'j["target"]["n_layer"] > j["draft"]["n_layer"] > 0 and j["memory"][0]["fits"]'
cp out compressed.json
works info "$target" --json -c 1024
json 'j["draft"] is None and j["memory"][0]["kv_bytes"] > json.load(open("compressed.json"))["memory"][0]["kv_bytes"]'

"$1/mkmodel" other.gguf --ctx 64 >/dev/null || bad "mkmodel"
run info "$target" other.gguf --json -c 1024 --kv speckv:keep=128
check "info says no with its exit code" [ "$code" -eq 1 ]
json '"differ at token" in j["pair"]["why"] and j["memory"][0]["why"] == j["pair"]["why"] and not j["memory"][0]["fits"]'
works info "$target" --json -c 1024 -n 24
json 'j["memory"][0]["kv_bytes_peak"] * 1000 == j["memory"][0]["kv_bytes"] * 1023'

# ---- methods ----
works methods --json
json 'sorted(m["name"] for m in j) == ["corm", "dense", "h2o", "keyformer", "knorm", "laq", "oracle", "random", "random", "snapkv", "speckv", "specpc", "specprefill", "streamingllm", "tail", "tova"]'
json '[m["name"] for m in j if m["stages"] == ["prompt"]] == ["specpc", "specprefill", "random", "tail"]'
json '[m["name"] for m in j if m["stages"] == ["kv"]] == ["speckv", "oracle", "laq", "snapkv", "h2o", "keyformer", "tova", "corm", "streamingllm", "knorm", "random"]'
json '[m["name"] for m in j if m["needs_draft"]] == ["specpc", "specprefill", "speckv"]'
json 'all(p["help"] and p["range"] and p["default"] for m in j for p in m["parameters"])'

works methods --matrix --json
json 'len({(c["estimator"], c["budget"], c["rank"], c["kv_type"]) for c in j}) == len(j) > 600 and all(c["runs"] == (c["reason"] is None) for c in j)'
json '{c["kv_type"] for c in j if c["estimator"] == "h2o:decode=on" and c["runs"]} == {"f32", "f16", "bf16", "q8_0"}'
works methods --matrix
check "what runs stands together" grep -q '^snapkv  *uniform  score     f32 f16 bf16 q8_0 q8 q4 q2 k4v2: runs$' out
check "what does not has its reason" grep -q "^  *k4v2: tova with kv type 'k4v2': rows leave at every step (decode=on), " out
check "for all formats, where it is not they" grep -q '^streamingllm:.* ada  *score     f32 f16 bf16 q8_0 q8 q4 q2 k4v2 tada kvq joint: streamingllm: budget=ada makes no sense' out
refuses 2 "--matrix and --markdown exclude each other" methods --matrix --markdown

# ---- tokens ----
works tokens -m "$target" -p "Call me Ishmael."
ids=$(cat out)
works tokens -m "$target" -p "Call me Ishmael." --json
json "j['ids'] == [int(i) for i in '$ids'.split()] and len(j['pieces']) == j['n'] == len(j['ids'])"
works tokens -m "$target" -p "Call me Ishmael." --json --no-bos
json '"".join(p for p in j["pieces"]) == "Call me Ishmael."'
works tokens -m "$target" -p 'a\tb' --escape --json --no-bos
json '"".join(j["pieces"]) == "a\tb"'
works tokens -m "$target" -p "Call me" --pieces --no-bos
check "--pieces quotes the text" grep -q '"' out

printf '\357\273\277Call me Ishmael.' >bom
works tokens -m "$target" -f bom
check "a byte order mark is dropped" [ "$(cat out)" = "$ids" ]
printf '\357\273\277' >bom
refuses 1 "bom is empty" tokens -m "$target" -f bom

# ---- perplexity ----
text=$source_dir/LICENSE
works perplexity -m "$target" -f "$text" -c 256 --chunks 2
check "perplexity ends as llama.cpp does" grep -Eq '^Final estimate: PPL = [0-9.]+ \+/- [0-9.]+$' out
check "perplexity shows a running estimate" grep -Eq '^\[1\][0-9.]+,\[2\][0-9.]+$' out
works perplexity -m "$target" -f "$text" -c 256 --chunks 2 --json
json 'j["scored_tokens"] == 2 * 127 and j["chunks"] == 2 and j["ppl"] > 1'
cp out dense.json
works perplexity -m "$target" -d "$draft" -f "$text" -c 256 --chunks 2 --json --kv speckv:keep=1000
json 'abs(j["ppl"] - json.load(open("dense.json"))["ppl"]) < 1e-9'
works perplexity -m "$target" -d "$draft" -f "$text" -c 256 --chunks 2 --json --kv speckv:keep=64,lookahead=8
json 'j["ppl"] != json.load(open("dense.json"))["ppl"] and j["method"]["kv"]["keep"] == 64'

# ---- bench ----
fields='["engine", "method", "n_prompt", "prefill_tok_s", "ttft_ms", "decode_tok_s", "kv_bytes", "kv_bytes_peak"]'
works bench -m "$target" -d "$draft" --ctx 64,256 --repeat 1 -n 4 --kv dense --kv speckv:keep=48,lookahead=8 \
    --against libllama --json
json "all(set($fields) <= set(row) for row in j) and len(j) == 6"
json '[row["n_prompt"] for row in j] == [64, 64, 64, 256, 256, 256]'
json '[row["engine"] for row in j[:3]] == ["foretoken", "foretoken", "libllama"]'
json 'all(row[key] > 0 for row in j for key in ("prefill_tok_s", "ttft_ms", "decode_tok_s", "kv_bytes"))'
json 'j[4]["kv_bytes"] < j[3]["kv_bytes"] and j[4]["method"] == "speckv:keep=48,lookahead=8"'
json 'all(row["resident_bytes_peak"] > row["kv_bytes_peak"] for row in j)'
json 'j[3]["draft_ms"] == 0 and min(j[4]["draft_ms"], j[4]["score_ms"], j[4]["draft_kv_bytes_peak"]) > 0'
works bench -m "$target" -d "$draft" --ctx 3000 --prompt specpc:keep=3% --repeat 1 -n 2
check "bench shows what drafting took" grep -q "^specpc:keep=3% at 3000: draft .* ms, scoring .* ms, target .* ms" out
works bench -m "$target" --ctx 32 --repeat 2 -n 3 --csv
check "bench --csv has a header and a row" [ "$(wc -l <out)" -eq 2 ]
check "bench --csv has a value for every column" python3 -c '
import csv
row, = csv.DictReader(open("out"))
assert None not in row and None not in row.values(), row
assert float(row["prefill_ms"]) > 0 and row["draft_ms"] == "0.000", row
'
# Several formats take turns, and packed rows say what packing them took.
works bench -m "$target" --ctx 200,400 --repeat 2 -n 3 --kv-type f16 --kv-type q4,residual=0 --kv dense --kv snapkv:keep=96 --against libllama --json --svg formats.svg
json '[(r["n_prompt"], r["method"], r["kv_type"], r["engine"]) for r in j] == [(n, m, t, e) for n in (200, 400)
    for m, t, e in [(m, t, "foretoken") for m in ("dense", "snapkv:keep=96") for t in ("f16", "q4,residual=0")] + [("dense", "f16", "libllama")]]'
json 'all(r["pack_ms"] == 0 and r["kv_packing"] == "" for r in j if r["kv_type"] == "f16")'
json 'all(0 < r["pack_ms"] < r["prefill_ms"] and "bits of k 4" in r["kv_packing"] for r in j if r["kv_type"] != "f16")'
json 'all(j[i + 1]["kv_bytes"] < j[i]["kv_bytes"] for i in (0, 2, 5, 7))'
check "a line for every format" grep -q "dense q4,residual=0" formats.svg
works bench -m "$target" --ctx 200 --repeat 1 -n 3 --kv-type f16 --kv-type q4
check "bench shows the formats" [ "$(grep -c '^foretoken  dense   \(f16 \|q4  \) ' out)" -eq 2 ]
check "bench shows what packing took" grep -q "^dense q4 at 200: packing [0-9.]* ms, [0-9.]* % of the target's [0-9]* ms; blocks of 64 rows" out
many=$(seq -f '--kv snapkv:keep=%g' 9 31)
# shellcheck disable=SC2086 # two words each
refuses 2 "72 combinations of methods and formats, expected at most 64" bench -m "$target" --kv dense $many \
    --kv-type f16 --kv-type q8 --kv-type q4
refuses 2 "snapkv:keep=64: snapkv with kv type 'tada'" bench -m "$target" --ctx 256 --kv dense --kv snapkv:keep=64 --kv-type f16 --kv-type tada
works bench -m "$target" --ctx 32 --repeat 2 -n 3 -f "$text"
check "bench says what others used of the machine" grep -q "other processes used" out

# Whole prompts of synthetic models; a pair of shapes shares its vocabulary.
rm -rf cache
XDG_CACHE_HOME=$PWD/cache
export XDG_CACHE_HOME
works bench --shape tiny:q4_k_m --draft-shape tiny:q8_0 --ctx 64,256 --repeat 1 -n 4 --kv dense --kv speckv:keep=48,lookahead=8 --json --svg lengths.svg
json 'len(j) == 4 and j[3]["kv_bytes"] < j[2]["kv_bytes"] and not any(row["fallbacks"] for row in j[2:])'
check "the models are where they were said to be" [ -s cache/foretoken/shapes/tiny-q4_k_m.gguf ]
check "the path is said" grep -q "written to $PWD/cache/foretoken/shapes/tiny-q8_0.gguf" err
works info cache/foretoken/shapes/tiny-q4_k_m.gguf cache/foretoken/shapes/tiny-q8_0.gguf
check "shapes make a pair" grep -q "^pair  fits" out
works generate -m cache/foretoken/shapes/tiny-q4_k_m.gguf -p "some text" -n 4

# Depths: copied rows on both engines.
fields='["engine", "method", "kv_type", "depth", "pp", "tg", "prefill_s", "prefill_tok_s", "decode_s", "decode_tok_s", "dram_gb_s", "prompt_s_extrapolated", "threads", "repeats", "low", "high", "model", "foreign_cpu"]'
works bench --shape tiny:q8_0 --depth 0,300,1000 --pp 32 --tg 4 --repeat 2 --against libllama --json --svg depths.svg
check "a shape is made once" grep -q ": synthetic weights, in $PWD/cache" err
json "len(j) == 6 and all(set($fields) <= set(row) for row in j)"
json '[row["depth"] for row in j] == [0, 0, 300, 300, 1000, 1000]'
json 'all(row["low"][k] <= row[k] <= row["high"][k] for row in j for k in ("prefill_tok_s", "decode_tok_s", "dram_gb_s"))'
json 'all(row["low"]["prefill_tok_s"] * 0.999 < 32 / row["prefill_s"] < row["high"]["prefill_tok_s"] * 1.001 for row in j)'
json 'all(abs(j[i]["prefill_ratio"] * j[i + 1]["prefill_tok_s"] / j[i]["prefill_tok_s"] - 1) < 1e-3 for i in (0, 2, 4)) and j[1]["prefill_ratio"] is None'
json '[row["kv_bytes"] // 1536 - row["depth"] for row in j] == [36, 37] * 3'
json 'j[0]["prompt_s_extrapolated"] == 0 < j[2]["prompt_s_extrapolated"] < j[4]["prompt_s_extrapolated"]'
for plot in lengths depths; do
    check "$plot.svg is XML" python3 -c 'import sys, xml.dom.minidom as x; x.parse(sys.argv[1])' $plot.svg
done
works bench --shape tiny:q8_0 --depth 64 --pp 8 --tg 2 --repeat 1 --kv-type bf16 --against libllama --csv
check "bench --depth --csv is one table" python3 -c '
import csv, sys
rows = list(csv.DictReader(open("out")))
sys.exit(not (len(rows) == 2 and None not in rows[0] and rows[0]["kv_type"] == "bf16"
              and float(rows[1]["decode_tok_s"]) > 0 and rows[0]["prompt_s_extrapolated"] == ""))'
works bench --shape tiny:q8_0 --depth 0,64 --pp 8 --tg 2 --repeat 1
check "bench --depth shows the ceiling" grep -q "DRAM GB/s" out
check "bench --depth extrapolates" grep -q "a whole prompt of 64 tokens, extrapolated" out
refuses 1 "beyond the trained context of other.gguf: 64 tokens" bench -m other.gguf --depth 60
refuses 2 '--svg is "-", expected a file name' bench -m other.gguf --depth 8 --pp 8 --tg 2 --repeat 1 --svg -
refuses 1 "is not a regular file" bench -m other.gguf --depth 8 --pp 8 --tg 2 --repeat 1 --svg /dev/null
unset XDG_CACHE_HOME

refuses 1 "a prompt of 64 tokens and 8 more: the context is full" bench -m other.gguf --ctx 64 --repeat 1 -n 8

# ---- score: the vectors of the specification ----
python3 - <<'EOS'
import json
n, more, heads = 10, 2, 2
def k(j): return [((3 * j) % 7) - 3, ((5 * j) % 4) - 1]
def q(h, t): return [((t + h) % 3) - 1, ((2 * t + h) % 5) - 2]
def arrays(rows):
    return [{"q": [[q(h, t) for t in range(rows)] for h in range(heads)], "k": [[k(j) for j in range(rows)]]}]
kv = {"n_prompt": n, "n_lookahead": more, "layers": arrays(n + more)}
def write(name, value): open(name, "w").write(value if isinstance(value, str) else json.dumps(value))
write("kv.json", kv)
write("plain.json", {"n_prompt": n, "n_lookahead": 0, "layers": arrays(n)})
write("prompt.json", {"n_prompt": n, "layers": arrays(n + 1)})
write("select.json", {"score": [1, 0, 2, 0, 0, 9, 0, 0, 0, 0, 0, 7, 0, 0, 3, 0, 0, 0, 0, 0]})
def damaged(name, change):
    value = json.loads(json.dumps(kv))
    change(value)
    write(name, value)
def put(value, at, new):
    for key in at[:-1]:
        value = value[key]
    value[at[-1]] = new
damaged("row.json", lambda v: put(v, ("layers", 0, "q", 1, 3), [1]))
damaged("word.json", lambda v: put(v, ("layers", 0, "k", 0, 3, 1), "x"))
damaged("short.json", lambda v: v["layers"][0]["k"][0].pop())
damaged("no-k.json", lambda v: v["layers"][0].pop("k"))
damaged("no-n.json", lambda v: v.pop("n_prompt"))
damaged("no-l.json", lambda v: v.pop("n_lookahead"))
damaged("large.json", lambda v: put(v, ("layers", 0, "q", 0, 0, 0), 1e300))
damaged("count.json", lambda v: put(v, ("n_prompt",), 10 ** 15))
damaged("negative.json", lambda v: put(v, ("n_prompt",), -1))
damaged("empty-layers.json", lambda v: put(v, ("layers",), []))
write("nan.json", '{"n_prompt":1,"n_lookahead":0,"layers":[{"q":[[[NaN]]],"k":[[[1]]]}]}')
write("twice.json", '{"n_prompt":2,"n_prompt":2}')
write("deep.json", "[" * 100000)
write("list.json", "[1]")
EOS
near='(lambda a, b: len(a) == len(b) and all(abs(x - y) < 2e-6 for x, y in zip(a, b)))'
works score --arrays kv.json --kv speckv:keep=5,window=2,kernel=3
json "$near(j['layers'][0]['heads'][0]['mass'], [.324828, .061777, .274341, .379768, .797590, .160163, .092328])"
json "$near(j['layers'][0]['heads'][0]['pooled'], [.324828, .324828, .379768, .797590, .797590, .797590, .160163])"
json 'j["layers"][0]["heads"][0]["ranked"] == [3, 4, 5] and j["layers"][0]["heads"][0]["kept"] == [3, 4, 5, 7, 8]'
works score --arrays kv.json --kv speckv:keep=5,window=2,kernel=3,lookahead=2
refuses 1 "lookahead=64 means 64 rows beyond n_prompt, the arrays have 2" \
    score --arrays kv.json --kv speckv:keep=5,window=2,kernel=3,lookahead=64
refuses 1 "laq: window=0 and no rows beyond n_prompt: nobody votes" \
    score --arrays plain.json --kv laq:keep=6,window=0,trial_window=3
refuses 2 "snapkv: rank=critical needs values" score --arrays plain.json --kv snapkv:keep=6,window=3,rank=critical
works score --arrays plain.json --kv snapkv:keep=6,window=3,kernel=3
json "$near(j['layers'][0]['heads'][0]['mass'], [.074902, .034558, .087870, .165244, .217893, .051080, .050263])"
json 'j["layers"][0]["heads"][0]["kept"] == [3, 4, 5, 7, 8, 9]'
works score --arrays plain.json --kv streamingllm:keep=5,sinks=2
json 'j["layers"][0]["heads"][0]["kept"] == [0, 1, 7, 8, 9]'
refuses 1 "snapkv looks at the prompt alone, the arrays have 2 rows beyond n_prompt" \
    score --arrays kv.json --kv snapkv:keep=5,window=2
works score --arrays prompt.json --prompt specpc:keep=6,window=4,kernel=2,neighbors=2,start_layer=0
json "$near(j['score'], [.254103, .061777, .160185, .369459, .324873, .106775, .089822, .637108, .254103, .324546])"
json 'j["kept"] == [2, 3, 6, 7, 8, 9]'
works score --arrays select.json --prompt specpc:keep=10,window=4,kernel=4,neighbors=4
json 'j["pooled"][:8] == [2, 2, 2, 9, 9, 9, 9, 0] and j["kept"] == [2, 3, 4, 5, 6, 7, 16, 17, 18, 19]'
bad_arrays() { refuses 1 "$2" score --arrays "$1" --kv speckv:keep=5,window=2,kernel=3; }
bad_arrays row.json "layers[0].q[1][3] has 1 elements, expected 2"
bad_arrays word.json "layers[0].k[0][3][1] is no number"
bad_arrays short.json "layers[0].k[0] has 11 elements, expected 12"
bad_arrays no-k.json "layers[0].k is missing"
bad_arrays no-n.json "n_prompt is missing"
bad_arrays no-l.json "n_lookahead is missing"
bad_arrays large.json "layers[0].q[0][0][0] is 1e+300"
bad_arrays count.json "n_prompt is 1000000000000000"
bad_arrays negative.json "n_prompt is -1"
bad_arrays empty-layers.json "layers is empty"
bad_arrays nan.json 'in "q": invalid token'
bad_arrays twice.json 'in "n_prompt": duplicate object key'
bad_arrays deep.json "maximum parsing depth"
bad_arrays list.json "is no JSON object"
echo '{"score":[1,-2]}' >minus.json
refuses 1 "score[1] is -2, expected a number >= 0" score --arrays minus.json --prompt specpc
bad_arrays none.json "none.json: No such file"
finish
