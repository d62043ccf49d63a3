/* Section [3]: KV caches. The same operations on a dynamic and on a static cache, which
 * has another instruction set: where both succeed they hold the same rows and attend with
 * the same bits; what fails changes nothing. */
enum { KV_MOST = 130 };

typedef struct kv_rig {
    tfb_ctx *ctx[2];
    tfb_kv kv[2];
    int is[2]; /* still in step */
    void *mem;
    tfb_kv_opts opts;
} kv_rig;

/* No more than a megabyte at once: rows far behind the last are not worth it. */
static void *kv_alloc(void *user, void *ptr, size_t bytes) {
    return bytes > (size_t)1 << 20 ? NULL : t_alloc(user, ptr, bytes);
}

static void kv_options(fuzz *f, tfb_kv_opts *o) {
    static const tfb_idx windows[] = {0, 0, 1, 3, 16, 63, 64, 70};
    const int b = fuzz_byte(f);
    memset((void *)o, 0, sizeof *o);
    o->layers = 1 + b % 2;
    o->dtype = (tfb_dtype)(b / 2 % 3);
    o->ragged = b / 8 % 2;
    o->once = b / 16 % 8 == 7;
    o->shape = shape_of(fuzz_in(f, 1, 4), fuzz_in(f, 1, 2), fuzz_in(f, 1, 5),
                        fuzz_in(f, 0, 3), fuzz_in(f, 1, KV_MOST));
    o->shape.window = windows[fuzz_byte(f) % 8];
    if (o->shape.window) {
        o->shape.pinned = fuzz_in(f, 0, 2) * fuzz_in(f, 0, 33);
        o->shape.chunk = fuzz_in(f, 0, 70);
    }
}

static int kv_begin(fuzz *f, kv_rig *r) {
    static tfb_ctx fixed;
    static t_heap heap;
    size_t bytes;
    if (!fixed.isa) {
        t_ctx(&fixed, &heap);
        CHECK_OK(&fixed, tfb_isa_force(&fixed, "scalar"));
    }
    kv_options(f, &r->opts);
    r->ctx[0] = &op_rig_get()->hosted;
    r->ctx[0]->alloc = kv_alloc;
    r->ctx[1] = &fixed;
    op_workers(op_rig_get(), r->ctx[0], 1 + fuzz_byte(f) % 3);
    bytes = tfb_kv_bytes(&r->opts);
    r->mem = op_bytes(bytes);
    memset(r->mem, 0x7F, bytes);
    r->is[0] = tfb_kv_init(r->ctx[0], &r->kv[0], &r->opts) == TFB_OK;
    r->is[1] = tfb_kv_init_static(&fixed, &r->kv[1], &r->opts, r->mem, bytes) == TFB_OK;
    CHECK(r->is[0] == r->is[1] && (bytes > 0) == r->is[1], "one of two kinds");
    return r->is[0] && r->is[1];
}

/* One call: arguments are drawn once, used for both caches. */
typedef struct kv_call {
    int what, layer;
    tfb_tensor key, value, ints, q, y[2];
    tfb_idx n[4];
    tfb_kv_update_opts update;
    tfb_attention_opts attention;
    tfb_rope_opts rope;
    char *save;
    size_t save_bytes;
} kv_call;

static tfb_tensor kv_floats(tfb_tensor t, fuzz *f) { /* of that shape, in some layout */
    op_call c;
    memset((void *)&c, 0, sizeof c);
    c.n = 1;
    c.t[0] = t;
    if (fuzz_byte(f) % 4 == 0) fuzz_layout(f, &c.t[0], 2);
    op_alloc(&c);
    t = c.t[0];
    if (!t.data) free(c.mem[0]); /* else it begins there and is freed by it */
    free(c.first[0]);
    return t;
}

static tfb_tensor kv_ints(fuzz *f, int n, int ndim) {
    int32_t *mem = (int32_t *)op_bytes((size_t)n * 4);
    tfb_tensor t = tfb_view1(mem, TFB_I32, n);
    int i;
    for (i = 0; i < n; i++) {
        const int b = fuzz_byte(f);
        mem[i] = b < 200 ? b % 5 : b < 250 ? b - 150 : b == 255 ? INT32_MAX : b - 254;
    }
    if (ndim == 2) t = tfb_view2(mem, TFB_I32, n, 1);
    if (ndim == 0) t.ndim = 0;
    return t;
}

