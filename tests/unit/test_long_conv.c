/* test_long_conv.c - tfb_long_conv: direct sums by bits against the plain-loop reference
 * over shapes, edges, kernels, strides, workers and tables; sums by transforms against
 * double, and that their bits depend on nothing else of the call; transforms themselves;
 * corners; scratch; bad input. */
#include "../test.h"
#include "layouts.h"
#include <math.h>

#define U 5.9604644775390625e-8 /* 2^-24: what one rounding can be off */

static const int layouts[] = {0, ORDER, WIDE, BACK | WIDE, ORDER | WIDE | BACK | SPARSE};
static const char *const box_names[] = {"x", "k", "shortcut", "y"};

/* --- One call with everything that belongs to it. --- */
enum { X, K, S, Y, BOXES };
enum { EACH = 1, SHORTCUT = 2, FIRST = 4, IN_PLACE = 8 };

/* EACH: a kernel for each sample. IN_PLACE: y is x. */
typedef struct variant {
    int axes, flags, layout;
    tfb_idx batch, C, n[3], k[3];
    tfb_edge edge[3];
    int odd;
} variant;

typedef struct problem {
    variant v;
    box t[BOXES];
    float *want; /* as the reference leaves the buffer of y */
} problem;

static int extents(const variant *v, int which, tfb_idx *n) {
    int i, rank = 0;
    if (which == S) {
        n[0] = v->C;
        return 1;
    }
    if (which != K || v->flags & EACH) n[rank++] = v->batch;
    for (i = 0; i < v->axes; i++) n[rank++] = which == K ? v->k[i] : v->n[i];
    n[rank++] = v->C;
    return rank;
}

static tfb_long_conv_opts options(const problem *p) {
    tfb_long_conv_opts o = TFB_INIT;
    int i;
    for (i = 0; i < 3; i++) o.edge[i] = p->v.edge[i];
    if (p->v.flags & SHORTCUT) o.shortcut = &p->t[S].t;
    o.first_tap = (p->v.flags & FIRST) != 0;
    o.method = TFB_CONV_DIRECT;
    return o;
}

static box *output(problem *p) {
    return &p->t[p->v.flags & IN_PLACE ? X : Y];
}

static tfb_status run(tfb_ctx *ctx, problem *p) {
    const tfb_long_conv_opts o = options(p);
    return tfb_long_conv(ctx, &p->t[X].t, &p->t[K].t, &o, &output(p)->t);
}

static void problem_make(problem *p, const variant *v) {
    int i;
    memset((void *)p, 0, sizeof *p);
    p->v = *v;
    for (i = 0; i < BOXES; i++) {
        tfb_idx n[TFB_MAX_DIMS];
        const int rank = extents(v, i, n);
        p->t[i] = box_new(rank, n, v->layout);
        if (v->odd && p->t[i].n) box_spoil(&p->t[i], v->odd);
    }
}

static void problem_new(problem *p, const variant *v) {
    tfb_long_conv_opts o;
    tfb_tensor y;
    problem_make(p, v);
    p->want = floats_copy(output(p)->mem, output(p)->n);
    y = output(p)->t;
    y.data = p->want + ((float *)y.data - output(p)->mem);
    o = options(p);
    tfb__long_conv_ref(&p->t[X].t, &p->t[K].t, &o, &y);
}

static void problem_free(problem *p) {
    int i;
    for (i = 0; i < BOXES; i++) box_free(&p->t[i]);
    free(p->want);
}

static void problem_check(tfb_ctx *ctx, problem *p, const char *how) {
    const variant *v = &p->v;
    int i;
    for (i = 0; i < BOXES; i++) box_reset(&p->t[i]);
    CHECK_OK(ctx, run(ctx, p));
    for (i = 0; i < BOXES; i++) {
        const box *b = &p->t[i];
        CHECK_BITS(b->mem, b == output(p) ? p->want : b->mem0, b->n,
                   "%s: %s of [%ld; %ld, %ld, %ld; %ld], taps %ld, %ld, %ld, edges %d %d "
                   "%d, axes %d flags %d layout %d",
                   how, box_names[i], (long)v->batch, (long)v->n[0], (long)v->n[1],
                   (long)v->n[2], (long)v->C, (long)v->k[0], (long)v->k[1], (long)v->k[2],
                   (int)v->edge[0], (int)v->edge[1], (int)v->edge[2], v->axes, v->flags,
                   v->layout);
    }
}

