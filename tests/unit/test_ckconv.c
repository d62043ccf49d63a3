/* The CKConv mixer: kernels against plain loops by bits and against float64, what is
 * drawn for parameters, costs, kept kernels, the mixer over many shapes, steps. */
#include "../test.h"
#include "mixers.h"
#include "longs.h"
#include <math.h>

#define Z TFB_EDGE_ZERO
#define O TFB_EDGE_CIRCULAR
#define P TFB_EDGE_CAUSAL

/* --- Modules of many kinds. --- */
typedef struct shape {
    int axes;
    tfb_edge edge[3];
    tfb_idx n[3], length[3];
} shape;
static const shape shapes[] = {
    {1, {P, Z, Z}, {7, 1, 1}, {7, 0, 0}},    {1, {P, Z, Z}, {1, 1, 1}, {2, 0, 0}},
    {1, {P, Z, Z}, {127, 1, 1}, {64, 0, 0}}, {1, {Z, Z, Z}, {127, 1, 1}, {128, 0, 0}},
    {1, {Z, Z, Z}, {1, 1, 1}, {9, 0, 0}},    {1, {Z, Z, Z}, {140, 1, 1}, {40, 0, 0}},
    {1, {O, Z, Z}, {8, 1, 1}, {8, 0, 0}},    {1, {O, Z, Z}, {7, 1, 1}, {3, 0, 0}},
    {1, {O, Z, Z}, {1, 1, 1}, {5, 0, 0}},    {2, {Z, Z, Z}, {5, 3, 1}, {5, 3, 0}},
    {2, {Z, O, Z}, {5, 6, 1}, {4, 6, 0}},    {2, {O, O, Z}, {8, 12, 1}, {16, 12, 0}},
    {3, {Z, Z, Z}, {3, 4, 5}, {3, 4, 5}},    {3, {O, Z, O}, {3, 4, 5}, {3, 9, 4}}};

typedef struct style {
    tfb_ckconv_kind kind;
    tfb_ckconv_mask mask;
    tfb_idx C, E, M, layers, cond;
    int gated, no_shortcut;
    float omega;
} style;
static const style styles[] = {
    {TFB_CKCONV_SIREN, TFB_CKCONV_OPEN, 1, 0, 5, 0, 0, 0, 0, 0},
    {TFB_CKCONV_SIREN, TFB_CKCONV_EXPONENTIAL, 17, 3, 4, 3, 0, 0, 0, 7.5f},
    {TFB_CKCONV_FOURIER, TFB_CKCONV_GAUSSIAN, 5, 6, 3, 2, 0, 1, 1, 0},
    {TFB_CKCONV_SIREN, TFB_CKCONV_GAUSSIAN, 4, 0, 6, 2, 3, 0, 0, 2.0f},
    {TFB_CKCONV_FOURIER, TFB_CKCONV_EXPONENTIAL, 66, 2, 2, 1, 5, 1, 0, 0},
    {TFB_CKCONV_FOURIER, TFB_CKCONV_OPEN, 65, 4, 3, 0, 0, 0, 0, 0},
    {TFB_CKCONV_TAPS, TFB_CKCONV_OPEN, 6, 0, 0, 0, 0, 1, 0, 0}};

typedef struct module {
    tfb_ckconv m;
    tfb_ckconv_opts o;
    void *mem;
} module;

static void module_new(tfb_ctx *ctx, module *d, const style *s, const shape *at) {
    size_t n;
    int i;
    memset((void *)d, 0, sizeof *d);
    d->o.channels = s->C, d->o.axes = at->axes, d->o.kind = s->kind;
    d->o.mask = s->mask, d->o.embed = s->E, d->o.hidden = s->M, d->o.layers = s->layers;
    d->o.cond = s->cond, d->o.gated = s->gated, d->o.no_shortcut = s->no_shortcut;
    d->o.omega = s->omega, d->o.omega0 = 3, d->o.seed = 5, d->o.method = TFB_CONV_DIRECT;
    for (i = 0; i < at->axes; i++) {
        d->o.edge[i] = at->edge[i], d->o.length[i] = at->length[i];
        if (s->kind == TFB_CKCONV_TAPS && at->edge[i] == O) /* it must fit */
            d->o.length[i] = TFB__MIN(at->length[i], at->n[i]);
    }
    n = tfb_ckconv_bytes(&d->o);
    d->mem = bytes_new(n);
    CHECK_OK(ctx, tfb_ckconv_init(ctx, &d->m, &d->o, d->mem, n));
}

static void module_free(module *d) {
    tfb_ckconv_forget(&d->m);
    free(d->mem);
}

/* Film that is no identity. */
static void stir(module *d) {
    tfb_idx i, n = d->m.film_w2.ndim ? tfb_numel(&d->m.film_w2) : 0;
    for (i = 0; i < n; i++) ((float *)d->m.film_w2.data)[i] = 0.3f * t_float();
}

#define EACH_MODULE(a, s)                                                                \
    for (a = 0; a < COUNT(shapes); a++)                                                  \
        for (s = 0; s < COUNT(styles); s++)

static tfb_tensor cond_of(const module *d, tfb_idx B) {
    const tfb_idx n = TFB__MAX(d->o.cond, 1);
    return tfb_view2(t_floats(B * n), TFB_F32, B, n);
}

/* A tensor [.., C] or [B, .., C] for the kernel; gaps: rows have them, channels too. */
static tfb_tensor room_for(tfb_ctx *ctx, const module *d, const tfb_idx *n, tfb_idx B,
                           int gaps) {
    tfb_idx taps[4];
    tfb_tensor k;
    int i, film = B > 0;
    CHECK_OK(ctx, tfb_ckconv_taps(ctx, &d->m, n, d->m.axes, taps + 1));
    taps[0] = B;
    k = tfb__view(NULL, TFB_F32, d->m.axes + film, taps + !film);
    k.shape[k.ndim++] = d->m.channels;
    tfb__dense_strides(&k);
    for (i = 0; gaps && i < k.ndim; i++) k.stride[i] *= i < k.ndim - 1 ? 6 : 2;
    k.data = t_floats(tfb_numel(&k) * (gaps ? 6 : 1));
    return k;
}

/* --- Kernels. --- */
static void kernels_are_the_reference(void) {
    int a, s, gaps;
    tfb_idx b;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    EACH_MODULE(a, s) {
        const shape *at = &shapes[a];
        const tfb_idx B = styles[s].cond ? 2 : 0;
        tfb_tensor cond, want;
        float *film;
        module d;
        if (styles[s].kind == TFB_CKCONV_TAPS) continue;
        module_new(&ctx, &d, &styles[s], at);
        stir(&d);
        cond = cond_of(&d, TFB__MAX(B, 1));
        film = film_ref(&ctx, &d.m, &cond);
        for (gaps = 0; gaps < 2; gaps++) {
            tfb_tensor k = room_for(&ctx, &d, at->n, B, gaps);
            CHECK_OK(&ctx, tfb_ckconv_kernel(&ctx, &d.m, at->n, at->axes, &cond, &k));
            for (b = 0; b < TFB__MAX(B, 1); b++) {
                tfb_tensor one = B ? tfb__sample(&k, b) : k, got;
                want = kernel_ref(&d.m, at->n,
                                  film ? film + b * d.m.film_b2.shape[0] : NULL);
                got = want;
                got.data = t_floats(tfb_numel(&want));
                CHECK_OK(&ctx, tfb_copy(&ctx, &one, &got));
                CHECK_BITS((float *)got.data, (float *)want.data, tfb_numel(&want),
                           "shape %d, style %d, gaps %d", a, s, gaps);
                free(want.data), free(got.data);
            }
            free(k.data);
        }
        free(cond.data), free(film);
        module_free(&d);
    }
    tfb_ctx_free(&ctx);
}

