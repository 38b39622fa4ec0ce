#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# formats.sh - formats of KV rows, as a user meets them: --kv-type, info, calibrate.
. "$(dirname "$0")/lib.inc"

head -c 5000 "$source_dir/LICENSE" >text
text=text

# ---- --kv-type ----
works generate -m "$target" -f "$text" -n 8 --json
cp out f16.json
works generate -m "$target" -f "$text" -n 8 --json --kv-type k=q4,v=q2,group=64,residual=64
json 'j["kv_packing"] == "blocks of 64 rows, 64 or more exact; bits of k 4, of v 2"'
json 'j["kv_bytes"] * 3 < json.load(open("f16.json"))["kv_bytes"] == j["kv_bytes_full"]'
json 'j["text"][:1] == json.load(open("f16.json"))["text"][:1]'
cp out k4v2.json
works generate -m "$target" -f "$text" -n 8 --json --kv-type k4v2
json 'j["text"] == json.load(open("k4v2.json"))["text"] and j["kv_bytes"] == json.load(open("k4v2.json"))["kv_bytes"]'
works generate -m "$target" -f "$text" -n 8 --json --kv-type tada
json 'any("means over 2 KV heads take 1/2 of f16" in f for f in j["fallbacks"])'
works generate -m "$target" -f "$text" -n 8 --json --kv snapkv:keep=10% --kv-type joint
json 'j["kv_packing"].startswith("joint, budget 9.9") and "bits of k 4, of v 4" in j["kv_packing"]'
refuses 2 "'q5' is unknown, expected f32, f16" generate -m "$target" -f "$text" --kv-type q5
refuses 2 "group is '48', expected 16, 32, 64, 128 or 256" generate -m "$target" -f "$text" --kv-type q4,group=48
refuses 2 "v_group is 128 numbers of a row, but heads of the target have 64" generate -m "$target" -f "$text" --kv-type q4,v_group=128
refuses 2 "expected decode=off, or a kv type such as q8_0" generate -m "$target" -f "$text" --kv h2o:keep=64 --kv-type q4
refuses 2 "each head keeps rows of its own" generate -m "$target" -f "$text" --kv snapkv:keep=64 --kv-type tada
refuses 2 "stores KV rows as f32" generate -m "$target" -f "$text" --exact --kv-type q4

# ---- info ----
works info "$target" --json -c 2048 --kv-type kvq,bits=3
json 'len(j["kv_layers"]) == j["target"]["n_layer"]'
json 'sum(l["k_bits"] + l["v_bits"] for l in j["kv_layers"]) == 6 * len(j["kv_layers"])'
json 'all(l["k_norm"] > l["v_norm"] > 0 and l["k_bits"] >= l["v_bits"] for l in j["kv_layers"])'
cp out kvq.json
works info "$target" --json -c 2048
json 'j["kv_layers"] == [] and j["memory"][0]["kv_bytes"] > 3 * json.load(open("kvq.json"))["memory"][0]["kv_bytes"]'
works info "$target" -c 2048 --kv-type kvq
check "info shows norms and bits" grep -Eq '^ +0 +[0-9.]+ +[0-9.]+ +[248] +[248] +64 +64$' out

# ---- calibrate ----
cp "$target" own.gguf
refuses 1 "no own.kv.json; foretoken calibrate -m own.gguf makes it" generate -m own.gguf -f "$text" --kv-type calibrated
works calibrate -m own.gguf -f "$text" -c 512 --tries 3 --bits 4 --json
json 'j["kv_type"].startswith("tada,bits=") and 4 <= j["tried"] <= 7 and j["kl"] <= j["kl_same_bits"] and j["bits"] <= 4'
cp out found.json
json 'json.load(open("own.kv.json")) == j'
works generate -m own.gguf -f "$text" -n 4 --json --kv-type calibrated
json 'j["method"]["kv_type"] == json.load(open("found.json"))["kv_type"]'
json '"deviations from the mean" in j["kv_packing"]'
works calibrate -m own.gguf -f "$text" -c 512 --tries 3 --bits 4 --json -o again.json
check "the same seed finds the same" cmp -s own.kv.json again.json
cp "$draft" other.gguf
cp own.kv.json other.kv.json
refuses 1 "was found for another model" generate -m other.gguf -f "$text" --kv-type calibrated
echo '{"kv_type":"q5"}' >own.kv.json
refuses 1 "own.kv.json is no result of foretoken calibrate" generate -m own.gguf -f "$text" --kv-type calibrated
refuses 1 "512000 are needed (-c)" calibrate -m own.gguf -f "$text" -c 512000
refuses 2 '--bits is "9", expected' calibrate -m own.gguf -f "$text" --bits 9
refuses 2 "which model?" calibrate -f "$text"

# ---- auto ----
cp "$target" auto.gguf
works generate -m auto.gguf -f "$text" -n 4 --json --kv auto:bytes=64KiB
json 'j["kv_auto"]["kv"] == "snapkv:keep=64KiB" and j["kv_auto"]["kv_type"] == "joint" and j["kv_bytes"] <= 65536'
json 'j["kv_auto"]["why"].startswith("nothing was measured of this model") and j["method"]["kv_type"] == "joint"'
works eval ruler -m auto.gguf --tasks niah_single_2 --ctx 512 --samples 2 --kv dense --kv snapkv --keep 32KiB,128KiB --kv-type f16 --kv-type q4,residual=0 --out auto.jsonl
works calibrate -m auto.gguf auto.jsonl --json
json 'len(j["table"]) == 6 and [r["share"] for r in j["table"] if r["kv"] == "dense"][0] == 1'
works generate -m auto.gguf -f "$text" -n 4 --json --kv auto:bytes=256KiB
json 'j["kv_auto"]["kv"].startswith("snapkv:keep=256KiB") and "best of" in j["kv_auto"]["why"] and j["kv_bytes"] <= 262144'
works generate -m auto.gguf -f "$text" -n 4 --json --kv auto:bytes=1GiB
json 'j["kv_auto"]["why"] == "all rows fit" and j["kv_bytes"] == j["kv_bytes_full"]'
works calibrate -m auto.gguf -f "$text" -c 512 --tries 1
works generate -m auto.gguf -f "$text" -n 4 --json --kv auto:bytes=256KiB
json '"best of" in j["kv_auto"]["why"]'
refuses 2 'expected auto:bytes=64MiB' generate -m auto.gguf -f "$text" --kv auto:bytes=64
refuses 2 "leave --kv-type out" generate -m auto.gguf -f "$text" --kv auto:bytes=1MiB --kv-type q4
refuses 2 'unknown kv method "auto"' bench -m auto.gguf --kv auto:bytes=1MiB
refuses 1 "was measured of another model" calibrate -m "$draft" auto.jsonl

finish
