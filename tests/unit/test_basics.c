/* test_basics.c - section BASICS without the tensors: status text, the three kinds of
 * context, scratch, allocation failure, threads, messages. */
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
static int threads_left = -1; /* how many more begin; any number if below 0 */

static int begin_thread(pthread_t *thread, const pthread_attr_t *attr,
                        void *(*run)(void *), void *arg) {
    if (threads_left == 0) return 11;
    threads_left -= threads_left > 0;
    return pthread_create(thread, attr, run, arg);
}
#define pthread_create begin_thread
#define FEW_THREADS
#endif
#include "../test.h"
#include <time.h>

/* --- One call for each way of using scratch. --- */
/* All read one buffer and write one; NULL for both makes every tensor's data NULL. */
enum { IN_N = 40000, OUT_N = 6000, PACK_BYTES = 64 + 4 * 96 * 70 };

static float *in_data, out_data[OUT_N];
static uint64_t pack_data[PACK_BYTES / 8];

typedef tfb_status (*op_fn)(tfb_ctx *ctx, const float *in, float *out);

static const float *at(const float *base, int offset) {
    return base ? base + offset : NULL;
}

static tfb_status op_matmul(tfb_ctx *ctx, const float *in, float *out) {
    tfb_tensor a = tfb_view2(in, TFB_F32, 60, 300), y = tfb_view2(out, TFB_F32, 60, 70);
    tfb_tensor b = tfb_view2(at(in, 18000), TFB_F32, 300, 70);
    return tfb_matmul(ctx, &a, &b, &y);
}

static tfb_status op_matmul_strided(tfb_ctx *ctx, const float *in, float *out) {
    tfb_tensor a = tfb_view2(in, TFB_F32, 300, 60), y = tfb_view2(out, TFB_F32, 60, 70);
    tfb_tensor b = tfb_view2(at(in, 18000), TFB_F32, 300, 70);
    static const int swap[2] = {1, 0};
    tfb_status status = tfb_permute(ctx, &a, swap, &a);
    return status != TFB_OK ? status : tfb_matmul(ctx, &a, &b, &y);
}

static tfb_status op_linear(tfb_ctx *ctx, const float *in, float *out) {
    tfb_tensor x = tfb_view3(in, TFB_F32, 2, 60, 70);
    tfb_tensor w = tfb_view2(at(in, 9000), TFB_F32, 96, 70);
    tfb_tensor bias = tfb_view1(at(in, 16000), TFB_F32, 96);
    tfb_tensor y = tfb_view3(out, TFB_F32, 2, 60, 48);
    tfb_linear_opts opts = TFB_INIT;
    opts.bias = &bias;
    opts.act = TFB_FN_SILU;
    opts.gate = TFB_GATE_HALVES;
    return tfb_linear(ctx, &x, &w, &opts, &y);
}

static tfb_status linear_packed(tfb_ctx *ctx, const float *in, float *out, tfb_fn act) {
    tfb_linear_opts opts = TFB_INIT;
    tfb_tensor x = tfb_view2(in, TFB_F32, 7, 70), y = tfb_view2(out, TFB_F32, 7, 96);
    tfb_tensor w = tfb_view2(at(in, 9000), TFB_F32, 96, 70);
    tfb_tensor p = tfb_view2(NULL, TFB_PACKED_F32, 96, 70);
    tfb_status status = TFB_OK;
    p.stride[0] = p.stride[1] = 0;
    if (in) status = tfb_pack(ctx, &w, pack_data, PACK_BYTES, &p);
    opts.act = act;
    return status != TFB_OK ? status : tfb_linear(ctx, &x, &p, &opts, &y);
}

static tfb_status op_linear_packed(tfb_ctx *ctx, const float *in, float *out) {
    return linear_packed(ctx, in, out, TFB_FN_SILU);
}

/* These two need no scratch: all is read where it lies, sums go straight to y. */
static tfb_status op_linear_direct(tfb_ctx *ctx, const float *in, float *out) {
    return linear_packed(ctx, in, out, TFB_FN_IDENTITY);
}

static tfb_status op_matmul_direct(tfb_ctx *ctx, const float *in, float *out) {
    tfb_tensor a = tfb_view2(in, TFB_F32, 7, 300), y = tfb_view2(out, TFB_F32, 7, 64);
    tfb_tensor b = tfb_view2(at(in, 18000), TFB_F32, 300, 64);
    return tfb_matmul(ctx, &a, &b, &y);
}

static tfb_status op_rmsnorm(tfb_ctx *ctx, const float *in, float *out) {
    tfb_tensor x = tfb_view2(in, TFB_F32, 11, 130), y = tfb_view2(out, TFB_F32, 11, 130);
    tfb_tensor weight = tfb_view1(at(in, 2000), TFB_F32, 130);
    tfb_norm_opts opts = TFB_INIT;
    opts.weight = &weight;
    return tfb_rmsnorm(ctx, &x, &opts, &y);
}

static tfb_status op_layernorm(tfb_ctx *ctx, const float *in, float *out) {
    tfb_tensor x = tfb_view2(in, TFB_F32, 300, 17), y = tfb_view2(out, TFB_F32, 300, 17);
    x.stride[0] = 1, x.stride[1] = 300; /* rows with gaps pass through scratch */
    return tfb_layernorm(ctx, &x, NULL, &y);
}

static tfb_status op_softmax(tfb_ctx *ctx, const float *in, float *out) {
    tfb_tensor x = tfb_view2(in, TFB_F32, 9, 77), y = tfb_view2(out, TFB_F32, 9, 77);
    x.stride[0] = 1, x.stride[1] = 9;
    return tfb_softmax(ctx, &x, &y, NULL);
}

static tfb_status op_rope(tfb_ctx *ctx, const float *in, float *out) {
    tfb_tensor x = tfb_view4(in, TFB_F32, 2, 3, 11, 24);
    tfb_tensor y = tfb_view4(out, TFB_F32, 2, 3, 11, 24);
    return tfb_rope(ctx, &x, NULL, &y);
}

static tfb_status op_attention(tfb_ctx *ctx, const float *in, float *out) {
    tfb_tensor q = tfb_view4(in, TFB_F32, 2, 4, 13, 20);
    tfb_tensor k = tfb_view4(at(in, 4000), TFB_F32, 2, 2, 150, 20);
    tfb_tensor v = tfb_view4(at(in, 17000), TFB_F32, 2, 2, 150, 33);
    tfb_tensor y = tfb_view4(out, TFB_F32, 2, 4, 13, 33);
    tfb_attention_opts opts = TFB_INIT;
    opts.causal = TFB_CAUSAL_BOTTOM_RIGHT;
    return tfb_attention(ctx, &q, &k, &v, &opts, &y);
}

static const struct {
    const char *name;
    op_fn run;
} ops[] = {{"matmul", op_matmul},      {"matmul_strided", op_matmul_strided},
           {"linear", op_linear},      {"linear_packed", op_linear_packed},
           {"rmsnorm", op_rmsnorm},    {"layernorm", op_layernorm},
           {"softmax", op_softmax},    {"rope", op_rope},
           {"attention", op_attention}};
enum { OPS = (int)(sizeof ops / sizeof *ops) };

