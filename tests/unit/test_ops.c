/* What holds for every function of the table in ops.h: all shapes up to 5 in every
 * dimension, in blocks of exactly their size, against the plain loops and the other
 * instruction set; memory that is not to be had, scratch that is one byte too small;
 * sizes that overflow; the caller's floating-point mode. */
#include "../test.h"
#include "../ops.h"

#define SMALL 5 /* the largest extent of "all shapes" */

#if defined(__SANITIZE_ADDRESS__)
#define EVERY 1 /* shape under the address sanitizer, where it matters; else some */
#else
#define EVERY 23
#endif

/* Options at random, of a call that is meant. */
static void op_options(op_call *c) {
    int i;
    for (i = 0; i < OP_PICKS && c->op->picks[i]; i++) {
        const int n = c->op->tame[i] ? c->op->tame[i] : c->op->picks[i];
        c->pick[i] = (int)t_int(0, n - 1);
    }
    for (i = 0; i < c->n; i++)
        if (c->arg[i].optional && !c->arg[i].rare && !t_int(0, 3)) c->has |= 1u << i;
}

static void op_make(op_call *c) {
    op_options(c);
    op_shape(c);
    op_alloc(c);
}

TFB__UNUSED static op_call op_random(const op *o, tfb_idx most) {
    op_call c = op_begin(o);
    char letters[32];
    int i, n = op_letters(&c, letters);
    for (i = 0; i < n; i++) c.dim[(int)letters[i]] = t_int(0, most);
    op_make(&c);
    return c;
}

/* Each shape, now and then in all contexts. */
static void shapes_of(const op *o) {
    const op_call empty = op_begin(o);
    char letters[32];
    const int n = op_letters(&empty, letters);
    long all = 1, it, good = 0, bad = 0;
    int i;
    for (i = 0; i < n; i++) all *= SMALL + 1;
    for (it = 0; it < all && t_bad < 5; it++) {
        op_call c = empty;
        long rest = it;
        if (EVERY > 1 && t_int(0, EVERY - 1)) continue;
        for (i = 0; i < n; i++, rest /= SMALL + 1)
            c.dim[(int)letters[i]] = rest % (SMALL + 1);
        op_make(&c);
        if (op_check(&c, 1 + (int)(it & 1), it % 64 == 0) == TFB_OK) good++;
        else bad++;
        op_end(&c);
    }
    printf("%s: %ld shapes, %ld of them refused\n", o->name, good + bad, bad);
}

static void test_all_shapes(void) {
    int i;
    for (i = 0; i < OPS; i++) shapes_of(&ops[i]);
}

int main(void) {
    RUN(test_all_shapes);
    FINISH();
}