/* One tap in double, by the formulas of SEMANTICS; *top grows to the largest argument. */
static double tap64(const tfb_ckconv *m, const double *p, tfb_idx c) {
    double x[64], y[64], sum, mask = 0;
    tfb_idx i, j, in = m->w0.shape[0], M = m->w_out.shape[1];
    int l, a;
#define AT(t, i, j) (double)((const float *)(t).data)[(i) * (t).stride[0] + (j)]
    for (i = 0; i < in; i++) {
        for (sum = 0, a = 0; a < m->axes; a++) sum += AT(m->w0, i, a) * p[a];
        if (m->kind == TFB_CKCONV_SIREN)
            x[i] = sin((double)m->omega * (sum + AT(m->b0, i, 0)));
        else x[i] = cos(sum), x[in + i] = sin(sum);
    }
    in = m->w[0].shape[1];
    for (l = 0; l < m->layers; l++, in = M) {
        for (i = 0; i < M; i++) {
            for (sum = AT(m->b[l], i, 0), j = 0; j < in; j++)
                sum += AT(m->w[l], i, j) * x[j];
            y[i] = m->kind == TFB_CKCONV_SIREN ? sin((double)m->omega * sum)
                                               : sum * 0.5 * (1 + erf(sum / sqrt(2.0)));
        }
        memcpy(x, y, sizeof x);
    }
    for (sum = AT(m->b_out, c, 0), j = 0; j < M; j++) sum += AT(m->w_out, c, j) * x[j];
    for (a = 0; a < m->axes && m->mask; a++) {
        const double w = AT(m->mask_weight, a, c);
        const double std = fmin(fmax(w, (double)m->mask_least[a]), 3.12216);
        mask += m->mask == TFB_CKCONV_EXPONENTIAL ? fabs(p[a]) * w
                                                  : 0.5 * p[a] * p[a] / std / std;
    }
#undef AT
    return sum * exp(-mask);
}

static void kernels_are_near_float64(void) {
    int a, s;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    EACH_MODULE(a, s) {
        const shape *at = &shapes[a];
        tfb_tensor k;
        tfb_idx i, taps[3];
        double worst = 0, top = 1e-3;
        module d;
        if (styles[s].kind == TFB_CKCONV_TAPS || styles[s].cond) continue;
        module_new(&ctx, &d, &styles[s], at);
        k = room_for(&ctx, &d, at->n, 0, 0);
        CHECK_OK(&ctx, tfb_ckconv_taps(&ctx, &d.m, at->n, at->axes, taps));
        CHECK_OK(&ctx, tfb_ckconv_kernel(&ctx, &d.m, at->n, at->axes, NULL, &k));
        for (i = 0; i < tfb_numel(&k); i++) {
            double p[3], want;
            tfb_idx rest = i / d.m.channels;
            int j;
            for (j = at->axes - 1; j >= 0; rest /= taps[j], j--) {
                const tfb_idx L = at->length[j];
                const tfb_idx lag = rest % taps[j] - (at->edge[j] == P ? 0 : taps[j] / 2);
                p[j] = (double)lag / (double)((at->edge[j] == O ? (L + 1) / 2 : L) - 1);
            }
            want = tap64(&d.m, p, i % d.m.channels);
            top = fmax(top, fabs(want));
            worst = fmax(worst, fabs(want - (double)((float *)k.data)[i]));
        }
        /* arguments of sines up to 2 pi omega0 omega p, each off by some 4 u */
        CHECK(worst <= 2e-3 * top, "shape %d, style %d: off by %.2g of %.2g", a, s, worst,
              top);
        free(k.data);
        module_free(&d);
    }
    tfb_ctx_free(&ctx);
}

/* A longer input's kernel holds a shorter one's; film does nothing at first. */
static void kernels_of_other_lengths(void) {
    const tfb_idx shorter = 20, longer = 90;
    int s, e;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    for (s = 0; s < COUNT(styles); s++)
        for (e = 0; e < 3; e++) {
            const shape at = {1, {(tfb_edge)e, Z, Z}, {20, 1, 1}, {30, 0, 0}};
            const style plain = {styles[s].kind,
                                 styles[s].mask,
                                 styles[s].C,
                                 styles[s].E,
                                 styles[s].M,
                                 styles[s].layers,
                                 0,
                                 0,
                                 0,
                                 styles[s].omega};
            tfb_tensor k, few, cond;
            tfb_idx middle;
            module d, p;
            if (styles[s].kind == TFB_CKCONV_TAPS) continue;
            module_new(&ctx, &d, &styles[s], &at);
            module_new(&ctx, &p, &plain, &at);
            cond = cond_of(&d, 1);
            k = room_for(&ctx, &d, &longer, styles[s].cond ? 1 : 0, 0);
            few = room_for(&ctx, &p, &shorter, 0, 0);
            CHECK_OK(&ctx, tfb_ckconv_kernel(&ctx, &d.m, &longer, 1, &cond, &k));
            CHECK_OK(&ctx, tfb_ckconv_kernel(&ctx, &p.m, &shorter, 1, NULL, &few));
            if (styles[s].cond) k = tfb__sample(&k, 0);
            middle = e == P ? 0 : (k.shape[0] - few.shape[0]) / 2;
            CHECK_BITS((float *)k.data + middle * k.shape[1], (float *)few.data,
                       tfb_numel(&few), "style %d, edge %d", s, e);
            free(k.data), free(few.data), free(cond.data);
            module_free(&d), module_free(&p);
        }
    tfb_ctx_free(&ctx);
}

/* --- Parameters. --- */
static void within(const tfb_tensor *t, double bound, const char *what) {
    double top = 0;
    tfb_idx i;
    for (i = 0; i < tfb_numel(t); i++)
        top = fmax(top, fabs((double)((float *)t->data)[i]));
    CHECK(top <= bound * 1.000001, "%s reaches %g, not %g", what, top, bound);
    CHECK(tfb_numel(t) < 12 || top >= bound * 0.7, "%s reaches only %g of %g", what, top,
          bound);
}

static void near(double got, double want, const char *what) {
    CHECK(fabs(got - want) <= 3e-6 * fabs(want), "%s is %.9g, not %.9g", what, got, want);
}

