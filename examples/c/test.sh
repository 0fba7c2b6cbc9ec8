#!/usr/bin/env bash
# Tests the installed C library: builds what is here with pkg-config as C11 and as C++17, and runs it.
#
#   bash examples/c/test.sh [--prefix DIR]
#
# DIR is where examples/install.sh has put the library; without it the library is installed into a new folder.
# KVSTORE_FUZZ_CALLS is how many random calls are made (default 200000).
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

prefix="$work/prefix"
if [ "${1:-}" = "--prefix" ]; then
    prefix="$2"
else
    bash "$root/examples/install.sh" --prefix "$prefix"
fi
export PKG_CONFIG_PATH="$prefix/lib/pkgconfig"
read -r -a flags <<< "$(pkg-config --cflags --libs kvstore)"
strict=(-Wall -Wextra -Werror -pedantic -O1)

echo "== remember.c: blocks outlive the process"
cc -std=c11 "${strict[@]}" "$root/examples/c/remember.c" "${flags[@]}" -o "$work/remember"
text="The prompt that many requests begin with, word for word: what was computed for it once is found again."
expect() {
    local found
    found="$("$work/remember" "$work/store" "$1")"
    echo "$found"
    [[ "$found" == *"$2"* ]] || { echo "expected: $2" >&2; exit 1; }
}
expect "$text" "6 blocks of 16384 bytes: 0 found (0 on disk), 6 computed"
expect "$text" "6 blocks of 16384 bytes: 6 found (6 on disk), 0 computed"
expect "${text:0:50}and then something else" "4 blocks of 16384 bytes: 3 found (3 on disk), 1 computed"

echo "== the header as C++17"
cat > "$work/cpp.cpp" <<'END'
#include <kvstore.h>
int main() { return kvstore_abi_version() == KVSTORE_ABI_VERSION ? 0 : 1; }
END
c++ -std=c++17 "${strict[@]}" "$work/cpp.cpp" "${flags[@]}" -o "$work/cpp"
"$work/cpp"

echo "== dispositions.c: the host's signal handlers stay"
cc -std=c11 "${strict[@]}" -Wno-pedantic "$root/examples/c/dispositions.c" -I"$prefix/include" -ldl \
    -o "$work/dispositions"
"$work/dispositions" "$prefix/lib/libkvstore_c.so" "$work/signals"

echo "== Tests/CABIProgram against the installed library"
cc -std=gnu11 -Wall -Wextra -Werror -O1 -pthread "$root"/Tests/CABIProgram/*.c "${flags[@]}" -o "$work/abi"
"$work/abi" lifecycle "$work/abi-store"
"$work/abi" keys
"$work/abi" negative "$work"
"$work/abi" handles
"$work/abi" fork
mkdir -p "$work/abi-fork"
"$work/abi" fork "$work/abi-fork"
"$work/abi" threads
"$work/abi" no-daemon "$work/none.sock"
"$work/abi" fuzz "${KVSTORE_SEED:-$RANDOM}" "${KVSTORE_FUZZ_CALLS:-200000}" 4 "$work/fuzz-store"
