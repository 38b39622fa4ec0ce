#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# usage.sh - wrong command lines and bad input end with one line, the right exit code and no output;
# help, man page, completion and docs/METHODS.md say what the program says.
. "$(dirname "$0")/lib.inc"

# ---- wrong usage: 2 ----
run
check "no arguments: exit code 2" [ "$code" -eq 2 ]
check "no arguments: nothing on stdout" [ ! -s out ]
refuses 2 "did you mean generate?; there are: generate info" generat
refuses 2 "there are: generate" ""
refuses 2 "-m FILE is needed" generate -p x
refuses 2 "there are: --model" generate -m "$target" --unknown
refuses 2 "needs a value" generate -m
refuses 2 "expected a whole number from -1" generate -m "$target" -p x -n -2
refuses 2 "expected a number from 0 to 1" generate -m "$target" -p x --top-p 2
refuses 2 "unexpected argument" generate -m "$target" stray
refuses 2 "there are: dense, specpc" generate -m "$target" -p x --prompt unknown
refuses 2 "goes with -p" generate -m "$target" --prompt "Who betrayed the captain?"
refuses 2 "there are: dense, speckv" generate -m "$target" -p x --kv unknown
refuses 2 "window" generate -m "$target" -d "$draft" -p x --kv speckv:widow=3
refuses 2 "window" generate -m "$target" -d "$draft" -p x --kv speckv:keep=32,window=32
refuses 2 "keep" generate -m "$target" -d "$draft" -p x --kv speckv:keep=0
refuses 2 "needs a draft model: -d FILE" generate -m "$target" -p x --kv speckv
refuses 2 "or -d self:layers=K" generate -m "$target" -p x --prompt specpc
refuses 2 "a draft that writes text" generate -m "$target" -d self:layers=2 -p x --kv speckv
refuses 2 "text written by a draft" generate -m "$target" -d self:layers=2 -p x --prompt specpc:lookahead=2
refuses 2 "expected a file or self:layers=K" generate -m "$target" -d self:4 -p x --prompt specpc
refuses 2 "layers" generate -m "$target" -d self:layers=999 -p x --prompt specpc
refuses 2 "--system needs --chat" generate -m "$target" -p x --system y
refuses 2 "exclude each other" generate -m "$target" -p x --grammar a --grammar-file b
refuses 2 "15043+1" generate -m "$target" -p x -l nonsense
refuses 2 "the vocabulary has the ids" generate -m "$target" -p x -l 99999999+1
refuses 2 "leave --kv-type out" generate -m "$target" -p x --exact --kv-type f16
refuses 2 "expected a whole number from 4" perplexity -m "$target" -f x -c 2
refuses 2 "at least 2" bench -m "$target" -n 1
refuses 2 "exclude each other" bench -m "$target" --json --csv
refuses 2 "--shape and -m exclude each other" bench -m "$target" --shape tiny:q8_0
refuses 2 "expected one of llama-3.2-1b" bench --shape tiny
refuses 2 "--draft-shape: shape is" bench --shape tiny:q8_0 --draft-shape tiny:q9
refuses 2 "--draft-shape needs --shape" bench -m "$target" --draft-shape tiny:q8_0
refuses 2 "--depth and --ctx exclude each other" bench -m "$target" --depth 0 --ctx 64
refuses 2 "0 after 64, expected larger" bench -m "$target" --depth 64,0
refuses 2 "speckv goes with --ctx" bench -m "$target" --depth 64 --kv speckv
refuses 2 "leave the draft out" bench -m "$target" -d "$draft" --depth 64
refuses 2 "a whole number from 1" bench -m "$target" --depth 64 --tg 0
refuses 2 "--arrays FILE is needed" score --kv speckv
refuses 2 "one of --kv METHOD and --prompt METHOD" score --arrays x
refuses 2 "which model?" info
refuses 2 "no command" help nonsense

