#!/bin/bash
# try-run.sh: `make run` as a user has it. Waits until it is ready, runs the curl that it prints, presses Ctrl-C, and
# looks for what is left: it fails unless all ends within a second and no process, file or shared memory remains.
# ARGS is passed on.
set -eu
cd "$(dirname "$0")/.."
mark=$(cat /proc/sys/kernel/random/uuid)
work=$(mktemp -d)
mkdir "$work/tmp"
trap 'rm -rf "$work"' EXIT

shared_memory() { find /dev/shm -mindepth 1 2>/dev/null | sort; }
# Everything that descends from this run has the mark in its environment.
left() { grep -l -z -a "^TRY_RUN=$mark\$" /proc/[0-9]*/environ 2>/dev/null | cut -d / -f 3; }
now_ms() { echo $(($(date +%s%N) / 1000000)); }
fail() {
    echo "try-run: $1" >&2
    exit 1
}

shared_memory >"$work/shm.before"
echo '$ make run'
began=$(now_ms)
# A group of its own, as a terminal gives it; a background command would ignore SIGINT otherwise.
TRY_RUN=$mark TMPDIR=$work/tmp setsid env --default-signal=INT make --no-print-directory run ARGS="${ARGS:-}" \
    >"$work/log" 2>&1 </dev/null &
group=$!
until grep -q 'curl -s' "$work/log"; do
    kill -0 $group 2>/dev/null || { cat "$work/log"; fail 'make run ended before it was ready'; }
    sleep 0.05
done
ready=$(now_ms)
cat "$work/log"
curl=$(sed -n 's/.*\(curl -s .*\)/\1/p' "$work/log" | head -n 1)
echo "(ready after $((ready - began)) ms)"
echo "\$ $curl"
sh -c "$curl" || fail 'curl failed'
echo
echo '^C'
pressed=$(now_ms)
kill -INT -- -$group
wait $group && status=0 || status=$?
while [ -n "$(left)" ] && [ $(($(now_ms) - pressed)) -lt 5000 ]; do sleep 0.02; done
took=$(($(now_ms) - pressed))
echo "(all ended after $took ms, make's status $status)"
for pid in $(left); do tr '\0' ' ' <"/proc/$pid/cmdline"; echo; done
[ -z "$(left)" ] || fail 'processes are left'
[ $took -lt 1000 ] || fail 'it took more than a second'
[ -z "$(find "$work/tmp" -mindepth 1)" ] || fail "files are left: $(find "$work/tmp" -mindepth 1)"
shared_memory | comm -13 "$work/shm.before" - | grep . && fail 'shared memory is left'
echo 'No process, file or shared memory is left.'
