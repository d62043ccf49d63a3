/* test_linear.c - matmul, linear and packed weights: by bits against the plain-loop
 * references over awkward shapes, layouts, options; scratch; bad input; pack format. */
#include "../test.h"
#include <math.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))
#define HUGE_EXTENT  (PTRDIFF_MAX / 2)

static const tfb_idx sizes[] = {0,  1,  2,  5,  6,  7,   15,  16,  17,  31,
                                48, 49, 63, 64, 65, 255, 256, 257, 513, 1025};
static const int worker_counts[] = {1, 2, 3, 5};

/* --- Tensors laid out in many ways. The gaps belong to the comparison: a result is
 * compared over the whole buffer, so a stray write shows. --- */
enum { ORDER = 1, WIDE = 2, BACK = 4, SPARSE = 8 };
static const int layouts[] = {0,    0,           ORDER,
                              WIDE, BACK | WIDE, ORDER | WIDE | BACK | SPARSE};

typedef struct box {
    tfb_tensor t;
    float *mem;
    tfb_idx n;
} box;

/* ORDER: any dimension may be the contiguous one; WIDE: a slice of a wider buffer; BACK:
 * some negative strides; SPARSE: no stride is 1. */
static box box_new(int ndim, const tfb_idx *shape, int layout) {
    int i, order[TFB_MAX_DIMS];
    tfb_idx step = layout & SPARSE ? t_int(2, 3) : 1, at = 0;
    box b;
    memset(&b, 0, sizeof b);
    b.t.ndim = ndim;
    for (i = 0; i < ndim; i++) order[i] = ndim - 1 - i;
    for (i = ndim - 1; i > 0 && (layout & ORDER); i--) {
        const int j = (int)t_int(0, i), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    for (i = 0; i < ndim; i++) {
        const int d = order[i];
        b.t.shape[d] = shape[d];
        b.t.stride[d] = step;
        if ((layout & BACK) && (t_rand() & 1) && shape[d]) {
            b.t.stride[d] = -step;
            at += step * (shape[d] - 1);
        }
        step *= (shape[d] ? shape[d] : 1) + (layout & WIDE ? t_int(0, 3) : 0);
    }
    b.mem = t_floats(step);
    b.n = step;
    b.t.data = b.mem + at;
    return b;
}

static float *floats_copy(const float *from, tfb_idx n) {
    float *p = (float *)malloc((size_t)n * sizeof *p + (n == 0));
    if (!p) exit(99);
    memcpy(p, from, (size_t)n * sizeof *p);
    return p;
}

/* The same view of another copy of the buffer. */
static tfb_tensor box_view(const box *b, float *mem) {
    tfb_tensor t = b->t;
    t.data = mem + ((float *)b->t.data - b->mem);
    return t;
}

/* Puts values that arithmetic treats specially into a few places. */
static void box_spoil(box *b, int count) {
    const float odd[] = {
        -0.0f,   0.0f,     TFB__FLT_INF, -TFB__FLT_INF, tfb__float_of(0x7FC00001u),
        FLT_MAX, -FLT_MAX, 1e-40f,       -1.5e-38f,     1e-30f};
    while (count--) b->mem[t_int(0, b->n - 1)] = odd[t_int(0, COUNT(odd) - 1)];
}

/* --- One call with everything that belongs to it. --- */
typedef struct variant {
    const char *name;
    tfb_idx batch, M, N, K; /* y is [batch, M, N], N / 2 when gated; batch -1: none */
    int layout, matmul, packed, bias, residual; /* residual 2: y itself */
    tfb_gate gate;
    tfb_fn act;
    int alpha_set;
    float alpha;
    int odd; /* how many special values each input gets */
} variant;

typedef struct problem {
    variant v;
    box x, w, y, bias, residual;
    float *y0; /* y's buffer before the call */
    void *pack;
    tfb_tensor weight; /* w or its pack */
    tfb_linear_opts o;
} problem;

static void problem_pack(problem *p) {
    const size_t bytes = tfb_pack_bytes(p->v.N, p->v.K);
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    p->pack = malloc(bytes);
    if (!p->pack) exit(99);
    CHECK_OK(&ctx, tfb_pack(&ctx, &p->w.t, p->pack, bytes, &p->weight));
    tfb_ctx_free(&ctx);
}

static void problem_new(problem *p, const variant *v) {
    const int lead = v->batch < 0 ? 1 : 0, l = v->layout, odd = v->odd;
    tfb_idx shape[3];
    memset(p, 0, sizeof *p);
    p->v = *v;
    shape[0] = v->batch;
    shape[1] = v->M;
    shape[2] = v->K;
    p->x = box_new(3 - lead, shape + lead, l);
    shape[2] = v->gate ? v->N / 2 : v->N;
    p->y = box_new(3 - lead, shape + lead, l);
    p->residual = box_new(3 - lead, shape + lead, l);
    shape[1] = v->matmul ? v->K : v->N;
    shape[2] = v->matmul ? v->N : v->K;
    if (v->matmul) p->w = box_new(3 - lead, shape + lead, l);
    else p->w = box_new(2, shape + 1, l);
    p->bias = box_new(1, &v->N, l);
    if (odd) box_spoil(&p->x, odd), box_spoil(&p->w, odd), box_spoil(&p->bias, odd);
    p->y0 = floats_copy(p->y.mem, p->y.n);
    p->weight = p->w.t;
    if (v->packed) problem_pack(p);
    p->o.act = v->act;
    p->o.gate = v->gate;
    p->o.alpha = v->alpha;
    p->o.alpha_set = v->alpha_set;
    if (v->bias) p->o.bias = &p->bias.t;
    if (v->residual) p->o.residual = v->residual == 2 ? &p->y.t : &p->residual.t;
}

static void problem_free(problem *p) {
    free(p->x.mem);
    free(p->w.mem);
    free(p->y.mem);
    free(p->bias.mem);
    free(p->residual.mem);
    free(p->y0);
    free(p->pack);
}

static void problem_reset(problem *p) {
    memcpy(p->y.mem, p->y0, (size_t)p->y.n * sizeof(float));
}

static tfb_status problem_run(tfb_ctx *ctx, problem *p) {
    if (p->v.matmul) return tfb_matmul(ctx, &p->x.t, &p->weight, &p->y.t);
    return tfb_linear(ctx, &p->x.t, &p->weight, &p->o, &p->y.t);
}

/* y's whole buffer as the reference leaves it; the caller frees it. */
static float *problem_want(const problem *p) {
    float *want = floats_copy(p->y0, p->y.n);
    tfb_tensor y = box_view(&p->y, want);
    tfb_linear_opts o = p->o;
    if (p->v.residual == 2) o.residual = &y;
    if (p->v.matmul) tfb__matmul_ref(&p->x.t, &p->w.t, &y);
    else tfb__linear_ref(&p->x.t, &p->w.t, &o, &y);
    return want;
}

static void problem_check(tfb_ctx *ctx, problem *p, const float *want) {
    const variant *v = &p->v;
    problem_reset(p);
    CHECK_OK(ctx, problem_run(ctx, p));
    CHECK_BITS(p->y.mem, want, p->y.n,
               "%s: batch %ld, %ld x %ld x %ld, layout %d, act %d", v->name,
               (long)v->batch, (long)v->M, (long)v->N, (long)v->K, v->layout,
               (int)v->act);
}

static void variant_check(tfb_ctx *ctx, const variant *v) {
    problem p;
    float *want;
    problem_new(&p, v);
    want = problem_want(&p);
    problem_check(ctx, &p, want);
    free(want);
    problem_free(&p);
}

/* Calls that between them take every path; sizes cross strips, tasks and panels. */
static const variant variants[] = {
    {"matmul", -1, 65, 130, 257, 0, 1, 0, 0, 0, TFB_GATE_NONE, TFB_FN_IDENTITY, 0, 0, 0},
    {"matmul transposed", 2, 49, 31, 63, ORDER | SPARSE, 1, 0, 0, 0, TFB_GATE_NONE,
     TFB_FN_IDENTITY, 0, 0, 0},
    {"matmul one row", -1, 1, 257, 513, 0, 1, 0, 0, 0, TFB_GATE_NONE, TFB_FN_IDENTITY, 0,
     0, 0},
    {"plain", -1, 7, 129, 300, 0, 0, 0, 0, 0, TFB_GATE_NONE, TFB_FN_IDENTITY, 0, 0, 0},
    {"packed", -1, 7, 129, 300, 0, 0, 1, 0, 0, TFB_GATE_NONE, TFB_FN_IDENTITY, 0, 0, 0},
    {"plain, all options", 3, 17, 65, 65, WIDE, 0, 0, 1, 1, TFB_GATE_NONE,
     TFB_FN_GELU_ERF, 1, 0.37f, 0},
    {"packed, in place", 3, 17, 65, 65, WIDE, 0, 1, 1, 2, TFB_GATE_NONE, TFB_FN_GELU_TANH,
     1, -1.5f, 0},
    {"plain halves", -1, 9, 190, 65, 0, 0, 0, 1, 0, TFB_GATE_HALVES, TFB_FN_SILU, 0, 0,
     0},
    {"packed halves", -1, 9, 190, 65, 0, 0, 1, 0, 1, TFB_GATE_HALVES, TFB_FN_SILU, 0, 0,
     0},
    {"plain interleaved", -1, 50, 142, 33, BACK | WIDE, 0, 0, 1, 2, TFB_GATE_INTERLEAVED,
     TFB_FN_TANH, 0, 0, 0},
    {"packed interleaved", -1, 50, 142, 33, ORDER | SPARSE, 0, 1, 1, 0,
     TFB_GATE_INTERLEAVED, TFB_FN_SIGMOID, 0, 0, 0},
    {"many rows", 5, 97, 70, 9, 0, 0, 0, 1, 0, TFB_GATE_NONE, TFB_FN_RELU, 0, 0, 0},
    {"many rows, packed", -1, 801, 18, 9, ORDER | WIDE, 0, 1, 1, 0, TFB_GATE_NONE,
     TFB_FN_RELU2, 0, 0, 0},
};

/* --- Workers. --- */
/* A legal but hostile parallel_for: last piece first, workers in turn. */
static void reverse_for(void *user, tfb_idx n, tfb_body_fn body, void *arg) {
    const int workers = *(const int *)user;
    while (n-- > 0) body(arg, n, (int)(n % workers));
}

static void reverse_workers(tfb_ctx *ctx, const int *workers) {
    static int count[8];
    count[*workers] = *workers;
    ctx->parallel_for = reverse_for;
    ctx->parallel_user = &count[*workers];
    ctx->workers = *workers;
}

/* --- By bits against the references. --- */
static tfb_idx size_up_to(tfb_idx most) {
    tfb_idx n;
    do n = sizes[t_int(0, COUNT(sizes) - 1)];
    while (n > most);
    return n;
}

static variant random_variant(void) {
    static const tfb_idx limits[] = {7, 65, 257, 1025};
    variant v;
    memset(&v, 0, sizeof v);
    v.name = "random";
    v.batch = t_rand() % 3 ? -1 : t_int(0, 3);
    do {
        v.M = size_up_to(limits[t_int(0, 3)]);
        v.N = size_up_to(limits[t_int(0, 3)]);
        v.K = size_up_to(limits[t_int(0, 3)]);
    } while (v.M * v.N * v.K > 400000);
    v.layout = layouts[t_int(0, COUNT(layouts) - 1)];
    v.odd = t_rand() % 4 ? 0 : 3;
    return v;
}

static void matmul_random(void) {
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 600; i++) {
        variant v = random_variant();
        v.matmul = 1;
        variant_check(&ctx, &v);
    }
    tfb_ctx_free(&ctx);
}

