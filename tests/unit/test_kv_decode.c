/* Attention over KV caches: the bits of attention over tensors, of one prefill instead of
 * many steps, of drafts that were never tried, with any number of workers. */
#include "../test.h"
#include "cache.h"

/* --- A run: N tokens of B sequences, what attention over all of them at once gives, and
 * a cache they are fed to in steps. --- */
typedef struct run {
    tfb_idx B, H, G, N, D, Dv, window, pinned, chunk;
    tfb_dtype dtype;
    int ragged;
    tfb_attention_opts o;
    tfb_tensor q, y, lse, key, value; /* key and value in the dtype of the cache */
    rows r;
    float *mem[3];
    tfb_tensor alibi, sinks;
    float slopes[8], logits[8];
} run;

static void run_sizes(run *w, int it) {
    memset((void *)w, 0, sizeof *w);
    w->B = it % 3 == 0 ? 1 : t_int(1, 3);
    w->G = t_int(1, 2);
    w->H = w->G * t_int(1, 3);
    w->N = it % 5 == 4 ? t_int(150, 400) : t_int(1, 150);
    w->D = t_int(1, 20);
    w->Dv = t_int(1, 20);
    w->dtype = kv_dtypes[it % 3];
}

/* Tensors and options, for caches with or without a window. */
static void run_new(tfb_ctx *ctx, run *w, int options) {
    const tfb_idx B = w->B, H = w->H, N = w->N;
    int i;
    w->r = rows_new(B, w->G, N, w->D, w->Dv, t_int(0, 1) != 0);
    CHECK_OK(ctx, tfb_tensor_new(ctx, &w->key, w->dtype, 4, w->r.key.shape));
    CHECK_OK(ctx, tfb_tensor_new(ctx, &w->value, w->dtype, 4, w->r.value.shape));
    CHECK_OK(ctx, tfb_copy(ctx, &w->r.key, &w->key));
    CHECK_OK(ctx, tfb_copy(ctx, &w->r.value, &w->value));
    w->mem[0] = t_floats(B * H * N * w->D);
    w->mem[1] = t_floats(B * H * N * w->Dv);
    w->mem[2] = t_floats(B * H * N);
    w->q = tokens_first(w->mem[0], B, H, N, w->D);
    w->y = tokens_first(w->mem[1], B, H, N, w->Dv);
    w->lse = tfb_view3(w->mem[2], TFB_F32, B, H, N);
    for (i = 0; i < 8; i++)
        w->slopes[i] = 0.01f * (float)(i + 1), w->logits[i] = t_float();
    w->alibi = tfb_view1(w->slopes, TFB_F32, H);
    w->sinks = tfb_view1(w->logits, TFB_F32, H);
    w->o.causal = TFB_CAUSAL_BOTTOM_RIGHT;
    w->o.window = w->window;
    w->o.window_pinned = w->pinned;
    if (options & 1) w->o.alibi = &w->alibi;
    if (options & 2) w->o.sinks = &w->sinks;
    if (options & 4) w->o.softcap = 3;
    if (options & 8) w->o.scale = 0.3f, w->o.scale_set = 1;
}

static void run_free(tfb_ctx *ctx, run *w) {
    int i;
    tfb_tensor_free(ctx, &w->key);
    tfb_tensor_free(ctx, &w->value);
    rows_free(&w->r);
    for (i = 0; i < 3; i++) free(w->mem[i]);
}

static size_t run_bytes(const run *w, int which) {
    return (size_t)(w->B * w->H * w->N * (which ? 1 : w->Dv)) * sizeof(float);
}

/* What attention over all rows at once gives, y then lse; both are then wiped. */
static char *run_expect(tfb_ctx *ctx, run *w) {
    char *want = (char *)malloc(run_bytes(w, 0) + run_bytes(w, 1));
    tfb_attention_opts o = w->o;
    if (!want) exit(99);
    o.lse = &w->lse;
    CHECK_OK(ctx, tfb_attention(ctx, &w->q, &w->key, &w->value, &o, &w->y));
    memcpy(want, w->mem[1], run_bytes(w, 0));
    memcpy(want + run_bytes(w, 0), w->mem[2], run_bytes(w, 1));
    memset(w->mem[1], 0x7F, run_bytes(w, 0));
    memset(w->mem[2], 0x7F, run_bytes(w, 1));
    return want;
}

