/* Section [4]: QKV blocks with attention and Mamba inside: forward, steps, states that
 * are marked, rolled back and selected from, weights loaded and saved. */
enum { MIXER_TOKENS = 12, MIXER_SAMPLES = 3 };

typedef struct mixer_rig {
    rig r;
    tfb_ctx *ctx;
    tfb_mixer_state state;
    char *mem;
    size_t bytes;
    tfb_tensor x, want; /* [samples, tokens, C] */
    tfb_idx C, batch, map[MIXER_SAMPLES], marked[MIXER_SAMPLES];
} mixer_rig;

/* A state is its struct and its memory. */
static char *mixer_snap(const mixer_rig *m) {
    char *all = (char *)op_bytes(sizeof m->state + m->bytes);
    memcpy(all, &m->state, sizeof m->state);
    memcpy(all + sizeof m->state, m->mem, m->bytes);
    return all;
}

static void mixer_unchanged(const mixer_rig *m, const char *before) {
    CHECK(!memcmp(before, &m->state, sizeof m->state) &&
              !memcmp(before + sizeof m->state, m->mem, m->bytes),
          "the state changed: %s", m->ctx->message);
    CHECK(m->ctx->message[0], "no message");
}

static void mixer_begin(fuzz *f, mixer_rig *m) {
    const kind *k = &kinds[fuzz_byte(f) % STEPPED];
    int b;
    memset((void *)m, 0, sizeof *m);
    m->ctx = &op_rig_get()->hosted;
    op_workers(op_rig_get(), m->ctx, (int)fuzz_in(f, 1, 3));
    t_seed = fuzz_word(f);
    rig_new(m->ctx, &m->r, k);
    m->C = k->C;
    m->x = tfb_view3(t_floats(MIXER_SAMPLES * MIXER_TOKENS * k->C), TFB_F32,
                     MIXER_SAMPLES, MIXER_TOKENS, k->C);
    m->want = with_data(m->x, t_floats(tfb_numel(&m->x)));
    CHECK_OK(m->ctx, tfb_qkv_forward(m->ctx, &m->r.block, &m->x, NULL, &m->want));
    m->bytes = tfb_mixer_state_bytes(&m->r.block, MIXER_SAMPLES, MIXER_TOKENS);
    m->mem = (char *)op_bytes(m->bytes);
    CHECK_OK(m->ctx, tfb_mixer_state_init(m->ctx, &m->state, &m->r.block, MIXER_SAMPLES,
                                          MIXER_TOKENS, m->mem, m->bytes));
    m->batch = m->state.batch;
    for (b = 0; b < MIXER_SAMPLES; b++) m->map[b] = b;
}

/* The next n tokens; sometimes with a wrong shape or without memory. */
static void mixer_step(fuzz *f, mixer_rig *m) {
    const tfb_idx n = fuzz_in(f, 0, 4), from = m->state.tokens;
    const int odd = fuzz_byte(f);
    tfb_idx B = m->state.batch, C = m->C, b, i;
    char *before = mixer_snap(m);
    float *y = t_floats((B + 1) * n * (C + 1)), *was,
          *x = t_floats((B + 1) * n * (C + 1));
    tfb_tensor X, Y;
    tfb_status got;
    if (odd % 8 == 7) B += odd & 64 ? 1 : -1;
    if (odd % 8 == 6) C += odd & 64 ? 1 : -1;
    X = tfb_view3(x, TFB_F32, B, n, C);
    Y = tfb_view3(y, TFB_F32, B, n, C);
    for (b = 0; b < m->state.batch; b++)
        for (i = 0; i < n * m->C && odd % 8 < 6; i++)
            x[b * n * m->C + i] =
                from + n <= MIXER_TOKENS
                    ? ((float *)m->x.data)[(m->map[b] * MIXER_TOKENS + from) * m->C + i]
                    : 1.0f;
    was = (float *)memcpy(op_bytes(sizeof(float) * (size_t)tfb_numel(&Y)), y,
                          sizeof(float) * (size_t)tfb_numel(&Y));
    if (odd % 8 == 5)
        op_rig_get()->heap.fail_at = op_rig_get()->heap.calls + 1 + odd / 64;
    if (odd % 8 == 5) op_rig_empty();
    got = tfb_qkv_step(m->ctx, &m->r.block, &m->state, &X, NULL, &Y);
    op_rig_get()->heap.fail_at = 0;
    if (got != TFB_OK) {
        mixer_unchanged(m, before);
        CHECK(!memcmp(was, y, sizeof(float) * (size_t)tfb_numel(&Y)), "y was written");
        CHECK(odd % 8 >= 5 || from + n > MIXER_TOKENS, "step: %s", m->ctx->message);
    } else
        for (b = 0; b < B; b++)
            CHECK_BITS(y + b * n * m->C,
                       (float *)m->want.data + (m->map[b] * MIXER_TOKENS + from) * m->C,
                       n * m->C, "step");
    free(before), free(x), free(y), free(was);
}

static void mixer_select(fuzz *f, mixer_rig *m) {
    int32_t index[MIXER_SAMPLES + 1];
    const int n = (int)fuzz_in(f, 0, MIXER_SAMPLES + 1);
    tfb_tensor t = tfb_view1(index, TFB_I32, n);
    tfb_idx map[MIXER_SAMPLES];
    char *before = mixer_snap(m);
    int i;
    for (i = 0; i < n; i++) index[i] = (int32_t)fuzz_in(f, 0, MIXER_SAMPLES + 1) - 1;
    memcpy(map, m->map, sizeof map);
    if (tfb_mixer_state_select(m->ctx, &m->state, &t) != TFB_OK)
        mixer_unchanged(m, before);
    else
        for (i = 0; i < n && i < MIXER_SAMPLES; i++) m->map[i] = map[index[i]];
    free(before);
}

