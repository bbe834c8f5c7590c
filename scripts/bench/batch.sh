# shellcheck shell=bash
# Recipients a second of long batches, sent and recorded one by one.
# bench.sh batch [ROUNDS] [OPTION]...: sourced by scripts/bench.sh; options are those of benches/dispatch.
. "$repo/scripts/lib/bench.sh"

bench() { bench_drive batch "$@"; }
