#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# explain.sh - the page that shows what was thrown away, on the shipped pair.
. "$(dirname "$0")/lib.inc"

head -c 6000 "$source_dir/LICENSE" >text.txt
text=text.txt

# page CHECK - a Python expression over the page: text (markup removed), kept and dropped (lists of
# token numbers of each section), weight (percent, likewise)
cat >page.py <<'PY'
import html, re, sys
page = open(sys.argv[1], encoding="utf8").read()
sections = page.split("<h2>")[1:]
spans = [re.findall(r'<(s|span) class="w\d" title="token (\d+)(?: to (\d+), \d of \d kept)?: (\d+) %">(.*?)</\1>', s, re.S) for s in sections]
name = [html.unescape(re.match(r"<code>(.*?)</code>", s).group(1)) for s in sections]
text = ["".join(html.unescape(p[4]) for p in s) for s in spans]
kept = [[int(p[1]) for p in s if p[0] == "span"] for s in spans]
dropped = [[int(p[1]) for p in s if p[0] == "s"] for s in spans]
weight = [[int(p[3]) for p in s] for s in spans]
given = open(sys.argv[2], encoding="utf8").read()
sys.exit(0 if eval(sys.argv[3]) else "not so: %s\n%s" % (sys.argv[3], [name, [len(k) for k in kept], [len(d) for d in dropped]]))
PY
page() {
    check "explain: $1" python3 page.py out "$text" "$1"
}

works explain -m "$target" -d "$draft" -f "$text" --prompt specpc:keep=500 --prompt dense --kv dense --kv speckv:keep=64,lookahead=8
page 'name == ["specpc:keep=500", "specpc:keep=500+speckv:keep=64,lookahead=8", "dense", "speckv:keep=64,lookahead=8"]'
page 'all(t.replace("<|bos|>", "") == given for t in text)'
page 'all(sorted(k + d) == sorted(set(k + d)) for k, d in zip(kept, dropped))'
page 'len(kept[0]) == 500 and len(dropped[0]) > 500 and 0 in kept[0]'
page 'set(kept[1]) < set(kept[0]) and len(kept[1]) >= 65'
page 'dropped[2] == [] and set(weight[2]) == {100}'
page 'len(kept[3]) >= 65 and max(kept[3]) == len(weight[3]) - 1 and weight[3][-1] == 100'
page '"<script" not in page'
page 'max(weight[0]) == 100 and len(set(weight[0])) > 10 and max(weight[3][:-40]) < 100'

works explain -m "$target" -d "$draft" -f "$text" --prompt specpc:keep=500,positions=original --prompt specpc:keep=500 --kv dense --kv speckv:keep=64,lookahead=8
page 'kept[0] == kept[2] and set(kept[1]) < set(kept[0]) and set(kept[3]) < set(kept[2])'
page 'max(kept[1]) == max(kept[3]) == len(weight[1]) - 1'

run explain -m "$target" -d "$draft" -f "$text" -o page.html
check "-o works" [ "$code" -eq 0 ]
check "-o leaves standard output empty" [ ! -s out ]
run explain -m "$target" -d "$draft" -f "$text" -o -
check "-o - is standard output" cmp -s out page.html
check "and no file of that name" [ ! -e ./- ]
cp page.html out
page 'len(name) == len(set(name)) > 4 and all(n.endswith(":keep=25%") for n in name)'
page 'all(0 < len(d) for d in dropped)'

works explain -m "$target" -d self:layers=2 -p "Call me Ishmael & <others>." --prompt specpc:keep=8,window=4
check "explain escapes markup" grep -q '>&lt;<' out
check "explain escapes ampersands" grep -q '> *&amp;<' out
check "no bare end of a tag" grep -q '&gt;' out
check "a short prompt is one view" [ "$(grep -c '<h2>' out)" -eq 1 ]
printf 'Gr\303\274\303\237e \360\237\230\200 \346\227\245\346\234\254\350\252\236\r\n%.0s' 1 2 3 4 5 6 7 8 >utf8.txt
tr -d '\r' <utf8.txt >plain.txt
works explain -m "$target" -d "$draft" -f utf8.txt --kv speckv:keep=16,window=8,lookahead=4
text=plain.txt
page 'text[0].replace("<|bos|>", "") == given'
check "tokens of one character are one piece" grep -q 'title="token [0-9]* to [0-9]*, [0-9] of [0-9] kept: ' out
text=text.txt

works explain -m "$target" -d "$draft" -p "Some years ago, never mind how long precisely, having little or no money in my purse, and nothing particular to interest me on shore, I thought I would sail about a little."
check "a method that does not suit is left out" grep -q '^specpc:keep=25% is left out: ' err
works explain -m "$target" -d "$draft" -p "Call me Ishmael." --kv speckv:keep=64
check "a fallback is on the page" grep -q '^<p>Fallback: speckv: dense' out

works explain -m "$target" -f "$text"
check "without a draft: methods that need none" grep -q '<code>snapkv:keep=25%' out
check "and no others" [ "$(grep -c '<code>spec' out)" -eq 0 ]
refuses 2 "needs a draft model" explain -m "$target" -f "$text" --kv speckv
refuses 1 "cannot be written" explain -m "$target" -d "$draft" -f "$text" -o missing/page.html
refuses 1 "is empty" explain -m "$target" -d "$draft" -p "" --kv speckv
refuses 1 "is not a regular file" explain -m "$target" -d "$draft" -f "$text" -o .
refuses 2 "no option" explain -m "$target" -f "$text" --json
finish
