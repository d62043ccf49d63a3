/* For the thread sanitizer: every operation of ops.h on a pool of threads, from two
 * contexts in two threads at once that share their inputs. The bits are those of one
 * worker. */
#include "../test.h"
#include "../ops.h"

typedef struct half {
    const op_call *c;
    op_call own; /* outputs of its own */
    tfb_ctx ctx;
} half;

static void half_new(half *h, const op_call *c) {
    int i;
    h->c = c;
    h->own = *c;
    t_ctx(&h->ctx, NULL);
    CHECK_OK(&h->ctx, tfb_ctx_threads(&h->ctx, 3, 100));
    for (i = 0; i < c->n; i++) {
        if (!c->arg[i].writes || !c->bytes[i]) continue;
        h->own.mem[i] = (char *)memcpy(op_bytes(c->bytes[i]), c->first[i], c->bytes[i]);
        h->own.t[i].data = h->own.mem[i];
    }
}

static void *half_run(void *user) {
    half *h = (half *)user;
    CHECK_OK(&h->ctx, op_do(&h->own, &h->ctx, h->c->op->run));
    return NULL;
}

static void half_free(half *h) {
    int i;
    for (i = 0; i < h->c->n; i++) {
        if (h->own.mem[i] == h->c->mem[i]) continue;
        CHECK(op_same(h->own.mem[i], h->c->result[i], h->c->bytes[i], h->c->t[i].dtype),
              "threads: %s", op_text(h->c));
        free(h->own.mem[i]);
    }
    tfb_ctx_free(&h->ctx);
}

static void threads_of(const op *o) {
    char letters[32];
    op_call c = op_begin(o);
    int i, n = op_letters(&c, letters);
    half a, b;
    pthread_t thread;
    for (i = 0; i < n; i++) c.dim[(int)letters[i]] = t_int(3, 9);
    for (i = 0; i < OP_PICKS && o->picks[i]; i++)
        c.pick[i] = (int)t_int(0, (o->tame[i] ? o->tame[i] : o->picks[i]) - 1);
    op_shape(&c);
    op_alloc(&c);
    if (op_check(&c, 1, 0) == TFB_OK && !c.dry) {
        op_restore(&c);
        half_new(&a, &c);
        half_new(&b, &c);
        if (pthread_create(&thread, NULL, half_run, &b)) exit(99);
        half_run(&a);
        pthread_join(thread, NULL);
        half_free(&a);
        half_free(&b);
    }
    op_end(&c);
}

static void test_threads_of_all(void) {
    int i, it;
    for (i = 0; i < OPS; i++)
        for (it = 0; it < 4; it++) threads_of(&ops[i]);
}

int main(void) {
    RUN(test_threads_of_all);
    FINISH();
}
