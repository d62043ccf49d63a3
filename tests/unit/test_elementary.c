/* test_elementary.c - ELEMENTARY FUNCTIONS: tfb_map against libm in double; tables
 * against each other by bits, special values, strides; the software fma and square root.
 *   test_elementary           a dense sample of all float32 values
 *   test_elementary all [fn]  every float32 value; hours; one function, some minutes */
#include "../test.h"
#include <math.h>

enum { CHUNK = 4096 };

static uint32_t sample_step = 2003, table_step = 5003;
static int verbose;

/* --- What the functions should be, in double. --- */
static double want_identity(double x) {
    return x;
}

static double want_relu(double x) {
    return x < 0 ? 0 : x;
}

static double want_relu_squared(double x) {
    return x < 0 ? 0 : x * x; /* exact: 48 bits */
}

static double want_gelu_tanh(double x) {
    const double u = 0.79788456080286535588 * (x + 0.044715 * x * x * x);
    return x < -1e30 ? -0.0 : x / (1 + exp(-2 * u));
}

static double want_gelu_erf(double x) {
    return x < -1e30 ? -0.0 : 0.5 * x * erfc(-x * 0.70710678118654752440);
}

static double want_silu(double x) {
    return x < -1e30 ? -0.0 : x / (1 + exp(-x));
}

static double want_sigmoid(double x) {
    return 1 / (1 + exp(-x));
}

static double want_softplus(double x) {
    return (x > 0 ? x : 0) + log1p(exp(-fabs(x)));
}

/* The promises: ulp where the result is normal (tail_ulp below x = -1), absolute error;
 * a result may be 0 where the true one is smaller than flush. */
typedef struct promise {
    double (*want)(double x);
    double ulp, tail_ulp, absolute, flush;
} promise;

#define NORMAL_MIN 1.1754943508222875e-38 /* 2^-126 */
#define ANY        1e300

static const promise promises[] = {
    {want_identity, 0, 0, 0, 0},                /* identity */
    {want_relu, 0, 0, 0, 0},                    /* relu */
    {want_relu_squared, 0.5, 0, ANY, 0},        /* relu_squared */
    {want_gelu_tanh, 3, 256, 6.3e-7, 5e-38},    /* gelu_tanh */
    {want_gelu_erf, 4.5, 4.5, 6.3e-7, 2.2e-38}, /* gelu_erf */
    {want_silu, 2, 2, ANY, 4e-37},              /* silu */
    {want_sigmoid, 2, 2, ANY, 0},               /* sigmoid */
    {tanh, 2, 2, ANY, 0},                       /* tanh */
    {exp, 2, 2, ANY, 0},                        /* exp */
    {exp2, 2, 2, ANY, 0},                       /* exp2 */
    {log, 2, 2, ANY, 0},                        /* log */
    {erf, 2, 2, ANY, 0},                        /* erf */
    {want_softplus, 2, 2, ANY, 0},              /* softplus */
    {sin, 2, 2, ANY, 0},                        /* sin */
    {cos, 2, 2, ANY, 0}};                       /* cos */

static const char *const fn_names[] = {
#define FN_NAME(NAME, name) #name,
    TFB_FN_LIST(FN_NAME)};

/* --- The sample. --- */
static float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

static uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

/* Where the functions change their method, or might; each is taken with both signs. */
static const float turning_points[] = {
    0.0f,       0.5f,        0.6f,     0.625f, 0.6666667f,  1.3333334f, 1.0f,
    3.0f,       4.0f,        5.0f,     8.0f,   9.0f,        9.0109f,    10.0f,
    10.04f,     13.1f,       14.5f,    16.6f,  17.3286f,    24.0f,      87.0f,
    87.336544f, 88.3f,       88.3762f, 88.72f, 88.7228394f, 91.0f,      103.97f,
    126.0f,     127.0f,      128.0f,   149.0f, 150.0f,      131072.0f,  131073.57f,
    8388608.0f, 16777216.0f, 1.0e20f,  1.0e38f};

enum { POINTS = (int)(sizeof turning_points / sizeof *turning_points), REACH = 700 };
enum { SWEEP = 200000, POWERS = 277 * 2 * 65, PIS = 3 * 83442 };
enum { EXTRA = POINTS * 2 * (2 * REACH + 1) + SWEEP + POWERS, TRIG = EXTRA + PIS };

static float extra[TRIG];

/* n floats with the bits around those of x. */
static int around(float *to, float x, int reach) {
    int i;
    for (i = -reach; i <= reach; i++) *to++ = float_of(bits_of(x) + (uint32_t)i);
    return 2 * reach + 1;
}

