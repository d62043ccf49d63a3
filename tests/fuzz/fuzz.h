/* fuzz.h - what the fuzz targets share: a reader of the input's bytes, and calls from the
 * table of ops.h whose extents, strides, dtypes and options are drawn from them. */
#ifndef FUZZ_H
#define FUZZ_H

typedef struct fuzz {
    const uint8_t *at, *end;
} fuzz;

/* Past the end everything is 0: short inputs mean simple calls. */
static int fuzz_byte(fuzz *f) {
    return f->at < f->end ? *f->at++ : 0;
}

static tfb_idx fuzz_in(fuzz *f, tfb_idx lo, tfb_idx hi) {
    return lo + fuzz_byte(f) % (hi - lo + 1);
}

static uint32_t fuzz_word(fuzz *f) {
    const int low = fuzz_byte(f);
    return (uint32_t)(low | fuzz_byte(f) << 8);
}

/* Mostly a small extent, sometimes one at the edges of tiles, blocks and lanes. */
static tfb_idx fuzz_extent(fuzz *f) {
    static const tfb_idx edges[] = {7,   8,   9,   15,  16,  17,  23,   24,
                                    31,  32,  33,  47,  48,  63,  64,   65,
                                    100, 129, 255, 256, 257, 300, 1023, 1025};
    const int b = fuzz_byte(f);
    return b < 200 ? b % 7 : edges[b % 24];
}

static tfb_idx fuzz_any(fuzz *f) { /* what nobody means */
    static const tfb_idx any[] = {0,
                                  1,
                                  2,
                                  3,
                                  -1,
                                  -2,
                                  -3,
                                  17,
                                  64,
                                  4096,
                                  (tfb_idx)1 << 30,
                                  PTRDIFF_MAX,
                                  PTRDIFF_MAX - 1,
                                  PTRDIFF_MAX / 2,
                                  PTRDIFF_MAX / 4 + 1,
                                  PTRDIFF_MAX / 8,
                                  PTRDIFF_MIN,
                                  PTRDIFF_MIN + 1,
                                  PTRDIFF_MIN / 2,
                                  PTRDIFF_MIN / 4};
    return any[fuzz_byte(f) % 20];
}

