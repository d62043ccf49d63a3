/* Every block and every option that a TFB_NO_ switch can leave out, one line each:
 * "name hash" if it is there, nothing if it is not declared, "name left out" if the call
 * says that it is UNSUPPORTED. What remains has the hash it has in a whole build, on
 * every target; tests/embedded/run.sh runs this on the smallest board too. */
#define TFBLOCKS_IMPLEMENTATION
#include "tfblocks.h"
#include <stdio.h>

#ifdef TFB_SMALL
#define SCRATCH 4096
#else
#define SCRATCH 65536
#endif
static double scratch[SCRATCH / sizeof(double)], cache[2048 / sizeof(double)];
static float data[1024];
static int used, failed;
static tfb_ctx ctx;

static float *room(int n) {
    float *p = data + used;
    used += n;
    memset((void *)p, 0, (size_t)n * sizeof *p);
    return p;
}

static float *noise(int n, unsigned seed, float scale) { /* at most 512 scale */
    float *p = room(n);
    int i;
    for (i = 0; i < n; i++) {
        uint32_t u = (uint32_t)i * 0x9E3779B1u + seed * 0x85EBCA6Bu;
        u = (u ^ u >> 15) * 0x2C1B3C6Du;
        p[i] = ((float)(u >> 8) - 8388608.0f) * (scale / 16384.0f);
    }
    return p;
}

/* FNV-1a (Fowler, Noll, Vo) over the elements' bits, low byte first; then starts anew. */
static void show(const char *name, tfb_status status, const tfb_tensor *t) {
    const uint32_t *p = (const uint32_t *)t->data;
    unsigned long h = 0x811C9DC5ul;
    tfb_idx i;
    int byte;
    used = 0;
    for (i = 0; i < tfb_numel(t); i++)
        for (byte = 0; byte < 32; byte += 8)
            h = (h ^ (p[i] >> byte & 255)) * 0x01000193ul & 0xFFFFFFFFul;
    if (status == TFB_OK) printf("%s %08lX\n", name, h);
    else if (status == TFB_ERR_UNSUPPORTED) printf("%s left out\n", name);
    else printf("%s gave %d %s\n", name, (int)status, ctx.message);
    failed |= status != TFB_OK && status != TFB_ERR_UNSUPPORTED;
#ifndef TFB_NO_MESSAGES
    failed |= status == TFB_ERR_UNSUPPORTED && !strstr(ctx.message, "TFB_NO_");
#endif
}

#ifndef TFB_NO_TENSOR_OPS
static void tensor_ops(void) {
#define FN_ROW(NAME, name) {"map_" #name, TFB_FN_##NAME},
    static const struct {
        const char *name;
        tfb_fn fn;
    } fns[] = {TFB_FN_LIST(FN_ROW){NULL, TFB_FN_IDENTITY}};
    tfb_tensor x, y;
    int i;
    for (i = 0; fns[i].name; i++) {
        x = tfb_view1(noise(40, 7, 0.01171875f), TFB_F32, 40);
        y = tfb_view1(room(40), TFB_F32, 40);
        show(fns[i].name, tfb_map(&ctx, fns[i].fn, &x, &y), &y);
    }
    x = tfb_view1(noise(40, 7, 0.01171875f), TFB_F32, 40);
    y = tfb_view1(room(40), TFB_BF16, 40);
    show("half", tfb_copy(&ctx, &x, &y), &x);
}
#endif

