/* What carries state from call to call, caches and states of mixers, and what allocates
 * besides scratch: each call with its first, second, .. allocation failing, and in static
 * contexts one byte too small. A failure is MEMORY or SCRATCH, names the bytes, changes
 * nothing and loses nothing; the same call then works. test_ops.c does the same for all
 * functions that only compute, play.h for scripts of cache operations. */
#include "../test.h"
#include "cache.h"
#include "mixers.h"

enum { W_LAYERS = 2, W_BATCH = 4, W_G = 2, W_D = 6, W_TOKENS = 200, W_C = 12 };

typedef struct world {
    tfb_ctx *ctx;
    tfb_kv_pair pair; /* self is the cache of most calls */
    void *mem[3];
    tfb_mixer_state state, other;
    rig r;
    tfb_tensor t, key, value, q, y, x, z, index, positions;
    char *save;
    size_t save_bytes;
    int32_t ints[8], at[2];
} world;

typedef struct deed {
    const char *name;
    tfb_status (*run)(world *w);
    int scratch; /* takes some from a static context too */
} deed;

static tfb_status do_new(world *w) {
    const tfb_idx shape[2] = {3, 5};
    return tfb_tensor_new(w->ctx, &w->t, TFB_F32, 2, shape);
}

static tfb_status do_threads(world *w) {
    return tfb_ctx_threads(w->ctx, 2, 0);
}

static tfb_status do_append(world *w) {
    return tfb_kv_append(w->ctx, &w->pair.self, 1, &w->key, &w->value);
}

static tfb_status do_update(world *w) {
    tfb_kv_update_opts o;
    memset((void *)&o, 0, sizeof o);
    o.positions = &w->positions;
    return tfb_kv_update(w->ctx, &w->pair.self, 0, &w->key, &w->value, &o);
}

static tfb_status do_select(world *w) {
    return tfb_kv_select(w->ctx, &w->pair.self, &w->index);
}

static tfb_status do_repeat(world *w) {
    return tfb_kv_repeat_interleave(w->ctx, &w->pair.self, 2);
}

static tfb_status do_fork(world *w) {
    return tfb_kv_fork(w->ctx, &w->pair.self, 0, 1);
}

static tfb_status do_shift(world *w) {
    tfb_rope_opts o;
    memset((void *)&o, 0, sizeof o);
    return tfb_kv_shift(w->ctx, &w->pair.self, -1, 0, 99, 3, &o);
}

static tfb_status do_attention(world *w) {
    return tfb_kv_attention(w->ctx, &w->pair.self, 0, &w->q, NULL, &w->y);
}

static tfb_status do_load(world *w) {
    return tfb_kv_load(w->ctx, &w->pair.self, w->save, w->save_bytes);
}

static tfb_status do_pair_select(world *w) {
    return tfb_kv_pair_select(w->ctx, &w->pair, &w->index);
}

static tfb_status do_pair_repeat(world *w) {
    return tfb_kv_pair_repeat_interleave(w->ctx, &w->pair, 2);
}

static tfb_status do_state(world *w) {
    return tfb_mixer_state_init(w->ctx, &w->other, &w->r.block, 3, 9, NULL, 0);
}

static tfb_status do_step(world *w) {
    return tfb_qkv_step(w->ctx, &w->r.block, &w->state, &w->x, NULL, &w->z);
}

static tfb_status do_state_select(world *w) {
    tfb_tensor index = w->index;
    index.shape[0] = 2;
    return tfb_mixer_state_select(w->ctx, &w->state, &index);
}

/* tfb_kv_init makes room for nothing but its layers. */
static tfb_status do_init(world *w) {
    tfb_kv_opts o = opts_of(DYNAMIC, 7, shape_of(1, 1, 1, 1, 1));
    tfb_kv kv;
    const tfb_status got = tfb_kv_init(w->ctx, &kv, &o);
    if (got == TFB_OK) tfb_kv_free(&kv);
    return got;
}

static const deed deeds[] = {
    {"tfb_tensor_new", do_new, 0},
    {"tfb_ctx_threads", do_threads, 0},
    {"tfb_kv_init", do_init, 0},
    {"tfb_kv_append", do_append, 0},
    {"tfb_kv_update", do_update, 0},
    {"tfb_kv_select", do_select, 1},
    {"tfb_kv_repeat_interleave", do_repeat, 1},
    {"tfb_kv_fork", do_fork, 0},
    {"tfb_kv_shift", do_shift, 1},
    {"tfb_kv_attention", do_attention, 1},
    {"tfb_kv_load", do_load, 1},
    {"tfb_kv_pair_select", do_pair_select, 1},
    {"tfb_kv_pair_repeat_interleave", do_pair_repeat, 1},
    {"tfb_mixer_state_init", do_state, 0},
    {"tfb_qkv_step", do_step, 1},
    {"tfb_mixer_state_select", do_state_select, 1},
};

