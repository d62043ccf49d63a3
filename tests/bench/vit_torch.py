#!/usr/bin/env python3
"""Times ViT-B/16's encoder in PyTorch, beside examples/15_vit on the same shape: its
built-in encoder, and the same network written down by hand. They take turns with ours.
One thread; the caller pins the process, and with it the program.

    taskset -c 0 python3 tests/bench/vit_torch.py build/vit [build/limits.tsv]
"""
import csv
import os
import re
import statistics
import subprocess
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit("vit_torch.py: this python3 has no torch")

LAYERS, N, C, HEADS = 12, 197, 768, 12
FLOPS = LAYERS * (24 * N * C * C + 4 * N * N * C)
ROUNDS, IMAGES = 3, 5


def encoder():
    """The layers of the network, norms first, with random weights."""
    layer = torch.nn.TransformerEncoderLayer(
        C, HEADS, 4 * C, dropout=0.0, activation="gelu", layer_norm_eps=1e-6,
        batch_first=True, norm_first=True)
    return torch.nn.TransformerEncoder(layer, LAYERS).eval()


def attend(q, k, v):
    """PyTorch's own attention if it has one, else scores in memory."""
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v)
    return torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), -1) @ v


def by_hand(network, x):
    """The same network by single calls."""
    for layer in network.layers:
        mha = layer.self_attn
        normed = F.layer_norm(x, (C,), layer.norm1.weight, layer.norm1.bias, 1e-6)
        qkv = F.linear(normed, mha.in_proj_weight, mha.in_proj_bias)
        qkv = qkv.view(1, N, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4)
        mixed = attend(*qkv).transpose(1, 2).reshape(1, N, C)
        x = x + mha.out_proj(mixed)
        normed = F.layer_norm(x, (C,), layer.norm2.weight, layer.norm2.bias, 1e-6)
        x = x + layer.linear2(F.gelu(layer.linear1(normed)))
    return x


def measure(call):
    """The median of the seconds a call takes."""
    times = []
    for _ in range(IMAGES):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ours(program):
    """Seconds an image takes in examples/15_vit, as it says itself."""
    out = subprocess.run([program, "full"], check=True, stdout=subprocess.PIPE,
                         universal_newlines=True).stdout
    return float(re.search(r"([0-9.]+) ms", out).group(1)) / 1e3


def peak(path):
    """The largest fma peak that the benchmark has measured, in GFLOP/s, or 0."""
    if not os.path.exists(path):
        return 0.0
    with open(path, encoding="utf-8") as file:
        return max([float(row["limit"]) for row in csv.DictReader(file, delimiter="\t")
                    if row["workload"] == "limit" and row["shape"] == "fma"], default=0.0)


def main():
    """A line for each of the three."""
    if len(sys.argv) < 2:
        sys.exit("usage: vit_torch.py PROGRAM [LIMITS]")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    network, x = encoder(), torch.rand(1, N, C)
    off = (network(x) - by_hand(network, x)).abs().max().item()
    if not off < 1e-3:
        sys.exit(f"vit_torch.py: both ways of PyTorch differ by {off}")
    players = {
        "tfblocks": lambda: ours(sys.argv[1]),
        "torch": lambda: measure(lambda: network(x)),
        "torch_by_hand": lambda: measure(lambda: by_hand(network, x)),
    }
    times = {name: [] for name in players}
    for _ in range(ROUNDS):
        for name, call in players.items():
            times[name].append(call())
    most = peak(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    print(f"ViT-B/16's encoder, one image, one thread; PyTorch {torch.__version__}")
    print(f"{'':14}{'ms':>8}{'GFLOP/s':>9}{'of peak':>9}{'time / ours':>13}")
    for name, each in times.items():
        seconds = statistics.median(each)
        rate = FLOPS / seconds / 1e9
        share = f"{rate / most:.3f}" if most else "-"
        print(f"{name:14}{1e3 * seconds:8.1f}{rate:9.1f}{share:>9}"
              f"{seconds / statistics.median(times['tfblocks']):13.2f}")


if __name__ == "__main__":
    main()
