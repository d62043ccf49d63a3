/* The Hyena mixer: every part of it against plain loops by bits, over many shapes; order
 * of the parts, scratch, costs, steps, and calls with everything wrong that can be. */
#include "../test.h"
#include "mixers.h"
#include "longs.h"

#define Z TFB_EDGE_ZERO
#define O TFB_EDGE_CIRCULAR
#define P TFB_EDGE_CAUSAL

typedef struct form {
    int axes;
    tfb_edge edge[3];
    tfb_idx n[3], taps[3]; /* of the short convolutions */
    int causal;
} form;
static const form forms[] = {
    {1, {P, Z, Z}, {1, 1, 1}, {3, 0, 0}, 1},   {1, {P, Z, Z}, {7, 1, 1}, {4, 0, 0}, 1},
    {1, {P, Z, Z}, {127, 1, 1}, {0, 0, 0}, 0}, {1, {Z, Z, Z}, {7, 1, 1}, {3, 0, 0}, 0},
    {1, {O, Z, Z}, {8, 1, 1}, {4, 0, 0}, 0},   {1, {Z, Z, Z}, {2, 1, 1}, {5, 0, 0}, 0},
    {1, {P, Z, Z}, {260, 1, 1}, {3, 0, 0}, 0}, {2, {Z, Z, Z}, {5, 3, 1}, {3, 3, 0}, 0},
    {2, {Z, O, Z}, {16, 17, 1}, {2, 3, 0}, 0}, {2, {O, O, Z}, {5, 6, 1}, {0, 0, 0}, 0},
    {3, {Z, Z, Z}, {3, 4, 5}, {1, 2, 3}, 0},   {3, {O, Z, O}, {4, 3, 5}, {3, 3, 3}, 0}};

typedef struct option {
    tfb_idx C, groups, cond;
    tfb_fn gate1, gate2;
    int gate2_set;
    tfb_qk_norm qk, norm, out;
} option;
static const option options[] = {
    {5, 0, 0, TFB_FN_SILU, TFB_FN_SIGMOID, 1, NONE, NONE, NONE},
    {6, 3, 0, TFB_FN_IDENTITY, TFB_FN_IDENTITY, 0, RMS, NONE, NONE},
    {17, 0, 3, TFB_FN_TANH, TFB_FN_IDENTITY, 0, L2, RMS, RMS},
    {4, 6, 0, TFB_FN_IDENTITY, TFB_FN_SILU, 1, L2, L2, NONE},
    {66, 99, 0, TFB_FN_GELU_ERF, TFB_FN_IDENTITY, 1, RMS, NONE, L2}};

typedef struct module {
    tfb_hyena m;
    tfb_hyena_opts o;
    void *mem;
    tfb_tensor part[3], y, want, cond;
    tfb_mix call;
} module;

static tfb_status stirred(void *user, const char *name, tfb_tensor *t) {
    tfb_idx i;
    (void)user;
    if (strstr(name, "weight") || strstr(name, "film_w2"))
        for (i = 0; i < tfb_numel(t); i++) ((float *)t->data)[i] += 0.3f * t_float();
    return TFB_OK;
}

static void module_new(tfb_ctx *ctx, module *d, const option *p, const form *f,
                       tfb_idx B) {
    tfb_idx s[5];
    size_t n;
    int i;
    memset((void *)d, 0, sizeof *d);
    d->o.conv.channels = p->C, d->o.conv.axes = f->axes, d->o.conv.cond = p->cond;
    d->o.conv.hidden = 3, d->o.conv.omega0 = 2, d->o.conv.seed = 9;
    d->o.conv.method = TFB_CONV_DIRECT;
    for (i = 0; i < f->axes; i++) {
        d->o.conv.edge[i] = f->edge[i], d->o.conv.length[i] = 6;
        d->o.short_taps[i] = f->taps[i];
    }
    d->o.short_causal = f->causal, d->o.short_groups = f->taps[0] ? p->groups : 0;
    d->o.gate1 = p->gate1, d->o.gate2 = p->gate2, d->o.gate2_set = p->gate2_set;
    d->o.qk_norm = p->qk, d->o.norm = p->norm, d->o.out_norm = p->out;
    n = tfb_hyena_bytes(&d->o);
    d->mem = bytes_new(n);
    CHECK_OK(ctx, tfb_hyena_init(ctx, &d->m, &d->o, d->mem, n));
    CHECK_OK(ctx, tfb__hyena_params(&d->m, stirred, NULL));
    s[0] = B, s[f->axes + 1] = 3 * p->C;
    for (i = 0; i < f->axes; i++) s[i + 1] = f->n[i];
    d->part[0] = tfb__view(NULL, TFB_F32, f->axes + 2, s);
    d->part[0].data = t_floats(tfb_numel(d->part));
    for (i = 2; i >= 0; i--) {
        d->part[i] = d->part[0];
        d->part[i].shape[f->axes + 1] = p->C;
        d->part[i].data = (float *)d->part[0].data + i * p->C;
    }
    d->y = dense_like(d->part), d->want = dense_like(d->part);
    d->cond = tfb_view2(t_floats(B * (p->cond + 1)), TFB_F32, B, p->cond);
    d->call.q = d->part, d->call.k = d->part + 1, d->call.v = d->part + 2;
    d->call.y = &d->y, d->call.cond = &d->cond;
}

