/* KV caches: every tensor, number and option of every call wrong in turn, scratch that is
 * too small, measuring: nothing may change. */
#include "../test.h"
#include "cache.h"

/* The sizes of all calls here. */
enum { B = 2, G = 2, H = 4, T = 3, D = 4, DV = 6, N = 5, TOKENS = 10 };
enum { MOST_ARGS = 3, FLOATS = 512, INTS = 32 };

/* A cache of two layers, the second of which holds N rows, and what is given to calls:
 * tensors in memory that must not change. */
typedef struct bench {
    tfb_ctx ctx;
    t_heap heap;
    tfb_kv kv;
    void *mem;
    float floats[FLOATS];
    int32_t ints[INTS];
    tfb_tensor t[MOST_ARGS];
} bench;

static void bench_new(bench *w, int kind, int ragged) {
    tfb_kv_opts o = opts_of(kind, 2, shape_of(B + 1, G, D, DV, TOKENS));
    rows r = rows_new(B, G, N, D, DV, 0);
    int i;
    memset((void *)w, 0, sizeof *w);
    t_ctx(&w->ctx, &w->heap);
    o.ragged = ragged;
    w->mem = cache_new(&w->ctx, &w->kv, IS_STATIC(kind), &o);
    CHECK_OK(&w->ctx, feed(&w->ctx, &w->kv, 1, &r, 0, N));
    for (i = 0; i < FLOATS; i++) w->floats[i] = t_float();
    rows_free(&r);
}

static void bench_free(bench *w) {
    tfb_kv_free(&w->kv);
    free(w->mem);
    tfb_ctx_free(&w->ctx);
    CHECK(w->heap.live == 0, "%ld blocks leaked", w->heap.live);
}

/* --- The calls. A role has a letter for each extent; lower case ones are of I32. --- */
typedef tfb_status (*run_fn)(bench *w, tfb_tensor **t);

typedef struct call {
    const char *fn;
    run_fn run;
    struct {
        const char *name, *role;
        int optional; /* NULL is legal; 2: so is data NULL */
    } arg[MOST_ARGS];
} call;

static tfb_status run_append(bench *w, tfb_tensor **t) {
    return tfb_kv_append(&w->ctx, &w->kv, 1, t[0], t[1]);
}

static tfb_status run_update(bench *w, tfb_tensor **t) {
    tfb_kv_update_opts o = {0, 0};
    o.positions = t[2];
    return tfb_kv_update(&w->ctx, &w->kv, 1, t[0], t[1], &o);
}

static tfb_status run_counts(bench *w, tfb_tensor **t) {
    tfb_kv_update_opts o = {0, 0};
    o.counts = t[2];
    return tfb_kv_update(&w->ctx, &w->kv, 1, t[0], t[1], &o);
}

static tfb_status run_attention(bench *w, tfb_tensor **t) {
    tfb_attention_opts o = TFB_INIT;
    o.causal = TFB_CAUSAL_BOTTOM_RIGHT;
    o.lse = t[2];
    return tfb_kv_attention(&w->ctx, &w->kv, 1, t[0], &o, t[1]);
}

static tfb_status run_get(bench *w, tfb_tensor **t) {
    return tfb_kv_get(&w->ctx, &w->kv, 1, t[0], t[1]);
}

static tfb_status run_positions(bench *w, tfb_tensor **t) {
    return tfb_kv_positions(&w->ctx, &w->kv, 1, t[0]);
}

static tfb_status run_crop(bench *w, tfb_tensor **t) {
    return tfb_kv_crop(&w->ctx, &w->kv, 99, t[0]);
}

static tfb_status run_keep_last(bench *w, tfb_tensor **t) {
    return tfb_kv_keep_last(&w->ctx, &w->kv, 99, t[0]);
}

static tfb_status run_select(bench *w, tfb_tensor **t) {
    return tfb_kv_select(&w->ctx, &w->kv, t[0]);
}

static tfb_status run_rollback(bench *w, tfb_tensor **t) {
    if (!w->kv.marked) CHECK_OK(&w->ctx, tfb_kv_mark(&w->ctx, &w->kv));
    return tfb_kv_rollback(&w->ctx, &w->kv, t[0]);
}