static void same_table(tfb_ctx *ctx) {
    const char *isa = getenv("TFB_TEST_ISA");
    if (isa) CHECK_OK(ctx, tfb_isa_force(ctx, isa));
}

static void clear_out(void) {
    memset(out_data, 0x55, sizeof out_data);
}

static int out_is_clear(void) {
    const unsigned char *p = (const unsigned char *)out_data;
    size_t i;
    for (i = 0; i < sizeof out_data && p[i] == 0x55; i++) continue;
    return i == sizeof out_data;
}

/* What the operation gives in a plain serial context. */
static void expect(op_fn run, float *want) {
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    clear_out();
    CHECK_OK(&ctx, run(&ctx, in_data, out_data));
    CHECK(!out_is_clear(), "the operation writes nothing");
    memcpy(want, out_data, sizeof out_data);
    tfb_ctx_free(&ctx);
}

static size_t measured(op_fn run, int workers) {
    tfb_ctx ctx;
    size_t bytes;
    CHECK(tfb_ctx_init_measure(&ctx) == TFB_OK, "no context");
    same_table(&ctx);
    ctx.workers = workers;
    CHECK_OK(&ctx, run(&ctx, NULL, NULL));
    bytes = ctx.scratch_last;
    CHECK(ctx.scratch_peak == bytes, "peak of one call");
    tfb_ctx_free(&ctx);
    return bytes;
}

/* A caller's parallel_for: last piece first, workers in turn. */
typedef struct crew {
    int workers;
    long jobs;
} crew;

static void crew_run(void *user, tfb_idx n, tfb_body_fn body, void *arg) {
    crew *c = (crew *)user;
    c->jobs++;
    while (n-- > 0) body(arg, n, (int)(n % c->workers));
}

static void crew_join(tfb_ctx *ctx, crew *c, int workers) {
    c->workers = ctx->workers = workers;
    c->jobs = 0;
    ctx->parallel_for = crew_run;
    ctx->parallel_user = c;
}

/* --- Status and messages. --- */
static void test_status_text(void) {
#define STATUS_ROW(name, value, text) {name, value, text},
    static const struct {
        tfb_status status;
        int value;
        const char *text;
    } rows[] = {TFB_STATUS_LIST(STATUS_ROW)};
    const int n = (int)(sizeof rows / sizeof *rows);
    int i, j;
    CHECK(TFB_OK == 0 && n == 12, "%d statuses", n);
    for (i = 0; i < n; i++) {
        const char *text = tfb_status_text(rows[i].status);
        CHECK((int)rows[i].status == -i && rows[i].value == -i, "value %d",
              rows[i].value);
        CHECK(strcmp(text, rows[i].text) == 0 && *text, "\"%s\"", text);
        for (j = 0; j < i; j++) CHECK(strcmp(text, rows[j].text) != 0, "twice: %s", text);
    }
    CHECK(strcmp(tfb_status_text((tfb_status)1), "unknown status") == 0, "of 1");
    CHECK(strcmp(tfb_status_text((tfb_status)-n), "unknown status") == 0, "of %d", -n);
}

static void test_dtype_size(void) {
    CHECK(tfb_dtype_size(TFB_F32) == 4 && tfb_dtype_size(TFB_I32) == 4, "four bytes");
    CHECK(tfb_dtype_size(TFB_F16) == 2 && tfb_dtype_size(TFB_BF16) == 2, "two bytes");
    CHECK(tfb_dtype_size(TFB_U8) == 1, "one byte");
    CHECK(tfb_dtype_size(TFB_PACKED_F32) == 1 && tfb_dtype_size(TFB_PACKED_F16) == 1 &&
              tfb_dtype_size(TFB_PACKED_BF16) == 1,
          "packs are bytes");
    CHECK(tfb_dtype_size(TFB__DTYPES) == 0 && tfb_dtype_size((tfb_dtype)77) == 0, "none");
}

static void test_message_life(void) {
    tfb_tensor x = tfb_view1(in_data, TFB_F32, 4), y = tfb_view1(out_data, TFB_F32, 5);
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    CHECK(ctx.message[0] == 0, "message at first: %s", ctx.message);
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_copy: x.shape[0] is 4, needs 5",
                tfb_copy(&ctx, &x, &y));
    y.shape[0] = 4;
    CHECK_OK(&ctx, tfb_copy(&ctx, &x, &y));
    CHECK(ctx.message[0] == 0, "message after success: %s", ctx.message);
    tfb_ctx_free(&ctx);
}

static void test_message_numbers(void) {
    char want[100];
    tfb_idx lowest = -PTRDIFF_MAX - 1;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    CHECK(tfb__fail(&ctx, TFB_ERR_FULL, "a%sb%d%d%dc", "x", (tfb_idx)0, (tfb_idx)-7,
                    (tfb_idx)1234567890) == TFB_ERR_FULL,
          "the code comes back");
    CHECK(strcmp(ctx.message, "axb0-71234567890c") == 0, "%s", ctx.message);
    tfb__fail(&ctx, TFB_OK, "%d %d", lowest, (tfb_idx)PTRDIFF_MAX);
    sprintf(want, "%lld %lld", (long long)lowest, (long long)PTRDIFF_MAX);
    CHECK(strcmp(ctx.message, want) == 0, "%s, wanted %s", ctx.message, want);
    tfb_ctx_free(&ctx);
}

static void test_message_too_long(void) {
    char name[400];
    tfb_ctx ctx;
    memset(name, 'n', sizeof name);
    name[sizeof name - 1] = 0;
    t_ctx(&ctx, NULL);
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "there is no table nnn", tfb_isa_force(&ctx, name));
    CHECK(strlen(ctx.message) == TFB_MESSAGE_BYTES - 1, "%lu characters",
          (unsigned long)strlen(ctx.message));
    CHECK(ctx.isa != NULL, "the field behind the message");
    tfb_ctx_free(&ctx);
}

/* --- Contexts. --- */
static void test_ctx_modes(void) {
    uint64_t mem[8];
    tfb_ctx ctx;
    memset((void *)&ctx, 0xEE, sizeof ctx);
    CHECK(tfb_ctx_init(&ctx) == TFB_OK && ctx.alloc && !ctx.measuring, "growing");
    CHECK(ctx.workers == 0 && !ctx.parallel_for && !ctx.message[0], "fields");
    CHECK(ctx.scratch_last == 0 && ctx.scratch_peak == 0, "scratch at first");
    tfb_ctx_free(&ctx);
    memset((void *)&ctx, 0xEE, sizeof ctx);
    CHECK(tfb_ctx_init_static(&ctx, mem, sizeof mem) == TFB_OK, "static");
    CHECK(!ctx.alloc && !ctx.measuring && ctx.workers == 0, "fields");
    tfb_ctx_free(&ctx);
    memset((void *)&ctx, 0xEE, sizeof ctx);
    CHECK(tfb_ctx_init_measure(&ctx) == TFB_OK && ctx.measuring, "measuring");
    CHECK(!ctx.alloc && ctx.workers == 0, "fields");
    tfb_ctx_free(&ctx);
}