static int run_same(const run *w, const char *want) {
    return !memcmp(w->mem[1], want, run_bytes(w, 0)) &&
           !memcmp(w->mem[2], want + run_bytes(w, 0), run_bytes(w, 1));
}

static void *run_cache(tfb_ctx *ctx, run *w, tfb_kv *kv, int kind) {
    tfb_kv_opts o = opts_of(STATIC, 2, shape_of(w->B, w->G, w->D, w->Dv, w->N));
    o.dtype = w->dtype;
    o.ragged = w->ragged;
    if (IS_RING(kind)) {
        o.shape.window = w->window;
        o.shape.pinned = w->pinned;
        o.shape.chunk = w->chunk;
    }
    return cache_new(ctx, kv, IS_STATIC(kind), &o);
}

/* A ring knows its window itself. */
static tfb_attention_opts run_opts(const run *w, const tfb_kv *kv) {
    tfb_attention_opts o = w->o;
    if (kv->layer[1].shape.window && w->N % 2) o.window = o.window_pinned = 0;
    return o;
}

/* n tokens from `at` on: append, then attention over the cache where it lies. */
static void run_step(tfb_ctx *ctx, run *w, tfb_kv *kv, tfb_idx at, tfb_idx n) {
    tfb_attention_opts o = run_opts(w, kv);
    tfb_tensor q, y, lse;
    CHECK_OK(ctx, feed(ctx, kv, 1, &w->r, at, n));
    CHECK_OK(ctx, tfb_slice(ctx, &w->q, 2, at, n, &q));
    CHECK_OK(ctx, tfb_slice(ctx, &w->y, 2, at, n, &y));
    CHECK_OK(ctx, tfb_slice(ctx, &w->lse, 2, at, n, &lse));
    o.lse = &lse;
    CHECK_OK(ctx, tfb_kv_attention(ctx, kv, 1, &q, &o, &y));
}

static const char *run_text(const run *w, int kind) {
    static char text[200];
    snprintf(text, sizeof text,
             "%s dtype %d B %d H %d G %d N %d D %d Dv %d window %d pinned %d",
             kind_names[kind], (int)w->dtype, (int)w->B, (int)w->H, (int)w->G, (int)w->N,
             (int)w->D, (int)w->Dv, (int)w->window, (int)w->pinned);
    return text;
}

/* --- Decoding equals prefill. --- */
static void decode_in_steps(tfb_ctx *ctx, run *w, int kind, const char *want,
                            int by_one) {
    tfb_kv kv;
    void *mem = run_cache(ctx, w, &kv, kind);
    tfb_idx at, n;
    for (at = 0; at < w->N; at += n) { /* token by token, or in pieces */
        n = by_one ? 1 : t_int(1, TFB__MIN(65, w->N - at));
        run_step(ctx, w, &kv, at, n);
    }
    CHECK(run_same(w, want), "steps of %s differ from prefill: %s", by_one ? "1" : "many",
          run_text(w, kind));
    tfb_kv_free(&kv);
    free(mem);
}

static void decode_equals_prefill(void) {
    tfb_ctx ctx;
    int it, kind, by_one;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 20; it++) {
        run w;
        char *want;
        run_sizes(&w, it);
        if (it % 2) w.window = t_int(1, it % 4 == 1 ? 20 : 130);
        if (it % 4 > 1 && w.window) w.pinned = t_int(1, 80);
        run_new(&ctx, &w, it % 16);
        want = run_expect(&ctx, &w);
        for (kind = 0; kind < KINDS; kind++)
            for (by_one = 0; by_one < 2 && (w.window || !IS_RING(kind)); by_one++)
                decode_in_steps(&ctx, &w, kind, want, by_one);
        free(want);
        run_free(&ctx, &w);
    }
    tfb_ctx_free(&ctx);
}

/* Past the first split of 1024 keys; of a ring too, which keeps far fewer. */
static void decode_past_a_split(void) {
    tfb_ctx ctx;
    int kind, it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 4; it++) {
        run w;
        char *want;
        run_sizes(&w, it);
        w.N = it ? 1100 : 2100;
        w.D = w.Dv = 4;
        w.H = w.G = 1;
        if (it) w.window = it == 1 ? 1030 : 50;
        if (it == 3) w.pinned = 70;
        run_new(&ctx, &w, 0);
        want = run_expect(&ctx, &w);
        for (kind = 0; kind < KINDS; kind++)
            if (w.window || !IS_RING(kind)) decode_in_steps(&ctx, &w, kind, want, it < 2);
        free(want);
        run_free(&ctx, &w);
    }
    tfb_ctx_free(&ctx);
}

