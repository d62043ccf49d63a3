/* test_linear.c - matmul, linear and packed weights: by bits against the plain-loop
 * references over awkward shapes, layouts, options; scratch; bad input; pack format. */
#include "../test.h"
#include "layouts.h"
#include <math.h>

static const tfb_idx sizes[] = {0,  1,  2,  5,  6,  7,   15,  16,  17,  31,
                                48, 49, 63, 64, 65, 255, 256, 257, 513, 1025};
static const tfb_dtype dtypes[] = {TFB_F32, TFB_F16, TFB_BF16};
static const int worker_counts[] = {1, 2, 3, 5};

static const int layouts[] = {0,    0,           ORDER,
                              WIDE, BACK | WIDE, ORDER | WIDE | BACK | SPARSE};

/* The same view of another copy of the buffer. */
static tfb_tensor box_view(const box *b, float *mem) {
    tfb_tensor t = b->t;
    t.data = mem + ((float *)b->t.data - b->mem);
    return t;
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
    int odd;         /* how many special values each input gets */
    tfb_dtype dtype; /* of W */
} variant;

typedef struct problem {
    variant v;
    box x, w, y, bias, residual;
    uint16_t *half; /* W in 16 bits, laid out as w, which holds the same values */
    void *pack;
    tfb_tensor weight; /* what is multiplied by: w, half or a pack of them */
    tfb_linear_opts o;
} problem;

static void *bytes_new(size_t n) {
    void *p = malloc(n ? n : 1);
    if (!p) exit(99);
    return p;
}

static void problem_pack(problem *p) {
    const size_t bytes = tfb_pack_bytes(p->v.N, p->v.K, p->v.dtype);
    tfb_tensor plain = p->weight;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    p->pack = bytes_new(bytes);
    CHECK_OK(&ctx, tfb_pack(&ctx, &plain, p->pack, bytes, &p->weight));
    tfb_ctx_free(&ctx);
}

/* Rounds W to 16 bits, makes some of them odd, and copies them back to w. */
static void problem_halve(problem *p) {
    static const uint16_t odd[2][8] = {
        {0x0001, 0x83FF, 0x8000, 0x0400, 0x7C00, 0xFC00, 0x7C01, 0xFE00},
        {0x0001, 0x807F, 0x8000, 0x0080, 0x7F80, 0xFF80, 0x7F81, 0xFFC0}};
    tfb_tensor floats = tfb_view1(p->w.mem, TFB_F32, p->w.n), halves;
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    p->half = (uint16_t *)bytes_new((size_t)p->w.n * 2);
    halves = tfb_view1(p->half, p->v.dtype, p->w.n);
    CHECK_OK(&ctx, tfb_copy(&ctx, &floats, &halves));
    for (i = 0; i < 2 * p->v.odd; i++)
        p->half[t_int(0, p->w.n - 1)] = odd[p->v.dtype == TFB_BF16][t_int(0, 7)];
    CHECK_OK(&ctx, tfb_copy(&ctx, &halves, &floats));
    p->weight.dtype = p->v.dtype;
    p->weight.data = p->half + ((float *)p->w.t.data - p->w.mem);
    tfb_ctx_free(&ctx);
}

/* The tensors, with random values. */
static void problem_boxes(problem *p, const variant *v) {
    const int lead = v->batch < 0 ? 1 : 0, l = v->layout;
    tfb_idx shape[3];
    memset((void *)p, 0, sizeof *p);
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
}

/* What depends on the values. */
static void problem_ready(problem *p) {
    const variant *v = &p->v;
    if (v->odd) {
        box_spoil(&p->x, v->odd);
        box_spoil(&p->w, v->odd);
        box_spoil(&p->bias, v->odd);
    }
    p->weight = p->w.t;
    if (v->dtype != TFB_F32) problem_halve(p);
    if (v->packed) problem_pack(p);
    p->o.act = v->act;
    p->o.gate = v->gate;
    p->o.alpha = v->alpha;
    p->o.alpha_set = v->alpha_set;
    if (v->bias) p->o.bias = &p->bias.t;
    if (v->residual) p->o.residual = v->residual == 2 ? &p->y.t : &p->residual.t;
}

static void problem_new(problem *p, const variant *v) {
    problem_boxes(p, v);
    problem_ready(p);
}

static void problem_free(problem *p) {
    box_free(&p->x);
    box_free(&p->w);
    box_free(&p->y);
    box_free(&p->bias);
    box_free(&p->residual);
    free(p->half);
    free(p->pack);
}

/* Without options where there are none: small products then have a way of their own. */
static tfb_status problem_run(tfb_ctx *ctx, problem *p) {
    tfb_linear_opts none;
    int any;
    if (p->v.matmul) return tfb_matmul(ctx, &p->x.t, &p->weight, &p->y.t);
    memset((void *)&none, 0, sizeof none);
    any = memcmp((const void *)&none, (const void *)&p->o, sizeof none) != 0;
    return tfb_linear(ctx, &p->x.t, &p->weight, any ? &p->o : NULL, &p->y.t);
}

/* y's whole buffer as the reference leaves it; the caller frees it. */
static float *problem_want(const problem *p) {
    float *want = floats_copy(p->y.mem0, p->y.n);
    tfb_tensor y = box_view(&p->y, want);
    tfb_linear_opts o = p->o;
    if (p->v.residual == 2) o.residual = &y;
    if (p->v.matmul) tfb__matmul_ref(&p->x.t, &p->w.t, &y);
    else tfb__linear_ref(&p->x.t, &p->w.t, &o, &y);
    return want;
}

