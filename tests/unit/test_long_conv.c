/* test_long_conv.c - tfb_long_conv: direct sums by bits against the plain-loop reference
 * over shapes, edges, kernels, strides, workers and tables; corners; scratch; bad
 * input. */
#include "../test.h"
#include "layouts.h"

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

static void problem_new(problem *p, const variant *v) {
    tfb_long_conv_opts o;
    tfb_tensor y;
    int i;
    memset((void *)p, 0, sizeof *p);
    p->v = *v;
    for (i = 0; i < BOXES; i++) {
        tfb_idx n[TFB_MAX_DIMS];
        const int rank = extents(v, i, n);
        p->t[i] = box_new(rank, n, v->layout);
        if (v->odd && p->t[i].n) box_spoil(&p->t[i], v->odd);
    }
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
            if (tfb_isa_force(&ctx, name) != TFB_OK) continue; /* not on this machine */
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
    for (i = 0; i < 4; i++) {
        const tfb_idx B = i & 1 ? 5 : 1, C = i & 2 ? 70 : 3, N = 60, T = 31;
        tfb_tensor x = tfb_view3(NULL, TFB_F32, B, N, C), y = x;
        tfb_tensor k = tfb_view2(NULL, TFB_F32, T, C);
        tfb_long_conv_opts o = TFB_INIT;
        char *mem;
        o.method = TFB_CONV_DIRECT;
        tfb_ctx_init_measure(&ctx);
        CHECK_OK(&ctx, tfb_long_conv(&ctx, &x, &k, &o, &y));
        if (!first) first = ctx.scratch_peak;
        CHECK(ctx.scratch_peak == first && first <= (size_t)(64 * (N + T) + 11 * 1024),
              "%ld bytes", (long)ctx.scratch_peak);
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
    RUN(by_hand);
    RUN(the_future_is_not_read);
    RUN(empties);
    RUN(scratch);
    RUN(no_memory);
    RUN(bad_input);
    FINISH();
}
