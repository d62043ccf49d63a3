/* tfb_chunked_forward, tfb_chunk_size_for, tfb_scratch: which pieces the callback gets,
 * the same bits for every chunk size and number of workers, what is refused and in which
 * order, errors of callbacks, and memory: measured, static, failing, of a real MLP. */
#include "../test.h"
#include "layouts.h"

enum { MOST_CHUNKS = 64 };
static const int worker_counts[] = {1, 2, 3, 8};

/* --- What a test asks for. --- */
typedef struct job {
    tfb_chunk_fn forward;
    void *user;
    tfb_tensor in[TFB_MAX_CHUNK_TENSORS + 1], out[TFB_MAX_CHUNK_TENSORS + 1];
    int n_in, n_out;
    tfb_chunk_opts o;
} job;

static tfb_status job_run(tfb_ctx *ctx, job *j) {
    return tfb_chunked_forward(ctx, j->forward, j->user, j->in, j->n_in, j->out, j->n_out,
                               &j->o);
}

static tfb_status job_size_for(tfb_ctx *ctx, job *j, size_t bytes, tfb_idx *size) {
    return tfb_chunk_size_for(ctx, j->forward, j->user, j->in, j->n_in, j->out, j->n_out,
                              &j->o, bytes, size);
}

static size_t job_measure(const tfb_ctx *like, job *j) {
    tfb_ctx ctx;
    CHECK_OK(&ctx, tfb_ctx_init_measure(&ctx));
    CHECK_OK(&ctx, tfb_isa_force(&ctx, tfb_isa_name(like)));
    ctx.workers = like->workers;
    CHECK_OK(&ctx, job_run(&ctx, j));
    CHECK(ctx.scratch_peak == ctx.scratch_last, "peak %ld, last %ld",
          (long)ctx.scratch_peak, (long)ctx.scratch_last);
    return ctx.scratch_last;
}

/* Pieces from the last to the first, dealt out to workers in turn. */
static void reverse_for(void *user, tfb_idx n, tfb_body_fn body, void *arg) {
    const int workers = *(int *)user;
    while (n-- > 0) body(arg, n, (int)(n % workers));
}

/* In order, each piece by another worker. */
static void forward_for(void *user, tfb_idx n, tfb_body_fn body, void *arg) {
    const int workers = *(int *)user;
    tfb_idx i;
    for (i = 0; i < n; i++) body(arg, i, (int)(i % workers));
}

static void reverse_workers(tfb_ctx *ctx, int *workers) {
    ctx->parallel_for = reverse_for;
    ctx->parallel_user = workers;
    ctx->workers = *workers;
}

/* --- A callback that writes down what it got. --- */
typedef struct call_log {
    tfb_chunk chunk[MOST_CHUNKS];
    tfb_tensor in[MOST_CHUNKS][3], out[MOST_CHUNKS][3];
    int calls, measuring;
} call_log;

static tfb_status watch(tfb_ctx *ctx, void *user, const tfb_chunk *chunk) {
    call_log *log = (call_log *)user;
    int i;
    for (i = 0; i < chunk->inputs && i < 3; i++) log->in[log->calls][i] = chunk->in[i];
    for (i = 0; i < chunk->outputs && i < 3; i++) log->out[log->calls][i] = chunk->out[i];
    log->chunk[log->calls++] = *chunk;
    log->measuring += ctx->measuring;
    return TFB_OK;
}

static tfb_tensor sliced(const tfb_tensor *t, int dim, tfb_idx start, tfb_idx n) {
    tfb_tensor piece = *t;
    piece.shape[dim] = n;
    piece.data =
        (char *)t->data + start * t->stride[dim] * (tfb_idx)tfb_dtype_size(t->dtype);
    return piece;
}

/* Two inputs, one the same for all places; outputs of twice, half and all of the axis. */
static void pieces_are_views(void) {
    const tfb_idx size[] = {2, 4, 6, 12, 8, 10, 20}; /* the last ones with a remainder */
    float x[3 * 12 * 2], y0[24 * 3], y1[3 * 6 * 4], y2[12 * 12];
    int32_t ids[3];
    call_log log;
    tfb_ctx ctx;
    int i, k, n;
    t_ctx(&ctx, NULL);
    for (i = 0; i < COUNT(size); i++) {
        job j;
        memset(&log, 0, sizeof log);
        memset(&j, 0, sizeof j);
        j.forward = watch, j.user = &log, j.n_in = 2, j.n_out = 3;
        j.in[0] = tfb_view3(x, TFB_F32, 3, 12, 2);
        j.in[1] = with_stride(tfb_view3(ids, TFB_I32, 3, 12, 1), 1, 0);
        j.in[1].stride[0] = 1;
        j.out[0] = tfb_view2(y0, TFB_F32, 3, 24);
        j.out[1] = tfb_view3(y1, TFB_F32, 3, 6, 4);
        j.out[2] = tfb_view4(y2, TFB_F32, 1, 12, 3, 4);
        j.o.chunk_size = size[i];
        j.o.dim = i & 1 ? 1 : -2;
        j.o.remainder = size[i] > 6;
        CHECK_OK(&ctx, job_run(&ctx, &j));
        n = (int)((12 + size[i] - 1) / size[i]);
        CHECK(log.calls == n && !log.measuring, "%d calls, wanted %d", log.calls, n);
        for (k = 0; k < n; k++) {
            const tfb_idx start = k * size[i], len = TFB__MIN(size[i], 12 - start);
            tfb_tensor want[5];
            want[0] = sliced(&j.in[0], 1, start, len);
            want[1] = sliced(&j.in[1], 1, start, len);
            want[2] = sliced(&j.out[0], 1, 2 * start, 2 * len);
            want[3] = sliced(&j.out[1], 1, start / 2, len / 2);
            want[4] = sliced(&j.out[2], 1, start, len);
            CHECK(log.chunk[k].index == k && log.chunk[k].start == start &&
                      log.chunk[k].length == len && log.chunk[k].worker == 0 &&
                      log.chunk[k].inputs == 2 && log.chunk[k].outputs == 3,
                  "chunk %d of %ld", k, (long)size[i]);
            CHECK(memcmp(log.in[k], want, 2 * sizeof *want) == 0, "inputs of %d", k);
            CHECK(memcmp(log.out[k], want + 2, 3 * sizeof *want) == 0, "outputs of %d",
                  k);
        }
        CHECK(ctx.scratch_last == 0, "scratch %ld", (long)ctx.scratch_last);
    }
    tfb_ctx_free(&ctx);
}

