/* One stored hash per public compute function: the same on every target, compiler, table
 * and optimisation level. The inputs are integers times powers of two, so that no
 * operand, product, sum or result is subnormal; a second run under flush-to-zero, where
 * the CPU can, proves that. After an intended change of bits:
 *     build/test_hash --print >hashes.new && mv hashes.new tests/unit/hashes.h */
#include "../test.h"

static const struct stored {
    const char *name;
    uint64_t hash;
} stored[] = {
#define HASH(name, hash) {#name, hash},
#include "hashes.h"
    {NULL, 0}};

/* --- Inputs from one arena, started anew for every hash. --- */
static double arena_data[1 << 15]; /* doubles for their alignment */
static tfb_idx arena_used;

static float *room(tfb_idx n) {
    float *p = (float *)(void *)arena_data + arena_used;
    arena_used += (n + 1) / 2 * 2;
    if (arena_used > 2 * (tfb_idx)(sizeof arena_data / sizeof *arena_data)) exit(98);
    memset((void *)p, 0, (size_t)n * sizeof *p);
    return p;
}

/* n values of at most 512 scale: integers of 24 bits, so that sums are not exact. */
static float *noise(tfb_idx n, uint32_t seed, float scale) {
    float *p = room(n);
    tfb_idx i;
    for (i = 0; i < n; i++) {
        uint32_t u = (uint32_t)i * 0x9E3779B1u + seed * 0x85EBCA6Bu;
        u = (u ^ u >> 15) * 0x2C1B3C6Du;
        p[i] = ((float)(u >> 8) - 8388608.0f) * (scale / 16384.0f);
    }
    return p;
}

/* --- FNV-1a (Fowler, Noll, Vo) over the bits, low byte first, every NaN the same. --- */
static uint64_t hash_word(uint64_t h, uint32_t u) {
    int i;
    for (i = 0; i < 32; i += 8) h = (h ^ (u >> i & 255)) * 0x100000001B3u;
    return h;
}

static uint64_t hash_floats(uint64_t h, const float *p, tfb_idx n) {
    tfb_idx i;
    for (i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, p + i, 4);
        if ((u & 0x7FFFFFFF) > 0x7F800000) u = 0x7FC00000;
        h = hash_word(h, u);
    }
    return h;
}

static uint64_t hash_bytes(const unsigned char *p, size_t bytes) {
    uint64_t h = 0xCBF29CE484222325u;
    size_t i;
    for (i = 0; i < bytes; i++) h = (h ^ p[i]) * 0x100000001B3u;
    return h;
}

static uint64_t hash_tensor(tfb_ctx *ctx, tfb_status status, const tfb_tensor *y) {
    CHECK(status == TFB_OK, "%s", ctx->message);
    return hash_floats(0xCBF29CE484222325u, (const float *)y->data, tfb_numel(y));
}

/* --- The functions. arg is what the row of the list below says. --- */
static uint64_t hash_copy(tfb_ctx *ctx, int dtype) {
    tfb_tensor x = tfb_view1(noise(1021, 7, 0.01171875f), TFB_F32, 1021); /* 3 / 256 */
    tfb_tensor y = tfb_view1(room(1021), TFB_F32, 1021), between;
    float *p = (float *)x.data;
    p[3] = 65520.0f; /* overflows F16, and the next ones are subnormal there */
    p[4] = 5.9604644775390625e-8f;
    p[5] = -9.8e-8f;
    p[6] = -0.0f;
    p[7] = 1.00048828125f; /* half-way between two F16, and the next but one */
    p[8] = 1.00146484375f;
    p[9] = 1.00390625f; /* the same for BF16 */
    p[10] = 1.01171875f;
    between = tfb_view1(room(1021), (tfb_dtype)dtype, 1021);
    CHECK_OK(ctx, tfb_copy(ctx, &x, &between));
    return hash_tensor(ctx, tfb_copy(ctx, &between, &y), &y);
}

static uint64_t hash_copy_integers(tfb_ctx *ctx, int dtype) {
    static int32_t words[256];
    static uint8_t bytes[256];
    tfb_tensor x, y = tfb_view1(room(256), TFB_F32, 256);
    int i;
    for (i = 0; i < 256; i++) {
        words[i] = (i - 128) * 16000057;
        bytes[i] = (uint8_t)i;
    }
    x = tfb_view1(dtype == TFB_I32 ? (const void *)words : (const void *)bytes,
                  (tfb_dtype)dtype, 256);
    return hash_tensor(ctx, tfb_copy(ctx, &x, &y), &y);
}

static uint64_t hash_binary(tfb_ctx *ctx, int multiply) {
    tfb_tensor a = tfb_view2(noise(700, 13, 0.0625f), TFB_F32, 20, 35);
    tfb_tensor b = tfb_view1(noise(35, 17, 0.0009765625f), TFB_F32, 35);
    tfb_tensor y = tfb_view2(room(700), TFB_F32, 20, 35);
    return hash_tensor(
        ctx, multiply ? tfb_mul(ctx, &a, &b, &y) : tfb_add(ctx, &a, &b, &y), &y);
}

static const float map_scales[TFB__FNS] = {
    1,      1,      0.5f, 0.015625f,  0.015625f, 0.125f, 0.125f, 0.03125f,
    0.125f, 0.125f, 0.5f, 0.0078125f, 0.125f,    0.25f,  0.25f};

static uint64_t hash_map(tfb_ctx *ctx, int fn) {
    tfb_tensor x = tfb_view1(noise(1300, 37, map_scales[fn]), TFB_F32, 1300);
    tfb_tensor y = tfb_view1(room(1300), TFB_F32, 1300);
    float *p = (float *)x.data;
    tfb_idx i;
    for (i = 1021; i < 1200 && (fn == TFB_FN_SIN || fn == TFB_FN_COS); i++)
        p[i] = p[i] * 1048576.0f; /* past 2^17 */
    p[1296] = -0.0f;
    p[1297] = tfb__float_of(0x7F800000);
    p[1298] = tfb__float_of(0xFF800000);
    p[1299] = tfb__float_of(0x7FC00000);
    return hash_tensor(ctx, tfb_map(ctx, (tfb_fn)fn, &x, &y), &y);
}

static uint64_t hash_embed(tfb_ctx *ctx, int dtype) {
    static const int32_t picked[] = {3, 0, 9, 3};
    tfb_tensor x = tfb_view2(noise(330, 11, 0.25f), TFB_F32, 10, 33);
    tfb_tensor table = tfb_view2(room(330), (tfb_dtype)dtype, 10, 33);
    tfb_tensor ids = tfb_view1(picked, TFB_I32, 4);
    tfb_tensor y = tfb_view2(room(132), TFB_F32, 4, 33);
    CHECK_OK(ctx, tfb_copy(ctx, &x, &table));
    return hash_tensor(ctx, tfb_embed(ctx, &table, &ids, &y), &y);
}

static uint64_t hash_argmax(tfb_ctx *ctx, int arg) {
    static int32_t best[30];
    tfb_tensor x = tfb_view2(noise(1200, 97 + (uint32_t)arg, 1), TFB_F32, 30, 40);
    tfb_tensor y = tfb_view1(best, TFB_I32, 30);
    uint64_t h = 0xCBF29CE484222325u;
    int i;
    CHECK_OK(ctx, tfb_argmax(ctx, &x, &y));
    for (i = 0; i < 30; i++) h = hash_word(h, (uint32_t)best[i]);
    return h;
}

