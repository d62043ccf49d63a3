/* What every build of tests/compile/run.sh runs: a few results under every table this
 * build and this CPU have, checked and hashed. It prints "ok", then <block>=<hash> for
 * each block that no switch left out, the same whichever compiler, language or switch
 * made it, and the tables. No heap is needed. */
#ifndef TEST_HEADER
#define TEST_HEADER "tfblocks.h"
#endif
#ifdef TEST_TWICE
#include TEST_HEADER
#endif
#ifndef TEST_DECLARATIONS_ONLY /* then impl.c is the other translation unit */
#define TFBLOCKS_IMPLEMENTATION
#endif
#include TEST_HEADER
#ifdef TEST_TWICE
#include TEST_HEADER
#endif
#include <stdio.h>
#include <string.h>

#if defined(TFB_PTHREADS) && !defined(TFB_NO_STDLIB)
#define HEAP 1
#else
#define HEAP 0
static double scratch[1 << 15];
#endif
static float data[8192];
static int used;

static float *noise(int n, unsigned seed, float scale) { /* at most 512 scale */
    float *p = data + used;
    int i;
    for (i = 0; i < n; i++) {
        uint32_t u = (uint32_t)i * 0x9E3779B1u + seed * 0x85EBCA6Bu;
        u = (u ^ u >> 15) * 0x2C1B3C6Du;
        p[i] = ((float)(u >> 8) - 8388608.0f) * (scale / 16384.0f);
    }
    used += n;
    return p;
}

static unsigned long hash(const float *y, tfb_idx n) { /* the same in any byte order */
    unsigned long h = 0x811C9DC5ul;
    tfb_idx i;
    for (i = 0; i < 4 * n; i++) {
        uint32_t u;
        memcpy(&u, y + i / 4, 4);
        h = ((h ^ (u >> i % 4 * 8 & 255)) * 0x01000193ul) & 0xFFFFFFFFul;
    }
    return h;
}

/* --- A step a block: its status; y has N floats. --- */
enum { T = 6, D = 18, K = 270, N = T * D };

#ifndef TFB_NO_MATMUL
static tfb_status matmul(tfb_ctx *ctx, float *y) {
    const tfb_tensor a = tfb_view2(noise(T * K, 3, 0.00390625f), TFB_F32, T, K);
    const tfb_tensor b = tfb_view2(noise(K * D, 5, 0.0009765625f), TFB_F32, K, D);
    tfb_tensor out = tfb_view2(y, TFB_F32, T, D);
    return tfb_matmul(ctx, &a, &b, &out);
}
#endif

#ifndef TFB_NO_LINEAR
static tfb_status linear(tfb_ctx *ctx, float *y) {
    const tfb_tensor x = tfb_view2(noise(T * K, 3, 0.00390625f), TFB_F32, T, K);
    const tfb_tensor w = tfb_view2(noise(D * K, 5, 0.0009765625f), TFB_F32, D, K);
    const tfb_tensor bias = tfb_view1(noise(D, 29, 0.001953125f), TFB_F32, D);
    tfb_tensor out = tfb_view2(y, TFB_F32, T, D);
    tfb_linear_opts o;
    memset((void *)&o, 0, sizeof o);
    o.bias = &bias;
    o.act = TFB_FN_RELU;
    return tfb_linear(ctx, &x, &w, &o, &out);
}
#endif

#if !defined(TFB_NO_TENSOR_OPS) && !defined(TFB_NO_FN_GELU)
static tfb_status gelu(tfb_ctx *ctx, float *y) {
    const tfb_tensor x = tfb_view1(noise(N, 7, 0.0078125f), TFB_F32, N);
    tfb_tensor out = tfb_view1(y, TFB_F32, N);
    return tfb_map(ctx, TFB_FN_GELU_ERF, &x, &out);
}
#endif

#ifndef TFB_NO_NORMS
static tfb_status norm(tfb_ctx *ctx, float *y) {
    const tfb_tensor x = tfb_view2(noise(N, 11, 0.0078125f), TFB_F32, T, D);
    tfb_tensor out = tfb_view2(y, TFB_F32, T, D);
    return tfb_rmsnorm(ctx, &x, NULL, &out);
}
#endif

#ifndef TFB_NO_ROPE
static tfb_status rope(tfb_ctx *ctx, float *y) {
    const tfb_tensor x = tfb_view4(noise(N, 13, 0.0078125f), TFB_F32, 1, 1, T, D);
    tfb_tensor out = tfb_view4(y, TFB_F32, 1, 1, T, D);
    return tfb_rope(ctx, &x, NULL, &out);
}
#endif

