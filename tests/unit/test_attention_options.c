/* tfb_attention with every option: against float64, against itself where the bits must
 * not change (chunks, workers, tables, pieces, batches), hidden NaN, bad input. Views
 * of keys, weights, merging and scratch are in test_attention_views.c. */
#include "../test.h"
#include "attend.h"

/* --- Against float64. --- */
static uint32_t inputs_hash(const attend *c) {
    uint32_t hash = 2166136261u;
    tfb_idx i;
    int which;
    for (which = 0; which < TENSORS; which++)
        for (i = 0; which != Y && which != LSE && c->mem[which] &&
                    i < c->mem_n[which] * (tfb_idx)tfb_dtype_size(c->t[which].dtype);
             i++)
            hash = (hash ^ ((const uint8_t *)c->mem[which])[i]) * 16777619u;
    return hash;
}

static tfb_idx untouched(const attend *c, int which) {
    tfb_idx i, same = 0;
    const float s = SENTINEL;
    for (i = 0; i < c->mem_n[which]; i++)
        same += memcmp((float *)c->mem[which] + i, &s, sizeof s) == 0;
    return same;
}

/* The result is that of the plain call by bits, and right. */
static void held(tfb_ctx *ctx, attend *c) {
    const uint32_t hash = inputs_hash(c);
    attend p = attend_plain(ctx, c);
    float *got = attend_result(ctx, c), *plain;
    CHECK(inputs_hash(c) == hash, "inputs changed: %s", attend_text(c));
    CHECK(untouched(c, Y) == c->mem_n[Y] - tfb_numel(&c->t[Y]) &&
              untouched(c, LSE) == c->mem_n[LSE] - tfb_numel(&c->t[LSE]),
          "wrote beside its rows: %s", attend_text(c));
    plain = attend_result(ctx, &p);
    CHECK_BITS(got, plain, attend_floats(c), "not as when prepared: %s", attend_text(c));
    attend_check64(&p, got, attend_text(c));
    free(got);
    free(plain);
    attend_free(&p);
}

static void each_option_alone(void) {
    tfb_ctx ctx;
    int bit, it;
    t_ctx(&ctx, NULL);
    for (bit = 0; 1 << bit < O_END; bit++)
        for (it = 0; it < 8; it++) {
            attend c = attend_random(1 << bit | (it & 4 ? O_CAUSAL : 0));
            held(&ctx, &c);
            attend_free(&c);
        }
    tfb_ctx_free(&ctx);
}

static void all_options_at_random(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 700; it++) {
        attend c = attend_random(random_options());
        held(&ctx, &c);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

static void head_dims(void) {
    static const tfb_idx dims[] = {1, 2, 3, 31, 64, 65, 128, 255, 256, 257, 512};
    tfb_ctx ctx;
    int i, it;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 11; i++)
        for (it = 0; it < 3; it++) {
            attend c = attend_of(1, 2, 1, t_int(1, 4), t_int(60, 80), dims[i],
                                 it ? t_int(1, 20) : dims[10 - i]);
            attend_make(&c, it ? random_options() : 0);
            held(&ctx, &c);
            attend_free(&c);
        }
    tfb_ctx_free(&ctx);
}

