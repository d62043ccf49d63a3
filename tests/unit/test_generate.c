/* The main job's program from inside: no allocation after warm-up, scratch of exactly the
 * measured size, the same bits however tokens are fed, damaged files, llama2.c's run. */
#include "../test.h"
#define main generate_main
#include "../../examples/05_generate/main.c"
#undef main

#define MODEL "examples/05_generate/model.bin"

static const char *shared_dir(void) {
    const char *dir = getenv("TFB_SHARED");
    return dir ? dir : "../shared";
}

static model net; /* too large for a stack */

static int open_model(void) {
    tfb_ctx ctx;
    tfb_status status;
    t_ctx(&ctx, NULL);
    status = model_load(&ctx, &net, MODEL);
    CHECK(status == TFB_OK, "%s: %s", MODEL, load_error);
    tfb_ctx_free(&ctx);
    return status == TFB_OK;
}

/* n tokens that a text could have. */
static void fill_tokens(int32_t *tokens, int n) {
    int i;
    for (i = 0; i < n; i++) tokens[i] = (int32_t)t_int(0, net.vocab - 1);
}

static void test_no_allocation_after_warm_up(void) {
    t_heap heap;
    session s;
    tfb_ctx ctx;
    int32_t tokens[40];
    long calls;
    int i;
    if (!open_model()) return;
    CHECK(session_init(&s, &net, 1, NULL, 0) == TFB_OK, "session");
    fill_tokens(tokens, 40);
    t_ctx(&ctx, &heap);
    CHECK_OK(&ctx, forward(&ctx, &net, &s.kv, &s.buffers, tokens, 1));
    calls = heap.calls;
    for (i = 1; i < 40; i++)
        CHECK_OK(&ctx, forward(&ctx, &net, &s.kv, &s.buffers, tokens + i, 1));
    CHECK(heap.calls == calls, "%ld allocations after warm-up", heap.calls - calls);
    CHECK(ctx.scratch_peak == s.scratch_bytes, "measured %lu, used %lu",
          (unsigned long)s.scratch_bytes, (unsigned long)ctx.scratch_peak);
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks are still there", heap.live);
    session_free(&s);
    model_free(&net);
}

static void test_exact_scratch_and_one_byte_less(void) {
    session s;
    int32_t tokens[2] = {1, 2};
    char need[32];
    size_t bytes;
    if (!open_model()) return;
    CHECK(session_init(&s, &net, 1, NULL, 0) == TFB_OK, "session");
    bytes = s.scratch_bytes;
    snprintf(need, sizeof need, "needs %lu", (unsigned long)bytes);
    CHECK_OK(&s.ctx, forward(&s.ctx, &net, &s.kv, &s.buffers, tokens, 1));
    session_free(&s);
    CHECK(session_init(&s, &net, 1, NULL, bytes - 1) == TFB_OK, "session");
    CHECK_FAILS(&s.ctx, TFB_ERR_SCRATCH, need,
                forward(&s.ctx, &net, &s.kv, &s.buffers, tokens, 1));
    session_free(&s);
    model_free(&net);
}

/* Logits of n tokens fed in pieces of `step`, into out[n * vocab]. */
static void logits_by_steps(const int32_t *tokens, int n, int step, const char *isa,
                            float *out) {
    session s;
    int at, T;
    CHECK(session_init(&s, &net, step, isa, 0) == TFB_OK, "session %s", s.ctx.message);
    for (at = 0; at < n; at += T) {
        T = n - at < step ? n - at : step;
        CHECK_OK(&s.ctx, forward(&s.ctx, &net, &s.kv, &s.buffers, tokens + at, T));
        memcpy(out + at * net.vocab, s.buffers.logits,
               (size_t)(T * net.vocab) * sizeof *out);
    }
    session_free(&s);
}

static void test_same_bits_by_steps_and_tables(void) {
    enum { N = 70 };
    static const int steps[] = {1, 3, 33, N};
    int32_t tokens[N];
    float *want, *got;
    const char *isa;
    tfb_ctx ctx;
    size_t i;
    int j;
    if (!open_model()) return;
    fill_tokens(tokens, N);
    want = t_floats(N * net.vocab);
    got = t_floats(N * net.vocab);
    tfb_ctx_init(&ctx);
    logits_by_steps(tokens, N, N, "scalar", want);
    for (j = 0; (isa = tfb_isa_list(&ctx, j, NULL)) != NULL; j++) {
        if (!t_force(&ctx, isa)) continue;
        for (i = 0; i < sizeof steps / sizeof *steps; i++) {
            logits_by_steps(tokens, N, steps[i], isa, got);
            CHECK_BITS(got, want, N * net.vocab, "%s, %d tokens a step", isa, steps[i]);
        }
    }
    free(want);
    free(got);
    model_free(&net);
}

