# SPDX-License-Identifier: Apache-2.0
"""What is trained: shapes and stages of both models, for a CPU (2 cores) and for one GPU; "more" goes on with the
GPU's pair at longer samples; "mha" is one small model with as many KV heads as query heads.

A stage: name; tok, its length in millions of tokens, or, where training goes by the clock, share, its part of the
time (what a stage saves goes to those after it); batch, tokens a step (at least two samples); lens, {sample length:
share}; mix, {task: share} (the specs of data.Tasks.one); dense, another mix for samples up to feed.DENSE long, where
given; lr, the peak rate; decay, True where the rate falls to 0 over the stage; until, the share of right answers
(running mean) at which the stage ends early.
"""
# longest trained length: a prompt and 256 tokens of answer
CONTEXT = {"cpu": 4352, "gpu": 8448, "more": 16640, "mha": 1024}
MID = CONTEXT["cpu"]


def stage(name, lens, mix, lr=1.5e-3, **more):
    return dict(dict(name=name, lens=lens, mix=mix, lr=lr, batch=6144, share=0., dense=None, decay=False, until=2.),
                **more)


# copying first, then key matching on lists, then needles in the record's own wording, then the question
START = [
    stage("copy-small", {40: 1}, {"copy:small=1": 1}, tok=.8, until=.7),
    stage("copy", {64: 1}, {"copy": .6, "copy:small=1": .4}, tok=.8, until=.5),
    stage("list-1", {64: 1}, {"kv:easy=1": .7, "copy": .3}, tok=.8, until=.6),
    stage("list-2", {96: 1}, {"kv:easy=1": .3, "kv:easy=2": .6, "copy": .1}, tok=.8, until=.7),
    stage("needle", {128: 1}, {"kv:easy=2": .15, "kv:same=1": .4, "niah:same=0.9": .45}, tok=1., until=.75),
    stage("question", {128: .5, 256: .5}, {"kv:same=0.6": .3, "niah:same=0.5": .7}, tok=.6),
]

SKILLS = {"trace:short=0.8": .45, "niah:same=0.2": .40, "kv:same=0.3": .15}
ALL = {"trace:short=0.4": .30, "niah:same=0.1": .57, "kv:same=0.3": .05, "prose": .08}
ASKED = {"trace:short=0.2": .12, "trace:hops=2:chains=2:head=1": .08, "trace:hops=4:chains=2:head=1": .09,
         "niah:same=0.1": .29, "niah:n=1:m=1:same=0:full=1:head=1": .17, "niah:n=8:m=1:same=0:full=1:head=1": .18,
         "kv:same=0.3": .03, "prose": .04}
# many questions a sample: what made the most of few tokens at the end
MANY = {"niah:same=0.1": .50, "niah:n=1:m=1:same=0:full=1:head=1": .12, "niah:n=8:m=1:same=0:full=1:head=1": .18,
        "trace:short=0.2": .08, "trace:hops=2:chains=2:head=1": .04, "trace:hops=4:chains=2:head=1": .04, "prose": .04}
# lists of 16 keys in the question's wording are a skill of their own and fade without samples of them
LISTS = dict({task: .75 * share for task, share in MANY.items()},
             **{"kv:n=16:m=1:same=0": .10, "kv:n=16:same=0": .10, "kv:same=0.3": .05})

# Answers in steps of which each has its cue in what was said: lists of several keys and values, RULER's variable
# tracking.  Short and dense first; then among the older skills, which come back within few samples of their length
ANSWERS = {"mv:bare=0.8:short=0.8": .35, "multi:easy=0.6": .20, "mq:bare=0.5:short=0.6": .15, "vt:bare=0.9": .15,
           "niah:same=0.2": .10, "trace:short=0.5": .05}
# several values of a key in any order, small batches: what was said is left out behind some millions of tokens
VALUES = {"mv:bare=1:short=1": .45, "multi": .40, "mq:bare=0.8:short=1": .05, "niah:same=0.2": .05,
          "trace:short=0.8": .05}
VALUES_AND = {"mv:bare=0.6:short=0.8": .30, "mv:c=4:extra=0:bare=0.5:short=0.6": .12, "multi": .16,
              "mq:bare=0.4:short=0.7": .12, "vt:bare=1": .12, "niah:same=0.2": .08, "trace:short=0.6": .10}
BOTH_DENSE = {"mv:bare=0.5:short=0.7": .22, "mv:c=2:extra=1:bare=0.4": .04, "mv:c=4:extra=0:bare=0.4:short=0.6": .06,
              "multi:easy=0.4": .10, "mq:bare=0.4:short=0.6": .14, "vt:bare=1": .20, "niah:same=0.2": .08,
              "trace:short=0.5": .08, "kv:n=16:m=1:same=0": .06, "kv:n=16:same=0": .04}