static void make_extra(void) {
    int n = 0, i, sign;
    for (i = 0; i < POINTS; i++) {
        n += around(extra + n, turning_points[i], REACH);
        n += around(extra + n, -turning_points[i], REACH);
    }
    for (i = -149; i < 128; i++)
        for (sign = 0; sign < 2; sign++) {
            const float power = (float)ldexp(sign ? -1 : 1, i);
            n += around(extra + n, power, 32);
        }
    for (i = 0; i < SWEEP; i++)
        extra[n++] = (float)((i - SWEEP / 2) * (110.0 / (double)SWEEP * 2));
    for (i = 1; i <= PIS / 3; i++) /* to 2^17: where sine or cosine almost vanish */
        n += around(extra + n, (float)(i * 1.5707963267948966), 1);
    CHECK(n == TRIG, "%d of %d samples", n, (int)TRIG);
}

/* Calls see(fn, x, n) with the sample in pieces: every step-th float, then the extras. */
static void over_sample(tfb_fn fn, uint32_t step,
                        void (*see)(tfb_fn fn, const float *x, int n)) {
    static float x[CHUNK];
    const int extras = fn == TFB_FN_SIN || fn == TFB_FN_COS ? TRIG : EXTRA;
    uint64_t u = 0;
    int n, at;
    while (u <= 0xFFFFFFFFu) {
        for (n = 0; n < CHUNK && u <= 0xFFFFFFFFu; u += step)
            x[n++] = float_of((uint32_t)u);
        see(fn, x, n);
    }
    for (at = 0; at < extras; at += CHUNK)
        see(fn, extra + at, (int)TFB__MIN(CHUNK, extras - at));
}

/* --- Accuracy. --- */
static double worst_ulp, worst_x;

/* One unit in the last place of the float32 binade that |v| >= 2^-126 lies in. */
static double ulp_of(double v) {
    uint64_t u;
    memcpy(&u, &v, 8);
    u = (u & 0x7FF0000000000000u) - ((uint64_t)23 << 52);
    memcpy(&v, &u, 8);
    return v;
}

static int near_enough(const promise *p, float x, float got, double want) {
    const double inf = 3.4028236692093846e38; /* 2^128, what inf stands for */
    double y = (double)got, error, limit = x < -1 ? p->tail_ulp : p->ulp;
    if (want != want || x != x) return got != got;
    if (y > inf) y = inf;
    if (y < -inf) y = -inf;
    if (want > inf) want = inf;
    if (want < -inf) want = -inf;
    error = fabs(y - want);
    if (fabs(want) < NORMAL_MIN) { /* must be tiny too, and of the same sign */
        const double tiny = fabs((double)x) < 1 ? 1e-44 : NORMAL_MIN * 1.000001;
        return error <= tiny && (want > 0 ? y >= 0 : want < 0 ? y <= 0 : 1);
    }
    if (y == 0 && fabs(want) < p->flush) return 1;
    error /= ulp_of(want);
    if (error > worst_ulp) {
        worst_ulp = error;
        worst_x = (double)x;
    }
    return error <= limit && error * ulp_of(want) <= p->absolute;
}

static tfb_ctx map_ctx;

static void see_accuracy(tfb_fn fn, const float *x, int n) {
    static float y[CHUNK];
    tfb_tensor X = tfb_view1(x, TFB_F32, n), Y = tfb_view1(y, TFB_F32, n);
    int i;
    CHECK_OK(&map_ctx, tfb_map(&map_ctx, fn, &X, &Y));
    for (i = 0; i < n; i++) {
        const double want = promises[fn].want((double)x[i]);
        if (!near_enough(&promises[fn], x[i], y[i], want))
            CHECK(0, "%s(%.9g) is %.9g, not %.12g", fn_names[fn], (double)x[i],
                  (double)y[i], want);
    }
}

static void accuracy(tfb_fn fn) {
    worst_ulp = worst_x = 0;
    t_ctx(&map_ctx, NULL);
    over_sample(fn, sample_step, see_accuracy);
    if (verbose) printf("%s: %.4f ulp at %.9g\n", fn_names[fn], worst_ulp, worst_x);
    tfb_ctx_free(&map_ctx);
}

/* --- Every table gives the same bits as the scalar one. --- */
static const tfb__kernels *other_table;

static void see_tables(tfb_fn fn, const float *x, int n) {
    static float y[CHUNK], want[CHUNK];
    tfb__kernels_scalar.map(fn, n, x, want);
    other_table->map(fn, n, x, y);
    CHECK_BITS(y, want, n, "%s: %s and scalar", fn_names[fn], other_table->name);
}

static void tables(tfb_fn fn) {
    tfb__isa_row row;
    tfb_ctx ctx;
    int i, others = 0;
    t_ctx(&ctx, NULL);
    for (i = 0; tfb__isa_row_get(i, &row); i++) {
        if (!tfb__isa_usable(&row, ctx.cpu) || !t_comparable(row.kernels) ||
            row.kernels == &tfb__kernels_scalar)
            continue;
        other_table = row.kernels;
        over_sample(fn, table_step, see_tables);
        others++;
    }
    tfb_ctx_free(&ctx);
    if (!others) SKIP("this CPU and build have the scalar table only");
}