/* Every size as M, as N and as K, the others small; plain, packed and matmul. */
static void every_size(void) {
    tfb_ctx ctx;
    int i, role, kind;
    t_ctx(&ctx, NULL);
    for (i = 0; i < COUNT(sizes); i++)
        for (role = 0; role < 3; role++)
            for (kind = 0; kind < 3; kind++) {
                variant v = random_variant();
                v.name = kind == 2 ? "matmul" : kind ? "packed" : "plain";
                v.batch = -1;
                v.M = role == 0 ? sizes[i] : t_int(1, 7);
                v.N = role == 1 ? sizes[i] : t_int(1, 19);
                v.K = role == 2 ? sizes[i] : t_int(1, 9);
                v.matmul = kind == 2;
                v.packed = kind == 1;
                variant_check(&ctx, &v);
            }
    tfb_ctx_free(&ctx);
}

static void linear_random(void) {
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 800; i++) {
        variant v = random_variant();
        v.packed = (int)t_int(0, 1);
        v.bias = (int)t_int(0, 1);
        v.residual = (int)t_int(0, 2);
        v.gate = (tfb_gate)t_int(0, 2);
        v.N += v.gate ? v.N % 2 : 0;
        v.act = (tfb_fn)t_int(0, TFB_FN_TANH);
        v.alpha_set = (int)t_int(0, 1);
        v.alpha = t_float();
        variant_check(&ctx, &v);
    }
    tfb_ctx_free(&ctx);
}

static void linear_every_option(void) {
    static const float alphas[] = {9.0f, 0.0f, 0.37f}; /* the first is not set */
    tfb_ctx ctx;
    int i, n = (TFB_FN_TANH + 1) * 3 * 2 * 3 * 3;
    t_ctx(&ctx, NULL);
    for (i = 0; i < n; i++) {
        int rest = i;
        variant v = random_variant();
        v.name = "options";
        v.batch = -1;
        v.M = t_int(1, 7);
        v.N = 2 * t_int(1, 20);
        v.K = t_rand() % 8 ? t_int(0, 40) : 257;
        v.odd = 0;
        v.act = (tfb_fn)(rest % (TFB_FN_TANH + 1));
        v.gate = (tfb_gate)((rest /= TFB_FN_TANH + 1) % 3);
        v.bias = (rest /= 3) % 2;
        v.residual = (rest /= 2) % 3;
        v.alpha_set = (rest /= 3) % 3 > 0;
        v.alpha = alphas[rest % 3];
        variant_check(&ctx, &v);
        v.packed = 1;
        variant_check(&ctx, &v);
    }
    tfb_ctx_free(&ctx);
}

static void variants_equal_reference(void) {
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < COUNT(variants); i++) variant_check(&ctx, &variants[i]);
    tfb_ctx_free(&ctx);
}

/* op(A) op(B) for all four combinations, the transposes being views. */
static void matmul_transposes(void) {
    static const int flip[2] = {1, 0};
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 40; i++) {
        const tfb_idx M = t_int(1, 70), N = t_int(1, 70), K = t_int(1, 70);
        const int ta = i & 1, tb = i >> 1 & 1;
        float *a = t_floats(M * K), *b = t_floats(K * N), *y = t_floats(M * N);
        float *want = t_floats(M * N);
        tfb_tensor A = tfb_view2(a, TFB_F32, ta ? K : M, ta ? M : K);
        tfb_tensor B = tfb_view2(b, TFB_F32, tb ? N : K, tb ? K : N);
        tfb_tensor Y = tfb_view2(y, TFB_F32, M, N);
        tfb_idx m, n;
        if (ta) CHECK_OK(&ctx, tfb_permute(&ctx, &A, flip, &A));
        if (tb) CHECK_OK(&ctx, tfb_permute(&ctx, &B, flip, &B));
        CHECK_OK(&ctx, tfb_matmul(&ctx, &A, &B, &Y));
        for (m = 0; m < M; m++) /* at most 70 terms: one chain */
            for (n = 0; n < N; n++) {
                float s = 0;
                tfb_idx k;
                for (k = 0; k < K; k++)
                    s = TFB__FMA(a[ta ? k * M + m : m * K + k],
                                 b[tb ? n * K + k : k * N + n], s);
                want[m * N + n] = s + 0.0f;
            }
        CHECK_BITS(y, want, M * N, "transposes %d %d", ta, tb);
        free(a), free(b), free(y), free(want);
    }
    tfb_ctx_free(&ctx);
}

/* Batch dimensions of a and b against those of y; -1 ends a row. */
typedef struct batch_case {
    tfb_idx a[5], b[5], y[5];
} batch_case;

static const batch_case batch_cases[] = {
    {{3, -1}, {3, -1}, {3, -1}},
    {{3, -1}, {-1}, {3, -1}},
    {{-1}, {3, -1}, {3, -1}},
    {{3, -1}, {1, -1}, {3, -1}},
    {{1, -1}, {3, -1}, {3, -1}},
    {{1, -1}, {1, -1}, {3, -1}},
    {{-1}, {-1}, {3, -1}},
    {{2, 3, -1}, {2, 3, -1}, {2, 3, -1}},
    {{2, 3, -1}, {3, -1}, {2, 3, -1}},
    {{2, 1, -1}, {1, 3, -1}, {2, 3, -1}},
    {{2, 3, -1}, {2, 1, -1}, {2, 3, -1}},
    {{3, -1}, {2, 1, -1}, {2, 3, -1}},
    {{2, 3, 1, 2, -1}, {3, 2, 1, -1}, {2, 3, 2, 2, -1}},
    {{0, -1}, {-1}, {0, -1}},
    {{2, 0, -1}, {1, 0, -1}, {2, 0, -1}},
};

static box batch_box(const tfb_idx *batch, tfb_idx rows, tfb_idx cols, int layout) {
    tfb_idx shape[TFB_MAX_DIMS];
    int n = 0;
    while (batch[n] >= 0) shape[n] = batch[n], n++;
    shape[n] = rows;
    shape[n + 1] = cols;
    return box_new(n + 2, shape, layout);
}

/* b as a view with y's batch dimensions, made independently of tfb__broadcast. */
static tfb_tensor batch_wide(const box *b, const tfb_tensor *y) {
    const int lead = y->ndim - b->t.ndim;
    tfb_tensor t = b->t;
    int i;
    t.ndim = y->ndim;
    for (i = 0; i < y->ndim; i++) {
        const int from = i - lead;
        t.shape[i] = i < y->ndim - 2 ? y->shape[i] : b->t.shape[from];
        t.stride[i] = from < 0 || (i < y->ndim - 2 && b->t.shape[from] == 1)
                          ? 0
                          : b->t.stride[from];
    }
    return t;
}