static uint64_t hash_matmul(tfb_ctx *ctx, int transposed) {
    static const int swap[] = {0, 2, 1};
    const tfb_idx M = 19, K = 300, N = 21;
    tfb_tensor a = tfb_view3(noise(2 * M * K, 3, 0.001953125f), TFB_F32, 2, M, K);
    tfb_tensor b = tfb_view3(noise(K * N, 5, 0.001953125f), TFB_F32, 1, K, N);
    tfb_tensor y = tfb_view3(room(2 * M * N), TFB_F32, 2, M, N);
    tfb_tensor want = tfb_view3(room(2 * M * N), TFB_F32, 2, M, N);
    uint64_t h;
    if (transposed) {
        a = tfb_view3(a.data, TFB_F32, 2, K, M);
        b = tfb_view3(b.data, TFB_F32, 1, N, K);
        CHECK_OK(ctx, tfb_permute(ctx, &a, swap, &a));
        CHECK_OK(ctx, tfb_permute(ctx, &b, swap, &b));
    }
    h = hash_tensor(ctx, tfb_matmul(ctx, &a, &b, &y), &y);
    b.shape[0] = 2; /* the reference does not broadcast by itself */
    b.stride[0] = 0;
    tfb__matmul_ref(&a, &b, &want);
    CHECK_BITS((float *)y.data, (float *)want.data, tfb_numel(&y), "matmul_ref differs");
    return h;
}

#define PACKED 16 /* added to a gate */

static uint64_t hash_linear(tfb_ctx *ctx, int arg) {
    const tfb_idx M = 7, K = 260, N = 34;
    const tfb_gate gate = (tfb_gate)(arg % PACKED);
    const tfb_idx cols = gate ? N / 2 : N;
    tfb_tensor x = tfb_view2(noise(M * K, 3, 0.00390625f), TFB_F32, M, K);
    tfb_tensor w = tfb_view2(noise(N * K, 5, 0.0009765625f), TFB_F32, N, K);
    tfb_tensor bias = tfb_view1(noise(N, 29, 0.001953125f), TFB_F32, N);
    tfb_tensor residual = tfb_view2(noise(M * cols, 31, 0.0078125f), TFB_F32, M, cols);
    tfb_tensor y = tfb_view2(room(M * cols), TFB_F32, M, cols);
    tfb_linear_opts o;
    tfb_tensor packed;
    memset((void *)&o, 0, sizeof o);
    o.bias = &bias;
    o.residual = &residual;
    o.alpha = 0.75f;
    o.alpha_set = 1;
    o.act = TFB_FN_SILU;
    o.gate = gate;
    if (arg >= PACKED) {
        const size_t bytes = tfb_pack_bytes(N, K, TFB_F32);
        CHECK_OK(ctx, tfb_pack(ctx, &w, room((tfb_idx)(bytes / 4)), bytes, &packed));
        w = packed;
    }
    return hash_tensor(ctx, tfb_linear(ctx, &x, &w, &o, &y), &y);
}

/* The bytes of a pack, four at a time in the order they would have in a file. */
static uint64_t hash_pack(tfb_ctx *ctx, int arg) {
    const size_t bytes = tfb_pack_bytes(21, 18, TFB_F32);
    tfb_tensor w = tfb_view2(noise(378, 5 + (uint32_t)arg, 0.5f), TFB_F32, 21, 18),
               packed;
    unsigned char *p = (unsigned char *)(void *)room((tfb_idx)(bytes / 4));
    CHECK_OK(ctx, tfb_pack(ctx, &w, p, bytes, &packed));
    return hash_bytes(p, bytes);
}

static uint64_t hash_norm(tfb_ctx *ctx, int which) {
    static tfb_status (*const norms[])(tfb_ctx *, const tfb_tensor *,
                                       const tfb_norm_opts *, tfb_tensor *) = {
        tfb_rmsnorm, tfb_layernorm, tfb_l2norm};
    tfb_tensor x = tfb_view2(noise(9 * 67, 37, 0.0078125f), TFB_F32, 9, 67);
    tfb_tensor r = tfb_view2(noise(9 * 67, 41, 0.001953125f), TFB_F32, 9, 67);
    tfb_tensor weight = tfb_view1(noise(67, 43, 0.00390625f), TFB_F32, 67);
    tfb_tensor bias = tfb_view1(noise(67, 47, 0.0078125f), TFB_F32, 67);
    tfb_tensor both = tfb_view2(room(2 * 9 * 67), TFB_F32, 18, 67), y, sum;
    tfb_norm_opts o;
    memset((void *)&o, 0, sizeof o);
    o.weight = &weight;
    o.bias = &bias;
    o.residual = &r;
    o.sum = &sum;
    CHECK_OK(ctx, tfb_slice(ctx, &both, 0, 0, 9, &y));
    CHECK_OK(ctx, tfb_slice(ctx, &both, 0, 9, 9, &sum));
    return hash_tensor(ctx, norms[which](ctx, &x, &o, &y), &both);
}

static uint64_t hash_softmax(tfb_ctx *ctx, int arg) {
    tfb_tensor x =
        tfb_view2(noise(7 * 100, 53 + (uint32_t)arg, 0.015625f), TFB_F32, 7, 100);
    tfb_tensor y = tfb_view2(room(7 * 101), TFB_F32, 7, 100);
    tfb_tensor lse = tfb_view1((float *)y.data + 700, TFB_F32, 7);
    tfb_status status = tfb_softmax(ctx, &x, &y, &lse);
    y.shape[0] = 1; /* y and lse lie side by side */
    y.shape[1] = 707;
    return hash_tensor(ctx, status, &y);
}

enum { INTERLEAVED = 1, COMPAT = 2, INVERSE = 4 };

static uint64_t hash_rope(tfb_ctx *ctx, int flags) {
    static const int32_t places[] = {0, 1, 5, 100, 4095, 131071, 1000003};
    tfb_tensor x =
        tfb_view4(noise(2 * 3 * 7 * 40, 59, 0.00390625f), TFB_F32, 2, 3, 7, 40);
    tfb_tensor y = tfb_view4(room(2 * 3 * 7 * 40), TFB_F32, 2, 3, 7, 40);
    tfb_tensor positions = tfb_view1(places, TFB_I32, 7);
    tfb_rope_opts o;
    memset((void *)&o, 0, sizeof o);
    o.positions = &positions;
    o.dims = 36;
    o.interleaved = (flags & INTERLEAVED) != 0;
    o.compat = (flags & COMPAT) != 0;
    o.inverse = (flags & INVERSE) != 0;
    return hash_tensor(ctx, tfb_rope(ctx, &x, &o, &y), &y);
}

