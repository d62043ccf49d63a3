/* The QKV block token by token: steps cut in many ways, marks, samples that change
 * places, memory and scratch, and calls with everything wrong that can be. */
#include "../test.h"
#include "mixers.h"

/* --- Decode. --- */
enum { TOKENS = 150, SAMPLES = 3 };

typedef struct play { /* a block, its input and what forward makes of it */
    tfb_ctx ctx;
    rig r;
    tfb_mixer_state state;
    tfb_tensor x, y;
    float *x_mem, *y_mem, *want;
    void *mem;
    tfb_idx n, one; /* floats in all, of a sample */
} play;

static tfb_tensor tokens_of(const tfb_tensor *x, tfb_idx from, tfb_idx n) {
    tfb_tensor t = *x;
    t.shape[1] = n;
    t.data = (float *)x->data + from * x->stride[1];
    return t;
}

static void play_new(play *p, const kind *k, tfb_idx B, int own_memory) {
    size_t bytes;
    memset((void *)p, 0, sizeof *p);
    t_ctx(&p->ctx, NULL);
    rig_new(&p->ctx, &p->r, k);
    p->r.att.rope.start = k->rotate ? 1000 : 0;
    p->one = TOKENS * k->C;
    p->n = B * p->one;
    p->x_mem = t_floats(p->n), p->y_mem = t_floats(p->n), p->want = t_floats(p->n);
    p->x = tfb_view3(p->x_mem, TFB_F32, B, TOKENS, k->C);
    p->y = with_data(p->x, p->want);
    CHECK_OK(&p->ctx, tfb_qkv_forward(&p->ctx, &p->r.block, &p->x, NULL, &p->y));
    p->y.data = p->y_mem;
    if (k->longs && B > 1) { /* a kept kernel for most steps, for the others none */
        const tfb_idx kept = TOKENS - 10;
        CHECK_OK(&p->ctx,
                 tfb_ckconv_prepare(&p->ctx, &p->r.hyena.conv, &kept, 1, NULL, 0));
    }
    bytes = tfb_mixer_state_bytes(&p->r.block, B, TOKENS);
    if (own_memory) p->mem = bytes_new(bytes + 8); /* aligned to 8, no byte to spare */
    CHECK_OK(&p->ctx,
             tfb_mixer_state_init(&p->ctx, &p->state, &p->r.block, B, TOKENS,
                                  own_memory ? (char *)p->mem + 8 : NULL, bytes));
}

static void play_free(play *p) {
    tfb_mixer_state_free(&p->state);
    rig_free(&p->r);
    tfb_ctx_free(&p->ctx);
    free(p->x_mem), free(p->y_mem), free(p->want), free(p->mem);
}

/* Steps tokens from .. to, at most `most` at a time (0: pieces of any length). */
static void play_step(play *p, tfb_idx from, tfb_idx to, tfb_idx most) {
    while (from < to) {
        const tfb_idx step = most ? most : t_int(0, 40), n = TFB__MIN(to - from, step);
        tfb_tensor x = tokens_of(&p->x, from, n), y = tokens_of(&p->y, from, n);
        tfb_qkv_call call;
        memset((void *)&call, 0, sizeof call);
        call.inference = 1;
        CHECK_OK(&p->ctx, tfb_qkv_step(&p->ctx, &p->r.block, &p->state, &x, &call, &y));
        CHECK(p->state.tokens == from + n, "tokens %ld", (long)p->state.tokens);
        from += n;
    }
}

static void steps_are_forward(void) {
    static const tfb_idx most[] = {1, 2, 17, 64, 0, 0, 0, TOKENS};
    const kind *k;
    tfb_idx B;
    int i;
    EACH_STEPPED(k) for (B = 1; B <= SAMPLES; B += 2) {
        play p;
        play_new(&p, k, B, B > 1);
        for (i = 0; i < COUNT(most); i++) {
            memset(p.y_mem, 0, (size_t)p.n * 4);
            play_step(&p, 0, TOKENS, most[i]);
            CHECK_BITS(p.y_mem, p.want, p.n, "%s, %ld samples, %ld a step", k->name,
                       (long)B, (long)most[i]);
            tfb_mixer_state_reset(&p.state);
        }
        play_free(&p);
    }
}

