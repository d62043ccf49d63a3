/* bench.c - what the machine can do, what tfblocks does and what others do, in one run.
 *
 *   cc -O2 -I. tests/bench/bench.c -o build/bench -ldl -lm
 *   build/bench [--quick] [--sweep] [--isa NAME] [--only WORKLOAD] [--cpu N]
 *               [--threads N] [--out FILE]
 *
 * Limits come first: chains of independent fma, and streams over a buffer that fits the
 * second-level cache and over one that fits no cache. Then, for every row of the table
 * below, each instruction-set table of this CPU and each installed peer works in turn on
 * the same data; a figure is the median over batches of some 20 ms. The scalar table, the
 * reference, is timed in rows marked QUICK only. Results are compared before they are
 * timed: our tables with each other by bits, peers within a tolerance.
 * Rows marked COLD take their data from memory, as the layers of a model do: they go
 * round enough copies that no cache still holds one when its turn comes again. Their
 * limit is the smaller of fma peak and what the bytes of a call allow; of other rows
 * it is the peak alone. The peak is that of the widest instruction set the CPU has,
 * also for tables that use a narrower one; "of own" in the printed table is the share
 * of the peak of the table's own set. The peer "ours_plain" of fused layers is our own
 * packed product of the same M, N and K, of the same table: the ratio is what fusing
 * costs. The peer "scalar" of scans is our scalar table; their flops count an exponential
 * as one. The peer "naive" is attention by hand with a library's products, softmax in
 * between. Rows kv_.. are steps with a cache of keys and values; their peer "concat"
 * copies all rows into a new tensor for each token, "gather" copies those of all beams,
 * "move" shifts a window by a row, and "append" is our append alone: ours over it is
 * its share of a step. The peer "parts" of mhsa and mlp is the calls they consist of,
 * without the block around them and without chunks; mamba_step is held to reading its
 * weights once. Rows hyena are blocks, B x N x C x heads, a second, their peer is the
 * same block with causal attention. Rows long_conv are B x C x N, causal with N taps, or
 * B x C x N x N with kernels of 2 N - 1 and zeros around; flops are those of transforms
 * of length 2 N, 2.5 P log2 P each, of the kernels too. The peer "fftw" has its data
 * channels first, "fftw_same" the layout of ours. --only limits measures no workload.
 * --sweep looks for sizes that are slower than their neighbours instead.
 *
 * To add a workload: a row in WORKLOADS and its shapes in ROWS. To add a peer: a row in
 * PEERS. To add the peak of an instruction set: a row in PEAKS. */
#define _GNU_SOURCE /* sched_setaffinity, dlopen */
#define TFBLOCKS_IMPLEMENTATION
#define TFB_PTHREADS
#include "tfblocks.h"
#include <dlfcn.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_BATCHES = 15,
    MAX_TABLES = 6,
    MAX_PEERS = 8,
    MAX_PLAYERS = 2 * MAX_TABLES + MAX_PEERS,
    MAX_PARTS = 8,
    MAX_DIMS = 6,
    MAX_PEAKS = 8
};

typedef struct options {
    const char *isa, *only, *out;
    int quick, sweep, cpu, threads, batches;
    double batch_seconds;
} options;

static options opt = {NULL, NULL, NULL, 0, 0, -1, 1, 7, 0.02};

static void stop(const char *what, const char *why) {
    fprintf(stderr, "bench: %s: %s\n", what, why);
    exit(1);
}

static void *allocate(size_t bytes) {
    void *p = NULL;
    if (posix_memalign(&p, 64, bytes ? bytes : 1) != 0) stop("memory", "not enough");
    return p;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, by_size);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

/* --- Timing: contestants take turns, each with batches of a number of calls. --- */
typedef struct contestant {
    void (*select)(void *user, int i); /* before a batch, outside the clock */
    void (*call)(void *user, int i);
    void *user;
    int i, batches;
    long calls; /* of a batch */
    double time[MAX_BATCHES], spent, median;
} contestant;

static double batch(contestant *c) {
    double begin, time;
    long n;
    if (c->select) c->select(c->user, c->i);
    begin = seconds();
    for (n = 0; n < c->calls; n++) c->call(c->user, c->i);
    time = seconds() - begin;
    c->spent += time;
    return time;
}

/* Finds how many calls fill a batch; this also warms up. A single call that is much
 * longer than a batch counts as the first measurement. */
static void calibrate(contestant *c) {
    double time;
    c->spent = 0;
    c->batches = 0;
    for (c->calls = 1; (time = batch(c)) < opt.batch_seconds / 8;) c->calls *= 2;
    if (time > 10 * opt.batch_seconds) c->time[c->batches++] = time;
    c->calls = (long)(1.05 * opt.batch_seconds / time * (double)c->calls) + 1;
}

/* Fills in the medians, in seconds a call. Who has had 50 batches' time drops out. */
static void race(contestant *c, int n) {
    int i, turn;
    for (i = 0; i < n; i++) calibrate(&c[i]);
    for (turn = 0; turn < opt.batches; turn++)
        for (i = 0; i < n; i++)
            if (c[i].batches == 0 ||
                (c[i].batches < opt.batches && c[i].spent < 50 * opt.batch_seconds))
                c[i].time[c[i].batches++] = batch(&c[i]) / (double)c[i].calls;
    for (i = 0; i < n; i++) c[i].median = median(c[i].time, c[i].batches);
}

/* --- Limits: fma peak, one function per instruction set. An fma takes 4 or 5 cycles and
 * at most two begin in one: twelve independent chains hide it. --- */
enum { FMA_LOOPS = 1000, FMA_CHAINS = 12 };

/* clang-format off */
#define CHAINS(X, op)                                                                    \
    X(0, op) X(1, op) X(2, op) X(3, op) X(4, op) X(5, op)                                \
    X(6, op) X(7, op) X(8, op) X(9, op) X(10, op) X(11, op)
#define CHAIN_BEGIN(n, set1) c##n = set1((float)n),
#define CHAIN_STEP(n, fma)   c##n = fma(c##n, x, y);
#define CHAIN_END(n, fma)    sum = fma(sum, x, c##n);
/* clang-format on */

#define PEAK_DEFINE(name, vector, set1, fma, first)                                      \
    static void name(void *arg, tfb_idx i, int worker) {                                 \
        vector x = set1(0.5f), CHAINS(CHAIN_BEGIN, set1) y = x, sum = x;                 \
        volatile float sink;                                                             \
        int n;                                                                           \
        for (n = 0; n < FMA_LOOPS; n++) {                                                \
            CHAINS(CHAIN_STEP, fma)                                                      \
        }                                                                                \
        CHAINS(CHAIN_END, fma)                                                           \
        sink = first(sum);                                                               \
        (void)sink, (void)arg, (void)i, (void)worker;                                    \
    }

#define C_SET1(a)      (a)
#define C_FMA(a, b, c) ((a) * (b) + (c))
PEAK_DEFINE(peak_c, float, C_SET1, C_FMA, C_SET1)

static int always(void) {
    return 1;
}

#if TFB__X86
#define TARGET(isa) __attribute__((target(isa)))
TARGET("avx512f")
PEAK_DEFINE(peak_avx512, __m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_cvtss_f32)
TARGET("avx2,fma")
PEAK_DEFINE(peak_avx2, __m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_cvtss_f32)

static int has_avx512(void) {
    return __builtin_cpu_supports("avx512f");
}

static int has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

/* name (that of our table, if there is one), usable here, body, floats of a vector */
static const struct peak {
    const char *name;
    int (*usable)(void);
    tfb_body_fn body;
    int lanes;
} PEAKS[] = {
#if TFB__X86
    {"avx512", has_avx512, peak_avx512, 16},
    {"avx2", has_avx2, peak_avx2, 8},
#endif
    {"scalar", always, peak_c, 1},
};

/* --- Limits: meters, which run in every race they matter to, so that ratios hold even on
 * a machine whose speed varies. --- */
enum { READ_L2, READ_MEMORY, COPY_L2, COPY_MEMORY, FMA, MAX_METERS = FMA + MAX_PEAKS };

typedef struct meter {
    const char *name, *isa, *unit;
    tfb_ctx *ctx;
    tfb_body_fn body;
    size_t floats; /* one worker's part of a stream */
    float *from, *to;
    double work; /* flops or bytes of all workers, in 1e9 */
    double rate; /* as measured last; 0 if this machine lacks it */
} meter;

typedef struct limits {
    meter m[MAX_METERS];
} limits;

#if TFB__X86
#define OR_LOAD(n, or) c##n = or (c##n, _mm256_load_ps(p + n % 4 * part + n / 4 * 8));
#define OR_ALL(n, or)  sum = or (sum, c##n);

/* Four streams at once: one alone does not keep all of a core's requests in flight. */
TARGET("avx2")
static float read_avx2(const float *p, size_t n) {
    __m256 x = _mm256_setzero_ps(), CHAINS(CHAIN_BEGIN, _mm256_set1_ps) sum = x;
    const size_t part = n / 4;
    const float *end = p + part;
    for (; p < end; p += 24) {
        CHAINS(OR_LOAD, _mm256_or_ps)
    }
    CHAINS(OR_ALL, _mm256_or_ps)
    return _mm256_cvtss_f32(sum);
}
#endif

static float read_c(const float *p, size_t n) {
    float a = 0, b = 0, c = 0, d = 0;
    for (; n >= 4; n -= 4, p += 4) a += p[0], b += p[1], c += p[2], d += p[3];
    return a + b + c + d;
}

static void stream_read(void *arg, tfb_idx i, int worker) {
    const meter *m = (const meter *)arg;
    const float *p = m->from + (size_t)i * m->floats;
    volatile float sink;
#if TFB__X86
    if (has_avx2()) sink = read_avx2(p, m->floats);
    else
#endif
        sink = read_c(p, m->floats);
    (void)sink, (void)worker;
}

static void stream_copy(void *arg, tfb_idx i, int worker) {
    const meter *m = (const meter *)arg;
    const size_t at = (size_t)i * m->floats;
    memcpy(m->to + at, m->from + at, m->floats * sizeof(float));
    (void)worker;
}

static size_t cache_bytes(int level) {
    long bytes = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
    bytes = sysconf(level == 2 ? _SC_LEVEL2_CACHE_SIZE : _SC_LEVEL3_CACHE_SIZE);
#endif
    return bytes > 0 ? (size_t)bytes : level == 2 ? (size_t)1 << 18 : (size_t)1 << 25;
}

static void meter_call(void *user, int i) {
    meter *m = (meter *)user;
    (void)i;
    tfb__parallel(m->ctx, opt.threads, m->body, m);
}

/* Streams over half the second-level cache and over four times the last level. */
static void make_streams(limits *l) {
    static const char *const names[] = {"read_l2", "read_memory", "copy_l2",
                                        "copy_memory"};
    const size_t threads = (size_t)opt.threads, far = cache_bytes(3) / threads;
    float *from = (float *)allocate(4 * far * threads);
    float *to = (float *)allocate(4 * far * threads);
    int i;
    memset((void *)from, 1, 4 * far * threads);
    memset((void *)to, 1, 4 * far * threads);
    for (i = READ_L2; i < FMA; i++) {
        meter *m = &l->m[i];
        const int copy = i >= COPY_L2;
        m->name = names[i];
        m->isa = "-";
        m->unit = "GB/s";
        m->body = copy ? stream_copy : stream_read;
        m->from = from;
        m->to = to;
        m->floats = i % 2 ? far : cache_bytes(2) / 8 / (copy ? 2 : 1);
        m->floats = m->floats / 96 * 96;
        m->work = (copy ? 8e-9 : 4e-9) * (double)(m->floats * threads);
    }
}

static void make_limits(limits *l, tfb_ctx *ctx) {
    size_t i;
    memset(l, 0, sizeof *l);
    make_streams(l);
    for (i = 0; i < sizeof PEAKS / sizeof *PEAKS; i++) {
        meter *m = &l->m[FMA + i];
        if (!PEAKS[i].usable()) continue;
        m->name = "fma";
        m->isa = PEAKS[i].name;
        m->unit = "GF/s";
        m->body = PEAKS[i].body;
        m->work = 2e-9 * FMA_LOOPS * FMA_CHAINS * PEAKS[i].lanes * opt.threads;
    }
    for (i = 0; i < MAX_METERS; i++) l->m[i].ctx = ctx;
}

/* Adds the meters whose bits are set to a race; returns how many there are then. */
static int enter_meters(limits *l, int bits, contestant *c, int n) {
    int i;
    for (i = 0; i < MAX_METERS; i++) {
        if (!l->m[i].body || !(bits >> i & 1)) continue;
        memset(&c[n], 0, sizeof c[n]);
        c[n].call = meter_call;
        c[n++].user = &l->m[i];
    }
    return n;
}

static void read_meters(const contestant *c, int n) {
    int i;
    for (i = 0; i < n; i++) {
        meter *m = (meter *)c[i].user;
        if (c[i].call == meter_call) m->rate = m->work / c[i].median;
    }
}

