#!/bin/sh
# All tests: those with other people's clients, which mostly wait for one another, beside the rest. `test.sh PYTHON`.
set -u
cd "$(dirname "$0")/.." || exit 1
log=$(mktemp)
trap 'rm -f "$log"' EXIT

"$1" -m pytest tests/interop >"$log" 2>&1 &
interop=$!
"$1" -m pytest --ignore=tests/interop
status=$?
wait "$interop" || status=1
echo "==> Clients and proxies that others have written"
cat "$log"
exit "$status"
