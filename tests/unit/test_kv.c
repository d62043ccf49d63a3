/* KV caches, both kinds: what they hold, how they grow, what they refuse, and that
 * decoding through one gives the bits of a single causal prefill. */
#include "../test.h"

/* N tokens of key and value for a layer, made beforehand; pieces of it are appended. */
typedef struct rows {
    tfb_tensor key, value;
    float *mem[2];
} rows;

static tfb_tensor tokens_first(const float *mem, tfb_idx B, tfb_idx G, tfb_idx N,
                               tfb_idx D) { /* [B, G, N, D] of memory [B, N, G, D] */
    tfb_tensor t = tfb_view4(mem, TFB_F32, B, G, N, D);
    t.stride[1] = D;
    t.stride[2] = G * D;
    return t;
}

static rows rows_new(tfb_idx B, tfb_idx G, tfb_idx N, tfb_idx D, tfb_idx Dv,
                     int by_token) {
    rows r;
    r.mem[0] = t_floats(B * G * N * D);
    r.mem[1] = t_floats(B * G * N * Dv);
    r.key = tfb_view4(r.mem[0], TFB_F32, B, G, N, D);
    r.value = tfb_view4(r.mem[1], TFB_F32, B, G, N, Dv);
    if (by_token) {
        r.key = tokens_first(r.mem[0], B, G, N, D);
        r.value = tokens_first(r.mem[1], B, G, N, Dv);
    }
    return r;
}

static void rows_free(rows *r) {
    free(r->mem[0]);
    free(r->mem[1]);
}

static rows rows_slice(tfb_ctx *ctx, const rows *r, tfb_idx from, tfb_idx n) {
    rows piece = *r;
    CHECK_OK(ctx, tfb_slice(ctx, &r->key, 2, from, n, &piece.key));
    CHECK_OK(ctx, tfb_slice(ctx, &r->value, 2, from, n, &piece.value));
    return piece;
}

static tfb_status feed(tfb_ctx *ctx, tfb_kv *kv, int layer, const rows *r, tfb_idx from,
                       tfb_idx n) {
    const rows piece = rows_slice(ctx, r, from, n);
    return tfb_kv_append(ctx, kv, layer, &piece.key, &piece.value);
}

static float at4(const tfb_tensor *t, tfb_idx b, tfb_idx g, tfb_idx i, tfb_idx d) {
    return ((const float *)t->data)[b * t->stride[0] + g * t->stride[1] +
                                    i * t->stride[2] + d * t->stride[3]];
}

static int same_rows(const tfb_tensor *got, const tfb_tensor *want, tfb_idx n) {
    tfb_idx b, g, i, d;
    int same = got->ndim == 4 && got->dtype == TFB_F32 && got->shape[2] == n;
    for (i = 0; i < 4; i++) same = same && (i == 2 || got->shape[i] == want->shape[i]);
    for (b = 0; same && b < want->shape[0]; b++)
        for (g = 0; g < want->shape[1]; g++)
            for (i = 0; i < n; i++)
                for (d = 0; d < want->shape[3]; d++) {
                    const float x = at4(got, b, g, i, d), y = at4(want, b, g, i, d);
                    same = same && t_differ(&x, &y, 1) == 1;
                }
    return same;
}

/* The layer holds exactly the first n tokens of r. */
static void holds(tfb_ctx *ctx, const tfb_kv *kv, int layer, const rows *r, tfb_idx n) {
    tfb_tensor key, value;
    CHECK_OK(ctx, tfb_kv_get(ctx, kv, layer, &key, &value));
    CHECK(tfb_kv_length(kv, layer) == n, "length %ld, wanted %ld",
          (long)tfb_kv_length(kv, layer), (long)n);
    CHECK(tfb_kv_capacity(kv, layer) >= n, "capacity %ld below %ld rows",
          (long)tfb_kv_capacity(kv, layer), (long)n);
    CHECK(same_rows(&key, &r->key, n), "key of layer %d after %ld rows", layer, (long)n);
    CHECK(same_rows(&value, &r->value, n), "value of layer %d after %ld rows", layer,
          (long)n);
}

/* All that a cache consists of, its memory included: a failure must not change it. */
typedef struct snapshot {
    size_t bytes;
    char *mem;
} snapshot;

static void snap_add(snapshot *s, const void *p, size_t bytes) {
    s->mem = (char *)realloc(s->mem, s->bytes + bytes + 1);
    if (!s->mem) exit(99);
    if (bytes) memcpy(s->mem + s->bytes, p, bytes);
    s->bytes += bytes;
}

static snapshot snap(const tfb_kv *kv) {
    snapshot s = {0, NULL};
    int i;
    snap_add(&s, kv, sizeof *kv);
    snap_add(&s, kv->layer, (size_t)kv->layers * sizeof *kv->layer);
    for (i = 0; i < kv->layers; i++) {
        const tfb_kv_layer *l = kv->layer + i;
        const size_t n = (size_t)(l->batch * l->kv_heads * l->capacity) * sizeof(float);
        if (l->key) snap_add(&s, l->key, n * (size_t)l->head_dim);
        if (l->value) snap_add(&s, l->value, n * (size_t)l->v_dim);
    }
    return s;
}

static void unchanged(const tfb_kv *kv, snapshot *before, const char *what) {
    snapshot now = snap(kv);
    CHECK(now.bytes == before->bytes && !memcmp(now.mem, before->mem, now.bytes),
          "the cache changed: %s", what);
    free(now.mem);
    free(before->mem);
    before->mem = NULL;
}

static tfb_kv_shape shape_of(int layers, tfb_idx B, tfb_idx G, tfb_idx D, tfb_idx Dv,
                             tfb_idx max_tokens) {
    tfb_kv_shape s;
    memset(&s, 0, sizeof s);
    s.layers = layers;
    s.batch = B;
    s.kv_heads = G;
    s.head_dim = D;
    s.v_dim = Dv;
    s.max_tokens = max_tokens;
    return s;
}

