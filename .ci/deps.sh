#!/bin/sh
# Installs the packages that `make run` and `make test` need and that are missing; with the argument "all" also those of
# `make lint` and `make fuzz`. Debian 12 and Ubuntu 24.04; elsewhere it prints the list and fails. Does nothing, quickly,
# when all is there.
set -eu

NEEDED='gcc|compiler
libc6-dev|C library headers
make|build
pkg-config|finds OpenMPI and the libraries
openmpi-bin|mpirun, which starts the ranks
libopenmpi-dev|messages between ranks
libmicrohttpd-dev|HTTP server
libjansson-dev|JSON
libpcre2-dev|split patterns of tokenizers
libutf8proc-dev|Unicode normal forms of tokenizers
libxxhash-dev|checksums of experts, keys of prefixes
liblpsolve55-dev|linear and integer programmes of placement
libcurl4-openssl-dev|HTTP client of moetuner bench and the tests
libcmocka-dev|unit tests
python3|end-to-end tests
curl|the example that make run prints'

if [ "${1:-}" = all ]; then
    NEEDED="$NEEDED
git|lint: which files are ours
clang|second compiler, fuzzing
libclang-rt-dev|fuzzing, sanitizers of clang
clang-format|lint
clang-tidy|lint"
fi

missing() {
    echo "$NEEDED" | while IFS='|' read -r package purpose; do
        case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) in
        installed) ;;
        *) echo "$package|$purpose" ;;
        esac
    done
}

print() {
    echo "$1" | while IFS='|' read -r package purpose; do
        printf '  %-22s %s\n' "$package" "$purpose"
    done
}

supported() {
    [ -r /etc/os-release ] && command -v apt-get >/dev/null && command -v dpkg-query >/dev/null || return 1
    # shellcheck disable=SC1091
    case $(. /etc/os-release && echo "${ID:-} ${VERSION_ID:-}") in
    'debian 12' | 'ubuntu 24.04') return 0 ;;
    *) return 1 ;;
    esac
}

if ! supported; then
    # Whoever has installed them by other means sets DEPS=no.
    [ "${DEPS:-}" = no ] && exit 0
    echo "This is neither Debian 12 nor Ubuntu 24.04. Install what these Debian packages hold, then say DEPS=no make ...:"
    print "$NEEDED"
    exit 1
fi

wanted=$(missing)
[ -n "$wanted" ] || exit 0
echo "Installing what is missing:"
print "$wanted"
packages=$(echo "$wanted" | cut -d '|' -f 1 | tr '\n' ' ')

as_root=
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "Not root, and there is no sudo. As root: apt-get install --no-install-recommends $packages"
        exit 1
    fi
    as_root=sudo
fi

apt() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@"
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The package lists may be missing or old: they are fetched when apt cannot do without.
# shellcheck disable=SC2086
if ! apt install --no-install-recommends $packages >"$log" 2>&1; then
    if ! { apt update && apt install --no-install-recommends $packages; } >"$log" 2>&1; then
        cat "$log"
        echo "apt-get failed; see above."
        exit 1
    fi
fi
