/* KV caches: saves, in all kinds the same bytes; what is damaged or of another cache is
 * refused; and how much is allocated and moved. */
#include "../test.h"
#include "cache.h"

enum { B = 3, G = 2, D = 4, DV = 3, WINDOW = 20, PINNED = 5 };

/* --- Caches with a past. --- */
static tfb_kv_opts past_opts(int kind, tfb_dtype dtype, int ragged) {
    tfb_kv_opts o = opts_of(STATIC, 3, shape_of(B + 1, G, D, DV, 170));
    o.dtype = dtype;
    o.ragged = ragged;
    if (!IS_RING(kind)) return o;
    o.shape.window = WINDOW;
    o.shape.pinned = PINNED;
    return o;
}

/* Layer 0 is never touched, 1 has lost rows at both ends, 2 has gaps. */
static void past(tfb_ctx *ctx, tfb_kv *kv, const rows *r) {
    static const int32_t n[] = {3, 0, 7}, at[] = {30, 20, 20, 27, 15, 19, 18, 40, 33};
    const tfb_tensor counts = tfb_view1(n, TFB_I32, B);
    const tfb_tensor positions = tfb_view2(at, TFB_I32, B, 3);
    tfb_kv_update_opts o = {0, 0};
    rows piece;
    CHECK_OK(ctx, feed(ctx, kv, 1, r, 0, 90));
    CHECK_OK(ctx, tfb_kv_keep_last(ctx, kv, 80, NULL));
    CHECK_OK(ctx, feed(ctx, kv, 1, r, 90, 60));
    CHECK_OK(ctx, tfb_kv_crop(ctx, kv, -4, NULL));
    CHECK_OK(ctx, feed(ctx, kv, 2, r, 3, 12));
    piece = rows_slice(ctx, r, 20, 3);
    o.positions = &positions;
    CHECK_OK(ctx, tfb_kv_update(ctx, kv, 2, &piece.key, &piece.value, &o));
    if (!kv->ragged) return;
    o.positions = NULL;
    o.counts = &counts;
    piece = rows_slice(ctx, r, 40, 7);
    CHECK_OK(ctx, tfb_kv_update(ctx, kv, 1, &piece.key, &piece.value, &o));
}

typedef struct save {
    size_t bytes;
    char *all, *mem; /* mem: at an odd address */
} save;

static save save_of(tfb_ctx *ctx, const tfb_kv *kv) {
    save s;
    s.bytes = tfb_kv_save_bytes(kv);
    s.all = (char *)malloc(s.bytes + 1);
    if (!s.all) exit(99);
    s.mem = s.all + 1;
    CHECK(s.bytes > 0, "no bytes");
    CHECK_OK(ctx, tfb_kv_save(ctx, kv, s.mem, s.bytes));
    return s;
}

/* Both save the same; frees b's. */
static int saves_equal(tfb_ctx *ctx, const save *a, const tfb_kv *kv) {
    save b = save_of(ctx, kv);
    const int same = a->bytes == b.bytes && !memcmp(a->mem, b.mem, a->bytes);
    free(b.all);
    return same;
}

static int same_layer(tfb_ctx *ctx, const tfb_kv *a, const tfb_kv *b, int layer) {
    rows x = rows_of(ctx, a, layer), y = rows_of(ctx, b, layer);
    tfb_idx i;
    int same =
        x.key.ndim == y.key.ndim && tfb_kv_batch(a, layer) == tfb_kv_batch(b, layer);
    if (same && x.key.ndim)
        same = same_rows(&x.key, &y.key, 0, y.key.shape[2]) &&
               same_rows(&x.value, &y.value, 0, y.key.shape[2]);
    for (i = 0; i < tfb_kv_batch(a, layer); i++)
        same = same && tfb_kv_base(a, layer, i) == tfb_kv_base(b, layer, i) &&
               tfb_kv_length_of(a, layer, i) == tfb_kv_length_of(b, layer, i);
    rows_free(&x);
    rows_free(&y);
    return same;
}

