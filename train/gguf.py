# SPDX-License-Identifier: Apache-2.0
"""Reads and writes GGUF files, as much as the pair needs.  Reading metadata takes the standard library only."""
import struct

U32, F32, BOOL, STR, ARR, I32 = 4, 6, 7, 8, 9, 5
SCALAR = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TYPES = {"f32": 0, "f16": 1, "q8_0": 8}
ALIGN = 32


class Reader:
    def __init__(self, f):
        self.f = f

    def num(self, fmt):
        return struct.unpack("<" + fmt, self.f.read(struct.calcsize("<" + fmt)))[0]

    def string(self):
        return self.f.read(self.num("Q")).decode("utf8")

    def value(self, t):
        if t == STR:
            return self.string()
        if t == ARR:
            t, n = self.num("I"), self.num("Q")
            return [self.value(t) for _ in range(n)]
        return self.num(SCALAR[t])


def read(path):
    """metadata, and {tensor name: (shape, slowest first; type; offset in the file)}"""
    with open(path, "rb") as f:
        r = Reader(f)
        if f.read(4) != b"GGUF":
            raise SystemExit(path + " is no GGUF file")
        r.num("I")
        nt, nk = r.num("Q"), r.num("Q")
        meta = {}
        for _ in range(nk):
            key = r.string()
            meta[key] = r.value(r.num("I"))
        tensors = {}
        for _ in range(nt):
            name, dims = r.string(), r.num("I")
            shape = [r.num("Q") for _ in range(dims)][::-1]
            tensors[name] = (shape, r.num("I"), r.num("Q"))
        base = -(-f.tell() // ALIGN) * ALIGN
    return meta, {n: (s, t, base + o) for n, (s, t, o) in tensors.items()}


def tensor(path, entry):
    """one tensor of read() as fp32 numpy array"""
    import numpy as np
    shape, t, off = entry
    n = int(np.prod(shape))
    if t == 0:
        return np.fromfile(path, "<f4", n, offset=off).reshape(shape)
    if t == 1:
        return np.fromfile(path, "<f2", n, offset=off).astype(np.float32).reshape(shape)
    if t != 8:
        raise SystemExit("tensor type %d: only f32, f16 and q8_0 are read" % t)
    b = np.fromfile(path, np.uint8, n // 32 * 34, offset=off).reshape(-1, 34)
    return (b[:, :2].copy().view("<f2").astype(np.float32) * b[:, 2:].view(np.int8)).reshape(shape)


def encode(x, kind):
    """array -> (GGUF type, bytes); one-dimensional tensors stay fp32"""
    import numpy as np
    if x.ndim == 1 or kind == "f32":
        return 0, x.astype("<f4").tobytes()
    if kind == "f16":
        return 1, x.astype("<f2").tobytes()
    b = np.ascontiguousarray(x).reshape(-1, 32)
    d = (np.abs(b).max(1, keepdims=True) / 127).astype(np.float32)
    q = np.round(np.divide(b, d, out=np.zeros_like(b), where=d > 0)).astype(np.int8)
    return 8, np.concatenate([d.astype("<f2").view(np.uint8), q.view(np.uint8)], 1).tobytes()


def string(s):
    b = s.encode("utf8")
    return struct.pack("<Q", len(b)) + b


def entry(key, t, val):
    """t: a scalar type, or [type of the elements]"""
    def one(t, v):
        return string(v) if t == STR else struct.pack("<" + SCALAR[t], v)
    if isinstance(t, list):
        return string(key) + struct.pack("<IIQ", ARR, t[0], len(val)) + b"".join(one(t[0], v) for v in val)
    return string(key) + struct.pack("<I", t) + one(t, val)


def write(path, meta, tensors, kind):
    """meta: [(key, type, value)]; tensors: [(name, array)]"""
    info, blobs, off = b"", [], 0
    for name, x in tensors:
        t, b = encode(x, kind)
        info += string(name) + struct.pack("<I", x.ndim) + b"".join(struct.pack("<Q", n) for n in x.shape[::-1])
        info += struct.pack("<IQ", t, off)
        b += bytes(-len(b) % ALIGN)
        blobs.append(b)
        off += len(b)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(meta)) + b"".join(entry(*m) for m in meta) + info
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % ALIGN) + b"".join(blobs))