/* chunk_size 0, no options, one chunk, length 0: one call on the whole tensors. */
static void one_call_gets_the_whole(void) {
    float x[30], y[30];
    int32_t ids[5];
    call_log log;
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    reverse_workers(&ctx, (int *)(uintptr_t)&worker_counts[2]);
    for (i = 0; i < 7; i++) {
        tfb_chunk_opts o = TFB_INIT;
        tfb_tensor in[2], out[2];
        in[0] = tfb_view2(x, TFB_F32, 5, 6);
        in[1] = tfb_view2(ids, TFB_I32, 5, 1);
        out[0] = tfb_view1(y, TFB_F32, 7); /* no whole share of 5 */
        out[1] = tfb_view2(y + 7, TFB_F32, 0, 3);
        memset(&log, 0, sizeof log);
        o.parallel = i & 1;
        if (i > 1) o.chunk_size = 5;
        if (i > 3) o.chunk_size = 9, o.remainder = 1;
        if (i == 6) in[0].shape[0] = in[1].shape[0] = 0;
        CHECK_OK(&ctx,
                 tfb_chunked_forward(&ctx, watch, &log, in, 2, out, 2, i ? &o : NULL));
        CHECK(log.calls == 1 && !log.measuring, "%d: %d calls", i, log.calls);
        CHECK(memcmp(log.in[0], in, sizeof in) == 0, "%d: inputs", i);
        CHECK(memcmp(log.out[0], out, sizeof out) == 0, "%d: outputs", i);
        CHECK(log.chunk[0].start == 0 && log.chunk[0].index == 0 &&
                  log.chunk[0].length == in[0].shape[0],
              "%d: length %ld", i, (long)log.chunk[0].length);
    }
    tfb_ctx_free(&ctx);
}

static void no_outputs_no_data(void) {
    tfb_tensor x = tfb_view3(NULL, TFB_F32, 6, 0, 2), y = tfb_view2(NULL, TFB_F32, 0, 3);
    tfb_chunk_opts o = TFB_INIT;
    call_log log;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    memset(&log, 0, sizeof log);
    o.chunk_size = 2;
    CHECK_OK(&ctx, tfb_chunked_forward(&ctx, watch, &log, &x, 1, NULL, 0, &o));
    CHECK_OK(&ctx, tfb_chunked_forward(&ctx, watch, &log, &x, 1, &y, 1, &o));
    CHECK(log.calls == 6 && log.chunk[5].start == 4 && log.out[5][0].shape[0] == 0,
          "%d calls", log.calls);
    tfb_ctx_free(&ctx);
}

/* --- A feed-forward block: y = gelu(x W1^T + b1) W2^T + x; y2 = its first activations,
 * pair by pair, which is half of the axis. --- */
typedef struct mlp {
    tfb_tensor w1, w2, b1;
    tfb_idx hidden;
    int dim;                 /* of pairs */
    const char *isa;         /* the table it must be called with, if not NULL */
    int of_worker[8];        /* calls */
    int uncounted;           /* several chunks have the same index */
    uint32_t fail;           /* a bit for each chunk that is to fail */
    int called[MOST_CHUNKS]; /* by index; each is written by one worker only */
    const char *why;
    tfb_status status;
} mlp;

static tfb_tensor every_second(const tfb_tensor *t, int dim, int first) {
    tfb_tensor half = sliced(t, dim, t->shape[dim] > 0 ? first : 0, t->shape[dim] / 2);
    half.stride[dim] *= 2;
    return half;
}

static tfb_status mlp_forward(tfb_ctx *ctx, void *user, const tfb_chunk *c) {
    mlp *m = (mlp *)user;
    tfb_linear_opts first = TFB_INIT, second = TFB_INIT;
    const tfb_tensor *x = c->in;
    tfb_tensor h, even, odd;
    tfb_idx shape[TFB_MAX_DIMS];
    const int last = x->ndim - 1;
    if (m->isa && strcmp(m->isa, tfb_isa_name(ctx))) return TFB_ERR_UNSUPPORTED;
    if (!ctx->measuring && !m->uncounted) m->of_worker[c->worker]++;
    if (!ctx->measuring && !m->uncounted) m->called[c->index]++;
    if (!ctx->measuring && m->fail >> (c->index & 31) & 1) {
        if (m->why) sprintf(ctx->message, m->why, (int)c->index);
        return m->status;
    }
    memcpy(shape, x->shape, sizeof shape);
    shape[last] = m->hidden;
    TFB__TRY(tfb_scratch(ctx, &h, TFB_F32, x->ndim, shape));
    first.bias = &m->b1, first.act = TFB_FN_GELU_ERF, second.residual = x;
    TFB__TRY(tfb_linear(ctx, x, &m->w1, &first, &h));
    TFB__TRY(tfb_linear(ctx, &h, &m->w2, &second, &c->out[0]));
    if (c->outputs < 2 || ctx->measuring) return TFB_OK;
    TFB__TRY(tfb_slice(ctx, &h, last, 0, 1, &h));
    even = every_second(&h, m->dim, 0);
    odd = every_second(&h, m->dim, 1);
    return tfb_add(ctx, &even, &odd, &c->out[1]);
}

typedef struct net {
    mlp m;
    box w1, w2, b1, x, y, half;
    float *want, *want_half;
    job j;
} net;

/* dims: B, T, C and hidden; rank 2 has no B. */
static void net_new(net *n, int ndim, const tfb_idx *dims, int dim, int layout) {
    const tfb_idx C = dims[2], H = dims[3];
    tfb_idx shape[4];
    const int axis = dim < 0 ? dim + ndim : dim;
    memset((void *)n, 0, sizeof *n);
    shape[0] = H, shape[1] = C;
    n->w1 = box_new(2, shape, layout);
    n->b1 = box_new(1, shape, layout);
    shape[0] = C, shape[1] = H;
    n->w2 = box_new(2, shape, layout);
    memcpy(shape, dims + 3 - ndim, (size_t)ndim * sizeof *shape);
    n->x = box_new(ndim, shape, layout);
    n->y = box_new(ndim, shape, layout);
    shape[ndim - 1] = 1, shape[axis] /= 2;
    n->half = box_new(ndim, shape, layout);
    n->m.w1 = n->w1.t, n->m.w2 = n->w2.t, n->m.b1 = n->b1.t;
    n->m.hidden = H, n->m.dim = axis;
    n->j.forward = mlp_forward, n->j.user = &n->m, n->j.o.dim = dim;
    n->j.in[0] = n->x.t, n->j.out[0] = n->y.t, n->j.out[1] = n->half.t;
    n->j.n_in = 1, n->j.n_out = 2;
}

static void net_free(net *n) {
    box_free(&n->w1), box_free(&n->w2), box_free(&n->b1);
    box_free(&n->x), box_free(&n->y), box_free(&n->half);
    free(n->want), free(n->want_half);
}