#define FN_TESTS(NAME, name)                                                             \
    static void test_accuracy_##name(void) {                                             \
        accuracy(TFB_FN_##NAME);                                                         \
    }                                                                                    \
    static void test_tables_##name(void) {                                               \
        tables(TFB_FN_##NAME);                                                           \
    }
TFB_FN_LIST(FN_TESTS)

/* --- Values and ranges that hold exactly. --- */
static float map_one(tfb_fn fn, float x) {
    tfb_tensor X = tfb_view1(&x, TFB_F32, 1);
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_map(&ctx, fn, &X, &X));
    tfb_ctx_free(&ctx);
    return x;
}

#define INF ((float)INFINITY)

static void test_special_values(void) {
    const struct { /* not static: to tcc INFINITY is no constant */
        tfb_fn fn;
        float x, want;
    } rows[] = {{TFB_FN_IDENTITY, -0.0f, -0.0f},   {TFB_FN_IDENTITY, -INF, -INF},
                {TFB_FN_RELU, -0.0f, -0.0f},       {TFB_FN_RELU, 0.0f, 0.0f},
                {TFB_FN_RELU, -1.0f, 0.0f},        {TFB_FN_RELU, -1e-45f, 0.0f},
                {TFB_FN_RELU, -INF, 0.0f},         {TFB_FN_RELU, INF, INF},
                {TFB_FN_RELU2, -3.0f, 0.0f},       {TFB_FN_RELU2, 3.0f, 9.0f},
                {TFB_FN_RELU2, -INF, 0.0f},        {TFB_FN_RELU2, 1e30f, INF},
                {TFB_FN_GELU_TANH, 0.0f, 0.0f},    {TFB_FN_GELU_TANH, INF, INF},
                {TFB_FN_GELU_TANH, 1e20f, 1e20f},  {TFB_FN_GELU_TANH, 3e38f, 3e38f},
                {TFB_FN_GELU_ERF, 0.0f, 0.0f},     {TFB_FN_GELU_ERF, INF, INF},
                {TFB_FN_GELU_ERF, 1e20f, 1e20f},   {TFB_FN_GELU_ERF, 3e38f, 3e38f},
                {TFB_FN_SILU, 0.0f, 0.0f},         {TFB_FN_SILU, INF, INF},
                {TFB_FN_SILU, 1e20f, 1e20f},       {TFB_FN_SIGMOID, 0.0f, 0.5f},
                {TFB_FN_SIGMOID, -0.0f, 0.5f},     {TFB_FN_SIGMOID, INF, 1.0f},
                {TFB_FN_SIGMOID, -INF, 0.0f},      {TFB_FN_SIGMOID, 100.0f, 1.0f},
                {TFB_FN_SIGMOID, -100.0f, 0.0f},   {TFB_FN_TANH, 0.0f, 0.0f},
                {TFB_FN_TANH, -0.0f, -0.0f},       {TFB_FN_TANH, INF, 1.0f},
                {TFB_FN_TANH, -INF, -1.0f},        {TFB_FN_TANH, 20.0f, 1.0f},
                {TFB_FN_TANH, 1e-40f, 1e-40f},     {TFB_FN_EXP, 0.0f, 1.0f},
                {TFB_FN_EXP, -0.0f, 1.0f},         {TFB_FN_EXP, INF, INF},
                {TFB_FN_EXP, -INF, 0.0f},          {TFB_FN_EXP, 88.73f, INF},
                {TFB_FN_EXP, -87.33655f, 0.0f},    {TFB_FN_EXP, -100.0f, 0.0f},
                {TFB_FN_EXP, 1e38f, INF},          {TFB_FN_EXP, -1e38f, 0.0f},
                {TFB_FN_EXP2, 0.0f, 1.0f},         {TFB_FN_EXP2, -0.0f, 1.0f},
                {TFB_FN_EXP2, INF, INF},           {TFB_FN_EXP2, -INF, 0.0f},
                {TFB_FN_EXP2, 128.0f, INF},        {TFB_FN_EXP2, -126.1f, 0.0f},
                {TFB_FN_LOG, 1.0f, 0.0f},          {TFB_FN_LOG, 0.0f, -INF},
                {TFB_FN_LOG, -0.0f, -INF},         {TFB_FN_LOG, INF, INF},
                {TFB_FN_LOG, -1.0f, (float)NAN},   {TFB_FN_LOG, -INF, (float)NAN},
                {TFB_FN_LOG, -1e-45f, (float)NAN}, {TFB_FN_ERF, 0.0f, 0.0f},
                {TFB_FN_ERF, -0.0f, -0.0f},        {TFB_FN_ERF, INF, 1.0f},
                {TFB_FN_ERF, -INF, -1.0f},         {TFB_FN_ERF, 5.0f, 1.0f},
                {TFB_FN_SOFTPLUS, INF, INF},       {TFB_FN_SOFTPLUS, -INF, 0.0f},
                {TFB_FN_SOFTPLUS, 100.0f, 100.0f}, {TFB_FN_SOFTPLUS, -100.0f, 0.0f},
                {TFB_FN_SIN, 0.0f, 0.0f},          {TFB_FN_SIN, -0.0f, -0.0f},
                {TFB_FN_SIN, INF, (float)NAN},     {TFB_FN_SIN, -INF, (float)NAN},
                {TFB_FN_COS, 0.0f, 1.0f},          {TFB_FN_COS, -0.0f, 1.0f},
                {TFB_FN_COS, INF, (float)NAN},     {TFB_FN_COS, -INF, (float)NAN}};
    size_t i;
    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        const float got = map_one(rows[i].fn, rows[i].x);
        CHECK(t_differ(&got, &rows[i].want, 1) == 1, "%s(%.9g) is %.9g, not %.9g",
              fn_names[rows[i].fn], (double)rows[i].x, (double)got, (double)rows[i].want);
    }
}