/* --- Round trips. --- */
/* From one kind to the other and on from there; `full`: it held other things before. */
static void round_trip(tfb_ctx *ctx, int kind, tfb_dtype dtype, int ragged, int full) {
    const tfb_kv_opts o = past_opts(kind, dtype, ragged);
    rows r = rows_new(B, G, 150, D, DV, 0), other = rows_new(B + 1, G, 150, D, DV, 0);
    tfb_kv from, to;
    void *mem[2];
    save s;
    int i;
    mem[0] = cache_new(ctx, &from, IS_STATIC(kind), &o);
    mem[1] = cache_new(ctx, &to, !IS_STATIC(kind), &o);
    past(ctx, &from, &r);
    for (i = 0; i < 3 && full; i++)
        CHECK_OK(ctx, feed(ctx, &to, i, &other, 0, full == 1 ? 150 : 3));
    s = save_of(ctx, &from);
    CHECK_OK(ctx, tfb_kv_load(ctx, &to, s.mem, s.bytes));
    CHECK(saves_equal(ctx, &s, &to), "%s ragged %d full %d: another save",
          kind_names[kind], ragged, full);
    for (i = 0; i < 3; i++)
        CHECK(same_layer(ctx, &from, &to, i), "%s ragged %d full %d: layer %d",
              kind_names[kind], ragged, full, i);
    for (i = 1; i < 3; i++) { /* both go on */
        CHECK_OK(ctx, feed(ctx, &from, i, &r, 2 * i, 17));
        CHECK_OK(ctx, feed(ctx, &to, i, &r, 2 * i, 17));
        CHECK(same_layer(ctx, &from, &to, i), "%s: layer %d goes on", kind_names[kind],
              i);
    }
    CHECK_OK(ctx, tfb_kv_load(ctx, &from, s.mem, s.bytes)); /* and back */
    CHECK(saves_equal(ctx, &s, &from), "%s: back again", kind_names[kind]);
    tfb_kv_free(&from);
    tfb_kv_free(&to);
    free(mem[0]);
    free(mem[1]);
    free(s.all);
    rows_free(&r);
    rows_free(&other);
}

static void saves_go_round(void) {
    tfb_ctx ctx;
    t_heap heap;
    int kind, dtype, ragged, full;
    t_ctx(&ctx, &heap);
    for (kind = 0; kind < KINDS; kind++)
        for (dtype = 0; dtype < 3; dtype++)
            for (ragged = 0; ragged < 2; ragged++)
                for (full = 0; full < 3; full++)
                    round_trip(&ctx, kind, kv_dtypes[dtype], ragged, full);
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
}

/* The same past gives the same bytes, be the cache static or not; an empty one too. */
static void kinds_save_the_same(void) {
    tfb_ctx ctx;
    rows r = rows_new(B, G, 150, D, DV, 0);
    int kind, ragged;
    t_ctx(&ctx, NULL);
    for (kind = 0; kind < KINDS; kind += 2)
        for (ragged = 0; ragged < 2; ragged++) {
            const tfb_kv_opts o = past_opts(kind, TFB_F32, ragged);
            tfb_kv a, b;
            void *mem = cache_new(&ctx, &b, 1, &o);
            save s;
            cache_new(&ctx, &a, 0, &o);
            s = save_of(&ctx, &a);
            CHECK(saves_equal(&ctx, &s, &b), "%s: empty", kind_names[kind]);
            CHECK_OK(&ctx, tfb_kv_load(&ctx, &b, s.mem, s.bytes));
            free(s.all);
            past(&ctx, &a, &r);
            past(&ctx, &b, &r);
            s = save_of(&ctx, &a);
            CHECK(saves_equal(&ctx, &s, &b), "%s: a past", kind_names[kind]);
            free(s.all);
            tfb_kv_free(&a);
            tfb_kv_free(&b);
            free(mem);
        }
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

/* --- What is no save. --- */
static void damaged_saves(void) {
    tfb_ctx ctx;
    int kind;
    t_ctx(&ctx, NULL);
    for (kind = 0; kind < KINDS; kind++) {
        tfb_kv_opts o = opts_of(kind, 2, shape_of(2, 1, 2, 1, 10));
        rows r = rows_new(2, 1, 10, 2, 1, 0);
        tfb_kv kv;
        void *mem = cache_new(&ctx, &kv, IS_STATIC(kind), &o);
        save s;
        snapshot before;
        size_t i, bit;
        CHECK_OK(&ctx, feed(&ctx, &kv, 1, &r, 0, 5));
        s = save_of(&ctx, &kv);
        CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 4, 3));
        CHECK_OK(&ctx, feed(&ctx, &kv, 1, &r, 6, 2));
        before = snap(&kv);
        for (i = 0; i < s.bytes; i++)
            for (bit = 0; bit < 9; bit++) { /* each, then all */
                const char was = s.mem[i];
                s.mem[i] = (char)(was ^ (bit < 8 ? 1 << bit : 0xFF));
                CHECK_FAILS(&ctx, TFB_ERR_FORMAT,
                            "tfb_kv_load: ", tfb_kv_load(&ctx, &kv, s.mem, s.bytes));
                s.mem[i] = was;
            }
        for (i = 0; i < s.bytes; i++) {
            char *cut = (char *)malloc(i + !i); /* the sanitizer watches its end */
            if (!cut) exit(99);
            memcpy(cut, s.mem, i);
            CHECK_FAILS(&ctx, TFB_ERR_FORMAT,
                        "tfb_kv_load: ", tfb_kv_load(&ctx, &kv, cut, i));
            free(cut);
        }
        unchanged(&kv, &before, "a damaged save");
        CHECK_OK(&ctx, tfb_kv_load(&ctx, &kv, s.mem, s.bytes));
        holds(&ctx, &kv, 1, &r, 5);
        CHECK(tfb_kv_length(&kv, 0) == 0 && tfb_kv_batch(&kv, 0) == 0, "layer 0");
        tfb_kv_free(&kv);
        free(mem);
        free(s.all);
        rows_free(&r);
    }
    tfb_ctx_free(&ctx);
}