/* What the two layers give outside of any chunk. */
static void net_want(tfb_ctx *ctx, net *n) {
    tfb_tensor x = n->x.t, h, even, odd;
    tfb_linear_opts first = TFB_INIT, second = TFB_INIT;
    tfb_idx shape[TFB_MAX_DIMS];
    memcpy(shape, x.shape, sizeof shape);
    shape[x.ndim - 1] = n->m.hidden;
    CHECK_OK(ctx, tfb_tensor_new(ctx, &h, TFB_F32, x.ndim, shape));
    first.bias = &n->m.b1, first.act = TFB_FN_GELU_ERF, second.residual = &x;
    CHECK_OK(ctx, tfb_linear(ctx, &x, &n->m.w1, &first, &h));
    CHECK_OK(ctx, tfb_linear(ctx, &h, &n->m.w2, &second, &n->y.t));
    even = sliced(&h, x.ndim - 1, 0, 1);
    odd = every_second(&even, n->m.dim, 1);
    even = every_second(&even, n->m.dim, 0);
    if (n->j.n_out > 1) CHECK_OK(ctx, tfb_add(ctx, &even, &odd, &n->half.t));
    n->want = floats_copy(n->y.mem, n->y.n);
    n->want_half = floats_copy(n->half.mem, n->half.n);
    tfb_tensor_free(ctx, &h);
}

static void net_reset(net *n) {
    memset(n->m.called, 0, sizeof n->m.called);
    memset(n->m.of_worker, 0, sizeof n->m.of_worker);
    box_reset(&n->y), box_reset(&n->half);
}

static void net_check(tfb_ctx *ctx, net *n, const char *what) {
    net_reset(n);
    CHECK_OK(ctx, job_run(ctx, &n->j));
    CHECK(ctx->message[0] == 0, "%s: %s", what, ctx->message);
    CHECK_BITS(n->y.mem, n->want, n->y.n, "%s: chunk %ld", what, (long)n->j.o.chunk_size);
    CHECK_BITS(n->half.mem, n->want_half, n->half.n, "%s: chunk %ld, pairs", what,
               (long)n->j.o.chunk_size);
}

/* Ranks 2 and 3, any axis but that of channels, any layout, every even chunk size. */
static void every_size_has_the_same_bits(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 24; it++) {
        const int ndim = 2 + it % 2, dim = (int)t_int(0, ndim - 2);
        tfb_idx dims[4], length;
        net n;
        dims[0] = 2 * t_int(1, 3), dims[1] = 2 * t_int(1, 12);
        dims[2] = t_int(1, 40), dims[3] = t_int(1, 70);
        length = dims[dim + 3 - ndim];
        net_new(&n, ndim, dims, it & 4 ? dim : dim - ndim, it);
        net_want(&ctx, &n);
        for (n.j.o.chunk_size = 0; n.j.o.chunk_size < length + 3; n.j.o.chunk_size += 2) {
            n.j.o.remainder = n.j.o.chunk_size && length % n.j.o.chunk_size;
            net_check(&ctx, &n, "serial");
        }
        net_free(&n);
    }
    tfb_ctx_free(&ctx);
}

static void workers_do_not_matter(void) {
    int i, it, reverse;
    for (i = 0; i < COUNT(worker_counts); i++)
        for (reverse = 0; reverse < 2; reverse++)
            for (it = 0; it < 4; it++) {
                const tfb_idx dims[4] = {2, 46, 33, 70};
                int workers = worker_counts[i];
                tfb_ctx ctx;
                net n;
                t_ctx(&ctx, NULL);
                if (it & 1) CHECK_OK(&ctx, tfb_isa_force(&ctx, "scalar"));
                net_new(&n, 3, dims, 1, it * 5);
                n.m.isa = tfb_isa_name(&ctx);
                net_want(&ctx, &n);
                if (reverse) reverse_workers(&ctx, &workers);
                else CHECK_OK(&ctx, tfb_ctx_threads(&ctx, workers, it * 100));
                n.j.o.parallel = n.j.o.remainder = 1;
                for (n.j.o.chunk_size = 2; n.j.o.chunk_size < 60;
                     n.j.o.chunk_size += 2 + n.j.o.chunk_size / 4 * 2) {
                    const tfb_idx count = 45 / n.j.o.chunk_size + 1;
                    tfb_idx c;
                    net_check(&ctx, &n, reverse ? "reverse" : "threads");
                    for (c = 0; c < MOST_CHUNKS; c++)
                        CHECK(n.m.called[c] == (c < count), "chunk %ld", (long)c);
                    for (c = 0; reverse && c < workers; c++)
                        CHECK(n.m.of_worker[c] == (count - 1 - c + workers) / workers ||
                                  (count == 1 && c == 0),
                              "worker %ld", (long)c);
                }
                net_free(&n);
                tfb_ctx_free(&ctx);
            }
}

/* --- In place: an output may be an input. --- */
static tfb_status twice(tfb_ctx *ctx, void *user, const tfb_chunk *c) {
    (void)user;
    return tfb_add(ctx, &c->in[0], &c->in[c->inputs - 1], &c->out[0]);
}

static void in_place(void) {
    float x[24], before[24];
    tfb_ctx ctx;
    int i, k;
    for (i = 0; i < 8; i++) {
        int workers = 3;
        job j;
        t_ctx(&ctx, NULL);
        if (i & 4) CHECK_OK(&ctx, tfb_ctx_threads(&ctx, workers, 0));
        memset(&j, 0, sizeof j);
        for (k = 0; k < 24; k++) before[k] = x[k] = t_float();
        j.forward = twice, j.n_in = 1, j.n_out = 1;
        j.in[0] = j.out[0] = tfb_view2(x, TFB_F32, 8, 3);
        j.o.chunk_size = (i & 3) * 2, j.o.remainder = j.o.parallel = 1;
        CHECK_OK(&ctx, job_run(&ctx, &j));
        for (k = 0; k < 24; k++) before[k] += before[k];
        CHECK_BITS(x, before, 24, "in place %d", i);
        tfb_ctx_free(&ctx);
    }
}

