/* test_tensor.c - section TENSOR OPS and the views of BASICS: slice, permute and
 * reshape against lists of places, copy with every conversion, add, mul, embed,
 * argmax, overlap. */
#include "../test.h"
#include <math.h>

enum { PLACES = 4096 };

/* Storage that every byte of can be seen: what a call may not touch must stay. */
enum { STORE = 1 << 16 };
static unsigned char store_x[STORE], store_y[STORE], store_want[STORE];

static void fill_bytes(unsigned char *p) {
    int i;
    for (i = 0; i < STORE; i++) p[i] = (unsigned char)t_rand();
}

/* --- Where the elements of a tensor stand, in row-major order, found by counting. --- */
typedef struct places {
    int ndim;
    tfb_idx shape[TFB_MAX_DIMS], n, at[PLACES]; /* at: in elements, from the storage */
} places;

/* The next index in row-major order; 0 after the last. */
static int next_index(int ndim, const tfb_idx *shape, tfb_idx *index) {
    int d = ndim;
    while (d-- > 0) {
        if (++index[d] < shape[d]) return 1;
        index[d] = 0;
    }
    return 0;
}

static tfb_idx count(int ndim, const tfb_idx *shape) {
    tfb_idx n = 1;
    int d;
    for (d = 0; d < ndim; d++) n *= shape[d];
    return n;
}

static tfb_idx dot(int ndim, const tfb_idx *index, const tfb_idx *stride) {
    tfb_idx at = 0;
    int d;
    for (d = 0; d < ndim; d++) at += index[d] * stride[d];
    return at;
}

/* The places of a tensor whose data points to element number `first` of the storage. */
static void places_of(const tfb_tensor *t, tfb_idx first, places *p) {
    tfb_idx index[TFB_MAX_DIMS] = {0};
    p->ndim = t->ndim;
    memcpy(p->shape, t->shape, sizeof p->shape);
    p->n = 0;
    if (count(t->ndim, t->shape) == 0) return;
    do p->at[p->n++] = first + dot(t->ndim, index, t->stride);
    while (next_index(t->ndim, t->shape, index));
}

static int same_places(const places *a, const places *b) {
    return a->ndim == b->ndim && a->n == b->n &&
           !memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof *a->shape) &&
           !memcmp(a->at, b->at, (size_t)a->n * sizeof *a->at);
}

/* A tensor against its model; the storage holds elements of t's dtype. */
static int matches(const tfb_tensor *t, const unsigned char *store, const places *want) {
    static places got;
    const tfb_idx bytes = (tfb_idx)tfb_dtype_size(t->dtype);
    places_of(t, ((const unsigned char *)t->data - store) / bytes, &got);
    return same_places(&got, want);
}

/* --- Random tensors. --- */
static const tfb_dtype any_dtype[5] = {TFB_F32, TFB_F16, TFB_BF16, TFB_I32, TFB_U8};

static void random_shape(tfb_tensor *t, int max_dims, tfb_idx max_extent) {
    int d;
    t->ndim = (int)t_int(0, max_dims);
    for (d = 0; d < t->ndim; d++)
        t->shape[d] = t_int(0, 19) == 0 ? 0 : t_int(1, max_extent);
}

/* Any strides, negative and zero included, around the middle of the storage. */
static tfb_tensor random_view(unsigned char *store, tfb_dtype dtype, int max_dims) {
    tfb_tensor t;
    tfb_idx stride = 1;
    int d, plain = t_int(0, 2) > 0;
    memset((void *)&t, 0, sizeof t);
    t.dtype = dtype;
    t.data = store + STORE / 2;
    random_shape(&t, max_dims, 4);
    for (d = t.ndim - 1; d >= 0; d--) { /* mostly evenly spaced, so that some merge */
        t.stride[d] = plain ? stride : t_int(-9, 9);
        if (t_int(0, 9) == 0) t.stride[d] = 0;
        if (t_int(0, 9) == 0) t.stride[d] = -t.stride[d];
        stride = t.stride[d] * t.shape[d] + (t_int(0, 5) == 0);
    }
    return t;
}

/* Dense up to gaps, a legal output: in any order of dimensions and directions, or plain:
 * row-major with contiguous rows. */
static tfb_tensor random_out(unsigned char *store, tfb_dtype dtype, int ndim,
                             const tfb_idx *shape) {
    const int plain = t_int(0, 2) == 0;
    int order[TFB_MAX_DIMS], i;
    tfb_idx stride = plain ? 1 : t_int(1, 2);
    tfb_tensor t;
    memset((void *)&t, 0, sizeof t);
    t.dtype = dtype;
    t.ndim = ndim;
    t.data = store + STORE / 2;
    for (i = 0; i < ndim; i++) {
        int j = (int)t_int(0, i);
        order[i] = order[j];
        order[j] = i;
        t.shape[i] = shape[i];
    }
    for (i = 0; i < ndim; i++) {
        const int d = plain ? ndim - 1 - i : order[i];
        t.stride[d] = plain || t_int(0, 4) ? stride : -stride;
        if (shape[d] > 1) stride = stride * shape[d] + t_int(0, 1);
    }
    return t;
}

/* --- Views. --- */
static void test_views(void) {
    static const tfb_idx shape[4] = {2, 3, 4, 5};
    tfb_tensor t[4];
    places p;
    int i, k;
    t[0] = tfb_view1(store_x, TFB_F32, 2);
    t[1] = tfb_view2(store_x, TFB_U8, 2, 3);
    t[2] = tfb_view3(store_x, TFB_F16, 2, 3, 4);
    t[3] = tfb_view4(store_x, TFB_I32, 2, 3, 4, 5);
    for (i = 0; i < 4; i++) {
        CHECK(t[i].data == store_x && t[i].ndim == i + 1, "view%d", i + 1);
        CHECK(!memcmp(t[i].shape, shape, (size_t)(i + 1) * sizeof *shape), "shape");
        CHECK(tfb_numel(&t[i]) == count(i + 1, shape), "numel");
        places_of(&t[i], 0, &p);
        for (k = 0; k < p.n; k++) CHECK(p.at[k] == k, "view%d is not row-major", i + 1);
    }
    CHECK(t[0].dtype == TFB_F32 && t[1].dtype == TFB_U8 && t[2].dtype == TFB_F16 &&
              t[3].dtype == TFB_I32,
          "dtype");
    t[0].ndim = 0;
    CHECK(tfb_numel(&t[0]) == 1, "a scalar has one element");
    t[1].shape[1] = 0;
    CHECK(tfb_numel(&t[1]) == 0, "an empty tensor has none");
}

/* Extents whose product overflows: no undefined arithmetic, then RANGE; but 0 elements
 * are 0 elements however large the other extents. */
static void test_views_overflow(void) {
    const tfb_idx most = PTRDIFF_MAX;
    tfb_tensor y = tfb_view1(store_y, TFB_U8, 1), t;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    t = tfb_view4(store_x, TFB_U8, 1, 3, most, most);
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "tfb_slice: the size of t overflows",
                tfb_slice(&ctx, &t, 1, 0, 1, &y));
    t = tfb_view2(store_x, TFB_F32, most / 4, 2);
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "overflows", tfb_copy(&ctx, &t, &t));
    t = tfb_view1(store_x, TFB_F32, most / 4 + 1);
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "overflows", tfb_copy(&ctx, &t, &t));
    t = tfb_view3(store_x, TFB_F32, most, most, 0);
    CHECK(tfb_numel(&t) == 0, "numel of an empty tensor");
    CHECK_OK(&ctx, tfb_slice(&ctx, &t, 0, most - 1, 1, &y));
    CHECK(tfb_numel(&y) == 0 && y.shape[1] == most, "slice of an empty tensor");
    CHECK_OK(&ctx, tfb_copy(&ctx, &t, &t));
    CHECK_OK(&ctx, tfb_reshape(&ctx, &t, 3, t.shape, &y));
    CHECK(tfb_numel(&y) == 0 && y.shape[1] == most, "reshape of an empty tensor");
    tfb_ctx_free(&ctx);
}

/* Strides so wide that twice a stride is no number; the tensor itself is legal. */
static void test_wide_strides(void) {
    static const tfb_idx four[1] = {4}, column[3] = {1, 2, 1};
    tfb_tensor t = tfb_view2(store_x, TFB_U8, 2, 2), out;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    t.stride[0] = 1;
    t.stride[1] = PTRDIFF_MAX - 3;
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "would need a copy",
                tfb_reshape(&ctx, &t, 1, four, &out));
    CHECK_OK(&ctx, tfb_slice(&ctx, &t, 0, 0, 1, &t));
    CHECK_OK(&ctx, tfb_reshape(&ctx, &t, 3, column, &out));
    CHECK(out.stride[1] == PTRDIFF_MAX - 3 && out.shape[1] == 2, "stride");
    tfb_ctx_free(&ctx);
}