/* A draft of other tokens, thrown away, several times; then one that is kept. */
static void rollback_leaves_nothing(void) {
    const kind *k;
    EACH_STEPPED(k) {
        tfb_idx at_ = 0, n;
        play p;
        play_new(&p, k, SAMPLES, 1);
        CHECK_FAILS(&p.ctx, TFB_ERR_ARG, "no mark",
                    tfb_mixer_state_rollback(&p.ctx, &p.state));
        while (at_ + 20 < TOKENS) {
            tfb_tensor x, y;
            CHECK_OK(&p.ctx, tfb_mixer_state_mark(&p.ctx, &p.state));
            for (n = 9; n > 0; n -= 4) { /* tokens of elsewhere */
                x = tokens_of(&p.x, TOKENS - 10, n), y = tokens_of(&p.y, TOKENS - 10, n);
                CHECK_OK(&p.ctx,
                         tfb_qkv_step(&p.ctx, &p.r.block, &p.state, &x, NULL, &y));
                CHECK_OK(&p.ctx, tfb_mixer_state_rollback(&p.ctx, &p.state));
                CHECK(p.state.tokens == at_, "tokens %ld", (long)p.state.tokens);
            }
            n = t_int(0, 20);
            if (n & 1) play_step(&p, at_, at_ + n, 0);
            tfb_mixer_state_commit(&p.state);
            if (!(n & 1)) play_step(&p, at_, at_ + n, 3);
            at_ += n;
        }
        play_step(&p, at_, TOKENS, 0);
        CHECK_BITS(p.y_mem, p.want, p.n, "%s", k->name);
        play_free(&p);
    }
}

/* Samples change places, fewer and more of them; the inputs likewise. */
static void selected_states_go_on(void) {
    static int32_t picks[][SAMPLES] = {{2, 0, 0}, {1, 1, 0}, {0, 0, 0}, {2, 0, 1}};
    static const tfb_idx counts[] = {3, 2, 3, 3}; /* the second leaves two */
    const kind *k;
    int i, b;
    EACH_STEPPED(k) {
        play p;
        int32_t bad[4] = {0, 3, 0, 0};
        tfb_tensor index;
        play_new(&p, k, SAMPLES, 1);
        for (i = 0; i < COUNT(counts); i++) {
            const tfb_idx from = 30 * i, n = counts[i], batch = p.state.batch;
            float *x = floats_copy(p.x_mem, p.n);
            play_step(&p, from, from + 30, 0);
            index = tfb_view1(picks[i], TFB_I32, n);
            if (i == 2) index.stride[0] = 0; /* all from the first, 2 samples to 3 */
            CHECK_OK(&p.ctx, tfb_mixer_state_select(&p.ctx, &p.state, &index));
            for (b = 0; b < n; b++)
                memcpy(p.x_mem + b * p.one, x + picks[i][b] * p.one, (size_t)p.one * 4);
            free(x);
            p.x.shape[0] = p.y.shape[0] = n;
            p.y.data = p.want;
            CHECK_OK(&p.ctx, tfb_qkv_forward(&p.ctx, &p.r.block, &p.x, NULL, &p.y));
            p.y.data = p.y_mem;
            (void)batch;
        }
        play_step(&p, 120, TOKENS, 0);
        for (b = 0; b < SAMPLES; b++)
            CHECK_BITS(p.y_mem + b * p.one + 120 * k->C, p.want + b * p.one + 120 * k->C,
                       p.one - 120 * k->C, "%s, sample %d", k->name, b);
        index = tfb_view1(bad, TFB_I32, 3);
        CHECK_FAILS(&p.ctx, TFB_ERR_RANGE, "index[1] is 3",
                    tfb_mixer_state_select(&p.ctx, &p.state, &index));
        bad[1] = -1;
        CHECK_FAILS(&p.ctx, TFB_ERR_RANGE, "index[1] is -1",
                    tfb_mixer_state_select(&p.ctx, &p.state, &index));
        bad[1] = 0;
        index.shape[0] = 4;
        CHECK_FAILS(&p.ctx, TFB_ERR_FULL, "room for 3",
                    tfb_mixer_state_select(&p.ctx, &p.state, &index));
        index.shape[0] = 0;
        CHECK_FAILS(&p.ctx, TFB_ERR_SHAPE, "index",
                    tfb_mixer_state_select(&p.ctx, &p.state, &index));
        CHECK_FAILS(&p.ctx, TFB_ERR_ARG, "index is NULL",
                    tfb_mixer_state_select(&p.ctx, &p.state, NULL));
        index.shape[0] = 3;
        CHECK_OK(&p.ctx, tfb_mixer_state_mark(&p.ctx, &p.state));
        CHECK_FAILS(&p.ctx, TFB_ERR_ARG, "mark",
                    tfb_mixer_state_select(&p.ctx, &p.state, &index));
        play_free(&p);
    }
}