/* --- What is refused. --- */
static void refused(job *j, const char *text, tfb_status code, const float *mem, int n) {
    float before[256];
    tfb_idx size = -7;
    tfb_ctx ctx;
    mlp *m = (mlp *)j->user;
    t_ctx(&ctx, NULL);
    memcpy(before, mem, (size_t)n * sizeof *mem);
    memset(m->called, 0, sizeof m->called);
    CHECK_FAILS(&ctx, code, text, job_run(&ctx, j));
    CHECK_FAILS(&ctx, code, "tfb_chunked_forward: ", job_run(&ctx, j));
    if (j->o.chunk_size <= 0 && strstr(text, "chunk_size") == NULL) {
        CHECK_FAILS(&ctx, code, text, job_size_for(&ctx, j, 1 << 20, &size));
        CHECK_FAILS(&ctx, code,
                    "tfb_chunk_size_for: ", job_size_for(&ctx, j, 1 << 20, &size));
    }
    CHECK(size == -7 && m->called[0] == 0 && !memcmp(before, mem, (size_t)n * 4),
          "\"%s\": something changed", text);
    tfb_ctx_free(&ctx);
}

/* Everything is wrong; each mistake, once it has been reported, is mended. */
static void mistakes_are_found_in_order(void) {
    float x[64], x1[64], y[64];
    mlp m;
    job j;
    memset(&m, 0, sizeof m);
    memset(&j, 0, sizeof j);
    memset(y, 0x3F, sizeof y);
    CHECK(tfb_chunked_forward(NULL, watch, NULL, NULL, 0, NULL, 0, NULL) == TFB_ERR_ARG,
          "no context");
    j.user = &m, j.o.chunk_size = -1, j.o.dim = 2, j.n_out = -1;
    refused(&j, "forward is NULL", TFB_ERR_ARG, y, 64);
    j.forward = mlp_forward;
    refused(&j, "no inputs", TFB_ERR_ARG, y, 64);
    j.n_in = -1;
    refused(&j, "no inputs", TFB_ERR_ARG, y, 64);
    j.n_in = TFB_MAX_CHUNK_TENSORS + 1;
    refused(&j, "n_inputs is 9, at most 8", TFB_ERR_ARG, y, 64);
    j.n_in = 2;
    refused(&j, "chunk_size is -1", TFB_ERR_ARG, y, 64);
    j.o.chunk_size = 3;
    j.in[0] = tfb_view2(x, TFB_F32, 8, 6);
    j.in[1] = tfb_view1(NULL, TFB_F32, 5);
    refused(&j, "inputs[1].data is NULL", TFB_ERR_ARG, y, 64);
    j.in[1].data = x1;
    refused(&j, "dim is 2, inputs[0].ndim is 2", TFB_ERR_ARG, y, 64);
    j.o.dim = -3;
    refused(&j, "dim is -3, inputs[0].ndim is 2", TFB_ERR_ARG, y, 64);
    j.o.dim = -2;
    refused(&j, "inputs[1].ndim is 1, inputs[0] has 2", TFB_ERR_SHAPE, y, 64);
    j.in[1] = tfb_view2(x1, TFB_F32, 7, 2);
    refused(&j, "inputs[1].shape[0] is 7, needs 8", TFB_ERR_SHAPE, y, 64);
    j.o.chunk_size = 0; /* lengths must agree for a single call too */
    refused(&j, "inputs[1].shape[0] is 7, needs 8", TFB_ERR_SHAPE, y, 64);
    j.in[1].shape[0] = 8, j.o.chunk_size = 3;
    refused(&j, "inputs[0].shape[0] is 8, no multiple of chunk_size 3", TFB_ERR_SHAPE, y,
            64);
    j.o.chunk_size = 9;
    refused(&j, "is 8, no multiple of chunk_size 9", TFB_ERR_SHAPE, y, 64);
    j.o.chunk_size = 4;
    refused(&j, "n_outputs is -1, must be 0 to 8", TFB_ERR_ARG, y, 64);
    j.n_out = TFB_MAX_CHUNK_TENSORS + 1;
    refused(&j, "n_outputs is 9, must be 0 to 8", TFB_ERR_ARG, y, 64);
    j.n_out = 2;
    j.out[0] = tfb_view1(y, TFB_F32, 1), j.out[0].ndim = 0;
    refused(&j, "outputs[0].ndim is 0, needs 1 to 6", TFB_ERR_SHAPE, y, 64);
    j.out[0] = with_stride(tfb_view2(y, TFB_F32, 7, 2), 0, 0);
    refused(&j, "outputs[0].stride[0] is 0", TFB_ERR_SHAPE, y, 64);
    j.out[0] = tfb_view2(x1 + 14, TFB_F32, 7, 2);
    refused(&j, "outputs[0] overlaps inputs[1]", TFB_ERR_ALIAS, y, 64);
    j.out[0] = tfb_view2(y, TFB_F32, 7, 2);
    j.out[1] = tfb_view1(y + 13, TFB_F32, 8);
    refused(&j, "outputs[1] overlaps outputs[0]", TFB_ERR_ALIAS, y, 64);
    j.out[1] = j.out[0]; /* nor are they the same */
    refused(&j, "outputs[1] overlaps outputs[0]", TFB_ERR_ALIAS, y, 64);
    j.out[1] = tfb_view1(y + 14, TFB_F32, 8);
    refused(&j, "outputs[0].shape[0] is 7: no whole share for 4 of 8", TFB_ERR_SHAPE, y,
            64);
    j.out[0] = tfb_view2(y + 40, TFB_F32, 8, 2);
    j.out[1].shape[0] = 5;
    refused(&j, "outputs[1].shape[0] is 5: no whole share for 4 of 8", TFB_ERR_SHAPE, y,
            64);
}

/* What any tensor can have wrong, in each of them. */
static tfb_status call_chunks(tfb_ctx *ctx, tfb_tensor **t) {
    tfb_tensor in[2], out[2];
    call_log log;
    memset(&log, 0, sizeof log);
    if (!t[0] || !t[1] || !t[2] || !t[3]) return TFB_OK; /* they come as arrays */
    in[0] = *t[0], in[1] = *t[1], out[0] = *t[2], out[1] = *t[3];
    return tfb_chunked_forward(ctx, watch, &log, in, 2, out, 2, NULL);
}

static void bad_tensors_are_refused(void) {
    static const char *const names[] = {"inputs[0]", "inputs[1]", "outputs[0]",
                                        "outputs[1]"};
    call c;
    int i, k;
    for (i = 0; i < 4; i++)
        for (k = 0; k < 6; k++) {
            static const char *const texts[] = {".ndim is 7",      ".dtype is 99",
                                                ".shape[1] is -1", ".data is NULL",
                                                " is PACKED_F32",  "the size of "};
            static const tfb_status codes[] = {TFB_ERR_SHAPE, TFB_ERR_DTYPE,
                                               TFB_ERR_SHAPE, TFB_ERR_ARG,
                                               TFB_ERR_DTYPE, TFB_ERR_RANGE};
            tfb_tensor bad;
            char text[64];
            int t;
            memset((void *)&c, 0, sizeof c);
            c.n = 4, c.run = call_chunks;
            for (t = 0; t < 4; t++) c.t[t] = tfb_view2(c.mem + 16 * t, TFB_F32, 4, 3);
            bad = c.t[i];
            if (k == 0) bad.ndim = 7;
            if (k == 1) bad.dtype = (tfb_dtype)99;
            if (k == 2) bad.shape[1] = -1;
            if (k == 3) bad.data = NULL;
            if (k == 4) bad.dtype = TFB_PACKED_F32;
            if (k == 5) bad.stride[0] = PTRDIFF_MAX;
            sprintf(text, "%s%s", k < 5 ? names[i] : texts[k],
                    k < 5 ? texts[k] : names[i]);
            call_refused(&c, i, &bad, codes[k], text);
        }
}

