#!/bin/sh
# Runs tests, as many at a time as there are processors, and adds up what they print.
#   sh tests/tools/run.sh build/test_x "TFB_TEST_ISA=scalar build/test_x" tests/tools/y.sh
# Tests print lines "ok name", "FAIL name .." and "skip name: reason". Only failures, with
# what else the test printed, and skips are shown; the last line has the sums. A test that
# crashes, hangs, prints no result or has a sanitizer's report counts as a failure.
# With TFB_TEST_LOG everything they print goes to that file, "== test" before each, and
# tests/tools/support.sh comes last, which compares README with it.

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
limit=
if command -v timeout >/dev/null 2>&1; then limit="timeout 1800"; fi

add_up='
/^ok / { ok++; last = ", after: " $0; next }
/^skip / { skip++; print $0 " (" name ")" >>skips; next }
/^FAIL / { failed++ }
/runtime error:|(Address|Leak|Thread|Memory)Sanitizer/ { report = 1 }
{ line[++lines] = $0 }
END {
    if (status > 128) why = "died of signal " (status - 128)
    else if (status == 124) why = "took too long"
    else if (status > 1 || (status && !failed)) why = "exit status " status
    else if (report) why = "sanitizer report"
    else if (!ok && !failed && !skip) why = "printed no result"
    first = lines > 40 ? lines - 40 : 1
    for (i = first; (failed || why) && i <= lines; i++) print line[i]
    if (why) { print "FAIL " name " (" why last ")"; failed++ }
    print ok + 0, failed + 0, skip + 0 >>sums
}'

# Takes test after test that no other lane has taken.
lane() { # a name for the folders of these tests; tests
    lane=$1
    shift
    count=10000 # so that names sort like numbers
    for test; do
        count=$((count + 1))
        n=$lane$count
        mkdir "$work/$n" 2>/dev/null || continue
        echo "== $test" >"$work/$n/name"
        # shellcheck disable=SC2046,SC2086 # words are meant to be split
        {
            $limit env $(printf '%s\n' "$test" | sed 's/[^ ]*\.sh\( \|$\)/sh &/') \
                >"$work/$n/out" 2>&1 </dev/null
        } 2>/dev/null
        status=$?
        awk -v name="$test" -v status=$status -v sums="$work/$n/sums" \
            -v skips="$work/$n/skips" "$add_up" "$work/$n/out" >"$work/$n/shown"
        cat "$work/$n/shown"
    done
}

lanes=$(nproc 2>/dev/null || echo 1)
while [ "$lanes" -gt 0 ]; do
    lane each "$@" &
    lanes=$((lanes - 1))
done
wait
if [ "$TFB_TEST_LOG" ]; then
    for test in "$work"/each*; do cat "$test/name" "$test/out"; done >"$TFB_TEST_LOG"
    lane last tests/tools/support.sh
fi
cat "$work"/*/skips 2>/dev/null
cat "$work"/*/sums | awk '{ ok += $1; failed += $2; skip += $3 }
     END { printf "%d passed, %d failed, %d skipped\n", ok, failed, skip
           exit failed || !ok }'
