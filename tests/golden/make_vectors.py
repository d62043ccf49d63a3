#!/usr/bin/env python3
"""Writes vectors.txt, the reference cases of test_golden.c, in the format of case.h.

    python3 tests/golden/make_vectors.py > tests/golden/vectors.txt

Plain loops over Python's floats (IEEE double); sums by math.fsum, which rounds once. The
inputs are short binary fractions or rounded to float32, so float32 holds them exactly.
"""
import math
import struct

STATE = 1


def draw(steps=32, scale=16):
    """A multiple of 1 / scale in -steps / scale .. steps / scale; the same everywhere."""
    global STATE
    STATE = (STATE * 6364136223846793005 + 1442695040888963407) % 2**64
    return ((STATE >> 33) % (2 * steps + 1) - steps) / scale


def array(*shape):
    """Nested lists of that shape."""
    if len(shape) == 1:
        return [draw() for _ in range(shape[0])]
    return [array(*shape[1:]) for _ in range(shape[0])]


def flat(x):
    return [z for y in x for z in flat(y)] if isinstance(x, list) else [x]


def shape_of(x):
    return [len(x)] + shape_of(x[0]) if isinstance(x, list) else []


def single(x):
    """Every number of x divided by 3 and rounded to float32: with all bits in use."""
    if isinstance(x, list):
        return [single(y) for y in x]
    return struct.unpack("f", struct.pack("f", x / 3))[0]


def write(name, op, attrs, inputs, outputs):
    print("case %s\nop %s" % (name, op))
    for key, value in attrs.items():
        print("attr %s value %s" % (key, value))
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for slot, (key, x) in enumerate(tensors.items()):
            dtype = "float64" if kind == "output" else "float32"
            dtype = "int32" if key == "pos" else dtype
            shape = shape_of(x)
            print(kind, slot, key, dtype, len(shape), *shape, "-")
            line = ""
            for word in map("{:.12g}".format, flat(x)):
                if len(line) + len(word) > 89:
                    print(line)
                    line = ""
                line += (" " if line else "") + word
            print(line)
    print("end")


# --- Functions of one number. ---
def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def gelu_tanh(x):  # (1 + tanh z) / 2 is sigmoid(2 z), which keeps its bits on the left
    return x * sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))


FUNCTIONS = {
    "identity": lambda x: x,
    "relu": lambda x: max(x, 0.0),
    "relu_squared": lambda x: max(x, 0.0) ** 2,
    "gelu_tanh": gelu_tanh,
    "gelu_erf": lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2)),
    "silu": lambda x: x * sigmoid(x),
    "sigmoid": sigmoid,
    "tanh": math.tanh,
    "exp": math.exp,
    "exp2": lambda x: 2.0**x,
    "log": lambda x: math.log(abs(x)),
    "erf": math.erf,
    "softplus": lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))),
    "sin": math.sin,
    "cos": math.cos,
}


def act(name):
    x = [-20, -8.5, -3.25, -1, -0.5, -0.0625, 0.0625, 0.5, 0.75, 1, 2.5, 6, 17.5, 88]
    if name == "log":
        x = [abs(v) for v in x]
    write("act_" + name, "act", {"act": name}, {"x": x},
          {"y": [FUNCTIONS[name](v) for v in x]})


# --- Matmul, linear. ---
def dot(a, b):
    return math.fsum(p * q for p, q in zip(a, b))


def size(a, b):
    return math.fsum(abs(p * q) for p, q in zip(a, b))


def matmul(m, n, k):
    a, b = single(array(m, k)), single(array(k, n))
    columns = [[row[j] for row in b] for j in range(n)]
    write("matmul_%dx%dx%d" % (m, n, k), "matmul", {}, {"a": a, "b": b},
          {"y": [[dot(r, c) for c in columns] for r in a],
           "mag": [[size(r, c) for c in columns] for r in a]})


def project(x, w, b):
    return [[dot(r, v) + (b[j] if b else 0) for j, v in enumerate(w)] for r in x]


