/* test_norms.c - rmsnorm, layernorm, l2norm, softmax and rope: by bits against the
 * plain-loop references, in place and strided; the references against double; bad input;
 * scratch. */
#include "../test.h"
#include "layouts.h"
#include <math.h>

#define U 5.9604644775390625e-8 /* 2^-24: what one rounding can be off */

static const int worker_counts[] = {1, 2, 5};

static const int layouts[] = {0, ORDER, WIDE, BACK | WIDE, ORDER | WIDE | BACK | SPARSE};

/* Row i (over all but the last dimension) from or to a view of another copy of mem. */
static void row_get(const box *b, const float *mem, tfb_idx i, float *row) {
    const tfb_idx n = b->t.shape[b->t.ndim - 1], step = b->t.stride[b->t.ndim - 1];
    const float *at = mem + ((float *)b->t.data - b->mem);
    tfb_idx j;
    at += tfb__offset(&b->t, b->t.ndim - 1, i);
    for (j = 0; j < n; j++) row[j] = at[j * step];
}

static void row_put(const box *b, float *mem, tfb_idx i, const float *row) {
    const tfb_idx n = b->t.shape[b->t.ndim - 1], step = b->t.stride[b->t.ndim - 1];
    float *at = mem + ((float *)b->t.data - b->mem);
    tfb_idx j;
    at += tfb__offset(&b->t, b->t.ndim - 1, i);
    for (j = 0; j < n; j++) at[j * step] = row[j];
}

/* --- Norms: one call with everything that belongs to it. --- */
enum { X, R, S, Y, TENSORS }; /* x, residual, sum, y */

#define NORMS 3
static tfb_status (*const norms[NORMS])(tfb_ctx *, const tfb_tensor *,
                                        const tfb_norm_opts *, tfb_tensor *) = {
    tfb_rmsnorm, tfb_layernorm, tfb_l2norm};
static const char *const norm_names[NORMS] = {"tfb_rmsnorm", "tfb_layernorm",
                                              "tfb_l2norm"};
static const float norm_epses[NORMS] = {1e-5f, 1e-5f, 1e-12f};

typedef struct variant {
    tfb_idx batch, rows, C; /* batch -1: x is [rows, C] */
    int which, layout, weight, bias;
    int r, s, y; /* which box: r X or R; s X, R or S; y X, R or Y; r, s -1: absent */
    float eps;
    int eps_set, odd;
} variant;

typedef struct problem {
    variant v;
    box t[TENSORS], weight, bias;
    float *want[TENSORS];
    tfb_norm_opts o;
} problem;

static tfb_status problem_run(tfb_ctx *ctx, problem *p) {
    tfb_tensor *x = &p->t[X].t, *y = &p->t[p->v.y].t;
    return norms[p->v.which](ctx, x, &p->o, y);
}

/* What the reference leaves in each buffer. */
static void problem_want(problem *p) {
    const variant *v = &p->v;
    const tfb_idx n = v->C, rows = tfb_numel(&p->t[X].t) / n;
    const float eps = v->eps_set || v->eps > 0 ? v->eps : norm_epses[v->which];
    float *x = t_floats(6 * n), *r = x + n, *w = r + n, *b = w + n, *sum = b + n;
    float *y = sum + n;
    tfb_idx i;
    for (i = 0; i < TENSORS; i++) p->want[i] = floats_copy(p->t[i].mem, p->t[i].n);
    row_get(&p->weight, p->weight.mem, 0, w);
    row_get(&p->bias, p->bias.mem, 0, b);
    for (i = 0; i < rows; i++) {
        row_get(&p->t[X], p->t[X].mem, i, x);
        if (v->r >= 0) row_get(&p->t[v->r], p->t[v->r].mem, i, r);
        tfb__norm_ref(n, x, v->r >= 0 ? r : NULL, v->weight ? w : NULL,
                      v->bias ? b : NULL, eps, v->which, sum, y);
        if (v->s >= 0) row_put(&p->t[v->s], p->want[v->s], i, sum);
        row_put(&p->t[v->y], p->want[v->y], i, y);
    }
    free(x);
}

static void problem_new(problem *p, const variant *v) {
    const int lead = v->batch < 0 ? 1 : 0;
    tfb_idx shape[3];
    int i;
    memset(p, 0, sizeof *p);
    p->v = *v;
    shape[0] = v->batch;
    shape[1] = v->rows;
    shape[2] = v->C;
    for (i = 0; i < TENSORS; i++) {
        p->t[i] = box_new(3 - lead, shape + lead, v->layout);
        if (v->odd) box_spoil(&p->t[i], v->odd);
    }
    p->weight = box_new(1, &v->C, v->layout);
    p->bias = box_new(1, &v->C, v->layout);
    if (v->weight) p->o.weight = &p->weight.t;
    if (v->bias) p->o.bias = &p->bias.t;
    if (v->r >= 0) p->o.residual = &p->t[v->r].t;
    if (v->s >= 0) p->o.sum = &p->t[v->s].t;
    p->o.eps = v->eps;
    p->o.eps_set = v->eps_set;
    problem_want(p);
}

static void problem_free(problem *p) {
    int i;
    for (i = 0; i < TENSORS; i++) box_free(&p->t[i]), free(p->want[i]);
    box_free(&p->weight);
    box_free(&p->bias);
}

static void problem_reset(problem *p) {
    int i;
    for (i = 0; i < TENSORS; i++) box_reset(&p->t[i]);
}

/* Every buffer is as the reference leaves it, or (untouched) as it was. */
static void problem_equal(const problem *p, int untouched) {
    static const char *const names[] = {"x", "residual", "sum", "y"};
    const variant *v = &p->v;
    int i;
    for (i = 0; i < TENSORS; i++)
        CHECK_BITS(p->t[i].mem, untouched ? p->t[i].mem0 : p->want[i], p->t[i].n,
                   "%s of %s [%ld, %ld] layout %d, r %d s %d y %d", names[i],
                   norm_names[v->which], (long)v->rows, (long)v->C, v->layout, v->r, v->s,
                   v->y);
}

static void problem_check(tfb_ctx *ctx, problem *p) {
    problem_reset(p);
    CHECK_OK(ctx, problem_run(ctx, p));
    problem_equal(p, 0);
}

static void variant_check(tfb_ctx *ctx, const variant *v) {
    problem p;
    problem_new(&p, v);
    problem_check(ctx, &p);
    problem_free(&p);
}

/* Calls that take every path; the sizes cross the limits of a task. */
static const variant variants[] = {
    {-1, 3, 1000, 0, 0, 0, 0, -1, -1, Y, 0, 0, 0},
    {-1, 70, 1000, 1, 0, 1, 1, R, S, Y, 1e-3f, 0, 0},
    {5, 40, 255, 0, WIDE, 1, 0, R, X, Y, 0, 0, 0},
    {3, 701, 255, 1, ORDER | SPARSE, 1, 1, R, R, X, 0, 1, 0},
    {-1, 40000, 1, 0, 0, 0, 1, -1, -1, X, 0, 0, 0},
    {-1, 3000, 17, 1, BACK | WIDE, 1, 1, X, S, R, 0, 0, 0},
    {-1, 70, 1000, 2, 0, 1, 1, R, S, Y, 0, 0, 0},
    {3, 701, 255, 2, ORDER | SPARSE, 1, 0, R, R, X, 1e-3f, 0, 0},
};

/* --- Workers. --- */
/* A legal but hostile parallel_for: last piece first, workers in turn. */
static void reverse_for(void *user, tfb_idx n, tfb_body_fn body, void *arg) {
    const int workers = *(const int *)user;
    while (n-- > 0) body(arg, n, (int)(n % workers));
}

static void reverse_workers(tfb_ctx *ctx, int workers) {
    static int count[8];
    count[workers] = workers;
    ctx->parallel_for = reverse_for;
    ctx->parallel_user = &count[workers];
    ctx->workers = workers;
}

/* Context number i of those whose results must be equal: by workers and by table; 0 when
 * there are no more. */
static int context_new(tfb_ctx *ctx, int i) {
    const int workers = worker_counts[i / 2 % COUNT(worker_counts)];
    const char *name;
    t_ctx(ctx, NULL);
    name = tfb_isa_list(ctx, i / 2 / COUNT(worker_counts), NULL);
    if (!name) return 0;
    if (!t_force(ctx, name)) return 1;
    if (i % 2 || tfb_ctx_threads(ctx, workers, 100) != TFB_OK)
        reverse_workers(ctx, workers);
    return 1;
}

/* --- Norms by bits. --- */
static const tfb_idx widths[] = {1, 2, 15, 16, 17, 31, 33, 64, 255, 1000};

/* Which box is the residual, the sum and y: every legal combination. */
static const signed char places[][3] = {
    {-1, -1, Y}, {-1, -1, X}, {-1, S, Y}, {-1, S, X}, {-1, X, Y}, {R, -1, Y}, {R, -1, X},
    {R, -1, R},  {R, S, Y},   {R, S, X},  {R, S, R},  {R, X, Y},  {R, X, R},  {R, R, Y},
    {R, R, X},   {X, -1, Y},  {X, -1, X}, {X, S, Y},  {X, S, X},  {X, X, Y}};

static void norm_every_option(void) {
    const int n = COUNT(widths) * COUNT(places) * 4 * NORMS;
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < n; i++) {
        const signed char *at = places[i % COUNT(places)];
        int rest = i / COUNT(places);
        variant v = {-1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
        v.C = widths[rest % COUNT(widths)];
        rest /= COUNT(widths);
        v.which = rest / 4;
        v.weight = rest & 1;
        v.bias = rest >> 1 & 1;
        v.r = at[0];
        v.s = at[1];
        v.y = at[2];
        v.batch = t_rand() % 4 ? -1 : t_int(0, 2);
        v.rows = t_int(0, 4);
        v.layout = layouts[t_int(0, COUNT(layouts) - 1)];
        v.odd = t_rand() % 4 ? 0 : 2;
        v.eps_set = t_rand() % 4 == 0;
        v.eps = t_rand() % 2 ? 0 : 0.125f;
        variant_check(&ctx, &v);
    }
    tfb_ctx_free(&ctx);
}

static void norm_workers_and_tables(void) {
    tfb_ctx ctx;
    int i, j;
    for (i = 0; i < COUNT(variants); i++) {
        problem p;
        problem_new(&p, &variants[i]);
        for (j = 0; context_new(&ctx, j); j++) {
            problem_check(&ctx, &p);
            tfb_ctx_free(&ctx);
        }
        tfb_ctx_free(&ctx);
        problem_free(&p);
    }
}

/* x of every rank, with rows that repeat by stride 0; weight and bias by stride 0. */
static void norm_ranks_and_repeats(void) {
    const float one[1] = {1.25f};
    tfb_ctx ctx;
    int rank;
    t_ctx(&ctx, NULL);
    for (rank = 1; rank <= TFB_MAX_DIMS; rank++) {
        tfb_idx shape[TFB_MAX_DIMS] = {2, 3, 1, 2, 3, 2}, i;
        tfb_tensor w = tfb_view1(one, TFB_F32, 19);
        float row[19], weight[19], sum[19], want[19], got[19];
        tfb_norm_opts o = {0};
        box x, y;
        shape[rank - 1] = 19;
        w.stride[0] = 0;
        o.weight = o.bias = &w;
        for (i = 0; i < 19; i++) weight[i] = 1.25f;
        x = box_new(rank, shape, WIDE);
        y = box_new(rank, shape, ORDER);
        if (rank > 1) x.t.stride[0] = 0;
        CHECK_OK(&ctx, tfb_layernorm(&ctx, &x.t, &o, &y.t));
        for (i = 0; i < tfb_numel(&y.t) / 19; i++) {
            row_get(&x, x.mem, i, row);
            row_get(&y, y.mem, i, got);
            tfb__norm_ref(19, row, NULL, weight, weight, 1e-5f, 1, sum, want);
            CHECK_BITS(got, want, 19, "rank %d, row %ld", rank, (long)i);
        }
        box_free(&x);
        box_free(&y);
    }
    tfb_ctx_free(&ctx);
}

/* eps: 0 means 1e-5, 0 with eps_set means 0, and rows of zeros stay finite with it. */
static void norm_eps(void) {
    const float x[4] = {3e-3f, -1e-3f, 2e-3f, 0};
    float y[4], zeros[4] = {0, 0, 0, 0};
    tfb_tensor t = tfb_view1(x, TFB_F32, 4), z = tfb_view1(zeros, TFB_F32, 4);
    tfb_tensor Yt = tfb_view1(y, TFB_F32, 4);
    tfb_norm_opts o = {0};
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_rmsnorm(&ctx, &t, NULL, &Yt));
    CHECK(fabs((double)y[0] - 3e-3 / sqrt(3.5e-6 + 1e-5)) < 1e-6, "eps 1e-5: %g",
          (double)y[0]);
    o.eps = 1e-2f;
    CHECK_OK(&ctx, tfb_rmsnorm(&ctx, &t, &o, &Yt));
    CHECK(fabs((double)y[0] - 3e-3 / sqrt(3.5e-6 + 1e-2)) < 1e-6, "eps 1e-2: %g",
          (double)y[0]);
    o.eps = 0;
    o.eps_set = 1;
    CHECK_OK(&ctx, tfb_rmsnorm(&ctx, &t, &o, &Yt));
    CHECK(fabs((double)y[0] - 3e-3 / sqrt(3.5e-6)) < 1e-5, "eps 0: %g", (double)y[0]);
    CHECK_OK(&ctx, tfb_layernorm(&ctx, &z, NULL, &Yt));
    CHECK_BITS(y, zeros, 4, "zeros stay zeros");
    tfb_ctx_free(&ctx);
}