/* --- Memory of states. --- */
static void states_and_their_memory(void) {
    const kind *k;
    EACH_STEPPED(k) {
        tfb_mixer_state s, was;
        t_heap heap;
        tfb_ctx ctx;
        size_t n;
        char *mem;
        rig r;
        t_ctx(&ctx, &heap);
        rig_new(&ctx, &r, k);
        n = tfb_mixer_state_bytes(&r.block, 2, 10);
        mem = (char *)bytes_new(n + 8);
        memset((void *)&s, 77, sizeof s);
        was = s;
#define REFUSED(status, text, block, batch, tokens, mem, n)                              \
    CHECK_FAILS(&ctx, status, text,                                                      \
                tfb_mixer_state_init(&ctx, &s, block, batch, tokens, mem, n))
        REFUSED(TFB_ERR_ARG, "aligned", &r.block, 2, 10, mem + 4, n);
        REFUSED(TFB_ERR_RANGE, "mem_bytes is", &r.block, 2, 10, mem, n - 1);
        REFUSED(TFB_ERR_RANGE, "batch 0", &r.block, 0, 10, mem, n);
        REFUSED(TFB_ERR_RANGE, "max_tokens -1", &r.block, 2, -1, mem, n);
        REFUSED(TFB_ERR_ARG, "block is NULL", NULL, 2, 10, mem, n);
        heap.fail_at = heap.calls + 1;
        REFUSED(TFB_ERR_MEMORY, "not to be had", &r.block, 2, 10, NULL, 0);
        ctx.alloc = NULL;
        REFUSED(TFB_ERR_MEMORY, "ctx.alloc is NULL", &r.block, 2, 10, NULL, 0);
        ctx.alloc = t_alloc;
        CHECK_FAILS(&ctx, TFB_ERR_ARG, "state is NULL",
                    tfb_mixer_state_init(&ctx, NULL, &r.block, 2, 10, mem, n));
        CHECK(memcmp(&s, &was, sizeof s) == 0, "%s: a refused state changed", k->name);
        CHECK(heap.live == 0, "%s: %ld blocks are left", k->name, heap.live);
        CHECK_OK(&ctx, tfb_mixer_state_init(&ctx, &s, &r.block, 2, 10, NULL, 0));
        CHECK(heap.live == 1, "%ld blocks", heap.live);
        tfb_mixer_state_free(&s);
        tfb_mixer_state_free(&s);
        tfb_mixer_state_free(NULL);
        tfb_mixer_state_reset(NULL);
        tfb_mixer_state_commit(NULL);
        CHECK(heap.live == 0, "%s: %ld blocks are left", k->name, heap.live);
        CHECK_FAILS(&ctx, TFB_ERR_ARG, "not initialised", tfb_mixer_state_mark(&ctx, &s));
        CHECK_FAILS(&ctx, TFB_ERR_ARG, "state is NULL", tfb_mixer_state_mark(&ctx, NULL));
        CHECK_FAILS(&ctx, TFB_ERR_ARG, "state is NULL",
                    tfb_mixer_state_rollback(&ctx, NULL));
        CHECK(tfb_mixer_state_bytes(&r.block, PTRDIFF_MAX / 8, 9) == 0, "overflow");
        CHECK(tfb_mixer_state_bytes(NULL, 1, 1) == 0, "NULL");
        rig_free(&r);
        tfb_ctx_free(&ctx);
        free(mem);
    }
}

/* --- Misuse: one thing wrong at a time; nothing changes. --- */
enum { FORWARD = 1, STEP = 2, BOTH = 3 };

typedef struct job {
    tfb_qkv block;
    tfb_attention_mixer att;
    tfb_mamba mamba;
    tfb_mixer_ops ops;
    tfb_tensor x, y, residual, cond;
    tfb_qkv_call with;
    const tfb_qkv *pb;
    const tfb_tensor *px;
    tfb_tensor *py;
    tfb_mixer_state *state;
} job;