/* --- Random calls. --- */
/* An extent with its kernel: kernels shorter, as long and longer than the axis. */
static void any_axis(variant *v, int i, tfb_idx most) {
    v->n[i] = t_int(0, 9) ? t_int(1, most) : 1;
    v->edge[i] = (tfb_edge)t_int(0, v->axes == 1 ? TFB_EDGE_CAUSAL : TFB_EDGE_CIRCULAR);
    switch (t_int(0, 3)) {
    case 0: v->k[i] = t_int(1, 5); break;
    case 1: v->k[i] = v->n[i]; break;
    case 2: v->k[i] = 2 * v->n[i] - 1; break;
    default: v->k[i] = t_int(1, 2 * most); break;
    }
    if (v->edge[i] == TFB_EDGE_CIRCULAR) v->k[i] = TFB__MIN(v->k[i], v->n[i]);
}

static variant any_variant(void) {
    static const tfb_idx widths[] = {1, 2, 5, 15, 16, 17, 33}, most[] = {400, 17, 6};
    variant v;
    int i;
    memset(&v, 0, sizeof v);
    v.axes = (int)t_int(1, 3);
    v.flags = (int)t_int(0, 15);
    v.layout = layouts[t_int(0, COUNT(layouts) - 1)];
    v.batch = t_int(1, 2);
    for (i = 0; i < v.axes; i++) any_axis(&v, i, most[v.axes - 1]);
    v.C = widths[t_int(0, COUNT(widths) - 1)];
    if (v.axes == 1 && v.n[0] > 100) v.C = t_int(1, 2);
    v.odd = t_int(0, 3) ? 0 : (int)t_int(1, 4);
    return v;
}

static void random_calls(void) {
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 100; i++) {
        const variant v = any_variant();
        problem p;
        problem_new(&p, &v);
        problem_check(&ctx, &p, "random");
        problem_free(&p);
    }
    tfb_ctx_free(&ctx);
}

/* Calls that take every path: several blocks, runs over wrapped ends, more runs than one
 * list holds, more panels than one, primes, even circular lengths, one place. */
#define Z TFB_EDGE_ZERO
#define O TFB_EDGE_CIRCULAR
static const variant variants[] = {
    {1, EACH | SHORTCUT, 0, 2, 18, {600}, {1199}, {Z}, 0},
    {1, SHORTCUT | IN_PLACE, 0, 2, 8, {520}, {520}, {O}, 0},
    {1, FIRST, ORDER | WIDE, 1, 33, {300}, {300}, {TFB_EDGE_CAUSAL}, 0},
    {1, SHORTCUT, BACK, 2, 17, {270}, {539}, {TFB_EDGE_CAUSAL}, 3},
    {1, 0, 0, 1, 1, {1}, {1}, {O}, 0},
    {1, EACH, SPARSE, 2, 5, {127}, {127}, {O}, 0},
    {1, FIRST, 0, 1, 18, {7}, {900}, {Z}, 0},
    {2, SHORTCUT, 0, 2, 20, {5, 3}, {9, 5}, {Z, Z}, 0},
    {2, SHORTCUT | FIRST, ORDER, 1, 16, {40, 17}, {39, 17}, {Z, O}, 0},
    {2, EACH | IN_PLACE, WIDE, 2, 9, {200, 2}, {199, 2}, {O, O}, 2},
    {2, 0, 0, 1, 3, {2, 300}, {2, 7}, {O, Z}, 0},
    {3, SHORTCUT, 0, 2, 18, {3, 4, 5}, {5, 7, 9}, {Z, Z, Z}, 0},
    {3, EACH | FIRST, ORDER | BACK, 2, 7, {6, 8, 9}, {6, 7, 9}, {O, Z, O}, 0},
};
#undef Z
#undef O

/* A legal but hostile parallel_for: last piece first, workers in turn. */
static void reverse_for(void *user, tfb_idx n, tfb_body_fn body, void *arg) {
    const int workers = *(const int *)user;
    while (n-- > 0) body(arg, n, (int)(n % workers));
}

static void workers_and_tables(void) {
    static int counts[] = {1, 2, 5};
    tfb_ctx ctx;
    int i, j, table;
    for (i = 0; i < COUNT(variants); i++) {
        const char *name;
        problem p;
        problem_new(&p, &variants[i]);
        t_ctx(&ctx, NULL);
        for (table = 0; (name = tfb_isa_list(&ctx, table, NULL)) != NULL; table++) {
            if (!t_force(&ctx, name)) continue;
            for (j = 0; j < COUNT(counts); j++) {
                ctx.parallel_for = reverse_for;
                ctx.parallel_user = &counts[j];
                ctx.workers = counts[j];
                problem_check(&ctx, &p, name);
                ctx.parallel_for = NULL, ctx.workers = 1;
            }
        }
        if (tfb_ctx_threads(&ctx, 3, 100) == TFB_OK) problem_check(&ctx, &p, "threads");
        problem_free(&p);
        tfb_ctx_free(&ctx);
    }
}