static const call calls[] = {
    {"tfb_kv_append", run_append, {{"key", "BGTD", 0}, {"value", "BGTV", 0}}},
    {"tfb_kv_update",
     run_update,
     {{"key", "BGTD", 0}, {"value", "BGTV", 0}, {"positions", "bt", 1}}},
    {"tfb_kv_update",
     run_counts,
     {{"key", "BGTD", 0}, {"value", "BGTV", 0}, {"counts", "b", 1}}},
    {"tfb_kv_attention",
     run_attention,
     {{"q", "BHTD", 0}, {"y", "BHTV", 0}, {"lse", "BHT", 1}}},
    {"tfb_kv_get", run_get, {{"key", "BGND", 2}, {"value", "BGNV", 2}}},
    {"tfb_kv_positions", run_positions, {{"positions", "bx", 0}}},
    {"tfb_kv_crop", run_crop, {{"each", "b", 1}}},
    {"tfb_kv_keep_last", run_keep_last, {{"each", "b", 1}}},
    {"tfb_kv_select", run_select, {{"index", "x", 0}}},
    {"tfb_kv_rollback", run_rollback, {{"keep", "b", 1}}},
};

static tfb_idx extent(char letter) {
    switch (letter) {
    case 'B':
    case 'b': return B;
    case 'G': return G;
    case 'H': return H;
    case 'T':
    case 't': return T;
    case 'D': return D;
    case 'V': return DV;
    case 'N': return N;
    default: return 2; /* x: any */
    }
}

/* The tensors of a call, one behind the other in memory, with zeros for numbers. */
static void bench_tensors(bench *w, const call *c) {
    tfb_idx floats = 0, ints = 0;
    int i, d;
    for (i = 0; i < MOST_ARGS && c->arg[i].name; i++) {
        const char *role = c->arg[i].role;
        tfb_tensor *t = w->t + i;
        memset((void *)t, 0, sizeof *t);
        t->ndim = (int)strlen(role);
        t->dtype = role[0] >= 'a' ? TFB_I32 : TFB_F32;
        for (d = t->ndim - 1; d >= 0; d--) {
            t->shape[d] = extent(role[d]);
            t->stride[d] = d == t->ndim - 1 ? 1 : t->stride[d + 1] * t->shape[d + 1];
        }
        if (t->dtype == TFB_I32) t->data = w->ints + ints;
        else t->data = w->floats + floats;
        *(t->dtype == TFB_I32 ? &ints : &floats) += tfb_numel(t);
    }
    CHECK(floats <= FLOATS && ints <= INTS, "the memory is too small");
}

/* The call must fail, and neither cache nor tensors may change. */
static void refused(bench *w, const call *c, int which, tfb_tensor *instead,
                    tfb_status want, const char *text) {
    tfb_tensor *t[MOST_ARGS], copy;
    float floats[FLOATS];
    int32_t ints[INTS];
    snapshot before;
    int i;
    for (i = 0; i < MOST_ARGS; i++) t[i] = c->arg[i].name ? w->t + i : NULL;
    if (which >= 0) t[which] = instead;
    if (c->run == run_rollback && !w->kv.marked)
        CHECK_OK(&w->ctx, tfb_kv_mark(&w->ctx, &w->kv));
    before = snap(&w->kv);
    memcpy(floats, w->floats, sizeof floats);
    memcpy(ints, w->ints, sizeof ints);
    if (instead) copy = *instead;
    CHECK_FAILS(&w->ctx, want, text, c->run(w, t));
    CHECK(!strncmp(w->ctx.message, c->fn, strlen(c->fn)), "\"%s\"", w->ctx.message);
    CHECK(!instead || !memcmp(&copy, instead, sizeof copy), "%s: tensor changed", text);
    CHECK(!memcmp(floats, w->floats, sizeof floats) &&
              !memcmp(ints, w->ints, sizeof ints),
          "%s: %s: memory changed", c->fn, text);
    unchanged(&w->kv, &before, text);
}

/* --- What any tensor can have wrong. --- */
typedef enum field { NIL, NDIM, RANK, EXTENT, STRIDE, DTYPE, DATA, SHIFT } field;
typedef struct spoil {
    field field;
    tfb_idx to;
    tfb_status want;
    const char *text; /* of its name: "the size of %s", "%s.data is NULL" */
} spoil;

