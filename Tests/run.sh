#!/usr/bin/env bash
# All tests. --full runs the large counts of the crash, damage and model tests and writes their table.
#
# Tests are built optimised: the model tests run thousands of seeds and the crash tests need real load. Preconditions
# stay on in that build. KVSTORE_BUILD_PATH names another build folder than .build-tests.
set -euo pipefail
cd "$(dirname "$0")/.."

full=false
for argument in "$@"; do
    case "$argument" in
        --full) full=true ;;
        *)
            echo "usage: bash Tests/run.sh [--full]" >&2
            exit 64
            ;;
    esac
done

bash examples/install-packages.sh
export SWIFT_BACKTRACE=enable=no
flags=(-c release -Xswiftc -enable-testing --scratch-path "${KVSTORE_BUILD_PATH:-.build-tests}")
swift build "${flags[@]}" --build-tests

log="$(mktemp)"
trap 'rm -f "$log"' EXIT

if ! $full; then
    # Hundreds of lines follow a failure; whoever looks at the end of the output must see it there.
    if ! swift test "${flags[@]}" --skip-build 2>&1 | tee "$log"; then
        echo "What failed:"
        grep -A 3 '^✘.*recorded an issue' "$log" || tail -n 20 "$log"
        exit 1
    fi
    bash Tests/examples.sh "$(swift build "${flags[@]}" --show-bin-path)/kvstore"
    exit
fi

# The crash and damage tests first and alone: they are what the table is about.
export KVSTORE_FULL=1
swift test "${flags[@]}" --skip-build --filter IntegrationTests 2>&1 | tee "$log"
{
    echo "# Full test run"
    echo
    echo "Commit $(git rev-parse --short HEAD), $(date -u +%Y-%m-%d), $(nproc) cores. Made by \`bash Tests/run.sh --full\`."
    echo
    echo "| test | cycles | checked | lost | wrong | crashes | slowest reopen, ms |"
    echo "|---|---|---|---|---|---|---|"
    grep -o 'TABLE .*' "$log" | sed -E 's/^TABLE //; s/ +/ | /g; s/^/| /; s/$/ |/'
} > Tests/FULL-RUN.md
cat Tests/FULL-RUN.md
swift test "${flags[@]}" --skip-build --skip IntegrationTests
