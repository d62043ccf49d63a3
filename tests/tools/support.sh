#!/bin/sh
# README's table of what runs where, made from what was really run: the log of make test.
#   sh tests/tools/support.sh            compares README with build/test.log
#   sh tests/tools/support.sh --write    writes the table into README
# A row or a table of README that did not run here is skipped by name; what ran and is not
# claimed, or is claimed otherwise, is named too: machines differ.

cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
log=${TFB_TEST_LOG:-build/test.log}

# Which block a result of a test belongs to, the first that fits: test, names, block.
cat >"$work/rules" <<'RULES'
hash ^(copy|add|mul|embed|argmax) tensors
hash ^map functions
hash ^(matmul|pack|linear) linear
hash ^(rms|layer|l2)norm|^softmax rows
hash ^rope rope
hash ^(attention_kv|kv_) KV
hash ^(attention|merge) attention
hash ^(causal_conv|long_conv|ckconv) convolutions
hash ^(selective|ssd) scans
hash ^(qkv|params|uniform|hyena) blocks
hash ^(no_subnormals|threads|used_scratch|nothing_stale)$ -
isa ^(mm|epilogue|pack|collect)$ linear
isa ^map$ functions
isa ^(norm|softmax)$ rows
isa ^(turns|rotate)$ rope
isa ^(attention|merge)$ attention
isa ^(conv|taps|fft|spectrum)$ convolutions
isa ^scan$ scans
isa ^table$ -
golden _(act) functions
golden _(gemm|bmm|matmul|linear|ffn) linear
golden _(ln|rms|rmsnorm|layernorm|l2norm|softmax) rows
golden _rope rope
golden _(kv|decode) KV
golden _(alibi|att|attention|bias|gqa|sinks|win|xatt|merge) attention
golden _(cconv|conv1d|conv1|conv2|long|ckconv) convolutions
golden _(scan|ssd) scans
golden _(block|mamba|mha|hyena) blocks
tensor . tensors
elementary . functions
linear . linear
norms rope rope
norms . rows
attention . attention
attention_options . attention
attention_views . attention
kv . KV
kv_decode . KV
kv_errors . KV
kv_model . KV
kv_ops . KV
kv_save . KV
exchange caches|rings KV
exchange packs linear
exchange parameters blocks
chunks . chunks
scan conv convolutions
scan . scans
long_conv . convolutions
ckconv . convolutions
hyena . blocks
mixers . blocks
mixer_states . blocks
RULES

# Rows "machine;how;tables;cell;cell;.." of all that is in the log, in its order.
cat >"$work/rows.awk" <<'AWK'
function add(machine, how, table, name,  i, letter) {
    if (!(machine in hows)) order[++machines] = machine
    hows[machine] = how
    if (table && index(" " tables[machine] " ", " " table " ") == 0)
        tables[machine] = tables[machine] (tables[machine] ? " " : "") table
    letter = test == "hash" ? "h" : test == "isa" ? "k" : test == "golden" ? "g" : "u"
    for (i = 1; i <= rules; i++)
        if (rule_test[i] == test && name ~ rule_name[i]) {
            cell[machine, rule_block[i], letter] = 1
            return
        }
    if (letter ~ /[hk]/) print machine ": " test " " name >"/dev/stderr"
}
FILENAME == ARGV[1] {
    rule_test[++rules] = $1
    rule_name[rules] = $2
    rule_block[rules] = $3
    next
}
FILENAME == ARGV[2] { # the emulator of a run is a word behind its tables
    if ($1 == "run") for (i = 4; i <= NF; i++) if ($i ~ /^(qemu|wine|node)/) how[$2] = $i
    next
}
/^== / {
    job = $0
    native = ""
    if (job !~ /build\/(cc|clang)\/test_/) next
    native = arch " " (job ~ /build\/cc/ ? "gcc" : "clang")
    test = job
    sub(/.*\/test_/, "", test)
    next
}
/^ok / && native != "" {
    if ((test == "hash" && $4 ~ /^0x/) || (test == "isa" && NF == 3))
        add(native, "native", $2, $3)
    else add(native, "native", "", $2)
    next
}
/^ok / && job ~ /tests\/(targets|embedded)\// && $4 ~ /:$/ {
    test = substr($4, 1, length($4) - 1)
    if (test == "unsupported") next
    by = job ~ /embedded/ ? "board in qemu" : $2 in how ? how[$2] : "native"
    add($2, by, $3, test == "exchange" ? $7 : $5)
}
END {
    blocks = split("tensors functions linear rows rope attention KV chunks " \
                   "convolutions scans blocks", block, " ")
    letters = split("h k g u", letter, " ")
    for (i = 1; i <= machines; i++) {
        line = order[i] ";" hows[order[i]] ";" tables[order[i]]
        for (b = 1; b <= blocks; b++) {
            line = line ";"
            for (l = 1; l <= letters; l++)
                if ((order[i], block[b], letter[l]) in cell) line = line letter[l]
        }
        print line
    }
}
AWK

[ -f "$log" ] || { echo "skip support: there is no $log; make test writes it"; exit 0; }
awk -v arch="$(uname -m)" -f "$work/rows.awk" "$work/rules" tests/targets/hosted.txt \
    "$log" >"$work/ran" 2>"$work/strange"
if [ -s "$work/strange" ]; then
    sort -u "$work/strange" | head -n 20
    echo "FAIL support: results that belong to no block"
    exit 1
fi

if [ "$1" = --write ]; then
    {
        sed '/<!-- support: begin/q' README.md
        echo "| machine | runs | tables | tensors | functions | linear | rows | rope |" \
            "attention | KV | chunks | convolutions | scans | blocks |"
        echo "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
        { grep ';native;' "$work/ran"; grep -v ';native;' "$work/ran"; } |
            sed 's/;/ | /g; s/^/| /; s/$/ |/; s/|  |/| |/g; s/|  |/| |/g'
        sed -n '/<!-- support: end/,$p' README.md
    } >"$work/readme"
    cp "$work/readme" README.md
    exit
fi

sed -n '/<!-- support: begin/,/<!-- support: end/p' README.md | sed -n '4,$p' |
    sed -n 's/^| //; s/ |$//; s/ *| */;/gp' >"$work/claimed"
awk -F ';' '
function bad(what) { print "skip support " what; differ = 1 }
FILENAME == ARGV[1] { row[$1] = $0; next }
{
    ran[$1] = 1
    if (!($1 in row)) { bad($1 " ran, and has no row"); next }
    split(row[$1], claim, ";")
    for (i = 2; i <= NF; i++) {
        if (i == 3 || $i == claim[i]) continue
        without = claim[i] # some vectors lie outside of the project
        sub(/g/, "", without)
        if ($i == without) print "skip support " $1 ", column " i ": no vectors here"
        else bad($1 ", column " i ": README says \"" claim[i] "\", ran \"" $i "\"")
    }
    n = split($3, table, " ")
    for (i = 1; i <= n; i++)
        if (index(" " claim[3] " ", " " table[i] " ") == 0) bad($1 ": no table " table[i])
    n = split(claim[3], table, " ")
    for (i = 1; i <= n; i++)
        if (index(" " $3 " ", " " table[i] " ") == 0)
            print "skip support " $1 ": " table[i] " did not run here"
}
END {
    for (name in row)
        if (!(name in ran)) print "skip support " name ": did not run here"
    if (differ) print "skip support: make support writes what ran here into README"
    else print "ok support: README agrees with what ran"
}' "$work/claimed" "$work/ran"
