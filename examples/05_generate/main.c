/* 05_generate: a trained transformer writes text through the KV cache.
 *
 *   cc -O2 main.c -o generate && ./generate
 *   ./generate --eval TEXT                         nats per character on its last tenth
 *   ./generate --model M.bin --tokenizer T.bin     a llama2.c checkpoint, greedily
 *   other options: --seed N --steps N --temperature X --isa NAME --scratch BYTES
 *
 * The text goes to standard output, figures to standard error. */
#define TFBLOCKS_IMPLEMENTATION
#include "../../tfblocks.h"
#include <stdio.h>
#include <time.h>

#define TRY(call)                                                                        \
    do {                                                                                 \
        tfb_status try_status = (call);                                                  \
        if (try_status != TFB_OK) return try_status;                                     \
    } while (0)

enum { MAX_LAYERS = 64, START = 1 };

typedef struct {
    tfb_tensor att_norm, wqkv, wo, ffn_norm, gate_up, down;
} layer;

typedef struct {
    tfb_idx dim, hidden, layers, heads, kv_heads, vocab, seq_len, head_dim, kv_dim;
    int compat_rope; /* llama2.c checkpoints were trained with float32 angles */
    tfb_tensor embed, final_norm, classifier;
    layer layer[MAX_LAYERS];
    unsigned char *chars; /* one per token, or NULL: a tokenizer is needed */
    void *memory[3 * MAX_LAYERS + 8];
    int blocks;
} model;

/* --- Loading. Everything is checked before anything is used. --- */

static const char *load_error; /* why model_load or tokenizer_load failed */

static unsigned char *read_file(const char *path, size_t *bytes) {
    FILE *f = fopen(path, "rb");
    unsigned char *data = NULL;
    long size = -1;
    if (f && fseek(f, 0, SEEK_END) == 0) size = ftell(f);
    if (size >= 0) {
        rewind(f);
        data = (unsigned char *)malloc((size_t)size + 1);
        if (data && fread(data, 1, (size_t)size, f) != (size_t)size) {
            free(data);
            data = NULL;
        }
    }
    if (f) fclose(f);
    *bytes = size >= 0 ? (size_t)size : 0;
    if (!data) load_error = "the file cannot be read";
    return data;
}

