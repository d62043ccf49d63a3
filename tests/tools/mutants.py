#!/usr/bin/env python3
"""Mutants: small faults put into tfblocks.h at random, one at a time; tests must notice.

  python3 tests/tools/mutants.py [--number N] [--seed S] [--section n] [--seconds T]
      [--jobs J] [--floor F] [--quick] [--verbose]

A mutant swaps an operator, a constant, a minimum and a maximum, drops a negation or a
statement. It is built by tcc for the scalar table with test after test, those of its
section first, until one fails; none may take twice its usual time. Quick leaves out tests
that take long. What does not compile or compiles to the same bytes is no mutant.
tests/tools/mutants.txt has those that change nothing a caller could see, with reasons;
they are left out. Fails below --floor per cent."""
import argparse
import collections
import concurrent.futures
import hashlib
import os
import queue
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import slow_tests

HEADER = "tfblocks.h"
KNOWN = "tests/tools/mutants.txt"
NO_MUTANT, SURVIVED = ("does not compile", "same bytes"), "survived"
ALL = """test_kv test_kv_errors test_dispatch test_hash test_tensor test_isa
    test_kv_ops test_mixers test_linear test_norms test_scan test_mixer_states
    test_chunks test_kv_save test_elementary test_basics test_attention_views
    test_attention test_long_conv test_ckconv test_hyena test_memory test_kv_decode
    test_generate test_attention_options""".split()

# The tests of each section: names without test_.
OWN = {5: "basics elementary tensor", 6: "basics tensor", 9: "elementary isa",
       10: "elementary hash", 11: "hash isa attention_views attention_options",
       12: "dispatch elementary basics", 13: "tensor", 14: "linear hash",
       15: "norms hash", 16: "hash attention_views attention attention_options",
       17: "kv kv_errors kv_ops kv_save kv_decode", 18: "chunks", 19: "scan hash",
       20: "long_conv hash", 21: "mixers mixer_states ckconv hyena hash"}

KERNELS = """table epilogue pack collect map norm softmax turns rotate merge conv taps
    fft spectrum""".split()
LONG_KERNELS = "attention mm scan".split()

# --- What can be changed: pattern, what stands there instead. ---
SWAPS = [
    (r" <= ", [" < "]), (r" < ", [" <= ", " > "]), (r" >= ", [" > "]),
    (r" > ", [" >= ", " < "]), (r" == ", [" != "]), (r" != ", [" == "]),
    (r" \+ ", [" - "]), (r" - ", [" + "]), (r" \* ", [" / ", " + "]), (r" / ", [" * "]),
    (r" % ", [" / "]), (r" && ", [" || "]), (r" \|\| ", [" && "]), (r" & ", [" | "]),
    (r" \| ", [" & "]), (r" \^ ", [" | "]), (r" << ", [" >> "]), (r" >> ", [" << "]),
    (r" \+= ", [" -= "]), (r" -= ", [" += "]), (r" \*= ", [" /= "]), (r" &= ", [" |= "]),
    (r" \|= ", [" &= "]), (r"\+\+", ["--"]), (r"--", ["++"]), (r"!(?=[\w(])", [""]),
    (r"\bTFB__MIN\b(?=\()", ["TFB__MAX"]), (r"\bTFB__MAX\b(?=\()", ["TFB__MIN"]),
    (r"\bTFB__VADD\b", ["TFB__VSUB"]), (r"\bTFB__VSUB\b", ["TFB__VADD"]),
    (r"\bTFB__VMUL\b", ["TFB__VADD"]), (r"\bbreak;", ["continue;"]),
    (r"\bcontinue;", ["break;"])]
SWAPS = [(re.compile(p), to) for p, to in SWAPS]
INTEGER = re.compile(r"(?<![\w.'])(0x[0-9a-fA-F]+|\d+)([uUlL]*)(?![\w.'])")
FLOAT = re.compile(r"(?<![\w.])((?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?)(f?)(?![\w.])")
STATEMENT = re.compile(r"^ +(?:\w+\(.*\)|[\w.>\[\]*-]+ [-+*|&/]?= .*);$")


def blank(lines):
    """The lines with comments and strings blanked, nothing moved."""
    text = "\n".join(lines)
    hide = re.compile(r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"|' + r"'(?:\\.|[^'\\\n])+'", re.S)
    return hide.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text).split("\n")