/* Every kind of scaling, over two axes of a grid. */
static uint64_t hash_rope_scaled(tfb_ctx *ctx, int scaling) {
    tfb_tensor x = tfb_view4(noise(3 * 12 * 40, 59, 0.00390625f), TFB_F32, 1, 3, 12, 40);
    tfb_tensor y = tfb_view4(room(3 * 12 * 40), TFB_F32, 1, 3, 12, 40);
    tfb_rope_opts o;
    memset((void *)&o, 0, sizeof o);
    o.axes = 2;
    o.axis_dims[0] = 12;
    o.axis_dims[1] = 28;
    o.grid[0] = 3;
    o.grid[1] = 500;
    o.start = 990;
    o.scaling = (tfb_rope_scaling)scaling;
    o.factor = 8;
    o.trained_length = 512;
    return hash_tensor(ctx, tfb_rope(ctx, &x, &o, &y), &y);
}

/* S keys for T = 5 queries, 4 heads on 2; causal with a window if there is one. With a
 * cache, k and v only tell what it holds. */
static uint64_t hash_attention_of(tfb_ctx *ctx, const tfb_tensor *k, const tfb_tensor *v,
                                  const tfb_kv *kv, tfb_idx window) {
    const tfb_idx B = k->shape[0], T = 5, Dv = v->shape[3], n_y = B * 4 * T * Dv;
    tfb_tensor q =
        tfb_view4(noise(B * 4 * T * 12, 61, 0.001953125f), TFB_F32, B, 4, T, 12);
    tfb_tensor y = tfb_view4(room(n_y + B * 4 * T), TFB_F32, B, 4, T, Dv);
    tfb_tensor lse = tfb_view3((float *)y.data + n_y, TFB_F32, B, 4, T), both;
    tfb_attention_opts o;
    tfb_status status;
    memset((void *)&o, 0, sizeof o);
    o.lse = &lse;
    o.causal = TFB_CAUSAL_BOTTOM_RIGHT;
    o.window = window;
    both = tfb_view1(y.data, TFB_F32, n_y + B * 4 * T);
    status = kv ? tfb_kv_attention(ctx, kv, 0, &q, &o, &y)
                : tfb_attention(ctx, &q, k, v, &o, &y);
    return hash_tensor(ctx, status, &both);
}

static uint64_t hash_attention(tfb_ctx *ctx, int S) {
    tfb_tensor k = tfb_view4(noise(2 * S * 12, 67, 0.0009765625f), TFB_F32, 1, 2, S, 12);
    tfb_tensor v = tfb_view4(noise(2 * S * 9, 71, 0.00390625f), TFB_F32, 1, 2, S, 9);
    return hash_attention_of(ctx, &k, &v, NULL, S == 200 ? 70 : 0);
}

/* Rows appended in uneven pieces, then attention over the cache in place. */
static uint64_t hash_kv(tfb_ctx *ctx, int S) {
    tfb_tensor k = tfb_view4(noise(2 * S * 12, 67, 0.0009765625f), TFB_F32, 1, 2, S, 12);
    tfb_tensor v = tfb_view4(noise(2 * S * 9, 71, 0.00390625f), TFB_F32, 1, 2, S, 9);
    tfb_tensor key, value;
    tfb_kv_opts o;
    tfb_kv kv;
    uint64_t h;
    int at, n;
    memset((void *)&o, 0, sizeof o);
    o.layers = 1;
    CHECK_OK(ctx, tfb_kv_init(ctx, &kv, &o));
    for (at = 0; at < S; at += n) {
        n = TFB__MIN(1 + at / 3, S - at);
        CHECK_OK(ctx, tfb_slice(ctx, &k, 2, at, n, &key));
        CHECK_OK(ctx, tfb_slice(ctx, &v, 2, at, n, &value));
        CHECK_OK(ctx, tfb_kv_append(ctx, &kv, 0, &key, &value));
    }
    h = hash_attention_of(ctx, &k, &v, &kv, 0);
    tfb_kv_free(&kv);
    return h;
}

/* --- Static caches of 2 samples, with room for 3, and what can be done to them. --- */
enum {
    KV_UPDATE,
    KV_RAGGED,
    KV_CROP,
    KV_RING,
    KV_SELECT,
    KV_SHIFT,
    KV_ROLLBACK,
    KV_F16,
    KV_BF16,
    KV_SAVE
};
enum { KV_ROWS = 150 };

static void kv_new(tfb_ctx *ctx, tfb_kv *kv, int what) {
    tfb_kv_opts o;
    size_t bytes;
    memset((void *)&o, 0, sizeof o);
    o.layers = 1;
    o.shape.batch = 3;
    o.shape.kv_heads = 2;
    o.shape.head_dim = 12;
    o.shape.v_dim = 9;
    o.shape.max_tokens = KV_ROWS + 10;
    if (what == KV_RING) o.shape.max_tokens = 0, o.shape.window = 70, o.shape.pinned = 3;
    if (what == KV_F16 || what == KV_BF16) o.dtype = what == KV_F16 ? TFB_F16 : TFB_BF16;
    o.ragged = what == KV_RAGGED;
    bytes = tfb_kv_bytes(&o);
    CHECK_OK(ctx, tfb_kv_init_static(ctx, kv, &o, room((tfb_idx)(bytes / 4)), bytes));
}

/* n more rows, each time others; opts may say where they go. */
static void kv_put(tfb_ctx *ctx, tfb_kv *kv, tfb_idx n, const tfb_kv_update_opts *opts) {
    const uint32_t seed = (uint32_t)tfb_kv_length(kv, 0);
    tfb_tensor key =
        tfb_view4(noise(2 * 2 * n * 12, 67 + seed, 0.0009765625f), TFB_F32, 2, 2, n, 12);
    tfb_tensor value =
        tfb_view4(noise(2 * 2 * n * 9, 71 + seed, 0.00390625f), TFB_F32, 2, 2, n, 9);
    CHECK_OK(ctx, tfb_kv_update(ctx, kv, 0, &key, &value, opts));
}

static void kv_change(tfb_ctx *ctx, tfb_kv *kv, int what) {
    static const int32_t places[] = {3, 150, 3, 77, 0, 64, 155, 149}, counts[] = {4, 1};
    static const int32_t index[] = {1, 0, 1}, kept[] = {2};
    const tfb_tensor positions = tfb_view2(places, TFB_I32, 2, 4);
    const tfb_tensor each = tfb_view1(counts, TFB_I32, 2);
    const tfb_tensor order = tfb_view1(index, TFB_I32, 3);
    const tfb_tensor keep = tfb_view1(kept, TFB_I32, 1);
    tfb_kv_update_opts u;
    tfb_rope_opts rope;
    memset((void *)&u, 0, sizeof u);
    memset((void *)&rope, 0, sizeof rope);
    if (what == KV_UPDATE) u.positions = &positions;
    if (what == KV_RAGGED) u.counts = &each;
    if (what == KV_CROP) {
        CHECK_OK(ctx, tfb_kv_crop(ctx, kv, -40, NULL));
        CHECK_OK(ctx, tfb_kv_keep_last(ctx, kv, 60, NULL));
    }
    if (what == KV_ROLLBACK) {
        CHECK_OK(ctx, tfb_kv_mark(ctx, kv));
        kv_put(ctx, kv, 6, NULL);
        CHECK_OK(ctx, tfb_kv_rollback(ctx, kv, &keep));
    }
    kv_put(ctx, kv, 4, &u);
    if (what == KV_SELECT) CHECK_OK(ctx, tfb_kv_select(ctx, kv, &order));
    if (what == KV_SHIFT) CHECK_OK(ctx, tfb_kv_shift(ctx, kv, -1, 20, 120, -37, &rope));
}

