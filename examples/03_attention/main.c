/* 03_attention: causal attention with grouped heads, read from one packed QKV projection
 * and written as [B, T, H, D], without a copy.   cc -O2 main.c && ./a.out */
#define TFBLOCKS_IMPLEMENTATION
#include "../../tfblocks.h"
#include <stdio.h>

/* 4 query heads share 2 kv heads; a token's projection is q0 q1 q2 q3 k0 k1 v0 v1. */
enum { B = 2, T = 150, H = 4, G = 2, D = 16, C = H * D, ALL = H + 2 * G };
static float x[B * T * C], w[ALL * D * C], qkv[B][T][ALL][D];
static float y[B][T][H][D], y2[B][T][H][D], lse[B][H][T], p[T];

/* n heads of a [B, T, all, D] array, seen as attention's [B, n, T, D]. Strides are in
 * elements; tfb_slice and tfb_permute would set them just so. */
static tfb_tensor heads(const float *first_head, int n, int all) {
    tfb_tensor t = tfb_view4(first_head, TFB_F32, B, n, T, D);
    t.stride[0] = T * all * D, t.stride[1] = D, t.stride[2] = all * D;
    return t;
}

/* An output of the last token minus that of plain loops: exp(score - lse) sums to 1. */
static float difference(tfb_ctx *ctx) {
    tfb_tensor P = tfb_view1(p, TFB_F32, T);
    float off = y[1][T - 1][2][0];
    int j, d;
    for (j = 0; j < T; j++)
        for (p[j] = -lse[1][2][T - 1], d = 0; d < D; d++) /* head 2 reads kv head 1 */
            p[j] += qkv[1][T - 1][2][d] * qkv[1][j][H + 1][d] / 4; /* 4 is sqrt(D) */
    if (tfb_map(ctx, TFB_FN_EXP, &P, &P) != TFB_OK) return 1;
    for (j = 0; j < T; j++) off -= p[j] * qkv[1][j][H + G + 1][0];
    return off;
}

int main(void) {
    tfb_tensor X = tfb_view2(x, TFB_F32, B * T, C), W = tfb_view2(w, TFB_F32, ALL * D, C);
    tfb_tensor P = tfb_view2(qkv, TFB_F32, B * T, ALL * D);
    tfb_tensor q = heads(qkv[0][0][0], H, ALL), k = heads(qkv[0][0][H], G, ALL);
    tfb_tensor v = heads(qkv[0][0][H + G], G, ALL), L = tfb_view3(lse, TFB_F32, B, H, T);
    tfb_tensor Y = heads(y[0][0][0], H, H), Y2 = heads(y2[0][0][0], H, H);
    tfb_attention_opts opts = TFB_INIT;
    int i, near, same = 0;
    tfb_ctx ctx;
    for (i = 0; i < B * T * C; i++) x[i] = (float)(i * 37 % 2001 - 1000) / 1000;
    for (i = 0; i < ALL * D * C; i++) w[i] = (float)(i * 61 % 2003 - 1001) / 4000;
    opts.causal = TFB_CAUSAL_BOTTOM_RIGHT; /* the last query sees every key */
    opts.lse = &L;
    if (tfb_ctx_init(&ctx) || tfb_linear(&ctx, &X, &W, NULL, &P) || /* TFB_OK is 0 */
        tfb_attention(&ctx, &q, &k, &v, &opts, &Y))
        return puts(ctx.message), 1;
    near = difference(&ctx) * difference(&ctx) < 1e-8f;
    for (opts.chunk_size = 1; opts.chunk_size < 400; opts.chunk_size *= 7)
        if (tfb_attention(&ctx, &q, &k, &v, &opts, &Y2) == TFB_OK)
            same += memcmp(y, y2, sizeof y) == 0; /* 1, 7, 49, 343 queries at a time */
    printf("as in plain loops: %d, same bits for %d of 4 chunk sizes\n", near, same);
    printf("last row: y %.3f, lse %.3f\n", (double)y[1][T - 1][2][0],
           (double)lse[1][2][T - 1]);
    if (tfb_attention(&ctx, &q, &k, &v, &opts, &q) != TFB_ERR_ALIAS) near = 0;
    printf("a mistake: %s\n", ctx.message); /* the output must not be an input */
    tfb_ctx_free(&ctx);
    return !near || same != 4;
}