static void module_free(module *d) {
    tfb_ckconv_forget(&d->m.conv);
    free(d->part[0].data), free(d->y.data), free(d->want.data), free(d->cond.data);
    free(d->mem);
}

#define EACH(f, p)                                                                       \
    for (f = 0; f < COUNT(forms); f++)                                                   \
        for (p = 0; p < COUNT(options); p++)

static void forward_is_the_reference(void) {
    int f, p, workers;
    for (workers = 1; workers < 3; workers++) {
        tfb_ctx ctx;
        t_ctx(&ctx, NULL);
        if (workers > 1) CHECK_OK(&ctx, tfb_ctx_threads(&ctx, workers, 0));
        EACH(f, p) {
            const tfb_idx B = workers > 1 ? 2 : 1;
            module d;
            if (workers > 1 && (f + p) % 3) continue;
            module_new(&ctx, &d, &options[p], &forms[f], B);
            d.call.y = &d.want;
            hyena_ref(&ctx, &d.m, &d.call);
            d.call.y = &d.y;
            CHECK_OK(&ctx, tfb__hyena_ops.forward(&ctx, &d.m, &d.call));
            CHECK_BITS((float *)d.y.data, (float *)d.want.data, tfb_numel(&d.y),
                       "form %d, option %d", f, p);
            if (!options[p].cond) { /* and with a kept kernel */
                CHECK_OK(&ctx, tfb_ckconv_prepare(&ctx, &d.m.conv, forms[f].n,
                                                  forms[f].axes, NULL, 0));
                d.call.inference = 1;
                memset(d.y.data, 0, (size_t)tfb_numel(&d.y) * 4);
                CHECK_OK(&ctx, tfb__hyena_ops.forward(&ctx, &d.m, &d.call));
                CHECK_BITS((float *)d.y.data, (float *)d.want.data, tfb_numel(&d.y),
                           "form %d, option %d, kept", f, p);
            }
            module_free(&d);
        }
        tfb_ctx_free(&ctx);
    }
}

/* Two samples at once are two samples; batches of kernels too. */
static void batch_does_not_matter(void) {
    int f, p;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    EACH(f, p) {
        module d;
        tfb_idx b;
        if ((f + 2 * p) % 4) continue;
        module_new(&ctx, &d, &options[p], &forms[f], 3);
        CHECK_OK(&ctx, tfb__hyena_ops.forward(&ctx, &d.m, &d.call));
        for (b = 0; b < 3; b++) {
            tfb_tensor part[3], one = d.want, cond = d.cond;
            const tfb_idx n = tfb_numel(&d.y) / 3;
            tfb_mix call = d.call;
            int i;
            for (i = 0; i < 3; i++) {
                part[i] = d.part[i];
                part[i].shape[0] = 1;
                part[i].data = (float *)part[i].data + b * part[i].stride[0];
            }
            one.shape[0] = cond.shape[0] = 1;
            cond.data = (float *)cond.data + b * cond.stride[0];
            call.q = part, call.k = part + 1, call.v = part + 2, call.y = &one;
            call.cond = &cond;
            CHECK_OK(&ctx, tfb__hyena_ops.forward(&ctx, &d.m, &call));
            CHECK_BITS((float *)d.y.data + b * n, (float *)one.data, n,
                       "form %d, option %d, sample %ld", f, p, (long)b);
        }
        module_free(&d);
    }
    tfb_ctx_free(&ctx);
}