BOTH = {"mv:short=0.6": .08, "mv:c=2:extra=1": .05, "mv:c=3:extra=0": .05, "mv:c=4:extra=0": .06, "mq:short=0.5": .08,
        "mq:n=4:m=4:head=1": .10, "vt": .02, "vt:hops=4:example=1:letters=5": .22, "niah:same=0.1": .12,
        "niah:n=4:m=1:same=0:full=1:head=1": .03, "niah:n=8:m=1:same=0:full=1:head=1": .04, "trace:short=0.2": .14,
        "prose": .02}


def cpu(lr, s):
    """the common course after START on a CPU; s scales the token counts"""
    return [
        stage("skills", {96: .3, 128: .3, 192: .3, 512: .1}, SKILLS, lr * 1.3, tok=1.4 * s),
        stage("1024", {128: .15, 256: .25, 512: .3, 1024: .3}, ALL, lr, tok=1.3 * s),
        stage("2048", {256: .15, 512: .15, 1024: .25, 2048: .45}, ASKED, lr, tok=1.3 * s),
        stage("4096", {512: .1, 1024: .15, 2048: .3, MID: .45}, ASKED, lr, tok=1.5 * s),
        stage("long", {512: .2, 1024: .3, 2048: .25, MID: .25}, MANY, lr, tok=1.5 * s, decay=True),
        stage("lists", {256: .4, 512: .15, 1024: .15, 2048: .15, MID: .15}, LISTS, lr / 3, tok=s, decay=True),
        stage("answers", {96: .3, 128: .3, 192: .4}, ANSWERS, lr, batch=3072, tok=1.4 * s),
        stage("values", {96: .4, 128: .3, 192: .3}, VALUES, lr * .8, batch=1536, tok=4. * s),
        stage("values-512", {128: .25, 192: .25, 256: .2, 512: .3}, VALUES_AND, lr * .8, batch=2048, tok=2. * s),
        stage("answers-1024", {128: .2, 192: .3, 256: .2, 512: .2, 1024: .1}, BOTH, lr * .7, batch=4096, tok=.8 * s,
              dense=BOTH_DENSE, decay=True),
        stage("answers-4096", {160: .1, 256: .1, 512: .2, 1024: .2, 2048: .22, MID: .18}, BOTH, lr * .6, batch=4096,
              tok=3.5 * s, dense=BOTH_DENSE, decay=True),
    ]


# One GPU.  Several values and variables of a value: first as bare lists, from where key matching begins (a model that
# knows one value a key only learns them more slowly), then in the questions' wording.
GPU_START = [
    stage("copy-small", {40: 1}, {"copy:small=1": 1}, batch=12288, share=5., until=.7),
    stage("copy", {64: 1}, {"copy": .6, "copy:small=1": .4}, batch=12288, share=6., until=.5),
    stage("list-1", {64: 1}, {"kv:easy=1": .3, "copy": .1, "multi:easy=1": .6}, batch=12288, share=20., until=.9),
    stage("list-2", {96: 1}, {"kv:easy=1": .15, "kv:easy=2": .4, "copy": .05, "multi:easy=1": .4},
          batch=12288, share=6., until=.85),
    stage("needle", {128: 1}, {"kv:easy=2": .1, "kv:same=1": .3, "niah:same=0.9": .35, "multi:easy=1": .25},
          batch=12288, share=6., until=.85),
    stage("question", {128: .5, 256: .5}, {"kv:same=0.6": .2, "niah:same=0.5": .5, "multi:easy=0.5": .3},
          batch=12288, share=5.),
]
BARE_1 = {"multi:easy=1": .35, "mv:bare=1:short=1": .25, "kv:same=0.6": .20, "niah:same=0.5": .20}
BARE_2 = {"multi:easy=0.3": .20, "mv:bare=0.8:short=0.8": .25, "mq:bare=0.8:short=0.8": .10, "vt:bare=1": .20,
          "trace:short=0.9": .10, "kv:same=0.3": .05, "niah:same=0.3": .10}
ASK = {"mv:bare=0.5:short=0.6": .24, "vt:bare=0.7": .18, "mq:bare=0.5:short=0.5": .16, "trace:short=0.7": .10,
       "niah:same=0.2": .14, "kv:same=0.2": .10, "multi": .08}
