# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=sh disable=SC2034,SC2154
# lib.sh - what the scripts of this folder share; read in with `.`, after setting `me`.

root=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-${HOME:?is not set}/.cache}/foretoken

say() { echo "$me: $*" >&2; }
die() { say "$*"; exit 1; }
# A caller counts exit code 77 as skipped, not as failed.
skip() { say "skipped: $*"; exit 77; }

# need COMMAND PACKAGE - note the package in $missing unless the command is there.
missing=
need() {
    command -v "$1" >/dev/null 2>&1 && return
    case " $missing " in *" $2 "*) ;; *) missing="$missing $2" ;; esac
}

# need_library NAME PACKAGE - the same for what pkg-config finds.
need_library() { pkg-config --exists "$1" 2>/dev/null || missing="$missing $2"; }

# install_missing - install $missing from Debian, or stop with the command to type.
install_missing() {
    [ -n "$missing" ] || { say "all Debian packages are there"; return; }
    command -v apt-get >/dev/null 2>&1 ||
        die "needs these Debian packages, and there is no apt-get:$missing"
    sudo=
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null ||
            die "needs the right to install; type: sudo apt-get install -y --no-install-recommends$missing"
        sudo=sudo
    fi
    say "installing Debian packages:$missing"
    # shellcheck disable=SC2086 # the packages are words
    { $sudo apt-get update -q &&
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing; } \
        >"$tmp/apt.log" 2>&1 || { tail -n 15 "$tmp/apt.log" >&2; die "apt-get could not install$missing"; }
}

# npm_unpack SPEC SHA512 MEMBER - fetch a package of the npm registry into $tmp, refuse it unless its
# integrity value is the given one, and take one member out of it: $tmp/MEMBER.  2: not reachable.
# npm keeps its own cache and logs in $tmp too, so that nothing stays behind.
npm_unpack() {
    say "fetching $1 with npm"
    (cd "$tmp" && npm_config_cache="$tmp/npm" npm_config_update_notifier=false npm_config_fetch_retries=1 \
        npm pack --silent "$1" >name 2>npm.log) || { tail -n 5 "$tmp/npm.log" >&2; return 2; }
    tgz=$tmp/$(tail -n 1 "$tmp/name")
    got=$(openssl dgst -sha512 -binary "$tgz" | openssl base64 -A)
    [ "$got" = "$2" ] || die "$1 has sha512 $got, expected $2; refused"
    tar -xzf "$tgz" -C "$tmp" "$3" || die "$1 has no $3"
    rm -rf "$tgz" "$tmp/npm"
}

# temporary NAME - make the folder $tmp inside the cache, removed at exit.  What killed calls left is
# removed once it is an hour old.
temporary() {
    mkdir -p "$cache"
    find "$cache" -maxdepth 1 -name ".$1-*" -mmin +60 -exec rm -rf {} +
    tmp=$cache/.$1-$$
    trap 'rm -rf "$tmp"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    mkdir "$tmp"
}