# ---- bad input: 1 ----
: >empty
printf 'ab\377cd' >latin1
printf 'ab\000cd' >nul
printf 'not a model' >text.gguf
head -c 3000 "$target" >cut.gguf
refuses 1 "missing.gguf" generate -m missing.gguf -p x
refuses 1 "empty" generate -m empty -p x
refuses 1 "text.gguf" generate -m text.gguf -p x
refuses 1 "cut.gguf" generate -m cut.gguf -p x
refuses 1 "cut.gguf" info "$target" cut.gguf
refuses 1 "missing.txt: No such file" generate -m "$target" -f missing.txt
refuses 1 "Is a directory" generate -m "$target" -f .
refuses 1 "empty is empty" generate -m "$target" -f empty -p x
refuses 1 "is empty" generate -m "$target" -p ""
refuses 1 "standard input" generate -m "$target"
refuses 1 "byte 0xff at offset 2" generate -m "$target" -f latin1
refuses 1 "a NUL byte at offset 2" generate -m "$target" -f nul
refuses 1 "byte 0xff" tokens -m "$target" -f latin1
refuses 1 "missing.gbnf" generate -m "$target" -p x --grammar-file missing.gbnf
echo "a few words" >short
refuses 1 "two chunks of 512" perplexity -m "$target" -f short

refuses 2 '--kv is "", expected METHOD' generate -m "$target" -p x --kv=
refuses 2 '--prompt is "", expected METHOD' generate -m "$target" -p x --prompt=
refuses 2 '--grammar is ""' generate -m "$target" -p x --grammar ""
refuses 2 "standard input is read once" generate -m "$target" -f - --grammar-file -
refuses 2 "no token is left to draw" generate -m "$target" -p x --grammar 'root ::= "z"' -l 122-inf
refuses 2 "at most 9223372036854775807" generate -m "$target" -p x -s 9223372036854775808
refuses 2 "has 4 layers, expected fewer" generate -m "$target" -d self:layers=4 -p x --prompt specpc
refuses 2 "--pp goes with --depth" bench -m "$target" --pp 16
refuses 2 "-n goes with --ctx" bench -m "$target" --depth 0 -n 3
refuses 1 "makes it shorter" generate -m "$target" -f "$source_dir/README.md" -n -1
works info "$target" -c 4096 -n 3000 --json
cp out long.json
works info "$target" -c 4096 -n 2048 --json
check "info -n is not cut" sh -c '! cmp -s out long.json'

# ---- what is read is not written over ----
cp "$draft" own.gguf
refuses 2 "none of the files that are read" explain -m own.gguf -f "$source_dir/README.md" --kv snapkv:keep=64 -o own.gguf
refuses 2 "none of the files that are read" bench -m own.gguf --ctx 64 -n 2 --svg ./own.gguf
check "the model is as it was" cmp "$draft" own.gguf

# ---- what documents say ----
for command in generate info methods tokens perplexity bench breakeven score help; do
    works help $command
    cp out help.$command
    works $command --help
    check "$command --help is help $command" cmp -s out help.$command
done
works perplexity --help
check "perplexity --help: what -c may be" grep -q '(4\.\..*default 512)' out
works --help
cp out overview
works help
check "--help is help" cmp -s out overview
works --version
check "--version" grep -Eq '^foretoken [0-9]+\.[0-9]+\.[0-9]+$' out
works help --man
check "man/foretoken.1 is up to date (foretoken help --man)" cmp out "$source_dir/man/foretoken.1"
works help --completion-bash
check "completions/foretoken.bash is up to date" cmp out "$source_dir/completions/foretoken.bash"
works methods --markdown
check "docs/METHODS.md is up to date (foretoken methods --markdown)" cmp out "$source_dir/docs/METHODS.md"
if command -v bash >/dev/null; then
    cat >complete.bash <<'EOS'
. "$1"
COMP_WORDS=(foretoken generate --kv "")
COMP_CWORD=3
_foretoken
echo "${COMPREPLY[@]}"
EOS
    bash complete.bash "$source_dir/completions/foretoken.bash" >out
    check "completion of --kv" grep -q speckv out
fi
finish
