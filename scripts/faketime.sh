#!/bin/sh
# See to it that chaos can step the clock of a server: libfaketime, unpacked into .cache and loaded into that server alone.
# Never fails: without it, chaos says so and leaves clocks alone.
set -u
cd "$(dirname "$0")/.." || exit 0

place=$PWD/.cache/faketime
for library in "$place"/usr/lib/*/faketime/libfaketime.so.1 /usr/lib/*/faketime/libfaketime.so.1; do
    [ -f "$library" ] && exit 0
done

if [ "$(id -u)" = 0 ]; then
    sudo=
else
    sudo="sudo -n"
fi

fetch() {
    apt-get -qq download libfaketime && dpkg-deb -x libfaketime_*.deb root
}

if command -v apt-get >/dev/null 2>&1; then
    echo "==> Unpacking libfaketime for the clocks of chaos"
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
*  There is no libfaketime here: CHAOS WILL NOT STEP CLOCKS. To have it do so:  *
*      Debian, Ubuntu:  sudo apt-get install libfaketime                       *
********************************************************************************
MESSAGE
exit 0
