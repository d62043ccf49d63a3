/* Every kernel of every table this CPU has, called directly and compared by bits with
 * plain loops. Buffers stand at guard pages: each test runs once with buffers that end
 * there and once with buffers that begin there, so that one float too many crashes; the
 * open side has canaries. TFB_TEST_ISA picks one table, arguments pick kernels.
 * TFB_TEST_OPEN=1: no guard pages, for an emulator that reads masked lanes too. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS under -std=c99 */
#endif
#include "../test.h"
#include <math.h>
#if (defined(__unix__) || defined(__APPLE__)) && !defined(__wasm__)
#include <sys/mman.h>
#include <unistd.h>
#define GUARDED 1
#else
#define GUARDED 0
#endif

static const tfb__kernels *isa;

/* --- Buffers: `used` of them at a time, released by done(). --- */
#define BUFFERS      16
#define BUFFER_BYTES ((size_t)1 << 20)
#define CANARIES     32
#define CANARY       0x7FEDBEEFu /* a NaN: what reads it shows */

typedef struct buffer {
    char *base;
    float *at;
    tfb_idx n;
} buffer;

static buffer buffers[BUFFERS];
static int used, at_front, guarded;

#if GUARDED
static char *guarded_bytes(void) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *p;
    p = (char *)mmap(NULL, BUFFER_BYTES + 2 * page, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == (char *)MAP_FAILED) exit(97);
    if (mprotect(p, page, PROT_NONE) ||
        mprotect(p + page + BUFFER_BYTES, page, PROT_NONE))
        exit(96);
    return p + page;
}
#endif

static char *buffer_base(int i, size_t need) {
    if (need + CANARIES * sizeof(float) > BUFFER_BYTES) exit(98);
    if (buffers[i].base) return buffers[i].base;
#if GUARDED
    if (guarded) return guarded_bytes();
#endif
    return (char *)malloc(BUFFER_BYTES + CANARIES * sizeof(float));
}

static float *canaries(const buffer *b) {
    return at_front ? b->at + b->n : b->at - CANARIES;
}

/* n floats, all canaries. */
static float *room(tfb_idx n) {
    const uint32_t canary = CANARY;
    const size_t bytes = (size_t)n * sizeof(float);
    buffer *b = &buffers[used];
    float *from;
    tfb_idx i;
    if (used == BUFFERS) exit(95);
    b->base = buffer_base(used++, bytes);
    b->at = (float *)(void *)(b->base + (at_front ? 0 : BUFFER_BYTES - bytes));
    b->n = n;
    from = at_front ? b->at : b->at - CANARIES;
    for (i = 0; i < n + CANARIES; i++) memcpy((void *)(from + i), &canary, 4);
    return b->at;
}

/* n floats nobody may touch: after one buffer there is always a guard page. */
static float *nowhere(tfb_idx n) {
    if (!guarded || used == 0) return room(n);
    return (float *)(void *)(buffers[0].base + BUFFER_BYTES);
}

static float *numbers(tfb_idx n, float scale) {
    float *p = room(n);
    tfb_idx i;
    for (i = 0; i < n; i++) p[i] = scale * t_float();
    return p;
}

static float *maybe(tfb_idx n) { /* numbers or nothing */
    return t_int(0, 1) ? numbers(n, 1) : NULL;
}

static float *copy_of(const float *x, tfb_idx n) {
    float *p = room(n);
    memcpy((void *)p, (const void *)x, (size_t)n * sizeof *p);
    return p;
}

static int same(const float *a, const float *b, tfb_idx n) { /* NaNs too */
    return memcmp((const void *)a, (const void *)b, (size_t)n * sizeof *a) == 0;
}

static void done(const char *what) {
    const uint32_t canary = CANARY;
    int i, j;
    for (i = 0; i < used; i++)
        for (j = 0; j < CANARIES; j++)
            CHECK(memcmp((const void *)(canaries(&buffers[i]) + j), &canary, 4) == 0,
                  "%s wrote outside buffer %d, place %d", what, i, j);
    used = 0;
}

/* Does the table flush subnormals? CONTRACT section 1 then asks for data without. */
static int flushes(void) {
    const float tiny = 1e-40f, one = 1, zero = 0;
    float y0, y1;
    isa->rotate(1, &tiny, &zero, 1, &y0, &y1, 1, &one, &zero);
    return TFB__HELIUM || tfb__bits_of(y0) == 0; /* gcc uses it for scalar code too */
}

static float special(void) { /* of the first seven where subnormals are flushed */
    static const uint32_t bits[] = {
        0x00000000, 0x80000000, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000,
        0x7FC00000, 0x7F7FFFFF, 0xFF7FFFFF, 0x00800000, 0x80800000, 0x48000000,
        0x48000001, 0xC8000001, 0x7E123456, 0x42AEAC4F, 0xC2AEAC50, 0x42B17218,
        0xC2B0C0A5, 0x41207AE1, 0xC1519999, 0x3F19999A, 0x43000000, 0xC2FC0000,
        0x5F000000, 0x3F490FDB, 0x40490FDB, 0x4B000001};
    const uint32_t n = flushes() ? 7 : (uint32_t)(sizeof bits / sizeof *bits);
    return tfb__float_of(bits[t_rand() % n]);
}

static const tfb_idx lengths[] = {1,  2,  3,  4,  5,  7,  8,  9,  12,  15,  16,  17,
                                  23, 31, 32, 33, 47, 63, 64, 65, 100, 255, 256, 257};
#define LENGTHS  ((int)(sizeof lengths / sizeof *lengths))
#define PICK(xs) ((xs)[t_int(0, (tfb_idx)(sizeof(xs) / sizeof *(xs)) - 1)])

/* --- What strides reach: offsets lo .. hi of the elements of a matrix. --- */
typedef struct reach {
    tfb_idx lo, hi;
} reach;

static reach along(reach r, tfb_idx n, tfb_idx stride) {
    if (n > 1 && stride < 0) r.lo += (n - 1) * stride;
    if (n > 1 && stride > 0) r.hi += (n - 1) * stride;
    return r;
}

static reach matrix(tfb_idx rows, tfb_idx rs, tfb_idx cols, tfb_idx cs) {
    const reach none = {0, -1}, one = {0, 0};
    return rows && cols ? along(along(one, rows, rs), cols, cs) : none;
}

/* k steps of cols columns: column c is lane c % 16 of panel c / 16. */
static reach panels(tfb_idx cols, tfb_idx step, tfb_idx lane, tfb_idx k, tfb_idx ks) {
    const reach none = {0, -1};
    reach r = {0, 0};
    tfb_idx c;
    for (c = 0; c < cols; c++) {
        r.lo = TFB__MIN(r.lo, c / 16 * step + c % 16 * lane);
        r.hi = TFB__MAX(r.hi, c / 16 * step + c % 16 * lane);
    }
    return cols && k ? along(r, k, ks) : none;
}

static float value(void) { /* now and then tiny */
    const float x = t_float();
    const tfb_idx kind = flushes() ? 15 : t_int(0, 15);
    return kind == 0 ? x * 1e-30f : kind == 1 ? x * 1e-40f : x;
}

static float *in_reach(reach r) {
    const tfb_idx n = r.hi - r.lo + 1;
    float *p = room(n);
    tfb_idx i;
    for (i = 0; i < n; i++) p[i] = value();
    return p - r.lo;
}

static tfb_idx any_stride(void) {
    static const tfb_idx all[] = {1, 1, 1, 1, 1, 0, -1, 2, 3, 7, 16, 17, 40, -5, -16};
    return PICK(all);
}

/* --- Sources. --- */
static uint16_t half(tfb_dtype dtype) { /* finite, and its sums too */
    const uint32_t bits = t_rand() & 0xFFFF;
    if (dtype == TFB_BF16) return (uint16_t)(tfb__bits_of(value()) >> 16);
    return (uint16_t)((bits & 0x7C00) == 0x7C00 ? bits & 0x83FF : bits);
}

static float f16_ref(uint32_t h) { /* steps of 2^(e - 25), of 2^-24 below the normal */
    const uint32_t e = h >> 10 & 31, m = h & 1023;
    float x;
    if (e == 31) x = tfb__float_of(m ? 0x7FC00000 : 0x7F800000);
    else x = (float)(e ? m + 1024 : m) * tfb__float_of((TFB__MAX(e, 1u) + 102) << 23);
    return h >> 15 ? -x : x;
}

static uint16_t byte_order(const tfb__source *from, uint16_t h) {
    const int swap = from->little && TFB__BIG_ENDIAN;
    return swap ? (uint16_t)(h << 8 | h >> 8) : h;
}

/* Element i by plain reads. */
static float element(const tfb__source *from, tfb_idx i) {
    uint16_t h;
    if (from->dtype == TFB_F32 && from->little)
        return tfb__load_le((const float *)from->x + i);
    if (from->dtype == TFB_F32) return ((const float *)from->x)[i];
    h = byte_order(from, ((const uint16_t *)from->x)[i]);
    if (from->dtype == TFB_F16) return f16_ref(h);
    return tfb__float_of((uint32_t)h << 16);
}

