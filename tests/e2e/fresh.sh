#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# fresh.sh - proves that a bare Debian 12 is enough: debootstrap, clone, scripts/check, scripts/demo.
#
# Usage    tests/e2e/fresh.sh FOLDER [setup|check|demo|all]   by hand, as root; not part of ctest
#
# FOLDER is made by debootstrap (minbase) unless it holds a system already, and is kept.  The last
# commit of this repository is cloned into it.  The host's settings for apt, npm and pip and its own
# certificates go with it, where there are any.  Each script runs twice: the second set-up must be quick.
set -eu
me=fresh
here=$(cd "$(dirname "$0")/../.." && pwd)
say() { echo "$me: $*" >&2; }
die() { say "$*"; exit 1; }

[ $# -ge 1 ] || die "usage: tests/e2e/fresh.sh FOLDER [setup|check|demo|all]"
what=${2:-all}
[ "$(id -u)" -eq 0 ] || die "must run as root"
command -v debootstrap >/dev/null || die "needs debootstrap; type: apt-get install -y debootstrap"
mkdir -p "$1"
folder=$(cd "$1" && pwd)
[ "$folder" != / ] || die "FOLDER is the root of this system"

if [ ! -e "$folder/etc/debian_version" ]; then
    # The mirror this host uses, if it says so; else debootstrap's own choice.
    mirror=$(apt-get indextargets --format '$(SITE) $(RELEASE)' 2>/dev/null |
        awk '$2 == "bookworm" { print $1; exit }')
    say "debootstrap bookworm in $folder"
    # shellcheck disable=SC2086 # no mirror is no argument
    debootstrap --variant=minbase bookworm "$folder" $mirror >"$folder.log" 2>&1 ||
        { tail -n 20 "$folder.log" >&2; die "debootstrap failed"; }
    rm -f "$folder.log"
fi

copy() { # FILE_OR_FOLDER - from the host, to the same place
    [ -e "$1" ] || return 0
    mkdir -p "$folder$(dirname "$1")"
    cp -aL "$1" "$folder$(dirname "$1")/"
}
copy /etc/resolv.conf
copy /etc/hosts
for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources /etc/apt/apt.conf.d/*proxy* \
    /etc/apt/apt.conf.d/99* /etc/npmrc /root/.npmrc /etc/pip.conf /root/.config/pip/pip.conf \
    /usr/local/share/ca-certificates /etc/ssl/certs/ca-certificates.crt; do
    copy "$file"
done
[ ! -e "$folder/etc/apt/sources.list.d/debian.sources" ] || rm -f "$folder/etc/apt/sources.list"
# What is in the environment of a login here must not help there, except for the way out.
settings="HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY PIP_INDEX_URL PIP_CERT \
    NODE_EXTRA_CA_CERTS npm_config_registry; do
    eval "value=\${$name-}"
    [ -z "$value" ] || settings="$settings $name=$value"
done

# leave - unmount, whatever happened.
leave() {
    for mount in dev/shm dev proc sys; do
        umount "$folder/$mount" 2>/dev/null || true
    done
}
trap leave EXIT
trap 'exit 130' INT TERM
for mount in proc sys dev; do
    mkdir -p "$folder/$mount"
    mountpoint -q "$folder/$mount" || mount --bind "/$mount" "$folder/$mount"
done

project=/root/foretoken
rm -rf "$folder$project"
git clone --quiet --no-hardlinks "$here" "$folder$project"

# in_there COMMAND - run it in the project inside the folder, with nothing inherited.
in_there() {
    # shellcheck disable=SC2086 # the settings are words
    chroot "$folder" /usr/bin/env -i $settings /bin/sh -c "cd $project && $1"
}

run_twice() {
    say "first $1"
    in_there "$1"
    start=$(date +%s)
    say "second $2"
    in_there "$2"
    seconds=$(($(date +%s) - start))
    [ "$seconds" -lt 10 ] || die "the second $2 took $seconds s, expected less than 10"
    say "the second $2 took $seconds s"
}
case $what in
setup)
    run_twice "scripts/check --setup" "scripts/check --setup"
    run_twice "scripts/demo --setup" "scripts/demo --setup"
    ;;
check) run_twice scripts/check "scripts/check --setup" ;;
demo) run_twice scripts/demo "scripts/demo --setup" ;;
all)
    run_twice scripts/check "scripts/check --setup"
    run_twice scripts/demo "scripts/demo --setup"
    ;;
*) die "unknown argument '$what'; usage: tests/e2e/fresh.sh FOLDER [setup|check|demo|all]" ;;
esac

# Besides Debian packages only build/ and the cache folder may have grown.
left=$(find "$folder/root" "$folder/tmp" -mindepth 1 -maxdepth 1 ! -name foretoken ! -name .cache \
    ! -name .npmrc ! -name .config ! -name .bashrc ! -name .profile ! -name .wget-hsts; find "$folder/root/.cache" -mindepth 1 -maxdepth 1 ! -name foretoken)
[ -z "$left" ] || die "left behind: $left"
extra=$(git -C "$folder$project" status --porcelain)
[ -z "$extra" ] || die "the scripts changed the checkout: $extra"
say "a bare Debian 12 is enough"