static void matmul_batches(void) {
    tfb_ctx ctx;
    int i, l;
    t_ctx(&ctx, NULL);
    for (i = 0; i < COUNT(batch_cases); i++)
        for (l = 0; l < COUNT(layouts); l++) {
            const batch_case *c = &batch_cases[i];
            const tfb_idx M = t_int(1, 20), N = t_int(1, 20), K = t_int(0, 20);
            box a = batch_box(c->a, M, K, layouts[l]);
            box b = batch_box(c->b, K, N, layouts[l]);
            box y = batch_box(c->y, M, N, layouts[l]);
            float *want = floats_copy(y.mem, y.n), *y0 = floats_copy(y.mem, y.n);
            tfb_tensor wide_a = batch_wide(&a, &y.t), wide_b = batch_wide(&b, &y.t);
            tfb_tensor wy = box_view(&y, want);
            if (tfb_numel(&wy)) tfb__matmul_ref(&wide_a, &wide_b, &wy);
            CHECK_OK(&ctx, tfb_matmul(&ctx, &a.t, &b.t, &y.t));
            CHECK_BITS(y.mem, want, y.n, "batch case %d, layout %d", i, layouts[l]);
            memcpy(y.mem, y0, (size_t)y.n * 4);
            CHECK_OK(&ctx, tfb_matmul(&ctx, &wide_a, &wide_b, &y.t)); /* stride 0 */
            CHECK_BITS(y.mem, want, y.n, "batch case %d, expanded", i);
            free(a.mem), free(b.mem), free(y.mem), free(want), free(y0);
        }
    tfb_ctx_free(&ctx);
}

/* x of every rank times one W; some layouts merge into one matrix, some cannot. */
static void linear_ranks(void) {
    tfb_ctx ctx;
    int rank, l;
    t_ctx(&ctx, NULL);
    for (rank = 1; rank <= TFB_MAX_DIMS; rank++)
        for (l = 0; l < COUNT(layouts); l++) {
            tfb_idx shape[TFB_MAX_DIMS] = {2, 3, 1, 2, 3, 2}, wshape[2];
            float *want;
            tfb_tensor wy;
            tfb_linear_opts o = {0};
            box x, y, w, r;
            wshape[0] = 21;
            wshape[1] = shape[rank - 1] = 37;
            x = box_new(rank, shape, layouts[l]);
            w = box_new(2, wshape, layouts[l]);
            shape[rank - 1] = 21;
            y = box_new(rank, shape, layouts[(l + 1) % COUNT(layouts)]);
            r = box_new(rank, shape, layouts[(l + 2) % COUNT(layouts)]);
            o.residual = &r.t;
            want = floats_copy(y.mem, y.n);
            wy = box_view(&y, want);
            tfb__linear_ref(&x.t, &w.t, &o, &wy);
            CHECK_OK(&ctx, tfb_linear(&ctx, &x.t, &w.t, &o, &y.t));
            CHECK_BITS(y.mem, want, y.n, "rank %d, layout %d", rank, layouts[l]);
            free(x.mem), free(y.mem), free(w.mem), free(r.mem), free(want);
        }
    tfb_ctx_free(&ctx);
}

/* Every input may repeat by stride 0; then so do the results. */
static void linear_repeats(void) {
    float one[4] = {0.5f, -2.0f, 3.0f, 0.25f}, y[6], want[6];
    tfb_tensor x = tfb_view2(one, TFB_F32, 3, 37), w = tfb_view2(one + 1, TFB_F32, 2, 37);
    tfb_tensor bias = tfb_view1(one + 2, TFB_F32, 2),
               r = tfb_view2(one + 3, TFB_F32, 3, 2);
    tfb_tensor Y = tfb_view2(y, TFB_F32, 3, 2);
    tfb_linear_opts o = {0};
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 2; i++) x.stride[i] = w.stride[i] = bias.stride[0] = r.stride[i] = 0;
    for (i = 0; i < 6; i++) want[i] = -37.0f + 3.0f + 0.25f;
    o.bias = &bias;
    o.residual = &r;
    CHECK_OK(&ctx, tfb_linear(&ctx, &x, &w, &o, &Y));
    CHECK_BITS(y, want, 6, "repeated inputs");
    tfb_ctx_free(&ctx);
}

/* Zeros of either sign sum to +0; K = 0 is an empty sum; zero rows are legal. */
static void zeros_and_empties(void) {
    static const tfb_idx shapes[][3] = {{2, 3, 0}, {0, 3, 4}, {2, 0, 4}, {0, 0, 0}};
    float x[8], w[12], y[6], bias[3] = {-0.0f, 2.0f, -1.0f}, want[6];
    tfb_tensor Y, X, W, B = tfb_view1(bias, TFB_F32, 3);
    tfb_linear_opts o = {0};
    tfb_ctx ctx;
    int i, j;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 4; i++) {
        const tfb_idx M = shapes[i][0], N = shapes[i][1], K = shapes[i][2];
        X = tfb_view2(K && M ? x : NULL, TFB_F32, M, K);
        W = tfb_view2(K && N ? w : NULL, TFB_F32, K, N);
        Y = tfb_view2(M && N ? y : NULL, TFB_F32, M, N);
        for (j = 0; j < 6; j++) y[j] = 5.0f, want[j] = M && N ? 0.0f : 5.0f;
        CHECK_OK(&ctx, tfb_matmul(&ctx, &X, &W, &Y));
        CHECK_BITS(y, want, 6, "empty matmul %d", i);
        W = tfb_view2(K && N ? w : NULL, TFB_F32, N, K);
        o.bias = N ? &B : NULL;
        for (j = 0; j < 6 && M && N; j++) want[j] = bias[j % 3] + 0.0f;
        CHECK_OK(&ctx, tfb_linear(&ctx, &X, &W, &o, &Y));
        CHECK_BITS(y, want, 6, "empty linear %d", i);
    }
    for (j = 0; j < 8; j++) x[j] = -0.0f;
    for (j = 0; j < 12; j++) w[j] = 1.0f;
    for (j = 0; j < 6; j++) want[j] = 0.0f;
    X = tfb_view2(x, TFB_F32, 2, 4);
    W = tfb_view2(w, TFB_F32, 3, 4);
    Y = tfb_view2(y, TFB_F32, 2, 3);
    CHECK_OK(&ctx, tfb_linear(&ctx, &X, &W, NULL, &Y));
    CHECK_BITS(y, want, 6, "sums of -0");
    tfb_ctx_free(&ctx);
}

/* An extent of 0 makes a tensor empty whatever the others are: nothing overflows. */
static void huge_empties(void) {
    float mem[6] = {0};
    tfb_tensor a = tfb_view2(mem, TFB_F32, 2, 3), b = tfb_view2(NULL, TFB_F32, 3, 0), y;
    tfb_tensor w = tfb_view2(NULL, TFB_F32, 0, 0);
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    y = tfb_view4(NULL, TFB_F32, 1, 1, 2, 0);
    y.shape[0] = y.shape[1] = HUGE_EXTENT;
    CHECK_OK(&ctx, tfb_matmul(&ctx, &a, &b, &y));
    CHECK_OK(&ctx, tfb_linear(&ctx, &y, &w, NULL, &y));
    tfb_ctx_free(&ctx);
}

static void absent_bias_is_zero_bias(void) {
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < COUNT(variants); i++) {
        variant v = variants[i];
        problem p;
        float *first;
        if (v.matmul) continue;
        v.bias = 0;
        problem_new(&p, &v);
        memset(p.bias.mem, 0, (size_t)p.bias.n * 4);
        CHECK_OK(&ctx, problem_run(&ctx, &p));
        first = floats_copy(p.y.mem, p.y.n);
        p.o.bias = &p.bias.t;
        problem_check(&ctx, &p, first);
        p.o.alpha = v.alpha_set ? v.alpha : 1.0f; /* and 1 set is 1 not set */
        p.o.alpha_set = 1;
        problem_check(&ctx, &p, first);
        free(first);
        problem_free(&p);
    }
    tfb_ctx_free(&ctx);
}

/* --- What must not change a bit. --- */
static void workers_do_not_matter(void) {
    int i, j;
    for (i = 0; i < COUNT(variants); i++) {
        problem p;
        float *want;
        problem_new(&p, &variants[i]);
        want = problem_want(&p);
        for (j = 0; j < 2 * COUNT(worker_counts); j++) {
            const int *workers = &worker_counts[j / 2];
            tfb_ctx ctx;
            t_ctx(&ctx, NULL);
            if (j % 2 || tfb_ctx_threads(&ctx, *workers, 100) != TFB_OK)
                reverse_workers(&ctx, workers);
            problem_check(&ctx, &p, want);
            tfb_ctx_free(&ctx);
        }
        free(want);
        problem_free(&p);
    }
}

static void tables_do_not_matter(void) {
    const char *why;
    tfb_ctx scalar, other;
    int i, t, tried = 0;
    t_ctx(&scalar, NULL);
    t_ctx(&other, NULL);
    CHECK_OK(&scalar, tfb_isa_force(&scalar, "scalar"));
    for (t = 0; tfb_isa_list(&other, t, &why); t++) {
        const char *name = tfb_isa_list(&other, t, NULL);
        if (strcmp(name, "scalar") == 0 || tfb_isa_force(&other, name)) continue;
        tried++;
        for (i = 0; i < COUNT(variants); i++) {
            variant v = variants[i];
            problem p;
            float *want;
            v.odd = i % 2 ? 2 : 0;
            problem_new(&p, &v);
            CHECK_OK(&scalar, problem_run(&scalar, &p));
            want = floats_copy(p.y.mem, p.y.n);
            problem_check(&other, &p, want);
            free(want);
            problem_free(&p);
        }
    }
    tfb_ctx_free(&scalar);
    tfb_ctx_free(&other);
    if (!tried) SKIP("this machine has the scalar table only");
}

