/* Section [1]: tensor ops, views, new tensors, contexts and tables. */

/* A view of a view stays inside its block: all its elements are read. */
static void basics_read(const tfb_tensor *t) {
    float sum = 0;
    tfb_idx i;
    for (i = 0; i < tfb_numel(t); i++) sum += *op_at(t, i);
    CHECK(sum < 0 || sum >= 0 || sum != sum, "that cannot be");
}

static void basics_views(fuzz *f) {
    op_rig *r = op_rig_get();
    tfb_ctx *ctx = &r->hosted;
    op_call c = op_begin(&ops[0]);
    tfb_tensor *t = &c.t[0], before;
    int k, d, order[TFB_MAX_DIMS];
    tfb_idx shape[TFB_MAX_DIMS];
    for (d = 'A'; d <= 'C'; d++) c.dim[d] = fuzz_in(f, 0, 5);
    op_shape(&c);
    fuzz_layout(f, t, fuzz_byte(f) & 7);
    op_alloc(&c);
    for (k = 0; k < 6; k++) {
        const int what = fuzz_byte(f) % 4, dim = (int)fuzz_in(f, 0, 9) - 4;
        tfb_status got = TFB_ERR_ARG;
        before = *t;
        for (d = 0; d < TFB_MAX_DIMS; d++) {
            order[d] = (int)fuzz_in(f, 0, TFB_MAX_DIMS - 1);
            shape[d] = order[d] == 5 ? fuzz_any(f) : fuzz_in(f, 0, 6) - 1;
        }
        if (what == 0) got = tfb_slice(ctx, t, dim, shape[0], shape[1], t);
        if (what == 1) got = tfb_permute(ctx, t, order, t);
        if (what >= 2) got = tfb_reshape(ctx, t, dim, shape, t);
        if (got != TFB_OK) {
            CHECK(ctx->message[0], "no message");
            CHECK(!memcmp(&before, t, sizeof before), "a view changed: %s", ctx->message);
        }
        if (what >= 2 && got == TFB_OK)
            CHECK(tfb_numel(t) == tfb_numel(&before), "another number of elements");
        basics_read(t);
    }
    op_end(&c);
}

static void basics_new(fuzz *f) {
    op_rig *r = op_rig_get();
    tfb_ctx *ctx = &r->hosted;
    const long live = r->heap.live;
    const int ndim = (int)fuzz_in(f, 0, 9) - 1;
    tfb_idx shape[TFB_MAX_DIMS + 3], i;
    size_t all = 1;
    tfb_tensor t;
    tfb_status got;
    memset((void *)&t, 0, sizeof t);
    for (i = 0; i < TFB_MAX_DIMS + 3; i++) {
        shape[i] = fuzz_in(f, 0, 7) == 7 ? fuzz_any(f) : fuzz_in(f, 0, 4);
        if (i < ndim) all = tfb__size_mul(all, (size_t)TFB__MAX(shape[i], 1));
    }
    if (fuzz_byte(f) & 1 || all > 100000) /* more is not asked of malloc */
        r->heap.fail_at = r->heap.calls + 1;
    got = tfb_tensor_new(ctx, &t, (tfb_dtype)fuzz_in(f, 0, 9), ndim, shape);
    r->heap.fail_at = 0;
    CHECK(got == TFB_OK || (ctx->message[0] && !t.data && !t.ndim), "t was touched");
    if (got == TFB_OK && t.dtype == TFB_F32) basics_read(&t);
    tfb_tensor_free(ctx, &t);
    CHECK(r->heap.live == live && !t.data, "memory was kept");
}

static void basics_context(fuzz *f) {
    static const char *const names[] = {"scalar", "avx2", "avx512", "neon", "", "x"};
    tfb_ctx ctx;
    const char *why = NULL, *was;
    int i = fuzz_byte(f);
    char *mem = (char *)op_bytes(64);
    tfb_status got = tfb_ctx_init_static(&ctx, fuzz_byte(f) & 1 ? mem : mem + i % 9,
                                         (size_t)fuzz_byte(f) % 50);
    CHECK(got == TFB_OK || ctx.message[0], "no message");
    was = tfb_isa_name(&ctx);
    if (tfb_isa_force(&ctx, names[fuzz_byte(f) % 6]) != TFB_OK)
        CHECK(ctx.message[0] && tfb_isa_name(&ctx) == was, "the table changed");
    CHECK(!tfb_isa_list(&ctx, i - 128, &why) || why, "no reason");
    CHECK(tfb_ctx_threads(&ctx, i - 128, i) != TFB_OK || i - 128 == 1, "a pool");
    CHECK(tfb_status_text((tfb_status)(i - 128)) != NULL, "no text");
    tfb_ctx_free(&ctx);
    free(mem);
}

static void fuzz_basics(fuzz *f) {
    const int what = fuzz_byte(f) % 8;
    if (what == 0) basics_views(f);
    else if (what == 1) basics_new(f);
    else if (what == 2) basics_context(f);
    else fuzz_section(f, "tfb_copy", "tfb_uniform");
}