/* l2norm: eps only limits the root from below; what special rows give. */
static void l2norm_rows(void) {
    const float inf = TFB__FLT_INF, nan = tfb__float_of(0x7FC00000u);
    const struct {
        float x[3], eps;
        int eps_set;
        float want[3];
    } rows[] = {
        {{3, -4, 0}, 0, 0, {0.6f, -0.8f, 0}},
        {{0, 0, -0.0f}, 0, 0, {0, 0, 0}}, /* the bias is +0 */
        {{3, -4, 0}, 10, 0, {0.3f, -0.4f, 0}},
        {{3, -4, 0}, 5, 0, {0.6f, -0.8f, 0}},
        {{3, -4, 0}, 0, 1, {0.6f, -0.8f, 0}},
        {{0, 0, 0}, 0, 1, {nan, nan, nan}}, /* 0 / 0, as asked for */
        {{1e-13f, 0, 0}, 0, 0, {0.1f, 0, 0}},
        {{3e-15f, -4e-15f, 0}, 0, 1, {0.6f, -0.8f, 0}},
        {{3e19f, 1, 0}, 0, 0, {0, 0, 0}}, /* the sum of squares overflows */
        {{inf, 1, -2}, 0, 0, {nan, 0, -0.0f + 0.0f}},
        {{nan, 1, 0}, 0, 0, {nan, nan, nan}},
        {{nan, 1, 0}, 1, 0, {nan, nan, nan}},
    };
    tfb_ctx ctx;
    int i, j;
    t_ctx(&ctx, NULL);
    for (i = 0; i < COUNT(rows); i++) {
        float y[3];
        tfb_tensor x = tfb_view1(rows[i].x, TFB_F32, 3), Yt = tfb_view1(y, TFB_F32, 3);
        tfb_norm_opts o = {0};
        o.eps = rows[i].eps;
        o.eps_set = rows[i].eps_set;
        CHECK_OK(&ctx, tfb_l2norm(&ctx, &x, &o, &Yt));
        for (j = 0; j < 3; j++)
            CHECK(t_differ(y + j, rows[i].want + j, 1) == 1 ||
                      fabs((double)y[j] - (double)rows[i].want[j]) <= 4 * U,
                  "row %d: y[%d] is %g", i, j, (double)y[j]);
    }
    tfb_ctx_free(&ctx);
}

/* The reference against double; l2norm has the sum for the mean of squares and no
 * division by n. Let m = ceil(n/16) + 4 be the most additions a term of a
 * row sum meets, u = 2^-24, s = 1 / sqrt(v + eps). The mean is off by
 * e <= (m + 1) u mean|x|; so x - mean is off by e + u |x - mean|; the mean square over it
 * is relatively off by (m + 3) u and by (e s)^2, half of which reaches the root; square
 * root, division, the product and the final fma give 4 u and u |y|. The factor 1.01 is
 * for terms of second order. */
static void norm_reference_is_accurate(void) {
    int i, which;
    for (i = 0; i < 40; i++)
        for (which = 0; which < NORMS; which++) {
            const tfb_idx n = widths[i % COUNT(widths)];
            const double m = (double)((n + 15) / 16 + 4), shift = i < 20 ? 0 : 3;
            float *x = t_floats(n), *w = t_floats(n), *b = t_floats(n),
                  *sum = t_floats(n);
            float *y = t_floats(n);
            double mean = 0, size = 0, v = 0, e, s;
            tfb_idx j;
            for (j = 0; j < n; j++) x[j] += (float)shift, mean += (double)x[j];
            for (j = 0; j < n; j++) size += fabs((double)x[j]) / (double)n;
            mean = which == 1 ? mean / (double)n : 0;
            for (j = 0; j < n; j++) v += ((double)x[j] - mean) * ((double)x[j] - mean);
            s = 1 / sqrt(which == 2 ? v : v / (double)n + (double)1e-5f);
            e = which == 1 ? (m + 1) * U * size : 0;
            tfb__norm_ref(n, x, NULL, w, b, norm_epses[which], which, sum, y);
            for (j = 0; j < n; j++) {
                const double d = (double)x[j] - mean, wd = fabs((double)w[j]);
                const double want = d * s * (double)w[j] + (double)b[j];
                const double far = ((m + 3) / 2 + 4) * U + e * e * s * s / 2;
                const double most = wd * s * (e + fabs(d) * (U + far)) + U * fabs(want);
                CHECK(fabs((double)y[j] - want) <= 1.01 * most, "n %ld: %g, wanted %g",
                      (long)n, (double)y[j], want);
            }
            CHECK_BITS(sum, x, n, "the sum without a residual");
            free(x), free(w), free(b), free(sum), free(y);
        }
}

/* --- Softmax. --- */
static void softmax_check(tfb_ctx *ctx, box *x, box *y, tfb_tensor *lse, float *lses) {
    const tfb_idx n = x->t.shape[x->t.ndim - 1], rows = n ? tfb_numel(&x->t) / n : 0;
    float *want = floats_copy(y->mem, y->n), *row = t_floats(2 * n), *out = row + n;
    tfb_idx i;
    float *lse_want = t_floats(rows);
    for (i = 0; i < rows; i++) {
        row_get(x, x->mem, i, row);
        lse_want[i] = tfb__softmax_ref(n, row, out);
        row_put(y, want, i, out);
    }
    CHECK_OK(ctx, tfb_softmax(ctx, &x->t, &y->t, lse));
    CHECK_BITS(y->mem, want, y->n, "softmax of %ld rows of %ld", (long)rows, (long)n);
    if (x != y) CHECK_BITS(x->mem, x->mem0, x->n, "x of softmax");
    for (i = 0; lse && i < rows; i++)
        CHECK_BITS(lses + tfb__offset(lse, lse->ndim, i), lse_want + i, 1,
                   "lse of row %ld of %ld", (long)i, (long)rows);
    free(want), free(row), free(lse_want);
}

static void softmax_random(void) {
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 400; i++) {
        const int layout = layouts[t_int(0, COUNT(layouts) - 1)];
        const float scale = i % 3 ? i % 2 ? 100.0f : 10.0f : 1.0f;
        tfb_idx shape[3], j;
        box x, y, lse;
        shape[0] = t_int(1, 3);
        shape[1] = t_int(0, 5);
        shape[2] = widths[i % COUNT(widths)];
        x = box_new(3, shape, layout);
        y = box_new(3, shape, layouts[t_int(0, COUNT(layouts) - 1)]);
        lse = box_new(2, shape, layout);
        for (j = 0; j < x.n; j++) x.mem[j] *= scale;
        memcpy(x.mem0, x.mem, (size_t)x.n * 4);
        if (i % 4 == 0) box_spoil(&x, 4);
        softmax_check(&ctx, &x, i % 5 ? &y : &x, i % 2 ? &lse.t : NULL,
                      (float *)lse.t.data);
        box_free(&x);
        box_free(&y);
        box_free(&lse);
    }
    tfb_ctx_free(&ctx);
}

static void softmax_workers_and_tables(void) {
    static const tfb_idx shapes[][2] = {{500, 1000}, {40000, 1}, {3000, 17}, {1, 20000}};
    tfb_ctx ctx;
    int i, j;
    for (i = 0; i < COUNT(shapes); i++) {
        const int layout = i ? 0 : ORDER | SPARSE;
        box x = box_new(2, shapes[i], layout), y = box_new(2, shapes[i], layout);
        box lse = box_new(1, shapes[i], layout);
        box_spoil(&x, 4);
        for (j = 0; context_new(&ctx, j); j++) {
            box_reset(&y);
            softmax_check(&ctx, &x, &y, &lse.t, (float *)lse.t.data);
            tfb_ctx_free(&ctx);
        }
        tfb_ctx_free(&ctx);
        box_free(&x);
        box_free(&y);
        box_free(&lse);
    }
}

/* What SEMANTICS and the header promise, spelt out. */
static void softmax_special_rows(void) {
    const float inf = TFB__FLT_INF, nan = tfb__float_of(0x7FC00000u);
    const float x[][4] = {{-inf, -inf, -inf, -inf}, {0, -inf, 0, -inf},
                          {inf, 0, 0, 0},           {nan, 0, 0, 0},
                          {-inf, nan, 0, 0},        {inf, inf, 0, 0},
                          {3e38f, 0, 0, -3e38f},    {-3e38f, -inf, -3e38f, -inf}};
    const float want[][4] = {{0, 0, 0, 0},         {0.5f, 0, 0.5f, 0},
                             {nan, nan, nan, nan}, {nan, nan, nan, nan},
                             {nan, nan, nan, nan}, {nan, nan, nan, nan},
                             {1, 0, 0, 0},         {0.5f, 0, 0.5f, 0}};
    const float want_lse[] = {-inf, 0.693147182f, nan, nan, nan, nan, 3e38f, -3e38f};
    float y[8][4], lse[8], one[1] = {-7.5f};
    tfb_tensor in = tfb_view2(x, TFB_F32, 8, 4), out = tfb_view2(y, TFB_F32, 8, 4);
    tfb_tensor l = tfb_view1(lse, TFB_F32, 8), scalar = l;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_softmax(&ctx, &in, &out, &l));
    CHECK_BITS(&y[0][0], &want[0][0], 32, "special rows");
    CHECK_BITS(lse, want_lse, 8, "lse of special rows");
    in = out = tfb_view1(one, TFB_F32, 1);
    scalar.ndim = 0;
    CHECK_OK(&ctx, tfb_softmax(&ctx, &in, &out, &scalar));
    CHECK(one[0] >= 1 && one[0] <= 1, "softmax of one number is %g", (double)one[0]);
    CHECK(lse[0] >= -7.5f && lse[0] <= -7.5f, "its lse is %g", (double)lse[0]);
    tfb_ctx_free(&ctx);
}

/* Rows of length 0: lse is -inf; nothing else is there. It needs no memory, so that a
 * failing allocator cannot leave lse half done. */
static void softmax_empty_rows(void) {
    float lse[6];
    const float infs[6] = {-TFB__FLT_INF, 5, -TFB__FLT_INF, 5, -TFB__FLT_INF, 5};
    tfb_tensor x = tfb_view2(NULL, TFB_F32, 3, 0), y = x, l = tfb_view1(lse, TFB_F32, 3);
    t_heap heap;
    tfb_ctx ctx;
    tfb_status st;
    int i;
    t_ctx(&ctx, &heap);
    for (i = 0; i < 6; i++) lse[i] = 5;
    l.stride[0] = 2;
    CHECK_OK(&ctx, tfb_softmax(&ctx, &x, &y, &l));
    CHECK_BITS(lse, infs, 6, "lse of empty rows");
    tfb_ctx_free(&ctx);
    t_ctx(&ctx, &heap);
    heap.fail_at = 1;
    for (i = 0; i < 6; i++) lse[i] = 5;
    st = tfb_softmax(&ctx, &x, &y, &l);
    CHECK((lse[0] < 5) == (st == TFB_OK), "status %d but lse %g", (int)st,
          (double)lse[0]);
    x = y = tfb_view2(NULL, TFB_F32, 0, 3);
    heap.fail_at = 0;
    CHECK_OK(&ctx, tfb_softmax(&ctx, &x, &y, NULL));
    CHECK_OK(&ctx, tfb_rmsnorm(&ctx, &x, NULL, &y));
    tfb_ctx_free(&ctx);
}

/* An extent of 0 makes a tensor empty whatever the others are: nothing overflows. */
static void huge_empties(void) {
    tfb_tensor x = tfb_view4(NULL, TFB_F32, 1, 0, 1, 2),
               lse = tfb_view3(NULL, TFB_F32, 1, 1, 0);
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    x.shape[0] = HUGE_EXTENT;
    x.shape[2] = 1 << 20;
    CHECK_OK(&ctx, tfb_rope(&ctx, &x, NULL, &x));
    x.shape[1] = HUGE_EXTENT;
    x.shape[2] = 0;
    CHECK_OK(&ctx, tfb_rope(&ctx, &x, NULL, &x));
    lse.shape[0] = lse.shape[1] = HUGE_EXTENT;
    CHECK_OK(&ctx, tfb_softmax(&ctx, &x, &x, &lse));
    CHECK_OK(&ctx, tfb_layernorm(&ctx, &x, NULL, &x));
    tfb_ctx_free(&ctx);
}

/* The reference against double. x - max is off by u |x - max|, exp by 1.8 u (0.89 ulp),
 * the sum by (ceil(n/16) + 4) u and by the mean of what its terms are off, the division
 * by u; 1.01 for second order. Below e^-87.3 a term is 0. lse: the sum's error, log's
 * 1.67 ulp, one addition. */
