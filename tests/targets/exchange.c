/* Packs, saved caches and saved parameters as files between machines:
 *     exchange write folder    writes them
 *     exchange read folder     opens what another machine wrote: the same bytes as ours,
 *                              and the same results as what they were made of */
#include "../test.h"

enum { ROWS = 21, K = 37, TOKENS = 70, DIM = 5, CHANNELS = 6 };
static const tfb_dtype dtypes[] = {TFB_F32, TFB_F16, TFB_BF16};
static const char *const dtype_names[] = {"f32", "f16", "bf16"};

static const char *folder;
static int writes;
static tfb_ctx ctx;

typedef struct bytes {
    unsigned char *at;
    size_t n;
} bytes;

static bytes bytes_new(size_t n) {
    bytes b;
    b.at = (unsigned char *)malloc(n + 1);
    b.n = n;
    if (!b.at) exit(99);
    return b;
}

static FILE *open_file(const char *name, const char *kind, const char *mode) {
    char path[256];
    FILE *f;
    sprintf(path, "%.200s/%.20s_%.20s", folder, name, kind);
    f = fopen(path, mode);
    CHECK(f, "%s does not open", path);
    return f;
}

/* Writes ours; or reads theirs over it: the same bytes. */
static int exchanged(bytes ours, const char *name, const char *kind) {
    FILE *f = open_file(name, kind, writes ? "wb" : "rb");
    bytes theirs = bytes_new(ours.n + 1);
    if (!f) return 0;
    if (writes) CHECK(fwrite(ours.at, 1, ours.n, f) == ours.n, "%s_%s", name, kind);
    else {
        theirs.n = fread(theirs.at, 1, ours.n + 1, f);
        CHECK(theirs.n == ours.n && memcmp(theirs.at, ours.at, ours.n) == 0,
              "%s_%s: %lu bytes, not our %lu", name, kind, (unsigned long)theirs.n,
              (unsigned long)ours.n);
        memcpy(ours.at, theirs.at, ours.n);
    }
    CHECK(fclose(f) == 0, "%s_%s", name, kind);
    free(theirs.at);
    return !writes;
}

/* The same ones for who writes and who reads. */
static float *random_floats(tfb_idx n) {
    t_seed = 5;
    return t_floats(n);
}

static void product(const tfb_tensor *w, float *y) {
    float *data = random_floats(3 * K);
    const tfb_tensor x = tfb_view2(data, TFB_F32, 3, K);
    tfb_tensor out = tfb_view2(y, TFB_F32, 3, ROWS);
    CHECK_OK(&ctx, tfb_linear(&ctx, &x, w, NULL, &out));
    free(data);
}

static void pack(int i) {
    float *plain = random_floats(ROWS * K), want[3 * ROWS], y[3 * ROWS];
    tfb_tensor from = tfb_view2(plain, TFB_F32, ROWS, K), w, packed;
    const bytes b = bytes_new(tfb_pack_bytes(ROWS, K, dtypes[i]));
    const tfb_idx shape[2] = {ROWS, K};
    CHECK_OK(&ctx, tfb_tensor_new(&ctx, &w, dtypes[i], 2, shape));
    CHECK_OK(&ctx, tfb_copy(&ctx, &from, &w));
    CHECK_OK(&ctx, tfb_pack(&ctx, &w, b.at, b.n, &packed));
    if (exchanged(b, "pack", dtype_names[i])) {
        CHECK_OK(&ctx, tfb_pack_open(&ctx, b.at, b.n, &packed));
        product(&w, want);
        product(&packed, y);
        CHECK_BITS(y, want, 3 * ROWS, "pack of %s", dtype_names[i]);
    }
    tfb_tensor_free(&ctx, &w);
    free(b.at);
    free(plain);
}

static void packs(void) {
    int i;
    for (i = 0; i < 3; i++) pack(i);
}

/* Rows, then of a ring more than it keeps. */
static void fill(tfb_kv *kv, const tfb_kv_opts *o) {
    float *x = random_floats(2 * 2 * TOKENS * DIM);
    const tfb_tensor key = tfb_view4(x, TFB_F32, 1, 2, TOKENS, DIM);
    const tfb_tensor value = tfb_view4(x + 2 * TOKENS * DIM, TFB_F32, 1, 2, TOKENS, DIM);
    int layer, again;
    for (again = 0; again < 2; again++)
        for (layer = 0; layer < o->layers; layer++)
            CHECK_OK(&ctx, tfb_kv_append(&ctx, kv, layer, &key, &value));
    free(x);
}