static void test_ctx_bad_init(void) {
    uint64_t mem[8];
    tfb_ctx ctx;
    CHECK(tfb_ctx_init(NULL) == TFB_ERR_ARG, "init");
    CHECK(tfb_ctx_init_static(NULL, mem, 64) == TFB_ERR_ARG, "static");
    CHECK(tfb_ctx_init_measure(NULL) == TFB_ERR_ARG, "measure");
    CHECK(tfb_ctx_threads(NULL, 1, 0) == TFB_ERR_ARG, "threads");
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_ctx_init_static: mem is NULL",
                tfb_ctx_init_static(&ctx, NULL, 1));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_ctx_init_static: mem is not aligned to 8",
                tfb_ctx_init_static(&ctx, (char *)mem + 4, 8));
    CHECK_OK(&ctx, tfb_ctx_init_static(&ctx, NULL, 0));
    same_table(&ctx);
    clear_out();
    CHECK_FAILS(&ctx, TFB_ERR_SCRATCH, "tfb_softmax: scratch is 0 bytes, needs ",
                op_softmax(&ctx, in_data, out_data));
    CHECK(out_is_clear(), "output changed");
    tfb_ctx_free(&ctx);
}

static void test_ctx_free(void) {
    const unsigned char *bytes;
    t_heap heap;
    tfb_ctx ctx;
    size_t i;
    tfb_ctx_free(NULL);
    t_ctx(&ctx, &heap);
    CHECK_OK(&ctx, op_attention(&ctx, in_data, out_data));
    CHECK(heap.live > 0, "nothing was allocated");
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks remain", heap.live);
    bytes = (const unsigned char *)&ctx;
    for (i = 0; i < sizeof ctx && !bytes[i]; i++) continue;
    CHECK(i == sizeof ctx, "byte %lu of a freed context", (unsigned long)i);
    tfb_ctx_free(&ctx);
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, op_attention(&ctx, in_data, out_data));
    tfb_ctx_free(&ctx);
}

/* --- Scratch. --- */
static void test_scratch_warm_up(void) {
    int i;
    for (i = 0; i < OPS; i++) {
        long calls;
        size_t need;
        t_heap heap;
        tfb_ctx ctx;
        t_ctx(&ctx, &heap);
        CHECK_OK(&ctx, ops[i].run(&ctx, in_data, out_data));
        need = ctx.scratch_last;
        CHECK(need > 0 && ctx.scratch_peak == need, "%s", ops[i].name);
        CHECK(heap.live == 1, "%s: %ld blocks kept", ops[i].name, heap.live);
        calls = heap.calls;
        CHECK_OK(&ctx, ops[i].run(&ctx, in_data, out_data));
        CHECK(heap.calls == calls, "%s allocates when warm", ops[i].name);
        CHECK(ctx.scratch_last == need, "%s: another need", ops[i].name);
        CHECK(ctx.used == 0 && ctx.depth == 0, "%s: scratch not returned", ops[i].name);
        tfb_ctx_free(&ctx);
        CHECK(heap.live == 0, "%s leaks", ops[i].name);
    }
}

/* What needs no scratch works without any memory. */
static void test_scratch_none(void) {
    static const op_fn direct[] = {op_linear_direct, op_matmul_direct};
    static float want[OUT_N];
    int i;
    for (i = 0; i < 6; i++) {
        const op_fn run = direct[i % 2];
        const int workers = 1 + i / 2;
        t_heap heap;
        crew c;
        tfb_ctx ctx;
        expect(run, want);
        CHECK(measured(run, workers) == 0, "direct %d: %lu", i,
              (unsigned long)measured(run, workers));
        t_ctx(&ctx, &heap);
        crew_join(&ctx, &c, workers);
        CHECK_OK(&ctx, run(&ctx, in_data, out_data));
        CHECK(ctx.scratch_last == 0 && heap.calls == 0, "direct %d allocates", i);
        tfb_ctx_free(&ctx);
        CHECK_OK(&ctx, tfb_ctx_init_static(&ctx, NULL, 0));
        same_table(&ctx);
        crew_join(&ctx, &c, workers);
        clear_out();
        CHECK_OK(&ctx, run(&ctx, in_data, out_data));
        CHECK_BITS(out_data, want, OUT_N, "direct %d", i);
        tfb_ctx_free(&ctx);
    }
}

/* Whatever came before, one block remains, and a second round allocates nothing. */
static void test_scratch_merge(void) {
    size_t peak = 0;
    long calls;
    t_heap heap;
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, &heap);
    for (i = 0; i < OPS; i++) {
        const size_t need = measured(ops[i].run, 1);
        peak = TFB__MAX(peak, need);
        CHECK_OK(&ctx, ops[i].run(&ctx, in_data, out_data));
        CHECK(ctx.scratch_last == need && ctx.scratch_peak == peak,
              "%s: last %lu peak %lu", ops[i].name, (unsigned long)ctx.scratch_last,
              (unsigned long)ctx.scratch_peak);
        CHECK(heap.live == 1 && ctx.block->bytes >= peak && !ctx.block->next,
              "%s: %ld blocks", ops[i].name, heap.live);
    }
    calls = heap.calls;
    for (i = 0; i < 3 * OPS; i++)
        CHECK_OK(&ctx, ops[i % OPS].run(&ctx, in_data, out_data));
    CHECK(heap.calls == calls, "allocates when warm");
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "leak");
}

/* scratch_last belongs to the last call, also where that needs none or was refused. */
static void test_scratch_last(void) {
    tfb_tensor x = tfb_view1(in_data, TFB_F32, 4), y = tfb_view1(out_data, TFB_F32, 4);
    tfb_tensor short_x = tfb_view1(in_data, TFB_F32, 3);
    size_t peak;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, op_linear(&ctx, in_data, out_data));
    peak = ctx.scratch_peak;
    CHECK_OK(&ctx, tfb_add(&ctx, &x, &x, &y));
    CHECK(ctx.scratch_last == 0, "tfb_add: %lu", (unsigned long)ctx.scratch_last);
    CHECK(ctx.scratch_peak == peak, "the peak was forgotten");
    CHECK_OK(&ctx, op_softmax(&ctx, in_data, out_data));
    CHECK(ctx.scratch_last == measured(op_softmax, 1), "softmax");
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_softmax: y.shape[0] is 4, needs 3",
                tfb_softmax(&ctx, &short_x, &y, NULL));
    CHECK(ctx.scratch_last == 0, "refused: %lu", (unsigned long)ctx.scratch_last);
    CHECK(ctx.scratch_peak == peak, "the peak was forgotten");
    tfb_ctx_free(&ctx);
}

