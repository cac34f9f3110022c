#!/bin/sh
# detect.sh FILE: prints what the build found and what each missing part costs, when that has changed since FILE was
# written. Fails when the build cannot do without a part.
set -u
file=$1

yes() { printf '  \342\234\223 %-14s %s\n' "$1" "$2"; }
no() { printf '  \342\234\227 %-14s %s\n' "$1" "$2"; }

# library NAME PKG-CONFIG-NAMES COST
library() {
    for pc in $2; do
        if version=$(pkg-config --modversion "$pc" 2>/dev/null); then
            yes "$1" "$version"
            return
        fi
    done
    no "$1" "needed: $3. Run \`make deps\`"
}

# program NAME COMMAND COST: the version is the first number with a point that it prints
program() {
    if version=$("$2" --version 2>/dev/null); then
        yes "$1" "$(echo "$version" | sed -n 's/.*[^0-9.]\([0-9][0-9]*\.[0-9.]*[0-9]\).*/\1/p' | head -n 1)"
    else
        no "$1" "$3"
    fi
}

# needed_header NAME FILE COST: a library without a .pc file
needed_header() {
    if [ -e "/usr/include/$2" ]; then yes "$1" ''; else no "$1" "needed: $3. Run \`make deps\`"; fi
}

# header NAME FILE
header() {
    if [ -e "/usr/include/$2" ]; then yes "$1" ''; else no "$1" 'nothing is lost'; fi
}

cpu() {
    flags=$(sed -n 's/^flags[^:]*: //p;/^flags/q' /proc/cpuinfo 2>/dev/null)
    case " $flags " in
    *' avx512_bf16 '*) yes CPU 'AVX-512 with bf16 dot products' ;;
    *' avx512bw '*) yes CPU 'AVX-512; no bf16 instructions: fast mode converts' ;;
    *' avx2 '*) yes CPU 'AVX2; no AVX-512: half the vector width' ;;
    *) no CPU 'no AVX2: portable kernels, several times slower' ;;
    esac
}

found() {
    echo 'found here:'
    program gcc gcc 'needed: compiler. Run `make deps`'
    library OpenMPI 'ompi-c ompi' 'ranks'
    library libmicrohttpd libmicrohttpd 'HTTP server'
    library jansson jansson 'JSON'
    library PCRE2 libpcre2-8 'tokenizer'
    library utf8proc libutf8proc 'tokenizer'
    library xxhash libxxhash 'checksums'
    needed_header lp_solve lpsolve/lp_lib.h 'placement'
    library libcurl libcurl 'HTTP client of moetuner bench and the tests'
    library cmocka cmocka 'unit tests'
    cpu
    program clang clang 'no `make fuzz`, `make lint`: apt-get install clang clang-format clang-tidy libclang-rt-dev'
    echo 'for later, not used yet:'
    program CUDA nvcc 'nothing is lost: all backends are CPU ones'
    header NCCL nccl.h
}

list=$(found)
if ! printf '%s\n' "$list" | cmp -s - "$file"; then
    printf '%s\n' "$list"
    mkdir -p "$(dirname "$file")"
    printf '%s\n' "$list" >"$file"
fi
case $list in
*' needed: '*)
    printf '%s\n' "$list" | grep ' needed: ' >&2
    rm -f "$file"
    exit 1
    ;;
esac
