/* mixers.h - what test_mixers.c and test_mixer_states.c share: blocks of many kinds. */
#ifndef MIXERS_H
#define MIXERS_H

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

static void *bytes_new(size_t n) {
    void *p = malloc(n + (n == 0));
    if (!p) exit(99);
    return p;
}

TFB__UNUSED static float *floats_copy(const float *from, tfb_idx n) {
    return (float *)memcpy(bytes_new((size_t)n * 4), from, (size_t)n * 4);
}

static tfb_tensor with_data(tfb_tensor t, void *data) {
    t.data = data;
    return t;
}

/* --- Blocks of many kinds. --- */
typedef struct kind {
    const char *name;
    tfb_idx C, H, G, window;
    tfb_causal causal;
    tfb_qk_norm norm;
    int norm_last, weights, rotate, bias;
    int mamba; /* 1; 2: both directions */
} kind;

#define BR   TFB_CAUSAL_BOTTOM_RIGHT
#define OPEN TFB_CAUSAL_NONE
#define NONE TFB_QK_NORM_NONE
#define RMS  TFB_QK_NORM_RMS
#define L2   TFB_QK_NORM_L2

static const kind kinds[] = {
    {"plain", 12, 2, 2, 0, BR, NONE, 0, 0, 0, 0, 0},
    {"biased, grouped, rope, rms", 48, 4, 2, 0, BR, RMS, 0, 1, 1, 1, 0},
    {"one kv head, window, rope, l2 last", 24, 2, 1, 5, BR, L2, 1, 0, 1, 1, 0},
    {"odd head, rms", 15, 3, 3, 0, BR, RMS, 0, 0, 0, 1, 0},
    {"mamba", 9, 0, 0, 0, OPEN, NONE, 0, 0, 0, 1, 1},
    {"wide mamba", 34, 0, 0, 0, OPEN, NONE, 0, 0, 0, 0, 1},
    {"open", 48, 4, 1, 0, OPEN, RMS, 1, 1, 1, 1, 0},
    {"one channel", 1, 1, 1, 0, OPEN, NONE, 0, 0, 0, 1, 0},
    {"mamba both ways", 10, 0, 0, 0, OPEN, NONE, 0, 0, 0, 1, 2},
};
enum { STEPPED = 6 }; /* the first ones can be stepped */
#define EACH_KIND(k)    for (k = kinds; k < kinds + COUNT(kinds); k++)
#define EACH_STEPPED(k) for (k = kinds; k < kinds + STEPPED; k++)

typedef struct rig { /* not to be moved: the block points to its mixer */
    tfb_qkv block;
    tfb_attention_mixer att;
    tfb_mamba mamba;
    void *mem, *core;
    float weight[2][64];
} rig;

static void rig_attention(rig *r, const kind *k) {
    const tfb_idx D = k->C / k->H;
    int i;
    r->att.heads = k->H;
    r->att.kv_heads = k->G == k->H ? 0 : k->G;
    r->att.opts.causal = k->causal;
    r->att.opts.window = k->window;
    r->att.norm = k->norm;
    r->att.norm_last = k->norm_last;
    r->att.rotate = k->rotate;
    for (i = 0; i < 64; i++) r->weight[0][i] = t_float(), r->weight[1][i] = t_float();
    if (!k->weights) return;
    r->att.q_weight = tfb_view1(r->weight[0], TFB_F32, D);
    r->att.k_weight = tfb_view1(r->weight[1], TFB_F32, D);
}

static void rig_new(tfb_ctx *ctx, rig *r, const kind *k) {
    tfb_qkv_opts o;
    tfb_mamba_opts m;
    memset((void *)r, 0, sizeof *r);
    memset((void *)&o, 0, sizeof o);
    memset((void *)&m, 0, sizeof m);
    o.channels = k->C;
    o.bias = k->bias;
    o.seed = 7;
    if (k->mamba) {
        m.channels = k->C;
        m.states = k->bias ? 0 : 5;
        m.taps = k->bias ? 0 : 3;
        m.seed = 11;
        m.bidirectional = k->mamba == 2;
        r->core = bytes_new(tfb_mamba_bytes(&m));
        CHECK_OK(ctx, tfb_mamba_init(ctx, &r->mamba, &m, r->core, tfb_mamba_bytes(&m)));
        o.mixer = tfb_mamba_as_mixer(&r->mamba);
    } else {
        rig_attention(r, k);
        o.kv_channels = k->C / k->H * k->G;
        o.mixer = tfb_attention_as_mixer(&r->att);
    }
    r->mem = bytes_new(tfb_qkv_bytes(&o));
    CHECK_OK(ctx, tfb_qkv_init(ctx, &r->block, &o, r->mem, tfb_qkv_bytes(&o)));
}

static void rig_free(rig *r) {
    free(r->mem);
    free(r->core);
}
#endif