static void problem_check(tfb_ctx *ctx, problem *p, const float *want) {
    static const char *const weights[] = {"", ", F16", ", BF16"};
    const variant *v = &p->v;
    box_reset(&p->y);
    CHECK_OK(ctx, problem_run(ctx, p));
    CHECK_BITS(p->y.mem, want, p->y.n,
               "%s: batch %ld, %ld x %ld x %ld, layout %d, act %d, gate %d%s", v->name,
               (long)v->batch, (long)v->M, (long)v->N, (long)v->K, v->layout, (int)v->act,
               (int)v->gate, weights[v->dtype]);
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
    {"matmul", -1, 65, 130, 257, 0, 1, 0, 0, 0, TFB_GATE_NONE, TFB_FN_IDENTITY, 0, 0, 0,
     TFB_F32},
    {"matmul transposed", 2, 49, 31, 63, ORDER | SPARSE, 1, 0, 0, 0, TFB_GATE_NONE,
     TFB_FN_IDENTITY, 0, 0, 0, TFB_F32},
    {"matmul one row", -1, 1, 257, 513, 0, 1, 0, 0, 0, TFB_GATE_NONE, TFB_FN_IDENTITY, 0,
     0, 0, TFB_F32},
    {"plain", -1, 7, 129, 300, 0, 0, 0, 0, 0, TFB_GATE_NONE, TFB_FN_IDENTITY, 0, 0, 0,
     TFB_F32},
    {"packed", -1, 7, 129, 300, 0, 0, 1, 0, 0, TFB_GATE_NONE, TFB_FN_IDENTITY, 0, 0, 0,
     TFB_F32},
    {"plain, all options", 3, 17, 65, 65, WIDE, 0, 0, 1, 1, TFB_GATE_NONE,
     TFB_FN_GELU_ERF, 1, 0.37f, 0, TFB_F32},
    {"packed, in place", 3, 17, 65, 65, WIDE, 0, 1, 1, 2, TFB_GATE_NONE, TFB_FN_GELU_TANH,
     1, -1.5f, 0, TFB_F32},
    {"plain halves", -1, 9, 190, 65, 0, 0, 0, 1, 0, TFB_GATE_HALVES, TFB_FN_SILU, 0, 0, 0,
     TFB_F32},
    {"packed halves", -1, 9, 190, 65, 0, 0, 1, 0, 1, TFB_GATE_HALVES, TFB_FN_SILU, 0, 0,
     0, TFB_F32},
    {"plain interleaved", -1, 50, 142, 33, BACK | WIDE, 0, 0, 1, 2, TFB_GATE_INTERLEAVED,
     TFB_FN_TANH, 0, 0, 0, TFB_F32},
    {"packed interleaved", -1, 50, 142, 33, ORDER | SPARSE, 0, 1, 1, 0,
     TFB_GATE_INTERLEAVED, TFB_FN_SIGMOID, 0, 0, 0, TFB_F32},
    {"many rows", 5, 97, 70, 9, 0, 0, 0, 1, 0, TFB_GATE_NONE, TFB_FN_RELU, 0, 0, 0,
     TFB_F32},
    {"many rows, packed", -1, 801, 18, 9, ORDER | WIDE, 0, 1, 1, 0, TFB_GATE_NONE,
     TFB_FN_RELU2, 0, 0, 0, TFB_F32},
    {"direct", -1, 8, 96, 64, 0, 1, 0, 0, 0, TFB_GATE_NONE, TFB_FN_IDENTITY, 0, 0, 0,
     TFB_F32},
    {"packed row, residual", -1, 1, 385, 769, 0, 0, 1, 1, 2, TFB_GATE_NONE,
     TFB_FN_IDENTITY, 0, 0, 0, TFB_F32},
    {"long", -1, 197, 97, 769, 0, 0, 0, 0, 0, TFB_GATE_NONE, TFB_FN_IDENTITY, 0, 0, 0,
     TFB_F32},
    {"packed row", -1, 1, 385, 769, 0, 0, 1, 0, 1, TFB_GATE_NONE, TFB_FN_RELU, 0, 0, 0,
     TFB_F32},
    {"tiny", -1, 5, 33, 40, 0, 0, 0, 0, 0, TFB_GATE_NONE, TFB_FN_IDENTITY, 0, 0, 0,
     TFB_F32},
    {"tiny, more rows", -1, 20, 64, 64, 0, 0, 0, 0, 0, TFB_GATE_NONE, TFB_FN_IDENTITY, 0,
     0, 0, TFB_F32},
    {"tiny packed", -1, 20, 49, 33, 0, 0, 1, 0, 0, TFB_GATE_NONE, TFB_FN_IDENTITY, 0, 0,
     0, TFB_F32},
    {"tiny in place", -1, 8, 48, 33, 0, 1, 0, 0, 0, TFB_GATE_NONE, TFB_FN_IDENTITY, 0, 0,
     0, TFB_F32},
    {"tiny residual", -1, 8, 48, 33, 0, 0, 1, 0, 2, TFB_GATE_NONE, TFB_FN_IDENTITY, 0, 0,
     0, TFB_F32},
    {"F16", -1, 7, 129, 300, 0, 0, 0, 0, 0, TFB_GATE_NONE, TFB_FN_IDENTITY, 0, 0, 0,
     TFB_F16},
    {"F16 packed", -1, 9, 129, 300, 0, 0, 1, 1, 0, TFB_GATE_NONE, TFB_FN_IDENTITY, 0, 0,
     0, TFB_F16},
    {"BF16 one row", -1, 1, 257, 513, WIDE, 0, 0, 0, 0, TFB_GATE_NONE, TFB_FN_IDENTITY, 0,
     0, 0, TFB_BF16},
    {"BF16 packed halves", 2, 33, 190, 65, 0, 0, 1, 1, 1, TFB_GATE_HALVES, TFB_FN_SILU, 0,
     0, 0, TFB_BF16},
    {"F16 interleaved", -1, 50, 142, 33, ORDER | WIDE, 0, 0, 1, 2, TFB_GATE_INTERLEAVED,
     TFB_FN_TANH, 0, 0, 0, TFB_F16},
};

/* --- Workers. --- */
/* A legal but hostile parallel_for: last piece first, workers in turn. */
static void reverse_for(void *user, tfb_idx n, tfb_body_fn body, void *arg) {
    const int workers = *(const int *)user;
    while (n-- > 0) body(arg, n, (int)(n % workers));
}