/* --- Callbacks that fail. --- */
static void fails(net *n, uint32_t mask, int workers, int order, const char *text) {
    int lowest = 0, c, called = 0;
    tfb_ctx ctx;
    while (!(mask >> lowest & 1)) lowest++;
    t_ctx(&ctx, NULL);
    if (order) reverse_workers(&ctx, &workers);
    else CHECK_OK(&ctx, tfb_ctx_threads(&ctx, workers, 0));
    if (order == 2) ctx.parallel_for = forward_for;
    net_reset(n);
    n->m.fail = mask;
    CHECK_FAILS(&ctx, n->m.status, text, job_run(&ctx, &n->j));
    for (c = 0; c < MOST_CHUNKS; c++) {
        const tfb_idx row = (tfb_idx)c * 2;
        const int failed = (int)(mask >> (c & 31) & 1);
        const float *want = n->m.called[c] && !failed ? n->want : n->y.mem0;
        called += n->m.called[c];
        if (c <= lowest) CHECK(n->m.called[c] == 1, "chunk %d was not called", c);
        if (c > lowest && (workers == 1 || order == 2))
            CHECK(!n->m.called[c], "%d was called", c);
        if (c < 12)
            CHECK_BITS(n->y.mem + row * 5, want + row * 5, 10, "chunk %d of %d", c,
                       called);
    }
    n->m.fail = 0;
    if (n->want) net_check(&ctx, n, "after a failure");
    tfb_ctx_free(&ctx);
}

static void callbacks_fail(void) {
    static const uint32_t masks[] = {1, 1u << 3, 1u << 11, 0x8A4, 0xFFF, 0x600};
    static const tfb_idx dims[4] = {1, 24, 5, 9};
    tfb_ctx ctx;
    net n;
    int i, w, order;
    t_ctx(&ctx, NULL);
    net_new(&n, 2, dims, 0, 0);
    net_want(&ctx, &n);
    n.j.o.chunk_size = 2;
    for (i = 0; i < COUNT(masks); i++)
        for (w = 0; w < COUNT(worker_counts); w++)
            for (order = 0; order < 3; order++) {
                char text[64];
                int lowest = 0;
                while (!(masks[i] >> lowest & 1)) lowest++;
                n.j.o.parallel = worker_counts[w] > 1;
                n.m.status = TFB_ERR_FULL, n.m.why = "it is the %dth";
                sprintf(text, "tfb_chunked_forward: chunk %d: it is the %dth", lowest,
                        lowest);
                fails(&n, masks[i], worker_counts[w], order, text);
                n.m.status = TFB_ERR_CALLBACK, n.m.why = NULL;
                sprintf(text, "chunk %d: a callback returned an error", lowest);
                fails(&n, masks[i], worker_counts[w], order, text);
            }
    n.j.o.parallel = 0;
    n.m.w1.shape[1] = 4; /* the library's own message is handed on */
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "chunk 0: tfb_linear: x.shape[1] is 5, needs 4",
                job_run(&ctx, &n.j));
    n.j.o.parallel = 1, ctx.workers = 2; /* found while measuring */
    net_reset(&n);
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "chunk 0: tfb_linear: x.shape[1] is 5, needs 4",
                job_run(&ctx, &n.j));
    CHECK(n.m.called[0] == 0, "called after all");
    CHECK_BITS(n.y.mem, n.y.mem0, n.y.n, "written");
    net_free(&n);
    tfb_ctx_free(&ctx);
}

/* A message longer than there is room for is cut; one of a call that the callback did
 * without does not stay. */
static tfb_status chatty(tfb_ctx *ctx, void *user, const tfb_chunk *c) {
    (void)c;
    memset(ctx->message, 'a', sizeof ctx->message);
    return *(tfb_status *)user;
}

static void long_messages(void) {
    float x[4];
    tfb_tensor in = tfb_view1(x, TFB_F32, 4);
    tfb_status status = TFB_ERR_FULL;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    CHECK_FAILS(&ctx, TFB_ERR_FULL, "chunk 0: aaa",
                tfb_chunked_forward(&ctx, chatty, &status, &in, 1, NULL, 0, NULL));
    CHECK(strlen(ctx.message) == TFB_MESSAGE_BYTES - 1, "cut elsewhere");
    status = TFB_OK;
    CHECK_OK(&ctx, tfb_chunked_forward(&ctx, chatty, &status, &in, 1, NULL, 0, NULL));
    CHECK(ctx.message[0] == 0, "a message stays");
    tfb_ctx_free(&ctx);
}

/* --- Memory. --- */
static const struct {
    tfb_idx chunk_size;
    int parallel, workers;
} plans[] = {{0, 0, 1},  {2, 0, 1}, {10, 0, 3}, {10, 1, 1},
             {10, 1, 3}, {2, 1, 8}, {46, 1, 3}};

static void plan_of(net *n, int i) {
    n->j.o.chunk_size = plans[i].chunk_size;
    n->j.o.parallel = plans[i].parallel;
    n->j.o.remainder = 1;
}

/* A measuring context sees the first and the last chunk, without data; what it says is
 * what is used: exactly so much succeeds, a byte less fails and writes nothing. */
