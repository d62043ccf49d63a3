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
    $1 -O0 -DTFB_STATIC -I"$work" "$(source_of "$2")" -o "$work/$2" -lm >"$work/log" 2>&1
}

# Without the passes of other x86 tables a build takes a third of the time.
leave_out() {
    for other in avx512 avx2 sse2; do
        [ "$other" = "$1" ] || [ "$1" = scalar ] || sed -i \
            -e "/TFB__PASS TFB__PASS_$(echo $other | tr a-z A-Z)\$/,/undef TFB__PASS/d" \
            -e "s/X($other, [A-Z0-9_]*/X($other, 0/" "$work/tfblocks.h"
    done
}

fault() { # name, the test that must fail, its table and arguments, sed commands
    name=$1 test=$2 table=$3 kernel=$4
    shift 4
    c=$compiler
    [ "$table" = scalar ] || c=$vector
    sed "$@" tfblocks.h >"$work/tfblocks.h"
    cmp -s tfblocks.h "$work/tfblocks.h" || leave_out "$table"
    if cmp -s tfblocks.h "$work/tfblocks.h"; then
        echo "FAIL fault $name: the patch does not apply"
        failed=1
    elif ! build "$c" "$test"; then
        head -n 5 "$work/log"
        echo "FAIL fault $name: does not build"
        failed=1
    elif TFB_TEST_HASTY=1 TFB_TEST_ISA=$table "$work/$test" $kernel \
        >"$work/log" 2>&1; then
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
scalar "blocks of 512" test_hash "" 's/define TFB__BLOCK  *256/define TFB__BLOCK 512/'
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

# --- Attention: who sees what. Stored hashes notice most of it, and fast. ---
att() { scalar "$1" test_isa attention "$2" ${3:+"$3"}; }
hash() { scalar "$1" test_hash "" "$2" ${3:+"$3"}; }

hash "window off by one" 's/at + 1 - o->window)/at - o->window)/'
hash "two-sided window off by one on the left" 's/at - o->left)/at + 1 - o->left)/'
hash "two-sided window off by one on the right" 's/at + 1 + o->right)/at + o->right)/'
hash "pinned keys are forgotten" 's/TFB__MIN(o->window_pinned, upper)/0/'
att "pinned keys are seen before their time" \
    's/TFB__MIN(o->window_pinned, upper)/TFB__MIN(o->window_pinned, w->end)/'
hash "causal off by one" 's/TFB__MIN(w->end, at + 1) : w->end/TFB__MIN(w->end, at) : at/'
att "keys of a gap are seen" \
    's/~tfb__bits_between(w->gap0 - tile, w->gap1 - tile)/~(uint64_t)0/'
att "rows behind a gap are those without one" \
    's/n < a->o\.key_pinned ? n : n - w->seq\.shift/n - w->seq.shift/'
hash "no tile is cut by a window" 's/usual = n >= w->lo_max && end/usual = end/'
hash "no tile is cut by its rows" 's/n >= w->lo_max && end <= w->hi_min/n >= w->lo_max/'
att "no tile is cut by a mask" \
    's/any && (a->mask\.data || a->bias\.data)/any \&\& a->bias.data/'
hash "what is masked for a row is masked for all" \
    's/!known || mask_row != mask0 || bias_row != bias0/!known/'
att "a mask is read by places, not by rows" 's/mask + run\.row + i/mask + run.n + i/'
att "a bias is read by places, not by rows" 's/(from + run\.row)/(from + run.n)/'
hash "heads of a group lie apart" \
    's/= w->kv_head \* a->group + (\(.*\)) % a->group;/= (\1) % a->group * a->G;/'
att "every block begins at the first row" \
    's/w->row0 = block \* a->block_rows/w->row0 = 0/'
hash "the last row of a block is left out" \
    's/w->rows = TFB__MAX(0, TFB__MIN(w->rows, a->block_rows))/& - 1/'
hash "a page begins with the row of a sequence" \
    's/row %= a->page;/row = run.row % a->page;/'
hash "a page is read past its end" 's/run\.len = TFB__MIN(run\.len, a->page - row);//'
hash "pages follow each other" \
    's/= tfb__attn_page(a->o\.pages, batch, row \/ a->page)/= row \/ a->page/'
hash "queries stand where the first sequence begins" \
    's/u\.stand = offset - u\.q0/u.stand = offset/'
hash "left padding moves tiles" 's/: o->key_pos0) - u\.lo;/: o->key_pos0);/'
hash "kv_len is ignored" 's/o->kv_len ? tfb__i32_at(o->kv_len, s) : a->S/a->S/'

# --- Attention: scores. ---
hash "the last key of a run has no score" \
    's/mm\.cols = run->len;/mm.cols = run->len - 1;/'
hash "the last key of a strip has no score" \
    's/mm\.cols = c1 - c0;/mm.cols = c1 - c0 - 1;/'
hash "keys of a run that begins late begin at 0" \
    's/mm\.s = mm\.y = w->s + at;/mm.s = mm.y = w->s;/'
hash "strips begin inside a panel" 's/c0 = c0 \/ TFB__PANEL \* TFB__PANEL;//'
hash "strips end before their last key" \
    's/for (\*c1 = \*c0; any && any >> \*c1;)/for (*c1 = *c0; any >> 1 >> *c1;)/'
hash "every strip has the queries of the first" 's/mm\.a = w->q + r \* D;/mm.a = w->q;/'
hash "softcap after bias" '/if (bias) x = /d' \
    's/if (a->o\.softcap > 0) x = /if (bias) x = TFB__VADD(x, TFB__VLOAD(bias + c));&/'
hash "softcap multiplies by the reciprocal" \
    's/TFB__VDIV(x, cap)/TFB__VMUL(x, TFB__VDIV(TFB__VSET1(1), cap))/'
hash "ALiBi raises what is far away" 's/TFB__VSET1(slope), /TFB__VSET1(-slope), /'
att "ALiBi is signed" 's/TFB__VSET1(slope), TFB__FN(nabs)(d)/TFB__VSET1(slope), d/'
hash "ALiBi counts from the tile" \
    's/(float)(tile + c - w->at\[r\])/(float)(c - w->at[r])/'
hash "all heads have the slope of the first" 's/+ h \* a->alibi\.stride\[1\];/;/'
hash "queries are turned by their rows" 's/a, w, 0, i, w->at\[r\],/a, w, 0, i, i,/'
hash "keys are not prepared" 's/tfb__attn_prepare(a, w, 1, .*;//'
hash "rope before the norm" 's/qk->norm && !qk->norm_last/qk->norm \&\& qk->norm_last/' \
    's/if (qk->norm && qk->norm_last) /if (qk->norm \&\& !qk->norm_last) /'
hash "keys have the weights of queries" \
    's/is_key ? qk->k_weight : qk->q_weight;/qk->q_weight;/'

# --- Attention: weights and values. ---
hash "maximum of the tile before" 's/TFB__VSTORE(w->sum\.m + r, m);//'
hash "nothing of a tile is taken back" \
    's/TFB__FN(exp_down)(TFB__VSUB(before, m))/TFB__VSET1(1)/'
hash "weights of hidden keys are added up" '/^ *if (see != TFB__ALL_SEEN)$/,/VSEL/d'
att "sums begin with those of the split before" 's/memset((void \*)w->lanes, 0, .*;//'
att "values begin with those of the split before" \
    '/TFB__FN(attn_split)/,/^}/s/memset((void \*)w->sum\.acc, 0, .*;//'
hash "the last key of a run has no value" 's/mm\.k = run->len;/mm.k = run->len - 1;/'
hash "the last key of a strip has no value" 's/mm->k = c1 - c0;/mm->k = c1 - c0 - 1;/'
hash "values of a run have the weights of the first" \
    's/mm\.a = w->s + run->n % TFB__KT;/mm.a = w->s;/'
hash "values of a strip have the weights of the first" \
    's/mm->a = w->s + r \* TFB__KT + run->n % TFB__KT/mm->a = w->s + r * TFB__KT/'
hash "a strip begins with the values of the run" \
    's/mm->b = w->values + c0 \* TFB__PANEL;/mm->b = w->values;/'
hash "the second run takes back again" \
    's/for (r = 0; r < w->rows; r++) w->carry\[r\] = 1\.0f;//'
att "the second run of a mixed tile takes back again" \
    's/for (p = r; p < r + mm->rows; p++) w->carry\[p\] = 1\.0f;//'
att "masked values that are not finite leak" \
    's/finite &= TFB__FN(all_finite).*/(void)finite;/'
att "selected values ignore what is seen" 's/if (w->see\[r\] >> (at + j) & 1)$//'
att "16-bit rows are read at the distance of panels" \
    's/if (as_is) h += hks;/if (as_is) h += TFB__PANEL;/'
hash "rows of values are read as panels" 's/mm\.bps = TFB__PANEL;$//'
att "binary16 values are read as bfloat16" \
    's/: f16  *? TFB__VLOADH(h + at##j)/: 0 ? TFB__VLOADH(h + at##j)/'

# --- Attention: splits, sinks, weights, merge. ---
hash "sinks are merged twice" 's/^    TFB__CALL(attn_sinks, a, w);/&&/'
hash "sinks are scaled" 's/w->sum\.l\[r\] = 1\.0f;/w->sum.m[r] *= a->scale;&/'
hash "the later split is the one that is fused" \
    's/TFB__VLOAD(all->l + r), f1,/TFB__VLOAD(part->l + r), f2,/' \
    's/TFB__VMUL(TFB__VLOAD(part->l + r), f2)/TFB__VMUL(TFB__VLOAD(all->l + r), f1)/'
hash "splits before the last are forgotten" 's/^        if (begun) {$/        if (0) {/'
att "waves before the last are forgotten" \
    's/if (item->first) {/if (item->first || i == 0) {/'
att "a wave is folded backwards" \
    '/TFB__FN(attn_wave)/,/^}/s/part_of(a, i)/part_of(a, a->items - 1 - i)/'
att "a wave is stored after every split" \
    's/if (item->last) TFB__CALL(attn_store/if (1) TFB__CALL(attn_store/'
hash "only the last task of a wave is stored" \
    's/item->last = n >= w\.last;/item->last = n >= w.last \&\& task + 1 == a->tasks;/'
att "every split begins with the first key" 's/TFB__MAX(n, w\.first)/w.first/'
att "rows without a key are NaN" 's/l <= 0 ? zero : TFB__VFMA/0 ? zero : TFB__VFMA/'
hash "lse without the maximum" 's/FLT_INF : w->all\.m\[r\] + lane/FLT_INF : lane/'
hash "weights of the first rows" \
    's/i = a->rows ? tfb__i32_at(a->rows, t) : w->seq\.q0 + t/i = w->seq.q0 + t/'
hash "weights of hidden keys are left" \
    '/TFB__FN(attn_weights)/,/^}/s/y\[j \* a->y\.stride\[3\]\] = 0\.0f/(void)y/'
hash "weights without sinks" \
    '/TFB__FN(attn_weights)/,/^}/s/TFB__CALL(attn_sinks, a, w);//'
scalar "a part without a key is merged" test_isa merge \
    's/if (tfb__bits_of(m2) == 0xFF800000u) continue;//'
scalar "a part alone is divided" test_isa merge \
    's/if (found > 1) v = TFB__VFMA/if (found) v = TFB__VFMA/'
scalar "parts are merged last to first" test_isa merge \
    's/step = t->pair ? 0 : i;/step = t->pair ? 0 : t->states - 1 - i;/'
scalar "channels begin with the parts of those before" test_isa merge \
    's/for (i = found = 0; i < t->states; i++)/for (i = 0; i < t->states; i++)/'
hash "two states are one state twice" 's/which = t->pair ? i : 0/which = 0/'

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
scalar "a reciprocal for a division" test_isa softmax \
    's/TFB__VDIV(\(.*\), TFB__VSET1(sum))/TFB__VMUL(\1, TFB__VSET1(1 \/ sum))/'
scalar "a contracted product" test_isa rotate 's/TFB__VMUL(b, minus))/TFB__VMUL(b, s))/'

# --- Convolution and scans. ---
scalar "taps run downwards" test_isa conv \
    's/TFB__VLOAD(w + j \* 16)/TFB__VLOAD(w + (s->taps - 1 - j) * 16)/'
scalar "blocks of taps before the last are forgotten" test_isa conv \
    's/s0 = j0 ? TFB__VADD(s0, b0) : b0/s0 = b0/'
scalar "every fourth row of a convolution is the third" test_isa conv \
    's/TFB__VLOAD(x + j \* 16 + 48), b3/TFB__VLOAD(x + j * 16 + 32), b3/'
scalar "a state that is decayed, rounded and fed" test_isa scan \
    's/v = TFB__VFMA(e, \(TFB__VLOAD(h + k \* TFB__PANEL)\), v)/v = e * \1 + v/'
scalar "a token is fed as delta (x b)" test_isa scan \
    's/v = TFB__VMUL(dx, TFB__VSET1(b\[k\]))/v = d * (s->x[t * 16 + l] * b[k])/'
scalar "every exponent counts as negative" test_isa scan \
    's/else if (up) TFB__CALL(/else if (0) TFB__CALL(/'
scalar "a sum over states that begins at the last four" test_isa scan \
    's/TFB__VF y = k ? TFB__VLOAD(.*;/TFB__VF y = 0;/'
scalar "the gate before d x" test_isa scan \
    's/if (s->d) y = TFB__VFMA(.*;/if (s->z) y *= tfb__silu_scalar(s->z[at]);&/' \
    's/if (s->z) y = TFB__VMUL(y, TFB__FN(silu)(.*;//'
hash "a state of the first inputs" \
    's/(const void \*)(m->x + k\.rows \* TFB__PANEL),/m->x,/'
hash "every channel reads the first group" \
    's|h / g_heads, k\.rows, room\.b|0, k.rows, room.b|'
hash "all panels of a task share their states" 's/all\.h += i \* N \* TFB__PANEL;//'
hash "bias before softplus is forgotten" \
    's/TFB__VADD(TFB__VLOAD(s->dt + i), bias)/TFB__VLOAD(s->dt + i)/'

# --- Vector tables only. ---
case $(uname -m) in
x86_64 | i?86 | amd64) ;;
*) vector= ;;
esac
kv() { # test, name, sed commands
    test=$1
    shift
    scalar "$1" "test_kv_$test" "" "$2" ${3:+"$3"}
}

