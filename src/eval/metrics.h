/* SPDX-License-Identifier: Apache-2.0 */
/* metrics.h - how an answer is cleaned and what it scores: the metrics of LongBench and RULER.
 *
 * Protocol   LongBench (THUDM/LongBench, MIT): F1, ROUGE-L, classes, code
 *            RULER (NVIDIA/RULER, Apache-2.0): all, part
 *            the clean-up of furiosa-ai/draft-based-approx-llm (Apache-2.0) in front of both
 * Departs    ROUGE-L: Python raises RecursionError, and so LongBench scores 0, where the walk back
 *            through two sentences takes about a thousand steps; here they are scored
 *            case and word characters beyond ASCII: see pytext.h
 *            no references: 0, where RULER divides by zero
 *
 * Texts are C strings, normally UTF-8; a score is between 0 and 1.  Functions with a status fail
 * only with FT_NOMEM, and then leave *out alone.
 */
#ifndef FT_EVAL_METRICS_H
#define FT_EVAL_METRICS_H

#include "base/base.h"

struct ft_strings {
    const char *const *text; /* [n] borrowed */
    size_t n;
};

enum ft_metric {
    FT_METRIC_F1,
    FT_METRIC_ROUGE_L,
    FT_METRIC_CLASS,
    FT_METRIC_CODE,
    FT_METRIC_ALL,
    FT_METRIC_PART,
};

/* ---- the answer, in place ---- */

/* ft_answer_clean - what stands behind the last "<think/>", then the last "Answer:", "Summary:",
 * "The final answer is:", "The answer is:", "Next line of code:", stripped of white space. */
void ft_answer_clean(char *answer);

/* ft_answer_printable - RULER, after the above: control characters (below space) become newlines;
 * then strip. */
void ft_answer_printable(char *answer);

/* ft_answer_first_line - the first line after leading newlines: trec, triviaqa and samsum. */
void ft_answer_first_line(char *answer);

/* ---- one reference ---- */

/* ft_metric_f1 - F1 of word multisets: lower case, without ASCII punctuation and a, an, the. */
ft_status ft_metric_f1(const char *answer, const char *truth, double *out);

/* ft_metric_rouge_l - summary-level ROUGE-L with sets, as package `rouge` 1.0.1 computes it.
 *
 * Sentences are the pieces between full stops, but not the empty ones; one of white space alone
 * has one word, the empty one.  With m, n the numbers of distinct words of truth and answer:
 *   u = words in the union, over all pairs of sentences, of one longest common subsequence
 *   r = u/m, p = u/n, score = 2pr / (p + r + 1e-8); without sentences: 0
 * Cost       words of a sentence of the truth times those of a sentence of the answer, in bytes */
ft_status ft_metric_rouge_l(const char *answer, const char *truth, double *out);

/* ft_metric_class - 1/k if truth is among the k classes found in the answer, else 0.
 *
 * Classes that are parts of the truth do not count.  LongBench removes them from the list that it
 * walks along, so the class behind each removed one is never looked at and stays; so it is here,
 * or scores could not be compared with published ones. */
double ft_metric_class(const char *answer, const char *truth, const struct ft_strings *classes);

/* ft_metric_code - likeness of the answer's first line without "`", "#" and "//" to the truth.
 *
 * Two decimals, halves to even: (1 - d/(a+b)), with a, b code points and d the insertions and
 * deletions between them, which is fuzz.ratio of fuzzywuzzy where python-Levenshtein is
 * installed.  Equal: 1, also both empty; one empty: 0. */
ft_status ft_metric_code(const char *answer, const char *truth, double *out);

/* ---- all references ---- */

/* ft_metric_all - the share of references that are in the answer; ft_metric_part - 1 if any is.
 * Case does not count. */
ft_status ft_metric_all(const char *answer, const struct ft_strings *truths, double *out);
ft_status ft_metric_part(const char *answer, const struct ft_strings *truths, double *out);

/* ft_metric_score - any metric; those of one reference give their best over all.
 *   classes  for FT_METRIC_CLASS, else not looked at */
ft_status ft_metric_score(enum ft_metric metric, const char *answer,
                          const struct ft_strings *truths, const struct ft_strings *classes,
                          double *out);

#endif
