/* test_dispatch.c - sections ISA LIST and DISPATCH: which table a context uses, what the
 * list says, refusals, tables of two contexts at the same time, tfb_build_info. */
#include "../test.h"

enum { ISA_MAX = 16, N = 203 };

/* All tables with what the list says about them; returns how many there are. */
typedef struct isa_row {
    const char *name, *why;
} isa_row;

static int list(const tfb_ctx *ctx, isa_row *rows) {
    int n = 0;
    while (n < ISA_MAX && (rows[n].name = tfb_isa_list(ctx, n, &rows[n].why)) != NULL)
        n++;
    CHECK(n > 0 && n < ISA_MAX, "%d tables", n);
    return n;
}

static int usable(const isa_row *row) {
    return strcmp(row->why, "in use") == 0 || strcmp(row->why, "available") == 0;
}

static int rows_in_use(const isa_row *rows, int n) {
    int i, count = 0;
    for (i = 0; i < n; i++) count += strcmp(rows[i].why, "in use") == 0;
    return count;
}

/* --- Names and the list. --- */
static void test_isa_name(void) {
    tfb_ctx ctx;
    CHECK(strcmp(tfb_isa_name(NULL), "none") == 0, "of NULL");
    CHECK(tfb_ctx_init(&ctx) == TFB_OK, "no context");
    CHECK(strcmp(tfb_isa_name(&ctx), ctx.isa->name) == 0, "%s", tfb_isa_name(&ctx));
    tfb_ctx_free(&ctx);
    CHECK(strcmp(tfb_isa_name(&ctx), "none") == 0, "of a freed context");
}

static void test_isa_list(void) {
    isa_row rows[ISA_MAX];
    const char *why = "untouched";
    tfb_ctx ctx;
    int n, i, j;
    CHECK(tfb_ctx_init(&ctx) == TFB_OK, "no context");
    n = list(&ctx, rows);
    for (i = 0; i < n; i++) {
        CHECK(rows[i].why && *rows[i].why, "%s: no reason", rows[i].name);
        for (j = 0; j < i; j++)
            CHECK(strcmp(rows[i].name, rows[j].name) != 0, "%s twice", rows[i].name);
        CHECK(tfb_isa_list(&ctx, i, NULL) == rows[i].name, "why may be NULL");
    }
    CHECK(strcmp(rows[n - 1].name, "scalar") == 0 && usable(&rows[n - 1]),
          "scalar is last and everywhere");
    CHECK(rows_in_use(rows, n) == 1, "%d in use", rows_in_use(rows, n));
    CHECK(!tfb_isa_list(&ctx, n, &why) && !tfb_isa_list(&ctx, -1, &why), "past the end");
    CHECK(!tfb_isa_list(&ctx, 1 << 30, &why) && !tfb_isa_list(NULL, 0, &why), "no row");
    CHECK(strcmp(why, "untouched") == 0, "why was written: %s", why);
    tfb_ctx_free(&ctx);
}

/* The first table that the whole build may use on any CPU. */
static const tfb__kernels *rows_without_needs(void) {
    tfb__isa_row row;
    int i;
    for (i = 0; tfb__isa_row_get(i, &row); i++)
        if (row.kernels && !row.need) break;
    return row.kernels;
}

/* The list is best first; the first usable one is what every kind of context takes. */
static void test_isa_best(void) {
    isa_row rows[ISA_MAX];
    uint64_t mem[8];
    tfb_ctx ctx;
    int n, i;
    CHECK(tfb_ctx_init(&ctx) == TFB_OK, "no context");
    n = list(&ctx, rows);
    for (i = 0; i < n && !usable(&rows[i]); i++) continue;
    CHECK(strcmp(tfb_isa_name(&ctx), rows[i].name) == 0, "%s", tfb_isa_name(&ctx));
    CHECK_OK(&ctx, tfb_isa_force(&ctx, "scalar")); /* must not stick anywhere */
    CHECK(tfb_ctx_init_static(&ctx, mem, sizeof mem) == TFB_OK, "no context");
    CHECK(strcmp(tfb_isa_name(&ctx), rows[i].name) == 0, "%s", tfb_isa_name(&ctx));
    CHECK(tfb_ctx_init_measure(&ctx) == TFB_OK, "no context");
    CHECK(strcmp(tfb_isa_name(&ctx), rows[i].name) == 0, "%s", tfb_isa_name(&ctx));
    CHECK(tfb__isa_best(0)->mm == rows_without_needs()->mm, "a CPU without anything");
    CHECK(tfb__isa_best(ctx.cpu) == ctx.isa, "this CPU");
}