/* n halves; an odd number of them ends at the guard page all the same. */
static uint16_t *halves(tfb_idx n) {
    return (uint16_t *)(void *)room((n + 1) / 2) + (at_front ? 0 : n % 2);
}

/* Gives the source its elements. */
static void fill_source(tfb__source *from, reach r) {
    const tfb_idx n = r.hi - r.lo + 1;
    float *x = from->dtype == TFB_F32 ? room(n) : NULL;
    uint16_t *h = x ? NULL : halves(n);
    tfb_idx i;
    for (i = 0; i < n; i++) {
        if (h) h[i] = byte_order(from, half(from->dtype));
        else if (from->little) tfb__store_le(x + i, value());
        else x[i] = value();
    }
    from->x = h ? (const void *)(h - r.lo) : (const void *)(x - r.lo);
}

static tfb__source any_source(void) {
    static const tfb_dtype dtypes[] = {TFB_F32, TFB_F32, TFB_F16, TFB_BF16};
    tfb__source from;
    memset((void *)&from, 0, sizeof from);
    from.dtype = PICK(dtypes);
    from.little = (int)t_int(0, 1);
    from.lane_stride = any_stride();
    from.k_stride = any_stride();
    return from;
}

/* Some inputs that only rows which see them may feel. */
static void poison(float *p, tfb_idx n) {
    static const uint32_t bits[] = {0x7FC00000, 0x7F800000, 0xFF800000};
    if (n && t_int(0, 5) == 0) p[t_int(0, n - 1)] = tfb__float_of(PICK(bits));
}

static void poison_last(void) { /* of the buffers */
    const buffer *b = &buffers[used - 1];
    poison(b->at, b->n);
}

/* --- mm --- */
enum { PANELS, IN_PLACE, STAGED, REUSED, KINDS };
enum { ANY, CARRY, RELU }; /* what a case insists on */

#define LONGEST_K 600

typedef struct product {
    tfb__mm t;
    buffer b, s, out; /* where t.b, t.s and the results lie; s may be nowhere */
} product;

static float weight(const tfb__mm *t, tfb_idx c, tfb_idx k) {
    const tfb_idx p = c / 16, lane = c % 16;
    if (!t->staged) return tfb__load_le(t->b + p * t->bps + k * t->bks + lane);
    return element(&t->source, p * t->source_step + lane * t->source.lane_stride +
                                   k * t->source.k_stride);
}

static float chain_ref(tfb_idx k, const float *a, const float *b, float from) {
    tfb_idx i;
    for (i = 0; i < k; i++) from = TFB__FMA(a[i], b[i], from);
    return from;
}

/* One output. */
static float mm_ref(const tfb__mm *t, tfb_idx row, tfb_idx c, const float *b) {
    const float *a = t->a + row * t->lda;
    const float before = t->add || t->carry ? t->s[row * t->lds + c] : 0.0f;
    const float first = t->carry ? before * t->carry[row] : 0.0f;
    float sum = chain_ref(TFB__MIN(t->k, 256), a, b, first);
    tfb_idx k;
    if (t->add) sum = before + sum;
    for (k = 256; k < t->k; k += 256)
        sum = sum + chain_ref(TFB__MIN(t->k - k, 256), a + k, b + k, 0);
    if (!t->last) return sum;
    sum = TFB__FMA(t->alpha, sum, t->bias ? t->bias[c] : 0.0f);
    if (t->relu && sum < 0) sum = 0;
    return t->r ? sum + t->r[row * t->ldr + c] : sum;
}

/* All of them, to a copy of where the kernel will leave them. */
static void mm_sums_ref(const tfb__mm *t, float *to, tfb_idx ld) {
    float column[LONGEST_K];
    tfb_idx r, c, k;
    for (c = 0; c < t->cols; c++) {
        for (k = 0; k < t->k; k++) column[k] = weight(t, c, k);
        for (r = 0; r < t->rows; r++) to[r * ld + c] = mm_ref(t, r, c, column);
    }
}

/* What staging leaves in the panels; lanes beyond cols are +0. */
static void mm_panels_ref(const tfb__mm *t, float *b) {
    tfb_idx c, k;
    for (c = 0; c < (t->cols + 15) / 16 * 16; c++)
        for (k = 0; k < t->k; k++)
            tfb__store_le(b + c / 16 * t->bps + k * 16 + c % 16,
                          c < t->cols ? weight(t, c, k) : 0.0f);
}

static void mm_a(tfb__mm *t) {
    t->lda = t_int(0, 9) ? t->k + t_int(0, 1) * t_int(0, 9) : 0;
    if (t_int(0, 4) == 0) t->lda = -t->lda;
    t->a = in_reach(matrix(t->rows, t->lda, t->k, 1));
    poison_last();
}

/* Panels that lie ready, or whole ones in B itself. */
static void mm_b(tfb__mm *t, int in_place) {
    const tfb_idx whole = (t->cols + 15) / 16 * 16;
    reach r;
    tfb_idx i;
    t->bks = 16;
    t->bps = 16 * (t->k + t_int(0, 2));
    if (in_place) {
        t->bks = t_int(0, 2) ? whole + t_int(0, 9) : any_stride();
        t->bps = t_int(0, 3) ? 16 : 16 * any_stride();
        if (t_int(0, 3) == 0) t->bks = -t->bks;
    }
    r = panels(whole, t->bps, 1, t->k, t->bks);
    t->b = in_reach(r);
    for (i = r.lo; i <= r.hi; i++) tfb__store_le(t->b + i, value());
    if (!TFB__BIG_ENDIAN) poison_last();
}

/* Panels to be filled, and where from: rows, columns, a pack, or any strides; rows mostly
 * follow each other evenly. Only a pack, which says so, has all lanes of the last
 * panel. */
static void mm_source(tfb__mm *t, int reuse) {
    const tfb_idx count = (t->cols + 15) / 16, layout = t_int(0, 4);
    const tfb_idx steps = reuse ? TFB__STAGE : t->k;
    tfb__source *from = &t->source;
    *from = any_source();
    if (layout == 0) from->k_stride = 1;
    if (layout == 0) from->lane_stride = t->k + t_int(0, 3);
    if (layout <= 2 && layout > 0) from->lane_stride = 1;
    if (layout == 1) from->k_stride = t->cols + t_int(0, 3);
    if (layout == 2) from->k_stride = 16;
    else if (from->lane_stride == 1 && from->k_stride == 16) from->little = 0;
    t->source_step = 16 * from->lane_stride + t_int(0, 1) * any_stride();
    if (layout == 0 && t_int(0, 3)) t->source_step = 16 * from->lane_stride;
    if (layout == 2) t->source_step = 16 * t->k;
    fill_source(from, panels(layout == 2 ? 16 * count : t->cols, t->source_step,
                             from->lane_stride, t->k, from->k_stride));
    if (from->dtype == TFB_F32 && !TFB__BIG_ENDIAN) poison_last();
    t->staged = 1;
    t->reuse = reuse;
    t->bks = 16;
    t->bps = 16 * (steps + (reuse ? 0 : t_int(0, 2)));
    t->b = room((count - 1) * t->bps + 16 * steps);
}

/* Alpha and bias, which without `last` nobody may read; relu, which shall meet -0.0, NaN
 * and infinities if it is insisted on. */
static void mm_bias(tfb__mm *t, int relu) {
    static const uint32_t bits[] = {0x80000000, 0x7FC00000, 0x7F800000, 0xFF800000};
    static const float alphas[] = {1, 1, 0.375f, -1};
    float *bias = relu ? numbers(t->cols, 1) : maybe(t->cols);
    tfb_idx c;
    for (c = 0; relu && c < t->cols; c += t_int(1, 2))
        bias[c] = tfb__float_of(PICK(bits));
    t->alpha = relu ? -1 : PICK(alphas);
    t->bias = t->last || !bias ? bias : nowhere(t->cols);
    t->relu = relu || t_int(0, 1);
}

/* Rows that lie apart; ld becomes their distance. */
static float *mm_rows(const tfb__mm *t, tfb_idx *ld) {
    *ld = t->cols + t_int(0, 1) * t_int(0, 40);
    if (t_int(0, 4) == 0) *ld = -*ld;
    return in_reach(matrix(t->rows, *ld, t->cols, 1));
}

/* Canaries for outputs nobody may read. */
static void mm_blank(const tfb__mm *t, float *x, tfb_idx ld) {
    tfb_idx i, c;
    for (i = 0; i < t->rows; i++)
        for (c = 0; c < t->cols; c++) x[i * ld + c] = tfb__float_of(CANARY);
}