/* Either kind over one interface; mem is the static one's memory, of exactly its size. */
static void *cache_new(tfb_ctx *ctx, tfb_kv *kv, int is_static, tfb_kv_shape s) {
    void *mem = NULL;
    if (is_static) {
        const size_t bytes = tfb_kv_bytes(&s);
        mem = malloc(bytes);
        if (!mem) exit(99);
        memset(mem, 0x7F, bytes);
        CHECK_OK(ctx, tfb_kv_init_static(ctx, kv, &s, mem, bytes));
    } else CHECK_OK(ctx, tfb_kv_init(ctx, kv, s.layers));
    return mem;
}

/* --- Sizes. --- */
static void bytes_equal_the_macro(void) {
    static char fixed[TFB_KV_BYTES(2, 1, 2, 4, 3, 10)];
    int it;
    for (it = 0; it < 500; it++) {
        const tfb_kv_shape s =
            shape_of((int)t_int(1, 9), t_int(1, 9), t_int(1, 9), t_int(1, 99),
                     t_int(0, 3) * t_int(0, 33), t_int(1, 999));
        const tfb_idx Dv = s.v_dim ? s.v_dim : s.head_dim;
        const size_t data = 4 * (size_t)(s.layers * s.batch * s.kv_heads * s.max_tokens) *
                            (size_t)(s.head_dim + Dv);
        const size_t bytes = tfb_kv_bytes(&s);
        CHECK(bytes == TFB_KV_BYTES(s.layers, s.batch, s.kv_heads, s.head_dim, s.v_dim,
                                    s.max_tokens),
              "function and macro differ: %zu", bytes);
        CHECK(bytes == data + (size_t)s.layers * sizeof(tfb_kv_layer), "%zu for %zu",
              bytes, data);
    }
    CHECK(sizeof fixed == 2 * sizeof(tfb_kv_layer) + 4 * 2 * 2 * 10 * 7, "a constant");
}

static void illegal_shapes_have_no_bytes(void) {
    const tfb_kv_shape good = shape_of(2, 1, 2, 4, 3, 10);
    const tfb_idx bad[] = {0, -1, PTRDIFF_MAX};
    tfb_kv_shape s;
    int i;
    CHECK(tfb_kv_bytes(NULL) == 0, "NULL");
    for (i = 0; i < 3; i++) {
#define NO_BYTES(field)                                                                  \
    s = good;                                                                            \
    s.field = bad[i];                                                                    \
    CHECK(tfb_kv_bytes(&s) == 0, #field " is %ld", (long)bad[i])
        NO_BYTES(batch);
        NO_BYTES(kv_heads);
        NO_BYTES(head_dim);
        NO_BYTES(max_tokens);
        if (i) { /* v_dim 0 means head_dim */
            NO_BYTES(v_dim);
        }
    }
    s = good;
    s.layers = 0;
    CHECK(tfb_kv_bytes(&s) == 0, "no layers");
    s.layers = -3;
    CHECK(tfb_kv_bytes(&s) == 0, "negative layers");
    s = shape_of(1 << 15, (tfb_idx)1 << 15, (tfb_idx)1 << 15, 1 << 10, 0, 1 << 10);
    CHECK(tfb_kv_bytes(&s) == 0, "a product that overflows");
}

/* Every row fits into exactly the bytes asked for; the sanitizer watches the end. */
static void static_fills_its_bytes(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 10; it++) {
        const tfb_kv_shape s = shape_of((int)t_int(1, 3), t_int(1, 3), t_int(1, 3),
                                        t_int(1, 9), t_int(0, 9), t_int(1, 20));
        const tfb_idx Dv = s.v_dim ? s.v_dim : s.head_dim;
        rows r = rows_new(s.batch, s.kv_heads, s.max_tokens, s.head_dim, Dv, it % 2);
        tfb_kv kv;
        void *mem = cache_new(&ctx, &kv, 1, s);
        int i;
        for (i = 0; i < s.layers; i++) {
            CHECK(tfb_kv_capacity(&kv, i) == s.max_tokens, "capacity");
            CHECK_OK(&ctx, feed(&ctx, &kv, i, &r, 0, s.max_tokens));
        }
        for (i = 0; i < s.layers; i++) holds(&ctx, &kv, i, &r, s.max_tokens);
        CHECK((char *)kv.layer == (char *)mem, "not in the caller's memory");
        tfb_kv_free(&kv);
        free(mem);
        rows_free(&r);
    }
    tfb_ctx_free(&ctx);
}

/* --- Append and get. --- */
static void append_in_pieces(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 24; it++) {
        const tfb_kv_shape s =
            shape_of(3, t_int(1, 3), t_int(1, 3), t_int(1, 9), t_int(1, 9), 90);
        rows r[3];
        tfb_idx have[3] = {0, 0, 0};
        tfb_kv kv;
        void *mem = cache_new(&ctx, &kv, it % 2, s);
        int i, step;
        for (i = 0; i < 3; i++)
            r[i] = rows_new(s.batch, s.kv_heads, 90, s.head_dim, s.v_dim, it % 4 / 2);
        for (step = 0; step < 20; step++) {
            const int layer = (int)t_int(0, 2);
            const tfb_idx n = t_int(0, it < 12 ? 3 : 40);
            if (have[layer] + n > 90) continue;
            CHECK_OK(&ctx, feed(&ctx, &kv, layer, r + layer, have[layer], n));
            have[layer] += n;
            for (i = 0; i < 3; i++)
                if (have[i]) holds(&ctx, &kv, i, r + i, have[i]);
        }
        tfb_kv_free(&kv);
        free(mem);
        for (i = 0; i < 3; i++) rows_free(r + i);
    }
    tfb_ctx_free(&ctx);
}

static void rows_are_copied(void) {
    tfb_ctx ctx;
    int is_static;
    t_ctx(&ctx, NULL);
    for (is_static = 0; is_static < 2; is_static++) {
        rows r = rows_new(2, 2, 8, 3, 4, 0), copy = rows_new(2, 2, 8, 3, 4, 0);
        tfb_kv kv;
        void *mem = cache_new(&ctx, &kv, is_static, shape_of(1, 2, 2, 3, 4, 8));
        CHECK_OK(&ctx, tfb_copy(&ctx, &r.key, &copy.key));
        CHECK_OK(&ctx, tfb_copy(&ctx, &r.value, &copy.value));
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 8));
        memset(r.mem[0], 0x55, 2 * 2 * 8 * 3 * sizeof(float));
        memset(r.mem[1], 0x55, 2 * 2 * 8 * 4 * sizeof(float));
        rows_free(&r);
        holds(&ctx, &kv, 0, &copy, 8);
        tfb_kv_free(&kv);
        free(mem);
        rows_free(&copy);
    }
    tfb_ctx_free(&ctx);
}

