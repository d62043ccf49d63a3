#!/bin/sh
# Builds the tests for other machines and runs them in an emulator:
#   sh tests/targets/run.sh            every build of hosted.txt
#   sh tests/targets/run.sh s390x ..   these builds
# Prints "ok <run> <table> <test>: <what>", FAIL likewise, and "skip <run> ..: reason".

cd "$(dirname "$0")/../.." || exit 1
here=tests/targets
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
failed=0
PATH=$PATH:/usr/lib/wine
export WINEPREFIX="${WINEPREFIX:-$PWD/build/wine}" WINEDEBUG=-all
mkdir -p "$WINEPREFIX"
wasi=--experimental-wasi-unstable-preview1 # node 18 asks for it
warnings=$(sed -n '/^WARN *=/,/[^\\]$/{s/^WARN *=//;s/\\$//;p;}' Makefile)

fail() { # what; and the last log
    head -n 20 "$work/log"
    echo "FAIL $1"
    failed=1
}

# Compiles with all warnings: output, flags and files. Words are meant to be split.
compile() {
    case $compiler in
    tcc*) options="-Wall -Werror" ;;
    *) options="$warnings $tables" ;;
    esac
    output=$1
    shift
    # shellcheck disable=SC2086
    $compiler $options -I. "$@" -o "$output" >"$work/log" 2>&1 && [ ! -s "$work/log" ]
}

# Whether the compiler is there and makes programs; if not, one skip line.
usable() {
    if ! command -v "${compiler%% *}" >/dev/null 2>&1; then
        echo "skip $build: ${compiler%% *} is not installed"
        return 1
    fi
    echo 'int main(void) { return 0; }' >"$work/empty.c"
    compile "$work/empty.exe" "$work/empty.c" && return 0
    echo "skip $build: $compiler makes no programs here"
    return 1
}

# The vector tables are compiled once for all tests; tcc has none.
build_tables() {
    tables=
    case $compiler in tcc*) return 0 ;; esac
    compile "$work/tables.o" -O2 -c tests/tables.c || return 1
    tables="-DTFB__TABLES=2 -DTFB_STATIC"
}

source_of() {
    for dir in unit isa golden; do
        [ -f "tests/$dir/test_$1.c" ] && echo "tests/$dir/test_$1.c"
    done
    case $1 in
    unsupported) echo tests/compile/prog.c ;;
    exchange) echo $here/exchange.c ;;
    esac
}

# Runs a program in the emulator of $how; the status is the program's. Windows ends lines
# with two characters.
emulate() {
    case $how in
    *node) set -- $how --no-warnings $wasi $here/wasi.mjs "$@" ;;
    *) set -- $how "$@" ;;
    esac
    for _ in once again; do # wine loses its server now and then
        timeout 300 env TFB_TEST_ISA="$table" TFB_TEST_QUICK="$quick" "$@" \
            >"$work/raw" 2>&1
        status=$?
        grep -q '^wine client error' "$work/raw" || break
    done
    tr -d '\r' <"$work/raw" >"$work/log"
    return $status
}

# The lines of a test under its new name; many skips become one: natively they are named.
shown='
{ what = $0; sub(/^[^ ]* /, "", what); sub("^" table " ", "", what) }
/^ok / { print "ok " name ": " what }
/^skip / { skips++; skip[skips] = what }
END {
    if (skips > 3) print "skip " name ": " skips " tests, as " skip[1]
    for (i = 1; skips <= 3 && i <= skips; i++) print "skip " name ": " skip[i]
}'

# Files from there to this machine and back; the log is of all four runs.
exchange() {
    mkdir -p "$work/here" "$work/there"
    native=$work/native
    [ -x "$native" ] || cc -O0 -DTFB_SCALAR -I. $here/exchange.c -o "$native" -lm \
        >"$work/log" 2>&1 || return
    emulate "$work/exchange.exe" write "$work/there" &&
        "$native" write "$work/here" >"$work/log" 2>&1 &&
        emulate "$work/exchange.exe" read "$work/here" || return
    sed 's/^ok /ok read there: /' "$work/log" >"$work/both"
    "$native" read "$work/there" >"$work/log" 2>&1 || return
    sed 's/^ok /ok read here: /' "$work/log" >>"$work/both"
    mv "$work/both" "$work/log"
}

# One program under one table. A table this machine or this header lacks is skipped.
run_test() {
    name="$run $table $test"
    if [ "$test" = exchange ]; then exchange; else emulate "$work/$test.exe"; fi
    status=$?
    if [ "$test" = unsupported ]; then
        if grep -q '^unsupported' "$work/log"; then echo "ok $name: and says so"
        else fail "$name"; fi
        return 0
    fi
    if [ $status = 0 ] && ! grep -q '^ok\|^FAIL' "$work/log"; then
        why=$(sed -n "s/^skip $table: //p" "$work/log")
        echo "skip $run $table: ${why:-there is no such table}"
        return 1
    fi
    if [ $status != 0 ] || grep -q '^FAIL' "$work/log"; then
        grep -v '^ok\|^skip' "$work/log" >"$work/bad"
        mv "$work/bad" "$work/log"
        fail "$name (status $status)"
    else
        awk -v name="$name" -v table="$table" "$shown" "$work/log"
    fi
    return 0
}

run_tables() {
    emulator=$(printf '%s\n' $how | grep -v = | head -n 1)
    if [ "$emulator" ] && ! command -v "$emulator" >/dev/null 2>&1; then
        echo "skip $run: $emulator is not installed"
        return
    fi
    if ! emulate "$work/empty.exe"; then
        echo "skip $run: ${emulator:-this machine} does not run its programs"
        return
    fi
    for table in $(echo "$names" | tr , ' '); do
        for test in $built; do
            run_test || break
        done
    done
}

build_tests() {
    built=
    compile "$work/empty.exe" "$work/empty.c"
    build_tables || fail "$build: tests/tables.c does not build"
    for test in $tests; do
        objects=
        [ "$tables" ] && objects=$work/tables.o
        if compile "$work/$test.exe" $(source_of "$test") $objects -lm; then
            built="$built $test"
        else
            fail "$build: $test does not build"
        fi
    done
}

wanted() {
    [ $# = 0 ] && return 0
    for name; do [ "$name" = "$build" ] && return 0; done
    return 1
}

wants="$*"
while read -r key first rest; do
    case $key in
    build)
        build=$first
        compiler=$rest
        tables= tests= built= quick=1
        # shellcheck disable=SC2086
        wanted $wants && usable || build=
        ;;
    tests) tests="$first $rest" ;;
    quick) quick=$first ;;
    run)
        [ "$build" ] || continue
        [ "$built" ] || build_tests
        run=$first
        names=${rest%% *}
        how=
        [ "$names" = "$rest" ] || how=${rest#* }
        run_tables </dev/null
        ;;
    esac
done <$here/hosted.txt
exit $failed