/* As many new rows as the chunk of a ring at once. */
static void ring_prefill_in_chunks(void) {
    static const tfb_idx chunks[] = {0, 64, 65, 128, 200};
    tfb_ctx ctx;
    int i, kind;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 3 * COUNT(chunks); i++)
        for (kind = RING; kind < KINDS; kind++) {
            run w;
            char *want;
            tfb_kv kv;
            void *mem;
            tfb_idx at, n;
            run_sizes(&w, i);
            w.N = 450;
            w.chunk = chunks[i / 3];
            w.window = i % 3 ? t_int(1, 64) : 64;
            w.pinned = i % 3 == 2 ? 3 : 0;
            run_new(&ctx, &w, i % 16);
            want = run_expect(&ctx, &w);
            mem = run_cache(&ctx, &w, &kv, kind);
            for (at = 0; at < w.N; at += n) {
                n = TFB__MIN(w.chunk ? w.chunk : 64, w.N - at);
                run_step(&ctx, &w, &kv, at, n);
            }
            CHECK(run_same(&w, want), "chunk %d: %s", (int)w.chunk, run_text(&w, kind));
            tfb_kv_free(&kv);
            free(mem);
            free(want);
            run_free(&ctx, &w);
        }
    tfb_ctx_free(&ctx);
}

/* More queries than a ring has rows for: refused, and nothing is written. */
static void a_ring_knows_what_it_lost(void) {
    tfb_ctx ctx;
    int kind;
    t_ctx(&ctx, NULL);
    for (kind = RING; kind < KINDS; kind++) {
        run w;
        tfb_kv kv;
        void *mem;
        tfb_tensor q, y;
        tfb_idx i;
        run_sizes(&w, 0);
        w.N = 300;
        w.window = 10;
        run_new(&ctx, &w, 0);
        mem = run_cache(&ctx, &w, &kv, kind); /* room for 128 rows */
        CHECK_OK(&ctx, feed(&ctx, &kv, 1, &w.r, 0, 300));
        memset(w.mem[1], 0x7F, run_bytes(&w, 0));
        CHECK_FAILS(&ctx, TFB_ERR_RANGE, "tfb_kv_attention",
                    tfb_kv_attention(&ctx, &kv, 1, &w.q, &w.o, &w.y));
        CHECK_OK(&ctx, tfb_slice(&ctx, &w.q, 2, 180, 120, &q));
        CHECK_OK(&ctx, tfb_slice(&ctx, &w.y, 2, 180, 120, &y));
        CHECK_FAILS(&ctx, TFB_ERR_RANGE, "tfb_kv_attention",
                    tfb_kv_attention(&ctx, &kv, 1, &q, &w.o, &y));
        for (i = 0; i < (tfb_idx)run_bytes(&w, 0); i++)
            CHECK(((char *)w.mem[1])[i] == 0x7F, "a failed call wrote");
        CHECK_OK(&ctx, tfb_slice(&ctx, &w.q, 2, 181, 119, &q));
        CHECK_OK(&ctx, tfb_slice(&ctx, &w.y, 2, 181, 119, &y));
        CHECK_OK(&ctx, tfb_kv_attention(&ctx, &kv, 1, &q, &w.o, &y));
        w.o.window = 11;
        CHECK_FAILS(&ctx, TFB_ERR_RANGE, "window",
                    tfb_kv_attention(&ctx, &kv, 1, &q, &w.o, &y));
        w.o.window = 10;
        w.o.window_pinned = 1;
        CHECK_FAILS(&ctx, TFB_ERR_RANGE, "pinned",
                    tfb_kv_attention(&ctx, &kv, 1, &q, &w.o, &y));
        tfb_kv_free(&kv);
        free(mem);
        run_free(&ctx, &w);
    }
    tfb_ctx_free(&ctx);
}

/* --- Ragged batches: prompts of different lengths, then token by token, each sample on
 * its own way. --- */
