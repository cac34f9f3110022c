#!/bin/sh
# clean-root.sh ROOT COMMAND...: proves the two commands of README.md on a fresh Debian 12. Makes a minimal system in the
# folder ROOT (once; git, make and ca-certificates are all that is added), clones this repository's HEAD into it, and
# runs COMMAND there, in a process and mount namespace of its own: nothing outlives it. Needs root and debootstrap; uses
# this machine's apt sources and proxy settings.
#
#   .ci/clean-root.sh /var/tmp/moetuner-root make test
#   .ci/clean-root.sh /var/tmp/moetuner-root .ci/try-run.sh      (make run, its curl, Ctrl-C, leftovers)
#
# FRESH=1 unpacks ROOT again from the archive that the first call kept beside it (ROOT.tar).
set -eu

[ $# -ge 2 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }
root=$1
shift
repo=$(cd "$(dirname "$0")/.." && pwd)

make_root() {
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
    debootstrap --variant=minbase --include=git,make,ca-certificates bookworm "$root" "${mirror:?no apt source}" \
        >"$root.log" 2>&1 || { tail -n 20 "$root.log"; exit 1; }
    rm -f "$root"/etc/apt/sources.list
    # Sources, and whatever apt was told about how to reach them.
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources \
        $(grep -l Acquire /etc/apt/apt.conf.d/* 2>/dev/null) /usr/local/share/ca-certificates/*.crt; do
        [ -f "$file" ] && install -D -m 644 "$file" "$root$file"
    done
    chroot "$root" update-ca-certificates >>"$root.log" 2>&1
    rm -rf "$root"/var/lib/apt/lists/* # as on an image: `make deps` has to fetch them
    tar -C "$root" --one-file-system -cf "$root.tar" .
}

if [ ! -e "$root.tar" ]; then
    make_root
elif [ "${FRESH:-}" = 1 ] || [ ! -d "$root" ]; then
    rm -rf --one-file-system "$root"
    mkdir -p "$root"
    tar -C "$root" -xf "$root.tar"
fi
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"

mkdir -p "$root/mnt/repo"
export root repo
# shellcheck disable=SC2016
unshare --mount --pid --fork --kill-child sh -eu -c '
    mount --make-rprivate /
    mount -t proc proc "$root/proc"
    mount --bind /dev "$root/dev"
    mount --bind -o ro /sys "$root/sys"
    mkdir -p "$root/dev/shm"
    mount -t tmpfs tmpfs "$root/dev/shm"
    mount --bind -o ro "$repo" "$root/mnt/repo"
    exec env -i TERM="${TERM:-dumb}" HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        http_proxy="${http_proxy:-}" https_proxy="${https_proxy:-}" \
        chroot "$root" /bin/sh -eu -c "
            rm -rf /root/moetuner
            git -c safe.directory=/mnt/repo -c safe.directory=/mnt/repo/.git clone -q /mnt/repo /root/moetuner
            cd /root/moetuner
            exec \"\$@\"" sh "$@"' sh "$@"
