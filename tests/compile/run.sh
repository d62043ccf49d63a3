#!/bin/sh
# Builds the header with every compiler there is: language standards, optimisation levels,
# switches, ways to include it. Every program must build without a warning, run, and print
# the same hashes of its results. Prints ok / FAIL / skip lines; run from anywhere.
# The vector tables take most of the time of a build: those of a row LINKED come from the
# object of the tests.

cd "$(dirname "$0")/../.." || exit 1
root=$(pwd)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
here=tests/compile
linked="-DTFB__TABLES=2 build/cc/tables.o"
make -s build/cc/tables.o || exit 1
failed=0
missing=
includes=-I.

c_warnings="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wundef
    -Wcast-qual -Wdouble-promotion -Wvla -Werror"

pass() { echo "ok $1"; }

fail() { # name, what; and the log
    head -n 20 "$work/log"
    echo "FAIL $1: $2"
    failed=1
}

# The warnings and the language of a compiler; all names are split into words.
options() {
    case $1 in
    tcc) echo "-Wall -Werror" ;;
    *++*) echo "$c_warnings -x c++" ;;
    *) echo "$c_warnings -Wstrict-prototypes" ;;
    esac
}

# Whether a compiler is there (if not, one skip line for all its builds), knows its flags.
usable() { # name, compiler, flags
    case "$missing " in *" $2 "*) return 1 ;; esac
    if ! command -v "$2" >/dev/null 2>&1; then
        echo "skip builds by $2: not installed"
        missing="$missing $2"
        return 1
    fi
    echo 'int main(void) { return 0; }' >"$work/empty.c"
    "$2" $3 "$work/empty.c" -o "$work/empty" >/dev/null 2>&1 && return 0
    echo "skip $1: $2 does not take $3"
    return 1
}

build() { # name, compiler and arguments
    built=$1
    shift
    rm -f "$work/prog"
    "$@" >"$work/log" 2>&1 && [ ! -s "$work/log" ] && return 0
    fail "$built" "does not build"
    return 1
}

# Whether the program's words block=hash are among those of the first program that ran,
# which had all blocks.
agrees() {
    tr ' ' '\n' <"$work/log" | grep = >"$work/words"
    [ -f "$work/first" ] || cp "$work/words" "$work/first"
    [ -s "$work/words" ] && ! grep -q -v -x -F -f "$work/first" "$work/words"
}

run() { # name
    "$work/prog" >"$work/log" 2>&1 || { fail "$1" "exit status $?"; return; }
    if grep -q '^ok ' "$work/log" && agrees; then pass "$1"
    else fail "$1" "has other results: $(cat "$work/first")"; fi
}

# One program from one file, with all warnings.
try() { # name, compiler, flags, source
    usable "$1" "$2" "$3" || return
    build "$1" "$2" $3 $includes $(options "$2") "$4" -o "$work/prog" && run "$1"
}

# --- Compilers, standards, levels. ---
while read -r compiler flags; do
    try "$compiler $flags" "$compiler" "$(echo "$flags" | sed "s|LINKED|$linked|")" \
        $here/prog.c
done <<'LIST'
tcc -std=c99
tcc -std=c11 -DTFB_PTHREADS
gcc -std=c99 -O2 -DTFB_PTHREADS
gcc -std=c11 -O0 LINKED
gcc -std=gnu17 -O3 -march=native -ffp-contract=fast
gcc -std=c2x -O1 LINKED
clang-14 -std=c99 -O3 -DTFB_PTHREADS LINKED
clang-14 -std=c11 -O1 LINKED
clang-14 -std=gnu17 -O2 -march=native LINKED
clang-14 -std=c2x -O0 LINKED
clang-19 -std=c99 -O2
clang-19 -std=c11 -Os -march=native LINKED
clang-19 -std=gnu17 -O0 LINKED
clang-19 -std=c23 -O3 LINKED
g++ -std=c++11 -O2
g++ -std=c++17 -O0 -DTFB_PTHREADS LINKED
g++ -std=c++20 -Os LINKED
clang++-14 -std=c++11 -O0
clang++-14 -std=c++20 -O2 -DTFB_PTHREADS LINKED
clang++-19 -std=c++17 -O1
LIST

# --- Switches: each row of the header's table alone, then many at a time. ---
# TFB_USE_CBLAS needs a library: tests/tools/check_cblas.sh. TFB_SELF has its own place.
switches=$(sed -n '/Switches, defined before/,/^ \* Contracts/p' tfblocks.h |
    grep -o 'TFB_[A-Z0-9_]*' | grep -v 'CBLAS\|TFB_SELF' | sort -u)
for switch in $switches; do
    try "tcc -D$switch" tcc "-D$switch" $here/prog.c
done
while read -r compiler flags; do
    try "$compiler $flags" "$compiler" "$flags" $here/prog.c
