/* ops.h - every public function that computes on tensors, as a table: which tensors it
 * takes, how to call it, its plain-loop reference. What must hold for all of them (no
 * memory, too little scratch, sizes that overflow, every small shape, random bytes) is
 * tested over this table. Include after test.h. */
#ifndef OPS_H
#define OPS_H

enum { OP_TENSORS = 16, OP_PICKS = 8 };

typedef struct op_call op_call;
typedef tfb_status (*op_run)(tfb_ctx *ctx, const op_call *c, tfb_tensor **t);

/* tensors: "name:BTD" is an input, "name=BTD" an output, "name~BTD" both; ? before it:
 * may be left out, ! the same, and mostly should be. Capital letters are extents, small
 * ones follow from them (op_extent), digits are themselves. After a slash the dtype: f
 * F32, F16 or BF16, a any, u U8, i and a letter I32 below this extent, I at most; none is
 * F32. picks: how many values each choice has, ended by 0; of them tame, if not 0, are
 * for calls that are to succeed. */
typedef struct op {
    const char *name, *tensors;
    int picks[OP_PICKS], tame[OP_PICKS];
    op_run run, ref;
} op;

typedef struct op_arg {
    char name[16], role[8];
    char dtype, limit;
    int writes, reads, optional, rare;
} op_arg;

struct op_call {
    const op *op;
    int n, pick[OP_PICKS];
    uint32_t has;     /* tensors */
    tfb_idx dim[128]; /* extents by letter */
    op_arg arg[OP_TENSORS];
    tfb_tensor t[OP_TENSORS];
    int owner[OP_TENSORS];  /* in whose block it lies */
    tfb_idx at[OP_TENSORS]; /* where, in elements */
    size_t bytes[OP_TENSORS];
    char *mem[OP_TENSORS];    /* exactly as large as the view needs */
    char *first[OP_TENSORS];  /* what stood there before the call */
    char *result[OP_TENSORS]; /* and after the first good one */
    int dry;                  /* too large: only to be measured */
    int odd;                  /* not what the table says: nothing to compare with */
};

static void *op_bytes(size_t n) {
    void *p = malloc(n + (n == 0));
    if (!p) exit(99);
    return p;
}

static int op_has(const op_call *c, int i) {
    return (int)(c->has >> i & 1);
}

/* --- Making calls. --- */
static void op_parse_one(op_arg *a, const char *s) {
    size_t n;
    memset(a, 0, sizeof *a);
    a->rare = *s == '!';
    a->optional = a->rare || *s == '?';
    s += a->optional;
    n = strcspn(s, ":=~");
    memcpy(a->name, s, n);
    a->writes = s[n] != ':';
    a->reads = s[n] != '=';
    s += n + 1;
    n = strcspn(s, "/ ");
    memcpy(a->role, s, n);
    a->dtype = 'F';
    if (s[n] != '/') return;
    a->dtype = s[n + 1];
    if (a->dtype == 'i' || a->dtype == 'I') a->limit = s[n + 2];
}

static op_call op_begin(const op *o) {
    op_call c;
    const char *s = o->tensors;
    memset((void *)&c, 0, sizeof c);
    c.op = o;
    while (s && c.n < OP_TENSORS) {
        op_parse_one(&c.arg[c.n++], s);
        s = strchr(s, ' ');
        if (s) s++;
    }
    return c;
}

#define D(letter) c->dim[(int)(#letter)[0]]
static tfb_idx op_extent(const op_call *c, char letter) {
    const tfb_dtype packed = (tfb_dtype)(c->pick[0] % 3);
    switch (letter) {
    case 'h': return D(G) * D(R);                 /* heads */
    case 'w': return D(N) * (c->pick[1] ? 2 : 1); /* rows of gated weights */
    case 'j': return D(K) + 1;                    /* taps */
    case 'c': return D(C) + 1;                    /* not empty */
    case 'd': return 2 * D(D);                    /* pairs */
    case 'e': return D(D) + 1;
    case 'g': return D(G) + 1;
    case 'q': return (D(G) + 1) * D(R);
    case 'p': return (tfb_idx)tfb_pack_bytes(D(N), D(K), packed);
    case 'm': return 3;                       /* two packed sequences */
    case 's': return D(B) * ((D(S) + 2) / 3); /* of all samples */
    case 'n': return (D(S) + 2) / 3;          /* pages of three rows */
    case 'v': return 2 * (D(C) % 8) + 2;      /* channels of a block */
    default: return letter >= '0' && letter <= '9' ? letter - '0' : c->dim[(int)letter];
    }
}
#undef D