/* --- By transforms. --- */
/* Largest error of y against sums in double over max |x| sum |k|; of every `step`th. */
static double worst_error(problem *p, tfb_idx step) {
    const tfb_tensor *x = &p->t[X].t, *k = &p->t[K].t;
    const tfb_long_conv_opts o = options(p);
    const tfb_idx places = tfb_numel(x) / x->shape[0] / x->shape[x->ndim - 1];
    const tfb_idx taps =
        tfb_numel(k) / (k->ndim == x->ndim ? k->shape[0] : 1) / k->shape[k->ndim - 1];
    double worst = 0;
    tfb_idx b, c, n, m;
    for (b = 0; b < x->shape[0]; b++)
        for (c = 0; c < x->shape[x->ndim - 1]; c++) {
            const tfb_idx C = x->shape[x->ndim - 1];
            const float *kc = (const float *)k->data + c * k->stride[k->ndim - 1];
            double size = 0, top = 0;
            if (k->ndim == x->ndim) kc += b * k->stride[0];
            for (m = 0; m < taps; m++) {
                const tfb_idx first = k->ndim == x->ndim ? b * taps : 0;
                size += fabs(
                    (double)((float *)
                                 k->data)[tfb__offset(k, k->ndim, (first + m) * C + c)]);
            }
            for (m = 0; m < places; m++)
                top = fmax(top, fabs((double)((float *)x->data)[tfb__offset(
                                    x, x->ndim, (b * places + m) * C + c)]));
            for (n = 0; n < places; n += step) {
                const tfb_idx at = (b * places + n) * C + c;
                const tfb_tensor *y = &p->t[Y].t;
                double sum = 0, off;
                for (m = 0; m < places; m++) {
                    const float *tap = tfb__taps_ref(x, k, kc, &o, n, m);
                    const float *in = (float *)x->data +
                                      tfb__offset(x, x->ndim, (b * places + m) * C + c);
                    if (tap) sum += (double)*tap * (double)*in;
                }
                if (o.shortcut)
                    sum += (double)tfb__vector_at(o.shortcut, c) *
                           (double)((float *)x->data)[tfb__offset(x, x->ndim, at)];
                off = fabs(sum - (double)((float *)y->data)[tfb__offset(y, y->ndim, at)]);
                if (o.shortcut) off -= 2 * U * (fabs(sum) + top);
                worst = fmax(worst, size > 0 && top > 0 ? off / (size * top) : off);
            }
        }
    return worst;
}

static tfb_status run_fft(tfb_ctx *ctx, problem *p) {
    tfb_long_conv_opts o = options(p);
    o.method = TFB_CONV_FFT;
    return tfb_long_conv(ctx, &p->t[X].t, &p->t[K].t, &o, &output(p)->t);
}

static void fft_check(tfb_ctx *ctx, const variant *v, tfb_idx step) {
    problem p;
    double off;
    problem_make(&p, v);
    CHECK_OK(ctx, run_fft(ctx, &p));
    off = worst_error(&p, step);
    CHECK(
        off <= 1e-6,
        "off by %g: [%ld; %ld, %ld, %ld; %ld], taps %ld, %ld, %ld, edges %d %d %d, axes "
        "%d flags %d layout %d",
        off, (long)v->batch, (long)v->n[0], (long)v->n[1], (long)v->n[2], (long)v->C,
        (long)v->k[0], (long)v->k[1], (long)v->k[2], (int)v->edge[0], (int)v->edge[1],
        (int)v->edge[2], v->axes, v->flags, v->layout);
    problem_free(&p);
}

static void fft_is_accurate(void) {
    static const variant some[] = {
        {1, 0, 0, 1, 1, {4099}, {4099}, {TFB_EDGE_CIRCULAR}, 0},
        {1, 0, 0, 1, 1, {8191}, {8191}, {TFB_EDGE_CAUSAL}, 0},
        {1, FIRST, 0, 1, 1, {16384}, {16384}, {TFB_EDGE_CAUSAL}, 0},
        {1, 0, 0, 1, 1, {5000}, {1}, {TFB_EDGE_ZERO}, 0},
        {2, 0, 0, 1, 1, {59, 61}, {59, 61}, {TFB_EDGE_CIRCULAR, TFB_EDGE_CIRCULAR}, 0},
        {3,
         0,
         0,
         1,
         1,
         {11, 13, 17},
         {11, 13, 17},
         {TFB_EDGE_CIRCULAR, TFB_EDGE_CIRCULAR, TFB_EDGE_ZERO},
         0},
    };
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < COUNT(variants); i++) {
        variant v = variants[i];
        v.flags &= ~IN_PLACE;
        v.odd = 0;
        fft_check(&ctx, &v, 7);
    }
    for (i = 0; i < COUNT(some); i++) fft_check(&ctx, &some[i], 131);
    for (i = 0; i < 150; i++) {
        variant v = any_variant();
        v.flags &= ~IN_PLACE;
        v.odd = 0;
        fft_check(&ctx, &v, i % 5 ? 11 : 1);
    }
    tfb_ctx_free(&ctx);
}