done <<'LIST'
gcc -Os -DTFB_NO_MESSAGES -DTFB_NO_STDLIB
gcc -O1 -DTFB_SCALAR
clang-14 -O1 -DTFB_SOFT_FMA -march=native -DTFB_SCALAR
clang-19 -O0 -DTEST_TWICE -DTFB_SCALAR
tcc -DTEST_TWICE
LIST

# Random combinations, most without vector tables; TFB_TEST_SEED gives others.
seed=${TFB_TEST_SEED:-1}
combinations() {
    # shellcheck disable=SC2086
    awk -v seed="$seed" -v names="$(echo $switches)" '
    function pick(n) { seed = (seed * 16807) % 2147483647; return int(seed / 64) % n }
    BEGIN {
        kinds = split("gcc -std=c99|gcc -std=gnu17|clang-14 -std=c11|clang-19 -std=c23|" \
            "tcc -std=c99|g++ -std=c++11|clang++-14 -std=c++14|clang++-19 -std=c++20",
            kind, "|")
        levels = split("-O0 -O0 -O1 -Os -O2", level, " ")
        n = split(names, name, " ")
        seed = seed % 2147483646 + 1
        for (i = 1; i <= kinds; i++) {
            line = kind[i] " " level[pick(levels) + 1]
            for (k = 1; k <= n; k++)
                if ((pick(4) == 0) != (name[k] == "TFB_SCALAR")) line = line " -D" name[k]
            print line
        }
    }'
}
combinations >"$work/combinations"
while read -r compiler flags; do
    try "seed $seed: $compiler $flags" "$compiler" "$flags" $here/prog.c
done <"$work/combinations"

# --- What can be left out: the rest is as in a whole build, TFB_SMALL or not. ---
gcc -O1 -DTFB_SCALAR -I. $here/parts.c -o "$work/prog" && "$work/prog" >"$work/whole" ||
    fail "parts" "the whole build fails"
partial() { # name, compiler, flags, 1 if the program's lines must become fewer
    usable "$1" "$2" "" || return
    build "$1" "$2" $3 -I. $(options "$2") $here/parts.c -o "$work/prog" || return
    "$work/prog" >"$work/lines" 2>&1 || { fail "$1" "exit status $?"; return; }
    grep -v " left out$" "$work/lines" | grep -vxFf "$work/whole" >"$work/log"
    [ ! -s "$work/log" ] || { fail "$1" "differs from the whole build"; return; }
    [ "$4" = 0 ] || grep -qvxFf "$work/lines" "$work/whole" ||
        { fail "$1" "all is there"; return; }
    pass "$1"
}
partial "parts, TFB_SMALL" gcc "-O2 -DTFB_SMALL" 0
partial "parts, TFB_SMALL by tcc" tcc "-DTFB_SMALL" 0
partial "parts, TFB_NO_CHECKS" gcc "-O1 -DTFB_SMALL -DTFB_NO_CHECKS" 0
for block in ALLOC WORKERS KV_DYNAMIC; do # nothing here needs them
    partial "TFB_NO_$block" tcc "-DTFB_SMALL -DTFB_NO_$block" 0
done
for block in TENSOR_OPS FN_GELU FN_SILU FN_TANH FN_EXP FN_TRIG MATMUL LINEAR PACKS GATES \
    NORMS SOFTMAX LSE ROPE ATTENTION ATTENTION_MASKS ATTENTION_WINDOWS ATTENTION_SCORES \
    ATTENTION_SEQUENCES ATTENTION_PAGES ATTENTION_QK WEIGHTS MERGE KV KV_RINGS KV_PLACES \
    KV_EDIT KV_SHIFT KV_MARKS KV_SAVE CHUNKS RANDOM MIXERS HALF; do
    partial "TFB_NO_$block" tcc "-DTFB_SMALL -DTFB_NO_$block" 1
done
for block in ATTENTION LINEAR SCAN; do
    partial "TFB_NO_$block, all tables" clang-14 "-O0 -DTFB_NO_$block" 1
done
for block in PARAMS MAMBA; do # nothing here calls them
    partial "TFB_NO_$block" tcc "-DTFB_SMALL -DTFB_NO_$block" 0
done
partial "the least" gcc "-O0 -DTFB_SMALL $(sed -n \
    's/^ \*   \(TFB_NO_[A-Z_]*\) .*/-D\1/p' tfblocks.h | grep -v 'CHECKS\|MESSAGES')" 1

