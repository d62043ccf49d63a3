/* attend.h - what the tests of attention's options share: a call with any of the options
 * made at random, the same call without views or preparation, and SEMANTICS section 3 in
 * float64. A struct attend may be copied: its options are linked before each run. */
#ifndef ATTEND_H
#define ATTEND_H

#include <math.h>

#define SENTINEL (-777.0f)

/* The tensors of a call. */
enum {
    Q,
    K,
    V,
    Y,
    LSE,
    MASK,
    BIAS,
    OFFSETS,
    KV_START,
    KV_LEN,
    POS0S,
    CU_Q,
    CU_K,
    ALIBI,
    SINKS,
    PAGES,
    Q_WEIGHT,
    K_WEIGHT,
    Q_POS,
    K_POS,
    FREQS,
    TENSORS
};

/* Its options. LAYOUT: tensors in any order, with gaps, backwards; HALF: k, v of 16 bits;
 * PINNED: window_pinned; KEYPIN: key_pinned. */
#define OPTION_LIST(X)                                                                   \
    X(CAUSAL, 0)                                                                         \
    X(OFFSET, 1)                                                                         \
    X(WINDOW, 2)                                                                         \
    X(TWO, 3)                                                                            \
    X(PINNED, 4)                                                                         \
    X(MASK, 5)                                                                           \
    X(BIAS, 6)                                                                           \
    X(START, 7)                                                                          \
    X(LEN, 8)                                                                            \
    X(ALIBI, 9)                                                                          \
    X(SINKS, 10)                                                                         \
    X(CAP, 11)                                                                           \
    X(SCALE, 12)                                                                         \
    X(ROPE, 13)                                                                          \
    X(NORM, 14)                                                                          \
    X(HALF, 15)                                                                          \
    X(PAGES, 16)                                                                         \
    X(KEYPIN, 17)                                                                        \
    X(POS0, 18)                                                                          \
    X(PACKED, 19)                                                                        \
    X(CHUNK, 20)                                                                         \
    X(LAYOUT, 21)
#define OPTION_ENUM(name, bit) O_##name = 1 << bit,
enum { OPTION_LIST(OPTION_ENUM) O_END = 1 << 22, O_ALL = O_END - 1 };
#define O_VIEWS (O_START | O_LEN | O_PAGES | O_KEYPIN | O_POS0 | O_PACKED)

typedef struct attend {
    tfb_idx B, H, G, T, S, D, Dv;
    tfb_idx seqs, page, pool; /* packed sequences; rows of a page, pages of the pools */
    int options;
    uint32_t has; /* tensors */
    int dry;      /* no memory: for measuring */
    int full;     /* nothing at random, every extent there */
    tfb_attention_opts o;
    tfb_qk_opts qk;
    tfb_rope_opts rope;
    tfb_tensor t[TENSORS];
    char role[TENSORS][8];
    void *mem[TENSORS]; /* what is freed with this one */
    tfb_idx mem_n[TENSORS];
} attend;

static attend attend_of(tfb_idx B, tfb_idx H, tfb_idx G, tfb_idx T, tfb_idx S, tfb_idx D,
                        tfb_idx Dv) {
    attend c;
    memset(&c, 0, sizeof c);
    c.B = B, c.H = H, c.G = G, c.T = T, c.S = S, c.D = D, c.Dv = Dv;
    return c;
}

static int has(const attend *c, int which) {
    return (int)(c->has >> which & 1);
}

/* What failed: sizes, options by name. Returns one buffer. */
static const char *attend_text(const attend *c) {
#define OPTION_NAME(name, bit) #name,
    static const char *const names[] = {OPTION_LIST(OPTION_NAME)};
    static char text[512];
    int i, n = snprintf(text, 256,
                        "B %ld H %ld G %ld T %ld S %ld D %ld Dv %ld causal %d offset %ld "
                        "window %ld left %ld right %ld page %ld skip %ld chunk %ld",
                        (long)c->B, (long)c->H, (long)c->G, (long)c->T, (long)c->S,
                        (long)c->D, (long)c->Dv, (int)c->o.causal, (long)c->o.offset,
                        (long)c->o.window, (long)c->o.left, (long)c->o.right,
                        (long)c->page, (long)c->o.page_skip, (long)c->o.chunk_size);
    for (i = 0; 1 << i < O_END; i++)
        if (c->options >> i & 1)
            n += snprintf(text + n, sizeof text - (size_t)n, " %s", names[i]);
    return text;
}

/* --- Tensors: a role names the extents. --- */
static tfb_idx attend_extent(const attend *c, char letter) {
    switch (letter) {
    case 'B': return c->B;
    case 'H': return c->H;
    case 'G': return c->G;
    case 'T': return c->T;
    case 'S': return c->S;
    case 'D': return c->D;
    case 'V': return c->Dv;
    case 'P': return c->pool;
    case 'R': return c->page;
    case 'N': return (c->S + c->o.page_skip + c->page - 1) / c->page;
    case 'n': return c->seqs ? c->seqs : c->B; /* one for each sequence */
    case 'm': return c->seqs + 1;
    case 'A': return c->rope.axes;
    case 'F': return (c->rope.dims ? c->rope.dims : c->D) / 2;
    default: return 1;
    }
}

