/* tfb_attention: by bits against tfb__attention_ref over shapes, masks, layouts, threads
 * and tables; the reference against float64; scratch; bad input. */
#include "../test.h"
#include <math.h>

#define HUGE_EXTENT ((tfb_idx)1 << (sizeof(tfb_idx) * 4 + 8)) /* its square overflows */
#define SENTINEL    (-777.0f)

/* How the tensors of a call lie in memory. PACKED is one [B, T, H + 2 G, D] projection,
 * HEADWISE one [B, T, H, 3, D]; both need S = T and Dv = D, HEADWISE G = H too. */
typedef enum layout { DENSE, TOKENS, GAPS, PACKED, HEADWISE, LAYOUTS } layout;

typedef struct call {
    tfb_idx B, H, G, T, S, D, Dv;
    tfb_attention_opts o;
    tfb_tensor q, k, v, y, lse;
    float *mem[5];
    tfb_idx y_floats, lse_floats; /* of memory, gaps included */
} call;

/* [n0, n1, n2, n3] of random numbers in a block of exactly the size it needs. */
static tfb_tensor strided(float **mem, tfb_idx *floats, layout how, tfb_idx n0,
                          tfb_idx n1, tfb_idx n2, tfb_idx n3) {
    const tfb_idx row = how == GAPS ? 2 * n3 + 3 : n3;
    tfb_tensor t = tfb_view4(NULL, TFB_F32, n0, n1, n2, n3);
    *floats = n0 * n1 * n2 * row;
    t.data = *mem = t_floats(*floats);
    if (how == TOKENS) {
        t.stride[2] = n1 * n3;
        t.stride[1] = n3;
    } else if (how == GAPS && *floats) { /* last token first, every second channel */
        t.stride[3] = 2;
        t.stride[2] = -row;
        t.stride[1] = n2 * row;
        t.stride[0] = n1 * n2 * row;
        t.data = *mem + (n2 - 1) * row;
    }
    return t;
}

/* `heads` heads from number `first` on of [B, T, all, D], `step` heads apart. */
static tfb_tensor heads_of(float *mem, const call *c, tfb_idx all, tfb_idx first,
                           tfb_idx heads, tfb_idx step) {
    tfb_tensor t = tfb_view4(mem + first * c->D, TFB_F32, c->B, heads, c->T, c->D);
    t.stride[0] = c->T * all * c->D;
    t.stride[1] = step * c->D;
    t.stride[2] = all * c->D;
    return t;
}

static void call_clear(call *c) { /* what shows that an output was not written */
    tfb_idx i;
    for (i = 0; i < c->y_floats; i++) c->mem[3][i] = SENTINEL;
    for (i = 0; i < c->lse_floats; i++) c->mem[4][i] = SENTINEL;
}

/* Allocates a call of the sizes in c; c->o.lse is set. */
static void call_new(call *c, layout how) {
    const tfb_idx all = c->H + 2 * c->G;
    const layout out = how == PACKED || how == HEADWISE ? TOKENS : how;
    tfb_idx n;
    memset(c->mem, 0, sizeof c->mem);
    if (how == PACKED || how == HEADWISE) {
        float *mem = c->mem[0] = t_floats(c->B * c->T * all * c->D);
        const tfb_idx H = c->H, G = c->G, step = how == PACKED ? 1 : 3;
        c->q = heads_of(mem, c, all, 0, H, step);
        c->k = heads_of(mem, c, all, how == PACKED ? H : 1, G, step);
        c->v = heads_of(mem, c, all, how == PACKED ? H + G : 2, G, step);
    } else {
        c->q = strided(c->mem, &n, how, c->B, c->H, c->T, c->D);
        c->k = strided(c->mem + 1, &n, how, c->B, c->G, c->S, c->D);
        c->v = strided(c->mem + 2, &n, how, c->B, c->G, c->S, c->Dv);
    }
    c->y = strided(c->mem + 3, &c->y_floats, out, c->B, c->H, c->T, c->Dv);
    c->lse = strided(c->mem + 4, &c->lse_floats, out, c->B, c->H, c->T, 1);
    c->lse.ndim = 3;
    c->o.lse = &c->lse;
    call_clear(c);
}

static void call_free(call *c) {
    int i;
    for (i = 0; i < 5; i++) free(c->mem[i]);
}

static call call_of(tfb_idx B, tfb_idx H, tfb_idx G, tfb_idx T, tfb_idx S, tfb_idx D,
                    tfb_idx Dv) {
    call c;
    memset(&c, 0, sizeof c);
    c.B = B, c.H = H, c.G = G, c.T = T, c.S = S, c.D = D, c.Dv = Dv;
    return c;
}

static float *at4(const tfb_tensor *t, tfb_idx b, tfb_idx h, tfb_idx i, tfb_idx d) {
    return (float *)t->data + b * t->stride[0] + h * t->stride[1] + i * t->stride[2] +
           (t->ndim > 3 ? d * t->stride[3] : 0);
}

/* SEMANTICS section 3, one pair at a time. */
static int sees(const call *c, tfb_idx i, tfb_idx j) {
    const tfb_idx at = i + (c->o.causal == TFB_CAUSAL_OFFSET ? c->o.offset : c->S - c->T);
    if (c->o.causal == TFB_CAUSAL_NONE) return 1;
    return j <= at && (c->o.window == 0 || at - j < c->o.window);
}

static void visible(const call *c, tfb_idx i, tfb_idx *lo, tfb_idx *hi) {
    for (*lo = 0; *lo < c->S && !sees(c, i, *lo);) ++*lo;
    for (*hi = *lo; *hi < c->S && sees(c, i, *hi);) ++*hi;
}

/* One row by the reference: y[Dv]; returns lse. */
static float row_ref(const call *c, tfb_idx b, tfb_idx h, tfb_idx i, float *y) {
    static tfb_ctx ctx;
    float *work = t_floats(3 * c->D + 3 * c->Dv), lse = 0;
    tfb__attn a;
    if (!ctx.isa) tfb_ctx_init_static(&ctx, NULL, 0);
    tfb__attention_new(&a, &c->o);
    CHECK_OK(&ctx, tfb__attention_resolve(&ctx, "ref", &c->q, &c->k, &c->v, &a));
    lse = tfb__attention_ref(&a, b, h, i, work, y);
    free(work);
    return lse;
}

/* y and lse as dense arrays, whatever their strides. */
static void call_read(const call *c, float *y, float *lse) {
    tfb_idx b, h, i, d;
    for (b = 0; b < c->B; b++)
        for (h = 0; h < c->H; h++)
            for (i = 0; i < c->T; i++) {
                *lse++ = *at4(&c->lse, b, h, i, 0);
                for (d = 0; d < c->Dv; d++) *y++ = *at4(&c->y, b, h, i, d);
            }
}

static void call_expect(const call *c, float *y, float *lse) {
    tfb_idx b, h, i;
    for (b = 0; b < c->B; b++)
        for (h = 0; h < c->H; h++)
            for (i = 0; i < c->T; i++, y += c->Dv) *lse++ = row_ref(c, b, h, i, y);
}

static tfb_idx untouched(const float *p, tfb_idx n) {
    tfb_idx i, same = 0;
    const float s = SENTINEL;
    for (i = 0; i < n; i++) same += memcmp(p + i, &s, sizeof s) == 0;
    return same;
}

