#!/bin/sh
# Every TFB_ switch that the header asks for has a row in the table at its head and a
# build in tests; every row is a switch that something asks for. Prints ok / FAIL lines.

cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0

result() { # name; what is wrong, if anything, stands in $work/bad
    if [ -s "$work/bad" ]; then
        cat "$work/bad"
        echo "FAIL $1"
        failed=1
    else
        echo "ok $1"
    fi
}

# A directive goes on over lines that end in a backslash. TFB__ names are private.
# TFB__HAS(X) and TFB__OPT(X, ..) ask for TFB_NO_X.
{
    sed -e ':a' -e '/\\$/{N;s/\\\n//;ba' -e '}' tfblocks.h |
        grep '^ *# *\(if\|elif\)' | grep -o '\<TFBL\?[A-Z]*_[A-Z0-9][A-Z0-9_]*'
    grep -o 'TFB__\(HAS\|OPT\)([A-Z_]*' tfblocks.h | sed 's/.*(/TFB_NO_/'
} | grep -v '^TFBLOCKS_H$\|^TFB_NO_X\?$' | sort -u >"$work/asked"
sed -n '/Switches, defined before/,/^ \* Contracts/p' tfblocks.h |
    grep -o 'TFBL\?[A-Z]*_[A-Z0-9_]*' | sort -u >"$work/rows"

comm -23 "$work/asked" "$work/rows" | sed 's/$/ has no row at the head/' >"$work/bad"
result "switches: each has a row"

comm -13 "$work/asked" "$work/rows" | sed 's/$/: nothing asks for it/' >"$work/bad"
result "switches: each row is asked for"

# tests/compile/run.sh builds every row alone, but for those that need something more.
grep -q 'for switch in \$switches' tests/compile/run.sh ||
    echo "tests/compile/run.sh does not go through the rows" >"$work/bad"
for switch in TFBLOCKS_IMPLEMENTATION TFB_SELF $(grep CBLAS "$work/rows"); do
    grep -q "$switch" tests/compile/* tests/tools/check_cblas.sh ||
        echo "$switch is not built in tests/compile"
done >>"$work/bad"
result "switches: each has a build"
exit $failed
