/* tfb_uniform, parameters, and the QKV block with attention or Mamba inside: against
 * plain compositions of public calls, by bits, and against float64. */
#include "../test.h"
#include "mixers.h"
#include "longs.h"
#include <math.h>

/* --- x and y [B, .., C] of some grid. --- */
typedef struct grid {
    int axes;
    tfb_idx B, n[3];
} grid;
static const grid grids[] = {{1, 1, {1}},       {1, 2, {7}},       {1, 1, {71}},
                             {2, 2, {5, 3}},    {3, 1, {3, 4, 5}}, {2, 3, {1, 13}},
                             {3, 2, {1, 1, 1}}, {2, 1, {11, 1}},   {3, 1, {2, 1, 6}}};
static const grid empties[] = {{1, 0, {4}},      {1, 2, {0}},       {2, 2, {0, 3}},
                               {2, 2, {3, 0}},   {3, 1, {3, 0, 5}}, {3, 1, {0, 4, 5}},
                               {3, 1, {3, 4, 0}}};

static tfb_tensor grid_view(const float *mem, const grid *g, tfb_idx C) {
    tfb_tensor t = tfb_view1(mem, TFB_F32, g->B);
    tfb_idx step = C;
    int i;
    t.ndim = g->axes + 2;
    t.shape[t.ndim - 1] = C;
    t.stride[t.ndim - 1] = 1;
    for (i = g->axes; i > 0; i--) {
        t.shape[i] = g->n[i - 1];
        t.stride[i] = step;
        step *= t.shape[i];
    }
    t.stride[0] = step;
    return t;
}

static tfb_idx grid_tokens(const grid *g) {
    tfb_idx T = 1;
    int i;
    for (i = 0; i < g->axes; i++) T *= g->n[i];
    return T;
}

/* Rope has equal parts; the long convolutions of rigs have one axis. */
static int fits(const kind *k, const grid *g) {
    if (k->longs) return g->axes == 1;
    return !k->rotate || k->C / k->H / 2 % g->axes == 0;
}

/* --- The same by plain compositions. --- */
static float *projected(tfb_ctx *ctx, const tfb_tensor *x, tfb_idx rows, tfb_idx K,
                        const tfb_tensor *w, const tfb_tensor *b) { /* dense [rows, N] */
    float *mem = t_floats(rows * w->shape[0]);
    tfb_tensor in = tfb_view2(x->data, TFB_F32, rows, K), out;
    tfb_linear_opts o;
    memset((void *)&o, 0, sizeof o);
    if (b && b->ndim) o.bias = b;
    out = tfb_view2(mem, TFB_F32, rows, w->shape[0]);
    CHECK_OK(ctx, tfb_linear(ctx, &in, w, &o, &out));
    return mem;
}

/* Heads of columns from .. as a dense [B, n, T, D]. */
static tfb_tensor heads_of(tfb_ctx *ctx, const float *mem, const tfb_idx *shape,
                           tfb_idx width) {
    tfb_tensor from = tfb_view4(mem, TFB_F32, shape[0], shape[1], shape[2], shape[3]);
    tfb_tensor to = from;
    from.stride[0] = shape[2] * width;
    from.stride[1] = shape[3];
    from.stride[2] = width;
    to.data = t_floats(shape[0] * shape[1] * shape[2] * shape[3]);
    CHECK_OK(ctx, tfb_copy(ctx, &from, &to));
    return to;
}

static void norm_and_turn(tfb_ctx *ctx, const rig *r, const grid *g, const float *weight,
                          tfb_tensor *t) {
    tfb_tensor w = tfb_view1(weight, TFB_F32, t->shape[3]);
    tfb_norm_opts n;
    tfb_rope_opts rope = r->att.rope;
    int pass, i;
    memset((void *)&n, 0, sizeof n);
    if (r->att.q_weight.ndim) n.weight = &w;
    if (g->axes > 1) rope.axes = g->axes;
    for (i = 0; i < g->axes && g->axes > 1; i++) rope.grid[i] = g->n[i];
    for (pass = 0; pass < 2; pass++)
        if (pass != r->att.norm_last) {
            if (r->att.rotate) CHECK_OK(ctx, tfb_rope(ctx, t, &rope, t));
        } else if (r->att.norm == TFB_QK_NORM_RMS)
            CHECK_OK(ctx, tfb_rmsnorm(ctx, t, &n, t));
        else if (r->att.norm == TFB_QK_NORM_L2) CHECK_OK(ctx, tfb_l2norm(ctx, t, &n, t));
}

/* From qkv [B, T, C + 2 Ckv] to [B, T, C]. */
static void plain_attention(tfb_ctx *ctx, const rig *r, const grid *g, const float *qkv,
                            float *mixed) {
    const tfb_idx C = r->block.channels, kv = r->block.kv_channels, H = r->att.heads;
    const tfb_idx D = C / H, T = grid_tokens(g), width = C + 2 * kv;
    tfb_idx shape[4];
    tfb_attention_opts o = r->att.opts;
    tfb_tensor t[3], y = tfb_view4(mixed, TFB_F32, g->B, H, T, D);
    int i;
    y.stride[0] = T * C, y.stride[1] = D, y.stride[2] = C;
    shape[0] = g->B, shape[2] = T, shape[3] = D;
    for (i = 0; i < 3; i++) {
        shape[1] = i ? kv / D : H;
        t[i] = heads_of(ctx, qkv + (i ? C : 0) + (i == 2 ? kv : 0), shape, width);
        if (i < 2) norm_and_turn(ctx, r, g, r->weight[i], &t[i]);
    }
    CHECK_OK(ctx, tfb_attention(ctx, &t[0], &t[1], &t[2], &o, &y));
    for (i = 0; i < 3; i++) free(t[i].data);
}

static tfb_tensor columns(const float *mem, tfb_idx B, tfb_idx T, tfb_idx n,
                          tfb_idx width) {
    tfb_tensor t = tfb_view3(mem, TFB_F32, B, T, n);
    t.stride[0] = T * width, t.stride[1] = width;
    return t;
}