/* Tokens from[b] .. from[b] + n[b] - 1 of sample b stand at 0 .. of a step of T. */
static tfb_tensor gathered(tfb_ctx *ctx, const tfb_tensor *x, const int32_t *from,
                           const int32_t *n, tfb_idx T) {
    tfb_idx shape[4], b;
    tfb_tensor y;
    memcpy(shape, x->shape, sizeof shape);
    shape[2] = T;
    CHECK_OK(ctx, tfb_tensor_new(ctx, &y, TFB_F32, 4, shape));
    for (b = 0; b < shape[0]; b++) {
        tfb_tensor a, part;
        CHECK_OK(ctx, tfb_slice(ctx, x, 0, b, 1, &a));
        CHECK_OK(ctx, tfb_slice(ctx, &a, 2, from[b], n[b], &a));
        CHECK_OK(ctx, tfb_slice(ctx, &y, 0, b, 1, &part));
        CHECK_OK(ctx, tfb_slice(ctx, &part, 2, 0, n[b], &part));
        CHECK_OK(ctx, tfb_copy(ctx, &a, &part));
    }
    return y;
}

static void scattered(tfb_ctx *ctx, const tfb_tensor *y, const int32_t *from,
                      const int32_t *n, tfb_tensor *to) {
    tfb_idx b;
    for (b = 0; b < y->shape[0]; b++) {
        tfb_tensor a, part;
        CHECK_OK(ctx, tfb_slice(ctx, y, 0, b, 1, &a));
        CHECK_OK(ctx, tfb_slice(ctx, &a, 2, 0, n[b], &a));
        CHECK_OK(ctx, tfb_slice(ctx, to, 0, b, 1, &part));
        CHECK_OK(ctx, tfb_slice(ctx, &part, 2, from[b], n[b], &part));
        CHECK_OK(ctx, tfb_copy(ctx, &a, &part));
    }
}

/* counts[b] tokens of each sample, of T; queries behind them are nobody's. */
static void ragged_step(tfb_ctx *ctx, run *w, tfb_kv *kv, const int32_t *from,
                        const int32_t *n, tfb_idx T) {
    int32_t mem[8];
    tfb_tensor at = tfb_view2(mem, TFB_I32, w->B, 1), offsets;
    const tfb_tensor counts = tfb_view1(n, TFB_I32, w->B);
    tfb_kv_update_opts u = {0, 0};
    tfb_attention_opts o = run_opts(w, kv);
    tfb_tensor key = gathered(ctx, &w->r.key, from, n, T);
    tfb_tensor value = gathered(ctx, &w->r.value, from, n, T);
    tfb_tensor q = gathered(ctx, &w->q, from, n, T), y = gathered(ctx, &w->y, from, n, T);
    tfb_idx b;
    if (tfb_kv_batch(kv, 1)) CHECK_OK(ctx, tfb_kv_positions(ctx, kv, 1, &at));
    else memset(mem, 0, sizeof mem);
    for (b = 0; b < w->B; b++) CHECK(mem[b] == from[b], "position %d", (int)mem[b]);
    u.counts = &counts;
    CHECK_OK(ctx, tfb_kv_update(ctx, kv, 1, &key, &value, &u));
    offsets = tfb_view1(mem, TFB_I32, w->B);
    o.offsets = &offsets;
    CHECK_OK(ctx, tfb_kv_attention(ctx, kv, 1, &q, &o, &y));
    scattered(ctx, &y, from, n, &w->y);
    tfb_tensor_free(ctx, &key);
    tfb_tensor_free(ctx, &value);
    tfb_tensor_free(ctx, &q);
    tfb_tensor_free(ctx, &y);
}

static void ragged_decode(tfb_ctx *ctx, run *w, int kind, const char *want) {
    int32_t have[4] = {0, 0, 0, 0}, n[4];
    tfb_kv kv;
    void *mem = run_cache(ctx, w, &kv, kind);
    tfb_idx b, most = 1;
    int step;
    for (step = 0; most; step++) {
        for (b = most = 0; b < w->B; b++) {
            const tfb_idx left = w->N - have[b], now = t_int(0, step % 4 ? 1 : 50);
            n[b] = (int32_t)TFB__MIN(left, now);
            most = TFB__MAX(most, left ? TFB__MAX(1, n[b]) : 0);
        }
        if (most) ragged_step(ctx, w, &kv, have, n, most);
        for (b = 0; b < w->B; b++) have[b] += n[b];
    }
    CHECK(!memcmp(w->mem[1], want, run_bytes(w, 0)), "ragged %s", run_text(w, kind));
    tfb_kv_free(&kv);
    free(mem);
}

