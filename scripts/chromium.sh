#!/bin/sh
# See to it that the browser tests have a Chromium. Never fails: without one, those tests are skipped.
set -u

for name in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$name" >/dev/null 2>&1; then
        exit 0
    fi
done

if [ "$(id -u)" = 0 ]; then
    sudo=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    sudo="sudo -n"
else
    sudo=none
fi

if [ "$sudo" != none ] && command -v apt-get >/dev/null 2>&1; then
    echo "==> Installing Chromium for the browser tests (a minute or two)"
    log=$(mktemp)
    if {
        $sudo apt-get -qq -o DPkg::Lock::Timeout=120 update &&
            $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=120 \
                install --no-install-recommends chromium fonts-liberation fonts-noto-color-emoji
    } >"$log" 2>&1 && command -v chromium >/dev/null 2>&1; then
        rm -f "$log"
        exit 0
    fi
    tail -n 5 "$log" >&2
    rm -f "$log"
fi

cat >&2 <<'MESSAGE'
********************************************************************************
*  There is no Chromium here: THE BROWSER TESTS WILL BE SKIPPED.               *
*  To run them, put chromium or google-chrome on the PATH:                     *
*      Debian, Ubuntu:  sudo apt-get install chromium                          *
*      Fedora:          sudo dnf install chromium                              *
********************************************************************************
MESSAGE
exit 0
