/* Section [4]: convolution and scans. */
static void fuzz_scans(fuzz *f) {
    fuzz_section(f, "tfb_causal_conv1d", "tfb_ssd");
}
