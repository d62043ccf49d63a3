/* ops_table.h - the table of ops.h: how each function is called, and its reference. */
#ifndef OPS_TABLE_H
#define OPS_TABLE_H

#define OP_RUN(name)                                                                     \
    static tfb_status name(tfb_ctx *ctx, const op_call *c, tfb_tensor **t)

/* --- Tensor ops. --- */
OP_RUN(run_copy) {
    (void)c;
    return tfb_copy(ctx, t[0], t[1]);
}

OP_RUN(run_add) {
    (void)c;
    return tfb_add(ctx, t[0], t[1], t[2]);
}

OP_RUN(run_mul) {
    (void)c;
    return tfb_mul(ctx, t[0], t[1], t[2]);
}

OP_RUN(run_map) {
    return tfb_map(ctx, (tfb_fn)c->pick[0], t[0], t[1]);
}

OP_RUN(run_embed) {
    (void)c;
    return tfb_embed(ctx, t[0], t[1], t[2]);
}

OP_RUN(run_argmax) {
    (void)c;
    return tfb_argmax(ctx, t[0], t[1]);
}

OP_RUN(run_uniform) {
    return tfb_uniform(ctx, 7, (uint64_t)c->pick[0], -1.0f, 2.0f, t[0]);
}

static float *op_at(const tfb_tensor *t, tfb_idx i) { /* element i, row-major */
    return (float *)t->data + tfb__offset(t, t->ndim, i);
}

OP_RUN(ref_add) {
    tfb_idx i;
    (void)ctx;
    for (i = 0; i < tfb_numel(t[2]); i++) {
        const float a = *op_at(t[0], i), b = *op_at(t[1], i);
        *op_at(t[2], i) = c->op->run == run_add ? a + b : a * b;
    }
    return TFB_OK;
}

OP_RUN(ref_map) {
    tfb_idx i;
    (void)ctx;
    for (i = 0; i < tfb_numel(t[1]); i++)
        tfb__map_scalar((tfb_fn)c->pick[0], 1, op_at(t[0], i), op_at(t[1], i));
    return TFB_OK;
}

OP_RUN(ref_argmax) {
    const tfb_idx n = t[0]->shape[t[0]->ndim - 1];
    tfb_idx i, k;
    (void)ctx, (void)c;
    for (i = 0; i < tfb_numel(t[1]); i++) {
        tfb_idx best = 0;
        for (k = 1; k < n; k++) {
            const float x = *op_at(t[0], i * n + k), top = *op_at(t[0], i * n + best);
            if (top == top && (x > top || x != x)) best = k; /* a NaN is the largest */
        }
        ((int32_t *)t[1]->data)[tfb__offset(t[1], t[1]->ndim, i)] = (int32_t)best;
    }
    return TFB_OK;
}

/* --- Matmul and linear. --- */
OP_RUN(run_matmul) {
    (void)c;
    return tfb_matmul(ctx, t[0], t[1], t[2]);
}

OP_RUN(ref_matmul) {
    (void)ctx, (void)c;
    if (tfb_numel(t[2])) tfb__matmul_ref(t[0], t[1], t[2]);
    return TFB_OK;
}

static tfb_linear_opts op_linear_opts(const op_call *c, tfb_tensor **t) {
    tfb_linear_opts o;
    memset((void *)&o, 0, sizeof o);
    o.bias = t[2];
    o.residual = t[3];
    o.act = (tfb_fn)c->pick[2];
    o.gate = (tfb_gate)c->pick[1];
    o.alpha = 0.7f;
    o.alpha_set = c->pick[3];
    return o;
}

OP_RUN(run_linear) {
    const tfb_linear_opts o = op_linear_opts(c, t);
    return tfb_linear(ctx, t[0], t[1], &o, t[4]);
}

/* The pack is made beforehand, without the context under test. */
OP_RUN(run_linear_packed) {
    const tfb_linear_opts o = op_linear_opts(c, t);
    const tfb_tensor *w = &c->t[1];
    const size_t bytes =
        w->ndim == 2 ? tfb_pack_bytes(w->shape[0], w->shape[1], w->dtype) : 0;
    char *mem = (char *)op_bytes(bytes < 65536 ? bytes : 0);
    tfb_tensor packed = *w;
    tfb_status status;
    tfb_ctx other;
    tfb_ctx_init_static(&other, NULL, 0);
    other.measuring = ctx->measuring;
    if (bytes < 65536) tfb_pack(&other, w, mem, bytes, &packed);
    status = tfb_linear(ctx, t[0], t[1] ? &packed : NULL, &o, t[4]);
    free(mem);
    return status;
}

