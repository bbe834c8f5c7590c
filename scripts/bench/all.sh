# shellcheck shell=bash
# Every part of the acceptance table, one after the other, on the same services. Takes about half an hour.
# bench.sh all [ROUNDS]: sourced by scripts/bench.sh.
. "$repo/scripts/lib/bench.sh"

bench() {
  local part
  for part in throughput latency batch revoke memory; do
    say "== $part"
    bench_drive "$part" "${1:-5}"
  done
}