#if !defined(TFB_NO_MATMUL) || !defined(TFB_NO_LINEAR)
static void products(void) {
    tfb_tensor x = tfb_view2(noise(60, 3, 0.0625f), TFB_F32, 3, 20);
    tfb_tensor w = tfb_view2(noise(200, 5, 0.0625f), TFB_F32, 10, 20);
    tfb_tensor y = tfb_view2(room(30), TFB_F32, 3, 10);
#ifndef TFB_NO_MATMUL
    tfb_tensor b = tfb_view2(w.data, TFB_F32, 20, 10);
    show("matmul", tfb_matmul(&ctx, &x, &b, &y), &y);
    used = 290;
#endif
#ifndef TFB_NO_LINEAR
    {
        tfb_linear_opts o;
        tfb_tensor half = tfb_view2(room(15), TFB_F32, 3, 5);
        memset((void *)&o, 0, sizeof o);
        o.act = TFB_FN_RELU;
        show("linear", tfb_linear(&ctx, &x, &w, &o, &y), &y);
        used = 305;
        o.gate = TFB_GATE_HALVES;
        show("gates", tfb_linear(&ctx, &x, &w, &o, &half), &half);
        used = 305;
    }
#endif
#ifndef TFB_NO_PACKS
    {
        tfb_tensor packed;
        float *mem = room(16 + 16 * 20);
        show("pack", tfb_pack(&ctx, &w, mem, 4 * (16 + 16 * 20), &packed), &w);
        used = 0;
        show("linear_packed", tfb_linear(&ctx, &x, &packed, NULL, &y), &y);
    }
#endif
    used = 0;
}
#endif

#if !defined(TFB_NO_NORMS) || !defined(TFB_NO_SOFTMAX) || !defined(TFB_NO_ROPE)
static void rows(void) {
    tfb_tensor x = tfb_view2(noise(105, 37, 0.0078125f), TFB_F32, 3, 35);
    tfb_tensor y = tfb_view2(room(105), TFB_F32, 3, 35);
    tfb_tensor lse = tfb_view1(room(3), TFB_F32, 3);
    (void)lse;
#ifndef TFB_NO_NORMS
    show("rmsnorm", tfb_rmsnorm(&ctx, &x, NULL, &y), &y);
    show("layernorm", tfb_layernorm(&ctx, &x, NULL, &y), &y);
    show("l2norm", tfb_l2norm(&ctx, &x, NULL, &y), &y);
#endif
#ifndef TFB_NO_SOFTMAX
    show("softmax", tfb_softmax(&ctx, &x, &y, NULL), &y);
    show("softmax_lse", tfb_softmax(&ctx, &x, &y, &lse), &lse);
#endif
#ifndef TFB_NO_ROPE
    {
        tfb_rope_opts o;
        memset((void *)&o, 0, sizeof o);
        x = tfb_view4(x.data, TFB_F32, 1, 1, 5, 20);
        y = tfb_view4(y.data, TFB_F32, 1, 1, 5, 20);
        show("rope", tfb_rope(&ctx, &x, &o, &y), &y);
        o.compat = 1;
        show("rope_compat", tfb_rope(&ctx, &x, &o, &y), &y);
    }
#endif
}
#endif

#ifndef TFB_NO_ATTENTION
enum { T = 3, S = 9, D = 6 };

typedef struct inputs {
    tfb_tensor q, k, v, y, extra;
} inputs;

static inputs attention_inputs(void) {
    inputs in;
    used = 0;
    in.q = tfb_view4(noise(2 * T * D, 61, 0.001953125f), TFB_F32, 1, 2, T, D);
    in.k = tfb_view4(noise(S * D, 67, 0.0009765625f), TFB_F32, 1, 1, S, D);
    in.v = tfb_view4(noise(S * D, 71, 0.00390625f), TFB_F32, 1, 1, S, D);
    in.y = tfb_view4(room(2 * T * D), TFB_F32, 1, 2, T, D);
    in.extra = tfb_view4(noise(S, 73, 0.001953125f), TFB_F32, 1, 1, 1, S);
    return in;
}

static void attention_by(const char *name, const tfb_attention_opts *o) {
    inputs in = attention_inputs();
    show(name, tfb_attention(&ctx, &in.q, &in.k, &in.v, o, &in.y), &in.y);
}

