#!/bin/sh
# Seeded faults: each is put into a private copy of the header, and the test named beside
# it must then fail; a fault that nothing notices is the failure here. Kernels have one
# source for all tables, so most are built by the fastest compiler (tcc, scalar table).

cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
failed=0

compiler=
for c in tcc clang-19 clang gcc cc; do
    command -v $c >/dev/null 2>&1 && compiler=$c && break
done
vector= # a compiler that builds the tables tcc cannot
for c in clang-19 clang gcc; do
    command -v $c >/dev/null 2>&1 && vector=$c && break
done

source_of() {
    case $1 in test_isa) echo tests/isa/test_isa.c ;; *) echo "tests/unit/$1.c" ;; esac
}

# Builds a test against the header in $work: compiler, test.
build() {
    $1 -O0 -I"$work" "$(source_of "$2")" -o "$work/$2" >"$work/log" 2>&1
}

fault() { # name, the test that must fail, its table and arguments, sed commands
    name=$1 test=$2 table=$3 kernel=$4
    shift 4
    c=$compiler
    [ "$table" = scalar ] || c=$vector
    sed "$@" tfblocks.h >"$work/tfblocks.h"
    if cmp -s tfblocks.h "$work/tfblocks.h"; then
        echo "FAIL fault $name: the patch does not apply"
        failed=1
    elif ! build "$c" "$test"; then
        head -n 5 "$work/log"
        echo "FAIL fault $name: does not build"
        failed=1
    elif { TFB_TEST_ISA=$table "$work/$test" $kernel; } >"$work/log" 2>&1; then
        echo "FAIL fault $name: $test $kernel does not notice"
        failed=1
    else
        echo "ok fault $name"
    fi
}

scalar() { fault "$1" "$2" scalar "$3" -e "$4" ${5:+-e} ${5:+"$5"}; }

# Without a fault all of them pass, else a failure would prove nothing.
cp tfblocks.h "$work"
for test in test_isa test_hash; do
    if build "$compiler" $test && "$work/$test" >"$work/log" 2>&1; then
        echo "ok $test passes without a fault"
    else
        tail -n 5 "$work/log"
        echo "FAIL $test fails without a fault"
        failed=1
    fi
done

# --- Order of sums. ---
scalar "k runs downwards" test_isa mm \
    's/TFB__VLOADP(b + at##j)/TFB__VLOADP(b + (k0 + end - 1 - 2 * k) * 16 + at##j)/' \
    's/TFB__VSET1(a##i\[k\])/TFB__VSET1(a##i[k0 + end - 1 - k])/'
scalar "only the last block of k counts" test_isa mm \
    's/if (k0) c##i##j = TFB__VADD/if (0) c##i##j = TFB__VADD/'
scalar "blocks of 512" test_hash "" 's/define TFB__BLOCK 256/define TFB__BLOCK 512/'
scalar "splits of 2048 keys" test_hash "" 's/define TFB__KS  *1024/define TFB__KS 2048/'
scalar "lanes folded as neighbours" test_isa softmax \
    '/ tfb__fold16(float/,/^}/s/= lane\[i\] + lane\[i + half\]/= lane[2*i] + lane[2*i+1]/'
scalar "carry is not applied" test_isa mm \
    's/TFB__VSET1(t->carry\[row + i\])/TFB__VSET1(1)/'

# --- Edges. ---
scalar "the last key of a tile is dropped" test_isa attention \
    's/mm\.k = j1 - j0;/mm.k = j1 - j0 - 1;/'
scalar "lane0 is ignored" test_isa pack 's/panel + lane0 + i/panel + i/'
scalar "window off by one" test_isa attention 's/last - a->window + 1/last - a->window/'
scalar "masked values that are not finite leak" test_isa attention \
    's/if (mixed) finite &= .*/(void)mixed;/'

# --- Values. ---
scalar "maximum of the tile before" test_isa attention \
    '/TFB__FN(attn_row)(float/,/^}/s/max = lane\[c\] > max ? lane\[c\] : max/max = max/'
scalar "a reciprocal for a division" test_isa softmax \
    's/TFB__VDIV(\(.*\), TFB__VSET1(sum))/TFB__VMUL(\1, TFB__VSET1(1 \/ sum))/'
scalar "a contracted product" test_isa rotate 's/TFB__VMUL(b, minus))/TFB__VMUL(b, s))/'

# --- Vector tables only. ---
case $(uname -m) in
x86_64 | i?86 | amd64) ;;
*) vector= ;;
esac
if [ -n "$vector" ]; then
    fault "avx2 reads past the end" test_isa avx2 norm \
        -e 's/_mm256_maskload_ps(p, tfb__mask_avx2(n))/_mm256_loadu_ps(p)/'
    fault "avx2 writes past the end" test_isa avx2 map \
        -e 's/_mm256_maskstore_ps(p, tfb__mask_avx2(n), a)/_mm256_storeu_ps(p, a)/'
else
    echo "skip faults of avx2: no compiler or CPU for it"
fi
exit $failed
