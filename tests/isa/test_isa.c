/* Every kernel of every table this CPU has, called directly and compared by bits with
 * plain loops. Buffers stand at guard pages: each test runs once with buffers that end
 * there and once with buffers that begin there, so that one float too many crashes; the
 * open side has canaries. TFB_TEST_ISA picks one table, arguments pick kernels. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS under -std=c99 */
#endif
#include "../test.h"
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
static int used, at_front;

#if GUARDED
static char *buffer_base(int i, size_t need) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *p = buffers[i].base;
    if (need + CANARIES * sizeof(float) > BUFFER_BYTES) exit(98);
    if (p) return p;
    p = (char *)mmap(NULL, BUFFER_BYTES + 2 * page, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == (char *)MAP_FAILED) exit(97);
    if (mprotect(p, page, PROT_NONE) ||
        mprotect(p + page + BUFFER_BYTES, page, PROT_NONE))
        exit(96);
    return p + page;
}
#else
static char *buffer_base(int i, size_t need) {
    free(buffers[i].base);
    (void)need;
    return (char *)malloc(BUFFER_BYTES);
}
#endif

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

static void done(const char *what) {
    const uint32_t canary = CANARY;
    int i, j;
    for (i = 0; i < used; i++)
        for (j = 0; j < CANARIES; j++)
            CHECK(memcmp((const void *)(canaries(&buffers[i]) + j), &canary, 4) == 0,
                  "%s wrote outside buffer %d, place %d", what, i, j);
    used = 0;
}

static float special(void) {
    static const uint32_t bits[] = {
        0x00000000, 0x80000000, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000,
        0x7FC00000, 0x7F7FFFFF, 0xFF7FFFFF, 0x00800000, 0x80800000, 0x48000000,
        0x48000001, 0xC8000001, 0x7E123456, 0x42AEAC4F, 0xC2AEAC50, 0x42B17218,
        0xC2B0C0A5, 0x41207AE1, 0xC1519999, 0x3F19999A, 0x43000000, 0xC2FC0000,
        0x5F000000, 0x3F490FDB, 0x40490FDB, 0x4B000001};
    const uint32_t i = t_rand() % (uint32_t)(sizeof bits / sizeof *bits);
    return tfb__float_of(bits[i]);
}

static const tfb_idx lengths[] = {1,  2,  3,  4,  5,  7,  8,  9,  12,  15,  16,  17,
                                  23, 31, 32, 33, 47, 63, 64, 65, 100, 255, 256, 257};
#define LENGTHS  ((int)(sizeof lengths / sizeof *lengths))
#define PICK(xs) ((xs)[t_int(0, (tfb_idx)(sizeof(xs) / sizeof *(xs)) - 1)])

/* --- mm --- */
static float chain_ref(tfb_idx k, const float *a, const float *b, float from) {
    tfb_idx i;
    for (i = 0; i < k; i++) from = TFB__FMA(a[i], tfb__load_le(b + 16 * i), from);
    return from;
}

static float mm_ref(const tfb__mm *t, tfb_idx row, tfb_idx c, float before) {
    const float *a = t->a + row * t->lda, *b = t->b + c / 16 * t->bps + c % 16;
    float sum;
    tfb_idx k;
    if (t->carry) return chain_ref(t->k, a, b, before * t->carry[row]);
    sum = chain_ref(TFB__MIN(t->k, 256), a, b, 0);
    for (k = 256; k < t->k; k += 256)
        sum = sum + chain_ref(TFB__MIN(t->k - k, 256), a + k, b + 16 * k, 0);
    return sum;
}

