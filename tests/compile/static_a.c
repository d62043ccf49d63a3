/* TFB_STATIC: each of these two files has its own copy of the library. */
#define TFB_STATIC
#define TFBLOCKS_IMPLEMENTATION
#include "tfblocks.h"

int static_b(float *y);

int main(void) {
    float y[2] = {1, -1}, z[2] = {1, -1};
    tfb_tensor t = tfb_view1(y, TFB_F32, 2);
    tfb_ctx ctx;
    if (tfb_ctx_init(&ctx) || tfb_map(&ctx, TFB_FN_EXP, &t, &t)) return 1;
    if (tfb_add(&ctx, &t, &t, &t) || static_b(z)) return 2;
    tfb_ctx_free(&ctx);
    return memcmp(y, z, sizeof y) != 0;
}