/* --- slice, permute, reshape against lists of places. --- */
static void slice_places(const places *p, int dim, tfb_idx start, tfb_idx length,
                         places *out) {
    tfb_idx index[TFB_MAX_DIMS] = {0}, i = 0;
    out->ndim = p->ndim;
    memcpy(out->shape, p->shape, sizeof p->shape);
    out->shape[dim] = length;
    out->n = 0;
    if (p->n == 0) return;
    do {
        if (index[dim] >= start && index[dim] < start + length)
            out->at[out->n++] = p->at[i];
        i++;
    } while (next_index(p->ndim, p->shape, index));
}

static void permute_places(const places *p, const int *order, places *out) {
    tfb_idx index[TFB_MAX_DIMS] = {0}, stride[TFB_MAX_DIMS], step = 1, at;
    int d;
    out->ndim = p->ndim;
    out->n = 0;
    for (d = p->ndim - 1; d >= 0; step *= p->shape[d--]) stride[d] = step;
    for (d = 0; d < p->ndim; d++) out->shape[d] = p->shape[order[d]];
    if (p->n == 0) return;
    do { /* index counts the new dimensions */
        for (at = 0, d = 0; d < p->ndim; d++) at += index[d] * stride[order[d]];
        out->at[out->n++] = p->at[at];
    } while (next_index(p->ndim, out->shape, index));
}

static void step_slice(tfb_ctx *ctx, tfb_tensor *t, const unsigned char *store,
                       places *p) {
    static places want;
    tfb_tensor other, *out = t_int(0, 1) ? t : &other;
    int dim;
    tfb_idx start, length;
    if (!t->ndim) return;
    dim = (int)t_int(0, t->ndim - 1);
    start = t_int(0, t->shape[dim]);
    length = t_int(0, 9) ? t->shape[dim] - start : t_int(0, t->shape[dim] - start);
    slice_places(p, dim, start, length, &want);
    CHECK_OK(ctx,
             tfb_slice(ctx, t, t_int(0, 1) ? dim : dim - t->ndim, start, length, out));
    *t = *out;
    CHECK(matches(t, store, &want), "slice of dimension %d", dim);
    *p = want;
}

static void step_permute(tfb_ctx *ctx, tfb_tensor *t, const unsigned char *store,
                         places *p) {
    static places want;
    tfb_tensor other, *out = t_int(0, 1) ? t : &other;
    int order[TFB_MAX_DIMS], given[TFB_MAX_DIMS], i, j;
    for (i = 0; i < t->ndim; i++) {
        j = (int)t_int(0, i);
        order[i] = order[j];
        order[j] = i;
    }
    for (i = 0; i < t->ndim; i++) given[i] = t_int(0, 3) ? order[i] : order[i] - t->ndim;
    permute_places(p, order, &want);
    CHECK_OK(ctx, tfb_permute(ctx, t, given, out));
    *t = *out;
    CHECK(matches(t, store, &want), "permute");
    *p = want;
}

/* Splits p->n into up to six extents; 1 where nothing is left. */
static int random_split(const places *p, tfb_idx *shape) {
    int ndim = (int)t_int(0, TFB_MAX_DIMS), d;
    tfb_idx rest = p->n ? p->n : t_int(1, 12);
    if (ndim == 0 && p->n != 1) ndim = 1;
    if (t_int(0, 2) == 0) { /* join two neighbours, or split one in two */
        ndim = p->ndim;
        memcpy(shape, p->shape, sizeof p->shape);
        if (ndim >= 2 && t_int(0, 1)) {
            d = (int)t_int(0, ndim - 2);
            shape[d] *= shape[d + 1];
            for (ndim--, d++; d < ndim; d++) shape[d] = shape[d + 1];
        }
        return ndim;
    }
    for (d = 0; d < ndim; d++) {
        tfb_idx f = d == ndim - 1 ? rest : t_int(1, 4);
        while (rest % f) f--;
        shape[d] = f;
        rest /= f;
    }
    if (p->n == 0) shape[t_int(0, ndim - 1)] = 0;
    return ndim;
}

/* Can these places be walked with one stride per dimension of shape? */
static int has_strides(const places *p, int ndim, const tfb_idx *shape) {
    tfb_idx index[TFB_MAX_DIMS] = {0}, stride[TFB_MAX_DIMS], step = 1, i = 0;
    int d;
    if (p->n == 0) return 1;
    for (d = ndim - 1; d >= 0; d--) {
        stride[d] = shape[d] > 1 ? p->at[step] - p->at[0] : 0;
        step *= shape[d];
    }
    do
        if (p->at[i++] != p->at[0] + dot(ndim, index, stride)) return 0;
    while (next_index(ndim, shape, index));
    return 1;
}

static long reshaped, refused;

static void step_reshape(tfb_ctx *ctx, tfb_tensor *t, const unsigned char *store,
                         places *p) {
    tfb_tensor before = *t, other, *out = t_int(0, 1) ? t : &other;
    tfb_idx shape[TFB_MAX_DIMS] = {0}, given[TFB_MAX_DIMS] = {0};
    const int ndim = random_split(p, shape);
    memcpy(given, shape, sizeof shape);
    if (ndim && p->n && t_int(0, 1)) given[t_int(0, ndim - 1)] = -1;
    other = before;
    if (!has_strides(p, ndim, shape)) {
        CHECK_FAILS(ctx, TFB_ERR_SHAPE, "would need a copy",
                    tfb_reshape(ctx, t, ndim, given, out));
        CHECK(!memcmp(t, &before, sizeof before), "t changed");
        CHECK(!memcmp(&other, &before, sizeof before), "out changed");
        refused++;
        return;
    }
    CHECK_OK(ctx, tfb_reshape(ctx, t, ndim, given, out));
    *t = *out;
    p->ndim = ndim;
    memcpy(p->shape, shape, sizeof shape);
    CHECK(matches(t, store, p), "reshape to %d dimensions", ndim);
    reshaped++;
}

static void test_view_chains(void) {
    static places p;
    tfb_ctx ctx;
    int round, k;
    t_ctx(&ctx, NULL);
    reshaped = refused = 0;
    for (round = 0; round < 4000; round++) {
        const tfb_dtype dtype = any_dtype[round % 5];
        tfb_tensor t = random_view(store_x, dtype, TFB_MAX_DIMS);
        places_of(&t, STORE / 2 / (tfb_idx)tfb_dtype_size(dtype), &p);
        for (k = 0; k < 4; k++) {
            const tfb_idx what = t_int(0, 3);
            if (what == 0) step_slice(&ctx, &t, store_x, &p);
            else if (what == 1) step_permute(&ctx, &t, store_x, &p);
            else step_reshape(&ctx, &t, store_x, &p);
            CHECK(t.dtype == dtype, "dtype");
        }
    }
    CHECK(reshaped > 1000 && refused > 300, "%ld reshaped, %ld refused", reshaped,
          refused);
    tfb_ctx_free(&ctx);
}

/* --- tensor_new. --- */
static void test_tensor_new(void) {
    const tfb_idx shape[TFB_MAX_DIMS] = {2, 1, 3, 1, 2, 2};
    static places p;
    t_heap heap;
    tfb_ctx ctx;
    int i, d, k;
    t_ctx(&ctx, &heap);
    for (i = 0; i < 5; i++)
        for (d = 0; d <= TFB_MAX_DIMS; d++) {
            tfb_tensor t;
            CHECK_OK(&ctx, tfb_tensor_new(&ctx, &t, any_dtype[i], d, shape));
            CHECK(t.ndim == d && t.dtype == any_dtype[i] && heap.live == 1, "fields");
            places_of(&t, 0, &p);
            CHECK(p.n == count(d, shape), "%d elements", (int)p.n);
            for (k = 0; k < p.n; k++) CHECK(p.at[k] == k, "not dense");
            for (k = 0; k < p.n * (tfb_idx)tfb_dtype_size(t.dtype); k++)
                CHECK(((unsigned char *)t.data)[k] == 0, "byte %d is not zero", k);
            tfb_tensor_free(&ctx, &t);
            CHECK(heap.live == 0 && !t.data && !t.ndim && !t.shape[0], "not cleared");
        }
    tfb_tensor_free(&ctx, NULL);
    tfb_tensor_free(NULL, NULL);
    tfb_ctx_free(&ctx);
}