/* One direction: dense v [B, T, C] to a new [B, T, C]. */
static float *plain_core(tfb_ctx *ctx, const tfb_mamba *m, const tfb_mamba_core *core,
                         const float *v, tfb_idx B, tfb_idx T) {
    const tfb_idx E = m->inner, N = m->states, R = m->rank, W = R + 2 * N;
    tfb_tensor in = tfb_view2(v, TFB_F32, B * T, m->channels), x, z, b, c, dt, a, low, y;
    float *xz = projected(ctx, &in, B * T, m->channels, &core->w_in, NULL), *part;
    float *conv = t_floats(B * T * E), *a_mem = t_floats(E * N), *out;
    float *low_mem = t_floats(B * T * R), *dt_mem;
    tfb_conv1d_opts co;
    tfb_scan_opts so;
    tfb_idx i;
    memset((void *)&co, 0, sizeof co);
    memset((void *)&so, 0, sizeof so);
    co.bias = &core->conv_b, co.act = TFB_FN_SILU;
    x = columns(xz, B, T, E, 2 * E), z = columns(xz + E, B, T, E, 2 * E);
    y = tfb_view3(conv, TFB_F32, B, T, E);
    CHECK_OK(ctx, tfb_causal_conv1d(ctx, &x, &core->conv_w, &co, &y));
    part = projected(ctx, &y, B * T, E, &core->w_x, NULL);
    b = columns(part, B, T, R, W), low = tfb_view3(low_mem, TFB_F32, B, T, R);
    CHECK_OK(ctx, tfb_copy(ctx, &b, &low));
    dt_mem = projected(ctx, &low, B * T, R, &core->w_dt, NULL);
    dt = tfb_view3(dt_mem, TFB_F32, B, T, E);
    a = tfb_view2(a_mem, TFB_F32, E, N);
    CHECK_OK(ctx, tfb_map(ctx, TFB_FN_EXP, &core->a_log, &a));
    for (i = 0; i < E * N; i++) a_mem[i] = -a_mem[i];
    b = tfb_view4(part + R, TFB_F32, B, T, 1, N);
    b.stride[0] = T * W, b.stride[1] = b.stride[2] = W;
    c = b, c.data = part + R + N;
    so.d = &core->d, so.z = &z, so.dt_bias = &core->b_dt, so.softplus = 1;
    CHECK_OK(ctx, tfb_selective_scan(ctx, &y, &dt, &a, &b, &c, &so, &y));
    out = projected(ctx, &y, B * T, E, &core->w_out, NULL);
    free(xz), free(part), free(conv), free(a_mem), free(low_mem), free(dt_mem);
    return out;
}

static void flip(float *x, tfb_idx B, tfb_idx T, tfb_idx C) { /* tokens, in place */
    tfb_idx b, i, c;
    for (b = 0; b < B; b++)
        for (i = 0; i < T / 2; i++)
            for (c = 0; c < C; c++) {
                float *p = x + (b * T + i) * C + c, *q = x + (b * T + T - 1 - i) * C + c;
                const float swap = *p;
                *p = *q, *q = swap;
            }
}

static void plain_mamba(tfb_ctx *ctx, const rig *r, const grid *g, const float *qkv,
                        float *mixed) {
    const tfb_idx C = r->block.channels, T = grid_tokens(g), n = g->B * T * C;
    tfb_tensor from = columns(qkv + 2 * C, g->B, T, C, 3 * C);
    tfb_tensor v = tfb_view3(t_floats(n), TFB_F32, g->B, T, C);
    float *out, *back;
    tfb_idx i;
    CHECK_OK(ctx, tfb_copy(ctx, &from, &v));
    out = plain_core(ctx, &r->mamba, r->mamba.core, (float *)v.data, g->B, T);
    memcpy(mixed, out, (size_t)n * sizeof *mixed);
    if (r->mamba.bidirectional) {
        flip((float *)v.data, g->B, T, C);
        back = plain_core(ctx, &r->mamba, r->mamba.core + 1, (float *)v.data, g->B, T);
        flip(back, g->B, T, C);
        for (i = 0; i < n; i++) mixed[i] += back[i];
        free(back);
    }
    free(out);
    free(v.data);
}

static void plain_long(tfb_ctx *ctx, const rig *r, const grid *g, const float *qkv,
                       float *mixed) {
    const tfb_idx C = r->block.channels, T = grid_tokens(g);
    tfb_tensor y = tfb_view3(mixed, TFB_F32, g->B, T, C), part[3];
    tfb_mix call;
    int i;
    for (i = 0; i < 3; i++) part[i] = columns(qkv + i * C, g->B, T, C, 3 * C);
    memset((void *)&call, 0, sizeof call);
    call.q = part, call.k = part + 1, call.v = part + 2, call.y = &y;
    if (r->block.mixer.self == &r->hyena) hyena_ref(ctx, &r->hyena, &call);
    else ckconv_ref(ctx, &r->hyena.conv, &call);
}

/* The whole block, to a new dense array. */
static float *plain_block(tfb_ctx *ctx, const rig *r, const grid *g,
                          const tfb_tensor *x) {
    const tfb_idx C = r->block.channels, rows = g->B * grid_tokens(g);
    float *qkv = projected(ctx, x, rows, C, &r->block.wqkv, &r->block.bqkv), *out;
    float *mixed = t_floats(rows * C);
    tfb_tensor m = tfb_view2(mixed, TFB_F32, rows, C);
    if (r->hyena.conv.channels) plain_long(ctx, r, g, qkv, mixed);
    else (r->core ? plain_mamba : plain_attention)(ctx, r, g, qkv, mixed);
    out = projected(ctx, &m, rows, C, &r->block.wout, &r->block.bout);
    free(qkv);
    free(mixed);
    return out;
}

