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

SKILLS = {"multi:easy=1": .3, "multi:easy=0": .1, "link:easy=1": .25, "link": .15, "niah:same=0.2": .15, "kv:same=0.3": .05}
DENSE = {"multi": .05, "link": .05, "mv:short=0.7": .25, "vt:short=0.7": .30, "niah:same=0.2": .25, "kv:same=0.3": .05,
         "prose": .05}
ALL = {"mv:short=0.4": .24, "vt:short=0.4": .24, "niah:same=0.1": .40, "kv:same=0.3": .05, "prose": .07}
ASKED = {"mv:short=0.2": .10, "mv:c=2:extra=2:head=1": .05, "mv:c=4:extra=2:head=1": .05, "vt:short=0.2": .10,
         "vt:hops=2:chains=2:head=1": .06, "vt:hops=4:chains=1:head=1": .06, "niah:same=0.1": .25,
         "niah:n=1:m=1:same=0:full=1:head=1": .13, "niah:n=8:m=1:same=0:full=1:head=1": .13, "kv:same=0.3": .03,
         "prose": .04}


def stages(lr, s):
    """the common course after START; s scales the token counts"""
    return [
        stage("skills", 3 * s, {64: .4, 96: .4, 128: .1, 384: .1}, SKILLS, lr, until=.92),
        stage("dense", 6 * s, {128: .4, 192: .3, 256: .3}, DENSE, lr),
        stage("512", 2.5 * s, {128: .15, 256: .35, 512: .5}, ALL, lr),
        stage("1024", 2.5 * s, {256: .2, 512: .3, 1024: .5}, ALL, lr),
        stage("2048", 2.5 * s, {256: .1, 512: .15, 1024: .25, 2048: .5}, ASKED, lr),
        stage("long", 4 * s, {512: .1, 1024: .2, 2048: .3, CONTEXT: .4}, ASKED, lr, decay=True),
    ]


SHAPES = {
    "cpu": {"draft": dict(d=128, layers=3, heads=4, kv_heads=2, head_dim=32, ff=256),
            "target": dict(d=256, layers=4, heads=4, kv_heads=2, head_dim=64, ff=512)},
    "gpu": {"draft": dict(d=256, layers=3, heads=4, kv_heads=2, head_dim=64, ff=768),
            "target": dict(d=512, layers=6, heads=8, kv_heads=2, head_dim=64, ff=1024)},
}
PLANS = {
    "cpu": {"draft": START + stages(1.5e-3, 2), "target": stages(1.2e-3, 1)},
    "gpu": {"draft": START + stages(1.5e-3, 20), "target": stages(8e-4, 20)},
}
BATCH = {"cpu": 6144, "gpu": 65536}     # tokens a step; at least two samples
GROW_AFTER = "question"                  # the target starts as the draft of this stage, made larger
