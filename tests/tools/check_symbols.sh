#!/bin/sh
# The object file of the implementation: it exports exactly the functions the API
# declares, asks libc for memory and memory moves only (nothing of libm, nothing that
# prints), and has no writable data. Argument: another directory with a tfblocks.h.

cd "$(dirname "$0")/../.." || exit 1
dir=${1:-.}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0
allowed='^(malloc|calloc|realloc|free|memcpy|memmove|memset|memcmp|strcmp)$'
threads='^pthread_(create|join|(mutex|cond)_[a-z]+)$'
# what compilers call by themselves: position independence, 64-bit conversions, varargs,
# bcmp for a memcmp whose sign nobody reads
compiler='^(_GLOBAL_OFFSET_TABLE_|__stack_chk_fail|bcmp|__va_arg|__float.*|__fix.*)$'

# Every name behind TFB_API up to the implementation.
awk '/defined\(TFBLOCKS_IMPLEMENTATION\)/ { exit }
     /^TFB_API / { sub(/\(.*/, ""); sub(/.*[ *]/, ""); print }' \
    "$dir/tfblocks.h" | sort >"$work/api"

result() { # name, 0 if good; what is wrong stands in $work/bad
    if [ "$2" = 0 ]; then
        echo "ok $1"
    else
        sed 's/^/  /' "$work/bad"
        echo "FAIL $1"
        failed=1
    fi
}

check() { # compiler, flags
    name="$1${2:+ $2}"
    if ! command -v "$1" >/dev/null 2>&1; then
        echo "skip symbols by $1: not installed"
        return
    fi
    if ! $1 -O1 $2 -I"$dir" -c tests/compile/impl.c -o "$work/o" >"$work/bad" 2>&1; then
        result "$name builds" 1
        return
    fi
    nm -g "$work/o" | awk 'NF == 3 { print $3 }' | sort >"$work/exports"
    diff "$work/api" "$work/exports" >"$work/bad" 2>&1
    result "$name exports the API and nothing else" $?
    nm -u "$work/o" | awk -v a="$allowed" -v t="$threads" -v c="$compiler" -v flags="$2" '
        $NF !~ a && $NF !~ c && !(flags ~ /PTHREADS/ && $NF ~ t) { print $NF; bad = 1 }
        END { exit bad }' >"$work/bad"
    result "$name needs nothing but memory" $?
    size -A "$work/o" | awk -v tcc="$1" '
        $1 ~ /^\.data\.rel\.ro/ || ($1 == ".data" && tcc == "tcc") { next } # constants
        $1 ~ /^\.(data|bss|tdata|tbss)/ && $2 > 0 { print $1, $2; bad = 1 }
        END { exit bad }' >"$work/bad"
    result "$name has no writable data" $?
}

if [ ! -s "$work/api" ]; then
    echo "no TFB_API function found" >"$work/bad"
    result "API names" 1
fi
check gcc
check gcc "-DTFB_PTHREADS -DTFB_SCALAR"
check clang
check tcc -DTFB_PTHREADS
exit $failed
