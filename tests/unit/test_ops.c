/* What holds for every function of the table in ops.h: all shapes up to 5 in every
 * dimension, in blocks of exactly their size, against the plain loops and the other
 * instruction set; memory that is not to be had, scratch that is one byte too small;
 * sizes that overflow; the caller's floating-point mode. */
#include "../test.h"
#include "../ops.h"

#define SMALL 5 /* the largest extent of "all shapes" */

/* How many shapes of an op are tried: of most all, under the address sanitizer, where it
 * matters. Attention has 279936 of them, so those are drawn. */
#if defined(__SANITIZE_ADDRESS__)
#define SHAPES 8000
#else
#define SHAPES 400
#endif

/* Options at random, of a call that is meant. */
static void op_options(op_call *c) {
    int i;
    for (i = 0; i < OP_PICKS && c->op->picks[i]; i++) {
        const int n = c->op->tame[i] ? c->op->tame[i] : c->op->picks[i];
        c->pick[i] = (int)t_int(0, n - 1);
    }
    for (i = 0; i < c->n; i++)
        if (c->arg[i].optional && !c->arg[i].rare && !t_int(0, 3)) c->has |= 1u << i;
}

static void op_make(op_call *c) {
    op_options(c);
    op_shape(c);
    op_alloc(c);
}

static op_call op_random(const op *o, tfb_idx most) {
    op_call c = op_begin(o);
    char letters[32];
    int i, n = op_letters(&c, letters);
    for (i = 0; i < n; i++) c.dim[(int)letters[i]] = t_int(0, most);
    op_make(&c);
    return c;
}

/* Each shape, now and then in all contexts. */
static void shapes_of(const op *o) {
    const op_call empty = op_begin(o);
    char letters[32];
    const int n = op_letters(&empty, letters);
    const char *isa = getenv("TFB_TEST_ISA");
    const long most = isa && !strcmp(isa, "scalar") ? SHAPES / 8 : SHAPES;
    long all = 1, it, good = 0, bad = 0;
    int i;
    for (i = 0; i < n; i++) all *= SMALL + 1;
    for (it = 0; it < all && t_bad < 5; it++) {
        op_call c = empty;
        long rest = it;
        if (all > most && t_int(0, all / most)) continue;
        for (i = 0; i < n; i++, rest /= SMALL + 1)
            c.dim[(int)letters[i]] = rest % (SMALL + 1);
        op_make(&c);
        if (op_check(&c, 1 + (int)(it & 1), it % 64 == 0) == TFB_OK) good++;
        else bad++;
        op_end(&c);
    }
    printf("%s: %ld of %ld shapes, %ld of them refused\n", o->name, good + bad, all, bad);
    CHECK(good > bad, "%s mostly fails", o->name);
}

static void test_all_shapes(void) {
    int i;
    for (i = 0; i < OPS; i++) shapes_of(&ops[i]);
}

/* Larger ones, strided by the test of layouts elsewhere: all contexts agree. */
static void test_all_contexts(void) {
    int i, it;
    for (i = 0; i < OPS; i++)
        for (it = 0; it < 12; it++) {
            op_call c = op_random(&ops[i], it < 6 ? 20 : 9);
            op_check(&c, 1 + it % 4, 1);
            op_end(&c);
        }
}

/* --- Memory. --- */
/* The nth allocation fails: MEMORY, nothing written, nothing lost, and the next call of
 * the context is as good as any. Returns 0 when nothing was left to fail. */
static int starve(op_call *c, long nth, int workers) {
    op_rig *r = op_rig_get();
    tfb_ctx ctx;
    t_heap heap;
    tfb_status got;
    int failed;
    t_ctx(&ctx, &heap);
    op_workers(r, &ctx, workers);
    op_restore(c);
    heap.fail_at = nth;
    got = op_do(c, &ctx, c->op->run);
    if (got != TFB_OK) { /* only what merges blocks may fail unseen */
        CHECK(got == TFB_ERR_MEMORY && strchr(ctx.message, ':'), "%d %s: %s", (int)got,
              ctx.message, op_text(c));
        op_untouched(c, "no memory");
        CHECK_OK(&ctx, op_do(c, &ctx, c->op->run));
    }
    failed = heap.calls >= nth;
    op_compare(c, "after a failure");
    tfb_ctx_free(&ctx);
    CHECK(heap.live == 0, "%ld blocks are lost: %s", heap.live, op_text(c));
    return failed;
}