/* Ten tokens, all right; p->state has seen 20. */
static void job_new(job *j, play *p) {
    memset((void *)j, 0, sizeof *j);
    j->block = p->r.block;
    j->att = p->r.att;
    j->mamba = p->r.mamba;
    j->ops = *j->block.mixer.ops;
    j->block.mixer.ops = &j->ops;
    j->block.mixer.self = p->r.core ? (void *)&j->mamba : (void *)&j->att;
    j->x = tokens_of(&p->x, 20, 10), j->y = tokens_of(&p->y, 20, 10);
    j->residual = j->x;
    j->cond = tfb_view2(p->x_mem, TFB_F32, p->x.shape[0], 2);
    j->with.residual = &j->residual, j->with.cond = &j->cond;
    j->pb = &j->block, j->px = &j->x, j->py = &j->y, j->state = &p->state;
}

static void refused(play *p, job *j, int calls, tfb_status status, const char *text) {
    float *y = floats_copy(p->y_mem, p->n), *x = floats_copy(p->x_mem, p->n);
    const tfb_idx tokens = p->state.tokens;
    if (calls & FORWARD)
        CHECK_FAILS(&p->ctx, status, text,
                    tfb_qkv_forward(&p->ctx, j->pb, j->px, &j->with, j->py));
    if (calls & STEP)
        CHECK_FAILS(&p->ctx, status, text,
                    tfb_qkv_step(&p->ctx, j->pb, j->state, j->px, &j->with, j->py));
    CHECK(memcmp(y, p->y_mem, (size_t)p->n * 4) == 0, "\"%s\": y changed", text);
    CHECK(memcmp(x, p->x_mem, (size_t)p->n * 4) == 0, "\"%s\": x changed", text);
    CHECK(p->state.tokens == tokens, "\"%s\": tokens", text);
    free(x), free(y);
}

#define WRONG(calls, status, text, change)                                               \
    do {                                                                                 \
        job w;                                                                           \
        job_new(&w, &p);                                                                 \
        change;                                                                          \
        refused(&p, &w, calls, status, text);                                            \
    } while (0)

/* Goes on as if nothing had happened. */
static void goes_on(play *p, const kind *k) {
    play_step(p, p->state.tokens, TOKENS, 13);
    CHECK_BITS(p->y_mem, p->want, p->n, "%s goes on", k->name);
}

/* A weight or bias that lies where y is. */
static void over_weight(job *j, int which) {
    tfb_tensor *t = which == 0   ? &j->block.wqkv
                    : which == 1 ? &j->block.bqkv
                    : which == 2 ? &j->block.wout
                                 : &j->block.bout;
    *t = with_data(*t, (float *)j->y.data + (t->ndim == 1 ? 3 : 0));
}