static void mm_case(tfb_idx rows, tfb_idx panels, tfb_idx k, int carry) {
    const tfb_idx cols = 16 * panels, pad = t_int(0, 1) * t_int(0, 40);
    const tfb_idx down = t_int(0, 4) ? 1 : -1; /* rows may lie backwards */
    tfb_idx n_s, r, c;
    float *b, *want;
    tfb__mm t;
    memset((void *)&t, 0, sizeof t);
    t.rows = rows;
    t.panels = panels;
    t.k = k;
    t.lda = t_int(0, 9) ? k + t_int(0, 1) * t_int(0, 9) : 0;
    t.bps = 16 * k + 16 * t_int(0, 2);
    t.lds = cols + pad;
    t.a = numbers((rows - 1) * t.lda + k, 1);
    b = room((panels - 1) * t.bps + 16 * k);
    for (r = 0; r < (panels - 1) * t.bps + 16 * k; r++) tfb__store_le(b + r, t_float());
    t.b = b;
    n_s = (rows - 1) * t.lds + cols;
    t.s = carry ? numbers(n_s, 1) : room(n_s);
    want = copy_of(t.s, n_s);
    if (carry) t.carry = numbers(rows, 1);
    if (down < 0) {
        t.a += (rows - 1) * t.lda;
        t.lda = -t.lda;
    }
    for (r = 0; r < rows; r++)
        for (c = 0; c < cols; c++)
            want[r * t.lds + c] = mm_ref(&t, r, c, want[r * t.lds + c]);
    isa->mm(&t);
    CHECK_BITS(t.s, want, n_s, "mm rows %ld panels %ld k %ld lda %ld carry %d",
               (long)rows, (long)panels, (long)k, (long)t.lda, carry);
    done("mm");
}

static void mm(void) {
    static const tfb_idx ks[] = {0, 1, 2, 3, 16, 31, 64, 255, 256, 257, 512, 515};
    tfb_idx rows, panels;
    for (rows = 1; rows <= 15; rows++)
        for (panels = 1; panels <= 9; panels++) {
            mm_case(rows, panels, PICK(ks), 0);
            mm_case(rows, panels, t_int(0, 40), 0);
            mm_case(rows, panels, t_int(0, 256), 1);
        }
    mm_case(7, 3, 1025, 0);
    mm_case(64, 4, 64, 1);
}

/* --- epilogue --- */
static void epilogue_ref(const tfb__epilogue *e, float *y, const float *r) {
    tfb_idx i, c;
    for (i = 0; i < e->rows; i++)
        for (c = 0; c < e->cols; c++) {
            const tfb_idx at = i * e->s_rs + c * e->s_cs;
            float v = TFB__FMA(e->alpha, e->s[at], e->bias ? e->bias[c] : 0.0f);
            v = tfb__apply_scalar(e->act, v);
            if (e->up)
                v = v * TFB__FMA(e->alpha, e->up[at], e->bias ? e->bias_up[c] : 0.0f);
            if (r) v = v + r[i * e->r_rs + c * e->r_cs];
            y[i * e->y_rs + c * e->y_cs] = v;
        }
}

/* Row and column steps of a matrix: dense, padded, spread or transposed; its extent. */
static tfb_idx steps(tfb_idx rows, tfb_idx cols, tfb_idx *rs, tfb_idx *cs) {
    *cs = t_int(0, 3) ? 1 : t_int(2, 3);
    *rs = cols * *cs + t_int(0, 1) * t_int(0, 9);
    if (t_int(0, 5) == 0) {
        *rs = 1;
        *cs = rows;
    }
    return (rows - 1) * *rs + (cols - 1) * *cs + 1;
}