static void what_is_drawn(void) {
    const tfb_idx C = 33;
    tfb_ckconv_opts o;
    tfb_ckconv m, again;
    tfb_ctx ctx;
    size_t n;
    void *mem, *other;
    tfb_idx i;
    t_ctx(&ctx, NULL);
    memset((void *)&o, 0, sizeof o);
    o.channels = C, o.axes = 2, o.edge[1] = O, o.length[0] = 11, o.length[1] = 9;
    o.layers = 2, o.cond = 5, o.mask = TFB_CKCONV_EXPONENTIAL, o.seed = 77;
    n = tfb_ckconv_bytes(&o);
    mem = bytes_new(n), other = bytes_new(n);
    memset(mem, 1, n), memset(other, 2, n);
    CHECK_OK(&ctx, tfb_ckconv_init(&ctx, &m, &o, mem, n));
    within(&m.w0, 3.14159265358979 * 30, "w0");
    within(&m.b0, 0, "b0");
    within(&m.w[0], sqrt(6.0 / 64), "w1");
    within(&m.b[0], 0, "b1");
    within(&m.w[1], sqrt(6.0 / 64), "w2");
    within(&m.w_out, sqrt(6.0 / 64) * sqrt(1.0 / 99), "w_out");
    within(&m.b_out, 0, "b_out");
    within(&m.shortcut, sqrt(1.0 / (double)C), "shortcut");
    within(&m.film_w1, sqrt(1.0 / 5), "film_w1");
    within(&m.film_w2, 0, "film_w2");
    for (i = 0; i < 4 * 64; i++)
        CHECK((int)((float *)m.film_b2.data)[i] == (i / 64 % 2 ? 0 : 1), "gamma, beta");
    near((double)((float *)m.mask_weight.data)[0], 2.3 / 2, "the first rate");
    near((double)((float *)m.mask_weight.data)[C - 1], 13.81 / 2, "the last rate");
    near((double)((float *)m.mask_weight.data)[C + 16], 8.055 / 2, "the middle rate");
    CHECK(m.omega >= 1 && m.omega <= 1 && m.w[0].shape[0] == 64, "defaults");
    CHECK(tfb_params_count(tfb__ckconv_params, &m) == 64 * 2 + 64 + 2 * (64 * 64 + 64) +
                                                          C * 64 + C + 2 * C + C +
                                                          64 * 5 + 64 + 256 * 64 + 256,
          "parameters");
    CHECK_OK(&ctx, tfb_ckconv_init(&ctx, &again, &o, other, n));
    CHECK_BITS((float *)again.w_out.data, (float *)m.w_out.data, C * 64, "equal seeds");
    o.seed++;
    CHECK_OK(&ctx, tfb_ckconv_init(&ctx, &again, &o, other, n));
    CHECK(memcmp(again.w_out.data, m.w_out.data, 99) != 0, "other seeds");
    o.mask = TFB_CKCONV_GAUSSIAN;
    CHECK_OK(&ctx, tfb_ckconv_init(&ctx, &m, &o, mem, n));
    near((double)((float *)m.mask_weight.data)[0], 0.046599, "the narrowest");
    near((double)((float *)m.mask_weight.data)[C - 1], 0.46599, "the widest");
    near((double)((float *)m.mask_weight.data)[C], 0.46599 / 4, "on the circle");
    near((double)((float *)m.mask_weight.data)[16], 0.46599 / sqrt(10.0), "the middle");
    near((double)m.mask_least[0], 0.046599, "the least"); /* 0.1 is left after a step */
    near(exp(-0.5 * 0.01 / 0.046599 / 0.046599), 0.09999941, "left after a step");
    o.kind = TFB_CKCONV_TAPS, o.mask = TFB_CKCONV_OPEN, o.cond = 0;
    CHECK_OK(&ctx, tfb_ckconv_init(&ctx, &m, &o, mem, n));
    within(&m.taps, sqrt(1.0 / 99), "taps");
    tfb_ctx_free(&ctx);
    free(mem), free(other);
}

/* --- Costs. --- */
static int64_t cost64(const module *d, const tfb_idx *n, int inference) {
    const tfb_ckconv *m = &d->m;
    const int made = m->kind != TFB_CKCONV_TAPS, film = d->o.cond > 0;
    int64_t G = 1, S = 1, np = 1, C = m->channels, sum, M, E, ch = 64;
    double logs = 0;
    int a;
    for (a = 0; a < m->axes; a++) {
        const int64_t N = n[a], g = m->edge[a] == O ? (N + 1) / 2 : N;
        const int64_t K = !made ? m->taps.shape[a] : m->edge[a] == P ? N : 2 * g - 1;
        const int64_t padded = m->edge[a] == O   ? N
                               : m->edge[a] == Z ? TFB__MIN(N + (K + 1) / 2, 2 * N)
                                                 : TFB__MIN(N + K, 2 * N);
        G *= 2 * g - 1, S *= N, np *= padded;
        logs += log2((double)padded);
    }
    sum = (int64_t)floor((inference && !film ? 2 : 3) * 5.0 * (double)(C * np) * logs) +
          6 * C * np + C * S + (m->gated ? 2 * C * S : 0);
    if (!made || (inference && !film)) return sum;
    M = m->w_out.shape[1], E = m->w[0].shape[1];
    sum += (m->kind == TFB_CKCONV_SIREN ? 2 : 1) * G * m->axes * E + G * E;
    for (a = 0; a < m->layers; a++) sum += 2 * G * (a ? M : E) * M + G * M;
    sum += 2 * G * M * C;
    if (film) {
        const int64_t o = m->layers * 2 * M;
        sum += 2 * d->o.cond * ch + ch + 2 * ch * o + o * G;
    }
    return sum;
}

static void flops_are_integers(void) {
    const tfb_idx far[] = {0x7FFFFFFF, 256, 1}, one = 8;
    int a, s, inference;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    EACH_MODULE(a, s) for (inference = 0; inference < 2; inference++) {
        int64_t got, want;
        module d;
        module_new(&ctx, &d, &styles[s], &shapes[a]);
        got =
            tfb__ckconv_flops(&d.m, d.m.channels, shapes[a].n, shapes[a].axes, inference);
        want = cost64(&d, shapes[a].n, inference);
        CHECK(got == want, "shape %d, style %d: %ld, wanted %ld", a, s, (long)got,
              (long)want);
        if (shapes[a].axes == 2)
            CHECK(tfb__ckconv_flops(&d.m, 1 << 20, far, 2, 0) == -1, "too many");
        if (shapes[a].axes > 1)
            CHECK(tfb__ckconv_flops(&d.m, 1, &one, 1, 0) == -1, "axes");
        module_free(&d);
    }
    for (a = 1; a < 70000; a += a < 3000 ? 1 : 577)
        CHECK(fabs(tfb__log2_count(a) - log2((double)a)) <= 4e-15, "log2 of %d", a);
    tfb_ctx_free(&ctx);
}

/* --- The mixer. --- */
typedef struct mixing {
    tfb_tensor q, k, v, y, want, cond;
    tfb_mix call;
    float *qkv;
} mixing;

