# SPDX-License-Identifier: Apache-2.0
"""Tests of prompts.py and of the tokenizer in the shipped files (standard library only):

  python3 test_prompts.py
"""
import os
import re
import tempfile
import unittest

import gguf
import prompts
from tokenizer import Tokenizer
from wording import HEAD, NOISE, Q_MANY, REC, VT_HEAD, VT_Q, is_held

MODELS = os.path.join(prompts.HERE, "../models")
DRAFT, TARGET = (os.path.join(MODELS, "foretoken-%s-f16.gguf" % m) for m in ("draft", "target"))
TEXT = "".join("The %d whales of chapter %d swam past the ship, and nobody said a word about it. " % (i, 7 * i)
               for i in range(400))


class Prompts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tok = Tokenizer(DRAFT)
        cls.words = prompts.held_out(os.path.join(prompts.HERE, "heldout.txt"))
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as f:
            f.write(TEXT)
            f.flush()
            cls.book = prompts.Book(f.name, cls.tok)

    def make(self, task, tokens=700, n=5, seed=1):
        return prompts.make(self.book, self.tok, self.words, task, tokens, n, seed)

    def test_length(self):
        for task in prompts.TASKS:
            for p in self.make(task):
                self.assertEqual(p["tokens"], 1 + len(self.tok.encode(p["prompt"])))
                self.assertLessEqual(p["tokens"], 700)
                if task != "list16":        # a list has no haystack that would fill the prompt
                    self.assertGreater(p["tokens"], 700 - prompts.LONGEST)

    def test_list_has_a_line_for_every_key(self):
        for p in self.make("list16"):
            pairs = dict(re.findall(r"^(\S+): (\d{7})$", p["prompt"], re.M))
            self.assertEqual(len(pairs), 16)
            asked = re.search(r"The value of (\S+) is$", p["prompt"]).group(1)
            self.assertEqual([pairs[asked]], p["answers"])

    def test_answers_are_in_the_text_once_per_record(self):
        for task in prompts.TASKS:
            for p in self.make(task):
                self.assertEqual(len(p["answers"]), len(set(p["answers"])))
                for a in p["answers"]:
                    self.assertIn(a, p["prompt"])

    def test_chain_leads_to_the_answers(self):
        for p in self.make("chain4"):
            pairs = dict(re.findall(r" VAR (\w+) = (?:VAR )?(\w+)\.", p["prompt"]))
            at = re.search(r"VAR (\w+) =$", p["prompt"]).group(1)
            for a in p["answers"]:
                at = pairs[at]
                self.assertEqual(at, a)

    def test_tracking_is_rulers(self):
        for p in self.make("vt", 1100):
            example, text = p["prompt"].split("\n\n" + VT_HEAD)
            self.assertEqual(len(example.split(", they are: ")[1].split()), 5)
            value = re.search(r"the value (\d{5}), they are: $", text).group(1)
            records = ["VAR %s = %s\n" % (p["answers"][0], value)]
            records += ["VAR %s = VAR %s \n" % pair for pair in zip(p["answers"][1:], p["answers"])]
            self.assertEqual(re.findall(r"VAR [A-Z]{5} = .*\n", text), records)
            self.assertEqual(re.sub(r"VAR [A-Z]{5} = .*\n", "", text).split("\nQuestion")[0],
                             "\n" + "\n".join([NOISE] * text.count(NOISE)))

    def test_same_seed_same_prompts(self):
        self.assertEqual(self.make("multikey4"), self.make("multikey4"))
        self.assertNotEqual(self.make("multikey4"), self.make("multikey4", seed=2))

    def test_too_short_is_refused(self):
        with self.assertRaises(SystemExit):
            self.make("multikey8", tokens=100)

    def test_words_are_held_out(self):
        self.assertEqual(len(self.words), 2)
        for w in sum(self.words, []):
            self.assertTrue(is_held(w))


def literals(name):
    """a C source with adjacent string literals joined, unescaped"""
    with open(os.path.join(prompts.HERE, "../src/eval", name)) as f:
        return re.sub(r'"\s*\n\s*"', "", f.read()).replace("\\n", "\n")


class Wording(unittest.TestCase):
    """what is asked here and by `foretoken eval ruler` is the same"""

    def test_tracking(self):
        source = literals("ruler_vars.c")
        form, prefix = (re.search(r"vt_%s\[\] =\s*\"(.*?)\";" % n, source, re.S).group(1) for n in ("form", "prefix"))
        self.assertEqual(form + prefix, VT_HEAD + "\n{context}" + VT_Q[0] + " {query}" + VT_Q[1] + " {num_v}" +
                         VT_Q[2] + " {query}" + VT_Q[3] + " ")
        self.assertIn('"%s"' % NOISE, literals("ruler_hay.c"))

    def test_needles(self):
        source = literals("ruler_needle.c").replace("{type_needle_v}", "numbers")
        self.assertIn('"%s {key}%s {value}."' % (REC[0][1:], REC[1]), source)
        self.assertIn('"%s{context}\n",' % HEAD, source)
        self.assertIn('"%s {query}%s?",' % (Q_MANY[0][1:], Q_MANY[1].split("?")[0]), source)
        self.assertIn('"%s {query}%s"' % (Q_MANY[1].split("?")[1], Q_MANY[2]), source)


class Files(unittest.TestCase):
    def test_one_tokenizer(self):
        a, b = gguf.read(DRAFT)[0], gguf.read(TARGET)[0]
        for k in a:
            if k.startswith("tokenizer."):
                self.assertEqual(a[k], b[k], k)

    def test_round_trip(self):
        tok = Tokenizer(DRAFT)
        for s in ("Call me Ishmael. Some 1234567 years ago--\nnever mind", " VAR ABC = VAR XYZ.", "caf\u00e9 \u2014"):
            self.assertEqual(tok.decode(tok.encode(s)), s)
        self.assertEqual([tok.tokens[i] for i in tok.encode(" 1234567.")], ["\u0120", "123", "456", "7", "."])


if __name__ == "__main__":
    unittest.main()
