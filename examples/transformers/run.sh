#!/usr/bin/env bash
# Installs PyTorch's CPU build and transformers outside of the repository, then tests the chat and measures it.
#
#   bash examples/transformers/run.sh [--work DIR] [options of test.py, such as --test-only, --overhead or --model DIRECTORY]
#
# Needs Python 3.11 or later, a Swift toolchain and PyPI. TRANSFORMERS_PYTHON names an environment that exists already.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
repository="$(cd "$here/../.." && pwd)"
work="${XDG_CACHE_HOME:-$HOME/.cache}/kvstore-examples/transformers"
arguments=()
while [ $# -gt 0 ]; do
    case "$1" in
        --work) work="$2"; shift ;;
        *) arguments+=("$1") ;;
    esac
    shift
done
mkdir -p "$work"
work="$(cd "$work" && pwd)"

python="${TRANSFORMERS_PYTHON:-$work/venv/bin/python}"
if [ ! -x "$python" ]; then
    python3 -m venv "$work/venv"
    "$python" -m pip install -q "torch==2.13.0" "transformers>=5,<6" numpy jinja2 \
        --extra-index-url https://download.pytorch.org/whl/cpu
fi

kvstore="${KVSTORE_PREFIX:-$work/kvstore}"
[ -e "$kvstore/lib/libkvstore_c.so" ] || bash "$repository/examples/install.sh" --prefix "$kvstore"
[ -n "${KVSTORE_BIN:-}" ] || (cd "$repository" && swift build -c release --product kvstore)
export KVSTORE_LIBRARY="$kvstore/lib/libkvstore_c.so" PYTHONPATH="$repository/examples/python"
exec "$python" "$here/test.py" ${arguments[@]+"${arguments[@]}"}