def linear(m, n, k, name, with_bias, with_residual):
    fn = FUNCTIONS[name]
    x, w, b, r = array(m, k), array(n, k), array(n), array(m, n)
    if k > 40:  # or every activation is saturated
        x, w = single(x), [[v / 16 for v in row] for row in w]
    inputs = {"x": x, "w": w}
    if with_bias:
        inputs["b"] = b
    if with_residual:
        inputs["resid"] = r
    z = project(x, w, b if with_bias else None)
    y = [[fn(z[i][j]) + with_residual * r[i][j] for j in range(n)] for i in range(m)]
    mag = [[size(x[i], w[j]) + with_bias * abs(b[j]) for j in range(n)] for i in range(m)]
    write("linear_%s_%dx%dx%d" % (name, m, n, k), "linear", {"act": name}, inputs,
          {"y": y, "mag": mag})


def ffn_glu(m, c, h, name):
    x, wg, wu, bg, bu = array(m, c), array(h, c), array(h, c), array(h), array(h)
    wd, bd = array(c, h), array(c)
    gate, up = project(x, wg, bg), project(x, wu, bu)
    hidden = [[FUNCTIONS[name](g) * u for g, u in zip(*rows)] for rows in zip(gate, up)]
    write("ffn_" + name, "ffn_glu", {"act": name},
          {"x": x, "wg": wg, "bg": bg, "wu": wu, "bu": bu, "wd": wd, "bd": bd},
          {"h": hidden, "y": project(hidden, wd, bd)})


# --- Rows. ---
def norm(op, rows, c, offset, with_residual):
    x, w, b = array(rows, c), array(c), array(c)
    x = [[v + offset for v in row] for row in x]
    r, eps = array(rows, c), 1e-5
    s = [[p + q for p, q in zip(*two)] for two in zip(x, r)] if with_residual else x
    y = []
    for row in s:
        mean = math.fsum(row) / c if op == "layernorm" else 0
        root = math.sqrt(math.fsum((v - mean) ** 2 for v in row) / c + eps)
        y.append([(v - mean) / root * w[i] + b[i] for i, v in enumerate(row)])
    inputs, outputs = {"x": x, "w": w, "b": b}, {"y": y}
    if with_residual:
        inputs["resid"] = r
        outputs["s"] = s
    write("%s_%d_%d" % (op, c, offset), op, {"eps": eps}, inputs, outputs)


def l2norm(rows, c):
    x, w, b = single(array(rows, c)), array(c), array(c)
    y = []
    for row in x:
        root = math.sqrt(math.fsum(v * v for v in row))
        y.append([v / root * w[i] + b[i] for i, v in enumerate(row)])
    write("l2norm_%d" % c, "l2norm", {"eps": 1e-12}, {"x": x, "w": w, "b": b}, {"y": y})


def softmax():
    x = array(5, 21)
    x[1] = [50 * v for v in x[1]]
    x[2] = [v - 1000 for v in x[2]]
    x[3][:7] = [-math.inf] * 7
    x[4] = [-math.inf] * 21
    y, sums = [], []
    for row in x:
        top = max(row)
        e = [math.exp(v - top) if v > -math.inf else 0.0 for v in row]
        total = math.fsum(e)
        y.append([v / total if total else 0.0 for v in e])
        sums.append(top + math.log(total) if total else -math.inf)
    write("softmax", "softmax", {}, {"x": x}, {"y": y, "logsumexp": sums})


