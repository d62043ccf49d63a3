/* play.h - scripts for KV caches. A script is a row of commands, "append 1 2 3; crop 2;
 * is 1 2", run on every kind of cache and every dtype. A row of the cache is written as
 * one number, its token; what layer, head and place make of it is token_value. Samples
 * are divided by |, 1..5 is a range, . is a row of zeros, .9 nine of them. A command that
 * begins with an error (ERR is any) must fail with it and change nothing. All others are
 * tried with the first, the second, .. of their allocations failing before they may
 * succeed. */
#ifndef PLAY_H
#define PLAY_H

#include <ctype.h>

enum { PLAY_G = 2, PLAY_D = 3, PLAY_DV = 2, PLAY_LAYERS = 3, PLAY_BATCH = 5 };
enum { MOST_SAMPLES = 6, MOST_TOKENS = 700 };

/* What a script is for. PLAIN: caches without a window; RAGGED: each sample has its own
 * length; BOTH: with and without that. */
enum { PLAIN = 1, RINGS = 2, ALL = 3 };
enum { EVEN, RAGGED, BOTH };

typedef struct script {
    int kinds, ragged;
    tfb_idx window, pinned, chunk;
    const char *text;
} script;

typedef struct player {
    tfb_ctx ctx;
    t_heap heap;
    tfb_kv kv;
    void *mem;
    const char *text;
    char what[260]; /* for messages */
    tfb_idx forced; /* failures of the allocator so far */
} player;

typedef struct list {
    int samples, n[MOST_SAMPLES];
    int32_t at[MOST_SAMPLES][MOST_TOKENS];
} list;

/* Powers of two times at most 250: exact in every dtype. */
static float token_value(int token, int layer, tfb_idx g, tfb_idx d, int is_value) {
    const float x = token ? (float)(1 + (token - 1) % 250) : 0.0f;
    const int up = (int)(d + 3 * g) + 6 * layer;
    return (is_value ? -x : x) * (float)(1 << up) / 256.0f;
}

static const char *list_read(list *l, const char *s) {
    memset(l, 0, sizeof *l);
    for (l->samples = 1; *s && *s != ':';) {
        const int b = l->samples - 1;
        if (*s == '|') l->samples++, s++;
        else if (*s == '.') {
            char *end;
            const long n = strtol(s + 1, &end, 10);
            l->n[b] += s[1] == ' ' || n == 0 ? 1 : (int)n;
            s = s[1] == ' ' || n == 0 ? s + 1 : end;
        } else if (isdigit((unsigned char)*s) || *s == '-') {
            char *end;
            long from = strtol(s, &end, 10), to = from;
            if (!strncmp(end, "..", 2)) to = strtol(end + 2, &end, 10);
            while (from <= to) l->at[b][l->n[b]++] = (int32_t)from++;
            s = end;
        } else s++;
    }
    return s + (*s == ':');
}

static int list_most(const list *l) {
    int b, most = 0;
    for (b = 0; b < l->samples; b++)
        if (l->n[b] > most) most = l->n[b];
    return most;
}

static int list_even(const list *l) {
    int b, most = list_most(l), even = 1;
    for (b = 0; b < l->samples; b++) even = even && l->n[b] == most;
    return even;
}

/* Key or value rows of the tokens; what is behind the last of a sample must not count. */
static tfb_tensor token_rows(const list *l, int layer, int is_value, float *mem) {
    const tfb_idx D = is_value ? PLAY_DV : PLAY_D;
    const int T = list_most(l);
    tfb_idx b, g, i, d, at = 0;
    for (b = 0; b < l->samples; b++)
        for (g = 0; g < PLAY_G; g++)
            for (i = 0; i < T; i++)
                for (d = 0; d < D; d++, at++)
                    mem[at] = i >= l->n[b]
                                  ? 7777.0f
                                  : token_value(l->at[b][i], layer, g, d, is_value);
    return tfb_view4(mem, TFB_F32, l->samples, PLAY_G, T, D);
}

/* Puts the rows into layers 0 and 1; layer 2 is never touched. */
static tfb_status play_rows(player *p, const list *l, tfb_kv_update_opts *o, int layer) {
    static float mem[2][MOST_SAMPLES * PLAY_G * MOST_TOKENS * PLAY_D];
    tfb_tensor key = token_rows(l, layer, 0, mem[0]);
    tfb_tensor value = token_rows(l, layer, 1, mem[1]);
    int32_t n[MOST_SAMPLES];
    tfb_tensor counts = tfb_view1(n, TFB_I32, l->samples);
    int b;
    for (b = 0; b < l->samples; b++) n[b] = l->n[b];
    if (!list_even(l)) o->counts = &counts;
    if (!o->counts && !o->positions)
        return tfb_kv_append(&p->ctx, &p->kv, layer, &key, &value);
    return tfb_kv_update(&p->ctx, &p->kv, layer, &key, &value, o);
}

