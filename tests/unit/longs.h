/* longs.h - CKConv and Hyena by plain loops: what test_mixers.c, test_ckconv.c and
 * test_hyena.c compare with. */
#ifndef LONGS_H
#define LONGS_H

static tfb_idx places_of(const tfb_tensor *t) { /* of [B, .., C] */
    tfb_idx n = 1;
    int i;
    for (i = 1; i < t->ndim - 1; i++) n *= t->shape[i];
    return n;
}

/* Where element (b, place, c) is. */
static float *at_of(const tfb_tensor *t, tfb_idx b, tfb_idx place, tfb_idx c) {
    tfb_idx off = b * t->stride[0] + c * t->stride[t->ndim - 1];
    int i;
    for (i = t->ndim - 2; i > 0; i--) {
        off += place % t->shape[i] * t->stride[i];
        place /= t->shape[i];
    }
    return (float *)t->data + off;
}

static tfb_tensor dense_like(const tfb_tensor *t) { /* in new memory */
    tfb_tensor x = *t;
    tfb__dense_strides(&x);
    x.data = t_floats(tfb_numel(t));
    return x;
}

/* A new [taps .., C] for an input of these extents; film: gamma, beta or NULL. */
static tfb_tensor kernel_ref(const tfb_ckconv *m, const tfb_idx *n, const float *film) {
    const tfb_idx E = m->w[0].shape[1], M = m->w_out.shape[1], C = m->channels;
    float *x = t_floats(TFB__MAX(E, M)), *y = t_floats(TFB__MAX(E, M)), p[3];
    tfb_idx i, j, shape[4], first[3], all = 1;
    tfb_tensor k;
    int a;
    for (a = 0; a < m->axes; a++) {
        const tfb_idx g = m->edge[a] == TFB_EDGE_CIRCULAR ? (n[a] + 1) / 2 : n[a];
        shape[a] = m->edge[a] == TFB_EDGE_CAUSAL ? g : 2 * g - 1;
        first[a] = m->edge[a] == TFB_EDGE_CAUSAL ? 0 : 1 - g;
        all *= shape[a];
    }
    shape[m->axes] = C;
    k = tfb__view(t_floats(all * C), TFB_F32, m->axes + 1, shape);
    for (i = 0; i < all; i++) {
        for (j = i, a = m->axes - 1; a >= 0; j /= shape[a], a--) {
            const tfb_idx L = m->length[a];
            const tfb_idx unit = m->edge[a] == TFB_EDGE_CIRCULAR ? (L + 1) / 2 : L;
            p[a] = (float)(first[a] + j % shape[a]) / (float)(unit - 1);
        }
        tfb__ckconv_point_ref(m, p, film, x, y, (float *)k.data + i * C);
    }
    free(x), free(y);
    return k;
}

/* Gamma and beta of every sample, or NULL. */
static float *film_ref(tfb_ctx *ctx, const tfb_ckconv *m, const tfb_tensor *cond) {
    tfb_tensor h, film;
    tfb_linear_opts o;
    if (!m->film_w1.ndim) return NULL;
    memset((void *)&o, 0, sizeof o);
    h = tfb_view2(t_floats(cond->shape[0] * 64), TFB_F32, cond->shape[0], 64);
    film = tfb_view2(NULL, TFB_F32, cond->shape[0], m->film_b2.shape[0]);
    film.data = t_floats(tfb_numel(&film));
    o.bias = &m->film_b1, o.act = TFB_FN_GELU_ERF;
    CHECK_OK(ctx, tfb_linear(ctx, cond, &m->film_w1, &o, &h));
    o.bias = &m->film_b2, o.act = TFB_FN_IDENTITY;
    CHECK_OK(ctx, tfb_linear(ctx, &h, &m->film_w2, &o, &film));
    free(h.data);
    return (float *)film.data;
}

/* y = k * x + shortcut x; neither is the other. */
static void conv_ref(tfb_ctx *ctx, const tfb_ckconv *m, const tfb_tensor *cond,
                     const tfb_tensor *x, tfb_tensor *y) {
    float *film = film_ref(ctx, m, cond);
    const tfb_idx wide = film ? m->film_b2.shape[0] : 0;
    tfb_long_conv_opts o;
    tfb_idx b;
    int a;
    memset((void *)&o, 0, sizeof o);
    for (a = 0; a < m->axes; a++) o.edge[a] = m->edge[a];
    o.first_tap = m->edge[0] == TFB_EDGE_CAUSAL;
    if (m->shortcut.ndim) o.shortcut = &m->shortcut;
    for (b = 0; b < x->shape[0]; b++) {
        tfb_tensor in = *x, out = *y, k = m->taps;
        in.shape[0] = out.shape[0] = 1;
        in.data = at_of(x, b, 0, 0), out.data = at_of(y, b, 0, 0);
        if (m->kind != TFB_CKCONV_TAPS)
            k = kernel_ref(m, x->shape + 1, film ? film + b * wide : NULL);
        tfb__long_conv_ref(&in, &k, &o, &out);
        if (m->kind != TFB_CKCONV_TAPS) free(k.data);
    }
    free(film);
}

