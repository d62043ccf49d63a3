/* 06_long_context: causal attention of 131072 tokens with a window, in a third of the
 * memory of its float32 inputs.   cc -O2 main.c -o long_context && ./long_context */
#define TFBLOCKS_IMPLEMENTATION
#include "../../tfblocks.h"
#include <stdio.h>

enum { H = 8, D = 64, C = H * D, PIECE = 256 }; /* heads, head dim, tokens at a time */
static float x[PIECE * C], y[PIECE * C], y2[PIECE * C]; /* pieces, [1, H, PIECE, D] */
static double scratch[TFB_ATTENTION_SCRATCH(D, D, 1) / sizeof(double)];
static tfb_tensor kv[2]; /* keys and values of all tokens: F16 [1, H, N, D] */
static tfb_ctx ctx;

static void must(tfb_status status) {
    if (status != TFB_OK) puts(ctx.message), exit(1);
}

static void next_piece(unsigned *s) { /* into x: -2 to 2; xorshift32, Marsaglia 2003 */
    for (int i = 0; i < PIECE * C; i++, *s ^= *s << 13, *s ^= *s >> 17, *s ^= *s << 5)
        x[i] = (float)(int32_t)(*s >> 8) / 4194304 - 2;
}

/* The queries in X are tokens t, t + 1, .. of all; at most n of them in a call. */
static void attend(const tfb_tensor *X, tfb_idx t, tfb_idx n, float *out) {
    tfb_attention_opts opts = TFB_INIT;
    tfb_tensor q, o;
    opts.causal = TFB_CAUSAL_OFFSET, opts.window = 1024, opts.window_pinned = 4;
    for (tfb_idx i = 0; i < PIECE; i += n) {
        must(tfb_slice(&ctx, X, 2, i, PIECE - i < n ? PIECE - i : n, &q));
        o = q, o.data = out + i * D;
        opts.offset = t + i; /* where the first of these queries stands among the keys */
        must(tfb_attention(&ctx, &q, &kv[0], &kv[1], &opts, &o));
    }
}

int main(int argc, char **argv) {
    const tfb_idx N = argc > 1 ? strtol(argv[1], NULL, 10) & -PIECE : 131072;
    const double m = (double)N * C / 1048576, own = 3 * sizeof x + sizeof scratch;
    uint16_t *mem = N > 0 && N <= 1 << 20 ? malloc((size_t)N * C * 4) : NULL;
    tfb_tensor X = tfb_view4(x, TFB_F32, 1, H, PIECE, D), place;
    unsigned seed[3] = {88172645, 521288629, 362436069}, hash = 2166136261u, bits;
    if (!mem) return puts("takes 256 to 1048576 tokens, needs 2 KiB for each"), 1;
    must(tfb_ctx_init_static(&ctx, scratch, sizeof scratch)); /* never allocates */
    for (int i = 0; i < 2; i++) kv[i] = tfb_view4(mem + i * N * C, TFB_F16, 1, H, N, D);
    for (tfb_idx t = 0; t < N; t += PIECE) {
        for (int i = 0; i < 3; i++) { /* keys, values, queries: these stay in x */
            next_piece(&seed[i]);
            if (i < 2) must(tfb_slice(&ctx, &kv[i], 2, t, PIECE, &place));
            if (i < 2) must(tfb_copy(&ctx, &X, &place)); /* rounds to F16 */
        }
        attend(&X, t, PIECE, y); /* what follows in a model would take y here */
        for (int i = 0; i < PIECE * C; i++, hash = (hash ^ bits) * 16777619u) /* FNV-1a */
            memcpy(&bits, &y[i], sizeof bits);
        if (!((t + PIECE) & t)) printf("%6d tokens: hash %08x\n", (int)t + PIECE, hash);
    }
    attend(&X, N - PIECE, 100, y2);
    printf("last piece, 100 at a time: same bits: %d\n", memcmp(y, y2, sizeof y) == 0);
    printf("MiB: float32 inputs %.1f, scores %.1f; used %.1f with %d bytes of scratch\n",
           12 * m, 4 * m * (double)N / D, 4 * m + own / 1048576, (int)sizeof scratch);
    return free(mem), memcmp(y, y2, sizeof y) != 0;
}
