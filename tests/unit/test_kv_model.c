/* KV caches beside a model: arrays of rows, slow and plain. Random operations are done to
 * both; states, contents, attention and refusals must agree after each. What fails is
 * shrunk to the shortest sequence that still fails, and printed. */
#include "../test.h"
#include <math.h>
#include <stdarg.h>
#ifndef _WIN32
#include <sys/wait.h>
#include <unistd.h>
#endif

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define SLOW 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) && !defined(SLOW)
#define SLOW 1
#endif
#ifdef SLOW
#define OPERATIONS 400000
#else
#define OPERATIONS 1200000
#endif

enum { LAYERS = 3, BATCH = 6, NUMBERS = 700, WIDTH = 10, ROWS = 150, ARGS = 6 };
enum { LONGEST = 250 }; /* operations of a sequence */
#define BIT(status) (1u << -(int)(status))
#define FINE        BIT(TFB_OK)
#define CANNOT      (BIT(TFB_ERR_ARG) | BIT(TFB_ERR_RANGE)) /* between mark and commit */
#define MAX(a, b)   ((a) > (b) ? (a) : (b))
#define MIN(a, b)   ((a) < (b) ? (a) : (b))
#define LEN(array)  (sizeof(array) / sizeof *(array))

/* What a cache is made of; all ints, so that the shrinker can try smaller ones. */
typedef struct config {
    int is_static, ragged, once, dtype, layers, batch;
    int G[LAYERS], D[LAYERS], Dv[LAYERS], max_tokens[LAYERS];
    int window[LAYERS], pinned[LAYERS], chunk[LAYERS];
} config;

typedef struct op {
    int code, a[ARGS];
} op;

/* --- The model. --- */
typedef struct m_row {
    float x[2][WIDTH]; /* key [G, D], value [G, Dv] */
} m_row;

/* Row n is kept if base <= n < end, or n < pinned and n < end. A ring has more in its
 * memory: queries before the last may see rows from max(floor, lost) on. */
typedef struct m_sample {
    tfb_idx base, end, floor, lost;
    m_row row[NUMBERS];
} m_sample;

typedef struct m_layer {
    int touched;
    tfb_idx batch;
    m_sample s[BATCH];
} m_layer;

typedef struct model {
    config c;
    int is_static, marked;
    m_layer layer[LAYERS], then[LAYERS]; /* then: at the mark */
} model;

/* Faults planted into the model, to see them found and shrunk. */
typedef enum fault {
    SOUND,
    CROP_FORGETS,
    KEEP_LAST_KEEPS_MORE,
    WINDOW_TOO_LARGE,
    FIRST_OF_EQUALS_COUNTS,
    UNCOVERED_IS_STALE,
    SELECT_FORGETS_REPEATS,
    ROLLBACK_KEEPS_ALL,
    FULL_TOO_EARLY,
    RESET_LEAVES_BASE
} fault;
static fault planted;

static tfb_idx m_room(const config *c, int l) {
    const tfb_idx chunk = c->chunk[l] > 64 ? c->chunk[l] : 64;
    return (c->window[l] + 63) / 64 * 64 + (chunk + 63) / 64 * 64;
}

static tfb_idx m_pins(const model *m, int l, tfb_idx b) { /* pinned rows there are */
    return MIN(m->c.pinned[l], m->layer[l].s[b].end);
}

static tfb_idx m_length(const model *m, int l, tfb_idx b) {
    const m_sample *s = &m->layer[l].s[b];
    return m_pins(m, l, b) + MAX(0, s->end - s->base);
}

static tfb_idx m_longest(const model *m, int l) {
    tfb_idx b, longest = 0;
    for (b = 0; b < m->layer[l].batch; b++) longest = MAX(longest, m_length(m, l, b));
    return longest;
}

/* The number of row i of tfb_kv_get. */
static tfb_idx m_number(const model *m, int l, tfb_idx b, tfb_idx i) {
    const tfb_idx pins = m_pins(m, l, b);
    return i < pins ? i : m->layer[l].s[b].base + i - pins;
}

static void m_copy_sample(m_sample *to, const m_sample *from) {
    const size_t head = sizeof *from - sizeof from->row;
    if (to == from) return;
    memcpy(to, from, head + (size_t)from->end * sizeof *from->row);
}

static void m_copy_layer(m_layer *to, const m_layer *from) {
    tfb_idx b;
    to->touched = from->touched;
    to->batch = from->batch;
    for (b = 0; b < from->batch; b++) m_copy_sample(to->s + b, from->s + b);
}

/* Shapes stay, so the layer is touched still. */
static void m_empty_layer(model *m, int l) {
    tfb_idx b;
    for (b = 0; b < BATCH; b++) {
        m_sample *s = m->layer[l].s + b;
        if (planted != RESET_LEAVES_BASE || s->base < m->c.pinned[l])
            s->base = m->c.pinned[l];
        s->floor = m->c.pinned[l];
        s->end = s->lost = 0;
    }
}

static void m_init(model *m, const config *c) {
    int l;
    m->c = *c;
    m->is_static = c->is_static;
    m->marked = 0;
    memset(m->layer, 0, sizeof m->layer[0] * (size_t)c->layers);
    for (l = 0; l < c->layers; l++) m_empty_layer(m, l);
}

static void m_reset(model *m) {
    int l;
    m->marked = 0;
    for (l = 0; l < m->c.layers; l++) m_empty_layer(m, l);
}

/* One more row at the end; the oldest leaves a ring. */
static void m_push(model *m, int l, tfb_idx b, const m_row *row) {
    m_sample *s = &m->layer[l].s[b];
    const tfb_idx window = m->c.window[l];
    const int stale = planted == UNCOVERED_IS_STALE && !row;
    if (row) s->row[s->end] = *row;
    else if (!stale) memset(&s->row[s->end], 0, sizeof *row);
    s->end++;
    if (!window) return;
    s->base = MAX(s->base, s->end - window - (planted == WINDOW_TOO_LARGE));
    s->lost = MAX(s->lost, s->end - m_room(&m->c, l));
}

/* --- Updates of the model. --- */
typedef struct update {
    int layer, pos_ndim; /* pos_ndim -1: append */
    int counted;
    tfb_idx B, T;
    int32_t pos[BATCH * ROWS], counts[BATCH];
    const m_row *rows; /* [B, T] */
} update;

/* The number row t of sample b goes to, or -1 if it is not one of counts. */
static tfb_idx m_target(const model *m, const update *u, tfb_idx b, tfb_idx t) {
    const m_sample *s = &m->layer[u->layer].s[b];
    tfb_idx p;
    if (u->counted && t >= u->counts[b]) return -1;
    if (u->pos_ndim < 0) return s->end + t;
    p = u->pos[u->pos_ndim == 2 ? b * u->T + t : u->pos_ndim == 1 ? t : 0];
    return m->c.window[u->layer] || p < 0 ? p : s->base + p;
}

static unsigned m_update_one(const model *m, const update *u, tfb_idx b, tfb_idx end) {
    const int l = u->layer, ring = m->c.window[l] > 0;
    const m_sample *s = &m->layer[l].s[b], *then = &m->then[l].s[b];
    const tfb_idx oldest = m->marked ? MIN(s->base, then->base) : s->base;
    tfb_idx t;
    unsigned want = 0;
    for (t = 0; t < u->T && u->pos_ndim >= 0; t++) {
        const tfb_idx n = m_target(m, u, b, t);
        if (u->counted && t >= u->counts[b]) break;
        if (n < 0 || (n >= m->c.pinned[l] && n < s->base) || (m->marked && n < then->end))
            want |= BIT(TFB_ERR_RANGE);
    }
    if (m->is_static && !ring &&
        end - oldest > m->c.max_tokens[l] / (planted == FULL_TOO_EARLY ? 2 : 1))
        want |= BIT(TFB_ERR_FULL);
    if (m->marked && ring && end - then->base > m_room(&m->c, l))
        want |= BIT(TFB_ERR_FULL); /* rows to roll back to would be overwritten */
    return want;
}

/* Where the samples end afterwards; they end together unless ragged. */
static void m_update_ends(const model *m, const update *u, tfb_idx *end) {
    tfb_idx b, t, all = 0;
    for (b = 0; b < u->B; b++) {
        end[b] = m->layer[u->layer].s[b].end;
        for (t = 0; t < u->T; t++) end[b] = MAX(end[b], m_target(m, u, b, t) + 1);
        all = MAX(all, end[b]);
    }
    for (b = 0; b < u->B && !m->c.ragged; b++) end[b] = all;
}

/* Every status that fits: which of two errors is found first is nobody's business. */
static unsigned m_update_wrong(const model *m, const update *u, const tfb_idx *end) {
    const m_layer *layer = m->layer + u->layer;
    tfb_idx b;
    unsigned want = 0;
    if (u->counted && !m->c.ragged) want |= BIT(TFB_ERR_ARG);
    if (layer->touched && u->B != layer->batch) want |= BIT(TFB_ERR_SHAPE);
    if (m->is_static && u->B > m->c.batch) want |= BIT(TFB_ERR_SHAPE);
    for (b = 0; u->counted && b < u->B; b++)
        if (u->counts[b] < 0 || u->counts[b] > u->T) want |= BIT(TFB_ERR_RANGE);
    if (want || !u->T) return want;
    if (m->c.once && m_longest(m, u->layer)) want |= BIT(TFB_ERR_FULL);
    for (b = 0; b < u->B; b++) want |= m_update_one(m, u, b, end[b]);
    return want;
}

static void m_update_sample(model *m, const update *u, tfb_idx b, tfb_idx end) {
    m_sample *s = m->layer[u->layer].s + b;
    tfb_idx n[ROWS], t;
    for (t = 0; t < u->T; t++) n[t] = m_target(m, u, b, t); /* before anything moves */
    while (s->end < end) m_push(m, u->layer, b, NULL);
    for (t = 0; t < u->T; t++) {
        const tfb_idx i = planted == FIRST_OF_EQUALS_COUNTS ? u->T - 1 - t : t;
        if (n[i] >= 0) s->row[n[i]] = u->rows[b * u->T + i];
    }
}

