/* KV caches of every kind: their sizes, what they hold and how they grow, and all that
 * they refuse: then nothing changes, be it for want of memory. */
#include "../test.h"
#include "cache.h"

/* --- Sizes. --- */
static tfb_kv_opts random_opts(void) {
    tfb_kv_opts o = opts_of(STATIC, (int)t_int(1, 9),
                            shape_of(t_int(1, 9), t_int(1, 9), t_int(1, 99),
                                     t_int(0, 3) * t_int(0, 33), t_int(1, 999)));
    o.dtype = kv_dtypes[t_int(0, 2)];
    if (t_int(0, 1)) {
        o.shape.window = t_int(1, 300);
        o.shape.pinned = t_int(0, 1) * t_int(0, 150);
        o.shape.chunk = t_int(0, 1) * t_int(0, 200);
    }
    return o;
}

static void bytes_equal_the_macros(void) {
    static char fixed[TFB_KV_BYTES(2, 1, 2, 4, 3, 10, 4)];
    static char ring[TFB_KV_RING_BYTES(2, 1, 2, 4, 3, 10, 0, 0, 2)];
    int it;
    for (it = 0; it < 500; it++) {
        const tfb_kv_opts o = random_opts();
        const tfb_kv_shape *s = &o.shape;
        const size_t size = tfb_dtype_size(o.dtype), bytes = tfb_kv_bytes(&o);
        const tfb_idx N = s->window ? s->window + s->pinned + 64 : s->max_tokens;
        CHECK(bytes ==
                  (s->window
                       ? TFB_KV_RING_BYTES(o.layers, s->batch, s->kv_heads, s->head_dim,
                                           s->v_dim, s->window, s->pinned, s->chunk, size)
                       : TFB_KV_BYTES(o.layers, s->batch, s->kv_heads, s->head_dim,
                                      s->v_dim, s->max_tokens, size)),
              "function and macro differ: %zu", bytes);
        CHECK(bytes > size * (size_t)(o.layers * s->batch * s->kv_heads * N) *
                          (size_t)(s->head_dim + (s->v_dim ? s->v_dim : s->head_dim)),
              "%zu bytes are too few", bytes);
    }
    CHECK(sizeof fixed < sizeof ring && sizeof fixed % 64 == 0, "constants");
}

/* Layers of several shapes: as much as the sum of their pages, states rounded once. */
static void bytes_of_many_shapes(void) {
    tfb_kv_opts o = opts_of(STATIC, 3, shape_of(0, 0, 0, 0, 0)), one = o;
    tfb_kv_shape s[3];
    size_t sum = 0, all;
    int i;
    s[0] = shape_of(2, 1, 8, 4, 100);
    s[1] = shape_of(1, 3, 5, 0, 7);
    s[2] = shape_of(3, 2, 4, 4, 0);
    s[2].window = 20;
    o.shapes = s;
    for (i = 0; i < 3; i++) {
        one.layers = 1;
        one.shape = s[i];
        sum += tfb_kv_bytes(&one);
    }
    all = tfb_kv_bytes(&o);
    CHECK(all > sum - 192 && all <= sum, "%zu bytes, %zu one by one", all, sum);
    CHECK(tfb_kv_bytes(&one) != 0, "a shape of its own");
    s[1].kv_heads = 0;
    CHECK(tfb_kv_bytes(&o) == 0, "the second of three shapes is not legal");
}

