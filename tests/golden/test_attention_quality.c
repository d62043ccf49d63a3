/* tfb_attention in float32 is no further from float64 than PyTorch's float32 on the CPU:
 * softmax(q k^T * scale) v spelled out there by attention_quality.py, on the same inputs. */
#include "../test.h"
#include <math.h>

enum { S = 256, D = 64 };

/* Printed by attention_quality.py. */
typedef struct peer {
    const char *kind;
    int causal;
    double max, rms;
} peer;

static const peer torch[] = {
    {"random", 0, 1.11825902e-07, 1.17162217e-08},  /* scores up to 1.5 */
    {"random", 1, 8.76233574e-08, 1.30023261e-08},  /* scores up to 1.5 */
    {"large", 0, 7.94503688e-06, 7.78612882e-07},   /* scores up to 96.2 */
    {"large", 1, 1.02406046e-05, 7.59472975e-07},   /* scores up to 96.2 */
    {"equal", 0, 2.98023224e-08, 1.09639194e-08},   /* scores up to 1.0 */
    {"equal", 1, 7.29421038e-08, 1.06289396e-08},   /* scores up to 1.0 */
    {"one-hot", 0, 2.98023224e-08, 2.50766278e-09}, /* scores up to 128.0 */
    {"one-hot", 1, 5.96046449e-08, 7.56832981e-09}, /* scores up to 128.0 */
};
#define CASES ((int)(sizeof torch / sizeof *torch))

static float q[S * D], k[S * D], v[S * D], y[S * D];
static uint32_t state;

static void rows(float *to) {
    int i;
    for (i = 0; i < S * D; i++) {
        state = 1664525u * state + 1013904223u;
        to[i] = (float)(state >> 8) / 8388608.0f - 1.0f;
    }
}

static void inputs(const char *kind) {
    int i;
    state = 12345;
    rows(q);
    rows(k);
    rows(v);
    for (i = 0; i < S * D; i++) {
        if (kind[0] == 'l') q[i] *= 64;
        if (kind[0] == 'e') k[i] = k[i % D];
        if (kind[0] == 'o') q[i] = k[i] = i / D % D == i % D ? 32.0f : 0.0f;
    }
}

/* Adds the squares of row i's errors to *squares and returns the largest. */
static double row_errors(int i, int seen, double *squares) {
    double s[S], top = -HUGE_VAL, sum = 0, most = 0;
    int j, d;
    for (j = 0; j < seen; j++) {
        for (s[j] = 0, d = 0; d < D; d++)
            s[j] += (double)q[i * D + d] * (double)k[j * D + d];
        s[j] *= 0.125;
        top = fmax(top, s[j]);
    }
    for (j = 0; j < seen; j++) sum += s[j] = exp(s[j] - top);
    for (d = 0; d < D; d++) {
        double want = 0, error;
        for (j = 0; j < seen; j++) want += s[j] / sum * (double)v[j * D + d];
        error = fabs((double)y[i * D + d] - want);
        *squares += error * error;
        most = fmax(most, error);
    }
    return most;
}

static void no_worse_than_torch(void) {
    tfb_ctx ctx;
    int n, i;
    t_ctx(&ctx, NULL);
    printf("  case          causal   max ours     torch   rms ours     torch\n");
    for (n = 0; n < CASES; n++) {
        const tfb_tensor tq = tfb_view4(q, TFB_F32, 1, 1, S, D);
        const tfb_tensor tk = tfb_view4(k, TFB_F32, 1, 1, S, D);
        const tfb_tensor tv = tfb_view4(v, TFB_F32, 1, 1, S, D);
        tfb_tensor ty = tfb_view4(y, TFB_F32, 1, 1, S, D);
        tfb_attention_opts o = TFB_INIT;
        double max = 0, squares = 0, rms;
        inputs(torch[n].kind);
        o.causal = torch[n].causal ? TFB_CAUSAL_BOTTOM_RIGHT : TFB_CAUSAL_NONE;
        CHECK_OK(&ctx, tfb_attention(&ctx, &tq, &tk, &tv, &o, &ty));
        for (i = 0; i < S; i++)
            max = fmax(max, row_errors(i, torch[n].causal ? i + 1 : S, &squares));
        rms = sqrt(squares / (S * D));
        printf("  %-13s %d        %.3e %.3e  %.3e %.3e\n", torch[n].kind, torch[n].causal,
               max, torch[n].max, rms, torch[n].rms);
        CHECK(max <= torch[n].max, "%s: the largest error is %.8e, torch's %.8e",
              torch[n].kind, max, torch[n].max);
        CHECK(rms <= torch[n].rms, "%s: the rms error is %.8e, torch's %.8e",
              torch[n].kind, rms, torch[n].rms);
    }
    tfb_ctx_free(&ctx);
}

int main(void) {
    RUN(no_worse_than_torch);
    FINISH();
}
