/* 15_vit: the encoder of a vision transformer: a small one whose bits are the same
 * everywhere, or ViT-B/16 against the clock.   cc -O2 main.c -o vit && ./vit [full] */
#define TFBLOCKS_IMPLEMENTATION
#include "../../tfblocks.h"
#include <stdio.h>
#include <time.h>

static struct layer {
    tfb_mhsa attention;
    tfb_tensor scale[2], shift[2], w[2], b[2]; /* of the two norms, of the MLP */
} layers[12];

static tfb_idx L = 2, N = 17, C = 96, H = 3; /* layers, tokens, channels, heads */
static uint64_t seed, used;                  /* bytes */
static tfb_ctx ctx;

static void must(tfb_status status) {
    if (status != TFB_OK) puts(ctx.message), exit(1);
}

static void *take(size_t bytes) { /* kept until the program ends */
    char *mem = malloc(bytes + 64);
    if (!mem) puts("ViT-B/16 needs 340 MiB"), exit(1);
    return used += bytes, mem + 64 - (uintptr_t)mem % 64;
}

static tfb_tensor vector(tfb_idx n, float middle) { /* random numbers */
    tfb_tensor t = tfb_view1(take((size_t)n * sizeof(float)), TFB_F32, n);
    return must(tfb_uniform(&ctx, ++seed, 0, middle - 0.03f, middle + 0.03f, &t)), t;
}

static tfb_tensor packed(const tfb_tensor *w) {
    const size_t bytes = tfb_pack_bytes(w->shape[0], w->shape[1], w->dtype);
    tfb_tensor t;
    return must(tfb_pack(&ctx, w, take(bytes), bytes, &t)), t;
}

/* Weights are drawn into draft, which the next layer uses again, and kept as packs. */
static void make_layer(struct layer *l, float *draft, const tfb_mhsa_opts *opts) {
    tfb_qkv *qkv = &l->attention.block;
    must(tfb_mhsa_init(&ctx, &l->attention, opts, draft, tfb_mhsa_bytes(opts)));
    qkv->wqkv = packed(&qkv->wqkv), qkv->bqkv = vector(3 * C, 0);
    qkv->wout = packed(&qkv->wout), qkv->bout = vector(C, 0);
    for (int i = 0; i < 2; i++) {
        tfb_tensor w = tfb_view2(draft, TFB_F32, i ? C : 4 * C, i ? 4 * C : C);
        must(tfb_uniform(&ctx, ++seed, 0, -0.03f, 0.03f, &w));
        l->w[i] = packed(&w), l->b[i] = vector(w.shape[0], 0);
        l->scale[i] = vector(C, 1), l->shift[i] = vector(C, 0);
    }
}

static void norm(const struct layer *l, int i, const tfb_tensor *x, tfb_tensor *y) {
    tfb_norm_opts opts = {.weight = &l->scale[i], .bias = &l->shift[i], .eps = 1e-6f};
    must(tfb_layernorm(&ctx, x, &opts, y));
}

static void encode(tfb_tensor *x, tfb_tensor *normed, tfb_tensor *wide) { /* in place */
    const tfb_qkv_call call = {.residual = x, .inference = 1};
    for (struct layer *l = layers; l < layers + L; l++) {
        const tfb_linear_opts first = {.bias = &l->b[0], .act = TFB_FN_GELU_ERF};
        const tfb_linear_opts second = {.bias = &l->b[1], .residual = x};
        norm(l, 0, x, normed);
        must(tfb_qkv_forward(&ctx, &l->attention.block, normed, &call, x));
        norm(l, 1, x, normed);
        must(tfb_linear(&ctx, normed, &l->w[0], &first, wide));
        must(tfb_linear(&ctx, wide, &l->w[1], &second, x));
    }
}

int main(int argc, char **argv) {
    double time[9], gflop;
    uint32_t bits, hash = 2166136261u; /* FNV-1a */
    if (argc > 1 && strcmp(argv[1], "full") == 0) L = 12, N = 197, C = 768, H = 12;
    tfb_mhsa_opts opts = {.channels = C, .heads = H, .bias = 1};
    float *draft = take(tfb_mhsa_bytes(&opts)), *space = take((size_t)(N * C) * 24);
    tfb_tensor x = tfb_view3(space, TFB_F32, 1, N, C), normed = x;
    tfb_tensor wide = tfb_view3(space + 2 * N * C, TFB_F32, 1, N, 4 * C);
    normed.data = space + N * C;
    must(tfb_ctx_init(&ctx));
    used = 0; /* only weights count from here on */
    for (int i = 0; i < L; i++) opts.seed = ++seed, make_layer(&layers[i], draft, &opts);
    gflop = 1e-9 * (double)(L * (16 * (int64_t)N * C * C + /* those of the MLP */
                                 tfb_qkv_flops(&layers->attention.block, &N, 1, 1)));
    for (int i = 0, k; i < 9; i++) { /* the same image, nine times */
        must(tfb_uniform(&ctx, 0, 0, -1, 1, &x));
        const clock_t begin = clock();
        encode(&x, &normed, &wide);
        const double t = (double)(clock() - begin) / CLOCKS_PER_SEC;
        for (k = i; k > 0 && time[k - 1] > t; k--) time[k] = time[k - 1]; /* sorted */
        time[k] = t;
    }
    for (int i = 0; i < N * C; i++, hash = (hash ^ bits) * 16777619u)
        memcpy(&bits, &space[i], sizeof bits);
    printf("%d layers, %d tokens of %d: y = %.4f %.4f .., hash %08x\n", (int)L, (int)N,
           (int)C, (double)space[0], (double)space[1], hash);
    if (L == 12) /* and the median */
        printf("%.1f ms, %.1f GFLOP/s; %d KiB of weights, %d of scratch\n", 1e3 * time[4],
               gflop / time[4], (int)(used >> 10), (int)(ctx.scratch_peak >> 10));
    return tfb_ctx_free(&ctx), 0;
}
