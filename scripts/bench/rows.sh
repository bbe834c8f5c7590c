# shellcheck shell=bash
# Lookups by job, group and recipient, and the cost of claims, with tens of millions of rows (20 million take about 15 GB and a
# quarter of an hour to write). The plans of every lookup are kept in target/bench/rows.plans.txt.
# bench.sh rows [ROWS]: sourced by scripts/bench.sh.
. "$repo/scripts/lib/bench.sh"

bench() {
  bench_services
  bench_drive rows 1 --jobs "${1:-20000000}" --postgres-log "$bench_state/services/postgres/log"
}