/* q, k and v lie side by side, as in a block. */
static void mixing_new(mixing *x, const module *d, const tfb_idx *n, tfb_idx B) {
    const tfb_idx C = d->m.channels;
    const int last = d->m.axes + 1;
    tfb_idx s[5];
    int i;
    memset((void *)x, 0, sizeof *x);
    s[0] = B, s[last] = 3 * C;
    for (i = 1; i < last; i++) s[i] = n[i - 1];
    x->q = tfb__view(NULL, TFB_F32, last + 1, s);
    x->q.data = x->qkv = t_floats(tfb_numel(&x->q));
    x->q.shape[last] = C;
    x->k = x->v = x->q;
    x->k.data = x->qkv + C, x->v.data = x->qkv + 2 * C;
    x->y = dense_like(&x->q), x->want = dense_like(&x->q);
    x->cond = cond_of(d, B);
    x->call.q = &x->q, x->call.k = &x->k, x->call.v = &x->v, x->call.y = &x->y;
    x->call.cond = &x->cond;
}

static void mixing_free(mixing *x) {
    free(x->qkv), free(x->y.data), free(x->want.data), free(x->cond.data);
}

static void want_of(tfb_ctx *ctx, const module *d, mixing *x) {
    x->call.y = &x->want;
    ckconv_ref(ctx, &d->m, &x->call);
    x->call.y = &x->y;
}

static void forward_is_the_reference(void) {
    int a, s, workers;
    for (workers = 1; workers < 4; workers += 2) {
        tfb_ctx ctx;
        t_ctx(&ctx, NULL);
        if (workers > 1) CHECK_OK(&ctx, tfb_ctx_threads(&ctx, workers, 0));
        EACH_MODULE(a, s) {
            const shape *at = &shapes[a];
            module d;
            mixing x;
            if (workers > 1 && (a + s) % 3) continue;
            module_new(&ctx, &d, &styles[s], at);
            stir(&d);
            mixing_new(&x, &d, at->n, 2);
            want_of(&ctx, &d, &x);
            CHECK_OK(&ctx, tfb__ckconv_ops.forward(&ctx, &d.m, &x.call));
            CHECK_BITS((float *)x.y.data, (float *)x.want.data, tfb_numel(&x.y),
                       "shape %d, style %d", a, s);
            mixing_free(&x);
            module_free(&d);
        }
        tfb_ctx_free(&ctx);
    }
}

/* Of a channel the sum of |k| and of its shortcut: what inputs of at most 1 can give; b:
 * whose kernel. */
static double reach_of(tfb_ctx *ctx, const module *d, const mixing *x, tfb_idx b,
                       tfb_idx c) {
    const tfb_ckconv *m = &d->m;
    const tfb_idx C = m->channels;
    float *film = film_ref(ctx, m, &x->cond);
    tfb_tensor k = m->taps;
    double sum = 0;
    tfb_idx i;
    if (m->kind != TFB_CKCONV_TAPS)
        k = kernel_ref(m, x->y.shape + 1, film ? film + b * m->film_b2.shape[0] : NULL);
    for (i = 0; i < tfb_numel(&k) / C; i++)
        sum += fabs((double)((float *)k.data)[i * C + c]);
    if (m->shortcut.ndim) sum += fabs((double)((float *)m->shortcut.data)[c]);
    if (m->kind != TFB_CKCONV_TAPS) free(k.data);
    free(film);
    return sum;
}

/* Transforms are within 1e-6 max |x| sum |k| of the sums, which are half as far off. */
static void transforms_are_near_sums(void) {
    int a, s;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    EACH_MODULE(a, s) {
        module d;
        mixing x;
        tfb_idx b, c, t;
        if (styles[s].C > 20) continue;
        module_new(&ctx, &d, &styles[s], &shapes[a]);
        stir(&d);
        mixing_new(&x, &d, shapes[a].n, 2);
        x.call.y = &x.want;
        CHECK_OK(&ctx, tfb__ckconv_ops.forward(&ctx, &d.m, &x.call));
        x.call.y = &x.y;
        d.m.method = TFB_CONV_FFT;
        CHECK_OK(&ctx, tfb__ckconv_ops.forward(&ctx, &d.m, &x.call));
        for (b = 0; b < 2; b++)
            for (c = 0; c < styles[s].C; c++) {
                const double bound = 1.5e-6 * reach_of(&ctx, &d, &x, b, c);
                for (t = 0; t < places_of(&x.y); t++)
                    CHECK(fabs((double)(*at_of(&x.y, b, t, c) -
                                        *at_of(&x.want, b, t, c))) <= bound,
                          "shape %d, style %d: %g, not %g", a, s,
                          (double)*at_of(&x.y, b, t, c),
                          (double)*at_of(&x.want, b, t, c));
            }
        mixing_free(&x);
        module_free(&d);
    }
    tfb_ctx_free(&ctx);
}

/* --- Kept kernels. --- */
static void same_kept(tfb_ctx *ctx, module *d, const tfb_idx *n, const char *what) {
    mixing x;
    mixing_new(&x, d, n, 2);
    x.call.y = &x.want;
    CHECK_OK(ctx, tfb__ckconv_ops.forward(ctx, &d->m, &x.call)); /* never a kept one */
    x.call.y = &x.y;
    x.call.inference = 1;
    memset(x.y.data, 0, (size_t)tfb_numel(&x.y) * 4);
    CHECK_OK(ctx, tfb__ckconv_ops.forward(ctx, &d->m, &x.call));
    CHECK_BITS((float *)x.y.data, (float *)x.want.data, tfb_numel(&x.y), "%s", what);
    mixing_free(&x);
}

static void kept_kernels_have_the_same_bits(void) {
    int a, s, i;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    EACH_MODULE(a, s) {
        const shape *at = &shapes[a];
        tfb_idx more[3], less[3];
        module d;
        size_t bytes;
        void *mem;
        if (styles[s].cond || (a + s) % 2) continue;
        module_new(&ctx, &d, &styles[s], at);
        d.m.method = (a + s) % 4 ? TFB_CONV_FFT : TFB_CONV_DIRECT;
        for (i = 0; i < 3; i++) more[i] = at->n[i] + 3, less[i] = (at->n[i] + 1) / 2;
        bytes = tfb_ckconv_prepare_bytes(&ctx, &d.m, at->n, at->axes);
        mem = bytes_new(bytes + 8);
        CHECK_OK(&ctx,
                 tfb_ckconv_prepare(&ctx, &d.m, at->n, at->axes, (char *)mem + 8, bytes));
        same_kept(&ctx, &d, at->n, "the same size");
        if (d.m.kind != TFB_CKCONV_TAPS) same_kept(&ctx, &d, less, "a smaller size");
        same_kept(&ctx, &d, more, "a larger size");
        CHECK_OK(&ctx, tfb_ckconv_prepare(&ctx, &d.m, more, at->axes, NULL, 0));
        same_kept(&ctx, &d, more, "two sizes");
        same_kept(&ctx, &d, at->n, "two sizes, the smaller");
        CHECK_OK(&ctx, tfb_ckconv_prepare(&ctx, &d.m, more, at->axes, NULL, 0));
        same_kept(&ctx, &d, more, "again");
        tfb_ckconv_forget(&d.m);
        CHECK(d.m.kept == NULL, "forgotten");
        same_kept(&ctx, &d, more, "forgotten");
        module_free(&d);
        free(mem);
    }
    tfb_ctx_free(&ctx);
}