/* One field of good options is replaced. */
#define FAR (PTRDIFF_MAX)
typedef struct illegal {
    size_t at; /* its offset */
    tfb_idx to;
    int also_dynamic;
    const char *text;
} illegal;
#define FIELD(name, to, also)                                                            \
    { offsetof(tfb_kv_shape, name), to, also, #name }
static const illegal illegals[] = {
    FIELD(batch, 0, 0),       FIELD(batch, -1, 0),       FIELD(batch, FAR, 0),
    FIELD(kv_heads, 0, 0),    FIELD(kv_heads, -1, 0),    FIELD(kv_heads, FAR, 0),
    FIELD(head_dim, 0, 0),    FIELD(head_dim, -1, 0),    FIELD(head_dim, FAR, 0),
    FIELD(v_dim, -1, 0),      FIELD(v_dim, FAR, 0),      FIELD(max_tokens, 0, 0),
    FIELD(max_tokens, -1, 0), FIELD(max_tokens, FAR, 0), FIELD(window, -1, 1),
    FIELD(window, FAR, 1),    FIELD(pinned, -1, 1),      FIELD(pinned, FAR, 1),
    FIELD(chunk, -1, 1),      FIELD(chunk, FAR, 1),
};

static void spoil_opts(tfb_kv_opts *o, const illegal *bad) {
    if (bad->at != offsetof(tfb_kv_shape, max_tokens)) o->shape.window = 20;
    memcpy((char *)&o->shape + bad->at, &bad->to, sizeof bad->to);
}

static void illegal_shapes(void) {
    const tfb_kv_opts good = opts_of(STATIC, 2, shape_of(1, 2, 4, 3, 10));
    static double mem[2000];
    tfb_ctx ctx;
    t_heap heap;
    int i;
    t_ctx(&ctx, &heap);
    CHECK(tfb_kv_bytes(NULL) == 0, "NULL");
    for (i = 0; i < COUNT(illegals); i++) {
        tfb_kv_opts o = good;
        tfb_kv kv, same;
        memset((void *)&kv, 0x5A, sizeof kv);
        same = kv;
        spoil_opts(&o, illegals + i);
        CHECK(tfb_kv_bytes(&o) == 0, "%s is %ld", illegals[i].text, (long)illegals[i].to);
        CHECK_FAILS(&ctx, TFB_ERR_RANGE, "tfb_kv_init_static: ",
                    tfb_kv_init_static(&ctx, &kv, &o, mem, sizeof mem));
        if (illegals[i].also_dynamic)
            CHECK_FAILS(&ctx, TFB_ERR_RANGE, illegals[i].text,
                        tfb_kv_init(&ctx, &kv, &o));
        CHECK(!memcmp(&kv, &same, sizeof kv), "%s: kv changed", illegals[i].text);
    }
    CHECK(mem[0] == 0, "memory changed");
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
    tfb_ctx_free(&ctx);
}

static void products_that_overflow(void) {
    const tfb_idx big = (tfb_idx)1 << (sizeof(tfb_idx) * 2 - 1); /* its square is less */
    tfb_kv_opts o = opts_of(STATIC, 1 << 15, shape_of(big, big, 1 << 10, 0, 1 << 10));
    CHECK(tfb_kv_bytes(&o) == 0, "a product");
    o.shape.window = 1000;
    CHECK(tfb_kv_bytes(&o) == 0, "of a ring");
    o = opts_of(STATIC, 1, shape_of(1, 1, 1, 1, PTRDIFF_MAX / 8 - 1));
    CHECK(tfb_kv_bytes(&o) == 0, "many rows");
}

/* Every row fits into exactly the bytes asked for; the sanitizer watches the end. */
static void static_fills_its_bytes(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 20; it++) {
        tfb_kv_opts o = opts_of(
            it % 2 ? STATIC : STATIC_RING, (int)t_int(1, 3),
            shape_of(t_int(1, 3), t_int(1, 3), t_int(1, 9), t_int(0, 9), t_int(1, 20)));
        const tfb_kv_shape s = o.shape;
        const tfb_idx Dv = s.v_dim ? s.v_dim : s.head_dim;
        const tfb_idx N = s.window ? 200 : s.max_tokens; /* of a ring: more than all */
        const tfb_idx keeps = s.window ? s.window : N;
        rows r = rows_new(s.batch, s.kv_heads, N, s.head_dim, Dv, it % 2);
        tfb_kv kv;
        void *mem = cache_new(&ctx, &kv, 1, &o);
        int i;
        for (i = 0; i < o.layers; i++) {
            CHECK(tfb_kv_capacity(&kv, i) >= keeps, "capacity");
            CHECK_OK(&ctx, feed(&ctx, &kv, i, &r, 0, N));
        }
        for (i = 0; i < o.layers; i++) holds_from(&ctx, &kv, i, &r, N - keeps, keeps);
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
        const tfb_kv_opts o =
            opts_of(it % KINDS, 3,
                    shape_of(t_int(1, 3), t_int(1, 3), t_int(1, 9), t_int(1, 9), 90));
        rows r[3];
        tfb_idx have[3] = {0, 0, 0};
        tfb_kv kv;
        void *mem = cache_new(&ctx, &kv, IS_STATIC(it), &o);
        int i, step;
        for (i = 0; i < 3; i++)
            r[i] = rows_new(o.shape.batch, o.shape.kv_heads, 90, o.shape.head_dim,
                            o.shape.v_dim, it % 8 / 4);
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
    int kind;
    t_ctx(&ctx, NULL);
    for (kind = 0; kind < KINDS; kind++) {
        const tfb_kv_opts o = opts_of(kind, 1, shape_of(2, 2, 3, 4, 8));
        rows r = rows_new(2, 2, 8, 3, 4, 0), copy = rows_new(2, 2, 8, 3, 4, 0);
        tfb_kv kv;
        void *mem = cache_new(&ctx, &kv, IS_STATIC(kind), &o);
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
    int kind;
    t_ctx(&ctx, NULL);
    for (kind = 0; kind < KINDS; kind++) {
        const tfb_kv_opts o = opts_of(kind, 1, shape_of(2, 3, 4, 4, 35));
        rows r = rows_new(2, 3, 35, 4, 4, 0);
        tfb_kv kv;
        void *mem = cache_new(&ctx, &kv, IS_STATIC(kind), &o);
        r.key.stride[0] = r.key.stride[1] = r.value.stride[2] = 0;
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 35));
        holds(&ctx, &kv, 0, &r, 35);
        tfb_kv_free(&kv);
        free(mem);
        rows_free(&r);
    }
    tfb_ctx_free(&ctx);
}

