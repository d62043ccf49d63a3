#!/usr/bin/env python3
"""Errors of attention in PyTorch's float32 on the CPU against float64.

softmax(q k^T * scale) v is spelled out, for the inputs of test_attention_quality.c.
Prints that test's table. Needs python3-torch; run once, the numbers are pasted."""
import torch

S, D = 256, 64
SEEDS = range(1, 17)
SCALE = 0.125
KINDS = ["random", "large", "equal", "one-hot"]


class Numbers:
    """x = 1664525 x + 1013904223 mod 2^32; the upper 24 bits as -1 to 1, exact."""

    def __init__(self, seed):
        self.x = seed

    def next(self):
        self.x = (1664525 * self.x + 1013904223) % 2**32
        return (self.x >> 8) / 2.0**23 - 1.0

    def rows(self, size):
        return [[size * self.next() for _ in range(D)] for _ in range(S)]


def inputs(kind, seed):
    numbers = Numbers(seed)
    q = numbers.rows(1.0)
    k = numbers.rows(1.0)
    v = numbers.rows(1.0)
    if kind == "large":
        q = [[64.0 * x for x in row] for row in q]
    if kind == "equal":
        k = [k[0] for _ in k]
    if kind == "one-hot":
        q = [[32.0 if i % D == d else 0.0 for d in range(D)] for i in range(S)]
        k = q
    return [torch.tensor(x, dtype=torch.float64).to(torch.float32) for x in (q, k, v)]


def attention(q, k, v, causal):
    s = (q @ k.transpose(0, 1)) * SCALE
    if causal:
        hidden = torch.ones(S, S, dtype=torch.bool).triu(1)
        s = s.masked_fill(hidden, float("-inf"))
    return torch.softmax(s, -1) @ v, s


def main():
    for kind in KINDS:
        for causal in (0, 1):
            largest, squares, top = 0.0, 0.0, 0.0
            for seed in SEEDS:
                q, k, v = inputs(kind, seed)
                truth, s = attention(q.double(), k.double(), v.double(), causal)
                got, _ = attention(q, k, v, causal)
                error = (got.double() - truth).abs()
                largest = max(largest, error.max().item())
                squares += error.pow(2).mean().item()
                top = max(top, s[s.isfinite()].abs().max().item())
            print('    {"%s", %d, %.8e, %.8e}, /* scores up to %.1f */' % (
                kind, causal, largest, (squares / len(SEEDS)) ** 0.5, top))


if __name__ == "__main__":
    main()