def compiled(lines, work):
    """Numbers of the lines that the scalar build has: marks that survive tcc -E."""
    marked = []
    for i, line in enumerate(lines):
        if not (i and lines[i - 1].endswith("\\")):
            marked.append("MARK_%d" % i)
        marked.append(line)
    path = os.path.join(work, "marked.h")
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(marked))
    out = subprocess.run(["tcc", "-E", "-DTFB_SCALAR", "-DTFB_PTHREADS", "-I.",
                          "-DTFBLOCKS_IMPLEMENTATION", "-xc", path],
                         capture_output=True, text=True).stdout
    alive = {int(n) for n in re.findall(r"MARK_(\d+)", out)}
    for i in range(1, len(lines)):
        if lines[i - 1].endswith("\\") and i - 1 in alive:
            alive.add(i)
    return alive


def constants(code):
    for m in INTEGER.finditer(code):
        value = int(m.group(1), 0)
        for other in [value + 1] + ([value - 1] if value else []):
            yield m.start(), m.end(), "%d%s" % (other, m.group(2))
    for m in FLOAT.finditer(code):
        other = "1.0" if float(m.group(1)) == 0 else "(%s * 1.001%s)" % m.groups()
        other = "0.0" if m.group(1) == "1.0" else other
        yield m.start(), m.end(), other + ("" if other[-1] == ")" else m.group(2))


def changes(code, last):
    """(from, to, text) of all changes of a line; last: the code before it."""
    for pattern, instead in SWAPS:
        for m in pattern.finditer(code):
            for text in instead:
                yield m.start(), m.end(), text
    yield from constants(code)
    if STATEMENT.match(code) and re.search(r"[;{}]$", last):
        yield len(code) - len(code.lstrip()), len(code), ";"


def mutants(lines, work):
    """All of them: (section, line, mutated line)."""
    code, alive = blank(lines), compiled(lines, work)
    found, section, last = [], 0, ""
    for i, line in enumerate(lines):
        banner = re.match(r"/\* =+ \[(\d+)\]", line)
        section = int(banner.group(1)) if banner else section
        text = code[i].rstrip()
        macro = re.match(r"#define \w+(?:\([^)]*\))?\s", text)
        if section in OWN and i in alive and (macro or not text.startswith("#")):
            skip = macro.end() if macro else 0
            for start, end, to in changes(text, last):
                if start >= skip:
                    found.append((section, i, line[:start] + to + line[end:]))
        last = text.strip() or last
    return found


def in_random_order(found, lines, seed):
    """By a hash of the texts: a change of the header moves no other mutant."""
    seen, order = collections.Counter(), []
    for m in found:
        text = "%d|%s|%s" % (seed, lines[m[1]], m[2])
        seen[text] += 1
        text = "%s|%d" % (text, seen[text])
        order.append((hashlib.md5(text.encode()).digest(), m))
    return [m for _, m in sorted(order)]


# --- Running tests. ---
class Tests:
    """Builds and runs test programs; each is tried and timed once without a mutant."""

    def __init__(self, work):
        self.work, self.lock = work, threading.Lock()
        self.locks, self.limits, self.slow = {}, {}, slow_tests.read()

    def build(self, name, folder):
        """Compiles a test against the header in folder: its path, or None."""
        source = "tests/%s/%s.c" % ("isa" if name == "test_isa" else "unit", name)
        path = os.path.join(folder, name)
        done = subprocess.run(["tcc", "-DTFB_SCALAR", "-I" + folder, "-I.", source, "-o",
                               path, "-lm", "-lpthread"], capture_output=True)
        return path if done.returncode == 0 else None

    def run(self, program, long, seconds):
        """Whether it passes in that time of the processor, and what it took."""
        name = os.path.basename(program)
        skip = self.slow[name, "longest"] + ([] if long else self.slow[name, "long"])
        command = [program]
        if name == "test_isa":
            command += LONG_KERNELS if long else KERNELS

        def limits():
            resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
            resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, preexec_fn=limits,
            env=dict(os.environ, TFB_TEST_SKIP=",".join(skip) + ","))
        clock = threading.Timer(60 + 10 * seconds, child.kill) # threads that only wait
        clock.start()
        _, child.returncode, used = os.wait4(child.pid, 0)
        clock.cancel()
        return child.returncode == 0, used.ru_utime + used.ru_stime

    def limit(self, name, long):
        """Seconds a test may take: twice what it takes without a mutant, and two."""
        with self.lock:
            lock = self.locks.setdefault(name, threading.Lock())
        with lock:
            if (name, long) not in self.limits:
                program = os.path.join(self.work, name)
                if not os.path.exists(program) and not self.build(name, self.work):
                    raise RuntimeError(name + " does not build")
                passes, seconds = self.run(program, long, 600)
                if not passes:
                    raise RuntimeError(name + " fails without a mutant")
                self.limits[name, long] = 2 + 2 * seconds
        return self.limits[name, long]

    def plain(self, name):
        self.limit(name, False)
        with open(os.path.join(self.work, name), "rb") as f:
            return f.read()