/* The letters of extents that a role's letters depend on, each once. Returns how many. */
static int op_letters(const op_call *c, char *letters) {
    static const char *const from[] = {"hGR", "wN",  "jK",  "cC",  "dD", "eD",
                                       "gG",  "qGR", "pNK", "sBS", "nS", "vC"};
    int n = 0, i, k, j;
    for (i = 0; i < c->n; i++)
        for (k = 0; c->arg[i].role[k]; k++) {
            char one[2] = TFB_INIT;
            const char *of = one;
            one[0] = c->arg[i].role[k];
            for (j = 0; j < (int)(sizeof from / sizeof *from); j++)
                if (from[j][0] == one[0]) of = from[j] + 1;
            for (; *of; of++)
                if (*of >= 'A' && *of <= 'Z' && !memchr(letters, *of, (size_t)n))
                    letters[n++] = *of;
        }
    return n;
}

static tfb_dtype op_dtype(const op_call *c, const op_arg *a) {
    static const tfb_dtype halves[] = {TFB_F32, TFB_F16, TFB_BF16};
    const int k = a->writes ? c->pick[1] : c->pick[0];
    if (a->dtype == 'u') return TFB_U8;
    if (a->dtype == 'i' || a->dtype == 'I') return TFB_I32;
    if (a->dtype == 'f') return halves[c->pick[0] % 3];
    return a->dtype == 'a' ? (tfb_dtype)(k % 5) : TFB_F32;
}

/* Dense views without memory, of the extents and choices set before. */
static void op_shape(op_call *c) {
    int i, d;
    for (i = 0; i < c->n; i++) {
        const op_arg *a = &c->arg[i];
        tfb_tensor *t = &c->t[i];
        memset((void *)t, 0, sizeof *t);
        t->dtype = op_dtype(c, a);
        t->ndim = (int)strlen(a->role);
        for (d = 0; d < t->ndim; d++) t->shape[d] = op_extent(c, a->role[d]);
        tfb__dense_strides(t);
        c->owner[i] = i;
        if (!a->optional) c->has |= 1u << i;
    }
}

static void op_fill(op_call *c, int i) {
    const tfb_dtype dtype = c->t[i].dtype;
    const size_t size = tfb_dtype_size(dtype);
    const tfb_idx limit = c->arg[i].limit ? op_extent(c, c->arg[i].limit) : 0;
    size_t at;
    for (at = 0; size && at + size <= c->bytes[i]; at += size) {
        const uint32_t u = t_rand();
        const float x = t_float();
        const int32_t n = (int32_t)(limit ? u % (uint32_t)limit : 0);
        const uint16_t f16 = (uint16_t)((u & 0x83FFu) | (10 + (u >> 16) % 6) << 10);
        const uint16_t bf16 = (uint16_t)((u & 0x807Fu) | (122 + (u >> 16) % 6) << 7);
        const uint8_t mask = (uint8_t)(u % 4 ? u >> 8 | 1 : 0);
        const void *from = dtype == TFB_F32    ? (const void *)&x
                           : dtype == TFB_I32  ? (const void *)&n
                           : dtype == TFB_F16  ? (const void *)&f16
                           : dtype == TFB_BF16 ? (const void *)&bf16
                                               : (const void *)&mask;
        memcpy(c->mem[i] + at, from, size);
    }
    if (c->arg[i].dtype == 'I' && limit) /* cu: 0, some, all; else all of it */
        for (at = 0; at + 4 <= c->bytes[i]; at += 4) {
            const int cu = !strcmp(c->arg[i].role, "m");
            const tfb_idx some = (tfb_idx)(t_rand() % (uint32_t)(limit + 1));
            const int32_t n = (int32_t)(!cu       ? some
                                        : at == 0 ? 0
                                        : at == 4 ? some
                                                  : limit);
            memcpy(c->mem[i] + at, &n, 4);
        }
}

/* Elements a view reaches below and above its first; 0 and -1 if it is empty. Sizes
 * that overflow come back as SIZE_MAX. */