static void mixer_states(fuzz *f) {
    mixer_rig m;
    int steps, i;
    mixer_begin(f, &m);
    for (steps = 0; steps < 12 && f->at < f->end && t_bad == 0; steps++) {
        const int what = fuzz_byte(f) % 8;
        char *before = mixer_snap(&m);
        if (what < 3) mixer_step(f, &m);
        else if (what == 3) mixer_select(f, &m);
        else if (what == 4) {
            if (tfb_mixer_state_mark(m.ctx, &m.state) == TFB_OK)
                memcpy(m.marked, m.map, sizeof m.map);
            else mixer_unchanged(&m, before);
        } else if (what == 5) {
            if (tfb_mixer_state_rollback(m.ctx, &m.state) == TFB_OK)
                memcpy(m.map, m.marked, sizeof m.map);
            else mixer_unchanged(&m, before);
        } else if (what == 6) tfb_mixer_state_commit(&m.state);
        else if (fuzz_byte(f) % 4 == 0) {
            tfb_mixer_state_reset(&m.state);
            for (i = 0; i < MIXER_SAMPLES; i++) m.map[i] = i;
        }
        free(before);
    }
    tfb_mixer_state_free(&m.state);
    rig_free(&m.r);
    free(m.x.data), free(m.want.data), free(m.mem);
}

/* Parameters saved, changed, loaded: all of them or none. */
static void mixer_params(fuzz *f) {
    tfb_ctx *ctx = &op_rig_get()->hosted;
    rig r;
    const int b = fuzz_byte(f);
    char *mem, *weights, *cut;
    size_t need, all;
    uint64_t sum;
    int i;
    t_seed = fuzz_word(f);
    rig_new(ctx, &r, &kinds[b % 9]);
    need = tfb_params_bytes(tfb_qkv_params, &r.block);
    mem = (char *)op_bytes(need);
    CHECK_OK(ctx, tfb_params_save(ctx, tfb_qkv_params, &r.block, mem, need));
    for (i = 0; i < b / 16 % 4; i++) mem[fuzz_word(f) % need] = (char)fuzz_byte(f);
    all = b & 64 ? need : fuzz_word(f) % need;
    if (b & 128 && all >= 40) {
        for (i = 0; i < 8; i++) mem[24 + i] = (char)(all >> (8 * i) & 255);
        sum = tfb__kv_sum(mem + 24, all - 24);
        for (i = 0; i < 8; i++) mem[16 + i] = (char)(sum >> (8 * i) & 255);
    }
    cut = (char *)memcpy(op_bytes(all), mem, all);
    weights = (char *)memcpy(op_bytes((size_t)tfb_numel(&r.block.wqkv) * 4),
                             r.block.wqkv.data, (size_t)tfb_numel(&r.block.wqkv) * 4);
    if (tfb_params_load(ctx, tfb_qkv_params, &r.block, cut, all) != TFB_OK) {
        CHECK(ctx->message[0], "no message");
        CHECK(!memcmp(weights, r.block.wqkv.data, (size_t)tfb_numel(&r.block.wqkv) * 4),
              "weights changed: %s", ctx->message);
    }
    rig_free(&r);
    free(mem), free(weights), free(cut);
}

/* Sizes of blocks that nobody means: a status or 0, and no arithmetic that overflows. */
static void mixer_sizes(fuzz *f) {
    tfb_ctx *ctx = &op_rig_get()->hosted;
    tfb_idx n[8], spatial[3];
    tfb_mhsa_opts h;
    tfb_mamba_opts m;
    tfb_mhsa block;
    tfb_mamba mamba;
    size_t bytes;
    char *mem;
    int i;
    memset((void *)&h, 0, sizeof h);
    memset((void *)&m, 0, sizeof m);
    for (i = 0; i < 8; i++) n[i] = fuzz_byte(f) % 4 ? fuzz_in(f, 0, 8) : fuzz_any(f);
    for (i = 0; i < 3; i++) spatial[i] = n[5 + i];
    h.channels = m.channels = n[0];
    h.heads = m.expand = n[1];
    h.kv_heads = m.states = n[2];
    h.window = m.taps = n[3];
    h.chunk_size = m.rank = n[4];
    h.bias = m.bidirectional = fuzz_byte(f) & 1;
    h.causal = (tfb_causal)fuzz_in(f, 0, 3);
    bytes = tfb_mhsa_bytes(&h);
    mem = (char *)op_bytes(bytes < 100000 ? bytes : 0);
    if (tfb_mhsa_init(ctx, &block, &h, mem, bytes < 100000 ? bytes : 0) == TFB_OK) {
        CHECK(bytes > 0, "no bytes");
        CHECK(tfb_qkv_flops(&block.block, spatial, (int)fuzz_in(f, 0, 4), 0) >= -1,
              "flops");
    } else CHECK(ctx->message[0], "no message");
    free(mem);
    bytes = tfb_mamba_bytes(&m);
    mem = (char *)op_bytes(bytes < 100000 ? bytes : 0);
    if (tfb_mamba_init(ctx, &mamba, &m, mem, bytes < 100000 ? bytes : 0) == TFB_OK)
        CHECK(bytes > 0, "no bytes");
    else CHECK(ctx->message[0], "no message");
    free(mem);
}

static void fuzz_mixers(fuzz *f) {
    const int what = fuzz_byte(f) % 8;
    if (what < 3) mixer_states(f);
    else if (what == 3) mixer_params(f);
    else if (what == 4) mixer_sizes(f);
    else fuzz_section(f, "tfb_qkv_forward", "tfb_qkv_forward");
}
