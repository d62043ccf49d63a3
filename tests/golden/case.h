/* case.h - reads one reference case: an operation, its attributes, inputs in float32 or
 * int32, outputs in float64. It is a folder with meta.txt and raw little-endian files,
 * or a stretch of a text file where "-" stands for a file name and the numbers follow.
 *
 *   case NAME
 *   op NAME ...
 *   attr NAME TYPE VALUE ...
 *   input SLOT NAME DTYPE NDIM EXTENT .. FILE
 *   output SLOT NAME float64 NDIM EXTENT .. FILE
 *   end                                          needed in a text file only */
#ifndef CASE_H
#define CASE_H

#define CASE_TENSORS 40
#define CASE_ATTRS   24

typedef struct case_tensor {
    char kind, name[32], dtype[16]; /* kind: 'i' input, 'o' output */
    tfb_tensor t;                   /* an output's data are doubles, its dtype says F32 */
} case_tensor;

typedef struct ref_case {
    char name[64], op[32];
    case_tensor tensor[CASE_TENSORS];
    struct {
        char name[24], text[64];
    } attr[CASE_ATTRS];
    int tensors, attrs;
} ref_case;

static void case_free(ref_case *c) {
    while (c->tensors > 0) free(c->tensor[--c->tensors].t.data);
}

/* What a little-endian file holds becomes this machine's. */
static void case_from_little(char *p, size_t n, size_t bytes) {
    size_t i, j;
    for (i = 0; TFB__BIG_ENDIAN && i < n; i++, p += bytes)
        for (j = 0; j < bytes / 2; j++) {
            const char c = p[j];
            p[j] = p[bytes - 1 - j];
            p[bytes - 1 - j] = c;
        }
}

/* n numbers of the tensor's dtype from text or from a raw file. */
static int case_data(case_tensor *e, size_t n, FILE *text, const char *dir,
                     const char *file) {
    const size_t bytes = strcmp(e->dtype, "float64") == 0 ? 8 : 4;
    char path[512], more;
    size_t i, got;
    FILE *f;
    e->t.data = malloc(n * bytes + 1);
    if (!e->t.data) return -1;
    if (strcmp(file, "-") == 0) {
        for (i = 0; i < n; i++)
            if (bytes == 8 ? fscanf(text, "%lf", (double *)e->t.data + i) != 1
                : e->t.dtype == TFB_I32 ? fscanf(text, "%d", (int *)e->t.data + i) != 1
                                        : fscanf(text, "%f", (float *)e->t.data + i) != 1)
                return -1;
        return 0;
    }
    snprintf(path, sizeof path, "%s/%s", dir, file);
    f = fopen(path, "rb");
    if (!f) return -1;
    got = fread(e->t.data, bytes, n, f);
    if (fread(&more, 1, 1, f)) got = n + 1;
    fclose(f);
    case_from_little((char *)e->t.data, n, bytes);
    return got == n ? 0 : -1;
}

/* "SLOT NAME DTYPE NDIM EXTENT .. FILE" */
static int case_add(ref_case *c, char kind, const char *p, FILE *text, const char *dir) {
    case_tensor *e = c->tensor + c->tensors;
    char file[64];
    long extent;
    size_t n = 1;
    int at, i;
    if (c->tensors == CASE_TENSORS) return -1;
    memset(e, 0, sizeof *e);
    c->tensors++;
    e->kind = kind;
    if (sscanf(p, "%*d %31s %15s %d%n", e->name, e->dtype, &e->t.ndim, &at) != 3)
        return -1;
    if (e->t.ndim < 0 || e->t.ndim > TFB_MAX_DIMS) return -1;
    for (i = 0; i < e->t.ndim; i++) {
        p += at;
        if (sscanf(p, "%ld%n", &extent, &at) != 1 || extent < 0 || extent > 1 << 20)
            return -1;
        e->t.shape[i] = extent;
        n *= (size_t)extent;
    }
    if (n > 1 << 22 || sscanf(p + at, "%63s", file) != 1) return -1;
    tfb__dense_strides(&e->t);
    e->t.dtype = strcmp(e->dtype, "int32") == 0 ? TFB_I32 : TFB_F32;
    if (strcmp(e->dtype, kind == 'o' ? "float64" : "float32") && e->t.dtype != TFB_I32)
        return -1;
    return case_data(e, n, text, dir, file);
}

/* One case from an open file; 0 read, 1 no more cases, -1 malformed. */
static int case_read(ref_case *c, FILE *f, const char *dir) {
    char line[1024], key[16];
    int at, started = 0, bad = 0;
    memset(c, 0, sizeof *c);
    while (!bad && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%15s%n", key, &at) != 1 || key[0] == '#') continue;
        if (!strcmp(key, "end")) break;
        started = 1;
        if (!strcmp(key, "case")) bad = sscanf(line + at, "%63s", c->name) != 1;
        else if (!strcmp(key, "op")) bad = sscanf(line + at, "%31s", c->op) != 1;
        else if (!strcmp(key, "attr") && c->attrs < CASE_ATTRS)
            bad = sscanf(line + at, "%23s %*s %63[^\n]", c->attr[c->attrs].name,
                         c->attr[c->attrs].text) != 2 ||
                  ++c->attrs > CASE_ATTRS;
        else if (!strcmp(key, "input") || !strcmp(key, "output"))
            bad = case_add(c, key[0], line + at, f, dir);
    }
    if (bad) case_free(c);
    return bad ? -1 : !started;
}
#endif