static void reverse_workers(tfb_ctx *ctx, const int *workers) {
    static int count[9];
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
            float *want = floats_copy(y.mem, y.n);
            tfb_tensor wide_a = batch_wide(&a, &y.t), wide_b = batch_wide(&b, &y.t);
            tfb_tensor wy = box_view(&y, want);
            if (tfb_numel(&wy)) tfb__matmul_ref(&wide_a, &wide_b, &wy);
            CHECK_OK(&ctx, tfb_matmul(&ctx, &a.t, &b.t, &y.t));
            CHECK_BITS(y.mem, want, y.n, "batch case %d, layout %d", i, layouts[l]);
            box_reset(&y);
            CHECK_OK(&ctx, tfb_matmul(&ctx, &wide_a, &wide_b, &y.t)); /* stride 0 */
            CHECK_BITS(y.mem, want, y.n, "batch case %d, expanded", i);
            box_free(&a), box_free(&b), box_free(&y), free(want);
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
            box_free(&x), box_free(&y), box_free(&w), box_free(&r), free(want);
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
        if (strcmp(name, "scalar") == 0 || !t_force(&other, name)) continue;
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

/* --- Weights in 16 bits: what tfb_copy makes of them decides. --- */
static const tfb_idx half_m[] = {1, 2, 3, 5, 8, 9, 13, 16, 20, 33, 65, 193};
static const tfb_idx half_n[] = {1, 2, 15, 16, 17, 31, 33, 97, 193};
static const tfb_idx half_k[] = {0, 1, 15, 17, 31, 64, 255, 256, 257, 769};

/* Forces the i-th of the tables that work here; 0 behind the last. */
static int table_force(tfb_ctx *ctx, int i) {
    const char *name;
    int row;
    for (row = 0; (name = tfb_isa_list(ctx, row, NULL)) != NULL; row++)
        if (t_force(ctx, name) && i-- == 0) return 1;
    return 0;
}

static variant half_variant(int i) {
    variant v = random_variant();
    v.name = i & 2 ? "halves packed" : "halves plain";
    v.batch = t_rand() % 4 ? -1 : t_int(1, 3);
    do {
        v.M = half_m[t_int(0, COUNT(half_m) - 1)];
        v.N = half_n[t_int(0, COUNT(half_n) - 1)];
        v.K = half_k[t_int(0, COUNT(half_k) - 1)];
        v.gate = (tfb_gate)t_int(0, 2);
        v.N += v.gate ? v.N % 2 : 0;
    } while (v.M * v.N * v.K > 3000000);
    v.dtype = dtypes[1 + i % 2];
    v.packed = i >> 1 & 1;
    v.bias = (int)t_int(0, 1);
    v.residual = (int)t_int(0, 2);
    v.act = t_rand() % 3 ? TFB_FN_IDENTITY : (tfb_fn)t_int(0, TFB_FN_TANH);
    v.alpha_set = (int)t_int(0, 1);
    v.alpha = t_float();
    return v;
}

static void halves_equal_floats(void) {
    tfb_ctx ctx;
    int i, table;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 240; i++) {
        const variant v = half_variant(i);
        problem p;
        tfb_tensor half;
        float *want;
        problem_new(&p, &v);
        want = problem_want(&p);
        half = p.weight;
        p.weight = p.w.t; /* the same values in F32 */
        problem_check(&ctx, &p, want);
        p.weight = half;
        problem_check(&ctx, &p, want);
        for (table = 0; table_force(&ctx, table); table++) problem_check(&ctx, &p, want);
        tfb_ctx_free(&ctx);
        t_ctx(&ctx, NULL);
        free(want);
        problem_free(&p);
    }
    tfb_ctx_free(&ctx);
}

/* The value of 16 bits by definition; a sum that begins at +0 makes -0 to +0. */
static float half_value(uint16_t h, tfb_dtype dtype) {
    const int e = h >> 10 & 31, m = h & 0x3FF;
    float x;
    if (dtype == TFB_BF16) return tfb__float_of((uint32_t)h << 16) + 0.0f;
    if (e == 31)
        return m ? tfb__float_of(0x7FC00000u) : h >> 15 ? -TFB__FLT_INF : TFB__FLT_INF;
    x = (float)ldexp(e ? m + 1024 : m, (e ? e : 1) - 25);
    return (h >> 15 ? -x : x) + 0.0f;
}

/* Row n of W holds the bits n once, among zeros; the rows of x are ones. */
static void every_half_as(tfb_ctx *ctx, tfb_dtype dtype, int packed, int turned,
                          tfb_idx M) {
    enum { N = 65536, K = 17 };
    const size_t bytes = tfb_pack_bytes(N, K, dtype);
    uint16_t *w = (uint16_t *)bytes_new(2 * N * K);
    float *x = t_floats(M * K), *y = t_floats(M * N), *want = t_floats(N);
    char *pack = (char *)bytes_new(bytes);
    tfb_tensor X = tfb_view2(x, TFB_F32, M, K), Y = tfb_view2(y, TFB_F32, M, N), W;
    tfb_idx n, m;
    W = tfb_view2(w, dtype, N, K);
    if (turned) W.stride[0] = 1, W.stride[1] = N;
    memset(w, 0, 2 * N * K);
    for (n = 0; n < N; n++) {
        w[n * W.stride[0] + n % K * W.stride[1]] = (uint16_t)n;
        want[n] = half_value((uint16_t)n, dtype);
    }
    for (n = 0; n < M * K; n++) x[n] = 1;
    if (packed) CHECK_OK(ctx, tfb_pack(ctx, &W, pack, bytes, &W));
    CHECK_OK(ctx, tfb_linear(ctx, &X, &W, NULL, &Y));
    for (m = 0; m < M; m++)
        CHECK_BITS(y + m * N, want, N, "%s: row %ld, dtype %d, packed %d, turned %d",
                   tfb_isa_name(ctx), (long)m, (int)dtype, packed, turned);
    free(w), free(x), free(y), free(want), free(pack);
}

static void every_half(void) {
    tfb_ctx ctx;
    int i, table;
    t_ctx(&ctx, NULL);
    for (table = 0; table_force(&ctx, table); table++)
        for (i = 0; i < 16; i++)
            every_half_as(&ctx, dtypes[1 + i % 2], i >> 1 & 1, i >> 2 & 1,
                          i >> 3 ? 9 : 1);
    tfb_ctx_free(&ctx);
}

/* --- Every edge at which work is cut another way. --- */
/* Outputs do not depend on how many there are: the sums of the largest problem are those
 * of all, so each K needs the reference once. */
enum { EDGE = 194 };
static const tfb_idx edge_m[] = {1,  2,  7,  8,  9,  15, 16,  17,  47,
                                 48, 49, 63, 64, 65, 96, 191, 192, 193};
static const tfb_idx edge_n[] = {1,  15, 16, 17, 31,  32,  33,  47,  48,  49,  64,
                                 65, 95, 96, 97, 143, 144, 145, 191, 192, 193, 194};
static const tfb_idx edge_k[] = {1,   16,  255, 256, 257, 511,
                                 512, 513, 767, 768, 769, 1025};

typedef struct sheet {
    tfb_idx K;
    float *a, *w, *sums; /* [EDGE, K], [EDGE, K], a w^T */
} sheet;

static void sheet_new(sheet *s, tfb_idx K) {
    const tfb_linear_opts none = TFB_INIT;
    tfb_tensor x, w, y;
    s->K = K;
    s->a = t_floats(EDGE * K);
    s->w = t_floats(EDGE * K);
    s->sums = t_floats(EDGE * EDGE);
    x = tfb_view2(s->a, TFB_F32, EDGE, K);
    w = tfb_view2(s->w, TFB_F32, EDGE, K);
    y = tfb_view2(s->sums, TFB_F32, EDGE, EDGE);
    tfb__linear_ref(&x, &w, &none, &y);
}

