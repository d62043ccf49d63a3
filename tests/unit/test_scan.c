/* test_scan.c - causal_conv1d, selective_scan and ssd: by bits against the plain-loop
 * references over shapes, strides, splits, workers and tables; the references against
 * double; corners; scratch; bad input. */
#include "../test.h"
#include "layouts.h"
#include <math.h>

#define U 5.9604644775390625e-8 /* 2^-24: what one rounding can be off */

static const int worker_counts[] = {1, 2, 5};

static const int layouts[] = {0, ORDER, WIDE, BACK | WIDE, ORDER | WIDE | BACK | SPARSE};

/* --- One call with everything that belongs to it. --- */
enum { CONV, SCAN, SSD, KINDS };
enum { X, DT, A, B, C, D, Z, BIAS, STATE, Y, BOXES }; /* A: of a convolution, w */
enum { HAS_D = 1, HAS_Z = 2, HAS_BIAS = 4, HAS_STATE = 8, SOFTPLUS = 16, MIXED = 32 };

static const char *const kind_names[] = {"tfb_causal_conv1d", "tfb_selective_scan",
                                         "tfb_ssd"};

/* E: channels, of tfb_ssd heads, of P channels each. N: states or taps. MIXED: exponents
 * of both signs. y: X, DT, Z or Y. */
typedef struct variant {
    int kind, flags, y, layout;
    tfb_idx batch, T, E, P, G, N;
    tfb_fn act;
    int odd;
} variant;

typedef struct problem {
    variant v;
    box t[BOXES];
    float *want[BOXES];
} problem;

/* The extents of a tensor; returns their number, 0 if it is absent. */
static int extents(const variant *v, int which, tfb_idx *n) {
    const int heads = v->kind == SSD, conv = v->kind == CONV;
    n[0] = v->batch;
    n[1] = v->T;
    n[2] = v->E;
    n[3] = v->P;
    switch (which) {
    case DT: return conv ? 0 : 3;
    case A:
        n[0] = v->E;
        n[1] = v->N;
        return heads ? 1 : 2;
    case B:
    case C:
        n[2] = v->G;
        n[3] = v->N;
        return conv ? 0 : 4;
    case D:
    case BIAS: n[0] = v->E; return v->flags & (which == D ? HAS_D : HAS_BIAS) ? 1 : 0;
    case Z:
        if (!(v->flags & HAS_Z)) return 0;
        break;
    case STATE:
        n[1] = conv ? v->N - 1 : v->E;
        n[2] = conv ? v->E : heads ? v->P : v->N;
        n[3] = v->N;
        return !(v->flags & HAS_STATE) ? 0 : heads ? 4 : 3;
    default: break;
    }
    return heads ? 4 : 3;
}

static tfb_status run(tfb_ctx *ctx, const variant *v, tfb_tensor **t) {
    tfb_conv1d_opts conv = TFB_INIT;
    tfb_scan_opts o = TFB_INIT;
    conv.bias = o.dt_bias = t[BIAS];
    conv.state = o.state = t[STATE];
    conv.act = v->act;
    o.d = t[D];
    o.z = t[Z];
    o.softplus = (v->flags & SOFTPLUS) != 0;
    if (v->kind == CONV) return tfb_causal_conv1d(ctx, t[X], t[A], &conv, t[Y]);
    if (v->kind == SCAN)
        return tfb_selective_scan(ctx, t[X], t[DT], t[A], t[B], t[C], &o, t[Y]);
    return tfb_ssd(ctx, t[X], t[DT], t[A], t[B], t[C], &o, t[Y]);
}

static void run_ref(const variant *v, tfb_tensor **t) {
    tfb_conv1d_opts conv = TFB_INIT;
    tfb_scan_opts o = TFB_INIT;
    conv.bias = o.dt_bias = t[BIAS];
    conv.state = o.state = t[STATE];
    conv.act = v->act;
    o.d = t[D];
    o.z = t[Z];
    o.softplus = (v->flags & SOFTPLUS) != 0;
    if (v->kind == CONV) tfb__causal_conv1d_ref(t[X], t[A], &conv, t[Y]);
    else if (v->kind == SCAN)
        tfb__selective_scan_ref(t[X], t[DT], t[A], t[B], t[C], &o, t[Y]);
    else tfb__ssd_ref(t[X], t[DT], t[A], t[B], t[C], &o, t[Y]);
}

/* The tensors of a problem, NULL where absent. */
static void tensors(problem *p, tfb_tensor **t) {
    int i;
    for (i = 0; i < BOXES; i++) t[i] = p->t[i].mem ? &p->t[i].t : NULL;
    t[Y] = &p->t[p->v.y].t;
}

/* A tensor in another copy of its memory. */
static tfb_tensor elsewhere(const box *b, float *mem) {
    tfb_tensor t = b->t;
    t.data = mem + ((float *)b->t.data - b->mem);
    return t;
}

/* What the reference leaves in each buffer. Without a state it gets one of zeros. */
static void problem_want(problem *p) {
    const variant *v = &p->v;
    tfb_tensor *t[BOXES], y, state;
    variant with = *v;
    tfb_idx n[TFB_MAX_DIMS];
    float *zeros = NULL;
    int i, rank;
    for (i = 0; i < BOXES; i++)
        if (p->t[i].mem) p->want[i] = floats_copy(p->t[i].mem, p->t[i].n);
    tensors(p, t);
    y = elsewhere(&p->t[v->y], p->want[v->y]);
    t[Y] = &y;
    with.flags |= HAS_STATE;
    rank = extents(&with, STATE, n);
    if (v->flags & HAS_STATE) {
        state = elsewhere(&p->t[STATE], p->want[STATE]);
    } else {
        state = tfb__view(NULL, TFB_F32, rank, n);
        state.data = zeros = t_floats(tfb_numel(&state));
        memset(zeros, 0, (size_t)tfb_numel(&state) * sizeof *zeros);
    }
    t[STATE] = v->flags & HAS_STATE || v->kind != CONV ? &state : NULL;
    run_ref(v, t);
    free(zeros);
}

/* Decays: at most -4 .. 0, with MIXED up to 0.125. */
static void make_decays(box *b, int flags) {
    tfb_idx i;
    for (i = 0; i < b->n; i++) {
        if (b->mem[i] > 0 && (flags & MIXED)) b->mem[i] *= 0.125f;
        else b->mem[i] = -4 * fabsf(b->mem[i]);
    }
    memcpy(b->mem0, b->mem, (size_t)b->n * sizeof(float));
}

static void problem_new(problem *p, const variant *v) {
    int i;
    memset(p, 0, sizeof *p);
    p->v = *v;
    for (i = 0; i < BOXES; i++) {
        tfb_idx n[TFB_MAX_DIMS];
        const int rank = extents(v, i, n);
        if (!rank) continue;
        p->t[i] = box_new(rank, n, v->layout);
        if (i == A && v->kind != CONV) make_decays(&p->t[i], v->flags);
        if (v->odd && p->t[i].n) box_spoil(&p->t[i], v->odd);
    }
    problem_want(p);
}

