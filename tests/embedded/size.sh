#!/bin/sh
# size.sh budgets: compares budgets.txt with what there is.
# size.sh table: prints the README's table, size.sh write puts it there, size.sh check
# tells whether it is there (numbers may be 3 % off: compilers differ).
# A number counts .text and .rodata of the functions named and of all they need, but not
# of libc and libgcc: an image is linked of nothing else.
cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
printf '#define TFBLOCKS_IMPLEMENTATION\n#include "tfblocks.h"\n' >"$work/lib.c"
sections="-Os -I. -ffunction-sections -fdata-sections -fno-asynchronous-unwind-tables"
M0="arm-none-eabi-gcc -mthumb -mcpu=cortex-m0"
M4F="arm-none-eabi-gcc -mthumb -mcpu=cortex-m4 -mfloat-abi=hard -mfpu=fpv4-sp-d16"
M55="arm-none-eabi-gcc -mthumb -mcpu=cortex-m55 -mfloat-abi=hard"
RV32="riscv64-unknown-elf-gcc -march=rv32imac -mabi=ilp32 --specs=picolibc.specs"
X86="gcc -static -fno-pie -no-pie -fno-stack-protector"
WASM="clang-19 --target=wasm32-wasi --sysroot=/usr"

compile() { # compiler, switches separated by commas
    $1 $sections $(echo ",$2" | sed 's/,/ -DTFB_/g') -c "$work/lib.c" -o "$work/lib.o"
}

bytes() { # compiler, functions separated by commas
    case $1 in
    clang*)
        $1 -nostdlib "$work/lib.o" -Wl,--no-entry,--allow-undefined,-s \
            $(echo ",$2" | sed 's/,/ -Wl,--export=/g') -o "$work/image" &&
            wc -c <"$work/image"
        return ;;
    esac
    $1 -nostdlib -nostartfiles -Wl,--gc-sections,--unresolved-symbols=ignore-all \
        -Wl,--build-id=none,-e,${2%%,*} $(echo ",$2" | sed 's/,/ -Wl,-u,/g') \
        "$work/lib.o" -o "$work/image" 2>/dev/null && size "$work/image" |
        awk 'NR == 2 { print $1 }'
}

have() { command -v "${1%% *}" >/dev/null 2>&1; }

budgets() {
    failed=0
    have "$M4F" || { echo "skip budgets: no arm-none-eabi-gcc"; return 0; }
    grep -v '^#' tests/embedded/budgets.txt >"$work/budgets"
    while read -r limit name functions switches; do
        compile "$M4F" "$switches" && n=$(bytes "$M4F" "$functions") || n=999999
        if [ "$n" -le "$limit" ]; then
            echo "ok budget $name: $n of $limit bytes"
        else
            echo "FAIL budget $name: $n bytes, at most $limit"
            failed=1
        fi
    done <"$work/budgets"
    return $failed
}

dynamic=tfb_kv_init,tfb_kv_update,tfb_kv_attention,tfb_kv_get,tfb_kv_crop
dynamic=$dynamic,tfb_kv_keep_last
dynamic=$dynamic,tfb_kv_select,tfb_kv_fork,tfb_kv_shift,tfb_kv_mark,tfb_kv_rollback
dynamic=$dynamic,tfb_kv_save,tfb_kv_load
mixer=tfb_qkv_init,tfb_qkv_forward,tfb_qkv_step,tfb_mixer_state_init
rows='context and views|tfb_ctx_init_static,tfb_view4
copy, add, mul, embed, argmax|tfb_copy,tfb_add,tfb_mul,tfb_embed,tfb_argmax
all 15 functions of `tfb_map`|tfb_map
matmul|tfb_matmul
linear|tfb_linear
packing|tfb_pack,tfb_pack_open
norms|tfb_rmsnorm,tfb_layernorm,tfb_l2norm
softmax|tfb_softmax
rope, all scalings|tfb_rope
attention, all options|tfb_attention
its weights, merging|tfb_attention_weights,tfb_merge_states,tfb_merge_state
static KV cache with attention|tfb_kv_init_static,tfb_kv_append,tfb_kv_attention
dynamic KV cache, all of it|'$dynamic'
chunked forward|tfb_chunked_forward
convolution and scans|tfb_causal_conv1d,tfb_selective_scan,tfb_ssd
long convolution|tfb_long_conv
QKV block with attention|'$mixer,tfb_mhsa_init'
QKV block with Mamba|'$mixer,'tfb_mamba_init,tfb_mamba_as_mixer
QKV block with CKConv|'$mixer,'tfb_ckconv_init,tfb_ckconv_as_mixer
QKV block with Hyena|'$mixer,tfb_hyena_init,tfb_hyena_as_mixer

table() {
    echo "$rows" | cut -d'|' -f1 >"$work/table"
    for target in "$M0" "$M4F" "$M55" "$RV32" "$X86" "$WASM"; do
        have "$target" && compile "$target" SMALL,NO_MESSAGES,NO_STDLIB
        compiled=$?
        echo "$rows" | cut -d'|' -f2 | while read -r functions; do
            if [ $compiled = 0 ]; then bytes "$target" "$functions"; else echo "-"; fi
        done >"$work/column"
        paste -d'|' "$work/table" "$work/column" >"$work/wider"
        mv "$work/wider" "$work/table"
    done
    echo '| block | M0 | M4F | M55 | RV32 | x86-64 | wasm |'
    echo '|---|---|---|---|---|---|---|'
    sed 's/|/ | /g; s/^/| /; s/$/ |/' "$work/table"
}

in_readme() {
    sed -n '/^<!-- size -->$/,/^<!-- end of size -->$/p' README.md | grep '^|'
}

case $1 in
budgets) budgets ;;
table) table ;;
write)
    table >"$work/new"
    awk -v new="$work/new" '/^<!-- size -->$/ { print; print ""
            while ((getline line < new) > 0) print line; print ""; skip = 1 }
        /^<!-- end of size -->$/ { skip = 0 }
        !skip' README.md >"$work/README" && cat "$work/README" >README.md ;;
check)
    table >"$work/new"
    in_readme >"$work/old"
    awk -F'|' 'NR == FNR { for (i = 1; i <= NF; i++) old[FNR, i] = $i; lines = FNR; next }
        { for (i = 1; i <= NF; i++) {
            a = old[FNR, i]; b = $i; if (b ~ /-/ && FNR > 2) continue
            if (a != b && !(a + 0 > 0 && b + 0 > 0 && a < 1.03 * b && b < 1.03 * a)) {
                print "line " FNR ": README has" a ", there is" b; bad = 1 } } }
        END { exit bad || FNR != lines }' "$work/old" "$work/new"
    if [ $? = 0 ]; then echo "ok size_table"; else echo "FAIL size_table"; exit 1; fi ;;
*) echo "size.sh budgets | table | write | check"; exit 2 ;;
esac
