#!/usr/bin/env python3
"""Draws what the benchmark wrote, as far as it is there. Standard library only.
build/bench.tsv as build/bench.svg: how much of the machine's limit each workload reaches,
ours beside every peer; build/torch.tsv, if there, adds one more peer to it.
build/sweep.tsv as build/sweep.svg: speed over the size of square products.
Rows of blocks with Hyena inside make build/crossing.svg: where attention falls behind.

    python3 tests/bench/plot.py [bench.tsv or sweep.tsv [the .svg]]
"""
import csv
import math
import os
import statistics
import sys
from xml.sax.saxutils import escape

OURS = ["#1f6fb2", "#62b0e8", "#9fd0f2"]  # one per instruction-set table
PLAIN = ["#4a5a68", "#93a2ae", "#c4ccd3"]  # the same without what is fused
PEERS = ["#d98032", "#b0569c", "#7a9a3a", "#c9a227", "#c0504d", "#e39a97", "#5b4a9c",
         "#888888"]
BAR, GAP, LABEL, PLOT, VALUE, HEAD = 11, 8, 156, 200, 84, 44
PANEL, COLUMNS, TOP = LABEL + PLOT + VALUE, 3, 78


def number(text):
    """A cell of the file; '-' is None."""
    return None if text == "-" else float(text)


def rows_of(path):
    """The lines of a table as dictionaries."""
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def torch_rows(source, rows):
    """What PyTorch did, from the file beside, for the shapes that are there."""
    path = os.path.join(os.path.dirname(source), "torch.tsv")
    shapes = {(r["workload"], r["shape"]) for r in rows}
    found = rows_of(path) if os.path.exists(path) else []
    return [r for r in found if (r["workload"], r["shape"]) in shapes]


def read(rows):
    """The limits as text, and {workload: {shape: {name: (value, of limit, unit)}}}."""
    limits, workloads = [], {}
    results = [r for r in rows if r["workload"] != "limit"]
    tables = {r["isa"] for r in results}
    for r in rows:
        if r["workload"] == "limit":
            isa = "" if r["isa"] == "-" else " " + r["isa"]
            limits.append(f"{r['shape']}{isa} {float(r['limit']):.3g} {r['unit']}")
    for r in results:
        if r["isa"] == "scalar" and tables != {"scalar"}:
            continue  # the reference, not made for speed: its bars would not be seen
        shape = workloads.setdefault(r["workload"], {}).setdefault(r["shape"], {})
        limit = number(r["limit"])
        rival = "plain " + r["isa"] if r["peer"] == "ours_plain" else r["peer"]
        ours, peer = ("tfblocks " + r["isa"], "ours"), (rival, "peer_value")
        for name, column in (ours, peer):
            value = number(r[column])
            if value and limit and name not in shape:
                shape[name] = (value, value / limit, r["unit"])
    return limits, workloads


def colours(workloads):
    """A colour per contestant: blues are ours, greys ours with nothing fused."""
    names = []
    for shapes in workloads.values():
        for bars in shapes.values():
            names += [n for n in bars if n not in names]
    ours = [n for n in names if n.startswith("tfblocks ")]
    plain = [n for n in names if n.startswith("plain ")]
    peers = [n for n in names if n not in ours + plain]
    return {n: shades[i % len(shades)]
            for group, shades in ((ours, OURS), (peers, PEERS), (plain, PLAIN))
            for i, n in enumerate(group)}


def text(x, y, what, **attributes):
    """An SVG text element."""
    extra = "".join(f' {k.replace("_", "-")}="{v}"' for k, v in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}"{extra}>{escape(what)}</text>'


def rect(x, y, width, height, fill):
    """An SVG rectangle."""
    return (f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'fill="{fill}"/>')


def panel_height(shapes):
    """Pixels a workload needs."""
    return HEAD + sum(len(bars) * BAR + GAP for bars in shapes.values()) + 16


