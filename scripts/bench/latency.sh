# shellcheck shell=bash
# Publish to call and publish to record, idle and at a thousand jobs a second, beside the plain reference worker.
# bench.sh latency [ROUNDS] [OPTION]...: sourced by scripts/bench.sh; options are those of benches/dispatch.
. "$repo/scripts/lib/bench.sh"

bench() { bench_drive latency "$@"; }
