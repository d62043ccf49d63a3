/* tfblocks.h 0.6.0 - transformer building blocks for any C program, in one file.
 *
 * Tensors, matmul, fused linear layers, norms, rope, chunked attention, KV caches, scans,
 * long convolutions and QKV blocks with attention, Mamba, Hyena or CKConv inside, on the
 * fastest instruction set of the machine, picked at run time. Nothing but libc is needed:
 * no -lm, no -march, no build system. A result does not depend on batch, chunk, thread
 * count, packing, prefill or decode, nor on the instruction set: same bits.
 *
 *   #define TFBLOCKS_IMPLEMENTATION            in exactly one file of a program
 *   #include "tfblocks.h"
 *   #include <stdio.h>
 *   int main(void) {
 *       float a[6] = {1, 2, 3, 4, 5, 6}, b[6] = {1, 0, 0, 1, 1, 1}, y[4];
 *       tfb_tensor A = tfb_view2(a, TFB_F32, 2, 3), B = tfb_view2(b, TFB_F32, 3, 2);
 *       tfb_tensor Y = tfb_view2(y, TFB_F32, 2, 2);
 *       tfb_ctx ctx;
 *       tfb_ctx_init(&ctx);
 *       if (tfb_matmul(&ctx, &A, &B, &Y) != TFB_OK) puts(ctx.message);
 *       printf("%g %g\n%g %g\n", y[0], y[1], y[2], y[3]);
 *       tfb_ctx_free(&ctx);
 *   }
 *
 * Contents: search for "[n]" to jump; what begins with API is the public part.
 *   [1] API: BASICS              status, tensor, context, small helpers
 *   [2] API: MATMUL AND LINEAR   matmul, packed weights, linear, norms, softmax, rope
 *   [3] API: ATTENTION AND CACHES
 *   [4] API: CHUNKS AND MIXERS   chunked forward, scans, long convolutions, mixers
 *   [5] PLATFORM                 compiler differences as 0/1 macros; fma and sqrt
 *   [6] BASICS                   messages, scratch, threads, checks, views
 *   [7] ISA LIST                 kernel table, which instruction sets there are
 *   [8] ISA PASSES               this file includes itself once per instruction set
 *   [9] VECTOR OPS               some forty operations, the same names for each
 *   [10] ELEMENTARY FUNCTIONS    exp, log, tanh, erf, sin, .. in those operations
 *   [11] KERNELS                 one source, compiled once per instruction set
 *   [12] DISPATCH                choose once; say what was skipped and why
 *   [13] TENSOR OPS              copy, add, mul, map, embed, argmax
 *   [14] MATMUL AND LINEAR       one engine for both, packing
 *   [15] NORMS, SOFTMAX AND ROPE
 *   [16] ATTENTION
 *   [17] KV CACHES
 *   [18] CHUNKED FORWARD
 *   [19] CONVOLUTION AND SCANS
 *   [20] LONG CONVOLUTIONS       direct sums, Fourier transforms of any length
 *   [21] MIXERS                  random numbers, parameters, the QKV block, its mixers
 *   [22] TAIL                    pitfalls, changes, licence
 * A function with _ref in its name is the plain-loop definition of what stands beside it.
 *
 * Switches, defined before the include:
 *   TFBLOCKS_IMPLEMENTATION  this file becomes the implementation
 *   TFB_STATIC               every function is static: a private copy in each file
 *   TFB_SELF                 the header's name in quotes, if you renamed it
 *   TFB_SCALAR               no vector code at all
 *   TFB_SOFT_FMA             fma in double arithmetic even where there is an instruction
 *   TFB_EXACT                the scalar table instead of those without fma (SSE2, WASM)
 *   TFB_PTHREADS             tfb_ctx_threads and its pool; needs pthreads
 *   TFB_USE_CBLAS            large float32 products go to cblas_sgemm of the library you
 *                            link; their bits are then its own. TFB_CBLAS_HEADER names
 *                            its header if that is not <cblas.h>
 *   TFB_NO_MESSAGES          ctx.message stays empty; saves flash
 *   TFB_NO_STDLIB            no malloc family: set ctx.alloc or use a static context
 *   TFB_SMALL                size before speed: plain loops, the scalar table only, the
 *                            same bits; link with -ffunction-sections, --gc-sections
 *   TFB_NO_CHECKS            arguments are believed: ARG, SHAPE, DTYPE and ALIAS are not
 *                            found any more, and what they would have stopped happens
 * What is left out has no declaration, or is UNSUPPORTED where it is an option of a call
 * that stays; behind it what goes with it:
 *   TFB_NO_TENSOR_OPS        copy, add, mul, map, embed, argmax        MIXERS
 *   TFB_NO_FN_GELU, TFB_NO_FN_SILU (and sigmoid), TFB_NO_FN_TANH, TFB_NO_FN_EXP (exp,
 *                            exp2, log, erf, softplus), TFB_NO_FN_TRIG (sin, cos, compat
 *                            of rope): those of tfb_map and activations   of SILU, EXP:
 *                            MAMBA, HYENA; of GELU, TRIG: HYENA
 *   TFB_NO_MATMUL            tfb_matmul
 *   TFB_NO_LINEAR            tfb_linear                                PACKS, MIXERS
 *   TFB_NO_PACKS             packed weights                            MIXERS
 *   TFB_NO_GATES             gates of tfb_linear
 *   TFB_NO_NORMS             rmsnorm, layernorm, l2norm         ATTENTION_QK, HYENA
 *   TFB_NO_SOFTMAX           tfb_softmax
 *   TFB_NO_LSE               lse of tfb_softmax and attention
 *   TFB_NO_ROPE              tfb_rope                       ATTENTION_QK, KV_SHIFT
 *   TFB_NO_ATTENTION         attention, its weights, caches            WEIGHTS, KV
 *   TFB_NO_ATTENTION_MASKS   mask, bias
 *   TFB_NO_ATTENTION_WINDOWS window, two_sided                         KV_RINGS
 *   TFB_NO_ATTENTION_SCORES  softcap, alibi, sinks
 *   TFB_NO_ATTENTION_SEQUENCES  kv_start, kv_len, cu_q, cu_k, offsets, key_pos0,
 *                            key_pos0s, key_pinned                     KV_RINGS
 *   TFB_NO_ATTENTION_PAGES   pages
 *   TFB_NO_ATTENTION_QK      qk: norm and rope inside attention        MIXERS
 *   TFB_NO_WEIGHTS           tfb_attention_weights
 *   TFB_NO_MERGE             tfb_merge_state, tfb_merge_states
 *   TFB_NO_KV                caches                                    MIXERS
 *   TFB_NO_KV_DYNAMIC        tfb_kv_init: caches that grow
 *   TFB_NO_KV_RINGS          window of a cache
 *   TFB_NO_KV_PLACES         tfb_kv_update, ragged, once
 *   TFB_NO_KV_EDIT           crop, keep_last, select, repeat, fork     MIXERS
 *   TFB_NO_KV_SHIFT          tfb_kv_shift
 *   TFB_NO_KV_MARKS          mark, rollback, commit                    MIXERS
 *   TFB_NO_KV_SAVE           save, load
 *   TFB_NO_CHUNKS            chunked forward, tfb_scratch              MIXERS
 *   TFB_NO_SCAN              convolution and scans          MAMBA, LONG_CONV
 *   TFB_NO_LONG_CONV         tfb_long_conv                             HYENA
 *   TFB_NO_RANDOM            tfb_uniform                               MIXERS
 *   TFB_NO_PARAMS            counting, saving, loading parameters      MIXERS
 *   TFB_NO_MIXERS            the QKV block and its mixers              MAMBA, HYENA
 *   TFB_NO_MAMBA             the Mamba mixer
 *   TFB_NO_HYENA             the CKConv and Hyena mixers
 *   TFB_NO_HALF              F16 and BF16
 *   TFB_NO_ALLOC             ctx.alloc: static contexts only  STDLIB, KV_DYNAMIC
 *   TFB_NO_WORKERS           ctx.workers counts as 1
 *
 * Contracts.
 *   Bits     Sums over k are chains of fma from +0 over 256 terms, block added to block.
 *            Row sums have 16 lanes, element i in lane i mod 16, folded 16 8 4 2 1.
 *            Attention runs over tiles of 64 keys and splits of 1024, counted from the
 *            first key of the sequence wherever that lies. Elementary functions are our
 *            own. fma, division and square root are the IEEE ones; the rounding mode is
 *            never touched. Outside: long convolutions by Fourier transforms (they depend
 *            on the instruction set alone), builds with -ffast-math or x87 arithmetic,
 *            large products under TFB_USE_CBLAS, tables without fma (SSE2 and
 *            WebAssembly, see TFB_EXACT); tfb_build_info tells. 32-bit Arm's NEON and
 *            Helium flush subnormals: there numbers that meet none have the same bits.
 *   Threads  One context per thread. Tensors, packs and caches that are only read may be
 *            shared. The library starts no thread unless tfb_ctx_threads is called.
 *   Alias    Outputs overlap no input unless a function says so; inputs may overlap.
 *   NaN      Which elements are NaN is defined, which NaN is not. Masked places never
 *            reach a result.
 *   Errors   A status and ctx.message; nothing was written. Nothing prints or aborts.
 *
 * How to add
 *   an instruction set: a row in TFB__ISA_LIST [7], a pass [8], a block of vector ops [9]
 *   a kernel: a slot in tfb__kernels [7], its one source and table entry [11], a loop for
 *            it in tests/isa
 *   an elementary function: a row in TFB_FN_LIST [1], its source in [10]
 *   a mixer: fill a tfb_mixer_ops [4]; nothing here has to be touched */

/* ===== [1] API: BASICS ============================================================== */
#ifndef TFB__PASS /* an instruction-set pass reads sections 9 to 11 only */
#ifndef TFBLOCKS_H
#define TFBLOCKS_H

#include <stddef.h>
#include <stdint.h>

#define TFB_VERSION       "0.6.0"
#define TFB_MAX_DIMS      6
#define TFB_MESSAGE_BYTES 192

#if defined(TFB_STATIC) && defined(__GNUC__)
#define TFB_API static __attribute__((unused))
#elif defined(TFB_STATIC)
#define TFB_API static
#else
#define TFB_API extern
#endif

/* What is left out takes with it what needs it. */
#if defined(TFB_NO_ALLOC) && !defined(TFB_NO_STDLIB)
#define TFB_NO_STDLIB
#endif
#if defined(TFB_NO_LINEAR) && !defined(TFB_NO_PACKS)
#define TFB_NO_PACKS
#endif
#if defined(TFB_NO_ATTENTION) && !defined(TFB_NO_WEIGHTS)
#define TFB_NO_WEIGHTS
#endif
#if defined(TFB_NO_ATTENTION) && !defined(TFB_NO_KV)
#define TFB_NO_KV
#endif
#if (defined(TFB_NO_NORMS) || defined(TFB_NO_ROPE)) && !defined(TFB_NO_ATTENTION_QK)
#define TFB_NO_ATTENTION_QK
#endif
#if (defined(TFB_NO_ATTENTION_WINDOWS) || defined(TFB_NO_ATTENTION_SEQUENCES)) &&        \
    !defined(TFB_NO_KV_RINGS)
#define TFB_NO_KV_RINGS
#endif
#if defined(TFB_NO_ALLOC) && !defined(TFB_NO_KV_DYNAMIC)
#define TFB_NO_KV_DYNAMIC
#endif
#if defined(TFB_NO_ROPE) && !defined(TFB_NO_KV_SHIFT)
#define TFB_NO_KV_SHIFT
#endif
#if (defined(TFB_NO_TENSOR_OPS) || defined(TFB_NO_LINEAR) || defined(TFB_NO_PACKS) ||    \
     defined(TFB_NO_KV) || defined(TFB_NO_KV_EDIT) || defined(TFB_NO_KV_MARKS) ||        \
     defined(TFB_NO_ATTENTION_QK) || defined(TFB_NO_CHUNKS) || defined(TFB_NO_PARAMS) || \
     defined(TFB_NO_RANDOM)) &&                                                          \
    !defined(TFB_NO_MIXERS)
#define TFB_NO_MIXERS
#endif
#if (defined(TFB_NO_MIXERS) || defined(TFB_NO_SCAN) || defined(TFB_NO_FN_EXP) ||         \
     defined(TFB_NO_FN_SILU)) &&                                                         \
    !defined(TFB_NO_MAMBA)
#define TFB_NO_MAMBA
#endif
#if defined(TFB_NO_SCAN) && !defined(TFB_NO_LONG_CONV)
#define TFB_NO_LONG_CONV
#endif
#if (defined(TFB_NO_MIXERS) || defined(TFB_NO_LONG_CONV) || defined(TFB_NO_NORMS) ||     \
     defined(TFB_NO_FN_GELU) || defined(TFB_NO_FN_TRIG) || defined(TFB_NO_FN_EXP) ||     \
     defined(TFB_NO_FN_SILU)) &&                                                         \
    !defined(TFB_NO_HYENA)
#define TFB_NO_HYENA
#endif

/* A view reads nothing: keeps gcc from warning about outputs that are not yet written. */
#if defined(__GNUC__) && __GNUC__ >= 11 && !defined(__clang__)
#define TFB__READS_NOTHING __attribute__((access(none, 1)))
#else
#define TFB__READS_NOTHING
#endif

/* Zero-initialises a struct in C and C++: tfb_linear_opts o = TFB_INIT; */
/* clang-format off */
#ifdef __cplusplus
#define TFB_INIT {}
#else
#define TFB_INIT {0}
#endif
/* clang-format on */

#ifdef __cplusplus
extern "C" {
#endif

typedef ptrdiff_t tfb_idx; /* every size, index and stride */

/* Every call that can fail returns one of these; 0 is success, errors are negative. */
#define TFB_STATUS_LIST(X)                                                               \
    X(TFB_OK, 0, "ok")                                                                   \
    X(TFB_ERR_ARG, -1, "an argument is missing or not a legal value")                    \
    X(TFB_ERR_SHAPE, -2, "shapes or strides do not fit together")                        \
    X(TFB_ERR_DTYPE, -3, "a tensor has a dtype this call does not take")                 \
    X(TFB_ERR_RANGE, -4, "an index or a size is out of range")                           \
    X(TFB_ERR_MEMORY, -5, "the allocator returned NULL")                                 \
    X(TFB_ERR_SCRATCH, -6, "the static scratch buffer is too small")                     \
    X(TFB_ERR_FULL, -7, "the static cache is full")                                      \
    X(TFB_ERR_ALIAS, -8, "an output overlaps a tensor it must not overlap")              \
    X(TFB_ERR_UNSUPPORTED, -9, "not available on this machine or in this build")         \
    X(TFB_ERR_FORMAT, -10, "the bytes are not what they claim to be")                    \
    X(TFB_ERR_CALLBACK, -11, "a callback returned an error")

#define TFB__STATUS_ENUM(name, value, text) name = value,
typedef enum tfb_status { TFB_STATUS_LIST(TFB__STATUS_ENUM) } tfb_status;

/* TFB_PACKED_.. marks a weight made by tfb_pack: its data is the pack, its strides 0. */
#define TFB_DTYPE_LIST(X)                                                                \
    X(TFB_F32, 4, "F32")                                                                 \
    X(TFB_F16, 2, "F16")                                                                 \
    X(TFB_BF16, 2, "BF16")                                                               \
    X(TFB_I32, 4, "I32")                                                                 \
    X(TFB_U8, 1, "U8")                                                                   \
    X(TFB_PACKED_F32, 1, "PACKED_F32")                                                   \
    X(TFB_PACKED_F16, 1, "PACKED_F16")                                                   \
    X(TFB_PACKED_BF16, 1, "PACKED_BF16")

#define TFB__DTYPE_ENUM(name, bytes, text) name,
typedef enum tfb_dtype { TFB_DTYPE_LIST(TFB__DTYPE_ENUM) TFB__DTYPES } tfb_dtype;

/* A tensor is a view and never owns. Strides are in elements; 0 broadcasts an input. */
typedef struct tfb_tensor {
    void *data;
    tfb_idx shape[TFB_MAX_DIMS], stride[TFB_MAX_DIMS];
    int ndim;
    tfb_dtype dtype;
} tfb_tensor;

/* realloc's meaning: ptr NULL allocates, bytes 0 frees and returns NULL. */
typedef void *(*tfb_alloc_fn)(void *user, void *ptr, size_t bytes);
/* One piece of work; worker is 0 .. ctx.workers - 1, no two at the same time alike. */
typedef void (*tfb_body_fn)(void *arg, tfb_idx i, int worker);
/* Runs body(arg, i, worker) for i = 0 .. n - 1 in any order; returns after the last. */
typedef void (*tfb_parallel_fn)(void *user, tfb_idx n, tfb_body_fn body, void *arg);

/* A context goes first into every call that works. One per thread; tensors, packed
 * weights and caches that are only read may be shared. Never copy an initialised one. */
typedef struct tfb_ctx {
    tfb_alloc_fn alloc;              /* scratch, tfb_tensor_new, dynamic caches */
    void *alloc_user;                /* handed to alloc */
    tfb_parallel_fn parallel_for;    /* NULL runs serially */
    void *parallel_user;             /* handed to parallel_for */
    int workers;                     /* how many parallel_for uses; 0 means 1 */
    int measuring;                   /* set by tfb_ctx_init_measure: compute nothing */
    size_t scratch_last;             /* bytes of scratch the last call needed */
    size_t scratch_peak;             /* the largest of all calls so far */
    char message[TFB_MESSAGE_BYTES]; /* why the last call failed, else "" */
    const struct tfb__kernels *isa;  /* private from here on */
    struct tfb__block *block;
    struct tfb__pool *pool;
    char *mem;
    size_t mem_bytes, used;
    int depth, failed;
    uint32_t cpu;
} tfb_ctx;

/* tfb_status_text: a sentence for a status; "unknown status" for anything else. */
TFB_API const char *tfb_status_text(tfb_status status);

/* tfb_ctx_init: a context for hosted programs: scratch grows through realloc and is kept.
 *   errors   ARG if ctx is NULL; UNSUPPORTED under TFB_NO_STDLIB (set alloc yourself)
 * tfb_ctx_init_static: all scratch comes from mem; nothing is ever allocated.
 *   mem      any address aligned to 8 (64 is fastest), mem_bytes may be 0
 *   errors   ARG; later calls return SCRATCH and name the bytes needed
 * tfb_ctx_init_measure: every call checks its arguments and records the scratch it would
 *   need in scratch_last and scratch_peak; no data is read or written, data may be NULL.
 *   Set workers (and force the table) as in the context you measure for.
 * tfb_ctx_free: returns all memory and threads; the context can be initialised again. */
TFB_API tfb_status tfb_ctx_init(tfb_ctx *ctx);
TFB_API tfb_status tfb_ctx_init_static(tfb_ctx *ctx, void *mem, size_t mem_bytes);
TFB_API tfb_status tfb_ctx_init_measure(tfb_ctx *ctx);
TFB_API void tfb_ctx_free(tfb_ctx *ctx);

/* tfb_ctx_threads: gives the context a pool of n workers, the caller among them.
 *   n        1 to 256; 1 ends the pool; every result is the same for every n
 *   spin     how many rounds an idle worker polls before it sleeps, 0 for none
 *   errors   ARG, MEMORY, UNSUPPORTED without TFB_PTHREADS; then the old pool stays */
TFB_API tfb_status tfb_ctx_threads(tfb_ctx *ctx, int n, int spin);

/* tfb_isa_name: the instruction-set table in use: "avx2", "scalar", ...
 * tfb_isa_list: the i-th table this library knows, best first; NULL past the last.
 *   *why is "in use", "available", or the reason it was skipped; why may be NULL
 * tfb_isa_force: use the table of that name.
 *   errors   ARG for an unknown name, UNSUPPORTED if the CPU or the build lacks it
 * tfb_build_info: OK if results of this build obey the numeric contract; UNSUPPORTED if
 *   compiler flags (-ffast-math, x87 arithmetic) or TFB_USE_CBLAS broke it. ctx.message
 *   says which. */
TFB_API const char *tfb_isa_name(const tfb_ctx *ctx);
TFB_API const char *tfb_isa_list(const tfb_ctx *ctx, int i, const char **why);
TFB_API tfb_status tfb_isa_force(tfb_ctx *ctx, const char *name);
TFB_API tfb_status tfb_build_info(tfb_ctx *ctx);

/* tfb_view1 .. tfb_view4: a dense row-major view of the caller's data, by value. */
TFB_API tfb_tensor tfb_view1(const void *data, tfb_dtype dtype,
                             tfb_idx n0) TFB__READS_NOTHING;
TFB_API tfb_tensor tfb_view2(const void *data, tfb_dtype dtype, tfb_idx n0,
                             tfb_idx n1) TFB__READS_NOTHING;
TFB_API tfb_tensor tfb_view3(const void *data, tfb_dtype dtype, tfb_idx n0, tfb_idx n1,
                             tfb_idx n2) TFB__READS_NOTHING;
TFB_API tfb_tensor tfb_view4(const void *data, tfb_dtype dtype, tfb_idx n0, tfb_idx n1,
                             tfb_idx n2, tfb_idx n3) TFB__READS_NOTHING;
/* tfb_numel: the number of elements; 1 for ndim 0.  tfb_dtype_size: bytes of one. */
TFB_API tfb_idx tfb_numel(const tfb_tensor *t);
TFB_API size_t tfb_dtype_size(tfb_dtype dtype);

/* Views of views; no data moves. A negative dim counts from the end; out may be t.
 * tfb_slice: elements start .. start + length - 1 along dim.
 * tfb_permute: dimension i of out is dimension order[i] of t.
 * tfb_reshape: the same elements in row-major order under a new shape; one extent may be
 *   -1 and is inferred. SHAPE if the strides of t would need a copy.
 *   errors   ARG, SHAPE, RANGE; out untouched on error */
TFB_API tfb_status tfb_slice(tfb_ctx *ctx, const tfb_tensor *t, int dim, tfb_idx start,
                             tfb_idx length, tfb_tensor *out);
TFB_API tfb_status tfb_permute(tfb_ctx *ctx, const tfb_tensor *t, const int *order,
                               tfb_tensor *out);
TFB_API tfb_status tfb_reshape(tfb_ctx *ctx, const tfb_tensor *t, int ndim,
                               const tfb_idx *shape, tfb_tensor *out);

#ifndef TFB_NO_ALLOC
/* tfb_tensor_new: a dense tensor of zeros in memory from ctx.alloc, for hosted programs.
 * tfb_tensor_free: gives that memory back and clears t; takes a zeroed tensor too.
 *   errors   ARG, DTYPE, RANGE, MEMORY; t untouched on error */
TFB_API tfb_status tfb_tensor_new(tfb_ctx *ctx, tfb_tensor *t, tfb_dtype dtype, int ndim,
                                  const tfb_idx *shape);
TFB_API void tfb_tensor_free(tfb_ctx *ctx, tfb_tensor *t);
#endif

#ifndef TFB_NO_TENSOR_OPS
/* The four below broadcast inputs to y's shape: extents of 1 and missing leading
 * dimensions repeat. y may be an input (same data, shape and strides); otherwise no
 * overlap. No scratch.
 * tfb_copy: y = x, converting between F32, F16, BF16 (round to nearest even; overflow
 *   becomes inf), from I32 or U8 to any of these, or between equal dtypes bit for bit.
 * tfb_add: y = a + b.  tfb_mul: y = a * b.  All F32.
 * tfb_map: y = fn(x) element by element. F32. NaN stays NaN.
 *   errors   ARG, SHAPE, DTYPE, RANGE, ALIAS; y untouched on error */
TFB_API tfb_status tfb_copy(tfb_ctx *ctx, const tfb_tensor *x, tfb_tensor *y);
TFB_API tfb_status tfb_add(tfb_ctx *ctx, const tfb_tensor *a, const tfb_tensor *b,
                           tfb_tensor *y);
TFB_API tfb_status tfb_mul(tfb_ctx *ctx, const tfb_tensor *a, const tfb_tensor *b,
                           tfb_tensor *y);
#endif

/* The functions tfb_map knows, the same bits on every target, at most 2 ulp wrong where
 * the result is normal (the GELUs: 6.3e-7 absolutely; [10] has the figures). Those up to
 * TANH also serve as activations of tfb_linear. GELU_ERF is torch's default; the GELUs
 * differ by up to 4.73e-4. RELU: x < 0 ? +0 : x. */
#ifdef TFB_NO_FN_GELU
#define TFB__FN_GELU(X)
#else
#define TFB__FN_GELU(X) X(GELU_TANH, gelu_tanh) X(GELU_ERF, gelu_erf)
#endif
#ifdef TFB_NO_FN_SILU
#define TFB__FN_SILU(X)
#else
#define TFB__FN_SILU(X) X(SILU, silu) X(SIGMOID, sigmoid)
#endif
#ifdef TFB_NO_FN_TANH
#define TFB__FN_TANH(X)
#else
#define TFB__FN_TANH(X) X(TANH, tanh)
#endif
#ifdef TFB_NO_FN_EXP
#define TFB__FN_EXP(X)
#else
#define TFB__FN_EXP(X)                                                                   \
    X(EXP, exp) X(EXP2, exp2) X(LOG, log) X(ERF, erf) X(SOFTPLUS, softplus)
#endif
#ifdef TFB_NO_FN_TRIG
#define TFB__FN_TRIG(X)
#define TFB__IS_TRIG(fn, NAME) 0
#else
#define TFB__FN_TRIG(X)        X(SIN, sin) X(COS, cos)
#define TFB__IS_TRIG(fn, NAME) ((fn) == TFB_FN_##NAME)
#endif
#define TFB__ACT_LIST(X)                                                                 \
    X(IDENTITY, identity)                                                                \
    X(RELU, relu)                                                                        \
    X(RELU2, relu_squared)                                                               \
    TFB__FN_GELU(X) TFB__FN_SILU(X) TFB__FN_TANH(X)
#define TFB_FN_LIST(X) TFB__ACT_LIST(X) TFB__FN_EXP(X) TFB__FN_TRIG(X)

#define TFB__FN_ENUM(NAME, name) TFB_FN_##NAME,
typedef enum tfb_fn { TFB_FN_LIST(TFB__FN_ENUM) TFB__FNS } tfb_fn;
#define TFB__ACT_COUNT(NAME, name) +1
#define TFB__ACTS                  (0 TFB__ACT_LIST(TFB__ACT_COUNT))

#ifndef TFB_NO_TENSOR_OPS
TFB_API tfb_status tfb_map(tfb_ctx *ctx, tfb_fn fn, const tfb_tensor *x, tfb_tensor *y);

/* tfb_embed: y[..., :] = table[ids[...], :]
 *   table [V, C] F32, F16 or BF16   ids [...] I32   y [..., C] F32
 *   errors   ARG, SHAPE, DTYPE, ALIAS; RANGE names the first id outside 0 .. V - 1
 * tfb_argmax: y[...] = index of the largest of x[..., :], the first among equals; a NaN
 *   counts as larger than any number.   x [..., N] F32, N >= 1   y [...] I32
 *   errors   ARG, SHAPE, DTYPE, ALIAS, RANGE; y untouched on error */
TFB_API tfb_status tfb_embed(tfb_ctx *ctx, const tfb_tensor *table, const tfb_tensor *ids,
                             tfb_tensor *y);
TFB_API tfb_status tfb_argmax(tfb_ctx *ctx, const tfb_tensor *x, tfb_tensor *y);
#endif

/* ===== [2] API: MATMUL AND LINEAR =================================================== */

#ifndef TFB_NO_MATMUL
/* tfb_matmul: y = a b, over any leading batch dimensions.
 *   a [..., M, K]  b [..., K, N]  y [..., M, N]   F32, any strides: transposes are views
 *   made by tfb_permute; batch extents of 1, or missing ones, repeat
 *   alias    y overlaps neither a nor b
 *   scratch  <= TFB_LINEAR_SCRATCH(M, N, K, workers); 0 for small contiguous a and b
 *   errors   ARG, SHAPE, DTYPE, RANGE, ALIAS, SCRATCH, MEMORY; y untouched on error
 *   cost     2 M N K flops
 *   source   Goto & van de Geijn 2008; reference: tfb__matmul_ref */
TFB_API tfb_status tfb_matmul(tfb_ctx *ctx, const tfb_tensor *a, const tfb_tensor *b,
                              tfb_tensor *y);
#endif

/* Gated linear units: the 2 N' rows of W hold gate and up, as two halves or in turn. */
typedef enum tfb_gate { TFB_GATE_NONE, TFB_GATE_HALVES, TFB_GATE_INTERLEAVED } tfb_gate;

typedef struct tfb_linear_opts {
    const tfb_tensor *bias;     /* [N], or NULL for none (the same bits as zeros) */
    const tfb_tensor *residual; /* y's shape, or NULL; added last */
    float alpha;                /* used if alpha_set, else 1 */
    int alpha_set;
    tfb_fn act;    /* TFB_FN_IDENTITY .. TFB_FN_TANH */
    tfb_gate gate; /* y = act(gate) * up: swiglu is SILU, geglu is GELU_... */
} tfb_linear_opts;

#ifndef TFB_NO_LINEAR
/* tfb_linear: y = act(alpha x W^T + bias) + residual; nothing in between is stored.
 *   x [..., K]  W [N, K] plain or packed  y [..., N], or [..., N / 2] when gated
 *   dtypes   W: F32, F16, BF16, with the bits of converting it to F32 first; all else F32
 *   alias    y may be the residual; otherwise it overlaps nothing
 *   scratch  <= TFB_LINEAR_SCRATCH(M, N, K, workers); 0 if W is a pack of F32, x's rows
 *            are contiguous and there are no bias, gate, residual or activation but RELU
 *   errors   ARG, SHAPE, DTYPE, RANGE, ALIAS, SCRATCH, MEMORY; y untouched on error
 *   cost     2 M N K flops
 *   source   Goto & van de Geijn 2008; reference: tfb__linear_ref */
TFB_API tfb_status tfb_linear(tfb_ctx *ctx, const tfb_tensor *x, const tfb_tensor *w,
                              const tfb_linear_opts *opts, tfb_tensor *y);
#endif

/* A bound of the scratch of tfb_matmul and tfb_linear in bytes, for static arrays: sums
 * and rows of 192, panels of a task. N is the number of rows of W. */
#define TFB_LINEAR_SCRATCH(M, N, K, workers)                                             \
    ((size_t)(workers) *                                                                 \
     (4 * TFB__LESS(M, 192) * (TFB__LESS(N, 162) + 62 + TFB__LESS(K, 256)) +             \
      4 * (TFB__LESS(N, 162) + 62) * (1 + (size_t)(K) + 16) + 256))
#define TFB__LESS(a, b) ((size_t)(a) < (b) ? (size_t)(a) : (size_t)(b))

#ifndef TFB_NO_PACKS
/* Packed weights: one layout on every target (panels [ceil(N/16)][K][16], zero-padded,
 * little-endian, behind a 64-byte header), so a pack may be a file or a const array.
 * tfb_pack_bytes: the exact size for W [N, K] of F32, F16 or BF16; 0 for another dtype,
 *   if N or K is negative or it overflows.
 * tfb_pack: writes the pack of W [N, K] (any strides) in its own dtype into mem and makes
 *   *packed a view of it, which must not outlive mem.
 * tfb_pack_open: makes *packed a view of bytes written earlier by tfb_pack.
 *   mem      aligned to 4 (64 is fastest)
 *   errors   ARG, SHAPE, DTYPE, RANGE (mem_bytes too small), ALIAS;
 *            FORMAT from tfb_pack_open if the header or the size is not right */
TFB_API size_t tfb_pack_bytes(tfb_idx n, tfb_idx k, tfb_dtype dtype);
TFB_API tfb_status tfb_pack(tfb_ctx *ctx, const tfb_tensor *w, void *mem,
                            size_t mem_bytes, tfb_tensor *packed);
TFB_API tfb_status tfb_pack_open(tfb_ctx *ctx, const void *mem, size_t mem_bytes,
                                 tfb_tensor *packed);
#endif

typedef struct tfb_norm_opts {
    const tfb_tensor *weight;   /* [C], or NULL for ones */
    const tfb_tensor *bias;     /* [C], or NULL for zeros */
    const tfb_tensor *residual; /* x's shape: x + residual is what is normalised */
    tfb_tensor *sum;            /* x's shape: receives x + residual; may be x */
    float eps;                  /* 0 means 1e-5 (l2norm: 1e-12) unless eps_set */
    int eps_set;
} tfb_norm_opts;

#ifndef TFB_NO_NORMS
/* tfb_rmsnorm: y = s / sqrt(mean(s^2) + eps) * weight + bias, with s = x + residual.
 * tfb_layernorm: the same of s - mean(s).
 * tfb_l2norm: y = s / max(|s|, eps) * weight + bias, |s| the root of the sum of squares.
 *   x, y [..., C] F32, C >= 1
 *   alias    y may be x or the residual, sum may be x or the residual, y is not sum
 *   scratch  8 C bytes for weight and bias; 4 C a worker for each of x, y, residual, sum
 *            whose rows have gaps
 *   errors   ARG, SHAPE, DTYPE, RANGE, ALIAS, SCRATCH, MEMORY; nothing written on error
 *   source   Zhang & Sennrich 2019, Ba et al. 2016; reference: tfb__norm_ref */
TFB_API tfb_status tfb_rmsnorm(tfb_ctx *ctx, const tfb_tensor *x,
                               const tfb_norm_opts *opts, tfb_tensor *y);
TFB_API tfb_status tfb_layernorm(tfb_ctx *ctx, const tfb_tensor *x,
                                 const tfb_norm_opts *opts, tfb_tensor *y);
TFB_API tfb_status tfb_l2norm(tfb_ctx *ctx, const tfb_tensor *x,
                              const tfb_norm_opts *opts, tfb_tensor *y);
#endif

#ifndef TFB_NO_SOFTMAX
/* tfb_softmax: y[..., j] = exp(x[..., j] - max) / sum over the last dimension.
 *   x, y [..., C] F32   lse [...] F32 or NULL: log of the sum of exp(x), natural
 *   A row of -inf only, or of length 0, gives zeros and lse -inf; a NaN or +inf in a row
 *   makes the row NaN.
 *   alias    y may be x
 *   scratch  4 C bytes a worker for each of x and y whose rows have gaps
 *   errors   ARG, SHAPE, DTYPE, RANGE, ALIAS, SCRATCH, MEMORY; nothing written on error
 *   source   Milakov & Gimelshein 2018; reference: tfb__softmax_ref */
TFB_API tfb_status tfb_softmax(tfb_ctx *ctx, const tfb_tensor *x, tfb_tensor *y,
                               tfb_tensor *lse);
#endif

/* How trained frequencies are stretched for a longer context, `factor` times as long.
 * LINEAR divides them; NTK raises the base by factor^(dims / (dims - 2)); YARN (Peng et
 * al. 2023) and LLAMA3 divide the slow ones and blend in between. */
typedef enum tfb_rope_scaling {
    TFB_ROPE_PLAIN,
    TFB_ROPE_LINEAR,
    TFB_ROPE_NTK,
    TFB_ROPE_YARN,
    TFB_ROPE_LLAMA3
} tfb_rope_scaling;

typedef struct tfb_rope_opts {
    const tfb_tensor *positions; /* I32 [T] or [B, T]; NULL: start, start + 1, .. */
    tfb_idx start;               /* the first position when positions is NULL */
    double base;                 /* 0 means 10000 */
    int dims;                    /* how many of D are rotated, even; 0 means all */
    int interleaved;             /* pairs (2i, 2i + 1) instead of (i, i + dims / 2) */
    int inverse;                 /* rotate back */
    int compat;                  /* plain float32 angles, as PyTorch and llama2.c use */
    const tfb_tensor *freqs;     /* F32 [dims / 2]: radians a position, at most pi / 2
                                    unless compat, which takes them as they are; instead
                                    of base */
    tfb_rope_scaling scaling;
    double factor;         /* of scaling, 1 or more; 0 means 1 */
    double trained_length; /* YARN, LLAMA3: the context the model was trained with */
    double fast, slow;     /* YARN: turns within it; 0 means 32 and 1.
                              LLAMA3: high and low factor; 0 means 4 and 1 */
    double magnitude;      /* of cos and sin; 0 means 1, for YARN 0.1 ln(factor) + 1 */
    int axes;              /* 2 or 3: parts of dims turn by coordinates; 0 means 1 */
    int axis_dims[3];      /* dims of each axis, even; all 0: equal parts */
    tfb_idx grid[3];       /* without positions, token start + t of this grid, the last
                              axis fastest; several axes need it or positions, which
                              are [T, axes] or [B, T, axes] then */
} tfb_rope_opts;

#ifndef TFB_NO_ROPE
/* tfb_rope: rotates pair i of every row by position * base^(-2i / dims) radians.
 *   x, y [B, H, T, D] F32, any strides (permute a [B, T, H, D] tensor); dims beyond
 *   opts.dims are copied. With several axes each has its own part of dims, paired and
 *   numbered inside the part, and its own coordinate
 *   positions below 2^24 in magnitude; angles are right to 1e-6 turns below 2^20, where
 *   plain float32 (compat) is off by up to 0.01 radian
 *   alias    y may be x
 *   scratch  4 D bytes, and 4 D a worker
 *   errors   ARG, SHAPE, DTYPE, RANGE, ALIAS, SCRATCH, MEMORY; y untouched on error
 *   source   Su et al. 2021; ONNX RotaryEmbedding-23; scaling: Chen et al. 2023 (linear),
 *            Peng et al. 2023, Hugging Face transformers; reference: tfb__rope_ref */
TFB_API tfb_status tfb_rope(tfb_ctx *ctx, const tfb_tensor *x, const tfb_rope_opts *opts,
                            tfb_tensor *y);
#endif

/* ===== [3] API: ATTENTION AND CACHES ================================================ */

/* A query at row i stands at i + offset among the keys. */
typedef enum tfb_causal {
    TFB_CAUSAL_NONE,         /* every query sees every key */
    TFB_CAUSAL_BOTTOM_RIGHT, /* j <= i + offset, the last query at the last key */
    TFB_CAUSAL_OFFSET        /* j <= i + the given offset; offset 0 is top left */
} tfb_causal;

typedef enum tfb_qk_norm {
    TFB_QK_NORM_NONE,
    TFB_QK_NORM_RMS,
    TFB_QK_NORM_L2
} tfb_qk_norm;

/* What is done to each row of q and of k before their product; neither is modified. The
 * bits are those of tfb_rmsnorm or tfb_l2norm and tfb_rope done beforehand. Keys are
 * prepared again for every block of queries: where k is used often, prepare it once. */
typedef struct tfb_qk_opts {
    const tfb_rope_opts *rope;             /* or NULL; positions are those of q */
    const tfb_tensor *key_positions;       /* like rope->positions, for the rows of k */
    const tfb_tensor *q_weight, *k_weight; /* RMS: F32 [D], or NULL for ones */
    tfb_qk_norm norm;
    float eps; /* 0 means 1e-5 (RMS) or 1e-12 (L2) unless eps_set */
    int eps_set;
    int norm_last;  /* after rope; before it otherwise */
    int keys_ready; /* k has been prepared before: only q is */
} tfb_qk_opts;

/* Offset is, unless given, the number of keys (kv_len, S, or its own of a packed
 * sequence) minus that of queries. Tensors of I32 are [B], or [n] with cu_q. */
typedef struct tfb_attention_opts {
    tfb_tensor *lse;   /* [B, H, T] F32: log of the sum of exp(scores), or NULL */
    tfb_causal causal; /* NONE, BOTTOM_RIGHT or OFFSET */
    tfb_idx offset;    /* used if causal is OFFSET or offset_set */
    int offset_set;
    const tfb_tensor *offsets; /* I32: an offset each; implies offset_set */
    tfb_idx window; /* causal only: the last `window` keys, self included; 0: all */
    int two_sided;  /* i + offset - left <= j <= i + offset + right */
    tfb_idx left, right;
    tfb_idx window_pinned;  /* the first keys of the sequence: no window hides them */
    const tfb_tensor *mask; /* U8: 0 hides a key; broadcasts to [B, H, T, S] */
    const tfb_tensor *bias; /* F32: added to scores, -inf hides; broadcasts likewise */
    const tfb_tensor *kv_start, *kv_len; /* I32: only keys kv_start <= j < kv_len exist */
    const tfb_tensor *cu_q, *cu_k; /* I32 [n + 1]: B is 1, sequence s has the queries
                                      cu_q[s] .. cu_q[s + 1] - 1 and keys by cu_k */
    const tfb_tensor *alibi; /* F32 [H] or [B, H] slopes: - slope |i + offset - j| */
    const tfb_tensor *sinks; /* F32 [H]: a logit each in the denominator, as it is */
    float softcap;           /* scores become cap * tanh(score / cap); 0: they do not */
    float scale;             /* used if scale_set, else 1 / sqrt(D) */
    int scale_set;
    const tfb_qk_opts *qk;   /* norm and rope of q and k, or NULL */
    const tfb_tensor *pages; /* I32 [B, n]: k and v are pools [P, G, page, ..]; pages */
    tfb_idx page_skip;       /* pages[b] hold b's keys from row page_skip of the first */
    tfb_idx key_pos0;        /* the place of key 0 in its sequence, when k is a slice */
    const tfb_tensor *key_pos0s; /* I32: a place each, instead */
    tfb_idx key_pinned;          /* but the first key_pinned rows are at 0, 1, .. */
    tfb_idx chunk_size; /* query tokens at a time; 0: the library chooses; same bits */
} tfb_attention_opts;

#ifndef TFB_NO_ATTENTION
/* tfb_attention: y = softmax(score(q, k), over visible keys) v, head by head.
 *   q [B, H, T, D]  k [B, G, S, D]  v [B, G, S, Dv]  y [B, H, T, Dv]   any strides, so
 *   slices of a packed QKV projection serve in place; H a multiple of G: query head h
 *   reads kv head h / (H / G)
 *   dtypes   k, v: F32, F16 or BF16 with the bits of converting first; q, y: F32
 *   A score is q k^T, times scale, softcap, plus bias, minus ALiBi; a sink is one more
 *   score of the row without a value. A row that sees no key gives 0 and lse -inf (with
 *   a sink: lse = sink). What stands at hidden places is never read into a result.
 *   Visible scores of +inf or NaN make the row NaN.
 *   alias    y and lse overlap nothing
 *   scratch  per worker <= TFB_ATTENTION_SCRATCH(D, Dv, 1), whatever B, T and S
 *   errors   ARG, SHAPE, DTYPE, RANGE, ALIAS, SCRATCH, MEMORY; nothing written on error
 *   cost     2 B H T S (D + Dv) flops; key tiles that no row sees are skipped
 *   source   Dao 2023; Milakov & Gimelshein 2018; reference: tfb__attention_ref */
TFB_API tfb_status tfb_attention(tfb_ctx *ctx, const tfb_tensor *q, const tfb_tensor *k,
                                 const tfb_tensor *v, const tfb_attention_opts *opts,
                                 tfb_tensor *y);
#endif

#ifndef TFB_NO_WEIGHTS
/* tfb_attention_weights: the weights themselves, w = exp(score - max) / sum, for chosen
 * query rows; hidden keys have 0, and with sinks the rest is missing from 1.
 *   rows [R] I32 query rows, or NULL for all T   w [B, H, R, S] F32 (S: rows of k, or of
 *   all pages less page_skip)   all options of tfb_attention
 *   alias    w overlaps nothing
 *   scratch  as tfb_attention
 *   errors   ARG, SHAPE, DTYPE, RANGE, ALIAS, SCRATCH, MEMORY; nothing written on error
 *   cost     4 B H R S D flops and the bytes of w: for looking, not for computing */
TFB_API tfb_status tfb_attention_weights(tfb_ctx *ctx, const tfb_tensor *q,
                                         const tfb_tensor *k,
                                         const tfb_attention_opts *opts,
                                         const tfb_tensor *rows, tfb_tensor *w);
#endif

#ifndef TFB_NO_MERGE
/* tfb_merge_states: joins attention over separate parts of the keys, n states (y, lse) of
 * the same queries, first to last. Parts are computed without sinks; a sink is one more
 * part with y = 0 and lse = sink. A part with lse -inf changes nothing.
 *   ys [n, B, H, T, Dv]  lses [n, B, H, T]  y [B, H, T, Dv]  lse [B, H, T] or NULL   F32
 *   alias    y and lse overlap nothing
 *   scratch  0
 *   errors   ARG, SHAPE, DTYPE, RANGE, ALIAS; nothing written on error
 * tfb_merge_state: the same of two; y, lse may be y1, lse1.
 *   source   Dao 2023; reference: tfb__merge_ref */
TFB_API tfb_status tfb_merge_states(tfb_ctx *ctx, const tfb_tensor *ys,
                                    const tfb_tensor *lses, tfb_tensor *y,
                                    tfb_tensor *lse);
TFB_API tfb_status tfb_merge_state(tfb_ctx *ctx, const tfb_tensor *y1,
                                   const tfb_tensor *lse1, const tfb_tensor *y2,
                                   const tfb_tensor *lse2, tfb_tensor *y,
                                   tfb_tensor *lse);
#endif

/* A bound of attention's scratch in bytes, for static arrays. */
#define TFB_ATTENTION_SCRATCH(D, Dv, workers)                                            \
    ((size_t)(workers) *                                                                 \
     (26624u + 784u * ((size_t)(D) + 1u) + 768u * ((size_t)(Dv) + 15u)))

/* What one layer of a cache holds: key rows [B, G, D] and value rows [B, G, Dv]. */
typedef struct tfb_kv_shape {
    tfb_idx batch, kv_heads, head_dim;
    tfb_idx v_dim;      /* 0 means head_dim */
    tfb_idx max_tokens; /* static caches without a window */
    tfb_idx window;     /* a ring keeps the last `window` rows; 0: all are kept */
    tfb_idx pinned;     /* of a ring: as many first rows stay besides */
    tfb_idx chunk;      /* of a ring: rows that may be appended, then attended with, at
                           a time; 0 means 64 */
} tfb_kv_shape;

typedef struct tfb_kv_opts {
    int layers;
    tfb_kv_shape shape;         /* of every layer. Dynamic caches read the fields of */
    const tfb_kv_shape *shapes; /* a ring only. Or of each layer: [layers] */
    tfb_dtype dtype;            /* rows are stored as F32, F16 or BF16 */
    int ragged;                 /* each sample has a length of its own */
    int once;                   /* a layer is filled once: keys of an encoder */
} tfb_kv_opts;

/* Private; here because static caches consist of them. Rows are known by number, their
 * position since the first. A page has the keys of `page` rows, in panels of 16 as packed
 * weights have them, then the values, row by row. */
typedef struct tfb_kv_row {
    tfb_idx first, end; /* numbers that are kept, but for a ring's window */
    tfb_idx lost;       /* smaller ones have been overwritten, but for pinned ones */
    tfb_idx mark_first, mark_end;
    char **pages;
} tfb_kv_row;

typedef struct tfb_kv_layer {
    tfb_kv_shape shape; /* kv_heads is 0 while not known; batch counts samples in use */
    tfb_kv_row *row;
    tfb_idx rows, page, pages, page_bytes; /* samples and pages there is a place for */
    char *spare;                           /* pages in no place: a list */
    tfb_idx added;                         /* of them during a call that may yet fail */
    int touched, mark_touched;
} tfb_kv_layer;

typedef struct tfb_kv {
    tfb_kv_layer *layer;
    int layers, is_static, ragged, once, marked;
    tfb_dtype dtype;
    tfb_alloc_fn alloc;
    void *alloc_user, *mem;
    size_t mem_bytes;
} tfb_kv;

/* tfb_kv_bytes: exactly what tfb_kv_init_static needs; 0 if opts are not legal.
 *   TFB_KV_BYTES and TFB_KV_RING_BYTES are the same as constant expressions for static
 *   arrays, a multiple of 64; size is that of the dtype: 4 or 2.
 * tfb_kv_init_static: a cache in the caller's memory; it never allocates.
 *   mem      aligned to 8 (64 is fastest), must outlive the cache
 *   batch is the most samples it can have, max_tokens the most rows each can have
 * tfb_kv_init: a cache without a maximum; the first rows of a layer fix its shapes.
 *   Memory comes from the context's alloc, 64 rows of a sample at a time.
 * tfb_kv_free: gives memory back (nothing to do for a static one) and clears kv.
 * tfb_kv_reset: every length, position and mark 0; shapes, batch and memory stay.
 *   errors   ARG, DTYPE, RANGE, MEMORY; kv untouched on error */
#define TFB_KV_BYTES(layers, batch, kv_heads, head_dim, v_dim, max_tokens, size)         \
    TFB__KV_BYTES(layers, batch, kv_heads, TFB__KV_DIMS(head_dim, v_dim),                \
                  TFB__ROUND(max_tokens, 16), 1, size)
#define TFB_KV_RING_BYTES(layers, batch, kv_heads, head_dim, v_dim, window, pinned,      \
                          chunk, size)                                                   \
    TFB__KV_BYTES(layers, batch, kv_heads, TFB__KV_DIMS(head_dim, v_dim), 64,            \
                  TFB__KV_RING(window, pinned, chunk), size)
#define TFB__ROUND(n, to)   (((size_t)(n) + (to)-1) / (to) * (to))
#define TFB__KV_DIMS(D, Dv) ((size_t)(D) + (size_t)((Dv) ? (Dv) : (D)))
#define TFB__KV_RING(window, pinned, chunk)                                              \
    (((size_t)(window) + 63) / 64 + ((size_t)(pinned) + 63) / 64 +                       \
     ((chunk) > 64 ? ((size_t)(chunk) + 63) / 64 : 1))
#define TFB__KV_BYTES(layers, batch, G, dims, page, pages, size)                         \
    (TFB__ROUND((size_t)(layers) * sizeof(tfb_kv_layer) +                                \
                    (size_t)(layers) * (size_t)(batch) *                                 \
                        (sizeof(tfb_kv_row) + (pages) * sizeof(char *)),                 \
                64) +                                                                    \
     (size_t)(layers) * (size_t)(batch) *                                                \
         (pages)*TFB__ROUND((size_t)(G) * (page) * (dims) * (size), 64))
#ifndef TFB_NO_KV
TFB_API size_t tfb_kv_bytes(const tfb_kv_opts *opts);
TFB_API tfb_status tfb_kv_init_static(tfb_ctx *ctx, tfb_kv *kv, const tfb_kv_opts *opts,
                                      void *mem, size_t mem_bytes);
#ifndef TFB_NO_KV_DYNAMIC
TFB_API tfb_status tfb_kv_init(tfb_ctx *ctx, tfb_kv *kv, const tfb_kv_opts *opts);
#endif
TFB_API void tfb_kv_free(tfb_kv *kv);
TFB_API void tfb_kv_reset(tfb_kv *kv);

/* tfb_kv_append: copies T rows behind those a layer holds.
 * tfb_kv_update: puts them at positions, takes counts[b] of them for sample b, or both.
 *   key [B, G, T, D]  value [B, G, T, Dv]   F32, F16 or BF16, any strides; nothing of
 *   them is kept; T = 0 changes nothing. New length: the largest position + 1 if that is
 *   more; rows uncovered by it are zeros; of equal positions in a call the last counts
 *   errors   ARG, SHAPE, DTYPE, RANGE (a position is negative, too large, of a row that
 *            a ring dropped, or before a mark), FULL, MEMORY, ALIAS; nothing changed
 *   cost     O(T) */
typedef struct tfb_kv_update_opts {
    const tfb_tensor *positions; /* I32 [] with T = 1, [T] or [B, T]: rows of what
                                    tfb_kv_get shows; of a ring: since its first row */
    const tfb_tensor *counts;    /* I32 [B], ragged: only the first counts[b] of T rows */
} tfb_kv_update_opts;
TFB_API tfb_status tfb_kv_append(tfb_ctx *ctx, tfb_kv *kv, int layer,
                                 const tfb_tensor *key, const tfb_tensor *value);
#ifndef TFB_NO_KV_PLACES
TFB_API tfb_status tfb_kv_update(tfb_ctx *ctx, tfb_kv *kv, int layer,
                                 const tfb_tensor *key, const tfb_tensor *value,
                                 const tfb_kv_update_opts *opts);
#endif

/* tfb_kv_attention: tfb_attention over a layer where it lies, with the same bits as over
 * tensors. All its options but those that say where keys are, which the cache knows
 * (kv_start, kv_len, cu_q, cu_k, pages, page_skip, key_pos0, key_pos0s, key_pinned, and
 * qk unless keys_ready).
 *   q [B, H, T, D]  y [B, H, T, Dv]; the T queries are the last T rows of each sample
 *   unless an offset says otherwise: query i then stands at position i + offset. Columns
 *   of mask and bias are the rows of tfb_kv_get
 *   rings    window is at most the ring's, which is also the default if causal, as are
 *            its pinned rows; RANGE if a query's window reaches a row that is gone, with
 *            mask or bias one that tfb_kv_get does not show
 *   scratch, errors, cost  as tfb_attention; ARG if the layer has never been touched
 *   (while measuring it counts as having one kv head, which bounds the scratch) */
TFB_API tfb_status tfb_kv_attention(tfb_ctx *ctx, const tfb_kv *kv, int layer,
                                    const tfb_tensor *q, const tfb_attention_opts *opts,
                                    tfb_tensor *y);

/* tfb_kv_get: copies a layer's rows, shorter samples followed by zeros.
 *   key [B, G, length, D]  value [B, G, length, Dv]   F32, F16 or BF16, any strides, to
 *   be provided; a tensor with data NULL is given shape and strides instead (the dtype of
 *   the cache, ndim 0 if the layer has never been touched). Either may be NULL.
 *   A ring gives its pinned rows, then the others
 *   errors   ARG, SHAPE, DTYPE, ALIAS; nothing written on error
 * tfb_kv_positions: the next T positions of each sample, those of tokens to be appended.
 *   positions [B, T] I32, for tfb_rope; offsets of attention are a slice of it
 *   errors   ARG, SHAPE, DTYPE, RANGE, ALIAS
 * tfb_kv_length: rows of the longest sample; 0 for any layer that does not exist.
 * tfb_kv_length_of: rows of one sample.
 * tfb_kv_base: the position of a sample's oldest row (of a ring: behind the pinned ones).
 * tfb_kv_end: the position of the next row to be appended to a sample.
 * tfb_kv_batch: samples; 0 for a layer never touched.
 * tfb_kv_capacity: rows each sample can have: max_tokens of a static cache, of a ring its
 *   window and pinned rows; else what there is memory for now. */
TFB_API tfb_status tfb_kv_get(tfb_ctx *ctx, const tfb_kv *kv, int layer, tfb_tensor *key,
                              tfb_tensor *value);
TFB_API tfb_status tfb_kv_positions(tfb_ctx *ctx, const tfb_kv *kv, int layer,
                                    tfb_tensor *positions);
TFB_API tfb_idx tfb_kv_length(const tfb_kv *kv, int layer);
TFB_API tfb_idx tfb_kv_length_of(const tfb_kv *kv, int layer, tfb_idx b);
TFB_API tfb_idx tfb_kv_base(const tfb_kv *kv, int layer, tfb_idx b);
TFB_API tfb_idx tfb_kv_end(const tfb_kv *kv, int layer, tfb_idx b);
TFB_API tfb_idx tfb_kv_batch(const tfb_kv *kv, int layer);
TFB_API tfb_idx tfb_kv_capacity(const tfb_kv *kv, int layer);

#ifndef TFB_NO_KV_EDIT
/* The calls below change all layers that hold something, or none.
 * tfb_kv_crop: keeps the first n rows of each sample; n < 0 drops the last -n.
 * tfb_kv_keep_last: keeps the last n >= 0; positions stay, so base grows. Pinned rows
 *   stay and are not counted.
 *   each     I32 [B] instead of n, for ragged caches, or NULL; no-ops where nothing goes
 *   errors   ARG, SHAPE, DTYPE, RANGE;   cost O(B)
 * tfb_kv_select: sample i becomes what index[i] was (beams reordered, a batch grown or
 *   shrunk); repeats are copied, all else only changes places.
 *   index    I32 [n], n >= 1
 * tfb_kv_repeat_interleave: a, b becomes a, a, b, b for repeats = 2.
 *   scratch  under 64 bytes a sample and 256 a layer
 * tfb_kv_fork: sample dst becomes a copy of src.
 *   errors   ARG, SHAPE, DTYPE, RANGE (an index, no sample), FULL (a static cache has no
 *            room for so many), SCRATCH, MEMORY;   cost: each row is moved at most once
 * tfb_kv_shift: turns the keys of rows from <= row < to (of tfb_kv_get; as far as there
 *   are any) of sample b (-1: of all) on by `delta` positions of the given rope. Rows
 *   keep their number, and with it what is causal, in a window, in a tile, and what
 *   tfb_kv_positions says; where rope has them is for the caller to count from here on.
 *   A ring forgets rows beyond its window.
 *   rope     as in tfb_rope, of one axis; positions, start and magnitude are not read
 *   scratch  12 D bytes of the widest layer;   errors ARG, RANGE, SCRATCH, MEMORY */
TFB_API tfb_status tfb_kv_crop(tfb_ctx *ctx, tfb_kv *kv, tfb_idx n,
                               const tfb_tensor *each);
TFB_API tfb_status tfb_kv_keep_last(tfb_ctx *ctx, tfb_kv *kv, tfb_idx n,
                                    const tfb_tensor *each);
TFB_API tfb_status tfb_kv_select(tfb_ctx *ctx, tfb_kv *kv, const tfb_tensor *index);
TFB_API tfb_status tfb_kv_repeat_interleave(tfb_ctx *ctx, tfb_kv *kv, tfb_idx repeats);
TFB_API tfb_status tfb_kv_fork(tfb_ctx *ctx, tfb_kv *kv, tfb_idx src, tfb_idx dst);
#endif
#ifndef TFB_NO_KV_SHIFT
TFB_API tfb_status tfb_kv_shift(tfb_ctx *ctx, tfb_kv *kv, tfb_idx b, tfb_idx from,
                                tfb_idx to, tfb_idx delta, const tfb_rope_opts *rope);
#endif

#ifndef TFB_NO_KV_MARKS
/* tfb_kv_mark: remembers the present state; a later mark replaces it.
 * tfb_kv_rollback: back to it, but for the first keep[b] rows appended since: the bits of
 *   never having tried the others. The mark stays where it was. (What a ring held beyond
 *   its window may be gone: queries from before the mark are then RANGE.)
 *   keep     I32 [1] for all samples, of a ragged cache also [B]; NULL for none
 *   errors   ARG without a mark, SHAPE, DTYPE, RANGE
 * tfb_kv_commit: forgets the mark.
 * Between mark and commit no row from before the mark changes: what would change one
 * (updates at older positions, crop below, select, fork, shift, load) is ARG or RANGE,
 * and a ring takes only as many rows as it has room for besides its window: FULL. */
TFB_API tfb_status tfb_kv_mark(tfb_ctx *ctx, tfb_kv *kv);
TFB_API tfb_status tfb_kv_rollback(tfb_ctx *ctx, tfb_kv *kv, const tfb_tensor *keep);
TFB_API void tfb_kv_commit(tfb_kv *kv);
#endif

#ifndef TFB_NO_KV_SAVE
/* tfb_kv_save_bytes: what tfb_kv_save will write now; 0 if kv is not a cache.
 * tfb_kv_save: the rows a cache holds and their positions, little-endian, with a version
 *   and a checksum: the same bytes on every target, whatever the kind.
 * tfb_kv_load: makes a cache of as many layers, of the same dtype, ragged, window and
 *   pinned, hold what was saved; static ones also of the same dims and large enough.
 *   mem      any address; more bytes than were saved do no harm
 *   errors   ARG, RANGE (mem_bytes too small), FULL, MEMORY; FORMAT if the bytes are no
 *            save, cut off or changed, SHAPE, DTYPE if they are of another cache; the
 *            cache is as it was */
TFB_API size_t tfb_kv_save_bytes(const tfb_kv *kv);
TFB_API tfb_status tfb_kv_save(tfb_ctx *ctx, const tfb_kv *kv, void *mem,
                               size_t mem_bytes);
TFB_API tfb_status tfb_kv_load(tfb_ctx *ctx, tfb_kv *kv, const void *mem,
                               size_t mem_bytes);
#endif

/* The caches of an encoder-decoder: self grows token by token, cross (opts.once) is
 * filled once. Made and used like any other; these change both or none. */
typedef struct tfb_kv_pair {
    tfb_kv self, cross;
} tfb_kv_pair;
#ifndef TFB_NO_KV_EDIT
TFB_API tfb_status tfb_kv_pair_select(tfb_ctx *ctx, tfb_kv_pair *pair,
                                      const tfb_tensor *index);
TFB_API tfb_status tfb_kv_pair_repeat_interleave(tfb_ctx *ctx, tfb_kv_pair *pair,
                                                 tfb_idx repeats);
#endif
TFB_API void tfb_kv_pair_reset(tfb_kv_pair *pair);
TFB_API void tfb_kv_pair_free(tfb_kv_pair *pair);
#endif /* TFB_NO_KV */

/* ===== [4] API: CHUNKS AND MIXERS =================================================== */
#define TFB_MAX_CHUNK_TENSORS 8 /* inputs, and as many outputs */

/* One piece of a call, as the callback sees it: views of the caller's tensors. */
typedef struct tfb_chunk {
    tfb_idx index, start, length; /* which piece; its place on the axis of the inputs */
    int worker; /* of this call: 0 .. ctx.workers - 1, no two at a time alike */
    int inputs, outputs;
    const tfb_tensor *in; /* [inputs] */
    tfb_tensor *out;      /* [outputs] to be written */
} tfb_chunk;

/* Computes chunk->out from chunk->in. ctx, which may not be the caller's, is for every
 * call inside and for tfb_scratch; if it is measuring, data is not to be touched. What is
 * returned, unless TFB_OK, ends the whole call; ctx->message may say why. */
typedef tfb_status (*tfb_chunk_fn)(tfb_ctx *ctx, void *user, const tfb_chunk *chunk);

typedef struct tfb_chunk_opts {
    tfb_idx chunk_size; /* along the axis; 0: one call for all of it */
    int dim;            /* the axis; a negative one counts from the rank of inputs[0] */
    int remainder;      /* the last chunk may be shorter, chunk_size longer than all */
    int parallel;       /* forward is reentrant: chunks are shared out among workers */
} tfb_chunk_opts;

#ifndef TFB_NO_CHUNKS
/* tfb_chunked_forward: calls forward on pieces of the inputs in ascending order, so that
 * what it needs in between exists for one piece at a time. Nothing is copied: pieces are
 * views, and outputs are written where they lie.
 *   inputs   any dtypes and strides, the same rank, the same extent along the axis (an
 *            input that is the same for all places has stride 0 there)
 *   outputs  of any rank above the axis, which has the same number there. The extent may
 *            be another; a chunk has its share: chunk_size * extent / length, a whole
 *            number. n_outputs may be 0
 *   opts     NULL: one call along axis 0. One call (also if length is 0) gets the whole
 *            tensors
 *   parallel every worker has a context of its own, without workers or alloc, in the
 *            scratch of ctx. How much of it forward needs is found by calling it for the
 *            first and the last chunk with a measuring context, before all else
 *   ctx measuring: forward is called for the first and the last chunk only
 *   alias    an output may be an input, as the very same view; no other overlap, nor of
 *            two outputs
 *   scratch  what forward takes for a chunk; parallel: this, and some 500 bytes, a worker
 *   errors   ARG, SHAPE, DTYPE, RANGE, ALIAS, SCRATCH, MEMORY; nothing written.
 *            What forward returned, with "chunk 3: " before its message, for the lowest
 *            chunk that failed: chunks before it are written, none behind it is begun,
 *            but workers end those they are at
 * tfb_chunk_size_for: *chunk_size = the largest with which the call needs at most `bytes`
 *   of scratch (as many as a static context must have): all of the length, else one that
 *   divides it (any with opts.remainder). Nothing is computed, data may be NULL.
 *   opts     chunk_size is not read
 *   errors   as above; SCRATCH tells what the smallest needs; *chunk_size untouched
 *   cost     two calls of forward, measuring, for each size from the largest down. Sizes
 *            that forward refuses are passed over, unless it refuses all
 *   source   apply_chunking_to_forward of Hugging Face transformers and lucid */
TFB_API tfb_status tfb_chunked_forward(tfb_ctx *ctx, tfb_chunk_fn forward, void *user,
                                       const tfb_tensor *inputs, int n_inputs,
                                       tfb_tensor *outputs, int n_outputs,
                                       const tfb_chunk_opts *opts);
TFB_API tfb_status tfb_chunk_size_for(tfb_ctx *ctx, tfb_chunk_fn forward, void *user,
                                      const tfb_tensor *inputs, int n_inputs,
                                      tfb_tensor *outputs, int n_outputs,
                                      const tfb_chunk_opts *opts, size_t bytes,
                                      tfb_idx *chunk_size);

/* tfb_scratch: a dense tensor for what a callback computes in between, in the scratch of
 * the context it was given. It holds anything at first and is gone when the callback
 * returns; data is NULL if ctx is measuring or the tensor is empty.
 *   errors   ARG outside of a callback; SHAPE, DTYPE, RANGE, SCRATCH, MEMORY; t untouched
 *            on error */
TFB_API tfb_status tfb_scratch(tfb_ctx *ctx, tfb_tensor *t, tfb_dtype dtype, int ndim,
                               const tfb_idx *shape);
#endif

/* --- Scans. --- */
/* Sequences are channels last, and any strides are legal: a tensor [B, E, T] is given
 * as its permuted view, one that shall run backwards with a negative stride of tokens.
 * A state carries a sequence from one call to the next. However a sequence is cut into
 * calls with carried state, token by token too, the bits are those of one call. */

typedef struct tfb_conv1d_opts {
    const tfb_tensor *bias; /* [E], or NULL for none (the same bits as zeros) */
    tfb_fn act;             /* TFB_FN_IDENTITY .. TFB_FN_TANH */
    tfb_tensor *state;      /* [B, K - 1, E]: the inputs before x, replaced by the last
                               K - 1 after x; NULL: zeros, not kept */
} tfb_conv1d_opts;

#ifndef TFB_NO_SCAN
/* tfb_causal_conv1d: y[t] = act(sum over j of w[j] x[t - (K - 1) + j] + bias), depthwise:
 *   each channel by itself. The last tap meets the present token.
 *   x [B, T, E]  w [E, K], K >= 1  y [B, T, E]   F32, any strides
 *   The sum is tfb_linear's over the taps, the first of which meets the oldest input.
 *   Inputs before the first token are +0 and count, so a state of zeros is none. Without
 *   tokens a state stays as it is.
 *   alias    y may be x; otherwise y and state overlap nothing
 *   scratch  <= 576 K + 12 KB a worker, whatever B, T and E
 *   errors   ARG, SHAPE, DTYPE, RANGE, ALIAS, SCRATCH, MEMORY; nothing written on error
 *   cost     2 B T E K flops
 *   source   Gu & Dao 2023 (Mamba); reference: tfb__causal_conv1d_ref */
TFB_API tfb_status tfb_causal_conv1d(tfb_ctx *ctx, const tfb_tensor *x,
                                     const tfb_tensor *w, const tfb_conv1d_opts *opts,
                                     tfb_tensor *y);
#endif

typedef struct tfb_scan_opts {
    const tfb_tensor *d;       /* [E] or [H]: y + d x; NULL leaves that out */
    const tfb_tensor *z;       /* x's shape: y silu(z), at the very end, or NULL */
    const tfb_tensor *dt_bias; /* [E] or [H], or NULL for none (the same bits as zeros) */
    int softplus;              /* delta = softplus(dt + dt_bias) instead of the sum */
    tfb_tensor *state;         /* h before x, replaced by h after x: [B, E, N], of tfb_ssd
                                  [B, H, P, N]; NULL: zeros, not kept */
} tfb_scan_opts;

#ifndef TFB_NO_SCAN
/* tfb_selective_scan: for each channel N states h that a token decays and feeds,
 *   h = exp(delta a) h + (delta x) b,  y = <h, c> + d x,  y = y silu(z).
 *   x, dt, y [B, T, E]  a [E, N]  b, c [B, T, G, N]   F32, any strides
 *   E is a multiple of G: channel e reads group e / (E / G). N may be 0
 *   alias    y may be x, dt or z; otherwise y and state overlap nothing
 *   scratch  <= 576 N + 11 KB a worker, and 256 (N + 15) where rows of b or c have gaps;
 *            whatever B, T and E
 *   errors   ARG, SHAPE, DTYPE, RANGE, ALIAS, SCRATCH, MEMORY; nothing written on error
 *   cost     9 B T E N flops, counting an exponential as one
 *   source   Gu & Dao 2023 (Mamba); reference: tfb__selective_scan_ref
 * tfb_ssd: the same with one a and one delta for each head, the form of Mamba-2.
 *   x, y [B, T, H, P]  dt [B, T, H]  a [H]  b, c [B, T, G, N]; H is a multiple of G
 *   alias    y may be x or z; otherwise y and state overlap nothing
 *   source   Dao & Gu 2024 (Mamba-2); reference: tfb__ssd_ref; else as above */
TFB_API tfb_status tfb_selective_scan(tfb_ctx *ctx, const tfb_tensor *x,
                                      const tfb_tensor *dt, const tfb_tensor *a,
                                      const tfb_tensor *b, const tfb_tensor *c,
                                      const tfb_scan_opts *opts, tfb_tensor *y);
TFB_API tfb_status tfb_ssd(tfb_ctx *ctx, const tfb_tensor *x, const tfb_tensor *dt,
                           const tfb_tensor *a, const tfb_tensor *b, const tfb_tensor *c,
                           const tfb_scan_opts *opts, tfb_tensor *y);
#endif

#ifndef TFB_NO_LONG_CONV
/* --- Long convolutions. --- */
typedef enum tfb_edge { /* what lies beyond the ends of an axis */
                        TFB_EDGE_ZERO,
                        TFB_EDGE_CIRCULAR, /* the other end */
                        TFB_EDGE_CAUSAL /* zeros, and taps of negative lag are left out */
} tfb_edge;

typedef enum tfb_conv_method {
    TFB_CONV_AUTO, /* the one that is likely to be faster for these extents */
    TFB_CONV_DIRECT,
    TFB_CONV_FFT
} tfb_conv_method;

typedef struct tfb_long_conv_opts {
    const tfb_tensor *shortcut; /* [C]: + shortcut x, or NULL */
    tfb_edge edge[3];           /* of each spatial axis */
    int first_tap;              /* lag 0 is at tap 0 of each axis, else at tap K / 2 */
    tfb_conv_method method;
} tfb_long_conv_opts;

/* tfb_long_conv: y[n] = sum over taps t of k[t] x[n - (t - origin)] + shortcut x[n], each
 *   channel by itself: a true convolution, a tap of positive lag meets the past.
 *   x, y [B, .., C]  k [.., C] or, one for each sample, [B, .., C]   F32, any strides
 *   .. are one to three spatial axes; k has extents of its own, at least 1, on a circular
 *   axis at most that of x. Causal is for one axis
 *   opts     NULL: zeros beyond the ends, the origin in the centre
 *   direct   within the numeric contract: the matmul rule over the inputs in row-major
 *            order, blocks counted from the first input; places a tap does not meet are
 *            skipped, and so are blocks it does not meet
 *   fft      any lengths; off by at most 1e-6 max |x| sum |k|. Bits depend on neither
 *            the other samples and channels nor on workers, but on the instruction set
 *   auto     which of them it is depends on the extents of the axes alone
 *   alias    y may be x; otherwise it overlaps nothing
 *   scratch  a worker, direct: 64 bytes for each place of x and of k, and 11 KB; fft:
 *            128 bytes for each place of axes so long that nothing goes round, of all
 *            workers some 15 more for tables; whatever B and C
 *   errors   ARG, SHAPE, DTYPE, RANGE, ALIAS, SCRATCH, MEMORY; nothing written on error
 *   cost     direct: 2 B C flops for each tap that meets an input; fft: about
 *            5 B C P log2 P for P places of the axes made longer
 *   source   Cooley & Tukey 1965, Bluestein 1970; reference: tfb__long_conv_ref */
TFB_API tfb_status tfb_long_conv(tfb_ctx *ctx, const tfb_tensor *x, const tfb_tensor *k,
                                 const tfb_long_conv_opts *opts, tfb_tensor *y);
#endif

/* --- Random numbers and parameters. --- */
#ifndef TFB_NO_RANDOM
/* tfb_uniform: y[i] = lo + u (hi - lo), 0 <= u < 1, u from Philox4x32-10 with key seed
 *   and counter first + i, i counting y's elements in row-major order: the same numbers
 *   on every target.   y F32, any strides
 *   errors   ARG, SHAPE, DTYPE, RANGE
 *   source   Salmon et al. 2011; reference: its published test vectors */
TFB_API tfb_status tfb_uniform(tfb_ctx *ctx, uint64_t seed, uint64_t first, float lo,
                               float hi, tfb_tensor *y);
#endif

/* Is called for every parameter of a module, always in the same order; a status other
 * than TFB_OK ends the walk and is returned. */
typedef tfb_status (*tfb_param_fn)(void *user, const char *name, tfb_tensor *t);
/* Walks over the parameters of a module: tfb_qkv_params and the like. */
typedef tfb_status (*tfb_params_fn)(void *module, tfb_param_fn visit, void *user);

#ifndef TFB_NO_PARAMS
/* tfb_params_count: elements of all parameters.
 * tfb_params_bytes: what tfb_params_save writes.
 * tfb_params_save: names, shapes and values (F32, little-endian) with version and sum.
 * tfb_params_load: sets all parameters from what was saved, or none.
 *   errors   ARG, RANGE (mem_bytes too small); FORMAT if the bytes are no save, cut off
 *            or changed, SHAPE if names or shapes are others; DTYPE for packed ones */
TFB_API int64_t tfb_params_count(tfb_params_fn params, void *module);
TFB_API size_t tfb_params_bytes(tfb_params_fn params, void *module);
TFB_API tfb_status tfb_params_save(tfb_ctx *ctx, tfb_params_fn params, void *module,
                                   void *mem, size_t mem_bytes);
TFB_API tfb_status tfb_params_load(tfb_ctx *ctx, tfb_params_fn params, void *module,
                                   const void *mem, size_t mem_bytes);
#endif

/* --- Mixers: what turns q, k and v into y. --- */
struct tfb_comm; /* of context parallelism; no mixer here knows it yet */

/* One call: y and q [B, .., C], k and v [B, .., Ckv] F32; .. are one to three spatial
 * axes, the last one fastest. From a block q, k and v are views of one tensor and y is
 * dense; channels are contiguous, tokens evenly spaced. If ctx is measuring, data is not
 * to be touched and may be NULL. What a mixer does not know of a call it ignores. */
typedef struct tfb_mix {
    const tfb_tensor *q, *k, *v;
    tfb_tensor *y;
    const tfb_tensor *cond; /* [B, n]: conditioning, or NULL */
    const struct tfb_comm *comm;
    int inference; /* parameters are what they were at the last call */
} tfb_mix;

/* What a mixer carries from one call to the next, of each sample: rows of a cache, and up
 * to four arrays of floats, which are 0 at first. */
#define TFB_MIXER_CARRIED 4
typedef struct tfb_mixer_need {
    tfb_kv_shape kv; /* kv_heads 0: no cache; batch and max_tokens are filled in */
    tfb_idx carried[TFB_MIXER_CARRIED]; /* floats a sample, 0: none */
} tfb_mixer_need;

typedef struct tfb_mixer_state {
    tfb_kv kv;                             /* of one layer */
    tfb_tensor carried[TFB_MIXER_CARRIED]; /* [batch, n]; n is 0 if there is none */
    tfb_idx batch, tokens;                 /* samples in use, tokens they have seen */
    tfb_tensor marked[TFB_MIXER_CARRIED];  /* private from here on */
    tfb_idx most, marked_tokens;
    int has_mark;
    void *mem;
    tfb_alloc_fn alloc;
    void *alloc_user;
} tfb_mixer_state;

/* A mixer is a table of functions and what they work on. To write your own, fill one;
 * tfb_scratch gives it memory, and forward and step check what the block cannot know and
 * say in ctx->message what was wrong. step is called twice, the first time measuring.
 * All but forward may be NULL: no step, nothing carried, no flops, no parameters. */
typedef struct tfb_mixer_ops {
    const char *name;
    tfb_status (*forward)(tfb_ctx *ctx, void *self, const tfb_mix *call);
    /* The next tokens of sequences (one axis): advances the state, or fails. Step after
     * step gives what forward gives. */
    tfb_status (*step)(tfb_ctx *ctx, void *self, const tfb_mix *call,
                       tfb_mixer_state *state);
    void (*need)(const void *self, tfb_idx channels, tfb_mixer_need *need);
    int64_t (*flops)(const void *self, tfb_idx channels, const tfb_idx *spatial, int axes,
                     int inference);
    tfb_status (*params)(void *self, tfb_param_fn visit, void *user);
} tfb_mixer_ops;

typedef struct tfb_mixer {
    const tfb_mixer_ops *ops;
    void *self;
} tfb_mixer;

#ifndef TFB_NO_MIXERS
/* --- The QKV sequence mixer: y = mixer(x Wqkv^T + bqkv) Wout^T + bout. --- */
typedef struct tfb_qkv {
    tfb_idx channels, kv_channels; /* C and Ckv */
    tfb_tensor wqkv, bqkv;         /* [C + 2 Ckv, C], [C + 2 Ckv]; ndim 0: no bias */
    tfb_tensor wout, bout;         /* [C, C], [C] */
    tfb_mixer mixer;
} tfb_qkv;

/* Fills a weight [N, K]; its bias, if there is one, is then 0. */
typedef tfb_status (*tfb_init_fn)(tfb_ctx *ctx, void *user, tfb_tensor *weight);

typedef struct tfb_qkv_opts {
    tfb_idx channels;
    tfb_idx kv_channels; /* 0 means channels */
    int bias;            /* both projections have one */
    uint64_t seed;       /* of the default: weights and biases in +- 1 / sqrt(K) */
    tfb_init_fn init_qkv, init_out; /* NULL: the default */
    void *init_user;
    tfb_mixer mixer;
} tfb_qkv_opts;

/* tfb_qkv_bytes: memory for the weights of a block; 0 if opts are not legal.
 * tfb_qkv_init: a block with initialised weights in mem, which must outlive it.
 *   mem      aligned to 4 (64 is fastest), tfb_qkv_bytes(opts) long
 *   errors   ARG, RANGE, and what init_qkv and init_out return
 * A block may also be put together by hand, of weights that lie elsewhere: any dtype and
 * strides tfb_linear takes, packed ones too.
 * tfb_qkv_params: walks over wqkv, bqkv, wout, bout and the mixer's parameters.
 * tfb_qkv_flops: 6 T C^2 (fewer if Ckv < C) + the mixer's + 2 T C^2, T the product of
 *   spatial; batch and bias are not counted. -1 if an argument is not legal. */
TFB_API size_t tfb_qkv_bytes(const tfb_qkv_opts *opts);
TFB_API tfb_status tfb_qkv_init(tfb_ctx *ctx, tfb_qkv *block, const tfb_qkv_opts *opts,
                                void *mem, size_t mem_bytes);
TFB_API tfb_status tfb_qkv_params(void *block, tfb_param_fn visit, void *user);
TFB_API int64_t tfb_qkv_flops(const tfb_qkv *block, const tfb_idx *spatial, int axes,
                              int inference);

/* tfb_qkv_load: copies weights from elsewhere into a block. NULL leaves one as it is.
 *   wqkv [C + 2 Ckv, C], its rows q, k, v one after another or, interleaved, [H][3][D]
 *   for H heads (Ckv = C then)  bqkv [C + 2 Ckv]  wout [C, C]  bout [C]
 *   F32, F16 or BF16, any strides
 *   in_out   weights are [in][out], as GPT-2's Conv1D and Burn have them
 *   errors   ARG, SHAPE, DTYPE, ALIAS; nothing changed */
typedef struct tfb_qkv_source {
    const tfb_tensor *wqkv, *bqkv, *wout, *bout;
    int in_out;
    tfb_idx interleaved_heads; /* 0: not interleaved */
} tfb_qkv_source;
TFB_API tfb_status tfb_qkv_load(tfb_ctx *ctx, tfb_qkv *block, const tfb_qkv_source *from);

typedef struct tfb_qkv_call {
    const tfb_tensor *cond, *residual; /* residual: added last, y's shape; or NULL */
    const struct tfb_comm *comm;
    int inference;
} tfb_qkv_call;

/* tfb_qkv_forward: all tokens of x at once.
 *   x, y [B, .., C] F32, one to three spatial axes, channels contiguous
 *   alias    y may be the residual; otherwise it overlaps nothing
 *   scratch  (2 C + 2 Ckv) floats a token, that of tfb_linear and the mixer's own
 *   errors   ARG, SHAPE, DTYPE, RANGE, ALIAS, SCRATCH, MEMORY and the mixer's own
 * tfb_qkv_step: the next T tokens of each sequence: x, y [B, T, C].
 *   Calls one after another give the bits of forward over all, however they are cut.
 *   errors   as above; UNSUPPORTED if the mixer has no step; the state is as it was */
TFB_API tfb_status tfb_qkv_forward(tfb_ctx *ctx, const tfb_qkv *block,
                                   const tfb_tensor *x, const tfb_qkv_call *call,
                                   tfb_tensor *y);
TFB_API tfb_status tfb_qkv_step(tfb_ctx *ctx, const tfb_qkv *block,
                                tfb_mixer_state *state, const tfb_tensor *x,
                                const tfb_qkv_call *call, tfb_tensor *y);

/* tfb_mixer_state_bytes: exactly what a state of `batch` samples of at most max_tokens
 *   tokens needs; 0 if that is not legal.
 * tfb_mixer_state_init: a state before its first token.
 *   mem      aligned to 8 (64 is fastest), must outlive the state; NULL: from ctx.alloc
 *   errors   ARG, RANGE, MEMORY; state untouched
 * tfb_mixer_state_reset: back to before the first token.
 * tfb_mixer_state_select: sample i becomes what index[i] was; up to `batch` of init.
 * tfb_mixer_state_mark, .._rollback: remembers the state; back to the very bits of it.
 *   errors   ARG, SHAPE, DTYPE, RANGE, FULL, SCRATCH; nothing changed. Marked states
 *            cannot be selected from until .._commit forgets the mark */
TFB_API size_t tfb_mixer_state_bytes(const tfb_qkv *block, tfb_idx batch,
                                     tfb_idx max_tokens);
TFB_API tfb_status tfb_mixer_state_init(tfb_ctx *ctx, tfb_mixer_state *state,
                                        const tfb_qkv *block, tfb_idx batch,
                                        tfb_idx max_tokens, void *mem, size_t mem_bytes);
TFB_API void tfb_mixer_state_free(tfb_mixer_state *state);
TFB_API void tfb_mixer_state_reset(tfb_mixer_state *state);
TFB_API tfb_status tfb_mixer_state_select(tfb_ctx *ctx, tfb_mixer_state *state,
                                          const tfb_tensor *index);
TFB_API tfb_status tfb_mixer_state_mark(tfb_ctx *ctx, tfb_mixer_state *state);
TFB_API tfb_status tfb_mixer_state_rollback(tfb_ctx *ctx, tfb_mixer_state *state);
TFB_API void tfb_mixer_state_commit(tfb_mixer_state *state);

/* --- The attention mixer: head h is channels h D .. h D + D - 1. --- */
typedef struct tfb_attention_mixer {
    tfb_idx heads, kv_heads; /* kv_heads 0: heads */
    tfb_attention_opts opts; /* causal (for steps BOTTOM_RIGHT), window, softcap, scale
                                and so on, but nothing of one sequence, lse or qk */
    tfb_qk_norm norm;        /* of q and k, before rope unless norm_last */
    int norm_last, eps_set;
    float eps;
    tfb_tensor q_weight, k_weight; /* [D] each, RMS; ndim 0: ones */
    int rotate;                    /* by rope: axes 0 means one for each spatial axis; */
    tfb_rope_opts rope;            /* positions and grid are set by the call */
} tfb_attention_mixer;
TFB_API tfb_mixer tfb_attention_as_mixer(tfb_attention_mixer *m); /* m must outlive it */

/* Multi-head self-attention: the block with the attention mixer, made by one call.
 * Must not be moved afterwards: the block points to its mixer. */
typedef struct tfb_mhsa {
    tfb_qkv block;
    tfb_attention_mixer mixer;
} tfb_mhsa;

typedef struct tfb_mhsa_opts {
    tfb_idx channels, heads, kv_heads; /* kv_heads 0: heads */
    int bias;
    tfb_causal causal;
    tfb_idx window, chunk_size;
    tfb_qk_norm norm;
    const tfb_rope_opts *rope; /* or NULL */
    uint64_t seed;
} tfb_mhsa_opts;

/* tfb_mhsa_bytes, tfb_mhsa_init: as tfb_qkv_bytes and tfb_qkv_init. */
TFB_API size_t tfb_mhsa_bytes(const tfb_mhsa_opts *opts);
TFB_API tfb_status tfb_mhsa_init(tfb_ctx *ctx, tfb_mhsa *m, const tfb_mhsa_opts *opts,
                                 void *mem, size_t mem_bytes);
#endif

#ifndef TFB_NO_MAMBA
/* --- The Mamba mixer: y = core(v), q and k are not read; several axes are one sequence,
 * row by row. --- */
typedef struct tfb_mamba_core {
    tfb_tensor w_in;           /* [2 E, C]: x, then z */
    tfb_tensor conv_w, conv_b; /* [E, K], [E] */
    tfb_tensor w_x;            /* [R + 2 N, E]: dt, B, C */
    tfb_tensor w_dt, b_dt;     /* [E, R], [E] */
    tfb_tensor a_log, d;       /* [E, N], [E] */
    tfb_tensor w_out;          /* [C, E] */
} tfb_mamba_core;

typedef struct tfb_mamba {
    tfb_idx channels, inner, states, taps, rank; /* C, E, N, K, R */
    int bidirectional; /* + the reversed core of the reversed sequence, core[1] */
    tfb_mamba_core core[2];
} tfb_mamba;
TFB_API tfb_mixer tfb_mamba_as_mixer(tfb_mamba *m); /* m must outlive it */

typedef struct tfb_mamba_opts {
    tfb_idx channels;
    tfb_idx expand, states, taps, rank; /* 0 means 2, 16, 4, ceil(C / 16) */
    int bidirectional;
    uint64_t seed;
} tfb_mamba_opts;

/* tfb_mamba_bytes, tfb_mamba_init: as tfb_qkv_bytes and tfb_qkv_init. A_log is log(1 ..
 *   N), d 1, w_dt in +- 1 / sqrt(R), b_dt so that softplus(b_dt) is exp of a number
 *   between log 0.001 and log 0.1, at least 1e-4; all else as tfb_linear's default
 *   source   Gu & Dao 2023 */
TFB_API size_t tfb_mamba_bytes(const tfb_mamba_opts *opts);
TFB_API tfb_status tfb_mamba_init(tfb_ctx *ctx, tfb_mamba *m, const tfb_mamba_opts *opts,
                                  void *mem, size_t mem_bytes);
#endif

#ifndef TFB_NO_HYENA
/* --- The CKConv mixer: a depthwise convolution as long as its input, the kernel of which
 * a small network makes from coordinates: y = ckconv(v), ckconv(x) = k * x + shortcut x;
 * gated y = q ckconv(k v). --- */
#define TFB_CKCONV_LAYERS 8 /* hidden layers at most */

/* The tap that meets the token l places back (the lag, < 0: ahead) stands at coordinate
 * p = l / (L - 1) of its axis, L the length given to init, (L + 1) / 2 on circular axes.
 * Longer inputs run past +-1. p goes to e [E], hidden layers [M] and a linear one. */
typedef enum tfb_ckconv_kind {
    TFB_CKCONV_SIREN,   /* e = sin(omega (W0 p + b0)), h = sin(omega (W h + b)) */
    TFB_CKCONV_FOURIER, /* e = [cos(W0 p), sin(W0 p)], h = gelu_erf(W h + b) */
    TFB_CKCONV_TAPS     /* no network: the taps themselves are parameters */
} tfb_ckconv_kind;

/* What the made taps are multiplied by, |p_a| p_a's magnitude, sums over the axes. */
typedef enum tfb_ckconv_mask {
    TFB_CKCONV_OPEN,
    TFB_CKCONV_EXPONENTIAL, /* exp(-sum |p_a| mask_ac) */
    TFB_CKCONV_GAUSSIAN     /* exp(-0.5 sum (p_a / mask_ac)^2), mask_ac first brought
                               between mask_least[a] and 3.12216: 0.95 left at p = 1 */
} tfb_ckconv_mask;

typedef struct tfb_ckconv {
    tfb_idx channels;  /* C */
    int axes;          /* d: 1 to 3 */
    tfb_edge edge[3];  /* CAUSAL: one axis only */
    tfb_idx length[3]; /* L, at least 2, on circular axes 3; TAPS: not read */
    tfb_ckconv_kind kind;
    tfb_ckconv_mask mask;
    tfb_conv_method method;
    int gated;
    tfb_idx step_block; /* rows of a block of steps, 0: steps by direct sums alone */
    float omega, mask_least[3];
    int layers;        /* hidden ones, at least 1 */
    tfb_tensor w0, b0; /* [E, d], [E]; FOURIER: [E / 2, d], none */
    tfb_tensor w[TFB_CKCONV_LAYERS], b[TFB_CKCONV_LAYERS]; /* [M, E or M], [M] */
    tfb_tensor w_out, b_out;                               /* [C, M], [C] */
    tfb_tensor mask_weight;                                /* [d, C]; OPEN: ndim 0 */
    tfb_tensor taps;                                       /* [.., C]; else ndim 0 */
    tfb_tensor shortcut;                                   /* [C]; ndim 0: none */
    tfb_tensor film_w1, film_b1;   /* [64, n], [64]; ndim 0: no conditioning */
    tfb_tensor film_w2, film_b2;   /* [layers 2 M, 64], [layers 2 M] */
    struct tfb__ckconv_kept *kept; /* private */
} tfb_ckconv;
TFB_API tfb_mixer tfb_ckconv_as_mixer(tfb_ckconv *m); /* m must outlive it */

typedef struct tfb_ckconv_opts {
    tfb_idx channels;
    int axes; /* 0 means 1 */
    tfb_edge edge[3];
    tfb_idx length[3]; /* TAPS: extents of the kernel */
    tfb_ckconv_kind kind;
    tfb_ckconv_mask mask;
    tfb_conv_method method;
    int gated, no_shortcut;
    tfb_idx step_block;
    tfb_idx embed, hidden, layers;   /* E, M, hidden layers; 0 means M, 64, 1 */
    tfb_idx cond;                    /* of conditioning vectors; 0: none */
    float omega, omega0, mask_least; /* 0 means 1, 30, mask_least below */
    uint64_t seed;
} tfb_ckconv_opts;

/* tfb_ckconv_bytes, tfb_ckconv_init: as tfb_qkv_bytes and tfb_qkv_init.
 *   w0 in +- 2 pi omega0 / d, hidden weights in +- sqrt(6 / in), w_out in that times
 *   sqrt(1 / product of L), biases 0; shortcut and taps in +- 1 / sqrt(C) and
 *   +- 1 / sqrt(number of taps). Exponential masks: from 2.3 / d at channel 0 to
 *   13.81 / d at the last, evenly. Gaussian: from 0.46599 (0.1 is left at p = 1) of a
 *   step 1 / (L - 1), which is also the default of mask_least, to 0.46599, evenly in the
 *   logarithm
 *   FiLM: gamma, beta = Linear(gelu_erf(Linear(cond))), [gamma M, beta M] for each hidden
 *   layer, whose h becomes gamma h + beta; the first weight as tfb_linear's default, the
 *   second 0, so that at first gamma is 1 and beta 0
 *   source   Romero et al. 2022 (CKConv), Sitzmann et al. 2020 (SIREN), Perez et al. 2018
 *            (FiLM), Poli et al. 2023 (masks)
 * As a mixer: v [B, .., C] with m.axes axes. With film cond [B, n] is needed and each
 *   sample has a kernel of its own; otherwise cond is ignored.
 *   scratch  unless the kernel is kept: 64 floats a tap for each worker and, if there are
 *            more channels than that, M a tap; with film 2 M layers floats a sample; and
 *            what tfb_long_conv takes. Does not grow with C
 *   step     one causal axis. The sums are those of tfb_long_conv's direct method, and so
 *            are the bits: method DIRECT has them in forward too, FFT is within its
 *            bound. Token t costs 2 C (t + 1) flops, reading as many taps and rows, and,
 *            unless kept, the kernel anew. The state holds C + 1 floats a token, scratch
 *            is for as many tokens as it has room for: no step allocates.
 *            With step_block P, for long contexts: the first token of every P makes, by
 *            transforms of all rows so far, what these give to the P outputs from there
 *            on; direct sums are over the rows of the block alone, at most 2 C P flops.
 *            The least in all is at P about sqrt(15 N log2 N). Any cut into calls gives
 *            the same bits, within tfb_long_conv's bound of the direct sums. The state
 *            has P C floats more, and that first token takes scratch as forward does for
 *            the rows so far of one sample
 *   flops    generator 2 G d E + G E (FOURIER: half the first) and for each hidden layer
 *            2 G in M + G M, then 2 G M C, G the taps (causal: 2 N - 1); none of it at
 *            inference without film. Film 2 n 64 + 64 + 128 o + o G, o = layers 2 M.
 *            Transforms: F 5 C P log2 P, rounded down, + 6 C P, P places as padded, F = 3
 *            or at inference without film 2. Shortcut C T, gates 2 C T
 *   errors   ARG, SHAPE, RANGE and tfb_long_conv's */
TFB_API size_t tfb_ckconv_bytes(const tfb_ckconv_opts *opts);
TFB_API tfb_status tfb_ckconv_init(tfb_ctx *ctx, tfb_ckconv *m,
                                   const tfb_ckconv_opts *opts, void *mem,
                                   size_t mem_bytes);

/* tfb_ckconv_taps: extents of the kernel for an input of these: 2 N - 1, on circular axes
 *   2 ((N + 1) / 2) - 1, on a causal one N; of TAPS those it has.
 * tfb_ckconv_kernel: the kernel, as tfb_long_conv takes it.
 *   kernel   [taps, C], with film [B, taps, C] for cond [B, n]; F32, any strides
 *   errors   ARG, SHAPE, DTYPE, RANGE, ALIAS, SCRATCH, MEMORY; kernel untouched
 *   reference: tfb__ckconv_point_ref */
TFB_API tfb_status tfb_ckconv_taps(tfb_ctx *ctx, const tfb_ckconv *m,
                                   const tfb_idx *spatial, int axes, tfb_idx *taps);
TFB_API tfb_status tfb_ckconv_kernel(tfb_ctx *ctx, const tfb_ckconv *m,
                                     const tfb_idx *spatial, int axes,
                                     const tfb_tensor *cond, tfb_tensor *kernel);

/* Making a kernel costs more than using it. So it can be made once and kept:
 * tfb_ckconv_prepare: makes the kernel for inputs of these extents and keeps it with m.
 *   Calls with `inference` set whose inputs have these extents or smaller ones take it;
 *   the bits stay the same. It is taken only if the parameters are those it was made
 *   from, which each such call sees by a sum over them: after a change (by a load or by
 *   hand) kernels are made anew in each call, until prepared again. That takes more
 *   scratch than was measured: in a static context without it SCRATCH
 *   mem      aligned to 8, must outlive m or tfb_ckconv_forget, tfb_ckconv_prepare_bytes
 *            long; NULL: from ctx.alloc
 *   Several sizes can be kept, each in memory of its own; one of equal size, and those of
 *   other parameters, are dropped. m must not be in use by others meanwhile
 *   errors   ARG, SHAPE, RANGE, MEMORY, SCRATCH; UNSUPPORTED with film; m untouched
 * tfb_ckconv_prepare_bytes: 0 if that is not legal; ctx->message says why.
 * tfb_ckconv_forget: drops what is kept and gives memory back. */
TFB_API size_t tfb_ckconv_prepare_bytes(tfb_ctx *ctx, const tfb_ckconv *m,
                                        const tfb_idx *spatial, int axes);
TFB_API tfb_status tfb_ckconv_prepare(tfb_ctx *ctx, tfb_ckconv *m, const tfb_idx *spatial,
                                      int axes, void *mem, size_t mem_bytes);
TFB_API void tfb_ckconv_forget(tfb_ckconv *m);

/* --- The Hyena mixer, of one to three axes, in this order:
 *   1 short convolutions of q, k and v, each channel by itself; cross-correlations
 *   2 qk_norm of q, and of k if gate1 is the identity
 *   3 z = q gate1(k)   4 norm of z   5 h = ckconv(z)
 *   6 y = h gate2(v)   7 out_norm of y   --- */
typedef struct tfb_hyena {
    tfb_fn gate1, gate2;
    int gate2_set;                       /* 0: gate2 is gate1 */
    tfb_qk_norm qk_norm, norm, out_norm; /* per position over channels */
    int eps_set, short_causal;
    float eps;
    tfb_tensor short_w;            /* [groups, taps ..] for 3 C channels: q's, k's, v's,
                                      3 C / groups neighbours share a row; ndim 0: none */
    tfb_tensor q_weight, k_weight; /* [C] each; ndim 0: ones */
    tfb_tensor z_weight, y_weight;
    tfb_ckconv conv; /* not gated */
} tfb_hyena;
TFB_API tfb_mixer tfb_hyena_as_mixer(tfb_hyena *m); /* m must outlive it */

typedef struct tfb_hyena_opts {
    tfb_ckconv_opts conv;  /* channels, axes and the seed are those of all */
    tfb_idx short_taps[3]; /* along each axis; 0: no short convolutions */
    tfb_idx short_groups;  /* 0 means 3 C: a row for each channel */
    int short_causal;      /* of one axis: K - 1 zeros before the first token; else
                               (K - 1) / 2 before and the rest behind */
    tfb_fn gate1, gate2;   /* usual: SILU and SIGMOID */
    int gate2_set;
    tfb_qk_norm qk_norm, norm, out_norm;
} tfb_hyena_opts;

/* tfb_hyena_bytes, tfb_hyena_init: as tfb_qkv_bytes and tfb_qkv_init. Short weights in
 *   +- 1 / sqrt(taps), weights of norms 1, all else as tfb_ckconv_init has it
 *   source   Poli et al. 2023 (Hyena)
 * As a mixer: q, k, v [B, .., C] with conv.axes axes.
 *   scratch  that of the CKConv mixer or, at another moment, 64 floats a token for each
 *            worker; with qk_norm and no gate1 C floats a token. Else it does not grow
 *            with C, but for rows of a norm
 *   step     one axis, causal short convolutions or none: as the CKConv mixer's; short
 *            convolutions cost 6 C taps flops, and the state 3 C (taps - 1) floats more
 *   flops    6 C T taps, 3 C T a norm (qk_norm: 6 if k is normed too), 2 C T and C T a
 *            gate but the identity, + CKConv's */
TFB_API size_t tfb_hyena_bytes(const tfb_hyena_opts *opts);
TFB_API tfb_status tfb_hyena_init(tfb_ctx *ctx, tfb_hyena *m, const tfb_hyena_opts *opts,
                                  void *mem, size_t mem_bytes);
#endif

#ifdef __cplusplus
}
#endif
#endif /* TFBLOCKS_H */

#if defined(TFBLOCKS_IMPLEMENTATION) && !defined(TFB__IMPLEMENTED)
#define TFB__IMPLEMENTED

/* ===== [5] PLATFORM ================================================================= */
/* Compiler differences as 0/1 macros. tcc and pcc claim more than they can do, so what
 * needs target regions and intrinsics is gated on the compilers that really have them. */

#if (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 9)) &&                      \
    !defined(__TINYC__) && !defined(__PCC__)
#define TFB__GNU 1
#else
#define TFB__GNU 0
#endif

/* TFB__HAS(X) is 0 where TFB_NO_X is defined, as nothing or as 1, else 1; TFB__OPT(X, v)
 * is v or 0, so that the compiler drops what an option that is left out would need. */
#define TFB__HAS(block)            TFB__HAS_OF(TFB_NO_##block)
#define TFB__HAS_OF(value)         TFB__HAS_IN(value)
#define TFB__HAS_IN(value)         TFB__HAS_PICK(TFB__HAS_COMMA_##value 1, 1, 0)
#define TFB__HAS_PICK(...)         TFB__HAS_SECOND(__VA_ARGS__)
#define TFB__HAS_SECOND(a, b, ...) b
#define TFB__HAS_COMMA_            0, 0,
#define TFB__HAS_COMMA_1           0, 0,
#define TFB__OPT(block, value)     (TFB__HAS(block) ? (value) : 0)

/* Is there anything that multiplies matrices; is anything left out? */
#define TFB__PRODUCTS (TFB__HAS(MATMUL) || TFB__HAS(LINEAR) || TFB__HAS(ATTENTION))

#define TFB__PARTIAL                                                                     \
    (!(TFB__HAS(TENSOR_OPS) && TFB__HAS(MATMUL) && TFB__HAS(LINEAR) &&                   \
       TFB__HAS(PACKS) && TFB__HAS(NORMS) && TFB__HAS(SOFTMAX) && TFB__HAS(ROPE) &&      \
       TFB__HAS(ATTENTION) && TFB__HAS(WEIGHTS) && TFB__HAS(MERGE) && TFB__HAS(KV) &&    \
       TFB__HAS(KV_DYNAMIC) && TFB__HAS(KV_PLACES) && TFB__HAS(KV_EDIT) &&               \
       TFB__HAS(KV_SHIFT) && TFB__HAS(KV_MARKS) && TFB__HAS(KV_SAVE) &&                  \
       TFB__HAS(CHUNKS) && TFB__HAS(SCAN) && TFB__HAS(RANDOM) && TFB__HAS(PARAMS) &&     \
       TFB__HAS(MIXERS) && TFB__HAS(MAMBA) && TFB__HAS(LONG_CONV) && TFB__HAS(HYENA) &&  \
       TFB__HAS(FN_TRIG) && TFB__HAS(ALLOC)))

/* Size before speed: one table, whose kernels are called by name, so that what nobody
 * calls is not linked; products and attention are the plain loops of their references. */
#ifdef TFB_SMALL
#undef TFB_SCALAR
#define TFB_SCALAR
#define TFB__SMALL             1
#define TFB__ALWAYS            /* inlined where that is smaller */
#define TFB__KERNEL(isa, name) ((void)(isa), tfb__##name##_scalar)
#else
#define TFB__SMALL             0
#define TFB__ALWAYS            __attribute__((always_inline))
#define TFB__KERNEL(isa, name) (isa)->name
#endif

#if TFB__GNU && !defined(TFB_SCALAR) && (defined(__x86_64__) || defined(__i386__))
#define TFB__X86 1
#else
#define TFB__X86 0
#endif

/* Which tables this build has. Without a run-time test there are those whose instructions
 * the whole build may use anyway. SSE2 and WebAssembly have no fma. */
#if TFB__X86 && !defined(TFB_EXACT)
#define TFB__SSE2 1
#else
#define TFB__SSE2 0
#endif

#if TFB__GNU && !defined(TFB_SCALAR) &&                                                  \
    (defined(__AARCH64EL__) ||                                                           \
     (defined(__ARM_NEON) && defined(__ARM_FEATURE_FMA) && defined(__ARMEL__)))
#define TFB__NEON 1
#else
#define TFB__NEON 0
#endif

#if TFB__NEON &&                                                                         \
    (defined(__ARM_FEATURE_SVE) || (defined(__AARCH64EL__) && defined(__linux__) &&      \
                                    (!defined(__clang__) || __clang_major__ >= 16)))
#define TFB__SVE 1
#else
#define TFB__SVE 0
#endif

#if TFB__GNU && !defined(TFB_SCALAR) && defined(__riscv) &&                              \
    (defined(__riscv_v) ||                                                               \
     (defined(__clang__) && __clang_major__ >= 19 && defined(__linux__)))
#define TFB__RVV 1
#else
#define TFB__RVV 0
#endif

#if TFB__GNU && !defined(TFB_SCALAR) && !defined(TFB_EXACT) && defined(__wasm_simd128__)
#define TFB__WASM 1
#else
#define TFB__WASM 0
#endif

#if TFB__GNU && !defined(TFB_SCALAR) && defined(__ARM_FEATURE_MVE) &&                    \
    __ARM_FEATURE_MVE >= 2
#define TFB__HELIUM 1
#else
#define TFB__HELIUM 0
#endif

#if defined(__BYTE_ORDER__) && defined(__ORDER_BIG_ENDIAN__)
#define TFB__BIG_ENDIAN (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__)
#else
#define TFB__BIG_ENDIAN 0
#endif

#if TFB__GNU
#define TFB__UNUSED           __attribute__((unused))
#define TFB__INLINE           static inline TFB__ALWAYS TFB__UNUSED
#define TFB__NOINLINE         __attribute__((noinline, unused))
#define TFB__PREFETCH(p)      __builtin_prefetch(p)
#define TFB__PREFETCH_L2(p)   __builtin_prefetch(p, 0, 2)
#define TFB__ATOMIC_GET(p)    __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define TFB__ATOMIC_SET(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
#else
#define TFB__UNUSED
#define TFB__INLINE static
#define TFB__NOINLINE
#define TFB__PREFETCH(p)      ((void)(p))
#define TFB__PREFETCH_L2(p)   ((void)(p))
#define TFB__ATOMIC_GET(p)    (*(p))
#define TFB__ATOMIC_SET(p, v) (*(p) = (v))
#endif

/* Re-inclusion is by name: __FILE__ fails with relative include paths. */
#ifndef TFB_SELF
#define TFB_SELF "tfblocks.h"
#endif

#include <float.h>
#include <limits.h>
#include <string.h>
#ifndef TFB_NO_STDLIB
#include <stdlib.h>
#endif
#ifdef TFB_PTHREADS
#include <pthread.h>
#endif
#ifdef TFB_USE_CBLAS
#ifndef TFB_CBLAS_HEADER
#define TFB_CBLAS_HEADER <cblas.h>
#endif
#include TFB_CBLAS_HEADER
#endif
#if TFB__X86
#include <immintrin.h> /* outside every target region and outside extern "C" */
#include <cpuid.h>
#endif
#if TFB__NEON
#include <arm_neon.h>
#endif
#if TFB__SVE
#include <arm_sve.h>
#endif
#if TFB__RVV
#include <riscv_vector.h>
#endif
#if (TFB__SVE || TFB__RVV) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if TFB__WASM
#include <wasm_simd128.h>
#endif
#if TFB__HELIUM
#include <arm_mve.h>
#endif

/* Test programs are many and tables slow to compile: with TFB__TABLES 1 an object offers
 * its tables, with 2 it takes those of such an object. */
#ifndef TFB__TABLES
#define TFB__TABLES 0
#endif

/* Helpers of what is left out are unused; compilers drop them. gcc 12 forgets this where
 * macros begin and end regions of other warnings, so that section 12 says it again. */
#if TFB__GNU && (TFB__SMALL || TFB__PARTIAL || TFB__TABLES == 2)
#define TFB__LEFTOVERS _Pragma("GCC diagnostic ignored \"-Wunused-function\"")
#else
#define TFB__LEFTOVERS
#endif
TFB__LEFTOVERS

/* No contraction anywhere: a fused operation is one that the source names. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif TFB__GNU
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#if defined(__s390__) && defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ == 1
#pragma GCC optimize("excess-precision=fast") /* -std=c99 computes in double there */
#define TFB__EVAL_METHOD 0
#endif
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif

#ifdef __cplusplus
extern "C" {
#endif

#if defined(FLT_EVAL_METHOD) && !defined(TFB__EVAL_METHOD)
#define TFB__EVAL_METHOD FLT_EVAL_METHOD
#elif !defined(TFB__EVAL_METHOD)
#define TFB__EVAL_METHOD 0
#endif
#define TFB__CAT2(a, b) a##b
#define TFB__CAT(a, b)  TFB__CAT2(a, b)
#define TFB__FLT_INF    tfb__float_of(0x7F800000u)
#define TFB__MIN(a, b)  ((a) < (b) ? (a) : (b))
#define TFB__MAX(a, b)  ((a) > (b) ? (a) : (b))

TFB__INLINE uint32_t tfb__bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

TFB__INLINE float tfb__float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

/* fma(a, b, c) from double arithmetic: the product is exact, the sum is rounded to odd
 * (TwoSum gives its error), so the last rounding to float sees what it must.
 * Source: Boldo & Melquiond 2008. */
static TFB__NOINLINE float tfb__fma_soft(float a, float b, float c) {
    double p = (double)a * (double)b, s = p + (double)c;
    double t = s - p, e = (p - (s - t)) + ((double)c - t);
    uint64_t u;
    memcpy(&u, &s, 8);
    if ((u >> 52 & 0x7FF) == 0x7FF) return (float)s;
    if (!(e < 0 || e > 0) || (u & 1)) return (float)s;
    u = (e > 0) == (s > 0) ? u + 1 : u - 1;
    memcpy(&s, &u, 8);
    return (float)s;
}

/* Correctly rounded square root, digit by digit, for compilers without an instruction. */
static TFB__NOINLINE float tfb__sqrt_soft(float x) {
    uint32_t u = tfb__bits_of(x), root = 0, bit;
    uint64_t rest, square = 0;
    int e = (int)(u >> 23) - 127;
    if (!(x > 0) || u >= 0x7F800000u)
        return x < 0 ? x * TFB__FLT_INF - x * TFB__FLT_INF : x;
    u &= 0x7FFFFF;
    if (e > -127) u |= 0x800000;
    else
        for (e = -126; u < 0x800000; e--) u <<= 1;
    rest = (uint64_t)u << (e & 1 ? 26 : 25); /* a root of 25 bits, the last to round */
    for (bit = 1u << 24; bit; bit >>= 1) {
        uint64_t next = square + ((uint64_t)root << 1) * bit + (uint64_t)bit * bit;
        if (next <= rest) {
            square = next;
            root += bit;
        }
    }
    root = (root + 1) >> 1; /* no ties: a 25-bit root squared is never exact here */
    return tfb__float_of(root + ((uint32_t)((e & 1 ? e - 1 : e) / 2 + 126) << 23));
}

/* TFB__FMA in base code: an instruction where the whole build has one. TFB__UNFUSED is
 * for tests: all base code then does what tables without fma do. */
#ifdef TFB__UNFUSED
#define TFB__FMA(a, b, c) ((a) * (b) + (c))
#elif TFB__GNU && defined(__FP_FAST_FMAF) && !defined(TFB_SOFT_FMA)
#define TFB__FMA(a, b, c) __builtin_fmaf(a, b, c)
#else
#define TFB__FMA(a, b, c) tfb__fma_soft(a, b, c)
#endif
#if TFB__X86 && defined(__SSE2__)
#define TFB__SQRT(x) _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)))
#elif TFB__NEON && defined(__aarch64__)
#define TFB__SQRT(x) vget_lane_f32(vsqrt_f32(vdup_n_f32(x)), 0)
#elif TFB__WASM
#define TFB__SQRT(x) __builtin_sqrtf(x)
#elif TFB__GNU && defined(__arm__) && defined(__ARM_FP) && (__ARM_FP & 4)
TFB__INLINE float tfb__sqrt_arm(float x) { /* the builtin would call sqrtf for errno */
    __asm__("vsqrt.f32 %0, %1" : "=t"(x) : "t"(x));
    return x;
}
#define TFB__SQRT(x) tfb__sqrt_arm(x)
#else
#define TFB__SQRT(x) tfb__sqrt_soft(x)
#endif

/* ===== [6] BASICS =================================================================== */
/* Status text, messages, checks, scratch, tensors. */

TFB_API const char *tfb_status_text(tfb_status status) {
    switch (status) {
#define TFB__STATUS_CASE(name, value, text)                                              \
    case name: return text;
        TFB_STATUS_LIST(TFB__STATUS_CASE)
    }
    return "unknown status";
}

#define TFB__TRY(call)                                                                   \
    do {                                                                                 \
        tfb_status tfb__st = (call);                                                     \
        if (tfb__st != TFB_OK) return tfb__st;                                           \
    } while (0)
#define TFB__REQUIRE(cond, ctx, code, ...)                                               \
    do {                                                                                 \
        if (!(cond) && TFB__CHECKED(code)) return tfb__fail(ctx, code, __VA_ARGS__);     \
    } while (0)
/* What TFB_NO_CHECKS still finds: lack of memory, and what depends on data. */
#define TFB__CHECKED(code)                                                               \
    (TFB__HAS(CHECKS) || ((code) != TFB_ERR_ARG && (code) != TFB_ERR_SHAPE &&            \
                          (code) != TFB_ERR_DTYPE && (code) != TFB_ERR_ALIAS))
/* Every public call starts with this: without a context there is nowhere to report to. */
#define TFB__ENTER(ctx)                                                                  \
    do {                                                                                 \
        if (!(ctx)) return TFB_ERR_ARG;                                                  \
        (ctx)->message[0] = 0;                                                           \
        if ((ctx)->depth == 0) (ctx)->scratch_last = 0;                                  \
    } while (0)

#ifdef TFB_NO_MESSAGES
/* Never called, so that no text stays in the program; still counts as a use. */
TFB__UNUSED static int tfb__ignore(const tfb_ctx *ctx, const char *format, ...) {
    return ctx && format;
}
#define tfb__fail(ctx, code, ...) (0 && tfb__ignore(ctx, __VA_ARGS__) ? TFB_OK : (code))
#else
#include <stdarg.h>

static void tfb__put(tfb_ctx *ctx, size_t *at, const char *text) {
    while (*text && *at + 1 < TFB_MESSAGE_BYTES) ctx->message[(*at)++] = *text++;
    ctx->message[*at] = 0;
}

/* Writes ctx->message and returns code. Knows %s and %d (a tfb_idx); printf would cost a
 * firmware more flash than the rest of the library. */
static tfb_status tfb__fail(tfb_ctx *ctx, tfb_status code, const char *format, ...) {
    size_t at = 0;
    va_list args;
    va_start(args, format);
    for (; *format; format++) {
        char text[24], *p = text + sizeof text - 1;
        if (format[0] != '%') {
            text[0] = *format;
            text[1] = 0;
            tfb__put(ctx, &at, text);
        } else if (*++format == 's') {
            tfb__put(ctx, &at, va_arg(args, const char *));
        } else {
            tfb_idx value = va_arg(args, tfb_idx);
            size_t rest = value < 0 ? 0 - (size_t)value : (size_t)value;
            *p = 0;
            do *--p = (char)('0' + rest % 10);
            while (rest /= 10);
            if (value < 0) *--p = '-';
            tfb__put(ctx, &at, p);
        }
    }
    va_end(args);
    return code;
}
#endif

/* --- Sizes: saturating, so that one test at the end finds any overflow. --- */
TFB__INLINE size_t tfb__size_mul(size_t a, size_t b) {
    return b && a > (size_t)-1 / b ? (size_t)-1 : a * b;
}

TFB__INLINE size_t tfb__size_add(size_t a, size_t b) {
    return a > (size_t)-1 - b ? (size_t)-1 : a + b;
}

TFB__INLINE size_t tfb__round64(size_t bytes) {
    return tfb__size_add(bytes, 63) == (size_t)-1 ? (size_t)-1 : (bytes + 63) / 64 * 64;
}

/* --- Contexts. --- */
static const struct tfb__kernels *tfb__isa_best(uint32_t cpu);
static uint32_t tfb__cpu_detect(void);

static void tfb__ctx_clear(tfb_ctx *ctx) {
    memset((void *)ctx, 0, sizeof *ctx);
    ctx->cpu = tfb__cpu_detect();
    ctx->isa = tfb__isa_best(ctx->cpu);
}

#ifndef TFB_NO_STDLIB
static void *tfb__realloc(void *user, void *ptr, size_t bytes) {
    (void)user;
    if (bytes) return realloc(ptr, bytes);
    free(ptr);
    return NULL;
}
#endif

TFB_API tfb_status tfb_ctx_init(tfb_ctx *ctx) {
    if (!ctx) return TFB_ERR_ARG;
    tfb__ctx_clear(ctx);
#ifdef TFB_NO_STDLIB
    return tfb__fail(ctx, TFB_ERR_UNSUPPORTED, "tfb_ctx_init: TFB_NO_STDLIB, set alloc");
#else
    ctx->alloc = tfb__realloc;
    return TFB_OK;
#endif
}

TFB_API tfb_status tfb_ctx_init_static(tfb_ctx *ctx, void *mem, size_t mem_bytes) {
    if (!ctx) return TFB_ERR_ARG;
    tfb__ctx_clear(ctx);
    TFB__REQUIRE(mem || !mem_bytes, ctx, TFB_ERR_ARG, "tfb_ctx_init_static: mem is NULL");
    TFB__REQUIRE((uintptr_t)mem % 8 == 0, ctx, TFB_ERR_ARG,
                 "tfb_ctx_init_static: mem is not aligned to 8");
    ctx->mem = (char *)mem;
    ctx->mem_bytes = mem_bytes;
    return TFB_OK;
}

TFB_API tfb_status tfb_ctx_init_measure(tfb_ctx *ctx) {
    if (!ctx) return TFB_ERR_ARG;
    tfb__ctx_clear(ctx);
    ctx->measuring = 1;
    return TFB_OK;
}

/* --- Scratch: a stack. A growing context keeps a list of blocks, so that memory in use
 * never moves, and merges them when the outermost call returns. --- */
typedef struct tfb__block {
    struct tfb__block *next;
    size_t bytes, used;
    char *data;
} tfb__block;

typedef struct tfb__mark {
    tfb__block *block;
    size_t block_used, used;
} tfb__mark;

static tfb__block *tfb__block_new(tfb_ctx *ctx, size_t bytes) {
    size_t all = tfb__size_add(bytes, sizeof(tfb__block) + 64);
    tfb__block *b;
    if (!ctx->alloc || all == (size_t)-1) return NULL;
    b = (tfb__block *)ctx->alloc(ctx->alloc_user, NULL, all);
    if (!b) return NULL;
    b->next = ctx->block;
    b->bytes = bytes;
    b->used = 0;
    b->data = (char *)(b + 1);
    b->data += (64 - (uintptr_t)b->data % 64) % 64;
    return ctx->block = b;
}

static void tfb__block_pop(tfb_ctx *ctx) {
    tfb__block *b = ctx->block;
    ctx->block = b->next;
    ctx->alloc(ctx->alloc_user, b, 0);
}

static tfb__mark tfb__scratch_begin(tfb_ctx *ctx) {
    tfb__mark mark;
    if (ctx->depth++ == 0) ctx->scratch_last = ctx->used;
    mark.block = TFB__OPT(ALLOC, ctx->block);
    mark.block_used = mark.block ? mark.block->used : 0;
    mark.used = ctx->used;
    ctx->failed = 0;
    return mark;
}

/* Takes count * bytes of scratch. Failure is remembered, so that the whole call's need
 * is known by the time tfb__scratch_ready reports it. Measuring returns NULL, and so does
 * taking nothing. */
static void *tfb__take(tfb_ctx *ctx, tfb_idx count, size_t bytes) {
    size_t need = tfb__round64(tfb__size_mul((size_t)count, bytes)), at = ctx->used;
    tfb__block *b = ctx->block;
    ctx->used = tfb__size_add(at, need);
    if (ctx->used > ctx->scratch_last) ctx->scratch_last = ctx->used;
    if (!need || ctx->measuring || ctx->failed) return NULL;
    if (TFB__HAS(ALLOC) && ctx->used >= (size_t)-1 / 2) {
        ctx->failed = 1;
        return NULL;
    }
    if (!TFB__OPT(ALLOC, ctx->alloc)) {
        if (ctx->used <= ctx->mem_bytes) return ctx->mem + at;
        ctx->failed = 1;
        return NULL;
    }
    if (!b || b->bytes - b->used < need) b = tfb__block_new(ctx, need);
    if (!b) {
        ctx->failed = 1;
        return NULL;
    }
    b->used += need;
    return b->data + b->used - need;
}

/* After the last take of a call: TFB_OK, or why there is not enough memory. */
static tfb_status tfb__scratch_ready(tfb_ctx *ctx, const char *fn) {
    if (ctx->scratch_last > ctx->scratch_peak && ctx->scratch_last < (size_t)-1 / 2)
        ctx->scratch_peak = ctx->scratch_last;
    TFB__REQUIRE(ctx->scratch_last < (size_t)-1 / 2, ctx, TFB_ERR_RANGE,
                 "%s: the scratch it needs overflows", fn);
    if (!ctx->failed) return TFB_OK;
    TFB__REQUIRE(!TFB__OPT(ALLOC, ctx->alloc), ctx, TFB_ERR_MEMORY,
                 "%s: %d bytes of scratch are not to be had", fn,
                 (tfb_idx)ctx->scratch_last);
    return tfb__fail(ctx, TFB_ERR_SCRATCH, "%s: scratch is %d bytes, needs %d", fn,
                     (tfb_idx)ctx->mem_bytes, (tfb_idx)ctx->scratch_last);
}

/* One block for all that calls inside are going to take; 0: it is not to be had. */
static int tfb__scratch_reserve(tfb_ctx *ctx, size_t need) {
    const tfb__block *b = ctx->block;
    if (b ? b->bytes - b->used >= need : need == 0) return 1;
    return tfb__block_new(ctx, need) != NULL;
}

/* Gives back what was taken since mark. The outermost call keeps one block, large enough
 * for the next call of the same shapes. */
static tfb_status tfb__scratch_end(tfb_ctx *ctx, tfb__mark mark, tfb_status status) {
    int outermost = --ctx->depth == 0;
    ctx->used = mark.used;
    ctx->failed = 0;
    if (ctx->measuring || !TFB__OPT(ALLOC, ctx->alloc)) return status;
    if (!outermost || status != TFB_OK) {
        while (ctx->block != mark.block) tfb__block_pop(ctx);
        if (ctx->block) ctx->block->used = mark.block_used;
        return status;
    }
    if (ctx->block && (ctx->block->next || ctx->block->bytes < ctx->scratch_last)) {
        while (ctx->block) tfb__block_pop(ctx);
        tfb__block_new(ctx, ctx->scratch_last);
    }
    if (ctx->block) ctx->block->used = 0;
    return status;
}

TFB_API void tfb_ctx_free(tfb_ctx *ctx) {
    if (!ctx) return;
    tfb_ctx_threads(ctx, 1, 0);
    while (ctx->block) tfb__block_pop(ctx);
    memset((void *)ctx, 0, sizeof *ctx);
}

/* --- Threads: the pool hands out indices under a lock; pieces are large. --- */
#define TFB__POOL_MAX 256

#ifdef TFB_PTHREADS
typedef struct tfb__pool {
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    tfb_body_fn body;
    void *arg;
    tfb_idx next, n;
    int threads, joined, busy, stop, spin;
    unsigned round; /* grows with every job; idle workers wait for it to change */
    pthread_t thread[TFB__POOL_MAX];
} tfb__pool;

typedef struct tfb__pool_start {
    tfb__pool *pool;
    int worker;
} tfb__pool_start;

static void tfb__pool_work(tfb__pool *p, int worker) { /* called and left locked */
    while (p->next < p->n) {
        tfb_idx i = p->next++;
        pthread_mutex_unlock(&p->lock);
        p->body(p->arg, i, worker);
        pthread_mutex_lock(&p->lock);
    }
}

static void *tfb__pool_main(void *arg) {
    tfb__pool *p = (tfb__pool *)arg;
    unsigned seen = 0;
    int worker;
    pthread_mutex_lock(&p->lock);
    worker = ++p->joined;
    pthread_cond_signal(&p->done);
    while (!p->stop) {
        if (p->round == seen) {
            int i = p->spin;
            pthread_mutex_unlock(&p->lock);
            while (i > 0 && TFB__ATOMIC_GET(&p->round) == seen) i--;
            pthread_mutex_lock(&p->lock);
        }
        while (p->round == seen && !p->stop) pthread_cond_wait(&p->wake, &p->lock);
        seen = p->round;
        if (p->next < p->n) {
            TFB__ATOMIC_SET(&p->busy, p->busy + 1);
            tfb__pool_work(p, worker);
            TFB__ATOMIC_SET(&p->busy, p->busy - 1);
            if (p->busy == 0) pthread_cond_signal(&p->done);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* A call from inside a body finds the pool busy and runs serially. */
static void tfb__pool_run(void *user, tfb_idx n, tfb_body_fn body, void *arg) {
    tfb__pool *p = (tfb__pool *)user;
    pthread_mutex_lock(&p->lock);
    if (p->busy || n == 1) {
        tfb_idx i;
        pthread_mutex_unlock(&p->lock);
        for (i = 0; i < n; i++) body(arg, i, 0);
        return;
    }
    p->body = body;
    p->arg = arg;
    p->next = 0;
    p->n = n;
    TFB__ATOMIC_SET(&p->busy, 1);
    TFB__ATOMIC_SET(&p->round, p->round + 1);
    pthread_cond_broadcast(&p->wake);
    tfb__pool_work(p, 0);
    TFB__ATOMIC_SET(&p->busy, p->busy - 1);
    if (p->busy) { /* sleeping costs more than the others' last pieces, mostly */
        int i = p->spin;
        pthread_mutex_unlock(&p->lock);
        while (i > 0 && TFB__ATOMIC_GET(&p->busy)) i--;
        pthread_mutex_lock(&p->lock);
    }
    while (p->busy) pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

static void tfb__pool_end(tfb_ctx *ctx, tfb__pool *p) {
    int i;
    pthread_mutex_lock(&p->lock);
    p->stop = 1;
    TFB__ATOMIC_SET(&p->round, p->round + 1);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (i = 0; i < p->threads; i++) pthread_join(p->thread[i], NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    pthread_cond_destroy(&p->done);
    ctx->alloc(ctx->alloc_user, p, 0);
}

static tfb__pool *tfb__pool_begin(tfb_ctx *ctx, int n, int spin) {
    tfb__pool *p = NULL;
    if (ctx->alloc) p = (tfb__pool *)ctx->alloc(ctx->alloc_user, NULL, sizeof *p);
    if (!p) return NULL;
    memset((void *)p, 0, sizeof *p);
    p->spin = spin;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    while (p->threads < n - 1) {
        if (pthread_create(&p->thread[p->threads], NULL, tfb__pool_main, p)) {
            tfb__pool_end(ctx, p);
            return NULL;
        }
        p->threads++;
    }
    pthread_mutex_lock(&p->lock);
    while (p->joined < p->threads) pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
    return p;
}

static tfb_status tfb__pool_set(tfb_ctx *ctx, int n, int spin) {
    tfb__pool *p = NULL;
    if (n > 1 && !ctx->measuring) {
        p = tfb__pool_begin(ctx, n, spin);
        TFB__REQUIRE(p, ctx, TFB_ERR_MEMORY, "tfb_ctx_threads: no memory or no threads");
    }
    if (ctx->pool) tfb__pool_end(ctx, ctx->pool);
    else if (n == 1 && !ctx->measuring) return TFB_OK; /* a caller's own stays */
    ctx->pool = p;
    ctx->parallel_for = p ? tfb__pool_run : NULL;
    ctx->parallel_user = p;
    ctx->workers = n;
    return TFB_OK;
}
#else
static tfb_status tfb__pool_set(tfb_ctx *ctx, int n, int spin) {
    (void)spin;
    TFB__REQUIRE(n == 1, ctx, TFB_ERR_UNSUPPORTED,
                 "tfb_ctx_threads: built without TFB_PTHREADS");
    return TFB_OK;
}
#endif

TFB_API tfb_status tfb_ctx_threads(tfb_ctx *ctx, int n, int spin) {
    TFB__ENTER(ctx);
    TFB__REQUIRE(n >= 1 && n <= TFB__POOL_MAX, ctx, TFB_ERR_ARG,
                 "tfb_ctx_threads: n is %d, must be 1 to %d", (tfb_idx)n,
                 (tfb_idx)TFB__POOL_MAX);
    TFB__REQUIRE(spin >= 0, ctx, TFB_ERR_ARG, "tfb_ctx_threads: spin is %d, must be >= 0",
                 (tfb_idx)spin);
    return tfb__pool_set(ctx, n, spin);
}

static int tfb__workers(const tfb_ctx *ctx) {
    return TFB__OPT(WORKERS, ctx->workers) > 1 ? ctx->workers : 1;
}

static void tfb__parallel(tfb_ctx *ctx, tfb_idx n, tfb_body_fn body, void *arg) {
    tfb_idx i;
    if (tfb__workers(ctx) > 1 && ctx->parallel_for && n > 1)
        ctx->parallel_for(ctx->parallel_user, n, body, arg);
    else
        for (i = 0; i < n; i++) body(arg, i, 0);
}

/* --- Tensors. --- */
#define TFB__MASK(dtype) (1 << (int)(dtype))
#define TFB__HALVES      (TFB__MASK(TFB_F16) | TFB__MASK(TFB_BF16))
#define TFB__FLOATS      (TFB__MASK(TFB_F32) | TFB__HALVES)
#define TFB__PACKS                                                                       \
    (TFB__MASK(TFB_PACKED_F32) | TFB__MASK(TFB_PACKED_F16) | TFB__MASK(TFB_PACKED_BF16))
#define TFB__ANY_DTYPE (TFB__FLOATS | TFB__MASK(TFB_I32) | TFB__MASK(TFB_U8))

TFB_API size_t tfb_dtype_size(tfb_dtype dtype) {
    switch (dtype) {
#define TFB__DTYPE_SIZE(name, bytes, text)                                               \
    case name: return bytes;
        TFB_DTYPE_LIST(TFB__DTYPE_SIZE)
    case TFB__DTYPES: break;
    }
    return 0;
}

TFB__UNUSED static const char *tfb__dtype_text(tfb_dtype dtype) { /* a legal one */
#define TFB__DTYPE_TEXT(name, bytes, text) text,
    static const char texts[][12] = {TFB_DTYPE_LIST(TFB__DTYPE_TEXT)};
    return texts[dtype];
}

/* Sizes that overflow wrap here without harm: tfb__check_layout finds them. */
static void tfb__dense_strides(tfb_tensor *t) {
    tfb_idx stride = 1;
    int i;
    for (i = t->ndim - 1; i >= 0; i--) {
        t->stride[i] = stride;
        stride = (tfb_idx)((size_t)stride * (size_t)TFB__MAX(t->shape[i], 1));
    }
}

TFB__READS_NOTHING static tfb_tensor tfb__view(const void *data, tfb_dtype dtype,
                                               int ndim, const tfb_idx *shape) {
    tfb_tensor t;
    int i;
    memset((void *)&t, 0, sizeof t);
    t.data = (void *)(uintptr_t)data; /* the only cast from const: inputs stay as is */
    t.dtype = dtype;
    t.ndim = ndim;
    for (i = 0; i < ndim; i++) t.shape[i] = shape[i];
    tfb__dense_strides(&t);
    return t;
}

TFB_API tfb_tensor tfb_view1(const void *data, tfb_dtype dtype, tfb_idx n0) {
    return tfb__view(data, dtype, 1, &n0);
}

TFB_API tfb_tensor tfb_view2(const void *data, tfb_dtype dtype, tfb_idx n0, tfb_idx n1) {
    tfb_idx shape[2];
    shape[0] = n0;
    shape[1] = n1;
    return tfb__view(data, dtype, 2, shape);
}

TFB_API tfb_tensor tfb_view3(const void *data, tfb_dtype dtype, tfb_idx n0, tfb_idx n1,
                             tfb_idx n2) {
    tfb_idx shape[3];
    shape[0] = n0;
    shape[1] = n1;
    shape[2] = n2;
    return tfb__view(data, dtype, 3, shape);
}

TFB_API tfb_tensor tfb_view4(const void *data, tfb_dtype dtype, tfb_idx n0, tfb_idx n1,
                             tfb_idx n2, tfb_idx n3) {
    tfb_idx shape[4];
    shape[0] = n0;
    shape[1] = n1;
    shape[2] = n2;
    shape[3] = n3;
    return tfb__view(data, dtype, 4, shape);
}

TFB_API tfb_idx tfb_numel(const tfb_tensor *t) {
    tfb_idx n = 1;
    int i;
    for (i = 0; i < t->ndim; i++) n = (tfb_idx)((size_t)n * (size_t)t->shape[i]);
    return n;
}

/* A call is shorter than fifteen words moved one by one. */
static TFB__NOINLINE void tfb__assign(tfb_tensor *to, const tfb_tensor *from) {
    *to = *from;
}

TFB__INLINE size_t tfb__stride_abs(tfb_idx s) {
    return s < 0 ? 0 - (size_t)s : (size_t)s;
}

/* One tensor alone: pointer, rank, extents, dtype, size, alignment of its data. */
static tfb_status tfb__check_layout(tfb_ctx *ctx, const char *fn, const char *name,
                                    const tfb_tensor *t) {
    size_t bytes, elements = 1, reach = 0;
    int i;
    if (!TFB__HAS(CHECKS)) return TFB_OK;
    TFB__REQUIRE(t, ctx, TFB_ERR_ARG, "%s: %s is NULL", fn, name);
    TFB__REQUIRE(t->ndim >= 0 && t->ndim <= TFB_MAX_DIMS, ctx, TFB_ERR_SHAPE,
                 "%s: %s.ndim is %d, must be 0 to %d", fn, name, (tfb_idx)t->ndim,
                 (tfb_idx)TFB_MAX_DIMS);
    bytes = tfb_dtype_size(t->dtype);
    TFB__REQUIRE(bytes, ctx, TFB_ERR_DTYPE, "%s: %s.dtype is %d, which is none", fn, name,
                 (tfb_idx)t->dtype);
    TFB__REQUIRE(TFB__HAS(HALF) || !(TFB__MASK(t->dtype) & TFB__HALVES), ctx,
                 TFB_ERR_UNSUPPORTED, "%s: %s is %s, left out by TFB_NO_HALF", fn, name,
                 tfb__dtype_text(t->dtype));
    for (i = 0; i < t->ndim; i++) {
        TFB__REQUIRE(t->shape[i] >= 0, ctx, TFB_ERR_SHAPE, "%s: %s.shape[%d] is %d", fn,
                     name, (tfb_idx)i, t->shape[i]);
        elements = tfb__size_mul(elements, (size_t)t->shape[i]);
        /* once at least: the stride of an only element is multiplied by the dtype too */
        reach = tfb__size_add(reach, tfb__size_mul(tfb__stride_abs(t->stride[i]),
                                                   (size_t)TFB__MAX(t->shape[i], 2) - 1));
    }
    if (elements == 0) return TFB_OK;
    TFB__REQUIRE(tfb__size_mul(elements, bytes) < (size_t)-1 / 2 &&
                     tfb__size_mul(tfb__size_add(reach, 1), bytes) < (size_t)-1 / 2,
                 ctx, TFB_ERR_RANGE, "%s: the size of %s overflows", fn, name);
    if (ctx->measuring) return TFB_OK;
    TFB__REQUIRE(t->data, ctx, TFB_ERR_ARG, "%s: %s.data is NULL", fn, name);
    TFB__REQUIRE((uintptr_t)t->data % bytes == 0, ctx, TFB_ERR_ARG,
                 "%s: %s.data is not aligned to its dtype", fn, name);
    return TFB_OK;
}

/* Layout, dtype (a mask of those allowed) and rank. */
static tfb_status tfb__check(tfb_ctx *ctx, const char *fn, const char *name,
                             const tfb_tensor *t, int dtypes, int min_dims,
                             int max_dims) {
    TFB__TRY(tfb__check_layout(ctx, fn, name, t));
    TFB__REQUIRE(dtypes & TFB__MASK(t->dtype), ctx, TFB_ERR_DTYPE,
                 "%s: %s is %s, which it does not take", fn, name,
                 tfb__dtype_text(t->dtype));
    TFB__REQUIRE(t->ndim >= min_dims && t->ndim <= max_dims, ctx, TFB_ERR_SHAPE,
                 "%s: %s.ndim is %d, needs %d to %d", fn, name, (tfb_idx)t->ndim,
                 (tfb_idx)min_dims, (tfb_idx)max_dims);
    return TFB_OK;
}

static tfb_status tfb__check_extent(tfb_ctx *ctx, const char *fn, const char *name,
                                    const tfb_tensor *t, int dim, tfb_idx need) {
    TFB__REQUIRE(t->shape[dim] == need, ctx, TFB_ERR_SHAPE,
                 "%s: %s.shape[%d] is %d, needs %d", fn, name, (tfb_idx)dim,
                 t->shape[dim], need);
    return TFB_OK;
}

/* The first n extents of t must be those of like. */
static tfb_status tfb__check_like(tfb_ctx *ctx, const char *fn, const char *name,
                                  const tfb_tensor *t, const tfb_tensor *like, int n) {
    int i;
    for (i = 0; i < n; i++)
        TFB__TRY(tfb__check_extent(ctx, fn, name, t, i, like->shape[i]));
    return TFB_OK;
}

/* A vector of n, if it is there. */
static tfb_status tfb__check_vector(tfb_ctx *ctx, const char *fn, const char *name,
                                    const tfb_tensor *t, int dtypes, tfb_idx n) {
    if (!t) return TFB_OK;
    TFB__TRY(tfb__check(ctx, fn, name, t, dtypes, 1, 1));
    return tfb__check_extent(ctx, fn, name, t, 0, n);
}

/* The bytes a tensor spans: [lo, hi), equal when it is empty. With modulus > 0 only
 * dimensions whose stride is no multiple of it count: the place in a row that long. */
static void tfb__span(const tfb_tensor *t, size_t modulus, uintptr_t *lo, uintptr_t *hi) {
    size_t bytes = tfb_dtype_size(t->dtype);
    int i;
    *lo = *hi = (uintptr_t)t->data;
    if (tfb_numel(t) == 0 || !t->data) return;
    for (i = 0; i < t->ndim; i++) {
        size_t pitch = tfb__stride_abs(t->stride[i]) * bytes;
        if (modulus && pitch % modulus == 0) continue;
        if (t->stride[i] < 0) *lo -= pitch * (size_t)(t->shape[i] - 1);
        else *hi += pitch * (size_t)(t->shape[i] - 1);
    }
    *hi += bytes;
}

/* May the two share a byte? Exact for whole buffers and for column slices of one buffer
 * (all rows have a common pitch and the columns do not meet); otherwise says yes. */
static int tfb__overlap(const tfb_tensor *a, const tfb_tensor *b) {
    uintptr_t alo, ahi, blo, bhi;
    int i;
    tfb__span(a, 0, &alo, &ahi);
    tfb__span(b, 0, &blo, &bhi);
    if (alo == ahi || blo == bhi || ahi <= blo || bhi <= alo) return 0;
    for (i = 0; i < a->ndim; i++) {
        size_t pitch = tfb__stride_abs(a->stride[i]) * tfb_dtype_size(a->dtype), gap;
        if (a->shape[i] < 2 || !pitch) continue;
        tfb__span(a, pitch, &alo, &ahi);
        tfb__span(b, pitch, &blo, &bhi);
        gap = (size_t)(blo - alo) % pitch;
        if (blo < alo) gap = (pitch - (size_t)(alo - blo) % pitch) % pitch;
        if (gap >= (size_t)(ahi - alo) && gap + (size_t)(bhi - blo) <= pitch) return 0;
    }
    return 1;
}

static int tfb__same_view(const tfb_tensor *a, const tfb_tensor *b) {
    int i, same = a->data == b->data && a->ndim == b->ndim && a->dtype == b->dtype;
    for (i = 0; same && i < a->ndim; i++)
        same = a->shape[i] == b->shape[i] &&
               (a->stride[i] == b->stride[i] || a->shape[i] < 2);
    return same;
}

/* An output must not overlap x; may_equal allows the very same view. x may be NULL. */
static tfb_status tfb__check_alias(tfb_ctx *ctx, const char *fn, const char *name,
                                   const tfb_tensor *y, const char *other,
                                   const tfb_tensor *x, int may_equal) {
    if (!TFB__HAS(CHECKS) || !x || !y) return TFB_OK;
    if (ctx->measuring || (may_equal && tfb__same_view(x, y))) return TFB_OK;
    TFB__REQUIRE(!tfb__overlap(y, x), ctx, TFB_ERR_ALIAS, "%s: %s overlaps %s", fn, name,
                 other);
    return TFB_OK;
}

/* An output must not write one place twice: each stride clears what lies inside it. */
static tfb_status tfb__check_out(tfb_ctx *ctx, const char *fn, const char *name,
                                 const tfb_tensor *t) {
    int used[TFB_MAX_DIMS] = TFB_INIT, i, pass;
    size_t inner = 0;
    if (!TFB__HAS(CHECKS) || tfb_numel(t) == 0) return TFB_OK;
    for (pass = 0; pass < t->ndim; pass++) {
        int best = -1;
        for (i = 0; i < t->ndim; i++)
            if (!used[i] && (best < 0 || tfb__stride_abs(t->stride[i]) <
                                             tfb__stride_abs(t->stride[best])))
                if (t->shape[i] > 1) best = i;
        if (best < 0) break;
        used[best] = 1;
        TFB__REQUIRE(tfb__stride_abs(t->stride[best]) > inner, ctx, TFB_ERR_SHAPE,
                     "%s: %s.stride[%d] is %d: elements would overlap", fn, name,
                     (tfb_idx)best, t->stride[best]);
        inner += tfb__stride_abs(t->stride[best]) * (size_t)(t->shape[best] - 1);
    }
    return TFB_OK;
}

/* x as a view of like's shape: extents of 1 and missing dimensions get stride 0. */
static tfb_status tfb__broadcast(tfb_ctx *ctx, const char *fn, const char *name,
                                 const tfb_tensor *x, const tfb_tensor *like,
                                 tfb_tensor *out) {
    int i, lead = like->ndim - x->ndim;
    tfb_tensor t = *like;
    TFB__REQUIRE(lead >= 0, ctx, TFB_ERR_SHAPE, "%s: %s.ndim is %d, y has %d", fn, name,
                 (tfb_idx)x->ndim, (tfb_idx)like->ndim);
    t.data = x->data;
    t.dtype = x->dtype;
    for (i = 0; i < t.ndim; i++) {
        tfb_idx have = i < lead ? 1 : x->shape[i - lead];
        TFB__REQUIRE(have == t.shape[i] || have == 1, ctx, TFB_ERR_SHAPE,
                     "%s: %s.shape[%d] is %d, needs %d", fn, name, (tfb_idx)(i - lead),
                     have, t.shape[i]);
        t.stride[i] = have == 1 ? 0 : x->stride[i - lead];
    }
    *out = t;
    return TFB_OK;
}

/* Where element number i (row-major over the first n dimensions) starts. */
static tfb_idx tfb__offset(const tfb_tensor *t, int n, tfb_idx i) {
    tfb_idx at = 0;
    while (n-- > 0) {
        at += i % t->shape[n] * t->stride[n];
        i /= t->shape[n];
    }
    return at;
}

TFB_API tfb_status tfb_slice(tfb_ctx *ctx, const tfb_tensor *t, int dim, tfb_idx start,
                             tfb_idx length, tfb_tensor *out) {
    tfb_tensor view;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__check(ctx, "tfb_slice", "t", t, TFB__ANY_DTYPE, 0, TFB_MAX_DIMS));
    TFB__REQUIRE(out, ctx, TFB_ERR_ARG, "tfb_slice: out is NULL");
    TFB__REQUIRE(dim >= -t->ndim && dim < t->ndim, ctx, TFB_ERR_ARG,
                 "tfb_slice: dim is %d, t.ndim is %d", (tfb_idx)dim, (tfb_idx)t->ndim);
    if (dim < 0) dim += t->ndim;
    TFB__REQUIRE(start >= 0 && length >= 0 && start <= t->shape[dim] &&
                     length <= t->shape[dim] - start,
                 ctx, TFB_ERR_RANGE, "tfb_slice: start %d, length %d, t.shape[%d] is %d",
                 start, length, (tfb_idx)dim, t->shape[dim]);
    view = *t;
    view.shape[dim] = length;
    if (view.data && tfb_numel(&view) > 0)
        view.data =
            (char *)t->data + start * t->stride[dim] * (tfb_idx)tfb_dtype_size(t->dtype);
    *out = view;
    return TFB_OK;
}

TFB_API tfb_status tfb_permute(tfb_ctx *ctx, const tfb_tensor *t, const int *order,
                               tfb_tensor *out) {
    tfb_tensor view;
    int i, seen = 0;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__check(ctx, "tfb_permute", "t", t, TFB__ANY_DTYPE, 0, TFB_MAX_DIMS));
    TFB__REQUIRE(order && out, ctx, TFB_ERR_ARG, "tfb_permute: %s is NULL",
                 order ? "out" : "order");
    view = *t;
    for (i = 0; i < t->ndim; i++) {
        int from = order[i] < 0 ? order[i] + t->ndim : order[i];
        TFB__REQUIRE(from >= 0 && from < t->ndim && !(seen >> from & 1), ctx, TFB_ERR_ARG,
                     "tfb_permute: order[%d] is %d, must name each of %d dimensions once",
                     (tfb_idx)i, (tfb_idx)order[i], (tfb_idx)t->ndim);
        seen |= 1 << from;
        view.shape[i] = t->shape[from];
        view.stride[i] = t->stride[from];
    }
    *out = view;
    return TFB_OK;
}

/* Strides for a new shape over t's elements without a copy; 0 if none do. Both shapes
 * are cut into groups of equal size; inside a group t must be evenly spaced. */
static int tfb__reshape_strides(const tfb_tensor *t, tfb_tensor *view) {
    int i = t->ndim - 1, j = view->ndim - 1;
    while (i >= 0 && t->shape[i] == 1) i--;
    while (j >= 0) {
        tfb_idx have = i >= 0 ? t->shape[i] : 1, step = i >= 0 ? t->stride[i] : 1;
        tfb_idx made = 1;
        for (; j >= 0 && (made < have || view->shape[j] == 1); j--) {
            view->stride[j] = (tfb_idx)((size_t)step * (size_t)made);
            made *= view->shape[j];
            while (made > have) { /* take in t's next dimension, if evenly spaced */
                tfb_idx run = (tfb_idx)((size_t)step * (size_t)have);
                for (i--; i >= 0 && t->shape[i] == 1;) i--;
                if (i < 0 || t->stride[i] != run) return 0;
                have *= t->shape[i];
            }
        }
        if (made != have) return 0;
        for (i--; i >= 0 && t->shape[i] == 1;) i--;
    }
    return 1;
}

TFB_API tfb_status tfb_reshape(tfb_ctx *ctx, const tfb_tensor *t, int ndim,
                               const tfb_idx *shape, tfb_tensor *out) {
    tfb_idx known = 1, total;
    int i, infer = -1;
    tfb_tensor view;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__check(ctx, "tfb_reshape", "t", t, TFB__ANY_DTYPE, 0, TFB_MAX_DIMS));
    TFB__REQUIRE((shape || !ndim) && out, ctx, TFB_ERR_ARG, "tfb_reshape: %s is NULL",
                 out ? "shape" : "out");
    TFB__REQUIRE(ndim >= 0 && ndim <= TFB_MAX_DIMS, ctx, TFB_ERR_SHAPE,
                 "tfb_reshape: ndim is %d", (tfb_idx)ndim);
    total = tfb_numel(t);
    for (i = 0; i < ndim; i++) {
        TFB__REQUIRE(shape[i] >= 0 || (shape[i] == -1 && infer < 0), ctx, TFB_ERR_SHAPE,
                     "tfb_reshape: shape[%d] is %d", (tfb_idx)i, shape[i]);
        if (shape[i] < 0) infer = i;
        else known = (tfb_idx)tfb__size_mul((size_t)known, (size_t)shape[i]);
    }
    TFB__REQUIRE(infer < 0 ? known == total : known > 0 && total % known == 0, ctx,
                 TFB_ERR_SHAPE, "tfb_reshape: t has %d elements, the new shape %d", total,
                 known);
    view = tfb__view(t->data, t->dtype, ndim, shape);
    if (infer >= 0) view.shape[infer] = total / known;
    tfb__dense_strides(&view);
    TFB__REQUIRE(total == 0 || tfb__reshape_strides(t, &view), ctx, TFB_ERR_SHAPE,
                 "tfb_reshape: the strides of t would need a copy");
    *out = view;
    return TFB_OK;
}

/* The size of a dense tensor that is to be made at t. */
static tfb_status tfb__new_bytes(tfb_ctx *ctx, const char *fn, const tfb_tensor *t,
                                 tfb_dtype dtype, int ndim, const tfb_idx *shape,
                                 size_t *bytes) {
    int i;
    *bytes = tfb_dtype_size(dtype);
    TFB__REQUIRE(t && (shape || !ndim), ctx, TFB_ERR_ARG, "%s: %s is NULL", fn,
                 t ? "shape" : "t");
    TFB__REQUIRE(*bytes && !(TFB__PACKS & TFB__MASK(dtype)), ctx, TFB_ERR_DTYPE,
                 "%s: dtype is %d", fn, (tfb_idx)dtype);
    TFB__REQUIRE(ndim >= 0 && ndim <= TFB_MAX_DIMS, ctx, TFB_ERR_SHAPE, "%s: ndim is %d",
                 fn, (tfb_idx)ndim);
    for (i = 0; i < ndim; i++) {
        TFB__REQUIRE(shape[i] >= 0, ctx, TFB_ERR_SHAPE, "%s: shape[%d] is %d", fn,
                     (tfb_idx)i, shape[i]);
        *bytes = tfb__size_mul(*bytes, (size_t)shape[i]);
    }
    TFB__REQUIRE(*bytes < (size_t)-1 / 2, ctx, TFB_ERR_RANGE, "%s: the size overflows",
                 fn);
    return TFB_OK;
}

#ifndef TFB_NO_ALLOC
TFB_API tfb_status tfb_tensor_new(tfb_ctx *ctx, tfb_tensor *t, tfb_dtype dtype, int ndim,
                                  const tfb_idx *shape) {
    size_t bytes;
    void *data;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__new_bytes(ctx, "tfb_tensor_new", t, dtype, ndim, shape, &bytes));
    TFB__REQUIRE(ctx->alloc, ctx, TFB_ERR_MEMORY, "tfb_tensor_new: ctx.alloc is NULL");
    data = ctx->alloc(ctx->alloc_user, NULL, bytes ? bytes : 1);
    TFB__REQUIRE(data, ctx, TFB_ERR_MEMORY, "tfb_tensor_new: %d bytes are not to be had",
                 (tfb_idx)bytes);
    memset(data, 0, bytes);
    *t = tfb__view(data, dtype, ndim, shape);
    return TFB_OK;
}

TFB_API void tfb_tensor_free(tfb_ctx *ctx, tfb_tensor *t) {
    if (!ctx || !t) return;
    if (t->data && ctx->alloc) ctx->alloc(ctx->alloc_user, t->data, 0);
    memset((void *)t, 0, sizeof *t);
}
#endif

/* --- Saved bytes: what caches and parameters are saved as, little-endian. --- */
typedef struct tfb__kv_bytes {
    char *to;         /* writing: NULL only counts */
    const char *from; /* reading */
    size_t at, size;
} tfb__kv_bytes;

static void tfb__kv_write(tfb__kv_bytes *f, uint64_t value, int bytes) {
    int i;
    for (i = 0; i < bytes; i++, value >>= 8, f->at++)
        if (f->to) f->to[f->at] = (char)(unsigned char)(value & 255);
}

/* Past the end there are zeros. */
static uint64_t tfb__kv_read(tfb__kv_bytes *f, int bytes) {
    uint64_t value = 0;
    int i;
    for (i = 0; i < bytes; i++, f->at++)
        if (f->at < f->size) value |= (uint64_t)(unsigned char)f->from[f->at] << (8 * i);
    return value;
}

/* FNV-1a over words of 32 bits. A word that changes always changes the sum. */
static uint64_t tfb__kv_sum(const char *from, size_t size) {
    tfb__kv_bytes f;
    uint64_t sum = 0xCBF29CE484222325u;
    memset((void *)&f, 0, sizeof f);
    f.from = from;
    f.size = size;
    while (f.at < size) sum = (sum ^ tfb__kv_read(&f, 4)) * 0x100000001B3u;
    return sum;
}

/* How every save begins: magic, version, the sum of all behind it, its bytes. */
static void tfb__save_begin(tfb__kv_bytes *f, void *mem, const char *magic,
                            uint64_t version, size_t need) {
    memset((void *)f, 0, sizeof *f);
    f->to = (char *)mem;
    f->size = need;
    memcpy(mem, magic, 8);
    f->at = 8;
    tfb__kv_write(f, version, 8);
    f->at = 24;
    tfb__kv_write(f, (uint64_t)need, 8);
}

static void tfb__save_end(tfb__kv_bytes *f) {
    f->at = 16;
    tfb__kv_write(f, tfb__kv_sum(f->to + 24, f->size - 24), 8);
}

/* Reads that, and sees that nothing has changed since; what: what should be there. */
static tfb_status tfb__load_begin(tfb_ctx *ctx, const char *fn, tfb__kv_bytes *f,
                                  const char *magic, const char *what, uint64_t expected,
                                  size_t head) {
    uint64_t version, sum, size;
    TFB__REQUIRE(f->size >= head && !memcmp(f->from, magic, 8), ctx, TFB_ERR_FORMAT,
                 "%s: the bytes are no saved %s", fn, what);
    f->at = 8;
    version = tfb__kv_read(f, 8);
    sum = tfb__kv_read(f, 8);
    size = tfb__kv_read(f, 8);
    TFB__REQUIRE(version == expected, ctx, TFB_ERR_FORMAT, "%s: version %d is not known",
                 fn, (tfb_idx)(version & 0xFFFF));
    TFB__REQUIRE(size >= head && size <= f->size && size % 8 == 0, ctx, TFB_ERR_FORMAT,
                 "%s: the save is cut off", fn);
    f->size = (size_t)size;
    TFB__REQUIRE(sum == tfb__kv_sum(f->from + 24, f->size - 24), ctx, TFB_ERR_FORMAT,
                 "%s: the bytes have changed since they were saved", fn);
    return TFB_OK;
}

/* ===== [7] ISA LIST ================================================================= */
/* What a kernel is given, the table of kernels, which tables there are, what they need.
 * To add an instruction set: a row here, a pass in [8], a block of vector ops in [9]. */

/* Where panels are filled from: lane i of step k is x[i * lane_stride + k * k_stride], in
 * elements of dtype: F32, F16 or BF16. */
typedef struct tfb__source {
    const void *x;
    tfb_idx lane_stride, k_stride;
    tfb_dtype dtype;
    int little; /* x is little-endian whatever this machine is: it is a pack */
} tfb__source;

/* s[rows][cols] = A B by CONTRACT's matmul rule. Panel p of B has its step k at
 * b + p * bps + k * bks. With carry (k <= TFB__BLOCK) the chains start from s * carry;
 * add says that s holds earlier blocks. The last call of a product leaves in y, which may
 * be s, the sums times alpha + bias, relu of that if asked for, + r.
 * With a source, panels are filled TFB__STAGE steps at a time just before the first rows
 * need them, panel p from source.x + p * source_step; with reuse (rows <= TFB__SKINNY)
 * every stage goes to the place of the first. Memory that is needed soon is announced:
 * more of B (`ahead` elements on, if that is given), unless it has been fetched already,
 * and as many bytes from `also` on. */
typedef struct tfb__mm {
    tfb_idx rows, cols, k, lda, bps, bks, lds, ldr, ldy, source_step, ahead;
    const float *a, *carry, *bias, *r;
    const char *also;
    float *b, *s, *y;
    float alpha;
    int add, last, relu, staged, reuse, fetched;
    tfb__source source;
} tfb__mm;

/* y = act(s) [* up] [+ r]; s is used up. Interleaved: gate and up are in s by turns. */
typedef struct tfb__epilogue {
    tfb_idx rows, cols, s_rs, r_rs, r_cs, y_rs, y_cs;
    float *s;
    const float *up, *r;
    float *y;
    tfb_fn act;
    int interleaved;
} tfb__epilogue;

/* One row of a norm: y = (s - mean) / sqrt(mean square + eps) * w + b, s = x [+ r].
 * With l2: y = s / max(root of the sum of squares, eps) * w + b. */
typedef struct tfb__norm {
    tfb_idx n;
    const float *x, *r, *w, *b;
    float *y, *sum;
    float eps;
    int centre, l2;
} tfb__norm;

/* What a rope is before any position is known. Pairs are numbered axis after axis, half
 * of them in all; hi and lo have half floats: turns a position, in compat radians. */
typedef struct tfb__rope_plan {
    tfb_idx half, pairs[3], start, grid[3]; /* grid[0] is 0 if there is none */
    int axes, interleaved, inverse, compat;
    float magnitude, *hi, *lo;
    const struct tfb__kernels *isa;
} tfb__rope_plan;

/* Section [15] has them; attention calls them from the passes of other tables, so they
 * are plain functions. at: one coordinate an axis; cosine, sine: half floats. */
static void tfb__rope_angles(const tfb__rope_plan *p, const tfb_idx *at, float *cosine,
                             float *sine);
static void tfb__rope_row(const tfb__rope_plan *p, tfb_idx D, const float *x, tfb_idx xs,
                          float *y, tfb_idx ys, const float *cosine, const float *sine);
static void tfb__rope_grid(const tfb__rope_plan *p, tfb_idx token, tfb_idx *at);
static void tfb__rope_place(const tfb__rope_plan *p, const tfb_tensor *positions,
                            tfb_idx b, tfb_idx t, tfb_idx *at);

/* What is done to rows of q and k before their product. */
typedef struct tfb__qk {
    tfb_qk_norm norm;
    int norm_last, rotate, keys; /* keys: those are prepared too */
    float eps;
    const float *q_weight, *k_weight;
    const tfb_tensor *positions, *key_positions; /* NULL: a row's number says it */
    tfb__rope_plan rope;
} tfb__qk;

/* A sequence of a call: queries q0 .. q0 + T - 1, keys lo .. hi - 1. All is decided by
 * key numbers: that of row j is j + shift, of a pinned row j; query row i stands at
 * number i + stand. */
typedef struct tfb__attn_seq {
    tfb_idx batch, q0, T, lo, hi, shift, stand;
} tfb__attn_seq;

/* Keys that are evenly spaced in memory: numbers n .. n + len - 1, rows row .. */
typedef struct tfb__attn_run {
    tfb_idx n, len, row;
    char *k, *v;
} tfb__attn_run;

/* Attention over some keys, not yet divided: acc [rows][width], m and l [rows]. */
typedef struct tfb__attn_part {
    float *acc, *m, *l;
} tfb__attn_part;

/* One split of one task, where splits are shared out. */
typedef struct tfb__attn_item {
    tfb_idx task, split;
    int first, last; /* of its task */
} tfb__attn_item;

/* WHOLE: a task from first key to output. SPLIT: an item into its part. FOLD: all items
 * of a wave into the outputs, in order. WEIGHTS: a task of tfb_attention_weights. */
enum { TFB__ATTN_WHOLE, TFB__ATTN_SPLIT, TFB__ATTN_FOLD, TFB__ATTN_WEIGHTS };

/* A call as resolved; of tensors that are absent data is NULL. */
typedef struct tfb__attn {
    /* numbers first: small offsets are short instructions */
    tfb_idx seqs, T, S, D, Dv, G, group, page, longest;
    tfb_idx room, block_rows, blocks,
        tasks;               /* rows there is memory for, rows of a block */
    tfb_idx items, item_max; /* of a wave */
    int phase, offset_given;
    float scale;
    char *scratch; /* workers blocks: two parts, two items, a state's arrays */
    size_t part_bytes, worker_bytes;
    const char *lacks;         /* the switch that left out what is asked for, or NULL */
    const tfb_tensor *rows;    /* of tfb_attention_weights; y is then the weights */
    const tfb_kv *kv;          /* keys and values lie in this cache, */
    const tfb_kv_layer *cache; /* in this layer; of k and v only shapes count */
    int cache_kept;            /* rows are those tfb_kv_get shows, no older ones */
    tfb_attention_opts o;
    tfb_tensor q, k, v, y, lse, mask, bias, alibi, sinks;
    tfb__qk qk;
} tfb__attn;

/* tfb_merge_state: y[0], y[1]; tfb_merge_states: y[0] and so on, y_step apart. */
typedef struct tfb__merge {
    tfb_tensor y[2], lse[2], out, out_lse;
    tfb_idx states, y_step, lse_step;
    int pair;
} tfb__merge;

/* What one worker holds; a row is a query token and a head of the group, the heads of a
 * token side by side. A row sees the numbers lo <= n < hi and n < pin of those that
 * exist; `see` has a bit for each key of the tile at hand. */
typedef struct tfb__attn_state {
    uint64_t *see;
    tfb_idx *lo, *hi, *pin, *head, *token, *out, *at; /* of q, rows of q and y; number */
    float *q, *keys, *values, *ready, *trig, *s, *lanes, *carry;
    tfb__attn_part sum, all;
    tfb__attn_seq seq;
    tfb_idx kv_head, row0, rows, width; /* width: Dv in whole panels */
    /* numbers that exist, but for a gap; first to last some row sees; .. */
    tfb_idx begin, end, gap0, gap1, first, last, lo_min, lo_max, hi_min, pin_max;
} tfb__attn_state;

/* A panel of 16 channels of a depthwise convolution: x [taps - 1 + rows][16] begins with
 * the inputs before the first row, w [taps][16], bias [16], y [rows][16]. */
typedef struct tfb__conv {
    tfb_idx rows, taps;
    const float *x, *w, *bias;
    float *y;
    tfb_fn act;
} tfb__conv;

/* Neighbouring outputs of a long convolution and the inputs they need. A run is `inputs`
 * neighbouring rows from x on; output r has for input i tap number tap + r - i of the row
 * of the kernel at k, if that is 0 .. taps - 1. */
#define TFB__TAP_OUTPUTS 8
#define TFB__TAP_RUNS    32

typedef struct tfb__tap_run {
    const float *x, *k; /* rows of 16 */
    tfb_idx inputs, tap;
} tfb__tap_run;

/* Adds runs to the block at hand and, with the last ones of a block, that to the sums. Of
 * met and begun bit r says that output r has a tap in this block, in one before. */
typedef struct tfb__taps {
    tfb_idx taps;
    int outputs, runs, last;
    unsigned met, begun;
    float *block, *sum; /* [outputs][16] */
    tfb__tap_run run[TFB__TAP_RUNS];
} tfb__taps;

/* Butterflies of a Fourier transform over complex rows: 16 real, 16 imaginary parts. Row
 * q of butterfly (j, i) is at z + j * outer_step + i * inner_step + q * step; turned: all
 * but row 0 are multiplied by roots, three floats each (real, imaginary, - imaginary), at
 * w + j * w_outer + i * w_inner. radix 1: rows become their product with the roots. */
typedef struct tfb__fft {
    int radix, inverse, turned;
    tfb_idx outer, outer_step, w_outer, inner, inner_step, w_inner, step;
    float *z;
    const float *w;
} tfb__fft;

/* Products of spectra of real places, even ones the real, odd ones the imaginary parts of
 * complex rows: row i of z, frequency k, goes with row mate[i] of z_mate, frequency -k.
 * keep: h becomes what the kernel of a convolution has there, times scale; 64 floats for
 * each pair, of pairs in the same row only those with mate[i] >= i. w: -e^(-2 pi i k / n)
 * as roots. */
typedef struct tfb__spectrum {
    tfb_idx n;
    const int32_t *mate;
    const float *w;
    float *z, *z_mate, *h;
    int same, keep;
    float scale;
} tfb__spectrum;

enum { TFB__SCAN_NEXT = 4 };

/* A panel of 16 channels of a scan: x, z, y [rows][16] and dt, which is used up, with its
 * bias [16]; a [n][16], or one row for all n, and then dx has room for rows; state k of
 * row t is fed by b[t * bs + k], read by c[t * cs + k]; h [n][16]. z and d [16] may be
 * NULL. next: memory that is needed soon, a place in it for each row, or NULL. */
typedef struct tfb__scan {
    tfb_idx rows, n, bs, cs;
    const float *x, *z, *a, *b, *c, *bias, *d;
    float *dt, *dx, *h, *y;
    const float *next[TFB__SCAN_NEXT];
    tfb_idx next_step[TFB__SCAN_NEXT];
    int softplus, one;
} tfb__scan;

typedef struct tfb__kernels {
    const char *name;
    int fused; /* 0: multiplies and adds, outside the numeric contract */
#if !TFB__SMALL
    int (*probe)(float a, float b, float c); /* 0 if flags changed the arithmetic */
#if TFB__PRODUCTS
    void (*mm)(const tfb__mm *t);
    void (*epilogue)(const tfb__epilogue *e);
#endif
    /* panel[j * 16 + i] for i < width, j < k: the source's lane i, +0 where i >= n */
    void (*pack)(const tfb__source *from, tfb_idx k, tfb_idx n, tfb_idx width,
                 float *panel);
    /* to[i * k + j] = x[i * rs + j * ks] for i < rows, j < k */
    void (*collect)(tfb_idx rows, tfb_idx k, const float *x, tfb_idx rs, tfb_idx ks,
                    float *to);
    void (*map)(tfb_fn fn, tfb_idx n, const float *x, float *y);
    void (*norm)(const tfb__norm *t);
    float (*softmax)(tfb_idx n, const float *x, float *y); /* returns lse */
    void (*turns)(tfb_idx n, float pos, const float *hi, const float *lo, float *cosine,
                  float *sine);
    void (*rotate)(tfb_idx n, const float *x0, const float *x1, tfb_idx xs, float *y0,
                   float *y1, tfb_idx ys, const float *cosine, const float *sine);
#if TFB__HAS(ATTENTION)
    tfb_body_fn attention; /* arg: tfb__attn; i: a task or an item, as its phase says */
#endif
    tfb_body_fn merge; /* arg: tfb__merge; i: a row of the output */
#if TFB__HAS(SCAN)
    void (*conv)(const tfb__conv *s);
    void (*scan)(const tfb__scan *s);
#endif
#if TFB__HAS(LONG_CONV)
    void (*taps)(tfb__taps *s);
    void (*fft)(const tfb__fft *s);
    void (*spectrum)(const tfb__spectrum *s);
#endif
#endif
} tfb__kernels;

#define TFB__BLOCK          256 /* k per chain of fma: CONTRACT section 3 */
#define TFB__PANEL          16  /* output columns of a panel of packed weights */
#define TFB__PANEL_COUNT(n) (((n) + TFB__PANEL - 1) / TFB__PANEL)
#define TFB__LANES          16 /* virtual lanes of a row reduction: CONTRACT section 4 */
#define TFB__KT             64 /* keys of a tile: CONTRACT section 5 */
#define TFB__KS             1024 /* keys of a split */
#define TFB__ROWS           64   /* query rows an attention block holds at most */
#define TFB__MIXED_ROWS     16   /* of them that go together where some keys are hidden */
#define TFB__ALL_SEEN       (~(uint64_t)0)

#define TFB__SKINNY    8  /* rows of A up to which nothing is gained by keeping panels */
#define TFB__TILE_MOST 24 /* vectors of a tile at most */
#define TFB__FETCH     1536  /* floats by which reads of panels are announced: 6 KB */
#define TFB__AHEAD     16384 /* bytes by which rows of W are announced: 30 GB/s, 500 ns */
#define TFB__HALF_ROWS 4     /* of a tile that reads 16-bit panels */
#define TFB__STAGE     16    /* k packed at a time while the first rows are computed */
#define TFB__TASK_COLS 192   /* columns of sums a task of matmul holds at most */

/* How the B of a tile comes: float panels, the same while being filled, 16-bit panels. */
enum { TFB__IN_PANELS, TFB__IN_STAGES, TFB__IN_HALVES };

#define TFB__CPU_AVX2   1u
#define TFB__CPU_AVX512 2u
#define TFB__CPU_SSE2   4u
#define TFB__CPU_VL128  8u /* vectors whose length only the CPU knows: of 128 bits, .. */
#define TFB__CPU_VL256  16u
#define TFB__CPU_VL512  32u

#define TFB__PASS_SCALAR 1
#define TFB__PASS_AVX2   2
#define TFB__PASS_AVX512 3
#define TFB__PASS_NEON   4
#define TFB__PASS_SSE2   5
#define TFB__PASS_WASM   6
#define TFB__PASS_HELIUM 7
#define TFB__PASS_SVE128 8 /* one source, a pass for each length */
#define TFB__PASS_SVE256 9
#define TFB__PASS_SVE512 10
#define TFB__PASS_RVV128 11
#define TFB__PASS_RVV256 12
#define TFB__PASS_RVV512 13

/* name, 1 if this build has it, what the CPU must have, why it is skipped otherwise */
#if TFB__SMALL
#define TFB__ISA_LIST(X) X(scalar, 1, 0u, "")
#else
#define TFB__ISA_LIST(X)                                                                 \
    X(avx512, TFB__X86, TFB__CPU_AVX512,                                                 \
      "the CPU or the system lacks AVX-512 F/DQ/BW/VL")                                  \
    X(avx2, TFB__X86, TFB__CPU_AVX2, "the CPU or the system lacks AVX2, FMA or F16C")    \
    X(sse2, TFB__SSE2, TFB__CPU_SSE2, "the CPU lacks SSE2")                              \
    X(sve512, TFB__SVE, TFB__CPU_VL512, "vectors of the CPU's SVE are not 512 bits")     \
    X(sve256, TFB__SVE, TFB__CPU_VL256, "vectors of the CPU's SVE are not 256 bits")     \
    X(neon, TFB__NEON, 0u, "")                                                           \
    X(sve128, TFB__SVE, TFB__CPU_VL128, "vectors of the CPU's SVE are not 128 bits")     \
    X(rvv512, TFB__RVV, TFB__CPU_VL512, "the CPU's V has vectors below 512 bits")        \
    X(rvv256, TFB__RVV, TFB__CPU_VL256, "the CPU's V has vectors below 256 bits")        \
    X(rvv128, TFB__RVV, TFB__CPU_VL128, "the CPU lacks V")                               \
    X(wasm, TFB__WASM, 0u, "")                                                           \
    X(helium, TFB__HELIUM, 0u, "")                                                       \
    X(scalar, 1, 0u, "")
#endif

#if TFB__X86
/* Which vector state the system saves; only called when cpuid says xgetbv exists. */
static uint32_t tfb__xgetbv(void) {
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo;
}

/* Intel SDM vol. 1, 11.6: SSE2; 14.3, 14.7 and 15.2: FMA, OSXSAVE, AVX, F16C, YMM state,
 * AVX2; then AVX-512 F, DQ, BW, VL and the state of its registers. */
static uint32_t tfb__cpu_detect(void) {
    const unsigned avx = 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29;
    const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    unsigned a, b, c, d;
    uint32_t state, has;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    has = d >> 26 & 1 ? TFB__CPU_SSE2 : 0u;
    if ((c & avx) != avx) return has;
    state = tfb__xgetbv();
    if ((state & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return has;
    if (!(b >> 5 & 1)) return has;
    has |= TFB__CPU_AVX2;
    if ((state & 0xE6) == 0xE6 && (b & avx512) == avx512) has |= TFB__CPU_AVX512;
    return has;
}
#elif TFB__SVE
/* Arm ARM, C8.2 RDVL, by its encoding: no assembler flag is needed. Linux: HWCAP_SVE. */
static uint32_t tfb__cpu_detect(void) {
    register uint64_t bytes __asm__("x0");
#ifdef __linux__
    if (!(getauxval(AT_HWCAP) >> 22 & 1)) return 0;
#endif
    __asm__ volatile(".inst 0x04bf5020" : "=r"(bytes));
    return bytes == 16   ? TFB__CPU_VL128
           : bytes == 32 ? TFB__CPU_VL256
           : bytes == 64 ? TFB__CPU_VL512
                         : 0u;
}
#elif TFB__RVV
/* RISC-V "V" 1.0, 3: vlenb. Linux: a bit for each letter. */
static uint32_t tfb__cpu_detect(void) {
    unsigned long bytes;
#if defined(__linux__) && !defined(__riscv_v)
    if (!(getauxval(AT_HWCAP) >> ('V' - 'A') & 1)) return 0;
#endif
    __asm__ volatile("csrr %0, 0xc22" : "=r"(bytes));
    return (bytes >= 16 ? TFB__CPU_VL128 : 0u) | (bytes >= 32 ? TFB__CPU_VL256 : 0u) |
           (bytes >= 64 ? TFB__CPU_VL512 : 0u);
}
#else
static uint32_t tfb__cpu_detect(void) {
    return 0;
}
#endif

TFB__INLINE void tfb__store_le(float *p, float x) {
    uint32_t u = tfb__bits_of(x);
    if (TFB__BIG_ENDIAN) u = u >> 24 | (u >> 8 & 0xFF00) | (u & 0xFF00) << 8 | u << 24;
    memcpy((void *)p, &u, 4);
}

TFB__INLINE float tfb__load_le(const float *p) {
    uint32_t u;
    memcpy(&u, (const void *)p, 4);
    if (TFB__BIG_ENDIAN) u = u >> 24 | (u >> 8 & 0xFF00) | (u & 0xFF00) << 8 | u << 24;
    return tfb__float_of(u);
}

/* IEEE binary16 to float: exact. */
TFB__UNUSED static float tfb__f16_to(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 0x3FF;
    if (e == 31) return tfb__float_of(sign | 0x7F800000 | m << 13);
    if (e) return tfb__float_of(sign | (e + 112) << 23 | m << 13);
    return sign ? -((float)m * 5.9604644775390625e-8f)
                : (float)m * 5.9604644775390625e-8f;
}

/* Element i of a source as float32. */
TFB__UNUSED static float tfb__source_at(const tfb__source *from, tfb_idx i) {
    uint16_t h;
    if (!TFB__HAS(HALF) && !TFB__BIG_ENDIAN) return ((const float *)from->x)[i];
    if (from->dtype == TFB_F32 && from->little)
        return tfb__load_le((const float *)from->x + i);
    if (from->dtype == TFB_F32) return ((const float *)from->x)[i];
    memcpy(&h, (const uint16_t *)from->x + i, 2);
    if (TFB__BIG_ENDIAN && from->little) h = (uint16_t)(h << 8 | h >> 8);
    return from->dtype == TFB_F16 ? tfb__f16_to(h) : tfb__float_of((uint32_t)h << 16);
}

/* 16 lanes to 8, 4, 2, 1: CONTRACT section 4. */
TFB__INLINE float tfb__fold16(float *lane) {
    int half, i;
    for (half = 8; half; half /= 2)
        for (i = 0; i < half; i++) lane[i] = lane[i] + lane[i + half];
    return lane[0];
}

static const float tfb__nothing = 0; /* where data of tensors without elements lies */

/* 0, 1, 2, .. : which lanes of a vector lie before a bound. */
static const float tfb__iota[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

#if !TFB__SMALL && TFB__HAS(ATTENTION)
/* Do values lie like keys, without gaps? Few rows turn keys longer than these take to
 * read, so the values to come are fetched at the same time. */
static int tfb__attn_alike(const tfb__attn *a) {
    return !a->cache && a->v.dtype == a->k.dtype && a->Dv == a->D &&
           a->v.stride[3] == 1 && a->v.stride[2] == a->D && a->k.stride[2] == a->D;
}

/* Section 16: what attention does that needs no vectors. */
static void tfb__attn_begin(const tfb__attn *a, tfb_idx task, int worker,
                            tfb__attn_state *w);
static tfb__attn_part tfb__attn_part_of(const tfb__attn *a, tfb_idx i);
static tfb__attn_item *tfb__attn_item_of(const tfb__attn *a, tfb_idx i);
static tfb_idx tfb__attn_next(const tfb__attn_state *w, tfb_idx n);
static tfb__attn_run tfb__attn_run_of(const tfb__attn *a, const tfb__attn_state *w,
                                      tfb_idx n, tfb_idx end);
static tfb_idx tfb__attn_ahead(const tfb__attn *a, const tfb__attn_state *w,
                               const tfb__attn_run *run, int values);
static uint64_t tfb__attn_see(tfb__attn_state *w, tfb_idx n, tfb_idx end, int *mixed);
static uint64_t tfb__attn_any(const tfb__attn_state *w, tfb_idx n, tfb_idx end,
                              int *mixed);
static tfb_idx tfb__attn_mask_row(const tfb__attn_state *w, const tfb_tensor *t,
                                  tfb_idx r);
static uint64_t tfb__attn_masked(const tfb__attn *a, const tfb__attn_state *w, tfb_idx r,
                                 tfb_idx n, tfb_idx end);
static tfb_idx tfb__attn_strip(const tfb__attn_state *w, tfb_idx r,
                               const tfb__attn_run *run, tfb_idx *c0, tfb_idx *c1);
static void tfb__attn_bias(const tfb__attn *a, const tfb__attn_state *w, tfb_idx r,
                           tfb_idx n, tfb_idx end, float *bias);
static void tfb__attn_prepare(const tfb__attn *a, const tfb__attn_state *w, int is_key,
                              tfb_idx row, tfb_idx number, float *x);
#endif
static void tfb__trig_large(float x, float *sine, float *cosine);

/* ===== [8] ISA PASSES =============================================================== */
/* Sections 9 to 11 are read once per instruction set inside a target region. */

/* A region is compiled for the features named; pragmas come from macros so that a pass is
 * five lines. gcc 12's own AVX-512 intrinsics set off two warnings (gcc bug 105593). */
#define TFB__PRAGMA(x) _Pragma(#x)
#ifdef __clang__
#define TFB__REGION(features)                                                            \
    TFB__PRAGMA(                                                                         \
        clang attribute push(__attribute__((target(features))), apply_to = function))
#define TFB__REGION_END TFB__PRAGMA(clang attribute pop)
#else
#define TFB__REGION(features)                                                            \
    TFB__PRAGMA(GCC push_options)                                                        \
    TFB__PRAGMA(GCC target(features))                                                    \
    TFB__PRAGMA(GCC diagnostic push)                                                     \
    TFB__PRAGMA(GCC diagnostic ignored "-Wmaybe-uninitialized")                          \
    TFB__PRAGMA(GCC diagnostic ignored "-Wuninitialized")
#define TFB__REGION_END                                                                  \
    TFB__PRAGMA(GCC diagnostic pop)                                                      \
    TFB__PRAGMA(GCC pop_options)
#endif

#if TFB__X86 && TFB__TABLES != 2
#define TFB__PASS TFB__PASS_AVX512
TFB__REGION("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")
#include TFB_SELF
TFB__REGION_END
#undef TFB__PASS

#define TFB__PASS TFB__PASS_AVX2
TFB__REGION("avx2,fma,f16c")
#include TFB_SELF
TFB__REGION_END
#undef TFB__PASS
#endif

#if TFB__SSE2 && TFB__TABLES != 2
#define TFB__PASS TFB__PASS_SSE2
TFB__REGION("sse2")
#include TFB_SELF
TFB__REGION_END
#undef TFB__PASS
#endif

#if TFB__SVE && TFB__TABLES != 2
#ifdef __clang__
#define TFB__SVE_FEATURES "sve"
#else
#define TFB__SVE_FEATURES "arch=armv8.2-a+sve"
#endif
#define TFB__PASS TFB__PASS_SVE512
TFB__REGION(TFB__SVE_FEATURES)
#include TFB_SELF
TFB__REGION_END
#undef TFB__PASS

#define TFB__PASS TFB__PASS_SVE256
TFB__REGION(TFB__SVE_FEATURES)
#include TFB_SELF
TFB__REGION_END
#undef TFB__PASS

#define TFB__PASS TFB__PASS_SVE128
TFB__REGION(TFB__SVE_FEATURES)
#include TFB_SELF
TFB__REGION_END
#undef TFB__PASS
#endif

#if TFB__NEON && TFB__TABLES != 2
#define TFB__PASS TFB__PASS_NEON
#include TFB_SELF
#undef TFB__PASS
#endif

#if TFB__RVV && TFB__TABLES != 2
#define TFB__RVV_FEATURES "arch=+v"
#define TFB__PASS         TFB__PASS_RVV512
TFB__REGION(TFB__RVV_FEATURES)
#include TFB_SELF
TFB__REGION_END
#undef TFB__PASS

#define TFB__PASS TFB__PASS_RVV256
TFB__REGION(TFB__RVV_FEATURES)
#include TFB_SELF
TFB__REGION_END
#undef TFB__PASS

#define TFB__PASS TFB__PASS_RVV128
TFB__REGION(TFB__RVV_FEATURES)
#include TFB_SELF
TFB__REGION_END
#undef TFB__PASS
#endif

#if TFB__WASM && TFB__TABLES != 2
#define TFB__PASS TFB__PASS_WASM
#include TFB_SELF
#undef TFB__PASS
#endif

#if TFB__HELIUM && TFB__TABLES != 2
#define TFB__PASS TFB__PASS_HELIUM
#include TFB_SELF
#undef TFB__PASS
#endif

#define TFB__PASS TFB__PASS_SCALAR /* the last pass is this file itself */
#endif                             /* TFBLOCKS_IMPLEMENTATION */
#endif                             /* TFB__PASS */

#ifdef TFB__PASS

/* gcc compiles kernels optimised even without -O; -Os keeps its meaning, and under the
 * address sanitizer it would only take a minute longer. */
#undef TFB__OPTIMISED
#if TFB__GNU && !defined(__clang__) && !defined(__OPTIMIZE_SIZE__) &&                    \
    !defined(__SANITIZE_ADDRESS__)
#define TFB__OPTIMISED 1
#else
#define TFB__OPTIMISED 0
#endif
#if TFB__OPTIMISED
#pragma GCC push_options
#pragma GCC optimize("O3", "fp-contract=off")
#endif

/* ===== [9] VECTOR OPS =============================================================== */
/* The same names for every instruction set. TFB__VW floats make a TFB__VF; a TFB__VM is
 * what a comparison gives, or VMASK the low VW bits of a number, and VLANES turns it
 * back. LOADN and STOREN touch the first n lanes, LOADN clears the rest. VMAX(a, b) is
 * a > b ? a : b, so a NaN in a gives b. Shifts are logical. LOADP reads a panel
 * (little-endian), LOADH and LOADB VW floats from binary16 and bfloat16, which FN(half)
 * and FN(brain) make of VWIDEN, VW 16-bit numbers as integers. FUSED is 0 if VFMA rounds
 * twice. SQUARE(X) is
 * X(i) for the VW vectors w0 .. of a square of lanes, TURN transposes it. TILES lists
 * the register tiles, rows x vectors, for each number of rows the widest first. */

#undef TFB__SUFFIX
#undef TFB__VF
#undef TFB__VI
#undef TFB__VM
#undef TFB__VW
#undef TFB__VLOAD
#undef TFB__VLOADN
#undef TFB__VLOADP
#undef TFB__VLOADH
#undef TFB__VLOADB
#undef TFB__VWIDEN
#undef TFB__FUSED
#undef TFB__SQUARE
#undef TFB__TURN
#undef TFB__TURN_FLOATS
#undef TFB__VSTORE
#undef TFB__VSTOREN
#undef TFB__VSET1
#undef TFB__VADD
#undef TFB__VSUB
#undef TFB__VMUL
#undef TFB__VDIV
#undef TFB__VFMA
#undef TFB__VMAX
#undef TFB__VLT
#undef TFB__VEQ
#undef TFB__VSEL
#undef TFB__VMASK
#undef TFB__VLANES
#undef TFB__VISET1
#undef TFB__VIADD
#undef TFB__VISUB
#undef TFB__VIAND
#undef TFB__VIXOR
#undef TFB__VISHL
#undef TFB__VISHR
#undef TFB__VBITS
#undef TFB__VFLOAT
#undef TFB__TILE_ROWS
#undef TFB__TILES

/* By the number of registers and their lanes. */
/* clang-format off */
#undef TFB__TILES_32X16
#undef TFB__TILES_32X8
#undef TFB__TILES_32X4
#undef TFB__TILES_16X4
#define TFB__TILES_32X16(X)                                                              \
    X(1, 4) X(1, 2) X(1, 1) X(2, 4) X(2, 2) X(2, 1) X(3, 4) X(3, 2) X(3, 1)              \
    X(4, 4) X(4, 2) X(4, 1) X(5, 3) X(5, 2) X(5, 1) X(6, 3) X(6, 2) X(6, 1)              \
    X(7, 3) X(7, 2) X(7, 1) X(8, 3) X(8, 2) X(8, 1)
#define TFB__TILES_32X8(X)                                                               \
    X(1, 4) X(1, 2) X(2, 4) X(2, 2) X(3, 4) X(3, 2) X(4, 4) X(4, 2) X(5, 4) X(5, 2)      \
    X(6, 4) X(6, 2)
#define TFB__TILES_32X4(X) X(1, 4) X(2, 4) X(3, 4) X(4, 4) X(5, 4) X(6, 4)
#define TFB__TILES_16X4(X) X(1, 4) X(2, 4) X(3, 2) X(4, 2)
/* clang-format on */

/* x86: 4 x 4 inside each group of four lanes of four vectors. */
#define TFB__TURN_FLOATS(V, mm, a, b, c, d)                                              \
    {                                                                                    \
        const V ab0 = mm##_unpacklo_ps(a, b), ab1 = mm##_unpackhi_ps(a, b);              \
        const V cd0 = mm##_unpacklo_ps(c, d), cd1 = mm##_unpackhi_ps(c, d);              \
        a = mm##_shuffle_ps(ab0, cd0, 0x44), b = mm##_shuffle_ps(ab0, cd0, 0xEE);        \
        c = mm##_shuffle_ps(ab1, cd1, 0x44), d = mm##_shuffle_ps(ab1, cd1, 0xEE);        \
    }

#if TFB__PASS == TFB__PASS_AVX512
#define TFB__SUFFIX           avx512
#define TFB__VF               __m512
#define TFB__VI               __m512i
#define TFB__VM               __mmask16
#define TFB__VW               16
#define TFB__FUSED            1
#define TFB__VLOAD(p)         _mm512_loadu_ps(p)
#define TFB__VLOADP(p)        _mm512_loadu_ps(p)
#define TFB__VLOADN(p, n)     tfb__loadn_avx512(p, n)
#define TFB__VLOADH(p)        _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define TFB__VLOADB(p)        tfb__bf16_avx512(_mm256_loadu_si256((const __m256i *)(p)))
#define TFB__VSTORE(p, a)     _mm512_storeu_ps(p, a)
#define TFB__VSTOREN(p, a, n) tfb__storen_avx512(p, a, n)
#define TFB__VSET1(x)         _mm512_set1_ps(x)
#define TFB__VADD(a, b)       _mm512_add_ps(a, b)
#define TFB__VSUB(a, b)       _mm512_sub_ps(a, b)
#define TFB__VMUL(a, b)       _mm512_mul_ps(a, b)
#define TFB__VDIV(a, b)       _mm512_div_ps(a, b)
#define TFB__VFMA(a, b, c)    _mm512_fmadd_ps(a, b, c)
#define TFB__VMAX(a, b)       _mm512_max_ps(a, b)
#define TFB__VLT(a, b)        _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ)
#define TFB__VEQ(a, b)        _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ)
#define TFB__VSEL(m, a, b)    _mm512_mask_blend_ps(m, b, a)
#define TFB__VMASK(bits)      ((__mmask16)(bits))
#define TFB__VLANES(m)        ((unsigned)(m))
#define TFB__VISET1(i)        _mm512_set1_epi32((int)(i))
#define TFB__VIADD(a, b)      _mm512_add_epi32(a, b)
#define TFB__VISUB(a, b)      _mm512_sub_epi32(a, b)
#define TFB__VIAND(a, b)      _mm512_and_si512(a, b)
#define TFB__VIXOR(a, b)      _mm512_xor_si512(a, b)
#define TFB__VISHL(a, n)      _mm512_slli_epi32(a, n)
#define TFB__VISHR(a, n)      _mm512_srli_epi32(a, n)
#define TFB__VBITS(a)         _mm512_castps_si512(a)
#define TFB__VFLOAT(a)        _mm512_castsi512_ps(a)

/* clang-format off */
#define TFB__SQUARE(X)                                                                   \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
/* clang-format on */
/* 4 x 4 inside each quarter of four rows, then 4 x 4 quarters. */
#define TFB__TURN                                                                        \
    do {                                                                                 \
        TFB__TURN_FLOATS(__m512, _mm512, w0, w1, w2, w3)                                 \
        TFB__TURN_FLOATS(__m512, _mm512, w4, w5, w6, w7)                                 \
        TFB__TURN_FLOATS(__m512, _mm512, w8, w9, w10, w11)                               \
        TFB__TURN_FLOATS(__m512, _mm512, w12, w13, w14, w15)                             \
        TFB__TURN_QUARTERS(w0, w4, w8, w12)                                              \
        TFB__TURN_QUARTERS(w1, w5, w9, w13)                                              \
        TFB__TURN_QUARTERS(w2, w6, w10, w14)                                             \
        TFB__TURN_QUARTERS(w3, w7, w11, w15)                                             \
    } while (0)
#define TFB__TURN_QUARTERS(a, b, c, d)                                                   \
    {                                                                                    \
        const __m512 ab0 = _mm512_shuffle_f32x4(a, b, 0x44);                             \
        const __m512 ab1 = _mm512_shuffle_f32x4(a, b, 0xEE);                             \
        const __m512 cd0 = _mm512_shuffle_f32x4(c, d, 0x44);                             \
        const __m512 cd1 = _mm512_shuffle_f32x4(c, d, 0xEE);                             \
        a = _mm512_shuffle_f32x4(ab0, cd0, 0x88);                                        \
        b = _mm512_shuffle_f32x4(ab0, cd0, 0xDD);                                        \
        c = _mm512_shuffle_f32x4(ab1, cd1, 0x88);                                        \
        d = _mm512_shuffle_f32x4(ab1, cd1, 0xDD);                                        \
    }

#define TFB__TILE_ROWS 8
#define TFB__TILES     TFB__TILES_32X16

TFB__INLINE __m512 tfb__loadn_avx512(const float *p, tfb_idx n) {
    return n >= 16 ? _mm512_loadu_ps(p)
                   : _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1u), p);
}

TFB__INLINE void tfb__storen_avx512(float *p, __m512 a, tfb_idx n) {
    if (n >= 16) _mm512_storeu_ps(p, a);
    else _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1u), a);
}

TFB__INLINE __m512 tfb__bf16_avx512(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
#endif

#if TFB__PASS == TFB__PASS_AVX2
#define TFB__SUFFIX           avx2
#define TFB__VF               __m256
#define TFB__VI               __m256i
#define TFB__VM               __m256
#define TFB__VW               8
#define TFB__FUSED            1
#define TFB__VLOAD(p)         _mm256_loadu_ps(p)
#define TFB__VLOADP(p)        _mm256_loadu_ps(p)
#define TFB__VLOADN(p, n)     tfb__loadn_avx2(p, n)
#define TFB__VLOADH(p)        _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define TFB__VLOADB(p)        tfb__bf16_avx2(_mm_loadu_si128((const __m128i *)(p)))
#define TFB__VSTORE(p, a)     _mm256_storeu_ps(p, a)
#define TFB__VSTOREN(p, a, n) tfb__storen_avx2(p, a, n)
#define TFB__VSET1(x)         _mm256_set1_ps(x)
#define TFB__VADD(a, b)       _mm256_add_ps(a, b)
#define TFB__VSUB(a, b)       _mm256_sub_ps(a, b)
#define TFB__VMUL(a, b)       _mm256_mul_ps(a, b)
#define TFB__VDIV(a, b)       _mm256_div_ps(a, b)
#define TFB__VFMA(a, b, c)    _mm256_fmadd_ps(a, b, c)
#define TFB__VMAX(a, b)       _mm256_max_ps(a, b)
#define TFB__VLT(a, b)        _mm256_cmp_ps(a, b, _CMP_LT_OQ)
#define TFB__VEQ(a, b)        _mm256_cmp_ps(a, b, _CMP_EQ_OQ)
#define TFB__VSEL(m, a, b)    _mm256_blendv_ps(b, a, m)
#define TFB__VMASK(bits)      tfb__bits_avx2((int)(bits))
#define TFB__VLANES(m)        ((unsigned)_mm256_movemask_ps(m))
#define TFB__VISET1(i)        _mm256_set1_epi32((int)(i))
#define TFB__VIADD(a, b)      _mm256_add_epi32(a, b)
#define TFB__VISUB(a, b)      _mm256_sub_epi32(a, b)
#define TFB__VIAND(a, b)      _mm256_and_si256(a, b)
#define TFB__VIXOR(a, b)      _mm256_xor_si256(a, b)
#define TFB__VISHL(a, n)      _mm256_slli_epi32(a, n)
#define TFB__VISHR(a, n)      _mm256_srli_epi32(a, n)
#define TFB__VBITS(a)         _mm256_castps_si256(a)
#define TFB__VFLOAT(a)        _mm256_castsi256_ps(a)

#define TFB__SQUARE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define TFB__TURN                                                                        \
    do {                                                                                 \
        TFB__TURN_FLOATS(__m256, _mm256, w0, w1, w2, w3)                                 \
        TFB__TURN_FLOATS(__m256, _mm256, w4, w5, w6, w7)                                 \
        TFB__TURN_HALVES(w0, w4)                                                         \
        TFB__TURN_HALVES(w1, w5)                                                         \
        TFB__TURN_HALVES(w2, w6)                                                         \
        TFB__TURN_HALVES(w3, w7)                                                         \
    } while (0)
#define TFB__TURN_HALVES(a, b)                                                           \
    {                                                                                    \
        const __m256 low = _mm256_permute2f128_ps(a, b, 0x20);                           \
        b = _mm256_permute2f128_ps(a, b, 0x31), a = low;                                 \
    }

#define TFB__TILE_ROWS 6
#define TFB__TILES(X)  X(1, 4) X(1, 2) X(2, 4) X(2, 2) X(3, 2) X(4, 2) X(5, 2) X(6, 2)

/* -1 in the first n lanes when read from 8 - n on */
static const int32_t tfb__lanes_avx2[16] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                            0,  0,  0,  0,  0,  0,  0,  0};

TFB__INLINE __m256i tfb__mask_avx2(tfb_idx n) {
    return _mm256_loadu_si256((const __m256i *)(const void *)(tfb__lanes_avx2 + 8 - n));
}

TFB__INLINE __m256 tfb__loadn_avx2(const float *p, tfb_idx n) {
    return n >= 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, tfb__mask_avx2(n));
}

TFB__INLINE void tfb__storen_avx2(float *p, __m256 a, tfb_idx n) {
    if (n >= 8) _mm256_storeu_ps(p, a);
    else _mm256_maskstore_ps(p, tfb__mask_avx2(n), a);
}

TFB__INLINE __m256 tfb__bits_avx2(int bits) {
    const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set = _mm256_and_si256(_mm256_set1_epi32(bits), lane);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lane));
}

TFB__INLINE __m256 tfb__bf16_avx2(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
#endif

#if TFB__PASS == TFB__PASS_NEON
#define TFB__SUFFIX           neon
#define TFB__VF               float32x4_t
#define TFB__VI               uint32x4_t
#define TFB__VM               uint32x4_t
#define TFB__VW               4
#define TFB__FUSED            1
#define TFB__VLOAD(p)         vld1q_f32(p)
#define TFB__VLOADP(p)        vld1q_f32(p)
#define TFB__VLOADN(p, n)     tfb__loadn_neon(p, n)
#define TFB__VWIDEN(p)        vmovl_u16(vld1_u16(p))
#define TFB__VLOADH(p)        TFB__FN(half)(TFB__VWIDEN(p))
#define TFB__VLOADB(p)        TFB__FN(brain)(TFB__VWIDEN(p))
#define TFB__VSTORE(p, a)     vst1q_f32(p, a)
#define TFB__VSTOREN(p, a, n) tfb__storen_neon(p, a, n)
#define TFB__VSET1(x)         vdupq_n_f32(x)
#define TFB__VADD(a, b)       vaddq_f32(a, b)
#define TFB__VSUB(a, b)       vsubq_f32(a, b)
#define TFB__VMUL(a, b)       vmulq_f32(a, b)
#define TFB__VFMA(a, b, c)    vfmaq_f32(c, a, b)
#define TFB__VMAX(a, b)       tfb__max_neon(a, b)
#define TFB__VLT(a, b)        vcltq_f32(a, b)
#define TFB__VEQ(a, b)        vceqq_f32(a, b)
#define TFB__VSEL(m, a, b)    vbslq_f32(m, a, b)
#define TFB__VMASK(bits)      tfb__bits_neon((uint32_t)(bits))
#define TFB__VLANES(m)        tfb__lanes_neon(m)
#define TFB__VISET1(i)        vdupq_n_u32((uint32_t)(i))
#define TFB__VIADD(a, b)      vaddq_u32(a, b)
#define TFB__VISUB(a, b)      vsubq_u32(a, b)
#define TFB__VIAND(a, b)      vandq_u32(a, b)
#define TFB__VIXOR(a, b)      veorq_u32(a, b)
#define TFB__VISHL(a, n)      vshlq_n_u32(a, n)
#define TFB__VISHR(a, n)      vshrq_n_u32(a, n)
#define TFB__VBITS(a)         vreinterpretq_u32_f32(a)
#define TFB__VFLOAT(a)        vreinterpretq_f32_u32(a)

#define TFB__SQUARE(X) X(0) X(1) X(2) X(3)
#define TFB__TURN                                                                        \
    do {                                                                                 \
        const float32x4x2_t ac = vzipq_f32(w0, w2), bd = vzipq_f32(w1, w3);              \
        const float32x4x2_t lo = vzipq_f32(ac.val[0], bd.val[0]);                        \
        const float32x4x2_t hi = vzipq_f32(ac.val[1], bd.val[1]);                        \
        w0 = lo.val[0], w1 = lo.val[1], w2 = hi.val[0], w3 = hi.val[1];                  \
    } while (0)

#ifdef __aarch64__
#define TFB__TILE_ROWS  6
#define TFB__TILES      TFB__TILES_32X4
#define TFB__VDIV(a, b) vdivq_f32(a, b)
#else
#define TFB__TILE_ROWS  4
#define TFB__TILES      TFB__TILES_16X4
#define TFB__VDIV(a, b) TFB__FN(div)(a, b)
#endif

TFB__INLINE float32x4_t tfb__loadn_neon(const float *p, tfb_idx n) {
    float32x4_t v = vdupq_n_f32(0.0f);
    if (n >= 4) return vld1q_f32(p);
    if (n > 0) v = vld1q_lane_f32(p, v, 0);
    if (n > 1) v = vld1q_lane_f32(p + 1, v, 1);
    if (n > 2) v = vld1q_lane_f32(p + 2, v, 2);
    return v;
}

TFB__INLINE void tfb__storen_neon(float *p, float32x4_t a, tfb_idx n) {
    if (n >= 4) vst1q_f32(p, a);
    if (n >= 4) return;
    if (n > 0) vst1q_lane_f32(p, a, 0);
    if (n > 1) vst1q_lane_f32(p + 1, a, 1);
    if (n > 2) vst1q_lane_f32(p + 2, a, 2);
}

TFB__INLINE uint32x4_t tfb__bits_neon(uint32_t bits) {
    static const uint32_t lane[4] = {1, 2, 4, 8};
    return vtstq_u32(vdupq_n_u32(bits), vld1q_u32(lane));
}

TFB__INLINE unsigned tfb__lanes_neon(uint32x4_t m) {
    static const uint32_t lane[4] = {1, 2, 4, 8};
    const uint32x4_t bits = vandq_u32(m, vld1q_u32(lane));
    const uint32x2_t pair = vpadd_u32(vget_low_u32(bits), vget_high_u32(bits));
    return vget_lane_u32(vpadd_u32(pair, pair), 0);
}

TFB__INLINE float32x4_t tfb__max_neon(float32x4_t a, float32x4_t b) {
    return vbslq_f32(vcgtq_f32(a, b), a, b); /* vmaxq would spread a NaN */
}
#endif

#if TFB__PASS == TFB__PASS_SSE2
#define TFB__SUFFIX           sse2
#define TFB__VF               __m128
#define TFB__VI               __m128i
#define TFB__VM               __m128
#define TFB__VW               4
#define TFB__FUSED            0
#define TFB__VLOAD(p)         _mm_loadu_ps(p)
#define TFB__VLOADP(p)        _mm_loadu_ps(p)
#define TFB__VLOADN(p, n)     TFB__FN(loadn)(p, n)
#define TFB__VWIDEN(p)        tfb__widen_sse2(p)
#define TFB__VLOADH(p)        TFB__FN(half)(TFB__VWIDEN(p))
#define TFB__VLOADB(p)        TFB__FN(brain)(TFB__VWIDEN(p))
#define TFB__VSTORE(p, a)     _mm_storeu_ps(p, a)
#define TFB__VSTOREN(p, a, n) TFB__FN(storen)(p, a, n)
#define TFB__VSET1(x)         _mm_set1_ps(x)
#define TFB__VADD(a, b)       _mm_add_ps(a, b)
#define TFB__VSUB(a, b)       _mm_sub_ps(a, b)
#define TFB__VMUL(a, b)       _mm_mul_ps(a, b)
#define TFB__VDIV(a, b)       _mm_div_ps(a, b)
#define TFB__VFMA(a, b, c)    _mm_add_ps(_mm_mul_ps(a, b), c)
#define TFB__VMAX(a, b)       _mm_max_ps(a, b)
#define TFB__VLT(a, b)        _mm_cmplt_ps(a, b)
#define TFB__VEQ(a, b)        _mm_cmpeq_ps(a, b)
#define TFB__VSEL(m, a, b)    _mm_or_ps(_mm_and_ps(m, a), _mm_andnot_ps(m, b))
#define TFB__VMASK(bits)      tfb__bits_sse2((int)(bits))
#define TFB__VLANES(m)        ((unsigned)_mm_movemask_ps(m))
#define TFB__VISET1(i)        _mm_set1_epi32((int)(i))
#define TFB__VIADD(a, b)      _mm_add_epi32(a, b)
#define TFB__VISUB(a, b)      _mm_sub_epi32(a, b)
#define TFB__VIAND(a, b)      _mm_and_si128(a, b)
#define TFB__VIXOR(a, b)      _mm_xor_si128(a, b)
#define TFB__VISHL(a, n)      _mm_slli_epi32(a, n)
#define TFB__VISHR(a, n)      _mm_srli_epi32(a, n)
#define TFB__VBITS(a)         _mm_castps_si128(a)
#define TFB__VFLOAT(a)        _mm_castsi128_ps(a)
#define TFB__SQUARE(X)        X(0) X(1) X(2) X(3)
#define TFB__TURN             TFB__TURN_FLOATS(__m128, _mm, w0, w1, w2, w3)
#define TFB__TILE_ROWS        4
#define TFB__TILES            TFB__TILES_16X4

TFB__INLINE __m128i tfb__widen_sse2(const uint16_t *p) {
    const __m128i x = _mm_loadl_epi64((const __m128i *)(const void *)p);
    return _mm_unpacklo_epi16(x, _mm_setzero_si128());
}

TFB__INLINE __m128 tfb__bits_sse2(int bits) {
    const __m128i lane = _mm_setr_epi32(1, 2, 4, 8);
    const __m128i set = _mm_and_si128(_mm_set1_epi32(bits), lane);
    return _mm_castsi128_ps(_mm_cmpeq_epi32(set, lane));
}
#endif

#if TFB__PASS == TFB__PASS_WASM
#define TFB__SUFFIX           wasm
#define TFB__VF               v128_t
#define TFB__VI               v128_t
#define TFB__VM               v128_t
#define TFB__VW               4
#define TFB__FUSED            0
#define TFB__VLOAD(p)         wasm_v128_load(p)
#define TFB__VLOADP(p)        wasm_v128_load(p)
#define TFB__VLOADN(p, n)     TFB__FN(loadn)(p, n)
#define TFB__VWIDEN(p)        wasm_u32x4_load16x4(p)
#define TFB__VLOADH(p)        TFB__FN(half)(TFB__VWIDEN(p))
#define TFB__VLOADB(p)        TFB__FN(brain)(TFB__VWIDEN(p))
#define TFB__VSTORE(p, a)     wasm_v128_store(p, a)
#define TFB__VSTOREN(p, a, n) TFB__FN(storen)(p, a, n)
#define TFB__VSET1(x)         wasm_f32x4_splat(x)
#define TFB__VADD(a, b)       wasm_f32x4_add(a, b)
#define TFB__VSUB(a, b)       wasm_f32x4_sub(a, b)
#define TFB__VMUL(a, b)       wasm_f32x4_mul(a, b)
#define TFB__VDIV(a, b)       wasm_f32x4_div(a, b)
#define TFB__VFMA(a, b, c)    wasm_f32x4_add(wasm_f32x4_mul(a, b), c)
#define TFB__VMAX(a, b)       wasm_f32x4_pmax(b, a) /* b < a ? a : b */
#define TFB__VLT(a, b)        wasm_f32x4_lt(a, b)
#define TFB__VEQ(a, b)        wasm_f32x4_eq(a, b)
#define TFB__VSEL(m, a, b)    wasm_v128_bitselect(a, b, m)
#define TFB__VMASK(bits)      tfb__bits_wasm((int32_t)(bits))
#define TFB__VLANES(m)        ((unsigned)wasm_i32x4_bitmask(m))
#define TFB__VISET1(i)        wasm_i32x4_splat((int32_t)(i))
#define TFB__VIADD(a, b)      wasm_i32x4_add(a, b)
#define TFB__VISUB(a, b)      wasm_i32x4_sub(a, b)
#define TFB__VIAND(a, b)      wasm_v128_and(a, b)
#define TFB__VIXOR(a, b)      wasm_v128_xor(a, b)
#define TFB__VISHL(a, n)      wasm_i32x4_shl(a, n)
#define TFB__VISHR(a, n)      wasm_u32x4_shr(a, n)
#define TFB__VBITS(a)         (a)
#define TFB__VFLOAT(a)        (a)
#define TFB__SQUARE(X)        X(0) X(1) X(2) X(3)
#define TFB__TURN                                                                        \
    do {                                                                                 \
        const v128_t ab0 = wasm_i32x4_shuffle(w0, w1, 0, 4, 1, 5);                       \
        const v128_t ab1 = wasm_i32x4_shuffle(w0, w1, 2, 6, 3, 7);                       \
        const v128_t cd0 = wasm_i32x4_shuffle(w2, w3, 0, 4, 1, 5);                       \
        const v128_t cd1 = wasm_i32x4_shuffle(w2, w3, 2, 6, 3, 7);                       \
        w0 = wasm_i32x4_shuffle(ab0, cd0, 0, 1, 4, 5);                                   \
        w1 = wasm_i32x4_shuffle(ab0, cd0, 2, 3, 6, 7);                                   \
        w2 = wasm_i32x4_shuffle(ab1, cd1, 0, 1, 4, 5);                                   \
        w3 = wasm_i32x4_shuffle(ab1, cd1, 2, 3, 6, 7);                                   \
    } while (0)
#define TFB__TILE_ROWS 4
#define TFB__TILES     TFB__TILES_16X4

TFB__INLINE v128_t tfb__bits_wasm(int32_t bits) {
    const v128_t set = wasm_v128_and(wasm_i32x4_splat(bits), wasm_i32x4_make(1, 2, 4, 8));
    return wasm_i32x4_ne(set, wasm_i32x4_splat(0));
}
#endif

#if TFB__PASS == TFB__PASS_HELIUM
#define TFB__SUFFIX           helium
#define TFB__VF               float32x4_t
#define TFB__VI               uint32x4_t
#define TFB__VM               mve_pred16_t
#define TFB__VW               4
#define TFB__FUSED            1
#define TFB__VLOAD(p)         __arm_vld1q_f32(p)
#define TFB__VLOADP(p)        __arm_vld1q_f32(p)
#define TFB__VLOADN(p, n)     __arm_vld1q_z_f32(p, tfb__first_helium(n))
#define TFB__VWIDEN(p)        __arm_vldrhq_u32(p)
#define TFB__VLOADH(p)        TFB__FN(half)(TFB__VWIDEN(p))
#define TFB__VLOADB(p)        TFB__FN(brain)(TFB__VWIDEN(p))
#define TFB__VSTORE(p, a)     __arm_vst1q_f32(p, a)
#define TFB__VSTOREN(p, a, n) __arm_vst1q_p_f32(p, a, tfb__first_helium(n))
#define TFB__VSET1(x)         __arm_vdupq_n_f32(x)
#define TFB__VADD(a, b)       __arm_vaddq_f32(a, b)
#define TFB__VSUB(a, b)       __arm_vsubq_f32(a, b)
#define TFB__VMUL(a, b)       __arm_vmulq_f32(a, b)
#define TFB__VDIV(a, b)       TFB__FN(div)(a, b)
#define TFB__VFMA(a, b, c)    __arm_vfmaq_f32(c, a, b)
#define TFB__VMAX(a, b)       tfb__max_helium(a, b)
#define TFB__VLT(a, b)        __arm_vcmpgtq_f32(b, a) /* "less" is true of NaN */
#define TFB__VEQ(a, b)        __arm_vcmpeqq_f32(a, b)
#define TFB__VSEL(m, a, b)    __arm_vpselq_f32(a, b, m)
#define TFB__VMASK(bits)      tfb__bits_helium((unsigned)(bits))
#define TFB__VLANES(m)        tfb__lanes_helium(m)
#define TFB__VISET1(i)        __arm_vdupq_n_u32((uint32_t)(i))
#define TFB__VIADD(a, b)      __arm_vaddq_u32(a, b)
#define TFB__VISUB(a, b)      __arm_vsubq_u32(a, b)
#define TFB__VIAND(a, b)      __arm_vandq_u32(a, b)
#define TFB__VIXOR(a, b)      __arm_veorq_u32(a, b)
#define TFB__VISHL(a, n)      __arm_vshlq_n_u32(a, n)
#define TFB__VISHR(a, n)      __arm_vshrq_n_u32(a, n)
#define TFB__VBITS(a)         __arm_vreinterpretq_u32_f32(a)
#define TFB__VFLOAT(a)        __arm_vreinterpretq_f32_u32(a)
#define TFB__SQUARE(X)        X(0) X(1) X(2) X(3)
#define TFB__TURN                                                                        \
    do {                                                                                 \
        float square[16];                                                                \
        float32x4x4_t column;                                                            \
        __arm_vst1q_f32(square, w0);                                                     \
        __arm_vst1q_f32(square + 4, w1);                                                 \
        __arm_vst1q_f32(square + 8, w2);                                                 \
        __arm_vst1q_f32(square + 12, w3);                                                \
        column = __arm_vld4q_f32(square);                                                \
        w0 = column.val[0], w1 = column.val[1];                                          \
        w2 = column.val[2], w3 = column.val[3];                                          \
    } while (0)
#define TFB__TILE_ROWS 2 /* of eight registers */
#define TFB__TILES(X)  X(1, 4) X(2, 2)

TFB__INLINE mve_pred16_t tfb__first_helium(tfb_idx n) {
    return __arm_vctp32q((uint32_t)TFB__MIN(n, 4));
}

/* A lane has four bits of a predicate. */
TFB__INLINE mve_pred16_t tfb__bits_helium(unsigned b) {
    return (mve_pred16_t)(15u * ((b & 1) | (b & 2) << 3 | (b & 4) << 6 | (b & 8) << 9));
}

TFB__INLINE unsigned tfb__lanes_helium(mve_pred16_t m) {
    return (m & 1u) | (m >> 3 & 2u) | (m >> 6 & 4u) | (m >> 9 & 8u);
}

TFB__INLINE float32x4_t tfb__max_helium(float32x4_t a, float32x4_t b) {
    return __arm_vpselq_f32(a, b, __arm_vcmpgtq_f32(a, b));
}
#endif

/* SVE: a vector is exactly as long as the pass says, so all lanes are in use. */
#if TFB__PASS >= TFB__PASS_SVE128 && TFB__PASS <= TFB__PASS_SVE512
#define TFB__VF               svfloat32_t
#define TFB__VI               svuint32_t
#define TFB__VM               svbool_t
#define TFB__FUSED            1
#define TFB__VLOAD(p)         svld1_f32(svptrue_b32(), p)
#define TFB__VLOADP(p)        svld1_f32(svptrue_b32(), p)
#define TFB__VLOADN(p, n)     svld1_f32(svwhilelt_b32_s64(0, (int64_t)(n)), p)
#define TFB__VWIDEN(p)        svld1uh_u32(svptrue_b32(), p)
#define TFB__VLOADH(p)        TFB__FN(half)(TFB__VWIDEN(p))
#define TFB__VLOADB(p)        TFB__FN(brain)(TFB__VWIDEN(p))
#define TFB__VSTORE(p, a)     svst1_f32(svptrue_b32(), p, a)
#define TFB__VSTOREN(p, a, n) svst1_f32(svwhilelt_b32_s64(0, (int64_t)(n)), p, a)
#define TFB__VSET1(x)         svdup_n_f32(x)
#define TFB__VADD(a, b)       svadd_f32_x(svptrue_b32(), a, b)
#define TFB__VSUB(a, b)       svsub_f32_x(svptrue_b32(), a, b)
#define TFB__VMUL(a, b)       svmul_f32_x(svptrue_b32(), a, b)
#define TFB__VDIV(a, b)       svdiv_f32_x(svptrue_b32(), a, b)
#define TFB__VFMA(a, b, c)    svmla_f32_x(svptrue_b32(), c, a, b)
#define TFB__VMAX(a, b)       TFB__FN(max)(a, b)
#define TFB__VLT(a, b)        svcmplt_f32(svptrue_b32(), a, b)
#define TFB__VEQ(a, b)        svcmpeq_f32(svptrue_b32(), a, b)
#define TFB__VSEL(m, a, b)    svsel_f32(m, a, b)
#define TFB__VMASK(b)         TFB__FN(bits)((uint32_t)(b))
#define TFB__VLANES(m)        TFB__FN(lanes)(m)
#define TFB__VISET1(i)        svdup_n_u32((uint32_t)(i))
#define TFB__VIADD(a, b)      svadd_u32_x(svptrue_b32(), a, b)
#define TFB__VISUB(a, b)      svsub_u32_x(svptrue_b32(), a, b)
#define TFB__VIAND(a, b)      svand_u32_x(svptrue_b32(), a, b)
#define TFB__VIXOR(a, b)      sveor_u32_x(svptrue_b32(), a, b)
#define TFB__VISHL(a, n)      svlsl_n_u32_x(svptrue_b32(), a, n)
#define TFB__VISHR(a, n)      svlsr_n_u32_x(svptrue_b32(), a, n)
#define TFB__VBITS(a)         svreinterpret_u32_f32(a)
#define TFB__VFLOAT(a)        svreinterpret_f32_u32(a)

/* Rows i and i + VW / 2 zipped, log2 VW times over, are the columns. */
#undef TFB__ZIP
#undef TFB__ZIP_ALL
#define TFB__ZIP(to, k, l, from, i, j)                                                   \
    to##k = svzip1_f32(from##i, from##j), to##l = svzip2_f32(from##i, from##j);
#define TFB__ZIP_DECLARE(i) TFB__VF z##i;
#if TFB__PASS == TFB__PASS_SVE128
#define TFB__SUFFIX    sve128
#define TFB__VW        4
#define TFB__SQUARE(X) X(0) X(1) X(2) X(3)
#define TFB__TURN                                                                        \
    do {                                                                                 \
        TFB__SQUARE(TFB__ZIP_DECLARE)                                                    \
        TFB__ZIP_ALL(z, w)                                                               \
        TFB__ZIP_ALL(w, z)                                                               \
    } while (0)
#define TFB__ZIP_ALL(t, f) TFB__ZIP(t, 0, 1, f, 0, 2) TFB__ZIP(t, 2, 3, f, 1, 3)
#define TFB__TILE_ROWS     6
#define TFB__TILES         TFB__TILES_32X4
#elif TFB__PASS == TFB__PASS_SVE256
#define TFB__SUFFIX    sve256
#define TFB__VW        8
#define TFB__SQUARE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define TFB__TURN                                                                        \
    do {                                                                                 \
        TFB__SQUARE(TFB__ZIP_DECLARE)                                                    \
        TFB__ZIP_ALL(z, w)                                                               \
        TFB__ZIP_ALL(w, z)                                                               \
        TFB__ZIP_ALL(z, w)                                                               \
        TFB__SQUARE(TFB__ZIP_BACK)                                                       \
    } while (0)
#define TFB__ZIP_BACK(i) w##i = z##i;
#define TFB__ZIP_ALL(t, f)                                                               \
    TFB__ZIP(t, 0, 1, f, 0, 4)                                                           \
    TFB__ZIP(t, 2, 3, f, 1, 5) TFB__ZIP(t, 4, 5, f, 2, 6) TFB__ZIP(t, 6, 7, f, 3, 7)
#define TFB__TILE_ROWS 6
#define TFB__TILES     TFB__TILES_32X8
#else
#define TFB__SUFFIX sve512
#define TFB__VW     16
/* clang-format off */
#define TFB__SQUARE(X)                                                                   \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define TFB__ZIP_ALL(t, f)                                                               \
    TFB__ZIP(t, 0, 1, f, 0, 8) TFB__ZIP(t, 2, 3, f, 1, 9) TFB__ZIP(t, 4, 5, f, 2, 10)    \
    TFB__ZIP(t, 6, 7, f, 3, 11) TFB__ZIP(t, 8, 9, f, 4, 12)                              \
    TFB__ZIP(t, 10, 11, f, 5, 13) TFB__ZIP(t, 12, 13, f, 6, 14)                          \
    TFB__ZIP(t, 14, 15, f, 7, 15)
/* clang-format on */
#define TFB__TURN                                                                        \
    do {                                                                                 \
        TFB__SQUARE(TFB__ZIP_DECLARE)                                                    \
        TFB__ZIP_ALL(z, w)                                                               \
        TFB__ZIP_ALL(w, z)                                                               \
        TFB__ZIP_ALL(z, w)                                                               \
        TFB__ZIP_ALL(w, z)                                                               \
    } while (0)
#define TFB__TILE_ROWS 8
#define TFB__TILES     TFB__TILES_32X16
#endif

TFB__INLINE svuint32_t TFB__CAT(tfb__lane_, TFB__SUFFIX)(void) {
    return svlsl_u32_x(svptrue_b32(), svdup_n_u32(1), svindex_u32(0, 1));
}

TFB__INLINE svbool_t TFB__CAT(tfb__bits_, TFB__SUFFIX)(uint32_t bits) {
    const svuint32_t lane = TFB__CAT(tfb__lane_, TFB__SUFFIX)();
    return svcmpne_n_u32(svptrue_b32(), svand_n_u32_x(svptrue_b32(), lane, bits), 0);
}

TFB__INLINE unsigned TFB__CAT(tfb__lanes_, TFB__SUFFIX)(svbool_t m) {
    return (unsigned)svaddv_u32(m, TFB__CAT(tfb__lane_, TFB__SUFFIX)());
}

TFB__INLINE svfloat32_t TFB__CAT(tfb__max_, TFB__SUFFIX)(svfloat32_t a, svfloat32_t b) {
    return svsel_f32(svcmpgt_f32(svptrue_b32(), a, b), a, b);
}
#endif

/* RISC-V V: the first VW lanes of single registers, which may be longer. */
#if TFB__PASS >= TFB__PASS_RVV128 && TFB__PASS <= TFB__PASS_RVV512
#define TFB__VF           vfloat32m1_t
#define TFB__VI           vuint32m1_t
#define TFB__VM           vbool32_t
#define TFB__FUSED        1
#define TFB__VLOAD(p)     __riscv_vle32_v_f32m1(p, TFB__VW)
#define TFB__VLOADP(p)    __riscv_vle32_v_f32m1(p, TFB__VW)
#define TFB__VLOADN(p, n) TFB__FN(first)(p, n)
#define TFB__VWIDEN(p)                                                                   \
    __riscv_vzext_vf2_u32m1(__riscv_vle16_v_u16mf2(p, TFB__VW), TFB__VW)
#define TFB__VLOADH(p)        TFB__FN(half)(TFB__VWIDEN(p))
#define TFB__VLOADB(p)        TFB__FN(brain)(TFB__VWIDEN(p))
#define TFB__VSTORE(p, a)     __riscv_vse32_v_f32m1(p, a, TFB__VW)
#define TFB__VSTOREN(p, a, n) __riscv_vse32_v_f32m1(p, a, (size_t)TFB__MIN(n, TFB__VW))
#define TFB__VSET1(x)         __riscv_vfmv_v_f_f32m1(x, TFB__VW)
#define TFB__VADD(a, b)       __riscv_vfadd_vv_f32m1(a, b, TFB__VW)
#define TFB__VSUB(a, b)       __riscv_vfsub_vv_f32m1(a, b, TFB__VW)
#define TFB__VMUL(a, b)       __riscv_vfmul_vv_f32m1(a, b, TFB__VW)
#define TFB__VDIV(a, b)       __riscv_vfdiv_vv_f32m1(a, b, TFB__VW)
#define TFB__VFMA(a, b, c)    __riscv_vfmacc_vv_f32m1(c, a, b, TFB__VW)
#define TFB__VMAX(a, b)       TFB__FN(max)(a, b)
#define TFB__VLT(a, b)        __riscv_vmflt_vv_f32m1_b32(a, b, TFB__VW)
#define TFB__VEQ(a, b)        __riscv_vmfeq_vv_f32m1_b32(a, b, TFB__VW)
#define TFB__VSEL(m, a, b)    __riscv_vmerge_vvm_f32m1(b, a, m, TFB__VW)
#define TFB__VMASK(b)         TFB__FN(bits)((uint32_t)(b))
#define TFB__VLANES(m)        TFB__FN(lanes)(m)
#define TFB__VISET1(i)        __riscv_vmv_v_x_u32m1((uint32_t)(i), TFB__VW)
#define TFB__VIADD(a, b)      __riscv_vadd_vv_u32m1(a, b, TFB__VW)
#define TFB__VISUB(a, b)      __riscv_vsub_vv_u32m1(a, b, TFB__VW)
#define TFB__VIAND(a, b)      __riscv_vand_vv_u32m1(a, b, TFB__VW)
#define TFB__VIXOR(a, b)      __riscv_vxor_vv_u32m1(a, b, TFB__VW)
#define TFB__VISHL(a, n)      __riscv_vsll_vx_u32m1(a, n, TFB__VW)
#define TFB__VISHR(a, n)      __riscv_vsrl_vx_u32m1(a, n, TFB__VW)
#define TFB__VBITS(a)         __riscv_vreinterpret_v_f32m1_u32m1(a)
#define TFB__VFLOAT(a)        __riscv_vreinterpret_v_u32m1_f32m1(a)
#define TFB__SQUARE_OUT(i)    TFB__VSTORE(square + i * TFB__VW, w##i);
#define TFB__SQUARE_IN(i)                                                                \
    w##i =                                                                               \
        __riscv_vlse32_v_f32m1(square + i, TFB__VW * (ptrdiff_t)sizeof(float), TFB__VW);
#define TFB__TURN                                                                        \
    do {                                                                                 \
        float square[TFB__VW * TFB__VW];                                                 \
        TFB__SQUARE(TFB__SQUARE_OUT)                                                     \
        TFB__SQUARE(TFB__SQUARE_IN)                                                      \
    } while (0)

#if TFB__PASS == TFB__PASS_RVV128
#define TFB__SUFFIX    rvv128
#define TFB__VW        4
#define TFB__SQUARE(X) X(0) X(1) X(2) X(3)
#define TFB__TILE_ROWS 6
#define TFB__TILES     TFB__TILES_32X4
#elif TFB__PASS == TFB__PASS_RVV256
#define TFB__SUFFIX    rvv256
#define TFB__VW        8
#define TFB__SQUARE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define TFB__TILE_ROWS 6
#define TFB__TILES     TFB__TILES_32X8
#else
#define TFB__SUFFIX    rvv512
#define TFB__VW        16
/* clang-format off */
#define TFB__SQUARE(X)                                                                   \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
/* clang-format on */
#define TFB__TILE_ROWS 8
#define TFB__TILES     TFB__TILES_32X16
#endif

TFB__INLINE vfloat32m1_t TFB__CAT(tfb__first_, TFB__SUFFIX)(const float *p, tfb_idx n) {
    const vfloat32m1_t zero = TFB__VSET1(0.0f);
    if (n >= TFB__VW) return TFB__VLOAD(p);
    return __riscv_vle32_v_f32m1_tu(zero, p, (size_t)n);
}

TFB__INLINE vuint32m1_t TFB__CAT(tfb__lane_, TFB__SUFFIX)(void) {
    const vuint32m1_t at = __riscv_vid_v_u32m1(TFB__VW);
    return __riscv_vsll_vv_u32m1(TFB__VISET1(1), at, TFB__VW);
}

TFB__INLINE vbool32_t TFB__CAT(tfb__bits_, TFB__SUFFIX)(uint32_t bits) {
    const vuint32m1_t lane = TFB__CAT(tfb__lane_, TFB__SUFFIX)();
    return __riscv_vmsne_vx_u32m1_b32(TFB__VIAND(lane, TFB__VISET1(bits)), 0, TFB__VW);
}

TFB__INLINE unsigned TFB__CAT(tfb__lanes_, TFB__SUFFIX)(vbool32_t m) {
    const vuint32m1_t zero = TFB__VISET1(0), lane = TFB__CAT(tfb__lane_, TFB__SUFFIX)();
    const vuint32m1_t set = __riscv_vmerge_vvm_u32m1(zero, lane, m, TFB__VW);
    return __riscv_vmv_x_s_u32m1_u32(__riscv_vredsum_vs_u32m1_u32m1(set, zero, TFB__VW));
}

TFB__INLINE vfloat32m1_t TFB__CAT(tfb__max_, TFB__SUFFIX)(vfloat32m1_t a,
                                                          vfloat32m1_t b) {
    return __riscv_vmerge_vvm_f32m1(b, a, __riscv_vmfgt_vv_f32m1_b32(a, b, TFB__VW),
                                    TFB__VW);
}
#endif

#if TFB__PASS == TFB__PASS_SCALAR
#define TFB__SUFFIX scalar
#define TFB__VF     float
#define TFB__VI     uint32_t
#define TFB__VM     int
#define TFB__VW     1
#ifdef TFB__UNFUSED
#define TFB__FUSED 0
#else
#define TFB__FUSED 1
#endif
#define TFB__VLOAD(p)         (*(p))
#define TFB__VLOADP(p)        tfb__load_le(p)
#define TFB__VLOADN(p, n)     ((void)(n), *(p))
#define TFB__VLOADH(p)        tfb__f16_to(*(p))
#define TFB__VLOADB(p)        tfb__float_of((uint32_t) * (p) << 16)
#define TFB__VSTORE(p, a)     (*(p) = (a))
#define TFB__VSTOREN(p, a, n) ((void)(n), *(p) = (a))
#define TFB__VSET1(x)         (x)
#define TFB__VADD(a, b)       ((a) + (b))
#define TFB__VSUB(a, b)       ((a) - (b))
#define TFB__VMUL(a, b)       ((a) * (b))
#define TFB__VDIV(a, b)       ((a) / (b))
#define TFB__VFMA(a, b, c)    TFB__FMA(a, b, c)
#define TFB__VMAX(a, b)       tfb__max_scalar(a, b)
#define TFB__VLT(a, b)        ((a) < (b))
#define TFB__VEQ(a, b)        tfb__eq_scalar(a, b)
#define TFB__VSEL(m, a, b)    ((m) ? (a) : (b))
#define TFB__VMASK(bits)      ((int)(bits))
#define TFB__VLANES(m)        ((unsigned)(m))
#define TFB__VISET1(i)        ((uint32_t)(i))
#define TFB__VIADD(a, b)      ((a) + (b))
#define TFB__VISUB(a, b)      ((a) - (b))
#define TFB__VIAND(a, b)      ((a) & (b))
#define TFB__VIXOR(a, b)      ((a) ^ (b))
#define TFB__VISHL(a, n)      ((a) << (n))
#define TFB__VISHR(a, n)      ((a) >> (n))
#define TFB__VBITS(a)         tfb__bits_of(a)
#define TFB__VFLOAT(a)        tfb__float_of(a)
#define TFB__SQUARE(X)        X(0)
#define TFB__TURN             ((void)0)
#define TFB__TILE_ROWS        1
#define TFB__TILES(X)         X(1, 4)

TFB__INLINE float tfb__max_scalar(float a, float b) {
    return a > b ? a : b;
}

TFB__INLINE int tfb__eq_scalar(float a, float b) {
    return a <= b && a >= b;
}
#endif

#undef TFB__FN
#undef TFB__CALL
#define TFB__FN(name)        TFB__CAT(tfb__##name##_, TFB__SUFFIX)
#define TFB__CALL(name, ...) TFB__FN(name)(__VA_ARGS__) /* reads as a statement */

/* What some of them are made of where there is no instruction. */
#if TFB__PASS == TFB__PASS_SSE2 || TFB__PASS == TFB__PASS_WASM
TFB__INLINE TFB__VF TFB__FN(loadn)(const float *p, tfb_idx n) {
    float lane[TFB__VW] = TFB_INIT;
    tfb_idx i;
    if (n >= TFB__VW) return TFB__VLOAD(p);
    for (i = 0; i < n; i++) lane[i] = p[i];
    return TFB__VLOAD(lane);
}

TFB__INLINE void TFB__FN(storen)(float *p, TFB__VF v, tfb_idx n) {
    float lane[TFB__VW];
    tfb_idx i;
    TFB__VSTORE(n >= TFB__VW ? p : lane, v);
    for (i = 0; n < TFB__VW && i < n; i++) p[i] = lane[i];
}
#endif

#if (TFB__PASS == TFB__PASS_NEON && !defined(__aarch64__)) ||                            \
    TFB__PASS == TFB__PASS_HELIUM
TFB__INLINE TFB__VF TFB__FN(div)(TFB__VF a, TFB__VF b) {
    float x[TFB__VW], y[TFB__VW];
    int i;
    TFB__VSTORE(x, a);
    TFB__VSTORE(y, b);
    for (i = 0; i < TFB__VW; i++) x[i] = x[i] / y[i];
    return TFB__VLOAD(x);
}
#endif

#ifdef TFB__VWIDEN
/* binary16: a number below 2^-14 is so many steps of 2^-24; others, inf and NaN among
 * them, get another bias of the exponent. No operand or result is subnormal. */
TFB__INLINE TFB__VF TFB__FN(half)(TFB__VI h) {
    const TFB__VI em = TFB__VIAND(h, TFB__VISET1(0x7FFF)), bias = TFB__VISET1(112 << 23);
    const TFB__VI sign = TFB__VISHL(TFB__VISUB(h, em), 16), x = TFB__VISHL(em, 13);
    const TFB__VF big = TFB__VSET1(8388608.0f); /* 2^23: its last bits are an integer's */
    const TFB__VF n = TFB__VSUB(TFB__VFLOAT(TFB__VIADD(em, TFB__VBITS(big))), big);
    const TFB__VF normal = TFB__VFLOAT(TFB__VIADD(x, bias));
    const TFB__VF special = TFB__VFLOAT(TFB__VIADD(x, TFB__VIADD(bias, bias)));
    const TFB__VF tiny = TFB__VMUL(n, TFB__VSET1(5.9604644775390625e-8f));
    TFB__VF v = TFB__VSEL(TFB__VLT(n, TFB__VSET1(31744.0f)), normal, special);
    v = TFB__VSEL(TFB__VLT(n, TFB__VSET1(1024.0f)), tiny, v);
    return TFB__VFLOAT(TFB__VIXOR(TFB__VBITS(v), sign));
}

TFB__INLINE TFB__VF TFB__FN(brain)(TFB__VI h) {
    return TFB__VFLOAT(TFB__VISHL(h, 16));
}
#endif

/* ===== [10] ELEMENTARY FUNCTIONS ==================================================== */
/* The same operations in the same order for every instruction set, hence the same bits.
 * Accuracy: ulp against double precision over all float32 values. */

#undef TFB__VK
#define TFB__VK(p, x, c) TFB__VFMA(p, x, TFB__VSET1(c)) /* a Horner step */

/* The sign bit of x; x with the sign flipped where s has its top bit set; -|x|. */
TFB__INLINE TFB__VI TFB__FN(sign)(TFB__VF x) {
    return TFB__VIAND(TFB__VBITS(x), TFB__VISET1(0x80000000u));
}

TFB__INLINE TFB__VF TFB__FN(flip)(TFB__VF x, TFB__VI s) {
    return TFB__VFLOAT(TFB__VIXOR(TFB__VBITS(x), s));
}

TFB__INLINE TFB__VF TFB__FN(nabs)(TFB__VF x) {
    TFB__VI b = TFB__VIAND(TFB__VBITS(x), TFB__VISET1(0x7fffffff));
    return TFB__FN(flip)(TFB__VFLOAT(b), TFB__VISET1(0x80000000u));
}

/* e^r for |r| <= 0.3466: minimax of degree 6 with c0 = c1 = 1, error 2^-28.2. */
TFB__INLINE TFB__VF TFB__FN(exp_poly)(TFB__VF r) {
    TFB__VF p = TFB__VK(TFB__VSET1(1.37824647e-3f), r, 8.36867001e-3f);
    p = TFB__VK(p, r, 4.16689627e-2f);
    p = TFB__VK(p, r, 0.166665211f);
    p = TFB__VK(p, r, 0.499999911f);
    p = TFB__VK(p, r, 1.0f);
    return TFB__VK(p, r, 1.0f);
}

/* x - n ln2 for n = round(x / ln2), in two steps (Cody and Waite), the first exact. */
TFB__INLINE TFB__VF TFB__FN(exp_red)(TFB__VF x, TFB__VF n) {
    TFB__VF r = TFB__VFMA(n, TFB__VSET1(-0.693147182f), x);
    return TFB__VFMA(n, TFB__VSET1(1.90465421e-9f), r);
}

/* For -87.34 < x < 88.37: e^x = s + s * expm1(r), s a power of two, r the result; so that
 * callers round once. NaN gives r = NaN, other x give garbage. */
TFB__INLINE TFB__VF TFB__FN(exp_split)(TFB__VF x, TFB__VF *s) {
    TFB__VF k = TFB__VSET1(12583039.0f); /* 1.5 * 2^23 + 127 */
    TFB__VF nf = TFB__VFMA(x, TFB__VSET1(1.44269502f), k);
    *s = TFB__VFLOAT(TFB__VISHL(TFB__VBITS(nf), 23));
    return TFB__FN(exp_red)(x, TFB__VSUB(nf, k));
}

/* e^r - 1 for |r| <= 0.3466: degree 6, relative error 2^-26.1. */
TFB__INLINE TFB__VF TFB__FN(expm1_poly)(TFB__VF r) {
    TFB__VF p = TFB__VK(TFB__VSET1(1.38645305e-3f), r, 8.36653356e-3f);
    p = TFB__VK(p, r, 4.16675024e-2f);
    p = TFB__VK(p, r, 0.166665435f);
    p = TFB__VK(p, r, 0.499999970f);
    return TFB__VFMA(TFB__VMUL(r, r), p, r);
}

/* 1 + e^v for v < 88.37 (any v below -87 counts as -87); NaN stays, above garbage. */
TFB__INLINE TFB__VF TFB__FN(one_exp)(TFB__VF v) {
    TFB__VF s, r = TFB__FN(exp_split)(TFB__VMAX(TFB__VSET1(-87.0f), v), &s);
    r = TFB__FN(expm1_poly)(r);
    return TFB__VADD(s, TFB__VFMA(r, s, TFB__VSET1(1.0f)));
}

/* exp: Horner (no r * r that could underflow), scaled by adding n to the exponent bits;
 * +0 below 2^-126. Max 0.89 ulp. */
TFB__INLINE TFB__VF TFB__FN(exp)(TFB__VF x) {
    TFB__VF k = TFB__VSET1(12582912.0f), inf = TFB__VFLOAT(TFB__VISET1(0x7f800000));
    TFB__VF nf = TFB__VFMA(x, TFB__VSET1(1.44269502f), k);
    TFB__VF p = TFB__FN(exp_poly)(TFB__FN(exp_red)(x, TFB__VSUB(nf, k)));
    p = TFB__VFLOAT(TFB__VIADD(TFB__VBITS(p), TFB__VISHL(TFB__VBITS(nf), 23)));
    p = TFB__VSEL(TFB__VLT(x, TFB__VSET1(88.7228394f)), p, TFB__VADD(x, inf));
    return TFB__VSEL(TFB__VLT(x, TFB__VSET1(-87.336544f)), TFB__VSET1(0.0f), p);
}

/* exp of x <= 0 or NaN, the same bits in fewer steps: 2^n is normal and a factor. */
TFB__INLINE TFB__VF TFB__FN(exp_down)(TFB__VF x) {
    TFB__VF s, r = TFB__FN(exp_split)(x, &s), p = TFB__VMUL(TFB__FN(exp_poly)(r), s);
    return TFB__VSEL(TFB__VLT(x, TFB__VSET1(-87.336544f)), TFB__VSET1(0.0f), p);
}

/* exp2: x - round(x) is exact; degree 6, c0 = 1; scaled like exp; +0 below -126.
 * Max 0.80 ulp. */
TFB__INLINE TFB__VF TFB__FN(exp2)(TFB__VF x) {
    TFB__VF k = TFB__VSET1(12582912.0f), inf = TFB__VFLOAT(TFB__VISET1(0x7f800000));
    TFB__VF nf = TFB__VADD(x, k), r = TFB__VSUB(x, TFB__VSUB(nf, k));
    TFB__VF p = TFB__VK(TFB__VSET1(1.52412860e-4f), r, 1.33913022e-3f);
    p = TFB__VK(p, r, 9.61883367e-3f);
    p = TFB__VK(p, r, 5.55035882e-2f);
    p = TFB__VK(p, r, 0.240226448f);
    p = TFB__VK(p, r, 0.693147182f);
    p = TFB__VK(p, r, 1.0f);
    p = TFB__VFLOAT(TFB__VIADD(TFB__VBITS(p), TFB__VISHL(TFB__VBITS(nf), 23)));
    p = TFB__VSEL(TFB__VLT(x, TFB__VSET1(128.0f)), p, TFB__VADD(x, inf));
    return TFB__VSEL(TFB__VLT(x, TFB__VSET1(-126.0f)), TFB__VSET1(0.0f), p);
}

/* log: x = m 2^e, m in [2/3, 4/3), f = m - 1: f + f^2 P(f), P of degree 8, plus e ln2 in
 * two parts; subnormal x is scaled by 2^23 first. Max 1.67 ulp. */
TFB__INLINE TFB__VF TFB__FN(log)(TFB__VF x) {
    TFB__VF inf = TFB__VFLOAT(TFB__VISET1(0x7f800000)), zero = TFB__VSET1(0.0f);
    TFB__VM sub = TFB__VLT(x, TFB__VSET1(1.17549435e-38f));
    TFB__VF xs = TFB__VSEL(sub, TFB__VMUL(x, TFB__VSET1(8388608.0f)), x);
    TFB__VF eb = TFB__VSEL(sub, TFB__VSET1(8388758.0f), TFB__VSET1(8388735.0f));
    TFB__VI ix = TFB__VIADD(TFB__VBITS(xs), TFB__VISET1(0x00555555));
    TFB__VI mb = TFB__VIAND(ix, TFB__VISET1(0x007fffff));
    TFB__VI ei = TFB__VIADD(TFB__VISHR(ix, 23), TFB__VISET1(0x4b000000));
    TFB__VF e = TFB__VSUB(TFB__VFLOAT(ei), eb), p, f;
    f = TFB__VFLOAT(TFB__VIADD(mb, TFB__VISET1(0x3f2aaaab)));
    f = TFB__VSUB(f, TFB__VSET1(1.0f));
    p = TFB__VK(TFB__VSET1(-0.128322572f), f, 0.140027940f);
    p = TFB__VK(p, f, -0.121986263f);
    p = TFB__VK(p, f, 0.140016183f);
    p = TFB__VK(p, f, -0.166793838f);
    p = TFB__VK(p, f, 0.200107142f);
    p = TFB__VK(p, f, -0.249998242f);
    p = TFB__VK(p, f, 0.333332092f);
    p = TFB__VK(p, f, -0.5f);
    p = TFB__VFMA(TFB__VMUL(f, f), p, TFB__VMUL(e, TFB__VSET1(-1.90465421e-9f)));
    p = TFB__VADD(TFB__VFMA(e, TFB__VSET1(0.693147182f), f), p);
    p = TFB__VSEL(TFB__VEQ(x, inf), x, p);
    f = TFB__VFLOAT(TFB__VISET1(0x7fc00000)); /* NaN, or -inf at zero */
    f = TFB__VSEL(TFB__VEQ(x, zero), TFB__VFLOAT(TFB__VISET1(0xff800000u)), f);
    return TFB__VSEL(TFB__VLT(zero, x), p, f);
}

/* tanh: below 0.6 odd, degree 11; above 1 - 2 / (1 + e^2|x|). Max 1.24 ulp. */
TFB__INLINE TFB__VF TFB__FN(tanh)(TFB__VF x) {
    TFB__VF m = TFB__FN(nabs)(x), z = TFB__VMUL(m, m), p, q, a, one = TFB__VSET1(1.0f);
    a = TFB__VSUB(TFB__VSET1(0.0f), TFB__VMAX(TFB__VSET1(-10.0f), m));
    p = TFB__VK(TFB__VSET1(-5.89796668e-3f), z, 2.07986254e-2f);
    p = TFB__VK(p, z, -5.37847169e-2f);
    p = TFB__VK(p, z, 0.133319363f);
    p = TFB__VK(p, z, -0.333332986f);
    p = TFB__VFMA(TFB__VMUL(p, z), a, a);
    q = TFB__VDIV(TFB__VSET1(-2.0f), TFB__FN(one_exp)(TFB__VADD(a, a)));
    p = TFB__VSEL(TFB__VLT(a, TFB__VSET1(0.6f)), p, TFB__VADD(q, one));
    return TFB__FN(flip)(p, TFB__FN(sign)(x));
}

/* erf: below 1 odd, degree 13; above 1 - e^(-|x| P(|x|)), P of degree 5 fitted with the
 * weight erfc; clamped at 4, where the result is 1. Max 1.01 ulp. */
TFB__INLINE TFB__VF TFB__FN(erf)(TFB__VF x) {
    TFB__VF m = TFB__VMAX(TFB__VSET1(-4.0f), TFB__FN(nabs)(x)), z = TFB__VMUL(m, m);
    TFB__VF a = TFB__VSUB(TFB__VSET1(0.0f), m), s, p, q;
    p = TFB__VK(TFB__VSET1(7.84619717e-5f), z, -8.00788926e-4f);
    p = TFB__VK(p, z, 5.18807447e-3f);
    p = TFB__VK(p, z, -2.68536918e-2f);
    p = TFB__VK(p, z, 0.112835832f);
    p = TFB__VK(p, z, -0.376126260f);
    p = TFB__VK(p, z, 0.128379166f);
    p = TFB__VFMA(a, p, a);
    q = TFB__VK(TFB__VSET1(-2.11577310e-4f), a, 3.19497357e-3f);
    q = TFB__VK(q, a, -2.28253864e-2f);
    q = TFB__VK(q, a, 0.105160214f);
    q = TFB__VK(q, a, 0.635796249f);
    q = TFB__VK(q, a, 1.12849104f);
    q = TFB__FN(expm1_poly)(TFB__FN(exp_split)(TFB__VMUL(m, q), &s));
    s = TFB__VSUB(TFB__VSET1(0.0f), s);
    q = TFB__VFMA(q, s, TFB__VADD(s, TFB__VSET1(1.0f)));
    p = TFB__VSEL(TFB__VLT(a, TFB__VSET1(1.0f)), p, q);
    return TFB__FN(flip)(p, TFB__FN(sign)(x));
}

/* sigmoid: 1 / (1 + e^-x), +0 where that is below 2^-126. Max 2.00 ulp (1.9991). */
TFB__INLINE TFB__VF TFB__FN(sigmoid)(TFB__VF x) {
    TFB__VF d = TFB__FN(one_exp)(TFB__VSUB(TFB__VSET1(0.0f), x));
    TFB__VF inf = TFB__VFLOAT(TFB__VISET1(0x7f800000));
    d = TFB__VSEL(TFB__VLT(x, TFB__VSET1(-87.336544f)), inf, d);
    return TFB__VDIV(TFB__VSET1(1.0f), d);
}

/* silu: x / (1 + e^-x). Max 2.00 ulp (1.998) from -88.3 up; below that -0, where the true
 * value is under 4e-37. */
TFB__INLINE TFB__VF TFB__FN(silu)(TFB__VF x) {
    TFB__VF d = TFB__FN(one_exp)(TFB__VSUB(TFB__VSET1(0.0f), x));
    TFB__VM low = TFB__VLT(x, TFB__VSET1(-88.3f));
    return TFB__VSEL(low, TFB__VSET1(-0.0f), TFB__VDIV(x, d));
}

/* gelu_tanh: 0.5 (1 + tanh u) = 1 / (1 + e^-2u), so no cancellation: x / (1 + e^-2u).
 * Max 6.3e-7 absolutely, 2.51 ulp above -1, 211 ulp (2.6e-5 relative) in the tail;
 * -0 below -10.04, where the true value is under 5e-38. */
TFB__INLINE TFB__VF TFB__FN(gelu_tanh)(TFB__VF x) {
    TFB__VF c = TFB__VK(TFB__VMUL(x, x), TFB__VSET1(-0.0713548163f), -1.59576912f);
    TFB__VF d = TFB__FN(one_exp)(TFB__VMUL(x, c));
    TFB__VM low = TFB__VLT(x, TFB__VSET1(-10.04f));
    return TFB__VSEL(low, TFB__VSET1(-0.0f), TFB__VDIV(x, d));
}

/* gelu_erf: with a = |x|, max(x, 0) - a e^(-a^2/2) G(a), G = erfcx(a / sqrt2) / 2 being
 * P(u) / (a + k), u = (a - k) / (a + k), k = 3.78125, P of degree 10 (the map of
 * Shepherd and Laframboise 1981); the rounding of a^2 is carried, so the tail
 * too has relative accuracy: max 4.11 ulp, 4.8e-7 absolutely; -0 below -13.1, where the
 * true value is under 2.2e-38. */
TFB__INLINE TFB__VF TFB__FN(gelu_erf)(TFB__VF x) {
    TFB__VF m = TFB__VMAX(TFB__VSET1(-13.1f), TFB__FN(nabs)(x)), u, v, w, p, s, r;
    w = TFB__VDIV(m, TFB__VSUB(TFB__VSET1(3.78125f), m)); /* -a / (a + k) */
    u = TFB__VK(w, TFB__VSET1(-2.0f), -1.0f);
    p = TFB__VK(TFB__VSET1(-5.32800295e-5f), u, -1.03762854e-4f);
    p = TFB__VK(p, u, 4.48273320e-4f);
    p = TFB__VK(p, u, 7.30888976e-4f);
    p = TFB__VK(p, u, -4.18299297e-3f);
    p = TFB__VK(p, u, 2.65853741e-4f);
    p = TFB__VK(p, u, 4.02179547e-2f);
    p = TFB__VK(p, u, -0.155931622f);
    p = TFB__VK(p, u, 0.357392073f);
    p = TFB__VK(p, u, -0.590801656f);
    p = TFB__VK(p, u, 0.750962675f);
    v = TFB__VMUL(m, m);
    u = TFB__VFMA(m, m, TFB__VSUB(TFB__VSET1(0.0f), v)); /* the error of v */
    r = TFB__FN(exp_split)(TFB__VMUL(v, TFB__VSET1(-0.5f)), &s);
    r = TFB__FN(expm1_poly)(TFB__VFMA(u, TFB__VSET1(-0.5f), r));
    p = TFB__VMUL(TFB__VMUL(p, w), s);
    u = TFB__VADD(p, TFB__VMAX(TFB__VSET1(0.0f), x));
    p = TFB__VFMA(p, r, u);
    return TFB__VSEL(TFB__VLT(x, TFB__VSET1(-13.1f)), TFB__VSET1(-0.0f), p);
}

/* softplus: max(x, 0) + log1p(e), e = e^-|x| <= 1; log1p is e + e^2 P(e), P of degree 8;
 * +0 below 2^-126. Max 1.91 ulp. */
TFB__INLINE TFB__VF TFB__FN(softplus)(TFB__VF x) {
    TFB__VF m = TFB__VMAX(TFB__VSET1(-87.336540f), TFB__FN(nabs)(x)), e, p;
    TFB__VF zero = TFB__VSET1(0.0f), s;
    e = TFB__FN(expm1_poly)(TFB__FN(exp_split)(m, &s));
    e = TFB__VFMA(e, s, s);
    p = TFB__VK(TFB__VSET1(-3.31243477e-3f), e, 2.01764461e-2f);
    p = TFB__VK(p, e, -5.76093942e-2f);
    p = TFB__VK(p, e, 0.106746942f);
    p = TFB__VK(p, e, -0.153517172f);
    p = TFB__VK(p, e, 0.196940243f);
    p = TFB__VK(p, e, -0.249582931f);
    p = TFB__VK(p, e, 0.333304793f);
    p = TFB__VK(p, e, -0.499999315f);
    p = TFB__VMUL(TFB__VMAX(TFB__VSET1(1e-30f), e), p); /* never subnormal */
    p = TFB__VFMA(p, e, e);
    p = TFB__VADD(TFB__VMAX(zero, x), p);
    return TFB__VSEL(TFB__VLT(x, TFB__VSET1(-87.336544f)), zero, p);
}

/* relu: x < 0 ? +0 : x; NaN and -0.0 stay. relu_squared: its square (-0.0 gives +0). */
TFB__INLINE TFB__VF TFB__FN(relu)(TFB__VF x) {
    TFB__VF zero = TFB__VSET1(0.0f);
    return TFB__VSEL(TFB__VLT(x, zero), zero, x);
}

TFB__INLINE TFB__VF TFB__FN(relu_squared)(TFB__VF x) {
    TFB__VF r = TFB__FN(relu)(x);
    return TFB__VMUL(r, r);
}

/* Quadrant q (low two bits): sine is s or c with the sign of q's second bit. */
TFB__INLINE TFB__VF TFB__FN(quad)(TFB__VF s, TFB__VF c, TFB__VI q) {
    TFB__VI odd = TFB__VISHL(TFB__VIAND(q, TFB__VISET1(1)), 24), neg;
    neg = TFB__VIAND(TFB__VISHL(q, 30), TFB__VISET1(0x80000000u));
    s = TFB__VSEL(TFB__VEQ(TFB__VFLOAT(odd), TFB__VSET1(0.0f)), s, c);
    return TFB__FN(flip)(s, neg);
}

/* sin(r + q pi/2), |r| <= pi/4: degrees 7 and 8. Sine as r(1 - 2^-24) + r(2^-24 + ...):
 * both terms have the sign of r, which keeps -0. */
TFB__INLINE TFB__VF TFB__FN(sin_quad)(TFB__VF r, TFB__VI q) {
    TFB__VF z = TFB__VMUL(r, r), s, c;
    s = TFB__VK(TFB__VSET1(-1.95182845e-4f), z, 8.33218917e-3f);
    s = TFB__VK(s, z, -0.166666552f);
    s = TFB__VK(s, z, 5.96046448e-8f);
    s = TFB__VFMA(r, TFB__VSET1(0.999999940f), TFB__VMUL(r, s));
    c = TFB__VK(TFB__VSET1(2.44325638e-5f), z, -1.38873106e-3f);
    c = TFB__VK(c, z, 4.16666456e-2f);
    c = TFB__VK(c, z, -0.5f);
    c = TFB__VK(c, z, 1.0f);
    return TFB__FN(quad)(s, c, q);
}

/* sin and cos, radians: three constants with fma, all of one sign (n = 0 keeps -0). Max
 * 1.55 ulp for |x| <= 2^17; beyond, lanes are garbage and the caller repairs them with
 * tfb__trig_large; inf and NaN give NaN here already. */
TFB__INLINE TFB__VF TFB__FN(trig)(TFB__VF x, TFB__VI shift) {
    TFB__VF k = TFB__VSET1(12582912.0f), nf = TFB__VFMA(x, TFB__VSET1(0.636619747f), k);
    TFB__VF n = TFB__VSUB(nf, k), r = TFB__VFMA(n, TFB__VSET1(-1.57079625f), x);
    r = TFB__VFMA(n, TFB__VSET1(-7.54978942e-8f), r);
    r = TFB__VFMA(n, TFB__VSET1(-5.39030295e-15f), r);
    return TFB__FN(sin_quad)(r, TFB__VIADD(TFB__VBITS(nf), shift));
}

TFB__INLINE TFB__VF TFB__FN(sin)(TFB__VF x) {
    return TFB__FN(trig)(x, TFB__VISET1(0));
}

TFB__INLINE TFB__VF TFB__FN(cos)(TFB__VF x) {
    return TFB__FN(trig)(x, TFB__VISET1(1));
}

/* sin(2 pi t) and cos(2 pi t): t - round(4t)/4 is exact for |t| <= 2^20; degrees 7 and 8,
 * 2 pi in two parts, the first rounded down (so the parts agree in sign and -0 stays).
 * Max 1.00 and 0.88 ulp. */
TFB__INLINE void TFB__FN(sincos_turns)(TFB__VF t, TFB__VF *s, TFB__VF *c) {
    TFB__VF k = TFB__VSET1(12582912.0f), nf = TFB__VFMA(t, TFB__VSET1(4.0f), k), r, z;
    TFB__VF p, g;
    r = TFB__VFMA(TFB__VSUB(nf, k), TFB__VSET1(-0.25f), t);
    z = TFB__VMUL(r, r);
    p = TFB__VK(TFB__VSET1(-75.4351273f), z, 81.5935211f);
    p = TFB__VK(p, z, -41.3416710f);
    p = TFB__VK(p, z, 3.01991605e-7f);
    p = TFB__VFMA(r, TFB__VSET1(6.28318501f), TFB__VMUL(r, p));
    g = TFB__VK(TFB__VSET1(58.8147774f), z, -85.4294968f);
    g = TFB__VK(g, z, 64.9391785f);
    g = TFB__VK(g, z, -19.7392082f);
    g = TFB__VK(g, z, 1.0f);
    *s = TFB__FN(quad)(p, g, TFB__VBITS(nf));
    *c = TFB__FN(quad)(p, g, TFB__VIADD(TFB__VBITS(nf), TFB__VISET1(1)));
}

/* ===== [11] KERNELS ================================================================= */
/* One source, compiled once per instruction set. Lanes lie along output dimensions; no
 * sum runs across them except by tfb__fold16. */

/* 0 where flags fused a * b + c or reordered a sum: a probe that cannot be folded. */
static int TFB__FN(probe)(float a, float b, float c) {
    volatile float va = a, vb = b, vc = c, product = va * vb;
    float x = va, y = vb, z = vc, p = product;
    return tfb__bits_of(x * y + z) == tfb__bits_of(p + z) &&
           tfb__bits_of((x + 1.0e8f) - 1.0e8f) != tfb__bits_of(x);
}

/* --- Lanes from and to memory that is strided or ends early. --- */
TFB__INLINE TFB__VF TFB__FN(gather)(const float *p, tfb_idx stride, tfb_idx n) {
    float lane[TFB__VW] = TFB_INIT;
    tfb_idx i;
    if (stride == 1) return TFB__VLOADN(p, n);
    for (i = 0; i < TFB__VW && i < n; i++) lane[i] = p[i * stride];
    return TFB__VLOAD(lane);
}

TFB__INLINE void TFB__FN(scatter)(float *p, tfb_idx stride, TFB__VF v, tfb_idx n) {
    float lane[TFB__VW];
    tfb_idx i;
    if (stride == 1) {
        TFB__VSTOREN(p, v, n);
        return;
    }
    TFB__VSTORE(lane, v);
    for (i = 0; i < TFB__VW && i < n; i++) p[i * stride] = lane[i];
}

/* v in lanes lo <= i < hi, fill in the others. */
TFB__INLINE TFB__VF TFB__FN(keep)(TFB__VF v, tfb_idx lo, tfb_idx hi, float fill) {
    TFB__VF at = TFB__VLOAD(tfb__iota), other = TFB__VSET1(fill);
    if (lo <= 0 && hi >= TFB__VW) return v;
    v = TFB__VSEL(TFB__VLT(at, TFB__VSET1((float)hi)), v, other);
    return TFB__VSEL(TFB__VLT(at, TFB__VSET1((float)lo)), other, v);
}

/* --- Packing: panels of 16 lanes from any source. --- */
/* Lanes i .. of one step, n of them valid, the rest +0. Never a pack on a big-endian
 * machine: vector tables and copy_rows are for little-endian ones. */
TFB__INLINE TFB__VF TFB__FN(source_load)(const tfb__source *from, tfb_idx at, tfb_idx n) {
    float lane[TFB__VW] = TFB_INIT;
    tfb_idx i;
    if (from->dtype == TFB_F32 && n > 0)
        return TFB__VLOADN((const float *)from->x + at, n);
    if (n >= TFB__VW && from->dtype == TFB_F16)
        return TFB__VLOADH((const uint16_t *)from->x + at);
    if (n >= TFB__VW && from->dtype == TFB_BF16)
        return TFB__VLOADB((const uint16_t *)from->x + at);
    for (i = 0; i < n; i++) lane[i] = tfb__source_at(from, at + i);
    return TFB__VLOAD(lane);
}

#if TFB__VW > 1
/* w0 .. : VW steps from element `at` of VW lanes whose steps lie side by side. */
#define TFB__SQUARE_DECLARE(i) TFB__VF w##i;
#define TFB__SQUARE_F32(i)     w##i = TFB__VLOAD(f[i / 4] + i % 4 * from->lane_stride);
#define TFB__SQUARE_F16(i)     w##i = TFB__VLOADH(h[i / 4] + i % 4 * from->lane_stride);
#define TFB__SQUARE_BF16(i)    w##i = TFB__VLOADB(h[i / 4] + i % 4 * from->lane_stride);
#define TFB__SQUARE_LOAD                                                                 \
    do {                                                                                 \
        const tfb_idx far = 4 * from->lane_stride; /* few pointers reach all lanes */    \
        const uint16_t *h[4];                                                            \
        const float *f[4];                                                               \
        f[0] = (const float *)from->x + at;                                              \
        h[0] = (const uint16_t *)from->x + at;                                           \
        f[1] = f[0] + far, f[2] = f[1] + far, f[3] = f[2] + far;                         \
        h[1] = h[0] + far, h[2] = h[1] + far, h[3] = h[2] + far;                         \
        (void)f, (void)h;                                                                \
        if (from->dtype == TFB_F32) {                                                    \
            TFB__SQUARE(TFB__SQUARE_F32)                                                 \
        } else if (from->dtype == TFB_F16) {                                             \
            TFB__SQUARE(TFB__SQUARE_F16)                                                 \
        } else {                                                                         \
            TFB__SQUARE(TFB__SQUARE_BF16)                                                \
        }                                                                                \
        TFB__TURN;                                                                       \
    } while (0)
#define TFB__SQUARE_STORE(i) TFB__VSTORE(to + i * ts, w##i);

/* to[j * ts + i] = step j of lane i, for VW of each. */
TFB__INLINE void TFB__FN(turn)(const tfb__source *from, tfb_idx at, float *to,
                               tfb_idx ts) {
    TFB__SQUARE(TFB__SQUARE_DECLARE)
    TFB__SQUARE_LOAD;
    TFB__SQUARE(TFB__SQUARE_STORE)
}

/* The same for n lanes and k steps, fewer of either: by way of a copy. */
static TFB__NOINLINE void TFB__FN(turn_some)(const tfb__source *from, tfb_idx at,
                                             tfb_idx k, tfb_idx n, float *to,
                                             tfb_idx ts) {
    float x[TFB__VW * TFB__VW], y[TFB__VW * TFB__VW];
    tfb__source whole = *from;
    tfb_idx i;
    for (i = 0; i < TFB__VW; i++)
        TFB__VSTORE(x + i * TFB__VW,
                    i < n ? TFB__FN(source_load)(from, at + i * from->lane_stride, k)
                          : TFB__VSET1(0.0f));
    whole.x = x;
    whole.dtype = TFB_F32;
    whole.lane_stride = TFB__VW;
    TFB__CALL(turn, &whole, 0, y, TFB__VW);
    for (i = 0; i < TFB__VW && i < k; i++)
        TFB__VSTORE(to + i * ts, TFB__VLOAD(y + i * TFB__VW));
}
#endif

static TFB__NOINLINE void TFB__FN(pack)(const tfb__source *from, tfb_idx k, tfb_idx n,
                                        tfb_idx width, float *panel) {
    const tfb_idx ls = from->lane_stride, ks = from->k_stride;
    tfb_idx i = 0, j;
#if TFB__VW > 1
    for (; i + TFB__VW <= width && (ks == 1 || ls == 1); i += TFB__VW) {
        for (j = 0; ls != 1 && j < k; j += TFB__VW) {
            float *to = panel + i + j * TFB__PANEL;
            if (k - j >= TFB__VW && n - i >= TFB__VW)
                TFB__CALL(turn, from, i * ls + j, to, TFB__PANEL);
            else TFB__CALL(turn_some, from, i * ls + j, k - j, n - i, to, TFB__PANEL);
        }
        for (j = 0; ls == 1 && j < k; j++)
            TFB__VSTORE(panel + i + j * TFB__PANEL,
                        TFB__FN(source_load)(from, i + j * ks, n - i));
    }
#endif
    for (; i < width; i++)
        for (j = 0; j < k; j++)
            tfb__store_le(panel + i + j * TFB__PANEL,
                          i < n ? tfb__source_at(from, i * ls + j * ks) : 0.0f);
}

static void TFB__FN(collect)(tfb_idx rows, tfb_idx k, const float *x, tfb_idx rs,
                             tfb_idx ks, float *to) {
    tfb_idx i = 0, j;
#if TFB__VW > 1
    for (; rs == 1 && i + TFB__VW <= rows; i += TFB__VW) {
        tfb__source from;
        from.x = x;
        from.lane_stride = ks;
        from.dtype = TFB_F32;
        for (j = 0; j + TFB__VW <= k; j += TFB__VW)
            TFB__CALL(turn, &from, i + j * ks, to + i * k + j, k);
        for (; j < k; j++)
            TFB__CALL(scatter, to + i * k + j, k, TFB__VLOAD(x + i + j * ks), TFB__VW);
    }
#endif
    for (; i < rows; i++)
        for (j = 0; j < k; j++) to[i * k + j] = x[i * rs + j * ks];
}

#if !TFB__SMALL && TFB__PRODUCTS
/* --- Matmul: a register tile of R rows x V vectors, R and V known after inlining. The
 * accumulators are named because vectors of some instruction sets have no size. --- */
/* clang-format off */
#define TFB__TILE_4(X)       X(0) X(1) X(2) X(3)
#define TFB__TILE_8(X)       TFB__TILE_4(X) X(4) X(5) X(6) X(7)
#define TFB__TILE_COLS(X, i) X(i, 0) X(i, 1) X(i, 2) X(i, 3)
#define TFB__TILE_8X4(X)                                                                 \
    TFB__TILE_COLS(X, 0) TFB__TILE_COLS(X, 1) TFB__TILE_COLS(X, 2) TFB__TILE_COLS(X, 3)  \
    TFB__TILE_COLS(X, 4) TFB__TILE_COLS(X, 5) TFB__TILE_COLS(X, 6) TFB__TILE_COLS(X, 7)
#define TFB__TILE_OFFSET(j)                                                              \
    const tfb_idx at##j = j / per_panel * bps + j % per_panel * TFB__VW;
#define TFB__TILE_ZERO(i, j) TFB__VF c##i##j = TFB__VSET1(0.0f);
#define TFB__TILE_CARRY(i, j)                                                            \
    if (R > i && V > j)                                                                  \
        c##i##j = TFB__VMUL(TFB__VLOAD(s + i * t->lds + j * TFB__VW),                    \
                            TFB__VSET1(t->carry[row + i]));
#define TFB__TILE_B(j)                                                                   \
    TFB__VF b##j = V <= j                  ? TFB__VSET1(0.0f)                            \
                   : kind != TFB__IN_HALVES ? TFB__VLOADP(b + at##j)                     \
                   : f16                    ? TFB__VLOADH(h + at##j)                     \
                                            : TFB__VLOADB(h + at##j);
#define TFB__TILE_FETCH(j)                                                               \
    if (kind != TFB__IN_STAGES && V > j && j * TFB__VW % TFB__PANEL == 0)                \
        TFB__PREFETCH_L2(kind == TFB__IN_PANELS ? (const void *)(b + at##j + fetch)      \
                                                : (const void *)(h + at##j + fetch));
#define TFB__TILE_FMA(i, j)                                                              \
    if (V > j) c##i##j = TFB__VFMA(x, b##j, c##i##j);
#define TFB__TILE_STEP(i)                                                                \
    if (R > i) {                                                                         \
        TFB__VF x = TFB__VSET1(a[i / 3][i % 3 * lda]);                                   \
        TFB__TILE_COLS(TFB__TILE_FMA, i)                                                 \
    }
#define TFB__TILE_FOLD(i, j)                                                             \
    if (R > i && V > j)                                                                  \
        c##i##j = TFB__VADD(TFB__VLOAD(s + i * t->lds + j * TFB__VW), c##i##j);
#define TFB__TILE_BIAS(j)                                                                \
    TFB__VF d##j = V > j && t->bias ? TFB__VLOAD(t->bias + col + j * TFB__VW)            \
                                    : TFB__VSET1(0.0f);
#define TFB__TILE_LAST(i, j)                                                             \
    if (R > i && V > j) c##i##j = TFB__VFMA(alpha, c##i##j, d##j);
#define TFB__TILE_STORE(i, j)                                                            \
    if (R > i && V > j) TFB__VSTORE(out + i * ldt + j * TFB__VW, c##i##j);
#define TFB__TILE_KEEP(i, j)                                                             \
    if (R > i && V > j) TFB__VSTORE(rest + (i * V + j) * TFB__VW, c##i##j);
#define TFB__TILE_FETCH_R(i, j)                                                          \
    if (R > i && V > j && j * TFB__VW % TFB__PANEL == 0)                                 \
        TFB__PREFETCH(t->r + (row + i) * t->ldr + col + j * TFB__VW);
/* The end of a block: whole vectors in registers, all else by way of `rest`. */
#define TFB__TILE_END(ROWS, BIASES)                                                      \
    if (t->cols - col >= V * TFB__VW && !(last && (t->relu || t->r))) {                  \
        float *out = last ? t->y + row * t->ldy + col : s;                               \
        const tfb_idx ldt = last ? t->ldy : t->lds;                                      \
        if (k0 || t->add) {                                                              \
            ROWS(TFB__TILE_FOLD)                                                         \
        }                                                                                \
        if (last) {                                                                      \
            const TFB__VF alpha = TFB__VSET1(t->alpha);                                  \
            BIASES(TFB__TILE_BIAS)                                                       \
            ROWS(TFB__TILE_LAST)                                                         \
        }                                                                                \
        ROWS(TFB__TILE_STORE)                                                            \
    } else {                                                                             \
        float rest[TFB__TILE_MOST * TFB__VW];                                            \
        ROWS(TFB__TILE_KEEP)                                                             \
        TFB__CALL(finish, t, row, col, R, V * TFB__VW, k0 || t->add, last, rest);        \
    }
#define TFB__TILE_1(X)   X(0)
#define TFB__TILE_8X1(X) X(0, 0) X(1, 0) X(2, 0) X(3, 0) X(4, 0) X(5, 0) X(6, 0) X(7, 0)
#define TFB__SKINNY_ONE(i)                                                               \
    if (R > i) c##i##0 = TFB__VFMA(TFB__VSET1(a[i / 3][i % 3 * lda + k]), w0, c##i##0);
#define TFB__SKINNY_FMA(i, q)                                                            \
    if (R > i)                                                                           \
        c##i##0 = TFB__VFMA(TFB__VSET1(a[i / 3][i % 3 * lda + k + q]), w##q, c##i##0);
#define TFB__SKINNY_STEP(q)                                                              \
    if (q < lines) TFB__PREFETCH_L2(next + q * 64);                                      \
    if (q < lines && also) TFB__PREFETCH_L2(also + q * 64);                              \
    TFB__SKINNY_FMA(0, q) TFB__SKINNY_FMA(1, q) TFB__SKINNY_FMA(2, q)                    \
    TFB__SKINNY_FMA(3, q) TFB__SKINNY_FMA(4, q) TFB__SKINNY_FMA(5, q)                    \
    TFB__SKINNY_FMA(6, q) TFB__SKINNY_FMA(7, q)
/* clang-format on */

/* What a tile does with rows x width sums c of a block, for all cases. */
static TFB__NOINLINE void TFB__FN(finish)(const tfb__mm *t, tfb_idx row, tfb_idx col,
                                          tfb_idx rows, tfb_idx width, int add, int last,
                                          const float *c) {
    const TFB__VF alpha = TFB__VSET1(t->alpha), zero = TFB__VSET1(0.0f);
    const tfb_idx end = TFB__MIN(width, t->cols - col);
    tfb_idx i, j;
    for (i = 0; i < rows; i++, row++, c += width) {
        float *s = t->s + row * t->lds + col, *y = t->y + row * t->ldy + col;
        for (j = 0; j < end; j += TFB__VW) {
            const tfb_idx n = end - j;
            TFB__VF v = TFB__VLOAD(c + j);
            if (add) v = TFB__VADD(TFB__VLOADN(s + j, n), v);
            if (last)
                v = TFB__VFMA(alpha, v,
                              t->bias ? TFB__VLOADN(t->bias + col + j, n) : zero);
            if (last && t->relu) v = TFB__FN(relu)(v);
            if (last && t->r)
                v = TFB__VADD(v, TFB__VLOADN(t->r + row * t->ldr + col + j, n));
            TFB__VSTOREN((last ? y : s) + j, v, n);
        }
    }
}

/* Fills n steps of the panels under V vectors from vector vec on, step k first. */
static TFB__NOINLINE void TFB__FN(stage)(const tfb__mm *t, tfb_idx vec, int V, tfb_idx k,
                                         tfb_idx n) {
    const tfb_idx first = vec * TFB__VW, end = TFB__MIN(first + V * TFB__VW, t->cols);
    const tfb_idx size = t->source.dtype == TFB_F32 ? 4 : 2;
    tfb_idx c, width;
    for (c = first; c < first + V * TFB__VW; c += width) {
        const tfb_idx p = c / TFB__PANEL, lane = c % TFB__PANEL;
        tfb__source from = t->source;
        from.x =
            (const char *)from.x +
            (p * t->source_step + lane * from.lane_stride + k * from.k_stride) * size;
        width = TFB__MIN(TFB__PANEL - lane, first + V * TFB__VW - c);
        TFB__CALL(pack, &from, n, TFB__MAX(0, TFB__MIN(width, end - c)), width,
                  t->b + p * t->bps + lane + (t->reuse ? 0 : k * TFB__PANEL));
    }
}

/* kind says how B comes: TFB__IN_PANELS, .. */
TFB__INLINE void TFB__FN(tile)(const tfb__mm *t, tfb_idx row, tfb_idx vec, const int R,
                               const int V, const int kind) {
    const tfb_idx per_panel = TFB__PANEL / TFB__VW, col = vec * TFB__VW;
    const int as_is = kind == TFB__IN_HALVES, f16 = t->source.dtype == TFB_F16;
    const tfb_idx bps = as_is ? t->source_step : t->bps, lda = t->lda, bks = t->bks;
    const tfb_idx hks = t->source.k_stride;
    /* the largest tiles have no register left for it */
    const tfb_idx fetch = R * V > 16   ? TFB__FETCH
                          : t->fetched ? 0
                          : t->ahead   ? t->ahead
                                       : TFB__FETCH / TFB__PANEL * (as_is ? hks : bks);
    const tfb_idx start = vec / per_panel * bps + vec % per_panel * TFB__VW;
    const uint16_t *h = as_is ? (const uint16_t *)t->source.x + start : NULL;
    const float *b = as_is ? NULL : t->b + start, *first = b;
    const float *a[3], *a_end; /* rows 0, 3, 6: few registers reach all */
    float *s = t->s + row * t->lds + col;
    tfb_idx k0, k = 0;
    a[0] = t->a + row * lda;
    a[1] = a[0] + (R > 3 ? 3 * lda : 0);
    a[2] = a[0] + (R > 6 ? 6 * lda : 0);
    (void)h, (void)first, (void)f16, (void)fetch;
    TFB__TILE_4(TFB__TILE_OFFSET)
    for (k0 = 0; k0 == 0 || k0 < t->k; k0 += TFB__BLOCK) {
        const tfb_idx end = TFB__MIN(k0 + TFB__BLOCK, t->k);
        const int last = t->last && end == t->k;
        TFB__TILE_8X4(TFB__TILE_ZERO)
        if (last && t->r) {
            TFB__TILE_8X4(TFB__TILE_FETCH_R)
        }
        if (t->carry) {
            TFB__TILE_8X4(TFB__TILE_CARRY)
        }
        while (k < end) {
            const int staged = kind == TFB__IN_STAGES;
            const tfb_idx stop = staged ? TFB__MIN(k + TFB__STAGE, end) : end;
            if (staged) {
                TFB__CALL(stage, t, vec, V, k, stop - k);
                if (t->reuse) b = first;
            }
            for (a_end = a[0] + (stop - k); a[0] != a_end;) {
                TFB__TILE_4(TFB__TILE_B)
                TFB__TILE_4(TFB__TILE_FETCH)
                TFB__TILE_8(TFB__TILE_STEP)
                if (as_is) h += hks;
                else b += bks;
                a[0]++;
                a[1]++;
                a[2]++;
            }
            k = stop;
        }
        TFB__TILE_END(TFB__TILE_8X4, TFB__TILE_4)
    }
}

/* All panels from rows of B that lie as they are: a whole row at a time, which reads
 * memory in longer runs than panel by panel. */
static void TFB__FN(copy_rows)(const tfb__mm *t) {
    const tfb__source *from = &t->source;
    const tfb_idx size = from->dtype == TFB_F32 ? 4 : 2, ks = from->k_stride;
    const tfb_idx end = TFB__PANEL_COUNT(t->cols) * TFB__PANEL;
    tfb_idx k, c;
    for (k = 0; k < t->k; k++) {
        float *to = t->b + k * TFB__PANEL;
        for (c = 0; c < end; c += TFB__VW) {
            const char *row = (const char *)from->x + (k * ks + c) * size;
            TFB__VF v = TFB__FN(source_load)(from, k * ks + c, t->cols - c);
            if (c % TFB__PANEL == 0) TFB__PREFETCH_L2(row + TFB__STAGE * ks * size);
            TFB__VSTORE(to + c / TFB__PANEL * t->bps + c % TFB__PANEL, v);
        }
    }
}

#define TFB__TILE_NAME(R, V)   TFB__CAT(TFB__CAT(tfb__tile##R##x##V, _), TFB__SUFFIX)
#define TFB__TILE_STAGED(R, V) TFB__CAT(TFB__CAT(tfb__staged##R##x##V, _), TFB__SUFFIX)
#define TFB__TILE_HALF(R, V)   TFB__CAT(TFB__CAT(tfb__half##R##x##V, _), TFB__SUFFIX)
#define TFB__TILE_DEFINE(R, V)                                                           \
    static TFB__NOINLINE void TFB__TILE_NAME(R, V)(const tfb__mm *t, tfb_idx row,        \
                                                   tfb_idx vec) {                        \
        TFB__CALL(tile, t, row, vec, R, V, TFB__IN_PANELS);                              \
    }                                                                                    \
    static TFB__NOINLINE void TFB__TILE_STAGED(R, V)(const tfb__mm *t, tfb_idx row,      \
                                                     tfb_idx vec) {                      \
        if (V * TFB__VW <= TFB__PANEL)                                                   \
            TFB__CALL(tile, t, row, vec, R, V, TFB__IN_STAGES);                          \
    }                                                                                    \
    static TFB__NOINLINE void TFB__TILE_HALF(R, V)(const tfb__mm *t, tfb_idx row,        \
                                                   tfb_idx vec) {                        \
        if (R <= TFB__HALF_ROWS) TFB__CALL(tile, t, row, vec, R, V, TFB__IN_HALVES);     \
    }
TFB__TILES(TFB__TILE_DEFINE)

#if TFB__VW > 1
/* The first R rows of A times VW rows of W that lie as they are: squares of W are turned
 * in registers, and written to the panels only if other rows will need them. The next
 * rows of W are fetched meanwhile in the order of memory, a page at a time where they
 * follow each other without a gap: that is as fast as only reading them. */
TFB__INLINE void TFB__FN(turning)(const tfb__mm *t, tfb_idx col, const int R) {
    const int V = 1;
    const tfb__source *from = &t->source;
    const tfb_idx left = t->cols - col, lda = t->lda, ls = from->lane_stride;
    const tfb_idx ts = TFB__PANEL, row = 0;
    const tfb_idx size = from->dtype == TFB_F32 ? 4 : 2;
    const tfb_idx lines = TFB__VW * TFB__VW * size / 64;
    const tfb_idx group = TFB__VW * ls * size; /* bytes; fetched ones lie far enough on */
    const tfb_idx groups = group > 0 && group < TFB__AHEAD ? TFB__AHEAD / group : 1;
    const char *ahead = (const char *)from->x + col * ls * size + groups * group;
    const float *a[3];
    float *s = t->s + col;
    float *panel = t->b + col / TFB__PANEL * t->bps + (t->reuse ? 0 : col % TFB__PANEL);
    tfb_idx k0, k = 0;
    a[0] = t->a;
    a[1] = a[0] + (R > 3 ? 3 * lda : 0);
    a[2] = a[0] + (R > 6 ? 6 * lda : 0);
    for (k0 = 0; k0 == 0 || k0 < t->k; k0 += TFB__BLOCK) {
        const tfb_idx end = TFB__MIN(k0 + TFB__BLOCK, t->k);
        const int last = t->last && end == t->k;
        float *to = panel;
        TFB__TILE_8X1(TFB__TILE_ZERO)
        while (k < end) {
            const tfb_idx at = col * ls + k, steps = TFB__MIN(TFB__VW, end - k);
            const tfb_idx line = k * TFB__VW * size / 64, pitch = t->k * size / 64;
            const char *next = ahead + (ls == t->k || !pitch ? line * 64
                                                             : line / pitch * ls * size +
                                                                   line % pitch * 64);
            const char *also =
                t->also ? t->also + (col * t->k + k * TFB__VW) * size : NULL;
            tfb_idx q;
            if (left >= TFB__VW && steps == TFB__VW) {
                TFB__SQUARE(TFB__SQUARE_DECLARE)
                TFB__SQUARE_LOAD;
                if (!t->reuse) {
                    TFB__SQUARE(TFB__SQUARE_STORE)
                }
                TFB__SQUARE(TFB__SKINNY_STEP)
                k += TFB__VW;
            } else {
                TFB__CALL(turn_some, from, at, steps, left, to, ts);
                for (q = 0; q < steps; q++, k++) {
                    const TFB__VF w0 = TFB__VLOAD(to + q * ts);
                    TFB__TILE_8(TFB__SKINNY_ONE)
                }
            }
            if (!t->reuse) to += steps * ts;
        }
        panel = to;
        TFB__TILE_END(TFB__TILE_8X1, TFB__TILE_1)
    }
}

/* With panels to fill, all lanes of the last one are gone through. */
#define TFB__SKINNY_DEFINE(R)                                                            \
    static TFB__NOINLINE void TFB__CAT(tfb__turning##R##_,                               \
                                       TFB__SUFFIX)(const tfb__mm *t) {                  \
        const tfb_idx end =                                                              \
            t->reuse ? t->cols : t->cols + (-t->cols & (TFB__PANEL - 1));                \
        tfb_idx col;                                                                     \
        for (col = 0; col < end; col += TFB__VW) TFB__CALL(turning, t, col, R);          \
    }
#define TFB__SKINNY_8(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
TFB__SKINNY_8(TFB__SKINNY_DEFINE)
#endif

/* Strips of as many rows as a tile holds, evened out; each tile takes what it can of a
 * strip, the widest first, but three vectors of four would leave a thin one. */
static void TFB__FN(mm)(const tfb__mm *t) {
    const tfb_idx vecs = TFB__PANEL_COUNT(t->cols) * (TFB__PANEL / TFB__VW);
    tfb_idx row = 0, rows;
    int staged = t->staged;
    /* 16-bit panels, or rows of a multiple of their width, are read as they are while
     * rows of A are few. */
    const int half = t->staged && t->reuse && t->source.dtype != TFB_F32 &&
                     t->source.lane_stride == 1 && !TFB__BIG_ENDIAN &&
                     ((t->source.little && t->source.k_stride == TFB__PANEL) ||
                      t->cols % TFB__PANEL == 0);
#if TFB__VW > 1
    if (t->staged && t->source.k_stride == 1 && !t->carry &&
        t->source_step == TFB__PANEL * t->source.lane_stride) {
        rows = TFB__MIN(t->rows, TFB__SKINNY);
#define TFB__SKINNY_RUN(R)                                                               \
    if (rows == R) TFB__CAT(tfb__turning##R##_, TFB__SUFFIX)(t);
        TFB__SKINNY_8(TFB__SKINNY_RUN)
#undef TFB__SKINNY_RUN
        row = rows;
        staged = 0;
    }
#endif
    if (staged && !t->reuse && !TFB__BIG_ENDIAN && !t->source.little &&
        t->source.lane_stride == 1 && t->source_step == TFB__PANEL) {
        TFB__CALL(copy_rows, t);
        staged = 0;
    }
    for (; row < t->rows; row += rows) {
        const tfb_idx rest = t->rows - row;
        tfb_idx vec = 0;
        rows = half ? TFB__MIN(TFB__HALF_ROWS, TFB__TILE_ROWS) : TFB__TILE_ROWS;
        rows = (rest + rows - 1) / rows;
        rows = (rest + rows - 1) / rows;
#define TFB__TILE_RUN(R, V)                                                              \
    if (rows == R)                                                                       \
        for (; vec + V <= vecs && (V != 3 || vec + 4 != vecs); vec += V) {               \
            if (staged && !half && V * TFB__VW > TFB__PANEL) break;                      \
            if (half) TFB__TILE_HALF(R, V)(t, row, vec);                                 \
            else if (staged) TFB__TILE_STAGED(R, V)(t, row, vec);                        \
            else TFB__TILE_NAME(R, V)(t, row, vec);                                      \
        }
        TFB__TILES(TFB__TILE_RUN)
#undef TFB__TILE_RUN
        staged &= t->reuse;
    }
}

#undef TFB__TILE_COLS
#undef TFB__TILE_8
#undef TFB__TILE_8X4
#undef TFB__TILE_4
#undef TFB__TILE_OFFSET
#undef TFB__TILE_ZERO
#undef TFB__TILE_CARRY
#undef TFB__TILE_B
#undef TFB__TILE_FMA
#undef TFB__TILE_STEP
#undef TFB__TILE_FOLD
#undef TFB__TILE_BIAS
#undef TFB__TILE_LAST
#undef TFB__TILE_FETCH_R
#undef TFB__TILE_STORE
#undef TFB__TILE_KEEP
#undef TFB__TILE_END
#undef TFB__TILE_FETCH
#undef TFB__TILE_8X1
#undef TFB__TILE_1
#undef TFB__TILE_DEFINE
#undef TFB__SQUARE_DECLARE
#undef TFB__SQUARE_F32
#undef TFB__SQUARE_F16
#undef TFB__SQUARE_BF16
#undef TFB__SQUARE_LOAD
#undef TFB__SQUARE_STORE
#undef TFB__SKINNY_DEFINE
#undef TFB__SKINNY_8
#undef TFB__SKINNY_ONE
#undef TFB__SKINNY_FMA
#undef TFB__SKINNY_STEP
#endif

/* --- Elementwise. --- */
TFB__INLINE TFB__VF TFB__FN(identity)(TFB__VF x) {
    return x;
}

#if TFB__SMALL
/* y = fn(x). */
static void TFB__FN(map)(tfb_fn fn, tfb_idx n, const float *x, float *y) {
    tfb_idx i;
    for (i = 0; i < n; i++) {
        float v = x[i], other;
        switch (fn) {
#define TFB__MAP(NAME, name)                                                             \
    case TFB_FN_##NAME: v = TFB__FN(name)(v); break;
            TFB__ACT_LIST(TFB__MAP)
            TFB__FN_EXP(TFB__MAP)
#undef TFB__MAP
        default: break;
        }
        if (TFB__IS_TRIG(fn, SIN)) tfb__trig_large(v, &v, &other);
        if (TFB__IS_TRIG(fn, COS)) tfb__trig_large(v, &other, &v);
        y[i] = v;
    }
}
#else
/* y = fn(x); a call for each function, so that its loop stays as tight as it can be. */
static void TFB__FN(map)(tfb_fn fn, tfb_idx n, const float *x, float *y) {
    tfb_idx i, j;
    switch ((int)fn) {
#define TFB__MAP(NAME, name)                                                             \
    case TFB_FN_##NAME:                                                                  \
        for (i = 0; i < n; i += TFB__VW) {                                               \
            TFB__VF v = TFB__VLOADN(x + i, n - i), r = TFB__FN(name)(v);                 \
            float lane[TFB__VW], other;                                                  \
            TFB__VSTOREN(y + i, r, n - i);                                               \
            if (!TFB__IS_TRIG(fn, SIN) && !TFB__IS_TRIG(fn, COS)) continue;              \
            TFB__VSTORE(lane, v);                                                        \
            for (j = 0; j < TFB__VW && j < n - i; j++) { /* vectors end at 2^17 */       \
                if (lane[j] >= -131072.0f && lane[j] <= 131072.0f) continue;             \
                if (TFB__IS_TRIG(fn, SIN)) tfb__trig_large(lane[j], y + i + j, &other);  \
                else tfb__trig_large(lane[j], &other, y + i + j);                        \
            }                                                                            \
        }                                                                                \
        break;
        TFB_FN_LIST(TFB__MAP)
#undef TFB__MAP
    }
}

static void TFB__FN(epilogue)(const tfb__epilogue *e) {
    float part[2][TFB__TASK_COLS / 2];
    tfb_idx row, c;
    for (row = 0; row < e->rows; row++) {
        float *s = e->s + row * e->s_rs;
        const float *up = e->up ? e->up + row * e->s_rs : NULL;
        if (e->interleaved) {
            for (c = 0; c < e->cols; c++) {
                part[0][c] = s[2 * c];
                part[1][c] = s[2 * c + 1];
            }
            s = part[0];
            up = part[1];
        }
        if (e->act != TFB_FN_IDENTITY) TFB__CALL(map, e->act, e->cols, s, s);
        for (c = 0; c < e->cols; c += TFB__VW) {
            const tfb_idx n = e->cols - c;
            TFB__VF v = TFB__VLOADN(s + c, n);
            if (up) v = TFB__VMUL(v, TFB__VLOADN(up + c, n));
            if (e->r)
                v = TFB__VADD(
                    v, TFB__FN(gather)(e->r + row * e->r_rs + c * e->r_cs, e->r_cs, n));
            TFB__CALL(scatter, e->y + row * e->y_rs + c * e->y_cs, e->y_cs, v, n);
        }
    }
}

#endif

/* --- Rows: element i goes to lane i mod 16. --- */
static float TFB__FN(row_sum)(tfb_idx n, const float *x) {
    float lane[TFB__LANES];
    tfb_idx l, i;
    for (l = 0; l < TFB__LANES; l += TFB__VW) {
        TFB__VF sum = TFB__VSET1(0.0f);
        for (i = l; i < n; i += TFB__LANES)
            sum = TFB__VADD(sum, TFB__VLOADN(x + i, n - i));
        TFB__VSTORE(lane + l, sum);
    }
    return tfb__fold16(lane);
}

static float TFB__FN(row_squares)(tfb_idx n, const float *x, float mean) {
    float lane[TFB__LANES];
    tfb_idx l, i;
    for (l = 0; l < TFB__LANES; l += TFB__VW) {
        TFB__VF sum = TFB__VSET1(0.0f);
        for (i = l; i < n; i += TFB__LANES) {
            TFB__VF d = TFB__VSUB(TFB__VLOADN(x + i, n - i), TFB__VSET1(mean));
            d = TFB__FN(keep)(d, 0, n - i, 0.0f);
            sum = TFB__VFMA(d, d, sum);
        }
        TFB__VSTORE(lane + l, sum);
    }
    return tfb__fold16(lane);
}

static float TFB__FN(row_max)(tfb_idx n, const float *x) {
    float lane[TFB__VW], max = -FLT_MAX;
    TFB__VF v = TFB__VSET1(max);
    tfb_idx i;
    for (i = 0; i < n; i += TFB__VW)
        v = TFB__VMAX(TFB__FN(keep)(TFB__VLOADN(x + i, n - i), 0, n - i, -FLT_MAX), v);
    TFB__VSTORE(lane, v);
    for (i = 0; i < TFB__VW; i++) max = lane[i] > max ? lane[i] : max;
    return max;
}

static void TFB__FN(norm)(const tfb__norm *t) {
    const float *x = t->x;
    float mean = 0, scale, count = (float)t->n;
    tfb_idx i;
    if (t->r || t->sum) {
        float *s = t->sum ? t->sum : t->y;
        for (i = 0; i < t->n; i += TFB__VW) {
            TFB__VF v = TFB__VLOADN(x + i, t->n - i);
            if (t->r) v = TFB__VADD(v, TFB__VLOADN(t->r + i, t->n - i));
            TFB__VSTOREN(s + i, v, t->n - i);
        }
        x = s;
    }
    if (t->centre) mean = TFB__FN(row_sum)(t->n, x) / count;
    scale = TFB__FN(row_squares)(t->n, x, mean);
    scale = TFB__SQRT(t->l2 ? scale : scale / count + t->eps);
    if (t->l2 && t->eps > scale) scale = t->eps; /* so NaN stays */
    scale = 1.0f / scale;
    for (i = 0; i < t->n; i += TFB__VW) {
        TFB__VF v = TFB__VSUB(TFB__VLOADN(x + i, t->n - i), TFB__VSET1(mean));
        TFB__VF w = t->w ? TFB__VLOADN(t->w + i, t->n - i) : TFB__VSET1(1.0f);
        TFB__VF b = t->b ? TFB__VLOADN(t->b + i, t->n - i) : TFB__VSET1(0.0f);
        v = TFB__VFMA(TFB__VMUL(v, TFB__VSET1(scale)), w, b);
        TFB__VSTOREN(t->y + i, v, t->n - i);
    }
}

static float TFB__FN(softmax)(tfb_idx n, const float *x, float *y) {
    float lane[TFB__LANES], sum, max = TFB__FN(row_max)(n, x);
    tfb_idx l, i;
    for (l = 0; l < TFB__LANES; l += TFB__VW) {
        TFB__VF all = TFB__VSET1(0.0f);
        for (i = l; i < n; i += TFB__LANES) {
            TFB__VF p = TFB__VSUB(TFB__VLOADN(x + i, n - i), TFB__VSET1(max));
            p = TFB__FN(keep)(TFB__FN(exp)(p), 0, n - i, 0.0f);
            TFB__VSTOREN(y + i, p, n - i);
            all = TFB__VADD(all, p);
        }
        TFB__VSTORE(lane + l, all);
    }
    sum = tfb__fold16(lane);
    if (sum >= 0 && sum <= 0) return -TFB__FLT_INF; /* nothing but -inf: y is zeros */
    for (i = 0; i < n; i += TFB__VW)
        TFB__VSTOREN(y + i, TFB__VDIV(TFB__VLOADN(y + i, n - i), TFB__VSET1(sum)), n - i);
    TFB__VSTORE(lane, TFB__FN(log)(TFB__VSET1(sum)));
    return max + lane[0];
}

/* Cosine and sine of pos * (hi + lo) turns. The fma gives the product's error, so that
 * nothing is lost before the whole turns are dropped: CONTRACT section 2. */
static void TFB__FN(turns)(tfb_idx n, float pos, const float *hi, const float *lo,
                           float *cosine, float *sine) {
    const TFB__VF p = TFB__VSET1(pos), round = TFB__VSET1(12582912.0f);
    tfb_idx i;
    for (i = 0; i < n; i += TFB__VW) {
        TFB__VF f = TFB__VLOADN(hi + i, n - i), t = TFB__VMUL(p, f);
        TFB__VF e = TFB__VFMA(p, f, TFB__VSUB(TFB__VSET1(0.0f), t));
        t = TFB__VSUB(t, TFB__VSUB(TFB__VADD(t, round), round));
        t = TFB__VADD(t, TFB__VFMA(p, TFB__VLOADN(lo + i, n - i), e));
        TFB__CALL(sincos_turns, t, &e, &f);
        TFB__VSTOREN(sine + i, e, n - i);
        TFB__VSTOREN(cosine + i, f, n - i);
    }
}

static void TFB__FN(rotate)(tfb_idx n, const float *x0, const float *x1, tfb_idx xs,
                            float *y0, float *y1, tfb_idx ys, const float *cosine,
                            const float *sine) {
    tfb_idx i;
    for (i = 0; i < n; i += TFB__VW) {
        TFB__VF c = TFB__VLOADN(cosine + i, n - i), s = TFB__VLOADN(sine + i, n - i);
        TFB__VF a = TFB__FN(gather)(x0 + i * xs, xs, n - i);
        TFB__VF b = TFB__FN(gather)(x1 + i * xs, xs, n - i);
        TFB__VF minus = TFB__VFLOAT(TFB__VIXOR(TFB__VBITS(s), TFB__VISET1(0x80000000u)));
        TFB__CALL(scatter, y0 + i * ys, ys, TFB__VFMA(a, c, TFB__VMUL(b, minus)), n - i);
        TFB__CALL(scatter, y1 + i * ys, ys, TFB__VFMA(b, c, TFB__VMUL(a, s)), n - i);
    }
}

/* --- Attention: a block of query rows of one kv head, tile after tile of keys. --- */
#undef TFB__SEEN
#define TFB__SEEN(see, c) ((unsigned)((see) >> (c)) & ((1u << TFB__VW) - 1u))

TFB__INLINE float TFB__FN(exp1)(float x) {
    float lane[TFB__VW];
    TFB__VSTORE(lane, TFB__FN(exp)(TFB__VSET1(x)));
    return lane[0];
}

#if !TFB__SMALL && TFB__HAS(ATTENTION)
/* n floats of a row that may have gaps or 16-bit elements. */
static void TFB__FN(attn_load)(const tfb_tensor *t, const char *x, tfb_idx n, float *to) {
    tfb__source from;
    tfb_idx i = 0;
    memset((void *)&from, 0, sizeof from);
    from.x = x;
    from.dtype = t->dtype;
    for (; t->stride[3] == 1 && i < n; i += TFB__VW)
        TFB__VSTOREN(to + i, TFB__FN(source_load)(&from, i, n - i), n - i);
    for (; i < n; i++) to[i] = tfb__source_at(&from, i * t->stride[3]);
}

static void TFB__FN(attn_queries)(const tfb__attn *a, tfb__attn_state *w) {
    tfb_idx r;
    for (r = 0; r < w->rows; r++) {
        const tfb_idx h = w->head[r], i = TFB__MAX(0, w->token[r]);
        const float *q = (const float *)a->q.data + w->seq.batch * a->q.stride[0] +
                         h * a->q.stride[1] + i * a->q.stride[2];
        TFB__CALL(attn_load, &a->q, (const char *)q, a->D, w->q + r * a->D);
        if (w->trig) tfb__attn_prepare(a, w, 0, i, w->at[r], w->q + r * a->D);
    }
}

/* Keys that are to be normed and turned first. */
static void TFB__FN(attn_keys)(const tfb__attn *a, const tfb__attn_state *w,
                               const tfb__attn_run *run) {
    const tfb_idx step = a->k.stride[2] * (tfb_idx)tfb_dtype_size(a->k.dtype);
    tfb_idx i;
    for (i = 0; i < run->len; i++) {
        TFB__CALL(attn_load, &a->k, run->k + i * step, a->D, w->ready + i * a->D);
        tfb__attn_prepare(a, w, 1, run->row + i, run->n + i, w->ready + i * a->D);
    }
}

/* Scores of a run whose keys lie in panels already, from the first lane of its first
 * panel to the last of its last: lanes that are no keys of the run are not seen. */
static void TFB__FN(attn_scores_cached)(const tfb__attn *a, tfb__attn_state *w,
                                        const tfb__attn_run *run, int mixed) {
    const tfb_idx lane = run->n % TFB__PANEL, at = run->n % TFB__KT - lane, D = a->D;
    const tfb_idx size = (tfb_idx)tfb_dtype_size(a->k.dtype);
    const int in_place = a->k.dtype == TFB_F32;
    tfb__attn_run whole = *run;
    tfb_idx r, p, c0, c1;
    tfb__mm mm;
    whole.n -= lane;
    whole.k -= lane * size;
    whole.len = TFB__PANEL_COUNT(run->len + lane) * TFB__PANEL;
    memset((void *)&mm, 0, sizeof mm);
    mm.ahead = tfb__attn_ahead(a, w, run, 0);
    mm.source.x = whole.k;
    mm.source.lane_stride = 1;
    mm.source.k_stride = TFB__PANEL;
    mm.source.dtype = a->k.dtype;
    mm.source.little = 1;
    mm.source_step = D * TFB__PANEL;
    mm.k = mm.lda = D;
    mm.bks = TFB__PANEL;
    mm.bps = D * TFB__PANEL;
    mm.lds = mm.ldy = TFB__KT;
    mm.alpha = a->scale;
    mm.last = 1;
    mm.staged = !in_place && !mixed;
    mm.reuse = w->rows <= TFB__SKINNY;
    for (p = 0; mixed && !in_place && p < whole.len; p += TFB__PANEL) {
        tfb__source from = mm.source;
        from.x = whole.k + p * D * size;
        TFB__CALL(pack, &from, D, TFB__PANEL, TFB__PANEL, w->keys + p * D);
    }
    for (r = 0; r < w->rows; r += mm.rows) {
        c0 = 0;
        c1 = whole.len;
        mm.rows = w->rows;
        if (mixed) mm.rows = tfb__attn_strip(w, r, &whole, &c0, &c1);
        c0 = c0 / TFB__PANEL * TFB__PANEL;
        mm.cols = TFB__PANEL_COUNT(c1 - c0) * TFB__PANEL;
        mm.a = w->q + r * D;
        mm.b = in_place ? (float *)(void *)whole.k + c0 * D : w->keys + c0 * D;
        mm.s = mm.y = w->s + r * TFB__KT + at + c0;
        if (c0 < c1) TFB__CALL(mm, &mm);
    }
}

/* Scores of a run: s[r][n mod 64] = scale q k. A mixed tile goes in strips of rows, each
 * with the columns that one of its rows sees. */
static void TFB__FN(attn_scores)(const tfb__attn *a, tfb__attn_state *w,
                                 const tfb__attn_run *run, int mixed) {
    const tfb_idx at = run->n % TFB__KT, D = a->D;
    tfb_idx r, p, c0, c1;
    tfb__source from;
    tfb__mm mm;
    if (a->cache) {
        TFB__CALL(attn_scores_cached, a, w, run, mixed);
        return;
    }
    memset((void *)&mm, 0, sizeof mm);
    memset((void *)&from, 0, sizeof from);
    from.x = run->k;
    from.lane_stride = a->k.stride[2];
    from.k_stride = a->k.stride[3];
    from.dtype = a->k.dtype;
    if (w->ready) {
        TFB__CALL(attn_keys, a, w, run);
        from.x = w->ready;
        from.lane_stride = D;
        from.k_stride = 1;
        from.dtype = TFB_F32;
    }
    mm.rows = w->rows;
    mm.cols = run->len;
    mm.k = mm.lda = D;
    mm.bks = TFB__PANEL;
    mm.bps = D * TFB__PANEL;
    mm.lds = mm.ldy = TFB__KT;
    mm.a = w->q;
    mm.b = w->keys;
    mm.s = mm.y = w->s + at;
    mm.alpha = a->scale;
    mm.last = 1;
    mm.source = from;
    mm.source_step = TFB__PANEL * from.lane_stride;
    mm.staged = !mixed;
    mm.reuse = w->rows <= TFB__SKINNY;
    if (mm.reuse && tfb__attn_alike(a)) mm.also = run->v;
    if (!mixed) {
        TFB__CALL(mm, &mm);
        return;
    }
    for (p = 0; p < run->len; p += TFB__PANEL) {
        TFB__CALL(pack, &from, D, run->len - p, TFB__PANEL, w->keys + p * D);
        from.x =
            (const char *)from.x + mm.source_step * (tfb_idx)tfb_dtype_size(from.dtype);
    }
    for (r = 0; r < w->rows; r += TFB__MIXED_ROWS) {
        mm.rows = tfb__attn_strip(w, r, run, &c0, &c1);
        c0 = c0 / TFB__PANEL * TFB__PANEL;
        mm.cols = c1 - c0;
        mm.a = w->q + r * D;
        mm.b = w->keys + c0 * D;
        mm.s = mm.y = w->s + r * TFB__KT + at + c0;
        if (c0 < c1) TFB__CALL(mm, &mm);
    }
}

/* Softcap, bias and ALiBi of one row of a tile. */
static void TFB__FN(attn_modify)(const tfb__attn *a, const tfb__attn_state *w, tfb_idx r,
                                 tfb_idx tile, const float *bias, float slope) {
    const TFB__VF cap = TFB__VSET1(a->o.softcap);
    float *s = w->s + r * TFB__KT;
    tfb_idx c;
    for (c = 0; c < TFB__KT; c += TFB__VW) {
        TFB__VF x = TFB__VLOAD(s + c);
        if (!TFB__SEEN(w->see[r], c)) continue;
        if (a->o.softcap > 0) x = TFB__VMUL(cap, TFB__FN(tanh)(TFB__VDIV(x, cap)));
        if (bias) x = TFB__VADD(x, TFB__VLOAD(bias + c));
        if (a->alibi.data) {
            const TFB__VF first = TFB__VSET1((float)(tile + c - w->at[r]));
            const TFB__VF d = TFB__VADD(first, TFB__VLOAD(tfb__iota));
            x = TFB__VFMA(TFB__VSET1(slope), TFB__FN(nabs)(d), x);
        }
        TFB__VSTORE(s + c, x);
    }
}

static void TFB__FN(attn_modify_rows)(const tfb__attn *a, const tfb__attn_state *w,
                                      tfb_idx n, tfb_idx end) {
    float bias[TFB__KT] = TFB_INIT;
    tfb_idx r;
    for (r = 0; r < w->rows; r++) {
        const tfb_idx h = w->head[r];
        const float *slope = (const float *)a->alibi.data;
        if (!w->see[r]) continue;
        if (slope) slope += w->seq.batch * a->alibi.stride[0] + h * a->alibi.stride[1];
        if (a->bias.data) tfb__attn_bias(a, w, r, n, end, bias);
        TFB__CALL(attn_modify, a, w, r, n / TFB__KT * TFB__KT, a->bias.data ? bias : NULL,
                  slope ? *slope : 0.0f);
    }
}

/* Hides what mask and bias hide; rows with the same mask and bias follow each other. */
static void TFB__FN(attn_hide)(const tfb__attn *a, tfb__attn_state *w, tfb_idx n,
                               tfb_idx end) {
    const TFB__VF least = TFB__VSET1(-FLT_MAX); /* only -inf is below */
    float bias[TFB__KT] = TFB_INIT;
    uint64_t hidden = 0;
    tfb_idx r, c, mask0 = 0, bias0 = 0;
    int known = 0;
    for (r = 0; r < w->rows; r++) {
        const tfb_idx mask_row = tfb__attn_mask_row(w, &a->mask, r);
        const tfb_idx bias_row = tfb__attn_mask_row(w, &a->bias, r);
        if (!w->see[r]) continue;
        if (!known || mask_row != mask0 || bias_row != bias0) {
            hidden = a->mask.data ? tfb__attn_masked(a, w, r, n, end) : 0;
            if (a->bias.data) tfb__attn_bias(a, w, r, n, end, bias);
            for (c = 0; a->bias.data && c < TFB__KT; c += TFB__VW)
                hidden |= (uint64_t)TFB__VLANES(TFB__VLT(TFB__VLOAD(bias + c), least))
                          << c;
        }
        known = 1;
        mask0 = mask_row;
        bias0 = bias_row;
        w->see[r] &= ~hidden;
    }
}

/* The scores of keys n .. end - 1 of one tile; 0 if no row sees any of them. */
static uint64_t TFB__FN(attn_tile)(const tfb__attn *a, tfb__attn_state *w, tfb_idx n,
                                   tfb_idx end, int *mixed) {
    uint64_t any = tfb__attn_see(w, n, end, mixed);
    tfb__attn_run run;
    if (any && (a->mask.data || a->bias.data)) {
        TFB__CALL(attn_hide, a, w, n, end);
        any = tfb__attn_any(w, n, end, mixed);
    }
    if (!any) return 0;
    for (run = tfb__attn_run_of(a, w, n, end); run.len > 0;
         run = tfb__attn_run_of(a, w, run.n + run.len, end))
        TFB__CALL(attn_scores, a, w, &run, *mixed);
    if (a->o.softcap > 0 || a->bias.data || a->alibi.data)
        TFB__CALL(attn_modify_rows, a, w, n, end);
    return any;
}

TFB__INLINE TFB__VF TFB__FN(attn_max)(const float *s, uint64_t see) {
    const TFB__VF low = TFB__VSET1(-FLT_MAX);
    TFB__VF v = low;
    tfb_idx c;
    if (see == TFB__ALL_SEEN)
        for (c = 0; c < TFB__KT; c += TFB__VW) v = TFB__VMAX(TFB__VLOAD(s + c), v);
    else
        for (c = 0; c < TFB__KT; c += TFB__VW)
            if (TFB__SEEN(see, c))
                v = TFB__VMAX(
                    TFB__VSEL(TFB__VMASK(TFB__SEEN(see, c)), TFB__VLOAD(s + c), low), v);
    return v;
}

/* Scores become weights, +0 where not seen; l follows: CONTRACT section 5. */
TFB__INLINE void TFB__FN(attn_weigh)(float *s, uint64_t see, TFB__VF m, TFB__VF carry,
                                     float *l) {
    tfb_idx c, g;
    for (g = 0; g < TFB__LANES; g += TFB__VW) {
        TFB__VF sum = TFB__VMUL(TFB__VLOAD(l + g), carry);
        for (c = g; c < TFB__KT; c += TFB__LANES) {
            TFB__VF p = TFB__FN(exp_down)(TFB__VSUB(TFB__VLOAD(s + c), m));
            if (see != TFB__ALL_SEEN)
                p = TFB__VSEL(TFB__VMASK(TFB__SEEN(see, c)), p, TFB__VSET1(0.0f));
            TFB__VSTORE(s + c, p);
            sum = TFB__VADD(sum, p);
        }
        TFB__VSTORE(l + g, sum);
    }
}

/* All rows of a tile, VW at a time: their maxima are one vector after a turn. */
static void TFB__FN(attn_softmax)(tfb__attn_state *w) {
    float top[TFB__VW * TFB__VW];
    tfb_idx r, i;
    for (r = 0; r < w->rows; r += TFB__VW) {
        const tfb_idx rows = TFB__MIN(TFB__VW, w->rows - r);
        const TFB__VF before = TFB__VLOAD(w->sum.m + r);
        TFB__VF m = before;
#define TFB__ATTN_LOAD(i) TFB__VF w##i = TFB__VLOAD(top + i * TFB__VW);
#define TFB__ATTN_MAX(i)  m = TFB__VMAX(w##i, m);
        for (i = 0; i < TFB__VW; i++)
            TFB__VSTORE(top + i * TFB__VW,
                        i < rows
                            ? TFB__FN(attn_max)(w->s + (r + i) * TFB__KT, w->see[r + i])
                            : TFB__VSET1(-FLT_MAX));
        TFB__SQUARE(TFB__ATTN_LOAD)
        TFB__TURN;
        TFB__SQUARE(TFB__ATTN_MAX)
#undef TFB__ATTN_LOAD
#undef TFB__ATTN_MAX
        TFB__VSTORE(w->sum.m + r, m);
        TFB__VSTORE(w->carry + r, TFB__FN(exp_down)(TFB__VSUB(before, m)));
        for (i = r; i < r + rows; i++) {
            const TFB__VF top_i = TFB__VSET1(w->sum.m[i]);
            const TFB__VF carry = TFB__VSET1(w->carry[i]);
            float *s = w->s + i * TFB__KT, *l = w->lanes + i * TFB__LANES;
            if (w->see[i] == TFB__ALL_SEEN)
                TFB__CALL(attn_weigh, s, TFB__ALL_SEEN, top_i, carry, l);
            else TFB__CALL(attn_weigh, s, w->see[i], top_i, carry, l);
        }
    }
}

/* 1 unless a panel holds an inf or a NaN; an integer test, which no flag can void. */
static int TFB__FN(all_finite)(tfb_idx n, const float *panel) {
    const TFB__VI exponent = TFB__VISET1(0x7F800000);
    float lane[TFB__VW];
    TFB__VI bad = TFB__VISET1(0);
    tfb_idx i;
    int finite = 1;
    for (i = 0; i < n; i += TFB__VW) {
        TFB__VI e = TFB__VIAND(TFB__VBITS(TFB__VLOADP(panel + i)), exponent);
        bad = TFB__VIADD(bad, TFB__VISHR(TFB__VIADD(e, TFB__VISET1(0x00800000)), 31));
    }
    TFB__VSTORE(lane, TFB__VFLOAT(bad));
    for (i = 0; i < TFB__VW; i++) finite &= tfb__bits_of(lane[i]) == 0;
    return finite;
}

/* acc = acc * carry + p V over the keys that each row sees only: where some value is not
 * finite, since +0 times those would leak. */
static void TFB__FN(attn_select)(const tfb__attn_state *w, const tfb__attn_run *run) {
    const tfb_idx at = run->n % TFB__KT;
    tfb_idx r, c, j;
    for (r = 0; r < w->rows; r++)
        for (c = 0; c < w->width; c += TFB__VW) {
            const float *v = w->values + c / TFB__PANEL * TFB__PANEL * TFB__KT;
            const float *p = w->s + r * TFB__KT + at;
            float *acc = w->sum.acc + r * w->width + c;
            TFB__VF sum = TFB__VMUL(TFB__VLOAD(acc), TFB__VSET1(w->carry[r]));
            v += c % TFB__PANEL;
            for (j = 0; j < run->len; j++)
                if (w->see[r] >> (at + j) & 1)
                    sum =
                        TFB__VFMA(TFB__VSET1(p[j]), TFB__VLOADP(v + j * TFB__PANEL), sum);
            TFB__VSTORE(acc, sum);
        }
}

/* The same for a mixed tile whose values are finite or not. */
static void TFB__FN(attn_values_mixed)(const tfb__attn *a, tfb__attn_state *w,
                                       const tfb__attn_run *run, tfb__mm *mm) {
    tfb_idx r, p, c0, c1;
    int finite = 1;
    for (p = 0; p < a->Dv; p += TFB__PANEL) {
        tfb__source from = mm->source;
        from.x = (const char *)from.x +
                 p * from.lane_stride * (tfb_idx)tfb_dtype_size(from.dtype);
        TFB__CALL(pack, &from, run->len, TFB__MIN(TFB__PANEL, a->Dv - p), TFB__PANEL,
                  w->values + p * TFB__KT);
        finite &= TFB__FN(all_finite)(run->len * TFB__PANEL, w->values + p * TFB__KT);
    }
    if (!finite) TFB__CALL(attn_select, w, run);
    for (r = 0; r < w->rows; r += TFB__MIXED_ROWS) {
        mm->rows = tfb__attn_strip(w, r, run, &c0, &c1);
        if (finite && c0 >= c1) continue; /* its carry waits for the next run */
        mm->cols = w->width;
        mm->k = c1 - c0;
        mm->a = w->s + r * TFB__KT + run->n % TFB__KT + c0;
        mm->b = w->values + c0 * TFB__PANEL;
        mm->s = w->sum.acc + r * w->width;
        mm->carry = w->carry + r;
        if (finite) TFB__CALL(mm, mm);
        for (p = r; p < r + mm->rows; p++) w->carry[p] = 1.0f;
    }
}

/* acc = acc * carry + p V over a run of keys, whose values stay where they are if rows
 * are few or there are no gaps. */
static void TFB__FN(attn_values)(const tfb__attn *a, tfb__attn_state *w,
                                 const tfb__attn_run *run, int mixed) {
    const int few = w->rows <= TFB__SKINNY;
    const int in_place = (few || a->v.stride[2] == a->Dv) && a->v.stride[3] == 1 &&
                         a->Dv % TFB__PANEL == 0 && !TFB__BIG_ENDIAN;
    tfb_idx r;
    tfb__mm mm;
    memset((void *)&mm, 0, sizeof mm);
    mm.source.x = run->v;
    mm.source.lane_stride = a->v.stride[3];
    mm.source.k_stride = a->v.stride[2];
    mm.source.dtype = a->v.dtype;
    mm.source.little = a->cache != NULL;
    mm.source_step = TFB__PANEL * a->v.stride[3];
    mm.bks = TFB__PANEL;
    mm.bps = TFB__PANEL * TFB__KT;
    mm.lda = TFB__KT;
    mm.lds = w->width;
    if (mixed) {
        TFB__CALL(attn_values_mixed, a, w, run, &mm);
        return;
    }
    mm.rows = w->rows;
    mm.cols = a->Dv;
    mm.k = run->len;
    mm.a = w->s + run->n % TFB__KT;
    mm.b = w->values;
    mm.s = w->sum.acc;
    mm.carry = w->carry;
    mm.staged = 1;
    mm.reuse = few;
    mm.fetched = few && tfb__attn_alike(a);
    if (a->cache) mm.ahead = tfb__attn_ahead(a, w, run, 1);
    if (in_place && a->v.dtype == TFB_F32) {
        mm.staged = 0;
        mm.b = (float *)(void *)run->v;
        mm.bks = a->v.stride[2];
        mm.bps = TFB__PANEL;
    }
    TFB__CALL(mm, &mm);
    for (r = 0; r < w->rows; r++) w->carry[r] = 1.0f;
}

/* Keys n .. end - 1 of one split into w->sum. */
static void TFB__FN(attn_split)(const tfb__attn *a, tfb__attn_state *w, tfb_idx n,
                                tfb_idx end) {
    tfb_idx r;
    int mixed;
    for (r = 0; r < w->rows; r++) w->sum.m[r] = -FLT_MAX;
    memset((void *)w->lanes, 0, (size_t)(w->rows * TFB__LANES) * sizeof(float));
    memset((void *)w->sum.acc, 0, (size_t)(w->rows * w->width) * sizeof(float));
    while (n < end) {
        const tfb_idx tile_end = TFB__MIN((n / TFB__KT + 1) * TFB__KT, end);
        if (TFB__FN(attn_tile)(a, w, n, tile_end, &mixed)) {
            tfb__attn_run run = tfb__attn_run_of(a, w, n, tile_end);
            TFB__CALL(attn_softmax, w);
            while (w->width && run.len > 0) {
                TFB__CALL(attn_values, a, w, &run, mixed);
                run = tfb__attn_run_of(a, w, run.n + run.len, tile_end);
            }
        }
        n = tfb__attn_next(w, tile_end);
    }
    for (r = 0; r < w->rows; r++) w->sum.l[r] = tfb__fold16(w->lanes + r * TFB__LANES);
}

/* all = all merged with a later part. */
static void TFB__FN(attn_fold)(const tfb__attn_state *w) {
    float e1[TFB__ROWS], e2[TFB__ROWS];
    const tfb__attn_part *all = &w->all, *part = &w->sum;
    tfb_idx r, c;
    for (r = 0; r < w->rows; r += TFB__VW) {
        const TFB__VF m1 = TFB__VLOAD(all->m + r), m2 = TFB__VLOAD(part->m + r);
        const TFB__VF m = TFB__VMAX(m1, m2), f1 = TFB__FN(exp_down)(TFB__VSUB(m1, m));
        const TFB__VF f2 = TFB__FN(exp_down)(TFB__VSUB(m2, m));
        TFB__VSTORE(e1 + r, f1);
        TFB__VSTORE(e2 + r, f2);
        TFB__VSTORE(all->m + r, m);
        TFB__VSTORE(all->l + r, TFB__VFMA(TFB__VLOAD(all->l + r), f1,
                                          TFB__VMUL(TFB__VLOAD(part->l + r), f2)));
    }
    for (r = 0; r < w->rows; r++)
        for (c = r * w->width; c < (r + 1) * w->width; c += TFB__VW)
            TFB__VSTORE(
                all->acc + c,
                TFB__VFMA(TFB__VLOAD(all->acc + c), TFB__VSET1(e1[r]),
                          TFB__VMUL(TFB__VLOAD(part->acc + c), TFB__VSET1(e2[r]))));
}

/* All keys into w->all. */
static void TFB__FN(attn_all)(const tfb__attn *a, tfb__attn_state *w) {
    tfb_idx n = w->first;
    int begun = 0;
    while (n < w->last || !begun) {
        const tfb_idx end = TFB__MIN((n / TFB__KS + 1) * TFB__KS, w->last);
        TFB__CALL(attn_split, a, w, n, end);
        if (begun) {
            TFB__CALL(attn_fold, w);
        } else {
            const tfb__attn_part first = w->sum;
            w->sum = w->all;
            w->all = first;
        }
        begun = 1;
        n = tfb__attn_next(w, end);
    }
}

/* Merges the sinks last: states with m = sink, l = 1 and no value. */
static void TFB__FN(attn_sinks)(const tfb__attn *a, const tfb__attn_state *w) {
    tfb_idx r;
    if (!a->sinks.data) return;
    memset((void *)w->sum.acc, 0, (size_t)(w->rows * w->width) * sizeof(float));
    for (r = 0; r < w->rows; r++) {
        const float *sinks = (const float *)a->sinks.data;
        w->sum.m[r] = sinks[w->head[r] * a->sinks.stride[0]];
        w->sum.l[r] = 1.0f;
    }
    TFB__CALL(attn_fold, w);
}

/* Where the output of a row begins. */
TFB__INLINE float *TFB__FN(attn_out)(const tfb__attn *a, const tfb__attn_state *w,
                                     tfb_idx r) {
    const tfb_idx *st = a->y.stride;
    return (float *)a->y.data + w->seq.batch * st[0] + w->head[r] * st[1] +
           w->out[r] * st[2];
}

static void TFB__FN(attn_store)(const tfb__attn *a, const tfb__attn_state *w) {
    const TFB__VF zero = TFB__VSET1(0.0f);
    tfb_idx r, c;
    TFB__CALL(attn_sinks, a, w);
    for (r = 0; r < w->rows; r++) {
        const float *acc = w->all.acc + r * w->width, l = w->all.l[r];
        const tfb_idx step = a->y.stride[3];
        float *y = TFB__FN(attn_out)(a, w, r);
        const TFB__VF inverse = TFB__VSET1(1.0f / l);
        for (c = 0; c < a->Dv; c += TFB__VW) {
            TFB__VF v = l <= 0 ? zero : TFB__VFMA(TFB__VLOAD(acc + c), inverse, zero);
            TFB__CALL(scatter, y + c * step, step, v, a->Dv - c);
        }
        if (a->lse.data) {
            const tfb_idx *st = a->lse.stride;
            float lane[TFB__VW];
            TFB__VSTORE(lane, TFB__FN(log)(TFB__VSET1(l)));
            ((float *)a->lse
                 .data)[w->seq.batch * st[0] + w->head[r] * st[1] + w->out[r] * st[2]] =
                l <= 0 ? -TFB__FLT_INF : w->all.m[r] + lane[0];
        }
    }
}

/* A row of tfb_attention_weights for a tile whose scores are in w->s. */
static void TFB__FN(attn_emit)(const tfb__attn *a, const tfb__attn_state *w, tfb_idx r,
                               tfb_idx n, tfb_idx end) {
    const TFB__VF m = TFB__VSET1(w->all.m[r]), inverse = TFB__VSET1(1.0f / w->all.l[r]);
    float *y = TFB__FN(attn_out)(a, w, r);
    float *s = w->s + r * TFB__KT;
    tfb__attn_run run;
    tfb_idx c;
    for (c = 0; c < TFB__KT; c += TFB__VW)
        TFB__VSTORE(s + c, TFB__VMUL(TFB__FN(exp_down)(TFB__VSUB(TFB__VLOAD(s + c), m)),
                                     inverse));
    for (run = tfb__attn_run_of(a, w, n, end); run.len > 0;
         run = tfb__attn_run_of(a, w, run.n + run.len, end))
        for (c = 0; c < run.len; c++)
            if (w->see[r] >> ((run.n + c) % TFB__KT) & 1)
                y[(run.row + c) * a->y.stride[3]] = s[(run.n + c) % TFB__KT];
}

static void TFB__FN(attn_weights)(const tfb__attn *a, tfb__attn_state *w) {
    tfb_idx n, r, j;
    int mixed;
    TFB__CALL(attn_all, a, w);
    TFB__CALL(attn_sinks, a, w);
    for (r = 0; r < w->rows; r++) {
        float *y = TFB__FN(attn_out)(a, w, r);
        for (j = 0; w->token[r] >= 0 && j < a->S; j++) y[j * a->y.stride[3]] = 0.0f;
    }
    for (n = w->first; n < w->last;) {
        const tfb_idx end = TFB__MIN((n / TFB__KT + 1) * TFB__KT, w->last);
        if (TFB__FN(attn_tile)(a, w, n, end, &mixed))
            for (r = 0; r < w->rows; r++)
                if (w->see[r]) TFB__CALL(attn_emit, a, w, r, n, end);
        n = tfb__attn_next(w, end);
    }
}

/* The items of a wave, in order, into the outputs; parts of the same task follow each
 * other, and the last part of all is where they are summed up. */
static void TFB__FN(attn_wave)(const tfb__attn *a) {
    tfb__attn_state w;
    tfb_idx i;
    for (i = 0; i < a->items; i++) {
        const tfb__attn_item *item = tfb__attn_item_of(a, i);
        tfb__attn_begin(a, item->task, 0, &w);
        w.sum = tfb__attn_part_of(a, i);
        w.all = tfb__attn_part_of(a, a->item_max);
        if (item->first) {
            const size_t rows = (size_t)w.rows * sizeof(float);
            memcpy(w.all.acc, w.sum.acc, rows * (size_t)w.width);
            memcpy(w.all.m, w.sum.m, rows);
            memcpy(w.all.l, w.sum.l, rows);
        } else {
            TFB__CALL(attn_fold, &w);
        }
        if (item->last) TFB__CALL(attn_store, a, &w);
    }
}

static void TFB__FN(attention)(void *arg, tfb_idx i, int worker) {
    const tfb__attn *a = (const tfb__attn *)arg;
    tfb__attn_state w;
    tfb__attn_item item;
    tfb_idx n;
    if (a->phase == TFB__ATTN_FOLD) {
        TFB__CALL(attn_wave, a);
        return;
    }
    memset((void *)&item, 0, sizeof item);
    item.task = i;
    if (a->phase == TFB__ATTN_SPLIT) item = *tfb__attn_item_of(a, i);
    tfb__attn_begin(a, item.task, worker, &w);
    TFB__CALL(attn_queries, a, &w);
    if (a->phase == TFB__ATTN_SPLIT) {
        w.sum = tfb__attn_part_of(a, i);
        n = item.split * TFB__KS;
        TFB__CALL(attn_split, a, &w, TFB__MAX(n, w.first), TFB__MIN(n + TFB__KS, w.last));
    } else if (a->phase == TFB__ATTN_WEIGHTS) {
        TFB__CALL(attn_weights, a, &w);
    } else {
        TFB__CALL(attn_all, a, &w);
        TFB__CALL(attn_store, a, &w);
    }
}

#endif

/* One row of all states, a block of channels at a time; y and lse may be the first's. */
static void TFB__FN(merge)(void *arg, tfb_idx row, int worker) {
    const tfb__merge *t = (const tfb__merge *)arg;
    const tfb_idx n = t->out.shape[3], st = t->out.stride[3];
    float acc[TFB__BLOCK], m = -FLT_MAX, l = 0, lane[TFB__VW];
    tfb_idx c0, c, i, found = 0;
    (void)worker;
    for (c0 = 0; c0 == 0 || c0 < n; c0 += TFB__BLOCK) {
        const tfb_idx end = TFB__MIN(TFB__BLOCK, n - c0);
        float *to = (float *)t->out.data + tfb__offset(&t->out, 3, row) + c0 * st;
        for (i = found = 0; i < t->states; i++) {
            const tfb_idx which = t->pair ? i : 0, step = t->pair ? 0 : i;
            const tfb_tensor *y = &t->y[which], *lse = &t->lse[which];
            const float *from = (const float *)y->data + tfb__offset(y, 3, row) +
                                step * t->y_step + c0 * y->stride[3];
            const float m2 =
                ((const float *)lse->data)[tfb__offset(lse, 3, row) + step * t->lse_step];
            const float top = found && m > m2 ? m : m2;
            float e1, e2;
            if (tfb__bits_of(m2) == 0xFF800000u) continue;
            e1 = TFB__FN(exp1)(m - top);
            e2 = TFB__FN(exp1)(m2 - top);
            for (c = 0; c < end; c += TFB__VW) {
                TFB__VF v =
                    TFB__FN(gather)(from + c * y->stride[3], y->stride[3], end - c);
                if (found)
                    v = TFB__VFMA(TFB__VLOAD(acc + c), TFB__VSET1(e1),
                                  TFB__VMUL(v, TFB__VSET1(e2)));
                TFB__VSTORE(acc + c, v);
            }
            l = found++ ? TFB__FMA(l, e1, e2) : 1.0f;
            m = top;
        }
        for (c = 0; c < end; c += TFB__VW) {
            TFB__VF v = found ? TFB__VLOAD(acc + c) : TFB__VSET1(0.0f);
            if (found > 1) v = TFB__VFMA(v, TFB__VSET1(1.0f / l), TFB__VSET1(0.0f));
            TFB__CALL(scatter, to + c * st, st, v, end - c);
        }
    }
    TFB__VSTORE(lane, TFB__FN(log)(TFB__VSET1(l)));
    if (t->out_lse.data)
        ((float *)t->out_lse.data)[tfb__offset(&t->out_lse, 3, row)] =
            !found      ? -TFB__FLT_INF
            : found > 1 ? m + lane[0]
                        : m;
}

#if TFB__HAS(SCAN)
/* --- Convolution and scans: 16 channels side by side. --- */
/* Lanes l .. of rows t .. of a convolution, four or one. */
TFB__INLINE void TFB__FN(conv_rows)(const tfb__conv *s, tfb_idx t, tfb_idx l, int four) {
    const TFB__VF zero = TFB__VSET1(0.0f), one = TFB__VSET1(1.0f);
    const TFB__VF bias = TFB__VLOAD(s->bias + l);
    TFB__VF s0 = zero, s1 = zero, s2 = zero, s3 = zero;
    const float *x = s->x + t * 16 + l, *w = s->w + l;
    float *y = s->y + t * 16 + l;
    tfb_idx j0, j;
    for (j0 = 0; j0 < s->taps; j0 += TFB__BLOCK) {
        const tfb_idx end = TFB__MIN(j0 + TFB__BLOCK, s->taps);
        TFB__VF b0 = zero, b1 = zero, b2 = zero, b3 = zero;
        for (j = j0; j < end; j++) {
            const TFB__VF v = TFB__VLOAD(w + j * 16);
            b0 = TFB__VFMA(v, TFB__VLOAD(x + j * 16), b0);
            if (!four) continue;
            b1 = TFB__VFMA(v, TFB__VLOAD(x + j * 16 + 16), b1);
            b2 = TFB__VFMA(v, TFB__VLOAD(x + j * 16 + 32), b2);
            b3 = TFB__VFMA(v, TFB__VLOAD(x + j * 16 + 48), b3);
        }
        s0 = j0 ? TFB__VADD(s0, b0) : b0;
        s1 = j0 ? TFB__VADD(s1, b1) : b1;
        s2 = j0 ? TFB__VADD(s2, b2) : b2;
        s3 = j0 ? TFB__VADD(s3, b3) : b3;
    }
    TFB__VSTORE(y, TFB__VFMA(one, s0, bias));
    if (!four) return;
    TFB__VSTORE(y + 16, TFB__VFMA(one, s1, bias));
    TFB__VSTORE(y + 32, TFB__VFMA(one, s2, bias));
    TFB__VSTORE(y + 48, TFB__VFMA(one, s3, bias));
}

static void TFB__FN(conv)(const tfb__conv *s) {
    tfb_idx t, l;
    for (l = 0; l < TFB__PANEL; l += TFB__VW) {
        for (t = 0; t + 4 <= s->rows; t += 4) TFB__CALL(conv_rows, s, t, l, 1);
        for (; t < s->rows; t++) TFB__CALL(conv_rows, s, t, l, 0);
    }
    if (s->act != TFB_FN_IDENTITY)
        TFB__CALL(map, s->act, s->rows * TFB__PANEL, s->y, s->y);
}

/* Makes delta of dt. May a lane's delta * a be positive? */
static int TFB__FN(scan_delta)(const tfb__scan *s) {
    const TFB__VF zero = TFB__VSET1(0.0f);
    unsigned up = 0;
    tfb_idx i, l;
    for (l = 0; l < TFB__PANEL; l += TFB__VW) {
        const TFB__VF bias = TFB__VLOAD(s->bias + l);
        for (i = l; i < s->rows * TFB__PANEL; i += TFB__PANEL) {
            TFB__VF v = TFB__VADD(TFB__VLOAD(s->dt + i), bias);
            if (s->softplus) v = TFB__FN(softplus)(v);
            else up |= TFB__VLANES(TFB__VLT(v, zero));
            TFB__VSTORE(s->dt + i, v);
        }
        for (i = l; i < (s->one ? 1 : s->n) * TFB__PANEL; i += TFB__PANEL)
            up |= TFB__VLANES(TFB__VLT(zero, TFB__VLOAD(s->a + i)));
    }
    return up != 0;
}

/* What follows the sum over states at place `at` of rows, lanes l .. */
TFB__INLINE void TFB__FN(scan_end)(const tfb__scan *s, tfb_idx at, tfb_idx l, TFB__VF y) {
    const tfb_idx row = at / TFB__PANEL;
    int i;
    for (i = 0; i < TFB__SCAN_NEXT && l == 0; i++)
        if (s->next[i]) TFB__PREFETCH(s->next[i] + row * s->next_step[i]);
    if (s->d) y = TFB__VFMA(TFB__VLOAD(s->d + l), TFB__VLOAD(s->x + at), y);
    if (s->z) y = TFB__VMUL(y, TFB__FN(silu)(TFB__VLOAD(s->z + at)));
    TFB__VSTORE(s->y + at, y);
}

/* Lanes l .. of all rows. up: exponents may be positive. The states stay in the
 * first-level cache, which keeps up with an exponential for each. */
TFB__INLINE void TFB__FN(scan_lanes)(const tfb__scan *s, tfb_idx l, int up) {
    const float *a = s->a + l;
    float *h = s->h + l;
    tfb_idx t, k;
    for (t = 0; t < s->rows; t++) {
        const float *b = s->b + t * s->bs, *c = s->c + t * s->cs;
        const TFB__VF d = TFB__VLOAD(s->dt + t * TFB__PANEL + l);
        const TFB__VF dx = TFB__VMUL(d, TFB__VLOAD(s->x + t * TFB__PANEL + l));
        TFB__VF y = TFB__VSET1(0.0f), e, v;
        for (k = 0; k < s->n; k++) {
            e = TFB__VMUL(d, TFB__VLOAD(a + k * TFB__PANEL));
            e = up ? TFB__FN(exp)(e) : TFB__FN(exp_down)(e);
            v = TFB__VMUL(dx, TFB__VSET1(b[k]));
            v = TFB__VFMA(e, TFB__VLOAD(h + k * TFB__PANEL), v);
            TFB__VSTORE(h + k * TFB__PANEL, v);
            y = TFB__VFMA(v, TFB__VSET1(c[k]), y);
        }
        TFB__CALL(scan_end, s, t * TFB__PANEL + l, l, y);
    }
}

/* Four states, or one, from k on stay in registers for all rows, whose y goes on where
 * the states before left it: with one exponential for all states memory is the limit. */
#define TFB__SCAN_STEP(i)                                                                \
    h##i = TFB__VFMA(e, h##i, TFB__VMUL(dx, TFB__VSET1(b[i])));                          \
    y = TFB__VFMA(h##i, TFB__VSET1(c[i]), y);
TFB__INLINE void TFB__FN(scan_states)(const tfb__scan *s, tfb_idx k, tfb_idx l,
                                      int four) {
    float *h = s->h + k * TFB__PANEL + l;
    TFB__VF h0 = TFB__VLOAD(h), h1 = h0, h2 = h0, h3 = h0;
    tfb_idx t;
    if (four) h1 = TFB__VLOAD(h + 16), h2 = TFB__VLOAD(h + 32), h3 = TFB__VLOAD(h + 48);
    for (t = 0; t < s->rows; t++) {
        const float *b = s->b + t * s->bs + k, *c = s->c + t * s->cs + k;
        const TFB__VF e = TFB__VLOAD(s->dt + t * TFB__PANEL + l);
        const TFB__VF dx = TFB__VLOAD(s->dx + t * TFB__PANEL + l);
        TFB__VF y = k ? TFB__VLOAD(s->y + t * TFB__PANEL + l) : TFB__VSET1(0.0f);
        TFB__SCAN_STEP(0)
        if (four) {
            TFB__SCAN_STEP(1)
            TFB__SCAN_STEP(2)
            TFB__SCAN_STEP(3)
        }
        TFB__VSTORE(s->y + t * TFB__PANEL + l, y);
    }
    TFB__VSTORE(h, h0);
    if (!four) return;
    TFB__VSTORE(h + 16, h1);
    TFB__VSTORE(h + 32, h2);
    TFB__VSTORE(h + 48, h3);
}
#undef TFB__SCAN_STEP

/* Lanes l .. of all rows where all states decay alike: dt becomes the decay. */
static void TFB__FN(scan_alike)(const tfb__scan *s, tfb_idx l) {
    const tfb_idx end = s->rows * TFB__PANEL;
    const TFB__VF a = TFB__VLOAD(s->a + l);
    tfb_idx i, k;
    for (i = l; i < end; i += TFB__PANEL) {
        const TFB__VF d = TFB__VLOAD(s->dt + i);
        TFB__VSTORE(s->dx + i, TFB__VMUL(d, TFB__VLOAD(s->x + i)));
        TFB__VSTORE(s->dt + i, TFB__FN(exp)(TFB__VMUL(d, a)));
        if (s->n == 0) TFB__VSTORE(s->y + i, TFB__VSET1(0.0f));
    }
    for (k = 0; k + 4 <= s->n; k += 4) TFB__CALL(scan_states, s, k, l, 1);
    for (; k < s->n; k++) TFB__CALL(scan_states, s, k, l, 0);
    for (i = l; i < end; i += TFB__PANEL)
        TFB__CALL(scan_end, s, i, l, TFB__VLOAD(s->y + i));
}

static void TFB__FN(scan)(const tfb__scan *s) {
    const int up = TFB__FN(scan_delta)(s);
    tfb_idx l;
    for (l = 0; l < TFB__PANEL; l += TFB__VW) {
        if (s->one) TFB__CALL(scan_alike, s, l);
        else if (up) TFB__CALL(scan_lanes, s, l, 1);
        else TFB__CALL(scan_lanes, s, l, 0);
    }
}

#endif

#if TFB__HAS(LONG_CONV)
/* --- Long convolutions: 16 channels side by side, outputs that share inputs. --- */
#undef TFB__TAP_EACH
#undef TFB__TAP_LOAD
#undef TFB__TAP_STEP
#undef TFB__TAP_STORE
#define TFB__TAP_EACH(X)  X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define TFB__TAP_LOAD(r)  TFB__VF b##r = TFB__VLOAD(b + (r)*TFB__PANEL);
#define TFB__TAP_STEP(r)  b##r = TFB__VFMA(v, TFB__VLOAD(k + ((r)-i) * TFB__PANEL), b##r);
#define TFB__TAP_STORE(r) TFB__VSTORE(b + (r)*TFB__PANEL, b##r);

/* n inputs that meet taps of all eight outputs, the first of them tap k of output 0. */
TFB__INLINE void TFB__FN(taps_all)(const float *x, const float *k, tfb_idx n, float *b) {
    tfb_idx i;
    TFB__TAP_EACH(TFB__TAP_LOAD)
    for (i = 0; i < n; i++) {
        const TFB__VF v = TFB__VLOAD(x + i * TFB__PANEL);
        TFB__TAP_EACH(TFB__TAP_STEP)
    }
    TFB__TAP_EACH(TFB__TAP_STORE)
}

/* The same for one output. */
TFB__INLINE void TFB__FN(taps_one)(const float *x, const float *k, tfb_idx n, float *b) {
    tfb_idx i;
    TFB__TAP_LOAD(0)
    for (i = 0; i < n; i++) {
        const TFB__VF v = TFB__VLOAD(x + i * TFB__PANEL);
        TFB__TAP_STEP(0)
    }
    TFB__TAP_STORE(0)
}

/* Lanes l .. of inputs lo .. hi - 1 of a run for each output by itself. */
TFB__INLINE void TFB__FN(taps_some)(const tfb__taps *s, const tfb__tap_run *u, tfb_idx l,
                                    tfb_idx lo, tfb_idx hi) {
    tfb_idx r;
    for (r = 0; r < s->outputs && lo < hi; r++) {
        const tfb_idx tap = u->tap + r, first = TFB__MAX(tap - s->taps + 1, lo);
        const tfb_idx end = TFB__MIN(tap + 1, hi);
        if (first < end)
            TFB__CALL(taps_one, u->x + first * TFB__PANEL + l,
                      u->k + (tap - first) * TFB__PANEL + l, end - first,
                      s->block + r * TFB__PANEL + l);
    }
}

/* Inputs lo .. hi - 1 meet taps of all eight, where there are eight outputs. */
TFB__INLINE void TFB__FN(taps_run)(const tfb__taps *s, const tfb__tap_run *u, tfb_idx l) {
    tfb_idx lo = TFB__MAX(u->tap + TFB__TAP_OUTPUTS - s->taps, 0);
    tfb_idx hi = TFB__MIN(u->tap + 1, u->inputs);
    if (s->outputs < TFB__TAP_OUTPUTS || lo >= hi) lo = hi = u->inputs;
    TFB__CALL(taps_some, s, u, l, 0, lo);
    if (lo < hi)
        TFB__CALL(taps_all, u->x + lo * TFB__PANEL + l,
                  u->k + (u->tap - lo) * TFB__PANEL + l, hi - lo, s->block + l);
    TFB__CALL(taps_some, s, u, l, hi, u->inputs);
}

static void TFB__FN(taps)(tfb__taps *s) {
    tfb_idx l, r;
    int i;
    for (i = 0; i < s->runs; i++)
        for (r = 0; r < s->outputs; r++) {
            const tfb_idx tap = s->run[i].tap + r;
            if (tap >= 0 && tap - s->taps + 1 < s->run[i].inputs) s->met |= 1u << r;
        }
    for (l = 0; l < TFB__PANEL; l += TFB__VW) {
        for (i = 0; i < s->runs; i++) TFB__CALL(taps_run, s, s->run + i, l);
        for (r = 0; s->last && r < s->outputs; r++) {
            float *block = s->block + r * TFB__PANEL + l;
            float *sum = s->sum + r * TFB__PANEL + l;
            TFB__VF v = TFB__VLOAD(block);
            if (s->begun >> r & 1) v = TFB__VADD(TFB__VLOAD(sum), v);
            if (s->met >> r & 1) TFB__VSTORE(sum, v);
            TFB__VSTORE(block, TFB__VSET1(0.0f));
        }
    }
    if (!s->last) return;
    s->begun |= s->met;
    s->met = 0;
}

/* --- Fourier transforms: a complex row is 16 real and 16 imaginary parts. --- */
/* Outside the contract of bits, so the scalar pass need not fuse. */
#undef TFB__VMA
#if TFB__VW == 1
#define TFB__VMA(a, b, c) ((a) * (b) + (c))
#else
#define TFB__VMA(a, b, c) TFB__VFMA(a, b, c)
#endif

/* Complex values are pairs of vectors: a is ar and ai. Products with -i and i come with
 * the sum they are part of. */
#undef TFB__C_NEW
#undef TFB__C_LOAD
#undef TFB__C_STORE
#undef TFB__C_TURN
#undef TFB__C_ADD
#undef TFB__C_SUB
#undef TFB__C_DOWN
#undef TFB__C_UP
#undef TFB__C_MA
#undef TFB__C_MUL
#define TFB__C_NEW(a) TFB__VF a##r, a##i
#define TFB__C_LOAD(q)                                                                   \
    a##q##r = TFB__VLOAD(re + q * step), a##q##i = TFB__VLOAD(im + q * step);
#define TFB__C_STORE(q)                                                                  \
    TFB__VSTORE(re + q * step, a##q##r), TFB__VSTORE(im + q * step, a##q##i);
#define TFB__C_TURN(q)                                                                   \
    {                                                                                    \
        const float *root = w + 3 * (q - 1);                                             \
        const TFB__VF c = TFB__VSET1(root[0]), s = TFB__VSET1(root[1]);                  \
        const TFB__VF t = TFB__VMA(a##q##r, c, TFB__VMUL(a##q##i, TFB__VSET1(root[2]))); \
        a##q##i = TFB__VMA(a##q##r, s, TFB__VMUL(a##q##i, c));                           \
        a##q##r = t;                                                                     \
    }
#define TFB__C_ADD(y, a, b)  y##r = TFB__VADD(a##r, b##r), y##i = TFB__VADD(a##i, b##i)
#define TFB__C_SUB(y, a, b)  y##r = TFB__VSUB(a##r, b##r), y##i = TFB__VSUB(a##i, b##i)
#define TFB__C_DOWN(y, a, b) y##r = TFB__VADD(a##r, b##i), y##i = TFB__VSUB(a##i, b##r)
#define TFB__C_UP(y, a, b)   y##r = TFB__VSUB(a##r, b##i), y##i = TFB__VADD(a##i, b##r)
#define TFB__C_MA(y, a, x, b)                                                            \
    y##r = TFB__VMA(a##r, TFB__VSET1(x), b##r), y##i = TFB__VMA(a##i, TFB__VSET1(x), b##i)
#define TFB__C_MUL(y, a, x)                                                              \
    y##r = TFB__VMUL(a##r, TFB__VSET1(x)), y##i = TFB__VMUL(a##i, TFB__VSET1(x))

/* a0 .. become their transform of 2, 3, 4, 5, 7 or 8 points. */
#undef TFB__DFT_1
#undef TFB__DFT_2
#undef TFB__DFT_3
#undef TFB__DFT_4
#undef TFB__DFT_4_OF
#undef TFB__DFT_5
#undef TFB__DFT_7
#undef TFB__DFT_8
#define TFB__DFT_1
#define TFB__DFT_2                                                                       \
    {                                                                                    \
        TFB__C_NEW(t);                                                                   \
        TFB__C_SUB(t, a0, a1);                                                           \
        TFB__C_ADD(a0, a0, a1);                                                          \
        a1r = tr, a1i = ti;                                                              \
    }
#define TFB__DFT_3                                                                       \
    {                                                                                    \
        TFB__C_NEW(t);                                                                   \
        TFB__C_NEW(d);                                                                   \
        TFB__C_NEW(m);                                                                   \
        TFB__C_ADD(t, a1, a2);                                                           \
        TFB__C_SUB(d, a1, a2);                                                           \
        TFB__C_MA(m, t, -0.5f, a0);                                                      \
        TFB__C_MUL(d, d, 0.866025404f);                                                  \
        TFB__C_ADD(a0, a0, t);                                                           \
        TFB__C_DOWN(a1, m, d);                                                           \
        TFB__C_UP(a2, m, d);                                                             \
    }
#define TFB__DFT_4_OF(b0, b1, b2, b3)                                                    \
    {                                                                                    \
        TFB__C_NEW(t0);                                                                  \
        TFB__C_NEW(t1);                                                                  \
        TFB__C_NEW(t2);                                                                  \
        TFB__C_NEW(t3);                                                                  \
        TFB__C_ADD(t0, b0, b2);                                                          \
        TFB__C_SUB(t1, b0, b2);                                                          \
        TFB__C_ADD(t2, b1, b3);                                                          \
        TFB__C_SUB(t3, b1, b3);                                                          \
        TFB__C_ADD(b0, t0, t2);                                                          \
        TFB__C_SUB(b2, t0, t2);                                                          \
        TFB__C_DOWN(b1, t1, t3);                                                         \
        TFB__C_UP(b3, t1, t3);                                                           \
    }
#define TFB__DFT_4 TFB__DFT_4_OF(a0, a1, a2, a3)
#define TFB__DFT_5                                                                       \
    {                                                                                    \
        TFB__C_NEW(t1);                                                                  \
        TFB__C_NEW(t2);                                                                  \
        TFB__C_NEW(m);                                                                   \
        TFB__C_NEW(n);                                                                   \
        TFB__C_NEW(u);                                                                   \
        TFB__C_NEW(v);                                                                   \
        TFB__C_ADD(t1, a1, a4);                                                          \
        TFB__C_ADD(t2, a2, a3);                                                          \
        TFB__C_SUB(a1, a1, a4);                                                          \
        TFB__C_SUB(a2, a2, a3);                                                          \
        TFB__C_MA(m, t1, 0.309016994f, a0);                                              \
        TFB__C_MA(m, t2, -0.809016994f, m);                                              \
        TFB__C_MA(n, t1, -0.809016994f, a0);                                             \
        TFB__C_MA(n, t2, 0.309016994f, n);                                               \
        TFB__C_MUL(u, a1, 0.951056516f);                                                 \
        TFB__C_MA(u, a2, 0.587785252f, u);                                               \
        TFB__C_MUL(v, a1, 0.587785252f);                                                 \
        TFB__C_MA(v, a2, -0.951056516f, v);                                              \
        TFB__C_ADD(t1, t1, t2);                                                          \
        TFB__C_ADD(a0, a0, t1);                                                          \
        TFB__C_DOWN(a1, m, u);                                                           \
        TFB__C_UP(a4, m, u);                                                             \
        TFB__C_DOWN(a2, n, v);                                                           \
        TFB__C_UP(a3, n, v);                                                             \
    }
/* m = a0 + x t1 + y t2 + z t3, the same for u of differences */
#undef TFB__DFT_7_ROW
#define TFB__DFT_7_ROW(b, c, x, y, z, xs, ys, zs)                                        \
    {                                                                                    \
        TFB__C_NEW(m);                                                                   \
        TFB__C_NEW(u);                                                                   \
        TFB__C_MA(m, t1, x, a0);                                                         \
        TFB__C_MA(m, t2, y, m);                                                          \
        TFB__C_MA(m, t3, z, m);                                                          \
        TFB__C_MUL(u, d1, xs);                                                           \
        TFB__C_MA(u, d2, ys, u);                                                         \
        TFB__C_MA(u, d3, zs, u);                                                         \
        TFB__C_DOWN(b, m, u);                                                            \
        TFB__C_UP(c, m, u);                                                              \
    }
#define TFB__DFT_7                                                                       \
    {                                                                                    \
        TFB__C_NEW(t1);                                                                  \
        TFB__C_NEW(t2);                                                                  \
        TFB__C_NEW(t3);                                                                  \
        TFB__C_NEW(d1);                                                                  \
        TFB__C_NEW(d2);                                                                  \
        TFB__C_NEW(d3);                                                                  \
        TFB__C_ADD(t1, a1, a6);                                                          \
        TFB__C_ADD(t2, a2, a5);                                                          \
        TFB__C_ADD(t3, a3, a4);                                                          \
        TFB__C_SUB(d1, a1, a6);                                                          \
        TFB__C_SUB(d2, a2, a5);                                                          \
        TFB__C_SUB(d3, a3, a4);                                                          \
        TFB__DFT_7_ROW(a1, a6, 0.623489802f, -0.222520934f, -0.900968868f, 0.781831482f, \
                       0.974927912f, 0.433883739f)                                       \
        TFB__DFT_7_ROW(a2, a5, -0.222520934f, -0.900968868f, 0.623489802f, 0.974927912f, \
                       -0.433883739f, -0.781831482f)                                     \
        TFB__DFT_7_ROW(a3, a4, -0.900968868f, 0.623489802f, -0.222520934f, 0.433883739f, \
                       -0.781831482f, 0.974927912f)                                      \
        TFB__C_ADD(t1, t1, t2);                                                          \
        TFB__C_ADD(t1, t1, t3);                                                          \
        TFB__C_ADD(a0, a0, t1);                                                          \
    }
/* Sums give the even results, differences times 1, (1 - i) / sqrt 2, -i and so on the odd
 * ones; the root half is multiplied last. */
#define TFB__DFT_8                                                                       \
    {                                                                                    \
        TFB__C_NEW(v0);                                                                  \
        TFB__C_NEW(v1);                                                                  \
        TFB__C_NEW(v2);                                                                  \
        TFB__C_NEW(v3);                                                                  \
        TFB__C_SUB(v0, a0, a4);                                                          \
        TFB__C_ADD(a0, a0, a4);                                                          \
        TFB__C_SUB(v1, a1, a5);                                                          \
        TFB__C_ADD(a1, a1, a5);                                                          \
        TFB__C_SUB(v2, a2, a6);                                                          \
        TFB__C_ADD(a2, a2, a6);                                                          \
        TFB__C_SUB(v3, a3, a7);                                                          \
        TFB__C_ADD(a3, a3, a7);                                                          \
        TFB__DFT_4_OF(a0, a1, a2, a3)                                                    \
        TFB__C_DOWN(a4, v0, v2);                                                         \
        TFB__C_UP(a5, v0, v2);                                                           \
        TFB__C_DOWN(a6, v1, v3);                                                         \
        TFB__C_UP(a7, v1, v3);                                                           \
        TFB__C_DOWN(v1, a6, a6);                                                         \
        TFB__C_UP(v3, a7, a7);                                                           \
        TFB__C_MA(v0, v1, 0.707106781f, a4);                                             \
        TFB__C_MA(v2, v3, -0.707106781f, a5);                                            \
        TFB__C_MA(a7, v3, 0.707106781f, a5);                                             \
        TFB__C_MA(a5, v1, -0.707106781f, a4);                                            \
        a6r = a3r, a6i = a3i, a4r = a2r, a4i = a2i;                                      \
        a2r = a1r, a2i = a1i, a1r = v0r, a1i = v0i;                                      \
        a3r = v2r, a3i = v2i;                                                            \
    }

/* One radix: all butterflies of a pass. The inverse takes the same steps with real and
 * imaginary parts exchanged, the roots first. */
#undef TFB__FFT_LATER_1
#undef TFB__FFT_LATER_2
#undef TFB__FFT_LATER_3
#undef TFB__FFT_LATER_4
#undef TFB__FFT_LATER_5
#undef TFB__FFT_LATER_7
#undef TFB__FFT_LATER_8
#undef TFB__FFT_NEW
#undef TFB__FFT_RADIX
#define TFB__FFT_LATER_1(X) X(1) /* step 0: the same row, turned */
#define TFB__FFT_LATER_2(X) X(1)
#define TFB__FFT_LATER_3(X) X(1) X(2)
#define TFB__FFT_LATER_4(X) X(1) X(2) X(3)
#define TFB__FFT_LATER_5(X) TFB__FFT_LATER_4(X) X(4)
#define TFB__FFT_LATER_7(X) TFB__FFT_LATER_5(X) X(5) X(6)
#define TFB__FFT_LATER_8(X) TFB__FFT_LATER_7(X) X(7)
#define TFB__FFT_NEW(q)     TFB__C_NEW(a##q);
/* clang-format off */
#define TFB__FFT_RADIX(R)                                                                \
    TFB__INLINE void TFB__FN(fft_one_##R)(float *re, float *im, tfb_idx step,            \
                                          const float *w, int before, int after) {       \
        tfb_idx l;                                                                       \
        for (l = 0; l < TFB__PANEL; l += TFB__VW, re += TFB__VW, im += TFB__VW) {        \
            TFB__FFT_NEW(0)                                                              \
            TFB__FFT_LATER_##R(TFB__FFT_NEW)                                             \
            TFB__C_LOAD(0)                                                               \
            TFB__FFT_LATER_##R(TFB__C_LOAD)                                              \
            if (before) {                                                                \
                TFB__FFT_LATER_##R(TFB__C_TURN)                                          \
            }                                                                            \
            TFB__DFT_##R                                                                 \
            if (after) {                                                                 \
                TFB__FFT_LATER_##R(TFB__C_TURN)                                          \
            }                                                                            \
            TFB__C_STORE(0)                                                              \
            TFB__FFT_LATER_##R(TFB__C_STORE)                                             \
        }                                                                                \
    }                                                                                    \
    TFB__INLINE void TFB__FN(fft_loop_##R)(const tfb__fft *s, float *re, float *im,      \
                                           int before, int after) {                      \
        tfb_idx i, j;                                                                    \
        for (j = 0; j < s->outer; j++) {                                                 \
            const tfb_idx at = j * s->outer_step;                                        \
            const float *w = s->w + j * s->w_outer;                                      \
            for (i = 0; i < s->inner; i++, w += s->w_inner)                              \
                TFB__CALL(fft_one_##R, re + at + i * s->inner_step,                      \
                          im + at + i * s->inner_step, s->step, w, before, after);       \
        }                                                                                \
    }                                                                                    \
    static TFB__NOINLINE void TFB__FN(fft_##R)(const tfb__fft *s) {                      \
        float *re = s->z, *im = s->z + TFB__PANEL;                                       \
        if (!s->turned && s->inverse) TFB__CALL(fft_loop_##R, s, im, re, 0, 0);          \
        else if (!s->turned) TFB__CALL(fft_loop_##R, s, re, im, 0, 0);                   \
        else if (s->inverse) TFB__CALL(fft_loop_##R, s, im, re, 1, 0);                   \
        else TFB__CALL(fft_loop_##R, s, re, im, 0, 1);                                   \
    }
/* clang-format on */
TFB__FFT_RADIX(1)
TFB__FFT_RADIX(2)
TFB__FFT_RADIX(3)
TFB__FFT_RADIX(4)
TFB__FFT_RADIX(5)
TFB__FFT_RADIX(7)
TFB__FFT_RADIX(8)

static void TFB__FN(fft)(const tfb__fft *s) {
    switch (s->radix) {
    case 1: TFB__CALL(fft_1, s); break;
    case 2: TFB__CALL(fft_2, s); break;
    case 3: TFB__CALL(fft_3, s); break;
    case 4: TFB__CALL(fft_4, s); break;
    case 5: TFB__CALL(fft_5, s); break;
    case 7: TFB__CALL(fft_7, s); break;
    default: TFB__CALL(fft_8, s); break;
    }
}

/* Rows p and its mate q hold the values of frequencies k and -k of even + i odd places.
 * E = p + conj q and D = p - conj q are twice the spectra of both, D that of i odd. */
TFB__INLINE void TFB__FN(spectrum_pair)(const tfb__spectrum *s, float *p, float *q,
                                        const float *w, float *h) {
    tfb_idx l;
    for (l = 0; l < TFB__PANEL; l += TFB__VW, p += TFB__VW, q += TFB__VW, h += TFB__VW) {
        const TFB__VF pr = TFB__VLOAD(p), pi = TFB__VLOAD(p + 16);
        const TFB__VF qr = TFB__VLOAD(q), qi = TFB__VLOAD(q + 16);
        const TFB__VF er = TFB__VADD(pr, qr), ei = TFB__VSUB(pi, qi);
        const TFB__VF dr = TFB__VSUB(pr, qr), di = TFB__VADD(pi, qi);
        if (s->keep) {
            const TFB__VF scale = TFB__VSET1(s->scale);
            TFB__VSTORE(h, TFB__VMUL(er, scale));
            TFB__VSTORE(h + 16, TFB__VMUL(ei, scale));
            TFB__VSTORE(h + 32, TFB__VMUL(dr, scale));
            TFB__VSTORE(h + 48, TFB__VMUL(di, scale));
        } else {
            const TFB__VF her = TFB__VLOAD(h), hei = TFB__VLOAD(h + 16);
            const TFB__VF hdr = TFB__VLOAD(h + 32), hdi = TFB__VLOAD(h + 48);
            const TFB__VF c = TFB__VSET1(w[0]), sn = TFB__VSET1(w[1]);
            const TFB__VF tr = TFB__VMA(dr, c, TFB__VMUL(di, TFB__VSET1(w[2])));
            const TFB__VF ti = TFB__VMA(dr, sn, TFB__VMUL(di, c));
            /* y of even places: e he - w d hd (w has the sign); i times that of odd */
            const TFB__VF yr = TFB__VSUB(TFB__VMA(er, her, TFB__VMUL(tr, hdr)),
                                         TFB__VMA(ei, hei, TFB__VMUL(ti, hdi)));
            const TFB__VF yi = TFB__VADD(TFB__VMA(er, hei, TFB__VMUL(tr, hdi)),
                                         TFB__VMA(ei, her, TFB__VMUL(ti, hdr)));
            const TFB__VF zr = TFB__VSUB(TFB__VMA(dr, her, TFB__VMUL(er, hdr)),
                                         TFB__VMA(di, hei, TFB__VMUL(ei, hdi)));
            const TFB__VF zi = TFB__VADD(TFB__VMA(dr, hei, TFB__VMUL(er, hdi)),
                                         TFB__VMA(di, her, TFB__VMUL(ei, hdr)));
            TFB__VSTORE(p, TFB__VADD(yr, zr));
            TFB__VSTORE(p + 16, TFB__VADD(yi, zi));
            TFB__VSTORE(q, TFB__VSUB(yr, zr));
            TFB__VSTORE(q + 16, TFB__VSUB(zi, yi));
        }
    }
}

static void TFB__FN(spectrum)(const tfb__spectrum *s) {
    float *h = s->h;
    tfb_idx i;
    for (i = 0; i < s->n; i++) {
        const tfb_idx mate = s->mate[i];
        if (s->same && mate < i) continue;
        TFB__CALL(spectrum_pair, s, s->z + i * 32, s->z_mate + mate * 32, s->w + 3 * i,
                  h);
        h += 64;
    }
}

#endif

#if TFB__TABLES
extern const tfb__kernels TFB__FN(kernels);
#define TFB__TABLE
#else
#define TFB__TABLE static
#endif
#if TFB__TABLES != 2
#define TFB__STRING2(x) #x
#define TFB__STRING(x)  TFB__STRING2(x)
TFB__TABLE const tfb__kernels TFB__FN(kernels) = {
    TFB__STRING(TFB__SUFFIX),
    TFB__FUSED,
#if !TFB__SMALL
    TFB__FN(probe),
#if TFB__PRODUCTS
    TFB__FN(mm),
    TFB__FN(epilogue),
#endif
    TFB__FN(pack),
    TFB__FN(collect),
    TFB__FN(map),
    TFB__FN(norm),
    TFB__FN(softmax),
    TFB__FN(turns),
    TFB__FN(rotate),
#if TFB__HAS(ATTENTION)
    TFB__FN(attention),
#endif
    TFB__FN(merge),
#if TFB__HAS(SCAN)
    TFB__FN(conv),
    TFB__FN(scan),
#endif
#if TFB__HAS(LONG_CONV)
    TFB__FN(taps),
    TFB__FN(fft),
    TFB__FN(spectrum),
#endif
#endif
};
#undef TFB__STRING
#undef TFB__STRING2
#endif
#undef TFB__TABLE

#if TFB__OPTIMISED
#pragma GCC pop_options
#endif
#endif /* TFB__PASS */

#if defined(TFB__PASS) && TFB__PASS == TFB__PASS_SCALAR

/* ===== [12] DISPATCH ================================================================ */
/* The table is a field of the context, chosen when it is initialised. */
TFB__LEFTOVERS

typedef struct tfb__isa_row {
    const char *name;
    const tfb__kernels *kernels; /* NULL if this build lacks it */
    uint32_t need;
    const char *why;
} tfb__isa_row;

#define TFB__PICK_0(a, b) b
#define TFB__PICK_1(a, b) a
#if TFB__TABLES == 2
#define TFB__ISA_EXTERN(isa, built, cpu_need, reason)                                    \
    TFB__CAT(TFB__PICK_, built)(extern const tfb__kernels tfb__kernels_##isa;, )
TFB__ISA_LIST(TFB__ISA_EXTERN)
#undef TFB__ISA_EXTERN
#endif

/* Row i of TFB__ISA_LIST; 0 past the last. */
static int tfb__isa_row_get(int i, tfb__isa_row *row) {
    int at = 0;
#define TFB__ISA_ROW(isa, built, cpu_need, reason)                                       \
    if (at++ == i) {                                                                     \
        row->name = #isa;                                                                \
        row->kernels = TFB__CAT(TFB__PICK_, built)(&tfb__kernels_##isa, NULL);           \
        row->need = cpu_need;                                                            \
        row->why = (built) ? reason : "not in this build (compiler, target or switch)";  \
        return 1;                                                                        \
    }
    TFB__ISA_LIST(TFB__ISA_ROW)
    return 0;
}

static int tfb__isa_usable(const tfb__isa_row *row, uint32_t cpu) {
    return row->kernels && (row->need & cpu) == row->need;
}

static const tfb__kernels *tfb__isa_best(uint32_t cpu) {
    tfb__isa_row row;
    int i;
    for (i = 0; !TFB__SMALL && tfb__isa_row_get(i, &row); i++)
        if (tfb__isa_usable(&row, cpu)) return row.kernels;
    return &tfb__kernels_scalar; /* the last, and always usable */
}

TFB_API const char *tfb_isa_name(const tfb_ctx *ctx) {
    return ctx && ctx->isa ? ctx->isa->name : "none";
}

TFB_API const char *tfb_isa_list(const tfb_ctx *ctx, int i, const char **why) {
    tfb__isa_row row;
    if (!ctx || i < 0 || !tfb__isa_row_get(i, &row)) return NULL;
    if (why && tfb__isa_usable(&row, ctx->cpu))
        *why = row.kernels == ctx->isa ? "in use" : "available";
    else if (why) *why = row.why;
    return row.name;
}

TFB_API tfb_status tfb_isa_force(tfb_ctx *ctx, const char *name) {
    tfb__isa_row row;
    int i;
    TFB__ENTER(ctx);
    TFB__REQUIRE(name, ctx, TFB_ERR_ARG, "tfb_isa_force: name is NULL");
    for (i = 0; tfb__isa_row_get(i, &row); i++) {
        if (strcmp(row.name, name) != 0) continue;
        TFB__REQUIRE(tfb__isa_usable(&row, ctx->cpu), ctx, TFB_ERR_UNSUPPORTED,
                     "tfb_isa_force: %s: %s", name, row.why);
        ctx->isa = row.kernels;
        return TFB_OK;
    }
    return tfb__fail(ctx, TFB_ERR_ARG, "tfb_isa_force: there is no table %s", name);
}

TFB_API tfb_status tfb_build_info(tfb_ctx *ctx) {
    const float a = 1.000244140625f; /* 1 + 2^-12: its square needs 25 bits */
    volatile float third = 1.0f, wide = 3.0f;
    tfb__isa_row row;
    int i;
    TFB__ENTER(ctx);
    TFB__REQUIRE(sizeof(float) == 4 && sizeof(double) == 8, ctx, TFB_ERR_UNSUPPORTED,
                 "tfb_build_info: float or double is not IEEE");
    third = third / wide; /* arithmetic in a wider format shows up here */
    TFB__REQUIRE(TFB__EVAL_METHOD == 0, ctx, TFB_ERR_UNSUPPORTED,
                 "tfb_build_info: float arithmetic is wider than float");
    for (i = 0; tfb__isa_row_get(i, &row); i++)
        TFB__REQUIRE(!tfb__isa_usable(&row, ctx->cpu) ||
                         TFB__KERNEL(row.kernels, probe)(a, a, -1.00048828125f),
                     ctx, TFB_ERR_UNSUPPORTED,
                     "tfb_build_info: compiler flags change the arithmetic of %s",
                     row.name);
    TFB__REQUIRE(ctx->isa->fused, ctx, TFB_ERR_UNSUPPORTED,
                 "tfb_build_info: table %s multiplies and adds where the contract has "
                 "fma; TFB_EXACT leaves it out",
                 tfb_isa_name(ctx));
#ifdef TFB_USE_CBLAS
    return tfb__fail(ctx, TFB_ERR_UNSUPPORTED,
                     "tfb_build_info: TFB_USE_CBLAS: large products have the bits of the "
                     "CBLAS library, not those of the contract");
#endif
#ifndef TFB_NO_MESSAGES
    tfb__fail(ctx, TFB_OK, "tfblocks %s, table %s, numeric contract holds", TFB_VERSION,
              tfb_isa_name(ctx));
#endif
    return TFB_OK;
}

/* --- Scalar pieces of the elementary functions. --- */
/* sin and cos of any float, by Payne and Hanek's reduction: the 24-bit significand times
 * 96 bits of 2/pi gives x / (pi/2) mod 4 to 2^-61; no float comes nearer than 2^-30 to a
 * multiple of it, so the rounding of the angle to float rules. Max 1.53 ulp. */
static void tfb__trig_large(float x, float *s, float *c) {
    static const uint32_t two_pi[9] = {0u,          0xa2f9836eu, 0x4e441529u,
                                       0xfc2757d1u, 0xf534ddc0u, 0xdb629599u,
                                       0x3c439041u, 0xfe5163abu, 0xdebbc561u};
    uint32_t b, e, m, w[3], i, j, q;
    uint64_t f;
    double d;
    float r;
    memcpy(&b, &x, sizeof b);
    e = (b >> 23) & 255u;
    if ((b & 0x7fffffffu) <= 0x48000000u || e == 255u) { /* inf, NaN give NaN */
        *s = tfb__sin_scalar(x);
        *c = tfb__cos_scalar(x);
        return;
    }
    m = (b & 0x7fffffu) | 0x800000u;
    i = e - 120u; /* x = m * 2^(e - 150); first bit taken has the weight 2^(151 - e) */
    j = i & 31u;
    i >>= 5;
    for (q = 0; q < 3; q++)
        w[q] = j ? two_pi[i + q] << j | two_pi[i + q + 1] >> (32u - j) : two_pi[i + q];
    f = ((uint64_t)m * w[0] << 32) + (uint64_t)m * w[1] + ((uint64_t)m * w[2] >> 32);
    q = (uint32_t)((f >> 61) + 1u) >> 1; /* nearest quarter turn */
    f -= (uint64_t)q << 62;              /* two's complement, |f| <= 2^61 */
    d = f >> 63 ? -(double)(0u - f) : (double)f;
    r = (float)(d * 3.4061215800865546e-19); /* pi/2 / 2^62 */
    if (b >> 31) {
        r = -r;
        q = 0u - q;
    }
    *s = tfb__sin_quad_scalar(r, q);
    *c = tfb__sin_quad_scalar(r, q + 1u);
}

/* 2^x for |x| < 1000: Taylor series in x ln2 - n ln2. */
static double tfb__exp2_d(double x) {
    double k = 6755399441055744.0, n = (x + k) - k, y = (x - n) * 0.69314718055994531;
    double p = 1.0, s;
    int i;
    uint64_t b;
    for (i = 14; i > 0; i--) p = 1.0 + p * y / (double)i;
    b = (uint64_t)(1023 + (int)n) << 52;
    memcpy(&s, &b, sizeof s);
    return p * s;
}
/* log2(x) for positive normal x: 2 atanh((m - 1) / (m + 1)), m in [sqrt 1/2, sqrt 2). */
static double tfb__log2_d(double x) {
    uint64_t b;
    double m, s, z, t = 0.0;
    int e, k;
    memcpy(&b, &x, sizeof b);
    b += 0x3ff0000000000000u - 0x3fe6a09e667f3bcdu;
    e = (int)(b >> 52) - 1023;
    b = (b & 0x000fffffffffffffu) + 0x3fe6a09e667f3bcdu;
    memcpy(&m, &b, sizeof m);
    s = (m - 1.0) / (m + 1.0);
    z = s * s;
    for (k = 23; k > 1; k -= 2) t = (t + 1.0 / (double)k) * z;
    return (double)e + 2.8853900817779268 * (s + s * t);
}

/* ===== [13] TENSOR OPS ============================================================== */
/* Copy and convert, add, mul, map, embed, argmax: plain loops over any strides. */

/* IEEE binary16 from float, to nearest even; overflow gives inf, NaN stays NaN. */
static uint16_t tfb__f16_of(float x) {
    uint32_t u = tfb__bits_of(x), sign = u >> 16 & 0x8000, rest;
    int shift;
    u &= 0x7FFFFFFF;
    if (u > 0x7F800000) return (uint16_t)(sign | 0x7E00);
    if (u >= 0x47800000) return (uint16_t)(sign | 0x7C00);
    if (u < 0x33000000) return (uint16_t)sign;
    if (u >= 0x38800000) { /* normal: 13 bits go */
        u -= 0x38000000;
        shift = 13;
    } else { /* subnormal: the leading 1 becomes a bit like the others */
        shift = 126 - (int)(u >> 23);
        u = (u & 0x7FFFFF) | 0x800000;
    }
    rest = u & ((1u << shift) - 1);
    u >>= shift;
    if (rest > 1u << (shift - 1) || (rest == 1u << (shift - 1) && (u & 1))) u++;
    return (uint16_t)(sign | u);
}

static uint16_t tfb__bf16_of(float x) {
    uint32_t u = tfb__bits_of(x);
    if ((u & 0x7FFFFFFF) > 0x7F800000) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

/* An element as float32. On the way to a narrower dtype an integer that float32 cannot
 * hold is rounded to odd, so that it is rounded only once in the end. */
static float tfb__get(tfb_dtype dtype, tfb_dtype to, const void *p) {
    uint16_t h;
    int32_t i;
    if (dtype == TFB_F32) return *(const float *)p;
    if (dtype == TFB_U8) return *(const uint8_t *)p;
    if (dtype == TFB_I32) {
        memcpy(&i, p, 4);
        if (to != TFB_F32 && (i <= -(1 << 24) || i >= 1 << 24))
            i = (i & ~255) | (i & 255 ? 128 : 0);
        return (float)i;
    }
    memcpy(&h, p, 2);
    return dtype == TFB_F16 ? tfb__f16_to(h) : tfb__float_of((uint32_t)h << 16);
}

static void tfb__set(tfb_dtype dtype, void *p, float x) {
    uint16_t h;
    if (dtype == TFB_F32) {
        *(float *)p = x;
        return;
    }
    h = dtype == TFB_F16 ? tfb__f16_of(x) : tfb__bf16_of(x);
    memcpy(p, &h, 2);
}

/* x[i0 .. ][..] for three tensors of one shape, row by row along the last dimension. */
typedef struct tfb__rows {
    tfb_tensor y, a, b; /* b.data may be NULL */
    tfb_idx n, inner;
} tfb__rows;

static void tfb__rows_init(tfb__rows *r, const tfb_tensor *y, const tfb_tensor *a,
                           const tfb_tensor *b) {
    r->y = *y;
    r->a = *a;
    r->b = b ? *b : *a;
    r->inner = y->ndim ? y->shape[y->ndim - 1] : 1;
    r->n = r->inner ? tfb_numel(y) / r->inner : 0;
}

/* The start of row i of t and, in *step, the bytes from one element to the next. */
static char *tfb__row(const tfb_tensor *t, tfb_idx i, tfb_idx *step) {
    const tfb_idx bytes = (tfb_idx)tfb_dtype_size(t->dtype);
    *step = t->ndim ? t->stride[t->ndim - 1] * bytes : 0;
    return (char *)t->data + (t->ndim ? tfb__offset(t, t->ndim - 1, i) * bytes : 0);
}

/* x has y's shape already. */
static void tfb__copy(const tfb_tensor *x, const tfb_tensor *y) {
    tfb__rows rows;
    tfb_idx i, j, xs, ys;
    tfb__rows_init(&rows, y, x, NULL);
    for (i = 0; i < rows.n; i++) {
        const char *px = tfb__row(&rows.a, i, &xs);
        char *py = tfb__row(&rows.y, i, &ys);
        const tfb_idx size = (tfb_idx)tfb_dtype_size(y->dtype);
        if (x->dtype == y->dtype && xs == size && ys == size)
            memmove(py, px, (size_t)(rows.inner * size));
        else if (x->dtype == y->dtype)
            for (j = 0; j < rows.inner; j++)
                memmove(py + j * ys, px + j * xs, (size_t)size);
        else
            for (j = 0; j < rows.inner; j++)
                tfb__set(y->dtype, py + j * ys,
                         tfb__get(x->dtype, y->dtype, px + j * xs));
    }
}

#ifndef TFB_NO_TENSOR_OPS
TFB_API tfb_status tfb_copy(tfb_ctx *ctx, const tfb_tensor *x, tfb_tensor *y) {
    tfb_tensor from;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__check(ctx, "tfb_copy", "x", x, TFB__ANY_DTYPE, 0, TFB_MAX_DIMS));
    TFB__TRY(tfb__check(ctx, "tfb_copy", "y", y, TFB__ANY_DTYPE, 0, TFB_MAX_DIMS));
    TFB__REQUIRE(x->dtype == y->dtype || (TFB__MASK(y->dtype) & TFB__FLOATS), ctx,
                 TFB_ERR_DTYPE, "tfb_copy: x is %s, y is %s: no such conversion",
                 tfb__dtype_text(x->dtype), tfb__dtype_text(y->dtype));
    TFB__TRY(tfb__broadcast(ctx, "tfb_copy", "x", x, y, &from));
    TFB__TRY(tfb__check_out(ctx, "tfb_copy", "y", y));
    TFB__TRY(tfb__check_alias(ctx, "tfb_copy", "y", y, "x", &from, 1));
    if (!ctx->measuring) tfb__copy(&from, y);
    return TFB_OK;
}

static tfb_status tfb__binary(tfb_ctx *ctx, const char *fn, const tfb_tensor *a,
                              const tfb_tensor *b, tfb_tensor *y, int multiply) {
    tfb_tensor wide_a, wide_b;
    tfb__rows rows;
    tfb_idx i, j, as, bs, ys;
    TFB__TRY(tfb__check(ctx, fn, "a", a, TFB__MASK(TFB_F32), 0, TFB_MAX_DIMS));
    TFB__TRY(tfb__check(ctx, fn, "b", b, TFB__MASK(TFB_F32), 0, TFB_MAX_DIMS));
    TFB__TRY(tfb__check(ctx, fn, "y", y, TFB__MASK(TFB_F32), 0, TFB_MAX_DIMS));
    TFB__TRY(tfb__broadcast(ctx, fn, "a", a, y, &wide_a));
    TFB__TRY(tfb__broadcast(ctx, fn, "b", b, y, &wide_b));
    TFB__TRY(tfb__check_out(ctx, fn, "y", y));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "a", &wide_a, 1));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "b", &wide_b, 1));
    if (ctx->measuring) return TFB_OK;
    tfb__rows_init(&rows, y, &wide_a, &wide_b);
    for (i = 0; i < rows.n; i++) {
        const float *pa = (const float *)(void *)tfb__row(&rows.a, i, &as);
        const float *pb = (const float *)(void *)tfb__row(&rows.b, i, &bs);
        float *py = (float *)(void *)tfb__row(&rows.y, i, &ys);
        as /= 4;
        bs /= 4;
        ys /= 4;
        for (j = 0; j < rows.inner; j++)
            py[j * ys] = multiply ? pa[j * as] * pb[j * bs] : pa[j * as] + pb[j * bs];
    }
    return TFB_OK;
}

TFB_API tfb_status tfb_add(tfb_ctx *ctx, const tfb_tensor *a, const tfb_tensor *b,
                           tfb_tensor *y) {
    TFB__ENTER(ctx);
    return tfb__binary(ctx, "tfb_add", a, b, y, 0);
}

TFB_API tfb_status tfb_mul(tfb_ctx *ctx, const tfb_tensor *a, const tfb_tensor *b,
                           tfb_tensor *y) {
    TFB__ENTER(ctx);
    return tfb__binary(ctx, "tfb_mul", a, b, y, 1);
}

TFB_API tfb_status tfb_map(tfb_ctx *ctx, tfb_fn fn, const tfb_tensor *x, tfb_tensor *y) {
    float piece[64];
    tfb_tensor from;
    tfb__rows rows;
    tfb_idx i, j, k, n, xs, ys;
    TFB__ENTER(ctx);
    TFB__REQUIRE((unsigned)fn < (unsigned)TFB__FNS, ctx, TFB_ERR_ARG, "tfb_map: fn is %d",
                 (tfb_idx)fn);
    TFB__TRY(tfb__check(ctx, "tfb_map", "x", x, TFB__MASK(TFB_F32), 0, TFB_MAX_DIMS));
    TFB__TRY(tfb__check(ctx, "tfb_map", "y", y, TFB__MASK(TFB_F32), 0, TFB_MAX_DIMS));
    TFB__TRY(tfb__broadcast(ctx, "tfb_map", "x", x, y, &from));
    TFB__TRY(tfb__check_out(ctx, "tfb_map", "y", y));
    TFB__TRY(tfb__check_alias(ctx, "tfb_map", "y", y, "x", &from, 1));
    if (ctx->measuring) return TFB_OK;
    tfb__rows_init(&rows, y, &from, NULL);
    for (i = 0; i < rows.n; i++) {
        const float *px = (const float *)(void *)tfb__row(&rows.a, i, &xs);
        float *py = (float *)(void *)tfb__row(&rows.y, i, &ys);
        xs /= 4;
        ys /= 4;
        if (xs == 1 && ys == 1) {
            TFB__KERNEL(ctx->isa, map)(fn, rows.inner, px, py);
            continue;
        }
        for (j = 0; j < rows.inner; j += n) {
            n = TFB__MIN(64, rows.inner - j);
            for (k = 0; k < n; k++) piece[k] = px[(j + k) * xs];
            TFB__KERNEL(ctx->isa, map)(fn, n, piece, piece);
            for (k = 0; k < n; k++) py[(j + k) * ys] = piece[k];
        }
    }
    return TFB_OK;
}

TFB_API tfb_status tfb_embed(tfb_ctx *ctx, const tfb_tensor *table, const tfb_tensor *ids,
                             tfb_tensor *y) {
    tfb_idx i, j, n, ts, ys;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__check(ctx, "tfb_embed", "table", table, TFB__FLOATS, 2, 2));
    TFB__TRY(tfb__check(ctx, "tfb_embed", "ids", ids, TFB__MASK(TFB_I32), 0,
                        TFB_MAX_DIMS - 1));
    TFB__TRY(tfb__check(ctx, "tfb_embed", "y", y, TFB__MASK(TFB_F32), ids->ndim + 1,
                        ids->ndim + 1));
    TFB__TRY(tfb__check_like(ctx, "tfb_embed", "y", y, ids, ids->ndim));
    TFB__TRY(tfb__check_extent(ctx, "tfb_embed", "y", y, ids->ndim, table->shape[1]));
    TFB__TRY(tfb__check_out(ctx, "tfb_embed", "y", y));
    TFB__TRY(tfb__check_alias(ctx, "tfb_embed", "y", y, "table", table, 0));
    TFB__TRY(tfb__check_alias(ctx, "tfb_embed", "y", y, "ids", ids, 0));
    if (ctx->measuring) return TFB_OK;
    n = tfb_numel(ids);
    for (i = 0; i < n; i++) {
        const int32_t id = ((const int32_t *)ids->data)[tfb__offset(ids, ids->ndim, i)];
        TFB__REQUIRE(id >= 0 && id < table->shape[0], ctx, TFB_ERR_RANGE,
                     "tfb_embed: ids number %d is %d, table has %d rows", i, (tfb_idx)id,
                     table->shape[0]);
    }
    for (i = 0; i < n && tfb_numel(y); i++) {
        const int32_t id = ((const int32_t *)ids->data)[tfb__offset(ids, ids->ndim, i)];
        const char *from = tfb__row(table, id, &ts);
        char *to = tfb__row(y, i, &ys);
        for (j = 0; j < table->shape[1]; j++)
            tfb__set(TFB_F32, to + j * ys,
                     tfb__get(table->dtype, TFB_F32, from + j * ts));
    }
    return TFB_OK;
}

TFB_API tfb_status tfb_argmax(tfb_ctx *ctx, const tfb_tensor *x, tfb_tensor *y) {
    tfb_idx i, j, n, xs;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__check(ctx, "tfb_argmax", "x", x, TFB__MASK(TFB_F32), 1, TFB_MAX_DIMS));
    TFB__TRY(tfb__check(ctx, "tfb_argmax", "y", y, TFB__MASK(TFB_I32), x->ndim - 1,
                        x->ndim - 1));
    TFB__TRY(tfb__check_like(ctx, "tfb_argmax", "y", y, x, y->ndim));
    n = x->shape[x->ndim - 1];
    TFB__REQUIRE(n > 0 && n <= INT32_MAX, ctx, TFB_ERR_RANGE,
                 "tfb_argmax: x.shape[%d] is %d, must be 1 to 2147483647",
                 (tfb_idx)(x->ndim - 1), n);
    TFB__TRY(tfb__check_out(ctx, "tfb_argmax", "y", y));
    TFB__TRY(tfb__check_alias(ctx, "tfb_argmax", "y", y, "x", x, 0));
    if (ctx->measuring) return TFB_OK;
    for (i = 0; i < tfb_numel(y); i++) {
        const char *row = tfb__row(x, i, &xs);
        float largest = 0;
        tfb_idx best = 0;
        for (j = 0; j < n; j++) {
            const float value = *(const float *)(const void *)(row + j * xs);
            if ((tfb__bits_of(value) & 0x7FFFFFFF) > 0x7F800000) {
                best = j; /* the first NaN wins */
                break;
            }
            if (j == 0 || value > largest) {
                largest = value;
                best = j;
            }
        }
        ((int32_t *)y->data)[tfb__offset(y, y->ndim, i)] = (int32_t)best;
    }
    return TFB_OK;
}
#endif

/* ===== [14] MATMUL AND LINEAR ======================================================= */
/* One engine, tfb__gemm, serves both: y[M, N] = epilogue(A[M, K] W[N, K]^T) over batches.
 * The work is cut into tasks of task_rows x task_cols outputs. A task goes through strips
 * of rows, a strip through chunks of k: so a chunk of W (192 x 256), one of A and the
 * sums stay in a second-level cache of a megabyte. Panels that no pack provides are
 * filled while the first rows are computed. Sums go straight to y where nothing but alpha
 * and bias follows, else to scratch and from there through the epilogue. No cut changes
 * a bit. */

#define TFB__STRIP      48  /* rows of sums at a time; more where K makes W's task */
#define TFB__STRIP_LONG 192 /* outgrow the cache, and W comes from memory each strip */
#define TFB__LONG_K     768
#define TFB__FEW_ROWS   64      /* up to here k is not cut: W is read in one sweep, and */
#define TFB__FEW_FLOATS 131072  /* that many floats of it stay for the next rows */
#define TFB__TINY       64      /* extents below which checks would cost too much */
#define TFB__IN_PLACE   65536   /* bytes of a B that is read where it lies */
#define TFB__WAKE_WORK  1048576 /* multiply-adds below which no worker is woken */

#define TFB__PACK_MAGIC   "TFBPACK1"
#define TFB__PACK_HEADER  64
#define TFB__PACK_VERSION 1u

static void tfb__put_u64(unsigned char *p, uint64_t v) {
    int i;
    for (i = 0; i < 8; i++) p[i] = (unsigned char)(v >> (8 * i) & 255);
}

static uint64_t tfb__get_u64(const unsigned char *p) {
    uint64_t v = 0;
    int i;
    for (i = 7; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

/* Magic, version, dtype, N, K, the rest zero. */
static void tfb__pack_header(unsigned char *p, tfb_idx n, tfb_idx k, tfb_dtype dtype) {
    memset(p, 0, TFB__PACK_HEADER);
    memcpy(p, TFB__PACK_MAGIC, 8);
    tfb__put_u64(p + 8, (uint64_t)dtype << 32 | TFB__PACK_VERSION);
    tfb__put_u64(p + 16, (uint64_t)n);
    tfb__put_u64(p + 24, (uint64_t)k);
}

typedef struct tfb__gemm {
    tfb_tensor a, w, y, r; /* batch dimensions, then [M, K] [N, K] [M, N'] [M, N'] */
    int batch_dims;        /* r.ndim 0: none. w packed: strides 0, data the panels */
    tfb_idx M, N, K, cols; /* cols: output columns, N / 2 when gated */
    const float *bias;
    tfb_idx bias_stride;
    int has_bias;
    float alpha;
    tfb_fn act;
    tfb_gate gate;
    int packed; /* panels, of w.dtype */
    const tfb__kernels *isa;
    tfb_idx task_rows, task_cols, tasks_m, tasks_n;
    tfb_idx strip, chunk, width; /* rows, k and columns of the sums held at a time */
    int direct;                  /* results go to y from registers; partial sums too, */
    int apart;                   /* unless y could be the residual, and not yet read */
    int reuse;                   /* one tile takes all rows: panels live for a stage */
    int gathered;                /* rows of A have to be made contiguous */
    int in_place;                /* whole panels of W are read where they lie */
    float *sums, *biases, *rows, *panels; /* scratch of worker 0 */
    tfb_idx panel_floats;                 /* of one worker */
} tfb__gemm;

/* Column c of a (gated) product needs this column of A W^T. */
static tfb_idx tfb__gate_column(const tfb__gemm *g, tfb_idx c, int up) {
    if (!TFB__HAS(GATES)) return c;
    if (g->gate == TFB_GATE_HALVES) return c + (up ? g->cols : 0);
    return g->gate == TFB_GATE_INTERLEAVED ? 2 * c + up : c;
}

static void *tfb__at(const tfb_tensor *t, int batch_dims, tfb_idx batch, tfb_idx i,
                     tfb_idx j) {
    const tfb_idx at = (batch_dims ? tfb__offset(t, batch_dims, batch) : 0) +
                       i * t->stride[batch_dims] + j * t->stride[batch_dims + 1];
    return (char *)t->data + at * (tfb_idx)tfb_dtype_size(t->dtype);
}

#if TFB__SMALL
#define tfb__matmul_tiny(ctx, a, b, y)         0 /* there is only the general path */
#define tfb__linear_tiny(ctx, x, w, y, status) 0
#define tfb__packed_tiny(ctx, x, w, y)         0

/* Row m of A times row n of W. */
static float tfb__gemm_dot(const tfb__gemm *g, tfb_idx batch, tfb_idx m, tfb_idx n) {
    const int d = g->batch_dims;
    const float *a = (const float *)tfb__at(&g->a, d, batch, m, 0);
    float sum = 0, block = 0;
    tfb__source w;
    tfb_idx k, at = 0;
    w.x = g->w.data;
    w.dtype = g->w.dtype;
    w.little = TFB__OPT(PACKS, g->packed);
    w.k_stride = w.little ? TFB__PANEL : g->w.stride[d + 1];
    if (w.little) at = n / TFB__PANEL * TFB__PANEL * g->K + n % TFB__PANEL;
    else w.x = tfb__at(&g->w, d, batch, n, 0);
    for (k = 0; k < g->K; k++, at += w.k_stride) {
        if (k % TFB__BLOCK == 0) sum = k > TFB__BLOCK ? sum + block : block, block = 0;
        block = TFB__FMA(a[k * g->a.stride[d + 1]], tfb__source_at(&w, at), block);
    }
    return g->K > TFB__BLOCK ? sum + block : block;
}

/* A row of outputs, one after another: tfb__linear_ref over any W. */
static void tfb__gemm_row(void *arg, tfb_idx i, int worker) {
    const tfb__gemm *g = (const tfb__gemm *)arg;
    const tfb_idx batch = i / g->M, m = i % g->M;
    tfb_idx c;
    (void)worker;
    for (c = 0; c < g->cols; c++) {
        float part[2] = {0, 0};
        int up;
        for (up = 0; up <= (TFB__OPT(GATES, g->gate) != TFB_GATE_NONE); up++) {
            const tfb_idx n = tfb__gate_column(g, c, up);
            part[up] = TFB__FMA(g->alpha, tfb__gemm_dot(g, batch, m, n),
                                g->has_bias ? g->bias[n * g->bias_stride] : 0.0f);
        }
        if (g->act) tfb__map_scalar(g->act, 1, part, part);
        if (TFB__OPT(GATES, g->gate)) part[0] = part[0] * part[1];
        if (g->r.ndim)
            part[0] = part[0] + *(float *)tfb__at(&g->r, g->batch_dims, batch, m, c);
        *(float *)tfb__at(&g->y, g->batch_dims, batch, m, c) = part[0];
    }
}

static tfb_status tfb__gemm_run(tfb_ctx *ctx, const char *fn, tfb__gemm *g) {
    const tfb_idx rows = g->cols ? tfb_numel(&g->y) / g->cols : 0;
    (void)fn;
    if (!ctx->measuring) tfb__parallel(ctx, rows, tfb__gemm_row, g);
    return TFB_OK;
}
#elif TFB__HAS(MATMUL) || TFB__HAS(LINEAR)
/* One task at work: up to two ranges of columns of A W^T, each a product of its own. */
typedef struct tfb__task {
    const tfb__gemm *g;
    tfb_idx batch, m0, m1, c0, cols;
    float *sums, *biases, *rows, *panels;
    float *first;     /* where the sums of column c0 begin */
    tfb_idx used;     /* floats of panels */
    tfb_idx from[2];  /* the column of A W^T that column 0 of the sums is */
    const char *w[2]; /* where k = 0 of the panels, or of their source, lies */
    int ranges;
    tfb__mm mm[2];
} tfb__task;

/* The next range, columns n0 .. n1 - 1, with sums that begin at s. Panels of a pack begin
 * at multiples of 16, so the range may begin earlier there. Returns column n0's place. */
static float *tfb__task_range(tfb__task *t, tfb_idx n0, tfb_idx n1, float *s,
                              int in_place) {
    const tfb__gemm *g = t->g;
    const int b = g->batch_dims;
    tfb__mm *mm = &t->mm[t->ranges];
    const tfb_idx skip = g->packed ? n0 % TFB__PANEL : 0, first = n0 - skip;
    t->from[t->ranges] = first;
    mm->s = s;
    mm->lds = t->sums ? g->width : g->y.stride[b];
    mm->ldy = g->direct ? g->y.stride[b] : mm->lds;
    mm->relu = g->direct && g->act == TFB_FN_RELU;
    if (g->direct)
        mm->y = (float *)tfb__at(&g->y, b, t->batch, t->m0, t->c0 + (s - t->first));
    if (g->direct && g->r.ndim) {
        mm->ldr = g->r.stride[b];
        mm->r = (float *)tfb__at(&g->r, b, t->batch, t->m0, t->c0 + (s - t->first));
    }
    mm->cols = n1 - first;
    mm->bks = TFB__PANEL;
    mm->bps = g->K * TFB__PANEL;
    mm->source.lane_stride = g->packed ? 1 : g->w.stride[b];
    mm->source.k_stride = g->packed ? TFB__PANEL : g->w.stride[b + 1];
    mm->source.little = g->packed;
    mm->source.dtype = g->w.dtype;
    mm->source_step = g->packed ? mm->bps : TFB__PANEL * g->w.stride[b];
    mm->staged = !in_place && !(g->packed && g->w.dtype == TFB_F32);
    if (g->packed)
        t->w[t->ranges] =
            (const char *)g->w.data + first * g->K * (tfb_idx)tfb_dtype_size(g->w.dtype);
    else t->w[t->ranges] = (char *)tfb__at(&g->w, b, t->batch, first, 0);
    if (in_place) {
        mm->bks = mm->source.k_stride;
        mm->bps = TFB__PANEL;
    }
    if (mm->staged) {
        const tfb_idx panels = TFB__PANEL_COUNT(mm->cols);
        if (g->reuse) mm->bps = TFB__STAGE * TFB__PANEL;
        mm->reuse = g->reuse;
        mm->b = t->panels + t->used;
        t->used += panels * mm->bps;
    }
    t->ranges++;
    return s + skip;
}

static void tfb__task_bias(tfb__task *t) {
    const tfb__gemm *g = t->g;
    tfb_idx c, at = 0;
    int i;
    for (i = 0; i < t->ranges; i++) {
        for (c = 0; g->has_bias && c < t->mm[i].cols; c++)
            t->biases[at + c] = g->bias[(t->from[i] + c) * g->bias_stride];
        t->mm[i].bias = g->has_bias ? t->biases + at : NULL;
        t->mm[i].alpha = g->alpha;
        at += t->mm[i].cols;
    }
}

/* k0 .. k0 + n - 1 of A's rows m .., gathered if they are strided. */
static const float *tfb__task_rows(const tfb__task *t, tfb_idx m, tfb_idx rows,
                                   tfb_idx k0, tfb_idx n, tfb_idx *lda) {
    const tfb__gemm *g = t->g;
    const tfb_idx rs = g->a.stride[g->batch_dims], ks = g->a.stride[g->batch_dims + 1];
    const float *a =
        (const float *)(void *)tfb__at(&g->a, g->batch_dims, t->batch, m, k0);
    *lda = rs;
    if (!t->rows) return a;
    TFB__KERNEL(g->isa, collect)(rows, n, a, rs, ks, t->rows);
    *lda = n;
    return t->rows;
}

/* Chunk k0 .. k0 + n - 1 of rows m ..: the sums, and in the end alpha and bias. */
static void tfb__task_chunk(tfb__task *t, tfb_idx m, tfb_idx rows, tfb_idx k0,
                            tfb_idx n) {
    const tfb__gemm *g = t->g;
    tfb_idx lda = 0;
    const float *a = tfb__task_rows(t, m, rows, k0, n, &lda);
    int i;
    for (i = 0; i < t->ranges; i++) {
        tfb__mm *mm = &t->mm[i], now = *mm;
        now.rows = rows;
        now.k = n;
        now.a = a;
        now.lda = lda;
        now.add = k0 > 0;
        now.last = k0 + n >= g->K;
        now.source.x = t->w[i] + k0 * now.source.k_stride *
                                     (tfb_idx)tfb_dtype_size(now.source.dtype);
        if (!now.b) now.b = (float *)(uintptr_t)now.source.x;
        else if (!now.reuse) now.b += k0 * TFB__PANEL;
        now.staged = mm->staged && (m == t->m0 || now.reuse);
        if (!t->sums) now.s += (m - t->m0) * now.lds;
        if (now.r) now.r += (m - t->m0) * now.ldr;
        now.y = g->direct ? now.y + (m - t->m0) * now.ldy : now.s;
        TFB__KERNEL(g->isa, mm)(&now);
    }
}

static void tfb__task_setup(tfb__task *t, tfb__epilogue *e) {
    const tfb__gemm *g = t->g;
    const tfb_idx c1 = t->c0 + t->cols, n0 = tfb__gate_column(g, t->c0, 0);
    const int b = g->batch_dims;
    float *s = t->sums;
    if (!s) s = (float *)tfb__at(&g->y, b, t->batch, t->m0, t->c0);
    t->first = s;
    if (g->in_place) {
        const tfb_idx whole = t->cols / TFB__PANEL * TFB__PANEL;
        if (whole) tfb__task_range(t, n0, n0 + whole, s, 1);
        if (whole < t->cols) tfb__task_range(t, n0 + whole, n0 + t->cols, s + whole, 0);
    } else if (g->gate == TFB_GATE_INTERLEAVED) {
        e->interleaved = 1;
        s = tfb__task_range(t, n0, 2 * c1, s, 0);
    } else {
        const tfb_idx u0 = tfb__gate_column(g, t->c0, 1);
        s = tfb__task_range(t, n0, n0 + t->cols, s, 0);
        if (g->gate)
            e->up = tfb__task_range(t, u0, u0 + t->cols, t->sums + g->width / 2, 0);
    }
    tfb__task_bias(t);
    e->cols = t->cols;
    e->s = s;
    e->s_rs = g->width;
    e->act = g->act;
    e->y_rs = g->y.stride[b];
    e->y_cs = g->y.stride[b + 1];
    e->r_rs = g->r.stride[b];
    e->r_cs = g->r.stride[b + 1];
}

static void tfb__gemm_task(void *arg, tfb_idx i, int worker) {
    const tfb__gemm *g = (const tfb__gemm *)arg;
    const tfb_idx tasks = g->tasks_m * g->tasks_n;
    tfb__task t;
    tfb__epilogue e;
    tfb_idx m, k0;
    memset((void *)&t, 0, sizeof t);
    memset((void *)&e, 0, sizeof e);
    t.g = g;
    t.batch = i / tasks;
    t.m0 = i % tasks / g->tasks_n * g->task_rows;
    t.m1 = TFB__MIN(t.m0 + g->task_rows, g->M);
    t.c0 = i % tasks % g->tasks_n * g->task_cols;
    t.cols = TFB__MIN(g->task_cols, g->cols - t.c0);
    if (g->sums) t.sums = g->sums + worker * g->strip * g->width;
    if (g->biases) t.biases = g->biases + worker * g->width;
    if (g->rows) t.rows = g->rows + worker * g->strip * g->chunk;
    if (g->panels) t.panels = g->panels + worker * g->panel_floats;
    tfb__task_setup(&t, &e);
    for (m = t.m0; m < t.m1; m += g->strip) {
        e.rows = TFB__MIN(g->strip, t.m1 - m);
        for (k0 = 0; k0 == 0 || k0 < g->K; k0 += g->chunk)
            tfb__task_chunk(&t, m, e.rows, k0, TFB__MIN(g->chunk, g->K - k0));
        if (g->direct) continue;
        e.y = (float *)tfb__at(&g->y, g->batch_dims, t.batch, m, t.c0);
        if (g->r.ndim) e.r = (float *)tfb__at(&g->r, g->batch_dims, t.batch, m, t.c0);
        TFB__KERNEL(g->isa, epilogue)(&e);
    }
}

/* Merges the innermost batch dimension into the rows where W repeats over it and rows
 * stay evenly spaced: [B, T, K] times one W is one product of B T rows. */
static void tfb__gemm_merge(tfb__gemm *g) {
    tfb_tensor *t[4];
    int i, d;
    t[0] = &g->a;
    t[1] = &g->y;
    t[2] = &g->r;
    t[3] = &g->w;
    while ((d = g->batch_dims - 1) >= 0) {
        const tfb_idx outer = g->y.shape[d];
        if (outer > 1 && g->w.stride[d] != 0) return;
        for (i = 0; i < 3; i++)
            if (t[i]->ndim && outer > 1 && g->M > 1 &&
                t[i]->stride[d] != g->M * t[i]->stride[d + 1])
                return;
        for (i = 0; i < 4; i++) {
            const tfb_idx row =
                i < 3 && g->M == 1 ? t[i]->stride[d] : t[i]->stride[d + 1];
            t[i]->stride[d] = row;
            t[i]->stride[d + 1] = t[i]->stride[d + 2];
        }
        g->M *= outer;
        g->batch_dims = d;
    }
}

/* Cuts the outputs into tasks: columns first, so that no two tasks pack the same part of
 * W, and into a multiple of the workers; rows too where there are not enough columns. */
static void tfb__gemm_grid(tfb__gemm *g, tfb_idx batches, tfb_idx workers) {
    const tfb_idx unit = workers > 1 || g->cols < 96 ? TFB__PANEL : 3 * TFB__PANEL;
    tfb_idx most = TFB__TASK_COLS, n;
    if (g->M > TFB__SKINNY && g->M <= TFB__FEW_ROWS && g->K > 0)
        most = TFB__MAX(96, TFB__MIN(most, TFB__FEW_FLOATS / g->K / 48 * 48));
    if (g->gate) most /= 2;
    n = (g->cols + most - 1) / most;
    g->tasks_m = 1;
    if (batches * n < 8 * workers) {
        tfb_idx even = n;
        while (batches * even % workers && even * 2 * TFB__PANEL < g->cols) even++;
        if (batches * even % workers == 0) n = even;
        else g->tasks_m = TFB__MIN(workers, (g->M + 7) / 8);
    }
    g->task_cols = ((g->cols + n - 1) / n + unit - 1) / unit * unit;
    g->task_cols = TFB__MIN(g->task_cols, most);
    g->tasks_n = (g->cols + g->task_cols - 1) / g->task_cols;
    g->task_rows = (g->M + g->tasks_m - 1) / g->tasks_m;
    g->tasks_m = (g->M + g->task_rows - 1) / g->task_rows;
}

/* How the work is done; everything that scratch depends on. */
static void tfb__gemm_plan(tfb__gemm *g, tfb_idx batches, tfb_idx workers) {
    const int b = g->batch_dims;
    const tfb_idx ks = g->w.stride[b + 1];
    tfb__gemm_grid(g, batches, workers);
    g->direct = !g->gate && g->act <= TFB_FN_RELU &&
                (g->cols == 1 ||
                 (g->y.stride[b + 1] == 1 && (!g->r.ndim || g->r.stride[b + 1] == 1)));
    g->apart = g->r.ndim && g->K > TFB__BLOCK;
    g->reuse = g->task_rows <= TFB__SKINNY;
    g->gathered = g->a.stride[b + 1] != 1 && g->K > 1;
    g->strip = g->K > TFB__LONG_K ? TFB__STRIP_LONG : TFB__STRIP;
    g->strip = TFB__MIN(g->strip, g->task_rows);
    g->chunk = TFB__MAX(g->K, 1);
    if (g->task_rows > TFB__FEW_ROWS || g->gathered)
        g->chunk = TFB__MIN(g->chunk, TFB__BLOCK);
    g->in_place = !g->packed && !g->gate && !TFB__BIG_ENDIAN && g->w.dtype == TFB_F32 &&
                  g->w.stride[b] == 1 &&
                  (g->reuse ||
                   tfb__size_mul(4 * (size_t)g->K, tfb__stride_abs(ks)) <= TFB__IN_PLACE);
    g->width = TFB__PANEL_COUNT(g->task_cols) * TFB__PANEL;
    if (g->gate) g->width = 2 * (g->width + TFB__PANEL);
}

#ifdef TFB_USE_CBLAS
#define TFB__CBLAS_WORK 2097152 /* multiply-adds from which on a call is worth it */

/* Which way a matrix lies for BLAS: 1 rows, 2 columns, 0 neither. */
static int tfb__cblas_order(tfb_idx rows, tfb_idx cols, tfb_idx rs, tfb_idx cs) {
    if (rows > INT_MAX || cols > INT_MAX || rs > INT_MAX || cs > INT_MAX) return 0;
    if (cs == 1 && rs >= cols) return 1;
    return rs == 1 && cs >= rows ? 2 : 0;
}

/* The whole product by cblas_sgemm, if it is large and lies as BLAS wants it: bias goes
 * to y first, the activation follows in place. Returns 0 if it does not apply. */
static int tfb__gemm_cblas(const tfb__gemm *g, tfb_idx batches) {
    const int b = g->batch_dims;
    const tfb_idx ars = g->a.stride[b], aks = g->a.stride[b + 1], ys = g->y.stride[b];
    const tfb_idx ws = g->w.stride[b], wks = g->w.stride[b + 1];
    const int a_order = tfb__cblas_order(g->M, g->K, ars, aks);
    const int w_order = tfb__cblas_order(g->N, g->K, ws, wks);
    const size_t work = tfb__size_mul((size_t)g->M, (size_t)g->K);
    tfb_idx i, m, n;
    if (g->packed || g->gate || g->r.ndim || g->w.dtype != TFB_F32) return 0;
    if (tfb__size_mul(work, (size_t)g->N) < TFB__CBLAS_WORK || !a_order || !w_order ||
        tfb__cblas_order(g->M, g->N, ys, g->y.stride[b + 1]) != 1)
        return 0;
    for (i = 0; i < batches; i++) {
        float *y = (float *)tfb__at(&g->y, b, i, 0, 0);
        for (m = 0; g->has_bias && m < g->M; m++)
            for (n = 0; n < g->N; n++) y[m * ys + n] = g->bias[n * g->bias_stride];
        cblas_sgemm(
            CblasRowMajor, a_order == 1 ? CblasNoTrans : CblasTrans,
            w_order == 1 ? CblasTrans : CblasNoTrans, (int)g->M, (int)g->N, (int)g->K,
            g->alpha, (const float *)tfb__at(&g->a, b, i, 0, 0),
            (int)(a_order == 1 ? ars : aks), (const float *)tfb__at(&g->w, b, i, 0, 0),
            (int)(w_order == 1 ? ws : wks), g->has_bias ? 1.0f : 0.0f, y, (int)ys);
        for (m = 0; g->act != TFB_FN_IDENTITY && m < g->M; m++)
            TFB__KERNEL(g->isa, map)(g->act, g->N, y + m * ys, y + m * ys);
    }
    return 1;
}
#endif

/* Scratch for one worker's panels, in floats. */
static tfb_idx tfb__gemm_panel_floats(const tfb__gemm *g) {
    const tfb_idx steps = g->reuse ? TFB__STAGE : g->K;
    if (g->packed && g->w.dtype == TFB_F32) return 0;
    if (!g->in_place) return (tfb_idx)tfb__size_mul((size_t)g->width, (size_t)steps);
    return g->cols % TFB__PANEL ? TFB__PANEL * steps : 0;
}

static tfb_status tfb__gemm_run(tfb_ctx *ctx, const char *fn, tfb__gemm *g) {
    tfb_idx batches = 1;
    int workers = tfb__workers(ctx), i;
    tfb__mark mark;
    tfb_status status;
    if (tfb_numel(&g->y) == 0) return TFB_OK;
    if (g->K == 0) { /* nothing is read, and data may be NULL */
        memset((void *)g->a.stride, 0, sizeof g->a.stride);
        memset((void *)g->w.stride, 0, sizeof g->w.stride);
        g->a.data = g->w.data = (void *)(uintptr_t)tfb__iota;
        g->w.dtype = TFB_F32;
        g->packed = 1;
    }
    tfb__gemm_merge(g);
    for (i = 0; i < g->batch_dims; i++) batches *= g->y.shape[i];
    g->isa = ctx->isa;
#ifdef TFB_USE_CBLAS
    if (!ctx->measuring && tfb__gemm_cblas(g, batches)) return TFB_OK;
#endif
    if (tfb__size_mul((size_t)tfb_numel(&g->y), (size_t)g->K) < TFB__WAKE_WORK)
        workers = 1;
    tfb__gemm_plan(g, batches, workers);
    g->panel_floats = tfb__gemm_panel_floats(g);
    mark = tfb__scratch_begin(ctx);
    g->sums = (float *)tfb__take(ctx, g->direct && !g->apart ? 0 : workers,
                                 4 * (size_t)(g->strip * g->width));
    g->biases = (float *)tfb__take(ctx, g->has_bias ? workers : 0, 4 * (size_t)g->width);
    g->rows = (float *)tfb__take(ctx, g->gathered ? workers : 0,
                                 4 * (size_t)(g->strip * g->chunk));
    g->panels =
        (float *)tfb__take(ctx, workers, tfb__size_mul((size_t)g->panel_floats, 4));
    status = tfb__scratch_ready(ctx, fn);
    if (status == TFB_OK && !ctx->measuring) {
        const tfb_idx tasks = batches * g->tasks_m * g->tasks_n;
        tfb_idx t;
        if (workers > 1) tfb__parallel(ctx, tasks, tfb__gemm_task, g);
        for (t = 0; workers == 1 && t < tasks; t++) tfb__gemm_task(g, t, 0);
    }
    return tfb__scratch_end(ctx, mark, status);
}

/* 1 for a plain matrix of small extents: what a tiny product takes without a look at
 * anything else. */
TFB__INLINE int tfb__is_tiny(const tfb_tensor *t) {
    const tfb_idx rows = t->shape[0], cols = t->shape[1], step = t->stride[0];
    return t->ndim == 2 && t->dtype == TFB_F32 && t->stride[1] == 1 && rows > 0 &&
           cols > 0 && rows <= TFB__TINY && cols <= TFB__TINY && step >= cols &&
           step <= 16 * TFB__TINY && t->data && (uintptr_t)t->data % sizeof(float) == 0;
}

/* Do the rows of two tiny matrices keep apart? */
TFB__INLINE int tfb__is_apart(const tfb_tensor *a, const tfb_tensor *b) {
    const float *x = (const float *)a->data, *y = (const float *)b->data;
    return x + a->shape[0] * a->stride[0] <= y || y + b->shape[0] * b->stride[0] <= x;
}

/* The checks and plans of the general path take longer than a tiny product. What follows
 * computes one that is in order in every way and returns 0 for all others; its scratch is
 * what the general path would take. */
static int tfb__tiny(tfb__mm *mm, const tfb_ctx *ctx, const tfb_tensor *a,
                     const tfb_tensor *y) {
    if (!a || !y || ctx->measuring || TFB__BIG_ENDIAN) return 0;
    if (!tfb__is_tiny(a) || !tfb__is_tiny(y) || !tfb__is_apart(y, a)) return 0;
    if (a->shape[0] != y->shape[0]) return 0;
    memset((void *)mm, 0, sizeof *mm);
    mm->rows = y->shape[0];
    mm->cols = y->shape[1];
    mm->k = a->shape[1];
    mm->a = (const float *)a->data;
    mm->lda = a->stride[0];
    mm->s = (float *)y->data;
    mm->y = mm->s;
    mm->lds = mm->ldy = y->stride[0];
    mm->bks = TFB__PANEL;
    mm->bps = TFB__PANEL * mm->k;
    mm->alpha = 1;
    mm->last = 1;
    return 1;
}

static int tfb__matmul_tiny(tfb_ctx *ctx, const tfb_tensor *a, const tfb_tensor *b,
                            const tfb_tensor *y) {
    tfb__mm mm;
    if (!b || !tfb__is_tiny(b) || !tfb__tiny(&mm, ctx, a, y)) return 0;
    if (b->shape[0] != mm.k || b->shape[1] != mm.cols || mm.cols % TFB__PANEL ||
        !tfb__is_apart(y, b))
        return 0;
    mm.b = (float *)b->data;
    mm.bps = TFB__PANEL;
    mm.bks = b->stride[0];
    TFB__KERNEL(ctx->isa, mm)(&mm);
    return 1;
}

static int tfb__linear_tiny(tfb_ctx *ctx, const tfb_tensor *x, const tfb_tensor *w,
                            const tfb_tensor *y, tfb_status *status) {
    tfb__mark mark;
    tfb__mm mm;
    tfb_idx panels;
    if (!w || !tfb__is_tiny(w) || !tfb__tiny(&mm, ctx, x, y)) return 0;
    if (w->shape[1] != mm.k || w->shape[0] != mm.cols || !tfb__is_apart(y, w)) return 0;
    panels = TFB__PANEL_COUNT(mm.cols);
    mm.staged = 1;
    mm.reuse = mm.rows <= TFB__SKINNY;
    if (mm.reuse) mm.bps = TFB__PANEL * TFB__STAGE;
    mm.source.x = w->data;
    mm.source.lane_stride = w->stride[0];
    mm.source.k_stride = 1;
    mm.source.dtype = TFB_F32;
    mm.source_step = TFB__PANEL * w->stride[0];
    mark = tfb__scratch_begin(ctx);
    mm.b = (float *)tfb__take(ctx, panels * mm.bps, sizeof(float));
    *status = tfb__scratch_ready(ctx, "tfb_linear");
    if (*status == TFB_OK) TFB__KERNEL(ctx->isa, mm)(&mm);
    tfb__scratch_end(ctx, mark, *status);
    return 1;
}

/* For a packed weight everything its header must say is known. */
static int tfb__packed_tiny(tfb_ctx *ctx, const tfb_tensor *x, const tfb_tensor *w,
                            const tfb_tensor *y) {
    unsigned char header[TFB__PACK_HEADER];
    uintptr_t lo, hi;
    tfb__mm mm;
    if (!w || w->ndim != 2 || w->dtype != TFB_PACKED_F32 || !w->data) return 0;
    if (!tfb__tiny(&mm, ctx, x, y) || w->shape[1] != mm.k || w->shape[0] != mm.cols)
        return 0;
    tfb__pack_header(header, mm.cols, mm.k, TFB_F32);
    if ((uintptr_t)w->data % 4 || memcmp(w->data, header, sizeof header) != 0) return 0;
    lo = (uintptr_t)w->data;
    hi = lo + TFB__PACK_HEADER + 4 * (uintptr_t)(TFB__TINY * TFB__TINY);
    if ((uintptr_t)(mm.s + mm.rows * mm.lds) > lo && (uintptr_t)mm.s < hi) return 0;
    mm.b = (float *)w->data + TFB__PACK_HEADER / 4;
    TFB__KERNEL(ctx->isa, mm)(&mm);
    return 1;
}

#endif

#ifndef TFB_NO_MATMUL
TFB_API tfb_status tfb_matmul(tfb_ctx *ctx, const tfb_tensor *a, const tfb_tensor *b,
                              tfb_tensor *y) {
    const char *fn = "tfb_matmul";
    tfb_tensor like;
    tfb__gemm g;
    int d;
    TFB__ENTER(ctx);
    if (tfb__matmul_tiny(ctx, a, b, y)) return TFB_OK;
    TFB__TRY(tfb__check(ctx, fn, "a", a, TFB__MASK(TFB_F32), 2, TFB_MAX_DIMS));
    TFB__TRY(tfb__check(ctx, fn, "b", b, TFB__MASK(TFB_F32), 2, TFB_MAX_DIMS));
    TFB__TRY(tfb__check(ctx, fn, "y", y, TFB__MASK(TFB_F32), 2, TFB_MAX_DIMS));
    d = y->ndim - 2;
    TFB__TRY(tfb__check_extent(ctx, fn, "b", b, b->ndim - 2, a->shape[a->ndim - 1]));
    memset((void *)&g, 0, sizeof g);
    like = *y;
    like.shape[d + 1] = a->shape[a->ndim - 1];
    TFB__REQUIRE(a->shape[a->ndim - 2] == y->shape[d], ctx, TFB_ERR_SHAPE,
                 "%s: y.shape[%d] is %d, a has %d rows", fn, (tfb_idx)d, y->shape[d],
                 a->shape[a->ndim - 2]);
    TFB__REQUIRE(b->shape[b->ndim - 1] == y->shape[d + 1], ctx, TFB_ERR_SHAPE,
                 "%s: y.shape[%d] is %d, b has %d columns", fn, (tfb_idx)(d + 1),
                 y->shape[d + 1], b->shape[b->ndim - 1]);
    TFB__TRY(tfb__broadcast(ctx, fn, "a", a, &like, &g.a));
    like.shape[d] = b->shape[b->ndim - 2];
    like.shape[d + 1] = b->shape[b->ndim - 1];
    TFB__TRY(tfb__broadcast(ctx, fn, "b", b, &like, &g.w));
    TFB__TRY(tfb__check_out(ctx, fn, "y", y));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "a", a, 0));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "b", b, 0));
    g.y = *y;
    g.batch_dims = d;
    g.M = y->shape[d];
    g.N = g.cols = y->shape[d + 1];
    g.K = a->shape[a->ndim - 1];
    g.w.stride[d] = b->stride[b->ndim - 1]; /* W = B^T */
    g.w.stride[d + 1] = b->stride[b->ndim - 2];
    g.alpha = 1;
    return tfb__gemm_run(ctx, fn, &g);
}
#endif

/* --- Packed weights. --- */
#ifndef TFB_NO_PACKS
TFB_API size_t tfb_pack_bytes(tfb_idx n, tfb_idx k, tfb_dtype dtype) {
    size_t rows, bytes;
    if (n < 0 || k < 0 || (unsigned)dtype > (unsigned)TFB_BF16) return 0;
    rows = TFB__PANEL_COUNT((size_t)n) * TFB__PANEL;
    bytes = tfb__size_mul(tfb__size_mul(rows, (size_t)k), tfb_dtype_size(dtype));
    bytes = tfb__size_add(bytes, TFB__PACK_HEADER);
    return bytes < (size_t)-1 / 2 ? bytes : 0;
}

/* F32 and TFB_PACKED_F32, and so on. */
static tfb_dtype tfb__packed_of(tfb_dtype dtype) {
    return dtype == TFB_F32   ? TFB_PACKED_F32
           : dtype == TFB_F16 ? TFB_PACKED_F16
                              : TFB_PACKED_BF16;
}

/* The header: magic, version, dtype, N, K, the rest zero. */
static tfb_status tfb__pack_check(tfb_ctx *ctx, const char *fn, const void *mem,
                                  tfb_idx *n, tfb_idx *k, tfb_dtype *dtype) {
    const unsigned char *p = (const unsigned char *)mem;
    const uint64_t kind = tfb__get_u64(p + 8);
    uint64_t rows, columns;
    int i;
    TFB__REQUIRE(memcmp(p, TFB__PACK_MAGIC, 8) == 0, ctx, TFB_ERR_FORMAT,
                 "%s: the bytes do not begin as a pack", fn);
    for (i = 32; i < TFB__PACK_HEADER; i++)
        TFB__REQUIRE(p[i] == 0, ctx, TFB_ERR_FORMAT, "%s: byte %d of the pack is not 0",
                     fn, (tfb_idx)i);
    TFB__REQUIRE((kind & 0xFFFFFFFFu) == TFB__PACK_VERSION && kind >> 32 <= TFB_BF16, ctx,
                 TFB_ERR_FORMAT, "%s: a pack of another version or dtype", fn);
    *dtype = (tfb_dtype)(kind >> 32);
    rows = tfb__get_u64(p + 16);
    columns = tfb__get_u64(p + 24);
    *n = (tfb_idx)rows;
    *k = (tfb_idx)columns;
    TFB__REQUIRE((uint64_t)*n == rows && (uint64_t)*k == columns &&
                     tfb_pack_bytes(*n, *k, *dtype),
                 ctx, TFB_ERR_FORMAT, "%s: the pack's size overflows", fn);
    return TFB_OK;
}

static tfb_tensor tfb__pack_view(const void *mem, tfb_idx n, tfb_idx k, tfb_dtype dtype) {
    tfb_tensor t = tfb_view2(mem, tfb__packed_of(dtype), n, k);
    t.stride[0] = t.stride[1] = 0;
    return t;
}

/* Panel p of a pack of w: 16-bit weights are moved as they are. */
static void tfb__pack_panel(const tfb_ctx *ctx, const tfb_tensor *w, tfb_idx p,
                            unsigned char *data) {
    const tfb_idx K = w->shape[1], bytes = (tfb_idx)tfb_dtype_size(w->dtype);
    const tfb_idx n = TFB__MIN(TFB__PANEL, w->shape[0] - p * TFB__PANEL);
    const char *x = (const char *)w->data + p * TFB__PANEL * w->stride[0] * bytes;
    unsigned char *panel = data + p * TFB__PANEL * K * bytes;
    tfb__source from;
    tfb_idx i, k;
    from.x = x;
    from.lane_stride = w->stride[0];
    from.k_stride = w->stride[1];
    from.dtype = w->dtype;
    from.little = 0;
    if (w->dtype == TFB_F32) {
        TFB__KERNEL(ctx->isa, pack)(&from, K, n, TFB__PANEL, (float *)(void *)panel);
        return;
    }
    memset(panel, 0, (size_t)(2 * TFB__PANEL * K));
    for (k = 0; k < K; k++)
        for (i = 0; i < n; i++) {
            uint16_t h;
            memcpy(&h, x + 2 * (i * w->stride[0] + k * w->stride[1]), 2);
            panel[2 * (k * TFB__PANEL + i)] = (unsigned char)(h & 255);
            panel[2 * (k * TFB__PANEL + i) + 1] = (unsigned char)(h >> 8);
        }
}

TFB_API tfb_status tfb_pack(tfb_ctx *ctx, const tfb_tensor *w, void *mem,
                            size_t mem_bytes, tfb_tensor *packed) {
    unsigned char *header = (unsigned char *)mem;
    tfb_tensor bytes, from;
    size_t need;
    tfb_idx p;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__check(ctx, "tfb_pack", "w", w, TFB__FLOATS, 2, 2));
    TFB__REQUIRE(mem && packed, ctx, TFB_ERR_ARG, "tfb_pack: %s is NULL",
                 mem ? "packed" : "mem");
    TFB__REQUIRE((uintptr_t)mem % 4 == 0, ctx, TFB_ERR_ARG,
                 "tfb_pack: mem is not aligned to 4");
    need = tfb_pack_bytes(w->shape[0], w->shape[1], w->dtype);
    TFB__REQUIRE(need, ctx, TFB_ERR_RANGE, "tfb_pack: the size of w overflows");
    TFB__REQUIRE(mem_bytes >= need, ctx, TFB_ERR_RANGE,
                 "tfb_pack: mem_bytes is %d, needs %d", (tfb_idx)mem_bytes,
                 (tfb_idx)need);
    bytes = tfb_view1(mem, TFB_U8, (tfb_idx)need);
    TFB__TRY(tfb__check_alias(ctx, "tfb_pack", "mem", &bytes, "w", w, 0));
    from = *w; /* packed may be w */
    *packed = tfb__pack_view(mem, from.shape[0], from.shape[1], from.dtype);
    if (ctx->measuring) return TFB_OK;
    tfb__pack_header(header, from.shape[0], from.shape[1], from.dtype);
    for (p = 0; from.shape[1] && p * TFB__PANEL < from.shape[0]; p++)
        tfb__pack_panel(ctx, &from, p, header + TFB__PACK_HEADER);
    return TFB_OK;
}

TFB_API tfb_status tfb_pack_open(tfb_ctx *ctx, const void *mem, size_t mem_bytes,
                                 tfb_tensor *packed) {
    tfb_dtype dtype = TFB_F32;
    tfb_idx n, k;
    TFB__ENTER(ctx);
    TFB__REQUIRE(mem && packed, ctx, TFB_ERR_ARG, "tfb_pack_open: %s is NULL",
                 mem ? "packed" : "mem");
    TFB__REQUIRE((uintptr_t)mem % 4 == 0, ctx, TFB_ERR_ARG,
                 "tfb_pack_open: mem is not aligned to 4");
    TFB__REQUIRE(mem_bytes >= TFB__PACK_HEADER, ctx, TFB_ERR_FORMAT,
                 "tfb_pack_open: %d bytes are less than a header", (tfb_idx)mem_bytes);
    TFB__TRY(tfb__pack_check(ctx, "tfb_pack_open", mem, &n, &k, &dtype));
    TFB__REQUIRE(mem_bytes >= tfb_pack_bytes(n, k, dtype), ctx, TFB_ERR_FORMAT,
                 "tfb_pack_open: the pack is cut off: %d bytes, needs %d",
                 (tfb_idx)mem_bytes, (tfb_idx)tfb_pack_bytes(n, k, dtype));
    *packed = tfb__pack_view(mem, n, k, dtype);
    return TFB_OK;
}

/* The panels of a packed W into g. */
static tfb_status tfb__linear_pack(tfb_ctx *ctx, const tfb_tensor *w, const tfb_tensor *y,
                                   tfb__gemm *g) {
    const char *fn = "tfb_linear";
    if (!ctx->measuring && tfb_numel(w)) {
        const size_t need = tfb_pack_bytes(g->N, g->K, g->w.dtype);
        tfb_tensor bytes = tfb_view1(w->data, TFB_U8, (tfb_idx)need);
        tfb_dtype dtype = TFB_F32;
        tfb_idx n = 0, k = 0;
        TFB__REQUIRE((uintptr_t)w->data % 4 == 0, ctx, TFB_ERR_ARG,
                     "%s: w.data is not aligned to 4", fn);
        TFB__TRY(tfb__pack_check(ctx, fn, w->data, &n, &k, &dtype));
        TFB__REQUIRE(dtype == g->w.dtype, ctx, TFB_ERR_DTYPE, "%s: w is %s, the pack %s",
                     fn, tfb__dtype_text(g->w.dtype), tfb__dtype_text(dtype));
        TFB__REQUIRE(n == g->N && k == g->K, ctx, TFB_ERR_SHAPE,
                     "%s: w is [%d, %d], the pack [%d, %d]", fn, g->N, g->K, n, k);
        TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "w", &bytes, 0));
        g->w.data = (char *)w->data + TFB__PACK_HEADER;
    }
    return TFB_OK;
}
#else
#define tfb__linear_pack(ctx, w, y, g) TFB_OK
#endif

static tfb_dtype tfb__unpacked_of(tfb_dtype dtype) {
    return dtype == TFB_PACKED_F32   ? TFB_F32
           : dtype == TFB_PACKED_F16 ? TFB_F16
                                     : TFB_BF16;
}

#ifndef TFB_NO_LINEAR
/* W into g: its panels if it is packed, else its strides behind the batch dimensions. */
static tfb_status tfb__linear_weight(tfb_ctx *ctx, const tfb_tensor *w,
                                     const tfb_tensor *y, tfb__gemm *g) {
    const char *fn = "tfb_linear";
    const int d = g->batch_dims;
    int i;
    g->packed = (TFB__PACKS & TFB__MASK(w->dtype)) != 0;
    TFB__REQUIRE(TFB__HAS(PACKS) || !g->packed, ctx, TFB_ERR_UNSUPPORTED,
                 "%s: w is packed, which is left out by TFB_NO_PACKS", fn);
    if (!TFB__HAS(PACKS)) g->packed = 0;
    tfb__assign(&g->w, &g->y);
    g->w.data = w->data;
    g->w.dtype = g->packed ? tfb__unpacked_of(w->dtype) : w->dtype;
    for (i = 0; i < g->w.ndim; i++) g->w.stride[i] = 0;
    if (!g->packed) {
        g->w.stride[d] = w->stride[0];
        g->w.stride[d + 1] = w->stride[1];
        return tfb__check_alias(ctx, fn, "y", y, "w", w, 0);
    }
    return tfb__linear_pack(ctx, w, y, g);
}

/* Checks every argument and fills g. */
static tfb_status tfb__linear_setup(tfb_ctx *ctx, const tfb_tensor *x,
                                    const tfb_tensor *w, const tfb_linear_opts *o,
                                    const tfb_tensor *y, tfb__gemm *g) {
    const char *fn = "tfb_linear";
    const int f32 = TFB__MASK(TFB_F32);
    int last;
    TFB__TRY(tfb__check(ctx, fn, "x", x, f32, 1, TFB_MAX_DIMS));
    TFB__TRY(tfb__check(ctx, fn, "w", w, TFB__FLOATS | TFB__PACKS, 2, 2));
    TFB__TRY(tfb__check(ctx, fn, "y", y, f32, x->ndim, x->ndim));
    last = x->ndim - 1;
    memset((void *)g, 0, sizeof *g);
    g->N = w->shape[0];
    g->K = w->shape[1];
    g->act = o->act;
    g->gate = o->gate;
    g->alpha = o->alpha_set ? o->alpha : 1.0f;
    TFB__REQUIRE((unsigned)g->act < (unsigned)TFB__ACTS, ctx, TFB_ERR_ARG,
                 "%s: act is %d, which is no activation", fn, (tfb_idx)(int)g->act);
    TFB__REQUIRE((unsigned)g->gate <= (unsigned)TFB_GATE_INTERLEAVED, ctx, TFB_ERR_ARG,
                 "%s: gate is %d", fn, (tfb_idx)(int)g->gate);
    TFB__REQUIRE(TFB__HAS(GATES) || !g->gate, ctx, TFB_ERR_UNSUPPORTED,
                 "%s: gates are left out by TFB_NO_GATES", fn);
    TFB__REQUIRE(!g->gate || g->N % 2 == 0, ctx, TFB_ERR_SHAPE,
                 "%s: w.shape[0] is %d, must be even when gated", fn, g->N);
    g->cols = g->gate ? g->N / 2 : g->N;
    TFB__TRY(tfb__check_extent(ctx, fn, "x", x, last, g->K));
    TFB__TRY(tfb__check_like(ctx, fn, "y", y, x, last));
    TFB__TRY(tfb__check_extent(ctx, fn, "y", y, last, g->cols));
    TFB__TRY(tfb__check_out(ctx, fn, "y", y));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "x", x, 0));
    tfb__assign(&g->a, x);
    tfb__assign(&g->y, y);
    if (o->residual) {
        TFB__TRY(tfb__check(ctx, fn, "residual", o->residual, f32, x->ndim, x->ndim));
        TFB__TRY(tfb__check_like(ctx, fn, "residual", o->residual, y, x->ndim));
        TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "residual", o->residual, 1));
        tfb__assign(&g->r, o->residual);
    }
    if (o->bias) {
        TFB__TRY(tfb__check(ctx, fn, "bias", o->bias, f32, 1, 1));
        TFB__TRY(tfb__check_extent(ctx, fn, "bias", o->bias, 0, g->N));
        TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "bias", o->bias, 0));
        g->bias = (const float *)o->bias->data;
        g->bias_stride = o->bias->stride[0];
        g->has_bias = 1;
    }
    if (last == 0) { /* a vector is a matrix of one row */
        tfb_tensor *t[3];
        int i;
        t[0] = &g->a;
        t[1] = &g->y;
        t[2] = &g->r;
        for (i = 0; i < 3; i++) {
            if (!t[i]->ndim) continue; /* no residual */
            t[i]->stride[1] = t[i]->stride[0];
            t[i]->shape[1] = t[i]->shape[0];
            t[i]->shape[0] = 1;
            t[i]->ndim = 2;
        }
    }
    g->batch_dims = g->y.ndim - 2;
    g->M = g->y.shape[g->batch_dims];
    return tfb__linear_weight(ctx, w, y, g);
}

TFB_API tfb_status tfb_linear(tfb_ctx *ctx, const tfb_tensor *x, const tfb_tensor *w,
                              const tfb_linear_opts *opts, tfb_tensor *y) {
    tfb_status status = TFB_OK;
    tfb_linear_opts none;
    tfb__gemm g;
    TFB__ENTER(ctx);
    if (!opts &&
        (tfb__linear_tiny(ctx, x, w, y, &status) || tfb__packed_tiny(ctx, x, w, y)))
        return status;
    memset((void *)&none, 0, sizeof none);
    TFB__TRY(tfb__linear_setup(ctx, x, w, opts ? opts : &none, y, &g));
    return tfb__gemm_run(ctx, "tfb_linear", &g);
}
#endif

/* --- References: index loops, TFB__FMA and elementary functions only. --- */
static tfb_idx tfb__at4(const tfb_tensor *t, tfb_idx i, tfb_idx j, tfb_idx k, tfb_idx l) {
    return i * t->stride[0] + j * t->stride[1] + k * t->stride[2] + l * t->stride[3];
}

static float tfb__dot_ref(tfb_idx n, const float *a, tfb_idx as, const float *b,
                          tfb_idx bs) {
    float sum = 0, block;
    tfb_idx k0, k;
    for (k0 = 0; k0 < n; k0 += TFB__BLOCK) {
        block = 0;
        for (k = k0; k < k0 + TFB__BLOCK && k < n; k++)
            block = TFB__FMA(a[k * as], b[k * bs], block);
        sum = k0 ? sum + block : block;
    }
    return sum;
}

TFB__UNUSED static void tfb__matmul_ref(const tfb_tensor *a, const tfb_tensor *b,
                                        tfb_tensor *y) { /* no broadcasting */
    const int d = y->ndim - 2;
    const tfb_idx M = y->shape[d], N = y->shape[d + 1], K = a->shape[d + 1];
    tfb_idx i, m, n;
    for (i = 0; M && N && i < tfb_numel(y) / (M * N); i++)
        for (m = 0; m < M; m++)
            for (n = 0; n < N; n++) {
                const float *pa = (const float *)a->data + tfb__offset(a, d, i);
                const float *pb = (const float *)b->data + tfb__offset(b, d, i);
                float *py = (float *)y->data + tfb__offset(y, d, i);
                py[m * y->stride[d] + n * y->stride[d + 1]] =
                    tfb__dot_ref(K, pa + m * a->stride[d], a->stride[d + 1],
                                 pb + n * b->stride[d + 1], b->stride[d]) +
                    0.0f;
            }
}

TFB__UNUSED static void tfb__linear_ref(const tfb_tensor *x, const tfb_tensor *w,
                                        const tfb_linear_opts *o, tfb_tensor *y) {
    const int d = y->ndim - 1;
    const tfb_idx cols = y->shape[d];
    tfb_idx i, c;
    for (i = 0; cols && i < tfb_numel(y) / cols; i++)
        for (c = 0; c < cols; c++) {
            float part[2], *py = (float *)y->data + tfb__offset(y, d, i);
            int up;
            for (up = 0; up <= (o->gate ? 1 : 0); up++) {
                const tfb_idx n = o->gate == TFB_GATE_HALVES        ? c + up * cols
                                  : o->gate == TFB_GATE_INTERLEAVED ? 2 * c + up
                                                                    : c;
                const float sum = tfb__dot_ref(
                    w->shape[1], (const float *)x->data + tfb__offset(x, d, i),
                    x->stride[d], (const float *)w->data + n * w->stride[0],
                    w->stride[1]);
                const float bias =
                    o->bias ? ((const float *)o->bias->data)[n * o->bias->stride[0]] : 0;
                part[up] = TFB__FMA(o->alpha_set ? o->alpha : 1.0f, sum, bias);
            }
            tfb__map_scalar(o->act, 1, part, part);
            if (o->gate) part[0] = part[0] * part[1];
            if (o->residual)
                part[0] =
                    part[0] +
                    ((const float *)o->residual->data)[tfb__offset(o->residual, d, i) +
                                                       c * o->residual->stride[d]];
            py[c * y->stride[d]] = part[0];
        }
}

/* ===== [15] NORMS, SOFTMAX AND ROPE ================================================= */

/* Rows of x, y and two optional tensors; strided ones pass through scratch. */
typedef struct tfb__rowwise {
    tfb_tensor x, y, r, sum; /* r, sum: data NULL if absent */
    tfb_idx n, rows, per_task;
    const float *w, *b;
    tfb_idx ws, bs; /* their strides, where they are not copied */
    float *lse, *scratch;
    tfb_idx buffers; /* rows of scratch a worker has, one per strided tensor */
    tfb_tensor lse_view;
    float eps;
    int centre, l2, softmax;
    const tfb__kernels *isa;
} tfb__rowwise;

/* The norms; the reference takes one of these too. */
enum { TFB__RMSNORM, TFB__LAYERNORM, TFB__L2NORM };

/* A vector of n copied to where it has no gaps; NULL if there is none. */
static float *tfb__vector_copy(const tfb_tensor *t, tfb_idx n, float *to) {
    tfb_idx i;
    for (i = 0; t && i < n; i++) to[i] = ((const float *)t->data)[i * t->stride[0]];
    return t ? to : NULL;
}

#if TFB__SMALL
/* Where a row begins, and floats from one element to the next. */
typedef struct tfb__row_at {
    float *p;
    tfb_idx step;
} tfb__row_at;

static tfb__row_at tfb__row_of(const tfb_tensor *t, tfb_idx i) {
    tfb__row_at r;
    r.p = (float *)(void *)tfb__row(t, i, &r.step);
    r.step /= 4;
    return r;
}

/* One row, element by element wherever it lies: tfb__softmax_ref over any strides. */
static void tfb__softmax_row(const tfb__rowwise *w, tfb_idx i) {
    const tfb__row_at x = tfb__row_of(&w->x, i), y = tfb__row_of(&w->y, i);
    float lane[TFB__LANES] = TFB_INIT, max = -FLT_MAX, sum;
    tfb_idx j;
    for (j = 0; j < w->n; j++) max = x.p[j * x.step] > max ? x.p[j * x.step] : max;
    for (j = 0; j < w->n; j++) {
        const float p = tfb__exp_scalar(x.p[j * x.step] - max);
        y.p[j * y.step] = p;
        lane[j % TFB__LANES] += p;
    }
    sum = tfb__fold16(lane);
    for (j = 0; !(sum >= 0 && sum <= 0) && j < w->n; j++)
        y.p[j * y.step] = y.p[j * y.step] / sum;
    if (TFB__OPT(LSE, w->lse))
        w->lse[tfb__offset(&w->lse_view, w->lse_view.ndim, i)] =
            sum >= 0 && sum <= 0 ? -TFB__FLT_INF : max + tfb__log_scalar(sum);
}

/* The same for tfb__norm_ref; x + r stands in sum, or else in y. */
static void tfb__norm_row(const tfb__rowwise *w, tfb_idx i) {
    const tfb__row_at x = tfb__row_of(&w->x, i), y = tfb__row_of(&w->y, i);
    const tfb__row_at s = w->sum.ndim ? tfb__row_of(&w->sum, i) : y;
    float lane[TFB__LANES], mean = 0, scale = 0;
    tfb_idx j, pass;
    for (j = 0; j < w->n; j++) {
        float v = x.p[j * x.step];
        if (w->r.ndim) {
            const tfb__row_at r = tfb__row_of(&w->r, i);
            v = v + r.p[j * r.step];
        }
        s.p[j * s.step] = v;
    }
    for (pass = !w->centre; pass < 2; pass++) { /* the mean; the squares */
        for (j = 0; j < TFB__LANES; j++) lane[j] = 0;
        for (j = 0; j < w->n; j++) {
            const float d = s.p[j * s.step] - mean, *l = lane + j % TFB__LANES;
            lane[j % TFB__LANES] = pass ? TFB__FMA(d, d, *l) : *l + s.p[j * s.step];
        }
        scale = tfb__fold16(lane);
        if (!pass) mean = scale / (float)w->n;
    }
    scale = TFB__SQRT(w->l2 ? scale : scale / (float)w->n + w->eps);
    if (w->l2 && w->eps > scale) scale = w->eps; /* so NaN stays */
    scale = 1.0f / scale;
    for (j = 0; j < w->n; j++)
        y.p[j * y.step] =
            TFB__FMA((s.p[j * s.step] - mean) * scale, w->w ? w->w[j * w->ws] : 1.0f,
                     w->b ? w->b[j * w->bs] : 0.0f);
}

static void tfb__rowwise_task(void *arg, tfb_idx i, int worker) {
    const tfb__rowwise *w = (const tfb__rowwise *)arg;
    (void)worker;
    if (!TFB__HAS(NORMS) || (TFB__HAS(SOFTMAX) && w->softmax)) tfb__softmax_row(w, i);
    else tfb__norm_row(w, i);
}

static tfb_status tfb__rowwise_run(tfb_ctx *ctx, const char *fn, tfb__rowwise *w,
                                   const tfb_tensor *weight, const tfb_tensor *bias) {
    (void)fn;
    w->w = weight ? (const float *)weight->data : NULL;
    w->b = bias ? (const float *)bias->data : NULL;
    w->ws = weight ? weight->stride[0] : 0;
    w->bs = bias ? bias->stride[0] : 0;
    if (!ctx->measuring) tfb__parallel(ctx, w->rows, tfb__rowwise_task, w);
    return TFB_OK;
}
#else
/* Are the elements of a row apart? An absent tensor has no rows. */
static int tfb__row_strided(const tfb_tensor *t) {
    return t->ndim && t->stride[t->ndim - 1] != 1;
}

/* Room for row i of t that kernels can use: the row itself, or the next n of *buffers. */
static float *tfb__row_place(const tfb_tensor *t, tfb_idx i, tfb_idx n, float **buffers) {
    tfb_idx step;
    float *row = (float *)(void *)tfb__row(t, i, &step);
    if (!tfb__row_strided(t)) return row;
    row = *buffers;
    *buffers += n;
    return row;
}

static float *tfb__row_in(const tfb_tensor *t, tfb_idx i, tfb_idx n, float **buffers) {
    tfb_idx step, j;
    const float *from = (const float *)(void *)tfb__row(t, i, &step);
    float *row = tfb__row_place(t, i, n, buffers);
    for (j = 0; row != from && j < n; j++) row[j] = from[j * (step / 4)];
    return row;
}

static void tfb__row_out(const tfb_tensor *t, tfb_idx i, tfb_idx n, const float *from) {
    tfb_idx step, j;
    float *row = (float *)(void *)tfb__row(t, i, &step);
    for (j = 0; from != row && j < n; j++) row[j * (step / 4)] = from[j];
}

static void tfb__rowwise_task(void *arg, tfb_idx task, int worker) {
    const tfb__rowwise *w = (const tfb__rowwise *)arg;
    const tfb_idx end = TFB__MIN((task + 1) * w->per_task, w->rows);
    tfb_idx i;
    for (i = task * w->per_task; i < end; i++) {
        float *buffers = w->scratch ? w->scratch + worker * w->buffers * w->n : NULL;
        const float *x = tfb__row_in(&w->x, i, w->n, &buffers);
        float *y = tfb__row_place(&w->y, i, w->n, &buffers);
        if (!TFB__HAS(NORMS) || (TFB__HAS(SOFTMAX) && w->softmax)) {
            const float lse = TFB__KERNEL(w->isa, softmax)(w->n, x, y);
            if (w->lse) w->lse[tfb__offset(&w->lse_view, w->lse_view.ndim, i)] = lse;
        } else {
            tfb__norm t;
            memset((void *)&t, 0, sizeof t);
            t.n = w->n;
            t.x = x;
            t.y = y;
            t.w = w->w;
            t.b = w->b;
            t.eps = w->eps;
            t.centre = w->centre;
            t.l2 = w->l2;
            if (w->r.ndim) t.r = tfb__row_in(&w->r, i, w->n, &buffers);
            if (w->sum.ndim) t.sum = tfb__row_place(&w->sum, i, w->n, &buffers);
            TFB__KERNEL(w->isa, norm)(&t);
            if (w->sum.ndim) tfb__row_out(&w->sum, i, w->n, t.sum);
        }
        tfb__row_out(&w->y, i, w->n, y);
    }
}

/* Shared by norms and softmax; weight and bias are copied so that they are contiguous. */
static tfb_status tfb__rowwise_run(tfb_ctx *ctx, const char *fn, tfb__rowwise *w,
                                   const tfb_tensor *weight, const tfb_tensor *bias) {
    const tfb__mark mark = tfb__scratch_begin(ctx);
    float *copy;
    tfb_status status;
    w->buffers = tfb__row_strided(&w->x) + tfb__row_strided(&w->y) +
                 tfb__row_strided(&w->r) + tfb__row_strided(&w->sum);
    w->scratch = (float *)tfb__take(ctx, tfb__workers(ctx) * w->buffers,
                                    tfb__size_mul((size_t)w->n, 4));
    copy = (float *)tfb__take(ctx, (weight ? 1 : 0) + (bias ? 1 : 0),
                              tfb__size_mul((size_t)w->n, 4));
    status = tfb__scratch_ready(ctx, fn);
    if (status == TFB_OK && !ctx->measuring && w->rows) {
        w->w = tfb__vector_copy(weight, w->n, copy);
        w->b = tfb__vector_copy(bias, w->n, weight ? copy + w->n : copy);
        w->isa = ctx->isa;
        w->per_task = TFB__MAX(1, 16384 / TFB__MAX(1, w->n));
        tfb__parallel(ctx, (w->rows + w->per_task - 1) / w->per_task, tfb__rowwise_task,
                      w);
    }
    return tfb__scratch_end(ctx, mark, status);
}

#endif

static tfb_status tfb__rowwise_setup(tfb_ctx *ctx, const char *fn, const tfb_tensor *x,
                                     const tfb_tensor *y, tfb__rowwise *w) {
    const int f32 = TFB__MASK(TFB_F32);
    TFB__TRY(tfb__check(ctx, fn, "x", x, f32, 1, TFB_MAX_DIMS));
    TFB__TRY(tfb__check(ctx, fn, "y", y, f32, x->ndim, x->ndim));
    TFB__TRY(tfb__check_like(ctx, fn, "y", y, x, x->ndim));
    TFB__TRY(tfb__check_out(ctx, fn, "y", y));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "x", x, 1));
    memset((void *)w, 0, sizeof *w);
    tfb__assign(&w->x, x);
    tfb__assign(&w->y, y);
    w->n = x->shape[x->ndim - 1];
    w->rows = w->n ? tfb_numel(x) / w->n : 0;
    return TFB_OK;
}

/* 0 stands for the default unless set says that it is meant. */
static float tfb__norm_eps(float eps, int set, int l2) {
    if (set || !(eps >= 0 && eps <= 0)) return eps;
    return l2 ? 1e-12f : 1e-5f;
}

/* A vector of x's last extent that y and sum must not overlap. */
static tfb_status tfb__norm_vector(tfb_ctx *ctx, const char *fn, const char *name,
                                   const tfb_tensor *t, const tfb__rowwise *w) {
    TFB__TRY(tfb__check_vector(ctx, fn, name, t, TFB__MASK(TFB_F32), w->n));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", &w->y, name, t, 0));
    return tfb__check_alias(ctx, fn, "sum", w->sum.ndim ? &w->sum : NULL, name, t, 0);
}

static tfb_status tfb__norm_run(tfb_ctx *ctx, const char *fn, const tfb_tensor *x,
                                const tfb_norm_opts *opts, tfb_tensor *y, int which) {
    const int f32 = TFB__MASK(TFB_F32);
    tfb_norm_opts o;
    tfb__rowwise w;
    memset((void *)&o, 0, sizeof o);
    if (opts) o = *opts;
    TFB__TRY(tfb__rowwise_setup(ctx, fn, x, y, &w));
    TFB__REQUIRE(w.n > 0, ctx, TFB_ERR_SHAPE, "%s: x.shape[%d] is 0", fn,
                 (tfb_idx)(x->ndim - 1));
    if (o.residual) {
        TFB__TRY(tfb__check(ctx, fn, "residual", o.residual, f32, x->ndim, x->ndim));
        TFB__TRY(tfb__check_like(ctx, fn, "residual", o.residual, x, x->ndim));
        TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "residual", o.residual, 1));
        w.r = *o.residual;
    }
    if (o.sum) {
        TFB__TRY(tfb__check(ctx, fn, "sum", o.sum, f32, x->ndim, x->ndim));
        TFB__TRY(tfb__check_like(ctx, fn, "sum", o.sum, x, x->ndim));
        TFB__TRY(tfb__check_out(ctx, fn, "sum", o.sum));
        TFB__TRY(tfb__check_alias(ctx, fn, "sum", o.sum, "x", x, 1));
        TFB__TRY(tfb__check_alias(ctx, fn, "sum", o.sum, "residual", o.residual, 1));
        TFB__TRY(tfb__check_alias(ctx, fn, "sum", o.sum, "y", y, 0));
        w.sum = *o.sum;
    }
    TFB__TRY(tfb__norm_vector(ctx, fn, "weight", o.weight, &w));
    TFB__TRY(tfb__norm_vector(ctx, fn, "bias", o.bias, &w));
    w.eps = tfb__norm_eps(o.eps, o.eps_set, which == TFB__L2NORM);
    TFB__REQUIRE(w.eps >= 0, ctx, TFB_ERR_ARG, "%s: eps must be >= 0", fn);
    w.centre = which == TFB__LAYERNORM;
    w.l2 = which == TFB__L2NORM;
    return tfb__rowwise_run(ctx, fn, &w, o.weight, o.bias);
}

#ifndef TFB_NO_NORMS
TFB_API tfb_status tfb_rmsnorm(tfb_ctx *ctx, const tfb_tensor *x,
                               const tfb_norm_opts *opts, tfb_tensor *y) {
    TFB__ENTER(ctx);
    return tfb__norm_run(ctx, "tfb_rmsnorm", x, opts, y, TFB__RMSNORM);
}

TFB_API tfb_status tfb_layernorm(tfb_ctx *ctx, const tfb_tensor *x,
                                 const tfb_norm_opts *opts, tfb_tensor *y) {
    TFB__ENTER(ctx);
    return tfb__norm_run(ctx, "tfb_layernorm", x, opts, y, TFB__LAYERNORM);
}

TFB_API tfb_status tfb_l2norm(tfb_ctx *ctx, const tfb_tensor *x,
                              const tfb_norm_opts *opts, tfb_tensor *y) {
    TFB__ENTER(ctx);
    return tfb__norm_run(ctx, "tfb_l2norm", x, opts, y, TFB__L2NORM);
}
#endif

#ifndef TFB_NO_SOFTMAX
TFB_API tfb_status tfb_softmax(tfb_ctx *ctx, const tfb_tensor *x, tfb_tensor *y,
                               tfb_tensor *lse) {
    const char *fn = "tfb_softmax";
    tfb__rowwise w;
    tfb_idx i;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__rowwise_setup(ctx, fn, x, y, &w));
    w.softmax = 1;
    TFB__REQUIRE(TFB__HAS(LSE) || !lse, ctx, TFB_ERR_UNSUPPORTED,
                 "%s: lse is left out by TFB_NO_LSE", fn);
    if (TFB__OPT(LSE, lse)) {
        TFB__TRY(tfb__check(ctx, fn, "lse", lse, TFB__MASK(TFB_F32), x->ndim - 1,
                            x->ndim - 1));
        TFB__TRY(tfb__check_like(ctx, fn, "lse", lse, x, x->ndim - 1));
        TFB__TRY(tfb__check_out(ctx, fn, "lse", lse));
        TFB__TRY(tfb__check_alias(ctx, fn, "lse", lse, "x", x, 0));
        TFB__TRY(tfb__check_alias(ctx, fn, "lse", lse, "y", y, 0));
        w.lse_view = *lse;
        w.lse = (float *)lse->data;
    }
    TFB__TRY(tfb__rowwise_run(ctx, fn, &w, NULL, NULL));
    for (i = 0; TFB__OPT(LSE, lse) && !ctx->measuring && !w.n && i < tfb_numel(lse); i++)
        w.lse[tfb__offset(lse, lse->ndim, i)] = -TFB__FLT_INF;
    return TFB_OK;
}
#endif

/* The sum of n values in 16 lanes, folded. square: the sum of (x - mean)^2. */
static float tfb__lanes_ref(tfb_idx n, const float *x, float mean, int square) {
    float lane[TFB__LANES] = TFB_INIT;
    tfb_idx i;
    int half;
    for (i = 0; i < n; i++) {
        const float d = x[i] - mean;
        lane[i % TFB__LANES] =
            square ? TFB__FMA(d, d, lane[i % TFB__LANES]) : lane[i % TFB__LANES] + x[i];
    }
    for (half = 8; half; half /= 2)
        for (i = 0; i < half; i++) lane[i] = lane[i] + lane[i + half];
    return lane[0];
}

/* One contiguous row; r, w, b may be NULL; sum receives x + r. */
TFB__UNUSED static void tfb__norm_ref(tfb_idx n, const float *x, const float *r,
                                      const float *w, const float *b, float eps,
                                      int which, float *sum, float *y) {
    float mean = 0, scale;
    tfb_idx i;
    for (i = 0; i < n; i++) sum[i] = r ? x[i] + r[i] : x[i];
    if (which == TFB__LAYERNORM) mean = tfb__lanes_ref(n, sum, 0, 0) / (float)n;
    scale = tfb__lanes_ref(n, sum, mean, 1);
    if (which == TFB__L2NORM)
        scale = eps > TFB__SQRT(scale) ? 1.0f / eps : 1.0f / TFB__SQRT(scale);
    else scale = 1.0f / TFB__SQRT(scale / (float)n + eps);
    for (i = 0; i < n; i++)
        y[i] = TFB__FMA((sum[i] - mean) * scale, w ? w[i] : 1.0f, b ? b[i] : 0.0f);
}

TFB__UNUSED static float tfb__softmax_ref(tfb_idx n, const float *x, float *y) {
    float max = -FLT_MAX, sum;
    tfb_idx i;
    for (i = 0; i < n; i++) max = x[i] > max ? x[i] : max;
    for (i = 0; i < n; i++) y[i] = tfb__exp_scalar(x[i] - max);
    sum = tfb__lanes_ref(n, y, 0, 0);
    if (sum >= 0 && sum <= 0) return -TFB__FLT_INF;
    for (i = 0; i < n; i++) y[i] = y[i] / sum;
    return max + tfb__log_scalar(sum);
}

/* --- Rope: frequencies. All in double, rounded once at the end. --- */
TFB__INLINE double tfb__or(double x, double if_zero) {
    return x >= 0 && x <= 0 ? if_zero : x;
}

TFB__INLINE double tfb__clamp_d(double x, double lo, double hi) {
    return x < lo ? lo : x > hi ? hi : x;
}

/* The options with the values that 0 stands for. */
static tfb_rope_opts tfb__rope_defaults(const tfb_rope_opts *opts) {
    const int yarn = opts->scaling == TFB_ROPE_YARN;
    tfb_rope_opts o = *opts;
    o.base = tfb__or(o.base, 10000.0);
    o.factor = tfb__or(o.factor, 1.0);
    o.fast = tfb__or(o.fast, yarn ? 32.0 : 4.0);
    o.slow = tfb__or(o.slow, 1.0);
    if (yarn && o.factor >= 1.0) /* Peng et al. 2023, section 3.4; ln 2 / 10 */
        o.magnitude =
            tfb__or(o.magnitude, 0.069314718055994531 * tfb__log2_d(o.factor) + 1.0);
    o.magnitude = tfb__or(o.magnitude, 1.0);
    return o;
}

/* The pair, of n in its part, that turns so often in the trained length, not rounded:
 * n ln(length / (turns 2 pi)) / ln(base), clamped to [0, dims - 1]. */
static double tfb__yarn_find(const tfb_rope_opts *o, tfb_idx n, double turns) {
    const double log2_wave = tfb__log2_d(o->trained_length) - tfb__log2_d(turns);
    const double i = (double)n * (log2_wave - 2.6514961294723188) / tfb__log2_d(o->base);
    return tfb__clamp_d(i, 0.0, (double)(2 * n - 1));
}

/* Where YARN's ramp begins (rounded down) and ends (up), as Hugging Face transformers
 * place it, who clamp the begin only from below, the end only from above. */
static void tfb__yarn_ramp(const tfb_rope_opts *o, tfb_idx n, double ramp[2]) {
    const double high = tfb__yarn_find(o, n, o->slow);
    ramp[0] = (double)(tfb_idx)tfb__yarn_find(o, n, o->fast);
    ramp[1] = (double)(tfb_idx)high;
    if (ramp[1] < high) ramp[1] = ramp[1] + 1.0;
    if (ramp[1] <= ramp[0]) ramp[1] = ramp[0] + 0.001;
}

/* Frequency f of pair i of its part. LLAMA3 asks how often it turns in the trained
 * length: transformers' _compute_llama3_parameters. */
static double tfb__rope_scaled(const tfb_rope_opts *o, double f, tfb_idx i,
                               const double ramp[2]) {
    double part;
    switch (o->scaling) {
    case TFB_ROPE_PLAIN:
    case TFB_ROPE_NTK: break; /* its base is another one */
    case TFB_ROPE_LINEAR: return f / o->factor;
    case TFB_ROPE_YARN:
        part = tfb__clamp_d(((double)i - ramp[0]) / (ramp[1] - ramp[0]), 0.0, 1.0);
        return f / o->factor * part + f * (1.0 - part);
    case TFB_ROPE_LLAMA3:
        part = o->trained_length * (f < 0 ? -f : f) * 0.15915494309189535;
        if (part < o->slow) return f / o->factor;
        if (part > o->fast) return f;
        part = (part - o->slow) / (o->fast - o->slow);
        return f * ((1.0 - part) / o->factor + part);
    }
    return f;
}

/* base^(-i / n), in compat as float32 code computes it. */
static double tfb__rope_power(double log2_base, tfb_idx n, tfb_idx i, int compat) {
    if (compat) {
        const float exponent = (float)(2 * i) / (float)(2 * n);
        return (double)(1.0f / (float)tfb__exp2_d((double)exponent * log2_base));
    }
    return tfb__exp2_d(-((double)i / (double)n) * log2_base);
}

/* Fills p->hi and p->lo, part by part. */
static void tfb__rope_fill(const tfb_rope_opts *opts, tfb__rope_plan *p) {
    const tfb_rope_opts o = tfb__rope_defaults(opts);
    tfb_idx from = 0, i;
    int axis;
    for (axis = 0; axis < p->axes; from += p->pairs[axis++]) {
        const tfb_idx n = p->pairs[axis];
        double log2_base = tfb__log2_d(o.base), ramp[2] = {0, 1}, f;
        if (o.scaling == TFB_ROPE_NTK && n > 1) /* dims / (dims - 2) */
            log2_base += tfb__log2_d(o.factor) * (double)n / (double)(n - 1);
        if (o.scaling == TFB_ROPE_YARN) tfb__yarn_ramp(&o, n, ramp);
        for (i = from; i < from + n; i++) {
            f = o.freqs ? (double)((const float *)o.freqs->data)[i * o.freqs->stride[0]]
                        : tfb__rope_power(log2_base, n, i - from, p->compat);
            f = tfb__rope_scaled(&o, f, i - from, ramp);
            if (!p->compat) f = f * 0.15915494309189535;
            p->hi[i] = (float)f;
            p->lo[i] = p->compat ? 0.0f : (float)(f - (double)p->hi[i]);
        }
    }
}

/* --- Rope: checks. --- */
static tfb_status tfb__rope_check_scaling(tfb_ctx *ctx, const char *fn,
                                          const tfb_rope_opts *o) {
    const int yarn = o->scaling == TFB_ROPE_YARN, ntk = o->scaling == TFB_ROPE_NTK;
    TFB__REQUIRE((unsigned)o->scaling <= (unsigned)TFB_ROPE_LLAMA3, ctx, TFB_ERR_ARG,
                 "%s: scaling is %d, which is none", fn, (tfb_idx)o->scaling);
    TFB__REQUIRE(o->base > 1.0 && o->base < 1e12, ctx, TFB_ERR_ARG,
                 "%s: base must be between 1 and 1e12", fn);
    TFB__REQUIRE(o->factor >= 1.0 && o->factor < 1e12, ctx, TFB_ERR_ARG,
                 "%s: factor must be at least 1 and below 1e12", fn);
    TFB__REQUIRE(o->magnitude > 0 && o->magnitude <= (double)FLT_MAX, ctx, TFB_ERR_ARG,
                 "%s: magnitude must be positive and finite", fn);
    TFB__REQUIRE(!o->freqs || !(yarn || ntk), ctx, TFB_ERR_ARG,
                 "%s: NTK and YARN scale a base, not freqs", fn);
    if (!yarn && o->scaling != TFB_ROPE_LLAMA3) return TFB_OK;
    TFB__REQUIRE(o->trained_length > 0 && o->trained_length < 1e12, ctx, TFB_ERR_ARG,
                 "%s: trained_length must be between 0 and 1e12", fn);
    TFB__REQUIRE(o->slow > 0 && o->fast > o->slow && o->fast < 1e12, ctx, TFB_ERR_ARG,
                 "%s: needs 0 < slow < fast < 1e12", fn);
    return TFB_OK;
}

/* How dims are shared out among the axes; the grid's extents. */
static tfb_status tfb__rope_check_axes(tfb_ctx *ctx, const char *fn,
                                       const tfb_rope_opts *o, tfb__rope_plan *p) {
    const int equal = !o->axis_dims[0] && !o->axis_dims[1] && !o->axis_dims[2];
    const int grid = o->grid[0] || o->grid[1] || o->grid[2];
    tfb_idx left = 2 * p->half, i;
    TFB__REQUIRE(o->axes >= 0 && o->axes <= 3, ctx, TFB_ERR_ARG,
                 "%s: axes is %d, must be 0 to 3", fn, (tfb_idx)o->axes);
    p->axes = o->axes ? o->axes : 1;
    TFB__REQUIRE(!equal || p->half % p->axes == 0, ctx, TFB_ERR_ARG,
                 "%s: %d dims have no %d equal even parts", fn, 2 * p->half,
                 (tfb_idx)p->axes);
    for (i = 0; i < 3; i++) {
        const tfb_idx dims =
            equal && i < p->axes ? 2 * p->half / p->axes : (tfb_idx)o->axis_dims[i];
        TFB__REQUIRE(dims >= 0 && dims % 2 == 0, ctx, TFB_ERR_ARG,
                     "%s: axis_dims[%d] is %d, must be even", fn, i, dims);
        TFB__REQUIRE(i < p->axes || (!dims && !o->grid[i]), ctx, TFB_ERR_ARG,
                     "%s: axis_dims[%d] or grid[%d] is set, axes is %d", fn, i, i,
                     (tfb_idx)p->axes);
        TFB__REQUIRE(
            !grid || i >= p->axes || (o->grid[i] > 0 && o->grid[i] <= (tfb_idx)1 << 24),
            ctx, TFB_ERR_ARG, "%s: grid[%d] is %d, must be 1 to 2^24", fn, i, o->grid[i]);
        TFB__REQUIRE(dims <= left && (i < 2 || dims == left), ctx, TFB_ERR_ARG,
                     "%s: axis_dims do not add up to %d", fn, 2 * p->half);
        p->pairs[i] = dims / 2;
        p->grid[i] = o->grid[i];
        left -= dims;
    }
    return TFB_OK;
}

/* The kernel drops whole turns by adding 1.5 * 2^23, which is right for 2^22 of them: a
 * quarter of a turn at every position below 2^24. */
static tfb_status tfb__rope_check_freqs(tfb_ctx *ctx, const char *fn,
                                        const tfb_tensor *freqs, tfb_idx half,
                                        int compat) {
    const float most = compat ? FLT_MAX : 1.57079632f;
    tfb_idx i;
    TFB__TRY(tfb__check(ctx, fn, "freqs", freqs, TFB__MASK(TFB_F32), 1, 1));
    TFB__TRY(tfb__check_extent(ctx, fn, "freqs", freqs, 0, half));
    for (i = 0; !ctx->measuring && i < half; i++) {
        const float f = ((const float *)freqs->data)[i * freqs->stride[0]];
        TFB__REQUIRE(f >= -most && f <= most, ctx, TFB_ERR_RANGE,
                     compat ? "%s: freqs[%d] is not finite"
                            : "%s: freqs[%d] is past pi / 2, which only compat takes",
                     fn, i);
    }
    return TFB_OK;
}

/* Everything that does not depend on positions; fills p but for hi and lo. */
static tfb_status tfb__rope_check(tfb_ctx *ctx, const char *fn, const tfb_rope_opts *opts,
                                  tfb_idx D, tfb__rope_plan *p) {
    const tfb_rope_opts o = tfb__rope_defaults(opts);
    memset((void *)p, 0, sizeof *p);
    TFB__REQUIRE(o.dims >= 0 && o.dims <= D && o.dims % 2 == 0, ctx, TFB_ERR_ARG,
                 "%s: dims is %d, must be even and at most %d", fn, (tfb_idx)o.dims, D);
    TFB__REQUIRE(o.dims || D % 2 == 0, ctx, TFB_ERR_SHAPE,
                 "%s: rows are %d long, must be even or have dims", fn, D);
    TFB__REQUIRE(TFB__HAS(FN_TRIG) || !o.compat, ctx, TFB_ERR_UNSUPPORTED,
                 "%s: compat is left out by TFB_NO_FN_TRIG", fn);
    p->half = (o.dims ? (tfb_idx)o.dims : D) / 2;
    TFB__TRY(tfb__rope_check_scaling(ctx, fn, &o));
    TFB__TRY(tfb__rope_check_axes(ctx, fn, &o, p));
    if (o.freqs) TFB__TRY(tfb__rope_check_freqs(ctx, fn, o.freqs, p->half, o.compat));
    p->start = o.start;
    p->interleaved = o.interleaved;
    p->inverse = o.inverse;
    p->compat = o.compat;
    p->magnitude = (float)o.magnitude;
    p->isa = ctx->isa;
    return TFB_OK;
}

/* Without positions: may so many tokens follow start? */
static tfb_status tfb__rope_check_tokens(tfb_ctx *ctx, const char *fn,
                                         const tfb__rope_plan *p, tfb_idx tokens) {
    const tfb_idx limit = (tfb_idx)1 << 24;
    size_t all = 1;
    int i;
    if (!p->grid[0]) {
        TFB__REQUIRE(p->axes == 1, ctx, TFB_ERR_ARG,
                     "%s: %d axes need positions or a grid", fn, (tfb_idx)p->axes);
        TFB__REQUIRE(p->start > -limit && p->start < limit && tokens <= limit - p->start,
                     ctx, TFB_ERR_RANGE, "%s: positions %d and %d more pass 2^24", fn,
                     p->start, tokens);
        return TFB_OK;
    }
    for (i = 0; i < p->axes; i++) all = tfb__size_mul(all, (size_t)p->grid[i]);
    TFB__REQUIRE(p->start >= 0 && (size_t)p->start <= all &&
                     (size_t)tokens <= all - (size_t)p->start,
                 ctx, TFB_ERR_RANGE, "%s: tokens %d and %d more pass the grid", fn,
                 p->start, tokens);
    return TFB_OK;
}

/* I32 [tokens] or [batch, tokens], with several axes [.., axes] of either; every one must
 * be exact in float32. */
static tfb_status tfb__rope_check_positions(tfb_ctx *ctx, const char *fn,
                                            const char *name, const tfb_tensor *positions,
                                            tfb_idx batch, tfb_idx tokens, int axes) {
    const tfb_idx limit = (tfb_idx)1 << 24;
    const int tail = axes > 1;
    tfb_idx i;
    TFB__TRY(
        tfb__check(ctx, fn, name, positions, TFB__MASK(TFB_I32), 1 + tail, 2 + tail));
    if (tail)
        TFB__TRY(tfb__check_extent(ctx, fn, name, positions, positions->ndim - 1, axes));
    TFB__TRY(
        tfb__check_extent(ctx, fn, name, positions, positions->ndim - 1 - tail, tokens));
    if (positions->ndim == 2 + tail)
        TFB__TRY(tfb__check_extent(ctx, fn, name, positions, 0, batch));
    for (i = 0; !ctx->measuring && i < tfb_numel(positions); i++) {
        const tfb_idx at =
            ((const int32_t *)
                 positions->data)[tfb__offset(positions, positions->ndim, i)];
        TFB__REQUIRE(at > -limit && at < limit, ctx, TFB_ERR_RANGE,
                     "%s: %s has %d for token %d, past 2^24", fn, name, at,
                     i / (tail ? axes : 1) % tokens);
    }
    return TFB_OK;
}

/* --- Rope: the work. --- */
/* The coordinates of a token counted from the plan's start. */
static void tfb__rope_grid(const tfb__rope_plan *p, tfb_idx token, tfb_idx *at) {
    int i;
    at[0] = token = p->start + token;
    for (i = p->axes - 1; i > 0; token /= p->grid[i--]) at[i] = token % p->grid[i];
    at[0] = token;
}

/* The coordinates of token t of sequence b: from positions, which may be NULL. */
static void tfb__rope_place(const tfb__rope_plan *p, const tfb_tensor *positions,
                            tfb_idx b, tfb_idx t, tfb_idx *at) {
    const tfb_idx *stride = positions ? positions->stride : NULL;
    const int32_t *from = positions ? (const int32_t *)positions->data : NULL;
    int i;
    if (!positions) {
        tfb__rope_grid(p, t, at);
        return;
    }
    if (positions->ndim == (p->axes > 1 ? 3 : 2)) from += b * *stride++;
    from += t * stride[0];
    for (i = 0; i < p->axes; i++) at[i] = p->axes > 1 ? from[i * stride[1]] : from[0];
}

static void tfb__rope_angles(const tfb__rope_plan *p, const tfb_idx *at, float *cosine,
                             float *sine) {
    const float m = p->magnitude;
    tfb_idx from = 0, i;
    int axis;
    for (axis = 0; axis < p->axes; from += p->pairs[axis++]) {
        const float pos = (float)at[axis];
        const tfb_idx n = p->pairs[axis];
        if (!p->compat) TFB__KERNEL(p->isa, turns)
        (n, pos, p->hi + from, p->lo + from, cosine + from, sine + from);
        for (i = from; p->compat && i < from + n; i++) cosine[i] = pos * p->hi[i];
    }
#ifndef TFB_NO_FN_TRIG
    if (p->compat) {
        TFB__KERNEL(p->isa, map)(TFB_FN_SIN, p->half, cosine, sine);
        TFB__KERNEL(p->isa, map)(TFB_FN_COS, p->half, cosine, cosine);
    }
#endif
    for (i = 0; p->inverse && i < p->half; i++) sine[i] = -sine[i];
    for (i = 0; (m < 1.0f || m > 1.0f) && i < p->half; i++) {
        cosine[i] = cosine[i] * m;
        sine[i] = sine[i] * m;
    }
}

static void tfb__rope_row(const tfb__rope_plan *p, tfb_idx D, const float *x, tfb_idx xs,
                          float *y, tfb_idx ys, const float *cosine, const float *sine) {
    tfb_idx from = 0, d;
    int axis;
    for (axis = 0; axis < p->axes; from += p->pairs[axis++]) {
        const tfb_idx n = p->pairs[axis], pair = p->interleaved ? 2 : 1;
        const tfb_idx other = p->interleaved ? 1 : n;
        const float *x0 = x + 2 * from * xs;
        float *y0 = y + 2 * from * ys;
        if (n) /* or the next part would begin past the row */
            TFB__KERNEL(p->isa, rotate)
        (n, x0, x0 + other * xs, pair * xs, y0, y0 + other * ys, pair * ys, cosine + from,
         sine + from);
    }
    for (d = 2 * p->half; d < D; d++) y[d * ys] = x[d * xs];
}

typedef struct tfb__rope {
    tfb_tensor x, y;
    const tfb_tensor *positions;
    tfb__rope_plan plan;
    tfb_idx per_task;
    float *scratch; /* 2 half a worker */
} tfb__rope;

static void tfb__rope_task(void *arg, tfb_idx task, int worker) {
    const tfb__rope *r = (const tfb__rope *)arg;
    const tfb_idx n = r->plan.half, T = r->x.shape[2], D = r->x.shape[3];
    const tfb_idx end = TFB__MIN((task + 1) * r->per_task, r->x.shape[0] * T);
    float *cosine = r->scratch + (size_t)worker * 2 * (size_t)n, *sine = cosine + n;
    tfb_idx i, h, at[3];
    for (i = task * r->per_task; i < end; i++) {
        const tfb_idx b = i / T, t = i % T;
        tfb__rope_place(&r->plan, r->positions, b, t, at);
        tfb__rope_angles(&r->plan, at, cosine, sine);
        for (h = 0; h < r->x.shape[1]; h++) {
            const float *x = (float *)tfb__at(&r->x, 1, b, h, 0) + t * r->x.stride[2];
            float *y = (float *)tfb__at(&r->y, 1, b, h, 0) + t * r->y.stride[2];
            tfb__rope_row(&r->plan, D, x, r->x.stride[3], y, r->y.stride[3], cosine,
                          sine);
        }
    }
}

#ifndef TFB_NO_ROPE
TFB_API tfb_status tfb_rope(tfb_ctx *ctx, const tfb_tensor *x, const tfb_rope_opts *opts,
                            tfb_tensor *y) {
    const char *fn = "tfb_rope";
    tfb_rope_opts o;
    tfb__rope r;
    tfb__mark mark;
    tfb_status status;
    tfb_idx items;
    TFB__ENTER(ctx);
    memset((void *)&o, 0, sizeof o);
    memset((void *)&r, 0, sizeof r);
    if (opts) o = *opts;
    TFB__TRY(tfb__check(ctx, fn, "x", x, TFB__MASK(TFB_F32), 4, 4));
    TFB__TRY(tfb__check(ctx, fn, "y", y, TFB__MASK(TFB_F32), 4, 4));
    TFB__TRY(tfb__check_like(ctx, fn, "y", y, x, 4));
    TFB__TRY(tfb__rope_check(ctx, fn, &o, x->shape[3], &r.plan));
    if (o.positions)
        TFB__TRY(tfb__rope_check_positions(ctx, fn, "positions", o.positions, x->shape[0],
                                           x->shape[2], r.plan.axes));
    else TFB__TRY(tfb__rope_check_tokens(ctx, fn, &r.plan, x->shape[2]));
    TFB__TRY(tfb__check_out(ctx, fn, "y", y));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "x", x, 1));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "positions", o.positions, 0));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "freqs", o.freqs, 0));
    r.x = *x;
    r.y = *y;
    r.positions = o.positions;
    r.per_task = 16;
    items = tfb_numel(y) ? x->shape[0] * x->shape[2] : 0;
    mark = tfb__scratch_begin(ctx);
    r.plan.hi = (float *)tfb__take(ctx, r.plan.half, 4);
    r.plan.lo = (float *)tfb__take(ctx, r.plan.half, 4);
    r.scratch =
        (float *)tfb__take(ctx, tfb__workers(ctx), tfb__size_mul((size_t)r.plan.half, 8));
    status = tfb__scratch_ready(ctx, fn);
    if (status == TFB_OK && !ctx->measuring && tfb_numel(y)) {
        tfb__rope_fill(&o, &r.plan);
        tfb__parallel(ctx, (items + r.per_task - 1) / r.per_task, tfb__rope_task, &r);
    }
    return tfb__scratch_end(ctx, mark, status);
}
#endif

/* Turns a position, as hi + lo, of the pairs of one axis without scaling. */
TFB__UNUSED static void tfb__rope_frequencies(tfb_idx half, double base, int compat,
                                              float *hi, float *lo) {
    tfb_rope_opts o;
    tfb__rope_plan p;
    memset((void *)&o, 0, sizeof o);
    memset((void *)&p, 0, sizeof p);
    o.base = base;
    p.axes = 1;
    p.pairs[0] = half;
    p.compat = compat;
    p.hi = hi;
    p.lo = lo;
    tfb__rope_fill(&o, &p);
}

/* One contiguous row of D values at one coordinate an axis; hi, lo as in the plan. */
TFB__UNUSED static void tfb__rope_ref(tfb_idx D, const float *x, const tfb_idx *at,
                                      const tfb_rope_opts *o, const float *hi,
                                      const float *lo, float *y) {
    const tfb_idx all = o->dims ? (tfb_idx)o->dims : D;
    const int axes = o->axes ? o->axes : 1;
    const int equal = !o->axis_dims[0] && !o->axis_dims[1] && !o->axis_dims[2];
    const float m = (float)tfb__rope_defaults(o).magnitude;
    tfb_idx from = 0, i;
    int axis;
    for (i = 0; i < D; i++) y[i] = x[i];
    for (axis = 0; axis < axes; axis++) {
        const tfb_idx dims = equal ? all / axes : (tfb_idx)o->axis_dims[axis];
        for (i = 0; i < dims / 2; i++) {
            const tfb_idx i0 = from + (o->interleaved ? 2 * i : i);
            const tfb_idx i1 = o->interleaved ? i0 + 1 : i0 + dims / 2;
            const float a = x[i0], b = x[i1], pos = (float)at[axis];
            const float f = hi[from / 2 + i], t = pos * f;
            float c, s, e = TFB__FMA(pos, f, 0.0f - t);
            if (o->compat) {
                c = tfb__cos_scalar(t);
                s = tfb__sin_scalar(t);
                if (t > 131072.0f || t < -131072.0f) tfb__trig_large(t, &s, &c);
            } else {
                e = TFB__FMA(pos, lo[from / 2 + i], e);
                e = (t - ((t + 12582912.0f) - 12582912.0f)) + e;
                tfb__sincos_turns_scalar(e, &s, &c);
            }
            if (o->inverse) s = -s;
            if (m < 1.0f || m > 1.0f) c = c * m, s = s * m;
            y[i0] = TFB__FMA(a, c, b * -s);
            y[i1] = TFB__FMA(b, c, a * s);
        }
        from += dims;
    }
}

/* ===== [16] ATTENTION =============================================================== */
/* What a call asks for is checked and resolved here, and so is which row sees which key;
 * section 11 computes. */

/* Section 17: where a cache's rows are. */
static tfb_idx tfb__kv_from(const tfb_kv_shape *s, tfb_idx first, tfb_idx end);
static tfb_idx tfb__kv_rows(const tfb_kv_shape *s, tfb_idx from, tfb_idx end);
static tfb_idx tfb__kv_find(const tfb_kv *kv, const tfb_kv_layer *l, const tfb_kv_row *r,
                            tfb_idx head, tfb_idx n, char **key, char **value);

#ifndef TFB_NO_ATTENTION
/* --- Blocks of rows, runs of keys, who sees what. --- */
static tfb_idx tfb__i32_at(const tfb_tensor *t, tfb_idx i) {
    return ((const int32_t *)t->data)[i * t->stride[0]];
}

/* Page number i of a sequence. */
static tfb_idx tfb__attn_page(const tfb_tensor *pages, tfb_idx s, tfb_idx i) {
    return ((const int32_t *)pages->data)[s * pages->stride[0] + i * pages->stride[1]];
}

/* Sample s of a cache as a sequence of the rows attention may read. */
static tfb__attn_seq tfb__kv_sequence(const tfb__attn *a, tfb_idx s) {
    const tfb_kv_shape *shape = &a->cache->shape;
    const tfb_kv_row *r = a->cache->row + s;
    tfb_idx from = TFB__MAX(TFB__MAX(r->first, r->lost), shape->pinned);
    tfb__attn_seq u;
    if (!TFB__HAS(KV_RINGS)) from = r->first;
    else if (a->cache_kept) from = tfb__kv_from(shape, r->first, r->end);
    u.batch = s;
    u.q0 = u.lo = 0;
    u.T = a->T;
    u.hi = tfb__kv_rows(shape, from, r->end);
    u.shift = from - shape->pinned;
    u.stand = r->end - u.T;
    if (a->offset_given) u.stand = a->o.offset;
    if (a->o.offsets) u.stand = tfb__i32_at(a->o.offsets, s);
    return u;
}

/* Sample s where no option says otherwise. */
TFB__INLINE tfb__attn_seq tfb__attn_plain(const tfb__attn *a, tfb_idx s) {
    tfb__attn_seq u;
    u.batch = s;
    u.q0 = u.lo = u.shift = 0;
    u.T = a->T;
    u.hi = a->S;
    u.stand = a->offset_given ? a->o.offset : u.hi - u.T;
    return u;
}

/* Sequence s as the options and what stands in their tensors describe it. */
static tfb__attn_seq tfb__attn_sequence(const tfb__attn *a, tfb_idx s) {
    const tfb_attention_opts *o = &a->o;
    const tfb_tensor *cu_k = o->cu_k ? o->cu_k : o->cu_q;
    tfb__attn_seq u;
    tfb_idx offset;
    if (TFB__OPT(KV, a->cache)) return tfb__kv_sequence(a, s);
    if (!TFB__HAS(ATTENTION_SEQUENCES)) return tfb__attn_plain(a, s);
    u.batch = o->cu_q ? 0 : s;
    u.q0 = o->cu_q ? tfb__i32_at(o->cu_q, s) : 0;
    u.T = o->cu_q ? tfb__i32_at(o->cu_q, s + 1) - u.q0 : a->T;
    u.lo = cu_k ? tfb__i32_at(cu_k, s) : o->kv_start ? tfb__i32_at(o->kv_start, s) : 0;
    u.hi = cu_k ? tfb__i32_at(cu_k, s + 1) : o->kv_len ? tfb__i32_at(o->kv_len, s) : a->S;
    u.shift = (o->key_pos0s ? tfb__i32_at(o->key_pos0s, s) : o->key_pos0) - u.lo;
    offset = u.hi - (cu_k ? u.lo : 0) - u.T;
    if (a->offset_given) offset = o->offset;
    if (o->offsets) offset = tfb__i32_at(o->offsets, s);
    u.stand = offset - u.q0 + u.shift + (cu_k ? u.lo : 0);
    return u;
}

#if !TFB__SMALL
/* Which numbers a row sees; none for a row of another sequence. */
static void tfb__attn_limits(const tfb__attn *a, tfb__attn_state *w, tfb_idx r) {
    const tfb_attention_opts *o = &a->o;
    const tfb_idx t = (w->row0 + r) / a->group, at0 = w->seq.stand;
    tfb_idx i = a->rows ? tfb__i32_at(a->rows, t) : w->seq.q0 + t, at = i + at0, upper;
    if (i < w->seq.q0 || i >= w->seq.q0 + w->seq.T) i = -1;
    upper = o->causal != TFB_CAUSAL_NONE ? TFB__MIN(w->end, at + 1) : w->end;
    w->head[r] = w->kv_head * a->group + (w->row0 + r) % a->group;
    w->token[r] = i;
    w->out[r] = a->rows ? t : i;
    w->at[r] = at;
    w->lo[r] = w->begin;
    w->hi[r] = upper;
    w->pin[r] = 0;
    if (o->window) w->lo[r] = TFB__MAX(w->begin, at + 1 - o->window);
    if (o->two_sided) {
        w->lo[r] = TFB__MAX(w->begin, at - o->left);
        w->hi[r] = TFB__MIN(upper, at + 1 + o->right);
    }
    if (o->window || o->two_sided) w->pin[r] = TFB__MIN(o->window_pinned, upper);
    if (i < 0) w->hi[r] = w->pin[r] = 0;
    w->hi[r] = TFB__MAX(w->hi[r], w->lo[r]);
    w->pin[r] = TFB__MAX(w->pin[r], w->begin);
}

/* Lays out what one worker holds and returns its bytes; memory NULL only asks. */
static size_t tfb__attn_carve(const tfb__attn *a, char *memory, tfb__attn_state *w) {
    const tfb_idx R = (a->room + 15) / 16 * 16;
    size_t used = tfb__round64(
        tfb__size_add(tfb__size_mul(a->part_bytes, 2), 2 * sizeof(tfb__attn_item)));
    memset((void *)w, 0, sizeof *w);
    w->width = TFB__PANEL_COUNT(a->Dv) * TFB__PANEL;
#define TFB__CARVE(field, type, count, each)                                             \
    w->field = (type *)(void *)(memory ? memory + used : NULL);                          \
    used = tfb__size_add(                                                                \
        used, tfb__round64(tfb__size_mul(tfb__size_mul((size_t)(count), (size_t)(each)), \
                                         sizeof(type))));
    TFB__CARVE(see, uint64_t, R, 1)
    TFB__CARVE(lo, tfb_idx, R, 1)
    TFB__CARVE(hi, tfb_idx, R, 1)
    TFB__CARVE(pin, tfb_idx, R, 1)
    TFB__CARVE(head, tfb_idx, R, 1)
    TFB__CARVE(token, tfb_idx, R, 1)
    TFB__CARVE(out, tfb_idx, R, 1)
    TFB__CARVE(at, tfb_idx, R, 1)
    TFB__CARVE(carry, float, R, 1)
    TFB__CARVE(lanes, float, R, TFB__LANES)
    TFB__CARVE(s, float, R, TFB__KT)
    TFB__CARVE(keys, float, TFB__KT, a->D)
    TFB__CARVE(values, float, TFB__KT, w->width)
    TFB__CARVE(q, float, a->room, a->D)
    if (a->o.qk) {
        TFB__CARVE(trig, float, a->qk.rope.half, 2)
    }
    if (a->o.qk && a->qk.keys) {
        TFB__CARVE(ready, float, TFB__KT, a->D)
    }
#undef TFB__CARVE
    return used;
}

static size_t tfb__attn_part_bytes(const tfb__attn *a) {
    const size_t R = (size_t)((a->room + 15) / 16 * 16);
    const size_t width = (size_t)(TFB__PANEL_COUNT(a->Dv) * TFB__PANEL);
    return tfb__size_mul(tfb__size_mul(R, tfb__size_add(width, 2)), sizeof(float));
}

/* Part i and item i: every worker's block begins with two of each. */
static tfb__attn_part tfb__attn_part_of(const tfb__attn *a, tfb_idx i) {
    const tfb_idx R = (a->room + 15) / 16 * 16;
    char *block = a->scratch + a->worker_bytes * (size_t)(i / 2);
    tfb__attn_part part;
    part.m = (float *)(void *)(block + a->part_bytes * (size_t)(i % 2));
    part.l = part.m + R;
    part.acc = part.l + R;
    return part;
}

static tfb__attn_item *tfb__attn_item_of(const tfb__attn *a, tfb_idx i) {
    char *block = a->scratch + a->worker_bytes * (size_t)(i / 2);
    return (tfb__attn_item *)(void *)(block + 2 * a->part_bytes) + i % 2;
}

/* A task: the queries row0 .. of a kv head of a sequence. Late blocks see more keys if
 * causal, so they begin first. */
static void tfb__attn_begin(const tfb__attn *a, tfb_idx task, int worker,
                            tfb__attn_state *w) {
    const tfb_idx heads = task / a->blocks, block = a->blocks - 1 - task % a->blocks;
    const tfb_idx pinned = a->o.key_pinned;
    tfb_idx r, lo_min = PTRDIFF_MAX, hi_max = 0;
    tfb__attn_carve(a, a->scratch + a->worker_bytes * (size_t)worker, w);
    w->sum = tfb__attn_part_of(a, 2 * (tfb_idx)worker);
    w->all = tfb__attn_part_of(a, 2 * (tfb_idx)worker + 1);
    w->seq = tfb__attn_sequence(a, heads / a->G);
    w->kv_head = heads % a->G;
    w->row0 = block * a->block_rows;
    w->rows = (a->rows ? a->rows->shape[0] : w->seq.T) * a->group - w->row0;
    w->rows = TFB__MAX(0, TFB__MIN(w->rows, a->block_rows));
    w->begin = pinned ? 0 : w->seq.lo + w->seq.shift;
    w->end = w->seq.hi > pinned ? w->seq.hi + w->seq.shift : w->seq.hi;
    if (pinned && w->seq.hi > pinned) {
        w->gap0 = pinned;
        w->gap1 = pinned + w->seq.shift;
    }
    w->hi_min = PTRDIFF_MAX;
    for (r = 0; r < w->rows; r++) {
        tfb__attn_limits(a, w, r);
        if (w->lo[r] < w->hi[r]) lo_min = TFB__MIN(lo_min, w->lo[r]);
        hi_max = TFB__MAX(hi_max, w->lo[r] < w->hi[r] ? w->hi[r] : 0);
        w->pin_max = TFB__MAX(w->pin_max, w->pin[r]);
        w->lo_max = TFB__MAX(w->lo_max, w->lo[r]);
        w->hi_min = TFB__MIN(w->hi_min, w->hi[r]);
    }
    w->last = TFB__MIN(w->end, TFB__MAX(hi_max, w->pin_max));
    w->lo_min = TFB__MIN(lo_min, TFB__MAX(w->last, w->begin));
    w->first = tfb__attn_next(w, w->begin);
}

/* The first number from n on that some row may see: what no window reaches is skipped,
 * and so is what does not exist. */
static tfb_idx tfb__attn_next(const tfb__attn_state *w, tfb_idx n) {
    if (n >= w->pin_max) n = TFB__MAX(n, w->lo_min);
    if (n >= w->gap0 && n < w->gap1) n = w->gap1;
    if (n >= w->pin_max) n = TFB__MAX(n, w->lo_min);
    return n;
}

/* The keys from number n on, up to a gap, a page's end or `end`; none: len is 0. */
static tfb__attn_run tfb__attn_run_of(const tfb__attn *a, const tfb__attn_state *w,
                                      tfb_idx n, tfb_idx end) {
    const tfb_idx *ks = a->k.stride, *vs = a->v.stride;
    tfb_idx batch = w->seq.batch, row;
    tfb__attn_run run;
    memset((void *)&run, 0, sizeof run);
    if (n < w->gap0) end = TFB__MIN(end, w->gap0);
    else n = TFB__MAX(n, w->gap1);
    if (n >= end) return run;
    run.n = n;
    run.row = row = n < a->o.key_pinned ? n : n - w->seq.shift;
    run.len = end - n;
    if (a->cache) {
        const tfb_kv_row *sample = a->cache->row + batch;
        const tfb_idx beside =
            tfb__kv_find(a->kv, a->cache, sample, w->kv_head, n, &run.k, &run.v);
        run.len = TFB__MIN(run.len, beside);
        return run;
    }
    if (a->o.pages) {
        row += a->o.page_skip;
        batch = tfb__attn_page(a->o.pages, batch, row / a->page);
        row %= a->page;
        run.len = TFB__MIN(run.len, a->page - row);
    }
    run.k = (char *)a->k.data + (batch * ks[0] + w->kv_head * ks[1] + row * ks[2]) *
                                    (tfb_idx)tfb_dtype_size(a->k.dtype);
    run.v = (char *)a->v.data + (batch * vs[0] + w->kv_head * vs[1] + row * vs[2]) *
                                    (tfb_idx)tfb_dtype_size(a->v.dtype);
    return run;
}

/* From the keys or values of a cache to those of the next tile, in elements: to announce
 * them. 0 if there are none, or rows are so many that reading does not matter. */
static tfb_idx tfb__attn_ahead(const tfb__attn *a, const tfb__attn_state *w,
                               const tfb__attn_run *run, int values) {
    const tfb_idx size = (tfb_idx)tfb_dtype_size(a->k.dtype);
    tfb__attn_run next;
    if (w->rows > TFB__SKINNY || run->n + run->len >= w->last) return 0;
    next = tfb__attn_run_of(a, w, run->n + run->len, w->last);
    if (!next.len) return 0;
    return ((values ? next.v : next.k) - (values ? run->v : run->k)) / size;
}

/* Bits lo .. hi - 1 of those of a tile. */
static uint64_t tfb__bits_between(tfb_idx lo, tfb_idx hi) {
    lo = TFB__MAX(lo, 0);
    hi = TFB__MIN(hi, TFB__KT);
    return lo < hi ? TFB__ALL_SEEN >> (TFB__KT - (hi - lo)) << lo : 0;
}

/* Where a row of a mask or bias begins. */
static tfb_idx tfb__attn_mask_row(const tfb__attn_state *w, const tfb_tensor *t,
                                  tfb_idx r) {
    return w->seq.batch * t->stride[0] + w->head[r] * t->stride[1] +
           w->token[r] * t->stride[2];
}

/* The bias of a row for the keys of a tile, lane by lane. */
static void tfb__attn_bias(const tfb__attn *a, const tfb__attn_state *w, tfb_idx r,
                           tfb_idx n, tfb_idx end, float *bias) {
    const tfb_idx st = a->bias.stride[3];
    const float *from = (const float *)a->bias.data + tfb__attn_mask_row(w, &a->bias, r);
    tfb__attn_run run = tfb__attn_run_of(a, w, n, end);
    tfb_idx i;
    for (; run.len > 0; run = tfb__attn_run_of(a, w, run.n + run.len, end)) {
        float *to = bias + run.n % TFB__KT;
        if (st == 1)
            memcpy((void *)to, (const void *)(from + run.row),
                   (size_t)run.len * sizeof *to);
        for (i = 0; st != 1 && i < run.len; i++) to[i] = from[(run.row + i) * st];
    }
}

/* A bit for each of eight bytes that is 0, the first byte's the lowest. */
static uint64_t tfb__zero_bytes(const uint8_t *p) {
    const uint64_t low = 0x7F7F7F7F7F7F7F7Fu;
    uint64_t x, zero = 0;
    int i;
    memcpy(&x, p, 8);
    x = ~(((x & low) + low) | x) >> 7 & 0x0101010101010101u; /* 1 in each zero byte */
    if (!TFB__BIG_ENDIAN) return x * 0x0102040810204080u >> 56;
    for (i = 0; i < 8; i++) zero |= (uint64_t)!p[i] << i;
    return zero;
}

/* The keys of a tile that the mask hides from a row. */
static uint64_t tfb__attn_masked(const tfb__attn *a, const tfb__attn_state *w, tfb_idx r,
                                 tfb_idx n, tfb_idx end) {
    const tfb_idx st = a->mask.stride[3];
    const uint8_t *mask =
        (const uint8_t *)a->mask.data + tfb__attn_mask_row(w, &a->mask, r);
    tfb__attn_run run = tfb__attn_run_of(a, w, n, end);
    uint64_t hidden = 0;
    tfb_idx i;
    for (; run.len > 0; run = tfb__attn_run_of(a, w, run.n + run.len, end)) {
        const tfb_idx at = run.n % TFB__KT;
        for (i = 0; st == 1 && i + 8 <= run.len; i += 8)
            hidden |= tfb__zero_bytes(mask + run.row + i) << (at + i);
        for (; i < run.len; i++)
            hidden |= (uint64_t)!mask[(run.row + i) * st] << (at + i);
    }
    return hidden;
}

/* What some row sees of keys n .. end - 1 of a tile; mixed is 0 if every row sees all. */
static uint64_t tfb__attn_any(const tfb__attn_state *w, tfb_idx n, tfb_idx end,
                              int *mixed) {
    const tfb_idx tile = n / TFB__KT * TFB__KT;
    uint64_t any = 0, all = TFB__ALL_SEEN;
    tfb_idx r;
    for (r = 0; r < w->rows; r++) {
        any |= w->see[r];
        all &= w->see[r];
    }
    *mixed = all != tfb__bits_between(n - tile, end - tile);
    return any;
}

/* Sets w->see for keys n .. end - 1 of a tile, but for mask and bias. */
static uint64_t tfb__attn_see(tfb__attn_state *w, tfb_idx n, tfb_idx end, int *mixed) {
    const tfb_idx tile = n / TFB__KT * TFB__KT;
    const uint64_t exist = tfb__bits_between(n - tile, end - tile) &
                           ~tfb__bits_between(w->gap0 - tile, w->gap1 - tile);
    const int usual = n >= w->lo_max && end <= w->hi_min; /* no row misses any */
    tfb_idx r;
    for (r = 0; r < w->rows; r++) {
        w->see[r] = exist;
        if (usual) continue;
        w->see[r] &= tfb__bits_between(w->lo[r] - tile, w->hi[r] - tile) |
                     tfb__bits_between(w->begin - tile, w->pin[r] - tile);
    }
    return tfb__attn_any(w, n, end, mixed);
}

/* How many rows the strip from row r on has, and the columns of the run they see. */
static tfb_idx tfb__attn_strip(const tfb__attn_state *w, tfb_idx r,
                               const tfb__attn_run *run, tfb_idx *c0, tfb_idx *c1) {
    const tfb_idx rows = TFB__MIN(TFB__MIXED_ROWS, w->rows - r);
    const uint64_t here = tfb__bits_between(0, run->len);
    uint64_t any = 0;
    tfb_idx i;
    for (i = 0; i < rows; i++) any |= w->see[r + i];
    any = any >> (run->n % TFB__KT) & here;
    for (*c0 = 0; any && !(any >> *c0 & 1);) ++*c0;
    for (*c1 = *c0; any && any >> *c1;)
        if (++*c1 == TFB__KT) break;
    return rows;
}

/* Norm and rope of one row. */
static void tfb__attn_prepare(const tfb__attn *a, const tfb__attn_state *w, int is_key,
                              tfb_idx row, tfb_idx number, float *x) {
    const tfb__qk *qk = &a->qk;
    const tfb_tensor *p = is_key ? qk->key_positions : qk->positions;
    float *cosine = w->trig, *sine = w->trig + qk->rope.half;
    tfb_idx at[3];
    tfb__norm norm;
    memset((void *)&norm, 0, sizeof norm);
    norm.n = a->D;
    norm.x = norm.y = x;
    norm.w = is_key ? qk->k_weight : qk->q_weight;
    norm.eps = qk->eps;
    norm.l2 = qk->norm == TFB_QK_NORM_L2;
    if (qk->norm && !qk->norm_last) TFB__KERNEL(qk->rope.isa, norm)(&norm);
    if (qk->rotate) {
        tfb__rope_place(&qk->rope, p, w->seq.batch, p ? row : number, at);
        tfb__rope_angles(&qk->rope, at, cosine, sine);
        tfb__rope_row(&qk->rope, a->D, x, 1, x, 1, cosine, sine);
    }
    if (qk->norm && qk->norm_last) TFB__KERNEL(qk->rope.isa, norm)(&norm);
}

#endif

/* --- What a call asks for. --- */
/* A tensor that may be empty, and then may have data NULL, from which kernels may take no
 * offsets. */
static void tfb__attention_tensor(const tfb_tensor *t, tfb_tensor *to) {
    tfb__assign(to, t);
    if (TFB__SMALL || tfb_numel(t)) return; /* small: no offset is taken of y alone */
    memset((void *)to->stride, 0, sizeof to->stride);
    to->data = (void *)(uintptr_t)&tfb__nothing; /* nothing is read or written there */
}

/* Are all options left out that can be? */
#define TFB__ATTENTION_PLAIN                                                             \
    (!(TFB__HAS(ATTENTION_MASKS) || TFB__HAS(ATTENTION_QK) ||                            \
       TFB__HAS(ATTENTION_PAGES) || TFB__HAS(ATTENTION_SCORES) ||                        \
       TFB__HAS(ATTENTION_WINDOWS) || TFB__HAS(ATTENTION_SEQUENCES)))

/* What a call takes and does not write. */
static tfb_status tfb__attention_alias(tfb_ctx *ctx, const char *fn, const char *name,
                                       const tfb_tensor *out,
                                       const tfb_attention_opts *o) {
    const tfb_qk_opts *qk = o->qk;
    const tfb_rope_opts *rope = qk ? qk->rope : NULL;
    const struct {
        const char *name;
        const tfb_tensor *t;
    } inputs[] = {
        {"offsets", o->offsets},
        {"mask", o->mask},
        {"bias", o->bias},
        {"kv_start", o->kv_start},
        {"kv_len", o->kv_len},
        {"cu_q", o->cu_q},
        {"cu_k", o->cu_k},
        {"alibi", o->alibi},
        {"sinks", o->sinks},
        {"pages", o->pages},
        {"key_pos0s", o->key_pos0s},
        {"key_positions", qk ? qk->key_positions : NULL},
        {"q_weight", qk ? qk->q_weight : NULL},
        {"k_weight", qk ? qk->k_weight : NULL},
        {"positions", rope ? rope->positions : NULL},
        {"freqs", rope ? rope->freqs : NULL},
    };
    size_t i;
    for (i = 0; i < sizeof inputs / sizeof *inputs; i++)
        TFB__TRY(tfb__check_alias(ctx, fn, name, out, inputs[i].name, inputs[i].t, 0));
    return TFB_OK;
}

/* q, k and v; sizes and what follows from them. v is NULL for weights. */
static tfb_status tfb__attention_inputs(tfb_ctx *ctx, const char *fn, const tfb_tensor *q,
                                        const tfb_tensor *k, const tfb_tensor *v,
                                        tfb__attn *a) {
    const tfb_tensor *pages = TFB__OPT(ATTENTION_PAGES, a->o.pages);
    TFB__TRY(tfb__check(ctx, fn, "q", q, TFB__MASK(TFB_F32), 4, 4));
    TFB__TRY(tfb__check(ctx, fn, "k", k, TFB__FLOATS, 4, 4));
    if (v) TFB__TRY(tfb__check(ctx, fn, "v", v, TFB__FLOATS, 4, 4));
    if (!pages) TFB__TRY(tfb__check_extent(ctx, fn, "k", k, 0, q->shape[0]));
    TFB__REQUIRE(k->shape[3] == q->shape[3], ctx, TFB_ERR_SHAPE,
                 "%s: k.shape[3] is %d, q has head_dim %d", fn, k->shape[3], q->shape[3]);
    if (v) TFB__TRY(tfb__check_like(ctx, fn, "v", v, k, 3));
    tfb__attention_tensor(q, &a->q);
    tfb__attention_tensor(k, &a->k);
    tfb__attention_tensor(v ? v : k, &a->v);
    a->seqs = q->shape[0];
    a->T = q->shape[2];
    a->D = q->shape[3];
    a->G = k->shape[1];
    a->S = a->page = k->shape[2];
    a->Dv = v ? v->shape[3] : 0;
    TFB__REQUIRE(a->G > 0 ? q->shape[1] % a->G == 0 : q->shape[1] == 0, ctx,
                 TFB_ERR_SHAPE, "%s: q has %d heads, no multiple of the %d of k", fn,
                 q->shape[1], a->G);
    a->group = a->G > 0 ? q->shape[1] / a->G : 0;
    if (!pages) return TFB_OK;
    TFB__TRY(tfb__check(ctx, fn, "pages", pages, TFB__MASK(TFB_I32), 2, 2));
    TFB__TRY(tfb__check_extent(ctx, fn, "pages", pages, 0, q->shape[0]));
    a->S = (tfb_idx)tfb__size_mul((size_t)pages->shape[1], (size_t)a->page);
    TFB__REQUIRE(a->S >= 0 && a->S < PTRDIFF_MAX / 4, ctx, TFB_ERR_RANGE,
                 "%s: the size of all pages overflows", fn);
    TFB__REQUIRE(a->o.page_skip >= 0 && a->o.page_skip <= a->S &&
                     (a->o.page_skip < a->page || !a->S),
                 ctx, TFB_ERR_RANGE, "%s: page_skip is %d, a page has %d rows", fn,
                 a->o.page_skip, a->page);
    a->S -= a->o.page_skip;
    return TFB_OK;
}

/* The options that are numbers. */
static tfb_status tfb__attention_numbers(tfb_ctx *ctx, const char *fn, tfb__attn *a) {
    const tfb_idx far = PTRDIFF_MAX / 4;
    tfb_attention_opts *o = &a->o;
    TFB__REQUIRE((unsigned)o->causal <= (unsigned)TFB_CAUSAL_OFFSET, ctx, TFB_ERR_ARG,
                 "%s: causal is %d", fn, (tfb_idx)o->causal);
    TFB__REQUIRE(o->chunk_size >= 0, ctx, TFB_ERR_ARG, "%s: chunk_size is %d", fn,
                 o->chunk_size);
    TFB__REQUIRE(o->offset > -far && o->offset < far, ctx, TFB_ERR_RANGE,
                 "%s: offset %d is out of range", fn, o->offset);
    a->offset_given = o->offset_set || o->causal == TFB_CAUSAL_OFFSET;
    a->scale = o->scale;
    if (!o->scale_set) a->scale = 1.0f / TFB__SQRT((float)TFB__MAX(1, a->D));
    return TFB_OK;
}

/* The same of options that may be left out. */
static tfb_status tfb__attention_bounds(tfb_ctx *ctx, const char *fn,
                                        tfb_attention_opts *o) {
    const tfb_idx far = PTRDIFF_MAX / 4;
    TFB__REQUIRE(o->window >= 0 && (o->causal || !o->window), ctx, TFB_ERR_ARG,
                 "%s: window is %d, must be >= 0 and goes with causal", fn, o->window);
    TFB__REQUIRE(!o->two_sided || (o->left >= 0 && o->right >= 0 && !o->window), ctx,
                 TFB_ERR_ARG, "%s: two_sided from %d to %d, both >= 0 and without window",
                 fn, o->left, o->right);
    TFB__REQUIRE(o->window_pinned >= 0, ctx, TFB_ERR_ARG, "%s: window_pinned is %d", fn,
                 o->window_pinned);
    TFB__REQUIRE(o->softcap >= 0 && o->softcap <= FLT_MAX, ctx, TFB_ERR_ARG,
                 "%s: softcap must be 0 or positive and finite", fn);
    TFB__REQUIRE(o->key_pos0 >= 0 && o->key_pos0 < far, ctx, TFB_ERR_RANGE,
                 "%s: key_pos0 %d is out of range", fn, o->key_pos0);
    TFB__REQUIRE(o->key_pinned >= 0 && (!o->key_pinned || !o->kv_start), ctx, TFB_ERR_ARG,
                 "%s: key_pinned is %d, must be >= 0 and without kv_start", fn,
                 o->key_pinned);
    o->window = TFB__MIN(o->window, far);
    o->window_pinned = TFB__MIN(o->window_pinned, far);
    o->left = TFB__MIN(o->left, far);
    o->right = TFB__MIN(o->right, far);
    return TFB_OK;
}

/* The options that are tensors. */
static tfb_status tfb__attention_options(tfb_ctx *ctx, const char *fn, tfb__attn *a) {
    const tfb_attention_opts *o = &a->o;
    const tfb_idx heads = a->q.shape[1];
    const int i32 = TFB__MASK(TFB_I32);
    tfb_tensor scores = tfb_view4(NULL, TFB_F32, a->q.shape[0], heads, a->T, a->S);
    tfb_tensor slopes = tfb_view2(NULL, TFB_F32, a->q.shape[0], heads);
    if (TFB__OPT(ATTENTION_MASKS, o->mask)) {
        TFB__TRY(tfb__check(ctx, fn, "mask", o->mask, TFB__MASK(TFB_U8), 0, 4));
        TFB__TRY(tfb__broadcast(ctx, fn, "mask", o->mask, &scores, &a->mask));
    }
    if (TFB__OPT(ATTENTION_MASKS, o->bias)) {
        TFB__TRY(tfb__check(ctx, fn, "bias", o->bias, TFB__MASK(TFB_F32), 0, 4));
        TFB__TRY(tfb__broadcast(ctx, fn, "bias", o->bias, &scores, &a->bias));
    }
    if (TFB__OPT(ATTENTION_SCORES, o->alibi)) {
        TFB__TRY(tfb__check(ctx, fn, "alibi", o->alibi, TFB__MASK(TFB_F32), 1, 2));
        TFB__TRY(
            tfb__check_extent(ctx, fn, "alibi", o->alibi, o->alibi->ndim - 1, heads));
        TFB__TRY(tfb__broadcast(ctx, fn, "alibi", o->alibi, &slopes, &a->alibi));
    }
    if (TFB__OPT(ATTENTION_SCORES, o->sinks)) {
        TFB__TRY(
            tfb__check_vector(ctx, fn, "sinks", o->sinks, TFB__MASK(TFB_F32), heads));
        a->sinks = *o->sinks;
    }
    if (!TFB__HAS(ATTENTION_SEQUENCES)) return TFB_OK;
    if (o->cu_q || o->cu_k) {
        TFB__REQUIRE(o->cu_q && !o->kv_start && !o->kv_len && !o->pages &&
                         !o->key_pinned && !o->key_pos0 && !o->key_pos0s,
                     ctx, TFB_ERR_ARG, "%s: cu_%s", fn,
                     o->cu_q ? "q goes without lengths, places and pages of keys"
                             : "k needs cu_q");
        TFB__TRY(tfb__check(ctx, fn, "cu_q", o->cu_q, i32, 1, 1));
        TFB__REQUIRE(o->cu_q->shape[0] >= 1 && a->q.shape[0] == 1, ctx, TFB_ERR_SHAPE,
                     "%s: cu_q has %d numbers for a batch of %d, needs n + 1 for 1", fn,
                     o->cu_q->shape[0], a->q.shape[0]);
        TFB__TRY(tfb__check_vector(ctx, fn, "cu_k", o->cu_k, i32, o->cu_q->shape[0]));
        a->seqs = o->cu_q->shape[0] - 1;
    }
    TFB__TRY(tfb__check_vector(ctx, fn, "offsets", o->offsets, i32, a->seqs));
    TFB__TRY(tfb__check_vector(ctx, fn, "kv_start", o->kv_start, i32, a->seqs));
    TFB__TRY(tfb__check_vector(ctx, fn, "kv_len", o->kv_len, i32, a->seqs));
    return tfb__check_vector(ctx, fn, "key_pos0s", o->key_pos0s, i32, a->seqs);
}

/* Norm and rope of q and k. */
static tfb_status tfb__attention_qk(tfb_ctx *ctx, const char *fn, tfb__attn *a) {
    const tfb_qk_opts *o = a->o.qk;
    tfb__qk *qk = &a->qk;
    tfb__rope_plan *plan = &qk->rope;
    const int f32 = TFB__MASK(TFB_F32);
    TFB__REQUIRE((unsigned)o->norm <= (unsigned)TFB_QK_NORM_L2, ctx, TFB_ERR_ARG,
                 "%s: norm is %d, which is none", fn, (tfb_idx)o->norm);
    qk->norm = o->norm;
    qk->norm_last = o->norm_last;
    qk->rotate = o->rope != NULL;
    qk->keys = !o->keys_ready;
    qk->eps = tfb__norm_eps(o->eps, o->eps_set, o->norm == TFB_QK_NORM_L2);
    TFB__REQUIRE(qk->eps >= 0, ctx, TFB_ERR_ARG, "%s: eps must be >= 0", fn);
    TFB__TRY(tfb__check_vector(ctx, fn, "q_weight", o->q_weight, f32, a->D));
    TFB__TRY(tfb__check_vector(ctx, fn, "k_weight", o->k_weight, f32, a->D));
    plan->isa = ctx->isa;
    if (!o->rope) return TFB_OK;
    TFB__TRY(tfb__rope_check(ctx, fn, o->rope, a->D, plan));
    qk->positions = o->rope->positions;
    qk->key_positions = o->key_positions;
    TFB__REQUIRE(plan->axes == 1 || plan->grid[0] ||
                     (qk->positions && (qk->key_positions || !qk->keys)),
                 ctx, TFB_ERR_ARG, "%s: %d axes need positions or a grid", fn,
                 (tfb_idx)plan->axes);
    if (qk->positions)
        TFB__TRY(tfb__rope_check_positions(ctx, fn, "positions", qk->positions,
                                           a->q.shape[0], a->T, plan->axes));
    if (qk->key_positions)
        TFB__TRY(tfb__rope_check_positions(ctx, fn, "key_positions", qk->key_positions,
                                           a->q.shape[0], a->S, plan->axes));
    return TFB_OK;
}

/* The numbers a sequence reaches, of keys and of queries, must be exact where they become
 * floats, and lie on the grid. */
static tfb_status tfb__attention_reach(tfb_ctx *ctx, const char *fn, const tfb__attn *a,
                                       const tfb__attn_seq *u) {
    const tfb_idx limit = (tfb_idx)1 << 23, *grid = a->qk.rope.grid;
    const tfb_idx first = u->q0 + u->stand, past = first + u->T;
    const tfb_idx begin = a->o.key_pinned ? 0 : u->lo + u->shift;
    const tfb_idx end = u->hi + u->shift, start = a->qk.rope.start;
    const int rope_q = a->qk.rotate && !a->qk.positions;
    const int rope_k = a->qk.rotate && a->qk.keys && !a->qk.key_positions;
    if (!u->T) return TFB_OK;
    TFB__REQUIRE(!(a->alibi.data || rope_q || rope_k) ||
                     (first > -limit && past < limit && end < limit),
                 ctx, TFB_ERR_RANGE, "%s: queries at %d or keys to %d pass 2^23", fn,
                 first, end);
    TFB__REQUIRE(!(rope_q || rope_k) || (start > -limit && start < limit), ctx,
                 TFB_ERR_RANGE, "%s: positions from %d on pass 2^24", fn, start);
    if (a->qk.rotate && grid[0]) {
        const tfb_idx all = grid[0] * grid[1] * (a->qk.rope.axes > 2 ? grid[2] : 1);
        TFB__REQUIRE((!rope_q || (first + start >= 0 && past + start <= all)) &&
                         (!rope_k || (begin + start >= 0 && end + start <= all)),
                     ctx, TFB_ERR_RANGE, "%s: queries at %d or keys to %d pass the grid",
                     fn, first, end);
    }
    return TFB_OK;
}

/* What stands in the tensors of numbers, sequence by sequence. */
static tfb_status tfb__attention_sequences(tfb_ctx *ctx, const char *fn, tfb__attn *a) {
    const tfb_attention_opts *o = &a->o;
    const tfb_tensor *cu_k = o->cu_k ? o->cu_k : o->cu_q;
    tfb_idx s, j, T = 0, S = 0;
    for (s = 0; s < a->seqs; s++) {
        const tfb__attn_seq u = tfb__attn_sequence(a, s);
        TFB__REQUIRE(
            u.lo >= 0 && u.lo <= u.hi && u.hi <= a->S && u.T >= 0, ctx, TFB_ERR_RANGE,
            "%s: %s: sequence %d has %d queries, keys %d to %d of %d", fn,
            o->cu_q ? "cu_q, cu_k" : "kv_start, kv_len", s, u.T, u.lo, u.hi, a->S);
        TFB__REQUIRE(!o->cu_q || (u.q0 == T && u.lo == S), ctx, TFB_ERR_RANGE,
                     "%s: cu_q or cu_k does not begin at 0", fn);
        TFB__REQUIRE(u.shift + u.lo >= 0, ctx, TFB_ERR_RANGE, "%s: key_pos0s[%d] is %d",
                     fn, s, u.shift + u.lo);
        TFB__TRY(tfb__attention_reach(ctx, fn, a, &u));
        T += u.T;
        S = u.hi;
        a->longest = TFB__MAX(a->longest, u.T);
        if (!o->pages) continue;
        for (j = u.lo; j < u.hi; j += a->page - (j + o->page_skip) % a->page) {
            const tfb_idx at = (j + o->page_skip) / a->page;
            const tfb_idx page = tfb__attn_page(o->pages, s, at);
            TFB__REQUIRE(page >= 0 && page < a->k.shape[0], ctx, TFB_ERR_RANGE,
                         "%s: pages[%d][%d] is %d, there are %d", fn, s, at, page,
                         a->k.shape[0]);
        }
    }
    TFB__REQUIRE(!cu_k || (T == a->T && S == a->S), ctx, TFB_ERR_RANGE,
                 "%s: cu_q ends at %d of %d, cu_k at %d", fn, T, a->T, S);
    return TFB_OK;
}

/* Has this build all that is asked for? The switch that left it out, or NULL. */
static const char *tfb__attention_lacks(const tfb_attention_opts *o) {
#define TFB__SET(option) (uintptr_t)(o->option)
    if (!TFB__HAS(ATTENTION_MASKS) && (TFB__SET(mask) | TFB__SET(bias))) return "MASKS";
    if (!TFB__HAS(ATTENTION_QK) && o->qk) return "QK";
    if (!TFB__HAS(ATTENTION_PAGES) && o->pages) return "PAGES";
    if (!TFB__HAS(ATTENTION_SCORES) &&
        (TFB__SET(alibi) | TFB__SET(sinks) | (uintptr_t)(o->softcap > 0)))
        return "SCORES";
    if (!TFB__HAS(ATTENTION_WINDOWS) && (TFB__SET(window) | TFB__SET(two_sided)))
        return "WINDOWS";
    if (!TFB__HAS(ATTENTION_SEQUENCES) &&
        (TFB__SET(kv_start) | TFB__SET(kv_len) | TFB__SET(cu_q) | TFB__SET(cu_k) |
         TFB__SET(offsets) | TFB__SET(key_pos0) | TFB__SET(key_pos0s) |
         TFB__SET(key_pinned)))
        return "SEQUENCES";
#undef TFB__SET
    return NULL;
}

static void tfb__attention_new(tfb__attn *a, const tfb_attention_opts *opts) {
    memset((void *)a, 0, sizeof *a);
    if (!opts) return;
    a->o = *opts;
    if (TFB__HAS(CHECKS)) a->lacks = tfb__attention_lacks(opts);
}

/* All checks but those of outputs; the plan of a call. */
static tfb_status tfb__attention_resolve(tfb_ctx *ctx, const char *fn,
                                         const tfb_tensor *q, const tfb_tensor *k,
                                         const tfb_tensor *v, tfb__attn *a) {
    TFB__REQUIRE(!a->lacks, ctx, TFB_ERR_UNSUPPORTED,
                 "%s: an option is left out by TFB_NO_ATTENTION_%s", fn, a->lacks);
    TFB__TRY(tfb__attention_inputs(ctx, fn, q, k, v, a));
    TFB__TRY(tfb__attention_numbers(ctx, fn, a));
    if (!TFB__ATTENTION_PLAIN) {
        TFB__TRY(tfb__attention_bounds(ctx, fn, &a->o));
        TFB__TRY(tfb__attention_options(ctx, fn, a));
    }
    return TFB__OPT(ATTENTION_QK, a->o.qk) ? tfb__attention_qk(ctx, fn, a) : TFB_OK;
}

/* An output overlaps no input. */
static tfb_status tfb__attention_output(tfb_ctx *ctx, const char *fn, const char *name,
                                        const tfb_tensor *out, const tfb_tensor *q,
                                        const tfb_tensor *k, const tfb_tensor *v,
                                        const tfb_attention_opts *o) {
    TFB__TRY(tfb__check_out(ctx, fn, name, out));
    TFB__TRY(tfb__check_alias(ctx, fn, name, out, "q", q, 0));
    TFB__TRY(tfb__check_alias(ctx, fn, name, out, "k", k, 0));
    TFB__TRY(tfb__check_alias(ctx, fn, name, out, "v", v, 0));
    return TFB__ATTENTION_PLAIN ? TFB_OK : tfb__attention_alias(ctx, fn, name, out, o);
}

/* Weights of norms without gaps, frequencies of rope. */
static void tfb__attention_vectors(tfb__attn *a, float *to) {
    const tfb_qk_opts *o = a->o.qk;
    a->qk.q_weight = tfb__vector_copy(o->q_weight, a->D, to);
    a->qk.k_weight = tfb__vector_copy(o->k_weight, a->D, to + a->D);
    if (o->rope) tfb__rope_fill(o->rope, &a->qk.rope);
}

/* --- Running: whole tasks, or splits of them where tasks are few. --- */
#if TFB__SMALL
static float tfb__state_ref(const tfb__attn *a, tfb_idx s, tfb_idx h, tfb_idx i,
                            float *work, float *m);
static void tfb__tile_ref(const tfb__attn *a, const tfb__attn_seq *u, tfb_idx h,
                          tfb_idx i, tfb_idx n0, float *q, float *score, tfb_idx *row);

/* A row of tfb_attention_weights; its columns have a stride. */
static void tfb__attention_weigh(const tfb__attn *a, tfb_idx s, tfb_idx h, tfb_idx i,
                                 float *work, float *w) {
    const tfb__attn_seq u = tfb__attn_sequence(a, s);
    const tfb_idx end = u.hi + (u.shift > 0 ? u.shift : 0);
    float score[TFB__KT], m, l = tfb__state_ref(a, s, h, i, work, &m);
    tfb_idx row[TFB__KT], n, c;
    for (c = 0; c < a->S; c++) w[c * a->y.stride[3]] = 0;
    for (n = 0; n < end; n += TFB__KT) {
        tfb__tile_ref(a, &u, h, i, n, work, score, row);
        for (c = 0; c < TFB__KT; c++)
            if (row[c] >= 0)
                w[row[c] * a->y.stride[3]] = tfb__exp_scalar(score[c] - m) * (1.0f / l);
    }
}

/* A row of y: a query token of one head. */
static void tfb__attention_row(void *arg, tfb_idx task, int worker) {
    const tfb__attn *a = (const tfb__attn *)arg;
    const tfb_idx H = a->q.shape[1], rows = a->y.shape[2], t = task % rows;
    const tfb_idx h = task / rows % H, b = task / rows / H, *st = a->y.stride;
    const tfb_idx i = TFB__OPT(WEIGHTS, a->rows) ? tfb__i32_at(a->rows, t) : t;
    float *work = (float *)(void *)(a->scratch + a->worker_bytes * (size_t)worker);
    float *all = work + 3 * a->D + 2 * a->Dv, m, l;
    const tfb_idx at = b * st[0] + h * st[1] + t * st[2];
    float *y = (float *)a->y.data;
    tfb_idx s = b, d;
    if (TFB__OPT(ATTENTION_SEQUENCES, a->o.cu_q))
        while (i >= tfb__i32_at(a->o.cu_q, s + 1)) s++;
    if (TFB__HAS(WEIGHTS) && a->phase == TFB__ATTN_WEIGHTS) {
        tfb__attention_weigh(a, s, h, i, work, y + at);
        return;
    }
    l = tfb__state_ref(a, s, h, i, work, &m);
    for (d = 0; d < a->Dv; d++)
        y[at + d * st[3]] = l <= 0 ? 0.0f : TFB__FMA(all[d], 1.0f / l, 0.0f);
    st = a->lse.stride;
    if (TFB__OPT(LSE, a->lse.data))
        ((float *)a->lse.data)[b * st[0] + h * st[1] + t * st[2]] =
            l <= 0 ? -TFB__FLT_INF : m + tfb__log_scalar(l);
}

/* Takes scratch and computes, if anything is asked for; outputs have been checked. */
static tfb_status tfb__attention_run(tfb_ctx *ctx, const char *fn, tfb__attn *a,
                                     int asked) {
    const tfb_idx rows = a->q.shape[0] * a->q.shape[1] * a->y.shape[2];
    const tfb__mark mark = tfb__scratch_begin(ctx);
    tfb_status status = TFB_OK;
    float *vectors = NULL;
    if (asked && !ctx->measuring && !TFB__ATTENTION_PLAIN)
        status = tfb__attention_sequences(ctx, fn, a);
    a->worker_bytes = tfb__size_mul((size_t)TFB__MAX(a->D, a->Dv), 6 * sizeof(float));
    a->scratch = (char *)tfb__take(ctx, tfb__workers(ctx), a->worker_bytes);
    if (TFB__OPT(ATTENTION_QK, a->o.qk)) {
        vectors = (float *)tfb__take(ctx, 2, tfb__size_mul((size_t)a->D, 4));
        a->qk.rope.hi = (float *)tfb__take(ctx, a->qk.rope.half, 4);
        a->qk.rope.lo = (float *)tfb__take(ctx, a->qk.rope.half, 4);
    }
    if (status == TFB_OK) status = tfb__scratch_ready(ctx, fn);
    if (status == TFB_OK && !ctx->measuring && asked) {
        if (TFB__OPT(ATTENTION_QK, a->o.qk)) tfb__attention_vectors(a, vectors);
        tfb__parallel(ctx, rows, tfb__attention_row, a);
    }
    return tfb__scratch_end(ctx, mark, status);
}
#else
/* Rows of a block: at most 64, or what chunk_size asks for; evened out over the blocks of
 * a sequence, but memory is for as many as there may be. */
static void tfb__attention_blocks(tfb__attn *a, tfb_idx tokens, tfb_idx longest) {
    const tfb_idx all = (tfb_idx)tfb__size_mul((size_t)tokens, (size_t)a->group);
    const tfb_idx chunk = a->o.chunk_size;
    tfb_idx rows = TFB__MAX(1, TFB__MIN(TFB__ROWS, all));
    if (chunk && chunk < rows) rows = TFB__MIN(rows, chunk * a->group);
    a->room = rows;
    longest *= a->group;
    a->blocks = (longest + rows - 1) / rows;
    a->block_rows = a->blocks ? (longest + a->blocks - 1) / a->blocks : rows;
    a->block_rows = TFB__MIN(rows, (a->block_rows + 7) / 8 * 8);
}

/* Splits of all tasks, a wave of them at a time; every wave is folded in order before the
 * next, so that memory does not grow with the number of keys. */
static void tfb__attention_waves(tfb_ctx *ctx, tfb__attn *a) {
    tfb_idx task, n;
    for (task = 0; task < a->tasks; task++) {
        tfb__attn_state w;
        tfb_idx splits = 0;
        tfb__attn_begin(a, task, 0, &w);
        for (n = w.first; n < w.last || !splits; splits++) {
            const tfb_idx split = n / TFB__KS, end = (split + 1) * TFB__KS;
            tfb__attn_item *item = tfb__attn_item_of(a, a->items++);
            item->task = task;
            item->split = split;
            item->first = splits == 0;
            n = tfb__attn_next(&w, TFB__MIN(end, w.last));
            item->last = n >= w.last;
            if (a->items < a->item_max && !(task + 1 == a->tasks && item->last)) continue;
            a->phase = TFB__ATTN_SPLIT;
            tfb__parallel(ctx, a->items, TFB__KERNEL(ctx->isa, attention), a);
            a->phase = TFB__ATTN_FOLD;
            TFB__KERNEL(ctx->isa, attention)(a, 0, 0);
            a->items = 0;
        }
    }
}

/* Takes scratch and computes, if anything is asked for; outputs have been checked. */
static tfb_status tfb__attention_run(tfb_ctx *ctx, const char *fn, tfb__attn *a,
                                     int asked) {
    const tfb_idx workers = tfb__workers(ctx);
    const tfb_idx tokens = a->rows ? a->rows->shape[0] : a->T;
    tfb__attn_state state;
    tfb__mark mark;
    tfb_status status;
    float *vectors;
    if (asked && !ctx->measuring) TFB__TRY(tfb__attention_sequences(ctx, fn, a));
    tfb__attention_blocks(a, tokens, a->rows ? tokens : a->longest);
    a->part_bytes = tfb__attn_part_bytes(a);
    a->worker_bytes = tfb__attn_carve(a, NULL, &state);
    a->tasks = a->seqs * a->G * a->blocks;
    a->item_max = 2 * workers - 1;
    mark = tfb__scratch_begin(ctx);
    a->scratch = (char *)tfb__take(ctx, workers, a->worker_bytes);
    vectors = (float *)tfb__take(ctx, a->o.qk ? 2 : 0, tfb__size_mul((size_t)a->D, 4));
    a->qk.rope.hi = (float *)tfb__take(ctx, a->qk.rope.half, 4);
    a->qk.rope.lo = (float *)tfb__take(ctx, a->qk.rope.half, 4);
    status = tfb__scratch_ready(ctx, fn);
    if (status == TFB_OK && !ctx->measuring && asked) {
        if (a->o.qk) tfb__attention_vectors(a, vectors);
        if (a->phase == TFB__ATTN_WEIGHTS || a->tasks >= workers)
            tfb__parallel(ctx, a->tasks, TFB__KERNEL(ctx->isa, attention), a);
        else tfb__attention_waves(ctx, a);
    }
    return tfb__scratch_end(ctx, mark, status);
}

#endif

/* Checks y and lse and runs. */
static tfb_status tfb__attention_finish(tfb_ctx *ctx, const char *fn, const tfb_tensor *q,
                                        const tfb_tensor *k, const tfb_tensor *v,
                                        const tfb_tensor *y, tfb__attn *a) {
    const tfb_tensor *lse = TFB__OPT(LSE, a->o.lse);
    TFB__REQUIRE(TFB__HAS(LSE) || !a->o.lse, ctx, TFB_ERR_UNSUPPORTED,
                 "%s: lse is left out by TFB_NO_LSE", fn);
    TFB__TRY(tfb__check(ctx, fn, "y", y, TFB__MASK(TFB_F32), 4, 4));
    TFB__TRY(tfb__check_like(ctx, fn, "y", y, q, 3));
    TFB__TRY(tfb__check_extent(ctx, fn, "y", y, 3, a->Dv));
    TFB__TRY(tfb__attention_output(ctx, fn, "y", y, q, k, v, &a->o));
    tfb__attention_tensor(y, &a->y);
    if (lse) {
        TFB__TRY(tfb__check(ctx, fn, "lse", lse, TFB__MASK(TFB_F32), 3, 3));
        TFB__TRY(tfb__check_like(ctx, fn, "lse", lse, q, 3));
        TFB__TRY(tfb__attention_output(ctx, fn, "lse", lse, q, k, v, &a->o));
        TFB__TRY(tfb__check_alias(ctx, fn, "lse", lse, "y", y, 0));
        tfb__attention_tensor(lse, &a->lse);
    }
    a->phase = TFB__ATTN_WHOLE;
    return tfb__attention_run(ctx, fn, a, tfb_numel(y) || (lse && tfb_numel(lse)));
}

TFB_API tfb_status tfb_attention(tfb_ctx *ctx, const tfb_tensor *q, const tfb_tensor *k,
                                 const tfb_tensor *v, const tfb_attention_opts *opts,
                                 tfb_tensor *y) {
    const char *fn = "tfb_attention";
    tfb__attn a;
    TFB__ENTER(ctx);
    TFB__REQUIRE(v, ctx, TFB_ERR_ARG, "%s: v is NULL", fn);
    tfb__attention_new(&a, opts);
    TFB__TRY(tfb__attention_resolve(ctx, fn, q, k, v, &a));
    return tfb__attention_finish(ctx, fn, q, k, v, y, &a);
}

#ifndef TFB_NO_WEIGHTS
TFB_API tfb_status tfb_attention_weights(tfb_ctx *ctx, const tfb_tensor *q,
                                         const tfb_tensor *k,
                                         const tfb_attention_opts *opts,
                                         const tfb_tensor *rows, tfb_tensor *w) {
    const char *fn = "tfb_attention_weights";
    tfb__attn a;
    tfb_idx i;
    TFB__ENTER(ctx);
    tfb__attention_new(&a, opts);
    TFB__TRY(tfb__attention_resolve(ctx, fn, q, k, NULL, &a));
    TFB__REQUIRE(!a.o.lse, ctx, TFB_ERR_ARG, "%s: gives no lse", fn);
    if (rows) {
        TFB__TRY(tfb__check(ctx, fn, "rows", rows, TFB__MASK(TFB_I32), 1, 1));
        for (i = 0; !ctx->measuring && i < rows->shape[0]; i++)
            TFB__REQUIRE(tfb__i32_at(rows, i) >= 0 && tfb__i32_at(rows, i) < a.T, ctx,
                         TFB_ERR_RANGE, "%s: rows[%d] is %d, q has %d", fn, i,
                         (tfb_idx)tfb__i32_at(rows, i), a.T);
    }
    TFB__TRY(tfb__check(ctx, fn, "w", w, TFB__MASK(TFB_F32), 4, 4));
    TFB__TRY(tfb__check_like(ctx, fn, "w", w, q, 2));
    TFB__TRY(tfb__check_extent(ctx, fn, "w", w, 2, rows ? rows->shape[0] : a.T));
    TFB__TRY(tfb__check_extent(ctx, fn, "w", w, 3, a.S));
    TFB__TRY(tfb__attention_output(ctx, fn, "w", w, q, k, NULL, &a.o));
    TFB__TRY(tfb__check_alias(ctx, fn, "w", w, "rows", rows, 0));
    tfb__attention_tensor(w, &a.y);
    a.rows = rows;
    a.phase = TFB__ATTN_WEIGHTS;
    return tfb__attention_run(ctx, fn, &a, tfb_numel(w) > 0);
}
#endif

#endif /* TFB_NO_ATTENTION */

#ifndef TFB_NO_MERGE
/* --- Joining states. --- */
static tfb_status tfb__merge_check(tfb_ctx *ctx, const char *fn, const char *const *names,
                                   const tfb_tensor *y, const tfb_tensor *lse,
                                   const tfb_tensor *like, int dims) {
    const int f32 = TFB__MASK(TFB_F32);
    TFB__TRY(tfb__check(ctx, fn, names[0], y, f32, dims, dims));
    TFB__TRY(tfb__check(ctx, fn, names[1], lse, f32, dims - 1, dims - 1));
    TFB__TRY(tfb__check_like(ctx, fn, names[1], lse, y, dims - 1));
    return like ? tfb__check_like(ctx, fn, names[0], y, like, dims) : TFB_OK;
}

/* Checks the outputs y and lse and runs; inputs are in m, names of theirs in `names`. */
static tfb_status tfb__merge_run(tfb_ctx *ctx, const char *fn, tfb__merge *m,
                                 const tfb_tensor *const *inputs,
                                 const char *const *names, int n, int may_equal,
                                 const tfb_tensor *y, const tfb_tensor *lse) {
    tfb_tensor like = m->y[0];
    int i;
    TFB__TRY(tfb__check(ctx, fn, "y", y, TFB__MASK(TFB_F32), 4, 4));
    TFB__TRY(tfb__check_like(ctx, fn, "y", y, &like, 4));
    TFB__TRY(tfb__check_out(ctx, fn, "y", y));
    if (lse) {
        TFB__TRY(tfb__check(ctx, fn, "lse", lse, TFB__MASK(TFB_F32), 3, 3));
        TFB__TRY(tfb__check_like(ctx, fn, "lse", lse, &like, 3));
        TFB__TRY(tfb__check_out(ctx, fn, "lse", lse));
        TFB__TRY(tfb__check_alias(ctx, fn, "lse", lse, "y", y, 0));
    }
    for (i = 0; i < n; i++) {
        TFB__TRY(
            tfb__check_alias(ctx, fn, "y", y, names[i], inputs[i], may_equal && i == 0));
        TFB__TRY(tfb__check_alias(ctx, fn, "lse", lse, names[i], inputs[i],
                                  may_equal && i == 1));
    }
    m->out = *y;
    if (lse) m->out_lse = *lse;
    if (!ctx->measuring && tfb_numel(&like) + (lse ? tfb_numel(lse) : 0))
        tfb__parallel(ctx, y->shape[0] * y->shape[1] * y->shape[2],
                      TFB__KERNEL(ctx->isa, merge), m);
    return TFB_OK;
}

/* The first of n tensors side by side. */
static tfb_tensor tfb__first_of(const tfb_tensor *t) {
    tfb_tensor x = *t;
    x.ndim--;
    memmove((void *)x.shape, (const void *)(t->shape + 1),
            (size_t)x.ndim * sizeof *x.shape);
    memmove((void *)x.stride, (const void *)(t->stride + 1),
            (size_t)x.ndim * sizeof *x.stride);
    return x;
}

TFB_API tfb_status tfb_merge_states(tfb_ctx *ctx, const tfb_tensor *ys,
                                    const tfb_tensor *lses, tfb_tensor *y,
                                    tfb_tensor *lse) {
    static const char *const names[] = {"ys", "lses"};
    const tfb_tensor *inputs[2];
    tfb__merge m;
    TFB__ENTER(ctx);
    memset((void *)&m, 0, sizeof m);
    TFB__TRY(tfb__merge_check(ctx, "tfb_merge_states", names, ys, lses, NULL, 5));
    inputs[0] = ys;
    inputs[1] = lses;
    m.states = ys->shape[0];
    m.y_step = ys->stride[0];
    m.lse_step = lses->stride[0];
    m.y[0] = tfb__first_of(ys);
    m.lse[0] = tfb__first_of(lses);
    return tfb__merge_run(ctx, "tfb_merge_states", &m, inputs, names, 2, 0, y, lse);
}

TFB_API tfb_status tfb_merge_state(tfb_ctx *ctx, const tfb_tensor *y1,
                                   const tfb_tensor *lse1, const tfb_tensor *y2,
                                   const tfb_tensor *lse2, tfb_tensor *y,
                                   tfb_tensor *lse) {
    static const char *const names[] = {"y1", "lse1", "y2", "lse2"};
    const char *fn = "tfb_merge_state";
    const tfb_tensor *inputs[4];
    tfb__merge m;
    TFB__ENTER(ctx);
    memset((void *)&m, 0, sizeof m);
    TFB__TRY(tfb__merge_check(ctx, fn, names, y1, lse1, NULL, 4));
    TFB__TRY(tfb__merge_check(ctx, fn, names + 2, y2, lse2, y1, 4));
    inputs[0] = y1;
    inputs[1] = lse1;
    inputs[2] = y2;
    inputs[3] = lse2;
    m.states = 2;
    m.pair = 1;
    m.y[0] = *y1;
    m.y[1] = *y2;
    m.lse[0] = *lse1;
    m.lse[1] = *lse2;
    return tfb__merge_run(ctx, fn, &m, inputs, names, 4, 1, y, lse);
}
#endif

#ifndef TFB_NO_ATTENTION
/* --- References. --- */
/* Row i of q, k or v for kv or query head h as dense floats. */
static void tfb__row_ref(const tfb__attn *a, const tfb_tensor *t, tfb_idx batch,
                         tfb_idx h, tfb_idx i, float *x) {
    tfb_idx d, row = i + a->o.page_skip;
    tfb__source from;
    if (TFB__OPT(ATTENTION_PAGES, a->o.pages) && t != &a->q) {
        batch = tfb__attn_page(a->o.pages, batch, row / a->page);
        i = row % a->page;
    }
    memset((void *)&from, 0, sizeof from);
    from.x = t->data;
    from.dtype = t->dtype;
    if (TFB__OPT(KV, a->cache) &&
        t != &a->q) { /* elements of a key are a panel's lanes apart */
        const int is_key = t == &a->k;
        char *key, *value;
        if (i >= a->o.key_pinned) i += tfb__attn_sequence(a, batch).shift;
        tfb__kv_find(a->kv, a->cache, a->cache->row + batch, h, i, &key, &value);
        from.x = is_key ? key : value;
        from.little = 1;
        for (d = 0; d < t->shape[3]; d++)
            x[d] = tfb__source_at(&from, is_key ? d * TFB__PANEL : d);
        return;
    }
    for (d = 0; d < t->shape[3]; d++)
        x[d] = tfb__source_at(&from, batch * t->stride[0] + h * t->stride[1] +
                                         i * t->stride[2] + d * t->stride[3]);
}

/* Norm and rope of a row of q or k; work holds D floats. */
static void tfb__qk_ref(const tfb__attn *a, int is_key, tfb_idx batch, tfb_idx row,
                        tfb_idx number, float *x, float *work) {
    const tfb__qk *qk = &a->qk;
    const tfb_tensor *p = is_key ? qk->key_positions : qk->positions;
    const int which = qk->norm == TFB_QK_NORM_L2 ? TFB__L2NORM : TFB__RMSNORM;
    tfb_idx at[3] = TFB_INIT, d;
    int last;
    if (!TFB__OPT(ATTENTION_QK, a->o.qk) || (is_key && !qk->keys)) return;
    for (last = 0; last < 2; last++) {
        if (qk->norm && !qk->norm_last == !last)
            tfb__norm_ref(a->D, x, NULL, is_key ? qk->k_weight : qk->q_weight, NULL,
                          qk->eps, which, work, x);
        if (!qk->rotate || last) continue;
        tfb__rope_place(&qk->rope, p, batch, p ? row : number, at);
        for (d = 0; d < a->D; d++) work[d] = x[d];
        tfb__rope_ref(a->D, work, at, a->o.qk->rope, qk->rope.hi, qk->rope.lo, x);
    }
}

/* May query row i of head h see key number n, which is row j? SEMANTICS section 3. */
static int tfb__visible_ref(const tfb__attn *a, const tfb__attn_seq *u, tfb_idx h,
                            tfb_idx i, tfb_idx n, tfb_idx j) {
    const tfb_attention_opts *o = &a->o;
    const tfb_idx at = i + u->stand;
    const tfb_idx pinned = TFB__OPT(ATTENTION_SEQUENCES, o->key_pinned);
    if (j < u->lo || j >= u->hi || (n >= pinned && j < pinned)) return 0;
    if (o->causal != TFB_CAUSAL_NONE && n > at) return 0;
    if (TFB__HAS(ATTENTION_WINDOWS) && n >= o->window_pinned) {
        if (o->window && n <= at - o->window) return 0;
        if (o->two_sided && (n < at - o->left || n > at + o->right)) return 0;
    }
    if (!TFB__HAS(ATTENTION_MASKS)) return 1;
    if (o->mask &&
        !((const uint8_t *)a->mask.data)[tfb__at4(&a->mask, u->batch, h, i, j)])
        return 0;
    return !o->bias ||
           tfb__bits_of(
               ((const float *)a->bias.data)[tfb__at4(&a->bias, u->batch, h, i, j)]) !=
               0xFF800000u;
}

static float tfb__score_ref(const tfb__attn *a, const tfb__attn_seq *u, tfb_idx h,
                            tfb_idx i, tfb_idx n, tfb_idx j, const float *q,
                            const float *k) {
    const float cap = TFB__OPT(ATTENTION_SCORES, a->o.softcap);
    const tfb_idx away = i + u->stand - n;
    float s = a->scale * tfb__dot_ref(a->D, q, 1, k, 1);
    if (cap > 0) s = cap * tfb__tanh_scalar(s / cap);
    if (TFB__OPT(ATTENTION_MASKS, a->o.bias))
        s += ((const float *)a->bias.data)[tfb__at4(&a->bias, u->batch, h, i, j)];
    if (TFB__OPT(ATTENTION_SCORES, a->o.alibi))
        s = TFB__FMA(-((const float *)a->alibi
                           .data)[u->batch * a->alibi.stride[0] + h * a->alibi.stride[1]],
                     (float)(away < 0 ? -away : away), s);
    return s;
}

/* (m, l, acc) = itself merged with (m2, l2, acc2). */
static void tfb__merge_ref(tfb_idx n, float *m, float *l, float *acc, float m2, float l2,
                           const float *acc2) {
    const float M = *m > m2 ? *m : m2;
    const float e1 = tfb__exp_scalar(*m - M), e2 = tfb__exp_scalar(m2 - M);
    tfb_idx d;
    *m = M;
    *l = TFB__FMA(*l, e1, l2 * e2);
    for (d = 0; d < n; d++) acc[d] = TFB__FMA(acc[d], e1, acc2[d] * e2);
}

/* The keys of a tile: row[c] is that of key number n0 + c, or -1 if it is hidden, and
 * score[c] its score. q: the query and room for two rows more. */
static void tfb__tile_ref(const tfb__attn *a, const tfb__attn_seq *u, tfb_idx h,
                          tfb_idx i, tfb_idx n0, float *q, float *score, tfb_idx *row) {
    float *k = q + a->D, *work = k + a->D;
    tfb_idx c;
    for (c = 0; c < TFB__KT; c++) {
        const tfb_idx n = n0 + c, pinned = TFB__OPT(ATTENTION_SEQUENCES, a->o.key_pinned);
        const tfb_idx j = n < pinned ? n : n - u->shift;
        row[c] = tfb__visible_ref(a, u, h, i, n, j) ? j : -1;
        if (row[c] < 0) continue;
        tfb__row_ref(a, &a->k, u->batch, h / a->group, j, k);
        tfb__qk_ref(a, 1, u->batch, j, n, k, work);
        score[c] = tfb__score_ref(a, u, h, i, n, j, q, k);
    }
}

/* All keys query row i of head h of sequence s sees, and its sink: the definition. work
 * has 3 D + 3 Dv floats; the sums are left in its last Dv. Returns l and *max. */
TFB__UNUSED static float tfb__state_ref(const tfb__attn *a, tfb_idx s, tfb_idx h,
                                        tfb_idx i, float *work, float *max) {
    const tfb__attn_seq u = tfb__attn_sequence(a, s);
    const tfb_idx end = u.hi + (u.shift > 0 ? u.shift : 0);
    float *q = work, *v = q + 3 * a->D, *acc = v + a->Dv, *all = acc + a->Dv;
    float all_m = -FLT_MAX, all_l = 0, m = 0, lane[TFB__LANES];
    tfb_idx n, c, d;
    tfb__row_ref(a, &a->q, u.batch, h, i, q);
    tfb__qk_ref(a, 0, u.batch, i, i + u.stand, q, q + a->D);
    for (d = 0; d < a->Dv; d++) all[d] = 0;
    for (n = 0; n < end; n += TFB__KT) { /* tile after tile */
        const int begins = n % TFB__KS == 0, ends = (n + TFB__KT) % TFB__KS == 0;
        float score[TFB__KT], top, carry;
        tfb_idx row[TFB__KT];
        if (begins) {
            m = -FLT_MAX;
            for (d = 0; d < TFB__LANES; d++) lane[d] = 0;
            for (d = 0; d < a->Dv; d++) acc[d] = 0;
        }
        tfb__tile_ref(a, &u, h, i, n, q, score, row);
        for (c = 0, top = m; c < TFB__KT; c++)
            if (row[c] >= 0 && score[c] > top) top = score[c];
        carry = tfb__exp_scalar(m - top);
        m = top;
        for (d = 0; d < TFB__LANES; d++) lane[d] = lane[d] * carry;
        for (d = 0; d < a->Dv; d++) acc[d] = acc[d] * carry;
        for (c = 0; c < TFB__KT; c++) {
            float p;
            if (row[c] < 0) continue;
            p = tfb__exp_scalar(score[c] - m);
            lane[c % TFB__LANES] += p;
            if (a->Dv) tfb__row_ref(a, &a->v, u.batch, h / a->group, row[c], v);
            for (d = 0; d < a->Dv; d++) acc[d] = TFB__FMA(p, v[d], acc[d]);
        }
        if (ends || n + TFB__KT >= end)
            tfb__merge_ref(a->Dv, &all_m, &all_l, all, m, tfb__fold16(lane), acc);
    }
    for (d = 0; TFB__OPT(ATTENTION_SCORES, a->o.sinks) && d < a->Dv; d++) acc[d] = 0;
    if (TFB__OPT(ATTENTION_SCORES, a->o.sinks)) /* one more state, without a value */
        tfb__merge_ref(a->Dv, &all_m, &all_l, all,
                       ((const float *)a->sinks.data)[h * a->sinks.stride[0]], 1.0f, acc);
    *max = all_m;
    return all_l;
}

/* The output of that row; returns lse. */
TFB__UNUSED static float tfb__attention_ref(const tfb__attn *a, tfb_idx s, tfb_idx h,
                                            tfb_idx i, float *work, float *o) {
    const float *all = work + 3 * a->D + 2 * a->Dv;
    float m, l = tfb__state_ref(a, s, h, i, work, &m);
    tfb_idx d;
    for (d = 0; d < a->Dv; d++) o[d] = l <= 0 ? 0.0f : TFB__FMA(all[d], 1.0f / l, 0.0f);
    return l <= 0 ? -TFB__FLT_INF : m + tfb__log_scalar(l);
}

#endif /* TFB_NO_ATTENTION */

/* ===== [17] KV CACHES =============================================================== */
/* Rows are known by number: their position since the first row ever, which tiles, windows
 * and rope count from too. Number n lies on page n / page, and pages are found by that
 * modulo the pages a sample has, so that nothing moves when old rows go; pages of pinned
 * rows have places of their own before the others. A call that may fail works on a copy
 * of the layer; what it allocates hangs there until all is certain. */

/* --- Sizes and places. --- */
/* Rows of a page, a tile of attention; but a static cache without a window has all rows
 * on one. */
#define TFB__KV_PAGE 64

/* What may be left out: rings, dynamic caches; then there is one page. */
#define TFB__KV_PAGED (TFB__HAS(KV_RINGS) || TFB__HAS(KV_DYNAMIC))

static tfb_idx tfb__kv_window(const tfb_kv_shape *s) {
    return TFB__OPT(KV_RINGS, s->window);
}

static tfb_idx tfb__kv_pinned(const tfb_kv_shape *s) {
    return TFB__OPT(KV_RINGS, s->pinned);
}

static int tfb__kv_is_static(const tfb_kv *kv) {
    return !TFB__HAS(KV_DYNAMIC) || kv->is_static;
}

static tfb_idx tfb__kv_v_dim(const tfb_kv_shape *s) {
    return s->v_dim ? s->v_dim : s->head_dim;
}

static tfb_idx tfb__kv_pins(const tfb_kv_layer *l) {
    return (tfb__kv_pinned(&l->shape) + l->page - 1) / l->page;
}

/* Pages of a sample at most, pinned ones included; 0: any number. */
static tfb_idx tfb__kv_pages_most(const tfb_kv *kv, const tfb_kv_layer *l) {
    const tfb_kv_shape *s = &l->shape;
    if (tfb__kv_window(s))
        return (tfb_idx)TFB__KV_RING(tfb__kv_window(s), tfb__kv_pinned(s), s->chunk);
    return tfb__kv_is_static(kv) ? 1 : 0;
}

/* Rows behind the pinned pages at most. */
static tfb_idx tfb__kv_room(const tfb_kv *kv, const tfb_kv_layer *l) {
    const tfb_idx most = tfb__kv_pages_most(kv, l);
    return most ? (most - tfb__kv_pins(l)) * l->page : PTRDIFF_MAX / 4;
}

static size_t tfb__kv_page_bytes(const tfb_kv_shape *s, tfb_idx page, tfb_dtype dtype) {
    size_t n = tfb__size_mul((size_t)s->kv_heads, (size_t)page);
    n = tfb__size_mul(n, tfb__size_add((size_t)s->head_dim, (size_t)tfb__kv_v_dim(s)));
    return tfb__round64(tfb__size_mul(n, tfb_dtype_size(dtype)));
}

/* The first number kept behind the pinned ones; those from `end` on are not there. */
static tfb_idx tfb__kv_from(const tfb_kv_shape *s, tfb_idx first, tfb_idx end) {
    const tfb_idx from = TFB__MAX(first, tfb__kv_pinned(s));
    return tfb__kv_window(s) ? TFB__MAX(from, end - tfb__kv_window(s)) : from;
}

/* How many rows a sample has: pinned ones and from the first kept one on. */
static tfb_idx tfb__kv_rows(const tfb_kv_shape *s, tfb_idx from, tfb_idx end) {
    return TFB__MIN(tfb__kv_pinned(s), end) + TFB__MAX(0, end - from);
}

static tfb_idx tfb__kv_len(const tfb_kv_layer *l, const tfb_kv_row *r) {
    return tfb__kv_rows(&l->shape, tfb__kv_from(&l->shape, r->first, r->end), r->end);
}

/* The number of row i of a sample as tfb_kv_get shows it. */
static tfb_idx tfb__kv_number(const tfb_kv_layer *l, const tfb_kv_row *r, tfb_idx i) {
    const tfb_idx pinned = tfb__kv_pinned(&l->shape);
    return i < pinned ? i : tfb__kv_from(&l->shape, r->first, r->end) + i - pinned;
}

/* Which of a sample's pages has page number q. */
static tfb_idx tfb__kv_slot(const tfb_kv_layer *l, tfb_idx q) {
    const tfb_idx pins = tfb__kv_pins(l);
    if (!TFB__KV_PAGED) return 0;
    return q < pins ? q : pins + (q - pins) % (l->pages - pins);
}

/* Where the key and the value of a number are; a key's elements are TFB__PANEL apart.
 * Returns how many rows from there on lie side by side, but for the ends of panels. */
static tfb_idx tfb__kv_find(const tfb_kv *kv, const tfb_kv_layer *l, const tfb_kv_row *r,
                            tfb_idx head, tfb_idx n, char **key, char **value) {
    const tfb_kv_shape *s = &l->shape;
    const tfb_idx size = (tfb_idx)tfb_dtype_size(kv->dtype);
    const tfb_idx in_page = TFB__KV_PAGED ? n % l->page : n, at = in_page % TFB__KT,
                  tile = in_page - at;
    const tfb_idx rows = TFB__MIN(TFB__KT, l->page - tile), D = s->head_dim;
    char *from = r->pages[TFB__KV_PAGED ? tfb__kv_slot(l, n / l->page) : 0];
    from += (head * l->page + tile) * (D + tfb__kv_v_dim(s)) * size;
    *key = from + (at / TFB__PANEL * TFB__PANEL * D + at % TFB__PANEL) * size;
    *value = from + (rows * D + at * tfb__kv_v_dim(s)) * size;
    return rows - at;
}

#ifndef TFB_NO_KV
/* --- Pages: taken from the spare list, which only allocation makes longer. --- */
static void tfb__kv_push(tfb_kv_layer *l, char *page) {
    memcpy((void *)page, (const void *)&l->spare, sizeof l->spare);
    l->spare = page;
}

static char *tfb__kv_below(const char *page) {
    char *next;
    memcpy((void *)&next, (const void *)page, sizeof next);
    return next;
}

static char *tfb__kv_pop(tfb_kv_layer *l) {
    char *page = l->spare;
    l->spare = tfb__kv_below(page);
    return page;
}

static void tfb__kv_push_all(tfb_kv_layer *l, tfb_kv_row *r) {
    tfb_idx i;
    for (i = 0; i < l->pages; i++) {
        if (r->pages[i]) tfb__kv_push(l, r->pages[i]);
        r->pages[i] = NULL;
    }
}

/* How many pages a sample has. */
static tfb_idx tfb__kv_owned(const tfb_kv_layer *l, const tfb_kv_row *r) {
    tfb_idx owned = 0, i;
    for (i = 0; i < l->pages; i++) owned += r->pages[i] != NULL;
    return owned;
}

/* Pages begin where cache lines do; before them stands what is to be given back. */
static char *tfb__kv_page_new(const tfb_kv *kv, tfb_idx bytes) {
    char *raw = (char *)kv->alloc(kv->alloc_user, NULL, (size_t)bytes + 64), *page;
    if (!raw) return NULL;
    page = raw + 64 - (uintptr_t)raw % 64;
    memcpy(page - sizeof raw, &raw, sizeof raw);
    memset(page, 0, (size_t)bytes);
    return page;
}

static void tfb__kv_page_free(const tfb_kv *kv, char *page) {
    char *raw;
    memcpy(&raw, page - sizeof raw, sizeof raw);
    kv->alloc(kv->alloc_user, raw, 0);
}

/* Gives back what the copy of a layer has allocated. */
static void tfb__kv_abandon(const tfb_kv *kv, const tfb_kv_layer *was,
                            tfb_kv_layer *next) {
    if (!TFB__HAS(KV_DYNAMIC)) return;
    for (; next->added; next->added--) tfb__kv_page_free(kv, tfb__kv_pop(next));
    if (next->row != was->row) kv->alloc(kv->alloc_user, next->row, 0);
    next->row = was->row;
}

/* Makes the spare list at least `need` pages long. A static cache has enough always. */
static tfb_status tfb__kv_reserve(tfb_ctx *ctx, const char *fn, const tfb_kv *kv,
                                  tfb_kv_layer *l, tfb_idx need) {
    char *page = l->spare;
    size_t bytes;
    if (!TFB__HAS(KV_DYNAMIC)) return TFB_OK;
    for (; page && need > 0; need--) page = tfb__kv_below(page);
    bytes = tfb__size_mul((size_t)TFB__MAX(0, need), (size_t)l->page_bytes);
    TFB__REQUIRE(bytes < (size_t)-1 / 2, ctx, TFB_ERR_RANGE, "%s: the size overflows",
                 fn);
    if (need > 1024) { /* what is not to be had at all should not be tried in pieces */
        page = (char *)kv->alloc(kv->alloc_user, NULL, bytes);
        TFB__REQUIRE(page, ctx, TFB_ERR_MEMORY, "%s: %d bytes are not to be had", fn,
                     (tfb_idx)bytes);
        kv->alloc(kv->alloc_user, page, 0);
    }
    for (; need > 0; need--) {
        page = tfb__kv_page_new(kv, l->page_bytes);
        TFB__REQUIRE(page, ctx, TFB_ERR_MEMORY, "%s: %d bytes are not to be had", fn,
                     l->page_bytes + 64);
        tfb__kv_push(l, page);
        l->added++;
    }
    return TFB_OK;
}

/* The oldest number whose page must stay where it can be found. */
static tfb_idx tfb__kv_oldest(const tfb_kv *kv, const tfb_kv_layer *l,
                              const tfb_kv_row *r) {
    if (tfb__kv_window(&l->shape)) return r->lost;
    return TFB__OPT(KV_MARKS, kv->marked) ? TFB__MIN(r->first, r->mark_first) : r->first;
}

/* How many pages a sample needs a place for if it is to hold up to `end`. */
static tfb_idx tfb__kv_pages_for(const tfb_kv *kv, const tfb_kv_layer *l, tfb_idx oldest,
                                 tfb_idx end) {
    const tfb_idx pins = tfb__kv_pins(l), most = tfb__kv_pages_most(kv, l);
    const tfb_idx q = TFB__MAX(oldest / l->page, pins);
    const tfb_idx need = pins + TFB__MAX(1, (end + l->page - 1) / l->page - q);
    return most ? TFB__MIN(need, most) : need;
}

/* Gives every sample's pages their places in a wider table of pages. */
static void tfb__kv_rehouse(const tfb_kv *kv, const tfb_kv_layer *was,
                            tfb_kv_layer *next) {
    const tfb_idx pins = tfb__kv_pins(was);
    tfb_idx i, q, slot;
    for (i = 0; i < was->rows; i++) {
        tfb_kv_row *r = next->row + i, old = was->row[i];
        char **to = r->pages;
        *r = old;
        r->pages = to;
        for (q = tfb__kv_oldest(kv, was, &old) / was->page; q * was->page < old.end;
             q++) {
            if (q < pins) continue;
            slot = tfb__kv_slot(was, q);
            to[tfb__kv_slot(next, q)] = old.pages[slot];
        }
        for (slot = 0; slot < pins && slot < was->pages; slot++)
            to[slot] = old.pages[slot];
        for (slot = pins; slot < was->pages; slot++) { /* pages without kept rows */
            for (q = pins; q < next->pages && to[q] != old.pages[slot]; q++) {}
            if (q == next->pages && old.pages[slot]) tfb__kv_push(next, old.pages[slot]);
        }
    }
}

/* Memory for so many samples and places for so many pages of each. */
static tfb_status tfb__kv_widen(tfb_ctx *ctx, const char *fn, const tfb_kv *kv,
                                const tfb_kv_layer *was, tfb_kv_layer *next, tfb_idx rows,
                                tfb_idx pages) {
    const tfb_idx most = tfb__kv_pages_most(kv, was);
    size_t bytes;
    tfb_idx i;
    if (!TFB__HAS(KV_DYNAMIC) || (rows <= was->rows && pages <= was->pages))
        return TFB_OK;
    if (pages > was->pages) pages = TFB__MAX(pages, 2 * was->pages);
    pages = TFB__MAX(pages, was->pages);
    next->pages = most ? TFB__MIN(pages, most) : pages;
    next->rows = TFB__MAX(rows, was->rows);
    bytes = tfb__size_mul((size_t)next->pages, sizeof(char *));
    bytes = tfb__size_mul((size_t)next->rows, tfb__size_add(bytes, sizeof *next->row));
    TFB__REQUIRE(bytes < (size_t)-1 / 2, ctx, TFB_ERR_RANGE, "%s: the size overflows",
                 fn);
    next->row = (tfb_kv_row *)kv->alloc(kv->alloc_user, NULL, bytes);
    if (!next->row) next->row = was->row; /* nothing to give back */
    TFB__REQUIRE(next->row != was->row, ctx, TFB_ERR_MEMORY,
                 "%s: %d bytes are not to be had", fn, (tfb_idx)bytes);
    memset((void *)next->row, 0, bytes);
    for (i = 0; i < next->rows; i++)
        next->row[i].pages = (char **)(void *)(next->row + next->rows) + i * next->pages;
    return TFB_OK;
}

/* The copy becomes the layer. */
static void tfb__kv_settle(const tfb_kv *kv, tfb_kv_layer *l, tfb_kv_layer *next) {
    if (TFB__HAS(KV_DYNAMIC) && l->row != next->row) tfb__kv_rehouse(kv, l, next);
    if (TFB__HAS(KV_DYNAMIC) && l->row && l->row != next->row)
        kv->alloc(kv->alloc_user, l->row, 0);
    next->added = 0;
    *l = *next;
}

/* Pages of a sample that hold something, and (if to) copies of them in its places. */
static tfb_idx tfb__kv_copy_pages(tfb_kv_layer *l, const tfb_kv_row *r, tfb_kv_row *to) {
    const tfb_idx pins = tfb__kv_pins(l), begin = TFB__MAX(r->first, r->lost);
    const tfb_idx last = (r->end + l->page - 1) / l->page;
    tfb_idx q = begin < r->end ? TFB__MAX(begin / l->page, pins) : last, n = 0, i;
    q = TFB__MAX(q, last - (l->pages - pins)); /* two numbers may share a place */
    for (i = 0; i < TFB__MIN(pins, last) + TFB__MAX(0, last - q); i++) {
        const tfb_idx slot = tfb__kv_slot(l, i < pins ? i : q + i - pins);
        n++;
        if (!to) continue;
        if (!to->pages[slot]) to->pages[slot] = tfb__kv_pop(l);
        memcpy(to->pages[slot], r->pages[slot], (size_t)l->page_bytes);
    }
    return n;
}

/* --- Making caches. --- */
static tfb_kv_shape tfb__kv_shape_of(const tfb_kv_opts *o, int layer) {
    return o->shapes ? o->shapes[layer] : o->shape;
}

/* NULL, or what is wrong with a layer's shape. */
static const char *tfb__kv_bad_shape(const tfb_kv_shape *s, int is_static) {
    const tfb_idx far = PTRDIFF_MAX / 8;
    if (s->window < 0 || s->window > far) return "window";
    if (s->pinned < 0 || s->pinned > far || (s->pinned && !s->window)) return "pinned";
    if (s->chunk < 0 || s->chunk > far || (s->chunk && !s->window)) return "chunk";
    if (!is_static) return NULL;
    if (s->batch < 1) return "batch";
    if (s->kv_heads < 1) return "kv_heads";
    if (s->head_dim < 1) return "head_dim";
    if (s->v_dim < 0) return "v_dim";
    return tfb__kv_window(s) || (s->max_tokens > 0 && s->max_tokens < far) ? NULL
                                                                           : "max_tokens";
}

/* Everything of opts but sizes in bytes. */
static tfb_status tfb__kv_check_opts(tfb_ctx *ctx, const char *fn, const tfb_kv_opts *o,
                                     int is_static) {
    int i;
    TFB__REQUIRE(o, ctx, TFB_ERR_ARG, "%s: opts is NULL", fn);
    TFB__REQUIRE(TFB__HAS(KV_PLACES) || !(o->ragged || o->once), ctx, TFB_ERR_UNSUPPORTED,
                 "%s: ragged and once are left out by TFB_NO_KV_PLACES", fn);
    TFB__REQUIRE(o->layers > 0, ctx, TFB_ERR_RANGE, "%s: layers is %d", fn,
                 (tfb_idx)o->layers);
    TFB__REQUIRE((unsigned)o->dtype <= (TFB__HAS(HALF) ? TFB_BF16 : TFB_F32), ctx,
                 TFB_ERR_DTYPE, "%s: dtype is %d, must be F32, F16 or BF16", fn,
                 (tfb_idx)(int)o->dtype);
    for (i = 0; i < o->layers; i++) {
        const tfb_kv_shape s = tfb__kv_shape_of(o, i);
        const char *bad = tfb__kv_bad_shape(&s, is_static);
        TFB__REQUIRE(TFB__HAS(KV_RINGS) || !s.window, ctx, TFB_ERR_UNSUPPORTED,
                     "%s: a window is left out by TFB_NO_KV_RINGS", fn);
        TFB__REQUIRE(!bad, ctx, TFB_ERR_RANGE, "%s: %s of layer %d is out of range", fn,
                     bad, (tfb_idx)i);
        if (!o->shapes) break; /* the others are the same */
    }
    return TFB_OK;
}

/* A layer nobody has touched; a static one with the sizes it will have. */
static tfb_kv_layer tfb__kv_layer_new(const tfb_kv_opts *o, int number, int is_static) {
    const tfb_kv_shape s = tfb__kv_shape_of(o, number);
    tfb_kv_layer l;
    memset((void *)&l, 0, sizeof l);
    l.page = TFB__KV_PAGE;
    l.shape.window = tfb__kv_window(&s);
    l.shape.pinned = tfb__kv_pinned(&s);
    l.shape.chunk = s.chunk;
    if (!is_static) return l;
    l.shape = s;
    l.shape.v_dim = tfb__kv_v_dim(&s);
    l.shape.batch = 0;
    l.rows = s.batch;
    l.pages = 1;
    if (tfb__kv_window(&s))
        l.pages = (tfb_idx)TFB__KV_RING(tfb__kv_window(&s), tfb__kv_pinned(&s), s.chunk);
    else l.page = (tfb_idx)TFB__ROUND(s.max_tokens, 16);
    l.page_bytes = (tfb_idx)tfb__kv_page_bytes(&s, l.page, o->dtype);
    return l;
}

/* Bytes of a static cache before its pages and, in *all, of all of it. */
static size_t tfb__kv_static_bytes(const tfb_kv_opts *o, size_t *all) {
    size_t states = tfb__size_mul((size_t)o->layers, sizeof(tfb_kv_layer)), pages = 0;
    int i;
    for (i = 0; i < o->layers; i++) {
        const tfb_kv_layer l = tfb__kv_layer_new(o, i, 1);
        const size_t n = tfb__size_mul((size_t)l.rows, (size_t)l.pages);
        states = tfb__size_add(states, tfb__size_mul((size_t)l.rows, sizeof *l.row));
        states = tfb__size_add(states, tfb__size_mul(n, sizeof *l.row->pages));
        pages = tfb__size_add(
            pages, tfb__size_mul(n, tfb__kv_page_bytes(&l.shape, l.page, o->dtype)));
    }
    states = tfb__round64(states);
    *all = tfb__size_add(states, pages);
    return states;
}

TFB_API size_t tfb_kv_bytes(const tfb_kv_opts *opts) {
    tfb_ctx ctx; /* for the message nobody reads */
    size_t all;
    if (tfb__kv_check_opts(&ctx, "", opts, 1) != TFB_OK) return 0;
    tfb__kv_static_bytes(opts, &all);
    return all < (size_t)-1 / 2 ? all : 0;
}

static void tfb__kv_begin(tfb_kv *kv, const tfb_kv_opts *o) {
    memset((void *)kv, 0, sizeof *kv);
    kv->layers = o->layers;
    kv->dtype = o->dtype;
    kv->ragged = o->ragged != 0;
    kv->once = o->once != 0;
}

TFB_API tfb_status tfb_kv_init_static(tfb_ctx *ctx, tfb_kv *kv, const tfb_kv_opts *opts,
                                      void *mem, size_t mem_bytes) {
    const char *fn = "tfb_kv_init_static";
    size_t need;
    char *page, *state = (char *)mem;
    int i;
    TFB__ENTER(ctx);
    TFB__REQUIRE(kv && mem, ctx, TFB_ERR_ARG, "%s: %s is NULL", fn, kv ? "mem" : "kv");
    TFB__TRY(tfb__kv_check_opts(ctx, fn, opts, 1));
    page = (char *)mem + tfb__kv_static_bytes(opts, &need);
    TFB__REQUIRE(need < (size_t)-1 / 2, ctx, TFB_ERR_RANGE, "%s: the size overflows", fn);
    TFB__REQUIRE((uintptr_t)mem % 8 == 0, ctx, TFB_ERR_ARG, "%s: mem is not aligned to 8",
                 fn);
    TFB__REQUIRE(mem_bytes >= need, ctx, TFB_ERR_RANGE, "%s: mem_bytes is %d, needs %d",
                 fn, (tfb_idx)mem_bytes, (tfb_idx)need);
    memset(mem, 0, need);
    tfb__kv_begin(kv, opts);
    kv->is_static = 1;
    kv->mem = mem;
    kv->mem_bytes = need;
    kv->layer = (tfb_kv_layer *)mem;
    state += (size_t)opts->layers * sizeof *kv->layer;
    for (i = 0; i < opts->layers; i++) {
        tfb_kv_layer *l = kv->layer + i;
        tfb_idx n;
        *l = tfb__kv_layer_new(opts, i, 1);
        l->row = (tfb_kv_row *)(void *)state;
        state += (size_t)l->rows * sizeof *l->row;
        for (n = 0; n < l->rows; n++) {
            l->row[n].pages = (char **)(void *)state;
            state += (size_t)l->pages * sizeof(char *);
        }
        for (n = l->rows * l->pages; n > 0; n--) /* the first comes off first */
            tfb__kv_push(l, page + (n - 1) * l->page_bytes);
        page += l->rows * l->pages * l->page_bytes;
    }
    return TFB_OK;
}

#ifndef TFB_NO_KV_DYNAMIC
TFB_API tfb_status tfb_kv_init(tfb_ctx *ctx, tfb_kv *kv, const tfb_kv_opts *opts) {
    const char *fn = "tfb_kv_init";
    tfb_kv_layer *layer;
    size_t bytes;
    int i;
    TFB__ENTER(ctx);
    TFB__REQUIRE(kv, ctx, TFB_ERR_ARG, "%s: kv is NULL", fn);
    TFB__TRY(tfb__kv_check_opts(ctx, fn, opts, 0));
    bytes = tfb__size_mul((size_t)opts->layers, sizeof *layer);
    TFB__REQUIRE(bytes < (size_t)-1 / 2, ctx, TFB_ERR_RANGE, "%s: the size overflows",
                 fn);
    TFB__REQUIRE(ctx->alloc, ctx, TFB_ERR_MEMORY, "%s: ctx.alloc is NULL", fn);
    layer = (tfb_kv_layer *)ctx->alloc(ctx->alloc_user, NULL, bytes);
    TFB__REQUIRE(layer, ctx, TFB_ERR_MEMORY, "%s: %d bytes are not to be had", fn,
                 (tfb_idx)bytes);
    for (i = 0; i < opts->layers; i++) layer[i] = tfb__kv_layer_new(opts, i, 0);
    tfb__kv_begin(kv, opts);
    kv->layer = layer;
    kv->alloc = ctx->alloc;
    kv->alloc_user = ctx->alloc_user;
    return TFB_OK;
}
#endif

/* A layer as if nobody had touched it. */
static void tfb__kv_untouch(const tfb_kv *kv, tfb_kv_layer *l) {
    tfb_idx i;
    for (i = 0; i < l->rows; i++) {
        char **pages = l->row[i].pages;
        tfb__kv_push_all(l, l->row + i);
        memset((void *)(l->row + i), 0, sizeof *l->row);
        l->row[i].pages = pages;
    }
    l->touched = 0;
    l->shape.batch = 0;
    if (tfb__kv_is_static(kv)) return;
    while (l->spare) tfb__kv_page_free(kv, tfb__kv_pop(l));
    if (l->row) kv->alloc(kv->alloc_user, l->row, 0);
    l->row = NULL;
    l->shape.kv_heads = l->shape.head_dim = l->shape.v_dim = 0;
    l->rows = l->pages = l->page_bytes = 0;
}

TFB_API void tfb_kv_free(tfb_kv *kv) {
    int i;
    if (!kv) return;
    for (i = 0; !tfb__kv_is_static(kv) && i < kv->layers; i++)
        tfb__kv_untouch(kv, kv->layer + i);
    if (!tfb__kv_is_static(kv) && kv->alloc) kv->alloc(kv->alloc_user, kv->layer, 0);
    memset((void *)kv, 0, sizeof *kv);
}

TFB_API void tfb_kv_reset(tfb_kv *kv) {
    int i;
    for (i = 0; kv && i < kv->layers; i++) {
        tfb_kv_layer *l = kv->layer + i;
        tfb_idx b;
        for (b = 0; b < l->rows; b++)
            l->row[b].first = l->row[b].end = l->row[b].lost = 0;
    }
    if (kv) kv->marked = 0;
}

/* --- Looking. --- */
static const tfb_kv_row *tfb__kv_row_of(const tfb_kv *kv, int layer, tfb_idx b) {
    if (!kv || layer < 0 || layer >= kv->layers) return NULL;
    if (b < 0 || b >= kv->layer[layer].shape.batch) return NULL;
    return kv->layer[layer].row + b;
}

TFB_API tfb_idx tfb_kv_length_of(const tfb_kv *kv, int layer, tfb_idx b) {
    const tfb_kv_row *r = tfb__kv_row_of(kv, layer, b);
    return r ? tfb__kv_len(kv->layer + layer, r) : 0;
}

TFB_API tfb_idx tfb_kv_length(const tfb_kv *kv, int layer) {
    tfb_idx length = 0, b;
    for (b = 0; b < tfb_kv_batch(kv, layer); b++)
        length = TFB__MAX(length, tfb_kv_length_of(kv, layer, b));
    return length;
}

TFB_API tfb_idx tfb_kv_base(const tfb_kv *kv, int layer, tfb_idx b) {
    const tfb_kv_row *r = tfb__kv_row_of(kv, layer, b);
    return r ? tfb__kv_from(&kv->layer[layer].shape, r->first, r->end) : 0;
}

TFB_API tfb_idx tfb_kv_end(const tfb_kv *kv, int layer, tfb_idx b) {
    const tfb_kv_row *r = tfb__kv_row_of(kv, layer, b);
    return r ? r->end : 0;
}

TFB_API tfb_idx tfb_kv_batch(const tfb_kv *kv, int layer) {
    return kv && layer >= 0 && layer < kv->layers ? kv->layer[layer].shape.batch : 0;
}

TFB_API tfb_idx tfb_kv_capacity(const tfb_kv *kv, int layer) {
    const tfb_kv_layer *l;
    tfb_idx least = PTRDIFF_MAX, b;
    if (!kv || layer < 0 || layer >= kv->layers) return 0;
    l = kv->layer + layer;
    if (tfb__kv_window(&l->shape))
        return tfb__kv_window(&l->shape) + tfb__kv_pinned(&l->shape);
    if (tfb__kv_is_static(kv)) return l->shape.max_tokens;
    for (b = 0; b < l->shape.batch; b++)
        least = TFB__MIN(least, tfb__kv_owned(l, l->row + b) * l->page);
    return l->touched ? least : 0;
}

static tfb_status tfb__kv_check(tfb_ctx *ctx, const char *fn, const tfb_kv *kv) {
    TFB__REQUIRE(kv && kv->layer, ctx, TFB_ERR_ARG, "%s: kv is %s", fn,
                 kv ? "not initialised" : "NULL");
    return TFB_OK;
}

static tfb_status tfb__kv_check_layer(tfb_ctx *ctx, const char *fn, const tfb_kv *kv,
                                      int layer) {
    TFB__TRY(tfb__kv_check(ctx, fn, kv));
    TFB__REQUIRE(layer >= 0 && layer < kv->layers, ctx, TFB_ERR_RANGE,
                 "%s: layer is %d, kv has %d", fn, (tfb_idx)layer, (tfb_idx)kv->layers);
    return TFB_OK;
}

/* A static cache's memory is known to the caller, who might hand in parts of it. */
static tfb_status tfb__kv_check_alias(tfb_ctx *ctx, const char *fn, const char *name,
                                      const tfb_kv *kv, const tfb_tensor *t) {
    tfb_tensor all = tfb_view1(kv->mem, TFB_U8, (tfb_idx)kv->mem_bytes);
    return tfb__check_alias(ctx, fn, "the cache", &all, name, t, 0);
}

/* Elements of a stored row, `step` apart, to or from a tensor's row. */
static void tfb__kv_load_row(tfb_dtype dtype, const char *from, tfb_idx step, tfb_idx n,
                             const tfb_tensor *to, tfb_idx at) {
    const tfb_idx size = (tfb_idx)tfb_dtype_size(to->dtype);
    char *y = (char *)to->data + at * size;
    tfb__source source;
    tfb_idx d;
    memset((void *)&source, 0, sizeof source);
    source.x = from;
    source.dtype = dtype;
    source.little = 1;
    for (d = 0; d < n; d++)
        tfb__set(to->dtype, y + d * to->stride[3] * size,
                 from ? tfb__source_at(&source, d * step) : 0.0f);
}

static void tfb__kv_store_row(tfb_dtype dtype, char *to, tfb_idx step, tfb_idx n,
                              const tfb_tensor *from, tfb_idx at) {
    const tfb_idx size = (tfb_idx)tfb_dtype_size(dtype);
    const tfb_idx xs = (tfb_idx)tfb_dtype_size(from->dtype), ds = from->stride[3] * xs;
    const char *x = (const char *)from->data + at * xs;
    tfb_idx d;
    if (from->dtype == dtype && step == 1 && ds == xs && !TFB__BIG_ENDIAN) {
        memcpy(to, x, (size_t)(n * size));
        return;
    }
    for (d = 0; d < n; d++) {
        const float value = TFB__HAS(HALF) ? tfb__get(from->dtype, dtype, x + d * ds)
                                           : *(const float *)(const void *)(x + d * ds);
        char *y = to + d * step * size;
        if (dtype == TFB_F32 || !TFB__HAS(HALF)) tfb__store_le((float *)(void *)y, value);
        else {
            uint16_t h = dtype == TFB_F16 ? tfb__f16_of(value) : tfb__bf16_of(value);
            if (TFB__BIG_ENDIAN) h = (uint16_t)(h << 8 | h >> 8);
            memcpy(y, &h, 2);
        }
    }
}

/* What tfb_kv_get fills: NULL, without data (gets a shape), or the caller's. */
static tfb_status tfb__kv_check_get(tfb_ctx *ctx, const char *name, const tfb_kv *kv,
                                    const tfb_kv_layer *l, tfb_idx length, tfb_idx dim,
                                    tfb_tensor *t, int *fill) {
    const char *fn = "tfb_kv_get";
    const tfb_tensor want =
        tfb_view4(NULL, kv->dtype, l->shape.batch, l->shape.kv_heads, length, dim);
    *fill = 0;
    if (!t || !t->data) return TFB_OK;
    TFB__TRY(tfb__check(ctx, fn, name, t, TFB__FLOATS, 4, 4));
    TFB__REQUIRE(l->touched, ctx, TFB_ERR_ARG, "%s: the layer holds nothing yet", fn);
    TFB__TRY(tfb__check_like(ctx, fn, name, t, &want, 4));
    TFB__TRY(tfb__check_out(ctx, fn, name, t));
    TFB__TRY(tfb__kv_check_alias(ctx, fn, name, kv, t));
    *fill = !ctx->measuring;
    return TFB_OK;
}

TFB_API tfb_status tfb_kv_get(tfb_ctx *ctx, const tfb_kv *kv, int layer, tfb_tensor *key,
                              tfb_tensor *value) {
    const tfb_kv_layer *l;
    tfb_idx length, Dv, b, g, i;
    int fill[2];
    TFB__ENTER(ctx);
    TFB__TRY(tfb__kv_check_layer(ctx, "tfb_kv_get", kv, layer));
    l = kv->layer + layer;
    Dv = l->shape.v_dim;
    length = tfb_kv_length(kv, layer);
    TFB__TRY(tfb__kv_check_get(ctx, "key", kv, l, length, l->shape.head_dim, key, fill));
    TFB__TRY(tfb__kv_check_get(ctx, "value", kv, l, length, Dv, value, fill + 1));
    if (fill[0] && fill[1])
        TFB__TRY(tfb__check_alias(ctx, "tfb_kv_get", "key", key, "value", value, 0));
    for (i = 0; i < 2; i++) {
        tfb_tensor *t = i ? value : key;
        if (!t || t->data) continue;
        *t = tfb_view4(NULL, kv->dtype, l->shape.batch, l->shape.kv_heads, length,
                       i ? Dv : l->shape.head_dim);
        if (!l->touched) memset((void *)t, 0, sizeof *t);
    }
    for (b = 0; (fill[0] || fill[1]) && b < l->shape.batch; b++)
        for (g = 0; g < l->shape.kv_heads; g++)
            for (i = 0; i < length; i++) {
                const tfb_kv_row *r = l->row + b;
                char *k = NULL, *v = NULL;
                if (i < tfb__kv_len(l, r))
                    tfb__kv_find(kv, l, r, g, tfb__kv_number(l, r, i), &k, &v);
                if (fill[0])
                    tfb__kv_load_row(kv->dtype, k, TFB__PANEL, l->shape.head_dim, key,
                                     tfb__at4(key, b, g, i, 0));
                if (fill[1])
                    tfb__kv_load_row(kv->dtype, v, 1, Dv, value,
                                     tfb__at4(value, b, g, i, 0));
            }
    return TFB_OK;
}

TFB_API tfb_status tfb_kv_positions(tfb_ctx *ctx, const tfb_kv *kv, int layer,
                                    tfb_tensor *positions) {
    const char *fn = "tfb_kv_positions";
    tfb_idx b, t;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__kv_check_layer(ctx, fn, kv, layer));
    TFB__TRY(tfb__check(ctx, fn, "positions", positions, TFB__MASK(TFB_I32), 2, 2));
    TFB__TRY(tfb__check_out(ctx, fn, "positions", positions));
    TFB__TRY(tfb__kv_check_alias(ctx, fn, "positions", kv, positions));
    if (kv->layer[layer].touched)
        TFB__TRY(tfb__check_extent(ctx, fn, "positions", positions, 0,
                                   kv->layer[layer].shape.batch));
    for (b = 0; b < positions->shape[0]; b++) {
        const tfb_idx end = tfb_kv_end(kv, layer, b);
        TFB__REQUIRE(end <= 0x7FFFFFFF - positions->shape[1] + 1, ctx, TFB_ERR_RANGE,
                     "%s: position %d passes 2^31", fn, end);
    }
    for (b = 0; !ctx->measuring && b < positions->shape[0]; b++)
        for (t = 0; t < positions->shape[1]; t++)
            ((int32_t *)
                 positions->data)[b * positions->stride[0] + t * positions->stride[1]] =
                (int32_t)(tfb_kv_end(kv, layer, b) + t);
    return TFB_OK;
}

/* --- Putting rows in. --- */
typedef struct tfb__kv_put {
    const tfb_kv *kv;
    const tfb_tensor *key, *value, *positions, *counts;
    tfb_idx T, end; /* end: of all samples, unless ragged */
    const tfb__kernels *isa;
} tfb__kv_put;

static tfb_idx tfb__kv_count(const tfb__kv_put *p, tfb_idx b) {
    return TFB__OPT(KV_PLACES, p->counts) ? tfb__i32_at(TFB__OPT(KV_PLACES, p->counts), b)
                                          : p->T;
}

/* A sample's state; one there is no memory for yet has no rows. */
static tfb_kv_row tfb__kv_state(const tfb_kv_layer *l, tfb_idx b) {
    tfb_kv_row none;
    if (!TFB__HAS(KV_DYNAMIC)) return l->row[b];
    memset((void *)&none, 0, sizeof none);
    return b < l->rows ? l->row[b] : none;
}

/* The row index that is asked for token t of sample b. */
static tfb_idx tfb__kv_position(const tfb__kv_put *p, tfb_idx b, tfb_idx t) {
    const tfb_tensor *x = TFB__OPT(KV_PLACES, p->positions);
    const int32_t *from = (const int32_t *)x->data;
    if (x->ndim == 2) from += b * x->stride[0];
    return x->ndim ? from[t * x->stride[x->ndim - 1]] : from[0];
}

/* The number token t of sample b will have. */
static tfb_idx tfb__kv_target(const tfb__kv_put *p, const tfb_kv_layer *l, tfb_idx b,
                              tfb_idx t) {
    const tfb_kv_row r = tfb__kv_state(l, b);
    if (!TFB__OPT(KV_PLACES, p->positions)) return r.end + t;
    return tfb__kv_position(p, b, t) + (tfb__kv_window(&l->shape) ? 0 : r.first);
}

/* Where sample b will end. */
static tfb_idx tfb__kv_end(const tfb__kv_put *p, const tfb_kv_layer *l, tfb_idx b) {
    tfb_idx end = tfb__kv_state(l, b).end, t;
    if (!TFB__HAS(KV_PLACES) || (!p->kv->ragged && p->end)) return p->end;
    if (!TFB__OPT(KV_PLACES, p->positions)) return end + tfb__kv_count(p, b);
    for (t = 0; t < tfb__kv_count(p, b); t++)
        end = TFB__MAX(end, tfb__kv_target(p, l, b, t) + 1);
    return end;
}

/* Numbers below this one have been overwritten once the sample ends at `end`. */
static tfb_idx tfb__kv_lost(const tfb_kv *kv, const tfb_kv_layer *l, const tfb_kv_row *r,
                            tfb_idx end) {
    if (!tfb__kv_window(&l->shape)) return 0;
    return TFB__MAX(r->lost, end - tfb__kv_room(kv, l));
}

static tfb_status tfb__kv_check_rows(tfb_ctx *ctx, const char *fn, const tfb_kv *kv,
                                     const tfb_kv_layer *l, const tfb_tensor *key,
                                     const tfb_tensor *value) {
    const tfb_kv_shape *s = &l->shape;
    TFB__TRY(tfb__check(ctx, fn, "key", key, TFB__FLOATS, 4, 4));
    TFB__TRY(tfb__check(ctx, fn, "value", value, TFB__FLOATS, 4, 4));
    TFB__TRY(tfb__check_like(ctx, fn, "value", value, key, 3));
    TFB__REQUIRE(key->shape[0] > 0 && key->shape[1] > 0 && key->shape[3] > 0 &&
                     value->shape[3] > 0,
                 ctx, TFB_ERR_SHAPE, "%s: key or value has an empty extent", fn);
    if (l->touched) TFB__TRY(tfb__check_extent(ctx, fn, "key", key, 0, s->batch));
    TFB__REQUIRE(!tfb__kv_is_static(kv) || key->shape[0] <= l->rows, ctx, TFB_ERR_SHAPE,
                 "%s: key.shape[0] is %d, the cache is made for %d", fn, key->shape[0],
                 l->rows);
    if (!s->kv_heads) return TFB_OK;
    TFB__TRY(tfb__check_extent(ctx, fn, "key", key, 1, s->kv_heads));
    TFB__TRY(tfb__check_extent(ctx, fn, "key", key, 3, s->head_dim));
    return tfb__check_extent(ctx, fn, "value", value, 3, s->v_dim);
}

/* Shapes of positions and counts; of counts the contents too. */
static tfb_status tfb__kv_check_where(tfb_ctx *ctx, const char *fn, tfb__kv_put *p,
                                      tfb_idx batch) {
    const int i32 = TFB__MASK(TFB_I32);
    const tfb_tensor *x = TFB__OPT(KV_PLACES, p->positions);
    tfb_idx b;
    TFB__REQUIRE(!TFB__OPT(KV_PLACES, p->counts) || TFB__OPT(KV_PLACES, p->kv->ragged),
                 ctx, TFB_ERR_ARG, "%s: counts go with ragged caches", fn);
    TFB__TRY(
        tfb__check_vector(ctx, fn, "counts", TFB__OPT(KV_PLACES, p->counts), i32, batch));
    for (b = 0; TFB__OPT(KV_PLACES, p->counts) && !ctx->measuring && b < batch; b++)
        TFB__REQUIRE(tfb__kv_count(p, b) >= 0 && tfb__kv_count(p, b) <= p->T, ctx,
                     TFB_ERR_RANGE, "%s: counts[%d] is %d, there are %d rows", fn, b,
                     tfb__kv_count(p, b), p->T);
    if (!x) return TFB_OK;
    TFB__TRY(tfb__check(ctx, fn, "positions", x, i32, 0, 2));
    TFB__REQUIRE(x->ndim || p->T == 1, ctx, TFB_ERR_SHAPE, "%s: one position for %d rows",
                 fn, p->T);
    if (x->ndim) TFB__TRY(tfb__check_extent(ctx, fn, "positions", x, x->ndim - 1, p->T));
    if (x->ndim == 2) TFB__TRY(tfb__check_extent(ctx, fn, "positions", x, 0, batch));
    return TFB_OK;
}

/* May every row go where it is to go? Finds p->end as well. */
static tfb_status tfb__kv_check_targets(tfb_ctx *ctx, const char *fn, tfb__kv_put *p,
                                        const tfb_kv_layer *l) {
    const tfb_idx far = PTRDIFF_MAX / 8;
    tfb_idx b, t, all = 0;
    if (!TFB__HAS(KV_PLACES)) { /* all samples are equally long */
        all = tfb__kv_state(l, 0).end;
        TFB__REQUIRE(p->T < far - all, ctx, TFB_ERR_RANGE, "%s: %d rows overflow", fn,
                     p->T);
        p->end = all + p->T;
        return TFB_OK;
    }
    for (b = 0; b < l->shape.batch; b++) {
        const tfb_kv_row r = tfb__kv_state(l, b);
        const tfb_idx from = tfb__kv_from(&l->shape, r.first, r.end);
        for (t = 0; TFB__OPT(KV_PLACES, p->positions) && t < tfb__kv_count(p, b); t++) {
            const tfb_idx at = tfb__kv_position(p, b, t);
            const tfb_idx n = tfb__kv_target(p, l, b, t);
            TFB__REQUIRE(at >= 0, ctx, TFB_ERR_RANGE,
                         "%s: position %d of sample %d is %d", fn, t, b, at);
            TFB__REQUIRE(n < tfb__kv_pinned(&l->shape) || n >= TFB__MIN(from, r.end), ctx,
                         TFB_ERR_RANGE,
                         "%s: position %d of sample %d is %d, the ring begins at %d", fn,
                         t, b, at, from);
            TFB__REQUIRE(
                !TFB__OPT(KV_MARKS, p->kv->marked) || n >= r.mark_end, ctx, TFB_ERR_RANGE,
                "%s: position %d of sample %d is %d, before the mark", fn, t, b, at);
        }
        TFB__REQUIRE(p->T < far - r.end, ctx, TFB_ERR_RANGE, "%s: %d rows overflow", fn,
                     p->T);
        all = TFB__MAX(all, tfb__kv_end(p, l, b));
    }
    if (!TFB__OPT(KV_PLACES, p->kv->ragged)) p->end = all;
    return TFB_OK;
}

/* Is there room, whatever memory may be had? */
static tfb_status tfb__kv_check_room(tfb_ctx *ctx, const char *fn, const tfb__kv_put *p,
                                     const tfb_kv_layer *l, int layer) {
    const tfb_kv_shape *s = &l->shape;
    const tfb_idx samples = TFB__HAS(KV_PLACES) ? s->batch : 1; /* or all are alike */
    tfb_idx b;
    for (b = 0; b < samples; b++) {
        const tfb_kv_row r = tfb__kv_state(l, b);
        const tfb_idx end = tfb__kv_end(p, l, b), room = tfb__kv_room(p->kv, l);
        const tfb_idx keep = tfb__kv_from(s, r.mark_first, r.mark_end);
        const tfb_idx oldest = tfb__kv_oldest(p->kv, l, &r);
        TFB__REQUIRE(!tfb__kv_is_static(p->kv) || tfb__kv_window(s) ||
                         end - oldest <= s->max_tokens,
                     ctx, TFB_ERR_FULL,
                     "%s: layer %d holds %d of %d rows, %d more do not fit", fn,
                     (tfb_idx)layer, r.end - oldest, s->max_tokens, end - r.end);
        TFB__REQUIRE(!TFB__OPT(KV_MARKS, p->kv->marked) || end - room <= keep, ctx,
                     TFB_ERR_FULL, "%s: layer %d has room for %d rows since the mark", fn,
                     (tfb_idx)layer, keep + room - r.mark_end);
    }
    return TFB_OK;
}

/* Pages that sample b lacks for rows up to `end`. */
static tfb_idx tfb__kv_lack(const tfb_kv *kv, const tfb_kv_layer *l, tfb_idx b,
                            tfb_idx end) {
    const tfb_kv_row r = tfb__kv_state(l, b);
    const tfb_idx pins = tfb__kv_pins(l), most = tfb__kv_pages_most(kv, l);
    const tfb_idx stop = (end + l->page - 1) / l->page;
    const tfb_idx oldest = tfb__kv_oldest(kv, l, &r) / l->page;
    tfb_idx lack = 0, q = r.end / l->page;
    for (; q < TFB__MIN(pins, stop); q++) lack += !l->pages || !r.pages[q];
    if (most) q = TFB__MAX(q, stop - (most - pins));
    for (; q < stop; q++) {
        if (l->pages < most || !most) /* places are as many as there were so far */
            if (q - TFB__MAX(oldest, pins) >= l->pages - pins) return lack + stop - q;
        lack += !r.pages[tfb__kv_slot(l, q)];
    }
    return lack;
}

/* 16 rows at once where they fill panels and need no conversion. */
static tfb_idx tfb__kv_put_panel(const tfb__kv_put *p, const tfb_kv_layer *l, tfb_idx b,
                                 tfb_idx t, tfb_idx n) {
    const tfb_tensor *k = p->key, *v = p->value;
    const tfb_idx left = tfb__kv_count(p, b) - t;
    tfb_idx g, i;
    if (TFB__SMALL) return 0;
    if (TFB__OPT(KV_PLACES, p->positions) || n % TFB__PANEL || left < TFB__PANEL ||
        p->kv->dtype != TFB_F32 || k->dtype != TFB_F32)
        return 0;
    for (g = 0; g < l->shape.kv_heads; g++) {
        tfb__source from;
        char *key, *value;
        memset((void *)&from, 0, sizeof from);
        from.x = (const float *)k->data + tfb__at4(k, b, g, t, 0);
        from.lane_stride = k->stride[2];
        from.k_stride = k->stride[3];
        from.dtype = TFB_F32;
        tfb__kv_find(p->kv, l, l->row + b, g, n, &key, &value);
        TFB__KERNEL(p->isa, pack)
        (&from, l->shape.head_dim, TFB__PANEL, TFB__PANEL, (float *)(void *)key);
        for (i = 0; i < TFB__PANEL; i++)
            tfb__kv_store_row(TFB_F32, value + i * l->shape.v_dim * 4, 1, l->shape.v_dim,
                              v, tfb__at4(v, b, g, t + i, 0));
    }
    return TFB__PANEL;
}

static void tfb__kv_put_row(const tfb__kv_put *p, const tfb_kv_layer *l, tfb_idx b,
                            tfb_idx t, tfb_idx n) {
    const tfb_kv_shape *s = &l->shape;
    tfb_idx g;
    for (g = 0; g < s->kv_heads; g++) {
        char *key, *value;
        tfb__kv_find(p->kv, l, l->row + b, g, n, &key, &value);
        tfb__kv_store_row(p->kv->dtype, key, TFB__PANEL, s->head_dim, p->key,
                          tfb__at4(p->key, b, g, t, 0));
        tfb__kv_store_row(p->kv->dtype, value, 1, s->v_dim, p->value,
                          tfb__at4(p->value, b, g, t, 0));
    }
}

static void tfb__kv_zero_row(const tfb_kv *kv, const tfb_kv_layer *l, const tfb_kv_row *r,
                             tfb_idx n) {
    const tfb_idx size = (tfb_idx)tfb_dtype_size(kv->dtype);
    tfb_idx g, d;
    for (g = 0; g < l->shape.kv_heads; g++) {
        char *key, *value;
        tfb__kv_find(kv, l, r, g, n, &key, &value);
        memset(value, 0, (size_t)(l->shape.v_dim * size));
        for (d = 0; d < l->shape.head_dim; d++)
            memset(key + d * TFB__PANEL * size, 0, (size_t)size);
    }
}

/* The rows of sample b, for which there are pages. */
static void tfb__kv_put_sample(const tfb__kv_put *p, tfb_kv_layer *l, tfb_idx b) {
    tfb_kv_row *r = l->row + b;
    const tfb_idx end = tfb__kv_end(p, l, b), count = tfb__kv_count(p, b);
    const tfb_idx lost = tfb__kv_lost(p->kv, l, r, end),
                  pinned = tfb__kv_pinned(&l->shape);
    const tfb_idx was = r->end;
    tfb_idx n, t, step;
    for (n = was; n < end; n++) {
        char **page;
        if (n >= pinned) n = TFB__MAX(n, lost);
        page = r->pages + tfb__kv_slot(l, n / l->page);
        if (!*page) *page = tfb__kv_pop(l);
        if (TFB__OPT(KV_PLACES, p->positions)) tfb__kv_zero_row(p->kv, l, r, n);
        else n += l->page - 1 - n % l->page;
    }
    for (t = 0; t < count; t += step) {
        n = TFB__OPT(KV_PLACES, p->positions) ? tfb__kv_target(p, l, b, t) : was + t;
        step = TFB__OPT(KV_PLACES, p->positions)
                   ? 1
                   : lost - n; /* what is not kept is passed over */
        if (n < lost && n >= pinned) continue;
        step = tfb__kv_put_panel(p, l, b, t, n);
        if (!step) tfb__kv_put_row(p, l, b, t, n);
        step = TFB__MAX(step, 1);
    }
    r->lost = lost;
    r->end = end;
}

/* A layer's shapes, and samples without rows, are there from its first rows on. */
static tfb_status tfb__kv_touch(tfb_ctx *ctx, const char *fn, const tfb_kv *kv,
                                tfb_kv_layer *l, const tfb_kv_shape *dims) {
    tfb_kv_shape *s = &l->shape;
    size_t bytes;
    if (l->touched) return TFB_OK;
    s->batch = dims->batch;
    s->kv_heads = dims->kv_heads;
    s->head_dim = dims->head_dim;
    s->v_dim = dims->v_dim;
    l->touched = 1;
    if (tfb__kv_is_static(kv)) return TFB_OK;
    bytes = tfb__kv_page_bytes(s, l->page, kv->dtype);
    TFB__REQUIRE(bytes < (size_t)-1 / 2, ctx, TFB_ERR_RANGE, "%s: the size overflows",
                 fn);
    l->page_bytes = (tfb_idx)bytes;
    return TFB_OK;
}

/* All that can fail is done to `next`, a copy of the layer. */
static tfb_status tfb__kv_prepare(tfb_ctx *ctx, const char *fn, tfb__kv_put *p,
                                  const tfb_kv_layer *was, tfb_kv_layer *next,
                                  int layer) {
    const tfb_kv *kv = p->kv;
    tfb_kv_shape dims = next->shape;
    tfb_idx b, pages = 0, lack = 0;
    dims.batch = p->key->shape[0];
    dims.kv_heads = p->key->shape[1];
    dims.head_dim = p->key->shape[3];
    dims.v_dim = p->value->shape[3];
    TFB__TRY(tfb__kv_touch(ctx, fn, kv, next, &dims));
    TFB__TRY(tfb__kv_check_targets(ctx, fn, p, next));
    TFB__TRY(tfb__kv_check_room(ctx, fn, p, next, layer));
    for (b = 0; TFB__HAS(KV_DYNAMIC) && b < dims.batch; b++) { /* else all is there */
        const tfb_idx end = tfb__kv_end(p, next, b);
        tfb_kv_row r = tfb__kv_state(next, b);
        lack += tfb__kv_lack(kv, next, b, end);
        r.lost = tfb__kv_lost(kv, next, &r, end);
        pages = TFB__MAX(pages,
                         tfb__kv_pages_for(kv, next, tfb__kv_oldest(kv, next, &r), end));
    }
    TFB__TRY(tfb__kv_reserve(ctx, fn, kv, next, lack));
    return tfb__kv_widen(ctx, fn, kv, was, next, dims.batch, pages);
}

static tfb_status tfb__kv_update(tfb_ctx *ctx, const char *fn, tfb_kv *kv, int layer,
                                 const tfb_tensor *key, const tfb_tensor *value,
                                 const tfb_kv_update_opts *opts) {
    tfb_kv_layer next, *l;
    tfb__kv_put p;
    tfb_status status;
    tfb_idx b;
    TFB__TRY(tfb__kv_check_layer(ctx, fn, kv, layer));
    l = kv->layer + layer;
    TFB__TRY(tfb__kv_check_rows(ctx, fn, kv, l, key, value));
    memset((void *)&p, 0, sizeof p);
    p.kv = kv;
    p.key = key;
    p.value = value;
    p.positions = TFB__OPT(KV_PLACES, opts) ? opts->positions : NULL;
    p.counts = TFB__OPT(KV_PLACES, opts) ? opts->counts : NULL;
    p.T = key->shape[2];
    p.isa = ctx->isa;
    TFB__TRY(tfb__kv_check_where(ctx, fn, &p, key->shape[0]));
    TFB__TRY(tfb__kv_check_alias(ctx, fn, "key", kv, key));
    TFB__TRY(tfb__kv_check_alias(ctx, fn, "value", kv, value));
    if (TFB__HAS(KV_PLACES)) {
        TFB__TRY(tfb__kv_check_alias(ctx, fn, "positions", kv, p.positions));
        TFB__TRY(tfb__kv_check_alias(ctx, fn, "counts", kv, p.counts));
    }
    if (p.T == 0 || ctx->measuring) return TFB_OK;
    TFB__REQUIRE(!TFB__OPT(KV_PLACES, kv->once) || !tfb_kv_length(kv, layer), ctx,
                 TFB_ERR_FULL, "%s: layer %d has been filled", fn, (tfb_idx)layer);
    next = *l;
    status = tfb__kv_prepare(ctx, fn, &p, l, &next, layer);
    if (status != TFB_OK) {
        tfb__kv_abandon(kv, l, &next);
        return status;
    }
    tfb__kv_settle(kv, l, &next);
    for (b = 0; b < l->shape.batch; b++) tfb__kv_put_sample(&p, l, b);
    return TFB_OK;
}

TFB_API tfb_status tfb_kv_append(tfb_ctx *ctx, tfb_kv *kv, int layer,
                                 const tfb_tensor *key, const tfb_tensor *value) {
    TFB__ENTER(ctx);
    return tfb__kv_update(ctx, "tfb_kv_append", kv, layer, key, value, NULL);
}

#ifndef TFB_NO_KV_PLACES
TFB_API tfb_status tfb_kv_update(tfb_ctx *ctx, tfb_kv *kv, int layer,
                                 const tfb_tensor *key, const tfb_tensor *value,
                                 const tfb_kv_update_opts *opts) {
    TFB__ENTER(ctx);
    return tfb__kv_update(ctx, "tfb_kv_update", kv, layer, key, value, opts);
}
#endif

/* --- Attention. --- */
/* Options that say where keys are; the cache knows. */
static tfb_status tfb__kv_check_attention(tfb_ctx *ctx, const char *fn,
                                          const tfb_kv_shape *s,
                                          const tfb_attention_opts *o) {
    const char *bad = TFB__ATTENTION_PLAIN          ? NULL
                      : o->kv_start                 ? "kv_start"
                      : o->kv_len                   ? "kv_len"
                      : o->cu_q || o->cu_k          ? "cu_q or cu_k"
                      : o->pages || o->page_skip    ? "pages"
                      : o->key_pos0 || o->key_pos0s ? "key_pos0"
                      : o->key_pinned               ? "key_pinned"
                      : o->qk && !o->qk->keys_ready ? "qk without keys_ready"
                                                    : NULL;
    TFB__REQUIRE(!bad, ctx, TFB_ERR_ARG, "%s: the cache itself knows where keys are: %s",
                 fn, bad);
    TFB__REQUIRE(!tfb__kv_window(s) || (o->window <= tfb__kv_window(s) &&
                                        (!o->two_sided || o->left < tfb__kv_window(s))),
                 ctx, TFB_ERR_RANGE, "%s: a window of %d, the ring keeps %d rows", fn,
                 o->two_sided ? o->left + 1 : o->window, tfb__kv_window(s));
    TFB__REQUIRE(!tfb__kv_window(s) || o->window_pinned <= tfb__kv_pinned(s), ctx,
                 TFB_ERR_RANGE, "%s: window_pinned is %d, the ring keeps %d", fn,
                 o->window_pinned, tfb__kv_pinned(s));
    return TFB_OK;
}

/* No query may look for a key that a ring has lost, or that mask and bias do not know. */
static tfb_status tfb__kv_check_reach(tfb_ctx *ctx, const char *fn, const tfb__attn *a) {
    const tfb_kv_shape *s = &a->cache->shape;
    const tfb_idx back = a->o.two_sided ? a->o.left : a->o.window - 1;
    tfb_idx b;
    for (b = 0; tfb__kv_window(s) && (a->o.causal || a->o.two_sided) && b < a->seqs;
         b++) {
        const tfb_kv_row *r = a->cache->row + b;
        const tfb_idx at = tfb__attn_sequence(a, b).stand - back;
        const tfb_idx known =
            TFB__MAX(r->lost, a->cache_kept ? r->end - tfb__kv_window(s) : 0);
        TFB__REQUIRE(
            !a->T || TFB__MAX(at, r->first) >= known || known <= tfb__kv_pinned(s), ctx,
            TFB_ERR_RANGE, "%s: a query of sample %d looks back to %d, the ring to %d",
            fn, b, at, known);
    }
    return TFB_OK;
}

/* Keys and values as attention sees them: their shapes, and strides inside a page. */
static void tfb__kv_tensors(const tfb_kv *kv, const tfb_kv_layer *l, const tfb_tensor *q,
                            const tfb_tensor *y, tfb_idx S, tfb_tensor *k,
                            tfb_tensor *v) {
    const int known = l->shape.kv_heads > 0;
    const tfb_idx B = known && l->shape.batch ? l->shape.batch : q->shape[0];
    const tfb_idx G = known ? l->shape.kv_heads : 1; /* needs the most scratch */
    *k = tfb_view4(&tfb__nothing, kv->dtype, B, G, S,
                   known ? l->shape.head_dim : q->shape[3]);
    *v = tfb_view4(&tfb__nothing, kv->dtype, B, G, S,
                   known ? l->shape.v_dim : y->shape[3]);
    k->stride[0] = k->stride[1] = k->stride[2] = 0;
    v->stride[0] = v->stride[1] = 0;
}

/* All checks but those of outputs; the plan of a call. */
static tfb_status tfb__kv_attention_resolve(tfb_ctx *ctx, const char *fn,
                                            const tfb_kv *kv, int layer,
                                            const tfb_tensor *q, const tfb_tensor *y,
                                            const tfb_attention_opts *opts,
                                            tfb__attn *a) {
    const tfb_kv_layer *l;
    tfb_tensor k, v;
    tfb_idx b, S = 0;
    TFB__TRY(tfb__kv_check_layer(ctx, fn, kv, layer));
    l = kv->layer + layer;
    tfb__attention_new(a, opts);
    TFB__TRY(tfb__kv_check_attention(ctx, fn, &l->shape, &a->o));
    TFB__REQUIRE(l->touched || ctx->measuring, ctx, TFB_ERR_ARG,
                 "%s: layer %d holds nothing yet", fn, (tfb_idx)layer);
    TFB__TRY(tfb__check(ctx, fn, "q", q, TFB__MASK(TFB_F32), 4, 4));
    TFB__TRY(tfb__check(ctx, fn, "y", y, TFB__MASK(TFB_F32), 4, 4));
    a->kv = kv;
    a->cache = l;
    a->cache_kept = a->o.mask || a->o.bias || !(a->o.causal || a->o.two_sided);
    a->o.key_pinned = tfb__kv_pinned(&l->shape);
    if (a->o.causal && !a->o.two_sided && !a->o.window)
        a->o.window = tfb__kv_window(&l->shape);
    if (tfb__kv_window(&l->shape) && !a->o.window_pinned)
        a->o.window_pinned = tfb__kv_pinned(&l->shape);
    for (b = 0; b < l->shape.batch; b++) S = TFB__MAX(S, tfb__attn_sequence(a, b).hi);
    tfb__kv_tensors(kv, l, q, y, S, &k, &v);
    TFB__TRY(tfb__attention_resolve(ctx, fn, q, &k, &v, a));
    return ctx->measuring ? TFB_OK : tfb__kv_check_reach(ctx, fn, a);
}

TFB_API tfb_status tfb_kv_attention(tfb_ctx *ctx, const tfb_kv *kv, int layer,
                                    const tfb_tensor *q, const tfb_attention_opts *opts,
                                    tfb_tensor *y) {
    const char *fn = "tfb_kv_attention";
    tfb__attn a;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__kv_attention_resolve(ctx, fn, kv, layer, q, y, opts, &a));
    if (a.o.lse) TFB__TRY(tfb__check(ctx, fn, "lse", a.o.lse, TFB__MASK(TFB_F32), 3, 3));
    TFB__TRY(tfb__kv_check_alias(ctx, fn, "y", kv, y));
    TFB__TRY(tfb__kv_check_alias(ctx, fn, "lse", kv, a.o.lse));
    return tfb__attention_finish(ctx, fn, q, NULL, NULL, y, &a);
}

/* I32 [B] of a ragged cache, one for each sample of every layer that has any. */
static tfb_status tfb__kv_check_each(tfb_ctx *ctx, const char *fn, const char *name,
                                     const tfb_kv *kv, const tfb_tensor *each,
                                     int one_will_do) {
    int i;
    if (!each) return TFB_OK;
    TFB__TRY(tfb__check(ctx, fn, name, each, TFB__MASK(TFB_I32), 1, 1));
    if (one_will_do && each->shape[0] == 1) return TFB_OK;
    TFB__REQUIRE(TFB__OPT(KV_PLACES, kv->ragged), ctx, TFB_ERR_ARG,
                 "%s: %s goes with ragged caches", fn, name);
    for (i = 0; i < kv->layers; i++)
        if (kv->layer[i].touched)
            TFB__TRY(tfb__check_extent(ctx, fn, name, each, 0, kv->layer[i].shape.batch));
    return TFB_OK;
}

static tfb_idx tfb__kv_each(const tfb_tensor *each, tfb_idx b, tfb_idx n) {
    if (!each) return n;
    return tfb__i32_at(each, each->shape[0] > 1 ? b : 0);
}

static tfb_status tfb__kv_check_unmarked(tfb_ctx *ctx, const char *fn, const tfb_kv *kv) {
    TFB__TRY(tfb__kv_check(ctx, fn, kv));
    TFB__REQUIRE(!TFB__OPT(KV_MARKS, kv->marked), ctx, TFB_ERR_ARG,
                 "%s: kv has a mark, which it would void", fn);
    return TFB_OK;
}

TFB_API void tfb_kv_pair_reset(tfb_kv_pair *pair) {
    tfb_kv_reset(pair ? &pair->self : NULL);
    tfb_kv_reset(pair ? &pair->cross : NULL);
}

TFB_API void tfb_kv_pair_free(tfb_kv_pair *pair) {
    tfb_kv_free(pair ? &pair->self : NULL);
    tfb_kv_free(pair ? &pair->cross : NULL);
}

#ifndef TFB_NO_KV_EDIT
/* --- Fewer rows. --- */
/* A sample after crop. */
static tfb_kv_row tfb__kv_cropped(const tfb_kv_layer *l, const tfb_kv_row *r, tfb_idx n) {
    const tfb_kv_shape *s = &l->shape;
    const tfb_idx from = tfb__kv_from(s, r->first, r->end), have = tfb__kv_len(l, r);
    tfb_kv_row to = *r;
    n = n < 0 ? TFB__MAX(0, have + n) : TFB__MIN(n, have);
    if (n == have) return to;
    to.first = from > tfb__kv_pinned(s) ? from : r->first;
    to.end = from + n - tfb__kv_pinned(s);
    if (tfb__kv_pinned(s) && n <= tfb__kv_pinned(s)) { /* only pinned ones are left */
        to.end = n;
        to.first = to.lost = 0;
    }
    return to;
}

/* A sample of which only the last n rows stay, and the pinned ones. */
static tfb_kv_row tfb__kv_kept_last(const tfb_kv_layer *l, const tfb_kv_row *r,
                                    tfb_idx n) {
    tfb_kv_row to = *r;
    if (n < r->end - tfb__kv_from(&l->shape, r->first, r->end)) to.first = r->end - n;
    return to;
}

/* All samples of all layers, or none. */
static tfb_status tfb__kv_shorten(tfb_ctx *ctx, const char *fn, tfb_kv *kv, tfb_idx n,
                                  const tfb_tensor *each, int last) {
    tfb_idx b;
    int i, change;
    TFB__TRY(tfb__kv_check(ctx, fn, kv));
    TFB__TRY(tfb__kv_check_each(ctx, fn, "each", kv, each, 0));
    for (change = 0; change < 2 && !ctx->measuring; change++)
        for (i = 0; i < kv->layers; i++)
            for (b = 0; b < kv->layer[i].shape.batch; b++) {
                const tfb_kv_layer *l = kv->layer + i;
                const tfb_idx keep = tfb__kv_each(each, b, n);
                tfb_kv_row to;
                TFB__REQUIRE(!last || keep >= 0, ctx, TFB_ERR_RANGE,
                             "%s: %d rows of sample %d", fn, keep, b);
                to = last ? tfb__kv_kept_last(l, l->row + b, keep)
                          : tfb__kv_cropped(l, l->row + b, keep);
                TFB__REQUIRE(!TFB__OPT(KV_MARKS, kv->marked) ||
                                 to.end >= TFB__MIN(l->row[b].end, to.mark_end),
                             ctx, TFB_ERR_RANGE,
                             "%s: sample %d of layer %d was longer at the mark", fn, b,
                             (tfb_idx)i);
                if (change) l->row[b] = to;
            }
    return TFB_OK;
}

TFB_API tfb_status tfb_kv_crop(tfb_ctx *ctx, tfb_kv *kv, tfb_idx n,
                               const tfb_tensor *each) {
    TFB__ENTER(ctx);
    return tfb__kv_shorten(ctx, "tfb_kv_crop", kv, n, each, 0);
}

TFB_API tfb_status tfb_kv_keep_last(tfb_ctx *ctx, tfb_kv *kv, tfb_idx n,
                                    const tfb_tensor *each) {
    TFB__ENTER(ctx);
    return tfb__kv_shorten(ctx, "tfb_kv_keep_last", kv, n, each, 1);
}

/* --- Other samples. --- */
/* Which sample becomes sample i of a new batch; owner[s] says who took its pages. */
typedef struct tfb__kv_choice {
    const tfb_tensor *index;
    tfb_idx repeats;
    tfb_kv_layer *next; /* a copy of every layer, cache after cache */
    tfb_kv_row *was;
    tfb_idx *owner;
} tfb__kv_choice;

static tfb_idx tfb__kv_source(const tfb__kv_choice *c, tfb_idx i) {
    return c->index ? tfb__i32_at(c->index, i) : i / c->repeats;
}

static tfb_idx tfb__kv_chosen(const tfb__kv_choice *c, const tfb_kv_layer *l) {
    const tfb_idx batch = TFB__MAX(1, l->shape.batch);
    if (c->index) return c->index->shape[0];
    return c->repeats > PTRDIFF_MAX / batch ? PTRDIFF_MAX : c->repeats * batch;
}

/* Pages that repeats need beyond those that samples nobody chose leave behind. */
static tfb_idx tfb__kv_choice_lack(const tfb__kv_choice *c, tfb_kv_layer *l, tfb_idx n) {
    tfb_idx lack = 0, b, i;
    for (b = 0; b < l->rows; b++) {
        tfb_idx uses = 0;
        for (i = 0; b < l->shape.batch && i < n; i++) uses += tfb__kv_source(c, i) == b;
        if (uses) lack += (uses - 1) * tfb__kv_copy_pages(l, l->row + b, NULL);
        else lack -= tfb__kv_owned(l, l->row + b);
    }
    return lack;
}

/* Every index of every layer. */
static tfb_status tfb__kv_check_choice(tfb_ctx *ctx, const char *fn, const tfb_kv *kv,
                                       const tfb__kv_choice *c) {
    tfb_idx i;
    int at;
    TFB__TRY(tfb__kv_check_unmarked(ctx, fn, kv));
    for (at = 0; at < kv->layers; at++) {
        const tfb_kv_layer *l = kv->layer + at;
        const tfb_idx n = tfb__kv_chosen(c, l);
        if (!l->touched) continue;
        TFB__REQUIRE(n < PTRDIFF_MAX / 8 / (tfb_idx)sizeof *l->row, ctx, TFB_ERR_RANGE,
                     "%s: %d samples overflow", fn, n);
        TFB__REQUIRE(!tfb__kv_is_static(kv) || n <= l->rows, ctx, TFB_ERR_FULL,
                     "%s: %d samples, layer %d has room for %d", fn, n, (tfb_idx)at,
                     l->rows);
        for (i = 0; !ctx->measuring && c->index && i < n; i++)
            TFB__REQUIRE(tfb__kv_source(c, i) >= 0 &&
                             tfb__kv_source(c, i) < l->shape.batch,
                         ctx, TFB_ERR_RANGE, "%s: index[%d] is %d, layer %d has %d", fn,
                         i, tfb__kv_source(c, i), (tfb_idx)at, l->shape.batch);
    }
    return TFB_OK;
}

/* The samples of a layer change places; repeats are copied. */
static void tfb__kv_choose(const tfb__kv_choice *c, tfb_kv_layer *l, tfb_idx n) {
    tfb_idx i, s, unused = 0;
    memcpy((void *)c->was, (const void *)l->row, (size_t)l->rows * sizeof *l->row);
    for (i = 0; i < l->rows; i++) c->owner[i] = -1;
    for (i = 0; i < n; i++)
        if (c->owner[tfb__kv_source(c, i)] < 0) c->owner[tfb__kv_source(c, i)] = i;
    for (i = 0; i < l->rows; i++)
        if (c->owner[i] < 0) tfb__kv_push_all(l, l->row + i);
    for (i = 0; i < n; i++)
        if (c->owner[tfb__kv_source(c, i)] == i) l->row[i] = c->was[tfb__kv_source(c, i)];
    for (i = 0; i < l->rows; i++) {
        const tfb_kv_row *from;
        char **pages;
        s = i < n ? tfb__kv_source(c, i) : 0;
        if (i < n && c->owner[s] == i) continue;
        while (c->owner[unused] >= 0) unused++;
        pages = c->was[unused++].pages;
        from = l->row + c->owner[s];
        if (i < n) l->row[i] = *from;
        else memset((void *)(l->row + i), 0, sizeof *l->row);
        l->row[i].pages = pages;
        if (i < n) tfb__kv_copy_pages(l, from, l->row + i);
    }
    l->shape.batch = n;
}

/* Pages and places for all layers of all caches; what fails is for the caller to undo. */
static tfb_status tfb__kv_choice_prepare(tfb_ctx *ctx, const char *fn, tfb_kv **kv,
                                         int caches, const tfb__kv_choice *c) {
    tfb_kv_layer *next = c->next;
    int i, at;
    for (i = 0; i < caches; i++)
        for (at = 0; at < kv[i]->layers; at++, next++) {
            const tfb_kv_layer *l = kv[i]->layer + at;
            const tfb_idx n = tfb__kv_chosen(c, l);
            if (!l->touched) continue;
            TFB__TRY(
                tfb__kv_reserve(ctx, fn, kv[i], next, tfb__kv_choice_lack(c, next, n)));
            TFB__TRY(tfb__kv_widen(ctx, fn, kv[i], l, next, n, l->pages));
        }
    return TFB_OK;
}

/* New batches for all caches, or for none. */
static tfb_status tfb__kv_gather(tfb_ctx *ctx, const char *fn, tfb_kv **kv, int caches,
                                 tfb__kv_choice *c) {
    tfb_idx layers = 0, rows = 1;
    tfb_kv_layer *next;
    tfb__mark mark;
    tfb_status status;
    int i, at;
    for (i = 0; i < caches; i++) {
        TFB__TRY(tfb__kv_check_choice(ctx, fn, kv[i], c));
        layers += kv[i]->layers;
        for (at = 0; at < kv[i]->layers; at++) {
            const tfb_kv_layer *l = kv[i]->layer + at;
            if (l->touched)
                rows = TFB__MAX(rows, TFB__MAX(l->rows, tfb__kv_chosen(c, l)));
        }
    }
    mark = tfb__scratch_begin(ctx);
    c->next = (tfb_kv_layer *)tfb__take(ctx, layers, sizeof *c->next);
    c->was = (tfb_kv_row *)tfb__take(ctx, rows, sizeof *c->was);
    c->owner = (tfb_idx *)tfb__take(ctx, rows, sizeof *c->owner);
    status = tfb__scratch_ready(ctx, fn);
    if (status == TFB_OK && !ctx->measuring) {
        for (i = 0, next = c->next; i < caches; next += kv[i++]->layers)
            memcpy((void *)next, (const void *)kv[i]->layer,
                   (size_t)kv[i]->layers * sizeof *next);
        status = tfb__kv_choice_prepare(ctx, fn, kv, caches, c);
        for (i = 0, next = c->next; i < caches; i++)
            for (at = 0; at < kv[i]->layers; at++, next++) {
                tfb_kv_layer *l = kv[i]->layer + at;
                const tfb_idx n = tfb__kv_chosen(c, l);
                if (status != TFB_OK) tfb__kv_abandon(kv[i], l, next);
                else if (l->touched) {
                    tfb__kv_settle(kv[i], l, next);
                    tfb__kv_choose(c, l, n);
                }
            }
    }
    return tfb__scratch_end(ctx, mark, status);
}

static tfb_status tfb__kv_select(tfb_ctx *ctx, const char *fn, tfb_kv **kv, int caches,
                                 const tfb_tensor *index) {
    tfb__kv_choice c;
    int i;
    memset((void *)&c, 0, sizeof c);
    c.index = index;
    TFB__TRY(tfb__check(ctx, fn, "index", index, TFB__MASK(TFB_I32), 1, 1));
    TFB__REQUIRE(index->shape[0] > 0, ctx, TFB_ERR_SHAPE, "%s: index is empty", fn);
    for (i = 0; i < caches; i++) {
        TFB__TRY(tfb__kv_check(ctx, fn, kv[i]));
        TFB__TRY(tfb__kv_check_alias(ctx, fn, "index", kv[i], index));
    }
    return tfb__kv_gather(ctx, fn, kv, caches, &c);
}

static tfb_status tfb__kv_repeat(tfb_ctx *ctx, const char *fn, tfb_kv **kv, int caches,
                                 tfb_idx repeats) {
    tfb__kv_choice c;
    memset((void *)&c, 0, sizeof c);
    c.repeats = repeats;
    TFB__REQUIRE(repeats > 0, ctx, TFB_ERR_RANGE, "%s: repeats is %d", fn, repeats);
    return tfb__kv_gather(ctx, fn, kv, caches, &c);
}

TFB_API tfb_status tfb_kv_select(tfb_ctx *ctx, tfb_kv *kv, const tfb_tensor *index) {
    TFB__ENTER(ctx);
    return tfb__kv_select(ctx, "tfb_kv_select", &kv, 1, index);
}

TFB_API tfb_status tfb_kv_repeat_interleave(tfb_ctx *ctx, tfb_kv *kv, tfb_idx repeats) {
    TFB__ENTER(ctx);
    return tfb__kv_repeat(ctx, "tfb_kv_repeat_interleave", &kv, 1, repeats);
}

TFB_API tfb_status tfb_kv_pair_select(tfb_ctx *ctx, tfb_kv_pair *pair,
                                      const tfb_tensor *index) {
    tfb_kv *both[2];
    TFB__ENTER(ctx);
    TFB__REQUIRE(pair, ctx, TFB_ERR_ARG, "tfb_kv_pair_select: pair is NULL");
    both[0] = &pair->self;
    both[1] = &pair->cross;
    return tfb__kv_select(ctx, "tfb_kv_pair_select", both, 2, index);
}

TFB_API tfb_status tfb_kv_pair_repeat_interleave(tfb_ctx *ctx, tfb_kv_pair *pair,
                                                 tfb_idx repeats) {
    tfb_kv *both[2];
    TFB__ENTER(ctx);
    TFB__REQUIRE(pair, ctx, TFB_ERR_ARG, "tfb_kv_pair_repeat_interleave: pair is NULL");
    both[0] = &pair->self;
    both[1] = &pair->cross;
    return tfb__kv_repeat(ctx, "tfb_kv_pair_repeat_interleave", both, 2, repeats);
}

TFB_API tfb_status tfb_kv_fork(tfb_ctx *ctx, tfb_kv *kv, tfb_idx src, tfb_idx dst) {
    const char *fn = "tfb_kv_fork";
    tfb_status status = TFB_OK;
    tfb_kv_layer *next;
    tfb__mark mark;
    tfb_idx n;
    int i;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__kv_check_unmarked(ctx, fn, kv));
    for (i = 0; i < kv->layers; i++) {
        n = kv->layer[i].shape.batch;
        TFB__REQUIRE(!kv->layer[i].touched ||
                         (src >= 0 && dst >= 0 && src < n && dst < n),
                     ctx, TFB_ERR_RANGE, "%s: from %d to %d, layer %d has %d samples", fn,
                     src, dst, (tfb_idx)i, n);
    }
    if (src == dst) return TFB_OK;
    mark = tfb__scratch_begin(ctx);
    next = (tfb_kv_layer *)tfb__take(ctx, kv->layers, sizeof *next);
    status = tfb__scratch_ready(ctx, fn);
    if (status != TFB_OK || ctx->measuring) return tfb__scratch_end(ctx, mark, status);
    memcpy((void *)next, (const void *)kv->layer, (size_t)kv->layers * sizeof *next);
    for (i = 0; i < kv->layers && status == TFB_OK; i++) {
        tfb_idx lack;
        if (!next[i].touched) continue;
        lack = tfb__kv_copy_pages(next + i, next[i].row + src, NULL);
        lack -= tfb__kv_owned(next + i, next[i].row + dst);
        status = tfb__kv_reserve(ctx, fn, kv, next + i, lack);
    }
    for (i = 0; i < kv->layers; i++) {
        tfb_kv_layer *l = kv->layer + i;
        char **pages;
        if (status != TFB_OK) tfb__kv_abandon(kv, l, next + i);
        if (status != TFB_OK || !l->touched) continue;
        tfb__kv_settle(kv, l, next + i);
        tfb__kv_push_all(l, l->row + dst);
        pages = l->row[dst].pages;
        l->row[dst] = l->row[src];
        l->row[dst].pages = pages;
        tfb__kv_copy_pages(l, l->row + src, l->row + dst);
    }
    return tfb__scratch_end(ctx, mark, status);
}

#endif

#ifndef TFB_NO_KV_SHIFT
/* --- Positions that move. --- */
/* Turns the keys of some rows of a sample; trig and x have room for a row. */
static void tfb__kv_turn(const tfb_kv *kv, tfb_kv_layer *l, tfb_kv_row *r, tfb_idx from,
                         tfb_idx to, const tfb__rope_plan *plan, const float *cosine,
                         const float *sine, float *x) {
    const tfb_idx D = l->shape.head_dim;
    const tfb_tensor row = tfb_view4(x, TFB_F32, 1, 1, 1, D);
    tfb_idx i, g;
    for (i = from; i < TFB__MIN(to, tfb__kv_len(l, r)); i++)
        for (g = 0; g < l->shape.kv_heads; g++) {
            char *key, *value;
            tfb__kv_find(kv, l, r, g, tfb__kv_number(l, r, i), &key, &value);
            tfb__kv_load_row(kv->dtype, key, TFB__PANEL, D, &row, 0);
            tfb__rope_row(plan, D, x, 1, x, 1, cosine, sine);
            tfb__kv_store_row(kv->dtype, key, TFB__PANEL, D, &row, 0);
        }
    /* rows behind the window have not been turned: nobody may look at them */
    if (tfb__kv_window(&l->shape))
        r->lost = TFB__MAX(r->lost, r->end - tfb__kv_window(&l->shape));
}

TFB_API tfb_status tfb_kv_shift(tfb_ctx *ctx, tfb_kv *kv, tfb_idx b, tfb_idx from,
                                tfb_idx to, tfb_idx delta, const tfb_rope_opts *rope) {
    const char *fn = "tfb_kv_shift";
    const tfb_idx limit = (tfb_idx)1 << 24;
    tfb_rope_opts o;
    tfb__mark mark;
    tfb_status status;
    tfb_idx most = 0, s;
    float *hi;
    int i;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__kv_check_unmarked(ctx, fn, kv));
    TFB__REQUIRE(rope, ctx, TFB_ERR_ARG, "%s: rope is NULL", fn);
    TFB__REQUIRE(from >= 0 && from <= to && delta > -limit && delta < limit, ctx,
                 TFB_ERR_RANGE, "%s: rows %d to %d by %d", fn, from, to, delta);
    TFB__REQUIRE(rope->axes <= 1, ctx, TFB_ERR_ARG, "%s: rope has %d axes", fn,
                 (tfb_idx)rope->axes);
    o = *rope;
    o.positions = NULL;
    o.start = 0;
    o.magnitude = 1;
    memset((void *)o.grid, 0, sizeof o.grid);
    for (i = 0; i < kv->layers; i++) {
        const tfb_kv_layer *l = kv->layer + i;
        tfb__rope_plan plan;
        if (!l->touched) continue;
        TFB__TRY(tfb__rope_check(ctx, fn, &o, l->shape.head_dim, &plan));
        TFB__REQUIRE(b >= -1 && b < l->shape.batch, ctx, TFB_ERR_RANGE,
                     "%s: b is %d, layer %d has %d samples", fn, b, (tfb_idx)i,
                     l->shape.batch);
        most = TFB__MAX(most, l->shape.head_dim);
    }
    mark = tfb__scratch_begin(ctx);
    hi = (float *)tfb__take(ctx, 3, tfb__size_mul((size_t)most, sizeof *hi));
    status = tfb__scratch_ready(ctx, fn);
    for (i = 0; status == TFB_OK && !ctx->measuring && i < kv->layers; i++) {
        tfb_kv_layer *l = kv->layer + i;
        tfb__rope_plan plan;
        float *cosine;
        if (!l->touched) continue;
        tfb__rope_check(ctx, fn, &o, l->shape.head_dim, &plan);
        plan.hi = hi;
        plan.lo = hi + plan.half;
        cosine = plan.lo + plan.half;
        tfb__rope_fill(&o, &plan);
        tfb__rope_angles(&plan, &delta, cosine, cosine + plan.half);
        for (s = 0; s < l->shape.batch; s++)
            if (b < 0 || s == b)
                tfb__kv_turn(kv, l, l->row + s, from, to, &plan, cosine,
                             cosine + plan.half, cosine + 2 * plan.half);
    }
    return tfb__scratch_end(ctx, mark, status);
}
#endif

#ifndef TFB_NO_KV_MARKS
/* --- Marks. --- */
TFB_API tfb_status tfb_kv_mark(tfb_ctx *ctx, tfb_kv *kv) {
    tfb_idx b;
    int i;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__kv_check(ctx, "tfb_kv_mark", kv));
    if (ctx->measuring) return TFB_OK;
    for (i = 0; i < kv->layers; i++) {
        tfb_kv_layer *l = kv->layer + i;
        l->mark_touched = l->touched;
        for (b = 0; b < l->rows; b++) {
            l->row[b].mark_first = l->row[b].first;
            l->row[b].mark_end = l->row[b].end;
        }
    }
    kv->marked = 1;
    return TFB_OK;
}

TFB_API tfb_status tfb_kv_rollback(tfb_ctx *ctx, tfb_kv *kv, const tfb_tensor *keep) {
    const char *fn = "tfb_kv_rollback";
    tfb_idx b;
    int i, change;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__kv_check(ctx, fn, kv));
    TFB__REQUIRE(TFB__OPT(KV_MARKS, kv->marked), ctx, TFB_ERR_ARG, "%s: kv has no mark",
                 fn);
    TFB__TRY(tfb__kv_check_each(ctx, fn, "keep", kv, keep, 1));
    for (change = 0; change < 2 && !ctx->measuring; change++)
        for (i = 0; i < kv->layers; i++) {
            tfb_kv_layer *l = kv->layer + i;
            tfb_idx kept = 0;
            for (b = 0; b < l->shape.batch; b++) {
                tfb_kv_row *r = l->row + b;
                const tfb_idx n = tfb__kv_each(keep, b, 0);
                TFB__REQUIRE(n >= 0 && n <= r->end - r->mark_end, ctx, TFB_ERR_RANGE,
                             "%s: keep %d of %d rows of sample %d, layer %d", fn, n,
                             r->end - r->mark_end, b, (tfb_idx)i);
                kept += n;
                if (!change) continue;
                r->first = r->mark_first;
                r->end = r->mark_end + n;
            }
            if (change && !l->mark_touched && !kept) tfb__kv_untouch(kv, l);
        }
    return TFB_OK;
}

TFB_API void tfb_kv_commit(tfb_kv *kv) {
    if (kv) kv->marked = 0;
}
#endif

#ifndef TFB_NO_KV_SAVE
/* --- Saving. Everything is little-endian. A head of 48 bytes: magic, version, then what
 * the sum covers: total bytes, dtype, layers, ragged. For each layer seven numbers of 8
 * bytes: touched, batch, kv_heads, head_dim, v_dim, window, pinned; for each sample first
 * and end; then head by head the keys and the values of the rows kept, row by row, each
 * sample filled up to 8 bytes. --- */
#define TFB__KV_SAVE_HEAD    48
#define TFB__KV_SAVE_VERSION 1u
#define TFB__KV_SAVE_NUMBERS 7

/* Bytes of the rows of one sample. */
static size_t tfb__kv_sample_bytes(const tfb_kv_shape *s, tfb_idx rows, tfb_dtype dtype) {
    size_t n = tfb__size_mul((size_t)s->kv_heads, (size_t)rows);
    n = tfb__size_mul(n, tfb__size_add((size_t)s->head_dim, (size_t)s->v_dim));
    n = tfb__size_mul(n, tfb_dtype_size(dtype));
    return tfb__size_add(n, 7) / 8 * 8;
}

/* The rows of a sample to bytes or back; they are little-endian in pages too. */
static void tfb__kv_move_sample(const tfb_kv *kv, const tfb_kv_layer *l,
                                const tfb_kv_row *r, tfb__kv_bytes *f) {
    const tfb_idx size = (tfb_idx)tfb_dtype_size(kv->dtype), rows = tfb__kv_len(l, r);
    const size_t end = f->at + tfb__kv_sample_bytes(&l->shape, rows, kv->dtype);
    tfb_idx g, i, d;
    int is_value;
    for (g = 0; (f->to || f->from) && g < l->shape.kv_heads; g++)
        for (is_value = 0; is_value < 2; is_value++)
            for (i = 0; i < rows; i++) {
                const tfb_idx n = is_value ? l->shape.v_dim : l->shape.head_dim;
                char *place[2];
                tfb__kv_find(kv, l, r, g, tfb__kv_number(l, r, i), place, place + 1);
                for (d = 0; d < n; d++, f->at += (size_t)size) {
                    char *p = place[is_value] + d * (is_value ? 1 : TFB__PANEL) * size;
                    if (f->to) memcpy(f->to + f->at, p, (size_t)size);
                    else memcpy(p, f->from + f->at, (size_t)size);
                }
            }
    while (f->to && f->at < end) tfb__kv_write(f, 0, 1);
    f->at = end;
}

/* All of a save but its head. */
static void tfb__kv_save_layers(const tfb_kv *kv, tfb__kv_bytes *f) {
    tfb_idx b;
    int i, j;
    for (i = 0; i < kv->layers; i++) {
        const tfb_kv_layer *l = kv->layer + i;
        const tfb_kv_shape *s = &l->shape;
        tfb_idx number[TFB__KV_SAVE_NUMBERS];
        memset((void *)number, 0, sizeof number);
        number[5] = tfb__kv_window(s);
        number[6] = tfb__kv_pinned(s);
        if (l->touched) {
            number[0] = 1;
            number[1] = s->batch;
            number[2] = s->kv_heads;
            number[3] = s->head_dim;
            number[4] = s->v_dim;
        }
        for (j = 0; j < TFB__KV_SAVE_NUMBERS; j++)
            tfb__kv_write(f, (uint64_t)number[j], 8);
        for (b = 0; b < s->batch; b++) {
            tfb__kv_write(f, (uint64_t)l->row[b].first, 8);
            tfb__kv_write(f, (uint64_t)l->row[b].end, 8);
        }
        for (b = 0; b < s->batch; b++) tfb__kv_move_sample(kv, l, l->row + b, f);
    }
}

TFB_API size_t tfb_kv_save_bytes(const tfb_kv *kv) {
    tfb__kv_bytes f;
    memset((void *)&f, 0, sizeof f);
    if (!kv || !kv->layer) return 0;
    tfb__kv_save_layers(kv, &f);
    return TFB__KV_SAVE_HEAD + f.at;
}

TFB_API tfb_status tfb_kv_save(tfb_ctx *ctx, const tfb_kv *kv, void *mem,
                               size_t mem_bytes) {
    const char *fn = "tfb_kv_save";
    const size_t need = tfb_kv_save_bytes(kv);
    tfb__kv_bytes f;
    tfb_tensor to;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__kv_check(ctx, fn, kv));
    TFB__REQUIRE(mem, ctx, TFB_ERR_ARG, "%s: mem is NULL", fn);
    TFB__REQUIRE(mem_bytes >= need, ctx, TFB_ERR_RANGE, "%s: mem_bytes is %d, needs %d",
                 fn, (tfb_idx)mem_bytes, (tfb_idx)need);
    to = tfb_view1(mem, TFB_U8, (tfb_idx)need);
    TFB__TRY(tfb__kv_check_alias(ctx, fn, "mem", kv, &to));
    if (ctx->measuring) return TFB_OK;
    tfb__save_begin(&f, mem, "TFBKVSAV", TFB__KV_SAVE_VERSION, need);
    tfb__kv_write(&f, (uint64_t)(unsigned)kv->dtype, 4);
    tfb__kv_write(&f, (uint64_t)(unsigned)kv->layers, 4);
    tfb__kv_write(&f, (uint64_t)(unsigned)TFB__OPT(KV_PLACES, kv->ragged), 8);
    tfb__kv_save_layers(kv, &f);
    tfb__save_end(&f);
    return TFB_OK;
}

/* The head, and that nothing has changed since. */
static tfb_status tfb__kv_load_head(tfb_ctx *ctx, const char *fn, const tfb_kv *kv,
                                    tfb__kv_bytes *f) {
    TFB__TRY(tfb__load_begin(ctx, fn, f, "TFBKVSAV", "cache", TFB__KV_SAVE_VERSION,
                             TFB__KV_SAVE_HEAD));
    TFB__REQUIRE(tfb__kv_read(f, 4) == (uint64_t)(unsigned)kv->dtype, ctx, TFB_ERR_DTYPE,
                 "%s: rows of another dtype were saved", fn);
    TFB__REQUIRE(tfb__kv_read(f, 4) == (uint64_t)(unsigned)kv->layers, ctx, TFB_ERR_SHAPE,
                 "%s: another number of layers was saved", fn);
    TFB__REQUIRE(tfb__kv_read(f, 8) ==
                     (uint64_t)(unsigned)TFB__OPT(KV_PLACES, kv->ragged),
                 ctx, TFB_ERR_SHAPE, "%s: one of the two is ragged", fn);
    return TFB_OK;
}

static tfb_idx tfb__kv_read_number(tfb__kv_bytes *f) {
    const uint64_t value = tfb__kv_read(f, 8);
    return value < (uint64_t)(PTRDIFF_MAX / 8) ? (tfb_idx)value : -1;
}

/* A sample's state in the cache that loads it. */
static tfb_kv_row tfb__kv_load_state(tfb__kv_bytes *f, const tfb_kv_shape *s) {
    tfb_kv_row r;
    memset((void *)&r, 0, sizeof r);
    r.first = tfb__kv_read_number(f);
    r.end = tfb__kv_read_number(f);
    if (tfb__kv_window(s) && r.first >= 0 &&
        r.end >= r.first) { /* only kept rows were saved */
        const tfb_idx from = tfb__kv_from(s, r.first, r.end);
        r.lost = from > tfb__kv_pinned(s) ? TFB__MIN(from, r.end) : 0;
    }
    return r;
}

/* The numbers of a layer against the cache; touched is 0 if it is to be empty. */
static tfb_status tfb__kv_load_shape(tfb_ctx *ctx, const char *fn, const tfb_kv *kv,
                                     int layer, tfb__kv_bytes *f, tfb_kv_shape *s,
                                     int *touched) {
    const tfb_kv_layer *l = kv->layer + layer;
    const tfb_kv_shape *have = &l->shape;
    tfb_idx number[TFB__KV_SAVE_NUMBERS];
    int j;
    for (j = 0; j < TFB__KV_SAVE_NUMBERS; j++) number[j] = tfb__kv_read_number(f);
    *s = *have;
    *touched = number[0] == 1;
    s->batch = number[1];
    s->kv_heads = number[2];
    s->head_dim = number[3];
    s->v_dim = number[4];
    TFB__REQUIRE(number[5] == have->window && number[6] == have->pinned, ctx,
                 TFB_ERR_SHAPE, "%s: layer %d has another window or pinned rows", fn,
                 (tfb_idx)layer);
    TFB__REQUIRE(number[0] == 0 || (*touched && s->batch > 0 && s->kv_heads > 0 &&
                                    s->head_dim > 0 && s->v_dim > 0),
                 ctx, TFB_ERR_FORMAT, "%s: layer %d has no shape", fn, (tfb_idx)layer);
    if (!*touched) return TFB_OK;
    TFB__REQUIRE(
        !have->kv_heads || (s->kv_heads == have->kv_heads &&
                            s->head_dim == have->head_dim && s->v_dim == have->v_dim),
        ctx, TFB_ERR_SHAPE, "%s: layer %d has other heads or dims", fn, (tfb_idx)layer);
    TFB__REQUIRE(!tfb__kv_is_static(kv) || s->batch <= l->rows, ctx, TFB_ERR_FULL,
                 "%s: %d samples, layer %d has room for %d", fn, s->batch, (tfb_idx)layer,
                 l->rows);
    return TFB_OK;
}

/* The states of a layer's samples, which must make sense and have their rows behind
 * them; *pages: what each sample needs a place for, *all: what all have together. */
static tfb_status tfb__kv_load_states(tfb_ctx *ctx, const char *fn, const tfb_kv *kv,
                                      const tfb_kv_layer *next, tfb__kv_bytes *f,
                                      tfb_idx *pages, tfb_idx *all) {
    const tfb_kv_shape *s = &next->shape;
    tfb_idx b, first = 0, end = 0;
    size_t bytes = 0;
    *pages = *all = 0;
    TFB__REQUIRE((size_t)s->batch <= f->size / 16, ctx, TFB_ERR_FORMAT,
                 "%s: the states of a layer are not all there", fn);
    for (b = 0; b < s->batch; b++) {
        const tfb_kv_row r = tfb__kv_load_state(f, s);
        tfb_idx rows, need;
        TFB__REQUIRE(r.first >= 0 && r.end >= r.first &&
                         (TFB__OPT(KV_PLACES, kv->ragged) || !b ||
                          (r.first == first && r.end == end)),
                     ctx, TFB_ERR_FORMAT, "%s: sample %d has no length", fn, b);
        first = r.first;
        end = r.end;
        rows = tfb__kv_rows(s, tfb__kv_from(s, first, end), end);
        TFB__REQUIRE(!tfb__kv_is_static(kv) || tfb__kv_window(s) || rows <= s->max_tokens,
                     ctx, TFB_ERR_FULL, "%s: %d rows, there is room for %d", fn, rows,
                     s->max_tokens);
        bytes = tfb__size_add(bytes, tfb__kv_sample_bytes(s, rows, kv->dtype));
        need = tfb__kv_pages_for(kv, next, tfb__kv_window(s) ? r.lost : first, end);
        *pages = TFB__MAX(*pages, need);
        *all = (tfb_idx)tfb__size_add((size_t)*all, (size_t)need);
    }
    TFB__REQUIRE(bytes <= f->size && f->at <= f->size - bytes, ctx, TFB_ERR_FORMAT,
                 "%s: the rows of a layer are not all there", fn);
    f->at += bytes;
    return TFB_OK;
}

/* Everything that can fail: all layers as they will be, in copies. */
static tfb_status tfb__kv_load_prepare(tfb_ctx *ctx, const char *fn, const tfb_kv *kv,
                                       tfb_kv_layer *next, tfb__kv_bytes *f) {
    tfb_idx b, pages, need;
    int i, touched;
    for (i = 0; i < kv->layers; i++) {
        const tfb_kv_layer *l = kv->layer + i;
        tfb_kv_shape s;
        TFB__TRY(tfb__kv_load_shape(ctx, fn, kv, i, f, &s, &touched));
        next[i].touched = 0;
        if (!touched) continue;
        TFB__TRY(tfb__kv_touch(ctx, fn, kv, next + i, &s));
        TFB__TRY(tfb__kv_load_states(ctx, fn, kv, next + i, f, &pages, &need));
        for (b = 0; b < l->rows; b++) need -= tfb__kv_owned(l, l->row + b);
        if (tfb__kv_is_static(kv)) continue;
        TFB__TRY(tfb__kv_reserve(ctx, fn, kv, next + i, need));
        TFB__TRY(tfb__kv_widen(ctx, fn, kv, l, next + i, s.batch, pages));
    }
    TFB__REQUIRE(f->at == f->size, ctx, TFB_ERR_FORMAT, "%s: %d bytes too many", fn,
                 (tfb_idx)(f->size - f->at));
    return TFB_OK;
}

/* A layer becomes what was saved. */
static void tfb__kv_load_layer(const tfb_kv *kv, tfb_kv_layer *l, tfb_kv_layer *next,
                               tfb__kv_bytes *f) {
    tfb_idx b, i;
    f->at += TFB__KV_SAVE_NUMBERS * 8;
    if (!next->touched) {
        tfb__kv_untouch(kv, l);
        return;
    }
    tfb__kv_settle(kv, l, next);
    for (b = 0; b < l->rows; b++) tfb__kv_push_all(l, l->row + b);
    for (b = 0; b < l->shape.batch; b++) {
        tfb_kv_row *r = l->row + b;
        char **pages = r->pages;
        *r = tfb__kv_load_state(f, &l->shape);
        r->pages = pages;
        for (i = 0; i < tfb__kv_len(l, r); i++) {
            char **page = pages + tfb__kv_slot(l, tfb__kv_number(l, r, i) / l->page);
            if (!*page) *page = tfb__kv_pop(l);
        }
    }
    for (b = 0; b < l->shape.batch; b++) tfb__kv_move_sample(kv, l, l->row + b, f);
}

TFB_API tfb_status tfb_kv_load(tfb_ctx *ctx, tfb_kv *kv, const void *mem,
                               size_t mem_bytes) {
    const char *fn = "tfb_kv_load";
    tfb_kv_layer *next;
    tfb__kv_bytes f;
    tfb__mark mark;
    tfb_status status;
    int i;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__kv_check_unmarked(ctx, fn, kv));
    TFB__REQUIRE(mem, ctx, TFB_ERR_ARG, "%s: mem is NULL", fn);
    memset((void *)&f, 0, sizeof f);
    f.from = (const char *)mem;
    f.size = mem_bytes;
    if (!ctx->measuring) TFB__TRY(tfb__kv_load_head(ctx, fn, kv, &f));
    mark = tfb__scratch_begin(ctx);
    next = (tfb_kv_layer *)tfb__take(ctx, kv->layers, sizeof *next);
    status = tfb__scratch_ready(ctx, fn);
    if (status != TFB_OK || ctx->measuring) return tfb__scratch_end(ctx, mark, status);
    memcpy((void *)next, (const void *)kv->layer, (size_t)kv->layers * sizeof *next);
    status = tfb__kv_load_prepare(ctx, fn, kv, next, &f);
    f.at = TFB__KV_SAVE_HEAD;
    for (i = 0; i < kv->layers; i++)
        if (status == TFB_OK) tfb__kv_load_layer(kv, kv->layer + i, next + i, &f);
        else tfb__kv_abandon(kv, kv->layer + i, next + i);
    return tfb__scratch_end(ctx, mark, status);
}
#endif
#endif /* TFB_NO_KV */

/* ===== [18] CHUNKED FORWARD ========================================================= */
/* A call is cut along an axis into views, which the callback gets one after the other, or
 * workers get, each with a context of its own in the scratch of the caller's. */

#ifndef TFB_NO_CHUNKS
TFB_API tfb_status tfb_scratch(tfb_ctx *ctx, tfb_tensor *t, tfb_dtype dtype, int ndim,
                               const tfb_idx *shape) {
    size_t bytes, used, last;
    tfb_status status;
    void *data;
    TFB__ENTER(ctx);
    TFB__REQUIRE(ctx->depth > 0, ctx, TFB_ERR_ARG,
                 "tfb_scratch: only inside a callback, with the context it was given");
    TFB__TRY(tfb__new_bytes(ctx, "tfb_scratch", t, dtype, ndim, shape, &bytes));
    used = ctx->used;
    last = ctx->scratch_last;
    data = tfb__take(ctx, 1, bytes);
    status = tfb__scratch_ready(ctx, "tfb_scratch");
    if (status == TFB_OK) {
        *t = tfb__view(data, dtype, ndim, shape);
        return TFB_OK;
    }
    ctx->used = used; /* a callback may do with less */
    ctx->failed = 0;
    if (status == TFB_ERR_RANGE) ctx->scratch_last = last;
    return status;
}

/* A worker: its context, and the last chunk that failed there. That is also the lowest,
 * as from then on only lower ones are begun. */
typedef struct tfb__chunk_worker {
    tfb_ctx ctx;
    tfb_idx failed; /* the number of chunks: none has */
    tfb_status status;
    char message[TFB_MESSAGE_BYTES];
} tfb__chunk_worker;

typedef struct tfb__chunks {
    const char *fn;
    tfb_chunk_fn forward;
    void *user;
    const tfb_tensor *in, *out;
    int inputs, outputs, dim, workers;
    tfb_chunk_opts o;
    tfb_idx length, size, count;          /* of the axis, of a chunk, of chunks */
    tfb_idx share[TFB_MAX_CHUNK_TENSORS]; /* of each output's axis for a chunk */
    tfb__chunk_worker *worker;            /* [workers] */
} tfb__chunks;

static tfb__chunks tfb__chunks_of(const char *fn, tfb_chunk_fn forward, void *user,
                                  const tfb_tensor *in, int inputs, const tfb_tensor *out,
                                  int outputs, const tfb_chunk_opts *opts) {
    tfb__chunks g;
    memset((void *)&g, 0, sizeof g);
    g.fn = fn;
    g.forward = forward;
    g.user = user;
    g.in = in;
    g.inputs = inputs;
    g.out = out;
    g.outputs = outputs;
    if (opts) g.o = *opts;
    return g;
}

/* --- Checks: each mistake has an error of its own, in the order of these lines. --- */
static tfb_status tfb__chunks_inputs(tfb_ctx *ctx, tfb__chunks *g) {
    const tfb_idx size = g->o.chunk_size;
    char name[] = "inputs[0]";
    int i, rank;
    TFB__REQUIRE(g->forward, ctx, TFB_ERR_ARG, "%s: forward is NULL", g->fn);
    TFB__REQUIRE(g->in && g->inputs > 0, ctx, TFB_ERR_ARG, "%s: there are no inputs",
                 g->fn);
    TFB__REQUIRE(g->inputs <= TFB_MAX_CHUNK_TENSORS, ctx, TFB_ERR_ARG,
                 "%s: n_inputs is %d, at most %d", g->fn, (tfb_idx)g->inputs,
                 (tfb_idx)TFB_MAX_CHUNK_TENSORS);
    TFB__REQUIRE(size >= 0, ctx, TFB_ERR_ARG, "%s: chunk_size is %d", g->fn, size);
    for (i = 0; i < g->inputs; i++, name[7]++)
        TFB__TRY(
            tfb__check(ctx, g->fn, name, g->in + i, TFB__ANY_DTYPE, 0, TFB_MAX_DIMS));
    rank = g->in->ndim;
    TFB__REQUIRE(g->o.dim >= -rank && g->o.dim < rank, ctx, TFB_ERR_ARG,
                 "%s: dim is %d, inputs[0].ndim is %d", g->fn, (tfb_idx)g->o.dim,
                 (tfb_idx)rank);
    g->dim = g->o.dim < 0 ? g->o.dim + rank : g->o.dim;
    for (i = 1; i < g->inputs; i++)
        TFB__REQUIRE(g->in[i].ndim == rank, ctx, TFB_ERR_SHAPE,
                     "%s: inputs[%d].ndim is %d, inputs[0] has %d", g->fn, (tfb_idx)i,
                     (tfb_idx)g->in[i].ndim, (tfb_idx)rank);
    g->length = g->in->shape[g->dim];
    for (i = 0, name[7] = '0'; i < g->inputs; i++, name[7]++)
        TFB__TRY(tfb__check_extent(ctx, g->fn, name, g->in + i, g->dim, g->length));
    TFB__REQUIRE(!size || g->o.remainder || g->length % size == 0, ctx, TFB_ERR_SHAPE,
                 "%s: inputs[0].shape[%d] is %d, no multiple of chunk_size %d", g->fn,
                 (tfb_idx)g->dim, g->length, size);
    return TFB_OK;
}

static tfb_status tfb__chunks_outputs(tfb_ctx *ctx, const tfb__chunks *g) {
    char name[] = "outputs[0]", other[] = "outputs[0]", input[] = "inputs[0]";
    int i, j;
    TFB__REQUIRE(g->outputs >= 0 && g->outputs <= TFB_MAX_CHUNK_TENSORS, ctx, TFB_ERR_ARG,
                 "%s: n_outputs is %d, must be 0 to %d", g->fn, (tfb_idx)g->outputs,
                 (tfb_idx)TFB_MAX_CHUNK_TENSORS);
    TFB__REQUIRE(g->out || !g->outputs, ctx, TFB_ERR_ARG, "%s: outputs is NULL", g->fn);
    for (i = 0; i < g->outputs; i++) {
        const tfb_tensor *y = g->out + i;
        name[8] = (char)('0' + i);
        TFB__TRY(
            tfb__check(ctx, g->fn, name, y, TFB__ANY_DTYPE, g->dim + 1, TFB_MAX_DIMS));
        TFB__TRY(tfb__check_out(ctx, g->fn, name, y));
        for (j = 0; j < g->inputs; j++) {
            input[7] = (char)('0' + j);
            TFB__TRY(tfb__check_alias(ctx, g->fn, name, y, input, g->in + j, 1));
        }
        for (j = 0; j < i; j++) {
            other[8] = (char)('0' + j);
            TFB__TRY(tfb__check_alias(ctx, g->fn, name, y, other, g->out + j, 0));
        }
    }
    return TFB_OK;
}

/* Cuts the axis into chunks of a size, 0: one. An output's share of it is a whole number
 * if length / gcd(extent, length) divides the size; then so is that of the last chunk. */
static tfb_status tfb__chunks_cut(tfb_ctx *ctx, tfb__chunks *g, tfb_idx size) {
    int i;
    g->size = size && size < g->length ? size : g->length;
    g->count = g->length ? (g->length - 1) / g->size + 1 : 1;
    for (i = 0; i < g->outputs; i++) {
        const tfb_idx extent = g->out[i].shape[g->dim];
        tfb_idx gcd = extent, rest = g->length;
        while (rest) {
            const tfb_idx next = gcd % rest;
            gcd = rest;
            rest = next;
        }
        g->share[i] = extent;
        if (g->count == 1) continue;
        TFB__REQUIRE(g->size % (g->length / gcd) == 0, ctx, TFB_ERR_SHAPE,
                     "%s: outputs[%d].shape[%d] is %d: no whole share for %d of %d",
                     g->fn, (tfb_idx)i, (tfb_idx)g->dim, extent, g->size, g->length);
        g->share[i] = g->size / (g->length / gcd) * (extent / gcd);
    }
    return TFB_OK;
}

/* --- Running. --- */
static tfb_status tfb__chunk_slice(tfb_ctx *ctx, const tfb_tensor *t, int dim,
                                   tfb_idx index, tfb_idx share, tfb_tensor *piece) {
    const tfb_idx start = index * share, rest = t->shape[dim] - start;
    return tfb_slice(ctx, t, dim, start, TFB__MIN(share, rest), piece);
}

/* One call of forward. What it takes from scratch is given back. */
static tfb_status tfb__chunk_run(tfb_ctx *ctx, const tfb__chunks *g, tfb_idx index,
                                 int worker) {
    tfb_tensor in[TFB_MAX_CHUNK_TENSORS], out[TFB_MAX_CHUNK_TENSORS];
    const tfb__mark mark = tfb__scratch_begin(ctx);
    tfb_status status = TFB_OK;
    tfb_chunk chunk;
    int i;
    for (i = 0; status == TFB_OK && i < g->inputs; i++)
        status = tfb__chunk_slice(ctx, g->in + i, g->dim, index, g->size, in + i);
    for (i = 0; status == TFB_OK && i < g->outputs; i++)
        status = tfb__chunk_slice(ctx, g->out + i, g->dim, index, g->share[i], out + i);
    chunk.index = index;
    chunk.start = index * g->size;
    chunk.length = in[0].shape[g->dim];
    chunk.worker = worker;
    chunk.inputs = g->inputs;
    chunk.outputs = g->outputs;
    chunk.in = in;
    chunk.out = out;
    if (status == TFB_OK) status = g->forward(ctx, g->user, &chunk);
    return tfb__scratch_end(ctx, mark, status);
}

/* Hands on what a chunk returned; message may be ctx's own, which is overwritten. */
static tfb_status tfb__chunk_fail(tfb_ctx *ctx, const tfb__chunks *g, tfb_idx index,
                                  tfb_status status, const char *message) {
    char text[TFB_MESSAGE_BYTES];
    memcpy(text, message, sizeof text);
    text[sizeof text - 1] = 0;
    return tfb__fail(ctx, status, "%s: chunk %d: %s", g->fn, index,
                     text[0] ? text : tfb_status_text(status));
}

/* A block for all that the first chunk needed: scratch that only calls inside have taken
 * is gone by now, and each chunk would allocate it again. Without it they do. */
static void tfb__chunk_reserve(tfb_ctx *ctx) {
    const size_t need = ctx->scratch_last - ctx->used;
    if (ctx->alloc && !ctx->measuring) tfb__scratch_reserve(ctx, need);
}

/* A measuring context calls the first and the last chunk: which needs more is not known,
 * as a shorter one may be computed in another way. */
static tfb_status tfb__chunks_serial(tfb_ctx *ctx, const tfb__chunks *g) {
    const tfb_idx step = ctx->measuring && g->count > 1 ? g->count - 1 : 1;
    tfb_idx i;
    for (i = 0; i < g->count; i += step) {
        const tfb_status status = tfb__chunk_run(ctx, g, i, 0);
        if (status != TFB_OK) return tfb__chunk_fail(ctx, g, i, status, ctx->message);
        if (i == 0) tfb__chunk_reserve(ctx);
    }
    return TFB_OK;
}

/* A new context, without memory, that computes as another does. */
static void tfb__ctx_like(tfb_ctx *ctx, const tfb_ctx *like) {
    memset((void *)ctx, 0, sizeof *ctx);
    ctx->isa = like->isa;
    ctx->cpu = like->cpu;
}

/* The scratch of a worker. */
static tfb_status tfb__chunks_need(tfb_ctx *ctx, const tfb__chunks *g, size_t *need) {
    tfb__mark mark;
    tfb_status status;
    tfb_ctx probe;
    tfb__ctx_like(&probe, ctx);
    probe.measuring = 1;
    mark = tfb__scratch_begin(&probe);
    status = tfb__chunks_serial(&probe, g);
    *need = probe.scratch_last;
    memcpy(ctx->message, probe.message, sizeof ctx->message);
    return tfb__scratch_end(&probe, mark, status);
}

/* A chunk behind one that has failed is not begun; one before it is, so that the lowest
 * to fail is the same for any number of workers. */
static void tfb__chunk_body(void *arg, tfb_idx i, int worker) {
    const tfb__chunks *g = (const tfb__chunks *)arg;
    tfb__chunk_worker *w = g->worker + worker;
    tfb_status status;
    int k;
    for (k = 0; k < g->workers; k++)
        if (TFB__ATOMIC_GET(&g->worker[k].failed) < i) return;
    status = tfb__chunk_run(&w->ctx, g, i, worker);
    if (status == TFB_OK) return;
    w->status = status;
    memcpy(w->message, w->ctx.message, sizeof w->message);
    TFB__ATOMIC_SET(&w->failed, i);
}

static tfb_status tfb__chunks_parallel(tfb_ctx *ctx, tfb__chunks *g) {
    const tfb__chunk_worker *first;
    size_t need;
    char *mem;
    int k;
    TFB__TRY(tfb__chunks_need(ctx, g, &need));
    g->workers = tfb__workers(ctx);
    g->worker = (tfb__chunk_worker *)tfb__take(ctx, g->workers, sizeof *g->worker);
    mem = (char *)tfb__take(ctx, g->workers, need);
    TFB__TRY(tfb__scratch_ready(ctx, g->fn));
    if (ctx->measuring) return TFB_OK;
    for (k = 0; k < g->workers; k++) {
        tfb__chunk_worker *w = g->worker + k;
        tfb__ctx_like(&w->ctx, ctx);
        w->ctx.mem = need ? mem + (size_t)k * need : NULL;
        w->ctx.mem_bytes = need;
        w->failed = g->count;
    }
    tfb__parallel(ctx, g->count, tfb__chunk_body, g);
    for (first = g->worker, k = 1; k < g->workers; k++)
        if (g->worker[k].failed < first->failed) first = g->worker + k;
    if (first->failed == g->count) return TFB_OK;
    return tfb__chunk_fail(ctx, g, first->failed, first->status, first->message);
}

static tfb_status tfb__chunks_run(tfb_ctx *ctx, tfb__chunks *g) {
    const int shared = g->o.parallel && g->count > 1 && tfb__workers(ctx) > 1;
    const tfb__mark mark = tfb__scratch_begin(ctx);
    const tfb_status status =
        shared ? tfb__chunks_parallel(ctx, g) : tfb__chunks_serial(ctx, g);
    if (status == TFB_OK) ctx->message[0] = 0; /* of calls that forward did without */
    return tfb__scratch_end(ctx, mark, status);
}

TFB_API tfb_status tfb_chunked_forward(tfb_ctx *ctx, tfb_chunk_fn forward, void *user,
                                       const tfb_tensor *inputs, int n_inputs,
                                       tfb_tensor *outputs, int n_outputs,
                                       const tfb_chunk_opts *opts) {
    tfb__chunks g = tfb__chunks_of("tfb_chunked_forward", forward, user, inputs, n_inputs,
                                   outputs, n_outputs, opts);
    TFB__ENTER(ctx);
    TFB__TRY(tfb__chunks_inputs(ctx, &g));
    TFB__TRY(tfb__chunks_outputs(ctx, &g));
    TFB__TRY(tfb__chunks_cut(ctx, &g, g.o.chunk_size));
    return tfb__chunks_run(ctx, &g);
}

/* From the largest size down, each tried: a smaller one mostly needs less, not always. */
static tfb_status tfb__chunk_size_find(tfb_ctx *ctx, tfb_ctx *probe, tfb__chunks *g,
                                       size_t bytes, tfb_idx *chunk_size) {
    tfb_status failed = TFB_OK;
    tfb_idx size, tried = -1;
    size_t need = 0;
    for (size = g->length; size == g->length || size > 0; size--) {
        tfb_status status;
        if (!g->o.remainder && size && g->length % size) continue;
        if (tfb__chunks_cut(probe, g, size) != TFB_OK) continue;
        status = tfb__chunks_run(probe, g);
        if (status == TFB_OK && probe->scratch_last <= bytes) {
            ctx->message[0] = 0;
            *chunk_size = size;
            return TFB_OK;
        }
        if (status == TFB_OK) {
            tried = size;
            need = probe->scratch_last;
        } else {
            failed = status;
            memcpy(ctx->message, probe->message, sizeof ctx->message);
        }
    }
    if (tried < 0) return failed;
    return tfb__fail(ctx, TFB_ERR_SCRATCH, "%s: bytes is %d, chunks of %d need %d", g->fn,
                     (tfb_idx)bytes, tried, (tfb_idx)need);
}

TFB_API tfb_status tfb_chunk_size_for(tfb_ctx *ctx, tfb_chunk_fn forward, void *user,
                                      const tfb_tensor *inputs, int n_inputs,
                                      tfb_tensor *outputs, int n_outputs,
                                      const tfb_chunk_opts *opts, size_t bytes,
                                      tfb_idx *chunk_size) {
    tfb__chunks g = tfb__chunks_of("tfb_chunk_size_for", forward, user, inputs, n_inputs,
                                   outputs, n_outputs, opts);
    tfb_status status;
    tfb_ctx probe;
    TFB__ENTER(ctx);
    TFB__REQUIRE(chunk_size, ctx, TFB_ERR_ARG, "%s: chunk_size is NULL", g.fn);
    tfb__ctx_like(&probe, ctx);
    probe.measuring = 1;
    probe.workers = ctx->workers;
    g.o.chunk_size = 0;
    status = tfb__chunks_inputs(&probe, &g);
    if (status == TFB_OK) status = tfb__chunks_outputs(&probe, &g);
    if (status == TFB_OK) return tfb__chunk_size_find(ctx, &probe, &g, bytes, chunk_size);
    memcpy(ctx->message, probe.message, sizeof ctx->message);
    return status;
}
#endif /* TFB_NO_CHUNKS */

/* ===== [19] CONVOLUTION AND SCANS =================================================== */
/* Channels go in panels of 16, some panels to a task, which takes them through all tokens
 * of a sequence, some rows of tokens at a time. Rows are copied to [rows][16], whatever
 * their strides, before outputs of them are written: so y may be an input, and scratch
 * does not depend on T. */

#define TFB__SCAN_ROWS   32 /* tokens at a time: their rows stay in the first cache */
#define TFB__SCAN_PANELS 4  /* of a task: 64 channels are whole cache lines of a token */
#define TFB__SCAN_WIDTH  (TFB__SCAN_PANELS * TFB__PANEL)

/* Where an element of t is; NULL stays NULL. */
static float *tfb__place3(const tfb_tensor *t, tfb_idx i, tfb_idx j, tfb_idx k) {
    const tfb_idx *s = t->stride;
    return t->data ? (float *)t->data + i * s[0] + j * s[1] + k * s[2] : NULL;
}

static float *tfb__place4(const tfb_tensor *t, tfb_idx i, tfb_idx j, tfb_idx k,
                          tfb_idx l) {
    return t->data ? (float *)t->data + tfb__at4(t, i, j, k, l) : NULL;
}

/* Packs and cached rows are little-endian: their numbers become this machine's. */
static void tfb__from_little(float *p, tfb_idx n) {
    tfb_idx i;
    for (i = 0; TFB__BIG_ENDIAN && i < n; i++) p[i] = tfb__load_le(p + i);
}

/* panel[j * 16 + i] = x[i * ls + j * ks] for i < n <= 16, j < k; other lanes are +0. */
static void tfb__panel_in(const tfb__kernels *isa, const float *x, tfb_idx ls, tfb_idx ks,
                          tfb_idx k, tfb_idx n, float *panel) {
    const size_t row = TFB__PANEL * sizeof *panel; /* known when compiled: no call */
    tfb__source from;
    tfb_idx i;
    memset((void *)&from, 0, sizeof from);
    from.x = x;
    from.dtype = TFB_F32;
    from.lane_stride = n > 1 ? ls : 1; /* of one lane or step it may be anything */
    from.k_stride = k > 1 ? ks : 1;
    for (i = 0; ls == 1 && n == TFB__PANEL && i < k; i++)
        memcpy((void *)(panel + i * TFB__PANEL), (const void *)(x + i * ks), row);
    if (i == k) return;
    TFB__KERNEL(isa, pack)(&from, k, n, TFB__PANEL, panel);
    tfb__from_little(panel, k * TFB__PANEL);
}

/* A row of 16: n values from e on of a vector [E] or of row h of [H, P]; zeros if there
 * is none. */
static void tfb__panel_of(const tfb__kernels *isa, const tfb_tensor *t, tfb_idx h,
                          tfb_idx e, tfb_idx n, float *row) {
    const tfb_idx step = t->ndim ? t->stride[t->ndim - 1] : 0;
    const tfb_idx at = t->ndim > 1 ? h * t->stride[0] + e * step : e * step;
    if (t->ndim) tfb__panel_in(isa, (const float *)t->data + at, step, 0, 1, n, row);
    else memset((void *)row, 0, TFB__PANEL * sizeof *row);
}

/* y[i * ls + j * ks] = panel[j * 16 + i]; turned has room for as much. */
static void tfb__panel_out(const tfb__kernels *isa, const float *panel, tfb_idx k,
                           tfb_idx n, float *y, tfb_idx ls, tfb_idx ks, float *turned) {
    const size_t row = TFB__PANEL * sizeof *y;
    tfb_idx i, j;
    for (j = 0; ls == 1 && n == TFB__PANEL && j < k; j++)
        memcpy((void *)(y + j * ks), (const void *)(panel + j * TFB__PANEL), row);
    for (; ls == 1 && j < k; j++)
        memcpy((void *)(y + j * ks), (const void *)(panel + j * TFB__PANEL),
               (size_t)n * sizeof *y);
    if (ls == 1) return;
    TFB__KERNEL(isa, collect)(n, k, panel, 1, TFB__PANEL, turned);
    for (i = 0; i < n; i++) {
        const float *from = turned + i * k;
        float *to = y + i * ls;
        if (ks == 1) memcpy((void *)to, (const void *)from, (size_t)k * sizeof *y);
        else
            for (j = 0; j < k; j++) to[j * ks] = from[j];
    }
}

/* The next `count` panels of n rows of a worker's memory, of which *used are in use; only
 * counts if there is no memory. */
static float *tfb__panels(char *memory, size_t *used, int count, tfb_idx n) {
    float *p = memory ? (float *)(void *)(memory + *used) : NULL;
    const size_t row = TFB__PANEL * sizeof(float);
    *used =
        tfb__size_add(*used, tfb__size_mul((size_t)n, tfb__size_mul((size_t)count, row)));
    return p;
}

/* F32 with exactly these extents. */
static tfb_status tfb__check_shape(tfb_ctx *ctx, const char *fn, const char *name,
                                   const tfb_tensor *t, int ndim, const tfb_idx *shape) {
    int i;
    TFB__TRY(tfb__check(ctx, fn, name, t, TFB__MASK(TFB_F32), ndim, ndim));
    for (i = 0; i < ndim; i++) TFB__TRY(tfb__check_extent(ctx, fn, name, t, i, shape[i]));
    return TFB_OK;
}

#ifndef TFB_NO_SCAN
/* --- Convolution. --- */
typedef struct tfb__conv_call {
    tfb_tensor x, w, y, bias, state; /* bias, state: ndim 0 if absent */
    tfb_idx rows, blocks;            /* tokens at a time, tasks of a sequence */
    tfb_fn act;
    size_t worker_bytes;
    char *scratch;
    const tfb__kernels *isa;
} tfb__conv_call;

/* A worker's memory: weights, bias and inputs of each panel, results of one. */
typedef struct tfb__conv_room {
    float *w, *bias, *x, *y, *turned;
} tfb__conv_room;

static size_t tfb__conv_carve(const tfb__conv_call *s, char *memory, tfb__conv_room *m) {
    const tfb_idx K = s->w.shape[1], n = K - 1 + s->rows;
    size_t used = 0;
    m->w = tfb__panels(memory, &used, TFB__SCAN_PANELS, K);
    m->bias = tfb__panels(memory, &used, TFB__SCAN_PANELS, 1);
    m->x = tfb__panels(memory, &used, TFB__SCAN_PANELS, n);
    m->y = tfb__panels(memory, &used, 1, s->rows);
    m->turned = tfb__panels(memory, &used, 1, n);
    return used;
}

/* Weights, bias and the inputs before the first of n channels from e on. */
static void tfb__conv_begin(const tfb__conv_call *s, tfb_idx b, tfb_idx e, tfb_idx n,
                            const tfb__conv_room *m) {
    const tfb_idx K = s->w.shape[1], *ws = s->w.stride, *ss = s->state.stride;
    tfb__panel_in(s->isa, (const float *)s->w.data + e * ws[0], ws[0], ws[1], K, n, m->w);
    tfb__panel_of(s->isa, &s->bias, 0, e, n, m->bias);
    if (s->state.ndim && K > 1)
        tfb__panel_in(s->isa, tfb__place3(&s->state, b, 0, e), ss[2], ss[1], K - 1, n,
                      m->x);
    else memset((void *)m->x, 0, (size_t)((K - 1) * TFB__PANEL) * sizeof *m->x);
}

/* Some rows from t on; then the last K - 1 inputs of all so far stand in front in x. */
static void tfb__conv_rows(const tfb__conv_call *s, tfb_idx b, tfb_idx t, tfb_idx e,
                           tfb_idx n, const tfb__conv_room *m) {
    const tfb_idx K = s->w.shape[1];
    tfb__conv k;
    k.rows = TFB__MIN(s->rows, s->x.shape[1] - t);
    k.taps = K;
    k.x = m->x;
    k.w = m->w;
    k.bias = m->bias;
    k.y = m->y;
    k.act = s->act;
    tfb__panel_in(s->isa, tfb__place3(&s->x, b, t, e), s->x.stride[2], s->x.stride[1],
                  k.rows, n, m->x + (K - 1) * TFB__PANEL);
    TFB__KERNEL(s->isa, conv)(&k);
    memmove((void *)m->x, (const void *)(m->x + k.rows * TFB__PANEL),
            (size_t)((K - 1) * TFB__PANEL) * sizeof *m->x);
    tfb__panel_out(s->isa, m->y, k.rows, n, tfb__place3(&s->y, b, t, e), s->y.stride[2],
                   s->y.stride[1], m->turned);
}

/* What the panel number i of a task has of the worker's memory. */
static tfb__conv_room tfb__conv_panel(const tfb__conv_call *s, tfb__conv_room all,
                                      tfb_idx i) {
    const tfb_idx K = s->w.shape[1];
    all.w += i * K * TFB__PANEL;
    all.bias += i * TFB__PANEL;
    all.x += i * (K - 1 + s->rows) * TFB__PANEL;
    return all;
}

static void tfb__conv_task(void *arg, tfb_idx task, int worker) {
    const tfb__conv_call *s = (const tfb__conv_call *)arg;
    const tfb_idx b = task / s->blocks, lo = task % s->blocks * TFB__SCAN_WIDTH;
    const tfb_idx all = TFB__MIN(s->x.shape[2] - lo, TFB__SCAN_WIDTH);
    tfb__conv_room room, m;
    tfb_idx t, e;
    tfb__conv_carve(s, s->scratch + s->worker_bytes * (size_t)worker, &room);
    for (e = 0; e < all; e += TFB__PANEL) {
        m = tfb__conv_panel(s, room, e / TFB__PANEL);
        tfb__conv_begin(s, b, lo + e, TFB__MIN(TFB__PANEL, all - e), &m);
    }
    for (t = 0; t < s->x.shape[1]; t += s->rows)
        for (e = 0; e < all; e += TFB__PANEL) {
            m = tfb__conv_panel(s, room, e / TFB__PANEL);
            tfb__conv_rows(s, b, t, lo + e, TFB__MIN(TFB__PANEL, all - e), &m);
        }
    for (e = 0; e < all && s->state.ndim && s->w.shape[1] > 1; e += TFB__PANEL) {
        m = tfb__conv_panel(s, room, e / TFB__PANEL);
        tfb__panel_out(s->isa, m.x, s->w.shape[1] - 1, TFB__MIN(TFB__PANEL, all - e),
                       tfb__place3(&s->state, b, 0, lo + e), s->state.stride[2],
                       s->state.stride[1], m.turned);
    }
}

static tfb_status tfb__conv_setup(tfb_ctx *ctx, const char *fn, const tfb_tensor *x,
                                  const tfb_tensor *w, const tfb_conv1d_opts *o,
                                  const tfb_tensor *y, tfb__conv_call *s) {
    const int f32 = TFB__MASK(TFB_F32);
    tfb_idx shape[3];
    memset((void *)s, 0, sizeof *s);
    TFB__TRY(tfb__check(ctx, fn, "x", x, f32, 3, 3));
    TFB__TRY(tfb__check(ctx, fn, "w", w, f32, 2, 2));
    TFB__TRY(tfb__check_extent(ctx, fn, "w", w, 0, x->shape[2]));
    TFB__REQUIRE(w->shape[1] > 0, ctx, TFB_ERR_SHAPE, "%s: w.shape[1] is 0", fn);
    TFB__TRY(tfb__check_vector(ctx, fn, "bias", o->bias, f32, x->shape[2]));
    TFB__REQUIRE((unsigned)o->act < (unsigned)TFB__ACTS, ctx, TFB_ERR_ARG,
                 "%s: act is %d, which is no activation", fn, (tfb_idx)o->act);
    TFB__TRY(tfb__check_shape(ctx, fn, "y", y, 3, x->shape));
    TFB__TRY(tfb__check_out(ctx, fn, "y", y));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "x", x, 1));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "w", w, 0));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "bias", o->bias, 0));
    s->x = *x;
    s->w = *w;
    s->y = *y;
    s->act = o->act;
    if (o->bias) s->bias = *o->bias;
    if (!o->state) return TFB_OK;
    shape[0] = x->shape[0];
    shape[1] = w->shape[1] - 1;
    shape[2] = x->shape[2];
    TFB__TRY(tfb__check_shape(ctx, fn, "state", o->state, 3, shape));
    TFB__TRY(tfb__check_out(ctx, fn, "state", o->state));
    TFB__TRY(tfb__check_alias(ctx, fn, "state", o->state, "x", x, 0));
    TFB__TRY(tfb__check_alias(ctx, fn, "state", o->state, "w", w, 0));
    TFB__TRY(tfb__check_alias(ctx, fn, "state", o->state, "bias", o->bias, 0));
    TFB__TRY(tfb__check_alias(ctx, fn, "state", o->state, "y", y, 0));
    s->state = *o->state;
    return TFB_OK;
}

TFB_API tfb_status tfb_causal_conv1d(tfb_ctx *ctx, const tfb_tensor *x,
                                     const tfb_tensor *w, const tfb_conv1d_opts *opts,
                                     tfb_tensor *y) {
    const char *fn = "tfb_causal_conv1d";
    tfb_conv1d_opts none;
    tfb__conv_call s;
    tfb__conv_room m;
    tfb__mark mark;
    tfb_status status;
    TFB__ENTER(ctx);
    memset((void *)&none, 0, sizeof none);
    TFB__TRY(tfb__conv_setup(ctx, fn, x, w, opts ? opts : &none, y, &s));
    if (tfb_numel(y) == 0) return TFB_OK;
    s.isa = ctx->isa;
    s.rows = TFB__MIN(TFB__SCAN_ROWS, x->shape[1]);
    s.blocks = (x->shape[2] + TFB__SCAN_WIDTH - 1) / TFB__SCAN_WIDTH;
    s.worker_bytes = tfb__conv_carve(&s, NULL, &m);
    mark = tfb__scratch_begin(ctx);
    s.scratch = (char *)tfb__take(ctx, tfb__workers(ctx), s.worker_bytes);
    status = tfb__scratch_ready(ctx, fn);
    if (status == TFB_OK && !ctx->measuring)
        tfb__parallel(ctx, x->shape[0] * s.blocks, tfb__conv_task, &s);
    return tfb__scratch_end(ctx, mark, status);
}

/* --- Scans. --- */
/* One form for both: heads H of P channels each, which share b and c and, in tfb_ssd, dt,
 * a, d and bias too (strides of 0). In tfb_selective_scan a head is a group. */
typedef struct tfb__scan_call {
    tfb_tensor x, dt, z, y, b, c; /* [B, T, H, P]; [B, T, G, N] */
    tfb_tensor a, d, bias, state; /* [H, P, N]; [H, P]; [B, H, P, N]; absent: ndim 0 */
    tfb_idx rows, blocks;         /* tokens at a time, tasks of a head */
    int softplus, one;
    size_t worker_bytes;
    char *scratch;
    const tfb__kernels *isa;
} tfb__scan_call;

/* A worker's memory: a, d, bias and states of each panel, rows of one. */
typedef struct tfb__scan_room {
    float *a, *d, *bias, *h, *x, *dt, *dx, *z, *y, *turned, *b, *c;
} tfb__scan_room;

static int tfb__scan_gaps(const tfb_tensor *t) { /* or no memory at all */
    return (t->stride[3] != 1 && t->shape[3] > 1) || t->shape[3] == 0;
}

static size_t tfb__scan_carve(const tfb__scan_call *s, char *memory, tfb__scan_room *m) {
    const tfb_idx N = s->b.shape[3], all = TFB__PANEL_COUNT(N) * s->rows;
    size_t used = 0;
    m->a = tfb__panels(memory, &used, TFB__SCAN_PANELS, s->one ? 1 : N);
    m->d = tfb__panels(memory, &used, TFB__SCAN_PANELS, 1);
    m->bias = tfb__panels(memory, &used, TFB__SCAN_PANELS, 1);
    m->h = tfb__panels(memory, &used, TFB__SCAN_PANELS, N);
    m->x = tfb__panels(memory, &used, 1, s->rows);
    m->dt = tfb__panels(memory, &used, 1, s->rows);
    m->dx = tfb__panels(memory, &used, 1, s->one ? s->rows : 0);
    m->z = tfb__panels(memory, &used, 1, s->z.ndim ? s->rows : 0);
    m->y = tfb__panels(memory, &used, 1, s->rows);
    m->turned = tfb__panels(memory, &used, 1, TFB__MAX(N, s->rows));
    m->b = tfb__panels(memory, &used, 1, tfb__scan_gaps(&s->b) ? all : 0);
    m->c = tfb__panels(memory, &used, 1, tfb__scan_gaps(&s->c) ? all : 0);
    return used;
}

/* Rows t .. of b or c where their elements lie side by side; *step is from row to row. */
static const float *tfb__scan_side(const tfb_tensor *t, tfb_idx b, tfb_idx row, tfb_idx g,
                                   tfb_idx rows, float *copy, tfb_idx *step) {
    const float *from = tfb__place4(t, b, row, g, 0);
    const tfb_idx N = t->shape[3];
    tfb_idx i, k;
    *step = t->stride[1];
    if (!tfb__scan_gaps(t)) return from;
    for (k = 0; k < N; k++)
        for (i = 0; i < rows; i++)
            copy[i * N + k] = from[i * t->stride[1] + k * t->stride[3]];
    *step = N;
    return copy;
}

/* What n channels of head h from p on have for all tokens, and their states. */
static void tfb__scan_begin(const tfb__scan_call *s, tfb_idx b, tfb_idx h, tfb_idx p,
                            tfb_idx n, const tfb__scan_room *m) {
    const tfb_idx N = s->b.shape[3], *as = s->a.stride, *ss = s->state.stride;
    if (s->one || N)
        tfb__panel_in(s->isa, tfb__place3(&s->a, h, p, 0), as[1], as[2], s->one ? 1 : N,
                      n, m->a);
    tfb__panel_of(s->isa, &s->d, h, p, n, m->d);
    tfb__panel_of(s->isa, &s->bias, h, p, n, m->bias);
    if (s->state.ndim && N)
        tfb__panel_in(s->isa, tfb__place4(&s->state, b, h, p, 0), ss[2], ss[3], N, n,
                      m->h);
    else memset((void *)m->h, 0, (size_t)(N * TFB__PANEL) * sizeof *m->h);
}

/* Announces the rows from t on, a whole set of them if they lie side by side: they begin
 * in other pages, which no hardware foresees. */
static void tfb__scan_next(const tfb_tensor *x, tfb_idx b, tfb_idx t, tfb_idx h,
                           tfb_idx p, int i, tfb__scan *k) {
    const int some = x->ndim && x->stride[3] == 1 && t + k->rows <= x->shape[1];
    k->next[i] = some ? tfb__place4(x, b, t, h, p) : NULL;
    k->next_step[i] = x->stride[1];
}

/* k has what the panels of these rows share. */
static void tfb__scan_rows(const tfb__scan_call *s, tfb_idx b, tfb_idx t, tfb_idx h,
                           tfb_idx p, tfb_idx n, const tfb__scan_room *m, tfb__scan *k) {
    const tfb_idx *xs = s->x.stride, *dts = s->dt.stride, *ys = s->y.stride;
    tfb__panel_in(s->isa, tfb__place4(&s->x, b, t, h, p), xs[3], xs[1], k->rows, n, m->x);
    tfb__panel_in(s->isa, tfb__place4(&s->dt, b, t, h, p), dts[3], dts[1], k->rows, n,
                  m->dt);
    if (s->z.ndim)
        tfb__panel_in(s->isa, tfb__place4(&s->z, b, t, h, p), s->z.stride[3],
                      s->z.stride[1], k->rows, n, m->z);
    k->x = m->x;
    k->dt = m->dt;
    k->dx = m->dx;
    k->z = s->z.ndim ? m->z : NULL;
    k->y = m->y;
    k->a = m->a;
    k->d = s->d.ndim ? m->d : NULL;
    k->bias = m->bias;
    k->h = m->h;
    tfb__scan_next(&s->x, b, t + k->rows, h, p, 0, k);
    tfb__scan_next(&s->dt, b, t + k->rows, h, p, 1, k);
    tfb__scan_next(&s->z, b, t + k->rows, h, p, 2, k);
    tfb__scan_next(&s->y, b, t + k->rows, h, p, 3, k);
    TFB__KERNEL(s->isa, scan)(k);
    tfb__panel_out(s->isa, m->y, k->rows, n, tfb__place4(&s->y, b, t, h, p), ys[3], ys[1],
                   m->turned);
}

/* What the panel number i of a task has of the worker's memory. */
static tfb__scan_room tfb__scan_panel(const tfb__scan_call *s, tfb__scan_room all,
                                      tfb_idx i) {
    const tfb_idx N = s->b.shape[3];
    all.a += i * (s->one ? 1 : N) * TFB__PANEL;
    all.d += i * TFB__PANEL;
    all.bias += i * TFB__PANEL;
    all.h += i * N * TFB__PANEL;
    return all;
}

static void tfb__scan_task(void *arg, tfb_idx task, int worker) {
    const tfb__scan_call *s = (const tfb__scan_call *)arg;
    const tfb_idx T = s->x.shape[1], H = s->x.shape[2], g_heads = H / s->b.shape[2];
    const tfb_idx h = task / s->blocks % H, b = task / s->blocks / H;
    const tfb_idx lo = task % s->blocks * TFB__SCAN_WIDTH;
    const tfb_idx all = TFB__MIN(s->x.shape[3] - lo, TFB__SCAN_WIDTH);
    tfb__scan_room room, m;
    tfb__scan k;
    tfb_idx t, p;
    tfb__scan_carve(s, s->scratch + s->worker_bytes * (size_t)worker, &room);
    memset((void *)&k, 0, sizeof k);
    k.n = s->b.shape[3];
    k.softplus = s->softplus;
    k.one = s->one;
    for (p = 0; p < all; p += TFB__PANEL) {
        m = tfb__scan_panel(s, room, p / TFB__PANEL);
        tfb__scan_begin(s, b, h, lo + p, TFB__MIN(TFB__PANEL, all - p), &m);
    }
    for (t = 0; t < T; t += s->rows) {
        k.rows = TFB__MIN(s->rows, T - t);
        k.b = tfb__scan_side(&s->b, b, t, h / g_heads, k.rows, room.b, &k.bs);
        k.c = tfb__scan_side(&s->c, b, t, h / g_heads, k.rows, room.c, &k.cs);
        for (p = 0; p < all; p += TFB__PANEL) {
            m = tfb__scan_panel(s, room, p / TFB__PANEL);
            tfb__scan_rows(s, b, t, h, lo + p, TFB__MIN(TFB__PANEL, all - p), &m, &k);
        }
    }
    for (p = 0; p < all && s->state.ndim && k.n; p += TFB__PANEL) {
        m = tfb__scan_panel(s, room, p / TFB__PANEL);
        tfb__panel_out(s->isa, m.h, k.n, TFB__MIN(TFB__PANEL, all - p),
                       tfb__place4(&s->state, b, h, lo + p, 0), s->state.stride[2],
                       s->state.stride[3], m.turned);
    }
}

/* y and state must overlap none of the inputs; may_equal: y may be this one. */
static tfb_status tfb__scan_apart(tfb_ctx *ctx, const char *fn, const char *name,
                                  const tfb_tensor *t, const tfb_tensor *y,
                                  const tfb_tensor *state, int may_equal) {
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, name, t, may_equal));
    return tfb__check_alias(ctx, fn, "state", state, name, t, 0);
}

/* One check for both: dt, d and dt_bias have the extents of x's first dimensions. */
static tfb_status tfb__scan_check(tfb_ctx *ctx, const char *fn, const tfb_tensor *x,
                                  const tfb_tensor *dt, const tfb_tensor *a,
                                  const tfb_tensor *b, const tfb_tensor *c,
                                  const tfb_scan_opts *o, const tfb_tensor *y, int ssd) {
    const int f32 = TFB__MASK(TFB_F32), rank = ssd ? 4 : 3;
    tfb_idx shape[5];
    TFB__TRY(tfb__check(ctx, fn, "x", x, f32, rank, rank));
    TFB__TRY(tfb__check_shape(ctx, fn, "dt", dt, 3, x->shape));
    TFB__TRY(tfb__check(ctx, fn, "b", b, f32, 4, 4));
    TFB__TRY(tfb__check_like(ctx, fn, "b", b, x, 2));
    TFB__REQUIRE(b->shape[2] ? x->shape[2] % b->shape[2] == 0 : x->shape[2] == 0, ctx,
                 TFB_ERR_SHAPE, "%s: x.shape[2] is %d, no multiple of b's %d groups", fn,
                 x->shape[2], b->shape[2]);
    TFB__TRY(tfb__check_shape(ctx, fn, "c", c, 4, b->shape));
    memcpy(shape, x->shape, sizeof shape);
    shape[rank] = b->shape[3];
    shape[1] = x->shape[0]; /* B, then x's channels, then N */
    TFB__TRY(tfb__check(ctx, fn, "a", a, f32, ssd ? 1 : 2, ssd ? 1 : 2));
    TFB__TRY(tfb__check_extent(ctx, fn, "a", a, 0, x->shape[2]));
    if (!ssd) TFB__TRY(tfb__check_extent(ctx, fn, "a", a, 1, b->shape[3]));
    TFB__TRY(tfb__check_vector(ctx, fn, "d", o->d, f32, x->shape[2]));
    TFB__TRY(tfb__check_vector(ctx, fn, "dt_bias", o->dt_bias, f32, x->shape[2]));
    if (o->z) TFB__TRY(tfb__check_shape(ctx, fn, "z", o->z, rank, x->shape));
    TFB__TRY(tfb__check_shape(ctx, fn, "y", y, rank, x->shape));
    TFB__TRY(tfb__check_out(ctx, fn, "y", y));
    if (o->state) {
        TFB__TRY(tfb__check_shape(ctx, fn, "state", o->state, rank, shape + 1));
        TFB__TRY(tfb__check_out(ctx, fn, "state", o->state));
    }
    TFB__TRY(tfb__scan_apart(ctx, fn, "x", x, y, o->state, 1));
    TFB__TRY(tfb__scan_apart(ctx, fn, "dt", dt, y, o->state, !ssd));
    TFB__TRY(tfb__scan_apart(ctx, fn, "z", o->z, y, o->state, 1));
    TFB__TRY(tfb__scan_apart(ctx, fn, "a", a, y, o->state, 0));
    TFB__TRY(tfb__scan_apart(ctx, fn, "b", b, y, o->state, 0));
    TFB__TRY(tfb__scan_apart(ctx, fn, "c", c, y, o->state, 0));
    TFB__TRY(tfb__scan_apart(ctx, fn, "d", o->d, y, o->state, 0));
    TFB__TRY(tfb__scan_apart(ctx, fn, "dt_bias", o->dt_bias, y, o->state, 0));
    return tfb__check_alias(ctx, fn, "state", o->state, "y", y, 0);
}

/* Dimension dim of t as two, the first of n; NULL gives an absent one. A dimension that
 * is not there (dim == ndim) counts as repeated `inner` times. */
static tfb_tensor tfb__scan_split(const tfb_tensor *t, int dim, tfb_idx n,
                                  tfb_idx inner) {
    tfb_tensor v;
    int i;
    memset((void *)&v, 0, sizeof v);
    if (!t) return v;
    v = *t;
    v.ndim++;
    for (i = t->ndim; i > dim + 1; i--) {
        v.shape[i] = t->shape[i - 1];
        v.stride[i] = t->stride[i - 1];
    }
    v.shape[dim] = n;
    v.shape[dim + 1] = inner;
    v.stride[dim + 1] = t->stride[dim];
    v.stride[dim] = n > 1 ? inner * t->stride[dim] : 0;
    return v;
}

/* Adds a last dimension along which t repeats; NULL gives an absent one. */
static tfb_tensor tfb__scan_repeat(const tfb_tensor *t, tfb_idx n) {
    tfb_tensor v;
    memset((void *)&v, 0, sizeof v);
    if (!t) return v;
    v = *t;
    v.shape[v.ndim] = n;
    v.stride[v.ndim++] = 0;
    return v;
}

/* x has elements. */
static void tfb__scan_views(const tfb_tensor *x, const tfb_tensor *dt,
                            const tfb_tensor *a, const tfb_scan_opts *o,
                            const tfb_tensor *y, tfb__scan_call *s) {
    const tfb_idx N = s->b.shape[3];
    if (s->one) {
        const tfb_idx P = x->shape[3];
        s->x = *x;
        s->y = *y;
        if (o->z) s->z = *o->z;
        if (o->state) s->state = *o->state;
        s->dt = tfb__scan_repeat(dt, P);
        s->a = tfb__scan_repeat(a, P);
        s->a = tfb__scan_repeat(&s->a, N);
        s->d = tfb__scan_repeat(o->d, P);
        s->bias = tfb__scan_repeat(o->dt_bias, P);
    } else {
        const tfb_idx G = s->b.shape[2], P = x->shape[2] / G;
        s->x = tfb__scan_split(x, 2, G, P);
        s->y = tfb__scan_split(y, 2, G, P);
        s->z = tfb__scan_split(o->z, 2, G, P);
        s->dt = tfb__scan_split(dt, 2, G, P);
        s->state = tfb__scan_split(o->state, 1, G, P);
        s->a = tfb__scan_split(a, 0, G, P);
        s->d = tfb__scan_split(o->d, 0, G, P);
        s->bias = tfb__scan_split(o->dt_bias, 0, G, P);
    }
}

static tfb_status tfb__scan_run(tfb_ctx *ctx, const char *fn, const tfb_tensor *x,
                                const tfb_tensor *dt, const tfb_tensor *a,
                                const tfb_tensor *b, const tfb_tensor *c,
                                const tfb_scan_opts *opts, const tfb_tensor *y, int ssd) {
    tfb_scan_opts o;
    tfb__scan_call s;
    tfb__scan_room m;
    tfb__mark mark;
    tfb_status status;
    memset((void *)&o, 0, sizeof o);
    memset((void *)&s, 0, sizeof s);
    if (opts) o = *opts;
    TFB__TRY(tfb__scan_check(ctx, fn, x, dt, a, b, c, &o, y, ssd));
    if (tfb_numel(y) == 0) return TFB_OK;
    s.b = *b;
    s.c = *c;
    s.softplus = o.softplus;
    s.one = ssd;
    s.isa = ctx->isa;
    tfb__scan_views(x, dt, a, &o, y, &s);
    s.rows = TFB__MIN(TFB__SCAN_ROWS, x->shape[1]);
    s.blocks = (s.x.shape[3] + TFB__SCAN_WIDTH - 1) / TFB__SCAN_WIDTH;
    s.worker_bytes = tfb__scan_carve(&s, NULL, &m);
    mark = tfb__scratch_begin(ctx);
    s.scratch = (char *)tfb__take(ctx, tfb__workers(ctx), s.worker_bytes);
    status = tfb__scratch_ready(ctx, fn);
    if (status == TFB_OK && !ctx->measuring)
        tfb__parallel(ctx, x->shape[0] * s.x.shape[2] * s.blocks, tfb__scan_task, &s);
    return tfb__scratch_end(ctx, mark, status);
}

TFB_API tfb_status tfb_selective_scan(tfb_ctx *ctx, const tfb_tensor *x,
                                      const tfb_tensor *dt, const tfb_tensor *a,
                                      const tfb_tensor *b, const tfb_tensor *c,
                                      const tfb_scan_opts *opts, tfb_tensor *y) {
    TFB__ENTER(ctx);
    return tfb__scan_run(ctx, "tfb_selective_scan", x, dt, a, b, c, opts, y, 0);
}

TFB_API tfb_status tfb_ssd(tfb_ctx *ctx, const tfb_tensor *x, const tfb_tensor *dt,
                           const tfb_tensor *a, const tfb_tensor *b, const tfb_tensor *c,
                           const tfb_scan_opts *opts, tfb_tensor *y) {
    TFB__ENTER(ctx);
    return tfb__scan_run(ctx, "tfb_ssd", x, dt, a, b, c, opts, y, 1);
}

/* --- References. y overlaps no input. --- */
static float tfb__vector_at(const tfb_tensor *t, tfb_idx i) { /* 0 without a vector */
    return t ? ((const float *)t->data)[i * t->stride[0]] : 0.0f;
}

/* The input of token t, one before the first if t < 0. */
static float tfb__conv_input_ref(const tfb_tensor *x, const tfb_conv1d_opts *o, tfb_idx b,
                                 tfb_idx t, tfb_idx e) {
    if (t >= 0) return *tfb__place3(x, b, t, e);
    return o->state ? *tfb__place3(o->state, b, o->state->shape[1] + t, e) : 0.0f;
}

TFB__UNUSED static void tfb__causal_conv1d_ref(const tfb_tensor *x, const tfb_tensor *w,
                                               const tfb_conv1d_opts *o, tfb_tensor *y) {
    const tfb_idx T = x->shape[1], K = w->shape[1];
    tfb_idx b, e, t, j;
    for (b = 0; b < x->shape[0]; b++)
        for (e = 0; e < x->shape[2]; e++) {
            for (t = 0; t < T; t++) {
                const float *tap = (const float *)w->data + e * w->stride[0];
                float sum = 0, block = 0, *to = tfb__place3(y, b, t, e);
                for (j = 0; j < K; j++) {
                    const float in = tfb__conv_input_ref(x, o, b, t - (K - 1) + j, e);
                    block = TFB__FMA(tap[j * w->stride[1]], in, block);
                    if (j % TFB__BLOCK != TFB__BLOCK - 1 && j < K - 1) continue;
                    sum = j < TFB__BLOCK ? block : sum + block;
                    block = 0;
                }
                sum = TFB__FMA(1.0f, sum, tfb__vector_at(o->bias, e));
                tfb__map_scalar(o->act, 1, &sum, to);
            }
            for (j = 0; o->state && j < K - 1; j++)
                *tfb__place3(o->state, b, j, e) =
                    tfb__conv_input_ref(x, o, b, T - (K - 1) + j, e);
        }
}

/* One channel, one token: n states h, hs apart, are decayed, fed and read. */
static float tfb__scan_step_ref(tfb_idx n, float x, float delta, const float *a,
                                tfb_idx as, const float *b, tfb_idx bs, const float *c,
                                tfb_idx cs, float *h, tfb_idx hs) {
    float y = 0;
    tfb_idx k;
    for (k = 0; k < n; k++) {
        const float decay = tfb__exp_scalar(delta * a[k * as]);
        h[k * hs] = TFB__FMA(decay, h[k * hs], (delta * x) * b[k * bs]);
        y = TFB__FMA(h[k * hs], c[k * cs], y);
    }
    return y;
}

static float tfb__scan_delta_ref(const tfb_scan_opts *o, float dt, tfb_idx i) {
    const float sum = dt + tfb__vector_at(o->dt_bias, i);
    return o->softplus ? tfb__softplus_scalar(sum) : sum;
}

/* opts.state must be there: the zeros that stand for none, if need be. */
TFB__UNUSED static void tfb__selective_scan_ref(const tfb_tensor *x, const tfb_tensor *dt,
                                                const tfb_tensor *a, const tfb_tensor *b,
                                                const tfb_tensor *c,
                                                const tfb_scan_opts *o, tfb_tensor *y) {
    const tfb_idx E = x->shape[2], G = b->shape[2], N = a->shape[1];
    tfb_idx i, t, e;
    for (i = 0; i < x->shape[0]; i++)
        for (t = 0; t < x->shape[1]; t++)
            for (e = 0; e < E; e++) {
                const tfb_idx g = e / (E / G);
                const float in = *tfb__place3(x, i, t, e);
                const float delta = tfb__scan_delta_ref(o, *tfb__place3(dt, i, t, e), e);
                float sum = tfb__scan_step_ref(
                    N, in, delta, (const float *)a->data + e * a->stride[0], a->stride[1],
                    tfb__place4(b, i, t, g, 0), b->stride[3], tfb__place4(c, i, t, g, 0),
                    c->stride[3], tfb__place3(o->state, i, e, 0), o->state->stride[2]);
                if (o->d) sum = TFB__FMA(tfb__vector_at(o->d, e), in, sum);
                if (o->z) sum = sum * tfb__silu_scalar(*tfb__place3(o->z, i, t, e));
                *tfb__place3(y, i, t, e) = sum;
            }
}

TFB__UNUSED static void tfb__ssd_ref(const tfb_tensor *x, const tfb_tensor *dt,
                                     const tfb_tensor *a, const tfb_tensor *b,
                                     const tfb_tensor *c, const tfb_scan_opts *o,
                                     tfb_tensor *y) {
    const tfb_idx H = x->shape[2], P = x->shape[3], G = b->shape[2];
    tfb_idx i, t, h, p;
    for (i = 0; i < x->shape[0]; i++)
        for (t = 0; t < x->shape[1]; t++)
            for (h = 0; h < H; h++) {
                const tfb_idx g = h / (H / G);
                const float delta = tfb__scan_delta_ref(o, *tfb__place3(dt, i, t, h), h);
                for (p = 0; p < P; p++) {
                    const float in = *tfb__place4(x, i, t, h, p);
                    float sum = tfb__scan_step_ref(
                        b->shape[3], in, delta, (const float *)a->data + h * a->stride[0],
                        0, tfb__place4(b, i, t, g, 0), b->stride[3],
                        tfb__place4(c, i, t, g, 0), c->stride[3],
                        tfb__place4(o->state, i, h, p, 0), o->state->stride[3]);
                    if (o->d) sum = TFB__FMA(tfb__vector_at(o->d, h), in, sum);
                    if (o->z)
                        sum = sum * tfb__silu_scalar(*tfb__place4(o->z, i, t, h, p));
                    *tfb__place4(y, i, t, h, p) = sum;
                }
            }
}
#endif /* TFB_NO_SCAN */

/* ===== [20] LONG CONVOLUTIONS ======================================================= */
/* Channels go in panels of 16. A task takes some samples of a panel: all places of x are
 * copied to [places][16], whatever their strides, before outputs are written: so y may be
 * x, and scratch depends on neither B nor C. */
#ifndef TFB_NO_LONG_CONV

#define TFB__LONG_ROWS 32 /* of outputs that are kept before they are written */

/* --- Fourier transforms of any length. --- */
/* Complex rows are 16 real and 16 imaginary parts, lanes channels: real places 2 j and
 * 2 j + 1 are complex row j without being moved. A transform leaves its values in the
 * order of reversed digits, its inverse begins there, so nothing is ever sorted. */

#define TFB__FFT_PASSES 24
#define TFB__FFT_ROW    (2 * TFB__PANEL)
#define TFB__FFT_NEAR   128  /* complex rows that stay in the first cache: 16 KB */
#define TFB__FFT_LINES  2048 /* in the second: 256 KB */
#define TFB__FFT_MOST   TFB__MIN((tfb_idx)1 << 30, PTRDIFF_MAX / 256) /* rows */

/* cos and -sin of 2 pi j / n, and sin, as kernels want roots: by eighths of a turn, which
 * are exact, and Taylor polynomials, whose error is 1e-10. */
static void tfb__root(tfb_idx j, tfb_idx n, float *w) {
    const tfb_idx eighth = 8 * j / n, rest = 8 * j - eighth * n;
    const tfb_idx odd = eighth & 1, from = odd ? n - rest : rest;
    const double t = (double)from / (double)n * 0.78539816339744830962, q = t * t;
    double s = -1.0 / 39916800, c = -1.0 / 3628800, swap;
    s = t * (1 + q * (-1.0 / 6 +
                      q * (1.0 / 120 + q * (-1.0 / 5040 + q * (1.0 / 362880 + q * s)))));
    c = 1 + q * (-0.5 + q * (1.0 / 24 + q * (-1.0 / 720 + q * (1.0 / 40320 + q * c))));
    if ((eighth + 1) & 2) swap = s, s = c, c = swap;
    if (eighth >= 4) s = -s;
    if (((eighth + 2) & 7) >= 4) c = -c;
    w[0] = (float)c;
    w[1] = (float)-s;
    w[2] = (float)s;
}

/* The radices of a length: odd ones first, eights last; -1 if there is another prime. */
static int tfb__fft_radices(tfb_idx n, int *radix) {
    static const int primes[] = {7, 5, 3};
    int i, twos = 0, passes = 0;
    for (i = 0; i < 3; i++)
        for (; n % primes[i] == 0; n /= primes[i]) radix[passes++] = primes[i];
    for (; n % 2 == 0; n /= 2) twos++;
    if (n != 1) return -1;
    if (twos == 1) radix[passes++] = 2;
    for (; twos > 1 && twos % 3; twos -= 2) radix[passes++] = 4;
    for (; twos > 1; twos -= 3) radix[passes++] = 8;
    return passes;
}

/* What a pass of a radix costs a place: its vector operations, loads and stores. */
static const int tfb__fft_cost[9] = {0, 0, 8, 11, 11, 14, 0, 17, 14};

/* The length from `need` on whose transform takes least. */
static tfb_idx tfb__fft_good(tfb_idx need) {
    const int *cost = tfb__fft_cost;
    tfb_idx n7, n5, n3, n, best = need, least = -1;
    int sevens, fives, threes, twos;
    if (need > TFB__FFT_MOST) return need;
    for (n7 = 1, sevens = 0; n7 < 2 * need; n7 *= 7, sevens += cost[7])
        for (n5 = n7, fives = sevens; n5 < 2 * need; n5 *= 5, fives += cost[5])
            for (n3 = n5, threes = fives; n3 < 2 * need; n3 *= 3, threes += cost[3]) {
                tfb_idx all;
                for (n = n3, twos = 0; n < need; n *= 2) twos++;
                all = 1 + threes + twos / 3 * cost[8];
                if (twos % 3 == 2) all += cost[4];
                if (twos % 3 == 1) all += twos == 1 ? cost[2] : 2 * cost[4] - cost[8];
                if (least >= 0 && all * n >= least) continue;
                least = all * n;
                best = n;
            }
    return best;
}

/* A length with the roots of its passes. mate[p] is where the negative of the frequency
 * at p stands. */
typedef struct tfb__fft_plan {
    tfb_idx n;
    int passes, radix[TFB__FFT_PASSES];
    float *w[TFB__FFT_PASSES];
    int32_t *mate;
} tfb__fft_plan;

/* n of some type at the next multiple of 64 bytes; only counts if there is no memory. */
static void *tfb__long_place(char *memory, size_t *used, tfb_idx n, size_t bytes) {
    char *at = memory ? memory + *used : NULL;
    *used = tfb__size_add(*used, tfb__round64(tfb__size_mul((size_t)n, bytes)));
    return at;
}

static void tfb__fft_carve(tfb__fft_plan *p, char *memory, size_t *used) {
    tfb_idx n = p->n;
    int i;
    for (i = 0; i < p->passes; i++) {
        const tfb_idx r = p->radix[i];
        n /= r;
        p->w[i] = (float *)tfb__long_place(memory, used, 3 * (r - 1) * n, sizeof(float));
    }
    p->mate = (int32_t *)tfb__long_place(memory, used, p->n, sizeof(int32_t));
}

/* From the place of a frequency to that of the next, or with `down` the one before. */
static tfb_idx tfb__fft_step(const tfb__fft_plan *p, int *digit, tfb_idx at, int down) {
    tfb_idx n = p->n;
    int i;
    if (!p->passes) return down ? (at ? at - 1 : n - 1) : (at + 1 == n ? 0 : at + 1);
    for (i = 0; i < p->passes; i++) {
        const int last = p->radix[i] - 1;
        n /= p->radix[i];
        if (digit[i] != (down ? 0 : last)) {
            digit[i] += down ? -1 : 1;
            return down ? at - n : at + n;
        }
        digit[i] = down ? last : 0;
        at += down ? last * n : -last * n;
    }
    return at;
}

static void tfb__fft_fill(const tfb__fft_plan *p) {
    int up[TFB__FFT_PASSES] = TFB_INIT, down[TFB__FFT_PASSES] = TFB_INIT, i;
    tfb_idx n = p->n, j, q, at = 0, mate = 0;
    for (i = 0; i < p->passes; i++) {
        const tfb_idx all = n, r = p->radix[i];
        float *w = p->w[i];
        n /= r;
        for (j = 0; j < n; j++)
            for (q = 1; q < r; q++, w += 3) tfb__root(j * q, all, w);
    }
    for (j = 0; j < p->n; j++) {
        p->mate[at] = (int32_t)mate;
        at = tfb__fft_step(p, up, at, 0);
        mate = tfb__fft_step(p, down, mate, 1);
    }
}

/* Pass i over blocks of n rows that stand one after the other. */
static void tfb__fft_pass(const tfb__kernels *isa, const tfb__fft_plan *p, int i,
                          float *z, tfb_idx n, tfb_idx blocks, int inverse) {
    tfb__fft s;
    s.radix = p->radix[i];
    s.inverse = inverse;
    s.inner = n / s.radix;
    s.turned = s.inner > 1;
    s.inner_step = TFB__FFT_ROW;
    s.step = s.inner * TFB__FFT_ROW;
    s.w_inner = 3 * (s.radix - 1);
    s.outer = blocks;
    s.outer_step = n * TFB__FFT_ROW;
    s.w_outer = 0;
    s.z = z;
    s.w = p->w[i];
    TFB__KERNEL(isa, fft)(&s);
}

/* The transform from pass i on of n rows: depth first until all is near. */
static void tfb__fft_row(const tfb__kernels *isa, const tfb__fft_plan *p, int i, float *z,
                         tfb_idx n, int inverse) {
    tfb_idx at, part;
    int j;
    if (i >= p->passes) return;
    if (n <= TFB__FFT_NEAR) {
        tfb_idx size[TFB__FFT_PASSES];
        for (size[i] = n, j = i + 1; j < p->passes; j++)
            size[j] = size[j - 1] / p->radix[j - 1];
        for (j = i; !inverse && j < p->passes; j++)
            tfb__fft_pass(isa, p, j, z, size[j], n / size[j], 0);
        for (j = p->passes - 1; inverse && j >= i; j--)
            tfb__fft_pass(isa, p, j, z, size[j], n / size[j], 1);
        return;
    }
    part = n / p->radix[i];
    if (!inverse) tfb__fft_pass(isa, p, i, z, n, 1, 0);
    for (at = 0; at < n; at += part)
        tfb__fft_row(isa, p, i + 1, z + at * TFB__FFT_ROW, part, inverse);
    if (inverse) tfb__fft_pass(isa, p, i, z, n, 1, 1);
}

/* The transforms of `count` neighbouring columns whose rows are `pitch` rows apart. */
static void tfb__fft_columns(const tfb__kernels *isa, const tfb__fft_plan *p, float *z,
                             tfb_idx pitch, tfb_idx count, int inverse) {
    const tfb_idx row = pitch * TFB__FFT_ROW;
    tfb_idx n[TFB__FFT_PASSES + 1], b;
    int i, j;
    for (n[0] = p->n, i = 0; i < p->passes; i++) n[i + 1] = n[i] / p->radix[i];
    for (j = 0; j < p->passes; j++) {
        tfb__fft s;
        i = inverse ? p->passes - 1 - j : j;
        s.radix = p->radix[i];
        s.inverse = inverse;
        s.turned = n[i + 1] > 1;
        s.inner = count;
        s.inner_step = TFB__FFT_ROW;
        s.w_inner = 0;
        s.outer = n[i + 1];
        s.outer_step = row;
        s.w_outer = 3 * (s.radix - 1);
        s.step = n[i + 1] * row;
        s.w = p->w[i];
        for (b = 0; b < p->n; b += n[i]) {
            s.z = z + b * row;
            TFB__KERNEL(isa, fft)(&s);
        }
    }
}

/* --- Transforms of lengths with other primes: Bluestein 1970. --- */
/* X[k] = w[k] sum over j of (x[j] w[j]) / w[k - j], w[j] = e^(-i pi j^2 / n): a
 * convolution, done with a good length. */
typedef struct tfb__chirp {
    tfb__fft_plan inner; /* n 0: not needed */
    float *w, *spectrum; /* w, n of them; what 1 / w becomes, over inner.n */
} tfb__chirp;

/* Rows become their product with roots. */
static void tfb__fft_turn(const tfb__kernels *isa, float *z, tfb_idx rows, tfb_idx count,
                          const float *w) {
    tfb__fft s;
    memset((void *)&s, 0, sizeof s);
    s.radix = s.turned = 1;
    s.inner = count;
    s.inner_step = TFB__FFT_ROW;
    s.outer = rows;
    s.outer_step = count * TFB__FFT_ROW;
    s.w_outer = 3;
    s.z = z;
    s.w = w;
    TFB__KERNEL(isa, fft)(&s);
}

/* room: inner.n complex rows. */
static void tfb__chirp_fill(const tfb__kernels *isa, const tfb__chirp *c, tfb_idx n,
                            float *room) {
    const tfb_idx all = c->inner.n;
    tfb_idx j, l;
    tfb__fft_fill(&c->inner);
    memset((void *)room, 0, (size_t)(all * TFB__FFT_ROW) * sizeof *room);
    for (j = 0; j < n; j++) {
        float *to = room + j * TFB__FFT_ROW, *w = c->w + 3 * j;
        float *mirror = room + (j ? all - j : 0) * TFB__FFT_ROW;
        tfb__root((tfb_idx)((uint64_t)j * (uint64_t)j % (uint64_t)(2 * n)), 2 * n, w);
        for (l = 0; l < TFB__PANEL; l++) {
            to[l] = mirror[l] = w[0];
            to[l + TFB__PANEL] = mirror[l + TFB__PANEL] = w[2];
        }
    }
    tfb__fft_row(isa, &c->inner, 0, room, all, 0);
    for (j = 0; j < all; j++) {
        const float *from = room + j * TFB__FFT_ROW;
        c->spectrum[3 * j] = from[0] / (float)all;
        c->spectrum[3 * j + 1] = from[TFB__PANEL] / (float)all;
        c->spectrum[3 * j + 2] = -c->spectrum[3 * j + 1];
    }
}

/* As tfb__fft_columns, frequencies in order. The inverse is the transform with negative
 * frequencies. */
static void tfb__chirp_columns(const tfb__kernels *isa, const tfb__chirp *c, tfb_idx n,
                               float *z, tfb_idx pitch, tfb_idx count, int inverse,
                               float *room) {
    const size_t row = (size_t)(count * TFB__FFT_ROW) * sizeof *room;
    const tfb_idx step = count * TFB__FFT_ROW;
    tfb_idx j;
    for (j = 0; j < n; j++)
        memcpy((void *)(room + j * step), (const void *)(z + j * pitch * TFB__FFT_ROW),
               row);
    memset((void *)(room + n * step), 0, row * (size_t)(c->inner.n - n));
    tfb__fft_turn(isa, room, n, count, c->w);
    tfb__fft_columns(isa, &c->inner, room, count, count, 0);
    tfb__fft_turn(isa, room, c->inner.n, count, c->spectrum);
    tfb__fft_columns(isa, &c->inner, room, count, count, 1);
    tfb__fft_turn(isa, room, n, count, c->w);
    for (j = 0; j < n; j++)
        memcpy((void *)(z + (inverse && j ? n - j : j) * pitch * TFB__FFT_ROW),
               (const void *)(room + j * step), row);
}

/* --- Convolution by transforms. --- */
/* Where the places of a transformed axis come from: the first `head` from place `from` of
 * the tensor on, going round, the last `tail` from its place tail_from, others are 0. */
typedef struct tfb__fft_axis {
    tfb_idx head, from, tail, tail_from;
} tfb__fft_axis;

/* Extents are n[0] x n[1] x n[2], in complex rows; rows of them are pitch rows apart,
 * planes `plane` rows, which are odd numbers so that columns use all of a cache. */
typedef struct tfb__fft_grid {
    tfb__fft_plan axis[3];
    tfb__chirp chirp[2];
    tfb__fft_axis x[3], k[3];
    tfb_idx pitch, plane, room; /* room: of a chirp, in complex rows */
    float *w;                   /* of frequency k: -e^(-2 pi i k / n[2]) */
    size_t table_bytes, spectrum_bytes;
} tfb__fft_grid;

/* --- Calls. --- */
/* A call as resolved: three spatial axes, those in front with extent 1; a causal axis is
 * one of zeros with the taps of negative lag cut off. */
typedef struct tfb__long_call {
    tfb_tensor x, k, y, shortcut; /* [B, n0, n1, n2, C]; shortcut: ndim 0 if absent */
    tfb_idx n[3], taps[3], origin[3], places, all_taps;
    int circular[3], fft; /* fft -1: asked for, but there are too many places */
    tfb_idx panels;       /* of 16 channels */
    tfb_idx kernels;      /* one, or one a sample */
    tfb_idx groups;       /* of samples: so many tasks are there for a panel */
    tfb__fft_grid grid;
    char *kept; /* tables and spectra of kernels, or NULL */
    size_t worker_bytes;
    char *scratch;
    const tfb__kernels *isa;
} tfb__long_call;

/* A worker's memory: z to chirp of transforms, the others but y of direct sums. */
typedef struct tfb__long_room {
    float *x, *k, *y, *turned, *shortcut, *block, *z, *h, *chirp;
    tfb__taps *taps;
} tfb__long_room;

static size_t tfb__long_carve(const tfb__long_call *s, char *memory, tfb__long_room *m) {
    const tfb__fft_grid *g = &s->grid;
    const size_t row = TFB__PANEL * sizeof *m->x;
    size_t used = 0;
    memset((void *)m, 0, sizeof *m);
    m->y = (float *)tfb__long_place(memory, &used, TFB__LONG_ROWS, row);
    m->turned = (float *)tfb__long_place(memory, &used, TFB__LONG_ROWS, row);
    m->shortcut = (float *)tfb__long_place(memory, &used, 1, row);
    if (s->fft) {
        const tfb_idx h = s->kept ? 0 : (tfb_idx)g->spectrum_bytes;
        m->z = (float *)tfb__long_place(memory, &used, g->plane * g->axis[0].n, 2 * row);
        m->h = (float *)tfb__long_place(memory, &used, h, 1);
        m->chirp = (float *)tfb__long_place(memory, &used, g->room, 2 * row);
        return used;
    }
    m->x = (float *)tfb__long_place(memory, &used, s->places, row);
    m->k = (float *)tfb__long_place(memory, &used, s->all_taps, row);
    m->block = (float *)tfb__long_place(memory, &used, TFB__TAP_OUTPUTS, row);
    m->taps = (tfb__taps *)tfb__long_place(memory, &used, 1, sizeof *m->taps);
    return used;
}

/* Sample b of a panel of t, all its places, n channels from c on. */
static void tfb__long_in(const tfb__long_call *s, const tfb_tensor *t, tfb_idx b,
                         tfb_idx c, tfb_idx n, float *panel) {
    const tfb_idx *st = t->stride, rows = t->shape[1] * t->shape[2], row = t->shape[3];
    tfb_idx i;
    for (i = 0; i < rows; i++)
        tfb__panel_in(s->isa,
                      (const float *)t->data + b * st[0] + i / t->shape[2] * st[1] +
                          i % t->shape[2] * st[2] + c * st[4],
                      st[4], st[3], row, n, panel + i * row * TFB__PANEL);
}

/* Flushes the runs collected; last: they are the last of a block. */
static void tfb__long_flush(const tfb__long_call *s, tfb__taps *t, int last) {
    t->last = last;
    if (t->runs || t->met) TFB__KERNEL(s->isa, taps)(t);
    t->runs = 0;
}

/* Inputs of the row at `row` (its first place) for outputs at .. of the last axis, at
 * kernel row k, in ascending order; *block is the block of the run before. */
static void tfb__long_row(const tfb__long_call *s, const tfb__long_room *m, tfb_idx at,
                          tfb_idx row, tfb_idx k, tfb_idx *block) {
    const tfb_idx N = s->n[2], K = s->taps[2], lag = at + s->origin[2];
    tfb__taps *t = m->taps;
    tfb_idx begin, end, turn;
    for (begin = 0; begin < N; begin = end) {
        end = TFB__MIN(N, ((row + begin) / TFB__BLOCK + 1) * TFB__BLOCK - row);
        for (turn = -s->circular[2]; turn <= s->circular[2]; turn++) {
            const tfb_idx tap = lag + turn * N;
            const tfb_idx lo = TFB__MAX(begin, tap - K + 1);
            const tfb_idx hi = TFB__MIN(end, tap + t->outputs);
            tfb__tap_run *run;
            if (lo >= hi) continue;
            if ((row + lo) / TFB__BLOCK != *block) tfb__long_flush(s, t, 1);
            else if (t->runs == TFB__TAP_RUNS) tfb__long_flush(s, t, 0);
            run = t->run + t->runs++;
            *block = (row + lo) / TFB__BLOCK;
            run->x = m->x + (row + lo) * TFB__PANEL;
            run->k = m->k + k * TFB__PANEL;
            run->inputs = hi - lo;
            run->tap = tap - lo;
        }
    }
}

/* Which tap of an axis output n has for input m, if that is one. */
static tfb_idx tfb__long_tap(const tfb__long_call *s, int axis, tfb_idx n, tfb_idx m) {
    const tfb_idx tap = n + s->origin[axis] - m, N = s->n[axis];
    if (!s->circular[axis]) return tap;
    return tap < 0 ? tap + N : tap >= N ? tap - N : tap;
}

/* The inputs lo .. hi - 1 of an axis hold all that output n needs. */
static void tfb__long_reach(const tfb__long_call *s, int axis, tfb_idx n, tfb_idx *lo,
                            tfb_idx *hi) {
    const tfb_idx last = n + s->origin[axis], first = last - s->taps[axis] + 1;
    *lo = TFB__MAX(first, 0);
    *hi = TFB__MIN(last + 1, s->n[axis]);
    if (s->circular[axis] && (first < 0 || last >= s->n[axis])) *lo = 0, *hi = s->n[axis];
}

/* t->outputs outputs from place `at` of the last axis on, into t->sum. */
static void tfb__long_outputs(const tfb__long_call *s, const tfb__long_room *m,
                              const tfb_idx *at) {
    tfb_idx i, j, lo0, hi0, lo1, hi1, block = -1;
    tfb__taps *t = m->taps;
    t->met = t->begun = 0;
    t->runs = 0;
    tfb__long_reach(s, 0, at[0], &lo0, &hi0);
    tfb__long_reach(s, 1, at[1], &lo1, &hi1);
    for (i = lo0; i < hi0; i++) {
        const tfb_idx k0 = tfb__long_tap(s, 0, at[0], i);
        if (k0 < 0 || k0 >= s->taps[0]) continue;
        for (j = lo1; j < hi1; j++) {
            const tfb_idx k1 = tfb__long_tap(s, 1, at[1], j);
            if (k1 < 0 || k1 >= s->taps[1]) continue;
            tfb__long_row(s, m, at[2], (i * s->n[1] + j) * s->n[2],
                          (k0 * s->taps[1] + k1) * s->taps[2], &block);
        }
    }
    tfb__long_flush(s, t, 1);
}

/* y += shortcut x, if there is one. */
static void tfb__long_shortcut(const tfb__long_call *s, const tfb__long_room *m,
                               const float *x, float *y, tfb_idx rows) {
    tfb_idx i, l;
    for (i = 0; s->shortcut.ndim && i < rows * TFB__PANEL; i += TFB__PANEL)
        for (l = 0; l < TFB__PANEL; l++)
            y[i + l] = TFB__FMA(m->shortcut[l], x[i + l], y[i + l]);
}

/* Some outputs of a row of the last axis, from place at[2] on, into m->y; moves at[2]. */
static void tfb__long_sums(const tfb__long_call *s, const tfb__long_room *m, tfb_idx *at,
                           tfb_idx rows) {
    const tfb_idx first = at[2];
    const float *x = m->x + ((at[0] * s->n[1] + at[1]) * s->n[2] + first) * TFB__PANEL;
    tfb_idx i;
    for (i = 0; i < rows; i += m->taps->outputs) {
        at[2] = first + i;
        m->taps->outputs = (int)TFB__MIN(TFB__TAP_OUTPUTS, rows - i);
        m->taps->sum = m->y + i * TFB__PANEL;
        tfb__long_outputs(s, m, at);
    }
    tfb__long_shortcut(s, m, x, m->y, rows);
}

/* The same to y, n channels from c on. */
static void tfb__long_rows(const tfb__long_call *s, const tfb__long_room *m, tfb_idx b,
                           tfb_idx *at, tfb_idx rows, tfb_idx c, tfb_idx n) {
    const tfb_idx *st = s->y.stride;
    float *y = (float *)s->y.data + b * st[0] + at[0] * st[1] + at[1] * st[2] +
               at[2] * st[3] + c * st[4];
    tfb__long_sums(s, m, at, rows);
    tfb__panel_out(s->isa, m->y, rows, n, y, st[4], st[3], m->turned);
}

static void tfb__long_taps(const tfb__long_call *s, const tfb__long_room *m) {
    m->taps->taps = s->taps[2];
    m->taps->block = m->block;
    memset((void *)m->block, 0, TFB__TAP_OUTPUTS * TFB__PANEL * sizeof *m->block);
}

static void tfb__long_direct(const tfb__long_call *s, const tfb__long_room *m, tfb_idx b,
                             tfb_idx c, tfb_idx n) {
    tfb_idx at[3];
    tfb__long_taps(s, m);
    for (at[0] = 0; at[0] < s->n[0]; at[0]++)
        for (at[1] = 0; at[1] < s->n[1]; at[1]++) {
            tfb_idx i;
            for (i = 0; i < s->n[2]; i += TFB__LONG_ROWS) {
                at[2] = i;
                tfb__long_rows(s, m, b, at, TFB__MIN(TFB__LONG_ROWS, s->n[2] - i), c, n);
            }
        }
}

/* Which place of the tensor place p of n of a transformed axis comes from, -1 if none. */
static tfb_idx tfb__fft_source(const tfb__fft_axis *a, tfb_idx n, tfb_idx extent,
                               tfb_idx p) {
    if (p < a->head) return (a->from + p) % extent;
    return p >= n - a->tail ? a->tail_from + p - (n - a->tail) : -1;
}

/* The row of t at `from`, its places `step` apart, n channels, into complex row z on. */
static void tfb__fft_fetch(const tfb__long_call *s, const tfb__fft_axis *a,
                           const tfb_tensor *t, const float *from, tfb_idx n, float *z) {
    const tfb_idx extent = t->shape[3], step = t->stride[3], ls = t->stride[4];
    const tfb_idx all = 2 * s->grid.axis[2].n, gap = all - a->tail - a->head;
    tfb_idx i, count;
    for (i = 0; i < a->head; i += count) {
        const tfb_idx at = (a->from + i) % extent;
        count = TFB__MIN(a->head - i, extent - at);
        tfb__panel_in(s->isa, from + at * step, ls, step, count, n, z + i * TFB__PANEL);
    }
    memset((void *)(z + a->head * TFB__PANEL), 0, (size_t)(gap * TFB__PANEL) * sizeof *z);
    if (a->tail)
        tfb__panel_in(s->isa, from + a->tail_from * step, ls, step, a->tail, n,
                      z + (all - a->tail) * TFB__PANEL);
}

static void tfb__long_columns(const tfb__long_call *s, const tfb__long_room *m, int axis,
                              float *z, int inverse) {
    const tfb__fft_grid *g = &s->grid;
    const tfb__fft_plan *p = &g->axis[axis];
    const tfb__chirp *c = &g->chirp[axis];
    const tfb_idx pitch = axis ? g->pitch : g->plane, all = g->axis[2].n;
    const tfb_idx some = TFB__MAX(1, TFB__FFT_LINES / (c->inner.n ? c->inner.n : p->n));
    tfb_idx i;
    for (i = 0; i < all; i += some) {
        const tfb_idx n = TFB__MIN(some, all - i);
        float *at = z + i * TFB__FFT_ROW;
        if (c->inner.n)
            tfb__chirp_columns(s->isa, c, p->n, at, pitch, n, inverse, m->chirp);
        else tfb__fft_columns(s->isa, p, at, pitch, n, inverse);
    }
}

/* The transform of sample b of t, n channels from c on, into m->z. */
static void tfb__long_forward(const tfb__long_call *s, const tfb__long_room *m,
                              const tfb_tensor *t, const tfb__fft_axis *a, tfb_idx b,
                              tfb_idx c, tfb_idx n) {
    const tfb__fft_grid *g = &s->grid;
    const tfb_idx *st = t->stride, F0 = g->axis[0].n, F1 = g->axis[1].n;
    const float *from = (const float *)t->data + b * st[0] + c * st[4];
    tfb_idx i, j;
    for (i = 0; i < F0; i++) {
        const tfb_idx i0 = tfb__fft_source(&a[0], F0, t->shape[1], i);
        float *plane = m->z + i * g->plane * TFB__FFT_ROW;
        for (j = 0; j < F1; j++) {
            const tfb_idx i1 = tfb__fft_source(&a[1], F1, t->shape[2], j);
            float *z = plane + j * g->pitch * TFB__FFT_ROW;
            if (i0 < 0 || i1 < 0) {
                memset((void *)z, 0, (size_t)(g->axis[2].n * TFB__FFT_ROW) * sizeof *z);
                continue;
            }
            tfb__fft_fetch(s, &a[2], t, from + i0 * st[1] + i1 * st[2], n, z);
            tfb__fft_row(s->isa, &g->axis[2], 0, z, g->axis[2].n, 0);
        }
        if (F1 > 1 && i0 >= 0) tfb__long_columns(s, m, 1, plane, 0);
    }
    for (j = 0; F0 > 1 && j < F1; j++)
        tfb__long_columns(s, m, 0, m->z + j * g->pitch * TFB__FFT_ROW, 0);
}

/* Products of m->z with h; keep: h from m->z. */
static void tfb__long_product(const tfb__long_call *s, const tfb__long_room *m, float *h,
                              int keep) {
    const tfb__fft_grid *g = &s->grid;
    const tfb_idx F0 = g->axis[0].n, F1 = g->axis[1].n;
    tfb__spectrum t;
    tfb_idx i;
    t.n = g->axis[2].n;
    t.mate = g->axis[2].mate;
    t.w = g->w;
    t.h = h;
    t.keep = keep;
    t.scale = 0.25f / ((float)F0 * (float)F1 * (float)t.n);
    for (i = 0; i < F0 * F1; i++) {
        const tfb_idx p0 = i / F1, p1 = i % F1;
        const tfb_idx q0 = g->axis[0].mate[p0], q1 = g->axis[1].mate[p1];
        if (q0 * F1 + q1 < i) continue;
        t.z = m->z + (p0 * g->plane + p1 * g->pitch) * TFB__FFT_ROW;
        t.z_mate = m->z + (q0 * g->plane + q1 * g->pitch) * TFB__FFT_ROW;
        t.same = q0 * F1 + q1 == i;
        TFB__KERNEL(s->isa, spectrum)(&t);
        t.h += (t.same ? t.n / 2 + 1 : t.n) * 2 * TFB__FFT_ROW;
    }
}

/* A row of the output, which begins at z. */
static void tfb__long_out(const tfb__long_call *s, const tfb__long_room *m, tfb_idx b,
                          tfb_idx i0, tfb_idx i1, tfb_idx c, tfb_idx n, float *z) {
    const tfb_idx *xs = s->x.stride, *ys = s->y.stride;
    const float *x = (const float *)s->x.data + b * xs[0] + i0 * xs[1] + i1 * xs[2];
    float *y = (float *)s->y.data + b * ys[0] + i0 * ys[1] + i1 * ys[2] + c * ys[4];
    tfb_idx i, rows;
    for (i = 0; i < s->n[2]; i += rows, z += rows * TFB__PANEL) {
        rows = TFB__MIN(TFB__LONG_ROWS, s->n[2] - i);
        if (s->shortcut.ndim)
            tfb__panel_in(s->isa, x + i * xs[3] + c * xs[4], xs[4], xs[3], rows, n, m->y);
        tfb__long_shortcut(s, m, m->y, z, rows);
        tfb__panel_out(s->isa, z, rows, n, y + i * ys[3], ys[4], ys[3], m->turned);
    }
}

/* From m->z to sample b of y. */
static void tfb__long_inverse(const tfb__long_call *s, const tfb__long_room *m, tfb_idx b,
                              tfb_idx c, tfb_idx n) {
    const tfb__fft_grid *g = &s->grid;
    const tfb_idx F0 = g->axis[0].n, F1 = g->axis[1].n;
    tfb_idx i, j;
    for (j = 0; F0 > 1 && j < F1; j++)
        tfb__long_columns(s, m, 0, m->z + j * g->pitch * TFB__FFT_ROW, 1);
    for (i = 0; i < s->n[0]; i++) {
        float *plane = m->z + i * g->plane * TFB__FFT_ROW;
        if (F1 > 1) tfb__long_columns(s, m, 1, plane, 1);
        for (j = 0; j < s->n[1]; j++) {
            float *z = plane + j * g->pitch * TFB__FFT_ROW;
            tfb__fft_row(s->isa, &g->axis[2], 0, z, g->axis[2].n, 1);
            tfb__long_out(s, m, b, i, j, c, n, z);
        }
    }
}

/* The spectrum of a kernel: of sample b, or of all. */
static float *tfb__long_kept(const tfb__long_call *s, tfb_idx b, tfb_idx c) {
    const tfb_idx i = c / TFB__PANEL * s->kernels + (s->kernels > 1 ? b : 0);
    return (float *)(void *)(s->kept + s->grid.table_bytes +
                             s->grid.spectrum_bytes * (size_t)i);
}

static void tfb__long_keep_one(const tfb__long_call *s, const tfb__long_room *m,
                               tfb_idx b, tfb_idx c, tfb_idx n, float *h) {
    tfb__long_forward(s, m, &s->k, s->grid.k, b, c, n);
    tfb__long_product(s, m, h, 1);
}

/* One sample by transforms; fresh: it is the first with its kernel. */
static void tfb__long_transformed(const tfb__long_call *s, const tfb__long_room *m,
                                  tfb_idx b, tfb_idx c, tfb_idx n, int fresh) {
    float *h = s->kept ? tfb__long_kept(s, b, c) : m->h;
    if (!s->kept && fresh) tfb__long_keep_one(s, m, b, c, n, h);
    tfb__long_forward(s, m, &s->x, s->grid.x, b, c, n);
    tfb__long_product(s, m, h, 0);
    tfb__long_inverse(s, m, b, c, n);
}

static void tfb__long_task(void *arg, tfb_idx task, int worker) {
    const tfb__long_call *s = (const tfb__long_call *)arg;
    const tfb_idx c = task / s->groups * TFB__PANEL, group = task % s->groups;
    const tfb_idx B = s->x.shape[0], begin = B * group / s->groups;
    const tfb_idx end = B * (group + 1) / s->groups;
    const tfb_idx n = TFB__MIN(TFB__PANEL, s->x.shape[4] - c);
    tfb__long_room m;
    tfb_idx b;
    tfb__long_carve(s, s->scratch + s->worker_bytes * (size_t)worker, &m);
    tfb__panel_of(s->isa, &s->shortcut, 0, c, n, m.shortcut);
    for (b = begin; b < end; b++) {
        const int fresh = b == begin || s->k.stride[0] != 0;
        if (s->fft) {
            tfb__long_transformed(s, &m, b, c, n, fresh);
            continue;
        }
        if (fresh) tfb__long_in(s, &s->k, b, c, n, m.k);
        tfb__long_in(s, &s->x, b, c, n, m.x);
        tfb__long_direct(s, &m, b, c, n);
    }
}

/* Fills one spectrum of s->kept. */
static void tfb__long_keep_task(void *arg, tfb_idx task, int worker) {
    const tfb__long_call *s = (const tfb__long_call *)arg;
    const tfb_idx c = task / s->kernels * TFB__PANEL, b = task % s->kernels;
    tfb__long_room m;
    tfb__long_carve(s, s->scratch + s->worker_bytes * (size_t)worker, &m);
    tfb__long_keep_one(s, &m, b, c, TFB__MIN(TFB__PANEL, s->x.shape[4] - c),
                       tfb__long_kept(s, b, c));
}

/* How long an axis is transformed. Lags lie between -ahead and back. Circular axes keep
 * their length where it has small factors (two of places of the last axis make a row);
 * the last axis is otherwise continued beyond its ends, which takes half the time of
 * Bluestein's way; the others take that, as it needs half the memory. */
static void tfb__long_axis(tfb__long_call *s, int i) {
    tfb__fft_grid *g = &s->grid;
    tfb__fft_plan *p = &g->axis[i];
    const tfb_idx N = s->n[i], K = s->taps[i], o = s->origin[i];
    const tfb_idx back = TFB__MIN(K - 1 - o, N - 1), ahead = TFB__MIN(o, N - 1);
    const int good = tfb__fft_radices(N, p->radix) >= 0 && (i < 2 || N % 2 == 0);
    tfb_idx need = N + TFB__MAX(back, ahead);
    tfb__fft_axis *x = &g->x[i], *k = &g->k[i];
    x->head = N;
    k->head = back + 1;
    k->from = o;
    k->tail = ahead;
    k->tail_from = o - ahead;
    if (s->circular[i] && i == 2 && !good) {
        need = N + K - 1;
        x->head = N + ahead;
        x->tail = back;
        x->tail_from = N - back;
    }
    if (s->circular[i] && (good || i < 2)) p->n = i == 2 ? N / 2 : N;
    else p->n = tfb__fft_good(i == 2 ? (need + 1) / 2 : need);
    if (s->circular[i] && i < 2 && !good) {
        g->chirp[i].inner.n = tfb__fft_good(2 * N - 1);
        g->chirp[i].inner.passes =
            tfb__fft_radices(g->chirp[i].inner.n, g->chirp[i].inner.radix);
    } else {
        p->passes = tfb__fft_radices(p->n, p->radix);
    }
}

/* Places what all workers read; memory NULL: only counts. */
static size_t tfb__long_tables(tfb__fft_grid *g, char *memory) {
    size_t used = 0;
    int i;
    for (i = 0; i < 3; i++) tfb__fft_carve(&g->axis[i], memory, &used);
    g->w = (float *)tfb__long_place(memory, &used, 3 * g->axis[2].n, sizeof *g->w);
    for (i = 0; i < 2; i++) {
        tfb__chirp *c = &g->chirp[i];
        if (!c->inner.n) continue;
        tfb__fft_carve(&c->inner, memory, &used);
        c->w = (float *)tfb__long_place(memory, &used, 3 * g->axis[i].n, sizeof *c->w);
        c->spectrum =
            (float *)tfb__long_place(memory, &used, 3 * c->inner.n, sizeof *c->spectrum);
    }
    return used;
}

static void tfb__long_sizes(tfb__long_call *s) {
    tfb__fft_grid *g = &s->grid;
    const tfb_idx F0 = g->axis[0].n, F1 = g->axis[1].n, n = g->axis[2].n;
    const tfb_idx same = (F0 % 2 ? 1 : 2) * (F1 % 2 ? 1 : 2);
    const tfb_idx rows = same * (n / 2 + 1) + (F0 * F1 - same) / 2 * n;
    int i;
    g->pitch = F0 * F1 > 1 ? n | 1 : n;
    g->plane = F0 > 1 ? F1 * g->pitch | 1 : F1 * g->pitch;
    for (i = 0; i < 2; i++)
        if (g->chirp[i].inner.n)
            g->room = TFB__MAX(g->room, TFB__MAX(g->chirp[i].inner.n, TFB__FFT_LINES));
    g->table_bytes = tfb__long_tables(g, NULL);
    g->spectrum_bytes = tfb__size_mul((size_t)rows, 2 * TFB__FFT_ROW * sizeof(float));
}

/* room: a worker's memory. */
static void tfb__long_fill(tfb__long_call *s, float *room) {
    tfb__fft_grid *g = &s->grid;
    const tfb_idx n = g->axis[2].n;
    int digit[TFB__FFT_PASSES] = TFB_INIT, i;
    tfb_idx k, at = 0;
    for (i = 0; i < 3; i++) tfb__fft_fill(&g->axis[i]);
    for (k = 0; k < n; k++, at = tfb__fft_step(&g->axis[2], digit, at, 0)) {
        float *w = g->w + 3 * at;
        tfb__root(k, n, w);
        w[0] = -w[0], w[1] = -w[1], w[2] = -w[2];
    }
    for (i = 0; i < 2; i++)
        if (g->chirp[i].inner.n)
            tfb__chirp_fill(s->isa, &g->chirp[i], g->axis[i].n, room);
}

/* How many taps meet inputs on an axis, over all outputs. */
static double tfb__long_met(const tfb__long_call *s, int i) {
    const tfb__fft_axis *k = &s->grid.k[i];
    const double N = (double)s->n[i], back = (double)k->head, ahead = (double)k->tail;
    if (s->circular[i]) return N * (double)s->taps[i];
    return N * (back + ahead) - (back * (back - 1) + ahead * (ahead + 1)) / 2;
}

/* Can all rows be counted in an int32_t, their bytes in a size_t? */
static int tfb__long_fft_fits(const tfb__long_call *s) {
    const double most = (double)TFB__FFT_MOST;
    double rows = 1;
    int i;
    for (i = 0; i < 3; i++) rows *= (double)s->grid.axis[i].n;
    for (i = 0; i < 2; i++)
        if ((double)s->grid.chirp[i].inner.n > most) return 0;
    return rows <= most;
}

/* Are transforms likely to take less time than sums? Must not depend on B or C, nor on
 * the table: the answer changes bits. Measured with B C = 16 to 256 on AVX-512 and AVX2:
 * a run of taps costs an output as much as 12 taps more; transforms take 2.5 for each
 * step of a pass (as in tfb__fft_good) of a complex row. For B C = 64 neither is then
 * chosen where it takes more than 1.5 times as long as the other. */
static int tfb__long_fft_wins(const tfb__long_call *s) {
    double rows = 1, sums = 1;
    int i, j, steps = 12; /* those of products */
    for (i = 0; i < 3; i++) {
        const tfb__fft_plan *p = i < 2 && s->grid.chirp[i].inner.n
                                     ? &s->grid.chirp[i].inner
                                     : &s->grid.axis[i];
        for (j = 0; j < p->passes; j++)
            steps += tfb__fft_cost[p->radix[j]] * (p == &s->grid.axis[i] ? 1 : 2);
        rows *= (double)p->n;
        sums *= tfb__long_met(s, i) + (i == 2 ? 12 * (double)s->n[i] : 0);
    }
    return sums >= 2.5 * rows * (double)steps;
}

/* [B, .., C] as [B, n0, n1, n2, C]; one that all samples share gets stride 0. */
static tfb_tensor tfb__long_view(const tfb_tensor *t, tfb_idx B, int axes) {
    const int first = t->ndim - axes - 1;
    tfb_tensor v = *t;
    int i;
    v.ndim = 5;
    v.shape[0] = B;
    v.stride[0] = first && B > 1 ? t->stride[0] : 0;
    for (i = 1; i < 4; i++) {
        const int from = i + axes - 4;
        v.shape[i] = from < 0 ? 1 : t->shape[first + from];
        v.stride[i] = from < 0 ? 0 : t->stride[first + from];
    }
    v.shape[4] = t->shape[t->ndim - 1];
    v.stride[4] = t->stride[t->ndim - 1];
    return v;
}

static tfb_status tfb__long_check_axis(tfb_ctx *ctx, const char *fn, const tfb_tensor *x,
                                       const tfb_tensor *k, const tfb_long_conv_opts *o,
                                       int i) {
    const int axes = x->ndim - 2, at = k->ndim - axes - 1 + i;
    const tfb_edge edge = o->edge[i];
    TFB__REQUIRE((unsigned)edge <= (unsigned)TFB_EDGE_CAUSAL, ctx, TFB_ERR_ARG,
                 "%s: edge[%d] is %d, which is none", fn, (tfb_idx)i, (tfb_idx)edge);
    TFB__REQUIRE(edge != TFB_EDGE_CAUSAL || axes == 1, ctx, TFB_ERR_ARG,
                 "%s: edge[%d] is causal, x has %d axes, needs 1", fn, (tfb_idx)i,
                 (tfb_idx)axes);
    TFB__REQUIRE(k->shape[at] > 0, ctx, TFB_ERR_SHAPE, "%s: k.shape[%d] is 0", fn,
                 (tfb_idx)at);
    TFB__REQUIRE(edge != TFB_EDGE_CIRCULAR || k->shape[at] <= x->shape[i + 1], ctx,
                 TFB_ERR_SHAPE, "%s: k.shape[%d] is %d, the circular axis of x has %d",
                 fn, (tfb_idx)at, k->shape[at], x->shape[i + 1]);
    return TFB_OK;
}

static tfb_status tfb__long_check(tfb_ctx *ctx, const char *fn, const tfb_tensor *x,
                                  const tfb_tensor *k, const tfb_long_conv_opts *o,
                                  const tfb_tensor *y) {
    const int f32 = TFB__MASK(TFB_F32);
    int i;
    TFB__TRY(tfb__check(ctx, fn, "x", x, f32, 3, 5));
    TFB__TRY(tfb__check(ctx, fn, "k", k, f32, x->ndim - 1, x->ndim));
    TFB__TRY(tfb__check_extent(ctx, fn, "k", k, k->ndim - 1, x->shape[x->ndim - 1]));
    if (k->ndim == x->ndim) TFB__TRY(tfb__check_extent(ctx, fn, "k", k, 0, x->shape[0]));
    TFB__TRY(
        tfb__check_vector(ctx, fn, "shortcut", o->shortcut, f32, x->shape[x->ndim - 1]));
    for (i = 0; i < x->ndim - 2; i++) TFB__TRY(tfb__long_check_axis(ctx, fn, x, k, o, i));
    TFB__REQUIRE((unsigned)o->method <= (unsigned)TFB_CONV_FFT, ctx, TFB_ERR_ARG,
                 "%s: method is %d, which is none", fn, (tfb_idx)o->method);
    TFB__TRY(tfb__check_shape(ctx, fn, "y", y, x->ndim, x->shape));
    TFB__TRY(tfb__check_out(ctx, fn, "y", y));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "x", x, 1));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "k", k, 0));
    return tfb__check_alias(ctx, fn, "y", y, "shortcut", o->shortcut, 0);
}

static void tfb__long_resolve(const tfb_ctx *ctx, const tfb_tensor *x,
                              const tfb_tensor *k, const tfb_long_conv_opts *o,
                              const tfb_tensor *y, tfb__long_call *s) {
    const int axes = x->ndim - 2;
    int i;
    memset((void *)s, 0, sizeof *s);
    s->isa = ctx->isa;
    s->x = tfb__long_view(x, x->shape[0], axes);
    s->k = tfb__long_view(k, x->shape[0], axes);
    s->y = tfb__long_view(y, x->shape[0], axes);
    if (o->shortcut) s->shortcut = *o->shortcut;
    for (i = 0; i < 3; i++) {
        const tfb_edge edge = i + axes < 3 ? TFB_EDGE_ZERO : o->edge[i + axes - 3];
        s->n[i] = s->x.shape[i + 1];
        s->origin[i] = o->first_tap ? 0 : s->k.shape[i + 1] / 2;
        s->circular[i] = edge == TFB_EDGE_CIRCULAR;
        if (edge != TFB_EDGE_CAUSAL) continue;
        if (s->k.data) s->k.data = (float *)s->k.data + s->origin[i] * s->k.stride[i + 1];
        s->k.shape[i + 1] -= s->origin[i];
        s->origin[i] = 0;
    }
    for (i = 0; i < 3; i++) s->taps[i] = s->k.shape[i + 1];
    s->places = s->n[0] * s->n[1] * s->n[2];
    s->all_taps = s->taps[0] * s->taps[1] * s->taps[2];
    s->panels = TFB__PANEL_COUNT(s->x.shape[4]);
    s->kernels = s->k.stride[0] ? s->x.shape[0] : 1;
    s->groups = (tfb__workers(ctx) + s->panels - 1) / s->panels;
    s->groups = TFB__MIN(s->groups, s->x.shape[0]);
    if (o->method == TFB_CONV_DIRECT) return;
    for (i = 0; i < 3; i++) tfb__long_axis(s, i);
    s->fft = o->method == TFB_CONV_FFT || tfb__long_fft_wins(s);
    if (!tfb__long_fft_fits(s)) s->fft = o->method == TFB_CONV_FFT ? -1 : 0;
    if (s->fft > 0) tfb__long_sizes(s);
}

/* tfb_long_conv for arguments that are known to be right. With `kept` the spectra of k
 * are there already and of k only the shape is read; keep: they are made, nothing else,
 * and of x only the shape is read. */
static tfb_status tfb__long_run(tfb_ctx *ctx, const char *fn, const tfb_tensor *x,
                                const tfb_tensor *k, const tfb_long_conv_opts *o,
                                const tfb_tensor *y, void *kept, int keep) {
    tfb__long_call s;
    tfb__long_room m;
    tfb__mark mark;
    tfb_status status;
    char *tables;
    tfb__long_resolve(ctx, x, k, o, y, &s);
    TFB__REQUIRE(s.fft >= 0, ctx, TFB_ERR_RANGE, "%s: too many places for transforms",
                 fn);
    if (s.fft) s.kept = (char *)kept;
    s.worker_bytes = tfb__long_carve(&s, NULL, &m);
    mark = tfb__scratch_begin(ctx);
    tables = (char *)tfb__take(ctx, s.fft && !kept, s.grid.table_bytes);
    s.scratch = (char *)tfb__take(ctx, tfb__workers(ctx), s.worker_bytes);
    status = tfb__scratch_ready(ctx, fn);
    if (status == TFB_OK && !ctx->measuring) {
        tfb__long_carve(&s, s.scratch, &m);
        if (s.fft) tfb__long_tables(&s.grid, kept ? s.kept : tables);
        if (s.fft && (keep || !kept)) tfb__long_fill(&s, m.chirp);
        if (keep) tfb__parallel(ctx, s.panels * s.kernels, tfb__long_keep_task, &s);
        else tfb__parallel(ctx, s.panels * s.groups, tfb__long_task, &s);
    }
    return tfb__scratch_end(ctx, mark, status);
}

TFB_API tfb_status tfb_long_conv(tfb_ctx *ctx, const tfb_tensor *x, const tfb_tensor *k,
                                 const tfb_long_conv_opts *opts, tfb_tensor *y) {
    const char *fn = "tfb_long_conv";
    tfb_long_conv_opts o;
    TFB__ENTER(ctx);
    memset((void *)&o, 0, sizeof o);
    if (opts) o = *opts;
    TFB__TRY(tfb__long_check(ctx, fn, x, k, &o, y));
    if (tfb_numel(y) == 0) return TFB_OK;
    return tfb__long_run(ctx, fn, x, k, &o, y, NULL, 0);
}

/* --- For mixers, whose arguments are right: the spectra of a kernel, kept in memory of
 * theirs, aligned to 64, as long as shapes, options and the kernel stay the same. --- */
/* Bytes to keep; 0 if sums are direct, so that there is nothing to be kept. */
static size_t tfb__long_conv_keep_bytes(const tfb_ctx *ctx, const tfb_tensor *x,
                                        const tfb_tensor *k,
                                        const tfb_long_conv_opts *o) {
    tfb__long_call s;
    size_t spectra;
    tfb__long_resolve(ctx, x, k, o, x, &s);
    if (s.fft <= 0) return 0;
    spectra = tfb__size_mul((size_t)s.panels, (size_t)s.kernels);
    return tfb__size_add(s.grid.table_bytes,
                         tfb__size_mul(spectra, s.grid.spectrum_bytes));
}

/* Fills kept; of x only the shape is read. */
static tfb_status tfb__long_conv_keep(tfb_ctx *ctx, const char *fn, const tfb_tensor *x,
                                      const tfb_tensor *k, const tfb_long_conv_opts *o,
                                      void *kept) {
    return tfb__long_run(ctx, fn, x, k, o, x, kept, 1);
}

/* The convolution with what was kept; of k only the shape is read. Without elements in y
 * there must be no call. */
static tfb_status tfb__long_conv_run(tfb_ctx *ctx, const char *fn, const tfb_tensor *x,
                                     const tfb_tensor *k, const tfb_long_conv_opts *o,
                                     const tfb_tensor *y, const void *kept) {
    return tfb__long_run(ctx, fn, x, k, o, y, (void *)(uintptr_t)kept, 0);
}

/* --- Reference. y overlaps no input. --- */
/* The tap number output n has for input m on an axis, -1 if none. */
static tfb_idx tfb__tap_ref(const tfb_long_conv_opts *o, int axis, tfb_idx N, tfb_idx K,
                            tfb_idx n, tfb_idx m) {
    const tfb_idx origin = o->first_tap ? 0 : K / 2;
    tfb_idx tap = n + origin - m;
    if (o->edge[axis] == TFB_EDGE_CIRCULAR) tap = (tap + N) % N;
    if (o->edge[axis] == TFB_EDGE_CAUSAL && tap < origin) return -1;
    return tap < K ? tap : -1;
}

/* The tap that output n has for input m, both numbers of places; NULL if none. `taps`:
 * the channel's first. */
static const float *tfb__taps_ref(const tfb_tensor *x, const tfb_tensor *k,
                                  const float *taps, const tfb_long_conv_opts *o,
                                  tfb_idx n, tfb_idx m) {
    const int first = k->ndim - (x->ndim - 1);
    int i;
    for (i = x->ndim - 3; i >= 0; i--) {
        const tfb_idx N = x->shape[i + 1], K = k->shape[first + i];
        const tfb_idx tap = tfb__tap_ref(o, i, N, K, n % N, m % N);
        if (tap < 0) return NULL;
        taps += tap * k->stride[first + i];
        n /= N;
        m /= N;
    }
    return taps;
}

TFB__UNUSED static void tfb__long_conv_ref(const tfb_tensor *x, const tfb_tensor *k,
                                           const tfb_long_conv_opts *o, tfb_tensor *y) {
    const tfb_idx C = x->shape[x->ndim - 1], all = tfb_numel(x);
    const tfb_idx places = all ? all / x->shape[0] / C : 0;
    const float *in = (const float *)x->data;
    tfb_idx i, m;
    for (i = 0; i < all; i++) {
        const tfb_idx c = i % C, n = i / C % places, b = i / C / places;
        const float *taps = (const float *)k->data + c * k->stride[k->ndim - 1];
        float sum = 0, block = 0;
        tfb_idx met = -1, begun = 0; /* the block at hand, blocks before it */
        if (k->ndim == x->ndim) taps += b * k->stride[0];
        for (m = 0; m < places; m++) {
            const float *tap = tfb__taps_ref(x, k, taps, o, n, m);
            if (!tap) continue;
            if (met >= 0 && met != m / TFB__BLOCK) {
                sum = begun++ ? sum + block : block;
                block = 0;
            }
            met = m / TFB__BLOCK;
            block = TFB__FMA(*tap, in[tfb__offset(x, x->ndim, (b * places + m) * C + c)],
                             block);
        }
        sum = begun ? sum + block : block;
        if (o->shortcut)
            sum = TFB__FMA(tfb__vector_at(o->shortcut, c), in[tfb__offset(x, x->ndim, i)],
                           sum);
        ((float *)y->data)[tfb__offset(y, y->ndim, i)] = sum;
    }
}

#endif /* TFB_NO_LONG_CONV */

/* ===== [21] MIXERS ================================================================== */

#ifndef TFB_NO_RANDOM
/* --- Random numbers: Philox4x32-10, Salmon et al. 2011. --- */
static void tfb__mulhilo(uint32_t a, uint32_t b, uint32_t *hi, uint32_t *lo) {
    const uint64_t product = (uint64_t)a * b;
    *hi = (uint32_t)(product >> 32);
    *lo = (uint32_t)product;
}

/* The first of the four words for a counter. */
static uint32_t tfb__philox(uint64_t seed, uint64_t counter) {
    uint32_t c[4] = TFB_INIT, hi[2], lo[2];
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    int round;
    c[0] = (uint32_t)counter;
    c[1] = (uint32_t)(counter >> 32);
    for (round = 0; round < 10; round++) {
        tfb__mulhilo(0xD2511F53u, c[0], &hi[0], &lo[0]);
        tfb__mulhilo(0xCD9E8D57u, c[2], &hi[1], &lo[1]);
        c[0] = hi[1] ^ c[1] ^ k0;
        c[1] = lo[1];
        c[2] = hi[0] ^ c[3] ^ k1;
        c[3] = lo[0];
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c[0];
}

static float tfb__uniform(uint64_t seed, uint64_t counter, float lo, float hi) {
    const float u = (float)(tfb__philox(seed, counter) >> 8) * 5.9604644775390625e-8f;
    return TFB__FMA(u, hi - lo, lo);
}

TFB_API tfb_status tfb_uniform(tfb_ctx *ctx, uint64_t seed, uint64_t first, float lo,
                               float hi, tfb_tensor *y) {
    tfb_idx i;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__check(ctx, "tfb_uniform", "y", y, TFB__MASK(TFB_F32), 0, TFB_MAX_DIMS));
    TFB__TRY(tfb__check_out(ctx, "tfb_uniform", "y", y));
    TFB__REQUIRE(lo <= hi && hi - lo <= FLT_MAX, ctx, TFB_ERR_RANGE,
                 "tfb_uniform: lo and hi are no range");
    for (i = 0; !ctx->measuring && i < tfb_numel(y); i++)
        ((float *)y->data)[tfb__offset(y, y->ndim, i)] =
            tfb__uniform(seed, first + (uint64_t)i, lo, hi);
    return TFB_OK;
}
#endif

#ifndef TFB_NO_PARAMS
/* --- Parameters: counting, saving, loading by walks. --- */
static tfb_status tfb__param_count(void *user, const char *name, tfb_tensor *t) {
    (void)name;
    *(int64_t *)user += (int64_t)tfb_numel(t);
    return TFB_OK;
}

TFB_API int64_t tfb_params_count(tfb_params_fn params, void *module) {
    int64_t n = 0;
    if (!params || !module) return 0;
    return params(module, tfb__param_count, &n) == TFB_OK ? n : 0;
}

/* A save: magic, version, sum of all behind it, its bytes, how many parameters; for each
 * its name's length, name, rank, extents, values; numbers have 8 bytes, names and values
 * are filled up to 8. */
#define TFB__PARAMS_VERSION 1u
#define TFB__PARAMS_HEAD    40

enum { TFB__PARAMS_WRITE, TFB__PARAMS_COMPARE, TFB__PARAMS_READ };

typedef struct tfb__params {
    tfb_ctx *ctx;
    const char *fn;
    tfb__kv_bytes file;
    int doing;
    uint64_t count;
} tfb__params;

/* The only functions of libc that are needed copy, fill and compare. */
static size_t tfb__text_length(const char *text) {
    size_t n = 0;
    while (text[n]) n++;
    return n;
}

static int tfb__params_same_name(tfb__kv_bytes *f, const char *name) {
    const size_t length = tfb__text_length(name);
    const uint64_t have = tfb__kv_read(f, 8);
    size_t i;
    int same = have == length;
    for (i = 0; i < (have + 7) / 8 * 8 && f->at < f->size; i++) {
        const char c = (char)(unsigned char)tfb__kv_read(f, 1);
        same = same && c == (i < length ? name[i] : 0);
    }
    return same;
}

static void tfb__params_name(tfb__kv_bytes *f, const char *name) {
    const size_t length = tfb__text_length(name);
    size_t i;
    tfb__kv_write(f, length, 8);
    for (i = 0; i < (length + 7) / 8 * 8; i++)
        tfb__kv_write(f, i < length ? (uint64_t)(unsigned char)name[i] : 0, 1);
}

/* The values of one parameter, or past them. */
static void tfb__params_values(tfb__params *p, tfb_tensor *t) {
    tfb__kv_bytes *f = &p->file;
    const tfb_idx n = tfb_numel(t);
    const tfb_idx size = (tfb_idx)tfb_dtype_size(t->dtype);
    tfb_idx i;
    if (p->doing == TFB__PARAMS_COMPARE || (p->doing == TFB__PARAMS_WRITE && !f->to)) {
        f->at = tfb__size_add(f->at, tfb__size_mul((size_t)(n + n % 2), 4));
        return;
    }
    for (i = 0; i < n + n % 2; i++) {
        char *x = (char *)t->data + (i < n ? tfb__offset(t, t->ndim, i) * size : 0);
        if (p->doing == TFB__PARAMS_WRITE)
            tfb__kv_write(f, i < n ? tfb__bits_of(tfb__get(t->dtype, TFB_F32, x)) : 0, 4);
        else {
            const uint32_t bits = (uint32_t)tfb__kv_read(f, 4);
            if (i < n) tfb__set(t->dtype, x, tfb__float_of(bits));
        }
    }
}

static tfb_status tfb__params_visit(void *user, const char *name, tfb_tensor *t) {
    tfb__params *p = (tfb__params *)user;
    tfb__kv_bytes *f = &p->file;
    int i, same;
    TFB__REQUIRE(TFB__FLOATS & TFB__MASK(t->dtype), p->ctx, TFB_ERR_DTYPE,
                 "%s: %s is %s, which is not saved", p->fn, name,
                 tfb__dtype_text(t->dtype));
    p->count++;
    if (p->doing == TFB__PARAMS_WRITE) {
        tfb__params_name(f, name);
        tfb__kv_write(f, (uint64_t)t->ndim, 8);
        for (i = 0; i < t->ndim; i++) tfb__kv_write(f, (uint64_t)t->shape[i], 8);
    } else {
        same = tfb__params_same_name(f, name);
        TFB__REQUIRE(same, p->ctx, TFB_ERR_SHAPE, "%s: %s is not what was saved there",
                     p->fn, name);
        same = tfb__kv_read(f, 8) == (uint64_t)t->ndim;
        for (i = 0; same && i < t->ndim; i++)
            same = tfb__kv_read(f, 8) == (uint64_t)t->shape[i];
        TFB__REQUIRE(same, p->ctx, TFB_ERR_SHAPE, "%s: %s was saved in another shape",
                     p->fn, name);
    }
    tfb__params_values(p, t);
    return TFB_OK;
}

TFB_API size_t tfb_params_bytes(tfb_params_fn params, void *module) {
    tfb__params p;
    tfb_ctx ctx; /* for the message nobody reads */
    memset((void *)&p, 0, sizeof p);
    p.ctx = &ctx;
    p.fn = "";
    p.file.at = TFB__PARAMS_HEAD;
    if (!params || !module) return 0;
    return params(module, tfb__params_visit, &p) == TFB_OK ? p.file.at : 0;
}

TFB_API tfb_status tfb_params_save(tfb_ctx *ctx, tfb_params_fn params, void *module,
                                   void *mem, size_t mem_bytes) {
    const char *fn = "tfb_params_save";
    tfb__params p;
    size_t need;
    TFB__ENTER(ctx);
    TFB__REQUIRE(params && module && mem, ctx, TFB_ERR_ARG, "%s: %s is NULL", fn,
                 !params   ? "params"
                 : !module ? "module"
                           : "mem");
    memset((void *)&p, 0, sizeof p);
    p.ctx = ctx;
    p.fn = fn;
    p.file.at = TFB__PARAMS_HEAD;
    TFB__TRY(params(module, tfb__params_visit, &p));
    need = p.file.at;
    TFB__REQUIRE(mem_bytes >= need, ctx, TFB_ERR_RANGE, "%s: mem_bytes is %d, needs %d",
                 fn, (tfb_idx)mem_bytes, (tfb_idx)need);
    if (ctx->measuring) return TFB_OK;
    tfb__save_begin(&p.file, mem, "TFBPARAM", TFB__PARAMS_VERSION, need);
    tfb__kv_write(&p.file, p.count, 8);
    TFB__TRY(params(module, tfb__params_visit, &p));
    tfb__save_end(&p.file);
    return TFB_OK;
}

TFB_API tfb_status tfb_params_load(tfb_ctx *ctx, tfb_params_fn params, void *module,
                                   const void *mem, size_t mem_bytes) {
    const char *fn = "tfb_params_load";
    tfb__params p;
    uint64_t count;
    TFB__ENTER(ctx);
    TFB__REQUIRE(params && module && mem, ctx, TFB_ERR_ARG, "%s: %s is NULL", fn,
                 !params   ? "params"
                 : !module ? "module"
                           : "mem");
    if (ctx->measuring) return TFB_OK;
    memset((void *)&p, 0, sizeof p);
    p.ctx = ctx;
    p.fn = fn;
    p.file.from = (const char *)mem;
    p.file.size = mem_bytes;
    TFB__TRY(tfb__load_begin(ctx, fn, &p.file, "TFBPARAM", "parameters",
                             TFB__PARAMS_VERSION, TFB__PARAMS_HEAD));
    count = tfb__kv_read(&p.file, 8);
    for (p.doing = TFB__PARAMS_COMPARE; p.doing <= TFB__PARAMS_READ; p.doing++) {
        p.file.at = TFB__PARAMS_HEAD;
        p.count = 0;
        TFB__TRY(params(module, tfb__params_visit, &p));
        TFB__REQUIRE(p.count == count && p.file.at == p.file.size, ctx, TFB_ERR_SHAPE,
                     "%s: %d parameters, %d were saved", fn, (tfb_idx)p.count,
                     (tfb_idx)(count & 0xFFFFFF));
    }
    return TFB_OK;
}
#endif

#ifndef TFB_NO_MIXERS
/* --- Memory for parameters: carved one after another, filled by the default. --- */
typedef struct tfb__carver {
    tfb_ctx *ctx;
    char *mem; /* NULL: only sizes */
    size_t used;
    uint64_t seed, drawn;
} tfb__carver;

static tfb_tensor tfb__carve(tfb__carver *c, int ndim, tfb_idx n0, tfb_idx n1) {
    tfb_tensor t =
        ndim == 1 ? tfb_view1(NULL, TFB_F32, n0) : tfb_view2(NULL, TFB_F32, n0, n1);
    const size_t n = tfb__size_mul((size_t)n0, ndim == 1 ? 1 : (size_t)n1);
    if (c->mem) t.data = c->mem + c->used;
    c->used = tfb__size_add(c->used, tfb__round64(tfb__size_mul(n, 4)));
    return t;
}

/* Uniform in +- bound; numbers go on where the last tensor ended. */
static void tfb__draw(tfb__carver *c, tfb_tensor *t, float bound) {
    tfb_idx i;
    for (i = 0; t->data && i < tfb_numel(t); i++)
        ((float *)t->data)[i] = tfb__uniform(c->seed, c->drawn++, -bound, bound);
}

static void tfb__fill(tfb_tensor *t, float value) {
    tfb_idx i;
    for (i = 0; t->data && i < tfb_numel(t); i++) ((float *)t->data)[i] = value;
}

static float tfb__fan_in(tfb_idx K) {
    return K > 0 ? 1.0f / TFB__SQRT((float)K) : 0.0f;
}

/* mem is there, aligned and large enough. */
static tfb_status tfb__check_memory(tfb_ctx *ctx, const char *fn, const void *mem,
                                    size_t have, size_t need, size_t align) {
    TFB__REQUIRE(mem, ctx, TFB_ERR_ARG, "%s: mem is NULL", fn);
    TFB__REQUIRE((uintptr_t)mem % align == 0, ctx, TFB_ERR_ARG,
                 "%s: mem is not aligned to %d", fn, (tfb_idx)align);
    TFB__REQUIRE(have >= need, ctx, TFB_ERR_RANGE, "%s: mem_bytes is %d, needs %d", fn,
                 (tfb_idx)have, (tfb_idx)need);
    return TFB_OK;
}

/* --- The QKV block. --- */
static tfb_idx tfb__qkv_kv(const tfb_qkv_opts *o) {
    return o->kv_channels ? o->kv_channels : o->channels;
}

static void tfb__qkv_carve(const tfb_qkv_opts *o, tfb__carver *c, tfb_qkv *block) {
    const tfb_idx C = o->channels, rows = C + 2 * tfb__qkv_kv(o);
    memset((void *)block, 0, sizeof *block);
    block->channels = C;
    block->kv_channels = tfb__qkv_kv(o);
    block->mixer = o->mixer;
    block->wqkv = tfb__carve(c, 2, rows, C);
    if (o->bias) block->bqkv = tfb__carve(c, 1, rows, 0);
    block->wout = tfb__carve(c, 2, C, C);
    if (o->bias) block->bout = tfb__carve(c, 1, C, 0);
}

TFB_API size_t tfb_qkv_bytes(const tfb_qkv_opts *opts) {
    const tfb_idx far = PTRDIFF_MAX / 16;
    tfb__carver c;
    tfb_qkv block;
    if (!opts || opts->channels < 1 || opts->channels > far || opts->kv_channels < 0 ||
        opts->kv_channels > far)
        return 0;
    memset((void *)&c, 0, sizeof c);
    tfb__qkv_carve(opts, &c, &block);
    return c.used < (size_t)-1 / 2 ? c.used : 0;
}

/* A weight and its bias, by the callback or by default. */
static tfb_status tfb__qkv_fill(tfb__carver *c, tfb_init_fn init, void *user,
                                tfb_tensor *w, tfb_tensor *b) {
    if (!init) {
        tfb__draw(c, w, tfb__fan_in(w->shape[1]));
        if (b->ndim) tfb__draw(c, b, tfb__fan_in(w->shape[1]));
        return TFB_OK;
    }
    if (b->ndim) tfb__fill(b, 0.0f);
    return init(c->ctx, user, w);
}

TFB_API tfb_status tfb_qkv_init(tfb_ctx *ctx, tfb_qkv *block, const tfb_qkv_opts *opts,
                                void *mem, size_t mem_bytes) {
    const char *fn = "tfb_qkv_init";
    const size_t need = tfb_qkv_bytes(opts);
    tfb__carver c;
    tfb_qkv made;
    TFB__ENTER(ctx);
    TFB__REQUIRE(block && opts, ctx, TFB_ERR_ARG, "%s: %s is NULL", fn,
                 block ? "opts" : "block");
    TFB__REQUIRE(need, ctx, TFB_ERR_RANGE, "%s: channels %d, kv_channels %d", fn,
                 opts->channels, opts->kv_channels);
    TFB__REQUIRE(opts->mixer.ops, ctx, TFB_ERR_ARG, "%s: mixer.ops is NULL", fn);
    TFB__TRY(tfb__check_memory(ctx, fn, mem, mem_bytes, need, 4));
    if (ctx->measuring) return TFB_OK;
    memset((void *)&c, 0, sizeof c);
    c.ctx = ctx;
    c.mem = (char *)mem;
    c.seed = opts->seed;
    tfb__qkv_carve(opts, &c, &made);
    TFB__TRY(tfb__qkv_fill(&c, opts->init_qkv, opts->init_user, &made.wqkv, &made.bqkv));
    TFB__TRY(tfb__qkv_fill(&c, opts->init_out, opts->init_user, &made.wout, &made.bout));
    *block = made;
    return TFB_OK;
}

TFB_API tfb_status tfb_qkv_params(void *module, tfb_param_fn visit, void *user) {
    tfb_qkv *block = (tfb_qkv *)module;
    const tfb_mixer *m = &block->mixer;
    TFB__TRY(visit(user, "wqkv", &block->wqkv));
    if (block->bqkv.ndim) TFB__TRY(visit(user, "bqkv", &block->bqkv));
    TFB__TRY(visit(user, "wout", &block->wout));
    if (block->bout.ndim) TFB__TRY(visit(user, "bout", &block->bout));
    return m->ops && m->ops->params ? m->ops->params(m->self, visit, user) : TFB_OK;
}

/* Tokens of one sample; -1 if spatial is not legal. */
static int64_t tfb__tokens(const tfb_idx *spatial, int axes) {
    int64_t T = 1;
    int i;
    if (!spatial || axes < 1 || axes > 3) return -1;
    for (i = 0; i < axes; i++) {
        if (spatial[i] < 0 || spatial[i] > 0x7FFFFFFF) return -1;
        if (spatial[i] && T > ((int64_t)1 << 40) / spatial[i]) return -1;
        T *= spatial[i];
    }
    return T;
}

TFB_API int64_t tfb_qkv_flops(const tfb_qkv *block, const tfb_idx *spatial, int axes,
                              int inference) {
    const int64_t T = tfb__tokens(spatial, axes);
    const tfb_mixer_ops *ops = block ? block->mixer.ops : NULL;
    int64_t C, mixer = 0;
    if (!ops || T < 0 || block->channels < 1) return -1;
    C = (int64_t)block->channels;
    if (T > ((int64_t)1 << 60) / (8 * C * (C + 2 * (int64_t)block->kv_channels)))
        return -1;
    if (ops->flops)
        mixer = ops->flops(block->mixer.self, block->channels, spatial, axes, inference);
    if (mixer < 0) return -1;
    return 2 * T * C * (C + 2 * (int64_t)block->kv_channels) + mixer + 2 * T * C * C;
}

/* --- Loading weights from elsewhere. --- */
/* A source that has the block's tensor behind it, rows turned if it is [in][out]. */
static tfb_status tfb__qkv_check_source(tfb_ctx *ctx, const char *name,
                                        const tfb_qkv *block, const tfb_tensor *from,
                                        int in_out, const tfb_tensor *to, tfb_tensor *x) {
    const char *fn = "tfb_qkv_load";
    if (!from) return TFB_OK;
    TFB__TRY(tfb__check(ctx, fn, name, from, TFB__FLOATS, 1, 2));
    TFB__REQUIRE(to->ndim && !(TFB__PACKS & TFB__MASK(to->dtype)), ctx, TFB_ERR_ARG,
                 "%s: the block has no %s to be written", fn, name);
    *x = *from;
    if (in_out && from->ndim == 2) {
        x->shape[0] = from->shape[1];
        x->shape[1] = from->shape[0];
        x->stride[0] = from->stride[1];
        x->stride[1] = from->stride[0];
    }
    TFB__TRY(tfb__check(ctx, fn, name, x, TFB__FLOATS, to->ndim, to->ndim));
    TFB__TRY(tfb__check_like(ctx, fn, name, x, to, to->ndim));
    TFB__TRY(tfb__check_alias(ctx, fn, "the block", &block->wqkv, name, x, 0));
    TFB__TRY(tfb__check_alias(ctx, fn, "the block", &block->bqkv, name, x, 0));
    TFB__TRY(tfb__check_alias(ctx, fn, "the block", &block->wout, name, x, 0));
    return tfb__check_alias(ctx, fn, "the block", &block->bout, name, x, 0);
}

/* Row by row: row (part, h, d) of the block is (h, part, d) of what is interleaved. */
static void tfb__qkv_copy(const tfb_tensor *x, tfb_idx heads, tfb_tensor *y) {
    const tfb_idx rows = y->shape[0], D = heads ? rows / 3 / heads : 0;
    tfb_idx i;
    for (i = 0; i < rows; i++) {
        tfb_tensor from = *x, to = *y;
        tfb_idx at = i;
        if (heads) at = ((i / D % heads) * 3 + i / (rows / 3)) * D + i % D;
        from.shape[0] = to.shape[0] = 1;
        from.data =
            (char *)x->data + at * x->stride[0] * (tfb_idx)tfb_dtype_size(x->dtype);
        to.data = (char *)y->data + i * y->stride[0] * (tfb_idx)tfb_dtype_size(y->dtype);
        tfb__copy(&from, &to);
    }
}

TFB_API tfb_status tfb_qkv_load(tfb_ctx *ctx, tfb_qkv *block,
                                const tfb_qkv_source *from) {
    const char *fn = "tfb_qkv_load";
    tfb_tensor x[4];
    tfb_idx heads;
    TFB__ENTER(ctx);
    TFB__REQUIRE(block && from, ctx, TFB_ERR_ARG, "%s: %s is NULL", fn,
                 block ? "from" : "block");
    heads = from->interleaved_heads;
    TFB__REQUIRE(heads >= 0 && (!heads || (block->channels % heads == 0 &&
                                           block->kv_channels == block->channels)),
                 ctx, TFB_ERR_SHAPE, "%s: %d interleaved heads in %d channels", fn, heads,
                 block->channels);
    TFB__TRY(tfb__qkv_check_source(ctx, "wqkv", block, from->wqkv, from->in_out,
                                   &block->wqkv, x));
    TFB__TRY(
        tfb__qkv_check_source(ctx, "bqkv", block, from->bqkv, 0, &block->bqkv, x + 1));
    TFB__TRY(tfb__qkv_check_source(ctx, "wout", block, from->wout, from->in_out,
                                   &block->wout, x + 2));
    TFB__TRY(
        tfb__qkv_check_source(ctx, "bout", block, from->bout, 0, &block->bout, x + 3));
    if (ctx->measuring) return TFB_OK;
    if (from->wqkv) tfb__qkv_copy(x, heads, &block->wqkv);
    if (from->bqkv) tfb__qkv_copy(x + 1, heads, &block->bqkv);
    if (from->wout) tfb__qkv_copy(x + 2, 0, &block->wout);
    if (from->bout) tfb__qkv_copy(x + 3, 0, &block->bout);
    return TFB_OK;
}

/* --- Forward and step. --- */
/* A projection's weight and bias have these many rows of these many columns. */
static tfb_status tfb__qkv_check_weight(tfb_ctx *ctx, const char *fn, const char *name,
                                        const tfb_tensor *w, const char *bias,
                                        const tfb_tensor *b, tfb_idx N, tfb_idx K) {
    TFB__TRY(tfb__check(ctx, fn, name, w, TFB__FLOATS | TFB__PACKS, 2, 2));
    TFB__TRY(tfb__check_extent(ctx, fn, name, w, 0, N));
    TFB__TRY(tfb__check_extent(ctx, fn, name, w, 1, K));
    return b->ndim ? tfb__check_vector(ctx, fn, bias, b, TFB__MASK(TFB_F32), N) : TFB_OK;
}

static tfb_status tfb__qkv_check(tfb_ctx *ctx, const char *fn, const tfb_qkv *block,
                                 const tfb_tensor *x, const tfb_qkv_call *call,
                                 const tfb_tensor *y, int max_axes) {
    const int f32 = TFB__MASK(TFB_F32);
    tfb_idx C;
    TFB__REQUIRE(block, ctx, TFB_ERR_ARG, "%s: block is NULL", fn);
    TFB__REQUIRE(block->mixer.ops && block->mixer.ops->forward, ctx, TFB_ERR_ARG,
                 "%s: block.mixer has no functions", fn);
    C = block->channels;
    TFB__REQUIRE(C > 0 && block->kv_channels > 0, ctx, TFB_ERR_SHAPE,
                 "%s: channels %d, kv_channels %d", fn, C, block->kv_channels);
    TFB__TRY(tfb__qkv_check_weight(ctx, fn, "wqkv", &block->wqkv, "bqkv", &block->bqkv,
                                   C + 2 * block->kv_channels, C));
    TFB__TRY(
        tfb__qkv_check_weight(ctx, fn, "wout", &block->wout, "bout", &block->bout, C, C));
    TFB__TRY(tfb__check(ctx, fn, "x", x, f32, 3, 2 + max_axes));
    TFB__TRY(tfb__check_extent(ctx, fn, "x", x, x->ndim - 1, C));
    TFB__TRY(tfb__check(ctx, fn, "y", y, f32, x->ndim, x->ndim));
    TFB__TRY(tfb__check_like(ctx, fn, "y", y, x, x->ndim));
    TFB__TRY(tfb__check_out(ctx, fn, "y", y));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "x", x, 0));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "wqkv", &block->wqkv, 0));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "bqkv", &block->bqkv, 0));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "wout", &block->wout, 0));
    TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "bout", &block->bout, 0));
    if (call && call->residual) {
        TFB__TRY(tfb__check(ctx, fn, "residual", call->residual, f32, x->ndim, x->ndim));
        TFB__TRY(tfb__check_like(ctx, fn, "residual", call->residual, x, x->ndim));
        TFB__TRY(tfb__check_alias(ctx, fn, "y", y, "residual", call->residual, 1));
    }
    if (!call || !call->cond) return TFB_OK;
    TFB__TRY(tfb__check(ctx, fn, "cond", call->cond, f32, 2, 2));
    return tfb__check_extent(ctx, fn, "cond", call->cond, 0, x->shape[0]);
}

/* A dense tensor of like's shape, but for its last extent, in scratch. */
static tfb_tensor tfb__take_like(tfb_ctx *ctx, const tfb_tensor *like, tfb_idx last) {
    tfb_tensor t = *like;
    t.shape[t.ndim - 1] = last;
    tfb__dense_strides(&t);
    t.data = tfb__take(ctx, tfb_numel(like) / TFB__MAX(1, like->shape[like->ndim - 1]),
                       tfb__size_mul((size_t)last, sizeof(float)));
    return t;
}

/* Both projections around the mixer's function; checked, scratch begun. */
static tfb_status tfb__qkv_inside(tfb_ctx *ctx, const char *fn, const tfb_qkv *block,
                                  tfb_mixer_state *state, const tfb_tensor *x,
                                  const tfb_qkv_call *call, tfb_tensor *y) {
    const tfb_idx C = block->channels, kv = block->kv_channels;
    const tfb_mixer *m = &block->mixer;
    const int last = x->ndim - 1;
    tfb_tensor qkv = tfb__take_like(ctx, x, C + 2 * kv);
    tfb_tensor mixed = tfb__take_like(ctx, x, C), q, k, v;
    tfb_linear_opts o;
    tfb_mix mix;
    TFB__TRY(tfb__scratch_ready(ctx, fn));
    memset((void *)&o, 0, sizeof o);
    memset((void *)&mix, 0, sizeof mix);
    if (block->bqkv.ndim) o.bias = &block->bqkv;
    TFB__TRY(tfb_linear(ctx, x, &block->wqkv, &o, &qkv));
    q = k = v = qkv;
    q.shape[last] = C;
    k.shape[last] = v.shape[last] = kv;
    if (qkv.data) {
        k.data = (float *)qkv.data + C;
        v.data = (float *)qkv.data + C + kv;
    }
    mix.q = &q;
    mix.k = &k;
    mix.v = &v;
    mix.y = &mixed;
    if (call) {
        mix.cond = call->cond;
        mix.comm = call->comm;
        mix.inference = call->inference;
    }
    if (state) TFB__TRY(m->ops->step(ctx, m->self, &mix, state));
    else TFB__TRY(m->ops->forward(ctx, m->self, &mix));
    memset((void *)&o, 0, sizeof o);
    if (block->bout.ndim) o.bias = &block->bout;
    if (call) o.residual = call->residual;
    return tfb_linear(ctx, &mixed, &block->wout, &o, y);
}

TFB_API tfb_status tfb_qkv_forward(tfb_ctx *ctx, const tfb_qkv *block,
                                   const tfb_tensor *x, const tfb_qkv_call *call,
                                   tfb_tensor *y) {
    const char *fn = "tfb_qkv_forward";
    tfb__mark mark;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__qkv_check(ctx, fn, block, x, call, y, 3));
    mark = tfb__scratch_begin(ctx);
    return tfb__scratch_end(ctx, mark, tfb__qkv_inside(ctx, fn, block, NULL, x, call, y));
}

/* --- States. --- */
static tfb_mixer_need tfb__mixer_need(const tfb_qkv *block, tfb_idx batch,
                                      tfb_idx max_tokens) {
    tfb_mixer_need need;
    memset((void *)&need, 0, sizeof need);
    if (block->mixer.ops->need)
        block->mixer.ops->need(block->mixer.self, block->channels, &need);
    need.kv.batch = batch;
    need.kv.max_tokens = max_tokens;
    return need;
}

static void tfb__mixer_kv_opts(const tfb_mixer_need *need, tfb_kv_opts *o) {
    memset((void *)o, 0, sizeof *o);
    o->layers = 1;
    o->shape = need->kv;
}

/* Bytes of the cache and, in *all, with the carried arrays and what a mark keeps. */
static size_t tfb__mixer_bytes(const tfb_mixer_need *need, size_t *all) {
    tfb_kv_opts o;
    size_t kv = 0, floats = 0;
    int i;
    tfb__mixer_kv_opts(need, &o);
    if (need->kv.kv_heads) {
        kv = tfb__round64(tfb_kv_bytes(&o));
        if (!kv) kv = (size_t)-1; /* no legal cache */
    }
    for (i = 0; i < TFB_MIXER_CARRIED; i++)
        floats = tfb__size_add(
            floats, tfb__round64(tfb__size_mul(tfb__size_mul((size_t)need->carried[i], 8),
                                               (size_t)need->kv.batch)));
    *all = tfb__size_add(kv, floats);
    return kv;
}

TFB_API size_t tfb_mixer_state_bytes(const tfb_qkv *block, tfb_idx batch,
                                     tfb_idx max_tokens) {
    tfb_mixer_need need;
    size_t all;
    if (!block || !block->mixer.ops || batch < 1 || max_tokens < 1) return 0;
    need = tfb__mixer_need(block, batch, max_tokens);
    tfb__mixer_bytes(&need, &all);
    return all < (size_t)-1 / 2 ? TFB__MAX(all, 64) : 0;
}

TFB_API void tfb_mixer_state_reset(tfb_mixer_state *state) {
    int i;
    if (!state) return;
    tfb_kv_reset(&state->kv);
    state->tokens = 0;
    state->has_mark = 0;
    for (i = 0; i < TFB_MIXER_CARRIED; i++) {
        const size_t n = (size_t)(state->most * state->carried[i].shape[1]);
        if (n) memset(state->carried[i].data, 0, n * sizeof(float));
    }
}

TFB_API tfb_status tfb_mixer_state_init(tfb_ctx *ctx, tfb_mixer_state *state,
                                        const tfb_qkv *block, tfb_idx batch,
                                        tfb_idx max_tokens, void *mem, size_t mem_bytes) {
    const char *fn = "tfb_mixer_state_init";
    const size_t bytes = tfb_mixer_state_bytes(block, batch, max_tokens);
    tfb_mixer_need need;
    tfb_mixer_state s;
    tfb_kv_opts o;
    size_t all;
    char *at;
    int i;
    TFB__ENTER(ctx);
    TFB__REQUIRE(state && block, ctx, TFB_ERR_ARG, "%s: %s is NULL", fn,
                 state ? "block" : "state");
    TFB__REQUIRE(bytes, ctx, TFB_ERR_RANGE, "%s: batch %d, max_tokens %d", fn, batch,
                 max_tokens);
    memset((void *)&s, 0, sizeof s);
    TFB__REQUIRE(mem || ctx->alloc, ctx, TFB_ERR_MEMORY, "%s: ctx.alloc is NULL", fn);
    if (mem) TFB__TRY(tfb__check_memory(ctx, fn, mem, mem_bytes, bytes, 8));
    if (!mem) {
        s.mem = mem = ctx->alloc(ctx->alloc_user, NULL, bytes);
        TFB__REQUIRE(mem, ctx, TFB_ERR_MEMORY, "%s: %d bytes are not to be had", fn,
                     (tfb_idx)bytes);
        s.alloc = ctx->alloc;
        s.alloc_user = ctx->alloc_user;
    }
    need = tfb__mixer_need(block, batch, max_tokens);
    tfb__mixer_kv_opts(&need, &o);
    at = (char *)mem + tfb__mixer_bytes(&need, &all);
    if (need.kv.kv_heads)
        TFB__TRY(tfb_kv_init_static(ctx, &s.kv, &o, mem, (size_t)(at - (char *)mem)));
    for (i = 0; i < TFB_MIXER_CARRIED; i++) {
        const size_t half = (size_t)(batch * need.carried[i]) * sizeof(float);
        s.carried[i] = tfb_view2(at, TFB_F32, batch, need.carried[i]);
        s.marked[i] = tfb_view2(at + half, TFB_F32, batch, need.carried[i]);
        at += tfb__round64(2 * half);
    }
    s.batch = s.most = batch;
    tfb_mixer_state_reset(&s);
    *state = s;
    return TFB_OK;
}

TFB_API void tfb_mixer_state_free(tfb_mixer_state *state) {
    if (!state) return;
    tfb_kv_free(&state->kv);
    if (state->alloc) state->alloc(state->alloc_user, state->mem, 0);
    memset((void *)state, 0, sizeof *state);
}

static tfb_status tfb__mixer_state_check(tfb_ctx *ctx, const char *fn,
                                         const tfb_mixer_state *state) {
    TFB__REQUIRE(state && state->most, ctx, TFB_ERR_ARG, "%s: state is %s", fn,
                 state ? "not initialised" : "NULL");
    return TFB_OK;
}

/* Arrays carried from one place to another. */
static void tfb__carry(const tfb_mixer_state *state, const tfb_tensor *from,
                       tfb_tensor *to) {
    int i;
    for (i = 0; i < TFB_MIXER_CARRIED; i++) {
        const size_t n = (size_t)(state->most * from[i].shape[1]);
        if (n) memcpy(to[i].data, from[i].data, n * sizeof(float));
    }
}

TFB_API tfb_status tfb_mixer_state_mark(tfb_ctx *ctx, tfb_mixer_state *state) {
    TFB__ENTER(ctx);
    TFB__TRY(tfb__mixer_state_check(ctx, "tfb_mixer_state_mark", state));
    if (ctx->measuring) return TFB_OK;
    if (state->kv.layer) TFB__TRY(tfb_kv_mark(ctx, &state->kv));
    tfb__carry(state, state->carried, state->marked);
    state->marked_tokens = state->tokens;
    state->has_mark = 1;
    return TFB_OK;
}

TFB_API tfb_status tfb_mixer_state_rollback(tfb_ctx *ctx, tfb_mixer_state *state) {
    const char *fn = "tfb_mixer_state_rollback";
    TFB__ENTER(ctx);
    TFB__TRY(tfb__mixer_state_check(ctx, fn, state));
    TFB__REQUIRE(state->has_mark, ctx, TFB_ERR_ARG, "%s: state has no mark", fn);
    if (ctx->measuring) return TFB_OK;
    if (state->kv.layer) TFB__TRY(tfb_kv_rollback(ctx, &state->kv, NULL));
    tfb__carry(state, state->marked, state->carried);
    state->tokens = state->marked_tokens;
    return TFB_OK;
}

TFB_API void tfb_mixer_state_commit(tfb_mixer_state *state) {
    if (!state) return;
    tfb_kv_commit(&state->kv);
    state->has_mark = 0;
}

TFB_API tfb_status tfb_mixer_state_select(tfb_ctx *ctx, tfb_mixer_state *state,
                                          const tfb_tensor *index) {
    const char *fn = "tfb_mixer_state_select";
    tfb_idx i, n;
    int j;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__mixer_state_check(ctx, fn, state));
    TFB__TRY(tfb__check(ctx, fn, "index", index, TFB__MASK(TFB_I32), 1, 1));
    n = index->shape[0];
    TFB__REQUIRE(n > 0, ctx, TFB_ERR_SHAPE, "%s: index is empty", fn);
    TFB__REQUIRE(n <= state->most, ctx, TFB_ERR_FULL, "%s: %d samples, room for %d", fn,
                 n, state->most);
    TFB__REQUIRE(!state->has_mark, ctx, TFB_ERR_ARG, "%s: state has a mark", fn);
    for (i = 0; !ctx->measuring && i < n; i++)
        TFB__REQUIRE(tfb__i32_at(index, i) >= 0 && tfb__i32_at(index, i) < state->batch,
                     ctx, TFB_ERR_RANGE, "%s: index[%d] is %d, there are %d", fn, i,
                     (tfb_idx)tfb__i32_at(index, i), state->batch);
    if (tfb_kv_batch(&state->kv, 0)) TFB__TRY(tfb_kv_select(ctx, &state->kv, index));
    if (ctx->measuring) return TFB_OK;
    tfb__carry(state, state->carried, state->marked); /* nothing is marked: free to use */
    for (j = 0; j < TFB_MIXER_CARRIED; j++) {
        const size_t floats = (size_t)state->carried[j].shape[1];
        for (i = 0; floats && i < n; i++)
            memcpy((float *)state->carried[j].data + (size_t)i * floats,
                   (float *)state->marked[j].data +
                       (size_t)tfb__i32_at(index, i) * floats,
                   floats * sizeof(float));
    }
    state->batch = n;
    return TFB_OK;
}

/* A state made for another mixer would be read past its end. */
static tfb_status tfb__mixer_state_fits(tfb_ctx *ctx, const char *fn,
                                        const tfb_qkv *block,
                                        const tfb_mixer_state *state) {
    const tfb_mixer_need need = tfb__mixer_need(block, state->most, 1);
    const tfb_kv_layer *l = state->kv.layer;
    int i, fits = !l == !need.kv.kv_heads;
    if (fits && l)
        fits = l->shape.kv_heads == need.kv.kv_heads &&
               l->shape.head_dim == need.kv.head_dim &&
               l->shape.window == need.kv.window && l->shape.pinned == need.kv.pinned;
    for (i = 0; i < TFB_MIXER_CARRIED; i++)
        fits = fits && state->carried[i].shape[1] == need.carried[i];
    TFB__REQUIRE(fits, ctx, TFB_ERR_SHAPE, "%s: the state was made for another block",
                 fn);
    return TFB_OK;
}

/* The mixer's step; what it did to the state is undone if anything fails after all. */
typedef struct tfb__undo {
    tfb_tensor carried[TFB_MIXER_CARRIED];
    tfb_kv_row *row;
    tfb_idx rows, tokens;
    int touched;
    tfb_idx batch;
} tfb__undo;

static void tfb__undo_take(tfb_ctx *ctx, const tfb_mixer_state *state, tfb__undo *u) {
    const tfb_kv_layer *l = state->kv.layer;
    int i;
    memset((void *)u, 0, sizeof *u);
    u->tokens = state->tokens;
    u->rows = l ? l->rows : 0;
    u->row = (tfb_kv_row *)tfb__take(ctx, u->rows, sizeof *u->row);
    for (i = 0; i < TFB_MIXER_CARRIED; i++) {
        u->carried[i] = state->carried[i];
        u->carried[i].data =
            tfb__take(ctx, state->most * state->carried[i].shape[1], sizeof(float));
    }
}

static void tfb__undo_keep(const tfb_mixer_state *state, tfb__undo *u) {
    const tfb_kv_layer *l = state->kv.layer;
    tfb__carry(state, state->carried, u->carried);
    if (!l) return;
    memcpy((void *)u->row, (const void *)l->row, (size_t)u->rows * sizeof *u->row);
    u->touched = l->touched;
    u->batch = l->shape.batch;
}

/* Rows keep the pages they have got since and, in a ring, what they have lost. */
static void tfb__undo_run(tfb_mixer_state *state, const tfb__undo *u) {
    tfb_kv_layer *l = state->kv.layer;
    tfb_idx b;
    tfb__carry(state, u->carried, state->carried);
    state->tokens = u->tokens;
    for (b = 0; b < u->rows; b++) {
        l->row[b].first = u->row[b].first;
        l->row[b].end = u->row[b].end;
    }
    if (!l) return;
    l->touched = u->touched;
    l->shape.batch = u->batch;
}

/* Scratch for the whole step beforehand: what a ring has overwritten is gone for good. */
static tfb_status tfb__step_reserve(tfb_ctx *ctx, const char *fn, const tfb_qkv *block,
                                    tfb_mixer_state *state, const tfb_tensor *x,
                                    const tfb_qkv_call *call, tfb_tensor *y) {
    tfb_ctx probe = *ctx;
    tfb_status status;
    size_t need;
    probe.measuring = 1;
    probe.scratch_last = ctx->used;
    status = tfb__qkv_inside(&probe, fn, block, state, x, call, y);
    memcpy(ctx->message, probe.message, sizeof ctx->message);
    TFB__TRY(status);
    need = probe.scratch_last - ctx->used;
    if (!ctx->alloc) {
        TFB__REQUIRE(probe.scratch_last <= ctx->mem_bytes, ctx, TFB_ERR_SCRATCH,
                     "%s: scratch is %d bytes, needs %d", fn, (tfb_idx)ctx->mem_bytes,
                     (tfb_idx)probe.scratch_last);
        return TFB_OK;
    }
    TFB__REQUIRE(tfb__scratch_reserve(ctx, need), ctx, TFB_ERR_MEMORY,
                 "%s: %d bytes of scratch are not to be had", fn, (tfb_idx)need);
    return TFB_OK;
}

TFB_API tfb_status tfb_qkv_step(tfb_ctx *ctx, const tfb_qkv *block,
                                tfb_mixer_state *state, const tfb_tensor *x,
                                const tfb_qkv_call *call, tfb_tensor *y) {
    const char *fn = "tfb_qkv_step";
    tfb__undo undo;
    tfb__mark mark;
    tfb_status status;
    TFB__ENTER(ctx);
    TFB__TRY(tfb__qkv_check(ctx, fn, block, x, call, y, 1));
    TFB__TRY(tfb__mixer_state_check(ctx, fn, state));
    TFB__REQUIRE(block->mixer.ops->step, ctx, TFB_ERR_UNSUPPORTED,
                 "%s: the mixer has no step", fn);
    TFB__REQUIRE(x->shape[0] == state->batch, ctx, TFB_ERR_SHAPE,
                 "%s: x.shape[0] is %d, the state has %d samples", fn, x->shape[0],
                 state->batch);
    TFB__TRY(tfb__mixer_state_fits(ctx, fn, block, state));
    mark = tfb__scratch_begin(ctx);
    tfb__undo_take(ctx, state, &undo);
    status = tfb__scratch_ready(ctx, fn);
    if (status == TFB_OK && !ctx->measuring) {
        tfb__undo_keep(state, &undo);
        status = tfb__step_reserve(ctx, fn, block, state, x, call, y);
    }
    if (status == TFB_OK) {
        status = tfb__qkv_inside(ctx, fn, block, state, x, call, y);
        if (status != TFB_OK && !ctx->measuring) tfb__undo_run(state, &undo);
        else if (!ctx->measuring) state->tokens += x->shape[1];
    }
    return tfb__scratch_end(ctx, mark, status);
}

/* --- The attention mixer. --- */
static tfb_idx tfb__mixer_kv_heads(const tfb_attention_mixer *m) {
    return m->kv_heads ? m->kv_heads : m->heads;
}

/* A view [B, .., C] as [B, heads, T, D]; tokens are evenly spaced, which is checked. */
static tfb_status tfb__heads_view(tfb_ctx *ctx, const char *name, const tfb_tensor *t,
                                  tfb_idx heads, tfb_tensor *out) {
    const char *fn = "attention mixer";
    const int last = t->ndim - 1;
    tfb_idx T = 1, step = 0, C;
    int i;
    TFB__TRY(tfb__check(ctx, fn, name, t, TFB__MASK(TFB_F32), 3, 5));
    C = t->shape[last];
    TFB__REQUIRE(heads > 0 && C % heads == 0, ctx, TFB_ERR_SHAPE,
                 "%s: %s has %d channels for %d heads", fn, name, C, heads);
    for (i = last - 1; i > 0; i--) {
        if (t->shape[i] > 1 && T == 1) step = t->stride[i];
        TFB__REQUIRE(t->shape[i] <= 1 || t->stride[i] == step * T || !tfb_numel(t), ctx,
                     TFB_ERR_SHAPE, "%s: the tokens of %s are not evenly spaced", fn,
                     name);
        T *= t->shape[i];
    }
    *out = tfb_view4(t->data, TFB_F32, t->shape[0], heads, T, C / heads);
    out->stride[0] = t->stride[0];
    out->stride[1] = C / heads * t->stride[last];
    out->stride[2] = T > 1 ? step : C;
    out->stride[3] = t->stride[last];
    return TFB_OK;
}

/* Norm and rope as the options of tfb_qk_opts; rope for the spatial axes of q, from token
 * `start` on. */
static void tfb__mixer_qk(const tfb_attention_mixer *m, const tfb_tensor *q,
                          tfb_idx start, tfb_rope_opts *rope, tfb_qk_opts *qk) {
    int i, axes = q->ndim - 2;
    memset((void *)qk, 0, sizeof *qk);
    *rope = m->rope;
    qk->norm = m->norm;
    qk->norm_last = m->norm_last;
    qk->eps = m->eps;
    qk->eps_set = m->eps_set;
    qk->keys_ready = 1;
    if (m->q_weight.ndim) qk->q_weight = &m->q_weight;
    if (m->k_weight.ndim) qk->k_weight = &m->k_weight;
    if (!m->rotate) return;
    qk->rope = rope;
    rope->positions = NULL;
    rope->start = (m->rope.axes > 1 ? 0 : m->rope.start) + start;
    memset((void *)rope->grid, 0, sizeof rope->grid);
    if (!rope->axes) rope->axes = axes;
    if (rope->axes == 1) return;
    for (i = 0; i < axes; i++) rope->grid[i] = q->shape[1 + i];
}

/* Keys normed and turned, in scratch; the same ones if there is nothing to do. */
static tfb_status tfb__mixer_keys(tfb_ctx *ctx, const tfb_qk_opts *qk, tfb_tensor *k) {
    tfb_tensor ready = *k;
    tfb_norm_opts norm;
    int pass;
    if (!qk->norm && !qk->rope) return TFB_OK;
    tfb__dense_strides(&ready);
    ready.data = tfb__take(ctx, tfb_numel(&ready), sizeof(float));
    TFB__TRY(tfb__scratch_ready(ctx, "attention mixer"));
    memset((void *)&norm, 0, sizeof norm);
    norm.weight = qk->k_weight;
    norm.eps = qk->eps;
    norm.eps_set = qk->eps_set;
    for (pass = 0; pass < 2; pass++) {
        if (qk->norm && pass == qk->norm_last) {
            TFB__TRY(qk->norm == TFB_QK_NORM_L2 ? tfb_l2norm(ctx, k, &norm, &ready)
                                                : tfb_rmsnorm(ctx, k, &norm, &ready));
            *k = ready;
        }
        if (qk->rope && pass == 0 + (qk->norm && !qk->norm_last)) {
            TFB__TRY(tfb_rope(ctx, k, qk->rope, &ready));
            *k = ready;
        }
    }
    return TFB_OK;
}

/* What forward and step share: views, norm and rope; then attention, over the state's
 * cache if there is one. start: the place of the first token. */
static tfb_status tfb__attention_mix(tfb_ctx *ctx, const tfb_attention_mixer *m,
                                     const tfb_mix *call, tfb_idx start,
                                     tfb_mixer_state *state) {
    const tfb_idx G = tfb__mixer_kv_heads(m);
    tfb_attention_opts o = m->opts;
    tfb_tensor q, k, v, y;
    tfb_rope_opts rope;
    tfb_qk_opts qk;
    TFB__REQUIRE(!o.lse && !o.qk && !o.pages && !o.cu_q && !o.kv_start && !o.kv_len, ctx,
                 TFB_ERR_ARG, "attention mixer: opts has what belongs to one sequence");
    TFB__TRY(tfb__heads_view(ctx, "q", call->q, m->heads, &q));
    TFB__TRY(tfb__heads_view(ctx, "k", call->k, G, &k));
    TFB__TRY(tfb__heads_view(ctx, "v", call->v, G, &v));
    TFB__TRY(tfb__heads_view(ctx, "y", call->y, m->heads, &y));
    if (tfb_numel(call->q)) {
        tfb__mixer_qk(m, call->q, start, &rope, &qk);
        TFB__TRY(tfb__mixer_keys(ctx, &qk, &k));
        if (qk.norm || qk.rope) o.qk = &qk;
    }
    if (!state) return tfb_attention(ctx, &q, &k, &v, &o, &y);
    rope.start = m->rope.start; /* the cache numbers queries itself */
    TFB__TRY(tfb_kv_append(ctx, &state->kv, 0, &k, &v));
    if (!q.shape[2]) return TFB_OK;
    return tfb_kv_attention(ctx, &state->kv, 0, &q, &o, &y);
}

static tfb_status tfb__attention_forward(tfb_ctx *ctx, void *self, const tfb_mix *call) {
    return tfb__attention_mix(ctx, (const tfb_attention_mixer *)self, call, 0, NULL);
}

/* Tokens t .. of a [B, T, C] tensor. */
static tfb_tensor tfb__some_tokens(const tfb_tensor *t, tfb_idx from, tfb_idx n) {
    tfb_tensor x = *t;
    x.shape[1] = n;
    if (x.data) x.data = (float *)t->data + from * t->stride[1];
    return x;
}

/* A ring takes no more than 64 tokens at a time, or their queries would miss keys. */
static tfb_status tfb__attention_step(tfb_ctx *ctx, void *self, const tfb_mix *call,
                                      tfb_mixer_state *state) {
    const tfb_attention_mixer *m = (const tfb_attention_mixer *)self;
    const tfb_idx T = call->q->shape[1], most = m->opts.window ? TFB__KV_PAGE : T;
    tfb_status status = TFB_OK;
    tfb_idx t;
    TFB__REQUIRE(m->opts.causal == TFB_CAUSAL_BOTTOM_RIGHT && !m->opts.offset_set, ctx,
                 TFB_ERR_UNSUPPORTED, "attention mixer: step needs causal attention");
    TFB__REQUIRE(!m->opts.mask && !m->opts.bias && !m->opts.offsets, ctx,
                 TFB_ERR_UNSUPPORTED, "attention mixer: step takes no mask or bias");
    for (t = 0; (t < T || !t) && status == TFB_OK; t += TFB__MAX(1, most)) {
        const tfb_idx n = TFB__MIN(most, T - t);
        const tfb_tensor q = tfb__some_tokens(call->q, t, n);
        const tfb_tensor k = tfb__some_tokens(call->k, t, n);
        const tfb_tensor v = tfb__some_tokens(call->v, t, n);
        tfb_tensor y = tfb__some_tokens(call->y, t, n);
        const tfb__mark mark = tfb__scratch_begin(ctx);
        tfb_mix part = *call;
        part.q = &q;
        part.k = &k;
        part.v = &v;
        part.y = &y;
        status = tfb__attention_mix(ctx, m, &part, state->tokens + t, state);
        status = tfb__scratch_end(ctx, mark, status);
    }
    return status;
}

static void tfb__attention_need(const void *self, tfb_idx channels,
                                tfb_mixer_need *need) {
    const tfb_attention_mixer *m = (const tfb_attention_mixer *)self;
    need->kv.kv_heads = tfb__mixer_kv_heads(m);
    if (m->heads > 0 && channels % m->heads == 0) /* else no cache is legal */
        need->kv.head_dim = channels / m->heads;
    need->kv.window = m->opts.window;
    need->kv.pinned = m->opts.window ? m->opts.window_pinned : 0;
}

static int64_t tfb__attention_flops(const void *self, tfb_idx channels,
                                    const tfb_idx *spatial, int axes, int inference) {
    const tfb_attention_mixer *m = (const tfb_attention_mixer *)self;
    const int64_t T = tfb__tokens(spatial, axes), C = (int64_t)channels;
    (void)inference;
    if (T && T > ((int64_t)1 << 58) / C / T) return -1;
    return 4 * T * T * C + (m->rotate ? 4 * T * C : 0) + (m->norm ? 6 * T * C : 0);
}

static tfb_status tfb__attention_params(void *self, tfb_param_fn visit, void *user) {
    tfb_attention_mixer *m = (tfb_attention_mixer *)self;
    if (m->q_weight.ndim) TFB__TRY(visit(user, "attention.q_weight", &m->q_weight));
    if (m->k_weight.ndim) TFB__TRY(visit(user, "attention.k_weight", &m->k_weight));
    return TFB_OK;
}

static const tfb_mixer_ops tfb__attention_ops = {
    "attention",         tfb__attention_forward, tfb__attention_step,
    tfb__attention_need, tfb__attention_flops,   tfb__attention_params,
};

TFB_API tfb_mixer tfb_attention_as_mixer(tfb_attention_mixer *m) {
    tfb_mixer mixer;
    mixer.ops = &tfb__attention_ops;
    mixer.self = m;
    return mixer;
}

/* --- Multi-head self-attention. --- */
static tfb_qkv_opts tfb__mhsa_block(const tfb_mhsa_opts *o) {
    const tfb_idx G = o->kv_heads ? o->kv_heads : o->heads;
    tfb_qkv_opts b;
    memset((void *)&b, 0, sizeof b);
    b.channels = o->channels;
    b.bias = o->bias;
    b.seed = o->seed;
    if (o->heads > 0 && G > 0 && o->heads % G == 0 && o->channels % o->heads == 0)
        b.kv_channels = o->channels / o->heads * G;
    else b.channels = 0; /* not legal */
    return b;
}

TFB_API size_t tfb_mhsa_bytes(const tfb_mhsa_opts *opts) {
    tfb_qkv_opts b;
    if (!opts) return 0;
    b = tfb__mhsa_block(opts);
    return tfb_qkv_bytes(&b);
}

TFB_API tfb_status tfb_mhsa_init(tfb_ctx *ctx, tfb_mhsa *m, const tfb_mhsa_opts *opts,
                                 void *mem, size_t mem_bytes) {
    const char *fn = "tfb_mhsa_init";
    tfb_attention_mixer mixer;
    tfb_qkv_opts b;
    TFB__ENTER(ctx);
    TFB__REQUIRE(m && opts, ctx, TFB_ERR_ARG, "%s: %s is NULL", fn, m ? "opts" : "m");
    TFB__REQUIRE(tfb_mhsa_bytes(opts), ctx, TFB_ERR_RANGE,
                 "%s: channels %d, heads %d, kv_heads %d", fn, opts->channels,
                 opts->heads, opts->kv_heads);
    memset((void *)&mixer, 0, sizeof mixer);
    mixer.heads = opts->heads;
    mixer.kv_heads = opts->kv_heads;
    mixer.norm = opts->norm;
    mixer.opts.causal = opts->causal;
    mixer.opts.window = opts->window;
    mixer.opts.chunk_size = opts->chunk_size;
    if (opts->rope) {
        mixer.rotate = 1;
        mixer.rope = *opts->rope;
    }
    b = tfb__mhsa_block(opts);
    b.mixer = tfb_attention_as_mixer(&m->mixer);
    TFB__TRY(tfb_qkv_init(ctx, &m->block, &b, mem, mem_bytes));
    m->mixer = mixer;
    return TFB_OK;
}
#endif

#ifndef TFB_NO_MAMBA
/* --- The Mamba mixer. --- */
static tfb_mamba tfb__mamba_shape(const tfb_mamba_opts *o) {
    tfb_mamba m;
    memset((void *)&m, 0, sizeof m);
    m.channels = o->channels;
    m.inner = o->channels * (o->expand ? o->expand : 2);
    m.states = o->states ? o->states : 16;
    m.taps = o->taps ? o->taps : 4;
    m.rank = o->rank ? o->rank : (o->channels + 15) / 16;
    m.bidirectional = o->bidirectional != 0;
    return m;
}

static void tfb__mamba_carve(tfb__carver *c, const tfb_mamba *m, tfb_mamba_core *core) {
    const tfb_idx C = m->channels, E = m->inner, N = m->states, K = m->taps, R = m->rank;
    core->w_in = tfb__carve(c, 2, 2 * E, C);
    core->conv_w = tfb__carve(c, 2, E, K);
    core->conv_b = tfb__carve(c, 1, E, 0);
    core->w_x = tfb__carve(c, 2, R + 2 * N, E);
    core->w_dt = tfb__carve(c, 2, E, R);
    core->b_dt = tfb__carve(c, 1, E, 0);
    core->a_log = tfb__carve(c, 2, E, N);
    core->d = tfb__carve(c, 1, E, 0);
    core->w_out = tfb__carve(c, 2, C, E);
}

/* b_dt is the inverse softplus of a time step: t + log(1 - exp(-t)). */
static void tfb__mamba_fill(tfb__carver *c, tfb_mamba_core *core) {
    const tfb_idx E = core->a_log.shape[0], N = core->a_log.shape[1];
    float *b_dt = (float *)core->b_dt.data, *a_log = (float *)core->a_log.data;
    tfb_idx e, n;
    tfb__draw(c, &core->w_in, tfb__fan_in(core->w_in.shape[1]));
    tfb__draw(c, &core->conv_w, tfb__fan_in(core->conv_w.shape[1]));
    tfb__draw(c, &core->conv_b, tfb__fan_in(core->conv_w.shape[1]));
    tfb__draw(c, &core->w_x, tfb__fan_in(core->w_x.shape[1]));
    tfb__draw(c, &core->w_dt, tfb__fan_in(core->w_dt.shape[1]));
    tfb__draw(c, &core->w_out, tfb__fan_in(core->w_out.shape[1]));
    tfb__fill(&core->d, 1.0f);
    for (e = 0; e < E; e++) {
        const float log_lo = -6.9077554f, log_hi = -2.3025851f; /* log 0.001, log 0.1 */
        const float u = tfb__uniform(c->seed, c->drawn++, log_lo, log_hi);
        const float t = TFB__MAX(tfb__exp_scalar(u), 1e-4f);
        b_dt[e] = t + tfb__log_scalar(1.0f - tfb__exp_scalar(-t));
        for (n = 0; n < N; n++) a_log[e * N + n] = tfb__log_scalar((float)(n + 1));
    }
}

static void tfb__mamba_carve_all(tfb__carver *c, tfb_mamba *m) {
    int i;
    for (i = 0; i <= m->bidirectional; i++) {
        tfb__mamba_carve(c, m, m->core + i);
        if (c->mem) tfb__mamba_fill(c, m->core + i);
    }
}

TFB_API size_t tfb_mamba_bytes(const tfb_mamba_opts *opts) {
    const tfb_idx far = (tfb_idx)1 << 24;
    tfb__carver c;
    tfb_mamba m;
    if (!opts || opts->channels < 1 || opts->channels > far || opts->expand < 0 ||
        opts->expand > 64 || opts->states < 0 || opts->states > far || opts->taps < 0 ||
        opts->taps > far || opts->rank < 0 || opts->rank > far)
        return 0;
    memset((void *)&c, 0, sizeof c);
    m = tfb__mamba_shape(opts);
    tfb__mamba_carve_all(&c, &m);
    return c.used < (size_t)-1 / 2 ? c.used : 0;
}

TFB_API tfb_status tfb_mamba_init(tfb_ctx *ctx, tfb_mamba *m, const tfb_mamba_opts *opts,
                                  void *mem, size_t mem_bytes) {
    const char *fn = "tfb_mamba_init";
    const size_t need = tfb_mamba_bytes(opts);
    tfb__carver c;
    tfb_mamba made;
    TFB__ENTER(ctx);
    TFB__REQUIRE(m && opts, ctx, TFB_ERR_ARG, "%s: %s is NULL", fn, m ? "opts" : "m");
    TFB__REQUIRE(need, ctx, TFB_ERR_RANGE, "%s: an extent is out of range", fn);
    TFB__TRY(tfb__check_memory(ctx, fn, mem, mem_bytes, need, 4));
    if (ctx->measuring) return TFB_OK;
    memset((void *)&c, 0, sizeof c);
    c.mem = (char *)mem;
    c.seed = opts->seed;
    made = tfb__mamba_shape(opts);
    tfb__mamba_carve_all(&c, &made);
    *m = made;
    return TFB_OK;
}

/* [B, .., C] as [B, T, C]. */
static tfb_status tfb__flat_view(tfb_ctx *ctx, const char *name, const tfb_tensor *t,
                                 tfb_tensor *out) {
    tfb_tensor heads;
    memset((void *)&heads, 0, sizeof heads);
    TFB__TRY(tfb__heads_view(ctx, name, t, 1, &heads));
    *out = tfb_view3(heads.data, TFB_F32, heads.shape[0], heads.shape[2], heads.shape[3]);
    out->stride[0] = heads.stride[0];
    out->stride[1] = heads.stride[2];
    out->stride[2] = heads.stride[3];
    return TFB_OK;
}

/* Columns from .. of a [B, T, n] tensor. */
static tfb_tensor tfb__columns(const tfb_tensor *t, tfb_idx from, tfb_idx n) {
    tfb_tensor x = *t;
    x.shape[2] = n;
    if (x.data) x.data = (float *)t->data + from * t->stride[2];
    return x;
}

/* B or C of the scan: one group. */
static tfb_tensor tfb__one_group(const tfb_tensor *t) {
    tfb_tensor x = tfb_view4(t->data, TFB_F32, t->shape[0], t->shape[1], 1, t->shape[2]);
    x.stride[0] = t->stride[0];
    x.stride[1] = t->stride[1];
    x.stride[2] = 0;
    x.stride[3] = t->stride[2];
    return x;
}

/* Time steps, B and C from x; then the scan into xz's place for x. */
static tfb_status tfb__mamba_scan(tfb_ctx *ctx, const tfb_mamba *m,
                                  const tfb_mamba_core *core, tfb_tensor *x,
                                  const tfb_tensor *z, tfb_tensor *state) {
    const tfb_idx N = m->states, R = m->rank, E = m->inner;
    tfb_tensor part = tfb__take_like(ctx, x, R + 2 * N), dt = tfb__take_like(ctx, x, E);
    tfb_tensor a = tfb_view2(tfb__take(ctx, E * N, sizeof(float)), TFB_F32, E, N);
    tfb_tensor low = tfb__columns(&part, 0, R), b = tfb__columns(&part, R, N);
    tfb_tensor c = tfb__columns(&part, R + N, N);
    tfb_scan_opts o;
    tfb_idx i;
    TFB__TRY(tfb__scratch_ready(ctx, "mamba mixer"));
    TFB__TRY(tfb_map(ctx, TFB_FN_EXP, &core->a_log, &a));
    for (i = 0; a.data && i < E * N; i++) ((float *)a.data)[i] = -((float *)a.data)[i];
    TFB__TRY(tfb_linear(ctx, x, &core->w_x, NULL, &part));
    TFB__TRY(tfb_linear(ctx, &low, &core->w_dt, NULL, &dt));
    memset((void *)&o, 0, sizeof o);
    b = tfb__one_group(&b);
    c = tfb__one_group(&c);
    o.d = &core->d;
    o.z = z;
    o.dt_bias = &core->b_dt;
    o.softplus = 1;
    o.state = state;
    return tfb_selective_scan(ctx, x, &dt, &a, &b, &c, &o, x);
}

/* One direction: y = core(v) [+ y], both [B, T, C]; the state's arrays may be NULL. */
static tfb_status tfb__mamba_direction(tfb_ctx *ctx, const tfb_mamba *m,
                                       const tfb_mamba_core *core, const tfb_tensor *v,
                                       tfb_tensor *conv, tfb_tensor *h, int add,
                                       tfb_tensor *y) {
    const tfb_idx E = m->inner;
    const tfb__mark mark = tfb__scratch_begin(ctx);
    tfb_tensor xz = tfb__take_like(ctx, v, 2 * E);
    tfb_tensor x = tfb__columns(&xz, 0, E), z = tfb__columns(&xz, E, E);
    tfb_conv1d_opts c;
    tfb_linear_opts o;
    tfb_status status = tfb__scratch_ready(ctx, "mamba mixer");
    memset((void *)&c, 0, sizeof c);
    memset((void *)&o, 0, sizeof o);
    c.bias = &core->conv_b;
    c.act = TFB_FN_SILU;
    c.state = conv;
    if (add) o.residual = y;
    if (status == TFB_OK) status = tfb_linear(ctx, v, &core->w_in, NULL, &xz);
    if (status == TFB_OK) status = tfb_causal_conv1d(ctx, &x, &core->conv_w, &c, &x);
    if (status == TFB_OK) status = tfb__mamba_scan(ctx, m, core, &x, &z, h);
    if (status == TFB_OK) status = tfb_linear(ctx, &x, &core->w_out, &o, y);
    return tfb__scratch_end(ctx, mark, status);
}

/* The same tokens from the last to the first. */
static tfb_tensor tfb__reversed(const tfb_tensor *t) {
    tfb_tensor x = *t;
    if (x.data && x.shape[1] > 1)
        x.data = (float *)t->data + (t->shape[1] - 1) * t->stride[1];
    x.stride[1] = -t->stride[1];
    return x;
}

static tfb_status tfb__mamba_check(tfb_ctx *ctx, const tfb_mamba *m, const tfb_mix *call,
                                   tfb_tensor *v, tfb_tensor *y) {
    TFB__TRY(tfb__flat_view(ctx, "v", call->v, v));
    TFB__TRY(tfb__flat_view(ctx, "y", call->y, y));
    TFB__REQUIRE(v->shape[2] == m->channels && y->shape[2] == m->channels, ctx,
                 TFB_ERR_SHAPE, "mamba mixer: v has %d channels, y %d, needs %d",
                 v->shape[2], y->shape[2], m->channels);
    return TFB_OK;
}

static tfb_status tfb__mamba_forward(tfb_ctx *ctx, void *self, const tfb_mix *call) {
    const tfb_mamba *m = (const tfb_mamba *)self;
    tfb_tensor v, y, back_v, back_y;
    TFB__TRY(tfb__mamba_check(ctx, m, call, &v, &y));
    TFB__TRY(tfb__mamba_direction(ctx, m, m->core, &v, NULL, NULL, 0, &y));
    if (!m->bidirectional) return TFB_OK;
    back_v = tfb__reversed(&v);
    back_y = tfb__reversed(&y);
    return tfb__mamba_direction(ctx, m, m->core + 1, &back_v, NULL, NULL, 1, &back_y);
}

static tfb_status tfb__mamba_step(tfb_ctx *ctx, void *self, const tfb_mix *call,
                                  tfb_mixer_state *state) {
    const tfb_mamba *m = (const tfb_mamba *)self;
    tfb_tensor v, y, conv, h;
    TFB__REQUIRE(!m->bidirectional, ctx, TFB_ERR_UNSUPPORTED,
                 "mamba mixer: both directions at once have no step");
    TFB__TRY(tfb__mamba_check(ctx, m, call, &v, &y));
    conv = tfb_view3(state->carried[0].data, TFB_F32, v.shape[0], m->taps - 1, m->inner);
    h = tfb_view3(state->carried[1].data, TFB_F32, v.shape[0], m->inner, m->states);
    return tfb__mamba_direction(ctx, m, m->core, &v, &conv, &h, 0, &y);
}

static void tfb__mamba_need(const void *self, tfb_idx channels, tfb_mixer_need *need) {
    const tfb_mamba *m = (const tfb_mamba *)self;
    (void)channels;
    need->carried[0] = (m->taps - 1) * m->inner;
    need->carried[1] = m->inner * m->states;
}

static int64_t tfb__mamba_flops(const void *self, tfb_idx channels,
                                const tfb_idx *spatial, int axes, int inference) {
    const tfb_mamba *m = (const tfb_mamba *)self;
    const int64_t T = tfb__tokens(spatial, axes), C = (int64_t)channels;
    const int64_t E = (int64_t)m->inner, N = (int64_t)m->states, R = (int64_t)m->rank;
    const int64_t one = T > ((int64_t)1 << 55) / (E * (C + R + N + 8))
                            ? -1
                            : 4 * T * C * E + 2 * T * E * (int64_t)m->taps +
                                  2 * T * E * (R + 2 * N) + 2 * T * R * E +
                                  9 * T * E * N + 2 * T * E + 2 * T * E * C;
    (void)inference;
    return m->bidirectional && one >= 0 ? 2 * one + T * C : one;
}

static tfb_status tfb__mamba_params(void *self, tfb_param_fn visit, void *user) {
    static const char *const names[2][9] = {
        {"mamba.w_in", "mamba.conv_w", "mamba.conv_b", "mamba.w_x", "mamba.w_dt",
         "mamba.b_dt", "mamba.a_log", "mamba.d", "mamba.w_out"},
        {"mamba.back.w_in", "mamba.back.conv_w", "mamba.back.conv_b", "mamba.back.w_x",
         "mamba.back.w_dt", "mamba.back.b_dt", "mamba.back.a_log", "mamba.back.d",
         "mamba.back.w_out"}};
    tfb_mamba *m = (tfb_mamba *)self;
    int i, j;
    for (i = 0; i <= m->bidirectional; i++) {
        tfb_mamba_core *c = m->core + i;
        tfb_tensor *t[9];
        t[0] = &c->w_in;
        t[1] = &c->conv_w;
        t[2] = &c->conv_b;
        t[3] = &c->w_x;
        t[4] = &c->w_dt;
        t[5] = &c->b_dt;
        t[6] = &c->a_log;
        t[7] = &c->d;
        t[8] = &c->w_out;
        for (j = 0; j < 9; j++) TFB__TRY(visit(user, names[i][j], t[j]));
    }
    return TFB_OK;
}

static const tfb_mixer_ops tfb__mamba_ops = {
    "mamba",         tfb__mamba_forward, tfb__mamba_step,
    tfb__mamba_need, tfb__mamba_flops,   tfb__mamba_params,
};

TFB_API tfb_mixer tfb_mamba_as_mixer(tfb_mamba *m) {
    tfb_mixer mixer;
    mixer.ops = &tfb__mamba_ops;
    mixer.self = m;
    return mixer;
}
#endif

#ifndef TFB_NO_HYENA
/* --- The CKConv mixer: its kernel. --- */
#define TFB__CKCONV_POINTS      256 /* taps made at a time */
#define TFB__CKCONV_FILM        64  /* width of the conditioning's hidden layer */
#define TFB__CKCONV_MOST        (TFB__CKCONV_KERNEL_MOST + 5)
#define TFB__CKCONV_KERNEL_MOST (2 * TFB_CKCONV_LAYERS + 6)
#define TFB__CKCONV_WIDTH       64 /* channels of a block */

/* A kernel's taps: how many, the lag of the first, lags to 1, along each axis. */
typedef struct tfb__ckconv_grid {
    int axes;
    tfb_idx taps[3], first[3], points;
    float unit[3];
} tfb__ckconv_grid;

static tfb_idx tfb__ckconv_unit(tfb_edge edge, tfb_idx length) { /* L - 1 */
    return (edge == TFB_EDGE_CIRCULAR ? (length + 1) / 2 : length) - 1;
}

/* The parameters there are, those the kernel is made from first (*kernel of them). */
static int tfb__ckconv_list(const tfb_ckconv *m, const tfb_tensor **t, const char **name,
                            int *kernel) {
    static const char *const w[TFB_CKCONV_LAYERS] = {
        "ckconv.w1", "ckconv.w2", "ckconv.w3", "ckconv.w4",
        "ckconv.w5", "ckconv.w6", "ckconv.w7", "ckconv.w8"};
    static const char *const b[TFB_CKCONV_LAYERS] = {
        "ckconv.b1", "ckconv.b2", "ckconv.b3", "ckconv.b4",
        "ckconv.b5", "ckconv.b6", "ckconv.b7", "ckconv.b8"};
    int i, n = 0, all = 0;
#define TFB__ONE(label, tensor) (t[all] = &(tensor), name[all++] = (label))
    TFB__ONE("ckconv.w0", m->w0);
    TFB__ONE("ckconv.b0", m->b0);
    for (i = 0; i < m->layers && i < TFB_CKCONV_LAYERS; i++) {
        TFB__ONE(w[i], m->w[i]);
        TFB__ONE(b[i], m->b[i]);
    }
    TFB__ONE("ckconv.w_out", m->w_out);
    TFB__ONE("ckconv.b_out", m->b_out);
    TFB__ONE("ckconv.mask", m->mask_weight);
    TFB__ONE("ckconv.taps", m->taps);
    *kernel = all;
    TFB__ONE("ckconv.shortcut", m->shortcut);
    TFB__ONE("ckconv.film_w1", m->film_w1);
    TFB__ONE("ckconv.film_b1", m->film_b1);
    TFB__ONE("ckconv.film_w2", m->film_w2);
    TFB__ONE("ckconv.film_b2", m->film_b2);
#undef TFB__ONE
    for (i = 0; i < all; i++) {
        if (i == *kernel) *kernel = n;
        if (!t[i]->ndim) continue;
        t[n] = t[i];
        name[n++] = name[i];
    }
    return n;
}

/* What parameters of a kernel have to look like for the rest. */
static tfb_status tfb__ckconv_check(tfb_ctx *ctx, const char *fn, const tfb_ckconv *m) {
    const tfb_idx C = m->channels, d = m->axes;
    tfb_idx shape[4], in, M = 0;
    int i;
    TFB__REQUIRE(C > 0 && d > 0 && d < 4, ctx, TFB_ERR_SHAPE, "%s: %d channels, %d axes",
                 fn, C, d);
    TFB__REQUIRE(m->step_block >= 0, ctx, TFB_ERR_RANGE, "%s: step_block is %d", fn,
                 m->step_block);
    for (i = 0; i < d; i++)
        TFB__REQUIRE(m->edge[i] != TFB_EDGE_CAUSAL || d == 1, ctx, TFB_ERR_UNSUPPORTED,
                     "%s: causal needs one axis, there are %d", fn, d);
    TFB__TRY(tfb__check_vector(ctx, fn, "shortcut",
                               m->shortcut.ndim ? &m->shortcut : NULL, TFB__MASK(TFB_F32),
                               C));
    if (m->kind == TFB_CKCONV_TAPS) {
        for (i = 0; i < d; i++) shape[i] = m->taps.shape[i];
        shape[d] = C;
        return tfb__check_shape(ctx, fn, "taps", &m->taps, (int)d + 1, shape);
    }
    for (i = 0; i < d; i++)
        TFB__REQUIRE(tfb__ckconv_unit(m->edge[i], m->length[i]) > 0, ctx, TFB_ERR_RANGE,
                     "%s: length[%d] is %d", fn, (tfb_idx)i, m->length[i]);
    TFB__REQUIRE(m->layers > 0 && m->layers <= TFB_CKCONV_LAYERS, ctx, TFB_ERR_RANGE,
                 "%s: %d hidden layers, 1 to %d are possible", fn, (tfb_idx)m->layers,
                 (tfb_idx)TFB_CKCONV_LAYERS);
    in = m->w0.shape[0];
    shape[0] = in;
    shape[1] = d;
    TFB__TRY(tfb__check_shape(ctx, fn, "w0", &m->w0, 2, shape));
    if (m->kind == TFB_CKCONV_FOURIER) in *= 2;
    else if (m->b0.ndim) TFB__TRY(tfb__check_shape(ctx, fn, "b0", &m->b0, 1, shape));
    for (i = 0; i < m->layers; i++) {
        shape[0] = M = m->w[i].shape[0];
        shape[1] = in;
        TFB__REQUIRE(M == m->w[0].shape[0], ctx, TFB_ERR_SHAPE,
                     "%s: hidden layers are %d and %d wide", fn, m->w[0].shape[0], M);
        TFB__TRY(tfb__check_shape(ctx, fn, "a hidden weight", m->w + i, 2, shape));
        if (m->b[i].ndim)
            TFB__TRY(tfb__check_shape(ctx, fn, "a hidden bias", m->b + i, 1, shape));
        in = M;
    }
    shape[0] = C;
    shape[1] = M;
    TFB__TRY(tfb__check_shape(ctx, fn, "w_out", &m->w_out, 2, shape));
    if (m->b_out.ndim) TFB__TRY(tfb__check_shape(ctx, fn, "b_out", &m->b_out, 1, shape));
    shape[0] = d;
    shape[1] = C;
    if (m->mask)
        TFB__TRY(tfb__check_shape(ctx, fn, "mask_weight", &m->mask_weight, 2, shape));
    if (!m->film_w1.ndim) return TFB_OK;
    shape[0] = TFB__CKCONV_FILM;
    shape[1] = m->film_w1.shape[1];
    TFB__TRY(tfb__check_shape(ctx, fn, "film_w1", &m->film_w1, 2, shape));
    TFB__TRY(tfb__check_shape(ctx, fn, "film_b1", &m->film_b1, 1, shape));
    shape[0] = m->layers * 2 * M;
    shape[1] = TFB__CKCONV_FILM;
    TFB__TRY(tfb__check_shape(ctx, fn, "film_w2", &m->film_w2, 2, shape));
    return tfb__check_shape(ctx, fn, "film_b2", &m->film_b2, 1, shape);
}

/* The taps for an input of these extents. */
static tfb_status tfb__ckconv_grid_of(tfb_ctx *ctx, const char *fn, const tfb_ckconv *m,
                                      const tfb_idx *spatial, int axes,
                                      tfb__ckconv_grid *g) {
    const tfb_idx far = PTRDIFF_MAX / 8;
    size_t points = 1;
    int i;
    memset((void *)g, 0, sizeof *g);
    TFB__REQUIRE(axes == m->axes, ctx, TFB_ERR_SHAPE,
                 "%s: %d spatial axes, the kernel has %d", fn, (tfb_idx)axes,
                 (tfb_idx)m->axes);
    g->axes = axes;
    for (i = 0; i < axes; i++) {
        const tfb_idx N = spatial[i];
        TFB__REQUIRE(N >= 0 && N < far, ctx, TFB_ERR_RANGE, "%s: extent %d is %d", fn,
                     (tfb_idx)i, N);
        g->taps[i] = m->edge[i] == TFB_EDGE_CAUSAL     ? N
                     : m->edge[i] == TFB_EDGE_CIRCULAR ? 2 * ((N + 1) / 2) - 1
                                                       : 2 * N - 1;
        if (m->kind == TFB_CKCONV_TAPS) g->taps[i] = m->taps.shape[i];
        if (g->taps[i] < 0) g->taps[i] = 0;
        if (m->edge[i] != TFB_EDGE_CAUSAL) g->first[i] = -(g->taps[i] / 2);
        g->unit[i] = (float)tfb__ckconv_unit(m->edge[i], m->length[i]);
        points = tfb__size_mul(points, (size_t)g->taps[i]);
    }
    TFB__REQUIRE(points < (size_t)far, ctx, TFB_ERR_RANGE, "%s: too many taps", fn);
    g->points = (tfb_idx)points;
    return TFB_OK;
}

/* The coordinates of tap number i (row-major), one for each axis. */
static void tfb__ckconv_place(const tfb__ckconv_grid *g, tfb_idx i, float *p) {
    int a;
    for (a = g->axes - 1; a >= 0; a--) {
        p[a] = (float)(g->first[a] + i % g->taps[a]) / g->unit[a];
        i /= g->taps[a];
    }
}

/* What remains of channel c under the mask: the exponent of the factor. */
static float tfb__ckconv_decay(const tfb_ckconv *m, const float *p, tfb_idx c) {
    const tfb_idx *step = m->mask_weight.stride;
    float sum = 0;
    int a;
    for (a = 0; a < m->axes; a++) {
        float w = ((const float *)m->mask_weight.data)[a * step[0] + c * step[1]], t;
        if (m->mask == TFB_CKCONV_EXPONENTIAL) {
            sum = sum + (p[a] < 0 ? -p[a] : p[a]) * w;
            continue;
        }
        w = TFB__MAX(w, m->mask_least[a]);
        t = p[a] / TFB__MIN(w, 3.12216f);
        sum = sum + t * t;
    }
    return m->mask == TFB_CKCONV_EXPONENTIAL ? -sum : -0.5f * sum;
}

/* --- References. --- */
/* One layer at one point: y = act(omega (w x + b)), by plain sums. */
static void tfb__ckconv_layer_ref(const tfb_tensor *w, const tfb_tensor *b, float omega,
                                  tfb_fn act, const float *x, float *y) {
    tfb_idx i;
    for (i = 0; i < w->shape[0]; i++) {
        const float *row = (const float *)w->data + i * w->stride[0];
        const float sum = tfb__dot_ref(w->shape[1], x, 1, row, w->stride[1]);
        const float bias = b->ndim ? ((const float *)b->data)[i * b->stride[0]] : 0.0f;
        float t = TFB__FMA(1.0f, sum, bias);
        if (act == TFB_FN_SIN) t = omega * t;
        tfb__map_scalar(act, 1, &t, y + i);
    }
}

/* film: gamma and beta of each hidden layer of one sample, or NULL; out [C]; x and y have
 * room for the widest layer. */
TFB__UNUSED static void tfb__ckconv_point_ref(const tfb_ckconv *m, const float *p,
                                              const float *film, float *x, float *y,
                                              float *out) {
    const tfb_idx E = m->w0.shape[0], M = m->w_out.shape[1];
    const int siren = m->kind == TFB_CKCONV_SIREN;
    tfb_idx i;
    int l;
    tfb__ckconv_layer_ref(&m->w0, &m->b0, m->omega, siren ? TFB_FN_SIN : TFB_FN_COS, p,
                          x);
    if (!siren) tfb__ckconv_layer_ref(&m->w0, &m->b0, 1.0f, TFB_FN_SIN, p, x + E);
    for (l = 0; l < m->layers; l++) {
        tfb__ckconv_layer_ref(m->w + l, m->b + l, m->omega,
                              siren ? TFB_FN_SIN : TFB_FN_GELU_ERF, x, y);
        for (i = 0; i < M; i++)
            x[i] = film ? film[2 * l * M + i] * y[i] + film[(2 * l + 1) * M + i] : y[i];
    }
    tfb__ckconv_layer_ref(&m->w_out, &m->b_out, 1.0f, TFB_FN_IDENTITY, x, out);
    for (i = 0; m->mask && i < m->channels; i++) {
        float t = tfb__ckconv_decay(m, p, i);
        tfb__map_scalar(TFB_FN_EXP, 1, &t, &t);
        out[i] = out[i] * t;
    }
}

/* --- The same by layers, some points at a time. --- */
static tfb_status tfb__ckconv_sine(tfb_ctx *ctx, float omega, tfb_tensor *t) {
    const tfb_idx n = tfb_numel(t); /* t is dense */
    tfb_idx i;
    for (i = 0; t->data && omega != 1.0f && i < n; i++)
        ((float *)t->data)[i] = omega * ((float *)t->data)[i];
    return tfb_map(ctx, TFB_FN_SIN, t, t);
}

/* e of n points from `from` on, dense [n, E]. */
static tfb_status tfb__ckconv_embed(tfb_ctx *ctx, const tfb_ckconv *m,
                                    const tfb__ckconv_grid *g, tfb_idx from, tfb_idx n,
                                    tfb_tensor *e) {
    const tfb_idx d = m->axes, half = m->w0.shape[0];
    const tfb__mark mark = tfb__scratch_begin(ctx);
    const int siren = m->kind == TFB_CKCONV_SIREN;
    tfb_tensor p = tfb_view2(tfb__take(ctx, n * d, sizeof(float)), TFB_F32, n, d);
    tfb_tensor a = siren ? *e : tfb__take_like(ctx, &p, half), part = *e;
    tfb_status status = tfb__scratch_ready(ctx, "ckconv mixer");
    tfb_linear_opts o;
    tfb_idx i;
    memset((void *)&o, 0, sizeof o);
    if (m->b0.ndim && siren) o.bias = &m->b0;
    for (i = 0; status == TFB_OK && p.data && i < n; i++)
        tfb__ckconv_place(g, from + i, (float *)p.data + i * d);
    if (status == TFB_OK) status = tfb_linear(ctx, &p, &m->w0, &o, &a);
    if (siren && status == TFB_OK) status = tfb__ckconv_sine(ctx, m->omega, e);
    part.shape[1] = half;
    if (!siren && status == TFB_OK) status = tfb_map(ctx, TFB_FN_COS, &a, &part);
    if (part.data) part.data = (float *)e->data + half;
    if (!siren && status == TFB_OK) status = tfb_map(ctx, TFB_FN_SIN, &a, &part);
    return tfb__scratch_end(ctx, mark, status);
}

/* The next hidden layer: h [n, M] of x [n, in]; film: its gamma and beta, or NULL. */
static tfb_status tfb__ckconv_layer(tfb_ctx *ctx, const tfb_ckconv *m, int layer,
                                    const tfb_tensor *film, const tfb_tensor *x,
                                    tfb_tensor *h) {
    const tfb_idx M = m->w_out.shape[1];
    tfb_linear_opts o;
    tfb_tensor row;
    memset((void *)&o, 0, sizeof o);
    if (m->b[layer].ndim) o.bias = m->b + layer;
    if (m->kind == TFB_CKCONV_FOURIER) o.act = TFB_FN_GELU_ERF;
    TFB__TRY(tfb_linear(ctx, x, m->w + layer, &o, h));
    if (m->kind == TFB_CKCONV_SIREN) TFB__TRY(tfb__ckconv_sine(ctx, m->omega, h));
    if (!film) return TFB_OK;
    row = tfb_view1(film->data, TFB_F32, M);
    if (row.data) row.data = (float *)film->data + 2 * layer * M;
    TFB__TRY(tfb_mul(ctx, h, &row, h));
    if (row.data) row.data = (float *)row.data + M;
    return tfb_add(ctx, h, &row, h);
}

/* The last hidden layer of n points from `from` on, to h [n, M]. */
static tfb_status tfb__ckconv_hidden(tfb_ctx *ctx, const tfb_ckconv *m,
                                     const tfb__ckconv_grid *g, const tfb_tensor *film,
                                     tfb_idx from, tfb_idx n, tfb_tensor *h) {
    const tfb__mark mark = tfb__scratch_begin(ctx);
    const tfb_idx E = m->w[0].shape[1];
    tfb_tensor x = tfb__take_like(ctx, h, E), other = tfb__take_like(ctx, h, h->shape[1]);
    tfb_status status = tfb__scratch_ready(ctx, "ckconv mixer");
    int l;
    if (status == TFB_OK) status = tfb__ckconv_embed(ctx, m, g, from, n, &x);
    for (l = 0; l < m->layers && status == TFB_OK; l++) { /* the last one goes to h */
        tfb_tensor *to = (m->layers - 1 - l) % 2 ? &other : h;
        status = tfb__ckconv_layer(ctx, m, l, film, &x, to);
        x = *to;
    }
    return tfb__scratch_end(ctx, mark, status);
}

static void tfb__ckconv_masked(tfb_ctx *ctx, const tfb_ckconv *m,
                               const tfb__ckconv_grid *g, tfb_idx from, tfb_idx c0,
                               float *factor, tfb_tensor *k) {
    const tfb_idx n = k->shape[0], width = k->shape[1];
    float *row = (float *)k->data, p[3];
    tfb_idx i, c;
    for (i = 0; row && i < n; i++, row += width) {
        tfb__ckconv_place(g, from + i, p);
        for (c = 0; c < width; c++) factor[c] = tfb__ckconv_decay(m, p, c0 + c);
        TFB__KERNEL(ctx->isa, map)(TFB_FN_EXP, width, factor, factor);
        for (c = 0; c < width; c++) row[c] = row[c] * factor[c];
    }
}

/* Rows of a dense [n, width] to places from .. of out [.., width]. */
static void tfb__ckconv_put(const tfb_tensor *k, tfb_idx from, tfb_tensor *out) {
    const tfb_idx width = k->shape[1], step = out->stride[out->ndim - 1];
    tfb_idx i, c;
    for (i = 0; k->data && out->data && i < k->shape[0]; i++) {
        float *to = (float *)out->data + tfb__offset(out, out->ndim - 1, from + i);
        const float *row = (const float *)k->data + i * width;
        for (c = 0; c < width; c++) to[c * step] = row[c];
    }
}

/* Taps of channels c0 .. to out [taps, channels], from all hidden rows if h has them. */
static tfb_status tfb__ckconv_make(tfb_ctx *ctx, const tfb_ckconv *m,
                                   const tfb__ckconv_grid *g, const tfb_tensor *film,
                                   const tfb_tensor *h, tfb_idx c0, tfb_tensor *out) {
    const tfb_idx M = m->w_out.shape[1], width = out->shape[out->ndim - 1];
    const tfb_idx most = TFB__MIN(TFB__CKCONV_POINTS, g->points);
    const tfb__mark mark = tfb__scratch_begin(ctx);
    tfb_tensor w = m->w_out, b = m->b_out, row, k;
    float *rows = (float *)tfb__take(ctx, h ? 0 : most, (size_t)M * sizeof(float));
    float *made = (float *)tfb__take(ctx, most, (size_t)width * sizeof(float));
    float *factor = (float *)tfb__take(ctx, m->mask ? width : 0, sizeof(float));
    tfb_status status = tfb__scratch_ready(ctx, "ckconv mixer");
    tfb_linear_opts o;
    tfb_idx from, n;
    memset((void *)&o, 0, sizeof o);
    w.shape[0] = width;
    if (w.data) w.data = (float *)m->w_out.data + c0 * w.stride[0];
    b.shape[0] = width;
    if (b.ndim && b.data) b.data = (float *)m->b_out.data + c0 * b.stride[0];
    if (b.ndim) o.bias = &b;
    for (from = 0; status == TFB_OK && from < g->points; from += n) {
        n = TFB__MIN(most, g->points - from);
        row = tfb_view2(rows, TFB_F32, n, M);
        if (h) row.data = h->data ? (float *)h->data + from * M : NULL;
        else status = tfb__ckconv_hidden(ctx, m, g, film, from, n, &row);
        k = tfb_view2(made, TFB_F32, n, width);
        if (status == TFB_OK) status = tfb_linear(ctx, &row, &w, &o, &k);
        if (status != TFB_OK || ctx->measuring) continue;
        if (m->mask) tfb__ckconv_masked(ctx, m, g, from, c0, factor, &k);
        tfb__ckconv_put(&k, from, out);
    }
    return tfb__scratch_end(ctx, mark, status);
}

/* Gamma and beta of each sample: film [B, layers 2 M]. */
static tfb_status tfb__ckconv_film(tfb_ctx *ctx, const tfb_ckconv *m,
                                   const tfb_tensor *cond, tfb_tensor *film) {
    const tfb__mark mark = tfb__scratch_begin(ctx);
    tfb_tensor h = tfb__take_like(ctx, film, TFB__CKCONV_FILM);
    tfb_status status = tfb__scratch_ready(ctx, "ckconv mixer");
    tfb_linear_opts o;
    memset((void *)&o, 0, sizeof o);
    o.bias = &m->film_b1;
    o.act = TFB_FN_GELU_ERF;
    if (status == TFB_OK) status = tfb_linear(ctx, cond, &m->film_w1, &o, &h);
    o.bias = &m->film_b2;
    o.act = TFB_FN_IDENTITY;
    if (status == TFB_OK) status = tfb_linear(ctx, &h, &m->film_w2, &o, film);
    return tfb__scratch_end(ctx, mark, status);
}

static tfb_status tfb__ckconv_check_cond(tfb_ctx *ctx, const char *fn,
                                         const tfb_ckconv *m, const tfb_tensor *cond,
                                         tfb_idx B) {
    if (!m->film_w1.ndim) return TFB_OK;
    TFB__TRY(tfb__check(ctx, fn, "cond", cond, TFB__MASK(TFB_F32), 2, 2));
    TFB__TRY(tfb__check_extent(ctx, fn, "cond", cond, 0, B));
    return tfb__check_extent(ctx, fn, "cond", cond, 1, m->film_w1.shape[1]);
}

TFB_API tfb_status tfb_ckconv_taps(tfb_ctx *ctx, const tfb_ckconv *m,
                                   const tfb_idx *spatial, int axes, tfb_idx *taps) {
    const char *fn = "tfb_ckconv_taps";
    tfb__ckconv_grid g;
    int i;
    TFB__ENTER(ctx);
    TFB__REQUIRE(m && spatial && taps, ctx, TFB_ERR_ARG, "%s: %s is NULL", fn,
                 !m         ? "m"
                 : !spatial ? "spatial"
                            : "taps");
    TFB__TRY(tfb__ckconv_check(ctx, fn, m));
    TFB__TRY(tfb__ckconv_grid_of(ctx, fn, m, spatial, axes, &g));
    for (i = 0; i < axes; i++) taps[i] = g.taps[i];
    return TFB_OK;
}

/* Sample b of a batch of tensors. */
static tfb_tensor tfb__sample(const tfb_tensor *t, tfb_idx b) {
    tfb_tensor x = *t;
    int i;
    for (i = 1; i < t->ndim; i++) {
        x.shape[i - 1] = t->shape[i];
        x.stride[i - 1] = t->stride[i];
    }
    x.ndim--;
    if (x.data) x.data = (float *)t->data + b * t->stride[0];
    return x;
}

/* The whole kernel of one sample, to out [taps, C]. */
static tfb_status tfb__ckconv_whole(tfb_ctx *ctx, const tfb_ckconv *m,
                                    const tfb__ckconv_grid *g, const tfb_tensor *film,
                                    tfb_tensor *out) {
    if (m->kind == TFB_CKCONV_TAPS) return tfb_copy(ctx, &m->taps, out);
    return tfb__ckconv_make(ctx, m, g, film, NULL, 0, out);
}

/* The kernel overlaps nothing it is made from. */
static tfb_status tfb__ckconv_check_alias(tfb_ctx *ctx, const char *fn,
                                          const tfb_ckconv *m, const tfb_tensor *kernel) {
    const tfb_tensor *t[TFB__CKCONV_MOST];
    const char *name[TFB__CKCONV_MOST];
    int i, of_kernel, n = tfb__ckconv_list(m, t, name, &of_kernel);
    for (i = 0; i < n; i++)
        TFB__TRY(tfb__check_alias(ctx, fn, "kernel", kernel, name[i], t[i], 0));
    return TFB_OK;
}

TFB_API tfb_status tfb_ckconv_kernel(tfb_ctx *ctx, const tfb_ckconv *m,
                                     const tfb_idx *spatial, int axes,
                                     const tfb_tensor *cond, tfb_tensor *kernel) {
    const char *fn = "tfb_ckconv_kernel";
    const int film = m && m->film_w1.ndim;
    tfb__ckconv_grid g;
    tfb_idx shape[5], B, b, wide;
    tfb_tensor all;
    tfb_status status;
    tfb__mark mark;
    int i;
    TFB__ENTER(ctx);
    TFB__REQUIRE(m && spatial && kernel, ctx, TFB_ERR_ARG, "%s: %s is NULL", fn,
                 !m         ? "m"
                 : !spatial ? "spatial"
                            : "kernel");
    TFB__TRY(tfb__ckconv_check(ctx, fn, m));
    TFB__TRY(tfb__ckconv_grid_of(ctx, fn, m, spatial, axes, &g));
    shape[0] = B = film && cond ? cond->shape[0] : 1;
    for (i = 0; i < axes; i++) shape[film + i] = g.taps[i];
    shape[film + axes] = m->channels;
    TFB__TRY(tfb__check_shape(ctx, fn, "kernel", kernel, film + axes + 1, shape));
    TFB__TRY(tfb__check_out(ctx, fn, "kernel", kernel));
    TFB__TRY(tfb__ckconv_check_cond(ctx, fn, m, cond, B));
    if (film) TFB__TRY(tfb__check_alias(ctx, fn, "kernel", kernel, "cond", cond, 0));
    TFB__TRY(tfb__ckconv_check_alias(ctx, fn, m, kernel));
    if (tfb_numel(kernel) == 0) return TFB_OK;
    mark = tfb__scratch_begin(ctx);
    wide = film ? m->film_w2.shape[0] : 0;
    all = tfb_view2(tfb__take(ctx, B * wide, sizeof(float)), TFB_F32, B, wide);
    status = tfb__scratch_ready(ctx, fn);
    if (film && status == TFB_OK) status = tfb__ckconv_film(ctx, m, cond, &all);
    for (b = 0; b < B && status == TFB_OK; b++) {
        const tfb_tensor one = tfb__sample(&all, b);
        tfb_tensor k = film ? tfb__sample(kernel, b) : *kernel;
        status = tfb__ckconv_whole(ctx, m, &g, film ? &one : NULL, &k);
    }
    return tfb__scratch_end(ctx, mark, status);
}

/* --- Its parameters. --- */
/* What opts say, but for the parameters. */
static void tfb__ckconv_shape(const tfb_ckconv_opts *o, tfb_ckconv *m) {
    int i;
    memset((void *)m, 0, sizeof *m);
    m->channels = o->channels;
    m->axes = o->axes ? o->axes : 1;
    m->kind = o->kind;
    m->mask = o->mask;
    m->method = o->method;
    m->gated = o->gated != 0;
    m->step_block = o->step_block;
    m->omega = o->omega != 0 ? o->omega : 1.0f;
    if (o->kind != TFB_CKCONV_TAPS) m->layers = o->layers ? (int)o->layers : 1;
    for (i = 0; i < m->axes; i++) {
        m->edge[i] = o->edge[i];
        m->length[i] = o->length[i];
    }
}

/* What is not legal in opts, or NULL. */
static const char *tfb__ckconv_bad(const tfb_ckconv_opts *o) {
    const tfb_idx far = (tfb_idx)1 << 24;
    const int axes = o->axes ? o->axes : 1;
    int i;
    if (o->axes < 0 || o->axes > 3) return "axes";
    if (o->channels < 1 || o->channels > far) return "channels";
    if ((unsigned)o->kind > (unsigned)TFB_CKCONV_TAPS) return "kind";
    if ((unsigned)o->mask > (unsigned)TFB_CKCONV_GAUSSIAN) return "mask";
    if ((unsigned)o->method > (unsigned)TFB_CONV_FFT) return "method";
    if (o->layers < 0 || o->layers > TFB_CKCONV_LAYERS) return "layers";
    if (o->step_block < 0 || o->step_block > far) return "step_block";
    if (o->embed < 0 || o->embed > far || o->hidden < 0 || o->hidden > far ||
        o->cond < 0 || o->cond > far)
        return "embed, hidden or cond";
    if (o->kind == TFB_CKCONV_FOURIER && (o->embed ? o->embed : o->hidden) % 2)
        return "embed, which must be even,";
    if (o->kind == TFB_CKCONV_TAPS && (o->mask || o->cond)) return "mask or cond of taps";
    for (i = 0; i < axes; i++) {
        const tfb_edge edge = o->edge[i];
        if ((unsigned)edge > (unsigned)TFB_EDGE_CAUSAL) return "edge";
        if (edge == TFB_EDGE_CAUSAL && axes > 1) return "edge (causal needs one axis)";
        if (o->length[i] > far * 64 || o->length[i] < 1) return "length";
        if (o->kind != TFB_CKCONV_TAPS && tfb__ckconv_unit(edge, o->length[i]) < 1)
            return "length";
    }
    return NULL;
}

static void tfb__ckconv_carve(tfb__carver *c, const tfb_ckconv_opts *o, tfb_ckconv *m) {
    const tfb_idx C = m->channels, M = o->hidden ? o->hidden : 64, d = m->axes;
    const tfb_idx E = o->embed ? o->embed : M;
    tfb_idx points = 1;
    int i;
    for (i = 0; i < m->axes; i++)
        points = (tfb_idx)tfb__size_mul((size_t)points, (size_t)m->length[i]);
    if (m->kind == TFB_CKCONV_TAPS) {
        m->taps = tfb__carve(c, 2, points, C);
        m->taps.ndim = m->axes + 1;
        for (i = 0; i < m->axes; i++) m->taps.shape[i] = m->length[i];
        m->taps.shape[m->axes] = C;
        tfb__dense_strides(&m->taps);
    } else {
        const int siren = m->kind == TFB_CKCONV_SIREN;
        m->w0 = tfb__carve(c, 2, siren ? E : E / 2, d);
        if (siren) m->b0 = tfb__carve(c, 1, E, 0);
        for (i = 0; i < m->layers; i++) {
            m->w[i] = tfb__carve(c, 2, M, i ? M : E);
            m->b[i] = tfb__carve(c, 1, M, 0);
        }
        m->w_out = tfb__carve(c, 2, C, M);
        m->b_out = tfb__carve(c, 1, C, 0);
    }
    if (m->mask) m->mask_weight = tfb__carve(c, 2, d, C);
    if (!o->no_shortcut) m->shortcut = tfb__carve(c, 1, C, 0);
    if (!o->cond) return;
    m->film_w1 = tfb__carve(c, 2, TFB__CKCONV_FILM, o->cond);
    m->film_b1 = tfb__carve(c, 1, TFB__CKCONV_FILM, 0);
    m->film_w2 = tfb__carve(c, 2, m->layers * 2 * M, TFB__CKCONV_FILM);
    m->film_b2 = tfb__carve(c, 1, m->layers * 2 * M, 0);
}

/* Rates of decay, or widths; of a gaussian also the least width. */
static void tfb__ckconv_fill_mask(const tfb_ckconv_opts *o, tfb_ckconv *m) {
    const tfb_idx C = m->channels;
    const float high = 0.46599f; /* 1 / sqrt(2 log 10) */
    float *w = (float *)m->mask_weight.data;
    tfb_idx c;
    int a;
    for (a = 0; a < m->axes && m->mask; a++) {
        const float step = 1.0f / (float)tfb__ckconv_unit(m->edge[a], m->length[a]),
                    low = high * step;
        m->mask_least[a] = o->mask_least > 0 ? o->mask_least : low;
        for (c = 0; c < C && w; c++) {
            const float at = C > 1 ? (float)c / (float)(C - 1) : 0.0f;
            const float rate = (2.3f + 11.51f * at) / (float)m->axes;
            const float log_low = tfb__log_scalar(low), log_high = tfb__log_scalar(high);
            const float width = tfb__exp_scalar(log_low + (log_high - log_low) * at);
            w[a * C + c] = m->mask == TFB_CKCONV_EXPONENTIAL ? rate : width;
        }
    }
}

static void tfb__ckconv_fill(tfb__carver *c, const tfb_ckconv_opts *o, tfb_ckconv *m) {
    const float omega0 = o->omega0 != 0 ? o->omega0 : 30.0f;
    float volume = 1;
    tfb_idx i, M, n;
    int l;
    for (l = 0; l < m->axes; l++) volume = volume * (float)m->length[l];
    if (m->kind == TFB_CKCONV_TAPS) {
        tfb__draw(c, &m->taps, 1.0f / TFB__SQRT(volume));
    } else {
        tfb__draw(c, &m->w0, 6.2831853f * omega0 / (float)m->axes);
        if (m->b0.ndim) tfb__fill(&m->b0, 0.0f);
        for (l = 0; l < m->layers; l++) {
            tfb__draw(c, m->w + l, TFB__SQRT(6.0f / (float)m->w[l].shape[1]));
            tfb__fill(m->b + l, 0.0f);
        }
        M = m->w_out.shape[1];
        tfb__draw(c, &m->w_out, TFB__SQRT(6.0f / (float)M) * TFB__SQRT(1.0f / volume));
        tfb__fill(&m->b_out, 0.0f);
        if (m->film_w1.ndim) {
            tfb__draw(c, &m->film_w1, tfb__fan_in(m->film_w1.shape[1]));
            tfb__draw(c, &m->film_b1, tfb__fan_in(m->film_w1.shape[1]));
            tfb__fill(&m->film_w2, 0.0f);
            n = m->film_b2.shape[0];
            for (i = 0; i < n; i++)
                ((float *)m->film_b2.data)[i] = i / M % 2 ? 0.0f : 1.0f;
        }
    }
    if (m->shortcut.ndim) tfb__draw(c, &m->shortcut, tfb__fan_in(m->channels));
    tfb__ckconv_fill_mask(o, m);
}

TFB_API size_t tfb_ckconv_bytes(const tfb_ckconv_opts *opts) {
    tfb__carver c;
    tfb_ckconv m;
    if (!opts || tfb__ckconv_bad(opts)) return 0;
    memset((void *)&c, 0, sizeof c);
    tfb__ckconv_shape(opts, &m);
    tfb__ckconv_carve(&c, opts, &m);
    return c.used < (size_t)-1 / 2 ? c.used : 0;
}

TFB_API tfb_status tfb_ckconv_init(tfb_ctx *ctx, tfb_ckconv *m,
                                   const tfb_ckconv_opts *opts, void *mem,
                                   size_t mem_bytes) {
    const char *fn = "tfb_ckconv_init";
    const size_t need = tfb_ckconv_bytes(opts);
    tfb__carver c;
    tfb_ckconv made;
    TFB__ENTER(ctx);
    TFB__REQUIRE(m && opts, ctx, TFB_ERR_ARG, "%s: %s is NULL", fn, m ? "opts" : "m");
    TFB__REQUIRE(!tfb__ckconv_bad(opts), ctx, TFB_ERR_RANGE, "%s: %s is not legal", fn,
                 tfb__ckconv_bad(opts));
    TFB__REQUIRE(need, ctx, TFB_ERR_RANGE, "%s: the size overflows", fn);
    TFB__TRY(tfb__check_memory(ctx, fn, mem, mem_bytes, need, 4));
    if (ctx->measuring) return TFB_OK;
    memset((void *)&c, 0, sizeof c);
    c.mem = (char *)mem;
    c.seed = opts->seed;
    tfb__ckconv_shape(opts, &made);
    tfb__ckconv_carve(&c, opts, &made);
    tfb__ckconv_fill(&c, opts, &made);
    *m = made;
    return TFB_OK;
}

static tfb_status tfb__ckconv_params(void *self, tfb_param_fn visit, void *user) {
    const tfb_tensor *t[TFB__CKCONV_MOST];
    const char *name[TFB__CKCONV_MOST];
    char *m = (char *)self;
    int kernel, i, n = tfb__ckconv_list((const tfb_ckconv *)self, t, name, &kernel);
    for (i = 0; i < n; i++) /* the same tensor, to be written */
        TFB__TRY(
            visit(user, name[i], (tfb_tensor *)(void *)(m + ((const char *)t[i] - m))));
    return TFB_OK;
}

/* --- Its cost. --- */
/* log2 of n >= 1: exact for powers of two, else right to the last bit or so. */
static double tfb__log2_count(double n) {
    double log = 0, bit = 0.5;
    int i;
    while (n >= 2) {
        n = n / 2;
        log = log + 1;
    }
    for (i = 0; i < 54; i++, bit = bit / 2) {
        n = n * n;
        if (n < 2) continue;
        n = n / 2;
        log = log + bit;
    }
    return log;
}

/* In double up to the end: every count below 2^53 is exact. */
static double tfb__ckconv_cost(const tfb_ckconv *m, double C, const tfb_idx *spatial,
                               int inference) {
    const int made = m->kind != TFB_CKCONV_TAPS, film = m->film_w1.ndim != 0;
    double T = 1, G = 1, padded = 1, logs = 0, n = 0;
    int i;
    for (i = 0; i < m->axes; i++) {
        const tfb_idx N = spatial[i], g = (N + 1) / 2;
        const int circular = m->edge[i] == TFB_EDGE_CIRCULAR;
        tfb_idx np = N, K = made ? circular ? 2 * g - 1 : 2 * N - 1 : m->taps.shape[i];
        G = G * (double)(circular ? 2 * g - 1 : 2 * N - 1);
        if (m->edge[i] == TFB_EDGE_CAUSAL && made) K = N;
        if (m->edge[i] == TFB_EDGE_ZERO) np = TFB__MIN(N + (K + 1) / 2, 2 * N);
        if (m->edge[i] == TFB_EDGE_CAUSAL) np = TFB__MIN(N + K, 2 * N);
        T = T * (double)N;
        padded = padded * (double)np;
        if (np) logs = logs + tfb__log2_count((double)np);
    }
    if (T == 0) return 0;
    if (made && (film || !inference)) {
        const double d = m->axes, E = (double)m->w[0].shape[1];
        const double M = (double)m->w_out.shape[1];
        n = (m->kind == TFB_CKCONV_SIREN ? 2 : 1) * G * d * E + G * E;
        for (i = 0; i < m->layers; i++) n = n + 2 * G * (i ? M : E) * M + G * M;
        n = n + 2 * G * M * C;
        if (film) {
            const double c = (double)m->film_w1.shape[1], h = TFB__CKCONV_FILM;
            const double o = m->layers * 2 * M;
            n = n + 2 * c * h + h + 2 * h * o + o * G;
        }
    }
    logs = (inference && !film ? 2 : 3) * 5 * C * padded * logs;
    if (n > 9e15 || logs > 9e15 || padded * C > 1e15) return -1;
    logs = (double)(int64_t)logs;
    return n + logs + 6 * C * padded + C * T + (m->gated ? 2 * C * T : 0);
}

static int64_t tfb__ckconv_flops(const void *self, tfb_idx channels,
                                 const tfb_idx *spatial, int axes, int inference) {
    const tfb_ckconv *m = (const tfb_ckconv *)self;
    double n;
    if (axes != m->axes) return -1;
    n = tfb__ckconv_cost(m, (double)channels, spatial, inference);
    return n < 9e15 ? (int64_t)n : -1;
}

/* --- Kernels that are kept. --- */
typedef struct tfb__ckconv_kept {
    struct tfb__ckconv_kept *next;
    tfb_idx spatial[3];
    uint64_t sum; /* of what the kernel was made from */
    tfb__ckconv_grid g;
    tfb_tensor kernel;
    void *spectra; /* of it for just these extents; NULL: sums are direct */
    tfb_alloc_fn alloc;
    void *alloc_user, *mem;
} tfb__ckconv_kept;

static void tfb__ckconv_mix_sum(uint32_t *lane, tfb_idx i, float x) {
    lane[i % 4] = (lane[i % 4] ^ tfb__bits_of(x)) * 0x9E3779B1u;
}

/* A sum that other parameters of the kernel do not have. */
static uint64_t tfb__ckconv_sum(const tfb_ckconv *m) {
    const tfb_tensor *t[TFB__CKCONV_MOST];
    const char *name[TFB__CKCONV_MOST];
    uint32_t lane[4] = {1, 2, 3, 4};
    tfb_idx j;
    int kernel, i;
    tfb__ckconv_list(m, t, name, &kernel);
    tfb__ckconv_mix_sum(lane, 0, m->omega);
    for (i = 0; i < m->axes; i++) {
        tfb__ckconv_mix_sum(lane, 1, (float)((int)m->edge[i] + 4 * (int)m->kind));
        tfb__ckconv_mix_sum(lane, 2, (float)m->length[i]);
        tfb__ckconv_mix_sum(lane, 3, m->mask ? m->mask_least[i] + (float)m->mask : 0);
    }
    for (i = 0; i < kernel; i++) {
        const tfb_idx n = tfb_numel(t[i]), row = t[i]->shape[t[i]->ndim - 1];
        const tfb_idx step = t[i]->stride[t[i]->ndim - 1];
        const float *x = NULL;
        tfb__ckconv_mix_sum(lane, i, (float)row);
        for (j = 0; j < n; j++) {
            if (j % row == 0)
                x = (const float *)t[i]->data + tfb__offset(t[i], t[i]->ndim, j);
            tfb__ckconv_mix_sum(lane, j, x[j % row * step]);
        }
    }
    return (uint64_t)(lane[0] ^ lane[1] >> 7 ^ lane[1] << 25) << 32 |
           (lane[2] ^ lane[3] >> 9 ^ lane[3] << 23);
}

/* One for an input of these extents or larger ones, made from the present parameters. */
static const tfb__ckconv_kept *tfb__ckconv_find(const tfb_ctx *ctx, const tfb_ckconv *m,
                                                const tfb_idx *spatial) {
    const tfb__ckconv_kept *k, *best = NULL;
    int i;
    for (k = m->kept; k; k = k->next) {
        int fits = 1, exact = 1;
        for (i = 0; i < m->axes; i++) {
            fits = fits && k->spatial[i] >= spatial[i];
            exact = exact && k->spatial[i] == spatial[i];
        }
        if (fits && (!best || exact)) best = k;
    }
    if (best && !ctx->measuring && best->sum != tfb__ckconv_sum(m)) return NULL;
    return best;
}

/* How tfb_long_conv is called for channels c .. */
typedef struct tfb__ckconv_conv {
    tfb_long_conv_opts o;
    tfb_tensor shortcut;
} tfb__ckconv_conv;

static void tfb__ckconv_how(const tfb_ckconv *m, tfb_idx c, tfb_idx n,
                            tfb__ckconv_conv *how) {
    int i;
    memset((void *)how, 0, sizeof *how);
    how->o.method = m->method;
    for (i = 0; i < m->axes; i++) how->o.edge[i] = m->edge[i];
    how->o.first_tap = m->edge[0] == TFB_EDGE_CAUSAL;
    how->shortcut = m->shortcut;
    if (!m->shortcut.ndim) return;
    how->shortcut.shape[0] = n;
    if (how->shortcut.data)
        how->shortcut.data = (float *)m->shortcut.data + c * m->shortcut.stride[0];
    how->o.shortcut = &how->shortcut;
}

/* Shapes alone: an input of these extents [1, .., C], its kernel [taps .., C]. */
static void tfb__ckconv_shapes(const tfb_ckconv *m, const tfb_idx *spatial,
                               const tfb__ckconv_grid *g, tfb_tensor *x, tfb_tensor *k) {
    tfb_idx shape[5];
    int i;
    shape[0] = 1;
    for (i = 0; i < m->axes; i++) shape[1 + i] = spatial[i];
    shape[1 + m->axes] = m->channels;
    *x = tfb__view(NULL, TFB_F32, m->axes + 2, shape);
    for (i = 0; i < m->axes; i++) shape[1 + i] = g->taps[i];
    *k = tfb__view(NULL, TFB_F32, m->axes + 1, shape + 1);
}

/* Bytes to keep, the first *kernel of them for all but spectra; begins are rounded up. */
static size_t tfb__ckconv_kept_need(const tfb_ctx *ctx, const tfb_ckconv *m,
                                    const tfb_idx *spatial, const tfb__ckconv_grid *g,
                                    size_t *kernel) {
    const size_t row = tfb__size_mul((size_t)m->channels, sizeof(float));
    size_t spectra = 0;
    tfb__ckconv_conv how;
    tfb_tensor x, k;
    *kernel = tfb__size_add(tfb__round64(sizeof(tfb__ckconv_kept)),
                            tfb__round64(tfb__size_mul((size_t)g->points, row)));
    tfb__ckconv_how(m, 0, m->channels, &how);
    tfb__ckconv_shapes(m, spatial, g, &x, &k);
    if (*kernel < (size_t)-1 / 2 && tfb_numel(&x) && g->points)
        spectra = tfb__long_conv_keep_bytes(ctx, &x, &k, &how.o);
    return spectra ? tfb__size_add(tfb__size_add(*kernel, spectra), 64) : *kernel;
}

static tfb_status tfb__ckconv_check_prepare(tfb_ctx *ctx, const char *fn,
                                            const tfb_ckconv *m, const tfb_idx *spatial,
                                            int axes, tfb__ckconv_grid *g) {
    size_t kernel;
    TFB__REQUIRE(m && spatial, ctx, TFB_ERR_ARG, "%s: %s is NULL", fn,
                 m ? "spatial" : "m");
    TFB__TRY(tfb__ckconv_check(ctx, fn, m));
    TFB__TRY(tfb__ckconv_grid_of(ctx, fn, m, spatial, axes, g));
    TFB__REQUIRE(!m->film_w1.ndim, ctx, TFB_ERR_UNSUPPORTED,
                 "%s: with film each sample has a kernel of its own", fn);
    TFB__REQUIRE(tfb__ckconv_kept_need(ctx, m, spatial, g, &kernel) < (size_t)-1 / 2, ctx,
                 TFB_ERR_RANGE, "%s: the size overflows", fn);
    return TFB_OK;
}

TFB_API size_t tfb_ckconv_prepare_bytes(tfb_ctx *ctx, const tfb_ckconv *m,
                                        const tfb_idx *spatial, int axes) {
    const char *fn = "tfb_ckconv_prepare_bytes";
    tfb__ckconv_grid g;
    size_t kernel;
    if (!ctx) return 0;
    ctx->message[0] = 0;
    if (tfb__ckconv_check_prepare(ctx, fn, m, spatial, axes, &g) != TFB_OK) return 0;
    return tfb__ckconv_kept_need(ctx, m, spatial, &g, &kernel);
}

static void tfb__ckconv_drop(tfb__ckconv_kept **link) {
    tfb__ckconv_kept *k = *link;
    *link = k->next;
    if (k->alloc) k->alloc(k->alloc_user, k->mem, 0);
}

TFB_API void tfb_ckconv_forget(tfb_ckconv *m) {
    while (m && m->kept) tfb__ckconv_drop(&m->kept);
}

/* The kernel and its spectra, to memory at `mem`; the caller gives scratch back. */
static tfb_status tfb__ckconv_fill_kept(tfb_ctx *ctx, const tfb_ckconv *m,
                                        tfb__ckconv_kept *kept, char *mem,
                                        size_t kernel) {
    tfb__ckconv_conv how;
    tfb_tensor x;
    tfb__ckconv_how(m, 0, m->channels, &how);
    tfb__ckconv_shapes(m, kept->spatial, &kept->g, &x, &kept->kernel);
    if (mem) kept->kernel.data = mem + tfb__round64(sizeof *kept);
    if (kept->g.points == 0) return TFB_OK;
    TFB__TRY(tfb__ckconv_whole(ctx, m, &kept->g, NULL, &kept->kernel));
    if (!tfb_numel(&x) || !tfb__long_conv_keep_bytes(ctx, &x, &kept->kernel, &how.o))
        return TFB_OK;
    kept->spectra = kept; /* measuring: any place will do */
    if (mem) kept->spectra = mem + kernel + (64 - (uintptr_t)(mem + kernel) % 64) % 64;
    return tfb__long_conv_keep(ctx, "tfb_ckconv_prepare", &x, &kept->kernel, &how.o,
                               kept->spectra);
}

/* The same size, or made from what is no more. */
static void tfb__ckconv_replace(tfb_ckconv *m, const tfb__ckconv_kept *by) {
    tfb__ckconv_kept **link = &m->kept;
    while (*link)
        if ((*link)->sum != by->sum ||
            !memcmp((*link)->spatial, by->spatial, sizeof by->spatial))
            tfb__ckconv_drop(link);
        else link = &(*link)->next;
}

TFB_API tfb_status tfb_ckconv_prepare(tfb_ctx *ctx, tfb_ckconv *m, const tfb_idx *spatial,
                                      int axes, void *mem, size_t mem_bytes) {
    const char *fn = "tfb_ckconv_prepare";
    tfb__ckconv_kept made;
    size_t need, kernel;
    tfb_status status;
    tfb__mark mark;
    int i;
    TFB__ENTER(ctx);
    memset((void *)&made, 0, sizeof made);
    TFB__TRY(tfb__ckconv_check_prepare(ctx, fn, m, spatial, axes, &made.g));
    need = tfb__ckconv_kept_need(ctx, m, spatial, &made.g, &kernel);
    TFB__REQUIRE(mem || ctx->alloc || ctx->measuring, ctx, TFB_ERR_MEMORY,
                 "%s: ctx.alloc is NULL", fn);
    if (mem) TFB__TRY(tfb__check_memory(ctx, fn, mem, mem_bytes, need, 8));
    if (!mem && !ctx->measuring) {
        made.mem = mem = ctx->alloc(ctx->alloc_user, NULL, need);
        TFB__REQUIRE(mem, ctx, TFB_ERR_MEMORY, "%s: %d bytes are not to be had", fn,
                     (tfb_idx)need);
        made.alloc = ctx->alloc;
        made.alloc_user = ctx->alloc_user;
    }
    for (i = 0; i < axes; i++) made.spatial[i] = spatial[i];
    mark = tfb__scratch_begin(ctx);
    status =
        tfb__ckconv_fill_kept(ctx, m, &made, ctx->measuring ? NULL : (char *)mem, kernel);
    status = tfb__scratch_end(ctx, mark, status);
    if (status != TFB_OK && made.alloc) made.alloc(made.alloc_user, made.mem, 0);
    if (status != TFB_OK || ctx->measuring) return status;
    made.sum = tfb__ckconv_sum(m);
    tfb__ckconv_replace(m, &made);
    made.next = m->kept;
    m->kept = (tfb__ckconv_kept *)mem;
    *m->kept = made;
    return TFB_OK;
}

/* --- Its convolution. --- */
/* Where kernels of a call come from: kept or given, else made in blocks of channels. */
typedef struct tfb__ckconv_run {
    const tfb_ckconv *m;
    const tfb__ckconv_kept *kept;
    tfb__ckconv_grid g;
    tfb_tensor film, h; /* [B, layers 2 M]; hidden rows of the sample; ndim 0: none */
    float *made;
    tfb_idx width, samples; /* channels of a block; samples that share a kernel */
    tfb_idx room;           /* of a step: taps that scratch is taken for; else 0 */
} tfb__ckconv_run;

/* Takes scratch, which the caller gives back. */
static tfb_status tfb__ckconv_begin(tfb_ctx *ctx, const tfb_ckconv *m,
                                    const tfb_mix *call, const tfb_idx *spatial,
                                    tfb_idx room, tfb__ckconv_run *r) {
    const char *fn = "ckconv mixer";
    const tfb_idx B = call->y->shape[0], M = m->w_out.shape[1];
    memset((void *)r, 0, sizeof *r);
    r->m = m;
    r->room = room;
    r->width = m->channels;
    r->samples = B;
    TFB__TRY(tfb__ckconv_grid_of(ctx, fn, m, spatial, m->axes, &r->g));
    TFB__TRY(tfb__ckconv_check_cond(ctx, fn, m, call->cond, B));
    if (call->inference) r->kept = tfb__ckconv_find(ctx, m, spatial);
    if (r->kept || m->kind == TFB_CKCONV_TAPS || B == 0) return TFB_OK;
    r->width = TFB__MIN(r->width, TFB__CKCONV_WIDTH * tfb__workers(ctx));
    if (room) { /* some taps more, so that scratch does not grow from step to step */
        const tfb_idx whole = (spatial[0] / TFB__CKCONV_POINTS + 1) * TFB__CKCONV_POINTS;
        const tfb_idx made = TFB__MIN(room, whole);
        TFB__TRY(tfb__ckconv_grid_of(ctx, fn, m, &made, 1, &r->g));
    } else room = r->g.points;
    r->made = (float *)tfb__take(ctx, room, (size_t)r->width * sizeof(float));
    if (r->width < m->channels) /* more than one block: from the same hidden rows */
        r->h = tfb_view2(tfb__take(ctx, room, (size_t)M * sizeof(float)), TFB_F32,
                         r->g.points, M);
    if (m->film_w1.ndim) {
        const tfb_idx wide = m->film_w2.shape[0];
        r->samples = 1;
        r->film =
            tfb_view2(tfb__take(ctx, B, (size_t)wide * sizeof(float)), TFB_F32, B, wide);
    }
    TFB__TRY(tfb__scratch_ready(ctx, fn));
    return r->film.ndim ? tfb__ckconv_film(ctx, m, call->cond, &r->film) : TFB_OK;
}

/* What blocks of samples b .. share. */
static tfb_status tfb__ckconv_rows(tfb_ctx *ctx, tfb__ckconv_run *r, tfb_idx b) {
    tfb_tensor film;
    tfb_idx from, n;
    if (!r->h.ndim) return TFB_OK;
    if (r->film.ndim) film = tfb__sample(&r->film, b);
    for (from = 0; from < r->g.points; from += n) {
        tfb_tensor h = r->h;
        n = TFB__MIN(TFB__CKCONV_POINTS, r->g.points - from);
        h.shape[0] = n;
        if (h.data) h.data = (float *)r->h.data + from * h.stride[0];
        TFB__TRY(tfb__ckconv_hidden(ctx, r->m, &r->g, r->film.ndim ? &film : NULL, from,
                                    n, &h));
    }
    return TFB_OK;
}

/* The taps of n channels from c on for sample b, a view. */
static tfb_status tfb__ckconv_view(tfb_ctx *ctx, const tfb__ckconv_run *r, tfb_idx b,
                                   tfb_idx c, tfb_idx n, tfb_tensor *k) {
    const int d = r->m->axes;
    tfb_tensor film;
    int i;
    *k = r->kept ? r->kept->kernel : r->m->taps;
    if (r->made || (!r->kept && r->m->kind != TFB_CKCONV_TAPS)) {
        *k = tfb__view(r->made, TFB_F32, d + 1, r->g.taps);
        k->shape[d] = n;
        tfb__dense_strides(k);
        if (r->film.ndim) film = tfb__sample(&r->film, b);
        return tfb__ckconv_make(ctx, r->m, &r->g, r->film.ndim ? &film : NULL,
                                r->h.ndim ? &r->h : NULL, c, k);
    }
    k->shape[d] = n;
    if (k->data) k->data = (float *)k->data + c * k->stride[d];
    for (i = 0; i < d && r->kept; i++) { /* of a larger input: the middle, or the front */
        if (k->data)
            k->data =
                (float *)k->data + (r->g.first[i] - r->kept->g.first[i]) * k->stride[i];
        k->shape[i] = r->g.taps[i];
    }
    return TFB_OK;
}

/* Samples b .. and channels c .. of a tensor [B, .., C]. */
static tfb_tensor tfb__block_of(const tfb_tensor *t, tfb_idx b, tfb_idx samples,
                                tfb_idx c, tfb_idx n) {
    const int last = t->ndim - 1;
    tfb_tensor x = *t;
    x.shape[0] = samples;
    x.shape[last] = n;
    if (x.data) x.data = (float *)t->data + b * t->stride[0] + c * t->stride[last];
    return x;
}

/* Those of a block, by kept spectra if there are any for just these extents. */
static tfb_status tfb__ckconv_block(tfb_ctx *ctx, const tfb__ckconv_run *r, tfb_idx c,
                                    const tfb_tensor *x, const tfb_tensor *k,
                                    tfb_tensor *y) {
    const char *fn = "ckconv mixer";
    const size_t same = (size_t)r->g.axes * sizeof(tfb_idx);
    tfb__ckconv_conv how;
    tfb__ckconv_how(r->m, c, y->shape[y->ndim - 1], &how);
    if (!r->kept || memcmp(r->kept->spatial, x->shape + 1, same))
        return tfb_long_conv(ctx, x, k, &how.o, y);
    TFB__TRY(tfb__long_check(ctx, fn, x, k, &how.o, y));
    return tfb__long_conv_run(ctx, fn, x, k, &how.o, y, r->kept->spectra);
}

/* y = k * x + shortcut x, both [B, .., C]; y may be x. */
static tfb_status tfb__ckconv_apply(tfb_ctx *ctx, const tfb_ckconv *m,
                                    const tfb_mix *call, const tfb_tensor *x,
                                    tfb_tensor *y) {
    const tfb__mark mark = tfb__scratch_begin(ctx);
    const tfb_idx B = y->shape[0], C = m->channels;
    tfb__ckconv_run r;
    tfb_idx b, c;
    tfb_status status = tfb__ckconv_begin(ctx, m, call, x->shape + 1, 0, &r);
    for (b = 0; b < B && tfb_numel(y) && status == TFB_OK; b += r.samples) {
        status = tfb__ckconv_rows(ctx, &r, b);
        for (c = 0; c < C && status == TFB_OK; c += r.width) {
            const tfb_idx n = TFB__MIN(r.width, C - c);
            const tfb_tensor in = tfb__block_of(x, b, r.samples, c, n);
            tfb_tensor out = tfb__block_of(y, b, r.samples, c, n), k;
            status = tfb__ckconv_view(ctx, &r, b, c, n, &k);
            if (status == TFB_OK) status = tfb__ckconv_block(ctx, &r, c, &in, &k, &out);
        }
    }
    return tfb__scratch_end(ctx, mark, status);
}

/* --- Its step: the direct sums over all rows so far, or over those of a block. --- */
typedef struct tfb__ckconv_job {
    tfb__long_call s;    /* x: unused, its places are rows of the state */
    const tfb_kv *store; /* [B, 1, T, C] as values */
    tfb_idx b, c, t;     /* of the first sample, channel and output */
    tfb_idx from;        /* the row that the sums begin with; t counts from there */
} tfb__ckconv_job;

/* Rows t, t + 1 .. of a sample that lie side by side: how many, at most `most`, and the
 * values of the first. */
static tfb_idx tfb__ckconv_stored(const tfb_kv *store, tfb_idx b, tfb_idx t, tfb_idx most,
                                  const float **values) {
    const tfb_kv_layer *l = store->layer;
    char *key, *value;
    const tfb_idx rows = tfb__kv_find(store, l, l->row + b, 0, t, &key, &value);
    *values = (const float *)(void *)value;
    return TFB__MIN(rows, most);
}

/* The rows of a sample from the first on, n channels from c on. */
static void tfb__ckconv_past(const tfb__ckconv_job *j, tfb_idx b, tfb_idx c, tfb_idx n,
                             float *panel) {
    const tfb_idx all = j->s.n[2], C = j->store->layer->shape.v_dim;
    const float *values;
    tfb_idx t, rows;
    for (t = 0; t < all; t += rows) {
        rows = tfb__ckconv_stored(j->store, b, j->from + t, all - t, &values);
        tfb__panel_in(j->s.isa, values + c, 1, C, rows, n, panel + t * TFB__PANEL);
    }
    tfb__from_little(panel, all * TFB__PANEL);
}

static void tfb__ckconv_task(void *arg, tfb_idx task, int worker) {
    const tfb__ckconv_job *j = (const tfb__ckconv_job *)arg;
    const tfb__long_call *s = &j->s;
    const tfb_idx B = s->y.shape[0], b = task % B, c = task / B * TFB__PANEL;
    const tfb_idx n = TFB__MIN(TFB__PANEL, s->y.shape[4] - c), T = s->y.shape[3];
    tfb__long_room m;
    tfb_idx t, rows;
    tfb__long_carve(s, s->scratch + s->worker_bytes * (size_t)worker, &m);
    tfb__panel_of(s->isa, &s->shortcut, 0, c, n, m.shortcut);
    tfb__long_in(s, &s->k, b, c, n, m.k);
    tfb__ckconv_past(j, j->b + b, j->c + c, n, m.x);
    tfb__long_taps(s, &m);
    for (t = 0; t < T; t += rows) {
        tfb_idx at[3] = TFB_INIT;
        at[2] = j->t + t;
        rows = TFB__MIN(TFB__LONG_ROWS, T - t);
        tfb__long_sums(s, &m, at, rows);
        tfb__panel_out(s->isa, m.y, rows, n,
                       (float *)s->y.data + b * s->y.stride[0] + t * s->y.stride[3] +
                           c * s->y.stride[4],
                       s->y.stride[4], s->y.stride[3], m.turned);
    }
}

/* Rows that scratch is taken for: as many as the state can have, or each step would have
 * to allocate. */
static tfb_idx tfb__ckconv_room(const tfb_mixer_state *state, tfb_idx all) {
    return TFB__MAX(tfb_kv_capacity(&state->kv, 0), all);
}

/* The outputs y of samples b .. and channels c .. with these taps. */
static tfb_status tfb__ckconv_next(tfb_ctx *ctx, const tfb__ckconv_run *r,
                                   const tfb_mixer_state *state, const tfb_tensor *k,
                                   tfb_idx b, tfb_idx c, tfb_idx first,
                                   const tfb_tensor *y) {
    const tfb__mark mark = tfb__scratch_begin(ctx);
    const tfb_idx T = y->shape[1], C = y->shape[2], P = r->m->step_block;
    tfb__ckconv_job j;
    tfb__long_room unused;
    tfb_status status;
    memset((void *)&j, 0, sizeof j);
    j.store = &state->kv;
    j.b = b;
    j.c = c;
    j.from = P ? first / P * P : 0;
    j.t = first - j.from;
    j.s.isa = ctx->isa;
    j.s.k = tfb__long_view(k, y->shape[0], 1);
    j.s.y = tfb__long_view(y, y->shape[0], 1);
    j.s.n[0] = j.s.n[1] = j.s.taps[0] = j.s.taps[1] = 1;
    j.s.n[2] = j.t + T;
    j.s.taps[2] = TFB__MIN(k->shape[0], j.s.n[2]);
    j.s.k.shape[3] = j.s.taps[2];
    j.s.places = P ? P : r->room;
    j.s.all_taps = r->m->kind == TFB_CKCONV_TAPS && !P ? k->shape[0] : j.s.places;
    if (r->m->shortcut.ndim) {
        j.s.shortcut = r->m->shortcut;
        if (j.s.shortcut.data)
            j.s.shortcut.data =
                (float *)r->m->shortcut.data + c * r->m->shortcut.stride[0];
    }
    j.s.worker_bytes = tfb__long_carve(&j.s, NULL, &unused);
    j.s.scratch = (char *)tfb__take(ctx, tfb__workers(ctx), j.s.worker_bytes);
    status = tfb__scratch_ready(ctx, "ckconv mixer");
    if (status == TFB_OK && !ctx->measuring)
        tfb__parallel(ctx, y->shape[0] * TFB__PANEL_COUNT(C), tfb__ckconv_task, &j);
    return tfb__scratch_end(ctx, mark, status);
}

/* What rows 0 .. base - 1 of sample b give to outputs base .. all - 1, channels c .. as
 * many as taps has, by transforms, into the state. */
static tfb_status tfb__ckconv_before(tfb_ctx *ctx, tfb_mixer_state *state, tfb_idx base,
                                     tfb_idx all, const tfb_tensor *taps, tfb_idx b,
                                     tfb_idx c) {
    const tfb__mark mark = tfb__scratch_begin(ctx);
    const tfb_idx n = taps->shape[1], C = state->kv.layer->shape.v_dim;
    const size_t bytes = (size_t)n * sizeof(float);
    tfb_tensor k = *taps, x = tfb_view3(NULL, TFB_F32, 1, all, n);
    float *row = (float *)tfb__take(ctx, all, bytes);
    tfb_status status = tfb__scratch_ready(ctx, "ckconv mixer");
    tfb_long_conv_opts o;
    tfb_idx t, i, rows;
    memset((void *)&o, 0, sizeof o);
    o.edge[0] = TFB_EDGE_CAUSAL;
    o.first_tap = 1;
    o.method = TFB_CONV_FFT;
    k.shape[0] = TFB__MIN(k.shape[0], all);
    x.data = row;
    for (t = 0; status == TFB_OK && !ctx->measuring && t < base; t += rows) {
        const float *values;
        rows = tfb__ckconv_stored(&state->kv, b, t, base - t, &values);
        for (i = 0; i < rows; i++)
            memcpy((void *)(row + (t + i) * n), (const void *)(values + i * C + c),
                   bytes);
    }
    if (status == TFB_OK && !ctx->measuring) {
        tfb__from_little(row, base * n);
        memset((void *)(row + base * n), 0, (size_t)(all - base) * bytes);
    }
    if (status == TFB_OK) status = tfb_long_conv(ctx, &x, &k, &o, &x);
    for (t = base; status == TFB_OK && !ctx->measuring && t < all; t++)
        memcpy((void *)((float *)state->carried[1].data + c + (t - base) * C +
                        b * state->carried[1].stride[0]),
               row + t * n, bytes);
    return tfb__scratch_end(ctx, mark, status);
}

/* Outputs y [samples, T, n] from token `first` on, samples b .., channels c ..; where
 * steps have blocks, of one block. */
static tfb_status tfb__ckconv_after(tfb_ctx *ctx, const tfb__ckconv_run *r,
                                    tfb_mixer_state *state, const tfb_tensor *k,
                                    tfb_idx first, tfb_idx b, tfb_idx c, tfb_tensor *y) {
    const tfb_idx P = r->m->step_block, base = P ? first / P * P : 0;
    const tfb_idx all = TFB__MIN(base + P, r->room);
    const tfb_tensor *carried = &state->carried[1];
    tfb_tensor before = *y;
    tfb_idx i;
    for (i = b; base && first == base && i < b + y->shape[0]; i++)
        TFB__TRY(tfb__ckconv_before(ctx, state, base, all, k, i, c));
    TFB__TRY(tfb__ckconv_next(ctx, r, state, k, b, c, first, y));
    if (!base) return TFB_OK;
    before.data = (float *)carried->data + b * carried->stride[0] +
                  (first - base) * r->m->channels + c;
    before.stride[0] = carried->stride[0];
    before.stride[1] = r->m->channels;
    before.stride[2] = 1;
    return tfb_add(ctx, y, &before, y);
}

/* All of a call, block after block. */
static tfb_status tfb__ckconv_blocks(tfb_ctx *ctx, const tfb__ckconv_run *r,
                                     tfb_mixer_state *state, const tfb_tensor *k,
                                     tfb_idx first, tfb_idx b, tfb_idx c,
                                     const tfb_tensor *y) {
    const tfb_idx P = r->m->step_block, T = y->shape[1];
    tfb_tensor out = *y;
    tfb_idx t;
    for (t = 0; t < T; t += out.shape[1]) {
        out.shape[1] = P ? TFB__MIN(T - t, P - (first + t) % P) : T;
        if (y->data) out.data = (float *)y->data + t * y->stride[1];
        TFB__TRY(tfb__ckconv_after(ctx, r, state, k, first + t, b, c, &out));
    }
    return TFB_OK;
}

/* Outputs y [B, T, C] of tokens `first` .., whose rows the state has: with taps up to the
 * last of them, or to the end of its block. */
static TFB__NOINLINE tfb_status tfb__ckconv_outputs(tfb_ctx *ctx, const tfb_ckconv *m,
                                                    const tfb_mix *call,
                                                    tfb_mixer_state *state, tfb_idx first,
                                                    const tfb_tensor *y) {
    const tfb__mark mark = tfb__scratch_begin(ctx);
    const tfb_idx end = first + y->shape[1], room = tfb__ckconv_room(state, end);
    const tfb_idx P = m->step_block, B = y->shape[0], C = m->channels;
    const tfb_idx all = P ? TFB__MIN((end - 1) / P * P + P, room) : end;
    tfb__ckconv_run r;
    tfb_status status = tfb__ckconv_begin(ctx, m, call, &all, room, &r);
    tfb_idx b, c, n;
    for (b = 0; status == TFB_OK && b < B; b += r.samples) {
        status = tfb__ckconv_rows(ctx, &r, b);
        for (c = 0; c < C && status == TFB_OK; c += n) {
            tfb_tensor out, k;
            n = TFB__MIN(r.width, C - c);
            out = tfb__block_of(y, b, r.samples, c, n);
            k.ndim = 0;
            status = tfb__ckconv_view(ctx, &r, b, c, n, &k);
            if (status == TFB_OK)
                status = tfb__ckconv_blocks(ctx, &r, state, &k, first, b, c, &out);
        }
    }
    return tfb__scratch_end(ctx, mark, status);
}

/* Tokens of x [B, T, C] come to the state, y are the outputs there; y may be x. */
static tfb_status tfb__ckconv_advance(tfb_ctx *ctx, const tfb_ckconv *m,
                                      const tfb_mix *call, tfb_mixer_state *state,
                                      const tfb_tensor *x, tfb_tensor *y) {
    static const float zero = 0;
    const tfb_idx B = x->shape[0], T = x->shape[1];
    tfb_tensor key = tfb_view4(&zero, TFB_F32, B, 1, T, 1), value = key;
    key.stride[0] = key.stride[1] = key.stride[2] = 0;
    value.data = x->data;
    value.shape[3] = m->channels;
    value.stride[0] = x->stride[0];
    value.stride[2] = x->stride[1];
    value.stride[3] = x->stride[2];
    TFB__TRY(tfb_kv_append(ctx, &state->kv, 0, &key, &value));
    return T ? tfb__ckconv_outputs(ctx, m, call, state, state->tokens, y) : TFB_OK;
}

/* --- The CKConv mixer: its table. --- */
static tfb_status tfb__ckconv_check_call(tfb_ctx *ctx, const char *fn, const char *name,
                                         const tfb_ckconv *m, const tfb_tensor *t,
                                         const tfb_tensor *y) {
    const int f32 = TFB__MASK(TFB_F32), ndim = m->axes + 2;
    TFB__TRY(tfb__check(ctx, fn, name, t, f32, ndim, ndim));
    TFB__TRY(tfb__check_like(ctx, fn, name, t, y, ndim - 1));
    return tfb__check_extent(ctx, fn, name, t, ndim - 1, m->channels);
}

static tfb_status tfb__ckconv_mix(tfb_ctx *ctx, const tfb_ckconv *m, const tfb_mix *call,
                                  tfb_mixer_state *state) {
    const char *fn = "ckconv mixer";
    const tfb_tensor *x = m->gated ? call->y : call->v;
    TFB__TRY(tfb__ckconv_check(ctx, fn, m));
    TFB__REQUIRE(!state || m->edge[0] == TFB_EDGE_CAUSAL, ctx, TFB_ERR_UNSUPPORTED,
                 "%s: step needs a causal axis", fn);
    TFB__TRY(tfb__ckconv_check_call(ctx, fn, "y", m, call->y, call->y));
    TFB__TRY(tfb__ckconv_check_call(ctx, fn, "v", m, call->v, call->y));
    if (m->gated) {
        TFB__TRY(tfb__ckconv_check_call(ctx, fn, "q", m, call->q, call->y));
        TFB__TRY(tfb__ckconv_check_call(ctx, fn, "k", m, call->k, call->y));
        TFB__TRY(tfb_mul(ctx, call->k, call->v, call->y));
    }
    TFB__TRY(state ? tfb__ckconv_advance(ctx, m, call, state, x, call->y)
                   : tfb__ckconv_apply(ctx, m, call, x, call->y));
    return m->gated ? tfb_mul(ctx, call->q, call->y, call->y) : TFB_OK;
}

static tfb_status tfb__ckconv_forward(tfb_ctx *ctx, void *self, const tfb_mix *call) {
    return tfb__ckconv_mix(ctx, (const tfb_ckconv *)self, call, NULL);
}

static tfb_status tfb__ckconv_step(tfb_ctx *ctx, void *self, const tfb_mix *call,
                                   tfb_mixer_state *state) {
    return tfb__ckconv_mix(ctx, (const tfb_ckconv *)self, call, state);
}

static void tfb__ckconv_need(const void *self, tfb_idx channels, tfb_mixer_need *need) {
    const tfb_ckconv *m = (const tfb_ckconv *)self;
    if (m->axes != 1 || m->edge[0] != TFB_EDGE_CAUSAL) return;
    need->kv.kv_heads = need->kv.head_dim = 1; /* a key of nothing */
    need->kv.v_dim = channels;
    need->carried[1] = m->step_block * channels; /* what earlier blocks give to one */
}

static const tfb_mixer_ops tfb__ckconv_ops = {
    "ckconv",         tfb__ckconv_forward, tfb__ckconv_step,
    tfb__ckconv_need, tfb__ckconv_flops,   tfb__ckconv_params,
};

TFB_API tfb_mixer tfb_ckconv_as_mixer(tfb_ckconv *m) {
    tfb_mixer mixer;
    mixer.ops = &tfb__ckconv_ops;
    mixer.self = m;
    return mixer;
}

/* --- The Hyena mixer. --- */
static tfb_fn tfb__hyena_gate2(const tfb_hyena *m) {
    return m->gate2_set ? m->gate2 : m->gate1;
}

static tfb_idx tfb__hyena_taps(const tfb_hyena *m) {
    tfb_idx taps = 1;
    int i;
    for (i = 1; i < m->short_w.ndim; i++) taps *= m->short_w.shape[i];
    return taps;
}

static tfb_status tfb__hyena_check(tfb_ctx *ctx, const char *fn, const tfb_hyena *m,
                                   int step) {
    const tfb_idx C = m->conv.channels;
    const int f32 = TFB__MASK(TFB_F32);
    const tfb_tensor *w = &m->short_w;
    TFB__TRY(tfb__ckconv_check(ctx, fn, &m->conv));
    TFB__REQUIRE((unsigned)m->gate1 < (unsigned)TFB__FNS &&
                     (unsigned)m->gate2 < (unsigned)TFB__FNS,
                 ctx, TFB_ERR_ARG, "%s: a gate is no function", fn);
    TFB__TRY(tfb__check_vector(ctx, fn, "q_weight",
                               m->q_weight.ndim ? &m->q_weight : NULL, f32, C));
    TFB__TRY(tfb__check_vector(ctx, fn, "k_weight",
                               m->k_weight.ndim ? &m->k_weight : NULL, f32, C));
    TFB__TRY(tfb__check_vector(ctx, fn, "z_weight",
                               m->z_weight.ndim ? &m->z_weight : NULL, f32, C));
    TFB__TRY(tfb__check_vector(ctx, fn, "y_weight",
                               m->y_weight.ndim ? &m->y_weight : NULL, f32, C));
    TFB__REQUIRE(!step || m->conv.edge[0] == TFB_EDGE_CAUSAL, ctx, TFB_ERR_UNSUPPORTED,
                 "%s: step needs a causal axis", fn);
    if (!w->ndim) return TFB_OK;
    TFB__REQUIRE(!step || m->short_causal, ctx, TFB_ERR_UNSUPPORTED,
                 "%s: step needs a causal short convolution", fn);
    TFB__REQUIRE(!m->short_causal || m->conv.axes == 1, ctx, TFB_ERR_UNSUPPORTED,
                 "%s: a causal short convolution needs one axis", fn);
    TFB__TRY(tfb__check(ctx, fn, "short_w", w, f32, m->conv.axes + 1, m->conv.axes + 1));
    TFB__REQUIRE(w->shape[0] > 0 && 3 * C % w->shape[0] == 0 && tfb__hyena_taps(m) > 0,
                 ctx, TFB_ERR_SHAPE, "%s: short_w has %d groups of %d taps for 3 * %d",
                 fn, w->shape[0], tfb__hyena_taps(m), C);
    return TFB_OK;
}

/* The short convolution of channels c .. of part 0, 1, 2: q, k, v. y [B, .., n] */
static tfb_status tfb__hyena_short(tfb_ctx *ctx, const tfb_hyena *m, int part,
                                   const tfb_tensor *x, tfb_idx c, tfb_mixer_state *state,
                                   tfb_tensor *y) {
    const tfb__mark mark = tfb__scratch_begin(ctx);
    const tfb_idx C = m->conv.channels, n = y->shape[y->ndim - 1];
    const tfb_idx taps = tfb__hyena_taps(m), each = 3 * C / m->short_w.shape[0];
    const tfb_tensor in = tfb__block_of(x, 0, x->shape[0], c, n);
    const int d = m->conv.axes;
    tfb_tensor w = tfb__view(NULL, TFB_F32, d, m->short_w.shape + 1), past;
    tfb_long_conv_opts o;
    tfb_conv1d_opts causal;
    tfb_status status;
    tfb_idx i, j;
    w.shape[w.ndim++] = n;
    tfb__dense_strides(&w);
    w.data = tfb__take(ctx, taps, (size_t)n * sizeof(float));
    status = tfb__scratch_ready(ctx, "hyena mixer");
    memset((void *)&o, 0, sizeof o);
    memset((void *)&causal, 0, sizeof causal);
    o.method = TFB_CONV_DIRECT;
    for (i = 0; w.data && i < n; i++) { /* from cross-correlation: the last tap first */
        const tfb_idx row = (part * C + c + i) / each;
        for (j = 0; j < taps; j++)
            ((float *)w.data)[(m->short_causal ? j : taps - 1 - j) * n + i] =
                ((const float *)
                     m->short_w.data)[tfb__offset(&m->short_w, d + 1, row * taps + j)];
    }
    if (status == TFB_OK && !m->short_causal) status = tfb_long_conv(ctx, &in, &w, &o, y);
    if (status == TFB_OK && m->short_causal) {
        past = tfb_view3(NULL, TFB_F32, x->shape[0], taps - 1, n);
        past.stride[0] = (taps - 1) * 3 * C;
        past.stride[1] = 3 * C;
        if (state && state->carried[0].data)
            past.data = (float *)state->carried[0].data + part * C + c;
        if (state) causal.state = &past;
        w.shape[0] = n;
        w.shape[1] = taps;
        w.stride[0] = 1;
        w.stride[1] = n;
        status = tfb_causal_conv1d(ctx, &in, &w, &causal, y);
    }
    return tfb__scratch_end(ctx, mark, status);
}

/* y = the short convolution of a part, all channels, in blocks. */
static tfb_status tfb__hyena_part(tfb_ctx *ctx, const tfb_hyena *m, int part,
                                  const tfb_tensor *x, tfb_mixer_state *state,
                                  tfb_tensor *y) {
    const tfb_idx C = m->conv.channels, width = TFB__CKCONV_WIDTH * tfb__workers(ctx);
    tfb_idx c;
    for (c = 0; c < C; c += width) {
        tfb_tensor out = tfb__block_of(y, 0, y->shape[0], c, TFB__MIN(width, C - c));
        TFB__TRY(tfb__hyena_short(ctx, m, part, x, c, state, &out));
    }
    return TFB_OK;
}

static tfb_status tfb__hyena_norm(tfb_ctx *ctx, const tfb_hyena *m, tfb_qk_norm kind,
                                  const tfb_tensor *weight, const tfb_tensor *x,
                                  tfb_tensor *y) {
    tfb_norm_opts o;
    memset((void *)&o, 0, sizeof o);
    if (weight->ndim) o.weight = weight;
    o.eps = m->eps;
    o.eps_set = m->eps_set;
    return kind == TFB_QK_NORM_L2 ? tfb_l2norm(ctx, x, &o, y)
                                  : tfb_rmsnorm(ctx, x, &o, y);
}

/* y = a * gate(short(x)), in blocks: what the gate is of exists for one at a time. */
static tfb_status tfb__hyena_gated(tfb_ctx *ctx, const tfb_hyena *m, int part,
                                   const tfb_tensor *a, tfb_fn gate, const tfb_tensor *x,
                                   tfb_mixer_state *state, tfb_tensor *y) {
    const tfb_idx C = m->conv.channels, most = TFB__CKCONV_WIDTH * tfb__workers(ctx);
    const tfb_idx width = TFB__MIN(C, most), B = y->shape[0];
    const tfb__mark mark = tfb__scratch_begin(ctx);
    tfb_tensor room = tfb__take_like(ctx, y, width);
    tfb_status status = tfb__scratch_ready(ctx, "hyena mixer");
    tfb_idx c;
    for (c = 0; c < C && status == TFB_OK; c += width) {
        const tfb_idx n = TFB__MIN(width, C - c);
        const tfb_tensor in = tfb__block_of(x, 0, B, c, n);
        const tfb_tensor left = tfb__block_of(a, 0, B, c, n);
        tfb_tensor out = tfb__block_of(y, 0, B, c, n), g = room;
        g.shape[g.ndim - 1] = n;
        tfb__dense_strides(&g);
        if (m->short_w.ndim) status = tfb__hyena_short(ctx, m, part, x, c, state, &g);
        if (status == TFB_OK && (gate || !m->short_w.ndim))
            status = tfb_map(ctx, gate, m->short_w.ndim ? &g : &in, &g);
        if (status == TFB_OK) status = tfb_mul(ctx, &left, &g, &out);
    }
    return tfb__scratch_end(ctx, mark, status);
}

/* Up to z = q gate1(k), normed, in y. */
static tfb_status tfb__hyena_z(tfb_ctx *ctx, const tfb_hyena *m, const tfb_mix *call,
                               tfb_mixer_state *state) {
    const tfb_tensor *q = call->q, *k = call->k;
    const int both = m->qk_norm && m->gate1 == TFB_FN_IDENTITY;
    tfb_tensor *y = call->y, keys;
    if (m->short_w.ndim) {
        TFB__TRY(tfb__hyena_part(ctx, m, 0, q, state, y));
        q = y;
    }
    if (m->qk_norm) {
        TFB__TRY(tfb__hyena_norm(ctx, m, m->qk_norm, &m->q_weight, q, y));
        q = y;
    }
    if (both) { /* the norm needs all channels */
        const tfb__mark mark = tfb__scratch_begin(ctx);
        tfb_status status;
        keys = tfb__take_like(ctx, y, m->conv.channels);
        status = tfb__scratch_ready(ctx, "hyena mixer");
        if (m->short_w.ndim && status == TFB_OK)
            status = tfb__hyena_part(ctx, m, 1, k, state, &keys);
        if (m->short_w.ndim) k = &keys;
        if (status == TFB_OK)
            status = tfb__hyena_norm(ctx, m, m->qk_norm, &m->k_weight, k, &keys);
        if (status == TFB_OK) status = tfb_mul(ctx, q, &keys, y);
        TFB__TRY(tfb__scratch_end(ctx, mark, status));
    } else TFB__TRY(tfb__hyena_gated(ctx, m, 1, q, m->gate1, k, state, y));
    if (!m->norm) return TFB_OK;
    return tfb__hyena_norm(ctx, m, m->norm, &m->z_weight, y, y);
}

/* SEMANTICS 5.2, in this order; all of it in y. */
static tfb_status tfb__hyena_mix(tfb_ctx *ctx, const tfb_hyena *m, const tfb_mix *call,
                                 tfb_mixer_state *state) {
    const char *fn = "hyena mixer";
    tfb_tensor *y = call->y;
    TFB__TRY(tfb__hyena_check(ctx, fn, m, state != NULL));
    TFB__TRY(tfb__ckconv_check_call(ctx, fn, "y", &m->conv, y, y));
    TFB__TRY(tfb__ckconv_check_call(ctx, fn, "q", &m->conv, call->q, y));
    TFB__TRY(tfb__ckconv_check_call(ctx, fn, "k", &m->conv, call->k, y));
    TFB__TRY(tfb__ckconv_check_call(ctx, fn, "v", &m->conv, call->v, y));
    TFB__TRY(tfb__ckconv_check_cond(ctx, fn, &m->conv, call->cond, y->shape[0]));
    TFB__TRY(tfb__hyena_z(ctx, m, call, state));
    TFB__TRY(state ? tfb__ckconv_advance(ctx, &m->conv, call, state, y, y)
                   : tfb__ckconv_apply(ctx, &m->conv, call, y, y));
    TFB__TRY(tfb__hyena_gated(ctx, m, 2, y, tfb__hyena_gate2(m), call->v, state, y));
    if (!m->out_norm) return TFB_OK;
    return tfb__hyena_norm(ctx, m, m->out_norm, &m->y_weight, y, y);
}

static tfb_status tfb__hyena_forward(tfb_ctx *ctx, void *self, const tfb_mix *call) {
    return tfb__hyena_mix(ctx, (const tfb_hyena *)self, call, NULL);
}

static tfb_status tfb__hyena_step(tfb_ctx *ctx, void *self, const tfb_mix *call,
                                  tfb_mixer_state *state) {
    return tfb__hyena_mix(ctx, (const tfb_hyena *)self, call, state);
}

static void tfb__hyena_need(const void *self, tfb_idx channels, tfb_mixer_need *need) {
    const tfb_hyena *m = (const tfb_hyena *)self;
    tfb__ckconv_need(&m->conv, channels, need);
    if (m->short_w.ndim && m->short_causal)
        need->carried[0] = (tfb__hyena_taps(m) - 1) * 3 * channels;
}

static int64_t tfb__hyena_flops(const void *self, tfb_idx channels,
                                const tfb_idx *spatial, int axes, int inference) {
    const tfb_hyena *m = (const tfb_hyena *)self;
    const double C = (double)channels;
    double n = tfb__ckconv_cost(&m->conv, C, spatial, inference), CT = C;
    int i;
    if (axes != m->conv.axes || n < 0) return -1;
    for (i = 0; i < axes; i++) CT = CT * (double)spatial[i];
    if (m->short_w.ndim) n = n + 6 * CT * (double)tfb__hyena_taps(m);
    if (m->qk_norm) n = n + 3 * CT * (m->gate1 == TFB_FN_IDENTITY ? 2 : 1);
    n = n + 2 * CT;
    if (m->gate1 != TFB_FN_IDENTITY) n = n + CT;
    if (tfb__hyena_gate2(m) != TFB_FN_IDENTITY) n = n + CT;
    n = n + 3 * CT * ((m->norm != 0) + (m->out_norm != 0));
    return n < 9e15 ? (int64_t)n : -1;
}

static tfb_status tfb__hyena_params(void *self, tfb_param_fn visit, void *user) {
    static const char *const name[] = {"hyena.short_w", "hyena.q_weight",
                                       "hyena.k_weight", "hyena.z_weight",
                                       "hyena.y_weight"};
    tfb_hyena *m = (tfb_hyena *)self;
    tfb_tensor *t[5];
    int i;
    t[0] = &m->short_w;
    t[1] = &m->q_weight;
    t[2] = &m->k_weight;
    t[3] = &m->z_weight;
    t[4] = &m->y_weight;
    for (i = 0; i < 5; i++)
        if (t[i]->ndim) TFB__TRY(visit(user, name[i], t[i]));
    return tfb__ckconv_params(&m->conv, visit, user);
}

static const tfb_mixer_ops tfb__hyena_ops = {
    "hyena",         tfb__hyena_forward, tfb__hyena_step,
    tfb__hyena_need, tfb__hyena_flops,   tfb__hyena_params,
};

TFB_API tfb_mixer tfb_hyena_as_mixer(tfb_hyena *m) {
    tfb_mixer mixer;
    mixer.ops = &tfb__hyena_ops;
    mixer.self = m;
    return mixer;
}

static const char *tfb__hyena_bad(const tfb_hyena_opts *o) {
    const tfb_idx far = (tfb_idx)1 << 20;
    const int axes = o->conv.axes ? o->conv.axes : 1;
    const char *bad = tfb__ckconv_bad(&o->conv);
    int i, some = 0, none = 0;
    if (bad) return bad;
    if (o->conv.gated) return "conv.gated, hyena having gates of its own,";
    for (i = 0; i < axes; i++) {
        if (o->short_taps[i] < 0 || o->short_taps[i] > far) return "short_taps";
        some += o->short_taps[i] > 0;
        none += o->short_taps[i] == 0;
    }
    if (some && none) return "short_taps";
    if (o->short_causal && axes > 1) return "short_causal, which needs one axis,";
    if (o->short_groups < 0 ||
        (o->short_groups && 3 * o->conv.channels % o->short_groups))
        return "short_groups";
    if ((unsigned)o->gate1 >= (unsigned)TFB__FNS ||
        (unsigned)o->gate2 >= (unsigned)TFB__FNS)
        return "gate1 or gate2";
    if ((unsigned)o->qk_norm > (unsigned)TFB_QK_NORM_L2 ||
        (unsigned)o->norm > (unsigned)TFB_QK_NORM_L2 ||
        (unsigned)o->out_norm > (unsigned)TFB_QK_NORM_L2)
        return "a norm";
    return NULL;
}

/* What opts say, with the weights of its own; the convolution's follow. */
static void tfb__hyena_carve(tfb__carver *c, const tfb_hyena_opts *o, tfb_hyena *m) {
    const tfb_idx C = o->conv.channels;
    tfb_idx taps = 1;
    int i;
    memset((void *)m, 0, sizeof *m);
    tfb__ckconv_shape(&o->conv, &m->conv);
    m->gate1 = o->gate1;
    m->gate2 = o->gate2;
    m->gate2_set = o->gate2_set;
    m->qk_norm = o->qk_norm;
    m->norm = o->norm;
    m->out_norm = o->out_norm;
    m->short_causal = o->short_causal != 0;
    for (i = 0; i < m->conv.axes; i++)
        taps = (tfb_idx)tfb__size_mul((size_t)taps, (size_t)o->short_taps[i]);
    if (taps) {
        m->short_w = tfb__carve(c, 2, o->short_groups ? o->short_groups : 3 * C, taps);
        m->short_w.ndim = 1 + m->conv.axes;
        for (i = 0; i < m->conv.axes; i++) m->short_w.shape[1 + i] = o->short_taps[i];
        tfb__dense_strides(&m->short_w);
    }
    if (m->qk_norm) m->q_weight = tfb__carve(c, 1, C, 0);
    if (m->qk_norm && m->gate1 == TFB_FN_IDENTITY) m->k_weight = tfb__carve(c, 1, C, 0);
    if (m->norm) m->z_weight = tfb__carve(c, 1, C, 0);
    if (m->out_norm) m->y_weight = tfb__carve(c, 1, C, 0);
    tfb__draw(c, &m->short_w, tfb__fan_in(taps));
    tfb__fill(&m->q_weight, 1.0f);
    tfb__fill(&m->k_weight, 1.0f);
    tfb__fill(&m->z_weight, 1.0f);
    tfb__fill(&m->y_weight, 1.0f);
    tfb__ckconv_carve(c, &o->conv, &m->conv);
}

TFB_API size_t tfb_hyena_bytes(const tfb_hyena_opts *opts) {
    tfb__carver c;
    tfb_hyena m;
    if (!opts || tfb__hyena_bad(opts)) return 0;
    memset((void *)&c, 0, sizeof c);
    tfb__hyena_carve(&c, opts, &m);
    return c.used < (size_t)-1 / 2 ? c.used : 0;
}

TFB_API tfb_status tfb_hyena_init(tfb_ctx *ctx, tfb_hyena *m, const tfb_hyena_opts *opts,
                                  void *mem, size_t mem_bytes) {
    const char *fn = "tfb_hyena_init";
    const size_t need = tfb_hyena_bytes(opts);
    tfb__carver c;
    TFB__ENTER(ctx);
    TFB__REQUIRE(m && opts, ctx, TFB_ERR_ARG, "%s: %s is NULL", fn, m ? "opts" : "m");
    TFB__REQUIRE(!tfb__hyena_bad(opts), ctx, TFB_ERR_RANGE, "%s: %s is not legal", fn,
                 tfb__hyena_bad(opts));
    TFB__REQUIRE(need, ctx, TFB_ERR_RANGE, "%s: the size overflows", fn);
    TFB__TRY(tfb__check_memory(ctx, fn, mem, mem_bytes, need, 4));
    if (ctx->measuring) return TFB_OK;
    memset((void *)&c, 0, sizeof c);
    c.mem = (char *)mem;
    c.seed = opts->conv.seed;
    tfb__hyena_carve(&c, opts, m);
    tfb__ckconv_fill(&c, &opts->conv, &m->conv);
    return TFB_OK;
}

#endif /* TFB_NO_HYENA */

/* ===== [22] TAIL ==================================================================== */

#ifdef __cplusplus
}
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT DEFAULT
#elif TFB__GNU
#pragma GCC pop_options
#endif
#undef TFB__PASS
#endif /* the last pass */

/* Pitfalls: these details have caused bugs, here or elsewhere.
 *   - Causal masks with T != S: the offset is explicit; the default is bottom right.
 *   - A window of W keys counts the query's own key.
 *   - Two GELUs: GELU_ERF is torch's default, GELU_TANH GPT-2's. Two pairings of rope.
 *   - +0 times a NaN value is NaN: tiles with masked keys and non-finite values take
 *     another kernel.
 *   - Scratch sizes come from running the call itself in a measuring context; what
 *     chooses sizes must not look at data pointers, which may be NULL there.
 *   - gcc fuses intrinsics unless contraction is off; -std=c99 turns it off by accident.
 *   - __AVX2__ does not say which pass this is: gcc defines it in a region, clang not.
 *   - A kernel with every case inlined in its end is twenty times its loop: ends that are
 *     rare share one function (finish), or compilers take a minute and vectors spill.
 *   - Software prefetch helps only if it follows memory in order; sixteen rows at a time
 *     of a matrix are sixteen streams, more than most prefetchers follow.
 *   - Exponentials far below 0 must not become subnormal: each would cost an assist.
 *   - kv_start moves where keys are counted from, a mask does not: left padding by
 *     kv_start keeps the bits of the unpadded sequence.
 *   - With kv_len the bottom right corner is at the last key that exists, not at S.
 *   - A page of a cache that is to be copied may not be there: a sample whose rows have
 *     all gone still ends at a position.
 *   - A convolution's blocks of 256 are counted over its taps: a carried state knows no
 *     positions. Those of tfb_long_conv are counted over its inputs: neighbouring outputs
 *     share them.
 *   - Whether a long convolution is transformed must not depend on the batch, only on its
 *     extents: the bits would change with it.
 *   - Of Helium's comparisons only "greater" is false of NaN; "less" is true of it.
 *   - The vectors of SVE and V have no size: no arrays, structs or sizeof of them.
 *
 * Changes
 *   0.6.0  tables for SSE2, SVE, RISC-V V, WebAssembly, Helium and 32-bit NEON;
 *          TFB_EXACT, TFB_SMALL, TFB_NO_CHECKS and a TFB_NO_ switch for each block; long
 *          convolutions, the CKConv and Hyena mixers
 *   0.5.0  chunked forward, tfb_scratch, causal convolution, selective scan, tfb_ssd, the
 *          QKV block with its mixers and their states, tfb_mhsa, Mamba, parameters
 *   0.4.0  KV caches: pages, rings with pinned rows, ragged batches, F16 and BF16, update
 *          at positions, crop, keep_last, select, repeat_interleave, fork, shift, mark
 *          and rollback, save and load, pairs; tfb_kv_attention. Made from tfb_kv_opts;
 *          tfb_kv_get copies; TFB_KV_BYTES takes the size of the dtype
 *   0.3.0  attention: masks, bias, ALiBi, sinks, softcap, two-sided windows, lengths and
 *          starts, packed sequences, pages, F16 and BF16 keys and values, norm and rope
 *          of q and k, weights, merging of states, splits shared out among workers;
 *          rope: scaling, explicit frequencies, several axes; tfb_l2norm
 *   0.2.0  AVX-512 and NEON tables; matmul and linear by shape class, relu and residual
 *          in registers; F16 and BF16 weights, plain and packed (tfb_pack_bytes takes the
 *          dtype); TFB_LINEAR_SCRATCH(M, N, K, workers); TFB_USE_CBLAS
 *   0.1.0  the first: tensors, matmul, linear, norms, softmax, rope, attention, KV cache
 *
 * Licence: MIT or public domain (Unlicense), as you choose; see LICENSE. */
