#!/bin/sh
# See to it that the tests behind a reverse proxy have an nginx. It is unpacked into .cache, not installed: a package that
# is installed would start a server on this machine. Never fails: without one, those tests are skipped.
set -u
cd "$(dirname "$0")/.." || exit 0

place=$PWD/.cache/nginx
PATH=$PATH:/usr/sbin:/usr/local/sbin
if [ -x "$place/usr/sbin/nginx" ] || command -v nginx >/dev/null 2>&1; then
    exit 0
fi

if [ "$(id -u)" = 0 ]; then
    sudo=
else
    sudo="sudo -n"
fi

# The program itself is in one of these, by the age of the system; the others are empty, or not known there.
fetch() {
    for package in nginx nginx-light nginx-core; do
        apt-get -qq download "$package" || true
    done
    for package in *.deb; do
        [ -f "$package" ] && dpkg-deb -x "$package" root
    done
    [ -x root/usr/sbin/nginx ] && root/usr/sbin/nginx -v
}

if command -v apt-get >/dev/null 2>&1; then
    echo "==> Unpacking nginx for the tests behind a reverse proxy"
    work=$(mktemp -d)
    if (cd "$work" && { fetch || { $sudo apt-get -qq -o DPkg::Lock::Timeout=120 update && fetch; }; }) >"$work/log" 2>&1; then
        mkdir -p "$place" && cp -R "$work/root/." "$place"
        rm -rf "$work"
        exit 0
    fi
    tail -n 5 "$work/log" >&2
    rm -rf "$work"
fi

cat >&2 <<'MESSAGE'
********************************************************************************
*  There is no nginx here: THE TESTS BEHIND A REVERSE PROXY WILL BE SKIPPED.   *
*  To run them, put nginx on the PATH:                                         *
*      Debian, Ubuntu:  sudo apt-get install nginx                             *
*      Fedora:          sudo dnf install nginx                                 *
********************************************************************************
MESSAGE
exit 0