/* W as float32, in a block to be freed. */
static float *op_floats_of(const tfb_tensor *w, tfb_tensor *as) {
    float *mem = (float *)op_bytes((size_t)tfb_numel(w) * sizeof *mem);
    tfb_ctx other;
    *as = *w;
    as->data = mem;
    as->dtype = TFB_F32;
    tfb__dense_strides(as);
    tfb_ctx_init_static(&other, NULL, 0);
    CHECK_OK(&other, tfb_copy(&other, w, as));
    return mem;
}

OP_RUN(ref_linear) {
    const tfb_linear_opts o = op_linear_opts(c, t);
    tfb_tensor w;
    float *mem = op_floats_of(t[1], &w);
    (void)ctx;
    if (tfb_numel(t[4])) tfb__linear_ref(t[0], &w, &o, t[4]);
    free(mem);
    return TFB_OK;
}

OP_RUN(run_pack) {
    tfb_tensor packed, opened;
    tfb_status status;
    memset((void *)&packed, 0, sizeof packed);
    opened = packed;
    status = tfb_pack(ctx, t[0], c->mem[1], c->bytes[1], &packed);
    if (status != TFB_OK || ctx->measuring) return status;
    CHECK_OK(ctx, tfb_pack_open(ctx, c->mem[1], c->bytes[1], &opened));
    CHECK(memcmp(&packed, &opened, sizeof packed) == 0, "not what was packed");
    return status;
}

/* --- Norms, softmax, rope. --- */
OP_RUN(run_norm) {
    tfb_norm_opts o;
    memset((void *)&o, 0, sizeof o);
    o.weight = t[1];
    o.bias = t[2];
    o.residual = t[3];
    o.sum = t[4];
    if (c->pick[0] == 0) return tfb_rmsnorm(ctx, t[0], &o, t[5]);
    if (c->pick[0] == 1) return tfb_layernorm(ctx, t[0], &o, t[5]);
    return tfb_l2norm(ctx, t[0], &o, t[5]);
}

/* Row i of x without its gaps. */
static float *op_row(const tfb_tensor *x, tfb_idx i, tfb_idx n) {
    float *to = x ? (float *)op_bytes((size_t)n * sizeof *to) : NULL;
    tfb_idx k;
    for (k = 0; x && k < n; k++) to[k] = *op_at(x, i * n + k);
    return to;
}

static void op_put(const tfb_tensor *x, tfb_idx i, tfb_idx n, const float *from) {
    tfb_idx k;
    for (k = 0; x && k < n; k++) *op_at(x, i * n + k) = from[k];
}

OP_RUN(ref_norm) {
    const int which[] = {TFB__RMSNORM, TFB__LAYERNORM, TFB__L2NORM};
    const tfb_idx n = t[0]->shape[t[0]->ndim - 1], rows = tfb_numel(t[0]) / n;
    const float eps = c->pick[0] == 2 ? 1e-12f : 1e-5f;
    float *w = op_row(t[1], 0, n), *b = op_row(t[2], 0, n);
    tfb_idx i;
    (void)ctx;
    for (i = 0; i < rows; i++) {
        float *x = op_row(t[0], i, n), *r = op_row(t[3], i, n), *sum = op_row(t[0], i, n);
        float *y = op_row(t[0], i, n);
        tfb__norm_ref(n, x, r, w, b, eps, which[c->pick[0]], sum, y);
        op_put(t[4], i, n, sum);
        op_put(t[5], i, n, y);
        free(x), free(r), free(sum), free(y);
    }
    free(w), free(b);
    return TFB_OK;
}

OP_RUN(run_softmax) {
    (void)c;
    return tfb_softmax(ctx, t[0], t[1], t[2]);
}