/* Zeros whose sign is not promised, and ends of the range of exp. */
static void test_special_zeros(void) {
    static const tfb_fn fns[3] = {TFB_FN_GELU_TANH, TFB_FN_GELU_ERF, TFB_FN_SILU};
    const float low[4] = {-INF, -1e20f, -3e38f, -1000.0f};
    int i, k;
    for (i = 0; i < 3; i++)
        for (k = 0; k < 4; k++)
            CHECK(map_one(fns[i], low[k]) == 0, "%s(%g)", fn_names[fns[i]],
                  (double)low[k]);
    CHECK(map_one(TFB_FN_RELU2, -0.0f) == 0, "relu_squared(-0)");
    CHECK(map_one(TFB_FN_EXP, -87.336544f) >= FLT_MIN, "exp at its lower end");
    CHECK(map_one(TFB_FN_EXP, 88.72f) < FLT_MAX, "exp near its upper end");
    CHECK(map_one(TFB_FN_EXP2, -126.0f) == FLT_MIN, "exp2(-126)");
    CHECK(map_one(TFB_FN_EXP2, 127.0f) == 1.70141183e38f, "exp2(127)");
}

static void test_exact_powers(void) {
    int e;
    for (e = -126; e < 128; e++)
        CHECK(map_one(TFB_FN_EXP2, (float)e) == (float)ldexp(1, e), "exp2(%d)", e);
}

/* Any NaN, in any lane, in every function; neighbours are not disturbed. */
static void test_nan_stays(void) {
    static const uint32_t nans[] = {0x7FC00000, 0xFFC00000, 0x7F800001,
                                    0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF};
    float x[37], y[37], clean[37];
    tfb_tensor X = tfb_view1(x, TFB_F32, 37), Y = tfb_view1(y, TFB_F32, 37);
    tfb_tensor C = tfb_view1(clean, TFB_F32, 37);
    tfb_ctx ctx;
    int fn, i, k;
    t_ctx(&ctx, NULL);
    for (fn = 0; fn < TFB__FNS; fn++)
        for (k = 0; k < 6; k++)
            for (i = 0; i < 37; i++) {
                int j;
                for (j = 0; j < 37; j++) x[j] = (float)(j + 1) * 0.25f;
                CHECK_OK(&ctx, tfb_map(&ctx, (tfb_fn)fn, &X, &C));
                x[i] = float_of(nans[k]);
                clean[i] = x[i];
                CHECK_OK(&ctx, tfb_map(&ctx, (tfb_fn)fn, &X, &Y));
                CHECK_BITS(y, clean, 37, "%s of NaN number %d", fn_names[fn], k);
            }
    tfb_ctx_free(&ctx);
}

/* -f(x) or f(x) for f(-x); no result outside the range; no subnormal from exp. */
static void see_symmetry(tfb_fn fn, const float *x, int n) {
    static float y[CHUNK], z[CHUNK], minus[CHUNK];
    const float sign = fn == TFB_FN_COS ? 1.0f : -1.0f;
    int i;
    for (i = 0; i < n; i++) minus[i] = -x[i];
    map_ctx.isa->map(fn, n, x, y);
    map_ctx.isa->map(fn, n, minus, z);
    for (i = 0; i < n; i++) {
        CHECK(!(y[i] > 1) && !(y[i] < -1), "%s(%.9g) is %.9g", fn_names[fn], (double)x[i],
              (double)y[i]);
        z[i] *= sign;
    }
    CHECK_BITS(z, y, n, "%s of x and -x", fn_names[fn]);
}