static void op_reach(const tfb_tensor *t, size_t *below, size_t *above) {
    int i;
    *below = *above = 0;
    for (i = 0; i < t->ndim && i < TFB_MAX_DIMS; i++) {
        const size_t step = tfb__stride_abs(t->stride[i]);
        size_t *side = t->stride[i] < 0 ? below : above;
        if (t->shape[i] > 1)
            *side = tfb__size_add(*side, tfb__size_mul(step, (size_t)t->shape[i] - 1));
    }
}

static int op_empty(const tfb_tensor *t) {
    int i, empty = t->ndim < 0 || t->ndim > TFB_MAX_DIMS || !tfb_dtype_size(t->dtype);
    for (i = 0; i < t->ndim && i < TFB_MAX_DIMS; i++) empty |= t->shape[i] <= 0;
    return empty;
}

/* Gives every view a block of exactly its size; large ones make the call a dry one. */
static void op_alloc(op_call *c) {
    int i, d;
    for (i = 0; i < c->n; i++) {
        tfb_tensor *t = &c->t[i];
        const size_t size = tfb_dtype_size(t->dtype);
        size_t below = 0, above = 0, all = 0;
        for (d = 0; d < t->ndim && d < TFB_MAX_DIMS; d++) /* loops over nothing, too */
            if (t->shape[d] > 65536) c->dry = 1;
        if (!op_empty(t)) {
            op_reach(t, &below, &above);
            all = tfb__size_add(tfb__size_add(below, above), 1);
            all = tfb__size_mul(all, size);
            if (tfb__size_mul((size_t)tfb_numel(t), size) > 65536) c->dry = 1;
        }
        if (all > 65536) c->dry = 1, all = below = 0;
        c->bytes[i] = all;
        c->at[i] = (tfb_idx)below;
        c->mem[i] = (char *)op_bytes(all);
        op_fill(c, i);
        c->first[i] = (char *)memcpy(op_bytes(all), c->mem[i], all);
        t->data = all ? c->mem[i] + below * size : NULL;
    }
}

static void op_end(op_call *c) {
    int i;
    for (i = 0; i < c->n; i++) {
        free(c->mem[i]);
        free(c->first[i]);
        free(c->result[i]);
    }
    memset((void *)c, 0, sizeof *c);
}

static const char *op_text(const op_call *c) {
    static char text[1024];
    int i, d, n = snprintf(text, sizeof text, "%s", c->op->name);
    for (i = 0; i < OP_PICKS; i++)
        n += snprintf(text + n, 16, "%s%d", i ? "," : " picks ", c->pick[i]);
    for (i = 0; i < c->n && n < 800; i++) {
        if (!op_has(c, i)) continue;
        n += snprintf(text + n, 32, " %s", c->arg[i].name);
        for (d = 0; d < c->t[i].ndim && d < TFB_MAX_DIMS && n < 900; d++)
            n += snprintf(text + n, 24, "%s%ld", d ? "," : "[", (long)c->t[i].shape[d]);
        n += snprintf(text + n, 4, "]");
    }
    return text;
}

/* --- Running them. --- */
/* Under the memory sanitizer outputs count as never written before a call. */
#if defined(__has_feature)
#if __has_feature(memory_sanitizer)
#include <sanitizer/msan_interface.h>
#define OP_FORGET(p, n) __msan_poison(p, n)
#define OP_KNOW(p, n)   __msan_unpoison(p, n)
#endif
#endif
#ifndef OP_FORGET
#define OP_FORGET(p, n) ((void)(p))
#define OP_KNOW(p, n)   ((void)(p))
#endif

static void op_restore(op_call *c) {
    int i;
    for (i = 0; i < c->n; i++) {
        const op_arg *a = &c->arg[i];
        memcpy(c->mem[i], c->first[i], c->bytes[i]);
        if (a->writes && !a->reads && op_has(c, i) && !op_empty(&c->t[i]) &&
            c->bytes[i] == (size_t)tfb_numel(&c->t[i]) * tfb_dtype_size(c->t[i].dtype))
            OP_FORGET(c->mem[i], c->bytes[i]);
    }
}

static tfb_status op_do(op_call *c, tfb_ctx *ctx, op_run run) {
    tfb_tensor copy[OP_TENSORS], *t[OP_TENSORS];
    int i;
    for (i = 0; i < OP_TENSORS; i++) {
        copy[i] = c->t[i];
        t[i] = i < c->n && op_has(c, i) ? &copy[i] : NULL;
        if (ctx && ctx->measuring) copy[i].data = NULL;
    }
    return run(ctx, c, t);
}