/* Rows that lie backwards, with gaps, dimensions in another order. */
static void rows_in_any_layout(void) {
    tfb_ctx ctx;
    int kind, way;
    t_ctx(&ctx, NULL);
    for (kind = 0; kind < KINDS; kind++)
        for (way = 0; way < 4; way++) {
            const tfb_kv_opts o = opts_of(kind, 1, shape_of(2, 2, 5, 6, 40));
            rows wide = rows_new(2, 2, 80, 10, 12, 0), r = wide;
            tfb_kv kv;
            void *mem = cache_new(&ctx, &kv, IS_STATIC(kind), &o);
            tfb_tensor *t[2];
            int i;
            t[0] = &r.key, t[1] = &r.value;
            for (i = 0; i < 2; i++) {
                t[i]->shape[2] = 40;
                t[i]->shape[3] = 5 + i;
                if (way & 1) t[i]->stride[2] *= 2; /* every other row */
                if (way & 2) {                     /* every other element, backwards */
                    t[i]->data = (float *)t[i]->data + 2 * (4 + i);
                    t[i]->stride[3] = -2;
                }
            }
            CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 40));
            holds(&ctx, &kv, 0, &r, 40);
            tfb_kv_free(&kv);
            free(mem);
            rows_free(&wide);
        }
    tfb_ctx_free(&ctx);
}

static void zero_rows_change_nothing(void) {
    tfb_ctx ctx;
    t_heap heap;
    rows r = rows_new(1, 2, 5, 4, 3, 0), other = rows_new(3, 1, 5, 2, 6, 0);
    tfb_kv kv;
    snapshot before;
    long calls;
    int kind;
    t_ctx(&ctx, &heap);
    for (kind = 0; kind < KINDS; kind++) {
        const tfb_kv_opts o = opts_of(kind, 2, shape_of(1, 2, 4, 3, 5));
        void *mem = cache_new(&ctx, &kv, IS_STATIC(kind), &o);
        before = snap(&kv);
        calls = heap.calls;
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 3, 0));
        unchanged(&kv, &before, "no rows for an untouched layer");
        CHECK(heap.calls == calls, "allocated for no rows");
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 5)); /* static: full now */
        before = snap(&kv);
        calls = heap.calls;
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 0));
        unchanged(&kv, &before, "no rows");
        CHECK(heap.calls == calls, "allocated for no rows");
        tfb_kv_free(&kv);
        free(mem);
        if (IS_STATIC(kind)) continue; /* no rows do not fix a layer's shape */
        CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, &o));
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 0));
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &other, 0, 5));
        holds(&ctx, &kv, 0, &other, 5);
        tfb_kv_free(&kv);
    }
    rows_free(&r);
    rows_free(&other);
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
}

