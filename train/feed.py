# SPDX-License-Identifier: Apache-2.0
"""Batches of the stages, made in the training process or by worker processes.

Workers are forked once, before CUDA is in use, and share the prepared tasks; they touch neither torch nor CUDA.  Each
has a pipe of its own, so neither shared memory nor semaphores are needed; a pipe holds one batch ready.
"""
import multiprocessing
import random
import signal
from multiprocessing.connection import wait

import numpy as np
from data import picked

DENSE = 512             # samples up to this length may have a mix of their own (see plans.py)


class Maker:
    """makes batches of any stage; fixed: of one length, not of that of the longest sample"""

    def __init__(self, tasks, plan, lm_share, fixed):
        self.tasks, self.plan, self.lm_share, self.fixed = tasks, plan, lm_share, fixed

    def seed(self, *seed):
        self.r = random.Random(" ".join(map(str, seed)))
        self.tasks.r = random.Random(self.r.random())
        self.rng = np.random.default_rng(self.r.getrandbits(64))

    def make(self, i, T=None):
        st = self.plan[i]
        T = T or self.r.choices(list(st["lens"]), list(st["lens"].values()))[0]
        mix = st["dense"] if st["dense"] and T <= DENSE else st["mix"]
        batch = self.tasks.batch(max(2, st["batch"] // T), T, mix, self.fixed)
        return T, picked(batch, self.lm_share, self.rng, 1024 if self.fixed else 1)


def work(conn, others, maker, seed):
    """a worker: batches of the stage it was last told, until the pipe closes"""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for c in others:                                    # else a dead parent would go unnoticed
        c.close()
    maker.seed(*seed)
    try:
        i = conn.recv()
        while True:
            while conn.poll():
                i = conn.recv()
            conn.send((i, maker.make(i)))
    except (EOFError, OSError):
        pass


class Feed:
    def __init__(self, maker, workers, seed):
        self.maker, self.conns, self.ready, self.told = maker, [], [], None
        maker.seed(seed)
        context = multiprocessing.get_context("fork")
        for w in range(workers):
            ours, theirs = context.Pipe()
            self.conns.append(ours)
            context.Process(target=work, args=(theirs, list(self.conns), maker, (seed, w)), daemon=True).start()
            theirs.close()

    def tell(self, i):
        self.told = i
        for c in self.conns:
            try:
                c.send(i)
            except OSError:
                pass                                    # get() notices

    def get(self, i, stop):
        """length and batch of stage i; None once stop holds something"""
        if not self.conns:
            return self.maker.make(i)
        if self.told != i:
            self.tell(i)
        while not stop:
            self.ready = self.ready or wait(self.conns, 1)
            if not self.ready:
                continue
            c = self.ready.pop()
            try:
                at, batch = c.recv()
                if at == i:
                    return batch
            except (EOFError, OSError):
                self.conns.remove(c)
                if not self.conns and not stop:
                    raise SystemExit("all workers died")
        return None