static void test_tensor_new_empty(void) {
    const tfb_idx most = PTRDIFF_MAX, shape[3] = {4, 0, 5};
    tfb_idx huge[3];
    t_heap heap;
    tfb_ctx ctx;
    tfb_tensor t;
    huge[0] = huge[1] = most;
    huge[2] = 0;
    t_ctx(&ctx, &heap);
    CHECK_OK(&ctx, tfb_tensor_new(&ctx, &t, TFB_F32, 3, shape));
    CHECK(t.data && tfb_numel(&t) == 0, "an empty tensor");
    CHECK_OK(&ctx, tfb_copy(&ctx, &t, &t));
    tfb_tensor_free(&ctx, &t);
    CHECK_OK(&ctx, tfb_tensor_new(&ctx, &t, TFB_F32, 3, huge));
    CHECK(tfb_numel(&t) == 0, "an empty tensor");
    tfb_tensor_free(&ctx, &t);
    CHECK(heap.live == 0, "leak");
    tfb_ctx_free(&ctx);
}

static void test_tensor_new_errors(void) {
    const tfb_idx most = PTRDIFF_MAX, good[2] = {2, 3}, bad[2] = {2, -1};
    tfb_idx huge[2];
    tfb_tensor t, before;
    t_heap heap;
    tfb_ctx ctx;
    t_ctx(&ctx, &heap);
    memset((void *)&t, 0x33, sizeof t);
    before = t;
    CHECK(tfb_tensor_new(NULL, &t, TFB_F32, 2, good) == TFB_ERR_ARG, "no context");
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_tensor_new: t is NULL",
                tfb_tensor_new(&ctx, NULL, TFB_F32, 2, good));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_tensor_new: shape is NULL",
                tfb_tensor_new(&ctx, &t, TFB_F32, 2, NULL));
    CHECK_FAILS(&ctx, TFB_ERR_DTYPE, "dtype is 99",
                tfb_tensor_new(&ctx, &t, (tfb_dtype)99, 2, good));
    CHECK_FAILS(&ctx, TFB_ERR_DTYPE, "dtype is 5",
                tfb_tensor_new(&ctx, &t, TFB_PACKED_F32, 2, good));
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "ndim is 7",
                tfb_tensor_new(&ctx, &t, TFB_F32, 7, good));
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "ndim is -1",
                tfb_tensor_new(&ctx, &t, TFB_F32, -1, good));
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_tensor_new: shape[1] is -1",
                tfb_tensor_new(&ctx, &t, TFB_F32, 2, bad));
    huge[0] = most / 4;
    huge[1] = 2;
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "tfb_tensor_new: the size overflows",
                tfb_tensor_new(&ctx, &t, TFB_F32, 2, huge));
    huge[1] = most;
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "the size overflows",
                tfb_tensor_new(&ctx, &t, TFB_U8, 2, huge));
    CHECK(!memcmp(&t, &before, sizeof t) && heap.calls == 0, "t changed");
    tfb_ctx_free(&ctx);
}

/* --- Half floats: an oracle that knows the values only, not the bit tricks. --- */
typedef struct half_kind {
    tfb_dtype dtype;
    int mantissa, bias, codes; /* codes: finite ones of one sign; the next is inf */
} half_kind;

static const half_kind half_kinds[2] = {{TFB_F16, 10, 15, 0x7C00},
                                        {TFB_BF16, 7, 127, 0x7F80}};

/* The value of a code without sign; inf counts as the number that would come next. */
static double half_value(const half_kind *h, int code) {
    const int e = code >> h->mantissa, m = code & ((1 << h->mantissa) - 1);
    if (e == 0) return ldexp(m, 1 - h->bias - h->mantissa);
    return ldexp(m + (1 << h->mantissa), e - h->bias - h->mantissa);
}

/* The code nearest to x, the even one of two; -1 for NaN. */
static int half_nearest(const half_kind *h, double x) {
    const double a = fabs(x);
    const int sign = copysign(1.0, x) < 0 ? 0x8000 : 0;
    int lo = 0, hi = h->codes;
    double below, above;
    if (x != x) return -1;
    if (a >= half_value(h, hi)) return sign | hi;
    while (hi - lo > 1) {
        const int mid = (lo + hi) / 2;
        if (half_value(h, mid) <= a) lo = mid;
        else hi = mid;
    }
    below = a - half_value(h, lo);
    above = half_value(h, hi) - a;
    if (below == above) return sign | (lo & 1 ? hi : lo);
    return sign | (below < above ? lo : hi);
}

static int half_is_nan(const half_kind *h, int code) {
    return (code & 0x7FFF) > h->codes;
}

static const half_kind *half_of(tfb_dtype dtype) {
    return &half_kinds[dtype == TFB_BF16];
}

/* An element as a number, and whether an element is what a number should have become. */
static double value_of(tfb_dtype dtype, const unsigned char *p) {
    float f;
    int32_t i;
    uint16_t u;
    const half_kind *h = half_of(dtype);
    double v;
    if (dtype == TFB_U8) return *p;
    if (dtype == TFB_I32) {
        memcpy(&i, p, 4);
        return i;
    }
    if (dtype == TFB_F32) {
        memcpy(&f, p, 4);
        return (double)f;
    }
    memcpy(&u, p, 2);
    if (half_is_nan(h, u)) return (double)NAN;
    v = (u & 0x7FFF) == h->codes ? (double)INFINITY : half_value(h, u & 0x7FFF);
    return u & 0x8000 ? -v : v;
}

static int stored_right(tfb_dtype dtype, const unsigned char *p, double want) {
    uint16_t u;
    float f, w = (float)want;
    if (dtype == TFB_F32) {
        memcpy(&f, p, 4);
        return t_differ(&f, &w, 1) == 1;
    }
    memcpy(&u, p, 2);
    if (want != want) return half_is_nan(half_of(dtype), u);
    return u == half_nearest(half_of(dtype), want);
}

/* n elements through tfb_copy, each held against the oracle. */
static void convert(const void *x, tfb_dtype from, void *y, tfb_dtype to, tfb_idx n) {
    tfb_tensor X = tfb_view1(x, from, n), Y = tfb_view1(y, to, n);
    const unsigned char *px = (const unsigned char *)x, *py = (const unsigned char *)y;
    const tfb_idx xs = (tfb_idx)tfb_dtype_size(from), ys = (tfb_idx)tfb_dtype_size(to);
    tfb_idx i;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_copy(&ctx, &X, &Y));
    for (i = 0; i < n; i++)
        CHECK(stored_right(to, py + i * ys, value_of(from, px + i * xs)),
              "%s to %s: %.17g", tfb__dtype_text(from), tfb__dtype_text(to),
              value_of(from, px + i * xs));
    tfb_ctx_free(&ctx);
}

static uint16_t half_in[65536], half_out[65536];
static float half_float[65536];

static void test_half_round_trip(void) {
    int k, i;
    for (i = 0; i < 65536; i++) half_in[i] = (uint16_t)i;
    for (k = 0; k < 2; k++) {
        const half_kind *h = &half_kinds[k];
        convert(half_in, h->dtype, half_float, TFB_F32, 65536);
        convert(half_float, TFB_F32, half_out, h->dtype, 65536);
        for (i = 0; i < 65536; i++)
            CHECK(half_is_nan(h, i) ? half_is_nan(h, half_out[i]) : half_out[i] == i,
                  "%04x became %04x", (unsigned)i, (unsigned)half_out[i]);
        convert(half_in, h->dtype, half_out, half_kinds[1 - k].dtype, 65536);
    }
}

/* At, just below and just above every point half way between two neighbours. */
static void test_half_rounding(void) {
    static float x[6 * 0x8000];
    static uint16_t y[6 * 0x8000];
    int k, code, n;
    for (k = 0; k < 2; k++) {
        const half_kind *h = &half_kinds[k];
        for (code = n = 0; code < h->codes; code++) {
            const double mid = (half_value(h, code) + half_value(h, code + 1)) / 2;
            x[n++] = (float)mid;
            x[n++] = nextafterf((float)mid, 0);
            x[n++] = nextafterf((float)mid, INFINITY);
            x[n] = -x[n - 3], n++;
            x[n] = -x[n - 3], n++;
            x[n] = -x[n - 3], n++;
        }
        convert(x, TFB_F32, y, h->dtype, n);
    }
}

static void test_half_specials(void) {
    static const uint32_t bits[] = {
        0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000,
        0x33000000, 0x33000001, 0x32FFFFFF, 0x387FC000, 0x387FE000, 0x387FFFFF,
        0x38800000, 0x477FEFFF, 0x477FF000, 0x47800000, 0x7F7F7FFF, 0x7F7F8000,
        0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0xFF800001,
        0x7FC00000, 0x7FFFFFFF, 0x7F80FFFF, 0xFFFFFFFF};
    enum { SPECIALS = (int)(sizeof bits / sizeof *bits) };
    static uint32_t random_bits[200000];
    uint16_t y[SPECIALS];
    static uint16_t random_y[200000];
    int k, i;
    for (i = 0; i < 200000; i++) random_bits[i] = t_rand() << 16 ^ t_rand();
    for (k = 0; k < 2; k++) {
        convert(bits, TFB_F32, y, half_kinds[k].dtype, SPECIALS);
        convert(random_bits, TFB_F32, random_y, half_kinds[k].dtype, 200000);
    }
}