/* Bits depend on neither the other samples and channels, nor on workers, strides, the
 * place of y, or on whether the spectrum of the kernel was kept. */
static void fft_alone(tfb_ctx *ctx, problem *p, const float *all) {
    const variant *v = &p->v;
    const int rank = v->axes + 2;
    const tfb_idx b = t_int(0, v->batch - 1), c = t_int(0, v->C - 1);
    tfb_tensor x, k, y, s;
    tfb_long_conv_opts o = options(p);
    tfb_idx n, i;
    float *out;
    CHECK_OK(ctx, tfb_slice(ctx, &p->t[X].t, 0, b, 1, &x));
    CHECK_OK(ctx, tfb_slice(ctx, &x, rank - 1, c, 1, &x));
    CHECK_OK(ctx, tfb_slice(ctx, &p->t[K].t, -1, c, 1, &k));
    if (v->flags & EACH) CHECK_OK(ctx, tfb_slice(ctx, &k, 0, b, 1, &k));
    CHECK_OK(ctx, tfb_slice(ctx, &p->t[S].t, 0, c, 1, &s));
    n = tfb_numel(&x);
    out = t_floats(n);
    y = tfb__view(out, TFB_F32, rank, x.shape);
    if (o.shortcut) o.shortcut = &s;
    o.method = TFB_CONV_FFT;
    CHECK_OK(ctx, tfb_long_conv(ctx, &x, &k, &o, &y));
    for (i = 0; i < n; i++)
        CHECK_BITS(&out[i], &all[(b * n + i) * v->C + c], 1, "place %ld alone", (long)i);
    free(out);
}

static void fft_depends_on_nothing_else(void) {
    static int counts[] = {1, 2, 5};
    int i, j;
    for (i = 0; i < COUNT(variants); i++) {
        variant v = variants[i];
        tfb_tensor y, *to;
        tfb_long_conv_opts o;
        problem p;
        tfb_ctx ctx;
        tfb_idx n;
        float *dense, *again;
        size_t bytes;
        char *kept;
        v.odd = 0;
        t_ctx(&ctx, NULL);
        problem_make(&p, &v);
        n = tfb_numel(&p.t[X].t);
        dense = t_floats(n);
        again = t_floats(n);
        o = options(&p);
        o.method = TFB_CONV_FFT;
        y = tfb__view(dense, TFB_F32, p.t[X].t.ndim, p.t[X].t.shape);
        CHECK_OK(&ctx, tfb_long_conv(&ctx, &p.t[X].t, &p.t[K].t, &o, &y));
        fft_alone(&ctx, &p, dense);
        bytes = tfb__long_conv_keep_bytes(&ctx, &p.t[X].t, &p.t[K].t, &o);
        kept = (char *)malloc(bytes + 64);
        y.data = again;
        for (j = 0; j < COUNT(counts); j++) {
            char *at = kept + (64 - (uintptr_t)kept % 64) % 64;
            ctx.parallel_for = reverse_for;
            ctx.parallel_user = &counts[j];
            ctx.workers = counts[j];
            CHECK_OK(&ctx,
                     tfb__long_conv_keep(&ctx, "keep", &p.t[X].t, &p.t[K].t, &o, at));
            CHECK_OK(&ctx,
                     tfb__long_conv_run(&ctx, "run", &p.t[X].t, &p.t[K].t, &o, &y, at));
            CHECK_BITS(again, dense, n, "kept, variant %d", i);
            to = &output(&p)->t;
            CHECK_OK(&ctx, run_fft(&ctx, &p));
            CHECK_OK(&ctx, tfb_copy(&ctx, to, &y));
            CHECK_BITS(again, dense, n, "workers, variant %d", i);
            box_reset(output(&p));
            ctx.parallel_for = NULL, ctx.workers = 1;
        }
        free(kept), free(dense), free(again);
        problem_free(&p);
        tfb_ctx_free(&ctx);
    }
}