static void rows_of(const tfb_kv *kv, int layer, float *x) {
    const tfb_idx n = tfb_kv_length(kv, layer);
    tfb_tensor key = tfb_view4(x, TFB_F32, 1, 2, n, DIM);
    tfb_tensor value = tfb_view4(x + 2 * n * DIM, TFB_F32, 1, 2, n, DIM);
    CHECK_OK(&ctx, tfb_kv_get(&ctx, kv, layer, &key, &value));
}

static void kv(int i, int ring) {
    float want[2 * 2 * 2 * TOKENS * DIM], x[2 * 2 * 2 * TOKENS * DIM];
    tfb_kv one, other;
    tfb_kv_opts o = TFB_INIT;
    bytes b;
    int layer;
    o.layers = 2;
    o.dtype = dtypes[i];
    if (ring) {
        o.shape.window = 40;
        o.shape.pinned = 3;
        o.shape.chunk = TOKENS;
    }
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &one, &o));
    CHECK_OK(&ctx, tfb_kv_init(&ctx, &other, &o));
    fill(&one, &o);
    b = bytes_new(tfb_kv_save_bytes(&one));
    CHECK_OK(&ctx, tfb_kv_save(&ctx, &one, b.at, b.n));
    if (exchanged(b, ring ? "ring" : "kv", dtype_names[i])) {
        CHECK_OK(&ctx, tfb_kv_load(&ctx, &other, b.at, b.n));
        for (layer = 0; layer < 2; layer++) {
            const tfb_idx n = tfb_kv_length(&one, layer);
            CHECK(tfb_kv_length(&other, layer) == n, "%ld rows, not %ld",
                  (long)tfb_kv_length(&other, layer), (long)n);
            if (tfb_kv_length(&other, layer) != n) break;
            rows_of(&one, layer, want);
            rows_of(&other, layer, x);
            CHECK_BITS(x, want, 2 * 2 * n * DIM, "layer %d of %s", layer, dtype_names[i]);
        }
    }
    tfb_kv_free(&one);
    tfb_kv_free(&other);
    free(b.at);
}

static void caches(void) {
    int i;
    for (i = 0; i < 3; i++) kv(i, 0);
}

static void rings(void) {
    int i;
    for (i = 0; i < 3; i++) kv(i, 1);
}

static tfb_status clear(void *user, const char *name, tfb_tensor *t) {
    (void)user;
    (void)name;
    memset(t->data, 0, (size_t)tfb_numel(t) * sizeof(float));
    return TFB_OK;
}

static void parameters(void) {
    tfb_qkv_opts o = TFB_INIT;
    tfb_mamba_opts m = TFB_INIT;
    tfb_mamba mamba;
    tfb_qkv block;
    bytes core, mem, b, was;
    o.channels = m.channels = CHANNELS;
    o.bias = 1;
    o.seed = 7;
    m.seed = 11;
    core = bytes_new(tfb_mamba_bytes(&m));
    CHECK_OK(&ctx, tfb_mamba_init(&ctx, &mamba, &m, core.at, core.n));
    o.mixer = tfb_mamba_as_mixer(&mamba);
    mem = bytes_new(tfb_qkv_bytes(&o));
    CHECK_OK(&ctx, tfb_qkv_init(&ctx, &block, &o, mem.at, mem.n));
    b = bytes_new(tfb_params_bytes(tfb_qkv_params, &block));
    was = bytes_new(b.n);
    CHECK_OK(&ctx, tfb_params_save(&ctx, tfb_qkv_params, &block, b.at, b.n));
    if (exchanged(b, "params", "mamba")) {
        memcpy(was.at, mem.at, TFB__MIN(mem.n, was.n));
        CHECK_OK(&ctx, tfb_qkv_params(&block, clear, NULL));
        CHECK(memcmp(was.at, mem.at, TFB__MIN(mem.n, was.n)) != 0, "nothing to load");
        CHECK_OK(&ctx, tfb_params_load(&ctx, tfb_qkv_params, &block, b.at, b.n));
        CHECK(memcmp(was.at, mem.at, TFB__MIN(mem.n, was.n)) == 0, "other weights");
        CHECK_OK(&ctx, tfb_params_save(&ctx, tfb_qkv_params, &block, was.at, was.n));
        CHECK(memcmp(was.at, b.at, b.n) == 0, "saved again it differs");
    }
    free(core.at);
    free(mem.at);
    free(b.at);
    free(was.at);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    writes = strcmp(argv[1], "write") == 0;
    folder = argv[2];
    t_ctx(&ctx, NULL);
    RUN(packs);
    RUN(caches);
    RUN(rings);
    RUN(parameters);
    tfb_ctx_free(&ctx);
    FINISH();
}
