#!/usr/bin/env bash
# From a fresh Debian machine with the Swift toolchain to the main job: installs what is missing, builds, starts a
# daemon that two processes share and that is killed with SIGKILL, runs a Llama that keeps its KV in the store and is
# killed as well, and replays made-up multi-turn chats on the real store, with memory too small for them.
#
# usage: bash examples/quickstart.sh [--model DIR]     a Hugging Face Llama; without it, one with random weights is made
set -euo pipefail
model=()
case "$#:${1:-}" in
    0:) ;;
    2:--model) model=(--model "$(realpath "$2")") ;;
    *)
        echo "usage: bash examples/quickstart.sh [--model DIR]" >&2
        exit 64
        ;;
esac
cd "$(dirname "$0")/.."

command -v swift >/dev/null || {
    echo "the Swift toolchain is missing: install Swift 6.3 or later from https://swift.org/install and try again" >&2
    exit 1
}
bash examples/install-packages.sh

echo "building (the first time takes some minutes, most of it in swift-crypto) …"
swift build -c release --product kvstore
swift build -c release --product swift-llama
built="$(swift build -c release --show-bin-path)"
kvstore="$built/kvstore"

directory="$(mktemp -d)"
socket="$directory/kvstore.sock"
daemon=
cleanup() {
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    rm -rf "$directory"
}
trap cleanup EXIT

start_daemon() {
    "$kvstore" serve --socket "$socket" --state-directory "$directory/state" --memory 256MiB --disk-capacity 1GiB \
        --write-back-delay 1s --log-level warning &
    daemon=$!
    for _ in $(seq 100); do
        "$kvstore" ping --socket "$socket" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "the daemon does not answer at $socket" >&2
    exit 1
}

echo
echo "== How large is the KV of a prompt? =="
"$kvstore" plan --model Llama-3-8B --tokens 8192 --memory 16GiB --disk 200GiB

echo
echo "== One daemon, two engine processes that share a system prompt =="
start_daemon
# Fails when a later user of the same system prompt finds nothing.
expect_hits() { # NAME
    grep -q "found .* blocks" "$directory/$1" && grep -q " 0 wrong bytes" "$directory/$1" || {
        echo "the system prompt should have been found" >&2
        exit 1
    }
}
"$kvstore" request --socket "$socket" --user 1
"$kvstore" request --socket "$socket" --user 2 | tee "$directory/second"
expect_hits second

echo
echo "== The daemon is killed with SIGKILL, after the write-back delay and without a flush, and started again =="
sleep 3
kill -9 "$daemon"
wait "$daemon" 2>/dev/null || true
start_daemon
sleep 1
"$kvstore" request --socket "$socket" --user 3 | tee "$directory/third"
expect_hits third
"$kvstore" stats --socket "$socket"

echo
echo "== A Llama over the store: cold, from memory, from disk after SIGKILL, with a damaged file; answers are compared =="
"$built/swift-llama" demo --rounds 1 ${model[@]+"${model[@]}"}

echo
echo "== Chats over a store of 64 MiB memory and 1 GiB disk, killed with SIGKILL in the middle =="
"$kvstore" replay --memory 64MiB --disk 1GiB --disk-path "$directory/store" --limit 2000 --verify-restart

echo
echo "== Every record that is now on disk, checked =="
"$kvstore" verify "$directory/store"
