/* 02_fused_linear: bias, activation, gate and residual applied while sums are still in
 * cache: y = act(x Wg^T + bg) * (x Wu^T + bu) + x.   cc -O2 main.c && ./a.out */
#define TFBLOCKS_IMPLEMENTATION
#include "../../tfblocks.h"
#include <stdio.h>

enum { T = 9, C = 40 }; /* tokens, channels */
static float x[T * C], w[2 * C * C], b[2 * C], y[T * C], y2[T * C], both[T * 2 * C];
static float pack[16 + 80 * C]; /* tfb_pack_bytes tells: a header and 2 C rows */

static void must(const tfb_ctx *ctx, tfb_status status) {
    if (status != TFB_OK) puts(ctx->message), exit(1);
}

static void fill(float *p, int n, int step) { /* -1 to 1, the same on every machine */
    int i;
    for (i = 0; i < n; i++) p[i] = (float)(i * step % 2001 - 1000) / 1000;
}

int main(void) {
    const tfb_fn acts[3] = {TFB_FN_SILU, TFB_FN_GELU_ERF, TFB_FN_GELU_TANH};
    const char *names[3] = {"silu (swiglu)", "gelu, exact (geglu)", "gelu, tanh form"};
    tfb_tensor X = tfb_view2(x, TFB_F32, T, C), W = tfb_view2(w, TFB_F32, 2 * C, C);
    tfb_tensor Bias = tfb_view1(b, TFB_F32, 2 * C), Y = tfb_view2(y, TFB_F32, T, C);
    tfb_tensor Y2 = tfb_view2(y2, TFB_F32, T, C), gate, up, packed;
    tfb_tensor Both = tfb_view2(both, TFB_F32, T, 2 * C);
    tfb_linear_opts fused = TFB_INIT, plain = TFB_INIT; /* all zero: y = x W^T */
    int i, steps, same, wrong = 0;
    tfb_ctx ctx;
    fill(x, T * C, 37);
    fill(w, 2 * C * C, 61); /* [out, in]: the first C rows make the gate, the others up */
    fill(b, 2 * C, 83);
    must(&ctx, tfb_ctx_init(&ctx));
    must(&ctx, tfb_pack(&ctx, &W, pack, sizeof pack, &packed)); /* once, for many calls */
    fused.bias = plain.bias = &Bias;
    fused.gate = TFB_GATE_HALVES; /* without a gate it is a plain layer: act(x W^T + b) */
    fused.residual = &X;
    for (i = 0; i < 3; i++) {
        fused.act = acts[i];
        must(&ctx, tfb_linear(&ctx, &X, &W, &fused, &Y));

        /* The same in single steps, each through memory: the same bits, only slower. */
        must(&ctx, tfb_linear(&ctx, &X, &W, &plain, &Both));
        must(&ctx, tfb_slice(&ctx, &Both, 1, 0, C, &gate));
        must(&ctx, tfb_slice(&ctx, &Both, 1, C, C, &up));
        must(&ctx, tfb_map(&ctx, acts[i], &gate, &gate));
        must(&ctx, tfb_mul(&ctx, &gate, &up, &Y2));
        must(&ctx, tfb_add(&ctx, &Y2, &X, &Y2));
        steps = memcmp(y, y2, sizeof y) == 0;
        must(&ctx, tfb_linear(&ctx, &X, &packed, &fused, &Y2)); /* packed weights */
        same = memcmp(y, y2, sizeof y) == 0;
        printf("%-20s y[0] = %.3f %.3f .. same bits in steps: %d, packed: %d\n", names[i],
               (double)y[0], (double)y[1], steps, same);
        wrong += !steps || !same;
    }
    wrong += tfb_linear(&ctx, &X, &W, &plain, &Y) != TFB_ERR_SHAPE; /* forgot the gate */
    printf("a mistake: %s\n", ctx.message);
    tfb_ctx_free(&ctx);
    return wrong != 0;
}
