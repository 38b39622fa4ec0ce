# SPDX-License-Identifier: Apache-2.0
# layers.awk - which folder of src/ may include what.
#
# Usage    awk -f scripts/layers.awk $(find src -name '*.[ch]' -o -name '*.def')     from the root
# Prints   src/score/x.c:2: score may not include kv/store.h          and fails if there is any.
#
# Headers of ours are written "folder/file.h".  A folder may always include itself, foretoken.h and the
# C library; everything else stands in the table.

BEGIN {
    may["base"]   = ""
    may["kern"]   = "base"
    may["score"]  = "base"
    may["spec"]   = "base"
    may["kv"]     = "base kern"
    may["attn"]   = "base kern kv"
    may["model"]  = "base kern"
    may["engine"] = "base kern kv attn model score spec"
    may["conf"]   = "base"
    may["eval"]   = "base conf"
    may["server"] = "base conf"
    may["cli"]    = "base conf eval server"
    library["ggml"]    = "model attn kv"
    library["llama"]   = "model"
    library["jansson"] = "conf eval server cli"
    library["microhttpd"] = "server"
    library["curl"]    = "server"
    library["vector instruction"] = "kern"
    n_bad = 0
}

function bad(text) {
    printf "%s:%d: %s\n", FILENAME, FNR, text
    n_bad++
}

# Which library a header belongs to; "" for the C library and for ours.
function library_of(header) {
    if (header ~ /^(ggml[-a-z]*|gguf)\.h$/) return "ggml"
    if (header ~ /^llama[-a-z]*\.h$/) return "llama"
    if (header ~ /^jansson/) return "jansson"
    if (header ~ /^microhttpd\.h$/) return "microhttpd"
    if (header ~ /^curl\//) return "curl"
    if (header ~ /^([a-z]*mmintrin|x86intrin|arm_neon|arm_sve)\.h$/) return "vector instruction"
    return ""
}

function has(list, word) { return index(" " list " ", " " word " ") > 0 }

FNR == 1 {
    split(FILENAME, part, "/")
    folder = part[2]
    if (part[1] != "src" || !(folder in may)) {
        bad("src/" folder " is not a folder of scripts/layers.awk")
    }
}

/^[ \t]*#[ \t]*include[ \t]*[<"]/ {
    quoted = ($0 ~ /include[ \t]*"/)
    header = $0
    sub(/^[^<"]*[<"]/, "", header)
    sub(/[>"].*$/, "", header)
    lib = library_of(header)
    if (lib != "") {
        if (!has(library[lib], folder)) bad(folder " may not include " header)
    } else if (quoted && header == "foretoken.h") {
        next
    } else if (quoted && split(header, part, "/") != 2) {
        bad("write \"folder/file.h\", not \"" header "\"")
    } else if (quoted && part[1] != folder && !has(may[folder], part[1])) {
        bad(folder " may not include " header)
    } else if (quoted && !(part[1] in may)) {
        bad(header " is in no folder of src")
    }
}

END { exit n_bad > 0 }
