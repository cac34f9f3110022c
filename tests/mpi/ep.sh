#!/bin/sh
# tests/mpi/test_ep.c at several numbers of ranks. The options are those that the daemon gives mpirun.
set -u
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
echo 1..4
n=0
for ranks in 1 2 3 8; do
    n=$((n + 1))
    if mpirun -n $ranks --oversubscribe --bind-to none --mca pml ob1 --mca btl self,vader \
        --mca btl_vader_single_copy_mechanism none --mca mpi_yield_when_idle 1 "$B/tests/mpi/test_ep" \
        $([ "${MT_LONG:-}" = 1 ] && echo 3000); then
        echo "ok $n - exchanges over $ranks ranks"
    else
        echo "not ok $n - exchanges over $ranks ranks"
    fi
done