/* --- Forward. --- */
static void forward_is_the_plain_composition(void) {
    const kind *k;
    int i;
    EACH_KIND(k) for (i = 0; i < COUNT(grids); i++) if (fits(k, &grids[i])) {
        const tfb_idx n = grids[i].B * grid_tokens(&grids[i]) * k->C;
        float *x_mem = t_floats(n), *y_mem = t_floats(n), *r_mem = t_floats(n), *want;
        tfb_tensor x = grid_view(x_mem, &grids[i], k->C);
        tfb_tensor y = with_data(x, y_mem), residual = with_data(x, r_mem);
        tfb_qkv_call with;
        tfb_ctx ctx;
        tfb_idx j;
        rig r;
        t_ctx(&ctx, NULL);
        rig_new(&ctx, &r, k);
        want = plain_block(&ctx, &r, &grids[i], &x);
        CHECK_OK(&ctx, tfb_qkv_forward(&ctx, &r.block, &x, NULL, &y));
        CHECK_BITS(y_mem, want, n, "%s, grid %d", k->name, i);
        memset((void *)&with, 0, sizeof with);
        with.residual = &residual;
        for (j = 0; j < n; j++) want[j] += r_mem[j];
        CHECK_OK(&ctx, tfb_qkv_forward(&ctx, &r.block, &x, &with, &y));
        CHECK_BITS(y_mem, want, n, "%s, grid %d, residual", k->name, i);
        CHECK_OK(&ctx, tfb_qkv_forward(&ctx, &r.block, &x, &with, &residual));
        CHECK_BITS(r_mem, want, n, "%s, grid %d, y is the residual", k->name, i);
        rig_free(&r);
        tfb_ctx_free(&ctx);
        free(x_mem), free(y_mem), free(r_mem), free(want);
    }
}

static void nothing_in_nothing_out(void) {
    const kind *k;
    int i;
    EACH_KIND(k) for (i = 0; i < COUNT(empties); i++) {
        tfb_tensor x = grid_view(NULL, &empties[i], k->C), y = x;
        tfb_ctx ctx;
        rig r;
        if (!fits(k, &empties[i])) continue;
        t_ctx(&ctx, NULL);
        rig_new(&ctx, &r, k);
        CHECK_OK(&ctx, tfb_qkv_forward(&ctx, &r.block, &x, NULL, &y));
        rig_free(&r);
        tfb_ctx_free(&ctx);
    }
}

/* y of x [B, T, C] by forward, with these workers and this chunk size. */
static void forward_with(const kind *k, const float *x_mem, float *y_mem, tfb_idx B,
                         tfb_idx T, int workers, tfb_idx chunk) {
    tfb_tensor x = tfb_view3(x_mem, TFB_F32, B, T, k->C), y = with_data(x, y_mem);
    tfb_ctx ctx;
    rig r;
    t_ctx(&ctx, NULL);
    t_seed = 5; /* weights of norms */
    rig_new(&ctx, &r, k);
    r.att.opts.chunk_size = chunk;
    if (workers > 1) CHECK_OK(&ctx, tfb_ctx_threads(&ctx, workers, 0));
    CHECK_OK(&ctx, tfb_qkv_forward(&ctx, &r.block, &x, NULL, &y));
    rig_free(&r);
    tfb_ctx_free(&ctx);
}

static void batch_chunk_and_workers_do_not_matter(void) {
    const tfb_idx chunks[] = {1, 7, 64, 1000}, B = 3, T = 70;
    const kind *k;
    int i;
    EACH_KIND(k) {
        const tfb_idx one = T * k->C, n = B * one;
        float *x = t_floats(n), *y = t_floats(n), *want = t_floats(n);
        forward_with(k, x, want, B, T, 1, 0);
        for (i = 0; i < COUNT(chunks); i++) {
            forward_with(k, x, y, B, T, 1, chunks[i]);
            CHECK_BITS(y, want, n, "%s, chunk %ld", k->name, (long)chunks[i]);
        }
        for (i = 2; i < 4; i++) {
            forward_with(k, x, y, B, T, i, i == 3 ? 7 : 0);
            CHECK_BITS(y, want, n, "%s, %d workers", k->name, i);
        }
        for (i = 0; i < B; i++) {
            forward_with(k, x + i * one, y, 1, T, 1, 0);
            CHECK_BITS(y, want + i * one, one, "%s, sample %d alone", k->name, i);
        }
        if (k - kinds < STEPPED)
            for (i = 1; i < T; i += 23) { /* a late token changes nothing before it */
                float *late = floats_copy(x, one);
                late[i * k->C] += 1;
                forward_with(k, late, y, 1, T, 1, 0);
                CHECK_BITS(y, want, i * k->C, "%s, token %d changed", k->name, i);
                CHECK(memcmp(y, want, (size_t)one * 4) != 0, "%s: no change", k->name);
                free(late);
            }
        free(x), free(y), free(want);
    }
}

/* --- Mamba in float64, plain loops. --- */
static double at(const tfb_tensor *t, tfb_idx i, tfb_idx j) {
    return (double)((const float *)t->data)[i * t->stride[0] + (t->ndim > 1 ? j : 0)];
}

static double silu64(double x) {
    return x / (1 + exp(-x));
}

typedef struct wide { /* float64 rows of one token */
    double xz[2 * 128], x[128], h[128][16], part[128], past[4][128];
} wide;

static void times64(const tfb_tensor *w, const double *x, double *y) {
    tfb_idx i, j;
    for (i = 0; i < w->shape[0]; i++)
        for (y[i] = 0, j = 0; j < w->shape[1]; j++) y[i] += at(w, i, j) * x[j];
}

static void mamba64(const tfb_mamba *m, wide *s, const double *v, double *out) {
    const tfb_mamba_core *core = m->core;
    const tfb_idx E = m->inner, N = m->states, K = m->taps, R = m->rank;
    tfb_idx e, n;
    times64(&core->w_in, v, s->xz);
    for (e = 0; e < E; e++) {
        double sum = at(&core->conv_b, e, 0);
        for (n = 0; n + 1 < K; n++) s->past[n][e] = s->past[n + 1][e];
        s->past[K - 1][e] = s->xz[e];
        for (n = 0; n < K; n++) sum += at(&core->conv_w, e, n) * s->past[n][e];
        s->x[e] = silu64(sum);
    }
    times64(&core->w_x, s->x, s->part);
    for (e = 0; e < E; e++) {
        double dt = at(&core->b_dt, e, 0), y = at(&core->d, e, 0) * s->x[e];
        for (n = 0; n < R; n++) dt += at(&core->w_dt, e, n) * s->part[n];
        dt = dt > 30 ? dt : log1p(exp(dt));
        for (n = 0; n < N; n++) {
            s->h[e][n] = exp(-dt * exp(at(&core->a_log, e, n))) * s->h[e][n] +
                         dt * s->x[e] * s->part[R + n];
            y += s->h[e][n] * s->part[R + N + n];
        }
        s->x[e] = y * silu64(s->xz[E + e]);
    }
    times64(&core->w_out, s->x, out);
}

