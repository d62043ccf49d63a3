#!/bin/sh
# What can be measured of style: line width, blanks, words that mean "not done", length
# of functions, stack, clang-format. Prints figures of the header and ok / FAIL / skip.

cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0
width=90
longest=120
stack=4096
format_version=14 # other versions of clang-format break lines elsewhere

result() { # name; what is wrong, if anything, stands in $work/bad
    if [ -s "$work/bad" ]; then
        head -n 20 "$work/bad"
        echo "FAIL $1"
        failed=1
    else
        echo "ok $1"
    fi
}

sources() { # find's names
    find . \( -name .git -o -name build \) -prune -o -type f \( "$@" \) -print | sort
}

sources -name '*.[ch]' -o -name '*.cpp' -o -name '*.sh' -o -name '*.py' >"$work/sources"
sources -name '*.[ch]' -o -name '*.cpp' >"$work/c_sources"

tr '\n' '\0' <"$work/sources" | xargs -0 awk -v width=$width '
    length($0) > width { print FILENAME ":" FNR ": " length($0) " columns" }
    /\t/ { print FILENAME ":" FNR ": tab" }
    /[ \r]$/ { print FILENAME ":" FNR ": blank at the end" }' >"$work/bad"
result "lines of at most $width columns, no tabs, no blanks at the end"

tr '\n' '\0' <"$work/sources" | xargs -0 awk '
    BEGIN { banned = "(^|[^A-Za-z_])(TO" "DO|FIX" "ME|XX" "X)([^A-Za-z_]|$)" }
    $0 ~ banned { print FILENAME ":" FNR ": " $0 }' >"$work/bad"
result "nothing is left to do"

# --- The header's functions (begin and end in column 1) and comments. ---
awk -v longest=$longest -v bad="$work/bad" '
function name_of(text,  word) {
    word = text
    if (word ~ /[A-Z]\(/) sub(/\)\(.*/, ")", word)
    else sub(/\(.*/, "", word)
    sub(/.*[ *]/, "", word)
    return word
}
BEGIN { printf "" >bad }
{ comment = inside || /\/\*/ }
/\/\*/ { inside = 1 }
/\*\// { inside = 0 }
comment { comments++ }
!body && !comment && /^[A-Za-z]/ { start = FNR; head = "" }
!body && start { head = head $0 }
!body && start && /;$/ { start = 0 }
!body && start && /{$/ {
    if (head ~ /\(/ && head !~ /= {$/ && head !~ /^(typedef|extern)/) body = 1
    else start = 0
}
body && /^}/ {
    size[++functions] = FNR - start + 1
    if (size[functions] > top) { top = size[functions]; top_name = name_of(head) }
    if (size[functions] > longest)
        print FILENAME ":" start ": " name_of(head) " has " size[functions] " lines" >bad
    body = start = 0
}
END {
    for (i = 2; i <= functions; i++)
        for (j = i; j > 1 && size[j - 1] > size[j]; j--) {
            t = size[j]; size[j] = size[j - 1]; size[j - 1] = t
        }
    printf "%d lines, %d %% of them with comments; ", FNR, 100 * comments / FNR + 0.5
    printf "%d functions, median %d lines, ", functions, size[int((functions + 1) / 2)]
    printf "longest %d: %s\n", top, top_name
    if (functions < 50) print "only " functions " functions were found" >bad
}' tfblocks.h
result "no function of more than $longest lines"

# --- Stack. ---
if command -v gcc >/dev/null 2>&1; then
    gcc -O2 -fstack-usage -I. -c tests/compile/impl.c -o "$work/impl.o" >"$work/bad" 2>&1
    sort -t "$(printf '\t')" -k 2,2nr "$work"/*.su | awk -F '\t' -v limit=$stack \
        -v bad="$work/bad" '
        { sub(/.*:/, "", $1) }
        NR == 1 { print "largest stack frame " $2 " bytes: " $1 }
        $2 > limit || $3 == "dynamic" { print $1 ": " $2 " bytes, " $3 >bad }
        END { if (!NR) print "no stack usage was reported" >bad }'
    result "no stack frame above $stack bytes"
else
    echo "skip stack frames: gcc is not installed"
fi

# --- clang-format. ---
format=
for f in clang-format-$format_version clang-format; do
    command -v $f >/dev/null 2>&1 || continue
    case "$($f --version)" in
    *" $format_version."*) format=$f && break ;;
    esac
done
if [ -n "$format" ]; then
    tr '\n' '\0' <"$work/c_sources" | xargs -0 $format --dry-run -Werror >"$work/bad" 2>&1
    result "clang-format changes nothing"
else
    echo "skip clang-format: version $format_version is not installed"
fi
exit $failed
