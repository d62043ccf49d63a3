/* 08_beam_search: four texts grow at once, those likeliest as a whole. After each sign a
 * call gives every beam the cache of the one it continues.   cc -O2 main.c && ./a.out */
#define TFBLOCKS_IMPLEMENTATION
#include "../../tfblocks.h"
#include <stdio.h>

enum { C = 32, N = 40, PROMPT = 3, W = 4 }; /* W beams; the rest is as in 07 */
static float w[3 * C * C], x[N * C], q[N * C], k[N * C], logp[N * C];
static tfb_ctx ctx;

static void must(tfb_status status) {
    if (status != TFB_OK) puts(ctx.message), exit(1);
}

/* The model of 07, T more tokens for each of B texts: log p [B, T, C] of the next. */
static void forward(tfb_kv *kv, const int32_t *tokens, int B, int T) {
    tfb_tensor E = tfb_view2(w, TFB_F32, C, C), Wq = E, Wo = E;
    tfb_tensor X = tfb_view4(x, TFB_F32, B, 1, T, C), Q = X, K = X, L = X;
    tfb_tensor ids = tfb_view3(tokens, TFB_I32, B, 1, T);
    tfb_rope_opts rope = {.start = tfb_kv_length(kv, 0)};
    tfb_attention_opts causal = {.causal = TFB_CAUSAL_BOTTOM_RIGHT};
    Wq.data = w + C * C, Wo.data = w + 2 * C * C, Q.data = q, K.data = k, L.data = logp;
    must(tfb_embed(&ctx, &E, &ids, &X)), must(tfb_linear(&ctx, &X, &Wq, NULL, &Q));
    must(tfb_rope(&ctx, &Q, &rope, &Q)), must(tfb_rope(&ctx, &X, &rope, &K));
    must(tfb_kv_append(&ctx, kv, 0, &K, &X));
    must(tfb_kv_attention(&ctx, kv, 0, &Q, &causal, &X));
    must(tfb_linear(&ctx, &X, &Wo, NULL, &L));
    must(tfb_softmax(&ctx, &L, &L, NULL)), must(tfb_map(&ctx, TFB_FN_LOG, &L, &L));
}

int main(void) {
    const tfb_kv_opts opts = {.layers = 1};
    int32_t text[N] = {23, 5, 0}, token[N][W] = {{0}}, from[N][W], n, top, same = 0;
    float sum[W] = {0, -1e9f, -1e9f, -1e9f}, again; /* of log p; at first all are alike */
    tfb_tensor S = tfb_view2(sum, TFB_F32, W, 1), best = {.data = &top, .dtype = TFB_I32};
    tfb_tensor L = tfb_view2(logp, TFB_F32, W, C), all = tfb_view1(logp, TFB_F32, W * C);
    tfb_kv kv, alone;
    for (int i = 0; i < 3 * C * C; i++) w[i] = (float)(i * i % 2029) / 1014 - 1;
    must(tfb_ctx_init(&ctx));
    must(tfb_kv_init(&ctx, &kv, &opts)), must(tfb_kv_init(&ctx, &alone, &opts));
    forward(&kv, text, 1, PROMPT - 1), must(tfb_kv_repeat_interleave(&ctx, &kv, W));
    for (n = PROMPT; n < N; n++) {
        tfb_tensor index = tfb_view1(from[n], TFB_I32, W);
        forward(&kv, token[n - 1], W, 1), must(tfb_add(&ctx, &L, &S, &L));
        for (int i = 0; i < W; i++) { /* the best W of all beams and tokens */
            must(tfb_argmax(&ctx, &all, &best)), sum[i] = logp[top], logp[top] = -1e9f;
            from[n][i] = top / C, token[n][i] = top % C;
        }
        must(tfb_kv_select(&ctx, &kv, &index)); /* beam i becomes what from[i] was */
    }
    for (int i = W - 1; i >= 0; i--) { /* each beam once more, its text read at once */
        for (int b = i; n-- > PROMPT; b = from[n][b]) text[n] = token[n][b];
        tfb_kv_reset(&alone), forward(&alone, text, 1, N - 1);
        for (again = 0, n = PROMPT; n < N; n++) again += logp[(n - 1) * C + text[n]];
        same += again == sum[i];
    }
    for (n = 0; n < N; n++) putchar(" abcdefghijklmnopqrstuvwxyz.,!?-"[text[n]]);
    printf("\nlog p %.3f, same bits for %d of %d beams\n", (double)sum[0], same, W);
    return tfb_kv_free(&kv), tfb_kv_free(&alone), tfb_ctx_free(&ctx), same != W;
}