/* An outer piece of work holds scratch while an inner one takes far more. */
static void test_scratch_nested(void) {
    tfb__mark outer, inner;
    unsigned char *a, *b, *c;
    t_heap heap;
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, &heap);
    outer = tfb__scratch_begin(&ctx);
    a = (unsigned char *)tfb__take(&ctx, 100, 1);
    memset(a, 1, 100);
    inner = tfb__scratch_begin(&ctx);
    b = (unsigned char *)tfb__take(&ctx, 1000, 10);
    c = (unsigned char *)tfb__take(&ctx, 5, 1);
    memset(b, 2, 10000);
    memset(c, 3, 5);
    CHECK((uintptr_t)a % 64 == 0 && (uintptr_t)b % 64 == 0 && (uintptr_t)c % 64 == 0,
          "not aligned to 64");
    CHECK_OK(&ctx, tfb__scratch_ready(&ctx, "inner"));
    CHECK_OK(&ctx, tfb__scratch_end(&ctx, inner, TFB_OK));
    CHECK(ctx.used == 128, "%lu in use", (unsigned long)ctx.used);
    for (i = 0; i < 100; i++) CHECK(a[i] == 1, "outer scratch moved or overwritten");
    b = (unsigned char *)tfb__take(&ctx, 28, 1);
    CHECK(b >= a + 128 || b + 28 <= a, "two pieces overlap");
    CHECK_OK(&ctx, tfb__scratch_ready(&ctx, "outer"));
    CHECK_OK(&ctx, tfb__scratch_end(&ctx, outer, TFB_OK));
    CHECK(ctx.scratch_last == 128 + 10048 + 64, "%lu", (unsigned long)ctx.scratch_last);
    CHECK(heap.live == 1 && ctx.block->bytes >= ctx.scratch_last, "not merged");
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "leak");
}

static void test_scratch_static_nested(void) {
    unsigned char *mem = (unsigned char *)malloc(256), *a, *b;
    tfb__mark outer, inner;
    tfb_ctx ctx;
    if (!mem) exit(99);
    CHECK(tfb_ctx_init_static(&ctx, mem, 256) == TFB_OK, "no context");
    outer = tfb__scratch_begin(&ctx);
    a = (unsigned char *)tfb__take(&ctx, 128, 1);
    inner = tfb__scratch_begin(&ctx);
    b = (unsigned char *)tfb__take(&ctx, 128, 1);
    CHECK(a == mem && b == mem + 128, "where pieces stand");
    CHECK_OK(&ctx, tfb__scratch_end(&ctx, inner, tfb__scratch_ready(&ctx, "inner")));
    inner = tfb__scratch_begin(&ctx);
    CHECK(tfb__take(&ctx, 129, 1) == NULL, "more than there is");
    CHECK_FAILS(&ctx, TFB_ERR_SCRATCH, "inner: scratch is 256 bytes, needs 320",
                tfb__scratch_end(&ctx, inner, tfb__scratch_ready(&ctx, "inner")));
    CHECK(tfb__take(&ctx, 128, 1) == mem + 128, "works again");
    CHECK_OK(&ctx, tfb__scratch_end(&ctx, outer, tfb__scratch_ready(&ctx, "outer")));
    tfb_ctx_free(&ctx);
    free(mem);
}

static void test_scratch_overflow(void) {
    tfb__mark mark;
    t_heap heap;
    tfb_ctx ctx;
    t_ctx(&ctx, &heap);
    mark = tfb__scratch_begin(&ctx);
    CHECK(tfb__take(&ctx, PTRDIFF_MAX, 8) == NULL, "a size that overflows");
    CHECK(tfb__take(&ctx, PTRDIFF_MAX, 8) == NULL, "twice");
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "here: the scratch it needs overflows",
                tfb__scratch_end(&ctx, mark, tfb__scratch_ready(&ctx, "here")));
    CHECK(ctx.scratch_peak == 0, "peak counts what cannot be");
    CHECK(heap.calls == 0, "the allocator was asked");
    CHECK_OK(&ctx, op_softmax(&ctx, in_data, out_data));
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "leak");
}

/* A static context of exactly the measured size does; one byte less is refused, with the
 * size in the message. mem may stand anywhere aligned to 8. */
static void static_one(int op, int workers, const float *want) {
    const size_t need = measured(ops[op].run, workers);
    char *mem = (char *)malloc(need + 8), text[120];
    crew c;
    tfb_ctx ctx;
    if (!mem) exit(99);
    CHECK(tfb_ctx_init_static(&ctx, mem + 8, need) == TFB_OK, "no context");
    same_table(&ctx);
    crew_join(&ctx, &c, workers);
    clear_out();
    CHECK_OK(&ctx, ops[op].run(&ctx, in_data, out_data));
    CHECK_BITS(out_data, want, OUT_N, "%s, %d workers", ops[op].name, workers);
    CHECK(ctx.scratch_last == need, "%s uses another size", ops[op].name);
    tfb_ctx_free(&ctx);
    CHECK(tfb_ctx_init_static(&ctx, mem + 8, need - 1) == TFB_OK, "no context");
    same_table(&ctx);
    crew_join(&ctx, &c, workers);
    clear_out();
    sprintf(text, "scratch is %lu bytes, needs %lu", (unsigned long)need - 1,
            (unsigned long)need);
    CHECK_FAILS(&ctx, TFB_ERR_SCRATCH, text, ops[op].run(&ctx, in_data, out_data));
    CHECK(out_is_clear(), "%s: output changed", ops[op].name);
    CHECK(ctx.used == 0 && ctx.depth == 0 && c.jobs == 0, "%s: state", ops[op].name);
    tfb_ctx_free(&ctx);
    free(mem);
}

static void test_scratch_static_exact(void) {
    static float want[OUT_N];
    int i;
    for (i = 0; i < OPS; i++) {
        expect(ops[i].run, want);
        static_one(i, 1, want);
        static_one(i, 2, want);
        static_one(i, 5, want);
    }
}

/* Measuring with NULL data, with data and a real run agree; data stays as it is. */
static void test_measure(void) {
    static const int workers[3] = {1, 2, 5};
    int i, j;
    for (i = 0; i < OPS; i++)
        for (j = 0; j < 3; j++) {
            const size_t need = measured(ops[i].run, workers[j]);
            crew c;
            tfb_ctx ctx;
            CHECK(tfb_ctx_init_measure(&ctx) == TFB_OK, "no context");
            same_table(&ctx);
            crew_join(&ctx, &c, workers[j]);
            clear_out();
            CHECK_OK(&ctx, ops[i].run(&ctx, in_data, out_data));
            CHECK(out_is_clear() && c.jobs == 0, "%s: measuring computes", ops[i].name);
            CHECK(ctx.scratch_last == need, "%s: depends on pointers", ops[i].name);
            tfb_ctx_free(&ctx);
            t_ctx(&ctx, NULL);
            crew_join(&ctx, &c, workers[j]);
            CHECK_OK(&ctx, ops[i].run(&ctx, in_data, out_data));
            CHECK(ctx.scratch_last == need, "%s: real %lu, measured %lu", ops[i].name,
                  (unsigned long)ctx.scratch_last, (unsigned long)need);
            tfb_ctx_free(&ctx);
        }
}

