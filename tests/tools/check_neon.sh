#!/bin/sh
# The NEON table on an emulated AArch64: every kernel against the references, and the
# stored hash of every public compute function.

cd "$(dirname "$0")/../.." || exit 1
for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
    if ! command -v $tool >/dev/null 2>&1; then
        echo "skip neon: $tool is not installed"
        exit 0
    fi
done
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0
for test in isa/test_isa unit/test_hash; do
    name=$(basename $test)
    if ! aarch64-linux-gnu-gcc -static -std=c99 -O2 -w -I. tests/$test.c \
        -o "$work/$name" -lm -lpthread >"$work/log" 2>&1; then
        head -n 5 "$work/log"
        echo "FAIL neon $name does not build"
        failed=1
        continue
    fi
    timeout 600 qemu-aarch64 "$work/$name" >"$work/log" 2>&1 || failed=1
    grep '^skip' "$work/log" | sed 's/^skip /skip neon /'
    if grep -q '^FAIL' "$work/log" || ! grep -q '^ok' "$work/log"; then
        grep -v '^ok\|^skip' "$work/log" | head -n 10
        echo "FAIL neon $name"
        failed=1
    else
        sed -n 's/^ok /ok neon /p' "$work/log"
    fi
done
exit $failed
