#!/bin/sh
# tests/run.sh [GROUP...]: runs tests that are built and prints a line a group, what failed, and last of all
# "N passed, N failed, N skipped". Fails if any test failed.
#
# Groups: unit (cmocka programs), fuzz (each target for FUZZ_SECONDS, where clang is), and the folders of tests/ that
# hold executable .sh or .py files. Such a file prints TAP ("ok ...", "not ok ...", "ok ... # SKIP why"), or counts as
# one test: exit status 0 passed, 77 skipped, otherwise failed. It finds the build folder in B and is run in the root
# of the tree. Environment: B, SAN, MT_LONG (1: more rounds, and tests/long), TEST_TIMEOUT (seconds for one file).
set -u
cd "$(dirname "$0")/.." || exit 1
B=${B:-build}
SAN=${SAN:-}
export B SAN
passed=0 failed=0 skipped=0
logs=$B/test-logs
failures=$logs/failures
rm -rf "$logs"
mkdir -p "$logs"
: >"$failures"

san=$PWD/tests/san
export ASAN_OPTIONS="fast_unwind_on_malloc=0:allocator_may_return_null=1:detect_stack_use_after_return=1"
export LSAN_OPTIONS="suppressions=$san/lsan.supp:print_suppressions=0"
export UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1"
export TSAN_OPTIONS="suppressions=$san/tsan.supp:ignore_noninstrumented_modules=1:allocator_may_return_null=1"

# count LOG STATUS: adds a file's tests to the group's. TAP of cmocka calls a skipped test "not ok N # SKIP".
count() {
    plan=$(sed -n 's/^1\.\.\([0-9][0-9]*\).*/\1/p' "$1" | awk '{ n += $1 } END { print n + 0 }')
    skip=$(grep -c -E '^(not )?ok\b.*# *SKIP' "$1")
    ok=$(grep -E '^ok\b' "$1" | grep -c -v '# *SKIP')
    bad=$(grep -E '^not ok\b' "$1" | grep -c -v '# *SKIP')
    if [ $((ok + bad + skip + plan)) = 0 ]; then
        case $2 in
        0) ok=1 ;;
        77) skip=1 ;;
        *) bad=1 ;;
        esac
    elif [ $((ok + bad + skip)) -lt "$plan" ]; then
        bad=$((plan - ok - skip)) # it died on its way: what did not report has failed
    elif [ "$2" != 0 ] && [ "$2" != 77 ] && [ "$bad" = 0 ]; then
        bad=1 # all well, and then a sanitizer's verdict or a crash at exit
    fi
    group_passed=$((group_passed + ok))
    group_failed=$((group_failed + bad))
    group_skipped=$((group_skipped + skip))
    [ "$bad" = 0 ]
}

# one NAME COMMAND...: runs one file of the group
one() {
    name=$1
    shift
    log=$logs/$group-$(echo "$name" | tr '/' '-').log
    timeout -k 10 "${TEST_TIMEOUT:-300}" "$@" >"$log" 2>&1 </dev/null
    status=$?
    if ! count "$log" $status; then
        [ $status = 124 ] && echo "(ran past ${TEST_TIMEOUT:-300} s)" >>"$log"
        echo "$group $name $log" >>"$failures"
        printf '  FAIL  %s %s (status %s), end of %s:\n' "$group" "$name" "$status" "$log"
        tail -n 30 "$log" | sed 's/^/        /'
    fi
}

run_unit() {
    for source in tests/unit/*/test_*.c; do
        [ -e "$source" ] || continue
        name=${source#tests/unit/}
        name=${name%.c}
        CMOCKA_MESSAGE_OUTPUT=TAP one "$name" "$B/unit/$name"
    done
}

run_fuzz() {
    seconds=${FUZZ_SECONDS:-3}
    if ! ls build/fuzz/fuzz_* >/dev/null 2>&1; then
        group_skipped=$(ls tests/fuzz/fuzz_*.c | wc -l)
        return
    fi
    for source in tests/fuzz/fuzz_*.c; do
        name=$(basename "$source" .c)
        corpus=tests/fuzz/corpus/${name#fuzz_}
        found=build/fuzz/corpus/${name#fuzz_}
        mkdir -p "$found"
        [ -d "$corpus" ] || corpus=
        # shellcheck disable=SC2086
        one "$name" "build/fuzz/$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
            -artifact_prefix=build/fuzz/"$name"- "$found" $corpus
    done
}

run_files() {
    for file in tests/"$group"/*.sh tests/"$group"/*.py; do
        if [ -x "$file" ]; then
            one "$(basename "$file")" "$file"
        fi
    done
}

default_groups() {
    echo unit
    for folder in tests/*/; do
        folder=$(basename "$folder")
        case $folder in
        unit | fuzz | lint | bench) continue ;;
        long) [ "${MT_LONG:-}" = 1 ] || continue ;;
        esac
        for file in tests/"$folder"/*.sh tests/"$folder"/*.py; do
            if [ -x "$file" ]; then
                echo "$folder"
                break
            fi
        done
    done
    [ -n "$SAN" ] || echo fuzz # its targets carry their own sanitizers
}

[ $# -gt 0 ] || set -- $(default_groups)
for group in "$@"; do
    group_passed=0 group_failed=0 group_skipped=0
    began=$(date +%s)
    case $group in
    unit | fuzz) "run_$group" ;;
    *) run_files ;;
    esac
    printf '%-10s %5d passed %5d failed %5d skipped %5d s\n' "$group" "$group_passed" "$group_failed" \
        "$group_skipped" "$(($(date +%s) - began))"
    passed=$((passed + group_passed))
    failed=$((failed + group_failed))
    skipped=$((skipped + group_skipped))
done

if [ -s "$failures" ]; then
    echo
    echo 'failed (group, test, log):'
    sed 's/^/  /' "$failures"
fi
echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