static const spoil spoils[] = {
    {NIL, 0, TFB_ERR_ARG, "%s is NULL"},
    {NDIM, TFB_MAX_DIMS + 1, TFB_ERR_SHAPE, "%s.ndim is 7"},
    {NDIM, -1, TFB_ERR_SHAPE, "%s.ndim is -1"},
    {RANK, 1, TFB_ERR_SHAPE, "%s"},
    {RANK, -1, TFB_ERR_SHAPE, "%s"},
    {DTYPE, 99, TFB_ERR_DTYPE, "%s.dtype is 99"},
    {DTYPE, TFB_U8, TFB_ERR_DTYPE, "%s is U8"},
    {DTYPE, TFB_PACKED_F32, TFB_ERR_DTYPE, "%s is PACKED_F32"},
    {DATA, 0, TFB_ERR_ARG, "%s.data is NULL"},
    {SHIFT, 1, TFB_ERR_ARG, "%s.data is not aligned"},
    {EXTENT, -1, TFB_ERR_SHAPE, "%s.shape["},
    {EXTENT, PTRDIFF_MAX, TFB_ERR_RANGE, "the size of %s"},
    {STRIDE, PTRDIFF_MAX, TFB_ERR_RANGE, "the size of %s"},
    {STRIDE, PTRDIFF_MIN, TFB_ERR_RANGE, "the size of %s"},
};

static void spoil_tensor(const spoil *s, tfb_tensor *t, int dim) {
    switch (s->field) {
    case NDIM: t->ndim = (int)s->to; break;
    case RANK:
        t->ndim += (int)s->to;
        if (s->to > 0) t->shape[t->ndim - 1] = t->stride[t->ndim - 1] = 1;
        break;
    case EXTENT: t->shape[dim] = s->to; break;
    case STRIDE: t->stride[dim] = s->to; break;
    case DTYPE: t->dtype = (tfb_dtype)s->to; break;
    case DATA: t->data = NULL; break;
    case SHIFT: t->data = (char *)t->data + s->to; break;
    case NIL: break;
    }
}

static void bad_tensor(bench *w, const call *c, int which) {
    int i, dim;
    for (i = 0; i < COUNT(spoils); i++) {
        const spoil *s = spoils + i;
        const int dims = s->field == EXTENT || s->field == STRIDE;
        if (s->field == NIL && c->arg[which].optional) continue;
        if (s->field == DATA && c->arg[which].optional == 2) continue;
        for (dim = 0; dim < (dims ? w->t[which].ndim : 1); dim++) {
            tfb_tensor bad = w->t[which];
            char text[64];
            spoil_tensor(s, &bad, dim);
            snprintf(text, sizeof text, s->text, c->arg[which].name);
            refused(w, c, which, s->field == NIL ? NULL : &bad, s->want, text);
        }
    }
}

static void bad_tensors(void) {
    static bench w;
    int kind, i, which;
    for (kind = 0; kind < KINDS; kind++) {
        bench_new(&w, kind, 1);
        for (i = 0; i < COUNT(calls); i++) {
            bench_tensors(&w, calls + i);
            for (which = 0; which < MOST_ARGS && calls[i].arg[which].name; which++)
                bad_tensor(&w, calls + i, which);
        }
        bench_free(&w);
    }
}

/* Every extent one more or less than it must be. */
static void bad_extents(void) {
    static bench w;
    int kind, i, which, dim, more;
    for (kind = 0; kind < KINDS; kind++) {
        bench_new(&w, kind, 1);
        for (i = 0; i < COUNT(calls); i++)
            for (which = 0; which < MOST_ARGS && calls[i].arg[which].name; which++) {
                const char *role = calls[i].arg[which].role;
                bench_tensors(&w, calls + i);
                for (dim = 0; role[dim]; dim++)
                    for (more = -1; more < 2 && role[dim] != 'x'; more += 2) {
                        tfb_tensor bad = w.t[which];
                        bad.shape[dim] += more;
                        if (!strcmp(calls[i].arg[which].name, "keep") && more < 0)
                            continue; /* [1] is for all samples */
                        refused(&w, calls + i, which, &bad, TFB_ERR_SHAPE,
                                role[dim] == 'H' ? calls[i].fn : "shape[");
                    }
            }
        bench_free(&w);
    }
}

