/* Built with -ffast-math: tfb_build_info must say so, and what is masked must not reach a
 * result even so. Looks at bits: to this build no NaN exists. */
#include "../test.h"

enum { T = 5, S = 70, D = 16 };

static int is_nan(const float *x) {
    uint32_t u;
    memcpy(&u, x, 4);
    return (u & 0x7FFFFFFFu) > 0x7F800000u;
}

static void set_bits(float *x, uint32_t bits) {
    memcpy(x, &bits, 4);
}

/* Hidden keys and values are NaN and inf; row 2 sees nothing at all. kind: what hides
 * them, a mask, a bias of -inf, or kv_len. */
static void masked_rows(tfb_ctx *ctx, int kind) {
    float *q = t_floats(T * D), *k = t_floats(S * D), *v = t_floats(S * D);
    float *y = t_floats(T * D), *lse = t_floats(T), *bias = t_floats(T * S);
    uint8_t mask[T * S];
    int32_t len = 40;
    tfb_tensor Q = tfb_view4(q, TFB_F32, 1, 1, T, D),
               K = tfb_view4(k, TFB_F32, 1, 1, S, D);
    tfb_tensor V = tfb_view4(v, TFB_F32, 1, 1, S, D),
               Y = tfb_view4(y, TFB_F32, 1, 1, T, D);
    tfb_tensor L = tfb_view3(lse, TFB_F32, 1, 1, T), M = tfb_view2(mask, TFB_U8, T, S);
    tfb_tensor B = tfb_view2(bias, TFB_F32, T, S), N = tfb_view1(&len, TFB_I32, 1);
    tfb_attention_opts o;
    int i, j;
    memset((void *)&o, 0, sizeof o);
    for (j = 40; j < S; j++)
        for (i = 0; i < D; i++) {
            set_bits(v + j * D + i, i & 1 ? 0x7FC00000u : 0x7F800000u);
            set_bits(k + j * D + i, i & 1 ? 0xFF800000u : 0x7FC00000u);
        }
    for (i = 0; i < T; i++)
        for (j = 0; j < S; j++) {
            const int seen = i != 2 && j < 40;
            mask[i * S + j] = (uint8_t)seen;
            if (!seen) set_bits(bias + i * S + j, 0xFF800000u);
        }
    o.lse = &L;
    if (kind == 0) o.mask = &M;
    if (kind == 1) o.bias = &B;
    if (kind == 2) o.kv_len = &N;
    CHECK_OK(ctx, tfb_attention(ctx, &Q, &K, &V, &o, &Y));
    for (i = 0; i < T * D; i++) CHECK(!is_nan(y + i), "kind %d: y[%d] is NaN", kind, i);
    for (i = 0; i < D && kind < 2; i++) CHECK(y[2 * D + i] == 0, "an empty row is not 0");
    for (i = 0; i < T; i++) CHECK(!is_nan(lse + i), "kind %d: lse[%d] is NaN", kind, i);
    free(q), free(k), free(v), free(y), free(lse), free(bias);
}

static void each_table(void (*run)(tfb_ctx *ctx)) {
    const char *name;
    tfb_ctx ctx;
    int i;
    tfb_ctx_init(&ctx);
    for (i = 0; (name = tfb_isa_list(&ctx, i, NULL)) != NULL; i++)
        if (tfb_isa_force(&ctx, name) == TFB_OK) run(&ctx);
    tfb_ctx_free(&ctx);
}

static void says_so(tfb_ctx *ctx) {
    CHECK_FAILS(ctx, TFB_ERR_UNSUPPORTED, "tfb_build_info", tfb_build_info(ctx));
}

static void masks(tfb_ctx *ctx) {
    int kind;
    for (kind = 0; kind < 3; kind++) masked_rows(ctx, kind);
}

static void test_build_is_reported(void) {
    each_table(says_so);
}

static void test_masked_rows(void) {
    each_table(masks);
}

int main(void) {
    RUN(test_build_is_reported);
    RUN(test_masked_rows);
    FINISH();
}