static void softmax_reference_is_accurate(void) {
    int i;
    for (i = 0; i < 60; i++) {
        const tfb_idx n = widths[i % COUNT(widths)];
        float *x = t_floats(n), *y = t_floats(n), max, lse;
        double sum = 0, off = 0, want;
        tfb_idx j;
        for (j = 0; j < n; j++) x[j] *= (float)(1 << i / 6);
        for (max = x[0], j = 0; j < n; j++) max = x[j] > max ? x[j] : max;
        for (j = 0; j < n; j++) {
            const double d = (double)x[j] - (double)max;
            sum += exp(d);
            off += exp(d) * (fabs(d) + 1.8);
        }
        off = off / sum + (double)((n + 15) / 16 + 4);
        lse = tfb__softmax_ref(n, x, y);
        for (j = 0; j < n; j++) {
            const double d = (double)x[j] - (double)max;
            want = exp(d) / sum;
            CHECK(fabs((double)y[j] - want) <=
                      1.01 * U * want * (fabs(d) + 1.8 + off + 1) + 1.2e-38,
                  "n %ld: %g, wanted %g", (long)n, (double)y[j], want);
        }
        want = (double)max + log(sum);
        CHECK(fabs((double)lse - want) <=
                  1.01 * U * (off + 3.4 * log(sum) + fabs(want)) + 1e-44,
              "lse %g, wanted %g", (double)lse, want);
        free(x), free(y);
    }
}

/* --- Rope. --- */
enum {
    SCALING = 7,
    FREQS = 8,
    MAGNITUDE = 16,
    AXES_2 = 32,
    AXES_3 = 64,
    PARTS = 128,
    GRID = 256,
    AXES = AXES_2 | AXES_3
};

typedef struct turn {
    tfb_idx B, H, T, D;
    int dims, interleaved, inverse, compat, in_place, layout, out_layout;
    int positions;  /* 0 NULL and start, 1 [T], 2 [B, T], 3 and 4 the same strided */
    tfb_idx lo, hi; /* where positions may lie */
    double base;
    int extra; /* a tfb_rope_scaling and some of the above; both axes bits: 3 axes */
} turn;

typedef struct rope {
    turn v;
    box x, y;
    int32_t *places; /* 3 of them a coordinate */
    tfb_tensor positions, freqs_view;
    float *freqs, *hi, *lo, *want;
    tfb_rope_opts o;
} rope;

/* The coordinates of a token, by other means than the library's. */
static void rope_at(const rope *r, tfb_idx b, tfb_idx t, tfb_idx *at) {
    const tfb_tensor *p = &r->positions;
    const int axes = r->o.axes ? r->o.axes : 1;
    const tfb_idx *g = r->o.grid, token = r->o.start + t;
    int i;
    for (i = 0; i < axes && r->o.positions; i++) {
        const int tail = axes > 1, batched = p->ndim > 1 + tail;
        at[i] = ((int32_t *)
                     p->data)[(batched ? b * p->stride[0] : 0) + t * p->stride[batched] +
                              (tail ? i * p->stride[batched + 1] : 0)];
    }
    if (r->o.positions) return;
    at[0] = token;
    if (axes == 2) at[0] = token / g[1], at[1] = token % g[1];
    if (axes < 3) return;
    at[0] = token / (g[1] * g[2]);
    at[1] = token / g[2] % g[1];
    at[2] = token % g[2];
}

static tfb_status rope_run(tfb_ctx *ctx, rope *r) {
    return tfb_rope(ctx, &r->x.t, &r->o, r->v.in_place ? &r->x.t : &r->y.t);
}

static void rope_want(rope *r) {
    const turn *v = &r->v;
    const box *to = v->in_place ? &r->x : &r->y;
    float *row = t_floats(2 * v->D), *out = row + v->D;
    tfb_idx i, at[3];
    r->want = floats_copy(to->mem, to->n);
    for (i = 0; v->D && i < tfb_numel(&r->x.t) / v->D; i++) {
        row_get(&r->x, r->x.mem, i, row);
        rope_at(r, i / (v->H * v->T), i % v->T, at);
        tfb__rope_ref(v->D, row, at, &r->o, r->hi, r->lo, out);
        row_put(to, r->want, i, out);
    }
    free(row);
}

/* Frequencies as the library has them: rope_frequencies holds those to math.h. */
static void rope_fill(const tfb_rope_opts *o, tfb_idx D, float *hi, float *lo) {
    tfb__rope_plan plan;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb__rope_check(&ctx, "rope_fill", o, D, &plan));
    plan.hi = hi;
    plan.lo = lo;
    tfb__rope_fill(o, &plan);
    tfb_ctx_free(&ctx);
}

/* Scaling, frequencies, magnitude, axes as r->v.extra says. */
static void rope_extras(rope *r, tfb_idx half) {
    const turn *v = &r->v;
    const int scaling = v->extra & SCALING;
    tfb_idx i, left = 2 * half;
    tfb_rope_opts *o = &r->o;
    o->scaling = (tfb_rope_scaling)scaling;
    o->factor = scaling && t_rand() % 8 ? 1 + (double)t_int(0, 64) / 8 : 0;
    o->trained_length = scaling > TFB_ROPE_NTK ? (double)t_int(16, 9000) : 0;
    if (scaling > TFB_ROPE_NTK && t_rand() & 1) o->fast = 5.5, o->slow = 1.25;
    if (v->extra & MAGNITUDE) o->magnitude = (double)t_int(1, 30) / 16;
    r->freqs = t_floats(2 * half);
    r->freqs_view = tfb_view1(r->freqs, TFB_F32, half);
    r->freqs_view.stride[0] = 2;
    if ((v->extra & FREQS) && scaling != TFB_ROPE_NTK && scaling != TFB_ROPE_YARN)
        o->freqs = &r->freqs_view;
    o->axes = v->extra & AXES_2 ? v->extra & AXES_3 ? 3 : 2 : v->extra & AXES_3 ? 3 : 0;
    for (i = 0; i < o->axes && (v->extra & PARTS); i++) {
        o->axis_dims[i] = (int)(i == o->axes - 1 ? left : 2 * t_int(0, left / 2));
        left -= o->axis_dims[i];
    }
    if (!v->positions && (o->axes > 1 || (v->extra & GRID))) {
        o->start = t_int(0, 9);
        o->grid[0] = v->T + 9;
        for (i = 1; i < o->axes; i++) o->grid[i] = t_int(1, 5);
    }
}

static void rope_new(rope *r, const turn *v) {
    const tfb_idx half = (v->dims ? v->dims : v->D) / 2,
                  shape[] = {v->B, v->H, v->T, v->D};
    const tfb_idx count = 9 * (v->B ? v->B : 1) * v->T;
    tfb_idx i, axes;
    memset(r, 0, sizeof *r);
    r->v = *v;
    r->x = box_new(4, shape, v->layout);
    r->y = box_new(4, shape, v->out_layout);
    r->hi = t_floats(half);
    r->lo = t_floats(half);
    r->places = (int32_t *)malloc((size_t)count * 4 + (count == 0));
    for (i = 0; i < count; i++) r->places[i] = (int32_t)t_int(v->lo, v->hi);
    r->o.start = t_int(v->lo, v->hi);
    rope_extras(r, half);
    axes = r->o.axes;
    if (axes < 2) {
        r->positions = tfb_view1(r->places, TFB_I32, v->T);
        if (v->positions % 2 == 0)
            r->positions = tfb_view2(r->places, TFB_I32, v->B, v->T);
    } else {
        r->positions = tfb_view2(r->places, TFB_I32, v->T, axes);
        if (v->positions % 2 == 0)
            r->positions = tfb_view3(r->places, TFB_I32, v->B, v->T, axes);
    }
    for (i = 0; v->positions > 2 && i < r->positions.ndim; i++)
        r->positions.stride[i] *= 3;
    r->o.positions = v->positions ? &r->positions : NULL;
    r->o.base = v->base;
    r->o.dims = v->dims;
    r->o.interleaved = v->interleaved;
    r->o.inverse = v->inverse;
    r->o.compat = v->compat;
    rope_fill(&r->o, v->D, r->hi, r->lo);
    rope_want(r);
}

static void rope_free(rope *r) {
    box_free(&r->x);
    box_free(&r->y);
    free(r->places), free(r->freqs), free(r->hi), free(r->lo), free(r->want);
}

static void rope_check(tfb_ctx *ctx, rope *r) {
    const turn *v = &r->v;
    const box *to = v->in_place ? &r->x : &r->y;
    box_reset(&r->x);
    box_reset(&r->y);
    CHECK_OK(ctx, rope_run(ctx, r));
    CHECK_BITS(to->mem, r->want, to->n,
               "[%ld, %ld, %ld, %ld] dims %d, inter %d, inverse %d, compat %d, place %d, "
               "layout %d, positions %d, extra %d",
               (long)v->B, (long)v->H, (long)v->T, (long)v->D, v->dims, v->interleaved,
               v->inverse, v->compat, v->in_place, v->layout, v->positions, v->extra);
    if (!v->in_place) CHECK_BITS(r->x.mem, r->x.mem0, r->x.n, "x of rope");
}

static void rope_every_option(void) {
    static const tfb_idx dims[][2] = {{4, 0},  {2, 2},   {16, 0},  {18, 0},  {32, 6},
                                      {33, 4}, {34, 34}, {64, 32}, {130, 0}, {0, 0}};
    static const tfb_idx ranges[][2] = {
        {0, 40}, {-300, 300}, {131000, 1048575}, {-16777215, 16777190}};
    const int n = COUNT(dims) * 16 * 5;
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < n; i++) {
        int rest = i;
        turn v;
        rope r;
        memset(&v, 0, sizeof v);
        v.D = dims[rest % COUNT(dims)][0];
        v.dims = (int)dims[rest % COUNT(dims)][1];
        rest /= COUNT(dims);
        v.interleaved = rest & 1;
        v.inverse = rest >> 1 & 1;
        v.compat = rest >> 2 & 1;
        v.in_place = rest >> 3 & 1;
        v.positions = rest >> 4;
        v.B = t_int(0, 3);
        v.H = t_int(1, 3);
        v.T = t_int(0, 9);
        v.layout = layouts[t_int(0, COUNT(layouts) - 1)];
        v.out_layout = layouts[t_int(0, COUNT(layouts) - 1)];
        v.lo = ranges[i / 3 % COUNT(ranges)][0];
        v.hi = ranges[i / 3 % COUNT(ranges)][1];
        v.base = i % 4 ? 0 : i % 8 ? 500000.0 : 1.5;
        rope_new(&r, &v);
        rope_check(&ctx, &r);
        rope_free(&r);
    }
    tfb_ctx_free(&ctx);
}

/* Every scaling with every other new option: 5 * 64 sets, each in random company. */
static void rope_new_options(void) {
    static const tfb_idx dims[][2] = {{4, 0},   {12, 0},  {24, 12}, {64, 48},
                                      {49, 36}, {120, 0}, {2, 2},   {0, 0}};
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 5 * 64 * 4; i++) {
        const int more = i / 5 % 64 * FREQS, place = (int)t_int(0, COUNT(dims) - 1);
        turn v;
        rope r;
        memset(&v, 0, sizeof v);
        v.extra = i % 5 | more;
        v.D = dims[place][0];
        v.dims = (int)dims[place][1];
        if ((more & AXES_3) && (v.dims ? v.dims : v.D) == 2) v.extra |= PARTS;
        if ((more & AXES) && !(v.extra & PARTS) && v.D <= 4) v.D = 12, v.dims = 0;
        v.interleaved = t_rand() & 1;
        v.inverse = t_rand() & 1;
        v.compat = t_rand() & 1;
        v.in_place = t_rand() & 1;
        v.positions = (int)t_int(0, 4);
        v.B = t_int(0, 3);
        v.H = t_int(1, 3);
        v.T = t_int(0, 9);
        v.layout = layouts[t_int(0, COUNT(layouts) - 1)];
        v.out_layout = layouts[t_int(0, COUNT(layouts) - 1)];
        v.lo = i % 3 ? -300 : -16777215;
        v.hi = i % 3 ? 300 : 16777190;
        v.base = i % 4 ? 0 : i % 8 ? 500000.0 : 1.5;
        rope_new(&r, &v);
        rope_check(&ctx, &r);
        rope_free(&r);
    }
    tfb_ctx_free(&ctx);
}

static void rope_workers_and_tables(void) {
    static const turn turns[] = {
        {2, 3, 1500, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5000, 0, 0},
        {1, 2, 100, 34, 30, 1, 1, 0, 1, WIDE, 0, 2, -5000, 5000, 0, 0},
        {3, 2, 33, 40, 0, 0, 0, 1, 0, ORDER, ORDER, 4, -900000, 900000, 0, 0},
        {1, 1, 200, 16, 12, 1, 0, 1, 1, BACK, 0, 1, 0, 100, 77.0, 0},
        {2, 2, 300, 36, 34, 0, 1, 0, 0, WIDE, 0, 0, 0, 0, 0,
         AXES_3 | PARTS | TFB_ROPE_YARN},
        {2, 1, 90, 40, 0, 1, 0, 1, 0, 0, BACK, 4, -99, 99, 0, AXES_2 | FREQS | MAGNITUDE},
    };
    tfb_ctx ctx;
    int i, j;
    for (i = 0; i < COUNT(turns); i++) {
        rope r;
        rope_new(&r, &turns[i]);
        for (j = 0; context_new(&ctx, j); j++) {
            rope_check(&ctx, &r);
            tfb_ctx_free(&ctx);
        }
        tfb_ctx_free(&ctx);
        rope_free(&r);
    }
}