/* --- Layouts: dimensions in any order, gaps, backwards, broadcast. --- */
static void fuzz_layout(fuzz *f, tfb_tensor *t, int how) {
    int order[TFB_MAX_DIMS], i;
    tfb_idx step = how & 1 ? 2 : 1;
    for (i = 0; i < t->ndim; i++) order[i] = t->ndim - 1 - i;
    for (i = t->ndim - 1; i > 0 && (how & 2); i--) {
        const int j = (int)fuzz_in(f, 0, i), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    for (i = 0; i < t->ndim; i++) {
        const int d = order[i], b = how & 4 ? fuzz_byte(f) : 0;
        t->stride[d] = b & 1 ? -step : b & 2 ? 0 : step;
        step *= TFB__MAX(t->shape[d], 1);
        step += b >> 2 & 3;
    }
}

static tfb_idx fuzz_beside(fuzz *f, tfb_idx n) { /* one more or less */
    return (tfb_idx)((size_t)n + (fuzz_in(f, 0, 1) ? 1 : (size_t)-1));
}

/* One thing of one tensor is made different, and mostly wrong. */
static void fuzz_mutate(fuzz *f, op_call *c) {
    const int i = (int)fuzz_in(f, 0, c->n - 1), what = fuzz_byte(f) % 8;
    tfb_tensor *t = &c->t[i];
    const int d = t->ndim > 0 ? (int)fuzz_in(f, 0, t->ndim - 1) : 0;
    int k;
    c->odd = 1;
    if (t->ndim < 0 || t->ndim > TFB_MAX_DIMS) return; /* wrong enough */
    if (what == 0) c->has ^= 1u << i;
    else if (what == 1) t->shape[d] = fuzz_beside(f, t->shape[d]);
    else if (what == 2) t->shape[d] = fuzz_any(f);
    else if (what == 3) t->stride[d] = fuzz_any(f);
    else if (what == 4) { /* dtypes of packs would promise a header */
        const int b = fuzz_byte(f) % 7;
        t->dtype = (tfb_dtype)(b < 5 ? b : b == 5 ? (int)TFB__DTYPES : 99);
    } else if (what == 5 && t->ndim > 0) { /* a dimension less */
        for (k = 0; k + 1 < t->ndim; k++) {
            t->shape[k] = t->shape[k + 1];
            t->stride[k] = t->stride[k + 1];
        }
        t->ndim--;
    } else if (what == 6 && t->ndim < TFB_MAX_DIMS) { /* one more */
        t->shape[t->ndim] = fuzz_in(f, 0, 2);
        t->stride[t->ndim] = fuzz_in(f, 0, 2);
        t->ndim++;
    } else if (what == 7) t->ndim = (int)fuzz_any(f) % 9;
}

/* View i comes to lie in the block of another, if there is room for it. */
static void fuzz_alias(fuzz *f, op_call *c) {
    const int i = (int)fuzz_in(f, 0, c->n - 1), j = (int)fuzz_in(f, 0, c->n - 1);
    const size_t size = tfb_dtype_size(c->t[i].dtype);
    const size_t from = (size_t)fuzz_byte(f) * (size ? size : 1);
    if (i == j || c->arg[i].dtype == 'u' || !c->bytes[i] || c->bytes[j] < c->bytes[i] ||
        from > c->bytes[j] - c->bytes[i] || from % size)
        return;
    c->odd = 1;
    c->owner[i] = j;
    c->at[i] += (tfb_idx)(from / size);
    c->t[i].data = c->mem[j] + (size_t)c->at[i] * size;
}

/* Values that arithmetic treats specially, and numbers that are no index. */
static void fuzz_spoil(fuzz *f, op_call *c, int n) {
    static const uint32_t odd[] = {0x80000000, 0x7F800000, 0xFF800000, 0x7FC00001,
                                   0x7F7FFFFF, 0xFF7FFFFF, 0x00000001, 0x80400000,
                                   0x00800000, 0x461C4000, 0xC61C4000, 0x0000FFFF};
    while (n-- > 0) {
        const int i = (int)fuzz_in(f, 0, c->n - 1);
        const uint32_t bits = odd[fuzz_byte(f) % 12];
        const size_t all = c->bytes[i] / 4, at = all ? fuzz_word(f) % all : 0;
        if (!all) continue;
        memcpy(c->mem[i] + 4 * at, &bits, 4);
        memcpy(c->first[i] + 4 * at, &bits, 4);
    }
}

/* A size so large that the call must refuse it, memory or not. A pack's memory (its role
 * is p) is given by its bytes and has no extents. */
static int fuzz_overflows(const op_call *c) {
    int i, d, over = 0;
    for (i = 0; i < c->n; i++) {
        const size_t size = tfb_dtype_size(c->t[i].dtype);
        size_t below, above, all = size;
        if (!op_has(c, i) || op_empty(&c->t[i]) || *c->arg[i].role == 'p') continue;
        op_reach(&c->t[i], &below, &above);
        for (d = 0; d < c->t[i].ndim; d++)
            all = tfb__size_mul(all, (size_t)c->t[i].shape[d]);
        above = tfb__size_mul(tfb__size_add(tfb__size_add(below, above), 1), size);
        over |= all >= (size_t)-1 / 2 || above >= (size_t)-1 / 2;
    }
    return over;
}

/* A call of one of the ops from .. from + n - 1, checked in every way. */
static void fuzz_op(fuzz *f, int from, int n) {
    op_call c = op_begin(&ops[from + fuzz_byte(f) % n]);
    char letters[32];
    int i, layout, mutations, spoils, workers;
    const int count = op_letters(&c, letters);
    for (i = 0; i < count; i++) c.dim[(int)letters[i]] = fuzz_extent(f);
    for (i = 0; i < count && c.op->run == run_qkv; i++)
        c.dim[(int)letters[i]] %= 24; /* a block costs much a token */
    for (i = 0; i < OP_PICKS && c.op->picks[i]; i++)
        c.pick[i] = fuzz_byte(f) % c.op->picks[i];
    c.has = fuzz_word(f);
    t_seed = fuzz_word(f);
    layout = fuzz_byte(f);
    mutations = fuzz_byte(f);
    workers = 1 + mutations / 8 % 4;
    spoils = fuzz_byte(f) % 4;
    op_shape(&c);
    for (i = 0; i < c.n; i++)
        if (layout >> (i % 5) & 1) fuzz_layout(f, &c.t[i], layout >> 5);
    for (i = 0; i < (mutations % 8 > 4 ? mutations % 8 - 4 : 0); i++) fuzz_mutate(f, &c);
    op_alloc(&c);
    if (mutations % 8 == 4) fuzz_alias(f, &c);
    fuzz_spoil(f, &c, spoils);
    if (getenv("FUZZ_SHOW")) printf("%s\n", op_text(&c)), fflush(stdout);
    if (op_check(&c, workers, 1) == TFB_OK && c.dry)
        CHECK(!fuzz_overflows(&c), "took a size that overflows: %s", op_text(&c));
    op_end(&c);
}

/* Ops by name: the first of a section, and how many. */
static int fuzz_find(const char *name) {
    int i = 0;
    while (strcmp(ops[i].name, name) != 0) i++;
    return i;
}

static void fuzz_section(fuzz *f, const char *first, const char *last) {
    const int from = fuzz_find(first);
    fuzz_op(f, from, fuzz_find(last) - from + 1);
}
#endif