/* --- Forcing. --- */
static void test_isa_force(void) {
    isa_row rows[ISA_MAX], now[ISA_MAX];
    tfb_ctx ctx;
    int n, i;
    CHECK(tfb_ctx_init(&ctx) == TFB_OK, "no context");
    n = list(&ctx, rows);
    for (i = 0; i < n; i++) {
        if (!usable(&rows[i])) {
            CHECK_FAILS(&ctx, TFB_ERR_UNSUPPORTED, rows[i].why,
                        tfb_isa_force(&ctx, rows[i].name));
            continue;
        }
        CHECK_OK(&ctx, tfb_isa_force(&ctx, rows[i].name));
        CHECK(strcmp(tfb_isa_name(&ctx), rows[i].name) == 0, "%s", tfb_isa_name(&ctx));
        list(&ctx, now);
        CHECK(strcmp(now[i].why, "in use") == 0 && rows_in_use(now, n) == 1, "%s: %s",
              now[i].name, now[i].why);
    }
    tfb_ctx_free(&ctx);
}

static void test_isa_force_errors(void) {
    static const char *const unknown[] = {"",        "avx9",   "scala",
                                          "scalarx", "SCALAR", "%s%d"};
    const tfb__kernels *isa;
    char text[60];
    size_t i;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    isa = ctx.isa;
    CHECK(tfb_isa_force(NULL, "scalar") == TFB_ERR_ARG, "no context");
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_isa_force: name is NULL",
                tfb_isa_force(&ctx, NULL));
    for (i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        sprintf(text, "tfb_isa_force: there is no table %s", unknown[i]);
        CHECK_FAILS(&ctx, TFB_ERR_ARG, text, tfb_isa_force(&ctx, unknown[i]));
        CHECK(ctx.isa == isa, "the table changed");
    }
    tfb_ctx_free(&ctx);
}

/* A CPU that has nothing: every table that needs something is refused and says why. */
static void test_isa_lacking(void) {
    isa_row rows[ISA_MAX];
    tfb__isa_row row;
    char text[160];
    tfb_ctx ctx;
    int n, i;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_isa_force(&ctx, "scalar"));
    ctx.cpu = 0;
    n = list(&ctx, rows);
    for (i = 0; i < n - 1; i++) {
        if (tfb__isa_row_get(i, &row) && row.kernels && !row.need) continue;
        CHECK(!usable(&rows[i]) && *rows[i].why, "%s: %s", rows[i].name, rows[i].why);
        sprintf(text, "tfb_isa_force: %s: %s", rows[i].name, rows[i].why);
        CHECK_FAILS(&ctx, TFB_ERR_UNSUPPORTED, text, tfb_isa_force(&ctx, rows[i].name));
        CHECK(ctx.isa == &tfb__kernels_scalar, "the table changed");
    }
    CHECK(strcmp(rows[n - 1].why, "in use") == 0, "scalar: %s", rows[n - 1].why);
    CHECK_OK(&ctx, tfb_isa_force(&ctx, "scalar"));
    CHECK_OK(&ctx, tfb_build_info(&ctx));
    tfb_ctx_free(&ctx);
}

/* Each requirement by itself: a table is usable iff no bit that it needs is missing. */
static void test_isa_needs(void) {
    tfb__isa_row row;
    uint32_t bit;
    int i;
    for (i = 0; tfb__isa_row_get(i, &row); i++) {
        CHECK(tfb__isa_usable(&row, 0xFFFFFFFFu) == (row.kernels != NULL), "%s",
              row.name);
        for (bit = 1; bit; bit <<= 1)
            if (row.need & bit)
                CHECK(!tfb__isa_usable(&row, ~bit), "%s without %lx", row.name,
                      (unsigned long)bit);
    }
    CHECK(i >= 2, "%d rows", i);
}

