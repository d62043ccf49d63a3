"""Reads slow.txt: (program, "long" or "longest") -> names of its tests."""
import collections
import os


def read():
    tests, at = collections.defaultdict(list), None
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "slow.txt")
    for line in open(path, encoding="utf-8"):
        if line.startswith("#"):
            continue
        if not line.startswith(" "):
            at, line = line.split(":")
            at = tuple(at.split())
        tests[at] += line.split()
    return tests