/* Nothing is added, or any rows, or what the output holds. */
static void mm_residual(tfb__mm *t) {
    const tfb_idx kind = t_int(0, 2);
    const int lost = t->y == t->s && (t->add || t->k > 256);
    if (kind && !t->last) t->r = nowhere(t->cols);
    else if (kind == 1 && t_int(0, 1)) t->r = mm_rows(t, &t->ldr);
    else if (kind == 1) {
        t->ldr = any_stride();
        t->r = in_reach(matrix(t->rows, t->ldr, t->cols, 1));
    } else if (kind == 2 && !lost) {
        t->r = t->y;
        t->ldr = t->ldy;
    }
    if (kind == 1 && t->last) poison_last();
}

/* Sums in s, results in s or in y; what has no use lies nowhere. */
static void mm_outputs(product *p) {
    tfb__mm *t = &p->t;
    const int reads = t->add || t->carry, in_s = !t->last || t_int(0, 1);
    t->s = t->y = nowhere(t->cols);
    if (reads || in_s || t->k > 256) {
        t->s = mm_rows(t, &t->lds);
        p->s = p->out = buffers[used - 1];
    }
    if (t->last && in_s) {
        t->y = t->s;
        t->ldy = t->lds;
    } else if (t->last) {
        t->y = mm_rows(t, &t->ldy);
        p->out = buffers[used - 1];
    }
    mm_residual(t);
    if (p->s.n && !reads && t->r != t->s) mm_blank(t, t->s, t->lds);
    if (t->last && !in_s && t->r != t->y) mm_blank(t, t->y, t->ldy);
}

static product any_product(int kind, tfb_idx rows, tfb_idx cols, tfb_idx k, int wish) {
    const int carry = wish == CARRY;
    product p;
    memset((void *)&p, 0, sizeof p);
    p.t.rows = rows;
    p.t.cols = carry || kind == IN_PLACE ? (cols + 15) / 16 * 16 : cols;
    p.t.k = carry ? TFB__MIN(k, 256) : k;
    p.t.last = wish == RELU || t_int(0, 2);
    if (carry) p.t.carry = numbers(rows, 1);
    else p.t.add = wish != RELU && t_int(0, 1);
    mm_a(&p.t);
    mm_bias(&p.t, wish == RELU);
    if (kind >= STAGED) mm_source(&p.t, kind == REUSED);
    else mm_b(&p.t, kind == IN_PLACE);
    p.b = buffers[used - 1];
    mm_outputs(&p);
    return p;
}

/* Sums that lie apart from the results are read only, but for what the blocks before the
 * last leave there; s: what they were. */
static void mm_sums_kept(const product *p, float *s) {
    const tfb__mm *t = &p->t;
    float *was = s + (t->s - p->s.at);
    tfb_idx i;
    for (i = 0; t->k > 256 && i < t->rows; i++)
        memcpy((void *)(was + i * t->lds), (const void *)(t->s + i * t->lds),
               (size_t)t->cols * sizeof *s);
    CHECK(same(p->s.at, s, p->s.n), "mm wrote to sums: rows %ld cols %ld k %ld",
          (long)t->rows, (long)t->cols, (long)t->k);
}

static const char *mm_where(const tfb__mm *t) {
    if (!t->last) return "s";
    if (t->y == t->s) return t->r == t->y ? "s + itself" : t->r ? "s + r" : "s = y";
    return t->r == t->y ? "y + itself" : t->r ? "y + r" : "y";
}

static void mm_one(int kind, tfb_idx rows, tfb_idx cols, tfb_idx k, int wish) {
    product p = any_product(kind, rows, cols, k, wish);
    const tfb__mm *t = &p.t;
    const int apart = p.s.n && p.out.at != p.s.at;
    float *out = copy_of(p.out.at, p.out.n), *b = copy_of(p.b.at, p.b.n);
    float *s = apart ? copy_of(p.s.at, p.s.n) : NULL;
    if (kind == STAGED) mm_panels_ref(t, b);
    mm_sums_ref(t, out + ((t->last ? t->y : t->s) - p.out.at), t->last ? t->ldy : t->lds);
    isa->mm(t);
    CHECK_BITS(
        p.out.at, out, p.out.n,
        "mm kind %d rows %ld cols %ld k %ld lda %ld bks %ld lds %ld ldy %ld ldr %ld "
        "add %d relu %d wish %d to %s dtype %d strides %ld %ld %ld",
        kind, (long)rows, (long)t->cols, (long)t->k, (long)t->lda, (long)t->bks,
        (long)t->lds, (long)t->ldy, (long)t->ldr, t->add, t->relu, wish, mm_where(t),
        (int)t->source.dtype, (long)t->source.lane_stride, (long)t->source.k_stride,
        (long)t->source_step);
    if (apart) mm_sums_kept(&p, s);
    CHECK(kind == REUSED || same(p.b.at, b, p.b.n),
          "mm kind %d left other panels: rows %ld cols %ld k %ld", kind, (long)rows,
          (long)t->cols, (long)t->k);
    done("mm");
}

static void mm_case(int kind, tfb_idx rows, tfb_idx cols, tfb_idx k, int wish) {
    if (t_turn()) mm_one(kind, rows, cols, k, wish);
}

static void mm_any(int kind, tfb_idx rows, tfb_idx k, int wish) {
    const tfb_idx cols = t_int(0, 5) ? t_int(1, 70) : t_int(71, 200);
    if (kind == REUSED) rows = (rows - 1) % TFB__SKINNY + 1;
    mm_case(kind, rows, cols, k, wish);
}

static void mm(void) {
    static const tfb_idx ks[] = {0, 1, 15, 16, 17, 255, 256, 257, 512, LONGEST_K};
    tfb_idx rows, cols;
    int kind, i;
    for (kind = 0; kind < KINDS; kind++) {
        for (rows = 1; rows <= 20; rows++) {
            mm_any(kind, rows, t_int(0, 70), ANY);
            for (i = 0; i < 4; i++) mm_any(kind, rows, PICK(ks), i == 3 ? CARRY : ANY);
            mm_any(kind, rows, rows & 1 ? 0 : PICK(ks), RELU); /* 0 * -1 - 0.0 = -0.0 */
        }
        for (cols = 1; cols <= 70; cols++)
            mm_case(kind, t_int(1, 4), cols, PICK(ks), ANY);
    }
    mm_case(PANELS, 64, 64, 64, CARRY);
    mm_case(STAGED, 48, 192, 40, ANY);
}

/* --- epilogue --- */
static float apply(tfb_fn fn, float x) {
    float s, c;
    if ((fn == TFB_FN_SIN || fn == TFB_FN_COS) && !(x >= -131072.0f && x <= 131072.0f)) {
        tfb__trig_large(x, &s, &c);
        return fn == TFB_FN_SIN ? s : c;
    }
    switch (fn) {
#define APPLY(NAME, name)                                                                \
    case TFB_FN_##NAME: return tfb__##name##_scalar(x);
        TFB_FN_LIST(APPLY)
#undef APPLY
    case TFB__FNS: break;
    }
    return 0;
}

static void epilogue_ref(const tfb__epilogue *e, float *y, const float *r) {
    tfb_idx i, c;
    for (i = 0; i < e->rows; i++)
        for (c = 0; c < e->cols; c++) {
            const float *s = e->s + i * e->s_rs + (e->interleaved ? 2 * c : c);
            float v = apply(e->act, *s);
            if (e->interleaved) v = v * s[1];
            if (e->up) v = v * e->up[i * e->s_rs + c];
            if (r) v = v + r[i * e->r_rs + c * e->r_cs];
            y[i * e->y_rs + c * e->y_cs] = v;
        }
}

/* Row and column steps of a matrix whose elements do not overlap: dense, padded, spread
 * or transposed, some backwards. */
static reach steps(tfb_idx rows, tfb_idx cols, tfb_idx *rs, tfb_idx *cs) {
    *cs = t_int(0, 3) ? 1 : t_int(2, 3);
    *rs = cols * *cs + t_int(0, 1) * t_int(0, 9);
    if (t_int(0, 5) == 0) {
        *rs = 1;
        *cs = rows + t_int(0, 2);
    }
    if (t_int(0, 5) == 0) *rs = -*rs;
    if (t_int(0, 5) == 0) *cs = -*cs;
    return matrix(rows, *rs, cols, *cs);
}

/* Sums, and the factors of a gate beside them in the same rows, in turn, or nowhere. */
static tfb_idx epilogue_sums(tfb__epilogue *e, int gate) {
    const tfb_idx gap = t_int(0, 20), taken = e->interleaved ? 2 * e->cols : e->cols;
    const tfb_idx used_up = gate == 1 ? taken + gap + e->cols : taken;
    tfb_idx n, i;
    e->s_rs = used_up + t_int(0, 1) * t_int(0, 20);
    n = (e->rows - 1) * e->s_rs + used_up;
    e->s = numbers(n, 6);
    for (i = 0; i < n; i += 13) e->s[i] = special();
    if (gate == 1) e->up = e->s + taken + gap;
    return n;
}

/* What lies between the sums, factors of the gate too, is not the kernel's to write. */
static void keep_sums(const tfb__epilogue *e, float *s) {
    const tfb_idx taken = e->interleaved ? 2 * e->cols : e->cols;
    tfb_idx i;
    for (i = 0; i < e->rows; i++)
        memcpy((void *)(s + i * e->s_rs), (const void *)(e->s + i * e->s_rs),
               (size_t)taken * sizeof *s);
}

