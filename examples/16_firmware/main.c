/* 16_firmware: a transformer layer that continues a sequence, as a microcontroller would
 * run it: one static buffer, no heap, no libm, no printf in the library.
 * cc -O2 main.c && ./a.out, or make firmware for a Cortex-M4F */
#define TFBLOCKS_IMPLEMENTATION
#define TFB_SMALL /* size before speed, the same bits */
#define TFB_NO_MESSAGES
#define TFB_NO_ALLOC /* what is not used below is not there */
#define TFB_NO_WORKERS
#define TFB_NO_HALF
#define TFB_NO_MIXERS
#define TFB_NO_ATTENTION_MASKS
#define TFB_NO_ATTENTION_SCORES
#define TFB_NO_ATTENTION_SEQUENCES
#define TFB_NO_ATTENTION_WINDOWS
#define TFB_NO_ATTENTION_PAGES
#define TFB_NO_ATTENTION_QK
#define TFB_NO_KV_PLACES
#define TFB_NO_LSE
#define TFB_NO_FN_GELU
#define TFB_NO_FN_EXP
#define TFB_NO_FN_TRIG
#include "../../tfblocks.h"
#include <stdio.h>

enum { C = 16, H = 2, D = C / H, F = 32, V = 32, T = 24 }; /* F: hidden, V: tokens */
static float wqkv[3 * C * C], wo[C * C], wup[2 * F * C], wdown[C * F], embedding[V * C];

/* The one buffer: a cache, and scratch, whose sizes are constants. */
static double memory[(TFB_KV_BYTES(1, 1, H, D, D, T, 4) + 1024) / sizeof(double)];
static tfb_status status; /* the first that was not OK */

static void must(tfb_status s) {
    if (!status) status = s;
}

static void fill(float *p, uint32_t n, uint32_t seed) { /* weights: const in flash */
    for (uint32_t i = 0; i < n; i++) {
        uint32_t u = (i * 1000 + seed) * 2654435769u; /* the same on every machine */
        p[i] = (float)((u ^ u >> 15) % 2001) / 1000 - 1.0f;
    }
}

static tfb_tensor row(const float *p, int n) {
    return tfb_view2(p, TFB_F32, 1, n);
}

/* y = x W^T [+ residual], after a norm of x; gated: swiglu. */
static void layer(tfb_ctx *ctx, const tfb_tensor *x, const float *w, int n, int gated,
                  const tfb_tensor *residual, tfb_tensor *y) {
    tfb_tensor weight = tfb_view2(w, TFB_F32, n, x->shape[1]);
    tfb_linear_opts opts = TFB_INIT;
    opts.residual = residual;
    opts.gate = gated ? TFB_GATE_HALVES : TFB_GATE_NONE;
    opts.act = gated ? TFB_FN_SILU : TFB_FN_IDENTITY;
    must(tfb_linear(ctx, x, &weight, &opts, y));
}

/* One token at one position through the layer; what may follow it is in logits. */
static void forward(tfb_ctx *ctx, tfb_kv *kv, int token, int at, float *logits) {
    float stream[C], normed[C], qkv[3 * C], attended[C], hidden[F];
    tfb_tensor x = row(stream, C), n = row(normed, C), p = row(qkv, 3 * C);
    tfb_tensor a = row(attended, C), h = row(hidden, F), out = row(logits, V);
    tfb_tensor q = tfb_view4(qkv, TFB_F32, 1, H, 1, D), k = q, v = q;
    tfb_tensor y = tfb_view4(attended, TFB_F32, 1, H, 1, D);
    tfb_rope_opts rope = TFB_INIT;
    k.data = qkv + C, v.data = qkv + 2 * C;
    rope.start = at;
    memcpy(stream, embedding + token * C, sizeof stream);
    must(tfb_rmsnorm(ctx, &x, NULL, &n));
    layer(ctx, &n, wqkv, 3 * C, 0, NULL, &p);
    must(tfb_rope(ctx, &q, &rope, &q));
    must(tfb_rope(ctx, &k, &rope, &k));
    must(tfb_kv_append(ctx, kv, 0, &k, &v));
    must(tfb_kv_attention(ctx, kv, 0, &q, NULL, &y));
    layer(ctx, &a, wo, C, 0, &x, &x);
    must(tfb_rmsnorm(ctx, &x, NULL, &n));
    layer(ctx, &n, wup, 2 * F, 1, NULL, &h);
    layer(ctx, &h, wdown, C, 0, &x, &x);
    must(tfb_rmsnorm(ctx, &x, NULL, &n));
    layer(ctx, &n, embedding, V, 0, NULL, &out);
}

/* Continues a token into tokens[T]; 0 if all went well. This is what a product calls. */
static int generate(int *tokens) {
    const size_t cache = TFB_KV_BYTES(1, 1, H, D, D, T, 4);
    float logits[V];
    int32_t best = 0;
    tfb_tensor out = tfb_view1(logits, TFB_F32, V), y = tfb_view1(&best, TFB_I32, 0);
    tfb_kv_opts opts = TFB_INIT;
    tfb_ctx ctx;
    tfb_kv kv;
    opts.layers = 1;
    opts.shape.batch = 1, opts.shape.kv_heads = H;
    opts.shape.head_dim = D, opts.shape.max_tokens = T;
    y.ndim = 0;
    fill(wqkv, 3 * C * C, 37), fill(wo, C * C, 61), fill(wup, 2 * F * C, 83);
    fill(wdown, C * F, 97), fill(embedding, V * C, 43);
    must(tfb_ctx_init_static(&ctx, (char *)memory + cache, sizeof memory - cache));
    must(tfb_kv_init_static(&ctx, &kv, &opts, memory, cache));
    for (int t = 0; t < T; t++) {
        tokens[t] = (int)best;
        forward(&ctx, &kv, (int)best, t, logits);
        must(tfb_argmax(&ctx, &out, &y));
    }
    return (int)status;
}

int main(void) {
    int tokens[T], failed = generate(tokens);
#ifndef QUIET /* how make firmware measures */
    for (int t = 0; t < T; t++) printf("%d%c", tokens[t], t < T - 1 ? ' ' : '\n');
#endif
    return failed ? 1 : 0;
}