static void test_no_memory(void) {
    int i, it;
    for (i = 0; i < OPS; i++) {
        long forced = 0, nth;
        for (it = 0; it < 12; it++) {
            op_call c = op_random(&ops[i], it < 6 ? 20 : 9);
            if (op_check(&c, 1, 0) == TFB_OK && !c.dry)
                for (nth = 1; starve(&c, nth, 1 + it % 3); nth++) forced++;
            op_end(&c);
        }
        printf("%s: %ld failures\n", ops[i].name, forced);
    }
}

/* --- Sizes that overflow. --- */
static const tfb_idx far[] = {
    PTRDIFF_MAX,     PTRDIFF_MAX - 1,  PTRDIFF_MAX / 2,    PTRDIFF_MAX / 4 + 1,
    PTRDIFF_MAX / 8, PTRDIFF_MAX / 64, PTRDIFF_MAX / 4096, (PTRDIFF_MAX >> 16) + 1};
static const tfb_idx far_steps[] = {PTRDIFF_MAX, PTRDIFF_MIN, PTRDIFF_MAX / 4,
                                    PTRDIFF_MIN / 8};

/* Measured, the call may be legal; with data NULL it never is. Both must come back. */
static void far_call(op_call *c, const char *what) {
    op_rig *r = op_rig_get();
    tfb_status got;
    int i;
    op_workers(r, &r->measure, 3);
    got = op_do(c, &r->measure, c->op->run);
    CHECK(got == TFB_OK || got == TFB_ERR_RANGE || got == TFB_ERR_SHAPE,
          "%s: measured %d \"%s\": %s", what, (int)got, r->measure.message, op_text(c));
    CHECK(got == TFB_OK || r->measure.message[0], "no message: %s", op_text(c));
    for (i = 0; i < c->n; i++) c->t[i].data = NULL;
    op_workers(r, &r->hosted, 1);
    got = op_do(c, &r->hosted, c->op->run);
    for (i = 0; i < c->n && got == TFB_OK; i++)
        CHECK(!op_has(c, i) || op_empty(&c->t[i]), "took NULL: %s", op_text(c));
    CHECK(got == TFB_OK || r->hosted.message[0], "no message: %s", op_text(c));
    op_untouched(c, "a size that overflows");
}

static op_call far_base(const op *o) { /* no extent is 0 */
    op_call c = op_begin(o);
    char letters[32];
    int i, n = op_letters(&c, letters);
    for (i = 0; i < n; i++) c.dim[(int)letters[i]] = 2;
    op_options(&c);
    c.has = t_rand();
    for (i = 0; i < c.n; i++)
        if (c.arg[i].rare) c.has &= ~(1u << i);
    op_make(&c);
    return c;
}

/* One extent of one tensor, then the same extent of all tensors that have it, then a
 * stride, is hardly less than all there is. */
static void far_of(const op *o) {
    int i, d, j, k, e;
    op_call base = op_begin(o), c;
    for (i = 0; i < base.n; i++)
        for (d = 0; base.arg[i].role[d] && !base.arg[i].rare; d++)
            for (k = 0; k < 8; k++) {
                c = far_base(o);
                c.has |= 1u << i;
                c.t[i].shape[d] = far[k];
                far_call(&c, "one extent");
                for (j = 0; j < c.n; j++)
                    for (e = 0; c.arg[j].role[e]; e++)
                        if (c.arg[j].role[e] == c.arg[i].role[d])
                            c.t[j].shape[e] = far[k];
                far_call(&c, "all extents");
                op_end(&c);
                c = far_base(o);
                c.has |= 1u << i;
                c.t[i].stride[d] = far_steps[k % 4];
                far_call(&c, "a stride");
                op_end(&c);
            }
}

static void test_overflow(void) {
    int i;
    for (i = 0; i < OPS; i++) far_of(&ops[i]);
}