kv ops "a ring keeps a row too many" \
    's/end - tfb__kv_window(s)) : from/end - tfb__kv_window(s) - 1) : from/'
kv ops "gaps are not zeroed" \
    's/if (TFB__OPT(KV_PLACES, p->positions)) tfb__kv_zero_row/if (0) tfb__kv_zero_row/'
kv ops "rollback forgets what keep_last dropped" 's/r->first = r->mark_first;//'
kv ops "crop of n < 0 keeps them all" 's/TFB__MAX(0, have + n)/have/'
kv ops "keep_last keeps one more" \
    's/to.first = r->end - n;/to.first = r->end - n - 1;/'
kv ops "a repeat is not copied" 's/if (i < n) tfb__kv_copy_pages(l, from, l->row + i);//'
kv ops "fork copies nothing" 's/tfb__kv_copy_pages(l, l->row + src, l->row + dst);//'
kv ops "shift leaves out the last row" \
    's/i < TFB__MIN(to, tfb__kv_len(l, r))/i + 1 < TFB__MIN(to, tfb__kv_len(l, r))/'
kv ops "a value is a key" 's/value, 1, s->v_dim, p->value/value, 1, s->v_dim, p->key/'
kv ops "marked rows may be overwritten" \
    's/!TFB__OPT(KV_MARKS, p->kv->marked) || end - room <= keep/1/'