static void epilogue_case(tfb_idx rows, tfb_idx cols, tfb_fn act, int gate) {
    const int residual = (int)t_int(0, 2);
    tfb_idx n_s;
    reach y;
    float *want, *want_s;
    tfb__epilogue e;
    memset((void *)&e, 0, sizeof e);
    e.rows = rows;
    e.cols = cols;
    e.act = act;
    e.interleaved = gate == 2;
    n_s = epilogue_sums(&e, gate);
    y = steps(rows, cols, &e.y_rs, &e.y_cs);
    e.y = in_reach(y);
    if (residual == 1) {
        e.r_rs = any_stride();
        e.r_cs = any_stride();
        e.r = in_reach(matrix(rows, e.r_rs, cols, e.r_cs));
    }
    if (residual == 2) { /* the output itself */
        e.r = e.y;
        e.r_rs = e.y_rs;
        e.r_cs = e.y_cs;
    }
    want = copy_of(e.y + y.lo, y.hi - y.lo + 1);
    want_s = copy_of(e.s, n_s);
    epilogue_ref(&e, want - y.lo, residual == 2 ? want - y.lo : e.r);
    isa->epilogue(&e);
    CHECK_BITS(e.y + y.lo, want, y.hi - y.lo + 1,
               "epilogue %ld x %ld act %d gate %d residual %d steps %ld %ld", (long)rows,
               (long)cols, (int)act, gate, residual, (long)e.y_rs, (long)e.y_cs);
    keep_sums(&e, want_s);
    CHECK(same(e.s, want_s, n_s), "epilogue wrote between the sums, gate %d", gate);
    done("epilogue");
}

static void epilogue(void) {
    int act, gate, i;
    for (act = 0; act < TFB__FNS; act++)
        for (gate = 0; gate < 3; gate++) {
            for (i = 0; i < 20; i++)
                epilogue_case(t_int(1, 5), t_int(1, 40), (tfb_fn)act, gate);
            epilogue_case(2, TFB__TASK_COLS / (gate ? 2 : 1), (tfb_fn)act, gate);
        }
}

/* --- pack and collect --- */
static void pack_case(tfb__source from, tfb_idx k, tfb_idx n, tfb_idx width) {
    const tfb_idx n_p = k ? 16 * (k - 1) + width : 0;
    float *panel = numbers(n_p, 1), *want = copy_of(panel, n_p);
    tfb_idx i, j;
    fill_source(&from, matrix(TFB__MIN(n, width), from.lane_stride, k, from.k_stride));
    if (from.dtype == TFB_F32 && !TFB__BIG_ENDIAN) poison_last();
    for (j = 0; j < k; j++)
        for (i = 0; i < width; i++)
            tfb__store_le(want + 16 * j + i,
                          i < n ? element(&from, i * from.lane_stride + j * from.k_stride)
                                : 0.0f);
    isa->pack(&from, k, n, width, panel);
    CHECK(same(panel, want, n_p),
          "pack k %ld lanes %ld of %ld strides %ld %ld dtype %d little %d", (long)k,
          (long)n, (long)width, (long)from.lane_stride, (long)from.k_stride,
          (int)from.dtype, from.little);
    done("pack");
}

/* Every number of 16 bits. */
static void pack_halves(tfb_dtype dtype, int across) {
    enum { K = 4096 };
    float *panel = room(16 * K), *want = room(16 * K);
    uint16_t *x = halves(16 * K);
    tfb__source from;
    tfb_idx i, j;
    memset((void *)&from, 0, sizeof from);
    from.x = x;
    from.dtype = dtype;
    from.lane_stride = across ? 1 : K;
    from.k_stride = across ? 16 : 1;
    for (i = 0; i < 16 * K; i++) x[i] = (uint16_t)i;
    for (j = 0; j < K; j++)
        for (i = 0; i < 16; i++)
            tfb__store_le(want + 16 * j + i,
                          element(&from, i * from.lane_stride + j * from.k_stride));
    isa->pack(&from, K, 16, 16, panel);
    for (i = 0; TFB__BIG_ENDIAN && i < 16 * K; i++) {
        panel[i] = tfb__load_le(panel + i);
        want[i] = tfb__load_le(want + i);
    }
    CHECK_BITS(panel, want, 16 * K, "pack of all halves, dtype %d", (int)dtype);
    done("pack");
}

static void pack(void) {
    static const tfb_idx ks[] = {0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 33};
    tfb_idx width, i;
    for (width = 1; width <= 16; width++)
        for (i = 0; i < 60; i++) {
            const tfb__source from = any_source();
            pack_case(from, PICK(ks), i % 4 ? t_int(0, width) : 16, i % 3 ? width : 16);
        }
    for (i = 0; i < 2; i++) {
        pack_halves(TFB_F16, (int)i);
        pack_halves(TFB_BF16, (int)i);
    }
}

static void collect_case(tfb_idx rows, tfb_idx k, tfb_idx rs, tfb_idx ks) {
    const float *x = in_reach(matrix(rows, rs, k, ks));
    float *to = room(rows * k), *want = room(rows * k);
    tfb_idx i, j;
    for (i = 0; i < rows; i++)
        for (j = 0; j < k; j++) want[i * k + j] = x[i * rs + j * ks];
    isa->collect(rows, k, x, rs, ks, to);
    CHECK(same(to, want, rows * k), "collect %ld x %ld strides %ld %ld", (long)rows,
          (long)k, (long)rs, (long)ks);
    done("collect");
}

static void collect(void) {
    tfb_idx rows, i;
    for (rows = 0; rows <= 40; rows++)
        for (i = 0; i < 20; i++)
            collect_case(rows, t_int(0, 40), i % 2 ? 1 : any_stride(),
                         i % 3 ? any_stride() : rows);
}

/* --- map --- */
static void map_case(tfb_fn fn, tfb_idx n, int in_place, int wild) {
    float *x = numbers(n, t_int(0, 1) || flushes() ? 2.0f : 90.0f);
    float *want = room(n), *y;
    tfb_idx i;
    for (i = 0; wild && i < n; i++) {
        if (t_int(0, 2) == 0) x[i] = special();
        if (t_int(0, 2) == 0 && !flushes()) x[i] = tfb__float_of(t_rand() << 3);
    }
    for (i = 0; i < n; i++) want[i] = apply(fn, x[i]);
    y = in_place ? x : room(n);
    isa->map(fn, n, x, y);
    CHECK_BITS(y, want, n, "map fn %d n %ld in place %d", (int)fn, (long)n, in_place);
    done("map");
}

static void map(void) {
    int fn, i;
    for (fn = 0; fn < TFB__FNS; fn++)
        for (i = 0; i < 48; i++)
            map_case((tfb_fn)fn, lengths[i % LENGTHS], i & 1, i / 2 & 1);
}

/* --- norm --- */
static void norm_case(tfb_idx n, int aliases, int centre) {
    float *x = numbers(n, 1), *r = maybe(n), *want_sum = room(n), *want = room(n);
    tfb__norm t;
    memset((void *)&t, 0, sizeof t);
    t.n = n;
    t.x = x;
    t.r = r;
    t.w = maybe(n);
    t.b = maybe(n);
    t.eps = t_int(0, 1) ? 1e-5f : 0.25f;
    t.centre = centre;
    t.y = room(n);
    if (t_int(0, 1)) t.sum = room(n);
    if (aliases == 1) t.y = x;
    if (aliases == 2 && r) t.y = r;
    if (aliases == 3) t.sum = x;
    if (aliases == 4 && r) t.sum = r;
    tfb__norm_ref(n, x, r, t.w, t.b, t.eps, centre, want_sum, want);
    isa->norm(&t);
    CHECK_BITS(t.y, want, n, "norm n %ld centre %d aliases %d", (long)n, centre, aliases);
    if (t.sum) CHECK_BITS(t.sum, want_sum, n, "norm's sum n %ld", (long)n);
    done("norm");
}

static void norm(void) {
    int i, aliases;
    for (i = 0; i < LENGTHS; i++)
        for (aliases = 0; aliases < 5; aliases++) {
            norm_case(lengths[i], aliases, 0);
            norm_case(lengths[i], aliases, 1);
        }
}

/* --- softmax --- */
static void softmax_case(tfb_idx n, int kind) {
    static const float scales[] = {1, 30, 3000};
    float *x = numbers(n, PICK(scales)), *want = room(n), *y, lse[2];
    tfb_idx i;
    for (i = 0; i < n; i++)
        if (kind == 2 || (kind == 1 && t_int(0, 3) == 0)) x[i] = -TFB__FLT_INF;
    if (kind >= 3 && n) x[t_int(0, n - 1)] = kind == 3 ? TFB__FLT_INF : special();
    lse[1] = tfb__softmax_ref(n, x, want);
    y = t_int(0, 1) ? x : room(n);
    lse[0] = isa->softmax(n, x, y);
    CHECK_BITS(y, want, n, "softmax n %ld kind %d", (long)n, kind);
    CHECK_BITS(lse, lse + 1, 1, "lse n %ld kind %d", (long)n, kind);
    done("softmax");
}