static void ragged_decode_equals_prefill(void) {
    tfb_ctx ctx;
    t_heap heap;
    int it, kind;
    t_ctx(&ctx, &heap);
    for (it = 0; it < 16; it++) {
        run w;
        char *want;
        run_sizes(&w, it);
        w.B = t_int(2, 4);
        w.N = TFB__MIN(w.N, 200);
        w.ragged = 1;
        if (it % 2) w.window = t_int(1, 70);
        if (it % 4 > 1 && w.window) w.pinned = t_int(1, 70);
        run_new(&ctx, &w, it % 16);
        want = run_expect(&ctx, &w);
        for (kind = 0; kind < KINDS; kind++)
            if (w.window || !IS_RING(kind)) ragged_decode(&ctx, &w, kind, want);
        free(want);
        run_free(&ctx, &w);
    }
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
}

/* --- Attention over the cache is attention over what get gives. --- */
typedef struct view {
    tfb_tensor key, value, pos0s, lens;
    int32_t pos[4], len[4];
} view;

/* What the cache holds as tensors, and where they stand. */
static void view_new(tfb_ctx *ctx, view *v, const tfb_kv *kv) {
    tfb_tensor key, value;
    tfb_idx b, B = tfb_kv_batch(kv, 1), pinned = kv->layer[1].shape.pinned;
    memset((void *)&key, 0, sizeof key);
    value = key;
    CHECK_OK(ctx, tfb_kv_get(ctx, kv, 1, &key, &value));
    CHECK_OK(ctx, tfb_tensor_new(ctx, &v->key, kv->dtype, 4, key.shape));
    CHECK_OK(ctx, tfb_tensor_new(ctx, &v->value, kv->dtype, 4, value.shape));
    CHECK_OK(ctx, tfb_kv_get(ctx, kv, 1, &v->key, &v->value));
    for (b = 0; b < B; b++) {
        v->pos[b] = (int32_t)TFB__MAX(tfb_kv_base(kv, 1, b) - pinned, 0);
        v->len[b] = (int32_t)tfb_kv_length_of(kv, 1, b);
    }
    v->pos0s = tfb_view1(v->pos, TFB_I32, B);
    v->lens = tfb_view1(v->len, TFB_I32, B);
}

static void view_free(tfb_ctx *ctx, view *v) {
    tfb_tensor_free(ctx, &v->key);
    tfb_tensor_free(ctx, &v->value);
}

/* T queries with those options over the cache, and over the same rows as tensors. */
static void same_over_tensors(tfb_ctx *ctx, run *w, const tfb_kv *kv, tfb_idx T,
                              tfb_attention_opts o, const char *what) {
    const size_t bytes = (size_t)(w->B * w->H * T * w->Dv) * sizeof(float);
    tfb_tensor q, y = tfb_view4(w->mem[1], TFB_F32, w->B, w->H, T, w->Dv);
    void *want = malloc(bytes + 1);
    int32_t at[4];
    const tfb_tensor offsets = tfb_view1(at, TFB_I32, w->B);
    tfb_idx b;
    view v;
    if (!want) exit(99);
    view_new(ctx, &v, kv);
    CHECK_OK(ctx, tfb_slice(ctx, &w->q, 2, 0, T, &q));
    CHECK_OK(ctx, tfb_kv_attention(ctx, kv, 1, &q, &o, &y));
    memcpy(want, w->mem[1], bytes);
    memset(w->mem[1], 0x7F, bytes);
    o.key_pos0s = &v.pos0s;
    o.key_pinned = kv->layer[1].shape.pinned;
    for (b = 0; b < w->B; b++) at[b] = (int32_t)o.offset - v.pos[b];
    if (o.offset_set) o.offsets = &offsets; /* there: among the rows */
    if (kv->ragged) o.kv_len = &v.lens;
    CHECK_OK(ctx, tfb_attention(ctx, &q, &v.key, &v.value, &o, &y));
    CHECK(!memcmp(w->mem[1], want, bytes), "%s, T %d", what, (int)T);
    view_free(ctx, &v);
    free(want);
}

/* A cache whose rows do not begin at 0, nor (if ragged) end together. */
static void *worn_cache(tfb_ctx *ctx, run *w, tfb_kv *kv, int kind) {
    void *mem = run_cache(ctx, w, kv, kind);
    int32_t n[4];
    tfb_idx b;
    const tfb_tensor each = tfb_view1(n, TFB_I32, w->B);
    CHECK_OK(ctx, feed(ctx, kv, 1, &w->r, 0, w->N - w->N / 3));
    CHECK_OK(ctx, tfb_kv_keep_last(ctx, kv, w->N / 2, NULL));
    CHECK_OK(ctx, feed(ctx, kv, 1, &w->r, w->N - w->N / 3, w->N / 3));
    for (b = 0; b < w->B; b++) n[b] = (int32_t)(tfb_kv_length(kv, 1) - 7 * b);
    if (w->ragged && n[w->B - 1] > 0) CHECK_OK(ctx, tfb_kv_crop(ctx, kv, 0, &each));
    return mem;
}