static void scratch_is_exact(void) {
    const tfb_idx dims[4] = {2, 46, 33, 70};
    int i, less;
    for (i = 0; i < COUNT(plans); i++) {
        int workers = plans[i].workers;
        tfb_ctx like, ctx;
        size_t need;
        double *mem;
        char text[32];
        net n;
        job bare;
        t_ctx(&like, NULL);
        net_new(&n, 3, dims, 1, 0);
        net_want(&like, &n);
        plan_of(&n, i);
        reverse_workers(&like, &workers);
        bare = n.j;
        bare.in[0].data = bare.out[0].data = bare.out[1].data = NULL;
        need = job_measure(&like, &bare);
        CHECK(need > 0 && need == job_measure(&like, &n.j), "plan %d: %ld", i,
              (long)need);
        net_check(&like, &n, "growing");
        CHECK(like.scratch_last == need, "plan %d used %ld, measured %ld", i,
              (long)like.scratch_last, (long)need);
        mem = (double *)malloc(need);
        sprintf(text, "needs %ld", (long)need);
        for (less = 0; mem && less < 2; less++) {
            CHECK_OK(&ctx, tfb_ctx_init_static(&ctx, mem, need - (size_t)less));
            CHECK_OK(&ctx, tfb_isa_force(&ctx, tfb_isa_name(&like)));
            reverse_workers(&ctx, &workers);
            if (!less) {
                net_check(&ctx, &n, "static");
                continue;
            }
            net_reset(&n);
            CHECK_FAILS(&ctx, TFB_ERR_SCRATCH, text, job_run(&ctx, &n.j));
            if (plans[i].parallel)
                CHECK_BITS(n.y.mem, n.y.mem0, n.y.n, "plan %d: written", i);
        }
        free(mem);
        net_free(&n);
        tfb_ctx_free(&like);
    }
}

static void measuring_calls_first_and_last(void) {
    tfb_tensor x = tfb_view2(NULL, TFB_F32, 23, 5), y = tfb_view1(NULL, TFB_F32, 23);
    tfb_chunk_opts o = TFB_INIT;
    call_log log;
    tfb_ctx ctx;
    int i;
    CHECK_OK(&ctx, tfb_ctx_init_measure(&ctx));
    ctx.workers = 4;
    o.chunk_size = 5, o.remainder = 1;
    for (i = 0; i < 2; i++) {
        memset(&log, 0, sizeof log);
        o.parallel = i;
        CHECK_OK(&ctx, tfb_chunked_forward(&ctx, watch, &log, &x, 1, &y, 1, &o));
        CHECK(log.calls == 2 && log.measuring == 2, "%d calls", log.calls);
        CHECK(log.chunk[0].start == 0 && log.chunk[0].length == 5, "the first");
        CHECK(log.chunk[1].index == 4 && log.chunk[1].start == 20 &&
                  log.chunk[1].length == 3 && log.out[1][0].shape[0] == 3,
              "the last");
    }
    memset(&log, 0, sizeof log);
    CHECK_OK(&ctx, tfb_chunked_forward(&ctx, watch, &log, &x, 1, &y, 1, NULL));
    CHECK(log.calls == 1 && log.measuring == 1, "one call: %d", log.calls);
}

static void allocations_fail(void) {
    const tfb_idx dims[4] = {2, 46, 33, 70};
    int i;
    for (i = 0; i < COUNT(plans); i++) {
        int workers = plans[i].workers, again = 1;
        long fail;
        tfb_ctx plain;
        net n;
        t_ctx(&plain, NULL);
        net_new(&n, 3, dims, 1, 0);
        net_want(&plain, &n);
        plan_of(&n, i);
        for (fail = 1; again && fail < 200; fail++) {
            t_heap heap;
            tfb_ctx ctx;
            tfb_status st;
            long calls;
            t_ctx(&ctx, &heap);
            reverse_workers(&ctx, &workers);
            heap.fail_at = fail;
            net_reset(&n);
            st = job_run(&ctx, &n.j);
            again = heap.calls >= fail;
            CHECK(st == TFB_OK || st == TFB_ERR_MEMORY, "status %d", (int)st);
            CHECK(fail > 1 || st == TFB_ERR_MEMORY, "the first failed");
            if (st)
                CHECK(strstr(ctx.message, "not to be had") != NULL, "%s", ctx.message);
            if (st && n.m.called[1] == 0)
                CHECK_BITS(n.y.mem, n.y.mem0, n.y.n, "plan %d: written", i);
            if (!st) CHECK_BITS(n.y.mem, n.want, n.y.n, "plan %d: bits", i);
            net_check(&ctx, &n, "after a failure");
            calls = heap.calls;
            net_check(&ctx, &n, "again");
            CHECK(heap.calls == calls, "plan %d allocates after warm-up", i);
            tfb_ctx_free(&ctx);
            CHECK(heap.live == 0, "%ld blocks leak", heap.live);
        }
        CHECK(fail > 2 && fail < 20, "%ld allocations", fail);
        net_free(&n);
        tfb_ctx_free(&plain);
    }
}

/* --- tfb_scratch. --- */
typedef struct taking {
    tfb_idx n[3];
    tfb_status want;
    const char *text;
    int tensors;
    void *data[3];
} taking;

static tfb_status take_some(tfb_ctx *ctx, void *user, const tfb_chunk *c) {
    taking *s = (taking *)user;
    tfb_tensor t[3], none;
    tfb_idx bad[2] = {3, -1};
    int i;
    memset((void *)&none, 0x55, sizeof none);
    t[0] = none;
    CHECK_FAILS(ctx, TFB_ERR_SHAPE, "tfb_scratch: shape[1] is -1",
                tfb_scratch(ctx, t, TFB_F32, 2, bad));
    CHECK_FAILS(ctx, TFB_ERR_SHAPE, "ndim is 7", tfb_scratch(ctx, t, TFB_F32, 7, bad));
    CHECK_FAILS(ctx, TFB_ERR_SHAPE, "ndim is -1", tfb_scratch(ctx, t, TFB_F32, -1, bad));
    CHECK_FAILS(ctx, TFB_ERR_DTYPE, "dtype is", tfb_scratch(ctx, t, TFB__DTYPES, 1, bad));
    CHECK_FAILS(ctx, TFB_ERR_DTYPE, "dtype is",
                tfb_scratch(ctx, t, TFB_PACKED_F32, 1, bad));
    CHECK_FAILS(ctx, TFB_ERR_ARG, "t is NULL", tfb_scratch(ctx, NULL, TFB_F32, 1, bad));
    CHECK_FAILS(ctx, TFB_ERR_ARG, "shape is NULL", tfb_scratch(ctx, t, TFB_F32, 1, NULL));
    bad[1] = HUGE_EXTENT;
    CHECK_FAILS(ctx, TFB_ERR_RANGE, "overflows", tfb_scratch(ctx, t, TFB_F32, 2, bad));
    CHECK(memcmp(t, &none, sizeof none) == 0, "changed");
    for (i = 0; i < s->tensors; i++) {
        const tfb_status st = tfb_scratch(ctx, t + i, TFB_I32, 1, s->n + i);
        CHECK(st == (i == s->tensors - 1 ? s->want : TFB_OK), "%d: %s", i, ctx->message);
        if (st) return tfb_scratch(ctx, t + i, TFB_U8, 1, &c->length); /* do with less */
        CHECK(t[i].ndim == 1 && t[i].shape[0] == s->n[i] && t[i].stride[0] == 1 &&
                  t[i].dtype == TFB_I32,
              "tensor %d", i);
        CHECK((t[i].data == NULL) == (ctx->measuring || !s->n[i]), "data of %d", i);
        s->data[i] = t[i].data;
        if (t[i].data) memset(t[i].data, i + 1, (size_t)s->n[i] * 4);
    }
    for (i = 0; i < s->tensors && !ctx->measuring; i++)
        if (s->n[i]) CHECK(*(char *)t[i].data == i + 1, "tensors overlap");
    return TFB_OK;
}

