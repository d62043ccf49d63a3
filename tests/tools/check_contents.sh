#!/bin/sh
# The table of contents in the header's first comment must equal its banners, in order:
#    *   [1] API: BASICS    what stands there        /* ===== [1] API: BASICS ==== */
# Two spaces end a title. The API must begin before line 250. Argument: another header.

cd "$(dirname "$0")/../.." || exit 1
awk '
function bad(what) { print what; failed = 1 }
/^ \*   \[[0-9]+\] / && !banners {
    title = substr($0, 6)
    sub(/   *[^ ].*$/, "", title)
    contents[++lines] = title
}
/^\/\* =====* \[/ {
    if ($0 !~ /^\/\* ===== \[[0-9]+\] [A-Z].* =====* \*\/$/) bad("no proper banner: " $0)
    title = $0
    gsub(/^\/\* ===== | =* \*\/$/, "", title)
    banner[++banners] = title
    if (banners == 1) first = NR
    if (length($0) != width && banners > 1) bad("banner of another width: " $0)
    width = length($0)
}
END {
    if (!banners) bad("no banners")
    for (i = 1; i <= lines || i <= banners; i++) {
        if (contents[i] != banner[i])
            bad("contents \"" contents[i] "\", banner \"" banner[i] "\"")
        if (index(banner[i], "[" i "] ") != 1) bad("banner " i " is \"" banner[i] "\"")
    }
    if (first >= 250) bad("the API begins in line " first)
    print (failed ? "FAIL" : "ok") " contents equal banners (" banners ")"
    exit failed
}' "${1:-tfblocks.h}"
