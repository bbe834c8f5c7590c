# shellcheck shell=bash
# Memory, start-up and throughput with a million jobs waiting, a tenth of them scheduled. ROUNDS is ignored.
# bench.sh memory [ROUNDS] [OPTION]...: sourced by scripts/bench.sh; options are those of benches/dispatch.
. "$repo/scripts/lib/bench.sh"

bench() { bench_drive memory "$@"; }
