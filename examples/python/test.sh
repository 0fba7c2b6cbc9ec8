#!/usr/bin/env bash
# Tests the Python package in a virtual environment of its own: installs it there as a user would, has mypy check its
# types, and runs its tests.
#
#   bash examples/python/test.sh [--prefix DIR] [pytest arguments]
#
# DIR is where examples/install.sh has put the library; without it the library is installed into the environment.
# KVSTORE_DAEMON names the kvstore program; without it the build's is used, and made if missing. pytest, numpy, mypy and
# setuptools come from the package index, which is not asked for what is there. The test of torch tensors is skipped in an
# environment without torch; KVSTORE_TEST_TORCH=1 installs torch where it is missing, and nothing is skipped then.
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
cd "$root"

environment="${KVSTORE_PYTHON_ENVIRONMENT:-.build/python-test}"
prefix=""
if [ "${1:-}" = "--prefix" ]; then
    prefix="$2"
    shift 2
fi
[ -x "$environment/bin/python" ] || python3 -m venv "$environment"
packages=(pytest numpy mypy "setuptools>=70.1")
[ "${KVSTORE_TEST_TORCH:-}" != 1 ] || packages+=(torch)
"$environment/bin/pip" install --quiet "${packages[@]}"
if [ -z "$prefix" ]; then
    prefix="$environment"
    [ -e "$prefix/lib/libkvstore_c.so" ] || bash examples/install.sh --prefix "$prefix"
fi
"$environment/bin/pip" install --quiet --force-reinstall --no-deps --no-build-isolation ./examples/python
rm -rf examples/python/build examples/python/*.egg-info

if [ -z "${KVSTORE_DAEMON:-}" ]; then
    for candidate in .build/release/kvstore .build-tests/release/kvstore; do
        [ ! -x "$candidate" ] || KVSTORE_DAEMON="$root/$candidate"
    done
    if [ -z "${KVSTORE_DAEMON:-}" ]; then
        swift build -c release --product kvstore
        KVSTORE_DAEMON="$root/.build/release/kvstore"
    fi
fi
export KVSTORE_DAEMON
export KVSTORE_LIBRARY="$(cd "$prefix" && pwd)/lib/libkvstore_c.so"
# From another folder, so that the installed package is tested and not the one that lies here.
python="$(cd "$environment" && pwd)/bin/python"
cd examples/python/tests
"$python" -m mypy --strict --no-error-summary --cache-dir=/dev/null -p kvstore
"$python" -m mypy --strict --no-error-summary --cache-dir=/dev/null typed_use.py
"$python" -m pytest -q -p no:cacheprovider "$@"