static void what_the_block_refuses(void) {
    const int which[] = {1, 4};
    int i, a;
    for (i = 0; i < 2; i++) {
        const kind *k = &kinds[which[i]];
        play p;
        play_new(&p, k, SAMPLES, 1);
        play_step(&p, 0, 20, 7);
        WRONG(BOTH, TFB_ERR_ARG, "block is NULL", w.pb = NULL);
        WRONG(BOTH, TFB_ERR_ARG, "x is NULL", w.px = NULL);
        WRONG(BOTH, TFB_ERR_ARG, "y is NULL", w.py = NULL);
        WRONG(STEP, TFB_ERR_ARG, "state is NULL", w.state = NULL);
        WRONG(BOTH, TFB_ERR_ARG, "x.data is NULL", w.x.data = NULL);
        WRONG(BOTH, TFB_ERR_ARG, "y.data is NULL", w.y.data = NULL);
        WRONG(BOTH, TFB_ERR_SHAPE, "x.shape[2]", w.x.shape[2]--);
        WRONG(BOTH, TFB_ERR_SHAPE, "y.shape[2]", w.y.shape[2]--);
        WRONG(BOTH, TFB_ERR_SHAPE, "y.shape[1]", w.y.shape[1]--);
        WRONG(BOTH, TFB_ERR_SHAPE, "y.shape[0]", w.y.shape[0]--);
        WRONG(BOTH, TFB_ERR_SHAPE, "x.ndim is 2", w.x.ndim = 2);
        WRONG(BOTH, TFB_ERR_SHAPE, "x.ndim is 6", w.x.ndim = 6);
        WRONG(STEP, TFB_ERR_SHAPE, "x.ndim is 4", w.x.ndim = 4);
        WRONG(BOTH, TFB_ERR_SHAPE, "y.ndim is 2", w.y.ndim = 2);
        WRONG(BOTH, TFB_ERR_DTYPE, "x is F16", w.x.dtype = TFB_F16);
        WRONG(BOTH, TFB_ERR_DTYPE, "y is F16", w.y.dtype = TFB_F16);
        WRONG(BOTH, TFB_ERR_SHAPE, "overlap", w.y.stride[1] = 0);
        WRONG(BOTH, TFB_ERR_ALIAS, "overlaps x", w.y = w.x);
        WRONG(BOTH, TFB_ERR_ALIAS, "overlaps x", w.y = tokens_of(&p.x, 15, 10));
        for (a = 0; a < 4; a++)
            WRONG(BOTH, TFB_ERR_ALIAS, "y overlaps", over_weight(&w, a));
        WRONG(BOTH, TFB_ERR_SHAPE, "wqkv.shape[0]", w.block.wqkv.shape[0]--);
        WRONG(BOTH, TFB_ERR_SHAPE, "wqkv.shape[1]", w.block.wqkv.shape[1]--);
        WRONG(BOTH, TFB_ERR_SHAPE, "wout.shape[0]", w.block.wout.shape[0]++);
        WRONG(BOTH, TFB_ERR_SHAPE, "wout.shape[1]", w.block.wout.shape[1]--);
        WRONG(BOTH, TFB_ERR_SHAPE, "wout.ndim", w.block.wout.ndim = 1);
        WRONG(BOTH, TFB_ERR_DTYPE, "wout is I32", w.block.wout.dtype = TFB_I32);
        WRONG(BOTH, TFB_ERR_DTYPE, "wqkv is U8", w.block.wqkv.dtype = TFB_U8);
        WRONG(BOTH, TFB_ERR_SHAPE, "bqkv.shape[0]", w.block.bqkv.shape[0]--);
        WRONG(BOTH, TFB_ERR_SHAPE, "bout.shape[0]", w.block.bout.shape[0]--);
        WRONG(BOTH, TFB_ERR_DTYPE, "bout is F16", w.block.bout.dtype = TFB_F16);
        WRONG(BOTH, TFB_ERR_SHAPE, "channels 0", w.block.channels = 0);
        WRONG(BOTH, TFB_ERR_SHAPE, "kv_channels 0", w.block.kv_channels = 0);
        WRONG(BOTH, TFB_ERR_SHAPE, "wqkv.shape[0]", w.block.kv_channels++);
        WRONG(BOTH, TFB_ERR_ARG, "no functions", w.block.mixer.ops = NULL);
        WRONG(BOTH, TFB_ERR_ARG, "no functions", w.ops.forward = NULL);
        WRONG(STEP, TFB_ERR_UNSUPPORTED, "no step", w.ops.step = NULL);
        WRONG(BOTH, TFB_ERR_SHAPE, "cond.shape[0]", w.cond.shape[0]--);
        WRONG(BOTH, TFB_ERR_SHAPE, "cond.ndim", w.cond.ndim = 1);
        WRONG(BOTH, TFB_ERR_DTYPE, "cond is I32", w.cond.dtype = TFB_I32);
        WRONG(BOTH, TFB_ERR_SHAPE, "residual.shape[1]", w.residual.shape[1]--);
        WRONG(BOTH, TFB_ERR_ALIAS, "residual", w.residual = tokens_of(&p.y, 19, 10));
        WRONG(STEP, TFB_ERR_SHAPE, "the state has 3",
              w.x.shape[0] = w.y.shape[0] = w.residual.shape[0] = w.cond.shape[0] = 2);
        WRONG(FORWARD, TFB_ERR_SHAPE, "channels", w.att.heads = 7; w.mamba.channels++);
        WRONG(STEP, TFB_ERR_SHAPE, "", w.att.heads = 7; w.mamba.channels++);
        CHECK(tfb_qkv_forward(NULL, &p.r.block, &p.x, NULL, &p.y) == TFB_ERR_ARG, "ctx");
        CHECK(tfb_qkv_step(NULL, &p.r.block, &p.state, &p.x, NULL, &p.y) == TFB_ERR_ARG,
              "ctx");
        goes_on(&p, k);
        play_free(&p);
    }
}