static void untouched_layers(void) {
    tfb_ctx ctx;
    rows r = rows_new(1, 2, 5, 4, 3, 0);
    int kind;
    t_ctx(&ctx, NULL);
    for (kind = 0; kind < KINDS; kind++) {
        const tfb_kv_opts o = opts_of(kind, 3, shape_of(1, 2, 4, 3, 5));
        tfb_kv kv;
        rows none;
        void *mem = cache_new(&ctx, &kv, IS_STATIC(kind), &o);
        CHECK_OK(&ctx, feed(&ctx, &kv, 1, &r, 0, 2));
        none = rows_of(&ctx, &kv, 2);
        CHECK(!none.key.data && none.key.ndim == 0 && none.value.ndim == 0,
              "%s: an untouched layer gives ndim %d", kind_names[kind], none.key.ndim);
        CHECK(tfb_kv_length(&kv, 2) == 0 && tfb_kv_length(&kv, 0) == 0, "length");
        CHECK(tfb_kv_length_of(&kv, 0, 0) == 0 && tfb_kv_base(&kv, 0, 0) == 0, "of it");
        CHECK(tfb_kv_batch(&kv, 0) == 0 && tfb_kv_batch(&kv, 1) == 1, "batch");
        CHECK(tfb_kv_capacity(&kv, 0) == (kind == DYNAMIC ? 0 : 5), "capacity %ld",
              (long)tfb_kv_capacity(&kv, 0));
        holds(&ctx, &kv, 1, &r, 2);
        tfb_kv_free(&kv);
        free(mem);
    }
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

/* What is asked of a layer, sample or cache that is not there is 0. */
static void nothing_is_zero(void) {
    const tfb_kv_opts o = opts_of(DYNAMIC, 2, shape_of(0, 0, 0, 0, 0));
    rows r = rows_new(2, 2, 5, 4, 3, 0);
    tfb_ctx ctx;
    tfb_kv kv[2];
    int layer, i;
    t_ctx(&ctx, NULL);
    memset((void *)kv, 0, sizeof kv);
    CHECK_OK(&ctx, tfb_kv_init(&ctx, kv, &o));
    CHECK_OK(&ctx, feed(&ctx, kv, 1, &r, 0, 5));
    for (layer = -1; layer < 4; layer++)
        for (i = 0; i < 3; i++) {
            const tfb_kv *p = i == 2 ? NULL : kv + i;
            const int there = i == 0 && layer == 1;
            CHECK(tfb_kv_length(p, layer) == 5 * there, "length");
            CHECK(tfb_kv_length_of(p, layer, 1) == 5 * there, "length_of");
            CHECK(tfb_kv_batch(p, layer) == 2 * there, "batch");
            CHECK(tfb_kv_capacity(p, layer) == 64 * there, "capacity");
            CHECK(tfb_kv_length_of(p, layer, 2) == 0 && tfb_kv_base(p, layer, 2) == 0 &&
                      tfb_kv_length_of(p, layer, -1) == 0 &&
                      tfb_kv_base(p, layer, -1) == 0,
                  "no such sample");
        }
    CHECK(tfb_kv_save_bytes(NULL) == 0 && tfb_kv_save_bytes(kv + 1) == 0, "save_bytes");
    tfb_kv_reset(NULL);
    tfb_kv_commit(NULL);
    tfb_kv_reset(kv + 1);
    tfb_kv_commit(kv + 1);
    tfb_kv_pair_reset(NULL);
    tfb_kv_pair_free(NULL);
    tfb_kv_free(kv);
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

static void shapes_per_layer(void) {
    tfb_ctx ctx;
    tfb_kv_shape s[3];
    rows r[3];
    int kind, i, step;
    t_ctx(&ctx, NULL);
    s[0] = shape_of(1, 2, 4, 3, 40);
    s[1] = shape_of(3, 1, 7, 0, 40);
    s[2] = shape_of(2, 5, 1, 20, 40);
    for (i = 0; i < 3; i++)
        r[i] = rows_new(s[i].batch, s[i].kv_heads, 40, s[i].head_dim,
                        s[i].v_dim ? s[i].v_dim : s[i].head_dim, i == 1);
    for (kind = 0; kind < KINDS; kind++) {
        tfb_kv_opts o = opts_of(kind, 3, s[0]);
        tfb_kv kv;
        void *mem;
        if (kind != DYNAMIC) o.shapes = s; /* which of itself has any */
        for (i = 0; i < 3; i++) s[i].window = IS_RING(kind) ? 40 + i : 0;
        mem = cache_new(&ctx, &kv, IS_STATIC(kind), &o);
        for (step = 0; step < 10; step++)
            for (i = 0; i < 3; i++) {
                CHECK_OK(&ctx, feed(&ctx, &kv, i, r + i, 4 * step, 4));
                holds(&ctx, &kv, i, r + i, 4 * step + 4);
                CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "key.shape[",
                            feed(&ctx, &kv, i, r + (i + 1) % 3, 0, 1));
            }
        tfb_kv_free(&kv);
        free(mem);
    }
    for (i = 0; i < 3; i++) rows_free(r + i);
    tfb_ctx_free(&ctx);
}

/* --- Growth, reset, free. --- */
static void growth_moves_no_page(void) {
    tfb_ctx ctx;
    t_heap heap;
    rows r = rows_new(2, 2, 3000, 2, 1, 1);
    const tfb_kv_opts o = opts_of(DYNAMIC, 1, shape_of(0, 0, 0, 0, 0));
    char *page[2][50];
    tfb_kv kv;
    tfb_idx i, b, p;
    t_ctx(&ctx, &heap);
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, &o));
    for (i = 0; i < 3000; i++) {
        const tfb_idx room = tfb_kv_capacity(&kv, 0);
        const long before = heap.calls;
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, i, 1));
        CHECK(heap.calls == before || i == room, "allocated although %ld rows fitted",
              (long)room);
        for (b = 0; b < 2; b++) {
            page[b][i / 64] = i % 64 ? page[b][i / 64] : kv.layer->row[b].pages[i / 64];
            for (p = 0; p <= i / 64; p++)
                CHECK(kv.layer->row[b].pages[p] == page[b][p], "page %ld moved", (long)p);
        }
    }
    holds(&ctx, &kv, 0, &r, 3000);
    CHECK(heap.calls < 47 * 2 + 12, "%ld allocations", heap.calls);
    CHECK(tfb_kv_capacity(&kv, 0) == 47 * 64, "room for %ld rows",
          (long)tfb_kv_capacity(&kv, 0));
    tfb_kv_free(&kv);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