static void test_measure_checks(void) {
    tfb_tensor x = tfb_view2(NULL, TFB_F32, 3, 4), y = tfb_view2(NULL, TFB_F32, 3, 5);
    tfb_tensor ids = tfb_view1(NULL, TFB_I32, 3), z = tfb_view2(NULL, TFB_F32, 3, 4);
    tfb_ctx ctx;
    CHECK(tfb_ctx_init_measure(&ctx) == TFB_OK, "no context");
    CHECK_OK(&ctx, tfb_copy(&ctx, &x, &z));
    CHECK_OK(&ctx, tfb_add(&ctx, &x, &x, &z));
    CHECK_OK(&ctx, tfb_mul(&ctx, &x, &x, &z));
    CHECK_OK(&ctx, tfb_map(&ctx, TFB_FN_EXP, &x, &z));
    CHECK_OK(&ctx, tfb_embed(&ctx, &x, &ids, &z));
    CHECK_OK(&ctx, tfb_argmax(&ctx, &x, &ids));
    CHECK_OK(&ctx, tfb_slice(&ctx, &x, 0, 1, 2, &z));
    CHECK(z.data == NULL && z.shape[0] == 2, "slice of nothing");
    CHECK(ctx.scratch_last == 0 && ctx.scratch_peak == 0, "none needs scratch");
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_copy: x.shape[1] is 4, needs 5",
                tfb_copy(&ctx, &x, &y));
    y.dtype = TFB_U8;
    CHECK_FAILS(&ctx, TFB_ERR_DTYPE, "tfb_add: y is U8", tfb_add(&ctx, &x, &x, &y));
    y = tfb_view2(NULL, TFB_F32, PTRDIFF_MAX / 4, 2);
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "the size of y overflows", tfb_copy(&ctx, &x, &y));
    tfb_ctx_free(&ctx);
}

/* --- Allocation failure at every step. --- */
static void test_alloc_failure(void) {
    static float want[OUT_N];
    long calls, k;
    int i;
    for (i = 0; i < OPS; i++) {
        t_heap heap;
        tfb_ctx ctx;
        expect(ops[i].run, want);
        t_ctx(&ctx, &heap);
        CHECK_OK(&ctx, ops[i].run(&ctx, in_data, out_data));
        calls = heap.calls;
        tfb_ctx_free(&ctx);
        for (k = 1; k <= calls; k++) {
            tfb_status status;
            t_ctx(&ctx, &heap);
            heap.fail_at = k;
            clear_out();
            status = ops[i].run(&ctx, in_data, out_data);
            if (k == 1 || status != TFB_OK) {
                CHECK(status == TFB_ERR_MEMORY, "%s gave %d", ops[i].name, (int)status);
                CHECK(strstr(ctx.message, "bytes of scratch are not to be had"), "%s",
                      ctx.message);
                CHECK(out_is_clear(), "%s: output changed", ops[i].name);
                CHECK(heap.live == 0, "%s: keeps memory", ops[i].name);
            } /* else it was the merged block, which only the next call misses */
            CHECK(ctx.used == 0 && ctx.depth == 0, "%s: state", ops[i].name);
            CHECK_OK(&ctx, ops[i].run(&ctx, in_data, out_data));
            CHECK_BITS(out_data, want, OUT_N, "%s: retry", ops[i].name);
            tfb_ctx_free(&ctx);
            CHECK(heap.live == 0, "%s leaks at step %ld", ops[i].name, k);
        }
    }
}

/* A growing context that is warm and then refused more memory keeps working as before. */
static void test_alloc_failure_warm(void) {
    t_heap heap;
    tfb_ctx ctx;
    t_ctx(&ctx, &heap);
    CHECK_OK(&ctx, op_softmax(&ctx, in_data, out_data));
    heap.fail_at = heap.calls + 1;
    clear_out();
    CHECK_FAILS(&ctx, TFB_ERR_MEMORY, "tfb_linear: ", op_linear(&ctx, in_data, out_data));
    CHECK(out_is_clear(), "output changed");
    CHECK_OK(&ctx, op_softmax(&ctx, in_data, out_data));
    CHECK(heap.calls == heap.fail_at, "the old block was lost");
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "leak");
}

static void test_alloc_failure_tensor(void) {
    static const tfb_idx shape[2] = {3, 5};
    tfb_tensor t, before;
    t_heap heap;
    tfb_ctx ctx;
    t_ctx(&ctx, &heap);
    memset((void *)&t, 0x77, sizeof t);
    before = t;
    heap.fail_at = 1;
    CHECK_FAILS(&ctx, TFB_ERR_MEMORY, "tfb_tensor_new: 60 bytes are not to be had",
                tfb_tensor_new(&ctx, &t, TFB_F32, 2, shape));
    CHECK(memcmp(&t, &before, sizeof t) == 0 && heap.live == 0, "t changed");
    CHECK_OK(&ctx, tfb_tensor_new(&ctx, &t, TFB_F32, 2, shape));
    CHECK(heap.live == 1, "one block");
    tfb_tensor_free(&ctx, &t);
    CHECK(heap.live == 0 && t.data == NULL && t.ndim == 0, "freed");
    tfb_tensor_free(&ctx, &t);
    tfb_ctx_free(&ctx);
    CHECK_OK(&ctx, tfb_ctx_init_static(&ctx, NULL, 0));
    CHECK_FAILS(&ctx, TFB_ERR_MEMORY, "ctx.alloc is NULL",
                tfb_tensor_new(&ctx, &t, TFB_F32, 2, shape));
    tfb_ctx_free(&ctx);
}

/* --- parallel_for of the caller. --- */
static void test_own_parallel_for(void) {
    static float want[OUT_N];
    long jobs = 0;
    int i, workers;
    for (i = 0; i < OPS; i++) {
        expect(ops[i].run, want);
        for (workers = 1; workers <= 5; workers++) {
            crew c;
            tfb_ctx ctx;
            t_ctx(&ctx, NULL);
            crew_join(&ctx, &c, workers);
            clear_out();
            CHECK_OK(&ctx, ops[i].run(&ctx, in_data, out_data));
            CHECK_BITS(out_data, want, OUT_N, "%s, %d workers", ops[i].name, workers);
            CHECK(workers > 1 || c.jobs == 0, "one worker needs no callback");
            CHECK_OK(&ctx, tfb_ctx_threads(&ctx, 1, 0));
            CHECK(ctx.parallel_for == crew_run && ctx.workers == workers,
                  "tfb_ctx_threads(1) took the caller's own parallel_for away");
            jobs += c.jobs;
            tfb_ctx_free(&ctx);
        }
    }
    CHECK(jobs > OPS, "the callback was hardly used: %ld", jobs);
}

static void test_workers_without_parallel_for(void) {
    static float want[OUT_N];
    int i;
    for (i = 0; i < OPS; i++) {
        tfb_ctx ctx;
        expect(ops[i].run, want);
        t_ctx(&ctx, NULL);
        ctx.workers = 3;
        clear_out();
        CHECK_OK(&ctx, ops[i].run(&ctx, in_data, out_data));
        CHECK_BITS(out_data, want, OUT_N, "%s", ops[i].name);
        CHECK(ctx.scratch_last == measured(ops[i].run, 3), "%s", ops[i].name);
        tfb_ctx_free(&ctx);
    }
}

/* --- The pool. --- */
#ifdef TFB_PTHREADS
static const struct {
    int workers, spin;
} pools[] = {{1, 0}, {1, 100}, {2, 0}, {2, 2000}, {5, 0}, {5, 2000}};
enum { POOLS = (int)(sizeof pools / sizeof *pools), JOB_MAX = 1000 };