/* One head given to all by stride 0 is stored as often as there are heads. */
static void broadcast_rows(void) {
    tfb_ctx ctx;
    rows r = rows_new(2, 3, 5, 4, 4, 0);
    tfb_kv kv;
    t_ctx(&ctx, NULL);
    r.key.stride[0] = r.key.stride[1] = r.value.stride[2] = 0;
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, 1));
    CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 5));
    holds(&ctx, &kv, 0, &r, 5);
    tfb_kv_free(&kv);
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

static void zero_rows_change_nothing(void) {
    tfb_ctx ctx;
    t_heap heap;
    rows r = rows_new(1, 2, 5, 4, 3, 0), other = rows_new(3, 1, 5, 2, 6, 0);
    tfb_kv kv;
    snapshot before;
    long calls;
    int is_static;
    t_ctx(&ctx, &heap);
    for (is_static = 0; is_static < 2; is_static++) {
        void *mem = cache_new(&ctx, &kv, is_static, shape_of(2, 1, 2, 4, 3, 5));
        calls = heap.calls;
        before = snap(&kv);
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 3, 0));
        unchanged(&kv, &before, "no rows for an untouched layer");
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 5)); /* static: full now */
        before = snap(&kv);
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 0));
        unchanged(&kv, &before, "no rows");
        CHECK(heap.calls == calls + !is_static, "allocated for no rows");
        tfb_kv_free(&kv);
        free(mem);
    }
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, 1)); /* no rows do not fix a layer's shape */
    CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 0));
    CHECK_OK(&ctx, feed(&ctx, &kv, 0, &other, 0, 5));
    holds(&ctx, &kv, 0, &other, 5);
    tfb_kv_free(&kv);
    rows_free(&r);
    rows_free(&other);
    tfb_ctx_free(&ctx);
}

static void untouched_layers(void) {
    tfb_ctx ctx;
    rows r = rows_new(1, 2, 5, 4, 3, 0);
    int is_static;
    t_ctx(&ctx, NULL);
    for (is_static = 0; is_static < 2; is_static++) {
        tfb_kv kv;
        tfb_tensor key = r.key, value = r.value;
        void *mem = cache_new(&ctx, &kv, is_static, shape_of(3, 1, 2, 4, 3, 5));
        CHECK_OK(&ctx, feed(&ctx, &kv, 1, &r, 0, 2));
        CHECK_OK(&ctx, tfb_kv_get(&ctx, &kv, 2, &key, &value));
        CHECK(!key.data && key.ndim == 0 && !value.data && value.ndim == 0,
              "%s: an untouched layer gives ndim %d", is_static ? "static" : "dynamic",
              key.ndim);
        CHECK(tfb_kv_length(&kv, 2) == 0 && tfb_kv_length(&kv, 0) == 0, "length");
        CHECK(tfb_kv_capacity(&kv, 0) == (is_static ? 5 : 0), "capacity");
        holds(&ctx, &kv, 1, &r, 2);
        tfb_kv_free(&kv);
        free(mem);
    }
    CHECK(tfb_kv_length(NULL, 0) == 0 && tfb_kv_capacity(NULL, 0) == 0, "no cache");
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

static void shapes_per_layer(void) {
    tfb_ctx ctx;
    rows r[3];
    tfb_kv kv;
    int i, step;
    t_ctx(&ctx, NULL);
    r[0] = rows_new(1, 2, 40, 4, 3, 0);
    r[1] = rows_new(3, 1, 40, 7, 7, 1);
    r[2] = rows_new(2, 5, 40, 1, 20, 0);
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, 3));
    for (step = 0; step < 10; step++)
        for (i = 0; i < 3; i++) {
            CHECK_OK(&ctx, feed(&ctx, &kv, i, r + i, 4 * step, 4));
            holds(&ctx, &kv, i, r + i, 4 * step + 4);
            CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "key.shape[0] is",
                        feed(&ctx, &kv, i, r + (i + 1) % 3, 0, 1));
        }
    tfb_kv_free(&kv);
    for (i = 0; i < 3; i++) rows_free(r + i);
    tfb_ctx_free(&ctx);
}

/* --- Growth, reset, free. --- */
static void growth_is_amortised(void) {
    tfb_ctx ctx;
    t_heap heap;
    rows r = rows_new(2, 2, 3000, 2, 1, 1);
    tfb_kv kv;
    tfb_idx i, was = 0;
    long before;
    int grown = 0;
    t_ctx(&ctx, &heap);
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, 1));
    for (i = 0; i < 3000; i++) {
        const tfb_idx room = tfb_kv_capacity(&kv, 0);
        before = heap.calls;
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, i, 1));
        CHECK(heap.calls == before || i == room, "allocated although %ld rows fitted",
              (long)room);
        if (tfb_kv_capacity(&kv, 0) == room) continue;
        CHECK(tfb_kv_capacity(&kv, 0) >= 2 * was, "grew from %ld to %ld", (long)was,
              (long)tfb_kv_capacity(&kv, 0));
        was = tfb_kv_capacity(&kv, 0);
        grown++;
        holds(&ctx, &kv, 0, &r, i + 1);
    }
    holds(&ctx, &kv, 0, &r, 3000);
    CHECK(grown <= 12 && heap.calls <= 14, "grew %d times, %ld allocations", grown,
          heap.calls);
    CHECK(was < 2 * 3000, "%ld rows of room for 3000", (long)was);
    CHECK(heap.live == 2, "%ld blocks for one layer", heap.live);
    tfb_kv_free(&kv);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