/* What attention makes of the cache, the rows it holds and the positions that follow; or
 * the bytes of a save. */
static uint64_t hash_cache(tfb_ctx *ctx, int what) {
    static int32_t next[3 * 5];
    tfb_tensor key, value, positions;
    tfb_idx B, S, n, i;
    tfb_kv kv;
    uint64_t h;
    kv_new(ctx, &kv, what);
    for (S = 0; S < KV_ROWS; S += n) {
        n = TFB__MIN(1 + S / 3, KV_ROWS - S);
        kv_put(ctx, &kv, n, NULL);
    }
    kv_change(ctx, &kv, what);
    if (what == KV_SAVE) {
        const size_t bytes = tfb_kv_save_bytes(&kv);
        unsigned char *p = (unsigned char *)(void *)room((tfb_idx)(bytes + 3) / 4);
        CHECK_OK(ctx, tfb_kv_save(ctx, &kv, p, bytes));
        return hash_bytes(p, bytes);
    }
    B = tfb_kv_batch(&kv, 0);
    S = tfb_kv_length(&kv, 0);
    key = tfb_view4(room(B * 2 * S * 12), TFB_F32, B, 2, S, 12);
    value = tfb_view4(room(B * 2 * S * 9), TFB_F32, B, 2, S, 9);
    positions = tfb_view2(next, TFB_I32, B, 5);
    CHECK_OK(ctx, tfb_kv_get(ctx, &kv, 0, &key, &value));
    CHECK_OK(ctx, tfb_kv_positions(ctx, &kv, 0, &positions));
    h = hash_attention_of(ctx, &key, &value, &kv, 0);
    h = hash_floats(h, (const float *)key.data, tfb_numel(&key));
    h = hash_floats(h, (const float *)value.data, tfb_numel(&value));
    for (i = 0; i < B * 5; i++) h = hash_word(h, (uint32_t)next[i]);
    return h;
}

/* Options of attention: 9 queries of 4 heads on 2 kv heads, 150 keys. */
enum {
    MASK = 1,
    BIAS = 2,
    SOFTCAP = 4,
    ALIBI = 8,
    SINKS = 16,
    TWO_SIDED = 32,
    RAGGED = 64,
    HALVES = 128,
    PAGES = 256,
    QK = 512,
    WEIGHTS = 1024,
    LENGTHS = 2048
};
enum { QUERIES = 9, KEYS = 150, DIM = 16, V_DIM = 32, PAGE = 24 };

typedef struct attention_case {
    tfb_attention_opts o;
    tfb_qk_opts qk;
    tfb_rope_opts rope;
    tfb_tensor k, v, mask, bias, alibi, sinks, cu_q, cu_k, start, length, pages, weight;
} attention_case;

/* Rows of keys or values: in 16 bits with HALVES, in pages that lie in no order. */
static tfb_tensor hash_keys(tfb_ctx *ctx, int flags, tfb_dtype half, tfb_idx D,
                            uint32_t seed, float scale) {
    const tfb_idx pools = flags & PAGES ? 8 : 1, rows = flags & PAGES ? PAGE : KEYS;
    const tfb_idx n = pools * 2 * rows * D;
    tfb_tensor from = tfb_view4(noise(n, seed, scale), TFB_F32, pools, 2, rows, D), to;
    if (!(flags & HALVES)) return from;
    to = tfb_view4(room(n / 2), half, pools, 2, rows, D);
    CHECK_OK(ctx, tfb_copy(ctx, &from, &to));
    return to;
}

static void hash_masks(attention_case *c, int flags) {
    const tfb_idx n = QUERIES * KEYS, bytes = (n + 3) / 4;
    uint8_t *mask = (uint8_t *)(void *)room(bytes);
    float *bias = noise(4 * n, 79, 0.00390625f);
    tfb_idx i;
    for (i = 0; i < n; i++) mask[i] = (uint32_t)i * 2654435769u >> 30 != 0;
    for (i = 0; i < 4 * n; i += 7) bias[i] = tfb__float_of(0xFF800000);
    c->mask = tfb_view2(mask, TFB_U8, QUERIES, KEYS);
    c->bias = tfb_view3(bias, TFB_F32, 4, QUERIES, KEYS);
    if (flags & MASK) c->o.mask = &c->mask;
    if (flags & BIAS) c->o.bias = &c->bias;
}

static void hash_options(attention_case *c, int flags) {
    static const float slopes[] = {0.25f, 0.125f, 0.0625f, 0.03125f};
    static const int32_t cu_q[] = {0, 3, 3, QUERIES}, cu_k[] = {0, 70, 75, KEYS};
    static const int32_t start[] = {9}, length[] = {141}, pages[] = {6, 0, 3, 7, 1, 4, 2};
    memset((void *)c, 0, sizeof *c);
    hash_masks(c, flags);
    c->alibi = tfb_view1(slopes, TFB_F32, 4);
    c->sinks = tfb_view1(noise(4, 83, 0.0078125f), TFB_F32, 4);
    c->weight = tfb_view1(noise(DIM, 89, 0.00390625f), TFB_F32, DIM);
    c->cu_q = tfb_view1(cu_q, TFB_I32, 4);
    c->cu_k = tfb_view1(cu_k, TFB_I32, 4);
    c->start = tfb_view1(start, TFB_I32, 1);
    c->length = tfb_view1(length, TFB_I32, 1);
    c->pages = tfb_view2(pages, TFB_I32, 1, 7);
    c->o.causal = flags & (TWO_SIDED | MASK) ? TFB_CAUSAL_NONE : TFB_CAUSAL_BOTTOM_RIGHT;
    if (flags & SOFTCAP) c->o.softcap = 1.5f;
    if (flags & ALIBI) c->o.alibi = &c->alibi;
    if (flags & SINKS) c->o.sinks = &c->sinks;
    if (flags & RAGGED) c->o.cu_q = &c->cu_q, c->o.cu_k = &c->cu_k;
    if (flags & LENGTHS) c->o.kv_start = &c->start, c->o.kv_len = &c->length;
    if (flags & PAGES) c->o.pages = &c->pages, c->o.page_skip = 7 * PAGE - KEYS;
    if (flags & QK) c->o.qk = &c->qk;
    if (flags & TWO_SIDED) {
        c->o.two_sided = 1;
        c->o.left = 20;
        c->o.right = 3;
        c->o.window_pinned = 5;
    }
    c->rope.dims = 12;
    c->qk.rope = &c->rope;
    c->qk.norm = TFB_QK_NORM_RMS;
    c->qk.q_weight = &c->weight;
}