/* Mamba with attention's state. */
static void refused_state(play *m, tfb_mixer_state *state) {
    job j;
    job_new(&j, m);
    j.state = state;
    refused(m, &j, STEP, TFB_ERR_SHAPE, "another block");
}

static void what_the_mixers_refuse(void) {
    const kind *k = &kinds[1];
    float lse[SAMPLES * 4 * 10];
    tfb_tensor t = tfb_view3(lse, TFB_F32, SAMPLES, 4, 10);
    tfb_mixer_state other;
    play p, m;
    play_new(&p, k, SAMPLES, 1);
    play_step(&p, 0, 20, 7);
    WRONG(BOTH, TFB_ERR_ARG, "one sequence", w.att.opts.lse = &t);
    WRONG(BOTH, TFB_ERR_ARG, "one sequence", w.att.opts.kv_len = &t);
    WRONG(STEP, TFB_ERR_UNSUPPORTED, "causal", w.att.opts.causal = TFB_CAUSAL_NONE);
    WRONG(BOTH, TFB_ERR_SHAPE, "", w.att.kv_heads = 1);
    WRONG(BOTH, TFB_ERR_SHAPE, "", w.att.kv_heads = 3);
    WRONG(FORWARD, TFB_ERR_SHAPE, "heads", w.att.heads = 0);
    WRONG(STEP, TFB_ERR_SHAPE, "another block", w.att.heads = 0);
    WRONG(BOTH, TFB_ERR_SHAPE, "weight", w.att.q_weight.shape[0]--);
    WRONG(BOTH, TFB_ERR_SHAPE, "weight", w.att.k_weight.shape[0]--);
    WRONG(BOTH, TFB_ERR_ARG, "dims", w.att.rope.dims = 3);
    WRONG(BOTH, TFB_ERR_ARG, "axes", w.att.rope.axes = 9);
    WRONG(BOTH, TFB_ERR_ARG, "softcap", w.att.opts.softcap = -1.0f);
    play_new(&m, &kinds[4], SAMPLES, 1);
    WRONG(STEP, TFB_ERR_SHAPE, "another block", w.state = &m.state);
    CHECK_OK(&p.ctx, tfb_mixer_state_init(&p.ctx, &other, &m.r.block, 2, 9, NULL, 0));
    WRONG(STEP, TFB_ERR_SHAPE, "the state has 2", w.state = &other);
    tfb_mixer_state_free(&other);
    play_step(&p, 20, 145, 20);
    WRONG(STEP, TFB_ERR_FULL, "", (void)0);
    goes_on(&p, k);
    play_free(&p);
    play_step(&m, 0, 20, 7);
    play_new(&p, k, SAMPLES, 1);
    refused_state(&m, &p.state);
    play_free(&p);
    p = m;
    p.state = m.state;
    WRONG(STEP, TFB_ERR_UNSUPPORTED, "both directions", w.mamba.bidirectional = 1);
    WRONG(BOTH, TFB_ERR_SHAPE, "", w.mamba.core[0].w_in.shape[0]--);
    WRONG(BOTH, TFB_ERR_SHAPE, "", w.mamba.core[0].conv_w.shape[0]--);
    WRONG(BOTH, TFB_ERR_SHAPE, "", w.mamba.core[0].w_x.shape[0]--);
    WRONG(BOTH, TFB_ERR_SHAPE, "", w.mamba.core[0].w_dt.shape[0]--);
    WRONG(BOTH, TFB_ERR_SHAPE, "", w.mamba.core[0].a_log.shape[1]--);
    WRONG(BOTH, TFB_ERR_SHAPE, "", w.mamba.core[0].d.shape[0]--);
    WRONG(BOTH, TFB_ERR_SHAPE, "", w.mamba.core[0].w_out.shape[0]--);
    goes_on(&p, &kinds[4]);
    play_free(&p);
}

/* --- Scratch: measured exactly, enough or refused; nothing allocated when warm. --- */
static tfb_status run(tfb_ctx *ctx, play *p, int step, tfb_idx from, tfb_idx n) {
    tfb_tensor x = tokens_of(&p->x, from, n), y = tokens_of(&p->y, from, n);
    return step ? tfb_qkv_step(ctx, &p->r.block, &p->state, &x, NULL, &y)
                : tfb_qkv_forward(ctx, &p->r.block, &x, NULL, &y);
}

