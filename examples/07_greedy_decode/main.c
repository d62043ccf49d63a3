/* 07_greedy_decode: sign by sign. The cache keeps what a later sign needs of the earlier
 * ones, so each step computes one token, not all.   cc -O2 main.c && ./a.out */
#define TFBLOCKS_IMPLEMENTATION
#include "../../tfblocks.h"
#include <stdio.h>

/* C channels, and as many signs: a blank, a to z, .,!?- */
enum { C = 32, N = 66, PROMPT = 6 };
static float w[3 * C * C], x[N * C], q[N * C], k[N * C], logits[N * C];
static int32_t best[N];
static tfb_ctx ctx;

static void must(tfb_status status) {
    if (status != TFB_OK) puts(ctx.message), exit(1);
}

/* A model of one layer with one head: logits from keys and values that are the embeddings
 * of tokens. T more follow those in the cache; best[i] should come after the i-th. */
static void forward(tfb_kv *kv, const int32_t *tokens, int T) {
    tfb_tensor E = tfb_view2(w, TFB_F32, C, C), Wq = E, Wo = E;
    tfb_tensor X = tfb_view4(x, TFB_F32, 1, 1, T, C), Q = X, K = X, L = X;
    tfb_tensor ids = tfb_view3(tokens, TFB_I32, 1, 1, T);
    tfb_rope_opts rope = {.start = tfb_kv_length(kv, 0)}; /* where the first one stands */
    tfb_attention_opts causal = {.causal = TFB_CAUSAL_BOTTOM_RIGHT};
    Wq.data = w + C * C, Wo.data = w + 2 * C * C, Q.data = q, K.data = k, L.data = logits;
    must(tfb_embed(&ctx, &E, &ids, &X)), must(tfb_linear(&ctx, &X, &Wq, NULL, &Q));
    must(tfb_rope(&ctx, &Q, &rope, &Q)), must(tfb_rope(&ctx, &X, &rope, &K));
    must(tfb_kv_append(&ctx, kv, 0, &K, &X)); /* layer 0; a copy, so X is free again */
    must(tfb_kv_attention(&ctx, kv, 0, &Q, &causal, &X));
    must(tfb_linear(&ctx, &X, &Wo, NULL, &L));
    ids.data = best, must(tfb_argmax(&ctx, &L, &ids));
}

int main(void) {
    const tfb_kv_opts opts = {.layers = 1};      /* no maximum: it grows */
    int32_t text[N + 1] = {8, 5, 12, 12, 15, 0}; /* "hello " */
    int wrong = 0, without = PROMPT;
    float step[C];
    tfb_kv kv, none;
    /* not trained: weights as good as random, and the same everywhere */
    for (int i = 0; i < 3 * C * C; i++) w[i] = (float)(i * i % 2029) / 1014 - 1;
    must(tfb_ctx_init(&ctx));
    must(tfb_kv_init(&ctx, &kv, &opts)), must(tfb_kv_init(&ctx, &none, &opts));

    forward(&kv, text, PROMPT); /* prefill: all of the prompt at once */
    text[PROMPT] = best[PROMPT - 1];
    for (int n = PROMPT; n < N; n++, without += n) {
        forward(&kv, text + n, 1); /* decode: one token in, the next one out */
        text[n + 1] = best[0], memcpy(step, logits, sizeof step);
        tfb_kv_reset(&none), forward(&none, text, n + 1); /* as if there were no cache */
        wrong += memcmp(step, logits + n * C, sizeof step) != 0;
    }
    for (int i = 0; i < N; i++) putchar(" abcdefghijklmnopqrstuvwxyz.,!?-"[text[i]]);
    printf("\n%d tokens computed instead of %d, same bits: %d\n", N, without, !wrong);
    return tfb_kv_free(&kv), tfb_kv_free(&none), tfb_ctx_free(&ctx), wrong;
}
