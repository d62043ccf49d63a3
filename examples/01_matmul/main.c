/* 01_matmul: a context, views of your own arrays, a transpose that copies nothing, and
 * what a mistake looks like.   cc -O2 main.c && ./a.out */
#define TFBLOCKS_IMPLEMENTATION /* in exactly one .c file of a program */
#include "../../tfblocks.h"
#include <stdio.h>

enum { M = 5, K = 300, N = 7 };
static float a[M * K], b[K * N], y[M * N], y_t[N * M];

/* The same sum in a plain loop. All numbers are small and whole, so both are exact. */
static float plain(int i, int j) {
    float sum = 0;
    int k;
    for (k = 0; k < K; k++) sum += a[i * K + k] * b[k * N + j];
    return sum;
}

/* Every call returns a status; ctx.message says what was wrong, by name and number. */
static void must(const tfb_ctx *ctx, tfb_status status) {
    if (status == TFB_OK) return;
    printf("%s: %s\n", tfb_status_text(status), ctx->message);
    exit(1);
}

int main(void) {
    const int swap[2] = {1, 0}; /* dimension i of the result is dimension swap[i] */
    int i, j, wrong = 0;
    tfb_ctx ctx;
    tfb_tensor A, B, Y, At, Bt, Yt;
    for (i = 0; i < M * K; i++) a[i] = (float)(i % 17 - 8);
    for (i = 0; i < K * N; i++) b[i] = (float)(i % 13 - 6);

    /* A context goes first into every call; it keeps scratch memory and the message. */
    must(&ctx, tfb_ctx_init(&ctx));

    /* A tensor is a view: it points at your array and never owns or copies it. */
    A = tfb_view2(a, TFB_F32, M, K);
    B = tfb_view2(b, TFB_F32, K, N);
    Y = tfb_view2(y, TFB_F32, M, N);
    must(&ctx, tfb_matmul(&ctx, &A, &B, &Y));
    printf("y = a b: [%d, %d], first row", (int)Y.shape[0], (int)Y.shape[1]);
    for (j = 0; j < N; j++) printf(" %g", (double)y[j]);

    /* A transpose is another view of the same numbers; matmul takes any strides. */
    Yt = tfb_view2(y_t, TFB_F32, N, M);
    must(&ctx, tfb_permute(&ctx, &A, swap, &At));
    must(&ctx, tfb_permute(&ctx, &B, swap, &Bt));
    must(&ctx, tfb_matmul(&ctx, &Bt, &At, &Yt)); /* (a b)^T = b^T a^T */
    for (i = 0; i < M; i++)
        for (j = 0; j < N; j++)
            wrong += y[i * N + j] != plain(i, j) || y_t[j * M + i] != plain(i, j);
    printf("\n%d of %d differ from the plain loop\n", wrong, M * N);

    /* A mistake on purpose: a times a does not fit. Nothing was written. */
    if (tfb_matmul(&ctx, &A, &A, &Y) != TFB_ERR_SHAPE || y[0] != plain(0, 0)) wrong++;
    printf("a mistake: %s\n", ctx.message);
    tfb_ctx_free(&ctx);
    return wrong != 0;
}