/* --- Transforms themselves. --- */
static void roots(void) {
    static const tfb_idx sizes[] = {1, 2, 3, 7, 8, 1000, 8191, 131072, 130321, 1 << 20};
    int i;
    tfb_idx j;
    for (i = 0; i < COUNT(sizes); i++)
        for (j = 0; j < sizes[i]; j += 1 + sizes[i] / 3000) {
            const double a = 6.283185307179586477 * (double)j / (double)sizes[i];
            float w[3];
            tfb__root(j, sizes[i], w);
            CHECK(fabs((double)w[0] - cos(a)) <= 3.1e-8 &&
                      fabs((double)w[1] + sin(a)) <= 3.1e-8,
                  "root %ld of %ld", (long)j, (long)sizes[i]);
            CHECK(w[2] == -w[1], "root %ld of %ld", (long)j, (long)sizes[i]);
        }
}

/* Where frequency k stands: digits reversed; in order if there are no passes. */
static tfb_idx place_of(const tfb__fft_plan *p, tfb_idx k) {
    tfb_idx n = p->n, at = 0;
    int i;
    if (!p->passes) return k;
    for (i = 0; i < p->passes; i++) {
        n /= p->radix[i];
        at += k % p->radix[i] * n;
        k /= p->radix[i];
    }
    return at;
}

/* Lane l of row j of a transform of n, in double. */
static void dft(const float *z, tfb_idx n, tfb_idx l, tfb_idx k, double *re, double *im) {
    tfb_idx j;
    *re = *im = 0;
    for (j = 0; j < n; j++) {
        const double a = -6.283185307179586477 * (double)(j * k % n) / (double)n;
        const double x = (double)z[j * 32 + l], y = (double)z[j * 32 + 16 + l];
        *re += x * cos(a) - y * sin(a);
        *im += x * sin(a) + y * cos(a);
    }
}

/* Any length as a row or, chirped where it must be, as columns; there and back. */
static void transform_case(tfb_ctx *ctx, tfb_idx n) {
    const tfb_idx good = tfb__fft_good(2 * n - 1), l = t_int(0, 15);
    float *z = t_floats(n * 32), *x = floats_copy(z, n * 32), *room = t_floats(good * 32);
    char *memory = (char *)malloc((size_t)(64 * n + 64 * good + 8192) * 4);
    size_t used = 0;
    tfb__fft_plan p;
    tfb__chirp c;
    tfb_idx k;
    double size = 0;
    memset((void *)&p, 0, sizeof p);
    memset((void *)&c, 0, sizeof c);
    p.n = n;
    p.passes = tfb__fft_radices(n, p.radix);
    if (p.passes < 0) {
        p.passes = 0;
        c.inner.n = good;
        c.inner.passes = tfb__fft_radices(good, c.inner.radix);
        tfb__fft_carve(&c.inner, memory, &used);
        c.w = (float *)tfb__long_place(memory, &used, 3 * n, sizeof(float));
        c.spectrum = (float *)tfb__long_place(memory, &used, 3 * good, sizeof(float));
        tfb__chirp_fill(ctx->isa, &c, n, room);
    }
    tfb__fft_carve(&p, memory, &used);
    tfb__fft_fill(&p);
    if (c.inner.n) tfb__chirp_columns(ctx->isa, &c, n, z, 1, 1, 0, room);
    else if (n % 2) tfb__fft_columns(ctx->isa, &p, z, 1, 1, 0);
    else tfb__fft_row(ctx->isa, &p, 0, z, n, 0);
    for (k = 0; k < n * 32; k++) size = fmax(size, fabs((double)x[k]));
    size *= sqrt((double)n);
    for (k = 0; k < n; k += 1 + n / 50) {
        const float *at = z + place_of(&p, k) * 32 + l;
        double re, im;
        dft(x, n, l, k, &re, &im);
        CHECK(fabs(re - (double)at[0]) <= 2e-6 * size &&
                  fabs(im - (double)at[16]) <= 2e-6 * size,
              "length %ld, frequency %ld: %g %g, wanted %g %g", (long)n, (long)k,
              (double)at[0], (double)at[16], re, im);
        CHECK(place_of(&p, (n - k) % n) == p.mate[place_of(&p, k)], "mates");
    }
    if (c.inner.n) tfb__chirp_columns(ctx->isa, &c, n, z, 1, 1, 1, room);
    else if (n % 2) tfb__fft_columns(ctx->isa, &p, z, 1, 1, 1);
    else tfb__fft_row(ctx->isa, &p, 0, z, n, 1);
    for (k = 0; k < n * 32; k++)
        CHECK(fabs((double)(z[k] / (float)n - x[k])) <= 4e-6, "length %ld, back: %g, %g",
              (long)n, (double)(z[k] / (float)n), (double)x[k]);
    free(z), free(x), free(room), free(memory);
}

