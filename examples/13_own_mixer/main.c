/* 13_own_mixer: linear attention, written outside the library, as the mixer of a block:
 * what it remembers does not grow with the text.   cc -O2 main.c && ./a.out */
#define TFBLOCKS_IMPLEMENTATION
#include "../../tfblocks.h"
#include <stdio.h>

enum { B = 2, T = 24, C = 32, SUMS = C * (C + 1) };
static float x[B * T * C], y[B * T * C], y2[B * T * C], weights[4 * C * C];
static tfb_ctx ctx;

static void must(tfb_status status) {
    if (status != TFB_OK) puts(ctx.message), exit(1);
}

static float f(float z) { /* positive; exp(q k) of attention becomes f(q) f(k) here */
    return z > 0 ? 1 + z : 1 / (1 - z);
}

/* y = f(q) S / f(q) z where S is the sum of f(k) v^T up to here and z that of f(k). */
static void token(const float *q, const float *k, const float *v, float *S, float *out) {
    float sum[C + 1] = {0};
    for (int i = 0; i < C; i++)
        for (int j = 0; j <= C; j++, S++) /* z is the last column of S */
            *S += f(k[i]) * (j < C ? v[j] : 1), sum[j] += f(q[i]) * *S;
    for (int j = 0; j < C; j++) out[j] = sum[j] / sum[C];
}

static float *row(const tfb_tensor *t, tfb_idx b, tfb_idx i) {
    return (float *)t->data + b * t->stride[0] + i * t->stride[1];
}

/* The next tokens; state NULL: all of them, and nothing is kept. c is the context of this
 * call: memory, messages and whatever is called in here go through it. */
static tfb_status step(tfb_ctx *c, void *self, const tfb_mix *m, tfb_mixer_state *state) {
    const tfb_idx *n = m->q->shape, shape[] = {n[0], SUMS};
    tfb_tensor sums; /* 0 before the first token */
    const tfb_status status = state ? TFB_OK : tfb_scratch(c, &sums, TFB_F32, 2, shape);
    if ((void)self, m->q->ndim != 3 || n[2] != C || m->k->shape[2] != C)
        return strcpy(c->message, "own mixer: needs one axis, C = 32"), TFB_ERR_SHAPE;
    if (status || c->measuring) return status; /* measuring: there is no data */
    if (state) sums = state->carried[0];
    else memset(sums.data, 0, (size_t)(n[0] * SUMS) * sizeof(float));
    for (tfb_idx b = 0; b < n[0]; b++)
        for (tfb_idx t = 0; t < n[1]; t++)
            token(row(m->q, b, t), row(m->k, b, t), row(m->v, b, t), row(&sums, b, 0),
                  row(m->y, b, t));
    return TFB_OK;
}

static tfb_status forward(tfb_ctx *c, void *self, const tfb_mix *m) {
    return step(c, self, m, NULL);
}

static void need(const void *self, tfb_idx channels, tfb_mixer_need *n) {
    (void)self, (void)channels, n->carried[0] = SUMS; /* floats a sample */
}

static int64_t flops(const void *self, tfb_idx c, const tfb_idx *n, int axes, int infer) {
    return (void)self, (void)c, (void)axes, (void)infer, (int64_t)n[0] * (4 * SUMS + C);
}
static const tfb_mixer_ops linear = {"linear", forward, step, need, flops, NULL};

int main(void) {
    const tfb_qkv_opts opts = {.channels = C, .mixer = {&linear, NULL}};
    tfb_tensor X = tfb_view3(x, TFB_F32, B, T, C), Y = X, from, to;
    tfb_mixer_state state;
    tfb_qkv block;
    for (int i = 0; i < B * T * C; i++) x[i] = (float)(i * 37 % 2001 - 1000) / 1000;
    must(tfb_ctx_init(&ctx)), Y.data = y;
    must(tfb_qkv_init(&ctx, &block, &opts, weights, sizeof weights));
    must(tfb_qkv_forward(&ctx, &block, &X, NULL, &Y)), Y.data = y2;
    must(tfb_mixer_state_init(&ctx, &state, &block, B, T, NULL, 0));
    for (tfb_idx at = 0; at < T; at++) {
        must(tfb_slice(&ctx, &X, 1, at, 1, &from));
        must(tfb_slice(&ctx, &Y, 1, at, 1, &to));
        must(tfb_qkv_step(&ctx, &block, &state, &from, NULL, &to));
    }
    printf("y[0] = %.3f, step by step too: %d\n", (double)y[0], !memcmp(y, y2, sizeof y));
    return tfb_mixer_state_free(&state), tfb_ctx_free(&ctx), memcmp(y, y2, sizeof y) != 0;
}