static void softmax(void) {
    int i, kind;
    for (kind = 0; kind < 5; kind++) {
        softmax_case(0, kind);
        for (i = 0; i < LENGTHS; i++) softmax_case(lengths[i], kind);
    }
}

/* --- turns and rotate --- */
static void turns_case(tfb_idx n, float pos) {
    float *hi = room(n), *lo = room(n), *c = room(n), *s = room(n);
    float *want_c = room(n), *want_s = room(n);
    tfb_idx i;
    tfb__rope_frequencies(n, t_int(0, 1) ? 10000.0 : 500000.0, 0, hi, lo);
    for (i = 0; i < n; i++) {
        float t = pos * hi[i], e = TFB__FMA(pos, hi[i], 0.0f - t);
        t = (t - ((t + 12582912.0f) - 12582912.0f)) + TFB__FMA(pos, lo[i], e);
        tfb__sincos_turns_scalar(t, want_s + i, want_c + i);
    }
    isa->turns(n, pos, hi, lo, c, s);
    CHECK_BITS(c, want_c, n, "turns: cosine n %ld pos %.0f", (long)n, (double)pos);
    CHECK_BITS(s, want_s, n, "turns: sine n %ld pos %.0f", (long)n, (double)pos);
    done("turns");
}

static void turns(void) {
    static const float places[] = {0,    1,      -1,      7,       255,
                                   4095, 131071, -131071, 1048575, 16777215};
    int i, j;
    for (i = 0; i < LENGTHS; i++)
        for (j = 0; j < 10; j++) turns_case(lengths[i], places[j]);
}

static void rotate_case(tfb_idx n, tfb_idx xs, tfb_idx ys, int pairs, int in_place) {
    const tfb_idx x_step = pairs ? 2 * xs : xs, x_other = pairs ? xs : n * xs;
    const tfb_idx y_step = pairs ? 2 * ys : ys, y_other = pairs ? ys : n * ys;
    const tfb_idx n_x = (2 * n - 1) * xs + 1, n_y = (2 * n - 1) * ys + 1;
    float *x = numbers(n_x, 1), *c = numbers(n, 1), *s = numbers(n, 1), *y, *want;
    tfb_idx i;
    y = in_place ? x : room(n_y);
    want = copy_of(y, n_y);
    for (i = 0; i < n; i++) {
        const float a = x[i * x_step], b = x[i * x_step + x_other];
        want[i * y_step] = TFB__FMA(a, c[i], b * -s[i]);
        want[i * y_step + y_other] = TFB__FMA(b, c[i], a * s[i]);
    }
    isa->rotate(n, x, x + x_other, x_step, y, y + y_other, y_step, c, s);
    CHECK_BITS(y, want, n_y, "rotate n %ld steps %ld %ld pairs %d in place %d", (long)n,
               (long)xs, (long)ys, pairs, in_place);
    done("rotate");
}

static void rotate(void) {
    int i, pairs;
    for (i = 0; i < LENGTHS; i++)
        for (pairs = 0; pairs < 2; pairs++) {
            rotate_case(lengths[i], 1, 1, pairs, 0);
            rotate_case(lengths[i], 3, 1, pairs, 0);
            rotate_case(lengths[i], 1, 2, pairs, 0);
            rotate_case(lengths[i], 2, 2, pairs, 1);
            rotate_case(lengths[i], 1, 1, pairs, 1);
        }
}

/* --- attention --- */
/* [B, H, T, D]: dense, token-major, or channels first; returns the floats it spans. */
static tfb_idx layout(int kind, tfb_idx B, tfb_idx H, tfb_idx T, tfb_idx D,
                      tfb_tensor *t) {
    const tfb_idx gap = kind == 1 ? 3 : 0;
    *t = tfb_view4(NULL, TFB_F32, B, H, T, D);
    t->stride[3] = kind == 2 ? T : 1;
    t->stride[2] = kind == 0 ? D : kind == 1 ? H * D + gap : 1;
    t->stride[1] = kind == 0 ? T * D : kind == 1 ? D : D * T;
    t->stride[0] = kind == 1 ? T * t->stride[2] : H * T * D;
    if (!T || !H) return 0;
    return (B - 1) * t->stride[0] + (H - 1) * t->stride[1] + (T - 1) * t->stride[2] +
           (D - 1) * t->stride[3] + 1;
}

/* Numbers for k or v, in 16 bits now and then. */
static void attention_keys(tfb_tensor *t, tfb_idx n) {
    static const tfb_dtype dtypes[] = {TFB_F32, TFB_F32, TFB_F16, TFB_BF16};
    float *x = numbers(n, 1);
    tfb_idx i;
    poison(x, n);
    t->data = x;
    t->dtype = PICK(dtypes);
    if (t->dtype == TFB_F32) return;
    t->data = room((n + 1) / 2);
    for (i = 0; i < n; i++) { /* the last 16 bits of an odd n stay a canary's */
        const uint16_t h = t->dtype == TFB_F16 ? tfb__f16_of(x[i])
                                               : (uint16_t)(tfb__bits_of(x[i]) >> 16);
        memcpy((char *)t->data + 2 * i, &h, 2);
    }
}

/* Everything kernels see of the options; each now and then. */
static void attention_options(tfb_attention_opts *o, tfb_idx T, tfb_idx S) {
    static const tfb_idx places[] = {0,  0,   0,   1,    5,    16,  63,
                                     64, 100, 960, 1000, 1023, 1024};
    memset((void *)o, 0, sizeof *o);
    o->causal = (tfb_causal)t_int(0, 2);
    o->offset_set = (int)t_int(0, 1);
    o->offset = t_int(0, 1) ? S - T : t_int(-4, S);
    if (o->causal && t_int(0, 1)) o->window = t_int(1, S + 1);
    else if (t_int(0, 3) == 0) {
        o->two_sided = 1;
        o->left = t_int(0, S);
        o->right = t_int(0, S);
    }
    o->window_pinned = t_int(0, 2) == 0 ? t_int(1, 9) : 0;
    o->key_pos0 = PICK(places);
    o->key_pinned = t_int(0, 4) == 0 ? t_int(1, 1 + S / 2) : 0;
    o->scale_set = 1;
    o->scale = t_int(0, 1) ? 0.25f : 3.0f;
    o->softcap = t_int(0, 4) == 0 ? 1.7f : 0.0f; /* no power of 2: it is divided by */
    o->chunk_size = t_int(0, 1) ? t_int(1, 70) : 0;
}

/* Mask, bias, slopes and sinks, with strides of 0 where they broadcast. */
static void attention_extras(tfb_attention_opts *o, tfb_tensor *t, const tfb_tensor *q,
                             tfb_idx S) {
    const tfb_idx H = q->shape[1], T = q->shape[2], n = T * S;
    tfb_idx i;
    if (n && t_int(0, 4) == 0) {
        t[0] = tfb_view2(room((n + 3) / 4), TFB_U8, T, S);
        for (i = 0; i < n; i++) ((uint8_t *)t[0].data)[i] = t_int(0, 3) != 0;
        o->mask = &t[0];
    }
    if (n && t_int(0, 4) == 0) {
        t[1] = tfb_view4(numbers(H * n, 1), TFB_F32, 1, H, T, S);
        for (i = 0; i < 3; i++) poison((float *)t[1].data, n);
        o->bias = &t[1];
    }
    if (H && t_int(0, 4) == 0) {
        t[2] = tfb_view1(numbers(H, 1), TFB_F32, H);
        o->alibi = &t[2];
    }
    if (H && t_int(0, 4) == 0) {
        t[3] = tfb_view1(numbers(H, 3), TFB_F32, H);
        o->sinks = &t[3];
    }
}

static void attention_ref(const tfb__attn *a, tfb_idx B, float *y, float *lse) {
    const tfb_idx H = a->G * a->group;
    float *work = t_floats(3 * a->D + 4 * a->Dv), *row = work + 3 * (a->D + a->Dv);
    tfb_idx b, h, i, d;
    for (b = 0; b < B; b++)
        for (h = 0; h < H; h++)
            for (i = 0; i < a->T; i++) {
                const float l = tfb__attention_ref(a, b, h, i, work, row);
                for (d = 0; d < a->Dv; d++) y[tfb__at4(&a->y, b, h, i, d)] = row[d];
                if (lse) lse[tfb__at4(&a->lse, b, h, i, 0)] = l;
            }
    free(work);
}