/* Refuses what no machine has. */
static void *modest(void *user, void *ptr, size_t bytes) {
    return bytes > (size_t)1 << 24 ? NULL : t_alloc(user, ptr, bytes);
}

/* With a word replaced, and the sum made to fit, it is loaded or not: never in part. */
static void crafted_word(tfb_ctx *ctx, tfb_kv *kv, save *s, size_t at, uint64_t word) {
    uint64_t was, sum;
    snapshot before = snap(kv);
    tfb_status got;
    int i;
    memcpy(&was, s->mem + at, 8);
    memcpy(s->mem + at, &word, 8);
    sum = tfb__kv_sum(s->mem + 24, s->bytes - 24);
    memcpy(s->mem + 16, &sum, 8);
    got = tfb_kv_load(ctx, kv, s->mem, s->bytes);
    memcpy(s->mem + at, &was, 8);
    sum = tfb__kv_sum(s->mem + 24, s->bytes - 24);
    memcpy(s->mem + 16, &sum, 8);
    if (got != TFB_OK) {
        unchanged(kv, &before, "a crafted save");
        return;
    }
    free(before.mem);
    for (i = 0; i < 3; i++) { /* what was loaded is a cache that works */
        rows rest = rows_of(ctx, kv, i);
        int32_t zeros[8] = {0, 0, 0, 0, 0, 0, 0, 0};
        const tfb_tensor index = tfb_view1(zeros, TFB_I32, 3);
        rows_free(&rest);
        if (!i) tfb_kv_select(ctx, kv, &index);
    }
    CHECK_OK(ctx, tfb_kv_load(ctx, kv, s->mem, s->bytes));
}

static void crafted_saves(void) {
    static const uint64_t words[] = {0,
                                     1,
                                     2,
                                     3,
                                     4,
                                     5,
                                     6,
                                     63,
                                     64,
                                     65,
                                     200,
                                     1u << 31,
                                     (uint64_t)1 << 32,
                                     (uint64_t)PTRDIFF_MAX / 64,
                                     (uint64_t)PTRDIFF_MAX / 8 - 1,
                                     (uint64_t)PTRDIFF_MAX / 2,
                                     (uint64_t)PTRDIFF_MAX,
                                     (uint64_t)-1};
    tfb_ctx ctx;
    t_heap heap;
    int kind, ragged, i;
    if (sizeof(size_t) != 8 || TFB__BIG_ENDIAN) SKIP("words of 8 bytes as they are");
    t_ctx(&ctx, &heap);
    ctx.alloc = modest;
    for (kind = 0; kind < KINDS; kind++)
        for (ragged = 0; ragged < 2; ragged++) {
            const tfb_kv_opts o = past_opts(kind, TFB_F32, ragged);
            rows r = rows_new(B, G, 150, D, DV, 0);
            tfb_kv kv;
            void *mem = cache_new(&ctx, &kv, IS_STATIC(kind), &o);
            save s;
            size_t at;
            past(&ctx, &kv, &r);
            s = save_of(&ctx, &kv);
            for (at = 24; at < 260; at += 8)
                for (i = 0; i < COUNT(words); i++)
                    crafted_word(&ctx, &kv, &s, at, words[i]);
            CHECK(saves_equal(&ctx, &s, &kv), "what was saved");
            tfb_kv_free(&kv);
            free(mem);
            free(s.all);
            rows_free(&r);
        }
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
}