OP_RUN(ref_softmax) {
    const tfb_idx n = t[0]->shape[t[0]->ndim - 1];
    const tfb_idx rows = n ? tfb_numel(t[0]) / n : t[2] ? tfb_numel(t[2]) : 0;
    tfb_idx i;
    (void)ctx, (void)c;
    for (i = 0; i < rows; i++) {
        float *x = op_row(t[0], i, n), *y = op_row(t[0], i, n);
        const float lse = tfb__softmax_ref(n, x, y);
        op_put(t[1], i, n, y);
        if (t[2]) *op_at(t[2], i) = lse;
        free(x), free(y);
    }
    return TFB_OK;
}

/* Numbers that options may have: small ones, then some that are hardly meant. */
static tfb_idx op_wild(int pick) {
    static const tfb_idx wild[] = {
        0, 1, 2, 3, 4, 5, 7, 64, -1, -2, -64, 100, 1024, 4096, PTRDIFF_MAX, PTRDIFF_MIN};
    return wild[pick % 16];
}

static tfb_rope_opts op_rope_opts(const op_call *c, const tfb_tensor *positions) {
    static const double bases[] = {0, 500000, 1, 1e30, -3, 0.5};
    tfb_rope_opts o;
    memset((void *)&o, 0, sizeof o);
    o.positions = positions;
    o.interleaved = c->pick[0] & 1;
    o.inverse = c->pick[0] >> 1 & 1;
    o.compat = c->pick[0] >> 2 & 1;
    o.base = bases[c->pick[1] % 6];
    o.start = op_wild(c->pick[2]);
    o.scaling = (tfb_rope_scaling)c->pick[3];
    o.factor = c->pick[3] ? 4 : 0;
    o.trained_length = 64;
    o.dims = c->pick[4] ? 2 * (c->pick[4] - 1) : 0;
    return o;
}

OP_RUN(run_rope) {
    tfb_rope_opts o = op_rope_opts(c, t[1]);
    if (c->pick[5]) { /* two axes */
        o.axes = 2;
        o.grid[0] = op_wild(c->pick[5]);
        o.grid[1] = 3;
    }
    o.freqs = t[2];
    return tfb_rope(ctx, t[0], &o, t[3]);
}

OP_RUN(ref_rope) {
    tfb_rope_opts o = op_rope_opts(c, t[1]);
    const tfb_tensor *x = t[0];
    const tfb_idx H = x->shape[1], T = x->shape[2], D = x->shape[3];
    float *hi = (float *)op_bytes((size_t)D * 8), *lo = hi + D;
    tfb_idx i;
    (void)ctx;
    if (c->pick[5] || t[2] || o.scaling) { /* the plan is what test_norms.c looks at */
        free(hi);
        return TFB_ERR_UNSUPPORTED;
    }
    tfb__rope_frequencies((o.dims ? o.dims : D) / 2, o.base, o.compat, hi, lo);
    for (i = 0; D && i < tfb_numel(x) / D; i++) {
        const tfb_idx b = i / (H * T), k = i % T;
        const tfb_idx at =
            t[1] ? *(const int32_t *)(const void *)op_at(t[1], b * T + k) : o.start + k;
        float *row = op_row(x, i, D), *y = op_row(x, i, D);
        tfb__rope_ref(D, row, &at, &o, hi, lo, y);
        op_put(t[3], i, D, y);
        free(row), free(y);
    }
    free(hi);
    return TFB_OK;
}

/* --- Attention. --- */
enum {
    OQ,
    OK,
    OV,
    OMASK,
    OBIAS,
    OSTART,
    OLEN,
    OALIBI,
    OSINKS,
    OOFFSETS,
    OCU,
    OPAGES,
    OQW,
    OPOS,
    OLSE,
    OY
};