static void transforms_of_any_length(void) {
    static const tfb_idx more[] = {105, 127, 210, 256, 343, 360, 625, 729, 1009, 1024};
    tfb_ctx ctx;
    tfb_idx n;
    int i;
    t_ctx(&ctx, NULL);
    for (n = 1; n <= 64; n++) transform_case(&ctx, n);
    for (i = 0; i < COUNT(more); i++) transform_case(&ctx, more[i]);
    tfb_ctx_free(&ctx);
}

/* The length chosen has small factors and is not much longer than need be. */
static void good_lengths(void) {
    tfb_idx need;
    for (need = 1; need < 300000; need += 1 + need / 7) {
        const tfb_idx n = tfb__fft_good(need);
        int radix[TFB__FFT_PASSES];
        CHECK(n >= need && n < 2 * need && tfb__fft_radices(n, radix) >= 0, "%ld: %ld",
              (long)need, (long)n);
    }
}

/* --- Corners. --- */
static void by_hand(void) {
    static const float x[] = {1, 2, 3, 4}, k[] = {100, 10, 1}, s[] = {1000};
    static const struct {
        tfb_edge edge;
        int first_tap, shortcut;
        float want[4];
    } cases[] = {
        {TFB_EDGE_ZERO, 0, 0, {210, 321, 432, 43}},
        {TFB_EDGE_ZERO, 1, 0, {100, 210, 321, 432}},
        {TFB_EDGE_CIRCULAR, 0, 0, {214, 321, 432, 143}},
        {TFB_EDGE_CIRCULAR, 1, 0, {143, 214, 321, 432}},
        {TFB_EDGE_CAUSAL, 0, 0, {10, 21, 32, 43}},
        {TFB_EDGE_CAUSAL, 1, 1, {1100, 2210, 3321, 4432}},
    };
    const tfb_tensor xt = tfb_view3(x, TFB_F32, 1, 4, 1);
    const tfb_tensor kt = tfb_view2(k, TFB_F32, 3, 1), st = tfb_view1(s, TFB_F32, 1);
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < COUNT(cases); i++) {
        float y[4];
        tfb_tensor yt = tfb_view3(y, TFB_F32, 1, 4, 1);
        tfb_long_conv_opts o = TFB_INIT;
        o.edge[0] = cases[i].edge;
        o.first_tap = cases[i].first_tap;
        if (cases[i].shortcut) o.shortcut = &st;
        o.method = TFB_CONV_DIRECT;
        CHECK_OK(&ctx, tfb_long_conv(&ctx, &xt, &kt, &o, &yt));
        CHECK_BITS(y, cases[i].want, 4, "case %d", i);
    }
    tfb_ctx_free(&ctx);
}

/* NaN in a place that a causal output does not see does not reach it, nor beyond taps. */
static void the_future_is_not_read(void) {
    enum { N = 40, C = 3, T = 7 };
    const float nan = tfb__float_of(0x7FC00001u);
    float *x = t_floats(N * C), *k = t_floats(T * C), *y = t_floats(N * C);
    const tfb_tensor xt = tfb_view3(x, TFB_F32, 1, N, C);
    const tfb_tensor kt = tfb_view2(k, TFB_F32, T, C);
    tfb_tensor yt = tfb_view3(y, TFB_F32, 1, N, C);
    tfb_long_conv_opts o = TFB_INIT;
    tfb_ctx ctx;
    tfb_idx i;
    t_ctx(&ctx, NULL);
    o.edge[0] = TFB_EDGE_CAUSAL;
    o.first_tap = 1;
    o.method = TFB_CONV_DIRECT;
    for (i = 0; i < C; i++) x[20 * C + i] = nan;
    CHECK_OK(&ctx, tfb_long_conv(&ctx, &xt, &kt, &o, &yt));
    for (i = 0; i < N * C; i++)
        CHECK((y[i] != y[i]) == (i / C >= 20 && i / C < 20 + T), "place %ld", (long)i);
    free(x), free(k), free(y);
    tfb_ctx_free(&ctx);
}

/* No samples, places or channels: nothing is written. */
static void empties(void) {
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 3; i++) {
        float y = 7;
        const tfb_tensor x = tfb_view3(&y, TFB_F32, i != 0, i == 1 ? 0 : 4, i != 2);
        const tfb_tensor k = tfb_view2(&y, TFB_F32, 3, i != 2);
        tfb_tensor yt = x;
        CHECK_OK(&ctx, tfb_long_conv(&ctx, &x, &k, NULL, &yt));
        CHECK(y == 7, "case %d", i);
    }
    tfb_ctx_free(&ctx);
}

