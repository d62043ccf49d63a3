/* 14_swap_the_mixer: one block, three mixers, swapped by changing one word, and what each
 * of them costs. ./a.out time: time as well.   cc -O2 main.c && ./a.out */
#define TFBLOCKS_IMPLEMENTATION
#include "../../tfblocks.h"
#include <stdio.h>
#include <time.h>

enum { T = 512, C = 64 }; /* tokens, channels */
static float x[T * C], y[T * C], y2[T * C], weights[4 * C * C], core[1 << 16];
static tfb_ctx ctx;

static void must(tfb_status status) {
    if (status != TFB_OK) puts(ctx.message), exit(1);
}

/* A mixer of our own, as in 13, that smooths: y[t] = y[t - 1] + (v[t] - y[t - 1]) / 8. */
static tfb_status step(tfb_ctx *c, void *self, const tfb_mix *m, tfb_mixer_state *state) {
    const tfb_idx *n = m->q->shape, *in = m->v->stride, *to = m->y->stride;
    if ((void)self, m->q->ndim != 3 || m->v->shape[2] != n[2])
        return strcpy(c->message, "smoothing: needs one axis"), TFB_ERR_SHAPE;
    for (tfb_idx i = 0; !c->measuring && i < n[0] * n[2]; i++) { /* one channel */
        const float *v = (float *)m->v->data + i / n[2] * in[0] + i % n[2];
        float *out = (float *)m->y->data + i / n[2] * to[0] + i % n[2], zero = 0;
        float *last = state ? (float *)state->carried[0].data + i : &zero;
        for (tfb_idx t = 0; t < n[1]; t++)
            out[t * to[1]] = *last += (v[t * in[1]] - *last) / 8;
    }
    return TFB_OK;
}

static tfb_status forward(tfb_ctx *c, void *self, const tfb_mix *m) {
    return step(c, self, m, NULL);
}

static void need(const void *self, tfb_idx channels, tfb_mixer_need *n) {
    (void)self, n->carried[0] = channels; /* floats a sample */
}

static int64_t flops(const void *self, tfb_idx c, const tfb_idx *n, int axes, int infer) {
    return (void)self, (void)axes, (void)infer, (int64_t)n[0] * c * 3;
}
static const tfb_mixer_ops smooth = {"smoothing", forward, step, need, flops, NULL};

/* A line of the table, with arguments a time too; 1 if steps give other bits than it. */
static int show(tfb_mixer mixer, int args) {
    const tfb_qkv_opts opts = {.channels = C, .mixer = mixer};
    const tfb_idx length = T;
    tfb_tensor X = tfb_view3(x, TFB_F32, 1, T, C), Y = X;
    tfb_mixer_state state;
    tfb_qkv block;
    clock_t start = clock();
    must(tfb_qkv_init(&ctx, &block, &opts, weights, sizeof weights)), Y.data = y;
    for (int i = 0; i < (args > 1 ? 50 : 1); i++)
        must(tfb_qkv_forward(&ctx, &block, &X, NULL, &Y));
    printf("%-10s%11ld%12ld%9ld%8ld", mixer.ops->name,
           (long)tfb_params_count(tfb_qkv_params, &block),
           (long)tfb_qkv_flops(&block, &length, 1, 1), (long)ctx.scratch_last,
           (long)tfb_mixer_state_bytes(&block, 1, T));
    if (args > 1) printf("%8.2f ms", (double)(clock() - start) * 20 / CLOCKS_PER_SEC);
    must(tfb_mixer_state_init(&ctx, &state, &block, 1, T, NULL, 0)), puts("");
    for (int t = 0; t < T; t++) {
        X = tfb_view3(x + t * C, TFB_F32, 1, 1, C), Y = X, Y.data = y2 + t * C;
        must(tfb_qkv_step(&ctx, &block, &state, &X, NULL, &Y));
    }
    return tfb_mixer_state_free(&state), memcmp(y, y2, sizeof y) != 0;
}

int main(int argc, char **argv) {
    const tfb_mamba_opts opts = {.channels = C};
    tfb_attention_mixer a = {.heads = 4, .opts = {.causal = TFB_CAUSAL_BOTTOM_RIGHT}};
    tfb_mamba m;
    tfb_mixer attention = tfb_attention_as_mixer(&a), mamba = tfb_mamba_as_mixer(&m);
    tfb_mixer smoothing = {&smooth, NULL};
    for (int i = 0; i < T * C; i++) x[i] = (float)(i * 37 % 2001 - 1000) / 1000;
    must(tfb_ctx_init(&ctx)), must(tfb_mamba_init(&ctx, &m, &opts, core, sizeof core));
    puts("mixer      parameters       flops  scratch   state");
    const int wrong = show(attention, argc) + show(mamba, argc) + show(smoothing, argc);
    printf("token by token: the same bits: %d\n", !wrong);
    return (void)argv, tfb_ctx_free(&ctx), wrong;
}