def panel(x, y, workload, shapes, colour):
    """The bars of one workload, a group for each shape."""
    out = [text(x, y + 16, workload, font_weight="bold", font_size="14")]
    left, top, bottom = x + LABEL, y + HEAD - 8, y + panel_height(shapes) - 20
    for percent in range(0, 101, 25):
        at = left + PLOT * percent / 100
        out.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom}" '
                   f'stroke="{"#888" if percent == 100 else "#ddd"}"/>')
        out.append(text(at, top - 4, f"{percent}%", text_anchor="middle", fill="#666"))
    at = y + HEAD
    for shape, bars in shapes.items():
        middle = at + len(bars) * BAR / 2 + 4
        out.append(text(left - 6, middle, shape.replace(",", " "), text_anchor="end"))
        for name, (value, share, unit) in bars.items():
            width = PLOT * min(share, 1.06)
            out.append(rect(left, at, max(width, 0.5), BAR - 1, colour[name]))
            out.append(text(left + width + 3, at + BAR - 2, f"{value:.3g} {unit}",
                            font_size="9", fill="#444"))
            at += BAR
        at += GAP
    return out


def draw(limits, workloads):
    """The whole picture: panels in columns, each put into the shortest."""
    colour, body, ends = colours(workloads), [], [TOP] * COLUMNS
    for workload, shapes in workloads.items():
        column = ends.index(min(ends))
        body += panel(16 + column * PANEL, ends[column], workload, shapes, colour)
        ends[column] += panel_height(shapes)
    at = 16
    for name, fill in colour.items():
        body += [rect(at, 12, 12, 12, fill), text(at + 17, 22, name, font_size="13")]
        at += 36 + 6.8 * len(name)
    body.append(text(16, 42, "bars: share of the limit; cold: data from memory"))
    body.append(text(16, 60, "limits: " + ",  ".join(limits), fill="#444"))
    return svg(16 + COLUMNS * PANEL, max(ends) + 8, body)


def svg(width, height, body):
    """The file's text."""
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        rect(0, 0, width, height, "white"), *body, "</svg>", ""])


def read_sweep(rows):
    """The peak in GF/s, and {workload: [(size, GF/s)]} of the square products."""
    lines = {}
    for r in rows:
        if r["M"] == r["K"]:
            lines.setdefault(r["workload"], []).append((int(r["M"]), float(r["gflops"])))
    peaks = [float(r["gflops"]) / float(r["of_peak"]) for r in rows
             if float(r["of_peak"]) > 0.05]
    return statistics.median(peaks or [0]), lines


def draw_sweep(high, lines):
    """A line for each workload over the size, and one for the peak."""
    left, top, width, height = 56, 44, 1000, 420
    sizes = [n for line in lines.values() for n, _ in line]
    last = max(sizes)
    most = 1.05 * max([high] + [rate for line in lines.values() for _, rate in line])

    def place(size, rate):
        return left + width * size / last, top + height * (1 - rate / most)

    def ruler(a, b, stroke):
        (x1, y1), (x2, y2) = a, b
        return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
                f'stroke="{stroke}"/>')

    body = [text(left, 20, "y = A B and y = A W^T, all three sizes n (N at least 16)",
                 font_size="13")]
    for size in range(0, last + 1, 32):
        x, y = place(size, 0)
        body += [ruler((x, y), (x, y + (8 if size % 64 else -height)), "#ddd"),
                 text(x, y + 18, str(size), text_anchor="middle", fill="#666")]
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10 ** 6) if most / s < 12)
    for rate in range(0, int(most) + 1, step):
        x, y = place(0, rate)
        body += [ruler((x, y), (x + width, y), "#ddd"),
                 text(x - 6, y + 4, str(rate), text_anchor="end", fill="#666")]
    body += [ruler(place(0, high), place(last, high), "#222"),
             text(left + 4, place(0, high)[1] - 4, f"peak {high:.3g} GF/s"),
             text(16, top - 8, "GF/s", fill="#666"),
             text(left + width / 2, top + height + 36, "n", text_anchor="middle")]
    at = left + 440
    for (name, line), stroke in zip(lines.items(), [PEERS[0], OURS[1], OURS[0]]):
        points = " ".join("{:.1f},{:.1f}".format(*place(*p)) for p in sorted(line))
        body += [f'<polyline points="{points}" fill="none" stroke="{stroke}" '
                 'stroke-width="1.5"/>',
                 rect(at, 10, 12, 12, stroke), text(at + 17, 20, name, font_size="13")]
        at += 50 + 7.2 * len(name)
    return svg(left + width + 24, top + height + 48, body)


