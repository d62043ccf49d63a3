#!/bin/sh
# The machine code of the matmul tiles on x86-64, by every compiler that is installed:
# the inner loop of each tile of R rows x V vectors has R V fma of full vectors a step
# and keeps vectors off the stack; that of the largest tile of a table reads at most one
# pointer from the stack (clang 14 does) and no more than R broadcasts and V vectors a
# step. check_style.sh looks at the stack of all functions. Argument: another directory
# with a tfblocks.h.

cd "$(dirname "$0")/../.." || exit 1
dir=${1:-.}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0
cp "$dir/tfblocks.h" "$work/tfblocks.h" || exit 1

# Lines "table R V" from the header: the lists TFB__TILES of the x86 tables.
awk '
/^#if TFB__PASS == TFB__PASS_/ { table = tolower($4); sub(/.*_/, "", table) }
/^#define TFB__TILES_32X16\(X\)/ { table = "avx512"; inside = 1; sub(/\(X\)/, "") }
/^#define TFB__TILES\(X\)/ { inside = 1; sub(/\(X\)/, "") }
inside && (table == "avx512" || table == "avx2") {
    text = $0
    while (match(text, /X\([0-9]+, [0-9]+\)/)) {
        split(substr(text, RSTART + 2, RLENGTH - 3), size, ", ")
        print table, size[1], size[2]
        text = substr(text, RSTART + RLENGTH)
    }
}
!/\\$/ { inside = 0 }' "$work/tfblocks.h" >"$work/tiles"

# Nothing but the matmul kernels is left of this: it compiles fast.
cat >"$work/kernels.c" <<'EOF'
#define TFBLOCKS_IMPLEMENTATION
#define TFB_STATIC
#include "tfblocks.h"
void use(const tfb__mm *t);
void use(const tfb__mm *t) {
    tfb__mm_avx512(t);
    tfb__mm_avx2(t);
}
EOF