static void test_tables_are_whole(void) {
    const tfb__kernels *first = NULL;
    tfb__isa_row row;
    int i;
    for (i = 0; tfb__isa_row_get(i, &row); i++) {
        const tfb__kernels *k = row.kernels;
        if (!k) continue;
        CHECK(strcmp(k->name, row.name) == 0, "%s is called %s", row.name, k->name);
        CHECK(k->probe && k->mm && k->epilogue && k->pack && k->map && k->norm, "%s",
              row.name);
        CHECK(k->softmax && k->turns && k->rotate && k->attention, "%s", row.name);
        CHECK(!first || (k->mm != first->mm && k->map != first->map), "%s is a copy",
              row.name);
        first = k;
    }
}

/* --- tfb_build_info. --- */
static void test_build_info(void) {
    tfb_ctx ctx;
    CHECK(tfb_build_info(NULL) == TFB_ERR_ARG, "no context");
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_build_info(&ctx));
    CHECK(strstr(ctx.message, "tfblocks " TFB_VERSION) != NULL, "%s", ctx.message);
    CHECK(strstr(ctx.message, tfb_isa_name(&ctx)) != NULL, "%s", ctx.message);
    tfb_ctx_free(&ctx);
}

/* The probe says yes to every table of this build, and could say no. */
static void test_probe(void) {
    const float a = 1.000244140625f, c = -1.00048828125f;
    tfb__isa_row row;
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; tfb__isa_row_get(i, &row); i++) {
        if (!tfb__isa_usable(&row, ctx.cpu)) continue;
        CHECK(row.kernels->probe(a, a, c) != 0, "%s: the arithmetic is changed",
              row.name);
        CHECK(row.kernels->probe(0.0f, a, c) == 0, "%s: sums are not looked at",
              row.name);
    }
    CHECK(tfb__bits_of(tfb__fma_soft(a, a, c)) != tfb__bits_of(0.0f),
          "fusing would not show in these numbers");
    tfb_ctx_free(&ctx);
}

/* --- Two contexts at the same time. --- */
/* A table of our own that counts its calls stands in for a second instruction set. */
static long spy_calls;

static void spy_map(tfb_fn fn, tfb_idx n, const float *x, float *y) {
    spy_calls++;
    tfb__kernels_scalar.map(fn, n, x, y);
}

static void test_table_belongs_to_context(void) {
    float x[N], y1[N], y2[N];
    tfb_tensor X = tfb_view1(x, TFB_F32, N), Y1 = tfb_view1(y1, TFB_F32, N);
    tfb_tensor Y2 = tfb_view1(y2, TFB_F32, N);
    tfb__kernels spy = tfb__kernels_scalar;
    isa_row rows[ISA_MAX];
    tfb_ctx one, two;
    int i;
    for (i = 0; i < N; i++) x[i] = 9 * t_float();
    spy.name = "spy";
    spy.map = spy_map;
    spy_calls = 0;
    t_ctx(&one, NULL);
    t_ctx(&two, NULL);
    two.isa = &spy;
    for (i = 0; i < TFB__FNS; i++) {
        CHECK_OK(&one, tfb_map(&one, (tfb_fn)i, &X, &Y1));
        CHECK(spy_calls == i, "the first context took the second's table");
        CHECK_OK(&two, tfb_map(&two, (tfb_fn)i, &X, &Y2));
        CHECK(spy_calls == i + 1, "the second context took another table");
        CHECK_BITS(y1, y2, N, "function %d", i);
    }
    CHECK(strcmp(tfb_isa_name(&two), "spy") == 0, "%s", tfb_isa_name(&two));
    i = list(&two, rows);
    CHECK(rows_in_use(rows, i) == 0, "a table that is not listed is in use");
    i = list(&one, rows);
    CHECK(rows_in_use(rows, i) == 1, "the other context's list");
    tfb_ctx_free(&one);
    tfb_ctx_free(&two);
}

