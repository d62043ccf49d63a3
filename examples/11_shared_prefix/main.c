/* 11_shared_prefix: a prompt is read once and continued in four ways; each has the bits
 * of having read its whole text alone.   cc -O2 main.c && ./a.out */
#define TFBLOCKS_IMPLEMENTATION
#include "../../tfblocks.h"
#include <stdio.h>

enum { C = 32, PROMPT = 200, FORK = 220, N = 250, W = 4 }; /* W ways; C is as in 07 */
static float w[3 * C * C], x[N * C], q[N * C], k[N * C], logits[N * C], last[W][C];
static int32_t one[N], text[N][W], best[N], computed;
static tfb_ctx ctx;

static void must(tfb_status status) {
    if (status != TFB_OK) puts(ctx.message), exit(1);
}

/* The model of 07: T more tokens for each of B texts. */
static void forward(tfb_kv *kv, const int32_t *tokens, int B, int T) {
    tfb_tensor E = tfb_view2(w, TFB_F32, C, C), Wq = E, Wo = E;
    tfb_tensor X = tfb_view4(x, TFB_F32, B, 1, T, C), Q = X, K = X, L = X;
    tfb_tensor ids = tfb_view3(tokens, TFB_I32, B, 1, T);
    tfb_rope_opts rope = {.start = tfb_kv_length(kv, 0)};
    tfb_attention_opts causal = {.causal = TFB_CAUSAL_BOTTOM_RIGHT};
    Wq.data = w + C * C, Wo.data = w + 2 * C * C, Q.data = q, K.data = k, L.data = logits;
    must(tfb_embed(&ctx, &E, &ids, &X)), must(tfb_linear(&ctx, &X, &Wq, NULL, &Q));
    must(tfb_rope(&ctx, &Q, &rope, &Q)), must(tfb_rope(&ctx, &X, &rope, &K));
    must(tfb_kv_append(&ctx, kv, 0, &K, &X));
    must(tfb_kv_attention(&ctx, kv, 0, &Q, &causal, &X));
    must(tfb_linear(&ctx, &X, &Wo, NULL, &L));
    ids.data = best, must(tfb_argmax(&ctx, &L, &ids)), computed += B * T;
}

int main(void) {
    const tfb_kv_opts opts = {.layers = 1};
    int together, same = 0;
    tfb_kv kv, alone;
    for (int i = 0; i < 3 * C * C; i++) w[i] = (float)(i * i % 2029) / 1014 - 1;
    for (int n = 0; n < PROMPT; n++) one[n] = n * 7 % 30;
    must(tfb_ctx_init(&ctx));
    must(tfb_kv_init(&ctx, &kv, &opts)), must(tfb_kv_init(&ctx, &alone, &opts));
    forward(&kv, one, 1, PROMPT - 1);
    must(tfb_kv_repeat_interleave(&ctx, &kv, W)); /* one sample becomes W */
    for (int i = 0; i < W; i++) text[PROMPT - 1][i] = 5 * i + 2; /* they differ */
    for (int n = PROMPT; n < N; n++) {
        if (n == FORK) { /* the last way is given up for a branch of the first one */
            must(tfb_kv_fork(&ctx, &kv, 0, W - 1));
            for (int m = PROMPT - 1; m < n; m++) text[m][W - 1] = text[m][0];
            text[n - 1][W - 1] = 0;
        }
        forward(&kv, text[n - 1], W, 1), memcpy(text[n], best, sizeof text[n]);
    }
    together = computed, computed = 0, memcpy(last, logits, sizeof last);
    for (int i = 0; i < W; i++) {
        for (int n = PROMPT - 1; n < N; n++)
            putchar(" abcdefghijklmnopqrstuvwxyz.,!?-"[one[n] = text[n][i]]);
        tfb_kv_reset(&alone), forward(&alone, one, 1, N - 1); /* the whole text at once */
        same += memcmp(logits + (N - 2) * C, last[i], sizeof last[i]) == 0, puts("");
    }
    printf("%d tokens computed, not %d, same bits: %d\n", together, computed, same == W);
    return tfb_kv_free(&kv), tfb_kv_free(&alone), tfb_ctx_free(&ctx), same != W;
}