static void problem_free(problem *p) {
    int i;
    for (i = 0; i < BOXES; i++) box_free(&p->t[i]), free(p->want[i]);
}

static void problem_reset(problem *p) {
    int i;
    for (i = 0; i < BOXES; i++)
        if (p->t[i].mem) box_reset(&p->t[i]);
}

/* Every buffer is as the reference leaves it, or (untouched) as it was. */
static void problem_equal(const problem *p, int untouched, const char *how) {
    static const char *const names[] = {"x", "dt", "a",    "b",     "c",
                                        "d", "z",  "bias", "state", "y"};
    const variant *v = &p->v;
    int i;
    for (i = 0; i < BOXES; i++)
        if (p->t[i].mem)
            CHECK_BITS(p->t[i].mem, untouched ? p->t[i].mem0 : p->want[i], p->t[i].n,
                       "%s: %s of %s [%ld, %ld, %ld, %ld] G %ld N %ld layout %d flags %d "
                       "y %s act %d",
                       how, names[i], kind_names[v->kind], (long)v->batch, (long)v->T,
                       (long)v->E, (long)v->P, (long)v->G, (long)v->N, v->layout,
                       v->flags, names[v->y], (int)v->act);
}

static tfb_status problem_run(tfb_ctx *ctx, problem *p) {
    tfb_tensor *t[BOXES];
    tensors(p, t);
    return run(ctx, &p->v, t);
}

static void problem_check(tfb_ctx *ctx, problem *p, const char *how) {
    problem_reset(p);
    CHECK_OK(ctx, problem_run(ctx, p));
    problem_equal(p, 0, how);
}

/* --- Random calls. --- */
static variant variant_any(int kind) {
    static const tfb_idx widths[] = {1, 2, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130};
    static const tfb_idx lengths[] = {0, 1, 2, 3, 4, 5, 31, 32, 33, 64, 70, 100};
    static const tfb_idx taps[] = {1, 2, 3, 4, 4, 5, 33, 70}, states[] = {0, 1, 3, 8, 16};
    static const tfb_idx groups[] = {1, 1, 2, 3, 7};
    static const int places[] = {Y, Y, X, DT, Z};
    variant v;
    memset(&v, 0, sizeof v);
    v.kind = kind;
    v.flags = (int)t_int(0, 63);
    v.layout = layouts[t_int(0, COUNT(layouts) - 1)];
    v.batch = t_int(0, 7) ? t_int(1, 3) : 0;
    v.T = lengths[t_int(0, COUNT(lengths) - 1)];
    v.E = widths[t_int(0, COUNT(widths) - 1)];
    v.N = kind == CONV ? taps[t_int(0, COUNT(taps) - 1)]
                       : states[t_int(0, COUNT(states) - 1)];
    v.G = groups[t_int(0, COUNT(groups) - 1)];
    if (v.E > 60) v.T = TFB__MIN(v.T, 40);
    if (kind == SSD) {
        v.P = v.E;
        v.E = v.G * t_int(0, 2);
        if (v.P > 30) v.T = TFB__MIN(v.T, 33);
    } else if (kind == SCAN && v.E > 60 && v.G > 1) {
        v.E = v.G * 33;
    } else if (kind == SCAN) {
        v.E = v.G * TFB__MIN(v.E, 65);
    }
    if (kind == CONV) v.flags &= ~(HAS_D | HAS_Z), v.G = 1;
    v.act = kind == CONV ? (tfb_fn)t_int(0, TFB_FN_TANH) : TFB_FN_IDENTITY;
    v.y = places[t_int(0, COUNT(places) - 1)];
    if (kind == CONV && v.y != X) v.y = Y;
    if (v.y == Z && !(v.flags & HAS_Z)) v.y = Y;
    if (v.y == DT && kind == SSD) v.y = Y;
    v.odd = t_int(0, 3) ? 0 : (int)t_int(1, 4);
    return v;
}

static void random_calls(void) {
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 900; i++) {
        const variant v = variant_any(i % KINDS);
        problem p;
        problem_new(&p, &v);
        problem_check(&ctx, &p, "random");
        problem_free(&p);
    }
    tfb_ctx_free(&ctx);
}

/* Calls that take every path; sizes cross panels, tasks, rows at a time and blocks. */
static const variant variants[] = {
    {CONV, HAS_BIAS | HAS_STATE, X, 0, 3, 70, 150, 0, 1, 4, TFB_FN_SILU, 0},
    {CONV, HAS_STATE, Y, ORDER | WIDE, 2, 37, 70, 0, 1, 70, TFB_FN_IDENTITY, 0},
    {CONV, HAS_BIAS, Y, BACK | SPARSE, 1, 300, 17, 0, 1, 257, TFB_FN_GELU_ERF, 0},
    {CONV, HAS_STATE, X, 0, 1, 40, 20, 0, 1, 600, TFB_FN_IDENTITY, 0},
    {SCAN, HAS_D | HAS_Z | HAS_BIAS | HAS_STATE | SOFTPLUS, X, 0, 2, 67, 150, 0, 1, 16,
     TFB_FN_IDENTITY, 0},
    {SCAN, HAS_Z | HAS_STATE | SOFTPLUS, Z, ORDER | WIDE, 2, 33, 60, 0, 3, 5,
     TFB_FN_IDENTITY, 2},
    {SCAN, HAS_STATE | MIXED, DT, BACK, 1, 40, 70, 0, 1, 3, TFB_FN_IDENTITY, 0},
    {SCAN, HAS_D | MIXED | SOFTPLUS, Y, SPARSE, 3, 65, 9, 0, 9, 40, TFB_FN_IDENTITY, 0},
    {SSD, HAS_D | HAS_Z | HAS_BIAS | HAS_STATE | SOFTPLUS, X, 0, 2, 67, 4, 70, 2, 33,
     TFB_FN_IDENTITY, 0},
    {SSD, HAS_STATE | MIXED, Y, ORDER | WIDE | BACK, 1, 33, 6, 5, 3, 8, TFB_FN_IDENTITY,
     0},
};

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

static void workers_and_tables(void) {
    tfb_ctx ctx;
    int i, j, table;
    for (i = 0; i < COUNT(variants); i++) {
        const char *name;
        problem p;
        problem_new(&p, &variants[i]);
        t_ctx(&ctx, NULL);
        for (table = 0; (name = tfb_isa_list(&ctx, table, NULL)) != NULL; table++) {
            if (!t_force(&ctx, name)) continue;
            for (j = 0; j < 2 * COUNT(worker_counts); j++) {
                const int workers = worker_counts[j / 2];
                CHECK_OK(&ctx, tfb_ctx_threads(&ctx, 1, 0));
                if (j % 2 || tfb_ctx_threads(&ctx, workers, 100) != TFB_OK)
                    reverse_workers(&ctx, workers);
                problem_check(&ctx, &p, name);
                if (j % 2) ctx.parallel_for = NULL, ctx.workers = 1;
            }
        }
        tfb_ctx_free(&ctx);
        problem_free(&p);
    }
}