# Reads tiles, then a disassembly. A loop is what lies between the target of a conditional
# backward jump and that jump, if control neither jumps away nor calls in between; inner
# loops have no other loop with fma in them.
cat >"$work/loops.awk" <<'EOF'
function fail(tile, why) { print "  tile " tile ": " why >bad; failures++ }
function on_stack(text) { return text ~ /\(%rsp/ || (framed && text ~ /\(%rbp/) }
function sums(from, to,  i, text) { # fma, those not of full vectors, and so on
    fma = narrow = spills = touched = broadcasts = loads = 0
    for (i = from; i <= to; i++) {
        text = code[i]
        if (text ~ /^vfn?m(add|sub)[0-9]*[ps][sd]/) {
            fma++
            narrow += !(text ~ /^vfmadd[0-9]*ps/ && text ~ full && text !~ other)
        }
        if (on_stack(text)) touched++
        if (on_stack(text) && text ~ /%[xyz]mm/) spills++
        if (text ~ /^vbroadcast/ || text ~ /[{]1to/) broadcasts++
        else if (text ~ /%[xyz]mm/ && text ~ /\(%/) loads++
    }
}
function straight(from, to,  i) {
    for (i = from; i < to; i++)
        if (code[i] ~ /^(jmp|call|ret)/) return 0
    return 1
}
function check_loop(tile, R, V, from, to,  steps) {
    sums(from, to)
    steps = fma / (R * V)
    if (steps != int(steps)) fail(tile, fma " fma in a loop, not a multiple of " R * V)
    if (narrow) fail(tile, narrow " of " fma " fma are not of full vectors")
    if (spills) fail(tile, spills " vectors on the stack in the loop")
    if (R * V < most) return
    shape = tile ": " fma / steps " fma, " broadcasts / steps " broadcasts, "
    shape = shape loads / steps " loads a step"
    if (touched > steps) fail(tile, touched " stack references in the loop")
    if (broadcasts > R * steps || loads > V * steps) fail(tile, shape)
}
function check_function(name,  i, k, R, V, loops, from, to, inner, seen) {
    if (!((name, "rows") in tiles)) return
    R = tiles[name, "rows"]
    V = tiles[name, "vectors"]
    for (i = 1; i <= lines; i++) {
        if (code[i] !~ /^j/ || code[i] ~ /^jmp/) continue
        split(code[i], word, " ")
        k = line[word[2]]
        if (!k || k > i || !straight(k, i)) continue
        sums(k, i)
        if (!fma) continue
        from[++loops] = k
        to[loops] = i
    }
    for (i = 1; i <= loops; i++) {
        inner = 1
        for (k = 1; k <= loops; k++)
            if (k != i && from[k] >= from[i] && to[k] <= to[i]) inner = 0
        if (!inner) continue
        check_loop(R "x" V, R, V, from[i], to[i])
        seen = 1
    }
    if (!seen) fail(R "x" V, "no loop with fma was found")
    checked++
}
BEGIN { printf "" >bad }
FNR == NR {
    if ($1 != table) next
    tile = "tfb__tile" $2 "x" $3 "_" table
    tiles[tile, "rows"] = $2
    tiles[tile, "vectors"] = $3
    wanted++
    if ($2 * $3 > most) most = $2 * $3
    next
}
/^[0-9a-f]+ <.*>:$/ {
    check_function(name)
    name = $2
    gsub(/[<>:]|\.(isra|constprop|part).*/, "", name)
    lines = framed = 0
    split("", line)
    next
}
(name, "rows") in tiles && /^ *[0-9a-f]+:\t/ {
    at = $1
    sub(/:/, "", at)
    line[at] = ++lines
    sub(/^[^\t]*\t/, "")
    code[lines] = $0
    if ($0 ~ /^mov +%rsp,%rbp/) framed = 1
}
END {
    check_function(name)
    if (checked != wanted || !wanted) fail("list", checked + 0 " of " wanted + 0 " found")
    print checked + 0 " tiles; " shape
}
EOF

result() { # name, figures; what is wrong, if anything, stands in $work/bad
    if [ -s "$work/bad" ]; then
        head -n 20 "$work/bad"
        echo "FAIL $1 ($2)"
        failed=1
    else
        echo "$1: $2"
        echo "ok $1"
    fi
}

check_table() { # compiler and flags, object, table, its registers, those of the others
    figures=$(objdump -d --no-show-raw-insn "$2" | awk -v bad="$work/bad" -v table="$3" \
        -v full="$4" -v other="$5" -f "$work/loops.awk" "$work/tiles" -)
    result "tiles of $3 by $1" "$figures"
}

if ! command -v objdump >/dev/null 2>&1; then
    echo "skip tiles: objdump is not installed"
    exit 0
fi
: >"$work/list"
n=0
for compiler in "gcc -O2" "gcc -O0" "clang-14 -O2" "clang-19 -O2"; do
    command=${compiler% *}
    if ! command -v "$command" >/dev/null 2>&1; then
        echo "skip tiles by $compiler: not installed"
        continue
    fi
    case $($command -dumpmachine) in
    x86_64*) ;;
    *) echo "skip tiles by $compiler: not for x86-64" && continue ;;
    esac
    n=$((n + 1))
    $compiler -w -c "$work/kernels.c" -o "$work/$n.o" >"$work/$n.log" 2>&1 &
    echo "$n $compiler" >>"$work/list"
done
wait # they work side by side

while read -r n compiler; do
    if [ ! -f "$work/$n.o" ]; then
        cp "$work/$n.log" "$work/bad"
        echo "nothing was compiled" >>"$work/bad"
        result "kernels by $compiler" "no object file"
        continue
    fi
    check_table "$compiler" "$work/$n.o" avx512 %zmm '%[xy]mm'
    check_table "$compiler" "$work/$n.o" avx2 %ymm '%[xz]mm'
done <"$work/list"

exit $failed
