/* 14_swap_the_mixer: one block, four mixers, swapped by changing one word, and what each
 * of them costs. ./a.out time: time as well.   cc -O2 main.c && ./a.out */
#define TFBLOCKS_IMPLEMENTATION
#include "../../tfblocks.h"
#include <stdio.h>
#include <time.h>

enum { T = 512, C = 64 }; /* tokens, channels */
static float x[T * C], y[T * C], y2[T * C], weights[4 * C * C], core[3][1 << 16];
static tfb_ctx ctx;

static void must(tfb_status status) {
    if (status != TFB_OK) puts(ctx.message), exit(1);
}

/* A line of the table, with arguments a time too; 1 if steps give other bits than it. */
static int show(tfb_mixer mixer, int args) {
    const tfb_qkv_opts opts = {.channels = C, .mixer = mixer};
    const tfb_qkv_call call = {.inference = 1}; /* kernels that are kept may be used */
    const tfb_idx length = T;
    tfb_tensor X = tfb_view3(x, TFB_F32, 1, T, C), Y = X;
    tfb_mixer_state state;
    tfb_qkv block;
    clock_t start = clock();
    must(tfb_qkv_init(&ctx, &block, &opts, weights, sizeof weights)), Y.data = y;
    for (int i = 0; i < (args > 1 ? 50 : 1); i++)
        must(tfb_qkv_forward(&ctx, &block, &X, &call, &Y));
    printf("%-10s%11ld%12ld%9ld%8ld", mixer.ops->name,
           (long)tfb_params_count(tfb_qkv_params, &block),
           (long)tfb_qkv_flops(&block, &length, 1, 1), (long)ctx.scratch_last,
           (long)tfb_mixer_state_bytes(&block, 1, T));
    if (args > 1) printf("%8.2f ms", (double)(clock() - start) * 20 / CLOCKS_PER_SEC);
    must(tfb_mixer_state_init(&ctx, &state, &block, 1, T, NULL, 0)), puts("");
    for (int t = 0; t < T; t++) {
        X = tfb_view3(x + t * C, TFB_F32, 1, 1, C), Y = X, Y.data = y2 + t * C;
        must(tfb_qkv_step(&ctx, &block, &state, &X, &call, &Y));
    }
    return tfb_mixer_state_free(&state), memcmp(y, y2, sizeof y) != 0;
}

int main(int argc, char **argv) {
    const tfb_idx length = T;
    const tfb_mamba_opts opts = {.channels = C};
    const tfb_hyena_opts long_opts = {.conv = {.channels = C,
                                               .edge = {TFB_EDGE_CAUSAL},
                                               .length = {T},
                                               .mask = TFB_CKCONV_EXPONENTIAL,
                                               .method = TFB_CONV_DIRECT},
                                      .short_taps = {3},
                                      .short_causal = 1,
                                      .gate1 = TFB_FN_SILU,
                                      .gate2 = TFB_FN_SIGMOID,
                                      .gate2_set = 1};
    tfb_attention_mixer a = {.heads = 4, .opts = {.causal = TFB_CAUSAL_BOTTOM_RIGHT}};
    tfb_mamba m;
    tfb_ckconv ck;
    tfb_hyena h;
    tfb_mixer attention = tfb_attention_as_mixer(&a), mamba = tfb_mamba_as_mixer(&m);
    tfb_mixer ckconv = tfb_ckconv_as_mixer(&ck), hyena = tfb_hyena_as_mixer(&h);
    for (int i = 0; i < T * C; i++) x[i] = (float)(i * 37 % 2001 - 1000) / 1000;
    must(tfb_ctx_init(&ctx)), must(tfb_mamba_init(&ctx, &m, &opts, core, sizeof *core));
    must(tfb_ckconv_init(&ctx, &ck, &long_opts.conv, core[1], sizeof *core));
    must(tfb_hyena_init(&ctx, &h, &long_opts, core[2], sizeof *core));
    must(tfb_ckconv_prepare(&ctx, &ck, &length, 1, NULL, 0)); /* kernels, made once */
    must(tfb_ckconv_prepare(&ctx, &h.conv, &length, 1, NULL, 0));
    puts("mixer      parameters       flops  scratch   state");
    const int wrong = show(attention, argc) + show(mamba, argc) + show(ckconv, argc) +
                      show(hyena, argc);
    printf("token by token: the same bits: %d\n", !wrong);
    tfb_ckconv_forget(&ck), tfb_ckconv_forget(&h.conv);
    return (void)argv, tfb_ctx_free(&ctx), wrong;
}