static tfb_status play_append(player *p, int layer, const char *args) {
    static list l;
    tfb_kv_update_opts o;
    memset((void *)&o, 0, sizeof o);
    list_read(&l, args);
    return play_rows(p, &l, &o, layer);
}

/* "put @2 : 9" at a position of rank 0, "put 2 4 : 9 8" of 1, "put 2 | 4 : .." of 2. */
static tfb_status play_put(player *p, int layer, const char *args) {
    static list at, l;
    static int32_t mem[MOST_SAMPLES * MOST_TOKENS];
    tfb_kv_update_opts o;
    tfb_tensor positions;
    int b, i, n = 0;
    memset((void *)&o, 0, sizeof o);
    list_read(&l, list_read(&at, args));
    for (b = 0; b < at.samples; b++)
        for (i = 0; i < at.n[0]; i++) mem[n++] = at.at[b][i];
    positions = tfb_view2(mem, TFB_I32, at.samples, at.n[0]);
    if (at.samples == 1) positions = tfb_view1(mem, TFB_I32, at.n[0]);
    if (strchr(args, '@')) positions.ndim = 0;
    o.positions = &positions;
    return play_rows(p, &l, &o, layer);
}

/* --- Commands on the whole cache. --- */
static tfb_tensor play_ints(const char *args, list *l) {
    list_read(l, args);
    return tfb_view1(l->at[0], TFB_I32, l->n[0]);
}

static tfb_status play_crop(player *p, const char *args, int last) {
    static list l;
    const int each = !strncmp(args, " each", 5);
    const tfb_tensor t = play_ints(args + 5 * each, &l);
    const tfb_idx n = each ? 12345 : (tfb_idx)l.at[0][0];
    return (last ? tfb_kv_keep_last : tfb_kv_crop)(&p->ctx, &p->kv, n, each ? &t : NULL);
}

static tfb_status play_other(player *p, const char *word, const char *args) {
    static list l;
    const tfb_tensor t = play_ints(args, &l);
    tfb_ctx *ctx = &p->ctx;
    if (!strcmp(word, "crop")) return play_crop(p, args, 0);
    if (!strcmp(word, "last")) return play_crop(p, args, 1);
    if (!strcmp(word, "select")) return tfb_kv_select(ctx, &p->kv, &t);
    if (!strcmp(word, "repeat")) return tfb_kv_repeat_interleave(ctx, &p->kv, l.at[0][0]);
    if (!strcmp(word, "fork")) return tfb_kv_fork(ctx, &p->kv, l.at[0][0], l.at[0][1]);
    if (!strcmp(word, "mark")) return tfb_kv_mark(ctx, &p->kv);
    if (!strcmp(word, "roll")) return tfb_kv_rollback(ctx, &p->kv, l.n[0] ? &t : NULL);
    if (!strcmp(word, "commit")) tfb_kv_commit(&p->kv);
    else if (!strcmp(word, "reset")) tfb_kv_reset(&p->kv);
    else CHECK(0, "no such command: %s", word);
    return TFB_OK;
}

/* --- Commands that look. --- */
static int same_tokens(const tfb_tensor *got, const list *l, int layer, int is_value) {
    tfb_idx b, g, i, d;
    int same = 1;
    for (b = 0; b < l->samples; b++)
        for (g = 0; g < PLAY_G; g++)
            for (i = 0; i < got->shape[2]; i++)
                for (d = 0; d < got->shape[3]; d++) {
                    const float want =
                        i < l->n[b] ? token_value(l->at[b][i], layer, g, d, is_value)
                                    : 0.0f;
                    if (t_bad == 0 && at4(got, b, g, i, d) != want)
                        printf("layer %d %s sample %d row %d holds %g, wanted %g\n",
                               layer, is_value ? "value" : "key", (int)b, (int)i,
                               (double)at4(got, b, g, i, d), (double)want);
                    same = same && at4(got, b, g, i, d) == want;
                }
    return same;
}