static void sheet_free(sheet *s) {
    free(s->a), free(s->w), free(s->sums);
}

/* The repeated: no stride of x's rows, of W's. */
enum { ONE_ROW = 1, ONE_COLUMN = 2 };

static void edge_new(problem *p, const sheet *s, const variant *v, int repeat) {
    tfb_tensor a = tfb_view2(s->a, TFB_F32, v->M, s->K);
    tfb_tensor w = tfb_view2(s->w, TFB_F32, v->N, s->K);
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    problem_boxes(p, v);
    if (v->matmul) {
        const int swap[2] = {1, 0};
        CHECK_OK(&ctx, tfb_permute(&ctx, &w, swap, &w));
    }
    CHECK_OK(&ctx, tfb_copy(&ctx, &a, &p->x.t));
    CHECK_OK(&ctx, tfb_copy(&ctx, &w, &p->w.t));
    if (repeat & ONE_ROW) p->x.t.stride[0] = 0;
    if (repeat & ONE_COLUMN) p->w.t.stride[v->matmul] = 0;
    problem_ready(p);
    tfb_ctx_free(&ctx);
}

static float *element(const tfb_tensor *t, tfb_idx i, tfb_idx j) {
    return (float *)t->data + i * t->stride[0] + j * t->stride[1];
}

static float *edge_want(const problem *p, const sheet *s, int repeat) {
    const tfb_linear_opts *o = &p->o;
    float *want = floats_copy(p->y.mem0, p->y.n);
    tfb_tensor y = box_view(&p->y, want);
    tfb_idx m, c;
    for (m = 0; m < y.shape[0]; m++)
        for (c = 0; c < y.shape[1]; c++) {
            const float *sums = s->sums + (repeat & ONE_ROW ? 0 : m * EDGE);
            float part[2];
            int up;
            for (up = 0; up <= (o->gate != TFB_GATE_NONE); up++) {
                const tfb_idx n =
                    o->gate == TFB_GATE_INTERLEAVED ? 2 * c + up : c + up * y.shape[1];
                const float *b = (const float *)p->bias.t.data + n * p->bias.t.stride[0];
                part[up] = TFB__FMA(o->alpha_set ? o->alpha : 1.0f,
                                    sums[repeat & ONE_COLUMN ? 0 : n], o->bias ? *b : 0);
            }
            tfb__map_scalar(o->act, 1, part, part);
            if (o->gate) part[0] = part[0] * part[1];
            if (p->v.residual == 1) part[0] = part[0] + *element(&p->residual.t, m, c);
            if (p->v.residual == 2) part[0] = part[0] + *element(&y, m, c);
            *element(&y, m, c) = part[0];
        }
    return want;
}

static variant edge_variant(tfb_idx M, tfb_idx N, tfb_idx K) {
    variant v;
    memset(&v, 0, sizeof v);
    v.batch = -1;
    v.M = M;
    v.N = N;
    v.K = K;
    v.layout = layouts[t_int(0, COUNT(layouts) - 1)];
    v.matmul = t_rand() % 3 == 0;
    v.name = v.matmul ? "edge A B" : "edge A W^T";
    if (v.matmul) return v;
    v.packed = t_rand() % 3 == 0;
    v.bias = t_rand() % 2;
    v.residual = t_rand() % 2 ? 0 : (int)t_int(0, 2);
    v.gate = t_rand() % 2 ? TFB_GATE_NONE : (tfb_gate)t_int(0, 2);
    v.N += v.gate ? N % 2 : 0;
    v.act = v.gate ? TFB_FN_SILU : t_rand() % 4 ? TFB_FN_IDENTITY : TFB_FN_RELU;
    v.alpha_set = t_rand() % 4 == 0;
    v.alpha = t_float();
    return v;
}

/* One call in each of the contexts. */
static void edge_check(tfb_ctx *ctx, int contexts, const sheet *s, tfb_idx M, tfb_idx N) {
    const variant v = edge_variant(M, N, s->K);
    const int repeat = v.packed || t_rand() % 6 ? 0 : (int)t_int(1, 3);
    problem p;
    float *want;
    int i;
    edge_new(&p, s, &v, repeat);
    want = edge_want(&p, s, repeat);
    for (i = 0; i < contexts; i++) problem_check(&ctx[i], &p, want);
    free(want);
    problem_free(&p);
}

static void edges_equal_reference(void) {
    tfb_ctx ctx;
    int i, j;
    t_ctx(&ctx, NULL);
    for (i = 0; i < COUNT(edge_k); i++) {
        sheet s;
        sheet_new(&s, edge_k[i]);
        for (j = 0; j < 2 * COUNT(edge_m); j++)
            edge_check(&ctx, 1, &s, edge_m[j / 2], edge_n[t_int(0, COUNT(edge_n) - 1)]);
        for (j = 0; j < 2 * COUNT(edge_n); j++)
            edge_check(&ctx, 1, &s, edge_m[t_int(0, COUNT(edge_m) - 1)], edge_n[j / 2]);
        sheet_free(&s);
    }
    tfb_ctx_free(&ctx);
}

/* 1, 2, 3 and 8 workers: of the pool, and of a parallel_for that goes backwards. */
static void edges_with_workers(void) {
    static const int workers[] = {1, 2, 3, 8};
    static const tfb_idx ks[] = {64, 257, 769};
    tfb_ctx ctx[2 * COUNT(workers)];
    int i, j;
    for (i = 0; i < COUNT(ctx); i++) {
        t_ctx(&ctx[i], NULL);
        if (i % 2 || tfb_ctx_threads(&ctx[i], workers[i / 2], 100) != TFB_OK)
            reverse_workers(&ctx[i], &workers[i / 2]);
    }
    for (i = 0; i < COUNT(ks); i++) {
        sheet s;
        sheet_new(&s, ks[i]);
        for (j = 0; j < COUNT(edge_m); j++) { /* enough work to wake the workers */
            tfb_idx M = edge_m[j], N = edge_n[t_int(0, COUNT(edge_n) - 1)];
            if (M * N * s.K < TFB__WAKE_WORK) N = 191 + j % 3;
            edge_check(ctx, COUNT(ctx), &s, M, N);
        }
        sheet_free(&s);
    }
    for (i = 0; i < COUNT(ctx); i++) tfb_ctx_free(&ctx[i]);
}