/* The mixer alone: what it reads is v, and a block around it would only blur the error.
 * Four sums follow one another; 1e-6 of the largest output is 8 ulp of it. */
static void mamba_is_near_float64(void) {
    const tfb_idx T = 200;
    const kind *k;
    EACH_STEPPED(k) if (k->mamba) {
        float *v_mem = t_floats(T * k->C), *y_mem = t_floats(T * k->C);
        tfb_tensor v = tfb_view3(v_mem, TFB_F32, 1, T, k->C), y = with_data(v, y_mem);
        double row[64], out[64], worst = 0, most = 0;
        static wide s;
        tfb_mix mix;
        tfb_ctx ctx;
        tfb_idx t, c;
        rig r;
        t_ctx(&ctx, NULL);
        rig_new(&ctx, &r, k);
        memset((void *)&s, 0, sizeof s);
        memset((void *)&mix, 0, sizeof mix);
        mix.q = mix.k = mix.v = &v;
        mix.y = &y;
        CHECK_OK(&ctx, r.block.mixer.ops->forward(&ctx, r.block.mixer.self, &mix));
        for (t = 0; t < T; t++) {
            for (c = 0; c < k->C; c++) row[c] = (double)v_mem[t * k->C + c];
            mamba64(&r.mamba, &s, row, out);
            for (c = 0; c < k->C; c++) {
                worst = fmax(worst, fabs(out[c] - (double)y_mem[t * k->C + c]));
                most = fmax(most, fabs(out[c]));
            }
        }
        CHECK(worst <= 1e-6 * most, "%s: off by %g of %g", k->name, worst, most);
        rig_free(&r);
        tfb_ctx_free(&ctx);
        free(v_mem), free(y_mem);
    }
}

/* --- Random numbers. --- */
/* All four words, words of the counter and of the key by themselves. */
static void philox(const uint32_t *counter, const uint32_t *key, uint32_t *out) {
    uint32_t x[4], k[2], y[4];
    int i;
    memcpy(x, counter, sizeof x);
    memcpy(k, key, sizeof k);
    for (i = 0; i < 10; i++) {
        const uint64_t p = (uint64_t)0xD2511F53u * x[0], q = (uint64_t)0xCD9E8D57u * x[2];
        if (i) k[0] += 0x9E3779B9u, k[1] += 0xBB67AE85u;
        y[0] = (uint32_t)(q >> 32) ^ x[1] ^ k[0];
        y[1] = (uint32_t)q;
        y[2] = (uint32_t)(p >> 32) ^ x[3] ^ k[1];
        y[3] = (uint32_t)p;
        memcpy(x, y, sizeof x);
    }
    memcpy(out, x, sizeof x);
}

static float unit_of(uint64_t seed, uint64_t counter) {
    uint32_t c[4] = TFB_INIT, k[2], out[4];
    c[0] = (uint32_t)counter, c[1] = (uint32_t)(counter >> 32);
    k[0] = (uint32_t)seed, k[1] = (uint32_t)(seed >> 32);
    philox(c, k, out);
    return (float)(out[0] >> 8) / 16777216.0f;
}

static void uniform_is_philox(void) {
    /* The published vectors of Random123, which pin the plain one down. */
    static const uint32_t vectors[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff,
         0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0,
         0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}};
    static const uint64_t starts[] = {0, 1, 0xFFFFFFFDu, 0x85a308d3243f6a88u,
                                      0xFFFFFFFFFFFFFFFAu};
    float mem[60], want;
    uint32_t out[4];
    tfb_ctx ctx;
    int i, j, n;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 3; i++) {
        philox(vectors[i], vectors[i] + 4, out);
        CHECK(memcmp(out, vectors[i] + 6, sizeof out) == 0, "vector %d", i);
    }
    for (i = 0; i < COUNT(starts); i++)
        for (j = 0; j < COUNT(starts); j++) {
            tfb_tensor y = tfb_view3(mem + 59, TFB_F32, 2, 3, 4); /* back to front */
            y.stride[0] = -3;
            y.stride[1] = -1;
            y.stride[2] = -6;
            for (n = 0; n < 60; n++) mem[n] = 99;
            CHECK_OK(&ctx, tfb_uniform(&ctx, starts[j], starts[i], 0, 1, &y));
            for (n = 0; n < 24; n++) {
                float *at_n = &mem[59 - n / 12 * 3 - n / 4 % 3 - n % 4 * 6];
                want = unit_of(starts[j], starts[i] + (uint64_t)n);
                CHECK(memcmp(at_n, &want, 4) == 0, "%d: %g, wanted %g", n, (double)*at_n,
                      (double)want);
                *at_n = 99;
            }
            for (n = 0; n < 60; n++) CHECK(memcmp(mem + n, mem, 4) == 0, "stray %d", n);
        }
    tfb_ctx_free(&ctx);
}