static void reset_keeps_memory(void) {
    tfb_ctx ctx;
    t_heap heap;
    rows r = rows_new(1, 2, 40, 4, 3, 0), s = rows_new(1, 2, 40, 4, 3, 1);
    rows other = rows_new(1, 1, 40, 4, 3, 1), got;
    int kind;
    t_ctx(&ctx, &heap);
    for (kind = 0; kind < KINDS; kind++) {
        const tfb_kv_opts o = opts_of(kind, 2, shape_of(1, 2, 4, 3, 40));
        tfb_kv kv;
        void *mem = cache_new(&ctx, &kv, IS_STATIC(kind), &o);
        tfb_idx room;
        long calls;
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 40));
        CHECK_OK(&ctx, feed(&ctx, &kv, 1, &r, 0, 7));
        room = tfb_kv_capacity(&kv, 0);
        calls = heap.calls;
        tfb_kv_reset(&kv);
        CHECK(!tfb_kv_length(&kv, 0) && !tfb_kv_length(&kv, 1), "length after reset");
        CHECK(tfb_kv_capacity(&kv, 0) == room, "capacity after reset");
        got = rows_of(&ctx, &kv, 0);
        CHECK(got.key.ndim == 4 && got.key.shape[2] == 0 && got.value.shape[3] == 3,
              "empty, not none");
        rows_free(&got);
        CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "key.shape[1] is 1, needs 2",
                    feed(&ctx, &kv, 0, &other, 0, 1));
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &s, 0, 40));
        holds(&ctx, &kv, 0, &s, 40);
        CHECK(heap.calls == calls, "allocated after reset");
        tfb_kv_free(&kv);
        free(mem);
    }
    rows_free(&r);
    rows_free(&s);
    rows_free(&other);
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
}

static void free_clears(void) {
    const tfb_kv_opts o = opts_of(DYNAMIC, 4, shape_of(1, 2, 4, 3, 5));
    tfb_ctx ctx;
    t_heap heap;
    rows r = rows_new(1, 2, 5, 4, 3, 0);
    tfb_kv kv, zero;
    void *mem;
    long calls;
    t_ctx(&ctx, &heap);
    memset((void *)&zero, 0, sizeof zero);
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, &o));
    CHECK_OK(&ctx, feed(&ctx, &kv, 1, &r, 0, 5));
    CHECK_OK(&ctx, feed(&ctx, &kv, 3, &r, 0, 5));
    CHECK(heap.live > 3, "%ld blocks", heap.live);
    tfb_kv_free(&kv);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
    CHECK(!memcmp(&kv, &zero, sizeof kv), "not cleared");
    tfb_kv_free(&kv); /* twice is no harm, nor is NULL */
    tfb_kv_free(NULL);
    calls = heap.calls;
    mem = cache_new(&ctx, &kv, 1, &o);
    CHECK_OK(&ctx, feed(&ctx, &kv, 1, &r, 0, 5));
    tfb_kv_free(&kv);
    CHECK(!memcmp(&kv, &zero, sizeof kv), "static: not cleared");
    CHECK(heap.live == 0 && heap.calls == calls, "a static cache allocated");
    free(mem);
    CHECK(tfb_kv_length(&kv, 0) == 0 && tfb_kv_capacity(&kv, 0) == 0, "freed");
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "not initialised", feed(&ctx, &kv, 0, &r, 0, 1));
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

