#!/bin/sh
# Runs every fuzz target with libFuzzer, starting from its corpus, for SECONDS in all, as
# many at a time as there are processors. Prints "ok fuzz_x: N runs" or what was found,
# which stays in build/fuzz. Arguments: SECONDS (180), then names of targets (all).
# FUZZ_SEED (1) gives other inputs. SECONDS of 0 runs nothing, but makes the corpora anew
# from the inputs in build/fuzz.

cd "$(dirname "$0")/../.." || exit 1
seconds=${1:-180}
[ $# -gt 0 ] && shift
targets=${*:-fuzz_attention fuzz_kv fuzz_mixers fuzz_basics fuzz_linear fuzz_rows
    fuzz_chunks fuzz_scans}
clang=${CLANG:-clang-14}
dir=build/fuzz
longest=120 # bytes of an input that is kept
most=7000   # letters of all of a target

if ! command -v "$clang" >/dev/null 2>&1; then
    echo "skip fuzz: $clang is not installed"
    exit 0
fi
mkdir -p $dir || exit 1
if ! echo 'int LLVMFuzzerTestOneInput(const char *p, long n) { return p && n > 9; }' |
    "$clang" -x c -fsanitize=fuzzer,address - -o $dir/probe >/dev/null 2>&1; then
    echo "skip fuzz: $clang has no libFuzzer"
    exit 0
fi

# The undefined-behaviour sanitizer would make the kernels' tables slow to compile: they
# have the address sanitizer alone. NULL + 0, for tensors without elements, is no finding.
flags="-std=c99 -O1 -g1 -I. -DFUZZING -fno-sanitize-recover=all"
"$clang" $flags -fsanitize=address,fuzzer-no-link -c tests/tables.c \
    -o $dir/tables.o >$dir/log 2>&1 &
"$clang" $flags -DTFB__TABLES=2 -fsanitize=address,undefined,fuzzer-no-link \
    -fno-sanitize=pointer-overflow -c tests/fuzz/test_fuzz.c -o $dir/fuzz.o \
    >>$dir/log 2>&1 &
wait
if ! "$clang" -fsanitize=address,undefined,fuzzer $dir/fuzz.o $dir/tables.o -o $dir/all \
    -lm -lpthread >>$dir/log 2>&1; then
    grep error $dir/log
    echo "FAIL fuzz: does not build"
    exit 1
fi

prepare() { # target: a program of its name, a folder of inputs
    cp $dir/all "$dir/$1.run" && mkdir -p "$dir/${1#fuzz_}" "$dir/bin/$1" || return 1
    mv "$dir/$1.run" "$dir/bin/$1/$1"
    "$dir/bin/$1/$1" unpack "$1" "$dir/${1#fuzz_}"
}

fuzz() { # target, seconds
    prepare "$1" || return 1
    "$dir/bin/$1/$1" -seed="${FUZZ_SEED:-1}" -max_total_time="$2" -max_len=220 \
        -timeout=30 -print_final_stats=1 -artifact_prefix="$dir/$1-" \
        "$dir/${1#fuzz_}" >"$dir/$1.log" 2>&1
    status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: //p' "$dir/$1.log")
    if [ $status = 0 ] && [ -n "$runs" ]; then
        echo "ok $1: $runs runs"
        return 0
    fi
    grep -a 'Error\|ERROR\|tests/.*: \|SUMMARY\|Test unit' "$dir/$1.log" | head -n 6
    echo "FAIL $1 after $runs runs"
    return 1
}

# Of what reaches something new every so many, so that no corpus outgrows the others.
minimise() { # target
    prepare "$1" || return 1
    rm -rf "$dir/$1.min"
    mkdir "$dir/$1.min"
    find "$dir/${1#fuzz_}" -type f -size "+${longest}c" -exec rm {} +
    "$dir/bin/$1/$1" -merge=1 -timeout=30 "$dir/$1.min" "$dir/${1#fuzz_}" \
        >"$dir/$1.log" 2>&1 || return 1
    find "$dir/$1.min" -type f -size +0c -printf '%s %p\n' | sort -n |
        while read -r _ file; do
            od -An -v -tx1 "$file" | tr -d ' \n'
            echo
        done | awk -v most=$most '
            { line[NR - 1] = $0; all += length($0) + 1 }
            END {
                step = all > most ? all / most : 1
                for (i = 0; i < NR; i += step) print line[int(i)]
            }' >"tests/fuzz/$1.txt"
    echo "ok $1: $(wc -l <"tests/fuzz/$1.txt") inputs"
}

count=$(echo "$targets" | wc -w)
lanes=$(nproc 2>/dev/null || echo 1)
each=$((seconds * lanes / count))
[ $each -gt 0 ] || each=1
lane() { # number, of how many
    n=0
    failed=0
    for target in $targets; do
        n=$((n + 1))
        [ $((n % lanes)) = "$1" ] || continue
        if [ "$seconds" = 0 ]; then minimise "$target"; else fuzz "$target" $each; fi ||
            failed=1
    done
    return $failed
}

pids=
i=0
while [ $i -lt "$lanes" ]; do
    lane $i &
    pids="$pids $!"
    i=$((i + 1))
done
failed=0
for pid in $pids; do wait "$pid" || failed=1; done
exit $failed