static uint64_t hash_attention_options(tfb_ctx *ctx, int flags) {
    static const int32_t chosen[] = {8, 0, 5};
    const tfb_idx n_y = 4 * QUERIES * (flags & WEIGHTS ? KEYS : V_DIM + 1);
    float *out = noise(n_y, 73, 1); /* all of it is written */
    tfb_tensor q =
        tfb_view4(noise(4 * QUERIES * DIM, 61, 0.00390625f), TFB_F32, 1, 4, QUERIES, DIM);
    tfb_tensor k = hash_keys(ctx, flags, TFB_F16, DIM, 67, 0.001953125f);
    tfb_tensor v = hash_keys(ctx, flags, TFB_BF16, V_DIM, 71, 0.00390625f);
    tfb_tensor y = tfb_view4(out, TFB_F32, 1, 4, QUERIES, V_DIM), rows;
    tfb_tensor lse = tfb_view3(out + 4 * QUERIES * V_DIM, TFB_F32, 1, 4, QUERIES);
    tfb_tensor all = tfb_view1(out, TFB_F32, n_y);
    attention_case c;
    hash_options(&c, flags);
    if (flags & WEIGHTS) {
        rows = tfb_view1(chosen, TFB_I32, 3);
        y = tfb_view4(out, TFB_F32, 1, 4, 3, KEYS);
        return hash_tensor(ctx, tfb_attention_weights(ctx, &q, &k, &c.o, &rows, &y), &y);
    }
    c.o.lse = &lse;
    return hash_tensor(ctx, tfb_attention(ctx, &q, &k, &v, &c.o, &y), &all);
}

/* n states; one of them of rows that saw no key. */
static uint64_t hash_merge(tfb_ctx *ctx, int n) {
    const tfb_idx rows = 10, Dv = 33;
    float *lses = noise(n * rows, 103, 0.0078125f), *out = noise(rows * (Dv + 1), 73, 1);
    float *ys = noise(n * rows * Dv, 101, 0.00390625f);
    tfb_tensor y[2], lse[2], to = tfb_view4(out, TFB_F32, 1, 2, 5, Dv);
    tfb_tensor to_lse = tfb_view3(out + rows * Dv, TFB_F32, 1, 2, 5);
    tfb_tensor all = tfb_view1(out, TFB_F32, rows * (Dv + 1));
    tfb_status status;
    tfb_idx i, shape[5];
    for (i = 0; i < 3; i++) lses[rows + i] = tfb__float_of(0xFF800000);
    for (i = 0; i < 2; i++) {
        y[i] = tfb_view4(ys + i * rows * Dv, TFB_F32, 1, 2, 5, Dv);
        lse[i] = tfb_view3(lses + i * rows, TFB_F32, 1, 2, 5);
    }
    if (n == 2) {
        status = tfb_merge_state(ctx, y, lse, y + 1, lse + 1, &to, &to_lse);
    } else {
        shape[0] = n, shape[1] = 1, shape[2] = 2, shape[3] = 5, shape[4] = Dv;
        y[0] = tfb__view(ys, TFB_F32, 5, shape);
        lse[0] = tfb__view(lses, TFB_F32, 4, shape);
        status = tfb_merge_states(ctx, y, lse, &to, &to_lse);
    }
    return hash_tensor(ctx, status, &all);
}

enum { CARRIED = 1000 }; /* added to taps: with a state, whose end counts too */

static uint64_t hash_conv1d(tfb_ctx *ctx, int arg) {
    const tfb_idx B = 2, T = 37, E = 35, K = arg % CARRIED, n = B * T * E;
    tfb_tensor x = tfb_view3(noise(n, 107, 0.00390625f), TFB_F32, B, T, E);
    tfb_tensor w = tfb_view2(noise(E * K, 109, 0.001953125f), TFB_F32, E, K);
    tfb_tensor bias = tfb_view1(noise(E, 113, 0.001953125f), TFB_F32, E);
    float *out = noise(n + B * (K - 1) * E, 127, 0.00390625f);
    tfb_tensor y = tfb_view3(out, TFB_F32, B, T, E), all = tfb_view1(out, TFB_F32, n);
    tfb_tensor state = tfb_view3(out + n, TFB_F32, B, K - 1, E);
    tfb_conv1d_opts o;
    memset((void *)&o, 0, sizeof o);
    o.bias = &bias;
    o.act = TFB_FN_SILU;
    if (arg >= CARRIED) o.state = &state, all.shape[0] += tfb_numel(&state);
    return hash_tensor(ctx, tfb_causal_conv1d(ctx, &x, &w, &o, &y), &all);
}

/* Two axes of 9 x 40, the first circular; or one of 330, causal. */
static uint64_t hash_long_conv(tfb_ctx *ctx, int axes) {
    const tfb_idx B = 2, C = 19, N = axes == 2 ? 360 : 330;
    tfb_tensor x = tfb_view3(noise(B * N * C, 109, 0.00390625f), TFB_F32, B, N, C);
    tfb_tensor k = tfb_view2(noise(660 * C, 113, 0.00390625f), TFB_F32, 659, C);
    tfb_tensor shortcut = tfb_view1(noise(C, 127, 0.00390625f), TFB_F32, C);
    tfb_tensor y = tfb_view3(noise(B * N * C, 131, 1), TFB_F32, B, N, C);
    const tfb_tensor all = y;
    tfb_long_conv_opts o;
    memset((void *)&o, 0, sizeof o);
    o.shortcut = &shortcut;
    o.edge[0] = axes == 2 ? TFB_EDGE_CIRCULAR : TFB_EDGE_CAUSAL;
    o.method = TFB_CONV_DIRECT;
    if (axes == 2) {
        x = tfb_view4(x.data, TFB_F32, B, 9, 40, C);
        y = tfb_view4(y.data, TFB_F32, B, 9, 40, C);
        k = tfb_view3(k.data, TFB_F32, 8, 79, C);
    }
    return hash_tensor(ctx, tfb_long_conv(ctx, &x, &k, &o, &y), &all);
}

/* Decays -5/4 to -1/4, so that no state becomes tiny. */
static float *decays(tfb_idx n) {
    float *p = noise(n, 131, 0.0009765625f);
    tfb_idx i;
    for (i = 0; i < n; i++) p[i] = p[i] - 0.75f;
    return p;
}

/* 2 samples of 21 tokens, 4 groups of 19 channels; ssd: 4 heads of 19, in 2 groups. */
static uint64_t hash_scan(tfb_ctx *ctx, int ssd) {
    const tfb_idx B = 2, T = 21, H = 4, P = 19, G = ssd ? 2 : 4, E = H * P, N = 7;
    const tfb_idx n = B * T * E, wide = ssd ? H : E;
    tfb_tensor x = tfb_view3(noise(n, 137, 0.00390625f), TFB_F32, B, T, E);
    tfb_tensor z = tfb_view3(noise(n, 139, 0.00390625f), TFB_F32, B, T, E);
    tfb_tensor dt = tfb_view3(noise(B * T * wide, 149, 0.00390625f), TFB_F32, B, T, wide);
    tfb_tensor a = tfb_view2(decays(E * N), TFB_F32, E, N);
    tfb_tensor b = tfb_view4(noise(B * T * G * N, 151, 0.00390625f), TFB_F32, B, T, G, N);
    tfb_tensor c = tfb_view4(noise(B * T * G * N, 157, 0.00390625f), TFB_F32, B, T, G, N);
    tfb_tensor d = tfb_view1(noise(wide, 163, 0.00390625f), TFB_F32, wide);
    tfb_tensor bias = tfb_view1(noise(wide, 167, 0.001953125f), TFB_F32, wide);
    float *out = noise(n + B * E * N, 173, 0.00390625f);
    tfb_tensor y = tfb_view3(out, TFB_F32, B, T, E);
    tfb_tensor state = tfb_view3(out + n, TFB_F32, B, E, N);
    tfb_tensor all = tfb_view1(out, TFB_F32, n + B * E * N);
    tfb_scan_opts o;
    memset((void *)&o, 0, sizeof o);
    o.d = &d;
    o.z = &z;
    o.dt_bias = &bias;
    o.softplus = 1;
    o.state = &state;
    if (!ssd)
        return hash_tensor(ctx, tfb_selective_scan(ctx, &x, &dt, &a, &b, &c, &o, &y),
                           &all);
    a = tfb_view1(a.data, TFB_F32, H);
    x = tfb_view4(x.data, TFB_F32, B, T, H, P);
    y = tfb_view4(y.data, TFB_F32, B, T, H, P);
    z = tfb_view4(z.data, TFB_F32, B, T, H, P);
    state = tfb_view4(state.data, TFB_F32, B, H, P, N);
    return hash_tensor(ctx, tfb_ssd(ctx, &x, &dt, &a, &b, &c, &o, &y), &all);
}