/* The cache keeps the allocator it was made with: any context may append. */
static void memory_comes_from_the_first_context(void) {
    const tfb_kv_opts o = opts_of(DYNAMIC, 1, shape_of(0, 0, 0, 0, 0));
    tfb_ctx ctx, fixed;
    t_heap heap;
    rows r = rows_new(1, 2, 150, 4, 3, 0);
    tfb_kv kv;
    long calls;
    t_ctx(&ctx, &heap);
    CHECK_OK(&fixed, tfb_ctx_init_static(&fixed, NULL, 0));
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, &o));
    calls = heap.calls;
    CHECK_OK(&fixed, feed(&fixed, &kv, 0, &r, 0, 30));
    CHECK_OK(&fixed, feed(&fixed, &kv, 0, &r, 30, 120));
    CHECK(heap.calls > calls, "whose memory?");
    holds(&ctx, &kv, 0, &r, 150);
    tfb_ctx_free(&ctx);
    CHECK_OK(&fixed, feed(&fixed, &kv, 0, &r, 0, 150)); /* nor need the context live */
    tfb_kv_free(&kv);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
    rows_free(&r);
    tfb_ctx_free(&fixed);
}

/* --- Full, too large, no memory. --- */
static void full_static_cache(void) {
    const tfb_kv_opts o = opts_of(STATIC, 2, shape_of(1, 2, 4, 3, 10));
    tfb_ctx ctx;
    rows r = rows_new(1, 2, 20, 4, 3, 0);
    tfb_kv kv;
    snapshot before;
    void *mem;
    t_ctx(&ctx, NULL);
    mem = cache_new(&ctx, &kv, 1, &o);
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

/* Rows dropped at the front make room behind the last: rows of a static cache without a
 * window can be dropped and appended for ever. */
static void static_cache_after_keep_last(void) {
    const tfb_kv_opts o = opts_of(STATIC, 1, shape_of(1, 2, 4, 3, 10));
    tfb_ctx ctx;
    rows r = rows_new(1, 2, 200, 4, 3, 0);
    tfb_kv kv;
    tfb_idx at;
    void *mem;
    t_ctx(&ctx, NULL);
    mem = cache_new(&ctx, &kv, 1, &o);
    CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 10));
    for (at = 10; at < 198; at += 3) {
        CHECK_OK(&ctx, tfb_kv_keep_last(&ctx, &kv, 7, NULL));
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, at, 3));
        holds_from(&ctx, &kv, 0, &r, at - 7, 10);
        CHECK(tfb_kv_base(&kv, 0, 0) == at - 7, "base %ld", (long)tfb_kv_base(&kv, 0, 0));
        CHECK_FAILS(&ctx, TFB_ERR_FULL, "of 10 rows", feed(&ctx, &kv, 0, &r, 0, 1));
    }
    free(mem);
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

/* Refuses what no machine has, so that sizes near the limit can be asked for. */
static void *modest(void *user, void *ptr, size_t bytes) {
    return bytes > (size_t)1 << 24 ? NULL : t_alloc(user, ptr, bytes);
}

static void huge_append(tfb_ctx *ctx, tfb_idx n, tfb_status dynamic, int is_static,
                        int first) {
    const tfb_kv_opts o = opts_of(STATIC, 1, shape_of(1, 1, 1, 1, 5));
    float zero = 0;
    rows r = rows_new(1, 1, 5, 1, 1, 0);
    tfb_tensor many = tfb_view4(&zero, TFB_F32, 1, 1, n, 1);
    tfb_kv kv;
    snapshot before;
    tfb_status got;
    void *mem = cache_new(ctx, &kv, is_static, &o);
    many.stride[0] = many.stride[1] = many.stride[2] = 0;
    if (!first) CHECK_OK(ctx, feed(ctx, &kv, 0, &r, 0, 5));
    before = snap(&kv);
    got = tfb_kv_append(ctx, &kv, 0, &many, &many);
    CHECK(got == dynamic || (is_static && got == TFB_ERR_FULL), "%ld rows gave %d (%s)",
          (long)n, (int)got, ctx->message);
    CHECK(!strncmp(ctx->message, "tfb_kv_append: ", 15), "\"%s\"", ctx->message);
    unchanged(&kv, &before, "far too many rows");
    tfb_kv_free(&kv);
    free(mem);
    rows_free(&r);
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
    int i;
    t_ctx(&ctx, &heap);
    ctx.alloc = modest;
    for (i = 0; i < 4 * COUNT(asked); i++)
        huge_append(&ctx, asked[i / 4].rows, asked[i / 4].dynamic, i % 4 / 2, i % 2);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
    tfb_ctx_free(&ctx);
}

