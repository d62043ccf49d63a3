/* 17_image_mixer: a map of the world, filtered by a long convolution. Longitude is a
 * circle, latitude ends at the poles.   cc -O2 main.c && ./a.out FOLDER
 * writes before.pgm and after.pgm there; without a folder there are no pictures. */
#define TFBLOCKS_IMPLEMENTATION
#include "../../tfblocks.h"
#include <stdio.h>

enum { LAT = 64, LON = 128, ROWS = 31, COLUMNS = 63, SHIFT = 37 };
static float map[LAT * LON], filtered[LAT * LON], rolled[LAT * LON], other[LAT * LON];
static float kernel[ROWS * COLUMNS];
static tfb_ctx ctx;

static void must(tfb_status status) {
    if (status != TFB_OK) puts(ctx.message), exit(1);
}

/* Islands, some of them across the seam of the map. */
static void draw(void) {
    static const int island[6][3] = {{20, 4, 11}, {40, 120, 9}, {50, 60, 13},
                                     {12, 80, 7}, {33, 90, 5},  {60, 20, 8}};
    for (int i = 0; i < LAT * LON; i++)
        for (int j = 0; j < 6; j++) {
            const int y = i / LON - island[j][0];
            const int x = (i % LON - island[j][1] + 3 * LON / 2) % LON - LON / 2;
            if (y * y + x * x < island[j][2] * island[j][2]) map[i] = 1;
        }
}

/* A bump whose values sum up to 1. */
static void smooth(void) {
    float sum = 0;
    for (int i = 0; i < ROWS * COLUMNS; i++) {
        const int y = i / COLUMNS - ROWS / 2, x = i % COLUMNS - COLUMNS / 2;
        const float z = 1 + (float)(y * y + x * x) / 16;
        sum += kernel[i] = 1 / (z * z);
    }
    for (int i = 0; i < ROWS * COLUMNS; i++) kernel[i] /= sum;
}

static void filter(const float *from, float *to) {
    const tfb_tensor x = tfb_view4(from, TFB_F32, 1, LAT, LON, 1); /* batch .. channels */
    const tfb_tensor k = tfb_view3(kernel, TFB_F32, ROWS, COLUMNS, 1);
    tfb_tensor y = tfb_view4(to, TFB_F32, 1, LAT, LON, 1);
    tfb_long_conv_opts o = TFB_INIT;
    o.edge[0] = TFB_EDGE_ZERO;     /* of latitude: beyond the poles is nothing */
    o.edge[1] = TFB_EDGE_CIRCULAR; /* of longitude */
    must(tfb_long_conv(&ctx, &x, &k, &o, &y));
}

static void roll(const float *from, float *to) {
    for (int i = 0; i < LAT * LON; i++) to[i / LON * LON + (i + SHIFT) % LON] = from[i];
}

static void picture(const char *folder, const char *name, const float *x) {
    char path[500];
    FILE *f;
    snprintf(path, sizeof path, "%s/%s.pgm", folder, name);
    if (!(f = fopen(path, "wb"))) perror(path), exit(1);
    fprintf(f, "P5 %d %d 255\n", LON, LAT);
    for (int i = 0; i < LAT * LON; i++) putc((int)(x[i] * 255 + 0.5f), f);
    fclose(f);
}

int main(int argc, char **argv) {
    float off = 0, most = 0;
    must(tfb_ctx_init(&ctx));
    draw(), smooth(), filter(map, filtered);
    roll(map, rolled), filter(rolled, other), roll(filtered, rolled);
    for (int i = 0; i < LAT * LON; i++) {
        const float d = other[i] - rolled[i];
        off = d * d > off ? d * d : off;
        most = filtered[i] > most ? filtered[i] : most;
    }
    printf("land is 1, the highest after the filter %.3f\n", most);
    printf("row 20 at the seam: %.3f %.3f\n", filtered[21 * LON - 1], filtered[20 * LON]);
    printf("rolled by %d before or after the filter: %s\n", SHIFT,
           off < 1e-12f ? "the same within 1e-6" : "not the same");
    if (argc > 1) picture(argv[1], "before", map), picture(argv[1], "after", filtered);
    tfb_ctx_free(&ctx);
}