#define SIZES_TEXT                                                                       \
    "B %ld H %ld G %ld T %ld S %ld D %ld Dv %ld causal %d offset %ld window %ld "        \
    "pos0 %ld chunk %ld"
#define SIZES_OF(c)                                                                      \
    (long)(c)->B, (long)(c)->H, (long)(c)->G, (long)(c)->T, (long)(c)->S, (long)(c)->D,  \
        (long)(c)->Dv, (int)(c)->o.causal, (long)(c)->o.offset, (long)(c)->o.window,     \
        (long)(c)->o.key_pos0, (long)(c)->o.chunk_size

static void call_run(tfb_ctx *ctx, call *c) {
    CHECK_OK(ctx, tfb_attention(ctx, &c->q, &c->k, &c->v, &c->o, &c->y));
}

/* Compares every row with the reference; nothing beside the rows may be written. */
static void call_check(tfb_ctx *ctx, call *c) {
    const tfb_idx rows = c->B * c->H * c->T, n = rows * c->Dv;
    float *y = t_floats(n), *want = t_floats(n);
    float *lse = t_floats(rows), *lse_want = t_floats(rows);
    call_run(ctx, c);
    call_expect(c, want, lse_want);
    call_read(c, y, lse);
    CHECK_BITS(y, want, n, "y: " SIZES_TEXT, SIZES_OF(c));
    CHECK_BITS(lse, lse_want, rows, "lse: " SIZES_TEXT, SIZES_OF(c));
    CHECK(untouched(c->mem[3], c->y_floats) == c->y_floats - n &&
              untouched(c->mem[4], c->lse_floats) == c->lse_floats - rows,
          "wrote beside its rows: " SIZES_TEXT, SIZES_OF(c));
    free(y);
    free(want);
    free(lse);
    free(lse_want);
}

/* Allocates, checks, frees. */
static void one(tfb_ctx *ctx, call c, layout how) {
    call_new(&c, how);
    call_check(ctx, &c);
    call_free(&c);
}

static call random_mask(call c) {
    c.o.causal = (tfb_causal)t_int(0, 2);
    c.o.offset = t_int(-20, c.S + 20);
    if (c.o.causal) c.o.window = t_int(0, 1) * t_int(1, c.S + 10);
    c.o.chunk_size = t_int(0, 1) * t_int(1, 70);
    c.o.key_pos0 = t_int(0, 1) * t_int(0, 2000);
    return c;
}

/* The output of c as it is, in fresh memory: y, then lse. */
static float *call_result(const call *c) {
    float *all = t_floats(c->B * c->H * c->T * (c->Dv + 1));
    call_read(c, all, all + c->B * c->H * c->T * c->Dv);
    return all;
}

static tfb_idx result_floats(const call *c) {
    return c->B * c->H * c->T * (c->Dv + 1);
}

/* Runs c again (other context, other options) and compares with an earlier result. */
static void same_again(tfb_ctx *ctx, call *c, const float *before, const char *what,
                       long value) {
    float *now;
    call_clear(c);
    call_run(ctx, c);
    now = call_result(c);
    CHECK_BITS(now, before, result_floats(c), "%s %ld: " SIZES_TEXT, what, value,
               SIZES_OF(c));
    free(now);
}

/* --- Against the reference. --- */
static void random_shapes(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 150; it++) {
        const tfb_idx G = t_int(1, 2), H = G * t_int(1, 3);
        call c = call_of(t_int(1, 2), H, G, t_int(1, 70), t_int(1, 130), t_int(1, 40),
                         t_int(1, 40));
        one(&ctx, random_mask(c), (layout)t_int(DENSE, GAPS));
    }
    tfb_ctx_free(&ctx);
}

static const tfb_idx tails[] = {1, 15, 16, 17, 63, 64, 65, 127, 1023, 1024, 1025, 1100};
#define TAILS ((int)(sizeof tails / sizeof *tails))

static void key_lengths(void) {
    tfb_ctx ctx;
    int i, causal;
    t_ctx(&ctx, NULL);
    for (i = 0; i < TAILS; i++)
        for (causal = 0; causal < 2; causal++) {
            call c = call_of(1, 2, 1, t_int(1, 5), tails[i], t_int(1, 20), t_int(1, 20));
            c.o.causal = (tfb_causal)causal;
            one(&ctx, c, DENSE);
            c.o.key_pos0 = t_int(1, 1200); /* the same keys, cut at other places */
            one(&ctx, c, GAPS);
        }
    tfb_ctx_free(&ctx);
}

static void query_lengths(void) { /* blocks hold 64 rows */
    tfb_ctx ctx;
    int i, group;
    t_ctx(&ctx, NULL);
    for (i = 0; i < 7; i++)
        for (group = 1; group <= 3; group++) {
            call c = call_of(1, 2 * group, 2, tails[i], t_int(1, 66), 3, 2);
            c.o.causal = TFB_CAUSAL_BOTTOM_RIGHT;
            one(&ctx, c, DENSE);
        }
    one(&ctx, call_of(1, 70, 1, 2, 5, 2, 3), DENSE); /* more heads in a group than rows */
    tfb_ctx_free(&ctx);
}

static void head_dims(void) {
    tfb_ctx ctx;
    tfb_idx D;
    t_ctx(&ctx, NULL);
    for (D = 1; D <= 130; D++)
        one(&ctx, call_of(1, 1, 1, 2, 19, D, t_int(1, 130)), DENSE);
    for (D = 1; D <= 130; D++) one(&ctx, call_of(1, 1, 1, 2, 5, t_int(1, 9), D), TOKENS);
    for (D = 255; D <= 257; D++) /* two chains of fma */
        one(&ctx, call_of(1, 2, 1, 9, 70, D, 513 - D), DENSE);
    one(&ctx, call_of(1, 1, 1, 2, 18, 600, 300), GAPS);
    tfb_ctx_free(&ctx);
}

static void causal_offsets(void) {
    static const tfb_idx lengths[][2] = {{1, 1},  {7, 7},  {3, 11},  {11, 3},
                                         {70, 5}, {1, 90}, {65, 66}, {20, 130}};
    static const tfb_idx offsets[] = {-1000, -70, -5, -1, 0,   1,
                                      2,     62,  63, 64, 200, 100000};
    tfb_ctx ctx;
    size_t i, j;
    t_ctx(&ctx, NULL);
    for (i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        call c = call_of(1, 2, 1, lengths[i][0], lengths[i][1], 5, 6);
        c.o.offset = 12345; /* must not matter */
        one(&ctx, c, DENSE);
        c.o.causal = TFB_CAUSAL_BOTTOM_RIGHT;
        one(&ctx, c, DENSE);
        c.o.causal = TFB_CAUSAL_OFFSET;
        for (j = 0; j < sizeof offsets / sizeof *offsets; j++) {
            c.o.offset = offsets[j];
            one(&ctx, c, DENSE);
        }
    }
    tfb_ctx_free(&ctx);
}