/* The short convolution of part 0, 1, 2, a new tensor: a copy without weights. */
static tfb_tensor short_ref(const tfb_hyena *m, int part, const tfb_tensor *x) {
    const tfb_idx C = m->conv.channels, T = places_of(x), *n = x->shape + 1;
    const int d = x->ndim - 2;
    tfb_tensor y = dense_like(x);
    tfb_idx b, t, c, j, taps = 1;
    int a;
    for (a = 1; a < m->short_w.ndim; a++) taps *= m->short_w.shape[a];
    for (b = 0; b < x->shape[0]; b++)
        for (t = 0; t < T; t++)
            for (c = 0; c < C; c++) {
                const tfb_idx each = m->short_w.ndim ? 3 * C / m->short_w.shape[0] : 1;
                const tfb_idx row = (part * C + c) / each * taps;
                float sum = 0, block = 0;
                tfb_idx met = -1, begun = 0;
                for (j = 0; m->short_w.ndim && j < taps; j++) {
                    tfb_idx place = 0, at[3], i = j, o = t, inside = 1;
                    for (a = d - 1; a >= 0; o /= n[a], a--) {
                        const tfb_idx K = m->short_w.shape[1 + a];
                        const tfb_idx left = m->short_causal ? K - 1 : (K - 1) / 2;
                        at[a] = o % n[a] + i % K - left;
                        i /= K;
                        inside = inside && at[a] >= 0 && at[a] < n[a];
                    }
                    for (a = 0; a < d; a++) place = place * n[a] + at[a];
                    if (!inside) continue;
                    if (met >= 0 && met != place / 256 && !m->short_causal) {
                        sum = begun++ ? sum + block : block;
                        block = 0;
                    }
                    met = place / 256;
                    block = TFB__FMA(((const float *)m->short_w.data)[row + j],
                                     *at_of(x, b, place, c), block);
                }
                sum = begun ? sum + block : block;
                *at_of(&y, b, t, c) = m->short_w.ndim ? sum : *at_of(x, b, t, c);
            }
    return y;
}

static void norm_ref(tfb_ctx *ctx, tfb_qk_norm how, const tfb_tensor *weight,
                     tfb_tensor *t) {
    tfb_norm_opts o;
    memset((void *)&o, 0, sizeof o);
    if (weight->ndim) o.weight = weight;
    if (how == TFB_QK_NORM_RMS) CHECK_OK(ctx, tfb_rmsnorm(ctx, t, &o, t));
    if (how == TFB_QK_NORM_L2) CHECK_OK(ctx, tfb_l2norm(ctx, t, &o, t));
}

/* a = a * gate(b); both dense. */
static void gate_ref(tfb_fn gate, tfb_tensor *a, const tfb_tensor *b) {
    tfb_idx i;
    for (i = 0; i < tfb_numel(a); i++) {
        float g;
        tfb__map_scalar(gate, 1, (const float *)b->data + i, &g);
        ((float *)a->data)[i] = ((float *)a->data)[i] * g;
    }
}

TFB__UNUSED static void hyena_ref(tfb_ctx *ctx, const tfb_hyena *m, const tfb_mix *call) {
    tfb_tensor q = short_ref(m, 0, call->q), k = short_ref(m, 1, call->k);
    tfb_tensor v = short_ref(m, 2, call->v), h = dense_like(&q);
    norm_ref(ctx, m->qk_norm, &m->q_weight, &q);
    if (m->gate1 == TFB_FN_IDENTITY) norm_ref(ctx, m->qk_norm, &m->k_weight, &k);
    gate_ref(m->gate1, &q, &k);
    norm_ref(ctx, m->norm, &m->z_weight, &q);
    conv_ref(ctx, &m->conv, call->cond, &q, &h);
    gate_ref(m->gate2_set ? m->gate2 : m->gate1, &h, &v);
    norm_ref(ctx, m->out_norm, &m->y_weight, &h);
    CHECK_OK(ctx, tfb_copy(ctx, &h, call->y));
    free(q.data), free(k.data), free(v.data), free(h.data);
}

TFB__UNUSED static void ckconv_ref(tfb_ctx *ctx, const tfb_ckconv *m,
                                   const tfb_mix *call) {
    tfb_tensor x = dense_like(call->v), y = dense_like(call->v);
    CHECK_OK(ctx, tfb_copy(ctx, call->v, &x));
    if (m->gated) CHECK_OK(ctx, tfb_mul(ctx, call->k, call->v, &x));
    conv_ref(ctx, m, call->cond, &x, &y);
    if (m->gated) CHECK_OK(ctx, tfb_mul(ctx, call->q, &y, &y));
    CHECK_OK(ctx, tfb_copy(ctx, &y, call->y));
    free(x.data), free(y.data);
}
#endif