/* A cache that differs in one thing from that of the save; STATICS: of static ones. */
enum { LAYERS, RAGGED, DTYPE, OF_WINDOW, OF_PINNED, HEADS, DIM, V_DIM, BATCH, TOKENS };
static const struct {
    int what, only; /* a static cache; 2: without a window */
    tfb_status want;
} others[] = {
    {LAYERS, 0, TFB_ERR_SHAPE}, {RAGGED, 0, TFB_ERR_SHAPE},    {DTYPE, 0, TFB_ERR_DTYPE},
    {HEADS, 1, TFB_ERR_SHAPE},  {OF_WINDOW, 0, TFB_ERR_SHAPE}, {DIM, 1, TFB_ERR_SHAPE},
    {V_DIM, 1, TFB_ERR_SHAPE},  {OF_PINNED, 0, TFB_ERR_SHAPE}, {BATCH, 1, TFB_ERR_FULL},
    {TOKENS, 2, TFB_ERR_FULL},
};

static void other_opts(tfb_kv_opts *o, int what) {
    switch (what) {
    case LAYERS: o->layers++; break;
    case RAGGED: o->ragged = !o->ragged; break;
    case DTYPE: o->dtype = TFB_BF16; break;
    case OF_WINDOW: o->shape.window++; break;
    case OF_PINNED:
        o->shape.window += !o->shape.window;
        o->shape.pinned++;
        break;
    case HEADS: o->shape.kv_heads++; break;
    case DIM: o->shape.head_dim++; break;
    case V_DIM: o->shape.v_dim--; break;
    case BATCH: o->shape.batch = B - 1; break;
    default: o->shape.max_tokens = 30;
    }
}

static void saves_of_other_caches(void) {
    tfb_ctx ctx;
    rows r = rows_new(B, G, 150, D, DV, 0);
    int kind, i;
    t_ctx(&ctx, NULL);
    for (kind = 0; kind < KINDS; kind++) {
        const tfb_kv_opts good = past_opts(kind, TFB_F32, 0);
        tfb_kv kv;
        void *mem = cache_new(&ctx, &kv, IS_STATIC(kind), &good);
        save s;
        past(&ctx, &kv, &r);
        s = save_of(&ctx, &kv);
        for (i = 0; i < COUNT(others); i++) {
            tfb_kv_opts o = good;
            tfb_kv to;
            snapshot before;
            void *mem_to;
            if (others[i].only && !IS_STATIC(kind)) continue;
            if (others[i].only == 2 && IS_RING(kind)) continue;
            other_opts(&o, others[i].what);
            mem_to = cache_new(&ctx, &to, IS_STATIC(kind), &o);
            before = snap(&to);
            CHECK_FAILS(&ctx, others[i].want,
                        "tfb_kv_load: ", tfb_kv_load(&ctx, &to, s.mem, s.bytes));
            if (!unchanged(&to, &before, "a save of another cache"))
                printf("  %s, %d\n", kind_names[kind], i);
            tfb_kv_free(&to);
            free(mem_to);
        }
        tfb_kv_free(&kv);
        free(mem);
        free(s.all);
    }
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

static void loads_and_marks(void) {
    const tfb_kv_opts o = opts_of(DYNAMIC, 1, shape_of(0, 0, 0, 0, 0));
    rows r = rows_new(B, G, 150, D, DV, 0);
    tfb_ctx ctx;
    tfb_kv kv;
    save s;
    snapshot before;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, &o));
    CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 20));
    s = save_of(&ctx, &kv);
    CHECK_OK(&ctx, tfb_kv_mark(&ctx, &kv));
    CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 20, 3));
    before = snap(&kv);
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_kv_load", tfb_kv_load(&ctx, &kv, s.mem, s.bytes));
    unchanged(&kv, &before, "loaded between mark and commit");
    tfb_kv_commit(&kv);
    CHECK_OK(&ctx, tfb_kv_load(&ctx, &kv, s.mem, s.bytes));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "mark", tfb_kv_rollback(&ctx, &kv, NULL));
    holds(&ctx, &kv, 0, &r, 20);
    tfb_kv_free(&kv);
    free(s.all);
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