/* SEMANTICS section 3. */
static void rope_worked_example(void) {
    static const float want[2][4] = {{-1.9841106f, 1.9599007f, 2.4623779f, 4.0197997f},
                                     {-1.1426397f, 1.9220756f, 2.9598507f, 4.0297995f}};
    float v[4] = {1, 2, 3, 4}, y[4];
    tfb_tensor x = tfb_view4(v, TFB_F32, 1, 1, 1, 4),
               Yt = tfb_view4(y, TFB_F32, 1, 1, 1, 4);
    tfb_rope_opts o = {0};
    tfb_ctx ctx;
    int i, j;
    t_ctx(&ctx, NULL);
    o.start = 1;
    for (i = 0; i < 4; i++) {
        o.interleaved = i & 1;
        o.compat = i >> 1;
        CHECK_OK(&ctx, tfb_rope(&ctx, &x, &o, &Yt));
        for (j = 0; j < 4; j++) /* seven decimals were printed; 4 ulp of 4 */
            CHECK(fabs((double)y[j] - (double)want[i & 1][j]) < 1e-6, "%d: y[%d] is %.8g",
                  i, j, (double)y[j]);
    }
    o.start = 0;
    CHECK_OK(&ctx, tfb_rope(&ctx, &x, NULL, &Yt));
    CHECK_BITS(y, v, 4, "position 0 changes nothing");
    tfb_ctx_free(&ctx);
}

/* A [B, T, H, D] tensor, as projections leave it, rotated in place through a view. */
static void rope_permuted(void) {
    static const int order[] = {0, 2, 1, 3};
    const tfb_idx B = 2, T = 5, H = 3, D = 8;
    float *x = t_floats(B * T * H * D), *want = floats_copy(x, B * T * H * D);
    float hi[4], lo[4];
    tfb_tensor t = tfb_view4(x, TFB_F32, B, T, H, D);
    tfb_rope_opts o = {0};
    tfb_ctx ctx;
    tfb_idx i;
    t_ctx(&ctx, NULL);
    o.start = 11;
    tfb__rope_frequencies(4, 10000.0, 0, hi, lo);
    for (i = 0; i < B * T * H; i++) {
        const tfb_idx at[1] = {11 + i / H % T};
        float row[8];
        memcpy(row, want + i * D, sizeof row);
        tfb__rope_ref(D, row, at, &o, hi, lo, want + i * D);
    }
    CHECK_OK(&ctx, tfb_permute(&ctx, &t, order, &t));
    CHECK_OK(&ctx, tfb_rope(&ctx, &t, &o, &t));
    CHECK_BITS(x, want, B * T * H * D, "[B, T, H, D] in place");
    free(x), free(want);
    tfb_ctx_free(&ctx);
}

/* Cosine and sine of each pair at a position, as tfb_rope uses them: it turns (1, 0). */
static void rope_pair(tfb_ctx *ctx, tfb_rope_opts o, tfb_idx D, tfb_idx position,
                      float *y) {
    float x[128] = {0};
    tfb_tensor t = tfb_view4(x, TFB_F32, 1, 1, 1, D),
               out = tfb_view4(y, TFB_F32, 1, 1, 1, D);
    tfb_idx i;
    for (i = 0; i < D / 2; i++) x[i] = 1;
    o.start = position;
    CHECK_OK(ctx, tfb_rope(ctx, &t, &o, &out));
}

static const tfb_idx far_positions[] = {
    0,      1,      2,      3,       100,     1000,    4095, 4096, 32767,   131071,
    131072, 131073, 524287, 1000003, 1048573, 1048575, -1,   -77,  -131071, -1048575,
};

/* Angles are right to 1e-6 turns below position 2^20; the oracle is good to 2^-30. */
static void rope_angles(void) {
    static const double bases[] = {0, 10000.0, 500000.0, 1e6, 100.0, 1.5};
    const double two_pi = 6.283185307179586477;
    tfb_ctx ctx;
    double worst = 0;
    int i, p;
    t_ctx(&ctx, NULL);
    for (i = 0; i < COUNT(bases); i++)
        for (p = 0; p < COUNT(far_positions) + 30; p++) {
            const tfb_idx D = i % 2 ? 128 : 80;
            const tfb_idx position =
                p < COUNT(far_positions) ? far_positions[p] : t_int(-1048575, 1048575);
            tfb_rope_opts o = {0};
            float y[128];
            tfb_idx d;
            o.base = bases[i];
            rope_pair(&ctx, o, D, position, y);
            for (d = 0; d < D / 2; d++) {
                const long double base = i ? (long double)bases[i] : 10000.0L;
                const long double f = powl(base, -2.0L * (long double)d / (long double)D);
                const long double turns =
                    (long double)position * f / 6.283185307179586476925L;
                const double got = atan2((double)y[d + D / 2], (double)y[d]) / two_pi;
                double off = got - (double)(turns - floorl(turns));
                off = fabs(off - floor(off + 0.5));
                worst = off > worst ? off : worst;
                CHECK(off <= 1e-6, "base %g, position %ld, pair %ld: off by %g turns",
                      bases[i], (long)position, (long)d, off);
            }
        }
    CHECK(worst > 0, "an oracle that never differs is no oracle");
    tfb_ctx_free(&ctx);
}

/* Radians a position, by the formulas as their authors print them, without binary
 * logarithms; o's fields are all given. First those that scale any frequency. */
static double oracle_scaled(const tfb_rope_opts *o, double f) {
    const double wave = 2 * 3.14159265358979323846 / f, L = o->trained_length;
    double smooth;
    if (o->scaling == TFB_ROPE_LINEAR) return f / o->factor;
    if (o->scaling != TFB_ROPE_LLAMA3) return f;
    if (fabs(wave) > L / o->slow) return f / o->factor;
    if (fabs(wave) < L / o->fast) return f;
    smooth = (L / fabs(wave) - o->slow) / (o->fast - o->slow);
    return (1 - smooth) * f / o->factor + smooth * f;
}

/* Pair i of n. */
static double oracle_frequency(const tfb_rope_opts *o, double n, double i) {
    const double pi = 3.14159265358979323846, dims = 2 * n, L = o->trained_length;
    const double f = pow(o->base, -2 * i / dims);
    double low, high, ramp;
    if (o->scaling == TFB_ROPE_NTK && n > 1)
        return pow(o->base * pow(o->factor, dims / (dims - 2)), -2 * i / dims);
    if (o->scaling != TFB_ROPE_YARN) return oracle_scaled(o, f);
    low = floor(dims * log(L / (o->fast * 2 * pi)) / (2 * log(o->base)));
    high = ceil(dims * log(L / (o->slow * 2 * pi)) / (2 * log(o->base)));
    low = fmin(fmax(low, 0), dims - 1);
    high = fmin(fmax(high, 0), dims - 1);
    if (high <= low) high += 0.001;
    ramp = fmin(fmax((i - low) / (high - low), 0), 1);
    return f / o->factor * ramp + f * (1 - ramp);
}

/* Options of a checkpoint, spelt out; number i of scaling. */
static tfb_rope_opts scaled_opts(int scaling, int i) {
    static const double lengths[] = {8192, 4096, 32768, 100, 2048};
    static const double factors[] = {8, 32, 4, 1.5, 40};
    static const double bases[] = {500000, 10000, 1000000, 100, 10000};
    tfb_rope_opts o = {0};
    o.scaling = (tfb_rope_scaling)scaling;
    o.factor = factors[i % 5];
    o.trained_length = lengths[i % 5];
    o.base = bases[i % 5];
    o.fast = scaling == TFB_ROPE_YARN ? 32 : 4;
    o.slow = 1;
    return o;
}

/* hi + lo turns are right to 2^-43. In compat the exponent is rounded to float32, which
 * makes u ln(base), NTK's base included; three roundings follow; LLAMA3's blend, whose
 * slope is below 2, can double it. The defaults of fast and slow are those spelt out. */
static void rope_frequencies(void) {
    static const tfb_idx sizes[] = {64, 32, 48, 1, 2, 3, 128};
    float hi[128], lo[128], same[128];
    int i, scaling;
    for (i = 0; i < 35; i++)
        for (scaling = 0; scaling < 5; scaling++) {
            const tfb_idx n = sizes[i % 7];
            tfb_rope_opts o = scaled_opts(scaling, i), d = o;
            tfb_idx j;
            rope_fill(&o, 2 * n, hi, lo);
            d.fast = d.slow = 0;
            rope_fill(&d, 2 * n, same, lo);
            CHECK_BITS(same, hi, n, "defaults of scaling %d", scaling);
            for (j = 0; j < n; j++) {
                const double want = oracle_frequency(&o, (double)n, (double)j);
                const double got = ((double)hi[j] + (double)lo[j]) * 6.283185307179586477;
                CHECK(fabs(got / want - 1) < 1.2e-13, "scaling %d, %ld of %ld: %g off",
                      scaling, (long)j, (long)n, got / want - 1);
            }
            o.compat = 1;
            rope_fill(&o, 2 * n, hi, lo);
            for (j = 0; j < n; j++) {
                const double want = oracle_frequency(&o, (double)n, (double)j);
                const double most =
                    2 * (log(o.base) + 2 * log(o.factor) * (scaling == TFB_ROPE_NTK) + 3);
                CHECK(fabs((double)hi[j] / want - 1) < most * U && lo[j] >= 0 &&
                          lo[j] <= 0,
                      "compat, scaling %d, %ld of %ld", scaling, (long)j, (long)n);
            }
        }
}

/* Explicit frequencies of any sign and stride; compat takes them as they are. */
static void rope_given_frequencies(void) {
    float f[60], hi[20], lo[20];
    tfb_tensor freqs = tfb_view1(f + 57, TFB_F32, 20);
    int i, j;
    freqs.stride[0] = -3;
    for (i = 0; i < 60; i++) f[i] = 1.5f * t_float() / (float)(1 << i % 12);
    f[57] = 0;
    for (i = 0; i < 15; i++) {
        tfb_rope_opts o = scaled_opts(i % 3 == 2 ? TFB_ROPE_LLAMA3 : i % 3, i);
        o.freqs = &freqs;
        o.trained_length = 100;
        rope_fill(&o, 40, hi, lo);
        for (j = 0; j < 20; j++) {
            const double want = oracle_scaled(&o, (double)f[57 - 3 * j]);
            const double got = ((double)hi[j] + (double)lo[j]) * 6.283185307179586477;
            CHECK(fabs(got - want) <= 1.2e-13 * fabs(want), "scaling %d, %d: %g, not %g",
                  i % 3, j, got, want);
        }
        o.compat = 1;
        rope_fill(&o, 40, hi, lo);
        for (j = 0; j < 20; j++) {
            const double want = oracle_scaled(&o, (double)f[57 - 3 * j]);
            CHECK(fabs((double)hi[j] - want) <= (i % 3 ? 1.01 * U : 0) * fabs(want),
                  "compat, scaling %d, %d: %g, not %g", i % 3, j, (double)hi[j], want);
        }
    }
}

/* The same through tfb_rope: angles to 1e-6 turns, lengths to 4 u of the magnitude. */
static void rope_scaled_angles(void) {
    const double two_pi = 6.283185307179586477;
    tfb_ctx ctx;
    int i, p;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 40; i++)
        for (p = 0; p < COUNT(far_positions); p++) {
            const tfb_idx half = i % 2 ? 64 : 40;
            const int given = i / 5 % 2;
            tfb_rope_opts o = scaled_opts(1 + i % 4, i / 4);
            double m = o.scaling == TFB_ROPE_YARN ? 0.1 * log(o.factor) + 1 : 1;
            float y[128];
            tfb_idx d;
            if (given) o.magnitude = m = 0.75;
            rope_pair(&ctx, o, 2 * half, far_positions[p], y);
            for (d = 0; d < half; d++) {
                const double turns = (double)far_positions[p] / two_pi *
                                     oracle_frequency(&o, (double)half, (double)d);
                const double a = (double)y[d], b = (double)y[d + half];
                const double off = atan2(b, a) / two_pi - turns;
                CHECK(fabs(off - floor(off + 0.5)) <= 1e-6, "scaling %d, position %ld",
                      (int)o.scaling, (long)far_positions[p]);
                CHECK(fabs(hypot(a, b) / m - 1) <= 4 * U, "scaling %d: magnitude %g",
                      (int)o.scaling, hypot(a, b));
            }
        }
    tfb_ctx_free(&ctx);
}

/* Where both ends of YARN's ramp meet: every pair is divided if the trained length is
 * shorter than any wave, none if it is far longer than all. */
static void rope_yarn_corners(void) {
    static const double lengths[] = {1e-3, 6, 1e11};
    float hi[16], lo[16], plain[16];
    tfb_rope_opts o = scaled_opts(TFB_ROPE_YARN, 0);
    int i, j;
    o.base = 100;
    rope_fill(&o, 32, hi, lo); /* to set trained_length afresh */
    for (i = 0; i < 3; i++) {
        tfb_rope_opts none = o;
        none.scaling = TFB_ROPE_PLAIN;
        o.trained_length = lengths[i];
        rope_fill(&o, 32, hi, lo);
        rope_fill(&none, 32, plain, lo);
        for (j = 0; j < 16; j++) {
            const double ratio = (double)plain[j] / (double)hi[j];
            CHECK(fabs(ratio - (i < 2 && j ? o.factor : 1)) < 1e-6,
                  "length %g, pair %d: divided by %g", lengths[i], j, ratio);
        }
    }
}

