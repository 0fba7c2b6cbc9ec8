#!/usr/bin/env bash
# Soak: a daemon, eight clients of three tenants with three namespaces each, some of which are killed, stopped or started
# anew every second, and every byte of every hit compared. Fails on a wrong byte, and when descriptors or what the daemon
# asked for (regions, staging, heap) in the last fifth of the time are not what they were in the second. Pages of code are
# printed beside: the kernel drops and reads them again as it likes.
#
# usage: bash Tests/soak.sh [SECONDS]     600 unless given
set -euo pipefail
cd "$(dirname "$0")/.."
bash examples/install-packages.sh
export SWIFT_BACKTRACE=enable=no KVSTORE_SOAK_SECONDS="${1:-600}"
flags=(-c release -Xswiftc -enable-testing --scratch-path "${KVSTORE_BUILD_PATH:-.build-tests}")
swift build "${flags[@]}" --build-tests
swift test "${flags[@]}" --skip-build --filter SoakTests
