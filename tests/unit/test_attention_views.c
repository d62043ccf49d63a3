/* Attention beside tfb_attention on whole tensors: pages and rings against contiguous
 * keys, tfb_attention_weights, tfb_merge_states, scratch and memory with every option. */
#include "../test.h"
#include "attend.h"

/* --- Pages and rings. --- */
static void put_element(const tfb_tensor *to, const tfb_idx *at, const tfb_tensor *from,
                        const tfb_idx *at_from) {
    const size_t bytes = tfb_dtype_size(to->dtype);
    memcpy((char *)to->data + (size_t)attend_at(to, at[0], at[1], at[2], at[3]) * bytes,
           (char *)from->data +
               attend_at(from, at_from[0], at_from[1], at_from[2], at_from[3]) *
                   (tfb_idx)bytes,
           bytes);
}

static void fill_nan(void *mem, tfb_dtype dtype, tfb_idx n) {
    tfb_idx i;
    for (i = 0; i < n; i++) {
        if (dtype == TFB_F32) ((float *)mem)[i] = tfb__float_of(0x7FC00000u);
        else ((uint16_t *)mem)[i] = 0x7FFF;
    }
}

/* Row `row` of batch b of a paged call. */
static void page_of(const attend *p, tfb_idx b, tfb_idx row, tfb_idx *at) {
    row += p->o.page_skip;
    at[0] = (tfb_idx)get(&p->t[PAGES], 0, 0, b, row / p->page);
    at[2] = row % p->page;
}

static void fill_pool(attend *p, const attend *c, int which) {
    tfb_idx at[4], from[4];
    for (from[0] = 0; from[0] < c->B; from[0]++)
        for (from[1] = 0; from[1] < c->G; from[1]++)
            for (from[2] = 0; from[2] < c->S; from[2]++)
                for (from[3] = 0; from[3] < c->t[which].shape[3]; from[3]++) {
                    at[1] = from[1];
                    at[3] = from[3];
                    page_of(p, from[0], from[2], at);
                    put_element(&p->t[which], at, &c->t[which], from);
                }
}

/* The keys of c in pages: shuffled, or each batch's in turn from `turn` on as a ring has
 * them. Rows without a key are NaN. */
static attend attend_paged(const attend *c, tfb_idx page, tfb_idx turn) {
    attend p = attend_again(c);
    const int exact = has(c, MASK) || has(c, BIAS) || has(c, K_POS); /* of extent S */
    const tfb_idx n = (c->S + page - 1) / page + (exact ? 0 : t_int(0, 1));
    const tfb_idx spare = TFB__MIN(page - 1, n * page - c->S);
    tfb_idx b, i;
    p.page = page;
    p.o.page_skip = exact ? spare : t_int(0, spare);
    p.pool = c->B * n;
    p.S = n * page - p.o.page_skip; /* the rows of all pages */
    attend_add(&p, PAGES, TFB_I32, "BN", 0);
    for (b = 0; b < c->B; b++)
        for (i = 0; i < n; i++)
            put_i(&p.t[PAGES], b, i,
                  turn < 0 ? c->B * ((i + 1) * 7919 % n) + b : b * n + (i + turn) % n);
    attend_add(&p, K, c->t[K].dtype, "PGRD", 0);
    attend_add(&p, V, c->t[V].dtype, "PGRV", 0);
    fill_nan(p.mem[K], p.t[K].dtype, p.mem_n[K]);
    fill_nan(p.mem[V], p.t[V].dtype, p.mem_n[V]);
    fill_pool(&p, c, K);
    fill_pool(&p, c, V);
    if (p.S > c->S && !has(c, KV_LEN)) { /* some rows at the end hold no key */
        attend_add(&p, KV_LEN, TFB_I32, "n", 0);
        for (b = 0; b < c->B; b++) put_i(&p.t[KV_LEN], 0, b, c->S);
    }
    return p;
}