static tfb_attention_opts op_attention_opts(const op_call *c, tfb_tensor **t,
                                            tfb_qk_opts *qk, tfb_rope_opts *rope) {
    tfb_attention_opts o;
    memset((void *)&o, 0, sizeof o);
    memset((void *)qk, 0, sizeof *qk);
    memset((void *)rope, 0, sizeof *rope);
    o.lse = t[OLSE];
    o.mask = t[OMASK];
    o.bias = t[OBIAS];
    o.kv_start = t[OSTART];
    o.kv_len = t[OLEN];
    o.alibi = t[OALIBI];
    o.sinks = t[OSINKS];
    o.offsets = t[OOFFSETS];
    o.cu_q = o.cu_k = t[OCU];
    o.pages = t[OPAGES];
    o.causal = (tfb_causal)c->pick[1];
    o.offset = op_wild(c->pick[2]);
    o.offset_set = c->pick[2] > 0;
    o.window = c->pick[3] < 16 ? op_wild(c->pick[3]) : 0;
    o.two_sided = c->pick[3] >= 16;
    o.left = op_wild(c->pick[3] + 1);
    o.right = op_wild(c->pick[2]);
    o.chunk_size = op_wild(c->pick[4]);
    o.softcap = c->pick[5] & 1 ? 2.5f : 0.0f;
    o.window_pinned = c->pick[5] & 2 ? op_wild(c->pick[4] + 1) : 0;
    o.key_pos0 = c->pick[5] & 4 ? op_wild(c->pick[3]) : 0;
    qk->q_weight = t[OQW];
    qk->norm = t[OQW] ? TFB_QK_NORM_RMS : (tfb_qk_norm)(c->pick[6] & 3);
    qk->norm_last = c->pick[6] >> 2 & 1;
    qk->rope = c->pick[6] & 8 ? rope : NULL;
    qk->keys_ready = c->pick[6] >> 4 & 1;
    rope->positions = t[OPOS];
    rope->interleaved = c->pick[6] >> 2 & 1;
    if (c->pick[6]) o.qk = qk;
    return o;
}

OP_RUN(run_attention) {
    tfb_qk_opts qk;
    tfb_rope_opts rope;
    const tfb_attention_opts o = op_attention_opts(c, t, &qk, &rope);
    return tfb_attention(ctx, t[OQ], t[OK], t[OV], &o, t[OY]);
}

OP_RUN(ref_attention) {
    tfb_qk_opts qk;
    tfb_rope_opts rope;
    const tfb_attention_opts o = op_attention_opts(c, t, &qk, &rope);
    const tfb_tensor *y = t[OY];
    const tfb_idx H = y->shape[1], T = y->shape[2], D = t[OQ]->shape[3];
    const tfb_idx Dv = y->shape[3];
    float *work = (float *)op_bytes(sizeof(float) * (size_t)(7 * D + 4 * Dv));
    float *row = work + 3 * (D + Dv), *vectors = row + Dv;
    tfb_ctx other;
    tfb__attn a;
    tfb_idx i;
    (void)ctx;
    tfb_ctx_init_static(&other, NULL, 0);
    tfb__attention_new(&a, &o);
    if (!t[OCU] && (tfb_numel(y) || t[OLSE])) { /* else data was not looked at */
        CHECK_OK(&other, tfb__attention_resolve(&other, "ref", t[OQ], t[OK], t[OV], &a));
        a.qk.rope.hi = vectors + 2 * D;
        a.qk.rope.lo = vectors + 3 * D;
        if (o.qk) tfb__attention_vectors(&a, vectors);
        for (i = 0; i < y->shape[0] * H * T; i++) {
            const float lse =
                tfb__attention_ref(&a, i / (H * T), i / T % H, i % T, work, row);
            op_put(y, i, Dv, row);
            if (t[OLSE]) *op_at(t[OLSE], i) = lse;
        }
    }
    free(work);
    return t[OCU] ? TFB_ERR_UNSUPPORTED : TFB_OK;
}

OP_RUN(run_weights) {
    tfb_tensor *as[OP_TENSORS];
    tfb_qk_opts qk;
    tfb_rope_opts rope;
    tfb_attention_opts o;
    memset((void *)as, 0, sizeof as);
    as[OMASK] = t[2];
    as[OBIAS] = t[3];
    as[OSINKS] = t[4];
    as[OLEN] = t[5];
    o = op_attention_opts(c, as, &qk, &rope);
    return tfb_attention_weights(ctx, t[0], t[1], &o, t[6], t[7]);
}

OP_RUN(run_merge_states) {
    (void)c;
    return tfb_merge_states(ctx, t[0], t[1], t[2], t[3]);
}

OP_RUN(run_merge_state) {
    (void)c;
    return tfb_merge_state(ctx, t[0], t[1], t[2], t[3], t[4], t[5]);
}

