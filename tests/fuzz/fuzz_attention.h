/* Section [3]: attention with all options, its weights, merging of states. */
static void fuzz_attention(fuzz *f) {
    fuzz_section(f, "tfb_attention", "tfb_merge_state");
}