static void test_threads_bits(void) {
    static float want[OUT_N];
    int i, j;
    for (i = 0; i < OPS; i++) {
        expect(ops[i].run, want);
        for (j = 0; j < POOLS; j++) {
            t_heap heap;
            tfb_ctx ctx;
            t_ctx(&ctx, &heap);
            CHECK_OK(&ctx, tfb_ctx_threads(&ctx, pools[j].workers, pools[j].spin));
            clear_out();
            CHECK_OK(&ctx, ops[i].run(&ctx, in_data, out_data));
            CHECK_BITS(out_data, want, OUT_N, "%s, %d workers", ops[i].name,
                       pools[j].workers);
            CHECK(ctx.scratch_last == measured(ops[i].run, pools[j].workers),
                  "%s, %d workers: scratch", ops[i].name, pools[j].workers);
            tfb_ctx_free(&ctx);
            CHECK(heap.live == 0, "leak");
        }
    }
}

/* Each piece once, worker numbers in range and never the same one twice at a time. */
typedef struct job {
    int workers, inside[256], bad;
    char done[JOB_MAX];
} job;

static void job_body(void *arg, tfb_idx i, int worker) {
    job *j = (job *)arg;
    if (worker < 0 || worker >= j->workers) {
        j->bad = 1;
        return;
    }
    if (j->inside[worker]++) j->bad = 2;
    j->done[i]++;
    j->inside[worker]--;
}

static void job_check(tfb_ctx *ctx, tfb_idx n) {
    static job j;
    tfb_idx i;
    memset(&j, 0, sizeof j);
    j.workers = ctx->workers;
    ctx->parallel_for(ctx->parallel_user, n, job_body, &j);
    CHECK(j.bad == 0, "%d workers: fault %d", j.workers, j.bad);
    for (i = 0; i < JOB_MAX; i++)
        CHECK(j.done[i] == (i < n), "piece %d of %d done %d times", (int)i, (int)n,
              j.done[i]);
}

static void test_threads_pieces(void) {
    int i, k;
    for (i = 2; i < POOLS; i++) {
        tfb_ctx ctx;
        t_ctx(&ctx, NULL);
        CHECK_OK(&ctx, tfb_ctx_threads(&ctx, pools[i].workers, pools[i].spin));
        CHECK(ctx.workers == pools[i].workers && ctx.parallel_for, "fields");
        for (k = 0; k < 300; k++) job_check(&ctx, t_int(0, 2 * ctx.workers));
        job_check(&ctx, JOB_MAX);
        tfb_ctx_free(&ctx);
    }
}

/* Every worker must be inside at the same time, on a thread of its own. */
typedef struct meeting {
    pthread_mutex_t lock;
    pthread_cond_t all;
    int want, inside, late; /* late: the wait was over before all had come */
    pthread_t thread[8];
} meeting;

static void meeting_body(void *arg, tfb_idx i, int worker) {
    meeting *m = (meeting *)arg;
    struct timespec limit;
    (void)i;
    memset(&limit, 0, sizeof limit);
    limit.tv_sec = time(NULL) + 10;
    pthread_mutex_lock(&m->lock);
    m->thread[worker] = pthread_self();
    if (++m->inside == m->want) pthread_cond_broadcast(&m->all);
    while (m->inside < m->want && !m->late)
        if (pthread_cond_timedwait(&m->all, &m->lock, &limit)) m->late = 1;
    pthread_mutex_unlock(&m->lock);
}

static void test_threads_are_parallel(void) {
    int k, i, j;
    for (k = 2; k < POOLS; k++) {
        meeting m;
        tfb_ctx ctx;
        memset(&m, 0, sizeof m);
        pthread_mutex_init(&m.lock, NULL);
        pthread_cond_init(&m.all, NULL);
        m.want = pools[k].workers;
        t_ctx(&ctx, NULL);
        CHECK_OK(&ctx, tfb_ctx_threads(&ctx, pools[k].workers, pools[k].spin));
        ctx.parallel_for(ctx.parallel_user, m.want, meeting_body, &m);
        CHECK(!m.late, "not all of %d workers met", m.want);
        if (m.late) return;
        CHECK(pthread_equal(m.thread[0], pthread_self()), "worker 0 is the caller");
        for (i = 0; i < m.want; i++)
            for (j = 0; j < i; j++)
                CHECK(!pthread_equal(m.thread[i], m.thread[j]), "one thread twice");
        tfb_ctx_free(&ctx);
        pthread_mutex_destroy(&m.lock);
        pthread_cond_destroy(&m.all);
    }
}

/* From inside a body the same parallel_for runs serially, on the calling thread. */
typedef struct nest {
    tfb_ctx *ctx;
    pthread_t outer[16];
    int inner[16], bad[16];
} nest;

typedef struct nest_piece {
    nest *n;
    tfb_idx i;
} nest_piece;

static void nest_inner(void *arg, tfb_idx i, int worker) {
    nest_piece *p = (nest_piece *)arg;
    if (worker != 0) p->n->bad[p->i] = 1;
    if (!pthread_equal(pthread_self(), p->n->outer[p->i])) p->n->bad[p->i] = 2;
    if (i != p->n->inner[p->i]) p->n->bad[p->i] = 3;
    p->n->inner[p->i]++;
}

static void nest_outer(void *arg, tfb_idx i, int worker) {
    nest_piece piece;
    (void)worker;
    piece.n = (nest *)arg;
    piece.i = i;
    piece.n->outer[i] = pthread_self();
    piece.n->ctx->parallel_for(piece.n->ctx->parallel_user, 9, nest_inner, &piece);
}

static void test_threads_nested(void) {
    int k, i, round;
    for (k = 2; k < POOLS; k++) {
        tfb_ctx ctx;
        t_ctx(&ctx, NULL);
        CHECK_OK(&ctx, tfb_ctx_threads(&ctx, pools[k].workers, pools[k].spin));
        for (round = 0; round < 20; round++) {
            nest n;
            memset(&n, 0, sizeof n);
            n.ctx = &ctx;
            ctx.parallel_for(ctx.parallel_user, 16, nest_outer, &n);
            for (i = 0; i < 16; i++)
                CHECK(n.inner[i] == 9 && !n.bad[i], "piece %d: %d inner, fault %d", i,
                      n.inner[i], n.bad[i]);
        }
        tfb_ctx_free(&ctx);
    }
}

/* Threads that have ended are counted by the destructor of a thread's own value. */
static pthread_key_t end_key;
static pthread_mutex_t end_lock = PTHREAD_MUTEX_INITIALIZER;
static int ended;

static void end_count(void *value) {
    (void)value;
    pthread_mutex_lock(&end_lock);
    ended++;
    pthread_mutex_unlock(&end_lock);
}

static void end_body(void *arg, tfb_idx i, int worker) {
    if (worker > 0) pthread_setspecific(end_key, arg);
    meeting_body(arg, i, worker);
}

/* Marks every thread of the pool, so that its end will be seen; 0 if some do not come. */
static int end_mark(tfb_ctx *ctx) {
    meeting m;
    memset(&m, 0, sizeof m);
    pthread_mutex_init(&m.lock, NULL);
    pthread_cond_init(&m.all, NULL);
    m.want = ctx->workers;
    ctx->parallel_for(ctx->parallel_user, m.want, end_body, &m);
    CHECK(!m.late, "not all of %d workers met", m.want);
    pthread_mutex_destroy(&m.lock);
    pthread_cond_destroy(&m.all);
    return !m.late;
}