/* Scratch is what measuring said, and depends on neither B nor C. */
static void scratch(void) {
    size_t first = 0;
    tfb_ctx ctx;
    int i;
    for (i = 0; i < 8; i++) {
        const tfb_idx B = i & 1 ? 5 : 1, C = i & 2 ? 70 : 3, N = 60, T = 31;
        tfb_tensor x = tfb_view3(NULL, TFB_F32, B, N, C), y = x;
        tfb_tensor k = tfb_view2(NULL, TFB_F32, T, C);
        tfb_long_conv_opts o = TFB_INIT;
        char *mem;
        o.method = i < 4 ? TFB_CONV_DIRECT : TFB_CONV_FFT;
        tfb_ctx_init_measure(&ctx);
        CHECK_OK(&ctx, tfb_long_conv(&ctx, &x, &k, &o, &y));
        if (i % 4 == 0) first = ctx.scratch_peak;
        CHECK(ctx.scratch_peak == first, "%ld bytes", (long)ctx.scratch_peak);
        CHECK(i >= 4 || first <= (size_t)(64 * (N + T) + 11 * 1024), "%ld", (long)first);
        mem = (char *)malloc(first);
        x.data = t_floats(B * N * C);
        y.data = t_floats(B * N * C);
        k.data = t_floats(T * C);
        tfb_ctx_init_static(&ctx, mem, first);
        CHECK_OK(&ctx, tfb_long_conv(&ctx, &x, &k, &o, &y));
        tfb_ctx_init_static(&ctx, mem, first - 1);
        CHECK_FAILS(&ctx, TFB_ERR_SCRATCH, "scratch is",
                    tfb_long_conv(&ctx, &x, &k, &o, &y));
        free(mem), free(x.data), free(y.data), free(k.data);
    }
}

/* Extents beyond all memory are refused, not wrapped. */
static void too_long(void) {
    const tfb_idx N = PTRDIFF_MAX / 16;
    tfb_tensor x = tfb_view3(NULL, TFB_F32, 1, N, 1), y = x;
    tfb_tensor k = tfb_view2(NULL, TFB_F32, 3, 1);
    tfb_long_conv_opts o = TFB_INIT;
    tfb_ctx ctx;
    tfb_ctx_init_measure(&ctx);
    o.method = TFB_CONV_FFT;
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "too many places",
                tfb_long_conv(&ctx, &x, &k, &o, &y));
    o.method = TFB_CONV_DIRECT;
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "overflows", tfb_long_conv(&ctx, &x, &k, &o, &y));
}

/* Which method AUTO takes: seen by its scratch, the same for any batch and channels. */
static void choice(void) {
    static const struct {
        tfb_idx n, k;
        int fft;
    } cases[] = {{64, 3, 0},  {64, 64, 0},     {1024, 3, 0},    {1024, 32, 0},
                 {1, 1, 0},   {1024, 1024, 1}, {4096, 4096, 1}, {65536, 4, 0},
                 {512, 1, 0}, {65536, 500, 1}, {131072, 9, 0},  {2048, 1024, 1}};
    int i, j;
    for (i = 0; i < COUNT(cases); i++) {
        size_t bytes[5];
        for (j = 0; j < 5; j++) { /* AUTO, DIRECT, FFT, AUTO with others beside it */
            const tfb_idx B = j > 2 ? 7 : 1, C = j > 3 ? 300 : 1;
            tfb_tensor x = tfb_view3(NULL, TFB_F32, B, cases[i].n, C), y = x;
            tfb_tensor k = tfb_view2(NULL, TFB_F32, cases[i].k, C);
            tfb_long_conv_opts o = TFB_INIT;
            tfb_ctx ctx;
            tfb_ctx_init_measure(&ctx);
            o.method = j > 2 ? TFB_CONV_AUTO : (tfb_conv_method)j;
            o.first_tap = 1;
            CHECK_OK(&ctx, tfb_long_conv(&ctx, &x, &k, &o, &y));
            bytes[j] = ctx.scratch_peak;
        }
        CHECK(bytes[0] == bytes[cases[i].fft ? 2 : 1] && bytes[0] == bytes[3] &&
                  bytes[0] == bytes[4],
              "%ld places, %ld taps", (long)cases[i].n, (long)cases[i].k);
    }
}

static void no_memory(void) {
    problem p;
    tfb_ctx ctx;
    t_heap heap;
    problem_new(&p, &variants[0]);
    t_ctx(&ctx, &heap);
    heap.fail_at = 1;
    CHECK_FAILS(&ctx, TFB_ERR_MEMORY, "not to be had", run(&ctx, &p));
    CHECK_BITS(p.t[Y].mem, p.t[Y].mem0, p.t[Y].n, "nothing is written");
    heap.fail_at = 0;
    problem_check(&ctx, &p, "afterwards");
    problem_free(&p);
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks left", heap.live);
}

