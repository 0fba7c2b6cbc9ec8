#!/usr/bin/env bash
# Installs the Debian packages that kvstore links against, and those that are named, if any is missing. Asks for nothing
# when all are there.
set -euo pipefail

packages=(librocksdb-dev liblz4-dev libzstd-dev libxxhash-dev zlib1g-dev pkg-config "$@")
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

echo "installing: ${missing[*]}"
run=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
        echo "not root and no sudo; install these packages yourself: ${missing[*]}" >&2
        exit 1
    }
    run=(sudo)
fi
"${run[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${run[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