/* Rows without heads or elements, or of no samples, are no rows. */
static void empty_rows(void) {
    static bench w;
    int kind, dim, layer;
    for (kind = 0; kind < KINDS; kind++) {
        bench_new(&w, kind, 0);
        bench_tensors(&w, calls);
        for (dim = 0; dim < 4; dim++)
            for (layer = 0; layer < 2 && dim != 2; layer++) {
                tfb_tensor key = w.t[0], value = w.t[1];
                snapshot before = snap(&w.kv);
                key.shape[dim] = value.shape[dim] = 0;
                CHECK_FAILS(&w.ctx, TFB_ERR_SHAPE, "tfb_kv_append: ",
                            tfb_kv_append(&w.ctx, &w.kv, layer, &key, &value));
                unchanged(&w.kv, &before, "an empty extent");
            }
        bench_free(&w);
    }
}

/* Rows, indices and outputs in the memory of a static cache; outputs on each other. */
static void overlaps(void) {
    static bench w;
    int kind, i, which;
    for (kind = STATIC; kind < KINDS; kind += 2) {
        bench_new(&w, kind, 1);
        for (i = 0; i < COUNT(calls); i++)
            for (which = 0; which < MOST_ARGS && calls[i].arg[which].name; which++) {
                const char *name = calls[i].arg[which].name;
                tfb_tensor own;
                if (!strcmp(name, "q") || !strcmp(name, "each") || !strcmp(name, "keep"))
                    continue; /* those are only read, before anything is written */
                bench_tensors(&w, calls + i);
                own = w.t[which];
                own.data = (char *)w.mem + w.kv.mem_bytes - 4 * tfb_numel(&own);
                refused(&w, calls + i, which, &own, TFB_ERR_ALIAS, name);
                own.data = w.kv.layer[1].row[0].pages[0];
                if (own.dtype == TFB_F32)
                    refused(&w, calls + i, which, &own, TFB_ERR_ALIAS, name);
            }
        bench_tensors(&w, calls + 4);
        w.t[1].data = w.t[0].data;
        refused(&w, calls + 4, -1, NULL, TFB_ERR_ALIAS, "tfb_kv_get");
        bench_tensors(&w, calls + 3);
        w.t[2].data = w.t[1].data;
        refused(&w, calls + 3, -1, NULL, TFB_ERR_ALIAS, "lse");
        bench_free(&w);
    }
}

/* --- Caches and layers that are none. --- */
/* Call number i with this cache and layer, otherwise right. -1: there is no such call. */
static int call_of(bench *w, tfb_ctx *ctx, tfb_kv *kv, int layer, int i) {
    static char save[4000];
    tfb_rope_opts rope = TFB_INIT;
    tfb_tensor *t = w->t, one = tfb_view1(w->ints, TFB_I32, 1);
    switch (i) { /* the first five have a layer */
    case 0: bench_tensors(w, calls); return (int)tfb_kv_append(ctx, kv, layer, t, t + 1);
    case 1: return (int)tfb_kv_update(ctx, kv, layer, t, t + 1, NULL);
    case 2:
        bench_tensors(w, calls + 3);
        return (int)tfb_kv_attention(ctx, kv, layer, t, NULL, t + 1);
    case 3: bench_tensors(w, calls + 4); return (int)tfb_kv_get(ctx, kv, layer, t, t + 1);
    case 4: bench_tensors(w, calls + 5); return (int)tfb_kv_positions(ctx, kv, layer, t);
    case 5: return (int)tfb_kv_crop(ctx, kv, 99, NULL);
    case 6: return (int)tfb_kv_keep_last(ctx, kv, 99, NULL);
    case 7: return (int)tfb_kv_select(ctx, kv, &one);
    case 8: return (int)tfb_kv_repeat_interleave(ctx, kv, 1);
    case 9: return (int)tfb_kv_fork(ctx, kv, 0, 0);
    case 10: return (int)tfb_kv_shift(ctx, kv, 0, 0, 1, 1, &rope);
    case 11: return (int)tfb_kv_mark(ctx, kv);
    case 12: return (int)tfb_kv_rollback(ctx, kv, NULL);
    case 13: return (int)tfb_kv_save(ctx, kv, save, sizeof save);
    case 14: return (int)tfb_kv_load(ctx, kv, save, sizeof save);
    default: return -99;
    }
}

