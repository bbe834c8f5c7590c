# shellcheck shell=bash
# Calls a second of the revocation of 20,000 messages, without a limit and (once, two minutes) at 200 a second.
# bench.sh revoke [ROUNDS] [OPTION]...: sourced by scripts/bench.sh; options are those of benches/dispatch.
. "$repo/scripts/lib/bench.sh"

bench() { bench_drive revoke "$@"; }