static double peak(const limits *l, const char *isa) { /* NULL: the highest of all */
    double best = 0;
    int i;
    for (i = FMA; i < MAX_METERS; i++)
        if (l->m[i].rate > best && (!isa || strcmp(isa, l->m[i].isa) == 0))
            best = l->m[i].rate;
    return best;
}

/* --- Peers: libraries that multiply matrices of floats, loaded where installed. --- */
typedef struct product { /* c = a b, or a b^T with trans; row-major, without gaps */
    int M, N, K, trans;
    const float *a, *b;
    float *c;
} product;

typedef void (*sgemm_fn)(int order, int ta, int tb, int m, int n, int k, float alpha,
                         const float *a, int lda, const float *b, int ldb, float beta,
                         float *c, int ldc);
typedef void (*sgemv_fn)(int order, int ta, int m, int n, float alpha, const float *a,
                         int lda, const float *x, int incx, float beta, float *y,
                         int incy);
typedef int (*dnnl_sgemm_fn)(char ta, char tb, int64_t m, int64_t n, int64_t k,
                             float alpha, const float *a, int64_t lda, const float *b,
                             int64_t ldb, float beta, float *c, int64_t ldc);
enum { ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112 };

typedef struct peer {
    const struct peer_row *row;
    union {
        sgemm_fn sgemm;
        sgemv_fn sgemv;
        dnnl_sgemm_fn dnnl;
        void (*execute)(void *plan);
    } entry;
} peer;

static void run_sgemm(const peer *p, const product *g) {
    p->entry.sgemm(ROW_MAJOR, NO_TRANS, g->trans ? TRANS : NO_TRANS, g->M, g->N, g->K,
                   1.0f, g->a, g->K, g->b, g->trans ? g->K : g->N, 0.0f, g->c, g->N);
}

static void run_sgemv(const peer *p, const product *g) {
    const int rows = g->trans ? g->N : g->K, columns = g->trans ? g->K : g->N;
    p->entry.sgemv(ROW_MAJOR, g->trans ? NO_TRANS : TRANS, rows, columns, 1.0f, g->b,
                   columns, g->a, 1, 0.0f, g->c, 1);
}

static void run_dnnl(const peer *p, const product *g) {
    if (p->entry.dnnl('N', g->trans ? 'T' : 'N', g->M, g->N, g->K, 1.0f, g->a, g->K, g->b,
                      g->trans ? g->K : g->N, 0.0f, g->c, g->N) != 0)
        stop("onednn", "dnnl_sgemm failed");
}

/* ISO C has no conversion from dlsym's void pointer to one to a function. */
static int find(void *library, const char *name, void *fn, size_t bytes) {
    void *found = dlsym(library, name);
    memcpy(fn, &found, bytes);
    return found != NULL;
}

/* Thread counts by each library's own function, and which version this is. */
static void setup_openblas(void *library) {
    void (*set_threads)(int);
    char *(*version)(void);
    if (find(library, "openblas_set_num_threads", &set_threads, sizeof set_threads))
        set_threads(opt.threads);
    if (find(library, "openblas_get_config", &version, sizeof version))
        fprintf(stderr, "peer openblas: %s\n", version());
}

static void setup_blis(void *library) {
    void (*set_threads)(ptrdiff_t);
    const char *(*version)(void);
    if (find(library, "bli_thread_set_num_threads", &set_threads, sizeof set_threads))
        set_threads(opt.threads);
    if (find(library, "bli_info_get_version_str", &version, sizeof version))
        fprintf(stderr, "peer blis: BLIS %s\n", version());
}

static void setup_onednn(void *library) { /* threads: OMP_NUM_THREADS */
    const int *(*version)(void);          /* of a struct that begins with three int */
    if (find(library, "dnnl_version", &version, sizeof version))
        fprintf(stderr, "peer onednn: oneDNN %d.%d.%d\n", version()[0], version()[1],
                version()[2]);
}

/* What of FFTW is used; its header need not be there. */
typedef void *(*fftw_plan_fn)(int rank, const int *n, int many, float *in,
                              const int *in_embed, int in_stride, int in_dist, float *out,
                              const int *out_embed, int out_stride, int out_dist,
                              unsigned flags);
static fftw_plan_fn fftw_forward, fftw_back;

static void setup_fftw(void *library) {
    void (*limit)(double seconds);
    const char *version = (const char *)dlsym(library, "fftwf_version");
    if (!find(library, "fftwf_plan_many_dft_r2c", &fftw_forward, sizeof fftw_forward) ||
        !find(library, "fftwf_plan_many_dft_c2r", &fftw_back, sizeof fftw_back))
        stop("fftw", "no planner");
    if (find(library, "fftwf_set_timelimit", &limit, sizeof limit)) limit(20);
    if (version) fprintf(stderr, "peer fftw: %s, FFTW_MEASURE\n", version);
}

/* What a peer is good for; without flags: any product. */
enum { ONE_ROW = 1, ATTENDS = 2, TRANSFORMS = 4, SAME_LAYOUT = 8 };

/* name, its libraries in order of trial, the function that multiplies, flags, how it is
 * called, what is to be done once */
/* clang-format off */
#define OPENBLAS {"libopenblas.so.0", "libopenblas.so", NULL}
#define FFTW     {"libfftw3f.so.3", "libfftw3f.so", NULL}
static const struct peer_row {
    const char *name, *library[3], *entry;
    int flags;
    void (*run)(const peer *p, const product *g);
    void (*setup)(void *library);
} PEERS[] = {
    {"openblas", OPENBLAS, "cblas_sgemm", 0, run_sgemm, setup_openblas},
    {"openblas_gemv", OPENBLAS, "cblas_sgemv", ONE_ROW, run_sgemv, NULL},
    {"blis", {"libblis.so.4", "libblis.so", NULL}, "cblas_sgemm", 0, run_sgemm,
     setup_blis},
    {"onednn", {"libdnnl.so.3", "libdnnl.so.2", "libdnnl.so"}, "dnnl_sgemm", 0, run_dnnl,
     setup_onednn},
    {"naive", OPENBLAS, "cblas_sgemm", ATTENDS, run_sgemm, NULL},
    {"naive_gemv", OPENBLAS, "cblas_sgemv", ATTENDS | ONE_ROW, run_sgemv, NULL},
    {"fftw", FFTW, "fftwf_execute", TRANSFORMS, NULL, setup_fftw},
    {"fftw_same", FFTW, "fftwf_execute", TRANSFORMS | SAME_LAYOUT, NULL, NULL},
};
/* clang-format on */

static int peer_open(const struct peer_row *row, peer *p) {
    void *library = NULL;
    int i;
    for (i = 0; !library && i < 3 && row->library[i]; i++)
        library = dlopen(row->library[i], RTLD_NOW | RTLD_LOCAL);
    p->row = row;
    if (!library || !find(library, row->entry, &p->entry, sizeof p->entry)) {
        fprintf(stderr, "peer %s is left out: %s\n", row->name, dlerror());
        return 0;
    }
    if (row->setup) row->setup(library);
    return 1;
}

/* OpenMP reads its variable when a library that uses it is loaded. */
static int open_peers(peer *p) {
    const size_t rows = sizeof PEERS / sizeof *PEERS;
    char threads[16];
    size_t i;
    int n = 0;
    snprintf(threads, sizeof threads, "%d", opt.threads);
    setenv("OMP_NUM_THREADS", threads, 1);
    for (i = 0; i < rows && n < MAX_PEERS; i++) n += peer_open(&PEERS[i], &p[n]);
    return n;
}

/* --- Workloads. A job is one workload at one shape; its tensors lie one after the other
 * in a block, of which a cold job has several. --- */
typedef struct job {
    const struct workload *w;
    const tfb_idx *n; /* the shape, meaning as in the workload's row */
    tfb_ctx *ctx;
    tfb_tensor t[MAX_PARTS]; /* inputs first; the output is t[w->output] */
    size_t at[MAX_PARTS];    /* where t[i] begins in a copy */
    size_t copy_bytes, room;
    char *data; /* room bytes, kept from one job to the next */
    int copies, copy, cold;
    float *scores; /* of the naive peer: likewise, and its room */
    size_t scores_room;
    tfb_kv kv;            /* of kv_.. rows; the same rows as plain tensors, by layer, */
    float *plain, *spare; /* keys before values, and what a layer is copied to */
    tfb_mamba mamba;      /* its weights are in the first copy */
    int checking;         /* results are compared, nothing is timed */
} job;

enum { WINDOW_KEYS = 256 };

/* What a layer has besides x and W. */
enum { PACKED = 1, BIAS = 2, RESIDUAL = 4, FUSED = 8 };

typedef struct layer {
    tfb_dtype weights;
    int parts;
    tfb_fn act;
    tfb_gate gate;
} layer;

typedef enum work_unit { FLOPS, READ, COPY, STEPS } work_unit;
static const char *const UNITS[] = {"GF/s", "GB/s", "GB/s", "1/s"};

/* Also competes, with ours of the same table. */
typedef struct rival {
    const char *name;
    tfb_status (*run)(job *j);
} rival;

typedef struct workload {
    const char *name;
    work_unit unit;
    int output;
    void (*shape)(job *j);
    tfb_status (*ours)(job *j);
    void (*peer)(job *j, const peer *p);
    double (*work)(const tfb_idx *n); /* flops or bytes of a call */
    const layer *layer;
    const rival *rivals; /* two of them, or one and NULL */
} workload;

/* The tensors of products and layers; other workloads number theirs as they like. */
enum { T_X, T_W, T_Y, T_PACK, T_BIAS, T_RESIDUAL, T_PLAIN };

static void shape_matmul(job *j) { /* M N K */
    j->t[T_X] = tfb_view2(NULL, TFB_F32, j->n[0], j->n[2]);
    j->t[T_W] = tfb_view2(NULL, TFB_F32, j->n[2], j->n[1]);
    j->t[T_Y] = tfb_view2(NULL, TFB_F32, j->n[0], j->n[1]);
}

static void shape_batch(job *j) { /* batch of a and y, of b, M N K */
    j->t[T_X] = tfb_view3(NULL, TFB_F32, j->n[0], j->n[2], j->n[4]);
    j->t[T_W] = tfb_view3(NULL, TFB_F32, j->n[1], j->n[4], j->n[3]);
    j->t[T_Y] = tfb_view3(NULL, TFB_F32, j->n[0], j->n[2], j->n[3]);
}

static void shape_linear(job *j) { /* M N K */
    const layer *l = j->w->layer;
    const tfb_idx M = j->n[0], N = j->n[1], K = j->n[2];
    const size_t bytes = tfb_pack_bytes(N, K, l->weights);
    j->t[T_X] = tfb_view2(NULL, TFB_F32, M, K);
    j->t[T_W] = tfb_view2(NULL, l->weights, N, K);
    j->t[T_Y] = tfb_view2(NULL, TFB_F32, M, l->gate == TFB_GATE_NONE ? N : N / 2);
    if (l->parts & PACKED) j->t[T_PACK] = tfb_view1(NULL, TFB_U8, (tfb_idx)bytes);
    if (l->parts & BIAS) j->t[T_BIAS] = tfb_view1(NULL, TFB_F32, N);
    if (l->parts & RESIDUAL) j->t[T_RESIDUAL] = j->t[T_Y];
    if (l->parts & FUSED) j->t[T_PLAIN] = tfb_view2(NULL, TFB_F32, M, N);
}

static double flops_matmul(const tfb_idx *n) {
    return 2.0 * (double)n[0] * (double)n[1] * (double)n[2];
}

static double flops_batch(const tfb_idx *n) {
    return (double)n[0] * flops_matmul(n + 2);
}

static tfb_status ours_matmul(job *j) {
    return tfb_matmul(j->ctx, &j->t[T_X], &j->t[T_W], &j->t[T_Y]);
}

static tfb_status ours_linear(job *j) {
    return tfb_linear(j->ctx, &j->t[T_X], &j->t[T_W], NULL, &j->t[T_Y]);
}

static tfb_status ours_packed(job *j) {
    return tfb_linear(j->ctx, &j->t[T_X], &j->t[T_PACK], NULL, &j->t[T_Y]);
}

static tfb_status ours_fused(job *j) {
    const layer *l = j->w->layer;
    tfb_linear_opts o = TFB_INIT;
    if (l->parts & BIAS) o.bias = &j->t[T_BIAS];
    if (l->parts & RESIDUAL) o.residual = &j->t[T_RESIDUAL];
    o.act = l->act;
    o.gate = l->gate;
    return tfb_linear(j->ctx, &j->t[T_X], &j->t[T_PACK], &o, &j->t[T_Y]);
}

static tfb_status ours_plain(job *j) { /* what ours_fused is compared with */
    return tfb_linear(j->ctx, &j->t[T_X], &j->t[T_PACK], NULL, &j->t[T_PLAIN]);
}

static product product_of(const job *j, const tfb_idx *n, int trans) {
    product g;
    g.M = (int)n[0], g.N = (int)n[1], g.K = (int)n[2];
    g.trans = trans;
    g.a = (const float *)j->t[T_X].data;
    g.b = (const float *)j->t[T_W].data;
    g.c = (float *)j->t[T_Y].data;
    return g;
}

static void peer_matmul(job *j, const peer *p) {
    const product g = product_of(j, j->n, 0);
    p->row->run(p, &g);
}