/* Transforms instead of sums, with kept spectra too, which are the same ones. */
static void transforms_are_near_sums(void) {
    int f, p;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    EACH(f, p) {
        const float *want, *got;
        float top = 0;
        module d;
        tfb_idx i, n;
        if ((f + p) % 2) continue;
        module_new(&ctx, &d, &options[p], &forms[f], 2);
        n = tfb_numel(&d.y), want = (float *)d.want.data, got = (float *)d.y.data;
        d.call.y = &d.want;
        CHECK_OK(&ctx, tfb__hyena_ops.forward(&ctx, &d.m, &d.call));
        d.call.y = &d.y;
        d.m.conv.method = TFB_CONV_FFT;
        CHECK_OK(&ctx, tfb__hyena_ops.forward(&ctx, &d.m, &d.call));
        for (i = 0; i < n; i++) top = TFB__MAX(top, want[i] < 0 ? -want[i] : want[i]);
        for (i = 0; i < n; i++) {
            const float off = got[i] - want[i];
            CHECK((off < 0 ? -off : off) <= 2e-5f * top, "form %d, option %d: %g, not %g",
                  f, p, (double)got[i], (double)want[i]);
        }
        memcpy(d.want.data, got, (size_t)n * 4);
        if (!options[p].cond) {
            CHECK_OK(&ctx, tfb_ckconv_prepare(&ctx, &d.m.conv, forms[f].n, forms[f].axes,
                                              NULL, 0));
            d.call.inference = 1;
            CHECK_OK(&ctx, tfb__hyena_ops.forward(&ctx, &d.m, &d.call));
            CHECK_BITS(got, want, n, "form %d, option %d, kept", f, p);
        }
        module_free(&d);
    }
    tfb_ctx_free(&ctx);
}

/* A later token changes nothing before it. */
static void direct_sums_are_causal(void) {
    const tfb_idx late = 61;
    int p, i;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    for (p = 0; p < COUNT(options); p++)
        for (i = 0; i < 3; i++) {
            const tfb_idx C = options[p].C;
            form f = forms[2];
            module d;
            f.taps[0] = 4, f.causal = 1;
            module_new(&ctx, &d, &options[p], &f, 1);
            CHECK_OK(&ctx, tfb__hyena_ops.forward(&ctx, &d.m, &d.call));
            memcpy(d.want.data, d.y.data, (size_t)(127 * C) * 4);
            ((float *)d.part[i].data)[late * 3 * C] += 1;
            CHECK_OK(&ctx, tfb__hyena_ops.forward(&ctx, &d.m, &d.call));
            CHECK(memcmp(d.y.data, d.want.data, (size_t)(late * C) * 4) == 0,
                  "option %d, part %d", p, i);
            CHECK(memcmp(d.y.data, d.want.data, (size_t)(127 * C) * 4) != 0,
                  "option %d, part %d: no change", p, i);
            module_free(&d);
        }
    tfb_ctx_free(&ctx);
}

/* --- Steps of a block with film, of samples that are conditioned differently. --- */
static void steps_are_forward(void) {
    static const tfb_idx most[] = {1, 3, 50, 260};
    enum { B = 2, T = 260 };
    int p, i;
    for (p = 0; p < COUNT(options); p++) {
        form f = forms[6];
        const tfb_idx C = options[p].C;
        tfb_qkv_opts o;
        tfb_qkv_call call;
        tfb_mixer_state state;
        float *got = t_floats(B * T * C), *want = t_floats(B * T * C);
        tfb_tensor x = tfb_view3(t_floats(B * T * C), TFB_F32, B, T, C), y;
        tfb_qkv block;
        tfb_ctx ctx;
        module d;
        void *mem;
        t_ctx(&ctx, NULL);
        f.causal = 1;
        module_new(&ctx, &d, &options[p], &f, B);
        memset((void *)&o, 0, sizeof o);
        memset((void *)&call, 0, sizeof call);
        o.channels = C, o.bias = 1, o.mixer = tfb_hyena_as_mixer(&d.m);
        mem = bytes_new(tfb_qkv_bytes(&o));
        CHECK_OK(&ctx, tfb_qkv_init(&ctx, &block, &o, mem, tfb_qkv_bytes(&o)));
        y = with_data(x, want);
        call.cond = &d.cond;
        call.inference = 1;
        CHECK_OK(&ctx, tfb_qkv_forward(&ctx, &block, &x, &call, &y));
        CHECK_OK(&ctx, tfb_mixer_state_init(&ctx, &state, &block, B, T, NULL, 0));
        if (!options[p].cond)
            CHECK_OK(&ctx, tfb_ckconv_prepare(&ctx, &d.m.conv, f.n, 1, NULL, 0));
        for (i = 0; i < COUNT(most); i++) {
            tfb_idx t, n;
            if (options[p].cond && most[i] < 50) continue;
            tfb_mixer_state_reset(&state);
            for (t = 0; t < T; t += n) {
                tfb_tensor in = x, out = x;
                n = TFB__MIN(most[i], T - t);
                in.shape[1] = out.shape[1] = n;
                in.data = (float *)x.data + t * C, out.data = got + t * C;
                CHECK_OK(&ctx, tfb_qkv_step(&ctx, &block, &state, &in, &call, &out));
            }
            CHECK_BITS(got, want, B * T * C, "option %d, %ld a step", p, (long)most[i]);
        }
        tfb_mixer_state_free(&state);
        module_free(&d);
        tfb_ctx_free(&ctx);
        free(mem), free(x.data), free(want), free(got);
    }
}