static void reset_keeps_memory(void) {
    tfb_ctx ctx;
    t_heap heap;
    rows r = rows_new(1, 2, 40, 4, 3, 0), s = rows_new(1, 2, 40, 4, 3, 1);
    rows other = rows_new(1, 1, 40, 4, 3, 1);
    int is_static;
    t_ctx(&ctx, &heap);
    for (is_static = 0; is_static < 2; is_static++) {
        tfb_kv kv;
        tfb_tensor key, value;
        void *mem = cache_new(&ctx, &kv, is_static, shape_of(2, 1, 2, 4, 3, 40));
        tfb_idx room;
        long calls;
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 40));
        CHECK_OK(&ctx, feed(&ctx, &kv, 1, &r, 0, 7));
        room = tfb_kv_capacity(&kv, 0);
        calls = heap.calls;
        tfb_kv_reset(&kv);
        CHECK(!tfb_kv_length(&kv, 0) && !tfb_kv_length(&kv, 1), "length after reset");
        CHECK(tfb_kv_capacity(&kv, 0) == room, "capacity after reset");
        CHECK_OK(&ctx, tfb_kv_get(&ctx, &kv, 0, &key, &value));
        CHECK(key.ndim == 4 && key.shape[2] == 0 && value.shape[3] == 3,
              "empty, not none");
        CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "key.shape[1] is 1, needs 2",
                    feed(&ctx, &kv, 0, &other, 0, 1));
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &s, 0, 40));
        holds(&ctx, &kv, 0, &s, 40);
        CHECK(heap.calls == calls, "allocated after reset");
        tfb_kv_free(&kv);
        free(mem);
    }
    tfb_kv_reset(NULL);
    rows_free(&r);
    rows_free(&s);
    rows_free(&other);
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
}

static void free_clears(void) {
    tfb_ctx ctx;
    t_heap heap;
    rows r = rows_new(1, 2, 5, 4, 3, 0);
    tfb_kv kv, zero;
    void *mem;
    t_ctx(&ctx, &heap);
    memset(&zero, 0, sizeof zero);
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, 4));
    CHECK_OK(&ctx, feed(&ctx, &kv, 1, &r, 0, 5));
    CHECK_OK(&ctx, feed(&ctx, &kv, 3, &r, 0, 5));
    CHECK(heap.live == 3, "%ld blocks", heap.live);
    tfb_kv_free(&kv);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
    CHECK(!memcmp(&kv, &zero, sizeof kv), "not cleared");
    tfb_kv_free(&kv); /* twice is no harm, nor is NULL */
    tfb_kv_free(NULL);
    mem = cache_new(&ctx, &kv, 1, shape_of(1, 1, 2, 4, 3, 5));
    tfb_kv_free(&kv);
    CHECK(!memcmp(&kv, &zero, sizeof kv), "static: not cleared");
    CHECK(heap.live == 0 && heap.calls == 3, "a static cache allocated");
    free(mem);
    CHECK(tfb_kv_length(&kv, 0) == 0 && tfb_kv_capacity(&kv, 0) == 0, "freed");
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "kv is not initialised", feed(&ctx, &kv, 0, &r, 0, 1));
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

/* The cache keeps the allocator it was made with: any context may append. */
static void memory_comes_from_the_first_context(void) {
    tfb_ctx ctx, fixed;
    t_heap heap;
    rows r = rows_new(1, 2, 50, 4, 3, 0);
    tfb_kv kv;
    t_ctx(&ctx, &heap);
    CHECK_OK(&fixed, tfb_ctx_init_static(&fixed, NULL, 0));
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, 1));
    CHECK_OK(&fixed, feed(&fixed, &kv, 0, &r, 0, 30));
    CHECK_OK(&fixed, feed(&fixed, &kv, 0, &r, 30, 20));
    holds(&ctx, &kv, 0, &r, 50);
    CHECK(heap.calls == 3, "%ld allocations", heap.calls);
    tfb_kv_free(&kv);
    rows_free(&r);
    tfb_ctx_free(&fixed);
    tfb_ctx_free(&ctx);
}

/* --- What is refused. --- */
static void full_static_cache(void) {
    tfb_ctx ctx;
    rows r = rows_new(1, 2, 20, 4, 3, 0);
    tfb_kv kv;
    snapshot before;
    void *mem;
    t_ctx(&ctx, NULL);
    mem = cache_new(&ctx, &kv, 1, shape_of(2, 1, 2, 4, 3, 10));
    before = snap(&kv);
    CHECK_FAILS(&ctx, TFB_ERR_FULL, "layer 1 holds 0 of 10 rows, 11 more do not fit",
                feed(&ctx, &kv, 1, &r, 0, 11));
    unchanged(&kv, &before, "11 rows of 10");
    CHECK_OK(&ctx, feed(&ctx, &kv, 1, &r, 0, 9));
    before = snap(&kv);
    CHECK_FAILS(&ctx, TFB_ERR_FULL, "holds 9 of 10 rows", feed(&ctx, &kv, 1, &r, 9, 2));
    unchanged(&kv, &before, "2 rows for 1");
    CHECK_OK(&ctx, feed(&ctx, &kv, 1, &r, 9, 1));
    before = snap(&kv);
    CHECK_FAILS(&ctx, TFB_ERR_FULL, "10 of 10", feed(&ctx, &kv, 1, &r, 10, 1));
    unchanged(&kv, &before, "1 row for none");
    CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 10)); /* the other layer has its own room */
    holds(&ctx, &kv, 1, &r, 10);
    holds(&ctx, &kv, 0, &r, 10);
    free(mem);
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

/* One thing wrong at a time with a tensor of append. */
typedef enum what { NIL, NDIM, SHAPE, STRIDE, DTYPE, DATA, SHIFT } what;
typedef struct spoil {
    what field;
    int of_value, dim;
    tfb_idx to;
    tfb_status want;
    const char *text;
} spoil;

