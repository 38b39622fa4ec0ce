/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - the commands, and the way from argv to one of them. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

const struct ft_command ft_commands[] = {
    { "generate", "", "answer a long prompt",
      "Reads a document and a question, lets the draft read first where a method asks for it, and "
      "writes the answer to standard output as it comes. A summary of tokens, memory and time, "
      "with every fallback, goes to standard error; with --json one JSON object replaces both. "
      "Text such as <|im_start|> becomes its special token.",
      "foretoken generate -m target.gguf -d draft.gguf --kv speckv:keep=1024 -f book.txt \\\n"
      "    -p \"Who betrayed the captain?\" --chat",
      FT_CMD_GENERATE, 0, ft_cmd_generate },
    { "info", "MODEL [DRAFT]", "show a model, the memory of a run, and whether a pair fits",
      "Reads headers and vocabularies only. The memory that a run would take is compared with "
      "what the machine and its cgroup have left, before anything is loaded. The prompt is taken "
      "to fill the context but for -n tokens. The exit code is 1 where the pair does not fit or "
      "the run would not.",
      "foretoken info target.gguf draft.gguf -c 32768 --kv speckv:keep=1024", FT_CMD_INFO, 2,
      ft_cmd_info },
    { "methods", "", "list the methods with their parameters",
      "Prints the table the program itself works from. --matrix prints, for every KV method with "
      "every budget, ranking and format of KV rows, whether they go together, or why not.",
      "foretoken methods\nforetoken methods --matrix", FT_CMD_METHODS, 0, ft_cmd_methods },
    { "tokens", "", "show the token ids of a text",
      "Prints the ids, or one token a line with --pieces. What the model adds in front is "
      "included unless --no-bos is given.",
      "foretoken tokens -m model.gguf -p \"Call me Ishmael.\" --pieces", FT_CMD_TOKENS, 0,
      ft_cmd_tokens },
    { "perplexity", "", "measure perplexity on a text",
      "llama.cpp's scheme: chunks of -c tokens, each beginning with BOS where the model uses one; "
      "the second half of a chunk is scored. With --kv the first half of each chunk is read as a "
      "prompt and compressed before the second half is scored.",
      "foretoken perplexity -m model.gguf -f text.txt -c 512", FT_CMD_PERPLEXITY, 0,
      ft_cmd_perplexity },
    { "bench", "", "measure speed and memory side by side",
      "Runs every combination of the given --prompt and --kv methods (dense is one of them) on "
      "every length, round by round, and prints medians with the lowest and highest value. "
      "Prompts are random tokens from --seed, or the beginning of -f. prefill_tok_s counts the "
      "prompt's tokens over everything before the first logits: draft, scoring and target. "
      "With --depth the dense engine is measured as the cache fills: plan a sweep of depths "
      "first, it takes minutes, as the cache is brought to each depth by copied rows on both "
      "engines; whole prompts and methods (--ctx) where the curve says they pay. "
      "Beside each decode stands the rate at which the machine read memory just then. "
      "--shape needs no download: weights are drawn, sizes and formats are a real model's.",
      "foretoken bench -m target.gguf -d draft.gguf --ctx 1024,4096 --kv dense --kv speckv "
      "--against libllama\n"
      "foretoken bench --shape llama-3.2-1b:q4_k_m --depth 0,4096,16384,32768 --against libllama "
      "\\\n"
      "    --svg depth.svg",
      FT_CMD_BENCH, 0, ft_cmd_bench },
    { "breakeven", "", "show from which prompt length a draft pays",
      "Measures a few layers of the target, and of the draft if one is given, for a second or two, "
      "and computes from that how much sooner than dense each method gives its first token: a row "
      "for every length of --ctx, a column for every size a draft could have, as a share of the "
      "target's layer weights. The draft given has a column of its own, with its own rates; the "
      "others are scaled from the target's: matrices in proportion to the weights, attention with "
      "a power of them. Nothing longer than the measured passes is run, trained contexts are not "
      "looked at, and --json has every rate and assumption.",
      "foretoken breakeven -m target.gguf -d draft.gguf --prompt specpc:keep=2048 --csv",
      FT_CMD_BREAKEVEN, 0, ft_cmd_breakeven },
    { "explain", "", "show what a method throws away",
      "Reads a document, with a question if there is one, once per method and writes it as an HTML "
      "page: every token shaded by its importance and struck out where it was dropped. With a KV "
      "method importance is the share of heads, over all layers, that hold the token's row; with a "
      "prompt method alone it is the score that ranked the token. Every combination of the given "
      "--prompt and --kv methods is a section; with neither, every method that these models can "
      "run, at keep=25%.",
      "foretoken explain -m target.gguf -d draft.gguf -f report.txt -p \"What was decided?\" \\\n"
      "    -o report.html",
      FT_CMD_EXPLAIN, 0, ft_cmd_explain },
    { "eval", "SUITE [DIR] | sweep FILE | compare A B | join OUT FILE...",
      "measure how much a method gets right",
      "Asks a suite of questions and scores the answers, or measures. Suites: ruler, the 13 tasks "
      "of RULER (NVIDIA) and two more, made from a seed at any length in the model's own tokens, "
      "with RULER's templates, begun answers and scoring; needle, one of RULER's needles at every "
      "depth (--depths) of every length; longbench DIR, the English and code datasets of LongBench "
      "whose files (NAME.jsonl) are in DIR, with its prompts, cuts, limits and metrics; ppl and "
      "importance measure, see below. Scores go from 0 to 100 and come with a 95 % "
      "interval. --prompt, --kv and --kv-type may be given several times, --keep is a list: every "
      "combination is run on the same samples, and one whose rows are not stored as usual is "
      "called "
      "by its format too (\"snapkv:keep=64 q4\"). A run that was ended goes on where it was, and a "
      "file that was made with other "
      "settings is refused. Texts, words and questions are made up where no files are given, and "
      "every row says so; scores on those are not RULER's published ones. eval compare A B shows "
      "what "
      "every method in record B gains or loses on the samples of the one in A, with 95 % intervals "
      "of "
      "the paired differences; with --tolerance its exit code says whether that passes; several "
      "records of a side stand on both sides of the word vs. eval sweep reads models, methods and "
      "all other settings from a TOML file whose keys are these options, and writes a record for "
      "each pair of models; options on the command line replace what it says. With --shard I/N, or "
      "in a SLURM array or under mpirun, a part of the samples is run, and eval join makes one "
      "record of the parts. eval ppl "
      "reads chunks of the text of -f, as perplexity does, with the method and dense: negative "
      "log-likelihood of both, KL divergence of dense from the method, and how often the likeliest "
      "token is the same, which is the score; dense stores f16 rows. eval importance, on RULER's "
      "prompts, compares what "
      "the draft holds for important with what the target itself does: correlation, rank "
      "correlation, and how many of the best tokens are the same; --prompt and --kv (several, "
      "without keep) name what is measured, else specpc, speckv and snapkv.",
      "foretoken eval ruler -m target.gguf -d draft.gguf --tasks vt,niah_multivalue --ctx 2048 \\\n"
      "    --kv speckv:keep=512 --haystack book.txt --out ruler.jsonl\n"
      "foretoken eval ruler -m target.gguf -d draft.gguf --kv dense --kv speckv --kv snapkv \\\n"
      "    --keep 64,256 --shard 1/2 --out part.jsonl\n"
      "foretoken eval ruler -m target.gguf --kv dense --kv snapkv --keep 256KiB,1MiB \\\n"
      "    --kv-type f16 --kv-type q4 --kv-type k=q4,v=q2\n"
      "foretoken eval join ruler.jsonl part.shard-1-of-2.jsonl part.shard-2-of-2.jsonl\n"
      "foretoken eval sweep sweep.toml --samples 20\n"
      "foretoken eval needle -m target.gguf --ctx 1024,2048,4096 --out needle.jsonl\n"
      "foretoken eval longbench LongBench/data -m target.gguf --samples 50 --out longbench.jsonl\n"
      "foretoken eval compare dense.jsonl ruler.jsonl --tolerance 2\n"
      "foretoken eval ppl -m target.gguf -f book.txt --ctx 1024 --kv snapkv:keep=128\n"
      "foretoken eval importance -m target.gguf -d draft.gguf --tasks chain --ctx 2048",
      FT_CMD_EVAL, FT_ARG_CAP, ft_cmd_eval },
    { "report", "RESULTS...", "show results of eval as tables and plots",
      "Reads records that eval --out wrote, of one target and seed, and prints a Markdown table "
      "for "
      "each length: a row per method with its mean over tasks, 95 % interval, the scores of the "
      "tasks, and rows, memory and time beside them; --csv and --json have every interval. With -o "
      "the same goes into one HTML page with plots: accuracy, memory and time to the first token "
      "over the rows that stay, accuracy over the bytes they take, and over length. Records of "
      "eval needle also "
      "have a grid of depths and lengths for each method, in the page as a heat map. Records of "
      "eval importance have their own: correlations, overlap over the number of tokens, and the "
      "scores of one prompt as points.",
      "foretoken report ruler.jsonl -o ruler.html", FT_CMD_REPORT, FT_ARG_CAP, ft_cmd_report },
    { "calibrate", "[RECORD...]", "find out what KV rows of a model need, and keep it beside it",
      "With records of eval of this model: keeps what each KV method and format scored, and with what "
      "share of dense bytes, for generate --kv auto:bytes=N. Else reads a text and tries which layers need more bits for tada rows (--kv-type tada: the mean of "
      "a layer's KV heads in f16, each head's deviation from it in 2, 4 or 8 bits): random choices "
      "within the average of --bits, then exchanges between layers of the best one. What counts is "
      "the KL divergence of the dense run on the second half of the text. The result is kept beside "
      "the model with its fingerprint, and --kv-type calibrated uses it.",
      "foretoken calibrate -m model.gguf -f text.txt --bits 3.5\n"
      "foretoken calibrate -m model.gguf formats.jsonl",
      FT_CMD_CALIBRATE, FT_ARG_CAP,
      ft_cmd_calibrate },
    { "score", "", "run a method's scoring on your own arrays",
      "Runs the very code that generate uses, in 32-bit floats, on queries and keys from a JSON "
      "file, and prints scores and selections as JSON. Ties: higher score first, then the lower "
      "index. For --kv: "
      "{\"n_prompt\":n,\"n_lookahead\":L,\"layers\":[{\"q\":[H][n+L][d],\"k\":[G][n+L][d]}]}, "
      "rotated already. For --prompt: {\"n_prompt\":n,\"layers\":[...]} with rows beyond n being "
      "decode steps, or {\"score\":[n]} for selection alone.",
      "foretoken score --arrays arrays.json --kv speckv:keep=5,window=2,kernel=3", FT_CMD_SCORE, 0,
      ft_cmd_score },
    { "help", "[COMMAND]", "show help",
      "foretoken help COMMAND is the same as foretoken COMMAND --help.", "foretoken help generate",
      FT_CMD_HELP, 1, ft_cmd_help },
    { .name = NULL },
};