/* --- Random numbers, blocks and their parameters. --- */
static uint64_t hash_uniform(tfb_ctx *ctx, int arg) {
    const uint64_t seed = ((uint64_t)0x01234567u << 32) | 0x89ABCDEFu;
    const uint64_t first = ((uint64_t)1 << 32) - 500; /* the upper word counts too */
    tfb_tensor y = tfb_view2(room(1000), TFB_F32, 40, 25);
    (void)arg;
    return hash_tensor(ctx, tfb_uniform(ctx, seed, first, -0.75f, 1.5f, &y), &y);
}

enum { BLOCK_MAMBA = 1, BLOCK_STEP = 2, BLOCK_SAVE = 4, BLOCK_CKCONV = 8 };
enum { BLOCK_HYENA = 16 };
enum { BLOCK_C = 32, BLOCK_T = 21 };

/* 4 heads of 8, 2 of keys; forward over a grid, step with a window. */
static const tfb_qkv *attention_block(tfb_ctx *ctx, int step) {
    static tfb_mhsa m;
    tfb_rope_opts rope;
    tfb_mhsa_opts o;
    memset((void *)&rope, 0, sizeof rope);
    memset((void *)&o, 0, sizeof o);
    o.channels = BLOCK_C;
    o.heads = 4;
    o.kv_heads = 2;
    o.bias = 1;
    o.causal = step ? TFB_CAUSAL_BOTTOM_RIGHT : TFB_CAUSAL_NONE;
    o.window = step ? 9 : 0;
    o.norm = step ? TFB_QK_NORM_L2 : TFB_QK_NORM_RMS;
    o.rope = &rope;
    o.seed = 17;
    CHECK_OK(ctx, tfb_mhsa_init(ctx, &m, &o, room((tfb_idx)tfb_mhsa_bytes(&o) / 4),
                                tfb_mhsa_bytes(&o)));
    return &m.block;
}

/* Forward in both directions, step in one. */
static const tfb_qkv *mamba_block(tfb_ctx *ctx, int step) {
    static tfb_mamba m;
    static tfb_qkv block;
    tfb_mamba_opts o;
    tfb_qkv_opts q;
    memset((void *)&o, 0, sizeof o);
    memset((void *)&q, 0, sizeof q);
    o.channels = q.channels = BLOCK_C;
    o.bidirectional = !step;
    o.seed = 19;
    q.seed = 23;
    q.mixer = tfb_mamba_as_mixer(&m);
    CHECK_OK(ctx, tfb_mamba_init(ctx, &m, &o, room((tfb_idx)tfb_mamba_bytes(&o) / 4),
                                 tfb_mamba_bytes(&o)));
    CHECK_OK(ctx, tfb_qkv_init(ctx, &block, &q, room((tfb_idx)tfb_qkv_bytes(&q) / 4),
                               tfb_qkv_bytes(&q)));
    return &block;
}

/* Its two axes are a circle and one with ends; in steps one causal axis. Sums are direct:
 * transforms are outside the contract. */
static tfb_ckconv_opts ckconv_opts(int step) {
    tfb_ckconv_opts o;
    memset((void *)&o, 0, sizeof o);
    o.channels = BLOCK_C;
    o.axes = step ? 1 : 2;
    o.edge[0] = step ? TFB_EDGE_CAUSAL : TFB_EDGE_CIRCULAR;
    o.length[0] = 8;
    o.length[1] = 5;
    o.kind = step ? TFB_CKCONV_FOURIER : TFB_CKCONV_SIREN;
    o.mask = step ? TFB_CKCONV_EXPONENTIAL : TFB_CKCONV_GAUSSIAN;
    o.method = TFB_CONV_DIRECT;
    o.mask_least = 0.5f; /* nothing subnormal is left */
    o.hidden = 6;
    o.layers = 2;
    o.seed = 29;
    return o;
}

static const tfb_qkv *block_around(tfb_ctx *ctx, tfb_mixer mixer) {
    static tfb_qkv block;
    tfb_qkv_opts q;
    memset((void *)&q, 0, sizeof q);
    q.channels = BLOCK_C;
    q.seed = 31;
    q.mixer = mixer;
    CHECK_OK(ctx, tfb_qkv_init(ctx, &block, &q, room((tfb_idx)tfb_qkv_bytes(&q) / 4),
                               tfb_qkv_bytes(&q)));
    return &block;
}

static const tfb_qkv *ckconv_block(tfb_ctx *ctx, int step) {
    static tfb_ckconv m;
    tfb_ckconv_opts o = ckconv_opts(step);
    o.gated = 1;
    CHECK_OK(ctx, tfb_ckconv_init(ctx, &m, &o, room((tfb_idx)tfb_ckconv_bytes(&o) / 4),
                                  tfb_ckconv_bytes(&o)));
    return block_around(ctx, tfb_ckconv_as_mixer(&m));
}

static const tfb_qkv *hyena_block(tfb_ctx *ctx, int step) {
    static tfb_hyena m;
    tfb_hyena_opts o;
    memset((void *)&o, 0, sizeof o);
    o.conv = ckconv_opts(step);
    o.short_taps[0] = 3;
    o.short_taps[1] = 4;
    o.short_causal = step != 0;
    o.gate1 = step ? TFB_FN_SILU : TFB_FN_IDENTITY;
    o.gate2 = TFB_FN_SIGMOID;
    o.gate2_set = 1;
    o.qk_norm = step ? TFB_QK_NORM_L2 : TFB_QK_NORM_RMS;
    o.norm = o.out_norm = TFB_QK_NORM_RMS;
    CHECK_OK(ctx, tfb_hyena_init(ctx, &m, &o, room((tfb_idx)tfb_hyena_bytes(&o) / 4),
                                 tfb_hyena_bytes(&o)));
    return block_around(ctx, tfb_hyena_as_mixer(&m));
}