static void peer_linear(job *j, const peer *p) {
    const product g = product_of(j, j->n, 1);
    p->row->run(p, &g);
}

static void peer_batch(job *j, const peer *p) {
    product g = product_of(j, j->n + 2, 0);
    tfb_idx i;
    for (i = 0; i < j->n[0]; i++) {
        p->row->run(p, &g);
        g.a += g.M * g.K;
        g.b += j->n[1] > 1 ? g.K * g.N : 0;
        g.c += g.M * g.N;
    }
}

static void shape_attention(job *j) { /* B H G T S D */
    const tfb_idx *n = j->n;
    const tfb_dtype cache = j->w->layer ? j->w->layer->weights : TFB_F32;
    j->t[0] = tfb_view4(NULL, TFB_F32, n[0], n[1], n[3], n[5]);
    j->t[1] = j->t[2] = tfb_view4(NULL, cache, n[0], n[2], n[4], n[5]);
    j->t[3] = j->t[0];
}

static tfb_status attention(job *j, tfb_causal causal, tfb_idx window) {
    tfb_attention_opts o = TFB_INIT;
    o.causal = causal;
    o.window = window;
    return tfb_attention(j->ctx, &j->t[0], &j->t[1], &j->t[2], &o, &j->t[3]);
}

static tfb_status ours_attention(job *j) {
    return attention(j, TFB_CAUSAL_NONE, 0);
}

static tfb_status ours_causal(job *j) {
    return attention(j, TFB_CAUSAL_BOTTOM_RIGHT, 0);
}

static tfb_status ours_window(job *j) {
    return attention(j, TFB_CAUSAL_BOTTOM_RIGHT, WINDOW_KEYS);
}

static double flops_attention(const tfb_idx *n) {
    return 4.0 * (double)(n[0] * n[1]) * (double)(n[3] * n[4]) * (double)n[5];
}

static double flops_causal(const tfb_idx *n) { /* counted half */
    return flops_attention(n) / 2;
}

static double flops_window(const tfb_idx *n) { /* of visible keys alone */
    double keys = 0;
    tfb_idx i;
    for (i = n[4] - n[3] + 1; i <= n[4]; i++)
        keys += (double)(i < WINDOW_KEYS ? i : WINDOW_KEYS);
    return 4.0 * (double)(n[0] * n[1]) * keys * (double)n[5];
}

static double bytes_cache(const tfb_idx *n) {
    return 8.0 * (double)(n[0] * n[2]) * (double)n[4] * (double)n[5];
}

static double bytes_half(const tfb_idx *n) {
    return bytes_cache(n) / 2;
}

/* --- The naive peer: attention as it is written down, all scores in memory. --- */
enum { LANES = 16 }; /* loops of this many turns become vectors at -O2 too */

#ifdef __GNUC__
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static
#endif

/* e^x for x <= 0 within some ulp: 2^n times a polynomial, which compilers, unlike a call
 * of expf, turn into vectors. */
INLINE float exp_c(float x) {
    const float magic = 12582912.0f; /* sums beyond 2^23 are whole numbers */
    const float n = x * 1.44269504f + magic - magic, r = x - n * 0.693147181f;
    const int32_t exponent = (int32_t)n + 127;
    const uint32_t bits = (uint32_t)(exponent > 0 ? exponent : 0) << 23;
    float p = 1 / 720.0f, power;
    memcpy(&power, &bits, sizeof power);
    p = p * r + 1 / 120.0f;
    p = p * r + 1 / 24.0f;
    p = p * r + 1 / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1;
    p = p * r + 1;
    return p * power;
}

INLINE float largest(const float *x, int n) {
    float top[LANES], most = x[0];
    int i, l;
    for (l = 0; l < LANES; l++) top[l] = most;
    for (i = 0; i + LANES <= n; i += LANES)
        for (l = 0; l < LANES; l++) top[l] = x[i + l] > top[l] ? x[i + l] : top[l];
    for (; i < n; i++) most = x[i] > most ? x[i] : most;
    for (l = 0; l < LANES; l++) most = top[l] > most ? top[l] : most;
    return most;
}

/* Replaces x by e^(scale (x - most)) and returns the sum. */
INLINE float exp_all(float *x, int n, float scale, float most) {
    float sum[LANES] = {0}, all = 0;
    int i, l;
    for (i = 0; i + LANES <= n; i += LANES)
        for (l = 0; l < LANES; l++) {
            x[i + l] = exp_c(scale * (x[i + l] - most));
            sum[l] += x[i + l];
        }
    for (; i < n; i++) all += x[i] = exp_c(scale * (x[i] - most));
    for (l = 0; l < LANES; l++) all += sum[l];
    return all;
}

/* The softmax of a row of n scores, of which the first ones are visible. */
INLINE void softmax_row(float *x, int visible, int n, float scale) {
    const float by = 1 / exp_all(x, visible, scale, largest(x, visible));
    int i, l;
    for (i = 0; i + LANES <= visible; i += LANES)
        for (l = 0; l < LANES; l++) x[i + l] *= by;
    for (; i < visible; i++) x[i] *= by;
    memset((void *)(x + visible), 0, (size_t)(n - visible) * sizeof *x);
}

#if TFB__X86
TARGET("avx2,fma")
static void softmax_row_avx2(float *x, int visible, int n, float scale) {
    softmax_row(x, visible, n, scale);
}
#endif

static void softmax_any(float *x, int visible, int n, float scale) {
#if TFB__X86
    if (has_avx2()) softmax_row_avx2(x, visible, n, scale);
    else
#endif
        softmax_row(x, visible, n, scale);
}

static float *job_scores(job *j, size_t floats) {
    if (floats > j->scores_room) {
        free(j->scores);
        j->scores = (float *)allocate(4 * floats);
        j->scores_room = floats;
    }
    return j->scores;
}

/* The query heads of a kv head are the rows of one product, or of one each. */
static void naive(job *j, const peer *p, int causal) {
    const tfb_idx *n = j->n, group = n[1] / n[2];
    const int T = (int)n[3], S = (int)n[4], D = (int)n[5];
    const int heads = p->row->flags & ONE_ROW ? 1 : (int)group, rows = heads * T;
    const float scale = 1.0f / sqrtf((float)D), *q = (const float *)j->t[0].data;
    float *scores = job_scores(j, (size_t)rows * (size_t)S), *y = (float *)j->t[3].data;
    tfb_idx i;
    int r;
    for (i = 0; i < n[0] * n[1]; i += heads, q += rows * D, y += rows * D) {
        const tfb_idx at = i / group * S * D;
        const product qk = {rows, S, D, 1, q, (const float *)j->t[1].data + at, scores};
        const product pv = {rows, D, S, 0, scores, (const float *)j->t[2].data + at, y};
        p->row->run(p, &qk);
        for (r = 0; r < rows; r++)
            softmax_any(scores + (size_t)r * (size_t)S, causal ? r % T + 1 + S - T : S, S,
                        scale);
        p->row->run(p, &pv);
    }
}

static void peer_attention(job *j, const peer *p) {
    naive(j, p, 0);
}

static void peer_causal(job *j, const peer *p) {
    naive(j, p, 1);
}

/* --- Caches: a step is one more token in all layers, or one new order of beams. --- */
static const int32_t SWAPPED[] = {1, 0, 3, 2}, REPEATED[] = {0, 0, 1, 1};

static void shape_kv(job *j) { /* layers B H G S D: S rows before the step */
    const tfb_idx *n = j->n;
    j->t[0] = tfb_view4(NULL, TFB_F32, n[1], n[2], 1, n[5]);
    j->t[1] = j->t[2] = tfb_view4(NULL, TFB_F32, n[1], n[3], 1, n[5]);
    j->t[3] = j->t[0];
}

static tfb_idx kv_floats(const job *j) { /* of the keys of a layer */
    return j->n[1] * j->n[3] * j->n[4] * j->n[5];
}

static tfb_status kv_append(job *j) {
    tfb_status status = TFB_OK;
    int l;
    if (tfb_kv_length(&j->kv, 0) >= j->n[4] + 64) /* a page takes 64 rows */
        status = tfb_kv_crop(j->ctx, &j->kv, j->n[4], NULL);
    for (l = 0; l < j->kv.layers && status == TFB_OK; l++)
        status = tfb_kv_append(j->ctx, &j->kv, l, &j->t[1], &j->t[2]);
    return status;
}

static tfb_status kv_ring(job *j) {
    tfb_status status = TFB_OK;
    int l;
    for (l = 0; l < j->kv.layers && status == TFB_OK; l++)
        status = tfb_kv_append(j->ctx, &j->kv, l, &j->t[1], &j->t[2]);
    return status;
}

static tfb_status kv_decode(job *j) {
    tfb_attention_opts o = TFB_INIT;
    tfb_status status = tfb_kv_crop(j->ctx, &j->kv, j->n[4], NULL);
    int l;
    o.causal = TFB_CAUSAL_BOTTOM_RIGHT;
    for (l = 0; l < j->kv.layers && status == TFB_OK; l++) {
        status = tfb_kv_append(j->ctx, &j->kv, l, &j->t[1], &j->t[2]);
        if (status != TFB_OK) break;
        status = tfb_kv_attention(j->ctx, &j->kv, l, &j->t[0], &o, &j->t[3]);
    }
    return status;
}

static tfb_status kv_swap(job *j) {
    const tfb_tensor index = tfb_view1(SWAPPED, TFB_I32, 4);
    return tfb_kv_select(j->ctx, &j->kv, &index);
}

static tfb_status kv_repeat(job *j) {
    const tfb_tensor index = tfb_view1(REPEATED, TFB_I32, 4);
    return tfb_kv_select(j->ctx, &j->kv, &index);
}

/* Layer l's keys and values with a row more, in a new place. */
static void concat_layer(job *j, int l) {
    const size_t D = (size_t)j->n[5], rows = (size_t)j->n[4] * D;
    const size_t heads = (size_t)(j->n[1] * j->n[3]);
    const float *from = j->plain + 2 * l * kv_floats(j);
    float *to = j->spare;
    size_t part, i;
    for (part = 0; part < 2; part++)
        for (i = 0; i < heads; i++, from += rows, to += rows + D) {
            memcpy(to, from, 4 * rows);
            memcpy(to + rows, (float *)j->t[1 + part].data + i * D, 4 * D);
        }
}

static tfb_status concat(job *j) {
    int l;
    for (l = 0; l < j->kv.layers; l++) concat_layer(j, l);
    return TFB_OK;
}

static tfb_status concat_decode(job *j) {
    tfb_tensor k = tfb_view4(j->spare, TFB_F32, j->n[1], j->n[3], j->n[4] + 1, j->n[5]);
    tfb_tensor v = k;
    tfb_attention_opts o = TFB_INIT;
    tfb_status status = TFB_OK;
    int l;
    o.causal = TFB_CAUSAL_BOTTOM_RIGHT;
    v.data = j->spare + tfb_numel(&k);
    for (l = 0; l < j->kv.layers && status == TFB_OK; l++) {
        concat_layer(j, l);
        status = tfb_attention(j->ctx, &j->t[0], &k, &v, &o, &j->t[3]);
    }
    return status;
}

static tfb_status move_window(job *j) {
    const size_t D = (size_t)j->n[5], rows = (size_t)j->n[4] * D;
    const size_t heads = (size_t)(j->n[1] * j->n[3]);
    float *at = j->plain;
    size_t l, part, i;
    for (l = 0; l < (size_t)j->n[0]; l++)
        for (part = 0; part < 2; part++)
            for (i = 0; i < heads; i++, at += rows) {
                memmove(at, at + D, 4 * (rows - D));
                memcpy(at + rows - D, (float *)j->t[1 + part].data + i * D, 4 * D);
            }
    return TFB_OK;
}

static tfb_status gather(job *j, const int32_t *index) {
    const size_t all = (size_t)kv_floats(j), sample = all / (size_t)j->n[1];
    size_t l, b;
    for (l = 0; l < 2 * (size_t)j->n[0]; l++) {
        const float *from = j->plain + l * all;
        for (b = 0; b < (size_t)j->n[1]; b++)
            memcpy(j->spare + b * sample, from + (size_t)index[b] * sample, 4 * sample);
    }
    return TFB_OK;
}

static tfb_status gather_swap(job *j) {
    return gather(j, SWAPPED);
}

static tfb_status gather_repeat(job *j) {
    return gather(j, REPEATED);
}

static double one_step(const tfb_idx *n) {
    (void)n;
    return 1e9;
}

static const rival PLAIN[] = {{"ours_plain", ours_plain}, {NULL, NULL}},
                   CONCAT[] = {{"concat", concat}, {NULL, NULL}},
                   GATHER_SWAP[] = {{"gather", gather_swap}, {NULL, NULL}},
                   GATHER_REPEAT[] = {{"gather", gather_repeat}, {NULL, NULL}},
                   MOVE[] = {{"move", move_window}, {NULL, NULL}},
                   STEP[] = {{"concat", concat_decode}, {"append", kv_append}};

/* --- A scan with all that Mamba gives it. --- */
enum { S_X, S_DT, S_A, S_B, S_C, S_D, S_Z, S_Y };

