/* cache.h - what the tests of KV caches share: caches of every kind, rows to feed them
 * with, what they hold, and a copy of all they consist of. */
#ifndef CACHE_H
#define CACHE_H

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

enum { DYNAMIC, STATIC, RING, STATIC_RING, KINDS };
#define IS_STATIC(kind) ((kind)&1)
#define IS_RING(kind)   ((kind) >> 1 & 1)
static const char *const kind_names[] = {"dynamic", "static", "ring", "static ring"};

TFB__UNUSED static const tfb_dtype kv_dtypes[] = {TFB_F32, TFB_F16, TFB_BF16};

/* --- Rows: N tokens of key and value, made beforehand, appended in pieces. --- */
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

TFB__UNUSED static rows rows_new(tfb_idx B, tfb_idx G, tfb_idx N, tfb_idx D, tfb_idx Dv,
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

TFB__UNUSED static tfb_status feed(tfb_ctx *ctx, tfb_kv *kv, int layer, const rows *r,
                                   tfb_idx from, tfb_idx n) {
    const rows piece = rows_slice(ctx, r, from, n);
    return tfb_kv_append(ctx, kv, layer, &piece.key, &piece.value);
}

static float at4(const tfb_tensor *t, tfb_idx b, tfb_idx g, tfb_idx i, tfb_idx d) {
    return ((const float *)t->data)[b * t->stride[0] + g * t->stride[1] +
                                    i * t->stride[2] + d * t->stride[3]];
}

/* What a layer holds, as F32; ndim is 0 if it has never been touched. */
static rows rows_of(tfb_ctx *ctx, const tfb_kv *kv, int layer) {
    rows r;
    tfb_tensor *t[2];
    int i;
    memset((void *)&r, 0, sizeof r);
    t[0] = &r.key, t[1] = &r.value;
    CHECK_OK(ctx, tfb_kv_get(ctx, kv, layer, &r.key, &r.value));
    for (i = 0; i < 2 && r.key.ndim == 4; i++) {
        CHECK(t[i]->dtype == kv->dtype, "the dtype of get is %d", (int)t[i]->dtype);
        r.mem[i] = t_floats(tfb_numel(t[i]));
        *t[i] = tfb_view4(r.mem[i], TFB_F32, t[i]->shape[0], t[i]->shape[1],
                          t[i]->shape[2], t[i]->shape[3]);
    }
    if (r.key.ndim == 4) CHECK_OK(ctx, tfb_kv_get(ctx, kv, layer, &r.key, &r.value));
    return r;
}

/* Rows from .. from + n - 1 of want are what got consists of. */
TFB__UNUSED static int same_rows(const tfb_tensor *got, const tfb_tensor *want,
                                 tfb_idx from, tfb_idx n) {
    tfb_idx b, g, i, d;
    int same = got->ndim == 4 && got->dtype == TFB_F32 && got->shape[2] == n;
    for (i = 0; i < 4; i++) same = same && (i == 2 || got->shape[i] == want->shape[i]);
    for (b = 0; same && b < want->shape[0]; b++)
        for (g = 0; g < want->shape[1]; g++)
            for (i = 0; i < n; i++)
                for (d = 0; d < want->shape[3]; d++) {
                    const float x = at4(got, b, g, i, d),
                                y = at4(want, b, g, from + i, d);
                    same = same && t_differ(&x, &y, 1) == 1;
                }
    return same;
}

/* The layer holds exactly tokens from .. from + n - 1 of r. */
TFB__UNUSED static void holds_from(tfb_ctx *ctx, const tfb_kv *kv, int layer,
                                   const rows *r, tfb_idx from, tfb_idx n) {
    rows got = rows_of(ctx, kv, layer);
    CHECK(tfb_kv_length(kv, layer) == n, "length %ld, wanted %ld",
          (long)tfb_kv_length(kv, layer), (long)n);
    CHECK(tfb_kv_capacity(kv, layer) >= n, "capacity %ld below %ld rows",
          (long)tfb_kv_capacity(kv, layer), (long)n);
    CHECK(same_rows(&got.key, &r->key, from, n), "key of layer %d, %ld rows", layer,
          (long)n);
    CHECK(same_rows(&got.value, &r->value, from, n), "value of layer %d, %ld rows", layer,
          (long)n);
    rows_free(&got);
}

TFB__UNUSED static void holds(tfb_ctx *ctx, const tfb_kv *kv, int layer, const rows *r,
                              tfb_idx n) {
    holds_from(ctx, kv, layer, r, 0, n);
}

/* --- All that a cache consists of: a failure must not change a byte. --- */
typedef struct snapshot {
    size_t bytes, room;
    char *mem;
} snapshot;

static void snap_add(snapshot *s, const void *p, size_t bytes) {
    if (s->bytes + bytes > s->room) {
        s->room = 2 * (s->bytes + bytes);
        s->mem = (char *)realloc(s->mem, s->room);
        if (!s->mem) exit(99);
    }
    if (bytes) memcpy(s->mem + s->bytes, p, bytes);
    s->bytes += bytes;
}

/* Layers with their list of spare pages, rows, tables of pages, the pages themselves. */
static snapshot snap(const tfb_kv *kv) {
    snapshot s = {0, 0, NULL};
    tfb_idx b, p;
    int i;
    snap_add(&s, kv, sizeof *kv);
    if (kv->is_static) snap_add(&s, kv->mem, kv->mem_bytes);
    if (kv->layer) snap_add(&s, kv->layer, (size_t)kv->layers * sizeof *kv->layer);
    for (i = 0; i < (kv->is_static || !kv->layer ? 0 : kv->layers); i++) {
        const tfb_kv_layer *l = kv->layer + i;
        for (b = 0; b < l->rows; b++) {
            snap_add(&s, l->row + b, sizeof *l->row);
            snap_add(&s, l->row[b].pages, (size_t)l->pages * sizeof(char *));
            for (p = 0; p < l->pages; p++)
                if (l->row[b].pages[p])
                    snap_add(&s, l->row[b].pages[p], (size_t)l->page_bytes);
        }
    }
    return s;
}

/* Compares and frees; 1 if nothing changed. */
static int unchanged(const tfb_kv *kv, snapshot *before, const char *what) {
    snapshot now = snap(kv);
    const int same =
        now.bytes == before->bytes && !memcmp(now.mem, before->mem, now.bytes);
    CHECK(same, "the cache changed: %s", what);
    free(now.mem);
    free(before->mem);
    before->mem = NULL;
    return same;
}

/* --- Caches. --- */
static tfb_kv_shape shape_of(tfb_idx B, tfb_idx G, tfb_idx D, tfb_idx Dv,
                             tfb_idx tokens) {
    tfb_kv_shape s;
    memset(&s, 0, sizeof s);
    s.batch = B;
    s.kv_heads = G;
    s.head_dim = D;
    s.v_dim = Dv;
    s.max_tokens = tokens;
    return s;
}

/* Rings get a window of all tokens; chunk lets them arrive at once. */
TFB__UNUSED static tfb_kv_opts opts_of(int kind, int layers, tfb_kv_shape s) {
    tfb_kv_opts o;
    memset(&o, 0, sizeof o);
    o.layers = layers;
    o.shape = s;
    if (IS_RING(kind)) o.shape.window = o.shape.chunk = s.max_tokens;
    return o;
}

/* A cache of either kind; returns a static one's memory, of exactly its size. */
TFB__UNUSED static void *cache_new(tfb_ctx *ctx, tfb_kv *kv, int is_static,
                                   const tfb_kv_opts *o) {
    void *mem = NULL;
    if (is_static) {
        const size_t bytes = tfb_kv_bytes(o);
        mem = malloc(bytes + !bytes);
        if (!mem) exit(99);
        memset(mem, 0x7F, bytes);
        CHECK_OK(ctx, tfb_kv_init_static(ctx, kv, o, mem, bytes));
    } else CHECK_OK(ctx, tfb_kv_init(ctx, kv, o));
    return mem;
}
#endif
