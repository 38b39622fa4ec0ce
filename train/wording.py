# SPDX-License-Identifier: Apache-2.0
"""The wording of the tasks, sentence splitting and the word lists (standard library only).

data.py builds training samples from it token by token, prompts.py builds prompts as text.
"""
import hashlib
import re

HEAD = ("Some special magic numbers are hidden within the following text. Make sure to memorize it. "
        "I will quiz you about the numbers afterwards.\n")
VT_HEAD = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n"
REC = (" One of the special magic numbers for", " is:")
Q_FULL = ("\nWhat is the special magic number for", " mentioned in the provided text?"
          " The special magic number for", " mentioned in the provided text is")
Q_MANY = ("\nWhat are all the special magic numbers for", " mentioned in the provided text?"
          " The special magic numbers for", " mentioned in the provided text are")
VT_Q = ("\nQuestion: Find all variables that are assigned the value", " in the text above."
        " Answer: According to the chain(s) of variable assignment in the text above,",
        " variables are assigned the value", ", they are:")
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
CHAIN_Q = ("\nQuestion: What is the value of the variable", " in the text above?"
           " Answer: According to the chain(s) of variable assignment in the text above, VAR", " =")
TEMPLATES = [HEAD, VT_HEAD, "".join(REC), "".join(Q_FULL), "".join(Q_MANY), "".join(VT_Q), " VAR =",
             "The value of is"]
MADE_UP = "bdfgklmnprstvz", "aeiou", "bdfgklmnprstvz", "aeiou", "bdklmnrst"      # letters of a word that is none
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ASCII = (("\u2018", "'"), ("\u2019", "'"), ("\u201c", '"'), ("\u201d", '"'), ("\u2014", "--"), ("\u2013", "-"),
         ("\u2026", "..."), ("\xa0", " "))


def clean(t):
    """ASCII punctuation and single spaces: one paragraph, as RULER collapses white space too."""
    for a, b in ASCII:
        t = t.replace(a, b)
    return re.sub(r"\s+", " ", t.encode("ascii", "ignore").decode())


def sentences(text):
    """Every sentence starts with the space that separates it from the one before."""
    return [" " + s for s in re.split(r"(?<=[.!?])[\"')]* (?=[A-Z\"'])", clean(text).strip()) if s]


def is_held(word):
    """10 % of the words (by hash) never occur in a key of a training prompt."""
    return hashlib.md5(word.encode()).digest()[0] < 26


def split_words(path, held):
    with open(path) as f:
        return [w for w in f.read().split() if is_held(w) == held]