/* Integers: all of U8; I32 around every power of two and near ties, rounded once only. */
static void test_integers(void) {
    static const tfb_dtype to[3] = {TFB_F32, TFB_F16, TFB_BF16};
    static int32_t x[31 * 80 + 1000];
    static float y[31 * 80 + 1000];
    unsigned char bytes[256];
    int n = 0, e, i, k;
    for (i = 0; i < 256; i++) bytes[i] = (unsigned char)i;
    for (e = 0; e < 31; e++)
        for (i = 0; i < 40; i++) {
            const uint32_t ulp = e > 7 ? 1u << (e - 7) : 1, top = 1u << e;
            uint32_t v = top + (uint32_t)(i / 5) * (ulp / 2) + (uint32_t)(i % 5) - 2;
            x[n++] = (int32_t)(v & 0x7FFFFFFF);
            x[n++] = -(int32_t)(v & 0x7FFFFFFF);
        }
    for (i = 0; i < 1000; i++) x[n++] = (int32_t)(t_rand() << 8 ^ t_rand());
    x[0] = INT32_MAX;
    x[1] = INT32_MIN;
    for (k = 0; k < 3; k++) {
        convert(bytes, TFB_U8, y, to[k], 256);
        convert(x, TFB_I32, y, to[k], n);
    }
}

/* --- Copy over any views: every byte of the storage is as it should be. --- */
/* A view of some shape that broadcasts to y's. */
static tfb_tensor random_input(unsigned char *store, tfb_dtype dtype,
                               const tfb_tensor *y) {
    const int drop = (int)t_int(0, y->ndim) / 2;
    tfb_tensor t;
    int d;
    memset((void *)&t, 0, sizeof t);
    t.data = store + STORE / 2;
    t.dtype = dtype;
    t.ndim = y->ndim - drop;
    for (d = 0; d < t.ndim; d++) {
        t.shape[d] = t_int(0, 3) ? y->shape[d + drop] : 1;
        t.stride[d] = t_int(-20, 20);
        if (d == t.ndim - 1 && t_int(0, 1)) t.stride[d] = 1;
    }
    return t;
}

/* The place in x that element `index` of y takes. */
static tfb_idx source(const tfb_tensor *x, const tfb_tensor *y, const tfb_idx *index) {
    tfb_idx at = 0;
    int d;
    for (d = 0; d < x->ndim; d++)
        if (x->shape[d] != 1) at += index[d + y->ndim - x->ndim] * x->stride[d];
    return at * (tfb_idx)tfb_dtype_size(x->dtype);
}

static unsigned char *element(const tfb_tensor *t, const tfb_idx *index) {
    return (unsigned char *)t->data +
           dot(t->ndim, index, t->stride) * (tfb_idx)tfb_dtype_size(t->dtype);
}

static int copies(tfb_dtype from, tfb_dtype to) {
    return from == to || to == TFB_F32 || to == TFB_F16 || to == TFB_BF16;
}

static void copy_one(tfb_ctx *ctx, tfb_dtype from, tfb_dtype to) {
    tfb_idx index[TFB_MAX_DIMS] = {0};
    tfb_tensor shape, x, y;
    const size_t bytes = tfb_dtype_size(to);
    random_shape(&shape, TFB_MAX_DIMS, 3);
    y = random_out(store_y, to, shape.ndim, shape.shape);
    x = random_input(store_x, from, &y);
    memcpy(store_want, store_y, STORE);
    CHECK_OK(ctx, tfb_copy(ctx, &x, &y));
    if (count(y.ndim, y.shape)) do {
            const unsigned char *px = (unsigned char *)x.data + source(&x, &y, index);
            unsigned char *py = element(&y, index);
            if (from == to)
                CHECK(!memcmp(px, py, bytes), "%s: other bits", tfb__dtype_text(from));
            else
                CHECK(stored_right(to, py, value_of(from, px)), "%s to %s",
                      tfb__dtype_text(from), tfb__dtype_text(to));
            memcpy(store_want + (py - store_y), py, bytes);
        } while (next_index(y.ndim, y.shape, index));
    CHECK(!memcmp(store_y, store_want, STORE), "wrote outside y");
}

static void test_copy_views(void) {
    tfb_ctx ctx;
    int from, to, round;
    t_ctx(&ctx, NULL);
    fill_bytes(store_x);
    fill_bytes(store_y);
    for (from = 0; from < 5; from++)
        for (to = 0; to < 5; to++)
            for (round = 0; round < 60 && copies(any_dtype[from], any_dtype[to]); round++)
                copy_one(&ctx, any_dtype[from], any_dtype[to]);
    tfb_ctx_free(&ctx);
}

static void test_copy_dtypes(void) {
    char text[80];
    tfb_ctx ctx;
    int from, to;
    t_ctx(&ctx, NULL);
    for (from = 0; from < 5; from++)
        for (to = 0; to < 5; to++) {
            const tfb_dtype a = any_dtype[from], b = any_dtype[to];
            tfb_tensor x = tfb_view1(store_x, a, 4), y = tfb_view1(store_y, b, 4);
            if (copies(a, b)) continue;
            memcpy(store_want, store_y, STORE);
            sprintf(text, "tfb_copy: x is %s, y is %s: no such conversion",
                    tfb__dtype_text(a), tfb__dtype_text(b));
            CHECK_FAILS(&ctx, TFB_ERR_DTYPE, text, tfb_copy(&ctx, &x, &y));
            CHECK(!memcmp(store_y, store_want, STORE), "y changed");
        }
    tfb_ctx_free(&ctx);
}

/* --- add and mul. --- */
static void fill_floats(unsigned char *store) {
    int i;
    for (i = 0; i < STORE; i += 4) {
        const float f = t_float();
        memcpy(store + i, &f, 4);
    }
}

static void binary_one(tfb_ctx *ctx, int multiply) {
    tfb_idx index[TFB_MAX_DIMS] = {0};
    tfb_tensor shape, a, b, y;
    random_shape(&shape, TFB_MAX_DIMS, 3);
    y = random_out(store_y, TFB_F32, shape.ndim, shape.shape);
    a = random_input(store_x, TFB_F32, &y);
    b = random_input(store_x, TFB_F32, &y);
    if (t_int(0, 9) == 0) a = y;
    if (t_int(0, 9) == 0) b = y;
    memcpy(store_want, store_y, STORE);
    if (count(y.ndim, y.shape))
        do { /* in double, where the sum or product of floats rounds once */
            const double p =
                value_of(TFB_F32, a.data == y.data
                                      ? element(&y, index)
                                      : (unsigned char *)a.data + source(&a, &y, index));
            const double q =
                value_of(TFB_F32, b.data == y.data
                                      ? element(&y, index)
                                      : (unsigned char *)b.data + source(&b, &y, index));
            const float want = (float)(multiply ? p * q : p + q);
            memcpy(store_want + (element(&y, index) - store_y), &want, 4);
        } while (next_index(y.ndim, y.shape, index));
    CHECK_OK(ctx, multiply ? tfb_mul(ctx, &a, &b, &y) : tfb_add(ctx, &a, &b, &y));
    CHECK_BITS((float *)(void *)store_y, (float *)(void *)store_want, STORE / 4,
               multiply ? "mul" : "add");
}

static void test_add_mul(void) {
    tfb_ctx ctx;
    int round;
    t_ctx(&ctx, NULL);
    fill_floats(store_x);
    fill_floats(store_y);
    for (round = 0; round < 1000; round++) {
        if (round % 100 == 0) fill_floats(store_y);
        binary_one(&ctx, round % 2);
    }
    tfb_ctx_free(&ctx);
}

static void test_add_mul_specials(void) {
    float a[6] = {INFINITY, INFINITY, NAN, 3e38f, -0.0f, 1e-40f};
    float b[6] = {1, -INFINITY, 1, 3e38f, -0.0f, 1e-5f}, y[6];
    float sum[6] = {INFINITY, NAN, NAN, INFINITY, -0.0f, 1e-5f};
    float product[6] = {INFINITY, -INFINITY, NAN, INFINITY, 0, 0};
    tfb_tensor A = tfb_view1(a, TFB_F32, 6), B = tfb_view1(b, TFB_F32, 6);
    tfb_tensor Y = tfb_view1(y, TFB_F32, 6);
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_add(&ctx, &A, &B, &Y));
    CHECK_BITS(y, sum, 6, "add");
    CHECK_OK(&ctx, tfb_mul(&ctx, &A, &B, &Y));
    product[5] = (float)((double)a[5] * (double)b[5]);
    CHECK_BITS(y, product, 6, "mul");
    CHECK_OK(&ctx, tfb_add(&ctx, &A, &A, &A));
    CHECK(a[5] == 2 * 1e-40f && a[0] == INFINITY, "in place, both inputs being y");
    tfb_ctx_free(&ctx);
}