static kv_call kv_draw(fuzz *f, const kv_rig *r) {
    const tfb_kv_shape *s = &r->opts.shape;
    const int b = fuzz_byte(f), odd = fuzz_byte(f);
    tfb_idx B, T, H;
    kv_call c;
    memset((void *)&c, 0, sizeof c);
    c.what = b % 20;
    c.layer = odd % 32 == 31 ? 7 : odd % r->opts.layers;
    B = tfb_kv_batch(&r->kv[0],
                     c.layer); /* a static layer has a maximum from the start */
    if (!B) B = fuzz_in(f, 1, s->batch);
    else if (odd / 32 == 7) B = fuzz_in(f, 1, s->batch + 1);
    T = odd / 32 == 6 ? fuzz_in(f, 0, 140) : fuzz_in(f, 0, 5);
    H = s->kv_heads * fuzz_in(f, 1, 2);
    if (odd / 32 == 5) T = 1;
    c.n[0] = fuzz_byte(f) % 8 ? fuzz_in(f, 0, 12) - 4 : fuzz_any(f);
    c.n[1] = fuzz_in(f, 0, 5);
    c.n[2] = fuzz_byte(f) % 8 ? fuzz_in(f, 0, 80) : fuzz_any(f);
    c.n[3] = fuzz_byte(f) % 8 ? fuzz_in(f, 0, 9) - 4 : fuzz_any(f);
    t_seed = fuzz_word(f);
    c.ints = kv_ints(f, (int)(c.what == 2 && b & 32 ? T : b & 64 ? 1 : B), b >> 7);
    c.key = kv_floats(tfb_view4(NULL, TFB_F32, B, s->kv_heads, T, s->head_dim), f);
    c.value = kv_floats(
        tfb_view4(NULL, TFB_F32, B, s->kv_heads, T, s->v_dim ? s->v_dim : s->head_dim),
        f);
    c.q = kv_floats(tfb_view4(NULL, TFB_F32, B, H, T, s->head_dim), f);
    for (H = 0; H < 2; H++)
        c.y[H] =
            tfb_view4(op_bytes(4 * (size_t)(B * c.q.shape[1] * T * c.value.shape[3])),
                      TFB_F32, B, c.q.shape[1], T, c.value.shape[3]);
    c.attention.causal = (tfb_causal)(c.n[1] % 3);
    if (c.n[1] > 2) c.attention.window = c.n[2];
    if (c.n[1] == 4) c.attention.offset_set = 1, c.attention.offset = c.n[0];
    return c;
}

static void kv_drop(kv_call *c) {
    free(c->key.data);
    free(c->value.data);
    free(c->ints.data);
    free(c->q.data);
    free(c->y[0].data);
    free(c->y[1].data);
    free(c->save);
}

static tfb_status kv_change(tfb_ctx *ctx, tfb_kv *kv, kv_call *c) {
    const tfb_tensor *each = c->n[1] & 1 ? &c->ints : NULL;
    memset((void *)&c->update, 0, sizeof c->update);
    switch (c->what) {
    case 2:
        if (c->n[1] & 1) c->update.counts = &c->ints;
        else c->update.positions = &c->ints;
        return tfb_kv_update(ctx, kv, c->layer, &c->key, &c->value, &c->update);
    case 3: return tfb_kv_crop(ctx, kv, c->n[0], each);
    case 4: return tfb_kv_keep_last(ctx, kv, c->n[0], each);
    case 5: return tfb_kv_select(ctx, kv, &c->ints);
    case 6: return tfb_kv_repeat_interleave(ctx, kv, c->n[0]);
    case 7: return tfb_kv_fork(ctx, kv, c->n[0], c->n[1]);
    case 8: return tfb_kv_shift(ctx, kv, c->n[0], c->n[1], c->n[2], c->n[3], &c->rope);
    case 9: return tfb_kv_mark(ctx, kv);
    case 10: return tfb_kv_rollback(ctx, kv, each);
    case 11: tfb_kv_commit(kv); return TFB_OK;
    case 12:
        if (c->n[1] == 5) tfb_kv_reset(kv);
        return TFB_OK;
    default: return tfb_kv_append(ctx, kv, c->layer, &c->key, &c->value);
    }
}

static tfb_status kv_do(tfb_ctx *ctx, tfb_kv *kv, kv_call *c, int which) {
    if (c->what == 13 && c->save) return tfb_kv_load(ctx, kv, c->save, c->save_bytes);
    if (c->what >= 14 && c->what <= 15)
        return tfb_kv_attention(ctx, kv, c->layer, &c->q, &c->attention, &c->y[which]);
    return kv_change(ctx, kv, c);
}