/* So many pages that they are tried in one piece first. */
static void many_appends(void) {
    const tfb_idx n = 1025 * 64;
    const tfb_kv_opts o = opts_of(STATIC, 1, shape_of(1, 1, 1, 1, 5));
    float one = 1, zero = 0;
    tfb_tensor many = tfb_view4(&one, TFB_F32, 1, 1, n, 1);
    tfb_tensor none = tfb_view4(&zero, TFB_F32, 1, 1, n, 1), got;
    tfb_kv kv;
    t_heap heap;
    tfb_ctx ctx;
    float *k = t_floats(n), *v = t_floats(n);
    t_ctx(&ctx, &heap);
    cache_new(&ctx, &kv, 0, &o);
    many.stride[2] = none.stride[2] = 0;
    CHECK_OK(&ctx, tfb_kv_append(&ctx, &kv, 0, &many, &none));
    got = tfb_view4(k, TFB_F32, 1, 1, n, 1);
    none = tfb_view4(v, TFB_F32, 1, 1, n, 1);
    CHECK_OK(&ctx, tfb_kv_get(&ctx, &kv, 0, &got, &none));
    CHECK(k[0] == 1 && k[n - 1] == 1 && v[0] == 0 && v[n - 1] == 0, "other rows");
    tfb_kv_free(&kv);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
    tfb_ctx_free(&ctx);
    free(k), free(v);
}

/* A position far away needs pages up to it; of a ring, only its own. */
static void huge_positions(void) {
    static const int32_t far[] = {INT32_MAX, INT32_MAX - 1, 1 << 28};
    tfb_ctx ctx;
    t_heap heap;
    rows r = rows_new(1, 2, 3, 64, 64, 0);
    int i;
    t_ctx(&ctx, &heap);
    ctx.alloc = modest;
    for (i = 0; i < KINDS * COUNT(far); i++) {
        const int kind = i % KINDS;
        const tfb_kv_opts o = opts_of(kind, 1, shape_of(1, 2, 64, 64, 30));
        int32_t at[3] = {0, 1, 0};
        tfb_tensor positions = tfb_view1(at, TFB_I32, 3);
        tfb_kv_update_opts u = {0, 0};
        tfb_kv kv;
        void *mem = cache_new(&ctx, &kv, IS_STATIC(kind), &o);
        snapshot before = snap(&kv);
        tfb_status got;
        at[2] = far[i / KINDS];
        u.positions = &positions;
        got = tfb_kv_update(&ctx, &kv, 0, &r.key, &r.value, &u);
        if (IS_RING(kind)) {
            CHECK(got == TFB_OK, "%s: %s", kind_names[kind], ctx.message);
            CHECK(tfb_kv_base(&kv, 0, 0) == (tfb_idx)at[2] - 29, "base");
            CHECK(tfb_kv_length(&kv, 0) == 30, "length");
            free(before.mem);
        } else {
            CHECK(got == (kind == STATIC ? TFB_ERR_FULL : TFB_ERR_MEMORY), "%d: %s",
                  (int)got, ctx.message);
            unchanged(&kv, &before, "a position far away");
        }
        tfb_kv_free(&kv);
        free(mem);
    }
    rows_free(&r);
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
}

/* Every allocation of a growing cache fails once. */
static void allocation_fails_at_every_step(void) {
    tfb_ctx ctx;
    t_heap heap;
    rows r = rows_new(2, 2, 700, 3, 5, 1);
    int kind, failures = 0;
    t_ctx(&ctx, &heap);
    for (kind = 0; kind < KINDS; kind += 2) {
        const tfb_kv_opts o = opts_of(kind, 1, shape_of(0, 0, 0, 0, 700));
        tfb_kv kv;
        tfb_idx at, n;
        CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, &o));
        for (at = 0; at < 700; at += n) {
            tfb_status got = TFB_ERR_MEMORY;
            long nth;
            n = at < 300 ? 9 : 200;
            if (n > 700 - at) n = 700 - at;
            for (nth = 1; got != TFB_OK && nth < 50; nth++) {
                snapshot before = snap(&kv);
                const long live = heap.live;
                heap.fail_at = heap.calls + nth;
                got = feed(&ctx, &kv, 0, &r, at, n);
                if (got == TFB_OK) {
                    free(before.mem);
                    break;
                }
                CHECK_FAILS(&ctx, TFB_ERR_MEMORY, "bytes are not to be had", got);
                CHECK(heap.live == live, "%ld blocks leaked", heap.live - live);
                unchanged(&kv, &before, "no memory");
                failures++;
            }
            heap.fail_at = 0;
            holds(&ctx, &kv, 0, &r, at + n);
        }
        tfb_kv_free(&kv);
    }
    CHECK(failures >= 40, "only %d allocations", failures);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

