#!/usr/bin/env bash
# From a fresh Debian machine with the Swift toolchain to the main job: installs what is missing, builds, and replays
# made-up multi-turn chats on the real store, with memory too small for them, killed in the middle with SIGKILL.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v swift >/dev/null || {
    echo "the Swift toolchain is missing: install Swift 6.3 or later from https://swift.org/install and try again" >&2
    exit 1
}
bash examples/install-packages.sh

echo "building (the first time takes some minutes, most of it in swift-crypto) …"
swift build -c release --product kvstore
kvstore="$(swift build -c release --show-bin-path)/kvstore"

directory="$(mktemp -d)"
trap 'rm -rf "$directory"' EXIT

echo
echo "== How large is the KV of a prompt? =="
"$kvstore" plan --model Llama-3-8B --tokens 8192 --memory 16GiB --disk 200GiB

echo
echo "== Chats over a store of 64 MiB memory and 1 GiB disk, killed with SIGKILL in the middle =="
"$kvstore" replay --memory 64MiB --disk 1GiB --disk-path "$directory/store" --limit 2000 --verify-restart

echo
echo "== Every record that is now on disk, checked =="
"$kvstore" verify "$directory/store"