static void several_splits(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 12; it++) {
        attend c =
            attend_of(1, 2, 1, t_int(1, 3), t_int(1000, 2300), t_int(1, 9), t_int(1, 9));
        attend_make(&c, random_options() & ~(it % 3 ? O_WINDOW | O_TWO : 0));
        held(&ctx, &c);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* Keys or values side by side instead of channels, of every dtype, whole tiles and
 * mixed. */
static void keys_side_by_side(void) {
    static const tfb_dtype kinds[3] = {TFB_F32, TFB_F16, TFB_BF16};
    static const int order[4] = {0, 1, 3, 2};
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 72; it++) {
        attend c = attend_of(1, 2, 1, it % 2 ? t_int(1, 3) : t_int(1, 40),
                             it % 3 ? 16 * t_int(1, 8) : t_int(1, 130), t_int(1, 40),
                             t_int(1, 40));
        attend_make(&c, it % 4 == 0 ? 0 : O_MASK | (random_options() & O_POS0));
        if (has(&c, MASK)) { /* some stretches of keys */
            tfb_idx i, from = t_int(0, c.S - 1), to = t_int(from, c.S);
            free(c.mem[MASK]);
            attend_add(&c, MASK, TFB_U8, "S", 0);
            for (i = 0; i < c.S; i++)
                ((uint8_t *)c.mem[MASK])[i] = (i < from || i >= to) == it % 5 / 3;
        }
        if (it % 3 < 2) {
            free(c.mem[K]);
            attend_add(&c, K, kinds[it / 3 % 3], "BGDS", 0);
            CHECK_OK(&ctx, tfb_permute(&ctx, &c.t[K], order, &c.t[K]));
        }
        if (it % 3 > 0) {
            free(c.mem[V]);
            attend_add(&c, V, kinds[it / 9 % 3], "BGVS", 0);
            CHECK_OK(&ctx, tfb_permute(&ctx, &c.t[V], order, &c.t[V]));
        }
        held(&ctx, &c);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* Rope of SEMANTICS in double: what qk.rope does to row x at a position (or three). */
static void rope64(const tfb_rope_opts *r, tfb_idx D, const int32_t *at, float *x) {
    tfb_idx first = 0, i, a;
    const tfb_idx axes = r->axes ? r->axes : 1;
    for (a = 0; a < axes; a++) {
        const tfb_idx n = r->axes ? r->axis_dims[a] : r->dims ? r->dims : D;
        for (i = 0; i < n / 2; i++) {
            const tfb_idx i0 = first + (r->interleaved ? 2 * i : i);
            const tfb_idx i1 = r->interleaved ? i0 + 1 : i0 + n / 2;
            const double turn = (double)at[a] * pow(1e4, -2.0 * (double)i / (double)n);
            const double s = r->inverse ? -sin(turn) : sin(turn), c = cos(turn);
            const double x0 = (double)x[i0], x1 = (double)x[i1];
            x[i0] = (float)(x0 * c - x1 * s);
            x[i1] = (float)(x1 * c + x0 * s);
        }
        first += n;
    }
}

/* Angles are right to 1e-6 turns, so q and k to 6.3e-6 of their length and a score to
 * 1.3e-5 |q| |k| scale <= 1.3e-5 sqrt(D) <= 5e-5; a mean of |v| <= 1 to twice that. */
static void rope_against_float64(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 24; it++) {
        attend c = attend_of(1, 2, 1, 4, 9, 12, 5), p;
        float *got, *want;
        tfb_idx h, i;
        attend_make(&c, O_CAUSAL);
        c.options |= O_ROPE;
        c.rope.interleaved = it & 1;
        c.rope.dims = it & 2 ? 8 : 0;
        c.rope.inverse = it & 4;
        c.rope.start = it * 17;
        if (it >= 8) c.rope.axes = it >= 16 ? 3 : 2;
        for (i = 0; i < c.rope.axes; i++) { /* the last axis has what is left */
            const int dims = c.rope.dims ? c.rope.dims : 12;
            c.rope.axis_dims[i] = i == c.rope.axes - 1 ? dims - 2 * c.rope.axes + 2 : 2;
            c.rope.grid[i] = i ? 3 + i : 1000;
        }
        p = attend_plain(&ctx, &c);
        plain_rows(&c, &p, Q);
        plain_rows(&c, &p, K);
        for (h = 0; h < 3; h++) /* two heads of q, then k's; all rows lie densely */
            for (i = 0; i < (h < 2 ? 4 : 9); i++) {
                int32_t at[3];
                coordinates(&c, h < 2 ? i + attend_seq(&c, 0, i).at : i, at);
                rope64(&c.rope, 12, at,
                       (float *)p.mem[h < 2 ? Q : K] + ((h < 2 ? h * 4 : 0) + i) * 12);
            }
        got = attend_result(&ctx, &c);
        want = attend_result(&ctx, &p);
        for (i = 0; i < attend_floats(&c); i++)
            CHECK(fabsf(got[i] - want[i]) < 1e-4f, "rope %d: %g, not %g", it,
                  (double)got[i], (double)want[i]);
        free(got);
        free(want);
        attend_free(&p);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

#define COUNTS 4
static const int counts[COUNTS] = {1, 2, 3, 8};

static void pools_open(tfb_ctx *ctx) {
    int n;
    for (n = 0; n < COUNTS; n++) {
        t_ctx(ctx + n, NULL);
        CHECK_OK(ctx + n, tfb_ctx_threads(ctx + n, counts[n], 50));
    }
}

static void pools_close(tfb_ctx *ctx) {
    int n;
    for (n = 0; n < COUNTS; n++) tfb_ctx_free(ctx + n);
}

/* --- By bits against the header's own reference. --- */
static float *reference_of(attend *c) {
    const tfb_idx D = c->D, rows = c->B * c->H * c->T;
    float *work = t_floats(3 * D + 3 * c->Dv), *vectors = t_floats(3 * D);
    float *all = t_floats(attend_floats(c));
    tfb__attn a;
    tfb_ctx ctx;
    tfb_idx r;
    t_ctx(&ctx, NULL);
    attend_link(c);
    tfb__attention_new(&a, &c->o);
    CHECK_OK(&ctx,
             tfb__attention_resolve(&ctx, "reference", &c->t[Q], &c->t[K], &c->t[V], &a));
    a.qk.rope.hi = vectors + 2 * D;
    a.qk.rope.lo = a.qk.rope.hi + a.qk.rope.half;
    if (a.o.qk) tfb__attention_vectors(&a, vectors);
    for (r = 0; r < rows; r++) {
        const tfb_idx h = r / c->T % c->H, i = r % c->T;
        tfb_idx s = r / (c->H * c->T);
        while (c->seqs && i >= int_at(c, CU_Q, s + 1, 0)) s++;
        all[rows * c->Dv + r] = tfb__attention_ref(&a, s, h, i, work, all + r * c->Dv);
    }
    tfb_ctx_free(&ctx);
    free(vectors);
    free(work);
    return all;
}

/* A few values that arithmetic treats specially, where floats come in. */
static void spoil_values(attend *c) {
    static const int inputs[] = {Q, K, V, BIAS, SINKS, ALIBI};
    const float odd[] = {-0.0f,
                         TFB__FLT_INF,
                         -TFB__FLT_INF,
                         1e-40f,
                         3e19f,
                         -FLT_MAX,
                         tfb__float_of(0x7FC00001u)};
    tfb_idx n = t_int(1, 6);
    while (n--) {
        const int which = inputs[t_int(0, 5)];
        if (!has(c, which)) continue;
        if (c->t[which].dtype == TFB_F32)
            ((float *)c->mem[which])[t_int(0, c->mem_n[which] - 1)] = odd[t_int(0, 6)];
        else
            ((uint16_t *)c->mem[which])[t_int(0, c->mem_n[which] - 1)] =
                (uint16_t)t_rand();
    }
}

static void reference_by_bits(void) {
    tfb_ctx ctx[COUNTS];
    int it;
    pools_open(ctx);
    for (it = 0; it < 700; it++) {
        attend c = attend_random(random_options());
        float *want;
        if (it % 3 == 0) spoil_values(&c);
        want = reference_of(&c);
        attend_same(&ctx[it % COUNTS], &c, want, "reference", it);
        free(want);
        attend_free(&c);
    }
    for (it = 0; it < 12; it++) { /* several splits; it % 2: shared by workers */
        attend c =
            attend_of(1, 2, 1, t_int(1, 3), t_int(1000, 2300), t_int(1, 9), t_int(1, 9));
        float *want;
        attend_make(&c, random_options() & ~(it % 3 ? O_WINDOW | O_TWO : 0));
        want = reference_of(&c);
        attend_same(&ctx[it % 2 * 3], &c, want, "reference of splits", it);
        free(want);
        attend_free(&c);
    }
    pools_close(ctx);
}

/* --- What must not change the bits. --- */
static void chunks_and_workers(void) {
    tfb_ctx ctx[COUNTS];
    int it, n;
    pools_open(ctx);
    for (it = 0; it < 60; it++) {
        attend c = attend_random(random_options() & ~O_CHUNK);
        const tfb_idx sizes[] = {0, 1, 3, 64, c.T};
        const tfb_qk_norm before = c.qk.norm; /* NONE unless O_NORM */
        float *first = attend_result(&ctx[0], &c), *again;
        for (n = 0; n < 5; n++) {
            c.o.chunk_size = sizes[n];
            attend_same(&ctx[(it + n) % COUNTS], &c, first, "chunk", (long)sizes[n]);
        }
        c.o.chunk_size = sizes[t_int(0, 4)];
        for (n = 0; n < COUNTS; n++)
            attend_same(&ctx[n], &c, first, "workers", counts[n]);
        attend_drop(&c, LSE); /* asked for or not; a norm that is none */
        c.options |= c.options & O_ROPE ? 0 : O_NORM;
        c.qk.norm = c.options & O_ROPE ? c.qk.norm : before;
        floats_set(c.mem[Y], c.mem_n[Y], SENTINEL);
        CHECK_OK(&ctx[it % COUNTS], attend_call(&ctx[it % COUNTS], &c));
        again = attend_read(&c);
        CHECK_BITS(again, first, c.B * c.H * c.T * c.Dv, "no lse: %s", attend_text(&c));
        free(again);
        free(first);
        attend_free(&c);
    }
    pools_close(ctx);
}

/* Fewer heads than workers: these share the splits of a row. */
static void workers_share_splits(void) {
    tfb_ctx ctx[COUNTS];
    int it, n, again;
    pools_open(ctx);
    for (it = 0; it < 24; it++) {
        const tfb_idx G = t_int(1, 2);
        attend c = attend_of(1, G == 2 ? 2 : t_int(1, 2), G, t_int(1, 3),
                             it % 4 ? t_int(1000, 5000) : t_int(4000, 5000), t_int(1, 9),
                             t_int(1, 9));
        float *first;
        attend_make(&c, it % 2 ? random_options() & ~O_CHUNK
                               : random_options() & (O_CAUSAL | O_LEN | O_POS0 | O_SINKS |
                                                     O_MASK | O_LAYOUT));
        if (it == 0) /* a split whose keys are all hidden, and several in a row */
            c.o.causal = TFB_CAUSAL_OFFSET, c.o.offset = 1024;
        first = attend_result(&ctx[0], &c);
        for (n = 1; n < COUNTS; n++)
            for (again = 0; again < 2; again++)
                attend_same(&ctx[n], &c, first, "workers", counts[n]);
        free(first);
        attend_free(&c);
    }
    pools_close(ctx);
}

static void every_table(void) {
    tfb_ctx ctx, forced;
    const char *name;
    int i, it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 60; it++) {
        attend c = attend_random(random_options());
        float *first = attend_result(&ctx, &c);
        for (i = 0; (name = tfb_isa_list(&ctx, i, NULL)) != NULL; i++) {
            CHECK_OK(&ctx, tfb_ctx_init(&forced));
            if (t_force(&forced, name)) attend_same(&forced, &c, first, name, i);
            tfb_ctx_free(&forced);
        }
        free(first);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* start .. start + n - 1 of every dimension with that letter. */
static void cut(tfb_ctx *ctx, attend *c, char letter, tfb_idx start, tfb_idx n) {
    int which, d;
    for (which = 0; which < TENSORS; which++)
        for (d = 0; has(c, which) && d < c->t[which].ndim; d++)
            if (c->role[which][d] == letter)
                CHECK_OK(ctx, tfb_slice(ctx, &c->t[which], d, start, n, &c->t[which]));
    if (letter == 'B') c->B = n;
    if (letter == 'T') c->T = n;
    if (letter == 'S') c->S = n;
}

/* The offset in rows that c would use for the queries of b. */
static tfb_idx row_offset(const attend *c, tfb_idx b) {
    return attend_seq(c, b, 0).at + int_at(c, KV_START, b, 0) -
           int_at(c, POS0S, b, c->o.key_pos0);
}

/* Compares part, which writes into a part of whole's tensors, once all parts have run. */
static void parts_check(attend *whole, const float *want, const char *what) {
    float *got = attend_read(whole);
    CHECK_BITS(got, want, attend_floats(whole), "%s: %s", what, attend_text(whole));
    free(got);
}

static float *parts_begin(tfb_ctx *ctx, attend *whole) {
    float *want = attend_result(ctx, whole);
    floats_set(whole->mem[Y], whole->mem_n[Y], SENTINEL);
    floats_set(whole->mem[LSE], whole->mem_n[LSE], SENTINEL);
    return want;
}

static void part_run(tfb_ctx *ctx, attend *part) {
    CHECK(attend_call(ctx, part) == TFB_OK, "part: %s: %s", ctx->message,
          attend_text(part));
    attend_free(part); /* what it added */
}

static void queries_in_pieces(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 80; it++) {
        attend c = attend_random(random_options() & ~O_PACKED);
        float *want = parts_begin(&ctx, &c);
        tfb_idx done, n, b;
        for (done = 0; done < c.T; done += n) {
            attend part = attend_copy(&c);
            n = t_int(0, 2) ? t_int(1, c.T - done) : 1;
            attend_drop(&part, OFFSETS);
            attend_add(&part, OFFSETS, TFB_I32, "n", 0);
            for (b = 0; b < c.B; b++)
                put_i(&part.t[OFFSETS], 0, b, row_offset(&c, b) + done);
            cut(&ctx, &part, 'T', done, n);
            part_run(&ctx, &part);
        }
        parts_check(&c, want, "in pieces");
        free(want);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

static void each_of_a_batch_alone(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 60; it++) {
        attend c = attend_of(3, 2, 1, t_int(1, 9), t_int(1, 130), t_int(1, 20), 5);
        float *want;
        tfb_idx b;
        attend_make(&c, random_options() & ~O_PACKED);
        want = parts_begin(&ctx, &c);
        for (b = 0; b < 3; b++) {
            attend part = attend_copy(&c);
            cut(&ctx, &part, 'B', b, 1);
            cut(&ctx, &part, 'n', b, 1);
            part_run(&ctx, &part);
        }
        parts_check(&c, want, "batch 3 against 1");
        free(want);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* kv_start and kv_len against keys without the padding. */
static void padded_is_sliced(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 90; it++) {
        const int none = O_PACKED | O_PAGES | O_KEYPIN;
        const int way = it % 3 == 0 ? O_START : it % 3 == 1 ? O_LEN : O_START | O_LEN;
        attend c = attend_random((random_options() & ~(none | O_START | O_LEN)) | way);
        float *want = parts_begin(&ctx, &c);
        tfb_idx b;
        for (b = 0; b < c.B; b++) {
            attend part = attend_copy(&c);
            const seq s = attend_seq(&c, b, 0);
            attend_drop(&part, KV_START);
            attend_drop(&part, KV_LEN);
            if (has(&c, OFFSETS)) {
                attend_add(&part, OFFSETS, TFB_I32, "n", 0);
                put_i(&part.t[OFFSETS], 0, b, row_offset(&c, b) - s.lo);
            } else part.o.offset -= s.lo;
            cut(&ctx, &part, 'B', b, 1);
            cut(&ctx, &part, 'n', b, 1);
            cut(&ctx, &part, 'S', s.lo, s.hi - s.lo);
            part_run(&ctx, &part);
        }
        parts_check(&c, want, "padded against sliced");
        free(want);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

static void packed_is_separate(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 90; it++) {
        attend c = attend_random(random_options() | O_PACKED);
        float *want = parts_begin(&ctx, &c);
        const int cu_k = has(&c, CU_K) ? CU_K : CU_Q;
        tfb_idx s;
        for (s = 0; s < c.seqs; s++) {
            const tfb_idx q0 = int_at(&c, CU_Q, s, 0), k0 = int_at(&c, cu_k, s, 0);
            attend part = attend_copy(&c);
            cut(&ctx, &part, 'n', s, 1);
            cut(&ctx, &part, 'T', q0, int_at(&c, CU_Q, s + 1, 0) - q0);
            cut(&ctx, &part, 'S', k0, int_at(&c, cu_k, s + 1, 0) - k0);
            attend_drop(&part, CU_Q);
            attend_drop(&part, CU_K);
            part.seqs = 0;
            part_run(&ctx, &part);
        }
        parts_check(&c, want, "packed against separate");
        free(want);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* Splits count from the sequence's first key: moved by whole splits, the same bits, and
 * as far as numbers go. */
static void whole_splits_further_on(void) {
    static const tfb_idx steps[] = {1024, 1024 * 1000, PTRDIFF_MAX / 8 / 1024 * 1024};
    const int none = O_PACKED | O_KEYPIN | O_PINNED | O_ROPE | O_ALIBI;
    tfb_ctx ctx;
    int it, i;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 20; it++) {
        attend c = attend_of(2, 2, 1, t_int(1, 5), it % 4 ? t_int(1, 130) : 1500,
                             t_int(1, 20), t_int(1, 20));
        float *want;
        attend_make(&c, it % 4 ? random_options() & ~none : 0);
        attend_drop(&c, POS0S);
        want = attend_result(&ctx, &c);
        for (i = 0; i < 3; i++) {
            c.o.key_pos0 += steps[i];
            attend_same(&ctx, &c, want, "further on by", (long)steps[i]);
        }
        free(want);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* Nothing to do, or nothing to see: every option of extents 0. */
static void empty_extents(void) {
    static const tfb_idx sizes[][7] = {/* B H G T S D Dv */
                                       {0, 2, 1, 3, 4, 5, 6}, {2, 2, 1, 0, 4, 5, 6},
                                       {2, 2, 1, 3, 0, 5, 6}, {2, 0, 1, 3, 4, 5, 6},
                                       {2, 2, 1, 3, 4, 5, 0}, {1, 2, 2, 0, 0, 4, 3}};
    tfb_ctx ctx[COUNTS];
    int i, it;
    pools_open(ctx);
    for (i = 0; i < 6; i++)
        for (it = 0; it < 20; it++) {
            const tfb_idx *n = sizes[i];
            attend c = attend_of(n[0], n[1], n[2], n[3], n[4], n[5], n[6]);
            float *got;
            tfb_idx r;
            attend_make(&c, random_options() & ~(O_KEYPIN | (n[0] ? 0 : O_PACKED)));
            got = attend_result(&ctx[it % COUNTS], &c);
            for (r = 0; n[4] == 0 && r < c.B * c.H * c.T * c.Dv; r++)
                CHECK(tfb__bits_of(got[r]) == 0, "y of no keys: %s", attend_text(&c));
            for (r = 0; r < attend_floats(&c); r++)
                CHECK(tfb__bits_of(got[r]) != tfb__bits_of(SENTINEL), "not written: %s",
                      attend_text(&c));
            free(got);
            attend_free(&c);
        }
    pools_close(ctx);
}

/* Bounds past every key hide nothing; options without effect change nothing. */
static void open_bounds_change_nothing(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 20; it++) {
        attend c = attend_random(random_options() & ~(O_WINDOW | O_TWO | O_PINNED));
        float *want = attend_result(&ctx, &c);
        c.o.two_sided = 1;
        c.o.left = c.o.right = it & 1 ? PTRDIFF_MAX : 100000;
        attend_same(&ctx, &c, want, "two sides", (long)c.o.left);
        c.o.left = c.o.right = 0;
        c.o.window_pinned = it & 1 ? PTRDIFF_MAX : 100000;
        attend_same(&ctx, &c, want, "all pinned", (long)c.o.window_pinned);
        c.o.two_sided = 0;
        if (c.o.causal) c.o.window = it & 1 ? PTRDIFF_MAX : 100000;
        attend_same(&ctx, &c, want, "window", (long)c.o.window);
        free(want);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* --- What is hidden never leaks. --- */
/* A key or value row in place: element [0], *step elements apart; NULL without a page. */
static char *row_place(const attend *c, int which, tfb_idx b, tfb_idx g, tfb_idx j,
                       tfb_idx *step) {
    const tfb_tensor *t = &c->t[which];
    tfb_idx row = j;
    *step = t->stride[3];
    if (has(c, PAGES)) {
        row = j + c->o.page_skip;
        b = (tfb_idx)get(&c->t[PAGES], 0, 0, b, row / c->page);
        row %= c->page;
        if (b < 0 || b >= c->pool) return NULL;
    }
    return (char *)t->data + (b * t->stride[0] + g * t->stride[1] + row * t->stride[2]) *
                                 (tfb_idx)tfb_dtype_size(t->dtype);
}

/* Elements n, step apart, become NaN, inf, -inf (kind 0, 1, 2); saved holds what was. */
static void poison(char *at, tfb_dtype dtype, tfb_idx n, tfb_idx step, int kind) {
    static const uint32_t f32[] = {0x7FC00000u, 0x7F800000u, 0xFF800000u};
    static const uint16_t f16[] = {0x7E00, 0x7C00, 0xFC00};
    const uint16_t bf16 = (uint16_t)(f32[kind] >> 16);
    const size_t bytes = tfb_dtype_size(dtype);
    tfb_idx i;
    for (i = 0; i < n; i++)
        memcpy(at + i * step * (tfb_idx)bytes,
               dtype == TFB_F32   ? (const void *)&f32[kind]
               : dtype == TFB_F16 ? (const void *)&f16[kind]
                                  : (const void *)&bf16,
               bytes);
}

static int seen_by_any(const attend *c, tfb_idx b, tfb_idx g, tfb_idx j) {
    const tfb_idx group = c->H / c->G;
    tfb_idx h, i;
    for (h = g * group; h < (g + 1) * group; h++)
        for (i = 0; i < c->T; i++)
            if (sees(c, b, h, i, j)) return 1;
    return 0;
}

/* Every pool row starts poisoned where no batch's key lies; done before the first run. */
static void poison_hidden(attend *c, int kind) {
    tfb_idx b, g, j, step;
    int which;
    for (b = 0; b < c->B; b++)
        for (g = 0; g < c->G; g++)
            for (j = 0; j < c->S; j++)
                for (which = K; which <= V && !seen_by_any(c, b, g, j); which++) {
                    char *at = row_place(c, which, b, g, j, &step);
                    if (at)
                        poison(at, c->t[which].dtype, which == K ? c->D : c->Dv, step,
                               kind);
                }
}

static void poison_bias(attend *c, int kind) {
    const uint32_t bits[] = {0x7FC00000u, 0x7F800000u, 0xFF800000u};
    tfb_idx b, h, i, j;
    for (b = 0; b < c->B; b++)
        for (h = 0; h < c->H; h++)
            for (i = 0; i < c->T; i++)
                for (j = 0; j < c->S; j++)
                    if (!seen_but_for_bias(c, b, h, i, j))
                        put_f(&c->t[BIAS], b, h, i, j, tfb__float_of(bits[kind]));
}

static int is_nan(float x) {
    return (tfb__bits_of(x) & 0x7FFFFFFFu) > 0x7F800000u;
}

/* Key j of (b, g) is poison in V or K: rows that see it are NaN, others as before. */
static void poison_seen(tfb_ctx *ctx, attend *c, const float *before, int which,
                        int kind) {
    const tfb_idx b = t_int(0, c->B - 1), g = t_int(0, c->G - 1), j = t_int(0, c->S - 1);
    const tfb_idx rows = c->B * c->H * c->T;
    tfb_idx step, r;
    char *at = row_place(c, which, b, g, j, &step);
    float *now;
    if (!at) return;
    poison(at, c->t[which].dtype, which == K ? c->D : c->Dv, step, kind);
    now = attend_result(ctx, c);
    for (r = 0; r < rows; r++) {
        const tfb_idx rb = r / (c->H * c->T), h = r / c->T % c->H, i = r % c->T;
        const int seen = rb == b && h / (c->H / c->G) == g && sees(c, b, h, i, j);
        if (!seen)
            CHECK_BITS(now + r * c->Dv, before + r * c->Dv, c->Dv,
                       "row %ld read hidden key %ld: %s", (long)i, (long)j,
                       attend_text(c));
        if (!seen || which == V)
            CHECK_BITS(now + rows * c->Dv + r, before + rows * c->Dv + r, 1,
                       "lse of row %ld, key %ld: %s", (long)i, (long)j, attend_text(c));
        if (seen && kind == 0 && !(c->options & O_SCALE))
            CHECK(is_nan(now[r * c->Dv]) && (which == V || is_nan(now[rows * c->Dv + r])),
                  "row %ld does not show NaN of key %ld: %s", (long)i, (long)j,
                  attend_text(c));
    }
    free(now);
}

static void leak_case(tfb_ctx *ctx, int options, int it) {
    const tfb_idx G = t_int(1, 2);
    attend c = attend_of(t_int(1, 2), G * t_int(1, 2), G,
                         t_int(0, 3) ? t_int(1, 20) : t_int(60, 70), t_int(1, 200),
                         t_int(1, 8), t_int(1, 20));
    tfb_idx i;
    float *before;
    attend_make(&c, options);
    if (has(&c, BIAS)) { /* with every extent: places of its own */
        free(c.mem[BIAS]);
        attend_add(&c, BIAS, TFB_F32, "BHTS", 0);
        for (i = 0; i < c.mem_n[BIAS]; i++)
            if (!t_int(0, 4)) ((float *)c.mem[BIAS])[i] = -TFB__FLT_INF;
    }
    before = attend_result(ctx, &c);
    poison_hidden(&c, it % 3);
    attend_same(ctx, &c, before, "hidden everywhere, kind", it % 3);
    if (has(&c, BIAS)) {
        poison_bias(&c, it % 3);
        attend_same(ctx, &c, before, "hidden bias, kind", it % 3);
    }
    poison_seen(ctx, &c, before, it & 1 ? V : K, it % 3);
    free(before);
    attend_free(&c);
}

static void hidden_never_leaks(void) {
    static const int ways[] = {O_CAUSAL,
                               O_CAUSAL | O_WINDOW,
                               O_CAUSAL | O_OFFSET,
                               O_TWO,
                               O_TWO | O_PINNED,
                               O_WINDOW | O_PINNED,
                               O_MASK,
                               O_BIAS,
                               O_BIAS | O_CAUSAL,
                               O_LEN,
                               O_START,
                               O_START | O_LEN,
                               O_PACKED,
                               O_PACKED | O_CAUSAL,
                               O_PAGES | O_LEN,
                               O_PAGES | O_START | O_LEN | O_CAUSAL,
                               O_KEYPIN | O_WINDOW | O_PINNED,
                               O_KEYPIN | O_LEN | O_POS0,
                               O_ROPE | O_NORM | O_WINDOW | O_LEN};
    tfb_ctx ctx;
    int it, way;
    t_ctx(&ctx, NULL);
    for (way = 0; way < (int)(sizeof ways / sizeof *ways); way++)
        for (it = 0; it < 6; it++)
            leak_case(&ctx, ways[way] | (t_int(0, 1) ? O_HALF : 0), it);
    for (it = 0; it < 60; it++) leak_case(&ctx, random_options(), it);
    tfb_ctx_free(&ctx);
}

/* Rows of pools in which no key lies are never read: they are NaN from the start. */
static void rest_of_pools_never_leaks(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 20; it++) {
        attend c = attend_random((random_options() | O_PAGES) & ~O_PACKED);
        attend p = attend_plain(&ctx, &c);
        float *want;
        tfb_idx b, g, j, d, step;
        int which;
        for (which = K; which <= V; which++) {
            attend fresh = attend_copy(&c);
            const tfb_idx n = which == K ? c.D : c.Dv;
            attend_add(&fresh, which, c.t[which].dtype, which == K ? "PGRD" : "PGRV", 0);
            poison((char *)fresh.mem[which], c.t[which].dtype, fresh.mem_n[which], 1, 0);
            for (b = 0; b < c.B; b++)
                for (g = 0; g < c.G; g++)
                    for (j = int_at(&c, KV_START, b, 0); j < int_at(&c, KV_LEN, b, c.S);
                         j++) {
                        tfb_idx to_step;
                        const size_t bytes = tfb_dtype_size(c.t[which].dtype);
                        const char *from = row_place(&c, which, b, g, j, &step);
                        char *to = row_place(&fresh, which, b, g, j, &to_step);
                        for (d = 0; d < n; d++)
                            memcpy(to + d * to_step * (tfb_idx)bytes,
                                   from + d * step * (tfb_idx)bytes, bytes);
                    }
            free(c.mem[which]);
            c.mem[which] = fresh.mem[which];
            c.t[which] = fresh.t[which];
        }
        want = attend_result(&ctx, &p);
        attend_same(&ctx, &c, want, "pools", it);
        free(want);
        attend_free(&p);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

static void rows_without_a_key(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 12; it++) {
        attend c = attend_of(1, 3, 1, 5, 70, 4, 3);
        float *got;
        tfb_idx h, i;
        attend_make(&c, (it & 1 ? O_SINKS : 0) | (it % 6 / 2 == 0 ? O_MASK : 0) |
                            (it % 6 / 2 == 1 ? O_BIAS : 0) |
                            (it % 6 / 2 == 2 ? O_LEN : 0) | (it >= 6 ? O_ALIBI : 0));
        for (i = 0; has(&c, MASK) && i < c.mem_n[MASK]; i++)
            ((uint8_t *)c.mem[MASK])[i] = 0;
        if (has(&c, BIAS)) floats_set(c.mem[BIAS], c.mem_n[BIAS], -TFB__FLT_INF);
        if (has(&c, KV_LEN)) put_i(&c.t[KV_LEN], 0, 0, 0);
        if (has(&c, SINKS)) floats_set(c.mem[SINKS], c.mem_n[SINKS], -1.25f);
        poison((char *)c.mem[K], TFB_F32, c.mem_n[K], 1, 0);
        poison((char *)c.mem[V], TFB_F32, c.mem_n[V], 1, 1);
        got = attend_result(&ctx, &c);
        for (i = 0; i < 3 * 5 * 3; i++)
            CHECK(tfb__bits_of(got[i]) == 0, "y is %g", (double)got[i]);
        for (h = 0; h < 3; h++)
            for (i = 0; i < 5; i++) {
                const float lse = got[45 + h * 5 + i];
                const float want =
                    has(&c, SINKS) ? (float)get(&c.t[SINKS], 0, 0, 0, h) : -TFB__FLT_INF;
                CHECK_BITS(&lse, &want, 1, "lse of head %ld", (long)h);
            }
        free(got);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* --- Bad input: one thing wrong at a time. A want of TFB_OK: any error will do. --- */
typedef enum what { NDIM, EXTENT, STRIDE, DTYPE, DATA, SHIFT, UNDER, PUT, OPT } what;

/* What OPT changes. */
enum {
    LEFT,
    RIGHT,
    PIN,
    WINDOW,
    OFFSET,
    POS0,
    KEY_PINNED,
    SKIP_ROWS,
    CAP,
    NORM,
    EPS,
    ROPE_DIMS,
    ROPE_BASE,
    ROPE_AXES,
    ROPE_START,
    NO_CU_Q,
    NO_BATCH
};

typedef struct spoil {
    int options; /* of the call */
    what field;
    int which, dim; /* tensor and dimension; PUT: the element; UNDER: by Y or LSE */
    tfb_idx value;
    tfb_status want;
    const char *text;
} spoil;

#define FAR (PTRDIFF_MAX / 4)
#define AT  O_OFFSET
/* Tensors whose every property is spoilt: what is there, and a text. */
typedef struct victim {
    int options, which;
    tfb_dtype not_this;
    const char *text;
} victim;

static const victim victims[] = {{O_MASK, MASK, TFB_F32, "mask"},
                                 {O_BIAS, BIAS, TFB_U8, "bias"},
                                 {AT, OFFSETS, TFB_F32, "offsets"},
                                 {O_START, KV_START, TFB_U8, "kv_start"},
                                 {O_LEN, KV_LEN, TFB_F32, "kv_len"},
                                 {O_POS0, POS0S, TFB_F32, "key_pos0s"},
                                 {O_PACKED, CU_Q, TFB_F32, "cu_q"},
                                 {O_PACKED, CU_K, TFB_F32, "cu_k"},
                                 {O_ALIBI, ALIBI, TFB_I32, "alibi"},
                                 {O_SINKS, SINKS, TFB_F16, "sinks"},
                                 {O_PAGES, PAGES, TFB_F32, "pages"},
                                 {O_NORM, Q_WEIGHT, TFB_F16, "q_weight"},
                                 {O_NORM, K_WEIGHT, TFB_I32, "k_weight"},
                                 {O_ROPE, Q_POS, TFB_F32, "positions"},
                                 {O_ROPE, K_POS, TFB_U8, "positions"},
                                 {O_ROPE, FREQS, TFB_F16, "freqs"},
                                 {O_HALF, K, TFB_I32, "k"},
                                 {O_HALF, V, TFB_U8, "v"}};
#define VICTIMS ((int)(sizeof victims / sizeof *victims))

/* A call of fixed content with these options, all extents there, and all of qk. */
static attend full_call(int options) {
    attend c = attend_of(2, 4, 2, 5, 8, 8, 6);
    c.full = 1;
    c.options = options;
    make_sizes(&c);
    make_tensors(&c);
    make_views(&c);
    make_hiding(&c);
    make_scores(&c);
    if (options & O_TWO) c.o.left = c.o.right = 3;
    if (options & O_NORM) {
        c.qk.norm = TFB_QK_NORM_RMS;
        attend_add(&c, Q_WEIGHT, TFB_F32, "D", 0);
        attend_add(&c, K_WEIGHT, TFB_F32, "D", 0);
    }
    if (options & O_ROPE) {
        make_positions(&c, Q_POS, "BT", "BT");
        make_positions(&c, K_POS, "BS", "BS");
        attend_add(&c, FREQS, TFB_F32, "F", 0);
    }
    return c;
}

static const spoil spoils[] = {
    /* windows */
    {O_TWO, OPT, WINDOW, 0, 3, TFB_ERR_ARG, "window"},
    {O_TWO | O_CAUSAL, OPT, WINDOW, 0, 3, TFB_ERR_ARG, "two_sided"},
    {O_TWO, OPT, LEFT, 0, -1, TFB_ERR_ARG, "two_sided"},
    {O_TWO, OPT, RIGHT, 0, -1, TFB_ERR_ARG, "two_sided"},
    {O_TWO, OPT, PIN, 0, -1, TFB_ERR_ARG, "window_pinned"},
    {AT | O_CAUSAL, OPT, OFFSET, 0, FAR, TFB_ERR_RANGE, "offset"},
    {AT, OPT, OFFSET, 0, -FAR, TFB_ERR_RANGE, "offset"},
    /* lengths */
    {O_LEN, PUT, KV_LEN, 1, 9, TFB_ERR_RANGE, "keys 0 to 9 of 8"},
    {O_LEN, PUT, KV_LEN, 0, -1, TFB_ERR_RANGE, "keys 0 to -1"},
    {O_START, PUT, KV_START, 1, 9, TFB_ERR_RANGE, "keys 9 to 8"},
    {O_START, PUT, KV_START, 1, -1, TFB_ERR_RANGE, "keys -1"},
    {O_START | O_LEN, PUT, KV_START, 1, 9, TFB_ERR_RANGE, "keys 9 to 8"},
    {O_POS0, PUT, POS0S, 1, -1, TFB_ERR_RANGE, "key_pos0"},
    {O_POS0, OPT, POS0, 0, -1, TFB_ERR_RANGE, "key_pos0"},
    {O_POS0, OPT, POS0, 0, FAR, TFB_ERR_RANGE, "key_pos0"},
    /* packed */
    {O_PACKED, PUT, CU_Q, 0, 1, TFB_ERR_RANGE, "cu_q"},
    {O_PACKED, PUT, CU_Q, 0, -1, TFB_ERR_RANGE, "cu_q"},
    {O_PACKED, PUT, CU_Q, 1, 6, TFB_ERR_RANGE, "sequence 1 has -1 queries"},
    {O_PACKED, PUT, CU_Q, 2, 4, TFB_ERR_RANGE, "cu_q"},
    {O_PACKED, PUT, CU_Q, 2, 6, TFB_ERR_RANGE, "cu_q"},
    {O_PACKED, PUT, CU_K, 0, 1, TFB_ERR_RANGE, "cu_k"},
    {O_PACKED, PUT, CU_K, 1, 9, TFB_ERR_RANGE, "keys 0 to 9 of 8"},
    {O_PACKED, PUT, CU_K, 2, 7, TFB_ERR_RANGE, "cu_k"},
    {O_PACKED, OPT, NO_CU_Q, 0, 0, TFB_ERR_ARG, "cu_"},
    {O_PACKED, OPT, NO_BATCH, 0, 2, TFB_ERR_SHAPE, ""},
    {O_PACKED, OPT, POS0, 0, 1, TFB_ERR_ARG, "places"},
    {O_PACKED, OPT, KEY_PINNED, 0, 1, TFB_ERR_ARG, "places"},
    /* key_pinned */
    {O_START, OPT, KEY_PINNED, 0, 1, TFB_ERR_ARG, "key_pinned"},
    {O_POS0, OPT, KEY_PINNED, 0, -1, TFB_OK, "key_pinned"},
    /* pages */
    {O_PAGES, PUT, PAGES, 3, -1, TFB_ERR_RANGE, "page"},
    {O_PAGES, PUT, PAGES, 0, 5, TFB_ERR_RANGE, "page"},
    {O_PAGES | O_LEN, PUT, PAGES, 2, 5, TFB_ERR_RANGE, "page"},
    {O_PAGES, OPT, SKIP_ROWS, 0, -1, TFB_OK, "page_skip"},
    {O_PAGES, OPT, SKIP_ROWS, 0, 9, TFB_OK, "page_skip"},
    {O_PAGES, EXTENT, K, 0, 4, TFB_ERR_SHAPE, "shape[0]"},
    {O_PAGES, EXTENT, K, 1, 1, TFB_ERR_SHAPE, ""},
    {O_PAGES, EXTENT, K, 2, 3, TFB_ERR_SHAPE, "shape[2]"},
    {O_PAGES, EXTENT, K, 3, 7, TFB_ERR_SHAPE, "shape[3]"},
    /* scores */
    {O_CAP, OPT, CAP, 0, -2, TFB_ERR_ARG, "softcap"},
    {O_CAP, OPT, CAP, 1, 0, TFB_ERR_ARG, "softcap"},
    /* qk */
    {O_NORM, OPT, NORM, 0, 3, TFB_ERR_ARG, "norm"},
    {O_NORM, OPT, NORM, 0, -1, TFB_ERR_ARG, "norm"},
    {O_NORM, OPT, EPS, 0, -1, TFB_ERR_ARG, "eps"},
    {O_ROPE, OPT, ROPE_DIMS, 0, 3, TFB_ERR_ARG, "dims"},
    {O_ROPE, OPT, ROPE_DIMS, 0, 10, TFB_ERR_ARG, "dims"},
    {O_ROPE, OPT, ROPE_DIMS, 0, -2, TFB_ERR_ARG, "dims"},
    {O_ROPE, OPT, ROPE_BASE, 0, -1, TFB_ERR_ARG, "base"},
    {O_ROPE, OPT, ROPE_AXES, 0, 4, TFB_ERR_ARG, "axes"},
    {O_ROPE, OPT, ROPE_AXES, 0, -1, TFB_ERR_ARG, "axes"},
    {O_ROPE, OPT, ROPE_START, 0, FAR, TFB_ERR_RANGE, "2^24"},
    {O_ROPE, PUT, Q_POS, 3, 1 << 24, TFB_ERR_RANGE, "2^24"},
    {O_ROPE, PUT, K_POS, 3, 1 << 24, TFB_ERR_RANGE, "2^24"},
    {O_ROPE, PUT, K_POS, 0, -(1 << 24), TFB_ERR_RANGE, "2^24"},
};

static void spoil_option(attend *c, int which, int dim, tfb_idx value) {
    switch (which) {
    case LEFT: c->o.left = value; break;
    case RIGHT: c->o.right = value; break;
    case PIN: c->o.window_pinned = value; break;
    case WINDOW: c->o.window = value; break;
    case OFFSET: c->o.offset = value, attend_drop(c, OFFSETS); break;
    case POS0: c->o.key_pos0 = value, attend_drop(c, POS0S); break;
    case KEY_PINNED: c->o.key_pinned = value; break;
    case SKIP_ROWS: c->o.page_skip = value; break;
    case CAP: c->o.softcap = dim ? tfb__float_of(0x7FC00000u) : (float)value; break;
    case NORM: c->qk.norm = (tfb_qk_norm)value; break;
    case EPS: c->qk.eps = (float)value, c->qk.eps_set = 1; break;
    case ROPE_DIMS: c->rope.dims = (int)value; break;
    case ROPE_BASE: c->rope.base = (double)value, attend_drop(c, FREQS); break;
    case ROPE_AXES: c->rope.axes = (int)value; break;
    case ROPE_START:
        c->rope.start = value;
        attend_drop(c, Q_POS);
        attend_drop(c, K_POS);
        break;
    case NO_CU_Q: attend_drop(c, CU_Q); break;
    default: c->t[Q].shape[0] = c->t[Y].shape[0] = c->t[LSE].shape[0] = value;
    }
}

static void spoil_call(attend *c, const spoil *s) {
    tfb_tensor *t = &c->t[s->which < TENSORS ? s->which : 0];
    switch (s->field) {
    case NDIM: t->ndim = (int)s->value; break;
    case EXTENT: t->shape[s->dim] = s->value; break;
    case STRIDE: t->stride[s->dim] = s->value; break;
    case DTYPE: t->dtype = (tfb_dtype)s->value; break;
    case DATA: t->data = NULL; break;
    case SHIFT: t->data = (char *)t->data + s->value; break;
    case UNDER: t->data = c->t[s->dim].data; break;
    case PUT: ((int32_t *)t->data)[s->dim] = (int32_t)s->value; break;
    case OPT: spoil_option(c, s->which, s->dim, s->value); break;
    }
}

/* Outputs are zeros before and after, which as integers are legal lengths. */
static void refused(const spoil *s) {
    tfb_ctx ctx;
    attend c = full_call(s->options);
    tfb_status got;
    tfb_idx i;
    t_ctx(&ctx, NULL);
    floats_set(c.mem[Y], c.mem_n[Y], 0);
    floats_set(c.mem[LSE], c.mem_n[LSE], 0);
    CHECK(attend_call(&ctx, &c) == TFB_OK, "unspoilt: %s: %s", ctx.message,
          attend_text(&c));
    floats_set(c.mem[Y], c.mem_n[Y], 0);
    floats_set(c.mem[LSE], c.mem_n[LSE], 0);
    spoil_call(&c, s);
    got = attend_call(&ctx, &c);
    CHECK(got < 0 && (s->want == TFB_OK || got == s->want),
          "tensor or option %d, field %d, dim %d, value %ld gave %d (%s), wanted %d: %s",
          s->which, (int)s->field, s->dim, (long)s->value, (int)got, ctx.message,
          (int)s->want, attend_text(&c));
    CHECK(strstr(ctx.message, s->text) != NULL, "\"%s\" lacks \"%s\": field %d dim %d",
          ctx.message, s->text, (int)s->field, s->dim);
    for (i = 0; i < c.mem_n[Y]; i++)
        CHECK(tfb__bits_of(((float *)c.mem[Y])[i]) == 0, "y was written: %s", s->text);
    for (i = 0; i < c.mem_n[LSE]; i++)
        CHECK(tfb__bits_of(((float *)c.mem[LSE])[i]) == 0, "lse was written: %s",
              s->text);
    attend_free(&c);
    tfb_ctx_free(&ctx);
}

static void bad_options(void) {
    size_t i;
    for (i = 0; i < sizeof spoils / sizeof *spoils; i++) refused(spoils + i);
}

/* What any tensor can have wrong. A first extent of cu_q is free within [n + 1]. */
static void bad_tensors(void) {
    int i, kind;
    for (i = 0; i < VICTIMS; i++)
        for (kind = 0; kind < 9; kind++) {
            const victim *v = victims + i;
            spoil s;
            s.options = v->options, s.which = v->which, s.dim = 0, s.text = v->text;
            s.field = kind < 2    ? NDIM
                      : kind < 4  ? EXTENT
                      : kind == 4 ? DTYPE
                      : kind == 5 ? DATA
                      : kind == 6 ? SHIFT
                      : kind == 7 ? STRIDE
                                  : DTYPE;
            s.value = kind == 0   ? 5
                      : kind == 1 ? -1
                      : kind == 2 ? 7
                      : kind == 3 ? PTRDIFF_MAX
                      : kind == 4 ? (tfb_idx)v->not_this
                      : kind == 6 ? 1
                      : kind == 7 ? PTRDIFF_MAX
                                  : 99;
            s.want = kind < 3                 ? TFB_ERR_SHAPE
                     : kind == 3              ? TFB_OK
                     : kind == 4              ? TFB_ERR_DTYPE
                     : kind == 5 || kind == 6 ? TFB_ERR_ARG
                     : kind == 7              ? TFB_ERR_RANGE
                                              : TFB_ERR_DTYPE;
            if (kind == 2 && v->options == O_PACKED) /* fewer, lest more be read */
                s.value = 2, s.want = TFB_OK;
            if (v->which == MASK && kind == 6) continue; /* bytes are always aligned */
            if (kind == 3 || kind == 2) s.text = "";     /* another may be named */
            refused(&s);
        }
}

static void outputs_overlap_nothing(void) {
    int i, out;
    for (i = 0; i < VICTIMS; i++)
        for (out = Y; out <= LSE; out++) {
            spoil s;
            s.options = victims[i].options;
            s.field = UNDER, s.which = victims[i].which, s.dim = out, s.value = 0;
            s.want = TFB_ERR_ALIAS;
            s.text = "overlaps"; /* maybe what lies behind the output too */
            if (s.which == CU_Q || s.which == CU_K) /* zeros are no legal lengths */
                s.want = TFB_OK, s.text = "";
            refused(&s);
        }
}

int main(void) {
    RUN(each_option_alone);
    RUN(all_options_at_random);
    RUN(head_dims);
    RUN(several_splits);
    RUN(keys_side_by_side);
    RUN(rope_against_float64);
    RUN(reference_by_bits);
    RUN(chunks_and_workers);
    RUN(workers_share_splits);
    RUN(every_table);
    RUN(queries_in_pieces);
    RUN(each_of_a_batch_alone);
    RUN(padded_is_sliced);
    RUN(packed_is_separate);
    RUN(whole_splits_further_on);
    RUN(empty_extents);
    RUN(open_bounds_change_nothing);
    RUN(hidden_never_leaks);
    RUN(rest_of_pools_never_leaks);
    RUN(rows_without_a_key);
    RUN(bad_options);
    RUN(bad_tensors);
    RUN(outputs_overlap_nothing);
    FINISH();
}