static void scratch_of_callbacks(void) {
    float x[6];
    tfb_tensor in = tfb_view1(x, TFB_F32, 6), t;
    tfb_chunk_opts o = TFB_INIT;
    double mem[512 / sizeof(double)];
    taking s = {{10, 0, 33}, TFB_OK, "", 3, {NULL, NULL, NULL}};
    tfb_ctx ctx;
    o.chunk_size = 2;
    t_ctx(&ctx, NULL);
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_scratch: only inside a callback",
                tfb_scratch(&ctx, &t, TFB_F32, 1, s.n));
    CHECK_OK(&ctx, tfb_chunked_forward(&ctx, take_some, &s, &in, 1, NULL, 0, &o));
    CHECK(ctx.scratch_last == 64 + 192, "%ld bytes", (long)ctx.scratch_last);
    CHECK((uintptr_t)s.data[2] % 64 == 0, "alignment");
    tfb_ctx_free(&ctx);
    CHECK_OK(&ctx, tfb_ctx_init_static(&ctx, mem, sizeof mem));
    CHECK_OK(&ctx, tfb_chunked_forward(&ctx, take_some, &s, &in, 1, NULL, 0, &o));
    CHECK(s.data[0] == mem, "the last chunk begins where the first did");
    s.n[2] = 200, s.want = TFB_ERR_SCRATCH;
    CHECK_OK(&ctx, tfb_chunked_forward(&ctx, take_some, &s, &in, 1, NULL, 0, &o));
    s.n[2] = HUGE_EXTENT / 4, s.n[0] = HUGE_EXTENT / 4, s.tensors = 3;
    s.n[1] = 0, s.want = TFB_ERR_RANGE;
    CHECK_OK(&ctx, tfb_ctx_init_measure(&ctx));
    CHECK_OK(&ctx, tfb_chunked_forward(&ctx, take_some, &s, &in, 1, NULL, 0, &o));
}

/* --- Chunks inside of chunks. --- */
typedef struct nested {
    net *n;
    tfb_chunk_opts o;
} nested;

static tfb_status outer_forward(tfb_ctx *ctx, void *user, const tfb_chunk *c) {
    nested *s = (nested *)user;
    return tfb_chunked_forward(ctx, mlp_forward, &s->n->m, c->in, c->inputs, c->out,
                               c->outputs, &s->o);
}

static void chunks_inside_chunks(void) {
    const tfb_idx dims[4] = {6, 20, 17, 40};
    int i;
    for (i = 0; i < 8; i++) {
        tfb_ctx ctx;
        t_heap heap;
        nested s;
        net n;
        long calls;
        t_ctx(&ctx, &heap);
        if (i & 4) CHECK_OK(&ctx, tfb_ctx_threads(&ctx, 3, 0));
        net_new(&n, 3, dims, 1, 0);
        net_want(&ctx, &n);
        memset(&s, 0, sizeof s);
        n.m.uncounted = 1;
        s.n = &n, s.o.chunk_size = 4, s.o.dim = 1, s.o.parallel = i & 1;
        n.j.forward = outer_forward, n.j.user = &s;
        n.j.o.chunk_size = 2, n.j.o.dim = 0, n.j.o.parallel = i >> 1 & 1;
        net_reset(&n);
        CHECK_OK(&ctx, job_run(&ctx, &n.j));
        CHECK_BITS(n.y.mem, n.want, n.y.n, "nested %d", i);
        CHECK_BITS(n.half.mem, n.want_half, n.half.n, "nested %d, pairs", i);
        CHECK(ctx.scratch_last == job_measure(&ctx, &n.j), "nested %d: scratch", i);
        calls = heap.calls;
        CHECK_OK(&ctx, job_run(&ctx, &n.j));
        CHECK(heap.calls == calls, "nested %d allocates after warm-up", i);
        n.m.w1.shape[1] = 3;
        CHECK_FAILS(&ctx, TFB_ERR_SHAPE,
                    "tfb_chunked_forward: chunk 0: tfb_chunked_forward: chunk 0: tfb_lin",
                    job_run(&ctx, &n.j));
        net_free(&n);
        tfb_ctx_free(&ctx);
        CHECK(heap.live == 0, "%ld blocks leak", heap.live);
    }
}

/* --- The inverse query, against all sizes one by one. --- */
static void sizes_for_bytes(void) {
    const tfb_idx dims[4] = {2, 48, 33, 70};
    int i;
    for (i = 0; i < 8; i++) {
        size_t need[49] = {0}, smallest = (size_t)-1;
        tfb_idx c, k, got;
        tfb_ctx ctx;
        net n;
        t_ctx(&ctx, NULL);
        ctx.workers = 1 + i % 3;
        net_new(&n, 3, dims, 1, 0);
        if (i & 4) n.j.n_out = 1; /* odd sizes are legal */
        n.j.o.parallel = i & 1, n.j.o.remainder = i >> 1 & 1;
        for (c = 1; c <= 48; c++) {
            n.j.o.chunk_size = c;
            if ((c % 2 && n.j.n_out == 2) || (!n.j.o.remainder && 48 % c)) continue;
            need[c] = job_measure(&ctx, &n.j);
            if (need[c] < smallest) smallest = need[c];
        }
        for (c = 0; c < 2 && i & 2; c++) n.j.in[c].data = n.j.out[c].data = NULL;
        for (k = 1; k <= 48; k++) {
            tfb_idx want = 48;
            if (!need[k]) continue;
            while (!need[want] || need[want] > need[k]) want--;
            got = -1;
            n.j.o.chunk_size = k % 3 - 1; /* not read */
            CHECK_OK(&ctx, job_size_for(&ctx, &n.j, need[k], &got));
            CHECK(got == want && !ctx.message[0], "%d: got %ld, wanted %ld", i, (long)got,
                  (long)want);
        }
        got = -1;
        CHECK_FAILS(&ctx, TFB_ERR_SCRATCH, "tfb_chunk_size_for: bytes is ",
                    job_size_for(&ctx, &n.j, smallest - 1, &got));
        CHECK(got == -1, "written");
        CHECK_OK(&ctx, job_size_for(&ctx, &n.j, (size_t)-1, &got));
        CHECK(got == 48 && n.m.called[0] == 0, "got %ld", (long)got);
        CHECK_FAILS(&ctx, TFB_ERR_ARG, "chunk_size is NULL",
                    job_size_for(&ctx, &n.j, 1, NULL));
        n.j.in[0].shape[1] = n.j.out[0].shape[1] = n.j.out[1].shape[1] = 0;
        CHECK_OK(&ctx, job_size_for(&ctx, &n.j, 1 << 20, &got));
        CHECK(got == 0, "of nothing: %ld", (long)got);
        net_free(&n);
        tfb_ctx_free(&ctx);
    }
}

