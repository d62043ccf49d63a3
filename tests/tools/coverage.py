#!/usr/bin/env python3
"""Coverage of tfblocks.h by the test programs, once per instruction-set table.

  python3 tests/tools/coverage.py [table ...]

Each table of this CPU is forced in turn. What counts for it are the functions without
the name of another table; the kernels of a table are functions of their own although
they share their lines. Fails below the floors, and for a line that no test of a table
reaches and that tests/tools/coverage.txt does not explain. Everything goes to
build/cov."""
import concurrent.futures
import glob
import json
import os
import re
import subprocess
import sys

import slow_tests

LINES, BRANCHES = 98.0, 90.0
TABLES = ["scalar", "avx2", "avx512"]
HEADER = "tfblocks.h"
BUILD = "build/cov"
REASONS = "tests/tools/coverage.txt"

# Nothing is optimised and no function is put inside another, so that each keeps
# its own counts: the first macro is what the header asks before it optimises kernels by
# itself, the second takes the force out of its inline functions.
FLAGS = ["-std=c99", "-O0", "-fno-inline", "--coverage", "-D__SANITIZE_ADDRESS__",
         "-Dalways_inline=noinline", "-I."]
# Functions that are templates: all calls give them constants and real builds inline them,
# so that what they ask of those constants is no branch. Their lines count, not those.
TEMPLATES = re.compile(r"^tfb__tile[_ ]")

# Programs whose long tests reach what no other test does.
LONG = ["test_mixer_states", "test_mixers", "test_scan", "test_attention_options",
        "test_kv_save"]
SEEN = re.compile(r"_(%s|sse2|neon)$" % "|".join(TABLES))


def run(command, **more):
    return subprocess.run(command, capture_output=True, text=True, **more)


def build(source, flags, output):
    done = run(["gcc", *FLAGS, *flags, source, "-o", output])
    if done.returncode:
        sys.exit("%s\nFAIL coverage: %s does not build" % (done.stderr, source))


def test(program, table):
    """Runs one program on a table; its counts go to the folder of the table."""
    name, slow = os.path.basename(program), slow_tests.read()
    skip = slow[name, "longest"] + ([] if name in LONG else slow[name, "long"])
    env = dict(os.environ, TFB_TEST_ISA=table, GCOV_PREFIX=os.path.join(BUILD, table),
               GCOV_PREFIX_STRIP="99", TFB_TEST_SKIP=",".join(skip) + ",")
    done = run([program], env=env, stdin=subprocess.DEVNULL)
    if done.returncode:
        print(done.stdout[-2000:] + done.stderr[-2000:])
        print("FAIL coverage: %s fails on %s" % (os.path.basename(program), table))
    return done.returncode == 0


def lacks(table):
    """Says so where this CPU cannot run a table."""
    env = dict(os.environ, TFB_TEST_ISA=table)
    said = run([BUILD + "/test_isa", "table"], env=env).stdout
    if said.startswith("skip"):
        print("skip coverage of" + said[4:].rstrip())
    return said.startswith("skip")


def counts_of(note):
    """(function, line) -> (times run, [times each branch was taken]) of one object."""
    counts = {}
    for text in run(["gcov", "-b", "-j", "-t", note]).stdout.splitlines():
        for source in json.loads(text)["files"]:
            if os.path.basename(source["file"]) != HEADER:
                continue
            for line in source["lines"]:
                key = (line.get("function_name", ""), line["line_number"])
                branches = [b["count"] for b in line["branches"]]
                add(counts, key, (line["count"], branches))
    return counts


def add(counts, key, value):
    times, branches = counts.get(key, (0, []))
    if len(branches) == len(value[1]):
        branches = [a + b for a, b in zip(branches, value[1])]
    elif len(value[1]) > len(branches):
        branches = value[1]
    counts[key] = (times + value[0], branches)


def counts_of_table(table, pool):
    total = {}
    notes = sorted(glob.glob("%s/%s/*.gcda" % (BUILD, table)))
    for counts in pool.map(counts_of, notes):
        for key, value in counts.items():
            seen = SEEN.search(key[0])
            if not seen or seen.group(1) == table:
                add(total, key, value)
    return total


