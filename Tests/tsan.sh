#!/bin/sh
# Runs the concurrency tests under the thread sanitizer: a debug build of its own, with smaller counts.
# Usage: Tests/tsan.sh [filter]
set -eu
cd "$(dirname "$0")/.."
export KVSTORE_TSAN=1
export SWIFT_BACKTRACE=enable=no
# RocksDB is not built with the sanitizer: what happens inside it is not ours to judge.
suppressions="$(mktemp)"
trap 'rm -f "$suppressions"' EXIT
printf 'called_from_lib:librocksdb.so\n' > "$suppressions"
export TSAN_OPTIONS="suppressions=$suppressions halt_on_error=0 exitcode=66"
swift test --sanitize=thread -Xswiftc -DKVSTORE_TSAN --scratch-path .build-tsan --filter "${1:-ConcurrencyTests}"