/* Equal as bits; any NaN of a float dtype equals any other. */
static int op_same(const char *a, const char *b, size_t bytes, tfb_dtype dtype) {
    const uint32_t top = dtype == TFB_F16 ? 0x7C00u : 0x7F80u;
    size_t i;
    if (memcmp(a, b, bytes) == 0) return 1;
    if (dtype == TFB_F32)
        for (i = 0; i + 4 <= bytes; i += 4) {
            uint32_t x, y;
            memcpy(&x, a + i, 4);
            memcpy(&y, b + i, 4);
            if (x != y &&
                ((x & 0x7FFFFFFF) <= 0x7F800000 || (y & 0x7FFFFFFF) <= 0x7F800000))
                return 0;
        }
    else if (dtype == TFB_F16 || dtype == TFB_BF16)
        for (i = 0; i + 2 <= bytes; i += 2) {
            uint16_t x, y;
            memcpy(&x, a + i, 2);
            memcpy(&y, b + i, 2);
            if (x != y && ((x & 0x7FFFu) <= top || (y & 0x7FFFu) <= top)) return 0;
        }
    else return 0;
    return 1;
}

static void op_untouched(op_call *c, const char *what) {
    int i;
    for (i = 0; i < c->n; i++) OP_KNOW(c->mem[i], c->bytes[i]);
    for (i = 0; i < c->n; i++)
        CHECK(memcmp(c->mem[i], c->first[i], c->bytes[i]) == 0, "%s changed %s: %s", what,
              c->arg[i].name, op_text(c));
}

/* As a tensor, or as plain bytes. */
static int op_output(const op_call *c, int i, int block) {
    const int given = op_has(c, i) || c->arg[i].dtype == 'u';
    return c->arg[i].writes && given && c->owner[i] == block;
}

/* Elements of view i are marked as such in its block; bytes are all meant. */
static void op_mark(const op_call *c, int i, char *mark) {
    const tfb_tensor *t = &c->t[i];
    const size_t size = tfb_dtype_size(t->dtype);
    const tfb_idx n = op_empty(t) ? 0 : tfb_numel(t);
    tfb_idx k;
    if (c->arg[i].dtype == 'u') memset(mark, 1, c->bytes[i]);
    for (k = 0; k < n; k++)
        memset(mark + (size_t)(c->at[i] + tfb__offset(t, t->ndim, k)) * size, 1, size);
}

/* Nothing but elements of outputs has changed. */
static void op_clean(op_call *c, const char *what) {
    int i, k;
    for (i = 0; i < c->n; i++) {
        char *mark = (char *)op_bytes(c->bytes[i]);
        size_t at;
        memset(mark, 0, c->bytes[i]);
        for (k = 0; k < c->n; k++)
            if (op_output(c, k, i)) op_mark(c, k, mark);
        for (at = 0; at < c->bytes[i]; at++)
            if (!mark[at] && c->mem[i][at] != c->first[i][at]) break;
        CHECK(at == c->bytes[i], "%s wrote to %s, byte %ld: %s", what, c->arg[i].name,
              (long)at, op_text(c));
        free(mark);
    }
}

static void op_keep(op_call *c) {
    int i;
    for (i = 0; i < c->n; i++) {
        free(c->result[i]);
        c->result[i] = (char *)memcpy(op_bytes(c->bytes[i]), c->mem[i], c->bytes[i]);
    }
}

static void op_compare(op_call *c, const char *what) {
    int i;
    for (i = 0; i < c->n; i++)
        CHECK(op_same(c->mem[i], c->result[i], c->bytes[i], c->t[i].dtype),
              "%s differs in %s: %s", what, c->arg[i].name, op_text(c));
}

/* A parallel_for without threads: last piece first, workers in turn. */
static void op_backwards(void *user, tfb_idx n, tfb_body_fn body, void *arg) {
    const int workers = *(const int *)user;
    tfb_idx i;
    for (i = n; i-- > 0;) body(arg, i, (int)(i % workers));
}

/* The contexts of all calls, made once: asking the CPU what it is takes long. */
typedef struct op_rig {
    tfb_ctx hosted, fixed, measure;
    t_heap heap;
    int workers;
} op_rig;

static op_rig *op_rig_get(void) {
    static op_rig r;
    if (r.hosted.isa) return &r;
    t_ctx(&r.hosted, &r.heap);
    tfb_ctx_init_static(&r.fixed, NULL, 0);
    tfb_ctx_init_measure(&r.measure);
    return &r;
}