static tfb_status more_of_each(void *user, const char *name, tfb_tensor *t) {
    int *which = (int *)user;
    (void)name;
    if ((*which)-- == 0) ((float *)t->data)[tfb_numel(t) - 1] += 0.5f;
    return TFB_OK;
}

/* Whatever changes a parameter, a kept kernel is not used any more. */
static void changed_parameters_are_seen(void) {
    const tfb_idx n = 21;
    int s, i;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    for (s = 0; s < COUNT(styles); s++) {
        t_heap heap;
        tfb_ctx other;
        size_t bytes;
        void *save;
        module d;
        if (styles[s].cond || styles[s].kind == TFB_CKCONV_TAPS) continue;
        t_ctx(&other, &heap);
        module_new(&ctx, &d, &styles[s], &shapes[2]);
        bytes = tfb_params_bytes(tfb__ckconv_params, &d.m);
        save = bytes_new(bytes);
        CHECK_OK(&ctx, tfb_params_save(&ctx, tfb__ckconv_params, &d.m, save, bytes));
        CHECK_OK(&ctx, tfb_ckconv_prepare(&other, &d.m, &n, 1, NULL, 0));
        CHECK(heap.live >= 1, "kept in memory of its own");
        for (i = 0; i < 12; i++) { /* one parameter after another */
            int which = i;
            CHECK_OK(&ctx, tfb__ckconv_params(&d.m, more_of_each, &which));
            same_kept(&ctx, &d, &n, "a changed parameter");
            if (i % 3) continue;
            CHECK_OK(&ctx, tfb_ckconv_prepare(&other, &d.m, &n, 1, NULL, 0));
            same_kept(&ctx, &d, &n, "prepared again");
        }
        d.m.omega += 1;
        same_kept(&ctx, &d, &n, "another omega");
        CHECK_OK(&ctx, tfb_ckconv_prepare(&other, &d.m, &n, 1, NULL, 0));
        d.m.omega -= 1;
        CHECK_OK(&ctx, tfb_params_load(&ctx, tfb__ckconv_params, &d.m, save, bytes));
        same_kept(&ctx, &d, &n, "loaded");
        tfb_ckconv_forget(&d.m);
        tfb_ctx_free(&other);
        CHECK(heap.live == 0, "%ld blocks are left", heap.live);
        module_free(&d);
        free(save);
    }
    tfb_ctx_free(&ctx);
}

/* A kept kernel needs no scratch for one. */
static void scratch_and_channels(void) {
    const tfb_idx n = 200;
    size_t last = 0, wide = 0, kept = 0;
    tfb_idx C;
    for (C = 64; C <= 1024; C *= 4) {
        style s = {TFB_CKCONV_SIREN, TFB_CKCONV_EXPONENTIAL, 0, 8, 8, 1, 0, 0, 0, 0};
        const shape at = {1, {P, Z, Z}, {200, 1, 1}, {200, 0, 0}};
        tfb_ctx ctx, measure;
        module d;
        mixing x;
        s.C = C;
        t_ctx(&ctx, NULL);
        CHECK_OK(&measure, tfb_ctx_init_measure(&measure));
        module_new(&ctx, &d, &s, &at);
        mixing_new(&x, &d, &n, 1);
        CHECK_OK(&measure, tfb__ckconv_ops.forward(&measure, &d.m, &x.call));
        wide = measure.scratch_peak;
        CHECK(C == 64 || C == 256 || wide == last, "%ld channels: %ld bytes, fewer %ld",
              (long)C, (long)wide, (long)last);
        last = wide;
        CHECK_OK(&ctx, tfb_ckconv_prepare(&ctx, &d.m, &n, 1, NULL, 0));
        x.call.inference = 1;
        CHECK_OK(&measure, tfb_ctx_init_measure(&measure));
        CHECK_OK(&measure, tfb__ckconv_ops.forward(&measure, &d.m, &x.call));
        CHECK(C == 64 || measure.scratch_peak == kept, "kept: %ld, then %ld", (long)kept,
              (long)measure.scratch_peak);
        CHECK(measure.scratch_peak < wide, "kept: %ld of %ld", (long)measure.scratch_peak,
              (long)wide);
        kept = measure.scratch_peak;
        mixing_free(&x);
        module_free(&d);
        tfb_ctx_free(&ctx);
    }
}

/* --- Steps: of a block whose projections are drawn. --- */
static void steps_are_forward(void) {
    static const tfb_idx most[] = {1, 5, 300};
    enum { B = 2, T = 290 }; /* more than a block of 256 terms */
    int s, i, kept;
    for (s = 0; s < COUNT(styles); s++)
        if (styles[s].C <= 20) { /* others elsewhere */
            shape at = {1, {P, Z, Z}, {T, 1, 1}, {40, 0, 0}};
            tfb_qkv_opts o;
            tfb_qkv_call call;
            tfb_mixer_state state;
            tfb_tensor x, y, cond;
            tfb_idx t, n, C = styles[s].C;
            float *want = t_floats(B * T * C), *got = t_floats(B * T * C);
            tfb_qkv block;
            tfb_ctx ctx;
            module d;
            void *mem;
            t_ctx(&ctx, NULL);
            module_new(&ctx, &d, &styles[s], &at);
            stir(&d);
            cond = cond_of(&d, B);
            memset((void *)&o, 0, sizeof o);
            memset((void *)&call, 0, sizeof call);
            o.channels = C, o.mixer = tfb_ckconv_as_mixer(&d.m);
            mem = bytes_new(tfb_qkv_bytes(&o));
            CHECK_OK(&ctx, tfb_qkv_init(&ctx, &block, &o, mem, tfb_qkv_bytes(&o)));
            x = tfb_view3(t_floats(B * T * C), TFB_F32, B, T, C);
            y = with_data(x, want);
            call.cond = &cond;
            CHECK_OK(&ctx, tfb_qkv_forward(&ctx, &block, &x, &call, &y));
            CHECK_OK(&ctx, tfb_mixer_state_init(&ctx, &state, &block, B, T, NULL, 0));
            for (kept = 0; kept < 2; kept++)
                for (i = kept; i < COUNT(most); i++) {
                    if (most[i] == 1 && (kept || s > 1)) continue;
                    if (kept && !styles[s].cond)
                        CHECK_OK(&ctx,
                                 tfb_ckconv_prepare(&ctx, &d.m, &at.n[0], 1, NULL, 0));
                    call.inference = kept;
                    tfb_mixer_state_reset(&state);
                    for (t = 0; t < T; t += n) {
                        tfb_tensor in = x, out = with_data(x, got);
                        n = TFB__MIN(most[i], T - t);
                        in.shape[1] = out.shape[1] = n;
                        in.data = (float *)x.data + t * C, out.data = got + t * C;
                        CHECK_OK(&ctx,
                                 tfb_qkv_step(&ctx, &block, &state, &in, &call, &out));
                    }
                    CHECK_BITS(got, want, B * T * C, "style %d, %ld a step, kept %d", s,
                               (long)most[i], kept);
                }
            x.shape[1] = y.shape[1] = 0;
            CHECK_OK(&ctx, tfb_qkv_step(&ctx, &block, &state, &x, &call, &y));
            x.shape[1] = y.shape[1] = 1;
            CHECK_FAILS(&ctx, TFB_ERR_FULL, "",
                        tfb_qkv_step(&ctx, &block, &state, &x, &call, &y));
            CHECK(state.tokens == T, "a full state took %ld", (long)state.tokens);
            tfb_mixer_state_free(&state);
            module_free(&d);
            tfb_ctx_free(&ctx);
            free(mem), free(x.data), free(cond.data), free(want), free(got);
        }
}