static void windows(void) {
    static const tfb_idx sizes[] = {1, 2, 3, 16, 17, 63, 64, 65, 100, 5000, PTRDIFF_MAX};
    tfb_ctx ctx;
    size_t i;
    int it;
    t_ctx(&ctx, NULL);
    for (i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (it = 0; it < 4; it++) {
            call c = call_of(1, 2, 2, t_int(1, 70), t_int(60, 140), 4, 3);
            c.o.causal = it % 2 ? TFB_CAUSAL_BOTTOM_RIGHT : TFB_CAUSAL_OFFSET;
            c.o.offset = t_int(-30, 150);
            c.o.window = sizes[i];
            one(&ctx, c, DENSE);
        }
    for (it = 0; it < 4; it++) { /* across the border of two splits */
        call c = call_of(1, 1, 1, 70, 1100, 3, 2);
        c.o.causal = TFB_CAUSAL_OFFSET;
        c.o.offset = t_int(980, 1030);
        c.o.window = t_int(1, 130);
        one(&ctx, c, DENSE);
    }
    tfb_ctx_free(&ctx);
}

static void window_of_one_is_the_value(void) { /* W counts the query's own key */
    tfb_ctx ctx;
    call c = call_of(1, 1, 1, 9, 9, 4, 5);
    t_ctx(&ctx, NULL);
    c.o.causal = TFB_CAUSAL_BOTTOM_RIGHT;
    c.o.window = 1;
    call_new(&c, DENSE);
    call_run(&ctx, &c);
    for (c.T = 0; c.T < 9 * 5; c.T++)
        CHECK(fabsf(c.mem[3][c.T] - c.mem[2][c.T]) <= 0, "element %ld is not its value",
              (long)c.T);
    call_free(&c);
    tfb_ctx_free(&ctx);
}

static void layouts(void) {
    tfb_ctx ctx;
    int it, how;
    t_ctx(&ctx, NULL);
    for (how = 0; how < LAYOUTS; how++)
        for (it = 0; it < 6; it++) {
            const tfb_idx G = t_int(1, 3), H = how == HEADWISE ? G : G * t_int(1, 2);
            const tfb_idx T = t_int(1, 40), D = t_int(1, 33);
            call c = call_of(t_int(1, 3), H, G, T, T, D, D);
            one(&ctx, random_mask(c), (layout)how);
        }
    tfb_ctx_free(&ctx);
}

static void
broadcast_keys(void) { /* stride 0: one key and value for all batches, heads */
    tfb_ctx ctx;
    call c = call_of(2, 4, 2, 5, 33, 6, 7);
    t_ctx(&ctx, NULL);
    call_new(&c, DENSE);
    c.k.stride[0] = c.v.stride[0] = c.v.stride[1] = c.q.stride[2] = 0;
    call_check(&ctx, &c);
    call_free(&c);
    tfb_ctx_free(&ctx);
}

static void options_may_be_absent(void) {
    tfb_ctx ctx;
    call c = call_of(1, 2, 1, 5, 20, 6, 7);
    float *with;
    t_ctx(&ctx, NULL);
    call_new(&c, DENSE);
    call_check(&ctx, &c);
    with = call_result(&c);
    call_clear(&c);
    CHECK_OK(&ctx, tfb_attention(&ctx, &c.q, &c.k, &c.v, NULL, &c.y));
    CHECK_BITS(c.mem[3], with, c.y_floats, "options NULL");
    CHECK(untouched(c.mem[4], c.lse_floats) == c.lse_floats, "lse written unasked");
    free(with);
    call_free(&c);
    tfb_ctx_free(&ctx);
}

static void scales(void) {
    static const float scale[] = {0.0f, -0.0f, 1.0f, -2.5f, 1e-30f, 3e10f};
    tfb_ctx ctx;
    size_t i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < sizeof scale / sizeof *scale; i++) {
        call c = call_of(1, 2, 1, 3, 130, 8, 4);
        c.o.scale = scale[i];
        one(&ctx, c, DENSE); /* not set: ignored */
        c.o.scale_set = 1;
        call_new(&c, DENSE);
        call_check(&ctx, &c);
        if (i < 2) /* every key weighs the same */
            CHECK(fabsf(c.mem[4][0] - logf(130)) < 1e-6f, "lse %g", (double)c.mem[4][0]);
        call_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* --- What must not change the bits. --- */
static void chunk_sizes(void) {
    static const tfb_idx sizes[] = {1, 3, 10, 63, 64, 65, 100, PTRDIFF_MAX};
    tfb_ctx ctx;
    size_t i;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 6; it++) {
        call c = call_of(2, 4, 2, it ? t_int(1, 90) : 100, t_int(1, 150), 9, 11);
        float *first;
        c = random_mask(c);
        c.o.chunk_size = 0;
        call_new(&c, (layout)t_int(DENSE, GAPS));
        call_check(&ctx, &c);
        first = call_result(&c);
        for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            c.o.chunk_size = sizes[i];
            same_again(&ctx, &c, first, "chunk_size", (long)sizes[i]);
        }
        free(first);
        call_free(&c);
    }
    tfb_ctx_free(&ctx);
}

static size_t measured(const call *c, int n_workers, const char *isa) {
    tfb_ctx ctx;
    tfb_tensor q = tfb_view4(NULL, TFB_F32, c->B, c->H, c->T, c->D);
    tfb_tensor k = tfb_view4(NULL, TFB_F32, c->B, c->G, c->S, c->D);
    tfb_tensor v = tfb_view4(NULL, TFB_F32, c->B, c->G, c->S, c->Dv);
    tfb_tensor y = tfb_view4(NULL, TFB_F32, c->B, c->H, c->T, c->Dv);
    tfb_attention_opts o = c->o;
    size_t peak;
    o.lse = NULL;
    CHECK(tfb_ctx_init_measure(&ctx) == TFB_OK, "measure");
    ctx.workers = n_workers;
    CHECK_OK(&ctx, tfb_isa_force(&ctx, isa));
    CHECK_OK(&ctx, tfb_attention(&ctx, &q, &k, &v, &o, &y));
    CHECK(ctx.scratch_last == ctx.scratch_peak, "last %lu, peak %lu",
          (unsigned long)ctx.scratch_last, (unsigned long)ctx.scratch_peak);
    peak = ctx.scratch_last;
    tfb_ctx_free(&ctx);
    return peak;
}