/* Every allocation of a load fails once. */
static void loads_without_memory(void) {
    rows r = rows_new(B, G, 150, D, DV, 0), other = rows_new(B - 1, G, 9, D, DV, 0);
    tfb_ctx ctx;
    t_heap heap;
    int kind, full;
    t_ctx(&ctx, &heap);
    for (kind = 0; kind < KINDS; kind++)
        for (full = 0; full < 2; full++) {
            const tfb_kv_opts o = past_opts(kind, TFB_F32, 1);
            tfb_kv from, to;
            void *mem = cache_new(&ctx, &from, 1, &o);
            void *mem_to = cache_new(&ctx, &to, IS_STATIC(kind), &o);
            tfb_status got = TFB_ERR_MEMORY;
            save s;
            long nth;
            past(&ctx, &from, &r);
            s = save_of(&ctx, &from);
            if (full) CHECK_OK(&ctx, feed(&ctx, &to, 1, &other, 0, 9));
            for (nth = 1; got != TFB_OK && nth < 99; nth++) {
                snapshot before = snap(&to);
                tfb_ctx fresh;
                t_ctx(&fresh, NULL);
                fresh.alloc = t_alloc;
                fresh.alloc_user = &heap;
                heap.fail_at = heap.calls + nth;
                got = tfb_kv_load(&fresh, &to, s.mem, s.bytes);
                heap.fail_at = 0;
                if (got == TFB_OK) free(before.mem);
                else {
                    CHECK_FAILS(&fresh, TFB_ERR_MEMORY, "tfb_kv_load", got);
                    unchanged(&to, &before, "no memory to load");
                }
                tfb_ctx_free(&fresh);
            }
            CHECK(IS_STATIC(kind) || nth > 4, "loaded with %ld allocations", nth);
            CHECK(saves_equal(&ctx, &s, &to), "not what was saved");
            tfb_kv_free(&from);
            tfb_kv_free(&to);
            free(mem);
            free(mem_to);
            free(s.all);
        }
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
    rows_free(&r);
    rows_free(&other);
}

/* --- Counted work. --- */
typedef struct meter {
    t_heap heap;
    size_t bytes; /* handed out */
} meter;

static void *metered(void *user, void *ptr, size_t bytes) {
    meter *m = (meter *)user;
    m->bytes += bytes;
    return t_alloc(&m->heap, ptr, bytes);
}

/* 10,000 tokens one by one through 32 layers: twice the bytes that are kept, at most, are
 * handed out, so no more can have been moved; and no page moves at all. */
static void appends_cost_what_they_keep(void) {
    enum { LAYERS_ = 32, TOKENS_ = 10000 };
    const tfb_kv_opts o = opts_of(DYNAMIC, LAYERS_, shape_of(0, 0, 0, 0, 0));
    static char *page[LAYERS_][TOKENS_ / 64 + 1];
    rows r = rows_new(1, 1, 64, 2, 2, 0);
    const size_t kept = (size_t)LAYERS_ * TOKENS_ * (2 + 2) * sizeof(float);
    tfb_ctx ctx;
    meter m;
    tfb_kv kv;
    tfb_idx i, p;
    int layer, moved = 0;
    memset((void *)&m, 0, sizeof m);
    t_ctx(&ctx, NULL);
    ctx.alloc = metered;
    ctx.alloc_user = &m;
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, &o));
    for (i = 0; i < TOKENS_; i++)
        for (layer = 0; layer < LAYERS_; layer++) {
            CHECK_OK(&ctx, feed(&ctx, &kv, layer, &r, i % 64, 1));
            if (i % 64 == 0) page[layer][i / 64] = kv.layer[layer].row->pages[i / 64];
        }
    for (layer = 0; layer < LAYERS_; layer++)
        for (p = 0; p <= (TOKENS_ - 1) / 64; p++)
            moved += kv.layer[layer].row->pages[p] != page[layer][p];
    CHECK(moved == 0, "%d pages moved", moved);
    CHECK(m.bytes <= 2 * kept, "%zu bytes handed out for %zu", m.bytes, kept);
    CHECK(tfb_kv_length(&kv, 31) == TOKENS_, "length");
    tfb_kv_free(&kv);
    tfb_ctx_free(&ctx);
    CHECK(m.heap.live == 0, "%ld blocks leaked", m.heap.live);
    rows_free(&r);
}