/* --- embed. --- */
static void embed_one(tfb_ctx *ctx, tfb_dtype dtype) {
    tfb_idx index[TFB_MAX_DIMS] = {0}, V = t_int(1, 9), C, row[2];
    int32_t store_ids[4096];
    tfb_tensor table, ids, y;
    int i;
    for (i = 0; i < 4096; i++) store_ids[i] = (int32_t)t_int(0, V - 1);
    C = t_int(0, 17);
    row[0] = V;
    row[1] = C;
    table = random_out(store_x, dtype, 2, row);
    ids = random_view((unsigned char *)store_ids, TFB_I32, C < 3 ? TFB_MAX_DIMS - 1 : 3);
    ids.data = store_ids + 2048;
    for (i = 0; i < ids.ndim; i++) ids.stride[i] = t_int(-9, 9);
    memcpy(index, ids.shape, sizeof index);
    index[ids.ndim] = C;
    y = random_out(store_y, TFB_F32, ids.ndim + 1, index);
    memset(index, 0, sizeof index);
    memcpy(store_want, store_y, STORE);
    CHECK_OK(ctx, tfb_embed(ctx, &table, &ids, &y));
    if (count(y.ndim, y.shape)) do {
            row[0] = ((int32_t *)ids.data)[dot(ids.ndim, index, ids.stride)];
            row[1] = index[ids.ndim];
            CHECK(stored_right(TFB_F32, element(&y, index),
                               value_of(dtype, element(&table, row))),
                  "row %d, column %d", (int)row[0], (int)row[1]);
            memcpy(store_want + (element(&y, index) - store_y), element(&y, index), 4);
        } while (next_index(y.ndim, y.shape, index));
    CHECK(!memcmp(store_y, store_want, STORE), "wrote outside y");
}

static void test_embed(void) {
    tfb_ctx ctx;
    int round;
    t_ctx(&ctx, NULL);
    fill_bytes(store_x);
    fill_floats(store_y);
    for (round = 0; round < 600; round++) embed_one(&ctx, any_dtype[round % 3]);
    tfb_ctx_free(&ctx);
}

static void test_embed_errors(void) {
    static const int32_t bad[] = {-1, 3, INT32_MAX, INT32_MIN};
    float table[6] = {0}, y[12];
    int32_t ids[4] = {0, 1, 2, 0};
    tfb_tensor T = tfb_view2(table, TFB_F32, 3, 2), I = tfb_view1(ids, TFB_I32, 4);
    tfb_tensor Y = tfb_view2(y, TFB_F32, 4, 2), t;
    char text[80];
    int i, k;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    memset(y, 0x55, sizeof y);
    for (i = 0; i < 4; i++) {
        ids[2] = bad[i];
        ids[3] = -7; /* not the first */
        sprintf(text, "tfb_embed: ids number 2 is %ld, table has 3 rows", (long)bad[i]);
        CHECK_FAILS(&ctx, TFB_ERR_RANGE, text, tfb_embed(&ctx, &T, &I, &Y));
    }
    ids[2] = ids[3] = 0;
    t = tfb_view2(y, TFB_F32, 4, 3);
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_embed: y.shape[1] is 3, needs 2",
                tfb_embed(&ctx, &T, &I, &t));
    t = tfb_view2(y, TFB_F32, 5, 2);
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_embed: y.shape[0] is 5, needs 4",
                tfb_embed(&ctx, &T, &I, &t));
    t = tfb_view1(y, TFB_F32, 8);
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_embed: y.ndim is 1, needs 2",
                tfb_embed(&ctx, &T, &I, &t));
    t = tfb_view3(table, TFB_F32, 1, 3, 2);
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_embed: table.ndim is 3, needs 2 to 2",
                tfb_embed(&ctx, &t, &I, &Y));
    T.shape[0] = 0; /* a table without rows fits only no ids */
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "table has 0 rows", tfb_embed(&ctx, &T, &I, &Y));
    I.shape[0] = Y.shape[0] = 0;
    CHECK_OK(&ctx, tfb_embed(&ctx, &T, &I, &Y));
    for (k = 0; k < 48; k++) CHECK(((unsigned char *)y)[k] == 0x55, "y changed");
    tfb_ctx_free(&ctx);
}

/* --- argmax. --- */
static void argmax_one(tfb_ctx *ctx) {
    tfb_idx index[TFB_MAX_DIMS] = {0}, n, j;
    int32_t *base = (int32_t *)(void *)store_y;
    tfb_tensor x = random_view(store_x, TFB_F32, TFB_MAX_DIMS), y;
    if (x.ndim == 0) x.ndim = 1;
    n = x.shape[x.ndim - 1] = t_int(1, 20);
    x.stride[x.ndim - 1] = t_int(-3, 3);
    y = random_out(store_y, TFB_I32, x.ndim - 1, x.shape);
    memcpy(store_want, store_y, STORE);
    CHECK_OK(ctx, tfb_argmax(ctx, &x, &y));
    if (count(y.ndim, y.shape)) do {
            const int32_t got = base[(element(&y, index) - store_y) / 4];
            int32_t want = -1;
            double best = 0;
            for (j = 0; j < n; j++) {
                double v;
                index[y.ndim] = j;
                v = value_of(TFB_F32, element(&x, index));
                if (want < 0 || (best == best && (v != v || v > best))) {
                    want = (int32_t)j;
                    best = v;
                }
            }
            CHECK(got == want, "%d, wanted %d of %d", (int)got, (int)want, (int)n);
            memcpy(store_want + (element(&y, index) - store_y), &want, 4);
        } while (next_index(y.ndim, y.shape, index));
    CHECK(!memcmp(store_y, store_want, STORE), "wrote outside y");
}

static void test_argmax(void) {
    tfb_ctx ctx;
    int round, i;
    t_ctx(&ctx, NULL);
    fill_floats(store_x);
    for (i = 0; i < STORE / 4; i++) { /* ties everywhere, NaN and both infinities */
        const tfb_idx k = t_int(0, 60);
        float f = k == 0   ? NAN
                  : k == 1 ? INFINITY
                  : k < 5  ? -INFINITY
                  : k < 9  ? -0.0f
                           : 0;
        if (k > 20) f = (float)t_int(-3, 3);
        memcpy(store_x + 4 * i, &f, 4);
    }
    for (round = 0; round < 1000; round++) argmax_one(&ctx);
    tfb_ctx_free(&ctx);
}

static void test_argmax_rows(void) {
    const struct { /* not static: to tcc INFINITY is no constant */
        float x[4];
        int32_t want;
    } rows[] = {{{1, 3, 3, 2}, 1},
                {{-0.0f, 0.0f, -1, 0.0f}, 0},
                {{5, NAN, 9, NAN}, 1},
                {{INFINITY, NAN, 0, 0}, 1},
                {{-NAN, INFINITY, 0, 0}, 0},
                {{-INFINITY, -INFINITY, -INFINITY, -INFINITY}, 0},
                {{-INFINITY, -FLT_MAX, -INFINITY, -FLT_MAX}, 1},
                {{1e-45f, 0, 4e-45f, 1e-45f}, 2}};
    const int n = (int)(sizeof rows / sizeof *rows);
    tfb_ctx ctx;
    int i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < n; i++) {
        int32_t got = -5;
        tfb_tensor x = tfb_view1(rows[i].x, TFB_F32, 4), y = tfb_view1(&got, TFB_I32, 1);
        y.ndim = 0;
        CHECK_OK(&ctx, tfb_argmax(&ctx, &x, &y));
        CHECK(got == rows[i].want, "row %d: %d", i, (int)got);
    }
    tfb_ctx_free(&ctx);
}