/* Tokens t .. t + n - 1 of a call, a step of the state; y of all tokens at out. */
static void step_of(tfb_ctx *ctx, module *d, const mixing *x, tfb_idx t, tfb_idx n,
                    tfb_mixer_state *state, float *out) {
    tfb_tensor part[4];
    tfb_mix call = x->call;
    int i;
    part[0] = x->q, part[1] = x->k, part[2] = x->v, part[3] = with_data(x->y, out);
    for (i = 0; i < 4; i++) {
        part[i].data = (float *)part[i].data + t * part[i].stride[1];
        part[i].shape[1] = n;
    }
    call.q = &part[0], call.k = &part[1], call.v = &part[2], call.y = &part[3];
    CHECK_OK(ctx, tfb__ckconv_ops.step(ctx, &d->m, &call, state));
    state->tokens += n;
}

/* With step_block any cut into calls has the same bits, after a rollback too, and they
 * are near the direct sums; inputs are at most 1. */
static void steps_by_blocks(void) {
    static const tfb_idx most[] = {290, 7, 48, 1};
    enum { B = 2, T = 290 };
    tfb_ctx ctx;
    int s, i;
    t_ctx(&ctx, NULL);
    for (s = 0; s < COUNT(styles); s++)
        if (styles[s].C <= 20) {
            const shape at = {1, {P, Z, Z}, {T, 1, 1}, {40, 0, 0}};
            const tfb_idx C = styles[s].C;
            float *first = t_floats(B * T * C), *got = t_floats(B * T * C);
            tfb_mixer_state state;
            tfb_qkv block;
            tfb_idx b, c, t, n;
            mixing x;
            module d;
            module_new(&ctx, &d, &styles[s], &at);
            stir(&d);
            d.m.step_block = 48;
            mixing_new(&x, &d, at.n, B);
            x.call.y = &x.want;
            CHECK_OK(&ctx, tfb__ckconv_ops.forward(&ctx, &d.m, &x.call));
            memset((void *)&block, 0, sizeof block);
            block.channels = block.kv_channels = C;
            block.mixer = tfb_ckconv_as_mixer(&d.m);
            CHECK_OK(&ctx, tfb_mixer_state_init(&ctx, &state, &block, B, T, NULL, 0));
            for (i = 0; i < COUNT(most); i++) {
                tfb_mixer_state_reset(&state);
                for (t = 0; t < T; t += n) {
                    n = TFB__MIN(most[i], T - t);
                    step_of(&ctx, &d, &x, t, n, &state, i ? got : first);
                }
                if (i) CHECK_BITS(got, first, B * T * C, "%ld a step", (long)most[i]);
            }
            tfb_mixer_state_reset(&state);
            step_of(&ctx, &d, &x, 0, 100, &state, got);
            CHECK_OK(&ctx, tfb_mixer_state_mark(&ctx, &state));
            step_of(&ctx, &d, &x, 130, 60, &state, got); /* others, over a block's end */
            CHECK_OK(&ctx, tfb_mixer_state_rollback(&ctx, &state));
            tfb_mixer_state_commit(&state);
            step_of(&ctx, &d, &x, 100, T - 100, &state, got);
            CHECK_BITS(got, first, B * T * C, "rolled back, style %d", s);
            for (b = 0; b < B; b++)
                for (c = 0; c < C; c++) {
                    const double bound = 1.5e-6 * reach_of(&ctx, &d, &x, b, c);
                    for (t = 0; t < T; t++) {
                        const tfb_idx at_t = (b * T + t) * C + c;
                        CHECK(fabs((double)first[at_t] -
                                   (double)*at_of(&x.want, b, t, c)) <= bound,
                              "style %d, token %ld", s, (long)t);
                    }
                }
            tfb_mixer_state_free(&state);
            mixing_free(&x);
            module_free(&d);
            free(first), free(got);
        }
    tfb_ctx_free(&ctx);
}

/* What a step sums is causal: a later token changes nothing, to the bit. */
static void direct_sums_are_causal(void) {
    const tfb_idx n = 127, late = 61;
    int s;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    for (s = 0; s < COUNT(styles); s++) {
        const tfb_idx C = styles[s].C;
        module d;
        mixing x;
        module_new(&ctx, &d, &styles[s], &shapes[2]);
        mixing_new(&x, &d, &n, 1);
        CHECK_OK(&ctx, tfb__ckconv_ops.forward(&ctx, &d.m, &x.call));
        memcpy(x.want.data, x.y.data, (size_t)(n * C) * 4);
        ((float *)x.v.data)[late * 3 * C] += 1;
        CHECK_OK(&ctx, tfb__ckconv_ops.forward(&ctx, &d.m, &x.call));
        CHECK(memcmp(x.y.data, x.want.data, (size_t)(late * C) * 4) == 0, "style %d", s);
        CHECK(memcmp(x.y.data, x.want.data, (size_t)(n * C) * 4) != 0, "no change");
        mixing_free(&x);
        module_free(&d);
    }
    tfb_ctx_free(&ctx);
}