/* One row alone, in a batch of five, and at any place among many gives the same bits. */
static void rows_do_not_matter(void) {
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < COUNT(variants); i++) {
        variant v = variants[i];
        problem p;
        float *want, *one;
        tfb_tensor x, y, r;
        tfb_idx row, c, cols;
        v.batch = -1;
        v.M = 53;
        v.residual = v.residual ? 1 : 0;
        problem_new(&p, &v);
        CHECK_OK(&ctx, problem_run(&ctx, &p));
        want = floats_copy(p.y.mem, p.y.n);
        cols = p.y.t.shape[1];
        one = t_floats(cols);
        for (row = 0; row < v.M; row += row < 10 ? 1 : 7) {
            CHECK_OK(&ctx, tfb_slice(&ctx, &p.x.t, 0, row, 1, &x));
            CHECK_OK(&ctx, tfb_slice(&ctx, &p.residual.t, 0, row, 1, &r));
            y = tfb_view2(one, TFB_F32, 1, cols);
            if (v.residual) p.o.residual = &r;
            if (v.matmul) CHECK_OK(&ctx, tfb_matmul(&ctx, &x, &p.weight, &y));
            else CHECK_OK(&ctx, tfb_linear(&ctx, &x, &p.weight, &p.o, &y));
            y = box_view(&p.y, want);
            for (c = 0; c < cols; c++)
                CHECK_BITS(one + c, (float *)y.data + row * y.stride[0] + c * y.stride[1],
                           1, "%s: row %ld column %ld", v.name, (long)row, (long)c);
        }
        free(want), free(one);
        problem_free(&p);
    }
    tfb_ctx_free(&ctx);
}

static void batch_does_not_matter(void) {
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < COUNT(variants); i++) {
        variant v = variants[i];
        problem p;
        tfb_tensor x, w, y, r;
        tfb_idx b;
        float *first;
        v.batch = 5;
        v.M = v.M > 60 ? 60 : v.M;
        v.residual = v.residual ? 1 : 0;
        problem_new(&p, &v);
        CHECK_OK(&ctx, problem_run(&ctx, &p));
        first = floats_copy(p.y.mem, p.y.n);
        problem_reset(&p);
        w = p.weight;
        for (b = 0; b < 5; b++) {
            CHECK_OK(&ctx, tfb_slice(&ctx, &p.x.t, 0, b, 1, &x));
            CHECK_OK(&ctx, tfb_slice(&ctx, &p.y.t, 0, b, 1, &y));
            CHECK_OK(&ctx, tfb_slice(&ctx, &p.residual.t, 0, b, 1, &r));
            if (v.matmul) CHECK_OK(&ctx, tfb_slice(&ctx, &p.weight, 0, b, 1, &w));
            if (v.residual) p.o.residual = &r;
            if (v.matmul) CHECK_OK(&ctx, tfb_matmul(&ctx, &x, &w, &y));
            else CHECK_OK(&ctx, tfb_linear(&ctx, &x, &w, &p.o, &y));
        }
        CHECK_BITS(p.y.mem, first, p.y.n, "%s: batch 5 against 1", v.name);
        free(first);
        problem_free(&p);
    }
    tfb_ctx_free(&ctx);
}

/* y may stand beside x in one buffer, as column slices do. */
static void slices_of_one_buffer(void) {
    float *mem = t_floats(9 * 40), *copy = floats_copy(mem, 9 * 40), w[5 * 12];
    tfb_tensor all = tfb_view2(mem, TFB_F32, 9, 40), x, y, Y, X;
    tfb_tensor W = tfb_view2(w, TFB_F32, 5, 12);
    const tfb_linear_opts none = {0};
    tfb_ctx ctx;
    int i;
    for (i = 0; i < 60; i++) w[i] = t_float();
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_slice(&ctx, &all, 1, 20, 12, &x));
    CHECK_OK(&ctx, tfb_slice(&ctx, &all, 1, 15, 5, &y));
    CHECK_OK(&ctx, tfb_linear(&ctx, &x, &W, NULL, &y));
    X = x, Y = y;
    X.data = copy + 20;
    Y.data = copy + 15;
    tfb__linear_ref(&X, &W, &none, &Y);
    CHECK_BITS(mem, copy, 9 * 40, "column slices");
    CHECK_OK(&ctx, tfb_slice(&ctx, &all, 1, 16, 5, &y));
    CHECK_FAILS(&ctx, TFB_ERR_ALIAS, "y overlaps x", tfb_linear(&ctx, &x, &W, NULL, &y));
    x = tfb_view2(mem + 35, TFB_F32, 8, 12); /* runs over into the next row's columns */
    x.stride[0] = 40;
    Y = tfb_view2(mem, TFB_F32, 8, 5);
    Y.stride[0] = 40;
    CHECK_FAILS(&ctx, TFB_ERR_ALIAS, "y overlaps x", tfb_linear(&ctx, &x, &W, NULL, &Y));
    CHECK_BITS(mem, copy, 9 * 40, "refused column slices");
    x.data = mem + 28;
    CHECK_OK(&ctx, tfb_linear(&ctx, &x, &W, NULL, &Y)); /* just fits before it */
    free(mem), free(copy);
    tfb_ctx_free(&ctx);
}

/* --- Scratch. --- */
static size_t measure(const tfb_ctx *like, const problem *p, const int *workers) {
    problem blank = *p;
    tfb_tensor bias = p->bias.t, residual = p->residual.t;
    tfb_ctx ctx;
    bias.data = residual.data = NULL;
    blank.x.t.data = blank.weight.data = blank.y.t.data = NULL;
    if (p->o.bias) blank.o.bias = &bias;
    if (p->o.residual) blank.o.residual = p->v.residual == 2 ? &blank.y.t : &residual;
    CHECK_OK(&ctx, tfb_ctx_init_measure(&ctx));
    CHECK_OK(&ctx, tfb_isa_force(&ctx, tfb_isa_name(like)));
    ctx.workers = *workers;
    CHECK_OK(&ctx, problem_run(&ctx, &blank));
    CHECK(ctx.scratch_peak == ctx.scratch_last, "peak %ld", (long)ctx.scratch_peak);
    return ctx.scratch_last;
}

/* What is measured is what is used: exactly so much succeeds, one byte less fails. */
static void scratch_is_exact(void) {
    tfb_ctx like, ctx;
    int i, j;
    t_ctx(&like, NULL);
    for (i = 0; i < COUNT(variants) * COUNT(worker_counts); i++) {
        const int *workers = &worker_counts[i % COUNT(worker_counts)];
        problem p;
        float *want;
        size_t need;
        char *mem, text[32];
        problem_new(&p, &variants[i / COUNT(worker_counts)]);
        want = problem_want(&p);
        need = measure(&like, &p, workers);
        reverse_workers(&like, workers);
        problem_check(&like, &p, want);
        CHECK(like.scratch_last == need, "%s: used %ld, measured %ld", p.v.name,
              (long)like.scratch_last, (long)need);
        mem = (char *)malloc(need);
        for (j = 0; j < 2; j++) {
            CHECK_OK(&ctx, tfb_ctx_init_static(&ctx, mem, need - (size_t)j));
            CHECK_OK(&ctx, tfb_isa_force(&ctx, tfb_isa_name(&like)));
            reverse_workers(&ctx, workers);
            if (!j) problem_check(&ctx, &p, want);
        }
        problem_reset(&p);
        sprintf(text, "needs %ld", (long)need);
        CHECK_FAILS(&ctx, TFB_ERR_SCRATCH, text, problem_run(&ctx, &p));
        CHECK_BITS(p.y.mem, p.y0, p.y.n, "%s: y after too little scratch", p.v.name);
        free(mem), free(want);
        problem_free(&p);
    }
    tfb_ctx_free(&like);
}

static void scratch_overflows(void) {
    tfb_tensor a = tfb_view2(NULL, TFB_F32, 1, HUGE_EXTENT / 4), b = a, y = a;
    tfb_ctx ctx;
    int workers;
    b.shape[0] = a.shape[1];
    b.shape[1] = y.shape[1] = 1;
    b.stride[0] = 1;
    a.stride[1] = 0; /* rows are gathered */
    CHECK_OK(&ctx, tfb_ctx_init_measure(&ctx));
    for (workers = 1; workers <= 64; workers *= 4) {
        ctx.workers = workers;
        CHECK_FAILS(&ctx, TFB_ERR_RANGE, "scratch", tfb_matmul(&ctx, &a, &b, &y));
    }
    CHECK(ctx.scratch_peak == 0, "peak %ld", (long)ctx.scratch_peak);
}

/* Every allocation may fail: then nothing is written, and the next call works. A later
 * call of the same shapes allocates nothing. */
static void allocations_fail(void) {
    int i, workers = 2;
    long fail;
    for (i = 0; i < COUNT(variants); i++) {
        problem p;
        float *want;
        int again = 1;
        problem_new(&p, &variants[i]);
        want = problem_want(&p);
        for (fail = 1; again && fail < 20; fail++) {
            t_heap heap;
            tfb_ctx ctx;
            tfb_status st;
            long calls;
            t_ctx(&ctx, &heap);
            reverse_workers(&ctx, &workers);
            heap.fail_at = fail;
            problem_reset(&p);
            st = problem_run(&ctx, &p);
            again = heap.calls >= fail;
            CHECK(st == TFB_OK || st == TFB_ERR_MEMORY, "status %d", (int)st);
            CHECK(fail > 1 || st == TFB_ERR_MEMORY, "the first allocation failed");
            if (st) CHECK(strstr(ctx.message, "scratch") != NULL, "%s", ctx.message);
            CHECK_BITS(p.y.mem, st ? p.y0 : want, p.y.n, "%s: allocation %ld", p.v.name,
                       fail);
            problem_check(&ctx, &p, want);
            calls = heap.calls;
            problem_check(&ctx, &p, want);
            CHECK(heap.calls == calls, "%s: allocates after warm-up", p.v.name);
            tfb_ctx_free(&ctx);
            CHECK(heap.live == 0, "%ld blocks leak", heap.live);
        }
        free(want);
        problem_free(&p);
    }
}