static const spoil spoils[] = {
    {NIL, 0, 0, 0, TFB_ERR_ARG, "key is NULL"},
    {NIL, 1, 0, 0, TFB_ERR_ARG, "value is NULL"},
    {DATA, 0, 0, 0, TFB_ERR_ARG, "key.data is NULL"},
    {DATA, 1, 0, 0, TFB_ERR_ARG, "value.data is NULL"},
    {SHIFT, 0, 0, 2, TFB_ERR_ARG, "key.data is not aligned"},
    {SHIFT, 1, 0, 1, TFB_ERR_ARG, "value.data is not aligned"},
    {NDIM, 0, 0, 3, TFB_ERR_SHAPE, "key.ndim is 3"},
    {NDIM, 1, 0, 5, TFB_ERR_SHAPE, "value.ndim is 5"},
    {NDIM, 1, 0, -1, TFB_ERR_SHAPE, "value.ndim is -1"},
    {DTYPE, 0, 0, TFB_F16, TFB_ERR_DTYPE, "key is F16"},
    {DTYPE, 1, 0, TFB_I32, TFB_ERR_DTYPE, "value is I32"},
    {DTYPE, 0, 0, 77, TFB_ERR_DTYPE, "key.dtype is 77"},
    {SHAPE, 0, 0, 1, TFB_ERR_SHAPE, "shape[0]"},
    {SHAPE, 0, 1, 2, TFB_ERR_SHAPE, "shape[1]"},
    {SHAPE, 0, 2, 3, TFB_ERR_SHAPE, "value.shape[2] is 4, needs 3"},
    {SHAPE, 0, 3, 4, TFB_ERR_SHAPE, "key.shape[3] is 4, needs 5"},
    {SHAPE, 1, 0, 1, TFB_ERR_SHAPE, "value.shape[0] is 1, needs 2"},
    {SHAPE, 1, 1, 2, TFB_ERR_SHAPE, "value.shape[1] is 2, needs 3"},
    {SHAPE, 1, 2, 5, TFB_ERR_SHAPE, "value.shape[2] is 5, needs 4"},
    {SHAPE, 1, 3, 5, TFB_ERR_SHAPE, "value.shape[3] is 5, needs 6"},
    {SHAPE, 0, 2, -4, TFB_ERR_SHAPE, "key.shape[2] is -4"},
    {SHAPE, 0, 2, PTRDIFF_MAX, TFB_ERR_RANGE, "the size of key overflows"},
    {SHAPE, 1, 3, PTRDIFF_MAX, TFB_ERR_RANGE, "the size of value overflows"},
    {STRIDE, 0, 1, PTRDIFF_MAX, TFB_ERR_RANGE, "the size of key overflows"},
    {STRIDE, 1, 2, -PTRDIFF_MAX, TFB_ERR_RANGE, "the size of value overflows"},
};

static void spoil_tensor(const spoil *s, tfb_tensor *t) {
    switch (s->field) {
    case NDIM: t->ndim = (int)s->to; break;
    case SHAPE: t->shape[s->dim] = s->to; break;
    case STRIDE: t->stride[s->dim] = s->to; break;
    case DTYPE: t->dtype = (tfb_dtype)s->to; break;
    case DATA: t->data = NULL; break;
    case SHIFT: t->data = (char *)t->data + s->to; break;
    case NIL: break;
    }
}

static void bad_rows(void) {
    tfb_ctx ctx;
    rows r = rows_new(2, 3, 4, 5, 6, 0);
    size_t i;
    int is_static;
    t_ctx(&ctx, NULL);
    for (is_static = 0; is_static < 2; is_static++) {
        tfb_kv kv;
        void *mem = cache_new(&ctx, &kv, is_static, shape_of(2, 2, 3, 5, 6, 40));
        CHECK_OK(&ctx, feed(&ctx, &kv, 1, &r, 0, 4));
        for (i = 0; i < sizeof spoils / sizeof *spoils; i++) {
            const spoil *s = spoils + i;
            tfb_tensor key = r.key, value = r.value;
            snapshot before = snap(&kv);
            spoil_tensor(s, s->of_value ? &value : &key);
            CHECK_FAILS(&ctx, s->want, s->text,
                        tfb_kv_append(&ctx, &kv, 1,
                                      s->field == NIL && !s->of_value ? NULL : &key,
                                      s->field == NIL && s->of_value ? NULL : &value));
            CHECK(!strncmp(ctx.message, "tfb_kv_append: ", 15), "\"%s\"", ctx.message);
            unchanged(&kv, &before, s->text);
        }
        holds(&ctx, &kv, 1, &r, 4);
        tfb_kv_free(&kv);
        free(mem);
    }
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

static void bad_layers(void) {
    tfb_ctx ctx;
    rows r = rows_new(1, 2, 5, 4, 3, 0);
    tfb_tensor key = r.key, value = r.value;
    tfb_kv kv, zero;
    snapshot before;
    t_ctx(&ctx, NULL);
    memset(&zero, 0, sizeof zero);
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, 2));
    CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 2));
    before = snap(&kv);
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "layer is 2, kv has 2",
                feed(&ctx, &kv, 2, &r, 0, 1));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "layer is -1", feed(&ctx, &kv, -1, &r, 0, 1));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "kv is NULL", feed(&ctx, NULL, 0, &r, 0, 1));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "not initialised", feed(&ctx, &zero, 0, &r, 0, 1));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "tfb_kv_get: layer is 2",
                tfb_kv_get(&ctx, &kv, 2, &key, &value));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "layer is -5",
                tfb_kv_get(&ctx, &kv, -5, &key, &value));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "key is NULL", tfb_kv_get(&ctx, &kv, 0, NULL, &value));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "value is NULL", tfb_kv_get(&ctx, &kv, 0, &key, NULL));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "kv is NULL", tfb_kv_get(&ctx, NULL, 0, &key, &value));
    CHECK(key.data == r.key.data && value.data == r.value.data, "a failed get wrote");
    CHECK(tfb_kv_append(NULL, &kv, 0, &key, &value) == TFB_ERR_ARG, "no context");
    CHECK(tfb_kv_get(NULL, &kv, 0, &key, &value) == TFB_ERR_ARG, "no context");
    CHECK(tfb_kv_length(&kv, 2) == 0 && tfb_kv_length(&kv, -1) == 0, "unknown layers");
    CHECK(tfb_kv_capacity(&kv, 2) == 0 && tfb_kv_capacity(&kv, -1) == 0, "no capacity");
    unchanged(&kv, &before, "bad layer");
    tfb_kv_free(&kv);
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

