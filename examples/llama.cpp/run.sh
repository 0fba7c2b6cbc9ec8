#!/usr/bin/env bash
# Builds everything for the llama.cpp example outside of the repository, tests it and measures it.
#
#   bash examples/llama.cpp/run.sh [--work DIR] [--model FILE.gguf] [--json FILE] [--test-only | --overhead]
#
# Needs g++, Python 3.11 or later, a Swift toolchain and PyPI. The first time takes about 10 minutes, most of them for
# llama.cpp, which is built from the sources in llama-cpp-python's release (or LLAMA_SOURCE) and kept in DIR.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
repository="$(cd "$here/../.." && pwd)"
work="${XDG_CACHE_HOME:-$HOME/.cache}/kvstore-examples/llama.cpp"
arguments=()
while [ $# -gt 0 ]; do
    case "$1" in
        --work) work="$2"; shift 2 ;;
        *) arguments+=("$1"); shift ;;
    esac
done
release=0.3.36
mkdir -p "$work"
work="$(cd "$work" && pwd)"

python="$work/venv/bin/python"
[ -x "$python" ] || python3 -m venv "$work/venv"
"$python" -c 'import gguf, cmake, ninja' 2>/dev/null || "$python" -m pip install -q cmake ninja gguf numpy

source="${LLAMA_SOURCE:-$work/llama_cpp_python-$release/vendor/llama.cpp}"
if [ ! -d "$source" ]; then
    (cd "$work" && "$python" -m pip download -q --no-deps --no-binary llama-cpp-python "llama-cpp-python==$release")
    tar -xzf "$work/llama_cpp_python-$release.tar.gz" -C "$work"
fi
if [ ! -e "$work/llama/bin/libllama.so" ]; then
    echo "building llama.cpp (five to ten minutes) …"
    PATH="$work/venv/bin:$PATH" cmake -G Ninja -S "$source" -B "$work/llama" -DCMAKE_BUILD_TYPE=Release \
        -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=ON -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF \
        -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF >"$work/cmake.log" 2>&1
    PATH="$work/venv/bin:$PATH" cmake --build "$work/llama" --target llama >>"$work/cmake.log" 2>&1
fi

kvstore="${KVSTORE_PREFIX:-$work/kvstore}"
[ -e "$kvstore/lib/libkvstore_c.so" ] || bash "$repository/examples/install.sh" --prefix "$kvstore"
[ -n "${KVSTORE_BIN:-}" ] || (cd "$repository" && swift build -c release --product kvstore)

program="$work/llama_kvstore"
if [ ! -e "$program" ] || [ "$here/llama_kvstore.cpp" -nt "$program" ]; then
    flags="$(PKG_CONFIG_PATH="$kvstore/lib/pkgconfig" pkg-config --cflags --libs kvstore)"
    # shellcheck disable=SC2086
    g++ -std=c++17 -O2 -Wall -Wextra -Wpedantic "$here/llama_kvstore.cpp" -o "$program" \
        -I "$source/include" -I "$source/ggml/include" -L "$work/llama/bin" -lllama -lggml -lggml-base \
        -Wl,-rpath,"$work/llama/bin" $flags
fi
exec "$python" "$here/test.py" --program "$program" --work "$work" ${arguments[@]+"${arguments[@]}"}