def read_crossing(rows):
    """{mixer: [(tokens, milliseconds)]} of blocks, by the best table."""
    rows = [r for r in rows if r["workload"] == "hyena"]
    lines = {}
    for r in rows:
        tokens = int(r["shape"].replace(",", "x").split("x")[1])
        if r["isa"] == rows[0]["isa"] and r["peer"] == "attention":
            for name, column in (("Hyena", "ours"), ("attention", "peer_value")):
                lines.setdefault(name, []).append((tokens, 1e3 / float(r[column])))
    return {name: sorted(line) for name, line in lines.items()}


def crossing(lines):
    """Tokens from which Hyena is faster, straight lines between in logarithms, or None;
    the fewest there are if it always is."""
    gaps = [(math.log2(n), math.log(slow / fast)) for (n, fast), (_, slow)
            in zip(lines["Hyena"], lines["attention"])]
    if gaps[0][1] >= 0:
        return 2 ** gaps[0][0]
    for (n0, gap0), (n1, gap1) in zip(gaps, gaps[1:]):
        if gap0 < 0 <= gap1:
            return 2 ** (n0 + (n1 - n0) * gap0 / (gap0 - gap1))
    return None


def draw_crossing(lines):
    """Milliseconds of a block over its tokens, both in logarithms."""
    left, top, width, height = 64, 44, 560, 360
    tokens = sorted({n for line in lines.values() for n, _ in line})
    times = [ms for line in lines.values() for _, ms in line]
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    first, last = math.log2(tokens[0]), math.log2(tokens[-1])

    def place(n, ms):
        return (left + width * (math.log2(n) - first) / max(last - first, 1),
                top + height * (high - math.log10(ms)) / max(high - low, 1))

    def ruler(a, b):
        (x1, y1), (x2, y2) = a, b
        return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
                'stroke="#ddd"/>')

    body = [text(left, 20, "a block, Hyena or causal attention inside", font_size="13"),
            text(16, top - 8, "ms", fill="#666"),
            text(left + width / 2, top + height + 36, "tokens", text_anchor="middle")]
    for n in tokens:
        x, y = place(n, 10 ** low)
        body += [ruler((x, y), (x, top)),
                 text(x, y + 18, str(n), text_anchor="middle", fill="#666")]
    for power in range(low, high + 1):
        x, y = place(tokens[0], 10 ** power)
        body += [ruler((x, y), (x + width, y)),
                 text(x - 6, y + 4, f"{10 ** power:g}", text_anchor="end", fill="#666")]
    at = left + 300
    for (name, line), stroke in zip(lines.items(), [OURS[0], PEERS[0]]):
        points = " ".join("{:.1f},{:.1f}".format(*place(*p)) for p in line)
        body += [f'<polyline points="{points}" fill="none" stroke="{stroke}" '
                 'stroke-width="1.5"/>',
                 rect(at, 10, 12, 12, stroke), text(at + 17, 20, name, font_size="13")]
        at += 50 + 7.2 * len(name)
    meet = crossing(lines)
    if meet:
        x, y = place(meet, 10 ** low)
        body += [f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x:.1f}" y2="{top}" '
                 'stroke="#222" stroke-dasharray="4 3"/>',
                 text(x + 5, top + 14, f"Hyena is faster from {meet:.0f} tokens on")]
    return svg(left + width + 24, top + height + 48, body)


def convert(source, target):
    """Reads the one file and writes the other."""
    try:
        rows = rows_of(source)
        if not rows:
            sys.exit(f"plot.py: {source} holds no results")
        if "of_peak" in rows[0]:
            picture = draw_sweep(*read_sweep(rows))
        else:
            picture = draw(*read(rows + torch_rows(source, rows)))
    except (OSError, KeyError, ValueError) as error:
        sys.exit(f"plot.py: {source}: {error}; run the benchmark first")
    write(target, picture)
    lines = {} if "of_peak" in rows[0] else read_crossing(rows)
    if lines:
        write(os.path.join(os.path.dirname(target), "crossing.svg"),
              draw_crossing(lines))


def write(target, picture):
    """Writes a picture and says where."""
    with open(target, "w", encoding="utf-8") as file:
        file.write(picture)
    print(target)


def main():
    """Draws the file that was named, or those that are there."""
    sources = sys.argv[1:2]
    if not sources:
        known = ("build/bench.tsv", "build/sweep.tsv")
        sources = [s for s in known if os.path.exists(s)] or [known[0]]
    for source in sources:
        convert(source, sys.argv[2] if len(sys.argv) > 2 else
                os.path.splitext(source)[0] + ".svg")


if __name__ == "__main__":
    main()
