# shellcheck shell=bash
# Jobs a second from the first call to the last ack, and CPU seconds for a thousand jobs, at 0 and 30 ms of API latency, with 200 calls in flight, beside the plain reference worker.
# bench.sh throughput [ROUNDS] [OPTION]...: sourced by scripts/bench.sh; options are those of benches/dispatch.
. "$repo/scripts/lib/bench.sh"

bench() { bench_drive throughput "$@"; }
