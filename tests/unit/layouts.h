/* layouts.h - what test_linear.c, test_norms.c, test_chunks.c and test_scan.c share:
 * tensors laid out in many ways, calls whose arguments are wrong in many ways. */
#ifndef LAYOUTS_H
#define LAYOUTS_H

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))
#define HUGE_EXTENT  (PTRDIFF_MAX / 2)

/* --- Tensors laid out in many ways; results are compared over the whole buffer, so a
 * stray write shows. --- */
enum { ORDER = 1, WIDE = 2, BACK = 4, SPARSE = 8 };

typedef struct box {
    tfb_tensor t;
    float *mem, *mem0; /* mem0: what stood in mem at first */
    tfb_idx n;
} box;

static float *floats_copy(const float *from, tfb_idx n) {
    float *p = (float *)malloc((size_t)n * sizeof *p + (n == 0));
    if (!p) exit(99);
    memcpy(p, from, (size_t)n * sizeof *p);
    return p;
}

/* ORDER: any dimension may be the contiguous one; WIDE: a slice of a wider buffer; BACK:
 * some negative strides; SPARSE: no stride is 1. */
static box box_new(int ndim, const tfb_idx *shape, int layout) {
    int i, order[TFB_MAX_DIMS];
    tfb_idx step = layout & SPARSE ? t_int(2, 3) : 1, at = 0;
    box b;
    memset(&b, 0, sizeof b);
    b.t.ndim = ndim;
    for (i = 0; i < ndim; i++) order[i] = ndim - 1 - i;
    for (i = ndim - 1; i > 0 && (layout & ORDER); i--) {
        const int j = (int)t_int(0, i), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    for (i = 0; i < ndim; i++) {
        const int d = order[i];
        b.t.shape[d] = shape[d];
        b.t.stride[d] = step;
        if ((layout & BACK) && (t_rand() & 1) && shape[d]) {
            b.t.stride[d] = -step;
            at += step * (shape[d] - 1);
        }
        step *= (shape[d] ? shape[d] : 1) + (layout & WIDE ? t_int(0, 3) : 0);
    }
    b.mem = t_floats(step);
    b.mem0 = floats_copy(b.mem, step);
    b.n = step;
    b.t.data = b.mem + at;
    return b;
}

static void box_free(box *b) {
    free(b->mem);
    free(b->mem0);
}

static void box_reset(box *b) {
    memcpy(b->mem, b->mem0, (size_t)b->n * sizeof(float));
}

/* Puts values that arithmetic treats specially into a few places. */
TFB__UNUSED static void box_spoil(box *b, int count) {
    const float odd[] = {-0.0f,     0.0f,   TFB__FLT_INF, -TFB__FLT_INF,
                         FLT_MAX,   1e-40f, -FLT_MAX,     tfb__float_of(0x7FC00001u),
                         -1.5e-38f, 1e-30f, 3e19f};
    while (count--) b->mem[t_int(0, b->n - 1)] = odd[t_int(0, COUNT(odd) - 1)];
    memcpy(b->mem0, b->mem, (size_t)b->n * sizeof(float));
}

/* --- Bad input. Every tensor of a call in turn is replaced by something wrong. --- */
#define MOST_ARGS 10

typedef struct call {
    const char *names[MOST_ARGS];
    int optional[MOST_ARGS], n;
    tfb_status (*run)(tfb_ctx *ctx, tfb_tensor **t);
    tfb_tensor t[MOST_ARGS];
    float mem[256];
    int32_t ints[8];
} call;

/* Runs the call with argument `which` (-1: none) replaced; nothing may change. */
static void call_refused(call *c, int which, tfb_tensor *instead, tfb_status code,
                         const char *text) {
    tfb_tensor *t[MOST_ARGS];
    float before[COUNT(c->mem)];
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    memcpy(before, c->mem, sizeof before);
    for (i = 0; i < c->n; i++) t[i] = i == which ? instead : &c->t[i];
    CHECK_FAILS(&ctx, code, text, c->run(&ctx, t));
    CHECK(memcmp(before, c->mem, sizeof before) == 0, "\"%s\": memory changed", text);
    for (i = 0; i < COUNT(c->ints); i++) CHECK(c->ints[i] == 0, "\"%s\": ints", text);
    tfb_ctx_free(&ctx);
}

/* What any tensor argument can have wrong. */
TFB__UNUSED static void call_refuses_any(call *c) {
    static const char *const texts[] = {
        " is NULL",        ".ndim is 7",    ".ndim is -1",          ".dtype is 99",
        ".shape[0] is -1", ".data is NULL", ".data is not aligned", " is U8",
        "the size of ",    "the size of ",  "the size of "};
    static const tfb_status codes[] = {TFB_ERR_ARG,   TFB_ERR_SHAPE, TFB_ERR_SHAPE,
                                       TFB_ERR_DTYPE, TFB_ERR_SHAPE, TFB_ERR_ARG,
                                       TFB_ERR_ARG,   TFB_ERR_DTYPE, TFB_ERR_RANGE,
                                       TFB_ERR_RANGE, TFB_ERR_RANGE};
    int i, kind;
    for (i = 0; i < c->n; i++)
        for (kind = 0; kind < 11; kind++) {
            tfb_tensor bad = c->t[i];
            char text[64];
            if (kind == 0 && c->optional[i]) continue;
            if (kind == 1) bad.ndim = TFB_MAX_DIMS + 1;
            if (kind == 2) bad.ndim = -1;
            if (kind == 3) bad.dtype = (tfb_dtype)99;
            if (kind == 4) bad.shape[0] = -1;
            if (kind == 5) bad.data = NULL;
            if (kind == 6) bad.data = (char *)bad.data + 1;
            if (kind == 7) bad.dtype = TFB_U8;
            if (kind == 8) bad.shape[0] = PTRDIFF_MAX;
            if (kind == 9) bad.stride[0] = PTRDIFF_MIN;
            if (kind == 10) bad.stride[0] = PTRDIFF_MAX;
            sprintf(text, "%s%s", kind < 8 ? c->names[i] : texts[kind],
                    kind < 8 ? texts[kind] : c->names[i]);
            call_refused(c, i, kind ? &bad : NULL, codes[kind], text);
        }
}

typedef struct wrong {
    int which;
    tfb_tensor t;
    tfb_status code;
    const char *text;
} wrong;

TFB__UNUSED static void call_refuses(call *c, const wrong *list, int n) {
    int i;
    for (i = 0; i < n; i++) {
        tfb_tensor bad = list[i].t;
        call_refused(c, list[i].which, &bad, list[i].code, list[i].text);
    }
}

TFB__UNUSED static tfb_tensor with_extent(tfb_tensor t, int dim, tfb_idx n) {
    t.shape[dim] = n;
    return t;
}

static tfb_tensor with_stride(tfb_tensor t, int dim, tfb_idx stride) {
    t.stride[dim] = stride;
    return t;
}

TFB__UNUSED static tfb_tensor with_data(tfb_tensor t, void *data) {
    t.data = data;
    return t;
}

TFB__UNUSED static tfb_tensor with_rank(tfb_tensor t, int ndim) {
    int i;
    for (i = t.ndim > 0 ? t.ndim : 0; i < ndim && i < TFB_MAX_DIMS; i++)
        t.shape[i] = t.stride[i] = 1;
    t.ndim = ndim;
    return t;
}

static tfb_tensor with_dtype(tfb_tensor t, tfb_dtype dtype) {
    t.dtype = dtype;
    return t;
}
#endif