/* --- Scratch: what the header says, in measuring. --- */
static size_t scratch_of(tfb_idx C, tfb_idx T, tfb_qk_norm norm) {
    const option p = {
        C, 0, 0, norm ? TFB_FN_IDENTITY : TFB_FN_SILU, TFB_FN_SILU, 1, norm, NONE, NONE};
    form f = {1, {P, Z, Z}, {0, 1, 1}, {3, 0, 0}, 1};
    tfb_ctx ctx, measure;
    size_t need;
    module d;
    f.n[0] = T;
    t_ctx(&ctx, NULL);
    CHECK_OK(&measure, tfb_ctx_init_measure(&measure));
    module_new(&ctx, &d, &p, &f, 1);
    CHECK_OK(&measure, tfb__hyena_ops.forward(&measure, &d.m, &d.call));
    need = measure.scratch_peak;
    module_free(&d);
    tfb_ctx_free(&ctx);
    return need;
}

static void scratch_and_channels(void) {
    const size_t few = scratch_of(128, 500, NONE), many = scratch_of(1024, 500, NONE);
    const size_t normed = scratch_of(1024, 500, RMS);
    CHECK(few == many, "128 channels: %ld, 1024: %ld", (long)few, (long)many);
    /* 64 floats a tap for the kernel, 3 for hidden ones, panels of x and of the kernel */
    CHECK(many <= 500 * (64 + 3 + 32) * 4 + 170000, "%ld bytes", (long)many);
    CHECK(normed >= 500 * 1024 * 4 && normed <= 500 * 1024 * 4 + 100000, "normed: %ld",
          (long)normed);
}

/* --- Costs, and what is drawn. --- */
static void flops_are_integers(void) {
    int f, p, inference, i;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    EACH(f, p) for (inference = 0; inference < 2; inference++) {
        const option *o = &options[p];
        int64_t S = 1, taps = 1, want, got;
        module d;
        module_new(&ctx, &d, o, &forms[f], 1);
        for (i = 0; i < forms[f].axes; i++) S *= forms[f].n[i], taps *= forms[f].taps[i];
        want = tfb__ckconv_flops(&d.m.conv, o->C, forms[f].n, forms[f].axes, inference);
        want += 2 * 3 * o->C * S * taps + 2 * o->C * S;
        if (o->qk) want += 3 * o->C * S * (o->gate1 ? 1 : 2);
        if (o->norm) want += 3 * o->C * S;
        if (o->out) want += 3 * o->C * S;
        if (o->gate1) want += o->C * S;
        if (o->gate2_set ? o->gate2 : o->gate1) want += o->C * S;
        got = tfb__hyena_flops(&d.m, o->C, forms[f].n, forms[f].axes, inference);
        CHECK(got == want, "form %d, option %d: %ld, wanted %ld", f, p, (long)got,
              (long)want);
        CHECK(tfb__hyena_flops(&d.m, o->C, forms[f].n, forms[f].axes % 3 + 1, 0) == -1,
              "axes");
        module_free(&d);
    }
    tfb_ctx_free(&ctx);
}

static tfb_status counted(void *user, const char *name, tfb_tensor *t) {
    (void)t;
    *(int *)user += strncmp(name, "hyena.", 6) == 0;
    return TFB_OK;
}

