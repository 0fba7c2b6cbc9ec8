#!/usr/bin/env bash
# Tests what other languages use: the C library as it is installed, the Python package, and transformers over a daemon
# with a tiny model of random weights. PyTorch (200 MB) is downloaded for the last. Python's package index must be
# reachable, unless what it has is installed already: a test that silently is not run would look like one that holds.
# KVSTORE_OFFLINE=1 lets the rest be tested without it, and the last line says what was not run.
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
# installed WHAT ENVIRONMENT PACKAGE…: into a virtual environment, for testing WHAT. False where that may fail and did.
installed() {
    local what="$1" environment="$2"
    shift 2
    [ -x "$environment/bin/python" ] || python3 -m venv "$environment"
    if "$environment/bin/pip" install --quiet --retries 1 "$@"; then return; fi
    if [ "${KVSTORE_OFFLINE:-}" != 1 ]; then
        echo "FAILED: $what cannot be tested, since pip cannot install what it needs; its reason stands above." >&2
        echo "Without a network set KVSTORE_OFFLINE=1: then the rest is tested, and the last line says what was not." >&2
        exit 1
    fi
    not_run+=("$what")
    return 1
}

echo "== examples/python: the package, alone and with a daemon"
export KVSTORE_DAEMON="$kvstore"
if installed examples/python "$build/python" pytest numpy mypy "setuptools>=70.1"; then
    KVSTORE_PYTHON_ENVIRONMENT="$build/python" bash examples/python/test.sh --prefix "$prefix"
fi

echo "== examples/transformers: tensors without a copy, and a chat, compared bit for bit"
if installed examples/transformers "$build/transformers" torch==2.13.0 "transformers>=5,<6" numpy jinja2 pytest mypy \
    "setuptools>=70.1" --extra-index-url https://download.pytorch.org/whl/cpu; then
    KVSTORE_TEST_TORCH=1 KVSTORE_PYTHON_ENVIRONMENT="$build/transformers" \
        bash examples/python/test.sh --prefix "$prefix" -k torch
    TRANSFORMERS_PYTHON="$build/transformers/bin/python" KVSTORE_PREFIX="$prefix" KVSTORE_BIN="$kvstore" \
        bash examples/transformers/run.sh --work "$build/transformers" --test-only
fi

[ ${#not_run[@]} -eq 0 ] || echo "NOT RUN, because of KVSTORE_OFFLINE=1 and what pip cannot install: ${not_run[*]}"