/* --- Splits. --- */
/* Tokens from t on of everything that has tokens. */
static void run_part(tfb_ctx *ctx, problem *p, tfb_idx t, tfb_idx n) {
    tfb_tensor *all[BOXES], part[BOXES];
    int i;
    tensors(p, all);
    for (i = 0; i < BOXES; i++) {
        const int tokens = i == X || i == DT || i == B || i == C || i == Z || i == Y;
        if (!tokens || !all[i]) continue;
        CHECK_OK(ctx, tfb_slice(ctx, all[i], 1, t, n, &part[i]));
        all[i] = &part[i];
    }
    CHECK_OK(ctx, run(ctx, &p->v, all));
}

/* In pieces of any length, 0 too, or token by token. */
static void splits(void) {
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 150; i++) {
        variant v = i < COUNT(variants) ? variants[i] : variant_any(i % KINDS);
        tfb_idx t, n;
        problem p;
        v.flags |= HAS_STATE;
        problem_new(&p, &v);
        for (t = 0; t < v.T || t == 0; t += n) {
            n = i % 5 ? t_int(0, TFB__MIN(v.T - t, 40)) : TFB__MIN(1, v.T - t);
            run_part(&ctx, &p, t, n);
            if (v.T == 0) break;
        }
        problem_equal(&p, 0, "split");
        problem_free(&p);
    }
    tfb_ctx_free(&ctx);
}

/* A state of zeros is none, whatever the weights: infinities and NaN times the zeros
 * before the first token count. */
static void no_state_is_zeros(void) {
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 60; i++) {
        variant v = variant_any(i % KINDS);
        problem p;
        tfb_tensor *t[BOXES];
        float *y;
        v.flags |= HAS_STATE;
        v.y = Y;
        v.odd = 3;
        problem_new(&p, &v);
        memset((void *)p.t[STATE].mem, 0, (size_t)p.t[STATE].n * sizeof(float));
        tensors(&p, t);
        CHECK_OK(&ctx, run(&ctx, &v, t));
        y = floats_copy(p.t[Y].mem, p.t[Y].n);
        problem_reset(&p);
        t[STATE] = NULL;
        CHECK_OK(&ctx, run(&ctx, &v, t));
        CHECK_BITS(p.t[Y].mem, y, p.t[Y].n, "%s without a state", kind_names[v.kind]);
        free(y);
        problem_free(&p);
    }
    tfb_ctx_free(&ctx);
}

/* Biases of zeros are none. */
static void no_bias_is_zeros(void) {
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 60; i++) {
        variant v = variant_any(i % KINDS);
        problem p;
        tfb_tensor *t[BOXES];
        float *y;
        v.flags |= HAS_BIAS;
        v.y = Y;
        problem_new(&p, &v);
        memset((void *)p.t[BIAS].mem, 0, (size_t)p.t[BIAS].n * sizeof(float));
        tensors(&p, t);
        t[STATE] = NULL;
        CHECK_OK(&ctx, run(&ctx, &v, t));
        y = floats_copy(p.t[Y].mem, p.t[Y].n);
        t[BIAS] = NULL;
        CHECK_OK(&ctx, run(&ctx, &v, t));
        CHECK_BITS(p.t[Y].mem, y, p.t[Y].n, "%s without a bias", kind_names[v.kind]);
        free(y);
        problem_free(&p);
    }
    tfb_ctx_free(&ctx);
}

/* tfb_ssd is tfb_selective_scan with a, dt, d and dt_bias repeated. */
static void ssd_is_a_scan(void) {
    const variant v = {SSD,
                       HAS_D | HAS_Z | HAS_BIAS | HAS_STATE | SOFTPLUS,
                       Y,
                       0,
                       2,
                       19,
                       6,
                       5,
                       3,
                       7,
                       TFB_FN_IDENTITY,
                       0};
    const tfb_idx E = v.E * v.P, wide[] = {v.batch, v.T, v.E, v.P};
    tfb_tensor *t[BOXES], flat[BOXES], once;
    float *a = t_floats(E * v.N), *d = t_floats(E), *bias = t_floats(E), *dt, *y, *h;
    const tfb_idx tokens = v.batch * v.T;
    variant scan = v;
    problem p;
    tfb_ctx ctx;
    tfb_idx i;
    t_ctx(&ctx, NULL);
    problem_new(&p, &v);
    tensors(&p, t);
    CHECK_OK(&ctx, run(&ctx, &v, t));
    y = floats_copy(p.t[Y].mem, p.t[Y].n);
    h = floats_copy(p.t[STATE].mem, p.t[STATE].n);
    problem_reset(&p);
    for (i = 0; i < E * v.N; i++) a[i] = p.t[A].mem[i / v.N / v.P];
    for (i = 0; i < E; i++) d[i] = p.t[D].mem[i / v.P];
    for (i = 0; i < E; i++) bias[i] = p.t[BIAS].mem[i / v.P];
    dt = t_floats(tokens * E);
    once = tfb__view(dt, TFB_F32, 4, wide);
    for (i = 0; i < tokens * E; i++) dt[i] = p.t[DT].mem[i / v.P];
    CHECK(tfb_numel(&once) == tokens * E, "dt");
    for (i = 0; i < BOXES; i++) flat[i] = *t[i];
    flat[X] = tfb_view3(p.t[X].mem, TFB_F32, v.batch, v.T, E);
    flat[Y] = tfb_view3(p.t[Y].mem, TFB_F32, v.batch, v.T, E);
    flat[Z] = tfb_view3(p.t[Z].mem, TFB_F32, v.batch, v.T, E);
    flat[DT] = tfb_view3(dt, TFB_F32, v.batch, v.T, E);
    flat[STATE] = tfb_view3(p.t[STATE].mem, TFB_F32, v.batch, E, v.N);
    flat[A] = tfb_view2(a, TFB_F32, E, v.N);
    flat[D] = tfb_view1(d, TFB_F32, E);
    flat[BIAS] = tfb_view1(bias, TFB_F32, E);
    for (i = 0; i < BOXES; i++) t[i] = &flat[i];
    scan.kind = SCAN;
    CHECK_OK(&ctx, run(&ctx, &scan, t));
    CHECK_BITS(p.t[Y].mem, y, p.t[Y].n, "ssd and scan");
    CHECK_BITS(p.t[STATE].mem, h, p.t[STATE].n, "states of ssd and scan");
    free(a), free(d), free(bias), free(dt), free(y), free(h);
    problem_free(&p);
    tfb_ctx_free(&ctx);
}

/* --- Against double. --- */
static double sigmoid(double x) {
    return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x));
}

/* A chain of K fma, and adds of its blocks, is off by at most (K + 2) u of the magnitudes
 * (Higham 2002, section 3.1); the bias rounds once more; silu is at most 1.1 steep and
 * 4 u off. */