static void play_is_layer(player *p, const list *l, int layer) {
    const tfb_kv *kv = &p->kv;
    rows got = rows_of(&p->ctx, kv, layer);
    int b;
    CHECK(tfb_kv_batch(kv, layer) == l->samples, "%s: %d samples, wanted %d", p->what,
          (int)tfb_kv_batch(kv, layer), l->samples);
    CHECK(tfb_kv_length(kv, layer) == list_most(l), "%s: length %d, wanted %d", p->what,
          (int)tfb_kv_length(kv, layer), list_most(l));
    for (b = 0; b < l->samples; b++)
        CHECK(tfb_kv_length_of(kv, layer, b) == l->n[b], "%s: length_of %d is %d",
              p->what, b, (int)tfb_kv_length_of(kv, layer, b));
    CHECK(got.key.ndim == 4 && got.key.shape[0] == l->samples &&
              got.key.shape[1] == PLAY_G && got.key.shape[2] == list_most(l) &&
              got.key.shape[3] == PLAY_D && got.value.ndim == 4 &&
              got.value.shape[0] == l->samples && got.value.shape[2] == list_most(l) &&
              got.value.shape[3] == PLAY_DV,
          "%s: the shape of get", p->what);
    if (t_bad == 0) {
        CHECK(same_tokens(&got.key, l, layer, 0), "%s: keys", p->what);
        CHECK(same_tokens(&got.value, l, layer, 1), "%s: values", p->what);
    }
    rows_free(&got);
}

static void play_is(player *p, const char *args) {
    static list l;
    rows got;
    list_read(&l, args);
    play_is_layer(p, &l, 0);
    play_is_layer(p, &l, 1);
    got = rows_of(&p->ctx, &p->kv, 2);
    CHECK(got.key.ndim == 0 && got.value.ndim == 0 && tfb_kv_batch(&p->kv, 2) == 0,
          "%s: layer 2 was touched", p->what);
    rows_free(&got);
}

static void play_none(player *p) {
    int layer;
    for (layer = 0; layer < PLAY_LAYERS; layer++) {
        rows got = rows_of(&p->ctx, &p->kv, layer);
        CHECK(got.key.ndim == 0 && got.value.ndim == 0, "%s: touched", p->what);
        CHECK(tfb_kv_length(&p->kv, layer) == 0 && tfb_kv_batch(&p->kv, layer) == 0,
              "%s: length or batch", p->what);
        rows_free(&got);
    }
}

/* The position of the oldest row of each sample; of the next one. */
static void play_base(player *p, const char *args, int next) {
    static list l;
    int32_t mem[MOST_SAMPLES * 2];
    int b, layer;
    list_read(&l, args);
    for (layer = 0; layer < 2; layer++) {
        tfb_tensor t = tfb_view2(mem, TFB_I32, l.n[0], 2);
        if (next) CHECK_OK(&p->ctx, tfb_kv_positions(&p->ctx, &p->kv, layer, &t));
        for (b = 0; b < l.n[0]; b++) {
            if (!next) mem[2 * b] = (int32_t)tfb_kv_base(&p->kv, layer, b);
            CHECK(mem[2 * b] == l.at[0][b] && (!next || mem[2 * b + 1] == mem[2 * b] + 1),
                  "%s: sample %d has %d", p->what, b, (int)mem[2 * b]);
        }
    }
}

/* --- Running. --- */
static tfb_status play_once(player *p, int layer, const char *word, const char *args) {
    if (!strcmp(word, "append")) return play_append(p, layer, args);
    if (!strcmp(word, "put")) return play_put(p, layer, args);
    return play_other(p, word, args);
}

static void play_ctx(player *p) { /* scratch is allocated anew by every command */
    tfb_ctx_free(&p->ctx);
    t_ctx(&p->ctx, NULL);
    p->ctx.alloc = t_alloc;
    p->ctx.alloc_user = &p->heap;
}

static void play_change(player *p, int layer, const char *word, const char *args) {
    tfb_status got = TFB_ERR_MEMORY;
    long nth;
    for (nth = 1; got == TFB_ERR_MEMORY && nth < 99; nth++) {
        snapshot before = snap(&p->kv);
        play_ctx(p);
        p->heap.fail_at = p->heap.calls + nth;
        got = play_once(p, layer, word, args);
        if (got == TFB_OK) {
            free(before.mem);
            break;
        }
        p->forced++;
        CHECK(got == TFB_ERR_MEMORY, "%s: %d, %s", p->what, (int)got, p->ctx.message);
        CHECK(unchanged(&p->kv, &before, "no memory"), "%s: allocation %ld", p->what,
              nth);
    }
    p->heap.fail_at = 0;
}

