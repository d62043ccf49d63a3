#!/bin/sh
# The stored hashes under TFB_SMALL, by two compilers, one with sanitizers.
cd "$(dirname "$0")/../.." || exit 1
mkdir -p build/small
run() { # name, compiler and flags
    name=$1
    shift
    command -v "$1" >/dev/null 2>&1 || { echo "skip $name: no $1"; return; }
    "$@" -std=c99 -I. -DTFB_SMALL tests/unit/test_hash.c -lpthread \
        -o "build/small/$name" &&
        "build/small/$name" >"build/small/$name.txt"
    if [ $? = 0 ]; then
        echo "ok $name"
    else
        grep -v '^ok' "build/small/$name.txt"
        echo "FAIL $name"
    fi
}
run small_hashes_gcc gcc -Os -Wall -Wextra -Werror
run small_hashes_clang clang-14 -O1 -Wall -Wextra -Werror -fsanitize=address,undefined \
    -fno-sanitize-recover=all
