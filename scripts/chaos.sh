#!/usr/bin/env bash
# Kills everything under load, and counts what reached each recipient:
#
#   scripts/chaos.sh [--minutes N] [--seed S] [--workers W] [--rate JOBS_A_SECOND] [--listed-after 3m] [--json FILE]
#   scripts/chaos.sh --cluster …     RabbitMQ is a cluster of three nodes: the leader's node is killed and cut off
#   scripts/chaos.sh --acceptance [--scale 0.1] [--kills 20] [--faults-everywhere] [--seed S] [--json FILE]
#                                    20,000 sends and 20 batches of 2,000 at the workers' default settings, in 5 minutes
#   scripts/chaos.sh --release …     the release build instead of the tests'
#
# Worker processes carry mixed jobs out against the simulator of the IM API with its faults, while they are killed and
# frozen, the broker is killed, Postgres stopped as by a power cut, and connections are cut. Then everything settles, and
# the exit status is 0 only if nothing was lost, sent twice or left in doubt. The same seed gives the same jobs and the
# same schedule, though not the same moments.
#
# Always with services of its own, whatever DATABASE_URL and AMQP_URL say: they are killed. Logs are kept where something
# was wrong.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh

case " $* " in *" --cluster "*) export IMD_BROKERS=3 ;; esac
need_compiler
# Without --release the same build as the tests'.
profile=debug release=() rest=()
for argument; do
  if [[ $argument == --release ]]; then profile=release release=(--release); else rest+=("$argument"); fi
done
cargo build --quiet "${release[@]}" --all-features --bin im-dispatcher --example chaos
target=$(realpath "${CARGO_TARGET_DIR:-target}")

unset DATABASE_URL AMQP_URL
export IMD_STATE=$repo/.local/chaos-$$
logs=$repo/.local/chaos-$$-logs
passed=false
end_services() {
  scripts/services.sh down
  rm -rf "$IMD_STATE"
  if $passed; then rm -rf "$logs"; else say "logs are kept in $logs"; fi
}
at_exit end_services
scripts/services.sh up
eval "$(scripts/services.sh env)"
mkdir -p "$logs"
# Workers are started over and over: a build meanwhile must not change them.
cp "$target/$profile/im-dispatcher" "$IMD_STATE/im-dispatcher"
"$target/$profile/examples/chaos" --binary "$IMD_STATE/im-dispatcher" --directory "$logs" "${rest[@]}"
passed=true