static void conv_is_accurate(void) {
    static const tfb_idx taps[] = {1, 4, 33, 300};
    int i;
    for (i = 0; i < COUNT(taps); i++) {
        const tfb_idx K = taps[i], T = 40, E = 3;
        float *x = t_floats(T * E), *w = t_floats(E * K), *b = t_floats(E),
              *y = t_floats(T * E);
        const tfb_tensor xt = tfb_view3(x, TFB_F32, 1, T, E),
                         bt = tfb_view1(b, TFB_F32, E);
        const tfb_tensor wt = tfb_view2(w, TFB_F32, E, K);
        tfb_tensor yt = tfb_view3(y, TFB_F32, 1, T, E);
        tfb_conv1d_opts o = TFB_INIT;
        tfb_idx t, e, j;
        tfb_ctx ctx;
        o.bias = &bt;
        o.act = TFB_FN_SILU;
        t_ctx(&ctx, NULL);
        CHECK_OK(&ctx, tfb_causal_conv1d(&ctx, &xt, &wt, &o, &yt));
        for (t = 0; t < T; t++)
            for (e = 0; e < E; e++) {
                double s = (double)b[e], size = fabs(s), want, off;
                for (j = 0; j < K; j++) {
                    const tfb_idx from = t - (K - 1) + j;
                    const double in = from < 0 ? 0 : (double)x[from * E + e];
                    s += in * (double)w[e * K + j];
                    size += fabs(in * (double)w[e * K + j]);
                }
                want = s * sigmoid(s);
                off = fabs((double)y[t * E + e] - want);
                CHECK(off <= U * (1.12 * (double)(K + 3) * size + 4 * fabs(want)),
                      "K %ld t %ld: off by %g", (long)K, (long)t, off);
            }
        free(x), free(w), free(b), free(y);
        tfb_ctx_free(&ctx);
    }
}

/* One channel of a scan in double, with a bound of what float32 may be off: x is a value,
 * off its bound. delta: the sum rounds once, softplus (at most 1 steep) is 4 u off. The
 * exponent rounds once, exp is 2 u off and 2^-126 where it becomes 0. (delta x) b rounds
 * twice, each fma once. 1.001 is for terms of second order. */
typedef struct bounded {
    double x, off;
} bounded;

static bounded delta_of(double dt, double bias, int softplus) {
    bounded d;
    d.x = dt + bias;
    d.off = U * fabs(d.x);
    if (!softplus) return d;
    d.x = d.x > 0 ? d.x + log1p(exp(-d.x)) : log1p(exp(d.x));
    d.off += 4 * U * d.x + (double)FLT_MIN;
    return d;
}

static void step_of(bounded d, double x, double a, double b, bounded *h) {
    const double e = exp(d.x * a), in = d.x * x * b, old = h->x;
    const double e_off = e * (U * fabs(d.x * a) + d.off * fabs(a) + 4 * U) + 1.2e-38;
    h->x = e * old + in;
    h->off = e * h->off + e_off * (fabs(old) + h->off) +
             fabs(x * b) * (d.off + 2 * U * fabs(d.x)) + U * fabs(h->x);
    h->off *= 1.001;
}

static void scan_is_accurate(void) {
    int i;
    for (i = 0; i < 12; i++) {
        const variant v = {SCAN,
                           HAS_D | HAS_Z | HAS_BIAS | HAS_STATE |
                               (i % 3 ? SOFTPLUS : MIXED),
                           Y,
                           0,
                           1,
                           i % 3 ? 150 : 6, /* some grow without end */
                           5,
                           0,
                           1,
                           1 + i,
                           TFB_FN_IDENTITY,
                           0};
        problem p;
        tfb_idx t, e, k;
        problem_new(&p, &v);
        for (e = 0; e < v.E; e++) {
            bounded h[12], y, d;
            for (k = 0; k < v.N; k++) h[k].x = (double)p.t[STATE].mem[e * v.N + k];
            for (k = 0; k < v.N; k++) h[k].off = 0;
            for (t = 0; t < v.T; t++) {
                const tfb_idx at = t * v.E + e;
                const double x = (double)p.t[X].mem[at], z = (double)p.t[Z].mem[at];
                const double skip = (double)p.t[D].mem[e] * x, gate = z * sigmoid(z);
                double size = fabs(skip), got = (double)p.want[Y][at];
                d = delta_of((double)p.t[DT].mem[at], (double)p.t[BIAS].mem[e], i % 3);
                y.x = skip;
                y.off = 0;
                for (k = 0; k < v.N; k++) {
                    const double c = (double)p.t[C].mem[t * v.N + k];
                    step_of(d, x, (double)p.t[A].mem[e * v.N + k],
                            (double)p.t[B].mem[t * v.N + k], &h[k]);
                    y.x += c * h[k].x;
                    y.off += fabs(c) * h[k].off;
                    size += fabs(c * h[k].x);
                }
                y.off += (double)(v.N + 1) * U * (size + y.off);
                y.off = (y.off * fabs(gate) + 5 * U * fabs(y.x * gate)) * 1.001;
                CHECK(fabs(got - y.x * gate) <= y.off, "t %ld: %g, wanted %g within %g",
                      (long)t, got, y.x * gate, y.off);
            }
            for (k = 0; k < v.N; k++) {
                const double got = (double)p.want[STATE][e * v.N + k];
                CHECK(fabs(got - h[k].x) <= h[k].off, "state %ld: %g, wanted %g", (long)k,
                      got, h[k].x);
            }
        }
        problem_free(&p);
    }
}

/* --- Corners. --- */
static void conv_by_hand(void) {
    const float x[] = {1, 2, 3, 4}, w[] = {100, 10, 1}, want[] = {1, 12, 123, 234};
    float y[4], h[2] = {8, 9};
    const float later[] = {891, 912, 123, 234}, last[] = {3, 4};
    const tfb_tensor xt = tfb_view3(x, TFB_F32, 1, 4, 1),
                     wt = tfb_view2(w, TFB_F32, 1, 3);
    tfb_tensor yt = tfb_view3(y, TFB_F32, 1, 4, 1),
               state = tfb_view3(h, TFB_F32, 1, 2, 1);
    tfb_conv1d_opts o = TFB_INIT;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_causal_conv1d(&ctx, &xt, &wt, NULL, &yt));
    CHECK_BITS(y, want, 4, "the last tap meets the present token");
    o.state = &state;
    CHECK_OK(&ctx, tfb_causal_conv1d(&ctx, &xt, &wt, &o, &yt));
    CHECK_BITS(y, later, 4, "inputs before the first");
    CHECK_BITS(h, last, 2, "the last inputs");
    tfb_ctx_free(&ctx);
}

