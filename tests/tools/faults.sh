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
back='2 * (a_end - a[0]) - (stop - k) - 1' # from step i of n to step n - 1 - i
scalar "k runs downwards" test_isa mm \
    "s/TFB__VLOADP(b + at##j)/TFB__VLOADP(b + ($back) * bks + at##j)/" \
    "s/a\[i \/ 3\]\[i % 3 \* lda\]/a[i \/ 3][i % 3 * lda + $back]/"
scalar "only the last block of k counts" test_isa mm \
    's/k0 || t->add/t->add/'
scalar "sums of earlier blocks are overwritten" test_isa mm \
    's/k0 || t->add/k0/'
scalar "alpha is ignored" test_isa mm 's/TFB__VSET1(t->alpha)/TFB__VSET1(1)/'
scalar "alpha and bias after every block" test_isa mm \
    's/t->last && end == t->k/t->last/'
scalar "blocks of 512" test_hash "" 's/define TFB__BLOCK 256/define TFB__BLOCK 512/'
scalar "splits of 2048 keys" test_hash "" 's/define TFB__KS  *1024/define TFB__KS 2048/'
scalar "lanes folded as neighbours" test_isa softmax \
    '/ tfb__fold16(float/,/^}/s/= lane\[i\] + lane\[i + half\]/= lane[2*i] + lane[2*i+1]/'
scalar "carry is not applied" test_isa mm \
    's/TFB__VSET1(t->carry\[row + i\])/TFB__VSET1(1)/'

scalar "the residual before relu" test_isa mm \
    '/TFB__FN(finish)(const/,/^}/{
         /if (last && t->relu) v/d
         s/^ *TFB__VSTOREN(/if (last \&\& t->relu) v = TFB__FN(relu)(v);&/
     }'
scalar "relu before alpha and bias" test_isa mm \
    '/TFB__FN(finish)(const/,/^}/{
         /if (last && t->relu) v/d
         s/^ *if (last)$/if (last \&\& t->relu) v = TFB__FN(relu)(v);&/
     }'
scalar "relu is ignored" test_isa mm 's/if (last && t->relu) v = /(void)/'
scalar "relu of every block" test_isa mm 's/if (last && t->relu) v/if (t->relu) v/'
scalar "relu makes numbers of NaNs" test_isa mm \
    '/ TFB__FN(relu)(TFB__VF x) {/,/^}/s/return .*/return x > 0 ? x : 0;/'

# --- Where results go. ---
scalar "y is written at the distance of the sums" test_isa mm \
    's/t->y + row \* t->ldy/t->y + row * t->lds/'
scalar "the residual is read at the distance of y" test_isa mm \
    's/t->r + row \* t->ldr/t->r + row * t->ldy/'
scalar "sums of blocks go to y" test_isa mm \
    's/last ? t->y + row \* t->ldy + col : s;/t->y + row * t->ldy + col;/'
scalar "results stay in the sums" test_isa mm \
    's/last ? t->y + row \* t->ldy + col : s;/s;/'
scalar "sums are read where there are none" test_isa mm 's/k0 || t->add/1/'
scalar "the residual is added to every block" test_isa mm \
    's/if (last && t->r)$/if (t->r)/'
scalar "no residual for the last tile of a row" test_isa mm \
    's/if (last && t->r)$/if (last \&\& t->r \&\& col + width < t->cols)/'

# --- Edges. ---
scalar "the last key of a tile is dropped" test_isa attention \
    's/mm\.k = j1 - j0;/mm.k = j1 - j0 - 1;/'
scalar "keys of a tile that is cut begin at lane 0" test_isa attention \
    's/keys + from % TFB__PANEL)/keys)/'
scalar "lanes that are not there are not cleared" test_isa pack \
    's/i < n ? tfb__source_at(\(.*\)) : 0.0f)/tfb__source_at(\1))/'
scalar "a staged source ignores its step" test_isa mm 's/(p \* t->source_step + /(/'
scalar "every stage begins at k = 0" test_isa mm \
    's/lane_stride + k \* from\.k_stride) \* size/lane_stride) * size/'
scalar "stages are put at the place of the first" test_isa mm \
    's/(t->reuse ? 0 : k \* TFB__PANEL)/0/'