static void uniform_range_and_misuse(void) {
    float *y_mem = t_floats(4096), *more = t_floats(4096), *before;
    tfb_tensor y = tfb_view1(y_mem, TFB_F32, 4096), z = tfb_view1(more, TFB_F32, 4090);
    tfb_tensor bad = y;
    double sum = 0;
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_uniform(&ctx, 3, 0, -2, 6, &y));
    for (i = 0; i < 4096; i++) {
        CHECK(y_mem[i] >= -2 && y_mem[i] < 6, "%g", (double)y_mem[i]);
        sum += (double)y_mem[i] / 4096;
    }
    CHECK(fabs(sum - 2) < 0.15, "mean %g", sum); /* 4 standard errors of 8 / sqrt(12) */
    CHECK_OK(&ctx, tfb_uniform(&ctx, 3, 6, -2, 6, &z));
    CHECK_BITS(more, y_mem + 6, 4090, "first is an offset");
    CHECK_OK(&ctx, tfb_uniform(&ctx, 3, 6, 5, 5, &z));
    for (i = 0; i < 4090; i++) CHECK(!(more[i] < 5 || more[i] > 5), "lo is hi");
    z.shape[0] = 0, z.data = NULL;
    CHECK_OK(&ctx, tfb_uniform(&ctx, 3, 6, 0, 1, &z));
    before = floats_copy(y_mem, 4096);
    CHECK(tfb_uniform(NULL, 0, 0, 0, 1, &y) == TFB_ERR_ARG, "no context");
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "y is NULL", tfb_uniform(&ctx, 0, 0, 0, 1, NULL));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "no range", tfb_uniform(&ctx, 0, 0, 2, 1, &y));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "no range",
                tfb_uniform(&ctx, 0, 0, -FLT_MAX, FLT_MAX, &y));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "no range",
                tfb_uniform(&ctx, 0, 0, 0, tfb__float_of(0x7FC00000u), &y));
    bad.dtype = TFB_F16;
    CHECK_FAILS(&ctx, TFB_ERR_DTYPE, "y is F16", tfb_uniform(&ctx, 0, 0, 0, 1, &bad));
    bad = y, bad.stride[0] = 0;
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "overlap", tfb_uniform(&ctx, 0, 0, 0, 1, &bad));
    CHECK_BITS(y_mem, before, 4096, "a refused call");
    tfb_ctx_free(&ctx);
    free(y_mem), free(more), free(before);
}

/* --- Parameters. --- */
static void counts_of_parameters(void) {
    static const struct {
        tfb_idx C, H, G;
        int bias;
        int64_t want;
    } cases[] = {{768, 12, 0, 1, 2362368},
                 {768, 12, 0, 0, 2359296},
                 {768, 12, 4, 1, 768 * 1280 + 1280 + 768 * 769},
                 {1, 1, 0, 1, 8}};
    tfb_mamba_opts mo;
    tfb_mamba m;
    tfb_qkv b;
    tfb_ctx ctx;
    void *mem;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < COUNT(cases); i++) {
        tfb_mhsa_opts o;
        tfb_mhsa a;
        memset((void *)&o, 0, sizeof o);
        o.channels = cases[i].C, o.heads = cases[i].H, o.kv_heads = cases[i].G;
        o.bias = cases[i].bias;
        mem = bytes_new(tfb_mhsa_bytes(&o));
        CHECK_OK(&ctx, tfb_mhsa_init(&ctx, &a, &o, mem, tfb_mhsa_bytes(&o)));
        CHECK(tfb_params_count(tfb_qkv_params, &a.block) == cases[i].want, "%d: %ld", i,
              (long)tfb_params_count(tfb_qkv_params, &a.block));
        free(mem);
    }
    memset((void *)&mo, 0, sizeof mo);
    memset((void *)&b, 0, sizeof b);
    mo.channels = 20; /* E 40, N 16, K 4, R 2 */
    for (i = 0; i < 2; i++) {
        mo.bidirectional = i;
        mem = bytes_new(tfb_mamba_bytes(&mo));
        CHECK_OK(&ctx, tfb_mamba_init(&ctx, &m, &mo, mem, tfb_mamba_bytes(&mo)));
        b.mixer = tfb_mamba_as_mixer(&m);
        b.wqkv = b.wout = tfb_view2(NULL, TFB_F32, 0, 20);
        CHECK(tfb_params_count(tfb_qkv_params, &b) ==
                  (i + 1) *
                      (80 * 20 + 40 * 5 + 34 * 40 + 40 * 2 + 40 + 40 * 16 + 40 + 20 * 40),
              "mamba %ld", (long)tfb_params_count(tfb_qkv_params, &b));
        free(mem);
    }
    CHECK(tfb_params_count(NULL, &b) == 0 && tfb_params_count(tfb_qkv_params, NULL) == 0,
          "NULL");
    CHECK(tfb_params_bytes(NULL, &b) == 0 && tfb_params_bytes(tfb_qkv_params, NULL) == 0,
          "NULL");
    tfb_ctx_free(&ctx);
}

/* The default: a uniform stream of the seed over all that is drawn, in order. */
static tfb_status fill_ones(tfb_ctx *ctx, void *user, tfb_tensor *w) {
    ++*(int *)user;
    return *(int *)user < 3 ? tfb_uniform(ctx, 1, 0, 1, 1, w) : TFB_ERR_CALLBACK;
}

/* Heads that do not fit leave no block to describe. */
static void heads_that_do_not_fit(void) {
    static const tfb_idx wrong[][3] = {{768, 0, 0},   {768, -1, 0},  {768, 12, 5},
                                       {768, 12, -4}, {770, 12, 0},  {0, 12, 0},
                                       {-768, 12, 0}, {768, 12, 768}};
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    CHECK(tfb_mhsa_bytes(NULL) == 0, "bytes of nothing");
    for (i = 0; i < COUNT(wrong); i++) {
        tfb_mhsa_opts o;
        tfb_mhsa m;
        memset((void *)&o, 0, sizeof o);
        o.channels = wrong[i][0], o.heads = wrong[i][1], o.kv_heads = wrong[i][2];
        CHECK(tfb_mhsa_bytes(&o) == 0, "%d has bytes", i);
        CHECK_FAILS(&ctx, TFB_ERR_RANGE, "tfb_mhsa_init: channels",
                    tfb_mhsa_init(&ctx, &m, &o, NULL, 0));
    }
    tfb_ctx_free(&ctx);
}

/* Every option of a Mamba mixer just outside its range. */
static void mamba_options_out_of_range(void) {
    const tfb_idx far = ((tfb_idx)1 << 24) + 1;
    tfb_mamba_opts o, good;
    tfb_mamba m;
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    memset((void *)&good, 0, sizeof good);
    good.channels = 4;
    CHECK(tfb_mamba_bytes(NULL) == 0 && tfb_mamba_bytes(&good) > 0, "bytes");
    for (i = 0; i < 10; i++) {
        tfb_idx *const field[] = {&o.channels, &o.expand, &o.states, &o.taps, &o.rank};
        o = good;
        *field[i / 2] = i % 2 ? far : -1;
        CHECK(tfb_mamba_bytes(&o) == 0, "option %d of %d", i / 2, i % 2);
        CHECK_FAILS(&ctx, TFB_ERR_RANGE, "an extent is out of range",
                    tfb_mamba_init(&ctx, &m, &o, NULL, 0));
    }
    tfb_ctx_free(&ctx);
}