static void test_argmax_errors(void) {
    float x[6] = {0};
    int32_t out[3] = {-5, -5, -5};
    tfb_tensor X = tfb_view2(x, TFB_F32, 3, 0), Y = tfb_view1(out, TFB_I32, 3);
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    CHECK_FAILS(&ctx, TFB_ERR_RANGE,
                "tfb_argmax: x.shape[1] is 0, must be 1 to 2147483647",
                tfb_argmax(&ctx, &X, &Y));
    X = tfb_view2(x, TFB_F32, 2, 3);
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_argmax: y.shape[0] is 3, needs 2",
                tfb_argmax(&ctx, &X, &Y));
    Y = tfb_view2(out, TFB_I32, 2, 1);
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_argmax: y.ndim is 2, needs 1 to 1",
                tfb_argmax(&ctx, &X, &Y));
    X.ndim = 0;
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_argmax: x.ndim is 0, needs 1",
                tfb_argmax(&ctx, &X, &Y));
    Y = tfb_view1(x, TFB_I32, 2);
    X = tfb_view2(x, TFB_F32, 2, 3);
    CHECK_FAILS(&ctx, TFB_ERR_ALIAS, "tfb_argmax: y overlaps x",
                tfb_argmax(&ctx, &X, &Y));
    if (sizeof(tfb_idx) > 4) {
        X = tfb_view2(x, TFB_F32, 0, (tfb_idx)INT32_MAX + (sizeof(tfb_idx) > 4));
        Y = tfb_view1(out, TFB_I32, 0);
        CHECK_FAILS(&ctx, TFB_ERR_RANGE, "is 2147483648", tfb_argmax(&ctx, &X, &Y));
    }
    CHECK(out[0] == -5 && out[1] == -5 && out[2] == -5, "y changed");
    tfb_ctx_free(&ctx);
}

/* --- Overlap. --- */
/* Which bytes of the storage a tensor has; 1 if it has one twice. */
static int mark_bytes(const tfb_tensor *t, char *mark) {
    tfb_idx index[TFB_MAX_DIMS] = {0};
    const size_t bytes = tfb_dtype_size(t->dtype);
    int twice = 0;
    memset(mark, 0, STORE);
    if (count(t->ndim, t->shape) == 0) return 0;
    do {
        char *p = mark + (element(t, index) - store_y);
        twice |= *p;
        memset(p, 1, bytes);
    } while (next_index(t->ndim, t->shape, index));
    return twice;
}

static int share_bytes(const tfb_tensor *a, const tfb_tensor *b) {
    static char of_a[STORE], of_b[STORE];
    int i;
    mark_bytes(a, of_a);
    mark_bytes(b, of_b);
    for (i = 0; i < STORE; i++)
        if (of_a[i] && of_b[i]) return 1;
    return 0;
}

static tfb_tensor small_view(tfb_idx ndim, const tfb_idx *shape, tfb_dtype dtype) {
    tfb_tensor t;
    int d;
    memset((void *)&t, 0, sizeof t);
    t.dtype = dtype;
    t.ndim = (int)ndim;
    t.data = store_y + STORE / 2 + 4 * t_int(0, 12);
    for (d = 0; d < t.ndim; d++) {
        t.shape[d] = shape[d];
        t.stride[d] = t_int(-6, 6) * (t_int(0, 2) ? 1 : 5);
    }
    return t;
}

/* Soundness: whatever is accepted shares no byte (or is one and the same view), and no
 * output that is accepted has an element twice. */
static void test_overlap_is_found(void) {
    static char mark[STORE];
    long clean = 0, alias = 0, twice = 0;
    tfb_ctx ctx;
    int round;
    t_ctx(&ctx, NULL);
    for (round = 0; round < 3000; round++) {
        tfb_idx shape[3];
        tfb_tensor x, y;
        tfb_status status;
        shape[0] = t_int(1, 3);
        shape[1] = t_int(1, 4);
        shape[2] = t_int(1, 2);
        x = small_view(t_int(1, 3), shape, t_int(0, 2) ? TFB_F32 : TFB_F16);
        y = small_view(x.ndim, shape, t_int(0, 4) ? TFB_F32 : TFB_BF16);
        status = tfb_copy(&ctx, &x, &y);
        if (status == TFB_OK) {
            CHECK(!share_bytes(&x, &y) || tfb__same_view(&x, &y), "overlap accepted");
            CHECK(!mark_bytes(&y, mark), "an output has an element twice");
        }
        CHECK(status == TFB_OK || status == TFB_ERR_ALIAS || status == TFB_ERR_SHAPE,
              "%d", (int)status);
        clean += status == TFB_OK;
        alias += status == TFB_ERR_ALIAS;
        twice += status == TFB_ERR_SHAPE;
    }
    CHECK(clean > 100 && alias > 100 && twice > 100, "%ld, %ld, %ld", clean, alias,
          twice);
    tfb_ctx_free(&ctx);
}

/* Exactness: columns c0 .. c1 - 1 of rows of one pitch, in one, two and three row
 * dimensions, permuted at will: refused if and only if they meet. */
static tfb_tensor columns(tfb_ctx *ctx, const tfb_tensor *all, tfb_idx c0, tfb_idx n,
                          const int *order) {
    tfb_tensor t;
    CHECK_OK(ctx, tfb_slice(ctx, all, -1, c0, n, &t));
    CHECK_OK(ctx, tfb_permute(ctx, &t, order, &t));
    return t;
}

static void test_overlap_of_columns(void) {
    static const int orders[3][4] = {{0, 1, 2, 3}, {1, 0, 2, 3}, {2, 3, 0, 1}};
    static float buffer[2 * 3 * 4 * 13];
    long clean = 0, alias = 0;
    tfb_ctx ctx;
    int round;
    t_ctx(&ctx, NULL);
    for (round = 0; round < 3000; round++) {
        tfb_tensor all = tfb_view4(buffer, TFB_F32, 2, 3, t_int(2, 4), 13), x, y;
        const tfb_idx n = t_int(1, 6), c0 = t_int(0, 13 - n), c1 = t_int(0, 13 - n);
        const int *order = orders[round % 3];
        const int meet = c0 < c1 + n && c1 < c0 + n && c0 != c1;
        x = columns(&ctx, &all, c0, n, order);
        y = columns(&ctx, &all, c1, n, order);
        if (meet)
            CHECK_FAILS(&ctx, TFB_ERR_ALIAS, "tfb_copy: y overlaps x",
                        tfb_copy(&ctx, &x, &y));
        else CHECK_OK(&ctx, tfb_copy(&ctx, &x, &y));
        if (!meet) CHECK_OK(&ctx, tfb_add(&ctx, &x, &y, &y));
        if (!meet) CHECK_OK(&ctx, tfb_mul(&ctx, &y, &x, &y));
        clean += !meet;
        alias += meet;
    }
    CHECK(clean > 500 && alias > 500, "%ld, %ld", clean, alias);
    tfb_ctx_free(&ctx);
}

/* Neighbours, rows of one buffer, the same elements in another order, a broadcast of y's
 * own row, another dtype in the same place. */
static void test_overlap_cases(void) {
    static float buffer[64];
    static const int swap[2] = {1, 0};
    tfb_tensor all = tfb_view2(buffer, TFB_F32, 8, 8), x, y;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_slice(&ctx, &all, 0, 0, 4, &x));
    CHECK_OK(&ctx, tfb_slice(&ctx, &all, 0, 4, 4, &y));
    CHECK_OK(&ctx, tfb_copy(&ctx, &x, &y));
    CHECK_OK(&ctx, tfb_slice(&ctx, &all, 0, 3, 4, &y));
    CHECK_FAILS(&ctx, TFB_ERR_ALIAS, "overlaps x", tfb_copy(&ctx, &x, &y));
    CHECK_OK(&ctx, tfb_permute(&ctx, &all, swap, &x));
    CHECK_FAILS(&ctx, TFB_ERR_ALIAS, "overlaps x", tfb_copy(&ctx, &x, &all));
    CHECK_OK(&ctx, tfb_slice(&ctx, &all, 0, 0, 1, &x));
    CHECK_FAILS(&ctx, TFB_ERR_ALIAS, "tfb_add: y overlaps b",
                tfb_add(&ctx, &all, &x, &all));
    CHECK_FAILS(&ctx, TFB_ERR_ALIAS, "tfb_mul: y overlaps a",
                tfb_mul(&ctx, &x, &all, &all));
    x = tfb_view2(buffer, TFB_F16, 8, 8);
    CHECK_FAILS(&ctx, TFB_ERR_ALIAS, "overlaps x", tfb_copy(&ctx, &x, &all));
    x = all;
    x.data = buffer + 63;
    x.stride[0] = -8;
    x.stride[1] = -1;
    CHECK_FAILS(&ctx, TFB_ERR_ALIAS, "overlaps x", tfb_copy(&ctx, &x, &all));
    CHECK_OK(&ctx, tfb_copy(&ctx, &all, &all));
    x = tfb_view2(buffer, TFB_F32, 2, 4);
    y = tfb_view1(buffer + 32, TFB_I32, 2);
    all = tfb_view2(buffer, TFB_F32, 8, 4);
    CHECK_FAILS(&ctx, TFB_ERR_ALIAS, "tfb_embed: y overlaps table",
                tfb_embed(&ctx, &all, &y, &x));
    all = tfb_view2(buffer + 40, TFB_F32, 4, 4);
    y = tfb_view1(buffer + 6, TFB_I32, 2);
    CHECK_FAILS(&ctx, TFB_ERR_ALIAS, "tfb_embed: y overlaps ids",
                tfb_embed(&ctx, &all, &y, &x));
    tfb_ctx_free(&ctx);
}