static void test_symmetry(void) {
    static const tfb_fn fns[4] = {TFB_FN_TANH, TFB_FN_ERF, TFB_FN_SIN, TFB_FN_COS};
    int i;
    t_ctx(&map_ctx, NULL);
    for (i = 0; i < 4; i++) over_sample(fns[i], 20011, see_symmetry);
    tfb_ctx_free(&map_ctx);
}

static void see_range(tfb_fn fn, const float *x, int n) {
    static float y[CHUNK];
    int i;
    map_ctx.isa->map(fn, n, x, y);
    for (i = 0; i < n; i++) {
        const uint32_t u = bits_of(y[i]);
        if (x[i] != x[i]) continue;
        CHECK(u == 0 || (u >= 0x00800000 && u <= 0x7F800000), "%s(%.9g) is %.9g",
              fn_names[fn], (double)x[i], (double)y[i]);
        CHECK(fn != TFB_FN_SIGMOID || y[i] <= 1, "sigmoid(%.9g) is %.9g", (double)x[i],
              (double)y[i]);
    }
}

static void test_no_subnormal_and_no_sign(void) {
    static const tfb_fn fns[4] = {TFB_FN_EXP, TFB_FN_EXP2, TFB_FN_SIGMOID,
                                  TFB_FN_SOFTPLUS};
    int i;
    t_ctx(&map_ctx, NULL);
    for (i = 0; i < 4; i++) over_sample(fns[i], 20011, see_range);
    tfb_ctx_free(&map_ctx);
}

/* --- sin and cos of large arguments. --- */
static void trig_at(float x) {
    float s, c, m;
    tfb__trig_large(x, &s, &c);
    CHECK(near_enough(&promises[TFB_FN_SIN], x, s, sin((double)x)), "sin(%.9g) is %.9g",
          (double)x, (double)s);
    CHECK(near_enough(&promises[TFB_FN_COS], x, c, cos((double)x)), "cos(%.9g) is %.9g",
          (double)x, (double)c);
    tfb__kernels_scalar.map(TFB_FN_SIN, 1, &x, &m);
    CHECK_BITS(&m, &s, 1, "sin(%.9g) by tfb_map", (double)x);
    tfb__kernels_scalar.map(TFB_FN_COS, 1, &x, &m);
    CHECK_BITS(&m, &c, 1, "cos(%.9g) by tfb_map", (double)x);
}

static void test_trig_large(void) {
    /* Close to multiples of pi / 2: the closest of all floats is 16367173 * 2^72. */
    static const uint32_t hard[] = {0x6F79BE45, 0x6115CB11, 0x5922AA80, 0x4B51F4D0,
                                    0x48000000, 0x48000001, 0x47FFFFFF, 0x48490FDB,
                                    0x7F7FFFFF, 0x7F000000, 0x4C000000, 0x58000000};
    uint32_t u;
    size_t i;
    for (i = 0; i < sizeof hard / sizeof *hard; i++) {
        trig_at(float_of(hard[i]));
        trig_at(-float_of(hard[i]));
    }
    for (u = 0x47F00000; u < 0x7F800000; u += 4099) {
        trig_at(float_of(u));
        trig_at(-float_of(u));
    }
    trig_at(INF);
    trig_at((float)NAN);
}

/* Small and large arguments, inf and NaN side by side, and the result in place. */
static void test_trig_mixed(void) {
    float x[67], y[67], want;
    tfb_tensor X = tfb_view1(x, TFB_F32, 67), Y = tfb_view1(y, TFB_F32, 67);
    tfb_ctx ctx;
    int round, i, fn;
    t_ctx(&ctx, NULL);
    for (round = 0; round < 200; round++)
        for (fn = TFB_FN_SIN; fn <= TFB_FN_COS; fn++) {
            for (i = 0; i < 67; i++) {
                x[i] =
                    t_int(0, 2)
                        ? t_float()
                        : t_float() * float_of((uint32_t)t_int(0x47000000, 0x7E000000));
                if (t_int(0, 19) == 0) x[i] = t_int(0, 1) ? (float)NAN : -INF;
                y[i] = x[i];
            }
            CHECK_OK(&ctx, tfb_map(&ctx, (tfb_fn)fn, &Y, &Y));
            for (i = 0; i < 67; i++) {
                tfb__kernels_scalar.map((tfb_fn)fn, 1, x + i, &want);
                CHECK_BITS(y + i, &want, 1, "%s(%.9g)", fn_names[fn], (double)x[i]);
            }
            CHECK_OK(&ctx, tfb_map(&ctx, (tfb_fn)fn, &X, &X));
            CHECK_BITS(x, y, 67, "%s again", fn_names[fn]);
        }
    tfb_ctx_free(&ctx);
}

static const promise quarter_turn = {sin, 1.25, 1.25, ANY, 0};