static void attention(void) {
    static const int32_t start[] = {2}, pages[] = {0};
    inputs in = attention_inputs();
    tfb_tensor starts = tfb_view1(start, TFB_I32, 1);
    tfb_tensor table = tfb_view2(pages, TFB_I32, 1, 1), lse;
    tfb_attention_opts o, plain;
    tfb_qk_opts qk;
    memset((void *)&plain, 0, sizeof plain);
    memset((void *)&qk, 0, sizeof qk);
    plain.causal = TFB_CAUSAL_BOTTOM_RIGHT;
    attention_by("attention", &plain);
    o = plain;
    o.bias = &in.extra;
    attention_by("attention_masks", &o);
    o = plain;
    o.window = 4;
    attention_by("attention_windows", &o);
    o = plain;
    o.softcap = 1.5f;
    attention_by("attention_scores", &o);
    o = plain;
    o.kv_start = &starts;
    attention_by("attention_sequences", &o);
    o = plain;
    o.pages = &table;
    attention_by("attention_pages", &o);
    qk.norm = TFB_QK_NORM_RMS;
    o = plain;
    o.qk = &qk;
    attention_by("attention_qk", &o);
    in = attention_inputs();
    lse = tfb_view3(room(2 * T), TFB_F32, 1, 2, T);
    o = plain;
    o.lse = &lse;
    show("attention_lse", tfb_attention(&ctx, &in.q, &in.k, &in.v, &o, &in.y), &lse);
#ifndef TFB_NO_WEIGHTS
    in = attention_inputs();
    in.y = tfb_view4(room(2 * T * S), TFB_F32, 1, 2, T, S);
    show("weights", tfb_attention_weights(&ctx, &in.q, &in.k, &plain, NULL, &in.y),
         &in.y);
#endif
#ifndef TFB_NO_MERGE
    in = attention_inputs();
    lse = tfb_view3(noise(2 * T, 5, 0.001953125f), TFB_F32, 1, 2, T);
    show("merge", tfb_merge_state(&ctx, &in.q, &lse, &in.q, &lse, &in.y, NULL), &in.y);
#endif
}
#endif

#ifndef TFB_NO_KV
/* A cache made anew, with rows, and attention over it after what is done to it. */
static void kv_attend(const char *name, tfb_kv *kv, tfb_status status) {
    inputs in = attention_inputs();
    tfb_attention_opts o;
    memset((void *)&o, 0, sizeof o);
    o.causal = TFB_CAUSAL_OFFSET;
    o.offset = 4;
    if (!status) status = tfb_kv_attention(&ctx, kv, 0, &in.q, &o, &in.y);
    show(name, status, &in.y);
}

static tfb_status kv_make(tfb_kv *kv, int window, int ragged) {
    inputs in = attention_inputs();
    tfb_status status;
    tfb_kv_opts o;
    memset((void *)&o, 0, sizeof o);
    o.layers = 1;
    o.ragged = ragged;
    o.shape.batch = o.shape.kv_heads = 1;
    o.shape.head_dim = D;
    o.shape.max_tokens = window ? 0 : 2 * S;
    o.shape.window = window;
    if (window) o.shape.head_dim = in.k.shape[3] = in.v.shape[3] = 1;
    status = tfb_kv_init_static(&ctx, kv, &o, cache, sizeof cache);
    return status ? status : tfb_kv_append(&ctx, kv, 0, &in.k, &in.v);
}

static void kv_caches(void) {
    inputs in = attention_inputs();
    tfb_status status = TFB_OK;
    tfb_kv kv;
    (void)status;
    kv_attend("kv", &kv, kv_make(&kv, 0, 0));
    show("kv_rings", kv_make(&kv, 8, 0), &in.k);
#ifndef TFB_NO_KV_PLACES
    kv_make(&kv, 0, 1);
    kv_attend("kv_places", &kv, tfb_kv_update(&ctx, &kv, 0, &in.v, &in.k, NULL));
#endif
#ifndef TFB_NO_KV_EDIT
    kv_make(&kv, 0, 0);
    kv_attend("kv_edit", &kv, tfb_kv_crop(&ctx, &kv, 7, NULL));
#endif
#ifndef TFB_NO_KV_SHIFT
    kv_make(&kv, 0, 0);
    {
        tfb_rope_opts rope;
        memset((void *)&rope, 0, sizeof rope);
        kv_attend("kv_shift", &kv, tfb_kv_shift(&ctx, &kv, 0, 0, S, 3, &rope));
    }
#endif
#ifndef TFB_NO_KV_MARKS
    kv_make(&kv, 0, 0);
    tfb_kv_mark(&ctx, &kv);
    kv_attend("kv_marks", &kv, tfb_kv_rollback(&ctx, &kv, NULL));
#endif
#ifndef TFB_NO_KV_SAVE
    kv_make(&kv, 0, 0);
    status = tfb_kv_save(&ctx, &kv, room(200), 800);
    if (!status) status = tfb_kv_load(&ctx, &kv, data + used - 200, 800);
    kv_attend("kv_save", &kv, status);
#endif
}
#endif

