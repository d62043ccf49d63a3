/* test.h - what every test shares. A test program is a list of RUN(function) in main;
 * each prints "ok", "FAIL" or "skip" with its name; tests/tools/run.sh adds them up. */
#ifndef TEST_H
#define TEST_H

#define TFBLOCKS_IMPLEMENTATION
#if (defined(__unix__) || defined(__APPLE__)) && !defined(__wasm__)
#define TFB_PTHREADS
#endif
#include "tfblocks.h"
#include <stdio.h>

static int t_bad; /* failed checks of the running test */
static int t_failed;
TFB__UNUSED static const char *t_skip_reason;

/* With TFB_TEST_HASTY set the first failed check ends the program: enough for scripts
 * that only ask whether a fault is noticed. */
static void t_hurry(void) {
    if (!getenv("TFB_TEST_HASTY")) return;
    fflush(stdout);
    exit(1);
}

#define CHECK(cond, ...)                                                                 \
    do {                                                                                 \
        if (!(cond)) {                                                                   \
            if (t_bad++ < 5) {                                                           \
                printf("%s:%d: ", __FILE__, __LINE__);                                   \
                printf(__VA_ARGS__);                                                     \
                printf(" [%s]\n", #cond);                                                \
            }                                                                            \
            t_hurry();                                                                   \
        }                                                                                \
    } while (0)

/* The call must return that status, and its message must hold the text. */
#define CHECK_FAILS(ctx, want, text, call)                                               \
    do {                                                                                 \
        tfb_status t_got = (call);                                                       \
        CHECK(t_got == (want), "%s gave %d (%s), wanted %d", #call, (int)t_got,          \
              (ctx)->message, (int)(want));                                              \
        CHECK(strstr((ctx)->message, text) != NULL, "\"%s\" lacks \"%s\"",               \
              (ctx)->message, text);                                                     \
    } while (0)

#define CHECK_OK(ctx, call) CHECK((call) == TFB_OK, "%s: %s", #call, (ctx)->message)

/* Inside a test: names what could not be tested here and why. */
#define SKIP(reason)                                                                     \
    do {                                                                                 \
        t_skip_reason = reason;                                                          \
        return;                                                                          \
    } while (0)

/* TFB_TEST_SKIP names tests that are left out, a comma after each. */
TFB__UNUSED static int t_left_out(const char *name) {
    const char *at = getenv("TFB_TEST_SKIP");
    const size_t n = strlen(name);
    for (; at && *at; at++) {
        if (strncmp(at, name, n) == 0 && at[n] == ',') return 1;
        at = strchr(at, ',');
        if (!at) break;
    }
    return 0;
}

#define RUN(test)                                                                        \
    do {                                                                                 \
        if (t_left_out(#test)) break;                                                    \
        t_bad = 0;                                                                       \
        t_skip_reason = NULL;                                                            \
        test();                                                                          \
        if (t_bad) printf("FAIL %s (%d checks)\n", #test, t_bad);                        \
        else if (t_skip_reason) printf("skip %s: %s\n", #test, t_skip_reason);           \
        else printf("ok %s\n", #test);                                                   \
        t_failed += t_bad != 0;                                                          \
        fflush(stdout);                                                                  \
    } while (0)

#define FINISH() return t_failed != 0

/* --- Numbers: the same on every target. --- */
static uint32_t t_seed = 1;

static uint32_t t_rand(void) { /* PCG-like; Steele & Vigna's multiplier */
    t_seed = t_seed * 0x915F77F5u + 0x9E3779B9u;
    return (t_seed ^ t_seed >> 15) * 0x2C1B3C6Du >> 3;
}

TFB__UNUSED static tfb_idx t_int(tfb_idx lo, tfb_idx hi) { /* lo <= result <= hi */
    return lo + (tfb_idx)(t_rand() % (uint32_t)(hi - lo + 1));
}

static float t_float(void) { /* -1 to 1, now and then exactly 0, -0 or 1 */
    uint32_t u = t_rand();
    if (u % 61 == 0) return u & 64 ? 0.0f : u & 128 ? -0.0f : 1.0f;
    return ((float)(u & 0xFFFFFF) - 8388608.0f) / 8388608.0f;
}

/* n floats in a heap block of exactly that size, so that sanitizers see the end. */
TFB__UNUSED static float *t_floats(tfb_idx n) {
    float *p = (float *)malloc((size_t)n * sizeof *p + (n == 0));
    tfb_idx i;
    if (!p) exit(99);
    for (i = 0; i < n; i++) p[i] = t_float();
    return p;
}

/* Emulators are slow: TFB_TEST_QUICK=n runs one in n of the cases that ask here. */
TFB__UNUSED static int t_turn(void) {
    static uint32_t turn;
    const char *quick = getenv("TFB_TEST_QUICK");
    const int n = quick ? atoi(quick) : 1;
    if (n <= 1) return 1;
    if (turn == 0) printf("note: one case in %d (TFB_TEST_QUICK)\n", n);
    turn += 0x9E3779B1u; /* no loop's rhythm */
    return (turn >> 8) % (uint32_t)n == 0;
}

/* Equal as bits; any NaN equals any NaN. Returns the first difference or n. */
TFB__UNUSED static tfb_idx t_differ(const float *a, const float *b, tfb_idx n) {
    tfb_idx i;
    for (i = 0; i < n; i++) {
        uint32_t x, y;
        memcpy(&x, a + i, 4);
        memcpy(&y, b + i, 4);
        if (x != y && ((x & 0x7FFFFFFF) <= 0x7F800000 || (y & 0x7FFFFFFF) <= 0x7F800000))
            return i;
    }
    return n;
}

#define CHECK_BITS(a, b, n, ...)                                                         \
    do {                                                                                 \
        tfb_idx t_at = t_differ(a, b, n);                                                \
        if (t_at < (n)) {                                                                \
            CHECK(0, __VA_ARGS__);                                                       \
            if (t_bad <= 5)                                                              \
                printf("  at %ld: %.9g, wanted %.9g\n", (long)t_at, (double)(a)[t_at],   \
                       (double)(b)[t_at]);                                               \
        }                                                                                \
    } while (0)

/* --- Contexts: the table named by TFB_TEST_ISA, if any; an allocator that counts. --- */
typedef struct t_heap {
    long calls, live, fail_at; /* fail_at: number of the call that returns NULL, 0 none */
} t_heap;

static void *t_alloc(void *user, void *ptr, size_t bytes) {
    t_heap *h = (t_heap *)user;
    if (bytes == 0) {
        h->live -= ptr != NULL;
        free(ptr);
        return NULL;
    }
    if (++h->calls == h->fail_at) return NULL;
    h->live += ptr == NULL;
    return realloc(ptr, bytes);
}

/* Tables without fma have the bits of a build with TFB__UNFUSED, the others do not. */
TFB__UNUSED static int t_comparable(const tfb__kernels *k) {
    return k->fused == tfb__kernels_scalar.fused;
}

/* Takes a table, if it is there and must give the bits of the others. */
TFB__UNUSED static int t_force(tfb_ctx *ctx, const char *name) {
    const tfb__kernels *before = ctx->isa;
    if (tfb_isa_force(ctx, name) == TFB_OK && t_comparable(ctx->isa)) return 1;
    ctx->isa = before;
    return 0;
}

TFB__UNUSED static void t_ctx(tfb_ctx *ctx, t_heap *heap) { /* heap may be NULL */
    const char *isa = getenv("TFB_TEST_ISA");
    tfb_ctx_init(ctx);
    if (heap) {
        memset(heap, 0, sizeof *heap);
        ctx->alloc = t_alloc;
        ctx->alloc_user = heap;
    }
    if (isa && tfb_isa_force(ctx, isa) != TFB_OK) {
        printf("FAIL %s\n", ctx->message);
        exit(1);
    }
}
#endif