static void parameters(void) {
    const int want[] = {1, 3, 4, 4, 3};
    const option *o = &options[2];
    module d;
    tfb_ctx ctx;
    float *save;
    size_t n;
    int p;
    t_ctx(&ctx, NULL);
    for (p = 0; p < COUNT(options); p++) {
        int own = 0;
        module_new(&ctx, &d, &options[p], &forms[1], 1);
        CHECK_OK(&ctx, tfb__hyena_params(&d.m, counted, &own));
        CHECK(own == want[p], "option %d: %d of its own", p, own);
        module_free(&d);
    }
    module_new(&ctx, &d, o, &forms[1], 1);
    CHECK(tfb_params_count(tfb__hyena_params, &d.m) ==
              3 * o->C * 4 + 3 * o->C + tfb_params_count(tfb__ckconv_params, &d.m.conv),
          "parameters");
    n = tfb_params_bytes(tfb__hyena_params, &d.m);
    save = (float *)bytes_new(n);
    CHECK_OK(&ctx, tfb_params_save(&ctx, tfb__hyena_params, &d.m, save, n));
    CHECK_OK(&ctx, tfb__hyena_ops.forward(&ctx, &d.m, &d.call));
    memcpy(d.want.data, d.y.data, (size_t)tfb_numel(&d.y) * 4);
    CHECK_OK(&ctx, tfb__hyena_params(&d.m, stirred, NULL));
    CHECK_OK(&ctx, tfb__hyena_ops.forward(&ctx, &d.m, &d.call));
    CHECK(memcmp(d.y.data, d.want.data, (size_t)tfb_numel(&d.y) * 4) != 0, "changed");
    CHECK_OK(&ctx, tfb_params_load(&ctx, tfb__hyena_params, &d.m, save, n));
    CHECK_OK(&ctx, tfb__hyena_ops.forward(&ctx, &d.m, &d.call));
    CHECK_BITS((float *)d.y.data, (float *)d.want.data, tfb_numel(&d.y), "loaded");
    module_free(&d);
    tfb_ctx_free(&ctx);
    free(save);
}

/* --- Misuse. --- */
static void what_init_refuses(void) {
    tfb_hyena_opts good, o;
    tfb_hyena m, was;
    float mem[4096];
    tfb_ctx ctx;
    size_t n;
    t_ctx(&ctx, NULL);
    memset((void *)&good, 0, sizeof good);
    memset((void *)&m, 7, sizeof m);
    was = m;
    good.conv.channels = 4, good.conv.length[0] = 8, good.conv.hidden = 4;
    good.short_taps[0] = 3;
    n = tfb_hyena_bytes(&good);
#define BAD(text, change)                                                                \
    do {                                                                                 \
        o = good;                                                                        \
        change;                                                                          \
        CHECK(tfb_hyena_bytes(&o) == 0, "bytes of %s", text);                            \
        CHECK_FAILS(&ctx, TFB_ERR_RANGE, text,                                           \
                    tfb_hyena_init(&ctx, &m, &o, mem, sizeof mem));                      \
    } while (0)
    BAD("channels", o.conv.channels = 0);
    BAD("length", o.conv.length[0] = 0);
    BAD("causal needs one axis", o.conv.axes = 2; o.conv.length[1] = 4;
        o.conv.edge[1] = P);
    BAD("gated", o.conv.gated = 1);
    BAD("short_taps", o.short_taps[0] = -1);
    BAD("short_taps", o.conv.axes = 2; o.conv.length[1] = 4);
    BAD("short_causal", o.conv.axes = 2; o.conv.length[1] = 4; o.short_taps[1] = 3;
        o.short_causal = 1);
    BAD("short_groups", o.short_groups = 5);
    BAD("short_groups", o.short_groups = -1);
    BAD("gate", o.gate1 = (tfb_fn)-1);
    BAD("gate", o.gate2 = TFB__FNS);
    BAD("norm", o.qk_norm = (tfb_qk_norm)3);
    BAD("norm", o.norm = (tfb_qk_norm)-1);
    BAD("norm", o.out_norm = (tfb_qk_norm)3);
#undef BAD
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "m is NULL",
                tfb_hyena_init(&ctx, NULL, &good, mem, n));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "opts is NULL",
                tfb_hyena_init(&ctx, &m, NULL, mem, n));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "mem is NULL",
                tfb_hyena_init(&ctx, &m, &good, NULL, n));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "aligned",
                tfb_hyena_init(&ctx, &m, &good, (char *)mem + 1, n));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "needs",
                tfb_hyena_init(&ctx, &m, &good, mem, n - 1));
    CHECK(tfb_hyena_init(NULL, &m, &good, mem, n) == TFB_ERR_ARG, "ctx");
    CHECK(tfb_hyena_bytes(NULL) == 0, "NULL");
    CHECK(memcmp(&m, &was, sizeof m) == 0, "a refused init changed the module");
    tfb_ctx_free(&ctx);
}