static void no_cache_no_layer_no_context(void) {
    static const int layers[] = {-1, 2, INT32_MAX, INT32_MIN};
    static bench w;
    int kind, i, k;
    for (kind = 0; kind < KINDS; kind++) {
        snapshot before;
        tfb_kv zero;
        memset((void *)&zero, 0, sizeof zero);
        bench_new(&w, kind, 0);
        before = snap(&w.kv);
        for (i = 0; i < 15; i++) {
            CHECK(call_of(&w, NULL, &w.kv, 1, i) == TFB_ERR_ARG, "%d: no context", i);
            CHECK_FAILS(&w.ctx, TFB_ERR_ARG, "kv is NULL",
                        (tfb_status)call_of(&w, &w.ctx, NULL, 1, i));
            CHECK_FAILS(&w.ctx, TFB_ERR_ARG, "not initialised",
                        (tfb_status)call_of(&w, &w.ctx, &zero, 1, i));
            for (k = 0; k < COUNT(layers) && i < 5; k++)
                CHECK_FAILS(&w.ctx, TFB_ERR_RANGE, "layer is",
                            (tfb_status)call_of(&w, &w.ctx, &w.kv, layers[k], i));
        }
        unchanged(&w.kv, &before, "no layer");
        bench_free(&w);
    }
}

/* --- Numbers. --- */
static void bad_numbers_of_samples(void) {
    static const tfb_idx far[] = {PTRDIFF_MAX, PTRDIFF_MIN, -1, 99};
    static bench w;
    int kind, i;
    for (kind = 0; kind < KINDS; kind++) {
        const int is_static = IS_STATIC(kind);
        int32_t index[] = {0, 1, 0, 1};
        tfb_tensor four = tfb_view1(index, TFB_I32, 4), none = four;
        snapshot before;
        bench_new(&w, kind, 0);
        before = snap(&w.kv);
        none.shape[0] = 0;
        for (i = 0; i < COUNT(far); i++) {
            CHECK_FAILS(&w.ctx, TFB_ERR_RANGE,
                        "tfb_kv_fork: ", tfb_kv_fork(&w.ctx, &w.kv, far[i], 0));
            CHECK_FAILS(&w.ctx, TFB_ERR_RANGE,
                        "tfb_kv_fork: ", tfb_kv_fork(&w.ctx, &w.kv, 0, far[i]));
        }
        CHECK(tfb_kv_repeat_interleave(&w.ctx, &w.kv, 0) != TFB_OK, "0 times");
        CHECK(tfb_kv_repeat_interleave(&w.ctx, &w.kv, -1) != TFB_OK, "-1 times");
        CHECK(tfb_kv_repeat_interleave(&w.ctx, &w.kv, PTRDIFF_MAX) != TFB_OK, "most");
        CHECK(tfb_kv_select(&w.ctx, &w.kv, &none) != TFB_OK, "no samples");
        if (is_static) { /* room for three samples */
            CHECK_FAILS(&w.ctx, TFB_ERR_FULL, "tfb_kv_select",
                        tfb_kv_select(&w.ctx, &w.kv, &four));
            CHECK_FAILS(&w.ctx, TFB_ERR_FULL, "tfb_kv_repeat_interleave",
                        tfb_kv_repeat_interleave(&w.ctx, &w.kv, 2));
        }
        index[3] = 2;
        CHECK(tfb_kv_select(&w.ctx, &w.kv, &four) != TFB_OK, "no third sample");
        index[0] = INT32_MIN;
        CHECK(tfb_kv_select(&w.ctx, &w.kv, &four) != TFB_OK, "no such sample");
        unchanged(&w.kv, &before, "numbers of samples");
        bench_free(&w);
    }
}

/* The largest numbers there are: all is dropped, or nothing. */
static void extreme_crops(void) {
    static const struct {
        tfb_idx n;
        int last, left;
    } cases[] = {{PTRDIFF_MAX, 0, N},  {PTRDIFF_MAX, 1, N}, {PTRDIFF_MIN, 0, 0},
                 {-PTRDIFF_MAX, 0, 0}, {-N, 0, 0},          {1 - N, 0, 1}};
    static bench w;
    int kind, i;
    for (kind = 0; kind < KINDS; kind++)
        for (i = 0; i < COUNT(cases); i++) {
            bench_new(&w, kind, 0);
            CHECK_OK(&w.ctx, (cases[i].last ? tfb_kv_keep_last : tfb_kv_crop)(
                                 &w.ctx, &w.kv, cases[i].n, NULL));
            CHECK(tfb_kv_length(&w.kv, 1) == cases[i].left, "%s: case %d leaves %d",
                  kind_names[kind], i, (int)tfb_kv_length(&w.kv, 1));
            bench_free(&w);
        }
}