/* --- Accuracy of the reference itself. ---
 * Let u = 2^-24, S = sum |a||b|. A fma chain rounds once per term, a fold of a block
 * once more. The first term of a row meets min(K, 256) roundings in its block and at most
 * ceil(K / 256) - 1 in folds, together at most K; every other term meets no more. Each
 * rounding multiplies by 1 + d, |d| <= u, so the error is at most ((1 + u)^K - 1) S; the
 * terms of second order can be dropped (Jeannerod & Rump 2013), which leaves K u S. No
 * product underflows here: inputs are multiples of 2^-23. */
static void reference_is_accurate(void) {
    static const tfb_idx ks[] = {1, 2, 15, 16, 255, 256, 257, 513, 1025, 4096, 5000};
    int i, m, n;
    for (i = 0; i < COUNT(ks); i++) {
        const tfb_idx K = ks[i];
        float *a = t_floats(4 * K), *b = t_floats(4 * K), y[16], z[16];
        tfb_tensor A = tfb_view2(a, TFB_F32, 4, K), W = tfb_view2(b, TFB_F32, 4, K);
        tfb_tensor B = W, Y = tfb_view2(y, TFB_F32, 4, 4), Z = Y;
        tfb_linear_opts o = {0};
        tfb_idx k;
        B.shape[0] = K;
        B.shape[1] = 4;
        B.stride[0] = 1;
        B.stride[1] = K;
        Z.data = z;
        for (k = 0; k < K; k++)
            a[k] = fabsf(a[k]), b[k] = fabsf(b[k]); /* no cancelling */
        tfb__matmul_ref(&A, &B, &Y);
        tfb__linear_ref(&A, &W, &o, &Z);
        CHECK_BITS(y, z, 16, "matmul and linear agree");
        for (m = 0; m < 4; m++)
            for (n = 0; n < 4; n++) {
                double s = 0, size = 0, error;
                for (k = 0; k < K; k++) {
                    const double p = (double)a[m * K + k] * (double)b[n * K + k];
                    s += p;
                    size += fabs(p);
                }
                error = fabs((double)y[m * 4 + n] - s);
                CHECK(error <= (double)K * ldexp(1, -24) * size, "K %ld: %g of %g",
                      (long)K, error, size);
            }
        free(a), free(b);
    }
}

/* The reference's epilogue in double, for functions whose value is known elsewhere. */
static void reference_epilogue(void) {
    const float x[1] = {0.75f}, w[2] = {-1.5f, 2.0f}, bias[2] = {0.25f, -0.5f}, r = 3.0f;
    const double s0 = -1.125 * 0.5 + 0.25, s1 = 1.5 * 0.5 - 0.5;
    const double act[] = {
        s0,
        0,
        0,
        0.5 * s0 *
            (1 + tanh(sqrt(2 / 3.14159265358979324) * (s0 + 0.044715 * s0 * s0 * s0))),
        0.5 * s0 * (1 + erf(s0 / sqrt(2.0))),
        s0 / (1 + exp(-s0)),
        1 / (1 + exp(-s0)),
        tanh(s0)};
    tfb_tensor X = tfb_view1(x, TFB_F32, 1), W = tfb_view2(w, TFB_F32, 2, 1), Y;
    tfb_tensor B = tfb_view1(bias, TFB_F32, 2), R = tfb_view1(&r, TFB_F32, 1);
    tfb_linear_opts o = {0};
    float y[2];
    int i;
    for (i = 0; i < COUNT(act); i++) {
        o.act = (tfb_fn)i;
        o.bias = &B;
        o.residual = NULL;
        o.gate = TFB_GATE_NONE;
        o.alpha = 0.5f;
        o.alpha_set = 1;
        Y = tfb_view1(y, TFB_F32, 2);
        tfb__linear_ref(&X, &W, &o, &Y);
        CHECK(fabs((double)y[0] - act[i]) < 1e-6, "act %d: %g, wanted %g", i,
              (double)y[0], act[i]);
        o.gate = i % 2 ? TFB_GATE_HALVES : TFB_GATE_INTERLEAVED;
        o.residual = &R;
        Y = tfb_view1(y, TFB_F32, 1);
        tfb__linear_ref(&X, &W, &o, &Y);
        CHECK(fabs((double)y[0] - (act[i] * s1 + 3)) < 1e-6, "gated act %d: %g", i,
              (double)y[0]);
    }
}

/* --- Packs. --- */
static void pack_sizes(void) {
    static const struct {
        tfb_idx n, k;
        size_t bytes;
    } cases[] = {{0, 0, 64},          {1, 1, 64 + 64},     {16, 3, 64 + 192},
                 {17, 3, 64 + 384},   {0, 9, 64},          {5, 0, 64},
                 {-1, 4, 0},          {4, -1, 0},          {PTRDIFF_MAX, PTRDIFF_MAX, 0},
                 {PTRDIFF_MAX, 1, 0}, {1, PTRDIFF_MAX, 0}, {PTRDIFF_MIN, PTRDIFF_MIN, 0}};
    int i;
    for (i = 0; i < COUNT(cases); i++)
        CHECK(tfb_pack_bytes(cases[i].n, cases[i].k) == cases[i].bytes, "%ld x %ld: %ld",
              (long)cases[i].n, (long)cases[i].k,
              (long)tfb_pack_bytes(cases[i].n, cases[i].k));
}

/* The byte at a place of W's pack, from the documented layout alone. */
static unsigned char pack_byte(const tfb_tensor *w, size_t at) {
    const tfb_idx N = w->shape[0], K = w->shape[1];
    unsigned char header[64] = "TFBPACK1\1";
    uint32_t bits;
    tfb_idx f, n, k;
    int i;
    for (i = 0; i < 8; i++) {
        header[16 + i] = (unsigned char)((uint64_t)N >> (8 * i));
        header[24 + i] = (unsigned char)((uint64_t)K >> (8 * i));
    }
    if (at < 64) return header[at]; /* version 1 at 8, dtype F32 = 0 at 12 */
    f = (tfb_idx)(at - 64) / 4;
    n = f / (16 * K) * 16 + f % 16;
    k = f / 16 % K;
    if (n >= N) return 0;
    memcpy(&bits, (float *)w->data + n * w->stride[0] + k * w->stride[1], 4);
    return (unsigned char)(bits >> (8 * (at % 4)));
}

static void pack_layout(void) {
    tfb_ctx ctx;
    int i, l, table;
    for (table = 0; table < 2; table++)
        for (i = 0; i < 24; i++)
            for (l = 0; l < COUNT(layouts); l++) {
                tfb_idx shape[2];
                size_t bytes, at, wrong = 0;
                unsigned char *mem;
                tfb_tensor packed;
                box w;
                shape[0] = i < 12 ? size_up_to(65) : t_int(0, 50);
                shape[1] = i < 12 ? size_up_to(65) : t_int(0, 50);
                w = box_new(2, shape, layouts[l]);
                bytes = tfb_pack_bytes(shape[0], shape[1]);
                mem = (unsigned char *)malloc(bytes + 4);
                memset(mem, 0xA5, bytes + 4);
                t_ctx(&ctx, NULL);
                if (table) CHECK_OK(&ctx, tfb_isa_force(&ctx, "scalar"));
                CHECK_OK(&ctx, tfb_pack(&ctx, &w.t, mem, bytes, &packed));
                for (at = 0; at < bytes; at++) wrong += mem[at] != pack_byte(&w.t, at);
                for (; at < bytes + 4; at++) wrong += mem[at] != 0xA5;
                CHECK(wrong == 0, "%ld bytes of %ld x %ld differ", (long)wrong,
                      (long)shape[0], (long)shape[1]);
                CHECK(packed.data == mem && packed.ndim == 2 &&
                          packed.shape[0] == shape[0] && packed.shape[1] == shape[1] &&
                          packed.dtype == TFB_PACKED_F32 && !packed.stride[0] &&
                          !packed.stride[1],
                      "the view of the pack");
                free(mem), free(w.mem);
                tfb_ctx_free(&ctx);
            }
}

/* The same variable for plain and packed weights is what a program writes. */
static void pack_into_its_own_view(void) {
    float w[6] = {1, 2, 3, 4, 5, 6}, mem[64], want[64];
    tfb_tensor W = tfb_view2(w, TFB_F32, 3, 2), P;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_pack(&ctx, &W, want, sizeof want, &P));
    CHECK_OK(&ctx, tfb_pack(&ctx, &W, mem, sizeof mem, &W));
    CHECK(memcmp(mem, want, tfb_pack_bytes(3, 2)) == 0, "packed into its own view");
    CHECK(W.data == mem && W.dtype == TFB_PACKED_F32, "the view");
    tfb_ctx_free(&ctx);
}