static void shape_scan(job *j) { /* B T E N */
    const tfb_idx *n = j->n;
    j->t[S_X] = j->t[S_DT] = tfb_view3(NULL, TFB_F32, n[0], n[1], n[2]);
    j->t[S_Z] = j->t[S_Y] = j->t[S_X];
    j->t[S_A] = tfb_view2(NULL, TFB_F32, n[2], n[3]);
    j->t[S_B] = j->t[S_C] = tfb_view4(NULL, TFB_F32, n[0], n[1], 1, n[3]);
    j->t[S_D] = tfb_view1(NULL, TFB_F32, n[2]);
}

static tfb_status ours_scan(job *j) {
    tfb_scan_opts o = TFB_INIT;
    o.d = &j->t[S_D];
    o.z = &j->t[S_Z];
    o.dt_bias = &j->t[S_D];
    o.softplus = 1;
    return tfb_selective_scan(j->ctx, &j->t[S_X], &j->t[S_DT], &j->t[S_A], &j->t[S_B],
                              &j->t[S_C], &o, &j->t[S_Y]);
}

/* As it is written down: a product, an exponential, which counts as one, and so on. */
static double flops_scan(const tfb_idx *n) {
    return (double)(n[0] * n[1]) * (double)n[2] * (9.0 * (double)n[3] + 2.0);
}

/* --- Blocks of a network: mhsa and mlp, beside the calls they consist of. --- */
enum { B_X, B_W0, B_W1, B_Y, B_PACK0, B_PACK1, B_FIRST, B_SECOND };

static tfb_tensor room_for_pack(const tfb_tensor *w) {
    const size_t bytes = tfb_pack_bytes(w->shape[0], w->shape[1], TFB_F32);
    return tfb_view1(NULL, TFB_U8, (tfb_idx)bytes);
}

static void shape_mhsa(job *j) { /* B N C H */
    const tfb_idx B = j->n[0], N = j->n[1], C = j->n[2];
    j->t[B_X] = j->t[B_Y] = j->t[B_SECOND] = tfb_view3(NULL, TFB_F32, B, N, C);
    j->t[B_W0] = tfb_view2(NULL, TFB_F32, 3 * C, C);
    j->t[B_W1] = tfb_view2(NULL, TFB_F32, C, C);
    j->t[B_FIRST] = tfb_view3(NULL, TFB_F32, B, N, 3 * C);
    j->t[B_PACK0] = room_for_pack(&j->t[B_W0]);
    j->t[B_PACK1] = room_for_pack(&j->t[B_W1]);
}

static tfb_status ours_mhsa(job *j) {
    tfb_mhsa m = TFB_INIT;
    m.block.channels = m.block.kv_channels = j->n[2];
    m.block.wqkv = j->t[B_PACK0];
    m.block.wout = j->t[B_PACK1];
    m.block.mixer = tfb_attention_as_mixer(&m.mixer);
    m.mixer.heads = j->n[3];
    return tfb_qkv_forward(j->ctx, &m.block, &j->t[B_X], NULL, &j->t[B_Y]);
}

/* Heads of part 0, 1, .. of a tensor [B, N, parts C]. */
static tfb_tensor heads_of(const job *j, const tfb_tensor *t, int part) {
    const tfb_idx N = j->n[1], C = j->n[2], D = C / j->n[3];
    tfb_tensor h =
        tfb_view4((float *)t->data + part * C, TFB_F32, j->n[0], j->n[3], N, D);
    h.stride[0] = t->stride[0];
    h.stride[1] = D;
    h.stride[2] = t->stride[1];
    return h;
}

static tfb_status parts_mhsa(job *j) {
    const tfb_tensor q = heads_of(j, &j->t[B_FIRST], 0);
    const tfb_tensor k = heads_of(j, &j->t[B_FIRST], 1);
    const tfb_tensor v = heads_of(j, &j->t[B_FIRST], 2);
    tfb_tensor mixed = heads_of(j, &j->t[B_SECOND], 0);
    tfb_status s = tfb_linear(j->ctx, &j->t[B_X], &j->t[B_PACK0], NULL, &j->t[B_FIRST]);
    if (s == TFB_OK) s = tfb_attention(j->ctx, &q, &k, &v, NULL, &mixed);
    if (s != TFB_OK) return s;
    return tfb_linear(j->ctx, &j->t[B_SECOND], &j->t[B_PACK1], NULL, &j->t[B_Y]);
}

static double flops_mhsa(const tfb_idx *n) {
    return (double)(n[0] * n[1]) * (double)n[2] * (double)(8 * n[2] + 4 * n[1]);
}

static void shape_mlp(job *j) { /* N C hidden chunk */
    const tfb_idx N = j->n[0], C = j->n[1], M = j->n[2];
    j->t[B_X] = j->t[B_Y] = j->t[B_FIRST] = tfb_view2(NULL, TFB_F32, N, C);
    j->t[B_W0] = tfb_view2(NULL, TFB_F32, M, C);
    j->t[B_W1] = tfb_view2(NULL, TFB_F32, C, M);
    j->t[B_SECOND] = tfb_view2(NULL, TFB_F32, N, M);
    j->t[B_PACK0] = room_for_pack(&j->t[B_W0]);
    j->t[B_PACK1] = room_for_pack(&j->t[B_W1]);
}

static tfb_status mlp(tfb_ctx *ctx, const job *j, const tfb_tensor *x, tfb_tensor *normed,
                      tfb_tensor *hidden, tfb_tensor *y) {
    tfb_linear_opts first = TFB_INIT, second = TFB_INIT;
    tfb_status s = tfb_layernorm(ctx, x, NULL, normed);
    first.act = TFB_FN_GELU_ERF;
    second.residual = x;
    if (s == TFB_OK) s = tfb_linear(ctx, normed, &j->t[B_PACK0], &first, hidden);
    return s == TFB_OK ? tfb_linear(ctx, hidden, &j->t[B_PACK1], &second, y) : s;
}

static tfb_status mlp_chunk(tfb_ctx *ctx, void *user, const tfb_chunk *chunk) {
    const job *j = (const job *)user;
    tfb_idx shape[2];
    tfb_tensor normed, hidden;
    tfb_status s;
    shape[0] = chunk->length;
    shape[1] = j->n[1];
    s = tfb_scratch(ctx, &normed, TFB_F32, 2, shape);
    shape[1] = j->n[2];
    if (s == TFB_OK) s = tfb_scratch(ctx, &hidden, TFB_F32, 2, shape);
    if (s != TFB_OK) return s;
    return mlp(ctx, j, &chunk->in[0], &normed, &hidden, &chunk->out[0]);
}

static tfb_status ours_mlp(job *j) {
    tfb_chunk_opts o = TFB_INIT;
    o.chunk_size = j->n[3];
    o.remainder = 1;
    return tfb_chunked_forward(j->ctx, mlp_chunk, j, &j->t[B_X], 1, &j->t[B_Y], 1, &o);
}

static tfb_status parts_mlp(job *j) {
    return mlp(j->ctx, j, &j->t[B_X], &j->t[B_FIRST], &j->t[B_SECOND], &j->t[B_Y]);
}

static double flops_mlp(const tfb_idx *n) {
    return 4.0 * (double)n[0] * (double)n[1] * (double)n[2];
}

static const rival PARTS_MHSA[] = {{"parts", parts_mhsa}, {NULL, NULL}},
                   PARTS_MLP[] = {{"parts", parts_mlp}, {NULL, NULL}};

/* --- A block with Hyena inside, and the same with causal attention. --- */
static struct {
    tfb_hyena mixer;
    void *weights;
} HYENA_MADE;

static void shape_hyena(job *j) { /* B N C H */
    shape_mhsa(j);
    j->t[B_FIRST].ndim = j->t[B_SECOND].ndim = 0;
}

/* Its kernel and the spectra of it are kept, as they are at inference. */
static void job_hyena(job *j) {
    tfb_hyena_opts o = TFB_INIT;
    size_t bytes;
    tfb_ckconv_forget(&HYENA_MADE.mixer.conv);
    free(HYENA_MADE.weights);
    o.conv.channels = j->n[2];
    o.conv.edge[0] = TFB_EDGE_CAUSAL;
    o.conv.length[0] = j->n[1];
    o.conv.mask = TFB_CKCONV_EXPONENTIAL;
    o.conv.method = TFB_CONV_FFT;
    o.short_taps[0] = 3;
    o.short_causal = 1;
    o.gate1 = TFB_FN_SILU;
    o.gate2 = TFB_FN_SIGMOID;
    o.gate2_set = 1;
    bytes = tfb_hyena_bytes(&o);
    HYENA_MADE.weights = allocate(bytes);
    if (tfb_hyena_init(j->ctx, &HYENA_MADE.mixer, &o, HYENA_MADE.weights, bytes) !=
            TFB_OK ||
        tfb_ckconv_prepare(j->ctx, &HYENA_MADE.mixer.conv, j->n + 1, 1, NULL, 0) !=
            TFB_OK)
        stop(j->w->name, j->ctx->message);
}

static tfb_status block_with(job *j, tfb_mixer mixer) {
    tfb_qkv block = TFB_INIT;
    tfb_qkv_call call = TFB_INIT;
    block.channels = block.kv_channels = j->n[2];
    block.wqkv = j->t[B_PACK0];
    block.wout = j->t[B_PACK1];
    block.mixer = mixer;
    call.inference = 1;
    return tfb_qkv_forward(j->ctx, &block, &j->t[B_X], &call, &j->t[B_Y]);
}

static tfb_status ours_hyena(job *j) {
    return block_with(j, tfb_hyena_as_mixer(&HYENA_MADE.mixer));
}

static tfb_status attention_block(job *j) {
    tfb_attention_mixer m = TFB_INIT;
    m.heads = j->n[3];
    m.opts.causal = TFB_CAUSAL_BOTTOM_RIGHT;
    return block_with(j, tfb_attention_as_mixer(&m));
}

static const rival ATTENTION_BLOCK[] = {{"attention", attention_block}, {NULL, NULL}};

/* --- A step of Mamba. --- */
enum { M_X, M_WEIGHTS, M_CONV, M_H, M_Y };

static size_t mamba_bytes(const tfb_idx *n) { /* C */
    tfb_mamba_opts o = TFB_INIT;
    o.channels = n[0];
    return tfb_mamba_bytes(&o);
}

static void shape_mamba(job *j) {
    j->t[M_X] = j->t[M_Y] = tfb_view3(NULL, TFB_F32, 1, 1, j->n[0]);
    j->t[M_WEIGHTS] = tfb_view1(NULL, TFB_F32, (tfb_idx)(mamba_bytes(j->n) / 4));
    j->t[M_CONV] = tfb_view2(NULL, TFB_F32, 1, 3 * 2 * j->n[0]);
    j->t[M_H] = tfb_view2(NULL, TFB_F32, 1, 16 * 2 * j->n[0]);
}

static tfb_status move_weight(void *user, const char *name, tfb_tensor *t) {
    const job *j = (const job *)user;
    t->data = (char *)t->data + (size_t)j->copy * j->copy_bytes;
    (void)name;
    return TFB_OK;
}

static tfb_status ours_mamba(job *j) {
    tfb_mamba m = j->mamba;
    const tfb_mixer mixer = tfb_mamba_as_mixer(&m);
    tfb_mixer_state state = TFB_INIT;
    tfb_mix mix = TFB_INIT;
    mixer.ops->params(&m, move_weight, j);
    state.carried[0] = j->t[M_CONV];
    state.carried[1] = j->t[M_H];
    mix.q = mix.k = mix.v = &j->t[M_X];
    mix.y = &j->t[M_Y];
    return mixer.ops->step(j->ctx, &m, &mix, &state);
}

static double bytes_mamba(const tfb_idx *n) { /* of weights, once */
    return (double)mamba_bytes(n);
}

static void mamba_reset(job *j) {
    memset(j->t[M_CONV].data, 0, 4 * (size_t)tfb_numel(&j->t[M_CONV]));
    memset(j->t[M_H].data, 0, 4 * (size_t)tfb_numel(&j->t[M_H]));
}

/* --- Long convolutions. _FIRST: the same with the channels first. --- */
enum { L_X, L_K, L_Y, L_X_FIRST, L_K_FIRST, L_Y_FIRST };

static void shape_long_conv(job *j) { /* B C N, or B C N N */
    const tfb_idx B = j->n[0], C = j->n[1], N = j->n[2], taps = 2 * N - 1;
    if (j->n[3]) {
        j->t[L_X] = tfb_view4(NULL, TFB_F32, B, N, N, C);
        j->t[L_K] = tfb_view3(NULL, TFB_F32, taps, taps, C);
    } else {
        j->t[L_X] = tfb_view3(NULL, TFB_F32, B, N, C);
        j->t[L_K] = tfb_view2(NULL, TFB_F32, N, C);
    }
    j->t[L_Y] = j->t[L_X_FIRST] = j->t[L_Y_FIRST] = j->t[L_X];
    j->t[L_K_FIRST] = j->t[L_K];
}