/* Whole tasks by two workers in turn, or splits of them in waves of three. */
static void attention_run(tfb_ctx *ctx, tfb__attn *a) {
    tfb__attn_state state;
    tfb_idx i;
    tfb__attention_blocks(a, a->T, a->longest);
    a->part_bytes = tfb__attn_part_bytes(a);
    a->worker_bytes = tfb__attn_carve(a, NULL, &state);
    a->tasks = a->seqs * a->G * a->blocks;
    a->item_max = 3;
    a->scratch = (char *)room((tfb_idx)(2 * a->worker_bytes / sizeof(float)));
    if (t_int(0, 1)) {
        a->phase = TFB__ATTN_WHOLE;
        for (i = 0; i < a->tasks; i++) isa->attention(a, i, (int)(i % 2));
    } else {
        tfb__attention_waves(ctx, a);
    }
}

/* k and v as rows of a cache, a ring now and then, in memory that ends at a guard. */
static void attention_cache(tfb_ctx *ctx, tfb_kv *kv, const tfb_tensor *k,
                            const tfb_tensor *v, tfb_attention_opts *o) {
    static const tfb_dtype dtypes[] = {TFB_F32, TFB_F32, TFB_F16, TFB_BF16};
    tfb_kv_opts opts = TFB_INIT;
    size_t bytes;
    opts.layers = 1;
    opts.dtype = PICK(dtypes);
    opts.shape.batch = k->shape[0];
    opts.shape.kv_heads = k->shape[1];
    opts.shape.head_dim = k->shape[3];
    opts.shape.v_dim = v->shape[3];
    opts.shape.max_tokens = k->shape[2];
    if (!o->mask && !o->bias && t_int(0, 1)) {
        opts.shape.window = t_int(1, k->shape[2] + 3);
        opts.shape.pinned = t_int(0, 1) ? t_int(1, 70) : 0;
    }
    o->key_pos0 = o->key_pinned = o->offset_set = 0;
    o->window = o->window_pinned = o->two_sided = 0;
    if (o->causal == TFB_CAUSAL_OFFSET) o->causal = TFB_CAUSAL_BOTTOM_RIGHT;
    bytes = tfb_kv_bytes(&opts);
    CHECK_OK(ctx, tfb_kv_init_static(ctx, kv, &opts, room((tfb_idx)(bytes / 4)), bytes));
    CHECK_OK(ctx, tfb_kv_append(ctx, kv, 0, k, v));
}

static void attention_case(tfb_idx B, tfb_idx G, tfb_idx T, tfb_idx S, tfb_idx D,
                           tfb_idx Dv) {
    const tfb_idx H = G * t_int(1, 3);
    tfb_tensor q, k, v, y, extra[4];
    tfb_attention_opts o;
    tfb_kv kv;
    tfb_idx n, rows = B * H * T;
    float *want, *want_lse = NULL;
    tfb__attn a;
    tfb_ctx ctx;
    CHECK_OK(&ctx, tfb_ctx_init_static(&ctx, NULL, 0));
    CHECK_OK(&ctx, tfb_isa_force(&ctx, isa->name));
    n = layout((int)t_int(0, 2), B, H, T, D, &q);
    poison((float *)(q.data = numbers(n, 1)), n);
    n = layout((int)t_int(0, 2), B, G, S, D, &k);
    attention_keys(&k, n);
    n = layout((int)t_int(0, 2), B, G, S, Dv, &v);
    attention_keys(&v, n);
    n = layout((int)t_int(0, 2), B, H, T, Dv, &y);
    y.data = room(n);
    want = room(n);
    attention_options(&o, T, S);
    attention_extras(&o, extra, &q, S);
    memset((void *)&kv, 0, sizeof kv);
    if (S && T < 60 && t_int(0, 2) == 0) {
        attention_cache(&ctx, &kv, &k, &v, &o);
        CHECK_OK(&ctx, tfb__kv_attention_resolve(&ctx, "test", &kv, 0, &q, &y, &o, &a));
    } else {
        tfb__attention_new(&a, &o);
        CHECK_OK(&ctx, tfb__attention_resolve(&ctx, "test", &q, &k, &v, &a));
    }
    CHECK_OK(&ctx, tfb__attention_sequences(&ctx, "test", &a));
    a.y = y;
    if (t_int(0, 1)) { /* tokens before heads */
        a.lse = tfb_view4(room(rows), TFB_F32, B, H, T, 1);
        a.lse.stride[1] = 1;
        a.lse.stride[2] = H;
        want_lse = room(rows);
    }
    attention_ref(&a, B, want, want_lse);
    attention_run(&ctx, &a);
    CHECK_BITS(
        (float *)y.data, want, n,
        "attention B %ld G %ld H %ld T %ld S %ld D %ld Dv %ld causal %d offset "
        "%ld window %ld two_sided %d key_pos0 %ld pinned %ld block %ld dtypes %d %d "
        "cached %d",
        (long)B, (long)G, (long)H, (long)T, (long)S, (long)D, (long)Dv, o.causal,
        (long)o.offset, (long)o.window, o.two_sided, (long)o.key_pos0, (long)o.key_pinned,
        (long)a.block_rows, (int)k.dtype, (int)v.dtype, kv.layer != NULL);
    if (want_lse)
        CHECK_BITS((float *)a.lse.data, want_lse, rows, "lse T %ld S %ld", (long)T,
                   (long)S);
    done("attention");
}

static void attention(void) {
    static const tfb_idx keys[] = {0,  1,  2,  15,  16,  17,  33,
                                   63, 64, 65, 100, 127, 128, 130};
    static const tfb_idx dims[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64};
    int i;
    for (i = 0; i < 400; i++)
        if (t_turn())
            attention_case(t_int(1, 2), t_int(1, 2), t_int(1, 9), PICK(keys), PICK(dims),
                           PICK(dims));
    for (i = 0; i < 10; i++)
        if (t_turn()) attention_case(1, 1, t_int(20, 70), t_int(60, 200), 16, PICK(dims));
    for (i = 0; i < 10; i++)
        if (t_turn())
            attention_case(1, 1, 2, t_int(1000, 2100), t_int(1, 16), PICK(dims));
    attention_case(1, 2, 65, 65, 80, 80);
}

/* --- merge --- */
static void merge_case(tfb_idx n, tfb_idx rows, tfb_idx Dv) {
    const int kind = (int)t_int(0, 2);
    float *want = room(rows * Dv), *want_lse = room(rows), *lse, *row = t_floats(Dv);
    tfb__merge m;
    tfb_idx i, j, d;
    memset((void *)&m, 0, sizeof m);
    m.states = n;
    m.y_step = layout(kind, 1, 1, rows, Dv, &m.y[0]);
    m.y[0].data = numbers(n * m.y_step, 1);
    poison((float *)m.y[0].data, n * m.y_step);
    m.lse_step = rows;
    m.lse[0] = tfb_view3(lse = numbers(n * rows, 4), TFB_F32, 1, 1, rows);
    for (i = 0; i < n * rows; i++)
        if (t_int(0, 3) == 0) lse[i] = -TFB__FLT_INF;
    m.out = tfb_view4(room(rows * Dv), TFB_F32, 1, 1, rows, Dv);
    m.out_lse = tfb_view3(room(rows), TFB_F32, 1, 1, rows);
    for (i = 0; i < rows; i++) {
        float *acc = want + i * Dv, top = -FLT_MAX, l = 0;
        tfb_idx found = 0;
        memset((void *)acc, 0, (size_t)Dv * sizeof *acc);
        for (j = 0; j < n; j++) {
            if (tfb__bits_of(lse[j * rows + i]) == 0xFF800000u) continue;
            for (d = 0; d < Dv; d++)
                row[d] =
                    ((float *)m.y[0].data)[j * m.y_step + tfb__at4(&m.y[0], 0, 0, i, d)];
            if (found++) {
                tfb__merge_ref(Dv, &top, &l, acc, lse[j * rows + i], 1.0f, row);
                continue;
            }
            memcpy((void *)acc, (const void *)row, (size_t)Dv * sizeof *acc);
            top = lse[j * rows + i];
            l = 1.0f;
        }
        for (d = 0; found > 1 && d < Dv; d++) acc[d] = TFB__FMA(acc[d], 1.0f / l, 0.0f);
        want_lse[i] = !found ? -TFB__FLT_INF : found > 1 ? top + tfb__log_scalar(l) : top;
        isa->merge(&m, i, 0);
    }
    CHECK_BITS((float *)m.out.data, want, rows * Dv, "merge n %ld rows %ld Dv %ld",
               (long)n, (long)rows, (long)Dv);
    CHECK_BITS((float *)m.out_lse.data, want_lse, rows, "merge lse n %ld", (long)n);
    free(row);
    done("merge");
}

static void merge(void) {
    int i;
    for (i = 0; i < 200; i++) merge_case(t_int(0, 4), t_int(1, 5), PICK(lengths));
    merge_case(3, 2, 600);
}