static void what_the_mixer_refuses(void) {
    module d, film;
    tfb_mixer_state state;
    tfb_ctx ctx;
    float *was;
    t_ctx(&ctx, NULL);
    memset((void *)&state, 0, sizeof state);
    module_new(&ctx, &d, &options[3], &forms[1], 2);
    module_new(&ctx, &film, &options[2], &forms[1], 2);
    was = floats_copy((float *)d.y.data, tfb_numel(&d.y));
#define BAD(status, text, change)                                                        \
    do {                                                                                 \
        tfb_hyena m = d.m;                                                               \
        tfb_tensor q = d.part[0], k = d.part[1], v = d.part[2], y = d.y;                 \
        tfb_mix call = d.call;                                                           \
        call.q = &q, call.k = &k, call.v = &v, call.y = &y;                              \
        change;                                                                          \
        CHECK_FAILS(&ctx, status, text, tfb__hyena_ops.forward(&ctx, &m, &call));        \
    } while (0)
    BAD(TFB_ERR_SHAPE, "q.shape[2]", q.shape[2]--);
    BAD(TFB_ERR_SHAPE, "k.shape[2]", k.shape[2]--);
    BAD(TFB_ERR_SHAPE, "v.shape[1]", v.shape[1]--);
    BAD(TFB_ERR_SHAPE, "y.shape[2]", y.shape[2]--);
    BAD(TFB_ERR_SHAPE, "k.ndim", k.ndim++);
    BAD(TFB_ERR_DTYPE, "v is U8", v.dtype = TFB_U8);
    BAD(TFB_ERR_ARG, "gate", m.gate1 = TFB__FNS);
    BAD(TFB_ERR_ARG, "gate", m.gate2 = (tfb_fn)-3);
    BAD(TFB_ERR_SHAPE, "q_weight", m.q_weight.shape[0]--);
    BAD(TFB_ERR_SHAPE, "k_weight", m.k_weight.shape[0]--);
    BAD(TFB_ERR_SHAPE, "z_weight", m.z_weight.shape[0]--);
    BAD(TFB_ERR_SHAPE, "y_weight", m.y_weight = tfb_view1(was, TFB_F32, 1));
    BAD(TFB_ERR_SHAPE, "short_w has 5 groups", m.short_w.shape[0] = 5);
    BAD(TFB_ERR_SHAPE, "short_w has 6 groups of 0", m.short_w.shape[1] = 0);
    BAD(TFB_ERR_SHAPE, "short_w.ndim", m.short_w.ndim = 3; m.short_w.shape[2] = 1);
    BAD(TFB_ERR_DTYPE, "short_w is F16", m.short_w.dtype = TFB_F16);
    BAD(TFB_ERR_SHAPE, "w0.shape[1]", m.conv.w0.shape[1] = 2);
    d.m.short_causal = 0;
    CHECK_FAILS(&ctx, TFB_ERR_UNSUPPORTED, "short",
                tfb__hyena_ops.step(&ctx, &d.m, &d.call, &state));
    d.m.conv.edge[0] = Z;
    CHECK_FAILS(&ctx, TFB_ERR_UNSUPPORTED, "causal axis",
                tfb__hyena_ops.step(&ctx, &d.m, &d.call, &state));
    CHECK_BITS((float *)d.y.data, was, tfb_numel(&d.y), "refused calls");
    film.cond.shape[1] = 2;
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "cond.shape[1] is 2, needs 3",
                tfb__hyena_ops.forward(&ctx, &film.m, &film.call));
    film.call.cond = NULL;
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "cond is NULL",
                tfb__hyena_ops.forward(&ctx, &film.m, &film.call));
    module_free(&d), module_free(&film);
    tfb_ctx_free(&ctx);
    free(was);
}

int main(void) {
    RUN(forward_is_the_reference);
    RUN(batch_does_not_matter);
    RUN(transforms_are_near_sums);
    RUN(direct_sums_are_causal);
    RUN(steps_are_forward);
    RUN(scratch_and_channels);
    RUN(flops_are_integers);
    RUN(parameters);
    RUN(what_init_refuses);
    RUN(what_the_mixer_refuses);
    FINISH();
}