/* With softplus far out delta is dt, or nothing is fed and nothing decays. */
static void far_softplus(void) {
    static const float dts[] = {100, -100, 1000, -1000, 1e30f, -1e30f};
    static const float wants[] = {200, 5, 2000, 5, 2e30f, 5};
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < COUNT(dts); i++) {
        float x = 2, a = -1, one = 1, y, h = 5;
        const tfb_tensor xt = tfb_view3(&x, TFB_F32, 1, 1, 1);
        const tfb_tensor dt = tfb_view3(&dts[i], TFB_F32, 1, 1, 1);
        const tfb_tensor at = tfb_view2(&a, TFB_F32, 1, 1);
        const tfb_tensor b = tfb_view4(&one, TFB_F32, 1, 1, 1, 1);
        tfb_tensor yt = tfb_view3(&y, TFB_F32, 1, 1, 1);
        tfb_tensor state = tfb_view3(&h, TFB_F32, 1, 1, 1);
        tfb_scan_opts o = TFB_INIT;
        o.softplus = 1;
        o.state = &state;
        CHECK_OK(&ctx, tfb_selective_scan(&ctx, &xt, &dt, &at, &b, &b, &o, &yt));
        CHECK_BITS(&y, &wants[i], 1, "dt %g", (double)dts[i]);
        CHECK_BITS(&h, &wants[i], 1, "the state, dt %g", (double)dts[i]);
    }
    tfb_ctx_free(&ctx);
}

/* No tokens, no samples, no channels: nothing is written, the state is as it was. Without
 * states a scan is d x. */
static void empties(void) {
    tfb_ctx ctx;
    int i, kind;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 4; i++)
        for (kind = 0; kind < KINDS; kind++) {
            variant v = {
                0, HAS_D | HAS_STATE | HAS_BIAS, Y, 0, 2, 3, 4, 5, 2, 3, TFB_FN_IDENTITY,
                0};
            problem p;
            v.kind = kind;
            if (kind == CONV) v.flags &= ~HAS_D;
            if (i == 0) v.T = 0;
            if (i == 1) v.batch = 0;
            if (i == 2) v.E = 0, v.G = kind == SCAN ? 0 : 2;
            if (i == 3 && kind == SSD) v.P = 0;
            if (i == 3 && kind == SCAN) v.N = 0;
            problem_new(&p, &v);
            problem_check(&ctx, &p, "empty");
            if (i < 3) problem_equal(&p, 1, "empty");
            problem_free(&p);
        }
    tfb_ctx_free(&ctx);
}

/* Extents beyond any memory are legal where another is 0. */
static void huge_empties(void) {
    const tfb_tensor x = tfb_view3(NULL, TFB_F32, 0, HUGE_EXTENT, 1);
    const tfb_tensor w = tfb_view2(NULL, TFB_F32, 1, 4),
                     a = tfb_view2(NULL, TFB_F32, 1, 0);
    const tfb_tensor b = tfb_view4(NULL, TFB_F32, 0, HUGE_EXTENT, 1, 0);
    const float taps[4] = {0};
    tfb_tensor y = x, wt = w;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    wt.data = tfb_view1(taps, TFB_F32, 4).data;
    CHECK_OK(&ctx, tfb_causal_conv1d(&ctx, &x, &wt, NULL, &y));
    CHECK_OK(&ctx, tfb_selective_scan(&ctx, &x, &x, &a, &b, &b, NULL, &y));
    CHECK(ctx.scratch_last == 0, "scratch %ld", (long)ctx.scratch_last);
    tfb_ctx_free(&ctx);
}

/* What comes later changes nothing: not even as a NaN. */
static void causality(void) {
    tfb_ctx ctx;
    int i, late;
    t_ctx(&ctx, NULL);
    for (i = 0; i < COUNT(variants); i++)
        for (late = 1; late < variants[i].T; late += 13) {
            variant v = variants[i];
            problem p;
            tfb_tensor *t[BOXES], before, was;
            float *y;
            tfb_idx j;
            int k;
            v.y = Y;
            v.layout = 0;
            problem_new(&p, &v);
            tensors(&p, t);
            CHECK_OK(&ctx, run(&ctx, &v, t));
            y = floats_copy(p.t[Y].mem, p.t[Y].n);
            problem_reset(&p);
            for (k = X; k <= Z; k++) {
                tfb_tensor tail;
                if (k == A || k == D || !t[k]) continue;
                CHECK_OK(&ctx, tfb_slice(&ctx, t[k], 1, late, v.T - late, &tail));
                for (j = 0; j < tfb_numel(&tail); j++)
                    ((float *)tail.data)[tfb__offset(&tail, tail.ndim, j)] =
                        tfb__float_of(0x7FC00000u);
            }
            CHECK_OK(&ctx, run(&ctx, &v, t));
            CHECK_OK(&ctx, tfb_slice(&ctx, t[Y], 1, 0, late, &before));
            was = before;
            was.data = y;
            for (j = 0; j < tfb_numel(&before); j++) {
                const tfb_idx at = tfb__offset(&before, before.ndim, j);
                CHECK_BITS((float *)before.data + at, (float *)was.data + at, 1,
                           "%s: token %d changes an earlier one", kind_names[v.kind],
                           late);
            }
            free(y);
            problem_free(&p);
        }
    tfb_ctx_free(&ctx);
}

/* --- Scratch. --- */
static size_t problem_measure(problem *p, const tfb_ctx *like, int workers) {
    void *data[BOXES];
    tfb_ctx ctx;
    int i;
    CHECK_OK(&ctx, tfb_ctx_init_measure(&ctx));
    CHECK_OK(&ctx, tfb_isa_force(&ctx, tfb_isa_name(like)));
    ctx.workers = workers;
    problem_reset(p);
    CHECK_OK(&ctx, problem_run(&ctx, p));
    problem_equal(p, 1, "measured");
    for (i = 0; i < BOXES; i++) data[i] = p->t[i].t.data, p->t[i].t.data = NULL;
    CHECK_OK(&ctx, problem_run(&ctx, p));
    for (i = 0; i < BOXES; i++) p->t[i].t.data = data[i];
    CHECK(ctx.scratch_peak == ctx.scratch_last, "peak");
    return ctx.scratch_last;
}

/* What is measured is what is used: exactly so much succeeds, one byte less fails. */
static void scratch_is_exact(void) {
    tfb_ctx like, ctx;
    int i, k;
    t_ctx(&like, NULL);
    for (i = 0; i < COUNT(variants) * COUNT(worker_counts); i++) {
        const int workers = worker_counts[i % COUNT(worker_counts)];
        problem p;
        size_t need;
        char *mem, text[32];
        problem_new(&p, &variants[i / COUNT(worker_counts)]);
        need = problem_measure(&p, &like, workers);
        mem = (char *)malloc(need + (need == 0));
        reverse_workers(&like, workers);
        problem_check(&like, &p, "dynamic");
        CHECK(like.scratch_last == need, "used %ld, measured %ld",
              (long)like.scratch_last, (long)need);
        for (k = 0; k < 2; k++) {
            CHECK_OK(&ctx, tfb_ctx_init_static(&ctx, mem, need - (size_t)k));
            CHECK_OK(&ctx, tfb_isa_force(&ctx, tfb_isa_name(&like)));
            reverse_workers(&ctx, workers);
            if (!k) problem_check(&ctx, &p, "static");
        }
        sprintf(text, "needs %ld", (long)need);
        problem_reset(&p);
        CHECK_FAILS(&ctx, TFB_ERR_SCRATCH, text, problem_run(&ctx, &p));
        problem_equal(&p, 1, "without scratch");
        free(mem);
        problem_free(&p);
    }
    tfb_ctx_free(&like);
}