/* sin and cos of turns, which rope uses; the oracle takes off quarter turns exactly. */
static void turns_at(float t) {
    const double quarter = floor(4 * (double)t + 0.5), r = (double)t - quarter / 4;
    const double s0 = sin(6.2831853071795864769 * r), c0 = cos(6.2831853071795864769 * r);
    const int q = (int)((int64_t)quarter & 3);
    const double want_s = q & 1 ? c0 : s0, want_c = q & 1 ? s0 : c0;
    float s, c;
    tfb__sincos_turns_scalar(t, &s, &c);
    CHECK(near_enough(&quarter_turn, t, s, q & 2 ? -want_s : want_s),
          "sin of %.9g turns is %.9g", (double)t, (double)s);
    CHECK(near_enough(&quarter_turn, t, c, q == 1 || q == 2 ? -want_c : want_c),
          "cos of %.9g turns is %.9g", (double)t, (double)c);
}

static void test_turns(void) {
    int i;
    for (i = 0; i < 300000; i++)
        turns_at(t_float() * float_of((uint32_t)t_int(0x20000000, 0x49800000)));
    for (i = -4000; i <= 4000; i++) turns_at((float)i / 8);
}

/* --- tfb_map over shapes. --- */
/* Every length and both ends of a buffer: an element depends on no neighbour. */
static void test_map_lengths(void) {
    tfb_ctx ctx;
    tfb_idx n, i;
    int fn;
    t_ctx(&ctx, NULL);
    for (n = 0; n <= 70; n++)
        for (fn = 0; fn < TFB__FNS; fn++) {
            float *x = t_floats(n), *y = t_floats(n), *want = t_floats(n);
            tfb_tensor X = tfb_view1(x, TFB_F32, n), Y = tfb_view1(y, TFB_F32, n);
            for (i = 0; i < n; i++) {
                x[i] *= 12;
                tfb__kernels_scalar.map((tfb_fn)fn, 1, x + i, want + i);
            }
            CHECK_OK(&ctx, tfb_map(&ctx, (tfb_fn)fn, &X, &Y));
            CHECK_BITS(y, want, n, "%s of %d", fn_names[fn], (int)n);
            CHECK_OK(&ctx, tfb_map(&ctx, (tfb_fn)fn, &X, &X));
            CHECK_BITS(x, want, n, "%s of %d in place", fn_names[fn], (int)n);
            free(x);
            free(y);
            free(want);
        }
    tfb_ctx_free(&ctx);
}

enum { GRID = 6000 };

/* y[i][j] = fn(x[i][j]) for two strides each; x repeats where its extent is 1. */
static void map_grid(tfb_ctx *ctx, tfb_fn fn, int in_place) {
    static float x[GRID], y[GRID], want[GRID];
    tfb_tensor X = tfb_view2(x + GRID / 2, TFB_F32, t_int(1, 4), t_int(1, 150));
    tfb_tensor Y = tfb_view2(y + GRID / 2, TFB_F32, X.shape[0], X.shape[1]);
    tfb_idx i, j;
    for (i = 0; i < GRID; i++) {
        x[i] = 9 * t_float();
        want[i] = y[i] = 9 * t_float();
    }
    Y.stride[1] = t_int(0, 2) ? t_int(0, 1) ? -1 : 3 : 1;
    Y.stride[0] = t_int(0, 1) ? 480 : -480;
    X.stride[1] = t_int(0, 2) ? t_int(-3, 3) : 1;
    X.stride[0] = t_int(-400, 400);
    if (t_int(0, 4) == 0) X.shape[0] = 1;
    if (t_int(0, 4) == 0) X.shape[1] = 1;
    if (in_place) X = Y;
    for (i = 0; i < Y.shape[0]; i++)
        for (j = 0; j < Y.shape[1]; j++) {
            const float *from = (float *)X.data + (X.shape[0] > 1 ? i * X.stride[0] : 0) +
                                (X.shape[1] > 1 ? j * X.stride[1] : 0);
            tfb__kernels_scalar.map(fn, 1, from,
                                    want + GRID / 2 + i * Y.stride[0] + j * Y.stride[1]);
        }
    CHECK_OK(ctx, tfb_map(ctx, fn, &X, &Y));
    CHECK_BITS(y, want, GRID, "%s, strides %d %d to %d %d", fn_names[fn],
               (int)X.stride[0], (int)X.stride[1], (int)Y.stride[0], (int)Y.stride[1]);
}

static void test_map_strides(void) {
    tfb_ctx ctx;
    int fn, round;
    t_ctx(&ctx, NULL);
    for (fn = 0; fn < TFB__FNS; fn++)
        for (round = 0; round < 40; round++) map_grid(&ctx, (tfb_fn)fn, round % 3 == 0);
    tfb_ctx_free(&ctx);
}