static void initialisation(void) {
    tfb_attention_mixer att;
    const float bound = 1 / sqrtf(6.0f);
    float mem[4 * 64 * 2], *p;
    tfb_qkv_opts o;
    tfb_qkv b;
    tfb_ctx ctx;
    int i, calls = 0;
    t_ctx(&ctx, NULL);
    memset((void *)&att, 0, sizeof att);
    memset((void *)&o, 0, sizeof o);
    att.heads = 2;
    o.channels = 6, o.bias = 1, o.seed = 9, o.mixer = tfb_attention_as_mixer(&att);
    CHECK(tfb_qkv_bytes(&o) == 448 + 128 + 192 + 64, "%ld", (long)tfb_qkv_bytes(&o));
    CHECK_OK(&ctx, tfb_qkv_init(&ctx, &b, &o, mem, 832));
    for (i = 0; i < 168; i++) {
        const tfb_tensor *t = i < 108   ? &b.wqkv
                              : i < 126 ? &b.bqkv
                              : i < 162 ? &b.wout
                                        : &b.bout;
        const int from = i < 108 ? 0 : i < 126 ? 108 : i < 162 ? 126 : 162;
        const double want = ((double)unit_of(9, (uint64_t)i) * 2 - 1) * (double)bound;
        p = (float *)t->data + i - from;
        CHECK(fabs((double)*p - want) < 1e-7, "%d: %g, wanted %g", i, (double)*p, want);
    }
    o.init_qkv = o.init_out = fill_ones, o.init_user = &calls;
    CHECK_OK(&ctx, tfb_qkv_init(&ctx, &b, &o, mem, 832));
    CHECK(calls == 2, "%d calls", calls);
    for (i = 0; i < 36; i++) {
        CHECK(((float *)b.wqkv.data)[i] >= 1 && ((float *)b.wout.data)[i] >= 1, "1");
        if (i < 18) CHECK(tfb__bits_of(((float *)b.bqkv.data)[i]) == 0, "bias %d", i);
        if (i < 6) CHECK(tfb__bits_of(((float *)b.bout.data)[i]) == 0, "bias %d", i);
    }
    b.channels = 77;
    CHECK_FAILS(&ctx, TFB_ERR_CALLBACK, "", tfb_qkv_init(&ctx, &b, &o, mem, 832));
    CHECK(b.channels == 77, "a failed call set the block");
    tfb_ctx_free(&ctx);
}

typedef struct copy_of { /* all parameters, one after another */
    float *mem;
    tfb_idx n;
} copy_of;

static tfb_status gather(void *user, const char *name, tfb_tensor *t) {
    copy_of *c = (copy_of *)user;
    (void)name;
    if (c->mem) memcpy(c->mem + c->n, t->data, (size_t)tfb_numel(t) * 4);
    c->n += tfb_numel(t);
    return TFB_OK;
}

static copy_of gathered(tfb_qkv *b) {
    copy_of c = {NULL, 0};
    (void)tfb_qkv_params(b, gather, &c);
    c.mem = (float *)bytes_new((size_t)c.n * 4);
    c.n = 0;
    (void)tfb_qkv_params(b, gather, &c);
    return c;
}

static tfb_status spoil(void *user, const char *name, tfb_tensor *t) {
    tfb_idx i;
    (void)user, (void)name;
    for (i = 0; i < tfb_numel(t); i++) ((float *)t->data)[i] = t_float();
    return TFB_OK;
}

static void saves_come_back(void) {
    const kind *k;
    EACH_KIND(k) {
        copy_of was, is;
        unsigned char *save;
        size_t n;
        tfb_ctx ctx;
        rig r;
        t_ctx(&ctx, NULL);
        rig_new(&ctx, &r, k);
        n = tfb_params_bytes(tfb_qkv_params, &r.block);
        save = (unsigned char *)bytes_new(n);
        was = gathered(&r.block);
        CHECK(was.n == tfb_params_count(tfb_qkv_params, &r.block), "count");
        CHECK_OK(&ctx, tfb_params_save(&ctx, tfb_qkv_params, &r.block, save, n));
        (void)tfb_qkv_params(&r.block, spoil, NULL);
        CHECK_OK(&ctx, tfb_params_load(&ctx, tfb_qkv_params, &r.block, save, n));
        is = gathered(&r.block);
        CHECK(memcmp(is.mem, was.mem, (size_t)was.n * 4) == 0, "%s: load", k->name);
        CHECK_FAILS(&ctx, TFB_ERR_RANGE, "mem_bytes is",
                    tfb_params_save(&ctx, tfb_qkv_params, &r.block, save, n - 1));
        rig_free(&r);
        tfb_ctx_free(&ctx);
        free(was.mem), free(is.mem), free(save);
    }
}