static void scratch_is_what_was_measured(void) {
    const kind *k;
    int step;
    EACH_KIND(k) for (step = 0; step <= (k - kinds < STEPPED); step++) {
        tfb_ctx measure, tight;
        size_t need, less;
        void *mem;
        play p;
        play_new(&p, k, SAMPLES, 1);
        if (step) play_step(&p, 0, 20, 0);
        CHECK_OK(&measure, tfb_ctx_init_measure(&measure));
        CHECK_OK(&measure, tfb_isa_force(&measure, tfb_isa_name(&p.ctx)));
        CHECK_OK(&measure, run(&measure, &p, step, 20, 12));
        CHECK(!step || p.state.tokens == 20, "%s: measuring steps", k->name);
        need = measure.scratch_peak;
        mem = bytes_new(need + 64);
        for (less = need; less > 64; less -= TFB__MAX(64, need / 40 / 64 * 64)) {
            if (less == need) continue; /* the last one below */
            CHECK_OK(&tight, tfb_ctx_init_static(&tight, mem, less - 1));
            CHECK_OK(&tight, tfb_isa_force(&tight, tfb_isa_name(&p.ctx)));
            memset(p.y_mem + 20 * k->C, 0, 48 * (size_t)k->C);
            CHECK_FAILS(&tight, TFB_ERR_SCRATCH, "", run(&tight, &p, step, 20, 12));
            CHECK(!step || p.state.tokens == 20, "%s: tokens", k->name);
            if (less < 64 + TFB__MAX(64, need / 40 / 64 * 64)) break;
        }
        CHECK_OK(&tight, tfb_ctx_init_static(&tight, mem, need));
        CHECK_OK(&tight, tfb_isa_force(&tight, tfb_isa_name(&p.ctx)));
        CHECK_OK(&tight, run(&tight, &p, step, 20, 12));
        CHECK(tight.scratch_peak == need, "%s, step %d: %ld, measured %ld", k->name, step,
              (long)tight.scratch_peak, (long)need);
        if (step) goes_on(&p, k);
        free(mem);
        play_free(&p);
    }
}

static void warm_calls_allocate_nothing(void) {
    const kind *k;
    int step, i;
    EACH_KIND(k) for (step = 0; step <= (k - kinds < STEPPED); step++) {
        t_heap heap;
        tfb_ctx ctx;
        play p;
        play_new(&p, k, SAMPLES, 1);
        t_ctx(&ctx, &heap);
        CHECK_OK(&ctx, run(&ctx, &p, step, 0, 3));
        for (i = 1; i < 40; i++) {
            const long calls = heap.calls;
            CHECK_OK(&ctx, run(&ctx, &p, step, 3 * i, 3));
            CHECK(i < 2 || heap.calls == calls, "%s: call %d allocates", k->name, i);
        }
        tfb_ctx_free(&ctx);
        CHECK(heap.live == 0, "%s: %ld blocks are left", k->name, heap.live);
        play_free(&p);
    }
}

/* Every allocation fails once: the state goes on, in a ring too. */
static void failing_allocations(void) {
    const kind *k;
    EACH_STEPPED(k) {
        long at_call;
        int done = 0;
        for (at_call = 1; !done && at_call < 40; at_call++) {
            t_heap heap;
            tfb_ctx ctx;
            tfb_status status;
            play p;
            play_new(&p, k, SAMPLES, 1);
            play_step(&p, 0, 20, 0);
            t_ctx(&ctx, &heap);
            heap.fail_at = at_call;
            status = run(&ctx, &p, 1, 20, 125);
            done = status == TFB_OK;
            CHECK(done || (status == TFB_ERR_MEMORY && p.state.tokens == 20), "%s: %s",
                  k->name, ctx.message);
            goes_on(&p, k);
            tfb_ctx_free(&ctx);
            CHECK(heap.live == 0, "%s: %ld blocks are left", k->name, heap.live);
            play_free(&p);
        }
        CHECK(done && at_call > 2, "%s: %ld", k->name, at_call);
    }
}

int main(void) {
    RUN(steps_are_forward);
    RUN(rollback_leaves_nothing);
    RUN(selected_states_go_on);
    RUN(states_and_their_memory);
    RUN(what_the_block_refuses);
    RUN(what_the_mixers_refuse);
    RUN(scratch_is_what_was_measured);
    RUN(warm_calls_allocate_nothing);
    RUN(failing_allocations);
    FINISH();
}