static void test_map_errors(void) {
    float x[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    tfb_tensor X = tfb_view1(x, TFB_F32, 4), Y = tfb_view1(x + 4, TFB_F32, 4), t;
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    CHECK(tfb_map(NULL, TFB_FN_EXP, &X, &Y) == TFB_ERR_ARG, "no context");
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_map: fn is 15", tfb_map(&ctx, TFB__FNS, &X, &Y));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_map: fn is ", tfb_map(&ctx, (tfb_fn)-1, &X, &Y));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_map: x is NULL",
                tfb_map(&ctx, TFB_FN_EXP, NULL, &Y));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_map: y is NULL",
                tfb_map(&ctx, TFB_FN_EXP, &X, NULL));
    t = tfb_view1(x + 3, TFB_F32, 4);
    CHECK_FAILS(&ctx, TFB_ERR_ALIAS, "tfb_map: y overlaps x",
                tfb_map(&ctx, TFB_FN_EXP, &X, &t));
    CHECK_FAILS(&ctx, TFB_ERR_ALIAS, "tfb_map: y overlaps x",
                tfb_map(&ctx, TFB_FN_EXP, &t, &X));
    t = tfb_view1(x + 4, TFB_F32, 3);
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_map: x.shape[0] is 4, needs 3",
                tfb_map(&ctx, TFB_FN_EXP, &X, &t));
    t = Y;
    t.stride[0] = 0;
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_map: y.stride[0] is 0: elements would overlap",
                tfb_map(&ctx, TFB_FN_EXP, &X, &t));
    t = tfb_view1(x + 4, TFB_F16, 4);
    CHECK_FAILS(&ctx, TFB_ERR_DTYPE, "tfb_map: y is F16",
                tfb_map(&ctx, TFB_FN_EXP, &X, &t));
    for (i = 0; i < 8; i++) CHECK(x[i] == 1, "x or y changed");
    tfb_ctx_free(&ctx);
}

/* --- Software fma and square root. --- */
static float any_float(void) {
    return float_of(t_rand() << 16 ^ t_rand());
}

/* A random significand, 2^exponent and a random sign. */
static float scaled(int exponent) {
    const double m = 8388608.0 + (double)(t_rand() & 0x7FFFFF);
    return (float)ldexp(t_rand() & 8 ? m : -m, exponent - 23);
}

/* A sum at the middle between two floats, or off it by less than a double can tell:
 * (1 + i 2^-23) (1 - i 2^-23) is 1 - i^2 2^-46. Now and then c is subnormal. */
static void fma_halfway(float *a, float *b, float *c) {
    const int tiny = t_int(0, 3) == 0, i = (int)t_int(0, 300);
    const int e = tiny ? -126 : (int)t_int(-120, 100), k = (int)t_int(-20, 20) - e / 2;
    const double x = ldexp(i, -23), half = ldexp(1, e - 24 + (int)t_int(-1, 1) * !tiny);
    *c = tiny ? float_of(t_rand() >> 6) : scaled(e);
    if (t_int(0, 1)) *c = -*c;
    *a = (float)ldexp(t_rand() & 8 ? 1 + x : -1 - x, -k);
    *b = (float)ldexp((1 - x) * half, k);
}

/* c cancels the product up to its own rounding. */
static void fma_cancel(float *a, float *b, float *c) {
    *a = scaled((int)t_int(-40, 40));
    *b = scaled((int)t_int(-80, 60));
    *c = -(*a * *b);
    if (t_int(0, 1)) *c = float_of(bits_of(*c) + (uint32_t)t_int(-2, 2));
}

static void fma_tiny(float *a, float *b, float *c) {
    *a = scaled((int)t_int(-80, -60));
    *b = scaled((int)t_int(-80, -60));
    *c = float_of((t_rand() & 0xFFFFFF) | (t_rand() & 8 ? 0x80000000 : 0));
    if (t_int(0, 3) == 0) *c = float_of(t_rand() & 15);
}

static void fma_near(float *a, float *b, float *c) {
    const int e = (int)t_int(-60, 60), f = (int)t_int(-60, 60);
    *a = scaled(e);
    *b = scaled(f);
    *c = scaled(TFB__MAX(-149, TFB__MIN(127, e + f + (int)t_int(-54, 54))));
}

static void fma_any(float *a, float *b, float *c) {
    *a = any_float();
    *b = any_float();
    *c = any_float();
}

static void fma_special(float *a, float *b, float *c) {
    static const uint32_t bits[] = {0x00000000, 0x80000000, 0x7F800000, 0xFF800000,
                                    0x7FC00000, 0x00000001, 0x80000001, 0x007FFFFF,
                                    0x00800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x3F800000,
                                    0xBF800000, 0x3F7FFFFF, 0x3F800001, 0x33800000};
    *a = float_of(bits[t_rand() >> 5 & 15]);
    *b = float_of(bits[t_rand() >> 5 & 15]);
    *c = float_of(bits[t_rand() >> 5 & 15]);
}