TEXT = {"mv:short=0.3": .22, "vt:bare=0.1": .16, "mq": .16, "trace:short=0.3": .12, "niah:same=0.1": .26, "prose": .08}
# as they are asked in the end: one question, and many for their richer loss
FINAL = {"niah:same=0.1": .17, "niah:n=1:m=1:same=0:full=1:head=1": .05, "niah:n=8:m=1:same=0:full=1:head=1": .07,
         "mq": .08, "mq:n=4:m=4:head=1": .06, "mv:short=0.2": .11, "mv:c=2:extra=2:head=1": .05,
         "mv:c=4:extra=2:head=1": .05, "mv:c=4:extra=0:head=1": .05, "vt": .08, "vt:hops=4:example=1:letters=5": .10,
         "trace:short=0.2": .05, "trace:hops=2:chains=2:head=1": .02, "trace:hops=4:chains=2:head=1": .03, "prose": .03}
FINAL_DENSE = dict({task: .6 * share for task, share in ASK.items()}, **{
    "kv:n=16:m=1:same=0": .08, "mq:n=4:m=4:head=1": .06, "mv:c=2:extra=2:head=1": .05, "mv:c=4:extra=2:head=1": .09,
    "vt:bare=1:hops=4": .12})


def gpu(lr, bare, shares):
    """the common course on a GPU; bare: shares of the time of the bare lists; shares: of the five other stages"""
    long = CONTEXT["gpu"]
    more = [
        ("skills", {128: .2, 192: .2, 256: .3, 512: .3}, ASK, 24576, {}),
        ("1024", {256: .2, 512: .3, 1024: .5}, TEXT, 32768, dict(dense=ASK)),
        ("4096", {256: .05, 512: .1, 1024: .15, 2048: .3, MID: .4}, TEXT, 49152, dict(dense=ASK)),
        ("8192", {512: .1, 1024: .1, 2048: .2, MID: .3, long: .3}, FINAL, 65536, dict(dense=FINAL_DENSE)),
        ("last", {256: .1, 512: .1, 1024: .1, 2048: .25, MID: .3, long: .15}, FINAL, 65536,
         dict(dense=FINAL_DENSE, decay=True)),
    ]
    return [
        stage("bare-1", {64: .5, 96: .5}, BARE_1, lr, batch=12288, share=bare[0], until=.95),
        stage("bare-2", {96: .3, 128: .3, 192: .4}, BARE_2, lr, batch=16384, share=bare[1], until=.95),
    ] + [stage(name, lens, mix, lr, batch=batch, share=share, **rest)
         for share, (name, lens, mix, batch, rest) in zip(shares, more)]


def longer(lr):
    lens = {512: .1, 1024: .1, 2048: .2, MID: .25, CONTEXT["gpu"]: .2, CONTEXT["more"]: .15}
    return [stage("16384", lens, FINAL, lr, batch=66560, share=1., dense=FINAL_DENSE, decay=True)]


# Multi-head attention, for KV formats that need many KV heads.  The draft has one KV head; the rest of it is that of
# `weak`, attention starts from nothing.  The target has a copy of that head for each query head, which its
# stage may make as different as it likes.  Copying and key matching first, so that rows far back count
WITH_KEYS = {"prose": .7, "niah:same=0.5": .15, "kv:same=0.5": .15}
MHA = [dict(st, batch=2048, tok=st["tok"] / 3) for st in START]
MHA_LENS = {256: .6, 512: .25, CONTEXT["mha"]: .15}

GPU_SHAPES = {"draft": dict(d=256, layers=3, heads=4, kv_heads=2, head_dim=64, ff=768),
              "target": dict(d=512, layers=6, heads=8, kv_heads=2, head_dim=64, ff=1024)}
SHAPES = {
    "cpu": {"draft": dict(d=128, layers=3, heads=4, kv_heads=2, head_dim=32, ff=256),
            "target": dict(d=256, layers=4, heads=4, kv_heads=2, head_dim=64, ff=512)},
    "gpu": GPU_SHAPES, "more": GPU_SHAPES,
    "mha": {"draft": dict(d=128, layers=3, heads=8, kv_heads=1, head_dim=32, ff=256),
            "target": dict(d=128, layers=3, heads=8, kv_heads=8, head_dim=32, ff=256)},
}
PLANS = {
    "cpu": {"draft": START + cpu(1.5e-3, 2.2), "target": cpu(1.2e-3, .9)},
    "gpu": {"draft": GPU_START + gpu(1.5e-3, (14., 16.), (14., 14., 16., 14., 26.)),
            "target": gpu(8e-4, (25., 35.), (45., 45., 65., 55., 95.))},
    "more": {"draft": longer(7e-4), "target": longer(4e-4)},
    "mha": {"draft": MHA + [stage("prose", MHA_LENS, WITH_KEYS, batch=2048, tok=.4)],
            "target": [stage("heads", MHA_LENS, WITH_KEYS, batch=2048, tok=1., decay=True)]},
}
GROW_AFTER = {"cpu": "question", "gpu": "skills", "mha": "prose"}      # the target starts as the draft of this stage, made larger