static tfb_status ours_long_conv(job *j) {
    tfb_long_conv_opts o = TFB_INIT;
    o.edge[0] = j->n[3] ? TFB_EDGE_ZERO : TFB_EDGE_CAUSAL;
    o.first_tap = !j->n[3];
    o.method = TFB_CONV_FFT;
    return tfb_long_conv(j->ctx, &j->t[L_X], &j->t[L_K], &o, &j->t[L_Y]);
}

static double flops_long_conv(const tfb_idx *n) {
    const double places = (n[3] ? 2.0 * (double)n[3] : 1.0) * 2.0 * (double)n[2];
    return 2.5 * places * log2(places) * (double)((2 * n[0] + 1) * n[1]);
}

/* [n][C] to [C][n], of `batch` of them. */
static void turn_channels(const float *from, float *to, tfb_idx batch, tfb_idx n,
                          tfb_idx C) {
    tfb_idx b, i, c;
    for (b = 0; b < batch; b++, from += n * C, to += n * C)
        for (i = 0; i < n; i++)
            for (c = 0; c < C; c++) to[c * n + i] = from[i * C + c];
}

static void job_channels_first(job *j) {
    const tfb_idx B = j->n[0], C = j->n[1];
    turn_channels((float *)j->t[L_X].data, (float *)j->t[L_X_FIRST].data, B,
                  tfb_numel(&j->t[L_X]) / B / C, C);
    turn_channels((float *)j->t[L_K].data, (float *)j->t[L_K_FIRST].data, 1,
                  tfb_numel(&j->t[L_K]) / C, C);
}

/* Plans and buffers, of the job whose shape is n; in the layout of ours all channels of a
 * sample go together. */
static struct transforms {
    const tfb_idx *n;
    void *forward, *back;
    float *places, *values, *kernel;
    tfb_idx together, all, count; /* channels; places, complex values of one */
} TRANSFORM[2];

static void transforms_make(const job *j, struct transforms *t, int same) {
    const int N = (int)j->n[2], rank = j->n[3] ? 2 : 1, C = same ? (int)j->n[1] : 1;
    int n[2], half[2];
    if (t->n == j->n) return;
    free(t->places), free(t->values), free(t->kernel);
    n[0] = n[1] = 2 * N;
    half[0] = rank == 2 ? 2 * N : N + 1;
    half[1] = N + 1;
    t->n = j->n;
    t->together = C;
    t->all = rank == 2 ? 4 * (tfb_idx)N * N : 2 * N;
    t->count = rank == 2 ? 2 * N * (tfb_idx)(N + 1) : N + 1;
    t->places = (float *)allocate(4 * (size_t)(t->all * C));
    t->values = (float *)allocate(8 * (size_t)(t->count * C));
    t->kernel = (float *)allocate(8 * (size_t)(t->count * C));
    t->forward = fftw_forward(rank, n, C, t->places, n, C, 1, t->values, half, C, 1, 0);
    t->back = fftw_back(rank, n, C, t->values, half, C, 1, t->places, n, C, 1, 0);
    if (!t->forward || !t->back) stop("fftw", "no plan");
}

static void zeros(float *p, tfb_idx n) {
    memset((void *)p, 0, 4 * (size_t)n);
}

static void floats(float *to, const float *from, tfb_idx n) {
    memcpy((void *)to, (const void *)from, 4 * (size_t)n);
}

/* N places of each axis from their first on; of a kernel of two axes those that lie
 * before its origin go to the end. */
static void transforms_pad(const job *j, const struct transforms *t, const float *from,
                           int kernel) {
    const tfb_idx N = j->n[2], u = t->together, row = kernel ? 2 * N - 1 : N;
    float *to = t->places;
    tfb_idx i;
    if (!j->n[3]) {
        floats(to, from, N * u);
        zeros(to + N * u, N * u);
        return;
    }
    for (i = 0; i < 2 * N; i++, to += 2 * N * u) {
        const tfb_idx at = kernel ? (i + N - 1) % (2 * N) : i;
        if (at >= row) {
            zeros(to, 2 * N * u);
            continue;
        }
        floats(to, from + (at * row + (kernel ? N - 1 : 0)) * u, N * u);
        zeros(to + N * u, N * u);
        if (kernel) floats(to + (N + 1) * u, from + at * row * u, (N - 1) * u);
    }
}

/* x *= h, n complex numbers. */
#if TFB__X86
TARGET("avx2,fma")
static void multiply_avx2(float *x, const float *h, tfb_idx n) {
    for (; n >= 4; n -= 4, x += 8, h += 8) {
        const __m256 a = _mm256_loadu_ps(x), b = _mm256_loadu_ps(h);
        const __m256 im =
            _mm256_mul_ps(_mm256_permute_ps(a, 0xB1), _mm256_movehdup_ps(b));
        _mm256_storeu_ps(x, _mm256_fmaddsub_ps(a, _mm256_moveldup_ps(b), im));
    }
    for (; n > 0; n--, x += 2, h += 2) {
        const float re = x[0] * h[0] - x[1] * h[1];
        x[1] = x[0] * h[1] + x[1] * h[0];
        x[0] = re;
    }
}
#endif

static void multiply(float *x, const float *h, tfb_idx n) {
#if TFB__X86
    if (has_avx2()) {
        multiply_avx2(x, h, n);
        return;
    }
#endif
    for (; n > 0; n--, x += 2, h += 2) {
        const float re = x[0] * h[0] - x[1] * h[1];
        x[1] = x[0] * h[1] + x[1] * h[0];
        x[0] = re;
    }
}

static void transforms_one(const job *j, const struct transforms *t, const peer *p,
                           const float *x, float *y) {
    const tfb_idx N = j->n[2], u = t->together;
    tfb_idx i;
    transforms_pad(j, t, x, 0);
    p->entry.execute(t->forward);
    multiply(t->values, t->kernel, t->count * u);
    p->entry.execute(t->back);
    for (i = 0; i < (j->n[3] ? N : 1); i++)
        floats(y + i * N * u, t->places + 2 * i * N * u, N * u);
}

static void peer_long_conv(job *j, const peer *p) {
    const int same = (p->row->flags & SAME_LAYOUT) != 0;
    struct transforms *t = &TRANSFORM[same];
    const tfb_idx B = j->n[0], C = j->n[1], places = tfb_numel(&j->t[L_X]) / B / C;
    const tfb_idx taps = tfb_numel(&j->t[L_K]) / C;
    const float *x = (float *)j->t[same ? L_X : L_X_FIRST].data;
    const float *k = (float *)j->t[same ? L_K : L_K_FIRST].data;
    float *y = (float *)j->t[same ? L_Y : L_Y_FIRST].data;
    tfb_idx b, c, i;
    transforms_make(j, t, same);
    for (c = 0; c < C; c += t->together) {
        transforms_pad(j, t, k + c * taps, 1);
        p->entry.execute(t->forward);
        for (i = 0; i < 2 * t->count * t->together; i++)
            t->kernel[i] = t->values[i] / (float)t->all;
        for (b = 0; b < B; b++)
            transforms_one(j, t, p, x + (b * C + c) * places, y + (b * C + c) * places);
    }
    if (j->checking && !same) turn_channels(y, (float *)j->t[L_Y].data, B, C, places);
}

static void shape_rows(job *j) { /* rows C */
    j->t[0] = j->t[1] = tfb_view2(NULL, TFB_F32, j->n[0], j->n[1]);
}

static tfb_status ours_rmsnorm(job *j) {
    return tfb_rmsnorm(j->ctx, &j->t[0], NULL, &j->t[1]);
}

static tfb_status ours_softmax(job *j) {
    return tfb_softmax(j->ctx, &j->t[0], &j->t[1], NULL);
}

static double bytes_rows(const tfb_idx *n) { /* in and out */
    return 8.0 * (double)n[0] * (double)n[1];
}

static const layer F32_PLAIN = {TFB_F32, 0, TFB_FN_IDENTITY, TFB_GATE_NONE},
                   F32_PACKED = {TFB_F32, PACKED, TFB_FN_IDENTITY, TFB_GATE_NONE},
                   F16_PLAIN = {TFB_F16, 0, TFB_FN_IDENTITY, TFB_GATE_NONE},
                   F16_PACKED = {TFB_F16, PACKED, TFB_FN_IDENTITY, TFB_GATE_NONE},
                   BF16_PLAIN = {TFB_BF16, 0, TFB_FN_IDENTITY, TFB_GATE_NONE},
                   BF16_PACKED = {TFB_BF16, PACKED, TFB_FN_IDENTITY, TFB_GATE_NONE},
                   RELU_ALL = {TFB_F32, PACKED | FUSED | BIAS | RESIDUAL, TFB_FN_RELU,
                               TFB_GATE_NONE},
                   GELU = {TFB_F32, PACKED | FUSED, TFB_FN_GELU_ERF, TFB_GATE_NONE},
                   SILU = {TFB_F32, PACKED | FUSED, TFB_FN_SILU, TFB_GATE_NONE},
                   SWIGLU = {TFB_F32, PACKED | FUSED, TFB_FN_SILU, TFB_GATE_HALVES};

/* The bit that a row of ROWS sets to be run for a workload, in the order of WORKLOADS. */
enum {
    MATMUL = 1,
    LINEAR = 1 << 1,
    LINEAR_PACKED = 1 << 2,
    HALVES = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6,
    FUSIONS = 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10,
    BATCH = 1 << 11,
    ATTENTION = 1 << 12,
    CAUSAL = 1 << 13,
    WINDOW = 1 << 14,
    DECODE = 1 << 15,
    DECODES = 1 << 15 | 1 << 16 | 1 << 17,
    ROWWISE = 1 << 18 | 1 << 19,
    KV_APPEND = 1 << 20,
    KV_REORDER = 1 << 21 | 1 << 22,
    KV_RING = 1 << 23,
    KV_DECODE = 1 << 24,
    SCAN = 1 << 25,
    MHSA = 1 << 26,
    MLP = 1 << 27,
    MAMBA_STEP = 1 << 28,
    LONG_CONV = 1 << 29,
    HYENA = 1 << 30,
    ATTENTIONS = ATTENTION | CAUSAL,
    LINEARS = LINEAR | LINEAR_PACKED,
    GEMMS = MATMUL | LINEARS
};

/* name, what is counted, which tensor is the output, functions as in the type, layer */
/* clang-format off */
static const workload WORKLOADS[] = {
    {"matmul", FLOPS, T_Y, shape_matmul, ours_matmul, peer_matmul, flops_matmul, NULL},
    {"linear", FLOPS, T_Y, shape_linear, ours_linear, peer_linear, flops_matmul,
     &F32_PLAIN},
    {"linear_packed", FLOPS, T_Y, shape_linear, ours_packed, peer_linear, flops_matmul,
     &F32_PACKED},
    {"linear_f16", FLOPS, T_Y, shape_linear, ours_linear, NULL, flops_matmul, &F16_PLAIN},
    {"linear_f16_packed", FLOPS, T_Y, shape_linear, ours_packed, NULL, flops_matmul,
     &F16_PACKED},
    {"linear_bf16", FLOPS, T_Y, shape_linear, ours_linear, NULL, flops_matmul,
     &BF16_PLAIN},
    {"linear_bf16_packed", FLOPS, T_Y, shape_linear, ours_packed, NULL, flops_matmul,
     &BF16_PACKED},
    {"fused_bias_relu_residual", FLOPS, T_Y, shape_linear, ours_fused, NULL, flops_matmul,
     &RELU_ALL, PLAIN},
    {"fused_gelu", FLOPS, T_Y, shape_linear, ours_fused, NULL, flops_matmul, &GELU,
     PLAIN},
    {"fused_silu", FLOPS, T_Y, shape_linear, ours_fused, NULL, flops_matmul, &SILU,
     PLAIN},
    {"fused_swiglu", FLOPS, T_Y, shape_linear, ours_fused, NULL, flops_matmul, &SWIGLU,
     PLAIN},
    {"matmul_batch", FLOPS, T_Y, shape_batch, ours_matmul, peer_batch, flops_batch, NULL},
    {"attention", FLOPS, 3, shape_attention, ours_attention, peer_attention,
     flops_attention, NULL},
    {"causal", FLOPS, 3, shape_attention, ours_causal, peer_causal, flops_causal, NULL},
    {"window", FLOPS, 3, shape_attention, ours_window, NULL, flops_window, NULL},
    {"decode", READ, 3, shape_attention, ours_causal, peer_causal, bytes_cache, NULL},
    {"decode_f16", READ, 3, shape_attention, ours_causal, NULL, bytes_half, &F16_PLAIN},
    {"decode_bf16", READ, 3, shape_attention, ours_causal, NULL, bytes_half,
     &BF16_PLAIN},
    {"rmsnorm", COPY, 1, shape_rows, ours_rmsnorm, NULL, bytes_rows, NULL},
    {"softmax", COPY, 1, shape_rows, ours_softmax, NULL, bytes_rows, NULL},
    {"kv_append", STEPS, 0, shape_kv, kv_append, NULL, one_step, NULL, CONCAT},
    {"kv_reorder_swap", STEPS, 0, shape_kv, kv_swap, NULL, one_step, NULL, GATHER_SWAP},
    {"kv_reorder_repeat", STEPS, 0, shape_kv, kv_repeat, NULL, one_step, NULL,
     GATHER_REPEAT},
    {"kv_ring", STEPS, 0, shape_kv, kv_ring, NULL, one_step, NULL, MOVE},
    {"kv_decode", STEPS, 3, shape_kv, kv_decode, NULL, one_step, NULL, STEP},
    {"scan", FLOPS, S_Y, shape_scan, ours_scan, NULL, flops_scan, NULL},
    {"mhsa", FLOPS, B_Y, shape_mhsa, ours_mhsa, NULL, flops_mhsa, NULL, PARTS_MHSA},
    {"mlp", FLOPS, B_Y, shape_mlp, ours_mlp, NULL, flops_mlp, NULL, PARTS_MLP},
    {"mamba_step", READ, M_Y, shape_mamba, ours_mamba, NULL, bytes_mamba, NULL},
    {"long_conv", FLOPS, L_Y, shape_long_conv, ours_long_conv, peer_long_conv,
     flops_long_conv, NULL},
    {"hyena", STEPS, B_Y, shape_hyena, ours_hyena, NULL, one_step, NULL, ATTENTION_BLOCK},
};
/* clang-format on */

