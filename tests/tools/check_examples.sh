#!/bin/sh
# Every teaching example: the expected output, at most 60 lines (80 of those with a mixer,
# 120 for a whole network); and the README's program, pasted into an empty folder. The
# README's program is built by one plain cc line, and so are some examples; the others
# take their vector tables from the object of the tests, which saves most of the time.
cd "$(dirname "$0")/../.." || exit 1
dir=$PWD/build/check_examples
mkdir -p "$dir"

report() { # report NAME STATUS
    if [ "$2" = 0 ]; then echo "ok $1"; else echo "FAIL $1"; fi
}

for cc in gcc clang-14 tcc; do
    if ! command -v $cc >/dev/null 2>&1; then
        echo "skip examples_$cc: $cc is not installed"
        continue
    fi
    case $cc in
    gcc) tables=$PWD/build/cc/tables.o ;;
    clang*) tables=$PWD/build/clang/tables.o ;;
    tcc) tables= ;;
    esac
    [ -z "$tables" ] || make -s "${tables#"$PWD"/}"
    build="$cc -O2 ${tables:+-DTFB__TABLES=2 -DTFB_STATIC $tables}"
    for example in examples/0[1-47-9]_* examples/1[1-7]_*; do
        case $cc$example in # gcc has all of them, clang some
        clang*/0[2378]_* | clang*/1[1345]_*) continue ;;
        esac
        name=$(basename "$example")
        case $cc$name in
        clang*01_* | *16_firmware) line="$cc -O2" ;;
        *) line=$build ;;
        esac
        # shellcheck disable=SC2086 # words are meant to be split
        (cd "$example" && $line main.c -o "$dir/$name") &&
            "$dir/$name" >"$dir/$name.txt" &&
            cmp -s "$dir/$name.txt" "$example/expected.txt"
        report "${name}_$cc" $?
    done

    # All 131072 tokens take seconds, so only one compiler runs them; the others compare
    # the lines of few tokens, and tcc, which does not optimise, of fewer still.
    case $cc in
    gcc) tokens=131072 end='$q' ;;
    tcc) tokens=256 end='/ 256 tokens/q' ;;
    *) tokens=4096 end='/ 4096 tokens/q' ;;
    esac
    (cd examples/06_long_context && $build main.c -o "$dir/long_$cc") &&
        "$dir/long_$cc" $tokens >"$dir/long.txt" &&
        sed "$end" "$dir/long.txt" >"$dir/got.txt" &&
        sed "$end" examples/06_long_context/expected.txt >"$dir/want.txt" &&
        cmp -s "$dir/got.txt" "$dir/want.txt"
    report "06_long_context_${tokens}_tokens_$cc" $?

    [ "$cc" = tcc ] && tokens=4096 end='/ 4096 tokens/q'
    (cd examples/10_streaming && $build main.c -o "$dir/stream_$cc") &&
        "$dir/stream_$cc" $tokens >"$dir/stream.txt" &&
        sed "$end" "$dir/stream.txt" >"$dir/got.txt" &&
        sed "$end" examples/10_streaming/expected.txt >"$dir/want.txt" &&
        cmp -s "$dir/got.txt" "$dir/want.txt"
    report "10_streaming_${tokens}_tokens_$cc" $?
done

"$dir/17_image_mixer" "$dir" >/dev/null &&
    [ "$(head -c 15 "$dir/before.pgm" "$dir/after.pgm" | grep -c "^P5 128 64 255$")" = 2 ]
report 17_image_mixer_writes_pictures $?

for example in examples/0[1-46-9]_* examples/1*_*; do
    case $example in
    */13_* | */14_* | */17_*) most=80 ;; # a mixer of one's own needs five functions
    */15_vit) most=100 ;;
    */16_firmware) most=120 ;; # its switches and a layer
    *) most=60 ;;
    esac
    [ "$(wc -l <"$example/main.c")" -le $most ]
    report "$(basename "$example")_at_most_${most}_lines" $?
done

rm -rf "$dir/empty"
mkdir "$dir/empty"
cp tfblocks.h "$dir/empty"
awk '/^```c$/ { on = 1; next } /^```$/ { on = 0 } on' README.md >"$dir/empty/prog.c"
(cd "$dir/empty" && gcc -O2 -Wall -Wextra -Werror prog.c -o prog && ./prog >out.txt) &&
    [ "$(tr '\n' ' ' <"$dir/empty/out.txt")" = "4 5 10 11 " ]
report readme_program $?
sed -n 's/^ \* \{3\}//p' tfblocks.h | awk '/^#define TFBLOCKS_IMPLEMENTATION/ { on = 1 }
    on { sub(/ +in exactly one file.*/, ""); print } /^}/ { if (on) exit }' \
    >"$dir/empty/head.c"
cmp -s "$dir/empty/head.c" "$dir/empty/prog.c"
report header_program_is_the_readme_program $?
