#!/bin/sh
# make lint: formatting, clang-tidy, the include rules, the limits. Says what it lacks; fails on any breach.
# clang-tidy looks only at files that changed since it last passed them (stamps in build/tidy).
set -u
cd "$(dirname "$0")/../.." || exit 1
bad=0

step() {
    name=$1
    shift
    if "$@"; then
        printf '  \342\234\223 %s\n' "$name"
    else
        printf '  \342\234\227 %s\n' "$name"
        bad=1
    fi
}

for tool in git python3 clang-format clang-tidy; do
    if ! command -v $tool >/dev/null; then
        echo "make lint needs $tool: apt-get install --no-install-recommends git python3 clang-format clang-tidy"
        exit 1
    fi
done

formatting() {
    git ls-files '*.c' '*.h' | xargs clang-format --dry-run -Werror --ferror-limit=3
}

scripts() {
    git ls-files '*.py' | xargs python3 -c '
import sys
for name in sys.argv[1:]:
    compile(open(name, encoding="utf8").read(), name, "exec")' || return 1
    for script in $(git ls-files '*.sh' .ci/run); do
        "$(sed -n '1s/^#!.*[/ ]//p' "$script")" -n "$script" || return 1
    done
}

step 'include rules' tests/lint/includes.sh
step 'limits and banned words' tests/lint/limits.py
step 'formatting (make format applies it)' formatting
step 'scripts parse' scripts
step 'clang-tidy' "${MAKE:-make}" -s -k -j"$(nproc)" B=build tidy
exit $bad
