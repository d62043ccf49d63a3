#!/bin/sh
# The main job from outside: the example built by one plain cc line writes the expected
# text under every table, and reaches the figure that its training script reports.
cd "$(dirname "$0")/../.." || exit 1
shared=${TFB_SHARED:-$PWD/../shared}
text=$shared/data/texts/tinyshakespeare.txt
dir=build/check_generate
mkdir -p $dir
cp examples/05_generate/model.bin $dir/model.bin

report() { # report NAME STATUS
    if [ "$2" = 0 ]; then echo "ok $1"; else echo "FAIL $1"; fi
}

for cc in gcc clang-14 tcc; do
    if ! command -v $cc >/dev/null 2>&1; then
        echo "skip generate_$cc: $cc is not installed"
        continue
    fi
    (cd examples/05_generate && $cc -O2 main.c -o ../../$dir/generate_$cc)
    (cd $dir && ./generate_$cc --steps 120 >$cc.txt 2>$cc.err)
    head -c "$(($(wc -c <$dir/$cc.txt) - 1))" $dir/$cc.txt >$dir/$cc.want
    head -c "$(wc -c <$dir/$cc.want)" examples/05_generate/expected.txt |
        cmp -s - $dir/$cc.want
    report generate_$cc $?
done

(cd $dir && ./generate_gcc >default.txt 2>default.err)
cmp -s $dir/default.txt examples/05_generate/expected.txt
report generate_expected_text $?
(cd $dir && ./generate_gcc --isa scalar >scalar.txt 2>scalar.err)
cmp -s $dir/scalar.txt examples/05_generate/expected.txt
report generate_expected_text_scalar $?
grep -q 'tokens/s, table scalar, [0-9]* bytes of scratch' $dir/scalar.err
report generate_prints_figures $?

if [ -f "$text" ]; then
    (cd $dir && ./generate_gcc --eval "$text") >$dir/eval.txt
    awk '{ exit !($1 <= 1.65 && $1 > 1.46607 - 0.001 && $1 < 1.46607 + 0.001) }' \
        $dir/eval.txt
    report generate_eval $?
else
    echo "skip generate_eval: the training text is not there"
fi
