#!/usr/bin/env python3
"""Times attention in PyTorch on the shapes of build/bench.tsv that one thread ran, or
without that file on a few of them. Prints lines with the columns of that file and writes
them to a second one. One thread; the caller pins the process.

    taskset -c 0 python3 tests/bench/attention_torch.py [bench.tsv [torch.tsv]]
"""
import csv
import os
import statistics
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    sys.exit("attention_torch.py: this python3 has no torch")

COLUMNS = ("workload shape threads isa unit ours limit ours_over_limit peer peer_value "
           "ours_over_peer").split()
SHAPES = [
    ("attention", "1x12x12x197x197x64"),
    ("attention", "1x12x12x1024x1024x64"),
    ("causal", "1x12x12x1024x1024x64"),
    ("attention", "1x12x12x1024x1024x128"),
    ("window", "1x12x12x2448x2448x64"),
    ("decode", "1x32x32x1x4096x128,cold"),
    ("decode", "1x32x8x1x4096x128,cold"),
]
WORKLOADS = ("attention", "causal", "window", "decode")
WINDOW = 256
COLD_BYTES = 1 << 30
SCORE_BYTES = 1 << 30  # more at once would not fit the memory of small machines
BATCHES, SECONDS = 7, 1.0


def sizes_of(shape):
    """B H G T S D of a cell like 1x12x12x64x64x64,cold."""
    return [int(n) for n in shape.split(",")[0].split("x")]


def work_of(workload, shape):
    """Flops or bytes of a call in 1e9, as the benchmark counts them."""
    B, H, G, T, S, D = sizes_of(shape)
    if workload == "decode":
        return 8e-9 * B * G * S * D
    keys = T * S
    if workload == "causal":
        keys /= 2
    if workload == "window":
        keys = sum(min(i, WINDOW) for i in range(S - T + 1, S + 1))
    return 4e-9 * B * H * keys * D


def mask_of(workload, T, S, group):
    """Which keys a row sees, or None: all; the heads of a group lie below each other."""
    if workload == "attention" or T == 1:
        return None
    mask = torch.ones(T, S, dtype=torch.bool).tril(S - T)
    if workload == "window":
        mask = mask.triu(S - T - WINDOW + 1)
    return mask.repeat(group, 1)


def spelled_out(q, k, v, mask):
    """softmax(q k^T) v, with scores in memory."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        scores.masked_fill_(mask, -torch.inf)
    return torch.softmax(scores, -1) @ v


def built_in(q, k, v, mask):
    """PyTorch's own attention; a square causal mask goes by its flag."""
    if isinstance(mask, str):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def caller_of(workload, shape):
    """A function that does one call, on data no cache holds if the shape says so."""
    B, H, G, T, S, D = sizes_of(shape)
    fused = hasattr(F, "scaled_dot_product_attention")
    mask = mask_of(workload, T, S, H // G)
    if fused and workload == "causal" and T == S and G == H:
        mask = "causal"
    elif not fused and mask is not None:
        mask = ~mask
    attend = built_in if fused else spelled_out
    first = (torch.rand(B, G, H // G * T, D), torch.rand(B, G, S, D),
             torch.rand(B, G, S, D))
    copies = 1
    if shape.endswith(",cold"):
        copies += COLD_BYTES // (8 * B * G * S * D)
    data = [first] + [tuple(t.clone() for t in first) for _ in range(copies - 1)]
    by_head = not fused and 4 * B * H * T * S > SCORE_BYTES
    turn = 0

    def call():
        nonlocal turn
        q, k, v = data[turn]
        turn = (turn + 1) % copies
        if not by_head:
            return attend(q, k, v, mask)
        return [attend(q[:, g], k[:, g], v[:, g], mask) for g in range(G)]

    return call


def measure(call):
    """The median of the seconds a call takes."""
    call()
    times = []
    begin = time.perf_counter()
    while len(times) < BATCHES or time.perf_counter() - begin < 0.1:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
        if time.perf_counter() - begin > SECONDS:
            break
    return statistics.median(times)


def rows_of(path):
    """Our results: a row per workload, shape and table, whatever its peer."""
    if not os.path.exists(path):
        blank = {name: "-" for name in COLUMNS}
        return [dict(blank, workload=w, shape=s, threads="1",
                     unit="GB/s" if w == "decode" else "GF/s") for w, s in SHAPES]
    found = {}
    with open(path, encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["workload"] in WORKLOADS and row["threads"] == "1":
                found.setdefault((row["workload"], row["shape"], row["isa"]), row)
    return list(found.values())


def main():
    """A line for each of our results."""
    source = sys.argv[1] if len(sys.argv) > 1 else "build/bench.tsv"
    target = sys.argv[2] if len(sys.argv) > 2 else "build/torch.tsv"
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    print(f"PyTorch {torch.__version__}", file=sys.stderr)
    rates = {}
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    with open(target, "w", encoding="utf-8") as file:
        for out in (file, sys.stdout):
            print(*COLUMNS, sep="\t", file=out)
        for row in rows_of(source):
            key = row["workload"], row["shape"]
            if key not in rates:
                rates[key] = work_of(*key) / measure(caller_of(*key))
            row.update(peer="torch", peer_value=f"{rates[key]:.4g}", ours_over_peer="-")
            if row["ours"] != "-":
                row["ours_over_peer"] = f"{float(row['ours']) / rates[key]:.3f}"
            for out in (file, sys.stdout):
                print(*(row[name] for name in COLUMNS), sep="\t", file=out, flush=True)


if __name__ == "__main__":
    main()