static void test_fma_soft(void) {
    static void (*const kinds[])(float *, float *, float *) = {
        fma_any, fma_near, fma_halfway, fma_cancel, fma_tiny, fma_special};
    int kind;
    long i;
    for (kind = 0; kind < 6; kind++)
        for (i = 0; i < 400000; i++) {
            float a, b, c, got, want;
            kinds[kind](&a, &b, &c);
            got = tfb__fma_soft(a, b, c);
            want = fmaf(a, b, c);
            if (t_differ(&got, &want, 1) < 1)
                CHECK(0, "fma(%a, %a, %a) is %a, not %a", (double)a, (double)b, (double)c,
                      (double)got, (double)want);
        }
}

static void test_fma_used(void) {
    long i;
    for (i = 0; i < 300000; i++) {
        float a, b, c, got, want;
        fma_near(&a, &b, &c);
        got = TFB__FMA(a, b, c);
        want = fmaf(a, b, c);
        CHECK_BITS(&got, &want, 1, "fma(%a, %a, %a)", (double)a, (double)b, (double)c);
    }
}

static void sqrt_at(float x) {
    const float want = sqrtf(x), soft = tfb__sqrt_soft(x), used = TFB__SQRT(x);
    if (t_differ(&soft, &want, 1) < 1 || t_differ(&used, &want, 1) < 1)
        CHECK(0, "sqrt(%.9g) is %.9g and %.9g, not %.9g", (double)x, (double)soft,
              (double)used, (double)want);
}

static void test_sqrt_soft(void) {
    const uint32_t step = sample_step == 1 ? 1 : 5;
    uint64_t u;
    int i;
    for (u = 0; u <= 0xFFFFFFFFu; u += sample_step) sqrt_at(float_of((uint32_t)u));
    for (u = 0x3F800000; u < 0x40800000; u += step) sqrt_at(float_of((uint32_t)u));
    for (u = 0; u < 20000; u++) sqrt_at(float_of((uint32_t)u));
    for (i = 0; i < EXTRA; i++) sqrt_at(extra[i]);
    for (i = 1; i < 4096; i++) /* squares and their neighbours */
        for (u = 0; u < 3; u++)
            sqrt_at(float_of(bits_of((float)(i * i)) + (uint32_t)u - 1));
}

/* --- exp2 and log2 in double, behind rope's frequencies. --- */
static void test_double_functions(void) {
    double worst_exp2 = 0, worst_log2 = 0;
    int i;
    for (i = 0; i < 200000; i++) {
        const double x = (double)t_float() * (i % 2 ? 999 : 2);
        const double v = ldexp(1 + fabs((double)t_float()), (int)t_int(-1000, 1000));
        const double w = 1 + (double)t_float() * 0.4;
        worst_exp2 = fmax(worst_exp2, fabs(tfb__exp2_d(x) / exp2(x) - 1));
        worst_log2 = fmax(worst_log2, fabs(tfb__log2_d(v) / log2(v) - 1));
        if (w != 1) worst_log2 = fmax(worst_log2, fabs(tfb__log2_d(w) / log2(w) - 1));
    }
    if (verbose) printf("exp2_d %.3g, log2_d %.3g\n", worst_exp2, worst_log2);
    CHECK(worst_exp2 < 1e-15, "exp2: relative error %.3g", worst_exp2);
    CHECK(worst_log2 < 1e-15, "log2: relative error %.3g", worst_log2);
    for (i = -999; i < 1000; i++) {
        CHECK(tfb__exp2_d(i) == ldexp(1, i), "exp2(%d)", i);
        CHECK(tfb__log2_d(ldexp(1, i)) == i, "log2 of 2^%d", i);
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "all") == 0) sample_step = table_step = 1;
    verbose = argc > 1;
    CHECK(sizeof promises / sizeof *promises == TFB__FNS, "a function lacks a promise");
    make_extra();
#define FN_RUN(NAME, name)                                                               \
    if (argc < 3 || strcmp(argv[2], #name) == 0) {                                       \
        RUN(test_accuracy_##name);                                                       \
        RUN(test_tables_##name);                                                         \
    }
    TFB_FN_LIST(FN_RUN)
    if (argc > 2) FINISH();
    RUN(test_special_values);
    RUN(test_special_zeros);
    RUN(test_exact_powers);
    RUN(test_nan_stays);
    RUN(test_symmetry);
    RUN(test_no_subnormal_and_no_sign);
    RUN(test_trig_large);
    RUN(test_trig_mixed);
    RUN(test_turns);
    RUN(test_map_lengths);
    RUN(test_map_strides);
    RUN(test_map_errors);
    RUN(test_fma_soft);
    RUN(test_fma_used);
    RUN(test_sqrt_soft);
    RUN(test_double_functions);
    FINISH();
}