/* --- conv and scan: panels of 16 channels --- */
static void conv_case(tfb_idx rows, tfb_idx taps, tfb_fn act) {
    float *x = numbers((taps - 1 + rows) * 16, 1), *w = numbers(taps * 16, 1), *want;
    tfb_idx t, l, j;
    tfb__conv k;
    poison(x, (taps - 1 + rows) * 16);
    poison(w, taps * 16);
    k.rows = rows;
    k.taps = taps;
    k.x = x;
    k.w = w;
    k.bias = numbers(16, 1);
    k.y = room(rows * 16);
    k.act = act;
    want = room(rows * 16);
    for (t = 0; t < rows; t++)
        for (l = 0; l < 16; l++) {
            float sum = 0, block = 0;
            for (j = 0; j < taps; j++) {
                block = TFB__FMA(w[j * 16 + l], x[(t + j) * 16 + l], block);
                if (j % 256 != 255 && j < taps - 1) continue;
                sum = j < 256 ? block : sum + block;
                block = 0;
            }
            want[t * 16 + l] = TFB__FMA(1.0f, sum, k.bias[l]);
        }
    tfb__map_scalar(act, rows * 16, want, want);
    isa->conv(&k);
    CHECK_BITS(k.y, want, rows * 16, "conv rows %ld taps %ld act %d", (long)rows,
               (long)taps, (int)act);
    done("conv");
}

static void conv(void) {
    static const tfb_idx taps[] = {1, 2, 3, 4, 5, 16, 33, 255, 256, 257, 513};
    tfb_idx rows;
    int i;
    for (rows = 1; rows < 34; rows += rows < 10 ? 1 : 11)
        for (i = 0; i < 11; i++) {
            if (!t_turn()) continue;
            conv_case(rows, taps[i], TFB_FN_IDENTITY);
            conv_case(rows, taps[i], (tfb_fn)t_int(0, TFB_FN_TANH));
        }
}

/* --- taps: outputs that share inputs --- */
/* Runs at any place, their taps beyond either end too; some calls, as if of one block. */
static void taps_case(int outputs, tfb_idx n, tfb_idx count) {
    float *x = numbers(n * 16, 1), *k = numbers(count * 16, 1), *want, *sums;
    tfb_idx j, tap, r, l;
    int calls = (int)t_int(1, 3), i;
    tfb__taps t;
    memset((void *)&t, 0, sizeof t);
    poison(x, n * 16);
    poison(k, count * 16);
    t.taps = count;
    t.outputs = outputs;
    t.begun = t_rand() & 255;
    t.block = room(outputs * 16);
    t.sum = numbers(outputs * 16, 1);
    sums = copy_of(t.sum, outputs * 16);
    want = room(outputs * 16);
    for (l = 0; l < outputs * 16; l++) want[l] = t.block[l] = 0;
    while (calls-- > 0) {
        unsigned met = t.met;
        const unsigned begun = t.begun;
        t.last = calls == 0;
        t.runs = (int)t_int(0, 3);
        for (i = 0; i < t.runs; i++) {
            tfb__tap_run *u = &t.run[i];
            const tfb_idx at = t_int(0, n - 1);
            u->x = x + at * 16;
            u->k = k;
            u->inputs = t_int(1, n - at);
            u->tap = t_int(-8, count + n);
            for (r = 0; r < outputs; r++)
                for (j = 0; j < u->inputs; j++) {
                    tap = u->tap + r - j;
                    if (tap < 0 || tap >= count) continue;
                    met |= 1u << r;
                    for (l = 0; l < 16; l++)
                        want[r * 16 + l] =
                            TFB__FMA(u->x[j * 16 + l], k[tap * 16 + l], want[r * 16 + l]);
                }
        }
        isa->taps(&t);
        CHECK(t.met == (t.last ? 0 : met), "met %x, wanted %x", t.met, met);
        CHECK(t.begun == (t.last ? begun | met : begun), "begun %x", t.begun);
        for (l = 0; t.last && l < outputs * 16; l++) {
            if (met >> l / 16 & 1)
                sums[l] = begun >> l / 16 & 1 ? sums[l] + want[l] : want[l];
            want[l] = 0;
        }
        CHECK_BITS(t.block, want, outputs * 16, "block of %d outputs, %ld taps", outputs,
                   (long)count);
    }
    CHECK_BITS(t.sum, sums, outputs * 16, "sums of %d outputs, %ld taps", outputs,
               (long)count);
    done("taps");
}

static void taps(void) {
    static const tfb_idx counts[] = {1, 2, 3, 7, 8, 9, 15, 40, 300};
    int i;
    for (i = 0; i < 300; i++)
        taps_case((int)t_int(1, TFB__TAP_OUTPUTS), PICK(lengths), PICK(counts));
}

/* --- fft and spectrum: outside the contract of bits, compared with double --- */
/* Butterflies of complex rows somewhere in z; every place no butterfly has keeps. */
static void fft_case(int radix, int inverse, int turned) {
    const tfb_idx inner = t_int(1, 5), outer = t_int(1, 3), r = radix;
    const tfb_idx rows = inner * outer * r, row = t_int(0, 1) ? 32 : 96;
    float *z = numbers(rows * row, 1), *old = copy_of(z, rows * row), *w;
    const double sign = inverse ? 1 : -1;
    tfb_idx i, j, k, q, l;
    tfb__fft s;
    s.radix = radix;
    s.inverse = inverse;
    s.turned = turned;
    s.inner = inner;
    s.outer = outer;
    s.inner_step = row;
    s.step = inner * row;
    s.outer_step = r * s.step;
    s.w_inner = 3 * (r - 1);
    s.w_outer = t_int(0, 1) ? inner * s.w_inner : 0;
    s.z = z;
    s.w = w = numbers(3 * (r - 1) * inner * outer, 1);
    for (i = 0; i < (r - 1) * inner * outer; i++) w[3 * i + 2] = -w[3 * i + 1];
    isa->fft(&s);
    for (j = 0; j < outer; j++)
        for (i = 0; i < inner; i++)
            for (k = 0; k < r; k++)
                for (l = 0; l < 16; l++) {
                    const tfb_idx at = j * s.outer_step + i * s.inner_step + l;
                    const float *roots = w + j * s.w_outer + i * s.w_inner;
                    double re = 0, im = 0, off;
                    for (q = 0; q < r; q++) {
                        const double a =
                            sign * 6.283185307179586 * (double)(q * k) / radix;
                        const tfb_idx p = inverse ? q : k; /* whose root */
                        double x = (double)old[at + q * s.step];
                        double y = (double)old[at + q * s.step + 16], c = cos(a);
                        double d = sin(a), t;
                        t = x * c - y * d, y = x * d + y * c, x = t;
                        c = turned && p ? (double)roots[3 * (p - 1)] : 1;
                        d = turned && p ? -sign * (double)roots[3 * (p - 1) + 1] : 0;
                        re += x * c - y * d;
                        im += x * d + y * c;
                    }
                    off = fabs(re - (double)z[at + k * s.step]) +
                          fabs(im - (double)z[at + k * s.step + 16]);
                    CHECK(off < 3e-6, "radix %d inverse %d turned %d: off by %g", radix,
                          inverse, turned, off);
                }
    for (i = 0; i < rows * row; i++)
        CHECK(i % row < 32 || same(z + i, old + i, 1), "place %ld", (long)i);
    done("fft");
}

/* One row, turned and nothing else. */
static void fft_turns(int inverse) {
    float *z = numbers(5 * 32, 1), *old = copy_of(z, 5 * 32), *w = numbers(15, 1);
    tfb_idx i;
    tfb__fft s;
    memset((void *)&s, 0, sizeof s);
    s.radix = s.turned = 1;
    s.inverse = inverse;
    s.outer = 5;
    s.outer_step = 32;
    s.w_outer = 3;
    s.inner = 1;
    s.z = z;
    s.w = w;
    for (i = 0; i < 5; i++) w[3 * i + 2] = -w[3 * i + 1];
    isa->fft(&s);
    for (i = 0; i < 80; i++) {
        const tfb_idx at = i / 16 * 32 + i % 16;
        const double x = (double)old[at], y = (double)old[at + 16];
        const double c = (double)w[i / 16 * 3];
        const double d = (inverse ? -1 : 1) * (double)w[i / 16 * 3 + 1];
        CHECK(fabs(x * c - y * d - (double)z[at]) < 1e-6 &&
                  fabs(x * d + y * c - (double)z[at + 16]) < 1e-6,
              "inverse %d, row %ld", inverse, (long)i / 16);
    }
    done("fft");
}

static void fft(void) {
    static const int radices[] = {2, 3, 4, 5, 7, 8};
    int i, j;
    for (i = 0; i < 6; i++)
        for (j = 0; j < 16; j++) fft_case(radices[i], j & 1, j >> 1 & 1);
    fft_turns(0);
    fft_turns(1);
}

