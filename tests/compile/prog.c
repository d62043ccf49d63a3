/* What every build of tests/compile/run.sh runs: a few results under every table this
 * build and this CPU have, checked and hashed. It prints "ok <hash>", the same whichever
 * compiler, language or switch made it, and behind it the tables. No heap is needed. */
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

#ifndef TFB_PTHREADS
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

static unsigned long hash(unsigned long h, const tfb_tensor *t) {
    const unsigned char *p = (const unsigned char *)t->data;
    tfb_idx i;
    for (i = 0; i < 4 * tfb_numel(t); i++) h = ((h ^ p[i]) * 0x01000193ul) & 0xFFFFFFFFul;
    return h;
}

static int bad(tfb_ctx *ctx, const char *what) {
    printf("bad %s: %s\n", what, ctx->message);
    return 1;
}

/* Linear with everything, rope, norm and attention over it; the hash of all of them. */
static int layer(tfb_ctx *ctx, unsigned long *h) {
    tfb_tensor x = tfb_view2((used = 0, noise(6 * 270, 3, 0.00390625f)), TFB_F32, 6, 270);
    tfb_tensor w = tfb_view2(noise(18 * 270, 5, 0.0009765625f), TFB_F32, 18, 270);
    tfb_tensor bias = tfb_view1(noise(18, 29, 0.001953125f), TFB_F32, 18);
    tfb_tensor y = tfb_view2(noise(6 * 18, 1, 0), TFB_F32, 6, 18), q, z;
    tfb_linear_opts linear;
    tfb_attention_opts attention;
    memset((void *)&linear, 0, sizeof linear);
    memset((void *)&attention, 0, sizeof attention);
    linear.bias = &bias;
    linear.act = TFB_FN_GELU_ERF;
    if (tfb_linear(ctx, &x, &w, &linear, &y)) return bad(ctx, "linear");
    *h = hash(0x811C9DC5ul, &y);
    if (tfb_rmsnorm(ctx, &y, NULL, &y)) return bad(ctx, "rmsnorm");
    *h = hash(*h, &y);
    q = tfb_view4(y.data, TFB_F32, 1, 1, 6, 18);
    if (tfb_rope(ctx, &q, NULL, &q)) return bad(ctx, "rope");
    *h = hash(*h, &y);
    z = tfb_view4(noise(6 * 18, 1, 0), TFB_F32, 1, 1, 6, 18);
    attention.causal = TFB_CAUSAL_BOTTOM_RIGHT;
    if (tfb_attention(ctx, &q, &q, &q, &attention, &z)) return bad(ctx, "attention");
    *h = hash(*h, &z);
    if (memcmp(z.data, q.data, 18 * sizeof(float)) != 0) return bad(ctx, "one key");
    return 0;
}

static int exact(tfb_ctx *ctx) {
    float a[6] = {1, 2, 3, 4, 5, 6}, b[6] = {1, 0, 0, 1, 1, 1}, y[4];
    static const float want[4] = {4, 5, 10, 11};
    tfb_tensor A = tfb_view2(a, TFB_F32, 2, 3), B = tfb_view2(b, TFB_F32, 3, 2);
    tfb_tensor Y = tfb_view2(y, TFB_F32, 2, 2);
    if (tfb_matmul(ctx, &A, &B, &Y)) return bad(ctx, "matmul");
    if (memcmp(y, want, sizeof y) != 0) return bad(ctx, "product");
    if (tfb_matmul(ctx, &A, &A, &Y) != TFB_ERR_SHAPE) return bad(ctx, "status");
#ifdef TFB_NO_MESSAGES
    if (ctx->message[0]) return bad(ctx, "message");
#else
    if (!strstr(ctx->message, "tfb_matmul: b.shape[0] is 2")) return bad(ctx, "message");
#endif
    return 0;
}

int main(void) {
    unsigned long h = 0, before = 0;
    char tables[64] = "";
    const char *name;
    tfb_ctx ctx;
    int i, done = 0, contract;
#ifdef TFB_PTHREADS
    if (tfb_ctx_init(&ctx)) return bad(&ctx, "init");
    if (tfb_ctx_threads(&ctx, 3, 0)) return bad(&ctx, "threads");
#else
    if (tfb_ctx_init_static(&ctx, scratch, sizeof scratch)) return bad(&ctx, "init");
    if (tfb_ctx_threads(&ctx, 3, 0) != TFB_ERR_UNSUPPORTED) return bad(&ctx, "threads");
#endif
    contract = tfb_build_info(&ctx) == TFB_OK;
    for (i = 0; (name = tfb_isa_list(&ctx, i, NULL)) != NULL; i++) {
        if (tfb_isa_force(&ctx, name)) continue;
        if (strlen(tables) + strlen(name) + 2 < sizeof tables) {
            strcat(tables, " ");
            strcat(tables, name);
        }
        if (exact(&ctx) || layer(&ctx, &h)) return 1;
        if (contract && tfb_build_info(&ctx) != TFB_OK)
            continue; /* a table without fma */
        if (done++ && h != before && contract) return bad(&ctx, name);
        before = h;
    }
    printf("%s %08lX%s\n", contract ? "ok" : "unsupported", h, tables);
    tfb_ctx_free(&ctx);
    return 0;
}