/* A small save: any byte changed, any length less, blocks of other shapes and names. */
static void bad_saves_change_nothing(void) {
    static const kind other[] = {{"", 3, 1, 1, 0, OPEN, NONE, 0, 0, 0, 1, 0, 0},
                                 {"", 2, 1, 1, 0, OPEN, NONE, 0, 0, 0, 0, 0, 0},
                                 {"", 2, 1, 1, 0, OPEN, RMS, 0, 1, 0, 1, 0, 0},
                                 {"", 2, 0, 0, 0, OPEN, NONE, 0, 0, 0, 1, 1, 0}};
    static const kind small = {"", 2, 1, 1, 0, OPEN, NONE, 0, 0, 0, 1, 0, 0};
    unsigned char *save, *cut;
    copy_of was, is;
    size_t n, i;
    tfb_ctx ctx;
    rig r, o;
    t_ctx(&ctx, NULL);
    rig_new(&ctx, &r, &small);
    n = tfb_params_bytes(tfb_qkv_params, &r.block);
    save = (unsigned char *)bytes_new(n);
    CHECK_OK(&ctx, tfb_params_save(&ctx, tfb_qkv_params, &r.block, save, n));
    (void)tfb_qkv_params(&r.block, spoil, NULL);
    was = gathered(&r.block);
    for (i = 0; i < n; i++) {
        save[i] ^= (unsigned char)(1 << i % 8);
        CHECK_FAILS(&ctx, TFB_ERR_FORMAT, "tfb_params_load: ",
                    tfb_params_load(&ctx, tfb_qkv_params, &r.block, save, n));
        save[i] ^= (unsigned char)(1 << i % 8);
        cut = (unsigned char *)memcpy(bytes_new(i), save, i);
        CHECK_FAILS(&ctx, TFB_ERR_FORMAT, "tfb_params_load: ",
                    tfb_params_load(&ctx, tfb_qkv_params, &r.block, cut, i));
        free(cut);
    }
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "params is NULL",
                tfb_params_load(&ctx, NULL, &r.block, save, n));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "module is NULL",
                tfb_params_load(&ctx, tfb_qkv_params, NULL, save, n));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "mem is NULL",
                tfb_params_load(&ctx, tfb_qkv_params, &r.block, NULL, n));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "mem is NULL",
                tfb_params_save(&ctx, tfb_qkv_params, &r.block, NULL, n));
    is = gathered(&r.block);
    CHECK(memcmp(is.mem, was.mem, (size_t)was.n * 4) == 0, "a refused load");
    free(was.mem), free(is.mem);
    for (i = 0; i < 4; i++) {
        rig_new(&ctx, &o, &other[i]);
        was = gathered(&o.block);
        CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "saved",
                    tfb_params_load(&ctx, tfb_qkv_params, &o.block, save, n));
        is = gathered(&o.block);
        CHECK(memcmp(is.mem, was.mem, (size_t)was.n * 4) == 0, "refused by %d", (int)i);
        free(was.mem), free(is.mem);
        rig_free(&o);
    }
    rig_free(&r);
    tfb_ctx_free(&ctx);
    free(save);
}

/* --- Weights from elsewhere. --- */
static void loaders(void) {
    const tfb_idx C = 12, H = 3, D = 4;
    static const kind k = {"", 12, 3, 3, 0, BR, NONE, 0, 0, 0, 1, 0, 0};
    float *w = t_floats(3 * C * C), *o = t_floats(C * C), *b = t_floats(3 * C);
    float *from = t_floats(3 * C * C), *from_o = t_floats(C * C);
    float *from_b = t_floats(3 * C);
    uint16_t half[432];
    tfb_tensor t = tfb_view2(w, TFB_F32, 3 * C, C), s[4];
    tfb_tensor h = tfb_view2(half, TFB_F16, 3 * C, C);
    tfb_qkv_source src;
    tfb_ctx ctx;
    tfb_idx i, j;
    int how;
    rig r;
    t_ctx(&ctx, NULL);
    rig_new(&ctx, &r, &k);
    CHECK_OK(&ctx, tfb_copy(&ctx, &t, &h)); /* numbers that F16 holds */
    CHECK_OK(&ctx, tfb_copy(&ctx, &h, &t));
    for (how = 0; how < 8; how++) { /* in_out, interleaved, F16 */
        memset((void *)&src, 0, sizeof src);
        src.in_out = how & 1;
        src.interleaved_heads = how & 2 ? H : 0;
        for (i = 0; i < 3 * C; i++) { /* row i of w is row `to` of the source */
            const tfb_idx part = i / C, head = i % C / D;
            const tfb_idx to = how & 2 ? (head * 3 + part) * D + i % D : i;
            from_b[to] = b[i];
            for (j = 0; j < C; j++)
                from[how & 1 ? j * 3 * C + to : to * C + j] = w[i * C + j];
        }
        for (i = 0; i < C * C; i++) from_o[how & 1 ? i % C * C + i / C : i] = o[i];
        s[0] = how & 1 ? tfb_view2(from, TFB_F32, C, 3 * C)
                       : tfb_view2(from, TFB_F32, 3 * C, C);
        s[1] = tfb_view1(from_b, TFB_F32, 3 * C);
        s[2] = tfb_view2(from_o, TFB_F32, C, C);
        if (how & 4) {
            h = s[0], h.data = half, h.dtype = TFB_F16;
            CHECK_OK(&ctx, tfb_copy(&ctx, &s[0], &h));
            s[0] = h;
        }
        src.wqkv = &s[0], src.bqkv = &s[1], src.wout = &s[2];
        (void)tfb_qkv_params(&r.block, spoil, NULL);
        CHECK_OK(&ctx, tfb_qkv_load(&ctx, &r.block, &src));
        CHECK_BITS((float *)r.block.wqkv.data, w, 3 * C * C, "wqkv, %d", how);
        CHECK_BITS((float *)r.block.bqkv.data, b, 3 * C, "bqkv, %d", how);
        CHECK_BITS((float *)r.block.wout.data, o, C * C, "wout, %d", how);
        memset((void *)&src, 0, sizeof src); /* a bias by itself */
        s[3] = tfb_view1(b, TFB_F32, C);
        src.bout = &s[3];
        CHECK_OK(&ctx, tfb_qkv_load(&ctx, &r.block, &src));
        CHECK_BITS((float *)r.block.bout.data, b, C, "bout, %d", how);
    }
    rig_free(&r);
    tfb_ctx_free(&ctx);
    free(w), free(o), free(b), free(from), free(from_o), free(from_b);
}

#define REFUSED(status, text, change)                                                    \
    do {                                                                                 \
        memset((void *)&src, 0, sizeof src);                                             \
        w = tfb_view2(mem, TFB_F32, 36, 12), b = tfb_view1(mem, TFB_F32, 36);            \
        o = tfb_view2(mem, TFB_F32, 12, 12);                                             \
        src.wqkv = &w, src.bqkv = &b, src.wout = &o;                                     \
        change;                                                                          \
        CHECK_FAILS(&ctx, status, text, tfb_qkv_load(&ctx, &r.block, &src));             \
    } while (0)