#ifndef TFB_NO_ATTENTION
static tfb_status attention(tfb_ctx *ctx, float *y) {
    const tfb_tensor q = tfb_view4(noise(N, 17, 0.0078125f), TFB_F32, 1, 1, T, D);
    tfb_tensor out = tfb_view4(y, TFB_F32, 1, 1, T, D);
    tfb_status status;
    tfb_attention_opts o;
    memset((void *)&o, 0, sizeof o);
    o.causal = TFB_CAUSAL_BOTTOM_RIGHT;
    status = tfb_attention(ctx, &q, &q, &q, &o, &out);
    if (!status && memcmp(y, q.data, D * sizeof(float)) != 0) return TFB_ERR_ARG;
    return status; /* the first row sees one key only */
}
#endif

static tfb_status nothing(tfb_ctx *ctx, float *y) { /* there is no empty array */
    (void)ctx;
    memset((void *)y, 0, N * sizeof *y);
    return TFB_OK;
}

static const struct step {
    const char *name;
    tfb_status (*run)(tfb_ctx *ctx, float *y);
} steps[] = {
#ifndef TFB_NO_MATMUL
    {"matmul", matmul},
#endif
#ifndef TFB_NO_LINEAR
    {"linear", linear},
#endif
#if !defined(TFB_NO_TENSOR_OPS) && !defined(TFB_NO_FN_GELU)
    {"gelu", gelu},
#endif
#ifndef TFB_NO_NORMS
    {"norm", norm},
#endif
#ifndef TFB_NO_ROPE
    {"rope", rope},
#endif
#ifndef TFB_NO_ATTENTION
    {"attention", attention},
#endif
    {"nothing", nothing},
};
#define STEPS ((int)(sizeof steps / sizeof *steps))
static unsigned long hashes[STEPS];

static int bad(tfb_ctx *ctx, const char *what) {
    printf("bad %s: %s\n", what, ctx->message);
    return 1;
}

/* All steps under the table in use; with the contract, every table gives the same. */
static int run_steps(tfb_ctx *ctx, int compare) {
    int i;
    for (i = 0; i < STEPS; i++) {
        unsigned long h;
        float *y;
        used = 0;
        y = noise(N, 1, 0);
        if (steps[i].run(ctx, y)) return bad(ctx, steps[i].name);
        h = hash(y, N);
        if (compare && h != hashes[i]) return bad(ctx, tfb_isa_name(ctx));
        hashes[i] = h;
    }
    return 0;
}

static int exact(tfb_ctx *ctx) {
#ifndef TFB_NO_MATMUL
    float a[6] = {1, 2, 3, 4, 5, 6}, b[6] = {1, 0, 0, 1, 1, 1}, y[4];
    static const float want[4] = {4, 5, 10, 11};
    tfb_tensor A = tfb_view2(a, TFB_F32, 2, 3), B = tfb_view2(b, TFB_F32, 3, 2);
    tfb_tensor Y = tfb_view2(y, TFB_F32, 2, 2);
    if (tfb_matmul(ctx, &A, &B, &Y)) return bad(ctx, "matmul");
    if (memcmp(y, want, sizeof y) != 0) return bad(ctx, "product");
#ifndef TFB_NO_CHECKS
    if (tfb_matmul(ctx, &A, &A, &Y) != TFB_ERR_SHAPE) return bad(ctx, "status");
#ifdef TFB_NO_MESSAGES
    if (ctx->message[0]) return bad(ctx, "message");
#else
    if (!strstr(ctx->message, "tfb_matmul: b.shape[0] is 2")) return bad(ctx, "message");
#endif
#endif
#endif
    (void)ctx;
    return 0;
}

static int begin(tfb_ctx *ctx) {
#if HEAP
    if (tfb_ctx_init(ctx)) return bad(ctx, "init");
    if (tfb_ctx_threads(ctx, 3, 0)) return bad(ctx, "threads");
#else
    if (tfb_ctx_init_static(ctx, scratch, sizeof scratch)) return bad(ctx, "init");
#ifndef TFB_PTHREADS
    if (tfb_ctx_threads(ctx, 3, 0) != TFB_ERR_UNSUPPORTED) return bad(ctx, "threads");
#endif
#endif
    return 0;
}

int main(void) {
    char tables[64] = "";
    const char *name;
    tfb_ctx ctx;
    int i, done = 0, contract;
    if (begin(&ctx)) return 1;
    contract = tfb_build_info(&ctx) == TFB_OK;
    for (i = 0; (name = tfb_isa_list(&ctx, i, NULL)) != NULL; i++) {
        if (tfb_isa_force(&ctx, name)) continue;
        if (strlen(tables) + strlen(name) + 2 < sizeof tables) {
            strcat(tables, " ");
            strcat(tables, name);
        }
        if (exact(&ctx)) return 1;
        if (contract && tfb_build_info(&ctx) != TFB_OK) continue; /* it has no fma */
        if (run_steps(&ctx, done++ && contract)) return 1;
    }
    printf("%s", contract ? "ok" : "unsupported");
    for (i = 0; i < STEPS; i++) printf(" %s=%08lX", steps[i].name, hashes[i]);
    printf("%s\n", tables);
    tfb_ctx_free(&ctx);
    return 0;
}
