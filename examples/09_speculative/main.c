/* 09_speculative: tokens are guessed and then checked in one call; those that were wrong
 * are rolled back and leave no bit behind.   cc -O2 main.c && ./a.out */
#define TFBLOCKS_IMPLEMENTATION
#include "../../tfblocks.h"
#include <stdio.h>

enum { C = 32, N = 80, PROMPT = 6, GUESS = 4, ROOM = N + GUESS + 1 }; /* C is as in 07 */
static float w[3 * C * C], x[N * C], q[N * C], k[N * C], logits[N * C];
static int32_t text[ROOM] = {8, 5, 12, 12, 15, 0}, best[N]; /* "hello " */
static char save[2][4 * ROOM * 2 * C + 1024];
static tfb_ctx ctx;

static void must(tfb_status status) {
    if (status != TFB_OK) puts(ctx.message), exit(1);
}

/* The model of 07: T more tokens; best[i] should come after the i-th of them. */
static void forward(tfb_kv *kv, const int32_t *tokens, int T) {
    tfb_tensor E = tfb_view2(w, TFB_F32, C, C), Wq = E, Wo = E;
    tfb_tensor X = tfb_view4(x, TFB_F32, 1, 1, T, C), Q = X, K = X, L = X;
    tfb_tensor ids = tfb_view3(tokens, TFB_I32, 1, 1, T);
    tfb_rope_opts rope = {.start = tfb_kv_length(kv, 0)};
    tfb_attention_opts causal = {.causal = TFB_CAUSAL_BOTTOM_RIGHT};
    Wq.data = w + C * C, Wo.data = w + 2 * C * C, Q.data = q, K.data = k, L.data = logits;
    must(tfb_embed(&ctx, &E, &ids, &X)), must(tfb_linear(&ctx, &X, &Wq, NULL, &Q));
    must(tfb_rope(&ctx, &Q, &rope, &Q)), must(tfb_rope(&ctx, &X, &rope, &K));
    must(tfb_kv_append(&ctx, kv, 0, &K, &X));
    must(tfb_kv_attention(&ctx, kv, 0, &Q, &causal, &X));
    must(tfb_linear(&ctx, &X, &Wo, NULL, &L));
    ids.data = best, must(tfb_argmax(&ctx, &L, &ids));
}

int main(void) {
    const tfb_kv_opts opts = {.layers = 1};
    int n = PROMPT, calls = 0, same = 1;
    int32_t keep;
    tfb_tensor kept = tfb_view1(&keep, TFB_I32, 1);
    tfb_kv kv[2]; /* with guesses, and without */
    for (int i = 0; i < 3 * C * C; i++) w[i] = (float)(i * i % 2029) / 1014 - 1;
    must(tfb_ctx_init(&ctx));
    for (int i = 0; i < 2; i++)
        must(tfb_kv_init(&ctx, &kv[i], &opts)), forward(&kv[i], text, PROMPT - 1);
    for (; n < N; n += keep, calls++) { /* the cache lacks only text[n - 1] */
        int last = n - 2, i; /* the guess: what followed the same token the last time */
        while (last > 0 && text[last] != text[n - 1]) last--;
        for (i = 0; i < GUESS; i++) text[n + i] = text[last + 1 + i];
        must(tfb_kv_mark(&ctx, &kv[0]));
        forward(&kv[0], text + n - 1, GUESS + 1);
        for (i = 0; i < GUESS && text[n + i] == best[i];) i++;
        text[n + i] = best[i], keep = i + 1; /* i were right, and the next is known */
        must(tfb_kv_rollback(&ctx, &kv[0], &kept));
    }
    for (int i = 0; i < n; i++) putchar(" abcdefghijklmnopqrstuvwxyz.,!?-"[text[i]]);
    for (int i = PROMPT; i < n; same &= best[0] == text[i++])
        forward(&kv[1], text + i - 1, 1);
    for (int i = 0; i < 2; i++) must(tfb_kv_save(&ctx, &kv[i], save[i], sizeof *save));
    same &= memcmp(save[0], save[1], sizeof *save) == 0; /* all that the caches hold */
    printf("\n%d tokens in %d calls, same bits: %d\n", n - PROMPT, calls, same);
    return tfb_kv_free(&kv[0]), tfb_kv_free(&kv[1]), tfb_ctx_free(&ctx), !same;
}