/* A grid is the same as its coordinates written out. */
static void rope_grid(void) {
    const tfb_idx T = 30, D = 24;
    float *x = t_floats(T * D), *a = t_floats(T * D), *b = t_floats(T * D);
    tfb_tensor t = tfb_view4(x, TFB_F32, 1, 1, T, D), ta = t, tb = t, pos;
    int32_t at[90];
    tfb_ctx ctx;
    int i, j, axes;
    t_ctx(&ctx, NULL);
    ta.data = a;
    tb.data = b;
    for (axes = 1; axes <= 3; axes++)
        for (i = 0; i < 30; i++) {
            tfb_rope_opts o = {0};
            o.axes = axes;
            o.start = i;
            o.interleaved = i & 1;
            o.grid[0] = axes == 1 ? 60 : axes == 2 ? 12 : 2;
            if (axes > 1) o.grid[1] = 5;
            if (axes > 2) o.grid[2] = 6;
            for (j = 0; j < T; j++) {
                int32_t *c = at + j * axes, n = i + j;
                c[0] = axes == 1 ? n : axes == 2 ? n / 5 : n / 30;
                if (axes == 2) c[1] = n % 5;
                if (axes == 3) c[1] = n % 30 / 6, c[2] = n % 6;
            }
            CHECK_OK(&ctx, tfb_rope(&ctx, &t, &o, &ta));
            pos = axes > 1 ? tfb_view2(at, TFB_I32, T, axes) : tfb_view1(at, TFB_I32, T);
            o.positions = &pos;
            CHECK_OK(&ctx, tfb_rope(&ctx, &t, &o, &tb));
            CHECK(memcmp(a, b, (size_t)(T * D) * 4) == 0, "axes %d, start %d", axes, i);
        }
    free(x), free(a), free(b);
    tfb_ctx_free(&ctx);
}

/* Each axis is a rope of its own slice by its own coordinates; dims beyond are copied. */
static void rope_axes_are_slices(void) {
    static const int parts[][3] = {{8, 8, 8}, {4, 14, 6}, {2, 0, 22}, {12, 12, 0}};
    const tfb_idx T = 7, D = 30, n = 2 * 3 * T * D;
    float *x = t_floats(n), *a = t_floats(n), *b = t_floats(n), *f = t_floats(12);
    const tfb_tensor t = tfb_view4(x, TFB_F32, 2, 3, T, D),
                     ta = tfb_view4(a, TFB_F32, 2, 3, T, D);
    const tfb_tensor tb = tfb_view4(b, TFB_F32, 2, 3, T, D);
    const tfb_tensor freqs = tfb_view1(f, TFB_F32, 12);
    int32_t at[42];
    tfb_tensor pos = tfb_view3(at, TFB_I32, 2, T, 3), out = ta;
    tfb_ctx ctx;
    int i, k;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 42; i++) at[i] = (int32_t)t_int(-99, 9999);
    for (i = 0; i < 4 * 5 * 8; i++) {
        const int *dims = parts[i % 4];
        tfb_rope_opts o = scaled_opts(i / 4 % 5, i);
        tfb_idx from = 0;
        o.interleaved = i & 1;
        o.inverse = i >> 1 & 1;
        o.compat = i / 20 & 1;
        if (i / 40 & 1 && o.scaling != TFB_ROPE_NTK && o.scaling != TFB_ROPE_YARN)
            o.freqs = &freqs;
        o.axes = dims[2] ? 3 : 2;
        o.dims = 24;
        pos = tfb_view3(at, TFB_I32, 2, T, o.axes);
        o.positions = &pos;
        memcpy(o.axis_dims, dims, sizeof o.axis_dims);
        if (i % 4 == 0) memset(o.axis_dims, 0, sizeof o.axis_dims);
        CHECK_OK(&ctx, tfb_rope(&ctx, &t, &o, &out));
        memcpy(b, x, (size_t)n * 4);
        o.dims = o.axes = 0;
        memset(o.axis_dims, 0, sizeof o.axis_dims);
        for (k = 0; k < 3; from += dims[k++]) {
            tfb_tensor slice, own = tfb_view2(at + k, TFB_I32, 2, T), part = freqs;
            if (!dims[k]) continue;
            own.stride[0] = pos.stride[0];
            own.stride[1] = pos.stride[1];
            o.positions = &own;
            CHECK_OK(&ctx, tfb_slice(&ctx, &tb, 3, from, dims[k], &slice));
            CHECK_OK(&ctx, tfb_slice(&ctx, &freqs, 0, from / 2, dims[k] / 2, &part));
            if (o.freqs) o.freqs = &part;
            CHECK_OK(&ctx, tfb_rope(&ctx, &slice, &o, &slice));
        }
        CHECK(memcmp(a, b, (size_t)n * 4) == 0, "parts %d, scaling %d", i % 4,
              (int)o.scaling);
    }
    free(x), free(a), free(b), free(f);
    tfb_ctx_free(&ctx);
}

/* The reference in double: sin and cos are right to 1 ulp (at most 2 u) each, the angle
 * to 1e-6 turns at worst, and there are two roundings more; r is the pair's length. */
static void rope_reference_is_accurate(void) {
    int i;
    for (i = 0; i < 200; i++) {
        const tfb_idx D = 2 * t_int(1, 40), position = t_int(-1048575, 1048575);
        float *x = t_floats(D), *y = t_floats(D), *hi = t_floats(D), *lo = t_floats(D);
        tfb_rope_opts o = {0};
        tfb_idx d;
        o.interleaved = i & 1;
        o.inverse = i >> 1 & 1;
        tfb__rope_frequencies(D / 2, 10000.0, 0, hi, lo);
        tfb__rope_ref(D, x, &position, &o, hi, lo, y);
        for (d = 0; d < D / 2; d++) {
            const tfb_idx i0 = o.interleaved ? 2 * d : d;
            const tfb_idx i1 = o.interleaved ? 2 * d + 1 : d + D / 2;
            const double a = (double)x[i0], b = (double)x[i1], r = sqrt(a * a + b * b);
            const double angle = (double)position *
                                 pow(10000.0, -2.0 * (double)d / (double)D) *
                                 (o.inverse ? -1 : 1);
            const double most = r * ((2 * 1.4143 + 2) * U + 6.2832e-6);
            CHECK(fabs((double)y[i0] - (a * cos(angle) - b * sin(angle))) <= most &&
                      fabs((double)y[i1] - (b * cos(angle) + a * sin(angle))) <= most,
                  "D %ld, position %ld, pair %ld", (long)D, (long)position, (long)d);
        }
        free(x), free(y), free(hi), free(lo);
    }
}

/* inverse undoes forward. With u = 2^-24 and r the pair's length: sine and cosine are off
 * by u each (1 ulp, and ulp(1) = 2 u only at 1 itself, which is exact), so c^2 + s^2 is 1
 * within 2 (|c| + |s|) u <= 2.83 u; forward's roundings are 2 u r in each component,
 * which the turn back mixes to 2.83 u r; inverse's own are 2 u r: 7.7 u r together, so 8.
 * In compat form sine and cosine are off by 1.55 ulp, which makes it 9.3, so 10. */
static void rope_inverse_undoes(void) {
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 100; i++) {
        const tfb_idx D = 2 * t_int(1, 40), n = 2 * 3 * 5 * D;
        float *x = t_floats(n), *y = floats_copy(x, n);
        tfb_tensor t = tfb_view4(y, TFB_F32, 2, 3, 5, D);
        tfb_rope_opts o = {0};
        tfb_idx j;
        o.interleaved = i & 1;
        o.compat = i >> 1 & 1;
        o.start = t_int(-16777215, 16777000);
        if (i % 3 == 0 && D % 4 == 0) o.axes = 2, o.grid[0] = o.grid[1] = 16777216;
        if (o.axes) o.scaling = TFB_ROPE_NTK, o.factor = 3;
        if (o.start < 0 && o.axes) o.start = -o.start;
        CHECK_OK(&ctx, tfb_rope(&ctx, &t, &o, &t));
        o.inverse = 1;
        CHECK_OK(&ctx, tfb_rope(&ctx, &t, &o, &t));
        for (j = 0; j < n; j++) {
            const tfb_idx row = j / D * D, d = j % D;
            const tfb_idx part = o.axes ? D / 2 : D, in = d % part;
            const tfb_idx with = o.interleaved ? d ^ 1 : d - in + (in + part / 2) % part;
            const double r = hypot((double)x[j], (double)x[row + with]);
            CHECK(fabs((double)y[j] - (double)x[j]) <= (o.compat ? 10 : 8) * U * r,
                  "%g came back as %g", (double)x[j], (double)y[j]);
        }
        free(x), free(y);
    }
    tfb_ctx_free(&ctx);
}

/* How many floats lie between a and b. */
static int32_t ulps(float a, float b) {
    int32_t i = (int32_t)(tfb__bits_of(a) & 0x7FFFFFFF);
    int32_t j = (int32_t)(tfb__bits_of(b) & 0x7FFFFFFF);
    if (tfb__bits_of(a) >> 31) i = -i;
    if (tfb__bits_of(b) >> 31) j = -j;
    return i > j ? i - j : j - i;
}

/* compat is what float32 programs compute: frequencies 1 / powf(base, 2i/D) to 1 ulp,
 * and for a frequency the cosine and sine of the float32 product, as libm has them, to
 * 3 ulp (ours 1.55, libm's below 1). Where libm's frequency is the same float, so is
 * the angle. */
static void rope_compat(void) {
    static const float bases[] = {10000.0f, 500000.0f, 100.0f};
    tfb_ctx ctx;
    int i, p, same = 0, all = 0;
    t_ctx(&ctx, NULL);
    for (i = 0; i < COUNT(bases); i++)
        for (p = 0; p < COUNT(far_positions) + 4; p++) {
            const tfb_idx D = i % 2 ? 128 : 80;
            const tfb_idx position =
                p < COUNT(far_positions) ? far_positions[p] : (16777215 >> p % 4);
            tfb_rope_opts o = {0};
            float y[128], hi[64], lo[64];
            tfb_idx d;
            o.base = (double)bases[i];
            o.compat = 1;
            rope_pair(&ctx, o, D, position, y);
            tfb__rope_frequencies(D / 2, o.base, 1, hi, lo);
            for (d = 0; d < D / 2; d++) {
                const float f = 1.0f / powf(bases[i], (float)(2 * d) / (float)D);
                const float angle = (float)position * hi[d];
                CHECK(ulps(f, hi[d]) <= 1, "frequency %ld: %.9g, powf %.9g", (long)d,
                      (double)hi[d], (double)f);
                same += ulps(f, hi[d]) == 0;
                all++;
                CHECK(ulps(y[d], cosf(angle)) <= 3 &&
                          ulps(y[d + D / 2], sinf(angle)) <= 3,
                      "angle %.9g: %.9g %.9g", (double)angle, (double)y[d],
                      (double)y[d + D / 2]);
            }
        }
    CHECK(same * 10 >= all * 9, "%d of %d frequencies are powf's", same, all);
    tfb_ctx_free(&ctx);
}

static void rope_position_limits(void) {
    static const struct {
        tfb_idx start, T;
        int fine;
    } cases[] = {{16777215, 1, 1},       {16777216, 1, 0},    {16777214, 2, 1},
                 {16777214, 3, 0},       {-16777215, 9, 1},   {-16777216, 9, 0},
                 {PTRDIFF_MAX, 1, 0},    {PTRDIFF_MIN, 1, 0}, {16777216, 0, 0},
                 {PTRDIFF_MAX - 3, 9, 0}};
    float x[18] = {0}, before[18];
    int32_t at[9] = {0};
    tfb_tensor t, pos;
    tfb_rope_opts o = {0};
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 18; i++) x[i] = before[i] = (float)(i + 1);
    for (i = 0; i < COUNT(cases); i++) {
        const tfb_idx T = cases[i].T, start = cases[i].start;
        t = tfb_view4(x, TFB_F32, 1, 1, T, 2);
        o.start = start;
        o.positions = NULL;
        memcpy(x, before, sizeof x);
        if (cases[i].fine) CHECK_OK(&ctx, tfb_rope(&ctx, &t, &o, &t));
        else CHECK_FAILS(&ctx, TFB_ERR_RANGE, "pass 2^24", tfb_rope(&ctx, &t, &o, &t));
        if (!cases[i].fine) CHECK_BITS(x, before, 18, "x after a refusal, %d", i);
        if (!T || start > 1 << 25 || start < -(1 << 25)) continue;
        pos = tfb_view1(at, TFB_I32, T);
        at[T - 1] = (int32_t)(start < 0 ? start : start + T - 1);
        o.positions = &pos;
        o.start = PTRDIFF_MAX; /* unused */
        memcpy(x, before, sizeof x);
        if (cases[i].fine) CHECK_OK(&ctx, tfb_rope(&ctx, &t, &o, &t));
        else CHECK_FAILS(&ctx, TFB_ERR_RANGE, "past 2^24", tfb_rope(&ctx, &t, &o, &t));
        if (!cases[i].fine) CHECK_BITS(x, before, 18, "x after a refusal, %d", i);
        at[T - 1] = 0;
    }
    tfb_ctx_free(&ctx);
}

/* --- Scratch. A job is one call and the buffers it may write. --- */
#define NORM_JOBS COUNT(variants)
#define ROPE_JOBS 5
#define JOBS      (NORM_JOBS + 2 + ROPE_JOBS)

typedef struct job {
    const char *name;
    box *b[TENSORS];
    int n;
    tfb_status (*run)(tfb_ctx *ctx, void *arg);
    void *arg;
    float *want[TENSORS];
} job;