static void play_refused(player *p, int layer, tfb_status want, const char *word,
                         const char *args) {
    snapshot before = snap(&p->kv);
    tfb_status got;
    play_ctx(p);
    got = play_once(p, layer, word, args);
    CHECK(want == TFB_OK ? got != TFB_OK : got == want, "%s: gave %d, %s", p->what,
          (int)got, p->ctx.message);
    CHECK(strstr(p->ctx.message, "tfb_kv_"), "%s: \"%s\"", p->what, p->ctx.message);
    unchanged(&p->kv, &before, p->what);
}

static tfb_status play_status(const char *word) {
#define PLAY_STATUS(name, value, text)                                                   \
    if (!strcmp(word, &#name[4])) return name;
    TFB_STATUS_LIST(PLAY_STATUS)
    return TFB_OK;
}

static const char *play_word(const char *s, char *word, size_t room) {
    size_t n = 0;
    while (*s == ' ') s++;
    while (*s && *s != ' ' && n + 1 < room) word[n++] = *s++;
    word[n] = 0;
    return s;
}

static void play_command(player *p, const char *command) {
    char first[16], word[16];
    const char *args = play_word(command, first, sizeof first);
    tfb_status want = TFB_OK; /* of ERR: any but that */
    const int fails = !strncmp(first, "ERR", 3);
    int layers = 1, layer;
    snprintf(word, sizeof word, "%s", first);
    if (fails) {
        want = play_status(first);
        args = play_word(args, word, sizeof word);
    }
    if (!strcmp(word, "append") || !strcmp(word, "put")) layers = 2;
    if (!strcmp(word, "is")) play_is(p, args);
    else if (!strcmp(word, "none")) play_none(p);
    else if (!strcmp(word, "base")) play_base(p, args, 0);
    else if (!strcmp(word, "next")) play_base(p, args, 1);
    else
        for (layer = 0; layer < layers; layer++) {
            if (fails) play_refused(p, layer, want, word, args);
            else play_change(p, layer, word, args);
        }
}

static tfb_kv_opts play_opts(const script *s, int kind, tfb_dtype dtype, int ragged) {
    tfb_kv_opts o;
    memset((void *)&o, 0, sizeof o);
    o.layers = PLAY_LAYERS;
    o.shape = shape_of(PLAY_BATCH, PLAY_G, PLAY_D, PLAY_DV, 80);
    o.dtype = dtype;
    o.ragged = ragged;
    if (IS_RING(kind)) {
        o.shape.window = s->window ? s->window : 80;
        o.shape.pinned = s->pinned;
        o.shape.chunk = s->chunk;
    }
    return o;
}

static void play_as(const script *s, int kind, tfb_dtype dtype, int ragged) {
    const tfb_kv_opts o = play_opts(s, kind, dtype, ragged);
    char command[200];
    const char *at;
    player p;
    memset((void *)&p, 0, sizeof p);
    play_ctx(&p);
    p.mem = cache_new(&p.ctx, &p.kv, IS_STATIC(kind), &o);
    for (at = s->text; *at && t_bad == 0;) {
        const size_t n = strcspn(at, ";");
        snprintf(command, sizeof command, "%.*s", (int)n, at);
        snprintf(p.what, sizeof p.what, "%s%s dtype %d: %s", ragged ? "ragged " : "",
                 kind_names[kind], (int)dtype, command);
        play_command(&p, command);
        at += n + (at[n] == ';');
    }
    if (t_bad) printf("  in \"%s\"\n", s->text);
    tfb_kv_free(&p.kv);
    tfb_ctx_free(&p.ctx);
    CHECK(p.heap.live == 0, "%ld blocks leaked by \"%s\"", p.heap.live, s->text);
    free(p.mem);
}

/* Every script on every kind it is for, in every dtype. */
static void play(const script *list_of, int n) {
    int i, kind, dtype, ragged;
    for (i = 0; i < n; i++)
        for (kind = 0; kind < KINDS; kind++) {
            if (!(list_of[i].kinds & (IS_RING(kind) ? RINGS : PLAIN))) continue;
            for (ragged = 0; ragged < 2; ragged++)
                for (dtype = 0; dtype < 3 && t_bad == 0; dtype++)
                    if (list_of[i].ragged == BOTH || list_of[i].ragged == ragged)
                        play_as(list_of + i, kind, kv_dtypes[dtype], ragged);
        }
}
#endif