static void epilogue_case(tfb_idx rows, tfb_idx cols, tfb_fn act) {
    const int gated = (int)t_int(0, 1), both = gated && t_int(0, 1);
    const int bias = (int)t_int(0, 1), residual = (int)t_int(0, 2);
    tfb_idx n_s, n_y, i;
    float *s, *want;
    tfb__epilogue e;
    memset((void *)&e, 0, sizeof e);
    e.rows = rows;
    e.cols = cols;
    e.act = act;
    e.alpha = t_int(0, 1) ? 1.0f : 0.375f;
    e.s_cs = both ? 2 : 1;
    e.s_rs = cols * e.s_cs + t_int(0, 20);
    n_s = (rows - 1) * e.s_rs + (cols - 1) * e.s_cs + 1;
    s = numbers(n_s + both, 6);
    for (i = 0; i < n_s; i += 13) s[i] = special();
    e.s = s;
    if (gated) e.up = both ? s + 1 : numbers(n_s, 1);
    if (bias) e.bias = numbers(cols, 1);
    if (bias && gated) e.bias_up = numbers(cols, 1);
    n_y = steps(rows, cols, &e.y_rs, &e.y_cs);
    e.y = numbers(n_y, 1);
    want = copy_of(e.y, n_y);
    if (residual == 1) e.r = numbers(steps(rows, cols, &e.r_rs, &e.r_cs), 1);
    if (residual == 2) { /* the output itself */
        e.r = e.y;
        e.r_rs = e.y_rs;
        e.r_cs = e.y_cs;
    }
    epilogue_ref(&e, want, residual == 2 ? want : e.r);
    isa->epilogue(&e);
    CHECK_BITS(e.y, want, n_y, "epilogue %ld x %ld act %d gate %d bias %d residual %d",
               (long)rows, (long)cols, (int)act, gated, bias, residual);
    done("epilogue");
}

static void epilogue(void) {
    int act, i;
    for (act = TFB_FN_IDENTITY; act <= TFB_FN_TANH; act++)
        for (i = 0; i < 60; i++) epilogue_case(t_int(1, 5), t_int(1, 40), (tfb_fn)act);
}

/* --- pack --- */
static void pack_case(tfb_idx k, tfb_idx lane0, tfb_idx n) {
    const int across = (int)t_int(0, 1); /* which of the two steps is the short one */
    const tfb_idx near = t_int(1, 2), far = near * (across ? n : k) + t_int(0, 5);
    const tfb_idx lane_stride = across ? near : far, k_stride = across ? far : near;
    const tfb_idx n_x = k ? (n - 1) * lane_stride + (k - 1) * k_stride + 1 : 0;
    const int back = k && t_int(0, 3) == 0; /* lanes may lie backwards */
    const float *x = numbers(n_x, 1);
    float *panel = room(16 * k), *want = room(16 * k);
    tfb_idx i, j;
    if (back) x += (n - 1) * lane_stride;
    for (j = 0; j < k; j++)
        for (i = 0; i < 16; i++) {
            const tfb_idx lane = i - lane0;
            tfb__store_le(
                want + 16 * j + i,
                lane < 0 || lane >= n
                    ? 0.0f
                    : x[lane * (back ? -lane_stride : lane_stride) + j * k_stride]);
        }
    isa->pack(k, lane0, n, x, back ? -lane_stride : lane_stride, k_stride, panel);
    CHECK_BITS(panel, want, 16 * k, "pack k %ld lanes %ld + %ld steps %ld %ld", (long)k,
               (long)lane0, (long)n, (long)lane_stride, (long)k_stride);
    done("pack");
}

static void pack(void) {
    static const tfb_idx ks[] = {0, 1, 2, 7, 8, 9, 16, 17, 33};
    tfb_idx lane0, n, i;
    for (lane0 = 0; lane0 < 16; lane0++)
        for (n = 1; lane0 + n <= 16; n++)
            for (i = 0; i < 3; i++) pack_case(PICK(ks), lane0, n);
}

/* --- map --- */
static float map_ref(tfb_fn fn, float x) {
    float s, c;
    if ((fn != TFB_FN_SIN && fn != TFB_FN_COS) || (x >= -131072.0f && x <= 131072.0f))
        return tfb__apply_scalar(fn, x);
    tfb__trig_large(x, &s, &c);
    return fn == TFB_FN_SIN ? s : c;
}