static void empty_rows_fix_no_shape(void) { /* extents of 0 other than T are refused */
    tfb_ctx ctx;
    rows r = rows_new(1, 2, 5, 4, 3, 0);
    tfb_kv kv;
    int dim;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, 1));
    for (dim = 0; dim < 4; dim++) {
        tfb_tensor key = r.key, value = r.value;
        snapshot before;
        if (dim == 2) continue;
        before = snap(&kv);
        key.shape[dim] = value.shape[dim] = 0;
        CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "empty",
                    tfb_kv_append(&ctx, &kv, 0, &key, &value));
        unchanged(&kv, &before, "an empty extent");
    }
    CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 5));
    tfb_kv_free(&kv);
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

/* Rows that lie in the layer's own memory are refused, be they its keys or its values;
 * rows of another layer are as good as any. */
static void own_memory(void) {
    tfb_ctx ctx;
    rows r = rows_new(1, 2, 16, 4, 4, 0);
    int is_static, i;
    t_ctx(&ctx, NULL);
    for (is_static = 0; is_static < 2; is_static++) {
        tfb_kv kv;
        tfb_tensor own[2], pair[2];
        void *mem = cache_new(&ctx, &kv, is_static, shape_of(2, 1, 2, 4, 4, 40));
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 16)); /* dynamic: the next one grows */
        CHECK_OK(&ctx, tfb_kv_get(&ctx, &kv, 0, own, own + 1));
        for (i = 0; i < 4; i++) { /* key, value <- own key, own value */
            snapshot before = snap(&kv);
            pair[0] = r.key;
            pair[1] = r.value;
            pair[i % 2] = own[i / 2];
            CHECK_FAILS(&ctx, TFB_ERR_ALIAS, i % 2 ? "value" : "key",
                        tfb_kv_append(&ctx, &kv, 0, pair, pair + 1));
            unchanged(&kv, &before, "own memory");
        }
        CHECK_OK(&ctx, tfb_kv_append(&ctx, &kv, 1, own, own + 1));
        holds(&ctx, &kv, 0, &r, 16);
        holds(&ctx, &kv, 1, &r, 16);
        tfb_kv_free(&kv);
        free(mem);
    }
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

/* Hands out one block that lies between the two batches of the rows to be appended. */
static void *between(void *user, void *ptr, size_t bytes) {
    float *arena = (float *)user;
    return ptr || bytes == 0 || bytes > 64 * sizeof(tfb_kv_layer) ? NULL : arena + 1000;
}

/* Rows whose span surrounds the cache's memory overlap it, or do not; never is the cache
 * left half-written. */
static void rows_around_the_cache(void) {
    static double mem[2000]; /* 4000 floats: batch 0, the cache, batch 1 */
    float *arena = (float *)(void *)mem;
    tfb_ctx ctx;
    tfb_kv kv;
    tfb_tensor key = tfb_view4(arena, TFB_F32, 2, 1, 3, 2);
    snapshot before;
    tfb_status got;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, 1));
    kv.alloc = between;
    kv.alloc_user = arena;
    key.stride[0] = 3000;
    before = snap(&kv);
    got = tfb_kv_append(&ctx, &kv, 0, &key, &key);
    CHECK(got == TFB_OK || got == TFB_ERR_ALIAS, "%d: %s", (int)got, ctx.message);
    if (got != TFB_OK) unchanged(&kv, &before, "rows around it");
    free(before.mem);
    if (kv.layer->key) kv.layer->key = NULL; /* not heap memory */
    kv.alloc = ctx.alloc;
    kv.alloc_user = ctx.alloc_user;
    tfb_kv_free(&kv);
    tfb_ctx_free(&ctx);
}

/* Refuses what no machine has, so that sizes near the limit can be asked for. */
static void *modest(void *user, void *ptr, size_t bytes) {
    return bytes > (size_t)1 << 24 ? NULL : t_alloc(user, ptr, bytes);
}

static void huge_appends(void) { /* stride 0: a little memory, any number of rows */
    static const struct {
        tfb_idx rows;
        tfb_status dynamic;
    } asked[] = {{1 << 26, TFB_ERR_MEMORY},
                 {PTRDIFF_MAX / 64, TFB_ERR_MEMORY},
                 {PTRDIFF_MAX / 8 + 1, TFB_ERR_RANGE}, /* 8 bytes a row */
                 {PTRDIFF_MAX / 4 + 1, TFB_ERR_RANGE}};
    tfb_ctx ctx;
    t_heap heap;
    float zero = 0;
    size_t i;
    int is_static, first;
    t_ctx(&ctx, &heap);
    ctx.alloc = modest;
    for (i = 0; i < 4 * sizeof asked / sizeof *asked; i++) {
        const tfb_idx n = asked[i / 4].rows;
        rows r = rows_new(1, 1, 5, 1, 1, 0);
        tfb_kv kv;
        tfb_tensor many = tfb_view4(&zero, TFB_F32, 1, 1, n, 1);
        snapshot before;
        tfb_status got;
        void *mem;
        is_static = i % 4 / 2;
        first = i % 2;
        mem = cache_new(&ctx, &kv, is_static, shape_of(1, 1, 1, 1, 1, 5));
        many.stride[0] = many.stride[1] = many.stride[2] = 0;
        if (!first) CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 5));
        before = snap(&kv);
        got = tfb_kv_append(&ctx, &kv, 0, &many, &many);
        CHECK(got == asked[i / 4].dynamic || (is_static && got == TFB_ERR_FULL),
              "%ld rows gave %d (%s)", (long)n, (int)got, ctx.message);
        CHECK(!strncmp(ctx.message, "tfb_kv_append: ", 15), "\"%s\"", ctx.message);
        unchanged(&kv, &before, "far too many rows");
        tfb_kv_free(&kv);
        free(mem);
        rows_free(&r);
    }
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
    tfb_ctx_free(&ctx);
}