const struct ft_command *ft_command_find(const char *name) {
    for (const struct ft_command *command = ft_commands; command->name; command++) {
        if (strcmp(command->name, name) == 0) {
            return command;
        }
    }
    return NULL;
}

static int unknown_command(const char *name) {
    char list[256] = "", hint[48] = "";
    uint32_t best = 3;
    for (const struct ft_command *command = ft_commands; command->name; command++) {
        size_t used = strlen(list);
        uint32_t distance = ft_text_distance(command->name, name);
        snprintf(list + used, sizeof list - used, " %s", command->name);
        if (distance < best) {
            best = distance;
            snprintf(hint, sizeof hint, ", did you mean %s?", command->name);
        }
    }
    return ft_complain(FT_EXIT_USAGE, "no command \"%.100s\"%s; there are:%s", name, hint, list);
}

static void log_line(enum ft_log_level level, const char *text, void *user) {
    static const char *const name[] = { "debug", "info", "warning", "error" };
    size_t n = strlen(text);
    (void)user;
    while (n > 0 && text[n - 1] == '\n') {
        n--;
    }
    if (n > 0) {
        ft_note("%s: %.*s", name[level], (int)n, text);
    }
}

static int run_command(const struct ft_command *command, int argc, char *const *argv) {
    struct ft_conf conf;
    if (ft_conf_parse(command->bit, argc, argv, &conf) != FT_OK) {
        return ft_complain(FT_EXIT_USAGE, "%s: %s", command->name, conf.error);
    }
    if (conf.is_help) {
        ft_help_command(command);
        return FT_EXIT_OK;
    }
    if (conf.n_arg > command->arg_max) {
        return ft_complain(
            FT_EXIT_USAGE,
            "%s: unexpected argument \"%.100s\"; usage: foretoken %s %s%s[OPTION...]",
            command->name, conf.arg[command->arg_max], command->name, command->args,
            command->args[0] ? " " : "");
    }
    if (conf.is_verbose) {
        ft_log_set(log_line, NULL);
    }
    return command->run(&conf);
}

int main(int argc, char **argv) {
    ft_ui_start();
    if (argc < 2) {
        fputs("usage: foretoken COMMAND [OPTION...]\n"
              "       foretoken generate -m TARGET -d DRAFT --kv speckv -f FILE -p QUESTION\n"
              "       foretoken help\n",
              stderr);
        return FT_EXIT_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0) {
        ft_out("foretoken %s\n", ft_version());
        return ft_out_end(FT_EXIT_OK);
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        ft_help_overview();
        return ft_out_end(FT_EXIT_OK);
    }
    const struct ft_command *command = ft_command_find(name);
    if (!command) {
        return unknown_command(name);
    }
    return ft_out_end(run_command(command, argc - 2, argv + 2));
}