/* The kernel for 7 x 9 places; film: of two samples, gamma and beta being drawn. */
static uint64_t hash_ckconv_kernel(tfb_ctx *ctx, int film) {
    const tfb_idx n[2] = {7, 9};
    tfb_ckconv_opts o = ckconv_opts(0);
    tfb_tensor cond,
        y = tfb_view4(room(2 * 7 * 17 * BLOCK_C), TFB_F32, 2, 7, 17, BLOCK_C);
    tfb_ckconv m;
    o.cond = film ? 3 : 0;
    CHECK_OK(ctx, tfb_ckconv_init(ctx, &m, &o, room((tfb_idx)tfb_ckconv_bytes(&o) / 4),
                                  tfb_ckconv_bytes(&o)));
    cond = tfb_view2(noise(6, 191, 0.00390625f), TFB_F32, 2, 3);
    if (!film) {
        y = tfb_view3(y.data, TFB_F32, 7, 17, BLOCK_C);
        return hash_tensor(ctx, tfb_ckconv_kernel(ctx, &m, n, 2, NULL, &y), &y);
    }
    m.film_w2.data = noise(tfb_numel(&m.film_w2), 193, 0.0001220703125f);
    return hash_tensor(ctx, tfb_ckconv_kernel(ctx, &m, n, 2, &cond, &y), &y);
}

/* Uneven pieces; one of them is taken back and done again. */
static tfb_status in_steps(tfb_ctx *ctx, const tfb_qkv *block, const tfb_tensor *x,
                           tfb_tensor *y) {
    const size_t bytes = tfb_mixer_state_bytes(block, 2, BLOCK_T);
    tfb_mixer_state state;
    tfb_tensor from, to;
    int at, n;
    CHECK_OK(ctx, tfb_mixer_state_init(ctx, &state, block, 2, BLOCK_T,
                                       room((tfb_idx)bytes / 4), bytes));
    for (at = 0; at < BLOCK_T; at += n) {
        n = TFB__MIN(1 + at / 3, BLOCK_T - at);
        CHECK_OK(ctx, tfb_slice(ctx, x, 1, at, n, &from));
        CHECK_OK(ctx, tfb_slice(ctx, y, 1, at, n, &to));
        CHECK_OK(ctx, tfb_mixer_state_mark(ctx, &state));
        CHECK_OK(ctx, tfb_qkv_step(ctx, block, &state, &from, NULL, &to));
        if (at == 3) {
            CHECK_OK(ctx, tfb_mixer_state_rollback(ctx, &state));
            CHECK_OK(ctx, tfb_qkv_step(ctx, block, &state, &from, NULL, &to));
        }
        tfb_mixer_state_commit(&state);
    }
    return TFB_OK;
}

static uint64_t hash_block(tfb_ctx *ctx, int arg) {
    const tfb_idx n = 2 * BLOCK_T * BLOCK_C;
    const tfb_qkv *block = (arg & BLOCK_MAMBA    ? mamba_block
                            : arg & BLOCK_CKCONV ? ckconv_block
                            : arg & BLOCK_HYENA  ? hyena_block
                                                : attention_block)(ctx, arg & BLOCK_STEP);
    tfb_tensor x = tfb_view3(noise(n, 179, 0.00390625f), TFB_F32, 2, BLOCK_T, BLOCK_C);
    tfb_tensor y = tfb_view3(room(n), TFB_F32, 2, BLOCK_T, BLOCK_C);
    if (arg & BLOCK_SAVE) {
        tfb_qkv copy = *block;
        const size_t bytes = tfb_params_bytes(tfb_qkv_params, &copy);
        unsigned char *p = (unsigned char *)(void *)room((tfb_idx)(bytes + 3) / 4);
        CHECK_OK(ctx, tfb_params_save(ctx, tfb_qkv_params, &copy, p, bytes));
        return hash_bytes(p, bytes);
    }
    if (arg & BLOCK_STEP) return hash_tensor(ctx, in_steps(ctx, block, &x, &y), &y);
    x = tfb_view4(x.data, TFB_F32, 2, 3, BLOCK_T / 3, BLOCK_C);
    y = tfb_view4(y.data, TFB_F32, 2, 3, BLOCK_T / 3, BLOCK_C);
    return hash_tensor(ctx, tfb_qkv_forward(ctx, block, &x, NULL, &y), &y);
}

static const struct hashed {
    const char *name;
    uint64_t (*run)(tfb_ctx *ctx, int arg);
    int arg;
} hashed[] = {
    {"copy_f16", hash_copy, TFB_F16},
    {"copy_bf16", hash_copy, TFB_BF16},
    {"copy_i32", hash_copy_integers, TFB_I32},
    {"copy_u8", hash_copy_integers, TFB_U8},
    {"add", hash_binary, 0},
    {"mul", hash_binary, 1},
#define MAP_ROW(NAME, name) {"map_" #name, hash_map, TFB_FN_##NAME},
    TFB_FN_LIST(MAP_ROW){"embed_f32", hash_embed, TFB_F32},
    {"embed_bf16", hash_embed, TFB_BF16},
    {"argmax", hash_argmax, 0},
    {"matmul", hash_matmul, 0},
    {"matmul_transposed", hash_matmul, 1},
    {"pack", hash_pack, 0},
    {"linear", hash_linear, TFB_GATE_NONE},
    {"linear_packed", hash_linear, TFB_GATE_NONE + PACKED},
    {"linear_halves", hash_linear, TFB_GATE_HALVES},
    {"linear_halves_packed", hash_linear, TFB_GATE_HALVES + PACKED},
    {"linear_interleaved", hash_linear, TFB_GATE_INTERLEAVED},
    {"linear_interleaved_packed", hash_linear, TFB_GATE_INTERLEAVED + PACKED},
    {"rmsnorm", hash_norm, 0},
    {"layernorm", hash_norm, 1},
    {"l2norm", hash_norm, 2},
    {"softmax", hash_softmax, 0},
    {"rope_turns", hash_rope, 0},
    {"rope_turns_interleaved_inverse", hash_rope, INTERLEAVED | INVERSE},
    {"rope_compat", hash_rope, COMPAT},
    {"rope_axial_linear", hash_rope_scaled, TFB_ROPE_LINEAR},
    {"rope_axial_ntk", hash_rope_scaled, TFB_ROPE_NTK},
    {"rope_axial_yarn", hash_rope_scaled, TFB_ROPE_YARN},
    {"rope_axial_llama3", hash_rope_scaled, TFB_ROPE_LLAMA3},
    {"attention", hash_attention, 130},
    {"attention_window", hash_attention, 200},
    {"attention_splits", hash_attention, 1100},
    {"attention_kv_cache", hash_kv, 130},
    {"kv_update", hash_cache, KV_UPDATE},
    {"kv_ragged", hash_cache, KV_RAGGED},
    {"kv_crop", hash_cache, KV_CROP},
    {"kv_ring", hash_cache, KV_RING},
    {"kv_select", hash_cache, KV_SELECT},
    {"kv_shift", hash_cache, KV_SHIFT},
    {"kv_rollback", hash_cache, KV_ROLLBACK},
    {"kv_f16", hash_cache, KV_F16},
    {"kv_bf16", hash_cache, KV_BF16},
    {"kv_save", hash_cache, KV_SAVE},
    {"attention_mask_bias", hash_attention_options, MASK | BIAS},
    {"attention_softcap_alibi_sinks", hash_attention_options, SOFTCAP | ALIBI | SINKS},
    {"attention_two_sided_pinned", hash_attention_options, TWO_SIDED},
    {"attention_ragged", hash_attention_options, RAGGED},
    {"attention_lengths", hash_attention_options, LENGTHS},
    {"attention_f16_bf16", hash_attention_options, HALVES},
    {"attention_pages", hash_attention_options, PAGES},
    {"attention_pages_f16_bf16", hash_attention_options, PAGES | HALVES},
    {"attention_qk", hash_attention_options, QK},
    {"attention_weights", hash_attention_options, WEIGHTS},
    {"attention_weights_all", hash_attention_options,
     WEIGHTS | TWO_SIDED | BIAS | SOFTCAP | SINKS | QK},
    {"merge_state", hash_merge, 2},
    {"merge_states", hash_merge, 4},
    {"causal_conv1d", hash_conv1d, 4},
    {"causal_conv1d_state", hash_conv1d, 270 + CARRIED},
    {"long_conv", hash_long_conv, 1},
    {"long_conv_2d", hash_long_conv, 2},
    {"selective_scan", hash_scan, 0},
    {"ssd", hash_scan, 1},
    {"uniform", hash_uniform, 0},
    {"qkv_attention", hash_block, 0},
    {"qkv_mamba", hash_block, BLOCK_MAMBA},
    {"ckconv_kernel", hash_ckconv_kernel, 0},
    {"ckconv_kernel_film", hash_ckconv_kernel, 1},
    {"qkv_ckconv", hash_block, BLOCK_CKCONV},
    {"qkv_hyena", hash_block, BLOCK_HYENA},
    {"qkv_step_attention", hash_block, BLOCK_STEP},
    {"qkv_step_mamba", hash_block, BLOCK_MAMBA | BLOCK_STEP},
    {"qkv_step_ckconv", hash_block, BLOCK_CKCONV | BLOCK_STEP},
    {"qkv_step_hyena", hash_block, BLOCK_HYENA | BLOCK_STEP},
    {"params_save_attention", hash_block, BLOCK_SAVE},
    {"params_save_mamba", hash_block, BLOCK_MAMBA | BLOCK_SAVE},
    {"params_save_hyena", hash_block, BLOCK_HYENA | BLOCK_SAVE},
};
#define HASHED ((int)(sizeof hashed / sizeof *hashed))

