#!/usr/bin/env python3
"""Draws build/bench.tsv as build/bench.svg: how much of the machine's limit each workload
reaches, ours beside every peer. Standard library only.

    python3 tests/bench/plot.py [bench.tsv [bench.svg]]
"""
import csv
import sys
from xml.sax.saxutils import escape

OURS = ["#1f6fb2", "#62b0e8", "#9fd0f2"]  # one per instruction-set table
PEERS = ["#d98032", "#b0569c", "#7a9a3a", "#888888"]
BAR, GAP, LABEL, PLOT, VALUE, HEAD = 11, 8, 150, 200, 84, 44
PANEL, COLUMNS, TOP = LABEL + PLOT + VALUE, 3, 70


def number(text):
    """A cell of the file; '-' is None."""
    return None if text == "-" else float(text)


def read(path):
    """The limits as text, and {workload: {shape: {name: (value, of limit, unit)}}}."""
    limits, workloads = [], {}
    with open(path, encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
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
        ours, peer = ("tfblocks " + r["isa"], "ours"), (r["peer"], "peer_value")
        for name, column in (ours, peer):
            value = number(r[column])
            if value and limit:
                shape[name] = (value, value / limit, r["unit"])
    return limits, workloads


def colours(workloads):
    """A colour per contestant: blues are ours."""
    names = []
    for shapes in workloads.values():
        for bars in shapes.values():
            names += [n for n in bars if n not in names]
    ours = [n for n in names if n.startswith("tfblocks")]
    peers = [n for n in names if n not in ours]
    colour = {n: OURS[i % len(OURS)] for i, n in enumerate(ours)}
    colour.update({n: PEERS[i % len(PEERS)] for i, n in enumerate(peers)})
    return colour


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
        at += 50 + 7.2 * len(name)
    body.append(text(at, 22, "bars: share of the limit; cold: data from memory"))
    body.append(text(16, 44, "limits: " + ",  ".join(limits), fill="#444"))
    width, height = 16 + COLUMNS * PANEL, max(ends) + 8
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">',
        rect(0, 0, width, height, "white"), *body, "</svg>", ""])


def main():
    """Reads the one file and writes the other."""
    source = sys.argv[1] if len(sys.argv) > 1 else "build/bench.tsv"
    target = sys.argv[2] if len(sys.argv) > 2 else "build/bench.svg"
    try:
        limits, workloads = read(source)
    except (OSError, KeyError, ValueError) as error:
        sys.exit(f"plot.py: {source}: {error}; run the benchmark first")
    if not workloads:
        sys.exit(f"plot.py: {source} holds no results")
    with open(target, "w", encoding="utf-8") as file:
        file.write(draw(limits, workloads))
    print(target)


if __name__ == "__main__":
    main()