static uint32_t get_u32(const unsigned char *p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void *keep(model *m, size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    if (p) m->memory[m->blocks++] = p;
    return p;
}

static void model_free(model *m) {
    while (m->blocks) free(m->memory[--m->blocks]);
}

/* The weights of a file in order: little-endian F32 or F16. */
typedef struct {
    const unsigned char *at, *end;
    tfb_dtype dtype;
} reader;

/* n numbers of the file as float32, in a block that lives as long as the model. */
static float *take_floats(tfb_ctx *ctx, model *m, reader *r, tfb_idx n) {
    const size_t size = tfb_dtype_size(r->dtype);
    float *to = NULL;
    uint16_t *half;
    tfb_tensor from, y;
    tfb_status status;
    tfb_idx i;
    if ((size_t)n <= (size_t)(r->end - r->at) / size)
        to = (float *)keep(m, (size_t)n * sizeof *to);
    if (!to) return NULL;
    if (r->dtype == TFB_F32) {
        for (i = 0; i < n; i++, r->at += size) {
            const uint32_t bits = get_u32(r->at);
            memcpy(to + i, &bits, 4);
        }
        return to;
    }
    if (!(half = (uint16_t *)malloc((size_t)n * sizeof *half))) return NULL;
    for (i = 0; i < n; i++, r->at += size) half[i] = (uint16_t)(r->at[0] | r->at[1] << 8);
    from = tfb_view1(half, TFB_F16, n);
    y = tfb_view1(to, TFB_F32, n);
    status = tfb_copy(ctx, &from, &y);
    free(half);
    return status == TFB_OK ? to : NULL;
}

/* Stacks the rows of up to three matrices of k columns and packs them as one layer. */
static tfb_status pack_rows(tfb_ctx *ctx, model *m, tfb_tensor *out, tfb_idx k,
                            const float **part, const tfb_idx *rows, int parts) {
    tfb_idx n = 0;
    size_t bytes;
    float *all, *to;
    void *mem;
    tfb_status status = TFB_ERR_MEMORY;
    tfb_tensor w;
    int i;
    for (i = 0; i < parts; i++) n += rows[i];
    bytes = tfb_pack_bytes(n, k, TFB_F32);
    to = all = (float *)malloc((size_t)(n * k) * sizeof *all);
    mem = keep(m, bytes);
    for (i = 0; all && i < parts; i++) {
        memcpy(to, part[i], (size_t)(rows[i] * k) * sizeof *to);
        to += rows[i] * k;
    }
    w = tfb_view2(all, TFB_F32, n, k);
    if (all && mem) status = tfb_pack(ctx, &w, mem, bytes, out);
    free(all);
    return status;
}

/* Fills the layers from weights stored one kind after the other, all layers of each. */
static tfb_status take_layers(tfb_ctx *ctx, model *m, reader *r) {
    const tfb_idx C = m->dim, K = m->kv_dim, F = m->hidden, L = m->layers;
    const tfb_idx size[9] = {C, C * C, K * C, K * C, C * C, C, F * C, C * F, F * C};
    const float *all[9], *part[3];
    tfb_idx rows[3], l;
    int i;
    for (i = 0; i < 9; i++)
        if (!(all[i] = take_floats(ctx, m, r, L * size[i]))) return TFB_ERR_FORMAT;
    for (l = 0; l < L; l++) {
        layer *y = &m->layer[l];
        y->att_norm = tfb_view1(all[0] + l * size[0], TFB_F32, C);
        y->ffn_norm = tfb_view1(all[5] + l * size[5], TFB_F32, C);
        for (i = 0; i < 3; i++) part[i] = all[1 + i] + l * size[1 + i];
        rows[0] = C;
        rows[1] = rows[2] = K;
        TRY(pack_rows(ctx, m, &y->wqkv, C, part, rows, 3));
        part[0] = all[4] + l * size[4];
        TRY(pack_rows(ctx, m, &y->wo, C, part, rows, 1));
        part[0] = all[6] + l * size[6];
        part[1] = all[8] + l * size[8];
        rows[0] = rows[1] = F;
        TRY(pack_rows(ctx, m, &y->gate_up, C, part, rows, 2));
        part[0] = all[7] + l * size[7];
        rows[0] = C;
        TRY(pack_rows(ctx, m, &y->down, F, part, rows, 1));
    }
    return TFB_OK;
}

/* Seven sizes as both formats store them; 0 if they make no model. */
static int take_sizes(model *m, const unsigned char *p) {
    int32_t v[7];
    int i;
    for (i = 0; i < 7; i++) v[i] = (int32_t)get_u32(p + 4 * i);
    if (v[5] < 0) v[5] = -v[5]; /* llama2.c: the classifier has weights of its own */
    for (i = 0; i < 7; i++)
        if (v[i] < 1 || v[i] > 1 << 20) return 0;
    m->dim = v[0];
    m->hidden = v[1];
    m->layers = v[2];
    m->heads = v[3];
    m->kv_heads = v[4];
    m->vocab = v[5];
    m->seq_len = v[6];
    if (v[2] > MAX_LAYERS || v[0] % v[3] || v[3] % v[4] || v[0] / v[3] % 2) return 0;
    m->head_dim = m->dim / m->heads;
    m->kv_dim = m->head_dim * m->kv_heads;
    return 1;
}

/* The header of our own format: magic, sizes, weight type, hash; then the characters. */
static int take_own_header(model *m, reader *r) {
    const unsigned char *head = r->at;
    uint32_t hash = 2166136261u;
    size_t table;
    if (r->end - head < 64 || !take_sizes(m, head + 8) || get_u32(head + 36) != 1)
        return 0;
    for (r->at += 64; r->at < r->end; r->at++) hash = (hash ^ *r->at) * 16777619u;
    r->at = head + 64;
    r->dtype = TFB_F16;
    table = ((size_t)m->vocab + 63) / 64 * 64;
    if (hash != get_u32(head + 40) || (size_t)(r->end - r->at) < table) return 0;
    if (!(m->chars = (unsigned char *)keep(m, (size_t)m->vocab))) return 0;
    memcpy(m->chars, r->at, (size_t)m->vocab);
    r->at += table;
    return 1;
}

static tfb_status model_build(tfb_ctx *ctx, model *m, reader *r) {
    const int own = r->end - r->at >= 8 && memcmp(r->at, "tfbchar1", 8) == 0;
    int shared = 1;
    const float *embed, *norm, *classifier;
    load_error = "the file is no model, or it is damaged";
    r->dtype = TFB_F32;
    if (own) {
        if (!take_own_header(m, r)) return TFB_ERR_FORMAT;
    } else {
        if (r->end - r->at < 28 || !take_sizes(m, r->at)) return TFB_ERR_FORMAT;
        shared = (int32_t)get_u32(r->at + 20) > 0;
        m->compat_rope = 1;
        r->at += 28;
    }
    if (!(embed = take_floats(ctx, m, r, m->vocab * m->dim))) return TFB_ERR_FORMAT;
    TRY(take_layers(ctx, m, r));
    if (!(norm = take_floats(ctx, m, r, m->dim))) return TFB_ERR_FORMAT;
    if (!own) { /* llama2.c keeps rope tables here, which we compute */
        const size_t tables = (size_t)(m->seq_len * m->head_dim) * 4;
        if ((size_t)(r->end - r->at) < tables) return TFB_ERR_FORMAT;
        r->at += tables;
    }
    classifier = shared ? embed : take_floats(ctx, m, r, m->vocab * m->dim);
    if (!classifier || r->at != r->end) return TFB_ERR_FORMAT;
    m->embed = tfb_view2(embed, TFB_F32, m->vocab, m->dim);
    m->final_norm = tfb_view1(norm, TFB_F32, m->dim);
    return pack_rows(ctx, m, &m->classifier, m->dim, &classifier, &m->vocab, 1);
}

static tfb_status model_load(tfb_ctx *ctx, model *m, const char *path) {
    size_t bytes;
    unsigned char *file = read_file(path, &bytes);
    reader r;
    tfb_status status;
    memset(m, 0, sizeof *m);
    if (!file) return TFB_ERR_FORMAT;
    r.at = file;
    r.end = file + bytes;
    status = model_build(ctx, m, &r);
    free(file);
    if (status != TFB_OK) model_free(m);
    return status;
}

/* --- The network. --- */

/* What lies between the layers, for up to `tokens` tokens at a time. */
typedef struct {
    float *x, *h, *qkv, *att, *ffn, *logits;
} buffers;

static size_t buffers_floats(const model *m, tfb_idx tokens) {
    return (size_t)(tokens *
                    (3 * m->dim + m->dim + 2 * m->kv_dim + m->hidden + m->vocab));
}

static void buffers_set(buffers *b, const model *m, tfb_idx tokens, float *memory) {
    b->x = memory;
    b->h = b->x + tokens * m->dim;
    b->att = b->h + tokens * m->dim;
    b->qkv = b->att + tokens * m->dim;
    b->ffn = b->qkv + tokens * (m->dim + 2 * m->kv_dim);
    b->logits = b->ffn + tokens * m->hidden;
}

/* Heads first .. first + n - 1 of [T, all] as [1, n, T, D]; nothing is copied. */
static tfb_tensor heads_of(const model *m, const float *data, tfb_idx T, tfb_idx all,
                           tfb_idx first, tfb_idx n) {
    tfb_tensor t = tfb_view4(data + first * m->head_dim, TFB_F32, 1, n, T, m->head_dim);
    t.stride[1] = m->head_dim;
    t.stride[2] = all * m->head_dim;
    return t;
}

static tfb_status attention_layer(tfb_ctx *ctx, const model *m, const layer *y, int l,
                                  tfb_kv *kv, const buffers *b, tfb_idx T) {
    const tfb_idx all = m->heads + 2 * m->kv_heads;
    tfb_tensor x = tfb_view2(b->x, TFB_F32, T, m->dim), h = x, att = x;
    tfb_tensor qkv = tfb_view2(b->qkv, TFB_F32, T, all * m->head_dim);
    tfb_tensor q = heads_of(m, b->qkv, T, all, 0, m->heads);
    tfb_tensor k = heads_of(m, b->qkv, T, all, m->heads, m->kv_heads);
    tfb_tensor v = heads_of(m, b->qkv, T, all, m->heads + m->kv_heads, m->kv_heads);
    tfb_tensor o = heads_of(m, b->att, T, m->heads, 0, m->heads);
    tfb_norm_opts norm = TFB_INIT;
    tfb_rope_opts rope = TFB_INIT;
    tfb_attention_opts causal = TFB_INIT;
    tfb_linear_opts residual = TFB_INIT;
    h.data = b->h;
    att.data = b->att;
    norm.weight = &y->att_norm;
    rope.start = tfb_kv_length(kv, l);
    rope.interleaved = 1;
    rope.compat = m->compat_rope;
    causal.causal = TFB_CAUSAL_BOTTOM_RIGHT;
    residual.residual = &x;
    TRY(tfb_rmsnorm(ctx, &x, &norm, &h));
    TRY(tfb_linear(ctx, &h, &y->wqkv, NULL, &qkv));
    TRY(tfb_rope(ctx, &q, &rope, &q));
    TRY(tfb_rope(ctx, &k, &rope, &k));
    TRY(tfb_kv_append(ctx, kv, l, &k, &v));
    TRY(tfb_kv_attention(ctx, kv, l, &q, &causal, &o));
    return tfb_linear(ctx, &att, &y->wo, &residual, &x);
}

static tfb_status ffn_layer(tfb_ctx *ctx, const model *m, const layer *y,
                            const buffers *b, tfb_idx T) {
    tfb_tensor x = tfb_view2(b->x, TFB_F32, T, m->dim), h = x;
    tfb_tensor f = tfb_view2(b->ffn, TFB_F32, T, m->hidden);
    tfb_norm_opts norm = TFB_INIT;
    tfb_linear_opts swiglu = TFB_INIT, residual = TFB_INIT;
    h.data = b->h;
    norm.weight = &y->ffn_norm;
    swiglu.act = TFB_FN_SILU;
    swiglu.gate = TFB_GATE_HALVES;
    residual.residual = &x;
    TRY(tfb_rmsnorm(ctx, &x, &norm, &h));
    TRY(tfb_linear(ctx, &h, &y->gate_up, &swiglu, &f));
    return tfb_linear(ctx, &f, &y->down, &residual, &x);
}

/* T more tokens behind those the cache holds; b->logits gets a row for each. */
static tfb_status forward(tfb_ctx *ctx, const model *m, tfb_kv *kv, const buffers *b,
                          const int32_t *tokens, tfb_idx T) {
    tfb_tensor ids = tfb_view1(tokens, TFB_I32, T);
    tfb_tensor x = tfb_view2(b->x, TFB_F32, T, m->dim), h = x;
    tfb_tensor logits = tfb_view2(b->logits, TFB_F32, T, m->vocab);
    tfb_norm_opts norm = TFB_INIT;
    int l;
    h.data = b->h;
    norm.weight = &m->final_norm;
    TRY(tfb_embed(ctx, &m->embed, &ids, &x));
    for (l = 0; l < m->layers; l++) {
        TRY(attention_layer(ctx, m, &m->layer[l], l, kv, b, T));
        TRY(ffn_layer(ctx, m, &m->layer[l], b, T));
    }
    TRY(tfb_rmsnorm(ctx, &x, &norm, &h));
    return tfb_linear(ctx, &h, &m->classifier, NULL, &logits);
}

/* --- A session: static cache, buffers and scratch of exactly the size needed. --- */
typedef struct {
    tfb_ctx ctx;
    tfb_kv kv;
    buffers buffers;
    size_t scratch_bytes;
    void *cache, *floats, *scratch;
} session;

static void session_free(session *s) {
    tfb_ctx_free(&s->ctx);
    free(s->cache);
    free(s->floats);
    free(s->scratch);
}

/* For up to `tokens` tokens at a time. scratch: bytes instead of the need, or 0. */
static tfb_status session_init(session *s, const model *m, tfb_idx tokens,
                               const char *isa, size_t scratch) {
    tfb_kv_opts opts = TFB_INIT;
    tfb_ctx measure;
    memset(s, 0, sizeof *s);
    opts.layers = (int)m->layers;
    opts.shape.batch = 1;
    opts.shape.kv_heads = m->kv_heads;
    opts.shape.head_dim = m->head_dim;
    opts.shape.max_tokens = m->seq_len;
    s->cache = malloc(tfb_kv_bytes(&opts));
    s->floats = malloc(buffers_floats(m, tokens) * sizeof(float));
    tfb_ctx_init_static(&s->ctx, NULL, 0);
    if (!s->cache || !s->floats) return TFB_ERR_MEMORY;
    TRY(tfb_kv_init_static(&s->ctx, &s->kv, &opts, s->cache, tfb_kv_bytes(&opts)));
    buffers_set(&s->buffers, m, tokens, (float *)s->floats);
    tfb_ctx_init_measure(
        &measure); /* the same calls, nothing computed: how much scratch? */
    if (isa) TRY(tfb_isa_force(&measure, isa));
    TRY(forward(&measure, m, &s->kv, &s->buffers, NULL, tokens));
    s->scratch_bytes = scratch ? scratch : measure.scratch_peak;
    s->scratch = malloc(s->scratch_bytes);
    if (!s->scratch) return TFB_ERR_MEMORY;
    tfb_ctx_init_static(&s->ctx, s->scratch, s->scratch_bytes);
    return isa ? tfb_isa_force(&s->ctx, isa) : TFB_OK;
}

/* --- Jobs. --- */

typedef struct {
    const char *model, *tokenizer, *eval, *isa;
    uint32_t seed;
    int steps;
    float temperature;
    size_t scratch;
} options;

static double seconds(void) {
    return (double)clock() / CLOCKS_PER_SEC;
}

static float random_uniform(uint32_t *state) { /* xorshift32, Marsaglia 2003 */
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return (float)(*state >> 8) * 5.9604644775390625e-8f;
}

/* The next token: the likeliest one, or drawn at a temperature. */
static tfb_status sample(tfb_ctx *ctx, const model *m, float *logits, float temperature,
                         uint32_t *state, int32_t *token) {
    tfb_tensor row = tfb_view1(logits, TFB_F32, m->vocab), best = row;
    float scale = 1.0f, left;
    tfb_tensor factor = tfb_view1(&scale, TFB_F32, 1);
    int32_t i;
    best.data = token;
    best.dtype = TFB_I32;
    best.ndim = 0;
    if (temperature <= 0) return tfb_argmax(ctx, &row, &best);
    scale = 1.0f / temperature;
    TRY(tfb_mul(ctx, &row, &factor, &row));
    TRY(tfb_softmax(ctx, &row, &row, NULL));
    left = random_uniform(state);
    for (i = 0; i < m->vocab - 1 && left >= logits[i]; i++) left -= logits[i];
    *token = i;
    return TFB_OK;
}

/* The last tenth of a text in windows of seq_len, each from an empty cache. */
static tfb_status evaluate(session *s, const model *m, const unsigned char *text,
                           size_t n, double *nats) {
    int32_t id[256], tokens[4096];
    float lse[4096];
    size_t i, at, w = (size_t)m->seq_len, count = 0;
    *nats = 0;
    for (i = 0; i < 256; i++)
        id[i] = -1; /* embed refuses what the model has never seen */
    for (i = 0; i < (size_t)m->vocab; i++) id[m->chars[i]] = (int32_t)i;
    for (at = n / 10 * 9 + n % 10 * 9 / 10; at + w < n; at += w, count += w) {
        tfb_tensor logits = tfb_view2(s->buffers.logits, TFB_F32, m->seq_len, m->vocab);
        tfb_tensor sums = tfb_view1(lse, TFB_F32, m->seq_len), p = logits;
        for (i = 0; i < w; i++) tokens[i] = id[text[at + i]];
        tfb_kv_reset(&s->kv);
        TRY(forward(&s->ctx, m, &s->kv, &s->buffers, tokens, m->seq_len));
        for (i = 0; i < w; i++) {
            const int32_t target = id[text[at + i + 1]];
            if (target < 0) return TFB_ERR_RANGE;
            *nats -= (double)s->buffers.logits[i * (size_t)m->vocab + (size_t)target];
        }
        TRY(tfb_softmax(&s->ctx, &logits, &p, &sums));
        for (i = 0; i < w; i++) *nats += (double)lse[i];
    }
    *nats /= count ? (double)count : 1;
    return TFB_OK;
}

/* Pieces of a llama2.c tokenizer: per token a score, a length and bytes. */
static const unsigned char *piece_of(const unsigned char *file, size_t bytes,
                                     int32_t token, uint32_t *length) {
    size_t at = 4;
    *length = 0;
    for (; bytes - at >= 8; at += 8 + *length, token--) {
        *length = get_u32(file + at + 4);
        if (*length > bytes - at - 8) break;
        if (token == 0) return file + at + 8;
    }
    *length = 0;
    return NULL;
}

static void print_token(const model *m, const unsigned char *tokenizer, size_t bytes,
                        int32_t previous, int32_t token) {
    uint32_t length, value = 0;
    const unsigned char *p;
    if (m->chars) {
        putchar(m->chars[token]);
        return;
    }
    p = piece_of(tokenizer, bytes, token, &length);
    if (!p) return;
    if (previous == START && length && *p == ' ') p++, length--;
    if (length == 6 && memcmp(p, "<0x", 3) == 0) { /* a raw byte */
        for (p += 3; *p != '>'; p++)
            value = value * 16 + (uint32_t)(*p <= '9' ? *p - '0' : (*p | 32) - 'a' + 10);
        putchar((int)value);
        return;
    }
    fwrite(p, 1, length, stdout);
}

/* When the cache is full, the newer half of the text is read again into an empty one. */
static tfb_status generate(session *s, const model *m, const options *o, int32_t *tokens,
                           const unsigned char *tokenizer, size_t bytes) {
    uint32_t state = o->seed ? o->seed : 1;
    tfb_idx fresh = 1;
    const double t0 = seconds();
    int i, done = 0;
    for (i = 0; i + 1 < o->steps && !done; i++) {
        if (tfb_kv_length(&s->kv, 0) + fresh > m->seq_len) {
            tfb_kv_reset(&s->kv);
            fresh = m->seq_len / 2;
        }
        TRY(forward(&s->ctx, m, &s->kv, &s->buffers, tokens + i + 1 - fresh, fresh));
        TRY(sample(&s->ctx, m, s->buffers.logits + (fresh - 1) * m->vocab, o->temperature,
                   &state, &tokens[i + 1]));
        fresh = 1;
        done = !m->chars && tokens[i + 1] == START; /* llama2.c: the story has ended */
        if (!done) print_token(m, tokenizer, bytes, tokens[i], tokens[i + 1]);
    }
    putchar('\n');
    fflush(stdout);
    fprintf(stderr, "%d tokens, %.0f tokens/s, table %s, %lu bytes of scratch\n", i,
            i / (seconds() - t0 + 1e-9), tfb_isa_name(&s->ctx),
            (unsigned long)s->scratch_bytes);
    return TFB_OK;
}

static tfb_status run_eval(session *s, const model *m, const char *path) {
    size_t bytes;
    unsigned char *text = read_file(path, &bytes);
    double nats = 0;
    tfb_status status = TFB_ERR_FORMAT;
    if (text && m->chars && m->seq_len <= 4096)
        status = evaluate(s, m, text, bytes, &nats);
    free(text);
    if (status == TFB_OK) printf("%.5f nats per character on the last tenth\n", nats);
    return status;
}

static tfb_status run_generate(session *s, const model *m, const options *o) {
    size_t bytes = 0;
    unsigned char *tokenizer = o->tokenizer ? read_file(o->tokenizer, &bytes) : NULL;
    int32_t *tokens = (int32_t *)calloc((size_t)o->steps + 1, sizeof *tokens);
    tfb_status status = TFB_ERR_FORMAT;
    uint32_t length;
    if (!m->chars &&
        (!tokenizer || !piece_of(tokenizer, bytes, (int32_t)m->vocab - 1, &length)))
        load_error = "this model needs --tokenizer, a file with as many tokens";
    else if (tokens) {
        tokens[0] = m->chars ? 0 : START;
        status = generate(s, m, o, tokens, tokenizer, bytes);
    }
    free(tokenizer);
    free(tokens);
    return status;
}

static int parse(options *o, int argc, char **argv) {
    int i;
    for (i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!*value) continue; /* make passes empty ones */
        if (!strcmp(name, "--model")) o->model = value;
        else if (!strcmp(name, "--tokenizer")) o->tokenizer = value, o->temperature = 0;
        else if (!strcmp(name, "--eval")) o->eval = value;
        else if (!strcmp(name, "--isa")) o->isa = value;
        else if (!strcmp(name, "--seed")) o->seed = (uint32_t)strtoul(value, NULL, 10);
        else if (!strcmp(name, "--steps")) o->steps = atoi(value);
        else if (!strcmp(name, "--temperature")) o->temperature = (float)atof(value);
        else if (!strcmp(name, "--scratch")) o->scratch = strtoul(value, NULL, 10);
        else break;
    }
    return i >= argc && o->steps > 0;
}

