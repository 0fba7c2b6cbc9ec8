#!/usr/bin/env bash
# Builds the C library and installs it: lib/libkvstore_c.so, include/kvstore.h and lib/pkgconfig/kvstore.pc under DIR.
#
#   bash examples/install.sh --prefix DIR
#
# The Swift runtime is linked in statically, and the library is installed only that way: a Swift runtime that comes as
# a library of its own changes seven signal handlers of the process that loads it. KVSTORE_C_BUILD_PATH names another
# build folder than .build/c-abi.
set -euo pipefail
cd "$(dirname "$0")/.."

prefix=""
while [ $# -gt 0 ]; do
    case "$1" in
        --prefix)
            [ $# -ge 2 ] || { echo "--prefix needs a directory" >&2; exit 64; }
            prefix="$2"
            shift 2
            ;;
        --prefix=*)
            prefix="${1#--prefix=}"
            shift
            ;;
        *)
            echo "usage: bash examples/install.sh --prefix DIR" >&2
            exit 64
            ;;
    esac
done
[ -n "$prefix" ] || { echo "usage: bash examples/install.sh --prefix DIR" >&2; exit 64; }
mkdir -p "$prefix/lib/pkgconfig" "$prefix/include"
prefix="$(cd "$prefix" && pwd)"

bash examples/install-packages.sh

# Only the functions of kvstore.h are visible, so the runtime inside cannot be mixed up with another one of the process.
# These flags are given here because a package whose manifest has unsafe flags cannot be a dependency.
# nodelete: threads of the library may still run when a program calls dlclose.
build="${KVSTORE_C_BUILD_PATH:-.build/c-abi}"
mkdir -p "$build"
symbols="$(cd "$build" && pwd)/kvstore.map"
printf '{ global: kvstore_*; local: *; };\n' > "$symbols"
swift build -c release --product kvstore_c -Xswiftc -static-stdlib --scratch-path "$build" \
    -Xlinker "--version-script=$symbols" -Xlinker -z -Xlinker nodelete -Xlinker -soname -Xlinker libkvstore_c.so

version="$(sed -n 's/.*kvstore_version(void) { return "\([^"]*\)".*/\1/p' Sources/CKVStore/text.c)"
# A new file, not the old one written over: a process may have that one mapped.
library="$prefix/lib/libkvstore_c.so"
install -m 755 "$build/release/libkvstore_c.so" "$library.new"
strip --strip-unneeded "$library.new"
mv -f "$library.new" "$library"
install -m 644 Sources/CKVStore/include/kvstore.h "$prefix/include/kvstore.h"
cat > "$prefix/lib/pkgconfig/kvstore.pc" <<END
prefix=$prefix
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: kvstore
Description: A cache of the KV blocks of LLM inference
Version: $version
Libs: -L\${libdir} -lkvstore_c -Wl,-rpath,\${libdir}
Cflags: -I\${includedir}
END

if ldd "$library" | grep -qi 'libswift\|not found'; then
    echo "the library needs what it should contain, or what is missing:" >&2
    ldd "$library" | grep -i 'libswift\|not found' >&2
    exit 1
fi
foreign="$(nm -D --defined-only --extern-only "$library" | awk '{print $NF}' | grep -v '^kvstore_' || true)"
[ -z "$foreign" ] || { echo "symbols besides those of kvstore.h are visible: $foreign" >&2; exit 1; }

echo "installed kvstore $version:"
echo "  $library ($(du -h "$library" | cut -f1), $(nm -D --defined-only --extern-only "$library" | wc -l) functions)"
echo "  $prefix/include/kvstore.h"
echo "  $prefix/lib/pkgconfig/kvstore.pc"
echo "build a program with:"
echo "  export PKG_CONFIG_PATH=$prefix/lib/pkgconfig"
echo "  cc main.c \$(pkg-config --cflags --libs kvstore)"
