/* 04_decode_kv_cache: token by token through a KV cache gives the very bits of all tokens
 * at once; all memory is static.   cc -O2 main.c && ./a.out */
#define TFBLOCKS_IMPLEMENTATION
#define TFB_NO_STDLIB /* proof: the library then does not know malloc */
#include "../../tfblocks.h"
#include <stdio.h>

enum { T = 200, H = 6, G = 2, D = 32 }; /* tokens, query heads, kv heads, head dim */
static float q[H * T * D], k[G * T * D], v[G * T * D], all[H * T * D], steps[H * T * D];

/* The exact size of a cache and a bound for attention's scratch are constants. */
static double cache[TFB_KV_BYTES(1, 1, G, D, D, T, sizeof(float)) / sizeof(double)];
static double scratch[TFB_ATTENTION_SCRATCH(D, D, 1) / sizeof(double) + 1];
static int errors;

static void must(const tfb_ctx *ctx, tfb_status status) {
    if (status != TFB_OK) puts(ctx->message), errors++;
}

static void fill(float *p, int n, int step) { /* -2 to 2, the same on every machine */
    for (int i = 0; i < n; i++) p[i] = (float)(i * step % 2003 - 1001) / 500;
}

/* Tokens t .. t + n - 1 of x [1, heads, T, D], a view: nothing is copied. */
static tfb_tensor tokens(tfb_ctx *ctx, const float *x, int heads, int t, int n) {
    tfb_tensor view = tfb_view4(x, TFB_F32, 1, heads, T, D);
    must(ctx, tfb_slice(ctx, &view, 2, t, n, &view));
    return view;
}

/* Attention of tokens t .. t + n - 1 behind those that the cache holds already. */
static void forward(tfb_ctx *ctx, tfb_kv *kv, int t, int n, float *out) {
    tfb_tensor key = tokens(ctx, k, G, t, n), value = tokens(ctx, v, G, t, n);
    tfb_tensor query = tokens(ctx, q, H, t, n), y = tokens(ctx, out, H, t, n);
    tfb_attention_opts opts = TFB_INIT;
    opts.causal = TFB_CAUSAL_BOTTOM_RIGHT; /* the last query sees the last key */
    must(ctx, tfb_kv_append(ctx, kv, 0, &key, &value));
    must(ctx, tfb_kv_attention(ctx, kv, 0, &query, &opts, &y)); /* read where they lie */
}

int main(void) {
    const tfb_kv_opts opts = {
        .layers = 1,
        .shape = {.batch = 1, .kv_heads = G, .head_dim = D, .max_tokens = T}};
    tfb_ctx ctx;
    tfb_kv kv;
    int t, same;
    fill(q, H * T * D, 37), fill(k, G * T * D, 61), fill(v, G * T * D, 83);
    must(&ctx, tfb_ctx_init_static(&ctx, scratch, sizeof scratch));
    must(&ctx, tfb_kv_init_static(&ctx, &kv, &opts, cache, sizeof cache));
    forward(&ctx, &kv, 0, T, all); /* prefill: all at once */
    tfb_kv_reset(&kv);
    for (t = 0; t < T; t++) forward(&ctx, &kv, t, 1, steps); /* decode: one by one */
    same = memcmp(all, steps, sizeof all) == 0;
    printf("last output %.3f, same bits: %d\n", (double)all[H * T * D - 1], same);
    tfb_tensor extra = tokens(&ctx, k, G, 0, 1); /* a mistake: one token too many */
    if (tfb_kv_append(&ctx, &kv, 0, &extra, &extra) != TFB_ERR_FULL) errors++;
    printf("a mistake: %s\n", ctx.message);
    return !same || errors;
}