/* A ring allocates nothing once it is full. */
static void a_full_ring_allocates_nothing(void) {
    const tfb_kv_opts o = opts_of(RING, 2, shape_of(0, 0, 0, 0, 100));
    rows r = rows_new(2, 1, 64, 2, 2, 0);
    tfb_ctx ctx;
    t_heap heap;
    tfb_kv kv;
    long calls = 0;
    int i;
    t_ctx(&ctx, &heap);
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, &o));
    for (i = 0; i < 2000; i++) {
        CHECK_OK(&ctx, feed(&ctx, &kv, i % 2, &r, i % 64, 1));
        if (i == 1000) calls = heap.calls;
    }
    CHECK(heap.calls == calls, "%ld allocations", heap.calls - calls);
    tfb_kv_free(&kv);
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
    rows_free(&r);
}

/* Page p of sample b. */
static char *page_of(const tfb_kv *kv, tfb_idx b, tfb_idx p) {
    return kv->layer[0].row[b].pages[p];
}

/* Beams that change places take their pages with them, only repeats are copied. */
static void reordering_moves_no_rows(void) {
    static const int32_t orders[][4] = {{2, 0, 3, 1}, {1, 1, 2, 0}, {3, 3, 3, 3}};
    rows r = rows_new(4, 1, 130, 2, 2, 0);
    tfb_ctx ctx;
    int kind, k, i, p;
    t_ctx(&ctx, NULL);
    for (kind = 0; kind < KINDS; kind++)
        for (k = 0; k < COUNT(orders); k++) {
            const tfb_kv_opts o = opts_of(kind, 1, shape_of(4, 1, 2, 2, 130));
            const tfb_tensor index = tfb_view1(orders[k], TFB_I32, 4);
            tfb_kv kv;
            void *mem = cache_new(&ctx, &kv, IS_STATIC(kind), &o);
            char *before[4][3];
            const int pages = kind == STATIC ? 1 : 3;
            CHECK_OK(&ctx, feed(&ctx, &kv, 0, &r, 0, 130));
            for (i = 0; i < 4 * pages; i++)
                before[i / pages][i % pages] = page_of(&kv, i / pages, i % pages);
            CHECK_OK(&ctx, tfb_kv_select(&ctx, &kv, &index));
            for (i = 0; i < 4; i++) { /* some sample still has the pages of each chosen */
                int b, found = 0;
                for (b = 0; b < 4; b++)
                    if (orders[k][b] == orders[k][i])
                        for (p = 0; p < pages; p++)
                            found += page_of(&kv, b, p) == before[orders[k][i]][p];
                CHECK(found == pages, "%s: order %d, sample %d has moved",
                      kind_names[kind], k, i);
            }
            tfb_kv_free(&kv);
            free(mem);
        }
    rows_free(&r);
    tfb_ctx_free(&ctx);
}

/* Beam search for a long time: what repeats need comes from what was left behind. */
static void reordering_allocates_nothing_new(void) {
    const tfb_kv_opts o = opts_of(DYNAMIC, 3, shape_of(0, 0, 0, 0, 0));
    rows r = rows_new(4, 1, 200, 2, 2, 0);
    tfb_ctx ctx;
    t_heap heap;
    tfb_kv kv;
    int32_t at[4];
    const tfb_tensor index = tfb_view1(at, TFB_I32, 4);
    long live, most;
    int layer, i, step;
    t_ctx(&ctx, &heap);
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &kv, &o));
    for (layer = 0; layer < 3; layer++)
        CHECK_OK(&ctx, feed(&ctx, &kv, layer, &r, 0, 200));
    CHECK_OK(&ctx, tfb_kv_repeat_interleave(&ctx, &kv, 1));
    live = most = heap.live;
    for (step = 0; step < 300; step++) {
        for (i = 0; i < 4; i++) at[i] = (int32_t)t_int(0, 3);
        CHECK_OK(&ctx, tfb_kv_select(&ctx, &kv, &index));
        if (heap.live > most) most = heap.live;
    }
    CHECK(most == live, "%ld blocks more", most - live);
    tfb_kv_free(&kv);
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
    rows_free(&r);
}

int main(void) {
    RUN(saves_go_round);
    RUN(kinds_save_the_same);
    RUN(damaged_saves);
    RUN(crafted_saves);
    RUN(saves_of_other_caches);
    RUN(loads_and_marks);
    RUN(loads_without_memory);
    RUN(appends_cost_what_they_keep);
    RUN(a_full_ring_allocates_nothing);
    RUN(reordering_moves_no_rows);
    RUN(reordering_allocates_nothing_new);
    FINISH();
}