def by_line(counts):
    lines = {}
    for (_, line), (times, _) in counts.items():
        lines[line] = lines.get(line, 0) + times
    return lines


def figures(name, counts):
    lines = by_line(counts)
    branches = [taken for (function, _), (_, some) in counts.items() for taken in some
                if not TEMPLATES.match(function)]
    at_lines = 100.0 * sum(1 for n in lines.values() if n) / len(lines)
    at_branches = 100.0 * sum(1 for n in branches if n) / len(branches)
    good = at_lines >= LINES and at_branches >= BRANCHES
    print("%s coverage of %s: %.2f %% of %d lines, %.2f %% of %d branches"
          % ("ok" if good else "FAIL", name, at_lines, len(lines), at_branches,
             len(branches)))
    return good


def reasons():
    """text of a line -> why it is not reached. A reason begins in column 1."""
    known, why = {}, ""
    for text in open(REASONS, encoding="utf-8"):
        if text.startswith(" "):
            known[text.strip()] = why
        elif text.strip() and not text.startswith("#"):
            why = text.strip()
    return known


def explained(tables):
    """Every line not reached has a reason, every reason has its line."""
    text = [""] + [line.strip() for line in open(HEADER, encoding="utf-8")]
    known = reasons()
    used, good = set(), True
    missing = {}
    for table, counts in tables.items():
        for line, times in by_line(counts).items():
            if times == 0:
                missing.setdefault(line, []).append(table)
    for line in sorted(missing):
        used.add(text[line])
        if text[line] not in known:
            print("%s:%d: not reached on %s: %s"
                  % (HEADER, line, ", ".join(missing[line]), text[line]))
            good = False
    for stale in sorted(set(known) - used):
        print("%s: is reached or gone: %s" % (REASONS, stale))
        good = False
    print("%s coverage: lines not reached are explained (%d)"
          % ("ok" if good else "FAIL", len(missing)))
    return good


def build_all(pool):
    sources = sorted(glob.glob("tests/unit/test_*.c") + glob.glob("tests/isa/test_*.c"))
    tables = os.path.abspath(BUILD + "/tables.o")
    names = [os.path.join(os.path.abspath(BUILD), os.path.basename(s)[:-2])
             for s in sources]
    jobs = [pool.submit(build, "tests/tables.c", ["-c"], tables)]
    jobs += [pool.submit(build, s, ["-c", "-DTFB__TABLES=2"], n + ".o")
             for s, n in zip(sources, names)]
    for job in jobs:
        job.result()
    for job in [pool.submit(run, ["gcc", "--coverage", n + ".o", tables, "-o", n, "-lm",
                                  "-lpthread"]) for n in names]:
        if job.result().returncode:
            sys.exit(job.result().stderr + "FAIL coverage: a program does not link")
    return names


def main():
    if not set(sys.argv[1:]) <= set(TABLES):
        sys.exit(__doc__)
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    run(["rm", "-rf", BUILD])
    os.makedirs(BUILD)
    good, tables = True, {}
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        programs = build_all(pool)
        for table in sys.argv[1:] or TABLES:
            if lacks(table):
                continue
            os.makedirs("%s/%s" % (BUILD, table))
            good &= all(list(pool.map(lambda p: test(p, table), programs)))
            for note in glob.glob(BUILD + "/*.gcno"):
                os.link(note, "%s/%s/%s" % (BUILD, table, os.path.basename(note)))
            tables[table] = counts_of_table(table, pool)
    merged = {}
    for counts in tables.values():
        for (function, line), value in counts.items():
            same = "%s %d" % (SEEN.sub("", function), len(value[1]))
            add(merged, (same, line), value)
    for table, counts in tables.items():
        good &= figures(table, counts)
    good &= figures("all tables together", merged)
    good &= explained(tables)
    sys.exit(not good)


if __name__ == "__main__":
    main()