static void test_threads_end(void) {
    t_heap heap;
    tfb_ctx ctx;
    CHECK(pthread_key_create(&end_key, end_count) == 0, "no key");
    ended = 0;
    t_ctx(&ctx, &heap);
    CHECK_OK(&ctx, tfb_ctx_threads(&ctx, 5, 0));
    if (!end_mark(&ctx)) return;
    CHECK(ended == 0, "%d threads ended early", ended);
    CHECK_OK(&ctx, tfb_ctx_threads(&ctx, 2, 1000));
    CHECK(ended == 4, "a smaller pool: %d threads ended of 4", ended);
    if (!end_mark(&ctx)) return;
    CHECK_OK(&ctx, tfb_ctx_threads(&ctx, 1, 0));
    CHECK(ended == 5 && ctx.workers <= 1 && !ctx.parallel_for && heap.live == 0,
          "no pool: %d threads ended of 5, %ld blocks", ended, heap.live);
    CHECK_OK(&ctx, tfb_ctx_threads(&ctx, 3, 1000));
    if (!end_mark(&ctx)) return;
    tfb_ctx_free(&ctx);
    CHECK(ended == 7, "with the context: %d threads ended of 7", ended);
    CHECK(heap.live == 0, "leak");
    pthread_key_delete(end_key);
}

static void test_threads_errors(void) {
    struct tfb__pool *pool;
    t_heap heap;
    tfb_ctx ctx;
    t_ctx(&ctx, &heap);
    CHECK_OK(&ctx, tfb_ctx_threads(&ctx, 2, 0));
    pool = ctx.pool;
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_ctx_threads: n is 0, must be 1 to 256",
                tfb_ctx_threads(&ctx, 0, 0));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "n is -3", tfb_ctx_threads(&ctx, -3, 0));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "n is 257", tfb_ctx_threads(&ctx, 257, 0));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_ctx_threads: spin is -1, must be >= 0",
                tfb_ctx_threads(&ctx, 2, -1));
    heap.fail_at = heap.calls + 1;
    CHECK_FAILS(&ctx, TFB_ERR_MEMORY, "tfb_ctx_threads: no memory or no threads",
                tfb_ctx_threads(&ctx, 5, 0));
    CHECK(ctx.pool == pool && ctx.workers == 2 && heap.live == 1, "the old pool is gone");
    if (ctx.pool != pool || heap.live != 1) return;
    job_check(&ctx, 100);
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "leak");
    CHECK_OK(&ctx, tfb_ctx_init_static(&ctx, NULL, 0));
    CHECK_FAILS(&ctx, TFB_ERR_MEMORY, "no memory", tfb_ctx_threads(&ctx, 2, 0));
    CHECK(ctx.workers <= 1 && !ctx.pool, "fields");
    CHECK_OK(&ctx, tfb_ctx_threads(&ctx, 1, 0));
    tfb_ctx_free(&ctx);
}

/* The system gives some threads and then no more: they end, and the old pool stays. */
static void test_threads_run_out(void) {
#ifdef FEW_THREADS
    t_heap heap;
    tfb_ctx ctx;
    int n;
    t_ctx(&ctx, &heap);
    CHECK_OK(&ctx, tfb_ctx_threads(&ctx, 2, 0));
    for (n = 0; n < 4; n++) {
        threads_left = n;
        CHECK_FAILS(&ctx, TFB_ERR_MEMORY, "no memory or no threads",
                    tfb_ctx_threads(&ctx, 5, 0));
        CHECK(ctx.workers == 2 && heap.live == 1, "%d threads: pool or leak", n);
        job_check(&ctx, 100);
    }
    threads_left = -1;
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "leak");
#else
    SKIP("the header's pthread_create cannot be replaced here");
#endif
}

static void test_threads_most(void) {
    tfb_status status;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    status = tfb_ctx_threads(&ctx, 256, 0);
    if (status == TFB_OK) job_check(&ctx, JOB_MAX);
    CHECK(status == TFB_OK || strstr(ctx.message, "no threads"), "%s", ctx.message);
    tfb_ctx_free(&ctx);
    if (status != TFB_OK) SKIP("the system gives no 256 threads");
}

/* A measuring context starts no thread, but counts the workers there would be. */
static void test_threads_measure(void) {
    tfb_ctx ctx;
    CHECK(tfb_ctx_init_measure(&ctx) == TFB_OK, "no context");
    same_table(&ctx);
    CHECK_OK(&ctx, tfb_ctx_threads(&ctx, 5, 10));
    CHECK(!ctx.pool && !ctx.parallel_for && ctx.workers == 5, "fields");
    CHECK_OK(&ctx, op_attention(&ctx, NULL, NULL));
    CHECK(ctx.scratch_last == measured(op_attention, 5), "five workers");
    CHECK_OK(&ctx, tfb_ctx_threads(&ctx, 1, 0));
    CHECK_OK(&ctx, op_attention(&ctx, NULL, NULL));
    CHECK(ctx.scratch_last == measured(op_attention, 1), "back to one: %lu",
          (unsigned long)ctx.scratch_last);
    tfb_ctx_free(&ctx);
}

/* Two threads, each with its own context and pool, at the same time. */
static void *thread_main(void *arg) {
    float *out = (float *)arg;
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    if (tfb_ctx_threads(&ctx, 2, 100) != TFB_OK) return NULL;
    for (i = 0; i < 30; i++)
        if (op_attention(&ctx, in_data, out) != TFB_OK) return NULL;
    tfb_ctx_free(&ctx);
    return arg;
}

static void test_threads_two_contexts(void) {
    static float want[OUT_N], out[2][OUT_N];
    pthread_t thread[2];
    void *result;
    int i;
    expect(op_attention, want);
    memset(out, 0x55, sizeof out);
    for (i = 0; i < 2; i++)
        CHECK(pthread_create(&thread[i], NULL, thread_main, out[i]) == 0, "no thread");
    for (i = 0; i < 2; i++) {
        pthread_join(thread[i], &result);
        CHECK(result == (void *)out[i], "thread %d failed", i);
        CHECK_BITS(out[i], want, OUT_N, "thread %d: other bits", i);
    }
}
#else
static void test_threads_unsupported(void) {
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_ctx_threads(&ctx, 1, 0));
    CHECK_FAILS(&ctx, TFB_ERR_UNSUPPORTED, "TFB_PTHREADS", tfb_ctx_threads(&ctx, 2, 0));
    tfb_ctx_free(&ctx);
}
#endif

/* --- Every call without arguments: without a context, and inside another call, whose
 * scratch it must not forget. --- */
