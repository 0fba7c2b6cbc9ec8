#!/usr/bin/env bash
# Tests what other languages use: the C library as it is installed, the Python package, and transformers over a daemon
# with a tiny model of random weights. PyTorch (200 MB) is downloaded for the last. Where Python's package index cannot be
# reached, what needs it is not run, and the last line says so.
#
# usage: bash Tests/examples.sh KVSTORE     the program `kvstore`
set -euo pipefail
cd "$(dirname "$0")/.."
kvstore="$(realpath "$1")"
mkdir -p "${KVSTORE_BUILD_PATH:-.build-tests}"
build="$(realpath "${KVSTORE_BUILD_PATH:-.build-tests}")"
bash examples/install-packages.sh python3-venv

echo "== examples/c: the installed library"
prefix="$build/prefix"
KVSTORE_C_BUILD_PATH="$build/c-abi" bash examples/install.sh --prefix "$prefix"
bash examples/c/test.sh --prefix "$prefix"

not_run=()
# reachable ENVIRONMENT PACKAGE…: installs into a virtual environment.
reachable() {
    local environment="$1"
    shift
    [ -x "$environment/bin/python" ] || python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet --retries 1 "$@"
}

echo "== examples/python: the package, alone and with a daemon"
if reachable "$build/python" pytest numpy setuptools; then
    KVSTORE_PYTHON_ENVIRONMENT="$build/python" KVSTORE_DAEMON="$kvstore" \
        bash examples/python/test.sh --prefix "$prefix"
else
    not_run+=(examples/python)
fi

echo "== examples/transformers: a chat, compared bit for bit"
if reachable "$build/transformers" torch==2.13.0 "transformers>=5,<6" numpy jinja2 \
    --extra-index-url https://download.pytorch.org/whl/cpu; then
    TRANSFORMERS_PYTHON="$build/transformers/bin/python" KVSTORE_PREFIX="$prefix" KVSTORE_BIN="$kvstore" \
        bash examples/transformers/run.sh --work "$build/transformers" --test-only
else
    not_run+=(examples/transformers)
fi

[ ${#not_run[@]} -eq 0 ] || echo "NOT RUN, because Python's package index cannot be reached: ${not_run[*]}"