/* What is kept of rows, and their product with it. */
static void spectrum_case(tfb_idx n, int twin) {
    int32_t *mate = (int32_t *)(void *)room(n);
    float *w = room(3 * n), *z = numbers(n * 32, 1), *zm, *h, *zo, *zmo;
    tfb_idx i, l, pairs = 0;
    tfb__spectrum s;
    zm = twin ? z : numbers(n * 32, 1);
    for (i = 0; i < n; i++) {
        const double a = 6.283185307179586 * (double)i / (double)n;
        mate[i] = (int32_t)((n - i) % n);
        w[3 * i] = (float)-cos(a);
        w[3 * i + 1] = (float)sin(a);
        w[3 * i + 2] = -w[3 * i + 1];
        pairs += !twin || mate[i] >= i;
    }
    h = room(pairs * 64);
    s.n = n;
    s.mate = mate;
    s.w = w;
    s.z = z;
    s.z_mate = zm;
    s.h = h;
    s.same = twin;
    s.scale = 0.25f;
    s.keep = 1;
    zo = copy_of(z, n * 32);
    zmo = twin ? zo : copy_of(zm, n * 32);
    isa->spectrum(&s);
    s.keep = 0;
    isa->spectrum(&s);
    pairs = 0;
    for (i = 0; i < n; i++) {
        const tfb_idx q = mate[i];
        if (twin && q < i) continue;
        for (l = 0; l < 16; l++) {
            const double pr = (double)zo[i * 32 + l], pi = (double)zo[i * 32 + 16 + l];
            const double qr = (double)zmo[q * 32 + l], qi = (double)zmo[q * 32 + 16 + l];
            const double er = pr + qr, ei = pi - qi, dr = pr - qr, di = pi + qi;
            const double sr = dr * dr - di * di, si = 2 * dr * di;
            const double c = (double)w[3 * i], d = (double)w[3 * i + 1];
            const double yr = (er * er - ei * ei + c * sr - d * si) / 4;
            const double yi = (2 * er * ei + c * si + d * sr) / 4;
            const double tr = (er * dr - ei * di) / 2, ti = (er * di + ei * dr) / 2;
            const float *at = z + i * 32 + l, *bt = zm + q * 32 + l;
            CHECK(fabs((double)h[pairs * 64 + l] - er / 4) < 1e-6, "h of %ld", (long)i);
            if (!twin || q != i)
                CHECK(fabs(yr + tr - (double)at[0]) + fabs(yi + ti - (double)at[16]) <
                          1e-5,
                      "n %ld, pair %ld", (long)n, (long)i);
            CHECK(fabs(yr - tr - (double)bt[0]) + fabs(ti - yi - (double)bt[16]) < 1e-5,
                  "n %ld, mate %ld", (long)n, (long)i);
        }
        pairs++;
    }
    done("spectrum");
}

static void spectrum(void) {
    tfb_idx n;
    for (n = 1; n < 9; n++) {
        spectrum_case(n, 0);
        spectrum_case(n, 1);
    }
}

/* kind: exponents of one sign, of both without and with softplus. */
static void scan_numbers(tfb__scan *k, int kind) {
    const tfb_idx n_a = (k->one ? 1 : k->n) * 16;
    float *a = numbers(n_a, 3), *b, *c, *x = numbers(k->rows * 16, 1);
    tfb_idx i;
    for (i = 0; kind == 0 && i < n_a; i++)
        if (a[i] > 0) a[i] = -a[i];
    k->bs = k->n + t_int(0, 3);
    k->cs = k->n + t_int(0, 3);
    b = numbers((k->rows - 1) * k->bs + k->n, 1);
    c = numbers((k->rows - 1) * k->cs + k->n, 1);
    k->dt = numbers(k->rows * 16, t_int(0, 3) ? 1.0f : 40.0f);
    k->h = numbers(k->n * 16, 1);
    k->softplus = kind != 1;
    poison(a, n_a);
    poison(x, k->rows * 16);
    poison(b, k->n);
    poison(c, k->n);
    poison(k->dt, k->rows * 16);
    poison(k->h, k->n * 16);
    k->a = a;
    k->b = b;
    k->c = c;
    k->x = x;
    k->z = maybe(k->rows * 16);
    k->d = maybe(16);
    k->bias = numbers(16, 1);
}

/* One row and lane; h is its states, 16 apart. */
static float scan_one(const tfb__scan *k, tfb_idx t, tfb_idx l, float dt, float *h) {
    const float sum = dt + k->bias[l],
                delta = k->softplus ? tfb__softplus_scalar(sum) : sum;
    const float x = k->x[t * 16 + l];
    float y = 0;
    tfb_idx i;
    for (i = 0; i < k->n; i++) {
        const float e = tfb__exp_scalar(delta * k->a[(k->one ? 0 : i * 16) + l]);
        h[i * 16] = TFB__FMA(e, h[i * 16], (delta * x) * k->b[t * k->bs + i]);
        y = TFB__FMA(h[i * 16], k->c[t * k->cs + i], y);
    }
    if (k->d) y = TFB__FMA(k->d[l], x, y);
    return k->z ? y * tfb__silu_scalar(k->z[t * 16 + l]) : y;
}

static void scan_case(tfb_idx rows, tfb_idx n, int kind, int one) {
    float *want, *want_h;
    tfb_idx t, l;
    tfb__scan k;
    memset((void *)&k, 0, sizeof k);
    k.rows = rows;
    k.n = n;
    k.one = one;
    scan_numbers(&k, kind);
    k.next[1] = nowhere(16); /* is announced, never read */
    k.next_step[1] = 16;
    k.dx = one ? room(rows * 16) : NULL;
    k.y = room(rows * 16);
    want = room(rows * 16);
    want_h = copy_of(k.h, n * 16);
    for (t = 0; t < rows; t++)
        for (l = 0; l < 16; l++)
            want[t * 16 + l] = scan_one(&k, t, l, k.dt[t * 16 + l], want_h + l);
    isa->scan(&k);
    CHECK_BITS(k.y, want, rows * 16, "scan rows %ld n %ld kind %d one %d", (long)rows,
               (long)n, kind, one);
    CHECK_BITS(k.h, want_h, n * 16, "states rows %ld n %ld kind %d one %d", (long)rows,
               (long)n, kind, one);
    done("scan");
}

static void scan(void) {
    static const tfb_idx states[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 128};
    int i, kind, one;
    for (i = 0; i < 14; i++)
        for (kind = 0; kind < 3; kind++)
            for (one = 0; one < 2; one++) {
                if (!t_turn()) continue;
                scan_case(1, states[i], kind, one);
                scan_case(t_int(2, 12), states[i], kind, one);
                scan_case(32, states[i], kind, one);
            }
}

/* --- The table itself. --- */
static void table(void) {
    tfb_ctx ctx;
    t_ctx(&ctx, NULL);
    CHECK_OK(&ctx, tfb_isa_force(&ctx, isa->name));
    CHECK(ctx.isa == isa && strcmp(tfb_isa_name(&ctx), isa->name) == 0, "%s", isa->name);
    CHECK(isa->probe(1.000244140625f, 1.000244140625f, -1.00048828125f), "%s", isa->name);
    tfb_ctx_free(&ctx);
}

typedef struct kernel_test {
    const char *name;
    void (*run)(void);
} kernel_test;

static const kernel_test tests[] = {
    {"table", table},         {"mm", mm},
    {"epilogue", epilogue},   {"pack", pack},
    {"collect", collect},     {"map", map},
    {"norm", norm},           {"softmax", softmax},
    {"turns", turns},         {"rotate", rotate},
    {"attention", attention}, {"merge", merge},
    {"conv", conv},           {"scan", scan},
    {"taps", taps},           {"fft", fft},
    {"spectrum", spectrum},
};

static void run_one(const char *name, const kernel_test *test) {
    t_bad = 0;
    t_skip_reason = NULL;
    for (at_front = 0; at_front < 2; at_front++) {
        t_seed = 1;
        test->run();
    }
    printf("%s %s %s\n", t_bad ? "FAIL" : "ok", name, test->name);
    t_failed += t_bad != 0;
    fflush(stdout);
}

static void run_table(const char *name, int argc, char **argv) {
    size_t i;
    int wanted;
    for (i = 0; i < sizeof tests / sizeof *tests; i++) {
        for (wanted = 1; wanted < argc && strcmp(argv[wanted], tests[i].name) != 0;)
            wanted++;
        if (argc == 1 || wanted < argc) run_one(name, &tests[i]);
    }
}

int main(int argc, char **argv) {
    const char *only = getenv("TFB_TEST_ISA"), *open = getenv("TFB_TEST_OPEN");
    const char *name, *why;
    tfb_ctx ctx;
    int i;
    guarded = GUARDED && !(open && atoi(open));
    tfb_ctx_init(&ctx);
    for (i = 0; (name = tfb_isa_list(&ctx, i, &why)) != NULL; i++) {
        if (only && strcmp(only, name) != 0) continue;
        if (tfb_isa_force(&ctx, name) != TFB_OK) {
            if (!only && strstr(why, "not in this build")) continue; /* of other CPUs */
            printf("skip %s: %s\n", name, why);
            continue;
        }
        isa = ctx.isa;
        if (t_comparable(isa)) run_table(name, argc, argv);
        else printf("skip %s: not of this build's arithmetic (TFB__UNFUSED)\n", name);
    }
    tfb_ctx_free(&ctx);
    FINISH();
}
