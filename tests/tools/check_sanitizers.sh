#!/bin/sh
# Races under the thread sanitizer (tests/tools/threads.c), reads of memory nobody wrote
# under the memory sanitizer, sizes of 32 bits, and the AVX2 kernels under valgrind.
# Prints ok / FAIL / skip.

cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0
clang=${CLANG:-clang-14}

result() { # name, exit status; the log
    skips=$(grep '^skip' "$work/log" | sed "s|^skip |skip $1: |")
    [ -z "$skips" ] || echo "$skips"
    if [ "$2" = 0 ] && grep -q '^ok' "$work/log" && ! grep -q '^FAIL' "$work/log"; then
        echo "ok $1: $(grep -c '^ok' "$work/log") tests"
    else
        grep -v '^ok\|^skip' "$work/log" | head -n 20
        echo "FAIL $1"
        failed=1
    fi
}

# Builds and runs one program: name, compiler with flags, source.
check() {
    name=$1
    source=$3
    if ! $2 -std=c99 -g1 -w -I. "$source" -o "$work/prog" -lm -lpthread \
        >"$work/log" 2>&1; then
        grep error "$work/log" | head -n 5
        echo "FAIL $name does not build"
        failed=1
        return
    fi
    timeout 300 "$work/prog" >"$work/log" 2>&1
    result "$name" $?
}

can() { # what the sanitizer is called, compiler, flag
    echo 'int main(void) { return 0; }' >"$work/probe.c"
    "$2" "-fsanitize=$3" "$work/probe.c" -o "$work/probe" >/dev/null 2>&1 &&
        "$work/probe" && return 0
    echo "skip $1: $2 does not have it"
    return 1
}

if can "thread sanitizer" "$clang" thread; then
    for test in tools/threads unit/test_chunks; do
        check "thread sanitizer, $test" "$clang -O1 -DTFB_SCALAR -fsanitize=thread" \
            tests/$test.c
    done
fi

# Columns of a tile behind its last key hold anything until their weight is set to 0.
cat >"$work/ignored" <<'LIST'
fun:tfb__attn_softmax_*
fun:tfb__attn_weigh_*
fun:tfb__attn_max_*
LIST
if can "memory sanitizer" "$clang" memory; then
    check "memory sanitizer, unit/test_ops" "$clang -O1 -DTFB_SCALAR -fsanitize=memory \
        -fsanitize-ignorelist=$work/ignored" tests/unit/test_ops.c
fi

# --- Sizes of 32 bits: what overflows is something else. ---
if ! command -v i686-linux-gnu-gcc >/dev/null 2>&1; then
    echo "skip 32 bits: i686-linux-gnu-gcc is not installed"
elif [ "$(uname -m)" != x86_64 ]; then
    echo "skip 32 bits: i686 programs do not run here"
else
    check "32 bits, unit/test_ops" \
        "i686-linux-gnu-gcc -static -O1 -msse2 -mfpmath=sse -DTFB_SCALAR" \
        tests/unit/test_ops.c
fi

# --- Valgrind: AVX2, which it knows, on inputs of the fuzz targets. ---
if ! command -v valgrind >/dev/null 2>&1; then
    echo "skip valgrind: not installed"
elif ! grep -q avx2 /proc/cpuinfo 2>/dev/null; then
    echo "skip valgrind: no AVX2 here"
elif ! make -s build/cc/test_fuzz >"$work/log" 2>&1; then
    echo "FAIL valgrind: build/cc/test_fuzz does not build"
    failed=1
else
    for target in fuzz_linear fuzz_rows fuzz_attention fuzz_scans; do
        TFB_TEST_ISA=avx2 valgrind -q --error-exitcode=9 build/cc/test_fuzz $target \
            >"$work/log" 2>&1
        result "valgrind, $target" $?
    done
fi
exit $failed