int main(int argc, char **argv) {
    static model m;
    options o = TFB_INIT;
    session s;
    tfb_ctx ctx;
    tfb_idx tokens;
    tfb_status status;
    o.model = "model.bin";
    o.seed = 1;
    o.steps = 500;
    o.temperature = 0.8f;
    if (!parse(&o, argc, argv)) {
        fprintf(stderr, "an option is unknown or lacks its value; main.c lists them\n");
        return 2;
    }
    tfb_ctx_init(&ctx);
    status = model_load(&ctx, &m, o.model);
    if (status != TFB_OK) {
        fprintf(stderr, "%s: %s\n", o.model, load_error);
        return 1;
    }
    load_error = NULL;
    tokens = o.eval ? m.seq_len : o.steps > m.seq_len ? m.seq_len / 2 : 1;
    status = session_init(&s, &m, tokens, o.isa, o.scratch);
    if (status == TFB_OK)
        status = o.eval ? run_eval(&s, &m, o.eval) : run_generate(&s, &m, &o);
    if (status != TFB_OK)
        fprintf(stderr, "%s\n",
                s.ctx.message[0] ? s.ctx.message
                : load_error     ? load_error
                                 : tfb_status_text(status));
    session_free(&s);
    model_free(&m);
    tfb_ctx_free(&ctx);
    return status != TFB_OK;
}