/* Every allocation may fail: then nothing is written, and the next call works. A later
 * call of the same shapes allocates nothing. */
static void allocations_fail(void) {
    int i, again;
    long fail;
    for (i = 0; i < COUNT(variants); i++)
        for (again = 1, fail = 1; again && fail < 20; fail++) {
            problem p;
            t_heap heap;
            tfb_ctx ctx;
            tfb_status st;
            long calls;
            problem_new(&p, &variants[i]);
            t_ctx(&ctx, &heap);
            heap.fail_at = fail;
            st = problem_run(&ctx, &p);
            again = heap.calls >= fail;
            CHECK(st == TFB_OK || st == TFB_ERR_MEMORY, "status %d", (int)st);
            CHECK(fail > 1 || st, "the first allocation failed");
            if (st) CHECK(strstr(ctx.message, "scratch") != NULL, "%s", ctx.message);
            problem_equal(&p, st != TFB_OK, "after a failure");
            problem_check(&ctx, &p, "next");
            calls = heap.calls;
            problem_check(&ctx, &p, "again");
            CHECK(heap.calls == calls, "allocates after warm-up");
            tfb_ctx_free(&ctx);
            CHECK(heap.live == 0, "%ld blocks leak", heap.live);
            problem_free(&p);
        }
}

/* What the header says about scratch; it grows with neither T, B nor E. */
static void scratch_is_documented(void) {
    static const tfb_idx lengths[] = {1, 32, 1000, 1000000},
                         sizes[] = {1, 4, 16, 128, 999};
    tfb_ctx ctx;
    int i, j, gaps;
    CHECK_OK(&ctx, tfb_ctx_init_measure(&ctx));
    for (i = 0; i < COUNT(lengths); i++)
        for (j = 0; j < COUNT(sizes); j++)
            for (gaps = 0; gaps < 2; gaps++) {
                const tfb_idx T = lengths[i], N = sizes[j];
                const size_t n = (size_t)N, workers = (size_t)(1 + i);
                tfb_tensor x = tfb_view3(NULL, TFB_F32, i + 1, T, 100 * (i + 1));
                const tfb_tensor w = tfb_view2(NULL, TFB_F32, x.shape[2], N);
                tfb_tensor b = tfb_view4(NULL, TFB_F32, i + 1, T, 1, N);
                if (gaps) b.stride[3] = T, b.stride[1] = 1;
                ctx.workers = (int)workers;
                CHECK_OK(&ctx, tfb_causal_conv1d(&ctx, &x, &w, NULL, &x));
                CHECK(ctx.scratch_last <= workers * (576 * n + (12 << 10)),
                      "convolution: %ld bytes", (long)ctx.scratch_last);
                CHECK_OK(&ctx, tfb_selective_scan(&ctx, &x, &x, &w, &b, &b, NULL, &x));
                CHECK(ctx.scratch_last <=
                          workers * (576 * n + (11 << 10) + (gaps ? 256 * (n + 15) : 0)),
                      "scan: %ld bytes", (long)ctx.scratch_last);
            }
}

static void scratch_overflows(void) {
    const tfb_idx N = HUGE_EXTENT / 8;
    const tfb_tensor x = tfb_view3(NULL, TFB_F32, 1, 1, 1),
                     w = tfb_view2(NULL, TFB_F32, 1, N);
    const tfb_tensor b = tfb_view4(NULL, TFB_F32, 1, 1, 1, N);
    tfb_tensor y = x;
    tfb_ctx ctx;
    CHECK_OK(&ctx, tfb_ctx_init_measure(&ctx));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "scratch",
                tfb_causal_conv1d(&ctx, &x, &w, NULL, &y));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "scratch",
                tfb_selective_scan(&ctx, &x, &x, &w, &b, &b, NULL, &y));
    CHECK(ctx.scratch_peak == 0, "peak %ld", (long)ctx.scratch_peak);
}

/* --- Bad input. --- */
static tfb_fn bad_act;

static tfb_status run_conv(tfb_ctx *ctx, tfb_tensor **t) {
    tfb_conv1d_opts o = TFB_INIT;
    o.bias = t[2];
    o.state = t[3];
    o.act = bad_act;
    return tfb_causal_conv1d(ctx, t[0], t[1], &o, t[4]);
}

static void conv_refuses(void) {
    static call c = {
        {"x", "w", "bias", "state", "y"}, {0, 0, 1, 1, 0}, 5, run_conv, {{0}}, {0}, {0}};
    const tfb_tensor x = tfb_view3(c.mem, TFB_F32, 2, 3, 4);
    const tfb_tensor w = tfb_view2(c.mem + 24, TFB_F32, 4, 3);
    const tfb_tensor bias = tfb_view1(c.mem + 36, TFB_F32, 4);
    const tfb_tensor state = tfb_view3(c.mem + 40, TFB_F32, 2, 2, 4);
    const tfb_tensor y = tfb_view3(c.mem + 56, TFB_F32, 2, 3, 4);
    const wrong list[] = {
        {0, with_rank(x, 2), TFB_ERR_SHAPE, "x.ndim is 2, needs 3"},
        {1, with_rank(w, 3), TFB_ERR_SHAPE, "w.ndim is 3, needs 2"},
        {2, with_rank(bias, 2), TFB_ERR_SHAPE, "bias.ndim is 2, needs 1"},
        {3, with_rank(state, 2), TFB_ERR_SHAPE, "state.ndim is 2, needs 3"},
        {4, with_rank(y, 4), TFB_ERR_SHAPE, "y.ndim is 4, needs 3"},
        {0, with_dtype(x, TFB_F16), TFB_ERR_DTYPE, "x is F16"},
        {1, with_dtype(w, TFB_BF16), TFB_ERR_DTYPE, "w is BF16"},
        {3, with_dtype(state, TFB_I32), TFB_ERR_DTYPE, "state is I32"},
        {1, with_extent(w, 0, 3), TFB_ERR_SHAPE, "w.shape[0] is 3, needs 4"},
        {1, with_extent(w, 1, 0), TFB_ERR_SHAPE, "w.shape[1] is 0"},
        {1, with_extent(w, 1, 2), TFB_ERR_SHAPE, "state.shape[1] is 2, needs 1"},
        {2, with_extent(bias, 0, 3), TFB_ERR_SHAPE, "bias.shape[0] is 3, needs 4"},
        {3, with_extent(state, 0, 1), TFB_ERR_SHAPE, "state.shape[0] is 1, needs 2"},
        {3, with_extent(state, 1, 1), TFB_ERR_SHAPE, "state.shape[1] is 1, needs 2"},
        {3, with_extent(state, 2, 1), TFB_ERR_SHAPE, "state.shape[2] is 1, needs 4"},
        {4, with_extent(y, 0, 1), TFB_ERR_SHAPE, "y.shape[0] is 1, needs 2"},
        {4, with_extent(y, 1, 2), TFB_ERR_SHAPE, "y.shape[1] is 2, needs 3"},
        {4, with_extent(y, 2, 1), TFB_ERR_SHAPE, "y.shape[2] is 1, needs 4"},
        {4, with_stride(y, 1, 3), TFB_ERR_SHAPE, "y.stride[1] is 3: elements would"},
        {3, with_stride(state, 0, 0), TFB_ERR_SHAPE, "state.stride[0] is 0: elements"},
        {4, with_data(y, c.mem + 1), TFB_ERR_ALIAS, "y overlaps x"},
        {4, with_data(y, c.mem + 26), TFB_ERR_ALIAS, "y overlaps w"},
        {2, with_data(bias, c.mem + 60), TFB_ERR_ALIAS, "y overlaps bias"},
        {3, with_data(state, c.mem + 8), TFB_ERR_ALIAS, "state overlaps x"},
        {3, with_data(state, c.mem + 21), TFB_ERR_ALIAS, "state overlaps x"},
        {1, with_data(w, c.mem + 30), TFB_ERR_ALIAS, "state overlaps w"},
        {2, with_data(bias, c.mem + 52), TFB_ERR_ALIAS, "state overlaps bias"},
        {3, with_data(state, c.mem + 60), TFB_ERR_ALIAS, "state overlaps y"},
    };
    static const int acts[] = {-1, TFB_FN_EXP, TFB_FN_SOFTPLUS, 99};
    int i;
    c.t[0] = x, c.t[1] = w, c.t[2] = bias, c.t[3] = state, c.t[4] = y;
    CHECK(tfb_causal_conv1d(NULL, &x, &w, NULL, &c.t[4]) == TFB_ERR_ARG, "no context");
    call_refuses_any(&c);
    call_refuses(&c, list, COUNT(list));
    for (i = 0; i < COUNT(acts); i++) {
        bad_act = (tfb_fn)acts[i];
        call_refused(&c, -1, NULL, TFB_ERR_ARG, "which is no activation");
    }
    bad_act = TFB_FN_IDENTITY;
}