/* A pack is only bytes: it works from anywhere, at any address aligned to 4. */
static void pack_moves(void) {
    const tfb_idx N = 37, K = 21;
    const size_t bytes = tfb_pack_bytes(N, K);
    float *w = t_floats(N * K), *x = t_floats(3 * K), y[111], want[111];
    char *mem = (char *)malloc(bytes), *other = (char *)malloc(bytes + 64);
    tfb_tensor W = tfb_view2(w, TFB_F32, N, K), X = tfb_view2(x, TFB_F32, 3, K);
    tfb_tensor Y = tfb_view2(y, TFB_F32, 3, N), P;
    tfb_ctx ctx;
    size_t shift;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_linear(&ctx, &X, &W, NULL, &Y));
    memcpy(want, y, sizeof y);
    CHECK_OK(&ctx, tfb_pack(&ctx, &W, mem, bytes, &P));
    for (shift = 0; shift < 64; shift += 4) {
        memcpy(other + shift, mem, bytes);
        CHECK_OK(&ctx, tfb_pack_open(&ctx, other + shift, bytes, &P));
        CHECK(P.shape[0] == N && P.shape[1] == K && P.dtype == TFB_PACKED_F32, "opened");
        memset(y, 0, sizeof y);
        CHECK_OK(&ctx, tfb_linear(&ctx, &X, &P, NULL, &Y));
        CHECK_BITS(y, want, 111, "a moved pack");
    }
    CHECK_OK(&ctx, tfb_pack_open(&ctx, mem, bytes + 100, &P)); /* a longer file is fine */
    free(w), free(x), free(mem), free(other);
    tfb_ctx_free(&ctx);
}

/* pack_open must refuse with FORMAT and leave *packed alone. */
static void open_refuses(tfb_ctx *ctx, const void *mem, size_t bytes, const char *text) {
    tfb_tensor p, before;
    memset(&p, 0x5A, sizeof p);
    before = p;
    CHECK_FAILS(ctx, TFB_ERR_FORMAT, text, tfb_pack_open(ctx, mem, bytes, &p));
    CHECK(memcmp(&p, &before, sizeof p) == 0, "packed changed");
}

static void pack_corrupted(void) {
    static const unsigned char huge[][16] = {
        {255, 255, 255, 255, 255, 255, 255, 255, 1},        /* N = -1 */
        {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128}, /* K = -2^63 */
        {0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0},   /* 2^32 x 2^32 */
        {255, 255, 255, 255, 255, 255, 255, 127, 1},        /* N = 2^63 - 1 */
    };
    float w[5 * 7];
    tfb_tensor W = tfb_view2(w, TFB_F32, 5, 7), P;
    const size_t bytes = tfb_pack_bytes(5, 7);
    unsigned char *mem = (unsigned char *)malloc(bytes), *cut;
    size_t at;
    tfb_ctx ctx;
    memset(w, 0, sizeof w);
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_pack(&ctx, &W, mem, bytes, &P));
    for (at = 0; at < bytes;
         at += at < 70 || at + 40 > bytes ? 1 : 37) { /* heap blocks of just that size */
        cut = (unsigned char *)malloc(at + 1);
        memcpy(cut, mem, at);
        open_refuses(&ctx, cut, at, at < 64 ? "less than a header" : "cut off");
        free(cut);
    }
    for (at = 0; at < 16; at++) {
        mem[at] ^= 0x20;
        open_refuses(&ctx, mem, bytes, at < 8 ? "do not begin" : "version or dtype");
        mem[at] ^= 0x20;
    }
    for (at = 16; at < 32; at++) {
        mem[at] ^= 0x80;
        open_refuses(&ctx, mem, bytes,
                     sizeof(tfb_idx) == 8 && at % 8 < 6 ? "cut off" : "the pack");
        mem[at] ^= 0x80;
    }
    for (at = 0; at < (size_t)COUNT(huge); at++) {
        memcpy(mem + 16, huge[at], 16);
        open_refuses(&ctx, mem, bytes, "the pack's size overflows");
    }
    free(mem);
    tfb_ctx_free(&ctx);
}

/* tfb_linear does not trust a packed view either. */
static void linear_checks_packs(void) {
    float w[6 * 4] = {0}, x[4] = {0}, y[6] = {1, 2, 3, 4, 5, 6}, before[6];
    char *mem = (char *)malloc(tfb_pack_bytes(6, 4) + 1);
    tfb_tensor W = tfb_view2(w, TFB_F32, 6, 4), X = tfb_view1(x, TFB_F32, 4), P, bad;
    tfb_tensor Y = tfb_view1(y, TFB_F32, 6);
    tfb_ctx ctx;
    memcpy(before, y, sizeof y);
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_pack(&ctx, &W, mem, tfb_pack_bytes(6, 4), &P));
    mem[3] = 'X';
    CHECK_FAILS(&ctx, TFB_ERR_FORMAT, "do not begin", tfb_linear(&ctx, &X, &P, NULL, &Y));
    mem[3] = 'P';
    mem[8] = 2;
    CHECK_FAILS(&ctx, TFB_ERR_FORMAT, "version", tfb_linear(&ctx, &X, &P, NULL, &Y));
    mem[8] = 1;
    mem[16] = 5; /* N */
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "the pack [5, 4]",
                tfb_linear(&ctx, &X, &P, NULL, &Y));
    mem[16] = 6;
    mem[24] = 3; /* K */
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "the pack [6, 3]",
                tfb_linear(&ctx, &X, &P, NULL, &Y));
    mem[24] = 4;
    bad = P;
    bad.data = NULL;
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "w.data is NULL",
                tfb_linear(&ctx, &X, &bad, NULL, &Y));
    bad.data = mem + 2;
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "w.data is not aligned to 4",
                tfb_linear(&ctx, &X, &bad, NULL, &Y));
    bad = Y;
    bad.data = mem + 64; /* y inside the panels */
    CHECK_FAILS(&ctx, TFB_ERR_ALIAS, "y overlaps w",
                tfb_linear(&ctx, &X, &P, NULL, &bad));
    CHECK_BITS(y, before, 6, "y after refusals");
    CHECK_OK(&ctx, tfb_linear(&ctx, &X, &P, NULL, &Y));
    free(mem);
    tfb_ctx_free(&ctx);
}

/* --- Bad input. Every tensor of a call in turn is replaced by something wrong. --- */
#define MOST_ARGS 5

typedef struct call {
    const char *names[MOST_ARGS];
    int optional[MOST_ARGS], n;
    tfb_status (*run)(tfb_ctx *ctx, tfb_tensor **t);
    tfb_tensor t[MOST_ARGS];
    float mem[128];
} call;

static tfb_linear_opts call_opts;

static tfb_status run_matmul(tfb_ctx *ctx, tfb_tensor **t) {
    return tfb_matmul(ctx, t[0], t[1], t[2]);
}

static tfb_status run_linear(tfb_ctx *ctx, tfb_tensor **t) {
    tfb_linear_opts o = call_opts;
    o.bias = t[2];
    o.residual = t[3];
    return tfb_linear(ctx, t[0], t[1], &o, t[4]);
}

/* Runs the call with argument `which` (-1: none) replaced; nothing may change. */
static void call_refused(call *c, int which, tfb_tensor *instead, tfb_status code,
                         const char *text) {
    tfb_tensor *t[MOST_ARGS];
    float before[128];
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    memcpy(before, c->mem, sizeof before);
    for (i = 0; i < c->n; i++) t[i] = i == which ? instead : &c->t[i];
    CHECK_FAILS(&ctx, code, text, c->run(&ctx, t));
    CHECK(memcmp(before, c->mem, sizeof before) == 0, "\"%s\": memory changed", text);
    tfb_ctx_free(&ctx);
}

/* What any tensor argument can have wrong. */
static void call_refuses_any(call *c) {
    int i, kind;
    for (i = 0; i < c->n; i++)
        for (kind = 0; kind < 11; kind++) {
            static const char *const texts[] = {" is NULL",      ".ndim is 7",
                                                ".ndim is -1",   ".dtype is 99",
                                                " is I32",       ".shape[0] is -1",
                                                ".data is NULL", ".data is not aligned",
                                                "the size of ",  "the size of ",
                                                "the size of "};
            static const tfb_status codes[] = {
                TFB_ERR_ARG,   TFB_ERR_SHAPE, TFB_ERR_SHAPE, TFB_ERR_DTYPE,
                TFB_ERR_DTYPE, TFB_ERR_SHAPE, TFB_ERR_ARG,   TFB_ERR_ARG,
                TFB_ERR_RANGE, TFB_ERR_RANGE, TFB_ERR_RANGE};
            tfb_tensor bad = c->t[i];
            char text[64];
            if (kind == 0 && c->optional[i]) continue;
            if (kind == 1) bad.ndim = TFB_MAX_DIMS + 1;
            if (kind == 2) bad.ndim = -1;
            if (kind == 3) bad.dtype = (tfb_dtype)99;
            if (kind == 4) bad.dtype = TFB_I32;
            if (kind == 5) bad.shape[0] = -1;
            if (kind == 6) bad.data = NULL;
            if (kind == 7) bad.data = (char *)bad.data + 1;
            if (kind == 8) bad.shape[0] = PTRDIFF_MAX;
            if (kind == 9) bad.stride[0] = PTRDIFF_MIN;
            if (kind == 10) bad.stride[0] = PTRDIFF_MAX;
            sprintf(text, "%s%s", kind < 8 ? c->names[i] : texts[kind],
                    kind < 8 ? texts[kind] : c->names[i]);
            call_refused(c, i, kind ? &bad : NULL, codes[kind], text);
        }
}