/* --- Convolution and scans. --- */
OP_RUN(run_conv) {
    tfb_conv1d_opts o;
    memset((void *)&o, 0, sizeof o);
    o.bias = t[2];
    o.state = t[3];
    o.act = (tfb_fn)c->pick[0];
    return tfb_causal_conv1d(ctx, t[0], t[1], &o, t[4]);
}

OP_RUN(ref_conv) {
    tfb_conv1d_opts o;
    memset((void *)&o, 0, sizeof o);
    o.bias = t[2];
    o.state = t[3];
    o.act = (tfb_fn)c->pick[0];
    (void)ctx;
    if (t[0]->shape[1] && o.state && o.state->shape[1] > t[0]->shape[1])
        return TFB_ERR_UNSUPPORTED; /* it would read what it has just written */
    tfb__causal_conv1d_ref(t[0], t[1], &o, t[4]);
    return TFB_OK;
}

static tfb_scan_opts op_scan_opts(const op_call *c, tfb_tensor **t) {
    tfb_scan_opts o;
    memset((void *)&o, 0, sizeof o);
    o.d = t[5];
    o.z = t[6];
    o.dt_bias = t[7];
    o.state = t[8];
    o.softplus = c->pick[0];
    return o;
}

OP_RUN(run_scan) {
    const tfb_scan_opts o = op_scan_opts(c, t);
    return tfb_selective_scan(ctx, t[0], t[1], t[2], t[3], t[4], &o, t[9]);
}

OP_RUN(run_ssd) {
    const tfb_scan_opts o = op_scan_opts(c, t);
    return tfb_ssd(ctx, t[0], t[1], t[2], t[3], t[4], &o, t[9]);
}

OP_RUN(ref_scan) {
    const int ssd = c->op->run == run_ssd;
    tfb_scan_opts o = op_scan_opts(c, t);
    const tfb_idx *x = t[0]->shape, N = t[3]->shape[3];
    tfb_tensor zeros = tfb_view3(NULL, TFB_F32, x[0], x[2], N);
    if (ssd) zeros = tfb_view4(NULL, TFB_F32, x[0], x[2], x[3], N);
    (void)ctx;
    zeros.data = op_bytes((size_t)tfb_numel(&zeros) * sizeof(float));
    memset(zeros.data, 0, (size_t)tfb_numel(&zeros) * sizeof(float));
    if (!o.state) o.state = &zeros;
    if (tfb_numel(t[9]))
        (ssd ? tfb__ssd_ref : tfb__selective_scan_ref)(t[0], t[1], t[2], t[3], t[4], &o,
                                                       t[9]);
    free(zeros.data);
    return TFB_OK;
}

/* --- Chunked forward: a softmax, through a tensor in between. --- */
static tfb_status op_chunk(tfb_ctx *ctx, void *user, const tfb_chunk *chunk) {
    tfb_tensor t;
    (void)user;
    if (chunk->in[0].ndim < 1) return TFB_ERR_ARG;
    TFB__TRY(tfb_scratch(ctx, &t, TFB_F32, chunk->in[0].ndim, chunk->in[0].shape));
    TFB__TRY(tfb_map(ctx, TFB_FN_EXP, &chunk->in[0], &t));
    TFB__TRY(tfb_map(ctx, TFB_FN_TANH, &t, &t));
    return tfb_copy(ctx, &t, &chunk->out[0]);
}

OP_RUN(run_chunked) {
    tfb_chunk_opts o;
    memset((void *)&o, 0, sizeof o);
    o.chunk_size = op_wild(c->pick[0]);
    o.dim = (int)op_wild(c->pick[1]);
    o.remainder = c->pick[2] & 1;
    o.parallel = c->pick[2] >> 1;
    return tfb_chunked_forward(ctx, op_chunk, NULL, t[0], 1, t[1], 1, &o);
}

OP_RUN(ref_chunked) {
    tfb_idx i;
    (void)ctx, (void)c;
    for (i = 0; i < tfb_numel(t[1]); i++) {
        float *y = op_at(t[1], i);
        tfb__map_scalar(TFB_FN_EXP, 1, op_at(t[0], i), y);
        tfb__map_scalar(TFB_FN_TANH, 1, y, y);
    }
    return TFB_OK;
}