static void workers(void) {
    static const int counts[] = {1, 2, 5};
    tfb_ctx ctx;
    int it, i;
#ifndef TFB_PTHREADS
    SKIP("there are no threads here");
#endif
    t_ctx(&ctx, NULL);
    for (it = 0; it < 6; it++) {
        call c = call_of(t_int(1, 3), 6, 3, t_int(1, 130), t_int(1, 150), 9, 11);
        float *first;
        call_new(&c, DENSE);
        call_check(&ctx, &c);
        first = call_result(&c);
        for (i = 0; i < 3; i++) {
            CHECK_OK(&ctx, tfb_ctx_threads(&ctx, counts[i], 100));
            same_again(&ctx, &c, first, "workers", counts[i]);
        }
        CHECK_OK(&ctx, tfb_ctx_threads(&ctx, 1, 0));
        free(first);
        call_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* Pieces in descending order, worker numbers that jump about; all scratch is spoilt
 * before each piece, and whatever changes must lie in the worker's own part. */
typedef struct jumps {
    unsigned char *mem;
    size_t bytes;
    int pieces, strays;
} jumps;

static void jump(void *user, tfb_idx n, tfb_body_fn body, void *arg) {
    jumps *j = (jumps *)user;
    const size_t each = j->bytes / 3;
    while (n-- > 0) {
        const size_t w = (size_t)(n * 5 + 1) % 3;
        size_t i;
        memset(j->mem, 0xFF, j->bytes); /* all NaN */
        body(arg, n, (int)w);
        for (i = 0; i < j->bytes; i++) j->strays += i / each != w && j->mem[i] != 0xFF;
        j->pieces++;
    }
}

static void workers_keep_apart(void) {
    tfb_ctx ctx, fixed;
    call c = call_of(2, 6, 3, 70, 150, 9, 11);
    jumps j = {NULL, 0, 0, 0};
    float *first;
    t_ctx(&ctx, NULL);
    call_new(&c, DENSE);
    call_check(&ctx, &c);
    first = call_result(&c);
    j.bytes = measured(&c, 3, tfb_isa_name(&ctx));
    j.mem = (unsigned char *)malloc(j.bytes);
    CHECK_OK(&fixed, tfb_ctx_init_static(&fixed, j.mem, j.bytes));
    CHECK_OK(&fixed, tfb_isa_force(&fixed, tfb_isa_name(&ctx)));
    fixed.parallel_for = jump;
    fixed.parallel_user = &j;
    fixed.workers = 3;
    same_again(&fixed, &c, first, "jumping workers", 3);
    CHECK(j.pieces > 3 && j.strays == 0, "%d pieces, %d strays", j.pieces, j.strays);
    free(j.mem);
    free(first);
    call_free(&c);
    tfb_ctx_free(&fixed);
    tfb_ctx_free(&ctx);
}

static void batch_of_one(void) { /* batch 5 at once, then each alone */
    tfb_ctx ctx;
    call c = call_of(5, 4, 2, 20, 70, 9, 10), each;
    float *all;
    tfb_idx b;
    t_ctx(&ctx, NULL);
    c.o.causal = TFB_CAUSAL_BOTTOM_RIGHT;
    call_new(&c, DENSE);
    call_check(&ctx, &c);
    all = call_result(&c);
    call_clear(&c);
    for (b = 0; b < 5; b++) {
        each = c;
        CHECK_OK(&ctx, tfb_slice(&ctx, &c.q, 0, b, 1, &each.q));
        CHECK_OK(&ctx, tfb_slice(&ctx, &c.k, 0, b, 1, &each.k));
        CHECK_OK(&ctx, tfb_slice(&ctx, &c.v, 0, b, 1, &each.v));
        CHECK_OK(&ctx, tfb_slice(&ctx, &c.y, 0, b, 1, &each.y));
        CHECK_OK(&ctx, tfb_slice(&ctx, &c.lse, 0, b, 1, &each.lse));
        each.o.lse = &each.lse;
        call_run(&ctx, &each);
    }
    CHECK_BITS(c.mem[3], all, c.y_floats, "batch 1 against 5");
    CHECK_BITS(c.mem[4], all + c.y_floats, c.lse_floats, "lse, batch 1 against 5");
    free(all);
    call_free(&c);
    tfb_ctx_free(&ctx);
}

static void every_table(void) {
    tfb_ctx ctx;
    const char *name;
    int i, it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 8; it++) {
        call c = call_of(1, 4, 2, t_int(1, 30), it == 0 ? 1030 : t_int(1, 130),
                         t_int(1, 40), t_int(1, 40));
        float *first;
        call_new(&c, DENSE);
        call_check(&ctx, &c);
        first = call_result(&c);
        for (i = 0; (name = tfb_isa_list(&ctx, i, NULL)) != NULL; i++) {
            tfb_ctx forced;
            CHECK_OK(&ctx, tfb_ctx_init(&forced));
            if (t_force(&forced, name)) same_again(&forced, &c, first, name, i);
            tfb_ctx_free(&forced);
        }
        free(first);
        call_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* Tokens done .. done + n - 1 of c, with the keys known by then. */
static void run_piece(tfb_ctx *ctx, call *c, tfb_idx done, tfb_idx n) {
    call piece = *c;
    const tfb_idx seen = c->S - c->T + done + n;
    CHECK_OK(ctx, tfb_slice(ctx, &c->q, 2, done, n, &piece.q));
    CHECK_OK(ctx, tfb_slice(ctx, &c->y, 2, done, n, &piece.y));
    CHECK_OK(ctx, tfb_slice(ctx, &c->lse, 2, done, n, &piece.lse));
    CHECK_OK(ctx, tfb_slice(ctx, &c->k, 2, 0, seen, &piece.k));
    CHECK_OK(ctx, tfb_slice(ctx, &c->v, 2, 0, seen, &piece.v));
    piece.o.lse = &piece.lse;
    call_run(ctx, &piece);
}

static void prefill_in_pieces(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 12; it++) {
        const tfb_idx T = t_int(1, 150), past = it == 0 ? 1000 : t_int(0, 90);
        call c = call_of(2, 4, 2, T, past + T, 7, 5);
        tfb_idx done, n;
        float *whole;
        c.o.causal = TFB_CAUSAL_BOTTOM_RIGHT;
        c.o.window = t_int(0, 1) * t_int(1, 200);
        call_new(&c, (layout)t_int(DENSE, GAPS));
        call_run(&ctx, &c);
        whole = call_result(&c);
        call_clear(&c);
        for (done = 0; done < T; done += n) {
            n = t_int(0, 3) ? t_int(1, T - done) : 1;
            run_piece(&ctx, &c, done, n);
        }
        {
            float *pieces = call_result(&c);
            CHECK_BITS(pieces, whole, result_floats(&c), "pieces: " SIZES_TEXT,
                       SIZES_OF(&c));
            free(pieces);
        }
        free(whole);
        call_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* A slice that says where it starts gives the bits of the whole through a window. */
static void slices_of_a_sequence(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 12; it++) {
        call c = call_of(1, 4, 2, t_int(1, 20), 1400, 5, 6), part;
        tfb_idx lo, hi, lo2, hi2;
        float *whole;
        c.o.causal = TFB_CAUSAL_OFFSET;
        c.o.offset = t_int(it < 6 ? 950 : 100, 1300);
        c.o.window = t_int(1, 300);
        call_new(&c, (layout)t_int(DENSE, GAPS));
        call_run(&ctx, &c);
        whole = call_result(&c);
        visible(&c, 0, &lo, &hi);
        visible(&c, c.T - 1, &lo2, &hi2);
        lo -= t_int(0, 1) * t_int(0, lo); /* some more than is seen, or just that */
        part = c;
        part.S = hi2 - lo;
        CHECK_OK(&ctx, tfb_slice(&ctx, &c.k, 2, lo, part.S, &part.k));
        CHECK_OK(&ctx, tfb_slice(&ctx, &c.v, 2, lo, part.S, &part.v));
        part.o.lse = &part.lse;
        part.o.offset -= lo;
        part.o.key_pos0 = lo;
        same_again(&ctx, &part, whole, "slice from", (long)lo);
        free(whole);
        call_free(&c);
    }
    tfb_ctx_free(&ctx);
}

static void grouped_heads_read_their_kv_head(void) {
    tfb_ctx ctx;
    call c = call_of(2, 6, 2, 11, 40, 5, 4);
    float *grouped;
    tfb_idx h;
    t_ctx(&ctx, NULL);
    call_new(&c, DENSE);
    call_run(&ctx, &c);
    grouped = call_result(&c);
    call_clear(&c);
    for (h = 0; h < 6; h++) { /* head h alone with kv head h / 3 */
        call each = c;
        CHECK_OK(&ctx, tfb_slice(&ctx, &c.q, 1, h, 1, &each.q));
        CHECK_OK(&ctx, tfb_slice(&ctx, &c.k, 1, h / 3, 1, &each.k));
        CHECK_OK(&ctx, tfb_slice(&ctx, &c.v, 1, h / 3, 1, &each.v));
        CHECK_OK(&ctx, tfb_slice(&ctx, &c.y, 1, h, 1, &each.y));
        CHECK_OK(&ctx, tfb_slice(&ctx, &c.lse, 1, h, 1, &each.lse));
        each.o.lse = &each.lse;
        call_run(&ctx, &each);
    }
    CHECK_BITS(c.mem[3], grouped, c.y_floats, "grouped heads");
    CHECK_BITS(c.mem[4], grouped + c.y_floats, c.lse_floats, "lse of grouped heads");
    free(grouped);
    call_free(&c);
    tfb_ctx_free(&ctx);
}

/* --- NaN, inf, rows that see nothing, large scores. --- */
static int is_nan(float x) {
    return (tfb__bits_of(x) & 0x7FFFFFFFu) > 0x7F800000u;
}

static int is_finite(float x) {
    return (tfb__bits_of(x) & 0x7F800000u) != 0x7F800000u;
}

/* A row that sees key j must be NaN where that is poison, others as if it were zero. */
static void poison_one(tfb_ctx *ctx, call *c, tfb_idx j, float value, int in_key) {
    const tfb_tensor *t = in_key ? &c->k : &c->v;
    const tfb_idx d = t_int(0, t->shape[3] - 1);
    float *clean, *dirty;
    tfb_idx i, at;
    *at4(t, 0, 0, j, d) = 0;
    call_check(ctx, c);
    clean = call_result(c);
    call_clear(c);
    *at4(t, 0, 0, j, d) = value;
    call_check(ctx, c);
    dirty = call_result(c);
    for (i = 0; i < c->T; i++) {
        const float *was = clean + i * c->Dv, *is = dirty + i * c->Dv;
        if (!sees(c, i, j)) {
            CHECK_BITS(is, was, c->Dv, "row %ld read masked key %ld: " SIZES_TEXT,
                       (long)i, (long)j, SIZES_OF(c));
            CHECK_BITS(dirty + c->T * c->Dv + i, clean + c->T * c->Dv + i, 1,
                       "lse of row %ld", (long)i);
        } else if (is_nan(value))
            for (at = 0; at < c->Dv; at++)
                CHECK(is_nan(is[at]) == (in_key || at == d), "row %ld channel %ld is %g",
                      (long)i, (long)at, (double)is[at]);
    }
    free(clean);
    free(dirty);
}

static void masked_nan_never_leaks(void) {
    const float inf = TFB__FLT_INF, bad[4] = {inf - inf, inf, -inf, 3e38f};
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 60; it++) {
        call c = call_of(1, 1, 1, t_int(1, 70), t_int(1, 140), 6, t_int(1, 20));
        c = random_mask(c);
        if (!c.o.causal) c.o.causal = TFB_CAUSAL_BOTTOM_RIGHT;
        call_new(&c, (layout)t_int(DENSE, GAPS));
        poison_one(&ctx, &c, t_int(0, c.S - 1), bad[it / 2 % 4], it % 2);
        call_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* All that no row sees is NaN: first within a tile, then across the border of splits. */
static void all_that_is_masked_is_nan(void) {
    tfb_ctx ctx;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 10; it++) {
        call c = call_of(1, 2, 1, t_int(1, 5), it < 5 ? t_int(20, 60) : 1200, 5, 4);
        tfb_idx lo, hi, lo2, hi2, j, d;
        c.o.causal = TFB_CAUSAL_OFFSET;
        c.o.offset = it < 5 ? t_int(0, 15) : t_int(1000, 1100);
        c.o.window = t_int(1, it < 5 ? 12 : 200);
        call_new(&c, DENSE);
        visible(&c, 0, &lo, &hi);
        visible(&c, c.T - 1, &lo2, &hi2);
        for (j = 0; j < c.S; j++)
            for (d = 0; d < 5 && (j < lo || j >= hi2); d++) {
                *at4(&c.k, 0, 0, j, d) = TFB__FLT_INF - TFB__FLT_INF;
                if (d < 4) *at4(&c.v, 0, 0, j, d) = TFB__FLT_INF - TFB__FLT_INF;
            }
        call_check(&ctx, &c);
        for (j = 0; j < c.y_floats; j++) CHECK(is_finite(c.mem[3][j]), "leaked");
        for (j = 0; j < c.lse_floats; j++) CHECK(is_finite(c.mem[4][j]), "lse leaked");
        call_free(&c);
    }
    tfb_ctx_free(&ctx);
}

static void rows_without_a_key(void) {
    const uint32_t minus_inf = 0xFF800000u, zero = 0;
    tfb_ctx ctx;
    tfb_idx i, d;
    call c = call_of(1, 2, 1, 90, 40, 5, 6);
    t_ctx(&ctx, NULL);
    c.o.causal = TFB_CAUSAL_OFFSET;
    c.o.offset = -60;
    c.o.window = 4;
    call_new(&c, DENSE);
    c.mem[2][0] = TFB__FLT_INF;
    c.mem[1][1] = TFB__FLT_INF;
    call_check(&ctx, &c);
    for (i = 0; i < 60; i++) {
        CHECK(memcmp(at4(&c.lse, 0, 0, i, 0), &minus_inf, 4) == 0, "lse of row %ld",
              (long)i);
        for (d = 0; d < 6; d++)
            CHECK(memcmp(at4(&c.y, 0, 1, i, d), &zero, 4) == 0, "row %ld", (long)i);
    }
    c.o.offset = 100; /* all past the last key: the window has left it */
    call_run(&ctx, &c);
    for (i = 0; i < c.y_floats; i++) CHECK(memcmp(c.mem[3] + i, &zero, 4) == 0, "not 0");
    for (i = 0; i < c.lse_floats; i++)
        CHECK(memcmp(c.mem[4] + i, &minus_inf, 4) == 0, "not -inf");
    call_free(&c);
    tfb_ctx_free(&ctx);
}

/* Scores of +-1e4, 1e8 and 1e36 are finite, so is the result. */
static void large_scores(void) {
    static const float size[] = {1e2f, 1e4f, 1e18f};
    tfb_ctx ctx;
    size_t n;
    tfb_idx i;
    t_ctx(&ctx, NULL);
    for (n = 0; n < sizeof size / sizeof *size; n++) {
        call c = call_of(1, 2, 1, 10, n ? 200 : 1100, 4, 5);
        c.o.scale = 1;
        c.o.scale_set = 1;
        call_new(&c, DENSE);
        for (i = 0; i < 2 * 10 * 4; i++) c.mem[0][i] *= size[n];
        for (i = 0; i < c.S * 4; i++) c.mem[1][i] *= size[n];
        call_check(&ctx, &c);
        for (i = 0; i < c.y_floats; i++) CHECK(is_finite(c.mem[3][i]), "y is not finite");
        for (i = 0; i < c.lse_floats; i++) CHECK(is_finite(c.mem[4][i]), "lse is not");
        call_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* q = 1e30 everywhere; key j of -1e30 or +1e30 makes its score infinite. */
static void infinite_scores(void) {
    tfb_ctx ctx;
    tfb_idx i, d;
    call c = call_of(1, 1, 1, 2, 70, 1, 3);
    t_ctx(&ctx, NULL);
    c.o.scale = 1;
    c.o.scale_set = 1;
    call_new(&c, DENSE);
    c.mem[0][0] = c.mem[0][1] = 1e30f;
    for (i = 0; i < 70; i++) c.mem[1][i] = i % 3 ? 1e-30f : -1e30f;
    call_check(&ctx, &c); /* visible -inf: p = 0 */
    for (d = 0; d < 3; d++) CHECK(is_finite(c.mem[3][d]), "-inf made %ld bad", (long)d);
    for (i = 0; i < 70; i++) c.mem[1][i] = -1e30f;
    call_check(&ctx, &c); /* nothing but -inf: as a row without a key */
    CHECK(c.mem[4][0] < -FLT_MAX && fabsf(c.mem[3][0]) <= 0, "all scores -inf");
    c.mem[1][65] = 1e30f;
    call_check(&ctx, &c); /* one +inf: NaN */
    for (d = 0; d < 3; d++)
        CHECK(is_nan(c.mem[3][d]), "+inf gave %g", (double)c.mem[3][d]);
    CHECK(is_nan(c.mem[4][0]), "lse %g", (double)c.mem[4][0]);
    call_free(&c);
    tfb_ctx_free(&ctx);
}

/* --- The reference against float64. With u = 2^-24, a score is off by at most
 * e = (D + 2) u scale sum|q k|; weights by 2 e relative to each other; exp by 4 u, its
 * argument by u|s - m| with exp(-t) t < 1; the sums over S keys and the rescalings by
 * (S + 32) u. y is a mean of values, so |error| <= (2 e + (S + 32) u) max|v|. --- */
static void row_accuracy(const call *c, tfb_idx h, tfb_idx i) {
    const tfb_idx g = h / (c->H / c->G);
    const double u = 1.0 / 16777216, scale = 1 / sqrt((double)c->D);
    double s[1200], top = -1e300, sum = 0, most = 0, vmax = 0, bound;
    tfb_idx lo, hi, j, d;
    float y[64];
    const double lse = (double)row_ref(c, 0, h, i, y);
    visible(c, i, &lo, &hi);
    for (j = lo; j < hi; j++) {
        double size = 0;
        for (s[j] = 0, d = 0; d < c->D; d++) {
            const double p =
                (double)*at4(&c->q, 0, h, i, d) * (double)*at4(&c->k, 0, g, j, d);
            s[j] += p * scale;
            size += fabs(p) * scale;
        }
        if (s[j] > top) top = s[j];
        if (size > most) most = size;
        for (d = 0; d < c->Dv; d++)
            vmax = fmax(vmax, fabs((double)*at4(&c->v, 0, g, j, d)));
    }
    for (j = lo; j < hi; j++) sum += s[j] = exp(s[j] - top);
    bound = 2 * (double)(c->D + 2) * u * most + (double)(c->S + 32) * u;
    CHECK(fabs(lse - top - log(sum)) <= bound + 4 * u * fabs(lse),
          "lse is %.9g, not %.9g", lse, top + log(sum));
    for (d = 0; d < c->Dv; d++) {
        double want = 0;
        for (j = lo; j < hi; j++) want += s[j] / sum * (double)*at4(&c->v, 0, g, j, d);
        CHECK(fabs((double)y[d] - want) <= bound * vmax, "y is %.9g, not %.9g (%g)",
              (double)y[d], want, bound * vmax);
    }
}

static void reference_against_float64(void) {
    int it;
    for (it = 0; it < 40; it++) {
        call c = call_of(1, 4, 2, t_int(1, 6), it < 8 ? 1100 : t_int(1, 200),
                         t_int(1, 80), t_int(1, 64));
        tfb_idx h, i, n;
        c.o.causal = (tfb_causal)(it % 2);
        c.S = c.S < c.T ? c.T : c.S; /* every row sees a key */
        c.o.window = it % 4 == 3 ? t_int(1, 100) : 0;
        call_new(&c, (layout)t_int(DENSE, GAPS));
        for (n = 0; n < c.B * c.H * c.T * c.D && it % 5 == 0; n++) c.mem[0][n] *= 30;
        for (h = 0; h < c.H; h++)
            for (i = 0; i < c.T; i++) row_accuracy(&c, h, i);
        call_free(&c);
    }
}

/* --- Scratch and memory. --- */
static void scratch_does_not_grow(void) {
    const tfb_idx lengths[] = {64, 65, 1000, 20000, HUGE_EXTENT / 4096};
    tfb_ctx ctx;
    size_t i, j, need;
    int it;
    t_ctx(&ctx, NULL);
    for (it = 0; it < 40; it++) {
        call c = call_of(1, 2, 1, 64, 64, t_int(1, 300), t_int(1, 300));
        const int n = (int)t_int(1, 5);
        c.o.causal = (tfb_causal)t_int(0, 2);
        c.o.chunk_size = t_int(0, 1) * t_int(1, 80);
        need = measured(&c, n, tfb_isa_name(&ctx));
        CHECK(need <= TFB_ATTENTION_SCRATCH(c.D, c.Dv, n),
              "%zu is over the bound %zu: " SIZES_TEXT, need,
              TFB_ATTENTION_SCRATCH(c.D, c.Dv, n), SIZES_OF(&c));
        c.B = t_int(1, 9);
        for (i = 0; i < 5; i++)
            for (j = 0; j < 5; j++) {
                c.T = lengths[i];
                c.S = lengths[j];
                CHECK(measured(&c, n, tfb_isa_name(&ctx)) == need,
                      "scratch changed: " SIZES_TEXT, SIZES_OF(&c));
            }
        c.T = 1;
        CHECK(measured(&c, n, tfb_isa_name(&ctx)) <= need, "one token needs more");
    }
    tfb_ctx_free(&ctx);
}

/* What was measured is what a growing context uses; a static one of exactly that size
 * does, with one byte less it fails, names the need and writes nothing. */
static void measured_is_used(void) {
    tfb_ctx ctx, small;
    int it;
    char number[32];
    t_ctx(&ctx, NULL);
    for (it = 0; it < 20; it++) {
        const tfb_idx G = t_int(1, 2);
        call c = call_of(t_int(1, 2), G * t_int(1, 3), G, t_int(1, 40), t_int(1, 80),
                         t_int(1, 30), t_int(1, 30));
        size_t need;
        char *mem;
        float *first;
        c.o.chunk_size = t_int(0, 9);
        call_new(&c, DENSE);
        need = measured(&c, 1, tfb_isa_name(&ctx));
        call_check(&ctx, &c);
        CHECK(ctx.scratch_last == need, "used %zu, measured %zu", ctx.scratch_last, need);
        first = call_result(&c);
        mem = (char *)malloc(need + 8);
        CHECK(tfb_ctx_init_static(&small, mem + 8, need) == TFB_OK, "static");
        CHECK_OK(&small, tfb_isa_force(&small, tfb_isa_name(&ctx)));
        same_again(&small, &c, first, "static", it);
        CHECK(small.scratch_last == need, "static used %zu of %zu", small.scratch_last,
              need);
        small.mem_bytes--;
        call_clear(&c);
        snprintf(number, sizeof number, "needs %lu", (unsigned long)need);
        CHECK_FAILS(&small, TFB_ERR_SCRATCH, number,
                    tfb_attention(&small, &c.q, &c.k, &c.v, &c.o, &c.y));
        CHECK(untouched(c.mem[3], c.y_floats) == c.y_floats &&
                  untouched(c.mem[4], c.lse_floats) == c.lse_floats,
              "written although it failed");
        small.mem_bytes++;
        same_again(&small, &c, first, "static again", it);
        tfb_ctx_free(&small);
        free(mem);
        free(first);
        call_free(&c);
    }
    tfb_ctx_free(&ctx);
}

static void allocation_fails_then_not(void) {
    t_heap heap;
    tfb_ctx ctx;
    long calls;
    call c = call_of(1, 2, 1, 30, 90, 8, 9);
    float *first;
    t_ctx(&ctx, &heap);
    call_new(&c, DENSE);
    heap.fail_at = 1;
    CHECK_FAILS(&ctx, TFB_ERR_MEMORY, "tfb_attention",
                tfb_attention(&ctx, &c.q, &c.k, &c.v, &c.o, &c.y));
    CHECK(untouched(c.mem[3], c.y_floats) == c.y_floats &&
              untouched(c.mem[4], c.lse_floats) == c.lse_floats,
          "written although it failed");
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
    heap.fail_at = 0;
    call_check(&ctx, &c);
    first = call_result(&c);
    calls = heap.calls;
    same_again(&ctx, &c, first, "warm", 0);
    CHECK(heap.calls == calls, "allocated after warm-up");
    free(first);
    call_free(&c);
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks leaked", heap.live);
}

/* --- Empty and bad input. --- */
static void empty_extents(void) {
    static const tfb_idx sizes[][7] = {/* B H G T S D Dv */
                                       {0, 2, 1, 3, 4, 5, 6}, {2, 2, 1, 0, 4, 5, 6},
                                       {2, 2, 1, 3, 0, 5, 6}, {2, 0, 2, 3, 4, 5, 6},
                                       {2, 0, 0, 3, 4, 5, 6}, {2, 2, 1, 3, 4, 0, 6},
                                       {2, 2, 1, 3, 4, 5, 0}, {0, 0, 0, 0, 0, 0, 0}};
    tfb_ctx ctx;
    size_t i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const tfb_idx *n = sizes[i];
        call c = call_of(n[0], n[1], n[2], n[3], n[4], n[5], n[6]);
        call_new(&c, DENSE);
        call_check(&ctx, &c);
        call_clear(&c); /* what is empty may have data NULL */
        if (!tfb_numel(&c.q)) c.q.data = NULL;
        if (!tfb_numel(&c.k)) c.k.data = NULL;
        if (!tfb_numel(&c.v)) c.v.data = NULL;
        if (!tfb_numel(&c.y)) c.y.data = NULL;
        if (!tfb_numel(&c.lse)) c.lse.data = NULL;
        call_run(&ctx, &c);
        CHECK(!untouched(c.mem[3], c.y_floats) && !untouched(c.mem[4], c.lse_floats),
              "row %d: not all written", (int)i);
        call_free(&c);
    }
    tfb_ctx_free(&ctx);
}

/* Extents whose product overflows are no harm where another extent is 0. */
static void empty_but_huge(void) {
    tfb_ctx ctx;
    call c = call_of(0, HUGE_EXTENT, 1, HUGE_EXTENT, 1, 1, 1);
    t_ctx(&ctx, NULL);
    c.q = tfb_view4(NULL, TFB_F32, 0, 1, 1, 1);
    c.k = c.v = c.q;
    c.q.shape[1] = c.q.shape[2] = HUGE_EXTENT;
    c.y = c.q;
    call_run(&ctx, &c);
    c.q.shape[0] = c.k.shape[0] = c.v.shape[0] = c.y.shape[0] = 1;
    c.q.shape[3] = c.k.shape[3] = c.v.shape[3] = c.y.shape[3] = 0;
    call_run(&ctx, &c);
    tfb_ctx_free(&ctx);
}

/* One thing wrong at a time. What: a field of a tensor, or an option. */
typedef enum what { NIL, NDIM, SHAPE, STRIDE, DTYPE, DATA, SHIFT, ALIAS, OPTION } what;
enum { Q, K, V, Y, L };
enum { CAUSAL, WINDOW, CHUNK, OFFSET, POS0 };

typedef struct spoil {
    what field;
    int which, dim; /* the tensor and dimension; of OPTION, which one */
    tfb_idx value;
    tfb_status want;
    const char *text;
} spoil;

#define FAR (PTRDIFF_MAX / 4)
static const spoil spoils[] = {
    {NIL, Q, 0, 0, TFB_ERR_ARG, "q is NULL"},
    {NIL, K, 0, 0, TFB_ERR_ARG, "k is NULL"},
    {NIL, V, 0, 0, TFB_ERR_ARG, "v is NULL"},
    {NIL, Y, 0, 0, TFB_ERR_ARG, "y is NULL"},
    {DATA, Q, 0, 0, TFB_ERR_ARG, "q.data is NULL"},
    {DATA, K, 0, 0, TFB_ERR_ARG, "k.data is NULL"},
    {DATA, V, 0, 0, TFB_ERR_ARG, "v.data is NULL"},
    {DATA, Y, 0, 0, TFB_ERR_ARG, "y.data is NULL"},
    {DATA, L, 0, 0, TFB_ERR_ARG, "lse.data is NULL"},
    {SHIFT, K, 0, 1, TFB_ERR_ARG, "k.data is not aligned"},
    {NDIM, Q, 0, 3, TFB_ERR_SHAPE, "q.ndim is 3"},
    {NDIM, K, 0, 5, TFB_ERR_SHAPE, "k.ndim is 5"},
    {NDIM, V, 0, -1, TFB_ERR_SHAPE, "v.ndim is -1"},
    {NDIM, Y, 0, 7, TFB_ERR_SHAPE, "y.ndim is 7"},
    {NDIM, L, 0, 4, TFB_ERR_SHAPE, "lse.ndim is 4"},
    {DTYPE, Q, 0, TFB_F16, TFB_ERR_DTYPE, "q is F16"},
    {DTYPE, K, 0, TFB_I32, TFB_ERR_DTYPE, "k is I32"},
    {DTYPE, V, 0, TFB_I32, TFB_ERR_DTYPE, "v is I32"},
    {DTYPE, Y, 0, TFB_U8, TFB_ERR_DTYPE, "y is U8"},
    {DTYPE, L, 0, TFB_F16, TFB_ERR_DTYPE, "lse is F16"},
    {DTYPE, Q, 0, 99, TFB_ERR_DTYPE, "q.dtype is 99"},
    {SHAPE, Q, 0, 3, TFB_ERR_SHAPE, "k.shape[0] is 2, needs 3"},
    {SHAPE, Q, 1, 3, TFB_ERR_SHAPE, ""},
    {SHAPE, Q, 2, 4, TFB_ERR_SHAPE, "y.shape[2] is 5, needs 4"},
    {SHAPE, Q, 3, 7, TFB_ERR_SHAPE, "k.shape[3] is 8, q has head_dim 7"},
    {SHAPE, Q, 2, -1, TFB_ERR_SHAPE, "q.shape[2] is -1"},
    {SHAPE, K, 1, 3, TFB_ERR_SHAPE, "needs 3"},
    {SHAPE, K, 2, 8, TFB_ERR_SHAPE, "v.shape[2] is 9, needs 8"},
    {SHAPE, V, 0, 1, TFB_ERR_SHAPE, "v.shape[0] is 1, needs 2"},
    {SHAPE, V, 3, 6, TFB_ERR_SHAPE, "y.shape[3] is 7, needs 6"},
    {SHAPE, Y, 1, 2, TFB_ERR_SHAPE, "y.shape[1] is 2, needs 4"},
    {SHAPE, L, 1, 2, TFB_ERR_SHAPE, "lse.shape[1] is 2, needs 4"},
    {SHAPE, L, 2, 6, TFB_ERR_SHAPE, "lse.shape[2] is 6, needs 5"},
    {SHAPE, Q, 2, PTRDIFF_MAX, TFB_ERR_RANGE, "the size of q overflows"},
    {SHAPE, K, 2, PTRDIFF_MAX / 8, TFB_ERR_RANGE, "the size of k overflows"},
    {SHAPE, V, 2, PTRDIFF_MAX, TFB_ERR_RANGE, "the size of v overflows"},
    {SHAPE, Y, 0, PTRDIFF_MAX, TFB_ERR_RANGE, "the size of y overflows"},
    {SHAPE, L, 0, PTRDIFF_MAX, TFB_ERR_RANGE, "the size of lse overflows"},
    {STRIDE, Q, 2, PTRDIFF_MAX, TFB_ERR_RANGE, "the size of q overflows"},
    {STRIDE, K, 1, -PTRDIFF_MAX, TFB_ERR_RANGE, "the size of k overflows"},
    {STRIDE, Y, 3, 0, TFB_ERR_SHAPE, "elements would overlap"},
    {STRIDE, Y, 2, 6, TFB_ERR_SHAPE, "elements would overlap"},
    {STRIDE, Y, 0, -7, TFB_ERR_SHAPE, "elements would overlap"},
    {STRIDE, L, 1, 4, TFB_ERR_SHAPE, "lse.stride[1] is 4: elements would overlap"},
    {ALIAS, Y, Q, 0, TFB_ERR_ALIAS, "y overlaps q"},
    {ALIAS, Y, K, 0, TFB_ERR_ALIAS, "y overlaps k"},
    {ALIAS, Y, V, 8, TFB_ERR_ALIAS, "y overlaps v"},
    {ALIAS, L, Q, 4, TFB_ERR_ALIAS, "lse overlaps q"},
    {ALIAS, L, K, 0, TFB_ERR_ALIAS, "lse overlaps k"},
    {ALIAS, L, V, 0, TFB_ERR_ALIAS, "lse overlaps v"},
    {ALIAS, L, Y, 0, TFB_ERR_ALIAS, "lse overlaps y"},
    {OPTION, CAUSAL, 0, 3, TFB_ERR_ARG, "causal is 3"},
    {OPTION, CAUSAL, 0, -1, TFB_ERR_ARG, "causal is"},
    {OPTION, CAUSAL, 0, 0, TFB_ERR_ARG, "window is 3"}, /* a window needs causal */
    {OPTION, WINDOW, 0, -1, TFB_ERR_ARG, "window is -1"},
    {OPTION, CHUNK, 0, -1, TFB_ERR_ARG, "chunk_size is -1"},
    {OPTION, OFFSET, 0, FAR, TFB_ERR_RANGE, "offset"},
    {OPTION, OFFSET, 0, -FAR, TFB_ERR_RANGE, "offset"},
    {OPTION, POS0, 0, -1, TFB_ERR_RANGE, "key_pos0 -1"},
    {OPTION, POS0, 0, PTRDIFF_MAX, TFB_ERR_RANGE, "key_pos0"},
};

static void spoil_tensor(const spoil *s, tfb_tensor *t, const tfb_tensor *other) {
    switch (s->field) {
    case NDIM: t->ndim = (int)s->value; break;
    case SHAPE: t->shape[s->dim] = s->value; break;
    case STRIDE: t->stride[s->dim] = s->value; break;
    case DTYPE: t->dtype = (tfb_dtype)s->value; break;
    case DATA: t->data = NULL; break;
    case SHIFT: t->data = (char *)t->data + s->value; break;
    case ALIAS: t->data = (char *)other->data + s->value; break;
    case NIL:
    case OPTION: break;
    }
}

static void spoil_option(const spoil *s, tfb_attention_opts *o) {
    switch (s->which) {
    case CAUSAL: o->causal = (tfb_causal)s->value; break;
    case WINDOW: o->window = s->value; break;
    case CHUNK: o->chunk_size = s->value; break;
    case OFFSET: o->offset = s->value; break;
    default: o->key_pos0 = s->value;
    }
}

static void bad_input(void) {
    tfb_ctx ctx;
    size_t i;
    t_ctx(&ctx, NULL);
    for (i = 0; i < sizeof spoils / sizeof *spoils; i++) {
        const spoil *s = spoils + i;
        call c = call_of(2, 4, 2, 5, 9, 8, 7);
        tfb_tensor *t[5];
        tfb_idx n;
        c.o.causal = TFB_CAUSAL_OFFSET;
        c.o.window = 3;
        call_new(&c, DENSE);
        t[Q] = &c.q, t[K] = &c.k, t[V] = &c.v, t[Y] = &c.y, t[L] = &c.lse;
        if (s->field == OPTION) spoil_option(s, &c.o);
        else spoil_tensor(s, t[s->which], t[s->dim]);
        if (s->field == NIL) t[s->which] = NULL;
        CHECK_FAILS(&ctx, s->want, s->text,
                    tfb_attention(&ctx, t[Q], t[K], t[V], &c.o, t[Y]));
        CHECK(strncmp(ctx.message, "tfb_attention: ", 15) == 0, "\"%s\"", ctx.message);
        n = c.y_floats;
        CHECK(untouched(c.mem[3], n) == n && untouched(c.mem[4], c.lse_floats) == 40,
              "spoil %d: written although it failed", (int)i);
        call_free(&c);
    }
    CHECK(tfb_attention(NULL, NULL, NULL, NULL, NULL, NULL) == TFB_ERR_ARG, "no context");
    tfb_ctx_free(&ctx);
}

int main(void) {
    RUN(random_shapes);
    RUN(key_lengths);
    RUN(query_lengths);
    RUN(head_dims);
    RUN(causal_offsets);
    RUN(windows);
    RUN(window_of_one_is_the_value);
    RUN(layouts);
    RUN(broadcast_keys);
    RUN(options_may_be_absent);
    RUN(scales);
    RUN(chunk_sizes);
    RUN(workers);
    RUN(workers_keep_apart);
    RUN(batch_of_one);
    RUN(every_table);
    RUN(prefill_in_pieces);
    RUN(slices_of_a_sequence);
    RUN(grouped_heads_read_their_kv_head);
    RUN(masked_nan_never_leaks);
    RUN(all_that_is_masked_is_nan);
    RUN(rows_without_a_key);
    RUN(large_scores);
    RUN(infinite_scores);
    RUN(reference_against_float64);
    RUN(scratch_does_not_grow);
    RUN(measured_is_used);
    RUN(allocation_fails_then_not);
    RUN(empty_extents);
    RUN(empty_but_huge);
    RUN(bad_input);
    FINISH();
}