static variant bad_call;

static tfb_status run_bad(tfb_ctx *ctx, tfb_tensor **t) {
    return run(ctx, &bad_call, t);
}

/* The tensors of a call side by side in its memory. */
static void call_fill(call *c, const variant *v) {
    float *at = c->mem;
    int i;
    for (i = 0; i < BOXES; i++) {
        tfb_idx n[TFB_MAX_DIMS];
        const int rank = extents(v, i, n);
        c->t[i] = tfb__view(at, TFB_F32, rank, n);
        at += tfb_numel(&c->t[i]);
    }
    if (at > c->mem + COUNT(c->mem)) exit(98);
}

static float *end_of(const tfb_tensor *t, tfb_idx back) {
    return (float *)t->data + tfb_numel(t) - back;
}

static const call scan_call = {
    {"x", "dt", "a", "b", "c", "d", "z", "dt_bias", "state", "y"},
    {0, 0, 0, 0, 0, 1, 1, 1, 1, 0},
    BOXES,
    run_bad,
    {{0}},
    {0},
    {0}};

static void scan_refuses(void) {
    const variant v = {SCAN,
                       HAS_D | HAS_Z | HAS_BIAS | HAS_STATE,
                       Y,
                       0,
                       2,
                       2,
                       4,
                       0,
                       2,
                       3,
                       TFB_FN_IDENTITY,
                       0};
    static call c;
    const tfb_tensor *t = c.t;
    c = scan_call;
    bad_call = v;
    call_fill(&c, &v);
    call_refuses_any(&c);
    {
        const wrong list[] = {
            {X, with_rank(t[X], 4), TFB_ERR_SHAPE, "x.ndim is 4, needs 3"},
            {DT, with_rank(t[DT], 2), TFB_ERR_SHAPE, "dt.ndim is 2, needs 3"},
            {A, with_rank(t[A], 1), TFB_ERR_SHAPE, "a.ndim is 1, needs 2"},
            {B, with_rank(t[B], 3), TFB_ERR_SHAPE, "b.ndim is 3, needs 4"},
            {C, with_rank(t[C], 3), TFB_ERR_SHAPE, "c.ndim is 3, needs 4"},
            {D, with_rank(t[D], 2), TFB_ERR_SHAPE, "d.ndim is 2, needs 1"},
            {Z, with_rank(t[Z], 2), TFB_ERR_SHAPE, "z.ndim is 2, needs 3"},
            {BIAS, with_rank(t[BIAS], 2), TFB_ERR_SHAPE, "dt_bias.ndim is 2, needs 1"},
            {STATE, with_rank(t[STATE], 4), TFB_ERR_SHAPE, "state.ndim is 4, needs 3"},
            {Y, with_rank(t[Y], 4), TFB_ERR_SHAPE, "y.ndim is 4, needs 3"},
            {A, with_dtype(t[A], TFB_F16), TFB_ERR_DTYPE, "a is F16"},
            {STATE, with_dtype(t[STATE], TFB_I32), TFB_ERR_DTYPE, "state is I32"},
            {DT, with_extent(t[DT], 2, 1), TFB_ERR_SHAPE, "dt.shape[2] is 1, needs 4"},
            {A, with_extent(t[A], 0, 2), TFB_ERR_SHAPE, "a.shape[0] is 2, needs 4"},
            {A, with_extent(t[A], 1, 1), TFB_ERR_SHAPE, "a.shape[1] is 1, needs 3"},
            {B, with_extent(t[B], 0, 1), TFB_ERR_SHAPE, "b.shape[0] is 1, needs 2"},
            {B, with_extent(t[B], 1, 1), TFB_ERR_SHAPE, "b.shape[1] is 1, needs 2"},
            {B, with_extent(t[B], 2, 3), TFB_ERR_SHAPE, "no multiple of b's 3 groups"},
            {B, with_extent(t[B], 2, 0), TFB_ERR_SHAPE, "no multiple of b's 0 groups"},
            {B, with_extent(t[B], 2, 1), TFB_ERR_SHAPE, "c.shape[2] is 2, needs 1"},
            {B, with_extent(t[B], 3, 2), TFB_ERR_SHAPE, "c.shape[3] is 3, needs 2"},
            {C, with_extent(t[C], 3, 2), TFB_ERR_SHAPE, "c.shape[3] is 2, needs 3"},
            {D, with_extent(t[D], 0, 3), TFB_ERR_SHAPE, "d.shape[0] is 3, needs 4"},
            {Z, with_extent(t[Z], 1, 1), TFB_ERR_SHAPE, "z.shape[1] is 1, needs 2"},
            {BIAS, with_extent(t[BIAS], 0, 1), TFB_ERR_SHAPE, "dt_bias.shape[0] is 1"},
            {STATE, with_extent(t[STATE], 0, 1), TFB_ERR_SHAPE, "state.shape[0] is 1"},
            {STATE, with_extent(t[STATE], 1, 3), TFB_ERR_SHAPE, "state.shape[1] is 3"},
            {STATE, with_extent(t[STATE], 2, 1), TFB_ERR_SHAPE, "state.shape[2] is 1"},
            {Y, with_extent(t[Y], 2, 1), TFB_ERR_SHAPE, "y.shape[2] is 1, needs 4"},
            {Y, with_stride(t[Y], 0, 0), TFB_ERR_SHAPE, "y.stride[0] is 0: elements"},
            {STATE, with_stride(t[STATE], 2, 0), TFB_ERR_SHAPE, "state.stride[2] is 0"},
            {Y, with_data(t[Y], end_of(t + X, 1)), TFB_ERR_ALIAS, "y overlaps x"},
            {Y, with_data(t[Y], end_of(t + DT, 1)), TFB_ERR_ALIAS, "y overlaps dt"},
            {Y, with_data(t[Y], end_of(t + Z, 1)), TFB_ERR_ALIAS, "y overlaps z"},
            {A, with_data(t[A], end_of(t + Y, 1)), TFB_ERR_ALIAS, "y overlaps a"},
            {B, with_data(t[B], end_of(t + Y, 1)), TFB_ERR_ALIAS, "y overlaps b"},
            {C, with_data(t[C], end_of(t + Y, 1)), TFB_ERR_ALIAS, "y overlaps c"},
            {D, with_data(t[D], end_of(t + Y, 1)), TFB_ERR_ALIAS, "y overlaps d"},
            {BIAS, with_data(t[BIAS], end_of(t + Y, 1)), TFB_ERR_ALIAS,
             "y overlaps dt_b"},
            {X, with_data(t[X], end_of(t + BIAS, 0)), TFB_ERR_ALIAS, "state overlaps x"},
            {DT, with_data(t[DT], end_of(t + BIAS, 0)), TFB_ERR_ALIAS,
             "state overlaps dt"},
            {Z, with_data(t[Z], end_of(t + BIAS, 0)), TFB_ERR_ALIAS, "state overlaps z"},
            {A, with_data(t[A], end_of(t + BIAS, 0)), TFB_ERR_ALIAS, "state overlaps a"},
            {B, with_data(t[B], end_of(t + BIAS, 0)), TFB_ERR_ALIAS, "state overlaps b"},
            {C, with_data(t[C], end_of(t + BIAS, 0)), TFB_ERR_ALIAS, "state overlaps c"},
            {D, with_data(t[D], end_of(t + BIAS, 0)), TFB_ERR_ALIAS, "state overlaps d"},
            {BIAS, t[STATE].data ? with_data(t[BIAS], t[STATE].data) : t[BIAS],
             TFB_ERR_ALIAS, "state overlaps dt_bias"},
            {STATE, with_data(t[STATE], end_of(t + STATE, 1)), TFB_ERR_ALIAS,
             "state overlaps y"},
        };
        call_refuses(&c, list, COUNT(list));
    }
    CHECK(tfb_selective_scan(NULL, t, t, t, t, t, NULL, &c.t[Y]) == TFB_ERR_ARG,
          "no context");
}