/* --- Misuse. --- */
static void what_init_refuses(void) {
    tfb_ckconv_opts good, o;
    tfb_ckconv m, was;
    tfb_ctx ctx;
    float mem[4096];
    size_t n;
    t_ctx(&ctx, NULL);
    memset((void *)&good, 0, sizeof good);
    memset((void *)&m, 7, sizeof m);
    was = m;
    good.channels = 3, good.axes = 2, good.length[0] = good.length[1] = 8;
    good.hidden = 4, good.edge[1] = O;
    n = tfb_ckconv_bytes(&good);
#define BAD(text, change)                                                                \
    do {                                                                                 \
        o = good;                                                                        \
        change;                                                                          \
        CHECK(tfb_ckconv_bytes(&o) == 0, "bytes of %s", text);                           \
        CHECK_FAILS(&ctx, TFB_ERR_RANGE, text,                                           \
                    tfb_ckconv_init(&ctx, &m, &o, mem, sizeof mem));                     \
    } while (0)
    BAD("channels", o.channels = 0);
    BAD("channels", o.channels = PTRDIFF_MAX);
    BAD("axes", o.axes = 4);
    BAD("axes", o.axes = -1);
    BAD("kind", o.kind = (tfb_ckconv_kind)3);
    BAD("mask", o.mask = (tfb_ckconv_mask)-1);
    BAD("method", o.method = (tfb_conv_method)9);
    BAD("step_block", o.step_block = -1);
    BAD("layers", o.layers = TFB_CKCONV_LAYERS + 1);
    BAD("hidden", o.hidden = -1);
    BAD("cond", o.cond = -2);
    BAD("even", o.kind = TFB_CKCONV_FOURIER; o.embed = 3);
    BAD("taps", o.kind = TFB_CKCONV_TAPS; o.mask = TFB_CKCONV_GAUSSIAN);
    BAD("taps", o.kind = TFB_CKCONV_TAPS; o.cond = 2);
    BAD("edge", o.edge[0] = (tfb_edge)3);
    BAD("causal needs one axis", o.edge[0] = P);
    BAD("length", o.length[0] = 1);
    BAD("length", o.length[1] = 2); /* (2 + 1) / 2 - 1 is 0 */
    BAD("length", o.length[0] = -5);
#undef BAD
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "m is NULL",
                tfb_ckconv_init(&ctx, NULL, &good, mem, n));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "opts is NULL",
                tfb_ckconv_init(&ctx, &m, NULL, mem, n));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "mem is NULL",
                tfb_ckconv_init(&ctx, &m, &good, NULL, n));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "aligned",
                tfb_ckconv_init(&ctx, &m, &good, (char *)mem + 1, n));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "needs",
                tfb_ckconv_init(&ctx, &m, &good, mem, n - 1));
    CHECK(tfb_ckconv_init(NULL, &m, &good, mem, n) == TFB_ERR_ARG, "ctx");
    CHECK(tfb_ckconv_bytes(NULL) == 0, "NULL");
    CHECK(memcmp(&m, &was, sizeof m) == 0, "a refused init changed the module");
    tfb_ctx_free(&ctx);
}

static void what_kernels_refuse(void) {
    const shape *at = &shapes[9]; /* 5 x 3 */
    const tfb_idx bad[] = {-1, 3}, far[] = {PTRDIFF_MAX / 32, PTRDIFF_MAX / 32};
    tfb_idx taps[3];
    tfb_tensor k, c;
    module d;
    tfb_ctx ctx;
    tfb_ckconv m;
    float *was;
    t_ctx(&ctx, NULL);
    module_new(&ctx, &d, &styles[3], at);
    k = room_for(&ctx, &d, at->n, 2, 0);
    was = floats_copy((float *)k.data, tfb_numel(&k));
    c = cond_of(&d, 2);
#define BAD(status, text, change)                                                        \
    do {                                                                                 \
        tfb_tensor kernel = k, cond = c, *pk = &kernel, *pc = &cond;                     \
        const tfb_idx *n = at->n;                                                        \
        const tfb_ckconv *pm = &m;                                                       \
        int axes = 2;                                                                    \
        m = d.m;                                                                         \
        change;                                                                          \
        CHECK_FAILS(&ctx, status, text, tfb_ckconv_kernel(&ctx, pm, n, axes, pc, pk));   \
    } while (0)
    BAD(TFB_ERR_ARG, "m is NULL", pm = NULL);
    BAD(TFB_ERR_ARG, "spatial is NULL", n = NULL);
    BAD(TFB_ERR_ARG, "kernel is NULL", pk = NULL);
    BAD(TFB_ERR_SHAPE, "1 spatial axes", axes = 1);
    BAD(TFB_ERR_RANGE, "extent 0 is -1", n = bad);
    BAD(TFB_ERR_RANGE, "too many taps", n = far);
    BAD(TFB_ERR_SHAPE, "kernel.shape[1]", kernel.shape[1]--);
    BAD(TFB_ERR_SHAPE, "kernel.shape[3]", kernel.shape[3]++);
    BAD(TFB_ERR_SHAPE, "kernel.ndim", kernel.ndim--);
    BAD(TFB_ERR_DTYPE, "kernel is F16", kernel.dtype = TFB_F16);
    BAD(TFB_ERR_SHAPE, "overlap", kernel.stride[2] = 0);
    BAD(TFB_ERR_SHAPE, "kernel.shape[0]", pc = NULL);
    BAD(TFB_ERR_SHAPE, "cond.shape[1]", cond.shape[1]--);
    BAD(TFB_ERR_SHAPE, "cond.ndim", cond.ndim = 1);
    BAD(TFB_ERR_DTYPE, "cond is I32", cond.dtype = TFB_I32);
    BAD(TFB_ERR_ALIAS, "overlaps", cond.data = kernel.data);
    BAD(TFB_ERR_ALIAS, "overlaps", m.w[1].data = kernel.data);
    BAD(TFB_ERR_SHAPE, "0 channels", m.channels = 0);
    BAD(TFB_ERR_SHAPE, "4 axes", m.axes = 4);
    BAD(TFB_ERR_RANGE, "length[0]", m.length[0] = 1);
    BAD(TFB_ERR_RANGE, "step_block is -2", m.step_block = -2);
    BAD(TFB_ERR_RANGE, "9 hidden layers", m.layers = 9);
    BAD(TFB_ERR_UNSUPPORTED, "causal", m.edge[1] = P);
    BAD(TFB_ERR_SHAPE, "w0.shape[1]", m.w0.shape[1]--);
    BAD(TFB_ERR_SHAPE, "b0.shape[0]", m.b0.shape[0]--);
    BAD(TFB_ERR_SHAPE, "a hidden weight", m.w[0].shape[1]--);
    BAD(TFB_ERR_SHAPE, "wide", m.w[1].shape[0]--);
    BAD(TFB_ERR_SHAPE, "a hidden bias", m.b[1].shape[0]--);
    BAD(TFB_ERR_SHAPE, "w_out.shape[0]", m.w_out.shape[0]--);
    BAD(TFB_ERR_DTYPE, "w_out is F16", m.w_out.dtype = TFB_F16);
    BAD(TFB_ERR_SHAPE, "b_out.shape[0]", m.b_out.shape[0]--);
    BAD(TFB_ERR_SHAPE, "mask_weight.shape[0]", m.mask_weight.shape[0]--);
    BAD(TFB_ERR_SHAPE, "shortcut.shape[0]", m.shortcut.shape[0]--);
    BAD(TFB_ERR_SHAPE, "film_w1.shape[0]", m.film_w1.shape[0]--);
    BAD(TFB_ERR_SHAPE, "film_b1.shape[0]", m.film_b1.shape[0]--);
    BAD(TFB_ERR_SHAPE, "film_w2.shape[0]", m.film_w2.shape[0]--);
    BAD(TFB_ERR_SHAPE, "film_b2.shape[0]", m.film_b2.shape[0]--);
#undef BAD
    CHECK_BITS((float *)k.data, was, tfb_numel(&k), "a refused kernel");
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "taps is NULL",
                tfb_ckconv_taps(&ctx, &d.m, at->n, 2, NULL));
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "3 spatial axes",
                tfb_ckconv_taps(&ctx, &d.m, at->n, 3, taps));
    CHECK(tfb_ckconv_kernel(NULL, &d.m, at->n, 2, &c, &k) == TFB_ERR_ARG, "ctx");
    CHECK(tfb_ckconv_taps(NULL, &d.m, at->n, 2, taps) == TFB_ERR_ARG, "ctx");
    CHECK_FAILS(&ctx, TFB_ERR_UNSUPPORTED, "film",
                tfb_ckconv_prepare(&ctx, &d.m, at->n, 2, NULL, 0));
    module_free(&d);
    free(k.data), free(c.data), free(was);
    tfb_ctx_free(&ctx);
}