/* A model from bytes, which are of exactly that size so that a sanitizer sees the end. */
static tfb_status build_from(const unsigned char *bytes, size_t n) {
    unsigned char *copy = (unsigned char *)malloc(n + (n == 0));
    reader r;
    tfb_ctx ctx;
    tfb_status status;
    if (!copy) exit(99);
    memcpy(copy, bytes, n);
    memset(&net, 0, sizeof net);
    r.at = copy;
    r.end = copy + n;
    t_ctx(&ctx, NULL);
    status = model_build(&ctx, &net, &r);
    model_free(&net);
    tfb_ctx_free(&ctx);
    free(copy);
    return status;
}

static void test_damaged_models_are_refused(void) {
    size_t bytes, n;
    unsigned char *file = read_file(MODEL, &bytes);
    int i;
    CHECK(file != NULL, "cannot read the model");
    if (!file) return;
    for (n = 0; n < 200; n++)
        CHECK(build_from(file, n) == TFB_ERR_FORMAT, "%lu bytes pass", (unsigned long)n);
    for (n = 200; n < bytes; n += bytes / 7)
        CHECK(build_from(file, n) == TFB_ERR_FORMAT, "%lu bytes pass", (unsigned long)n);
    for (i = 0; i < 40; i++) { /* a flipped bit anywhere: sizes or the hash tell */
        n = i < 10 ? (size_t)i : (size_t)t_int(0, (tfb_idx)bytes - 1);
        if (n >= 44 && n < 64) continue; /* unused bytes of the header */
        file[n] ^= 16;
        CHECK(build_from(file, bytes) == TFB_ERR_FORMAT, "damage at %lu passes",
              (unsigned long)n);
        file[n] ^= 16;
    }
    free(file);
}

static void test_llama2c_run_token_by_token(void) {
    char path[600], tokens_path[600], logits_path[600];
    size_t bytes, logit_bytes;
    unsigned char *want, *logits;
    tfb_ctx ctx;
    session s;
    int i, n, v;
    double worst = 0;
    int32_t token = START;
    snprintf(path, sizeof path, "%s/data/models/stories260K.bin", shared_dir());
    snprintf(tokens_path, sizeof tokens_path,
             "%s/data/goldens/llama2c_stories260K_bos/in0_tokens.bin", shared_dir());
    snprintf(logits_path, sizeof logits_path,
             "%s/data/goldens/llama2c_stories260K_bos/out0_logits.bin", shared_dir());
    t_ctx(&ctx, NULL);
    want = read_file(tokens_path, &bytes);
    logits = read_file(logits_path, &logit_bytes);
    if (!want || !logits || model_load(&ctx, &net, path) != TFB_OK) {
        free(want);
        free(logits);
        SKIP("the stories260K model or its stored run is not there");
    }
    CHECK(session_init(&s, &net, 1, getenv("TFB_TEST_ISA"), 0) == TFB_OK, "session");
    n = (int)(bytes / 4);
    for (i = 0; i + 1 < n; i++) {
        tfb_tensor row = tfb_view1(s.buffers.logits, TFB_F32, net.vocab);
        tfb_tensor best = tfb_view1(&token, TFB_I32, 1);
        CHECK(token == (int32_t)get_u32(want + 4 * i), "token %d is %d, stored %d", i,
              (int)token, (int)get_u32(want + 4 * i));
        CHECK_OK(&s.ctx, forward(&s.ctx, &net, &s.kv, &s.buffers, &token, 1));
        for (v = 0; v < net.vocab; v++) {
            double x, at = (double)s.buffers.logits[v];
            if ((size_t)(i * net.vocab + v) * 8 + 8 > logit_bytes) break;
            memcpy(&x, logits + (size_t)(i * net.vocab + v) * 8, 8);
            if (x - at > worst) worst = x - at;
            if (at - x > worst) worst = at - x;
        }
        best.ndim = 0;
        CHECK_OK(&s.ctx, tfb_argmax(&s.ctx, &row, &best));
    }
    /* the stored run is float64; the closest decision leaves a gap of 0.004 */
    CHECK(worst < 2e-4, "logits differ by %g", worst);
    session_free(&s);
    model_free(&net);
    free(want);
    free(logits);
    tfb_ctx_free(&ctx);
}

int main(void) {
    RUN(test_no_allocation_after_warm_up);
    RUN(test_exact_scratch_and_one_byte_less);
    RUN(test_same_bits_by_steps_and_tables);
    RUN(test_damaged_models_are_refused);
    RUN(test_llama2c_run_token_by_token);
    FINISH();
}