def plan(section, quick):
    """(test, with its long tests) in order."""
    own = ["test_" + n for n in OWN[section].split()]
    return ([(n, False) for n in own] + [(n, False) for n in ALL if n not in own]
            + [(n, True) for n in own if not quick])


def try_one(mutant, lines, tests, folders, quick):
    """One of NO_MUTANT, SURVIVED, or the name of the test that noticed."""
    section, at, text = mutant
    folder = folders.get()
    try:
        with open(os.path.join(folder, HEADER), "w", encoding="utf-8") as f:
            f.write("\n".join(lines[:at] + [text] + lines[at + 1:]))
        for n, (name, long) in enumerate(plan(section, quick)):
            limit = tests.limit(name, long)
            program = os.path.join(folder, name)
            if not long and not tests.build(name, folder):
                return NO_MUTANT[0]
            if n == 0 and open(program, "rb").read() == tests.plain(name):
                return NO_MUTANT[1]
            if not tests.run(program, long, limit)[0]:
                return name
        return SURVIVED
    finally:
        folders.put(folder)


def known_ones():
    """Whether a mutant, (old line, new line), stands in the list."""
    pairs, texts, old = set(), [], ""
    with open(KNOWN, encoding="utf-8") as f:
        for line in f.read().split("\n"):
            if line.startswith("  - "):
                old = line[4:].strip()
            elif line.startswith("  + "):
                pairs.add((old, line[4:].strip()))
            elif line.startswith("  ~ "):
                texts.append(line[4:].strip())
    return lambda was, now: (was, now) in pairs or any(t in was for t in texts)


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--section", type=int, default=0)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--floor", type=float, default=90)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    return parser.parse_args()


def main():
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    if not shutil.which("tcc"):
        print("skip mutants: tcc is not installed")
        return 0
    options = arguments()
    with tempfile.TemporaryDirectory() as work:
        return go(options, work)


def results(found, options, judge):
    """(mutant, result) in the order in which they come, as many as are wanted."""
    waiting, running, number = iter(found), {}, 0
    end = time.monotonic() + options.seconds
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        while number < options.number:
            while len(running) < options.jobs and time.monotonic() < end:
                mutant = next(waiting, None)
                if not mutant:
                    break
                running[pool.submit(judge, mutant)] = mutant
            if not running:
                break
            some = concurrent.futures.wait(running, return_when="FIRST_COMPLETED").done
            for job in some:
                mutant, result = running.pop(job), job.result()
                number += result not in NO_MUTANT
                yield mutant, result


def go(options, work):
    with open(HEADER, encoding="utf-8") as f:
        lines = f.read().split("\n")
    shutil.copy(HEADER, work)
    tests, known, folders = Tests(work), known_ones(), queue.Queue()
    found = mutants(lines, work)
    print("%d mutants are possible" % len(found))
    found = [m for m in found if options.section in (0, m[0])
             and not known(lines[m[1]].strip(), m[2].strip())]
    found = in_random_order(found, lines, options.seed)
    for i in range(options.jobs):
        folders.put(os.path.join(work, "job%d" % i))
        os.mkdir(os.path.join(work, "job%d" % i))
    score, noticed_by = collections.defaultdict(lambda: [0, 0]), collections.Counter()
    for m, result in results(found, options, lambda m: try_one(
            m, lines, tests, folders, options.quick)):
        if result in NO_MUTANT:
            continue
        score[m[0]][0] += result != SURVIVED
        score[m[0]][1] += 1
        noticed_by[result] += 1
        if result == SURVIVED or options.verbose:
            print("%s [%d] %s:%d\n  - %s\n  + %s" % (
                result, m[0], HEADER, m[1] + 1, lines[m[1]].strip(), m[2].strip()),
                flush=True)
    return report(score, noticed_by, options.floor)


def report(score, noticed_by, floor):
    for section in sorted(score):
        print("section %2d: %3d of %3d noticed" % (section, *score[section]))
    print("noticed by " + ", ".join("%s %d" % (name[5:], n) for name, n in
                                    noticed_by.most_common() if name != SURVIVED))
    killed = sum(k for k, _ in score.values())
    number = sum(n for _, n in score.values())
    percent = 100.0 * killed / max(1, number)
    good = percent >= floor
    print("%s mutants: %d of %d noticed, %.1f %%" % ("ok" if good else "FAIL", killed,
                                                     number, percent))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