typedef struct wrong {
    int which;
    tfb_tensor t;
    tfb_status code;
    const char *text;
} wrong;

static void call_refuses(call *c, const wrong *list, int n) {
    int i;
    for (i = 0; i < n; i++) {
        tfb_tensor bad = list[i].t;
        call_refused(c, list[i].which, &bad, list[i].code, list[i].text);
    }
}

static tfb_tensor with_extent(tfb_tensor t, int dim, tfb_idx n) {
    t.shape[dim] = n;
    return t;
}

static tfb_tensor with_stride(tfb_tensor t, int dim, tfb_idx stride) {
    t.stride[dim] = stride;
    return t;
}

static tfb_tensor with_data(tfb_tensor t, void *data) {
    t.data = data;
    return t;
}

static tfb_tensor with_rank(tfb_tensor t, int ndim) {
    int i;
    for (i = t.ndim; i < ndim && i < TFB_MAX_DIMS; i++) t.shape[i] = t.stride[i] = 1;
    t.ndim = ndim;
    return t;
}

static tfb_tensor with_dtype(tfb_tensor t, tfb_dtype dtype) {
    t.dtype = dtype;
    return t;
}

static void matmul_refuses(void) {
    call c = {{"a", "b", "y"}, {0}, 3, run_matmul, {{0}}, {0}};
    const tfb_tensor a = tfb_view2(c.mem, TFB_F32, 3, 4);
    const tfb_tensor b = tfb_view2(c.mem + 16, TFB_F32, 4, 5);
    const tfb_tensor y = tfb_view2(c.mem + 40, TFB_F32, 3, 5);
    const wrong list[] = {
        {0, with_rank(a, 1), TFB_ERR_SHAPE, "a.ndim is 1, needs 2"},
        {1, with_rank(b, 1), TFB_ERR_SHAPE, "b.ndim is 1, needs 2"},
        {2, with_rank(y, 1), TFB_ERR_SHAPE, "y.ndim is 1, needs 2"},
        {0, with_dtype(a, TFB_F16), TFB_ERR_DTYPE, "a is F16"},
        {1, with_dtype(b, TFB_BF16), TFB_ERR_DTYPE, "b is BF16"},
        {1, with_dtype(b, TFB_PACKED_F32), TFB_ERR_DTYPE, "b is PACKED_F32"},
        {2, with_dtype(y, TFB_U8), TFB_ERR_DTYPE, "y is U8"},
        {0, with_extent(a, 1, 5), TFB_ERR_SHAPE, "b.shape[0] is 4, needs 5"},
        {1, with_extent(b, 0, 3), TFB_ERR_SHAPE, "b.shape[0] is 3, needs 4"},
        {0, with_extent(a, 0, 2), TFB_ERR_SHAPE, "y.shape[0] is 3, a has 2 rows"},
        {0, with_extent(a, 0, 0), TFB_ERR_SHAPE, "y.shape[0] is 3, a has 0 rows"},
        {0, with_extent(a, 0, 1), TFB_ERR_SHAPE, "y.shape[0] is 3, a has 1 rows"},
        {1, with_extent(b, 1, 6), TFB_ERR_SHAPE, "y.shape[1] is 5, b has 6 columns"},
        {1, with_extent(b, 1, 1), TFB_ERR_SHAPE, "y.shape[1] is 5, b has 1 columns"},
        {0, tfb_view3(c.mem, TFB_F32, 1, 3, 4), TFB_ERR_SHAPE, "a.ndim is 3, y has 2"},
        {1, tfb_view3(c.mem, TFB_F32, 1, 4, 5), TFB_ERR_SHAPE, "b.ndim is 3, y has 2"},
        {2, with_stride(y, 0, 0), TFB_ERR_SHAPE, "y.stride[0] is 0: elements would"},
        {2, with_stride(y, 1, 0), TFB_ERR_SHAPE, "y.stride[1] is 0: elements would"},
        {2, with_stride(y, 0, 4), TFB_ERR_SHAPE, "y.stride[0] is 4: elements would"},
        {2, with_stride(y, 0, -4), TFB_ERR_SHAPE, "y.stride[0] is -4: elements would"},
        {2, with_data(y, c.mem), TFB_ERR_ALIAS, "y overlaps a"},
        {2, with_data(y, c.mem + 11), TFB_ERR_ALIAS, "y overlaps a"},
        {2, with_data(y, c.mem + 35), TFB_ERR_ALIAS, "y overlaps b"},
        {2, with_data(y, c.mem + 12), TFB_ERR_ALIAS, "y overlaps b"},
    };
    c.t[0] = a;
    c.t[1] = b;
    c.t[2] = y;
    CHECK(tfb_matmul(NULL, &c.t[0], &c.t[1], &c.t[2]) == TFB_ERR_ARG, "no context");
    call_refuses_any(&c);
    call_refuses(&c, list, COUNT(list));
    c.t[2] = tfb_view3(c.mem + 40, TFB_F32, 2, 3, 5);
    c.t[0] = tfb_view3(c.mem, TFB_F32, 1, 3, 4);
    c.t[1] = with_rank(b, 0);
    call_refused(&c, -1, NULL, TFB_ERR_SHAPE, "b.ndim is 0");
    c.t[1] = b;
    c.t[0].shape[0] = 3;
    c.t[0].stride[0] = 0;
    call_refused(&c, -1, NULL, TFB_ERR_SHAPE, "a.shape[0] is 3, needs 2");
    c.t[0].shape[0] = 0;
    call_refused(&c, -1, NULL, TFB_ERR_SHAPE, "a.shape[0] is 0, needs 2");
}

static void linear_refuses(void) {
    call c = {
        {"x", "w", "bias", "residual", "y"}, {0, 0, 1, 1, 0}, 5, run_linear, {{0}}, {0}};
    const tfb_tensor x = tfb_view2(c.mem, TFB_F32, 3, 4);
    const tfb_tensor w = tfb_view2(c.mem + 12, TFB_F32, 6, 4);
    const tfb_tensor bias = tfb_view1(c.mem + 36, TFB_F32, 6);
    const tfb_tensor r = tfb_view2(c.mem + 42, TFB_F32, 3, 6);
    const tfb_tensor y = tfb_view2(c.mem + 60, TFB_F32, 3, 6);
    const wrong list[] = {
        {0, with_rank(x, 0), TFB_ERR_SHAPE, "x.ndim is 0, needs 1"},
        {0, with_rank(x, 1), TFB_ERR_SHAPE, "y.ndim is 2, needs 1"},
        {1, with_rank(w, 1), TFB_ERR_SHAPE, "w.ndim is 1, needs 2"},
        {1, with_rank(w, 3), TFB_ERR_SHAPE, "w.ndim is 3, needs 2"},
        {2, with_rank(bias, 2), TFB_ERR_SHAPE, "bias.ndim is 2, needs 1"},
        {3, with_rank(r, 3), TFB_ERR_SHAPE, "residual.ndim is 3, needs 2"},
        {4, with_rank(y, 3), TFB_ERR_SHAPE, "y.ndim is 3, needs 2"},
        {0, with_dtype(x, TFB_F16), TFB_ERR_DTYPE, "x is F16"},
        {0, with_dtype(x, TFB_PACKED_F32), TFB_ERR_DTYPE, "x is PACKED_F32"},
        {1, with_dtype(w, TFB_U8), TFB_ERR_DTYPE, "w is U8"},
        {1, with_dtype(w, TFB_PACKED_F32), TFB_ERR_FORMAT, "do not begin as a pack"},
        {0, with_extent(x, 1, 5), TFB_ERR_SHAPE, "x.shape[1] is 5, needs 4"},
        {0, with_extent(x, 0, 2), TFB_ERR_SHAPE, "y.shape[0] is 3, needs 2"},
        {1, with_extent(w, 1, 3), TFB_ERR_SHAPE, "x.shape[1] is 4, needs 3"},
        {1, with_extent(w, 0, 7), TFB_ERR_SHAPE, "y.shape[1] is 6, needs 7"},
        {2, with_extent(bias, 0, 5), TFB_ERR_SHAPE, "bias.shape[0] is 5, needs 6"},
        {2, with_extent(bias, 0, 1), TFB_ERR_SHAPE, "bias.shape[0] is 1, needs 6"},
        {3, with_extent(r, 0, 1), TFB_ERR_SHAPE, "residual.shape[0] is 1, needs 3"},
        {3, with_extent(r, 1, 5), TFB_ERR_SHAPE, "residual.shape[1] is 5, needs 6"},
        {4, with_extent(y, 1, 5), TFB_ERR_SHAPE, "y.shape[1] is 5, needs 6"},
        {4, with_stride(y, 0, 0), TFB_ERR_SHAPE, "y.stride[0] is 0: elements would"},
        {4, with_stride(y, 0, 5), TFB_ERR_SHAPE, "y.stride[0] is 5: elements would"},
        {4, with_data(y, c.mem + 11), TFB_ERR_ALIAS, "y overlaps x"},
        {4, with_data(y, c.mem + 12), TFB_ERR_ALIAS, "y overlaps w"},
        {4, with_data(y, c.mem + 41), TFB_ERR_ALIAS, "y overlaps residual"},
        {4, with_data(y, c.mem + 43), TFB_ERR_ALIAS, "y overlaps residual"},
        {2, with_data(bias, c.mem + 77), TFB_ERR_ALIAS, "y overlaps bias"},
        {3, with_stride(with_data(r, c.mem + 60), 0, 7), TFB_ERR_ALIAS,
         "y overlaps residual"},
    };
    c.t[0] = x;
    c.t[1] = w;
    c.t[2] = bias;
    c.t[3] = r;
    c.t[4] = y;
    CHECK(tfb_linear(NULL, &x, &w, NULL, &c.t[4]) == TFB_ERR_ARG, "no context");
    memset(&call_opts, 0, sizeof call_opts);
    call_refuses_any(&c);
    call_refuses(&c, list, COUNT(list));
    call_opts.act = TFB_FN_EXP;
    call_refused(&c, -1, NULL, TFB_ERR_ARG, "act is 8, which is no activation");
    call_opts.act = (tfb_fn)-1;
    call_refused(&c, -1, NULL, TFB_ERR_ARG, "which is no activation");
    call_opts.act = TFB_FN_SILU;
    call_opts.gate = (tfb_gate)3;
    call_refused(&c, -1, NULL, TFB_ERR_ARG, "gate is 3");
    call_opts.gate = (tfb_gate)-1;
    call_refused(&c, -1, NULL, TFB_ERR_ARG, "gate is ");
    call_opts.gate = TFB_GATE_HALVES;
    call_refused(&c, -1, NULL, TFB_ERR_SHAPE, "y.shape[1] is 6, needs 3");
    c.t[1].shape[0] = 5;
    call_refused(&c, -1, NULL, TFB_ERR_SHAPE, "w.shape[0] is 5, must be even when gated");
    memset(&call_opts, 0, sizeof call_opts);
}

