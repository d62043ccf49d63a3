#!/usr/bin/env python3
"""Writes vectors.txt, the reference cases of test_golden.c, in the format of case.h.

    python3 tests/golden/make_vectors.py > tests/golden/vectors.txt

Plain loops over Python's floats (IEEE double); sums by math.fsum, which rounds once. The
inputs are short binary fractions or rounded to float32, so float32 holds them exactly.
"""
import itertools
import math
import struct

STATE = 1
INTEGERS = "pos", "rows", "kv_len"  # names of inputs that are not floats


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
            dtype = "int32" if key in INTEGERS else dtype
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


def plain(dims, base):
    """Radians a position of each pair, and what cosine and sine are multiplied by."""
    return [base ** (-2 * i / dims) for i in range(dims // 2)], 1.0


def yarn(dims, base, factor, length, fast=32.0, slow=1.0):
    """Peng et al. 2023 with the rounded ramp of their code and of transformers."""
    def pair(turns):
        return dims * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(math.floor(pair(fast)), 0), min(math.ceil(pair(slow)), dims - 1)
    freqs = []
    for i, f in enumerate(plain(dims, base)[0]):
        ramp = min(max((i - low) / (high - low), 0), 1)
        freqs.append(f / factor * ramp + f * (1 - ramp))
    return freqs, 0.1 * math.log(factor) + 1


def llama3(dims, base, factor, length, high=4.0, low=1.0):
    """Wavelengths up to length / high stay, those from length / low are stretched."""
    freqs = []
    for f in plain(dims, base)[0]:
        wave = 2 * math.pi / f
        smooth = min(max((length / wave - low) / (high - low), 0), 1)
        freqs.append((1 - smooth) * f / factor + smooth * f)
    return freqs, 1.0


def rotated(row, position, dims, interleaved, base, turned=None):
    freqs, size = turned if turned else plain(dims, base)
    y = list(row)
    for i in range(dims // 2):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + dims // 2)
        c, s = size * math.cos(position * freqs[i]), size * math.sin(position * freqs[i])
        y[a] = row[a] * c - row[b] * s
        y[b] = row[b] * c + row[a] * s
    return y


def axial(row, token, grid, dims, interleaved, base):
    """Each of two halves turns by one coordinate of a token of the grid."""
    n = dims // 2
    y, x = divmod(token, grid[1])
    return (rotated(row[:n], y, n, interleaved, base) +
            rotated(row[n:dims], x, n, interleaved, base) + row[dims:])


def rope(name, d, dims, interleaved, base, scaled=None, **scaling):
    """scaled: yarn or llama3, by name; scaling: its factor, length and so on."""
    positions, x = [0, 1, 7, 1000, 131071], array(1, 5, 2, d)
    turned = {None: plain, "yarn": yarn, "llama3": llama3}[scaled](dims, base, **scaling)
    y = [[[rotated(h, p, dims, interleaved, base, turned) for h in token]
          for token, p in zip(x[0], positions)]]
    attrs = {"interleaved": interleaved, "rotary_dim": dims, "base": base, "pos_scale": 1}
    if scaled:
        attrs["scaling"] = scaled
        attrs.update(scaling)
    write("rope_" + name, "rope", attrs, {"x": x, "pos": positions}, {"y": y})


def rope_linear(d, factor):
    positions, x = [0, 1, 7, 1000, 131071], array(1, 5, 2, d)
    write("rope_linear", "rope",
          {"interleaved": 0, "rotary_dim": d, "base": 1e4, "pos_scale": 1 / factor},
          {"x": x, "pos": positions},
          {"y": [[[rotated(h, p / factor, d, 0, 1e4) for h in token]
                  for token, p in zip(x[0], positions)]]})


def rope_axial(d, dims, grid, interleaved, base):
    x = array(1, grid[0] * grid[1], 2, d)
    write("rope_axial_%d" % interleaved, "rope",
          {"interleaved": interleaved, "rotary_dim": dims, "base": base, "axes": 2,
           "grid": "%d %d" % grid}, {"x": x},
          {"y": [[[axial(h, t, grid, dims, interleaved, base) for h in token]
                  for t, token in enumerate(x[0])]]})


def rope_1234():
    """[1, 2, 3, 4] at position 1, whose result SEMANTICS section 3 spells out."""
    for interleaved in 0, 1:
        x = [1.0, 2.0, 3.0, 4.0]
        write("rope_1234_%d" % interleaved, "rope",
              {"interleaved": interleaved, "rotary_dim": 4, "base": 1e4, "pos_scale": 1},
              {"x": [[[x]]], "pos": [1]}, {"y": [[[rotated(x, 1, 4, interleaved, 1e4)]]]})


# --- Attention. ---
def attend(s, v, sink=-math.inf):
    """One row from its scores; returns the mean value, lse and the weights."""
    top = max(s + [sink])
    if top == -math.inf:
        return [0.0] * len(v[0]), -math.inf, [0.0] * len(s)
    p = [math.exp(z - top) for z in s]
    total = math.fsum(p + [math.exp(sink - top)])
    y = [math.fsum(w * row[d] for w, row in zip(p, v)) / total for d in range(len(v[0]))]
    return y, top + math.log(total), [w / total for w in p]


def grouped(rows, b, h):
    """A list of all rows as [b][h][rows of a head]."""
    t = len(rows) // (b * h)
    return [[rows[(i * h + j) * t:(i * h + j + 1) * t] for j in range(h)]
            for i in range(b)]


def visible(o, j, p):
    """Does the query at p see key j?"""
    if o["causal"] and j > p:
        return False
    if j < o.get("pinned", 0):
        return True
    if o.get("window_left", -1) >= 0 and j < p - o["window_left"]:
        return False
    return o.get("window_right", -1) < 0 or j <= p + o["window_right"]


def scores(o, x, bi, hi, i, q, k):
    """The scores of a row: scale, softcap, bias, ALiBi, what is hidden -inf."""
    p, s = i + o["offset"], []
    for j, key in enumerate(k):
        z = dot(q, key) * (1 / math.sqrt(len(q)))
        if o.get("softcap"):
            z = o["softcap"] * math.tanh(z / o["softcap"])
        if "bias" in x:
            z += x["bias"][bi][hi][i][j]
        if "slopes" in x:
            z -= x["slopes"][hi] * abs(p - j)
        seen = visible(o, j, p) and (not "mask" in x or x["mask"][i][j])
        seen = seen and (not "kv_len" in x or j < x["kv_len"][bi])
        s.append(z if seen else -math.inf)
    return s


def unit(row):
    root = math.sqrt(math.fsum(z * z for z in row))
    return [z / root for z in row]


def prepared(o, rows, first):
    """L2 norm and 2-D rope of the rows of a head, if asked for; row 0 is at `first`."""
    if "qk_norm" not in o:
        return rows
    grid = tuple(map(int, o["grid"].split()))
    return [axial(unit(row), first + i, grid, len(row), o["interleaved"], o["base"])
            for i, row in enumerate(rows)]


def attention(name, b, h, g, t, s, d, dv, causal=0, offset=0, window=0, extra=None,
              rows=None, **more):
    """more: attributes, as `visible`, `scores` and `prepared` have them. extra: draws
    further inputs. rows: the weights of these are given too."""
    x = {"q": array(b, h, t, d), "k": array(b, g, s, d), "v": array(b, g, s, dv)}
    o = {"causal": causal, "offset": offset, "window_left": window - 1}
    o.update(more)
    if extra:
        x.update(extra())
    y, lse, weights = [], [], []
    for bi in range(b):
        for hi in range(h):
            q = prepared(o, x["q"][bi][hi], offset)
            k, v = prepared(o, x["k"][bi][hi * g // h], 0), x["v"][bi][hi * g // h]
            sink = x["sinks"][hi] if "sinks" in x else -math.inf
            for i in range(t):
                row = attend(scores(o, x, bi, hi, i, q[i], k), v, sink)
                y.append(row[0])
                lse.append(row[1])
                if rows and i in rows:
                    weights.append(row[2])
    outputs = {"y": grouped(y, b, h), "lse": grouped(lse, b, h)}
    if rows:
        x["rows"] = rows
        outputs["w"] = grouped(weights, b, h)
    write("attention_" + name, "attention", o, x, outputs)


def hidden(z):
    """Some numbers are -inf."""
    return z if z > -1 else -math.inf


def merge(n, b, h, t, dv):
    """n states of the same rows; the second is that of no key, for one row of all."""
    ys, lses = array(n, b, h, t, dv), array(n, b, h, t)
    lses[1][0][0] = [-math.inf] * t
    for state in lses:
        state[0][1][0] = -math.inf
    y, lse = [], []
    for bi in range(b):
        for hi in range(h):
            for i in range(t):
                v, m = [z[bi][hi][i] for z in ys], [z[bi][hi][i] for z in lses]
                row = attend(m, v)
                y.append(row[0])
                lse.append(row[1])
    write("merge_%d" % n, "merge", {}, {"ys": ys, "lses": lses},
          {"y": grouped(y, b, h), "lse": grouped(lse, b, h)})


def quarter(w):
    return [[v / 4 for v in row] for row in w]


def rms(row, weight, eps):
    root = math.sqrt(math.fsum(z * z for z in row) / len(row) + eps)
    return [z / root * w for z, w in zip(row, weight)]


def layer(x, n, h, g, d, o, first=0, interleaved=0, base=1e4):
    """Self-attention of the samples in x: what the outputs are. o: as `visible`."""
    y, keys, values = [], [], []
    for sample in x["x"]:
        qkv = project(sample, x["wqkv"], x.get("bqkv"))

        def heads(at, count, weight, turn):
            rows = [[row[(at + i) * d:(at + i + 1) * d] for i in range(count)]
                    for row in qkv]
            if turn and weight in x:
                rows = [[rms(z, x[weight], 1e-5) for z in row] for row in rows]
            return [[rotated(z, first + p, d, interleaved, base) for z in row]
                    for p, row in enumerate(rows)] if turn else rows

        q, k, v = heads(0, h, "qnw", 1), heads(h, g, "knw", 1), heads(h + g, g, "", 0)
        rows = [[z for j in range(h)
                 for z in attend(scores(o, {}, 0, j, i, q[i][j],
                                        [t[j * g // h] for t in k]),
                                 [t[j * g // h] for t in v])[0]] for i in range(n)]
        y.append(project(rows, x["wo"], x.get("bo")))
        keys.append(k)
        values.append(v)
    return {"y": y, "k": keys, "v": values}


def decode(n, h, g, d, pieces):
    """Self-attention with rope; in pieces through a cache it must be the same."""
    c = h * d
    x = {"x": array(1, n, c), "wqkv": quarter(array((h + 2 * g) * d, c)),
         "wo": array(c, c)}
    write("decode", "kvdecode",
          {"heads": h, "kv_heads": g, "head_dim": d, "causal": 1, "rope": "half",
           "rope_base": 10000, "chunks": " ".join(map(str, [len(pieces)] + pieces))},
          x, layer(x, n, h, g, d, {"causal": 1, "offset": 0}))


def mha(name, b, n, h, g, d, window, first, normed):
    """Biases, a window of so many keys (0: all), rope from token `first` on; RMS norm
    of q and k."""
    c, rows = h * d, (h + 2 * g) * d
    x = {"x": array(b, n, c), "wqkv": quarter(array(rows, c)), "bqkv": array(rows),
         "wo": array(c, c), "bo": array(c)}
    if normed:
        x.update({"qnw": array(d), "knw": array(d)})
    write("mha_" + name, "mha",
          {"heads": h, "kv_heads": g, "head_dim": d, "causal": 1,
           "window_left": window - 1, "rope": "interleaved", "rope_base": 500,
           "pos0": first, "qk_rms_eps": 1e-5}, x,
          layer(x, n, h, g, d, {"causal": 1, "offset": 0, "window_left": window - 1},
                first, 1, 500))


# --- Convolution and scans: channels first, as their inventors have them, but ssd. ---
def conv(name, b, e, t, k, act, before=False):
    """before: k - 1 inputs of earlier calls."""
    x, w, bias = single(array(b, e, t)), single(array(e, k)), array(e)
    old = single(array(b, e, k - 1)) if before else [[[0.0] * (k - 1)] * e] * b
    rows = [[p + q for p, q in zip(*two)] for two in zip(old, x)]
    y = [[[FUNCTIONS[act](dot(w[i], row[j:j + k]) + bias[i]) for j in range(t)]
          for i, row in enumerate(sample)] for sample in rows]
    inputs, outputs = {"x": x, "w": w, "b": bias}, {"y": y}
    if before:
        inputs["before"] = old
        outputs["last"] = [[row[t:] for row in sample] for sample in rows]
    write("conv1d_" + name, "causal_conv1d", {"act": act}, inputs, outputs)


def long_conv(name, b, c, grid, taps, mode, each=False):
    """mode: causal and circular have their origin at the first tap, same and mixed (the
    first axis circular, the others with zeros) in the centre. each: k per sample."""
    x, skip = single(array(b, c, *grid)), array(c)
    k = single(array(b, c, *taps)) if each else single(array(c, *taps))
    circular = [mode == "circular" or (mode == "mixed" and i == 0)
                for i in range(len(grid))]
    centre = mode in ("same", "mixed")

    def at(t, place):
        for i in place:
            t = t[i]
        return t

    def tap(n, m, size, count, around):
        t = n - m + (count // 2 if centre else 0)
        t = t % size if around else t
        return t if 0 <= t < count else None

    def value(i, j, n):
        terms = [skip[j] * at(x[i][j], n)]
        for m in itertools.product(*map(range, grid)):
            t = [tap(*args) for args in zip(n, m, grid, taps, circular)]
            if None not in t:
                terms.append(at((k[i] if each else k)[j], t) * at(x[i][j], m))
        return math.fsum(terms)

    def grid_of(i, j, n=()):
        if len(n) == len(grid):
            return value(i, j, n)
        return [grid_of(i, j, n + (p,)) for p in range(grid[len(n)])]

    write("long_conv_" + name, "longconv", {"mode": mode, "ndim": len(grid)},
          {"x": x, "k": k, "skip": skip},
          {"y": [[grid_of(i, j) for j in range(c)] for i in range(b)]})


def softplus(x):
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def scanned(h, x, delta, a, b, c):
    """A channel's states h take one more token; returns what is read of them."""
    for k in range(len(h)):
        h[k] = math.exp(delta * a[k]) * h[k] + delta * x * b[k]
    return dot(h, c)


def decays(*shape):
    return negative(array(*shape))


def negative(x):
    return [negative(y) for y in x] if isinstance(x, list) else -abs(x)


def scan(name, bs, e, t, g, n, plus, full):
    """full: with d, z, a bias of delta and states from earlier calls."""
    u, delta, a = single(array(bs, e, t)), single(array(bs, e, t)), decays(e, n)
    b, c = single(array(bs, g, n, t)), single(array(bs, g, n, t))
    d, z, bias, h = array(e), array(bs, e, t), array(e), single(array(bs, e, n))
    inputs = {"u": u, "delta": delta, "A": a, "B": b, "C": c}
    if full:
        inputs.update({"D": d, "z": z, "delta_bias": bias, "h0": h})
    last = [[list(row) if full else [0.0] * n for row in sample] for sample in h]
    y = [[[0.0] * t for _ in range(e)] for _ in range(bs)]
    for s in range(bs):
        for i in range(e):
            at = i // (e // g)
            for j in range(t):
                step = delta[s][i][j] + (bias[i] if full else 0)
                out = scanned(last[s][i], u[s][i][j], softplus(step) if plus else step,
                              a[i], [r[j] for r in b[s][at]], [r[j] for r in c[s][at]])
                if full:
                    gate = z[s][i][j]
                    out = (out + d[i] * u[s][i][j]) * gate * sigmoid(gate)
                y[s][i][j] = out
    write("scan_" + name, "selective_scan", {"softplus": int(plus)}, inputs,
          {"y": y, "h_last": last})


def ssd(name, bs, t, heads, p, g, n):
    x, dt, a = single(array(bs, t, heads, p)), single(array(bs, t, heads)), decays(heads)
    b, c = single(array(bs, t, g, n)), single(array(bs, t, g, n))
    d, last = array(heads), single(array(bs, heads, p, n))
    inputs = {"x": x, "dt": dt, "A": a, "B": b, "C": c, "D": d,
              "h0": [[[list(r) for r in q] for q in s] for s in last]}
    y = [[[[0.0] * p for _ in range(heads)] for _ in range(t)] for _ in range(bs)]
    for s in range(bs):
        for j in range(t):
            for h in range(heads):
                at = h // (heads // g)
                for i in range(p):
                    now = x[s][j][h][i]
                    y[s][j][h][i] = d[h] * now + scanned(
                        last[s][h][i], now, softplus(dt[s][j][h]), [a[h]] * n,
                        b[s][j][at], c[s][j][at])
    write("ssd_" + name, "ssd", {"softplus": 1}, inputs, {"y": y, "h_last": last})


def mamba(name, bs, t, c, e, n, k, r):
    """The block of Mamba: channels last, as SEMANTICS section 5.4 has it."""
    x = {"x": array(bs, t, c), "w_in": quarter(array(2 * e, c)),
         "conv_w": single(array(e, k)), "conv_b": array(e),
         "w_x": quarter(array(r + 2 * n, e)), "w_dt": array(e, r), "b_dt": array(e),
         "A_log": single(array(e, n)), "D": array(e), "w_out": array(c, e)}
    a = [[-math.exp(z) for z in row] for row in x["A_log"]]
    y, last, kept = [], [], []
    for sample in x["x"]:
        h, rows = [[0.0] * n for _ in range(e)], []
        xz = project(sample, x["w_in"], None)
        old = [[0.0] * (k - 1) + [row[i] for row in xz] for i in range(e)]
        for j in range(t):
            u = [dot(x["conv_w"][i], old[i][j:j + k]) + x["conv_b"][i] for i in range(e)]
            u = [z * sigmoid(z) for z in u]
            part = project([u], x["w_x"], None)[0]
            dt = project([part[:r]], x["w_dt"], x["b_dt"])[0]
            out = [scanned(h[i], u[i], softplus(dt[i]), a[i], part[r:r + n], part[r + n:])
                   + x["D"][i] * u[i] for i in range(e)]
            rows.append([o * z * sigmoid(z) for o, z in zip(out, xz[j][e:])])
        y.append(project(rows, x["w_out"], None))
        last.append(h)
        kept.append([row[t:] for row in old])
    write("mamba_" + name, "mamba_block",
          {"d_inner": e, "d_state": n, "dt_rank": r, "d_conv": k}, x,
          {"y": y, "h_last": last, "conv_state": kept})


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
    rope("yarn", 16, 16, 0, 10000, "yarn", factor=4.0, length=64.0, fast=8.0, slow=0.5)
    rope("llama3", 16, 16, 1, 500000, "llama3", factor=8.0, length=8192.0)
    rope_linear(8, 8)
    rope_axial(10, 8, (3, 4), 0, 100)
    rope_axial(8, 8, (3, 4), 1, 10000)
    attention("two_sided_pinned", 1, 2, 1, 5, 80, 4, 3, offset=70, window_left=6,
              window_right=3, pinned=2)
    attention("mask_bias", 2, 2, 2, 3, 7, 4, 3, extra=lambda: {
        "mask": [[float(draw() > -1) for _ in range(7)] for _ in range(3)],
        "bias": [[[[hidden(draw()) for _ in range(7)] for _ in range(3)]
                  for _ in range(2)] for _ in range(2)]})
    attention("softcap_alibi_sinks", 1, 6, 2, 3, 9, 5, 4, causal=1, offset=6, softcap=2,
              rows=[0, 2], extra=lambda: {"slopes": [2.0 ** -i for i in range(1, 7)],
                                          "sinks": array(6)})
    attention("lengths", 2, 2, 1, 3, 9, 4, 3, causal=1, offset=4, rows=[1],
              extra=lambda: {"kv_len": [6, 0]})
    attention("qk_l2_axial", 1, 2, 1, 4, 12, 8, 3, causal=1, offset=8, qk_norm="l2",
              grid="3 4", axes=2, interleaved=0, base=100)
    merge(2, 1, 2, 3, 5)
    merge(3, 2, 2, 2, 3)
    l2norm(3, 21)
    conv("plain", 1, 3, 7, 3, "identity")
    conv("carried", 2, 2, 3, 5, "silu", before=True)
    scan("plain", 1, 3, 6, 1, 2, True, False)
    scan("carried", 2, 4, 5, 2, 3, True, True)
    scan("bare_delta", 1, 2, 4, 1, 3, False, False)
    ssd("groups", 2, 4, 4, 3, 2, 3)
    mha("window_norm", 2, 7, 4, 2, 4, 3, 3, True)
    mha("one_token", 1, 1, 2, 1, 6, 0, 0, False)
    mamba("few_tokens", 2, 2, 5, 6, 3, 4, 2)
    mamba("two_taps", 1, 7, 3, 4, 5, 2, 1)
    long_conv("causal", 2, 2, (9,), (12,), "causal", each=True)
    long_conv("circular_prime", 1, 3, (7,), (7,), "circular")
    long_conv("same", 1, 2, (10,), (19,), "same")
    long_conv("mixed", 1, 2, (6, 5), (5, 3), "mixed")
    long_conv("volume", 1, 1, (3, 4, 5), (3, 2, 5), "circular", each=True)


main()
