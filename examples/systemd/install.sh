#!/usr/bin/env bash
# Installs the daemon as a service of this machine and starts it.
#
#   swift build -c release --static-swift-stdlib --product kvstore
#   sudo bash examples/systemd/install.sh .build/release/kvstore
#   sudo usermod --append --groups kvclients USER          # each user that runs an engine; from its next login on
#
# Settings are then in /etc/kvstore/kvstore.yaml; one that is there already is kept. --root DIR puts everything below
# another directory, as for an image, and starts nothing.
set -euo pipefail

usage="usage: bash examples/systemd/install.sh [--root DIR] KVSTORE"
root=""
if [ "${1:-}" = --root ]; then
    root="${2:?$usage}"
    shift 2
fi
binary="${1:?$usage}"
[ $# -eq 1 ] && [ -x "$binary" ] || { echo "$usage" >&2; exit 64; }
here="$(cd "$(dirname "$0")" && pwd)"

# The service sees no home directory, so what the program needs must not lie in one.
if ldd "$binary" | grep -q 'libswift'; then
    echo "warning: $binary needs the Swift runtime of $(ldd "$binary" | awk '/libswiftCore/ {print $3}')" >&2
fi

# A new file, not the old one written over: a daemon may run it.
install -D -m 0755 "$binary" "$root/usr/local/bin/kvstore.new"
mv -f "$root/usr/local/bin/kvstore.new" "$root/usr/local/bin/kvstore"
install -D -m 0644 "$here/kvstore.sysusers.conf" "$root/etc/sysusers.d/kvstore.conf"
install -D -m 0644 -t "$root/etc/systemd/system" "$here/kvstore.service" "$here/kvstore.socket"
[ -e "$root/etc/kvstore/kvstore.yaml" ] || install -D -m 0644 "$here/kvstore.yaml" "$root/etc/kvstore/kvstore.yaml"
systemd-sysusers --root="${root:-/}" kvstore.conf

"$root/usr/local/bin/kvstore" serve --config "$root/etc/kvstore/kvstore.yaml" --check-config
if [ -z "$root" ]; then
    systemctl daemon-reload
    systemctl enable kvstore.socket kvstore.service
    # A socket does not start while its service runs.
    systemctl stop kvstore.service kvstore.socket
    systemctl start kvstore.socket kvstore.service
    systemctl --no-pager --lines=0 status kvstore.service
fi