/* --- The QKV block, its weights made without the context under test. --- */
typedef struct op_block {
    tfb_mhsa mhsa;
    tfb_mamba mamba;
    tfb_qkv qkv;
    void *mem, *core;
} op_block; /* not to be moved: blocks point to their mixers */

static const tfb_qkv *op_block_mamba(tfb_ctx *other, op_block *b, const op_call *c,
                                     tfb_idx channels) {
    tfb_mamba_opts m;
    tfb_qkv_opts q;
    memset((void *)&m, 0, sizeof m);
    memset((void *)&q, 0, sizeof q);
    m.channels = q.channels = channels;
    m.states = 3;
    m.taps = 2;
    m.bidirectional = c->pick[0] == 3;
    b->core = op_bytes(tfb_mamba_bytes(&m));
    CHECK_OK(other, tfb_mamba_init(other, &b->mamba, &m, b->core, tfb_mamba_bytes(&m)));
    q.mixer = tfb_mamba_as_mixer(&b->mamba);
    q.bias = c->pick[1];
    b->mem = op_bytes(tfb_qkv_bytes(&q));
    CHECK_OK(other, tfb_qkv_init(other, &b->qkv, &q, b->mem, tfb_qkv_bytes(&q)));
    return &b->qkv;
}

static const tfb_qkv *op_block_make(op_block *b, const op_call *c) {
    const tfb_idx channels = 2 * (c->dim[(int)'C'] % 8) + 2;
    tfb_mhsa_opts o;
    tfb_rope_opts rope;
    tfb_ctx other;
    memset((void *)b, 0, sizeof *b);
    memset((void *)&o, 0, sizeof o);
    memset((void *)&rope, 0, sizeof rope);
    tfb_ctx_init_static(&other, NULL, 0);
    if (c->pick[0] >= 2) return op_block_mamba(&other, b, c, channels);
    o.channels = channels;
    o.heads = 1 + (c->dim[(int)'C'] & 1 && channels % 4 == 0);
    o.bias = c->pick[1];
    o.causal = c->pick[0] ? TFB_CAUSAL_BOTTOM_RIGHT : TFB_CAUSAL_NONE;
    o.window = c->pick[0] ? c->pick[2] : 0;
    o.norm = (tfb_qk_norm)(c->pick[2] % 3);
    o.rope = c->pick[2] == 1 && channels / o.heads % 2 == 0 ? &rope : NULL;
    b->mem = op_bytes(tfb_mhsa_bytes(&o));
    CHECK_OK(&other, tfb_mhsa_init(&other, &b->mhsa, &o, b->mem, tfb_mhsa_bytes(&o)));
    return &b->mhsa.block;
}

static void op_block_free(op_block *b) {
    free(b->mem);
    free(b->core);
}

OP_RUN(run_qkv) {
    op_block b;
    const tfb_qkv *block = op_block_make(&b, c);
    tfb_qkv_call call;
    tfb_status status;
    memset((void *)&call, 0, sizeof call);
    call.residual = t[1];
    status = tfb_qkv_forward(ctx, block, t[0], &call, t[2]);
    op_block_free(&b);
    return status;
}