/* --- Rows: shapes, and for which workloads they are run. --- */
enum { COLD = 1, QUICK = 2 };

static const struct row {
    int workloads, flags;
    tfb_idx n[MAX_DIMS];
} ROWS[] = {
    {GEMMS, 0, {16, 16, 16}},
    {GEMMS, 0, {32, 32, 32}},
    {GEMMS, QUICK, {64, 64, 64}},
    {GEMMS, 0, {96, 96, 96}},
    {GEMMS, 0, {128, 128, 128}},
    {GEMMS, 0, {256, 256, 256}},
    {GEMMS, 0, {512, 512, 512}},
    {GEMMS, 0, {1024, 1024, 1024}},
    {GEMMS, 0, {2048, 2048, 2048}},
    {LINEARS, 0, {1, 3072, 768}},
    {LINEARS, 0, {2, 3072, 768}},
    {LINEARS, 0, {4, 3072, 768}},
    {LINEARS, 0, {8, 3072, 768}},
    {GEMMS | HALVES, COLD | QUICK, {1, 3072, 768}},
    {GEMMS, COLD, {2, 3072, 768}},
    {GEMMS, COLD, {4, 3072, 768}},
    {GEMMS, COLD, {8, 3072, 768}},
    {GEMMS, COLD, {16, 3072, 768}},
    {GEMMS | HALVES, COLD, {32, 3072, 768}},
    {GEMMS, COLD, {128, 3072, 768}},
    {GEMMS | HALVES, COLD, {512, 3072, 768}},
    {LINEARS, COLD, {2048, 3072, 768}},
    {LINEARS, COLD, {1, 4096, 4096}},
    {LINEARS, COLD, {4, 4096, 4096}},
    {LINEARS, COLD, {8, 4096, 4096}},
    {FUSIONS, 0, {512, 512, 256}},
    {FUSIONS, 0, {512, 3072, 768}},
    {BATCH, QUICK, {12, 1, 64, 64, 64}},
    {BATCH, QUICK, {12, 12, 64, 64, 64}},
    {BATCH, 0, {12, 1, 197, 64, 197}},
    {BATCH, 0, {12, 12, 197, 64, 197}},
    {ATTENTIONS, QUICK, {1, 12, 12, 64, 64, 64}},
    {ATTENTIONS, 0, {1, 12, 12, 197, 197, 64}},
    {ATTENTIONS, 0, {1, 12, 12, 512, 512, 64}},
    {ATTENTIONS, 0, {1, 12, 12, 1024, 1024, 64}},
    {ATTENTIONS, 0, {1, 12, 12, 2448, 2448, 64}},
    {ATTENTION, 0, {1, 12, 12, 8192, 8192, 64}},
    {ATTENTIONS, 0, {8, 12, 12, 512, 512, 64}},
    {ATTENTIONS, 0, {1, 12, 12, 1024, 1024, 128}},
    {ATTENTIONS, 0, {1, 12, 12, 2448, 2448, 128}},
    {WINDOW, QUICK, {1, 1, 1, 512, 512, 64}},
    {WINDOW, 0, {1, 12, 12, 8192, 8192, 64}},
    {DECODE, COLD, {1, 32, 32, 1, 1024, 128}},
    {DECODE, COLD, {1, 32, 32, 2, 1024, 128}},
    {DECODE, COLD, {1, 32, 32, 4, 1024, 128}},
    {DECODE, COLD, {1, 32, 32, 8, 1024, 128}},
    {DECODE, COLD, {1, 32, 32, 1, 4096, 128}},
    {DECODE, COLD, {1, 32, 32, 2, 4096, 128}},
    {DECODE, COLD, {1, 32, 32, 4, 4096, 128}},
    {DECODE, COLD, {1, 32, 32, 8, 4096, 128}},
    {DECODES, COLD, {1, 32, 32, 1, 16384, 128}},
    {DECODE, COLD, {1, 32, 32, 2, 16384, 128}},
    {DECODE, COLD, {1, 32, 32, 4, 16384, 128}},
    {DECODES, COLD, {1, 32, 32, 8, 16384, 128}},
    {DECODES, COLD, {1, 32, 32, 1, 32768, 128}},
    {DECODE, COLD, {1, 32, 32, 2, 32768, 128}},
    {DECODE, COLD, {1, 32, 32, 4, 32768, 128}},
    {DECODES, COLD, {1, 32, 32, 8, 32768, 128}},
    {DECODES, COLD | QUICK, {1, 32, 8, 1, 1024, 128}},
    {DECODE, COLD, {1, 32, 8, 2, 1024, 128}},
    {DECODE, COLD, {1, 32, 8, 4, 1024, 128}},
    {DECODE, COLD, {1, 32, 8, 8, 1024, 128}},
    {DECODE, COLD, {1, 32, 8, 1, 4096, 128}},
    {DECODE, COLD, {1, 32, 8, 2, 4096, 128}},
    {DECODE, COLD, {1, 32, 8, 4, 4096, 128}},
    {DECODE, COLD, {1, 32, 8, 8, 4096, 128}},
    {DECODES, COLD, {1, 32, 8, 1, 16384, 128}},
    {DECODE, COLD, {1, 32, 8, 2, 16384, 128}},
    {DECODE, COLD, {1, 32, 8, 4, 16384, 128}},
    {DECODES, COLD, {1, 32, 8, 8, 16384, 128}},
    {DECODES, COLD, {1, 32, 8, 1, 32768, 128}},
    {DECODE, COLD, {1, 32, 8, 2, 32768, 128}},
    {DECODE, COLD, {1, 32, 8, 4, 32768, 128}},
    {DECODES, COLD, {1, 32, 8, 8, 32768, 128}},
    {ROWWISE, QUICK, {64, 1024}},
    {ROWWISE, COLD, {4096, 1024}},
    {KV_APPEND, QUICK, {32, 1, 32, 8, 256, 128}},
    {KV_APPEND | KV_DECODE, 0, {32, 1, 32, 8, 1024, 128}},
    {KV_APPEND | KV_DECODE, 0, {32, 1, 32, 8, 4096, 128}},
    {KV_REORDER, 0, {8, 4, 32, 8, 1024, 128}},
    {KV_RING, 0, {32, 1, 32, 8, 1024, 128}},
    {SCAN, QUICK, {1, 256, 192, 16}},
    {SCAN, 0, {1, 1024, 1536, 16}},
    {SCAN, 0, {1, 4096, 1536, 16}},
    {MHSA, QUICK, {1, 33, 192, 3}},
    {MHSA, 0, {1, 197, 768, 12}},
    {MHSA, 0, {1, 2448, 768, 12}},
    {MLP, QUICK, {33, 192, 768, 16}},
    {MLP, 0, {197, 768, 3072, 64}},
    {MLP, 0, {2448, 768, 3072, 64}},
    {HYENA, 0, {1, 128, 256, 4}},
    {HYENA, 0, {1, 256, 256, 4}},
    {HYENA, 0, {1, 512, 256, 4}},
    {HYENA, QUICK, {1, 1024, 256, 4}},
    {HYENA, 0, {1, 2048, 256, 4}},
    {HYENA, 0, {1, 4096, 256, 4}},
    {HYENA, 0, {1, 8192, 256, 4}},
    {HYENA, 0, {1, 16384, 256, 4}},
    {HYENA, 0, {1, 32768, 256, 4}},
    {HYENA, 0, {1, 65536, 256, 4}},
    {MAMBA_STEP, COLD, {768}},
    {LONG_CONV, QUICK, {1, 16, 256}},
    {LONG_CONV, 0, {4, 256, 1024}},
    {LONG_CONV, 0, {4, 256, 4096}},
    {LONG_CONV, 0, {4, 256, 16384}},
    {LONG_CONV, 0, {4, 256, 65536}},
    {LONG_CONV, 0, {4, 256, 64, 64}},
    {LONG_CONV, 0, {4, 256, 256, 256}},
};

/* --- Jobs: data, and who works on it. --- */
typedef struct player {
    const char *name;
    const char *isa;  /* the table to use, or NULL: a peer */
    const peer *peer; /* or NULL: ours */
    tfb_status (*ours)(job *j);
    int rival; /* 1: competes with the same table only, 2: with all tables */
} player;

typedef struct field {
    job j;
    const char *isa[MAX_TABLES];
    peer peers[MAX_PEERS];
    int tables, n_peers;
    player p[MAX_PLAYERS]; /* of the present job: tables, then whom they compete with */
    int players;
} field;

static size_t tensor_bytes(const tfb_tensor *t) {
    return t->ndim ? (size_t)tfb_numel(t) * tfb_dtype_size(t->dtype) : 0;
}

/* Points the tensors at a copy of the data. */
static void job_place(job *j, int copy) {
    int i;
    j->copy = copy;
    for (i = 0; i < MAX_PARTS; i++)
        j->t[i].data = j->data + (size_t)copy * j->copy_bytes + j->at[i];
}

/* Bytes of inputs and output; the pack beside a weight does not count twice. */
static size_t job_bytes(const job *j) {
    size_t bytes = 0;
    int i;
    for (i = 0; i <= j->w->output; i++) bytes += tensor_bytes(&j->t[i]);
    return bytes;
}

static void fill(float *p, size_t n) { /* -1 .. 1 */
    uint32_t u = 1;
    size_t i;
    for (i = 0; i < n; i++) {
        u = u * 1664525u + 1013904223u;
        p[i] = ((float)(u >> 8) - 8388608.0f) / 8388608.0f;
    }
}

/* Weights and caches of 16 bits: floats, rounded, over and over, in every copy. Their
 * number is a prime one: no two rows are the same. */
static void job_round(job *j, int part) {
    enum { FLOATS = 65521 };
    const tfb_tensor *half = &j->t[part];
    const tfb_idx n = tfb_numel(half);
    char *data = j->data + j->at[part];
    tfb_tensor from = tfb_view1(allocate(4 * FLOATS), TFB_F32, FLOATS), to = from;
    tfb_idx at;
    int i;
    fill((float *)from.data, FLOATS);
    for (at = 0; at < n; at += FLOATS) {
        from.shape[0] = n - at < FLOATS ? n - at : FLOATS;
        to = tfb_view1(data + 2 * at, half->dtype, from.shape[0]);
        if (tfb_copy(j->ctx, &from, &to) != TFB_OK) stop(j->w->name, j->ctx->message);
    }
    free(from.data);
    for (i = 1; i < j->copies; i++)
        memcpy(data + (size_t)i * j->copy_bytes, data, 2 * (size_t)n);
}

static void job_pack(job *j) {
    const size_t bytes = tensor_bytes(&j->t[T_PACK]);
    tfb_tensor packed = j->t[T_PACK];
    int i;
    for (i = 0; i < j->copies; i++) {
        job_place(j, i);
        if (tfb_pack(j->ctx, &j->t[T_W], j->t[T_PACK].data, bytes, &packed) != TFB_OK)
            stop(j->w->name, j->ctx->message);
    }
    j->t[T_PACK] = packed;
}

/* Weights small enough for outputs like the inputs, and their packs. */
static void job_pack_block(job *j) {
    int i, part;
    tfb_idx k;
    for (i = 0; i < j->copies; i++)
        for (part = 0; part < 2; part++) {
            tfb_tensor *w = &j->t[B_W0 + part], *pack = &j->t[B_PACK0 + part], made;
            const float by = 1 / sqrtf((float)w->shape[1]);
            const size_t bytes = tfb_pack_bytes(w->shape[0], w->shape[1], TFB_F32);
            job_place(j, i);
            for (k = 0; k < tfb_numel(w); k++) ((float *)w->data)[k] *= by;
            if (tfb_pack(j->ctx, w, pack->data, bytes, &made) != TFB_OK)
                stop(j->w->name, j->ctx->message);
            if (i + 1 == j->copies) *pack = made;
        }
}