/* Positions behind the largest that a tensor of I32 can tell. */
static void positions_end(void) {
    static bench w;
    int kind, i;
    for (kind = RING; kind < KINDS; kind++) {
        int32_t at = INT32_MAX - 2;
        tfb_tensor where = tfb_view1(&at, TFB_I32, 1);
        tfb_tensor three = tfb_view2(w.ints, TFB_I32, B, 3), one = three, key, value;
        tfb_kv_update_opts o = {0, 0};
        snapshot before;
        bench_new(&w, kind, 0);
        bench_tensors(&w, calls);
        key = w.t[0], value = w.t[1];
        key.shape[2] = value.shape[2] = 1;
        o.positions = &where;
        CHECK_OK(&w.ctx, tfb_kv_update(&w.ctx, &w.kv, 1, &key, &value, &o));
        before = snap(&w.kv);
        one.shape[1] = 1;
        CHECK_OK(&w.ctx, tfb_kv_positions(&w.ctx, &w.kv, 1, &one));
        CHECK(w.ints[0] == INT32_MAX - 1 && w.ints[3] == INT32_MAX - 1,
              "the last position");
        memset((void *)w.ints, 0, sizeof w.ints);
        CHECK_FAILS(&w.ctx, TFB_ERR_RANGE, "tfb_kv_positions",
                    tfb_kv_positions(&w.ctx, &w.kv, 1, &three));
        CHECK(w.ints[0] == 0, "a failed call wrote");
        unchanged(&w.kv, &before, "the end of positions");
        for (i = 0; i < 2; i++)
            CHECK_OK(&w.ctx, tfb_kv_append(&w.ctx, &w.kv, 1, &key, &value));
        CHECK_FAILS(&w.ctx, TFB_ERR_RANGE, "tfb_kv_positions",
                    tfb_kv_positions(&w.ctx, &w.kv, 1, &one));
        bench_free(&w);
    }
}

static void bad_shifts(void) {
    static const struct {
        tfb_idx b, from, to, delta;
        tfb_status want;
    } bad[] = {
        {-2, 0, 1, 1, TFB_ERR_RANGE},          {B, 0, 1, 1, TFB_ERR_RANGE},
        {0, -1, 1, 1, TFB_ERR_RANGE},          {0, 2, 1, 1, TFB_ERR_RANGE},
        {0, PTRDIFF_MIN, 1, 1, TFB_ERR_RANGE}, {0, 0, 1, PTRDIFF_MAX, TFB_ERR_RANGE},
        {0, 0, 1, PTRDIFF_MIN, TFB_ERR_RANGE}, {0, 0, 1, 1 << 24, TFB_ERR_RANGE},
    };
    static bench w;
    int kind, i;
    for (kind = 0; kind < KINDS; kind++) {
        tfb_rope_opts rope = TFB_INIT, odd = TFB_INIT, wide = TFB_INIT, axes = TFB_INIT;
        snapshot before;
        bench_new(&w, kind, 0);
        odd.dims = 3;
        wide.dims = D + 2;
        axes.axes = 2;
        before = snap(&w.kv);
        for (i = 0; i < COUNT(bad); i++)
            CHECK_FAILS(&w.ctx, bad[i].want, "tfb_kv_shift",
                        tfb_kv_shift(&w.ctx, &w.kv, bad[i].b, bad[i].from, bad[i].to,
                                     bad[i].delta, &rope));
        CHECK_FAILS(&w.ctx, TFB_ERR_ARG, "rope is NULL",
                    tfb_kv_shift(&w.ctx, &w.kv, 0, 0, 1, 1, NULL));
        CHECK(tfb_kv_shift(&w.ctx, &w.kv, 0, 0, 1, 1, &odd) != TFB_OK, "odd dims");
        CHECK(tfb_kv_shift(&w.ctx, &w.kv, 0, 0, 1, 1, &wide) != TFB_OK, "wide dims");
        CHECK(tfb_kv_shift(&w.ctx, &w.kv, 0, 0, 1, 1, &axes) != TFB_OK, "two axes");
        rope.base = -1;
        CHECK(tfb_kv_shift(&w.ctx, &w.kv, 0, 0, 1, 1, &rope) != TFB_OK, "a base of -1");
        unchanged(&w.kv, &before, "shifts");
        bench_free(&w);
    }
}

