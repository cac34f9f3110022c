#!/bin/sh
# OLMoE-1B-7B's shape with random weights: how much of the memory bandwidth, measured in the same
# run, decoding reaches with one rank on all cores, and what two ranks on the same cores lose, and to
# what. Needs 15 GiB of memory and `make bench`. Arguments go to bench_step (--steps=40 ...).
set -e
cd "$(dirname "$0")/../.."
bench="${B:-build}/tests/bench/bench_step --config=tests/bench/olmoe.json --weights=dummy:1 --prompt=64"
cores=$(nproc)
for numerics in exact fast; do
    $bench --numerics=$numerics --ranks=1 --threads="$cores" "$@"
done
[ "$cores" -lt 2 ] || $bench --numerics=fast --ranks=2 --threads=$((cores / 2)) "$@"