typedef struct jobs {
    job job[JOBS];
    problem norm[NORM_JOBS];
    box soft[2][3];
    rope rope[ROPE_JOBS];
} jobs;

static tfb_status job_norm(tfb_ctx *ctx, void *arg) {
    return problem_run(ctx, (problem *)arg);
}

static tfb_status job_softmax(tfb_ctx *ctx, void *arg) {
    box *b = (box *)arg;
    return tfb_softmax(ctx, &b[0].t, &b[1].t, &b[2].t);
}

static tfb_status job_rope(tfb_ctx *ctx, void *arg) {
    return rope_run(ctx, (rope *)arg);
}

/* Runs the job once as it comes; other tests hold that result to the references. */
static void job_new(job *j, const char *name, tfb_status (*run)(tfb_ctx *, void *),
                    void *arg, box *b, int n) {
    tfb_ctx ctx;
    int i;
    j->name = name;
    j->run = run;
    j->arg = arg;
    j->n = n;
    for (i = 0; i < n; i++) j->b[i] = b + i;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, run(&ctx, arg));
    for (i = 0; i < n; i++) j->want[i] = floats_copy(b[i].mem, b[i].n);
    for (i = 0; i < n; i++) box_reset(&b[i]);
    tfb_ctx_free(&ctx);
}

static void jobs_new(jobs *s) {
    static const turn turns[] = {
        {2, 3, 40, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5000, 0, 0},
        {1, 2, 50, 34, 30, 1, 1, 0, 1, WIDE, 0, 2, -5000, 5000, 0, 0},
        {3, 2, 33, 40, 0, 0, 0, 1, 0, ORDER, ORDER, 4, -900000, 900000, 0, 0},
        {2, 2, 30, 36, 34, 0, 1, 0, 0, WIDE, 0, 0, 0, 0, 0,
         AXES_3 | PARTS | TFB_ROPE_YARN},
        {2, 1, 19, 40, 0, 1, 0, 0, 0, 0, BACK, 4, -99, 99, 0, AXES_2 | FREQS | MAGNITUDE},
    };
    static const tfb_idx shape[] = {70, 333};
    int i, j;
    for (i = 0; i < NORM_JOBS; i++) {
        problem_new(&s->norm[i], &variants[i]);
        job_new(&s->job[i], "norm", job_norm, &s->norm[i], s->norm[i].t, TENSORS);
    }
    for (i = 0; i < 2; i++) {
        for (j = 0; j < 3; j++)
            s->soft[i][j] = box_new(j < 2 ? 2 : 1, shape, i ? ORDER | SPARSE : 0);
        job_new(&s->job[NORM_JOBS + i], "softmax", job_softmax, s->soft[i], s->soft[i],
                3);
    }
    for (i = 0; i < ROPE_JOBS; i++) {
        rope_new(&s->rope[i], &turns[i]);
        job_new(&s->job[NORM_JOBS + 2 + i], "rope", job_rope, &s->rope[i], &s->rope[i].x,
                2);
    }
}

static void jobs_free(jobs *s) {
    int i, j;
    for (i = 0; i < JOBS; i++)
        for (j = 0; j < s->job[i].n; j++) free(s->job[i].want[j]);
    for (i = 0; i < NORM_JOBS; i++) problem_free(&s->norm[i]);
    for (i = 0; i < 6; i++) box_free(&s->soft[i / 3][i % 3]);
    for (i = 0; i < ROPE_JOBS; i++) rope_free(&s->rope[i]);
}

static void job_equal(const job *j, int untouched) {
    int i;
    for (i = 0; i < j->n; i++)
        CHECK_BITS(j->b[i]->mem, untouched ? j->b[i]->mem0 : j->want[i], j->b[i]->n,
                   "%s: tensor %d", j->name, i);
}

static void job_check(tfb_ctx *ctx, const job *j) {
    int i;
    for (i = 0; i < j->n; i++) box_reset(j->b[i]);
    CHECK_OK(ctx, j->run(ctx, j->arg));
    job_equal(j, 0);
    for (i = 0; i < j->n; i++) box_reset(j->b[i]);
}

/* What a measuring context says, with no data at all. */
static size_t job_measure(const job *j, const tfb_ctx *like, int workers) {
    void *data[TENSORS];
    tfb_ctx ctx;
    int i;
    CHECK_OK(&ctx, tfb_ctx_init_measure(&ctx));
    CHECK_OK(&ctx, tfb_isa_force(&ctx, tfb_isa_name(like)));
    ctx.workers = workers;
    CHECK_OK(&ctx, j->run(&ctx, j->arg));
    job_equal(j, 1);
    for (i = 0; i < j->n; i++) data[i] = j->b[i]->t.data, j->b[i]->t.data = NULL;
    CHECK_OK(&ctx, j->run(&ctx, j->arg));
    for (i = 0; i < j->n; i++) j->b[i]->t.data = data[i];
    CHECK(ctx.scratch_peak == ctx.scratch_last, "%s: peak", j->name);
    return ctx.scratch_last;
}

/* What is measured is what is used: exactly so much succeeds, one byte less fails. */
static void scratch_is_exact(void) {
    static jobs s;
    tfb_ctx like, ctx;
    int i, k;
    jobs_new(&s);
    t_ctx(&like, NULL);
    for (i = 0; i < JOBS * COUNT(worker_counts); i++) {
        const job *j = &s.job[i / COUNT(worker_counts)];
        const int workers = worker_counts[i % COUNT(worker_counts)];
        const size_t need = job_measure(j, &like, workers);
        char *mem = (char *)malloc(need + (need == 0)), text[32];
        reverse_workers(&like, workers);
        job_check(&like, j);
        CHECK(like.scratch_last == need, "%s: used %ld, measured %ld", j->name,
              (long)like.scratch_last, (long)need);
        for (k = 0; k < 2 && (need || !k); k++) {
            CHECK_OK(&ctx, tfb_ctx_init_static(&ctx, mem, need - (size_t)k));
            CHECK_OK(&ctx, tfb_isa_force(&ctx, tfb_isa_name(&like)));
            reverse_workers(&ctx, workers);
            if (!k) job_check(&ctx, j);
        }
        sprintf(text, "needs %ld", (long)need);
        if (need) {
            CHECK_FAILS(&ctx, TFB_ERR_SCRATCH, text, j->run(&ctx, j->arg));
            job_equal(j, 1);
        }
        free(mem);
    }
    tfb_ctx_free(&like);
    jobs_free(&s);
}

/* Every allocation may fail: then nothing is written, and the next call works. A later
 * call of the same shapes allocates nothing. */
static void allocations_fail(void) {
    static jobs s;
    int i, again;
    long fail;
    jobs_new(&s);
    for (i = 0; i < JOBS; i++)
        for (again = 1, fail = 1; again && fail < 20; fail++) {
            const job *j = &s.job[i];
            t_heap heap;
            tfb_ctx ctx;
            tfb_status st;
            long calls;
            t_ctx(&ctx, &heap);
            heap.fail_at = fail;
            st = j->run(&ctx, j->arg);
            again = heap.calls >= fail;
            CHECK(st == TFB_OK || st == TFB_ERR_MEMORY, "status %d", (int)st);
            CHECK(fail > 1 || st || !heap.calls, "the first allocation failed");
            if (st) CHECK(strstr(ctx.message, "scratch") != NULL, "%s", ctx.message);
            job_equal(j, st != TFB_OK);
            job_check(&ctx, j);
            calls = heap.calls;
            job_check(&ctx, j);
            CHECK(heap.calls == calls, "%s: allocates after warm-up", j->name);
            tfb_ctx_free(&ctx);
            CHECK(heap.live == 0, "%ld blocks leak", heap.live);
        }
    jobs_free(&s);
}

/* What the header says about scratch; each take is rounded up to 64 bytes. */
static void scratch_is_documented(void) {
    const tfb_tensor dense = tfb_view4(NULL, TFB_F32, 1, 3, 5, 1000);
    const tfb_tensor w = tfb_view1(NULL, TFB_F32, 1000);
    tfb_tensor x = dense;
    tfb_norm_opts o = {0};
    tfb_ctx ctx;
    size_t workers;
    int gaps;
    o.weight = o.bias = &w;
    o.residual = &x;
    CHECK_OK(&ctx, tfb_ctx_init_measure(&ctx));
    for (gaps = 0; gaps < 2; gaps++)
        for (workers = 1; workers < 4; workers++) {
            x = dense;
            if (gaps) x.stride[0] = 30000, x.stride[1] = 10000, x.stride[2] = 2000;
            if (gaps) x.stride[3] = 2;
            ctx.workers = (int)workers;
            CHECK_OK(&ctx, tfb_layernorm(&ctx, &x, &o, &x));
            CHECK(ctx.scratch_last <= 8000 + (gaps ? 12000 * workers : 0) + 126,
                  "norm: %ld bytes", (long)ctx.scratch_last);
            CHECK_OK(&ctx, tfb_softmax(&ctx, &x, &x, NULL));
            CHECK(ctx.scratch_last <= (gaps ? 8000 * workers + 63 : 0),
                  "softmax: %ld bytes", (long)ctx.scratch_last);
            CHECK_OK(&ctx, tfb_rope(&ctx, &x, NULL, &x));
            CHECK(ctx.scratch_last <= 4000 + 4000 * workers + 189, "rope: %ld bytes",
                  (long)ctx.scratch_last);
        }
}

static void scratch_overflows(void) {
    float one[1] = {0};
    tfb_tensor x = tfb_view2(one, TFB_F32, 1, HUGE_EXTENT / 8), lse;
    tfb_ctx ctx;
    x.stride[1] = -1; /* not dense, so that rows pass through scratch */
    lse = tfb_view1(NULL, TFB_F32, 1);
    CHECK_OK(&ctx, tfb_ctx_init_measure(&ctx));
    ctx.workers = 64;
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "scratch", tfb_rmsnorm(&ctx, &x, NULL, &x));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "scratch", tfb_softmax(&ctx, &x, &x, &lse));
    x = tfb_view4(one, TFB_F32, 1, 1, 1, HUGE_EXTENT / 8 + 1);
    x.stride[0] = x.stride[1] = x.stride[2] = 0;
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "scratch", tfb_rope(&ctx, &x, NULL, &x));
    CHECK(ctx.scratch_peak == 0, "peak %ld", (long)ctx.scratch_peak);
}

/* --- Bad input. --- */
static tfb_norm_opts norm_opts;
static tfb_rope_opts rope_opts;
static int norm_which;

static tfb_status run_norm(tfb_ctx *ctx, tfb_tensor **t) {
    tfb_norm_opts o = norm_opts;
    o.weight = t[1];
    o.bias = t[2];
    o.residual = t[3];
    o.sum = t[4];
    return norms[norm_which](ctx, t[0], &o, t[5]);
}

static tfb_status run_softmax(tfb_ctx *ctx, tfb_tensor **t) {
    return tfb_softmax(ctx, t[0], t[1], t[2]);
}

static tfb_status run_rope(tfb_ctx *ctx, tfb_tensor **t) {
    tfb_rope_opts o = rope_opts;
    o.positions = t[1];
    o.freqs = t[3];
    return tfb_rope(ctx, t[0], &o, t[2]);
}