/* --- Options of attention that the cache knows itself; a layer without rows. --- */
static void bad_attention(void) {
    static bench w;
    int kind, i;
    for (kind = 0; kind < KINDS; kind++) {
        static int32_t ints[8];
        tfb_tensor t = tfb_view1(ints, TFB_I32, B);
        tfb_qk_opts qk = TFB_INIT;
        snapshot before;
        bench_new(&w, kind, 0);
        bench_tensors(&w, calls + 3);
        before = snap(&w.kv);
        for (i = 0; i < 10; i++) {
            tfb_attention_opts o = TFB_INIT;
            o.causal = TFB_CAUSAL_BOTTOM_RIGHT;
            switch (i) {
            case 0: o.kv_start = &t; break;
            case 1: o.kv_len = &t; break;
            case 2: o.cu_q = &t; break;
            case 3: o.cu_k = &t; break;
            case 4: o.pages = &t; break;
            case 5: o.page_skip = 1; break;
            case 6: o.key_pos0 = 1; break;
            case 7: o.key_pos0s = &t; break;
            case 8: o.key_pinned = 1; break;
            default: o.qk = &qk;
            }
            CHECK_FAILS(&w.ctx, TFB_ERR_ARG, "tfb_kv_attention: ",
                        tfb_kv_attention(&w.ctx, &w.kv, 1, w.t, &o, w.t + 1));
        }
        CHECK_FAILS(&w.ctx, TFB_ERR_ARG, "layer 0 holds nothing",
                    tfb_kv_attention(&w.ctx, &w.kv, 0, w.t, NULL, w.t + 1));
        unchanged(&w.kv, &before, "attention");
        bench_free(&w);
    }
}

/* --- Saves. --- */
static void bad_save(void) {
    static bench w;
    int kind;
    for (kind = 0; kind < KINDS; kind++) {
        snapshot before;
        size_t need, i;
        char *mem;
        bench_new(&w, kind, 0);
        before = snap(&w.kv);
        need = tfb_kv_save_bytes(&w.kv);
        mem = (char *)malloc(need);
        if (!mem) exit(99);
        memset(mem, 0x5A, need);
        CHECK_FAILS(&w.ctx, TFB_ERR_ARG, "mem is NULL",
                    tfb_kv_save(&w.ctx, &w.kv, NULL, need));
        CHECK_FAILS(&w.ctx, TFB_ERR_RANGE, "mem_bytes is",
                    tfb_kv_save(&w.ctx, &w.kv, mem, need - 1));
        CHECK_FAILS(&w.ctx, TFB_ERR_RANGE, "mem_bytes is",
                    tfb_kv_save(&w.ctx, &w.kv, mem, 0));
        for (i = 0; i < need; i++) CHECK(mem[i] == 0x5A, "a failed save wrote");
        CHECK_FAILS(&w.ctx, TFB_ERR_ARG, "mem is NULL",
                    tfb_kv_load(&w.ctx, &w.kv, NULL, need));
        unchanged(&w.kv, &before, "save");
        free(mem);
        bench_free(&w);
    }
}

/* --- Scratch. --- */
/* Changing call number i; each needs scratch, or none. */
static tfb_status changing(tfb_ctx *ctx, tfb_kv *kv, int i) {
    static int32_t index[] = {1, 0, 1};
    static float mem[2][B * H * T * DV];
    const tfb_tensor three = tfb_view1(index, TFB_I32, 3);
    const tfb_tensor q = tfb_view4(mem[0], TFB_F32, B, H, T, D);
    tfb_tensor y = tfb_view4(mem[1], TFB_F32, B, H, T, DV);
    tfb_rope_opts rope = TFB_INIT;
    switch (i) {
    case 0: return tfb_kv_attention(ctx, kv, 1, &q, NULL, &y);
    case 1: return tfb_kv_select(ctx, kv, &three);
    case 2: return tfb_kv_repeat_interleave(ctx, kv, 1);
    case 3: return tfb_kv_fork(ctx, kv, 0, 1);
    case 4: return tfb_kv_shift(ctx, kv, -1, 0, N, 3, &rope);
    case 5: return tfb_kv_mark(ctx, kv);
    case 6: return tfb_kv_crop(ctx, kv, 4, NULL);
    case 7: return tfb_kv_keep_last(ctx, kv, 3, NULL);
    default: return tfb_kv_rollback(ctx, kv, NULL);
    }
}