/* Windows to both sides, queries that stand elsewhere or are turned on their way. */
static void more_over_tensors(tfb_ctx *ctx, run *w, const tfb_kv *kv, tfb_idx T) {
    tfb_attention_opts o = w->o;
    tfb_qk_opts qk = TFB_INIT;
    tfb_rope_opts rope = TFB_INIT;
    o.causal = TFB_CAUSAL_NONE;
    o.window = o.window_pinned = 0;
    o.mask = o.bias = NULL;
    o.chunk_size = t_int(0, 3);
    if (w->D % 2 == 0) {
        rope.start = 17;
        qk.rope = &rope;
        qk.keys_ready = 1;
        o.qk = &qk;
    }
    same_over_tensors(ctx, w, kv, T, o, "queries turned");
    if (w->window && (T > 1 || w->ragged)) return; /* they would look too far back */
    o.two_sided = 1;
    o.left = w->window ? t_int(0, w->window - 1) : t_int(0, 90);
    o.right = t_int(0, 5);
    o.window_pinned = w->pinned;
    same_over_tensors(ctx, w, kv, T, o, "a window to both sides");
    o.offset_set = 1;
    o.offset = tfb_kv_base(kv, 1, 0) + tfb_kv_length(kv, 1) + t_int(0, 3);
    same_over_tensors(ctx, w, kv, T, o, "an offset");
    o.two_sided = 0;
    o.causal = TFB_CAUSAL_OFFSET;
    o.window = w->window;
    same_over_tensors(ctx, w, kv, T, o, "causal at an offset");
}

static void cached_equals_tensors(void) {
    tfb_ctx ctx;
    int it, kind;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 24; it++)
        for (kind = 0; kind < KINDS; kind++) {
            run w;
            tfb_kv kv;
            void *mem;
            tfb_idx T = it % 3 ? 1 : t_int(1, 9), S;
            tfb_tensor mask, bias;
            uint8_t *hide;
            float *add;
            tfb_idx i;
            run_sizes(&w, it);
            w.N = TFB__MAX(w.N, 12);
            w.ragged = it % 2;
            w.window = IS_RING(kind) ? t_int(1, 90) : 0;
            w.pinned = IS_RING(kind) ? it / 2 % 2 * t_int(1, 20) : 0;
            run_new(&ctx, &w, it % 16);
            mem = worn_cache(&ctx, &w, &kv, kind);
            S = tfb_kv_length(&kv, 1);
            add = t_floats(w.H * T * S);
            bias = tfb_view3(add, TFB_F32, w.H, T, S);
            hide = (uint8_t *)malloc((size_t)(T * S) + 1);
            if (!hide) exit(99);
            for (i = 0; i < T * S; i++) hide[i] = t_int(0, 2) != 0;
            mask = tfb_view2(hide, TFB_U8, T, S);
            w.o.causal = TFB_CAUSAL_NONE;
            w.o.window = w.o.window_pinned = 0;
            same_over_tensors(&ctx, &w, &kv, T, w.o, "all rows");
            w.o.mask = &mask;
            same_over_tensors(&ctx, &w, &kv, T, w.o, "a mask");
            w.o.bias = &bias;
            same_over_tensors(&ctx, &w, &kv, T, w.o, "mask and bias");
            w.o.causal = TFB_CAUSAL_BOTTOM_RIGHT;
            w.o.window = w.window;
            w.o.window_pinned = w.pinned;
            if (T > 1 && IS_RING(kind)) /* get does not give what earlier queries see */
                w.o.causal = TFB_CAUSAL_NONE, w.o.window = w.o.window_pinned = 0;
            same_over_tensors(&ctx, &w, &kv, T, w.o, "causal");
            more_over_tensors(&ctx, &w, &kv, T);
            tfb_kv_free(&kv);
            free(mem);
            free(hide);
            free(add);
            run_free(&ctx, &w);
        }
    tfb_ctx_free(&ctx);
}