scalar "stages of a place that is used again are read as panels" test_isa mm \
    's/if (t->reuse) b = first;//'
scalar "columns beyond the last are written" test_isa mm \
    's/end = TFB__MIN(width, t->cols - col)/end = width/'
scalar "rows are collected as they lie" test_isa collect \
    's/to\[i \* k + j\] = x\[i \* rs + j \* ks\]/to[j * rows + i] = x[i * rs + j * ks]/'
scalar "window off by one" test_isa attention 's/last - a->window + 1/last - a->window/'
scalar "masked values that are not finite leak" test_isa attention \
    's/if (mixed) finite &= .*/(void)mixed;/'

# --- Values. ---
scalar "bfloat16 is read as binary16" test_isa pack \
    's/from->dtype == TFB_F16 ? tfb__f16_to(h)/1 ? tfb__f16_to(h)/'
scalar "numbers below the normal binary16 are lost" test_isa pack \
    's/5\.9604644775390625e-8f/0/'
scalar "a gate in turn multiplies by itself" test_isa epilogue \
    's/part\[1\]\[c\] = s\[2 \* c + 1\]/part[1][c] = s[2 * c]/'
scalar "the residual before the gate" test_isa epilogue \
    's/if (up) v = TFB__VMUL(v, TFB__VLOADN(up + c, n));//' \
    '/^            TFB__CALL(scatter, e->y + row/s/^/if (up) v = TFB__VMUL(v, up[c]);/'
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
    fault "avx2 reads lanes that are not there" test_isa avx2 pack \
        -e 's/return TFB__VLOADN(\(.*x + at\), n);/return TFB__VLOAD(\1);/'
    fault "avx2 collects every block from the first step" test_isa avx2 collect \
        -e 's/TFB__CALL(turn, &from, i + j \* ks,/TFB__CALL(turn, \&from, i,/'
    fault "avx2 turns the end of k without its last lane" test_isa avx2 mm \
        -e 's/TFB__CALL(turn_some, from, at, steps, left,/& -1 +/'
    fault "avx2 turns squares and keeps none" test_isa avx2 mm \
        -e 's/if (!t->reuse) {/if (0) {/'
    fault "avx2 leaves panels with lanes that were never filled" test_isa avx2 mm \
        -e 's/t->cols + (-t->cols & (TFB__PANEL - 1))/t->cols/'
    fault "avx2 turns squares and begins them at 0" test_isa avx2 mm \
        -e 's/ && !t->carry &&/ \&\&/'
    fault "avx2 turns squares that do not follow each other" test_isa avx2 mm \
        -e 's/t->source_step == TFB__PANEL \* t->source\.lane_stride) {/1) {/'
    fault "avx2 reads sums beyond the columns" test_isa avx2 mm \
        -e 's/TFB__VADD(TFB__VLOADN(s + j, n), v)/TFB__VADD(TFB__VLOAD(s + j), v)/'
    fault "avx2 reads bias beyond the columns" test_isa avx2 mm \
        -e 's/TFB__VLOADN(t->bias + col + j, n)/TFB__VLOAD(t->bias + col + j)/'
    fault "avx2 reads a residual beyond the columns" test_isa avx2 mm \
        -e 's/TFB__VLOADN(\(t->r + row .*\), n)/TFB__VLOAD(\1)/'
    fault "avx2 writes columns beyond the last" test_isa avx2 mm \
        -e 's/TFB__VSTOREN((last ? y : s) + j, v, n)/TFB__VSTORE((last ? y : s) + j, v)/'
    fault "avx2 takes every tile for whole" test_isa avx2 mm \
        -e 's/t->cols - col >= V \* TFB__VW/1/'
    fault "avx2 adds nothing to the sums of whole tiles" test_isa avx2 mm \
        -e '/ROWS(TFB__TILE_FOLD)/d'
    fault "avx2 writes rows of a tile at the distance of the sums" test_isa avx2 mm \
        -e 's/ldt = last ? t->ldy : t->lds/ldt = t->lds/'
else
    echo "skip faults of avx2: no compiler or CPU for it"
fi
exit $failed