/* --- Bad input. --- */
static tfb_long_conv_opts call_opts;

static tfb_status call_run(tfb_ctx *ctx, tfb_tensor **t) {
    tfb_long_conv_opts o = call_opts;
    o.shortcut = t[2];
    return tfb_long_conv(ctx, t[0], t[1], &o, t[3]);
}

static void bad_input(void) {
    static call c = {
        {"x", "k", "shortcut", "y"}, {0, 0, 1, 0}, 4, call_run, {{0}}, {0}, {0}};
    tfb_tensor *t = c.t;
    memset((void *)&call_opts, 0, sizeof call_opts);
    t[0] = tfb_view4(c.mem, TFB_F32, 2, 3, 4, 2);
    t[1] = tfb_view4(c.mem + 48, TFB_F32, 2, 3, 3, 2);
    t[2] = tfb_view1(c.mem + 84, TFB_F32, 2);
    t[3] = tfb_view4(c.mem + 86, TFB_F32, 2, 3, 4, 2);
    call_refuses_any(&c);
    {
        const wrong list[] = {
            {0, with_rank(t[0], 2), TFB_ERR_SHAPE, "x.ndim is 2, needs 3 to 5"},
            {0, with_rank(t[0], 6), TFB_ERR_SHAPE, "x.ndim is 6, needs 3 to 5"},
            {1, with_rank(t[1], 2), TFB_ERR_SHAPE, "k.ndim is 2, needs 3 to 4"},
            {1, with_rank(t[1], 5), TFB_ERR_SHAPE, "k.ndim is 5, needs 3 to 4"},
            {1, with_dtype(t[1], TFB_F16), TFB_ERR_DTYPE, "k is F16"},
            {1, with_extent(t[1], 0, 1), TFB_ERR_SHAPE, "k.shape[0] is 1, needs 2"},
            {1, with_extent(t[1], 3, 1), TFB_ERR_SHAPE, "k.shape[3] is 1, needs 2"},
            {1, with_extent(t[1], 1, 0), TFB_ERR_SHAPE, "k.shape[1] is 0"},
            {2, with_extent(t[2], 0, 1), TFB_ERR_SHAPE, "shortcut.shape[0] is 1, needs"},
            {3, with_extent(t[3], 2, 3), TFB_ERR_SHAPE, "y.shape[2] is 3, needs 4"},
            {3, with_stride(t[3], 0, 0), TFB_ERR_SHAPE, "elements would overlap"},
            {3, t[1], TFB_ERR_SHAPE, "y.shape"},
            {3, with_data(t[3], c.mem + 2), TFB_ERR_ALIAS, "y overlaps x"},
            {3, with_data(t[3], c.mem + 60), TFB_ERR_ALIAS, "y overlaps k"},
            {3, with_data(t[3], c.mem + 84), TFB_ERR_ALIAS, "y overlaps shortcut"},
        };
        call_refuses(&c, list, COUNT(list));
    }
    call_opts.edge[1] = TFB_EDGE_CIRCULAR;
    t[1] = tfb_view4(c.mem + 48, TFB_F32, 2, 1, 5, 2);
    call_refused(&c, -1, NULL, TFB_ERR_SHAPE,
                 "k.shape[2] is 5, the circular axis of x has 4");
    call_opts.edge[1] = TFB_EDGE_CAUSAL;
    call_refused(&c, -1, NULL, TFB_ERR_ARG, "edge[1] is causal, x has 2 axes, needs 1");
    call_opts.edge[1] = (tfb_edge)3;
    call_refused(&c, -1, NULL, TFB_ERR_ARG, "edge[1] is 3");
    call_opts.edge[1] = TFB_EDGE_ZERO;
    call_opts.method = (tfb_conv_method)7;
    call_refused(&c, -1, NULL, TFB_ERR_ARG, "method is 7");
    CHECK(tfb_long_conv(NULL, t, t + 1, NULL, t + 3) == TFB_ERR_ARG, "no context");
}

int main(void) {
    RUN(random_calls);
    RUN(workers_and_tables);
    RUN(fft_is_accurate);
    RUN(fft_depends_on_nothing_else);
    RUN(roots);
    RUN(transforms_of_any_length);
    RUN(good_lengths);
    RUN(by_hand);
    RUN(the_future_is_not_read);
    RUN(empties);
    RUN(scratch);
    RUN(too_long);
    RUN(choice);
    RUN(no_memory);
    RUN(bad_input);
    FINISH();
}