/* K strides of 0 have no sheet: each element repeats along k. */
static void edges_repeat_along_k(void) {
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 60; i++) {
        variant v =
            edge_variant(edge_m[i % 14], edge_n[t_int(0, 12)], edge_k[t_int(1, 5)]);
        problem p;
        float *want;
        v.name = "no stride along k";
        v.packed = 0;
        problem_new(&p, &v);
        if (i % 3 != 1) p.x.t.stride[1] = 0;
        if (i % 3 != 2) p.w.t.stride[!v.matmul] = p.weight.stride[!v.matmul] = 0;
        want = problem_want(&p);
        problem_check(&ctx, &p, want);
        free(want);
        problem_free(&p);
    }
    tfb_ctx_free(&ctx);
}

/* --- When workers are woken: never for little work, and once for a call. --- */
static long woken;

static void counting_for(void *user, tfb_idx n, tfb_body_fn body, void *arg) {
    woken++;
    reverse_for(user, n, body, arg);
}

static void little_work_wakes_nobody(void) {
    enum { K = TFB__WAKE_WORK / (64 * 64) };
    static const struct {
        tfb_idx batch, M, N, K;
        int wakes;
    } cases[] = {
        {-1, 1, 1, 1, 0},          {-1, 1, 16, 16, 0},        {-1, 64, 64, K - 1, 0},
        {-1, 63, 64, K, 0},        {-1, 64, 63, K, 0},        {-1, 64, 64, K, 1},
        {4, 64, 64, K / 4 - 1, 0}, {4, 64, 64, K / 4, 1},     {-1, 1, 4095, K, 0},
        {-1, 1, 4096, K, 1},       {-1, 4096, K / 16, 16, 1}, {-1, 100, 2000, 0, 0},
        {-1, 0, 512, 512, 0},      {-1, 193, 193, 769, 1}};
    int workers = 3, i, kind;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    reverse_workers(&ctx, &workers);
    ctx.parallel_for = counting_for;
    for (i = 0; i < COUNT(cases); i++)
        for (kind = 0; kind < 4; kind++) {
            variant v;
            memset(&v, 0, sizeof v);
            v.name = "woken";
            v.batch = cases[i].batch;
            v.M = cases[i].M;
            v.N = cases[i].N;
            v.K = cases[i].K;
            v.matmul = kind == 0;
            v.packed = kind == 2;
            v.residual = kind > 1;
            v.dtype = kind == 3 ? TFB_F16 : TFB_F32;
            woken = 0;
            variant_check(&ctx, &v);
            CHECK(woken == cases[i].wakes, "%ld x %ld x %ld, kind %d: %ld calls",
                  (long)v.M, (long)v.N, (long)v.K, kind, woken);
        }
    tfb_ctx_free(&ctx);
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
        box_reset(&p.y);
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

/* Weights and x can be read where they lie, and sums go straight to y. */
static int needs_nothing(const variant *v) {
    if (v->act > TFB_FN_RELU || v->gate || v->bias || v->layout || v->dtype) return 0;
    if (v->residual && v->K > 256) return 0; /* sums of blocks could overwrite it */
    return v->packed || (v->matmul && v->M <= 8 && v->N % 16 == 0);
}

/* What is measured is what is used: exactly so much succeeds, one byte less fails. */
static void scratch_is_exact(void) {
    tfb_ctx like, ctx;
    int i, j, direct = 0;
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
        CHECK((need == 0) == needs_nothing(&p.v), "%s: %ld", p.v.name, (long)need);
        direct += need == 0;
        mem = (char *)bytes_new(need);
        for (j = 0; j <= (need > 0); j++) {
            CHECK_OK(&ctx, tfb_ctx_init_static(&ctx, mem, need - (size_t)j));
            CHECK_OK(&ctx, tfb_isa_force(&ctx, tfb_isa_name(&like)));
            reverse_workers(&ctx, workers);
            if (!j) problem_check(&ctx, &p, want);
        }
        box_reset(&p.y);
        sprintf(text, "needs %ld", (long)need);
        if (need) {
            CHECK_FAILS(&ctx, TFB_ERR_SCRATCH, text, problem_run(&ctx, &p));
            CHECK_BITS(p.y.mem, p.y.mem0, p.y.n, "%s: too little scratch", p.v.name);
        }
        free(mem), free(want);
        problem_free(&p);
    }
    CHECK(direct == 5 * COUNT(worker_counts), "%d calls without scratch", direct);
    tfb_ctx_free(&like);
}

/* A fits, but not what it takes: the panels of W, 16 times as wide as W. */
static void scratch_overflows(void) {
    static const struct {
        tfb_idx M, K, k_stride;
        int workers;
    } cases[] = {{9, HUGE_EXTENT / 32 + 1, 1, 1}, {9, HUGE_EXTENT / 32 + 1, 0, 1}};
    tfb_ctx ctx;
    int i;
    CHECK_OK(&ctx, tfb_ctx_init_measure(&ctx));
    for (i = 0; i < COUNT(cases); i++) {
        tfb_tensor a = tfb_view2(NULL, TFB_F32, cases[i].M, cases[i].K);
        tfb_tensor b = tfb_view2(NULL, TFB_F32, cases[i].K, 1);
        tfb_tensor y = tfb_view2(NULL, TFB_F32, cases[i].M, 1);
        a.stride[1] = cases[i].k_stride;
        ctx.workers = cases[i].workers;
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
            box_reset(&p.y);
            st = problem_run(&ctx, &p);
            again = heap.calls >= fail;
            CHECK(st == TFB_OK || st == TFB_ERR_MEMORY, "status %d", (int)st);
            CHECK(fail > 1 || (st == TFB_OK) == needs_nothing(&p.v), "the first failed");
            if (st) CHECK(strstr(ctx.message, "scratch") != NULL, "%s", ctx.message);
            CHECK_BITS(p.y.mem, st ? p.y.mem0 : want, p.y.n, "%s: allocation %ld",
                       p.v.name, fail);
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
        size_t floats; /* in the panels; 1: it overflows */
    } cases[] = {{0, 0, 0},
                 {1, 1, 16},
                 {16, 3, 48},
                 {17, 3, 96},
                 {0, 9, 0},
                 {5, 0, 0},
                 {-1, 4, 1},
                 {4, -1, 1},
                 {PTRDIFF_MAX, PTRDIFF_MAX, 1},
                 {PTRDIFF_MAX, 1, 1},
                 {1, PTRDIFF_MAX, 1},
                 {PTRDIFF_MIN, PTRDIFF_MIN, 1},
                 {-1, 0, 1},
                 {0, PTRDIFF_MIN, 1},
                 {PTRDIFF_MAX, 0, 0},
                 {0, PTRDIFF_MAX, 0},
                 {HUGE_EXTENT, 16, 1},
                 {16, HUGE_EXTENT / 8, 1}};
    static const tfb_dtype bad[] = {TFB_I32,        TFB_U8,          TFB_PACKED_F32,
                                    TFB_PACKED_F16, TFB_PACKED_BF16, TFB__DTYPES,
                                    (tfb_dtype)31,  (tfb_dtype)-1};
    int i, d;
    for (i = 0; i < COUNT(cases); i++)
        for (d = 0; d < 3; d++) {
            const size_t floats = cases[i].floats, size = d ? 2 : 4;
            CHECK(tfb_pack_bytes(cases[i].n, cases[i].k, dtypes[d]) ==
                      (floats == 1 ? 0 : 64 + size * floats),
                  "%ld x %ld, dtype %d", (long)cases[i].n, (long)cases[i].k, d);
        }
    for (i = 0; i < COUNT(bad); i++)
        CHECK(tfb_pack_bytes(5, 5, bad[i]) == 0, "dtype %d", (int)bad[i]);
    CHECK(tfb_pack_bytes(16, PTRDIFF_MAX / 40, TFB_F16) != 0 &&
              tfb_pack_bytes(16, PTRDIFF_MAX / 40, TFB_F32) == 0,
          "fits in 16 bits only");
}