static void norm_refuses_in(call *c) {
    const tfb_tensor x = tfb_view2(c->mem, TFB_F32, 3, 5);
    const tfb_tensor w = tfb_view1(c->mem + 15, TFB_F32, 5);
    const tfb_tensor b = tfb_view1(c->mem + 20, TFB_F32, 5);
    const tfb_tensor r = tfb_view2(c->mem + 25, TFB_F32, 3, 5);
    const tfb_tensor s = tfb_view2(c->mem + 40, TFB_F32, 3, 5);
    const tfb_tensor y = tfb_view2(c->mem + 55, TFB_F32, 3, 5);
    const wrong list[] = {
        {0, with_rank(x, 0), TFB_ERR_SHAPE, "x.ndim is 0, needs 1"},
        {0, with_rank(x, 1), TFB_ERR_SHAPE, "y.ndim is 2, needs 1"},
        {5, with_rank(y, 3), TFB_ERR_SHAPE, "y.ndim is 3, needs 2"},
        {1, with_rank(w, 2), TFB_ERR_SHAPE, "weight.ndim is 2, needs 1"},
        {2, with_rank(b, 0), TFB_ERR_SHAPE, "bias.ndim is 0, needs 1"},
        {3, with_rank(r, 1), TFB_ERR_SHAPE, "residual.ndim is 1, needs 2"},
        {4, with_rank(s, 3), TFB_ERR_SHAPE, "sum.ndim is 3, needs 2"},
        {0, with_dtype(x, TFB_F16), TFB_ERR_DTYPE, "x is F16"},
        {1, with_dtype(w, TFB_BF16), TFB_ERR_DTYPE, "weight is BF16"},
        {4, with_dtype(s, TFB_PACKED_F32), TFB_ERR_DTYPE, "sum is PACKED_F32"},
        {0, with_extent(x, 0, 2), TFB_ERR_SHAPE, "y.shape[0] is 3, needs 2"},
        {5, with_extent(y, 1, 4), TFB_ERR_SHAPE, "y.shape[1] is 4, needs 5"},
        {5, with_extent(y, 1, 1), TFB_ERR_SHAPE, "y.shape[1] is 1, needs 5"},
        {1, with_extent(w, 0, 4), TFB_ERR_SHAPE, "weight.shape[0] is 4, needs 5"},
        {1, with_extent(w, 0, 1), TFB_ERR_SHAPE, "weight.shape[0] is 1, needs 5"},
        {2, with_extent(b, 0, 0), TFB_ERR_SHAPE, "bias.shape[0] is 0, needs 5"},
        {3, with_extent(r, 0, 1), TFB_ERR_SHAPE, "residual.shape[0] is 1, needs 3"},
        {3, with_extent(r, 1, 4), TFB_ERR_SHAPE, "residual.shape[1] is 4, needs 5"},
        {4, with_extent(s, 0, 2), TFB_ERR_SHAPE, "sum.shape[0] is 2, needs 3"},
        {5, with_stride(y, 0, 0), TFB_ERR_SHAPE, "y.stride[0] is 0: elements would"},
        {5, with_stride(y, 0, -4), TFB_ERR_SHAPE, "y.stride[0] is -4: elements would"},
        {4, with_stride(s, 1, 0), TFB_ERR_SHAPE, "sum.stride[1] is 0: elements would"},
        {5, with_data(y, c->mem + 1), TFB_ERR_ALIAS, "y overlaps x"},
        {5, with_stride(x, 0, 6), TFB_ERR_ALIAS, "y overlaps x"},
        {5, with_data(y, c->mem + 26), TFB_ERR_ALIAS, "y overlaps residual"},
        {5, with_data(y, c->mem + 24), TFB_ERR_ALIAS, "y overlaps residual"},
        {5, s, TFB_ERR_ALIAS, "sum overlaps y"},
        {5, with_data(y, c->mem + 54), TFB_ERR_ALIAS, "sum overlaps y"},
        {4, with_data(s, c->mem + 1), TFB_ERR_ALIAS, "sum overlaps x"},
        {4, with_data(s, c->mem + 26), TFB_ERR_ALIAS, "sum overlaps residual"},
        {1, with_data(w, c->mem + 69), TFB_ERR_ALIAS, "y overlaps weight"},
        {2, with_data(b, c->mem + 50), TFB_ERR_ALIAS, "sum overlaps bias"},
        {2, with_data(b, c->mem + 60), TFB_ERR_ALIAS, "y overlaps bias"},
        {1, with_data(w, c->mem + 45), TFB_ERR_ALIAS, "sum overlaps weight"},
    };
    static const float bad_eps[] = {-1e-5f, -1.0f, -FLT_MAX};
    int i;
    c->t[0] = x;
    c->t[1] = w;
    c->t[2] = b;
    c->t[3] = r;
    c->t[4] = s;
    c->t[5] = y;
    call_refuses_any(c);
    call_refuses(c, list, COUNT(list));
    for (i = 0; i < 2 * COUNT(bad_eps); i++) {
        norm_opts.eps = bad_eps[i / 2];
        norm_opts.eps_set = i & 1;
        call_refused(c, -1, NULL, TFB_ERR_ARG, "eps must be >= 0");
    }
    norm_opts.eps = tfb__float_of(0x7FC00000u); /* NaN is not the 0 that means 1e-5 */
    for (norm_opts.eps_set = 0; norm_opts.eps_set < 2; norm_opts.eps_set++)
        call_refused(c, -1, NULL, TFB_ERR_ARG, "eps must be >= 0");
    memset(&norm_opts, 0, sizeof norm_opts);
}

static void norm_refuses(void) {
    static const call fresh = {{"x", "weight", "bias", "residual", "sum", "y"},
                               {0, 1, 1, 1, 1, 0},
                               6,
                               run_norm,
                               {{0}},
                               {0},
                               {0}};
    tfb_tensor empty;
    tfb_ctx ctx;
    for (norm_which = 0; norm_which < NORMS; norm_which++) {
        call c = fresh;
        norm_refuses_in(&c);
        empty = tfb_view2(c.mem, TFB_F32, 3, 0);
        t_ctx(&ctx, NULL);
        CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "x.shape[1] is 0",
                    norms[norm_which](&ctx, &empty, NULL, &empty));
        CHECK_FAILS(&ctx, TFB_ERR_SHAPE, norm_names[norm_which],
                    norms[norm_which](&ctx, &empty, NULL, &empty));
        CHECK(norms[norm_which](NULL, &c.t[0], NULL, &c.t[5]) == TFB_ERR_ARG,
              "no context");
        tfb_ctx_free(&ctx);
    }
}

static void softmax_refuses(void) {
    call c = {{"x", "y", "lse"}, {0, 0, 1}, 3, run_softmax, {{0}}, {0}, {0}};
    const tfb_tensor x = tfb_view2(c.mem, TFB_F32, 3, 5);
    const tfb_tensor y = tfb_view2(c.mem + 20, TFB_F32, 3, 5);
    const tfb_tensor lse = tfb_view1(c.mem + 40, TFB_F32, 3);
    const wrong list[] = {
        {0, with_rank(x, 0), TFB_ERR_SHAPE, "x.ndim is 0, needs 1"},
        {0, with_rank(x, 3), TFB_ERR_SHAPE, "y.ndim is 2, needs 3"},
        {1, with_rank(y, 1), TFB_ERR_SHAPE, "y.ndim is 1, needs 2"},
        {2, with_rank(lse, 2), TFB_ERR_SHAPE, "lse.ndim is 2, needs 1"},
        {2, with_rank(lse, 0), TFB_ERR_SHAPE, "lse.ndim is 0, needs 1"},
        {0, with_dtype(x, TFB_I32), TFB_ERR_DTYPE, "x is I32"},
        {2, with_dtype(lse, TFB_F16), TFB_ERR_DTYPE, "lse is F16"},
        {0, with_extent(x, 1, 4), TFB_ERR_SHAPE, "y.shape[1] is 5, needs 4"},
        {1, with_extent(y, 0, 2), TFB_ERR_SHAPE, "y.shape[0] is 2, needs 3"},
        {2, with_extent(lse, 0, 4), TFB_ERR_SHAPE, "lse.shape[0] is 4, needs 3"},
        {1, with_stride(y, 0, 4), TFB_ERR_SHAPE, "y.stride[0] is 4: elements would"},
        {2, with_stride(lse, 0, 0), TFB_ERR_SHAPE, "lse.stride[0] is 0: elements would"},
        {1, with_data(y, c.mem + 14), TFB_ERR_ALIAS, "y overlaps x"},
        {1, with_stride(x, 0, 6), TFB_ERR_ALIAS, "y overlaps x"},
        {2, with_data(lse, c.mem + 12), TFB_ERR_ALIAS, "lse overlaps x"},
        {2, with_data(lse, c.mem + 34), TFB_ERR_ALIAS, "lse overlaps y"},
    };
    c.t[0] = x;
    c.t[1] = y;
    c.t[2] = lse;
    CHECK(tfb_softmax(NULL, &x, &c.t[1], NULL) == TFB_ERR_ARG, "no context");
    call_refuses_any(&c);
    call_refuses(&c, list, COUNT(list));
}

static void rope_refuses(void) {
    call c = {
        {"x", "positions", "y", "freqs"}, {0, 1, 0, 1}, 4, run_rope, {{0}}, {0}, {0}};
    const tfb_tensor x = tfb_view4(c.mem, TFB_F32, 2, 1, 3, 4);
    const tfb_tensor p = tfb_view2(c.ints, TFB_I32, 2, 3);
    const tfb_tensor y = tfb_view4(c.mem + 24, TFB_F32, 2, 1, 3, 4);
    const tfb_tensor f = tfb_view1(c.mem + 50, TFB_F32, 2);
    const wrong list[] = {
        {0, with_rank(x, 3), TFB_ERR_SHAPE, "x.ndim is 3, needs 4"},
        {0, with_rank(x, 5), TFB_ERR_SHAPE, "x.ndim is 5, needs 4"},
        {2, with_rank(y, 3), TFB_ERR_SHAPE, "y.ndim is 3, needs 4"},
        {1, with_rank(p, 0), TFB_ERR_SHAPE, "positions.ndim is 0, needs 1 to 2"},
        {1, with_rank(p, 3), TFB_ERR_SHAPE, "positions.ndim is 3, needs 1 to 2"},
        {1, with_rank(p, 1), TFB_ERR_SHAPE, "positions.shape[0] is 2, needs 3"},
        {0, with_dtype(x, TFB_I32), TFB_ERR_DTYPE, "x is I32"},
        {1, with_dtype(p, TFB_F32), TFB_ERR_DTYPE, "positions is F32"},
        {2, with_dtype(y, TFB_BF16), TFB_ERR_DTYPE, "y is BF16"},
        {2, with_extent(y, 0, 1), TFB_ERR_SHAPE, "y.shape[0] is 1, needs 2"},
        {2, with_extent(y, 3, 2), TFB_ERR_SHAPE, "y.shape[3] is 2, needs 4"},
        {0, with_extent(x, 1, 2), TFB_ERR_SHAPE, "y.shape[1] is 1, needs 2"},
        {1, with_extent(p, 1, 2), TFB_ERR_SHAPE, "positions.shape[1] is 2, needs 3"},
        {1, with_extent(p, 0, 1), TFB_ERR_SHAPE, "positions.shape[0] is 1, needs 2"},
        {2, with_stride(y, 2, 3), TFB_ERR_SHAPE, "y.stride[2] is 3: elements would"},
        {2, with_stride(y, 0, 0), TFB_ERR_SHAPE, "y.stride[0] is 0: elements would"},
        {2, with_data(y, c.mem + 23), TFB_ERR_ALIAS, "y overlaps x"},
        {2, with_stride(x, 0, 13), TFB_ERR_ALIAS, "y overlaps x"},
        {1, with_data(p, c.mem + 30), TFB_ERR_ALIAS, "y overlaps positions"},
        {3, with_rank(f, 0), TFB_ERR_SHAPE, "freqs.ndim is 0, needs 1 to 1"},
        {3, with_rank(f, 2), TFB_ERR_SHAPE, "freqs.ndim is 2, needs 1 to 1"},
        {3, with_dtype(f, TFB_F16), TFB_ERR_DTYPE, "freqs is F16"},
        {3, with_extent(f, 0, 4), TFB_ERR_SHAPE, "freqs.shape[0] is 4, needs 2"},
        {3, with_extent(f, 0, 1), TFB_ERR_SHAPE, "freqs.shape[0] is 1, needs 2"},
        {3, with_data(f, c.mem + 47), TFB_ERR_ALIAS, "y overlaps freqs"},
    };
    tfb_tensor odd = with_extent(x, 3, 3);
    tfb_ctx ctx;
    c.t[0] = x;
    c.t[1] = p;
    c.t[2] = y;
    c.t[3] = f;
    CHECK(tfb_rope(NULL, &x, NULL, &c.t[2]) == TFB_ERR_ARG, "no context");
    memset(&rope_opts, 0, sizeof rope_opts);
    call_refuses_any(&c);
    call_refuses(&c, list, COUNT(list));
    t_ctx(&ctx, NULL);
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "rows are 3 long, must be even",
                tfb_rope(&ctx, &odd, NULL, &odd));
    rope_opts.dims = 2;
    CHECK_OK(&ctx, tfb_rope(&ctx, &odd, &rope_opts, &odd));
    rope_opts.dims = 0;
    tfb_ctx_free(&ctx);
}

/* Runs rope over 2 sequences of 3 tokens of 12 dims, in place, with rope_opts and these
 * tensors, which may be NULL. */
static void rope_refused(const tfb_tensor *positions, const tfb_tensor *freqs,
                         tfb_status code, const char *text) {
    float x[72], before[72];
    tfb_tensor t = tfb_view4(x, TFB_F32, 2, 1, 3, 12);
    tfb_rope_opts o = rope_opts;
    tfb_ctx ctx;
    int i;
    for (i = 0; i < 72; i++) x[i] = before[i] = (float)i;
    o.positions = positions;
    o.freqs = freqs;
    t_ctx(&ctx, NULL);
    CHECK_FAILS(&ctx, code, text, tfb_rope(&ctx, &t, &o, &t));
    CHECK(strncmp(ctx.message, "tfb_rope: ", 10) == 0, "%s", ctx.message);
    CHECK(memcmp(x, before, sizeof x) == 0, "\"%s\": memory changed", text);
    tfb_ctx_free(&ctx);
}

static void rope_refuses_dims_and_base(void) {
    const double bases[] = {-10000.0, 0.5,      1.0,       1e12,
                            1e300,    HUGE_VAL, -HUGE_VAL, (double)NAN};
    static const int dims[] = {-2, 1, 3, 13, 14, INT32_MAX - 1, INT32_MIN};
    int i;
    memset(&rope_opts, 0, sizeof rope_opts);
    for (i = 0; i < COUNT(dims); i++) {
        rope_opts.dims = dims[i];
        rope_refused(NULL, NULL, TFB_ERR_ARG, "must be even and at most 12");
    }
    rope_opts.dims = 0;
    for (i = 0; i < COUNT(bases); i++) {
        rope_opts.base = bases[i];
        rope_refused(NULL, NULL, TFB_ERR_ARG, "base must be between 1 and 1e12");
    }
    memset(&rope_opts, 0, sizeof rope_opts);
}