static void refused_loads_change_nothing(void) {
    static const kind k = {"", 12, 3, 3, 0, BR, NONE, 0, 0, 0, 1, 0, 0};
    float *mem = t_floats(432);
    tfb_tensor w, b, o;
    tfb_qkv_source src;
    copy_of was, is;
    tfb_ctx ctx;
    rig r;
    t_ctx(&ctx, NULL);
    rig_new(&ctx, &r, &k);
    was = gathered(&r.block);
    memset((void *)&src, 0, sizeof src);
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "from is NULL", tfb_qkv_load(&ctx, &r.block, NULL));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "block is NULL", tfb_qkv_load(&ctx, NULL, &src));
    REFUSED(TFB_ERR_SHAPE, "5 interleaved heads", src.interleaved_heads = 5);
    REFUSED(TFB_ERR_SHAPE, "-1 interleaved heads", src.interleaved_heads = -1);
    REFUSED(TFB_ERR_SHAPE, "wqkv.shape[0]", src.in_out = 1);
    REFUSED(TFB_ERR_SHAPE, "wqkv.shape[1]", w.shape[1]--);
    REFUSED(TFB_ERR_SHAPE, "wqkv.ndim", w.ndim = 1);
    REFUSED(TFB_ERR_SHAPE, "bqkv.shape[0]", b.shape[0]--);
    REFUSED(TFB_ERR_SHAPE, "wout.shape[0]", o.shape[0]--);
    REFUSED(TFB_ERR_DTYPE, "wout is I32", o.dtype = TFB_I32);
    REFUSED(TFB_ERR_ARG, "wout.data is NULL", o.data = NULL);
    REFUSED(TFB_ERR_ALIAS, "overlaps", o.data = r.block.wout.data);
    is = gathered(&r.block);
    CHECK(memcmp(is.mem, was.mem, (size_t)was.n * 4) == 0, "a refused load");
    r.block.bqkv.ndim = 0;
    REFUSED(TFB_ERR_ARG, "no bqkv", (void)0);
    r.block.wqkv.dtype = TFB_PACKED_F32;
    CHECK_FAILS(&ctx, TFB_ERR_DTYPE, "not saved",
                tfb_params_save(&ctx, tfb_qkv_params, &r.block, mem, 9));
    rig_free(&r);
    tfb_ctx_free(&ctx);
    free(was.mem), free(is.mem), free(mem);
}

/* --- Flops. --- */
static void flops_are_integers(void) {
    static const struct {
        int kind, axes;
        tfb_idx n[3];
        int64_t want;
    } cases[] = {
        {0, 1, {5}, 6 * 5 * 144 + 4 * 25 * 12 + 2 * 5 * 144},
        {0, 2, {0, 7}, 0},
        {1,
         3,
         {2, 3, 4},
         2 * 24 * 48 * 96 + 4 * 576 * 48 + 4 * 24 * 48 + 6 * 24 * 48 + 2 * 24 * 48 * 48},
        /* C 9, E 18, K 4, R 1, N 16 */
        {4,
         1,
         {10},
         8 * 10 * 81 + 4 * 10 * 9 * 18 + 2 * 10 * 18 * 4 + 2 * 10 * 18 * 33 +
             2 * 10 * 18 + 9 * 10 * 18 * 16 + 2 * 10 * 18 + 2 * 10 * 18 * 9},
        /* C 10, E 20, K 4, R 1, N 16, both ways */
        {12,
         2,
         {3, 2},
         8 * 6 * 100 + 6 * 10 +
             2 * (4 * 6 * 10 * 20 + 2 * 6 * 20 * 4 + 2 * 6 * 20 * 33 + 2 * 6 * 20 +
                  9 * 6 * 20 * 16 + 2 * 6 * 20 + 2 * 6 * 20 * 10)}};
    const tfb_idx bad[] = {4, -1, 4}, far[] = {0x7FFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF};
    const tfb_idx many[] = {1 << 30, 1 << 8}; /* T T is more than an int64_t */
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < COUNT(cases); i++) {
        int64_t got;
        tfb_qkv grown;
        rig r;
        rig_new(&ctx, &r, &kinds[cases[i].kind]);
        got = tfb_qkv_flops(&r.block, cases[i].n, cases[i].axes, i & 1);
        CHECK(got == cases[i].want, "%d: %ld, wanted %ld", i, (long)got,
              (long)cases[i].want);
        CHECK(tfb_qkv_flops(NULL, bad, 1, 0) == -1 &&
                  tfb_qkv_flops(&r.block, NULL, 1, 0) == -1 &&
                  tfb_qkv_flops(&r.block, bad, 0, 0) == -1 &&
                  tfb_qkv_flops(&r.block, bad, 4, 0) == -1 &&
                  tfb_qkv_flops(&r.block, bad, 3, 0) == -1 &&
                  tfb_qkv_flops(&r.block, far, 3, 0) == -1,
              "a wrong argument");
        CHECK(r.core || tfb_qkv_flops(&r.block, many, 2, 0) == -1, "too many tokens");
        grown = r.block;
        grown.channels = 1 << 20;
        CHECK(tfb_qkv_flops(&grown, many, 2, 0) == -1, "too many of both");
        r.block.mixer.ops = NULL;
        CHECK(tfb_qkv_flops(&r.block, bad, 1, 0) == -1, "no mixer");
        rig_free(&r);
    }
    tfb_ctx_free(&ctx);
}

int main(void) {
    RUN(forward_is_the_plain_composition);
    RUN(nothing_in_nothing_out);
    RUN(batch_chunk_and_workers_do_not_matter);
    RUN(mamba_is_near_float64);
    RUN(uniform_is_philox);
    RUN(uniform_range_and_misuse);
    RUN(counts_of_parameters);
    RUN(heads_that_do_not_fit);
    RUN(mamba_options_out_of_range);
    RUN(initialisation);
    RUN(saves_come_back);
    RUN(bad_saves_change_nothing);
    RUN(loaders);
    RUN(refused_loads_change_nothing);
    RUN(flops_are_integers);
    FINISH();
}