/* A measuring context refuses the same shapes, and bad arguments write nothing. */
static void measuring_refuses(void) {
    tfb_tensor x = tfb_view2(NULL, TFB_F32, 3, 4), w = tfb_view2(NULL, TFB_F32, 6, 5);
    tfb_tensor y = tfb_view2(NULL, TFB_F32, 3, 6);
    tfb_ctx ctx;
    CHECK_OK(&ctx, tfb_ctx_init_measure(&ctx));
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "x.shape[1]", tfb_linear(&ctx, &x, &w, NULL, &y));
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "b.shape[0]", tfb_matmul(&ctx, &x, &w, &y));
    w = tfb_view2(NULL, TFB_F32, HUGE_EXTENT, HUGE_EXTENT / 2);
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "size of w", tfb_linear(&ctx, &x, &w, NULL, &y));
}

static void pack_refuses(void) {
    float mem[128] = {0};
    const tfb_tensor w = tfb_view2(mem, TFB_F32, 5, 2);
    void *to = mem + 16;
    const size_t bytes = tfb_pack_bytes(5, 2);
    const struct {
        tfb_tensor w;
        void *mem;
        size_t bytes;
        tfb_status code;
        const char *text;
    } list[] = {
        {w, NULL, bytes, TFB_ERR_ARG, "mem is NULL"},
        {w, (char *)to + 2, bytes, TFB_ERR_ARG, "mem is not aligned to 4"},
        {w, to, bytes - 1, TFB_ERR_RANGE, "mem_bytes is 191, needs 192"},
        {w, to, 0, TFB_ERR_RANGE, "mem_bytes is 0, needs 192"},
        {w, mem, bytes, TFB_ERR_ALIAS, "mem overlaps w"},
        {w, mem + 9, bytes, TFB_ERR_ALIAS, "mem overlaps w"},
        {with_rank(w, 1), to, bytes, TFB_ERR_SHAPE, "w.ndim is 1, needs 2"},
        {with_rank(w, 3), to, bytes, TFB_ERR_SHAPE, "w.ndim is 3, needs 2"},
        {with_rank(w, 7), to, bytes, TFB_ERR_SHAPE, "w.ndim is 7"},
        {with_dtype(w, TFB_F16), to, bytes, TFB_ERR_DTYPE, "w is F16"},
        {with_dtype(w, TFB_PACKED_F32), to, bytes, TFB_ERR_DTYPE, "w is PACKED_F32"},
        {with_dtype(w, (tfb_dtype)77), to, bytes, TFB_ERR_DTYPE, "w.dtype is 77"},
        {with_extent(w, 0, -5), to, bytes, TFB_ERR_SHAPE, "w.shape[0] is -5"},
        {with_extent(w, 1, HUGE_EXTENT), to, bytes, TFB_ERR_RANGE, "size of w"},
        {with_stride(with_extent(w, 1, HUGE_EXTENT / 16), 1, 0), to, bytes, TFB_ERR_RANGE,
         "size of w"}, /* W itself fits, its pack does not */
        {with_stride(w, 0, PTRDIFF_MIN), to, bytes, TFB_ERR_RANGE, "size of w"},
        {with_data(w, NULL), to, bytes, TFB_ERR_ARG, "w.data is NULL"},
        {with_data(w, (char *)mem + 1), to, bytes, TFB_ERR_ARG, "w.data is not aligned"},
    };
    tfb_tensor packed, before;
    tfb_ctx ctx;
    int i, j;
    t_ctx(&ctx, NULL);
    memset(&packed, 0x33, sizeof packed);
    before = packed;
    for (i = 0; i < COUNT(list); i++) {
        CHECK_FAILS(&ctx, list[i].code, list[i].text,
                    tfb_pack(&ctx, &list[i].w, list[i].mem, list[i].bytes, &packed));
        CHECK(memcmp(&packed, &before, sizeof packed) == 0, "packed changed, %d", i);
        for (j = 0; j < 128; j++) CHECK(tfb__bits_of(mem[j]) == 0, "case %d wrote", i);
    }
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "w is NULL", tfb_pack(&ctx, NULL, to, bytes, &packed));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "packed is NULL", tfb_pack(&ctx, &w, to, bytes, NULL));
    CHECK(tfb_pack(NULL, &w, to, bytes, &packed) == TFB_ERR_ARG, "no context");
    CHECK_OK(&ctx, tfb_pack(&ctx, &w, to, bytes, &packed));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "mem is NULL",
                tfb_pack_open(&ctx, NULL, bytes, &packed));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "packed is NULL",
                tfb_pack_open(&ctx, to, bytes, NULL));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "mem is not aligned to 4",
                tfb_pack_open(&ctx, (char *)to + 1, bytes, &packed));
    CHECK(tfb_pack_open(NULL, to, bytes, &packed) == TFB_ERR_ARG, "no context");
    tfb_ctx_free(&ctx);
}

/* TFB_LINEAR_SCRATCH bounds what is measured, for every gate, plain and packed. */
static void scratch_is_bounded(void) {
    static const tfb_idx extents[] = {1, 16, 70, 400};
    tfb_ctx ctx;
    size_t i;
    CHECK_OK(&ctx, tfb_ctx_init_measure(&ctx));
    ctx.workers = 3;
    for (i = 0; i < 4 * 4 * 4 * 6; i++) {
        const tfb_idx M = extents[i % 4], N = 2 * extents[i / 4 % 4],
                      K = extents[i / 16 % 4];
        const int packed = (int)(i / 64 % 2), gate = (int)(i / 128);
        const tfb_idx cols = gate ? N / 2 : N;
        const size_t bound = TFB_LINEAR_SCRATCH(packed ? 0 : K, 3);
        tfb_tensor x = tfb_view2(NULL, TFB_F32, M, K), b = tfb_view1(NULL, TFB_F32, N);
        tfb_tensor w = tfb_view2(NULL, packed ? TFB_PACKED_F32 : TFB_F32, N, K);
        tfb_tensor y = tfb_view2(NULL, TFB_F32, M, cols);
        tfb_linear_opts o = TFB_INIT;
        o.gate = (tfb_gate)gate;
        o.bias = &b;
        if (!packed) x.stride[0] = 1, x.stride[1] = M; /* gathered */
        CHECK_OK(&ctx, tfb_linear(&ctx, &x, &w, &o, &y));
        CHECK(ctx.scratch_last <= bound, "M %ld N %ld K %ld: %ld above %ld", (long)M,
              (long)N, (long)K, (long)ctx.scratch_last, (long)bound);
    }
}

int main(void) {
    RUN(matmul_random);
    RUN(every_size);
    RUN(linear_random);
    RUN(linear_every_option);
    RUN(variants_equal_reference);
    RUN(matmul_transposes);
    RUN(matmul_batches);
    RUN(linear_ranks);
    RUN(linear_repeats);
    RUN(zeros_and_empties);
    RUN(huge_empties);
    RUN(absent_bias_is_zero_bias);
    RUN(workers_do_not_matter);
    RUN(tables_do_not_matter);
    RUN(rows_do_not_matter);
    RUN(batch_does_not_matter);
    RUN(slices_of_one_buffer);
    RUN(scratch_is_exact);
    RUN(scratch_overflows);
    RUN(allocations_fail);
    RUN(reference_is_accurate);
    RUN(reference_epilogue);
    RUN(pack_sizes);
    RUN(pack_layout);
    RUN(pack_into_its_own_view);
    RUN(pack_moves);
    RUN(pack_corrupted);
    RUN(linear_checks_packs);
    RUN(matmul_refuses);
    RUN(linear_refuses);
    RUN(measuring_refuses);
    RUN(pack_refuses);
    RUN(scratch_is_bounded);
    FINISH();
}