static void what_prepare_refuses(void) {
    const shape *at = &shapes[9];
    const tfb_idx bad[] = {-1, 3};
    double mem[2000];
    size_t n;
    t_heap heap;
    tfb_ctx ctx, none;
    module d;
    long i;
    t_ctx(&ctx, &heap);
    module_new(&ctx, &d, &styles[1], at);
    n = tfb_ckconv_prepare_bytes(&ctx, &d.m, at->n, 2);
    CHECK(n > 0 && n <= sizeof mem, "%ld bytes", (long)n);
    CHECK(tfb_ckconv_prepare_bytes(&ctx, &d.m, bad, 2) == 0 &&
              tfb_ckconv_prepare_bytes(&ctx, &d.m, at->n, 1) == 0 &&
              tfb_ckconv_prepare_bytes(&ctx, NULL, at->n, 2) == 0 &&
              tfb_ckconv_prepare_bytes(NULL, &d.m, at->n, 2) == 0,
          "bytes of what is not legal");
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "m is NULL",
                tfb_ckconv_prepare(&ctx, NULL, at->n, 2, mem, n));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "spatial is NULL",
                tfb_ckconv_prepare(&ctx, &d.m, NULL, 2, mem, n));
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "1 spatial axes",
                tfb_ckconv_prepare(&ctx, &d.m, at->n, 1, mem, n));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "extent 0",
                tfb_ckconv_prepare(&ctx, &d.m, bad, 2, mem, n));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "needs",
                tfb_ckconv_prepare(&ctx, &d.m, at->n, 2, mem, n - 1));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "aligned",
                tfb_ckconv_prepare(&ctx, &d.m, at->n, 2, (char *)mem + 4, n));
    CHECK_OK(&none, tfb_ctx_init_static(&none, NULL, 0));
    CHECK_FAILS(&none, TFB_ERR_MEMORY, "alloc is NULL",
                tfb_ckconv_prepare(&none, &d.m, at->n, 2, NULL, 0));
    CHECK_FAILS(&none, TFB_ERR_SCRATCH, "scratch",
                tfb_ckconv_prepare(&none, &d.m, at->n, 2, mem, n));
    CHECK(d.m.kept == NULL, "a refused prepare");
    for (i = 1; i < 20; i++) {
        tfb_status status;
        heap.calls = 0, heap.fail_at = i;
        status = tfb_ckconv_prepare(&ctx, &d.m, at->n, 2, NULL, 0);
        if (status == TFB_OK) break;
        CHECK(status == TFB_ERR_MEMORY && !d.m.kept, "allocation %ld: %s", i,
              ctx.message);
    }
    CHECK(i > 1 && i < 20, "%ld allocations", i);
    heap.fail_at = 0;
    same_kept(&ctx, &d, at->n, "after failures");
    tfb_ckconv_forget(&d.m);
    tfb_ckconv_forget(NULL);
    module_free(&d);
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks are left", heap.live);
}

static void what_the_mixer_refuses(void) {
    const tfb_idx n = 7;
    static float taps[9 * 5];
    module d, film;
    mixing x;
    tfb_tensor cond;
    tfb_mixer_state state;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    memset((void *)&state, 0, sizeof state);
    module_new(&ctx, &d, &styles[2], &shapes[6]); /* gated, circular */
    module_new(&ctx, &film, &styles[3], &shapes[0]);
    mixing_new(&x, &d, &n, 2);
    d.m.length[0] = 8;
#define BAD(status, text, change)                                                        \
    do {                                                                                 \
        tfb_ckconv m = d.m;                                                              \
        tfb_tensor q = x.q, k = x.k, v = x.v, y = x.y;                                   \
        tfb_mix call = x.call;                                                           \
        call.q = &q, call.k = &k, call.v = &v, call.y = &y;                              \
        change;                                                                          \
        CHECK_FAILS(&ctx, status, text, tfb__ckconv_ops.forward(&ctx, &m, &call));       \
    } while (0)
    BAD(TFB_ERR_SHAPE, "v.shape[2]", v.shape[2]--);
    BAD(TFB_ERR_SHAPE, "q.shape[2]", q.shape[2]--);
    BAD(TFB_ERR_SHAPE, "k.shape[1]", k.shape[1]--);
    BAD(TFB_ERR_SHAPE, "y.shape[2]", y.shape[2]--);
    BAD(TFB_ERR_SHAPE, "v.ndim", v.ndim--);
    BAD(TFB_ERR_SHAPE, "y.ndim is 3", m.axes = 2; m.length[1] = 5;
        m.w0 = tfb_view2(m.w0.data, TFB_F32, 3, 2);
        m.mask_weight = tfb_view2(m.w_out.data, TFB_F32, 2, 5));
    BAD(TFB_ERR_DTYPE, "v is I32", v.dtype = TFB_I32);
    BAD(TFB_ERR_SHAPE, "channels", m.channels = -1);
    BAD(TFB_ERR_SHAPE, "circular", m.kind = TFB_CKCONV_TAPS;
        m.taps = tfb_view2(taps, TFB_F32, 9, 5)); /* longer than the circle */
    CHECK_FAILS(&ctx, TFB_ERR_UNSUPPORTED, "causal",
                tfb__ckconv_ops.step(&ctx, &d.m, &x.call, &state));
    mixing_free(&x);
    mixing_new(&x, &film, &n, 2);
    cond = x.cond;
    x.call.cond = &cond;
    cond.shape[1] = 2;
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "cond.shape[1] is 2, needs 3",
                tfb__ckconv_ops.forward(&ctx, &film.m, &x.call));
    cond = x.cond;
    cond.shape[0] = 1;
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "cond.shape[0]",
                tfb__ckconv_ops.forward(&ctx, &film.m, &x.call));
    x.call.cond = NULL;
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "cond is NULL",
                tfb__ckconv_ops.forward(&ctx, &film.m, &x.call));
    mixing_free(&x);
    module_free(&d), module_free(&film);
    tfb_ctx_free(&ctx);
}

int main(void) {
    RUN(kernels_are_the_reference);
    RUN(kernels_are_near_float64);
    RUN(kernels_of_other_lengths);
    RUN(what_is_drawn);
    RUN(flops_are_integers);
    RUN(forward_is_the_reference);
    RUN(transforms_are_near_sums);
    RUN(kept_kernels_have_the_same_bits);
    RUN(changed_parameters_are_seen);
    RUN(scratch_and_channels);
    RUN(steps_are_forward);
    RUN(steps_by_blocks);
    RUN(direct_sums_are_causal);
    RUN(what_init_refuses);
    RUN(what_kernels_refuse);
    RUN(what_prepare_refuses);
    RUN(what_the_mixer_refuses);
    FINISH();
}