static unsigned m_update(model *m, const update *u) {
    m_layer *layer = m->layer + u->layer;
    tfb_idx end[BATCH], b;
    unsigned wrong;
    m_update_ends(m, u, end);
    wrong = m_update_wrong(m, u, end);
    if (wrong) return wrong;
    if (!u->T) return FINE;
    layer->touched = 1;
    layer->batch = u->B;
    for (b = 0; b < u->B; b++) m_update_sample(m, u, b, end[b]);
    return FINE;
}

/* --- What the model does to all layers. --- */
/* A number for each sample, or one for all of them. */
typedef struct many {
    const int32_t *each; /* NULL: one for all */
    tfb_idx n, one;      /* n: extent of each */
} many;

static tfb_idx m_of(const many *x, tfb_idx b) {
    return x->each ? x->each[x->n == 1 ? 0 : b] : x->one;
}

static unsigned m_each_wrong(const model *m, const many *x) {
    unsigned want = 0;
    int l;
    if (x->each && !m->c.ragged) want |= BIT(TFB_ERR_ARG);
    for (l = 0; l < m->c.layers; l++)
        if (x->each && m->layer[l].touched && x->n != m->layer[l].batch)
            want |= BIT(TFB_ERR_SHAPE);
    return want;
}

/* How many rows of a sample crop(n) keeps. */
static tfb_idx m_crop_rows(tfb_idx n, tfb_idx length) {
    return n < 0 ? MAX(0, length + n) : MIN(n, length);
}

/* Where a sample ends that keeps so many: behind pinned rows if it has only such. */
static tfb_idx m_crop_end(const model *m, int l, tfb_idx b, tfb_idx keep) {
    return m->c.pinned[l] && keep <= m->c.pinned[l] ? keep : m_number(m, l, b, keep);
}

static void m_crop_sample(model *m, int l, tfb_idx b, tfb_idx n) {
    m_sample *s = m->layer[l].s + b;
    const tfb_idx keep = m_crop_rows(n, m_length(m, l, b));
    if (keep == m_length(m, l, b) || planted == CROP_FORGETS) return;
    s->end = m_crop_end(m, l, b, keep);
    s->floor = s->base; /* rows that left a ring do not come back */
    if (s->end > m->c.pinned[l] || !m->c.pinned[l]) return;
    s->base = s->floor = m->c.pinned[l];
    s->lost = 0;
}

static unsigned m_crop(model *m, const many *x) {
    const unsigned wrong = m_each_wrong(m, x);
    int l, pass;
    tfb_idx b;
    if (wrong) return wrong;
    for (pass = 0; pass < 2; pass++) /* first look, then do */
        for (l = 0; l < m->c.layers; l++)
            for (b = 0; b < m->layer[l].batch; b++) {
                const tfb_idx rows = m_length(m, l, b), n = m_crop_rows(m_of(x, b), rows);
                if (pass) m_crop_sample(m, l, b, n);
                else if (m->marked && n < rows &&
                         m_crop_end(m, l, b, n) < m->then[l].s[b].end)
                    return CANNOT;
            }
    return FINE;
}

static unsigned m_keep_last(model *m, const many *x) {
    unsigned wrong = m_each_wrong(m, x);
    int l;
    tfb_idx b;
    for (l = 0; l < m->c.layers && !wrong; l++)
        for (b = 0; b < m->layer[l].batch; b++)
            if (m_of(x, b) < 0) wrong |= BIT(TFB_ERR_RANGE);
    if (wrong) return wrong;
    for (l = 0; l < m->c.layers; l++)
        for (b = 0; b < m->layer[l].batch; b++) {
            m_sample *s = m->layer[l].s + b;
            const tfb_idx from = s->end - m_of(x, b) - (planted == KEEP_LAST_KEEPS_MORE);
            if (from > s->base) s->base = s->floor = from;
        }
    return FINE;
}

/* Sample i of a layer becomes what index[i] was. */
static void m_gather(m_layer *layer, const int32_t *index, tfb_idx n) {
    static m_layer was;
    tfb_idx i;
    m_copy_layer(&was, layer);
    layer->batch = n;
    for (i = 0; i < n; i++) m_copy_sample(layer->s + i, was.s + index[i]);
}

static unsigned m_select(model *m, const int32_t *index, tfb_idx n) {
    unsigned want = 0;
    int l;
    tfb_idx i;
    if (m->marked) return CANNOT;
    for (l = 0; l < m->c.layers; l++) {
        if (!m->layer[l].touched) continue;
        if (m->is_static && n > m->c.batch) want |= BIT(TFB_ERR_FULL);
        for (i = 0; i < n; i++)
            if (index[i] < 0 || index[i] >= m->layer[l].batch) want |= BIT(TFB_ERR_RANGE);
    }
    if (want) return want;
    for (l = 0; l < m->c.layers; l++) {
        if (!m->layer[l].touched) continue;
        m_gather(m->layer + l, index, n);
        if (planted == SELECT_FORGETS_REPEATS && n > 1 && index[0] == index[1])
            m->layer[l].s[1].end = m->layer[l].s[1].base;
    }
    return FINE;
}

static unsigned m_repeat(model *m, tfb_idx repeats) {
    int32_t index[BATCH];
    int l, i;
    if (m->marked) return CANNOT;
    if (repeats < 1) return BIT(TFB_ERR_RANGE);
    for (l = 0; l < m->c.layers; l++)
        if (m->is_static && m->layer[l].batch * repeats > m->c.batch)
            return BIT(TFB_ERR_FULL);
    for (i = 0; i < BATCH; i++) index[i] = (int32_t)(i / repeats);
    for (l = 0; l < m->c.layers; l++)
        m_gather(m->layer + l, index, m->layer[l].batch * repeats);
    return FINE;
}

static unsigned m_fork(model *m, tfb_idx src, tfb_idx dst) {
    int32_t index[BATCH];
    int l, i;
    if (m->marked) return CANNOT;
    for (l = 0; l < m->c.layers; l++)
        if (m->layer[l].touched &&
            (src < 0 || src >= m->layer[l].batch || dst < 0 || dst >= m->layer[l].batch))
            return BIT(TFB_ERR_RANGE);
    for (i = 0; i < BATCH; i++) index[i] = (int32_t)(i == dst ? src : i);
    for (l = 0; l < m->c.layers; l++)
        if (m->layer[l].touched) m_gather(m->layer + l, index, m->layer[l].batch);
    return FINE;
}

static unsigned m_mark(model *m) {
    int l;
    for (l = 0; l < m->c.layers; l++) {
        const tfb_idx batch = m->layer[l].batch;
        m->layer[l].batch = BATCH; /* those to come are empty */
        m_copy_layer(m->then + l, m->layer + l);
        m->layer[l].batch = m->then[l].batch = batch;
    }
    m->marked = 1;
    return FINE;
}

static unsigned m_keep_wrong(const model *m, const many *keep) {
    unsigned want = m->marked ? 0 : BIT(TFB_ERR_ARG);
    int l;
    tfb_idx b;
    if (keep->each && keep->n != 1) want |= m_each_wrong(m, keep);
    for (l = 0; l < m->c.layers && !want; l++)
        for (b = 0; b < m->layer[l].batch; b++)
            if (m_of(keep, b) < 0 ||
                m_of(keep, b) > m->layer[l].s[b].end - m->then[l].s[b].end)
                want |= BIT(TFB_ERR_RANGE);
    return want;
}

/* The state at the mark, to which the rows to keep are appended once more. */
static unsigned m_rollback(model *m, const many *keep) {
    static m_layer was;
    const unsigned wrong = m_keep_wrong(m, keep);
    int l;
    tfb_idx b, i;
    if (wrong) return wrong;
    for (l = 0; l < m->c.layers; l++) {
        m_copy_layer(&was, m->layer + l);
        m_copy_layer(m->layer + l, m->then + l);
        for (b = 0; b < was.batch; b++) {
            tfb_idx n = m_of(keep, b);
            if (planted == ROLLBACK_KEEPS_ALL) n = was.s[b].end - m->then[l].s[b].end;
            m_copy_sample(m->layer[l].s + b, m->then[l].s + b);
            m->layer[l].s[b].lost = was.s[b].lost; /* overwritten is overwritten */
            for (i = 0; i < n; i++) {
                m_push(m, l, b, was.s[b].row + m->layer[l].s[b].end);
                m->layer[l].touched = 1;
            }
        }
        if (m->layer[l].touched) m->layer[l].batch = was.batch;
    }
    return FINE;
}

static void m_commit(model *m) {
    m->marked = 0;
}

/* A loaded ring has the rows it kept, not those its memory happened to have still. */
static unsigned m_load(model *m, const config *c, int is_static) {
    int l;
    tfb_idx b;
    if (m->marked) return CANNOT;
    for (l = 0; l < c->layers; l++)
        for (b = 0; is_static && b < m->layer[l].batch; b++)
            if (m->layer[l].batch > c->batch ||
                (!c->window[l] && m_length(m, l, b) > c->max_tokens[l]))
                return BIT(TFB_ERR_FULL);
    for (l = 0; l < c->layers; l++)
        for (b = 0; b < m->layer[l].batch; b++) {
            m_sample *s = m->layer[l].s + b;
            s->lost = MAX(s->lost, s->base);
        }
    m->is_static = is_static;
    return FINE;
}

/* --- The real cache and the model side by side. --- */
typedef struct world {
    model m;
    tfb_ctx ctx;
    tfb_kv kv;
    void *mem; /* of a static cache */
    t_heap heap, scratch;
    tfb_idx most_pages[LAYERS], most_samples[LAYERS]; /* needed at once so far */
    int starve;    /* the next operation's allocation to fail, 1 the first; 0 none */
    long steps;    /* operations so far */
    FILE *log;     /* what was done, readable; NULL: nobody wants to know */
    char why[400]; /* how the two disagree */
} world;