/* --- Initialisation. --- */
static void bad_init(void) {
    tfb_kv_opts o = opts_of(DYNAMIC, 3, shape_of(0, 0, 0, 0, 0)), bad;
    tfb_ctx ctx, fixed;
    t_heap heap;
    tfb_kv kv, same;
    t_ctx(&ctx, &heap);
    memset((void *)&kv, 0x5A, sizeof kv);
    same = kv;
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_kv_init: kv is NULL",
                tfb_kv_init(&ctx, NULL, &o));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "opts is NULL", tfb_kv_init(&ctx, &kv, NULL));
    bad = o;
    bad.layers = 0;
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "layers is 0", tfb_kv_init(&ctx, &kv, &bad));
    bad.layers = -7;
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "layers is -7", tfb_kv_init(&ctx, &kv, &bad));
    CHECK(tfb_kv_bytes(&bad) == 0, "layers is -7");
    bad = o;
    for (bad.dtype = TFB_I32; bad.dtype < 99; bad.dtype = (tfb_dtype)(bad.dtype + 1)) {
        CHECK_FAILS(&ctx, TFB_ERR_DTYPE, "dtype is", tfb_kv_init(&ctx, &kv, &bad));
        CHECK(tfb_kv_bytes(&bad) == 0, "dtype %d", (int)bad.dtype);
    }
    heap.fail_at = 1;
    CHECK_FAILS(&ctx, TFB_ERR_MEMORY, "tfb_kv_init", tfb_kv_init(&ctx, &kv, &o));
    CHECK_OK(&fixed, tfb_ctx_init_static(&fixed, NULL, 0));
    CHECK_FAILS(&fixed, TFB_ERR_MEMORY, "alloc is NULL", tfb_kv_init(&fixed, &kv, &o));
    CHECK(tfb_kv_init(NULL, &kv, &o) == TFB_ERR_ARG, "no context");
    CHECK(!memcmp(&kv, &same, sizeof kv), "kv changed although init failed");
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
    tfb_ctx_free(&fixed);
    tfb_ctx_free(&ctx);
}

static void bad_init_static(void) {
    const tfb_kv_opts good = opts_of(STATIC, 2, shape_of(1, 2, 4, 3, 10));
    const size_t need = tfb_kv_bytes(&good);
    unsigned char *mem = (unsigned char *)malloc(need);
    tfb_ctx ctx;
    tfb_kv kv, same;
    char text[60];
    size_t i;
    if (!mem) exit(99);
    t_ctx(&ctx, NULL);
    memset((void *)&kv, 0x5A, sizeof kv);
    memset(mem, 0x5A, need);
    same = kv;
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "kv is NULL",
                tfb_kv_init_static(&ctx, NULL, &good, mem, need));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "opts is NULL",
                tfb_kv_init_static(&ctx, &kv, NULL, mem, need));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "mem is NULL",
                tfb_kv_init_static(&ctx, &kv, &good, NULL, need));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "aligned",
                tfb_kv_init_static(&ctx, &kv, &good, mem + 4, need));
    snprintf(text, sizeof text, "mem_bytes is %lu, needs %lu", (unsigned long)need - 1,
             (unsigned long)need);
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, text,
                tfb_kv_init_static(&ctx, &kv, &good, mem, need - 1));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "needs",
                tfb_kv_init_static(&ctx, &kv, &good, mem, 0));
    CHECK(tfb_kv_init_static(NULL, &kv, &good, mem, need) == TFB_ERR_ARG, "no context");
    CHECK(!memcmp(&kv, &same, sizeof kv), "kv changed although init failed");
    for (i = 0; i < need; i++) CHECK(mem[i] == 0x5A, "mem changed although init failed");
    CHECK_OK(&ctx, tfb_kv_init_static(&ctx, &kv, &good, mem, need));
    free(mem);
    tfb_ctx_free(&ctx);
}

int main(void) {
    RUN(bytes_equal_the_macros);
    RUN(bytes_of_many_shapes);
    RUN(illegal_shapes);
    RUN(products_that_overflow);
    RUN(static_fills_its_bytes);
    RUN(append_in_pieces);
    RUN(rows_are_copied);
    RUN(broadcast_rows);
    RUN(rows_in_any_layout);
    RUN(zero_rows_change_nothing);
    RUN(untouched_layers);
    RUN(nothing_is_zero);
    RUN(shapes_per_layer);
    RUN(growth_moves_no_page);
    RUN(reset_keeps_memory);
    RUN(free_clears);
    RUN(memory_comes_from_the_first_context);
    RUN(full_static_cache);
    RUN(static_cache_after_keep_last);
    RUN(huge_appends);
    RUN(many_appends);
    RUN(huge_positions);
    RUN(allocation_fails_at_every_step);
    RUN(bad_init);
    RUN(bad_init_static);
    FINISH();
}