/* What was measured, less one byte, is too little; all of it is enough. */
static void scratch_is_what_was_measured(void) {
    static double memory[20000];
    char *mem = (char *)memory + (64 - (uintptr_t)memory % 64) % 64;
    static bench w;
    int kind, i, asked = 0;
    for (kind = 0; kind < KINDS; kind++)
        for (i = 0; i < 8; i++) {
            tfb_ctx measure, fixed;
            snapshot before;
            size_t need;
            bench_new(&w, kind, 0);
            CHECK_OK(&measure, tfb_ctx_init_measure(&measure));
            CHECK_OK(&measure, tfb_isa_force(&measure, tfb_isa_name(&w.ctx)));
            before = snap(&w.kv);
            CHECK_OK(&measure, changing(&measure, &w.kv, i));
            unchanged(&w.kv, &before, "measured");
            need = measure.scratch_last;
            asked += need > 0;
            CHECK(need < sizeof memory - 64, "%zu bytes", need);
            if (need) {
                before = snap(&w.kv);
                CHECK_OK(&fixed, tfb_ctx_init_static(&fixed, mem, need - 1));
                CHECK_OK(&fixed, tfb_isa_force(&fixed, tfb_isa_name(&w.ctx)));
                CHECK_FAILS(&fixed, TFB_ERR_SCRATCH, "tfb_kv_",
                            changing(&fixed, &w.kv, i));
                unchanged(&w.kv, &before, "too little scratch");
                tfb_ctx_free(&fixed);
            }
            CHECK_OK(&fixed, tfb_ctx_init_static(&fixed, mem, need));
            CHECK_OK(&fixed, tfb_isa_force(&fixed, tfb_isa_name(&w.ctx)));
            CHECK_OK(&fixed, changing(&fixed, &w.kv, i));
            tfb_ctx_free(&fixed);
            tfb_ctx_free(&measure);
            bench_free(&w);
        }
    CHECK(asked >= 3 * KINDS, "only %d calls need scratch", asked);
}

static void measuring_touches_nothing(void) {
    static bench w;
    int kind;
    for (kind = 0; kind < KINDS; kind++) {
        tfb_ctx measure;
        tfb_tensor none = tfb_view4(NULL, TFB_F32, B, G, T, D), value = none;
        tfb_tensor at = tfb_view2(NULL, TFB_I32, B, T);
        tfb_kv_update_opts o = {0, 0};
        snapshot before;
        bench_new(&w, kind, 1);
        CHECK_OK(&measure, tfb_ctx_init_measure(&measure));
        before = snap(&w.kv);
        value.shape[3] = DV;
        o.positions = &at;
        CHECK_OK(&measure, tfb_kv_append(&measure, &w.kv, 1, &none, &value));
        CHECK_OK(&measure, tfb_kv_append(&measure, &w.kv, 0, &none, &value));
        CHECK_OK(&measure, tfb_kv_update(&measure, &w.kv, 1, &none, &value, &o));
        CHECK_FAILS(&measure, TFB_ERR_SHAPE, "value.shape[3] is 4, needs 6",
                    tfb_kv_append(&measure, &w.kv, 1, &none, &none));
        CHECK_OK(&measure, tfb_kv_positions(&measure, &w.kv, 1, &at));
        unchanged(&w.kv, &before, "measured");
        tfb_ctx_free(&measure);
        bench_free(&w);
    }
}

int main(void) {
    RUN(bad_tensors);
    RUN(bad_extents);
    RUN(empty_rows);
    RUN(overlaps);
    RUN(no_cache_no_layer_no_context);
    RUN(bad_numbers_of_samples);
    RUN(extreme_crops);
    RUN(positions_end);
    RUN(bad_shifts);
    RUN(bad_attention);
    RUN(bad_save);
    RUN(scratch_is_what_was_measured);
    RUN(measuring_touches_nothing);
    FINISH();
}