/* Saves cache 0, changes bytes of it and, often, makes the sum right again. */
static void kv_save(fuzz *f, kv_rig *r, kv_call *c) {
    const int b = fuzz_byte(f);
    int i;
    uint64_t sum;
    c->save_bytes = tfb_kv_save_bytes(&r->kv[0]);
    c->save = (char *)op_bytes(c->save_bytes);
    CHECK_OK(r->ctx[0], tfb_kv_save(r->ctx[0], &r->kv[0], c->save, c->save_bytes));
    for (i = 0; i < b % 4; i++) {
        const size_t at = fuzz_word(f) % c->save_bytes;
        c->save[b & 4 ? at : 32 + 8 * (at % 12) % (c->save_bytes - 32)] =
            (char)fuzz_byte(f);
    }
    if (b & 8) c->save_bytes -= (size_t)fuzz_byte(f) % c->save_bytes;
    if (c->save_bytes < 32 || !(b & 16)) return;
    for (i = 0; i < 8; i++) c->save[24 + i] = (char)(c->save_bytes >> (8 * i) & 255);
    sum = tfb__kv_sum(c->save + 24, c->save_bytes - 24);
    for (i = 0; i < 8; i++) c->save[16 + i] = (char)(sum >> (8 * i) & 255);
}

/* All rows of all layers of both are the same. */
static void kv_same(kv_rig *r) {
    int layer;
    for (layer = 0; layer < r->opts.layers && t_bad == 0; layer++) {
        rows a = rows_of(r->ctx[0], &r->kv[0], layer);
        rows b = rows_of(r->ctx[1], &r->kv[1], layer);
        CHECK(a.key.ndim == b.key.ndim, "one of the two is touched");
        if (a.key.ndim == 4 && b.key.ndim == 4) {
            CHECK(same_rows(&a.key, &b.key, 0, b.key.shape[2]), "keys differ");
            CHECK(same_rows(&a.value, &b.value, 0, b.key.shape[2]), "values differ");
        }
        rows_free(&a);
        rows_free(&b);
    }
}

static void kv_step(fuzz *f, kv_rig *r) {
    kv_call c = kv_draw(f, r);
    tfb_status got[2] = {TFB_OK, TFB_OK};
    int i;
    if (c.what == 13) kv_save(f, r, &c);
    for (i = 0; i < 2; i++) {
        snapshot before;
        if (!r->is[i]) continue;
        before = snap(&r->kv[i]);
        got[i] = kv_do(r->ctx[i], &r->kv[i], &c, i);
        if (got[i] != TFB_OK) {
            CHECK(r->ctx[i]->message[0], "no message of %d", (int)got[i]);
            unchanged(&r->kv[i], &before, r->ctx[i]->message);
        } else free(before.mem);
    }
    if (r->is[0] && r->is[1]) {
        const int full = (got[1] == TFB_ERR_FULL && got[0] == TFB_OK) ||
                         (got[0] == TFB_ERR_MEMORY && c.what == 2);
        CHECK(full || (got[0] == TFB_OK) == (got[1] == TFB_OK), "%d: %d %s | %d %s",
              c.what, (int)got[0], r->ctx[0]->message, (int)got[1], r->ctx[1]->message);
        if ((got[0] == TFB_OK) != (got[1] == TFB_OK)) r->is[1] = 0;
        else kv_same(r);
        if (r->is[1] && got[0] == TFB_OK && c.what >= 14 && c.what <= 15)
            CHECK_BITS((float *)c.y[0].data, (float *)c.y[1].data, tfb_numel(&c.y[0]),
                       "attention");
    }
    kv_drop(&c);
}

static void fuzz_kv(fuzz *f) {
    kv_rig r;
    int steps;
    memset((void *)&r, 0, sizeof r);
    if (kv_begin(f, &r))
        for (steps = 0; steps < 16 && f->at < f->end && t_bad == 0; steps++)
            kv_step(f, &r);
    tfb_kv_free(&r.kv[0]);
    tfb_kv_free(&r.kv[1]);
    op_rig_empty(); /* so that all memory is counted */
    free(r.mem);
    CHECK(op_rig_get()->heap.live == 0, "%ld blocks are still there",
          op_rig_get()->heap.live);
}