static void job_mamba(job *j) {
    tfb_mamba_opts o = TFB_INIT;
    const size_t bytes = mamba_bytes(j->n);
    void *first;
    int i;
    o.channels = j->n[0];
    job_place(j, 0);
    first = j->t[M_WEIGHTS].data;
    if (tfb_mamba_init(j->ctx, &j->mamba, &o, first, bytes) != TFB_OK)
        stop(j->w->name, j->ctx->message);
    for (i = 0; i < j->copies; i++) {
        job_place(j, i);
        if (i) memcpy(j->t[M_WEIGHTS].data, first, bytes);
        mamba_reset(j);
    }
}

/* States that grow would soon be infinite. */
static void job_decay(job *j) {
    float *a = (float *)(void *)(j->data + j->at[S_A]);
    tfb_idx i;
    for (i = 0; i < tfb_numel(&j->t[S_A]); i++) a[i] = -8 * (a[i] + 1);
}

static void job_grow(job *j, size_t bytes) {
    if (bytes <= j->room) return;
    free(j->data);
    j->data = (char *)allocate(bytes);
    j->room = bytes;
}

static void kv_drop(job *j) {
    tfb_kv_free(&j->kv);
    free(j->plain);
    free(j->spare);
    j->plain = j->spare = NULL;
}

/* Fills a cache, and plain tensors with the same rows. No other job's data beside them:
 * these are large. */
static void kv_make(job *j) {
    const tfb_idx *n = j->n, all = kv_floats(j), more = 2 * (all + n[1] * n[3] * n[5]);
    tfb_kv_opts o = TFB_INIT;
    tfb_status status;
    int l;
    o.layers = (int)n[0];
    if (j->w->ours == kv_ring) o.shape.window = n[4];
    j->plain = (float *)allocate(8 * (size_t)(n[0] * all));
    j->spare = (float *)allocate(4 * (size_t)more);
    fill(j->plain, 2 * (size_t)(n[0] * all));
    memset((void *)j->spare, 0, 4 * (size_t)more);
    status = tfb_kv_init(j->ctx, &j->kv, &o);
    for (l = 0; l < o.layers && status == TFB_OK; l++) {
        const float *at = j->plain + 2 * l * all;
        tfb_tensor k = tfb_view4(at, TFB_F32, n[1], n[3], n[4], n[5]);
        tfb_tensor v = tfb_view4(at + all, TFB_F32, n[1], n[3], n[4], n[5]);
        status = tfb_kv_append(j->ctx, &j->kv, l, &k, &v);
    }
    if (status != TFB_OK) stop(j->w->name, j->ctx->message);
}

static void job_make(job *j, const workload *w, const struct row *r) {
    const size_t far = 2 * cache_bytes(3);
    int i;
    memset(j->t, 0, sizeof j->t);
    j->w = w;
    j->n = r->n;
    j->cold = r->flags & COLD;
    j->copy_bytes = 0;
    w->shape(j);
    kv_drop(j);
    if (w->shape == shape_kv) free(j->data), j->data = NULL, j->room = 0;
    for (i = 0; i < MAX_PARTS; i++) {
        j->at[i] = j->copy_bytes;
        /* not a whole number of pages */
        j->copy_bytes += (tensor_bytes(&j->t[i]) + 63) / 64 * 64 + 192;
    }
    j->copies = j->cold ? (int)(far / job_bytes(j)) + 1 : 1;
    job_grow(j, j->copy_bytes * (size_t)j->copies);
    fill((float *)(void *)j->data, j->copy_bytes / 4 * (size_t)j->copies);
    for (i = 0; i < w->output; i++)
        if (j->t[i].dtype == TFB_F16 || j->t[i].dtype == TFB_BF16) job_round(j, i);
    if (w->layer && w->layer->parts & PACKED) job_pack(j);
    if (w->shape == shape_kv) kv_make(j);
    if (w->shape == shape_scan) job_decay(j);
    if (w->rivals == PARTS_MHSA || w->rivals == PARTS_MLP || w->shape == shape_hyena)
        job_pack_block(j);
    if (w->shape == shape_hyena) job_hyena(j);
    if (w->shape == shape_mamba) job_mamba(j);
    job_place(j, 0);
    if (w->shape == shape_long_conv) job_channels_first(j);
}

static void add_player(field *f, const char *name, const char *isa, const peer *other,
                       tfb_status (*ours)(job *j), int rival) {
    player *p = &f->p[f->players++];
    p->name = name;
    p->isa = isa;
    p->peer = other;
    p->ours = ours;
    p->rival = rival;
}

static int plays(const struct peer_row *p, const workload *w, const struct row *r) {
    const int attends = w->shape == shape_attention;
    const int transforms = w->shape == shape_long_conv;
    if (!w->peer || attends != ((p->flags & ATTENDS) != 0)) return 0;
    if (transforms != ((p->flags & TRANSFORMS) != 0)) return 0;
    return !(p->flags & ONE_ROW) || r->n[attends ? 3 : 0] == 1;
}

/* Who plays: the tables, the best one first; peers that know how. */
static void field_enter(field *f, const workload *w, const struct row *r) {
    const int slow = f->tables > 1 && strcmp(f->isa[f->tables - 1], "scalar") == 0;
    const int apart = !(r->flags & QUICK) || w->shape == shape_scan;
    const int tables = f->tables - (slow && apart);
    int i, k;
    f->players = 0;
    for (i = 0; i < tables; i++) add_player(f, f->isa[i], f->isa[i], NULL, w->ours, 0);
    for (k = 0; w->rivals && k < 2 && w->rivals[k].run; k++)
        for (i = 0; i < tables; i++)
            add_player(f, w->rivals[k].name, f->isa[i], NULL, w->rivals[k].run, 1);
    if (slow && w->shape == shape_scan) /* no library has one */
        add_player(f, "scalar", "scalar", NULL, w->ours, 2);
    for (i = 0; i < f->n_peers; i++)
        if (plays(f->peers[i].row, w, r))
            add_player(f, f->peers[i].row->name, NULL, &f->peers[i], NULL, 0);
}

/* Between two tokens a model reads more than any cache holds. */
static void forget(const job *j) {
    const size_t far = cache_bytes(3) / 2, all = 2 * (size_t)(j->n[0] * kv_floats(j));
    volatile float sink = read_c(j->plain, all < far ? all : far);
    (void)sink;
}

static void field_select(void *user, int i) {
    field *f = (field *)user;
    if (f->j.w->shape == shape_kv) forget(&f->j);
    if (f->p[i].isa && tfb_isa_force(f->j.ctx, f->p[i].isa) != TFB_OK)
        stop("table", f->j.ctx->message);
}

static void field_work(field *f, const player *p) {
    if (p->peer) f->j.w->peer(&f->j, p->peer);
    else if (p->ours(&f->j) != TFB_OK) stop(f->j.w->name, f->j.ctx->message);
}

static void field_call(void *user, int i) {
    field *f = (field *)user;
    if (f->j.copies > 1) job_place(&f->j, (f->j.copy + 1) % f->j.copies);
    field_work(f, &f->p[i]);
}

/* The first table's result is the measure: ours by bits, peers nearly. */
static void field_check(field *f) {
    const tfb_tensor *y = &f->j.t[f->j.w->output];
    const size_t count = (size_t)tfb_numel(y);
    float *first = (float *)allocate(4 * count), *now;
    size_t at;
    int i;
    for (i = 0; i < f->players; i++) {
        const player *p = &f->p[i];
        if (p->ours == ours_plain || p->ours == kv_append || p->ours == attention_block)
            continue;
        job_place(&f->j, 0);
        now = (float *)y->data;
        memset((void *)now, 255, 4 * count); /* NaN */
        field_select(f, i);
        if (f->j.w->shape == shape_mamba) mamba_reset(&f->j);
        f->j.checking = 1;
        field_work(f, p);
        f->j.checking = 0;
        if (i == 0) memcpy((void *)first, now, 4 * count);
        if (p->isa && p->ours != ours_long_conv && p->ours != ours_hyena &&
            memcmp(first, now, 4 * count) != 0)
            stop(p->name, "other bits than the first table's");
        for (at = 0; at < count; at++) {
            const float off = now[at] - first[at], size = first[at] * first[at];
            if (!(off * off <= 1e-6f * (1 + size))) stop(p->name, "a wrong result");
        }
    }
    free(first);
}

/* --- Results. --- */
/* The meters that bound a job: fma for flops, and streams. */
static int meters_of(const job *j) {
    if (j->w->unit == READ) return 1 << (j->cold ? READ_MEMORY : READ_L2);
    if (j->w->unit == COPY) return 1 << (j->cold ? COPY_MEMORY : COPY_L2);
    if (j->w->unit == STEPS) return 1 << READ_MEMORY;
    return ((1 << MAX_PEAKS) - 1) << FMA | (j->cold ? 1 << READ_MEMORY : 0);
}

static double limit_of(const job *j, const limits *l, double work) {
    const double most = peak(l, NULL);
    const double bound = l->m[READ_MEMORY].rate * work / (double)job_bytes(j);
    if (j->w->unit == READ) return l->m[j->cold ? READ_MEMORY : READ_L2].rate;
    if (j->w->unit == COPY) return l->m[j->cold ? COPY_MEMORY : COPY_L2].rate;
    if (j->w->ours == kv_decode) /* reading all keys and values once */
        return l->m[READ_MEMORY].rate * 1e9 / (8.0 * (double)(j->n[0] * kv_floats(j)));
    if (j->w->unit == STEPS) return 0;
    return j->cold && bound < most ? bound : most;
}

/* A line of results: the columns of the file, and one more for the printed table. */
enum { CELLS = 12, CELL_BYTES = 40 };
static const struct column {
    const char *name, *head; /* in the file, above the printed table */
    int width;
} COLUMNS[CELLS] = {
    {"workload", "workload", -24},  {"shape", "shape", -24},
    {"threads", "thr", 3},          {"isa", "isa", -7},
    {"unit", "unit", -4},           {"ours", "ours", 7},
    {"limit", "limit", 7},          {"ours_over_limit", "/limit", 6},
    {"peer", "peer", -13},          {"peer_value", "peer", 7},
    {"ours_over_peer", "/peer", 6}, {"", "of own", 6},
};

typedef struct line {
    char cell[CELLS][CELL_BYTES];
} line;

static void print_line(FILE *file, const line *l) {
    int i;
    for (i = 0; i + 1 < CELLS; i++)
        fprintf(file, "%s%c", l->cell[i], i + 2 < CELLS ? '\t' : '\n');
    for (i = 0; i < CELLS; i++)
        printf("%*s%c", COLUMNS[i].width, l->cell[i], i + 1 < CELLS ? ' ' : '\n');
    fflush(file);
    fflush(stdout);
}

static void print_head(FILE *file) {
    int i;
    for (i = 0; i + 1 < CELLS; i++)
        fprintf(file, "%s%c", COLUMNS[i].name, i + 2 < CELLS ? '\t' : '\n');
    for (i = 0; i < CELLS; i++)
        printf("%*s%c", COLUMNS[i].width, COLUMNS[i].head, i + 1 < CELLS ? ' ' : '\n');
}

static void set_text(line *l, int i, const char *text) {
    snprintf(l->cell[i], CELL_BYTES, "%s", text);
}

static void set_number(line *l, int i, double value) { /* "-" where there is none */
    snprintf(l->cell[i], CELL_BYTES, value > 0 ? "%.4g" : "-", value);
}

static void set_ratio(line *l, int i, double a, double b) {
    snprintf(l->cell[i], CELL_BYTES, a > 0 && b > 0 ? "%.3f" : "-", a / (b > 0 ? b : 1));
}

/* M x N x K of products, behind the batches of a and of b where there are any;
 * B x H x G x T x S x D of attention; layers x B x H x G x S x D of caches; rows x C;
 * B x T x E x N of scans; B x C x N or B x C x N x N of long convolutions. */
static void set_shape(line *l, int i, const job *j) {
    size_t used = 0;
    int d;
    for (d = 0; d < MAX_DIMS && j->n[d]; d++)
        used += (size_t)snprintf(l->cell[i] + used, CELL_BYTES - used, d ? "x%ld" : "%ld",
                                 (long)j->n[d]);
    if (j->cold) snprintf(l->cell[i] + used, CELL_BYTES - used, ",cold");
}

static void print_result(FILE *file, const field *f, const limits *l, const player *table,
                         const contestant *c, const char *peer_name, double peer_time) {
    const double work = f->j.w->work(f->j.n), ours = work / c->median / 1e9;
    const double other = peer_time > 0 ? work / peer_time / 1e9 : 0;
    const double limit = limit_of(&f->j, l, work);
    line out;
    set_text(&out, 0, f->j.w->name);
    set_shape(&out, 1, &f->j);
    set_number(&out, 2, opt.threads);
    set_text(&out, 3, table->isa);
    set_text(&out, 4, UNITS[f->j.w->unit]);
    set_number(&out, 5, ours);
    set_number(&out, 6, limit);
    set_ratio(&out, 7, ours, limit);
    set_text(&out, 8, peer_name);
    set_number(&out, 9, other);
    set_ratio(&out, 10, ours, other);
    set_ratio(&out, 11, f->j.w->unit == FLOPS ? ours : 0, peak(l, table->isa));
    print_line(file, &out);
}