/* --- Drafts that are rejected leave no trace. --- */
/* The cache saves the same bytes as one that was fed the first n tokens alone. */
static int as_if_fed(tfb_ctx *ctx, run *w, const tfb_kv *kv, int kind, tfb_idx n) {
    const size_t bytes = tfb_kv_save_bytes(kv);
    char *a = (char *)malloc(2 * bytes + 2);
    tfb_kv other;
    void *mem = run_cache(ctx, w, &other, kind);
    tfb_idx at;
    int same;
    if (!a) exit(99);
    for (at = 0; at < n; at++) CHECK_OK(ctx, feed(ctx, &other, 1, &w->r, at, 1));
    same = tfb_kv_save_bytes(&other) == bytes;
    CHECK_OK(ctx, tfb_kv_save(ctx, kv, a, bytes));
    if (same) CHECK_OK(ctx, tfb_kv_save(ctx, &other, a + bytes, bytes));
    same = same && !memcmp(a, a + bytes, bytes);
    tfb_kv_free(&other);
    free(mem);
    free(a);
    return same;
}

/* Drafts of wrong tokens, some of whose first ones are right and are kept. */
static void speculate(tfb_ctx *ctx, run *w, int kind, const char *want) {
    tfb_kv kv;
    void *mem = run_cache(ctx, w, &kv, kind);
    rows wrong = rows_new(w->B, w->G, 12, w->D, w->Dv, 0);
    tfb_idx at = TFB__MIN(w->N, 5);
    run_step(ctx, w, &kv, 0, at);
    while (at < w->N) {
        const tfb_idx right = t_int(0, TFB__MIN(6, w->N - at)), bad = t_int(0, 12);
        int32_t kept = (int32_t)right;
        const tfb_tensor keep = tfb_view1(&kept, TFB_I32, 1);
        CHECK_OK(ctx, tfb_kv_mark(ctx, &kv));
        if (right) run_step(ctx, w, &kv, at, right);
        if (bad && IS_STATIC(kind) && !IS_RING(kind) && at + right + bad > w->N) {
            CHECK(feed(ctx, &kv, 1, &wrong, 0, bad) == TFB_ERR_FULL, "full");
        } else if (bad) CHECK_OK(ctx, feed(ctx, &kv, 1, &wrong, 0, bad));
        CHECK_OK(ctx, tfb_kv_rollback(ctx, &kv, right ? &keep : NULL));
        at += right;
        tfb_kv_commit(&kv);
        if (at < w->N) run_step(ctx, w, &kv, at, 1), at++;
    }
    CHECK(run_same(w, want), "%s", run_text(w, kind));
    CHECK(as_if_fed(ctx, w, &kv, kind, w->N), "saves differ: %s", run_text(w, kind));
    tfb_kv_free(&kv);
    free(mem);
    rows_free(&wrong);
}

static void rejected_drafts_leave_no_trace(void) {
    tfb_ctx ctx;
    int it, kind;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 18; it++) {
        run w;
        char *want;
        run_sizes(&w, it);
        w.N = TFB__MIN(w.N, 220);
        if (it % 2) w.window = t_int(1, 80);
        if (it % 4 > 1 && w.window) w.pinned = t_int(1, 12);
        run_new(&ctx, &w, it % 16);
        want = run_expect(&ctx, &w);
        for (kind = 0; kind < KINDS; kind++)
            if (w.window || !IS_RING(kind)) speculate(&ctx, &w, kind, want);
        free(want);
        run_free(&ctx, &w);
    }
    tfb_ctx_free(&ctx);
}

/* --- Workers, allocations, measuring. --- */
static void any_number_of_workers(void) {
    int it, kind, workers;
    for (it = 0; it < 4; it++) {
        tfb_ctx ctx;
        run w;
        char *want;
        t_ctx(&ctx, NULL);
        run_sizes(&w, it);
        w.H = w.G;
        w.N = it % 2 ? 300 : 1100; /* more than a split */
        w.D = w.Dv = 4;
        w.window = it % 2 ? 90 : 0;
        w.pinned = it % 4 == 3 ? 5 : 0;
        run_new(&ctx, &w, it);
        want = run_expect(&ctx, &w);
        for (workers = 1; workers < 4; workers++) {
            if (tfb_ctx_threads(&ctx, workers, 0) == TFB_ERR_UNSUPPORTED) break;
            for (kind = 0; kind < KINDS; kind++)
                if (w.window || !IS_RING(kind)) decode_in_steps(&ctx, &w, kind, want, 0);
        }
        free(want);
        run_free(&ctx, &w);
        tfb_ctx_free(&ctx);
    }
}

