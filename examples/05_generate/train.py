#!/usr/bin/env python3
"""Train the character-level model of this example on tinyshakespeare.

A Llama-style transformer (rmsnorm, interleaved rope, grouped-query attention,
gated SiLU, embedding shared with the classifier) of 476,416 weights, stored as
float16 in model.bin. It learns from the first nine tenths of the text; the
figure is the mean -log p of the next character over the last tenth, in windows
of 256 that each start from nothing, computed from the stored file.

The defaults took 21 minutes on one core of a 2.5 GHz x86-64 server (torch 1.13
with OpenBLAS) and reached 1.46607 nats per character. The weights kept are
those that did best on every eighth window of the held-out tenth, which was the
last step. Other versions and machines round differently and will not give the
same bytes.

Debian's python3-torch uses whichever BLAS is installed. With the reference one
(libblas3) this runs many times slower: install libopenblas0.
"""
import argparse
import math
import os
import struct
import time
from collections import namedtuple

import numpy as np
import torch
import torch.nn.functional as F

MAGIC = b"tfbchar1"
WEIGHTS_F16 = 1
ALIGN = 64
BATCH = 16           # windows per step
MATRIX_LR = 0.02     # peak learning rates
OTHER_LR = 3e-3
WARMUP = 100         # steps
Config = namedtuple(
    "Config", "dim hidden_dim n_layers n_heads n_kv_heads vocab_size seq_len")


def layout(c):
    """Name and shape of every weight, in file order; matrices are (out, in)."""
    L, kv_dim = c.n_layers, c.dim // c.n_heads * c.n_kv_heads
    return {"token_embedding": (c.vocab_size, c.dim),
            "rms_att": (L, c.dim), "wq": (L, c.dim, c.dim), "wk": (L, kv_dim, c.dim),
            "wv": (L, kv_dim, c.dim), "wo": (L, c.dim, c.dim),
            "rms_ffn": (L, c.dim), "w1": (L, c.hidden_dim, c.dim),
            "w2": (L, c.dim, c.hidden_dim), "w3": (L, c.hidden_dim, c.dim),
            "rms_final": (c.dim,)}


# ---- model.bin --------------------------------------------------------------

def fnv1a(data):
    h = 2166136261
    for byte in data:
        h = (h ^ byte) * 16777619 & 0xFFFFFFFF
    return h


def padded(data):
    return data + bytes(-len(data) % ALIGN)


def save(path, c, chars, w):
    """Write the model as float16, replacing any older file in one step."""
    body = padded(chars) + b"".join(
        w[name].detach().numpy().astype("<f2").tobytes() for name in layout(c))
    head = padded(MAGIC + struct.pack("<8iI", *c, WEIGHTS_F16, fnv1a(body)))
    with open(path + ".tmp", "wb") as f:
        f.write(head + body)
    os.replace(path + ".tmp", path)


def load(path):
    """Read a model back as (config, characters, float32 weights)."""
    with open(path, "rb") as f:
        data = f.read()
    if len(data) < ALIGN or data[:8] != MAGIC:
        raise SystemExit(f"{path}: not a tfbchar1 model")
    *fields, kind, check = struct.unpack_from("<8iI", data, 8)
    c = Config(*fields)
    if kind != WEIGHTS_F16 or check != fnv1a(data[ALIGN:]):
        raise SystemExit(f"{path}: unknown weight type or damaged file")
    chars = data[ALIGN:ALIGN + c.vocab_size]
    pos, w = ALIGN + len(padded(chars)), {}
    for name, shape in layout(c).items():
        n = math.prod(shape)
        a = np.frombuffer(data, "<f2", n, pos).astype(np.float32)
        w[name], pos = torch.from_numpy(a.reshape(shape)), pos + 2 * n
    if pos != len(data):
        raise SystemExit(f"{path}: wrong file size")
    return c, chars, w


# ---- model ------------------------------------------------------------------

