/* Section [2]: matmul, linear and packs, of bytes that are none too. */
static void linear_open(fuzz *f) {
    tfb_ctx *ctx = &op_rig_get()->hosted;
    const tfb_idx n = fuzz_in(f, 0, 40), k = fuzz_in(f, 0, 20);
    const tfb_dtype dtype = (tfb_dtype)fuzz_in(f, 0, 2);
    const size_t need = tfb_pack_bytes(n, k, dtype);
    size_t bytes = fuzz_byte(f) & 1 ? need : (size_t)fuzz_word(f) % (need + 2);
    char *w = (char *)op_bytes(need), *mem = (char *)op_bytes(need), *cut;
    float *x = t_floats(k), *y = t_floats(n);
    tfb_tensor packed, W = tfb_view2(w, dtype, n, k), X = tfb_view1(x, TFB_F32, k);
    tfb_tensor Y = tfb_view1(y, TFB_F32, n);
    int i, changes = fuzz_byte(f) % 4;
    memset(w, 0x3C, need);
    CHECK_OK(ctx, tfb_pack(ctx, &W, mem, need, &packed));
    for (i = 0; i < changes; i++) mem[fuzz_byte(f) % 64] = (char)fuzz_byte(f);
    bytes = TFB__MIN(bytes, need);
    cut = (char *)memcpy(op_bytes(bytes), mem, bytes);
    memset((void *)&packed, 0, sizeof packed);
    if (tfb_pack_open(ctx, cut, bytes, &packed) != TFB_OK)
        CHECK(ctx->message[0] && !packed.data, "opened: %s", ctx->message);
    else if (packed.shape[0] == n && packed.shape[1] == k)
        CHECK_OK(ctx, tfb_linear(ctx, &X, &packed, NULL, &Y));
    free(w), free(mem), free(cut), free(x), free(y);
}

static void fuzz_linear(fuzz *f) {
    if (fuzz_byte(f) % 8 == 0) linear_open(f);
    else fuzz_section(f, "tfb_matmul", "tfb_pack");
}