#define REFUSED(call)                                                                    \
    CHECK((call) == TFB_ERR_ARG, "%s: %s", #call, ctx ? ctx->message : "")

static void without_arguments(tfb_ctx *ctx) {
    REFUSED(tfb_ctx_threads(ctx, 0, 0));
    REFUSED(tfb_isa_force(ctx, NULL));
    REFUSED(tfb_slice(ctx, NULL, 0, 0, 0, NULL));
    REFUSED(tfb_permute(ctx, NULL, NULL, NULL));
    REFUSED(tfb_reshape(ctx, NULL, 0, NULL, NULL));
    REFUSED(tfb_tensor_new(ctx, NULL, TFB_F32, 0, NULL));
    REFUSED(tfb_copy(ctx, NULL, NULL));
    REFUSED(tfb_add(ctx, NULL, NULL, NULL));
    REFUSED(tfb_mul(ctx, NULL, NULL, NULL));
    REFUSED(tfb_map(ctx, TFB_FN_EXP, NULL, NULL));
    REFUSED(tfb_embed(ctx, NULL, NULL, NULL));
    REFUSED(tfb_argmax(ctx, NULL, NULL));
    REFUSED(tfb_matmul(ctx, NULL, NULL, NULL));
    REFUSED(tfb_linear(ctx, NULL, NULL, NULL, NULL));
    REFUSED(tfb_pack(ctx, NULL, NULL, 0, NULL));
    REFUSED(tfb_pack_open(ctx, NULL, 0, NULL));
    REFUSED(tfb_rmsnorm(ctx, NULL, NULL, NULL));
    REFUSED(tfb_layernorm(ctx, NULL, NULL, NULL));
    REFUSED(tfb_l2norm(ctx, NULL, NULL, NULL));
    REFUSED(tfb_softmax(ctx, NULL, NULL, NULL));
    REFUSED(tfb_rope(ctx, NULL, NULL, NULL));
    REFUSED(tfb_attention(ctx, NULL, NULL, NULL, NULL, NULL));
    REFUSED(tfb_attention_weights(ctx, NULL, NULL, NULL, NULL, NULL));
    REFUSED(tfb_merge_states(ctx, NULL, NULL, NULL, NULL));
    REFUSED(tfb_merge_state(ctx, NULL, NULL, NULL, NULL, NULL, NULL));
    REFUSED(tfb_kv_init_static(ctx, NULL, NULL, NULL, 0));
    REFUSED(tfb_kv_init(ctx, NULL, NULL));
    REFUSED(tfb_kv_append(ctx, NULL, 0, NULL, NULL));
    REFUSED(tfb_kv_update(ctx, NULL, 0, NULL, NULL, NULL));
    REFUSED(tfb_kv_attention(ctx, NULL, 0, NULL, NULL, NULL));
    REFUSED(tfb_kv_get(ctx, NULL, 0, NULL, NULL));
    REFUSED(tfb_kv_positions(ctx, NULL, 0, NULL));
    REFUSED(tfb_kv_crop(ctx, NULL, 0, NULL));
    REFUSED(tfb_kv_keep_last(ctx, NULL, 0, NULL));
    REFUSED(tfb_kv_select(ctx, NULL, NULL));
    REFUSED(tfb_kv_repeat_interleave(ctx, NULL, 1));
    REFUSED(tfb_kv_fork(ctx, NULL, 0, 0));
    REFUSED(tfb_kv_shift(ctx, NULL, 0, 0, 0, 0, NULL));
    REFUSED(tfb_kv_mark(ctx, NULL));
    REFUSED(tfb_kv_rollback(ctx, NULL, NULL));
    REFUSED(tfb_kv_save(ctx, NULL, NULL, 0));
    REFUSED(tfb_kv_load(ctx, NULL, NULL, 0));
    REFUSED(tfb_kv_pair_select(ctx, NULL, NULL));
    REFUSED(tfb_kv_pair_repeat_interleave(ctx, NULL, 0));
    REFUSED(tfb_chunked_forward(ctx, NULL, NULL, NULL, 0, NULL, 0, NULL));
    REFUSED(tfb_chunk_size_for(ctx, NULL, NULL, NULL, 0, NULL, 0, NULL, 0, NULL));
    REFUSED(tfb_scratch(ctx, NULL, TFB_F32, 0, NULL));
    REFUSED(tfb_causal_conv1d(ctx, NULL, NULL, NULL, NULL));
    REFUSED(tfb_selective_scan(ctx, NULL, NULL, NULL, NULL, NULL, NULL, NULL));
    REFUSED(tfb_ssd(ctx, NULL, NULL, NULL, NULL, NULL, NULL, NULL));
    REFUSED(tfb_uniform(ctx, 0, 0, 0, 0, NULL));
    REFUSED(tfb_params_save(ctx, NULL, NULL, NULL, 0));
    REFUSED(tfb_params_load(ctx, NULL, NULL, NULL, 0));
    REFUSED(tfb_qkv_init(ctx, NULL, NULL, NULL, 0));
    REFUSED(tfb_qkv_load(ctx, NULL, NULL));
    REFUSED(tfb_qkv_forward(ctx, NULL, NULL, NULL, NULL));
    REFUSED(tfb_qkv_step(ctx, NULL, NULL, NULL, NULL, NULL));
    REFUSED(tfb_mixer_state_init(ctx, NULL, NULL, 0, 0, NULL, 0));
    REFUSED(tfb_mixer_state_select(ctx, NULL, NULL));
    REFUSED(tfb_mixer_state_mark(ctx, NULL));
    REFUSED(tfb_mixer_state_rollback(ctx, NULL));
    REFUSED(tfb_mhsa_init(ctx, NULL, NULL, NULL, 0));
    REFUSED(tfb_mamba_init(ctx, NULL, NULL, NULL, 0));
}

static void test_without_arguments(void) {
    tfb_ctx ctx;
    without_arguments(NULL);
    CHECK(tfb_build_info(NULL) == TFB_ERR_ARG, "tfb_build_info");
    t_ctx(&ctx, NULL);
    without_arguments(&ctx);
    ctx.scratch_last = 77;
    ctx.depth = 1;
    without_arguments(&ctx);
    CHECK_OK(&ctx, tfb_build_info(&ctx));
    CHECK(ctx.scratch_last == 77, "forgotten: %ld", (long)ctx.scratch_last);
    ctx.depth = 0;
    tfb_ctx_free(&ctx);
}

int main(void) {
    in_data = t_floats(IN_N);
    RUN(test_status_text);
    RUN(test_without_arguments);
    RUN(test_dtype_size);
    RUN(test_message_life);
    RUN(test_message_numbers);
    RUN(test_message_too_long);
    RUN(test_ctx_modes);
    RUN(test_ctx_bad_init);
    RUN(test_ctx_free);
    RUN(test_scratch_warm_up);
    RUN(test_scratch_none);
    RUN(test_scratch_merge);
    RUN(test_scratch_last);
    RUN(test_scratch_nested);
    RUN(test_scratch_static_nested);
    RUN(test_scratch_overflow);
    RUN(test_scratch_static_exact);
    RUN(test_measure);
    RUN(test_measure_checks);
    RUN(test_alloc_failure);
    RUN(test_alloc_failure_warm);
    RUN(test_alloc_failure_tensor);
    RUN(test_own_parallel_for);
    RUN(test_workers_without_parallel_for);
#ifdef TFB_PTHREADS
    RUN(test_threads_bits);
    RUN(test_threads_pieces);
    RUN(test_threads_are_parallel);
    RUN(test_threads_nested);
    RUN(test_threads_end);
    RUN(test_threads_errors);
    RUN(test_threads_run_out);
    RUN(test_threads_most);
    RUN(test_threads_measure);
    RUN(test_threads_two_contexts);
#else
    RUN(test_threads_unsupported);
#endif
    free(in_data);
    FINISH();
}
