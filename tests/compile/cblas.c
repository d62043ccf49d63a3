/* TFB_USE_CBLAS, linked with --wrap=cblas_sgemm: which calls go there, and that what
 * comes back is right within float32's rounding. check_cblas.sh runs it. */
#define TFB_USE_CBLAS
#define TFBLOCKS_IMPLEMENTATION
#include "tfblocks.h"
#include <stdio.h>

enum { M = 130, N = 150, K = 170 };
static float a[M * K], b[N * K], y[M * N], want[M * N], bias[N], pack[160 * K + 16];
static float more[M * N];
static int calls, failed;

void __real_cblas_sgemm(enum CBLAS_ORDER, enum CBLAS_TRANSPOSE, enum CBLAS_TRANSPOSE, int,
                        int, int, float, const float *, int, const float *, int, float,
                        float *, int);
void __wrap_cblas_sgemm(enum CBLAS_ORDER, enum CBLAS_TRANSPOSE, enum CBLAS_TRANSPOSE, int,
                        int, int, float, const float *, int, const float *, int, float,
                        float *, int);

void __wrap_cblas_sgemm(enum CBLAS_ORDER o, enum CBLAS_TRANSPOSE ta,
                        enum CBLAS_TRANSPOSE tb, int m, int n, int k, float alpha,
                        const float *x, int ldx, const float *w, int ldw, float beta,
                        float *z, int ldz) {
    calls++;
    __real_cblas_sgemm(o, ta, tb, m, n, k, alpha, x, ldx, w, ldw, beta, z, ldz);
}

static void check(const char *name, tfb_status status, int want_calls) {
    int i, bad = status != TFB_OK || calls != want_calls;
    for (i = 0; i < M * N; i++) {
        const float off = y[i] - want[i];
        bad |= !(off * off <= 1e-8f * (1 + want[i] * want[i]));
    }
    printf("%s %s: %d calls\n", bad ? "FAIL" : "ok", name, calls);
    failed |= bad;
    calls = 0;
    memset(y, 255, sizeof y);
}

int main(void) {
    tfb_tensor A = tfb_view2(a, TFB_F32, M, K), W = tfb_view2(b, TFB_F32, N, K);
    tfb_tensor Y = tfb_view2(y, TFB_F32, M, N), R = tfb_view2(want, TFB_F32, M, N);
    tfb_tensor V = tfb_view1(bias, TFB_F32, N), P, T;
    tfb_tensor S = tfb_view2(more, TFB_F32, M, N);
    tfb_linear_opts o = TFB_INIT;
    const int order[2] = {1, 0};
    tfb_ctx ctx;
    int i;
    tfb_ctx_init(&ctx);
    failed = tfb_build_info(&ctx) != TFB_ERR_UNSUPPORTED ||
             !strstr(ctx.message, "TFB_USE_CBLAS");
    printf("%s build_info says so\n", failed ? "FAIL" : "ok");
    for (i = 0; i < M * K; i++) a[i] = (float)(i % 23 - 11) / 16;
    for (i = 0; i < N * K; i++) b[i] = (float)(i % 19 - 9) / 8;
    for (i = 0; i < N; i++) bias[i] = (float)(i % 5 - 2);
    tfb__linear_ref(&A, &W, &o, &R);
    check("linear", tfb_linear(&ctx, &A, &W, NULL, &Y), 1);
    tfb_permute(&ctx, &W, order, &T);
    check("matmul with a transpose", tfb_matmul(&ctx, &A, &T, &Y), 1);
    tfb_pack(&ctx, &W, pack, sizeof pack, &P);
    check("packed weights stay", tfb_linear(&ctx, &A, &P, NULL, &Y), 0);
    o.bias = &V;
    o.act = TFB_FN_SILU;
    o.alpha = 0.5f;
    o.alpha_set = 1;
    tfb__linear_ref(&A, &W, &o, &R);
    check("bias, activation, alpha", tfb_linear(&ctx, &A, &W, &o, &Y), 1);
    o.residual = &S;
    for (i = 0; i < M * N; i++) more[i] = (float)(i % 3);
    tfb__linear_ref(&A, &W, &o, &R);
    check("a residual stays", tfb_linear(&ctx, &A, &W, &o, &Y), 0);
    tfb_ctx_free(&ctx);
    return failed;
}
