#!/bin/sh
# I6 on 60 random combinations, 1,000 with MT_LONG.
exec "${B:-build}/tests/property/invariance" $([ -n "${MT_LONG:-}" ] && echo 1000 || echo 60)