static void pages_of_every_size(void) {
    static const tfb_idx sizes[] = {1, 3, 16, 64, 100};
    tfb_ctx ctx;
    int it, i;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 30; it++) {
        const int none = O_PACKED | O_PAGES;
        attend c = attend_random(random_options() & ~none);
        float *want = attend_result(&ctx, &c);
        for (i = 0; i < 5; i++) {
            attend p = attend_paged(&c, sizes[i], -1);
            attend_same(&ctx, &p, want, "pages of", (long)sizes[i]);
            attend_free(&p);
        }
        free(want);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* keys[first .. first + n - 1] of the whole, as a call of its own. */
static void cut_keys(tfb_ctx *ctx, attend *c, tfb_idx first, tfb_idx n) {
    CHECK_OK(ctx, tfb_slice(ctx, &c->t[K], 2, first, n, &c->t[K]));
    CHECK_OK(ctx, tfb_slice(ctx, &c->t[V], 2, first, n, &c->t[V]));
    c->S = n;
}

/* The last keys of a long sequence in a ring of pages give the bits of a slice that says
 * where it starts, and those of all keys seen through a window. */
static void ring_of_pages(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 30; it++) {
        const tfb_idx T = t_int(1, 9), N = it % 3 ? t_int(60, 300) : t_int(1000, 1500);
        const tfb_idx base = t_int(0, N - T - 1), page = t_int(1, 70);
        attend c = attend_of(t_int(1, 2), 2, 1, T, N, t_int(1, 9), t_int(1, 9)), slice;
        attend ring;
        float *want;
        attend_make(&c, (random_options() & (O_ALIBI | O_SINKS | O_CAP | O_HALF | O_ROPE |
                                             O_NORM | O_LAYOUT)) |
                            O_WINDOW);
        attend_drop(&c, K_POS);
        c.o.causal = TFB_CAUSAL_BOTTOM_RIGHT;
        c.o.window = t_int(1, N - T - base + 1);
        want = attend_result(&ctx, &c);
        slice = attend_again(&c);
        cut_keys(&ctx, &slice, base, N - base);
        slice.o.key_pos0 = base;
        attend_same(&ctx, &slice, want, "slice from", (long)base);
        ring = attend_paged(&slice, page, t_int(0, 9));
        attend_same(&ctx, &ring, want, "ring of pages of", (long)page);
        free(want);
        attend_free(&ring);
        attend_free(&slice);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* Rows 0 .. pinned - 1 and base .. S - 1 of k or v of c. */
static void keep_ends(attend *r, const attend *c, int which, tfb_idx pinned,
                      tfb_idx base) {
    tfb_idx at[4], from[4];
    for (at[0] = 0; at[0] < c->B; at[0]++)
        for (at[1] = 0; at[1] < c->G; at[1]++)
            for (at[2] = 0; at[2] < r->S; at[2]++)
                for (at[3] = 0; at[3] < c->t[which].shape[3]; at[3]++) {
                    memcpy((void *)from, (void *)at, sizeof at);
                    if (at[2] >= pinned) from[2] += base - pinned;
                    put_element(&r->t[which], at, &c->t[which], from);
                }
}

/* A ring that keeps its first rows: all keys through window and window_pinned. The keys
 * it no longer has would be NaN: nothing may be made of the gap. */
static void ring_with_pinned_rows(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 30; it++) {
        const tfb_idx T = t_int(1, 9), N = it % 3 ? t_int(60, 300) : t_int(1000, 1500);
        const tfb_idx pinned = t_int(1, 40), base = t_int(pinned, N - T - 1);
        attend c = attend_of(t_int(1, 2), 2, 1, T, N, t_int(1, 9), t_int(1, 9)), ring;
        attend pages;
        float *want;
        attend_make(&c, (random_options() & (O_ALIBI | O_SINKS | O_CAP | O_HALF | O_ROPE |
                                             O_NORM | O_LAYOUT)) |
                            O_WINDOW);
        attend_drop(&c, K_POS);
        c.o.causal = TFB_CAUSAL_BOTTOM_RIGHT;
        c.o.window = t_int(1, N - T - base + 1);
        c.o.window_pinned = pinned;
        want = attend_result(&ctx, &c);
        ring = attend_again(&c);
        ring.S = pinned + N - base;
        attend_add(&ring, K, c.t[K].dtype, "BGSD", 0);
        attend_add(&ring, V, c.t[V].dtype, "BGSV", 0);
        keep_ends(&ring, &c, K, pinned, base);
        keep_ends(&ring, &c, V, pinned, base);
        ring.o.key_pinned = pinned;
        ring.o.key_pos0 = base - pinned;
        attend_same(&ctx, &ring, want, "pinned ring", (long)pinned);
        pages = attend_paged(&ring, t_int(1, 70), -1);
        attend_same(&ctx, &pages, want, "pinned ring of pages", (long)pages.page);
        free(want);
        attend_free(&pages);
        attend_free(&ring);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* Without a causal mask: the absent rows equal rows that a mask hides. */
static void absent_rows_are_hidden_rows(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 20; it++) {
        const tfb_idx N = t_int(60, 300), pinned = t_int(1, 40);
        const tfb_idx base = t_int(pinned, N - 1);
        attend c = attend_of(1, 2, 1, t_int(1, 9), N, t_int(1, 9), t_int(1, 9)), ring;
        float *want;
        tfb_idx j;
        attend_make(&c, random_options() & (O_SINKS | O_HALF | O_ALIBI | O_ROPE));
        attend_drop(&c, K_POS);
        ring = attend_again(&c);
        attend_add(&c, MASK, TFB_U8, "S", 0);
        for (j = 0; j < N; j++) ((uint8_t *)c.mem[MASK])[j] = j < pinned || j >= base;
        want = attend_result(&ctx, &c);
        ring.S = pinned + N - base;
        attend_add(&ring, K, c.t[K].dtype, "BGSD", 0);
        attend_add(&ring, V, c.t[V].dtype, "BGSV", 0);
        keep_ends(&ring, &c, K, pinned, base);
        keep_ends(&ring, &c, V, pinned, base);
        ring.o.key_pinned = pinned;
        ring.o.key_pos0 = base - pinned;
        attend_same(&ctx, &ring, want, "absent rows, pinned", (long)pinned);
        free(want);
        attend_free(&ring);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* --- tfb_attention_weights. --- */
/* w[B, H, R, S] densely in fresh memory; rows NULL: all. */
static float *weights_of(tfb_ctx *ctx, attend *c, const tfb_tensor *rows, tfb_idx R) {
    float *mem = t_floats(c->B * c->H * R * c->S);
    tfb_tensor w = tfb_view4(mem, TFB_F32, c->B, c->H, R, c->S);
    attend_link(c);
    c->o.lse = NULL;
    CHECK(tfb_attention_weights(ctx, &c->t[Q], &c->t[K], &c->o, rows, &w) == TFB_OK,
          "%s: %s", ctx->message, attend_text(c));
    return mem;
}

/* Against float64, bounds as there; hidden keys have 0 as bits; y is w v, twice the bound
 * of w and (S + 2) u for this sum apart. */
static void weights_check(const attend *p, const float *w, const float *y,
                          const char *what) {
    const double u = 1.0 / 16777216;
    double *want = (double *)malloc((size_t)p->S * 2 * sizeof *want + 1), lse_off;
    double *off = want + p->S;
    tfb_idx r, j, d;
    if (!want) exit(99);
    for (r = 0; r < p->B * p->H * p->T; r++, w += p->S, y += p->Dv) {
        const tfb_idx b = r / (p->H * p->T), h = r / p->T % p->H, i = r % p->T;
        const double lse = attend64(p, b, h, i, want, off, &lse_off);
        double sum = 0, all = 1, most = 1e-15; /* 1 - share rounds too */
        for (j = 0; j < p->S; j++) {
            sum += (double)w[j];
            if (off[j] < 0)
                CHECK(tfb__bits_of(w[j]) == 0, "hidden key %ld: %g: %s", (long)j,
                      (double)w[j], what);
            else {
                CHECK(fabs((double)w[j] - want[j]) <= want[j] * off[j] + 1e-37,
                      "w[%ld, %ld, %ld, %ld] is %.9g, not %.9g: %s", (long)b, (long)h,
                      (long)i, (long)j, (double)w[j], want[j], what);
                most += want[j] * off[j];
            }
        }
        if (has(p, SINKS)) all -= exp(get(&p->t[SINKS], 0, 0, 0, h) - lse);
        if (lse < -1e300) all = 0;
        CHECK(fabs(sum - all) <= most, "the sum is %.9g, not %.9g (%g): %s", sum, all,
              most, what);
        for (d = 0; d < p->Dv; d++) {
            double product = 0;
            most = 1e-30;
            for (j = 0; j < p->S; j++) {
                const double v =
                    off[j] < 0 ? 0 : get(&p->t[V], b, h / (p->H / p->G), j, d);
                product += (double)w[j] * v;
                most += fabs(want[j] * v) * (2 * off[j] + (double)(p->S + 2) * u);
            }
            CHECK(fabs(product - (double)y[d]) <= most, "w v is %.9g, y %.9g: %s",
                  product, (double)y[d], what);
        }
    }
    free(want);
}

static void weights_against_float64(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 150; it++) {
        attend c = attend_random(random_options()), p = attend_plain(&ctx, &c);
        float *y = attend_result(&ctx, &c), *w = weights_of(&ctx, &c, NULL, c.T);
        weights_check(&p, w, y, attend_text(&c));
        free(y);
        free(w);
        attend_free(&p);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* Chosen rows in any order, again and again, have the bits they have among all; so with
 * any number of workers and any chunk. */
static void weights_of_chosen_rows(void) {
    tfb_ctx ctx, threads;
    int it;
    t_ctx(&ctx, NULL);
    t_ctx(&threads, NULL);
    CHECK_OK(&threads, tfb_ctx_threads(&threads, 3, 50));
    for (it = 0; it < 60; it++) {
        attend c = attend_random(random_options());
        const tfb_idx R = t_int(0, 12);
        int32_t which[12];
        tfb_tensor rows = tfb_view1(which, TFB_I32, R);
        float *all = weights_of(&ctx, &c, NULL, c.T), *some;
        tfb_idx r, bh;
        for (r = 0; r < R; r++) which[r] = (int32_t)t_int(0, c.T - 1);
        c.o.chunk_size = t_int(0, 3);
        some = weights_of(it & 1 ? &ctx : &threads, &c, &rows, R);
        for (bh = 0; bh < c.B * c.H; bh++)
            for (r = 0; r < R; r++)
                CHECK_BITS(some + (bh * R + r) * c.S, all + (bh * c.T + which[r]) * c.S,
                           c.S, "row %d: %s", (int)which[r], attend_text(&c));
        free(all);
        free(some);
        attend_free(&c);
    }
    tfb_ctx_free(&threads);
    tfb_ctx_free(&ctx);
}

static void weights_of_every_table(void) {
    tfb_ctx ctx, forced;
    const char *name;
    int i, it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 20; it++) {
        attend c = attend_random(random_options());
        float *first = weights_of(&ctx, &c, NULL, c.T), *now;
        for (i = 0; (name = tfb_isa_list(&ctx, i, NULL)) != NULL; i++) {
            CHECK_OK(&ctx, tfb_ctx_init(&forced));
            if (t_force(&forced, name)) {
                now = weights_of(&forced, &c, NULL, c.T);
                CHECK_BITS(now, first, c.B * c.H * c.T * c.S, "%s: %s", name,
                           attend_text(&c));
                free(now);
            }
            tfb_ctx_free(&forced);
        }
        free(first);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* What can be wrong with a call of tfb_attention_weights. */
typedef struct weights_spoil {
    int field, dim; /* 0 a row number, 1 extent, 2 ndim, 3 dtype, 4 stride of w; 5 .. 7
                       dtype, ndim, data of rows; 8 w over q, 9 w over rows; 10 w NULL;
                       11 q NULL; 12 k NULL; 13 data of w */
    tfb_idx value;
    tfb_status want;
    const char *text;
} weights_spoil;

static const weights_spoil weights_spoils[] = {
    {0, 1, 5, TFB_ERR_RANGE, "rows"},     {0, 0, -1, TFB_ERR_RANGE, "rows"},
    {1, 0, 3, TFB_ERR_SHAPE, "w.shape"},  {1, 1, 3, TFB_ERR_SHAPE, "w.shape"},
    {1, 2, 4, TFB_ERR_SHAPE, "w.shape"},  {1, 3, 7, TFB_ERR_SHAPE, "w.shape"},
    {2, 0, 3, TFB_ERR_SHAPE, "w.ndim"},   {3, 0, TFB_F16, TFB_ERR_DTYPE, "w is F16"},
    {4, 3, 0, TFB_ERR_SHAPE, "overlap"},  {5, 0, TFB_F32, TFB_ERR_DTYPE, "rows is F32"},
    {6, 0, 2, TFB_ERR_SHAPE, "rows"},     {7, 0, 0, TFB_ERR_ARG, "rows.data"},
    {8, 0, 0, TFB_ERR_ALIAS, "overlaps"}, {9, 0, 0, TFB_ERR_ALIAS, "overlaps"},
    {10, 0, 0, TFB_ERR_ARG, "w is NULL"}, {11, 0, 0, TFB_ERR_ARG, "q is NULL"},
    {12, 0, 0, TFB_ERR_ARG, "k is NULL"}, {13, 0, 0, TFB_ERR_ARG, "w.data"}};

static void weights_bad_input(void) {
    tfb_ctx ctx;
    size_t n;
    tfb_idx i;
    t_ctx(&ctx, NULL);
    for (n = 0; n < sizeof weights_spoils / sizeof *weights_spoils; n++) {
        const weights_spoil *s = weights_spoils + n;
        attend c = attend_of(2, 2, 1, 5, 6, 4, 3);
        float mem[2 * 2 * 3 * 6];
        int32_t which[3] = {4, 0, 4};
        tfb_tensor w = tfb_view4(mem, TFB_F32, 2, 2, 3, 6);
        tfb_tensor rows = tfb_view1(which, TFB_I32, 3);
        attend_make(&c, O_CAUSAL);
        floats_set(mem, 72, SENTINEL);
        if (s->field == 0) which[s->dim] = (int32_t)s->value;
        if (s->field == 1) w.shape[s->dim] = s->value;
        if (s->field == 2) w.ndim = (int)s->value;
        if (s->field == 3) w.dtype = (tfb_dtype)s->value;
        if (s->field == 4) w.stride[s->dim] = s->value;
        if (s->field == 5) rows.dtype = (tfb_dtype)s->value;
        if (s->field == 6) rows.ndim = (int)s->value;
        if (s->field == 7) rows.data = NULL;
        if (s->field == 8) c.t[Q].data = mem;
        if (s->field == 9) w.data = which;
        if (s->field == 13) w.data = NULL;
        attend_link(&c);
        c.o.lse = NULL;
        CHECK_FAILS(&ctx, s->want, s->text,
                    tfb_attention_weights(&ctx, s->field == 11 ? NULL : &c.t[Q],
                                          s->field == 12 ? NULL : &c.t[K], &c.o, &rows,
                                          s->field == 10 ? NULL : &w));
        CHECK(strstr(ctx.message, "tfb_attention_weights") != NULL, "%s", ctx.message);
        for (i = 0; i < 72; i++)
            CHECK(tfb__bits_of(mem[i]) == tfb__bits_of(SENTINEL), "w was written");
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* --- tfb_merge_states. --- */
typedef struct states {
    tfb_idx n, rows, Dv; /* rows: B 2, H 3, T rows / 6 */
    float *y, *lse;      /* [n][rows][Dv], [n][rows] */
    float *out, *out_lse;
} states;

static states states_new(tfb_idx n, tfb_idx T, tfb_idx Dv) {
    states s;
    s.n = n;
    s.rows = 6 * T;
    s.Dv = Dv;
    s.y = t_floats(n * s.rows * Dv);
    s.lse = t_floats(n * s.rows);
    s.out = t_floats(s.rows * Dv);
    s.out_lse = t_floats(s.rows);
    return s;
}

static void states_free(states *s) {
    free(s->y);
    free(s->lse);
    free(s->out);
    free(s->out_lse);
}

static void states_merge(tfb_ctx *ctx, states *s) {
    tfb_tensor ys = tfb_view4(s->y, TFB_F32, s->n, 2, 3, s->rows / 6);
    tfb_tensor lses = tfb_view4(s->lse, TFB_F32, s->n, 2, 3, s->rows / 6);
    tfb_tensor y = tfb_view4(s->out, TFB_F32, 2, 3, s->rows / 6, s->Dv);
    tfb_tensor lse = tfb_view3(s->out_lse, TFB_F32, 2, 3, s->rows / 6);
    ys.ndim = 5;
    ys.shape[4] = s->Dv;
    ys.stride[4] = 1;
    ys.stride[3] = s->Dv;
    ys.stride[2] = s->rows / 6 * s->Dv;
    ys.stride[1] = 3 * ys.stride[2];
    ys.stride[0] = 2 * ys.stride[1];
    CHECK_OK(ctx, tfb_merge_states(ctx, &ys, &lses, &y, &lse));
    CHECK(ctx->scratch_last == 0, "scratch %lu", (unsigned long)ctx->scratch_last);
}

/* With L = log sum exp(lse_i): y = sum exp(lse_i - L) y_i. Joined one after the other,
 * each step's lse is off by 2 u|lse| and more by exp, log and a product or two: 16 u +
 * 4 u|lse| a step, and a part's weight by the differences from L, once. */
static void merge_row_check(const states *s, tfb_idx row) {
    const double u = 1.0 / 16777216;
    double top = -HUGE_VAL, most = 0, sum = 0, off, lse;
    tfb_idx p, d;
    for (p = 0; p < s->n; p++) top = fmax(top, (double)s->lse[p * s->rows + row]);
    for (p = 0; p < s->n; p++) {
        const double x = (double)s->lse[p * s->rows + row];
        if (x > -1e300) most = fmax(most, fabs(x));
        if (x > -1e300) sum += exp(x - top);
    }
    lse = top + log(sum);
    off = u * (double)(s->n + 1) * (16 + 4 * most);
    if (!(sum > 0)) {
        CHECK(s->out_lse[row] < -FLT_MAX, "lse of nothing is %g",
              (double)s->out_lse[row]);
        for (d = 0; d < s->Dv; d++)
            CHECK(tfb__bits_of(s->out[row * s->Dv + d]) == 0, "y of nothing");
        return;
    }
    CHECK(fabs((double)s->out_lse[row] - lse) <= off, "lse is %.9g, not %.9g",
          (double)s->out_lse[row], lse);
    for (d = 0; d < s->Dv; d++) {
        double want = 0, size = 1e-30;
        for (p = 0; p < s->n; p++) {
            const double x = (double)s->lse[p * s->rows + row];
            const double y = (double)s->y[(p * s->rows + row) * s->Dv + d];
            if (x > -1e300) want += exp(x - lse) * y;
            if (x > -1e300) size += exp(x - lse) * fabs(y);
        }
        CHECK(fabs((double)s->out[row * s->Dv + d] - want) <= off * size,
              "y is %.9g, not %.9g (%g), %ld parts", (double)s->out[row * s->Dv + d],
              want, off * size, (long)s->n);
    }
}

static void merge_against_float64(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 40; it++) {
        states s = states_new(it < 6 ? it / 2 : t_int(2, 9), t_int(1, 4), t_int(1, 40));
        tfb_idx i;
        for (i = 0; i < s.n * s.rows; i++) {
            s.lse[i] *= it & 1 ? 50.0f : 3.0f;
            if (!t_int(0, 3)) s.lse[i] = -TFB__FLT_INF;
        }
        states_merge(&ctx, &s);
        for (i = 0; i < s.rows; i++) merge_row_check(&s, i);
        states_free(&s);
    }
    tfb_ctx_free(&ctx);
}

/* One part that is not empty comes through as it is, whatever finite y the others hold;
 * -0.0 and subnormal values too. */
static void merge_with_nothing_is_identity(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 24; it++) {
        states s = states_new(it < 4 ? 1 : t_int(2, 4), 3, 19);
        const tfb_idx keep = t_int(0, s.n - 1);
        tfb_idx i;
        for (i = 0; i < s.n * s.rows; i++)
            s.lse[i] = i / s.rows == keep ? s.lse[i] * 80 : -TFB__FLT_INF;
        s.y[keep * s.rows * 19] = -0.0f;
        s.y[keep * s.rows * 19 + 1] = 1e-40f;
        s.y[keep * s.rows * 19 + 2] = FLT_MAX;
        for (i = 0; i < s.n * s.rows * 19; i++)
            if (i / (s.rows * 19) != keep) s.y[i] *= FLT_MAX;
        states_merge(&ctx, &s);
        CHECK_BITS(s.out, s.y + keep * s.rows * 19, s.rows * 19, "part %ld of %ld",
                   (long)keep, (long)s.n);
        CHECK_BITS(s.out_lse, s.lse + keep * s.rows, s.rows, "lse of part %ld of %ld",
                   (long)keep, (long)s.n);
        states_free(&s);
    }
    tfb_ctx_free(&ctx);
}

/* tfb_merge_state has the bits of tfb_merge_states of two, in place too, lse or none. */
static void merge_of_two(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 12; it++) {
        states s = states_new(2, t_int(1, 4), it % 3 ? t_int(1, 40) : t_int(250, 600));
        const tfb_idx T = s.rows / 6, n = s.rows * s.Dv;
        float *got = t_floats(n), *got_lse = t_floats(s.rows);
        tfb_tensor y1 = tfb_view4(s.y, TFB_F32, 2, 3, T, s.Dv), y2 = y1, y = y1;
        tfb_tensor lse1 = tfb_view3(s.lse, TFB_F32, 2, 3, T), lse2 = lse1, lse = lse1;
        tfb_idx i;
        for (i = 0; i < 2 * s.rows; i++)
            if (!t_int(0, 4)) s.lse[i] = -TFB__FLT_INF;
        y2.data = s.y + n;
        lse2.data = s.lse + s.rows;
        y.data = got;
        lse.data = got_lse;
        states_merge(&ctx, &s);
        CHECK_OK(&ctx, tfb_merge_state(&ctx, &y1, &lse1, &y2, &lse2, &y, &lse));
        CHECK_BITS(got, s.out, n, "merge of two");
        CHECK_BITS(got_lse, s.out_lse, s.rows, "lse, merge of two");
        floats_set(got, n, SENTINEL);
        CHECK_OK(&ctx, tfb_merge_state(&ctx, &y1, &lse1, &y2, &lse2, &y, NULL));
        CHECK_BITS(got, s.out, n, "merge without lse");
        CHECK_OK(&ctx, tfb_merge_state(&ctx, &y1, &lse1, &y2, &lse2, &y1, &lse1));
        CHECK_BITS(s.y, s.out, n, "merge in place");
        CHECK_BITS(s.lse, s.out_lse, s.rows, "lse, merge in place");
        free(got);
        free(got_lse);
        states_free(&s);
    }
    tfb_ctx_free(&ctx);
}

/* Keys cut at multiples of 1024, each part by tfb_attention, joined, and with a sink
 * as one more part: the whole, within attention's own bound, whose S u has room for
 * it. */
static void merge_is_attention_over_all(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 6; it++) {
        const int sink = it & 1;
        attend c = attend_of(2, 3, 1, t_int(1, 3), t_int(2049, 3000), 5, 6), part, p;
        states s = states_new(3 + sink, c.T, 6);
        const tfb_idx n = s.rows * 6;
        float *both;
        tfb_idx k, i, h;
        attend_make(&c, (it & 2 ? O_CAUSAL : 0) | (sink ? O_SINKS : 0));
        c.o.causal = it & 2 ? TFB_CAUSAL_BOTTOM_RIGHT : TFB_CAUSAL_NONE;
        p = attend_plain(&ctx, &c);
        for (k = 0; k < 3; k++) {
            part = attend_again(&c);
            attend_drop(&part, SINKS);
            cut_keys(&ctx, &part, 1024 * k, TFB__MIN(1024, c.S - 1024 * k));
            part.o.key_pos0 = 1024 * k;
            part.o.offset_set = 1;
            part.o.offset = c.S - c.T - 1024 * k;
            both = attend_result(&ctx, &part);
            memcpy(s.y + k * n, both, (size_t)n * 4);
            memcpy(s.lse + k * s.rows, both + n, (size_t)s.rows * 4);
            free(both);
            attend_free(&part);
        }
        for (i = 0; i < s.rows && sink; i++) {
            h = i / c.T % 3;
            s.lse[3 * s.rows + i] = (float)get(&c.t[SINKS], 0, 0, 0, h);
            floats_set(s.y + 3 * n + i * 6, 6, 0);
        }
        states_merge(&ctx, &s);
        for (i = 0; i < s.rows; i++) merge_row_check(&s, i);
        both = t_floats(n + s.rows);
        memcpy(both, s.out, (size_t)n * 4);
        memcpy(both + n, s.out_lse, (size_t)s.rows * 4);
        attend_check64(&p, both, "parts merged");
        free(both);
        states_free(&s);
        attend_free(&p);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* One thing wrong: tensor (0 ys, 1 lses, 2 y, 3 lse), then as in spoilt_tensor. */
typedef struct merge_spoil {
    int which, field, dim;
    tfb_idx value;
    tfb_status want;
    const char *text;
} merge_spoil;

enum { M_NULL, M_NDIM, M_EXTENT, M_STRIDE, M_DTYPE, M_DATA, M_SHIFT, M_OVER };

static const merge_spoil merge_spoils[] = {
    {0, M_NULL, 0, 0, TFB_ERR_ARG, "ys is NULL"},
    {1, M_NULL, 0, 0, TFB_ERR_ARG, "lses is NULL"},
    {2, M_NULL, 0, 0, TFB_ERR_ARG, "y is NULL"},
    {0, M_NDIM, 0, 4, TFB_ERR_SHAPE, "ys.ndim is 4"},
    {1, M_NDIM, 0, 3, TFB_ERR_SHAPE, "lses.ndim is 3"},
    {2, M_NDIM, 0, 3, TFB_ERR_SHAPE, "y.ndim is 3"},
    {3, M_NDIM, 0, 2, TFB_ERR_SHAPE, "lse.ndim is 2"},
    {1, M_EXTENT, 0, 1, TFB_ERR_SHAPE, "shape[0]"},
    {1, M_EXTENT, 2, 1, TFB_ERR_SHAPE, "shape[2]"},
    {0, M_EXTENT, 3, 1, TFB_ERR_SHAPE, "shape"},
    {2, M_EXTENT, 3, 1, TFB_ERR_SHAPE, "shape"},
    {2, M_EXTENT, 0, 2, TFB_ERR_SHAPE, "shape"},
    {3, M_EXTENT, 1, 1, TFB_ERR_SHAPE, "shape[1]"},
    {0, M_EXTENT, 0, -1, TFB_ERR_SHAPE, "ys.shape[0] is -1"},
    {0, M_EXTENT, 1, PTRDIFF_MAX, TFB_ERR_RANGE, "the size of ys"},
    {0, M_STRIDE, 2, PTRDIFF_MAX, TFB_ERR_RANGE, "the size of ys"},
    {2, M_STRIDE, 1, 0, TFB_ERR_SHAPE, "elements would overlap"},
    {3, M_STRIDE, 1, 0, TFB_ERR_SHAPE, "elements would overlap"},
    {0, M_DTYPE, 0, TFB_F16, TFB_ERR_DTYPE, "ys is F16"},
    {1, M_DTYPE, 0, TFB_I32, TFB_ERR_DTYPE, "lses is I32"},
    {2, M_DTYPE, 0, TFB_BF16, TFB_ERR_DTYPE, "y is BF16"},
    {3, M_DTYPE, 0, 99, TFB_ERR_DTYPE, "lse.dtype is 99"},
    {0, M_DATA, 0, 0, TFB_ERR_ARG, "ys.data is NULL"},
    {1, M_DATA, 0, 0, TFB_ERR_ARG, "lses.data is NULL"},
    {2, M_DATA, 0, 0, TFB_ERR_ARG, "y.data is NULL"},
    {3, M_DATA, 0, 0, TFB_ERR_ARG, "lse.data is NULL"},
    {0, M_SHIFT, 0, 1, TFB_ERR_ARG, "ys.data is not aligned"},
    {2, M_OVER, 0, 0, TFB_ERR_ALIAS, "y overlaps ys"},
    {2, M_OVER, 1, 0, TFB_ERR_ALIAS, "y overlaps lses"},
    {3, M_OVER, 0, 0, TFB_ERR_ALIAS, "lse overlaps ys"},
    {3, M_OVER, 1, 0, TFB_ERR_ALIAS, "lse overlaps lses"},
    {3, M_OVER, 2, 0, TFB_ERR_ALIAS, "lse overlaps y"},
};

/* All four in one block; [2, 1, 2, 2, 3] and so on. */
static void merge_bad_input(void) {
    static const int at[4] = {0, 24, 32, 44};
    tfb_ctx ctx;
    size_t n;
    int i;
    t_ctx(&ctx, NULL);
    for (n = 0; n < sizeof merge_spoils / sizeof *merge_spoils; n++) {
        const merge_spoil *s = merge_spoils + n;
        float mem[48], before[48];
        tfb_tensor t[4], *p[4], *bad = t + s->which;
        for (i = 0; i < 48; i++) mem[i] = before[i] = t_float();
        t[0] = tfb_view4(mem + at[0], TFB_F32, 2, 1, 2, 2);
        t[0].ndim = 5;
        t[0].shape[4] = 3;
        for (i = 0; i < 4; i++) t[0].stride[i] *= 3;
        t[0].stride[4] = 1;
        t[1] = tfb_view4(mem + at[1], TFB_F32, 2, 1, 2, 2);
        t[2] = tfb_view4(mem + at[2], TFB_F32, 1, 2, 2, 3);
        t[3] = tfb_view3(mem + at[3], TFB_F32, 1, 2, 2);
        if (s->field == M_NDIM) bad->ndim = (int)s->value;
        if (s->field == M_EXTENT) bad->shape[s->dim] = s->value;
        if (s->field == M_STRIDE) bad->stride[s->dim] = s->value;
        if (s->field == M_DTYPE) bad->dtype = (tfb_dtype)s->value;
        if (s->field == M_DATA) bad->data = NULL;
        if (s->field == M_SHIFT) bad->data = (char *)bad->data + s->value;
        if (s->field == M_OVER) bad->data = t[s->dim].data;
        for (i = 0; i < 4; i++) p[i] = s->field == M_NULL && i == s->which ? NULL : t + i;
        CHECK_FAILS(&ctx, s->want, s->text,
                    tfb_merge_states(&ctx, p[0], p[1], p[2], p[3]));
        CHECK(strstr(ctx.message, "tfb_merge_states") != NULL, "%s", ctx.message);
        CHECK(memcmp(mem, before, sizeof mem) == 0, "\"%s\": written", s->text);
    }
    tfb_ctx_free(&ctx);
}

static void merge_of_two_bad_input(void) {
    tfb_ctx ctx;
    float mem[64];
    int i, which;
    tfb_tensor t[6], *p[6];
    t_ctx(&ctx, NULL);
    for (which = 0; which < 14;
         which++) { /* each NULL, each too short; y or lse astray */
        const int bad = which % 6;
        for (i = 0; i < 64; i++) mem[i] = SENTINEL;
        for (i = 0; i < 6; i++) {
            t[i] = i & 1 ? tfb_view3(mem + 10 * i, TFB_F32, 1, 1, 2)
                         : tfb_view4(mem + 10 * i, TFB_F32, 1, 1, 2, 3);
            p[i] = t + i;
        }
        if (which < 6) p[bad] = NULL;
        else if (which < 12) t[bad].shape[2] = 1;
        else t[which - 8].data = which == 12 ? (void *)(mem + 1) : (void *)(mem + 20);
        if (which == 5) continue; /* lse may be absent */
        CHECK(tfb_merge_state(&ctx, p[0], p[1], p[2], p[3], p[4], p[5]) ==
                  (which < 6    ? TFB_ERR_ARG
                   : which < 12 ? TFB_ERR_SHAPE
                                : TFB_ERR_ALIAS),
              "%d: %s", which, ctx.message);
        for (i = 0; i < 64; i++)
            CHECK(tfb__bits_of(mem[i]) == tfb__bits_of(SENTINEL), "%d: written", which);
    }
    tfb_ctx_free(&ctx);
}

/* --- Scratch. --- */
/* No data: measuring reads none. */
static size_t measured(const attend *c, int workers, const char *isa) {
    attend dry = attend_copy(c);
    tfb_ctx ctx;
    size_t need;
    int i;
    for (i = 0; i < TENSORS; i++) dry.t[i].data = NULL;
    CHECK(tfb_ctx_init_measure(&ctx) == TFB_OK, "measure");
    ctx.workers = workers;
    CHECK_OK(&ctx, tfb_isa_force(&ctx, isa));
    CHECK(attend_call(&ctx, &dry) == TFB_OK, "measuring: %s: %s", ctx.message,
          attend_text(c));
    need = ctx.scratch_last;
    CHECK(need == ctx.scratch_peak, "last %lu, peak %lu", (unsigned long)need,
          (unsigned long)ctx.scratch_peak);
    tfb_ctx_free(&ctx);
    return need;
}

/* Other extents, the same options, dense tensors without data. */
static void resize(attend *c, tfb_idx B, tfb_idx T, tfb_idx S) {
    int which, d;
    c->B = has(c, CU_Q) ? 1 : B;
    c->T = T;
    c->S = S;
    if (has(c, PAGES)) c->o.page_skip = (c->page - S % c->page) % c->page;
    for (which = 0; which < TENSORS; which++) {
        tfb_idx step = 1;
        for (d = c->t[which].ndim - 1; has(c, which) && d >= 0; d--) {
            c->t[which].shape[d] = attend_extent(c, c->role[which][d]);
            c->t[which].stride[d] = step;
            step *= c->t[which].shape[d];
        }
    }
}

static void scratch_within_its_bound(void) {
    static const tfb_idx dims[] = {1,  2,  3,   15,  16,  17,  31,  33,
                                   64, 80, 127, 128, 129, 256, 257, 512};
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 300; it++) {
        attend c = attend_of(t_int(1, 3), 4, t_int(0, 1) ? 4 : 2, t_int(1, 70),
                             t_int(1, 200), dims[it % 16], dims[t_int(0, 15)]);
        const int n = (int)t_int(1, 5);
        size_t need;
        c.dry = 1;
        attend_make(&c, random_options() & ~(it % 7 ? 0 : O_LAYOUT));
        need = measured(&c, n, tfb_isa_name(&ctx));
        CHECK(need <= TFB_ATTENTION_SCRATCH(c.D, c.Dv, n),
              "%lu is over the bound %lu, %d workers: %s", (unsigned long)need,
              (unsigned long)TFB_ATTENTION_SCRATCH(c.D, c.Dv, n), n, attend_text(&c));
        c.D = c.Dv = 128;
        if (c.options & (O_ROPE | O_NORM)) c.options &= ~(O_ROPE | O_NORM);
        resize(&c, c.B, c.T, c.S);
        need = measured(&c, n, tfb_isa_name(&ctx));
        CHECK(need <= (size_t)n * 262144, "%lu bytes for %d workers at 128: %s",
              (unsigned long)need, n, attend_text(&c));
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

static void scratch_does_not_grow(void) {
    static const tfb_idx lengths[] = {64, 65, 1000, 20000};
    tfb_ctx ctx;
    int it, i, j;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 60; it++) {
        attend c = attend_of(1, 2, 1, 64, 64, t_int(1, 130), t_int(1, 130));
        const int n = (int)t_int(1, 5);
        size_t need, now;
        c.dry = 1;
        attend_make(&c, random_options() & ~O_LAYOUT);
        need = measured(&c, n, tfb_isa_name(&ctx));
        for (i = 0; i < 4; i++)
            for (j = 0; j < 4; j++) {
                resize(&c, t_int(1, 9), lengths[i], lengths[j]);
                if (has(&c, CU_Q) && !has(&c, CU_K)) resize(&c, 1, c.T, c.T);
                now = measured(&c, n, tfb_isa_name(&ctx));
                CHECK(now <= need, "scratch was %lu, is now %lu, %d workers: %s",
                      (unsigned long)need, (unsigned long)now, n, attend_text(&c));
            }
        resize(&c, 1, 1, has(&c, CU_Q) && !has(&c, CU_K) ? 1 : 5000);
        CHECK(measured(&c, n, tfb_isa_name(&ctx)) <= need, "one token needs more: %s",
              attend_text(&c));
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

static int outputs_untouched(const attend *c) {
    const uint32_t bits = tfb__bits_of(SENTINEL);
    tfb_idx i;
    for (i = 0; i < c->mem_n[Y]; i++)
        if (tfb__bits_of(((float *)c->mem[Y])[i]) != bits) return 0;
    for (i = 0; i < c->mem_n[LSE]; i++)
        if (tfb__bits_of(((float *)c->mem[LSE])[i]) != bits) return 0;
    return 1;
}

static void outputs_clear(attend *c) {
    floats_set(c->mem[Y], c->mem_n[Y], SENTINEL);
    floats_set(c->mem[LSE], c->mem_n[LSE], SENTINEL);
}

/* A growing context uses what was measured; a static one of exactly that does, with one
 * less it fails, names the need and writes nothing. */
static void measured_is_used(void) {
    tfb_ctx ctx, small;
    int it;
    char number[32];
    t_ctx(&ctx, NULL);
    for (it = 0; it < 60; it++) {
        attend c = attend_random(random_options());
        float *first = attend_result(&ctx, &c);
        const size_t need = measured(&c, 1, tfb_isa_name(&ctx));
        char *mem = (char *)malloc(need + 8);
        if (!mem) exit(99);
        CHECK(ctx.scratch_last == need, "used %lu, measured %lu: %s",
              (unsigned long)ctx.scratch_last, (unsigned long)need, attend_text(&c));
        CHECK(tfb_ctx_init_static(&small, mem + 8, need) == TFB_OK, "static");
        CHECK_OK(&small, tfb_isa_force(&small, tfb_isa_name(&ctx)));
        attend_same(&small, &c, first, "static", it);
        small.mem_bytes--;
        outputs_clear(&c);
        snprintf(number, sizeof number, "needs %lu", (unsigned long)need);
        CHECK_FAILS(&small, TFB_ERR_SCRATCH, number, attend_call(&small, &c));
        CHECK(outputs_untouched(&c), "written although it failed: %s", attend_text(&c));
        small.mem_bytes++;
        attend_same(&small, &c, first, "static again", it);
        tfb_ctx_free(&small);
        free(mem);
        free(first);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

static void workers_use_what_was_measured(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_ctx_threads(&ctx, 3, 50));
    for (it = 0; it < 20; it++) {
        attend c = attend_random(random_options());
        const size_t need = measured(&c, 3, tfb_isa_name(&ctx));
        float *got = attend_result(&ctx, &c);
        CHECK(ctx.scratch_last == need, "used %lu, measured %lu: %s",
              (unsigned long)ctx.scratch_last, (unsigned long)need, attend_text(&c));
        free(got);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

static void weights_and_scratch(void) {
    tfb_ctx ctx, small;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 40; it++) {
        attend c = attend_random(random_options());
        float *first = weights_of(&ctx, &c, NULL, c.T), *again;
        const size_t need = ctx.scratch_last;
        char *mem = (char *)malloc(need + 8);
        if (!mem) exit(99);
        CHECK(need <= TFB_ATTENTION_SCRATCH(c.D, c.Dv, 1), "weights use %lu: %s",
              (unsigned long)need, attend_text(&c));
        CHECK(tfb_ctx_init_static(&small, mem + 8, need) == TFB_OK, "static");
        CHECK_OK(&small, tfb_isa_force(&small, tfb_isa_name(&ctx)));
        again = weights_of(&small, &c, NULL, c.T);
        CHECK_BITS(again, first, c.B * c.H * c.T * c.S, "static: %s", attend_text(&c));
        tfb_ctx_free(&small);
        free(mem);
        free(again);
        free(first);
        attend_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* Each allocation in turn fails, until there is none left to fail; then it is warm. */
static void allocation_fails_at_each_step(void) {
    int it, step;
    for (it = 0; it < 12; it++) {
        attend c = attend_random(random_options());
        t_heap heap;
        tfb_ctx ctx;
        float *want;
        t_ctx(&ctx, NULL);
        want = attend_result(&ctx, &c);
        tfb_ctx_free(&ctx);
        for (step = 1;; step++) {
            tfb_status got;
            t_ctx(&ctx, &heap);
            heap.fail_at = step;
            outputs_clear(&c);
            got = attend_call(&ctx, &c);
            if (got == TFB_OK) break;
            CHECK(got == TFB_ERR_MEMORY && outputs_untouched(&c), "step %d: %s: %s", step,
                  ctx.message, attend_text(&c));
            heap.fail_at = 0;
            attend_same(&ctx, &c, want, "after failing at", step);
            tfb_ctx_free(&ctx);
            CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
        }
        heap.fail_at = 0; /* only what merges blocks may have failed unseen */
        attend_same(&ctx, &c, want, "then", step);
        heap.fail_at = heap.calls + 1;
        attend_same(&ctx, &c, want, "warm", step);
        tfb_ctx_free(&ctx);
        CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
        free(want);
        attend_free(&c);
    }
}

/* --- Bytes beside those of a naive implementation. --- */
typedef struct peak {
    size_t now, most;
} peak;

/* 64 bytes before each block hold its size. */
static void *peak_alloc(void *user, void *ptr, size_t bytes) {
    peak *p = (peak *)user;
    char *block = ptr ? (char *)ptr - 64 : NULL;
    size_t old = 0;
    if (block) memcpy(&old, block, sizeof old);
    if (!bytes) {
        p->now -= old;
        free(block);
        return NULL;
    }
    block = (char *)realloc(block, bytes + 64);
    if (!block) return NULL;
    memcpy(block, &bytes, sizeof bytes);
    p->now += bytes - old;
    if (p->now > p->most) p->most = p->now;
    return block + 64;
}

static void bytes_of_scores(void) {
    static const tfb_idx lengths[] = {2448, 131072};
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    printf("  B 8, H 12, D 64   naive, all       naive, 64 rows   ours, a worker\n");
    for (i = 0; i < 2; i++) {
        const tfb_idx N = lengths[i];
        const double full = 8.0 * 12 * 4 * (double)N * (double)N;
        attend c = attend_of(8, 12, 12, N, N, 64, 64);
        size_t ours;
        c.dry = 1;
        attend_make(&c, 0);
        ours = measured(&c, 1, tfb_isa_name(&ctx));
        printf("  N %-13ld %16.0f %16.0f %16lu\n", (long)N, full,
               8.0 * 12 * 64 * 4 * (double)N, (unsigned long)ours);
        CHECK(ours <= TFB_ATTENTION_SCRATCH(64, 64, 1), "%lu", (unsigned long)ours);
        if (i == 0) /* the published figures */
            CHECK(fabs(full - 2301198336.0) < 1 && 8 * 12 * 64 * 4 * N == 60162048,
                  "%.0f", full);
    }
    tfb_ctx_free(&ctx);
}

#if defined(__SANITIZE_ADDRESS__)
#define SLOW 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SLOW 1
#endif
#endif
#ifndef SLOW
#define SLOW 0
#endif

/* The same, run: no more is ever allocated than was measured. */
static void bytes_in_a_run(void) {
    tfb_ctx ctx;
    peak p = {0, 0};
    attend c = attend_of(1, 12, 12, 2448, 2448, 64, 64);
    size_t need;
    t_ctx(&ctx, NULL);
    if (SLOW || strcmp(tfb_isa_name(&ctx), "scalar") == 0) {
        tfb_ctx_free(&ctx);
        SKIP("too slow on the scalar table or under a sanitizer");
    }
    ctx.alloc = peak_alloc;
    ctx.alloc_user = &p;
    attend_make(&c, 0);
    need = measured(&c, 1, tfb_isa_name(&ctx));
    CHECK_OK(&ctx, attend_call(&ctx, &c));
    printf("  B 1, H 12, N 2448, D 64: %lu bytes allocated at most, %lu measured\n",
           (unsigned long)p.most, (unsigned long)need);
    CHECK(p.most >= need && p.most <= need + 4096, "%lu allocated, %lu needed",
          (unsigned long)p.most, (unsigned long)need);
    attend_free(&c);
    tfb_ctx_free(&ctx);
}

int main(void) {
    RUN(pages_of_every_size);
    RUN(ring_of_pages);
    RUN(ring_with_pinned_rows);
    RUN(absent_rows_are_hidden_rows);
    RUN(weights_against_float64);
    RUN(weights_of_chosen_rows);
    RUN(weights_of_every_table);
    RUN(weights_bad_input);
    RUN(merge_against_float64);
    RUN(merge_with_nothing_is_identity);
    RUN(merge_of_two);
    RUN(merge_is_attention_over_all);
    RUN(merge_bad_input);
    RUN(merge_of_two_bad_input);
    RUN(scratch_within_its_bound);
    RUN(scratch_does_not_grow);
    RUN(measured_is_used);
    RUN(workers_use_what_was_measured);
    RUN(weights_and_scratch);
    RUN(allocation_fails_at_each_step);
    RUN(bytes_of_scores);
    RUN(bytes_in_a_run);
    FINISH();
}