static void map_case(tfb_fn fn, tfb_idx n, int in_place, int wild) {
    float *x = numbers(n, t_int(0, 1) ? 2.0f : 90.0f), *want = room(n), *y;
    tfb_idx i;
    for (i = 0; wild && i < n; i++) {
        if (t_int(0, 2) == 0) x[i] = special();
        if (t_int(0, 2) == 0) x[i] = tfb__float_of(t_rand() << 3);
    }
    for (i = 0; i < n; i++) want[i] = map_ref(fn, x[i]);
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
/* Strides of [B, H, T, D]: dense, token-major, or channels first; returns the extent. */
static tfb_idx layout(int kind, tfb_idx B, tfb_idx H, tfb_idx T, tfb_idx D, tfb_idx *st) {
    const tfb_idx gap = kind == 1 ? 3 : 0;
    st[3] = kind == 2 ? T : 1;
    st[2] = kind == 0 ? D : kind == 1 ? H * D + gap : 1;
    st[1] = kind == 0 ? T * D : kind == 1 ? D : D * T;
    st[0] = kind == 1 ? T * st[2] : H * T * D;
    if (!T || !H) return 0;
    return (B - 1) * st[0] + (H - 1) * st[1] + (T - 1) * st[2] + (D - 1) * st[3] + 1;
}

static void attention_ref(const tfb__attn *a, tfb_idx B, float *o, float *lse) {
    const tfb_idx H = a->G * a->group;
    float *row = t_floats(3 * a->Dv), *acc = row + a->Dv, *all = acc + a->Dv;
    tfb_idx b, h, t, d;
    for (b = 0; b < B; b++)
        for (h = 0; h < H; h++)
            for (t = 0; t < a->T; t++) { /* keys lo .. hi - 1: CONTRACT section 5 */
                const tfb_idx kv = h / a->group,
                              last = a->causal ? t + a->offset : a->S - 1;
                tfb_idx lo = a->window ? last - a->window + 1 : 0, hi = last + 1;
                float l;
                if (lo < 0) lo = 0;
                if (hi > a->S) hi = a->S;
                l = tfb__attention_ref(
                    a, a->q + b * a->q_st[0] + h * a->q_st[1] + t * a->q_st[2],
                    a->k + b * a->k_st[0] + kv * a->k_st[1],
                    a->v + b * a->v_st[0] + kv * a->v_st[1], lo, hi, acc, all, row);
                for (d = 0; d < a->Dv; d++)
                    o[b * a->o_st[0] + h * a->o_st[1] + t * a->o_st[2] + d * a->o_st[3]] =
                        row[d];
                if (lse) lse[b * a->lse_st[0] + h * a->lse_st[1] + t * a->lse_st[2]] = l;
            }
    free(row);
}

/* Some inputs that only rows which see them may feel. */
static void poison(float *p, tfb_idx n) {
    static const uint32_t bits[] = {0x7FC00000, 0x7F800000, 0xFF800000};
    if (n && t_int(0, 5) == 0) p[t_int(0, n - 1)] = tfb__float_of(PICK(bits));
}

static void attention_options(tfb__attn *a) {
    static const tfb_idx places[] = {0,  0,   0,   1,    5,    16,  63,
                                     64, 100, 960, 1000, 1023, 1024};
    a->causal = t_int(0, 3) != 0;
    a->offset = t_int(0, 1) ? a->S - a->T : t_int(-4, a->S);
    a->window = a->causal && t_int(0, 1) ? t_int(1, a->S + 1) : 0;
    a->key_pos0 = PICK(places);
    a->scale = t_int(0, 1) ? 0.25f : 3.0f;
    a->block_rows = TFB__MIN(t_int(1, 64), a->T * a->group);
    a->blocks = (a->T * a->group + a->block_rows - 1) / a->block_rows;
}

static void attention_case(tfb_idx B, tfb_idx G, tfb_idx T, tfb_idx S, tfb_idx D,
                           tfb_idx Dv) {
    tfb_idx n[4], i, rows;
    float *p[4], *want, *want_lse = NULL;
    tfb__attn_state state;
    tfb__attn a;
    memset((void *)&a, 0, sizeof a);
    a.T = T;
    a.S = S;
    a.D = D;
    a.Dv = Dv;
    a.G = G;
    a.group = t_int(1, 3);
    attention_options(&a);
    n[0] = layout((int)t_int(0, 2), B, G * a.group, T, D, a.q_st);
    n[1] = layout((int)t_int(0, 2), B, G, S, D, a.k_st);
    n[2] = layout((int)t_int(0, 2), B, G, S, Dv, a.v_st);
    n[3] = layout((int)t_int(0, 2), B, G * a.group, T, Dv, a.o_st);
    for (i = 0; i < 3; i++) poison(p[i] = numbers(n[i], 1), n[i]);
    p[3] = room(n[3]);
    a.q = p[0];
    a.k = p[1];
    a.v = p[2];
    a.o = p[3];
    rows = B * G * a.group * T;
    want = room(n[3]);
    if (t_int(0, 1)) { /* tokens before heads */
        a.lse = room(rows);
        want_lse = room(rows);
        a.lse_st[1] = 1;
        a.lse_st[2] = G * a.group;
        a.lse_st[0] = a.lse_st[2] * T;
    }
    attention_ref(&a, B, want, want_lse);
    a.worker_bytes = tfb__attn_carve(&a, NULL, &state);
    a.scratch = (char *)room((tfb_idx)(2 * a.worker_bytes / sizeof(float)));
    for (i = 0; i < B * G * a.blocks; i++) isa->attention(&a, i, (int)(i % 2));
    CHECK_BITS(
        a.o, want, n[3],
        "attention B %ld G %ld group %ld T %ld S %ld D %ld Dv %ld causal %d offset "
        "%ld window %ld key_pos0 %ld block %ld",
        (long)B, (long)G, (long)a.group, (long)T, (long)S, (long)D, (long)Dv, a.causal,
        (long)a.offset, (long)a.window, (long)a.key_pos0, (long)a.block_rows);
    if (a.lse) CHECK_BITS(a.lse, want_lse, rows, "lse T %ld S %ld", (long)T, (long)S);
    done("attention");
}

static void attention(void) {
    static const tfb_idx keys[] = {0,  1,  2,  15,  16,  17,  33,
                                   63, 64, 65, 100, 127, 128, 130};
    static const tfb_idx dims[] = {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64};
    int i;
    for (i = 0; i < 250; i++)
        attention_case(t_int(1, 2), t_int(1, 2), t_int(1, 9), PICK(keys), PICK(dims),
                       PICK(dims));
    for (i = 0; i < 6; i++) attention_case(1, 1, t_int(20, 70), t_int(60, 200), 16, 24);
    for (i = 0; i < 6; i++) attention_case(1, 1, 2, t_int(1000, 2100), t_int(1, 16), 9);
    attention_case(1, 2, 65, 65, 80, 80);
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
    {"table", table},         {"mm", mm},       {"epilogue", epilogue},
    {"pack", pack},           {"map", map},     {"norm", norm},
    {"softmax", softmax},     {"turns", turns}, {"rotate", rotate},
    {"attention", attention},
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
    const char *only = getenv("TFB_TEST_ISA"), *name, *why;
    tfb_ctx ctx;
    int i;
    tfb_ctx_init(&ctx);
    for (i = 0; (name = tfb_isa_list(&ctx, i, &why)) != NULL; i++) {
        if (only && strcmp(only, name) != 0) continue;
        if (tfb_isa_force(&ctx, name) != TFB_OK) {
            printf("skip %s: %s\n", name, why);
            continue;
        }
        isa = ctx.isa;
        run_table(name, argc, argv);
    }
    tfb_ctx_free(&ctx);
    FINISH();
}
