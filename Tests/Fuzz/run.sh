#!/usr/bin/env bash
# Fuzzes the decoding of stored records, and storing and reading back (CodecFuzz), and what a client may send to the
# daemon (FrameFuzz), with libFuzzer.
#
# usage: bash Tests/Fuzz/run.sh [--runs N] [--quick] [--address] [--only codec|frame]
#   --runs N   executions of each, 10,000,000 unless given
#   --quick    200,000 executions
#   --address  a build with the address sanitizer, about half as fast
#
# Starts from Corpus/ and FrameCorpus/, works in a folder of its own, and leaves the input of a crash in Crashes/. A fuzzer that is built
# wrongly sees no coverage and finds nothing for ever, so coverage is checked: from nothing it must grow, and from the
# corpus it must be most of the code.
set -euo pipefail
cd "$(dirname "$0")"

runs=10000000
only=
scratch=.build
while [ $# -gt 0 ]; do
    case "$1" in
        --runs) runs="${2:?--runs needs a number}"; shift ;;
        --quick) runs=200000 ;;
        --only) only="${2:?--only needs codec or frame}"; shift ;;
        --address) export KVSTORE_FUZZ_ADDRESS=1; scratch=.build-address ;;
        *) sed -n '5,8s/^# //p' "$0" >&2; exit 64 ;;
    esac
    shift
done

bash ../../examples/install-packages.sh
swift build -c release --scratch-path "$scratch"
mkdir -p Crashes

# Counters hit at the first and at the last line that libFuzzer prints.
coverage() { grep -oE 'cov: [0-9]+' "$1" | grep -oE '[0-9]+' | sed -n "$2p"; }
fail() { echo "fuzz: $1" >&2; exit 1; }

# fuzz NAME CORPUS LEAST-COVERAGE MAX-LENGTH
fuzz() {
    local fuzzer="$scratch/release/$1" work first last executed start end
    work="$(mktemp -d)"
    mkdir -p "$work/corpus" "$work/nothing"
    local flags=(-max_len="$4" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix=Crashes/)
    "$fuzzer" "${flags[@]}" -runs=20000 "$work/nothing" > "$work/growth.log" 2>&1 ||
        fail "$1: $(tail -n 20 "$work/growth.log")"
    first="$(coverage "$work/growth.log" 1)"
    last="$(coverage "$work/growth.log" '$')"
    [ "${first:-0}" -gt 0 ] && [ "${last:-0}" -gt $((2 * first)) ] ||
        fail "$1: coverage went from ${first:-none} to ${last:-none}: the code is not instrumented"

    cp "$2"/* "$work/corpus/"
    "$fuzzer" "${flags[@]}" -runs="$runs" "$work/corpus" > "$work/run.log" 2>&1 ||
        fail "$1: $(tail -n 40 "$work/run.log")"
    executed="$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/run.log")"
    start="$(coverage "$work/run.log" 1)"
    end="$(coverage "$work/run.log" '$')"
    [ "${executed:-0}" -ge "$runs" ] || fail "$1: only ${executed:-0} of $runs executions"
    [ "${end:-0}" -ge "$3" ] && [ "$end" -ge "$start" ] || fail "$1: coverage is only ${end:-0} counters"
    echo "fuzz: $1: $executed executions, coverage from nothing $first to $last, from the corpus $start to $end," \
        "$(ls "$work/corpus" | wc -l) inputs, no crash"
    rm -rf "$work"
}

[ "$only" = frame ] || fuzz CodecFuzz Corpus 500 4096
[ "$only" = codec ] || fuzz FrameFuzz FrameCorpus 200 4096
rmdir --ignore-fail-on-non-empty Crashes