static const struct stored *stored_of(const char *name) {
    int i;
    for (i = 0; stored[i].name; i++)
        if (strcmp(stored[i].name, name) == 0) return stored + i;
    return NULL;
}

static uint64_t plain[HASHED]; /* what the table under test gave the first time */

static uint64_t run_one(tfb_ctx *ctx, int i) {
    arena_used = 0;
    return hashed[i].run(ctx, hashed[i].arg);
}

static void show(const char *before, uint64_t h, const char *after) {
    printf("%s0x%08lX%08lX%s", before, (unsigned long)(h >> 32),
           (unsigned long)(h & 0xFFFFFFFFu), after);
}

static void print_header(tfb_ctx *ctx) {
    int i;
    printf(
        "/* What test_hash must give on every target; written by test_hash --print. */\n"
        "/* clang-format off */\n");
    for (i = 0; i < HASHED; i++) {
        printf("HASH(%s, ", hashed[i].name);
        show("", run_one(ctx, i), "u)\n");
    }
}

static void compare(tfb_ctx *ctx, int i) {
    const struct stored *s = stored_of(hashed[i].name);
    uint64_t h;
    t_bad = 0;
    t_skip_reason = NULL;
    h = plain[i] = run_one(ctx, i);
    CHECK(s && s->hash == h, "%s", s ? "another hash is stored" : "no hash is stored");
    printf("%s %s %s", t_bad ? "FAIL" : "ok", tfb_isa_name(ctx), hashed[i].name);
    show(" ", h, "\n");
    t_failed += t_bad != 0;
}

/* --- The same again under other circumstances, per table. --- */
static const char *isa;

static void again(tfb_ctx *ctx, int i, const char *how) {
    CHECK(run_one(ctx, i) == plain[i], "%s %s %s", isa, hashed[i].name, how);
}

/* Not one subnormal: flushing them changes nothing. */
static void no_subnormals(void) {
#if TFB__X86 && defined(__SSE2__)
    const unsigned mode = _mm_getcsr();
    tfb_ctx ctx;
    int i;
    tfb_ctx_init(&ctx);
    CHECK_OK(&ctx, tfb_isa_force(&ctx, isa));
    _mm_setcsr(mode | 0x8040);
    for (i = 0; i < HASHED; i++) again(&ctx, i, "depends on subnormals");
    _mm_setcsr(mode);
    tfb_ctx_free(&ctx);
#else
    SKIP("no flush-to-zero mode to set here");
#endif
}

/* Any order, any number of workers. */
static void threads(void) {
#ifdef TFB_PTHREADS
    tfb_ctx ctx;
    int i;
    tfb_ctx_init(&ctx);
    CHECK_OK(&ctx, tfb_isa_force(&ctx, isa));
    for (i = 0; i < HASHED; i++) {
        if (!t_turn()) continue;
        CHECK_OK(&ctx, tfb_ctx_threads(&ctx, (int)t_int(1, 5), 0));
        again(&ctx, (int)t_int(0, HASHED - 1), "depends on threads");
    }
    tfb_ctx_free(&ctx);
#else
    SKIP("built without TFB_PTHREADS");
#endif
}

/* Scratch that is full of numbers. */
static void used_scratch(void) {
    const tfb_idx n = 1 << 16;
    float *mem = t_floats(n);
    tfb_ctx ctx;
    int i;
    CHECK_OK(&ctx, tfb_ctx_init_static(&ctx, mem, (size_t)n * sizeof *mem));
    CHECK_OK(&ctx, tfb_isa_force(&ctx, isa));
    for (i = 0; i < HASHED; i++)
        if (hashed[i].run != hash_kv && t_turn())
            again(&ctx, i, "depends on what scratch held");
    free(mem);
}

/* A stored hash that no function has any more. */
static void nothing_stale(void) {
    int i, j;
    for (i = 0; stored[i].name; i++) {
        for (j = 0; j < HASHED && strcmp(hashed[j].name, stored[i].name) != 0;) j++;
        CHECK(j < HASHED, "%s is stored, nothing computes it", stored[i].name);
    }
}

int main(int argc, char **argv) {
    const char *only = getenv("TFB_TEST_ISA"), *name;
    tfb_ctx ctx;
    int i, table;
    t_ctx(&ctx, NULL);
    if (argc > 1 && strcmp(argv[1], "--print") == 0) {
        print_header(&ctx);
        tfb_ctx_free(&ctx);
        return 0;
    }
    for (table = 0; (name = tfb_isa_list(&ctx, table, NULL)) != NULL; table++) {
        if ((only && strcmp(only, name) != 0) || tfb_isa_force(&ctx, name) != TFB_OK)
            continue;
        if (!ctx.isa->fused) {
            printf("skip %s: without fma its bits are its own\n", name);
            continue;
        }
        for (i = 0; i < HASHED; i++) compare(&ctx, i);
        isa = name;
        RUN(no_subnormals);
        RUN(threads);
        RUN(used_scratch);
    }
    RUN(nothing_stale);
    tfb_ctx_free(&ctx);
    FINISH();
}
