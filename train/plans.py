# SPDX-License-Identifier: Apache-2.0
"""What is trained: shapes and stages of both models, for a CPU (2 cores) and for one GPU.

A stage: name; tok, its length in millions of tokens; lens, {sample length: share}; mix, {task: share} (the
specs of data.Tasks.one); lr, the peak rate; decay, True where the rate falls to 0 over the stage; until, the
share of right answers (running mean) at which the stage ends early.
"""
CONTEXT = 4352          # longest trained length: a 4096-token prompt and 256 tokens of answer


def stage(name, tok, lens, mix, lr=1.5e-3, **more):
    return dict(dict(name=name, tok=tok, lens=lens, mix=mix, lr=lr, decay=False, until=2.), **more)


# copying first, then key matching on lists, then needles in the record's own wording, then the question
START = [
    stage("copy-small", .8, {40: 1}, {"copy:small=1": 1}, until=.7),
    stage("copy", .8, {64: 1}, {"copy": .6, "copy:small=1": .4}, until=.5),
    stage("list-1", .8, {64: 1}, {"kv:easy=1": .7, "copy": .3}, until=.6),
    stage("list-2", .8, {96: 1}, {"kv:easy=1": .3, "kv:easy=2": .6, "copy": .1}, until=.7),
    stage("needle", 1., {128: 1}, {"kv:easy=2": .15, "kv:same=1": .4, "niah:same=0.9": .45}, until=.75),
    stage("question", .6, {128: .5, 256: .5}, {"kv:same=0.6": .3, "niah:same=0.5": .7}),
]

SKILLS = {"trace:short=0.8": .30, "multi": .15, "mv:short=0.7": .20, "niah:same=0.2": .25, "kv:same=0.3": .10}
ALL = {"trace:short=0.4": .25, "mv:short=0.4": .14, "niah:same=0.1": .48, "kv:same=0.3": .05, "prose": .08}
ASKED = {"trace:short=0.2": .10, "trace:hops=2:chains=2:head=1": .07, "trace:hops=4:chains=2:head=1": .08,
         "mv:short=0.2": .06, "mv:c=2:extra=2:head=1": .03, "mv:c=4:extra=2:head=1": .03, "niah:same=0.1": .24,
         "niah:n=1:m=1:same=0:full=1:head=1": .15, "niah:n=8:m=1:same=0:full=1:head=1": .17, "kv:same=0.3": .03,
         "prose": .04}
# many questions a sample: what made the most of few tokens at the end
MANY = {"niah:same=0.1": .50, "niah:n=1:m=1:same=0:full=1:head=1": .12, "niah:n=8:m=1:same=0:full=1:head=1": .18,
        "trace:short=0.2": .08, "trace:hops=2:chains=2:head=1": .04, "trace:hops=4:chains=2:head=1": .04, "prose": .04}
# lists of 16 keys in the question's wording are a skill of their own and fade without samples of them
LISTS = dict({task: .75 * share for task, share in MANY.items()},
             **{"kv:n=16:m=1:same=0": .10, "kv:n=16:same=0": .10, "kv:same=0.3": .05})


def stages(lr, s):
    """the common course after START; s scales the token counts"""
    return [
        stage("skills", 1.4 * s, {96: .3, 128: .3, 192: .3, 512: .1}, SKILLS, lr * 1.3),
        stage("1024", 1.3 * s, {128: .15, 256: .25, 512: .3, 1024: .3}, ALL, lr),
        stage("2048", 1.3 * s, {256: .15, 512: .15, 1024: .25, 2048: .45}, ASKED, lr),
        stage("4096", 1.5 * s, {512: .1, 1024: .15, 2048: .3, CONTEXT: .45}, ASKED, lr),
        stage("long", 1.5 * s, {512: .2, 1024: .3, 2048: .25, CONTEXT: .25}, MANY, lr, decay=True),
        stage("lists", s, {256: .4, 512: .15, 1024: .15, 2048: .15, CONTEXT: .15}, LISTS, lr / 3, decay=True),
    ]


SHAPES = {
    "cpu": {"draft": dict(d=128, layers=3, heads=4, kv_heads=2, head_dim=32, ff=256),
            "target": dict(d=256, layers=4, heads=4, kv_heads=2, head_dim=64, ff=512)},
    "gpu": {"draft": dict(d=256, layers=3, heads=4, kv_heads=2, head_dim=64, ff=768),
            "target": dict(d=512, layers=6, heads=8, kv_heads=2, head_dim=64, ff=1024)},
}
PLANS = {
    "cpu": {"draft": START + stages(1.5e-3, 2.2), "target": stages(1.2e-3, .9)},
    "gpu": {"draft": START + stages(1.5e-3, 20), "target": stages(8e-4, 20)},
}
BATCH = {"cpu": 6144, "gpu": 65536}     # tokens a step; at least two samples
GROW_AFTER = "question"                  # the target starts as the draft of this stage, made larger
