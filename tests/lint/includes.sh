#!/bin/sh
# The include rules of docs/architecture.md, "Directories": which directory may include which, and which files may see a
# library from outside. Prints each breach as file:line; fails if there is one.
set -u
cd "$(dirname "$0")/../.." || exit 1

git ls-files '*.c' '*.h' '*.cu' '*.cuh' | grep -v '^tests/fuzz/' | xargs awk '
BEGIN {
    may["api"] = "api"
    may["placement"] = "placement api"
    may["scheduler"] = "scheduler placement api"
    may["daemon"] = "daemon scheduler placement api"
    may["cli"] = "cli daemon scheduler placement api"
    may["kernels"] = "kernels api"
    may["worker"] = "worker kernels api"

    # Headers from outside, and the only files that may see them.
    only["microhttpd.h"] = "^(daemon/http[a-z_]*\\.[ch])$"
    only["lpsolve/lp_lib.h"] = "^placement/"
    only["mpi.h"] = "^(worker/|tests/mpi/)"
    only["nccl.h"] = "^worker/ep_nccl\\.[a-z]+$"
    only["cuda_runtime.h"] = "^(kernels/cuda/|worker/ep_(nccl|ipc)\\.[a-z]+$)"
    only["cuda_runtime_api.h"] = only["cuda_runtime.h"]
    only["pcre2.h"] = "^daemon/tokenizer"
    only["utf8proc.h"] = "^daemon/(tokenizer|utf8|unicode)"
    only["curl/curl.h"] = "^(cli/bench|tests/)"

    # placement is pure: no threads, no clocks, no processes.
    impure = " pthread.h time.h sys/time.h unistd.h sys/wait.h sys/socket.h signal.h "
}

function breach(why) {
    printf "%s:%d: %s\n", FILENAME, FNR, why
    bad = 1
}

# The directory whose rules a file obeys: its own; that of the code it tests; none for other tests.
function owner(path,    parts) {
    split(path, parts, "/")
    if (parts[1] == "tests")
        return parts[2] == "unit" ? parts[3] : ""
    return parts[1]
}

/^[ \t]*#[ \t]*include[ \t]*[<"]/ {
    header = $0
    sub(/^[^<"]*[<"]/, "", header)
    sub(/[>"].*$/, "", header)
    split(header, parts, "/")
    top = parts[1]
    mine = owner(FILENAME)
    if ((header in only) && FILENAME !~ only[header])
        breach("<" header "> is not for this file")
    if (mine == "placement" && FILENAME !~ /^tests/ && index(impure, " " header " "))
        breach("placement is pure, and includes <" header ">")
    if ($0 ~ /"/ && header !~ /\// && FILENAME !~ /^tests\//)
        breach("\"" header "\": include from the root, \"dir/file.h\"")
    if (!(top in may))
        next
    if ($0 !~ /"/)
        breach("<" header "> is ours: use quotes")
    if (mine != "" && index(" " may[mine] " ", " " top " ") == 0)
        breach(mine " may not include " top " (" header ")")
}

END { exit bad }'