/* The byte at a place of W's pack, from the documented layout alone. */
static unsigned char pack_byte(const tfb_tensor *w, size_t at) {
    const tfb_idx N = w->shape[0], K = w->shape[1];
    const size_t size = w->dtype == TFB_F32 ? 4 : 2;
    unsigned char header[64] = "TFBPACK1\1"; /* version 1 at 8 */
    uint32_t bits;
    uint16_t half;
    tfb_idx f, n, k;
    int i;
    header[12] = w->dtype == TFB_F16 ? 1 : w->dtype == TFB_BF16 ? 2 : 0;
    for (i = 0; i < 8; i++) {
        header[16 + i] = (unsigned char)((uint64_t)N >> (8 * i));
        header[24 + i] = (unsigned char)((uint64_t)K >> (8 * i));
    }
    if (at < 64) return header[at];
    f = (tfb_idx)((at - 64) / size);
    n = f / (16 * K) * 16 + f % 16;
    k = f / 16 % K;
    if (n >= N) return 0;
    f = n * w->stride[0] + k * w->stride[1];
    if (size == 4) memcpy(&bits, (float *)w->data + f, 4);
    else memcpy(&half, (uint16_t *)w->data + f, 2), bits = half;
    return (unsigned char)(bits >> (8 * (at % size)));
}

static void pack_layout_of(const char *isa, tfb_dtype dtype, tfb_idx N, tfb_idx K,
                           int layout) {
    static const tfb_dtype packs[] = {TFB_PACKED_F32, TFB_PACKED_F16, TFB_PACKED_BF16};
    const size_t bytes = tfb_pack_bytes(N, K, dtype);
    unsigned char *mem = (unsigned char *)bytes_new(bytes + 4);
    size_t at, off = 0;
    variant v;
    problem p;
    tfb_tensor packed;
    tfb_ctx ctx;
    memset(&v, 0, sizeof v);
    v.batch = -1;
    v.N = N;
    v.K = K;
    v.layout = layout;
    v.dtype = dtype;
    v.odd = 2;
    problem_new(&p, &v);
    memset(mem, 0xA5, bytes + 4);
    t_ctx(&ctx, NULL);
    if (isa) CHECK_OK(&ctx, tfb_isa_force(&ctx, isa));
    CHECK_OK(&ctx, tfb_pack(&ctx, &p.weight, mem, bytes, &packed));
    for (at = 0; at < bytes; at++) off += mem[at] != pack_byte(&p.weight, at);
    for (; at < bytes + 4; at++) off += mem[at] != 0xA5;
    CHECK(off == 0, "%ld bytes of %ld x %ld differ, dtype %d", (long)off, (long)N,
          (long)K, (int)dtype);
    CHECK(packed.data == mem && packed.ndim == 2 && packed.shape[0] == N &&
              packed.shape[1] == K && packed.dtype == packs[dtype] && !packed.stride[0] &&
              !packed.stride[1],
          "the view of the pack");
    free(mem);
    problem_free(&p);
    tfb_ctx_free(&ctx);
}

static void pack_layout(void) {
    int i, l, d;
    for (d = 0; d < 6; d++)
        for (i = 0; i < 24; i++)
            for (l = 0; l < COUNT(layouts); l++)
                pack_layout_of(d / 3 ? "scalar" : NULL, dtypes[d % 3],
                               i < 12 ? size_up_to(65) : t_int(0, 50),
                               i < 12 ? size_up_to(65) : t_int(0, 50), layouts[l]);
}

/* The bytes themselves, once: W[n][k] = 0x1100 + 16 n + k, so low bytes come first. */
static void pack_bytes_written_out(void) {
    static const unsigned char k0[4] = {0x00, 0x11, 0x10, 0x11}, k1[2] = {0x01, 0x11};
    uint16_t w[2][2] = {{0x1100, 0x1101}, {0x1110, 0x1111}}, i;
    unsigned char mem[64 + 64];
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 2; i++) {
        tfb_tensor W = tfb_view2(w, i ? TFB_BF16 : TFB_F16, 2, 2), packed;
        uint32_t aligned[sizeof mem / 4], j;
        CHECK_OK(&ctx, tfb_pack(&ctx, &W, aligned, sizeof aligned, &packed));
        memcpy(mem, aligned, sizeof mem);
        CHECK(mem[12] == 1 + i && mem[13] + mem[14] + mem[15] == 0, "dtype of %d", i);
        CHECK(memcmp(mem + 64, k0, 4) == 0 && memcmp(mem + 96, k1, 2) == 0, "%d", i);
        for (j = 68; j < 96; j++) CHECK(mem[j] == 0 && mem[j + 32] == 0, "padding");
    }
    tfb_ctx_free(&ctx);
}

/* The same variable for plain and packed weights is what a program writes. */
static void pack_into_its_own_view(void) {
    float w[6] = {1, 2, 3, 4, 5, 6}, mem[64], want[64];
    tfb_tensor W = tfb_view2(w, TFB_F32, 3, 2), P;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_pack(&ctx, &W, want, sizeof want, &P));
    CHECK_OK(&ctx, tfb_pack(&ctx, &W, mem, sizeof mem, &W));
    CHECK(memcmp(mem, want, tfb_pack_bytes(3, 2, TFB_F32)) == 0,
          "packed into its own view");
    CHECK(W.data == mem && W.dtype == TFB_PACKED_F32, "the view");
    tfb_ctx_free(&ctx);
}