/* Sizes the callback refuses are passed over; if there are no others, it says why. */
static tfb_status picky(tfb_ctx *ctx, void *user, const tfb_chunk *c) {
    tfb_tensor t;
    TFB__TRY(tfb_scratch(ctx, &t, TFB_U8, 1, &c->length));
    return c->length < *(tfb_idx *)user ? TFB_OK : TFB_ERR_UNSUPPORTED;
}

static void sizes_that_are_refused(void) {
    tfb_tensor x = tfb_view1(NULL, TFB_F32, 60);
    tfb_chunk_opts o = TFB_INIT;
    tfb_idx limit = 25, got = -1;
    tfb_ctx ctx;
    CHECK_OK(&ctx, tfb_ctx_init_measure(&ctx));
    CHECK_OK(&ctx, tfb_chunk_size_for(&ctx, picky, &limit, &x, 1, NULL, 0, &o, 64, &got));
    CHECK(got == 20 && !ctx.message[0], "got %ld", (long)got);
    o.remainder = 1;
    CHECK_OK(&ctx, tfb_chunk_size_for(&ctx, picky, &limit, &x, 1, NULL, 0, &o, 64, &got));
    CHECK(got == 24, "got %ld", (long)got);
    CHECK_FAILS(&ctx, TFB_ERR_SCRATCH, "bytes is 63, chunks of 1 need 64",
                tfb_chunk_size_for(&ctx, picky, &limit, &x, 1, NULL, 0, &o, 63, &got));
    limit = 0;
    CHECK_FAILS(&ctx, TFB_ERR_UNSUPPORTED, "tfb_chunk_size_for: chunk 0: not available",
                tfb_chunk_size_for(&ctx, picky, &limit, &x, 1, NULL, 0, &o, 64, &got));
    CHECK(got == 24, "written");
}

/* --- A real one: 768-3072-768 over 4096 tokens, 64 at a time, packed weights. --- */
typedef struct bytes_heap {
    size_t live, peak;
} bytes_heap;

static void *count_alloc(void *user, void *ptr, size_t bytes) {
    bytes_heap *h = (bytes_heap *)user;
    char *p = ptr ? (char *)ptr - 64 : NULL;
    size_t had = 0;
    if (p) memcpy(&had, p, sizeof had);
    h->live += bytes - had;
    if (h->live > h->peak) h->peak = h->live;
    if (!bytes) {
        free(p);
        return NULL;
    }
    p = (char *)realloc(p, bytes + 64);
    if (!p) exit(99);
    memcpy(p, &bytes, sizeof bytes);
    return p + 64;
}

static tfb_tensor packed_new(tfb_ctx *ctx, const tfb_tensor *w) {
    const size_t bytes = tfb_pack_bytes(w->shape[0], w->shape[1], TFB_F32);
    tfb_tensor packed;
    CHECK_OK(ctx, tfb_pack(ctx, w, malloc(bytes), bytes, &packed));
    return packed;
}

static void an_mlp_in_little_memory(void) {
    const tfb_idx real[4] = {1, 4096, 768, 3072};
    const size_t activations = 4096u * 3072 * 4; /* between its layers, unchunked */
    size_t whole, pieces;
    tfb_idx small[4] = {1, 192, 24, 96};
    bytes_heap heap = {0, 0};
    tfb_ctx ctx, plain;
    job j;
    net n;
    int fast;
    t_ctx(&plain, NULL);
    t_ctx(&ctx, NULL);
    ctx.alloc = count_alloc, ctx.alloc_user = &heap;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    fast = 0;
#else
    fast = strcmp(tfb_isa_name(&ctx), "scalar") != 0;
#endif
    memset((void *)&n, 0, sizeof n);
    n.m.w1 = with_dtype(tfb_view2(NULL, TFB_F32, 3072, 768), TFB_PACKED_F32);
    n.m.w2 = with_dtype(tfb_view2(NULL, TFB_F32, 768, 3072), TFB_PACKED_F32);
    n.m.b1 = tfb_view1(NULL, TFB_F32, 3072);
    n.m.hidden = 3072;
    memset((void *)&j, 0, sizeof j);
    j.forward = mlp_forward, j.user = &n.m, j.n_in = j.n_out = 1;
    j.in[0] = j.out[0] = tfb_view2(NULL, TFB_F32, 4096, 768);
    whole = job_measure(&ctx, &j);
    j.o.chunk_size = 64;
    pieces = job_measure(&ctx, &j);
    CHECK(whole >= activations && pieces <= activations / 50, "%ld of %ld", (long)pieces,
          (long)whole);

    net_new(&n, 2, fast ? real : small, 0, 0);
    n.j.n_out = 1;
    n.m.w1 = packed_new(&plain, &n.w1.t);
    n.m.w2 = packed_new(&plain, &n.w2.t);
    net_want(&plain, &n);
    n.j.o.chunk_size = 64;
    net_check(&ctx, &n, "64 tokens at a time");
    if (fast) CHECK(ctx.scratch_peak == pieces, "%ld", (long)ctx.scratch_peak);
    CHECK(heap.peak <= activations / 50, "%ld bytes allocated", (long)heap.peak);
    free(n.m.w1.data), free(n.m.w2.data);
    net_free(&n);
    tfb_ctx_free(&plain);
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld bytes leak", (long)heap.live);
}

int main(void) {
    RUN(pieces_are_views);
    RUN(one_call_gets_the_whole);
    RUN(no_outputs_no_data);
    RUN(every_size_has_the_same_bits);
    RUN(workers_do_not_matter);
    RUN(in_place);
    RUN(mistakes_are_found_in_order);
    RUN(bad_tensors_are_refused);
    RUN(callbacks_fail);
    RUN(long_messages);
    RUN(scratch_is_exact);
    RUN(measuring_calls_first_and_last);
    RUN(allocations_fail);
    RUN(scratch_of_callbacks);
    RUN(chunks_inside_chunks);
    RUN(sizes_for_bytes);
    RUN(sizes_that_are_refused);
    RUN(an_mlp_in_little_memory);
    FINISH();
}
