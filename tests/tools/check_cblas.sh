#!/bin/sh
# TFB_USE_CBLAS against the CBLAS libraries that are installed.

cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0

try() { # name, where its cblas.h may be, library
    include=
    for header in $2; do
        [ -f "$header" ] && include=-I$(dirname "$header") && break
    done
    if [ -z "$include" ]; then
        echo "skip cblas by $1: its header is not installed"
    elif ! cc -std=gnu99 -O1 -I. "$include" tests/compile/cblas.c -o "$work/prog" \
        -Wl,--wrap=cblas_sgemm "-l$3" >"$work/log" 2>&1; then
        if grep -q "cannot find -l$3" "$work/log"; then
            echo "skip cblas by $1: the library is not installed"
            return
        fi
        sed 's/^/  /' "$work/log" | head -n 5
        echo "FAIL cblas by $1: does not build"
        failed=1
    elif "$work/prog" >"$work/log" 2>&1; then
        sed -n "s/^ok /ok cblas by $1: /p" "$work/log"
    else
        sed 's/^/  /' "$work/log"
        echo "FAIL cblas by $1"
        failed=1
    fi
}

lib=/usr/include/$(cc -dumpmachine)
# the plain cblas.h last: a link to one of the two
try openblas "$lib/openblas-pthread/cblas.h /usr/include/openblas/cblas.h" openblas
try blis "$lib/blis-openmp/cblas.h $lib/blis-pthread/cblas.h" blis
exit $failed