/* Gives the scratch back that the ordinary context keeps. */
TFB__UNUSED static void op_rig_empty(void) {
    op_rig *r = op_rig_get();
    while (r->hosted.block) tfb__block_pop(&r->hosted);
}

static void op_workers(op_rig *r, tfb_ctx *ctx, int workers) {
    r->workers = workers;
    ctx->workers = workers;
    ctx->parallel_for = workers > 1 ? op_backwards : NULL;
    ctx->parallel_user = &r->workers;
}

/* Scratch of the call as measured; status is what measuring said. */
static size_t op_need(op_rig *r, op_call *c, const tfb_ctx *like, tfb_status *status) {
    tfb_ctx *ctx = &r->measure;
    op_restore(c);
    ctx->isa = like->isa;
    op_workers(r, ctx, like->workers);
    *status = op_do(c, ctx, c->op->run);
    CHECK(*status == TFB_OK || ctx->message[0], "no message: %s", op_text(c));
    op_untouched(c, "measuring");
    return *status == TFB_OK ? ctx->scratch_last : 0;
}

/* In a static context of so many bytes, which lie in a block of that size. */
static tfb_status op_static(op_rig *r, op_call *c, size_t bytes) {
    char *mem = (char *)op_bytes(bytes);
    tfb_status got;
    memset(mem, 0xFF, bytes); /* NaNs: what is read before it is written shows */
    OP_FORGET(mem, bytes);
    r->fixed.mem = mem;
    r->fixed.mem_bytes = bytes;
    op_restore(c);
    got = op_do(c, &r->fixed, c->op->run);
    if (got != TFB_OK) op_untouched(c, "a static context");
    free(mem);
    return got;
}

/* Another table and other workers, in exactly the scratch that was measured: the same
 * bits. One byte less: SCRATCH, and nothing was written. */
static void op_check_static(op_rig *r, op_call *c, const char *table, int workers) {
    tfb_status measured, got;
    char text[40];
    size_t need;
    CHECK_OK(&r->fixed, tfb_isa_force(&r->fixed, table));
    op_workers(r, &r->fixed, workers);
    need = op_need(r, c, &r->fixed, &measured);
    op_workers(r, &r->fixed, workers);
    CHECK(measured == TFB_OK, "measured %d: %s", (int)measured, op_text(c));
    got = op_static(r, c, need);
    CHECK(got == TFB_OK, "%s, %d workers, %ld bytes: %s: %s", table, workers, (long)need,
          r->fixed.message, op_text(c));
    CHECK(r->fixed.scratch_last == need, "%ld bytes, measured %ld: %s",
          (long)r->fixed.scratch_last, (long)need, op_text(c));
    op_compare(c, table);
    if (!need) return;
    got = op_static(r, c, need - 1);
    snprintf(text, sizeof text, "needs %ld", (long)need);
    CHECK(got == TFB_ERR_SCRATCH && strstr(r->fixed.message, text), "%d \"%s\": %s",
          (int)got, r->fixed.message, op_text(c));
}

static void op_check_ref(op_call *c) {
    if (!c->op->ref || c->odd) return;
    op_restore(c);
    if (op_do(c, NULL, c->op->ref) == TFB_OK) op_compare(c, "the reference");
}

/* All that must hold for one call. Returns its status in an ordinary context. */
static tfb_status op_check(op_call *c, int workers, int thorough) {
    op_rig *r = op_rig_get();
    tfb_ctx *ctx = &r->hosted;
    const char *first = tfb_isa_name(ctx);
    tfb_status measured, got;
    op_workers(r, ctx, workers);
    op_need(r, c, ctx, &measured);
    if (c->dry) return measured;
    op_restore(c);
    op_workers(r, ctx, workers);
    got = op_do(c, ctx, c->op->run);
    CHECK(measured == TFB_OK || got != TFB_OK, "measuring refuses, \"%s\": %s",
          r->measure.message, op_text(c));
    if (got != TFB_OK) {
        CHECK(ctx->message[0] && tfb_status_text(got)[0], "no message: %s", op_text(c));
        op_untouched(c, ctx->message);
        return got;
    }
    op_clean(c, "a call");
    op_keep(c);
    if (thorough || !c->op->ref) op_check_static(r, c, "scalar", 3);
    if (thorough) op_check_static(r, c, first, 1);
    op_check_ref(c);
    return got;
}

#include "ops_table.h"
#endif