def rmsnorm(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight


def rope(x, turn):
    """Rotate the pairs (2i, 2i+1) of x [batch, time, head, head_dim]."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2)


def forward(c, w, tokens):
    """Logits [batch, time, vocab] for token ids [batch, time]."""
    B, T = tokens.shape
    hd, kv, group = c.dim // c.n_heads, c.n_kv_heads, c.n_heads // c.n_kv_heads
    angle = torch.outer(torch.arange(T), 10000.0 ** (-torch.arange(0, hd, 2) / hd))
    turn = torch.polar(torch.ones_like(angle), angle)[:, None]
    # The query heads that share a key/value head are stacked along time.
    mask = torch.full((T, T), -math.inf).triu(1).repeat(group, 1)
    names = "rms_att wq wk wv wo rms_ffn w1 w2 w3".split()
    x = F.embedding(tokens, w["token_embedding"])
    layers = zip(*(w[n].unbind() for n in names))
    for rms_att, wq, wk, wv, wo, rms_ffn, w1, w2, w3 in layers:
        h = rmsnorm(x, rms_att)
        q = rope((h @ wq.T).view(B, T, c.n_heads, hd), turn)
        k = rope((h @ wk.T).view(B, T, kv, hd), turn)
        q = q.transpose(1, 2).reshape(B * kv, group * T, hd)
        k = k.permute(0, 2, 3, 1).reshape(B * kv, hd, T)
        v = (h @ wv.T).view(B, T, kv, hd).transpose(1, 2).reshape(B * kv, T, hd)
        att = torch.baddbmm(mask, q, k, alpha=hd ** -0.5).softmax(-1) @ v
        att = att.view(B, c.n_heads, T, hd).transpose(1, 2).reshape(B, T, c.dim)
        x = x + att @ wo.T
        h = rmsnorm(x, rms_ffn)
        x = x + (F.silu(h @ w1.T) * (h @ w3.T)) @ w2.T
    return rmsnorm(x, w["rms_final"]) @ w["token_embedding"].T


@torch.no_grad()
def evaluate(c, w, ids, start, stride=1):
    """Mean -log p of the next character over windows of ids[start:] (every stride-th)."""
    T = c.seq_len
    first = range(start, len(ids) - T, T * stride)
    total = 0.0
    for i in range(0, len(first), 16):
        batch = torch.stack([ids[s:s + T + 1] for s in first[i:i + 16]])
        logp = forward(c, w, batch[:, :-1]).log_softmax(-1)
        total -= logp.gather(-1, batch[:, 1:, None]).double().sum().item()
    return total / (len(first) * T)


# ---- training ---------------------------------------------------------------

def orthogonal(m):
    """Push the singular values of each matrix towards 1 (Newton-Schulz, as in Muon)."""
    m = m / (m.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        g = m @ m.mT
        m = 3.4445 * m + (2.0315 * g @ g - 4.775 * g) @ m
    return m


class Muon(torch.optim.Optimizer):
    """Momentum SGD whose update of each matrix is made orthogonal.

    For this model it needs far fewer steps than AdamW on the same matrices.
    """

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                mom = self.state[p].setdefault("momentum", torch.zeros_like(p))
                mom.lerp_(p.grad, 0.05)
                update = orthogonal(p.grad.lerp(mom, 0.95))
                scale = max(1, p.shape[-2] / p.shape[-1]) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * scale)


def train(c, chars, ids, start, steps, seed, out):
    """Train on ids[:start]; store the weights that do best on a sample of the rest."""
    torch.manual_seed(seed)
    w = {}
    for name, shape in layout(c).items():
        if name.startswith("rms"):
            w[name] = torch.ones(shape)
        else:
            w[name] = torch.randn(shape) * 0.02
            if name in ("wo", "w2"):
                w[name] /= math.sqrt(2 * c.n_layers)
        w[name].requires_grad_()
    matrices = [v for v in w.values() if v.dim() == 3]
    others = [v for v in w.values() if v.dim() < 3]
    optimizers = [(Muon(matrices, {"lr": 0.0, "weight_decay": 0.1}), MATRIX_LR),
                  (torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.0),
                   OTHER_LR)]
    best, began, window = math.inf, time.time(), torch.arange(c.seq_len + 1)
    for step in range(1, steps + 1):
        schedule = min(step / WARMUP, 0.5 + 0.5 * math.cos(math.pi * step / steps))
        for opt, peak in optimizers:
            opt.param_groups[0]["lr"] = peak * schedule
        # The last target of the last possible window is ids[start - 1].
        batch = ids[torch.randint(start - c.seq_len, (BATCH, 1)) + window]
        logits = forward(c, w, batch[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        for opt, _ in optimizers:
            opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(w.values(), 1.0)
        for opt, _ in optimizers:
            opt.step()
        if step % 100 == 0 or step == steps:
            held_out = evaluate(c, w, ids, start, stride=8)
            if held_out < best:
                best = held_out
                save(out, c, chars, w)
            print(f"step {step}  train {loss.item():.4f}  held out {held_out:.4f}  "
                  f"{time.time() - began:.0f} s", flush=True)


def main():
    p = argparse.ArgumentParser(description="Train or evaluate the character model.")
    p.add_argument("--text", required=True, help="the text; its last tenth is held out")
    p.add_argument("--out", default="model.bin")
    p.add_argument("--steps", type=int, default=2200)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--eval-only", metavar="MODEL", help="only print this file's figure")
    a = p.parse_args()
    torch.set_num_threads(1)
    with open(a.text, "rb") as f:
        text = f.read()
    start = len(text) * 9 // 10
    chars = bytes(sorted(set(text)))
    ids = torch.tensor([chars.index(b) for b in text])
    if not a.eval_only:
        c = Config(128, 176, 4, 4, 2, len(chars), 256)
        train(c, chars, ids, start, a.steps, a.seed, a.out)
    # The figure is that of the stored file, so read it back.
    c, stored_chars, w = load(a.eval_only or a.out)
    if stored_chars != chars:
        raise SystemExit("the model was trained on another set of characters")
    n = sum(v.numel() for v in w.values())
    print(f"{c}: {n} parameters, {evaluate(c, w, ids, start):.5f} nats per character")


if __name__ == "__main__":
    main()