static void attend_fill(void *mem, tfb_dtype dtype, tfb_idx n) {
    tfb_idx i;
    for (i = 0; i < n; i++) {
        const uint32_t u = t_rand();
        if (dtype == TFB_F32) ((float *)mem)[i] = t_float();
        if (dtype == TFB_U8) ((uint8_t *)mem)[i] = (uint8_t)(u % 4 ? u >> 8 | 1 : 0);
        if (dtype == TFB_I32) ((int32_t *)mem)[i] = 0;
        if (dtype == TFB_F16) /* 2^-5 to 2, either sign */
            ((uint16_t *)mem)[i] = (uint16_t)((u & 0x83FFu) | (10 + (u >> 16) % 6) << 10);
        if (dtype == TFB_BF16)
            ((uint16_t *)mem)[i] = (uint16_t)((u & 0x807Fu) | (122 + (u >> 16) % 6) << 7);
    }
}

/* Adds a tensor of random content; free_form: in any layout. */
static void attend_add(attend *c, int which, tfb_dtype dtype, const char *role,
                       int free_form) {
    tfb_tensor *t = &c->t[which];
    const int n = (int)strlen(role);
    int order[TFB_MAX_DIMS], i;
    tfb_idx step = free_form && !t_int(0, 3) ? 2 : 1, at = 0;
    for (i = 0; i < n; i++) order[i] = n - 1 - i;
    for (i = n - 1; i > 0 && free_form; i--) {
        const int j = (int)t_int(0, i), swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    memset((void *)t, 0, sizeof *t);
    for (i = 0; i < n; i++) {
        const int d = order[i];
        t->shape[d] = attend_extent(c, role[d]);
        t->stride[d] = step;
        if (free_form && t->shape[d] && !t_int(0, 3)) {
            t->stride[d] = -step;
            at += step * (t->shape[d] - 1);
        }
        step *= t->shape[d] ? t->shape[d] : 1;
        if (free_form && !t_int(0, 3)) step += t_int(0, 3);
    }
    t->ndim = n;
    t->dtype = dtype;
    strcpy(c->role[which], role);
    c->has |= 1u << which;
    c->mem[which] = NULL;
    c->mem_n[which] = step;
    if (c->dry) return;
    c->mem[which] = malloc((size_t)step * tfb_dtype_size(dtype));
    if (!c->mem[which]) exit(99);
    attend_fill(c->mem[which], dtype, step);
    t->data = (char *)c->mem[which] + (size_t)at * tfb_dtype_size(dtype);
}

/* Shares everything with c, owns nothing. */
static attend attend_copy(const attend *c) {
    attend copy = *c;
    memset((void *)copy.mem, 0, sizeof copy.mem);
    return copy;
}

static void attend_drop(attend *c, int which) {
    c->has &= ~(1u << which);
}

static void attend_free(attend *c) {
    int i;
    for (i = 0; i < TENSORS; i++) free(c->mem[i]);
    memset((void *)c->mem, 0, sizeof c->mem);
}

static double half_value(uint16_t x, tfb_dtype dtype) {
    const int exponent = x >> 10 & 31, fraction = x & 1023;
    double size;
    if (dtype == TFB_BF16) return (double)tfb__float_of((uint32_t)x << 16);
    if (exponent == 31)
        size = fraction ? (double)tfb__float_of(0x7FC00000u) : (double)TFB__FLT_INF;
    else if (exponent) size = ldexp(1024 + fraction, exponent - 25);
    else size = ldexp(fraction, -24);
    return x >> 15 ? -size : size;
}

/* Element [b, h, i, j] of what broadcasts to four dimensions. */
static tfb_idx attend_at(const tfb_tensor *t, tfb_idx b, tfb_idx h, tfb_idx i,
                         tfb_idx j) {
    const tfb_idx at[4] = {b, h, i, j};
    tfb_idx offset = 0;
    int d;
    for (d = 0; d < t->ndim; d++)
        if (t->shape[d] > 1) offset += at[4 - t->ndim + d] * t->stride[d];
    return offset;
}

static double get(const tfb_tensor *t, tfb_idx b, tfb_idx h, tfb_idx i, tfb_idx j) {
    const tfb_idx at = attend_at(t, b, h, i, j);
    switch (t->dtype) {
    case TFB_F32: return (double)((const float *)t->data)[at];
    case TFB_I32: return (double)((const int32_t *)t->data)[at];
    case TFB_U8: return (double)((const uint8_t *)t->data)[at];
    default: return half_value(((const uint16_t *)t->data)[at], t->dtype);
    }
}

static void put_f(const tfb_tensor *t, tfb_idx b, tfb_idx h, tfb_idx i, tfb_idx j,
                  float x) {
    ((float *)t->data)[attend_at(t, b, h, i, j)] = x;
}

static void put_i(const tfb_tensor *t, tfb_idx i, tfb_idx j, tfb_idx x) {
    ((int32_t *)t->data)[attend_at(t, 0, 0, i, j)] = (int32_t)x;
}

static tfb_idx int_at(const attend *c, int which, tfb_idx i, tfb_idx otherwise) {
    return has(c, which) ? (tfb_idx)get(&c->t[which], 0, 0, 0, i) : otherwise;
}

/* --- Numbers and visibility. --- */
typedef struct seq {
    tfb_idx lo, hi; /* the rows of its keys */
    tfb_idx at;     /* query i has number i + at */
} seq;

static seq attend_seq(const attend *c, tfb_idx b, tfb_idx i) {
    seq s;
    tfb_idx offset, n = b, first = 0, origin;
    const int cu_k = has(c, CU_K) ? CU_K : CU_Q;
    if (has(c, CU_Q)) {
        for (n = 0; i >= int_at(c, CU_Q, n + 1, 0);) n++;
        first = int_at(c, CU_Q, n, 0);
        s.lo = int_at(c, cu_k, n, 0);
        s.hi = int_at(c, cu_k, n + 1, 0);
        offset = s.hi - s.lo - (int_at(c, CU_Q, n + 1, 0) - first);
        origin = first;
    } else {
        s.lo = int_at(c, KV_START, b, 0);
        s.hi = int_at(c, KV_LEN, b, c->S);
        offset = s.hi - c->T;
        origin = s.lo - int_at(c, POS0S, b, c->o.key_pos0);
    }
    if (c->o.causal == TFB_CAUSAL_OFFSET || c->o.offset_set) offset = c->o.offset;
    s.at = int_at(c, OFFSETS, n, offset) - origin;
    return s;
}

static tfb_idx key_number(const attend *c, tfb_idx b, tfb_idx j) {
    const int cu_k = has(c, CU_K) ? CU_K : CU_Q;
    tfb_idx s = 0;
    if (has(c, CU_Q)) {
        while (j >= int_at(c, cu_k, s + 1, 0)) s++;
        return j - int_at(c, cu_k, s, 0);
    }
    if (j < c->o.key_pinned) return j;
    return j + int_at(c, POS0S, b, c->o.key_pos0) - int_at(c, KV_START, b, 0);
}

/* Everything that hides but a bias of -inf. */
static int seen_but_for_bias(const attend *c, tfb_idx b, tfb_idx h, tfb_idx i,
                             tfb_idx j) {
    const tfb_attention_opts *o = &c->o;
    const seq s = attend_seq(c, b, i);
    tfb_idx n, back;
    if (j < s.lo || j >= s.hi) return 0;
    n = key_number(c, b, j);
    back = i + s.at - n;
    if (o->causal && back < 0) return 0;
    if (n >= o->window_pinned && o->window && back >= o->window) return 0;
    if (n >= o->window_pinned && o->two_sided && (back > o->left || -back > o->right))
        return 0;
    return !has(c, MASK) || get(&c->t[MASK], b, h, i, j) > 0;
}

static int sees(const attend *c, tfb_idx b, tfb_idx h, tfb_idx i, tfb_idx j) {
    if (has(c, BIAS) && get(&c->t[BIAS], b, h, i, j) < -1e300) return 0;
    return seen_but_for_bias(c, b, h, i, j);
}

/* --- A call with given options, what they hold at random. --- */
static int legal(int o) {
    if (o & O_PACKED) o &= ~(O_START | O_LEN | O_PAGES | O_KEYPIN | O_POS0);
    if (o & O_KEYPIN) o &= ~O_START;
    if (o & O_WINDOW) o = (o | O_CAUSAL) & ~O_TWO;
    if ((o & O_PINNED) && !(o & (O_WINDOW | O_TWO))) o |= O_TWO;
    return o;
}

static void make_sizes(attend *c) {
    static const tfb_idx pages[] = {1, 2, 3, 5, 16, 64, 100};
    c->options = legal(c->options);
    if (c->D < 2) c->options &= ~O_ROPE;
    if (c->options & O_PACKED) {
        c->seqs = c->full ? 2 : t_int(1, 4);
        c->B = 1;
    }
    if (c->options & O_PAGES) {
        if (!c->page) c->page = c->full ? 4 : pages[t_int(0, 6)];
        c->o.page_skip = (c->page - c->S % c->page) % c->page;
        c->pool = c->B * attend_extent(c, 'N') + (c->full ? 1 : t_int(0, 2));
    }
}

static void make_tensors(attend *c) {
    const int layout = c->options & O_LAYOUT, half = c->options & O_HALF;
    const int paged = c->options & O_PAGES;
    const tfb_dtype kind[3] = {TFB_F32, TFB_F16, TFB_BF16};
    attend_add(c, Q, TFB_F32, "BHTD", layout);
    attend_add(c, K, kind[half ? c->full ? 1 : t_int(0, 2) : 0], paged ? "PGRD" : "BGSD",
               layout);
    attend_add(c, V, kind[half ? c->full ? 2 : t_int(0, 2) : 0], paged ? "PGRV" : "BGSV",
               layout);
    attend_add(c, Y, TFB_F32, "BHTV", layout);
    attend_add(c, LSE, TFB_F32, "BHT", layout);
}

/* n + 1 numbers from 0 to total, ascending, some equal. */
static void make_cu(attend *c, int which, tfb_idx total) {
    tfb_idx s, at = 0;
    attend_add(c, which, TFB_I32, "m", 0);
    for (s = 0; s <= c->seqs && !c->dry; s++) {
        if (s && c->full) at = total * s / c->seqs;
        else if (s) at = s == c->seqs ? total : t_int(at, total);
        put_i(&c->t[which], 0, s, at);
    }
}

static void make_ints(attend *c, int which, tfb_idx lo, tfb_idx hi) {
    tfb_idx n;
    attend_add(c, which, TFB_I32, "n", c->options & O_LAYOUT);
    for (n = 0; n < c->t[which].shape[0] && !c->dry; n++)
        put_i(&c->t[which], 0, n, c->full ? lo : t_int(lo, hi));
}

/* Pages in shuffled order; entries that hold no key below kv_len are no pages at all. */
static void make_pages(attend *c) {
    tfb_idx *order = (tfb_idx *)malloc((size_t)c->pool * sizeof *order + 1), b, i;
    attend_add(c, PAGES, TFB_I32, "BN", c->options & O_LAYOUT);
    if (!order) exit(99);
    for (i = 0; i < c->pool; i++) {
        const tfb_idx j = t_int(0, i);
        order[i] = order[j];
        order[j] = i;
    }
    for (b = 0; b < c->B && !c->dry; b++)
        for (i = 0; i < c->t[PAGES].shape[1]; i++) {
            const int held = i * c->page - c->o.page_skip < int_at(c, KV_LEN, b, c->S);
            put_i(&c->t[PAGES], b, i,
                  held          ? order[b * c->t[PAGES].shape[1] + i]
                  : t_int(0, 1) ? -7
                                : 99999);
        }
    free(order);
}

static void make_views(attend *c) {
    const int o = c->options;
    tfb_idx b;
    if (o & O_PACKED) {
        make_cu(c, CU_Q, c->T);
        if (c->T != c->S || c->full || t_int(0, 1)) make_cu(c, CU_K, c->S);
    }
    if (o & O_START) make_ints(c, KV_START, 0, c->S / 2);
    if (o & O_LEN) make_ints(c, KV_LEN, c->full ? c->S : 0, c->S);
    for (b = 0; b < c->B && (o & O_LEN) && (o & O_START) && !c->dry; b++)
        put_i(&c->t[KV_LEN], 0, b,
              TFB__MAX(int_at(c, KV_START, b, 0), int_at(c, KV_LEN, b, 0)));
    if (o & O_PAGES) make_pages(c);
    if (o & (O_POS0 | O_KEYPIN)) {
        if (c->full || t_int(0, 1)) make_ints(c, POS0S, 0, 300);
        else c->o.key_pos0 = t_int(0, 300);
    }
    if (o & O_KEYPIN) c->o.key_pinned = t_int(1, TFB__MIN(c->S, 10));
}

static void make_hiding(attend *c) {
    static const char *const roles[] = {"BHTS", "BHTS", "B1TS", "HTS",  "TS",
                                        "S",    "1HTS", "B11S", "BHT1", "11TS"};
    const int o = c->options, layout = o & O_LAYOUT;
    const tfb_idx usual = c->S - c->T;
    tfb_idx i;
    if (o & O_CAUSAL) c->o.causal = (tfb_causal)(c->full ? 1 : t_int(1, 2));
    if (c->o.causal == TFB_CAUSAL_OFFSET) c->o.offset = t_int(usual - 3, usual + 9);
    if (o & O_OFFSET) {
        c->o.offset = t_int(0, 2) ? t_int(usual - 3, usual + 9) : t_int(-5, c->S + 5);
        c->o.offset_set = 1;
        if (c->full || t_int(0, 1)) make_ints(c, OFFSETS, usual - 3, usual + 9);
    }
    if (c->o.causal == TFB_CAUSAL_BOTTOM_RIGHT && !(o & O_OFFSET) && t_int(0, 1))
        c->o.offset = 12345; /* not in use: must not matter */
    if (o & O_WINDOW) c->o.window = t_int(1, t_int(0, 1) ? c->S + 10 : 20);
    if (t_int(0, 1)) c->o.left = c->o.right = 2; /* neither */
    if (o & O_TWO) {
        c->o.two_sided = 1;
        c->o.left = t_int(0, c->S / 2 + 5);
        c->o.right = t_int(0, c->S / 2 + 5);
    }
    if (o & O_PINNED) c->o.window_pinned = t_int(1, 20);
    if (o & O_MASK) attend_add(c, MASK, TFB_U8, roles[c->full ? 0 : t_int(0, 9)], layout);
    if (o & O_BIAS) {
        attend_add(c, BIAS, TFB_F32, roles[c->full ? 0 : t_int(0, 9)], layout);
        for (i = 0; i < c->mem_n[BIAS] && !c->dry; i++)
            ((float *)c->mem[BIAS])[i] = t_int(0, 9) ? 3 * t_float() : -TFB__FLT_INF;
    }
    for (i = 0; i < 4 && (o & (O_MASK | O_BIAS)) && !c->full; i++) { /* stride 0 too */
        const int which = (o & O_MASK) && (i & 1) ? MASK : BIAS;
        if (has(c, which) && i < c->t[which].ndim && !t_int(0, 5) &&
            c->t[which].stride[i] > 0)
            c->t[which].stride[i] = 0;
    }
}

static void make_scores(attend *c) {
    const int o = c->options, layout = o & O_LAYOUT;
    tfb_idx i;
    if (o & O_ALIBI)
        attend_add(c, ALIBI, TFB_F32, !c->full && t_int(0, 1) ? "H" : "BH", layout);
    for (i = 0; has(c, ALIBI) && i < c->mem_n[ALIBI] && !c->dry; i++)
        ((float *)c->mem[ALIBI])[i] *= 0.2f;
    if (o & O_SINKS) attend_add(c, SINKS, TFB_F32, "H", layout);
    if (o & O_CAP) c->o.softcap = (float)t_int(1, 60) / 2;
    c->o.scale = 77;
    if (o & O_SCALE) {
        c->o.scale = t_float() * 2;
        c->o.scale_set = 1;
    }
    if (o & O_CHUNK) c->o.chunk_size = t_int(1, c->T + 5);
}

static void make_positions(attend *c, int which, const char *full, const char *one) {
    tfb_idx i;
    attend_add(c, which, TFB_I32, c->full || t_int(0, 1) ? full : one, 0);
    for (i = 0; i < c->mem_n[which] && !c->dry; i++)
        ((int32_t *)c->mem[which])[i] = (int32_t)t_int(-50, 4000);
}

static void make_axes(attend *c, tfb_idx dims) {
    int a;
    c->rope.axes = (int)t_int(2, 3);
    for (a = 0; a < c->rope.axes; a++) {
        const tfb_idx rest = dims - 2 * (c->rope.axes - 1 - a);
        const tfb_idx n = a == c->rope.axes - 1 ? rest : 2 * t_int(1, rest / 2);
        c->rope.axis_dims[a] = (int)n;
        c->rope.grid[a] = a ? t_int(2, 7) : 4096;
        dims -= n;
    }
}

static void make_rope(attend *c) {
    tfb_rope_opts *r = &c->rope;
    tfb_idx dims = c->D / 2 * 2, b, i;
    int negative = 0;
    if (c->D % 2 || t_int(0, 1)) dims = 2 * t_int(1, c->D / 2);
    if (dims < c->D || t_int(0, 1)) r->dims = (int)dims;
    r->base = t_int(0, 1) ? 0 : 500000;
    r->interleaved = (int)t_int(0, 1);
    r->inverse = !t_int(0, 3);
    r->compat = !t_int(0, 3);
    r->start = t_int(0, 1) * t_int(0, 500);
    if (dims >= 6 && t_int(0, 1)) make_axes(c, dims);
    else if (!t_int(0, 3)) attend_add(c, FREQS, TFB_F32, "F", 0);
    else if (dims > 2 && !r->compat && t_int(0, 1)) {
        r->scaling = (tfb_rope_scaling)t_int(1, 4);
        r->factor = 4;
        r->trained_length = 64;
    }
    for (b = 0; b < c->B && !c->dry; b++)
        for (i = 0; i < c->T; i++) negative |= i + attend_seq(c, b, i).at < 0;
    if (!t_int(0, 2) || (negative && r->axes))
        make_positions(c, Q_POS, r->axes ? "BTA" : "BT", r->axes ? "TA" : "T");
    if (!t_int(0, 2))
        make_positions(c, K_POS, r->axes ? "BSA" : "BS", r->axes ? "SA" : "S");
}

static void make_norm(attend *c) {
    c->qk.norm = t_int(0, 1) ? TFB_QK_NORM_RMS : TFB_QK_NORM_L2;
    c->qk.norm_last = (int)t_int(0, 1);
    if (t_int(0, 1)) c->qk.eps = 1e-3f;
    if (!t_int(0, 3)) {
        c->qk.eps = 1e-7f;
        c->qk.eps_set = 1;
    }
    if (c->qk.norm == TFB_QK_NORM_L2) { /* eps is a floor: rows about as short as it */
        const float size = t_int(0, 2) ? 1 : 1e-12f;
        tfb_idx i;
        for (i = 0; i < c->mem_n[Q] && !c->dry; i++) ((float *)c->mem[Q])[i] *= size;
        return;
    }
    if (t_int(0, 1)) attend_add(c, Q_WEIGHT, TFB_F32, "D", c->options & O_LAYOUT);
    if (t_int(0, 1)) attend_add(c, K_WEIGHT, TFB_F32, "D", c->options & O_LAYOUT);
}

/* Makes c, whose sizes are set (page too, if it matters), with these options. */
static void attend_make(attend *c, int options) {
    c->options = options;
    make_sizes(c);
    make_tensors(c);
    make_views(c);
    make_hiding(c);
    make_scores(c);
    if (c->options & O_ROPE) make_rope(c);
    if (c->options & O_NORM) make_norm(c);
    c->qk.keys_ready = !c->full && (c->options & (O_ROPE | O_NORM)) && !t_int(0, 4);
}

/* Small sizes; now and then more than a block of queries, more than a tile of keys. */
static attend attend_random(int options) {
    const tfb_idx G = t_int(1, 2), wide = t_int(0, 5) ? 20 : 80;
    const int many = t_int(0, 7) == 0;
    attend c = attend_of(t_int(1, many ? 1 : 3), G * t_int(1, many ? 1 : 3), G,
                         many ? t_int(60, 70) : t_int(1, 9),
                         t_int(0, 2) ? t_int(1, 90) : t_int(120, 200),
                         many ? t_int(1, 9) : t_int(1, wide), t_int(1, wide));
    attend_make(&c, options);
    return c;
}

TFB__UNUSED static int random_options(void) {
    const uint32_t some = t_rand() & (t_int(0, 1) ? t_rand() : 0xFFFFFFFFu);
    return (int)(some & (uint32_t)O_ALL & (t_int(0, 3) ? ~(uint32_t)O_PACKED : ~0u));
}

/* --- Running it. --- */
static void attend_link(attend *c) {
    tfb_attention_opts *o = &c->o;
    tfb_tensor *t[TENSORS];
    int i;
    for (i = 0; i < TENSORS; i++) t[i] = has(c, i) ? &c->t[i] : NULL;
    o->lse = t[LSE];
    o->mask = t[MASK];
    o->bias = t[BIAS];
    o->offsets = t[OFFSETS];
    o->kv_start = t[KV_START];
    o->kv_len = t[KV_LEN];
    o->key_pos0s = t[POS0S];
    o->cu_q = t[CU_Q];
    o->cu_k = t[CU_K];
    o->alibi = t[ALIBI];
    o->sinks = t[SINKS];
    o->pages = t[PAGES];
    o->qk = c->options & (O_ROPE | O_NORM) ? &c->qk : NULL;
    c->qk.rope = c->options & O_ROPE ? &c->rope : NULL;
    c->qk.q_weight = t[Q_WEIGHT];
    c->qk.k_weight = t[K_WEIGHT];
    c->qk.key_positions = t[K_POS];
    c->rope.positions = t[Q_POS];
    c->rope.freqs = t[FREQS];
}

static tfb_status attend_call(tfb_ctx *ctx, attend *c) {
    attend_link(c);
    return tfb_attention(ctx, &c->t[Q], &c->t[K], &c->t[V], &c->o, &c->t[Y]);
}

static void floats_set(void *mem, tfb_idx n, float x) {
    tfb_idx i;
    for (i = 0; i < n; i++) ((float *)mem)[i] = x;
}

static tfb_idx attend_floats(const attend *c) {
    return c->B * c->H * c->T * (c->Dv + 1);
}

/* y, then lse, whatever their strides, in fresh memory. */
static float *attend_read(const attend *c) {
    float *all = t_floats(attend_floats(c)), *y = all;
    float *lse = all + c->B * c->H * c->T * c->Dv;
    tfb_idx b, h, i, d;
    for (b = 0; b < c->B; b++)
        for (h = 0; h < c->H; h++)
            for (i = 0; i < c->T; i++) {
                *lse++ = (float)get(&c->t[LSE], 0, b, h, i);
                for (d = 0; d < c->Dv; d++) *y++ = (float)get(&c->t[Y], b, h, i, d);
            }
    return all;
}

/* c owns Y and LSE. */
static float *attend_result(tfb_ctx *ctx, attend *c) {
    floats_set(c->mem[Y], c->mem_n[Y], SENTINEL);
    floats_set(c->mem[LSE], c->mem_n[LSE], SENTINEL);
    CHECK(attend_call(ctx, c) == TFB_OK, "%s: %s", ctx->message, attend_text(c));
    return attend_read(c);
}

/* Runs c (other context, other options) and compares with an earlier result. */
static void attend_same(tfb_ctx *ctx, attend *c, const float *before, const char *what,
                        long value) {
    float *now = attend_result(ctx, c);
    CHECK_BITS(now, before, attend_floats(c), "%s %ld: %s", what, value, attend_text(c));
    free(now);
}

/* A copy that shares all inputs and has outputs of its own. */
static attend attend_again(const attend *c) {
    attend again = attend_copy(c);
    attend_add(&again, Y, TFB_F32, "BHTV", 0);
    attend_add(&again, LSE, TFB_F32, "BHT", 0);
    return again;
}

/* --- The same call on contiguous float32 k and v, q and k prepared. --- */
static double key_at(const attend *c, int which, tfb_idx b, tfb_idx g, tfb_idx j,
                     tfb_idx d) {
    tfb_idx page, row;
    if (!has(c, PAGES)) return get(&c->t[which], b, g, j, d);
    row = j + c->o.page_skip;
    page = (tfb_idx)get(&c->t[PAGES], 0, 0, b, row / c->page);
    if (page < 0 || page >= c->pool) return 0;
    return get(&c->t[which], page, g, row % c->page, d);
}

static void norm_rows(tfb_ctx *ctx, const attend *c, tfb_tensor *x, int weight) {
    tfb_norm_opts n = TFB_INIT;
    n.eps = c->qk.eps;
    n.eps_set = c->qk.eps_set;
    if (has(c, weight)) n.weight = &c->t[weight];
    if (c->qk.norm == TFB_QK_NORM_RMS) CHECK_OK(ctx, tfb_rmsnorm(ctx, x, &n, x));
    if (c->qk.norm == TFB_QK_NORM_L2) CHECK_OK(ctx, tfb_l2norm(ctx, x, &n, x));
}

/* Coordinates of number n, as rope.positions has them. */
static void coordinates(const attend *c, tfb_idx n, int32_t *to) {
    int a;
    n += c->rope.start;
    for (a = c->rope.axes ? c->rope.axes - 1 : 0; a > 0; a--) {
        to[a] = (int32_t)(n % c->rope.grid[a]);
        n /= c->rope.grid[a];
    }
    to[0] = (int32_t)n;
}

static void rope_rows(tfb_ctx *ctx, const attend *c, tfb_tensor *x, int key) {
    const tfb_idx rows = x->shape[2], axes = c->rope.axes ? c->rope.axes : 1;
    int32_t *mem = (int32_t *)calloc((size_t)(c->B * rows * axes + 1), sizeof *mem);
    tfb_tensor at = tfb_view3(mem, TFB_I32, c->B, rows, axes);
    tfb_rope_opts r = c->rope;
    tfb_idx b, i;
    if (!mem) exit(99);
    if (!c->rope.axes) at.ndim = 2;
    for (b = 0; b < c->B; b++)
        for (i = 0; i < rows; i++) {
            tfb_idx n = key ? key_number(c, b, i) : i + attend_seq(c, b, i).at;
            if (key && n < 0) n = 0; /* before kv_start: hidden */
            coordinates(c, n, mem + (b * rows + i) * axes);
        }
    r.positions = has(c, key ? K_POS : Q_POS) ? &c->t[key ? K_POS : Q_POS] : &at;
    r.freqs = has(c, FREQS) ? &c->t[FREQS] : NULL;
    r.start = 0;
    memset((void *)r.grid, 0, sizeof r.grid);
    CHECK_OK(ctx, tfb_rope(ctx, x, &r, x));
    free(mem);
}

static void prepare(tfb_ctx *ctx, const attend *c, tfb_tensor *x, int key) {
    if (!c->qk.norm_last) norm_rows(ctx, c, x, key ? K_WEIGHT : Q_WEIGHT);
    if (c->options & O_ROPE) rope_rows(ctx, c, x, key);
    if (c->qk.norm_last) norm_rows(ctx, c, x, key ? K_WEIGHT : Q_WEIGHT);
}

/* Fills p's own tensor from key_at (or q). */
static void plain_rows(const attend *c, attend *p, int which) {
    tfb_idx b, g, j, d;
    const tfb_tensor *t = &p->t[which];
    for (b = 0; b < t->shape[0]; b++)
        for (g = 0; g < t->shape[1]; g++)
            for (j = 0; j < t->shape[2]; j++)
                for (d = 0; d < t->shape[3]; d++)
                    put_f(t, b, g, j, d,
                          (float)(which == Q ? get(&c->t[Q], b, g, j, d)
                                             : key_at(c, which, b, g, j, d)));
}

static attend attend_plain(tfb_ctx *ctx, const attend *c) {
    attend p = attend_again(c);
    attend_add(&p, Q, TFB_F32, "BHTD", 0);
    attend_add(&p, K, TFB_F32, "BGSD", 0);
    attend_add(&p, V, TFB_F32, "BGSV", 0);
    plain_rows(c, &p, Q);
    plain_rows(c, &p, K);
    plain_rows(c, &p, V);
    if (c->options & (O_ROPE | O_NORM)) prepare(ctx, c, &p.t[Q], 0);
    if ((c->options & (O_ROPE | O_NORM)) && !c->qk.keys_ready)
        prepare(ctx, c, &p.t[K], 1);
    p.options &= ~(O_ROPE | O_NORM | O_PAGES | O_HALF);
    p.o.page_skip = 0;
    attend_drop(&p, PAGES);
    return p;
}

/* --- SEMANTICS section 3 in float64, for one row of a plain call: its weights w[S].
 * off[S] bounds their relative error and *lse_off that of lse; returns lse. With u =
 * 2^-24: a score is off by e = (D + 4) u scale sum|q k| (the dot, scale and 1 /
 * sqrt(D)), softcap by another 6 u |s| (a division, 2 ulp of tanh and a product; its
 * slope is at most 1), bias and ALiBi by u times what they round. exp's argument is
 * off by u times its distance from the maximum, exp by 4 u, and so are at most S / 64
 * + S / 1024 + 4 rescalings with a product each; sums over S add S u. The sum of the
 * weights is off by their mean error, 1 / l, the fold of lanes and the last product by
 * less than 30 u. Second order: 1.05. --- */
static double score64(const attend *c, tfb_idx b, tfb_idx h, tfb_idx i, tfb_idx j,
                      double *off) {
    const double u = 1.0 / 16777216, cap = (double)c->o.softcap;
    const double scale = c->o.scale_set ? (double)c->o.scale : 1 / sqrt((double)c->D);
    double s = 0, size = 0;
    tfb_idx d;
    for (d = 0; d < c->D; d++) {
        const double p =
            get(&c->t[Q], b, h, i, d) * get(&c->t[K], b, h / (c->H / c->G), j, d);
        s += p;
        size += fabs(p);
    }
    s *= scale;
    *off = ((double)c->D + 4) * u * size * fabs(scale);
    if (cap > 0) *off += 6 * u * fabs(s);
    if (cap > 0) s = cap * tanh(s / cap);
    if (has(c, BIAS)) *off += u * fabs(s += get(&c->t[BIAS], b, h, i, j));
    if (has(c, ALIBI)) {
        const tfb_idx back = i + attend_seq(c, b, i).at - key_number(c, b, j);
        s -= get(&c->t[ALIBI], 0, 0, b, h) * fabs((double)back);
        *off += u * fabs(s);
    }
    return s;
}

static double attend64(const attend *c, tfb_idx b, tfb_idx h, tfb_idx i, double *w,
                       double *off, double *lse_off) {
    const double u = 1.0 / 16777216;
    const double sink = has(c, SINKS) ? get(&c->t[SINKS], 0, 0, 0, h) : 0;
    const double terms =
        u * ((double)c->S + 5 * ((double)c->S / 64 + (double)c->S / 1024 + 4) + 30);
    double top = has(c, SINKS) ? sink : -1e300, sum = 0, mean = 0;
    tfb_idx j;
    for (j = 0; j < c->S; j++) {
        w[j] = 0;
        off[j] = -1; /* hidden */
        if (!sees(c, b, h, i, j)) continue;
        w[j] = score64(c, b, h, i, j, off + j);
        top = fmax(top, w[j]);
    }
    if (has(c, SINKS)) sum = exp(sink - top), mean = sum * u * (top - sink);
    for (j = 0; j < c->S; j++) {
        if (off[j] < 0) continue;
        off[j] += u * (top - w[j]);
        w[j] = exp(w[j] - top);
        sum += w[j];
        mean += w[j] * off[j];
    }
    if (!(sum > 0)) return -HUGE_VAL;
    mean = mean / sum + terms;
    for (j = 0; j < c->S; j++) {
        w[j] /= sum;
        if (off[j] >= 0) off[j] = 1.05 * (off[j] + mean + terms);
    }
    *lse_off = 1.05 * mean + 5 * u * (fabs(top) + fabs(top + log(sum)));
    return top + log(sum);
}

/* Holds a result of the plain call p to float64. what: the call to name. */
static void attend_check64(const attend *p, const float *result, const char *what) {
    const float *y = result, *lse = result + p->B * p->H * p->T * p->Dv;
    double *w = (double *)malloc((size_t)p->S * 2 * sizeof *w + 1), *off = w + p->S;
    tfb_idx b, h, i, j, d;
    if (!w) exit(99);
    for (b = 0; b < p->B; b++)
        for (h = 0; h < p->H; h++)
            for (i = 0; i < p->T; i++, lse++, y += p->Dv) {
                double lse_off = 0;
                const double want = attend64(p, b, h, i, w, off, &lse_off);
                if (want < -1e300)
                    CHECK(*lse < -FLT_MAX, "lse %g: %s", (double)*lse, what);
                else
                    CHECK(fabs((double)*lse - want) <= lse_off,
                          "lse[%ld, %ld, %ld] is %.9g, not %.9g (%g): %s", (long)b,
                          (long)h, (long)i, (double)*lse, want, lse_off, what);
                for (d = 0; d < p->Dv; d++) {
                    double sum = 0, most = 1e-30;
                    for (j = 0; j < p->S; j++) {
                        if (off[j] < 0) continue;
                        sum += w[j] * get(&p->t[V], b, h / (p->H / p->G), j, d);
                        most += off[j] *
                                fabs(w[j] * get(&p->t[V], b, h / (p->H / p->G), j, d));
                    }
                    CHECK(fabs((double)y[d] - sum) <= most,
                          "y[%ld, %ld, %ld, %ld] is %.9g, not %.9g (%g): %s", (long)b,
                          (long)h, (long)i, (long)d, (double)y[d], sum, most, what);
                }
            }
    free(w);
}
#endif