static void test_output_strides(void) {
    static const struct {
        tfb_idx shape[2], stride[2];
        int bad; /* the dimension the message names; -1 if legal */
    } rows[] = {{{3, 4}, {4, 1}, -1}, {{3, 4}, {3, 1}, 0},   {{3, 4}, {0, 1}, 0},
                {{3, 4}, {1, 3}, -1}, {{3, 4}, {1, 2}, 1},   {{3, 4}, {4, 0}, 1},
                {{1, 4}, {0, 1}, -1}, {{3, 1}, {1, 0}, -1},  {{3, 4}, {-4, 1}, -1},
                {{3, 4}, {-3, 1}, 0}, {{0, 4}, {0, 0}, -1},  {{3, 4}, {9, -2}, -1},
                {{3, 4}, {6, -2}, 0}, {{1, 1}, {-7, 0}, -1}, {{2, 2}, {1, 1}, 1}};
    char text[60];
    tfb_ctx ctx;
    size_t i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < sizeof rows / sizeof *rows; i++) {
        tfb_tensor x = tfb_view2(store_x, TFB_F32, rows[i].shape[0], rows[i].shape[1]);
        tfb_tensor y = x;
        y.data = store_y + STORE / 2;
        y.stride[0] = rows[i].stride[0];
        y.stride[1] = rows[i].stride[1];
        memcpy(store_want, store_y, STORE);
        if (rows[i].bad < 0) {
            CHECK_OK(&ctx, tfb_add(&ctx, &x, &x, &y));
            CHECK_OK(&ctx, tfb_copy(&ctx, &x, &y));
            continue;
        }
        sprintf(text, "y.stride[%d] is %d: elements would overlap", rows[i].bad,
                (int)rows[i].stride[rows[i].bad]);
        if (rows[i].shape[0] == 2) strcpy(text, "elements would overlap");
        CHECK_FAILS(&ctx, TFB_ERR_SHAPE, text, tfb_copy(&ctx, &x, &y));
        CHECK_FAILS(&ctx, TFB_ERR_SHAPE, text, tfb_add(&ctx, &x, &x, &y));
        CHECK_FAILS(&ctx, TFB_ERR_SHAPE, text, tfb_mul(&ctx, &x, &x, &y));
        CHECK(!memcmp(store_y, store_want, STORE), "row %d: y changed", (int)i);
    }
    tfb_ctx_free(&ctx);
}

/* --- Bad tensors: the same faults for every argument of every function. --- */
typedef struct call {
    const char *name, *arg[3];
    int args;
    tfb_dtype dtype[3];
    tfb_status (*run)(tfb_ctx *ctx, tfb_tensor *const *t);
} call;

static tfb_tensor view_out, view_before; /* what slice, permute and reshape write */

static tfb_status run_copy(tfb_ctx *ctx, tfb_tensor *const *t) {
    return tfb_copy(ctx, t[0], t[1]);
}

static tfb_status run_add(tfb_ctx *ctx, tfb_tensor *const *t) {
    return tfb_add(ctx, t[0], t[1], t[2]);
}

static tfb_status run_mul(tfb_ctx *ctx, tfb_tensor *const *t) {
    return tfb_mul(ctx, t[0], t[1], t[2]);
}

static tfb_status run_map(tfb_ctx *ctx, tfb_tensor *const *t) {
    return tfb_map(ctx, TFB_FN_EXP, t[0], t[1]);
}

static tfb_status run_embed(tfb_ctx *ctx, tfb_tensor *const *t) {
    return tfb_embed(ctx, t[0], t[1], t[2]);
}

static tfb_status run_argmax(tfb_ctx *ctx, tfb_tensor *const *t) {
    return tfb_argmax(ctx, t[0], t[1]);
}

static tfb_status run_slice(tfb_ctx *ctx, tfb_tensor *const *t) {
    return tfb_slice(ctx, t[0], 0, 0, 1, &view_out);
}

static tfb_status run_permute(tfb_ctx *ctx, tfb_tensor *const *t) {
    static const int order[2] = {1, 0};
    return tfb_permute(ctx, t[0], order, &view_out);
}

static tfb_status run_reshape(tfb_ctx *ctx, tfb_tensor *const *t) {
    static const tfb_idx shape[1] = {6};
    return tfb_reshape(ctx, t[0], 1, shape, &view_out);
}

static const call calls[] = {
    {"tfb_copy", {"x", "y", ""}, 2, {TFB_F32, TFB_F32, TFB_F32}, run_copy},
    {"tfb_add", {"a", "b", "y"}, 3, {TFB_F32, TFB_F32, TFB_F32}, run_add},
    {"tfb_mul", {"a", "b", "y"}, 3, {TFB_F32, TFB_F32, TFB_F32}, run_mul},
    {"tfb_map", {"x", "y", ""}, 2, {TFB_F32, TFB_F32, TFB_F32}, run_map},
    {"tfb_embed", {"table", "ids", "y"}, 3, {TFB_F32, TFB_I32, TFB_F32}, run_embed},
    {"tfb_argmax", {"x", "y", ""}, 2, {TFB_F32, TFB_I32, TFB_F32}, run_argmax},
    {"tfb_slice", {"t", "", ""}, 1, {TFB_F32, TFB_F32, TFB_F32}, run_slice},
    {"tfb_permute", {"t", "", ""}, 1, {TFB_F32, TFB_F32, TFB_F32}, run_permute},
    {"tfb_reshape", {"t", "", ""}, 1, {TFB_F32, TFB_F32, TFB_F32}, run_reshape}};
enum { CALLS = (int)(sizeof calls / sizeof *calls) };

/* Makes t wrong in one way and says what must come of it; 0 past the last way. */
static int spoil(int fault, tfb_tensor *t, tfb_status *status, const char **text) {
    static const struct {
        tfb_status status;
        const char *text;
    } faults[] = {{TFB_ERR_ARG, ".data is NULL"},
                  {TFB_ERR_ARG, ".data is not aligned to its dtype"},
                  {TFB_ERR_SHAPE, ".ndim is 7, must be 0 to 6"},
                  {TFB_ERR_SHAPE, ".ndim is -1, must be 0 to 6"},
                  {TFB_ERR_SHAPE, ".shape[0] is -2"},
                  {TFB_ERR_DTYPE, ".dtype is 77, which is none"},
                  {TFB_ERR_DTYPE, ".dtype is "},
                  {TFB_ERR_DTYPE, " is PACKED_F32, which it does not take"},
                  {TFB_ERR_RANGE, " overflows"},
                  {TFB_ERR_RANGE, " overflows"}};
    if (fault >= (int)(sizeof faults / sizeof *faults)) return 0;
    *status = faults[fault].status;
    *text = faults[fault].text;
    switch (fault) {
    case 0: t->data = NULL; break;
    case 1: t->data = (char *)t->data + 1; break;
    case 2: t->ndim = 7; break;
    case 3: t->ndim = -1; break;
    case 4: t->shape[0] = -2; break;
    case 5: t->dtype = (tfb_dtype)77; break;
    case 6: t->dtype = (tfb_dtype)-1; break;
    case 7: t->dtype = TFB_PACKED_F32; break;
    case 8: t->shape[0] = PTRDIFF_MAX; break;
    default: t->stride[0] = -PTRDIFF_MAX; break;
    }
    return 1;
}

/* The arguments of a good call: tables and values [2, 3], indices [2]. */
static void good_call(const call *c, tfb_tensor *t) {
    int i;
    for (i = 0; i < 3; i++) {
        unsigned char *data = i == c->args - 1 ? store_y : store_x + 1024 * i;
        t[i] = tfb_view2(data, c->dtype[i], 2, 3);
        if (c->dtype[i] == TFB_I32) t[i] = tfb_view1(data, TFB_I32, 2);
    }
}

