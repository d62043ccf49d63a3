/* 10_streaming: a text without end in memory of fixed size: a ring keeps the first tokens
 * and the last; positions are brought back in time.   cc -O2 main.c && ./a.out */
#define TFBLOCKS_IMPLEMENTATION
#include "../../tfblocks.h"
#include <stdio.h>

enum { C = 16, WINDOW = 64, PINNED = 4, BACK = 1000, LIMIT = PINNED + WINDOW + BACK };
static float w[C * C], x[LIMIT * C], k[LIMIT * C], y[LIMIT * C], first[LIMIT * C];
static double cache[TFB_KV_RING_BYTES(1, 1, 1, C, C, WINDOW, PINNED, 0, 4) / 8];
static double scratch[TFB_ATTENTION_SCRATCH(C, C, 1) / 8 + 1];
static tfb_rope_opts rope;
static const tfb_attention_opts window = {
    .causal = TFB_CAUSAL_BOTTOM_RIGHT, .window = WINDOW, .window_pinned = PINNED};
static tfb_ctx ctx;

static void must(tfb_status status) {
    if (status != TFB_OK) puts(ctx.message), exit(1);
}

/* A layer: T tokens of the text from t on, the first at position `at`. Values x are their
 * embeddings, keys k are these, roped, and queries too. Without a cache they are all. */
static void layer(tfb_kv *kv, int64_t t, int T, tfb_idx at) {
    tfb_tensor X = tfb_view4(x, TFB_F32, 1, 1, T, C), K = X, Y = X;
    K.data = k, Y.data = y, rope.start = at;
    for (int i = 0; i < T; i++, t++) memcpy(x + i * C, w + t * t % 997 % C * C, 4 * C);
    must(tfb_rope(&ctx, &X, &rope, &K));
    if (kv) must(tfb_kv_append(&ctx, kv, 0, &K, &X));
    if (kv) must(tfb_kv_attention(&ctx, kv, 0, &K, &window, &Y));
    else must(tfb_attention(&ctx, &K, &K, &X, &window, &Y));
}

int main(int argc, char **argv) {
    tfb_kv_opts opts = {.layers = 1};
    const int n = argc > 1 ? atoi(argv[1]) : 131072;
    float was[C], *now = y + (WINDOW - 1) * C;
    int at = 0, same, near = 1; /* at: where rope has the next token */
    tfb_kv kv;
    for (int i = 0; i < C * C; i++) w[i] = (float)(i * i % 2029) / 1014 - 1;
    opts.shape.batch = opts.shape.kv_heads = 1, opts.shape.head_dim = C;
    opts.shape.window = WINDOW, opts.shape.pinned = PINNED;
    must(tfb_ctx_init_static(&ctx, scratch, sizeof scratch));
    must(tfb_kv_init_static(&ctx, &kv, &opts, cache, sizeof cache));
    for (int t = 0; t < n; t++, at++) {
        if (at == LIMIT) { /* the window goes back to where it was when first full */
            must(tfb_kv_shift(&ctx, &kv, 0, PINNED, PINNED + WINDOW, -BACK, &rope));
            at -= BACK;
        }
        layer(&kv, t, 1, at);
        if (t < LIMIT) memcpy(first + t * C, y, sizeof was);
        if (t > 4000 && !((t + 1) & t)) printf("%6d tokens: %.6f\n", t + 1, (double)y[0]);
    }
    memcpy(was, y, sizeof was), tfb_kv_reset(&kv); /* anew, only what the ring kept: */
    layer(&kv, 0, PINNED, 0), layer(&kv, n - WINDOW, WINDOW, at - WINDOW);
    for (int i = 0; i < C; i++) near &= was[i] - now[i] < 1e-4 && now[i] - was[i] < 1e-4;
    layer(NULL, 0, LIMIT, 0), same = memcmp(y, first, sizeof y) == 0;
    printf("the bits of keeping all: %d, later as if reading these alone: %d\n", same,
           near);
    printf("KiB: cache %d, all rows %d\n", (int)sizeof cache >> 10, n * 2 * C >> 8);
    return !same || !near;
}