static void ssd_refuses(void) {
    const variant v = {SSD,
                       HAS_D | HAS_Z | HAS_BIAS | HAS_STATE,
                       Y,
                       0,
                       2,
                       2,
                       4,
                       2,
                       2,
                       2,
                       TFB_FN_IDENTITY,
                       0};
    static call c;
    const tfb_tensor *t = c.t;
    c = scan_call;
    bad_call = v;
    call_fill(&c, &v);
    call_refuses_any(&c);
    {
        const wrong list[] = {
            {X, with_rank(t[X], 3), TFB_ERR_SHAPE, "x.ndim is 3, needs 4"},
            {DT, with_rank(t[DT], 4), TFB_ERR_SHAPE, "dt.ndim is 4, needs 3"},
            {A, with_rank(t[A], 2), TFB_ERR_SHAPE, "a.ndim is 2, needs 1"},
            {Z, with_rank(t[Z], 3), TFB_ERR_SHAPE, "z.ndim is 3, needs 4"},
            {STATE, with_rank(t[STATE], 3), TFB_ERR_SHAPE, "state.ndim is 3, needs 4"},
            {Y, with_rank(t[Y], 3), TFB_ERR_SHAPE, "y.ndim is 3, needs 4"},
            {DT, with_extent(t[DT], 2, 2), TFB_ERR_SHAPE, "dt.shape[2] is 2, needs 4"},
            {A, with_extent(t[A], 0, 2), TFB_ERR_SHAPE, "a.shape[0] is 2, needs 4"},
            {B, with_extent(t[B], 2, 3), TFB_ERR_SHAPE, "no multiple of b's 3 groups"},
            {C, with_extent(t[C], 3, 1), TFB_ERR_SHAPE, "c.shape[3] is 1, needs 2"},
            {D, with_extent(t[D], 0, 2), TFB_ERR_SHAPE, "d.shape[0] is 2, needs 4"},
            {Z, with_extent(t[Z], 3, 1), TFB_ERR_SHAPE, "z.shape[3] is 1, needs 2"},
            {STATE, with_extent(t[STATE], 1, 2), TFB_ERR_SHAPE, "state.shape[1] is 2"},
            {STATE, with_extent(t[STATE], 2, 1), TFB_ERR_SHAPE, "state.shape[2] is 1"},
            {STATE, with_extent(t[STATE], 3, 1), TFB_ERR_SHAPE, "state.shape[3] is 1"},
            {Y, with_extent(t[Y], 3, 1), TFB_ERR_SHAPE, "y.shape[3] is 1, needs 2"},
            {Y, with_data(t[Y], end_of(t + X, 1)), TFB_ERR_ALIAS, "y overlaps x"},
            {DT, with_data(t[DT], t[Y].data), TFB_ERR_ALIAS, "y overlaps dt"},
            {Y, with_data(t[Y], end_of(t + Z, 1)), TFB_ERR_ALIAS, "y overlaps z"},
            {STATE, with_data(t[STATE], end_of(t + STATE, 1)), TFB_ERR_ALIAS,
             "state overlaps y"},
        };
        call_refuses(&c, list, COUNT(list));
    }
    CHECK(tfb_ssd(NULL, t, t, t, t, t, NULL, &c.t[Y]) == TFB_ERR_ARG, "no context");
}

int main(void) {
    RUN(random_calls);
    RUN(workers_and_tables);
    RUN(splits);
    RUN(no_state_is_zeros);
    RUN(no_bias_is_zeros);
    RUN(ssd_is_a_scan);
    RUN(conv_is_accurate);
    RUN(scan_is_accurate);
    RUN(conv_by_hand);
    RUN(far_softplus);
    RUN(empties);
    RUN(huge_empties);
    RUN(causality);
    RUN(scratch_is_exact);
    RUN(allocations_fail);
    RUN(scratch_is_documented);
    RUN(scratch_overflows);
    RUN(conv_refuses);
    RUN(scan_refuses);
    RUN(ssd_refuses);
    FINISH();
}