/* Every pair of tables, calls in turn: the same bits, and each keeps its own. */
static void alternate(const char *first, const char *second) {
    enum { M = 7, K = 300, C = 19 };
    float *a = t_floats(M * K), *b = t_floats(K * C), *y1 = t_floats(M * C);
    float *y2 = t_floats(M * C);
    tfb_tensor A = tfb_view2(a, TFB_F32, M, K), B = tfb_view2(b, TFB_F32, K, C);
    tfb_tensor Y1 = tfb_view2(y1, TFB_F32, M, C), Y2 = tfb_view2(y2, TFB_F32, M, C);
    tfb_ctx one, two;
    int round;
    CHECK(tfb_ctx_init(&one) == TFB_OK && tfb_ctx_init(&two) == TFB_OK, "no context");
    CHECK_OK(&one, tfb_isa_force(&one, first));
    CHECK_OK(&two, tfb_isa_force(&two, second));
    for (round = 0; round < 3 && one.isa->fused == two.isa->fused; round++) {
        a[t_int(0, M * K - 1)] = 2 * t_float();
        CHECK_OK(&one, tfb_matmul(&one, &A, &B, &Y1));
        CHECK_OK(&two, tfb_matmul(&two, &A, &B, &Y2));
        CHECK_BITS(y1, y2, M * C, "matmul, %s and %s", first, second);
        CHECK_OK(&one, tfb_softmax(&one, &Y1, &Y1, NULL));
        CHECK_OK(&two, tfb_softmax(&two, &Y2, &Y2, NULL));
        CHECK_BITS(y1, y2, M * C, "softmax, %s and %s", first, second);
        CHECK(strcmp(tfb_isa_name(&one), first) == 0, "%s", tfb_isa_name(&one));
        CHECK(strcmp(tfb_isa_name(&two), second) == 0, "%s", tfb_isa_name(&two));
    }
    tfb_ctx_free(&one);
    tfb_ctx_free(&two);
    free(a);
    free(b);
    free(y1);
    free(y2);
}

static void test_two_tables(void) {
    isa_row rows[ISA_MAX];
    tfb_ctx ctx;
    int n, i, j, pairs = 0;
    CHECK(tfb_ctx_init(&ctx) == TFB_OK, "no context");
    n = list(&ctx, rows);
    tfb_ctx_free(&ctx);
    for (i = 0; i < n; i++)
        for (j = 0; j < n; j++)
            if (usable(&rows[i]) && usable(&rows[j])) {
                alternate(rows[i].name, rows[j].name);
                pairs += i != j;
            }
    if (!pairs) SKIP("this CPU and build have one table only");
}

/* Two threads, each forcing its own table over and over. */
#ifdef TFB_PTHREADS
typedef struct side {
    const char *name;
    float x[N], y[N];
    int ok;
} side;

static void *side_main(void *arg) {
    side *s = (side *)arg;
    tfb_tensor X = tfb_view1(s->x, TFB_F32, N), Y = tfb_view1(s->y, TFB_F32, N);
    int i;
    s->ok = 1;
    for (i = 0; i < 200; i++) {
        tfb_ctx ctx;
        if (tfb_ctx_init(&ctx) != TFB_OK || tfb_isa_force(&ctx, s->name) != TFB_OK ||
            tfb_map(&ctx, TFB_FN_TANH, &X, &Y) != TFB_OK ||
            strcmp(tfb_isa_name(&ctx), s->name) != 0)
            s->ok = 0;
        tfb_ctx_free(&ctx);
    }
    return NULL;
}

static void test_two_threads(void) {
    isa_row rows[ISA_MAX];
    pthread_t thread;
    static side one, two;
    tfb_ctx ctx;
    int i, comparable;
    CHECK(tfb_ctx_init(&ctx) == TFB_OK, "no context");
    list(&ctx, rows);
    one.name = tfb_isa_name(&ctx);
    comparable = t_comparable(ctx.isa);
    two.name = "scalar";
    tfb_ctx_free(&ctx);
    for (i = 0; i < N; i++) one.x[i] = two.x[i] = 3 * t_float();
    CHECK(pthread_create(&thread, NULL, side_main, &one) == 0, "no thread");
    side_main(&two);
    pthread_join(thread, NULL);
    CHECK(one.ok && two.ok, "%s: %d, %s: %d", one.name, one.ok, two.name, two.ok);
    if (comparable) CHECK_BITS(one.y, two.y, N, "%s and %s", one.name, two.name);
}
#endif

int main(void) {
    RUN(test_isa_name);
    RUN(test_isa_list);
    RUN(test_isa_best);
    RUN(test_isa_force);
    RUN(test_isa_force_errors);
    RUN(test_isa_lacking);
    RUN(test_isa_needs);
    RUN(test_tables_are_whole);
    RUN(test_build_info);
    RUN(test_probe);
    RUN(test_table_belongs_to_context);
    RUN(test_two_tables);
#ifdef TFB_PTHREADS
    RUN(test_two_threads);
#endif
    FINISH();
}