/* A number of the options, by its place, is set to something wrong. */
static void rope_refuses_scaling(void) {
    static const char *const factor = "factor must be at least 1 and below 1e12";
    static const char *const magnitude = "magnitude must be positive and finite";
    static const char *const length = "trained_length must be between 0 and 1e12";
    static const char *const fast = "needs 0 < slow < fast < 1e12";
    const struct {
        int scaling;
        size_t at;
        double value;
        const char *text;
    } list[] = {
        {TFB_ROPE_LINEAR, offsetof(tfb_rope_opts, factor), 0.999, factor},
        {TFB_ROPE_NTK, offsetof(tfb_rope_opts, factor), -2, factor},
        {TFB_ROPE_YARN, offsetof(tfb_rope_opts, factor), HUGE_VAL, factor},
        {TFB_ROPE_LLAMA3, offsetof(tfb_rope_opts, factor), (double)NAN, factor},
        {TFB_ROPE_PLAIN, offsetof(tfb_rope_opts, factor), 0.5, factor},
        {TFB_ROPE_PLAIN, offsetof(tfb_rope_opts, magnitude), -1, magnitude},
        {TFB_ROPE_YARN, offsetof(tfb_rope_opts, magnitude), HUGE_VAL, magnitude},
        {TFB_ROPE_NTK, offsetof(tfb_rope_opts, magnitude), 1e39, magnitude},
        {TFB_ROPE_LINEAR, offsetof(tfb_rope_opts, magnitude), (double)NAN, magnitude},
        {TFB_ROPE_YARN, offsetof(tfb_rope_opts, trained_length), 0, length},
        {TFB_ROPE_LLAMA3, offsetof(tfb_rope_opts, trained_length), 0, length},
        {TFB_ROPE_YARN, offsetof(tfb_rope_opts, trained_length), -4096, length},
        {TFB_ROPE_LLAMA3, offsetof(tfb_rope_opts, trained_length), HUGE_VAL, length},
        {TFB_ROPE_LLAMA3, offsetof(tfb_rope_opts, trained_length), (double)NAN, length},
        {TFB_ROPE_YARN, offsetof(tfb_rope_opts, fast), 1, fast},
        {TFB_ROPE_YARN, offsetof(tfb_rope_opts, fast), -32, fast},
        {TFB_ROPE_LLAMA3, offsetof(tfb_rope_opts, fast), 0.5, fast},
        {TFB_ROPE_LLAMA3, offsetof(tfb_rope_opts, fast), HUGE_VAL, fast},
        {TFB_ROPE_LLAMA3, offsetof(tfb_rope_opts, slow), 4, fast},
        {TFB_ROPE_LLAMA3, offsetof(tfb_rope_opts, slow), -1, fast},
        {TFB_ROPE_YARN, offsetof(tfb_rope_opts, slow), 32, fast},
        {TFB_ROPE_YARN, offsetof(tfb_rope_opts, slow), (double)NAN, fast},
        {-1, offsetof(tfb_rope_opts, slow), 0, "scaling is "},
        {TFB_ROPE_LLAMA3 + 1, offsetof(tfb_rope_opts, slow), 0, "scaling is 5, which is"},
    };
    int i;
    for (i = 0; i < COUNT(list); i++) {
        memset(&rope_opts, 0, sizeof rope_opts);
        rope_opts.scaling = (tfb_rope_scaling)list[i].scaling;
        rope_opts.trained_length = 4096;
        memcpy((char *)&rope_opts + list[i].at, &list[i].value, sizeof(double));
        rope_refused(NULL, NULL, TFB_ERR_ARG, list[i].text);
    }
    memset(&rope_opts, 0, sizeof rope_opts);
}

static void rope_refuses_freqs(void) {
    static const float bad[] = {1.5708f, -1.5708f, 1e30f};
    float f[6] = {1, 0, -1, 1.57079f, 0.5f, -1.57079f}, x[12] = {0};
    const tfb_tensor freqs = tfb_view1(f, TFB_F32, 6);
    tfb_tensor t = tfb_view4(x, TFB_F32, 1, 1, 1, 12);
    tfb_ctx ctx;
    int i;
    memset(&rope_opts, 0, sizeof rope_opts);
    for (i = 0; i < 2; i++) {
        rope_opts.scaling = i ? TFB_ROPE_YARN : TFB_ROPE_NTK;
        rope_opts.trained_length = 1;
        rope_refused(NULL, &freqs, TFB_ERR_ARG, "NTK and YARN scale a base, not freqs");
    }
    memset(&rope_opts, 0, sizeof rope_opts);
    for (i = 0; i < 5; i++) {
        f[3] = i < 3 ? bad[i] : i == 3 ? -TFB__FLT_INF : tfb__float_of(0x7FC00000u);
        rope_opts.compat = 0;
        rope_refused(NULL, &freqs, TFB_ERR_RANGE, "freqs[3] is past pi / 2, which only");
        rope_opts.compat = 1;
        if (i > 2) rope_refused(NULL, &freqs, TFB_ERR_RANGE, "freqs[3] is not finite");
    }
    f[3] = 1e30f; /* not read while measuring, and legal in compat */
    rope_opts.freqs = &freqs;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_rope(&ctx, &t, &rope_opts, &t));
    tfb_ctx_free(&ctx);
    CHECK_OK(&ctx, tfb_ctx_init_measure(&ctx));
    rope_opts.compat = 0;
    CHECK_OK(&ctx, tfb_rope(&ctx, &t, &rope_opts, &t));
    memset(&rope_opts, 0, sizeof rope_opts);
}

/* Axes, their dims and grids of 12 dims; start 0 and 3 tokens fit. */
static void rope_refuses_axes(void) {
    static const char *const sum = "axis_dims do not add up to 12";
    const tfb_idx most = 1 << 24;
    const struct {
        int axes, dims[3];
        tfb_idx start, grid[3];
        tfb_status code;
        const char *text;
    } list[] = {
        {-1, {0, 0, 0}, 0, {0, 0, 0}, TFB_ERR_ARG, "axes is -1, must be 0 to 3"},
        {4, {0, 0, 0}, 0, {0, 0, 0}, TFB_ERR_ARG, "axes is 4, must be 0 to 3"},
        {2, {5, 7, 0}, 0, {2, 2, 0}, TFB_ERR_ARG, "axis_dims[0] is 5, must be even"},
        {2, {4, -2, 0}, 0, {2, 2, 0}, TFB_ERR_ARG, "axis_dims[1] is -2, must be"},
        {2, {4, 6, 0}, 0, {2, 2, 0}, TFB_ERR_ARG, sum},
        {2, {4, 10, 0}, 0, {2, 2, 0}, TFB_ERR_ARG, sum},
        {3, {4, 4, 6}, 0, {2, 2, 2}, TFB_ERR_ARG, sum},
        {3, {4, 4, 2}, 0, {2, 2, 2}, TFB_ERR_ARG, sum},
        {3, {INT32_MAX - 1, INT32_MAX - 1, 16}, 0, {2, 2, 2}, TFB_ERR_ARG, sum},
        {0, {10, 0, 0}, 0, {0, 0, 0}, TFB_ERR_ARG, sum},
        {2, {4, 4, 4}, 0, {2, 2, 0}, TFB_ERR_ARG, "axis_dims[2] or grid[2] is set"},
        {2, {0, 0, 0}, 0, {2, 2, 2}, TFB_ERR_ARG, "axis_dims[2] or grid[2] is set"},
        {1, {0, 0, 0}, 0, {9, 9, 0}, TFB_ERR_ARG, "grid[1] is set, axes is 1"},
        {2, {0, 0, 0}, 0, {0, 0, 0}, TFB_ERR_ARG, "2 axes need positions or a grid"},
        {2, {0, 0, 0}, 0, {2, 0, 0}, TFB_ERR_ARG, "grid[1] is 0, must be 1 to 2^24"},
        {2, {0, 0, 0}, 0, {0, 3, 0}, TFB_ERR_ARG, "grid[0] is 0, must be 1 to 2^24"},
        {3, {0, 0, 0}, 0, {2, 2, -3}, TFB_ERR_ARG, "grid[2] is -3, must be 1"},
        {1, {0, 0, 0}, 0, {-9, 0, 0}, TFB_ERR_ARG, "grid[0] is -9, must be 1"},
        {2, {0, 0, 0}, 0, {2, most + 1, 0}, TFB_ERR_ARG, "grid[1] is 16777217, must"},
        {2, {0, 0, 0}, 2, {2, 2, 0}, TFB_ERR_RANGE, "tokens 2 and 3 more pass the grid"},
        {2, {0, 0, 0}, -1, {2, 2, 0}, TFB_ERR_RANGE, "tokens -1 and 3 more pass the"},
        {2, {0, 0, 0}, 5, {2, 2, 0}, TFB_ERR_RANGE, "tokens 5 and 3 more pass the grid"},
        {1, {0, 0, 0}, 1, {3, 0, 0}, TFB_ERR_RANGE, "tokens 1 and 3 more pass the grid"},
        {2, {0, 0, 0}, PTRDIFF_MAX, {2, 2, 0}, TFB_ERR_RANGE, "3 more pass the grid"},
        {2, {0, 0, 0}, PTRDIFF_MIN, {2, 2, 0}, TFB_ERR_RANGE, "3 more pass the grid"},
    };
    int i;
    for (i = 0; i < COUNT(list); i++) {
        memset(&rope_opts, 0, sizeof rope_opts);
        rope_opts.axes = list[i].axes;
        rope_opts.start = list[i].start;
        memcpy(rope_opts.axis_dims, list[i].dims, sizeof list[i].dims);
        memcpy(rope_opts.grid, list[i].grid, sizeof list[i].grid);
        rope_refused(NULL, NULL, list[i].code, list[i].text);
    }
    memset(&rope_opts, 0, sizeof rope_opts);
    rope_opts.axes = 3;
    rope_opts.dims = 8;
    rope_refused(NULL, NULL, TFB_ERR_ARG, "8 dims have no 3 equal even parts");
    rope_opts.axes = 2;
    rope_opts.dims = 10;
    rope_refused(NULL, NULL, TFB_ERR_ARG, "10 dims have no 2 equal even parts");
    memset(&rope_opts, 0, sizeof rope_opts);
}

/* Positions of two axes; the largest value that is not one. */
static void rope_refuses_places(void) {
    int32_t at[12] = {0};
    const tfb_tensor p = tfb_view3(at, TFB_I32, 2, 3, 2);
    const tfb_tensor flat = tfb_view2(at, TFB_I32, 3, 2);
    const wrong list[] = {
        {0, with_rank(p, 1), TFB_ERR_SHAPE, "positions.ndim is 1, needs 2 to 3"},
        {0, with_rank(p, 4), TFB_ERR_SHAPE, "positions.ndim is 4, needs 2 to 3"},
        {0, with_extent(p, 2, 3), TFB_ERR_SHAPE, "positions.shape[2] is 3, needs 2"},
        {0, with_extent(p, 1, 2), TFB_ERR_SHAPE, "positions.shape[1] is 2, needs 3"},
        {0, with_extent(p, 0, 1), TFB_ERR_SHAPE, "positions.shape[0] is 1, needs 2"},
        {0, with_extent(flat, 0, 2), TFB_ERR_SHAPE, "positions.shape[0] is 2, needs 3"},
        {0, with_extent(flat, 1, 1), TFB_ERR_SHAPE, "positions.shape[1] is 1, needs 2"},
    };
    int i;
    memset(&rope_opts, 0, sizeof rope_opts);
    rope_opts.axes = 2;
    for (i = 0; i < COUNT(list); i++)
        rope_refused(&list[i].t, NULL, list[i].code, list[i].text);
    at[9] = 1 << 24;
    rope_refused(&p, NULL, TFB_ERR_RANGE,
                 "positions has 16777216 for token 1, past 2^24");
    at[9] = 0;
    at[4] = -(1 << 24);
    rope_refused(&flat, NULL, TFB_ERR_RANGE, "positions has -16777216 for token 2, past");
    rope_opts.axes = 3;
    rope_refused(&p, NULL, TFB_ERR_SHAPE, "positions.shape[2] is 2, needs 3");
    memset(&rope_opts, 0, sizeof rope_opts);
}

int main(void) {
    RUN(norm_every_option);
    RUN(norm_workers_and_tables);
    RUN(norm_ranks_and_repeats);
    RUN(norm_eps);
    RUN(l2norm_rows);
    RUN(norm_reference_is_accurate);
    RUN(softmax_random);
    RUN(softmax_workers_and_tables);
    RUN(softmax_special_rows);
    RUN(softmax_empty_rows);
    RUN(softmax_reference_is_accurate);
    RUN(huge_empties);
    RUN(rope_every_option);
    RUN(rope_new_options);
    RUN(rope_workers_and_tables);
    RUN(rope_worked_example);
    RUN(rope_permuted);
    RUN(rope_angles);
    RUN(rope_frequencies);
    RUN(rope_given_frequencies);
    RUN(rope_scaled_angles);
    RUN(rope_yarn_corners);
    RUN(rope_grid);
    RUN(rope_axes_are_slices);
    RUN(rope_reference_is_accurate);
    RUN(rope_inverse_undoes);
    RUN(rope_compat);
    RUN(rope_position_limits);
    RUN(scratch_is_exact);
    RUN(allocations_fail);
    RUN(scratch_is_documented);
    RUN(scratch_overflows);
    RUN(norm_refuses);
    RUN(softmax_refuses);
    RUN(rope_refuses);
    RUN(rope_refuses_dims_and_base);
    RUN(rope_refuses_scaling);
    RUN(rope_refuses_freqs);
    RUN(rope_refuses_axes);
    RUN(rope_refuses_places);
    FINISH();
}
