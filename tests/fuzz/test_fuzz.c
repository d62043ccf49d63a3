/* All fuzz targets in one program. It replays the corpus of each, tests/fuzz/fuzz_kv.txt,
 * a line of hexadecimal bytes an input; arguments: a target and files to replay instead.
 * With -DFUZZING and libFuzzer the target is the one that the program is named after;
 * "fuzz unpack fuzz_kv folder" makes files of a corpus. See run.sh. */
#include "../test.h"
#include "../ops.h"
#include "../unit/cache.h"
#include "../unit/mixers.h"
#include "fuzz.h"
#include "fuzz_basics.h"
#include "fuzz_linear.h"
#include "fuzz_rows.h"
#include "fuzz_attention.h"
#include "fuzz_kv.h"
#include "fuzz_chunks.h"
#include "fuzz_mixers.h"
#include "fuzz_scans.h"

typedef struct target {
    const char *name;
    void (*run)(fuzz *f);
} target;

static const target targets[] = {
    {"fuzz_basics", fuzz_basics}, {"fuzz_linear", fuzz_linear},
    {"fuzz_rows", fuzz_rows},     {"fuzz_attention", fuzz_attention},
    {"fuzz_scans", fuzz_scans},   {"fuzz_kv", fuzz_kv},
    {"fuzz_chunks", fuzz_chunks}, {"fuzz_mixers", fuzz_mixers},
};
enum { TARGETS = (int)(sizeof targets / sizeof *targets) };

static void target_run(const target *t, const uint8_t *data, size_t size) {
    fuzz f;
    f.at = data;
    f.end = data + size;
    t_seed = 1;
    t->run(&f);
}

static const target *target_find(const char *name) {
    int i;
    for (i = 0; i < TARGETS; i++)
        if (!strcmp(targets[i].name, name)) return &targets[i];
    printf("FAIL there is no target %s\n", name);
    exit(1);
}

static FILE *corpus_open(const char *name) {
    char path[128];
    snprintf(path, sizeof path, "tests/fuzz/%s.txt", name);
    return fopen(path, "r");
}

/* The bytes of the next line; -1 behind the last. */
static int corpus_next(FILE *file, uint8_t *bytes, int most) {
    int n = 0, c, digit, half = 0;
    uint8_t high = 0;
    for (c = fgetc(file); c != EOF && c != '\n'; c = fgetc(file)) {
        digit = c <= '9' ? c - '0' : c - 'a' + 10;
        if (half && n < most) bytes[n++] = (uint8_t)(high << 4 | digit);
        high = (uint8_t)digit;
        half = !half;
    }
    return c == EOF ? -1 : n;
}

#ifdef FUZZING
static const target *chosen;

static void unpack(const char *name, const char *folder) {
    uint8_t bytes[4096];
    FILE *file = corpus_open(name), *to;
    char path[512];
    int n, i = 0;
    while (file && (n = corpus_next(file, bytes, (int)sizeof bytes)) >= 0) {
        snprintf(path, sizeof path, "%s/%04d", folder, i++);
        to = fopen(path, "wb");
        if (!to || fwrite(bytes, 1, (size_t)n, to) != (size_t)n) exit(1);
        fclose(to);
    }
    if (file) fclose(file);
    exit(0);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    const char *name = strrchr(**argv, '/') ? strrchr(**argv, '/') + 1 : **argv;
    if (*argc == 4 && !strcmp((*argv)[1], "unpack")) unpack((*argv)[2], (*argv)[3]);
    chosen = target_find(name);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    target_run(chosen, data, size);
    fflush(stdout);
    if (t_bad) abort();
    return 0;
}
#else
static void replay(const target *t) {
    uint8_t bytes[4096];
    FILE *file = corpus_open(t->name);
    int n, inputs = 0;
    t_bad = 0;
    if (!file) {
        printf("skip %s: no corpus; run from the repository's folder\n", t->name);
        return;
    }
    while ((n = corpus_next(file, bytes, (int)sizeof bytes)) >= 0 && t_bad < 5) {
        uint8_t *exact = (uint8_t *)memcpy(op_bytes((size_t)n), bytes, (size_t)n);
        const int before = t_bad;
        target_run(t, exact, (size_t)n);
        inputs++;
        if (t_bad > before) printf("  input %d of %s\n", inputs, t->name);
        free(exact);
    }
    fclose(file);
    if (t_bad) printf("FAIL %s (%d checks)\n", t->name, t_bad);
    else printf("ok %s: %d inputs\n", t->name, inputs);
    t_failed += t_bad != 0;
}

/* A finding, looked at. */
static void replay_file(const target *t, const char *path) {
    uint8_t bytes[4096];
    FILE *file = fopen(path, "rb");
    size_t n;
    if (!file) exit(1);
    n = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    target_run(t, bytes, n);
    t_failed += t_bad != 0;
}

int main(int argc, char **argv) {
    int i;
    for (i = 2; i < argc; i++) replay_file(target_find(argv[1]), argv[i]);
    for (i = 0; i < TARGETS && argc < 3; i++)
        if (argc < 2 || target_find(argv[1]) == &targets[i]) replay(&targets[i]);
    FINISH();
}
#endif
