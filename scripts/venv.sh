#!/bin/sh
# Make a virtual environment with a Python that is new enough: scripts/venv.sh FOLDER. PYTHON names one to take.
set -eu
folder=$1

for candidate in ${PYTHON:-python3.11 python3 python3.14 python3.13 python3.12}; do
    # Run, not only looked up: a version manager's shim may be there without a Python behind it.
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "${python:-}" ]; then
    echo "error: unspool needs Python 3.11 or newer; looked for: ${PYTHON:-python3.11 python3 python3.14 python3.13 python3.12}" >&2
    echo "       Install one, or say where it is: make PYTHON=/path/to/python3 ..." >&2
    exit 1
fi

echo "==> Creating $folder with $("$python" --version)"
rm -rf "$folder"
if ! "$python" -m venv "$folder"; then
    rm -rf "$folder"
    echo "error: $python cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2
    exit 1
fi
