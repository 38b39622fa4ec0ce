# SPDX-License-Identifier: Apache-2.0
# Completion of foretoken for bash.  Made by: foretoken help --completion-bash
_foretoken() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} options
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "generate info methods tokens perplexity bench breakeven explain eval report calibrate score help --help --version" -- "$current"))
        return
    fi
    case $previous in
    -m|--model) COMPREPLY=($(compgen -f -- "$current")); return ;;
    -d|--draft|--model-draft|-md) COMPREPLY=($(compgen -f -- "$current")); return ;;
    -f|--file) COMPREPLY=($(compgen -f -- "$current")); return ;;
    -p) COMPREPLY=(); return ;;
    --system|-sys|--system-prompt) COMPREPLY=(); return ;;
    --prompt) COMPREPLY=($(compgen -W "dense specpc specprefill random tail" -- "$current")); return ;;
    --kv) COMPREPLY=($(compgen -W "dense speckv oracle laq snapkv h2o keyformer tova corm streamingllm knorm random" -- "$current")); return ;;
    --keep) COMPREPLY=(); return ;;
    -n|--predict|--n-predict) COMPREPLY=(); return ;;
    -c|--ctx-size) COMPREPLY=(); return ;;
    -t|--threads) COMPREPLY=(); return ;;
    --kv-type) COMPREPLY=($(compgen -W "f32 f16 bf16 q8_0 q8 q4 q2 k4v2 tada kvq joint calibrated" -- "$current")); return ;;
    --bits) COMPREPLY=(); return ;;
    --tries) COMPREPLY=(); return ;;
    --kv-type) COMPREPLY=($(compgen -W "f32 f16 bf16 q8_0 q8 q4 q2 k4v2 tada kvq joint calibrated" -- "$current")); return ;;
    --rope-scale) COMPREPLY=(); return ;;
    --temp) COMPREPLY=(); return ;;
    --top-k) COMPREPLY=(); return ;;
    --top-p) COMPREPLY=(); return ;;
    --min-p) COMPREPLY=(); return ;;
    --repeat-penalty) COMPREPLY=(); return ;;
    --repeat-last-n) COMPREPLY=(); return ;;
    -s|--seed) COMPREPLY=(); return ;;
    -l|--logit-bias) COMPREPLY=(); return ;;
    --stop|-r|--reverse-prompt) COMPREPLY=(); return ;;
    --grammar) COMPREPLY=(); return ;;
    --grammar-file) COMPREPLY=($(compgen -f -- "$current")); return ;;
    --ctx) COMPREPLY=(); return ;;
    --tasks) COMPREPLY=(); return ;;
    --ctx) COMPREPLY=(); return ;;
    --depths) COMPREPLY=(); return ;;
    --samples) COMPREPLY=(); return ;;
    --shard) COMPREPLY=(); return ;;
    --answer-prefix) COMPREPLY=($(compgen -W "on off" -- "$current")); return ;;
    --haystack) COMPREPLY=($(compgen -f -- "$current")); return ;;
    --words) COMPREPLY=($(compgen -f -- "$current")); return ;;
    --squad) COMPREPLY=($(compgen -f -- "$current")); return ;;
    --hotpot) COMPREPLY=($(compgen -f -- "$current")); return ;;
    --budgets) COMPREPLY=(); return ;;
    --depth) COMPREPLY=(); return ;;
    --pp) COMPREPLY=(); return ;;
    --tg) COMPREPLY=(); return ;;
    --shape) COMPREPLY=(); return ;;
    --draft-shape) COMPREPLY=(); return ;;
    --repeat) COMPREPLY=(); return ;;
    --against) COMPREPLY=($(compgen -W "none libllama" -- "$current")); return ;;
    --chunks) COMPREPLY=(); return ;;
    --arrays) COMPREPLY=($(compgen -f -- "$current")); return ;;
    --tolerance) COMPREPLY=(); return ;;
    --out) COMPREPLY=($(compgen -f -- "$current")); return ;;
    --svg) COMPREPLY=($(compgen -f -- "$current")); return ;;
    -o|--out) COMPREPLY=($(compgen -f -- "$current")); return ;;
    --progress) COMPREPLY=($(compgen -W "auto plain json none" -- "$current")); return ;;
    esac
    case ${COMP_WORDS[1]} in
    generate) options=" -m --model -d --draft --model-draft -md -f --file -p --chat --system -sys --system-prompt -e --escape --prompt --kv --strict --auto -n --predict --n-predict -c --ctx-size -t --threads --kv-type --exact --rope-scale --temp --top-k --top-p --min-p --repeat-penalty --repeat-last-n -s --seed -l --logit-bias --stop -r --reverse-prompt --grammar --grammar-file --json --progress -v --verbose -h --help" ;;
    info) options=" -m --model -d --draft --model-draft -md --prompt --kv --strict -n --predict --n-predict -c --ctx-size -t --threads --kv-type --exact --rope-scale --json -v --verbose -h --help" ;;
    methods) options=" --json --markdown --matrix -v --verbose -h --help" ;;
    tokens) options=" -m --model -f --file -p -e --escape --no-parse-special --no-bos --json --pieces -v --verbose -h --help" ;;
    perplexity) options=" -m --model -d --draft --model-draft -md -f --file --kv --strict -c --ctx-size -t --threads --kv-type --exact --rope-scale --chunks --json --progress -v --verbose -h --help" ;;
    bench) options=" -m --model -d --draft --model-draft -md -f --file --prompt --kv --strict -n --predict --n-predict -t --threads --kv-type --exact --rope-scale -s --seed --ctx --depth --pp --tg --shape --draft-shape --repeat --against --json --csv --svg --progress -v --verbose -h --help" ;;
    breakeven) options=" -m --model -d --draft --model-draft -md --prompt --kv -n --predict --n-predict -t --threads --kv-type --exact --ctx --json --csv -v --verbose -h --help" ;;
    explain) options=" -m --model -d --draft --model-draft -md -f --file -p --chat --system -sys --system-prompt -e --escape --prompt --kv -n --predict --n-predict -t --threads --kv-type --exact --rope-scale -o --out --progress -v --verbose -h --help" ;;
    eval) options=" -m --model -d --draft --model-draft -md -f --file --chat --prompt --kv --keep --strict -t --threads --kv-type --exact --rope-scale -s --seed --tasks --ctx --depths --samples --shard --answer-prefix --haystack --words --squad --hotpot --budgets --tolerance --json --out --progress -v --verbose -h --help" ;;
    report) options=" --json --csv -o --out -v --verbose -h --help" ;;
    calibrate) options=" -m --model -f --file -c --ctx-size -t --threads --bits --tries -s --seed --json -o --out --progress -v --verbose -h --help" ;;
    score) options=" --prompt --kv --arrays -v --verbose -h --help" ;;
    help) options=" -v --verbose --man --completion-bash -h --help" ;;
    *) options= ;;
    esac
    case $current in
    -*) COMPREPLY=($(compgen -W "$options" -- "$current")) ;;
    *) COMPREPLY=($(compgen -f -- "$current")) ;;
    esac
}
complete -o filenames -F _foretoken foretoken