# --- Flags that break the contract: the program must say so, or be right. ---
unsafe() { # compiler, flags
    usable "$1 $2" "$1" "$2" || return
    build "$1 $2" "$1" $2 -I. $here/prog.c -o "$work/prog" || return
    "$work/prog" >"$work/log" 2>&1 || { fail "$1 $2" "exit status $?"; return; }
    if grep -q '^unsupported' "$work/log"; then pass "$1 $2 (and says so)"
    elif agrees; then pass "$1 $2"
    else fail "$1 $2" "has other results and does not say so"; fi
}
unsafe gcc "-O2 -ffast-math -DTFB_SCALAR"
unsafe clang-19 "-O2 -ffast-math -DTFB_SCALAR"
unsafe clang-19 "-O2 -march=native -ffp-contract=fast"
unsafe gcc "-O1 -DTFB_SCALAR -mfpmath=387"

# --- A CBLAS of another name: one that says so. ---
cat >"$work/other_blas.h" <<'BLAS'
enum { CblasRowMajor = 101, CblasNoTrans = 111, CblasTrans = 112 };
static void cblas_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha,
                        const float *a, int lda, const float *b, int ldb, float beta,
                        float *c, int ldc) {
    int i, j, l;
    for (i = 0; i < m; i++)
        for (j = 0; j < n; j++) {
            float sum = 0;
            for (l = 0; l < k; l++)
                sum += (ta == CblasTrans ? a[l * lda + i] : a[i * lda + l]) *
                       (tb == CblasTrans ? b[j * ldb + l] : b[l * ldb + j]);
            c[i * ldc + j] = alpha * sum + (beta ? beta * c[i * ldc + j] : 0);
        }
    (void)order;
}
BLAS
unsafe tcc "-I$work -DTFB_USE_CBLAS -DTFB_CBLAS_HEADER=<other_blas.h>"

# --- Two translation units: an object of each kind, used by each language. ---
units() { # who compiles the implementation, who the rest
    name="implementation by $1"
    users=$2
    usable "$name" "$1" "" || return
    build "$name" "$1" -O0 -I. $(options "$1") -c $here/impl.c -o "$work/impl.o" || return
    for user in $users; do
        name="implementation by $1, used by $user"
        usable "$name" "$user" "" || continue
        build "$name" "$user" -I. $(options "$user") -DTEST_DECLARATIONS_ONLY \
            $here/prog.c -c -o "$work/user.o" || continue
        build "$name" "$user" "$work/user.o" "$work/impl.o" -o "$work/prog" && run "$name"
    done
}
units gcc "gcc clang-14 g++ clang++-19"
units clang-19 "clang-19 gcc clang++-14"
units tcc tcc # its objects need its own library

# --- TFB_STATIC in both files of a program. ---
for c in "gcc -DTFB_SCALAR" "clang-19 -DTFB_SCALAR" tcc; do
    name="static twice by $c"
    usable "$name" ${c%% *} "" || continue
    build "$name" $c -I. $(options $c) $here/static_a.c $here/static_b.c \
        -o "$work/prog" || continue
    if "$work/prog" >"$work/log" 2>&1; then pass "$name"; else fail "$name" "differ"; fi
done

# --- Other names and places: every one of these has its own main.c. ---
mkdir "$work/x" "$work/z" "$work/main"
cp tfblocks.h "$work/x/y.h"
cp tfblocks.h "$work/z"
cp $here/prog.c "$work/main"
includes=
place() { # name, compiler, flags, the header as included, TFB_SELF or nothing
    {
        [ -z "$5" ] || echo "#define TFB_SELF $5"
        echo "#define TEST_HEADER $4"
        echo '#include "prog.c"'
    } >"$work/main/main.c"
    try "$1 by $2" "$2" "$3" "$work/main/main.c"
}
for c in gcc tcc; do
    place "renamed, relative path" $c -O0 '"../x/y.h"' '"y.h"'
done
for c in clang++-19 tcc; do # with all tables: their passes include the file anew
    place "renamed, -I" $c "-O0 -I$work/x" '<y.h>' '"y.h"'
    place "relative path" $c -O0 '"../z/tfblocks.h"' ""
done

# --- As the README says: no flag at all. ---
mkdir "$work/plain"
cp tfblocks.h $here/prog.c "$work/plain"
for c in gcc clang tcc; do
    usable "$c prog.c" $c "" || continue
    cd "$work/plain" || exit 1
    build "$c prog.c" $c prog.c && mv a.out "$work/prog" && run "$c prog.c"
    cd "$root" || exit 1
done

# --- Declarations only: no code, no data, nothing asked for. ---
for c in gcc clang-14 clang-19 g++ clang++-14 tcc; do
    name="declarations by $c"
    usable "$name" $c "" || continue
    build "$name" $c -I. $(options $c) -c $here/declare.c -o "$work/declare.o" || continue
    nm "$work/declare.o" 2>&1 | awk '$(NF - 1) ~ /^[A-Zbdrtuvw]$/' >"$work/log"
    if [ -s "$work/log" ]; then fail "$name" "has symbols"; else pass "$name"; fi
done
exit $failed
