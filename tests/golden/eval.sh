#!/bin/sh
# The golden Mixtral through the real step path: 1, 2 and 4 ranks, and each instruction set.
model=tests/golden/mixtral
n=0

check() {
    n=$((n + 1))
    text=$("${B:-build}/moetuner" eval --model $model --golden $model/golden.safetensors "$@" 2>&1)
    status=$?
    echo "$text" | sed 's/^/# /'
    case "$status $text" in
    0*) echo "ok $n - eval $*" ;;
    *"this processor has"*) echo "ok $n - eval $* # SKIP not on this processor" ;;
    *) echo "not ok $n - eval $*" ;;
    esac
}

echo 1..7
for ranks in 1 2 4; do
    check --ranks $ranks
done
for isa in portable avx2 avx512; do
    check --isa $isa --chunk 7
done
check --ranks 8 --threads 2 --chunk 16
