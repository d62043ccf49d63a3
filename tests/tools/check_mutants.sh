#!/bin/sh
# A sample of the mutants of mutants.py, the same ones for the same header. So few say
# little of the score, whose floor `make mutants` has: here half of them is enough.

cd "$(dirname "$0")/../.." || exit 1
for needed in tcc python3; do
    if ! command -v $needed >/dev/null 2>&1; then
        echo "skip mutants: $needed is not installed"
        exit 0
    fi
done
exec python3 tests/tools/mutants.py --number 12 --seed 1 --floor 50 --quick
