/* 12_chunked_mlp: a feed-forward layer over 512 tokens, a few at a time: what is wide in
 * between exists for these few only. Same bits.   cc -O2 main.c && ./a.out */
#define TFBLOCKS_IMPLEMENTATION
#include "../../tfblocks.h"
#include <stdio.h>

enum { T = 512, C = 64, HIDDEN = 256 }; /* tokens, channels, channels in between */
static float x[T * C], y[T * C], y2[T * C], w[2][HIDDEN * C], pack[2][16 + HIDDEN * C];
static double small[1 << 13]; /* 64 KiB of scratch; all tokens at once need over 512 */
static tfb_tensor W[2];
static tfb_ctx ctx;

static void must(tfb_status status) {
    if (status != TFB_OK) puts(ctx.message), exit(1);
}

/* out = gelu(in W0^T) W1^T + in, for as many tokens as there are in this chunk. c holds
 * the context, the scratch and the message of this chunk; use no other in here. */
static tfb_status mlp(tfb_ctx *c, void *user, const tfb_chunk *chunk) {
    const tfb_idx shape[2] = {chunk->length, HIDDEN};
    tfb_linear_opts first = TFB_INIT, second = TFB_INIT;
    tfb_tensor hidden;
    tfb_status status = tfb_scratch(c, &hidden, TFB_F32, 2, shape);
    first.act = TFB_FN_GELU_ERF, second.residual = &chunk->in[0], (void)user;
    if (!status) status = tfb_linear(c, &chunk->in[0], &W[0], &first, &hidden);
    if (!status) status = tfb_linear(c, &hidden, &W[1], &second, &chunk->out[0]);
    return status;
}

int main(void) {
    tfb_tensor X = tfb_view2(x, TFB_F32, T, C), Y = tfb_view2(y, TFB_F32, T, C), Y2 = Y;
    tfb_chunk_opts opts = TFB_INIT; /* all zero: one call for all of axis 0 */
    tfb_idx size;
    int i, k, same, wrong = 0;
    for (i = 0; i < T * C; i++) x[i] = (float)(i * 37 % 2001 - 1000) / 1000;
    must(tfb_ctx_init(&ctx));
    for (k = 0; k < 2; k++) { /* packed once, not for each chunk again */
        for (i = 0; i < HIDDEN * C; i++) w[k][i] = (float)(i * 61 % 2001 - 1000) / 8000;
        W[k] = tfb_view2(w[k], TFB_F32, k ? C : HIDDEN, k ? HIDDEN : C);
        must(tfb_pack(&ctx, &W[k], pack[k], sizeof pack[k], &W[k]));
    }
    must(tfb_chunked_forward(&ctx, mlp, NULL, &X, 1, &Y, 1, &opts));
    printf("all at once: y[0] = %.3f, more than 512 KiB of scratch: %d\n", (double)y[0],
           ctx.scratch_last > 512 << 10);
    must(tfb_chunk_size_for(&ctx, mlp, NULL, &X, 1, &Y, 1, &opts, sizeof small, &size));
    printf("into %d KiB go %d tokens at a time\n", (int)sizeof small >> 10, (int)size);
    tfb_ctx_free(&ctx);
    must(tfb_ctx_init_static(&ctx, small, sizeof small)); /* never allocates */
    for (Y2.data = y2; size > 0; size /= 4) {
        opts.chunk_size = size;
        must(tfb_chunked_forward(&ctx, mlp, NULL, &X, 1, &Y2, 1, &opts));
        same = memcmp(y, y2, sizeof y) == 0, wrong += !same;
        printf("%2d at a time: same bits: %d\n", (int)size, same);
    }
    opts.chunk_size = 100; /* legal with opts.remainder */
    wrong += tfb_chunked_forward(&ctx, mlp, NULL, &X, 1, &Y2, 1, &opts) != TFB_ERR_SHAPE;
    printf("a mistake: %s\n", ctx.message);
    return wrong != 0;
}