/* --- Worlds. --- */
static void world_cache(world *w, tfb_kv *kv, int is_static, int mem) {
    const tfb_kv_shape s = shape_of(W_BATCH, W_G, W_D, W_D, W_TOKENS);
    tfb_kv_opts o = opts_of(is_static ? STATIC : DYNAMIC, W_LAYERS, s);
    rows r = rows_new(2, W_G, 64, W_D, W_D, 0);
    w->mem[mem] = cache_new(w->ctx, kv, is_static, &o);
    CHECK_OK(w->ctx, feed(w->ctx, kv, 0, &r, 0, 64));
    CHECK_OK(w->ctx, feed(w->ctx, kv, 1, &r, 0, 64));
    rows_free(&r);
}

/* A cache that has all its pages full, so that one more row takes a new one. */
static void world_new(world *w, tfb_ctx *ctx, int is_static, int mamba) {
    static const int32_t index[] = {1, 0, 1, 1};
    tfb_idx bytes;
    memset((void *)w, 0, sizeof *w);
    w->ctx = ctx;
    world_cache(w, &w->pair.self, is_static, 0);
    world_cache(w, &w->pair.cross, is_static, 1);
    memcpy(w->ints, index, sizeof index);
    w->at[0] = 70;
    w->at[1] = 141;
    w->index = tfb_view1(w->ints, TFB_I32, 4);
    w->positions = tfb_view1(w->at, TFB_I32, 2);
    w->key = tfb_view4(t_floats(48), TFB_F32, 2, W_G, 2, W_D);
    w->value = tfb_view4(t_floats(48), TFB_F32, 2, W_G, 2, W_D);
    w->q = tfb_view4(t_floats(48), TFB_F32, 2, W_G, 2, W_D);
    w->y = tfb_view4(t_floats(48), TFB_F32, 2, W_G, 2, W_D);
    w->save_bytes = tfb_kv_save_bytes(&w->pair.self);
    w->save = (char *)bytes_new(w->save_bytes);
    CHECK_OK(ctx, tfb_kv_save(ctx, &w->pair.self, w->save, w->save_bytes));
    if (!is_static) tfb_kv_free(&w->pair.self);
    if (!is_static) world_cache(w, &w->pair.self, 0, 0);
    rig_new(ctx, &w->r, &kinds[mamba ? 4 : 1]);
    w->x = tfb_view3(t_floats(2 * 3 * 48), TFB_F32, 2, 3, w->r.block.channels);
    w->z = with_data(w->x, t_floats(2 * 3 * 48));
    bytes = (tfb_idx)tfb_mixer_state_bytes(&w->r.block, 2, 20);
    w->mem[2] = bytes_new((size_t)bytes);
    CHECK_OK(ctx, tfb_mixer_state_init(ctx, &w->state, &w->r.block, 2, 20, w->mem[2],
                                       (size_t)bytes));
    CHECK_OK(ctx, do_step(w));
}

static void world_free(world *w) {
    int i;
    tfb_tensor_free(w->ctx, &w->t);
    tfb_kv_pair_free(&w->pair);
    tfb_mixer_state_free(&w->state);
    tfb_mixer_state_free(&w->other);
    rig_free(&w->r);
    for (i = 0; i < 3; i++) free(w->mem[i]);
    free(w->save), free(w->key.data), free(w->value.data), free(w->q.data);
    free(w->y.data), free(w->x.data), free(w->z.data);
}

/* Everything a failure must leave alone. */
typedef struct shot {
    snapshot self, cross;
    char *rest;
    size_t bytes;
} shot;

static size_t world_bytes(const world *w, char *to) {
    const void *const from[] = {w->y.data, w->z.data, w->mem[2],       &w->state,
                                &w->other, &w->t,     &w->ctx->workers};
    const size_t sizes[] = {192,
                            2 * 3 * 48 * 4,
                            tfb_mixer_state_bytes(&w->r.block, 2, 20),
                            sizeof w->state,
                            sizeof w->other,
                            sizeof w->t,
                            sizeof(int)};
    size_t n = 0;
    int i;
    for (i = 0; i < COUNT(sizes); i++) {
        if (to) memcpy(to + n, from[i], sizes[i]);
        n += sizes[i];
    }
    return n;
}