/* Strides of tensors with one element or none: found by fuzzing, by UBSan or a hang. */
static void test_strides_never_taken(void) {
    float x[2] = {1, 2}, mem[16];
    tfb_tensor one = tfb_view2(x, TFB_F32, 1, 1), y = tfb_view2(x + 1, TFB_F32, 1, 1);
    tfb_tensor none = tfb_view2(NULL, TFB_F32, PTRDIFF_MAX, 0), packed;
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    one.stride[1] = PTRDIFF_MIN;
    CHECK_FAILS(&ctx, TFB_ERR_RANGE, "the size of x overflows", tfb_copy(&ctx, &one, &y));
    none.stride[0] = PTRDIFF_MAX;
    CHECK_OK(&ctx, tfb_pack(&ctx, &none, mem, sizeof mem, &packed));
    CHECK(packed.shape[0] == PTRDIFF_MAX && packed.shape[1] == 0, "the pack's shape");
    tfb_ctx_free(&ctx);
}

/* --- The caller's floating-point mode. --- */
#if defined(__SSE2__) && defined(__GNUC__) && !defined(__TINYC__)
#include <xmmintrin.h>
#define MODES 4
static unsigned mode_get(void) {
    return _mm_getcsr() & 0xFFC0u; /* without the flags */
}

static void mode_set(int i) { /* usual; flush to zero and denormals are zero; upwards */
    const unsigned usual = 0x1F80u, modes[MODES] = {0, 0x8040, 0x8000, 0x4000};
    _mm_setcsr(usual | modes[i]);
}
#else
#define MODES 1
static unsigned mode_get(void) {
    return 0;
}

static void mode_set(int i) {
    (void)i;
}
#endif

/* Values whose products are subnormal or nearly so. */
static void tiny_values(op_call *c) {
    int i;
    size_t at;
    for (i = 0; i < c->n; i++)
        for (at = 0; c->t[i].dtype == TFB_F32 && at < c->bytes[i]; at += 4) {
            float x;
            memcpy(&x, c->mem[i] + at, 4);
            x *= t_rand() & 1 ? 1e-19f : t_rand() & 1 ? 1e-38f : 1.0f;
            memcpy(c->mem[i] + at, &x, 4);
            memcpy(c->first[i] + at, &x, 4);
        }
}

/* The calls of each index of a batch letter write what one call of all writes. */
static void one_by_one(op_call *c, tfb_ctx *ctx, char letter) {
    const tfb_idx n = c->dim[(int)letter];
    op_call part;
    tfb_idx k;
    int i, d;
    op_restore(c);
    for (k = 0; k < n; k++) {
        part = *c;
        part.dim[(int)letter] = 1;
        for (i = 0; i < c->n; i++)
            for (d = 0; c->arg[i].role[d]; d++)
                if (c->arg[i].role[d] == letter) {
                    part.t[i].shape[d] = 1;
                    if (!c->bytes[i]) continue;
                    part.t[i].data =
                        (char *)part.t[i].data +
                        (size_t)(k * c->t[i].stride[d]) * tfb_dtype_size(c->t[i].dtype);
                }
        CHECK_OK(ctx, op_do(&part, ctx, c->op->run));
    }
    if (n) op_compare(c, "one by one");
}

static void mode_of(const op *o, int mode) {
    op_rig *r = op_rig_get();
    op_call c = op_random(o, 12);
    const char *letters = strncmp(o->tensors, "x:AMK", 5) ? "AB" : "AM";
    unsigned before;
    int i;
    tiny_values(&c);
    mode_set(mode);
    before = mode_get();
    op_workers(r, &r->hosted, 1);
    op_restore(&c);
    if (!c.dry && op_do(&c, &r->hosted, o->run) == TFB_OK) {
        op_keep(&c);
        op_workers(r, &r->hosted, 3);
        op_restore(&c);
        CHECK_OK(&r->hosted, op_do(&c, &r->hosted, o->run));
        op_compare(&c, "three workers");
        for (i = 0; i < 2 && c.n > 1 && o->run != run_chunked; i++)
            one_by_one(&c, &r->hosted, letters[i]);
    }
    CHECK(mode_get() == before, "%s changed the mode from %x to %x", o->name, before,
          mode_get());
    mode_set(0);
    op_end(&c);
}

static void test_modes(void) {
    int i, it, mode;
    if (MODES == 1) SKIP("the floating-point mode of this machine is not known here");
    for (mode = 0; mode < MODES; mode++)
        for (i = 0; i < OPS; i++)
            for (it = 0; it < 5; it++) mode_of(&ops[i], mode);
}

int main(void) {
    RUN(test_all_shapes);
    RUN(test_all_contexts);
    RUN(test_no_memory);
    RUN(test_overflow);
    RUN(test_strides_never_taken);
    RUN(test_modes);
    FINISH();
}
