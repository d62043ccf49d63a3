/* Section [4]: chunked forward over several inputs and outputs of any rank and stride,
 * and the search for a chunk size. The callback writes every element of every output. */
enum { CHUNKS_MOST = 3 };

typedef struct chunks {
    op_call c;                  /* inputs, then outputs */
    int inputs, outputs, fails; /* the chunk that fails, -1 none */
    tfb_chunk_opts o;
} chunks;

static tfb_idx chunks_count(const tfb_tensor *t) {
    return t->dtype == TFB_F32 ? tfb_numel(t) : 0;
}

static tfb_status chunks_forward(tfb_ctx *ctx, void *user, const tfb_chunk *chunk) {
    chunks *s = (chunks *)user;
    tfb_tensor t;
    tfb_idx n = chunk->length, i, k;
    int j;
    if (n < 0 || chunk->inputs != s->inputs || chunk->outputs != s->outputs)
        return TFB_ERR_RANGE;
    n = TFB__MIN(n, 100);
    TFB__TRY(tfb_scratch(ctx, &t, TFB_F32, 1, &n));
    for (i = 0; t.data && i < n; i++) ((float *)t.data)[i] = 1;
    if (ctx->measuring) return TFB_OK;
    if (chunk->index == s->fails) return TFB_ERR_FORMAT;
    for (j = 0; j < chunk->outputs; j++)
        for (k = 0; k < chunks_count(&chunk->out[j]); k++)
            *op_at(&chunk->out[j], k) =
                (float)(chunk->start + k % 7) + (n ? ((float *)t.data)[0] : 0.0f);
    for (j = 0; j < chunk->inputs; j++)
        for (k = 0; k < chunks_count(&chunk->in[j]); k++)
            CHECK(*op_at(&chunk->in[j], k) < 1e30f, "an input is not there");
    return TFB_OK;
}

OP_RUN(run_chunks) {
    chunks *s = (chunks *)(uintptr_t)c;
    (void)t;
    return tfb_chunked_forward(ctx, chunks_forward, s, s->c.t, s->inputs,
                               s->c.t + s->inputs, s->outputs, &s->o);
}

static const op chunks_op = {"tfb_chunked_forward", "x:A", {0}, {0}, run_chunks, NULL};

static void chunks_tensor(fuzz *f, tfb_tensor *t, int dim, tfb_idx length) {
    int d;
    memset((void *)t, 0, sizeof *t);
    t->ndim = (int)fuzz_in(f, 1, 4);
    for (d = 0; d < t->ndim; d++) t->shape[d] = fuzz_in(f, 0, 4);
    d = dim < 0 ? dim + t->ndim : dim;
    if (d >= 0 && d < t->ndim) t->shape[d] = length;
    tfb__dense_strides(t);
    if (fuzz_byte(f) & 1) fuzz_layout(f, t, fuzz_byte(f) & 7);
}

static void chunks_size_for(fuzz *f, chunks *s) {
    tfb_ctx *ctx = &op_rig_get()->hosted;
    const size_t bytes = fuzz_byte(f) & 1 ? fuzz_word(f) : (size_t)fuzz_any(f);
    tfb_idx size = -77;
    tfb_status got;
    int i, d;
    for (i = 0; i < s->c.n; i++) /* its cost grows with the sizes it may try */
        for (d = 0; d < s->c.t[i].ndim && d < TFB_MAX_DIMS; d++)
            if (s->c.t[i].shape[d] > 4096) return;
    got = tfb_chunk_size_for(ctx, chunks_forward, s, s->c.t, s->inputs,
                             s->c.t + s->inputs, s->outputs, &s->o, bytes, &size);
    CHECK(got == TFB_OK || (size == -77 && ctx->message[0]), "a size of a failure");
    CHECK(got != TFB_OK || size >= 0, "the size is %ld", (long)size);
}

static void fuzz_chunks(fuzz *f) {
    static chunks s;
    const int b = fuzz_byte(f), dim = (int)fuzz_in(f, 0, 5) - 3;
    const tfb_idx length = fuzz_in(f, 0, 12);
    int i;
    if (b % 4 == 0) {
        fuzz_section(f, "tfb_chunked_forward", "tfb_chunked_forward");
        return;
    }
    memset((void *)&s, 0, sizeof s);
    s.c.op = &chunks_op;
    s.inputs = (int)fuzz_in(f, 0, CHUNKS_MOST);
    s.outputs = (int)fuzz_in(f, 0, CHUNKS_MOST);
    s.fails = (int)fuzz_in(f, 0, 9) - 4;
    s.c.n = s.inputs + s.outputs;
    s.o.chunk_size = fuzz_byte(f) % 8 ? fuzz_in(f, 0, 6) : fuzz_any(f);
    s.o.dim = dim;
    s.o.remainder = b >> 2 & 1;
    s.o.parallel = b >> 3 & 1;
    for (i = 0; i < s.c.n; i++) {
        const tfb_idx half = i >= s.inputs && b & 16 ? 2 : 1;
        chunks_tensor(f, &s.c.t[i], dim, length / half);
        s.c.owner[i] = i;
        s.c.arg[i].writes = i >= s.inputs;
        strcpy(s.c.arg[i].name, i < s.inputs ? "input" : "output");
    }
    s.c.has = (1u << s.c.n) - 1;
    if (s.c.n) {
        const int mutations = fuzz_byte(f);
        for (i = 0; i < mutations / 8 % 4; i++)
            if (mutations % 8 == 7) fuzz_mutate(f, &s.c);
        op_alloc(&s.c);
        if (mutations % 8 == 6) fuzz_alias(f, &s.c);
        s.c.has = (1u << s.c.n) - 1;
        if (s.fails >= 0 && !s.c.dry) { /* nothing but chunks before it */
            tfb_ctx *ctx = &op_rig_get()->hosted;
            op_workers(op_rig_get(), ctx, 1 + b % 3);
            if (run_chunks(ctx, &s.c, NULL) != TFB_OK)
                CHECK(ctx->message[0], "no message");
            op_clean(&s.c, "a call that fails");
        } else op_check(&s.c, 1 + b % 3, 1);
    }
    chunks_size_for(f, &s);
    op_end(&s.c);
}