/* A pack is only bytes: it works from anywhere, at any address aligned to 4. */
static void pack_moves_as(tfb_dtype dtype) {
    const variant v = {"moved",         -1, 3, 37, 21,   0, 0, 1, 0, 0, TFB_GATE_NONE,
                       TFB_FN_IDENTITY, 0,  0, 0,  dtype};
    const size_t bytes = tfb_pack_bytes(v.N, v.K, dtype);
    char *other = (char *)bytes_new(bytes + 64);
    problem p;
    float *want;
    tfb_dtype packed;
    tfb_ctx ctx;
    size_t shift;
    t_ctx(&ctx, NULL);
    problem_new(&p, &v);
    want = problem_want(&p);
    packed = p.weight.dtype;
    for (shift = 0; shift < 64; shift += 4) {
        memcpy(other + shift, p.pack, bytes);
        CHECK_OK(&ctx, tfb_pack_open(&ctx, other + shift, bytes, &p.weight));
        CHECK(p.weight.shape[0] == v.N && p.weight.shape[1] == v.K &&
                  p.weight.dtype == packed && p.weight.data == other + shift,
              "opened");
        problem_check(&ctx, &p, want);
    }
    CHECK_OK(&ctx, tfb_pack_open(&ctx, p.pack, bytes + 100, &p.weight)); /* fine */
    free(other), free(want);
    problem_free(&p);
    tfb_ctx_free(&ctx);
}

static void pack_moves(void) {
    int d;
    for (d = 0; d < 3; d++) pack_moves_as(dtypes[d]);
}

/* pack_open must refuse with FORMAT and leave *packed alone. */
static void open_refuses(tfb_ctx *ctx, const void *mem, size_t bytes, const char *text) {
    tfb_tensor p, before;
    memset(&p, 0x5A, sizeof p);
    before = p;
    CHECK_FAILS(ctx, TFB_ERR_FORMAT, text, tfb_pack_open(ctx, mem, bytes, &p));
    CHECK(memcmp(&p, &before, sizeof p) == 0, "packed changed");
}

static void pack_corrupted_as(tfb_dtype dtype) {
    static const unsigned char huge[][16] = {
        {255, 255, 255, 255, 255, 255, 255, 255, 1},        /* N = -1 */
        {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128}, /* K = -2^63 */
        {0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0},   /* 2^32 x 2^32 */
        {255, 255, 255, 255, 255, 255, 255, 127, 1},        /* N = 2^63 - 1 */
    };
    float w[5 * 7] = {0};
    tfb_tensor W = tfb_view2(w, dtype, 5, 7), P;
    const size_t bytes = tfb_pack_bytes(5, 7, dtype);
    unsigned char *mem = (unsigned char *)bytes_new(bytes), *cut;
    size_t at;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_pack(&ctx, &W, mem, bytes, &P));
    for (at = 0; at < bytes;
         at += at < 70 || at + 40 > bytes ? 1 : 37) { /* heap blocks of just that size */
        cut = (unsigned char *)bytes_new(at);
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
    for (at = 32; at < 64; at++) {
        mem[at] ^= 1;
        open_refuses(&ctx, mem, bytes, "of the pack is not 0");
        mem[at] ^= 1;
    }
    mem[12] = 3; /* the dtypes behind 2 are none of packs */
    open_refuses(&ctx, mem, bytes, "version or dtype");
    mem[12] = 0; /* as F32 it would be longer */
    if (dtype != TFB_F32) open_refuses(&ctx, mem, bytes, "cut off");
    mem[12] = (unsigned char)dtype;
    CHECK_OK(&ctx, tfb_pack_open(&ctx, mem, bytes, &P));
    for (at = 0; at < (size_t)COUNT(huge); at++) {
        memcpy(mem + 16, huge[at], 16);
        open_refuses(&ctx, mem, bytes, "the pack's size overflows");
    }
    free(mem);
    tfb_ctx_free(&ctx);
}

static void pack_corrupted(void) {
    int d;
    for (d = 0; d < 3; d++) pack_corrupted_as(dtypes[d]);
}

/* tfb_linear does not trust a packed view either. */
static void linear_checks_packs(void) {
    float w[6 * 4] = {0}, x[4] = {0}, y[6] = {1, 2, 3, 4, 5, 6}, before[6];
    char *mem = (char *)malloc(tfb_pack_bytes(6, 4, TFB_F32) + 1);
    tfb_tensor W = tfb_view2(w, TFB_F32, 6, 4), X = tfb_view1(x, TFB_F32, 4), P, bad;
    tfb_tensor Y = tfb_view1(y, TFB_F32, 6);
    tfb_ctx ctx;
    int i;
    memcpy(before, y, sizeof y);
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_pack(&ctx, &W, mem, tfb_pack_bytes(6, 4, TFB_F32), &P));
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
    for (mem[12] = 1; mem[12] < 3; mem[12]++)
        CHECK_FAILS(&ctx, TFB_ERR_DTYPE,
                    mem[12] == 1 ? "w is F32, the pack F16" : "w is F32, the pack BF16",
                    tfb_linear(&ctx, &X, &P, NULL, &Y));
    mem[12] = 3;
    CHECK_FAILS(&ctx, TFB_ERR_FORMAT, "version", tfb_linear(&ctx, &X, &P, NULL, &Y));
    mem[12] = 0;
    for (i = 0; i < 2; i++) {
        bad = P;
        bad.dtype = i ? TFB_PACKED_BF16 : TFB_PACKED_F16;
        CHECK_FAILS(&ctx, TFB_ERR_DTYPE,
                    i ? "w is BF16, the pack F32" : "w is F16, the pack F32",
                    tfb_linear(&ctx, &X, &bad, NULL, &Y));
    }
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

static tfb_status run_direct(tfb_ctx *ctx, tfb_tensor **t) { /* without options */
    return tfb_linear(ctx, t[0], t[1], NULL, t[4]);
}