/* --- Initialisation. --- */
static void bad_init(void) {
    tfb_ctx ctx, fixed;
    t_heap heap;
    tfb_kv kv, same;
    t_ctx(&ctx, &heap);
    memset(&kv, 0x5A, sizeof kv);
    same = kv;
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_kv_init: kv is NULL", tfb_kv_init(&ctx, NULL, 1));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "layers is 0", tfb_kv_init(&ctx, &kv, 0));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "layers is -7", tfb_kv_init(&ctx, &kv, -7));
    heap.fail_at = 1;
    CHECK_FAILS(&ctx, TFB_ERR_MEMORY, "tfb_kv_init", tfb_kv_init(&ctx, &kv, 3));
    CHECK_OK(&fixed, tfb_ctx_init_static(&fixed, NULL, 0));
    CHECK_FAILS(&fixed, TFB_ERR_MEMORY, "alloc is NULL", tfb_kv_init(&fixed, &kv, 3));
    CHECK(tfb_kv_init(NULL, &kv, 3) == TFB_ERR_ARG, "no context");
    CHECK(!memcmp(&kv, &same, sizeof kv), "kv changed although init failed");
    tfb_ctx_free(&fixed);
    tfb_ctx_free(&ctx);
}

static void bad_init_static(void) {
    const tfb_kv_shape good = shape_of(2, 1, 2, 4, 3, 10);
    const size_t need = tfb_kv_bytes(&good);
    unsigned char *mem = (unsigned char *)malloc(need);
    tfb_kv_shape s = good;
    tfb_ctx ctx;
    tfb_kv kv, same;
    char text[40];
    size_t i;
    t_ctx(&ctx, NULL);
    memset(&kv, 0x5A, sizeof kv);
    memset(mem, 0x5A, need);
    same = kv;
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "kv is NULL",
                tfb_kv_init_static(&ctx, NULL, &s, mem, need));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "shape is NULL",
                tfb_kv_init_static(&ctx, &kv, NULL, mem, need));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "mem is NULL",
                tfb_kv_init_static(&ctx, &kv, &s, NULL, need));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "aligned",
                tfb_kv_init_static(&ctx, &kv, &s, mem + 4, need));
    snprintf(text, sizeof text, "mem_bytes is %lu, needs %lu", (unsigned long)need - 1,
             (unsigned long)need);
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, text,
                tfb_kv_init_static(&ctx, &kv, &s, mem, need - 1));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "needs", tfb_kv_init_static(&ctx, &kv, &s, mem, 0));
    s.kv_heads = 0;
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "extent",
                tfb_kv_init_static(&ctx, &kv, &s, mem, need));
    s = good;
    s.max_tokens = PTRDIFF_MAX;
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "overflows",
                tfb_kv_init_static(&ctx, &kv, &s, mem, (size_t)-1));
    CHECK(tfb_kv_init_static(NULL, &kv, &good, mem, need) == TFB_ERR_ARG, "no context");
    CHECK(!memcmp(&kv, &same, sizeof kv), "kv changed although init failed");
    for (i = 0; i < need; i++) CHECK(mem[i] == 0x5A, "mem changed although init failed");
    CHECK_OK(&ctx, tfb_kv_init_static(&ctx, &kv, &good, mem, need));
    free(mem);
    tfb_ctx_free(&ctx);
}

static void allocation_fails_at_every_step(void) {
    tfb_ctx ctx;
    t_heap heap;
    rows r = rows_new(2, 2, 200, 3, 5, 1);
    tfb_kv kv;
    tfb_idx at = 0;
    int failures = 0;
    t_ctx(&ctx, &heap);
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, 1));
    while (at < 200) {
        snapshot before = snap(&kv);
        const tfb_idx n = 200 - at < 9 ? 200 - at : 9;
        tfb_status got;
        heap.fail_at = heap.calls + 1;
        got = feed(&ctx, &kv, 0, &r, at, n);
        if (got != TFB_OK) {
            CHECK(got == TFB_ERR_MEMORY && strstr(ctx.message, "bytes are not to be had"),
                  "%d: %s", (int)got, ctx.message);
            unchanged(&kv, &before, "no memory");
            failures++;
            heap.fail_at = 0;
            CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, at, n));
        }
        free(before.mem);
        at += n;
        holds(&ctx, &kv, 0, &r, at);
    }
    CHECK(failures >= 4, "only %d allocations", failures);
    heap.fail_at = 0;
    tfb_kv_free(&kv);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

static void measuring_touches_nothing(void) {
    tfb_ctx ctx, measure;
    rows r = rows_new(1, 2, 5, 4, 3, 0);
    tfb_tensor none = tfb_view4(NULL, TFB_F32, 1, 2, 5, 4), value = none;
    tfb_kv kv;
    snapshot before;
    t_ctx(&ctx, NULL);
    CHECK_OK(&measure, tfb_ctx_init_measure(&measure));
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, 1));
    CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 2));
    before = snap(&kv);
    value.shape[3] = 3;
    CHECK_OK(&measure, tfb_kv_append(&measure, &kv, 0, &none, &value));
    CHECK_FAILS(&measure, TFB_ERR_SHAPE, "value.shape[3] is 4, needs 3",
                tfb_kv_append(&measure, &kv, 0, &none, &none));
    unchanged(&kv, &before, "measured");
    tfb_kv_free(&kv);
    rows_free(&r);
    tfb_ctx_free(&measure);
    tfb_ctx_free(&ctx);
}

/* --- Decoding. --- */
typedef struct decode {
    tfb_tensor q, y;
    tfb_attention_opts o;
    rows r;
    float *q_mem, *y_mem;
    tfb_idx B, H, G, N, D, Dv;
} decode;

static void decode_new(decode *d, tfb_idx B, tfb_idx H, tfb_idx G, tfb_idx N, tfb_idx D,
                       tfb_idx Dv) {
    memset(d, 0, sizeof *d);
    d->B = B;
    d->H = H;
    d->G = G;
    d->N = N;
    d->D = D;
    d->Dv = Dv;
    d->r = rows_new(B, G, N, D, Dv, 1);
    d->q_mem = t_floats(B * H * N * D);
    d->y_mem = t_floats(B * H * N * Dv);
    d->q = tokens_first(d->q_mem, B, H, N, D);
    d->y = tokens_first(d->y_mem, B, H, N, Dv);
    d->o.causal = TFB_CAUSAL_BOTTOM_RIGHT;
}

static void decode_free(decode *d) {
    rows_free(&d->r);
    free(d->q_mem);
    free(d->y_mem);
}