#ifdef __GNUC__
static void say(world *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
#endif
static void say(world *w, const char *format, ...) {
    va_list args;
    if (!w->log) return;
    va_start(args, format);
    vfprintf(w->log, format, args);
    va_end(args);
    fflush(w->log); /* the next call may crash */
}

static void say_numbers(world *w, const char *name, const int32_t *x, tfb_idx n) {
    tfb_idx i;
    if (!w->log) return;
    say(w, ", %s {", name);
    for (i = 0; i < n; i++) say(w, i ? ", %d" : "%d", (int)x[i]);
    say(w, "}");
}

#define DISAGREE(w, ...)                                                                 \
    do {                                                                                 \
        if (!(w)->why[0]) snprintf((w)->why, sizeof(w)->why, __VA_ARGS__);               \
    } while (0)

/* Was it memory withheld that made the call fail? The model is not to suffer from it. */
static int starved(world *w, tfb_status got) {
    const t_heap *a = &w->heap, *b = &w->scratch;
    const int hit =
        (a->fail_at && a->calls >= a->fail_at) || (b->fail_at && b->calls >= b->fail_at);
    w->heap.fail_at = w->scratch.fail_at = 0;
    return hit && got == TFB_ERR_MEMORY;
}

/* The cache says `got`; the model, asked unless memory was withheld, must say so too. */
static tfb_status verdict(world *w, tfb_status got, unsigned want) {
    int first = 0;
    while (!(want >> first & 1)) first++;
    if (!(want & BIT(got)))
        DISAGREE(w, "status %d (%s), the model says %d", (int)got, w->ctx.message,
                 -first);
    return got;
}
#define BESIDE(w, got, model) verdict(w, got, starved(w, got) ? BIT(got) : (model))

/* --- Rows to be put in. --- */
static uint32_t mix(uint32_t seed, uint32_t i) { /* a number that looks random */
    uint32_t x = seed * 0x9E3779B9u + i * 0x85EBCA6Bu + 0x27D4EB2Fu;
    x = (x ^ x >> 15) * 0x2C1B3C6Du;
    return x ^ x >> 13;
}

/* x rounded to a dtype, ties to even, without its bits. */
static float rounded(tfb_dtype dtype, float x) {
    int e;
    double step;
    if (dtype == TFB_F32 || x == 0) return x;
    frexp((double)x, &e);
    step = dtype == TFB_F16 ? ldexp(1.0, MAX(e - 11, -24)) : ldexp(1.0, MAX(e - 8, -133));
    return (float)(rint((double)x / step) * step);
}

static float element(uint32_t seed, uint32_t i) {
    static const float special[] = {0.0f, -0.0f, 1.0f, -1.0f, 3e-8f, 1e-40f, 0.3333333f};
    const uint32_t u = mix(seed, i);
    if (u % 32 < LEN(special)) return special[u % 32];
    return ((float)(u >> 8) - 8388608.0f) / 8388608.0f;
}

static void *block(size_t bytes) { /* exactly so large, so that sanitizers see the end */
    void *p = malloc(bytes ? bytes : 1);
    if (!p) exit(99);
    return p;
}

typedef struct piece { /* key or value of an update */
    tfb_tensor t;
    void *mem;
    tfb_idx n; /* elements, gaps included */
} piece;

/* [B, G, T, D] in one of three layouts, F32 so far. */
static piece piece_new(const tfb_idx *n, int layout) {
    const tfb_idx pad = layout == 2, all = n[0] * n[1] * (n[2] + pad) * (n[3] + pad);
    piece p;
    tfb_idx i;
    p.mem = block((size_t)all * sizeof(float));
    p.t = tfb_view4(p.mem, TFB_F32, n[0], n[1], n[2], n[3]);
    p.n = all;
    if (layout) { /* [B, T, G, D], perhaps with gaps */
        p.t.stride[2] = n[1] * (n[3] + pad);
        p.t.stride[1] = n[3] + pad;
        p.t.stride[0] = (n[2] + pad) * p.t.stride[2];
    }
    for (i = 0; i < all; i++) ((float *)p.mem)[i] = 7;
    return p;
}

static void piece_convert(world *w, piece *p, tfb_dtype dtype) {
    const tfb_tensor from = tfb_view1(p->mem, TFB_F32, p->n);
    tfb_tensor to = tfb_view1(NULL, dtype, p->n);
    if (dtype == TFB_F32) return;
    to.data = block((size_t)p->n * 2);
    if (tfb_copy(&w->ctx, &from, &to) != TFB_OK) DISAGREE(w, "copy: %s", w->ctx.message);
    free(p->mem);
    p->mem = p->t.data = to.data;
    p->t.dtype = dtype;
}

/* Key (which 0) or value of an update in some layout and dtype; its elements are written
 * to the model's rows too, rounded once more. */
static piece piece_random(world *w, int which, const tfb_idx *n, int form, uint32_t seed,
                          m_row *rows) {
    const tfb_dtype dtype = (tfb_dtype)(form / 3 % 3);
    piece p = piece_new(n, form % 3);
    tfb_idx b, g, t, d;
    for (b = 0; b < n[0]; b++)
        for (g = 0; g < n[1]; g++)
            for (t = 0; t < n[2]; t++)
                for (d = 0; d < n[3]; d++) {
                    const tfb_idx i = g * n[3] + d, row = b * n[2] + t;
                    const tfb_idx number = (row * 2 + which) * WIDTH + i;
                    const float x = rounded(dtype, element(seed, (uint32_t)number));
                    ((float *)p.mem)[b * p.t.stride[0] + g * p.t.stride[1] +
                                     t * p.t.stride[2] + d] = x;
                    rows[row].x[which][i] = rounded((tfb_dtype)w->m.c.dtype, x);
                }
    piece_convert(w, &p, dtype);
    return p;
}

static tfb_tensor positions_of(const update *u) {
    tfb_tensor t = tfb_view2(u->pos, TFB_I32, u->B, u->T);
    if (u->pos_ndim == 2) return t;
    t = tfb_view1(u->pos, TFB_I32, u->T);
    t.ndim = u->pos_ndim;
    return t;
}

static tfb_status put_rows(world *w, update *u, int form, uint32_t seed) {
    static m_row rows[BATCH * ROWS];
    const config *c = &w->m.c;
    const int l = u->layer;
    const tfb_idx kn[] = {u->B, c->G[l], u->T, c->D[l]};
    const tfb_idx vn[] = {u->B, c->G[l], u->T, c->Dv[l]};
    piece key = piece_random(w, 0, kn, form, seed, rows);
    piece value = piece_random(w, 1, vn, form / 9, seed, rows);
    const tfb_tensor counts = tfb_view1(u->counts, TFB_I32, u->B);
    const tfb_tensor positions = positions_of(u);
    tfb_kv_update_opts o;
    tfb_status got;
    memset(&o, 0, sizeof o);
    o.positions = u->pos_ndim < 0 ? NULL : &positions;
    o.counts = u->counted ? &counts : NULL;
    u->rows = rows;
    if (!o.positions && !o.counts)
        got = tfb_kv_append(&w->ctx, &w->kv, l, &key.t, &value.t);
    else got = tfb_kv_update(&w->ctx, &w->kv, l, &key.t, &value.t, &o);
    free(key.mem);
    free(value.mem);
    return BESIDE(w, got, m_update(&w->m, u));
}

/* --- Do both hold the same? --- */
/* Rows each sample can have; of a dynamic cache at least those that each has. */
static void same_capacity(world *w, int l) {
    const config *c = &w->m.c;
    const tfb_idx got = tfb_kv_capacity(&w->kv, l);
    tfb_idx want = NUMBERS, b;
    int wrong;
    for (b = 0; b < w->m.layer[l].batch; b++) want = MIN(want, m_length(&w->m, l, b));
    wrong = w->m.layer[l].batch && got < want;
    if (w->m.is_static) wrong = got != (want = c->max_tokens[l]);
    if (c->window[l]) wrong = got != (want = c->window[l] + c->pinned[l]);
    if (wrong) DISAGREE(w, "layer %d: capacity %ld, not %ld", l, (long)got, (long)want);
}

static void same_state(world *w, int l) {
    const model *m = &w->m;
    const tfb_idx batch = m->layer[l].batch;
    int32_t next[BATCH * 2];
    tfb_tensor positions = tfb_view2(next, TFB_I32, batch, 2);
    tfb_idx b;
    if (tfb_kv_batch(&w->kv, l) != batch)
        DISAGREE(w, "layer %d: batch %ld, the model has %ld", l,
                 (long)tfb_kv_batch(&w->kv, l), (long)batch);
    if (w->why[0]) return;
    if (tfb_kv_length(&w->kv, l) != m_longest(m, l))
        DISAGREE(w, "layer %d: length %ld, the model has %ld", l,
                 (long)tfb_kv_length(&w->kv, l), (long)m_longest(m, l));
    if (batch && tfb_kv_positions(&w->ctx, &w->kv, l, &positions) != TFB_OK)
        DISAGREE(w, "layer %d: %s", l, w->ctx.message);
    for (b = 0; b < batch && !w->why[0]; b++) {
        const tfb_idx length = tfb_kv_length_of(&w->kv, l, b);
        const tfb_idx base = tfb_kv_base(&w->kv, l, b), end = m->layer[l].s[b].end;
        if (length != m_length(m, l, b))
            DISAGREE(w, "layer %d: sample %ld has %ld rows, in the model %ld", l, (long)b,
                     (long)length, (long)m_length(m, l, b));
        if (base != m->layer[l].s[b].base)
            DISAGREE(w, "layer %d: base[%ld] is %ld, in the model %ld", l, (long)b,
                     (long)base, (long)m->layer[l].s[b].base);
        if (next[2 * b] != end || next[2 * b + 1] != end + 1)
            DISAGREE(w, "layer %d: position %d is next for sample %ld, in the model %ld",
                     l, (int)next[2 * b], (long)b, (long)end);
    }
}

static void same_rows(world *w, int l, int which, const float *got, tfb_idx length) {
    const config *c = &w->m.c;
    const tfb_idx G = c->G[l], D = which ? c->Dv[l] : c->D[l];
    tfb_idx b, g, i;
    for (b = 0; b < w->m.layer[l].batch; b++)
        for (g = 0; g < G; g++)
            for (i = 0; i < length; i++, got += D) {
                static const float zeros[WIDTH];
                const float *want = zeros; /* behind a shorter sample */
                if (i < m_length(&w->m, l, b))
                    want =
                        w->m.layer[l].s[b].row[m_number(&w->m, l, b, i)].x[which] + g * D;
                if (memcmp(got, want, (size_t)D * sizeof *got) == 0) continue;
                DISAGREE(
                    w,
                    "layer %d: %s[%ld, %ld, %ld, ..] is {%g, .., %g}, not {%g, .., %g}",
                    l, which ? "value" : "key", (long)b, (long)g, (long)i, (double)got[0],
                    (double)got[D - 1], (double)want[0], (double)want[D - 1]);
                return;
            }
}

static void same_contents(world *w, int l) {
    static float got[2][BATCH * NUMBERS * WIDTH];
    const config *c = &w->m.c;
    const tfb_idx B = w->m.layer[l].batch, length = m_longest(&w->m, l);
    tfb_tensor key = tfb_view4(got[0], TFB_F32, B, c->G[l], length, c->D[l]);
    tfb_tensor value = tfb_view4(got[1], TFB_F32, B, c->G[l], length, c->Dv[l]);
    if (!w->m.layer[l].touched) {
        key.data = value.data = NULL;
        if (tfb_kv_get(&w->ctx, &w->kv, l, &key, &value) != TFB_OK || key.ndim)
            DISAGREE(w, "layer %d is untouched but shows %d dims", l, key.ndim);
        return;
    }
    if (tfb_kv_get(&w->ctx, &w->kv, l, &key, &value) != TFB_OK)
        DISAGREE(w, "layer %d: %s", l, w->ctx.message);
    same_rows(w, l, 0, got[0], length);
    same_rows(w, l, 1, got[1], length);
}

/* Memory follows what is held: at most twice the pages of 64 rows that the longest sample
 * has ever needed and two more for each of the most samples, and a block a layer. */
static void same_memory(world *w) {
    const config *c = &w->m.c;
    tfb_idx most = 1, b;
    int l;
    for (l = 0; l < c->layers; l++) {
        tfb_idx pages = c->window[l] ? m_room(c, l) / 64 + (c->pinned[l] + 63) / 64 : 1;
        for (b = 0; b < w->m.layer[l].batch && !c->window[l]; b++) {
            const m_sample *s = w->m.layer[l].s + b, *then = w->m.then[l].s + b;
            const tfb_idx from = w->m.marked ? MIN(s->base, then->base) : s->base;
            pages = MAX(pages, s->end / 64 - from / 64 + 1);
        }
        w->most_pages[l] = MAX(w->most_pages[l], pages);
        w->most_samples[l] = MAX(w->most_samples[l], w->m.layer[l].batch);
        most += 1 + w->most_samples[l] * (2 * w->most_pages[l] + 2);
    }
    if (w->heap.live > (w->m.is_static ? 0 : most))
        DISAGREE(w, "%ld blocks of memory", w->heap.live);
}

/* States after each operation, all that is held if that is little, else now and then. */
static void same(world *w) {
    tfb_idx floats = 0;
    int l;
    same_memory(w);
    for (l = 0; l < w->m.c.layers && !w->why[0]; l++) {
        same_state(w, l);
        same_capacity(w, l);
        floats += w->m.layer[l].batch * m_longest(&w->m, l) * w->m.c.G[l] *
                  (w->m.c.D[l] + w->m.c.Dv[l]);
    }
    if (w->steps % (1 + floats / 300)) return;
    for (l = 0; l < w->m.c.layers && !w->why[0]; l++) same_contents(w, l);
}

/* --- Attention over the cache and over tensors made of the model's rows. --- */
typedef struct attended {
    int layer;
    tfb_idx T, H, window, offset[BATCH], from[BATCH]; /* rows in play: pinned, from .. */
    tfb_attention_opts o;
    float slopes[4], sinks[4], bias[NUMBERS];
    uint8_t mask[NUMBERS];
    int32_t offsets[BATCH];
    tfb_tensor t_offsets, t_slopes, t_sinks, t_mask, t_bias;
    int too_much; /* of a window or of pinned rows for a ring */
} attended;

/* Which rows a sample's queries may see; 0 if one of them is gone, or unknown to mask and
 * bias. */
static int m_reach(const model *m, attended *a, tfb_idx b) {
    const m_sample *s = m->layer[a->layer].s + b;
    const tfb_idx reach = a->offset[b] - a->window + 1;
    a->from[b] = s->base;
    if (!m->c.window[a->layer] || !a->window || !a->T) return 1;
    a->from[b] = MIN(s->base, MAX(reach, s->floor));
    if (a->o.mask || a->o.bias) return a->from[b] == s->base;
    return a->from[b] >= MIN(s->lost, s->base);
}

static tfb_idx m_rows_from(const model *m, int l, tfb_idx b, tfb_idx from) {
    return m_pins(m, l, b) + MAX(0, m->layer[l].s[b].end - from);
}

/* k or v [B, G, S, D] of the rows in play. */
static float *m_dense(const model *m, const attended *a, int which, tfb_idx S) {
    const int l = a->layer;
    const tfb_idx G = m->c.G[l], D = which ? m->c.Dv[l] : m->c.D[l];
    float *mem = (float *)block((size_t)(m->layer[l].batch * G * S * D) * sizeof *mem);
    float *to = mem;
    tfb_idx b, g, i;
    for (b = 0; b < m->layer[l].batch; b++)
        for (g = 0; g < G; g++)
            for (i = 0; i < S; i++, to += D) {
                const tfb_idx pins = m_pins(m, l, b);
                const tfb_idx n = i < pins ? i : a->from[b] + i - pins;
                if (i < m_rows_from(m, l, b, a->from[b]))
                    memcpy(to, m->layer[l].s[b].row[n].x[which] + g * D,
                           (size_t)D * sizeof *to);
                else memset(to, 0, (size_t)D * sizeof *to);
            }
    return mem;
}

/* tfb_attention with the options that say where the model's rows are. */
static tfb_status m_attention(world *w, const attended *a, const tfb_tensor *q,
                              tfb_tensor *y) {
    const config *c = &w->m.c;
    const int l = a->layer;
    const tfb_idx B = q->shape[0], pinned = c->pinned[l];
    int32_t pos0[BATCH], len[BATCH], offsets[BATCH];
    const tfb_tensor t_pos0 = tfb_view1(pos0, TFB_I32, B);
    const tfb_tensor t_len = tfb_view1(len, TFB_I32, B);
    const tfb_tensor t_offsets = tfb_view1(offsets, TFB_I32, B);
    tfb_attention_opts o = a->o;
    tfb_tensor k, v;
    tfb_status got;
    tfb_idx b, S = 0;
    for (b = 0; b < B; b++) {
        pos0[b] = (int32_t)(a->from[b] - pinned);
        len[b] = (int32_t)m_rows_from(&w->m, l, b, a->from[b]);
        offsets[b] = (int32_t)(a->offset[b] - pos0[b]);
        S = MAX(S, len[b]);
    }
    k = tfb_view4(m_dense(&w->m, a, 0, S), TFB_F32, B, c->G[l], S, c->D[l]);
    v = tfb_view4(m_dense(&w->m, a, 1, S), TFB_F32, B, c->G[l], S, c->Dv[l]);
    o.key_pos0s = &t_pos0;
    o.key_pinned = pinned;
    o.kv_len = &t_len;
    o.offsets = &t_offsets;
    if (!o.two_sided) o.window = a->window;
    if (!o.window_pinned) o.window_pinned = pinned;
    got = tfb_attention(&w->ctx, q, &k, &v, &o, y);
    free(k.data);
    free(v.data);
    return got;
}

static unsigned m_attend(world *w, attended *a, const tfb_tensor *q, const tfb_tensor *y,
                         tfb_status got) {
    const m_layer *layer = w->m.layer + a->layer;
    const size_t bytes = (size_t)tfb_numel(y) * sizeof(float);
    tfb_tensor mine = *y;
    tfb_idx b;
    if (a->too_much) return BIT(TFB_ERR_RANGE);
    for (b = 0; b < layer->batch; b++)
        if (!m_reach(&w->m, a, b)) return BIT(TFB_ERR_RANGE);
    if (got != TFB_OK) return FINE;
    mine.data = block(bytes);
    memset(mine.data, 0x55, bytes);
    if (m_attention(w, a, q, &mine) != TFB_OK)
        DISAGREE(w, "over the model's rows: %s", w->ctx.message);
    else if (memcmp(mine.data, y->data, bytes) != 0)
        DISAGREE(w, "attention differs from tfb_attention over the model's rows");
    free(mine.data);
    return FINE;
}

/* --- Operations. Each returns the cache's status, or SKIPPED. --- */
#define SKIPPED ((tfb_status)1)
typedef tfb_status (*run_fn)(world *w, const int *a);

/* Samples of the next update: what the layer has, else what its neighbours have, rarely
 * something else. */
static tfb_idx batch_for(const world *w, int l, int odd) {
    int i;
    if (odd == 15) return 1 + (w->m.layer[l].batch % 4);
    if (w->m.layer[l].touched) return w->m.layer[l].batch;
    for (i = 0; i < w->m.c.layers; i++)
        if (w->m.layer[i].touched && odd != 14) return w->m.layer[i].batch;
    return odd == 13 ? 1 + w->m.c.batch : w->m.c.batch;
}

static void update_begin(world *w, update *u, const int *a) {
    u->layer = a[0] % w->m.c.layers;
    u->T = a[1];
    u->B = batch_for(w, u->layer, a[4] % 16);
    u->pos_ndim = -1;
    u->counted = 0;
}

/* Numbers in the model are few; refused updates may be of any size. */
static tfb_status put_if_it_fits(world *w, update *u, const int *a) {
    tfb_idx end[BATCH], b;
    m_update_ends(&w->m, u, end);
    for (b = 0; b < u->B; b++)
        if (end[b] > NUMBERS && !m_update_wrong(&w->m, u, end)) return SKIPPED;
    return put_rows(w, u, a[3], (uint32_t)a[2]);
}

static tfb_status op_append(world *w, const int *a) {
    update u;
    update_begin(w, &u, a);
    say(w, "append(layer %d, %ld rows of %ld samples", u.layer, (long)u.T, (long)u.B);
    return put_if_it_fits(w, &u, a);
}

static void update_counts(update *u, int seed) {
    tfb_idx b;
    u->counted = 1;
    for (b = 0; b < u->B; b++)
        u->counts[b] = (int32_t)(mix((uint32_t)seed, (uint32_t)b) % (uint32_t)(u->T + 1));
    if (seed % 8 == 7) u->counts[u->B / 2] = (int32_t)(seed % 16 == 7 ? -1 : u->T + 1);
}

static tfb_status op_counts(world *w, const int *a) {
    update u;
    update_begin(w, &u, a);
    update_counts(&u, a[5]);
    say(w, "update(layer %d, %ld rows of %ld samples", u.layer, (long)u.T, (long)u.B);
    say_numbers(w, "counts", u.counts, u.B);
    return put_if_it_fits(w, &u, a);
}

/* Positions in a pattern, near the rows of sample 0. */
enum { IN_TURN, BACKWARDS, ANYWHERE, EQUAL, FAR_AWAY, ONE_ILLEGAL, PATTERNS };

static int32_t position(const world *w, const update *u, int pattern, int start,
                        tfb_idx i) {
    const m_sample *s = w->m.layer[u->layer].s;
    const int ring = w->m.c.window[u->layer] > 0;
    const tfb_idx end = ring ? s->end : s->end - s->base, low = ring ? s->base : 0;
    const tfb_idx span = MAX(0, end - low) + 4;
    const tfb_idx from = low + start % span;
    const uint32_t u32 = mix((uint32_t)start, (uint32_t)i);
    switch (pattern) {
    case BACKWARDS: return (int32_t)(from + u->T - 1 - i % MAX(1, u->T));
    case ANYWHERE: return (int32_t)(low + (tfb_idx)(u32 % (uint32_t)span));
    case EQUAL: return (int32_t)from;
    case FAR_AWAY: return (int32_t)(from + (i % 3 == 1 ? 70 : 0));
    default: return (int32_t)(from + i);
    }
}

static int32_t illegal_position(const world *w, const update *u, int start) {
    const m_sample *s = w->m.layer[u->layer].s;
    if (w->m.c.window[u->layer] && start % 2 && s->base > w->m.c.pinned[u->layer])
        return (int32_t)s->base - 1;
    if (w->m.is_static && start % 4 == 0) return INT32_MAX;
    return -1 - start % 3;
}

static tfb_status op_update(world *w, const int *a) {
    const int pattern = a[5] % PATTERNS, start = a[5] / PATTERNS;
    update u;
    tfb_idx n, i;
    update_begin(w, &u, a);
    u.pos_ndim = a[4] / 16 % 3;
    if (u.pos_ndim == 0) u.T = 1;
    n = u.pos_ndim == 2 ? u.B * u.T : u.T;
    for (i = 0; i < n; i++) u.pos[i] = position(w, &u, pattern, start, i);
    if (pattern == ONE_ILLEGAL && n) u.pos[n / 2] = illegal_position(w, &u, start);
    say(w, "update(layer %d, %ld rows of %ld samples", u.layer, (long)u.T, (long)u.B);
    say_numbers(w, "positions", u.pos, n);
    if (a[4] > 47) update_counts(&u, a[5]);
    if (u.counted) say_numbers(w, "counts", u.counts, u.B);
    return put_if_it_fits(w, &u, a);
}

/* A number for all samples, or one each, of both signs if wanted. */
typedef struct chosen {
    many x;
    int32_t each[BATCH];
    tfb_tensor t;
} chosen;

static const tfb_tensor *choose(world *w, chosen *c, int n, int form, int seed) {
    int l = 0;
    tfb_idx b;
    memset((void *)c, 0, sizeof *c);
    c->x.one = n;
    say(w, "%d", n);
    if (!form) return NULL;
    while (l < w->m.c.layers - 1 && !w->m.layer[l].touched) l++;
    c->x.n = form == 9 ? 1 + seed % BATCH : MAX(1, w->m.layer[l].batch);
    for (b = 0; b < c->x.n; b++) {
        const int less = (int)(mix((uint32_t)seed, (uint32_t)b) % (unsigned)(abs(n) + 1));
        c->each[b] = n < 0 ? -less : less;
    }
    c->x.each = c->each;
    c->t = tfb_view1(c->each, TFB_I32, c->x.n);
    say_numbers(w, "each", c->each, c->x.n);
    return &c->t;
}

static tfb_status op_crop(world *w, const int *a) {
    chosen c;
    const tfb_tensor *each;
    tfb_status got;
    say(w, "crop(");
    each = choose(w, &c, a[3] % 2 ? -a[0] : a[0], a[1], a[2]);
    got = tfb_kv_crop(&w->ctx, &w->kv, c.x.one, each);
    return BESIDE(w, got, m_crop(&w->m, &c.x));
}

static tfb_status op_keep_last(world *w, const int *a) {
    chosen c;
    const tfb_tensor *each;
    tfb_status got;
    say(w, "keep_last(");
    each = choose(w, &c, a[3] % 16 == 15 ? -a[0] : a[0], a[1], a[2]);
    got = tfb_kv_keep_last(&w->ctx, &w->kv, c.x.one, each);
    return BESIDE(w, got, m_keep_last(&w->m, &c.x));
}

static tfb_idx any_batch(const world *w) { /* of a layer that has one, else 0 */
    int l;
    for (l = 0; l < w->m.c.layers; l++)
        if (w->m.layer[l].touched) return w->m.layer[l].batch;
    return 0;
}

static tfb_status op_select(world *w, const int *a) {
    int32_t index[BATCH];
    const tfb_idx n = 1 + a[0] % BATCH, batch = MAX(1, any_batch(w));
    const tfb_tensor t = tfb_view1(index, TFB_I32, n);
    tfb_status got;
    tfb_idx i;
    for (i = 0; i < n; i++)
        index[i] = (int32_t)(mix((uint32_t)a[1], (uint32_t)i) % (uint32_t)batch);
    if (a[2] == 7) index[n / 2] = (int32_t)(a[1] % 2 ? batch : -1);
    say(w, "select(%ld", (long)n);
    say_numbers(w, "index", index, n);
    got = tfb_kv_select(&w->ctx, &w->kv, &t);
    return BESIDE(w, got, m_select(&w->m, index, n));
}

static tfb_status op_repeat(world *w, const int *a) {
    tfb_status got;
    int l;
    say(w, "repeat_interleave(%d", a[0]);
    for (l = 0; l < w->m.c.layers; l++)
        if (w->m.layer[l].batch * a[0] > BATCH && !w->m.is_static) return SKIPPED;
    got = tfb_kv_repeat_interleave(&w->ctx, &w->kv, a[0]);
    return BESIDE(w, got, m_repeat(&w->m, a[0]));
}

static tfb_status op_fork(world *w, const int *a) {
    tfb_status got;
    say(w, "fork(%d, %d", a[0] - 1, a[1]);
    got = tfb_kv_fork(&w->ctx, &w->kv, a[0] - 1, a[1]);
    return BESIDE(w, got, m_fork(&w->m, a[0] - 1, a[1]));
}

typedef struct shift {
    tfb_idx b, from, to; /* rows of tfb_kv_get; b -1: of all samples */
    int32_t delta;
    tfb_rope_opts rope;
} shift;

/* The keys of a row as tfb_rope turns them, rounded again. */
static void m_turn(world *w, int l, const shift *by, m_row *row) {
    const config *c = &w->m.c;
    const tfb_tensor delta = tfb_view1(&by->delta, TFB_I32, 1);
    tfb_tensor key = tfb_view4(row->x[0], TFB_F32, 1, c->G[l], 1, c->D[l]);
    tfb_rope_opts o = by->rope;
    int i;
    o.positions = &delta;
    if (tfb_rope(&w->ctx, &key, &o, &key) != TFB_OK)
        DISAGREE(w, "rope: %s", w->ctx.message);
    for (i = 0; i < c->G[l] * c->D[l]; i++)
        row->x[0][i] = rounded((tfb_dtype)c->dtype, row->x[0][i]);
}

static unsigned m_shift_wrong(const model *m, const shift *by) {
    unsigned want = 0;
    int l;
    if (m->marked) want |= CANNOT;
    if (by->from > by->to || by->from < 0) want |= BIT(TFB_ERR_RANGE);
    for (l = 0; l < m->c.layers; l++) {
        if (!m->layer[l].touched) continue;
        if (by->b < -1 || by->b >= m->layer[l].batch) want |= BIT(TFB_ERR_RANGE);
        if (by->rope.dims > m->c.D[l]) want |= CANNOT | BIT(TFB_ERR_SHAPE);
    }
    return want;
}

/* What a ring still has of rows that left its window is not turned with the others. */
static unsigned m_shift(world *w, const shift *by) {
    model *m = &w->m;
    const unsigned wrong = m_shift_wrong(m, by);
    int l;
    tfb_idx b, i;
    for (l = 0; l < m->c.layers && !wrong; l++)
        for (b = 0; b < m->layer[l].batch; b++) {
            m_sample *s = m->layer[l].s + b;
            const tfb_idx to = MIN(by->to, m_length(m, l, b));
            if (by->b >= 0 && by->b != b) continue;
            for (i = by->from; i < to; i++)
                m_turn(w, l, by, s->row + m_number(m, l, b, i));
            if (m->c.window[l]) s->lost = MAX(s->lost, s->base);
        }
    return wrong ? wrong : FINE;
}

static tfb_status op_shift(world *w, const int *a) {
    shift by;
    tfb_status got;
    memset(&by, 0, sizeof by);
    by.b = a[0] - 1;
    by.from = a[1];
    by.to = a[4] == 9 ? a[1] - 1 : a[1] + a[2];
    by.delta = a[3] - 8;
    by.rope.dims = 2 + a[4] % 2 * 2;
    by.rope.interleaved = a[4] / 2 % 2;
    say(w, "shift(sample %ld, rows %ld to %ld by %d, dims %d", (long)by.b, (long)by.from,
        (long)by.to, (int)by.delta, by.rope.dims);
    got = tfb_kv_shift(&w->ctx, &w->kv, by.b, by.from, by.to, by.delta, &by.rope);
    return BESIDE(w, got, m_shift(w, &by));
}

static tfb_status op_mark(world *w, const int *a) {
    const tfb_status got = tfb_kv_mark(&w->ctx, &w->kv);
    (void)a;
    say(w, "mark(");
    return BESIDE(w, got, m_mark(&w->m));
}

/* Rows that every sample can keep. */
static int rows_since(const world *w) {
    const model *m = &w->m;
    tfb_idx least = NUMBERS, b;
    int l;
    for (l = 0; m->marked && l < m->c.layers; l++)
        for (b = 0; b < m->layer[l].batch; b++)
            least = MIN(least, m->layer[l].s[b].end - m->then[l].s[b].end);
    return least == NUMBERS ? 0 : (int)least;
}

/* keep is NULL, one for all, or one each. */
static tfb_status op_rollback(world *w, const int *a) {
    const int most = rows_since(w), n = a[3] == 15 ? most + 1 : a[0] % (most + 1);
    const int form = a[1] ? 1 + a[1] % 2 : 0;
    chosen c;
    const tfb_tensor *keep;
    tfb_status got;
    say(w, "rollback(");
    keep = choose(w, &c, !form ? 0 : a[3] == 14 ? -n : n, form == 2 ? a[1] : 0, a[2]);
    if (form == 1) {
        c.each[0] = (int32_t)c.x.one;
        c.t = tfb_view1(c.each, TFB_I32, 1);
        keep = &c.t;
    }
    got = tfb_kv_rollback(&w->ctx, &w->kv, keep);
    return BESIDE(w, got, m_rollback(&w->m, &c.x));
}

static tfb_status op_commit(world *w, const int *a) {
    (void)a;
    say(w, "commit(");
    tfb_kv_commit(&w->kv);
    m_commit(&w->m);
    return TFB_OK;
}

static tfb_status op_reset(world *w, const int *a) {
    (void)a;
    say(w, "reset(");
    tfb_kv_reset(&w->kv);
    m_reset(&w->m);
    return TFB_OK;
}

/* --- Making caches; saving and loading. --- */
static void cache_free(tfb_kv *kv, void **mem) {
    tfb_kv_free(kv);
    free(*mem);
    *mem = NULL;
}

/* A cache of the configured shapes and either kind; mem is the static one's memory. */
static tfb_status cache_new(world *w, tfb_kv *kv, int is_static, void **mem) {
    const config *c = &w->m.c;
    tfb_kv_shape shape[LAYERS];
    tfb_kv_opts o;
    tfb_status got;
    int l;
    memset((void *)shape, 0, sizeof shape);
    memset((void *)&o, 0, sizeof o);
    o.layers = c->layers;
    o.shapes = shape;
    o.dtype = (tfb_dtype)c->dtype;
    o.ragged = c->ragged;
    o.once = c->once;
    for (l = 0; l < c->layers; l++) {
        shape[l].batch = c->batch;
        shape[l].kv_heads = c->G[l];
        shape[l].head_dim = c->D[l];
        shape[l].v_dim = c->Dv[l];
        shape[l].max_tokens = c->window[l] ? 0 : c->max_tokens[l];
        shape[l].window = c->window[l];
        shape[l].pinned = c->pinned[l];
        shape[l].chunk = c->chunk[l];
    }
    *mem = NULL;
    if (is_static) {
        const size_t bytes = tfb_kv_bytes(&o);
        *mem = block(bytes);
        memset(*mem, 0x7F, bytes);
        return tfb_kv_init_static(&w->ctx, kv, &o, *mem, bytes);
    }
    w->ctx.alloc_user = &w->heap; /* scratch is counted elsewhere */
    got = tfb_kv_init(&w->ctx, kv, &o);
    w->ctx.alloc_user = &w->scratch;
    return got;
}

enum { WHOLE, CUT, CHANGED, TOO_SMALL };

/* Into the same cache, or into a fresh one, perhaps of the other kind, that takes its
 * place. */
static tfb_status load_into(world *w, int where, const void *save, size_t bytes,
                            int is_static) {
    tfb_kv fresh;
    void *mem;
    tfb_status got;
    if (where == 0) {
        got = tfb_kv_load(&w->ctx, &w->kv, save, bytes);
        return got;
    }
    got = cache_new(w, &fresh, is_static, &mem);
    if (got != TFB_OK) {
        free(mem);
        return got;
    }
    got = tfb_kv_load(&w->ctx, &fresh, save, bytes);
    if (got == TFB_OK) {
        tfb_kv old = w->kv;
        void *old_mem = w->mem;
        w->kv = fresh;
        w->mem = mem;
        fresh = old;
        mem = old_mem;
    }
    cache_free(&fresh, &mem);
    return got;
}

static unsigned m_save_load(world *w, int where, int harm, int is_static) {
    const int marked = w->m.marked;
    unsigned want;
    if (marked && where == 0) return CANNOT;
    if (harm != WHOLE) return BIT(TFB_ERR_FORMAT);
    w->m.marked = 0; /* a fresh cache has no mark */
    want = m_load(&w->m, &w->m.c, is_static);
    if (want != FINE) w->m.marked = marked;
    return want;
}

static tfb_status op_save_load(world *w, const int *a) {
    const int where = a[0] % 3, harm = a[1] % 8 > 3 ? WHOLE : a[1] % 8;
    const int is_static = where == 2 ? !w->m.is_static : w->m.is_static;
    const size_t off = (size_t)(a[2] % 3); /* any address will do */
    size_t bytes = tfb_kv_save_bytes(&w->kv);
    char *const mem = (char *)block(bytes + off), *const save = mem + off;
    tfb_status got =
        tfb_kv_save(&w->ctx, &w->kv, save, harm == TOO_SMALL ? bytes - 1 : bytes);
    say(w, "save and load(%s%s%s", where ? "a fresh " : "itself",
        !where      ? ""
        : is_static ? "static one"
                    : "dynamic one",
        harm == CUT       ? ", cut off"
        : harm == CHANGED ? ", changed"
                          : "");
    if (harm == TOO_SMALL) {
        free(mem);
        return verdict(w, got, BIT(TFB_ERR_RANGE));
    }
    verdict(w, got, FINE);
    if (harm == CHANGED) save[mix((uint32_t)a[2], 0) % bytes] ^= (char)(1 << a[2] % 7);
    if (harm == CUT) bytes = mix((uint32_t)a[2], 0) % bytes;
    got = load_into(w, where, save, bytes, is_static);
    free(mem);
    return BESIDE(w, got, m_save_load(w, where, harm, is_static));
}

/* --- Attention as an operation. --- */
enum {
    A_CAUSAL = 1,
    A_WINDOW = 2,
    A_OFFSET = 4,
    A_ALIBI = 8,
    A_SINKS = 16,
    A_CAP = 32,
    A_TWO_SIDED = 64,
    A_MASK = 128,
    A_BIAS = 256,
    A_PINNED = 512,
    A_ALL = 1024
};

/* Which rows a query sees; a ring takes no more than its own window. */
static void attend_window(attended *a, int bits, int seed, tfb_idx ring, tfb_idx pinned) {
    const tfb_idx most = ring ? ring + (seed % 16 == 0) : 40;
    const tfb_idx window = 1 + seed % most;
    if (bits & A_CAUSAL) {
        a->o.causal = TFB_CAUSAL_BOTTOM_RIGHT;
        a->window = ring;
    }
    if (bits & A_TWO_SIDED) {
        a->window = window;
        a->o.two_sided = 1;
        a->o.left = window - 1;
        a->o.right = seed % 7;
    } else if ((bits & A_WINDOW) && (bits & A_CAUSAL)) a->window = a->o.window = window;
    if (bits & A_PINNED) a->o.window_pinned = seed % 5;
    a->too_much = ring && (a->window > ring || a->o.window_pinned > pinned);
}

/* Columns are the rows of tfb_kv_get. */
static void attend_mask(attended *a, int bits, int seed, tfb_idx S) {
    tfb_idx i;
    a->t_mask = tfb_view1(a->mask, TFB_U8, S);
    a->t_bias = tfb_view1(a->bias, TFB_F32, S);
    for (i = 0; i < S; i++) {
        a->mask[i] = mix((uint32_t)seed, (uint32_t)i) % 4 > 0;
        a->bias[i] = element((uint32_t)seed, (uint32_t)i);
    }
    if (bits & A_MASK) a->o.mask = &a->t_mask;
    if (bits & A_BIAS) a->o.bias = &a->t_bias;
}

static void attend_options(world *w, attended *a, int bits, int seed) {
    const tfb_idx B = w->m.layer[a->layer].batch, ring = w->m.c.window[a->layer];
    tfb_idx i;
    for (i = 0; i < a->H; i++) {
        a->slopes[i] = (float)(1 + mix((uint32_t)seed, (uint32_t)i) % 8) / 16;
        a->sinks[i] = (float)(mix((uint32_t)seed, (uint32_t)i) % 9) - 4;
    }
    for (i = 0; i < B; i++) {
        a->offset[i] = w->m.layer[a->layer].s[i].end - a->T;
        if (bits & A_OFFSET)
            a->offset[i] += (tfb_idx)(mix((uint32_t)seed, (uint32_t)i) % 4) - 2;
        a->offsets[i] = (int32_t)a->offset[i];
    }
    a->t_slopes = tfb_view1(a->slopes, TFB_F32, a->H);
    a->t_sinks = tfb_view1(a->sinks, TFB_F32, a->H);
    a->t_offsets = tfb_view1(a->offsets, TFB_I32, B);
    if (bits & A_OFFSET) a->o.offsets = &a->t_offsets;
    if (bits & A_ALIBI) a->o.alibi = &a->t_slopes;
    if (bits & A_SINKS) a->o.sinks = &a->t_sinks;
    if (bits & A_CAP) a->o.softcap = 2;
    attend_window(a, bits, seed, ring, w->m.c.pinned[a->layer]);
    attend_mask(a, bits, seed, m_longest(&w->m, a->layer));
}

static tfb_status op_attend(world *w, const int *a) {
    const config *c = &w->m.c;
    attended at;
    tfb_tensor q, y;
    tfb_status got;
    tfb_idx i, B;
    memset((void *)&at, 0, sizeof at);
    at.layer = a[0] % c->layers;
    at.T = a[1] + (a[4] > 78 ? 60 : 0); /* seldom many: they take long */
    at.H = c->G[at.layer] * (1 + a[4] % 2);
    B = w->m.layer[at.layer].batch;
    attend_options(w, &at, a[2], a[3]);
    say(w, "attention(layer %d, %ld queries, %s%s, window %ld, options %d", at.layer,
        (long)at.T, at.o.causal ? "causal" : "not causal",
        at.o.two_sided ? ", two-sided" : "", (long)at.window, a[2]);
    B = MAX(1, B);
    q = tfb_view4(NULL, TFB_F32, B, at.H, at.T, c->D[at.layer]);
    y = tfb_view4(NULL, TFB_F32, B, at.H, at.T, c->Dv[at.layer]);
    q.data = block((size_t)tfb_numel(&q) * sizeof(float));
    y.data = block((size_t)tfb_numel(&y) * sizeof(float));
    for (i = 0; i < tfb_numel(&q); i++)
        ((float *)q.data)[i] = element((uint32_t)a[3], (uint32_t)i);
    got = tfb_kv_attention(&w->ctx, &w->kv, at.layer, &q, &at.o, &y);
    if (!w->m.layer[at.layer].touched)
        got = BESIDE(w, got, BIT(TFB_ERR_ARG) | (at.too_much ? BIT(TFB_ERR_RANGE) : 0));
    else got = BESIDE(w, got, m_attend(w, &at, &q, &y, got));
    free(q.data);
    free(y.data);
    return got;
}

/* --- Calls that are wrong whatever the cache holds; memory that is not to be had. --- */
static tfb_status op_wrong(world *w, const int *a) {
    static const char *const what[] = {
        "a layer too many", "a head too many",           "a dim too many",
        "keys of I32",      "two positions for one row", "layer -1"};
    const config *c = &w->m.c;
    const int l = a[0] % c->layers, kind = a[1] % (int)LEN(what);
    const tfb_idx B = batch_for(w, l, 0), G = c->G[l] + (kind == 1);
    float mem[BATCH * 3 * WIDTH] = {0};
    int32_t two[2] = {0, 1};
    tfb_tensor key = tfb_view4(mem, kind == 3 ? TFB_I32 : TFB_F32, B, G, 1, c->D[l]);
    tfb_tensor value = tfb_view4(mem, TFB_F32, B, G, 1, c->Dv[l]);
    tfb_tensor positions = tfb_view1(two, TFB_I32, kind == 4 ? 2 : 1);
    tfb_kv_update_opts o;
    unsigned want = BIT(TFB_ERR_SHAPE);
    memset(&o, 0, sizeof o);
    o.positions = &positions;
    if (kind == 2) key.shape[3]++, key.stride[2]++;
    say(w, "update(layer %d, %s", l, what[kind]);
    if (kind == 3) want = BIT(TFB_ERR_DTYPE);
    if (kind == 0 || kind == 5) want = CANNOT;
    if ((kind == 1 || kind == 2) && !w->m.is_static && !w->m.layer[l].touched)
        return SKIPPED; /* would be its shape from now on */
    return BESIDE(w,
                  tfb_kv_update(&w->ctx, &w->kv,
                                kind == 0   ? c->layers
                                : kind == 5 ? -1
                                            : l,
                                &key, &value, &o),
                  want);
}

static tfb_status op_starve(world *w, const int *a) {
    w->starve = 1 + a[0];
    say(w, "no memory from allocation %d of the next operation on", w->starve);
    return TFB_OK;
}

/* --- All of them. Arguments are 0 .. most - 1; if most is negative, mostly few. --- */
typedef struct operation {
    const char *name;
    run_fn run;
    int weight, outcomes; /* what can come of it */
    int most[ARGS];
} operation;

enum { FORMS = 81, SEEDS = 1 << 16, DONE = 1, REFUSED = 2, BOTH = 3 };
static const operation operations[] = {
    {"append", op_append, 30, BOTH, {LAYERS, -ROWS, SEEDS, FORMS, 16, 0}},
    {"counts", op_counts, 12, BOTH, {LAYERS, -ROWS, SEEDS, FORMS, 16, SEEDS}},
    {"update", op_update, 30, BOTH, {LAYERS, -40, SEEDS, FORMS, 60, SEEDS}},
    {"crop", op_crop, 9, BOTH, {-40, 10, SEEDS, 2, 0, 0}},
    {"keep_last", op_keep_last, 8, BOTH, {-40, 10, SEEDS, 16, 0, 0}},
    {"select", op_select, 8, BOTH, {BATCH, SEEDS, 8, 0, 0, 0}},
    {"repeat", op_repeat, 4, BOTH, {4, 0, 0, 0, 0, 0}},
    {"fork", op_fork, 6, BOTH, {5, 5, 0, 0, 0, 0}},
    {"shift", op_shift, 5, BOTH, {4, -40, -40, 17, 10, 0}},
    {"mark", op_mark, 7, DONE, {0, 0, 0, 0, 0, 0}},
    {"rollback", op_rollback, 10, BOTH, {12, 10, SEEDS, 16, 0, 0}},
    {"commit", op_commit, 4, DONE, {0, 0, 0, 0, 0, 0}},
    {"reset", op_reset, 2, DONE, {0, 0, 0, 0, 0, 0}},
    {"save+load", op_save_load, 5, BOTH, {3, 8, SEEDS, 0, 0, 0}},
    {"attention", op_attend, 6, BOTH, {LAYERS, -17, A_ALL, SEEDS, 80, 0}},
    {"wrong", op_wrong, 3, REFUSED, {LAYERS, 6, 0, 0, 0, 0}},
    {"starve", op_starve, 4, DONE, {4, 0, 0, 0, 0, 0}},
};
static long succeeded[LEN(operations)], refused[LEN(operations)];

typedef struct sequence {
    config c;
    int n;
    op op[LONGEST];
} sequence;

static int argument(int most) {
    if (most < 0) return argument(t_rand() % 8 ? MIN(6, -most) : -most);
    return most ? (int)t_int(0, most - 1) : 0;
}

static op op_random(void) {
    int total = 0, i, pick;
    op o;
    for (i = 0; i < (int)LEN(operations); i++) total += operations[i].weight;
    pick = (int)t_int(0, total - 1);
    for (o.code = 0; pick >= operations[o.code].weight; o.code++)
        pick -= operations[o.code].weight;
    for (i = 0; i < ARGS; i++) o.a[i] = argument(operations[o.code].most[i]);
    return o;
}

static config config_random(void) {
    config c;
    int l;
    const int rings = (int)t_int(0, 3);
    memset(&c, 0, sizeof c);
    c.is_static = (int)t_int(0, 1);
    c.ragged = (int)t_int(0, 1);
    c.once = t_int(0, 39) == 0;
    c.dtype = (int)t_int(0, 2);
    c.layers = (int)t_int(1, LAYERS);
    c.batch = (int)t_int(1, 4);
    for (l = 0; l < c.layers; l++) {
        c.G[l] = (int)t_int(1, 2);
        c.D[l] = (int)t_int(1, 5);
        c.Dv[l] = (int)t_int(1, 5);
        c.max_tokens[l] = (int)(t_int(0, 3) ? t_int(5, 40) : t_int(60, 140));
        if (rings == 0 || (rings == 1 && t_int(0, 1))) continue;
        c.window[l] = (int)(t_int(0, 3) ? t_int(1, 20) : t_int(60, 130));
        if (t_int(0, 1)) c.pinned[l] = (int)(t_int(0, 3) ? t_int(1, 5) : t_int(60, 70));
        if (t_int(0, 2) == 0) c.chunk[l] = (int)t_int(1, 130);
    }
    return c;
}

/* --- Running a sequence. --- */
static void starve(world *w) {
    w->heap.fail_at = w->starve ? w->heap.calls + w->starve : 0;
    w->scratch.fail_at = w->starve ? w->scratch.calls + w->starve : 0;
    w->starve = 0;
}

static int step(world *w, const op *o, int count) { /* do both still agree? */
    const operation *what = operations + o->code;
    tfb_status got;
    starve(w);
    say(w, "  ");
    got = what->run(w, o->a);
    starve(w);
    if (what->run == op_starve) w->starve = 1 + o->a[0];
    w->steps++;
    if (!w->why[0] && got != SKIPPED) same(w);
    say(w, "%s%s\n",
        got == SKIPPED  ? "), skipped"
        : got == TFB_OK ? ")"
                        : "): ",
        got < 0 ? tfb_status_text(got) : "");
    if (count && got != SKIPPED) {
        succeeded[o->code] += got == TFB_OK;
        refused[o->code] += got != TFB_OK;
    }
    return !w->why[0];
}

static void world_begin(world *w, const config *c) {
    t_ctx(&w->ctx, &w->scratch);
    memset(&w->heap, 0, sizeof w->heap);
    memset((void *)w->most_pages, 0, sizeof w->most_pages);
    memset((void *)w->most_samples, 0, sizeof w->most_samples);
    w->starve = 0;
    w->steps = 0;
    w->why[0] = 0;
    m_init(&w->m, c);
    if (cache_new(w, &w->kv, c->is_static, &w->mem) != TFB_OK)
        DISAGREE(w, "no cache: %s", w->ctx.message);
}

static void world_end(world *w) {
    cache_free(&w->kv, &w->mem);
    tfb_ctx_free(&w->ctx);
    if (w->heap.live || w->scratch.live)
        DISAGREE(w, "%ld blocks of the cache and %ld of scratch are not given back",
                 w->heap.live, w->scratch.live);
}

static world earth;

/* The number of the operation after which cache and model differ; s->n if it is only
 * seen at the end; -1 if they never do. */
static int run(const sequence *s, int count) {
    world *w = &earth;
    int i = 0, l;
    world_begin(w, &s->c);
    while (i < s->n && !w->why[0])
        if (step(w, s->op + i, count)) i++;
    w->steps = 0;
    for (l = 0; l < s->c.layers && !w->why[0]; l++) same_contents(w, l);
    world_end(w);
    return w->why[0] ? i : -1;
}

#ifndef _WIN32
/* The same in a child, so that what crashes can be shrunk too. */
static int run_apart(const sequence *s) {
    FILE *result = tmpfile();
    int at = s->n;
    pid_t child;
    if (!result) exit(99);
    fflush(NULL);
    child = fork();
    if (child == 0) {
        at = run(s, 0);
        fwrite(&at, sizeof at, 1, result);
        fwrite(earth.why, sizeof earth.why, 1, result);
        fclose(result);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    rewind(result);
    strcpy(earth.why, "it crashes");
    if (fread(&at, sizeof at, 1, result) == 1 &&
        fread(earth.why, sizeof earth.why, 1, result) != 1)
        exit(99);
    fclose(result);
    return at;
}
#else
static int run_apart(const sequence *s) {
    return run(s, 0);
}
#endif

/* --- Shrinking. --- */
static int apart; /* crashes are looked for */

static int still_fails(sequence *s) { /* cut behind where it fails */
    const int at = apart ? run_apart(s) : run(s, 0);
    if (at >= 0 && at < s->n) s->n = at + 1;
    return at >= 0;
}

static int try_without(sequence *s, int from, int n) {
    sequence less = *s;
    if (from + n > s->n) n = s->n - from;
    memmove(less.op + from, less.op + from + n,
            (size_t)(s->n - from - n) * sizeof *s->op);
    less.n -= n;
    if (!still_fails(&less)) {
        less.c.is_static = !s->c.is_static; /* what went may have changed the kind */
        if (n > 1 || !still_fails(&less)) return 0;
    }
    *s = less;
    return 1;
}

/* Pieces are removed, halves first and single operations last. */
static int shrink_operations(sequence *s) {
    int size, from, changed = 0;
    for (size = MAX(1, s->n / 2); size; size /= 2)
        for (from = 0; from < s->n;)
            if (try_without(s, from, size)) changed = 1;
            else from += size;
    return changed;
}

/* Smaller values of one int of the sequence: the smallest, half as far, one less. */
static int shrink_int(sequence *s, int *field, int least) {
    int changed = 0, i;
    for (i = 0; i < 3 && *field > least; i++) {
        const sequence was = *s;
        const int now = *field;
        *field = i == 0 ? least : i == 1 ? least + (now - least) / 2 : now - 1;
        if (*field != now && still_fails(s)) changed = 1, i = -1;
        else *s = was;
    }
    return changed;
}

static int shrink_config(sequence *s) {
    config *c = &s->c;
    int changed = 0, l;
    changed |= shrink_int(s, &c->layers, 1);
    changed |= shrink_int(s, &c->once, 0);
    changed |= shrink_int(s, &c->is_static, 0);
    changed |= shrink_int(s, &c->ragged, 0);
    changed |= shrink_int(s, &c->dtype, 0);
    changed |= shrink_int(s, &c->batch, 1);
    for (l = 0; l < c->layers; l++) {
        changed |= shrink_int(s, c->G + l, 1);
        changed |= shrink_int(s, c->D + l, 1);
        changed |= shrink_int(s, c->Dv + l, 1);
        changed |= shrink_int(s, c->max_tokens + l, 1);
        changed |= shrink_int(s, c->pinned + l, 0);
        changed |= shrink_int(s, c->chunk + l, 0);
        if (!c->pinned[l] && !c->chunk[l]) changed |= shrink_int(s, c->window + l, 0);
        else changed |= shrink_int(s, c->window + l, 1);
    }
    return changed;
}

static int shrink_arguments(sequence *s) {
    int i, j, changed = 0;
    for (i = 0; i < s->n; i++)
        for (j = 0; j < ARGS && i < s->n; j++)
            changed |= shrink_int(s, s->op[i].a + j, 0);
    return changed;
}

static void shrink(sequence *s) {
    int rounds = 0, changed = still_fails(s);
    while (changed && rounds++ < 20) {
        changed = shrink_operations(s);
        changed |= shrink_config(s);
        changed |= shrink_arguments(s);
    }
}

static void say_config(world *w, const config *c) {
    static const char *const dtypes[] = {"F32", "F16", "BF16"};
    int l;
    say(w, "  a %s%s%s cache of %s, batch %d:", c->is_static ? "static" : "dynamic",
        c->ragged ? ", ragged" : "", c->once ? ", filled once" : "", dtypes[c->dtype],
        c->batch);
    for (l = 0; l < c->layers; l++) {
        say(w, "%s G %d, D %d, Dv %d", l ? ";" : "", c->G[l], c->D[l], c->Dv[l]);
        if (c->window[l])
            say(w, ", window %d, pinned %d, chunk %d", c->window[l], c->pinned[l],
                c->chunk[l]);
        else if (c->is_static) say(w, ", at most %d rows", c->max_tokens[l]);
    }
    say(w, "\n");
}

/* Runs it once more and writes down what it does. */
static void describe(sequence *s, char *text, size_t bytes) {
    world *w = &earth;
    FILE *log = tmpfile();
    if (!log) exit(99);
    w->log = log;
    say_config(w, &s->c);
    still_fails(s);
    say(w, "  %s\n", w->why);
    w->log = NULL;
    rewind(log);
    text[fread(text, 1, bytes - 1, log)] = 0;
    fclose(log);
}

/* --- The tests. --- */
static sequence sequence_random(void) {
    sequence s;
    int i;
    s.c = config_random();
    s.n = (int)t_int(20, LONGEST);
    for (i = 0; i < s.n; i++) s.op[i] = op_random();
    return s;
}

static uint32_t first_seed = 12345;
static int all_done;

static void random_operations(void) {
    static char text[20000];
    long done = 0, sequences = 0;
    t_seed = first_seed;
    while (done < OPERATIONS && !t_bad) {
        sequence s = sequence_random();
        const uint32_t seed = t_seed;
        if ((apart && run_apart(&s) >= 0) || run(&s, 1) >= 0) {
            shrink(&s);
            describe(&s, text, sizeof text);
            CHECK(0, "sequence %ld, %d operations after shrinking:\n%s", sequences, s.n,
                  text);
        }
        t_seed = seed;
        done += s.n;
        sequences++;
    }
    all_done = done >= OPERATIONS;
    printf("%ld operations in %ld sequences\n", done, sequences);
}

/* A thousandth of all of a kind at least, of both outcomes. */
static void each_was_done_and_refused(void) {
    size_t i;
    if (!all_done) SKIP("the random operations failed");
    for (i = 0; i < LEN(operations); i++) {
        const operation *o = operations + i;
        printf("  %-10s %8ld done %8ld refused\n", o->name, succeeded[i], refused[i]);
        CHECK(!(o->outcomes & DONE) || succeeded[i] > OPERATIONS / 1000,
              "%s was done %ld times", o->name, succeeded[i]);
        CHECK(!(o->outcomes & REFUSED) || refused[i] > OPERATIONS / 1000,
              "%s was refused %ld times", o->name, refused[i]);
    }
}

/* With a fault in the model the two differ soon, and few operations are left of it. */
static void planted_faults_are_shrunk(void) {
    static const struct {
        fault fault;
        const char *culprit;
        int most;
    } cases[] = {
        {CROP_FORGETS, "crop(", 2},
        {KEEP_LAST_KEEPS_MORE, "keep_last(", 2},
        {WINDOW_TOO_LARGE, "window", 2},
        {FIRST_OF_EQUALS_COUNTS, "positions {", 2},
        {UNCOVERED_IS_STALE, "positions {", 4},
        {SELECT_FORGETS_REPEATS, "select(", 2},
        {ROLLBACK_KEEPS_ALL, "rollback(", 3},
        {FULL_TOO_EARLY, "rows", 2},
        {RESET_LEAVES_BASE, "reset(", 3},
    };
    static char text[20000];
    size_t i;
    t_seed = 777;
    for (i = 0; i < LEN(cases); i++) {
        sequence s;
        int tries = 0;
        planted = cases[i].fault;
        do s = sequence_random();
        while (run(&s, 0) < 0 && ++tries < 1000);
        CHECK(tries < 1000, "fault %d is not found", (int)planted);
        if (tries == 1000) continue;
        shrink(&s);
        describe(&s, text, sizeof text);
        CHECK(s.n <= cases[i].most && strstr(text, cases[i].culprit),
              "fault %d leaves %d operations:\n%s", (int)planted, s.n, text);
        planted = SOUND;
        CHECK(run(&s, 0) < 0, "fails without the fault: %s", earth.why);
    }
    planted = SOUND;
}

int main(int argc, char **argv) { /* [seed [apart]]; apart: crashes are shrunk as well */
    if (argc > 1) first_seed = (uint32_t)strtoul(argv[1], NULL, 10);
    apart = argc > 2;
    RUN(random_operations);
    RUN(each_was_done_and_refused);
    RUN(planted_faults_are_shrunk);
    FINISH();
}