/* clang-format off */
static const op ops[] = {
    {"tfb_copy", "x:ABC/a y=ABC/a", {5, 5}, {5, 3}, run_copy, NULL},
    {"tfb_add", "a:ABC b:ABC y=ABC", {0}, {0}, run_add, ref_add},
    {"tfb_mul", "a:ABC b:ABC y=ABC", {0}, {0}, run_mul, ref_add},
    {"tfb_map", "x:ABC y=ABC", {16}, {15}, run_map, ref_map},
    {"tfb_embed", "table:VC/f ids:AB/iV y=ABC", {3}, {0}, run_embed, NULL},
    {"tfb_argmax", "x:ABc y=AB/i", {0}, {0}, run_argmax, ref_argmax},
    {"tfb_uniform", "y=ABC", {9}, {0}, run_uniform, NULL},

    {"tfb_matmul", "a:AMK b:AKN y=AMN", {0}, {0}, run_matmul, ref_matmul},
    {"tfb_linear", "x:AMK w:wK/f ?bias:w ?residual:AMN y=AMN", {3, 3, 16, 2},
     {3, 3, 8, 2}, run_linear, ref_linear},
    {"tfb_linear packed", "x:AMK w:wK/f ?bias:w ?residual:AMN y=AMN", {3, 3, 16, 2},
     {3, 3, 8, 2}, run_linear_packed, ref_linear},
    {"tfb_pack", "w:NK/f mem=p/u", {3}, {0}, run_pack, NULL},

    {"tfb_norm", "x:ABc ?weight:c ?bias:c ?residual:ABc ?sum=ABc y=ABc", {3}, {0},
     run_norm, ref_norm},
    {"tfb_softmax", "x:ABC y=ABC ?lse=AB", {0}, {0}, run_softmax, ref_softmax},
    {"tfb_rope", "x:BHTd ?positions:BT/i9 !freqs:D y=BHTd", {8, 6, 16, 5, 8, 16},
     {8, 2, 8, 5, 1, 1}, run_rope, ref_rope},

    {"tfb_attention", "q:BqTe k:BgSe/f v:BgSE/f ?mask:BqTS/u ?bias:BqTS !kv_start:B/i2 "
     "?kv_len:B/IS ?alibi:q ?sinks:q ?offsets:B/i9 !cu:m/IT !pages:Bn/is !q_weight:e "
     "!positions:BT/i9 ?lse=BqT y=BqTE", {3, 3, 16, 32, 16, 8, 32}, {3, 3, 4, 1, 8, 2, 3},
     run_attention, ref_attention},
    {"tfb_attention paged", "q:BqTe k:sg3e/f v:sg3E/f ?mask:BqTS/u ?bias:BqTS "
     "!kv_start:B/i2 kv_len:B/IS ?alibi:q ?sinks:q ?offsets:B/i9 !cu:m/IT pages:Bn/is "
     "!q_weight:e !positions:BT/i9 ?lse=BqT y=BqTE", {3, 3, 16, 32, 16, 8, 32},
     {3, 3, 4, 1, 8, 2, 3}, run_attention, ref_attention},
    {"tfb_attention packed", "q:1qTe k:1gTe/f v:1gTE/f !mask:1qTT/u !bias:1qTT "
     "!kv_start:1/i2 !kv_len:1/IS ?alibi:q ?sinks:q ?offsets:2/i9 cu:m/IT !pages:1n/is "
     "!q_weight:e !positions:1T/i9 ?lse=1qT y=1qTE", {3, 3, 16, 32, 16, 8, 32},
     {3, 3, 4, 1, 8, 2, 3}, run_attention, ref_attention},
    {"tfb_attention_weights", "q:BqTe k:BgSe/f ?mask:BqTS/u ?bias:BqTS ?sinks:q "
     "?kv_len:B/IS rows:R/iT w=BqRS", {3, 3, 16, 32, 16, 8, 32}, {3, 3, 4, 1, 8, 2, 3},
     run_weights, NULL},
    {"tfb_merge_states", "ys:NBHTE lses:NBHT y=BHTE ?lse=BHT", {0}, {0},
     run_merge_states, NULL},
    {"tfb_merge_state", "y1:BHTE lse1:BHT y2:BHTE lse2:BHT y=BHTE ?lse=BHT", {0}, {0},
     run_merge_state, NULL},

    {"tfb_chunked_forward", "x:ABC y=ABC", {16, 16, 4}, {4, 3, 4}, run_chunked,
     ref_chunked},

    {"tfb_causal_conv1d", "x:BTE w:Ej ?bias:E ?state~BKE y=BTE", {16}, {8}, run_conv,
     ref_conv},
    {"tfb_selective_scan", "x:BTq dt:BTq a:qN b:BTgN c:BTgN ?d:q ?z:BTq ?dt_bias:q "
     "?state~BqN y=BTq", {2}, {0}, run_scan, ref_scan},
    {"tfb_ssd", "x:BTqP dt:BTq a:q b:BTgN c:BTgN ?d:q ?z:BTqP ?dt_bias:q ?state~BqPN "
     "y=BTqP", {2}, {0}, run_ssd, ref_scan},

    {"tfb_qkv_forward", "x:BTv ?residual:BTv y=BTv", {4, 2, 3}, {0}, run_qkv, NULL},
};
/* clang-format on */
enum { OPS = (int)(sizeof ops / sizeof *ops) };
#endif