def rotated(row, position, dims, interleaved, base):
    """base: or a list of radians a position."""
    y = list(row)
    for i in range(dims // 2):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + dims // 2)
        angle = position * (base[i] if isinstance(base, list) else
                            base ** (-2 * i / dims))
        y[a] = row[a] * math.cos(angle) - row[b] * math.sin(angle)
        y[b] = row[b] * math.cos(angle) + row[a] * math.sin(angle)
    return y


def rope(name, d, dims, interleaved, base):
    positions, x = [0, 1, 7, 1000, 131071], array(1, 5, 2, d)
    y = [[[rotated(h, p, dims, interleaved, base) for h in token]
          for token, p in zip(x[0], positions)]]
    write("rope_" + name, "rope",
          {"interleaved": interleaved, "rotary_dim": dims, "base": base, "pos_scale": 1},
          {"x": x, "pos": positions}, {"y": y})


def linear_scaling(f, factor):
    return [v / factor for v in f]


def ntk(dims, base, factor):
    """NTK-aware: the base grows so that the slowest pair turns factor times slower."""
    base *= factor ** (dims / (dims - 2))
    return [base ** (-2 * i / dims) for i in range(dims // 2)]


def yarn(f, base, factor, length, fast=32, slow=1):
    """Peng et al. 2023, section 3.2, with the ramp as its published code has it."""
    dims = 2 * len(f)

    def find(turns):
        return dims * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(math.floor(find(fast)), 0), min(math.ceil(find(slow)), dims - 1)
    high += 0.001 if low == high else 0
    ramp = [min(max((i - low) / (high - low), 0), 1) for i in range(dims // 2)]
    return [v / factor * r + v * (1 - r) for v, r in zip(f, ramp)]


def llama3(f, factor, length, high=4, low=1):
    """Llama 3.1: by wavelength against the context it was trained with."""
    out = []
    for v in f:
        wave = 2 * math.pi / v
        if wave > length / low:
            v = v / factor
        elif wave >= length / high:
            smooth = (length / wave - low) / (high - low)
            v = (1 - smooth) * v / factor + smooth * v
        out.append(v)
    return out


def rope_scaled(name, d, dims, interleaved, base, factor, length, axes=1):
    """The scaling by name, in each of `axes` equal parts of dims."""
    positions = [[0, 3, 5], [1, 0, 77], [900, 31, 2], [7, 1000, 4], [131071, 9, 65535]]
    positions = [p[:axes] for p in positions]
    x, part, size = array(1, 5, 2, d), dims // axes, 1
    f = [base ** (-2 * i / part) for i in range(part // 2)]
    inputs = {"x": x, "pos": positions if axes > 1 else [p[0] for p in positions]}
    kinds = ["plain", "linear", "ntk", "yarn", "llama3"]
    if name == "linear":
        f = linear_scaling(f, factor)
    elif name == "ntk":
        f = ntk(part, base, factor)
    elif name == "yarn":
        f, size = yarn(f, base, factor, length), 0.1 * math.log(factor) + 1
    elif name == "llama3":
        f = llama3(f, factor, length)
    else:
        f = single([abs(draw()) for _ in f])
        inputs["freqs"] = f * axes
    y = []
    for token, at in zip(x[0], positions):
        y.append([])
        for head in token:
            row = list(head)
            for k, p in enumerate(at):
                turned = rotated(head[k * part:(k + 1) * part], p, part, interleaved, f)
                row[k * part:(k + 1) * part] = [size * v for v in turned]
            y[-1].append(row)
    kind = kinds.index(name) if name in kinds else 0
    write("rope_%s_%d" % (name, axes), "rope",
          {"interleaved": interleaved, "rotary_dim": dims, "base": base, "size": size,
           "scaling": kind, "factor": factor, "trained_length": length, "axes": axes},
          inputs, {"y": [y]})


def rope_1234():
    """[1, 2, 3, 4] at position 1, whose result SEMANTICS section 3 spells out."""
    for interleaved in 0, 1:
        x = [1.0, 2.0, 3.0, 4.0]
        write("rope_1234_%d" % interleaved, "rope",
              {"interleaved": interleaved, "rotary_dim": 4, "base": 1e4, "pos_scale": 1},
              {"x": [[[x]]], "pos": [1]}, {"y": [[[rotated(x, 1, 4, interleaved, 1e4)]]]})


# --- Attention. ---
def attend(q, k, v, scale, sees):
    """One row; returns the mean value and log of the sum of exp."""
    s = [dot(q, key) * scale if sees(j) else -math.inf for j, key in enumerate(k)]
    top = max(s)
    if top == -math.inf:
        return [0.0] * len(v[0]), -math.inf
    p = [math.exp(z - top) for z in s]
    total = math.fsum(p)
    y = [math.fsum(w * row[d] for w, row in zip(p, v)) / total for d in range(len(v[0]))]
    return y, top + math.log(total)


def attention(name, b, h, g, t, s, d, dv, causal=0, offset=0, window=0):
    q, k, v = array(b, h, t, d), array(b, g, s, d), array(b, g, s, dv)
    y, lse = [], []
    for bi in range(b):
        for hi in range(h):
            for i in range(t):
                p = i + offset
                row, z = attend(q[bi][hi][i], k[bi][hi * g // h], v[bi][hi * g // h],
                                1 / math.sqrt(d),
                                lambda j: not causal or
                                (j <= p and (not window or j > p - window)))
                y.append(row)
                lse.append(z)

    def grouped(x):
        return [[x[(bi * h + hi) * t:(bi * h + hi + 1) * t] for hi in range(h)]
                for bi in range(b)]

    write("attention_" + name, "attention",
          {"causal": causal, "offset": offset, "window_left": window - 1},
          {"q": q, "k": k, "v": v}, {"y": grouped(y), "lse": grouped(lse)})


def decode(n, h, g, d, pieces):
    """Self-attention with rope; in pieces through a cache it must be the same."""
    c = h * d
    x, w, wo = array(1, n, c), array((h + 2 * g) * d, c), array(c, c)
    w = [[v / 4 for v in row] for row in w]
    qkv = project(x[0], w, None)

    def head(token, i):
        return token[i * d:(i + 1) * d]

    q = [[rotated(head(row, i), p, d, 0, 1e4) for i in range(h)]
         for p, row in enumerate(qkv)]
    k = [[rotated(head(row, h + i), p, d, 0, 1e4) for i in range(g)]
         for p, row in enumerate(qkv)]
    v = [[head(row, h + g + i) for i in range(g)] for row in qkv]
    rows = []
    for i in range(n):
        row = []
        for j in range(h):
            kv = j * g // h
            row += attend(q[i][j], [t[kv] for t in k], [t[kv] for t in v],
                          1 / math.sqrt(d), lambda m: m <= i)[0]
        rows.append(row)
    write("decode", "kvdecode",
          {"heads": h, "kv_heads": g, "head_dim": d, "causal": 1, "rope": "half",
           "rope_base": 10000, "chunks": " ".join(map(str, [len(pieces)] + pieces))},
          {"x": x, "wqkv": w, "wo": wo},
          {"y": [project(rows, wo, None)], "k": [k], "v": [v]})


def main():
    print("# Made by make_vectors.py; read by test_golden.c.")
    for name in FUNCTIONS:
        act(name)
    matmul(3, 5, 7)
    matmul(1, 17, 2)
    linear(1, 2, 270, "identity", True, False)
    linear(3, 17, 5, "gelu_erf", True, True)
    linear(2, 4, 9, "silu", False, True)
    linear(1, 6, 3, "relu", True, False)
    ffn_glu(2, 5, 9, "silu")
    ffn_glu(2, 3, 4, "gelu_tanh")
    norm("rmsnorm", 3, 20, 0, False)
    norm("rmsnorm", 2, 17, 3, True)
    norm("layernorm", 3, 33, 0, False)
    norm("layernorm", 2, 20, 100, True)
    softmax()
    rope("half", 8, 8, 0, 10000)
    rope("interleaved", 8, 8, 1, 500000)
    rope("partial", 10, 6, 0, 10000)
    rope_1234()
    attention("open", 1, 2, 2, 3, 9, 5, 4)
    attention("causal", 2, 2, 2, 4, 4, 3, 3, causal=1)
    attention("gqa", 1, 6, 2, 3, 8, 4, 3, causal=1, offset=5)
    attention("window", 1, 2, 1, 6, 12, 4, 3, causal=1, offset=4, window=3)
    attention("rows_without_a_key", 1, 2, 1, 5, 4, 3, 2, causal=1, offset=-3)
    attention("two_tiles", 1, 2, 1, 2, 70, 3, 2)
    decode(9, 2, 1, 4, [3, 1, 1, 4])
    l2norm(3, 21)
    rope_scaled("linear", 8, 8, 0, 10000, 4, 0)
    rope_scaled("ntk", 10, 8, 1, 10000, 8, 0)
    rope_scaled("yarn", 24, 24, 0, 10000, 16, 4096)
    rope_scaled("yarn", 26, 24, 1, 500, 2.5, 300, axes=2)
    rope_scaled("llama3", 24, 24, 1, 500000, 8, 8192)
    rope_scaled("llama3", 26, 24, 0, 10000, 3, 900, axes=3)
    rope_scaled("given", 8, 8, 0, 10000, 0, 0, axes=2)


main()