static void spoil_one(tfb_ctx *ctx, const call *c, int arg) {
    tfb_tensor t[3], *p[3];
    char text[120];
    const char *why;
    tfb_status status;
    int fault, i;
    for (fault = -1;; fault++) {
        good_call(c, t);
        for (i = 0; i < 3; i++) p[i] = &t[i];
        CHECK_OK(ctx, c->run(ctx, p));
        memcpy(store_want, store_y, STORE);
        memset((void *)&view_out, 0x44, sizeof view_out);
        view_before = view_out;
        if (fault < 0) {
            p[arg] = NULL;
            status = TFB_ERR_ARG;
            why = " is NULL";
        } else if (!spoil(fault, p[arg], &status, &why)) return;
        sprintf(text, status == TFB_ERR_RANGE ? "%s: the size of %s%s" : "%s: %s%s",
                c->name, c->arg[arg], why);
        CHECK_FAILS(ctx, status, text, c->run(ctx, p));
        CHECK(!memcmp(store_y, store_want, STORE), "%s: output changed", c->name);
        CHECK(!memcmp(&view_out, &view_before, sizeof view_out), "%s: out changed",
              c->name);
    }
}

static void test_bad_tensors(void) {
    tfb_ctx ctx;
    int i, arg;
    t_ctx(&ctx, NULL);
    memset(store_x, 0, STORE);
    for (i = 0; i < CALLS; i++)
        for (arg = 0; arg < calls[i].args; arg++) spoil_one(&ctx, &calls[i], arg);
    tfb_ctx_free(&ctx);
}

static void test_no_context(void) {
    tfb_tensor t[3], *p[3];
    int i, k;
    for (i = 0; i < CALLS; i++) {
        good_call(&calls[i], t);
        for (k = 0; k < 3; k++) p[k] = &t[k];
        memcpy(store_want, store_y, STORE);
        CHECK(calls[i].run(NULL, p) == TFB_ERR_ARG, "%s", calls[i].name);
        CHECK(!memcmp(store_y, store_want, STORE), "%s: y changed", calls[i].name);
    }
}

/* Each argument refuses every dtype that it does not take. */
static void test_wrong_dtype(void) {
    char text[100];
    tfb_ctx ctx;
    int i, arg, k;
    t_ctx(&ctx, NULL);
    for (i = 1; i < 6; i++) /* copy has its own test, views take all */
        for (arg = 0; arg < calls[i].args; arg++)
            for (k = 0; k < 5; k++) {
                const int table = calls[i].run == run_embed && arg == 0;
                tfb_tensor t[3], *p[3];
                good_call(&calls[i], t);
                p[0] = &t[0];
                p[1] = &t[1];
                p[2] = &t[2];
                if (any_dtype[k] == t[arg].dtype || (table && k < 3)) continue;
                t[arg].dtype = any_dtype[k];
                memcpy(store_want, store_y, STORE);
                sprintf(text, "%s: %s is %s, which it does not take", calls[i].name,
                        calls[i].arg[arg], tfb__dtype_text(any_dtype[k]));
                CHECK_FAILS(&ctx, TFB_ERR_DTYPE, text, calls[i].run(&ctx, p));
                CHECK(!memcmp(store_y, store_want, STORE), "%s: y changed",
                      calls[i].name);
            }
    tfb_ctx_free(&ctx);
}

static void test_wrong_broadcast(void) {
    tfb_tensor x = tfb_view2(store_x, TFB_F32, 2, 3),
               y = tfb_view2(store_y, TFB_F32, 2, 4);
    tfb_tensor row = tfb_view1(store_x, TFB_F32, 4),
               wide = tfb_view3(store_x, TFB_F32, 1, 2, 4);
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    memcpy(store_want, store_y, STORE);
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_copy: x.shape[1] is 3, needs 4",
                tfb_copy(&ctx, &x, &y));
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_add: a.shape[1] is 3, needs 4",
                tfb_add(&ctx, &x, &row, &y));
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_mul: b.shape[1] is 3, needs 4",
                tfb_mul(&ctx, &row, &x, &y));
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_copy: x.ndim is 3, y has 2",
                tfb_copy(&ctx, &wide, &y));
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_add: b.ndim is 3, y has 2",
                tfb_add(&ctx, &row, &wide, &y));
    row.shape[0] = 0; /* nothing is not repeated */
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_copy: x.shape[0] is 0, needs 4",
                tfb_copy(&ctx, &row, &y));
    CHECK(!memcmp(store_y, store_want, STORE), "y changed");
    y.shape[1] = 0; /* but one element is repeated no times */
    row.shape[0] = 1;
    CHECK_OK(&ctx, tfb_copy(&ctx, &row, &y));
    CHECK(!memcmp(store_y, store_want, STORE), "y changed");
    tfb_ctx_free(&ctx);
}

static void test_view_errors(void) {
    static const int twice[2] = {0, 0}, beyond[2] = {0, 2}, below[2] = {-3, 0};
    static const tfb_idx five[1] = {5}, two_free[2] = {-1, -1}, odd[2] = {-1, 4};
    static const tfb_idx negative[2] = {-2, 3}, empty[2] = {-1, 0};
    const tfb_idx huge[2] = {PTRDIFF_MAX, PTRDIFF_MAX};
    tfb_tensor t = tfb_view2(store_x, TFB_F32, 2, 3), out, before;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    memset((void *)&out, 0x22, sizeof out);
    before = out;
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_slice: out is NULL",
                tfb_slice(&ctx, &t, 0, 0, 1, NULL));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_slice: dim is 2, t.ndim is 2",
                tfb_slice(&ctx, &t, 2, 0, 1, &out));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "dim is -3", tfb_slice(&ctx, &t, -3, 0, 1, &out));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "tfb_slice: start 2, length 2, t.shape[1] is 3",
                tfb_slice(&ctx, &t, -1, 2, 2, &out));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "start -1", tfb_slice(&ctx, &t, 0, -1, 1, &out));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "length -1", tfb_slice(&ctx, &t, 0, 0, -1, &out));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "start 3", tfb_slice(&ctx, &t, 0, 3, 0, &out));
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "start 1",
                tfb_slice(&ctx, &t, 0, 1, PTRDIFF_MAX, &out));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_permute: order is NULL",
                tfb_permute(&ctx, &t, NULL, &out));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_permute: out is NULL",
                tfb_permute(&ctx, &t, twice, NULL));
    CHECK_FAILS(&ctx, TFB_ERR_ARG,
                "tfb_permute: order[1] is 0, must name each of 2 dimensions once",
                tfb_permute(&ctx, &t, twice, &out));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "order[1] is 2", tfb_permute(&ctx, &t, beyond, &out));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "order[0] is -3", tfb_permute(&ctx, &t, below, &out));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_reshape: shape is NULL",
                tfb_reshape(&ctx, &t, 1, NULL, &out));
    CHECK_FAILS(&ctx, TFB_ERR_ARG, "tfb_reshape: out is NULL",
                tfb_reshape(&ctx, &t, 1, five, NULL));
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "ndim is 7", tfb_reshape(&ctx, &t, 7, five, &out));
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "ndim is -1", tfb_reshape(&ctx, &t, -1, five, &out));
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_reshape: t has 6 elements, the new shape 5",
                tfb_reshape(&ctx, &t, 1, five, &out));
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "t has 6 elements, the new shape 4",
                tfb_reshape(&ctx, &t, 2, odd, &out));
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_reshape: shape[1] is -1",
                tfb_reshape(&ctx, &t, 2, two_free, &out));
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "tfb_reshape: shape[0] is -2",
                tfb_reshape(&ctx, &t, 2, negative, &out));
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "t has 6 elements",
                tfb_reshape(&ctx, &t, 2, empty, &out));
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "t has 6 elements",
                tfb_reshape(&ctx, &t, 2, huge, &out));
    t.shape[0] = 0;
    CHECK_FAILS(&ctx, TFB_ERR_SHAPE, "t has 0 elements",
                tfb_reshape(&ctx, &t, 2, empty, &out));
    CHECK(!memcmp(&out, &before, sizeof out), "out changed");
    tfb_ctx_free(&ctx);
}

int main(void) {
    free(t_floats(1));
    RUN(test_views);
    RUN(test_views_overflow);
    RUN(test_wide_strides);
    RUN(test_view_chains);
    RUN(test_tensor_new);
    RUN(test_tensor_new_empty);
    RUN(test_tensor_new_errors);
    RUN(test_half_round_trip);
    RUN(test_half_rounding);
    RUN(test_half_specials);
    RUN(test_integers);
    RUN(test_copy_views);
    RUN(test_copy_dtypes);
    RUN(test_add_mul);
    RUN(test_add_mul_specials);
    RUN(test_embed);
    RUN(test_embed_errors);
    RUN(test_argmax);
    RUN(test_argmax_rows);
    RUN(test_argmax_errors);
    RUN(test_overlap_is_found);
    RUN(test_overlap_of_columns);
    RUN(test_overlap_cases);
    RUN(test_output_strides);
    RUN(test_bad_tensors);
    RUN(test_no_context);
    RUN(test_wrong_dtype);
    RUN(test_wrong_broadcast);
    RUN(test_view_errors);
    FINISH();
}