static void matmul_refuses(void) {
    call c = {{"a", "b", "y"}, {0}, 3, run_matmul, {{0}}, {0}, {0}};
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
    call c = {{"x", "w", "bias", "residual", "y"},
              {0, 0, 1, 1, 0},
              5,
              run_linear,
              {{0}},
              {0},
              {0}};
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

/* Small products are checked in a shorter way, which must let through no more. */
static void tiny_refuses(void) {
    call c = {{"a", "b", "y"}, {0}, 3, run_matmul, {{0}}, {0}, {0}};
    call d = {{"x", "w", "bias", "residual", "y"},
              {0, 0, 1, 1, 0},
              5,
              run_direct,
              {{0}},
              {0},
              {0}};
    const tfb_tensor a = tfb_view2(c.mem, TFB_F32, 2, 3);
    const tfb_tensor b = tfb_view2(c.mem + 6, TFB_F32, 3, 16);
    const tfb_tensor y = tfb_view2(c.mem + 54, TFB_F32, 2, 16);
    const tfb_tensor x = tfb_view2(d.mem, TFB_F32, 2, 3);
    const tfb_tensor w = tfb_view2(d.mem + 6, TFB_F32, 5, 3);
    const tfb_tensor z = tfb_view2(d.mem + 21, TFB_F32, 2, 5);
    const wrong products[] = {
        {0, with_extent(a, 1, 4), TFB_ERR_SHAPE, "b.shape[0] is 3, needs 4"},
        {1, with_extent(b, 1, 32), TFB_ERR_SHAPE, "y.shape[1] is 16, b has 32"},
        {2, with_extent(y, 0, 1), TFB_ERR_SHAPE, "y.shape[0] is 1, a has 2 rows"},
        {2, with_stride(y, 0, 15), TFB_ERR_SHAPE, "y.stride[0] is 15: elements would"},
        {1, with_dtype(b, TFB_F16), TFB_ERR_DTYPE, "b is F16"},
        {2, with_data(y, c.mem + 5), TFB_ERR_ALIAS, "y overlaps a"},
        {2, with_data(y, c.mem + 53), TFB_ERR_ALIAS, "y overlaps b"},
    };
    const wrong layers[] = {
        {0, with_extent(x, 1, 4), TFB_ERR_SHAPE, "x.shape[1] is 4, needs 3"},
        {1, with_extent(w, 0, 6), TFB_ERR_SHAPE, "y.shape[1] is 5, needs 6"},
        {4, with_extent(z, 0, 1), TFB_ERR_SHAPE, "y.shape[0] is 1, needs 2"},
        {4, with_stride(z, 0, 4), TFB_ERR_SHAPE, "y.stride[0] is 4: elements would"},
        {1, with_dtype(w, TFB_U8), TFB_ERR_DTYPE, "w is U8"},
        {1, with_dtype(w, TFB_PACKED_F32), TFB_ERR_FORMAT, "do not begin as a pack"},
        {4, with_data(z, d.mem + 5), TFB_ERR_ALIAS, "y overlaps x"},
        {4, with_data(z, d.mem + 20), TFB_ERR_ALIAS, "y overlaps w"},
    };
    c.t[0] = a, c.t[1] = b, c.t[2] = y;
    d.t[0] = x, d.t[1] = w, d.t[4] = z;
    d.t[2] = tfb_view1(d.mem + 100, TFB_F32, 5), d.t[3] = z; /* not used */
    call_refuses_any(&c);
    call_refuses(&c, products, COUNT(products));
    call_refuses(&d, layers, COUNT(layers));
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
    const size_t bytes = tfb_pack_bytes(5, 2, TFB_F32);
    const size_t halves = tfb_pack_bytes(5, 2, TFB_F16);
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
        {with_dtype(w, TFB_I32), to, bytes, TFB_ERR_DTYPE, "w is I32"},
        {with_dtype(w, TFB_F16), to, halves - 1, TFB_ERR_RANGE, "is 127, needs 128"},
        {with_dtype(w, TFB_BF16), to, 0, TFB_ERR_RANGE, "mem_bytes is 0, needs 128"},
        {with_dtype(w, TFB_F16), mem + 4, halves, TFB_ERR_ALIAS, "mem overlaps w"},
        {with_dtype(w, TFB_PACKED_F16), to, bytes, TFB_ERR_DTYPE, "w is PACKED_F16"},
        {with_dtype(with_data(w, (char *)mem + 1), TFB_BF16), to, bytes, TFB_ERR_ARG,
         "w.data is not aligned"},
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

/* TFB_LINEAR_SCRATCH bounds what is measured: any gate, weights and number of workers.
 * K counts as 0 where W is packed in F32 and x's rows are contiguous. */
static void scratch_is_bounded(void) {
    static const tfb_idx extents[] = {1, 8, 16, 48, 65, 70, 97, 193, 400, 769, 3000};
    static const tfb_dtype weights[] = {TFB_F32,        TFB_F16,        TFB_BF16,
                                        TFB_PACKED_F32, TFB_PACKED_F16, TFB_PACKED_BF16};
    tfb_ctx ctx;
    int i;
    CHECK_OK(&ctx, tfb_ctx_init_measure(&ctx));
    for (i = 0; i < 6000; i++) {
        const tfb_idx M = extents[t_int(0, 10)], N = 2 * extents[t_int(0, 10)],
                      K = extents[t_int(0, 10)];
        const tfb_dtype dtype = weights[t_int(0, 5)];
        const int gathered = (int)t_int(0, 1);
        tfb_linear_opts o = TFB_INIT;
        tfb_tensor x = tfb_view2(NULL, TFB_F32, M, K), b = tfb_view1(NULL, TFB_F32, N);
        tfb_tensor w = tfb_view2(NULL, dtype, N, K), y, r;
        size_t bound;
        ctx.workers = (int)t_int(1, 5);
        bound = TFB_LINEAR_SCRATCH(M, N, dtype == TFB_PACKED_F32 && !gathered ? 0 : K,
                                   ctx.workers);
        o.gate = (tfb_gate)t_int(0, 2);
        y = tfb_view2(NULL, TFB_F32, M, o.gate ? N / 2 : N);
        r = y;
        if (t_rand() & 1) o.bias = &b;
        if (t_rand() & 1) o.act = TFB_FN_SILU;
        if (t_rand() & 1) o.residual = t_rand() & 1 ? &r : &y;
        if (gathered) x.stride[0] = 1, x.stride[1] = M;
        CHECK_OK(&ctx, tfb_linear(&ctx, &x, &w, &o, &y));
        CHECK(ctx.scratch_last <= bound, "M %ld N %ld K %ld, %d: %ld above %ld", (long)M,
              (long)N, (long)K, (int)dtype, (long)ctx.scratch_last, (long)bound);
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
    RUN(halves_equal_floats);
    RUN(every_half);
    RUN(edges_equal_reference);
    RUN(edges_with_workers);
    RUN(edges_repeat_along_k);
    RUN(little_work_wakes_nobody);
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
    RUN(pack_bytes_written_out);
    RUN(pack_into_its_own_view);
    RUN(pack_moves);
    RUN(pack_corrupted);
    RUN(linear_checks_packs);
    RUN(matmul_refuses);
    RUN(linear_refuses);
    RUN(tiny_refuses);
    RUN(measuring_refuses);
    RUN(pack_refuses);
    RUN(scratch_is_bounded);
    FINISH();
}