/* n tokens from `at` on: append, then attention over the cache in place. */
static void decode_step(tfb_ctx *ctx, decode *d, tfb_kv *kv, int layer, tfb_idx at,
                        tfb_idx n) {
    tfb_tensor q, y, key, value;
    CHECK_OK(ctx, feed(ctx, kv, layer, &d->r, at, n));
    CHECK_OK(ctx, tfb_kv_get(ctx, kv, layer, &key, &value));
    CHECK_OK(ctx, tfb_slice(ctx, &d->q, 2, at, n, &q));
    CHECK_OK(ctx, tfb_slice(ctx, &d->y, 2, at, n, &y));
    CHECK_OK(ctx, tfb_attention(ctx, &q, &key, &value, &d->o, &y));
}

/* All at once without a cache; returns the output, which is then wiped from d. */
static float *decode_expect(tfb_ctx *ctx, decode *d) {
    const size_t bytes = (size_t)(d->B * d->H * d->N * d->Dv) * sizeof(float);
    float *want = t_floats(d->B * d->H * d->N * d->Dv);
    CHECK_OK(ctx, tfb_attention(ctx, &d->q, &d->r.key, &d->r.value, &d->o, &d->y));
    memcpy(want, d->y_mem, bytes);
    memset(d->y_mem, 0x7F, bytes);
    return want;
}

static void decode_equals_prefill(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 12; it++) {
        decode d;
        tfb_kv kv;
        void *mem;
        float *want;
        tfb_idx at, n;
        if (it < 2) decode_new(&d, 1, 2, 1, 1100, 4, 3); /* past the first split */
        else decode_new(&d, 2, 4, 2, t_int(1, 150), t_int(1, 20), t_int(1, 20));
        d.o.window = it % 3 == 2 ? t_int(1, 100) : 0;
        want = decode_expect(&ctx, &d);
        mem = cache_new(&ctx, &kv, it % 2, shape_of(2, d.B, d.G, d.D, d.Dv, d.N));
        for (at = 0; at < d.N; at += n) { /* token by token, or in pieces */
            n = it % 4 < 2 ? 1 : t_int(1, d.N - at);
            decode_step(&ctx, &d, &kv, 1, at, n);
        }
        CHECK(!memcmp(d.y_mem, want, (size_t)(d.B * d.H * d.N * d.Dv) * sizeof(float)),
              "run %d: decoding %ld tokens differs from prefill", it, (long)d.N);
        tfb_kv_free(&kv);
        free(mem);
        free(want);
        decode_free(&d);
    }
    tfb_ctx_free(&ctx);
}

static void static_decode_allocates_nothing(void) {
    static double mem[TFB_KV_BYTES(2, 1, 2, 8, 8, 200) / 8 + 1];
    const tfb_kv_shape s = shape_of(2, 1, 2, 8, 0, 200);
    tfb_ctx ctx;
    t_heap heap;
    decode d;
    tfb_kv kv;
    tfb_idx t;
    float *want;
    long calls;
    t_ctx(&ctx, &heap);
    decode_new(&d, 1, 4, 2, 200, 8, 8);
    want = decode_expect(&ctx, &d);
    CHECK_OK(&ctx, tfb_kv_init_static(&ctx, &kv, &s, mem, sizeof mem));
    decode_step(&ctx, &d, &kv, 0, 0, 1);
    decode_step(&ctx, &d, &kv, 1, 0, 1);
    calls = heap.calls;
    for (t = 1; t < 200; t++) {
        decode_step(&ctx, &d, &kv, 0, t, 1);
        decode_step(&ctx, &d, &kv, 1, t, 1);
    }
    CHECK(heap.calls == calls, "%ld allocations after warm-up", heap.calls - calls);
    CHECK(!memcmp(d.y_mem, want, (size_t)(4 * 200 * 8) * sizeof(float)), "not the bits");
    free(want);
    decode_free(&d);
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
}

/* A decode loop over a static cache can be measured before it runs; what was measured is
 * what it then uses, and nothing of the cache was touched. */
static void decode_is_measured_beforehand(void) {
    tfb_ctx ctx, measure;
    decode d;
    tfb_kv kv;
    void *mem;
    snapshot before;
    tfb_idx at;
    t_ctx(&ctx, NULL);
    CHECK_OK(&measure, tfb_ctx_init_measure(&measure));
    CHECK_OK(&measure, tfb_isa_force(&measure, tfb_isa_name(&ctx)));
    decode_new(&d, 2, 4, 2, 20, 8, 5);
    mem = cache_new(&ctx, &kv, 1, shape_of(2, 2, 2, 8, 5, 20));
    before = snap(&kv);
    for (at = 0; at < 20; at += 5) decode_step(&measure, &d, &kv, 1, at, 5);
    unchanged(&kv, &before, "measured");
    for (at = 0; at < 20; at += 5) decode_step(&ctx, &d, &kv, 1, at, 5);
    CHECK(measure.scratch_peak == ctx.scratch_peak, "measured %lu bytes, used %lu",
          (unsigned long)measure.scratch_peak, (unsigned long)ctx.scratch_peak);
    CHECK(ctx.scratch_peak > 0, "no scratch at all");
    holds(&ctx, &kv, 1, &d.r, 20);
    tfb_kv_free(&kv);
    free(mem);
    decode_free(&d);
    tfb_ctx_free(&measure);
    tfb_ctx_free(&ctx);
}

int main(void) {
    RUN(bytes_equal_the_macro);
    RUN(illegal_shapes_have_no_bytes);
    RUN(static_fills_its_bytes);
    RUN(append_in_pieces);
    RUN(rows_are_copied);
    RUN(broadcast_rows);
    RUN(zero_rows_change_nothing);
    RUN(untouched_layers);
    RUN(shapes_per_layer);
    RUN(growth_is_amortised);
    RUN(reset_keeps_memory);
    RUN(free_clears);
    RUN(memory_comes_from_the_first_context);
    RUN(full_static_cache);
    RUN(bad_rows);
    RUN(bad_layers);
    RUN(empty_rows_fix_no_shape);
    RUN(own_memory);
    RUN(rows_around_the_cache);
    RUN(huge_appends);
    RUN(bad_init);
    RUN(bad_init_static);
    RUN(allocation_fails_at_every_step);
    RUN(measuring_touches_nothing);
    RUN(decode_equals_prefill);
    RUN(static_decode_allocates_nothing);
    RUN(decode_is_measured_beforehand);
    FINISH();
}