#if !defined(TFB_NO_SCAN) || !defined(TFB_NO_RANDOM) || !defined(TFB_NO_CHUNKS)
#ifndef TFB_NO_CHUNKS
static tfb_status piece(tfb_ctx *c, void *user, const tfb_chunk *chunk) {
    (void)c, (void)user;
    memcpy(chunk->out->data, chunk->in->data, 4 * (size_t)tfb_numel(chunk->in));
    return TFB_OK;
}
#endif

static void others(void) {
    tfb_tensor x = tfb_view3(noise(40, 11, 0.0078125f), TFB_F32, 1, 5, 8);
    tfb_tensor y = tfb_view3(room(40), TFB_F32, 1, 5, 8);
    (void)x;
#ifndef TFB_NO_SCAN
    if (SCRATCH > 4096) { /* it needs 12 KB */
        tfb_tensor w = tfb_view2(noise(24, 13, 0.0078125f), TFB_F32, 8, 3);
        show("scan", tfb_causal_conv1d(&ctx, &x, &w, NULL, &y), &y);
        used = 80;
    }
#endif
#ifndef TFB_NO_RANDOM
    show("random", tfb_uniform(&ctx, 5, 0, -1, 1, &y), &y);
#endif
#ifndef TFB_NO_CHUNKS
    {
        tfb_chunk_opts o;
        memset((void *)&o, 0, sizeof o);
        o.dim = 1;
        o.chunk_size = 1;
        show("chunks", tfb_chunked_forward(&ctx, piece, NULL, &x, 1, &y, 1, &o), &y);
    }
#endif
}
#endif

#ifndef TFB_NO_MIXERS
static void mixers(void) {
    tfb_mhsa_opts o;
    tfb_mhsa m;
    tfb_tensor x, y;
    memset((void *)&o, 0, sizeof o);
    o.channels = 8;
    o.heads = 2;
    show("mixers",
         tfb_mhsa_init(&ctx, &m, &o, room((int)tfb_mhsa_bytes(&o) / 4),
                       tfb_mhsa_bytes(&o)),
         &m.block.wqkv);
    used = (int)tfb_mhsa_bytes(&o) / 4;
    x = tfb_view3(noise(24, 17, 0.0078125f), TFB_F32, 1, 3, 8);
    y = tfb_view3(room(24), TFB_F32, 1, 3, 8);
    show("qkv", tfb_qkv_forward(&ctx, &m.block, &x, NULL, &y), &y);
}
#endif

int main(void) {
    (void)cache;
    if (tfb_ctx_init_static(&ctx, scratch, sizeof scratch)) return 2;
#ifndef TFB_NO_TENSOR_OPS
    tensor_ops();
#endif
#if !defined(TFB_NO_MATMUL) || !defined(TFB_NO_LINEAR)
    products();
#endif
#if !defined(TFB_NO_NORMS) || !defined(TFB_NO_SOFTMAX) || !defined(TFB_NO_ROPE)
    rows();
#endif
#ifndef TFB_NO_ATTENTION
    attention();
#endif
#ifndef TFB_NO_KV
    kv_caches();
#endif
#if !defined(TFB_NO_SCAN) || !defined(TFB_NO_RANDOM) || !defined(TFB_NO_CHUNKS)
    others();
#endif
#ifndef TFB_NO_MIXERS
    mixers();
#endif
    return failed;
}