kv ops "once is forever open" \
    's/!TFB__OPT(KV_PLACES, kv->once) || !tfb_kv_length/1 || !tfb_kv_length/'
kv ops "counts are not read" \
    's/return TFB__OPT(KV_PLACES, p->counts) ? /return 0 ? /'
kv ops "one pinned row too few" 's/return i < pinned ? i :/return i < pinned - 1 ? i :/'
kv ops "pages leak when a call fails" 's/for (; next->added; next->added--)/for (; 0;)/'
kv decode "a ring is asked for what it has lost" \
    's/TFB__MAX(at, r->first) >= known || known <= tfb__kv_pinned(s)/1/'
kv save "the sum is not compared" 's/sum == tfb__kv_sum(f->from + 24, f->size - 24)/1/'
kv save "the first of a save is forgotten" \
    's/r.first = tfb__kv_read_number(f);/r.first = 0 * tfb__kv_read_number(f);/'
att "lanes of a cached key are reversed" \
    's/D + at % TFB__PANEL) \* size;/D + 15 - at % TFB__PANEL) * size;/'
att "a run of cached keys begins a lane late" \
    's/whole.k -= lane \* size;/whole.k -= (lane - 1) * size;/'

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
    fault "avx2 takes hidden keys for the largest" test_isa avx2 attention \
        -e 's/TFB__VSEL(.*SEEN(see, c)), TFB__VLOAD(s + c), low)/TFB__VLOAD(s + c)/'
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