static void print_meter(FILE *file, const meter *m) {
    line out;
    int i;
    for (i = 0; i < CELLS; i++) set_text(&out, i, "-");
    set_text(&out, 0, "limit");
    set_text(&out, 1, m->name);
    set_number(&out, 2, opt.threads);
    set_text(&out, 3, m->isa);
    set_text(&out, 4, m->unit);
    set_number(&out, 6, m->rate);
    print_line(file, &out);
}

/* A first measurement of all limits; also fills in those that some rows need alone. */
static void print_limits(FILE *file, limits *l) {
    contestant c[MAX_METERS];
    const int n = enter_meters(l, -1, c, 0);
    int i;
    race(c, n);
    read_meters(c, n);
    for (i = FMA; i < MAX_METERS; i++)
        if (l->m[i].rate > 0) print_meter(file, &l->m[i]);
    for (i = READ_L2; i < FMA; i++) print_meter(file, &l->m[i]);
}

/* A line for each table and each that it competes with: peers, and itself unfused. */
static void print_results(FILE *file, const field *f, const limits *l,
                          const contestant *c) {
    int i, k, lines;
    for (i = 0; i < f->players; i++) {
        const player *p = &f->p[i], *q;
        if (p->peer || p->rival) continue;
        for (k = lines = 0; k < f->players; k++) {
            q = &f->p[k];
            if (!q->peer && q->rival != 2 && (!q->rival || q->isa != p->isa)) continue;
            print_result(file, f, l, p, &c[i], q->name, c[k].median);
            lines++;
        }
        if (!lines) print_result(file, f, l, p, &c[i], "-", 0);
    }
}

static void enter_player(contestant *c, field *f, int i) {
    memset(c, 0, sizeof *c);
    c->select = field_select;
    c->call = field_call;
    c->user = f;
    c->i = i;
}

/* Everybody works on one workload at one shape. */
static void run(field *f, limits *l, const workload *w, const struct row *r, FILE *file) {
    contestant c[MAX_PLAYERS + MAX_METERS];
    int i, all;
    job_make(&f->j, w, r);
    field_enter(f, w, r);
    for (i = 0; i < f->players; i++) enter_player(&c[i], f, i);
    if (w->output > 0) field_check(f); /* else the step has no output of its own */
    all = enter_meters(l, meters_of(&f->j), c, f->players);
    race(c, all);
    read_meters(c + f->players, all - f->players);
    print_results(file, f, l, c);
}

/* --- The sweep: square products of many sizes, and small ones with all kinds of ends, by
 * the best table, in rounds, so that what disturbs one is gone in another. A cliff is a
 * size whose flops take much longer than those of the next smaller one. --- */
enum {
    SWEPT = 3,
    ROUNDS = 2,
    MAX_POINTS = 400,
    SHOWN_CLIFFS = 10,
    SWEEP_LIMIT = 521,
    SWEEP_K = 256
};
static const double CLIFF = 1.5;
static const tfb_idx SWEEP_M[] = {4, 5, 7, 8, 9, 12, 13, 16, 17, 31, 32, 33};
static const tfb_idx SWEEP_N[] = {16, 17, 31, 32, 33, 47, 48, 49, 64};

typedef struct point {
    struct row row;
    int smaller[2]; /* which points are the next smaller ones, or -1 */
    double rate[SWEPT], share[SWEPT];
} point;

typedef struct cliff {
    int workload, high, low;
    double ratio;
} cliff;

static void add_point(point *p, tfb_idx M, tfb_idx N, tfb_idx K, int smaller0,
                      int smaller1) {
    memset(p, 0, sizeof *p);
    p->row.n[0] = M;
    p->row.n[1] = N;
    p->row.n[2] = K;
    p->smaller[0] = smaller0;
    p->smaller[1] = smaller1;
}

static int is_prime(tfb_idx n) {
    tfb_idx i;
    for (i = 2; i * i <= n; i++)
        if (n % i == 0) return 0;
    return n > 1;
}

static int make_points(point *p) {
    const int rows = sizeof SWEEP_M / sizeof *SWEEP_M;
    const int columns = sizeof SWEEP_N / sizeof *SWEEP_N;
    int n = 0, r, c;
    tfb_idx size;
    for (size = 4; size <= SWEEP_LIMIT; size++) {
        if (size > 64 && !is_prime(size)) continue;
        add_point(&p[n], size, size < 16 ? 16 : size, size, n - 1, -1);
        n++;
    }
    for (r = 0; r < rows; r++)
        for (c = 0; c < columns; c++, n++)
            add_point(&p[n], SWEEP_M[r], SWEEP_N[c], SWEEP_K, c ? n - 1 : -1,
                      r ? n - columns : -1);
    return n;
}

/* Times a point once more; the best time counts. */
static void sweep_point(field *fields, limits *l, int meters, point *p) {
    contestant c[SWEPT + MAX_METERS];
    int i, all;
    for (i = 0; i < SWEPT; i++) {
        job_make(&fields[i].j, &WORKLOADS[i], &p->row);
        field_enter(&fields[i], &WORKLOADS[i], &p->row);
        enter_player(&c[i], &fields[i], 0);
    }
    all = enter_meters(l, meters, c, SWEPT);
    race(c, all);
    read_meters(c + SWEPT, all - SWEPT);
    for (i = 0; i < SWEPT; i++) {
        const double rate = flops_matmul(p->row.n) / c[i].median / 1e9;
        if (rate <= p->rate[i]) continue;
        p->rate[i] = rate;
        p->share[i] = rate / peak(l, NULL);
    }
}

static int by_ratio(const void *a, const void *b) { /* the worst first */
    const double x = ((const cliff *)a)->ratio, y = ((const cliff *)b)->ratio;
    return (x < y) - (x > y);
}

static void print_cliffs(const point *p, int n) {
    static cliff found[2 * SWEPT * MAX_POINTS];
    int i, w, s, cliffs = 0;
    for (i = 0; i < n; i++)
        for (w = 0; w < SWEPT; w++)
            for (s = 0; s < 2; s++) {
                const int low = p[i].smaller[s];
                const double ratio = low < 0 ? 0 : p[low].rate[w] / p[i].rate[w];
                if (ratio <= CLIFF) continue;
                found[cliffs].workload = w;
                found[cliffs].high = i;
                found[cliffs].low = low;
                found[cliffs++].ratio = ratio;
            }
    qsort(found, (size_t)cliffs, sizeof *found, by_ratio);
    printf("%d sizes take more than %.3g times as long for a flop as a smaller one%s\n",
           cliffs, CLIFF, cliffs ? ":" : "");
    for (i = 0; i < cliffs && i < SHOWN_CLIFFS; i++) {
        const tfb_idx *high = p[found[i].high].row.n, *low = p[found[i].low].row.n;
        printf("cliff %-14s %ldx%ldx%ld: %.2f times as long as %ldx%ldx%ld\n",
               WORKLOADS[found[i].workload].name, (long)high[0], (long)high[1],
               (long)high[2], found[i].ratio, (long)low[0], (long)low[1], (long)low[2]);
    }
}

/* The first workloads are swept: products, and layers without and with a pack. */
static void sweep(const field *f, limits *l, FILE *file) {
    static point p[MAX_POINTS];
    static field fields[SWEPT];
    const int n = make_points(p);
    int widest = FMA, i, w;
    while (!l->m[widest].body) widest++; /* that of C is always there */
    for (w = 0; w < SWEPT; w++) {
        fields[w] = *f;
        fields[w].tables = 1;
        fields[w].n_peers = 0;
    }
    for (i = 0; i < ROUNDS * n; i++) sweep_point(fields, l, 1 << widest, &p[i % n]);
    fprintf(file, "workload\tM\tN\tK\tgflops\tof_peak\n");
    for (w = 0; w < SWEPT; w++)
        for (i = 0; i < n; i++)
            fprintf(file, "%s\t%ld\t%ld\t%ld\t%.4g\t%.3f\n", WORKLOADS[w].name,
                    (long)p[i].row.n[0], (long)p[i].row.n[1], (long)p[i].row.n[2],
                    p[i].rate[w], p[i].share[w]);
    print_cliffs(p, n);
    for (w = 0; w < SWEPT; w++) free(fields[w].j.data);
}

/* --- The program. --- */
/* Which tables this CPU has, or the one that was asked for. */
static void find_tables(field *f, tfb_ctx *ctx) {
    const char *name, *why;
    int i;
    if (opt.isa && tfb_isa_force(ctx, opt.isa) != TFB_OK) stop("--isa", ctx->message);
    for (i = 0; (name = tfb_isa_list(ctx, i, &why)) != NULL; i++) {
        if (opt.isa && strcmp(opt.isa, name) != 0) continue;
        if (f->tables < MAX_TABLES && tfb_isa_force(ctx, name) == TFB_OK)
            f->isa[f->tables++] = name;
        else fprintf(stderr, "table %s is left out: %s\n", name, why);
    }
}

/* One CPU for the whole process, unless it has several threads. Before peers are loaded:
 * they start as many threads as they find CPUs. */
static void pin(void) {
#ifdef __linux__
    cpu_set_t set;
    const int cpu = opt.cpu >= 0 ? opt.cpu : sched_getcpu();
    if (opt.threads > 1) return;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    if (cpu < 0 || sched_setaffinity(0, sizeof set, &set) != 0)
        stop("--cpu", "this process cannot be pinned to that CPU");
    fprintf(stderr, "pinned to CPU %d\n", cpu);
#else
    fprintf(stderr, "not pinned: this system has no sched_setaffinity\n");
#endif
}

static int to_int(const char *option, const char *text) {
    char *end;
    const long n = strtol(text, &end, 10);
    if (end == text || *end || n < 0 || n > 4096) stop(option, "needs a small number");
    return (int)n;
}

static void check_only(void) {
    size_t w;
    if (!opt.only || strcmp(opt.only, "limits") == 0) return;
    for (w = 0; w < sizeof WORKLOADS / sizeof *WORKLOADS; w++)
        if (strcmp(WORKLOADS[w].name, opt.only) == 0) return;
    stop("--only", "there is no such workload");
}

/* Options without a value; 0 if this is none. */
static int read_flag(const char *option) {
    if (strcmp(option, "--quick") == 0) opt.quick = 1;
    else if (strcmp(option, "--sweep") == 0) opt.sweep = 1;
    else return 0;
    opt.batches = 3;
    opt.batch_seconds = 0.004;
    return 1;
}

static void read_options(int argc, char **argv) {
    const char *usage = "[--quick] [--sweep] [--isa NAME] [--only WORKLOAD] [--cpu N] "
                        "[--threads N] [--out FILE]";
    int i;
    for (i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (read_flag(argv[i])) continue;
        if (!value) stop("usage", usage);
        i++;
        if (strcmp(argv[i - 1], "--isa") == 0) opt.isa = value;
        else if (strcmp(argv[i - 1], "--only") == 0) opt.only = value;
        else if (strcmp(argv[i - 1], "--out") == 0) opt.out = value;
        else if (strcmp(argv[i - 1], "--cpu") == 0) opt.cpu = to_int("--cpu", value);
        else if (strcmp(argv[i - 1], "--threads") == 0)
            opt.threads = to_int("--threads", value);
        else stop("usage", usage);
    }
    check_only();
    if (!opt.out) opt.out = opt.sweep ? "build/sweep.tsv" : "build/bench.tsv";
    if (opt.threads < 1 || opt.threads > 256) stop("--threads", "1 to 256");
}

static int wanted(size_t w, const struct row *r) {
    if (!(r->workloads >> w & 1) || (opt.quick && !(r->flags & QUICK))) return 0;
    return !opt.only || strcmp(opt.only, WORKLOADS[w].name) == 0;
}

static void bench(field *f, limits *l, FILE *file) {
    size_t w, r;
    print_head(file);
    print_limits(file, l);
    for (w = 0; w < sizeof WORKLOADS / sizeof *WORKLOADS; w++)
        for (r = 0; r < sizeof ROWS / sizeof *ROWS; r++)
            if (wanted(w, &ROWS[r])) run(f, l, &WORKLOADS[w], &ROWS[r], file);
}

int main(int argc, char **argv) {
    field f;
    tfb_ctx ctx;
    limits l;
    FILE *file;
    memset(&f, 0, sizeof f);
    read_options(argc, argv);
    pin();
    mkdir("build", 0777);
    file = fopen(opt.out, "w");
    if (!file) stop(opt.out, "cannot be written");
    tfb_ctx_init(&ctx);
    if (tfb_ctx_threads(&ctx, opt.threads, 2000) != TFB_OK)
        stop("--threads", ctx.message);
    f.j.ctx = &ctx;
    find_tables(&f, &ctx);
    make_limits(&l, &ctx);
    if (opt.sweep) {
        sweep(&f, &l, file);
    } else {
        f.n_peers = open_peers(f.peers);
        bench(&f, &l, file);
    }
    fclose(file);
    printf("%s\n", opt.out);
    kv_drop(&f.j);
    free(f.j.data);
    free(f.j.scores);
    free(l.m[0].from);
    free(l.m[0].to);
    tfb_ctx_free(&ctx);
    return 0;
}