static void static_decode_allocates_nothing(void) {
    static double mem[TFB_KV_BYTES(2, 1, 2, 8, 8, 200, 4) / 8 + 1];
    static double ring[TFB_KV_RING_BYTES(2, 1, 2, 8, 8, 30, 2, 0, 4) / 8 + 1];
    int is_ring;
    for (is_ring = 0; is_ring < 2; is_ring++) {
        tfb_kv_opts o = opts_of(STATIC, 2, shape_of(1, 2, 8, 0, 200));
        tfb_ctx ctx;
        t_heap heap;
        run w;
        tfb_kv kv;
        tfb_idx t;
        char *want;
        long calls;
        t_ctx(&ctx, &heap);
        memset((void *)&w, 0, sizeof w);
        w.B = 1, w.H = 4, w.G = 2, w.N = 200, w.D = 8, w.Dv = 8;
        w.window = o.shape.window = is_ring ? 30 : 0;
        w.pinned = o.shape.pinned = is_ring ? 2 : 0;
        run_new(&ctx, &w, 0);
        want = run_expect(&ctx, &w);
        CHECK_OK(&ctx, tfb_kv_init_static(&ctx, &kv, &o, is_ring ? ring : mem,
                                          is_ring ? sizeof ring : sizeof mem));
        run_step(&ctx, &w, &kv, 0, 1);
        calls = heap.calls;
        for (t = 1; t < 200; t++) run_step(&ctx, &w, &kv, t, 1);
        CHECK(heap.calls == calls, "%ld allocations after warm-up", heap.calls - calls);
        CHECK(run_same(&w, want), "not the bits");
        free(want);
        run_free(&ctx, &w);
        tfb_ctx_free(&ctx);
        CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
    }
}

/* A decode loop over a cache can be measured before it runs (a dynamic one once it knows
 * its heads); what was measured is what it then uses, and nothing of the cache was
 * touched. */
static void decode_is_measured_beforehand(void) {
    int kind;
    for (kind = 0; kind < KINDS; kind++) {
        tfb_ctx ctx, measure;
        run w;
        tfb_kv kv;
        void *mem;
        snapshot before;
        tfb_idx at;
        t_ctx(&ctx, NULL);
        CHECK_OK(&measure, tfb_ctx_init_measure(&measure));
        CHECK_OK(&measure, tfb_isa_force(&measure, tfb_isa_name(&ctx)));
        memset((void *)&w, 0, sizeof w);
        w.B = 2, w.H = 4, w.G = 2, w.N = 20, w.D = 8, w.Dv = 5;
        w.window = IS_RING(kind) ? 9 : 0;
        run_new(&ctx, &w, 0);
        mem = run_cache(&ctx, &w, &kv, kind);
        if (!IS_STATIC(kind)) run_step(&ctx, &w, &kv, 0, 5);
        before = snap(&kv);
        for (at = 5; at < 20; at += 5) run_step(&measure, &w, &kv, at, 5);
        unchanged(&kv, &before, "measured");
        ctx.scratch_peak = 0;
        for (at = IS_STATIC(kind) ? 0 : 5; at < 20; at += 5)
            run_step(&ctx, &w, &kv, at, 5);
        CHECK(measure.scratch_peak == ctx.scratch_peak,
              "%s: measured %lu bytes, used %lu", kind_names[kind],
              (unsigned long)measure.scratch_peak, (unsigned long)ctx.scratch_peak);
        CHECK(ctx.scratch_peak > 0, "no scratch at all");
        CHECK(ctx.scratch_peak <= TFB_ATTENTION_SCRATCH(8, 5, 1), "above its bound");
        tfb_kv_free(&kv);
        free(mem);
        run_free(&ctx, &w);
        tfb_ctx_free(&measure);
        tfb_ctx_free(&ctx);
    }
}

int main(void) {
    RUN(decode_equals_prefill);
    RUN(decode_past_a_split);
    RUN(ring_prefill_in_chunks);
    RUN(a_ring_knows_what_it_lost);
    RUN(ragged_decode_equals_prefill);
    RUN(cached_equals_tensors);
    RUN(rejected_drafts_leave_no_trace);
    RUN(any_number_of_workers);
    RUN(static_decode_allocates_nothing);
    RUN(decode_is_measured_beforehand);
    FINISH();
}
