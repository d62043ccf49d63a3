/* Section [2]: norms, softmax and rope. */
static void fuzz_rows(fuzz *f) {
    fuzz_section(f, "tfb_norm", "tfb_rope");
}