static shot world_shot(const world *w) {
    shot s;
    s.self = snap(&w->pair.self);
    s.cross = snap(&w->pair.cross);
    s.bytes = world_bytes(w, NULL);
    s.rest = (char *)bytes_new(s.bytes);
    world_bytes(w, s.rest);
    return s;
}

static void world_same(const world *w, shot *s, const char *what) {
    char *now = (char *)bytes_new(s->bytes);
    world_bytes(w, now);
    unchanged(&w->pair.self, &s->self, what);
    unchanged(&w->pair.cross, &s->cross, what);
    CHECK(!memcmp(now, s->rest, s->bytes), "%s changed an output or a state", what);
    free(now);
    free(s->rest);
}

static void shot_free(shot *s) {
    free(s->self.mem), free(s->cross.mem), free(s->rest);
}

/* --- Allocations. --- */
static long starve(const deed *d, long nth, int mamba) {
    t_heap heap;
    tfb_ctx ctx;
    world w;
    shot before;
    tfb_status got;
    long failed;
    t_ctx(&ctx, &heap);
    world_new(&w, &ctx, 0, mamba);
    while (ctx.block) tfb__block_pop(&ctx); /* scratch is to be allocated anew */
    before = world_shot(&w);
    heap.fail_at = heap.calls + nth;
    got = d->run(&w);
    failed = heap.calls >= heap.fail_at;
    heap.fail_at = 0;
    if (got != TFB_OK) {
        CHECK(got == TFB_ERR_MEMORY && failed && ctx.message[0], "%s: %d %s", d->name,
              (int)got, ctx.message);
        world_same(&w, &before, d->name);
        CHECK_OK(&ctx, d->run(&w));
    } else shot_free(&before);
    world_free(&w);
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%s, allocation %ld: %ld blocks are lost", d->name, nth,
          heap.live);
    return failed;
}

static void test_allocations(void) {
    const deed *d;
    int mamba;
    for (d = deeds; d < deeds + COUNT(deeds); d++) {
        long all = 0, nth;
        for (mamba = 0; mamba < 2; mamba++)
            for (nth = 1; starve(d, nth, mamba) && nth < 99; nth++) all++;
        CHECK(all > 0, "%s allocates nothing", d->name);
        printf("%s: %ld failures\n", d->name, all);
    }
}

/* --- Static contexts. --- */
static size_t world_need(world *w, const deed *d) {
    tfb_ctx measure, *ctx = w->ctx;
    shot before = world_shot(w);
    tfb_ctx_init_measure(&measure);
    measure.isa = ctx->isa;
    w->ctx = &measure;
    CHECK_OK(&measure, d->run(w));
    w->ctx = ctx;
    world_same(w, &before, "measuring");
    return measure.scratch_last;
}

/* Returns the bytes the call needs. */
static size_t too_small(const deed *d, int mamba) {
    char *room, *mem;
    tfb_ctx ctx, roomy;
    char text[40];
    size_t need;
    shot before;
    world w;
    room = (char *)bytes_new(1 << 20);
    t_ctx(&ctx, NULL);
    CHECK_OK(&roomy, tfb_ctx_init_static(&roomy, room, 1 << 20));
    roomy.isa = ctx.isa;
    world_new(&w, &roomy, 1, mamba);
    need = world_need(&w, d);
    mem = (char *)bytes_new(need - !!need);
    CHECK_OK(&ctx, tfb_ctx_init_static(&ctx, mem, need - !!need));
    ctx.isa = roomy.isa;
    before = world_shot(&w);
    w.ctx = &ctx;
    snprintf(text, sizeof text, "needs %ld", (long)need);
    if (need) CHECK_FAILS(&ctx, TFB_ERR_SCRATCH, text, d->run(&w));
    world_same(&w, &before, d->name);
    free(mem);
    mem = (char *)bytes_new(need);
    CHECK_OK(&ctx, tfb_ctx_init_static(&ctx, mem, need));
    ctx.isa = roomy.isa;
    CHECK_OK(&ctx, d->run(&w));
    w.ctx = &roomy;
    world_free(&w);
    free(mem);
    free(room);
    return need;
}

static void test_scratch_too_small(void) {
    const deed *d;
    for (d = deeds; d < deeds + COUNT(deeds); d++)
        if (d->scratch)
            CHECK(too_small(d, 0) + too_small(d, 1), "%s takes no scratch", d->name);
}

int main(void) {
    RUN(test_allocations);
    RUN(test_scratch_too_small);
    FINISH();
}
